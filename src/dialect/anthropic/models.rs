//! What the Claude generations accept, by name: encoders of foreign asks stay within it.
//!
//! Only consulted for what an ask from another dialect leaves open; never a gate for which models may be called.

/// How a model can be asked to think.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Thinking {
    Never,
    /// `enabled` with a budget.
    Budget,
    /// Both forms; `adaptive` with an effort is the recommended one.
    Either,
    /// `adaptive` only: a budget is refused.
    Adaptive,
}

#[derive(Debug, Clone, Copy)]
pub struct Model {
    pub thinking: Thinking,
    /// Takes `thinking: {type: disabled}`.
    pub can_disable: bool,
    /// Takes temperature, top_p and top_k.
    pub sampling: bool,
    /// Takes both temperature and top_p in one ask.
    pub both_sampling: bool,
    /// Takes `tool_choice` `any` and `tool`.
    pub forced_tools: bool,
    /// Has native structured output and strict tools.
    pub structured: bool,
    /// Output bound for asks that state none. Anthropic requires one; OpenAI's and Gemini's callers expect the answer not
    /// to be cut, so this is as much as every model of the row surely takes without waiting for minutes.
    pub max_tokens: u64,
}

/// Newest first: the first pattern found in the name counts. Names are compared with dots as dashes.
const MODELS: &[(&[&str], Model)] = &[
    (&["sonnet-5-5", "opus-5-5", "fable-5-1"], Model { forced_tools: false, can_disable: false, ..MODERN }),
    (&["haiku-5-5"], MODERN),
    (&["fable-5"], Model { can_disable: false, ..MODERN }),
    (&["opus-5", "sonnet-5", "haiku-5", "opus-4-8", "opus-4-7"], MODERN),
    (&["opus-4-6", "sonnet-4-6"], Model { thinking: Thinking::Either, sampling: true, ..MODERN }),
    (&["opus-4-5", "sonnet-4-5", "haiku-4-5", "opus-4-1"], Model { structured: true, ..BUDGET }),
    (&["opus-4", "sonnet-4", "claude-3-7"], BUDGET),
    (&["claude-3-5"], Model { max_tokens: 8192, ..EARLY }),
    (&["claude-3", "claude-2", "claude-instant"], EARLY),
    // A Claude that is newer than this table.
    (&["claude"], Model { thinking: Thinking::Either, sampling: true, ..MODERN }),
];

const MODERN: Model = Model {
    thinking: Thinking::Adaptive,
    can_disable: true,
    sampling: false,
    both_sampling: false,
    forced_tools: true,
    structured: true,
    max_tokens: 16_384,
};

const BUDGET: Model = Model { thinking: Thinking::Budget, sampling: true, structured: false, ..MODERN };

const EARLY: Model = Model { thinking: Thinking::Never, both_sampling: true, max_tokens: 4096, ..BUDGET };

/// Servers that speak the dialect for models of their own.
const OTHER: Model = Model { both_sampling: true, structured: true, max_tokens: 4096, ..BUDGET };

pub fn find(name: &str) -> Model {
    let name = name.to_ascii_lowercase().replace('.', "-");
    let row = MODELS.iter().find(|(patterns, _)| patterns.iter().any(|pattern| name.contains(pattern)));
    row.map_or(OTHER, |(_, model)| *model)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_every_spelling_find_their_row() {
        assert_eq!(find("claude-opus-4-20250514").thinking, Thinking::Budget);
        assert!(!find("claude-opus-4-20250514").structured);
        assert!(find("anthropic.claude-sonnet-4-5-20250929-v1:0").structured);
        assert_eq!(find("anthropic/claude-opus-4.7").thinking, Thinking::Adaptive);
        assert_eq!(find("claude-3.7-sonnet").thinking, Thinking::Budget);
        assert_eq!(find("claude-3-5-haiku-latest").max_tokens, 8192);
        assert_eq!(find("claude-3-haiku-20240307").thinking, Thinking::Never);
        assert!(!find("claude-opus-5-5").forced_tools);
        assert!(find("claude-opus-5").forced_tools);
        assert_eq!(find("claude-next").thinking, Thinking::Either);
        assert_eq!(find("tiny-random").thinking, Thinking::Budget);
    }
}
