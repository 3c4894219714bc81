//! Days, weeks and months at a fixed distance from UTC. Pure; times are Unix milliseconds.

const HOUR: u64 = 3_600_000;
const DAY: u64 = 24 * HOUR;

/// A window that begins where people say it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Calendar {
    pub period: Period,
    /// Minutes east of UTC.
    pub offset: i16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Period {
    Minute,
    Hour,
    Day,
    /// From Monday.
    Week,
    Month,
    Year,
}

impl Period {
    pub fn as_str(self) -> &'static str {
        match self {
            Period::Minute => "minute",
            Period::Hour => "hour",
            Period::Day => "day",
            Period::Week => "week",
            Period::Month => "month",
            Period::Year => "year",
        }
    }

    pub const ALL: [Period; 6] = [Period::Minute, Period::Hour, Period::Day, Period::Week, Period::Month, Period::Year];
}

impl Calendar {
    /// The longest such a window can be, in milliseconds.
    pub fn longest(self) -> u64 {
        match self.period {
            Period::Minute => 60_000,
            Period::Hour => HOUR,
            Period::Day => DAY,
            Period::Week => 7 * DAY,
            Period::Month => 31 * DAY,
            Period::Year => 366 * DAY,
        }
    }

    /// Begin and end of the window that `now` is in.
    pub fn bounds(self, now: u64) -> (u64, u64) {
        let offset = i64::from(self.offset) * 60_000;
        let local = now as i64 + offset;
        let day = local.div_euclid(DAY as i64);
        let even = |length: u64| {
            let begin = local - local.rem_euclid(length as i64);
            (begin, begin + length as i64)
        };
        let days = |from: i64, to: i64| (from * DAY as i64, to * DAY as i64);
        let (begin, end) = match self.period {
            Period::Minute => even(60_000),
            Period::Hour => even(HOUR),
            Period::Day => days(day, day + 1),
            // The epoch was a Thursday.
            Period::Week => {
                let monday = day - (day + 3).rem_euclid(7);
                days(monday, monday + 7)
            }
            Period::Month => {
                let (year, month) = year_and_month(day);
                let (next_year, next) = if month == 12 { (year + 1, 1) } else { (year, month + 1) };
                days(first_of(year, month), first_of(next_year, next))
            }
            Period::Year => {
                let (year, _) = year_and_month(day);
                days(first_of(year, 1), first_of(year + 1, 1))
            }
        };
        ((begin - offset).max(0) as u64, (end - offset).max(0) as u64)
    }
}

/// Year and month (from 1) of a day since the epoch. Hinnant's `civil_from_days`.
fn year_and_month(day: i64) -> (i64, i64) {
    let shifted = day + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let march = (5 * of_year + 2) / 153;
    let month = if march < 10 { march + 3 } else { march - 9 };
    (year + era * 400 + i64::from(month <= 2), month)
}

/// The day since the epoch that a month begins with. Hinnant's `days_from_civil`.
fn first_of(year: i64, month: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let march = if month > 2 { month - 3 } else { month + 9 };
    let of_year = (153 * march + 2) / 5;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> u64 {
        let time = humantime::parse_rfc3339(text).expect("a time");
        time.duration_since(std::time::UNIX_EPOCH).expect("after the epoch").as_millis() as u64
    }

    #[test]
    fn windows_begin_and_end_where_people_say() {
        for (period, offset, now, begin, end) in [
            (Period::Day, 0, "2026-11-28T20:39:47Z", "2026-11-28T00:00:00Z", "2026-11-29T00:00:00Z"),
            (Period::Day, 120, "2026-11-28T22:30:00Z", "2026-11-28T22:00:00Z", "2026-11-29T22:00:00Z"),
            (Period::Day, -300, "2026-11-28T03:00:00Z", "2026-11-27T05:00:00Z", "2026-11-28T05:00:00Z"),
            (Period::Week, 0, "2026-11-29T23:59:59Z", "2026-11-23T00:00:00Z", "2026-11-30T00:00:00Z"),
            (Period::Week, 0, "2026-11-30T00:00:00Z", "2026-11-30T00:00:00Z", "2026-12-07T00:00:00Z"),
            (Period::Month, 0, "2026-12-31T23:59:59Z", "2026-12-01T00:00:00Z", "2027-01-01T00:00:00Z"),
            (Period::Month, 0, "2028-02-29T12:00:00Z", "2028-02-01T00:00:00Z", "2028-03-01T00:00:00Z"),
            (Period::Month, 60, "2027-02-28T23:30:00Z", "2027-02-28T23:00:00Z", "2027-03-31T23:00:00Z"),
            (Period::Year, 0, "2026-11-28T00:00:00Z", "2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z"),
            (Period::Hour, 0, "2026-11-28T20:39:47Z", "2026-11-28T20:00:00Z", "2026-11-28T21:00:00Z"),
        ] {
            let bounds = Calendar { period, offset }.bounds(at(now));
            assert_eq!(bounds, (at(begin), at(end)), "{} of {now} at {offset}", period.as_str());
        }
    }

    #[test]
    fn windows_follow_each_other_without_a_gap() {
        for period in Period::ALL {
            let calendar = Calendar { period, offset: 90 };
            let mut now = at("2024-01-15T00:00:00Z");
            for _ in 0..1000 {
                let (begin, end) = calendar.bounds(now);
                assert!(begin <= now && now < end && end - begin <= calendar.longest());
                assert_eq!(calendar.bounds(end).0, end);
                now = end;
            }
        }
    }
}
