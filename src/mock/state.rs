//! What the mock remembers between requests: seen prompts, struck faults, stored responses, the journal. All bounded;
//! the oldest goes first. Never holds a lock across an await.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::Value;

use super::journal::Journal;

/// Prompts remembered for the cache counters.
const MAX_PROMPTS: usize = 1024;

/// Fault keys remembered for `times`.
const MAX_KEYS: usize = 1024;

/// Stored responses, and how many bytes of JSON they may hold together.
const MAX_RESPONSES: usize = 256;
const MAX_RESPONSE_BYTES: usize = 64 << 20;

/// The mock's memory; shared by every connection of one `Options`.
#[derive(Debug, Default)]
pub struct State {
    pub journal: Journal,
    counter: AtomicU64,
    prompts: Mutex<VecDeque<u64>>,
    struck: Mutex<VecDeque<(String, u32)>>,
    responses: Mutex<VecDeque<Stored>>,
}

/// A response that `previous_response_id` and GET can refer to.
#[derive(Debug, Clone)]
pub struct Stored {
    pub id: String,
    pub object: Value,
    /// The whole conversation up to and with the output, as input items.
    pub items: Vec<Value>,
    /// How many of `items` came before this response's own input.
    pub earlier: usize,
    /// A background response is in progress until then.
    pub ready: tokio::time::Instant,
    bytes: usize,
}

impl Stored {
    pub fn new(id: String, object: Value, items: Vec<Value>, earlier: usize, ready: tokio::time::Instant) -> Stored {
        let bytes = object.to_string().len() + items.iter().map(|item| item.to_string().len()).sum::<usize>();
        Stored { id, object, items, earlier, ready, bytes }
    }
}

impl State {
    /// A fresh id: `prefix` and `length` letters and digits. The same sequence in every process.
    pub fn id(&self, prefix: &str, length: usize) -> String {
        const LETTERS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
        let mut seed = self.counter.fetch_add(1, Ordering::Relaxed);
        let mut id = String::with_capacity(prefix.len() + length);
        id.push_str(prefix);
        let mut bits = 0;
        for i in 0..length {
            if i % 10 == 0 {
                seed = mix(seed);
                bits = seed;
            }
            id.push(char::from(LETTERS[(bits % 62) as usize]));
            bits /= 62;
        }
        id
    }

    /// Whether a prompt with this hash was seen before; it is from now on.
    pub fn seen_before(&self, prompt: u64) -> bool {
        let mut prompts = lock(&self.prompts);
        let seen = prompts.contains(&prompt);
        if !seen {
            prompts.push_back(prompt);
            if prompts.len() > MAX_PROMPTS {
                prompts.pop_front();
            }
        }
        seen
    }

    /// Counts one strike of the fault with this key; false when it has struck `times` already.
    pub fn strikes(&self, key: &str, times: u32) -> bool {
        let mut struck = lock(&self.struck);
        if let Some((_, count)) = struck.iter_mut().find(|(known, _)| known == key) {
            *count += 1;
            return *count <= times;
        }
        if struck.len() == MAX_KEYS {
            struck.pop_front();
        }
        struck.push_back((key.to_owned(), 1));
        times > 0
    }

    pub fn keep(&self, response: Stored) {
        let mut responses = lock(&self.responses);
        responses.push_back(response);
        let mut bytes: usize = responses.iter().map(|stored| stored.bytes).sum();
        while responses.len() > MAX_RESPONSES || bytes > MAX_RESPONSE_BYTES {
            let Some(oldest) = responses.pop_front() else { break };
            bytes -= oldest.bytes;
        }
    }

    pub fn response(&self, id: &str) -> Option<Stored> {
        lock(&self.responses).iter().find(|stored| stored.id == id).cloned()
    }

    /// An item of a stored conversation.
    pub fn item(&self, id: &str) -> Option<Value> {
        let responses = lock(&self.responses);
        let mut items = responses.iter().rev().flat_map(|stored| &stored.items);
        items.find(|item| item["id"] == id).cloned()
    }

    /// Removes a stored response; false when there was none.
    pub fn forget(&self, id: &str) -> bool {
        let mut responses = lock(&self.responses);
        let before = responses.len();
        responses.retain(|stored| stored.id != id);
        responses.len() < before
    }
}

/// What the lock guards is whole between any two statements, so a panic elsewhere does not spoil it.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Spreads a counter over all bits (the finaliser of SplitMix64).
pub fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// FNV-1a: small, and the same in every build.
pub fn hash(seed: u64, bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(seed ^ 0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_differ_and_a_fresh_memory_repeats_them() {
        let (one, two) = (State::default(), State::default());
        let ids: Vec<String> = (0..100).map(|_| one.id("x-", 24)).collect();
        assert!(ids.iter().all(|id| id.len() == 26));
        assert_eq!(ids.iter().collect::<std::collections::HashSet<_>>().len(), 100);
        assert_eq!(two.id("x-", 24), ids[0]);
    }

    #[test]
    fn a_fault_strikes_so_many_times_and_no_more() {
        let state = State::default();
        assert_eq!([1, 2, 3].map(|_| state.strikes("a", 2)), [true, true, false]);
        assert!(state.strikes("b", 1));
        assert!(!state.strikes("c", 0));
    }

    #[test]
    fn memory_stays_bounded() {
        let state = State::default();
        for i in 0..5000_u64 {
            assert!(!state.seen_before(i));
            state.strikes(&i.to_string(), 1);
            let now = tokio::time::Instant::now();
            state.keep(Stored::new(i.to_string(), Value::Null, Vec::new(), 0, now));
        }
        assert_eq!(lock(&state.prompts).len(), MAX_PROMPTS);
        assert_eq!(lock(&state.struck).len(), MAX_KEYS);
        assert_eq!(lock(&state.responses).len(), MAX_RESPONSES);
        assert!(state.response("4999").is_some() && state.response("0").is_none());
    }
}
