//! Amounts for a time (`200k / 1m`, `$50 / day`), percentages, distances from UTC, and texts of which several may stand.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer, SeqAccess, Visitor};
use serde::ser::{Serialize, Serializer};

use super::{Duration, NANOS_PER_USD, from_text};

/// How long a quota is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Span {
    /// The last so much time, or windows of that length.
    Every(Duration),
    /// A day, a month: as the calendar has it.
    Calendar(&'static str),
    /// For ever.
    Total,
}

/// The words of calendar windows.
const CALENDAR: &[&str] = &["minute", "hour", "day", "week", "month", "year"];

/// An amount for a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// Requests or tokens; of money, nano-dollars.
    pub amount: u64,
    pub span: Span,
}

/// Factors of the letters after a number of requests or tokens, largest first.
const FACTORS: &[(char, u64)] = &[('B', 1_000_000_000), ('M', 1_000_000), ('k', 1000)];

impl Quota {
    fn parse(text: &str, money: bool) -> Result<Self, String> {
        let wrong = |what: &str| {
            let how = if money { "$50 / day or $0.25 / 1h" } else { "100 / 1m, 200k / 1m or 5M / day" };
            format!("{what}; write an amount and a time, such as {how}")
        };
        let (amount, span) = text.split_once('/').ok_or_else(|| wrong("has no time"))?;
        let (amount, span) = (amount.trim(), span.trim());
        let amount = match (money, amount.strip_prefix('$')) {
            (true, bare) => nano(bare.unwrap_or(amount).trim()),
            (false, Some(_)) => return Err(wrong("is money where a count is wanted")),
            (false, None) => count(amount),
        };
        let amount = amount.ok_or_else(|| match text.trim_start().find('K') {
            Some(_) if !money => wrong("has a `K` where thousands are a small `k`"),
            _ => wrong("has no amount before the `/`"),
        })?;
        if amount == 0 {
            return Err(wrong("allows nothing"));
        }
        let span = match CALENDAR.iter().find(|word| **word == span) {
            Some(word) => Span::Calendar(word),
            None if span == "total" => Span::Total,
            None => {
                let every: Duration = span.parse().map_err(|error: String| {
                    let words = CALENDAR.join(", ");
                    match error.strip_prefix("is too long") {
                        Some(longest) => format!("has too long a time after the `/`{longest}, or write year or total"),
                        None => format!("has no time after the `/`; write a duration such as 1m, or {words} or total"),
                    }
                })?;
                if every.get().as_millis() == 0 {
                    return Err(wrong("is for no time"));
                }
                Span::Every(every)
            }
        };
        Ok(Quota { amount, span })
    }

    fn write(&self, money: bool, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if money {
            write!(f, "${} / ", super::Usd(self.amount))?;
        } else {
            let exact = |(_, factor): &&(char, u64)| self.amount.is_multiple_of(*factor);
            match FACTORS.iter().find(exact) {
                Some((letter, factor)) => write!(f, "{}{letter} / ", self.amount / factor)?,
                None => write!(f, "{} / ", self.amount)?,
            }
        }
        match self.span {
            Span::Every(every) => write!(f, "{every}"),
            Span::Calendar(word) => f.write_str(word),
            Span::Total => f.write_str("total"),
        }
    }
}

/// A decimal number in billionths.
fn nano(text: &str) -> Option<u64> {
    super::Usd::from_str(&text.replace('_', "x")).ok().map(super::Usd::nanos)
}

/// `200`, `200k`, `1.5M`.
fn count(text: &str) -> Option<u64> {
    let (number, factor) =
        FACTORS.iter().find_map(|(letter, factor)| Some((text.strip_suffix(*letter)?, *factor))).unwrap_or((text, 1));
    let exact = u128::from(nano(number.trim())?) * u128::from(factor);
    let unit = u128::from(NANOS_PER_USD);
    // A fraction of a token is a slip.
    exact.is_multiple_of(unit).then(|| u64::try_from(exact / unit).ok()).flatten()
}

/// A text, or a list of them.
struct Many<T> {
    parse: fn(&str) -> Result<T, String>,
    expected: &'static str,
}

impl<'de, T> Visitor<'de> for Many<T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(vec![(self.parse)(text).map_err(E::custom)?])
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Self::Value, E> {
        self.visit_str(&value.to_string())
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Self::Value, E> {
        self.visit_str(&value.to_string())
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Self::Value, E> {
        self.visit_str(&value.to_string())
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Self::Value, E> {
        self.visit_str(&value.to_string())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let mut all = Vec::new();
        while let Some(text) = items.next_element::<String>()? {
            all.push((self.parse)(&text).map_err(|error| de::Error::custom(format!("`{text}` {error}")))?);
        }
        Ok(all)
    }
}

/// Serde and schema of a type of which one or several are written.
macro_rules! many {
    ($type:ident, $item:ty, $parse:expr, $expected:literal, $schema:tt) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any(Many::<$item> { parse: $parse, expected: $expected }).map($type)
            }
        }

        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                let one = json_schema!($schema);
                json_schema!({ "anyOf": [one, { "type": "array", "items": one }] })
            }
        }
    };
}

/// How many requests or tokens for which time; several are all held.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Quotas(pub Vec<Quota>);

/// How much money for which time; several are all held.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Spends(pub Vec<Quota>);

/// One text or several.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Texts(pub Vec<String>);

many!(Quotas, Quota, |text| Quota::parse(text, false), "an amount and a time", {
    "type": "string",
    "description": "An amount for a time: 100 / 1m, 200k / 1m, 5M / day.",
    "pattern": "^[0-9.]+[kMB]? */ *[a-z0-9]+$",
});
many!(Spends, Quota, |text| Quota::parse(text, true), "an amount of money and a time", {
    "type": "string",
    "description": "Dollars for a time: $50 / day, $0.25 / 1h, $1000 / total.",
    "pattern": "^\\$?[0-9.]+ */ *[a-z0-9]+$",
});
many!(Texts, String, |text| Ok(text.to_owned()), "text, or a list of texts", { "type": ["string", "number", "boolean"] });

struct Shown<'a>(&'a Quota, bool);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.write(self.1, f)
    }
}

impl Serialize for Texts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(&self.0)
    }
}

impl Serialize for Quotas {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|quota| Shown(quota, false).to_string()))
    }
}

impl Serialize for Spends {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|quota| Shown(quota, true).to_string()))
    }
}

/// A part of a whole, to a tenth of a percent: `60%`, `12.5%`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Portion(u64);

impl Portion {
    pub const fn of(percent: u64) -> Self {
        Portion(percent * 10)
    }

    /// Thousandths.
    pub const fn permille(self) -> u64 {
        self.0
    }
}

impl FromStr for Portion {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "is not a percentage; write a number and `%`, such as 60%".to_owned();
        let number = text.strip_suffix('%').ok_or_else(wrong)?;
        let nano = nano(number.trim()).ok_or_else(wrong)?;
        let tenth = NANOS_PER_USD / 10;
        if nano == 0 || nano > 1000 * NANOS_PER_USD || !nano.is_multiple_of(tenth) {
            return Err("is not from 0.1% to 1000%, in steps of 0.1%; write such a percentage".to_owned());
        }
        Ok(Portion(nano / tenth))
    }
}

impl fmt::Display for Portion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 % 10 {
            0 => write!(f, "{}%", self.0 / 10),
            tenth => write!(f, "{}.{tenth}%", self.0 / 10),
        }
    }
}

/// A fixed distance from UTC: `UTC`, `+02:00`, `-05:30`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Zone(i16);

impl Zone {
    /// Minutes east of UTC.
    pub const fn minutes(self) -> i16 {
        self.0
    }
}

impl FromStr for Zone {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "is not a distance from UTC; write UTC, or hours and minutes such as +02:00".to_owned();
        if text == "UTC" || text == "Z" {
            return Ok(Zone(0));
        }
        let (sign, rest) = match text.split_at_checked(1) {
            Some(("+", rest)) => (1, rest),
            Some(("-", rest)) => (-1, rest),
            _ => return Err(wrong()),
        };
        let (hours, minutes) = rest.split_once(':').ok_or_else(wrong)?;
        let read = |text: &str| (text.len() == 2).then(|| text.parse::<i16>().ok()).flatten();
        match (read(hours), read(minutes)) {
            (Some(hours @ 0..=14), Some(minutes @ 0..=59)) => Ok(Zone(sign * (hours * 60 + minutes))),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str("UTC"),
            minutes => {
                let sign = if minutes < 0 { '-' } else { '+' };
                write!(f, "{sign}{:02}:{:02}", minutes.abs() / 60, minutes.abs() % 60)
            }
        }
    }
}

text_value!(Portion, "a percentage", {
    "type": "string",
    "description": "A number and a percent sign: 60%, 12.5%.",
    "pattern": "^[0-9]+(\\.[0-9])?%$",
});
text_value!(Zone, "a distance from UTC", {
    "type": "string",
    "description": "UTC, or a fixed distance from it: +02:00.",
    "pattern": "^(UTC|[+-][0-9]{2}:[0-9]{2})$",
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotas_are_read_and_printed_shortest() {
        for (text, money, amount, printed) in [
            ("100 / 1m", false, 100, "100 / 1m"),
            ("200k/1m", false, 200_000, "200k / 1m"),
            ("1.5M / day", false, 1_500_000, "1500k / day"),
            ("2000 / 60s", false, 2000, "2k / 1m"),
            ("$50 / day", true, 50_000_000_000, "$50 / day"),
            ("0.25 / 1h", true, 250_000_000, "$0.25 / 1h"),
            ("$1000 / total", true, 1_000_000_000_000, "$1000 / total"),
        ] {
            let quota = Quota::parse(text, money).expect(text);
            assert_eq!(quota.amount, amount, "{text}");
            assert_eq!(Shown(&quota, money).to_string(), printed);
            assert_eq!(Quota::parse(printed, money), Ok(quota));
        }
        for (text, money) in [
            ("100", false),
            ("/ 1m", false),
            ("100 /", false),
            ("0 / 1m", false),
            ("1.5 / 1m", false),
            ("$5 / 1m", false),
            ("100 / 0s", false),
            ("100 / fortnight", false),
            ("-1 / 1m", false),
            ("5k / day", true),
            ("1_000 / 1m", false),
        ] {
            let error = Quota::parse(text, money).expect_err(text);
            assert!(error.contains("; write"), "{text}: {error}");
        }
    }

    #[test]
    fn percentages_and_zones_are_read_exactly() {
        assert_eq!("60%".parse::<Portion>().map(Portion::permille), Ok(600));
        assert_eq!("12.5%".parse::<Portion>().map(|it| it.to_string()), Ok("12.5%".to_owned()));
        for text in ["60", "0%", "-1%", "1.25%", "%"] {
            assert!(text.parse::<Portion>().is_err(), "{text}");
        }
        for (text, minutes) in [("UTC", 0), ("+02:00", 120), ("-05:30", -330)] {
            let zone: Zone = text.parse().expect(text);
            assert_eq!((zone.minutes(), zone.to_string().as_str()), (minutes, text));
        }
        for text in ["CET", "2", "+2:00", "+15:00", "+02:60"] {
            assert!(text.parse::<Zone>().is_err(), "{text}");
        }
    }
}
