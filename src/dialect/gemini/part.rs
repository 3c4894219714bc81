//! One `Part` of a `Content`, both directions, and parts gathered into blocks.
//!
//! Never decides where a call's id comes from: asks and answers have their own rules for that.

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::field::{self, Object, put, take, take_bool, take_object, take_string};
use super::media;
use super::partial::Fragment;
use super::signature;
use crate::chat::{Block, Content, Reasoning, ToolCall};
use crate::json::exact;

/// A part taken apart.
#[derive(Debug)]
pub struct Part {
    pub piece: Piece,
    /// `thoughtSignature` as it came.
    pub signature: Option<String>,
    /// Fields beside the data (`videoMetadata`, `mediaResolution`, `partMetadata`, …).
    pub extra: Object,
}

#[derive(Debug)]
pub enum Piece {
    Text(String),
    Thought(String),
    Call {
        id: Option<String>,
        name: String,
        arguments: String,
    },
    /// A piece of a call; `partial::Joiner` makes calls of them.
    Fragment(Fragment),
    Response {
        id: Option<String>,
        name: String,
        response: Value,
        media: Vec<Value>,
    },
    Whole(Content),
}

/// Data fields that have a neutral form; a part with another one stays whole.
const KNOWN: &[&str] = &[
    "text",
    "functionCall",
    "functionResponse",
    "inlineData",
    "fileData",
    "function_call",
    "function_response",
    "inline_data",
    "file_data",
];

/// Reads a part. None when it holds nothing.
pub fn read(value: Value) -> Option<Part> {
    let Value::Object(mut part) = value else { return None };
    part.retain(|_, value| !value.is_null());
    let known = KNOWN.iter().any(|name| part.contains_key(*name));
    let bare = part.keys().all(|name| matches!(name.as_str(), "thought" | "thoughtSignature" | "thought_signature"));
    if part.is_empty() {
        return None;
    }
    let is_thought = part.get("thought").and_then(Value::as_bool).unwrap_or(false);
    // A thought that is no text is a draft picture: no other dialect may take it for the answer.
    if !(known || bare) || (is_thought && !bare && !part.contains_key("text")) {
        return Some(whole(Content::Other(Value::Object(part))));
    }
    let thought = take_bool(&mut part, "thought").unwrap_or(false);
    let signature = take_string(&mut part, "thoughtSignature").filter(|signature| !signature.is_empty());
    let piece = if let Some(call) = take_object(&mut part, "functionCall") {
        read_call(call)
    } else if let Some(response) = take_object(&mut part, "functionResponse") {
        read_response(response)
    } else if let Some(blob) = take_object(&mut part, "inlineData") {
        let (content, mime) = media::read_inline(blob);
        put(&mut part, "mimeType", mime);
        Piece::Whole(content)
    } else if let Some(file) = take_object(&mut part, "fileData") {
        Piece::Whole(media::read_file(file))
    } else {
        let text = take_string(&mut part, "text").unwrap_or_default();
        if thought { Piece::Thought(text) } else { Piece::Text(text) }
    };
    Some(Part { piece, signature, extra: part })
}

/// A content as it was written: the objects of its parts that nobody but a tool reads.
#[derive(Deserialize)]
pub struct Written<'a> {
    #[serde(borrow, default)]
    parts: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WrittenPart<'a> {
    #[serde(borrow, default, alias = "function_call")]
    function_call: Option<WrittenCall<'a>>,
    #[serde(borrow, default, alias = "function_response")]
    function_response: Option<WrittenResponse<'a>>,
}

#[derive(Deserialize)]
struct WrittenCall<'a> {
    #[serde(borrow, default)]
    args: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct WrittenResponse<'a> {
    #[serde(borrow, default)]
    response: Option<&'a RawValue>,
}

/// Gives the calls and responses of a content their objects as text, where a tree would change their numbers.
pub fn spell(content: &mut Value, written: &Written<'_>) {
    let (Some(Value::Array(parts)), Some(written)) = (content.get_mut("parts"), written.parts) else { return };
    let written: Vec<WrittenPart<'_>> = serde_json::from_str(written.get()).unwrap_or_default();
    for (part, WrittenPart { function_call, function_response }) in parts.iter_mut().zip(written) {
        let args = function_call.and_then(|call| call.args).map(|raw| (["functionCall", "function_call"], "args", raw));
        let response = function_response.and_then(|response| response.response);
        let response = response.map(|raw| (["functionResponse", "function_response"], "response", raw));
        for (names, field, raw) in args.into_iter().chain(response) {
            let Some(name) = names.into_iter().find(|name| part.get(*name).is_some()) else { continue };
            match part.get_mut(name).and_then(|inner| inner.get_mut(field)) {
                // Google's wrappings of a text are read as trees.
                Some(Value::Object(object)) if field == "response" && object.len() < 3 && wraps(object) => {}
                Some(object) => exact::keep(object, raw),
                None => {}
            }
        }
    }
}

/// Whether a response may be one around another.
fn wraps(response: &Object) -> bool {
    ["result", "output", "error", "content"].iter().any(|key| response.contains_key(*key))
}

fn whole(content: Content) -> Part {
    Part { piece: Piece::Whole(content), signature: None, extra: Object::new() }
}

fn read_call(mut call: Object) -> Piece {
    if let Some(fragment) = Fragment::read(&mut call) {
        return Piece::Fragment(fragment);
    }
    let arguments = match take(&mut call, "args") {
        // See `spell`.
        Some(Value::String(text)) => text,
        Some(args) => args.to_string(),
        None => "{}".to_owned(),
    };
    let id = take_string(&mut call, "id").filter(|id| !id.is_empty());
    Piece::Call { id, name: take_string(&mut call, "name").unwrap_or_default(), arguments }
}

fn read_response(mut response: Object) -> Piece {
    Piece::Response {
        id: take_string(&mut response, "id").filter(|id| !id.is_empty()),
        name: take_string(&mut response, "name").unwrap_or_default(),
        media: field::take_list(&mut response, "parts"),
        response: take(&mut response, "response").unwrap_or_else(|| Value::Object(Object::new())),
    }
}

/// Blocks of one turn as its parts come.
#[derive(Debug)]
pub struct Gather {
    pub blocks: Vec<Block>,
    /// Whether the next text, or the next thought, goes on the last block. A client that streamed sends its history in
    /// the pieces it received.
    joins: bool,
    /// Text of a user's parts stays apart: nobody streamed it.
    joins_text: bool,
    /// In asks a signature may be one that we sealed; in answers it is the provider's, whatever it looks like.
    unseals: bool,
}

impl Gather {
    pub fn for_ask(model_turn: bool) -> Self {
        Gather { blocks: Vec::new(), joins: false, joins_text: model_turn, unseals: true }
    }

    pub fn for_answer() -> Self {
        Gather { blocks: Vec::new(), joins: false, joins_text: true, unseals: false }
    }

    /// Adds a part that is neither a call, in pieces or whole, nor a response.
    pub fn part(&mut self, piece: Piece, signature: Option<String>, extra: Object) {
        let mut reasoning = signature.as_deref().map(|wire| self.reasoning(wire)).unwrap_or_default();
        match piece {
            Piece::Thought(text) => {
                let of_text = reasoning.pop();
                self.carriers(reasoning);
                self.thought(text, of_text);
            }
            Piece::Text(text) => {
                // Gemini signs the whole of a text, or its last piece; what we hang on one hangs on its first.
                let is_ours = |reasoning: &Reasoning| !reasoning.origin.is_empty() && reasoning.origin != super::NAME;
                let open = reasoning.iter().all(is_ours);
                self.carriers(reasoning);
                if !text.is_empty() {
                    self.text(text, extra, open);
                }
            }
            Piece::Whole(content) => {
                self.carriers(reasoning);
                self.block(Block { content, cache: None, extra });
            }
            Piece::Call { .. } | Piece::Fragment(_) | Piece::Response { .. } => {}
        }
    }

    pub fn block(&mut self, block: Block) {
        self.joins = false;
        self.blocks.push(block);
    }

    fn reasoning(&self, wire: &str) -> Vec<Reasoning> {
        match self.unseals {
            true => signature::read(wire),
            false => vec![Reasoning { signature: Some(wire.to_owned()), ..Reasoning::default() }],
        }
    }

    /// The reasoning blocks that hold the signature of the part after them.
    pub fn carriers(&mut self, reasoning: Vec<Reasoning>) {
        reasoning.into_iter().for_each(|reasoning| self.block(Block::new(Content::Reasoning(reasoning))));
    }

    fn thought(&mut self, text: String, signed: Option<Reasoning>) {
        let closes = signed.is_some();
        match self.blocks.last_mut().map(|block| &mut block.content) {
            Some(Content::Reasoning(open)) if self.joins => {
                let before = std::mem::take(&mut open.text);
                *open = Reasoning { text: before + &text, ..signed.unwrap_or_else(|| std::mem::take(open)) };
            }
            _ if text.is_empty() && !closes => return,
            _ => {
                let reasoning = Reasoning { text, ..signed.unwrap_or_default() };
                self.blocks.push(Block::new(Content::Reasoning(reasoning)));
            }
        }
        self.joins = !closes;
    }

    fn text(&mut self, text: String, extra: Object, open: bool) {
        match self.blocks.last_mut() {
            Some(Block { content: Content::Text { text: before, .. }, .. })
                if self.joins && self.joins_text && extra.is_empty() =>
            {
                before.push_str(&text);
            }
            _ => {
                self.joins = open && extra.is_empty();
                let content = Content::Text { text, citations: Vec::new() };
                self.blocks.push(Block { content, cache: None, extra });
            }
        }
    }
}

/// Parts of one content being written, with the signature that waits for the part it belongs to.
#[derive(Debug, Default)]
pub struct Parts {
    parts: Vec<Value>,
    waiting: Option<Waiting>,
}

/// A signature without a part of its own.
#[derive(Debug)]
enum Waiting {
    /// Gemini's own; on a call it would be taken for the call's.
    Own(String),
    /// Another provider's, sealed.
    Sealed(String),
}

impl Waiting {
    /// The part that it is where nothing fits.
    fn alone(self) -> Value {
        Value::Object(match self {
            Waiting::Own(signature) => carrier(signature),
            Waiting::Sealed(signature) => thought(String::new(), Some(signature)),
        })
    }
}

impl Parts {
    pub fn push(&mut self, mut part: Object) {
        if let Some(waiting) = self.waiting.take() {
            let takes = |names: &[&str]| !names.iter().any(|name| part.contains_key(*name));
            match waiting {
                Waiting::Own(signature)
                    if takes(&["thought", "thoughtSignature", "functionCall", "functionResponse"]) =>
                {
                    part.insert("thoughtSignature".into(), signature.into());
                }
                Waiting::Sealed(signature) if takes(&["thought", "thoughtSignature"]) => {
                    part.insert("thoughtSignature".into(), signature.into());
                }
                waiting => self.parts.push(waiting.alone()),
            }
        }
        self.parts.push(Value::Object(part));
    }

    /// Adds reasoning: thought text with its signature, or a signature for the part that follows.
    pub fn reasoning(&mut self, text: String, signature: Option<String>) {
        if !text.is_empty() {
            self.push(thought(text, signature));
        } else if let Some(signature) = signature
            && let Some(before) = self.waiting.replace(Waiting::Own(signature))
        {
            self.parts.push(before.alone());
        }
    }

    /// Adds another provider's reasoning without text, as [`signature::for_reader`] gives it.
    pub fn sealed(&mut self, signature: String) {
        let signature = match self.waiting.take() {
            Some(Waiting::Sealed(before)) => signature::together(&before, &signature),
            before => {
                self.parts.extend(before.map(Waiting::alone));
                signature
            }
        };
        self.waiting = Some(Waiting::Sealed(signature));
    }

    /// The parts that need not wait for others.
    pub fn ready(&mut self) -> Vec<Value> {
        std::mem::take(&mut self.parts)
    }

    pub fn done(mut self) -> Vec<Value> {
        self.parts.extend(self.waiting.map(Waiting::alone));
        self.parts
    }
}

pub fn thought(text: String, signature: Option<String>) -> Object {
    let mut part = field::object("text", text);
    part.insert("thought".into(), true.into());
    put(&mut part, "thoughtSignature", signature);
    part
}

/// A part that is there for its signature alone, as Gemini ends streams.
pub fn carrier(signature: String) -> Object {
    let mut part = field::object("text", "");
    part.insert("thoughtSignature".into(), signature.into());
    part
}

/// A call as a part of a tree that [`exact`] writes, without its signature. `args` is always an object: free text and what is no JSON object rides in
/// `input`, the one parameter that custom tools are declared with.
pub fn call(call: &ToolCall, id: Option<&str>) -> Object {
    let mut inner = Object::new();
    put(&mut inner, "id", id);
    inner.insert("name".into(), call.name.clone().into());
    inner.insert("args".into(), arguments(call));
    field::object("functionCall", inner)
}

fn arguments(call: &ToolCall) -> Value {
    let text = call.arguments.trim();
    if !call.custom {
        if matches!(text, "" | "null") {
            return Value::Object(Object::new());
        }
        if let Ok(object @ Value::Object(_)) = serde_json::from_str(text) {
            return exact::of(object, text);
        }
    }
    Value::Object(field::object("input", call.arguments.clone()))
}

/// All text in some blocks, one line each.
pub fn plain_text(blocks: &[Block]) -> String {
    let texts: Vec<&str> = blocks
        .iter()
        .filter_map(|block| match &block.content {
            Content::Text { text, .. } | Content::Refusal(text) => Some(text.as_str()),
            _ => None,
        })
        .collect();
    texts.join("\n")
}
