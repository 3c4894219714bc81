//! Asks in Cohere's words.

use portcullis_plugin::adapter::{Dropped, HttpRequest};
use portcullis_plugin::chat::{Ask, Block, Content, Message, OutputFormat, Refusal, ResultPart, Role, Tool, ToolChoice};
use portcullis_plugin::serde_json::{Value, json};
use portcullis_plugin::{self as sdk, unsupported};

pub fn encode(ask: &Ask) -> Result<HttpRequest, Refusal> {
    let mut dropped = Vec::new();
    let mut drop = |present: bool, field: &str, why: &str| {
        if present {
            dropped.push(Dropped { field: field.into(), why: why.into() });
        }
    };
    if ask.n.is_some_and(|n| n > 1) {
        return Err(unsupported("Cohere gives one answer a request.", "n"));
    }
    drop(ask.logprobs.is_some() || ask.top_logprobs.is_some(), "logprobs", "its form differs");
    drop(ask.min_p.is_some(), "min_p", "there is no such parameter");
    drop(ask.parallel_tools.is_some(), "parallel_tool_calls", "there is no such parameter");
    drop(ask.user.is_some(), "user", "there is no such parameter");

    let mut messages = Vec::new();
    let system = sdk::plain(&ask.system);
    if !system.is_empty() {
        messages.push(json!({ "role": "system", "content": system }));
    }
    for turn in &ask.messages {
        message(turn, &mut messages)?;
    }
    let mut body = json!({ "model": ask.model, "messages": messages, "stream": ask.streamed });
    sdk::set(&mut body, "max_tokens", ask.max_tokens);
    sdk::set(&mut body, "temperature", ask.temperature);
    sdk::set(&mut body, "p", ask.top_p);
    sdk::set(&mut body, "k", ask.top_k.map(|k| k as u64));
    sdk::set(&mut body, "frequency_penalty", ask.frequency_penalty);
    sdk::set(&mut body, "presence_penalty", ask.presence_penalty);
    sdk::set(&mut body, "seed", ask.seed);
    if !ask.stop.is_empty() {
        sdk::set(&mut body, "stop_sequences", Some(ask.stop.clone()));
    }
    tools(ask, &mut body, &mut drop);
    match &ask.output {
        Some(OutputFormat::JsonObject) => sdk::set(&mut body, "response_format", Some(json!({ "type": "json_object" }))),
        Some(OutputFormat::JsonSchema(schema)) => {
            let schema: Value = schema.schema.parse().unwrap_or_default();
            let format = json!({ "type": "json_object", "json_schema": schema });
            sdk::set(&mut body, "response_format", Some(format));
        }
        Some(OutputFormat::Text) | None => {}
    }
    if let Some(reasoning) = &ask.reasoning {
        let off = reasoning.effort.as_deref() == Some("none") || reasoning.budget == Some(0);
        let mut thinking = json!({ "type": if off { "disabled" } else { "enabled" } });
        sdk::set(&mut thinking, "token_budget", reasoning.budget.filter(|_| !off));
        sdk::set(&mut body, "thinking", Some(thinking));
    }
    Ok(HttpRequest { dropped, ..sdk::post("/v2/chat", &body, ask.streamed) })
}

fn tools(ask: &Ask, body: &mut Value, drop: &mut impl FnMut(bool, &str, &str)) {
    let allowed = match &ask.tool_choice {
        Some(ToolChoice::Named(name)) => Some(vec![name.clone()]),
        Some(ToolChoice::Allowed(names)) => Some(names.clone()),
        _ => None,
    };
    let mut tools = Vec::new();
    let mut strict = false;
    for tool in &ask.tools {
        match tool {
            // It cannot be told to call a certain tool, but it can be given no other.
            Tool::Function(tool) if allowed.as_ref().is_none_or(|names| names.contains(&tool.name)) => {
                let parameters = tool.parameters.parse().unwrap_or_else(|_| json!({ "type": "object" }));
                let mut function = json!({ "name": tool.name, "parameters": parameters });
                sdk::set(&mut function, "description", tool.description.clone());
                strict |= tool.strict == Some(true);
                tools.push(json!({ "type": "function", "function": function }));
            }
            Tool::Function(_) => {}
            Tool::Other(_) => drop(true, "tools", "only functions can be called"),
        }
    }
    if tools.is_empty() {
        return;
    }
    sdk::set(body, "tools", Some(tools));
    if strict {
        sdk::set(body, "strict_tools", Some(true));
    }
    let choice = match &ask.tool_choice {
        Some(ToolChoice::Required | ToolChoice::Named(_)) => Some("REQUIRED"),
        Some(ToolChoice::None) => Some("NONE"),
        Some(ToolChoice::Auto | ToolChoice::Allowed(_)) | None => None,
    };
    sdk::set(body, "tool_choice", choice);
}

/// One turn; results of tools are turns of their own.
fn message(turn: &Message, out: &mut Vec<Value>) -> Result<(), Refusal> {
    let (results, others): (Vec<&Block>, Vec<&Block>) =
        turn.blocks.iter().partition(|block| matches!(block.content, Content::ToolResult(_)));
    for block in results {
        let Content::ToolResult(result) = &block.content else { continue };
        let texts = result.content.iter().map(|part| match part {
            ResultPart::Text(text) => Ok(text.clone()),
            ResultPart::Other(json) => Ok(json.clone()),
            ResultPart::Image(_) => Err(unsupported("Cohere takes no images from tools.", "messages")),
        });
        let content = texts.collect::<Result<Vec<_>, _>>()?.join("\n");
        out.push(json!({ "role": "tool", "tool_call_id": result.id, "content": content }));
    }
    if others.is_empty() {
        return Ok(());
    }
    match turn.role {
        Role::System => out.push(json!({ "role": "system", "content": sdk::plain(others) })),
        Role::User => out.push(json!({ "role": "user", "content": parts(&others)? })),
        Role::Assistant => out.push(assistant(&others)),
    }
    Ok(())
}

/// Plain text stays a string; with anything else it becomes a list.
fn parts(blocks: &[&Block]) -> Result<Value, Refusal> {
    if blocks.iter().all(|block| matches!(block.content, Content::Text(_))) {
        return Ok(sdk::plain(blocks.iter().copied()).into());
    }
    let part = |block: &&Block| match &block.content {
        Content::Text(text) => Ok(json!({ "type": "text", "text": text })),
        Content::Image(image) => {
            let url = sdk::url(&image.source)
                .ok_or_else(|| unsupported("Cohere takes images as a URL or as bytes.", "messages"))?;
            let mut image_url = json!({ "url": url });
            sdk::set(&mut image_url, "detail", image.detail.clone());
            Ok(json!({ "type": "image_url", "image_url": image_url }))
        }
        _ => Err(unsupported("Cohere takes text and images.", "messages")),
    };
    blocks.iter().map(part).collect::<Result<Vec<_>, _>>().map(Value::Array)
}

fn assistant(blocks: &[&Block]) -> Value {
    let mut message = json!({ "role": "assistant" });
    let mut content = Vec::new();
    let mut calls = Vec::new();
    let mut plan = None;
    let calling = blocks.iter().any(|block| matches!(block.content, Content::ToolCall(_)));
    for block in blocks {
        match &block.content {
            Content::Text(text) | Content::Refusal(text) => content.push(json!({ "type": "text", "text": text })),
            Content::Reasoning(thought) if calling => plan = Some(thought.text.clone()),
            Content::Reasoning(thought) => content.push(json!({ "type": "thinking", "thinking": thought.text })),
            Content::ToolCall(call) => {
                let arguments = if call.arguments.is_empty() { "{}" } else { &call.arguments };
                let function = json!({ "name": call.name, "arguments": arguments });
                calls.push(json!({ "id": call.id, "type": "function", "function": function }));
            }
            _ => {}
        }
    }
    if !content.is_empty() {
        sdk::set(&mut message, "content", Some(content));
    }
    sdk::set(&mut message, "tool_plan", plan);
    if !calls.is_empty() {
        sdk::set(&mut message, "tool_calls", Some(calls));
    }
    message
}
