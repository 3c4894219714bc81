//! What planning may know of a request and of its targets' health, each fact worked out only when a rule asks for it.
//!
//! Traits, so that planning is tested against tables: no sockets, no clock.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use serde_json::Value;

use super::Target;
use crate::state::health::{Measure, Millis, Standing};

/// A request, as rules see it.
pub trait Facts {
    /// The answer is wanted as a stream.
    fn stream(&self) -> bool;
    /// What a rule looks at; None when the request has none.
    fn value(&self, source: &Source) -> Option<Value>;
    /// Estimate of the tokens of the ask and of its answer's bound.
    fn tokens(&self) -> u64;
    /// What that is at most, found out without reading the ask.
    fn tokens_at_most(&self) -> u64;
    /// The bound of the answer, where the request has one.
    fn max_tokens(&self) -> Option<u64>;
    /// What the target must be able to do.
    fn needs(&self) -> Needs;
    /// The names of the parameters that are set.
    fn parameters(&self) -> Vec<String>;
    /// The first parameter that does not reach this target's model as the request has it, and why.
    fn loses(&self, target: &Target) -> Option<(String, String)>;
}

/// The health of targets at the moment of planning.
pub trait Health {
    fn now(&self) -> Millis;
    fn standing(&self, target: &Arc<Target>) -> Standing;
    fn measure(&self, target: &Arc<Target>) -> Measure;
}

/// What of a request a rule looks at.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Source {
    /// A header, in lower case.
    Header(String),
    /// A field of the body, dotted.
    Param(String),
    /// A label of the caller's key.
    Metadata(String),
    /// Name of the caller's key.
    Key,
    Project,
    /// The model as the caller named it.
    Model,
    /// The session that the caller named.
    Session,
    PromptCacheKey,
    /// The first system and user messages.
    Messages,
    Tokens,
}

/// A number that stands for a value, the same in every process; for assignments that must be stable.
pub fn stable(value: &Value) -> u64 {
    let mut hasher = DefaultHasher::new();
    match value {
        Value::String(text) => text.hash(&mut hasher),
        other => other.to_string().hash(&mut hasher),
    }
    hasher.finish()
}

/// The place of a value between 0 and 1, the same in every process.
pub fn share(value: &Value) -> f64 {
    unit(mix(stable(value)))
}

/// SplitMix64's finisher: every bit of the input moves every bit of the output.
pub(super) fn mix(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    word ^ (word >> 31)
}

/// A word as a number from 0 to 1, without 1.
pub(super) fn unit(word: u64) -> f64 {
    (word >> 11) as f64 / (1u64 << 53) as f64
}

/// Abilities of a model, as a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Needs(u8);

impl Needs {
    pub const NONE: Needs = Needs(0);
    pub const TOOLS: Needs = Needs(1);
    pub const VISION: Needs = Needs(1 << 1);
    pub const AUDIO: Needs = Needs(1 << 2);
    pub const PDF: Needs = Needs(1 << 3);
    pub const JSON_SCHEMA: Needs = Needs(1 << 4);
    pub const REASONING: Needs = Needs(1 << 5);

    /// Each ability with its word in configuration, traces and errors.
    pub const ALL: [(Needs, &'static str); 6] = [
        (Needs::TOOLS, "tools"),
        (Needs::VISION, "vision"),
        (Needs::AUDIO, "audio"),
        (Needs::PDF, "pdf"),
        (Needs::JSON_SCHEMA, "json_schema"),
        (Needs::REASONING, "reasoning"),
    ];

    pub fn contains(self, one: Needs) -> bool {
        self.0 & one.0 == one.0
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    #[must_use]
    pub fn with(self, other: Needs) -> Needs {
        Needs(self.0 | other.0)
    }

    #[must_use]
    pub fn and(self, other: Needs) -> Needs {
        Needs(self.0 & other.0)
    }
}
