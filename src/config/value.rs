//! Values with a unit: durations, byte sizes, prices, dates, and secrets that never show themselves.
//!
//! Each is written as text, read from text and printed in its shortest form. Never rounds: what cannot be held exactly
//! is refused.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::ser::{Serialize, Serializer};

mod expiry;
pub(super) mod secret;
mod share;

pub use expiry::Expiry;
pub use secret::Secret;
pub(super) use secret::optional as optional_secret;
pub use share::{After, Share, Source};

/// The longest duration that may be written: a year. Timers overflow on absurd ones.
const MAX_DURATION: std::time::Duration = std::time::Duration::from_secs(365 * 24 * 3600);

/// A length of time, written with its unit: `250ms`, `4s`, `2m`, `1h`, `1m30s`, `7d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Duration(std::time::Duration);

/// The units of a duration in milliseconds, longest first, as they must follow each other.
const UNITS: &[(&str, u64)] = &[("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

impl Duration {
    pub const fn from_secs(seconds: u64) -> Self {
        Duration(std::time::Duration::from_secs(seconds))
    }

    pub const fn from_millis(millis: u64) -> Self {
        Duration(std::time::Duration::from_millis(millis))
    }

    pub const fn get(self) -> std::time::Duration {
        self.0
    }

    pub const fn is_zero(self) -> bool {
        self.0.is_zero()
    }
}

impl From<Duration> for std::time::Duration {
    fn from(duration: Duration) -> Self {
        duration.0
    }
}

impl FromStr for Duration {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const HOW: &str = "write a number with its unit, such as 250ms, 4s, 2m, 1h or 1m30s";
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(format!("has no unit; {HOW}"));
        }
        let wrong = || format!("is not a duration; {HOW}");
        let mut rest = text;
        let mut millis: u64 = 0;
        let mut allowed = UNITS;
        while !rest.is_empty() {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let (number, after) = rest.split_at(digits);
            let letters = after.bytes().take_while(u8::is_ascii_alphabetic).count();
            let (unit, after) = after.split_at(letters);
            let place = allowed.iter().position(|(name, _)| *name == unit).ok_or_else(wrong)?;
            let number: u64 = number.parse().map_err(|_| wrong())?;
            millis = number
                .checked_mul(allowed[place].1)
                .and_then(|more| millis.checked_add(more))
                .ok_or("is too long; the longest duration is 365d")?;
            allowed = &allowed[place + 1..];
            rest = after;
        }
        if text.is_empty() {
            return Err(wrong());
        }
        let duration = std::time::Duration::from_millis(millis);
        if duration > MAX_DURATION {
            return Err("is too long; the longest duration is 365d".to_owned());
        }
        Ok(Duration(duration))
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_zero() {
            return f.write_str("0s");
        }
        // Within MAX_DURATION, so the milliseconds fit.
        let mut left = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        for (unit, millis) in UNITS {
            if left >= *millis {
                write!(f, "{}{unit}", left / millis)?;
                left %= millis;
            }
        }
        Ok(())
    }
}

/// A duration that may be switched off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DurationOrOff(Option<Duration>);

impl DurationOrOff {
    pub const OFF: Self = DurationOrOff(None);

    pub const fn from_secs(seconds: u64) -> Self {
        DurationOrOff(Some(Duration::from_secs(seconds)))
    }

    /// None when it is off.
    pub const fn get(self) -> Option<std::time::Duration> {
        match self.0 {
            Some(duration) => Some(duration.get()),
            None => None,
        }
    }
}

impl FromStr for DurationOrOff {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            // Tools that still speak YAML 1.1 write `off` back as `false`.
            "off" | "false" => Ok(Self::OFF),
            _ => text.parse().map(|duration| DurationOrOff(Some(duration))).map_err(|error: String| error + ", or off"),
        }
    }
}

impl fmt::Display for DurationOrOff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(duration) => duration.fmt(f),
            None => f.write_str("off"),
        }
    }
}

/// A number of bytes, written with its unit: `64KiB`, `10MB`, `1GiB`, `512`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(u64);

const SIZES: &[(&str, u64)] = &[
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1000),
    ("kB", 1000),
    ("B", 1),
    ("", 1),
];

impl ByteSize {
    pub const fn new(bytes: u64) -> Self {
        ByteSize(bytes)
    }

    pub const fn kib(count: u64) -> Self {
        ByteSize(count << 10)
    }

    pub const fn mib(count: u64) -> Self {
        ByteSize(count << 20)
    }

    pub const fn get(self) -> u64 {
        self.0
    }

    /// The size as a length in memory; the largest one on machines where it does not fit.
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "is not a size; write a whole number with its unit, such as 64KiB, 10MB or 512".to_owned();
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let unit = unit.trim_start_matches(' ');
        let (_, factor) = SIZES.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
        number.checked_mul(*factor).map(ByteSize).ok_or_else(|| "is too large a size".to_owned())
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = |(_, factor): &&(&str, u64)| self.0 >= *factor && self.0.is_multiple_of(*factor);
        match SIZES.iter().find(exact) {
            Some(("" | "B", _)) | None => write!(f, "{}", self.0),
            Some((unit, factor)) => write!(f, "{}{unit}", self.0 / factor),
        }
    }
}

/// An amount of US dollars per million tokens: `2.50`. Held exactly, in nano-dollars.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Usd(u64);

const NANOS_PER_USD: u64 = 1_000_000_000;

impl Usd {
    /// Nano-dollars per million tokens.
    pub const fn nanos(self) -> u64 {
        self.0
    }
}

impl FromStr for Usd {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "is not a price; write dollars per million tokens as a decimal number, such as 2.50".to_owned();
        let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
        let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        if !is_number(whole) || !is_number(fraction) {
            return Err(wrong());
        }
        let fraction = fraction.trim_end_matches('0');
        if fraction.len() > 9 {
            return Err("is finer than a nano-dollar; write at most nine decimals".to_owned());
        }
        let whole: u64 = whole.parse().map_err(|_| wrong())?;
        let nanos: u64 = format!("{fraction:0<9}").parse().map_err(|_| wrong())?;
        let total = whole.checked_mul(NANOS_PER_USD).and_then(|dollars| dollars.checked_add(nanos));
        total.map(Usd).ok_or_else(|| "is too large a price".to_owned())
    }
}

impl fmt::Display for Usd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, nanos) = (self.0 / NANOS_PER_USD, self.0 % NANOS_PER_USD);
        let fraction = format!("{nanos:09}");
        match fraction.trim_end_matches('0') {
            "" => write!(f, "{whole}"),
            fraction => write!(f, "{whole}.{fraction}"),
        }
    }
}

/// Reads a value from its text. Numbers and booleans come as they were spelt.
pub(super) fn from_text<'de, D, T>(deserializer: D, expected: &'static str) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err = String>,
{
    deserializer.deserialize_str(Text { expected, of: std::marker::PhantomData })
}

struct Text<T> {
    expected: &'static str,
    of: std::marker::PhantomData<T>,
}

impl<T: FromStr<Err = String>> Visitor<'_> for Text<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<T, E> {
        self.visit_str(&value.to_string())
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<T, E> {
        self.visit_str(&value.to_string())
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<T, E> {
        self.visit_str(&value.to_string())
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<T, E> {
        self.visit_str(&value.to_string())
    }
}

/// Serde and schema of a type that is written as text.
macro_rules! text_value {
    ($type:ident, $expected:literal, $schema:tt) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                from_text(deserializer, $expected)
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    };
}

// Stands below the macro that it uses.
mod quota;

pub use quota::{Portion, Quota, Quotas, Span, Spends, Texts, Zone};

text_value!(Duration, "a duration", {
    "type": "string",
    "description": "A length of time with its unit: 250ms, 4s, 2m, 1h, 1m30s, 7d.",
    "pattern": "^([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?$",
});
text_value!(DurationOrOff, "a duration or off", {
    "type": ["string", "boolean"],
    "description": "A length of time with its unit (250ms, 4s, 2m, 1h, 1m30s), or off.",
    "pattern": "^(off|([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?)$",
});
text_value!(ByteSize, "a size", {
    "type": ["string", "integer"],
    "description": "A number of bytes, plain or with its unit: 512, 64KiB, 10MB, 1GiB.",
    "pattern": "^[0-9]+ *(B|[kK]B|MB|GB|KiB|MiB|GiB)?$",
    "minimum": 0,
});
text_value!(Usd, "a price", {
    "type": ["number", "string"],
    "description": "US dollars per million tokens, with at most nine decimals: 2.50.",
    "pattern": "^[0-9]+(\\.[0-9]+)?$",
    "minimum": 0,
});
text_value!(Expiry, "a date", {
    "type": "string",
    "description": "A date (2027-01-31, its end in UTC) or a moment (2027-01-31T18:00:00Z).",
    "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}([Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\\.[0-9]+)?([Zz]|[+-][0-9]{2}:[0-9]{2}))?$",
});

text_value!(Share, "a share", {
    "type": "string",
    "description": "A share as a percentage: 10%, 0.5%.",
    "pattern": "^[0-9]+(\\.[0-9]{1,3})?%$",
});
text_value!(After, "a time or a quantile", {
    "type": "string",
    "description": "A length of time (800ms), or a quantile of the target's own time to the first content: p50, p75, p90, p95, p99.",
    "pattern": "^(p(50|75|90|95|99)|([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?)$",
});
text_value!(Source, "what of a request is meant", {
    "type": "string",
    "description": "What of a request a rule looks at: header.NAME, param.FIELD, metadata.NAME, principal.key, principal.project, model, session, prompt_cache_key, messages, tokens.",
    "pattern": "^((header|param|body|metadata)\\..+|principal\\.(key|project)|model|session|prompt_cache_key|messages|tokens)$",
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_with_units_and_printed_shortest() {
        for (text, millis, printed) in [
            ("250ms", 250, "250ms"),
            ("4s", 4000, "4s"),
            ("2m", 120_000, "2m"),
            ("1h", 3_600_000, "1h"),
            ("1m30s", 90_000, "1m30s"),
            ("90s", 90_000, "1m30s"),
            ("1500ms", 1500, "1s500ms"),
            ("24h", 86_400_000, "1d"),
            ("0s", 0, "0s"),
        ] {
            let duration: Duration = text.parse().expect(text);
            assert_eq!(duration, Duration::from_millis(millis), "{text}");
            assert_eq!(duration.to_string(), printed);
            assert_eq!(printed.parse(), Ok(duration));
        }
    }

    #[test]
    fn what_is_no_duration_says_what_to_write() {
        for text in ["", "s", "4 s", "4sec", "-4s", "1.5s", "30s1m", "1s1s", "4S", "ms"] {
            let error = text.parse::<Duration>().expect_err(text);
            assert!(error.starts_with("is not a duration; write a number with its unit"), "{text}: {error}");
        }
        assert!("30".parse::<Duration>().expect_err("no unit").starts_with("has no unit; write"));
        assert!("366d".parse::<Duration>().expect_err("long").starts_with("is too long"));
        assert!("99999999999999999999h".parse::<Duration>().is_err());
        assert!("18446744073709551615h".parse::<Duration>().is_err());
        assert_eq!("off".parse(), Ok(DurationOrOff::OFF));
        assert_eq!("4s".parse(), Ok(DurationOrOff::from_secs(4)));
        assert!("never".parse::<DurationOrOff>().expect_err("word").ends_with("or 1m30s, or off"));
    }

    #[test]
    fn sizes_are_read_with_units_and_printed_shortest() {
        for (text, bytes, printed) in [
            ("64KiB", 65_536, "64KiB"),
            ("64 KiB", 65_536, "64KiB"),
            ("10MB", 10_000_000, "10MB"),
            ("65536", 65_536, "64KiB"),
            ("1GiB", 1 << 30, "1GiB"),
            ("512B", 512, "512"),
            ("0", 0, "0"),
            ("1025", 1025, "1025"),
        ] {
            let size: ByteSize = text.parse().expect(text);
            assert_eq!(size.get(), bytes, "{text}");
            assert_eq!(size.to_string(), printed);
            assert_eq!(printed.parse(), Ok(size));
        }
        for text in ["", "KiB", "1.5MiB", "-1", "10 mb", "1_000", "99999999999999999999", "18446744073709551615GiB"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }

    #[test]
    fn prices_are_exact_to_the_nano_dollar() {
        for (text, nanos, printed) in [
            ("2.50", 2_500_000_000, "2.5"),
            ("3", 3_000_000_000, "3"),
            ("0.000000001", 1, "0.000000001"),
            ("0.1", 100_000_000, "0.1"),
            ("15.0", 15_000_000_000, "15"),
            ("0.10000000000", 100_000_000, "0.1"),
        ] {
            let price: Usd = text.parse().expect(text);
            assert_eq!(price.nanos(), nanos, "{text}");
            assert_eq!(price.to_string(), printed);
        }
        for text in ["", ".5", "1.", "-1", "1e-3", "$3", "1,5", "0.0000000001", "99999999999"] {
            assert!(text.parse::<Usd>().is_err(), "{text}");
        }
    }
}
