//! A Messages request, or a token-counting one, into the neutral ask.
//!
//! Refuses only what cannot be understood; what Anthropic itself would refuse is left to it. Fields that only Anthropic
//! knows go to `extra` with everything that is needed to write them again.

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::blocks::{cache_mark, content, leftover, object, spell};
use super::wire::{ARRAY, BOOL, COUNT, NUMBER, OBJECT, Object, STRING, missing, path, read, require, str_of, wrong};
use super::{NAME, carry};
use crate::chat::{Ask, Effort, Extra, Message, OutputFormat, ReasoningAsk, Role, Tool, ToolChoice};
use crate::dialect::RawAsk;
use crate::dialect::openai_strict::is_strict;
use crate::fault::{Fault, Kind};
use crate::json::{exact, take};

/// A conversation that Anthropic keeps between turns (beta of August 2026). Overlooked, the turns before would be lost;
/// refused, its SDK goes on without it.
pub const THREAD: &str = "thread";

pub fn decode(raw: &RawAsk<'_>) -> Result<Ask, Fault> {
    let mut body: Object = serde_json::from_slice(raw.body)
        .map_err(|error| Fault::new(Kind::InvalidJson, format!("The body is not a JSON object: {error}.")))?;
    if !exact::holds(raw.body) {
        keep_inputs(&mut body, raw.body);
    }
    let model = read(&mut body, "", "model", &STRING)?.or_else(|| raw.model.map(str::to_owned));
    let mut ask = Ask { model: model.ok_or_else(|| missing("model"))?, source: NAME, ..Ask::default() };
    if take(&mut body, THREAD).is_some() {
        let text = "This provider keeps no message threads; send the whole conversation without `thread`.";
        return Err(Fault::new(Kind::UnsupportedFeature, text).param(THREAD));
    }
    if let Some(system) = take(&mut body, "system") {
        ask.system = content(system, "system")?;
    }
    for (i, message) in require(&mut body, "", "messages", &ARRAY)?.into_iter().enumerate() {
        ask.messages.push(decode_message(message, &format!("messages.{i}"))?);
    }
    for (i, tool) in read(&mut body, "", "tools", &ARRAY)?.unwrap_or_default().into_iter().enumerate() {
        ask.tools.push(decode_tool(tool, &format!("tools.{i}"))?);
    }
    if let Some(choice) = read(&mut body, "", "tool_choice", &OBJECT)? {
        decode_choice(choice, &mut ask)?;
    }
    ask.max_tokens = read(&mut body, "", "max_tokens", &COUNT)?;
    ask.temperature = read(&mut body, "", "temperature", &NUMBER)?;
    ask.top_p = read(&mut body, "", "top_p", &NUMBER)?;
    ask.top_k = read(&mut body, "", "top_k", &NUMBER)?;
    ask.stop = decode_stop(&mut body)?;
    // Taken out in any case: what is left becomes `extra`.
    ask.stream = read(&mut body, "", "stream", &BOOL)?.unwrap_or(false) || raw.stream;
    ask.service_tier = read(&mut body, "", "service_tier", &STRING)?.map(|tier| match tier.as_str() {
        "standard_only" => "default".to_owned(),
        _ => tier,
    });
    decode_metadata(&mut body, &mut ask)?;
    let mut kept = Extra::new();
    decode_thinking(&mut body, &mut ask, &mut kept)?;
    decode_output(&mut body, &mut ask, &mut kept)?;
    ask.extra = leftover(body);
    ask.extra.append(&mut kept);
    Ok(ask)
}

/// Inputs of earlier calls keep their numbers, also those that a tree would change.
fn keep_inputs(body: &mut Object, raw: &[u8]) {
    #[derive(Deserialize)]
    struct Asked<'a> {
        #[serde(borrow)]
        messages: Vec<Turn<'a>>,
    }
    #[derive(Deserialize)]
    struct Turn<'a> {
        #[serde(borrow, default)]
        content: Option<&'a RawValue>,
    }
    let (Some(Value::Array(messages)), Ok(raw)) = (body.get_mut("messages"), serde_json::from_slice::<Asked<'_>>(raw))
    else {
        return;
    };
    for (message, raw) in messages.iter_mut().zip(raw.messages) {
        if let (Some(content), Some(raw)) = (message.get_mut("content"), raw.content) {
            spell(content, raw);
        }
    }
}

fn decode_message(value: Value, at: &str) -> Result<Message, Fault> {
    let Value::Object(mut fields) = value else { return Err(wrong(at, "an object")) };
    let role = require(&mut fields, at, "role", &STRING)?;
    let role = match role.as_str() {
        "user" => Role::User,
        "assistant" => Role::Assistant,
        "system" => Role::System,
        _ => return Err(wrong(&path(at, "role"), "'user', 'assistant' or 'system'")),
    };
    let at_content = path(at, "content");
    let blocks = take(&mut fields, "content").ok_or_else(|| missing(&at_content))?;
    let blocks = carry::adopt(content(blocks, &at_content)?);
    Ok(Message { role, blocks, name: None, extra: leftover(fields) })
}

fn decode_tool(value: Value, at: &str) -> Result<Tool, Fault> {
    let Value::Object(mut fields) = value else { return Err(wrong(at, "an object")) };
    match fields.get("type").and_then(Value::as_str) {
        None | Some("custom") => {}
        Some(_) => return Ok(Tool::Hosted(Value::Object(fields))),
    }
    fields.shift_remove("type");
    Ok(Tool::Function {
        name: require(&mut fields, at, "name", &STRING)?,
        description: read(&mut fields, at, "description", &STRING)?,
        parameters: take(&mut fields, "input_schema"),
        strict: read(&mut fields, at, "strict", &BOOL)?,
        cache: cache_mark(&mut fields),
        extra: leftover(fields),
    })
}

fn decode_choice(mut choice: Object, ask: &mut Ask) -> Result<(), Fault> {
    let at = "tool_choice";
    let disable = read(&mut choice, at, "disable_parallel_tool_use", &BOOL)?;
    ask.parallel_tools = disable.map(|disable| !disable);
    ask.tool_choice = Some(match require(&mut choice, at, "type", &STRING)?.as_str() {
        "auto" => ToolChoice::Auto,
        "any" => ToolChoice::Required,
        "none" => ToolChoice::None,
        "tool" => ToolChoice::Named(require(&mut choice, at, "name", &STRING)?),
        _ => return Err(wrong("tool_choice.type", "'auto', 'any', 'tool' or 'none'")),
    });
    Ok(())
}

fn decode_stop(body: &mut Object) -> Result<Vec<String>, Fault> {
    let items = read(body, "", "stop_sequences", &ARRAY)?.unwrap_or_default();
    let strings = items.into_iter().enumerate().map(|(i, item)| match item {
        Value::String(text) => Ok(text),
        _ => Err(wrong(&format!("stop_sequences.{i}"), "a string")),
    });
    strings.collect()
}

fn decode_metadata(body: &mut Object, ask: &mut Ask) -> Result<(), Fault> {
    let mut metadata = object(body, "", "metadata")?;
    ask.user = read(&mut metadata, "metadata", "user_id", &STRING)?;
    let rest = leftover(metadata);
    ask.metadata = (!rest.is_empty()).then_some(rest);
    Ok(())
}

/// Thinking. What the neutral form cannot say of it (`display`, kinds to come) is kept under the field's own name.
fn decode_thinking(body: &mut Object, ask: &mut Ask, kept: &mut Extra) -> Result<(), Fault> {
    let Some(mut thinking) = read(body, "", "thinking", &OBJECT)? else { return Ok(()) };
    let mut reasoning = ReasoningAsk::default();
    let kind = require(&mut thinking, "thinking", "type", &STRING)?;
    match kind.as_str() {
        "enabled" => match read(&mut thinking, "thinking", "budget_tokens", &COUNT)? {
            Some(budget) => reasoning.budget = Some(budget),
            None => reasoning.adaptive = true,
        },
        "disabled" => reasoning.effort = Some(Effort::None),
        "adaptive" => reasoning.adaptive = true,
        // The least thinking that some models can be set to; and whatever comes after this was written.
        other => {
            reasoning.adaptive = true;
            thinking.insert("type".to_owned(), other.into());
        }
    }
    reasoning.include = match thinking.get("display").and_then(Value::as_str) {
        Some("omitted") => Some(false),
        Some("summarized") => Some(true),
        // Anthropic shows what it thinks unless told otherwise; others must be asked to.
        _ if kind != "disabled" => Some(true),
        _ => None,
    };
    let rest = leftover(thinking);
    if !rest.is_empty() {
        kept.insert("thinking".to_owned(), Value::Object(rest));
    }
    ask.reasoning = Some(reasoning);
    Ok(())
}

/// `output_config` (effort, format) and the older `output_format`.
fn decode_output(body: &mut Object, ask: &mut Ask, kept: &mut Extra) -> Result<(), Fault> {
    let mut config = object(body, "", "output_config")?;
    let format = take(&mut config, "format").map(|format| ("output_config.format", format));
    let format = format.or_else(|| Some(("output_format", take(body, "output_format")?)));
    if let Some((at, format)) = format {
        ask.output = Some(decode_format(format, at)?);
    }
    if let Some(word) = read(&mut config, "output_config", "effort", &STRING)? {
        let reasoning = ask.reasoning.get_or_insert_default();
        match Effort::parse(&word) {
            Some(effort) if reasoning.effort.is_none() => reasoning.effort = Some(effort),
            // Thinking is off, or the word is new: the neutral effort is about thinking, this one about the whole answer.
            _ => drop(config.insert("effort".to_owned(), word.into())),
        }
    }
    let rest = leftover(config);
    if !rest.is_empty() {
        kept.insert("output_config".to_owned(), Value::Object(rest));
    }
    Ok(())
}

fn decode_format(format: Value, at: &str) -> Result<OutputFormat, Fault> {
    let Value::Object(mut fields) = format else { return Err(wrong(at, "an object")) };
    match require(&mut fields, at, "type", &STRING)?.as_str() {
        "json_schema" => {
            let schema = require(&mut fields, at, "schema", &OBJECT).map(Value::Object)?;
            Ok(OutputFormat::JsonSchema {
                name: schema_name(&schema),
                description: None,
                // Anthropic always holds its answer to the schema; elsewhere that is only promised for closed schemas.
                strict: is_strict(&schema).then_some(true),
                schema,
            })
        }
        "text" => Ok(OutputFormat::Text),
        _ => Err(wrong(&path(at, "type"), "'json_schema'")),
    }
}

/// Other dialects require a name; the schema's title serves when it is fit for one.
fn schema_name(schema: &Value) -> String {
    let title = str_of(schema, "title").unwrap_or_default();
    let name: String =
        title.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).take(64).collect();
    if name.is_empty() { "answer".to_owned() } else { name }
}

/// The schema of a tool that takes nothing.
pub fn empty_schema() -> Value {
    json!({"type": "object", "properties": Map::new()})
}
