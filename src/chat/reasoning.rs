//! How much to think, and how opaque reasoning travels through a dialect that did not make it.
//!
//! Pure tables and string work; what a dialect calls these things is the dialect's affair.

use serde::{Deserialize, Serialize};

/// Steps of effort that the OpenAI forms name, from none to most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Effort {
    None,
    Minimal,
    Low,
    Medium,
    High,
    Xhigh,
    Max,
}

/// What the caller wants of reasoning. Absent parts are left to the model.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ReasoningAsk {
    pub effort: Option<Effort>,
    /// Upper bound of reasoning tokens.
    pub budget: Option<u64>,
    /// On without a stated amount (Anthropic `adaptive`, Gemini's dynamic `-1`).
    pub adaptive: bool,
    /// Whether reasoning text should be in the answer (`include_thoughts`, `exclude: false`).
    pub include: Option<bool>,
    /// `auto | concise | detailed` of the Responses form.
    pub summary: Option<String>,
}

/// Share of `max_tokens` that each effort stands for, in percent. From OpenRouter's published mapping.
const SHARES: &[(Effort, u64)] = &[
    (Effort::None, 0),
    (Effort::Minimal, 10),
    (Effort::Low, 20),
    (Effort::Medium, 50),
    (Effort::High, 80),
    (Effort::Xhigh, 95),
    (Effort::Max, 95),
];

/// Smallest budget that Anthropic accepts.
pub const MIN_BUDGET: u64 = 1024;

/// Output bound assumed when the caller states none and a budget must be derived from an effort.
pub const ASSUMED_MAX_TOKENS: u64 = 16_384;

impl Effort {
    pub fn parse(word: &str) -> Option<Effort> {
        Some(match word {
            "none" => Effort::None,
            "minimal" => Effort::Minimal,
            "low" => Effort::Low,
            "medium" => Effort::Medium,
            "high" => Effort::High,
            "xhigh" => Effort::Xhigh,
            "max" => Effort::Max,
            _ => return None,
        })
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Effort::None => "none",
            Effort::Minimal => "minimal",
            Effort::Low => "low",
            Effort::Medium => "medium",
            Effort::High => "high",
            Effort::Xhigh => "xhigh",
            Effort::Max => "max",
        }
    }

    /// Reasoning tokens that stand for this effort under an output bound.
    pub fn budget(self, max_tokens: Option<u64>) -> u64 {
        let share = SHARES.iter().find(|(effort, _)| *effort == self).map_or(50, |(_, share)| *share);
        let budget = max_tokens.unwrap_or(ASSUMED_MAX_TOKENS) * share / 100;
        if share == 0 { 0 } else { budget.max(MIN_BUDGET) }
    }

    /// The effort whose share lies nearest to a budget.
    pub fn from_budget(budget: u64, max_tokens: Option<u64>) -> Effort {
        if budget == 0 {
            return Effort::None;
        }
        let share = budget * 100 / max_tokens.unwrap_or(ASSUMED_MAX_TOKENS).max(1);
        match share {
            0..=14 => Effort::Minimal,
            15..=34 => Effort::Low,
            35..=64 => Effort::Medium,
            65..=89 => Effort::High,
            _ => Effort::Xhigh,
        }
    }
}

impl ReasoningAsk {
    /// The budget in tokens: stated, or derived from the effort. None when neither is stated.
    pub fn budget_tokens(&self, max_tokens: Option<u64>) -> Option<u64> {
        self.budget.or_else(|| self.effort.map(|effort| effort.budget(max_tokens)))
    }

    /// The effort: stated, or derived from the budget. None when neither is stated.
    pub fn effort_level(&self, max_tokens: Option<u64>) -> Option<Effort> {
        self.effort.or_else(|| self.budget.map(|budget| Effort::from_budget(budget, max_tokens)))
    }
}

const SEAL: &str = "portcullis.";

/// Wraps a foreign signature or encrypted reasoning so that it can ride in a field of another dialect and be told apart
/// when the client sends it back. `origin` is the dialect that made it. An already sealed value stays as it is.
pub fn seal(origin: &str, opaque: &str) -> String {
    if opaque.starts_with(SEAL) { opaque.to_owned() } else { format!("{SEAL}{origin}.{opaque}") }
}

/// Undoes [`seal`]: the origin and the opaque value, or None when it was never sealed.
pub fn unseal(value: &str) -> Option<(&str, &str)> {
    value.strip_prefix(SEAL)?.split_once('.')
}

/// For encoders: `opaque` in the form that `target` may be sent. Its own comes out bare; anything else is foreign and
/// gives None, because a provider refuses signatures it did not make.
pub fn for_target<'a>(opaque: &'a str, origin: &str, target: &str) -> Option<&'a str> {
    match unseal(opaque) {
        Some((sealed_origin, inner)) => (sealed_origin == target).then_some(inner),
        None => (origin == target).then_some(opaque),
    }
}

/// For encoders of answers: `opaque` as the client of dialect `client` should hold it: bare when it is that dialect's
/// own, sealed otherwise.
pub fn for_client(opaque: &str, origin: &str, client: &str) -> String {
    if origin == client { opaque.to_owned() } else { seal(origin, opaque) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn effort_and_budget_come_back_to_each_other() {
        for effort in [Effort::Minimal, Effort::Low, Effort::Medium, Effort::High, Effort::Xhigh] {
            assert_eq!(Effort::from_budget(effort.budget(Some(100_000)), Some(100_000)), effort);
        }
        assert_eq!(Effort::None.budget(Some(4096)), 0);
        assert_eq!(Effort::Low.budget(Some(2048)), MIN_BUDGET);
    }

    #[test]
    fn a_sealed_signature_reaches_only_its_maker() {
        let held = for_client("sig.with.dots", "gemini", "anthropic");
        assert_eq!(for_target(&held, "anthropic", "gemini"), Some("sig.with.dots"));
        assert_eq!(for_target(&held, "anthropic", "anthropic"), None);
        assert_eq!(for_target("own", "anthropic", "anthropic"), Some("own"));
        assert_eq!(for_target("own", "anthropic", "gemini"), None);
    }
}
