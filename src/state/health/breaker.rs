//! The breaker: whether a target gets requests, as its failures, its own word and the operator decide.
//!
//! One atomic word holds the mode and its end. Never looks at a clock; what counts as a failure is [`blame`]'s.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use super::window::Counts;
use super::{Millis, RefusedBy, Standing};
use crate::fault::{Kind, Side};

/// When a breaker opens, and for how long.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Breaker {
    /// Share of failed attempts in the window from which it opens, 0 to 1.
    pub failure_rate: f64,
    /// Attempts in the window below which the rate says nothing.
    pub min_samples: u32,
    pub window: Duration,
    /// Failures in a row that open it whatever the rate.
    pub consecutive: u32,
    /// First time that it stays open; doubled each time it opens again without having closed.
    pub cool_down: Duration,
    pub max_cool_down: Duration,
    /// Attempts let through at a time to see whether the target is well again, and good ones needed to close.
    pub probes: u32,
}

/// For tests; what counts where nobody writes a breaker is `config`'s.
#[cfg(test)]
impl Default for Breaker {
    fn default() -> Self {
        Breaker {
            failure_rate: 0.5,
            min_samples: 20,
            window: Duration::from_secs(30),
            consecutive: 10,
            cool_down: Duration::from_secs(5),
            max_cool_down: Duration::from_secs(120),
            probes: 1,
        }
    }
}

/// How far back attempts count where there is no breaker to say so.
const WINDOW: Duration = Duration::from_secs(30);

/// Longest cool-down that an upstream's own word (`retry-after`) is taken for.
const MAX_ASKED: Duration = Duration::from_secs(3600);

/// First cool-down after "too many requests" without a word on how long; doubled each time in a row.
const UNSAID: Duration = Duration::from_secs(1);

/// First cool-down of a key that the provider refused or whose account is empty. People have to act, so it is long.
const DEAD_KEY: Duration = Duration::from_secs(60);
const MAX_DEAD_KEY: Duration = Duration::from_secs(600);

/// What a failed attempt says of a target or key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Blame {
    /// Nothing: the ask was at fault, or something on our side.
    None,
    /// It failed; enough of these open the breaker.
    Failure,
    /// It wants no requests for a while.
    Cool,
    /// The key is of no use until somebody acts.
    Dead,
}

/// Whose failure a fault is. `of_key` when the record is that of a provider's key.
pub(super) fn blame(kind: Kind, of_key: bool) -> Blame {
    match kind {
        Kind::RateLimited => Blame::Cool,
        Kind::QuotaExceeded | Kind::UpstreamCredential | Kind::UpstreamForbidden if of_key => Blame::Dead,
        Kind::QuotaExceeded => Blame::Failure,
        // An ask too long, refused for its content, or for a model that is not there: the next ask may be served.
        Kind::ContextLength
        | Kind::ContentPolicy
        | Kind::UpstreamRejected
        | Kind::UpstreamNotFound
        | Kind::UpstreamForbidden
        | Kind::UpstreamCredential
        // What a policy says of an answer is no fault of who gave it.
        | Kind::PolicyFault
        | Kind::PolicyFailed
        | Kind::PolicyRejected => Blame::None,
        _ if of_key => Blame::None,
        kind if kind.row().side == Side::Upstream => Blame::Failure,
        _ => Blame::None,
    }
}

// The mode stands in the two highest bits, its end in the rest; where it is half open, the probes under way.
const CLOSED: u64 = 0;
const OPEN: u64 = 1 << 62;
const HALF_OPEN: u64 = 2 << 62;
/// Open because the target asked for it; closes by itself at the end.
const COOLING: u64 = 3 << 62;
const MODE: u64 = 3 << 62;

/// What the operator wants, over everything else.
const NOTHING: u32 = 0;
const DRAINED: u32 = 1;
const HELD_OPEN: u32 = 2;

/// One breaker's state.
#[derive(Debug, Default)]
pub(super) struct Circuit {
    word: AtomicU64,
    /// `NOTHING`, `DRAINED` or `HELD_OPEN`.
    wanted: AtomicU32,
    /// Failures since the last good one.
    in_a_row: AtomicU32,
    /// Openings since it last closed.
    openings: AtomicU32,
    /// Good probes so far, while half open.
    well: AtomicU32,
    /// The last rest was for what waiting alone does not mend.
    dead: AtomicBool,
    counts: Counts,
}

impl Circuit {
    pub fn standing(&self, now: Millis) -> Standing {
        match self.wanted.load(Ordering::Relaxed) {
            DRAINED => return Standing::Drained,
            HELD_OPEN => return Standing::Open { until: None },
            _ => {}
        }
        let word = self.word.load(Ordering::Relaxed);
        let until = word & !MODE;
        match word & MODE {
            CLOSED => Standing::Closed,
            COOLING if now >= until => Standing::Closed,
            OPEN if now >= until => Standing::HalfOpen,
            HALF_OPEN => Standing::HalfOpen,
            _ => Standing::Open { until: Some(until) },
        }
    }

    /// Lets an attempt through, or not; true when it is a probe.
    pub fn admit(&self, now: Millis, breaker: Option<&Breaker>) -> Result<bool, (RefusedBy, Option<Duration>)> {
        match self.standing(now) {
            Standing::Closed => Ok(false),
            Standing::Drained => Err((RefusedBy::Drained, None)),
            Standing::Open { until } => {
                let wait = until.map(|until| Duration::from_millis(until.saturating_sub(now)));
                Err((RefusedBy::Open, wait))
            }
            Standing::HalfOpen => {
                let Some(breaker) = breaker else { return Ok(false) };
                match self.probe(now, breaker) {
                    Ok(()) => Ok(true),
                    // Another one has found it well meanwhile.
                    Err(CLOSED) => Ok(false),
                    Err(_) => Err((RefusedBy::Open, Some(breaker.cool_down))),
                }
            }
        }
    }

    /// Takes a probe. The first one, once the time is over that it was open, makes it half open. Errors: the word without
    /// one to take.
    fn probe(&self, now: Millis, breaker: &Breaker) -> Result<(), u64> {
        let before = self.word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |word| match word & MODE {
            OPEN if now >= word & !MODE => Some(HALF_OPEN | 1),
            HALF_OPEN if has_probes(word, breaker) => Some(word + 1),
            _ => None,
        })?;
        if before & MODE == OPEN {
            self.well.store(0, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Whether a half-open breaker has no probe left to give.
    pub fn probes_taken(&self, breaker: &Breaker) -> bool {
        let word = self.word.load(Ordering::Relaxed);
        word & MODE == HALF_OPEN && !has_probes(word, breaker)
    }

    /// Whether it rests, or last rested, because somebody has to act ([`Blame::Dead`]).
    pub fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Relaxed)
    }

    /// A probe ended without saying anything.
    pub fn unprobe(&self) {
        let _ = self.word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |word| {
            (word & MODE == HALF_OPEN && word & !MODE > 0).then(|| word - 1)
        });
    }

    pub fn good(&self, now: Millis, probe: bool, breaker: Option<&Breaker>) {
        self.counts.add(now, window(breaker), 1, 0);
        let Some(breaker) = breaker else { return };
        self.in_a_row.store(0, Ordering::Relaxed);
        if !probe {
            self.openings.store(0, Ordering::Relaxed);
            return;
        }
        self.unprobe();
        let half_open = self.word.load(Ordering::Relaxed) & MODE == HALF_OPEN;
        if half_open && self.well.fetch_add(1, Ordering::Relaxed) + 1 >= breaker.probes.max(1) {
            self.reset();
        }
    }

    pub fn failed(&self, now: Millis, probe: bool, blame: Blame, asked: Option<Duration>, breaker: Option<&Breaker>) {
        if matches!(blame, Blame::Failure | Blame::Dead) {
            self.counts.add(now, window(breaker), 0, 1);
        }
        let Some(breaker) = breaker else { return };
        if probe {
            self.unprobe();
        }
        let asked = asked.map(|asked| asked.min(MAX_ASKED));
        // Many attempts under way fail together: only the first opens, and only once does the cool-down double.
        let first = probe || matches!(self.standing(now), Standing::Closed);
        if !first && asked.is_none() {
            return;
        }
        let openings = self.openings.load(Ordering::Relaxed);
        let (mode, own) = match blame {
            Blame::None => return,
            Blame::Cool => (COOLING, doubled(UNSAID, openings, breaker.max_cool_down)),
            Blame::Dead => (COOLING, doubled(DEAD_KEY, openings, MAX_DEAD_KEY)),
            Blame::Failure => {
                let in_a_row = self.in_a_row.fetch_add(1, Ordering::Relaxed) + 1;
                // "Unavailable, retry after": it knows best when to come back, but not whether it will be well.
                if asked.is_none() && !probe && !self.is_due(now, in_a_row, breaker) {
                    return;
                }
                (OPEN, doubled(breaker.cool_down, openings, breaker.max_cool_down))
            }
        };
        if first {
            self.openings.fetch_add(1, Ordering::Relaxed);
            self.dead.store(blame == Blame::Dead, Ordering::Relaxed);
        }
        self.open(mode, now, asked.unwrap_or(own));
    }

    fn is_due(&self, now: Millis, in_a_row: u32, breaker: &Breaker) -> bool {
        let (good, failed) = self.sum(now, Some(breaker));
        let all = good + failed;
        in_a_row >= breaker.consecutive
            || all >= breaker.min_samples && f64::from(failed) >= f64::from(all) * breaker.failure_rate
    }

    /// Opens until then, unless it is open for longer already.
    fn open(&self, mode: u64, now: Millis, wait: Duration) {
        let until = now + wait.as_millis() as u64;
        let _ = self.word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |word| {
            let longer = matches!(word & MODE, OPEN | COOLING) && word & !MODE >= until;
            (!longer).then_some(mode | until)
        });
    }

    /// Nobody is there, as a probe found.
    pub fn missed(&self, now: Millis, wait: Duration) {
        self.open(OPEN, now, wait);
    }

    /// Somebody is there again; what the target itself asked for stands. True when the circuit was not closed.
    pub fn found(&self, now: Millis) -> bool {
        let was = self.word.load(Ordering::Relaxed) & MODE;
        let missed = matches!(was, OPEN | HALF_OPEN) || matches!(self.standing(now), Standing::HalfOpen);
        if missed {
            self.reset();
        }
        missed
    }

    /// Closed, with nothing remembered.
    fn reset(&self) {
        self.word.store(CLOSED, Ordering::Relaxed);
        self.in_a_row.store(0, Ordering::Relaxed);
        self.openings.store(0, Ordering::Relaxed);
        self.counts.clear();
    }

    /// What an operator wants.
    pub fn want(&self, standing: Wanted) {
        let wanted = match standing {
            Wanted::Drained => DRAINED,
            Wanted::Open => HELD_OPEN,
            Wanted::Closed => {
                self.reset();
                NOTHING
            }
        };
        self.wanted.store(wanted, Ordering::Relaxed);
    }

    /// Good and failed attempts in the window.
    pub fn sum(&self, now: Millis, breaker: Option<&Breaker>) -> (u32, u32) {
        self.counts.sum(now, window(breaker))
    }
}

/// What an operator may want of a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// No new requests; those under way go on.
    Drained,
    /// As if it had failed, until told otherwise.
    Open,
    /// Whatever was, it is well now.
    Closed,
}

/// Whether a half-open breaker has probes to give.
fn has_probes(word: u64, breaker: &Breaker) -> bool {
    word & !MODE < u64::from(breaker.probes.max(1))
}

fn window(breaker: Option<&Breaker>) -> Duration {
    breaker.map_or(WINDOW, |breaker| breaker.window)
}

fn doubled(first: Duration, times: u32, most: Duration) -> Duration {
    first.saturating_mul(1 << times.min(20)).min(most.max(first))
}
