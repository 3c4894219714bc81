//! Clocks and calendars for guests.
//!
//! The moment comes from the world around the call, so that tests of policies have their own.

use std::time::Duration;

use super::{Cx, HostError};

/// Longest sleep of one call.
const MAX_SLEEP: Duration = Duration::from_secs(60);

/// A moment as a calendar has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Date {
    pub year: i64,
    pub month: u32,
    pub day: u32,
    pub hour: u32,
    pub minute: u32,
    pub second: u32,
    /// 1 is Monday, 7 Sunday.
    pub weekday: u32,
}

/// Now, in Unix milliseconds.
pub fn unix_ms() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

pub fn now_ms(cx: &Cx) -> u64 {
    cx.world.as_ref().map_or_else(unix_ms, |world| world.unix_ms())
}

/// A moment in the proleptic Gregorian calendar.
pub fn date(unix_ms: i64, offset_minutes: i64) -> Date {
    let seconds = unix_ms.div_euclid(1000) + offset_minutes * 60;
    let (days, rest) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Days since 0000-03-01, so that the leap day is the last of its year (Howard Hinnant, "chrono-compatible
    // low-level date algorithms").
    let shifted = days + 719_468;
    let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    Date {
        year: year_of_era + era * 400 + i64::from(month <= 2),
        month: month as u32,
        day: (of_year - (153 * shifted_month + 2) / 5 + 1) as u32,
        hour: (rest / 3600) as u32,
        minute: (rest / 60 % 60) as u32,
        second: (rest % 60) as u32,
        // The first of January 1970 was a Thursday.
        weekday: ((days + 3).rem_euclid(7) + 1) as u32,
    }
}

/// Waits.
///
/// # Errors
/// It is no length of time, longer than a minute, or than the call may wait.
pub async fn sleep(cx: &Cx, ms: f64) -> Result<(), HostError> {
    let span = Duration::try_from_secs_f64(ms / 1000.0).ok().filter(|span| *span <= MAX_SLEEP);
    let span = span.ok_or_else(|| HostError(format!("sleep takes 0 to {} ms", MAX_SLEEP.as_millis())))?;
    cx.lease.wait(tokio::time::sleep(span)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_right_at_the_edges() {
        let show = |ms, offset| {
            let d = date(ms, offset);
            format!(
                "{}-{:02}-{:02} {:02}:{:02}:{:02} {}",
                d.year, d.month, d.day, d.hour, d.minute, d.second, d.weekday
            )
        };
        assert_eq!(show(0, 0), "1970-01-01 00:00:00 4");
        assert_eq!(show(951_782_400_000, 0), "2000-02-29 00:00:00 2");
        assert_eq!(show(1_709_251_199_999, 0), "2024-02-29 23:59:59 4");
        assert_eq!(show(1_709_251_199_999, 60), "2024-03-01 00:59:59 5");
        assert_eq!(show(-1, 0), "1969-12-31 23:59:59 3");
        assert_eq!(show(4_107_542_400_000, -300), "2100-02-28 19:00:00 7");
    }
}
