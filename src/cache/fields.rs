//! The names of an ask's fields: as clients of any dialect write them, and as the spelling of keys has them.
//!
//! Plain tables. A field that is in none of them is some provider's own.

/// Client's names of fields that the spelling calls otherwise, of whatever dialect.
const OWN_NAMES: &[(&str, &str)] = &[
    ("max_completion_tokens", "max_tokens"),
    ("max_output_tokens", "max_tokens"),
    ("maxOutputTokens", "max_tokens"),
    ("topP", "top_p"),
    ("topK", "top_k"),
    ("frequencyPenalty", "frequency_penalty"),
    ("presencePenalty", "presence_penalty"),
    ("stop_sequences", "stop"),
    ("stopSequences", "stop"),
    ("candidateCount", "n"),
    ("responseLogprobs", "logprobs"),
    ("response_format", "output"),
    ("responseSchema", "output"),
    ("responseMimeType", "output"),
    ("parallel_tool_calls", "parallel_tools"),
    ("toolConfig", "tool_choice"),
    ("reasoning_effort", "reasoning"),
    ("thinking", "reasoning"),
    ("thinkingConfig", "reasoning"),
    ("responseModalities", "modalities"),
];

/// Fields that are the ask itself, and without which any two would be one.
pub const THE_ASK: &[&str] = &[
    "model",
    "messages",
    "input",
    "prompt",
    "contents",
    "content",
    "system",
    "instructions",
    "systemInstruction",
    "system_instruction",
    "tools",
    "functions",
    "query",
    "documents",
];

/// Names that are the same everywhere, or that only the spelling has.
const NAMES: &[&str] = &[
    "max_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "frequency_penalty",
    "presence_penalty",
    "seed",
    "stop",
    "n",
    "logprobs",
    "top_logprobs",
    "logit_bias",
    "output",
    "verbosity",
    "reasoning",
    "modalities",
    "audio",
    "service_tier",
    "store",
    "tool_choice",
    "parallel_tools",
    "dimensions",
    "task",
    "title",
    "user",
    "metadata",
    "stream",
    "stream_options",
    "prompt_cache_key",
];

/// Every name of a field that says how an ask is to be answered.
pub fn parameters() -> impl Iterator<Item = &'static str> {
    NAMES.iter().copied().chain(OWN_NAMES.iter().map(|(client, _)| *client))
}

/// The name that the spelling has for a field, named as clients write it.
pub fn own_name(name: &str) -> &str {
    OWN_NAMES.iter().find(|(client, _)| *client == name).map_or(name, |(_, own)| own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_other_name_leads_to_one_that_the_spelling_has() {
        for (client, own) in OWN_NAMES {
            assert!(NAMES.contains(own) && own_name(client) == *own && own_name(own) == *own, "{client} {own}");
            assert!(!THE_ASK.contains(client));
        }
    }
}
