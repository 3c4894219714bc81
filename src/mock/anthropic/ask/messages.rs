//! Reads the turns of a Messages request: roles, blocks, calls with their results, proofs of thinking.

use serde_json::{Value, json};

use super::{SCOPE, is_name, refuse};
use crate::mock::prompt::Prompt;
use crate::mock::refusal::Refusal;
use crate::mock::signature;

/// Block kinds that a request may hold.
const KINDS: &[&str] = &[
    "bash_code_execution_tool_result",
    "code_execution_tool_result",
    "compaction",
    "container_upload",
    "document",
    "image",
    "mcp_tool_result",
    "mcp_tool_use",
    "redacted_thinking",
    "search_result",
    "server_tool_use",
    "text",
    "text_editor_code_execution_tool_result",
    "thinking",
    "tool_reference",
    "tool_result",
    "tool_search_tool_result",
    "tool_use",
    "web_fetch_tool_result",
    "web_search_tool_result",
];

/// Reads the conversation into `prompt`. `system` says whether it may hold system turns.
pub fn read(prompt: &mut Prompt, messages: &[Value], system: bool) -> Result<(), Refusal> {
    Messages { prompt, open: Vec::new(), system }.read(messages)
}

/// `open` are the ids of the answer just before, whose results must follow at once.
struct Messages<'a> {
    prompt: &'a mut Prompt,
    open: Vec<String>,
    system: bool,
}

impl Messages<'_> {
    fn read(&mut self, messages: &[Value]) -> Result<(), Refusal> {
        for (i, message) in messages.iter().enumerate() {
            let role = match message["role"].as_str() {
                Some(role @ ("user" | "assistant")) => role,
                Some("system") if self.system && i > 0 => "system",
                Some("system") => {
                    return refuse(
                        "messages: Unexpected role \"system\". The Messages API accepts a top-level `system` \
                         parameter, not \"system\" as an input message role.",
                    );
                }
                Some(_) => return refuse(format!("messages.{i}.role: Input should be 'user' or 'assistant'")),
                None => return refuse(format!("messages.{i}.role: Field required")),
            };
            if i == 0 && role != "user" {
                return refuse("messages: first message must use the \"user\" role");
            }
            let last = i + 1 == messages.len();
            let bare;
            let blocks = match &message["content"] {
                Value::Null => return refuse(format!("messages.{i}.content: Field required")),
                Value::String(string) => {
                    bare = [json!({"type": "text", "text": string})];
                    &bare[..]
                }
                Value::Array(blocks) => blocks,
                _ => return refuse(format!("messages.{i}.content: Input should be a valid list")),
            };
            let empty = blocks.is_empty() || message["content"].as_str().is_some_and(str::is_empty);
            if empty && !(last && role == "assistant") {
                return refuse(format!(
                    "messages.{i}: all messages must have non-empty content except for the optional final assistant \
                     message"
                ));
            }
            match role {
                "user" => self.user(i, blocks)?,
                "system" => {
                    for (j, block) in blocks.iter().enumerate() {
                        let text = text(&format!("messages.{i}.content.{j}"), block)?;
                        self.prompt.system(text);
                        self.prompt.measure.mark(&block["cache_control"]);
                    }
                }
                _ => self.assistant(i, blocks, last)?,
            }
        }
        self.answered(messages.len() - 1)
    }

    fn user(&mut self, i: usize, blocks: &[Value]) -> Result<(), Refusal> {
        let results = blocks.iter().filter(|block| block["type"] == "tool_result").count();
        let leading = blocks.iter().take_while(|block| block["type"] == "tool_result").count();
        if results == 0 {
            self.prompt.user_turn();
        }
        let open = std::mem::take(&mut self.open);
        let mut left = open.clone();
        for (j, block) in blocks.iter().enumerate() {
            let at = format!("messages.{i}.content.{j}");
            match kind(&at, block)? {
                "tool_result" => {
                    let Some(id) = block["tool_use_id"].as_str() else {
                        return refuse(format!("{at}.tool_result.tool_use_id: Field required"));
                    };
                    if !open.iter().any(|open| open == id) {
                        return refuse(format!(
                            "{at}: unexpected `tool_use_id` found in `tool_result` blocks: {id}. Each `tool_result` \
                             block must have a corresponding `tool_use` block in the previous message."
                        ));
                    }
                    if j < leading {
                        left.retain(|open| open != id);
                    }
                    self.result(&at, block)?;
                }
                "text" => {
                    let text = text(&at, block)?;
                    self.prompt.user_text(text);
                }
                "image" => {
                    source(&at, "image", block)?;
                    self.prompt.image(&block["source"]);
                }
                "document" => {
                    source(&at, "document", block)?;
                    self.prompt.file(&block["source"]);
                }
                found @ ("tool_use" | "thinking" | "redacted_thinking") => {
                    return refuse(format!("messages.{i}: `{found}` blocks can only be in `assistant` messages"));
                }
                _ => self.prompt.measure.json(block),
            }
            self.prompt.measure.mark(&block["cache_control"]);
        }
        self.open = left;
        self.answered(i.saturating_sub(1))?;
        Ok(())
    }

    fn result(&mut self, at: &str, block: &Value) -> Result<(), Refusal> {
        let mut words = Vec::new();
        match &block["content"] {
            Value::String(string) => words.push(string.as_str()),
            Value::Array(parts) => {
                for (k, part) in parts.iter().enumerate() {
                    match part["type"].as_str() {
                        Some("text") => words.push(text(&format!("{at}.tool_result.content.{k}"), part)?),
                        Some("image") => self.prompt.image(&part["source"]),
                        _ => self.prompt.measure.json(part),
                    }
                }
            }
            _ => {}
        }
        self.prompt.tool_result(words.join("\n"));
        Ok(())
    }

    fn assistant(&mut self, i: usize, blocks: &[Value], last: bool) -> Result<(), Refusal> {
        self.answered(i.saturating_sub(1))?;
        self.prompt.answer_turn();
        for (j, block) in blocks.iter().enumerate() {
            let at = format!("messages.{i}.content.{j}");
            match kind(&at, block)? {
                "text" if last && blocks.len() == 1 && block["text"] == "" => {}
                "text" => {
                    let text = text(&at, block)?;
                    if last && j + 1 == blocks.len() && text.ends_with(char::is_whitespace) {
                        return refuse("messages: final assistant content cannot end with trailing whitespace");
                    }
                    self.prompt.measure.text(text);
                }
                "tool_use" => {
                    let id = block["id"].as_str().unwrap_or_default();
                    if !is_name(id, usize::MAX) {
                        return refuse(format!("{at}.tool_use.id: String should match pattern '^[a-zA-Z0-9_-]+$'"));
                    }
                    if block["name"].as_str().is_none() {
                        return refuse(format!("{at}.tool_use.name: Field required"));
                    }
                    if !block["input"].is_object() {
                        return refuse(format!("{at}.tool_use.input: Input should be a valid dictionary"));
                    }
                    if self.open.iter().any(|open| open == id) {
                        return refuse("messages: `tool_use` ids must be unique");
                    }
                    self.prompt.measure.json(&block["input"]);
                    self.open.push(id.to_owned());
                }
                found @ ("thinking" | "redacted_thinking") => proof(&at, found, block)?,
                "tool_result" => {
                    return refuse(format!("messages.{i}: `tool_result` blocks can only be in `user` messages"));
                }
                _ => self.prompt.measure.json(block),
            }
            self.prompt.measure.mark(&block["cache_control"]);
        }
        Ok(())
    }

    /// Refuses to go on while calls of message `i` have no results.
    fn answered(&self, i: usize) -> Result<(), Refusal> {
        if self.open.is_empty() {
            return Ok(());
        }
        refuse(format!(
            "messages.{i}: `tool_use` ids were found without `tool_result` blocks immediately after: {}. Each \
             `tool_use` block must have a corresponding `tool_result` block in the next message.",
            self.open.join(", ")
        ))
    }
}

/// The block's kind, one that Anthropic knows.
fn kind<'a>(at: &str, block: &'a Value) -> Result<&'a str, Refusal> {
    match block["type"].as_str() {
        None => refuse(format!("{at}.type: Field required")),
        Some(kind) if KINDS.contains(&kind) => Ok(kind),
        Some(kind) => {
            let known: Vec<String> = KINDS.iter().map(|kind| format!("'{kind}'")).collect();
            refuse(format!(
                "{at}: Input tag '{kind}' found using 'type' does not match any of the expected tags: {}",
                known.join(", ")
            ))
        }
    }
}

fn text<'a>(at: &str, block: &'a Value) -> Result<&'a str, Refusal> {
    match block["text"].as_str() {
        None => refuse(format!("{at}.text.text: Field required")),
        Some("") if block["cache_control"].is_object() => {
            refuse(format!("{at}.text: cache_control cannot be set for empty text blocks"))
        }
        Some("") => refuse("messages: text content blocks must be non-empty"),
        Some(text) if text.trim().is_empty() => {
            refuse("messages: text content blocks must contain non-whitespace text")
        }
        Some(text) => Ok(text),
    }
}

/// Where the bytes of an image or document are.
fn source(at: &str, kind: &str, block: &Value) -> Result<(), Refusal> {
    let source = &block["source"];
    let fields: &[&str] = match source["type"].as_str() {
        Some("base64") => &["media_type", "data"],
        Some("url") => &["url"],
        Some("file") => &["file_id"],
        Some("text") if kind == "document" => &["media_type", "data"],
        Some("content") if kind == "document" => &["content"],
        None if source.is_null() => return refuse(format!("{at}.{kind}.source: Field required")),
        _ => {
            return refuse(format!(
                "{at}.{kind}.source: Input tag {} found using 'type' does not match any of the expected tags: \
                 'base64', 'file', 'url'",
                source["type"]
            ));
        }
    };
    let form = source["type"].as_str().unwrap_or_default();
    if let Some(field) = fields.iter().find(|field| source[**field].is_null()) {
        return refuse(format!("{at}.{kind}.source.{form}.{field}: Field required"));
    }
    let images = ["image/jpeg", "image/png", "image/gif", "image/webp"];
    let media = source["media_type"].as_str().unwrap_or_default();
    if kind == "image" && form == "base64" && !images.contains(&media) {
        return refuse(format!(
            "{at}.image.source.base64.media_type: Input should be 'image/jpeg', 'image/png', 'image/gif' or \
             'image/webp'"
        ));
    }
    Ok(())
}

/// Thinking comes back as it was given.
fn proof(at: &str, kind: &str, block: &Value) -> Result<(), Refusal> {
    if kind == "redacted_thinking" {
        let data = block["data"].as_str().unwrap_or_default();
        return match signature::is_ours(SCOPE, data, None) {
            true => Ok(()),
            false => refuse(format!("{at}: Invalid `data` in `redacted_thinking` block")),
        };
    }
    let (Some(thinking), Some(proof)) = (block["thinking"].as_str(), block["signature"].as_str()) else {
        let field = if block["thinking"].is_null() { "thinking" } else { "signature" };
        return refuse(format!("{at}.thinking.{field}: Field required"));
    };
    // Thinking that was hidden has a proof of its own.
    let text = Some(thinking).filter(|text| !text.is_empty());
    match signature::is_ours(SCOPE, proof, text) {
        true => Ok(()),
        false => refuse(format!("{at}: Invalid `signature` in `thinking` block")),
    }
}
