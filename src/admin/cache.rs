//! The cache as operators see it: what it holds, and taking things out of it.
//!
//! Never shows what was asked or answered.

use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use crate::state::State;
use crate::state::cache::{Entry, Key};

/// Shortest beginning of a key that is taken: shorter ones take out a sixteenth of everything by a slip.
const SHORTEST_PREFIX: usize = 4;

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
        "guests": {"cache": spaces(state.guest_cache.stats()), "kv": spaces(state.kv.stats())},
    })
}

/// What a purge takes out: answers that fit everything it says.
#[derive(Debug, Default, PartialEq)]
pub struct Purge {
    key: Option<Key>,
    prefix: Option<String>,
    partition: Option<String>,
    model: Option<String>,
}

impl Purge {
    /// Reads `key=`, `prefix=`, `partition=`, `model=` or `all=true`.
    ///
    /// # Errors
    /// What is wrong, and what to send instead.
    pub fn read(query: &str) -> Result<Purge, String> {
        const HOW: &str = "send `key`, `prefix` (of a key), `partition`, `model`, or `all=true` in the query";
        let mut purge = Purge::default();
        let mut all = false;
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = percent_decode_str(value).decode_utf8_lossy().into_owned();
            match name {
                "key" => {
                    let key =
                        Key::parse(&value).ok_or("`key` has 32 hexadecimal digits, as `x-portcullis-cache-key`")?;
                    purge.key = Some(key);
                }
                "prefix" if value.len() >= SHORTEST_PREFIX => purge.prefix = Some(value.to_ascii_lowercase()),
                "prefix" => return Err(format!("`prefix` has at least {SHORTEST_PREFIX} digits")),
                "partition" => purge.partition = Some(value),
                "model" => purge.model = Some(value),
                "all" if value == "true" => all = true,
                _ => return Err(format!("`{name}` is not known; {HOW}")),
            }
        }
        if purge == Purge::default() && !all {
            return Err(format!("nothing says what to take out; {HOW}"));
        }
        Ok(purge)
    }

    /// Takes the answers out; gives how many.
    pub fn run(&self, state: &State) -> usize {
        state.cache.purge(|entry| self.fits(entry))
    }

    fn fits(&self, entry: &Entry) -> bool {
        let is = |wanted: &Option<String>, names: &[&str]| {
            wanted.as_ref().is_none_or(|wanted| names.iter().any(|name| name == wanted))
        };
        self.key.is_none_or(|key| key == entry.key)
            && self.prefix.as_ref().is_none_or(|prefix| entry.key.to_string().starts_with(prefix))
            // A key or project may be named without saying which of the two it is.
            && is(&self.partition, &[&entry.partition, entry.partition.split_once(':').map_or("", |(_, name)| name)])
            && is(&self.model, &[&entry.asked, &entry.model, &format!("{}/{}", entry.provider, entry.model)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_purge_says_what_it_takes() {
        assert!(Purge::read("").is_err() && Purge::read("all=yes").is_err() && Purge::read("key=12").is_err());
        assert!(Purge::read("prefix=a").is_err() && Purge::read("modle=x").is_err());
        assert_eq!(Purge::read("all=true"), Ok(Purge::default()));
        let purge = Purge::read("model=openai%2Fgpt-5&partition=key:a").expect("is good");
        assert_eq!((purge.model.as_deref(), purge.partition.as_deref()), (Some("openai/gpt-5"), Some("key:a")));
    }
}
