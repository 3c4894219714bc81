//! Writing a stream: one `GenerateContentResponse` a frame, in the shape of `alt=sse`.
//!
//! Never sends a comment line, not even to keep a connection alive: Google's Python SDK takes any line without `data:`
//! for JSON. Never sends a call before its arguments are whole: the dialect has no pieces of arguments.

use serde_json::Value;

use crate::chat::{Block, Content, Delta, Event, Finish, Opened, Reasoning, Start, ToolCall, Usage};
use crate::dialect::gemini::field::{self, Object, put};
use crate::dialect::gemini::part::{self, Parts};
use crate::dialect::gemini::{answer, finish, grounding, logprobs, signature, usage};
use crate::dialect::{Asked, Encoder};
use crate::json::exact;

/// Writes frames for a Gemini client. Finish reasons and usage ride on one last frame.
pub struct ResponseEncoder {
    asked: Asked,
    start: Start,
    choices: Vec<Choice>,
    usage: Option<Usage>,
    /// Who went on where the stream broke off.
    continued: Vec<String>,
}

#[derive(Default)]
struct Choice {
    index: u32,
    open: Vec<(u32, Open)>,
    /// Holds a signature until the part that it rides on.
    parts: Parts,
    finish: Option<(Finish, Option<String>)>,
    /// A refusal went by.
    refused: bool,
    /// Fields of the candidate that the last frame carries.
    annotations: Object,
}

/// A block whose end is needed before it can be sent, or is sent in full.
enum Open {
    /// Text goes out as it comes.
    Text,
    /// Text goes out one delta late: the last piece waits for the signature. SDKs (Vercel's) lose one that comes with
    /// an empty thought.
    Reasoning {
        opaque: Reasoning,
        /// The summary part that is being written.
        part: u32,
        waiting: String,
    },
    Call(ToolCall),
}

impl ResponseEncoder {
    pub fn new(asked: &Asked) -> Self {
        ResponseEncoder {
            asked: asked.clone(),
            start: Start::default(),
            choices: Vec::new(),
            usage: None,
            continued: Vec::new(),
        }
    }

    fn choice(&mut self, index: u32) -> &mut Choice {
        let at = match self.choices.iter().position(|choice| choice.index == index) {
            Some(at) => at,
            None => {
                self.choices.push(Choice { index, ..Choice::default() });
                self.choices.len() - 1
            }
        };
        &mut self.choices[at]
    }

    fn open(&mut self, choice: u32, index: u32, block: &Opened, out: &mut Vec<u8>) {
        let opened = match block {
            Opened::Text => Open::Text,
            Opened::Refusal => {
                self.choice(choice).refused = true;
                Open::Text
            }
            Opened::Reasoning { id, encrypted } => {
                let opaque = Reasoning { id: id.clone(), encrypted: encrypted.clone(), ..Reasoning::default() };
                Open::Reasoning { opaque, part: 0, waiting: String::new() }
            }
            Opened::ToolCall(call) => Open::Call(call.clone()),
            Opened::Whole(block) => return self.whole(choice, block, out),
        };
        self.choice(choice).open.push((index, opened));
    }

    fn whole(&mut self, choice: u32, block: &Block, out: &mut Vec<u8>) {
        let source = self.start.source;
        let state = self.choice(choice);
        answer::write_block(block, source, &mut state.parts);
        if let Content::Text { citations, .. } = &block.content {
            citations.iter().for_each(|citation| grounding::tell(&mut state.annotations, citation, source));
        }
        self.ready(choice, out);
    }

    fn delta(&mut self, choice: u32, index: u32, delta: &Delta, out: &mut Vec<u8>) {
        let source = self.start.source;
        let state = self.choice(choice);
        if let Delta::Citation(citation) = delta {
            return grounding::tell(&mut state.annotations, citation, source);
        }
        if let Delta::Logprobs(entries) = delta {
            let mut candidate = Object::new();
            put(&mut candidate, "logprobsResult", logprobs::write(entries));
            return self.part_frame(choice, Value::Object(text("")), candidate, out);
        }
        let Some((_, open)) = state.open.iter_mut().find(|(known, _)| *known == index) else { return };
        let thought = match (open, delta) {
            (Open::Text, Delta::Text(more) | Delta::Refusal(more)) if !more.is_empty() => {
                return self.part(choice, text(more), out);
            }
            (Open::Reasoning { waiting, .. }, Delta::Reasoning(more)) if !more.is_empty() => {
                std::mem::replace(waiting, more.clone())
            }
            (Open::Reasoning { part, waiting, .. }, Delta::Summary { part: at, text: more }) if !more.is_empty() => {
                let apart = if !waiting.is_empty() && at != part { "\n\n" } else { "" };
                *part = *at;
                std::mem::replace(waiting, format!("{apart}{more}"))
            }
            (Open::Reasoning { opaque, .. }, Delta::Signature(more)) => {
                return opaque.signature.get_or_insert_default().push_str(more);
            }
            (Open::Reasoning { opaque, .. }, Delta::Encrypted(data)) => {
                opaque.encrypted = Some(data.clone());
                return;
            }
            (Open::Call(call), Delta::Arguments(more)) => return call.arguments.push_str(more),
            _ => return,
        };
        if !thought.is_empty() {
            self.part(choice, part::thought(thought, None), out);
        }
    }

    fn close(&mut self, choice: u32, index: u32, out: &mut Vec<u8>) {
        let source = self.start.source;
        let state = self.choice(choice);
        let Some(at) = state.open.iter().position(|(known, _)| *known == index) else { return };
        let part = match state.open.remove(at).1 {
            Open::Text => return,
            Open::Call(call) => answer::write_call(&call, source),
            Open::Reasoning { opaque, waiting, .. } => {
                let own = signature::for_provider(&opaque, source).is_some();
                match signature::for_reader(&opaque, source) {
                    None if waiting.is_empty() => return,
                    // Without text and its own it belongs to the part that follows, as Gemini sends it.
                    Some(held) if waiting.is_empty() && own => part::carrier(held),
                    Some(held) if waiting.is_empty() => return state.parts.sealed(held),
                    held => part::thought(waiting, held),
                }
            }
        };
        self.part(choice, part, out);
    }

    fn part(&mut self, choice: u32, part: Object, out: &mut Vec<u8>) {
        self.choice(choice).parts.push(part);
        self.ready(choice, out);
    }

    fn ready(&mut self, choice: u32, out: &mut Vec<u8>) {
        for part in self.choice(choice).parts.ready() {
            self.part_frame(choice, part, Object::new(), out);
        }
    }

    /// One frame with one part of one candidate.
    fn part_frame(&mut self, choice: u32, part: Value, more: Object, out: &mut Vec<u8>) {
        let mut candidate = field::object("content", content(part));
        candidate.insert("index".into(), choice.into());
        candidate.extend(more);
        self.frame(vec![Value::Object(candidate)], out);
    }

    fn frame(&mut self, candidates: Vec<Value>, out: &mut Vec<u8>) {
        let mut body = field::object("candidates", candidates);
        put(&mut body, "usageMetadata", self.usage.as_ref().map(|counts| usage::write(counts, None)));
        answer::envelope(&mut body, &self.start.model, &self.start.id, self.start.created, &self.asked);
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(&exact::written(body));
        out.extend_from_slice(b"\r\n\r\n");
    }
}

fn text(text: &str) -> Object {
    field::object("text", text)
}

fn content(part: Value) -> Object {
    let mut content = field::object("parts", vec![part]);
    content.insert("role".into(), "model".into());
    content
}

impl Encoder for ResponseEncoder {
    fn event(&mut self, event: &Event, out: &mut Vec<u8>) {
        match event {
            Event::Start(start) => self.start = start.clone(),
            Event::Open { choice, index, block } => self.open(*choice, *index, block, out),
            Event::Delta { choice, index, delta } => self.delta(*choice, *index, delta, out),
            Event::Close { choice, index } => self.close(*choice, *index, out),
            Event::Finish { choice, reason, native, .. } => {
                self.choice(*choice).finish = Some((*reason, native.clone()));
            }
            Event::Usage(usage) => self.usage.get_or_insert_default().update(usage),
            // No frame names a tier, and no message has fields of its own. The error frame is `encode_stream_error`'s.
            Event::Tier(_) | Event::Message(_) | Event::Extra(_) | Event::Ping | Event::Fault(_) => {}
        }
    }

    fn finish(&mut self, out: &mut Vec<u8>) {
        if self.choices.is_empty() {
            self.choice(0);
        }
        for at in 0..self.choices.len() {
            let choice = &mut self.choices[at];
            let (index, parts) = (choice.index, std::mem::take(&mut choice.parts));
            for part in parts.done() {
                self.part_frame(index, part, Object::new(), out);
            }
        }
        let own = self.start.source == super::NAME;
        let continued = (!self.continued.is_empty()).then(|| format!("Continued by {}.", self.continued.join(", ")));
        let candidates = std::mem::take(&mut self.choices).into_iter().map(|choice| {
            // SDKs count a chunk without parts as a failed turn, so the last one has an empty text as Gemini's do.
            let mut candidate = field::object("content", content(Value::Object(text(""))));
            let reason = choice.finish.as_ref().map(|(reason, native)| {
                finish::write(finish::of(*reason, choice.refused), native.as_deref().filter(|_| own)).to_owned()
            });
            put(&mut candidate, "finishReason", reason);
            put(&mut candidate, "finishMessage", continued.as_deref());
            candidate.insert("index".into(), choice.index.into());
            candidate.extend(choice.annotations);
            Value::Object(candidate)
        });
        let candidates = candidates.collect();
        self.frame(candidates, out);
    }

    fn continued(&mut self, by: &str) {
        self.continued.push(by.to_owned());
    }
}
