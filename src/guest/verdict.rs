//! What guests may answer, and at which phase: the same for every language.
//!
//! Data only. The stage that runs hooks applies a verdict after the guest has returned, all of it or nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::host::{Phase, Phases};

pub use crate::host::http::Header;

/// What a guest decided.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// Nothing to say.
    Pass,
    /// Change what is on its way: the ask, the try, the answer.
    Patch(Box<Patch>),
    /// Ask these targets instead.
    Plan(Wish),
    /// Answer now, in the policy's own words.
    Respond(Respond),
    /// Refuse, as an error of the caller's dialect.
    Reject(Reject),
    /// Ask the same target again after a while.
    Same(Duration),
    /// Go on with the plan's next target.
    Next,
    /// Try nothing more; end the stream.
    Stop(Stop),
    /// Treat the answer as a failed try.
    Fault(String),
    /// The text of a stream event, changed; empty drops it.
    Text(String),
    /// Who is calling.
    Principal(Who),
    /// Fields for the log.
    Fields(Map<String, Value>),
}

impl Verdict {
    /// The word in the trace and in metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Verdict::Pass => "pass",
            Verdict::Patch(_) => "patch",
            Verdict::Plan(_) => "plan",
            Verdict::Respond(_) => "respond",
            Verdict::Reject(_) => "reject",
            Verdict::Same(_) => "same",
            Verdict::Next => "next",
            Verdict::Stop(_) => "stop",
            Verdict::Fault(_) => "fault",
            Verdict::Text(_) => "text",
            Verdict::Principal(_) => "principal",
            Verdict::Fields(_) => "fields",
        }
    }

    /// Where this kind of verdict means something.
    pub fn phases(&self) -> Phases {
        use Phase::{Answer, Attempt, Auth, Done, Event, Fault, Request, Route};
        match self {
            Verdict::Pass => Phases::ALL,
            Verdict::Patch(_) => Phases::of(&[Request, Attempt, Answer]),
            Verdict::Plan(_) => Phases::of(&[Route, Fault]),
            Verdict::Respond(_) => Phases::of(&[Request, Route, Fault, Answer]),
            Verdict::Reject(_) => Phases::of(&[Auth, Request, Route, Fault, Answer]),
            Verdict::Same(_) | Verdict::Next => Phases::of(&[Fault]),
            Verdict::Stop(_) => Phases::of(&[Fault, Event]),
            Verdict::Fault(_) => Phases::of(&[Answer]),
            Verdict::Text(_) => Phases::of(&[Event]),
            Verdict::Principal(_) => Phases::of(&[Auth]),
            Verdict::Fields(_) => Phases::of(&[Done]),
        }
    }
}

/// A change of an ask, a try or an answer. What is not set stays as it is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Patch {
    /// Request: the name that is planned for. Attempt: the upstream's name of the model.
    pub model: Option<String>,
    /// Top-level fields of the body by name; None takes one out. Request: in the caller's dialect; attempt: the target's.
    pub params: BTreeMap<String, Option<Value>>,
    /// Attempt: headers of the upstream request. Answer: of the answer. None takes one out.
    pub headers: BTreeMap<String, Option<Header>>,
    /// Request: instead of the system prompt.
    pub system: Option<String>,
    /// Request: the turns, all of them.
    pub messages: Option<Vec<Turn>>,
    /// Request and answer: texts by their number, as `texts()` gives them.
    pub texts: BTreeMap<usize, String>,
    /// Answer: the whole text of its first choice.
    pub text: Option<String>,
    /// Answer: the whole body, in the caller's dialect.
    pub body: Option<Value>,
}

impl Patch {
    pub fn is_empty(&self) -> bool {
        *self == Patch::default()
    }

    /// Whether conversation or answer must be decoded for it.
    pub fn edits_text(&self) -> bool {
        self.system.is_some() || self.messages.is_some() || !self.texts.is_empty() || self.text.is_some()
    }
}

/// One turn of a conversation as a policy writes it.
#[derive(Debug, Clone, PartialEq)]
pub enum Turn {
    /// The turn of the present ask with this number, counted from 1, as it is.
    Keep(usize),
    Say {
        role: String,
        text: String,
    },
}

/// A plan by names.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Wish {
    pub steps: Vec<Step>,
    pub mode: Mode,
    /// Attempts of the exchange, all targets together.
    pub max_attempts: Option<u32>,
    /// When the whole exchange must be over, from its start.
    pub deadline: Option<Duration>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mode {
    /// One after the other.
    #[default]
    Ordered,
    /// The first by weight, the rest in order of weight.
    Weighted,
}

/// One target of a wish, with what differs for it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Step {
    /// `provider/model`, or a configured model, which stands for all its targets.
    pub target: String,
    pub weight: Option<f64>,
    /// Parameters set for this target, over its own.
    pub params: BTreeMap<String, Option<Value>>,
    pub timeout: Option<Duration>,
    pub first_token: Option<Duration>,
}

/// An answer in the policy's own words.
#[derive(Debug, Clone, PartialEq)]
pub struct Respond {
    pub status: u16,
    pub body: Body,
    pub headers: BTreeMap<String, String>,
}

/// What an answer holds.
#[derive(Debug, Clone, PartialEq)]
pub enum Body {
    /// What the model is made to say; written in the caller's dialect, as a stream where one was asked for.
    Say(String),
    /// A body as it stands.
    Json(Value),
    Raw(String),
}

/// A refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reject {
    /// The policy's own word for it.
    pub code: String,
    pub message: String,
    pub status: Option<u16>,
    pub retry_after: Option<Duration>,
}

/// The end of a stream, or of all tries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stop {
    /// Ends with an error that says this; without it, as if the model had stopped by itself.
    pub message: Option<String>,
    pub code: Option<String>,
    /// Last words before a good end.
    pub text: Option<String>,
}

/// Who is calling, as a policy names it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Who {
    pub key: String,
    pub project: Option<String>,
    pub models: Vec<String>,
    pub metadata: BTreeMap<String, String>,
}
