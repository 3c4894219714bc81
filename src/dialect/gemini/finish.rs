//! Why a generation stopped: `finishReason` and `blockReason`, both directions. One table, no logic of streams.

use crate::chat::Finish;
use crate::fault::{Fault, Kind};

/// Gemini's words. Those that are absent are read as [`Finish::Error`]: the model was not done, and nobody cut it off.
const REASONS: &[(&str, Finish)] = &[
    ("STOP", Finish::Stop),
    ("MAX_TOKENS", Finish::Length),
    ("SAFETY", Finish::ContentFilter),
    ("RECITATION", Finish::ContentFilter),
    ("LANGUAGE", Finish::ContentFilter),
    ("BLOCKLIST", Finish::ContentFilter),
    ("PROHIBITED_CONTENT", Finish::ContentFilter),
    ("SPII", Finish::ContentFilter),
    ("IMAGE_SAFETY", Finish::ContentFilter),
    ("IMAGE_PROHIBITED_CONTENT", Finish::ContentFilter),
    ("IMAGE_RECITATION", Finish::ContentFilter),
    ("MODEL_ARMOR", Finish::ContentFilter),
    ("JAILBREAK", Finish::ContentFilter),
    ("ESCALATION", Finish::ContentFilter),
    ("PUP_LIMITED_DISABLED", Finish::ContentFilter),
    ("CONTINUATION", Finish::Pause),
    ("MALFORMED_FUNCTION_CALL", Finish::Error),
    ("UNEXPECTED_TOOL_CALL", Finish::Error),
    ("TOO_MANY_TOOL_CALLS", Finish::Error),
    ("MISSING_THOUGHT_SIGNATURE", Finish::Error),
    ("MALFORMED_RESPONSE", Finish::Error),
    ("IMAGE_OTHER", Finish::Error),
    ("NO_IMAGE", Finish::Error),
    ("OTHER", Finish::Error),
];

/// Words for a turn that the model did not get done. Also behind some text it is no answer: an agent would take it for
/// the end of its work.
const UNDONE: &[&str] = &[
    "MALFORMED_FUNCTION_CALL",
    "UNEXPECTED_TOOL_CALL",
    "TOO_MANY_TOOL_CALLS",
    "MISSING_THOUGHT_SIGNATURE",
    "MALFORMED_RESPONSE",
];

/// The fault of a candidate that stopped for this reason; None where it is an answer. `shown`: something of it can be.
pub fn fault(finish: Finish, native: &str, shown: bool) -> Option<Fault> {
    let undone = finish == Finish::Error && (!shown || UNDONE.contains(&native));
    undone.then(|| Fault::new(Kind::UpstreamError, format!("The provider's model came to no answer: {native}.")))
}

/// The value that stands for "not finished yet".
pub const UNSPECIFIED: &str = "FINISH_REASON_UNSPECIFIED";

/// Gemini says `STOP` also when it calls functions.
pub fn read(native: &str, calls: bool) -> Finish {
    let row = REASONS.iter().find(|(word, _)| *word == native);
    // Servers that imitate Gemini have words of their own for calls; that there are calls says it better.
    let unknown = if calls { Finish::ToolCalls } else { Finish::Error };
    match row.map_or(unknown, |(_, finish)| *finish) {
        Finish::Stop if calls => Finish::ToolCalls,
        // A function that was not declared: whoever finds the call in the answer should find why it ended there.
        Finish::Error if calls && native == "UNEXPECTED_TOOL_CALL" => Finish::ToolCalls,
        finish => finish,
    }
}

/// Why an answer ended that holds a refusal: OpenAI's word for it says nothing of that.
pub fn of(finish: Finish, refused: bool) -> Finish {
    if refused && finish == Finish::Stop { Finish::Refusal } else { finish }
}

/// Gemini's word; its own is kept where it still says the same.
pub fn write(finish: Finish, native: Option<&str>) -> &str {
    if let Some(native) = native.filter(|native| read(native, finish == Finish::ToolCalls) == finish)
        && REASONS.iter().any(|(word, _)| *word == native)
    {
        return native;
    }
    match finish {
        Finish::Stop | Finish::StopSequence | Finish::ToolCalls => "STOP",
        Finish::Length | Finish::ContextFull => "MAX_TOKENS",
        Finish::ContentFilter | Finish::Refusal => "SAFETY",
        // CONTINUATION would make SDKs ask for a token that only Gemini can give.
        Finish::Pause | Finish::Error => "OTHER",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_comes_back_to_itself() {
        for (word, finish) in REASONS {
            assert_eq!(write(read(word, false), Some(word)), *word);
            assert_eq!(read(word, false), *finish);
        }
        assert_eq!(read("STOP", true), Finish::ToolCalls);
        assert_eq!(read("MAX_TOKENS", true), Finish::Length);
        assert_eq!(read("UNEXPECTED_TOOL_CALL", true), Finish::ToolCalls);
        assert_eq!(write(Finish::ToolCalls, Some("UNEXPECTED_TOOL_CALL")), "UNEXPECTED_TOOL_CALL");
        assert_eq!(read("SOMETHING_NEW", false), Finish::Error);
        assert_eq!(write(Finish::ToolCalls, Some("tool_calls")), "STOP");
        assert_eq!(write(Finish::Length, Some("STOP")), "MAX_TOKENS");
        assert_eq!(write(Finish::Pause, Some("pause_turn")), "OTHER");
    }
}
