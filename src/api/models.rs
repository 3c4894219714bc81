//! `GET /v1/models` and `/v1/models/{id}`: what this caller may ask for, in its own dialect's shape.

use http::StatusCode;
use serde_json::{Value, json};

use super::Matched;
use crate::cost::ModelCard;
use crate::exchange::Exchange;
use crate::fault::{Fault, Kind};
use crate::generation::Listed;
use crate::pipeline::Cx;
use crate::reply::Reply;
use crate::state::health::Measure;

/// Every model that this caller may use.
///
/// # Errors
/// None; the signature is the table's.
pub fn list(cx: &Cx, x: &Exchange, matched: &Matched) -> Result<Reply, Fault> {
    let listed = cx.generation.listed();
    let mine = listed.iter().filter(|model| allowed(x, &model.id));
    let shape = Shape::of(matched);
    let rows: Vec<Value> = mine.map(|model| shape.row(model, cx)).collect();
    Ok(Reply::json(StatusCode::OK, shape.list(rows).to_string()))
}

/// One model, or with `/endpoints` behind it the targets that serve it.
///
/// # Errors
/// [`Kind::ModelNotFound`], also for models that this caller may not use.
pub fn one(cx: &Cx, x: &Exchange, matched: &Matched) -> Result<Reply, Fault> {
    let param = matched.param.as_deref().unwrap_or_default();
    let (id, endpoints) = match param.strip_suffix("/endpoints") {
        Some(id) => (id, true),
        None => (param, false),
    };
    let unknown = || Fault::new(Kind::ModelNotFound, format!("No model is called `{id}`.")).param("model");
    if !allowed(x, id) {
        return Err(unknown());
    }
    let targets = cx.generation.targets(id)?;
    if endpoints {
        let targets: Vec<Value> = targets
            .iter()
            .map(|target| {
                let measure = target.record(&cx.state.health).measure(cx.state.now());
                json!({
                    "provider_name": target.provider.name,
                    "standing": measure.standing.as_str(),
                    "in_flight": measure.in_flight,
                    "error_rate": measure.error_rate,
                    "first_content_ms": measure.ttft.described(),
                    "duration_ms": measure.duration.described(),
                    "tokens_per_second": measure.throughput.described(),
                    "tool_validity": measure.tool_validity,
                    "usage_left": measure.usage_left,
                    "model": target.model,
                    "dialects": target.provider.faces.iter().map(|face| face.form()).collect::<Vec<_>>(),
                    "pricing": target.card.as_deref().map_or(Value::Null, pricing),
                    "context_length": target.card.as_ref().and_then(|card| card.context),
                    "health": health(&measure),
                })
            })
            .collect();
        let body = json!({"data": {"id": id, "endpoints": targets}});
        return Ok(Reply::json(StatusCode::OK, body.to_string()));
    }
    let card = targets.first().and_then(|target| target.card.clone());
    let provider = targets.first().map_or_else(String::new, |target| target.provider.name.clone());
    let description = cx.generation.descriptions.get(id).cloned();
    let model = Listed { id: id.to_owned(), provider, description, card };
    Ok(Reply::json(StatusCode::OK, Shape::of(matched).row(&model, cx).to_string()))
}

fn allowed(x: &Exchange, model: &str) -> bool {
    x.principal.as_ref().is_some_and(|principal| principal.may_use(model).is_ok())
}

/// The shape a caller's SDK reads lists in.
enum Shape {
    OpenAi,
    Anthropic,
    Gemini,
}

impl Shape {
    fn of(matched: &Matched) -> Shape {
        match matched.dialect.name() {
            "anthropic" => Shape::Anthropic,
            "gemini" => Shape::Gemini,
            _ => Shape::OpenAi,
        }
    }

    fn list(&self, rows: Vec<Value>) -> Value {
        let id = |row: Option<&Value>| row.map_or(Value::Null, |row| row["id"].clone());
        match self {
            Shape::OpenAi => json!({"object": "list", "data": rows}),
            Shape::Anthropic => json!({
                "first_id": id(rows.first()), "last_id": id(rows.last()), "has_more": false, "data": rows,
            }),
            Shape::Gemini => json!({"models": rows}),
        }
    }

    fn row(&self, model: &Listed, cx: &Cx) -> Value {
        let card = model.card.as_deref();
        let name = card.and_then(|card| card.name.as_deref()).unwrap_or(&model.id);
        match self {
            Shape::OpenAi => json!({
                "id": model.id,
                "object": "model",
                "created": cx.generation.loaded_unix(),
                "owned_by": model.provider,
                "name": name,
                "description": model.description,
                "context_length": card.and_then(|card| card.context),
                "max_output_tokens": card.and_then(|card| card.max_output),
                "pricing": card.map_or(Value::Null, pricing),
                "architecture": card.map_or(Value::Null, modalities),
                "capabilities": card.map_or(Value::Null, capabilities),
            }),
            Shape::Anthropic => json!({
                "type": "model",
                "id": model.id,
                "display_name": name,
                "created_at": humantime::format_rfc3339_seconds(cx.generation.loaded).to_string(),
            }),
            Shape::Gemini => json!({
                "name": format!("models/{}", model.id),
                "displayName": name,
                "description": model.description,
                "inputTokenLimit": card.and_then(|card| card.context),
                "outputTokenLimit": card.and_then(|card| card.max_output),
                "supportedGenerationMethods": ["generateContent", "streamGenerateContent", "countTokens"],
            }),
        }
    }
}

/// How a target is doing now. What was not measured yet is null.
fn health(measure: &Measure) -> Value {
    json!({
        "standing": measure.standing.as_str(),
        "in_flight": measure.in_flight,
        "error_rate": measure.error_rate,
        "attempts": measure.samples,
        "ttft_ms": measure.ttft.p50,
        "duration_ms": measure.duration.p50,
        "tokens_per_second": measure.throughput.p50,
    })
}

/// USD per token as decimal strings, as OpenRouter lists them.
fn pricing(card: &ModelCard) -> Value {
    let Some(price) = &card.price else { return Value::Null };
    let per_token = |nano_per_million: Option<u64>| nano_per_million.map(per_token_text);
    json!({
        "prompt": per_token(Some(price.base.input)),
        "completion": per_token(Some(price.base.output)),
        "input_cache_read": per_token(price.base.cache_read),
        "input_cache_write": per_token(price.base.cache_write),
        "internal_reasoning": per_token(price.base.reasoning),
    })
}

/// USD for one token, out of nano-dollars for a million: fifteen decimals, exact.
fn per_token_text(nano_per_million: u64) -> String {
    const FEMTO: u64 = 1_000_000_000_000_000;
    let digits = format!("{}.{:015}", nano_per_million / FEMTO, nano_per_million % FEMTO);
    digits.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn modalities(card: &ModelCard) -> Value {
    let words = |list: &[crate::cost::Modality]| list.iter().map(|modality| modality.as_str()).collect::<Vec<_>>();
    json!({"input_modalities": words(&card.input), "output_modalities": words(&card.output)})
}

fn capabilities(card: &ModelCard) -> Value {
    json!({"reasoning": card.reasoning, "tool_call": card.tool_call, "structured_output": card.structured_output})
}
