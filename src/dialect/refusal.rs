//! What an upstream's refusal means: one classification for the error bodies of every dialect.
//!
//! Dialects read their own bodies into a [`Refusal`]; the words that providers use for the same thing are gathered here.

use std::time::Duration;

use crate::fault::{Fault, Kind, Refusal};

/// Wordings of "the conversation does not fit", as seen from OpenAI, Anthropic, Gemini, Mistral, OpenRouter, vLLM,
/// llama.cpp and Ollama.
const CONTEXT_WORDS: &[&str] = &[
    "context_length_exceeded",
    "maximum context length",
    "context window",
    "prompt is too long",
    "exceeds the maximum number of tokens",
    "exceed_context_size",
    "exceeds the available context size",
    "input is too long",
    "too many tokens",
    "input length and `max_tokens` exceed context limit",
];

/// Wordings of "we will not answer this".
const POLICY_WORDS: &[&str] = &[
    "content_policy",
    "content_filter",
    "responsibleaipolicyviolation",
    "content management policy",
    "safety system",
    "usage polic",
    "invalid_prompt",
    "output blocked by content filtering",
];

/// Wordings of "the account is empty", as against "too fast".
const QUOTA_WORDS: &[&str] = &[
    "insufficient_quota",
    "credit balance is too low",
    "exceeded your current quota",
    "billing_hard_limit",
    "billing_not_active",
];

/// Wordings of "our key is wrong" under statuses other than 401.
const CREDENTIAL_WORDS: &[&str] = &["api_key_invalid", "api key not valid", "invalid_api_key", "incorrect api key"];

/// Names what a refusal with this status means.
pub fn classify(refusal: &Refusal) -> Kind {
    let words = [refusal.kind.as_deref(), refusal.code.as_deref(), Some(refusal.message.as_str())];
    let text = words.into_iter().flatten().collect::<Vec<_>>().join(" ").to_ascii_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
    match refusal.status {
        401 => Kind::UpstreamCredential,
        400 | 403 if says(CREDENTIAL_WORDS) => Kind::UpstreamCredential,
        400 | 413 | 422 | 500 if says(CONTEXT_WORDS) => Kind::ContextLength,
        400 | 403 | 422 if says(POLICY_WORDS) => Kind::ContentPolicy,
        402 => Kind::QuotaExceeded,
        // Gemini has the same words for an empty account and for too many requests; only the latter is worth a wait.
        429 if refusal.retry_after.is_some() => Kind::RateLimited,
        400 | 403 | 429 if says(QUOTA_WORDS) => Kind::QuotaExceeded,
        429 => Kind::RateLimited,
        403 => Kind::UpstreamForbidden,
        404 => Kind::UpstreamNotFound,
        503 | 529 => Kind::Overloaded,
        400..=499 => Kind::UpstreamRejected,
        // Errors inside a stream come with status 200; their type is all there is to go by.
        200 => match () {
            () if says(&["overloaded"]) => Kind::Overloaded,
            () if says(&["rate_limit", "resource_exhausted"]) => Kind::RateLimited,
            () if says(QUOTA_WORDS) => Kind::QuotaExceeded,
            () if says(CREDENTIAL_WORDS) => Kind::UpstreamCredential,
            () if says(CONTEXT_WORDS) => Kind::ContextLength,
            () if says(POLICY_WORDS) => Kind::ContentPolicy,
            () if says(&["invalid_request", "invalid_argument"]) => Kind::UpstreamRejected,
            () => Kind::UpstreamError,
        },
        _ => Kind::UpstreamError,
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
    let mut fault = Fault::new(kind, message).retry_after(retry_after.or(refusal.retry_after));
    fault.param.clone_from(&refusal.param);
    fault.refusal(refusal)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(status: u16, kind: &str, code: &str, message: &str) -> Kind {
        classify(&Refusal {
            status,
            kind: Some(kind.to_owned()),
            code: Some(code.to_owned()),
            message: message.to_owned(),
            ..Refusal::default()
        })
    }

    #[test]
    fn wordings_of_several_providers_are_told_apart() {
        let context = "This model's maximum context length is 8192 tokens.";
        assert_eq!(kind(400, "invalid_request_error", "context_length_exceeded", context), Kind::ContextLength);
        assert_eq!(
            kind(400, "invalid_request_error", "", "prompt is too long: 210000 tokens > 200000"),
            Kind::ContextLength
        );
        assert_eq!(
            kind(429, "insufficient_quota", "insufficient_quota", "You exceeded your current quota"),
            Kind::QuotaExceeded
        );
        assert_eq!(kind(429, "rate_limit_error", "", "slow down"), Kind::RateLimited);
        assert_eq!(kind(529, "overloaded_error", "", "Overloaded"), Kind::Overloaded);
        assert_eq!(kind(400, "INVALID_ARGUMENT", "API_KEY_INVALID", "API key not valid."), Kind::UpstreamCredential);
        assert_eq!(kind(400, "invalid_request_error", "content_filter", "filtered"), Kind::ContentPolicy);
        assert_eq!(kind(200, "overloaded_error", "", "Overloaded"), Kind::Overloaded);
        assert_eq!(kind(400, "invalid_request_error", "", "tools: bad"), Kind::UpstreamRejected);
    }
}
