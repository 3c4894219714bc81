//! Moving averages over time, each in one atomic word, so that all workers share them without a lock.
//!
//! Never looks at a clock. A lost race between two updates loses one of two samples, which no average minds.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Millis;

/// Time in which an old sample's weight falls to 1/e, in milliseconds. Long enough to average over a few answers of a
/// language model, short enough to notice within a minute that it changed.
const TAU_MS: f64 = 10_000.0;

/// Milliseconds of one tick of the stored time: 32 bits of them last two years.
const TICK_MS: u64 = 16;

/// An average whose value and time stand in one word: value as `f32` above, ticks below. Zero is "no sample yet".
#[derive(Debug, Default)]
pub(super) struct Ewma(AtomicU64);

impl Ewma {
    /// Takes a sample, weighted by the time since the one before.
    pub fn observe(&self, now: Millis, sample: f64) {
        self.update(
            now,
            |old, age| {
                let keep = (-age / TAU_MS).exp();
                // Samples at the same moment must still count: at least a fifth each.
                let keep = keep.min(0.8);
                old * keep + sample * (1.0 - keep)
            },
            sample,
        );
    }

    /// Takes a sample of a latency: a slower one counts at once, a faster one by and by (the peak EWMA of Finagle).
    pub fn observe_peak(&self, now: Millis, sample: f64) {
        self.update(
            now,
            |old, age| {
                let keep = (-age / TAU_MS).exp().min(0.8);
                if sample > old { sample } else { old * keep + sample * (1.0 - keep) }
            },
            sample,
        );
    }

    /// The average as last updated.
    pub fn get(&self) -> Option<f64> {
        let (value, _) = unpack(self.0.load(Ordering::Relaxed))?;
        Some(value)
    }

    /// The average, faded by the time without samples: a target that was slow and got nothing since is tried again.
    pub fn faded(&self, now: Millis) -> Option<f64> {
        let (value, at) = unpack(self.0.load(Ordering::Relaxed))?;
        let idle = now.saturating_sub(at) as f64;
        // One time constant of grace: between two requests of a quiet target nothing is forgotten.
        Some(value * (-(idle - TAU_MS).max(0.0) / TAU_MS).exp())
    }

    fn update(&self, now: Millis, with: impl Fn(f64, f64) -> f64, first: f64) {
        let mut seen = self.0.load(Ordering::Relaxed);
        loop {
            let value = match unpack(seen) {
                Some((old, at)) => with(old, now.saturating_sub(at) as f64),
                None => first,
            };
            match self.0.compare_exchange_weak(seen, pack(value, now), Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return,
                Err(newer) => seen = newer,
            }
        }
    }
}

fn pack(value: f64, now: Millis) -> u64 {
    // One added, so that a sample at the process's first moment is not "none".
    let ticks = (now / TICK_MS + 1) & u64::from(u32::MAX);
    (u64::from((value as f32).to_bits()) << 32) | ticks
}

fn unpack(word: u64) -> Option<(f64, Millis)> {
    let ticks = (word & u64::from(u32::MAX)).checked_sub(1)?;
    Some((f64::from(f32::from_bits((word >> 32) as u32)), ticks * TICK_MS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peak_counts_at_once_and_fades() {
        let average = Ewma::default();
        assert_eq!(average.get(), None);
        average.observe_peak(0, 100.0);
        average.observe_peak(100, 1000.0);
        assert_eq!(average.get(), Some(1000.0));
        for step in 0..40 {
            average.observe_peak(200 + step * 100, 100.0);
        }
        assert!(average.get().is_some_and(|value| value < 120.0), "{average:?}");
        let before = average.get().expect("samples");
        assert_eq!(average.faded(4_200), Some(before));
        assert!(average.faded(60_000).is_some_and(|value| value < before / 10.0));
    }

    #[test]
    fn a_plain_average_follows_both_ways() {
        let average = Ewma::default();
        for step in 0..60 {
            average.observe(step * 100, 50.0);
        }
        assert!(average.get().is_some_and(|value| (value - 50.0).abs() < 0.1));
        for step in 60..120 {
            average.observe(step * 100, 10.0);
        }
        assert!(average.get().is_some_and(|value| (value - 10.0).abs() < 0.5), "{average:?}");
    }
}
