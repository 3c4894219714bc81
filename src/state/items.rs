//! Items of answers that callers may name by id later, where no provider keeps them. Bounded in bytes and age.

use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;
use serde_json::Value;

/// Bytes of items kept at most, about.
const MAX_BYTES: u64 = 64 << 20;

/// How long an item is kept: a working session.
const TTL: Duration = Duration::from_secs(4 * 60 * 60);

/// The name of the caller's key and the item's id → the item as JSON text.
#[derive(Debug)]
pub struct Items {
    kept: Cache<(String, String), Arc<str>>,
}

impl Items {
    pub fn new() -> Self {
        let weigh = |id: &(String, String), item: &Arc<str>| {
            u32::try_from(id.0.len() + id.1.len() + item.len()).unwrap_or(u32::MAX)
        };
        Items { kept: Cache::builder().max_capacity(MAX_BYTES).weigher(weigh).time_to_live(TTL).build() }
    }

    pub fn keep(&self, key: &str, id: String, item: &Value) {
        self.kept.insert((key.to_owned(), id), item.to_string().into());
    }

    /// The item, for the caller it was made for.
    pub fn find(&self, key: &str, id: &str) -> Option<Value> {
        let item = self.kept.get(&(key.to_owned(), id.to_owned()))?;
        serde_json::from_str(&item).ok()
    }
}

impl Default for Items {
    fn default() -> Self {
        Items::new()
    }
}
