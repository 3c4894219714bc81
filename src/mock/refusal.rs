//! Errors in the providers' own words and bodies: those of wrong requests and those of ordered faults.

use serde_json::{Value, json};

use super::answer::{Answer, Body, Dialect, Frame, Part};
use super::state::State;
use super::trouble::{Kind, Trouble};

/// An error before it takes a dialect's form.
#[derive(Debug, Clone, PartialEq)]
pub struct Refusal {
    pub status: u16,
    /// `error.type` (OpenAI, Anthropic) or `error.status` (Gemini).
    pub kind: &'static str,
    pub message: String,
    /// OpenAI's `param` and `code`.
    pub param: Option<String>,
    pub code: Option<&'static str>,
    /// Gemini's `details`; boxed, because a refusal is the error half of many results.
    pub details: Option<Box<Value>>,
    /// How long to wait before another try.
    pub retry_after: Option<u64>,
}

impl Refusal {
    pub fn new(status: u16, kind: &'static str, message: impl Into<String>) -> Refusal {
        let message = message.into();
        Refusal { status, kind, message, param: None, code: None, details: None, retry_after: None }
    }

    /// An OpenAI 400 with its parameter and code.
    pub fn openai(message: impl Into<String>, param: impl Into<Option<String>>, code: Option<&'static str>) -> Refusal {
        Refusal { param: param.into(), code, ..Refusal::new(400, "invalid_request_error", message) }
    }

    /// An Anthropic 400.
    pub fn anthropic(message: impl Into<String>) -> Refusal {
        Refusal::new(400, "invalid_request_error", message)
    }

    /// A Gemini 400.
    pub fn gemini(message: impl Into<String>) -> Refusal {
        Refusal::new(400, "INVALID_ARGUMENT", message)
    }

    /// A 400 that the mock itself has to give, not the provider it plays.
    pub fn misuse(dialect: Dialect, message: impl Into<String>) -> Refusal {
        match dialect {
            Dialect::OpenAi | Dialect::Responses => Refusal::openai(message, None, None),
            Dialect::Anthropic => Refusal::anthropic(message),
            Dialect::Gemini => Refusal::gemini(message),
        }
    }

    /// The error body.
    pub fn body(&self, dialect: Dialect, request_id: &str) -> Value {
        match dialect {
            Dialect::OpenAi | Dialect::Responses => json!({"error": {
                "message": self.message, "type": self.kind, "param": self.param, "code": self.code,
            }}),
            Dialect::Anthropic => json!({
                "type": "error",
                "error": {"type": self.kind, "message": self.message},
                "request_id": request_id,
            }),
            Dialect::Gemini => {
                let mut error = json!({"code": self.status, "message": self.message, "status": self.kind});
                if let Some(details) = &self.details {
                    error["details"] = Value::clone(details);
                }
                json!({"error": error})
            }
        }
    }

    pub fn answer(&self, dialect: Dialect, request_id: &str) -> Answer {
        let mut headers = Vec::new();
        if let Some(wait) = self.retry_after {
            headers.push(("retry-after", wait.to_string()));
            if dialect != Dialect::Gemini {
                headers.push(("retry-after-ms", wait.saturating_mul(1000).to_string()));
            }
        }
        if dialect == Dialect::Anthropic {
            let again = matches!(self.status, 408 | 409 | 429 | 500..);
            headers.push(("x-should-retry", again.to_string()));
        }
        let body = Body::Json { value: self.body(dialect, request_id), pieces: 0 };
        Answer { status: self.status, headers, body }
    }
}

/// The refusal that an ordered fault is, in the dialect's words; None for faults that are no refusals.
pub fn ordered(trouble: &Trouble, dialect: Dialect, model: &str) -> Option<Refusal> {
    let wait = trouble.number::<u64>().unwrap_or(1);
    let mut refusal = match dialect {
        Dialect::OpenAi | Dialect::Responses => openai(trouble.kind, dialect, model, wait)?,
        Dialect::Anthropic => anthropic(trouble.kind, model)?,
        Dialect::Gemini => gemini(trouble.kind, model, wait)?,
    };
    if trouble.kind == Kind::RateLimit {
        refusal.retry_after = Some(wait);
    }
    Some(refusal)
}

/// OpenAI's words. Longer than a function should be, because it is a table: one arm a fault.
fn openai(kind: Kind, dialect: Dialect, model: &str, wait: u64) -> Option<Refusal> {
    let refuse = |status, kind, message: String, param: Option<&str>, code| {
        Some(Refusal { param: param.map(str::to_owned), code, ..Refusal::new(status, kind, message) })
    };
    const INVALID: &str = "invalid_request_error";
    match kind {
        Kind::RateLimit => refuse(
            429,
            "requests",
            format!(
                "Rate limit reached for {model} in organization org-mock on requests per min (RPM): Limit 500, Used \
                 500, Requested 1. Please try again in {wait}s. Visit \
                 https://platform.openai.com/account/rate-limits to learn more."
            ),
            None,
            Some("rate_limit_exceeded"),
        ),
        Kind::Quota => refuse(
            429,
            "insufficient_quota",
            "You exceeded your current quota, please check your plan and billing details. For more information on \
             this error, read the docs: https://platform.openai.com/docs/guides/error-codes/api-errors."
                .to_owned(),
            None,
            Some("insufficient_quota"),
        ),
        Kind::Credential => refuse(
            401,
            INVALID,
            "Incorrect API key provided: sk-mock*****mock. You can find your API key at \
             https://platform.openai.com/account/api-keys."
                .to_owned(),
            None,
            Some("invalid_api_key"),
        ),
        Kind::Forbidden => refuse(
            403,
            INVALID,
            format!("Project `proj_mock` does not have access to model `{model}`"),
            None,
            Some("model_not_found"),
        ),
        Kind::NotFound => refuse(
            404,
            INVALID,
            format!("The model `{model}` does not exist or you do not have access to it."),
            None,
            Some("model_not_found"),
        ),
        Kind::Invalid => refuse(
            400,
            INVALID,
            "Unsupported value: 'temperature' does not support 0.2 with this model. Only the default (1) value is \
             supported."
                .to_owned(),
            Some("temperature"),
            Some("unsupported_value"),
        ),
        Kind::Context if dialect == Dialect::Responses => refuse(
            400,
            INVALID,
            "Your input exceeds the context window of this model. Please adjust your input and try again.".to_owned(),
            Some("input"),
            Some("context_length_exceeded"),
        ),
        Kind::Context => refuse(
            400,
            INVALID,
            "This model's maximum context length is 8192 tokens. However, your messages resulted in 10123 tokens. \
             Please reduce the length of the messages."
                .to_owned(),
            Some("messages"),
            Some("context_length_exceeded"),
        ),
        Kind::Policy => refuse(
            400,
            INVALID,
            "Invalid prompt: your prompt was flagged as potentially violating our usage policy. Please try again \
             with a different prompt: https://platform.openai.com/docs/guides/reasoning#advice-on-prompting"
                .to_owned(),
            None,
            Some("invalid_prompt"),
        ),
        Kind::Internal => refuse(
            500,
            "server_error",
            "The server had an error while processing your request. Sorry about that!".to_owned(),
            None,
            None,
        ),
        Kind::Unavailable | Kind::Overloaded => refuse(
            if kind == Kind::Overloaded { 529 } else { 503 },
            "server_error",
            "Our servers are currently overloaded. Please try again later.".to_owned(),
            None,
            Some("server_is_overloaded"),
        ),
        _ => None,
    }
}

/// Anthropic's words.
fn anthropic(kind: Kind, model: &str) -> Option<Refusal> {
    let (status, kind, message) = match kind {
        Kind::RateLimit => (
            429,
            "rate_limit_error",
            format!(
                "This request would exceed your organization's rate limit of 50 requests per minute (org: \
                 00000000-0000-4000-8000-000000000000, model: {model}). For details, refer to: \
                 https://docs.claude.com/en/api/rate-limits."
            ),
        ),
        Kind::Quota => (
            400,
            "invalid_request_error",
            "Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing to upgrade or \
             purchase credits."
                .to_owned(),
        ),
        Kind::Credential => (401, "authentication_error", "invalid x-api-key".to_owned()),
        Kind::Forbidden => {
            let message = "Your API key does not have permission to use the specified resource.";
            (403, "permission_error", message.to_owned())
        }
        Kind::NotFound => (404, "not_found_error", format!("model: {model}")),
        Kind::Invalid => (400, "invalid_request_error", "temperature: range: 0..1".to_owned()),
        Kind::Context => {
            (400, "invalid_request_error", "prompt is too long: 210042 tokens > 200000 maximum".to_owned())
        }
        Kind::Policy => (400, "invalid_request_error", "Output blocked by content filtering policy".to_owned()),
        Kind::Internal => (500, "api_error", "Internal server error".to_owned()),
        Kind::Unavailable => (503, "api_error", "Service temporarily unavailable".to_owned()),
        Kind::Overloaded => (529, "overloaded_error", "Overloaded".to_owned()),
        _ => return None,
    };
    Some(Refusal::new(status, kind, message))
}

/// Gemini's words; a table as well.
fn gemini(kind: Kind, model: &str, wait: u64) -> Option<Refusal> {
    let model = model.trim_start_matches("models/");
    let retry = json!({"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": format!("{wait}s")});
    let (status, kind, message, details) = match kind {
        Kind::RateLimit => (
            429,
            "RESOURCE_EXHAUSTED",
            "Resource has been exhausted (e.g. check quota).".to_owned(),
            Some(json!([retry])),
        ),
        Kind::Quota => (
            429,
            "RESOURCE_EXHAUSTED",
            "You exceeded your current quota, please check your plan and billing details. For more information on \
             this error, head to: https://ai.google.dev/gemini-api/docs/rate-limits."
                .to_owned(),
            Some(json!([
                {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [{
                    "quotaMetric": "generativelanguage.googleapis.com/generate_content_free_tier_requests",
                    "quotaId": "GenerateRequestsPerDayPerProjectPerModel-FreeTier",
                    "quotaDimensions": {"model": model, "location": "global"},
                    "quotaValue": "50",
                }]},
                {"@type": "type.googleapis.com/google.rpc.Help", "links": [{
                    "description": "Learn more about Gemini API quotas",
                    "url": "https://ai.google.dev/gemini-api/docs/rate-limits",
                }]},
            ])),
        ),
        Kind::Credential => (
            401,
            "UNAUTHENTICATED",
            "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other \
             valid authentication credential. See \
             https://developers.google.com/identity/sign-in/web/devconsole-project."
                .to_owned(),
            None,
        ),
        Kind::Forbidden => (403, "PERMISSION_DENIED", "The caller does not have permission".to_owned(), None),
        Kind::NotFound => (
            404,
            "NOT_FOUND",
            format!(
                "models/{model} is not found for API version v1beta, or is not supported for generateContent. Call \
                 ListModels to see the list of available models and their supported methods."
            ),
            None,
        ),
        Kind::Invalid => (
            400,
            "INVALID_ARGUMENT",
            "* GenerateContentRequest.generation_config.temperature: temperature must be in the range [0.0, 2.0].\n"
                .to_owned(),
            None,
        ),
        Kind::Context => (
            400,
            "INVALID_ARGUMENT",
            "The input token count (1050042) exceeds the maximum number of tokens allowed (1048576).".to_owned(),
            None,
        ),
        Kind::Internal => (
            500,
            "INTERNAL",
            "An internal error has occurred. Please retry or report in \
             https://developers.generativeai.google/guide/troubleshooting"
                .to_owned(),
            None,
        ),
        Kind::Unavailable => (503, "UNAVAILABLE", "The model is overloaded. Please try again later.".to_owned(), None),
        Kind::Overloaded => (529, "UNAVAILABLE", "The model is overloaded. Please try again later.".to_owned(), None),
        // Gemini blocks prompts in an answer with status 200; its answers are made in `gemini`.
        _ => return None,
    };
    Some(Refusal { details: details.map(Box::new), ..Refusal::new(status, kind, message) })
}

/// The error of `error-first` and `error-mid`: whose frames come after `sequence` others.
pub fn in_stream(dialect: Dialect, state: &State, response: &Value, sequence: usize) -> Vec<Frame> {
    let error = stream_error(dialect);
    match dialect {
        Dialect::Responses => {
            let mut failed = response.clone();
            failed["status"] = json!("failed");
            failed["output"] = json!([]);
            failed["usage"] = Value::Null;
            failed["error"] = json!({"code": "server_error", "message": error.message});
            let event = json!({
                "type": "error", "code": "server_error", "message": error.message, "param": null,
                "sequence_number": sequence,
            });
            let failed = json!({"type": "response.failed", "sequence_number": sequence + 1, "response": failed});
            vec![Frame::new(Part::Finish, "error", event), Frame::new(Part::Finish, "response.failed", failed)]
        }
        Dialect::Anthropic => {
            vec![Frame::new(Part::Finish, "error", error.body(dialect, &state.id("req_01", 22)))]
        }
        Dialect::OpenAi | Dialect::Gemini => vec![Frame::data(Part::Finish, error.body(dialect, ""))],
    }
}

/// What a provider says when it fails after its head was sent.
pub fn stream_error(dialect: Dialect) -> Refusal {
    match dialect {
        Dialect::OpenAi | Dialect::Responses => Refusal::new(
            500,
            "server_error",
            "The server had an error while processing your request. Sorry about that!",
        ),
        Dialect::Anthropic => Refusal::new(529, "overloaded_error", "Overloaded"),
        Dialect::Gemini => Refusal::new(503, "UNAVAILABLE", "The model is overloaded. Please try again later."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_wait_that_can_be_ordered_is_told() {
        let trouble: Trouble = format!("429={}", u64::MAX).parse().expect("a fault");
        let refusal = ordered(&trouble, Dialect::OpenAi, "m").expect("a refusal");
        let Answer { headers, .. } = refusal.answer(Dialect::OpenAi, "req_1");
        assert!(headers.contains(&("retry-after-ms", u64::MAX.to_string())), "{headers:?}");
    }

    #[test]
    fn every_refusing_fault_has_the_bodies_of_every_dialect() {
        let refusing = ["429", "quota", "401", "403", "404", "400", "context", "policy", "500", "503", "529"];
        for name in refusing {
            let trouble: Trouble = name.parse().expect(name);
            for dialect in [Dialect::OpenAi, Dialect::Responses, Dialect::Anthropic, Dialect::Gemini] {
                let Some(refusal) = ordered(&trouble, dialect, "m") else {
                    assert_eq!((name, dialect), ("policy", Dialect::Gemini));
                    continue;
                };
                if let Ok(status) = name.parse::<u16>() {
                    assert_eq!(refusal.status, status);
                }
                assert!(refusal.body(dialect, "req_1")["error"]["message"].is_string());
            }
        }
    }
}
