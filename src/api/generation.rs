//! `GET /v1/generation?id=`: what became of an exchange, from the bounded memory of this process.

use http::StatusCode;
use serde_json::{Value, json};

use super::Matched;
use crate::exchange::Exchange;
use crate::fault::{Fault, Kind};
use crate::pipeline::Cx;
use crate::reply::Reply;

/// The record of one exchange, for the caller that made it.
///
/// # Errors
/// [`Kind::InvalidRequest`] without an id, [`Kind::ResponseNotFound`] for ids unknown or of other callers.
pub fn get(cx: &Cx, x: &Exchange, matched: &Matched) -> Result<Reply, Fault> {
    let id = matched.query.as_deref().and_then(|query| query.split('&').find_map(|pair| pair.strip_prefix("id=")));
    let Some(id) = id.filter(|id| !id.is_empty()) else {
        return Err(Fault::new(Kind::InvalidRequest, "Name the exchange: ?id=gen-….").param("id"));
    };
    let body = json!({ "data": shape(&find(cx, x, id)?) });
    Ok(Reply::json(StatusCode::OK, body.to_string()))
}

/// The record of the caller's own exchange, by the gateway's id or by the one that the answer itself has.
///
/// # Errors
/// [`Kind::ResponseNotFound`], also for exchanges of other callers.
pub(super) fn find(cx: &Cx, x: &Exchange, id: &str) -> Result<Value, Fault> {
    let key = x.principal.as_ref().map(|principal| principal.key.as_str());
    let records = &cx.state.records;
    let found = records.find(id).or_else(|| records.find_upstream(id, key));
    found.filter(|record| record["key"].as_str() == key).ok_or_else(|| {
        let text = format!("No exchange `{id}` is remembered here; the newest {} are.", records.capacity());
        Fault::new(Kind::ResponseNotFound, text).param("id")
    })
}

/// The log record under the names that OpenRouter's clients know.
fn shape(record: &Value) -> Value {
    let usage = &record["usage"];
    json!({
        "id": record["id"],
        "request_id": record["request_id"],
        "upstream_id": record["upstream_id"],
        "created_at": record["time"],
        "model": record["upstream_model"],
        "requested_model": record["model"],
        "provider_name": record["provider"],
        "streamed": record["stream"],
        "status": record["status"],
        "error": record["error"],
        "cancelled": record["error"]["code"] == "client_gone",
        "finish_reason": record["finish"],
        "latency": record["ttft_ms"],
        "generation_time": record["duration_ms"],
        "tokens_prompt": usage["input"],
        "tokens_completion": usage["output"],
        "native_tokens_cached": usage["cache_read"],
        "native_tokens_reasoning": usage["reasoning"],
        "usage_estimated": record["usage_estimated"],
        "total_cost": record["cost_usd"],
        "attempts": record["attempts"],
        "feedback": record["feedback"],
    })
}
