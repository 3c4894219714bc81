//! Counts that several processes share by way of Redis: one script and one round trip for all rules of an exchange.
//!
//! Every process also counts what it has itself, in the same cells as without Redis, and that is the truth about its own
//! part: whatever was lost or late is put right by stating it anew. So nothing is counted twice, and a server that comes
//! back empty is filled again.

mod keeper;
mod resets;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ::redis::{Script, Value};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::cell::Cell;
use super::meter::{Meter, Shape, Unit};
use super::rule::Window;
use super::{Amounts, Charge, Check, Hold, Limits, Refusal};
use crate::state::redis::{Away, Link};
use keeper::Keeper;

/// Corrections that may wait for the server; past them the counts are stated anew.
const QUEUE: usize = 65_536;

/// Corrections sent in one script.
const BATCH: usize = 128;

/// Longest wait for the server at the process's end.
const CLOSE: Duration = Duration::from_secs(1);

/// What happens to limits while the server is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Each process holds its part: the limit by the number of processes.
    Local,
    /// Nothing is limited.
    Open,
    /// What is limited is refused.
    Closed,
}

/// A change of what this process has of a window.
#[derive(Debug)]
pub(super) struct Correction {
    pub cell: Arc<Cell>,
    pub place: usize,
    pub mark: u64,
    pub reserved: u64,
    pub actual: u64,
    /// Number of the change in its cell, so that it is not sent after a statement that holds it.
    pub number: u64,
}

/// The sharing side of the limiter.
pub struct Shared {
    link: Arc<Link>,
    script: Script,
    /// This process, among those that share.
    node: String,
    policy: Policy,
    /// Processes that share, as last heard.
    nodes: AtomicU64,
    corrections: mpsc::Sender<Correction>,
    /// Corrections that were not sent yet.
    pending: AtomicU64,
    /// Something was lost: every count must be stated anew.
    behind: AtomicBool,
    /// Cells of which something is leased.
    pub(super) leased: Mutex<Vec<Arc<Cell>>>,
    /// Nothing is leased any more.
    closing: AtomicBool,
}

impl Shared {
    /// Shares the counts of `limits` from now on. Must be called in a runtime, which carries the background work.
    pub fn start(limits: &Arc<Limits>, link: Arc<Link>, policy: Policy) {
        let (corrections, waiting) = mpsc::channel(QUEUE);
        let shared = Arc::new(Shared {
            link,
            script: Script::new(include_str!("shared.lua")),
            node: format!("{:016x}", fastrand::u64(..)),
            policy,
            nodes: AtomicU64::new(1),
            corrections,
            pending: AtomicU64::new(0),
            behind: AtomicBool::new(false),
            leased: Mutex::default(),
            closing: AtomicBool::new(false),
        });
        if limits.share(shared.clone()) {
            tokio::spawn(Keeper::new(shared, limits.clone()).run(waiting));
        }
    }

    /// The process ends: gives back what is leased, and waits until the server knows of all that was settled, as long as
    /// it answers in time.
    pub async fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
        self.give_back_leases(self.time(crate::state::unix_ms()), true);
        let told = async {
            while self.pending.load(Ordering::Acquire) > 0 && self.link.is_up() {
                sleep(Duration::from_millis(2)).await;
            }
        };
        if timeout(CLOSE, told).await.is_err() {
            tracing::warn!("redis is too slow: the last counts of limits were not told");
        }
    }

    /// The server's time for one of ours: windows of all processes begin at the same moment.
    pub fn time(&self, now: u64) -> u64 {
        self.link.server_time(now)
    }

    /// Takes the amounts from every window of every charge, or from none, on the server; while that is away as the policy
    /// says. `now` is the server's time.
    ///
    /// # Errors
    /// As [`Limits::reserve`]; with `away` set where the policy refuses.
    pub async fn reserve(
        &self,
        limits: &Arc<Limits>,
        charges: &[Charge<'_>],
        amounts: &Amounts,
        now: u64,
    ) -> Result<Hold, Box<Refusal>> {
        if charges.is_empty() {
            return limits.reserve(charges, amounts, now);
        }
        if !self.closing.load(Ordering::Relaxed)
            && let Some(hold) = limits.reserve_leased(charges, amounts, now)
        {
            return Ok(hold);
        }
        // Shares are kept among the callers of this process.
        if charges.iter().any(|charge| charge.share.is_some()) {
            drop(limits.reserve_as(charges, amounts, now, Check::Full)?);
        }
        let asking = Asking::new(charges, !self.closing.load(Ordering::Relaxed), now);
        match self.ask(charges, &asking, amounts, now).await {
            Ok(answer) if answer.room => {
                let mut hold = limits.reserve_as(charges, amounts, now, Check::Never)?;
                hold.remote(charges, &answer.windows, now);
                Ok(hold)
            }
            Ok(answer) => {
                drop(asking);
                match refusal(charges, amounts, &answer.windows, now) {
                    Some(refusal) => Err(refusal),
                    // The script's sums are rounded, ours are not; between the two the script has the last word.
                    None => Err(limits.refuse(charges, amounts)),
                }
            }
            Err(away) => {
                if away != Away::Down {
                    // It may have been carried out: our own counts say what is true.
                    self.behind.store(true, Ordering::Relaxed);
                }
                let check = match self.policy {
                    Policy::Open => Check::Never,
                    Policy::Local => Check::Part(self.nodes.load(Ordering::Relaxed).max(1)),
                    Policy::Closed => return Err(limits.refuse(charges, amounts)),
                };
                limits.reserve_as(charges, amounts, now, check).map(|mut hold| {
                    hold.away = true;
                    hold
                })
            }
        }
    }

    async fn ask(&self, charges: &[Charge<'_>], asking: &Asking, amounts: &Amounts, now: u64) -> Result<Answer, Away> {
        if !self.link.is_up() {
            return Err(Away::Down);
        }
        let mut call = self.script.prepare_invoke();
        // Carried out later than anybody waits for, it must not count.
        call.arg("take").arg(&self.node).arg(now + self.link.budget().as_millis() as u64);
        let mut count = 0;
        for (charge, (_, leases)) in charges.iter().zip(&asking.0) {
            for window in &charge.rule.windows {
                let quantum = if *leases { charge.wanted(window) } else { 0 };
                let amount = amounts.of(window.unit);
                call.key(self.key(&charge.cell, window.unit, window.shape));
                arguments(&mut call, window, charge.rule.hard, now, [0, 0, amount, quantum]);
                count += 1;
            }
        }
        if count == 0 {
            return Ok(Answer { room: true, windows: Vec::new() });
        }
        Answer::read(self.link.script(&call).await?, count)
            .ok_or_else(|| Away::Failed("the script answered something else".to_owned()))
    }

    /// The name of a window's hash. The prefix is the hash tag: a script's keys must lie on one node of a cluster.
    fn key(&self, cell: &Cell, unit: Unit, shape: Shape) -> String {
        format!("{}{}:{}:{}", self.keys_of(&cell.rule), cell.partition, unit.as_str(), shape.text())
    }

    /// How the names of all of a rule's hashes begin. Names of rules have no colon.
    fn keys_of(&self, rule: &str) -> String {
        format!("{{{}}}:limit:{rule}:", self.link.prefix)
    }

    /// Queues a correction; never waits.
    pub(super) fn correct(&self, correction: Correction) {
        self.pending.fetch_add(1, Ordering::AcqRel);
        if self.corrections.try_send(correction).is_err() {
            self.pending.fetch_sub(1, Ordering::AcqRel);
            self.behind.store(true, Ordering::Relaxed);
        }
    }
}

/// Ten arguments for one window, as the script reads them.
fn arguments(
    call: &mut ::redis::ScriptInvocation<'_>,
    window: &Window,
    hard: bool,
    now: u64,
    [mark, reserved, amount, quantum]: [u64; 4],
) {
    const DAY_MS: u64 = 86_400_000;
    let (kind, length, start, ttl) = match window.shape {
        Shape::Fixed(length) => ("f", length, 0, length + 60_000),
        Shape::Sliding(length) => ("s", length, 0, 2 * length + 60_000),
        Shape::Bucket(length) => ("b", length, 0, length + 60_000),
        Shape::Calendar(calendar) => {
            let (begin, end) = calendar.bounds(now);
            ("c", end - begin, begin, end - now.min(end) + DAY_MS)
        }
        Shape::Total => ("c", 1, 0, 0),
        Shape::InFlight => ("i", 1, 0, 60_000),
    };
    call.arg(kind).arg(length).arg(start).arg(window.limit).arg(u8::from(hard)).arg(ttl);
    call.arg(mark).arg(reserved).arg(amount).arg(quantum);
}

/// How a window stands on the server.
#[derive(Debug, Clone, Copy)]
pub(super) struct There {
    pub used: u64,
    /// Taken in advance, beyond the amount.
    pub granted: u64,
    pub meter: Meter,
}

struct Answer {
    room: bool,
    windows: Vec<There>,
}

impl Answer {
    fn read(value: Value, count: usize) -> Option<Self> {
        let texts: Vec<String> = ::redis::from_redis_value(value).ok()?;
        let room = match texts.first()?.as_str() {
            "ok" => true,
            "no" => false,
            _ => return None,
        };
        let numbers: Vec<u64> = texts.get(2..)?.iter().map(|text| text.parse().ok()).collect::<Option<_>>()?;
        let windows = numbers.chunks_exact(5).map(|window| There {
            used: window[0],
            granted: window[4],
            meter: Meter {
                start: window[1],
                cur: u128::from(window[2]),
                prev: u128::from(window[3]),
                ..Meter::default()
            },
        });
        let windows: Vec<There> = windows.collect();
        (windows.len() == count).then_some(Answer { room, windows })
    }
}

/// The windows without room, as the engine's own refusals tell of them.
fn refusal(charges: &[Charge<'_>], amounts: &Amounts, there: &[There], now: u64) -> Option<Box<Refusal>> {
    let windows = charges.iter().flat_map(|charge| charge.rule.windows.iter().map(move |window| (charge, window)));
    let mut worst: Option<Box<Refusal>> = None;
    let mut standing = Vec::new();
    for ((charge, window), there) in windows.zip(there) {
        let amount = amounts.of(window.unit);
        let mut meter = there.meter;
        if let Shape::Bucket(length) = window.shape {
            meter.cur *= u128::from(length);
        }
        standing.push(super::hold::standing(charge.rule, window, &meter, there.used, now));
        if !charge.rule.hard || u128::from(there.used) + u128::from(amount) <= u128::from(window.limit) {
            continue;
        }
        let wait = meter.wait(window.shape, window.limit, amount, now);
        if worst.as_ref().is_none_or(|known| super::later(known.wait, wait)) {
            worst = Some(Box::new(Refusal {
                rule: Arc::clone(charge.rule),
                cell: charge.cell.clone(),
                unit: window.unit,
                limit: window.limit,
                used: there.used,
                amount,
                wait,
                away: false,
                standing: Vec::new(),
            }));
        }
    }
    worst.map(|mut worst| {
        worst.standing = standing;
        worst
    })
}

/// Says of cells that the server is being asked about them, as long as it lives, and of which it is asked for a lease, too:
/// of several exchanges only one is, so that a process never has more than one lease of a count.
struct Asking(Vec<(Arc<Cell>, bool)>);

impl Asking {
    fn new(charges: &[Charge<'_>], may_lease: bool, now: u64) -> Self {
        let cells = charges.iter().map(|charge| {
            let cell = charge.cell.clone();
            cell.asking.fetch_add(1, Ordering::AcqRel);
            cell.asked.fetch_add(1, Ordering::AcqRel);
            let leases = charge.rule.lease > 0 && Shared::is_busy(&cell, now) && may_lease;
            let first = leases && !cell.leasing.swap(true, Ordering::AcqRel);
            (cell, first)
        });
        Asking(cells.collect())
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        for (cell, leases) in &self.0 {
            if *leases {
                cell.leasing.store(false, Ordering::Release);
            }
            cell.asking.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Shared({:?})", self.link)
    }
}

#[cfg(test)]
mod tests;
