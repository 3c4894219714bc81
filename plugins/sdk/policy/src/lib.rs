//! The contract of policies for Rust: what they may call, and short ways to say what they decide.
//!
//! A policy names its phases with [`policy!`], implements the `Guest` of each, and ends with `export!(MyPolicy)`. The types
//! are those of `plugins/wit`, documented there line by line. Never exports anything itself: the phases are the policy's.

pub use {serde_json, wit_bindgen};

wit_bindgen::generate!({ path: "../../wit", world: "policy-imports", generate_all });

pub use portcullis::gateway::{
    cache, cost, ctx, decision, exchange, hash, http, json, kv, limit, llm, log, metrics, pick, rand, re, secret, targets, time,
    tokens, trace,
};

use decision::{Patch, Plan, Reject, Step};

/// Generates the exports of a world that is named and written here, over the types of this crate.
#[macro_export]
macro_rules! policy {
    ($world:literal, $text:literal) => {
        $crate::wit_bindgen::generate!({
            path: "../wit",
            inline: $text,
            world: $world,
            runtime_path: "portcullis_policy::wit_bindgen::rt",
            with: {
                "portcullis:gateway/cache@0.1.0": portcullis_policy::cache,
                "portcullis:gateway/kv@0.1.0": portcullis_policy::kv,
                "portcullis:gateway/limit@0.1.0": portcullis_policy::limit,
                "portcullis:gateway/targets@0.1.0": portcullis_policy::targets,
                "portcullis:gateway/pick@0.1.0": portcullis_policy::pick,
                "portcullis:gateway/cost@0.1.0": portcullis_policy::cost,
                "portcullis:gateway/tokens@0.1.0": portcullis_policy::tokens,
                "portcullis:gateway/json@0.1.0": portcullis_policy::json,
                "portcullis:gateway/re@0.1.0": portcullis_policy::re,
                "portcullis:gateway/hash@0.1.0": portcullis_policy::hash,
                "portcullis:gateway/log@0.1.0": portcullis_policy::log,
                "portcullis:gateway/trace@0.1.0": portcullis_policy::trace,
                "portcullis:gateway/metrics@0.1.0": portcullis_policy::metrics,
                "portcullis:gateway/time@0.1.0": portcullis_policy::time,
                "portcullis:gateway/rand@0.1.0": portcullis_policy::rand,
                "portcullis:gateway/secret@0.1.0": portcullis_policy::secret,
                "portcullis:gateway/http@0.1.0": portcullis_policy::http,
                "portcullis:gateway/llm@0.1.0": portcullis_policy::llm,
                "portcullis:gateway/ctx@0.1.0": portcullis_policy::ctx,
                "portcullis:gateway/exchange@0.1.0": portcullis_policy::exchange,
                "portcullis:gateway/decision@0.1.0": portcullis_policy::decision,
            },
        });
    };
}

impl Default for Patch {
    /// Changes nothing.
    fn default() -> Self {
        Patch {
            model: None,
            params: Vec::new(),
            headers: Vec::new(),
            system: None,
            messages: None,
            texts: Vec::new(),
            text: None,
            body: None,
        }
    }
}

/// A refusal with a status.
pub fn reject(code: &str, message: impl Into<String>, status: u16) -> Reject {
    Reject { code: code.into(), message: message.into(), status: Some(status), retry_after_ms: None }
}

/// A step of a plan with nothing particular to it.
pub fn step(target: impl Into<String>) -> Step {
    Step { target: target.into(), weight: None, params: Vec::new(), timeout_ms: None, first_token_ms: None }
}

/// These targets, one after the other.
pub fn plan(steps: Vec<Step>) -> Plan {
    Plan { steps, mode: decision::Mode::Ordered, max_attempts: None, deadline_ms: None }
}

/// A label of a metric.
pub fn label(name: &str, value: impl Into<String>) -> metrics::Label {
    metrics::Label { name: name.into(), value: value.into() }
}
