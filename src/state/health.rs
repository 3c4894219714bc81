//! How every target is doing: what was measured of it, whether its breaker lets requests through, how many are under way.
//!
//! Keyed by the target's name, so a reload changes nothing here. Never looks at a clock: callers bring the moment, in
//! milliseconds of the process ([`Millis`]). Records are shared by all workers; the request path takes no lock on them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::fault::Kind;

/// Milliseconds since the process began; `State::now` gives the present one.
pub type Millis = u64;

/// Every target that was ever named, by name.
#[derive(Debug, Default)]
pub struct Health {
    // Copied when a name is new, so that the request path reads it without a lock.
    records: ArcSwap<HashMap<String, Arc<Record>>>,
}

impl Health {
    /// The record of a target (`provider/model`) or of a key of a provider (`provider#alias`).
    pub fn record(&self, name: &str) -> Arc<Record> {
        if let Some(known) = self.records.load().get(name) {
            return known.clone();
        }
        let fresh = Arc::new(Record::new(name));
        self.records.rcu(|known| {
            let mut more = HashMap::clone(known);
            more.entry(name.to_owned()).or_insert_with(|| fresh.clone());
            more
        });
        self.records.load().get(name).cloned().unwrap_or(fresh)
    }

    /// Every record, by name.
    pub fn all(&self) -> Vec<Arc<Record>> {
        let mut all: Vec<_> = self.records.load().values().cloned().collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }
}

/// One target's health.
#[derive(Debug)]
pub struct Record {
    pub name: String,
    in_flight: AtomicU32,
}

/// What is known of a target at one moment: plain data for planning, guests, metrics and people.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measure {
    pub standing: Standing,
    pub in_flight: u32,
    /// Peak EWMA of the time to the first content of streams, in milliseconds; None before the first.
    pub ttft_ewma_ms: Option<f64>,
    /// Peak EWMA of the duration of whole answers, in milliseconds.
    pub duration_ewma_ms: Option<f64>,
    pub ttft: Quantiles,
    pub duration: Quantiles,
    /// Output tokens per second after the first content.
    pub throughput: Quantiles,
    /// Share of failed attempts in the window, 0 to 1.
    pub error_rate: f64,
    /// Attempts in the window.
    pub samples: u32,
    /// Share of tool calls whose arguments parsed and fitted their schema; None before the first.
    pub tool_validity: Option<f64>,
    /// Share of the provider's own rate limit that is left, 0 to 1, as its headers say; None when it says nothing.
    pub usage_left: Option<f64>,
}

/// Rolling quantiles; None before the first sample. Milliseconds, or tokens per second.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Quantiles {
    pub p50: Option<f64>,
    pub p75: Option<f64>,
    pub p90: Option<f64>,
    pub p95: Option<f64>,
    pub p99: Option<f64>,
}

/// Whether a target gets requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It does.
    Closed,
    /// A few, to see whether it is well again.
    HalfOpen,
    /// None until then; None means until an operator says so.
    Open { until: Option<Millis> },
    /// None, because the operator wants it so; requests under way go on.
    Drained,
}

/// How an attempt ended, as far as the target's health is concerned.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum End {
    Good {
        output_tokens: Option<u64>,
    },
    Failed {
        kind: Kind,
        retry_after: Option<Duration>,
    },
    /// The client left, or another target of a hedge was faster: says nothing about the target.
    Cancelled,
}

impl Record {
    fn new(name: &str) -> Self {
        Record { name: name.to_owned(), in_flight: AtomicU32::new(0) }
    }

    /// What is known now.
    pub fn measure(&self, _now: Millis) -> Measure {
        Measure {
            standing: Standing::Closed,
            in_flight: self.in_flight.load(Ordering::Relaxed),
            ttft_ewma_ms: None,
            duration_ewma_ms: None,
            ttft: Quantiles::default(),
            duration: Quantiles::default(),
            throughput: Quantiles::default(),
            error_rate: 0.0,
            samples: 0,
            tool_validity: None,
            usage_left: None,
        }
    }

    /// Takes a place for one attempt.
    ///
    /// # Errors
    /// Why the target takes none now.
    pub fn begin(self: &Arc<Self>, now: Millis) -> Result<Flight, Refused> {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        Ok(Flight { record: self.clone(), began: now, first: None, ended: false })
    }
}

/// Why a target takes no attempt now, and when it may again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    pub why: RefusedBy,
    pub retry_after: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusedBy {
    Open,
    Drained,
    /// `max_inflight`, or the adaptive bound.
    Full,
}

/// One attempt under way. Dropping it without [`Flight::end`] counts as [`End::Cancelled`].
#[derive(Debug)]
pub struct Flight {
    record: Arc<Record>,
    began: Millis,
    first: Option<Millis>,
    ended: bool,
}

impl Flight {
    /// The first content is there.
    pub fn first_content(&mut self, now: Millis) {
        self.first.get_or_insert(now);
    }

    /// The attempt is over.
    pub fn end(mut self, _now: Millis, _end: End) {
        let _ = self.began;
        self.land();
    }

    fn land(&mut self) {
        if !std::mem::replace(&mut self.ended, true) {
            self.record.in_flight.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.land();
    }
}
