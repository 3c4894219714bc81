//! What only the Responses form knows of an ask, in forms that every dialect has: calls of the tools that its callers or
//! its provider run, with their results, as calls of functions.
//!
//! Never offers such a tool to another target: its calls could not come back as what its callers know.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::item::{PART, content, kind, string};
use crate::chat::{Ask, Block, Content, Message, Role, Tool, ToolCall, ToolChoice, ToolResult};
use crate::dialect::foreign;
use crate::fault::Fault;

/// Tools that the caller runs itself: without them it cannot do its work.
const CALLERS: &[&str] = &["local_shell", "shell", "apply_patch", "computer", "computer_use_preview"];

/// Items that call a tool: the name of its function, and the field that holds what the call is about.
const CALLS: &[(&str, &str, &str)] = &[
    ("local_shell_call", "local_shell", "action"),
    ("shell_call", "shell", "action"),
    ("apply_patch_call", "apply_patch", "operation"),
    ("computer_call", "computer", "action"),
];

/// Items that hold what such a tool gave back.
const OUTPUTS: &[&str] =
    &["local_shell_call_output", "shell_call_output", "apply_patch_call_output", "computer_call_output"];

/// The one item that holds both.
const MCP: &str = "mcp_call";

/// See [`crate::dialect::Dialect::plainly`].
pub(super) fn plainly(ask: &Ask) -> Result<Option<Ask>, Fault> {
    let choice = choice(ask)?;
    let hosted = |tool: &Tool| matches!(tool, Tool::Hosted(_));
    let callers = |tool: &Tool| matches!(tool, Tool::Hosted(tool) if CALLERS.contains(&kind_of(tool)));
    let forbidden = ask.tool_choice == Some(ToolChoice::None);
    if !forbidden && ask.tools.iter().all(hosted) && ask.tools.iter().any(callers) {
        return Err(foreign::no_tool("OpenAI's tool for its own callers", "tools"));
    }
    let blocks = || ask.messages.iter().flat_map(|message| &message.blocks);
    if choice.is_none() && !blocks().any(is_peculiar) {
        return Ok(None);
    }
    // Outputs of the older shell name the item, others the call.
    let calls = blocks().filter_map(|block| item_of(block).filter(|item| CALLS.iter().any(|row| row.0 == kind(item))));
    let ids: HashMap<&str, &str> = calls.filter_map(|item| Some((text(item, "id")?, text(item, "call_id")?))).collect();
    let mut plain = ask.clone();
    plain.messages = ask.messages.iter().flat_map(|message| turns(message, &ids)).collect();
    plain.tool_choice = choice.or(plain.tool_choice);
    Ok(Some(plain))
}

/// The choice that this form alone can state, as far as others can.
fn choice(ask: &Ask) -> Result<Option<ToolChoice>, Fault> {
    let Some(choice) = ask.extra.get("tool_choice") else { return Ok(None) };
    let required = choice["mode"] == "required";
    let tools = choice["tools"].as_array().map(Vec::as_slice).unwrap_or_default();
    let names: Vec<String> = tools.iter().filter_map(|tool| tool["name"].as_str().map(str::to_owned)).collect();
    match choice["type"].as_str() {
        Some("allowed_tools") if !names.is_empty() || !required => Ok(Some(match names.is_empty() {
            true => ToolChoice::None,
            false => ToolChoice::Allowed { names, required },
        })),
        _ => Err(foreign::no_tool("A tool that only OpenAI offers", "tool_choice")),
    }
}

fn kind_of(value: &Value) -> &str {
    value.as_object().map(kind).unwrap_or_default()
}

fn text<'a>(item: &'a Map<String, Value>, key: &str) -> Option<&'a str> {
    item.get(key)?.as_str().filter(|text| !text.is_empty())
}

fn item_of(block: &Block) -> Option<&Map<String, Value>> {
    match &block.content {
        Content::Other(Value::Object(item)) if !block.extra.contains_key(PART) => Some(item),
        _ => None,
    }
}

fn is_peculiar(block: &Block) -> bool {
    item_of(block).is_some_and(|item| {
        let kind = kind(item);
        kind == MCP || OUTPUTS.contains(&kind) || CALLS.iter().any(|row| row.0 == kind)
    })
}

/// A message with such items taken apart: what was called is the assistant's, what came back the user's.
fn turns(message: &Message, ids: &HashMap<&str, &str>) -> Vec<Message> {
    let mut turns = vec![Message { blocks: Vec::new(), ..message.clone() }];
    for block in &message.blocks {
        let said = match item_of(block).filter(|_| is_peculiar(block)) {
            Some(item) => called(item, ids),
            None => vec![(message.role, block.clone())],
        };
        for (role, block) in said {
            match turns.last_mut() {
                Some(last) if last.role == role => last.blocks.push(block),
                _ => turns.push(Message::new(role, vec![block])),
            }
        }
    }
    turns.retain(|turn| !turn.blocks.is_empty());
    turns
}

fn called(item: &Map<String, Value>, ids: &HashMap<&str, &str>) -> Vec<(Role, Block)> {
    let id = text(item, "call_id").or(text(item, "id")).unwrap_or_default().to_owned();
    let call = |name: &str, arguments: String| {
        let call = ToolCall { id: id.clone(), name: name.to_owned(), arguments, ..ToolCall::default() };
        (Role::Assistant, Block::new(Content::ToolCall(call)))
    };
    let result = |content: Vec<Block>, failed: bool| {
        let id = ids.get(id.as_str()).map_or_else(|| id.clone(), |call| (*call).to_owned());
        let result = ToolResult { id, content, is_error: failed.then_some(true), ..ToolResult::default() };
        (Role::User, Block::new(Content::ToolResult(result)))
    };
    if let Some((_, name, field)) = CALLS.iter().find(|row| row.0 == kind(item)) {
        let about = item.get(*field).or(item.get("actions"));
        return vec![call(name, about.map_or_else(String::new, Value::to_string))];
    }
    if kind(item) == MCP {
        let error = item.get("error").filter(|error| !error.is_null());
        let output = error.or(item.get("output")).cloned().unwrap_or_default();
        let arguments = text(item, "arguments").unwrap_or("{}").to_owned();
        let name = text(item, "name").unwrap_or(MCP);
        return vec![call(name, arguments), result(output_blocks(output), error.is_some())];
    }
    let mut item = item.clone();
    let failed = string(&mut item, "status").is_some_and(|status| status == "failed");
    vec![result(output_blocks(item.remove("output").unwrap_or_default()), failed)]
}

/// What a tool gave back: words and pictures as they are, anything else as JSON.
fn output_blocks(output: Value) -> Vec<Block> {
    match output {
        Value::Object(mut screen) if screen.get("type").is_some_and(|kind| kind == "computer_screenshot") => {
            screen.insert("type".to_owned(), "input_image".into());
            content(Value::Object(screen))
        }
        Value::String(_) | Value::Null => content(output),
        other => vec![Block::text(other.to_string())],
    }
}
