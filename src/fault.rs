//! What went wrong: kind, side, whether to try again, and what to do about it.
//!
//! One table, [`FAULTS`], gives every kind its stable code, HTTP status and advice; `dialect` turns a [`Fault`] into
//! the caller's wire form. Nothing here logs: `settle` does, once per exchange.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;

/// Whose doing it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    Client,
    Gateway,
    Guest,
    Upstream,
}

impl Side {
    /// The word in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Side::Client => "client",
            Side::Gateway => "gateway",
            Side::Guest => "guest",
            Side::Upstream => "upstream",
        }
    }
}

/// Whether another try could help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Retry {
    /// The same ask fails everywhere.
    Never,
    /// The same target may answer later or on a fresh connection; another may answer now.
    Same,
    /// This target will not answer this ask; another may.
    Next,
}

/// Every way an exchange can fail. The row in [`FAULTS`] says what a caller sees of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    InvalidJson,
    InvalidRequest,
    AmbiguousRequest,
    UnsupportedEncoding,
    UnsupportedFeature,
    UnknownEndpoint,
    MethodNotAllowed,
    MissingCredential,
    InvalidCredential,
    ForeignPage,
    ModelNotAllowed,
    ModelNotFound,
    ResponseNotFound,
    BodyTooLarge,
    BodyTimeout,
    ContextLength,
    ContentPolicy,
    LimitExceeded,
    BudgetExceeded,
    PriceUnknown,
    TargetLimited,
    LimitsUnavailable,
    RateLimited,
    QuotaExceeded,
    Overloaded,
    UpstreamRejected,
    UpstreamForbidden,
    UpstreamNotFound,
    UpstreamCredential,
    UpstreamError,
    UpstreamUnreachable,
    ConnectTimeout,
    HeadTimeout,
    FirstTokenTimeout,
    IdleTimeout,
    AttemptTimeout,
    TotalTimeout,
    BadAnswer,
    StreamBroken,
    GuestFailed,
    TargetUnavailable,
    NoTarget,
    NoTargetFits,
    Draining,
    ClientGone,
    ClientTooSlow,
    PolicyRejected,
    PolicyFailed,
    PolicyFault,
    Internal,
}

/// What a kind means to the outside: the one place for codes, statuses and advice.
#[derive(Debug)]
pub struct Row {
    pub kind: Kind,
    /// Stable machine-readable code, in the body of every error the gateway makes, in the log and in metrics.
    pub code: &'static str,
    /// HTTP status when the head has not been sent yet.
    pub status: u16,
    pub side: Side,
    pub retry: Retry,
    /// `error.type` in the OpenAI forms.
    pub openai: &'static str,
    /// `error.type` in the Anthropic form.
    pub anthropic: &'static str,
    /// `error.status` in the Gemini form (a google.rpc.Code name).
    pub gemini: &'static str,
    /// What the caller or the operator can do; appended to messages that the gateway itself makes.
    pub advice: &'static str,
}

macro_rules! faults {
    ($($kind:ident $code:literal $status:literal $side:ident $retry:ident $openai:literal $anthropic:literal $gemini:literal $advice:literal;)*) => {
        /// One row per [`Kind`], in the order of the enum.
        pub const FAULTS: &[Row] = &[$(Row {
            kind: Kind::$kind, code: $code, status: $status, side: Side::$side, retry: Retry::$retry,
            openai: $openai, anthropic: $anthropic, gemini: $gemini, advice: $advice,
        }),*];
    };
}

faults! {
    InvalidJson "invalid_json" 400 Client Never "invalid_request_error" "invalid_request_error" "INVALID_ARGUMENT" "Send one JSON object as the body.";
    InvalidRequest "invalid_request" 400 Client Never "invalid_request_error" "invalid_request_error" "INVALID_ARGUMENT" "";
    AmbiguousRequest "ambiguous_request" 400 Client Never "invalid_request_error" "invalid_request_error" "INVALID_ARGUMENT" "Send each field once, in lower case, so that what is authorised is what is sent.";
    UnsupportedEncoding "unsupported_encoding" 415 Client Never "invalid_request_error" "invalid_request_error" "INVALID_ARGUMENT" "Send the body as it is, without `content-encoding`.";
    UnsupportedFeature "unsupported_feature" 400 Client Next "invalid_request_error" "invalid_request_error" "INVALID_ARGUMENT" "Use a model whose provider supports it.";
    UnknownEndpoint "unknown_endpoint" 404 Client Never "invalid_request_error" "not_found_error" "NOT_FOUND" "See the README for the paths this gateway serves.";
    MethodNotAllowed "method_not_allowed" 405 Client Never "invalid_request_error" "invalid_request_error" "INVALID_ARGUMENT" "See the `allow` header for the methods of this path.";
    MissingCredential "missing_credential" 401 Client Never "authentication_error" "authentication_error" "UNAUTHENTICATED" "Send a gateway key as `Authorization: Bearer KEY`, `x-api-key`, `api-key` or `x-goog-api-key`.";
    InvalidCredential "invalid_credential" 401 Client Never "authentication_error" "authentication_error" "UNAUTHENTICATED" "Check the gateway key; the operator lists keys under `keys:` in the configuration.";
    ForeignPage "foreign_page" 403 Client Never "permission_error" "permission_error" "PERMISSION_DENIED" "Without `keys:` everybody on this machine may call, but no web page of another site; the operator adds keys, and whoever has one may call from anywhere.";
    ModelNotAllowed "model_not_allowed" 403 Client Never "permission_error" "permission_error" "PERMISSION_DENIED" "Ask the operator to add the model to this key, or use one that GET /v1/models lists.";
    ModelNotFound "model_not_found" 404 Client Never "invalid_request_error" "not_found_error" "NOT_FOUND" "Use a name that GET /v1/models lists, or `provider/model`.";
    ResponseNotFound "response_not_found" 404 Client Never "invalid_request_error" "not_found_error" "NOT_FOUND" "The gateway remembers for a while which target made a response; send the conversation instead of its id.";
    BodyTooLarge "body_too_large" 413 Client Never "invalid_request_error" "request_too_large" "INVALID_ARGUMENT" "Send a smaller body, or ask the operator to raise `listen.limits.max_body_bytes`.";
    BodyTimeout "body_timeout" 408 Client Never "invalid_request_error" "timeout_error" "DEADLINE_EXCEEDED" "The body arrived too slowly; the operator sets `listen.limits.body_timeout`.";
    ContextLength "context_length_exceeded" 400 Upstream Next "invalid_request_error" "invalid_request_error" "INVALID_ARGUMENT" "Shorten the conversation or use a model with a longer context.";
    ContentPolicy "content_policy" 400 Upstream Never "invalid_request_error" "invalid_request_error" "INVALID_ARGUMENT" "The provider refused the content.";
    LimitExceeded "limit_exceeded" 429 Client Never "rate_limit_error" "rate_limit_error" "RESOURCE_EXHAUSTED" "Wait as `retry-after` says where it is given, else send less, or ask the operator to raise the limit.";
    BudgetExceeded "budget_exceeded" 429 Client Never "insufficient_quota" "rate_limit_error" "RESOURCE_EXHAUSTED" "Ask the operator to raise the budget under `budgets:`, or wait for its next window.";
    PriceUnknown "price_unknown" 403 Client Never "permission_error" "permission_error" "PERMISSION_DENIED" "Use a model with a price; the operator states one under `prices.models`, or sets `unpriced: free` for the limit.";
    TargetLimited "target_limited" 429 Gateway Next "rate_limit_error" "rate_limit_error" "RESOURCE_EXHAUSTED" "Wait as `retry-after` says; the operator limits what goes to this target under `limits:`.";
    LimitsUnavailable "limits_unavailable" 503 Gateway Never "server_error" "overloaded_error" "UNAVAILABLE" "Try again shortly; the operator checks `redis:`, or sets `redis.away` to local or open.";
    RateLimited "rate_limited" 429 Upstream Same "rate_limit_error" "rate_limit_error" "RESOURCE_EXHAUSTED" "Wait as `retry-after` says.";
    QuotaExceeded "quota_exceeded" 429 Upstream Next "insufficient_quota" "rate_limit_error" "RESOURCE_EXHAUSTED" "The account at the provider has no quota left.";
    Overloaded "upstream_overloaded" 503 Upstream Same "server_error" "overloaded_error" "UNAVAILABLE" "The provider is overloaded; try again shortly.";
    UpstreamRejected "upstream_rejected" 400 Upstream Never "invalid_request_error" "invalid_request_error" "INVALID_ARGUMENT" "";
    UpstreamForbidden "upstream_forbidden" 403 Upstream Next "permission_error" "permission_error" "PERMISSION_DENIED" "";
    UpstreamNotFound "upstream_not_found" 404 Upstream Next "invalid_request_error" "not_found_error" "NOT_FOUND" "";
    UpstreamCredential "upstream_credential_refused" 502 Upstream Next "server_error" "api_error" "UNAVAILABLE" "The credential is the gateway's own; the operator must check the provider's `api_key`.";
    UpstreamError "upstream_error" 502 Upstream Same "server_error" "api_error" "INTERNAL" "";
    UpstreamUnreachable "upstream_unreachable" 502 Upstream Same "server_error" "api_error" "UNAVAILABLE" "Check that the provider is up and that `base_url` is right.";
    ConnectTimeout "connect_timeout" 504 Upstream Same "server_error" "timeout_error" "DEADLINE_EXCEEDED" "Check the provider's address, or raise `timeouts.connect`.";
    HeadTimeout "head_timeout" 504 Upstream Same "server_error" "timeout_error" "DEADLINE_EXCEEDED" "The provider sent no answer in time; raise `timeouts.head` if it is slow by nature.";
    FirstTokenTimeout "first_token_timeout" 504 Upstream Same "server_error" "timeout_error" "DEADLINE_EXCEEDED" "The provider sent no first token in time; raise `timeouts.first_token` if it is slow by nature.";
    IdleTimeout "idle_timeout" 504 Upstream Same "server_error" "timeout_error" "DEADLINE_EXCEEDED" "The provider went silent; raise `timeouts.idle` if it is slow by nature.";
    AttemptTimeout "attempt_timeout" 504 Upstream Next "server_error" "timeout_error" "DEADLINE_EXCEEDED" "The limit is the `timeouts.total` of its target or provider.";
    TotalTimeout "total_timeout" 504 Gateway Never "server_error" "timeout_error" "DEADLINE_EXCEEDED" "The limit is `timeouts.total`, or the caller's `x-portcullis-timeout-ms` where that is shorter.";
    BadAnswer "bad_upstream_answer" 502 Upstream Same "server_error" "api_error" "INTERNAL" "The provider's answer was not in its dialect; check `dialect` and `base_url`.";
    StreamBroken "stream_broken" 502 Upstream Same "server_error" "api_error" "UNAVAILABLE" "The provider's stream ended before it was complete; try again.";
    GuestFailed "guest_failed" 502 Guest Next "server_error" "api_error" "INTERNAL" "A plugin or script of this gateway failed; the operator finds the reason in the log.";
    TargetUnavailable "target_unavailable" 503 Gateway Next "server_error" "overloaded_error" "UNAVAILABLE" "Try again after `retry-after`; the operator sets `breaker`, `max_inflight`, `concurrency` and `queue` of the provider.";
    NoTarget "no_target_available" 503 Gateway Never "server_error" "overloaded_error" "UNAVAILABLE" "Try again after `retry-after`; `availability` in the error says what is the matter with each target.";
    NoTargetFits "no_target_fits" 404 Client Never "invalid_request_error" "not_found_error" "NOT_FOUND" "Ask for less, or loosen `provider` of the request or `require` of the model; `availability` in the error says what removed each target.";
    Draining "draining" 503 Gateway Never "server_error" "overloaded_error" "UNAVAILABLE" "This process is shutting down; try again, another will answer.";
    ClientGone "client_gone" 499 Client Never "invalid_request_error" "invalid_request_error" "CANCELLED" "";
    ClientTooSlow "client_too_slow" 408 Client Never "invalid_request_error" "timeout_error" "DEADLINE_EXCEEDED" "Read the stream faster: several share it, and what the slowest of them has not read is kept up to `cache.exact.max_entry_bytes`.";
    PolicyRejected "policy_rejected" 403 Guest Never "invalid_request_error" "permission_error" "PERMISSION_DENIED" "";
    PolicyFailed "policy_failed" 500 Guest Never "server_error" "api_error" "INTERNAL" "The operator finds the reason in the log and under GET /admin/guests; `fail: open` of the hook goes on without the policy.";
    PolicyFault "policy_fault" 502 Guest Next "server_error" "api_error" "INTERNAL" "";
    Internal "internal_error" 500 Gateway Never "server_error" "api_error" "INTERNAL" "This is a fault of the gateway; report it with the x-request-id.";
}

/// The types of an upstream's 409, which is a [`Kind::UpstreamError`]: asked once more it may do.
const CONFLICT: Row = Row {
    openai: "invalid_request_error",
    anthropic: "invalid_request_error",
    gemini: "ABORTED",
    ..FAULTS[Kind::UpstreamError as usize]
};

impl Kind {
    /// The kind's row of [`FAULTS`].
    pub fn row(self) -> &'static Row {
        // The table's order is the enum's; `table_is_in_order_and_codes_are_unique` holds it.
        &FAULTS[self as usize]
    }

    /// Whether it says something of the gateway's credential rather than of the target: another one may do.
    pub fn is_of_credential(self) -> bool {
        matches!(self, Kind::UpstreamCredential | Kind::UpstreamForbidden | Kind::QuotaExceeded | Kind::RateLimited)
    }

    /// Whether a target missed one of its clocks.
    pub fn is_timeout(self) -> bool {
        matches!(
            self,
            Kind::ConnectTimeout
                | Kind::HeadTimeout
                | Kind::FirstTokenTimeout
                | Kind::IdleTimeout
                | Kind::AttemptTimeout
        )
    }

    /// The kind that `code` names.
    pub fn from_code(code: &str) -> Option<Kind> {
        FAULTS.iter().find(|row| row.code == code).map(|row| row.kind)
    }
}

/// What the upstream said when it refused, kept apart from our own words so that a caller of the same dialect gets
/// exactly what the provider's SDK would have given.
#[derive(Debug, Clone, Default)]
pub struct Refusal {
    /// The upstream's HTTP status; 200 for an error event in a stream.
    pub status: u16,
    pub message: String,
    /// `error.type` (OpenAI, Anthropic) or `error.status` (Gemini).
    pub kind: Option<String>,
    /// `error.code` where it is a word.
    pub code: Option<String>,
    /// `error.param`.
    pub param: Option<String>,
    /// The name of the dialect that `body` is written in.
    pub dialect: &'static str,
    /// The body as it came, for callers of the same dialect. Of an event of a stream all of the stream, where that dialect
    /// makes more of it than of a status; else empty.
    pub body: Bytes,
    /// How long to wait, where the body says so.
    pub retry_after: Option<Duration>,
    /// Its `x-should-retry`, which official SDKs obey.
    pub should_retry: Option<bool>,
    /// The upstream's own request id, for its support.
    pub request_id: Option<String>,
    /// What it is, where an adapter says so in the gateway's own words.
    pub means: Option<Kind>,
    /// Why the adapter that was to read it could not; for the log.
    pub unread: Option<String>,
}

/// An error with everything that the attempt loop, the caller and the log need of it.
#[derive(Debug, Clone)]
pub struct Fault {
    pub kind: Kind,
    /// What happened, for the caller. Never holds a prompt, an upstream key or an upstream address.
    pub message: String,
    /// The request field at fault.
    pub param: Option<String>,
    /// How long to wait before another try.
    pub retry_after: Option<Duration>,
    /// The cause, for the log only.
    pub source: Option<String>,
    pub refusal: Option<Box<Refusal>>,
    /// Which targets there were and what removed each; goes into the error's body.
    pub availability: Option<Box<serde_json::Value>>,
    /// What a policy says of it in its own words.
    pub own: Option<Box<Own>>,
}

/// A policy's own code and status, for the caller. The metrics keep to the table's code, and the log has both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Own {
    pub code: String,
    pub status: Option<u16>,
}

impl Fault {
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Fault {
            kind,
            message: message.into(),
            param: None,
            retry_after: None,
            source: None,
            refusal: None,
            availability: None,
            own: None,
        }
    }

    /// Names the request field at fault.
    #[must_use]
    pub fn param(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into());
        self
    }

    /// Keeps the cause for the log.
    #[must_use]
    pub fn because(mut self, source: impl fmt::Display) -> Self {
        self.source = Some(source.to_string());
        self
    }

    #[must_use]
    pub fn refusal(mut self, refusal: Refusal) -> Self {
        self.refusal = Some(Box::new(refusal));
        self
    }

    #[must_use]
    pub fn retry_after(mut self, wait: Option<Duration>) -> Self {
        self.retry_after = wait;
        self
    }

    pub fn code(&self) -> &'static str {
        self.kind.row().code
    }

    /// The row whose types callers see: the kind's own, or of what a policy or an upstream says the one that its status is
    /// of.
    pub fn class(&self) -> &'static Row {
        let kind = match self.own.as_ref().and_then(|own| own.status) {
            None => match (self.kind, self.refusal.as_deref().map(|refusal| refusal.status)) {
                (Kind::UpstreamError, Some(408 | 504)) => Kind::TotalTimeout,
                (Kind::UpstreamError, Some(409)) => return &CONFLICT,
                (Kind::UpstreamRejected, Some(413)) => Kind::BodyTooLarge,
                _ => self.kind,
            },
            Some(429) => Kind::LimitExceeded,
            Some(503 | 529) => Kind::Overloaded,
            Some(408 | 504) => Kind::TotalTimeout,
            Some(500..) => Kind::Internal,
            Some(401) => Kind::InvalidCredential,
            Some(404) => Kind::ModelNotFound,
            Some(413) => Kind::BodyTooLarge,
            Some(403) if self.kind == Kind::InvalidCredential => Kind::ModelNotAllowed,
            Some(403) => self.kind,
            Some(_) => Kind::InvalidRequest,
        };
        kind.row()
    }

    /// The code that callers see: a policy's own, or the table's.
    pub fn told_code(&self) -> &str {
        self.own.as_ref().map_or(self.code(), |own| &own.code)
    }

    pub fn side(&self) -> Side {
        self.kind.row().side
    }

    pub fn retry(&self) -> Retry {
        self.kind.row().retry
    }

    /// The HTTP status a caller of `dialect` gets. The upstream's own, where it speaks the caller's dialect; across
    /// dialects too where it only says which of many 4xx or 5xx it was, while for meanings that dialects give different
    /// statuses (an empty account, a full context) the table's, and so where an adapter says what it means. An upstream that refused *our* credential is a bad gateway,
    /// not the caller's 401.
    pub fn status(&self, dialect: &str) -> u16 {
        if let Some(status) = self.own.as_ref().and_then(|own| own.status) {
            return status;
        }
        let table = self.kind.row().status;
        let Some(refusal) = self.refusal.as_deref().filter(|refusal| (400..600).contains(&refusal.status)) else {
            return table;
        };
        match self.kind {
            Kind::UpstreamCredential => table,
            _ if refusal.means.is_some() => table,
            _ if refusal.dialect == dialect => refusal.status,
            Kind::QuotaExceeded | Kind::ContextLength | Kind::ContentPolicy | Kind::RateLimited => table,
            _ => refusal.status,
        }
    }

    /// The message with the table's advice, as callers see it.
    pub fn text(&self) -> String {
        let advice = self.kind.row().advice;
        match (&self.refusal, advice) {
            // The upstream's own words stand alone, unless what it refused was ours.
            (Some(_), _) if self.kind != Kind::UpstreamCredential => self.message.clone(),
            (_, "") => self.message.clone(),
            // A policy's author has said what there is to say.
            _ if self.own.is_some() => self.message.clone(),
            _ => format!("{} {advice}", self.message),
        }
    }

    /// Whether the caller's SDK should try again by itself (`x-should-retry`): as the upstream said, where the fault is its
    /// answer to the caller.
    pub fn should_retry(&self) -> bool {
        let said = self.refusal.as_deref().and_then(|refusal| refusal.should_retry);
        if let Some(said) = said.filter(|_| self.own.is_none() && self.kind != Kind::UpstreamCredential) {
            return said;
        }
        let room = matches!(self.kind, Kind::LimitExceeded | Kind::TargetLimited | Kind::LimitsUnavailable)
            && self.retry_after.is_some();
        let soon = matches!(self.kind, Kind::Draining | Kind::NoTarget | Kind::TargetUnavailable);
        let own =
            matches!(self.own.as_deref(), Some(Own { status: Some(429 | 503), .. })) && self.retry_after.is_some();
        self.retry() == Retry::Same || soon || room || own
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code(), self.message)?;
        match &self.source {
            Some(source) => write!(f, " ({source})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Fault {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_is_in_order_and_codes_are_unique() {
        let mut codes = std::collections::HashSet::new();
        for (i, row) in FAULTS.iter().enumerate() {
            assert_eq!(row.kind as usize, i, "{} stands out of order", row.code);
            assert!(codes.insert(row.code), "{} stands twice", row.code);
            assert!((400..600).contains(&row.status), "{}", row.code);
        }
        assert_eq!(FAULTS.len(), Kind::Internal as usize + 1);
    }

    #[test]
    fn errors_of_the_gateway_say_what_to_do() {
        for row in FAULTS.iter().filter(|row| row.side == Side::Gateway) {
            assert!(!row.advice.is_empty(), "{} gives no advice", row.code);
        }
    }

    #[test]
    fn what_a_policy_says_has_the_class_of_its_status() {
        for (status, openai, anthropic, gemini) in [
            (401, "authentication_error", "authentication_error", "UNAUTHENTICATED"),
            (404, "invalid_request_error", "not_found_error", "NOT_FOUND"),
            (413, "invalid_request_error", "request_too_large", "INVALID_ARGUMENT"),
            (418, "invalid_request_error", "invalid_request_error", "INVALID_ARGUMENT"),
            (429, "rate_limit_error", "rate_limit_error", "RESOURCE_EXHAUSTED"),
            (503, "server_error", "overloaded_error", "UNAVAILABLE"),
            (504, "server_error", "timeout_error", "DEADLINE_EXCEEDED"),
            (529, "server_error", "overloaded_error", "UNAVAILABLE"),
        ] {
            let mut fault = Fault::new(Kind::PolicyRejected, "no");
            fault.own = Some(Box::new(Own { code: "mine".into(), status: Some(status) }));
            let row = fault.class();
            assert_eq!((row.openai, row.anthropic, row.gemini), (openai, anthropic, gemini), "{status}");
        }
    }

    #[test]
    fn the_upstreams_word_on_another_try_is_the_callers() {
        let fault = |kind: Kind, status: u16, should_retry: Option<bool>| {
            Fault::new(kind, "no").refusal(Refusal { status, should_retry, ..Refusal::default() })
        };
        for (kind, status, ours) in [
            (Kind::UpstreamError, 500, true),
            (Kind::RateLimited, 429, true),
            (Kind::UpstreamRejected, 400, false),
            (Kind::QuotaExceeded, 429, false),
        ] {
            assert_eq!(fault(kind, status, None).should_retry(), ours, "{status}");
            assert!(fault(kind, status, Some(true)).should_retry(), "{status}");
            assert!(!fault(kind, status, Some(false)).should_retry(), "{status}");
        }
        assert!(!fault(Kind::UpstreamCredential, 401, Some(true)).should_retry(), "the key was ours");
    }

    #[test]
    fn what_an_upstream_answers_has_the_class_of_its_status() {
        for (kind, status, openai, anthropic, gemini) in [
            (Kind::UpstreamError, 500, "server_error", "api_error", "INTERNAL"),
            (Kind::UpstreamError, 504, "server_error", "timeout_error", "DEADLINE_EXCEEDED"),
            (Kind::UpstreamError, 408, "server_error", "timeout_error", "DEADLINE_EXCEEDED"),
            (Kind::UpstreamError, 409, "invalid_request_error", "invalid_request_error", "ABORTED"),
            (Kind::UpstreamRejected, 413, "invalid_request_error", "request_too_large", "INVALID_ARGUMENT"),
            (Kind::ContextLength, 413, "invalid_request_error", "invalid_request_error", "INVALID_ARGUMENT"),
        ] {
            let fault = Fault::new(kind, "no").refusal(Refusal { status, ..Refusal::default() });
            let row = fault.class();
            assert_eq!((row.openai, row.anthropic, row.gemini), (openai, anthropic, gemini), "{status}");
            assert_eq!(fault.code(), kind.row().code, "{status}");
        }
    }

    #[test]
    fn an_upstream_that_refuses_our_key_is_not_the_callers_401() {
        let fault = Fault::new(Kind::UpstreamCredential, "openai refused the credential.").refusal(Refusal {
            status: 401,
            message: "Incorrect API key".into(),
            ..Refusal::default()
        });
        assert_eq!(fault.status("openai_chat"), 502);
        assert!(fault.text().contains("api_key"));
    }
}
