//! The cache's memory under asks that are all different: what it counts stays within its bound, and what the process
//! takes for it stays within a tenth of that.
//!
//! In a process of its own with the allocator of the program, since what is measured is the process. `--ignored` runs
//! the long form: a million asks.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use portcullis::dialect::DIALECTS;
use portcullis::state::cache::entry::Places;
use portcullis::state::cache::{Cache, Entry, Form, Key};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Memory of the process in bytes that is not a file's.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("proc");
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).expect("RssAnon");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number") * 1024
}

/// An answer as a small model gives it, with the alias that its ask leaves.
fn ask(cache: &Cache, number: u64, body: usize) {
    let id = format!("chatcmpl-{number:016x}");
    let mut text = format!("{{\"id\":\"{id}\",\"choices\":[{{\"message\":{{\"content\":\"").into_bytes();
    text.resize(body, b'x');
    let body = Bytes::from(text);
    let key = Key::of([b"ask".as_slice(), &number.to_le_bytes()]);
    cache.keep_alias(Key::of([b"raw".as_slice(), &number.to_le_bytes()]), key, Duration::from_secs(3600));
    let entry = Entry {
        key,
        partition: "key:search-prod".into(),
        asked: "fast".into(),
        provider: "openai".into(),
        model: "gpt-5-mini".into(),
        dialect: DIALECTS[0],
        form: Form::Whole,
        id: Places::of(&id, &body),
        body,
        usage: None,
        finish: None,
        cost_nano_usd: Some(1),
        stored_ms: 1,
        ttl: Duration::from_secs(3600),
    };
    cache.keep(Arc::new(entry), cache.purges());
}

/// Fills a cache of this bound with distinct asks; gives the most it counted and the most the process took for it.
fn fill(bound: u64, asks: u64, body: impl Fn(u64) -> usize) -> (u64, u64) {
    let cache = Cache::default();
    cache.resize(bound);
    let before = resident();
    let (mut counted, mut taken) = (0, 0);
    for number in 0..asks {
        ask(&cache, number, body(number));
        if number % 5000 == 4999 {
            counted = counted.max(cache.size().1);
            taken = taken.max(resident().saturating_sub(before));
        }
    }
    assert!(cache.find(Key::of([b"ask".as_slice(), &(asks - 1).to_le_bytes()]), 2).is_some(), "the newest is there");
    (counted, taken)
}

fn within(bound: u64, asks: u64, body: impl Fn(u64) -> usize) {
    let (counted, taken) = fill(bound, asks, body);
    assert!(counted <= bound && counted >= bound / 10 * 9, "{asks} asks: {counted} bytes are counted of {bound}");
    assert!(taken <= bound / 10 * 11, "{asks} asks: {taken} bytes are taken for {bound}");
}

#[test]
fn a_hundred_thousand_distinct_asks_stay_within_the_bound() {
    within(48 << 20, 100_000, |number| 400 + (number % 7) as usize * 150);
}

#[test]
#[ignore = "takes a minute"]
fn a_million_distinct_asks_stay_within_the_bound() {
    within(256 << 20, 1_000_000, |number| 300 + (number % 11) as usize * 200);
}
