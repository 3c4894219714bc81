//! What an exchange will probably use, from its body's length and the few fields that say more. Never decodes an ask.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use crate::chat::Usage;
use crate::dialect::Op;
use crate::exchange::input_tokens;
use crate::pipeline::Call;
use crate::route::{Overrides, Target};
use crate::state::limit::{Amounts, Estimate};

/// Output tokens of an ask that names no bound. Most answers are shorter; longer ones are charged when they end.
const USUAL_OUTPUT_TOKENS: u64 = 1024;

/// Where overrides state the bound of the output, in the spellings of the wire forms.
const BOUNDS: &[&str] = &[
    "max_completion_tokens",
    "max_output_tokens",
    "max_tokens",
    "generationConfig.maxOutputTokens",
    "inferenceConfig.maxTokens",
    "options.num_predict",
];

/// What is known of an exchange before its target is.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Known {
    input: u64,
    /// It has an output.
    generates: bool,
    /// The most output tokens of one choice, as the ask states it.
    bound: Option<u64>,
    choices: u64,
}

impl Known {
    /// Reads an ask. Without `tokens` only the request is counted; counting tokens costs none.
    pub fn read(op: Op, call: &Call, tokens: bool) -> Self {
        if !tokens || op == Op::CountTokens {
            return Known::default();
        }
        let generates = matches!(op, Op::Generate | Op::Complete);
        let (bound, choices) = if generates { output(call) } else { (None, 1) };
        let envelope = &call.envelope;
        Known { input: input_tokens(envelope.body().len(), envelope.files()), generates, bound, choices }
    }

    /// How many requests, tokens and nano-dollars it will take of a target. Where nobody bounds its output, or to 0, all
    /// but the first token of it is assumed.
    pub fn at(&self, target: Option<&Target>) -> Estimate {
        let bound = target.map_or(self.bound, |target| overridden(self.bound, &target.overrides));
        // Some servers take 0 for no bound at all.
        let bound = bound.filter(|bound| *bound > 0);
        let (output, least) = match bound {
            _ if !self.generates => (0, 0),
            Some(bound) => (bound.saturating_mul(self.choices), bound.saturating_mul(self.choices)),
            None => (USUAL_OUTPUT_TOKENS.saturating_mul(self.choices), 1),
        };
        let amounts = |output| {
            let counted = Amounts { requests: 1, input: self.input, output, money: Some(0) };
            Amounts { money: target.map_or(Some(0), |target| money(&counted, target)), ..counted }
        };
        Estimate { most: amounts(output), least: amounts(least) }
    }
}

/// The bound of the output that a target is sent.
fn overridden(asked: Option<u64>, overrides: &Overrides) -> Option<u64> {
    if overrides.is_empty() {
        return asked;
    }
    let stated = |values: &BTreeMap<String, Value>| BOUNDS.iter().find_map(|path| values.get(*path)?.as_u64());
    let dropped = || overrides.drop.iter().any(|path| BOUNDS.contains(&path.as_str()));
    stated(&overrides.set).or_else(|| asked.filter(|_| !dropped())).or_else(|| stated(&overrides.default))
}

/// What tokens cost at a target, in nano-dollars. None when the price is unknown.
fn money(estimate: &Amounts, target: &Target) -> Option<u64> {
    if estimate.input == 0 && estimate.output == 0 {
        return Some(0);
    }
    target.cost(&Usage { input: estimate.input, output: estimate.output, ..Usage::default() })
}

/// The most output tokens of a choice that the ask allows, where it states that, and how many choices it wants.
fn output(call: &Call) -> (Option<u64>, u64) {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Generation {
        max_output_tokens: Option<u64>,
        candidate_count: Option<u64>,
    }
    let envelope = &call.envelope;
    let named = ["max_completion_tokens", "max_output_tokens", "max_tokens"];
    let gemini = || ["generationConfig", "generation_config"].iter().find_map(|name| envelope.get::<Generation>(name));
    let (most, choices) = match named.iter().find_map(|name| envelope.get::<u64>(name)) {
        Some(most) => (Some(most), envelope.get::<u64>("n")),
        None => match gemini() {
            Some(config) => (config.max_output_tokens, config.candidate_count),
            None => (None, envelope.get::<u64>("n")),
        },
    };
    (most, choices.unwrap_or(1).max(1))
}

/// The end user that the body names.
pub(super) fn user(call: &Call) -> Option<String> {
    #[derive(Deserialize)]
    struct Metadata {
        user_id: Option<String>,
    }
    let of_metadata = || call.envelope.get::<Metadata>("metadata")?.user_id;
    call.envelope.str("user").map(std::borrow::Cow::into_owned).or_else(of_metadata)
}

#[cfg(test)]
mod tests {
    use crate::json::Envelope;
    use http::HeaderMap;

    use super::*;
    use crate::exchange::TOKENS_PER_FILE;

    fn call(body: String) -> Call {
        Call::new(Envelope::read(body.into()).expect("an object"), HeaderMap::new())
    }

    #[test]
    fn the_bound_of_every_dialect_is_found() {
        for (body, most) in [
            (r#"{"max_tokens":50}"#, (Some(50), 1)),
            (r#"{"max_tokens":50,"n":3}"#, (Some(50), 3)),
            (r#"{"max_completion_tokens":60,"max_tokens":50}"#, (Some(60), 1)),
            (r#"{"max_output_tokens":70}"#, (Some(70), 1)),
            (r#"{"generationConfig":{"maxOutputTokens":80,"candidateCount":2}}"#, (Some(80), 2)),
            (r#"{"generationConfig":{}}"#, (None, 1)),
            (r#"{"max_tokens":null}"#, (None, 1)),
            (r#"{"max_tokens":18446744073709551615,"n":9}"#, (Some(u64::MAX), 9)),
        ] {
            assert_eq!(output(&call(body.to_owned())), most, "{body}");
        }
    }

    #[test]
    fn a_bound_of_0_is_none() {
        let of = |bound| Known { input: 10, generates: true, bound, choices: 1 }.at(None);
        assert_eq!(of(Some(0)), of(None));
        assert_eq!(of(Some(7)).least.output, 7);
    }

    #[test]
    fn inline_media_is_not_taken_for_text() {
        let image = "A".repeat(1 << 20);
        let tokens = |body: String| {
            let envelope = call(body).envelope;
            input_tokens(envelope.body().len(), envelope.files())
        };
        let seen = tokens(format!(r#"{{"messages":[{{"image_url":"data:image/png;base64,{image}"}},"words"]}}"#));
        assert!((TOKENS_PER_FILE..TOKENS_PER_FILE + 100).contains(&seen), "{seen}");
        assert_eq!(tokens(format!(r#"{{"x":"{}"}}"#, "x".repeat(393))), 101);
    }

    #[test]
    fn the_user_is_found_where_each_dialect_names_it() {
        assert_eq!(user(&call(r#"{"user":"u1"}"#.into())).as_deref(), Some("u1"));
        assert_eq!(user(&call(r#"{"metadata":{"user_id":"u2"}}"#.into())).as_deref(), Some("u2"));
        assert_eq!(user(&call(r#"{"metadata":{"user_id":3}}"#.into())), None);
    }

    #[test]
    fn what_a_target_sets_bounds_the_output() {
        let of = |set: &[(&str, u64)], default: &[(&str, u64)], drop: &[&str]| {
            let map = |list: &[(&str, u64)]| {
                list.iter().map(|(path, value)| ((*path).to_owned(), Value::from(*value))).collect()
            };
            Overrides { set: map(set), default: map(default), drop: drop.iter().map(|&path| path.to_owned()).collect() }
        };
        for (overrides, asked, bound) in [
            (of(&[], &[], &[]), None, None),
            (of(&[("max_tokens", 50)], &[], &[]), None, Some(50)),
            (of(&[("max_completion_tokens", 50)], &[], &[]), Some(900), Some(50)),
            (of(&[], &[("generationConfig.maxOutputTokens", 60)], &[]), None, Some(60)),
            (of(&[], &[("max_tokens", 60)], &[]), Some(900), Some(900)),
            (of(&[], &[], &["max_tokens"]), Some(900), None),
            (of(&[("temperature", 1)], &[], &[]), Some(900), Some(900)),
        ] {
            assert_eq!(overridden(asked, &overrides), bound, "{overrides:?}");
        }
    }
}
