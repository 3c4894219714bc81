//! How every target is doing: what was measured of it, whether its breaker lets requests through, how many are under way.
//!
//! Keyed by the target's name, so a reload changes nothing here but the settings. Never looks at a clock: callers bring
//! the moment, in milliseconds of the process ([`Millis`]). Records are shared by all workers; the request path takes no
//! lock on them unless it has to wait for a place.

mod breaker;
mod ewma;
mod gate;
mod queue;
mod window;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};

pub use breaker::{Breaker, Wanted};
pub use gate::Adaptive;

use crate::fault::{FAULTS, Fault, Kind};
use breaker::{Blame, Circuit, blame};
use ewma::Ewma;
use gate::Gate;
use queue::Queue;
use window::{Counts, Histogram, QUANTILE_WINDOW};

/// Milliseconds since the process began; `State::now` gives the present one.
pub type Millis = u64;

/// Most records. Callers choose model names, so there must be an end; past it all further models of a provider share
/// one record, `provider/*`.
pub const MAX_RECORDS: usize = 4096;

/// How long a provider's word on its own rate limit counts: these limits refill within a minute.
const USAGE_LEFT_MS: u64 = 60_000;

/// Every target that was ever named, by name.
#[derive(Debug, Default)]
pub struct Health {
    // Copied when a name is new, so that the request path reads it without a lock.
    records: ArcSwap<HashMap<String, Arc<Record>>>,
}

impl Health {
    /// The record of a target (`provider/model`), of a key of a provider (`provider#alias`), or of a provider (its name).
    pub fn record(&self, name: &str) -> Arc<Record> {
        let known = self.records.load();
        if let Some(record) = known.get(name) {
            return record.clone();
        }
        let shared;
        let name = match name.split_once('/') {
            Some((provider, _)) if known.len() >= MAX_RECORDS => {
                shared = format!("{provider}/*");
                shared.as_str()
            }
            _ => name,
        };
        let fresh = Arc::new(Record::new(name));
        self.records.rcu(|known| {
            let mut more = HashMap::clone(known);
            more.entry(name.to_owned()).or_insert_with(|| fresh.clone());
            more
        });
        self.records.load().get(name).cloned().unwrap_or(fresh)
    }

    /// The record of this name, if there is one.
    pub fn find(&self, name: &str) -> Option<Arc<Record>> {
        self.records.load().get(name).cloned()
    }

    /// The record of a target under these settings, within its provider's.
    pub fn target(&self, name: &str, settings: &Settings) -> Arc<Record> {
        let record = self.record(name);
        let provider = name.split_once('/').map_or(name, |(provider, _)| provider);
        // Places are the provider's, what is learnt of latency is the target's.
        let parent = self.record(provider);
        parent.configure(&Settings { breaker: None, adaptive: None, ..settings.clone() });
        record.configure(&Settings { max_inflight: None, ..settings.clone() });
        record.parent.store(Some(parent));
        record
    }

    /// Every record, by name.
    pub fn all(&self) -> Vec<Arc<Record>> {
        let mut all: Vec<_> = self.records.load().values().cloned().collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }
}

/// What the operator says of a target's health; the newest generation's counts.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Settings {
    /// None: failures close nothing, and the target's own word is not heeded.
    pub breaker: Option<Breaker>,
    /// Attempts under way at a time, all models of the provider together.
    pub max_inflight: Option<u32>,
    /// A bound for each model, learnt from its latency.
    pub adaptive: Option<Adaptive>,
    pub queue: QueueSettings,
}

/// Who may wait for a place at a provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct QueueSettings {
    /// Attempts that may wait; none by default.
    pub size: u32,
    /// Longest wait.
    pub wait: Duration,
}

/// One target's health.
#[derive(Debug)]
pub struct Record {
    pub name: String,
    of_key: bool,
    settings: ArcSwap<Settings>,
    /// The provider's record, where the places are counted.
    parent: ArcSwapOption<Record>,
    circuit: Circuit,
    gate: Gate,
    queue: Queue,
    ttft_ewma: Ewma,
    duration_ewma: Ewma,
    throughput_ewma: Ewma,
    /// Made at the first good answer: names that no upstream knows cost next to nothing.
    histograms: OnceLock<Box<Histograms>>,
    tools: Counts,
    /// Share as `f32`, and until when it counts.
    usage_left: AtomicU32,
    usage_until: AtomicU64,
    good: AtomicU64,
    /// Failed attempts since the process began, by kind.
    failed: [AtomicU64; FAULTS.len()],
}

#[derive(Debug)]
struct Histograms {
    ttft: Histogram,
    duration: Histogram,
    throughput: Histogram,
}

/// What is known of a target at one moment: plain data for planning, guests, metrics and people.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measure {
    pub standing: Standing,
    pub in_flight: u32,
    /// Places at the target, where they are bounded.
    pub places: Option<u32>,
    /// Peak EWMA of the time to the first content of streams, in milliseconds; None before the first.
    pub ttft_ewma_ms: Option<f64>,
    /// Peak EWMA of the duration of whole answers, in milliseconds.
    pub duration_ewma_ms: Option<f64>,
    /// EWMA of output tokens per second.
    pub throughput_ewma: Option<f64>,
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

impl Measure {
    /// Nothing is known: a target that was never asked.
    pub const UNKNOWN: Measure = Measure {
        standing: Standing::Closed,
        in_flight: 0,
        places: None,
        ttft_ewma_ms: None,
        duration_ewma_ms: None,
        throughput_ewma: None,
        ttft: Quantiles::NONE,
        duration: Quantiles::NONE,
        throughput: Quantiles::NONE,
        error_rate: 0.0,
        samples: 0,
        tool_validity: None,
        usage_left: None,
    };
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

impl Quantiles {
    pub const NONE: Quantiles = Quantiles { p50: None, p75: None, p90: None, p95: None, p99: None };

    /// As JSON, with one decimal; null before the first sample.
    pub fn described(&self) -> serde_json::Value {
        let rounded = |value: Option<f64>| value.map(|value| (value * 10.0).round() / 10.0);
        let Quantiles { p50, p75, p90, p95, p99 } = *self;
        p50.map_or(serde_json::Value::Null, |_| {
            serde_json::json!({
                "p50": rounded(p50), "p75": rounded(p75), "p90": rounded(p90), "p95": rounded(p95), "p99": rounded(p99),
            })
        })
    }

    /// The nearest of the quantiles that are kept; `share` is 0 to 1.
    pub fn at(&self, share: f64) -> Option<f64> {
        match share {
            share if share < 0.625 => self.p50,
            share if share < 0.825 => self.p75,
            share if share < 0.925 => self.p90,
            share if share < 0.97 => self.p95,
            _ => self.p99,
        }
    }
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

impl Standing {
    /// The word in the admin API and in logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Standing::Closed => "closed",
            Standing::HalfOpen => "half_open",
            Standing::Open { .. } => "open",
            Standing::Drained => "drained",
        }
    }
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
        Record {
            name: name.to_owned(),
            of_key: name.contains('#'),
            // Until a generation says otherwise.
            settings: ArcSwap::from_pointee(Settings { breaker: Some(Breaker::default()), ..Settings::default() }),
            parent: ArcSwapOption::empty(),
            circuit: Circuit::default(),
            gate: Gate::default(),
            queue: Queue::default(),
            ttft_ewma: Ewma::default(),
            duration_ewma: Ewma::default(),
            throughput_ewma: Ewma::default(),
            histograms: OnceLock::new(),
            tools: Counts::default(),
            usage_left: AtomicU32::new(0),
            usage_until: AtomicU64::new(0),
            good: AtomicU64::new(0),
            failed: [const { AtomicU64::new(0) }; FAULTS.len()],
        }
    }

    /// Lays new settings under what was counted.
    pub fn configure(&self, settings: &Settings) {
        if **self.settings.load() != *settings {
            self.settings.store(Arc::new(settings.clone()));
        }
    }

    /// Whether it gets requests now. The one thing that planning asks of a target that has no rival.
    pub fn standing(&self, now: Millis) -> Standing {
        // What the operator wants of the whole provider.
        if let Some(parent) = &*self.parent.load() {
            match parent.circuit.standing(now) {
                Standing::Closed | Standing::HalfOpen => {}
                wanted => return wanted,
            }
        }
        match self.circuit.standing(now) {
            Standing::HalfOpen => {
                let settings = self.settings.load();
                let Some(breaker) = &settings.breaker else { return Standing::Closed };
                if self.circuit.probes_taken(Some(breaker)) {
                    Standing::Open { until: Some(now + breaker.cool_down.as_millis() as u64) }
                } else {
                    Standing::HalfOpen
                }
            }
            // Without a breaker only the operator's word counts.
            Standing::Open { until: Some(_) } if self.settings.load().breaker.is_none() => Standing::Closed,
            standing => standing,
        }
    }

    /// What is known now.
    pub fn measure(&self, now: Millis) -> Measure {
        let settings = self.settings.load();
        let window = settings.breaker.map_or(Breaker::default().window, |breaker| breaker.window);
        let (good, failed) = self.circuit.sum(now, window);
        let (valid, invalid) = self.tools.sum(now, QUANTILE_WINDOW);
        let share = |part: u32, rest: u32| (part + rest > 0).then(|| f64::from(part) / f64::from(part + rest));
        let histograms = self.histograms.get();
        let quantiles = |of: fn(&Histograms) -> &Histogram| {
            histograms.map_or(Quantiles::NONE, |histograms| of(histograms).quantiles(now))
        };
        let usage_known = now < self.usage_until.load(Ordering::Relaxed);
        Measure {
            standing: self.standing(now),
            in_flight: self.gate.in_flight(),
            places: self.gate.places(settings.max_inflight, settings.adaptive),
            ttft_ewma_ms: self.ttft_ewma.faded(now),
            duration_ewma_ms: self.duration_ewma.faded(now),
            throughput_ewma: self.throughput_ewma.get(),
            ttft: quantiles(|histograms| &histograms.ttft),
            duration: quantiles(|histograms| &histograms.duration),
            throughput: quantiles(|histograms| &histograms.throughput),
            error_rate: share(failed, good).unwrap_or(0.0),
            samples: good + failed,
            tool_validity: share(valid, invalid),
            usage_left: usage_known.then(|| f64::from(f32::from_bits(self.usage_left.load(Ordering::Relaxed)))),
        }
    }

    /// Takes a place for one attempt.
    ///
    /// # Errors
    /// Why the target takes none now.
    pub fn begin(self: &Arc<Self>, now: Millis) -> Result<Flight, Refused> {
        // Those who wait already come first.
        let parent = self.parent.load();
        let queue = parent.as_deref().map_or(&self.queue, |parent| &parent.queue);
        if queue.len() > 0 {
            queue.serve(now);
            if queue.len() > 0 {
                return Err(self.full());
            }
        }
        drop(parent);
        self.take(now)
    }

    /// As [`Record::begin`], but where every place is taken, waits for one in the provider's queue: most urgent first
    /// (`priority`, higher is more urgent), no longer than the queue's and the caller's patience. Cancel safe.
    ///
    /// # Errors
    /// [`RefusedBy::Full`] at once when the queue is full or the wait would be too long, and at the end of patience.
    pub async fn enter(self: &Arc<Self>, now: Millis, priority: u8, patience: Duration) -> Result<Flight, Refused> {
        let refused = match self.begin(now) {
            Err(refused) if refused.why == RefusedBy::Full => refused,
            other => return other,
        };
        let asked = tokio::time::Instant::now();
        let settings = self.settings.load_full();
        let patience = patience.min(settings.queue.wait);
        let holder = self.parent.load_full().unwrap_or_else(|| self.clone());
        // Shed early: who would wait in vain is told at once.
        let expected = self.expected_wait(&holder, now);
        if settings.queue.size == 0 || patience.is_zero() || expected.is_some_and(|expected| expected > patience) {
            return Err(Refused { retry_after: expected.or(refused.retry_after), ..refused });
        }
        let Some(granted) = holder.queue.join(self.clone(), priority, settings.queue.size) else {
            return Err(Refused { retry_after: expected.or(refused.retry_after), ..refused });
        };
        // A place may have come free meanwhile, and nobody would tell.
        holder.queue.serve(now);
        match tokio::time::timeout(patience, granted).await {
            // Whoever gave the place did not know the moment as exactly.
            Ok(Ok(mut flight)) => {
                flight.began = now + asked.elapsed().as_millis() as u64;
                flight.last = flight.began;
                Ok(flight)
            }
            _ => Err(refused),
        }
    }

    /// How long one who joins the queue now may have to wait, as far as it can be told.
    fn expected_wait(&self, holder: &Record, now: Millis) -> Option<Duration> {
        let usual = self.duration_ewma.faded(now)?;
        let places = f64::from(holder.gate.in_flight().max(1));
        Some(Duration::from_secs_f64(usual * f64::from(holder.queue.len() + 1) / places / 1000.0))
    }

    fn full(&self) -> Refused {
        Refused { why: RefusedBy::Full, retry_after: Some(Duration::from_secs(1)) }
    }

    /// Takes a place past the queue.
    fn take(self: &Arc<Self>, now: Millis) -> Result<Flight, Refused> {
        let settings = self.settings.load();
        let parent = self.parent.load_full();
        if let Some(parent) = &parent {
            let of_parent = parent.settings.load();
            // An operator may drain a whole provider.
            if let Err((why, retry_after)) = parent.circuit.admit(now, None) {
                return Err(Refused { why, retry_after });
            }
            if !parent.gate.take(parent.gate.places(of_parent.max_inflight, None)) {
                return Err(self.full());
            }
        }
        let back = |refused| {
            parent.iter().for_each(|parent| parent.gate.give_back());
            Err(refused)
        };
        if !self.gate.take(self.gate.places(settings.max_inflight, settings.adaptive)) {
            return back(self.full());
        }
        let probe = match self.circuit.admit(now, settings.breaker.as_ref()) {
            Ok(probe) => probe,
            Err((RefusedBy::Open, Some(_))) if settings.breaker.is_none() => false,
            Err((why, retry_after)) => {
                self.gate.give_back();
                return back(Refused { why, retry_after });
            }
        };
        Ok(Flight { record: self.clone(), parent, began: now, last: now, first: None, probe, ended: false })
    }

    /// What an operator wants of the target.
    pub fn want(&self, wanted: Wanted) {
        self.circuit.want(wanted);
    }

    /// Notes how many tool calls of an answer were valid, and how many not.
    pub fn tool_calls(&self, now: Millis, valid: u32, invalid: u32) {
        self.tools.add(now, QUANTILE_WINDOW, valid, invalid);
    }

    /// Notes the share (0 to 1) of the provider's own rate limit that is left.
    pub fn set_usage_left(&self, now: Millis, share: f64) {
        self.usage_left.store((share.clamp(0.0, 1.0) as f32).to_bits(), Ordering::Relaxed);
        self.usage_until.store(now + USAGE_LEFT_MS, Ordering::Relaxed);
    }

    /// Good attempts since the process began, and failed ones by kind.
    pub fn totals(&self) -> (u64, Vec<(Kind, u64)>) {
        let failed = FAULTS.iter().zip(&self.failed).map(|(row, count)| (row.kind, count.load(Ordering::Relaxed)));
        (self.good.load(Ordering::Relaxed), failed.filter(|(_, count)| *count > 0).collect())
    }

    /// Attempts that ended since the process began.
    pub fn attempts(&self) -> u64 {
        self.good.load(Ordering::Relaxed) + self.failed.iter().map(|count| count.load(Ordering::Relaxed)).sum::<u64>()
    }

    /// Attempts that wait for a place at this provider.
    pub fn waiting(&self) -> u32 {
        self.queue.len()
    }

    fn histograms(&self) -> &Histograms {
        self.histograms.get_or_init(|| {
            let fresh = Histogram::new;
            Box::new(Histograms { ttft: fresh(), duration: fresh(), throughput: fresh() })
        })
    }
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
        let what = match self.why {
            RefusedBy::Open => "failed too often or asked for a pause, and gets no requests for a while",
            RefusedBy::Drained => "gets no requests, because the operator wants it so",
            RefusedBy::Full => "has as many requests under way as it may",
        };
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

/// One attempt under way. Dropping it without [`Flight::end`] counts as [`End::Cancelled`].
#[derive(Debug)]
pub struct Flight {
    record: Arc<Record>,
    parent: Option<Arc<Record>>,
    began: Millis,
    /// The last moment that this flight was told of.
    last: Millis,
    first: Option<Millis>,
    probe: bool,
    ended: bool,
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
