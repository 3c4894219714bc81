//! Token counts of OpenAI chat and the spellings of its many servers.
//!
//! Parts that were not stated stay unstated; totals include their parts, as OpenAI counts.

use serde::Serialize;
use serde_json::{Map, Value};

use crate::chat::Usage;
use crate::json::scan::{Malformed, Scan};

/// Reads a `usage` object of an answer that is written; None when it is null or empty of counts that say what was used.
pub(super) fn read(value: &Value) -> Option<Usage> {
    counts(value)?.parted(true)
}

/// The same of embeddings, whose total is all input: Voyage states nothing else.
pub(super) fn read_input(value: &Value) -> Option<Usage> {
    counts(value)?.parted(false)
}

fn counts(value: &Value) -> Option<Usage> {
    let mut stated = Stated::default();
    for (key, value) in value.as_object()? {
        match value {
            Value::Object(details) => {
                details.iter().for_each(|(part, value)| stated.note(key.as_bytes(), part.as_bytes(), number(value)));
            }
            value => stated.note(b"", key.as_bytes(), number(value)),
        }
    }
    stated.usage()
}

/// The counts off a text: relayed answers are read without building values. A total may stand alone.
pub(super) fn scan(scan: &mut Scan<'_>, text: &[u8]) -> Result<Option<Usage>, Malformed> {
    let mut stated = Stated::default();
    scan.object(|scan, key| {
        let object = &text[key];
        if scan.at_object() {
            return scan.object(|scan, part| {
                let count = scan.count()?;
                stated.note(object, &text[part], count);
                Ok(())
            });
        }
        let count = scan.count()?;
        stated.note(b"", object, count);
        Ok(())
    })?;
    Ok(stated.usage())
}

/// The counts that some server states, under its own name for them.
#[derive(Default)]
struct Stated {
    prompt: Option<u64>,
    input: Option<u64>,
    completion: Option<u64>,
    output: Option<u64>,
    total: Option<u64>,
    reasoning: Option<u64>,
    completion_reasoning: Option<u64>,
    output_reasoning: Option<u64>,
    prompt_cached: Option<u64>,
    input_cached: Option<u64>,
    cache_hit: Option<u64>,
    cached: Option<u64>,
    cache_write: Option<u64>,
    cache_creation: Option<u64>,
    prompt_audio: Option<u64>,
    completion_audio: Option<u64>,
    accepted: Option<u64>,
    rejected: Option<u64>,
}

impl Stated {
    /// Takes a count down, if it is one that anybody uses. `object` is empty for those on the top level.
    fn note(&mut self, object: &[u8], key: &[u8], count: Option<u64>) {
        let place = match (object, key) {
            (b"", b"prompt_tokens") => &mut self.prompt,
            (b"", b"input_tokens") => &mut self.input,
            (b"", b"completion_tokens") => &mut self.completion,
            (b"", b"output_tokens") => &mut self.output,
            (b"", b"total_tokens") => &mut self.total,
            (b"", b"reasoning_tokens") => &mut self.reasoning,
            // DeepSeek and Moonshot put theirs on the top level; Databricks and others that host Claude in Anthropic's words.
            (b"", b"prompt_cache_hit_tokens" | b"cache_read_input_tokens") => &mut self.cache_hit,
            (b"", b"cache_creation_input_tokens") => &mut self.cache_creation,
            (b"", b"cached_tokens") => &mut self.cached,
            (b"prompt_tokens_details", b"cached_tokens") => &mut self.prompt_cached,
            (b"prompt_tokens_details", b"cache_write_tokens") => &mut self.cache_write,
            (b"prompt_tokens_details", b"cache_creation_tokens" | b"cache_creation_input_tokens") => {
                &mut self.cache_creation
            }
            (b"prompt_tokens_details", b"audio_tokens") => &mut self.prompt_audio,
            (b"input_tokens_details", b"cached_tokens") => &mut self.input_cached,
            (b"completion_tokens_details", b"reasoning_tokens") => &mut self.completion_reasoning,
            (b"completion_tokens_details", b"audio_tokens") => &mut self.completion_audio,
            (b"completion_tokens_details", b"accepted_prediction_tokens") => &mut self.accepted,
            (b"completion_tokens_details", b"rejected_prediction_tokens") => &mut self.rejected,
            (b"output_tokens_details", b"reasoning_tokens") => &mut self.output_reasoning,
            _ => return,
        };
        *place = count;
    }

    /// What the counts mean; None when there are none.
    fn usage(self) -> Option<Usage> {
        let input = self.prompt.or(self.input);
        let mut output = self.completion.or(self.output);
        let stated_total = self.total;
        if input.is_none() && output.is_none() && stated_total.is_none() {
            return None;
        }
        let reasoning = self.completion_reasoning.or(self.output_reasoning).or(self.reasoning);
        // xAI counts reasoning beside the completion, which shows in the total.
        if let (Some(input), Some(said), Some(reasoning), Some(total)) = (input, output, reasoning, stated_total)
            && reasoning > 0
            && total == input.saturating_add(said).saturating_add(reasoning)
        {
            output = Some(said.saturating_add(reasoning));
        }
        let usage = Usage {
            input: input.unwrap_or(0),
            output: output.unwrap_or(0),
            cache_read: self.prompt_cached.or(self.input_cached).or(self.cache_hit).or(self.cached),
            cache_write: self.cache_write.or(self.cache_creation),
            cache_write_1h: None,
            reasoning,
            input_audio: self.prompt_audio,
            output_audio: self.completion_audio,
            accepted_prediction: self.accepted,
            rejected_prediction: self.rejected,
            stated_total,
        };
        usage.believed()
    }
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

/// Tokens as OpenAI counts them. What is not known is not there.
#[derive(Serialize)]
pub(super) struct Written {
    prompt_tokens: u64,
    completion_tokens: u64,
    total_tokens: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_tokens_details: Option<Prompt>,
    #[serde(skip_serializing_if = "Option::is_none")]
    completion_tokens_details: Option<Completion>,
}

#[derive(Serialize, PartialEq, Default)]
struct Prompt {
    #[serde(skip_serializing_if = "Option::is_none")]
    cached_tokens: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cache_write_tokens: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    audio_tokens: Option<u64>,
}

#[derive(Serialize, PartialEq, Default)]
struct Completion {
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_tokens: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    audio_tokens: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    accepted_prediction_tokens: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rejected_prediction_tokens: Option<u64>,
}

impl Written {
    pub(super) fn of(usage: &Usage) -> Self {
        let prompt = Prompt {
            cached_tokens: usage.cache_read,
            cache_write_tokens: usage.cache_write,
            audio_tokens: usage.input_audio,
        };
        let completion = Completion {
            reasoning_tokens: usage.reasoning,
            audio_tokens: usage.output_audio,
            accepted_prediction_tokens: usage.accepted_prediction,
            rejected_prediction_tokens: usage.rejected_prediction,
        };
        Written {
            prompt_tokens: usage.input,
            completion_tokens: usage.output,
            total_tokens: usage.total(),
            prompt_tokens_details: Some(prompt).filter(|part| *part != Prompt::default()),
            completion_tokens_details: Some(completion).filter(|part| *part != Completion::default()),
        }
    }
}

/// The same as a value, for what is built of values.
pub(super) fn write(usage: &Usage) -> Value {
    serde_json::to_value(Written::of(usage)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn scanned(usage: &str) -> Option<Usage> {
        let text = format!("{{\"usage\":{usage}}}");
        let mut read = None;
        let whole = crate::json::scan::object(text.as_bytes(), |at, _| {
            read = scan(at, text.as_bytes())?;
            Ok(())
        });
        whole.expect("an object");
        read
    }

    #[test]
    fn every_detail_is_read_and_written_again() {
        let stated = json!({
            "prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150,
            "prompt_tokens_details": { "cached_tokens": 64, "cache_write_tokens": 10, "audio_tokens": 3 },
            "completion_tokens_details": { "reasoning_tokens": 20, "audio_tokens": 4,
                "accepted_prediction_tokens": 5, "rejected_prediction_tokens": 6 }
        });
        assert_eq!(write(&read(&stated).expect("usage")), stated);
        assert_eq!(scanned(&stated.to_string()), read(&stated));
    }

    #[test]
    fn spellings_of_other_servers_are_known() {
        let deepseek = json!({"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12,
                              "prompt_cache_hit_tokens": 8, "prompt_cache_miss_tokens": 2});
        assert_eq!(read(&deepseek).and_then(|usage| usage.cache_read), Some(8));
        let cached = |usage: &Value| read(usage).map(|usage| (usage.input, usage.cache_read, usage.cache_write));
        let databricks = json!({"prompt_tokens": 9673, "completion_tokens": 4, "total_tokens": 9677,
                                "cache_read_input_tokens": 9600, "cache_creation_input_tokens": 60});
        assert_eq!(cached(&databricks), Some((9673, Some(9600), Some(60))));
        let dashscope = json!({"prompt_tokens": 1800, "completion_tokens": 4, "total_tokens": 1804,
                               "prompt_tokens_details": {"cached_tokens": 0, "cache_creation_input_tokens": 1737,
                                   "cache_creation": {"ephemeral_5m_input_tokens": 1737}, "cache_type": "ephemeral"}});
        assert_eq!(cached(&dashscope), Some((1800, Some(0), Some(1737))));
        for usage in [&databricks, &dashscope] {
            assert_eq!(scanned(&usage.to_string()), read(usage));
        }
        let odd = r#"{"prompt_tokens":1.0,"completion_tokens":null,"input_tokens":7,"prompt_tokens_details":[3]}"#;
        assert_eq!(scanned(odd), serde_json::from_str(odd).ok().as_ref().and_then(read));
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
        let total = json!({"total_tokens": 5000});
        assert_eq!((read(&total), read_input(&total).map(|usage| usage.input)), (None, Some(5000)));
        assert_eq!(read(&Value::Null), None);
        assert_eq!(read(&json!({})), None);
    }
}
