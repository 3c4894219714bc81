//! An Anthropic stream into neutral events.
//!
//! Agrees with what Anthropic's SDKs accumulate: the last signature counts, running totals replace each other, input
//! that stands in a block's head counts unless deltas follow. Never invents an end: a stream without a stop reason is
//! broken.

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::blocks::arguments;
use super::usage::{self, Counts};
use super::wire::{Object, count, str_of};
use super::{NAME, beside, error, stop};
use crate::chat::{Block, Content, Delta, Event, Finish, Opened, Start, ToolCall};
use crate::dialect::Decoder;
use crate::fault::{Fault, Kind};
use crate::json::exact;
use crate::sse::Frame;

/// Events that must be readable; the data of others is not looked at.
const KNOWN: &[&str] = &[
    "message_start",
    "content_block_start",
    "content_block_delta",
    "content_block_stop",
    "message_delta",
    "message_stop",
    "error",
];

#[derive(Debug, Default)]
pub struct Reader {
    started: bool,
    /// `message_stop` has gone by: nothing counts any more but another message, which some proxies send in the same
    /// stream. SDKs take the two for one.
    stopped: bool,
    /// The end or an error was told.
    ended: bool,
    counts: Counts,
    /// Neutral index of the next block.
    next: u32,
    open: Vec<Open>,
    calls: bool,
    finish: Option<Ending>,
}

#[derive(Debug)]
struct Ending {
    reason: Finish,
    native: Option<String>,
    stop_sequence: Option<String>,
}

#[derive(Debug)]
struct Open {
    /// The block's index on the wire.
    wire: u64,
    /// Its neutral index; blocks that come out whole get theirs when they close.
    index: u32,
    part: Part,
}

#[derive(Debug)]
enum Part {
    Text,
    Thinking {
        signature: String,
    },
    Redacted,
    Call {
        /// The input of the block's head, until a delta replaces it.
        head: String,
    },
    /// A block of no neutral kind, gathered until it is whole.
    Other {
        block: Object,
        input: String,
    },
}

impl Decoder for Reader {
    fn frame(&mut self, frame: &Frame<'_>, out: &mut Vec<Event>) -> Result<(), Fault> {
        let data = frame.data();
        let data = data.trim_ascii();
        // `[DONE]` is not of this dialect, but servers that serve several send it.
        if self.ended || data.is_empty() || data == b"[DONE]" {
            return Ok(());
        }
        let name = frame.event();
        let mut value: Value = match serde_json::from_slice(data) {
            Ok(value) => value,
            Err(_) if !name.is_empty() && !KNOWN.contains(&name) => return Ok(()),
            Err(error) => {
                return Err(
                    Fault::new(Kind::BadAnswer, "An event of the provider's stream is not JSON.").because(error)
                );
            }
        };
        let kind = str_of(&value, "type").unwrap_or(name);
        if std::mem::take(&mut self.stopped) && kind != "message_start" {
            self.stopped = true;
            return Ok(());
        }
        match kind {
            "message_start" => self.start(&value["message"], out),
            "content_block_start" => {
                keep_input(&mut value, data);
                self.open(&value, out);
            }
            "content_block_delta" => self.delta(&value, out),
            "content_block_stop" => self.close(count(&value["index"]), out),
            "message_delta" => self.message_delta(&value, out),
            "message_stop" => {
                self.start(&Value::Null, out);
                self.close_all(out);
                self.stopped = true;
            }
            "ping" => out.push(Event::Ping),
            "error" => self.error(&value, out),
            "" if value.get("error").is_some() => self.error(&value, out),
            _ => {}
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        self.ended
    }

    // Another message may follow the first.
    fn may_be_over(&self) -> bool {
        self.ended || self.stopped
    }

    fn finish(&mut self, out: &mut Vec<Event>) -> Result<(), Fault> {
        if self.ended {
            return Ok(());
        }
        self.ended = true;
        // With a stop reason everything has been said; only the closing mark may have been lost.
        if self.stopped || self.finish.is_some() {
            self.end(out);
            return Ok(());
        }
        self.close_all(out);
        Err(Fault::new(Kind::StreamBroken, "The provider's stream ended before `message_stop`."))
    }
}

impl Reader {
    fn start(&mut self, message: &Value, out: &mut Vec<Event>) {
        if self.started {
            return;
        }
        self.started = true;
        let text = |key: &str| str_of(message, key).unwrap_or_default().to_owned();
        let usage = &message["usage"];
        out.push(Event::Start(Start {
            id: text("id"),
            model: text("model"),
            service_tier: str_of(usage, "service_tier").map(usage::tier),
            source: NAME,
            ..Start::default()
        }));
        if usage.is_object() {
            self.counts.read(usage);
            out.extend(self.counts.neutral().believed().map(Event::Usage));
        }
        // Calls that a server tool deferred stand in the head of the message.
        for block in message["content"].as_array().into_iter().flatten() {
            self.begin(u64::MAX, block, out);
            self.close_all(out);
        }
    }

    fn open(&mut self, value: &Value, out: &mut Vec<Event>) {
        self.start(&Value::Null, out);
        let wire = count(&value["index"]).unwrap_or_else(|| u64::from(self.next));
        self.begin(wire, &value["content_block"], out);
    }

    fn begin(&mut self, wire: u64, block: &Value, out: &mut Vec<Event>) {
        let kind = str_of(block, "type").unwrap_or_default();
        // Blocks come one after the other; a server that forgets to close one, or interleaves calls, is understood.
        let beside = kind == "tool_use"
            && self.open.iter().all(|open| matches!(open.part, Part::Call { .. }) && open.wire != wire);
        if !beside {
            self.close_all(out);
        }
        let filled = |key: &str| str_of(block, key).filter(|text| !text.is_empty()).map(str::to_owned);
        match kind {
            "text" => {
                let index = self.announce(wire, Part::Text, Opened::Text, out);
                deltas(index, filled("text").map(Delta::Text), out);
                let citations = block["citations"].as_array().into_iter().flatten().cloned();
                deltas(index, citations.map(Delta::Citation), out);
            }
            "thinking" => {
                let part = Part::Thinking { signature: filled("signature").unwrap_or_default() };
                let index = self.announce(wire, part, Opened::Reasoning { id: None, encrypted: None }, out);
                deltas(index, filled("thinking").map(Delta::Reasoning), out);
            }
            "redacted_thinking" => {
                let encrypted = Some(str_of(block, "data").unwrap_or_default().to_owned());
                self.announce(wire, Part::Redacted, Opened::Reasoning { id: None, encrypted }, out);
            }
            "tool_use" => {
                self.calls = true;
                let head = match &block["input"] {
                    Value::Object(input) if input.is_empty() => String::new(),
                    Value::Null => String::new(),
                    input => arguments(Some(input.clone())),
                };
                let text = |key: &str| str_of(block, key).unwrap_or_default().to_owned();
                let call = ToolCall { id: text("id"), name: text("name"), ..ToolCall::default() };
                self.announce(wire, Part::Call { head }, Opened::ToolCall(call), out);
            }
            _ => {
                let block = block.as_object().cloned().unwrap_or_default();
                self.open.push(Open { wire, index: 0, part: Part::Other { block, input: String::new() } });
            }
        }
    }

    fn announce(&mut self, wire: u64, part: Part, block: Opened, out: &mut Vec<Event>) -> u32 {
        let index = self.next;
        self.next += 1;
        self.open.push(Open { wire, index, part });
        out.push(Event::Open { choice: 0, index, block });
        index
    }

    fn delta(&mut self, value: &Value, out: &mut Vec<Event>) {
        let delta = &value["delta"];
        let kind = str_of(delta, "type").unwrap_or_default();
        let wire = count(&value["index"]);
        if self.find(wire).is_none() {
            // The head was lost or never sent; the kind of the delta says what it would have been.
            let head = match kind {
                "text_delta" => "text",
                "thinking_delta" | "signature_delta" => "thinking",
                _ => return,
            };
            self.start(&Value::Null, out);
            self.begin(wire.unwrap_or_else(|| u64::from(self.next)), &serde_json::json!({"type": head}), out);
        }
        let Some(at) = self.find(wire) else { return };
        let open = &mut self.open[at];
        let text = |key: &str| str_of(delta, key).filter(|text| !text.is_empty());
        // A delta of another kind than its block is passed over, as the SDKs do.
        let event = match (kind, &mut open.part) {
            ("text_delta", Part::Text) => text("text").map(|text| Delta::Text(text.to_owned())),
            ("citations_delta", Part::Text) => delta.get("citation").cloned().map(Delta::Citation),
            ("thinking_delta", Part::Thinking { .. }) => text("thinking").map(|text| Delta::Reasoning(text.to_owned())),
            ("signature_delta", Part::Thinking { signature }) => {
                *signature = text("signature").unwrap_or_default().to_owned();
                None
            }
            ("input_json_delta", Part::Call { head }) => text("partial_json").map(|json| {
                head.clear();
                Delta::Arguments(json.to_owned())
            }),
            ("input_json_delta", Part::Other { input, .. }) => {
                input.push_str(text("partial_json").unwrap_or_default());
                None
            }
            ("compaction_delta", Part::Other { block, .. }) => {
                block.insert("content".to_owned(), delta["content"].clone());
                None
            }
            _ => None,
        };
        deltas(open.index, event, out);
    }

    /// The open block with this wire index; without one, the block opened last.
    fn find(&self, wire: Option<u64>) -> Option<usize> {
        match wire {
            Some(wire) => self.open.iter().position(|open| open.wire == wire),
            None => self.open.len().checked_sub(1),
        }
    }

    fn close(&mut self, wire: Option<u64>, out: &mut Vec<Event>) {
        let Some(at) = self.find(wire) else { return };
        let open = self.open.remove(at);
        let mut index = open.index;
        match open.part {
            Part::Text | Part::Redacted => {}
            Part::Thinking { signature } if signature.is_empty() => {}
            Part::Thinking { signature } => deltas(index, Some(Delta::Signature(signature)), out),
            Part::Call { head } if head.is_empty() => {}
            Part::Call { head } => deltas(index, Some(Delta::Arguments(head)), out),
            Part::Other { mut block, input } => {
                if let Ok(input) = serde_json::from_str::<Value>(&input) {
                    block.insert("input".to_owned(), input);
                }
                let block = Box::new(Block::new(Content::Other(Value::Object(block))));
                index = self.next;
                self.next += 1;
                out.push(Event::Open { choice: 0, index, block: Opened::Whole(block) });
            }
        }
        out.push(Event::Close { choice: 0, index });
    }

    fn close_all(&mut self, out: &mut Vec<Event>) {
        while let Some(first) = self.open.first() {
            self.close(Some(first.wire), out);
        }
    }

    fn message_delta(&mut self, value: &Value, out: &mut Vec<Event>) {
        self.start(&Value::Null, out);
        let own = beside::read(value);
        if !own.is_empty() {
            out.push(Event::Extra(own));
        }
        if value["usage"].is_object() {
            self.counts.read(&value["usage"]);
            out.extend(self.counts.neutral().believed().map(Event::Usage));
        }
        // Held back until the end: a later report may correct it, and the neutral form has one finish only.
        if let Some(word) = str_of(&value["delta"], "stop_reason") {
            self.finish = Some(Ending {
                reason: stop::decode(word),
                native: Some(word.to_owned()),
                stop_sequence: str_of(&value["delta"], "stop_sequence").map(str::to_owned),
            });
        }
    }

    fn end(&mut self, out: &mut Vec<Event>) {
        self.start(&Value::Null, out);
        self.close_all(out);
        let reason = if self.calls { Finish::ToolCalls } else { Finish::Stop };
        let ending = self.finish.take().unwrap_or(Ending { reason, native: None, stop_sequence: None });
        out.push(Event::Finish {
            choice: 0,
            reason: ending.reason,
            native: ending.native,
            stop_sequence: ending.stop_sequence,
        });
    }

    fn error(&mut self, value: &Value, out: &mut Vec<Event>) {
        self.ended = true;
        out.push(Event::Fault(error::reported(value)));
    }
}

/// An input that stands in the head keeps its numbers, also those that a tree would change.
fn keep_input(event: &mut Value, data: &[u8]) {
    #[derive(Deserialize)]
    struct Begun<'a> {
        #[serde(borrow)]
        content_block: Head<'a>,
    }
    #[derive(Deserialize)]
    struct Head<'a> {
        #[serde(borrow)]
        input: &'a RawValue,
    }
    if str_of(&event["content_block"], "type") == Some("tool_use")
        && !exact::holds(data)
        && let Ok(raw) = serde_json::from_slice::<Begun<'_>>(data)
    {
        exact::keep(&mut event["content_block"]["input"], raw.content_block.input);
    }
}

fn deltas(index: u32, deltas: impl IntoIterator<Item = Delta>, out: &mut Vec<Event>) {
    out.extend(deltas.into_iter().map(|delta| Event::Delta { choice: 0, index, delta }));
}
