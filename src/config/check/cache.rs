//! What the types of the cache cannot say: fields that are the ask itself, bounds that contradict each other, words that
//! nobody hears.
//!
//! Pure, as all checks are.

use super::{Known, unknown_model};
use crate::config::error::{Issue, nearest};
use crate::config::path::KeyPath;
use crate::config::{CacheOverrides, Config, ExactCache};

/// Everything about the cache.
pub(super) fn cache(config: &Config, known: &Known<'_>, issues: &mut Vec<Issue>) {
    semantic(config, known, issues);
    shared(config, issues);
    if let Some(exact) = &config.cache.exact {
        replay(exact, issues);
        bounds(exact, issues);
        ignored(exact, known, issues);
    }
    for (name, model) in config.models.iter() {
        unheard(config, &model.cache, &KeyPath::of(&["models"]).key(name).key("cache"), issues);
    }
    for (index, key) in config.keys.iter().enumerate() {
        unheard(config, &key.cache, &KeyPath::of(&["keys"]).index(index).key("cache"), issues);
    }
}

/// A bound that another one overrules.
fn bounds(exact: &ExactCache, issues: &mut Vec<Issue>) {
    let path = KeyPath::of(&["cache", "exact"]);
    if exact.max_entry_bytes.get() > exact.max_bytes.get() {
        let message = "is more than `max_bytes`, so that no answer of this length is ever kept; write less";
        issues.push(Issue::warning(path.key("max_entry_bytes"), message));
    }
    if exact.ttl.get() > exact.max_ttl.get() {
        let message =
            "is longer than `max_ttl`, which then bounds nothing; write a shorter time, or a longer `max_ttl`";
        issues.push(Issue::warning(path.key("ttl"), message));
    }
}

/// Without these fields any two asks would be one.
fn ignored(exact: &ExactCache, known: &Known<'_>, issues: &mut Vec<Issue>) {
    for (index, name) in exact.ignore.iter().enumerate() {
        let path = KeyPath::of(&["cache", "exact", "ignore"]).index(index);
        if known.asks.contains(&name.as_str()) {
            let message = format!("`{name}` is what is asked, so it always makes a difference; take it out");
            issues.push(Issue::error(path, message));
        } else if !known.parameters.contains(&name.as_str())
            && let Some(near) = nearest(name, known.parameters.iter().copied())
        {
            // Providers have fields of their own, so an unknown one need not be a slip.
            issues.push(Issue::warning(path, format!("no dialect has a field `{name}`; did you mean `{near}`?")));
        }
    }
}

/// What a model or key says of a part of the cache that is not there.
fn unheard(config: &Config, said: &CacheOverrides, path: &KeyPath, issues: &mut Vec<Issue>) {
    // Saying `enabled: true` is enough to have one.
    let caches = config.cache.exact.is_some() || said.enabled == Some(true) || anybody_caches(config);
    for (is_said, key) in [(said.ttl.is_some(), "ttl"), (said.partition.is_some(), "partition")] {
        if is_said && !caches {
            let message = "has no effect, because nothing is cached; write `cache.exact`, or `enabled: true` here";
            issues.push(Issue::warning(path.key(key), message));
        }
    }
    if said.semantic == Some(true) && config.cache.semantic.is_none() {
        let message = "has no effect without `cache.semantic`, which says how asks are compared; add that";
        issues.push(Issue::warning(path.key("semantic"), message));
    }
}

/// Whether some model or key has the cache on by its own word.
fn anybody_caches(config: &Config) -> bool {
    let models = config.models.iter().map(|(_, model)| &model.cache);
    models.chain(config.keys.iter().map(|key| &key.cache)).any(|said| said.enabled == Some(true))
}

/// Vectors come from one place, and likeness is a share.
fn semantic(config: &Config, known: &Known<'_>, issues: &mut Vec<Issue>) {
    let Some(semantic) = &config.cache.semantic else { return };
    let path = KeyPath::of(&["cache", "semantic"]);
    let sources = "`model` (an embedding model) or `path` (a folder), one of them";
    match (&semantic.model, &semantic.path) {
        (None, None) => {
            issues.push(Issue::error(path.clone(), format!("says not where vectors come from; write {sources}")));
        }
        (Some(_), Some(_)) => {
            issues
                .push(Issue::error(path.clone(), format!("says two places where vectors come from; write {sources}")));
        }
        _ => {}
    }
    if config.cache.exact.is_none() {
        let message = "has no effect without `cache.exact`, which keeps the answers; add that";
        issues.push(Issue::warning(path.clone(), message));
    }
    if let Some(message) = semantic.model.as_ref().and_then(|model| unknown_model(config, known, model)) {
        issues.push(Issue::warning(path.key("model"), message));
    }
    if !(0.0..=1.0).contains(&semantic.threshold) {
        issues.push(Issue::error(path.key("threshold"), "is no likeness; write a number from 0 to 1, such as 0.95"));
    }
    if semantic.messages == 0 {
        issues.push(Issue::error(path.key("messages"), "is zero; write 1 or more"));
    }
}

/// A pause is for people to watch, not to wait for.
fn replay(exact: &ExactCache, issues: &mut Vec<Issue>) {
    if exact.replay.pace.get().is_some_and(|pace| pace.is_zero() || pace > std::time::Duration::from_secs(1)) {
        let path = KeyPath::of(&["cache", "exact", "replay", "pace"]);
        issues.push(Issue::error(path, "is no pause; write a time up to 1s, such as 20ms, or off"));
    }
}

/// A tier needs a server to be on, and room and time there.
fn shared(config: &Config, issues: &mut Vec<Issue>) {
    let shared = config.cache.exact.as_ref().and_then(|exact| exact.shared.as_ref());
    let Some(shared) = shared.filter(|shared| shared.enabled) else { return };
    let path = KeyPath::of(&["cache", "exact", "shared"]);
    if config.redis.url.is_none() {
        let message = "has no server to be on; write `redis.url`, or take this out";
        issues.push(Issue::error(path.clone(), message));
    }
    for (is_zero, key) in [(shared.max_bytes.get() == 0, "max_bytes"), (shared.timeout.is_zero(), "timeout")] {
        if is_zero {
            issues.push(Issue::error(path.key(key), "is zero; write more"));
        }
    }
}
