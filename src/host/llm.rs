//! Asking models from inside a policy: judges, guards, semantic routing.
//!
//! Goes through the same pipeline as every caller's ask, as the exchange's own caller, so that limits, budgets and the
//! log hold. Bounded in depth: a policy that asks a model runs for that ask too.

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::{Cx, HostError};

/// How deep asks of policies may stand in each other.
pub const MAX_DEPTH: u8 = 2;

/// An ask on its way into the pipeline, in the OpenAI form.
#[derive(Debug, Clone)]
pub struct Ask {
    pub path: &'static str,
    pub body: Bytes,
}

/// What the pipeline answered.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub body: Bytes,
}

/// Asks a model for a turn: `{model, messages, …}` in the OpenAI chat form, `prompt` being short for one user turn, and
/// `timeout_ms` the longest time to wait for it.
///
/// # Errors
/// The model is not granted, the depth is reached, or the ask failed.
pub async fn ask(cx: &Cx, ask: Value) -> Result<Value, HostError> {
    let Value::Object(mut ask) = ask else { return Err(HostError::new("llm.ask takes a table")) };
    if let Some(prompt) = ask.shift_remove("prompt") {
        if ask.contains_key("messages") {
            return Err(HostError::new("llm.ask: give `prompt` or `messages`, not both"));
        }
        ask.insert("messages".into(), json!([{"role": "user", "content": prompt}]));
    }
    let model = ask.get("model").and_then(Value::as_str).unwrap_or_default().to_owned();
    ask.insert("stream".into(), false.into());
    let timeout = ask.shift_remove("timeout_ms").map(|ms| {
        let span = ms.as_f64().and_then(|ms| Duration::try_from_secs_f64(ms / 1000.0).ok());
        span.ok_or_else(|| HostError::new("llm.ask: timeout_ms is a number of milliseconds"))
    });
    let asked = send(cx, &model, "/v1/chat/completions", Value::Object(ask));
    let answer = match timeout.transpose()? {
        None => asked.await?,
        // Dropped, the ask ends as one whose client has left.
        Some(span) => tokio::time::timeout(span, asked)
            .await
            .map_err(|_| HostError(format!("`{model}` did not answer within {span:?}")))??,
    };
    let message = &answer["choices"][0]["message"];
    let mut result = Map::new();
    let mut put = |name: &str, value: &Value| {
        if !value.is_null() {
            result.insert(name.into(), value.clone());
        }
    };
    let text = message["content"].as_str().unwrap_or_default();
    put("text", &text.into());
    put("model", &answer["model"]);
    put("finish", &answer["choices"][0]["finish_reason"]);
    put("tool_calls", &message["tool_calls"]);
    put("input_tokens", &answer["usage"]["prompt_tokens"]);
    put("output_tokens", &answer["usage"]["completion_tokens"]);
    Ok(Value::Object(result))
}

/// Embeddings of texts.
///
/// # Errors
/// As [`ask`].
pub async fn embed(cx: &Cx, model: &str, texts: Vec<String>) -> Result<Vec<Vec<f64>>, HostError> {
    let wanted = texts.len();
    let body = json!({"model": model, "input": texts});
    let answer = send(cx, model, "/v1/embeddings", body).await?;
    let data = answer["data"].as_array().cloned().unwrap_or_default();
    let vectors: Vec<Vec<f64>> = data
        .iter()
        .map(|entry| entry["embedding"].as_array().into_iter().flatten().filter_map(Value::as_f64).collect())
        .collect();
    if vectors.len() != wanted {
        return Err(HostError(format!("`{model}` gave {} embeddings for {wanted} texts", vectors.len())));
    }
    Ok(vectors)
}

/// Whether this guest may ask the model.
///
/// # Errors
/// It may not.
pub fn granted(cx: &Cx, model: &str) -> Result<(), HostError> {
    if crate::route::allows(&cx.guest.grants.models, model) {
        return Ok(());
    }
    Err(HostError(format!(
        "the model `{model}` is not granted; the operator writes it under `grants.models` of the hook `{}`",
        cx.guest.name
    )))
}

async fn send(cx: &Cx, model: &str, path: &'static str, body: Value) -> Result<Value, HostError> {
    granted(cx, model)?;
    if cx.visit.depth >= MAX_DEPTH {
        return Err(HostError(format!(
            "asks of policies stand {MAX_DEPTH} deep in each other; this one would be deeper"
        )));
    }
    let body = serde_json::to_vec(&body).map_err(|error| HostError(error.to_string()))?;
    let answer = cx.lease.wait(cx.world()?.ask(cx.visit.clone(), Ask { path, body: body.into() })).await??;
    let value: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    if answer.status >= 400 {
        let message = value["error"]["message"].as_str().unwrap_or("it gave no reason");
        return Err(HostError(format!("`{model}` failed with {}: {message}", answer.status)));
    }
    Ok(value)
}
