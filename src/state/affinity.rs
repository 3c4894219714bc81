//! Which target made which stored answer, so that later requests reach it. Bounded in number and age.

use std::sync::Arc;
use std::time::Duration;

use moka::Expiry;
use moka::sync::Cache;

use super::cache::Key;

/// Answers remembered at most; about 200 bytes each.
const MAX_ENTRIES: u64 = 100_000;

/// How long an answer is remembered. OpenAI keeps them for 30 days; a day covers conversations and bounds memory.
const TTL: Duration = Duration::from_secs(24 * 60 * 60);

/// Who made an answer, and for whom. Names, not handles: a reload may have replaced what they stand for.
#[derive(Debug, Clone, PartialEq)]
pub struct Maker {
    pub provider: String,
    /// The upstream's name of the model.
    pub model: String,
    /// The model as the caller named it.
    pub asked: String,
    /// Name of the caller's key.
    pub key: String,
    /// What the cache keeps the answer under, where it does.
    pub kept: Option<Key>,
}

/// Answer id → maker, and conversation → target.
#[derive(Debug)]
pub struct Affinity {
    makers: Cache<String, Arc<Maker>>,
    sessions: Cache<u64, Kept>,
}

/// Where a conversation is kept.
#[derive(Debug, Clone)]
struct Kept {
    /// `provider/model`.
    target: Arc<str>,
    ttl: Duration,
}

/// A conversation is remembered from its last request on, each for as long as its model says.
struct Sliding;

#[expect(clippy::disallowed_types, reason = "the cache's trait names them; nothing here looks at them")]
impl Expiry<u64, Kept> for Sliding {
    fn expire_after_create(&self, _: &u64, kept: &Kept, _: std::time::Instant) -> Option<Duration> {
        Some(kept.ttl)
    }

    fn expire_after_read(
        &self,
        _: &u64,
        kept: &Kept,
        _: std::time::Instant,
        _: Option<Duration>,
        _: std::time::Instant,
    ) -> Option<Duration> {
        Some(kept.ttl)
    }

    fn expire_after_update(
        &self,
        _: &u64,
        kept: &Kept,
        _: std::time::Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Some(kept.ttl)
    }
}

impl Affinity {
    pub fn new() -> Self {
        Affinity {
            makers: Cache::builder().max_capacity(MAX_ENTRIES).time_to_live(TTL).build(),
            sessions: Cache::builder().max_capacity(MAX_ENTRIES).expire_after(Sliding).build(),
        }
    }

    /// The target (`provider/model`) that a conversation is kept at.
    pub fn kept(&self, session: u64) -> Option<Arc<str>> {
        self.sessions.get(&session).map(|kept| kept.target)
    }

    /// Keeps a conversation at a target, for this long after its last request.
    pub fn keep(&self, session: u64, target: &str, ttl: Duration) {
        self.sessions.insert(session, Kept { target: target.into(), ttl });
    }

    /// The target failed it: the next request is free.
    pub fn forget(&self, session: u64) {
        self.sessions.invalidate(&session);
    }

    pub fn remember(&self, id: &str, maker: Maker) {
        self.makers.insert(id.to_owned(), Arc::new(maker));
    }

    pub fn find(&self, id: &str) -> Option<Arc<Maker>> {
        self.makers.get(id)
    }
}

impl Default for Affinity {
    fn default() -> Self {
        Affinity::new()
    }
}
