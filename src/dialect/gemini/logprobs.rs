//! `logprobsResult` and OpenAI's `logprobs`, entry by entry. Never touches text.

use serde_json::{Value, json};

use super::field::{self, Object};

/// `content` entries of OpenAI's logprobs.
pub fn read(result: &Value) -> Vec<Value> {
    let list = |name: &str| result.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let tops = list("topCandidates");
    list("chosenCandidates")
        .iter()
        .enumerate()
        .map(|(at, chosen)| {
            let alternatives = tops.get(at).and_then(|top| top.get("candidates")).and_then(Value::as_array);
            let mut entry = token(chosen);
            entry.insert(
                "top_logprobs".into(),
                alternatives.into_iter().flatten().map(|other| Value::Object(token(other))).collect(),
            );
            Value::Object(entry)
        })
        .collect()
}

fn token(candidate: &Value) -> Object {
    let text = candidate.get("token").and_then(Value::as_str).unwrap_or_default();
    let mut entry = field::object("token", text);
    // A certain token has logarithm zero, which Google's JSON leaves out.
    entry.insert("logprob".into(), candidate.get("logProbability").cloned().unwrap_or_else(|| 0.into()));
    entry.insert("bytes".into(), text.as_bytes().into());
    entry
}

/// None when there is nothing to tell.
pub fn write(entries: &[Value]) -> Option<Value> {
    let of = |entry: &Value| {
        let token = entry.get("token").and_then(Value::as_str).unwrap_or_default();
        json!({ "token": token, "logProbability": entry.get("logprob").cloned().unwrap_or_else(|| 0.into()) })
    };
    let chosen: Vec<Value> = entries.iter().map(of).collect();
    let tops = entries.iter().map(|entry| {
        let alternatives = entry.get("top_logprobs").and_then(Value::as_array).into_iter().flatten();
        json!({ "candidates": alternatives.map(of).collect::<Vec<_>>() })
    });
    let tops: Vec<Value> = tops.collect();
    (!chosen.is_empty()).then(|| json!({ "chosenCandidates": chosen, "topCandidates": tops }))
}
