//! `GET /v1/models` and `/v1/models/{id}`: what this caller may ask for, in its own dialect's shape.

use std::ops::Range;

use http::StatusCode;
use serde_json::{Value, json};

use super::Matched;
use crate::cost::ModelCard;
use crate::exchange::Exchange;
use crate::fault::{Fault, Kind};
use crate::generation::Listed;
use crate::pipeline::Cx;
use crate::reply::Reply;
use crate::route::policy::MAX_MODEL_BYTES;
use crate::state::health::Measure;

/// The most models on one page, as Anthropic and Gemini have it.
const MAX_PAGE: usize = 1000;

/// Every model that this caller may use, or the page of them that it asks for.
///
/// # Errors
/// [`Kind::InvalidRequest`] for a page that cannot be.
pub fn list(cx: &Cx, x: &Exchange, matched: &Matched) -> Result<Reply, Fault> {
    let listed = cx.generation.listed();
    let mine = listed.iter().filter(|model| allowed(x, &model.id));
    let shape = Shape::of(matched);
    let mine: Vec<&Listed> = mine.collect();
    let (page, more) = shape.page(matched.query.as_deref().unwrap_or_default(), &mine)?;
    let next = mine.get(page.end).filter(|_| more).map(|model| model.id.as_str());
    let rows: Vec<Value> = mine[page].iter().map(|model| shape.row(model, cx)).collect();
    Ok(Reply::json(StatusCode::OK, shape.list(rows, more, next).to_string()))
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
    if id.len() > MAX_MODEL_BYTES || !allowed(x, id) {
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

    /// Which of the models are asked for: all of them, but where the query says how many or from where on, in the words
    /// of the shape's own API. With it, whether more lie beyond in the direction that was asked for.
    fn page(&self, query: &str, models: &[&Listed]) -> Result<(Range<usize>, bool), Fault> {
        let asked = |name| super::query_value(query, name);
        let size = match self {
            Shape::OpenAi => return Ok((0..models.len(), false)),
            Shape::Anthropic => asked("limit").map(|text| ("limit", text)),
            Shape::Gemini => asked("pageSize").map(|text| ("pageSize", text)),
        };
        let size = match size {
            None => models.len(),
            Some((name, text)) => match text.parse() {
                Ok(size @ 1..=MAX_PAGE) => size,
                // Gemini takes none and too many for what it does by itself.
                Ok(_) if matches!(self, Shape::Gemini) => MAX_PAGE,
                _ => return Err(wrong(name, &format!("a number from 1 to {MAX_PAGE}"))),
            },
        };
        let place = |id: &str| models.iter().position(|model| model.id == id);
        let known = |name: &'static str, at: Option<usize>| at.ok_or_else(|| wrong(name, "the id of a listed model"));
        let from = match self {
            Shape::OpenAi => 0,
            Shape::Gemini => match asked("pageToken").filter(|token| !token.is_empty()) {
                Some(token) => known("pageToken", place(&token))?,
                None => 0,
            },
            Shape::Anthropic => match (asked("after_id"), asked("before_id")) {
                (Some(after), _) => known("after_id", place(&after))? + 1,
                (None, Some(before)) => {
                    let end = known("before_id", place(&before))?;
                    let from = end.saturating_sub(size);
                    return Ok((from..end, from > 0));
                }
                (None, None) => 0,
            },
        };
        let end = from.saturating_add(size).min(models.len());
        Ok((from..end, end < models.len()))
    }

    /// A page of rows; `next` is the first model behind it.
    fn list(&self, rows: Vec<Value>, more: bool, next: Option<&str>) -> Value {
        let id = |row: Option<&Value>| row.map_or(Value::Null, |row| row["id"].clone());
        match self {
            Shape::OpenAi => json!({"object": "list", "data": rows}),
            Shape::Anthropic => json!({
                "first_id": id(rows.first()), "last_id": id(rows.last()), "has_more": more, "data": rows,
            }),
            Shape::Gemini => without_nulls(json!({"models": rows, "nextPageToken": next})),
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
            // Its SDKs take null for a value.
            Shape::Gemini => without_nulls(json!({
                "name": format!("models/{}", model.id),
                "displayName": name,
                "description": model.description,
                "inputTokenLimit": card.and_then(|card| card.context),
                "outputTokenLimit": card.and_then(|card| card.max_output),
                "supportedGenerationMethods": ["generateContent", "streamGenerateContent", "countTokens"],
            })),
        }
    }
}

fn wrong(name: &'static str, wanted: &str) -> Fault {
    Fault::new(Kind::InvalidRequest, format!("`{name}` must be {wanted}.")).param(name)
}

fn without_nulls(mut row: Value) -> Value {
    if let Some(fields) = row.as_object_mut() {
        fields.retain(|_, value| !value.is_null());
    }
    row
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
