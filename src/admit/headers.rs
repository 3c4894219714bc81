//! How limits are told to callers: OpenAI's `x-ratelimit-*`, Anthropic's `anthropic-ratelimit-*`, and the IETF's
//! `RateLimit` fields. They tell the gateway's limits, never those of an upstream account.

use std::fmt::Write;
use std::time::{Duration, UNIX_EPOCH};

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::dialect::Dialect;
use crate::state::limit::Standing;
use crate::state::limit::meter::Unit;

/// Windows that the IETF fields tell of at most.
const MAX_TOLD: usize = 8;

const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const LEFT: HeaderName = HeaderName::from_static("ratelimit");

/// Writes how the windows stand, in the words of the caller's dialect. `now` in Unix milliseconds.
pub fn write(headers: &mut HeaderMap, standing: &[Standing], dialect: &dyn Dialect, now: u64) {
    if standing.is_empty() {
        return;
    }
    if dialect.name() == "anthropic" {
        for (unit, word) in [
            (Unit::Requests, "requests"),
            (Unit::Tokens, "tokens"),
            (Unit::InputTokens, "input-tokens"),
            (Unit::OutputTokens, "output-tokens"),
        ] {
            let Some(tightest) = tightest(standing, &[unit]) else { continue };
            let name = |what: &str| HeaderName::try_from(format!("anthropic-ratelimit-{word}-{what}")).ok();
            let reset = UNIX_EPOCH + Duration::from_millis(now + tightest.reset.unwrap_or(0));
            put(headers, name("limit"), tightest.limit.to_string());
            put(headers, name("remaining"), tightest.remaining.to_string());
            put(headers, name("reset"), humantime::format_rfc3339_seconds(reset).to_string());
        }
    } else {
        for (units, word) in
            [(&[Unit::Requests][..], "requests"), (&[Unit::Tokens, Unit::InputTokens, Unit::OutputTokens], "tokens")]
        {
            let Some(tightest) = tightest(standing, units) else { continue };
            let name = |what: &str| HeaderName::try_from(format!("x-ratelimit-{what}-{word}")).ok();
            put(headers, name("limit"), tightest.limit.to_string());
            put(headers, name("remaining"), tightest.remaining.to_string());
            put(headers, name("reset"), span(tightest.reset.unwrap_or(0)));
        }
    }
    ietf(headers, standing);
}

/// The window of these units that will be used up first.
fn tightest<'a>(standing: &'a [Standing], units: &[Unit]) -> Option<&'a Standing> {
    let left = |standing: &&Standing| (u128::from(standing.remaining) << 32) / u128::from(standing.limit.max(1));
    standing.iter().filter(|standing| units.contains(&standing.unit)).min_by_key(left)
}

fn put(headers: &mut HeaderMap, name: Option<HeaderName>, value: String) {
    if let (Some(name), Ok(value)) = (name, HeaderValue::try_from(value)) {
        headers.insert(name, value);
    }
}

/// A time as OpenAI writes it: `120ms`, `1s`, `6m0s`, `1h0m0s`.
fn span(millis: u64) -> String {
    let seconds = millis.div_ceil(1000);
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, _) if millis < 1000 => format!("{millis}ms"),
        (0, 0, seconds) => format!("{seconds}s"),
        (0, minutes, seconds) => format!("{minutes}m{seconds}s"),
        (hours, minutes, seconds) => format!("{hours}h{minutes}m{seconds}s"),
    }
}

/// The IETF's structured fields (draft-ietf-httpapi-ratelimit-headers). Money has no unit there and is not told.
fn ietf(headers: &mut HeaderMap, standing: &[Standing]) {
    let (mut policy, mut left) = (String::new(), String::new());
    let told = standing.iter().filter(|standing| !matches!(standing.unit, Unit::Money | Unit::Concurrency));
    for standing in told.take(MAX_TOLD) {
        for text in [&mut policy, &mut left].into_iter().filter(|text| !text.is_empty()) {
            text.push_str(", ");
        }
        let mut name = String::new();
        for c in standing.rule.name.chars().filter(|c| matches!(c, ' '..='~')) {
            if matches!(c, '"' | '\\') {
                name.push('\\');
            }
            name.push(c);
        }
        let unit = standing.unit.as_str();
        // Writing into a string does not fail.
        let _ = write!(policy, "\"{name} {unit}\";q={}", standing.limit);
        if let Some(length) = standing.shape.length() {
            let _ = write!(policy, ";w={}", length.div_ceil(1000));
        }
        let _ = write!(left, "\"{name} {unit}\";r={}", standing.remaining);
        if let Some(reset) = standing.reset {
            let _ = write!(left, ";t={}", reset.div_ceil(1000));
        }
    }
    if !policy.is_empty() {
        put(headers, Some(POLICY), policy);
        put(headers, Some(LEFT), left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_openai_writes_them() {
        for (millis, text) in
            [(0, "0ms"), (120, "120ms"), (1000, "1s"), (59_001, "1m0s"), (360_000, "6m0s"), (3_600_000, "1h0m0s")]
        {
            assert_eq!(span(millis), text);
        }
    }
}
