//! The decision trace: what each stage saw and decided, with its time. Kept only where somebody will read it.
//!
//! Never holds a prompt, an answer or a key.

use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

/// The steps of one exchange, in order.
#[derive(Debug, Default, Serialize)]
pub struct Trace {
    pub steps: Vec<Step>,
}

/// One decision.
#[derive(Debug, Serialize)]
pub struct Step {
    /// Since the exchange began, in milliseconds.
    pub at_ms: f64,
    /// `plan`, `attempt`, `limit`, `cache`, `hook`, …
    pub stage: &'static str,
    /// What was decided and why.
    pub what: Value,
}

impl Trace {
    pub fn note(&mut self, at: Duration, stage: &'static str, what: Value) {
        self.steps.push(Step { at_ms: at.as_secs_f64() * 1000.0, stage, what });
    }
}
