//! One client request and all that happens to it: the value that travels through the pipeline.
//!
//! Holds facts only; `settle` reads them once, when the exchange ends however it ends.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;
use tokio::time::Instant;

use crate::auth::Principal;
use crate::cache::Visit;
use crate::chat::{Finish, Usage};
use crate::dialect::{Dialect, Op};
use crate::fault::Fault;
use crate::route::Target;
use crate::trace::Trace;

/// Everything known of an exchange.
#[derive(Debug)]
pub struct Exchange {
    /// The gateway's own id, `gen-` and 24 hexadecimal digits; `GET /v1/generation?id=` finds it.
    pub id: String,
    /// The id that caller and gateway both know: the caller's, where it sent one.
    pub request_id: String,
    /// When the head had been read.
    pub started: Instant,
    /// The same moment on the wall clock, in Unix milliseconds.
    pub started_ms: u64,
    /// The path's pattern, as in `api::ENDPOINTS`.
    pub endpoint: &'static str,
    /// The caller's wire form.
    pub dialect: &'static dyn Dialect,
    pub op: Op,
    pub stream: bool,
    /// The model as the caller named it.
    pub model: String,
    pub principal: Option<Arc<Principal>>,
    pub peer: Option<SocketAddr>,
    /// Number of the generation that serves this exchange.
    pub generation: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub attempts: SmallVec<[Attempt; 1]>,
    /// What this process itself spent before the head of the answer was ready.
    pub overhead_at_head: Duration,
    /// Fields that the target could not express: (field, why).
    pub dropped: Vec<(&'static str, &'static str)>,
    /// Whether the caller asked for `usage.cost`.
    pub usage_cost: bool,
    pub seen: Seen,
    /// The conversation it belongs to, where conversations are kept at a target.
    pub session: Option<Session>,
    /// How long the caller waits at most, where it says so.
    pub patience: Option<Duration>,
    /// Its business with the cache; None where nothing is cached.
    pub cache: Option<Box<Visit>>,
    /// What was decided on the way; None when nobody will read it.
    pub trace: Option<Box<Trace>>,
    /// Status of the head that was or would have been sent.
    pub status: u16,
    pub outcome: Outcome,
}

/// A conversation that is kept at one target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Session {
    pub key: u64,
    /// How long after its last request it is remembered.
    pub ttl: Duration,
}

/// How an exchange ended.
#[derive(Debug)]
pub enum Outcome {
    /// Not yet: an exchange dropped in this state lost its client.
    Open,
    Complete,
    Failed(Fault),
}

/// One try of one target.
#[derive(Debug)]
pub struct Attempt {
    pub target: Arc<Target>,
    /// When it began, from the exchange's start.
    pub at: Duration,
    /// Until its answer was good, or it failed.
    pub took: Duration,
    /// The upstream's status, where it gave one.
    pub status: Option<u16>,
    /// Why it was not the last.
    pub fault: Option<Fault>,
}

/// What went by of the answer.
#[derive(Debug, Default)]
pub struct Seen {
    pub usage: Option<Usage>,
    pub finish: Option<Finish>,
    /// The upstream's id of the answer.
    pub id: Option<String>,
    /// The model as the upstream names it.
    pub model: Option<String>,
    /// When the first content went by.
    pub first_content: Option<Instant>,
    /// Frames with or after the first content; about one token each in most streams.
    pub frames: u64,
}

impl Exchange {
    /// Notes a decision, where somebody will read it.
    pub fn note(&mut self, stage: &'static str, what: impl FnOnce() -> serde_json::Value) {
        let at = self.started.elapsed();
        if let Some(trace) = &mut self.trace {
            trace.note(at, stage, what());
        }
    }

    /// The target that answered, or that failed last.
    pub fn target(&self) -> Option<&Arc<Target>> {
        self.attempts.last().map(|attempt| &attempt.target)
    }

    /// Time spent in this process until now: what is left when waiting for upstreams is taken away.
    pub fn overhead(&self, now: Instant) -> Duration {
        let waited: Duration = self.attempts.iter().map(|attempt| attempt.took).sum();
        now.duration_since(self.started).saturating_sub(waited)
    }
}
