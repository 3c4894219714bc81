//! Turns of blocks, written as messages.
//!
//! Tool results leave their user turn and go before everything else of it, because they must follow the calls at once.
//! What the target cannot hold is noted; a document or image that it cannot read is refused, never lost.

use std::borrow::Cow;

use serde_json::{Map, Value, json};

use super::reasoning::{self, To};
use super::tools::{disguises_custom, write_cache};
use super::turns::PART;
use super::{NAME, call_id, order};
use crate::chat::reasoning::for_target;
use crate::chat::{
    Ask, Block, CacheMark, Content, Extra, Media, Message, Reasoning, Role, ToolCall, ToolResult, document,
};
use crate::dialect::foreign::FAILED;
use crate::dialect::openai_marks::{self, BREAKPOINT};
use crate::dialect::{Encoding, ReasoningStyle, openai_call_id};
use crate::fault::{Fault, Kind};

/// What the assistant thought where nobody knows: Kimi and DeepSeek refuse a turn of theirs without, Kimi also an empty one.
const NO_THOUGHT: &str = " ";

/// All messages of an ask, its system instructions first.
pub(super) fn write(ask: &Ask, to: &mut Encoding<'_>) -> Result<Vec<Value>, Fault> {
    let mut writer = Writer { ask, own: ask.source == NAME, to, out: Vec::with_capacity(ask.messages.len() + 1) };
    if !ask.system.is_empty() {
        writer.system(&ask.system, None)?;
    }
    let mut rest = ask.messages.as_slice();
    while let Some(first) = rest.first() {
        let run = rest.iter().take_while(|message| message.role == Role::User).count();
        let (turn, after) = rest.split_at(run.max(1));
        rest = after;
        match first.role {
            Role::User => writer.user_turns(turn)?,
            Role::System => writer.system(&first.blocks, Some(first))?,
            Role::Assistant => {
                let run = after.iter().take_while(|message| message.role == Role::Assistant).count();
                match run {
                    0 => writer.assistant(first)?,
                    // Elsewhere a turn may come in pieces; here results must follow the calls of their message.
                    _ if !writer.own => {
                        let (more, after) = after.split_at(run);
                        rest = after;
                        let pieces = std::iter::once(first).chain(more);
                        let blocks = pieces.flat_map(|message| message.blocks.iter().cloned()).collect();
                        writer.assistant(&Message { blocks, ..first.clone() })?;
                    }
                    _ => writer.assistant(first)?,
                }
            }
        }
    }
    if writer.out.is_empty() && !ask.messages.is_empty() {
        return Err(unsupported("a conversation of nothing but blocks that only the caller's dialect knows"));
    }
    Ok(writer.out)
}

struct Writer<'a, 'b, 'c> {
    ask: &'a Ask,
    /// The ask came in this very dialect: unknown fields go out again.
    own: bool,
    to: &'b mut Encoding<'c>,
    out: Vec<Value>,
}

impl Writer<'_, '_, '_> {
    fn system(&mut self, blocks: &[Block], message: Option<&Message>) -> Result<(), Fault> {
        let role = if self.to.quirks.developer_role { "developer" } else { "system" };
        let parts = self.parts(blocks)?;
        let content = self.content(parts, !self.own);
        self.push(role, vec![("content", content)], message);
        Ok(())
    }

    /// Adjacent user turns: every tool result among them first.
    fn user_turns(&mut self, turns: &[Message]) -> Result<(), Fault> {
        let mut pictures = Vec::new();
        for block in turns.iter().flat_map(|turn| &turn.blocks) {
            if let Content::ToolResult(result) = &block.content {
                self.tool_result(result, block, &mut pictures)?;
            }
        }
        for turn in turns {
            let spoken: Vec<Block> =
                turn.blocks.iter().filter(|block| !matches!(block.content, Content::ToolResult(_))).cloned().collect();
            if spoken.is_empty() && !turn.blocks.is_empty() && pictures.is_empty() {
                continue;
            }
            let mut parts = std::mem::take(&mut pictures);
            parts.extend(self.parts(&spoken)?);
            // All that it held is known to its own provider only.
            if parts.is_empty() && !spoken.is_empty() && !self.own {
                continue;
            }
            let content = self.content(parts, false);
            self.push("user", vec![("content", content)], Some(turn));
        }
        Ok(())
    }

    fn tool_result(&mut self, result: &ToolResult, block: &Block, pictures: &mut Vec<Value>) -> Result<(), Fault> {
        let mut parts = Vec::new();
        let (mut shown, mut images, mut files) = (Vec::new(), false, false);
        for inner in &result.content {
            match &inner.content {
                Content::Other(value) if !self.own => parts.push(text_part(&value.to_string())),
                Content::File { source, .. } if !self.own && is_text(source) => parts.extend(self.part(inner)?),
                Content::Image { .. } | Content::File { .. } if !self.own => {
                    let part = self.part(inner)?;
                    let image = part.as_ref().is_some_and(|part| part["type"] == "image_url");
                    (images, files) = (images || image, files || !image);
                    shown.extend(part);
                }
                _ => parts.extend(self.part(inner)?),
            }
        }
        if !shown.is_empty() {
            let what = match (images, files) {
                (true, false) => "images",
                (false, _) => "files",
                (true, true) => "images and files",
            };
            parts.push(text_part(&format!("The {what} of this result follow in the next message.")));
            let whose = text_part(&format!("The {what} of the result of {}:", self.name_call(result)));
            pictures.push(whose);
            pictures.append(&mut shown);
        }
        if result.is_error == Some(true) {
            parts.insert(0, text_part(FAILED));
        }
        if let (Some(mark), true, Some(Value::Object(last))) =
            (&block.cache, self.to.quirks.cache_control, parts.last_mut())
        {
            last.insert("cache_control".into(), write_cache(mark));
        }
        let content = self.content(parts, !self.own);
        let mut message = Map::new();
        message.insert("role".into(), "tool".into());
        message.insert("tool_call_id".into(), self.id(&result.id).into());
        message.insert("content".into(), content);
        if self.own {
            message.extend(result.name.as_ref().map(|name| ("name".to_owned(), name.as_str().into())));
            message.extend(block.extra.clone());
        }
        self.out.push(Value::Object(message));
        Ok(())
    }

    /// The call that a result answers, in words.
    fn name_call(&self, result: &ToolResult) -> String {
        let mut blocks = self.ask.messages.iter().flat_map(|message| &message.blocks);
        let called = blocks.find_map(|block| match &block.content {
            Content::ToolCall(call) if call.id == result.id => Some(call.name.as_str()),
            _ => None,
        });
        let tool = called.or(result.name.as_deref()).map(|name| format!(" of `{name}`")).unwrap_or_default();
        format!("call {}{tool}", self.id(&result.id))
    }

    fn assistant(&mut self, message: &Message) -> Result<(), Fault> {
        let (mut spoken, mut refusal, mut calls) = (Vec::new(), None, Vec::new());
        let (mut thoughts, mut entries, mut audio) = (Vec::new(), Vec::new(), None);
        for block in &message.blocks {
            match &block.content {
                Content::Reasoning(reasoning) => thoughts.push(reasoning),
                Content::Refusal(text) => refusal = Some(text),
                Content::ToolCall(call) => calls.push(self.call(call)),
                Content::Audio { id: Some(id), .. } => audio = Some(id),
                Content::Other(value) if self.own && is_detail(value) => entries.push(value.clone()),
                Content::Image { .. } | Content::Audio { .. } | Content::File { .. } if !self.own => {
                    self.to.drop_if(true, "messages.assistant", "the target takes no media back from the assistant");
                }
                _ => spoken.push(block.clone()),
            }
        }
        let mut parts = self.parts(&spoken)?;
        if !self.own {
            // OpenAI takes breakpoints in what its models are told, not in what they said.
            let marked = parts.iter_mut().filter_map(|part| part.as_object_mut()?.shift_remove(BREAKPOINT)).count() > 0;
            self.to.drop_if(marked, "cache_control", "the target takes no mark on the assistant's turns");
        }
        let nothing = parts.is_empty() && calls.is_empty() && refusal.is_none() && audio.is_none();
        if nothing && !message.blocks.is_empty() && !self.own {
            self.thoughts(&thoughts, entries, &mut Vec::new());
            return Ok(());
        }
        let silent = parts.is_empty() && (!calls.is_empty() || refusal.is_some() || audio.is_some());
        let content = if silent { Value::Null } else { self.assistant_content(parts) };
        let mut fields = vec![("content", content)];
        fields.extend(refusal.map(|text| ("refusal", text.as_str().into())));
        fields.extend(audio.map(|id| ("audio", json!({ "id": id }))));
        self.thoughts(&thoughts, entries, &mut fields);
        if !calls.is_empty() {
            fields.push(("tool_calls", calls.into()));
        }
        self.push("assistant", fields, Some(message));
        Ok(())
    }

    /// Text that another dialect cut into blocks (citations, pauses for tools) is one string here.
    fn assistant_content(&self, parts: Vec<Value>) -> Value {
        if !self.own && parts.iter().all(is_plain_text) {
            return parts.iter().filter_map(text_of).collect::<String>().into();
        }
        self.content(parts, false)
    }

    /// Only servers that show reasoning in this form take it back; strict ones refuse a message with it.
    fn thoughts(&mut self, thoughts: &[&Reasoning], unknown: Vec<Value>, fields: &mut Vec<(&'static str, Value)>) {
        let style = self.to.quirks.reasoning;
        let refused = !self.to.quirks.refuses_thoughts.is_empty();
        let shows = !matches!(style, ReasoningStyle::Effort | ReasoningStyle::None);
        if refused || !(self.own || shows) {
            let present = !thoughts.is_empty();
            return self.to.drop_if(present, "messages.reasoning", "the target takes no reasoning back");
        }
        let mut details = Vec::new();
        let mut text = Vec::new();
        for reasoning in thoughts {
            details.extend(reasoning::details(reasoning, self.ask.source, To::Target, details.len()));
            text.push(reasoning::plain(reasoning));
            let opaque = reasoning.signature.iter().chain(&reasoning.encrypted);
            let origin = if reasoning.origin.is_empty() { self.ask.source } else { &reasoning.origin };
            let foreign = opaque.clone().any(|opaque| for_target(opaque, origin, NAME).is_none());
            self.to.drop_if(foreign, "messages.reasoning.signature", "made by another provider");
        }
        text.retain(|text| !text.is_empty());
        if text.is_empty() && !self.own && style == ReasoningStyle::Thinking {
            text.push(NO_THOUGHT.to_owned());
        }
        if !text.is_empty() {
            let key = if style == ReasoningStyle::Object { "reasoning" } else { "reasoning_content" };
            fields.push((key, text.join("\n\n").into()));
        }
        details.extend(unknown);
        if !details.is_empty() && (self.own || style == ReasoningStyle::Object) {
            fields.push(("reasoning_details", details.into()));
        }
    }

    /// A call's id as the target takes it.
    fn id<'i>(&self, id: &'i str) -> Cow<'i, str> {
        match self.own {
            _ if self.to.quirks.short_call_ids => call_id::short(id),
            true => Cow::Borrowed(id),
            false => openai_call_id(id),
        }
    }

    fn call(&self, call: &ToolCall) -> Value {
        let disguised = call.custom && disguises_custom(self.ask, self.to);
        let id = self.id(&call.id);
        let mut value = match (call.custom, disguised) {
            (true, false) => json!({ "id": id, "type": "custom",
                                     "custom": { "name": call.name, "input": call.arguments } }),
            (true, true) => function_call(&id, &call.name, &json!({ "input": call.arguments }).to_string()),
            (false, _) => function_call(&id, &call.name, &call.arguments),
        };
        let signature =
            call.signature.as_deref().filter(|_| !self.to.quirks.refuses_thoughts.contains(&"extra_content"));
        let signature = signature.and_then(|opaque| for_target(opaque, self.ask.source, NAME));
        if let (Some(signature), Value::Object(value)) = (signature, &mut value) {
            value.insert("extra_content".into(), json!({ "google": { "thought_signature": signature } }));
        }
        value
    }

    fn push(&mut self, role: &str, fields: Vec<(&'static str, Value)>, from: Option<&Message>) {
        let before = self.out.last().and_then(|last| last["role"].as_str()).unwrap_or_default();
        if self.to.quirks.assistant_after_tools && order::lacks_turn(before, role) {
            self.out.push(json!({ "role": "assistant", "content": order::SEEN }));
        }
        let mut message = Map::new();
        message.insert("role".into(), role.into());
        if let Some(name) = from.and_then(|from| from.name.as_deref()) {
            message.insert("name".into(), name.into());
        }
        message.extend(fields.into_iter().map(|(key, value)| (key.to_owned(), value)));
        if let Some(from) = from.filter(|_| self.own) {
            add_unknown(&mut message, &from.extra);
            message.retain(|key, _| {
                from.role != Role::Assistant || !self.to.quirks.refuses_thoughts.contains(&key.as_str())
            });
        }
        self.out.push(Value::Object(message));
    }

    fn parts(&mut self, blocks: &[Block]) -> Result<Vec<Value>, Fault> {
        let mut parts = Vec::with_capacity(blocks.len());
        for block in blocks {
            parts.extend(self.part(block)?);
        }
        Ok(parts)
    }

    /// One content part; None for what is dropped or said elsewhere.
    fn part(&mut self, block: &Block) -> Result<Option<Value>, Fault> {
        let value = match &block.content {
            Content::Text { text, .. } => text_part(text),
            Content::Refusal(text) if self.own => json!({ "type": "refusal", "refusal": text }),
            Content::Refusal(text) => text_part(text),
            Content::Image { source: Media::Id(_), .. } | Content::File { source: Media::Id(_), .. }
                if !self.shares_files() =>
            {
                return Err(unsupported("a file that another provider holds"));
            }
            Content::Image { source, detail } => image_part(source, detail.as_deref())?,
            Content::Audio { data, format, .. } => {
                json!({ "type": "input_audio", "input_audio": { "data": data, "format": format } })
            }
            Content::File { .. } if self.own && block.extra.contains_key(PART) => part_as_it_came(&block.extra),
            Content::File { source, name } => self.file_part(source, name.as_deref())?,
            Content::Other(value) if self.own => value.clone(),
            Content::Other(_) => {
                self.to.drop_if(true, "messages.content", "a part that only the source dialect knows");
                return Ok(None);
            }
            Content::ToolCall(_) | Content::ToolResult(_) | Content::Reasoning(_) => return Ok(None),
        };
        Ok(Some(self.marked(value, block.cache.as_ref(), &block.extra)))
    }

    /// The OpenAI forms share their files.
    fn shares_files(&self) -> bool {
        self.own || self.ask.source == "openai_responses"
    }

    fn marked(&mut self, mut value: Value, cache: Option<&CacheMark>, extra: &Extra) -> Value {
        if let Value::Object(part) = &mut value {
            match cache {
                // Its own spelling is among the unknown fields.
                Some(_) if self.own && extra.contains_key(BREAKPOINT) => {}
                Some(_) if !self.own && openai_marks::taken(self.to) => openai_marks::write(part),
                Some(mark) if self.to.quirks.cache_control => {
                    part.insert("cache_control".into(), write_cache(mark));
                }
                Some(_) => self.to.drop_if(true, "cache_control", "the target caches without marks"),
                None => {}
            }
            if self.own {
                add_unknown(part, extra);
            }
        }
        value
    }

    fn file_part(&self, source: &Media, name: Option<&str>) -> Result<Value, Fault> {
        let takes_urls = self.own || self.to.quirks.reasoning == ReasoningStyle::Object;
        let mut file = Map::new();
        match source {
            Media::Id(id) => file.insert("file_id".into(), id.as_str().into()),
            Media::Inline { mime, .. } if mime.starts_with("image/") && !self.own => return image_part(source, None),
            Media::Inline { mime, data } if mime.starts_with("text/") && !self.own => {
                let bytes = base64::Engine::decode(&base64::prelude::BASE64_STANDARD, data);
                let text = bytes.ok().and_then(|bytes| String::from_utf8(bytes).ok());
                let text = text.ok_or_else(|| unsupported("a text file that is not UTF-8"))?;
                return Ok(text_part(&document(name, None, &text)));
            }
            Media::Inline { .. } => {
                // OpenAI refuses inline files without a name.
                let name = name.filter(|_| self.own).map_or_else(|| source.file_name(name), str::to_owned);
                file.insert("filename".into(), name.into());
                file.insert("file_data".into(), source.to_url().into())
            }
            Media::Url { url, .. } if takes_urls => {
                file.extend(name.map(|name| ("filename".to_owned(), name.into())));
                file.insert("file_data".into(), url.as_str().into())
            }
            Media::Url { .. } => return Err(unsupported("a file by URL")),
            Media::Text(text) => return Ok(text_part(&document(name, None, text))),
        };
        Ok(json!({ "type": "file", "file": file }))
    }

    /// A single plain text is a string; several are parts, unless the target or the caller wants one string.
    fn content(&self, parts: Vec<Value>, joined: bool) -> Value {
        let all_text = parts.iter().all(|part| part.get("type").is_some_and(|kind| kind == "text"));
        let unmarked = parts.iter().all(is_plain_text);
        let flat = all_text && (self.to.quirks.flat_content || (joined && unmarked));
        if flat || (parts.len() == 1 && unmarked) || parts.is_empty() {
            return parts.iter().filter_map(text_of).collect::<Vec<_>>().join("\n\n").into();
        }
        parts.into()
    }
}

fn function_call(id: &str, name: &str, arguments: &str) -> Value {
    // Absent arguments are an empty object; an empty string is no JSON.
    let arguments = if arguments.trim().is_empty() { "{}" } else { arguments };
    json!({ "id": id, "type": "function", "function": { "name": name, "arguments": arguments } })
}

fn is_detail(value: &Value) -> bool {
    value.get("type").and_then(Value::as_str).is_some_and(|kind| kind.starts_with("reasoning."))
}

/// Unknown fields, which came with the block or message.
fn add_unknown(to: &mut Map<String, Value>, extra: &Extra) {
    for (key, value) in extra {
        if !to.contains_key(key) && key != PART {
            to.insert(key.clone(), value.clone());
        }
    }
}

fn text_part(text: &str) -> Value {
    json!({ "type": "text", "text": text })
}

fn text_of(part: &Value) -> Option<&str> {
    part.get("text")?.as_str()
}

/// Nothing but text: no marks, no unknown fields.
fn is_plain_text(part: &Value) -> bool {
    part.as_object().is_some_and(|part| part.len() == 2 && part.get("type").is_some_and(|kind| kind == "text"))
}

fn image_part(source: &Media, detail: Option<&str>) -> Result<Value, Fault> {
    let Some(url) = source.to_url() else {
        return match source {
            Media::Id(id) => Ok(json!({ "type": "file", "file": { "file_id": id } })),
            _ => Err(unsupported("an image without data or URL")),
        };
    };
    let mut image = Map::new();
    image.insert("url".into(), url.into());
    image.extend(detail.map(|detail| ("detail".to_owned(), detail.into())));
    Ok(json!({ "type": "image_url", "image_url": image }))
}

/// A document that can be said in words.
fn is_text(source: &Media) -> bool {
    match source {
        Media::Text(_) => true,
        Media::Inline { mime, .. } => mime.starts_with("text/"),
        _ => false,
    }
}

/// A part of a kind that this form's servers have beyond OpenAI's.
fn part_as_it_came(extra: &Extra) -> Value {
    let mut part = extra.clone();
    let kind = part.shift_remove(PART).unwrap_or_default();
    part.shift_insert(0, "type".to_owned(), kind);
    Value::Object(part)
}

fn unsupported(what: &str) -> Fault {
    Fault::new(Kind::UnsupportedFeature, format!("OpenAI chat completions cannot take {what}.")).param("messages")
}
