//! Vectors of asks that were answered: which of them is near to a new one.
//!
//! Whoever may share an answer stands in the scope, and scopes never meet: a search sees one scope alone. Bounded in
//! entries; the oldest go first.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::entry::Key;

/// Entries of one scope. A scan of so many takes about a tenth of a millisecond.
const MAX_SCOPE: usize = 2000;

/// Locks for the scopes, so that workers seldom meet.
const SHARDS: usize = 16;

/// What a vector stands for.
#[derive(Debug, Clone)]
pub struct Point {
    /// Of length one.
    pub vector: Box<[f32]>,
    pub guard: Guard,
    pub key: Key,
    /// Unix milliseconds.
    pub until_ms: u64,
}

/// What of two texts must agree, whatever their vectors say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Guard {
    /// Words that must be the same in both, in their order.
    pub words: Box<[Box<str>]>,
    /// Stand for all words of the text, in no order and in theirs; 0 for nothing to compare.
    pub bag: u64,
    pub sequence: u64,
}

impl Guard {
    /// Whether both may ask for the same. The same words in another order do not: vectors that are sums cannot tell.
    pub fn agrees(&self, other: &Guard) -> bool {
        self.words == other.words && (self.bag != other.bag || self.sequence == other.sequence)
    }
}

/// Where vectors are kept. Embedded, or a store of their own.
pub trait Vectors: Send + Sync {
    /// The nearest point of a scope that is at least `threshold` alike (cosine) and whose guard agrees.
    fn nearest(&self, scope: Key, vector: &[f32], guard: &Guard, threshold: f32, now_ms: u64) -> Option<(Key, f32)>;

    fn add(&self, scope: Key, point: Point);
}

/// Every vector in memory, looked at one after the other.
#[derive(Debug)]
pub struct Flat {
    shards: Box<[Mutex<Shard>]>,
    max_per_shard: usize,
}

#[derive(Debug, Default)]
struct Shard {
    scopes: HashMap<Key, VecDeque<Point>>,
    /// The scope of each point, oldest first.
    order: VecDeque<Key>,
}

/// Vectors in all scopes together: about 60 MB at 256 dimensions.
const MAX_ENTRIES: usize = 50_000;

impl Default for Flat {
    fn default() -> Self {
        Flat::new(MAX_ENTRIES)
    }
}

impl Flat {
    pub fn new(max_entries: usize) -> Self {
        Flat { shards: (0..SHARDS).map(|_| Mutex::default()).collect(), max_per_shard: (max_entries / SHARDS).max(1) }
    }

    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).order.len()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn shard(&self, scope: Key) -> MutexGuard<'_, Shard> {
        lock(&self.shards[usize::from(scope.0[0]) % SHARDS])
    }
}

impl Vectors for Flat {
    fn nearest(&self, scope: Key, vector: &[f32], guard: &Guard, threshold: f32, now_ms: u64) -> Option<(Key, f32)> {
        let shard = self.shard(scope);
        let points = shard.scopes.get(&scope)?.iter();
        points
            .filter(|point| point.until_ms > now_ms && point.guard.agrees(guard) && point.vector.len() == vector.len())
            .map(|point| (point.key, dot(&point.vector, vector)))
            .filter(|(_, likeness)| *likeness >= threshold)
            .max_by(|a, b| a.1.total_cmp(&b.1))
    }

    fn add(&self, scope: Key, point: Point) {
        let mut shard = self.shard(scope);
        let shard = &mut *shard;
        let points = shard.scopes.entry(scope).or_default();
        if let Some(same) = points.iter_mut().find(|known| known.key == point.key) {
            *same = point;
            return;
        }
        points.push_back(point);
        let full = points.len() > MAX_SCOPE;
        shard.order.push_back(scope);
        if full || shard.order.len() > self.max_per_shard {
            // The oldest of this scope, where that alone is full; else the oldest of all.
            let at = if full { shard.order.iter().position(|known| *known == scope) } else { Some(0) };
            if let Some(scope) = at.and_then(|at| shard.order.remove(at))
                && let Some(points) = shard.scopes.get_mut(&scope)
            {
                points.pop_front();
                if points.is_empty() {
                    shard.scopes.remove(&scope);
                }
            }
        }
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    // Four sums side by side: one alone would wait for itself at every step.
    let mut sums = [0.0f32; 4];
    for (a, b) in a.chunks(4).zip(b.chunks(4)) {
        for (sum, (a, b)) in sums.iter_mut().zip(a.iter().zip(b)) {
            *sum += a * b;
        }
    }
    sums.iter().sum()
}

/// The vector at length one; None for one that has no direction.
pub fn normal(vector: Vec<f32>) -> Option<Box<[f32]>> {
    let length = dot(&vector, &vector).sqrt();
    if !length.is_finite() || length <= f32::EPSILON {
        return None;
    }
    Some(vector.into_iter().map(|part| part / length).collect())
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u64) -> Key {
        Key::of([n.to_le_bytes().as_slice()])
    }

    fn words(words: &[&str]) -> Guard {
        Guard { words: words.iter().map(|word| (*word).into()).collect(), ..Guard::default() }
    }

    #[test]
    fn the_same_words_in_another_order_do_not_agree() {
        let guard = |bag, sequence| Guard { bag, sequence, ..words(&["Paris"]) };
        assert!(guard(1, 1).agrees(&guard(1, 1)) && guard(1, 1).agrees(&guard(2, 3)));
        assert!(!guard(1, 1).agrees(&guard(1, 2)) && !guard(1, 1).agrees(&words(&["London"])));
    }

    fn point(n: u64, vector: &[f32], guard: &[&str]) -> Point {
        let guard = words(guard);
        Point { vector: normal(vector.to_vec()).expect("a direction"), guard, key: key(n), until_ms: 1000 }
    }

    fn nearest(flat: &Flat, scope: u64, vector: &[f32], guard: &[&str], threshold: f32) -> Option<Key> {
        flat.nearest(key(scope), &normal(vector.to_vec()).expect("a direction"), &words(guard), threshold, 500)
            .map(|(key, _)| key)
    }

    #[test]
    fn the_nearest_of_the_scope_with_the_same_guard_is_found() {
        let flat = Flat::new(1000);
        flat.add(key(1), point(1, &[1.0, 0.0, 0.0, 0.0, 0.1], &[]));
        flat.add(key(1), point(2, &[1.0, 0.2, 0.0, 0.0, 0.0], &[]));
        flat.add(key(1), point(3, &[1.0, 0.0, 0.0, 0.0, 0.0], &["France"]));
        flat.add(key(2), point(4, &[1.0, 0.0, 0.0, 0.0, 0.0], &[]));
        assert_eq!(nearest(&flat, 1, &[1.0, 0.0, 0.0, 0.0, 0.0], &[], 0.9), Some(key(1)));
        assert_eq!(nearest(&flat, 1, &[1.0, 0.0, 0.0, 0.0, 0.0], &["France"], 0.9), Some(key(3)));
        assert_eq!(nearest(&flat, 1, &[1.0, 0.0, 0.0, 0.0, 0.0], &["Germany"], 0.9), None);
        assert_eq!(nearest(&flat, 1, &[0.0, 1.0, 0.0, 0.0, 0.0], &[], 0.9), None);
        assert_eq!(nearest(&flat, 3, &[1.0, 0.0, 0.0, 0.0, 0.0], &[], 0.0), None);
        // Another embedder's vectors have another length.
        assert_eq!(nearest(&flat, 1, &[1.0, 0.0], &[], 0.0), None);
    }

    #[test]
    fn what_is_over_is_not_found_and_the_bound_holds() {
        let flat = Flat::new(160);
        let over = Point { until_ms: 400, ..point(1, &[1.0, 0.0], &[]) };
        flat.add(key(1), over);
        assert_eq!(nearest(&flat, 1, &[1.0, 0.0], &[], 0.5), None);
        for n in 0..5000 {
            flat.add(key(n % 7), point(n, &[1.0, n as f32], &[]));
        }
        assert!(flat.len() <= 160, "{}", flat.len());
        flat.add(key(1), point(7, &[1.0, 0.0], &[]));
        let before = flat.len();
        flat.add(key(1), point(7, &[1.0, 0.0], &[]));
        assert_eq!(flat.len(), before);
        assert!(normal(vec![0.0, 0.0]).is_none() && normal(vec![f32::NAN]).is_none());
    }
}
