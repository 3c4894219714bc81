//! One kept answer: what the upstream said, and what is told about it.
//!
//! Never changes once it is made; a copy that goes out gets an id of its own.

use std::fmt;
use std::time::Duration;

use aws_lc_rs::digest;
use bytes::Bytes;
use memchr::memmem;

use crate::chat::{Finish, Usage};
use crate::dialect::Dialect;

/// The first half of a SHA-256: no two asks meet in it by accident, nor because somebody wants them to. Of a body as it
/// came, see [`Aliases`](super::alias::Aliases).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(pub [u8; 16]);

impl Key {
    /// The key of parts that are told apart by their order and length.
    pub fn of<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Key {
        let mut context = digest::Context::new(&digest::SHA256);
        for part in parts {
            context.update(&length(part));
            context.update(part);
        }
        let mut key = [0; 16];
        key.copy_from_slice(&context.finish().as_ref()[..16]);
        Key(key)
    }

    /// Reads 32 hexadecimal digits.
    pub fn parse(text: &str) -> Option<Key> {
        if text.len() != 32 || !text.is_ascii() {
            return None;
        }
        let mut key = [0; 16];
        for (at, byte) in key.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[at * 2..at * 2 + 2], 16).ok()?;
        }
        Some(Key(key))
    }
}

/// What stands before each part of a key, so that parts cannot run into each other.
pub(super) fn length(part: &[u8]) -> [u8; 8] {
    (part.len() as u64).to_le_bytes()
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let mut digits = [0; 32];
        for (at, byte) in self.0.iter().enumerate() {
            digits[at * 2] = HEX[usize::from(byte >> 4)];
            digits[at * 2 + 1] = HEX[usize::from(byte & 15)];
        }
        f.write_str(std::str::from_utf8(&digits).unwrap_or_default())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// How an answer came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Whole,
    /// As server-sent events.
    Stream,
}

/// A kept answer.
#[derive(Debug, Clone)]
pub struct Entry {
    pub key: Key,
    /// Whose it is, as the key's partition says; for purges.
    pub partition: String,
    /// The model as callers name it.
    pub asked: String,
    /// Who answered.
    pub provider: String,
    /// The upstream's name of the model.
    pub model: String,
    /// The wire form that `body` is in.
    pub dialect: &'static dyn Dialect,
    pub form: Form,
    pub body: Bytes,
    /// Where the answer's id stands in `body`, and what it is.
    pub id: Option<Places>,
    pub usage: Option<Usage>,
    pub finish: Option<Finish>,
    /// What it cost, which is what a hit saves. None when the price is unknown.
    pub cost_nano_usd: Option<u64>,
    /// Unix milliseconds.
    pub stored_ms: u64,
    pub ttl: Duration,
}

/// Where one text stands in another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    pub text: String,
    at: Box<[u32]>,
}

impl Places {
    /// The places of an id, as a JSON string of its own. None when it is nowhere, or too short to be renewed.
    pub fn of(id: &str, body: &[u8]) -> Option<Places> {
        const SHORTEST: usize = 12;
        if id.len() < SHORTEST || !id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')) {
            return None;
        }
        let quoted = format!("\"{id}\"");
        let at: Box<[u32]> = memmem::find_iter(body, &quoted).filter_map(|at| u32::try_from(at + 1).ok()).collect();
        (!at.is_empty()).then(|| Places { text: id.to_owned(), at })
    }
}

impl Entry {
    /// What it takes in memory, about: itself, its texts, and what the map keeps beside each.
    pub fn weight(&self) -> u64 {
        // Node, deques, timer and frequency sketch of the map, and the allocator's rounding; an estimate.
        const OVERHEAD: usize = 520;
        let texts = self.partition.len() + self.asked.len() + self.provider.len() + self.model.len();
        let id = self.id.as_ref().map_or(0, |id| id.text.len() + id.at.len() * 4);
        (size_of::<Entry>() + texts + id + self.body.len() + OVERHEAD) as u64
    }

    pub fn age(&self, now_ms: u64) -> Duration {
        Duration::from_millis(now_ms.saturating_sub(self.stored_ms))
    }

    /// What is left of its time; None when that is over.
    pub fn left(&self, now_ms: u64) -> Option<Duration> {
        self.ttl.checked_sub(self.age(now_ms)).filter(|left| !left.is_zero())
    }

    /// The body with an id of its own, and that id, where it has one that can be renewed. The prefix that says what kind of
    /// id it is stays.
    pub fn fresh_body(&self) -> (Bytes, Option<String>) {
        let Some(id) = &self.id else { return (self.body.clone(), None) };
        let mut body = self.body.to_vec();
        let fresh = renewed(&id.text);
        for at in &id.at {
            let at = *at as usize;
            body[at..at + fresh.len()].copy_from_slice(fresh.as_bytes());
        }
        (body.into(), Some(fresh))
    }
}

/// An id of the same kind and length: random letters and digits in place of those after the prefix.
fn renewed(id: &str) -> String {
    const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    // `chatcmpl-`, `msg_`, `gen-`; what has no prefix is renewed from its start.
    let prefix = id.find(['-', '_']).map_or(0, |at| if at + 9 <= id.len() { at + 1 } else { 0 });
    let mut fresh = id[..prefix].to_owned();
    fresh.extend(id[prefix..].chars().map(|c| match c {
        '-' | '_' => c,
        _ => char::from(DIGITS[fastrand::usize(..DIGITS.len())]),
    }));
    fresh
}

/// An answer kept for ten seconds at 1,000 ms.
#[cfg(test)]
pub fn sample(key: u64, body: usize, partition: &str) -> std::sync::Arc<Entry> {
    std::sync::Arc::new(Entry {
        key: Key::of([key.to_le_bytes().as_slice()]),
        partition: partition.into(),
        asked: "fast".into(),
        provider: "p".into(),
        model: "m".into(),
        dialect: crate::dialect::DIALECTS[0],
        form: Form::Whole,
        body: vec![b'x'; body].into(),
        id: None,
        usage: None,
        finish: None,
        cost_nano_usd: None,
        stored_ms: 1000,
        ttl: Duration::from_secs(10),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_tell_parts_apart_and_are_read_back() {
        let key = Key::of([b"ab".as_slice(), b"c"]);
        assert_ne!(key, Key::of([b"a".as_slice(), b"bc"]));
        assert_ne!(key, Key::of([b"abc".as_slice()]));
        assert_eq!(Key::parse(&key.to_string()), Some(key));
        assert_eq!(key.to_string().len(), 32);
        assert!(Key::parse("xyz").is_none() && Key::parse(&"g".repeat(32)).is_none());
    }

    #[test]
    fn every_copy_has_an_id_of_its_own_and_nothing_else_changes() {
        let body = br#"{"id":"chatcmpl-AbC123xyz","x":"not chatcmpl-AbC123xyz","again":"chatcmpl-AbC123xyz"}"#;
        let id = Places::of("chatcmpl-AbC123xyz", body).expect("stands there");
        assert_eq!(id.at.len(), 2);
        let fresh = renewed("chatcmpl-AbC123xyz");
        assert!(fresh.starts_with("chatcmpl-") && fresh.len() == 18 && fresh != "chatcmpl-AbC123xyz", "{fresh}");
        assert_ne!(renewed("msg_0123456789"), renewed("msg_0123456789"));
        assert!(Places::of("c1", br#"{"id":"c1"}"#).is_none());
        assert!(Places::of("with\"quote-----", b"x").is_none());
    }
}
