//! Events, written as the chunks that OpenAI's own SDK helpers accept.
//!
//! The first chunk of a choice carries the role, calls are numbered from 0, the finish chunk has an empty delta, usage
//! comes last and only to those who asked. Writes no errors: the stream's owner does, who knows the request.

use serde_json::{Map, Value, json};

use super::reasoning::{self, To};
use super::{NAME, answer, citations, finish, tools, usage};
use crate::chat::{Block, Content, Delta, Event, Finish, Opened, Reasoning, Start, ToolCall, Usage, free_text};
use crate::dialect::{self, Asked, Op};
use crate::json;

pub(super) struct Encoder {
    asked: Asked,
    legacy_text: bool,
    legacy_calls: bool,
    start: Start,
    /// The fields before and after `choices`, the same in every chunk; empty until the first is written.
    before: Vec<u8>,
    after: Vec<u8>,
    lanes: Vec<Lane>,
    usage: Option<Usage>,
    /// Who went on where the stream broke off.
    continued: Vec<String>,
}

/// One choice.
#[derive(Default)]
struct Lane {
    choice: u32,
    spoke: bool,
    refused: bool,
    /// Characters of text so far, for the place of citations.
    chars: usize,
    /// Whether reasoning of an earlier block or part was shown.
    thought: bool,
    /// Number of calls, details and annotations so far.
    calls: usize,
    details: usize,
    annotations: usize,
    /// Sound of another dialect was sent.
    sounded: bool,
    open: Vec<(u32, Open)>,
}

/// What is remembered of an open block.
enum Open {
    Text {
        from: usize,
        /// Citations of other dialects, which may come before the text that they are of.
        cited: Vec<Value>,
    },
    Reasoning {
        so_far: Box<Reasoning>,
        part: u32,
        shown: bool,
    },
    Call {
        number: usize,
        custom: bool,
        said: bool,
    },
    /// A call of a free-text tool that the target knew as a function: its text shows only when its JSON is whole.
    Disguised {
        number: usize,
        held: String,
    },
    Other,
}

impl Encoder {
    pub fn new(asked: &Asked) -> Self {
        Encoder {
            asked: asked.clone(),
            legacy_text: asked.op == Op::Complete,
            legacy_calls: super::wants_function_call(&asked.ask),
            start: Start::default(),
            before: Vec::new(),
            after: Vec::new(),
            lanes: Vec::new(),
            usage: None,
            continued: Vec::new(),
        }
    }

    /// Makes what all chunks have, where it is not made yet.
    fn head(&mut self) {
        if !self.before.is_empty() {
            return;
        }
        let start = &self.start;
        let id = if start.id.is_empty() { super::answer_id(&self.asked) } else { start.id.clone() };
        let model = if start.model.is_empty() { &self.asked.ask.model } else { &start.model };
        let object = if self.legacy_text { "text_completion" } else { "chat.completion.chunk" };
        let mut head = Map::new();
        head.insert("id".into(), id.into());
        head.insert("object".into(), object.into());
        head.insert("created".into(), start.created.unwrap_or(self.asked.now).into());
        head.insert("model".into(), model.as_str().into());
        head.extend(start.service_tier.as_ref().map(|tier| ("service_tier".to_owned(), tier.as_str().into())));
        head.extend(
            start.system_fingerprint.as_ref().map(|print| ("system_fingerprint".to_owned(), print.as_str().into())),
        );
        self.before = json::written(&head);
        self.before.pop();
        self.before.extend_from_slice(b",\"choices\":[");
        // OpenAI says null on every chunk but the last when usage was asked for.
        self.after = if self.asked.ask.include_usage { b"],\"usage\":null}\n\n".to_vec() } else { b"]}\n\n".to_vec() };
    }

    fn chunk(&mut self, choice: &Value, out: &mut Vec<u8>) {
        self.head();
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(&self.before);
        // Serialising a value into memory cannot fail.
        let _ = serde_json::to_writer(&mut *out, choice);
        let ends = !self.continued.is_empty() && !choice["finish_reason"].is_null();
        if ends {
            out.extend_from_slice(b"],\"portcullis\":");
            let _ = serde_json::to_writer(&mut *out, &dialect::continued_by(&self.continued));
        }
        out.extend_from_slice(&self.after[usize::from(ends)..]);
    }

    /// One delta, with the role in front of the first.
    fn delta(&mut self, at: usize, delta: Value, logprobs: Value, finish: Option<String>, out: &mut Vec<u8>) {
        let lane = &mut self.lanes[at];
        if self.legacy_text {
            lane.spoke = true;
            let text = delta.get("content").and_then(Value::as_str).unwrap_or_default();
            if text.is_empty() && finish.is_none() {
                return;
            }
            let choice = json!({ "text": text, "index": lane.choice, "logprobs": null, "finish_reason": finish });
            return self.chunk(&choice, out);
        }
        let delta = match delta {
            Value::Object(delta) if !lane.spoke => {
                let mut first = Map::new();
                first.insert("role".into(), "assistant".into());
                first.insert("content".into(), Value::Null);
                first.insert("refusal".into(), Value::Null);
                first.extend(delta);
                Value::Object(first)
            }
            delta => delta,
        };
        lane.spoke = true;
        let choice = json!({ "index": lane.choice, "delta": delta, "logprobs": logprobs, "finish_reason": finish });
        self.chunk(&choice, out);
    }

    /// More text of a choice that speaks already. Nearly every chunk is one, so it is written as it stands, without a
    /// tree; what differs from this is a [`Encoder::delta`].
    fn say(&mut self, at: usize, text: &str, out: &mut Vec<u8>) {
        let Lane { choice, spoke: true, .. } = self.lanes[at] else {
            return self.send(at, json!({ "content": text }), out);
        };
        if self.legacy_text {
            return self.send(at, json!({ "content": text }), out);
        }
        self.head();
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(&self.before);
        out.extend_from_slice(b"{\"index\":");
        // Serialising into memory cannot fail.
        let _ = serde_json::to_writer(&mut *out, &choice);
        out.extend_from_slice(b",\"delta\":{\"content\":");
        let _ = serde_json::to_writer(&mut *out, text);
        out.extend_from_slice(b"},\"logprobs\":null,\"finish_reason\":null}");
        out.extend_from_slice(&self.after);
    }

    fn send(&mut self, at: usize, delta: Value, out: &mut Vec<u8>) {
        self.delta(at, delta, Value::Null, None, out);
    }

    fn lane(&mut self, choice: u32) -> usize {
        if let Some(at) = self.lanes.iter().position(|lane| lane.choice == choice) {
            return at;
        }
        self.lanes.push(Lane { choice, ..Lane::default() });
        self.lanes.len() - 1
    }

    fn open(&mut self, choice: u32, index: u32, block: &Opened, out: &mut Vec<u8>) {
        let at = self.lane(choice);
        let open = match block {
            Opened::Text => {
                if !self.lanes[at].spoke {
                    self.send(at, json!({ "content": "" }), out);
                }
                Open::Text { from: self.lanes[at].chars, cited: Vec::new() }
            }
            Opened::Reasoning { id, encrypted } => {
                let so_far = Reasoning { id: id.clone(), encrypted: encrypted.clone(), ..Reasoning::default() };
                Open::Reasoning { so_far: Box::new(so_far), part: 0, shown: false }
            }
            Opened::ToolCall(call) => self.open_call(at, call, out),
            Opened::Refusal => {
                self.lanes[at].refused = true;
                Open::Other
            }
            Opened::Whole(block) => {
                self.whole(at, block, out);
                Open::Other
            }
        };
        self.lanes[at].open.push((index, open));
    }

    fn open_call(&mut self, at: usize, call: &ToolCall, out: &mut Vec<u8>) -> Open {
        let number = self.lanes[at].calls;
        self.lanes[at].calls += 1;
        let disguised = !self.legacy_calls && tools::was_disguised(&self.asked.ask, call);
        let opened = match disguised {
            true => Open::Disguised { number, held: call.arguments.clone() },
            false => Open::Call { number, custom: call.custom, said: !call.arguments.is_empty() },
        };
        if self.legacy_calls {
            if number == 0 {
                let function = json!({ "name": call.name, "arguments": call.arguments });
                self.send(at, json!({ "function_call": function }), out);
            }
            return opened;
        }
        let mut entry = Map::new();
        entry.insert("index".into(), number.into());
        entry.insert("id".into(), call.id.as_str().into());
        let (kind, text) = if call.custom || disguised { ("custom", "input") } else { ("function", "arguments") };
        let begun = if disguised { "" } else { call.arguments.as_str() };
        entry.insert("type".into(), kind.into());
        entry.insert(kind.into(), json!({ "name": call.name, text: begun }));
        if let Some(signature) = &call.signature {
            entry.insert("extra_content".into(), answer::google(signature, self.start.source));
        }
        self.send(at, json!({ "tool_calls": [entry] }), out);
        opened
    }

    /// Blocks that come in one piece.
    fn whole(&mut self, at: usize, block: &Block, out: &mut Vec<u8>) {
        match &block.content {
            Content::Text { text, .. } => {
                self.lanes[at].chars += text.chars().count();
                self.send(at, json!({ "content": text }), out);
            }
            Content::Image { source, .. } => {
                if let Some(Value::Object(mut image)) = answer::image(source) {
                    image.insert("index".into(), 0.into());
                    self.send(at, json!({ "images": [image] }), out);
                }
            }
            Content::Audio { .. } if self.start.source == NAME => {
                self.send(at, json!({ "audio": answer::audio(block) }), out);
            }
            Content::Audio { data, transcript, .. } => {
                let mut audio = Map::new();
                if !std::mem::replace(&mut self.lanes[at].sounded, true) {
                    audio.insert("id".into(), answer::audio_id(&self.asked.id, self.lanes[at].choice).into());
                }
                audio.insert("data".into(), data.as_str().into());
                audio.extend(transcript.as_deref().map(|words| ("transcript".to_owned(), words.into())));
                self.send(at, json!({ "audio": audio }), out);
            }
            // Only the source dialect has a place for the rest.
            _ => {}
        }
    }

    fn grow(&mut self, choice: u32, index: u32, delta: &Delta, out: &mut Vec<u8>) {
        let at = self.lane(choice);
        match delta {
            Delta::Text(text) => {
                self.lanes[at].chars += text.chars().count();
                if !text.is_empty() {
                    self.say(at, text, out);
                }
            }
            Delta::Refusal(text) => self.send(at, json!({ "refusal": text }), out),
            Delta::Reasoning(text) => self.think(at, index, None, text, out),
            Delta::Summary { part, text } => self.think(at, index, Some(*part), text, out),
            Delta::Signature(more) => {
                if let Some(Open::Reasoning { so_far, .. }) = self.lanes[at].block(index) {
                    so_far.signature.get_or_insert_default().push_str(more);
                }
            }
            Delta::Encrypted(data) => {
                if let Some(Open::Reasoning { so_far, .. }) = self.lanes[at].block(index) {
                    so_far.encrypted = Some(data.clone());
                }
            }
            Delta::Arguments(text) => self.arguments(at, index, text, out),
            Delta::Citation(citation) => self.cite(at, index, citation, out),
            Delta::Logprobs(entries) => {
                let logprobs = json!({ "content": entries, "refusal": null });
                self.delta(at, json!({}), logprobs, None, out);
            }
        }
    }

    /// Shows reasoning as it comes, and keeps it for the details that carry its signature.
    fn think(&mut self, at: usize, index: u32, summary: Option<u32>, text: &str, out: &mut Vec<u8>) {
        let lane = &mut self.lanes[at];
        let earlier = lane.thought;
        let Some(Open::Reasoning { so_far, part, shown }) = lane.block(index) else { return };
        if text.is_empty() {
            return;
        }
        // Blocks and parts of a summary are paragraphs.
        let paragraph = if *shown { summary.is_some_and(|now| now != *part) } else { earlier };
        match summary {
            None => so_far.text.push_str(text),
            Some(now) if so_far.summary.is_empty() || now != *part => so_far.summary.push(text.to_owned()),
            Some(_) => so_far.summary.last_mut().into_iter().for_each(|last| last.push_str(text)),
        }
        *part = summary.unwrap_or(0);
        *shown = true;
        lane.thought = true;
        let text = if paragraph { format!("\n\n{text}") } else { text.to_owned() };
        self.send(at, json!({ "reasoning_content": text }), out);
    }

    fn arguments(&mut self, at: usize, index: u32, text: &str, out: &mut Vec<u8>) {
        let (number, custom, said) = match self.lanes[at].block(index) {
            _ if text.is_empty() => return,
            Some(Open::Call { number, custom, said }) => (number, custom, said),
            Some(Open::Disguised { held, .. }) => return held.push_str(text),
            _ => return,
        };
        *said = true;
        let (number, custom) = (*number, *custom);
        let delta = match (self.legacy_calls, number, custom) {
            (true, 0, _) => json!({ "function_call": { "arguments": text } }),
            (true, ..) => return,
            (false, _, true) => json!({ "tool_calls": [{ "index": number, "custom": { "input": text } }] }),
            (false, _, false) => json!({ "tool_calls": [{ "index": number, "function": { "arguments": text } }] }),
        };
        self.send(at, delta, out);
    }

    fn cite(&mut self, at: usize, index: u32, citation: &Value, out: &mut Vec<u8>) {
        let lane = &mut self.lanes[at];
        let to = lane.chars;
        let from = match lane.block(index) {
            Some(Open::Text { cited, .. }) if self.start.source != NAME => return cited.push(citation.clone()),
            Some(Open::Text { from, .. }) => *from,
            _ => to,
        };
        self.annotate(at, citation, from, out);
    }

    /// The annotation for a citation of the text from here to the last that was sent.
    fn annotate(&mut self, at: usize, citation: &Value, from: usize, out: &mut Vec<u8>) {
        let lane = &mut self.lanes[at];
        let (number, to) = (lane.annotations, lane.chars);
        if let Some(Value::Object(mut annotation)) = citations::write(citation, self.start.source, from, to) {
            lane.annotations += 1;
            // The SDKs put lists together by index.
            annotation.insert("index".into(), number.into());
            self.send(at, json!({ "annotations": [annotation] }), out);
        }
    }

    fn close(&mut self, choice: u32, index: u32, out: &mut Vec<u8>) {
        let at = self.lane(choice);
        let lane = &mut self.lanes[at];
        let Some(position) = lane.open.iter().position(|(known, _)| *known == index) else { return };
        match lane.open.swap_remove(position).1 {
            Open::Text { from, cited } => cited.iter().for_each(|citation| self.annotate(at, citation, from, out)),
            Open::Reasoning { so_far, .. } => {
                let details = reasoning::details(&so_far, self.start.source, To::Client, lane.details);
                lane.details += details.len();
                for detail in details {
                    self.send(at, json!({ "reasoning_details": [detail] }), out);
                }
            }
            Open::Disguised { number, held } => {
                let input = free_text(&held);
                self.send(at, json!({ "tool_calls": [{ "index": number, "custom": { "input": input } }] }), out);
            }
            // Clients parse the arguments as JSON, which an empty string is not.
            Open::Call { number, custom: false, said: false } => {
                self.lanes[at].open.push((index, Open::Call { number, custom: false, said: false }));
                self.arguments(at, index, "{}", out);
                self.lanes[at].open.pop();
            }
            _ => {}
        }
    }

    fn end(&mut self, choice: u32, reason: Finish, native: Option<&str>, out: &mut Vec<u8>) {
        let at = self.lane(choice);
        let word = finish::write(reason, native, self.start.source, self.lanes[at].refused, self.legacy_calls);
        if !self.lanes[at].spoke && !self.legacy_text {
            self.send(at, json!({ "content": "" }), out);
        }
        if self.lanes[at].sounded {
            // It is kept nowhere, so nobody can refer to it from the beginning.
            let expired = self.start.created.unwrap_or(self.asked.now);
            self.send(at, json!({ "audio": { "expires_at": expired } }), out);
        }
        self.delta(at, json!({}), Value::Null, Some(word), out);
    }
}

impl Lane {
    fn block(&mut self, index: u32) -> Option<&mut Open> {
        self.open.iter_mut().find(|(known, _)| *known == index).map(|(_, open)| open)
    }
}

impl dialect::Encoder for Encoder {
    fn event(&mut self, event: &Event, out: &mut Vec<u8>) {
        match event {
            Event::Start(start) => {
                self.start = start.clone();
                self.before.clear();
            }
            Event::Open { choice, index, block } => self.open(*choice, *index, block, out),
            Event::Delta { choice, index, delta } => self.grow(*choice, *index, delta, out),
            Event::Close { choice, index } => self.close(*choice, *index, out),
            Event::Finish { choice, reason, native, .. } => self.end(*choice, *reason, native.as_deref(), out),
            Event::Usage(usage) => self.usage.get_or_insert_default().update(usage),
            Event::Tier(tier) => {
                self.start.service_tier = Some(tier.clone());
                self.before.clear();
            }
            // A fault is written by `encode_stream_error`; keep-alive is the connection's affair.
            Event::Message(_) | Event::Extra(_) | Event::Ping | Event::Fault(_) => {}
        }
    }

    fn finish(&mut self, out: &mut Vec<u8>) {
        if let Some(usage) = self.usage.filter(|_| self.asked.ask.include_usage) {
            self.head();
            out.extend_from_slice(b"data: ");
            out.extend_from_slice(&self.before);
            out.extend_from_slice(b"],\"usage\":");
            out.extend_from_slice(usage::write(&usage).to_string().as_bytes());
            out.extend_from_slice(b"}\n\n");
        }
        out.extend_from_slice(b"data: [DONE]\n\n");
    }

    fn given(&mut self, event: &Event, before: &mut Vec<u8>) {
        match event {
            Event::Delta { choice, delta: Delta::Text(text), .. } => {
                let at = self.lane(*choice);
                self.lanes[at].chars += text.chars().count();
            }
            // Chunks do not say that a block ends; of what was written of it something may be due then.
            Event::Close { .. } => self.event(event, before),
            Event::Finish { .. } => {}
            other => self.event(other, &mut Vec::new()),
        }
    }

    fn introduced(&mut self, choice: u32) {
        let at = self.lane(choice);
        self.lanes[at].spoke = true;
    }

    fn continued(&mut self, by: &str) {
        self.continued.push(by.to_owned());
    }
}
