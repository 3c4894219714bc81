//! Why a generation stopped, in Anthropic's words and the neutral ones. A table, nothing else.

use crate::chat::Finish;

/// Words both ways. Where two neutral reasons share a word, decoding gives the first.
const REASONS: &[(&str, Finish)] = &[
    ("end_turn", Finish::Stop),
    ("stop_sequence", Finish::StopSequence),
    ("max_tokens", Finish::Length),
    ("tool_use", Finish::ToolCalls),
    ("pause_turn", Finish::Pause),
    ("refusal", Finish::Refusal),
    ("refusal", Finish::ContentFilter),
    ("model_context_window_exceeded", Finish::ContextFull),
    // The server paused to compact the conversation; the caller sends it back to go on.
    ("compaction", Finish::Pause),
    // There is no word for it, and a client can do nothing but take the turn as it is.
    ("end_turn", Finish::Error),
];

pub fn decode(word: &str) -> Finish {
    REASONS.iter().find(|(known, _)| *known == word).map_or(Finish::Stop, |(_, finish)| *finish)
}

/// What the answer held, which providers' own reasons do not always reflect.
#[derive(Debug, Default)]
pub struct Seen {
    pub calls: bool,
    pub refusal: bool,
}

/// The word for a client. Clients run tools on `tool_use` and nothing else, so a foreign answer gets it exactly when it
/// holds calls; one from Anthropic keeps its own word.
pub fn encode<'a>(finish: Option<Finish>, native: Option<&'a str>, seen: &Seen, own: bool) -> &'a str {
    if own && let Some(native) = native {
        return native;
    }
    match finish {
        None | Some(Finish::Stop | Finish::ToolCalls) if seen.calls => "tool_use",
        None | Some(Finish::Stop | Finish::ToolCalls) if seen.refusal => "refusal",
        None | Some(Finish::ToolCalls) => "end_turn",
        Some(finish) => REASONS.iter().find(|(_, known)| *known == finish).map_or("end_turn", |(word, _)| *word),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_word_and_the_common_ones_come_back() {
        for (word, finish) in REASONS.iter().take(6) {
            assert_eq!(decode(word), *finish);
            let seen = Seen { calls: *finish == Finish::ToolCalls, refusal: false };
            assert_eq!(encode(Some(*finish), None, &seen, false), *word);
        }
        assert_eq!(decode("something_new"), Finish::Stop);
        assert_eq!(encode(Some(Finish::ContentFilter), None, &Seen::default(), false), "refusal");
    }

    #[test]
    fn calls_end_in_tool_use_whatever_the_provider_said() {
        let calls = Seen { calls: true, refusal: false };
        assert_eq!(encode(Some(Finish::Stop), Some("stop"), &calls, false), "tool_use");
        assert_eq!(encode(Some(Finish::ToolCalls), None, &Seen::default(), false), "end_turn");
        assert_eq!(encode(Some(Finish::Pause), Some("compaction"), &Seen::default(), true), "compaction");
    }
}
