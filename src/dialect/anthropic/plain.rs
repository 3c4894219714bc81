//! What only Anthropic's models know of an ask, in forms that every dialect has: search results, documents and references
//! to tools as text, the tools that its callers run themselves as functions.
//!
//! Never loses what the model is to read: what has no other form and means something is refused.

use serde_json::{Value, json};

use super::blocks::cache_mark;
use super::wire::str_of;
use crate::chat::{Ask, Block, Content, Extra, Media, Tool, ToolChoice, ToolResult, document};
use crate::dialect::{Encoding, foreign};
use crate::fault::{Fault, Kind};

/// See [`crate::dialect::Dialect::plainly`].
pub fn plainly(ask: &Ask, to: &mut Encoding<'_>) -> Result<Option<Ask>, Fault> {
    let blocks = || ask.messages.iter().flat_map(|message| &message.blocks).chain(&ask.system);
    if !blocks().any(is_peculiar) && !ask.tools.iter().any(|tool| matches!(tool, Tool::Hosted(_))) {
        return Ok(None);
    }
    let cites = |block: &Block| block.extra.get("citations").is_some_and(|asked| asked["enabled"] == true);
    to.drop_if(blocks().any(cites), "citations", "only Anthropic's models cite documents by their place");
    let mut ask = ask.clone();
    for message in &mut ask.messages {
        message.blocks = plain_blocks(std::mem::take(&mut message.blocks))?;
    }
    for tool in &mut ask.tools {
        if let Tool::Hosted(hosted) = tool
            && let Some(function) = function(hosted)
        {
            *tool = function;
        }
    }
    let callers = |tool: &Tool| matches!(tool, Tool::Hosted(tool) if kind_of(tool).starts_with("computer_"));
    let nothing_else = ask.tools.iter().all(|tool| matches!(tool, Tool::Hosted(_)));
    if nothing_else && ask.tool_choice != Some(ToolChoice::None) && ask.tools.iter().any(callers) {
        return Err(foreign::no_tool("Anthropic's `computer`", "tools"));
    }
    Ok(Some(ask))
}

fn kind_of(value: &Value) -> &str {
    str_of(value, "type").unwrap_or_default()
}

/// Whether a block has to be said in another way.
fn is_peculiar(block: &Block) -> bool {
    match &block.content {
        Content::Other(value) => matches!(kind_of(value), "container_upload" | "tool_reference"),
        Content::File { source, .. } => matches!(source, Media::Text(_)) || block.extra.contains_key("context"),
        Content::ToolResult(result) => result.content.iter().any(is_peculiar),
        _ => false,
    }
}

fn plain_blocks(blocks: Vec<Block>) -> Result<Vec<Block>, Fault> {
    let mut plain = Vec::with_capacity(blocks.len());
    for mut block in blocks {
        match block.content {
            Content::Other(ref value) if kind_of(value) == "container_upload" => {
                let text = "A file in Anthropic's container cannot be sent to another provider; send its bytes.";
                return Err(Fault::new(Kind::UnsupportedFeature, text).param("file_id"));
            }
            // What a search of the caller's among its tools has found; the tool itself is among those of the ask.
            Content::Other(ref value) if kind_of(value) == "tool_reference" => {
                let name = str_of(value, "tool_name").unwrap_or_default();
                plain
                    .push(Block { cache: block.cache, ..Block::text(format!("The tool `{name}` can be called now.")) });
            }
            Content::File { source: Media::Text(text), name } => {
                let text = document(name.as_deref(), context(&block.extra), &text);
                plain.push(Block { cache: block.cache, ..Block::text(text) });
            }
            Content::File { .. } => {
                plain.extend(context(&block.extra).map(Block::text));
                plain.push(block);
            }
            Content::ToolResult(result) => {
                let content = plain_blocks(result.content)?;
                block.content = Content::ToolResult(ToolResult { content, ..result });
                plain.push(block);
            }
            _ => plain.push(block),
        }
    }
    Ok(plain)
}

/// What a caller says of a document beside its text.
fn context(extra: &Extra) -> Option<&str> {
    extra.get("context").and_then(Value::as_str)
}

/// A tool that the caller runs itself and whose input Anthropic documents, as the function that it is. None for others.
fn function(hosted: &Value) -> Option<Tool> {
    let kind = kind_of(hosted);
    let versioned = |stem: &str| kind.strip_prefix(stem).is_some_and(|date| date.bytes().all(|b| b.is_ascii_digit()));
    let (description, parameters) = if versioned("bash_") {
        ("Runs a command in a bash shell that is kept between calls, and gives its output.", bash())
    } else if versioned("text_editor_") {
        ("Views, creates and edits text files.", editor())
    } else if versioned("memory_") {
        ("Views and edits the files of a memory that outlives the conversation, under `/memories`.", memory())
    } else {
        return None;
    };
    let mut fields = hosted.as_object()?.clone();
    let cache = cache_mark(&mut fields);
    Some(Tool::Function {
        name: str_of(hosted, "name")?.to_owned(),
        description: Some(description.to_owned()),
        parameters: Some(parameters),
        strict: None,
        cache,
        extra: Extra::new(),
    })
}

/// https://docs.anthropic.com/en/docs/agents-and-tools/tool-use/bash-tool
fn bash() -> Value {
    json!({"type": "object", "properties": {
        "command": {"type": "string", "description": "The command to run. Required unless the shell is restarted."},
        "restart": {"type": "boolean", "description": "True starts the shell anew."},
    }})
}

/// https://docs.anthropic.com/en/docs/agents-and-tools/tool-use/text-editor-tool
fn editor() -> Value {
    json!({"type": "object", "required": ["command", "path"], "properties": {
        "command": {"type": "string", "enum": ["view", "create", "str_replace", "insert"]},
        "path": {"type": "string", "description": "Path of the file, or of the folder to view."},
        "view_range": {"type": "array", "items": {"type": "integer"},
                       "description": "For `view`: first and last line, counted from 1; -1 is the end of the file."},
        "file_text": {"type": "string", "description": "For `create`: what the file holds."},
        "old_str": {"type": "string", "description": "For `str_replace`: the text to replace; it must stand there once."},
        "new_str": {"type": "string", "description": "For `str_replace`: what to put in its place."},
        "insert_line": {"type": "integer", "description": "For `insert`: the line after which to insert; 0 is the beginning."},
        "insert_text": {"type": "string", "description": "For `insert`: the text to insert."},
    }})
}

/// https://docs.anthropic.com/en/docs/agents-and-tools/tool-use/memory-tool
fn memory() -> Value {
    let mut schema = editor();
    let words = ["view", "create", "str_replace", "insert", "delete", "rename"];
    schema["required"] = json!(["command"]);
    schema["properties"]["command"]["enum"] = json!(words);
    schema["properties"]["old_path"] = json!({"type": "string", "description": "For `rename`: the present path."});
    schema["properties"]["new_path"] = json!({"type": "string", "description": "For `rename`: the path to be."});
    schema
}
