//! What outlives a reload: metrics, records, affinity, the log. Native engines that know nothing of guests.
//!
//! Owned once by the process and lent to every generation; nothing here is rebuilt when the configuration changes.

pub mod affinity;
pub mod cache;
pub mod calls;
pub mod guests;
pub mod handles;
pub mod health;
pub mod hedge;
pub mod items;
pub mod kv;
pub mod limit;
pub mod log;
pub mod metrics;
pub mod records;
pub mod redis;
pub mod store;
pub mod tally;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwapOption;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use affinity::Affinity;
use cache::Cache;
use calls::Calls;
use guests::Guests;
use health::{Health, Millis};
use hedge::Hedges;
use items::Items;
use kv::{Kv, WhenFull};
use limit::Limits;
use log::Log;
use metrics::Metrics;
use records::Records;
use redis::Link;
use store::Store;
use tally::Tally;

/// Copies of requests to silent targets that run at a time; further ones are not made.
pub const MAX_MIRRORS: usize = 64;

/// Now, in Unix milliseconds.
pub fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// The process's memory.
#[derive(Debug)]
pub struct State {
    pub metrics: Metrics,
    pub records: Records,
    pub affinity: Affinity,
    pub health: Health,
    pub hedges: Hedges,
    /// Who judges tool calls.
    pub calls: Calls,
    /// Places for copies of requests to silent targets.
    pub mirrors: Arc<Semaphore>,
    pub items: Items,
    pub limits: Arc<Limits>,
    /// Where counts are kept that outlive the process; set once, before anything is served.
    pub store: OnceLock<Store>,
    /// What several processes share; set once, before anything is served.
    pub redis: OnceLock<Arc<Link>>,
    pub cache: Cache,
    /// What guests keep and must not lose.
    pub kv: Kv,
    /// The same, where several processes keep it together; set once, before anything is served.
    pub shared_kv: OnceLock<kv::shared::Shared>,
    /// What guests keep and can do without.
    pub guest_cache: Kv,
    pub log: Log,
    pub guests: Guests,
    /// Metrics that policies declare.
    pub tally: Tally,
    draining: AtomicBool,
    ending: AtomicBool,
    started: Instant,
    /// What the wall clock showed when the process began; 0 where the system's counts.
    clock: AtomicU64,
    /// Why the newest reload was refused, until one succeeds.
    reload_error: ArcSwapOption<String>,
}

impl State {
    /// `keep` is the number of exchanges that `GET /v1/generation` finds.
    pub fn new(keep: usize, log: Log) -> Self {
        State {
            metrics: Metrics::new(),
            records: Records::new(keep),
            affinity: Affinity::new(),
            health: Health::default(),
            hedges: Hedges::default(),
            calls: Calls::default(),
            mirrors: Arc::new(Semaphore::new(MAX_MIRRORS)),
            items: Items::new(),
            limits: Arc::new(Limits::new()),
            store: OnceLock::new(),
            redis: OnceLock::new(),
            cache: Cache::default(),
            kv: Kv::new(WhenFull::Refuse),
            shared_kv: OnceLock::new(),
            guest_cache: Kv::new(WhenFull::Forget),
            log,
            guests: Guests::default(),
            tally: Tally::default(),
            draining: AtomicBool::new(false),
            ending: AtomicBool::new(false),
            started: Instant::now(),
            clock: AtomicU64::new(0),
            reload_error: ArcSwapOption::empty(),
        }
    }

    /// Whether the process is shutting down and wants no new work.
    pub fn draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Whether what still runs is being cut.
    pub fn ending(&self) -> bool {
        self.ending.load(Ordering::Relaxed)
    }

    pub fn end(&self) {
        self.ending.store(true, Ordering::Relaxed);
    }

    /// The present moment of the process, for everything that counts in [`Millis`].
    pub fn now(&self) -> Millis {
        self.at(Instant::now())
    }

    /// A moment at hand in [`Millis`].
    pub fn at(&self, moment: Instant) -> Millis {
        moment.saturating_duration_since(self.started).as_millis() as u64
    }

    /// Now, in Unix milliseconds; from a trial's own clock where it was set.
    pub fn unix_ms(&self) -> u64 {
        match self.clock.load(Ordering::Relaxed) {
            0 => SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64),
            began => began + self.now(),
        }
    }

    /// Lets the wall clock go on from this moment, at the pace of the runtime's.
    pub fn set_clock(&self, unix_ms: u64) {
        self.clock.store(unix_ms.saturating_sub(self.now()), Ordering::Relaxed);
    }

    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// Notes how a reload went, for `/health` and the metrics.
    pub fn reloaded(&self, outcome: Result<u64, String>) {
        self.metrics.reloaded(outcome.as_ref().ok().copied());
        self.reload_error.store(outcome.err().map(Arc::new));
    }

    pub fn reload_error(&self) -> Option<String> {
        self.reload_error.load().as_deref().cloned()
    }
}
