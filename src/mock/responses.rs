//! `/v1/responses` as OpenAI answers it: create, retrieve, delete, cancel, input items, input tokens.
//!
//! Reading a request is `ask`'s work, the stream is made from the finished object by `events`.

mod ask;
mod events;

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::answer::{Answer, Framing, Outcome, Turn};
use super::openai::{Usage, logprobs, tier};
use super::prompt::Prompt;
use super::refusal::Refusal;
use super::reply::{self, Finish, Reply};
use super::signature;
use super::state::Stored;

pub use ask::SCOPE;

/// `POST /responses`.
pub fn create(turn: &Turn<'_>) -> Outcome {
    let items = ask::items(turn)?;
    let prompt = ask::read(turn, &items.all)?;
    let replies = reply::say(&prompt, turn.knobs);
    let usage = Usage::of(&prompt.measure, &replies, turn);
    let reply = replies.first().ok_or_else(|| Refusal::openai("There is no choice.", None, None))?;
    let output = output(turn, reply);
    let object = object(turn, &prompt, reply, &output, &usage);
    let pieces = events::count(&output, turn.knobs.chunks);
    let id = object["id"].as_str().unwrap_or_default().to_owned();
    let background = turn.body["background"] == true;
    if turn.body["store"] != false {
        let mut all = items.all;
        all.extend(output);
        let knobs = turn.knobs;
        let delay = knobs.delay.unwrap_or_default() * u32::try_from(pieces).unwrap_or(u32::MAX);
        let takes = if background { knobs.ttft.unwrap_or_default() + delay } else { Duration::ZERO };
        turn.state.keep(Stored::new(id, object.clone(), all, items.earlier, Instant::now() + takes));
    }
    if turn.stream {
        return Ok(Answer::frames(Framing::Sse, events::frames(&object, turn)));
    }
    if background {
        return Ok(Answer::json(unfinished(&object, "queued")));
    }
    Ok(Answer::pieces(object, pieces))
}

/// `GET /responses/{id}`.
pub fn retrieve(turn: &Turn<'_>, id: &str) -> Outcome {
    let stored = find(turn, id)?;
    if turn.request.query("stream") == Some("true") {
        return Ok(Answer::frames(Framing::Sse, events::frames(&stored.object, turn)));
    }
    let ready = Instant::now() >= stored.ready;
    Ok(Answer::json(if ready { stored.object } else { unfinished(&stored.object, "in_progress") }))
}

/// `DELETE /responses/{id}`.
pub fn delete(turn: &Turn<'_>, id: &str) -> Outcome {
    if turn.state.forget(id) {
        Ok(Answer::json(json!({"id": id, "object": "response", "deleted": true})))
    } else {
        Err(not_found(id))
    }
}

/// `POST /responses/{id}/cancel`: only what runs in the background can be cancelled.
pub fn cancel(turn: &Turn<'_>, id: &str) -> Outcome {
    let mut stored = find(turn, id)?;
    if stored.object["background"] != true {
        return Err(Refusal::openai("Cannot cancel a synchronous response.", None, None));
    }
    if Instant::now() < stored.ready {
        stored.object = unfinished(&stored.object, "cancelled");
        stored.ready = Instant::now();
        turn.state.forget(id);
        turn.state.keep(stored.clone());
    }
    Ok(Answer::json(stored.object))
}

/// `GET /responses/{id}/input_items`, newest first.
pub fn input_items(turn: &Turn<'_>, id: &str) -> Outcome {
    let stored = find(turn, id)?;
    let outputs = stored.object["output"].as_array().map_or(0, Vec::len);
    let end = stored.items.len().saturating_sub(outputs);
    let mut data: Vec<Value> = stored.items[stored.earlier.min(end)..end].to_vec();
    if turn.request.query("order") != Some("asc") {
        data.reverse();
    }
    let id_of = |item: Option<&Value>| item.map_or(Value::Null, |item| item["id"].clone());
    let (first, last) = (id_of(data.first()), id_of(data.last()));
    Ok(Answer::json(json!({"object": "list", "data": data, "first_id": first, "last_id": last, "has_more": false})))
}

/// `POST /responses/input_tokens`.
pub fn input_tokens(turn: &Turn<'_>) -> Outcome {
    let items = ask::items(turn)?;
    let prompt = ask::read(turn, &items.all)?;
    Ok(Answer::json(json!({"object": "response.input_tokens", "input_tokens": prompt.measure.tokens()})))
}

fn find(turn: &Turn<'_>, id: &str) -> Result<Stored, Refusal> {
    turn.state.response(id).ok_or_else(|| not_found(id))
}

fn not_found(id: &str) -> Refusal {
    Refusal::new(404, "invalid_request_error", format!("Response with id '{id}' not found."))
}

/// The object before it is done.
fn unfinished(object: &Value, status: &str) -> Value {
    let mut object = object.clone();
    object["status"] = json!(status);
    object["output"] = json!([]);
    object["usage"] = Value::Null;
    object["completed_at"] = Value::Null;
    object["incomplete_details"] = Value::Null;
    object
}

/// The output items: reasoning, message, calls.
fn output(turn: &Turn<'_>, reply: &Reply) -> Vec<Value> {
    let body = turn.body;
    let includes = |what: &str| body["include"].as_array().is_some_and(|list| list.iter().any(|item| item == what));
    let state = turn.state;
    let mut items = Vec::new();
    if !reply.reasoning.is_empty() {
        let asked = &body["reasoning"];
        let shown = !asked["summary"].is_null() || !asked["generate_summary"].is_null();
        let summary = if shown { json!([{"type": "summary_text", "text": reply.reasoning}]) } else { json!([]) };
        let mut item = json!({"id": state.id("rs_", 48), "type": "reasoning", "summary": summary});
        if includes("reasoning.encrypted_content") {
            item["encrypted_content"] = json!(signature::make(SCOPE, &reply.reasoning));
        }
        items.push(item);
    }
    let status = if reply.finish == Finish::Length { "incomplete" } else { "completed" };
    if !reply.text.is_empty() || reply.calls.is_empty() {
        let probabilities = if includes("message.output_text.logprobs") {
            logprobs(&reply.text, body["top_logprobs"].as_u64().unwrap_or(0))["content"].clone()
        } else {
            json!([])
        };
        items.push(json!({
            "id": state.id("msg_", 48), "type": "message", "status": status,
            "content": [{"type": "output_text", "annotations": [], "logprobs": probabilities, "text": reply.text}],
            "role": "assistant",
        }));
    }
    for call in &reply.calls {
        let (prefix, kind, input) = match call.custom {
            true => ("ctc_", "custom_tool_call", "input"),
            false => ("fc_", "function_call", "arguments"),
        };
        items.push(json!({
            "id": state.id(prefix, 48), "type": kind, "status": "completed", input: call.arguments,
            "call_id": state.id("call_", 24), "name": call.name,
        }));
    }
    items
}

/// The response object, every field that the real one has.
fn object(turn: &Turn<'_>, prompt: &Prompt, reply: &Reply, output: &[Value], usage: &Usage) -> Value {
    let body = turn.body;
    let or = |field: &str, default: Value| if body[field].is_null() { default } else { body[field].clone() };
    let incomplete = reply.finish == Finish::Length;
    let reasons = prompt.thinking.is_some() || turn.knobs.reasoning == Some(true);
    let effort = if reasons { or_medium(&body["reasoning"]["effort"]) } else { Value::Null };
    let mut text = or("text", json!({}));
    for (field, default) in [("format", json!({"type": "text"})), ("verbosity", json!("medium"))] {
        if text[field].is_null() {
            text[field] = default;
        }
    }
    let tools: Vec<Value> = body["tools"].as_array().into_iter().flatten().map(normal_tool).collect();
    json!({
        "id": turn.state.id("resp_", 48),
        "object": "response",
        "created_at": turn.now,
        "status": if incomplete { "incomplete" } else { "completed" },
        "background": body["background"] == true,
        "billing": {"payer": "developer"},
        "completed_at": turn.now,
        "error": null,
        "frequency_penalty": 0.0,
        "incomplete_details": if incomplete { json!({"reason": "max_output_tokens"}) } else { Value::Null },
        "instructions": body["instructions"],
        "max_output_tokens": body["max_output_tokens"],
        "max_tool_calls": body["max_tool_calls"],
        "model": turn.model,
        "output": output,
        "parallel_tool_calls": or("parallel_tool_calls", json!(true)),
        "presence_penalty": 0.0,
        "previous_response_id": body["previous_response_id"],
        "prompt_cache_key": body["prompt_cache_key"],
        "prompt_cache_retention": body["prompt_cache_retention"],
        "reasoning": {"effort": effort, "summary": body["reasoning"]["summary"]},
        "safety_identifier": body["safety_identifier"],
        "service_tier": tier(body),
        "store": or("store", json!(true)),
        "temperature": or("temperature", json!(1.0)),
        "text": text,
        "tool_choice": or("tool_choice", json!("auto")),
        "tools": tools,
        "top_logprobs": or("top_logprobs", json!(0)),
        "top_p": or("top_p", json!(1.0)),
        "truncation": or("truncation", json!("disabled")),
        "usage": usage.responses(),
        "user": body["user"],
        "metadata": or("metadata", json!({})),
    })
}

fn or_medium(effort: &Value) -> Value {
    if effort.is_null() { json!("medium") } else { effort.clone() }
}

/// A tool as the answer repeats it, defaults filled in.
fn normal_tool(tool: &Value) -> Value {
    let mut tool = tool.clone();
    if tool["type"] == "function" {
        for (field, default) in [("description", Value::Null), ("strict", json!(true))] {
            if tool.get(field).is_none() {
                tool[field] = default;
            }
        }
    }
    tool
}
