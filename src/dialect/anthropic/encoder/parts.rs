//! One block while it is being written: text, reasoning, a call's input.
//!
//! Each begins on the wire only when there is something to show, because Anthropic has no empty blocks; what a block
//! cannot hold never reaches the wire.

use serde_json::{Value, json};

use super::frames::{Frames, Piece};
use crate::chat::{Delta, Reasoning};
use crate::dialect::anthropic::{NAME, calls, carry, cite};
use crate::json::exact;

/// A text block, or a refusal, which is text here.
#[derive(Debug, Default)]
pub struct Text {
    begun: bool,
}

impl Text {
    pub fn grow(&mut self, delta: &Delta, frames: &Frames, out: &mut Vec<u8>) {
        match delta {
            Delta::Text(text) | Delta::Refusal(text) if !text.is_empty() => {
                self.begin(frames, out);
                frames.text(text, out);
            }
            Delta::Citation(citation) => {
                if let Some(citation) = cite::for_client(citation) {
                    self.begin(frames, out);
                    frames.delta(&Piece::Citation { citation: &citation }, out);
                }
            }
            _ => {}
        }
    }

    /// Whether something of it has been written.
    pub fn begun(&self) -> bool {
        self.begun
    }

    fn begin(&mut self, frames: &Frames, out: &mut Vec<u8>) {
        if !std::mem::replace(&mut self.begun, true) {
            frames.open(&json!({"type": "text", "text": ""}), out);
        }
    }

    pub fn close(self, frames: &mut Frames, out: &mut Vec<u8>) {
        if self.begun {
            frames.stop(out);
        }
    }
}

/// A thinking block. Visible text goes out as it comes, what is opaque when the block closes.
#[derive(Debug, Default)]
pub struct Thought {
    begun: bool,
    /// The summary part last written.
    part: Option<u32>,
    held: Reasoning,
}

impl Thought {
    pub fn new(id: Option<String>, encrypted: Option<String>) -> Self {
        Thought { held: Reasoning { id, encrypted, ..Reasoning::default() }, ..Thought::default() }
    }

    pub fn grow(&mut self, delta: &Delta, frames: &Frames, out: &mut Vec<u8>) {
        match delta {
            Delta::Reasoning(text) => self.show(text, frames, out),
            Delta::Summary { part, text } => {
                // Parts stand apart as paragraphs; that it is a summary is noted for the seal.
                if self.part.replace(*part).is_some_and(|last| last != *part) && self.begun {
                    frames.thinking("\n\n", out);
                }
                if self.held.summary.is_empty() {
                    self.held.summary.push(String::new());
                }
                self.show(text, frames, out);
            }
            Delta::Signature(more) => self.held.signature.get_or_insert_default().push_str(more),
            Delta::Encrypted(data) => self.held.encrypted = Some(data.clone()),
            _ => {}
        }
    }

    /// Whether something of it has been written.
    pub fn begun(&self) -> bool {
        self.begun
    }

    fn show(&mut self, text: &str, frames: &Frames, out: &mut Vec<u8>) {
        if text.is_empty() {
            return;
        }
        if !std::mem::replace(&mut self.begun, true) {
            frames.open(&carry::thinking("", ""), out);
        }
        frames.thinking(text, out);
    }

    pub fn close(mut self, source: &str, frames: &mut Frames, out: &mut Vec<u8>) {
        if !self.begun {
            // Nothing to see: what is left is opaque, as whole blocks.
            self.held.summary.clear();
            for block in carry::blocks(&self.held, source) {
                match block["signature"].as_str() {
                    Some(signature) => {
                        frames.open(&carry::thinking("", ""), out);
                        frames.signature(signature, out);
                        frames.stop(out);
                    }
                    None => frames.whole(&block, out),
                }
            }
            return;
        }
        let (signature, more) = if source == NAME {
            (self.held.signature, self.held.encrypted)
        } else {
            let mut opaque = carry::opaque(&self.held, source).into_iter();
            (opaque.next(), opaque.next())
        };
        if let Some(signature) = signature {
            frames.signature(&signature, out);
        }
        frames.stop(out);
        if let Some(data) = more {
            frames.whole(&carry::redacted(&data), out);
        }
    }
}

/// A call's input, and how it is passed on.
#[derive(Debug)]
pub enum Input {
    /// Not yet known whether it is an object; what has come so far.
    Unsure(String),
    /// An object: passed on as it comes.
    Object,
    /// No object: gathered and made one at the end.
    Gathered(String),
    /// Free text of a custom tool, passed on inside a JSON string.
    Custom,
}

impl Input {
    /// The input of the call whose head has just been written.
    pub fn new(custom: bool, frames: &Frames, out: &mut Vec<u8>) -> Self {
        if custom {
            frames.json("{\"input\":\"", out);
            return Input::Custom;
        }
        Input::Unsure(String::new())
    }

    pub fn grow(&mut self, text: &str, frames: &Frames, out: &mut Vec<u8>) {
        match self {
            Input::Object if !text.is_empty() => frames.json(text, out),
            Input::Object => {}
            Input::Gathered(gathered) => gathered.push_str(text),
            Input::Unsure(held) => {
                held.push_str(text);
                match held.trim_start().chars().next() {
                    None => {}
                    Some('{') => {
                        frames.json(held, out);
                        *self = Input::Object;
                    }
                    Some(_) => *self = Input::Gathered(std::mem::take(held)),
                }
            }
            Input::Custom => {
                // Without the quotes that a JSON string always has.
                let quoted = Value::from(text).to_string();
                let inner = &quoted[1..quoted.len() - 1];
                if !inner.is_empty() {
                    frames.json(inner, out);
                }
            }
        }
    }

    pub fn close(self, frames: &mut Frames, out: &mut Vec<u8>) {
        match self {
            Input::Gathered(text) => frames.json(&String::from_utf8_lossy(&exact::written(calls::object(&text))), out),
            Input::Custom => frames.json("\"}", out),
            Input::Unsure(_) | Input::Object => {}
        }
        frames.stop(out);
    }
}
