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
/// [`Kind::InvalidRequest`] without an id, [`Kind::UpstreamNotFound`] for ids unknown or of other callers.
pub fn get(cx: &Cx, x: &Exchange, matched: &Matched) -> Result<Reply, Fault> {
    let id = matched.query.as_deref().and_then(|query| query.split('&').find_map(|pair| pair.strip_prefix("id=")));
    let Some(id) = id.filter(|id| !id.is_empty()) else {
        return Err(Fault::new(Kind::InvalidRequest, "Name the exchange: ?id=gen-….").param("id"));
    };
    let key = x.principal.as_ref().map(|principal| principal.key.as_str());
    let record = cx.state.records.find(id).filter(|record| record["key"].as_str() == key);
    let Some(record) = record else {
        let text = format!("No exchange `{id}` is remembered here; the newest {} are.", cx.state.records.capacity());
        return Err(Fault::new(Kind::ResponseNotFound, text).param("id"));
    };
    let body = json!({ "data": shape(&record) });
    Ok(Reply::json(StatusCode::OK, body.to_string()))
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
    })
}
