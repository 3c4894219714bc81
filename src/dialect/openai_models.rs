//! What models behind the two OpenAI forms take, by name: encoders of foreign asks stay within it.
//!
//! Only consulted for what an ask from another dialect leaves open; never a gate for which models may be called. Nothing is
//! assumed of a name that is not here.

use serde_json::{Map, Value};

use super::Encoding;
use crate::chat::Effort::{self, High, Low, Max, Medium, Minimal, None as Off, Xhigh};

#[derive(Debug, Clone, Copy)]
struct Model {
    /// Words of effort, from least to most; empty: it refuses to be told any.
    efforts: &'static [Effort],
    /// It reasons: it can be asked for summaries and for its encrypted reasoning.
    reasons: bool,
    /// Parameters that it refuses.
    refuses: &'static [&'static str],
    idle: Idle,
    chat: Chat,
}

/// What of a model OpenAI has in the chat form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Chat {
    All,
    /// It takes tools only while it does not reason.
    ToolsOrReasoning,
    /// It is in the Responses form alone.
    Nothing,
}

/// When a model does not reason; it takes those of [`SAMPLING_WHILE_IDLE`] then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Idle {
    Never,
    /// When it is told `none`.
    WhenTold,
    /// Unless it is told an effort.
    ByDefault,
}

/// What OpenAI's reasoning models refuse: https://platform.openai.com/docs/guides/latest-model, *parameter compatibility*.
const SAMPLING: &[&str] = &[
    "temperature",
    "top_p",
    "stop",
    "frequency_penalty",
    "presence_penalty",
    "logprobs",
    "top_logprobs",
    "logit_bias",
];
const SAMPLING_WHILE_IDLE: &[&str] = &["temperature", "top_p", "logprobs", "top_logprobs"];

const LOW_TO_HIGH: &[Effort] = &[Low, Medium, High];
const LOW_TO_XHIGH: &[Effort] = &[Low, Medium, High, Xhigh];
const NONE_TO_HIGH: &[Effort] = &[Off, Low, Medium, High];
const NONE_TO_XHIGH: &[Effort] = &[Off, Low, Medium, High, Xhigh];

/// The o-series, and the first models for Codex.
const REASONS: Model =
    Model { efforts: LOW_TO_HIGH, reasons: true, refuses: SAMPLING, idle: Idle::Never, chat: Chat::All };

/// Models that cannot reason.
const PLAIN: Model = Model { efforts: &[], reasons: false, refuses: &[], ..REASONS };

/// Models that chat completions do not have.
const APART: Model = Model { chat: Chat::Nothing, ..REASONS };

/// GPT from 5.2 on.
const MODERN: Model = Model { efforts: NONE_TO_XHIGH, idle: Idle::WhenTold, chat: Chat::ToolsOrReasoning, ..REASONS };

/// xAI's: https://docs.x.ai/docs/guides/reasoning. Its penalties stand in the row of the provider.
const GROK: Model = Model { efforts: &[], refuses: &["stop"], ..REASONS };

/// How a name begins (`#` is a digit), what it holds, and the model: the first that fits counts.
const MODELS: &[(&[&str], &str, Model)] = &[
    // Open weights, whose sampling is the server's.
    (&["gpt-oss"], "", Model { refuses: &[], ..REASONS }),
    (&["gpt-#"], "-search", Model { efforts: &[], reasons: false, ..REASONS }),
    (&["gpt-3", "gpt-4", "gpt-5-chat", "gpt-audio", "gpt-realtime", "chatgpt-"], "", PLAIN),
    (&["o1-mini", "o1-preview"], "", Model { efforts: &[], ..REASONS }),
    (&["o#"], "deep-research", Model { efforts: &[Medium], ..APART }),
    (&["o#"], "-pro", APART),
    (&["o#"], "", REASONS),
    (&["codex-", "computer-use"], "", APART),
    // Those of ChatGPT think as much as they see fit.
    (&["gpt-#"], "-chat", Model { efforts: &[], reasons: false, ..REASONS }),
    (&["gpt-5-pro"], "", Model { efforts: &[High], ..APART }),
    (&["gpt-#"], "-pro", Model { efforts: &[Medium, High, Xhigh], ..APART }),
    (&["gpt-#"], "-codex-max", Model { efforts: LOW_TO_XHIGH, ..APART }),
    (&["gpt-5-codex", "gpt-5.1-codex"], "", APART),
    (&["gpt-#"], "-codex", Model { efforts: LOW_TO_XHIGH, ..APART }),
    (&["gpt-5.1"], "", Model { efforts: NONE_TO_HIGH, idle: Idle::ByDefault, ..REASONS }),
    (&["gpt-5.2", "gpt-5.4"], "", Model { idle: Idle::ByDefault, ..MODERN }),
    (&["gpt-5.#"], "", MODERN),
    (&["gpt-5"], "", Model { efforts: &[Minimal, Low, Medium, High], ..REASONS }),
    (&["gpt-#"], "", MODERN),
    (&["grok-3-mini"], "", Model { efforts: &[Low, High], ..GROK }),
    (&["grok-4.3"], "", Model { efforts: NONE_TO_HIGH, ..GROK }),
    (&["grok-#"], "non-reasoning", PLAIN),
    (&["grok-2", "grok-3"], "", PLAIN),
    (&["grok-4", "grok-code"], "", GROK),
];

/// The model of this name, with whatever hosts put before it.
fn find(name: &str) -> Option<Model> {
    let name = bare(name);
    let fits = |(beginnings, word, _): &&(&[&str], &str, Model)| {
        name.contains(word) && beginnings.iter().any(|b| begins(&name, b))
    };
    MODELS.iter().find(fits).map(|(.., model)| *model)
}

/// A name in small letters, without what hosts put before it.
fn bare(name: &str) -> String {
    let name = name.rsplit('/').next().unwrap_or(name).to_ascii_lowercase();
    name.trim_start_matches("openai.").trim_start_matches("ft:").to_owned()
}

/// Whether a model of OpenAI's takes cache breakpoints: GPT from 5.6 on. Azure calls 3.5 `gpt-35`.
pub(crate) fn caches_at_marks(model: &str) -> bool {
    let name = bare(model);
    let number = name.strip_prefix("gpt-").and_then(|rest| rest.split('-').next()?.parse::<f64>().ok());
    number.is_some_and(|number| (5.6..10.0).contains(&number))
}

fn begins(name: &str, with: &str) -> bool {
    let same = |(is, want): (u8, u8)| if want == b'#' { is.is_ascii_digit() } else { is == want };
    name.len() >= with.len() && name.bytes().zip(with.bytes()).all(same)
}

/// Whether this target's model reasons; None where nothing is known of it.
pub(crate) fn reasons(to: &Encoding<'_>) -> Option<bool> {
    match hosted(to) {
        Some([]) => Some(false),
        _ => find(to.model).map(|model| model.reasons),
    }
}

/// Whether a model of OpenAI's is better asked in the Responses form.
pub(crate) fn wants_responses(model: &str) -> bool {
    find(model).is_some_and(|model| model.chat != Chat::All)
}

/// Whether OpenAI's chat completions answer that there is no such model.
pub(crate) fn is_not_in_chat(model: &str) -> bool {
    find(model).is_some_and(|model| model.chat == Chat::Nothing)
}

/// Whether chat completions take tools from the target's model only while it does not reason.
pub(crate) fn reasons_without_tools(to: &Encoding<'_>) -> bool {
    to.quirks.custom_tools && find(to.model).is_some_and(|model| model.chat == Chat::ToolsOrReasoning)
}

/// Whether a model is known not to speak: of those that OpenAI names, the others have it in their names.
pub(crate) fn is_mute(model: &str) -> bool {
    find(model).is_some() && !model.to_ascii_lowercase().contains("audio")
}

/// The words of effort that the host knows for it, where they are not the maker's.
fn hosted(to: &Encoding<'_>) -> Option<&'static [Effort]> {
    let model = to.model.to_ascii_lowercase();
    to.quirks.efforts.iter().find(|(name, _)| model.contains(name)).map(|(_, efforts)| *efforts)
}

/// What a model is told of an effort.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    /// Nothing is known of the model.
    AsAsked,
    Word(Effort),
    Nothing,
}

/// The word for an effort that this target's model takes, the nearest that it has. What is lost without one is noted.
pub(crate) fn told(effort: Effort, to: &mut Encoding<'_>) -> Told {
    let Some(efforts) = hosted(to).or_else(|| find(to.model).map(|model| model.efforts)) else { return Told::AsAsked };
    let word = match effort {
        Off => efforts.first(),
        // `none` is no little of something; of two that are as near, the lesser.
        _ => efforts.iter().filter(|word| **word != Off).min_by_key(|word| step(**word).abs_diff(step(effort))),
    };
    let lost = word.is_none() && (effort != Off || reasons(to) == Some(true));
    to.drop_if(lost, "reasoning", "this model cannot be told how much to reason");
    word.map_or(Told::Nothing, |word| Told::Word(*word))
}

fn step(effort: Effort) -> usize {
    [Off, Minimal, Low, Medium, High, Xhigh, Max].iter().position(|known| *known == effort).unwrap_or_default()
}

/// Takes out of a foreign ask's body what its model refuses; `effort` is the word that the body tells it. Values that are
/// the default go unnoted: clients send them by habit.
pub(crate) fn leave_out(effort: Option<&str>, to: &mut Encoding<'_>, body: &mut Map<String, Value>) {
    const WHY: &str = "this model refuses it";
    for name in refused(effort, to.model) {
        if let Some(value) = body.shift_remove(name) {
            let default = match name {
                "temperature" | "top_p" => value.as_f64() == Some(1.0),
                _ => value == false || value.as_f64() == Some(0.0),
            };
            to.drop_if(!default, name, WHY);
        }
    }
}

/// The parameters that a model refuses which is told this effort.
pub(crate) fn refused(effort: Option<&str>, model: &str) -> impl Iterator<Item = &'static str> {
    let model = find(model).unwrap_or(PLAIN);
    let idle = match (model.idle, effort) {
        (Idle::Never, _) => false,
        (_, Some(word)) => word == Off.as_str(),
        (idle, None) => idle == Idle::ByDefault,
    };
    model.refuses.iter().copied().filter(move |name| !(idle && SAMPLING_WHILE_IDLE.contains(name)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::Quirks;

    fn word(model: &str, effort: Effort) -> Told {
        told(effort, &mut Encoding::new(model, &Quirks::NONE))
    }

    #[test]
    fn an_effort_becomes_the_nearest_word_that_the_model_takes() {
        for (model, asked, word) in [
            ("o3", Off, Low),
            ("o4-mini-2025-04-16", Minimal, Low),
            ("o1", Max, High),
            ("o3-deep-research", Low, Medium),
            ("codex-mini-latest", Xhigh, High),
            ("gpt-5", Off, Minimal),
            ("gpt-5-mini-2025-08-07", Xhigh, High),
            ("openai/gpt-5-nano", Minimal, Minimal),
            ("gpt-5-pro", Off, High),
            ("gpt-5-codex", Minimal, Low),
            ("gpt-5.1", Off, Off),
            ("gpt-5.1", Minimal, Low),
            ("gpt-5.1", Max, High),
            ("gpt-5.1-codex-mini", Off, Low),
            ("gpt-5.1-codex-max", Max, Xhigh),
            ("gpt-5.2-2025-12-11", Max, Xhigh),
            ("gpt-5.2-pro", Low, Medium),
            ("gpt-5.3-codex", Off, Low),
            ("GPT-5.5", Off, Off),
            ("gpt-6", Max, Xhigh),
            ("openai/gpt-oss-120b", Off, Low),
            ("ft:o4-mini-2025-04-16:org::x", Max, High),
            ("xai/grok-3-mini-fast", Medium, Low),
            ("grok-3-mini", Max, High),
            ("grok-4.3", Off, Off),
        ] {
            assert_eq!(
                told(asked, &mut Encoding::new(model, &Quirks::NONE)),
                Told::Word(word),
                "{model} asked for {asked:?}"
            );
        }
        for model in [
            "gpt-4o-mini",
            "gpt-4.1",
            "gpt-35-turbo",
            "chatgpt-4o-latest",
            "gpt-5-chat-latest",
            "o1-mini",
            "grok-4-fast",
        ] {
            assert_eq!((word(model, High), word(model, Off)), (Told::Nothing, Told::Nothing), "{model}");
        }
        for model in ["my-deployment", "qwen3-32b", "gpt-j", "o", "omni", "grok-latest", ""] {
            assert_eq!(word(model, Max), Told::AsAsked, "{model}");
        }
    }

    #[test]
    fn what_chat_completions_lack_is_asked_in_the_responses_form() {
        for model in
            ["gpt-5.4-mini", "gpt-5.5", "gpt-6", "gpt-5-codex", "gpt-5.2-pro", "o3-pro", "o4-mini-deep-research"]
        {
            assert!(wants_responses(model), "{model}");
        }
        for model in ["gpt-4o", "gpt-5", "gpt-5.1", "gpt-5.3-chat-latest", "o3", "gpt-oss-120b", "grok-4.3", "mine"] {
            assert!(!wants_responses(model), "{model}");
        }
    }

    #[test]
    fn cache_breakpoints_are_taken_from_gpt_5_6_on() {
        for (model, takes) in [
            ("gpt-5.6-terra", true),
            ("openai/gpt-6", true),
            ("gpt-5.5", false),
            ("gpt-5", false),
            ("gpt-4o", false),
            ("gpt-35-turbo", false),
            ("gpt-oss-120b", false),
            ("o3", false),
        ] {
            assert_eq!(caches_at_marks(model), takes, "{model}");
        }
    }

    #[test]
    fn what_a_model_cannot_be_told_is_noted_where_it_is_lost() {
        for (model, effort, noted) in
            [("gpt-4o", High, true), ("gpt-4o", Off, false), ("grok-4", Off, true), ("gpt-5", Off, false)]
        {
            let mut to = Encoding::new(model, &Quirks::NONE);
            told(effort, &mut to);
            assert_eq!(!to.dropped.is_empty(), noted, "{model} asked for {effort:?}");
        }
    }

    #[test]
    fn a_host_may_take_other_words_than_the_maker() {
        let quirks = Quirks { efforts: &[("qwen3", &[Off]), ("gpt-oss", LOW_TO_HIGH), ("", &[])], ..Quirks::NONE };
        let word = |model: &str, effort| told(effort, &mut Encoding::new(model, &quirks));
        assert_eq!(word("qwen/Qwen3-32b", Off), Told::Word(Off));
        assert_eq!(word("qwen/qwen3-32b", High), Told::Nothing, "it reasons unless told otherwise");
        assert_eq!(word("openai/gpt-oss-20b", Max), Told::Word(High));
        assert_eq!(word("llama-3.3-70b-versatile", Low), Told::Nothing);
    }

    #[test]
    fn models_that_speak_have_it_in_their_names_where_the_name_is_known() {
        for (model, mute) in [
            ("gpt-5", true),
            ("openai/gpt-4o-mini", true),
            ("o3", true),
            ("gpt-audio-mini", false),
            ("gpt-4o-audio-preview-2025-06-03", false),
            ("my-deployment", false),
            ("mock-fast", false),
        ] {
            assert_eq!(is_mute(model), mute, "{model}");
        }
    }

    #[test]
    fn sampling_goes_to_models_that_do_not_reason_at_the_time() {
        let takes =
            |model: &str, effort: Option<&str>, name: &str| !refused(effort, model).any(|refused| refused == name);
        for (model, effort, taken) in [
            ("gpt-4o", None, true),
            ("gpt-5-chat-latest", None, true),
            ("my-deployment", Some("high"), true),
            ("gpt-oss-120b", Some("high"), true),
            ("o3", None, false),
            ("gpt-5", Some("minimal"), false),
            ("gpt-5.1", None, true),
            ("gpt-5.1", Some("none"), true),
            ("gpt-5.1", Some("low"), false),
            ("gpt-5.5", None, false),
            ("gpt-5.5", Some("none"), true),
            ("gpt-5.2-codex", None, false),
        ] {
            assert_eq!(takes(model, effort, "temperature"), taken, "{model} told {effort:?}");
        }
        assert!(!takes("gpt-5.1", None, "stop") && !takes("gpt-5.1", None, "presence_penalty"));
        assert!(!takes("grok-4", None, "stop") && takes("grok-4", None, "temperature"));
    }
}
