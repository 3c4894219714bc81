//! The end of a key's life as a date or a moment (RFC 3339).
//!
//! Never asks a clock: whoever checks a key brings the time.

use std::fmt;
use std::str::FromStr;

/// A moment after which something is no longer valid. A date alone means the end of that day in UTC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expiry {
    text: String,
    unix: i64,
}

impl Expiry {
    /// Seconds since 1970 from which on it is over.
    pub fn unix(&self) -> i64 {
        self.unix
    }
}

impl FromStr for Expiry {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "is not a date; write 2027-01-31 or 2027-01-31T18:00:00Z".to_owned();
        let unix = if text.len() == 10 {
            days(text).ok_or_else(wrong)? * 86_400 + 86_400
        } else {
            moment(text).ok_or_else(wrong)?
        };
        Ok(Expiry { text: text.to_owned(), unix })
    }
}

impl fmt::Display for Expiry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The days from 1970-01-01 to a date, by the civil calendar.
fn days(text: &str) -> Option<i64> {
    let mut parts = text.split('-');
    let (year, month, day) = (number(parts.next()?, 4)?, number(parts.next()?, 2)?, number(parts.next()?, 2)?);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let length = match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if parts.next().is_some() || !(1..=length).contains(&day) || year < 1970 {
        return None;
    }
    // Years that begin in March have their leap day at the end, so whole years and months can be counted.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days_before_month = (153 * month + 2) / 5;
    Some(year * 365 + year / 4 - year / 100 + year / 400 + days_before_month + day - 1 - 719_468)
}

/// `DATE T HH:MM:SS[.fraction] (Z | ±HH:MM)` in Unix seconds; a fraction is cut off.
fn moment(text: &str) -> Option<i64> {
    let date = text.get(..10)?;
    let rest = text.get(10..)?.strip_prefix(['T', 't', ' '])?;
    let (clock, rest) = (rest.get(..8)?, rest.get(8..)?);
    let zone = match rest.strip_prefix('.') {
        Some(fraction) => {
            let zone = fraction.trim_start_matches(|c: char| c.is_ascii_digit());
            (zone.len() < fraction.len()).then_some(zone)?
        }
        None => rest,
    };
    let (hour, minute) = hour_minute(clock.get(..5)?)?;
    let second = number(clock.get(5..)?.strip_prefix(':')?, 2).filter(|second| *second <= 60)?;
    let offset = match zone {
        "Z" | "z" => 0,
        _ => {
            let sign = if zone.starts_with('-') { -1 } else { 1 };
            let (hours, minutes) = hour_minute(zone.strip_prefix(['+', '-'])?)?;
            sign * (hours * 3600 + minutes * 60)
        }
    };
    Some(days(date)? * 86_400 + hour * 3600 + minute * 60 + second - offset)
}

fn hour_minute(text: &str) -> Option<(i64, i64)> {
    let (hour, minute) = text.split_once(':')?;
    let (hour, minute) = (number(hour, 2)?, number(minute, 2)?);
    (hour < 24 && minute < 60).then_some((hour, minute))
}

fn number(text: &str, digits: usize) -> Option<i64> {
    (text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_and_moments_become_unix_seconds() {
        for (text, unix) in [
            ("1970-01-01", 86_400),
            ("2024-02-29", 1_709_251_200),
            ("2027-01-31", 1_801_440_000),
            ("2027-01-31T18:00:00Z", 1_801_418_400),
            ("2027-01-31t18:00:00.250z", 1_801_418_400),
            ("2027-01-31 20:00:00+02:00", 1_801_418_400),
            ("2027-01-31T12:30:00-05:30", 1_801_418_400),
            ("2000-03-01T00:00:00Z", 951_868_800),
        ] {
            let expiry: Expiry = text.parse().expect(text);
            assert_eq!(expiry.unix(), unix, "{text}");
            assert_eq!(expiry.to_string(), text);
        }
    }

    #[test]
    fn impossible_dates_are_refused() {
        for text in [
            "",
            "2027-02-29",
            "2027-13-01",
            "2027-00-10",
            "2027-1-31",
            "31.01.2027",
            "2027-01-31T18:00:00",
            "2027-01-31T24:00:00Z",
            "2027-01-31T18:00:00.Z",
            "2027-01-31T18:00:00+25:00",
            "2027-01-31T18:00Z",
            "2027-01-3\u{e9}T18:00:00Z",
            "tomorrow",
        ] {
            assert!(text.parse::<Expiry>().is_err(), "{text}");
        }
    }
}
