//! Reads a Messages request as strictly as Anthropic does, into a [`Prompt`].

mod messages;

use serde_json::Value;

use crate::mock::answer::Turn;
use crate::mock::prompt::{Choice, Format, Prompt, Thinking, Tool};
use crate::mock::refusal::Refusal;

/// Scope of the proofs in `signature`.
pub const SCOPE: &str = "anthropic";

/// Least thinking budget.
const MIN_BUDGET: u64 = 1024;

/// Most cache breakpoints in one request.
const MAX_MARKS: usize = 4;

/// The beta that allows system turns within the conversation; without it they are refused, as older models do.
const MID_SYSTEM: &str = "mid-conversation-system";

const FIELDS: &[&str] = &[
    "model",
    "messages",
    "max_tokens",
    "cache_control",
    "container",
    "context_management",
    "diagnostics",
    "inference_geo",
    "mcp_servers",
    "metadata",
    "output_config",
    "output_format",
    "service_tier",
    "speed",
    "stop_sequences",
    "stream",
    "system",
    "temperature",
    "thinking",
    "tool_choice",
    "tools",
    "top_k",
    "top_p",
    "user_profile_id",
    "workspace_id",
];

/// A request for a message.
pub fn read(turn: &Turn<'_>) -> Result<Prompt, Refusal> {
    let body = turn.body;
    version(turn)?;
    match &body["max_tokens"] {
        Value::Null => return refuse("max_tokens: Field required"),
        value if value.as_u64().is_none_or(|most| most == 0) => {
            return refuse("max_tokens: Input should be greater than or equal to 1");
        }
        _ => {}
    }
    let mut prompt = conversation(turn)?;
    prompt.max_tokens = body["max_tokens"].as_u64();
    prompt.thinking = thinking(body)?;
    Ok(prompt)
}

/// A request for a count, which needs no `max_tokens`.
pub fn read_count(turn: &Turn<'_>) -> Result<Prompt, Refusal> {
    version(turn)?;
    conversation(turn)
}

fn refuse<T>(message: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::anthropic(message))
}

fn version(turn: &Turn<'_>) -> Result<(), Refusal> {
    match turn.request.header("anthropic-version") {
        Some(_) => Ok(()),
        None => refuse("anthropic-version: header is required"),
    }
}

fn conversation(turn: &Turn<'_>) -> Result<Prompt, Refusal> {
    let body = turn.body;
    if let Some(field) = turn.unknown_field(&[FIELDS]) {
        return refuse(format!("{field}: Extra inputs are not permitted"));
    }
    scalars(body)?;
    let mut prompt = Prompt {
        parallel: body["tool_choice"]["disable_parallel_tool_use"] != true,
        stop: stops(body)?,
        format: format(body)?,
        ..Prompt::default()
    };
    tools(body, &mut prompt)?;
    prompt.choice = choice(body)?;
    prompt.preface = prompt.choice == Choice::Auto;
    system(body, &mut prompt)?;
    match &body["messages"] {
        Value::Null => return refuse("messages: Field required"),
        Value::Array(messages) if messages.is_empty() => return refuse("messages: at least one message is required"),
        Value::Array(messages) => {
            let beta = turn.request.header("anthropic-beta").unwrap_or_default();
            messages::read(&mut prompt, messages, beta.contains(MID_SYSTEM))?;
            thinking_first(body, messages)?;
        }
        _ => return refuse("messages: Input should be a valid list"),
    }
    prompt.measure.mark(&body["cache_control"]);
    if prompt.measure.marks() > MAX_MARKS {
        let found = prompt.measure.marks();
        return refuse(format!("A maximum of {MAX_MARKS} blocks with cache_control may be provided. Found {found}."));
    }
    Ok(prompt)
}

fn scalars(body: &Value) -> Result<(), Refusal> {
    for (field, most) in [("temperature", 1.0), ("top_p", 1.0)] {
        let value = &body[field];
        if value.is_null() {
            continue;
        }
        match value.as_f64() {
            None => return refuse(format!("{field}: Input should be a valid number")),
            Some(number) if !(0.0..=most).contains(&number) => return refuse(format!("{field}: range: 0..1")),
            Some(_) => {}
        }
    }
    Ok(())
}

fn stops(body: &Value) -> Result<Vec<String>, Refusal> {
    let stops: Vec<String> = match &body["stop_sequences"] {
        Value::Null => Vec::new(),
        Value::Array(stops) => stops.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        _ => return refuse("stop_sequences: Input should be a valid list"),
    };
    if stops.iter().any(|stop| stop.trim().is_empty()) {
        return refuse("stop_sequences: each stop sequence must contain non-whitespace");
    }
    Ok(stops)
}

fn format(body: &Value) -> Result<Option<Format>, Refusal> {
    let given = &body["output_config"]["format"];
    let format = if given.is_null() { &body["output_format"] } else { given };
    match format["type"].as_str() {
        None if format.is_null() => Ok(None),
        Some("json_schema") if format["schema"].is_object() => {
            let schema = &format["schema"];
            let open = schema["type"] == "object" && schema["additionalProperties"] != false;
            if open {
                return refuse(
                    "output_config.format.schema: For 'object' type, 'additionalProperties' must be explicitly set to \
                     false",
                );
            }
            Ok(Some(Format::Schema(schema.clone())))
        }
        Some("json_schema") => refuse("output_config.format.schema: Field required"),
        _ => refuse("output_config.format.type: Input should be 'json_schema'"),
    }
}

fn tools(body: &Value, prompt: &mut Prompt) -> Result<(), Refusal> {
    for (i, tool) in body["tools"].as_array().into_iter().flatten().enumerate() {
        let mut bare = tool.clone();
        if let Some(fields) = bare.as_object_mut() {
            fields.remove("cache_control");
        }
        prompt.measure.json(&bare);
        prompt.measure.mark(&tool["cache_control"]);
        // Tools that the provider runs or defines are accepted and never called.
        if tool["type"].as_str().is_some_and(|kind| kind != "custom") {
            continue;
        }
        let at = format!("tools.{i}.custom");
        let Some(name) = tool["name"].as_str() else { return refuse(format!("{at}.name: Field required")) };
        if !is_name(name, 128) {
            return refuse(format!("{at}.name: String should match pattern '^[a-zA-Z0-9_-]{{1,128}}$'"));
        }
        let schema = &tool["input_schema"];
        if schema.is_null() {
            return refuse(format!("{at}.input_schema: Field required"));
        }
        if schema["type"].is_null() {
            return refuse(format!("{at}.input_schema.type: Field required"));
        }
        if schema["type"] != "object" {
            return refuse(format!("{at}.input_schema.type: Input should be 'object'"));
        }
        if prompt.tools.iter().any(|known| known.name == name) {
            return refuse("tools: Tool names must be unique.");
        }
        prompt.tools.push(Tool { name: name.to_owned(), schema: schema.clone(), custom: false });
    }
    Ok(())
}

fn choice(body: &Value) -> Result<Choice, Refusal> {
    let choice = &body["tool_choice"];
    if choice.is_null() {
        return Ok(Choice::Auto);
    }
    let tools = body["tools"].as_array();
    if tools.is_none_or(Vec::is_empty) && choice["type"] != "none" {
        return refuse("tool_choice: tool_choice may only be specified while providing tools");
    }
    match choice["type"].as_str() {
        Some("auto") => Ok(Choice::Auto),
        Some("none") => Ok(Choice::None),
        Some("any") => Ok(Choice::Required),
        Some("tool") => {
            let Some(name) = choice["name"].as_str() else { return refuse("tool_choice.tool.name: Field required") };
            if !tools.into_iter().flatten().any(|tool| tool["name"] == name) {
                return refuse(format!("Tool '{name}' not found in provided tools"));
            }
            Ok(Choice::Named(name.to_owned()))
        }
        _ => refuse(format!(
            "tool_choice: Input tag {} found using 'type' does not match any of the expected tags: 'auto', 'any', \
             'tool', 'none'",
            choice["type"]
        )),
    }
}

fn thinking(body: &Value) -> Result<Option<Thinking>, Refusal> {
    let asked = &body["thinking"];
    match asked["type"].as_str() {
        None if asked.is_null() => return Ok(None),
        Some("disabled") => return Ok(None),
        Some("adaptive") => {
            let effort = body["output_config"]["effort"].as_str().unwrap_or("medium");
            return Ok(Thinking::of_effort(effort));
        }
        Some("enabled") => {}
        _ => {
            return refuse(
                "thinking: Input tag does not match any of the expected tags: 'adaptive', 'disabled', 'enabled'",
            );
        }
    }
    let Some(budget) = asked["budget_tokens"].as_u64() else {
        return refuse("thinking.enabled.budget_tokens: Field required");
    };
    if budget < MIN_BUDGET {
        return refuse("thinking.enabled.budget_tokens: Input should be greater than or equal to 1024");
    }
    if body["max_tokens"].as_u64().is_some_and(|most| most <= budget) {
        return refuse(
            "`max_tokens` must be greater than `thinking.budget_tokens`. Please consult our documentation at \
             https://docs.claude.com/en/docs/build-with-claude/extended-thinking#max-tokens-and-context-window-size",
        );
    }
    if body["temperature"].as_f64().is_some_and(|temperature| (temperature - 1.0).abs() > f64::EPSILON) {
        return refuse(
            "`temperature` may only be set to 1 when thinking is enabled. Please consult our documentation at \
             https://docs.claude.com/en/docs/build-with-claude/extended-thinking#important-considerations-when-using-extended-thinking'",
        );
    }
    if !body["top_k"].is_null() {
        return refuse("`top_k` must be unset when thinking is enabled.");
    }
    if matches!(body["tool_choice"]["type"].as_str(), Some("any" | "tool")) {
        return refuse("Thinking may not be enabled when tool_choice forces tool use.");
    }
    Ok(Thinking::of_budget(budget))
}

/// While a budget for thinking is set, the answer whose tools were just run must come back with its thinking first.
fn thinking_first(body: &Value, messages: &[Value]) -> Result<(), Refusal> {
    if body["thinking"]["type"] != "enabled" {
        return Ok(());
    }
    let Some(last) = messages.iter().rposition(|message| message["role"] == "assistant") else { return Ok(()) };
    let blocks = messages[last]["content"].as_array().map_or(&[][..], Vec::as_slice);
    let first = blocks.first().and_then(|block| block["type"].as_str()).unwrap_or("text");
    let calls = blocks.iter().any(|block| block["type"] == "tool_use");
    if !calls || matches!(first, "thinking" | "redacted_thinking") {
        return Ok(());
    }
    refuse(format!(
        "messages.{last}.content.0.type: Expected `thinking` or `redacted_thinking`, but found `{first}`. When \
         `thinking` is enabled, a final `assistant` message must start with a thinking block (preceeding the lastmost \
         set of `tool_use` and `tool_result` blocks). We recommend you include thinking blocks from previous turns. To \
         avoid this requirement, disable `thinking`. Please consult our documentation at \
         https://docs.claude.com/en/docs/build-with-claude/extended-thinking"
    ))
}

fn system(body: &Value, prompt: &mut Prompt) -> Result<(), Refusal> {
    match &body["system"] {
        Value::Null => {}
        Value::String(text) => prompt.system(text),
        Value::Array(blocks) => {
            for (i, block) in blocks.iter().enumerate() {
                if block["type"] != "text" {
                    return refuse(format!("system.{i}.type: Input should be 'text'"));
                }
                let Some(text) = block["text"].as_str() else {
                    return refuse(format!("system.{i}.text: Field required"));
                };
                if text.is_empty() {
                    let marked = block["cache_control"].is_object();
                    return refuse(match marked {
                        true => format!("system.{i}: cache_control cannot be set for empty text blocks"),
                        false => "system: text content blocks must be non-empty".to_owned(),
                    });
                }
                prompt.system(text);
                prompt.measure.mark(&block["cache_control"]);
            }
        }
        _ => return refuse("system: Input should be a valid string or list"),
    }
    Ok(())
}

fn is_name(text: &str, most: usize) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    !text.is_empty() && text.len() <= most && text.chars().all(fits)
}
