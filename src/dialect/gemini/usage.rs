//! `usageMetadata`, both directions. Never adds what the provider did not state.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::Value;

use super::field::{self, Object, put};
use crate::chat::Usage;

/// The counts, read without a tree. Thoughts stand beside `candidatesTokenCount`, results of the provider's own tools
/// beside `promptTokenCount`; cached tokens are part of the prompt.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Counts<'a> {
    prompt_token_count: Option<u64>,
    cached_content_token_count: Option<u64>,
    candidates_token_count: Option<u64>,
    thoughts_token_count: Option<u64>,
    tool_use_prompt_token_count: Option<u64>,
    total_token_count: Option<u64>,
    #[serde(borrow)]
    prompt_tokens_details: Option<Vec<Detail<'a>>>,
    #[serde(borrow)]
    candidates_tokens_details: Option<Vec<Detail<'a>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Detail<'a> {
    /// One of five words; a copy is made only if somebody escapes a letter of it.
    #[serde(borrow)]
    modality: Cow<'a, str>,
    token_count: Option<u64>,
}

impl Counts<'_> {
    /// None where it cannot be true.
    pub fn usage(&self) -> Option<Usage> {
        let both = |a: Option<u64>, b: Option<u64>| a.unwrap_or(0).saturating_add(b.unwrap_or(0));
        let usage = Usage {
            input: both(self.prompt_token_count, self.tool_use_prompt_token_count),
            cache_read: self.cached_content_token_count,
            output: both(self.candidates_token_count, self.thoughts_token_count),
            reasoning: self.thoughts_token_count,
            input_audio: audio(self.prompt_tokens_details.as_deref()),
            output_audio: audio(self.candidates_tokens_details.as_deref()),
            stated_total: self.total_token_count,
            ..Usage::default()
        };
        usage.believed()
    }
}

fn audio(details: Option<&[Detail<'_>]>) -> Option<u64> {
    let detail = details?.iter().find(|detail| detail.modality == "AUDIO")?;
    detail.token_count
}

/// The counts out of a tree.
pub fn read(metadata: &Value) -> Option<Usage> {
    Counts::deserialize(metadata).ok().and_then(|counts| counts.usage())
}

/// Fields beside those that [`Usage`] holds, for an answer that goes back to a Gemini client.
pub fn rest(metadata: &Value) -> Object {
    const HELD: &[&str] = &[
        "promptTokenCount",
        "cachedContentTokenCount",
        "candidatesTokenCount",
        "thoughtsTokenCount",
        "totalTokenCount",
    ];
    let Value::Object(metadata) = metadata else { return Object::new() };
    metadata
        .iter()
        .filter(|(name, _)| !HELD.contains(&name.as_str()))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// `rest` is what [`rest`] kept of the same answer.
pub fn write(usage: &Usage, rest: Option<&Value>) -> Object {
    let tool_use = rest.and_then(|rest| rest.get("toolUsePromptTokenCount")).and_then(field::uint).unwrap_or(0);
    let mut metadata = field::object("promptTokenCount", usage.input.saturating_sub(tool_use));
    let visible = usage.output.saturating_sub(usage.reasoning.unwrap_or(0));
    metadata.insert("candidatesTokenCount".into(), visible.into());
    metadata.insert("totalTokenCount".into(), usage.total().into());
    put(&mut metadata, "cachedContentTokenCount", usage.cache_read);
    put(&mut metadata, "thoughtsTokenCount", usage.reasoning);
    if let Some(Value::Object(rest)) = rest {
        metadata.extend(rest.clone());
    } else {
        put(&mut metadata, "promptTokensDetails", details(usage.input, usage.input_audio));
        put(&mut metadata, "candidatesTokensDetails", details(visible, usage.output_audio));
    }
    metadata
}

/// The split by modality, where another dialect told how much of it was sound.
fn details(all: u64, audio: Option<u64>) -> Option<Value> {
    let audio = audio.filter(|audio| *audio > 0)?;
    Some(serde_json::json!([
        { "modality": "TEXT", "tokenCount": all.saturating_sub(audio) },
        { "modality": "AUDIO", "tokenCount": audio },
    ]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn thoughts_and_tool_results_are_added_and_cached_tokens_are_not() {
        let metadata = json!({
            "promptTokenCount": 100, "cachedContentTokenCount": 60, "toolUsePromptTokenCount": 7,
            "candidatesTokenCount": 20, "thoughtsTokenCount": 30, "totalTokenCount": 157,
            "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 90}, {"modality": "AUDIO", "tokenCount": 10}],
        });
        let usage = read(&metadata).expect("usage");
        assert_eq!((usage.input, usage.output, usage.total()), (107, 50, 157));
        assert_eq!((usage.cache_read, usage.reasoning, usage.input_audio), (Some(60), Some(30), Some(10)));
        let text = metadata.to_string();
        let counts: Counts<'_> = serde_json::from_str(&text).expect("counts");
        assert_eq!(counts.usage(), Some(usage));
        let back = write(&usage, Some(&Value::Object(rest(&metadata))));
        assert_eq!(Value::Object(back), metadata);
    }
}
