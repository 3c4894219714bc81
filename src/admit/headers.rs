//! How limits are told to callers: OpenAI's `x-ratelimit-*`, Anthropic's `anthropic-ratelimit-*`, and the IETF's
//! `RateLimit` fields. They tell the gateway's limits, never those of an upstream account.

use std::ops::Range;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use smallvec::SmallVec;

use crate::cost::decimal::digits;
use crate::dialect::Dialect;
use crate::state::limit::Standing;
use crate::state::limit::meter::Unit;

/// Windows that the IETF fields tell of at most.
const MAX_TOLD: usize = 8;

/// Room for the values of two windows.
const VALUES_BYTES: usize = 256;

static POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
static LEFT: HeaderName = HeaderName::from_static("ratelimit");

/// What a dialect says of units that it counts together.
struct Words {
    units: &'static [Unit],
    limit: HeaderName,
    remaining: HeaderName,
    reset: HeaderName,
}

static ANTHROPIC: [Words; 4] = [
    Words {
        units: &[Unit::Requests],
        limit: HeaderName::from_static("anthropic-ratelimit-requests-limit"),
        remaining: HeaderName::from_static("anthropic-ratelimit-requests-remaining"),
        reset: HeaderName::from_static("anthropic-ratelimit-requests-reset"),
    },
    Words {
        units: &[Unit::Tokens],
        limit: HeaderName::from_static("anthropic-ratelimit-tokens-limit"),
        remaining: HeaderName::from_static("anthropic-ratelimit-tokens-remaining"),
        reset: HeaderName::from_static("anthropic-ratelimit-tokens-reset"),
    },
    Words {
        units: &[Unit::InputTokens],
        limit: HeaderName::from_static("anthropic-ratelimit-input-tokens-limit"),
        remaining: HeaderName::from_static("anthropic-ratelimit-input-tokens-remaining"),
        reset: HeaderName::from_static("anthropic-ratelimit-input-tokens-reset"),
    },
    Words {
        units: &[Unit::OutputTokens],
        limit: HeaderName::from_static("anthropic-ratelimit-output-tokens-limit"),
        remaining: HeaderName::from_static("anthropic-ratelimit-output-tokens-remaining"),
        reset: HeaderName::from_static("anthropic-ratelimit-output-tokens-reset"),
    },
];

static OPENAI: [Words; 2] = [
    Words {
        units: &[Unit::Requests],
        limit: HeaderName::from_static("x-ratelimit-limit-requests"),
        remaining: HeaderName::from_static("x-ratelimit-remaining-requests"),
        reset: HeaderName::from_static("x-ratelimit-reset-requests"),
    },
    Words {
        units: &[Unit::Tokens, Unit::InputTokens, Unit::OutputTokens],
        limit: HeaderName::from_static("x-ratelimit-limit-tokens"),
        remaining: HeaderName::from_static("x-ratelimit-remaining-tokens"),
        reset: HeaderName::from_static("x-ratelimit-reset-tokens"),
    },
];

/// Writes how the windows stand, in the words of the caller's dialect. `now` in Unix milliseconds.
pub fn write(headers: &mut HeaderMap, standing: &[Standing], dialect: &dyn Dialect, now: u64) {
    if standing.is_empty() {
        return;
    }
    let anthropic = dialect.name() == "anthropic";
    let mut values = Values { text: Vec::with_capacity(VALUES_BYTES), told: SmallVec::new() };
    for words in if anthropic { &ANTHROPIC[..] } else { &OPENAI[..] } {
        let Some(tightest) = tightest(standing, words.units) else { continue };
        let reset = tightest.reset.unwrap_or(0);
        values.put(&words.limit, |out| digits(out, tightest.limit));
        values.put(&words.remaining, |out| digits(out, tightest.remaining));
        values.put(&words.reset, |out| if anthropic { date(out, now + reset) } else { span(out, reset) });
    }
    ietf(&mut values, standing);
    values.into_headers(headers);
}

/// The window of these units that will be used up first.
fn tightest<'a>(standing: &'a [Standing], units: &[Unit]) -> Option<&'a Standing> {
    // What is left of the limit, as fractions made equal: a division of 128 bits takes longer than all the rest.
    let left = |one: &Standing, other: &Standing| u128::from(one.remaining) * u128::from(other.limit.max(1));
    let of_units = standing.iter().filter(|standing| units.contains(&standing.unit));
    of_units.min_by(|one, other| left(one, other).cmp(&left(other, one)))
}

/// Values that are written into one text, of which each header gets its part: every answer has eight of them.
struct Values {
    text: Vec<u8>,
    told: SmallVec<[(&'static HeaderName, Range<usize>); 8]>,
}

impl Values {
    fn put(&mut self, name: &'static HeaderName, write: impl FnOnce(&mut Vec<u8>)) {
        let from = self.text.len();
        write(&mut self.text);
        self.told.push((name, from..self.text.len()));
    }

    fn into_headers(self, headers: &mut HeaderMap) {
        let text = Bytes::from(self.text);
        for (name, at) in self.told {
            if let Ok(value) = HeaderValue::from_maybe_shared(text.slice(at)) {
                headers.insert(name.clone(), value);
            }
        }
    }
}

/// A time as Anthropic writes it: RFC 3339, in whole seconds.
fn date(out: &mut Vec<u8>, unix_ms: u64) {
    let at = UNIX_EPOCH + Duration::from_millis(unix_ms);
    out.extend_from_slice(humantime::format_rfc3339_seconds(at).to_string().as_bytes());
}

/// A time as OpenAI writes it: `120ms`, `1s`, `6m0s`, `1h0m0s`.
fn span(out: &mut Vec<u8>, millis: u64) {
    if millis <= 999 {
        digits(out, millis);
        return out.extend_from_slice(b"ms");
    }
    let seconds = millis.div_ceil(1000);
    let parts = [(seconds / 3600, b'h'), (seconds / 60 % 60, b'm'), (seconds % 60, b's')];
    let first = parts.iter().position(|(number, _)| *number > 0).unwrap_or(2);
    for (number, letter) in &parts[first..] {
        digits(out, *number);
        out.push(*letter);
    }
}

/// The IETF's structured fields (draft-ietf-httpapi-ratelimit-headers). Money has no unit there and is not told.
fn ietf(values: &mut Values, standing: &[Standing]) {
    let told = || {
        let known = |standing: &&Standing| !matches!(standing.unit, Unit::Money | Unit::Concurrency);
        standing.iter().filter(known).take(MAX_TOLD).enumerate()
    };
    if told().next().is_none() {
        return;
    }
    values.put(&POLICY, |out| {
        for (position, standing) in told() {
            item(out, position, standing);
            parameter(out, b'q', standing.limit);
            if let Some(length) = standing.shape.length() {
                parameter(out, b'w', length.div_ceil(1000));
            }
        }
    });
    values.put(&LEFT, |out| {
        for (position, standing) in told() {
            item(out, position, standing);
            parameter(out, b'r', standing.remaining);
            if let Some(reset) = standing.reset {
                parameter(out, b't', reset.div_ceil(1000));
            }
        }
    });
}

/// The string that names a window, after those before it.
fn item(out: &mut Vec<u8>, position: usize, standing: &Standing) {
    out.extend_from_slice(if position == 0 { b"\"" } else { b", \"" });
    // Names are free, and such a string is of printable ASCII.
    for byte in standing.rule.name.bytes().filter(|byte| matches!(byte, b' '..=b'~')) {
        if matches!(byte, b'"' | b'\\') {
            out.push(b'\\');
        }
        out.push(byte);
    }
    out.push(b' ');
    out.extend_from_slice(standing.unit.as_str().as_bytes());
    out.push(b'"');
}

fn parameter(out: &mut Vec<u8>, letter: u8, number: u64) {
    out.extend_from_slice(&[b';', letter, b'=']);
    digits(out, number);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_openai_writes_them() {
        for (millis, text) in [
            (0, "0ms"),
            (120, "120ms"),
            (1000, "1s"),
            (59_001, "1m0s"),
            (360_000, "6m0s"),
            (3_600_000, "1h0m0s"),
            (90_061_000, "25h1m1s"),
        ] {
            let mut out = Vec::new();
            span(&mut out, millis);
            assert_eq!(String::from_utf8_lossy(&out), text);
        }
    }
}
