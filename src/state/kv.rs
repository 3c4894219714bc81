//! Values that guests keep between requests: `cache`, which forgets the oldest when it is full, and `kv`, which refuses.
//!
//! Every operation is atomic for its key. A namespace is bounded in bytes and cannot push another one's values out.

pub mod shared;

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use bytes::Bytes;
use thiserror::Error;
use tokio::time::Instant;

use super::handles::Handles;

/// Locks of one namespace: enough that the workers of a large machine seldom meet.
const SHARDS: usize = 16;

/// What an entry takes beside its key and value: both index slots, the expiry and the allocator's rounding.
const OVERHEAD_BYTES: usize = 160;

/// Longest value. A table that is larger belongs into several keys.
pub const MAX_VALUE_BYTES: usize = 1 << 20;

/// Longest key.
pub const MAX_KEY_BYTES: usize = 1 << 10;

/// Bytes of one namespace, where nobody says otherwise.
pub const DEFAULT_SPACE_BYTES: u64 = 64 << 20;

/// What happens to a value that finds no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenFull {
    /// The oldest values make room.
    Forget,
    /// It is not kept.
    Refuse,
}

/// Why a value was not kept.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum KvError {
    #[error("the namespace holds its {0} bytes already; delete keys, or give them a time to live")]
    Full(u64),
    #[error("the value is longer than {MAX_VALUE_BYTES} bytes; cut it into several keys")]
    ValueTooLong,
    #[error("the key is longer than {MAX_KEY_BYTES} bytes; use its hash")]
    KeyTooLong,
    #[error("the value is not a whole number; delete the key before counting under it")]
    NotANumber,
    /// Why, in a word of [`super::redis::Away`].
    #[error("the namespace is on Redis, which is away ({0}); what was slow or failed may have been done all the same")]
    Away(&'static str),
    #[error("the sum is beyond 64 bits; delete the key to count anew")]
    Overflow,
}

/// Namespaces by name.
#[derive(Debug)]
pub struct Kv {
    when_full: WhenFull,
    spaces: Handles<Box<str>, Arc<Space>>,
}

impl Kv {
    pub fn new(when_full: WhenFull) -> Self {
        Kv { when_full, spaces: Handles::default() }
    }

    /// The namespace with this name, made when it is new. Names come from the operator's grants, so they are few.
    pub fn space(&self, name: &str) -> Arc<Space> {
        let fresh = || Arc::new(Space::new(self.when_full, DEFAULT_SPACE_BYTES));
        self.spaces.get(name).unwrap_or_else(|| self.spaces.put(name.into(), fresh()))
    }

    /// Name, entries and bytes of each namespace, by name.
    pub fn stats(&self) -> Vec<(String, usize, u64)> {
        let spaces = self.spaces.all().into_iter();
        let mut stats: Vec<_> = spaces.map(|(name, space)| (name.into_string(), space.len(), space.bytes())).collect();
        stats.sort();
        stats
    }
}

/// One namespace.
#[derive(Debug)]
pub struct Space {
    when_full: WhenFull,
    max_bytes: AtomicU64,
    used: AtomicU64,
    hasher: RandomState,
    shards: [Mutex<Shard>; SHARDS],
}

#[derive(Debug, Default)]
struct Shard {
    entries: HashMap<Box<str>, Entry>,
    /// Keys in the order they were written, each with its entry's number: a pair that no longer fits is stale.
    order: VecDeque<(Box<str>, u64)>,
    number: u64,
}

#[derive(Debug)]
struct Entry {
    value: Bytes,
    expires: Option<Instant>,
    number: u64,
}

impl Entry {
    fn lives(&self, now: Instant) -> bool {
        self.expires.is_none_or(|expires| now < expires)
    }
}

impl Space {
    fn new(when_full: WhenFull, max_bytes: u64) -> Self {
        Space {
            when_full,
            max_bytes: AtomicU64::new(max_bytes),
            used: AtomicU64::new(0),
            hasher: RandomState::new(),
            shards: Default::default(),
        }
    }

    /// Sets the bound. What is beyond it goes when the next value is written.
    pub fn limit(&self, max_bytes: u64) {
        self.max_bytes.store(max_bytes, Ordering::Relaxed);
    }

    pub fn get(&self, key: &str) -> Option<Bytes> {
        self.get_at(key, Instant::now())
    }

    fn get_at(&self, key: &str, now: Instant) -> Option<Bytes> {
        let shard = self.shard(key);
        shard.entries.get(key).filter(|entry| entry.lives(now)).map(|entry| entry.value.clone())
    }

    /// Keeps a value, for `ttl` where one is given.
    ///
    /// # Errors
    /// [`KvError::Full`], [`KvError::ValueTooLong`], [`KvError::KeyTooLong`].
    pub fn set(&self, key: &str, value: impl Into<Bytes>, ttl: Option<Duration>) -> Result<(), KvError> {
        let value = value.into();
        fits(key, &value)?;
        let mut shard = self.shard(key);
        self.put(&mut shard, key, value, ttl.map(|ttl| Instant::now() + ttl))
    }

    /// Keeps a value unless there is one. False when there is.
    ///
    /// # Errors
    /// As [`Space::set`].
    pub fn add(&self, key: &str, value: impl Into<Bytes>, ttl: Option<Duration>) -> Result<bool, KvError> {
        let value = value.into();
        fits(key, &value)?;
        let now = Instant::now();
        let mut shard = self.shard(key);
        if shard.entries.get(key).is_some_and(|entry| entry.lives(now)) {
            return Ok(false);
        }
        self.put(&mut shard, key, value, ttl.map(|ttl| now + ttl)).map(|()| true)
    }

    /// Keeps `value` only where `expected` stands now (None: where nothing does). False when something else does.
    ///
    /// # Errors
    /// As [`Space::set`].
    pub fn swap(
        &self,
        key: &str,
        expected: Option<&[u8]>,
        value: impl Into<Bytes>,
        ttl: Option<Duration>,
    ) -> Result<bool, KvError> {
        let value = value.into();
        fits(key, &value)?;
        let now = Instant::now();
        let mut shard = self.shard(key);
        let stands = shard.entries.get(key).filter(|entry| entry.lives(now)).map(|entry| entry.value.clone());
        if stands.as_deref() != expected {
            return Ok(false);
        }
        self.put(&mut shard, key, value, ttl.map(|ttl| now + ttl)).map(|()| true)
    }

    /// Adds to a number and gives the sum; an absent one counts as 0 and lives for `ttl` from now. A number that is
    /// there keeps its own end, so that a window that was opened once closes once.
    ///
    /// # Errors
    /// As [`Space::set`]; [`KvError::NotANumber`], [`KvError::Overflow`].
    pub fn incr(&self, key: &str, by: i64, ttl: Option<Duration>) -> Result<i64, KvError> {
        self.incr_at(key, by, ttl, Instant::now())
    }

    fn incr_at(&self, key: &str, by: i64, ttl: Option<Duration>, now: Instant) -> Result<i64, KvError> {
        fits(key, &[])?;
        let mut shard = self.shard(key);
        let (before, expires) = match shard.entries.get(key).filter(|entry| entry.lives(now)) {
            Some(entry) => {
                let text = std::str::from_utf8(&entry.value).map_err(|_| KvError::NotANumber)?;
                (text.parse().map_err(|_| KvError::NotANumber)?, entry.expires)
            }
            None => (0i64, ttl.map(|ttl| now + ttl)),
        };
        let sum = before.checked_add(by).ok_or(KvError::Overflow)?;
        self.put(&mut shard, key, sum.to_string().into(), expires)?;
        Ok(sum)
    }

    /// Whether there was something to delete.
    pub fn delete(&self, key: &str) -> bool {
        let mut shard = self.shard(key);
        let lived = shard.entries.get(key).is_some_and(|entry| entry.lives(Instant::now()));
        self.remove(&mut shard, key);
        lived
    }

    /// Takes everything out.
    pub fn clear(&self) {
        for shard in &self.shards {
            let mut shard = lock(shard);
            let keys: Vec<Box<str>> = shard.entries.keys().cloned().collect();
            keys.iter().for_each(|key| self.remove(&mut shard, key));
        }
    }

    pub fn bytes(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).entries.len()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn shard(&self, key: &str) -> MutexGuard<'_, Shard> {
        lock(&self.shards[self.place(key)])
    }

    fn place(&self, key: &str) -> usize {
        self.hasher.hash_one(key) as usize % SHARDS
    }

    fn put(&self, shard: &mut Shard, key: &str, value: Bytes, expires: Option<Instant>) -> Result<(), KvError> {
        // A slice of a larger buffer would keep all of it.
        let value = Bytes::copy_from_slice(&value);
        let limit = self.max_bytes.load(Ordering::Relaxed);
        let size = weight(key, &value);
        if size > limit {
            return Err(KvError::Full(limit));
        }
        let beyond = |shard: &Shard| {
            let freed = shard.entries.get(key).map_or(0, |entry| weight(key, &entry.value));
            self.bytes() + size > limit + freed
        };
        if beyond(shard) {
            self.sweep(shard);
        }
        // Of its own shard first: what is written goes round all of them, and so does what is forgotten.
        while self.when_full == WhenFull::Forget && beyond(shard) && self.forget_oldest(shard, key) {}
        if beyond(shard) {
            self.make_room_elsewhere(key, || beyond(shard));
        }
        if beyond(shard) {
            // What stood under this key stays, and is the next to go.
            if let Some(number) = shard.entries.get(key).map(|entry| entry.number) {
                shard.order.push_front((key.into(), number));
            }
            return Err(KvError::Full(limit));
        }
        self.remove(shard, key);
        shard.number += 1;
        let number = shard.number;
        shard.order.push_back((key.into(), number));
        shard.entries.insert(key.into(), Entry { value, expires, number });
        self.used.fetch_add(size, Ordering::Relaxed);
        if shard.order.len() > 2 * shard.entries.len() + 16 {
            let Shard { entries, order, .. } = shard;
            order.retain(|(key, number)| entries.get(key).is_some_and(|entry| entry.number == *number));
        }
        Ok(())
    }

    /// Takes the oldest entry out, unless it is the one of this key. False when there is none.
    fn forget_oldest(&self, shard: &mut Shard, key: &str) -> bool {
        let Some((oldest, number)) = shard.order.pop_front() else { return false };
        if oldest.as_ref() != key && shard.entries.get(&oldest).is_some_and(|entry| entry.number == number) {
            self.remove(shard, &oldest);
        }
        true
    }

    /// Lets the other shards make room, for a value that does not fit into all that its own shard held: by what has expired,
    /// and by the oldest where that may be. Whoever holds one of them may be waiting for this one: none is waited for.
    fn make_room_elsewhere(&self, key: &str, beyond: impl Fn() -> bool) {
        let own = self.place(key);
        let others = (1..SHARDS).map(|step| &self.shards[(own + step) % SHARDS]);
        for mut other in others.filter_map(try_lock) {
            if !beyond() {
                return;
            }
            self.sweep(&mut other);
            while self.when_full == WhenFull::Forget && beyond() && self.forget_oldest(&mut other, key) {}
        }
    }

    /// Takes out what has expired.
    fn sweep(&self, shard: &mut Shard) {
        let now = Instant::now();
        let mut freed = 0;
        shard.entries.retain(|key, entry| {
            let lives = entry.lives(now);
            freed += if lives { 0 } else { weight(key, &entry.value) };
            lives
        });
        self.used.fetch_sub(freed, Ordering::Relaxed);
    }

    fn remove(&self, shard: &mut Shard, key: &str) {
        if let Some(entry) = shard.entries.remove(key) {
            self.used.fetch_sub(weight(key, &entry.value), Ordering::Relaxed);
        }
    }
}

fn fits(key: &str, value: &[u8]) -> Result<(), KvError> {
    if key.len() > MAX_KEY_BYTES {
        return Err(KvError::KeyTooLong);
    }
    if value.len() > MAX_VALUE_BYTES { Err(KvError::ValueTooLong) } else { Ok(()) }
}

/// The key stands twice: as the index and in the order.
fn weight(key: &str, value: &[u8]) -> u64 {
    (2 * key.len() + value.len() + OVERHEAD_BYTES) as u64
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

fn try_lock(shard: &Mutex<Shard>) -> Option<MutexGuard<'_, Shard>> {
    match shard.try_lock() {
        Ok(shard) => Some(shard),
        Err(TryLockError::Poisoned(shard)) => Some(shard.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counting_from_many_threads_loses_nothing() {
        let kv = Kv::new(WhenFull::Refuse);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let space = kv.space("counts");
                    for _ in 0..1000 {
                        space.incr("n", 1, None).expect("a number");
                    }
                });
            }
        });
        assert_eq!(kv.space("counts").get("n").as_deref(), Some(&b"8000"[..]));
    }

    #[test]
    fn one_of_many_adds_and_swaps_wins() {
        let space = Kv::new(WhenFull::Refuse).space("locks");
        let won = std::thread::scope(|scope| {
            let space = &space;
            let tries: Vec<_> = (0..8).map(|n| scope.spawn(move || space.add("lock", n.to_string(), None))).collect();
            tries.into_iter().map(|one| one.join().expect("ends")).filter(|won| *won == Ok(true)).count()
        });
        assert_eq!(won, 1);
        let holder = space.get("lock").expect("held");
        assert_eq!(space.swap("lock", Some(b"nobody"), "x", None), Ok(false));
        assert_eq!(space.swap("lock", Some(&holder), "x", None), Ok(true));
        assert_eq!(space.swap("lock", None, "y", None), Ok(false));
        assert!(space.delete("lock") && !space.delete("lock"));
        assert_eq!(space.swap("lock", None, "y", None), Ok(true));
    }

    #[test]
    fn values_end_with_their_time_and_a_window_closes_once() {
        let space = Kv::new(WhenFull::Forget).space("s");
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let ttl = Some(Duration::from_secs(10));
        assert_eq!(space.incr_at("w", 1, ttl, at(0)), Ok(1));
        assert_eq!(space.incr_at("w", 1, ttl, at(6)), Ok(2));
        assert_eq!(space.get_at("w", at(9)).as_deref(), Some(&b"2"[..]));
        assert_eq!(space.get_at("w", at(10)), None);
        assert_eq!(space.incr_at("w", 1, ttl, at(10)), Ok(1));
        space.set("gone", "x", Some(Duration::ZERO)).expect("room");
        assert_eq!((space.get("gone"), space.add("gone", "y", None)), (None, Ok(true)));
    }

    #[test]
    fn a_cache_forgets_the_oldest_and_a_kv_refuses() {
        for when_full in [WhenFull::Forget, WhenFull::Refuse] {
            let kv = Kv::new(when_full);
            let (space, neighbour) = (kv.space("s"), kv.space("neighbour"));
            space.limit(200_000);
            neighbour.set("mine", "kept", None).expect("room");
            let value = vec![b'x'; 1000];
            let kept = (0..1000).map(|n| space.set(&format!("key-{n}"), value.clone(), None)).filter(Result::is_ok);
            let kept = kept.count();
            assert!(space.bytes() <= 200_000, "{}", space.bytes());
            match when_full {
                WhenFull::Forget => {
                    assert!(kept > 990, "{kept}");
                    assert!(space.get("key-999").is_some() && space.get("key-0").is_none());
                }
                WhenFull::Refuse => {
                    assert_eq!(space.set("one-more", value, None), Err(KvError::Full(200_000)));
                    assert!(space.get("key-0").is_some());
                    // What replaces a value needs only the difference.
                    assert_eq!(space.set("key-0", "y", None), Ok(()));
                }
            }
            assert!(neighbour.get("mine").is_some());
            space.clear();
            assert_eq!((space.bytes(), space.len()), (0, 0));
        }
    }

    #[test]
    fn a_cache_forgets_what_other_shards_hold_for_a_value_that_fits_into_the_whole() {
        let space = Kv::new(WhenFull::Forget).space("s");
        space.limit(200_000);
        let value = |bytes: usize| vec![b'x'; bytes];
        for number in 0..150 {
            space.set(&format!("small-{number}"), value(1000), None).expect("room");
        }
        for number in 0..50 {
            assert_eq!(space.set(&format!("large-{number}"), value(150_000), None), Ok(()), "{number}");
            assert!(space.bytes() <= 200_000, "{}", space.bytes());
        }
        // One that no room can be made for costs the others nothing.
        assert_eq!(space.set("huge", value(200_000), None), Err(KvError::Full(200_000)));
        assert!(space.get("large-49").is_some());
        for number in 0..150 {
            assert_eq!(space.set(&format!("small-{number}"), value(1000), None), Ok(()));
        }
    }

    #[test]
    fn what_has_expired_keeps_no_value_out_wherever_it_lies() {
        let space = Kv::new(WhenFull::Refuse).space("s");
        space.limit(200_000);
        for number in 0..150 {
            space.set(&format!("gone-{number}"), vec![b'x'; 1000], Some(Duration::ZERO)).expect("room");
        }
        // A shard holds a sixteenth of them, which is less than is needed.
        assert_eq!(space.set("large", vec![b'x'; 150_000], None), Ok(()));
        assert!(space.get("large").is_some() && space.bytes() <= 200_000, "{}", space.bytes());
        // What lives stays.
        assert_eq!(space.set("too", vec![b'x'; 150_000], None), Err(KvError::Full(200_000)));
        assert!(space.get("large").is_some());
    }

    #[test]
    fn what_does_not_fit_is_refused_and_says_so() {
        let space = Kv::new(WhenFull::Refuse).space("s");
        assert_eq!(space.set("k", vec![0; MAX_VALUE_BYTES + 1], None), Err(KvError::ValueTooLong));
        assert_eq!(space.set(&"k".repeat(MAX_KEY_BYTES + 1), "", None), Err(KvError::KeyTooLong));
        space.set("k", "seven", None).expect("room");
        assert_eq!(space.incr("k", 1, None), Err(KvError::NotANumber));
        space.set("k", i64::MAX.to_string(), None).expect("room");
        assert_eq!(space.incr("k", 1, None), Err(KvError::Overflow));
        assert_eq!(space.incr("k", -1, None), Ok(i64::MAX - 1));
    }
}
