//! Watches an Anthropic stream that is relayed byte for byte.
//!
//! Once content has been seen nearly every frame is a content delta; those are recognised by their first bytes and not
//! parsed. Never alters or delays anything.

use serde_json::Value;

use super::usage::Counts;
use super::wire::str_of;
use super::{error, stop};
use crate::dialect::{Sighting, Sniffer};
use crate::sse::Frame;

#[derive(Debug, Default)]
pub struct Nose {
    content: bool,
    complete: bool,
    counts: Counts,
}

/// What can stand in a frame that matters after content was seen.
const MARKS: &[&[u8]] = &[b"message_", b"error"];

impl Sniffer for Nose {
    fn frame(&mut self, frame: &Frame<'_>) -> Sighting {
        let delta = frame.0.starts_with(b"event: content_block_");
        if self.content && (delta || !MARKS.iter().any(|mark| frame.contains(mark))) {
            return Sighting::default();
        }
        match serde_json::from_slice::<Value>(&frame.data()) {
            Ok(value) => self.look(frame.event(), &value),
            Err(_) => Sighting::default(),
        }
    }

    fn complete(&self) -> bool {
        self.complete
    }
}

impl Nose {
    fn look(&mut self, name: &str, value: &Value) -> Sighting {
        let mut seen = Sighting::default();
        match str_of(value, "type").unwrap_or(name) {
            "message_start" => {
                let message = &value["message"];
                seen.id = str_of(message, "id").map(str::to_owned);
                seen.model = str_of(message, "model").map(str::to_owned);
                self.count(&message["usage"], &mut seen);
                seen.content = message["content"].as_array().is_some_and(|blocks| !blocks.is_empty());
            }
            "content_block_start" => seen.content = opens_with_content(&value["content_block"]),
            "content_block_delta" => {
                let delta = &value["delta"];
                let keys = ["text", "thinking", "partial_json"];
                seen.content = keys.iter().any(|key| str_of(delta, key).is_some_and(|text| !text.is_empty()));
            }
            "message_delta" => {
                self.count(&value["usage"], &mut seen);
                seen.finish = str_of(&value["delta"], "stop_reason").map(stop::decode);
                self.complete |= seen.finish.is_some();
            }
            "message_stop" => self.complete = true,
            "error" => seen.fault = Some(error::reported(value)),
            "" if value.get("error").is_some() => seen.fault = Some(error::reported(value)),
            _ => {}
        }
        seen.content &= !self.content;
        self.content |= seen.content;
        seen
    }

    fn count(&mut self, usage: &Value, seen: &mut Sighting) {
        if usage.is_object() {
            self.counts.read(usage);
            seen.usage = self.counts.neutral().believed();
        }
    }
}

/// Text and thinking begin empty; every other block is something to show as soon as it opens.
fn opens_with_content(block: &Value) -> bool {
    let filled = |key: &str| str_of(block, key).is_some_and(|text| !text.is_empty());
    match str_of(block, "type") {
        Some("text") => filled("text"),
        Some("thinking") => filled("thinking"),
        Some(_) => true,
        None => false,
    }
}
