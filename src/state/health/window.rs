//! Counts and quantiles over the last while: rings of buckets, each good for one slice of time.
//!
//! All atomics, no lock: a bucket whose slice is over is emptied by whoever needs it next. A sample that falls between
//! emptying and counting may be lost; these are measures, not accounts.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use super::{Millis, Quantiles};

/// Slices of a window of counts.
const SLICES: usize = 10;

/// Good and failed attempts of the last while.
#[derive(Debug, Default)]
pub(super) struct Counts([Slice; SLICES]);

#[derive(Debug, Default)]
struct Slice {
    /// Number of the slice of time since the process began, plus one; zero is "never used".
    epoch: AtomicU64,
    good: AtomicU32,
    failed: AtomicU32,
}

impl Counts {
    pub fn add(&self, now: Millis, window: Duration, good: u32, failed: u32) {
        let epoch = epoch(now, window);
        let slice = &self.0[(epoch % SLICES as u64) as usize];
        let seen = slice.epoch.load(Ordering::Relaxed);
        if seen != epoch && slice.epoch.compare_exchange(seen, epoch, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            slice.good.store(0, Ordering::Relaxed);
            slice.failed.store(0, Ordering::Relaxed);
        }
        slice.good.fetch_add(good, Ordering::Relaxed);
        slice.failed.fetch_add(failed, Ordering::Relaxed);
    }

    /// Good and failed ones within the window.
    pub fn sum(&self, now: Millis, window: Duration) -> (u32, u32) {
        let epoch = epoch(now, window);
        let mut sum = (0, 0);
        for slice in &self.0 {
            if slice.epoch.load(Ordering::Relaxed) + SLICES as u64 > epoch {
                sum.0 += slice.good.load(Ordering::Relaxed);
                sum.1 += slice.failed.load(Ordering::Relaxed);
            }
        }
        sum
    }

    pub fn clear(&self) {
        for slice in &self.0 {
            slice.good.store(0, Ordering::Relaxed);
            slice.failed.store(0, Ordering::Relaxed);
        }
    }
}

fn epoch(now: Millis, window: Duration) -> u64 {
    let width = (window.as_millis() as u64 / SLICES as u64).max(1);
    // Offset by a whole ring, so that a slice never used (epoch 0) is always too old.
    now / width + SLICES as u64
}

/// How far back quantiles look. OpenRouter's preferences are over five minutes as well.
pub(super) const QUANTILE_WINDOW: Duration = Duration::from_secs(5 * 60);

/// Slices of the window of quantiles.
const AGES: usize = 5;

/// Buckets for each doubling of a value: neighbours lie 9 % apart.
const PER_OCTAVE: f64 = 8.0;

/// Buckets in all: from [`LEAST`] up over 22 doublings.
const BUCKETS: usize = 176;

/// Lower end of the lowest bucket: a quarter of a millisecond, or of a token a second. The highest ends at 17 minutes.
const LEAST: f64 = 0.25;

/// Samples below which quantiles are worked out anew whenever one came in: with few, each one moves them.
const FEW: u32 = 64;

/// How stale quantiles may be otherwise. Working them out reads every bucket, which is too much for each request.
const STALE_MS: u64 = 500;

/// The distribution of a measure over [`QUANTILE_WINDOW`], in logarithmic buckets.
#[derive(Debug)]
pub(super) struct Histogram {
    ages: Box<[Age; AGES]>,
    /// Samples since the quantiles were worked out.
    fresh: AtomicU32,
    /// Samples that the quantiles stand for.
    samples: AtomicU32,
    worked_out: AtomicU64,
    /// p50, p75, p90, p95 and p99 as `f32`; meaningful when `samples` is not zero.
    quantiles: [AtomicU32; 5],
}

#[derive(Debug)]
struct Age {
    epoch: AtomicU64,
    buckets: [AtomicU32; BUCKETS],
}

impl Histogram {
    pub fn new() -> Self {
        let age = || Age { epoch: AtomicU64::new(0), buckets: [const { AtomicU32::new(0) }; BUCKETS] };
        Histogram {
            ages: Box::new(std::array::from_fn(|_| age())),
            fresh: AtomicU32::new(0),
            samples: AtomicU32::new(0),
            worked_out: AtomicU64::new(0),
            quantiles: Default::default(),
        }
    }

    pub fn observe(&self, now: Millis, value: f64) {
        let epoch = age_epoch(now);
        let age = &self.ages[(epoch % AGES as u64) as usize];
        let seen = age.epoch.load(Ordering::Relaxed);
        if seen != epoch && age.epoch.compare_exchange(seen, epoch, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            age.buckets.iter().for_each(|bucket| bucket.store(0, Ordering::Relaxed));
        }
        age.buckets[bucket(value)].fetch_add(1, Ordering::Relaxed);
        self.fresh.fetch_add(1, Ordering::Relaxed);
    }

    /// The quantiles, at most half a second old.
    pub fn quantiles(&self, now: Millis) -> Quantiles {
        let fresh = self.fresh.load(Ordering::Relaxed);
        let samples = self.samples.load(Ordering::Relaxed);
        let age = now.saturating_sub(self.worked_out.load(Ordering::Relaxed));
        // Also without new samples: old ones leave the window.
        let due = if samples < FEW { fresh > 0 || age > STALE_MS } else { age > STALE_MS };
        if due {
            self.work_out(now);
        }
        if self.samples.load(Ordering::Relaxed) == 0 {
            return Quantiles::default();
        }
        let [p50, p75, p90, p95, p99] =
            [0, 1, 2, 3, 4].map(|at| Some(f64::from(f32::from_bits(self.quantiles[at].load(Ordering::Relaxed)))));
        Quantiles { p50, p75, p90, p95, p99 }
    }

    fn work_out(&self, now: Millis) {
        self.worked_out.store(now, Ordering::Relaxed);
        self.fresh.store(0, Ordering::Relaxed);
        let epoch = age_epoch(now);
        let mut sums = [0u32; BUCKETS];
        for age in self.ages.iter().filter(|age| age.epoch.load(Ordering::Relaxed) + AGES as u64 > epoch) {
            for (sum, bucket) in sums.iter_mut().zip(&age.buckets) {
                *sum += bucket.load(Ordering::Relaxed);
            }
        }
        let samples: u32 = sums.iter().sum();
        let mut below = 0;
        let mut at = 0;
        for (place, share) in [0.5, 0.75, 0.9, 0.95, 0.99].into_iter().enumerate() {
            let rank = (f64::from(samples) * share).ceil() as u32;
            while at + 1 < BUCKETS && below + sums[at] < rank {
                below += sums[at];
                at += 1;
            }
            self.quantiles[place].store((middle(at) as f32).to_bits(), Ordering::Relaxed);
        }
        self.samples.store(samples, Ordering::Relaxed);
    }
}

fn age_epoch(now: Millis) -> u64 {
    let width = QUANTILE_WINDOW.as_millis() as u64 / AGES as u64;
    now / width + AGES as u64
}

fn bucket(value: f64) -> usize {
    // A value below the least, or none at all, goes into the lowest bucket: the cast saturates.
    (((value / LEAST).log2() * PER_OCTAVE) as usize).min(BUCKETS - 1)
}

/// The value a bucket stands for: its middle, on the logarithmic scale.
fn middle(bucket: usize) -> f64 {
    LEAST * ((bucket as f64 + 0.5) / PER_OCTAVE).exp2()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_leave_the_window_by_and_by() {
        let counts = Counts::default();
        let window = Duration::from_secs(10);
        counts.add(0, window, 3, 1);
        counts.add(5_000, window, 0, 2);
        assert_eq!(counts.sum(5_000, window), (3, 3));
        assert_eq!(counts.sum(9_999, window), (3, 3));
        assert_eq!(counts.sum(10_000, window), (0, 2));
        assert_eq!(counts.sum(20_000, window), (0, 0));
        counts.add(20_500, window, 1, 0);
        assert_eq!(counts.sum(20_500, window), (1, 0));
    }

    #[test]
    fn quantiles_are_right_within_a_bucket() {
        let histogram = Histogram::new();
        assert_eq!(histogram.quantiles(0), Quantiles::default());
        for value in 1..=1000 {
            histogram.observe(value, value as f64);
        }
        let quantiles = histogram.quantiles(1_600);
        for (found, exact) in [(quantiles.p50, 500.0), (quantiles.p90, 900.0), (quantiles.p99, 990.0)] {
            let found = found.expect("there are samples");
            assert!((found / exact - 1.0).abs() < 0.1, "{found} for {exact}");
        }
        // Everything has left the window.
        assert_eq!(histogram.quantiles(1_000_000), Quantiles::default());
    }

    #[test]
    fn few_samples_show_at_once_and_odd_values_do_no_harm() {
        let histogram = Histogram::new();
        histogram.observe(0, 100.0);
        assert!(histogram.quantiles(0).p50.is_some_and(|value| (value / 100.0 - 1.0).abs() < 0.1));
        for odd in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e300] {
            histogram.observe(0, odd);
        }
        assert!(histogram.quantiles(0).p99.is_some_and(f64::is_finite));
    }
}
