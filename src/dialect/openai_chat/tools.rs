//! Tools and the choice among them, both directions, the legacy `functions` included.
//!
//! Changes a schema only at its top, and only that of a foreign ask: what a provider takes of JSON Schema is its own affair.

use serde_json::{Map, Value, json};

use super::NAME;
use super::fields::{Fields, invalid};
use crate::chat::{Ask, CacheMark, Tool, ToolCall, ToolChoice, as_function};
use crate::dialect::{Encoding, foreign, openai_strict};
use crate::fault::Fault;

/// Reads `tools`, `tool_choice`, `parallel_tool_calls` and their forerunners `functions` and `function_call`.
pub(super) fn read(fields: &mut Fields, ask: &mut Ask) -> Result<(), Fault> {
    for (index, tool) in fields.array("tools")?.unwrap_or_default().into_iter().enumerate() {
        ask.tools.push(read_tool(tool, &format!("tools[{index}]"))?);
    }
    if let Some(functions) = fields.array("functions")? {
        for (index, function) in functions.iter().enumerate() {
            let at = format!("functions[{index}]");
            ask.tools.push(read_function(Fields::of(function.clone(), &at)?, Map::new(), None)?);
        }
        // Kept as a mark: this client reads `function_call`, not `tool_calls`.
        fields.put("functions", functions.into());
    }
    if let Some(choice) = fields.take("tool_choice") {
        ask.tool_choice = Some(read_choice(choice)?);
    }
    match fields.take("function_call") {
        None => {}
        Some(Value::String(word)) => ask.tool_choice = Some(choice_word(&word, "function_call")?),
        Some(value) => {
            let name = Fields::of(value, "function_call")?.needed_string("name")?;
            ask.tool_choice = Some(ToolChoice::Named(name));
        }
    }
    ask.parallel_tools = fields.bool("parallel_tool_calls")?;
    Ok(())
}

fn read_tool(value: Value, at: &str) -> Result<Tool, Fault> {
    let mut fields = Fields::of(value, at)?;
    let kind = fields.string("type")?;
    match kind.as_deref() {
        Some("function") | None => {
            let cache = fields.take("cache_control").and_then(read_cache);
            let function = fields.object("function")?.ok_or_else(|| fields.wrong("function", "is missing"))?;
            read_function(function, fields.rest(), cache)
        }
        Some("custom") => {
            let mut custom = fields.object("custom")?.ok_or_else(|| fields.wrong("custom", "is missing"))?;
            Ok(Tool::Custom {
                name: custom.needed_string("name")?,
                description: custom.string("description")?,
                format: custom.take("format"),
            })
        }
        Some(hosted) => {
            let mut map = Map::new();
            map.insert("type".into(), hosted.into());
            map.extend(fields.rest());
            Ok(Tool::Hosted(Value::Object(map)))
        }
    }
}

fn read_function(mut function: Fields, outer: Map<String, Value>, cache: Option<CacheMark>) -> Result<Tool, Fault> {
    let name = function.needed_string("name")?;
    let description = function.string("description")?;
    let parameters = function.take("parameters");
    let strict = function.bool("strict")?;
    let mut extra = function.rest();
    if !outer.is_empty() {
        extra.insert("tool".into(), Value::Object(outer));
    }
    Ok(Tool::Function { name, description, parameters, strict, cache, extra })
}

fn read_choice(value: Value) -> Result<ToolChoice, Fault> {
    let mut fields = match value {
        Value::String(word) => return choice_word(&word, "tool_choice"),
        other => Fields::of(other, "tool_choice")?,
    };
    let kind = fields.needed_string("type")?;
    match kind.as_str() {
        "function" | "custom" | "tool" => {
            // The Responses and Anthropic forms put the name beside the type; clients mix them up.
            let name = match fields.object(&kind)? {
                Some(mut inner) => inner.needed_string("name")?,
                None => fields.needed_string("name")?,
            };
            Ok(ToolChoice::Named(name))
        }
        "allowed_tools" => {
            let mut allowed =
                fields.object("allowed_tools")?.ok_or_else(|| fields.wrong("allowed_tools", "is missing"))?;
            let required = allowed.string("mode")?.as_deref() == Some("required");
            let names = allowed.array("tools")?.unwrap_or_default().iter().filter_map(allowed_name).collect();
            Ok(ToolChoice::Allowed { names, required })
        }
        word => choice_word(word, "tool_choice"),
    }
}

fn allowed_name(tool: &Value) -> Option<String> {
    let inner = tool.get("function").or_else(|| tool.get("custom")).unwrap_or(tool);
    inner.get("name").and_then(Value::as_str).map(str::to_owned)
}

fn choice_word(word: &str, at: &str) -> Result<ToolChoice, Fault> {
    match word {
        "auto" => Ok(ToolChoice::Auto),
        "none" => Ok(ToolChoice::None),
        // `any` is Mistral's word.
        "required" | "any" => Ok(ToolChoice::Required),
        _ => Err(invalid(at, &format!("is `{word}`, which is not a choice"))),
    }
}

/// `cache_control: {type: ephemeral, ttl}`.
pub(super) fn read_cache(value: Value) -> Option<CacheMark> {
    let ttl = value.get("ttl").and_then(Value::as_str).map(str::to_owned);
    value.is_object().then_some(CacheMark { ttl })
}

pub(super) fn write_cache(mark: &CacheMark) -> Value {
    match &mark.ttl {
        Some(ttl) => json!({ "type": "ephemeral", "ttl": ttl }),
        None => json!({ "type": "ephemeral" }),
    }
}

/// Whether a custom tool must be disguised as a function with one string argument `input`.
pub(super) fn disguises_custom(ask: &Ask, to: &Encoding<'_>) -> bool {
    ask.source != NAME && !to.quirks.custom_tools
}

/// Whether the client knows this call's tool as one of free text, and the target knew it as a function.
pub(super) fn was_disguised(ask: &Ask, call: &ToolCall) -> bool {
    !call.custom && ask.tools.iter().any(|tool| matches!(tool, Tool::Custom { name, .. } if *name == call.name))
}

/// Writes `tools`, `tool_choice` and `parallel_tool_calls`.
pub(super) fn write(ask: &Ask, to: &mut Encoding<'_>, body: &mut Map<String, Value>) {
    let own = ask.source == NAME;
    let native_allowed = own || to.quirks.custom_tools;
    let only = match &ask.tool_choice {
        Some(ToolChoice::Allowed { names, .. }) if !native_allowed => Some(names),
        _ => None,
    };
    let tools: Vec<Value> = ask
        .tools
        .iter()
        .filter(|tool| only.is_none_or(|names| tool.name().is_none_or(|name| names.iter().any(|only| only == name))))
        .filter_map(|tool| write_tool(tool, ask, to))
        .collect();
    // Both settings are refused without tools.
    let has_tools = !tools.is_empty();
    if has_tools {
        body.insert("tools".into(), tools.into());
    }
    if !has_tools && !own {
        return;
    }
    if let Some(choice) = &ask.tool_choice {
        body.insert("tool_choice".into(), write_choice(choice, ask, to, native_allowed));
    }
    // `true` is the default everywhere, and some servers do not know the field.
    if let Some(parallel) = ask.parallel_tools.filter(|parallel| own || !parallel) {
        body.insert("parallel_tool_calls".into(), parallel.into());
    }
}

fn write_tool(tool: &Tool, ask: &Ask, to: &mut Encoding<'_>) -> Option<Value> {
    let own = ask.source == NAME;
    match tool {
        Tool::Function { name, description, parameters, strict, cache, extra } => {
            let mut function = Map::new();
            function.insert("name".into(), name.as_str().into());
            function.extend(description.as_ref().map(|text| ("description".to_owned(), text.as_str().into())));
            let schema = if own { parameters.clone() } else { Some(foreign::parameters(parameters.as_ref())) };
            let strict = if own { *strict } else { openai_strict::strict(*strict, schema.as_ref(), to) };
            function.extend(schema.map(|schema| ("parameters".to_owned(), schema)));
            function.extend(strict.map(|strict| ("strict".to_owned(), strict.into())));
            let mut tool = Map::new();
            tool.insert("type".into(), "function".into());
            let mut outer = None;
            if own {
                let mut extra = extra.clone();
                outer = extra.shift_remove("tool");
                function.extend(extra);
            }
            tool.insert("function".into(), Value::Object(function));
            if let Some(Value::Object(outer)) = outer {
                tool.extend(outer);
            }
            let taken = to.quirks.cache_control;
            to.drop_if(cache.is_some() && !taken, "cache_control", "the target caches without marks");
            let cache = cache.as_ref().filter(|_| taken);
            tool.extend(cache.map(|mark| ("cache_control".to_owned(), write_cache(mark))));
            Some(Value::Object(tool))
        }
        Tool::Custom { name, description, format } if disguises_custom(ask, to) => {
            to.drop_if(true, "tools.custom", "the target has only functions; the tool became one with an `input`");
            let (description, parameters) = as_function(description.as_deref(), format.as_ref());
            let mut function = Map::new();
            function.insert("name".into(), name.as_str().into());
            function.extend(description.map(|text| ("description".to_owned(), text.into())));
            function.insert("parameters".into(), parameters);
            Some(json!({ "type": "function", "function": function }))
        }
        Tool::Custom { name, description, format } => {
            let mut custom = Map::new();
            custom.insert("name".into(), name.as_str().into());
            custom.extend(description.as_ref().map(|text| ("description".to_owned(), text.as_str().into())));
            custom.extend(format.as_ref().map(|format| ("format".to_owned(), chat_format(format))));
            Some(json!({ "type": "custom", "custom": custom }))
        }
        Tool::Hosted(value) if own => Some(value.clone()),
        Tool::Hosted(_) => {
            to.drop_if(true, "tools", "a tool that another provider runs itself");
            None
        }
    }
}

/// The Responses form writes a grammar flat, this one nests it.
fn chat_format(format: &Value) -> Value {
    match format.as_object() {
        Some(flat) if flat.get("type").is_some_and(|kind| kind == "grammar") && !flat.contains_key("grammar") => {
            let inner: Map<_, _> = flat
                .iter()
                .filter(|(key, _)| *key != "type")
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect();
            json!({ "type": "grammar", "grammar": inner })
        }
        _ => format.clone(),
    }
}

fn write_choice(choice: &ToolChoice, ask: &Ask, to: &Encoding<'_>, native_allowed: bool) -> Value {
    match choice {
        ToolChoice::Auto => "auto".into(),
        ToolChoice::None => "none".into(),
        ToolChoice::Required => "required".into(),
        ToolChoice::Named(name) => named(name, ask, to),
        ToolChoice::Allowed { required, .. } if !native_allowed => if *required { "required" } else { "auto" }.into(),
        ToolChoice::Allowed { names, required } => {
            let tools: Vec<Value> = names.iter().map(|name| named(name, ask, to)).collect();
            let mode = if *required { "required" } else { "auto" };
            json!({ "type": "allowed_tools", "allowed_tools": { "mode": mode, "tools": tools } })
        }
    }
}

fn named(name: &str, ask: &Ask, to: &Encoding<'_>) -> Value {
    let custom = ask.tools.iter().any(|tool| matches!(tool, Tool::Custom { name: known, .. } if known == name));
    if custom && !disguises_custom(ask, to) {
        json!({ "type": "custom", "custom": { "name": name } })
    } else {
        json!({ "type": "function", "function": { "name": name } })
    }
}
