//! Neutral events into an Anthropic stream.
//!
//! Keeps the order that Anthropic's SDKs and Claude Code rely on: `message_start`, blocks strictly one after the other
//! with indices from 0, `message_delta` with the final counts, `message_stop`. Blocks that overlap upstream (parallel
//! calls) wait until the one before them is closed. Only choice 0 can be said.

mod frames;
mod parts;

use std::collections::VecDeque;

use frames::{Frames, Piece};
use parts::{Input, Text, Thought};
use serde_json::{Value, json};

use super::answer::{call_id, id};
use super::wire::Object;
use super::{NAME, beside, carry, stop, usage};
use crate::chat::{Block, Content, Delta, Event, Finish, Opened, Start, ToolCall, Usage};
use crate::dialect::{Asked, Encoder, continued_by};
use crate::sse;

pub struct Writer {
    asked: Asked,
    /// The head, held until the next event so that it can carry the input tokens when they are known by then.
    head: Option<Start>,
    started: bool,
    source: &'static str,
    frames: Frames,
    /// The block being written, by its neutral index.
    live: Option<(u32, Live)>,
    waiting: VecDeque<Waiting>,
    usage: Option<Usage>,
    /// What an upstream of this dialect says besides.
    own: Object,
    tier: Option<String>,
    /// The last block written was text.
    after_text: bool,
    /// Seals alone after that text, which are shown once something follows; see `carry::trails`.
    held: Vec<Thought>,
    seen: stop::Seen,
    finish: Option<(Finish, Option<String>, Option<String>)>,
    /// `message_delta` has been written.
    summed: bool,
    ended: bool,
    /// Who went on where the stream broke off.
    continued: Vec<String>,
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

/// The block on the wire.
enum Live {
    Text(Text),
    Thought(Thought),
    Call(Input),
    /// Written already, or nothing of it can be shown.
    Done,
}

impl Writer {
    pub fn new(asked: &Asked) -> Self {
        Writer {
            asked: asked.clone(),
            head: None,
            started: false,
            source: "",
            frames: Frames::default(),
            live: None,
            waiting: VecDeque::new(),
            usage: None,
            own: Object::new(),
            tier: None,
            after_text: false,
            held: Vec::new(),
            seen: stop::Seen::default(),
            finish: None,
            summed: false,
            ended: false,
            continued: Vec::new(),
        }
    }
}

/// Whether a text or a thought that has not begun begins with this.
fn begins_block(delta: &Delta) -> bool {
    match delta {
        Delta::Text(text) | Delta::Refusal(text) | Delta::Reasoning(text) | Delta::Summary { text, .. } => {
            !text.is_empty()
        }
        Delta::Citation(_) => true,
        Delta::Signature(_) | Delta::Encrypted(_) | Delta::Arguments(_) | Delta::Logprobs(_) => false,
    }
}

impl Encoder for Writer {
    fn continued(&mut self, by: &str) {
        self.continued.push(by.to_owned());
    }

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
            Event::Extra(own) if self.source == NAME => self.own.extend(own.clone()),
            // It is said at the start only.
            Event::Tier(tier) => self.tier = Some(tier.clone()),
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
            Event::Open { .. }
            | Event::Delta { .. }
            | Event::Close { .. }
            | Event::Finish { .. }
            | Event::Message(_)
            | Event::Extra(_)
            | Event::Fault(_) => {}
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
        let message = json!({
            "id": id(&start.id, &self.asked),
            "type": "message",
            "role": "assistant",
            "model": self.asked.model,
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
        let mut frame = json!({"type": "message_delta", "delta": delta, "usage": usage});
        beside::write(std::mem::take(&mut self.own), &mut frame);
        if !self.continued.is_empty() {
            frame["portcullis"] = continued_by(&self.continued);
        }
        sse::write(out, "message_delta", &frame);
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
            Opened::Text => Live::Text(Text::default()),
            Opened::Refusal => {
                self.seen.refusal = true;
                Live::Text(Text::default())
            }
            Opened::Reasoning { id, encrypted } => Live::Thought(Thought::new(id.clone(), encrypted.clone())),
            Opened::ToolCall(call) => Live::Call(self.begin_call(index, call, out)),
            Opened::Whole(block) => {
                self.whole(block, out);
                Live::Done
            }
        };
        self.live = Some((index, live));
    }

    /// Something follows the seals behind the last text.
    fn release(&mut self, out: &mut Vec<u8>) {
        for thought in std::mem::take(&mut self.held) {
            thought.close(self.source, &mut self.frames, out);
            self.after_text = false;
        }
    }

    fn begin_call(&mut self, index: u32, call: &ToolCall, out: &mut Vec<u8>) -> Input {
        self.release(out);
        self.seen.calls = true;
        if let Some(signature) = &call.signature {
            self.frames.whole(&carry::call_block(signature, self.source), out);
        }
        let id = call_id(call, index as usize, &self.asked);
        self.frames.open(&json!({"type": "tool_use", "id": id, "name": call.name, "input": {}}), out);
        let mut input = Input::new(call.custom, &self.frames, out);
        // Most heads come without arguments; those that have them say them first.
        input.grow(&call.arguments, &self.frames, out);
        input
    }

    fn grow(&mut self, delta: &Delta, out: &mut Vec<u8>) {
        if !self.held.is_empty() && begins_block(delta) {
            self.release(out);
        }
        match (self.live.as_mut().map(|(_, live)| live), delta) {
            (Some(Live::Text(text)), delta) => text.grow(delta, &self.frames, out),
            (Some(Live::Thought(thought)), delta) => thought.grow(delta, &self.frames, out),
            (Some(Live::Call(input)), Delta::Arguments(text)) => input.grow(text, &self.frames, out),
            _ => {}
        }
    }

    fn close(&mut self, out: &mut Vec<u8>) {
        let Some((_, live)) = self.live.take() else { return };
        match live {
            Live::Text(text) => {
                self.after_text |= text.begun();
                return text.close(&mut self.frames, out);
            }
            Live::Thought(thought) if self.after_text && self.source != NAME && !thought.begun() => {
                return self.held.push(thought);
            }
            Live::Thought(thought) => thought.close(self.source, &mut self.frames, out),
            Live::Call(input) => input.close(&mut self.frames, out),
            Live::Done => return,
        }
        self.after_text = false;
    }

    /// A block that comes in one piece.
    fn whole(&mut self, block: &Block, out: &mut Vec<u8>) {
        match &block.content {
            Content::Text { text, .. } | Content::Audio { transcript: Some(text), .. } if !text.is_empty() => {
                self.release(out);
                self.frames.open(&json!({"type": "text", "text": ""}), out);
                self.frames.text(text, out);
                self.frames.stop(out);
                self.after_text = true;
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
            self.frames.open(&head, out);
            self.frames.json(&value["input"].to_string(), out);
        } else if kind == "compaction" {
            head["content"] = Value::Null;
            self.frames.open(&head, out);
            self.frames.delta(&Piece::Compaction { content: &value["content"] }, out);
        } else {
            self.frames.open(&head, out);
        }
        self.frames.stop(out);
    }
}
