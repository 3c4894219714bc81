//! Content blocks into the neutral form, of asks and answers alike.
//!
//! A block that is not understood stays as it came (`Content::Other`); nothing is thrown away here.

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::wire::{ARRAY, BOOL, OBJECT, Object, STRING, path, read, require, str_of, wrong};
use crate::chat::{Block, CacheMark, Content, Extra, KEPT_SOURCE, Media, Reasoning, ToolCall, ToolResult};
use crate::fault::Fault;
use crate::json::{exact, take};

/// Content that may be one string or a list of blocks.
pub fn content(value: Value, at: &str) -> Result<Vec<Block>, Fault> {
    match value {
        Value::String(text) => Ok(vec![Block::text(text)]),
        Value::Array(items) => {
            let blocks = items.into_iter().enumerate();
            blocks.map(|(i, item)| block(item, &format!("{at}.{i}"))).collect()
        }
        _ => Err(wrong(at, "a string or a list of blocks")),
    }
}

/// Gives the calls among these blocks their inputs as text, where a tree would change their numbers.
pub fn spell(content: &mut Value, raw: &RawValue) {
    #[derive(Deserialize)]
    struct Raw<'a> {
        #[serde(borrow, default)]
        input: Option<&'a RawValue>,
    }
    let Value::Array(blocks) = content else { return };
    let raws: Vec<Raw<'_>> = serde_json::from_str(raw.get()).unwrap_or_default();
    for (block, raw) in blocks.iter_mut().zip(raws) {
        let call = str_of(block, "type") == Some("tool_use");
        if let (true, Some(raw), Some(input)) = (call, raw.input, block.get_mut("input")) {
            exact::keep(input, raw);
        }
    }
}

pub fn block(value: Value, at: &str) -> Result<Block, Fault> {
    let Value::Object(mut fields) = value else { return Err(wrong(at, "an object")) };
    let kind = match fields.get("type") {
        Some(Value::String(kind)) => kind.clone(),
        // Some callers leave the type out where only text makes sense.
        None if fields.get("text").is_some_and(Value::is_string) => "text".to_owned(),
        _ => return Err(wrong(&path(at, "type"), "the name of a block type")),
    };
    let content = match kind.as_str() {
        "text" => text(&mut fields, at)?,
        "thinking" => Content::Reasoning(Reasoning {
            text: read(&mut fields, at, "thinking", &STRING)?.unwrap_or_default(),
            signature: read(&mut fields, at, "signature", &STRING)?.filter(|signature| !signature.is_empty()),
            ..Reasoning::default()
        }),
        "redacted_thinking" => Content::Reasoning(Reasoning {
            encrypted: Some(read(&mut fields, at, "data", &STRING)?.unwrap_or_default()),
            ..Reasoning::default()
        }),
        "tool_use" => tool_use(&mut fields, at)?,
        "tool_result" => tool_result(&mut fields, at)?,
        "image" => match fields.get("source").and_then(media) {
            Some(source) => {
                fields.shift_remove("source");
                Content::Image { source, detail: None }
            }
            None => return Ok(other(fields)),
        },
        "document" => match fields.get("source").and_then(media) {
            Some(source) => document(&mut fields, at, source)?,
            None => return Ok(other(fields)),
        },
        "search_result" => return Ok(search_result(fields)),
        _ => return Ok(other(fields)),
    };
    fields.shift_remove("type");
    let cache = cache_mark(&mut fields);
    Ok(Block { content, cache, extra: leftover(fields) })
}

fn other(fields: Object) -> Block {
    Block::new(Content::Other(Value::Object(fields)))
}

/// What is left of an object when the known fields are taken: its unknown ones, without nulls.
pub fn leftover(mut fields: Object) -> Extra {
    fields.retain(|_, value| !value.is_null());
    fields
}

/// Takes `cache_control` out. What is no ephemeral mark stays, for whoever knows it.
pub fn cache_mark(fields: &mut Object) -> Option<CacheMark> {
    let mark = fields.get("cache_control")?;
    let ephemeral = str_of(mark, "type") == Some("ephemeral");
    let known = mark.as_object().is_some_and(|mark| mark.keys().all(|key| key == "type" || key == "ttl"));
    if !ephemeral || !known {
        return None;
    }
    let ttl = str_of(mark, "ttl").map(str::to_owned);
    fields.shift_remove("cache_control");
    Some(CacheMark { ttl })
}

fn text(fields: &mut Object, at: &str) -> Result<Content, Fault> {
    let text = read(fields, at, "text", &STRING)?.unwrap_or_default();
    // `citations` is a list in answers and what is sent back of them; null and absent are the same.
    let citations = read(fields, at, "citations", &ARRAY)?.unwrap_or_default();
    Ok(Content::Text { text, citations })
}

fn tool_use(fields: &mut Object, at: &str) -> Result<Content, Fault> {
    Ok(Content::ToolCall(ToolCall {
        id: read(fields, at, "id", &STRING)?.unwrap_or_default(),
        name: require(fields, at, "name", &STRING)?,
        arguments: arguments(take(fields, "input")),
        ..ToolCall::default()
    }))
}

/// A call's input as JSON text. No input is an empty object.
pub fn arguments(input: Option<Value>) -> String {
    match input {
        None => "{}".to_owned(),
        // See `spell`. Not in the dialect, but seen: the text of the object instead of the object.
        Some(Value::String(text)) => text,
        Some(input) => input.to_string(),
    }
}

fn tool_result(fields: &mut Object, at: &str) -> Result<Content, Fault> {
    let blocks = match take(fields, "content") {
        Some(value) => content(value, &path(at, "content"))?,
        None => Vec::new(),
    };
    Ok(Content::ToolResult(ToolResult {
        id: require(fields, at, "tool_use_id", &STRING)?,
        name: None,
        content: blocks,
        is_error: read(fields, at, "is_error", &BOOL)?,
        custom: false,
    }))
}

/// A document. Its title is the file's name; `context` and `citations` stay in `extra`.
fn document(fields: &mut Object, at: &str, source: Media) -> Result<Content, Fault> {
    let name = read(fields, at, "title", &STRING)?;
    // A source of blocks has no other neutral form than its text, so the source itself is kept for its own dialect.
    let kept = fields.shift_remove("source").filter(|source| str_of(source, "type") == Some("content"));
    if let Some(kept) = kept {
        fields.insert(KEPT_SOURCE.to_owned(), kept);
    }
    Ok(Content::File { source, name })
}

/// What a search of the caller's has found: elsewhere a document with its text, title and source, here the block as it came.
fn search_result(mut fields: Object) -> Block {
    let cache = cache_mark(&mut fields);
    let text = |key: &str| fields.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    let name = match (text("title"), text("source")) {
        (Some(title), Some(source)) => Some(format!("{title} ({source})")),
        (title, source) => title.or(source).map(str::to_owned),
    };
    let found = fields.get("content").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let texts: Vec<&str> = found.iter().filter_map(|block| str_of(block, "text")).collect();
    let content = Content::File { source: Media::Text(texts.join("\n")), name };
    let extra = Extra::from_iter([(KEPT_SOURCE.to_owned(), Value::Object(fields))]);
    Block { content, cache, extra }
}

/// Reads a `source` object. None when it is of a kind that is not known.
fn media(source: &Value) -> Option<Media> {
    let mime = str_of(source, "media_type");
    Some(match str_of(source, "type")? {
        "base64" => Media::Inline { mime: mime?.to_owned(), data: str_of(source, "data")?.to_owned() },
        "url" => Media::Url { url: str_of(source, "url")?.to_owned(), mime: None },
        "file" => Media::Id(str_of(source, "file_id")?.to_owned()),
        "text" => Media::Text(str_of(source, "data")?.to_owned()),
        "content" => Media::Text(match source.get("content")? {
            Value::String(text) => text.clone(),
            Value::Array(items) => {
                let texts: Vec<&str> = items.iter().filter_map(|item| str_of(item, "text")).collect();
                texts.join("\n")
            }
            _ => return None,
        }),
        _ => return None,
    })
}

/// Takes an object field apart that may also be absent.
pub fn object(fields: &mut Object, at: &str, key: &str) -> Result<Object, Fault> {
    Ok(read(fields, at, key, &OBJECT)?.unwrap_or_default())
}
