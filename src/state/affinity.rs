//! Which target made which stored answer, so that later requests reach it. Bounded in number and age.

use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;

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
}

/// Answer id → maker.
#[derive(Debug)]
pub struct Affinity {
    makers: Cache<String, Arc<Maker>>,
}

impl Affinity {
    pub fn new() -> Self {
        Affinity { makers: Cache::builder().max_capacity(MAX_ENTRIES).time_to_live(TTL).build() }
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
