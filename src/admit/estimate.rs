//! What an exchange will probably use, from its body's length and the few fields that say more. Never decodes an ask.

use serde::Deserialize;

use crate::chat::Usage;
use crate::dialect::Op;
use crate::exchange::Exchange;
use crate::json::Envelope;
use crate::pipeline::Call;
use crate::route::{Plan, Target};
use crate::state::limit::Amounts;

/// Bytes of text that stand for one token: the usual rule of thumb for English.
const BYTES_PER_TOKEN: u64 = 4;

/// Output tokens of an ask that names no bound. Most answers are shorter; longer ones are charged when they end.
const USUAL_OUTPUT_TOKENS: u64 = 1024;

/// Input tokens that an inline image or file stands for, whatever its bytes: about what providers count for a large one.
const MEDIA_TOKENS: u64 = 1600;

/// How many requests, tokens and nano-dollars an exchange will take, and whether the ask itself bounds its output.
/// Without `tokens` only the request is counted.
pub(super) fn amounts(x: &Exchange, call: &Call, plan: &Plan, tokens: bool) -> (Amounts, bool) {
    let free = Amounts { requests: 1, money: Some(0), ..Amounts::default() };
    // Counting tokens costs none.
    if !tokens || x.op == Op::CountTokens {
        return (free, true);
    }
    let input = input(&call.envelope);
    let (output, stated) = match x.op {
        Op::Generate | Op::Complete => output(call),
        _ => (0, true),
    };
    let counted = Amounts { input, output, ..free };
    let money = plan.targets.first().map_or(Some(0), |target| money(&counted, target));
    (Amounts { money, ..counted }, stated)
}

/// What the estimate costs at a target, in nano-dollars. None when the price is unknown.
pub(super) fn money(estimate: &Amounts, target: &Target) -> Option<u64> {
    if estimate.input == 0 && estimate.output == 0 {
        return Some(0);
    }
    target.cost(&Usage { input: estimate.input, output: estimate.output, ..Usage::default() })
}

fn input(envelope: &Envelope) -> u64 {
    let files = envelope.files();
    let text = (envelope.body().len() as u64).saturating_sub(files.bytes);
    text.div_ceil(BYTES_PER_TOKEN) + files.count * MEDIA_TOKENS
}

/// The most that the ask allows, or a usual amount.
fn output(call: &Call) -> (u64, bool) {
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
    let choices = choices.unwrap_or(1).max(1);
    (most.unwrap_or(USUAL_OUTPUT_TOKENS).saturating_mul(choices), most.is_some())
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
    use http::HeaderMap;

    use super::*;

    fn call(body: String) -> Call {
        Call::new(Envelope::read(body.into()).expect("an object"), HeaderMap::new())
    }

    #[test]
    fn the_bound_of_every_dialect_is_found() {
        for (body, most) in [
            (r#"{"max_tokens":50}"#, (50, true)),
            (r#"{"max_tokens":50,"n":3}"#, (150, true)),
            (r#"{"max_completion_tokens":60,"max_tokens":50}"#, (60, true)),
            (r#"{"max_output_tokens":70}"#, (70, true)),
            (r#"{"generationConfig":{"maxOutputTokens":80,"candidateCount":2}}"#, (160, true)),
            (r#"{"generationConfig":{}}"#, (USUAL_OUTPUT_TOKENS, false)),
            (r#"{"max_tokens":null}"#, (USUAL_OUTPUT_TOKENS, false)),
            (r#"{"max_tokens":18446744073709551615,"n":9}"#, (u64::MAX, true)),
        ] {
            assert_eq!(output(&call(body.to_owned())), most, "{body}");
        }
    }

    #[test]
    fn inline_media_is_not_taken_for_text() {
        let image = "A".repeat(1 << 20);
        let tokens = |body: String| input(&call(body).envelope);
        let seen = tokens(format!(r#"{{"messages":[{{"image_url":"data:image/png;base64,{image}"}},"words"]}}"#));
        assert!((MEDIA_TOKENS..MEDIA_TOKENS + 100).contains(&seen), "{seen}");
        assert_eq!(tokens(format!(r#"{{"x":"{}"}}"#, "x".repeat(393))), 101);
    }

    #[test]
    fn the_user_is_found_where_each_dialect_names_it() {
        assert_eq!(user(&call(r#"{"user":"u1"}"#.into())).as_deref(), Some("u1"));
        assert_eq!(user(&call(r#"{"metadata":{"user_id":"u2"}}"#.into())).as_deref(), Some("u2"));
        assert_eq!(user(&call(r#"{"metadata":{"user_id":3}}"#.into())), None);
    }
}
