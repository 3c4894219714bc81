//! Token counts and the words beside them, both ways.
//!
//! Anthropic's `input_tokens` leaves out what was read from or written to the cache; the neutral input holds all three.

use serde_json::{Value, json};

use super::wire::{Object, count, str_of};
use crate::chat::Usage;

/// Anthropic's own counts. Reports in a stream are running totals: a field that a later one states replaces the earlier.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counts {
    input: Option<u64>,
    cache_read: Option<u64>,
    cache_write: Option<u64>,
    cache_write_1h: Option<u64>,
    output: Option<u64>,
    thinking: Option<u64>,
    /// Spent on shortening the conversation first. It is billed, and left out of the counts beside it.
    compaction: Option<Usage>,
}

/// What the rounds before the message cost that its own counts leave out, as `iterations` has them. Those of an advisor
/// run at another model's price and are left out here too.
pub fn compaction(usage: &Value) -> Option<Usage> {
    let rounds = usage.get("iterations").and_then(Value::as_array).into_iter().flatten();
    let compactions = rounds.filter(|round| str_of(round, "type") == Some("compaction"));
    compactions.filter_map(decode).reduce(|all, one| all.plus(&one))
}

impl Counts {
    /// Takes over what a `usage` object states.
    pub fn read(&mut self, usage: &Value) {
        let field = |of: &Value, key: &str| of.get(key).and_then(count);
        let lifetimes = usage.get("cache_creation").unwrap_or(&Value::Null);
        let long = field(lifetimes, "ephemeral_1h_input_tokens");
        let short = field(lifetimes, "ephemeral_5m_input_tokens");
        let written = field(usage, "cache_creation_input_tokens");
        let written = written.or_else(|| Some(long? + short.unwrap_or(0))).or(short);
        self.input = field(usage, "input_tokens").or(self.input);
        self.cache_read = field(usage, "cache_read_input_tokens").or(self.cache_read);
        self.cache_write = written.or(self.cache_write);
        self.cache_write_1h = long.or(self.cache_write_1h);
        self.output = field(usage, "output_tokens").or(self.output);
        let details = usage.get("output_tokens_details").unwrap_or(&Value::Null);
        self.thinking = field(details, "thinking_tokens").or(self.thinking);
        self.compaction = compaction(usage).or(self.compaction);
    }

    pub fn neutral(&self) -> Usage {
        let cached = self.cache_read.unwrap_or(0).saturating_add(self.cache_write.unwrap_or(0));
        let message = Usage {
            input: self.input.unwrap_or(0).saturating_add(cached),
            cache_read: self.cache_read,
            cache_write: self.cache_write,
            cache_write_1h: self.cache_write_1h,
            output: self.output.unwrap_or(0),
            reasoning: self.thinking,
            ..Usage::default()
        };
        self.compaction.map_or(message, |compaction| compaction.plus(&message))
    }
}

/// A `usage` object read on its own; None when it is no object.
pub fn decode(usage: &Value) -> Option<Usage> {
    usage.as_object()?;
    let mut counts = Counts::default();
    counts.read(usage);
    counts.neutral().believed()
}

/// The counts as Anthropic's object. Nothing known is all zeros: its SDKs require the object.
pub fn encode(usage: Option<&Usage>, tier: Option<&str>) -> Object {
    let usage = usage.copied().unwrap_or_default();
    // The three must add up to the input; routers are known to state the same tokens as read and written.
    let read = usage.cache_read.unwrap_or(0).min(usage.input);
    let written = usage.cache_write.unwrap_or(0).min(usage.input - read);
    let fresh = usage.input - read - written;
    let mut object = Object::new();
    object.insert("input_tokens".to_owned(), fresh.into());
    object.insert("cache_creation_input_tokens".to_owned(), written.into());
    object.insert("cache_read_input_tokens".to_owned(), read.into());
    if let Some(long) = usage.cache_write_1h {
        let long = long.min(written);
        let short = written - long;
        let lifetimes = json!({"ephemeral_5m_input_tokens": short, "ephemeral_1h_input_tokens": long});
        object.insert("cache_creation".to_owned(), lifetimes);
    }
    object.insert("output_tokens".to_owned(), usage.output.into());
    if let Some(thinking) = usage.reasoning {
        object.insert("output_tokens_details".to_owned(), json!({"thinking_tokens": thinking}));
    }
    if let Some(tier) = tier.and_then(tier_for_client) {
        object.insert("service_tier".to_owned(), tier.into());
    }
    object
}

/// The tier that served, in OpenAI's words.
pub fn tier(word: &str) -> String {
    match word {
        "standard" => "default".to_owned(),
        other => other.to_owned(),
    }
}

fn tier_for_client(word: &str) -> Option<&'static str> {
    match word {
        "default" | "flex" | "scale" | "standard" | "auto" => Some("standard"),
        "priority" => Some("priority"),
        "batch" => Some("batch"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cached_tokens_are_part_of_the_neutral_input_and_come_apart_again() {
        let wire = json!({
            "input_tokens": 10, "cache_creation_input_tokens": 300, "cache_read_input_tokens": 2000,
            "cache_creation": {"ephemeral_5m_input_tokens": 200, "ephemeral_1h_input_tokens": 100},
            "output_tokens": 50, "output_tokens_details": {"thinking_tokens": 20}, "service_tier": "standard"
        });
        let usage = decode(&wire).expect("an object");
        assert_eq!((usage.input, usage.output, usage.total()), (2310, 50, 2360));
        assert_eq!((usage.cache_write_1h, usage.reasoning), (Some(100), Some(20)));
        assert_eq!(Value::Object(encode(Some(&usage), Some("default"))), wire);
    }

    #[test]
    fn a_compaction_is_billed_beside_the_message_and_an_advisor_elsewhere() {
        let wire = json!({
            "input_tokens": 220, "cache_read_input_tokens": 0, "cache_creation_input_tokens": 0, "output_tokens": 8,
            "iterations": [
                {"type": "compaction", "input_tokens": 100, "cache_read_input_tokens": 55_000,
                 "cache_creation_input_tokens": 0, "output_tokens": 125},
                {"type": "advisor_message", "model": "another", "input_tokens": 2_500, "output_tokens": 20},
                {"type": "message", "input_tokens": 220, "output_tokens": 8},
            ],
        });
        let usage = decode(&wire).expect("an object");
        assert_eq!((usage.input, usage.output, usage.cache_read), (55_320, 133, Some(55_000)));
        let mut counts = Counts::default();
        counts.read(&json!({"input_tokens": 1, "output_tokens": 1}));
        counts.read(&wire);
        assert_eq!(counts.neutral(), usage, "a stream tells it at its end");
    }

    #[test]
    fn the_parts_never_add_up_to_more_than_the_input() {
        let usage = Usage { input: 2168, cache_read: Some(2161), cache_write: Some(2161), ..Usage::default() };
        let wire = encode(Some(&usage), None);
        assert_eq!(
            (&wire["input_tokens"], &wire["cache_read_input_tokens"], &wire["cache_creation_input_tokens"]),
            (&json!(0), &json!(2161), &json!(7))
        );
    }

    #[test]
    fn later_reports_replace_what_they_state_and_nulls_state_nothing() {
        let mut counts = Counts::default();
        counts.read(&json!({"input_tokens": 25, "cache_read_input_tokens": 7, "output_tokens": 1}));
        counts.read(&json!({"input_tokens": null, "cache_read_input_tokens": null, "output_tokens": 15}));
        assert_eq!((counts.neutral().input, counts.neutral().output), (32, 15));
        counts.read(&json!({"input_tokens": 100, "output_tokens": 20}));
        assert_eq!((counts.neutral().input, counts.neutral().output), (107, 20));
    }
}
