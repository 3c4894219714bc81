//! A request body read into the neutral form.
//!
//! Fields are judged by type alone; whether a value makes sense is the provider's to say. What is not known stays in
//! `extra`, in its order.

use serde_json::{Map, Value};

use super::fields::{self, Fields, invalid};
use super::{NAME, complete, reasoning, tools, turns};
use crate::chat::{Ask, OutputFormat};
use crate::dialect::{Op, RawAsk};
use crate::fault::{Fault, Kind};

pub(super) fn decode(raw: &RawAsk<'_>) -> Result<Ask, Fault> {
    let mut fields = fields::body(raw.body)?;
    let mut ask = Ask { source: NAME, ..Ask::default() };
    ask.model = match (fields.string("model")?, raw.model) {
        (Some(model), _) => model,
        (None, Some(model)) => model.to_owned(),
        (None, None) => return Err(invalid("model", "is missing")),
    };
    match raw.op {
        Op::Generate => {
            let messages = fields.array("messages")?.ok_or_else(|| invalid("messages", "is missing"))?;
            turns::read(messages, &mut ask)?;
        }
        Op::Complete => complete::read(&mut fields, &mut ask)?,
        Op::Embed | Op::EmbedBatch | Op::CountTokens | Op::Rerank => {
            let text = format!("OpenAI chat has no {} in this form.", raw.op.as_str());
            return Err(Fault::new(Kind::UnsupportedFeature, text));
        }
    }
    tools::read(&mut fields, &mut ask)?;
    sampling(&mut fields, &mut ask)?;
    ask.output = output(&mut fields)?;
    ask.reasoning = reasoning::read_ask(&mut fields)?;
    ask.stream = fields.bool("stream")?.unwrap_or(raw.stream);
    stream_options(&mut fields, &mut ask)?;
    ask.verbosity = fields.string("verbosity")?;
    ask.modalities = fields.strings("modalities")?;
    ask.audio = fields.take("audio");
    ask.user = fields.string("user")?;
    ask.metadata = fields.object("metadata")?.map(Fields::rest);
    ask.service_tier = fields.string("service_tier")?;
    ask.store = fields.bool("store")?;
    ask.cache_key = fields.string("prompt_cache_key")?;
    ask.extra = fields.rest();
    // The successor of `user`; it stays in `extra` too, so that this form gets it back under its own name.
    if ask.user.is_none() {
        ask.user = ask.extra.get("safety_identifier").and_then(Value::as_str).map(str::to_owned);
    }
    Ok(ask)
}

fn sampling(fields: &mut Fields, ask: &mut Ask) -> Result<(), Fault> {
    // Local servers take -1 for "no bound".
    for key in ["max_tokens", "max_completion_tokens"] {
        if fields.peek(key).and_then(Value::as_i64).is_some_and(|bound| bound < 0) {
            fields.take(key);
        }
    }
    let old = fields.uint("max_tokens")?;
    ask.max_tokens = fields.uint("max_completion_tokens")?.or(old);
    ask.temperature = fields.number("temperature")?;
    ask.top_p = fields.number("top_p")?;
    ask.top_k = fields.number("top_k")?;
    ask.min_p = fields.number("min_p")?;
    ask.frequency_penalty = fields.number("frequency_penalty")?;
    ask.presence_penalty = fields.number("presence_penalty")?;
    ask.stop = fields.strings("stop")?;
    ask.seed = fields.number("seed")?;
    ask.n = fields.uint("n")?;
    // A number is the legacy form's; it stays among the unknown fields.
    if fields.peek("logprobs").is_none_or(Value::is_boolean) {
        ask.logprobs = fields.bool("logprobs")?;
    }
    ask.top_logprobs = fields.uint("top_logprobs")?;
    ask.logit_bias = fields.take("logit_bias");
    Ok(())
}

/// `include_usage` is ours to answer; other options stay.
fn stream_options(fields: &mut Fields, ask: &mut Ask) -> Result<(), Fault> {
    let Some(mut options) = fields.object("stream_options")? else { return Ok(()) };
    ask.include_usage = options.bool("include_usage")?.unwrap_or(false);
    let rest = options.rest();
    if !rest.is_empty() {
        fields.put("stream_options", Value::Object(rest));
    }
    Ok(())
}

fn output(fields: &mut Fields) -> Result<Option<OutputFormat>, Fault> {
    let Some(mut format) = fields.object("response_format")? else { return Ok(None) };
    let kind = format.needed_string("type")?;
    Ok(Some(match kind.as_str() {
        "text" => OutputFormat::Text,
        "json_object" => match format.take("schema") {
            // Together, Fireworks and llama.cpp put the schema here.
            Some(schema @ Value::Object(_)) => {
                OutputFormat::JsonSchema { name: "answer".into(), description: None, schema, strict: None }
            }
            _ => OutputFormat::JsonObject,
        },
        "json_schema" => {
            let mut inner = format.object("json_schema")?.ok_or_else(|| format.wrong("json_schema", "is missing"))?;
            OutputFormat::JsonSchema {
                name: inner.string("name")?.unwrap_or_else(|| "answer".into()),
                description: inner.string("description")?,
                schema: inner.take("schema").unwrap_or_else(|| Value::Object(Map::new())),
                strict: inner.bool("strict")?,
            }
        }
        // Grammars and the like of local servers.
        _ => {
            let mut whole = Map::new();
            whole.insert("type".into(), kind.into());
            whole.extend(format.rest());
            fields.put("response_format", Value::Object(whole));
            return Ok(None);
        }
    }))
}
