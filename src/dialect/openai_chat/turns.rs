//! Messages of a request, read into turns of blocks.
//!
//! Tool messages become results in user turns; instructions before the conversation become `Ask::system`. Never drops
//! a part: what is unknown is kept as it came.

use serde_json::Value;

use super::fields::{Fields, invalid};
use super::reasoning;
use super::tools::read_cache;
use crate::chat::{Ask, Block, Content, Media, Message, Reasoning, Role, ToolCall, ToolResult, is_textual};
use crate::dialect::openai_marks;
use crate::fault::Fault;

/// Key in the `extra` of a file: the kind of part it came as, which stands there whole for servers of this form.
pub(super) const PART: &str = "part";

/// Reads `messages` into the ask.
pub(super) fn read(messages: Vec<Value>, ask: &mut Ask) -> Result<(), Fault> {
    if messages.is_empty() {
        return Err(invalid("messages", "must hold at least one message"));
    }
    let mut reader = Reader::default();
    for (index, message) in messages.into_iter().enumerate() {
        let at = format!("messages[{index}]");
        let mut fields = Fields::of(message, &at)?;
        let role = fields.needed_string("role")?;
        match role.as_str() {
            "system" | "developer" => system(fields, ask)?,
            "user" => user(fields, ask)?,
            "assistant" => reader.assistant(fields, index, ask)?,
            "tool" | "function" => reader.tool(fields, &role, ask)?,
            _ => return Err(fields.wrong("role", &format!("is `{role}`, which is no role"))),
        }
        reader.in_results = matches!(role.as_str(), "tool" | "function");
    }
    Ok(())
}

#[derive(Default)]
struct Reader {
    /// Ids of calls of custom tools: their answers are marked as such.
    custom: Vec<String>,
    /// The id made up for the last legacy `function_call`, which its answer does not repeat.
    legacy_call: Option<String>,
    /// The last message was a tool's: the next result joins it.
    in_results: bool,
}

fn system(mut fields: Fields, ask: &mut Ask) -> Result<(), Fault> {
    let blocks = content(&mut fields)?;
    if ask.messages.is_empty() {
        ask.system.extend(blocks);
    } else {
        push(Role::System, blocks, fields, ask)?;
    }
    Ok(())
}

fn user(mut fields: Fields, ask: &mut Ask) -> Result<(), Fault> {
    if fields.peek("content").is_none() {
        return Err(fields.wrong("content", "is missing"));
    }
    let blocks = content(&mut fields)?;
    push(Role::User, blocks, fields, ask)
}

fn push(role: Role, blocks: Vec<Block>, mut fields: Fields, ask: &mut Ask) -> Result<(), Fault> {
    let name = fields.string("name")?;
    ask.messages.push(Message { role, blocks, name, extra: fields.rest() });
    Ok(())
}

impl Reader {
    fn assistant(&mut self, mut fields: Fields, index: usize, ask: &mut Ask) -> Result<(), Fault> {
        let spoken = content(&mut fields)?;
        let refusal = fields.string("refusal")?;
        let audio = fields.object("audio")?;
        let calls = fields.array("tool_calls")?.unwrap_or_default();
        let legacy = fields.object("function_call")?;
        let calls_at = fields.path("tool_calls");
        let name = fields.string("name")?;
        let mut extra = fields.rest();
        let mut blocks = reasoning::read_message(&mut extra);
        // An empty string beside tool calls says nothing, and other dialects refuse empty text.
        blocks.extend(spoken.into_iter().filter(|block| !is_empty_text(block)));
        blocks.extend(refusal.map(|text| Block::new(Content::Refusal(text))));
        if let Some(mut audio) = audio {
            let id = audio.string("id")?;
            let (data, format) = (String::new(), String::new());
            blocks.push(Block::new(Content::Audio { data, format, transcript: None, id }));
        }
        for (at, call) in calls.into_iter().enumerate() {
            let call = read_call(Fields::of(call, &format!("{calls_at}[{at}]"))?)?;
            if call.custom {
                self.custom.push(call.id.clone());
            }
            blocks.push(Block::new(Content::ToolCall(call)));
        }
        if let Some(mut function) = legacy {
            let id = format!("call_{index}");
            self.legacy_call = Some(id.clone());
            let name = function.needed_string("name")?;
            let arguments = function.string("arguments")?.unwrap_or_default();
            blocks.push(Block::new(Content::ToolCall(ToolCall { id, name, arguments, ..ToolCall::default() })));
        }
        ask.messages.push(Message { role: Role::Assistant, blocks, name, extra });
        Ok(())
    }

    fn tool(&mut self, mut fields: Fields, role: &str, ask: &mut Ask) -> Result<(), Fault> {
        let mut result = ToolResult { content: content(&mut fields)?, ..ToolResult::default() };
        result.id = match (fields.string("tool_call_id")?, role) {
            (Some(id), _) => id,
            (None, "function") => self.legacy_call.take().unwrap_or_default(),
            (None, _) => return Err(fields.wrong("tool_call_id", "is missing")),
        };
        result.name = fields.string("name")?;
        result.custom = self.custom.contains(&result.id);
        // The mark stood on the message or on its last part; either way it closes the result.
        let cache = result.content.last_mut().and_then(|block| block.cache.take());
        let block = Block { content: Content::ToolResult(result), cache, extra: fields.rest() };
        match ask.messages.last_mut() {
            Some(last) if self.in_results => last.blocks.push(block),
            _ => ask.messages.push(Message::new(Role::User, vec![block])),
        }
        Ok(())
    }
}

fn is_empty_text(block: &Block) -> bool {
    matches!(&block.content, Content::Text { text, .. } if text.is_empty())
}

/// One entry of `tool_calls`, in requests and in whole answers alike.
pub(super) fn read_call(mut fields: Fields) -> Result<ToolCall, Fault> {
    let mut call = ToolCall { id: fields.string("id")?.unwrap_or_default(), ..ToolCall::default() };
    call.signature = fields.peek("extra_content").and_then(google_signature);
    call.custom = fields.peek("type").is_some_and(|kind| kind == "custom");
    let (key, text) = if call.custom { ("custom", "input") } else { ("function", "arguments") };
    let mut inner = fields.object(key)?.ok_or_else(|| fields.wrong(key, "is missing"))?;
    call.name = inner.needed_string("name")?;
    call.arguments = match inner.take(text) {
        Some(Value::String(text)) => text,
        // Some servers send the object itself.
        Some(other) => other.to_string(),
        None => String::new(),
    };
    Ok(call)
}

/// `extra_content.google.thought_signature`, as Google's compatible endpoint spells it.
pub(super) fn google_signature(extra_content: &Value) -> Option<String> {
    let signature = extra_content.get("google")?.get("thought_signature")?.as_str()?;
    (!signature.is_empty()).then(|| signature.to_owned())
}

/// `content` as blocks, with a mark that stood on the message moved to the last of them.
fn content(fields: &mut Fields) -> Result<Vec<Block>, Fault> {
    let at = fields.path("content");
    let mark = fields.take("cache_control").and_then(read_cache);
    let mut blocks = match fields.take("content") {
        None => Vec::new(),
        Some(Value::String(text)) => vec![Block::text(text)],
        Some(Value::Array(parts)) => {
            let parts = parts.into_iter().enumerate();
            parts.map(|(index, part)| read_part(part, &format!("{at}[{index}]"))).collect::<Result<_, _>>()?
        }
        Some(_) => return Err(invalid(&at, "must be a string or an array of parts")),
    };
    if let (Some(mark), Some(last)) = (mark, blocks.last_mut()) {
        last.cache.get_or_insert(mark);
    }
    Ok(blocks)
}

/// One content part.
pub(super) fn read_part(part: Value, at: &str) -> Result<Block, Fault> {
    let mut fields = match part {
        Value::String(text) => return Ok(Block::text(text)),
        other => Fields::of(other, at)?,
    };
    let kind = fields.needed_string("type")?;
    let cache = fields.take("cache_control").and_then(read_cache);
    let content = match kind.as_str() {
        "text" => Content::Text { text: fields.needed_string("text")?, citations: Vec::new() },
        "image_url" => image(&mut fields)?,
        "input_audio" => {
            let mut audio = fields.object("input_audio")?.ok_or_else(|| fields.wrong("input_audio", "is missing"))?;
            let format = audio.string("format")?.unwrap_or_else(|| "wav".to_owned());
            Content::Audio { data: audio.needed_string("data")?, format, transcript: None, id: None }
        }
        "file" => file(&mut fields)?,
        // Mistral's documents, OpenRouter's videos.
        "document_url" | "video_url" if media_url(&fields, &kind).is_some() => {
            let source = Media::from_url(&media_url(&fields, &kind).unwrap_or_default());
            let name = fields.peek("document_name").and_then(Value::as_str).map(str::to_owned);
            let words = matches!(&source, Media::Inline { mime, .. } if is_textual(mime, name.as_deref()));
            let mut extra = fields.rest();
            if words {
                // What may be changed on its way is not kept twice.
                ["document_name", kind.as_str()].iter().for_each(|name| drop(extra.shift_remove(*name)));
            } else {
                extra.insert(PART.to_owned(), kind.into());
            }
            return Ok(Block { content: Content::File { source, name }, cache, extra });
        }
        "refusal" => Content::Refusal(fields.needed_string("refusal")?),
        // Mistral's form of reasoning.
        "thinking" => {
            let text = thinking_text(fields.take("thinking"));
            fields.take("closed");
            Content::Reasoning(Reasoning { text, ..Reasoning::default() })
        }
        _ => {
            let mut whole = serde_json::Map::new();
            whole.insert("type".into(), kind.into());
            whole.extend(fields.rest());
            return Ok(Block { content: Content::Other(Value::Object(whole)), cache, extra: Default::default() });
        }
    };
    let extra = fields.rest();
    Ok(Block { content, cache: cache.or_else(|| openai_marks::read(&extra)), extra })
}

/// A part's URL, bare or in an object.
fn media_url(fields: &Fields, kind: &str) -> Option<String> {
    let value = fields.peek(kind)?;
    value.as_str().or_else(|| value.get("url")?.as_str()).map(str::to_owned)
}

/// Mistral's `thinking`: a string or a list of text parts.
pub(super) fn thinking_text(value: Option<Value>) -> String {
    match value {
        Some(Value::String(text)) => text,
        Some(Value::Array(parts)) => parts.iter().filter_map(|part| part.get("text")?.as_str()).collect(),
        _ => String::new(),
    }
}

fn image(fields: &mut Fields) -> Result<Content, Fault> {
    let (url, detail) = match fields.take("image_url") {
        Some(Value::String(url)) => (url, None),
        Some(value) => {
            let mut image = Fields::of(value, &fields.path("image_url"))?;
            (image.needed_string("url")?, image.string("detail")?)
        }
        None => return Err(fields.wrong("image_url", "is missing")),
    };
    Ok(Content::Image { source: Media::from_url(&url), detail })
}

fn file(fields: &mut Fields) -> Result<Content, Fault> {
    let mut file = fields.object("file")?.ok_or_else(|| fields.wrong("file", "is missing"))?;
    let name = file.string("filename")?;
    let source = match (file.string("file_id")?, file.string("file_data")?) {
        (Some(id), _) => Media::Id(id),
        (None, Some(data)) if data.contains("://") || data.starts_with("data:") => Media::from_url(&data),
        // Bare base64: PDF is all that OpenAI takes this way.
        (None, Some(data)) => Media::Inline { mime: "application/pdf".into(), data },
        (None, None) => return Err(file.wrong("file_data", "or `file_id` is missing")),
    };
    Ok(Content::File { source, name })
}
