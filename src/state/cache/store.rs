//! The memory tier: answers and aliases within one bound of bytes, the least recently used first to go.
//!
//! Times are looked at on every read, so an answer whose time is over is never given even while it still takes room.

use std::sync::Arc;
use std::time::Duration;

use moka::Expiry;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use super::entry::{Entry, Key};

/// What an alias takes in memory: two keys and what the map keeps beside them; an estimate.
const ALIAS_BYTES: u32 = 380;

#[derive(Debug, Clone)]
enum Slot {
    Answer(Arc<Entry>),
    /// A body that was seen before, and the key it stands for: a hit then needs no decoding.
    Alias(Key, Duration),
}

/// Ends each slot with its own time.
#[derive(Debug)]
struct Ends;

impl Expiry<Key, Slot> for Ends {
    // The map's own clock; it is never asked for the time here.
    #[expect(clippy::disallowed_types, reason = "the signature is moka's")]
    fn expire_after_create(&self, _: &Key, slot: &Slot, _: std::time::Instant) -> Option<Duration> {
        Some(match slot {
            Slot::Answer(entry) => entry.ttl,
            Slot::Alias(_, ttl) => *ttl,
        })
    }

    #[expect(clippy::disallowed_types, reason = "the signature is moka's")]
    fn expire_after_update(
        &self,
        key: &Key,
        slot: &Slot,
        now: std::time::Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        self.expire_after_create(key, slot, now)
    }
}

/// A bounded map of answers.
#[derive(Debug)]
pub struct Store {
    slots: Cache<Key, Slot>,
    max_bytes: u64,
}

impl Store {
    pub fn new(max_bytes: u64) -> Self {
        let weigh = |_: &Key, slot: &Slot| match slot {
            Slot::Answer(entry) => u32::try_from(entry.weight()).unwrap_or(u32::MAX),
            Slot::Alias(..) => ALIAS_BYTES,
        };
        let slots = Cache::builder()
            .max_capacity(max_bytes)
            .weigher(weigh)
            .expire_after(Ends)
            // The newest answers are there, whatever came before: the other policy turns them away when all are equal.
            .eviction_policy(EvictionPolicy::lru())
            .build();
        Store { slots, max_bytes }
    }

    pub fn max_bytes(&self) -> u64 {
        self.max_bytes
    }

    /// The answer under a key. `now_ms` is Unix milliseconds.
    pub fn find(&self, key: Key, now_ms: u64) -> Option<Arc<Entry>> {
        match self.slots.get(&key)? {
            Slot::Answer(entry) => entry.left(now_ms).is_some().then_some(entry),
            Slot::Alias(..) => None,
        }
    }

    pub fn alias(&self, raw: Key) -> Option<Key> {
        match self.slots.get(&raw)? {
            Slot::Alias(key, _) => Some(key),
            Slot::Answer(_) => None,
        }
    }

    pub fn keep(&self, entry: Arc<Entry>) {
        self.slots.insert(entry.key, Slot::Answer(entry));
    }

    pub fn keep_alias(&self, raw: Key, key: Key, ttl: Duration) {
        self.slots.insert(raw, Slot::Alias(key, ttl));
    }

    /// Takes out the answer under a key; whether there was one.
    pub fn forget(&self, key: Key) -> bool {
        matches!(self.slots.remove(&key), Some(Slot::Answer(_)))
    }

    /// Takes out the answers that fit. Aliases of theirs lead nowhere and end with their time.
    pub fn purge(&self, fits: impl Fn(&Entry) -> bool) -> usize {
        let mut purged = 0;
        for (key, slot) in &self.slots {
            if matches!(&slot, Slot::Answer(entry) if fits(entry)) {
                self.slots.invalidate(&*key);
                purged += 1;
            }
        }
        purged
    }

    /// Answers, bytes of all slots, and the bound.
    pub fn size(&self) -> (u64, u64, u64) {
        self.slots.run_pending_tasks();
        let answers = self.slots.iter().filter(|(_, slot)| matches!(slot, Slot::Answer(_))).count();
        (answers as u64, self.slots.weighted_size(), self.max_bytes)
    }

    /// Copies everything into another store.
    pub fn pour_into(&self, other: &Store) {
        for (key, slot) in &self.slots {
            other.slots.insert(*key, slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::cache::entry::sample as entry;

    #[test]
    fn an_answer_is_not_given_beyond_its_time() {
        let store = Store::new(1 << 20);
        let one = entry(1, 10, "a");
        store.keep(one.clone());
        assert!(store.find(one.key, 1000).is_some() && store.find(one.key, 10_999).is_some());
        assert!(store.find(one.key, 11_000).is_none());
    }

    #[test]
    fn an_alias_leads_to_a_key_and_is_no_answer() {
        let store = Store::new(1 << 20);
        let one = entry(1, 10, "a");
        let raw = Key::of([b"raw".as_slice()]);
        store.keep_alias(raw, one.key, Duration::from_secs(10));
        assert_eq!((store.alias(raw), store.alias(one.key)), (Some(one.key), None));
        assert!(store.find(raw, 1000).is_none());
    }

    #[test]
    fn purging_takes_what_fits_and_leaves_the_rest() {
        let store = Store::new(1 << 20);
        for n in 0..10 {
            store.keep(entry(n, 10, if n < 3 { "a" } else { "b" }));
        }
        assert!(store.forget(entry(9, 0, "").key) && !store.forget(entry(9, 0, "").key));
        store.keep(entry(9, 10, "b"));
        assert_eq!(store.purge(|entry| entry.partition == "a"), 3);
        assert_eq!(store.size().0, 7);
        let bigger = Store::new(2 << 20);
        store.pour_into(&bigger);
        assert_eq!(bigger.size().0, 7);
    }

    #[test]
    fn the_bound_holds_under_many_distinct_answers() {
        let store = Store::new(4 << 20);
        for n in 0..20_000 {
            store.keep(entry(n, 500, "a"));
            store.keep_alias(
                Key::of([b"raw".as_slice(), &n.to_le_bytes()]),
                entry(n, 0, "").key,
                Duration::from_secs(9),
            );
        }
        let (answers, bytes, bound) = store.size();
        assert!(bytes <= bound && bytes > bound / 2, "{bytes} of {bound}");
        assert!(answers > 1000, "{answers}");
        assert!(store.find(entry(19_999, 0, "").key, 1000).is_some(), "the newest is there");
    }
}
