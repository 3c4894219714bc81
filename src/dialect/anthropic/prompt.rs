//! The system prompt and the turns of a neutral ask, as Anthropic takes them.
//!
//! Anthropic wants turns to alternate, results right after their calls and before other content, no empty text, and
//! only its own signatures. What breaks these rules is moved, merged or left out; the order of what remains is kept.

use base64::Engine;
use serde_json::{Map, Value, json};

use super::calls::{Spelling, input};
use super::wire::str_of;
use super::{NAME, carry};
use crate::chat::reasoning::for_target;
use crate::chat::{
    Ask, Block, CacheMark, Content, Extra, KEPT_SOURCE, Media, Message, Reasoning, Role, ToolResult, is_textual,
    known_mime,
};
use crate::dialect::Encoding;
use crate::fault::{Fault, Kind};

/// Why reasoning is left out.
const UNSIGNED: &str = "Anthropic takes back only reasoning that it signed";

/// `system` and `messages`.
pub struct Prompt {
    pub system: Vec<Value>,
    pub messages: Vec<Value>,
}

/// Writes the conversation.
pub fn encode(ask: &Ask, to: &mut Encoding<'_>) -> Result<Prompt, Fault> {
    let mut writer =
        Writer { own: ask.source == NAME, source: ask.source, ids: Spelling::default(), to, turns: Vec::new() };
    let mut system = Vec::new();
    for block in &ask.system {
        writer.block(block, "system", &mut system)?;
    }
    for (i, message) in ask.messages.iter().enumerate() {
        writer.message(message, &format!("messages.{i}"))?;
    }
    let mut turns = writer.turns;
    // A system prompt alone is a complete ask elsewhere; Anthropic wants a turn to answer.
    if turns.is_empty() && !system.is_empty() {
        turns.push(Turn { role: "user", blocks: std::mem::take(&mut system), extra: Extra::new() });
    }
    if let Some(last) = turns.last_mut()
        && last.role == "assistant"
    {
        trim_end(&mut last.blocks);
    }
    Ok(Prompt { system, messages: turns.into_iter().map(Turn::finish).collect() })
}

struct Turn {
    role: &'static str,
    blocks: Vec<Value>,
    extra: Extra,
}

impl Turn {
    fn finish(mut self) -> Value {
        // Stable: results first, everything else in its order.
        self.blocks.sort_by_key(|block| str_of(block, "type") != Some("tool_result"));
        let mut turn = Map::new();
        turn.insert("role".to_owned(), self.role.into());
        turn.insert("content".to_owned(), shortest(self.blocks));
        turn.append(&mut self.extra);
        Value::Object(turn)
    }
}

/// One plain text as a string, anything else as the list it is.
pub fn shortest(mut blocks: Vec<Value>) -> Value {
    let plain = match blocks.as_mut_slice() {
        [Value::Object(block)] if block.len() == 2 && block.get("type").is_some_and(|kind| kind == "text") => {
            block.get_mut("text").map(Value::take)
        }
        _ => None,
    };
    plain.unwrap_or(Value::Array(blocks))
}

/// Anthropic refuses an unfinished answer that ends in white space.
fn trim_end(blocks: &mut [Value]) {
    if let Some(Value::String(text)) = blocks.last_mut().and_then(|block| block.get_mut("text")) {
        text.truncate(text.trim_end().len());
    }
}

struct Writer<'a, 'b> {
    own: bool,
    source: &'static str,
    ids: Spelling,
    to: &'a mut Encoding<'b>,
    turns: Vec<Turn>,
}

impl Writer<'_, '_> {
    fn message(&mut self, message: &Message, at: &str) -> Result<(), Fault> {
        let mut blocks = Vec::new();
        for block in &message.blocks {
            let media = matches!(block.content, Content::Image { .. } | Content::File { .. });
            if media && message.role == Role::Assistant && !self.own {
                self.to.dropped.push(("messages.assistant", "Anthropic takes no media back from the assistant"));
            } else {
                self.block(block, at, &mut blocks)?;
            }
        }
        self.to.drop_if(message.name.is_some(), "messages.name", "Anthropic has no names of participants");
        let role = match message.role {
            Role::User => "user",
            Role::Assistant => "assistant",
            // Only the newest Claude models take a system turn, so only a caller who wrote one gets one. For others it
            // stays at its place as marked text: moving it into `system` would change what it refers to and spoil the
            // prompt cache of everything after it.
            Role::System if self.own => "system",
            Role::System => {
                wrap(&mut blocks);
                "user"
            }
        };
        if blocks.is_empty() {
            return Ok(());
        }
        match self.turns.last_mut() {
            Some(last) if last.role == role => last.blocks.append(&mut blocks),
            _ => {
                let extra = if self.own { message.extra.clone() } else { Extra::new() };
                self.turns.push(Turn { role, blocks, extra });
            }
        }
        Ok(())
    }

    fn block(&mut self, block: &Block, at: &str, out: &mut Vec<Value>) -> Result<(), Fault> {
        let value = match &block.content {
            Content::Text { text, citations } => self.text(text, citations),
            Content::Refusal(text) => self.text(text, &[]),
            Content::Image { source, .. } => Some(json!({"type": "image", "source": self.image(source, at)?})),
            Content::File { source, name } => Some(self.file(block, source, name.as_deref(), at)?),
            Content::Audio { transcript: Some(text), .. } => self.text(text, &[]),
            Content::Audio { .. } => return Err(unsupported(at, "audio input")),
            Content::ToolCall(call) => {
                let id = self.ids.call(call);
                Some(json!({"type": "tool_use", "id": id, "name": call.name, "input": input(call)}))
            }
            Content::ToolResult(result) => Some(self.result(result, at)?),
            Content::Reasoning(reasoning) => {
                out.extend(self.reasoning(reasoning));
                return Ok(());
            }
            Content::Other(value) if self.own => Some(value.clone()),
            Content::Other(_) => {
                self.to.dropped.push(("messages.content", "a block that only the caller's dialect knows"));
                None
            }
        };
        let Some(mut value) = value else { return Ok(()) };
        if let Some(fields) = value.as_object_mut() {
            if let Some(mark) = &block.cache {
                fields.insert("cache_control".to_owned(), cache_control(mark));
            }
            if self.own {
                let known = |key: &String| fields.contains_key(key) || key == KEPT_SOURCE;
                let extra: Vec<_> = block.extra.iter().filter(|(key, _)| !known(key)).collect();
                let extra: Vec<_> = extra.into_iter().map(|(key, value)| (key.clone(), value.clone())).collect();
                fields.extend(extra);
            }
        }
        out.push(value);
        Ok(())
    }

    /// Anthropic refuses empty text, and text of white space only.
    fn text(&mut self, text: &str, citations: &[Value]) -> Option<Value> {
        if text.trim().is_empty() {
            return None;
        }
        let mut value = json!({"type": "text", "text": text});
        let own: Vec<&Value> =
            citations.iter().filter(|citation| self.own && super::cite::is_genuine(citation)).collect();
        if !own.is_empty() {
            value["citations"] = json!(own);
        }
        Some(value)
    }

    fn reasoning(&mut self, reasoning: &Reasoning) -> Vec<Value> {
        let origin = if reasoning.origin.is_empty() { self.source } else { &reasoning.origin };
        let signature = reasoning.signature.as_deref().and_then(|opaque| for_target(opaque, origin, NAME));
        let encrypted = reasoning.encrypted.as_deref().and_then(|opaque| for_target(opaque, origin, NAME));
        let text = carry::visible(reasoning);
        match (signature, encrypted) {
            (Some(signature), None) => vec![carry::thinking(&text, signature)],
            (None, Some(data)) => {
                // Clients that keep no part without text hang it on the thinking before, whose signature is gone then.
                self.to.drop_if(!text.is_empty(), "messages.reasoning", UNSIGNED);
                vec![carry::redacted(data)]
            }
            (Some(signature), Some(data)) => vec![carry::thinking(&text, signature), carry::redacted(data)],
            (None, None) => {
                self.to.dropped.push(("messages.reasoning", UNSIGNED));
                Vec::new()
            }
        }
    }

    fn result(&mut self, result: &ToolResult, at: &str) -> Result<Value, Fault> {
        let mut content = Vec::new();
        for block in &result.content {
            self.block(block, at, &mut content)?;
        }
        let id = self.ids.result(&result.id, result.name.as_deref());
        let mut value = json!({"type": "tool_result", "tool_use_id": id});
        if !content.is_empty() {
            value["content"] = shortest(content);
        }
        if let Some(is_error) = result.is_error {
            value["is_error"] = is_error.into();
        }
        Ok(value)
    }

    fn image(&self, source: &Media, at: &str) -> Result<Value, Fault> {
        match source {
            Media::Inline { mime, data } => Ok(json!({"type": "base64", "media_type": known_mime(mime), "data": data})),
            _ => self.remote(source, at, "this kind of image source"),
        }
    }

    /// A source that Anthropic fetches or holds itself.
    fn remote(&self, source: &Media, at: &str, what: &str) -> Result<Value, Fault> {
        match source {
            Media::Url { url, .. } if url.starts_with("http://") || url.starts_with("https://") => {
                Ok(json!({"type": "url", "url": url}))
            }
            Media::Id(id) if self.own => Ok(json!({"type": "file", "file_id": id})),
            Media::Id(_) => Err(unsupported(at, "files that another provider holds")),
            _ => Err(unsupported(at, what)),
        }
    }

    fn file(&self, block: &Block, source: &Media, name: Option<&str>, at: &str) -> Result<Value, Fault> {
        let kept = block.extra.get(KEPT_SOURCE).filter(|_| self.own);
        if let Some(whole) = kept.filter(|kept| str_of(kept, "type") == Some("search_result")) {
            return Ok(whole.clone());
        }
        let source = match (kept, source) {
            (Some(kept), _) => kept.clone(),
            (None, Media::Text(text)) => plain_text(text),
            (None, Media::Inline { mime, .. }) if mime.starts_with("image/") => {
                return Ok(json!({"type": "image", "source": self.image(source, at)?}));
            }
            (None, Media::Inline { mime, data }) => inline(mime, data, name, at)?,
            (None, _) => self.remote(source, at, "this kind of file source")?,
        };
        let mut value = json!({"type": "document", "source": source});
        if let Some(name) = name {
            value["title"] = name.into();
        }
        Ok(value)
    }
}

fn plain_text(text: &str) -> Value {
    json!({"type": "text", "media_type": "text/plain", "data": text})
}

/// Inline bytes: PDF as they are, anything textual as text.
fn inline(mime: &str, data: &str, name: Option<&str>, at: &str) -> Result<Value, Fault> {
    let unnamed = mime.is_empty() || mime == "application/octet-stream";
    let ends = |end: &str| name.is_some_and(|name| name.to_ascii_lowercase().ends_with(end));
    if mime == "application/pdf" || (unnamed && ends(".pdf")) {
        return Ok(json!({"type": "base64", "media_type": "application/pdf", "data": data}));
    }
    let text = is_textual(mime, name)
        .then(|| base64::engine::general_purpose::STANDARD.decode(data).ok())
        .flatten()
        .and_then(|bytes| String::from_utf8(bytes).ok());
    match text {
        Some(text) => Ok(plain_text(&text)),
        None => Err(unsupported(at, "files other than PDF and text")),
    }
}

fn unsupported(at: &str, what: &str) -> Fault {
    Fault::new(Kind::UnsupportedFeature, format!("{at}: Anthropic models do not take {what}.")).param(at)
}

/// Marks text as an instruction of the operator's where only the user's turn can hold it.
fn wrap(blocks: &mut [Value]) {
    for block in blocks {
        if let Some(Value::String(text)) = block.get_mut("text") {
            *text = format!("<system>\n{text}\n</system>");
        }
    }
}

pub fn cache_control(mark: &CacheMark) -> Value {
    match &mark.ttl {
        Some(ttl) => json!({"type": "ephemeral", "ttl": ttl}),
        None => json!({"type": "ephemeral"}),
    }
}
