//! Switches a policy off that fails exchange after exchange.
//!
//! An exchange counts once, however often a policy fails in it, and a policy stays on while most of its exchanges go well.
//! Where all that failed are one caller's, it is switched off for that caller alone: nobody can take a policy away from
//! others. Counts are looked at when it fails and at no other time.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::host::{Phase, Visit};
use crate::state::guests::{Outcome, PHASES, Record};
use crate::state::health::Millis;

/// Failed exchanges within the window from which on a guest may be switched off, how long the window is, and for how long
/// it is off then.
const FAILURES: u64 = 10;
const WINDOW_MS: u64 = 60_000;
pub(super) const OFF: Duration = Duration::from_secs(30);

/// One guest's breaker. Times are those of the state's clock.
#[derive(Debug, Default)]
pub(super) struct Breaker {
    /// Until when it is off; zero when it never was.
    until: AtomicU64,
    /// For whom it is off; zero for everybody.
    whom: AtomicU64,
    /// Streams that it looked at: it is called for many events of each.
    streams: AtomicU64,
    window: Mutex<Window>,
}

#[derive(Debug, Default)]
struct Window {
    began: Millis,
    /// Exchanges in which it failed.
    failed: u64,
    /// Whose the first of them was, and whether there were others'.
    caller: Caller,
    several: bool,
    at_begin: Calls,
    /// When the window before began, and with which calls: what the traffic is when a window has only just begun.
    before: (Millis, Calls),
}

/// Whose exchange it is, as a number that is never zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Caller(u64);

impl Caller {
    /// The key's name, or where there is none the address that the request came from.
    pub fn of(visit: &Visit) -> Self {
        let mut hasher = DefaultHasher::new();
        match visit.principal() {
            Some(principal) if !principal.key.is_empty() => principal.key.hash(&mut hasher),
            _ => visit.peer.map(|peer| peer.ip()).hash(&mut hasher),
        }
        Caller(hasher.finish().max(1))
    }
}

/// Who a policy was switched off for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Off {
    All,
    One,
}

/// Calls so far in each phase; of events, streams. And those of them that went well.
#[derive(Debug, Default, Clone, Copy)]
struct Calls {
    all: [u64; PHASES],
    good: [u64; PHASES],
}

impl Calls {
    fn of(record: &Record, streams: u64) -> Self {
        let mut calls = Calls::default();
        for at in 0..PHASES {
            let count = |outcome| record.phase(at).count(outcome);
            calls.good[at] = count(Outcome::Pass) + count(Outcome::Acted) + count(Outcome::Shadow);
            calls.all[at] = calls.good[at] + count(Outcome::Error) + count(Outcome::Killed);
        }
        calls.all[Phase::Event as usize] = streams;
        calls
    }

    /// Exchanges that called it since then, of which it failed in so many. Most phases are met once by an exchange; of
    /// those that come with every try the good calls are what else there was.
    fn exchanges_since(&self, then: &Calls, failed: u64) -> u64 {
        let several = [Phase::Attempt as usize, Phase::Fault as usize];
        let since = |at: usize| match several.contains(&at) {
            true => self.good[at].saturating_sub(then.good[at]) + failed,
            false => self.all[at].saturating_sub(then.all[at]),
        };
        (0..PHASES).map(since).max().unwrap_or_default()
    }
}

impl Breaker {
    /// Whether it is off for somebody. `now` is asked for only where it ever was.
    pub fn is_off(&self, now: impl FnOnce() -> Millis) -> bool {
        let until = self.until.load(Relaxed);
        until != 0 && now() < until
    }

    /// Whether it is off for this caller.
    pub fn is_off_for(&self, caller: impl FnOnce() -> Caller, now: impl FnOnce() -> Millis) -> bool {
        self.is_off(now) && matches!(self.whom.load(Relaxed), whom if whom == 0 || whom == caller().0)
    }

    /// It begins to look at a stream.
    pub fn stream(&self) {
        self.streams.fetch_add(1, Relaxed);
    }

    /// Notes that it failed in another exchange. Says for whom it is off when it was one too many.
    pub fn failed(&self, record: &Record, caller: Caller, now: Millis) -> Option<Off> {
        let calls = Calls::of(record, self.streams.load(Relaxed));
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        if window.failed == 0 || now.saturating_sub(window.began) > WINDOW_MS {
            let before = (window.began, window.at_begin);
            *window = Window { began: now, failed: 0, caller, several: false, at_begin: calls, before };
        }
        window.failed += 1;
        window.several |= window.caller != caller;
        let failed = window.failed;
        if failed < FAILURES || failed * 2 < window.exchanges(&calls, now) {
            return None;
        }
        window.failed = 0;
        // While it is off for one, others that fail make it a matter of all.
        let off = match window.several || self.is_off(|| now) {
            true => Off::All,
            false => Off::One,
        };
        self.whom.store(if off == Off::All { 0 } else { caller.0 }, Relaxed);
        self.until.store(now + OFF.as_millis() as u64, Relaxed);
        Some(off)
    }
}

impl Window {
    /// Exchanges of a window's length: those since it began, or as many as there usually were before, if that is more.
    fn exchanges(&self, calls: &Calls, now: Millis) -> u64 {
        let (then, past) = &self.before;
        let usual = self.at_begin.exchanges_since(past, 0);
        let usual = usual * WINDOW_MS / self.began.saturating_sub(*then).max(WINDOW_MS);
        let left = WINDOW_MS.saturating_sub(now.saturating_sub(self.began));
        calls.exchanges_since(&self.at_begin, self.failed) + usual * left / WINDOW_MS
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::guests::Guests;

    /// Calls of one phase, and what the breaker says of those that failed.
    struct Bench(Breaker, std::sync::Arc<Record>, Phase);

    impl Bench {
        fn new(phase: Phase) -> Self {
            Bench(Breaker::default(), Guests::default().record("p"), phase)
        }

        fn good(&self, count: u32) {
            (0..count).for_each(|_| self.1.phase(self.2 as usize).add(Outcome::Pass, Duration::ZERO, 0));
        }

        /// Of two callers in turns.
        fn bad(&self, count: u32, now: Millis) -> bool {
            let ends: Vec<_> = (0..count).filter_map(|at| self.bad_of(u64::from(at % 2) + 1, now)).collect();
            !ends.is_empty()
        }

        fn bad_of(&self, caller: u64, now: Millis) -> Option<Off> {
            self.1.phase(self.2 as usize).add(Outcome::Error, Duration::ZERO, 0);
            self.0.failed(&self.1, Caller(caller), now)
        }
    }

    #[test]
    fn ten_failures_that_are_half_of_a_minute_switch_it_off_for_half_of_one() {
        for phase in [Phase::Auth, Phase::Request, Phase::Attempt, Phase::Fault, Phase::Tick] {
            let bench = Bench::new(phase);
            assert!(!bench.bad(9, 100_000), "{phase:?}");
            bench.good(10);
            assert!(bench.bad(1, 101_000), "{phase:?}");
            assert!(bench.0.is_off(|| 130_999) && !bench.0.is_off(|| 131_000));
        }
    }

    #[test]
    fn one_caller_switches_it_off_for_nobody_else() {
        let bench = Bench::new(Phase::Request);
        let ends: Vec<_> = (0..10).filter_map(|_| bench.bad_of(1, 100_000)).collect();
        assert_eq!(ends, [Off::One]);
        let off_for = |caller| bench.0.is_off_for(|| Caller(caller), || 100_001);
        assert!(off_for(1) && !off_for(2));
        // Now that it fails for another one as well, it is the policy's own fault.
        let ends: Vec<_> = (0..10).filter_map(|_| bench.bad_of(2, 101_000)).collect();
        assert_eq!(ends, [Off::All]);
        assert!(off_for(1) && off_for(2) && off_for(3));
    }

    #[test]
    fn failures_among_healthy_traffic_do_not_switch_it_off() {
        let bench = Bench::new(Phase::Request);
        for minute in 2..6 {
            bench.good(60);
            assert!(!bench.bad(12, minute * 60_000), "{minute}");
        }
        assert!(bench.bad(100, 330_000));
    }

    #[test]
    fn a_burst_is_measured_by_the_traffic_before_it() {
        let bench = Bench::new(Phase::Request);
        bench.good(600);
        // Ten minutes of one a second: sixty at once are half of what there is then.
        assert!(!bench.bad(29, 600_000));
        assert!(bench.bad(31, 600_000));
    }

    #[test]
    fn failures_further_apart_than_the_window_are_forgotten() {
        let bench = Bench::new(Phase::Request);
        assert!((1..100).all(|at| !bench.bad(1, at * 10_000)));
    }

    #[test]
    fn of_streams_each_counts_once() {
        let bench = Bench::new(Phase::Event);
        (0..40).for_each(|_| bench.0.stream());
        bench.bad(1, 100_000);
        (0..40).for_each(|_| bench.0.stream());
        assert!(!bench.bad(20, 100_000));
        let always = Bench::new(Phase::Event);
        let all = (0..12).any(|_| {
            always.0.stream();
            always.bad(1, 100_000)
        });
        assert!(all);
    }
}
