//! Tools, the choice among them, and the format of the output, both ways.
//!
//! Knows nothing of messages. Tools that the provider runs itself are kept as they came.

use serde_json::{Map, Value, json};

use super::NAME;
use super::item::{rest, string};
use crate::chat::{Ask, Extra, OutputFormat, Tool, ToolChoice};
use crate::dialect::{Encoding, foreign, openai_strict};
use crate::fault::{Fault, Kind};

/// Key in a function's `extra`: the namespace it was defined in.
const NAMESPACE: &str = "namespace";

/// Key in a function's `extra`: it was defined by an item of the conversation, which this form gets back as it came.
const LATER: &str = "later";

/// Longest function name that every provider takes.
const MAX_NAME: usize = 64;

/// A function's name where there are no namespaces. A name that would become too long stays bare, and so does one that is
/// its own namespace: OpenAI says so of functions that were loaded by themselves.
pub(super) fn qualified(space: &str, name: &str) -> String {
    if space == name {
        return name.to_owned();
    }
    let between = if space.ends_with("__") { "" } else { "__" };
    match space.len() + between.len() + name.len() {
        ..=MAX_NAME => format!("{space}{between}{name}"),
        _ => name.to_owned(),
    }
}

/// Undoes [`qualified`]: the name within its namespace, and the namespace. A call that says its namespace itself
/// (`extra`) need not have its tool among those of the ask: tools may be loaded later.
pub(super) fn bare<'a>(tools: &'a [Tool], name: &'a str, extra: &'a Extra) -> (&'a str, Option<&'a str>) {
    let defined = || {
        tools.iter().find_map(|tool| match tool {
            Tool::Function { name: known, extra, .. } if known == name => extra.get(NAMESPACE)?.get("name")?.as_str(),
            _ => None,
        })
    };
    let space = extra.get(NAMESPACE).and_then(Value::as_str).or_else(defined);
    let within = space.and_then(|space| name.strip_prefix(space)).map(|name| name.strip_prefix("__").unwrap_or(name));
    (within.filter(|within| !within.is_empty()).unwrap_or(name), space)
}

/// Whether the caller defined a free-text tool of this name.
pub(super) fn is_custom(tools: &[Tool], name: &str) -> bool {
    tools.iter().any(|tool| matches!(tool, Tool::Custom { name: known, .. } if known == name))
}

/// Functions that an item of the conversation defines (`additional_tools`, `tool_search_output`), for targets that want
/// all tools beforehand. Those that are known already say nothing new.
pub(super) fn later(tools: &[Value], known: &mut Vec<Tool>) {
    let functions = tools.iter().filter(|tool| matches!(tool["type"].as_str(), Some("function" | "namespace")));
    // The item itself goes back as it came; what cannot be read in it is for its own provider to judge.
    let Ok(found) = decode(functions.cloned().collect()) else { return };
    for mut tool in found {
        let Tool::Function { name, extra, .. } = &mut tool else { continue };
        let same = |other: &Tool| matches!(other, Tool::Function { name: known, .. } if known == name);
        if !known.iter().any(same) {
            extra.insert(LATER.to_owned(), true.into());
            known.push(tool);
        }
    }
}

pub(super) fn decode(tools: Vec<Value>) -> Result<Vec<Tool>, Fault> {
    let mut out = Vec::with_capacity(tools.len());
    for (index, tool) in tools.into_iter().enumerate() {
        let Value::Object(mut tool) = tool else {
            return Err(bad("A tool must be an object.", format!("tools[{index}]")));
        };
        match tool.get("type").and_then(Value::as_str) {
            Some("function") => out.push(function(tool, index)?),
            Some("custom") => {
                let name = string(&mut tool, "name").ok_or_else(|| nameless(index))?;
                let description = string(&mut tool, "description");
                out.push(Tool::Custom { name, description, format: tool.remove("format").filter(|v| !v.is_null()) });
            }
            Some("namespace") => namespace(tool, index, &mut out)?,
            Some(_) => out.push(Tool::Hosted(Value::Object(tool))),
            None => return Err(bad("The tool has no `type`.", format!("tools[{index}].type"))),
        }
    }
    Ok(out)
}

fn function(mut tool: Map<String, Value>, index: usize) -> Result<Tool, Fault> {
    tool.remove("type");
    // The chat form nests the definition; clients that were ported halfway send it.
    if let Some(Value::Object(nested)) = tool.remove("function") {
        tool.extend(nested);
    }
    Ok(Tool::Function {
        name: string(&mut tool, "name").ok_or_else(|| nameless(index))?,
        description: string(&mut tool, "description"),
        parameters: tool.remove("parameters").filter(|value| !value.is_null()),
        strict: tool.remove("strict").and_then(|strict| strict.as_bool()),
        cache: None,
        extra: rest(tool),
    })
}

/// A namespace of functions becomes functions with longer names, so that every dialect can offer them. One that holds
/// anything else is left to the provider.
fn namespace(mut space: Map<String, Value>, index: usize, out: &mut Vec<Tool>) -> Result<(), Fault> {
    let functions = match space.get("tools") {
        Some(Value::Array(list)) => {
            list.iter().all(|tool| tool.get("type").and_then(Value::as_str) == Some("function"))
        }
        _ => false,
    };
    let name = space.get("name").and_then(Value::as_str).map(str::to_owned);
    let (Some(space_name), true) = (name, functions) else {
        out.push(Tool::Hosted(Value::Object(space)));
        return Ok(());
    };
    let Some(Value::Array(list)) = space.remove("tools") else { return Ok(()) };
    space.remove("type");
    for tool in list {
        let Value::Object(tool) = tool else { continue };
        let mut tool = function(tool, index)?;
        if let Tool::Function { name, extra, .. } = &mut tool {
            *name = qualified(&space_name, name);
            extra.insert(NAMESPACE.to_owned(), Value::Object(space.clone()));
        }
        out.push(tool);
    }
    Ok(())
}

fn nameless(index: usize) -> Fault {
    bad("The tool has no `name`.", format!("tools[{index}].name"))
}

fn bad(text: &str, param: String) -> Fault {
    Fault::new(Kind::InvalidRequest, text).param(param)
}

/// The tools of an ask. `to` is told of what this form cannot say; echoes to the caller's own form pass None.
pub(super) fn encode(ask: &Ask, mut to: Option<&mut Encoding<'_>>) -> Vec<Value> {
    let own = ask.source == NAME;
    let mut out: Vec<Value> = Vec::with_capacity(ask.tools.len());
    for tool in &ask.tools {
        match tool {
            Tool::Function { extra, .. } if own && extra.contains_key(LATER) => {}
            Tool::Function { name, description, parameters, strict, cache, extra } => {
                if let Some(to) = to.as_deref_mut() {
                    to.drop_if(cache.is_some(), "cache_control", "the provider caches by itself");
                }
                let mut tool = Map::new();
                tool.insert("type".to_owned(), "function".into());
                let (bare, space) = if own { bare(&ask.tools, name, extra) } else { (name.as_str(), None) };
                tool.insert("name".to_owned(), bare.into());
                put(&mut tool, "description", description.as_deref());
                let schema = if own { parameters.clone() } else { Some(foreign::parameters(parameters.as_ref())) };
                // Here, and only here, functions are strict unless it is said otherwise.
                let strict = match to.as_deref_mut() {
                    Some(to) if !own => openai_strict::strict(*strict, schema.as_ref(), to).or(Some(false)),
                    _ => *strict,
                };
                put(&mut tool, "parameters", schema);
                put(&mut tool, "strict", strict);
                if own {
                    tool.extend(extra.iter().filter(|(key, _)| *key != NAMESPACE).map(|(k, v)| (k.clone(), v.clone())));
                }
                match (space, extra.get(NAMESPACE)) {
                    (Some(_), Some(Value::Object(space))) => into_namespace(&mut out, space, tool),
                    _ => out.push(Value::Object(tool)),
                }
            }
            Tool::Custom { name, description, format } => {
                let mut tool = Map::new();
                tool.insert("type".to_owned(), "custom".into());
                tool.insert("name".to_owned(), name.as_str().into());
                put(&mut tool, "description", description.as_deref());
                put(&mut tool, "format", format.as_ref().map(flat_format));
                out.push(Value::Object(tool));
            }
            Tool::Hosted(tool) if own => out.push(tool.clone()),
            Tool::Hosted(_) => {
                if let Some(to) = to.as_deref_mut() {
                    to.drop_if(true, "tools", "a tool that only another provider runs");
                }
            }
        }
    }
    out
}

/// Functions of one namespace stand together, where the first of them stood.
fn into_namespace(out: &mut Vec<Value>, space: &Map<String, Value>, tool: Map<String, Value>) {
    let same = out.iter_mut().find(|other| other["type"] == "namespace" && other.get("name") == space.get("name"));
    if let Some(list) = same.and_then(|same| same.get_mut("tools")).and_then(Value::as_array_mut) {
        list.push(Value::Object(tool));
        return;
    }
    let mut whole = Map::new();
    whole.insert("type".to_owned(), "namespace".into());
    whole.extend(space.clone());
    whole.insert("tools".to_owned(), json!([tool]));
    out.push(Value::Object(whole));
}

/// The chat form nests a grammar; this one has it flat.
fn flat_format(format: &Value) -> Value {
    match format.get("grammar") {
        Some(Value::Object(grammar)) => {
            let mut flat = Map::new();
            flat.insert("type".to_owned(), "grammar".into());
            flat.extend(grammar.clone());
            Value::Object(flat)
        }
        _ => format.clone(),
    }
}

/// The choice; what only this form can say (hosted tools) goes to `extra`.
pub(super) fn decode_choice(choice: Value, extra: &mut Extra) -> Result<Option<ToolChoice>, Fault> {
    let name = |value: &Value| value.get("name").and_then(Value::as_str).map(str::to_owned);
    let kind = choice.get("type").and_then(Value::as_str).or(choice.as_str());
    let known = match kind {
        None if choice.is_null() => return Ok(None),
        Some("auto") => Some(ToolChoice::Auto),
        Some("none") => Some(ToolChoice::None),
        Some("required") => Some(ToolChoice::Required),
        Some("function" | "custom") => {
            let nested = choice.get("function").and_then(name);
            Some(ToolChoice::Named(name(&choice).or(nested).ok_or_else(bad_choice)?))
        }
        Some("allowed_tools") => {
            let tools = choice.get("tools").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            let names: Vec<_> = tools.iter().filter_map(name).collect();
            let required = choice.get("mode").and_then(Value::as_str) == Some("required");
            (names.len() == tools.len()).then_some(ToolChoice::Allowed { names, required })
        }
        Some(_) if choice.is_object() => None,
        _ => return Err(bad_choice()),
    };
    if known.is_none() {
        extra.insert("tool_choice".to_owned(), choice);
    }
    Ok(known)
}

fn bad_choice() -> Fault {
    bad(
        "`tool_choice` must be \"auto\", \"none\", \"required\" or an object that names a tool.",
        "tool_choice".to_owned(),
    )
}

pub(super) fn encode_choice(choice: &ToolChoice, tools: &[Tool]) -> Value {
    let kind = |name: &str| if is_custom(tools, name) { "custom" } else { "function" };
    match choice {
        ToolChoice::Auto => "auto".into(),
        ToolChoice::None => "none".into(),
        ToolChoice::Required => "required".into(),
        ToolChoice::Named(name) => json!({"type": kind(name), "name": name}),
        ToolChoice::Allowed { names, required } => {
            let list: Vec<_> = names.iter().map(|name| json!({"type": kind(name), "name": name})).collect();
            json!({"type": "allowed_tools", "mode": if *required { "required" } else { "auto" }, "tools": list})
        }
    }
}

pub(super) fn decode_format(format: Value) -> Result<Option<OutputFormat>, Fault> {
    let Value::Object(mut format) = format else { return Ok(None) };
    match string(&mut format, "type").as_deref() {
        Some("text") => Ok(Some(OutputFormat::Text)),
        Some("json_object") => Ok(Some(OutputFormat::JsonObject)),
        Some("json_schema") => Ok(Some(OutputFormat::JsonSchema {
            name: string(&mut format, "name")
                .ok_or_else(|| bad("The format has no `name`.", "text.format.name".to_owned()))?,
            description: string(&mut format, "description"),
            schema: format
                .remove("schema")
                .ok_or_else(|| bad("The format has no `schema`.", "text.format.schema".to_owned()))?,
            strict: format.remove("strict").and_then(|strict| strict.as_bool()),
        })),
        _ => Err(bad(
            "`text.format.type` must be \"text\", \"json_object\" or \"json_schema\".",
            "text.format.type".to_owned(),
        )),
    }
}

pub(super) fn encode_format(format: &OutputFormat) -> Value {
    match format {
        OutputFormat::Text => json!({"type": "text"}),
        OutputFormat::JsonObject => json!({"type": "json_object"}),
        OutputFormat::JsonSchema { name, description, schema, strict } => {
            let mut out = Map::new();
            out.insert("type".to_owned(), "json_schema".into());
            out.insert("name".to_owned(), name.as_str().into());
            put(&mut out, "description", description.as_deref());
            out.insert("schema".to_owned(), schema.clone());
            put(&mut out, "strict", *strict);
            Value::Object(out)
        }
    }
}

/// Inserts what is there.
pub(super) fn put(into: &mut Map<String, Value>, key: &str, value: Option<impl Into<Value>>) {
    if let Some(value) = value {
        into.insert(key.to_owned(), value.into());
    }
}
