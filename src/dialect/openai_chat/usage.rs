//! Token counts of OpenAI chat and the spellings of its many servers.
//!
//! Parts that were not stated stay unstated; totals include their parts, as OpenAI counts.

use serde_json::{Map, Value};

use crate::chat::Usage;

/// Reads a `usage` object; None when it is null or empty of counts.
pub(super) fn read(value: &Value) -> Option<Usage> {
    let usage = value.as_object()?;
    let count = |keys: &[&str]| keys.iter().find_map(|key| number(usage.get(*key)?));
    let part = |object: &str, keys: &[&str]| {
        let details = usage.get(object)?;
        keys.iter().find_map(|key| number(details.get(*key)?))
    };
    let input = count(&["prompt_tokens", "input_tokens"]);
    let mut output = count(&["completion_tokens", "output_tokens"]);
    let stated_total = count(&["total_tokens"]);
    if input.is_none() && output.is_none() && stated_total.is_none() {
        return None;
    }
    let reasoning = part("completion_tokens_details", &["reasoning_tokens"])
        .or_else(|| part("output_tokens_details", &["reasoning_tokens"]))
        .or_else(|| count(&["reasoning_tokens"]));
    // xAI counts reasoning beside the completion, which shows in the total.
    if let (Some(input), Some(said), Some(reasoning), Some(total)) = (input, output, reasoning, stated_total)
        && reasoning > 0
        && total == input + said + reasoning
    {
        output = Some(said + reasoning);
    }
    const PROMPT: &str = "prompt_tokens_details";
    const COMPLETION: &str = "completion_tokens_details";
    Some(Usage {
        input: input.unwrap_or(0),
        output: output.unwrap_or(0),
        // DeepSeek and Moonshot put theirs on the top level.
        cache_read: part(PROMPT, &["cached_tokens"])
            .or_else(|| part("input_tokens_details", &["cached_tokens"]))
            .or_else(|| count(&["prompt_cache_hit_tokens", "cached_tokens"])),
        cache_write: part(PROMPT, &["cache_write_tokens", "cache_creation_tokens"]),
        cache_write_1h: None,
        reasoning,
        input_audio: part(PROMPT, &["audio_tokens"]),
        output_audio: part(COMPLETION, &["audio_tokens"]),
        accepted_prediction: part(COMPLETION, &["accepted_prediction_tokens"]),
        rejected_prediction: part(COMPLETION, &["rejected_prediction_tokens"]),
        stated_total,
    })
}

/// The usage of a stream chunk, wherever its server puts it.
pub(super) fn of_chunk(chunk: &Map<String, Value>) -> Option<Usage> {
    if let Some(usage) = chunk.get("usage").and_then(read) {
        return Some(usage);
    }
    // Groq before it knew `include_usage`; Moonshot.
    let groq = || chunk.get("x_groq")?.get("usage");
    let choice = || chunk.get("choices")?.get(0)?.get("usage");
    groq().or_else(choice).and_then(read)
}

fn number(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_f64().filter(|float| *float >= 0.0).map(|float| float as u64))
}

/// Writes what is known.
pub(super) fn write(usage: &Usage) -> Value {
    let mut body = Map::new();
    body.insert("prompt_tokens".into(), usage.input.into());
    body.insert("completion_tokens".into(), usage.output.into());
    body.insert("total_tokens".into(), usage.total().into());
    details(
        &mut body,
        "prompt_tokens_details",
        &[
            ("cached_tokens", usage.cache_read),
            ("cache_write_tokens", usage.cache_write),
            ("audio_tokens", usage.input_audio),
        ],
    );
    details(
        &mut body,
        "completion_tokens_details",
        &[
            ("reasoning_tokens", usage.reasoning),
            ("audio_tokens", usage.output_audio),
            ("accepted_prediction_tokens", usage.accepted_prediction),
            ("rejected_prediction_tokens", usage.rejected_prediction),
        ],
    );
    Value::Object(body)
}

fn details(body: &mut Map<String, Value>, key: &str, parts: &[(&str, Option<u64>)]) {
    let known: Map<String, Value> =
        parts.iter().filter_map(|(key, count)| Some(((*key).to_owned(), Value::from((*count)?)))).collect();
    if !known.is_empty() {
        body.insert(key.to_owned(), Value::Object(known));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_detail_is_read_and_written_again() {
        let stated = json!({
            "prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150,
            "prompt_tokens_details": { "cached_tokens": 64, "cache_write_tokens": 10, "audio_tokens": 3 },
            "completion_tokens_details": { "reasoning_tokens": 20, "audio_tokens": 4,
                "accepted_prediction_tokens": 5, "rejected_prediction_tokens": 6 }
        });
        assert_eq!(write(&read(&stated).expect("usage")), stated);
    }

    #[test]
    fn spellings_of_other_servers_are_known() {
        let deepseek = json!({"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12,
                              "prompt_cache_hit_tokens": 8, "prompt_cache_miss_tokens": 2});
        assert_eq!(read(&deepseek).and_then(|usage| usage.cache_read), Some(8));
        let xai = json!({"prompt_tokens": 32, "completion_tokens": 9, "total_tokens": 135,
                         "completion_tokens_details": {"reasoning_tokens": 94}});
        assert_eq!(read(&xai).map(|usage| (usage.output, usage.total())), Some((103, 135)));
    }

    #[test]
    fn what_was_not_stated_is_not_zero() {
        let usage = read(&json!({"prompt_tokens": 1, "completion_tokens": 2, "prompt_tokens_details": null}));
        let usage = usage.expect("usage");
        assert_eq!((usage.cache_read, usage.reasoning, usage.total()), (None, None, 3));
        assert_eq!(write(&usage), json!({"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}));
        assert_eq!(read(&Value::Null), None);
        assert_eq!(read(&json!({})), None);
    }
}
