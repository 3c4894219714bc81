//! The cache as operators see it: what it holds, and taking things out of it.
//!
//! Never shows what was asked or answered.

use http::StatusCode;
use serde_json::{Map, Value, json};

use crate::state::State;
use crate::state::cache::{Purge, Shared};

/// What the cache holds.
pub fn stats(state: &State) -> Value {
    let (answers, bytes, max_bytes) = state.cache.size();
    let counts = state.cache.counts.snapshot();
    let spaces = |stats: Vec<(String, usize, u64)>| -> Vec<Value> {
        stats.into_iter().map(|(name, keys, bytes)| json!({"namespace": name, "keys": keys, "bytes": bytes})).collect()
    };
    json!({
        "answers": answers,
        "bytes": bytes,
        "max_bytes": max_bytes,
        "under_way": state.cache.flights(),
        "listening": state.cache.listening(),
        "kept": counts.kept,
        "too_long": counts.too_long,
        "purged": counts.purged,
        "shared": state.cache.shared().map(|shared| shared_stats(shared)),
        "guests": {"cache": spaces(state.guest_cache.stats()), "kv": spaces(state.kv.stats())},
    })
}

fn shared_stats(shared: &Shared) -> Value {
    let (kept, lost) = shared.counts.writes();
    let reads: Map<String, Value> =
        shared.counts.reads().map(|(read, count)| (read.as_str().to_owned(), count.into())).collect();
    json!({"reads": reads, "kept": kept, "lost": lost})
}

/// Takes answers out of memory and, where there is one, of the shared tier, whose other processes follow.
pub async fn purge(query: &str, state: &State) -> (StatusCode, Value) {
    let refused = |status, code, text: String| (status, json!({"error": {"code": code, "message": text}}));
    let purge = match Purge::read(query) {
        Ok(purge) => purge,
        Err(why) => return refused(StatusCode::BAD_REQUEST, "invalid_request", format!("{why}.")),
    };
    let purged = state.cache.purge(&purge);
    let Some(shared) = state.cache.shared() else { return (StatusCode::OK, json!({"purged": purged})) };
    match shared.purge(&purge, query).await {
        Ok(there) => (StatusCode::OK, json!({"purged": purged, "shared": there})),
        Err(away) => {
            let text = format!(
                "{purged} answers were taken out of this process's memory; Redis is away ({}), so it and other processes \
                 may still give them. Send the purge again when it is back.",
                away.as_str()
            );
            refused(StatusCode::SERVICE_UNAVAILABLE, "cache_unavailable", text)
        }
    }
}
