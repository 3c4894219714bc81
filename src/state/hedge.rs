//! How many exchanges may be hedged: a bucket for each model, which every exchange fills a little and every hedge empties
//! by one.
//!
//! Outlives a reload; the share comes with every call. No lock and no clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use super::handles::Handles;

/// Hedges that a model may save up for a bad minute.
const MAX_SAVED: i64 = 10;

/// Parts of a hedge that are counted.
const WHOLE: i64 = 1_000_000;

/// Most models with a bucket of their own. Callers choose names, so there must be an end; the rest shares one.
const MAX_MODELS: usize = 1000;

/// The buckets, by the model's name as callers say it.
#[derive(Debug, Default)]
pub struct Hedges {
    buckets: Handles<String, Arc<Bucket>>,
    rest: Arc<Bucket>,
}

/// What one model has saved up, in millionths of a hedge.
#[derive(Debug)]
pub struct Bucket(AtomicI64);

impl Default for Bucket {
    // One to begin with: a model that is seldom asked may be hedged as well.
    fn default() -> Self {
        Bucket(AtomicI64::new(WHOLE))
    }
}

impl Hedges {
    pub fn bucket(&self, model: &str) -> Arc<Bucket> {
        if let Some(bucket) = self.buckets.get(model) {
            return bucket;
        }
        if self.buckets.count() >= MAX_MODELS {
            return self.rest.clone();
        }
        self.buckets.put(model.to_owned(), Arc::default())
    }
}

impl Bucket {
    /// An exchange goes by of which this share (0 to 1) may be hedged.
    pub fn earn(&self, share: f64) {
        let part = (share.clamp(0.0, 1.0) * WHOLE as f64) as i64;
        if self.0.fetch_add(part, Ordering::Relaxed) + part > MAX_SAVED * WHOLE {
            self.0.fetch_min(MAX_SAVED * WHOLE, Ordering::Relaxed);
        }
    }

    /// Takes one hedge out, if there is one.
    pub fn spend(&self) -> bool {
        let left = |saved: i64| (saved >= WHOLE).then_some(saved - WHOLE);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, left).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_the_share_is_hedged() {
        let hedges = Hedges::default();
        let mut spent = 0;
        for _ in 0..10_000 {
            let bucket = hedges.bucket("m");
            bucket.earn(0.05);
            spent += u32::from(bucket.spend());
        }
        assert_eq!(spent, 501);
        assert!(hedges.bucket("other").spend(), "each model has its own");
    }

    #[test]
    fn what_is_saved_up_has_an_end() {
        let bucket = Bucket::default();
        (0..1000).for_each(|_| bucket.earn(0.5));
        assert_eq!((0..100).filter(|_| bucket.spend()).count(), MAX_SAVED as usize);
    }

    #[test]
    fn names_without_end_share_a_bucket() {
        let hedges = Hedges::default();
        for number in 0..MAX_MODELS + 5 {
            hedges.bucket(&number.to_string());
        }
        assert_eq!(hedges.buckets.count(), MAX_MODELS);
        assert!(Arc::ptr_eq(&hedges.bucket("new"), &hedges.rest));
    }
}
