//! A neutral ask as the body of a Messages or token-counting request.
//!
//! Decides for every parameter whether it is carried, translated or left out, and notes what is left out; the
//! conversation itself is `prompt`'s. Never lets an ask through whose meaning would change without notice.

use serde_json::{Map, Number, Value, json};

use super::ask::empty_schema;
use super::models::{self, Model};
use super::prompt::{self, cache_control, shortest};
use super::wire::Object;
use super::{NAME, schema, thinking};
use crate::chat::{Ask, Block, Content, OutputFormat, Tool, ToolChoice, as_function};
use crate::dialect::{Encoding, foreign};
use crate::fault::{Fault, Kind};
use crate::json::exact;

/// What a counting request may hold; everything else is about the answer.
const COUNTED: &[&str] = &[
    "model",
    "system",
    "messages",
    "tools",
    "tool_choice",
    "thinking",
    "output_config",
    "cache_control",
    "context_management",
    "mcp_servers",
    "speed",
];

pub fn encode(ask: &Ask, to: &mut Encoding<'_>) -> Result<Vec<u8>, Fault> {
    refuse(ask)?;
    note(ask, to);
    let body = build(ask, to)?;
    Ok(exact::written(body))
}

pub fn encode_count(ask: &Ask, to: &mut Encoding<'_>) -> Result<Vec<u8>, Fault> {
    let mut body = build(ask, to)?;
    body.retain(|key, _| COUNTED.contains(&key.as_str()));
    Ok(exact::written(body))
}

fn build(ask: &Ask, to: &mut Encoding<'_>) -> Result<Object, Fault> {
    let own = ask.source == NAME;
    let model = models::find(to.model);
    let mut body = Object::new();
    body.insert("model".to_owned(), to.model.into());

    let mut prompt = prompt::encode(ask, to)?;
    let mut tools = tools(ask, &model, to);
    let mut choice = if tools.is_empty() { None } else { tool_choice(ask, &model, to) };
    let format = output(ask, &model, &mut prompt.system, to);
    if !own {
        loosen(&mut tools, format.as_ref(), to);
    }
    let mut plan = thinking::plan(ask, &model, &prompt.messages, &mut choice, to);

    body.insert("max_tokens".to_owned(), plan.max_tokens.into());
    if !prompt.system.is_empty() {
        body.insert("system".to_owned(), shortest(prompt.system));
    }
    body.insert("messages".to_owned(), Value::Array(prompt.messages));
    if !tools.is_empty() {
        body.insert("tools".to_owned(), Value::Array(tools));
    }
    body.extend(choice.map(|choice| ("tool_choice".to_owned(), choice)));
    body.extend(plan.thinking.take().map(|thinking| ("thinking".to_owned(), thinking)));
    let mut config = Object::new();
    config.extend(plan.effort.map(|effort| ("effort".to_owned(), effort.into())));
    config.extend(format.map(|format| ("format".to_owned(), format)));
    if !config.is_empty() {
        body.insert("output_config".to_owned(), Value::Object(config));
    }
    sampling(ask, &model, plan.on, to, &mut body);
    stop(ask, to, &mut body);
    if let Some(tier) = ask.service_tier.as_deref() {
        service_tier(tier, own, to, &mut body);
    }
    metadata(ask, to, &mut body);
    if ask.stream {
        body.insert("stream".to_owned(), true.into());
    }
    if own {
        merge(&mut body, &ask.extra);
    }
    for refused in to.quirks.refuses {
        if body.shift_remove(*refused).is_some() {
            to.dropped.push((refused, "the provider refuses it"));
        }
    }
    Ok(body)
}

/// What the target cannot do and must not ignore.
fn refuse(ask: &Ask) -> Result<(), Fault> {
    let refused = [
        (ask.n.is_some_and(|n| n > 1), "n", "give more than one choice"),
        (ask.wants("audio"), "modalities", "answer with audio"),
        (ask.wants("image"), "modalities", "answer with images"),
    ];
    match refused.iter().find(|(refused, ..)| *refused) {
        Some((_, field, what)) => {
            let text = format!("{field}: Anthropic models cannot {what}.");
            Err(Fault::new(Kind::UnsupportedFeature, text).param(*field))
        }
        None => Ok(()),
    }
}

/// Parameters that have no equal and whose absence callers live with.
fn note(ask: &Ask, to: &mut Encoding<'_>) {
    const WHY: &str = "Anthropic has no such parameter";
    to.drop_if(ask.min_p.is_some(), "min_p", WHY);
    to.drop_if(ask.frequency_penalty.is_some(), "frequency_penalty", WHY);
    to.drop_if(ask.presence_penalty.is_some(), "presence_penalty", WHY);
    to.drop_if(ask.seed.is_some(), "seed", WHY);
    to.drop_if(ask.logprobs == Some(true), "logprobs", WHY);
    to.drop_if(ask.top_logprobs.is_some_and(|n| n > 0), "top_logprobs", WHY);
    to.drop_if(ask.logit_bias.is_some(), "logit_bias", WHY);
    to.drop_if(ask.verbosity.is_some(), "verbosity", WHY);
    to.drop_if(ask.store.is_some(), "store", WHY);
    to.drop_if(ask.cache_key.is_some(), "prompt_cache_key", WHY);
    to.drop_if(ask.audio.is_some(), "audio", WHY);
    let mut blocks = ask.messages.iter().flat_map(|message| &message.blocks);
    let hint =
        |block: &Block| matches!(&block.content, Content::Image { detail: Some(detail), .. } if detail != "auto");
    to.drop_if(blocks.any(hint), "image.detail", WHY);
    to.drop_if(ask.source != NAME && !ask.extra.is_empty(), "extra fields", "only the caller's dialect knows them");
}

fn tools(ask: &Ask, model: &Model, to: &mut Encoding<'_>) -> Vec<Value> {
    let allowed = match &ask.tool_choice {
        Some(ToolChoice::Allowed { names, .. }) => Some(names),
        _ => None,
    };
    let allows = |name: &String| allowed.is_none_or(|allowed| allowed.contains(name));
    let mut tools = Vec::new();
    for tool in &ask.tools {
        match tool {
            Tool::Function { name, .. } | Tool::Custom { name, .. } if !allows(name) => {
                to.dropped.push(("tools", "not among the allowed tools"));
            }
            Tool::Function { name, .. } => tools.push(function(tool, name, ask.source == NAME, model, to)),
            Tool::Custom { name, description, format } => {
                tools.push(custom(name, description.as_deref(), format.as_ref()));
            }
            Tool::Hosted(value) if ask.source == NAME => tools.push(value.clone()),
            Tool::Hosted(_) => to.dropped.push(("tools", "a tool that only another provider runs")),
        }
    }
    tools
}

fn function(tool: &Tool, name: &str, own: bool, model: &Model, to: &mut Encoding<'_>) -> Value {
    let Tool::Function { description, parameters, strict, cache, extra, .. } = tool else { return Value::Null };
    let mut value = json!({"name": name});
    if let Some(description) = description {
        value["description"] = description.as_str().into();
    }
    let mut parameters = match own {
        true => parameters.clone().unwrap_or_else(empty_schema),
        false => foreign::parameters(parameters.as_ref()),
    };
    if let Value::Object(fields) = &mut parameters
        && !fields.contains_key("type")
    {
        fields.insert("type".to_owned(), "object".into());
    }
    match strict {
        Some(true) if own || (model.structured && schema::is_plain(&parameters)) => value["strict"] = true.into(),
        Some(true) => to.dropped.push(("tools.strict", "Anthropic's strict tools do not take this schema or model")),
        Some(false) if own => value["strict"] = false.into(),
        _ => {}
    }
    value["input_schema"] = parameters;
    if let Some(mark) = cache {
        value["cache_control"] = cache_control(mark);
    }
    if own && let Some(fields) = value.as_object_mut() {
        fields.extend(extra.clone());
    }
    value
}

/// Most tools whose calls Anthropic holds to their schemas.
const MAX_STRICT: usize = 20;

/// Takes the strictness of a foreign ask's tools back where together they are more than Anthropic takes: it would refuse
/// the ask.
fn loosen(tools: &mut [Value], format: Option<&Value>, to: &mut Encoding<'_>) {
    let strict = || tools.iter().filter(|tool| tool.get("strict").is_some());
    let schemas = strict().map(|tool| &tool["input_schema"]).chain(format.map(|format| &format["schema"]));
    if strict().count() == 0 || (strict().count() <= MAX_STRICT && schema::holds(schemas)) {
        return;
    }
    to.dropped.push(("tools.strict", "Anthropic holds calls to fewer and smaller schemas than these"));
    for tool in tools.iter_mut().filter_map(Value::as_object_mut) {
        tool.shift_remove("strict");
    }
}

/// A free-text tool as a function of one string.
fn custom(name: &str, description: Option<&str>, format: Option<&Value>) -> Value {
    let (description, parameters) = as_function(description, format);
    json!({ "name": name, "description": description.unwrap_or_default(), "input_schema": parameters })
}

fn tool_choice(ask: &Ask, model: &Model, to: &mut Encoding<'_>) -> Option<Value> {
    let (kind, name) = match &ask.tool_choice {
        None => (None, None),
        Some(ToolChoice::Auto | ToolChoice::Allowed { required: false, .. }) => (Some("auto"), None),
        Some(ToolChoice::None) => return Some(json!({"type": "none"})),
        Some(ToolChoice::Required | ToolChoice::Allowed { required: true, .. }) => (Some("any"), None),
        Some(ToolChoice::Named(name)) => (Some("tool"), Some(name.as_str())),
    };
    let forced = matches!(kind, Some("any" | "tool"));
    let (kind, name) = if forced && !model.forced_tools {
        to.dropped.push(("tool_choice", "this model cannot be forced to call a tool"));
        (Some("auto"), None)
    } else {
        (kind, name)
    };
    let alone = ask.parallel_tools == Some(false);
    let mut choice = json!({"type": kind.or(alone.then_some("auto"))?});
    if let Some(name) = name {
        choice["name"] = name.into();
    }
    if alone {
        choice["disable_parallel_tool_use"] = true.into();
    }
    Some(choice)
}

/// The native form of a JSON schema, or an instruction where there is none.
fn output(ask: &Ask, model: &Model, system: &mut Vec<Value>, to: &mut Encoding<'_>) -> Option<Value> {
    let text = match ask.output.as_ref()? {
        OutputFormat::Text => return None,
        OutputFormat::JsonSchema { schema, .. } if ask.source == NAME && model.structured => {
            return Some(json!({"type": "json_schema", "schema": schema}));
        }
        OutputFormat::JsonSchema { schema, .. } if model.structured && schema::holds([schema]) => {
            return Some(json!({"type": "json_schema", "schema": schema::constrain(schema)}));
        }
        OutputFormat::JsonSchema { schema, .. } => {
            to.dropped.push(("response_format", "this model cannot be held to the schema; it was told it instead"));
            foreign::json_in_words(Some(schema))
        }
        OutputFormat::JsonObject => {
            to.dropped.push(("response_format", "Anthropic has no free JSON mode; the model was told instead"));
            foreign::json_in_words(None)
        }
    };
    system.push(json!({"type": "text", "text": text}));
    None
}

fn sampling(ask: &Ask, model: &Model, thinks: bool, to: &mut Encoding<'_>, body: &mut Object) {
    if !model.sampling {
        const WHY: &str = "this model takes no sampling parameters";
        to.drop_if(ask.temperature.is_some(), "temperature", WHY);
        to.drop_if(ask.top_p.is_some(), "top_p", WHY);
        to.drop_if(ask.top_k.is_some(), "top_k", WHY);
        return;
    }
    let above = |number: &Number, limit: f64| number.as_f64().is_some_and(|number| number > limit);
    const WHILE: &str = "not together with thinking";
    match &ask.temperature {
        Some(temperature) if thinks => to.drop_if(temperature.as_f64() != Some(1.0), "temperature", WHILE),
        Some(temperature) if above(temperature, 1.0) => {
            to.dropped.push(("temperature", "Anthropic's scale ends at 1; 1 was sent"));
            body.insert("temperature".to_owned(), 1.into());
        }
        Some(temperature) => drop(body.insert("temperature".to_owned(), temperature.clone().into())),
        None => {}
    }
    match &ask.top_p {
        Some(top_p) if thinks && !above(top_p, 0.949) => to.dropped.push(("top_p", WHILE)),
        Some(_) if !model.both_sampling && ask.source != NAME && body.contains_key("temperature") => {
            to.dropped.push(("top_p", "this model takes either temperature or top_p"));
        }
        Some(top_p) => drop(body.insert("top_p".to_owned(), top_p.clone().into())),
        None => {}
    }
    match &ask.top_k {
        Some(_) if thinks => to.dropped.push(("top_k", WHILE)),
        Some(top_k) => drop(body.insert("top_k".to_owned(), top_k.clone().into())),
        None => {}
    }
}

/// Anthropic refuses stop sequences of white space only.
fn stop(ask: &Ask, to: &mut Encoding<'_>, body: &mut Object) {
    let fine: Vec<&String> = ask.stop.iter().filter(|text| !text.trim().is_empty()).collect();
    to.drop_if(fine.len() < ask.stop.len(), "stop", "Anthropic takes no stop sequence of white space only");
    if !fine.is_empty() {
        body.insert("stop_sequences".to_owned(), json!(fine));
    }
}

fn service_tier(tier: &str, own: bool, to: &mut Encoding<'_>, body: &mut Object) {
    let word = match tier {
        "auto" | "priority" => "auto",
        "default" => "standard_only",
        other if own => other,
        _ => return to.dropped.push(("service_tier", "Anthropic has no such tier")),
    };
    body.insert("service_tier".to_owned(), word.into());
}

/// Longest user id that Anthropic takes.
const MAX_USER_ID: usize = 256;

fn metadata(ask: &Ask, to: &mut Encoding<'_>, body: &mut Object) {
    let own = ask.source == NAME;
    let mut metadata = Map::new();
    if let Some(user) = &ask.user {
        if own || user.len() <= MAX_USER_ID {
            metadata.insert("user_id".to_owned(), user.as_str().into());
        } else {
            to.dropped.push(("user", "longer than Anthropic takes"));
        }
    }
    match &ask.metadata {
        Some(more) if own => metadata.extend(more.clone()),
        more => to.drop_if(more.is_some(), "metadata", "Anthropic takes a user id only"),
    }
    if !metadata.is_empty() {
        body.insert("metadata".to_owned(), Value::Object(metadata));
    }
}

/// Adds kept fields; objects that are there already are completed, not replaced.
fn merge(body: &mut Object, kept: &Object) {
    for (key, value) in kept {
        match (body.get_mut(key), value) {
            (Some(Value::Object(fields)), Value::Object(more)) => fields.extend(more.clone()),
            (Some(_), _) => {}
            // Details of thinking without thinking.
            (None, _) if key == "thinking" => {}
            (None, _) => drop(body.insert(key.clone(), value.clone())),
        }
    }
}
