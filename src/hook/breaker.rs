//! Switches a policy off that fails exchange after exchange.
//!
//! An exchange counts once, however often a policy fails in it, and a policy stays on while most of its exchanges go well.
//! Where all that failed are one caller's or two, it is switched off for them alone: nobody can take a policy away from
//! others. Counts are looked at when it fails and at no other time.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use smallvec::SmallVec;

use crate::host::Visit;
use crate::state::health::Millis;

/// Failed exchanges within the window from which on a guest may be switched off, how long the window is, and for how long
/// it is off then.
const FAILURES: u64 = 10;
const WINDOW_MS: u64 = 60_000;
pub(super) const OFF: Duration = Duration::from_secs(30);

/// So many callers in whose exchanges it fails make it the policy's own fault. Two are easily one: a key and an address.
const MANY: usize = 3;

/// One guest's breaker. Times are those of the state's clock.
#[derive(Debug, Default)]
pub(super) struct Breaker {
    /// Until when it is off for somebody; zero when it never was.
    until: AtomicU64,
    /// Exchanges in which it was called, in however many phases.
    exchanges: AtomicU64,
    window: Mutex<Window>,
}

#[derive(Debug, Default)]
struct Window {
    began: Millis,
    /// Exchanges in which it failed.
    failed: u64,
    /// Whose they were, up to [`MANY`].
    callers: SmallVec<[Caller; MANY]>,
    /// Exchanges before the first of them.
    at_begin: u64,
    /// When the window before began, and after how many exchanges: what the traffic is when a window has only just begun.
    before: (Millis, u64),
    /// For whom it is off, and until when; None for everybody.
    off: SmallVec<[(Option<Caller>, Millis); MANY]>,
}

/// Whose exchange it is, as a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Caller(u64);

impl Caller {
    /// The key's name, or where everybody is the same or nobody known yet the address that the request came from.
    pub fn of(visit: &Visit) -> Self {
        let mut hasher = DefaultHasher::new();
        match visit.principal() {
            Some(principal) if !principal.key.is_empty() && !principal.is_anyone => principal.key.hash(&mut hasher),
            _ => visit.peer.map(|peer| network(peer.ip())).hash(&mut hasher),
        }
        Caller(hasher.finish())
    }
}

/// What one client has of addresses: of IPv6 as many as it likes of a network.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into(),
        address => address,
    }
}

/// Who a policy was switched off for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Off {
    All,
    /// The few in whose exchanges it failed.
    Callers,
}

impl Breaker {
    /// Whether it is off for somebody. `now` is asked for only where it ever was.
    pub fn is_off(&self, now: impl FnOnce() -> Millis) -> bool {
        let until = self.until.load(Relaxed);
        until != 0 && now() < until
    }

    /// Whether it is off for this caller.
    pub fn is_off_for(&self, caller: impl FnOnce() -> Caller, now: impl Fn() -> Millis) -> bool {
        self.is_off(&now) && {
            let (caller, now) = (caller(), now());
            let is_meant = |whom: &Option<Caller>| whom.is_none_or(|whom| whom == caller);
            self.lock().off.iter().any(|(whom, until)| now < *until && is_meant(whom))
        }
    }

    fn lock(&self) -> MutexGuard<'_, Window> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It is called in another exchange.
    pub fn called(&self) {
        self.exchanges.fetch_add(1, Relaxed);
    }

    /// Notes that it failed in another exchange, in which it was called. Says for whom it is off when it was one too many.
    pub fn failed(&self, caller: Caller, now: Millis) -> Option<Off> {
        let exchanges = self.exchanges.load(Relaxed);
        let mut window = self.lock();
        if window.failed == 0 || now.saturating_sub(window.began) > WINDOW_MS {
            let before = (window.began, window.at_begin);
            let (at_begin, off) = (exchanges.saturating_sub(1), std::mem::take(&mut window.off));
            *window = Window { began: now, failed: 0, callers: SmallVec::new(), at_begin, before, off };
        }
        window.failed += 1;
        if window.callers.len() < MANY && !window.callers.contains(&caller) {
            window.callers.push(caller);
        }
        let failed = window.failed;
        if failed < FAILURES || failed * 2 < window.exchanges(exchanges, now) {
            return None;
        }
        window.failed = 0;
        let until = now + OFF.as_millis() as u64;
        window.off.retain(|(_, until)| now < *until);
        let callers = std::mem::take(&mut window.callers);
        let off = match window.off.len() + callers.len() >= MANY {
            true => Off::All,
            false => Off::Callers,
        };
        match off {
            Off::All => window.off.push((None, until)),
            Off::Callers => window.off.extend(callers.into_iter().map(|caller| (Some(caller), until))),
        }
        self.until.store(until, Relaxed);
        Some(off)
    }
}

impl Window {
    /// Exchanges of a window's length: those since it began, or as many as there usually were before, if that is more.
    fn exchanges(&self, all: u64, now: Millis) -> u64 {
        let (then, past) = self.before;
        let usual = self.at_begin.saturating_sub(past);
        let usual = usual * WINDOW_MS / self.began.saturating_sub(then).max(WINDOW_MS);
        let left = WINDOW_MS.saturating_sub(now.saturating_sub(self.began));
        all.saturating_sub(self.at_begin) + usual * left / WINDOW_MS
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    /// A breaker, and what it says of exchanges.
    #[derive(Default)]
    struct Bench(Breaker);

    impl Bench {
        fn good(&self, count: u32) {
            (0..count).for_each(|_| self.0.called());
        }

        /// Of several callers in turns.
        fn bad(&self, count: u32, now: Millis) -> bool {
            let ends: Vec<_> = (0..count).filter_map(|at| self.bad_of(u64::from(at % 4) + 1, now)).collect();
            !ends.is_empty()
        }

        fn bad_of(&self, caller: u64, now: Millis) -> Option<Off> {
            self.0.called();
            self.0.failed(Caller(caller), now)
        }
    }

    #[test]
    fn ten_failures_that_are_half_of_a_minute_switch_it_off_for_half_of_one() {
        let bench = Bench::default();
        assert!(!bench.bad(9, 100_000));
        bench.good(10);
        assert!(bench.bad(1, 101_000));
        assert!(bench.0.is_off(|| 130_999) && !bench.0.is_off(|| 131_000));
    }

    #[test]
    fn ten_failures_that_are_less_than_half_do_not() {
        let bench = Bench::default();
        bench.bad(9, 100_000);
        bench.good(11);
        assert!(!bench.bad(1, 101_000));
    }

    #[test]
    fn one_caller_switches_it_off_for_nobody_else_and_neither_do_two() {
        let bench = Bench::default();
        let ends = |callers: &[u64], now| -> Vec<Off> {
            (0..10).filter_map(|at| bench.bad_of(callers[at % callers.len()], now)).collect()
        };
        let off_for = |caller, now| bench.0.is_off_for(|| Caller(caller), || now);
        assert_eq!(ends(&[1], 100_000), [Off::Callers]);
        assert!(off_for(1, 100_001) && !off_for(2, 100_001));
        // A key, and the address that it comes from.
        assert_eq!(ends(&[1, 2], 200_000), [Off::Callers]);
        assert!(off_for(1, 200_001) && off_for(2, 200_001) && !off_for(3, 200_001));
        // Now that it fails for a third one as well, it is the policy's own fault.
        assert_eq!(ends(&[3], 201_000), [Off::All]);
        assert!(off_for(1, 201_001) && off_for(3, 201_001) && off_for(4, 201_001));
        assert!(!off_for(4, 231_001));
    }

    #[test]
    fn failures_among_healthy_traffic_do_not_switch_it_off() {
        let bench = Bench::default();
        for minute in 2..6 {
            bench.good(60);
            assert!(!bench.bad(12, minute * 60_000), "{minute}");
        }
        assert!(bench.bad(100, 330_000));
    }

    #[test]
    fn a_burst_is_measured_by_the_traffic_before_it() {
        let bench = Bench::default();
        bench.good(600);
        // Ten minutes of one a second: sixty at once are half of what there is then.
        assert!(!bench.bad(29, 600_000));
        assert!(bench.bad(31, 600_000));
    }

    #[test]
    fn failures_further_apart_than_the_window_are_forgotten() {
        let bench = Bench::default();
        assert!((1..100).all(|at| !bench.bad(1, at * 10_000)));
    }
}
