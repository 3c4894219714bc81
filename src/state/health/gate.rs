//! Places at a target: how many attempts may be under way at a time, fixed or learnt from its latency.
//!
//! Taking and giving back a place is one atomic step. Never waits: [`super::queue`] does.

use std::sync::atomic::{AtomicU32, Ordering};

/// Bounds of an adaptive number of places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Adaptive {
    pub min: u32,
    pub max: u32,
}

/// How much slower than usual answers may become before places are taken away. Durations of answers differ by their
/// length, so this is generous.
const TOLERANCE: f32 = 2.0;

/// Weight of one sample in the average of latencies.
const WEIGHT: f32 = 0.1;

/// By how much the usual latency rises with each sample: double after about 1,400.
const CREEP: f32 = 1.0005;

/// Weight of a new bound against the old.
const SMOOTHING: f32 = 0.2;

/// What is left of the bound when the target says that it is too much, or does not answer in time.
const BACKOFF: f32 = 0.9;

/// Attempts under way, and the bound that was learnt.
#[derive(Debug, Default)]
pub(super) struct Gate {
    in_flight: AtomicU32,
    // `f32` each; zero bits are "not yet". A lost race loses one sample.
    learnt: AtomicU32,
    short: AtomicU32,
    usual: AtomicU32,
}

impl Gate {
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// The number of places; None without a bound.
    pub fn places(&self, hard: Option<u32>, adaptive: Option<Adaptive>) -> Option<u32> {
        let learnt = adaptive.map(|bounds| self.learnt(bounds) as u32);
        match (hard, learnt) {
            (Some(hard), Some(learnt)) => Some(hard.min(learnt)),
            (hard, learnt) => hard.or(learnt),
        }
    }

    /// Takes a place, if there is one.
    pub fn take(&self, places: Option<u32>) -> bool {
        let Some(places) = places else {
            self.in_flight.fetch_add(1, Ordering::Relaxed);
            return true;
        };
        let more = |taken| (taken < places).then_some(taken + 1);
        self.in_flight.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    pub fn give_back(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    fn learnt(&self, bounds: Adaptive) -> f32 {
        let bits = self.learnt.load(Ordering::Relaxed);
        let (min, max) = (bounds.min as f32, bounds.max as f32);
        // Begins low enough to do no harm and high enough to be of use.
        let value = if bits == 0 { min.max(max.min(20.0)) } else { f32::from_bits(bits) };
        value.clamp(min, max)
    }

    /// A good answer took so long: the bound follows the ratio of usual to present latency (Netflix's gradient).
    pub fn good(&self, bounds: Adaptive, millis: f64) {
        let sample = (millis as f32).max(0.01);
        let short = average(&self.short, sample);
        let old = self.learnt(bounds);
        // At full use latency is partly of our own making, and says nothing of what is usual, unless there is no less.
        let idle = (self.in_flight() as f32) < old / 2.0;
        let usual = self.usual(short, idle || old <= bounds.min as f32);
        // Not nearly all places were in use, so nothing was learnt about having more.
        if idle {
            return;
        }
        let gradient = (TOLERANCE * usual / short).clamp(0.5, 1.0);
        let wanted = old * gradient + old.sqrt();
        self.learn(bounds, old * (1.0 - SMOOTHING) + wanted * SMOOTHING);
    }

    /// The lowest that the average latency has been; creeping up, in case the target became slower for good.
    fn usual(&self, short: f32, creep: bool) -> f32 {
        let bits = self.usual.load(Ordering::Relaxed);
        let factor = if creep { CREEP } else { 1.0 };
        let usual = if bits == 0 { short } else { (f32::from_bits(bits) * factor).min(short) };
        self.usual.store(usual.to_bits(), Ordering::Relaxed);
        usual
    }

    /// The target had too much to do.
    pub fn overloaded(&self, bounds: Adaptive) {
        self.learn(bounds, self.learnt(bounds) * BACKOFF);
    }

    fn learn(&self, bounds: Adaptive, value: f32) {
        let value = value.clamp(bounds.min as f32, bounds.max as f32);
        self.learnt.store(value.to_bits(), Ordering::Relaxed);
    }
}

fn average(of: &AtomicU32, sample: f32) -> f32 {
    let bits = of.load(Ordering::Relaxed);
    let new = if bits == 0 { sample } else { f32::from_bits(bits) * (1.0 - WEIGHT) + sample * WEIGHT };
    of.store(new.to_bits(), Ordering::Relaxed);
    new
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Adaptive = Adaptive { min: 2, max: 100 };

    /// `rounds` answers at full use, each this slow for as many as are under way.
    fn play(gate: &Gate, rounds: usize, latency: impl Fn(u32) -> f64) -> u32 {
        for _ in 0..rounds {
            let places = gate.places(None, Some(BOUNDS));
            while gate.take(places) {}
            let under_way = gate.in_flight();
            gate.good(BOUNDS, latency(under_way));
            for _ in 0..under_way {
                gate.give_back();
            }
        }
        gate.places(None, Some(BOUNDS)).expect("bounded")
    }

    #[test]
    fn the_bound_grows_while_latency_stays_and_shrinks_when_it_rises() {
        let gate = Gate::default();
        assert_eq!(gate.places(None, Some(BOUNDS)), Some(20));
        let grown = play(&gate, 400, |_| 100.0);
        assert_eq!(grown, 100, "nothing speaks against more");
        let shrunk = play(&gate, 40, |under_way| 100.0 * f64::from(under_way));
        assert!(shrunk < 20, "{shrunk}");
    }

    #[test]
    fn the_bound_settles_where_queueing_begins() {
        let gate = Gate::default();
        // Ten at a time are served at once; more wait for each other.
        let settled = play(&gate, 2000, |under_way| 50.0 * (f64::from(under_way) / 10.0).max(1.0));
        assert!((10..60).contains(&settled), "{settled}");
    }

    #[test]
    fn overload_takes_places_away_but_never_the_least() {
        let gate = Gate::default();
        for _ in 0..100 {
            gate.overloaded(BOUNDS);
        }
        assert_eq!(gate.places(None, Some(BOUNDS)), Some(2));
        assert_eq!(gate.places(Some(1), Some(BOUNDS)), Some(1));
        assert_eq!(gate.places(None, None), None);
    }

    #[test]
    fn an_idle_target_learns_nothing() {
        let gate = Gate::default();
        for _ in 0..100 {
            gate.good(BOUNDS, 10.0);
        }
        assert_eq!(gate.places(None, Some(BOUNDS)), Some(20));
    }
}
