//! Reading an ask: `generateContent`, `streamGenerateContent`, and the ask inside `countTokens`.
//!
//! Model and streaming come from the path; the body is never asked for them when the path knows. Fields without a
//! neutral form ride in `extra` under their camelCase names, those of `generationConfig` and `toolConfig` below those.

mod config;
mod encode;
mod plain;
mod tools;

use serde::Deserialize;
use serde_json::Value;

pub use encode::{encode, encode_count};
pub use plain::plainly;

use super::field::{self, Object, take, take_list, take_object, take_string};
use super::part::{self, Gather, Part, Piece};
use super::partial::Joiner;
use super::{NAME, call_id};
use crate::chat::{Ask, Block, Content, Message, Role, ToolCall, ToolResult};
use crate::dialect::{Op, RawAsk};
use crate::fault::{Fault, Kind};
use crate::json::exact;

/// A prompt that Gemini keeps.
const CACHED: &str = "cachedContent";

pub fn decode(raw: &RawAsk<'_>) -> Result<Ask, Fault> {
    let mut body = super::json_object(raw.body)?;
    if !exact::holds(raw.body) {
        keep_objects(&mut body, raw.body);
    }
    if raw.op == Op::CountTokens
        && let Some(inner) = take_object(&mut body, "generateContentRequest")
    {
        body = inner;
    }
    let named = take_string(&mut body, "model").map(|name| super::bare_model(&name).to_owned());
    let mut ask = Ask {
        model: raw.model.map(str::to_owned).or(named).unwrap_or_default(),
        stream: raw.stream,
        source: NAME,
        ..Ask::default()
    };
    if let Some(instruction) = take(&mut body, "systemInstruction") {
        ask.system = instruction_blocks(instruction)?;
    }
    ask.messages = messages(take_list(&mut body, "contents"))?;
    // A system prompt alone is a complete ask: SDKs send an empty text beside it.
    if ask.messages.is_empty() && ask.system.is_empty() {
        return Err(Fault::new(Kind::InvalidRequest, "`contents` must hold at least one part.").param("contents"));
    }
    ask.tools = tools::decode(take_list(&mut body, "tools"))?;
    if let Some(config) = take(&mut body, "toolConfig") {
        tools::decode_choice(into_object(config, "toolConfig")?, &mut ask);
    }
    if let Some(config) = take(&mut body, "generationConfig") {
        config::decode(into_object(config, "generationConfig")?, &mut ask)?;
    }
    ask.service_tier = take_string(&mut body, "serviceTier").and_then(|tier| config::neutral_tier(&tier));
    for (name, value) in body.into_iter().filter(|(_, value)| !value.is_null()) {
        ask.extra.entry(camel(&name)).or_insert(value);
    }
    // Mostly it holds nearly the whole prompt.
    ask.leans_on = ask.extra.contains_key(CACHED).then_some(CACHED);
    Ok(ask)
}

/// Arguments and results keep their numbers, also those that a tree would change.
fn keep_objects(body: &mut Object, raw: &[u8]) {
    #[derive(Deserialize)]
    struct Asked<'a> {
        #[serde(borrow)]
        contents: Vec<part::Written<'a>>,
    }
    let (Some(Value::Array(contents)), Ok(raw)) = (body.get_mut("contents"), serde_json::from_slice::<Asked<'_>>(raw))
    else {
        return;
    };
    contents.iter_mut().zip(&raw.contents).for_each(|(content, raw)| part::spell(content, raw));
}

fn into_object(value: Value, at: &str) -> Result<Object, Fault> {
    match value {
        Value::Object(object) => Ok(object),
        _ => Err(field::wrong(at, "an object")),
    }
}

/// Extra fields are kept under one spelling, so that encoding finds them.
fn camel(name: &str) -> String {
    let mut to = String::with_capacity(name.len());
    let mut raise = false;
    for letter in name.chars() {
        match letter {
            '_' if !to.is_empty() => raise = true,
            _ if raise => {
                to.push(letter.to_ascii_uppercase());
                raise = false;
            }
            _ => to.push(letter),
        }
    }
    to
}

fn instruction_blocks(instruction: Value) -> Result<Vec<Block>, Fault> {
    let mut content = match instruction {
        Value::String(text) => return Ok(vec![Block::text(text)]),
        other => into_object(other, "systemInstruction")?,
    };
    let mut gather = Gather::for_ask(false);
    for value in take_list(&mut content, "parts") {
        if let Some(part) = part::read(value) {
            gather.part(part.piece, part.signature, part.extra);
        }
    }
    Ok(gather.blocks)
}

fn messages(contents: Vec<Value>) -> Result<Vec<Message>, Fault> {
    let mut calls = Calls::default();
    let mut turns: Vec<(Role, Gather, Object)> = Vec::with_capacity(contents.len());
    for (index, content) in contents.into_iter().enumerate() {
        let at = format!("contents[{index}]");
        let mut content = into_object(content, &at)?;
        let role = match take_string(&mut content, "role").as_deref() {
            None | Some("" | "user" | "function" | "tool") => Role::User,
            Some("model") => Role::Assistant,
            Some("system") => Role::System,
            Some(_) => return Err(field::wrong(&format!("{at}.role"), "`user` or `model`")),
        };
        let parts = take_list(&mut content, "parts");
        // Google's SDKs keep every chunk of a stream as a content of its own: together they are one turn.
        let goes_on = role == Role::Assistant && turns.last().is_some_and(|(last, ..)| *last == role);
        if !goes_on {
            end_call(&mut turns, &mut calls);
            turns.push((role, Gather::for_ask(role == Role::Assistant), content));
        }
        if let Some((_, gather, _)) = turns.last_mut() {
            read_parts(parts, gather, &mut calls, &at)?;
        }
    }
    end_call(&mut turns, &mut calls);
    let turns = turns.into_iter().filter(|(_, gather, _)| !gather.blocks.is_empty());
    Ok(turns.map(|(role, gather, extra)| Message { role, blocks: gather.blocks, name: None, extra }).collect())
}

/// A call that the turn left open is part of it.
fn end_call(turns: &mut [(Role, Gather, Object)], calls: &mut Calls) {
    if let (Some((_, gather, _)), Some(part)) = (turns.last_mut(), calls.joiner.end()) {
        read_part(part, gather, calls);
    }
}

fn read_parts(parts: Vec<Value>, gather: &mut Gather, calls: &mut Calls, at: &str) -> Result<(), Fault> {
    for (index, value) in parts.into_iter().enumerate() {
        if !value.is_object() {
            return Err(field::wrong(&format!("{at}.parts[{index}]"), "an object"));
        }
        let Some(part) = part::read(value) else { continue };
        for part in calls.joiner.add(part) {
            read_part(part, gather, calls);
        }
    }
    Ok(())
}

fn read_part(part: Part, gather: &mut Gather, calls: &mut Calls) {
    match part.piece {
        Piece::Call { id, name, arguments } => {
            let id = calls.made(id, &name, &arguments);
            let held = part.signature.as_deref().map(super::signature::read_call);
            let (before, signature) = held.unwrap_or_default();
            gather.carriers(before);
            let call = ToolCall { id, name, arguments, signature, ..ToolCall::default() };
            gather.block(Block { content: Content::ToolCall(call), cache: None, extra: part.extra });
        }
        Piece::Response { id, name, response, media } => {
            let id = calls.answered(id, &name);
            let (mut content, is_error) = result(unwrapped(response, &name));
            content.extend(media.into_iter().filter_map(part::read).filter_map(|part| match part.piece {
                Piece::Whole(content) => Some(Block { content, cache: None, extra: part.extra }),
                Piece::Text(text) => Some(Block::text(text)),
                _ => None,
            }));
            let name = (!name.is_empty()).then_some(name);
            let result = ToolResult { id, name, content, is_error, custom: false };
            gather.block(Block { content: Content::ToolResult(result), cache: None, extra: part.extra });
        }
        piece => gather.part(piece, part.signature, part.extra),
    }
}

/// Vercel's SDK puts every answer into `{"name": …, "content": …}` beside the name that already stands there.
fn unwrapped(response: Value, name: &str) -> Value {
    match response {
        Value::Object(mut object) if object.len() == 2 && object.get("name").is_some_and(|same| same == name) => {
            match object.shift_remove("content") {
                Some(content @ Value::String(_)) => Value::Object(field::object("result", content)),
                Some(content) => content,
                None => Value::Object(object),
            }
        }
        other => other,
    }
}

/// What a function answered, as blocks. `{"result": "text"}`, `{"output": "text"}` and `{"error": …}` are Google's own
/// wrappings of plain text; any other object is JSON text. A text that would itself be read as an object stays wrapped,
/// so that encoding gives back what came.
fn result(response: Value) -> (Vec<Block>, Option<bool>) {
    let is_object = |text: &str| matches!(serde_json::from_str(text), Ok(Value::Object(_)));
    if let Value::Object(object) = &response
        && let (1, Some((key, value))) = (object.len(), object.iter().next())
    {
        match (key.as_str(), value) {
            ("result" | "output", Value::String(text)) if !is_object(text) => {
                return (vec![Block::text(text.as_str())], None);
            }
            ("error", Value::String(text)) => return (vec![Block::text(text.as_str())], Some(true)),
            ("error", other) => return (vec![Block::text(other.to_string())], Some(true)),
            _ => {}
        }
    }
    match &response {
        Value::Object(object) if object.is_empty() => (Vec::new(), None),
        Value::String(text) => (vec![Block::text(text.as_str())], None),
        other => (vec![Block::text(other.to_string())], None),
    }
}

/// Calls of the conversation so far, to pair responses that name only the function.
#[derive(Default)]
struct Calls {
    /// The call that is coming in pieces.
    joiner: Joiner,
    count: usize,
    /// (id, name) of calls without a response yet, in order.
    open: Vec<(String, String)>,
}

impl Calls {
    fn made(&mut self, id: Option<String>, name: &str, arguments: &str) -> String {
        let id = id.unwrap_or_else(|| call_id::make(&[name, arguments], self.count));
        self.count += 1;
        self.open.push((id.clone(), name.to_owned()));
        id
    }

    /// The id that a response belongs to: its own, else that of the oldest open call of this function.
    fn answered(&mut self, id: Option<String>, name: &str) -> String {
        let at = match &id {
            Some(id) => self.open.iter().position(|(open, _)| open == id),
            None => self.open.iter().position(|(_, open)| open == name),
        };
        match (at.map(|at| self.open.remove(at)), id) {
            (_, Some(id)) => id,
            (Some((open, _)), None) => open,
            (None, None) => {
                self.count += 1;
                call_id::make(&[name], self.count - 1)
            }
        }
    }
}
