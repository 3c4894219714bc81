//! Answers kept for asks that come again: memory, a tier that several processes share, and the asks under way that others
//! may listen to.
//!
//! Holds what upstreams said, byte for byte, under keys made elsewhere; what is in a key decides who shares. Never gives
//! an answer beyond its time.

pub mod alias;
pub mod entry;
pub mod flight;
pub mod index;
pub mod purge;
pub mod shared;
pub mod store;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwapOption;

pub use entry::{Entry, Form, Key};
use flight::Flights;
pub use flight::{Flight, Join, Landing, Lead};
use purge::About;
pub use purge::Purge;
pub use shared::Shared;
pub use store::Store;

/// The cache of the process.
#[derive(Debug, Default)]
pub struct Cache {
    /// None until a generation asks for one.
    store: ArcSwapOption<Store>,
    /// Set once, where processes share answers.
    shared: OnceLock<Arc<Shared>>,
    flights: Flights,
    aliases: alias::Aliases,
    purged: purge::Purged,
    /// What answered asks are found by when they are asked in other words.
    pub vectors: index::Flat,
    pub counts: Counts,
}

/// What happened since the process began.
#[derive(Debug, Default)]
pub struct Counts {
    /// Answers kept.
    pub kept: AtomicU64,
    /// Answers that were longer than `max_entry_bytes`.
    pub too_long: AtomicU64,
    /// Answers taken out by the operator.
    pub purged: AtomicU64,
}

impl Counts {
    pub fn snapshot(&self) -> Snapshot {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Snapshot { kept: read(&self.kept), too_long: read(&self.too_long), purged: read(&self.purged) }
    }
}

/// [`Counts`] at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Snapshot {
    pub kept: u64,
    pub too_long: u64,
    pub purged: u64,
}

impl Cache {
    /// Makes room for `max_bytes`. What is kept moves along when the bound changes; the oldest may not fit any more.
    pub fn resize(&self, max_bytes: u64) {
        let current = self.store.load();
        if current.as_ref().is_some_and(|store| store.max_bytes() == max_bytes) {
            return;
        }
        let fresh = Store::new(max_bytes);
        if let Some(current) = current.as_ref() {
            current.pour_into(&fresh);
        }
        self.store.store(Some(Arc::new(fresh)));
    }

    /// Answers are shared by this tier from now on. False when there is one already.
    fn share(&self, shared: Arc<Shared>) -> bool {
        self.shared.set(shared).is_ok()
    }

    /// Whether the generation in force wants answers to be shared; without a tier nothing is.
    pub fn use_shared(&self, used: bool) {
        if let Some(shared) = self.shared() {
            shared.set_used(used);
        }
    }

    /// The tier that several processes share.
    pub fn shared(&self) -> Option<&Arc<Shared>> {
        self.shared.get()
    }

    /// The answer under a key on the shared tier, of at most so many bytes, for an ask that began after so many purges. Memory
    /// holds it from now on.
    pub async fn find_shared(&self, key: Key, max_body: usize, now: u64, since: u64) -> Option<Arc<Entry>> {
        let entry = Arc::new(self.shared()?.find(key, max_body, now).await?);
        self.remember(&entry, since).then_some(entry)
    }

    /// Holds an answer in memory whose ask began after so many purges. False where one of those since then takes it out.
    fn remember(&self, entry: &Arc<Entry>, since: u64) -> bool {
        let store = self.store.load();
        if let Some(store) = store.as_ref() {
            store.keep(entry.clone());
        }
        // Looked at afterwards: a purge is noted before it takes out what is there.
        let purged = self.is_purged(entry, since);
        if let Some(store) = store.as_ref().filter(|_| purged) {
            store.forget(entry.key);
        }
        !purged
    }

    /// The answer under a key in memory, unless its time is over.
    pub fn find(&self, key: Key, now: u64) -> Option<Arc<Entry>> {
        self.store.load().as_ref()?.find(key, now)
    }

    /// The key of a body as it came, told by its parts.
    pub fn key_of_body<'a>(&self, parts: impl IntoIterator<Item = &'a [u8]>) -> Key {
        self.aliases.of(parts)
    }

    /// The key that a body stands for, where the same body has been seen before.
    pub fn alias(&self, raw: Key) -> Option<Key> {
        self.store.load().as_ref()?.alias(raw)
    }

    /// Notes that a body stands for a key.
    pub fn keep_alias(&self, raw: Key, key: Key, ttl: std::time::Duration) {
        if let Some(store) = self.store.load().as_ref() {
            store.keep_alias(raw, key, ttl);
        }
    }

    /// How many purges there were: an ask that begins now remembers it.
    pub fn purges(&self) -> u64 {
        self.purged.count()
    }

    /// Whether a purge has taken this answer out since there were so many.
    fn is_purged(&self, entry: &Entry, since: u64) -> bool {
        self.purged.fits_since(since, &entry.into())
    }

    /// Keeps an answer whose ask began after so many purges. False where one of those since then has taken it out.
    pub fn keep(&self, entry: Arc<Entry>, since: u64) -> bool {
        if self.store.load().is_none() {
            return true;
        }
        if !self.remember(&entry, since) {
            return false;
        }
        self.counts.kept.fetch_add(1, Ordering::Relaxed);
        if let Some(shared) = self.shared() {
            shared.keep(&entry, since);
        }
        true
    }

    /// Listens to the ask under way under this key, or leads it where there is none, or none but those that a purge has been
    /// meant for since they began. `partition` and `asked` as of an [`Entry`]; who joins knows of so many purges.
    pub fn join(&self, key: Key, since: u64, partition: &str, asked: &str) -> Join {
        self.flights.join(key, since, |began, target| {
            let from = target.map(|target| (target.provider.name.as_str(), target.model.as_str()));
            self.purged.fits_since(began, &About { key, partition, asked, from })
        })
    }

    /// Asks under way that others may listen to.
    pub fn flights(&self) -> usize {
        self.flights.len()
    }

    /// Exchanges that listen to one of them.
    pub fn listening(&self) -> usize {
        self.flights.listening()
    }

    /// Takes what fits out of memory, and what of it is under way; gives how many answers lay there.
    pub fn purge(&self, purge: &Purge) -> usize {
        self.purged.note(purge);
        let taken = |store: &Arc<Store>| match purge.only_key() {
            Some(key) => usize::from(store.forget(key)),
            None => store.purge(|entry| purge.fits(&entry.into())),
        };
        let purged = self.store.load().as_ref().map_or(0, taken);
        self.counts.purged.fetch_add(purged as u64, Ordering::Relaxed);
        purged
    }

    /// Takes the answer under a key out, here and wherever processes share it, because it is good for nobody any more. Does
    /// not wait for the others. Must be called in a runtime.
    pub fn forget(&self, key: Key) {
        // Also what is about to be kept, here or there: it is of before this.
        self.purged.note(&Purge::of(key));
        if let Some(store) = self.store.load().as_ref() {
            store.forget(key);
        }
        if let Some(shared) = self.shared().cloned() {
            // A server that is away keeps it until its time is over, as with every purge.
            tokio::spawn(async move { shared.purge(&Purge::of(key), &format!("key={key}")).await });
        }
    }

    /// Answers, bytes of all that is kept, and the bound.
    pub fn size(&self) -> (u64, u64, u64) {
        self.store.load().as_ref().map_or((0, 0, 0), |store| store.size())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache() -> (Cache, Arc<Entry>) {
        let cache = Cache::default();
        cache.resize(1 << 20);
        (cache, entry::sample(1, 2, "key:a"))
    }

    #[test]
    fn what_was_read_before_a_purge_is_not_held_after_it() {
        let (cache, entry) = cache();
        // It is on its way from the shared tier while somebody purges.
        let since = cache.purges();
        cache.purge(&Purge::all());
        assert!(!cache.remember(&entry, since));
        assert!(cache.find(entry.key, 1000).is_none(), "what was purged is given");
        assert!(cache.remember(&entry, cache.purges()));
        assert!(cache.find(entry.key, 1000).is_some());
    }

    #[test]
    fn what_is_good_for_nobody_any_more_is_kept_by_none_who_asked_before() {
        let (cache, entry) = cache();
        let since = cache.purges();
        cache.forget(entry.key);
        assert!(!cache.keep(entry.clone(), since));
        assert!(cache.find(entry.key, 1000).is_none());
        assert!(cache.keep(entry, cache.purges()));
    }
}
