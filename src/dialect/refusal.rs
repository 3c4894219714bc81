//! What an upstream's refusal means: one classification for the error bodies of every dialect.
//!
//! Dialects read their own bodies into a [`Refusal`]; the words that providers use for the same thing are gathered in one
//! table, [`WORDINGS`]. Codes are compared whole and messages by phrases that stand in no message about something else:
//! providers repeat what callers sent, so a single word proves nothing. `tests/fixtures/dialect/refusals/` has a body for
//! every row.

use std::time::Duration;

use crate::fault::{Fault, Kind, Refusal};

/// How a provider says something.
#[derive(Debug)]
enum Says {
    /// Its `type`, `status` or `code` is this, whatever the case.
    Code(&'static str),
    /// Its message holds all of these, in lower case.
    Words(&'static [&'static str]),
    /// Its message begins with the first and holds the second.
    Begins(&'static str, &'static str),
}

use Says::{Begins, Code, Words};

/// Statuses under which a meaning comes. 200 stands for an error inside a stream.
/// Longest wait that is taken over from a provider: what is longer says that it will not do, and clocks have an end.
const MAX_WAIT: Duration = Duration::from_secs(86_400);

const CONTEXT: &[u16] = &[200, 400, 413, 422, 429, 500];
const POLICY: &[u16] = &[200, 400, 403, 422];
const QUOTA: &[u16] = &[200, 400, 403, 429];
const SUSPENDED: &[u16] = &[412];
const FORBIDDEN: &[u16] = &[200, 400];
const MISCALLED: &[u16] = &[200, 400];
const CREDENTIAL: &[u16] = &[200, 400, 403];
const MODEL: &[u16] = &[200, 400, 422];
const BUSY: &[u16] = &[200, 429, 498, 500];

/// Who says what, and what it means. The first row that fits counts. Sources: the providers' error references and what
/// their servers were seen to send.
const WORDINGS: &[(Kind, &[u16], Says)] = &[
    // OpenAI, Azure, Groq, Fireworks: https://platform.openai.com/docs/guides/error-codes
    (Kind::ContextLength, CONTEXT, Code("context_length_exceeded")),
    (Kind::ContextLength, CONTEXT, Code("string_above_max_length")),
    // OpenAI, DeepSeek, OpenRouter, vLLM, SGLang, Together: "This model's maximum context length is 8192 tokens."
    (Kind::ContextLength, CONTEXT, Words(&["maximum context length is", "tokens"])),
    // OpenAI Responses: "Your input exceeds the context window of this model."
    (Kind::ContextLength, CONTEXT, Words(&["input exceeds the context window"])),
    // OpenAI, Groq: a single request above the account's tokens a minute; no wait makes it fit.
    (Kind::ContextLength, CONTEXT, Words(&["request too large for", "tokens per min"])),
    // Anthropic: https://docs.anthropic.com/en/api/errors
    (Kind::ContextLength, CONTEXT, Words(&["prompt is too long", "tokens >"])),
    (Kind::ContextLength, CONTEXT, Words(&["input length and `max_tokens` exceed context limit"])),
    // Gemini, Vertex: "The input token count (…) exceeds the maximum number of tokens allowed (…)."
    (Kind::ContextLength, CONTEXT, Words(&["input token count", "exceeds the maximum number of tokens allowed"])),
    // Bedrock: https://docs.aws.amazon.com/bedrock/latest/userguide/troubleshooting-api-error-codes.html
    (Kind::ContextLength, CONTEXT, Words(&["input is too long for requested model"])),
    // Mistral: "Prompt contains 40123 tokens and 0 draft tokens, too large for model with 32768 maximum context length"
    (Kind::ContextLength, CONTEXT, Words(&["prompt contains", "too large for model with", "maximum context length"])),
    // Cohere: https://docs.cohere.com/reference/errors
    (Kind::ContextLength, CONTEXT, Begins("too many tokens: ", "tokens in the prompt cannot exceed")),
    (Kind::ContextLength, CONTEXT, Begins("too many tokens: ", "size limit exceeded")),
    // llama.cpp: tools/server/server.cpp
    (Kind::ContextLength, CONTEXT, Code("exceed_context_size_error")),
    (Kind::ContextLength, CONTEXT, Words(&["exceeds the available context size"])),
    // Ollama: server/routes.go
    (Kind::ContextLength, CONTEXT, Words(&["input length exceeds the context length"])),
    // Hugging Face TGI: "`inputs` tokens + `max_new_tokens` must be <= 4096."
    (Kind::ContextLength, CONTEXT, Words(&["`inputs` tokens + `max_new_tokens` must be <="])),
    // xAI: "This model's maximum prompt length is 131072 but the request contains 180000 tokens."
    (Kind::ContextLength, CONTEXT, Words(&["maximum prompt length is", "the request contains"])),
    // Moonshot: "Invalid request: Your request exceeded model token limit: 262144 (requested: 269030)"
    (Kind::ContextLength, CONTEXT, Words(&["exceeded model token limit:", "requested:"])),
    // Fireworks: "The prompt is too long: 140000, model maximum context length: 131071"
    (Kind::ContextLength, CONTEXT, Words(&["prompt is too long:", "model maximum context length:"])),
    // OpenAI: safety refusals of images and of reasoning models.
    (Kind::ContentPolicy, POLICY, Code("content_policy_violation")),
    (Kind::ContentPolicy, POLICY, Code("invalid_prompt")),
    (Kind::ContentPolicy, POLICY, Code("moderation_blocked")),
    (Kind::ContentPolicy, POLICY, Words(&["rejected as a result of our safety system"])),
    // Azure: https://learn.microsoft.com/azure/ai-services/openai/concepts/content-filter
    (Kind::ContentPolicy, POLICY, Code("content_filter")),
    (Kind::ContentPolicy, POLICY, Code("responsibleaipolicyviolation")),
    (Kind::ContentPolicy, POLICY, Words(&["azure openai's content management policy"])),
    // Anthropic, also by way of Bedrock.
    (Kind::ContentPolicy, POLICY, Words(&["output blocked by content filtering policy"])),
    // Vertex: https://cloud.google.com/vertex-ai/generative-ai/docs/multimodal/configure-safety-filters
    (Kind::ContentPolicy, POLICY, Words(&["violate google's responsible ai practices"])),
    // OpenRouter: https://openrouter.ai/docs/api-reference/errors
    (Kind::ContentPolicy, POLICY, Words(&["requires moderation on", "your input was flagged for"])),
    // DeepSeek, DashScope.
    (Kind::ContentPolicy, POLICY, Words(&["content exists risk"])),
    (Kind::ContentPolicy, POLICY, Code("data_inspection_failed")),
    // Cohere: "blocked output: please check your prompt"
    (Kind::ContentPolicy, POLICY, Begins("blocked output", "")),
    (Kind::ContentPolicy, POLICY, Begins("blocked input", "")),
    // OpenAI: the account is empty, as against "too fast".
    (Kind::QuotaExceeded, QUOTA, Code("insufficient_quota")),
    (Kind::QuotaExceeded, QUOTA, Code("billing_hard_limit_reached")),
    (Kind::QuotaExceeded, QUOTA, Code("billing_not_active")),
    // OpenAI, Gemini: "You exceeded your current quota, please check your plan and billing details."
    (Kind::QuotaExceeded, QUOTA, Words(&["exceeded your current quota"])),
    // Anthropic.
    (Kind::QuotaExceeded, QUOTA, Code("billing_error")),
    (Kind::QuotaExceeded, QUOTA, Words(&["your credit balance is too low"])),
    (Kind::QuotaExceeded, QUOTA, Words(&["reached your specified api usage limits"])),
    // Bedrock: "Too many tokens per day, please wait before trying again."
    (Kind::QuotaExceeded, QUOTA, Begins("too many tokens per day", "")),
    // Cohere: trial keys. "… limited to 1000 API calls / month …"
    (Kind::QuotaExceeded, QUOTA, Words(&["using a trial key", "api calls / month"])),
    // OpenRouter.
    (Kind::QuotaExceeded, QUOTA, Begins("rate limit exceeded: free-models-per-day", "")),
    // Moonshot.
    (Kind::QuotaExceeded, QUOTA, Code("exceeded_current_quota_error")),
    // Z.AI, code 1113.
    (Kind::QuotaExceeded, QUOTA, Words(&["insufficient balance or no resource package"])),
    // Fireworks: "Account … is suspended, possibly due to reaching the monthly spending limit …"
    (Kind::QuotaExceeded, SUSPENDED, Begins("account ", " is suspended")),
    // OpenAI and compatible servers.
    (Kind::UpstreamCredential, CREDENTIAL, Code("invalid_api_key")),
    (Kind::UpstreamCredential, CREDENTIAL, Begins("incorrect api key provided", "")),
    (Kind::UpstreamCredential, CREDENTIAL, Code("authentication_error")),
    // Gemini: https://ai.google.dev/gemini-api/docs/troubleshooting
    (Kind::UpstreamCredential, CREDENTIAL, Code("api_key_invalid")),
    (Kind::UpstreamCredential, CREDENTIAL, Begins("api key not valid", "")),
    (Kind::UpstreamCredential, CREDENTIAL, Begins("your api key was reported as leaked", "")),
    // Bedrock.
    (Kind::UpstreamCredential, CREDENTIAL, Words(&["the security token included in the request is"])),
    // Groq.
    (Kind::UpstreamCredential, CREDENTIAL, Code("organization_restricted")),
    // Gemini: the gateway stands where it does not serve.
    (Kind::UpstreamForbidden, FORBIDDEN, Begins("user location is not supported", "")),
    // Groq: the model wrote a call that cannot be read; asked once more it may not.
    (Kind::UpstreamError, MISCALLED, Code("tool_use_failed")),
    // Models under a status that says something else.
    (Kind::UpstreamNotFound, MODEL, Code("model_not_found")),
    // Mistral, OpenRouter, DeepSeek, Bedrock.
    (Kind::UpstreamNotFound, MODEL, Code("invalid_model")),
    (Kind::UpstreamNotFound, MODEL, Words(&["is not a valid model id"])),
    (Kind::UpstreamNotFound, MODEL, Begins("model not exist", "")),
    (Kind::UpstreamNotFound, MODEL, Words(&["the provided model identifier is invalid"])),
    // Anthropic's streams, Groq's flex tier, Gemini, OpenAI.
    (Kind::Overloaded, BUSY, Code("overloaded_error")),
    (Kind::Overloaded, BUSY, Code("capacity_exceeded")),
    (Kind::Overloaded, BUSY, Code("unavailable")),
    (Kind::Overloaded, BUSY, Words(&["model is currently overloaded"])),
    // Only streams need a code for it: elsewhere the status is 429.
    (Kind::RateLimited, &[200], Code("rate_limit_error")),
    (Kind::RateLimited, &[200], Code("rate_limit_exceeded")),
    (Kind::RateLimited, &[200], Code("resource_exhausted")),
    (Kind::UpstreamRejected, &[200], Code("invalid_request_error")),
    (Kind::UpstreamRejected, &[200], Code("invalid_argument")),
];

/// What an adapter may say of a refusal in the gateway's own codes: those that speak of an upstream's answer.
const OWN: &[Kind] = &[
    Kind::ContextLength,
    Kind::ContentPolicy,
    Kind::RateLimited,
    Kind::QuotaExceeded,
    Kind::Overloaded,
    Kind::UpstreamRejected,
    Kind::UpstreamForbidden,
    Kind::UpstreamNotFound,
    Kind::UpstreamCredential,
    Kind::UpstreamError,
];

/// The longest wait that an adapter's word is taken for: nobody is believed for longer, see `state::health`.
const MAX_TOLD: Duration = Duration::from_secs(3600);

/// A refusal in an adapter's words, ready to be classified. What it names by one of the gateway's own codes is that.
pub fn told(mut said: Refusal) -> Refusal {
    let words = || [&said.code, &said.kind].into_iter().flatten();
    let says = |code: &str| words().any(|word| word.eq_ignore_ascii_case(code));
    // What callers are told of a model that the gateway does not have, an upstream may not have either.
    let lacks = says(Kind::ModelNotFound.row().code).then_some(Kind::UpstreamNotFound);
    said.means = OWN.iter().find(|kind| says(kind.row().code)).copied().or(lacks);
    said.retry_after = said.retry_after.map(|wait| wait.min(MAX_TOLD));
    said
}

/// A refusal that an adapter read in an answer with this status. Where it states another one, such as for a provider that
/// answers 400 to whoever asks too often, the meaning goes by that; the status itself is a fact.
pub fn read(mut said: Refusal, status: u16) -> Refusal {
    if said.means.is_none() && said.status != status && (400..600).contains(&said.status) {
        said.means = Some(classify(&said));
    }
    said.status = status;
    said
}

/// Names what a refusal with this status means.
pub fn classify(refusal: &Refusal) -> Kind {
    if let Some(kind) = refusal.means {
        return kind;
    }
    let told = || {
        let message = refusal.message.to_lowercase();
        let fits = |says: &Says| says.fits(refusal, &message);
        let rows = WORDINGS.iter().filter(|(_, statuses, _)| statuses.contains(&refusal.status));
        rows.filter(|(_, _, says)| fits(says)).map(|(kind, ..)| *kind).next()
    };
    match refusal.status {
        401 => Kind::UpstreamCredential,
        402 => Kind::QuotaExceeded,
        // Gemini has the same words for an empty account and for too many requests; only the latter is worth a wait.
        429 if refusal.retry_after.is_some() => match told() {
            Some(kind) if kind != Kind::QuotaExceeded => kind,
            _ => Kind::RateLimited,
        },
        status => told().unwrap_or(match status {
            429 => Kind::RateLimited,
            403 => Kind::UpstreamForbidden,
            404 => Kind::UpstreamNotFound,
            503 | 529 => Kind::Overloaded,
            // It ran out of time or into another request; asked once more it may not.
            408 | 409 => Kind::UpstreamError,
            400..=499 => Kind::UpstreamRejected,
            _ => Kind::UpstreamError,
        }),
    }
}

impl Says {
    fn fits(&self, refusal: &Refusal, message: &str) -> bool {
        match self {
            Code(code) => [&refusal.kind, &refusal.code].into_iter().flatten().any(|is| is.eq_ignore_ascii_case(code)),
            Words(all) => all.iter().all(|words| message.contains(words)),
            Begins(first, then) => message.starts_with(first) && message.contains(then),
        }
    }
}

/// The fault that a refusal is.
pub fn fault(refusal: Refusal, retry_after: Option<Duration>) -> Fault {
    let kind = classify(&refusal);
    let message = match refusal.message.as_str() {
        _ if kind == Kind::UpstreamCredential => "The provider refused the gateway's credential.".to_owned(),
        "" => format!("The provider answered {} without a message.", refusal.status),
        message => message.to_owned(),
    };
    let wait = retry_after.or(refusal.retry_after).map(|wait| wait.min(MAX_WAIT));
    let mut fault = Fault::new(kind, message).retry_after(wait);
    fault.param.clone_from(&refusal.param);
    fault.source.clone_from(&refusal.unread);
    fault.refusal(refusal)
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::SystemTime;

    use bytes::Bytes;
    use http::{HeaderMap, HeaderName};
    use serde_json::Value;

    use super::*;
    use crate::dialect;

    /// Every file of the corpus: its name and what is in it.
    fn corpus() -> Vec<(String, Value)> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/dialect/refusals");
        let files = std::fs::read_dir(&folder).expect("the corpus");
        let mut corpus: Vec<_> = files
            .map(|file| {
                let path = file.expect("a file").path();
                let text = std::fs::read_to_string(&path).expect("is text");
                let name = path.file_name().expect("a name").to_string_lossy().into_owned();
                let case = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
                (name, case)
            })
            .collect();
        corpus.sort_by(|a, b| a.0.cmp(&b.0));
        corpus
    }

    fn refusal(case: &Value) -> Refusal {
        let status = case["status"].as_u64().expect("a status") as u16;
        let body = match &case["body"] {
            Value::String(text) => text.clone(),
            body => body.to_string(),
        };
        let dialect = dialect::find(case["dialect"].as_str().expect("a dialect")).expect("one of ours");
        dialect.decode_error(status, &Bytes::from(body))
    }

    #[test]
    fn a_wait_that_no_clock_holds_is_cut() {
        for wait in [Duration::MAX, Duration::from_secs(1 << 40)] {
            let refusal = Refusal { status: 429, ..Refusal::default() };
            assert_eq!(fault(refusal, Some(wait)).retry_after, Some(MAX_WAIT));
        }
    }

    #[test]
    fn what_providers_send_is_understood() {
        let corpus = corpus();
        assert!(corpus.len() > 70, "{} files", corpus.len());
        let mut wrong = Vec::new();
        for (name, case) in &corpus {
            let mut headers = HeaderMap::new();
            for (name, value) in case["headers"].as_object().expect("headers") {
                let name: HeaderName = name.parse().expect("a header name");
                headers.insert(name, value.as_str().expect("text").parse().expect("a header value"));
            }
            let wait = crate::attempt::retry_after(&headers, SystemTime::UNIX_EPOCH);
            let fault = fault(refusal(case), wait);
            if fault.code() != case["expect"]["code"] {
                wrong.push(format!("{name}: {} where {} is right: {}", fault.code(), case["expect"]["code"], fault));
            }
            let wait = fault.retry_after.map(|wait| wait.as_millis() as u64);
            if wait != case["expect"]["retry_after_ms"].as_u64() {
                wrong.push(format!("{name}: wait of {wait:?}"));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    #[test]
    fn an_adapter_may_say_what_a_refusal_is() {
        let said = |status: u16, code: Option<&str>| {
            told(Refusal { status, code: code.map(str::to_owned), dialect: "wasm:test", ..Refusal::default() })
        };
        for kind in OWN {
            let read = read(said(400, Some(kind.row().code)), 400);
            assert_eq!(classify(&read), *kind, "in the gateway's own words");
        }
        assert_eq!(classify(&read(said(400, Some("Rate_Limited")), 400)), Kind::RateLimited);
        assert_eq!(classify(&read(said(500, Some("model_not_found")), 500)), Kind::UpstreamNotFound);
        assert_eq!(
            classify(&read(said(400, Some("internal_error")), 400)),
            Kind::UpstreamRejected,
            "not an upstream's"
        );
        // A status of its own decides where it differs, and is not told as the upstream's.
        let of = |stated: u16, came: u16| {
            let read = read(said(stated, None), came);
            (classify(&read), read.status)
        };
        assert_eq!(of(429, 400), (Kind::RateLimited, 400));
        assert_eq!(of(503, 503), (Kind::Overloaded, 503));
        assert_eq!(of(0, 404), (Kind::UpstreamNotFound, 404));
        assert_eq!(of(200, 500), (Kind::UpstreamError, 500));
        let long = told(Refusal { retry_after: Some(Duration::from_millis(u64::MAX)), ..Refusal::default() });
        assert_eq!(long.retry_after, Some(MAX_TOLD));
    }

    #[test]
    fn every_wording_was_seen() {
        let refusals: Vec<Refusal> = corpus().iter().map(|(_, case)| refusal(case)).collect();
        let unseen: Vec<&Says> = WORDINGS
            .iter()
            .filter(|(kind, statuses, says)| {
                !refusals.iter().any(|refusal| {
                    statuses.contains(&refusal.status)
                        && classify(refusal) == *kind
                        && says.fits(refusal, &refusal.message.to_lowercase())
                })
            })
            .map(|(_, _, says)| says)
            .collect();
        assert!(unseen.is_empty(), "no fixture has {unseen:?}");
    }
}
