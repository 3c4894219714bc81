//! An attempt under way at a target: the place it holds, and what its end says of the target.
//!
//! A place is given back exactly once, when the flight ends or is dropped.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::breaker::{Blame, blame};
use super::{Millis, Record};
use crate::fault::{Fault, Kind};

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

/// Why a target takes no attempt now, and when it may again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    pub why: RefusedBy,
    pub retry_after: Option<Duration>,
}

impl Refused {
    /// The fault of an attempt that was not begun.
    pub fn fault(self, target: &str) -> Fault {
        let what = self.why.described();
        Fault::new(Kind::TargetUnavailable, format!("The target `{target}` {what}.")).retry_after(self.retry_after)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusedBy {
    Open,
    Drained,
    /// `max_inflight`, or the adaptive bound.
    Full,
}

impl RefusedBy {
    /// The word in traces and in the availability object.
    pub fn as_str(self) -> &'static str {
        match self {
            RefusedBy::Open => "open",
            RefusedBy::Drained => "drained",
            RefusedBy::Full => "full",
        }
    }

    /// What is the matter with a target, after its name.
    pub fn described(self) -> &'static str {
        match self {
            RefusedBy::Open => "failed too often or asked for a pause, and gets no requests for a while",
            RefusedBy::Drained => "gets no requests, because the operator wants it so",
            RefusedBy::Full => "has as many requests under way as it may",
        }
    }
}

/// One attempt under way. Dropping it without [`Flight::end`] counts as [`End::Cancelled`].
#[derive(Debug)]
pub struct Flight {
    pub(super) record: Arc<Record>,
    pub(super) parent: Option<Arc<Record>>,
    pub(super) began: Millis,
    /// The last moment that this flight was told of.
    pub(super) last: Millis,
    pub(super) first: Option<Millis>,
    pub(super) probe: bool,
    pub(super) ended: bool,
}

impl Flight {
    /// The record of the target it goes to.
    pub fn record(&self) -> &Arc<Record> {
        &self.record
    }

    /// The first content is there.
    pub fn first_content(&mut self, now: Millis) {
        self.last = now;
        if self.first.is_some() {
            return;
        }
        self.first = Some(now);
        let took = now.saturating_sub(self.began) as f64;
        self.record.ttft_ewma.observe_peak(now, took);
        self.record.histograms().ttft.observe(now, took);
    }

    /// The attempt is over.
    pub fn end(mut self, now: Millis, end: End) {
        self.last = now;
        self.count(now, end);
        self.land(now);
    }

    fn count(&mut self, now: Millis, end: End) {
        let record = &self.record;
        let settings = record.settings.load();
        let breaker = settings.breaker.as_ref();
        let probe = std::mem::take(&mut self.probe);
        let took = now.saturating_sub(self.began) as f64;
        match end {
            End::Cancelled if probe => record.circuit.unprobe(),
            End::Cancelled => {}
            End::Good { output_tokens } => {
                record.good.fetch_add(1, Ordering::Relaxed);
                record.circuit.good(now, probe, breaker);
                self.took(now, took, output_tokens);
                if let Some(bounds) = settings.adaptive {
                    let until_first = self.first.map_or(took, |first| first.saturating_sub(self.began) as f64);
                    record.gate.good(bounds, until_first);
                }
            }
            End::Failed { kind, retry_after } => {
                record.failed[kind as usize].fetch_add(1, Ordering::Relaxed);
                let blame = blame(kind, record.of_key);
                record.circuit.failed(now, probe, blame, retry_after, breaker);
                // It was at least as slow as this.
                if is_timeout(kind) && self.first.is_none() {
                    record.ttft_ewma.observe_peak(now, took);
                    record.duration_ewma.observe_peak(now, took);
                }
                if let Some(bounds) = settings.adaptive
                    && (blame == Blame::Cool || kind == Kind::Overloaded || is_timeout(kind))
                {
                    record.gate.overloaded(bounds);
                }
            }
        }
    }

    fn took(&self, now: Millis, took: f64, output_tokens: Option<u64>) {
        let record = &self.record;
        record.duration_ewma.observe_peak(now, took);
        let histograms = record.histograms();
        histograms.duration.observe(now, took);
        let from = self.first.unwrap_or(self.began);
        let seconds = now.saturating_sub(from) as f64 / 1000.0;
        if let Some(tokens) = output_tokens.filter(|tokens| *tokens > 1)
            && seconds > 0.0
        {
            let speed = tokens as f64 / seconds;
            record.throughput_ewma.observe(now, speed);
            histograms.throughput.observe(now, speed);
        }
    }

    fn land(&mut self, now: Millis) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        if std::mem::take(&mut self.probe) {
            self.record.circuit.unprobe();
        }
        self.record.gate.give_back();
        match &self.parent {
            Some(parent) => {
                parent.gate.give_back();
                parent.queue.serve(now);
            }
            None => self.record.queue.serve(now),
        }
    }
}

fn is_timeout(kind: Kind) -> bool {
    matches!(kind, Kind::HeadTimeout | Kind::FirstTokenTimeout | Kind::AttemptTimeout | Kind::IdleTimeout)
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.land(self.last);
    }
}
