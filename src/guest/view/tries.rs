//! Tries of targets as guests see them: the one about to be made, and the one that failed.
//!
//! The ask that is tried is shown as it came; a try never changes it.

use std::sync::Arc;
use std::time::Duration;

use super::{Request, Row, Val, View};
use crate::fault::{Fault, Retry};
use crate::host::Visit;
use crate::route::Target;

/// One try, before it is made.
pub struct Try {
    pub visit: Arc<Visit>,
    pub request: Arc<Request>,
    pub target: Arc<Target>,
    /// Counted from 1.
    pub number: u32,
}

impl View for Try {
    const NAME: &'static str = "Try";
    const DOC: &'static str = "One try of one target, for `on_attempt`. The request stays as it is; what is returned holds for this try alone.";
    const FIELDS: &'static [Row] = &[
        ("target", "string", "`provider/model` that is about to be asked."),
        ("provider", "string", "Its provider."),
        ("model", "string", "The upstream's name of the model."),
        ("number", "number", "1 for the first try of the exchange."),
        ("elapsed_ms", "number", "Since the exchange began."),
    ];
    const METHODS: &'static [Row] = &[("request", "(self: Try) -> Request", "The ask that is tried.")];

    fn get(&self, field: &str) -> Option<Val<'_>> {
        Some(match field {
            "target" => Val::Text(self.target.name().into()),
            "provider" => Val::text(&self.target.provider.name),
            "model" => Val::text(&self.target.model),
            "number" => Val::Number(f64::from(self.number)),
            "elapsed_ms" => Val::ms(self.visit.started.elapsed()),
            _ => return None,
        })
    }
}

/// A try that failed.
pub struct Failure {
    pub visit: Arc<Visit>,
    pub request: Arc<Request>,
    pub fault: Fault,
    pub target: Arc<Target>,
    /// Counted from 1; 0 where nobody was asked.
    pub number: u32,
    pub took: Duration,
    /// Until the exchange's own deadline.
    pub left: Duration,
    /// Targets of the plan that have not been asked.
    pub remaining: usize,
}

impl View for Failure {
    const NAME: &'static str = "Failure";
    const DOC: &'static str = "A try that failed, or a request that no target takes now, for `on_fault`. Nothing has been sent to the caller yet.";
    const FIELDS: &'static [Row] = &[
        (
            "kind",
            "string",
            "The stable code: `rate_limited`, `context_length_exceeded`, `content_policy`, `stream_broken`, … See the table of errors.",
        ),
        ("status", "number?", "The upstream's status, where it gave one."),
        ("code", "string?", "The upstream's own code."),
        ("message", "string", "What happened, in the upstream's words where it has some."),
        ("retry", "string", "What the gateway would do: `same`, `next` or `never`."),
        ("retry_after_ms", "number?", "How long the upstream wants us to wait."),
        (
            "target",
            "string",
            "`provider/model` that failed; where no target takes the request, the one that would have been asked first.",
        ),
        ("provider", "string", "Its provider."),
        ("number", "number", "Which try of the exchange it was, from 1; 0 where no target takes the request."),
        ("took_ms", "number", "How long the try took."),
        ("elapsed_ms", "number", "Since the exchange began."),
        ("left_ms", "number", "Until the exchange must be over."),
        ("remaining", "number", "Targets of the plan that were not asked yet."),
    ];
    const METHODS: &'static [Row] = &[("request", "(self: Failure) -> Request", "The ask that failed.")];

    fn get(&self, field: &str) -> Option<Val<'_>> {
        let refusal = self.fault.refusal.as_deref();
        Some(match field {
            "kind" => Val::text(self.fault.code()),
            "status" => Val::count(refusal.map(|refusal| u64::from(refusal.status))),
            "code" => Val::maybe(refusal.and_then(|refusal| refusal.code.as_deref().or(refusal.kind.as_deref()))),
            "message" => Val::text(&self.fault.message),
            "retry" => Val::text(match self.fault.retry() {
                Retry::Never => "never",
                Retry::Same => "same",
                Retry::Next => "next",
            }),
            "retry_after_ms" => self.fault.retry_after.map_or(Val::Nil, Val::ms),
            "target" => Val::Text(self.target.name().into()),
            "provider" => Val::text(&self.target.provider.name),
            "number" => Val::Number(f64::from(self.number)),
            "took_ms" => Val::ms(self.took),
            "elapsed_ms" => Val::ms(self.visit.started.elapsed()),
            "left_ms" => Val::ms(self.left),
            "remaining" => Val::Number(self.remaining as f64),
            _ => return None,
        })
    }
}
