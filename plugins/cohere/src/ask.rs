//! Asks in Cohere's words.

use portcullis_plugin::adapter::{Dropped, HttpRequest};
use portcullis_plugin::chat::{
    Ask, Block, Content, Message, OutputFormat, Refusal, ResultPart, Role, Tool, ToolChoice,
};
use portcullis_plugin::serde_json::{self, value::RawValue};
use portcullis_plugin::{self as sdk, unsupported};

use crate::wire::{self, Calling, Described, Format, Image, Named, Part, Said, Thinking, Turn};

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

    let mut messages = Vec::with_capacity(ask.messages.len() + 1);
    let system = sdk::plain(&ask.system);
    if !system.is_empty() {
        messages.push(Turn { role: "system", content: Some(Said::Plain(system)), ..Turn::default() });
    }
    for turn in &ask.messages {
        message(turn, &mut messages)?;
    }
    let (tools, strict) = tools(ask, &mut drop);
    let body = wire::Ask {
        model: &ask.model,
        messages,
        stream: ask.streamed,
        max_tokens: ask.max_tokens,
        temperature: ask.temperature,
        p: ask.top_p,
        k: ask.top_k.map(|k| k as u64),
        frequency_penalty: ask.frequency_penalty,
        presence_penalty: ask.presence_penalty,
        seed: ask.seed,
        stop_sequences: &ask.stop,
        strict_tools: strict.then_some(true),
        tool_choice: choice(ask).filter(|_| !tools.is_empty()),
        tools,
        response_format: match &ask.output {
            Some(OutputFormat::JsonObject) => Some(Format { kind: "json_object", json_schema: None }),
            Some(OutputFormat::JsonSchema(json)) => {
                Some(Format { kind: "json_object", json_schema: Some(raw(&json.schema).unwrap_or(RawValue::NULL)) })
            }
            Some(OutputFormat::Text) | None => None,
        },
        thinking: ask.reasoning.as_ref().map(|reasoning| {
            let off = reasoning.effort.as_deref() == Some("none") || reasoning.budget == Some(0);
            let kind = if off { "disabled" } else { "enabled" };
            Thinking { kind, token_budget: reasoning.budget.filter(|_| !off) }
        }),
    };
    let request = sdk::post("/v2/chat", &body, ask.streamed);
    Ok(HttpRequest { dropped, ..request })
}

/// JSON that passes through as it stands.
fn raw(text: &str) -> Option<&RawValue> {
    serde_json::from_str(text).ok()
}

/// The tools, and whether one of them is strict, which then all are.
fn tools<'a>(ask: &'a Ask, drop: &mut impl FnMut(bool, &str, &str)) -> (Vec<wire::Tool<'a>>, bool) {
    // It cannot be told to call a certain tool, but it can be given no other.
    let allowed = |name: &String| match &ask.tool_choice {
        Some(ToolChoice::Named(only)) => name == only,
        Some(ToolChoice::Allowed(names)) => names.contains(name),
        _ => true,
    };
    let mut tools = Vec::with_capacity(ask.tools.len());
    let mut strict = false;
    for tool in &ask.tools {
        match tool {
            Tool::Function(tool) if allowed(&tool.name) => {
                // Cohere wants parameters, also where there are none.
                let parameters =
                    raw(&tool.parameters).or_else(|| raw(r#"{"type":"object"}"#)).unwrap_or(RawValue::NULL);
                let description = tool.description.as_deref();
                let function = Described { name: &tool.name, parameters, description };
                strict |= tool.strict == Some(true);
                tools.push(wire::Tool { kind: "function", function });
            }
            Tool::Function(_) => {}
            Tool::Other(_) => drop(true, "tools", "only functions can be called"),
        }
    }
    (tools, strict)
}

fn choice(ask: &Ask) -> Option<&'static str> {
    match &ask.tool_choice {
        Some(ToolChoice::Required | ToolChoice::Named(_)) => Some("REQUIRED"),
        Some(ToolChoice::None) => Some("NONE"),
        Some(ToolChoice::Auto | ToolChoice::Allowed(_)) | None => None,
    }
}

/// One turn; results of tools are turns of their own.
fn message<'a>(turn: &'a Message, out: &mut Vec<Turn<'a>>) -> Result<(), Refusal> {
    let mut others = false;
    for block in &turn.blocks {
        let Content::ToolResult(result) = &block.content else {
            others = true;
            continue;
        };
        let mut texts = Vec::with_capacity(result.content.len());
        for part in &result.content {
            match part {
                ResultPart::Text(text) | ResultPart::Other(text) => texts.push(text.as_str()),
                ResultPart::Image(_) => return Err(unsupported("Cohere takes no images from tools.", "messages")),
            }
        }
        let content = match texts.as_slice() {
            [text] => (*text).into(),
            texts => texts.join("\n").into(),
        };
        let tool_call_id = Some(result.id.as_str());
        out.push(Turn { role: "tool", tool_call_id, content: Some(Said::Plain(content)), ..Turn::default() });
    }
    if others {
        let blocks = turn.blocks.iter().filter(|block| !matches!(block.content, Content::ToolResult(_)));
        out.push(match turn.role {
            Role::System => Turn { role: "system", content: Some(Said::Plain(sdk::plain(blocks))), ..Turn::default() },
            Role::User => Turn { role: "user", content: Some(parts(blocks)?), ..Turn::default() },
            Role::Assistant => assistant(blocks),
        });
    }
    Ok(())
}

fn parts<'a>(blocks: impl Iterator<Item = &'a Block> + Clone) -> Result<Said<'a>, Refusal> {
    if blocks.clone().all(|block| matches!(block.content, Content::Text(_))) {
        return Ok(Said::Plain(sdk::plain(blocks)));
    }
    let part = |block: &'a Block| match &block.content {
        Content::Text(text) => Ok(Part::Text { text }),
        Content::Image(image) => {
            let url = sdk::url(&image.source)
                .ok_or_else(|| unsupported("Cohere takes images as a URL or as bytes.", "messages"))?;
            Ok(Part::ImageUrl { image_url: Image { url, detail: image.detail.as_deref() } })
        }
        _ => Err(unsupported("Cohere takes text and images.", "messages")),
    };
    blocks.map(part).collect::<Result<Vec<_>, _>>().map(Said::Parts)
}

fn assistant<'a>(blocks: impl Iterator<Item = &'a Block> + Clone) -> Turn<'a> {
    let mut turn = Turn { role: "assistant", ..Turn::default() };
    let mut content = Vec::new();
    let calling = blocks.clone().any(|block| matches!(block.content, Content::ToolCall(_)));
    for block in blocks {
        match &block.content {
            Content::Text(text) | Content::Refusal(text) => content.push(Part::Text { text }),
            Content::Reasoning(thought) if calling => turn.tool_plan = Some(&thought.text),
            Content::Reasoning(thought) => content.push(Part::Thinking { thinking: &thought.text }),
            Content::ToolCall(call) => {
                let arguments = if call.arguments.is_empty() { "{}" } else { &call.arguments };
                let function = Named { name: &call.name, arguments };
                turn.tool_calls.push(Calling { id: &call.id, kind: "function", function });
            }
            _ => {}
        }
    }
    if !content.is_empty() {
        turn.content = Some(Said::Parts(content));
    }
    turn
}
