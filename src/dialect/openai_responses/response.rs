//! The `response` object that clients get: what was asked, echoed, around the output.
//!
//! Knows nothing of how the output came about; `answer` and `encoder` give it the items.

use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value, json};

use super::NAME;
use super::tools;
use crate::chat::{Ask, Content, Extra, Usage};
use crate::dialect::Asked;

/// The fields that repeat what was asked. Written once: a stream sends them three times, and the tools and
/// instructions of an agent are long.
#[derive(Debug)]
pub(super) struct Echo(Vec<(String, Box<RawValue>)>);

impl Echo {
    /// `own` is what an upstream of this form said of the ask itself; its word counts.
    pub fn new(ask: &Ask, own: &Extra) -> Echo {
        let mut fields = asked(ask);
        for (key, value) in own {
            fields.insert(key.clone(), value.clone());
        }
        let raw = |(key, value): (String, Value)| Some((key, to_raw_value(&value).ok()?));
        Echo(fields.into_iter().filter_map(raw).collect())
    }

    /// Adds a text to the metadata.
    pub fn add_metadata(&mut self, name: &str, text: &str) {
        let Some((_, raw)) = self.0.iter_mut().find(|(key, _)| key == "metadata") else { return };
        let mut metadata: Map<String, Value> = serde_json::from_str(raw.get()).unwrap_or_default();
        metadata.insert(name.to_owned(), text.into());
        if let Ok(written) = to_raw_value(&metadata) {
            *raw = written;
        }
    }
}

fn asked(ask: &Ask) -> Map<String, Value> {
    let system: Vec<&str> = ask
        .system
        .iter()
        .filter(|block| !block.extra.contains_key(super::ask::ROLE))
        .filter_map(|block| match &block.content {
            Content::Text { text, .. } => Some(text.as_str()),
            _ => None,
        })
        .collect();
    let extra = |key: &str| ask.extra.get(key).filter(|_| ask.source == NAME).cloned();
    let reasoning = ask.reasoning.as_ref();
    let effort = reasoning.and_then(|reasoning| reasoning.effort).map(|effort| effort.as_str());
    let summary = reasoning.and_then(|reasoning| reasoning.summary.as_deref());
    let mut text = Map::new();
    let format = ask.output.as_ref().map_or_else(|| json!({"type": "text"}), tools::encode_format);
    text.insert("format".to_owned(), format);
    tools::put(&mut text, "verbosity", ask.verbosity.as_deref());
    let choice = ask.tool_choice.as_ref().map(|choice| tools::encode_choice(choice, &ask.tools));
    let conversation = extra("conversation").map(|value| match value {
        Value::String(id) => json!({"id": id}),
        other => other,
    });
    let fields = json!({
        "background": extra("background").unwrap_or(Value::Bool(false)),
        "instructions": (!system.is_empty()).then(|| system.join("\n\n")),
        "max_output_tokens": ask.max_tokens,
        "max_tool_calls": extra("max_tool_calls"),
        "parallel_tool_calls": ask.parallel_tools.unwrap_or(true),
        "previous_response_id": ask.previous_response,
        "prompt_cache_key": ask.cache_key,
        "reasoning": {"effort": effort, "summary": summary},
        "safety_identifier": extra("safety_identifier"),
        // What the gateway makes of another provider's answer is kept nowhere, whatever was asked.
        "store": false,
        "temperature": ask.temperature.clone().map_or(json!(1.0), Value::Number),
        "text": text,
        "tool_choice": choice.or_else(|| extra("tool_choice")).unwrap_or_else(|| "auto".into()),
        "tools": tools::encode(ask, None),
        "top_logprobs": ask.top_logprobs.unwrap_or(0),
        "top_p": ask.top_p.clone().map_or(json!(1.0), Value::Number),
        "truncation": extra("truncation").unwrap_or_else(|| "disabled".into()),
        "user": ask.user.as_ref().filter(|_| extra("safety_identifier").is_none()),
        "metadata": ask.metadata.clone().unwrap_or_default(),
    });
    let mut fields = match fields {
        Value::Object(fields) => fields,
        _ => Map::new(),
    };
    tools::put(&mut fields, "conversation", conversation);
    fields
}

/// One `response` object.
#[derive(Debug)]
pub(super) struct Response<'a> {
    pub id: &'a str,
    pub created: u64,
    pub model: &'a str,
    pub status: &'a str,
    pub incomplete: Option<&'a str>,
    pub error: Option<&'a Value>,
    pub output: &'a [Value],
    pub usage: Option<&'a Usage>,
    pub service_tier: Option<&'a str>,
    pub echo: &'a Echo,
}

impl Serialize for Response<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("id", self.id)?;
        map.serialize_entry("object", "response")?;
        map.serialize_entry("created_at", &self.created)?;
        map.serialize_entry("status", self.status)?;
        map.serialize_entry("error", &self.error)?;
        map.serialize_entry("incomplete_details", &self.incomplete.map(|reason| json!({"reason": reason})))?;
        map.serialize_entry("model", self.model)?;
        map.serialize_entry("output", self.output)?;
        for (key, value) in &self.echo.0 {
            map.serialize_entry(key, value)?;
        }
        map.serialize_entry("service_tier", self.service_tier.unwrap_or("default"))?;
        // Typed clients (Vercel's) give up an answer that is over and has no counts.
        let over = matches!(self.status, "completed" | "incomplete");
        let usage = self.usage.copied().or(over.then(Usage::default));
        map.serialize_entry("usage", &usage.as_ref().map(super::usage::encode))?;
        map.end()
    }
}

/// The id a client gets: the upstream's own where it is of this form, so that `previous_response_id` finds its way
/// back.
pub(super) fn id(upstream: &str, asked: &Asked) -> String {
    match upstream {
        "" => prefixed(&asked.id),
        id => prefixed(id),
    }
}

pub(super) fn prefixed(id: &str) -> String {
    if id.starts_with("resp_") { id.to_owned() } else { format!("resp_{id}") }
}
