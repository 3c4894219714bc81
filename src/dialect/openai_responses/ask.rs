//! Requests of the Responses form, read. [`super::compose`] writes them.
//!
//! Never refuses what it does not know: unknown fields ride in `extra`, unknown items as they came.

use serde_json::{Map, Number, Value};

use super::item::{self, Reader, rest, string};
use super::{NAME, tools};
use crate::chat::{Ask, Block, Content, Effort, MESSAGE, Message, ReasoningAsk, Role};
use crate::dialect::RawAsk;
use crate::fault::{Fault, Kind};

/// Key in a system block's `extra`: it stood as a message of this role, not in `instructions`.
pub(super) const ROLE: &str = "role";

pub(super) fn decode(raw: &RawAsk<'_>) -> Result<Ask, Fault> {
    let mut body: Map<String, Value> = serde_json::from_slice(raw.body)
        .map_err(|error| Fault::new(Kind::InvalidJson, format!("The body is not a JSON object: {error}.")))?;
    body.retain(|_, value| !value.is_null());
    let mut ask = Ask { source: NAME, ..Ask::default() };
    let body = &mut Fields(body);
    ask.model = match body.text("model")?.or_else(|| raw.model.map(str::to_owned)) {
        Some(model) if !model.is_empty() => model,
        _ => return Err(Fault::new(Kind::InvalidRequest, "The field `model` is missing.").param("model")),
    };
    ask.stream = body.bool("stream")?.unwrap_or(raw.stream);
    scalars(body, &mut ask)?;
    if let Some(reasoning) = body.object("reasoning")? {
        ask.reasoning = Some(read_reasoning(reasoning, &mut ask)?);
    }
    if let Some(text) = body.object("text")? {
        read_text(text, &mut ask)?;
    }
    if let Some(list) = body.list("tools")? {
        ask.tools = tools::decode(list)?;
    }
    if let Some(choice) = body.0.remove("tool_choice") {
        ask.tool_choice = tools::decode_choice(choice, &mut ask.extra)?;
    }
    read_instructions(body, &mut ask)?;
    match body.0.remove("input") {
        Some(Value::String(text)) => ask.messages.push(Message::new(Role::User, vec![Block::text(text)])),
        Some(Value::Array(items)) => read_items(items, &mut ask)?,
        Some(_) => {
            return Err(Fault::new(Kind::InvalidRequest, "`input` must be a string or a list of items.").param("input"));
        }
        // These bring input of their own.
        None if ["prompt", "conversation"].iter().any(|key| body.0.contains_key(*key)) => {}
        None if ask.previous_response.is_some() => {}
        None => return Err(Fault::new(Kind::InvalidRequest, "The field `input` is missing.").param("input")),
    }
    if let Some(list) = body.0.get("include").and_then(Value::as_array) {
        let logprobs = list.iter().any(|word| word == "message.output_text.logprobs");
        ask.logprobs = logprobs.then_some(true);
    }
    // The successor of `user`; it stays in `extra` too, so that this form gets it back under its own name.
    if ask.user.is_none() {
        ask.user = body.0.get("safety_identifier").and_then(Value::as_str).map(str::to_owned);
    }
    let given = |key: &str| body.0.get(key).is_some_and(|value| !value.is_null());
    ask.leans_on = ["conversation", "prompt"].into_iter().find(|key| given(key)).or_else(|| kept_item(&ask));
    ask.extra.extend(std::mem::take(&mut body.0));
    Ok(ask)
}

/// An item that only the provider which made it can read: one that it keeps under an id, or a history made short.
fn kept_item(ask: &Ask) -> Option<&'static str> {
    const KEPT: &[&str] = &["item_reference", "compaction", "compaction_summary"];
    let blocks = ask.messages.iter().flat_map(|message| &message.blocks);
    let mut items = blocks.filter(|block| !block.extra.contains_key(item::PART));
    items.find_map(|block| match &block.content {
        Content::Other(Value::Object(item)) => KEPT.iter().copied().find(|kept| item::kind(item) == *kept),
        _ => None,
    })
}

fn scalars(body: &mut Fields, ask: &mut Ask) -> Result<(), Fault> {
    ask.parallel_tools = body.bool("parallel_tool_calls")?;
    ask.max_tokens = body.count("max_output_tokens")?;
    ask.temperature = body.number("temperature")?;
    ask.top_p = body.number("top_p")?;
    ask.top_logprobs = body.count("top_logprobs")?;
    ask.user = body.text("user")?;
    ask.metadata = body.object("metadata")?;
    ask.service_tier = body.text("service_tier")?;
    ask.store = body.bool("store")?;
    ask.cache_key = body.text("prompt_cache_key")?;
    ask.previous_response = body.text("previous_response_id")?;
    Ok(())
}

/// Words that the neutral form does not know stay behind in `extra`, as does every other part of the object.
fn read_reasoning(mut object: Map<String, Value>, ask: &mut Ask) -> Result<ReasoningAsk, Fault> {
    let mut reasoning = ReasoningAsk::default();
    match object.get("effort") {
        Some(Value::String(word)) => {
            reasoning.effort = Effort::parse(word);
            if reasoning.effort.is_some() {
                object.remove("effort");
            }
        }
        Some(Value::Null) | None => {}
        Some(_) => return Err(wrong("reasoning.effort", "a string")),
    }
    reasoning.summary = string(&mut object, "summary");
    reasoning.include = reasoning.summary.is_some().then_some(true);
    let rest = rest(object);
    if !rest.is_empty() {
        ask.extra.insert("reasoning".to_owned(), Value::Object(rest));
    }
    Ok(reasoning)
}

fn read_text(mut object: Map<String, Value>, ask: &mut Ask) -> Result<(), Fault> {
    if let Some(format) = object.remove("format") {
        ask.output = tools::decode_format(format)?;
    }
    ask.verbosity = string(&mut object, "verbosity");
    let rest = rest(object);
    if !rest.is_empty() {
        ask.extra.insert("text".to_owned(), Value::Object(rest));
    }
    Ok(())
}

fn read_instructions(body: &mut Fields, ask: &mut Ask) -> Result<(), Fault> {
    match body.0.remove("instructions") {
        Some(Value::String(text)) if text.is_empty() => {}
        Some(Value::String(text)) => ask.system.push(Block::text(text)),
        // Answers echo instructions of prompt templates as items; some callers send them back.
        Some(Value::Array(items)) => read_items(items, ask)?,
        Some(_) => return Err(wrong("instructions", "a string")),
        None => {}
    }
    Ok(())
}

fn read_items(items: Vec<Value>, ask: &mut Ask) -> Result<(), Fault> {
    let mut reader = Reader::unsealing();
    for (index, item) in items.into_iter().enumerate() {
        let Value::Object(object) = &item else {
            return Err(wrong(&format!("input[{index}]"), "an object"));
        };
        let whole = item::kind(object) == "message";
        if item::kind(object).is_empty() {
            let text = "An item must have a `type`, or a `role` and `content`.";
            return Err(Fault::new(Kind::InvalidRequest, text).param(format!("input[{index}]")));
        }
        if let ("additional_tools" | "tool_search_output", Some(Value::Array(tools))) =
            (item::kind(object), object.get("tools"))
        {
            tools::later(tools, &mut ask.tools);
        }
        let role = item::role(&item);
        let said = object.get("role").and_then(Value::as_str).unwrap_or_default().to_owned();
        let mut blocks = reader.blocks(item);
        if blocks.is_empty() {
            continue;
        }
        match role {
            Role::System if ask.messages.is_empty() => {
                for block in &mut blocks {
                    block.extra.insert(ROLE.to_owned(), said.clone().into());
                }
                ask.system.append(&mut blocks);
            }
            Role::System | Role::User if whole => ask.messages.push(own_message(role, &said, blocks)),
            _ => match ask.messages.last_mut() {
                Some(last) if last.role == role && joins(last) => last.blocks.append(&mut blocks),
                _ => ask.messages.push(Message::new(role, blocks)),
            },
        }
    }
    Ok(())
}

/// A message that stands alone: its own fields go from its first block to itself.
fn own_message(role: Role, said: &str, mut blocks: Vec<Block>) -> Message {
    let own = blocks.first_mut().and_then(|first| first.extra.remove(MESSAGE));
    let mut message = Message::new(role, blocks);
    if let Some(Value::Object(own)) = own {
        message.extra = own;
    }
    if role == Role::System {
        message.extra.insert(ROLE.to_owned(), said.into());
    }
    message
}

/// Whether more items may join this turn: everything the assistant says in a row is one turn, and so are results; a
/// user's message stays apart from the results before it.
fn joins(message: &Message) -> bool {
    let outputs =
        |block: &Block| matches!(&block.content, Content::ToolResult(_)) || matches!(&block.content, Content::Other(_));
    message.role == Role::Assistant || message.blocks.iter().all(outputs)
}

fn wrong(field: &str, wanted: &str) -> Fault {
    Fault::new(Kind::InvalidRequest, format!("`{field}` must be {wanted}.")).param(field)
}

/// The body's fields, taken one by one; what is left at the end is `extra`.
struct Fields(Map<String, Value>);

impl Fields {
    fn text(&mut self, key: &str) -> Result<Option<String>, Fault> {
        match self.0.remove(key) {
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(wrong(key, "a string")),
            None => Ok(None),
        }
    }

    fn bool(&mut self, key: &str) -> Result<Option<bool>, Fault> {
        match self.0.remove(key) {
            Some(Value::Bool(value)) => Ok(Some(value)),
            Some(_) => Err(wrong(key, "true or false")),
            None => Ok(None),
        }
    }

    fn number(&mut self, key: &str) -> Result<Option<Number>, Fault> {
        match self.0.remove(key) {
            Some(Value::Number(value)) => Ok(Some(value)),
            Some(_) => Err(wrong(key, "a number")),
            None => Ok(None),
        }
    }

    fn count(&mut self, key: &str) -> Result<Option<u64>, Fault> {
        let number = self.number(key)?;
        // Some SDKs write whole numbers as 1024.0.
        let whole = |number: Number| {
            let float =
                || number.as_f64().filter(|value| *value >= 0.0 && value.fract() == 0.0).map(|value| value as u64);
            number.as_u64().or_else(float)
        };
        number.map(|number| whole(number).ok_or_else(|| wrong(key, "a whole number"))).transpose()
    }

    fn object(&mut self, key: &str) -> Result<Option<Map<String, Value>>, Fault> {
        match self.0.remove(key) {
            Some(Value::Object(object)) => Ok(Some(object)),
            Some(_) => Err(wrong(key, "an object")),
            None => Ok(None),
        }
    }

    fn list(&mut self, key: &str) -> Result<Option<Vec<Value>>, Fault> {
        match self.0.remove(key) {
            Some(Value::Array(list)) => Ok(Some(list)),
            Some(_) => Err(wrong(key, "a list")),
            None => Ok(None),
        }
    }
}
