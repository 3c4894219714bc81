//! What a stream is told of its exchange: limits, framing, and who looks at it on its way.
//!
//! Plain data, made once per stream by `reply`.

use std::time::Duration;

use tokio::time::Instant;

use super::onward::Onward;
use crate::chat::{Event, Usage};
use crate::dialect::Dialect;
use crate::fault::{Fault, Kind};
use crate::route::{Target, Timeouts};

/// How frames are put on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    Sse,
    /// One JSON array that grows: Gemini without `alt=sse`.
    JsonArray,
}

/// When an answer must be complete.
#[derive(Debug, Clone, Copy)]
pub struct Deadline {
    pub at: Instant,
    pub(super) limit: Duration,
    /// [`Kind::TotalTimeout`], or [`Kind::AttemptTimeout`] where the target's or provider's own limit comes first.
    pub(super) kind: Kind,
    /// The limit is the caller's own.
    pub(super) callers: bool,
}

impl Deadline {
    /// The nearer of the limit of an exchange that started then and that of an attempt which began just now.
    /// `patience` is the caller's own limit, where it has one.
    pub fn of(started: Instant, patience: Option<Duration>, target: &Target, began: Instant) -> Self {
        let Timeouts { attempt, total, .. } = target.timeouts;
        let total = patience.map_or(total, |patience| patience.min(total));
        if began + attempt < started + total {
            return Deadline { at: began + attempt, limit: attempt, kind: Kind::AttemptTimeout, callers: false };
        }
        let callers = patience.is_some_and(|patience| patience <= target.timeouts.total);
        Deadline { at: started + total, limit: total, kind: Kind::TotalTimeout, callers }
    }

    /// Whether it is the caller who would not wait any longer.
    pub fn is_callers(&self, fault: &Fault) -> bool {
        self.callers && fault.kind == self.kind && Instant::now() >= self.at
    }

    /// The fault of an answer that its client has not taken in time, whoever's limit it is: the upstream was held back.
    pub fn outlasted(&self) -> Fault {
        Deadline { kind: Kind::TotalTimeout, ..*self }.missed()
    }

    /// The fault of an answer that is late.
    pub fn missed(&self) -> Fault {
        let what = if self.kind == Kind::AttemptTimeout { "attempt" } else { "exchange" };
        Fault::new(self.kind, format!("The {what} took longer than {:?}.", self.limit))
    }
}

/// What a stream is told of its exchange.
pub struct Setting {
    /// The client's dialect.
    pub dialect: &'static dyn Dialect,
    /// What the client calls the model, where a relayed stream must call it so.
    pub called: Option<String>,
    pub framing: Framing,
    pub request_id: String,
    /// The longest silence between two events.
    pub idle: Duration,
    /// When the first content is due.
    pub first_token: (Instant, Duration),
    /// When the whole answer is due.
    pub deadline: Deadline,
    /// Silence after which a comment is sent.
    pub keep_alive: Option<Duration>,
    /// The longest event.
    pub max_event_bytes: usize,
    /// Writes the cost into the usage that goes by, where the caller asked for it.
    pub add_cost: Option<CostWriter>,
    /// Is shown the data of the last frames of a translated stream.
    pub at_end: Option<AtEnd>,
    /// Lets another upstream go on where this one breaks off; only with [`Mode::Translate`].
    pub onward: Option<Box<Onward>>,
    /// What the ask counts as where the provider does not say it.
    pub input_tokens: u64,
    /// Changes what goes by; only decoded streams have one.
    pub filter: Option<Box<dyn Filter>>,
}

/// Looks at the events of a stream between decoder and encoder, and may change them.
pub trait Filter: Send {
    /// Changes events in place; it may hold text back. Gives the way on.
    ///
    /// # Errors
    /// The stream must not go on; what was said so far stands.
    fn events(&mut self, events: &mut Vec<Event>) -> Result<Flow, Fault>;

    /// The stream is the answer: called before anything of it goes out, and as often as more does.
    fn goes_out(&mut self) {}

    /// When text that is held back must go out, whether or not more comes.
    fn due(&self) -> Option<Instant>;
}

/// The way on after a look at events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// Nothing was changed: these are the events that were given.
    Same,
    On,
    /// The stream ends well here, with these events.
    End,
}

/// Looks at the data of the frames that end a stream.
pub type AtEnd = Box<dyn Fn(&[u8]) + Send>;

/// Rewrites one frame with what the usage seen so far costs; None leaves the frame as it is.
pub type CostWriter = Box<dyn Fn(&[u8], &Usage) -> Option<Vec<u8>> + Send>;
