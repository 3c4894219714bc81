//! Usage and the reason of the end, both ways. Read by the answer, the stream and the sniffer alike.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::chat::{Finish, Usage};

/// `usage` of a response. Servers leave parts out and send nulls.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Counts {
    input_tokens: Option<u64>,
    input_tokens_details: Option<InputDetails>,
    output_tokens: Option<u64>,
    output_tokens_details: Option<OutputDetails>,
    total_tokens: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct InputDetails {
    cached_tokens: Option<u64>,
    cache_write_tokens: Option<u64>,
    audio_tokens: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct OutputDetails {
    reasoning_tokens: Option<u64>,
    audio_tokens: Option<u64>,
}

impl Counts {
    /// What the counts mean; None where they say too little.
    pub(super) fn usage(self) -> Option<Usage> {
        let input = self.input_tokens_details.unwrap_or_default();
        let output = self.output_tokens_details.unwrap_or_default();
        let usage = Usage {
            input: self.input_tokens.unwrap_or_default(),
            cache_read: input.cached_tokens,
            cache_write: input.cache_write_tokens,
            output: self.output_tokens.unwrap_or_default(),
            reasoning: output.reasoning_tokens,
            input_audio: input.audio_tokens,
            output_audio: output.audio_tokens,
            stated_total: self.total_tokens,
            ..Usage::default()
        };
        usage.parted(true)?.believed()
    }
}

/// Tiers that the form knows. Typed clients refuse others (Groq's `on_demand`), and OpenAI does.
const TIERS: &[&str] = &["auto", "default", "flex", "scale", "priority"];

/// A tier in this form's words.
pub(super) fn tier(word: &str) -> Option<&str> {
    TIERS.contains(&word).then_some(word)
}

/// Reads `usage`; None when it is absent, null, no object, or a total alone.
pub(super) fn decode(usage: Option<&Value>) -> Option<Usage> {
    let usage = usage.filter(|usage| usage.is_object())?;
    Counts::deserialize(usage).ok().and_then(Counts::usage)
}

/// Typed clients want every part, so what is unknown is zero here.
pub(super) fn encode(usage: &Usage) -> Value {
    json!({
        "input_tokens": usage.input,
        "input_tokens_details": {
            "cached_tokens": usage.cache_read.unwrap_or(0),
            "cache_write_tokens": usage.cache_write.unwrap_or(0),
        },
        "output_tokens": usage.output,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning.unwrap_or(0)},
        "total_tokens": usage.total(),
    })
}

/// Why a response ended, with the provider's own word. None while it is still being made.
pub(super) fn finish(status: &str, incomplete: Option<&str>, calls: bool) -> (Option<Finish>, Option<String>) {
    let native = incomplete.unwrap_or(status);
    let finish = match status {
        "queued" | "in_progress" => None,
        "failed" | "cancelled" => Some(Finish::Error),
        "incomplete" => Some(match incomplete {
            Some("content_filter") => Finish::ContentFilter,
            // `max_output_tokens`, and whatever else cut it short.
            _ => Finish::Length,
        }),
        _ if calls => Some(Finish::ToolCalls),
        _ => Some(Finish::Stop),
    };
    (finish, (!native.is_empty()).then(|| native.to_owned()))
}

/// `status` and the reason in `incomplete_details`. A model that declined in words of their own kind (`refused`) has
/// completed its answer, as OpenAI's do; where nothing else would tell, the status does.
pub(super) fn status(finish: Option<Finish>, refused: bool) -> (&'static str, Option<&'static str>) {
    match finish {
        Some(Finish::Length | Finish::ContextFull) => ("incomplete", Some("max_output_tokens")),
        Some(Finish::ContentFilter) => ("incomplete", Some("content_filter")),
        Some(Finish::Refusal) if !refused => ("incomplete", Some("content_filter")),
        Some(Finish::Error) => ("failed", None),
        _ => ("completed", None),
    }
}
