//! Items and content parts of the Responses form, and the blocks they stand for. Shared by asks, answers and streams.
//!
//! Never drops an item it does not know: that becomes [`Content::Other`], as it came.

use serde_json::{Map, Value, json};

use super::{NAME, tools};
use crate::chat::reasoning::{for_client, seal, unseal};
use crate::chat::{Block, Content, Extra, MESSAGE, Media, Reasoning, Role, ToolCall, ToolResult};
use crate::dialect::openai_marks;

/// Key in a block's `extra` that tells an unknown content part from an unknown item.
pub(super) const PART: &str = "part";

/// Stands before a sealed signature that belongs to the next call and not to a stretch of reasoning. The form has no
/// room for it in the call itself, so it rides in a reasoning item of its own.
const CALL_SEAL: &str = "portcullis-call.";

/// Ends the origin of sealed data that was encrypted reasoning, not a signature over visible text.
const REDACTED: &str = ":redacted";

/// What the ids of items made here begin with, after their prefix. Providers are not sent such ids back: they look
/// ids up in their own store.
const OURS: &str = "pc_";

/// An item id that cannot be mistaken for a provider's: `exchange` makes it unique, `index` tells items apart.
pub(super) fn made_id(prefix: &str, exchange: &str, index: usize) -> String {
    format!("{prefix}_{OURS}{exchange}_{index}")
}

/// Whether an item id was made by [`made_id`].
pub(super) fn is_made(id: &str) -> bool {
    id.split_once('_').is_some_and(|(_, rest)| rest.starts_with(OURS))
}

/// What xAI's own search of X is made up of: https://docs.x.ai/docs/guides/tools/search-tools. Its models run it themselves
/// and tell it as calls of custom tools.
const X_SEARCH: &[&str] = &["x_keyword_search", "x_semantic_search", "x_user_search", "x_thread_fetch", "view_x_video"];

/// Whether an item of this type and name calls a tool of the caller's.
pub(super) fn calls(kind: &str, name: Option<&str>) -> bool {
    match kind {
        "function_call" => true,
        "custom_tool_call" => name.is_none_or(|name| !X_SEARCH.contains(&name)),
        _ => false,
    }
}

pub(super) fn is_call(item: &Map<String, Value>) -> bool {
    calls(kind(item), item.get("name").and_then(Value::as_str))
}

/// Reads items in order; a call's signature stands in the item before it.
#[derive(Debug, Default)]
pub(super) struct Reader {
    signature: Option<String>,
    /// Whether sealed reasoning is opened: what a client sends back is, what an upstream says is passed on.
    unseal: bool,
    /// Whether calls keep their namespace apart: the names of an answer are the caller's own, those of an earlier turn
    /// must be what the tools are called at any target.
    apart: bool,
}

impl Reader {
    pub fn unsealing() -> Reader {
        Reader { unseal: true, ..Reader::default() }
    }

    pub fn of_answer() -> Reader {
        Reader { apart: true, ..Reader::default() }
    }

    /// The signature that the item before carried for the call that begins now.
    pub fn take_signature(&mut self) -> Option<String> {
        self.signature.take()
    }

    pub fn blocks(&mut self, item: Value) -> Vec<Block> {
        let Value::Object(mut item) = item else { return vec![Block::new(Content::Other(item))] };
        match kind(&item) {
            "message" => message(item),
            _ if is_call(&item) => vec![self.call(item)],
            "function_call_output" | "custom_tool_call_output" => vec![result(item)],
            "reasoning" => match signature_of_call(&item) {
                Some(signature) => {
                    self.signature = Some(signature);
                    Vec::new()
                }
                None => vec![reasoning(&mut item, self.unseal)],
            },
            _ if self.apart => vec![alone(item)],
            _ => vec![Block::new(Content::Other(Value::Object(item)))],
        }
    }

    fn call(&mut self, mut item: Map<String, Value>) -> Block {
        let mut block =
            Block::new(Content::ToolCall(ToolCall { signature: self.signature.take(), ..head(&item, self.apart) }));
        if let Content::ToolCall(call) = &mut block.content {
            call.arguments = string(&mut item, if call.custom { "input" } else { "arguments" }).unwrap_or_default();
        }
        for key in ["type", "id", "call_id", "name"] {
            item.remove(key);
        }
        block.extra = rest(item);
        block
    }
}

/// An item of an answer that is neither said nor called. A picture is one for every caller; what else a provider's own
/// tools leave behind only this form knows.
pub(super) fn alone(mut item: Map<String, Value>) -> Block {
    let filled = |value: &Value| value.as_str().is_some_and(|result| !result.is_empty());
    let made = kind(&item) == "image_generation_call" && item.get("result").is_some_and(filled);
    let Some(result) = made.then(|| string(&mut item, "result")).flatten() else {
        return Block::new(Content::Other(Value::Object(item)));
    };
    let source = if result.contains("://") {
        Media::Url { url: result, mime: None }
    } else {
        let format = item.get("output_format").and_then(Value::as_str);
        Media::Inline { mime: image_mime(&result, format), data: result }
    };
    item.remove("type");
    Block { content: Content::Image { source, detail: None }, cache: None, extra: rest(item) }
}

/// The type of a picture by the first bytes of its base64, else by what the item says.
fn image_mime(data: &str, format: Option<&str>) -> String {
    const BEGINNINGS: &[(&str, &str)] = &[("iVBORw0KG", "png"), ("/9j/", "jpeg"), ("UklGR", "webp"), ("R0lGOD", "gif")];
    let known = BEGINNINGS.iter().find(|(beginning, _)| data.starts_with(beginning)).map(|(_, kind)| *kind);
    format!("image/{}", known.or(format).unwrap_or("png"))
}

/// A call without its arguments. `apart`: see [`Reader`].
pub(super) fn head(item: &Map<String, Value>, apart: bool) -> ToolCall {
    let text = |key: &str| item.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    let name = text("name").unwrap_or_default();
    ToolCall {
        // Servers that know only one of the two ids exist; both name the call.
        id: text("call_id").or(text("id")).unwrap_or_default().to_owned(),
        name: match text("namespace") {
            Some(space) if !apart => tools::qualified(space, name),
            _ => name.to_owned(),
        },
        namespace: text("namespace").filter(|_| apart).map(str::to_owned),
        arguments: String::new(),
        custom: kind(item) == "custom_tool_call",
        item_id: text("id").map(str::to_owned),
        signature: None,
    }
}

/// The item's type; easy messages have none.
pub(super) fn kind(item: &Map<String, Value>) -> &str {
    match item.get("type").and_then(Value::as_str) {
        Some(kind) => kind,
        None if item.contains_key("role") => "message",
        None => "",
    }
}

/// Who an item speaks for. Outputs of tools and answers to approval requests come from the caller.
pub(super) fn role(item: &Value) -> Role {
    let Some(item) = item.as_object() else { return Role::User };
    let said = item.get("role").and_then(Value::as_str);
    match (kind(item), said) {
        ("message", Some("assistant")) => Role::Assistant,
        ("message", Some("system" | "developer")) => Role::System,
        ("message", _) => Role::User,
        (kind, _) if kind.ends_with("_output") || kind.ends_with("_response") => Role::User,
        _ => Role::Assistant,
    }
}

fn message(mut item: Map<String, Value>) -> Vec<Block> {
    let mut blocks = content(item.remove("content").unwrap_or_default());
    for key in ["type", "role"] {
        item.remove(key);
    }
    let rest = rest(item);
    if let (Some(first), false) = (blocks.first_mut(), rest.is_empty()) {
        first.extra.insert(MESSAGE.to_owned(), Value::Object(rest));
    }
    blocks
}

/// Fields of a message in a stream that only this form knows. Its status changes on the way.
pub(super) fn own(message: &Map<String, Value>) -> Extra {
    const READ: &[&str] = &["type", "role", "content", "status"];
    let own = message.iter().filter(|(key, value)| !READ.contains(&key.as_str()) && !value.is_null());
    own.map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// Content: a string, or parts.
pub(super) fn content(content: Value) -> Vec<Block> {
    match content {
        Value::String(text) => vec![Block::text(text)],
        Value::Array(parts) => parts.into_iter().map(part).collect(),
        Value::Null => Vec::new(),
        other => vec![part(other)],
    }
}

/// One content part. Unknown fields stay with the block.
pub(super) fn part(part: Value) -> Block {
    let Value::Object(mut part) = part else {
        return match part {
            Value::String(text) => Block::text(text),
            other => unknown_part(other),
        };
    };
    let kind = string(&mut part, "type").unwrap_or_default();
    let known = match kind.as_str() {
        "input_text" | "output_text" | "text" | "summary_text" | "reasoning_text" => {
            part.remove("logprobs");
            let citations = match part.remove("annotations") {
                Some(Value::Array(list)) => list,
                _ => Vec::new(),
            };
            string(&mut part, "text").map(|text| Content::Text { text, citations })
        }
        "refusal" => string(&mut part, "refusal").map(Content::Refusal),
        "input_image" | "image_url" => image(&mut part),
        "input_file" => file(&mut part),
        "input_audio" => audio(&mut part),
        _ => None,
    };
    match known {
        Some(content) => {
            let extra = rest(part);
            Block { content, cache: openai_marks::read(&extra), extra }
        }
        None => {
            part.insert("type".to_owned(), kind.into());
            unknown_part(Value::Object(part))
        }
    }
}

fn unknown_part(part: Value) -> Block {
    let mut block = Block::new(Content::Other(part));
    block.extra.insert(PART.to_owned(), Value::Bool(true));
    block
}

fn image(part: &mut Map<String, Value>) -> Option<Content> {
    let url = match part.get("image_url") {
        Some(Value::Object(nested)) => nested.get("url").and_then(Value::as_str).map(str::to_owned),
        Some(Value::String(url)) => Some(url.clone()),
        _ => None,
    };
    let source = match url {
        Some(url) => Media::from_url(&url),
        None => Media::Id(string(part, "file_id")?),
    };
    part.remove("image_url");
    Some(Content::Image { source, detail: string(part, "detail") })
}

fn file(part: &mut Map<String, Value>) -> Option<Content> {
    let name = part.get("filename").and_then(Value::as_str).map(str::to_owned);
    let source = if let Some(data) = string(part, "file_data") {
        match Media::from_url(&data) {
            inline @ Media::Inline { .. } => inline,
            _ => Media::Inline { mime: mime_of(name.as_deref()).to_owned(), data },
        }
    } else if let Some(url) = string(part, "file_url") {
        Media::Url { url, mime: None }
    } else {
        Media::Id(string(part, "file_id")?)
    };
    part.remove("filename");
    Some(Content::File { source, name })
}

/// Bare base64 says no type; the name does.
fn mime_of(name: Option<&str>) -> &'static str {
    let extension = name.and_then(|name| name.rsplit_once('.')).map(|(_, extension)| extension.to_ascii_lowercase());
    match extension.as_deref() {
        Some("txt" | "md" | "log") => "text/plain",
        Some("csv") => "text/csv",
        Some("json") => "application/json",
        Some("html" | "htm") => "text/html",
        Some("docx") => "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
        Some("pptx") => "application/vnd.openxmlformats-officedocument.presentationml.presentation",
        Some("xlsx") => "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
        // What the form was made for.
        _ => "application/pdf",
    }
}

fn audio(part: &mut Map<String, Value>) -> Option<Content> {
    let inner = part.get("input_audio")?;
    let field = |key: &str| inner.get(key).and_then(Value::as_str).map(str::to_owned);
    let content = Content::Audio { data: field("data")?, format: field("format")?, transcript: None, id: None };
    part.remove("input_audio");
    Some(content)
}

fn result(mut item: Map<String, Value>) -> Block {
    let custom = kind(&item) == "custom_tool_call_output";
    let content = match item.remove("output").unwrap_or_default() {
        Value::Object(object) => vec![Block::text(Value::Object(object).to_string())],
        other => content(other),
    };
    let id = string(&mut item, "call_id").unwrap_or_default();
    let result = ToolResult { id, name: string(&mut item, "name"), content, is_error: None, custom };
    item.remove("type");
    Block { content: Content::ToolResult(result), cache: None, extra: rest(item) }
}

/// Whether an item's encrypted content is a call's signature.
pub(super) fn is_signature(held: &str) -> bool {
    held.starts_with(CALL_SEAL)
}

fn signature_of_call(item: &Map<String, Value>) -> Option<String> {
    item.get("encrypted_content")?.as_str()?.strip_prefix(CALL_SEAL).map(str::to_owned)
}

/// A reasoning item. What was sealed for the client is unsealed: text and opaque value as their maker gave them.
fn reasoning(item: &mut Map<String, Value>, open: bool) -> Block {
    let mut out = Reasoning {
        text: texts(item.get("content")).concat(),
        summary: texts(item.get("summary")),
        id: string(item, "id"),
        ..Reasoning::default()
    };
    let held = string(item, "encrypted_content").filter(|held| !held.is_empty());
    match held.as_deref().filter(|_| open).and_then(unseal) {
        Some((origin, opaque)) => {
            match origin.strip_suffix(REDACTED) {
                Some(_) => out.encrypted = Some(opaque.to_owned()),
                None => out.signature = Some(opaque.to_owned()).filter(|opaque| !opaque.is_empty()),
            }
            out.origin = origin.strip_suffix(REDACTED).unwrap_or(origin).to_owned();
            // Its text went out as the summary, which is what clients of this form show.
            if out.text.is_empty() {
                out.text = std::mem::take(&mut out.summary).concat();
            }
        }
        None => out.encrypted = held,
    }
    for key in ["type", "summary", "content"] {
        item.remove(key);
    }
    Block { content: Content::Reasoning(out), cache: None, extra: rest(std::mem::take(item)) }
}

fn texts(list: Option<&Value>) -> Vec<String> {
    match list {
        Some(Value::Array(list)) => list
            .iter()
            .filter_map(|part| part.get("text").and_then(Value::as_str).or(part.as_str()))
            .map(str::to_owned)
            .collect(),
        Some(Value::String(text)) => vec![text.clone()],
        _ => Vec::new(),
    }
}

/// What a reasoning item holds in `encrypted_content` for a client: the provider's own data bare, a foreign signature
/// sealed. Foreign reasoning without one is sealed empty, so that its text is known as such when it comes back.
pub(super) fn held(reasoning: &Reasoning, source: &str) -> Option<String> {
    let origin = if reasoning.origin.is_empty() { source } else { reasoning.origin.as_str() };
    match (&reasoning.signature, &reasoning.encrypted) {
        (_, encrypted) if origin == NAME => encrypted.clone(),
        (Some(signature), _) => Some(for_client(signature, origin, NAME)),
        (None, Some(encrypted)) => Some(seal(&format!("{origin}{REDACTED}"), encrypted)),
        (None, None) => (!origin.is_empty()).then(|| seal(origin, "")),
    }
}

/// The reasoning item that carries a call's signature to the client and back.
pub(super) fn signature_item(id: &str, signature: &str, source: &str) -> Value {
    let sealed = for_client(signature, source, NAME);
    json!({"id": id, "type": "reasoning", "summary": [], "encrypted_content": format!("{CALL_SEAL}{sealed}")})
}

/// Citations as annotations of this form; those that have no counterpart are left out, because typed clients fail on
/// annotations they do not know. `length` is that of the text they stand in, in characters.
pub(super) fn annotation(citation: &Value, source: &str, length: usize) -> Option<Value> {
    if source == NAME {
        return Some(citation.clone());
    }
    // OpenAI chat nests what this form has flat.
    let inner = citation.get("url_citation").unwrap_or(citation);
    let field = |keys: &[&str]| keys.iter().find_map(|key| inner.pointer(key)?.as_str());
    let position = |keys: &[&str]| keys.iter().find_map(|key| inner.pointer(key)?.as_u64());
    let url = field(&["/url", "/uri", "/web/uri"])?;
    Some(json!({
        "type": "url_citation",
        "start_index": position(&["/start_index", "/startIndex"]).unwrap_or(0),
        "end_index": position(&["/end_index", "/endIndex"]).unwrap_or(length as u64),
        "url": url,
        "title": field(&["/title", "/web/title"]).unwrap_or(url),
    }))
}

/// Takes a string field; anything but a string is left in place.
pub(super) fn string(object: &mut Map<String, Value>, key: &str) -> Option<String> {
    match object.get_mut(key)? {
        Value::String(text) => {
            let text = std::mem::take(text);
            object.remove(key);
            Some(text)
        }
        _ => None,
    }
}

/// The fields that are left, nulls apart: absent and null mean the same in this form.
pub(super) fn rest(object: Map<String, Value>) -> Extra {
    object.into_iter().filter(|(_, value)| !value.is_null()).collect()
}
