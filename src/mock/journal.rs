//! The last requests as they reached the mock, and how each ended, for tests to look at. Bounded; changes no answer.

use std::collections::VecDeque;
use std::sync::Mutex;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::state::lock;
use super::wire::Request;

/// Requests kept.
pub const MAX_ENTRIES: usize = 64;

/// Bytes of a request body kept.
pub const MAX_BODY_BYTES: usize = 256 << 10;

/// How an exchange ended, from the mock's side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The whole answer was written.
    Complete,
    /// The client went away before that.
    ClientGone,
    /// The mock broke it off, as a fault demands.
    Broken,
}

#[derive(Debug)]
struct Entry {
    number: u64,
    request: Request,
    body_bytes: usize,
    fault: Option<&'static str>,
    status: Option<u16>,
    begun: Instant,
    ended: Option<(Outcome, Instant)>,
    sent_bytes: u64,
}

/// The last [`MAX_ENTRIES`] requests.
#[derive(Debug, Default)]
pub struct Journal {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    entries: VecDeque<Entry>,
    next: u64,
}

impl Journal {
    /// Notes a request; the number given back names it later.
    pub fn begin(&self, request: &Request) -> u64 {
        let mut kept = request.head_only();
        kept.body = request.body[..request.body.len().min(MAX_BODY_BYTES)].to_vec();
        let mut inner = lock(&self.inner);
        let number = inner.next;
        inner.next += 1;
        if inner.entries.len() == MAX_ENTRIES {
            inner.entries.pop_front();
        }
        inner.entries.push_back(Entry {
            number,
            request: kept,
            body_bytes: request.body.len(),
            fault: None,
            status: None,
            begun: Instant::now(),
            ended: None,
            sent_bytes: 0,
        });
        number
    }

    /// Notes the status it is answered with, and the fault that strikes it.
    pub fn answered(&self, number: u64, status: u16, fault: Option<&'static str>) {
        self.change(number, |entry| {
            entry.status = Some(status);
            entry.fault = fault;
        });
    }

    /// Notes how it ended and how many bytes of answer were written.
    pub fn end(&self, number: u64, outcome: Outcome, sent_bytes: u64) {
        self.change(number, |entry| {
            entry.ended = Some((outcome, Instant::now()));
            entry.sent_bytes = sent_bytes;
        });
    }

    pub fn clear(&self) {
        lock(&self.inner).entries.clear();
    }

    /// The requests, oldest first, as `GET /__mock/last` shows them.
    pub fn to_json(&self) -> Value {
        let inner = lock(&self.inner);
        json!({ "requests": inner.entries.iter().map(Entry::to_json).collect::<Vec<Value>>() })
    }

    fn change(&self, number: u64, change: impl FnOnce(&mut Entry)) {
        if let Some(entry) = lock(&self.inner).entries.iter_mut().find(|entry| entry.number == number) {
            change(entry);
        }
    }
}

impl Entry {
    fn to_json(&self) -> Value {
        let ms = |at: Instant| u64::try_from((at - self.begun).as_millis()).unwrap_or(u64::MAX);
        let (outcome, ended) = match self.ended {
            Some((outcome, at)) => (Some(outcome), Some(ms(at))),
            None => (None, None),
        };
        json!({
            "number": self.number,
            "method": self.request.method,
            "path": self.request.path,
            "target": self.request.target,
            "headers": self.request.headers.iter().map(|(name, value)| json!([name, value])).collect::<Vec<Value>>(),
            "body": String::from_utf8_lossy(&self.request.body),
            "body_bytes": self.body_bytes,
            "fault": self.fault,
            "status": self.status,
            "outcome": match outcome {
                None => "open",
                Some(Outcome::Complete) => "complete",
                Some(Outcome::ClientGone) => "client_gone",
                Some(Outcome::Broken) => "broken",
            },
            "client_gone": outcome == Some(Outcome::ClientGone),
            "client_gone_ms": ended.filter(|_| outcome == Some(Outcome::ClientGone)),
            "ended_ms": ended,
            "sent_bytes": self.sent_bytes,
        })
    }
}
