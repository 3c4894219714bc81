//! Finish reasons: OpenAI's five words, and those that compatible servers use instead.
//!
//! Never guesses beyond the table: an unknown word counts as a stop and is kept as it came.

use crate::chat::{Choice, Content, Finish};
use crate::fault::{Fault, Kind};

use super::NAME;

/// Words of this dialect's servers. The first with a meaning is OpenAI's own.
const WORDS: &[(&str, Finish)] = &[
    ("stop", Finish::Stop),
    ("length", Finish::Length),
    ("tool_calls", Finish::ToolCalls),
    ("content_filter", Finish::ContentFilter),
    ("error", Finish::Error),
    ("function_call", Finish::ToolCalls),
    // Mistral, when the model's own bound is reached.
    ("model_length", Finish::Length),
    ("max_tokens", Finish::Length),
    ("tool_use", Finish::ToolCalls),
    ("refusal", Finish::Refusal),
    // Zhipu.
    ("sensitive", Finish::ContentFilter),
    ("network_error", Finish::Error),
    // Google's compatible endpoint.
    ("safety", Finish::ContentFilter),
    ("recitation", Finish::ContentFilter),
    // DeepSeek; vLLM and SGLang.
    ("insufficient_system_resource", Finish::Error),
    ("abort", Finish::Error),
];

/// Words for a turn that failed. Also behind some text it is no answer: an agent would take it for the end of its work.
const UNDONE: &[&str] = &["error", "network_error"];

/// The fault of a choice that ended in this word; None where it is an answer. `shown`: something of it can be.
pub(super) fn fault(word: &str, shown: bool) -> Option<Fault> {
    let failed = UNDONE.iter().any(|known| known.eq_ignore_ascii_case(word));
    let undone = read(word, false) == Finish::Error && (!shown || failed);
    undone.then(|| Fault::new(Kind::UpstreamError, format!("The provider's model came to no answer: {word}.")))
}

/// What a word means. Some servers say `stop` although the answer ends in tool calls.
pub(super) fn read(word: &str, called_tools: bool) -> Finish {
    match WORDS.iter().find(|(known, _)| known.eq_ignore_ascii_case(word)).map_or(Finish::Stop, |(_, finish)| *finish) {
        Finish::Stop if called_tools => Finish::ToolCalls,
        finish => finish,
    }
}

/// The same where the server names the stop sequence that it stopped at.
pub(super) fn at_sequence(finish: Finish, sequence: Option<&str>) -> Finish {
    if finish == Finish::Stop && sequence.is_some() { Finish::StopSequence } else { finish }
}

/// The word for a client. Our own dialect's word goes out as it came.
pub(super) fn write(finish: Finish, native: Option<&str>, source: &str, refused: bool, legacy: bool) -> String {
    let native = native.filter(|word| source == NAME && !word.is_empty());
    let word = match (finish, native) {
        (Finish::ToolCalls, _) if legacy => "function_call",
        (_, Some(native)) => native,
        // OpenAI's own refusals end in `stop` with the refusal in its field.
        (Finish::Refusal, _) if refused => "stop",
        (Finish::StopSequence | Finish::Pause, _) => "stop",
        (Finish::ContextFull, _) => "length",
        (Finish::Refusal, _) => "content_filter",
        (finish, _) => WORDS.iter().find(|(_, known)| *known == finish).map_or("stop", |(word, _)| word),
    };
    word.to_owned()
}

/// The word for a whole choice of a text completion or chat answer.
pub(super) fn word(choice: &Choice, source: &str, legacy: bool) -> Option<String> {
    let refused = choice.blocks.iter().any(|block| matches!(block.content, Content::Refusal(_)));
    choice.finish.map(|finish| write(finish, choice.native_finish.as_deref(), source, refused, legacy))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_openai_come_back_as_themselves() {
        for word in ["stop", "length", "tool_calls", "content_filter"] {
            assert_eq!(write(read(word, false), None, "anthropic", false, false), word);
        }
        assert_eq!(write(read("function_call", true), None, "anthropic", false, true), "function_call");
    }

    #[test]
    fn unknown_words_are_a_stop_and_are_kept_for_our_own_clients() {
        let finish = read("eos", false);
        assert_eq!(finish, Finish::Stop);
        assert_eq!(write(finish, Some("eos"), NAME, false, false), "eos");
        assert_eq!(write(finish, Some("END_TURN"), "anthropic", false, false), "stop");
    }

    #[test]
    fn a_stop_after_tool_calls_means_tool_calls() {
        assert_eq!(read("stop", true), Finish::ToolCalls);
        assert_eq!(read("length", true), Finish::Length);
    }
}
