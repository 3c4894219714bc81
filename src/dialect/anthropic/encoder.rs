//! Neutral events into an Anthropic stream.
//!
//! Keeps the order that Anthropic's SDKs and Claude Code rely on: `message_start`, blocks strictly one after the other
//! with indices from 0, `message_delta` with the final counts, `message_stop`. Blocks that overlap upstream (parallel
//! calls) wait until the one before them is closed. Only choice 0 can be said.

use std::collections::VecDeque;

use serde_json::{Value, json};

use super::answer::{call_id, id};
use super::{NAME, calls, carry, cite, stop, usage};
use crate::chat::{Block, Content, Delta, Event, Finish, Opened, Reasoning, Start, ToolCall, Usage};
use crate::dialect::{Asked, Encoder};
use crate::sse;

pub struct Writer {
    asked: Asked,
    /// The head, held until the next event so that it can carry the input tokens when they are known by then.
    head: Option<Start>,
    started: bool,
    source: &'static str,
    /// Index of the next block on the wire.
    next: u32,
    /// The block being written, by its neutral index.
    live: Option<(u32, Live)>,
    waiting: VecDeque<Waiting>,
    usage: Option<Usage>,
    tier: Option<String>,
    seen: stop::Seen,
    finish: Option<(Finish, Option<String>, Option<String>)>,
    /// `message_delta` has been written.
    summed: bool,
    ended: bool,
}

/// A block that opened while another was being written.
struct Waiting {
    index: u32,
    block: Opened,
    deltas: Vec<Delta>,
    closed: bool,
}

impl Waiting {
    /// Pieces of arguments are joined: they will be sent at once anyway.
    fn add(&mut self, delta: &Delta) {
        match (self.deltas.last_mut(), delta) {
            (Some(Delta::Arguments(held)), Delta::Arguments(more)) => held.push_str(more),
            _ => self.deltas.push(delta.clone()),
        }
    }
}

enum Live {
    /// Begun on the wire with the first text, because Anthropic has no empty text blocks.
    Text {
        begun: bool,
    },
    /// Begun with the first visible text; what is opaque follows when it closes.
    Reasoning {
        begun: bool,
        part: Option<u32>,
        held: Reasoning,
    },
    Call(Input),
    /// Nothing of it can be shown.
    Skipped,
}

/// How a call's arguments are passed on.
enum Input {
    /// Not yet known whether they are an object; what has come so far.
    Unsure(String),
    /// An object: passed on as it comes.
    Object,
    /// No object: gathered and made one at the end.
    Gathered(String),
    /// Free text of a custom tool, passed on inside a JSON string.
    Custom,
}

impl Writer {
    pub fn new(asked: &Asked) -> Self {
        Writer {
            asked: asked.clone(),
            head: None,
            started: false,
            source: "",
            next: 0,
            live: None,
            waiting: VecDeque::new(),
            usage: None,
            tier: None,
            seen: stop::Seen::default(),
            finish: None,
            summed: false,
            ended: false,
        }
    }
}

impl Encoder for Writer {
    fn event(&mut self, event: &Event, out: &mut Vec<u8>) {
        if self.ended {
            return;
        }
        match event {
            Event::Start(start) => {
                self.source = start.source;
                self.tier.clone_from(&start.service_tier);
                self.head = Some(start.clone());
            }
            Event::Usage(usage) => {
                self.usage.get_or_insert_default().update(usage);
                if self.finish.is_some() {
                    self.sum(out);
                } else if self.head.is_some() {
                    self.start(out);
                }
            }
            Event::Open { choice: 0, index, block } => {
                self.start(out);
                match &self.live {
                    None => self.begin(*index, block, out),
                    Some(_) => self.waiting.push_back(Waiting {
                        index: *index,
                        block: block.clone(),
                        deltas: Vec::new(),
                        closed: false,
                    }),
                }
            }
            Event::Delta { choice: 0, index, delta } => match &self.live {
                Some((live, _)) if live == index => self.grow(delta, out),
                _ => {
                    if let Some(waiting) = self.waiting.iter_mut().find(|waiting| waiting.index == *index) {
                        waiting.add(delta);
                    }
                }
            },
            Event::Close { choice: 0, index } => match &self.live {
                Some((live, _)) if live == index => {
                    self.close(out);
                    self.advance(out);
                }
                _ => {
                    if let Some(waiting) = self.waiting.iter_mut().find(|waiting| waiting.index == *index) {
                        waiting.closed = true;
                    }
                }
            },
            Event::Finish { choice: 0, reason, native, stop_sequence } => {
                self.start(out);
                self.finish = Some((*reason, native.clone(), stop_sequence.clone()));
            }
            // Before the head there is nothing that a ping could keep alive.
            Event::Ping if self.head.is_none() && !self.started => {}
            Event::Ping => {
                self.start(out);
                sse::write(out, "ping", &json!({"type": "ping"}));
            }
            // Other choices cannot be said; a fault is written by `encode_stream_error`.
            Event::Open { .. } | Event::Delta { .. } | Event::Close { .. } | Event::Finish { .. } | Event::Fault(_) => {
            }
        }
    }

    fn finish(&mut self, out: &mut Vec<u8>) {
        if self.ended {
            return;
        }
        self.sum(out);
        sse::write(out, "message_stop", &json!({"type": "message_stop"}));
        self.ended = true;
    }
}

impl Writer {
    fn start(&mut self, out: &mut Vec<u8>) {
        if self.started {
            return;
        }
        self.started = true;
        let start = self.head.take().unwrap_or_default();
        let usage = self.usage.unwrap_or_default();
        let model = if start.model.is_empty() { &self.asked.ask.model } else { &start.model };
        let message = json!({
            "id": id(&start.id, &self.asked),
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": [],
            "stop_reason": null,
            "stop_sequence": null,
            "usage": usage::encode(Some(&usage), self.tier.as_deref()),
        });
        sse::write(out, "message_start", &json!({"type": "message_start", "message": message}));
    }

    /// Everything that stands before `message_stop`.
    fn sum(&mut self, out: &mut Vec<u8>) {
        if self.summed {
            return;
        }
        self.start(out);
        self.waiting.iter_mut().for_each(|waiting| waiting.closed = true);
        if self.live.is_some() {
            self.close(out);
            self.advance(out);
        }
        self.summed = true;
        let (finish, native, sequence) = match self.finish.take() {
            Some((finish, native, sequence)) => (Some(finish), native, sequence),
            None => (None, None, None),
        };
        let reason = stop::encode(finish, native.as_deref(), &self.seen, self.source == NAME);
        let delta = json!({"stop_reason": reason, "stop_sequence": sequence.filter(|_| reason == "stop_sequence")});
        // The tier was said at the start; SDKs take counts alone from here.
        let usage = usage::encode(self.usage.as_ref(), None);
        sse::write(out, "message_delta", &json!({"type": "message_delta", "delta": delta, "usage": usage}));
    }

    /// Writes what waits, as far as it is closed, and goes on with the first that is not.
    fn advance(&mut self, out: &mut Vec<u8>) {
        while let Some(waiting) = self.waiting.pop_front() {
            self.begin(waiting.index, &waiting.block, out);
            for delta in &waiting.deltas {
                self.grow(delta, out);
            }
            if !waiting.closed {
                return;
            }
            self.close(out);
        }
    }

    fn begin(&mut self, index: u32, block: &Opened, out: &mut Vec<u8>) {
        let live = match block {
            Opened::Text => Live::Text { begun: false },
            Opened::Refusal => {
                self.seen.refusal = true;
                Live::Text { begun: false }
            }
            Opened::Reasoning { id, encrypted } => {
                let held = Reasoning { id: id.clone(), encrypted: encrypted.clone(), ..Reasoning::default() };
                Live::Reasoning { begun: false, part: None, held }
            }
            Opened::ToolCall(call) => Live::Call(self.begin_call(index, call, out)),
            Opened::Whole(block) => {
                self.whole(block, out);
                Live::Skipped
            }
        };
        self.live = Some((index, live));
        // Most heads come without arguments; those that have them say them first.
        if let Opened::ToolCall(call) = block
            && !call.arguments.is_empty()
        {
            self.grow(&Delta::Arguments(call.arguments.clone()), out);
        }
    }

    fn begin_call(&mut self, index: u32, call: &ToolCall, out: &mut Vec<u8>) -> Input {
        self.seen.calls = true;
        if let Some(signature) = &call.signature {
            self.block(&carry::call_block(signature, self.source), None, out);
        }
        let id = call_id(call, index as usize, &self.asked);
        self.open(&json!({"type": "tool_use", "id": id, "name": call.name, "input": {}}), out);
        if call.custom {
            self.delta(&Wire::InputJsonDelta { partial_json: "{\"input\":\"" }, out);
            return Input::Custom;
        }
        Input::Unsure(String::new())
    }

    fn grow(&mut self, delta: &Delta, out: &mut Vec<u8>) {
        // Taken out while it is written with; put back below.
        let Some((index, mut live)) = self.live.take() else { return };
        match (&mut live, delta) {
            (Live::Text { begun }, Delta::Text(text) | Delta::Refusal(text)) if !text.is_empty() => {
                self.begin_text(begun, out);
                self.delta(&Wire::TextDelta { text }, out);
            }
            (Live::Text { begun }, Delta::Citation(citation)) => {
                if let Some(citation) = cite::for_client(citation) {
                    self.begin_text(begun, out);
                    self.delta(&Wire::CitationsDelta { citation: &citation }, out);
                }
            }
            (Live::Reasoning { begun, part, held }, delta) => self.grow_reasoning(begun, part, held, delta, out),
            (Live::Call(input), Delta::Arguments(text)) => self.grow_input(input, text, out),
            _ => {}
        }
        self.live = Some((index, live));
    }

    fn begin_text(&mut self, begun: &mut bool, out: &mut Vec<u8>) {
        if !std::mem::replace(begun, true) {
            self.open(&json!({"type": "text", "text": ""}), out);
        }
    }

    fn grow_reasoning(
        &mut self,
        begun: &mut bool,
        part: &mut Option<u32>,
        held: &mut Reasoning,
        delta: &Delta,
        out: &mut Vec<u8>,
    ) {
        let text = match delta {
            Delta::Reasoning(text) => text,
            Delta::Summary { part: number, text } => {
                // Parts stand apart as paragraphs; the seal notes that this is a summary.
                if part.replace(*number).is_some_and(|last| last != *number) && *begun {
                    self.delta(&Wire::ThinkingDelta { thinking: "\n\n" }, out);
                }
                if held.summary.is_empty() {
                    held.summary.push(String::new());
                }
                text
            }
            Delta::Signature(more) => return held.signature.get_or_insert_default().push_str(more),
            Delta::Encrypted(data) => return held.encrypted = Some(data.clone()),
            _ => return,
        };
        if text.is_empty() {
            return;
        }
        if !std::mem::replace(begun, true) {
            self.open(&carry::thinking("", ""), out);
        }
        self.delta(&Wire::ThinkingDelta { thinking: text }, out);
    }

    fn grow_input(&mut self, input: &mut Input, text: &str, out: &mut Vec<u8>) {
        match input {
            Input::Object if !text.is_empty() => self.delta(&Wire::InputJsonDelta { partial_json: text }, out),
            Input::Object => {}
            Input::Gathered(gathered) => gathered.push_str(text),
            Input::Unsure(held) => {
                held.push_str(text);
                match held.trim_start().chars().next() {
                    None => {}
                    Some('{') => {
                        self.delta(&Wire::InputJsonDelta { partial_json: held }, out);
                        *input = Input::Object;
                    }
                    Some(_) => *input = Input::Gathered(std::mem::take(held)),
                }
            }
            Input::Custom => {
                // Without the quotes that a JSON string always has.
                let quoted = Value::from(text).to_string();
                let inner = &quoted[1..quoted.len() - 1];
                if !inner.is_empty() {
                    self.delta(&Wire::InputJsonDelta { partial_json: inner }, out);
                }
            }
        }
    }

    fn close(&mut self, out: &mut Vec<u8>) {
        match self.live.take() {
            Some((_, Live::Text { begun: true })) => self.stop(out),
            Some((_, Live::Reasoning { begun, held, .. })) => self.close_reasoning(begun, held, out),
            Some((_, Live::Call(input))) => {
                match input {
                    Input::Gathered(text) => {
                        let object = calls::object(&text).to_string();
                        self.delta(&Wire::InputJsonDelta { partial_json: &object }, out);
                    }
                    Input::Custom => self.delta(&Wire::InputJsonDelta { partial_json: "\"}" }, out),
                    Input::Unsure(_) | Input::Object => {}
                }
                self.stop(out);
            }
            _ => {}
        }
    }

    fn close_reasoning(&mut self, begun: bool, held: Reasoning, out: &mut Vec<u8>) {
        if !begun {
            // Nothing to see: what is left is opaque, as whole blocks.
            let held = Reasoning { summary: Vec::new(), ..held };
            for block in carry::blocks(&held, self.source) {
                let signature = block["signature"].as_str().filter(|signature| !signature.is_empty());
                match signature {
                    Some(signature) => self.block(&carry::thinking("", ""), Some(signature), out),
                    None => self.block(&block, None, out),
                }
            }
            return;
        }
        let (signature, more) = if self.source == NAME {
            (held.signature, held.encrypted)
        } else {
            let mut opaque = carry::opaque(&held, self.source).into_iter();
            (opaque.next(), opaque.next())
        };
        if let Some(signature) = signature {
            self.delta(&Wire::SignatureDelta { signature: &signature }, out);
        }
        self.stop(out);
        if let Some(data) = more {
            self.block(&carry::redacted(&data), None, out);
        }
    }

    /// A block that comes in one piece.
    fn whole(&mut self, block: &Block, out: &mut Vec<u8>) {
        match &block.content {
            Content::Text { text, .. } | Content::Audio { transcript: Some(text), .. } if !text.is_empty() => {
                self.open(&json!({"type": "text", "text": ""}), out);
                self.delta(&Wire::TextDelta { text }, out);
                self.stop(out);
            }
            Content::Other(value) if self.source == NAME => self.other(value, out),
            _ => {}
        }
    }

    /// A server tool's block as Anthropic streams it: inputs and compactions come as deltas, the rest in the head.
    fn other(&mut self, value: &Value, out: &mut Vec<u8>) {
        let kind = value["type"].as_str().unwrap_or_default();
        let mut head = value.clone();
        if kind.ends_with("tool_use") && value["input"].is_object() {
            head["input"] = json!({});
            self.open(&head, out);
            let input = value["input"].to_string();
            self.delta(&Wire::InputJsonDelta { partial_json: &input }, out);
        } else if kind == "compaction" {
            head["content"] = Value::Null;
            self.open(&head, out);
            self.delta(&Wire::CompactionDelta { content: &value["content"] }, out);
        } else {
            self.open(&head, out);
        }
        self.stop(out);
    }

    fn block(&mut self, head: &Value, signature: Option<&str>, out: &mut Vec<u8>) {
        self.open(head, out);
        if let Some(signature) = signature {
            self.delta(&Wire::SignatureDelta { signature }, out);
        }
        self.stop(out);
    }

    fn open(&mut self, head: &Value, out: &mut Vec<u8>) {
        let event = json!({"type": "content_block_start", "index": self.next, "content_block": head});
        sse::write(out, "content_block_start", &event);
    }

    fn delta(&mut self, delta: &Wire<'_>, out: &mut Vec<u8>) {
        let event = BlockDelta { kind: "content_block_delta", index: self.next, delta };
        sse::write(out, "content_block_delta", &event);
    }

    fn stop(&mut self, out: &mut Vec<u8>) {
        sse::write(out, "content_block_stop", &json!({"type": "content_block_stop", "index": self.next}));
        self.next += 1;
    }
}

/// The event that most of a stream is made of, written without a tree.
#[derive(serde::Serialize)]
struct BlockDelta<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    index: u32,
    delta: &'a Wire<'a>,
}

#[derive(serde::Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Wire<'a> {
    TextDelta { text: &'a str },
    InputJsonDelta { partial_json: &'a str },
    ThinkingDelta { thinking: &'a str },
    SignatureDelta { signature: &'a str },
    CitationsDelta { citation: &'a Value },
    CompactionDelta { content: &'a Value },
}
