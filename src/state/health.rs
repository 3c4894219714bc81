//! How every target is doing: what was measured of it, whether its breaker lets requests through, how many are under way.
//!
//! Keyed by the target's name, so a reload changes nothing here but the settings. Never looks at a clock: callers bring
//! the moment, in milliseconds of the process ([`Millis`]). Records are shared by all workers; the request path takes no
//! lock on them unless it has to wait for a place.

mod breaker;
mod ewma;
mod flight;
mod gate;
mod measure;
mod queue;
mod window;

#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};

pub use breaker::{Breaker, Wanted};
pub use flight::{End, Flight, Refused, RefusedBy};
pub use gate::Adaptive;
pub use measure::{Measure, Quantiles, Standing};

use super::handles::Handles;
use crate::fault::{FAULTS, Kind};
use breaker::Circuit;
use ewma::Ewma;
use gate::Gate;
use queue::Queue;
use window::{Counts, Histogram, QUANTILE_WINDOW};

/// Milliseconds since the process began; `State::now` gives the present one.
pub type Millis = u64;

/// Most records. Callers choose model names, so there must be an end; past it all further models of a provider share
/// one record, `provider/*`.
pub const MAX_RECORDS: usize = 4096;

/// Between two answers of a target whose tool calls are judged.
const CALLS_APART_MS: u64 = 50;

/// How long a provider's word on its own rate limit counts: these limits refill within a minute.
const USAGE_LEFT_MS: u64 = 60_000;

/// Every target that was ever named, by name.
#[derive(Debug, Default)]
pub struct Health {
    records: Handles<String, Arc<Record>>,
}

impl Health {
    /// The record of a target (`provider/model`), of a key of a provider (`provider#alias`), or of a provider (its name).
    pub fn record(&self, name: &str) -> Arc<Record> {
        if let Some(record) = self.records.get(name) {
            return record;
        }
        let shared;
        let name = match name.split_once('/') {
            Some((provider, _)) if self.records.count() >= MAX_RECORDS => {
                shared = format!("{provider}/*");
                shared.as_str()
            }
            _ => name,
        };
        self.records.put(name.to_owned(), Arc::new(Record::new(name)))
    }

    /// The record of this name, if there is one.
    pub fn find(&self, name: &str) -> Option<Arc<Record>> {
        self.records.get(name)
    }

    /// The record of a target under these settings, within its provider's.
    pub fn target(&self, name: &str, settings: &Settings) -> Arc<Record> {
        let record = self.record(name);
        let provider = name.split_once('/').map_or(name, |(provider, _)| provider);
        let parent = self.record(provider);
        parent.configure(&settings.of_provider());
        record.configure(&settings.of_target());
        record.parent.store(Some(parent));
        record
    }

    /// The record of a key of a provider, under that provider's breaker.
    pub fn key(&self, provider: &str, alias: &str, settings: &Settings) -> Arc<Record> {
        let record = self.record(&format!("{provider}#{alias}"));
        record.configure(&settings.of_key());
        record
    }

    /// Lays the settings of a provider under all that is known of it. Handles configure a record when they look it up, and
    /// those of a generation that is put back in force have done so before.
    pub fn lay(&self, provider: &str, settings: &Settings) {
        for (_, record) in self.records.all() {
            match record.name.strip_prefix(provider).map(|rest| rest.bytes().next()) {
                Some(None) => record.configure(&settings.of_provider()),
                Some(Some(b'/')) => record.configure(&settings.of_target()),
                Some(Some(b'#')) => record.configure(&settings.of_key()),
                Some(Some(_)) | None => {}
            }
        }
    }

    /// Every record, by name.
    pub fn all(&self) -> Vec<Arc<Record>> {
        let mut all: Vec<_> = self.records.all().into_iter().map(|(_, record)| record).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }
}

/// What the operator says of a target's health; the newest generation's counts.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Settings {
    /// None: failures close nothing, and the target's own word is not heeded.
    pub breaker: Option<Breaker>,
    /// The breaker lets requests through that have nowhere else to go: the provider's own word is then worth more than
    /// ours. So it is where the operator wrote no breaker.
    pub spares_lone: bool,
    /// Probes tell whether it is there, whatever its breaker.
    pub probed: bool,
    /// Attempts under way at a time, all models of the provider together.
    pub max_inflight: Option<u32>,
    /// A bound for each model, learnt from its latency.
    pub adaptive: Option<Adaptive>,
    pub queue: QueueSettings,
}

impl Settings {
    /// Places are the provider's.
    fn of_provider(&self) -> Settings {
        Settings { breaker: None, adaptive: None, ..self.clone() }
    }

    /// What is learnt of latency is the target's.
    fn of_target(&self) -> Settings {
        Settings { max_inflight: None, ..self.clone() }
    }

    /// Whoever picks keys knows when one that rests is asked all the same.
    fn of_key(&self) -> Settings {
        Settings { breaker: self.breaker, spares_lone: true, ..Settings::default() }
    }

    /// Nothing but the operator keeps requests from it.
    fn opens_never(&self) -> bool {
        self.breaker.is_none() && !self.probed
    }
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
    /// When the next answer is to be judged.
    calls_due: AtomicU64,
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

impl Record {
    fn new(name: &str) -> Self {
        Record {
            name: name.to_owned(),
            // Aliases hold neither; names of models may hold both, as Fireworks' of a deployment do.
            of_key: name.contains('#') && !name.contains('/'),
            // Until a generation says otherwise.
            settings: ArcSwap::default(),
            parent: ArcSwapOption::empty(),
            circuit: Circuit::default(),
            gate: Gate::default(),
            queue: Queue::default(),
            ttft_ewma: Ewma::default(),
            duration_ewma: Ewma::default(),
            throughput_ewma: Ewma::default(),
            histograms: OnceLock::new(),
            tools: Counts::default(),
            calls_due: AtomicU64::new(0),
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
                if self.circuit.probes_taken(breaker) {
                    Standing::Open { until: Some(now + breaker.cool_down.as_millis() as u64) }
                } else {
                    Standing::HalfOpen
                }
            }
            // Without a breaker only the operator's word counts.
            Standing::Open { until: Some(_) } if self.settings.load().opens_never() => Standing::Closed,
            standing => standing,
        }
    }

    /// What is known now.
    pub fn measure(&self, now: Millis) -> Measure {
        let settings = self.settings.load();
        let (good, failed) = self.circuit.sum(now, settings.breaker.as_ref());
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
        self.begin_as(now, false)
    }

    /// As [`Record::begin`], for a request that has no other target where `alone`.
    ///
    /// # Errors
    /// As [`Record::begin`].
    pub fn begin_as(self: &Arc<Self>, now: Millis, alone: bool) -> Result<Flight, Refused> {
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
        self.take(now, alone)
    }

    /// Whether a target without a rival gets requests now, as far as its breaker and the operator are concerned.
    pub fn takes_alone(&self, now: Millis) -> bool {
        match self.standing(now) {
            Standing::Closed | Standing::HalfOpen => true,
            Standing::Open { until } => until.is_some() && self.settings.load().spares_lone,
            Standing::Drained => false,
        }
    }

    /// Whether a key that rests does so because its provider refuses it, and not for asking too often.
    pub fn is_dead(&self) -> bool {
        self.circuit.is_dead()
    }

    /// As [`Record::begin_as`], but where every place is taken, waits for one in the provider's queue: most urgent first
    /// (`priority`, higher is more urgent), no longer than the queue's and the caller's patience. Cancel safe.
    ///
    /// # Errors
    /// [`RefusedBy::Full`] at once when the queue is full or the wait would be too long, and at the end of patience.
    pub async fn enter(
        self: &Arc<Self>,
        now: Millis,
        alone: bool,
        priority: u8,
        patience: Duration,
    ) -> Result<Flight, Refused> {
        let refused = match self.begin_as(now, alone) {
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
        let Some(granted) = holder.queue.join(self.clone(), alone, priority, settings.queue.size) else {
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
    fn take(self: &Arc<Self>, now: Millis, alone: bool) -> Result<Flight, Refused> {
        let settings = self.settings.load();
        let parent = self.parent.load_full();
        if let Some(parent) = &parent {
            let of_parent = parent.settings.load();
            // An operator may drain a whole provider, and probes may miss it.
            if let Err((why, retry_after)) = parent.circuit.admit(now, None)
                && !(alone && settings.spares_lone && why == RefusedBy::Open && retry_after.is_some())
            {
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
            Err((RefusedBy::Open, Some(_))) if settings.opens_never() || (alone && settings.spares_lone) => false,
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

    /// Whether the tool calls of an answer that begins now are to be judged; so many a second are enough to know a target
    /// by, and keep the work apart from the number of its requests.
    pub fn calls_are_due(&self, now: Millis) -> bool {
        let due = self.calls_due.load(Ordering::Relaxed);
        let next = now + CALLS_APART_MS;
        now >= due && self.calls_due.compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// A probe missed it once too often: no requests until the next probe has had its time.
    pub fn missed(&self, now: Millis, wait: Duration) {
        self.circuit.missed(now, wait);
    }

    /// A probe found it. True when it had been missed.
    pub fn found(&self, now: Millis) -> bool {
        self.circuit.found(now)
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
