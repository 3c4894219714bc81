//! Between the neutral forms and the records of the contract.
//!
//! Loses only what the contract leaves out on purpose: opaque values that another provider made.

mod answer;
mod ask;

use serde_json::Value;

use super::bindings::chat as wit;
use crate::chat::{Finish, Usage};

pub use answer::{answer, embed_answer, refusal, rerank_answer, step};
pub use ask::{ask, embed_ask, rerank_ask};

/// JSON text of a value; empty where there is none.
fn text_of(value: Option<&Value>) -> String {
    value.map(Value::to_string).unwrap_or_default()
}

/// The value of JSON text. What is not JSON counts as text.
fn value_of(text: String) -> Option<Value> {
    if text.is_empty() {
        return None;
    }
    Some(serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

fn usage(usage: wit::Usage) -> Usage {
    Usage {
        input: usage.input,
        output: usage.output,
        cache_read: usage.cache_read,
        cache_write: usage.cache_write,
        reasoning: usage.reasoning,
        ..Usage::default()
    }
    .within()
}

fn reason(reason: wit::FinishReason) -> Finish {
    match reason {
        wit::FinishReason::Stop => Finish::Stop,
        wit::FinishReason::StopSequence => Finish::StopSequence,
        wit::FinishReason::Length => Finish::Length,
        wit::FinishReason::ToolCalls => Finish::ToolCalls,
        wit::FinishReason::ContentFilter => Finish::ContentFilter,
        wit::FinishReason::Refusal => Finish::Refusal,
        wit::FinishReason::Pause => Finish::Pause,
        wit::FinishReason::ContextFull => Finish::ContextFull,
        wit::FinishReason::Error => Finish::Error,
    }
}
