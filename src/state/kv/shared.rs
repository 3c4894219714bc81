//! Values of guests on Redis or Valkey, where several processes keep them together.
//!
//! One script and one round trip change one key in a single step, with the bounds of the embedded store; all keys carry
//! one hash tag. Away, every call fails and says so: what is kept together is never kept apart for a while.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ::redis::{Script, Value, cmd};
use bytes::Bytes;

use super::{DEFAULT_SPACE_BYTES, KvError, fits};
use crate::state::redis::{Away, Link};

/// What came of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Answered,
    /// The server is away; nothing was asked.
    Down,
    /// No answer within the time.
    Slow,
    Failed,
}

impl Outcome {
    pub const ALL: [Outcome; 4] = [Outcome::Answered, Outcome::Down, Outcome::Slow, Outcome::Failed];

    /// The word in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Answered => "answered",
            Outcome::Down => "down",
            Outcome::Slow => "slow",
            Outcome::Failed => "failed",
        }
    }
}

/// The values of all namespaces.
#[derive(Debug)]
pub struct Shared {
    link: Arc<Link>,
    script: Script,
    calls: [AtomicU64; Outcome::ALL.len()],
}

/// What is written, and until when.
struct Put<'a> {
    what: &'static str,
    value: &'a [u8],
    ttl: Option<Duration>,
    expected: Option<&'a [u8]>,
}

impl Shared {
    pub fn new(link: Arc<Link>) -> Self {
        Shared { link, script: Script::new(include_str!("shared.lua")), calls: Default::default() }
    }

    /// Every outcome with its count since the process began.
    pub fn calls(&self) -> impl Iterator<Item = (Outcome, u64)> {
        Outcome::ALL.into_iter().zip(self.calls.iter().map(|count| count.load(Ordering::Relaxed)))
    }

    /// # Errors
    /// [`KvError::Away`].
    pub async fn get(&self, space: &str, key: &str) -> Result<Option<Bytes>, KvError> {
        let answer = self.link.run(cmd("GET").arg(self.value(space, key))).await;
        match self.answered(answer)? {
            Value::Nil => Ok(None),
            Value::BulkString(value) => Ok(Some(value.into())),
            _ => Err(KvError::Away("failed")),
        }
    }

    /// As [`super::Space::set`].
    ///
    /// # Errors
    /// As there, and [`KvError::Away`].
    pub async fn set(&self, space: &str, key: &str, value: &[u8], ttl: Option<Duration>) -> Result<(), KvError> {
        self.put(space, key, Put { what: "set", value, ttl, expected: None }).await.map(drop)
    }

    /// As [`super::Space::add`].
    ///
    /// # Errors
    /// As there, and [`KvError::Away`].
    pub async fn add(&self, space: &str, key: &str, value: &[u8], ttl: Option<Duration>) -> Result<bool, KvError> {
        self.put(space, key, Put { what: "add", value, ttl, expected: None }).await
    }

    /// As [`super::Space::swap`].
    ///
    /// # Errors
    /// As there, and [`KvError::Away`].
    pub async fn swap(
        &self,
        space: &str,
        key: &str,
        expected: Option<&[u8]>,
        value: &[u8],
        ttl: Option<Duration>,
    ) -> Result<bool, KvError> {
        self.put(space, key, Put { what: "swap", value, ttl, expected }).await
    }

    /// As [`super::Space::incr`].
    ///
    /// # Errors
    /// As there, and [`KvError::Away`].
    pub async fn incr(&self, space: &str, key: &str, by: i64, ttl: Option<Duration>) -> Result<i64, KvError> {
        let by = by.to_string();
        fits(key, by.as_bytes())?;
        let answer = self.run(space, key, &Put { what: "incr", value: by.as_bytes(), ttl, expected: None }).await?;
        if let Value::Array(sum) = &answer
            && let [Value::BulkString(sum)] = sum.as_slice()
        {
            return std::str::from_utf8(sum).ok().and_then(|sum| sum.parse().ok()).ok_or(KvError::NotANumber);
        }
        Err(refusal(&answer))
    }

    /// Whether there was something to delete.
    ///
    /// # Errors
    /// [`KvError::Away`].
    pub async fn delete(&self, space: &str, key: &str) -> Result<bool, KvError> {
        let answer = self.run(space, key, &Put { what: "delete", value: b"", ttl: None, expected: None }).await?;
        Ok(word(&answer) == "gone")
    }

    async fn put(&self, space: &str, key: &str, put: Put<'_>) -> Result<bool, KvError> {
        fits(key, put.value)?;
        let answer = self.run(space, key, &put).await?;
        match word(&answer) {
            "kept" => Ok(true),
            "stands" => Ok(false),
            _ => Err(refusal(&answer)),
        }
    }

    async fn run(&self, space: &str, key: &str, put: &Put<'_>) -> Result<Value, KvError> {
        let mut call = self.script.prepare_invoke();
        for part in ["bytes", "sizes", "ends"] {
            call.key(self.name(space, part));
        }
        call.key(self.value(space, key));
        call.arg(put.what).arg(key).arg(self.name(space, "v:")).arg(DEFAULT_SPACE_BYTES);
        match put.ttl {
            Some(ttl) => call.arg(ttl.as_millis().max(1) as u64),
            None => call.arg(""),
        };
        call.arg(put.value);
        if let Some(expected) = put.expected {
            call.arg(expected);
        }
        self.answered(self.link.script(&call).await)
    }

    fn answered(&self, answer: Result<Value, Away>) -> Result<Value, KvError> {
        let outcome = match &answer {
            Ok(_) => Outcome::Answered,
            Err(Away::Down) => Outcome::Down,
            Err(Away::Slow) => Outcome::Slow,
            Err(Away::Failed(_)) => Outcome::Failed,
        };
        self.calls[outcome as usize].fetch_add(1, Ordering::Relaxed);
        answer.map_err(|away| KvError::Away(away.as_str()))
    }

    fn value(&self, space: &str, key: &str) -> String {
        self.name(space, "v:") + key
    }

    /// The length keeps a namespace apart from one whose name begins like it.
    fn name(&self, space: &str, part: &str) -> String {
        format!("{{{}}}:kv:{}:{space}:{part}", self.link.prefix, space.len())
    }
}

fn word(answer: &Value) -> &str {
    match answer {
        Value::BulkString(word) => std::str::from_utf8(word).unwrap_or_default(),
        _ => "",
    }
}

fn refusal(answer: &Value) -> KvError {
    match word(answer) {
        "full" => KvError::Full(DEFAULT_SPACE_BYTES),
        "no number" => KvError::NotANumber,
        "overflow" => KvError::Overflow,
        _ => KvError::Away("failed"),
    }
}
