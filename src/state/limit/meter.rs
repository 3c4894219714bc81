//! The arithmetic of one window: what is used of it, whether more fits, and when more will.
//!
//! Pure integers; callers bring the time, in Unix milliseconds. A clock that goes back never gives anything back, and one
//! that had gone far ahead of it holds nobody up until its time has come.

use super::calendar::Calendar;

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Unit {
    Requests,
    InputTokens,
    OutputTokens,
    /// Input and output together.
    Tokens,
    /// Nano-dollars.
    Money,
    /// Exchanges under way.
    Concurrency,
}

impl Unit {
    /// The word in configuration, metrics and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Unit::Requests => "requests",
            Unit::InputTokens => "input_tokens",
            Unit::OutputTokens => "output_tokens",
            Unit::Tokens => "tokens",
            Unit::Money => "money",
            Unit::Concurrency => "concurrency",
        }
    }

    /// The unit of this name.
    pub fn from_name(name: &str) -> Option<Unit> {
        use Unit::{Concurrency, InputTokens, Money, OutputTokens, Requests, Tokens};
        [Requests, InputTokens, OutputTokens, Tokens, Money, Concurrency].into_iter().find(|unit| unit.as_str() == name)
    }
}

/// How a window moves. Lengths in milliseconds, never zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Shape {
    /// Windows one after the other, aligned to the epoch.
    Fixed(u64),
    /// The last so many milliseconds: the present window and the share of the one before that still counts, as if it had
    /// been spent evenly.
    Sliding(u64),
    /// A bucket that holds the limit and refills evenly over this time (GCRA).
    Bucket(u64),
    /// Days, weeks, months.
    Calendar(Calendar),
    /// Never begins again.
    Total,
    /// What is under way now.
    InFlight,
}

impl Shape {
    /// The length in milliseconds; of calendar windows the longest it can be. None where there is no end.
    pub fn length(self) -> Option<u64> {
        match self {
            Shape::Fixed(length) | Shape::Sliding(length) | Shape::Bucket(length) => Some(length),
            Shape::Calendar(calendar) => Some(calendar.longest()),
            Shape::Total | Shape::InFlight => None,
        }
    }

    /// Whether what is used of it must survive the process: everything longer than a minute.
    pub fn lasts(self) -> bool {
        match self {
            Shape::InFlight => false,
            Shape::Total => true,
            _ => self.length().is_some_and(|length| length > 60_000),
        }
    }

    /// Begin and end of the window that `now` is in, for the shapes that have one.
    fn bounds(self, now: u64) -> (u64, u64) {
        match self {
            Shape::Fixed(length) | Shape::Sliding(length) => {
                let begin = now - now % length;
                (begin, begin.saturating_add(length))
            }
            Shape::Calendar(calendar) => calendar.bounds(now),
            Shape::Bucket(_) => (now, now),
            Shape::Total | Shape::InFlight => (0, u64::MAX),
        }
    }
}

/// When more will fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// After so many milliseconds, if nobody else takes it.
    Millis(u64),
    /// When something that is under way ends.
    Release,
    /// Never: the amount is more than the whole limit, or the window has no end.
    Never,
}

/// What is used of one window.
///
/// `cur` and `prev` are amounts of the present window and the one before it (`prev` for sliding ones only); for a bucket
/// `cur` is its debt, an amount times the window's length, so that it drains in whole numbers. `held` is the part of each
/// that is reserved and not settled yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Meter {
    /// Begin of the present window; of a bucket, when it was last drained.
    pub start: u64,
    pub cur: u128,
    pub prev: u128,
    pub held: u128,
    pub held_prev: u128,
}

impl Meter {
    /// Moves on to the window that `now` is in.
    pub fn roll(&mut self, shape: Shape, limit: u64, now: u64) {
        if now <= self.start {
            return self.rebase(shape, now);
        }
        match shape {
            Shape::Bucket(_) => {
                let drained = u128::from(limit) * u128::from(now - self.start);
                self.cur = self.cur.saturating_sub(drained);
                self.held = self.held.min(self.cur);
                self.start = now;
            }
            Shape::Fixed(_) | Shape::Calendar(_) => {
                let (begin, _) = shape.bounds(now);
                if begin > self.start {
                    *self = Meter { start: begin, ..Meter::default() };
                }
            }
            Shape::Sliding(length) => {
                let (begin, _) = shape.bounds(now);
                if begin > self.start {
                    let follows = begin - self.start == length;
                    let (prev, held_prev) = if follows { (self.cur, self.held) } else { (0, 0) };
                    *self = Meter { start: begin, prev, held_prev, ..Meter::default() };
                }
            }
            Shape::Total | Shape::InFlight => {}
        }
    }

    /// Brings the window back of a clock that was more than a window ahead, with all that is used of it: it would not end
    /// before that time. A clock that is put right by less goes back within the window, or into the one before it.
    fn rebase(&mut self, shape: Shape, now: u64) {
        let begin = match shape {
            Shape::Bucket(length) if self.start > now.saturating_add(length) => now,
            Shape::Fixed(_) | Shape::Sliding(_) | Shape::Calendar(_) => match shape.bounds(now) {
                (begin, end) if self.start > end => begin,
                _ => return,
            },
            _ => return,
        };
        self.start = begin;
        if !matches!(shape, Shape::Bucket(_)) {
            // Reservations are told by the begin that they were made in: these are settled as they are.
            (self.held, self.held_prev) = (0, 0);
        }
    }

    /// What counts against the limit now, times [`scale`]. The meter is rolled.
    fn load(&self, shape: Shape, now: u64) -> u128 {
        match shape {
            Shape::Sliding(length) => {
                let left = length - now.saturating_sub(self.start).min(length);
                self.prev * u128::from(left) + self.cur * u128::from(length)
            }
            _ => self.cur,
        }
    }

    /// The amount used, rounded up. The meter is rolled.
    pub fn used(&self, shape: Shape, now: u64) -> u64 {
        u64::try_from(self.load(shape, now).div_ceil(scale(shape))).unwrap_or(u64::MAX)
    }

    /// The amount used by what has been settled. The meter is rolled.
    pub fn settled(&self, shape: Shape, now: u64) -> u64 {
        let settled = Meter { cur: self.cur - self.held, prev: self.prev - self.held_prev, ..*self };
        settled.used(shape, now)
    }

    /// Whether nothing is used of it, so that forgetting it changes nothing. The meter is rolled.
    pub fn is_empty(&self) -> bool {
        self.cur == 0 && self.prev == 0
    }

    /// Whether `amount` more stays within `limit`. The meter is rolled.
    pub fn fits(&self, shape: Shape, limit: u64, amount: u64, now: u64) -> bool {
        self.room(shape, limit, now).is_some_and(|room| amount <= room)
    }

    /// The most that stays within `limit`; None when more than that is used. The meter is rolled.
    pub fn room(&self, shape: Shape, limit: u64, now: u64) -> Option<u64> {
        let scale = scale(shape);
        let left = (u128::from(limit) * scale).checked_sub(self.load(shape, now))?;
        Some(u64::try_from(left / scale).unwrap_or(u64::MAX))
    }

    /// When `amount` will fit that does not now. The meter is rolled.
    pub fn wait(&self, shape: Shape, limit: u64, amount: u64, now: u64) -> Wait {
        if shape == Shape::InFlight {
            return if amount > limit { Wait::Never } else { Wait::Release };
        }
        if amount > limit || shape == Shape::Total {
            return Wait::Never;
        }
        let (limit, amount) = (u128::from(limit), u128::from(amount));
        match shape {
            Shape::Bucket(length) => {
                let length = u128::from(length);
                let over = (self.cur + amount * length).saturating_sub(limit * length);
                Wait::Millis(millis(over.div_ceil(limit.max(1))).max(1))
            }
            Shape::Sliding(length) => {
                let at = self.sliding_at(length, limit, amount);
                Wait::Millis(at.saturating_sub(now).max(1))
            }
            _ => {
                let (_, end) = shape.bounds(now.max(self.start));
                Wait::Millis(end.saturating_sub(now).max(1))
            }
        }
    }

    /// When a sliding window has room for `amount`, which is at most `limit`.
    fn sliding_at(&self, length: u64, limit: u128, amount: u128) -> u64 {
        // A share of `of` still counts at `elapsed`: of × (length − elapsed) ≤ room × length.
        let elapsed = |room: u128, of: u128| {
            let counts = (room * u128::from(length)).checked_div(of).unwrap_or(u128::from(length));
            length - millis(counts).min(length)
        };
        if self.cur + amount <= limit {
            return self.start + elapsed(limit - self.cur - amount, self.prev);
        }
        self.start + length + elapsed(limit - amount, self.cur)
    }

    /// Counts `amount` as reserved. Gives the mark to settle or return it with. The meter is rolled.
    pub fn take(&mut self, shape: Shape, amount: u64) -> u64 {
        let amount = u128::from(amount) * weight(shape);
        self.cur += amount;
        self.held += amount;
        self.start
    }

    /// Puts the truth in the place of a reservation. What is less than it goes back to the window that it was taken from;
    /// what is more counts now, whatever window that is.
    pub fn settle(&mut self, shape: Shape, mark: u64, reserved: u64, actual: u64) {
        self.give_back(shape, mark, reserved, reserved.min(actual));
        self.cur += u128::from(actual.saturating_sub(reserved)) * weight(shape);
    }

    /// Takes `reserved` out of what is held, and all but `keep` of it out of what is used.
    fn give_back(&mut self, shape: Shape, mark: u64, reserved: u64, keep: u64) {
        let weight = weight(shape);
        let (reserved, back) = (u128::from(reserved) * weight, u128::from(reserved - keep) * weight);
        if matches!(shape, Shape::Bucket(_)) || mark == self.start {
            self.held = self.held.saturating_sub(reserved);
            self.cur = self.cur.saturating_sub(back);
            self.held = self.held.min(self.cur);
        } else if matches!(shape, Shape::Sliding(length) if mark + length == self.start) {
            self.held_prev = self.held_prev.saturating_sub(reserved);
            self.prev = self.prev.saturating_sub(back);
        }
    }

    /// Returns a reservation as if it had never been.
    pub fn release(&mut self, shape: Shape, mark: u64, reserved: u64) {
        self.give_back(shape, mark, reserved, 0);
    }

    /// Counts `amount` whether it fits or not. The meter is rolled.
    pub fn charge(&mut self, shape: Shape, amount: u64) {
        self.cur += u128::from(amount) * weight(shape);
    }

    /// Milliseconds until everything used now has left the window. None when nothing leaves by itself. The meter is
    /// rolled.
    pub fn reset(&self, shape: Shape, limit: u64, now: u64) -> Option<u64> {
        match shape {
            Shape::Total | Shape::InFlight => None,
            Shape::Bucket(_) => Some(millis(self.cur.div_ceil(u128::from(limit.max(1))))),
            Shape::Sliding(length) => Some(match (self.cur, self.prev) {
                (0, 0) => 0,
                (0, _) => (self.start + length).saturating_sub(now),
                _ => (self.start + 2 * length).saturating_sub(now),
            }),
            _ => {
                let (_, end) = shape.bounds(now.max(self.start));
                Some(end.saturating_sub(now))
            }
        }
    }
}

/// By what [`Meter::load`] is multiplied.
fn scale(shape: Shape) -> u128 {
    match shape {
        Shape::Sliding(length) | Shape::Bucket(length) => u128::from(length),
        _ => 1,
    }
}

/// By what amounts are multiplied in [`Meter::cur`].
fn weight(shape: Shape) -> u128 {
    match shape {
        Shape::Bucket(length) => u128::from(length),
        _ => 1,
    }
}

fn millis(value: u128) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[path = "meter_tests.rs"]
mod tests;
