//! Counts that several processes share by way of Redis: one script and one round trip for all rules of an exchange.
//!
//! Every process also counts what it has itself, in the same cells as without Redis, and that is the truth about its own
//! part: whatever was lost or late is put right by stating it anew. So nothing is counted twice, and a server that comes
//! back empty is filled again.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ::redis::{Script, Value};
use tokio::sync::mpsc;
use tokio::time::{interval, sleep, timeout};

use super::cell::{Cell, Counts};
use super::meter::{Meter, Shape, Unit};
use super::rule::Window;
use super::{Amounts, Charge, Check, Hold, Limits, Refusal};
use crate::state::redis::{Away, Link};

/// Corrections that may wait for the server; past them the counts are stated anew.
const QUEUE: usize = 65_536;

/// Corrections sent in one script.
const BATCH: usize = 128;

/// How often the counts of what is under way are stated, and the process says that it lives. The script forgets after
/// thirty seconds.
const BEAT: Duration = Duration::from_secs(5);

/// How long a process counts as living after its last word.
const LIVES_MS: u64 = 15_000;

/// How often what could not be stated is tried again.
const AGAIN: Duration = Duration::from_millis(50);

/// How often leases are looked at for idle ones.
const LEASES: Duration = Duration::from_millis(250);

/// Longest wait for the server at the process's end.
const CLOSE: Duration = Duration::from_secs(1);

/// Looks at a busy count before it is stated although somebody is asking.
const PATIENCE: u32 = 20;

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
            tokio::spawn(
                Keeper { shared, limits: limits.clone(), epoch: 0, announced: false, stale: HashMap::new() }
                    .run(waiting),
            );
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

    /// Forgets what all processes have of a rule's windows: of one partition, or of all that this one knows. What is under
    /// way here is stated anew.
    ///
    /// # Errors
    /// The server is away; it still counts what it did.
    pub async fn reset(&self, limits: &Limits, rule: &str, partition: Option<&str>) -> Result<(), Away> {
        let mut keys = Vec::new();
        limits.cells.each(|cell| {
            if *cell.rule == *rule && partition.is_none_or(|partition| *cell.partition == *partition) {
                let counts = cell.lock();
                let whole = counts.slots.iter().filter(|slot| slot.share.is_empty());
                keys.extend(whole.map(|slot| self.key(cell, slot.unit, slot.shape)));
            }
        });
        for some in keys.chunks(BATCH) {
            self.link.run(::redis::cmd("UNLINK").arg(some)).await?;
        }
        self.behind.store(true, Ordering::Relaxed);
        Ok(())
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
        format!("{{{}}}:limit:{}:{}:{}:{}", self.link.prefix, cell.rule, cell.partition, unit.as_str(), shape.text())
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

/// The background side: sends corrections, states counts anew where something was lost, says that the process lives.
struct Keeper {
    shared: Arc<Shared>,
    limits: Arc<Limits>,
    /// The connection that the counts were last stated on.
    epoch: u64,
    /// The server has heard of this process.
    announced: bool,
    /// Cells to be stated, by address, with the looks at each so far.
    stale: HashMap<usize, (Arc<Cell>, u32)>,
}

impl Keeper {
    async fn run(mut self, mut waiting: mpsc::Receiver<Correction>) {
        let mut beat = interval(BEAT);
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let pause = match self.stale.is_empty() && self.in_step() {
                true if self.shared.leases() => LEASES,
                true => BEAT,
                false => AGAIN,
            };
            let got = timeout(pause, waiting.recv_many(&mut batch, BATCH)).await;
            if got == Ok(0) {
                return;
            }
            if !batch.is_empty() {
                let count = batch.len() as u64;
                self.send(std::mem::take(&mut batch)).await;
                self.shared.pending.fetch_sub(count, Ordering::AcqRel);
            }
            self.shared.give_back_leases(self.now(), false);
            if !self.in_step() && self.shared.link.is_up() {
                self.shared.behind.store(false, Ordering::Relaxed);
                self.epoch = self.shared.link.epoch();
                let mut cells = Vec::new();
                self.limits.cells.each(|cell| {
                    // What guests count is their process's own.
                    if !cell.rule.starts_with("guest:") {
                        cells.push(cell.clone());
                    }
                });
                cells.iter().for_each(|cell| self.mark_stale(cell));
            }
            self.state_stale().await;
            if timeout(Duration::ZERO, beat.tick()).await.is_ok() {
                self.live().await;
            }
        }
    }

    fn in_step(&self) -> bool {
        self.epoch == self.shared.link.epoch() && !self.shared.behind.load(Ordering::Relaxed)
    }

    fn mark_stale(&mut self, cell: &Arc<Cell>) {
        self.stale.entry(Arc::as_ptr(cell) as usize).or_insert_with(|| (cell.clone(), 0));
    }

    fn now(&self) -> u64 {
        self.shared.time(crate::state::unix_ms())
    }

    /// Sends corrections in one script. What may not have arrived is stated anew.
    async fn send(&mut self, batch: Vec<Correction>) {
        let now = self.now();
        let mut call = self.shared.script.prepare_invoke();
        call.arg("settle").arg(&self.shared.node).arg(now + self.shared.link.budget().as_millis() as u64);
        let mut count = 0;
        for correction in &batch {
            let counts = correction.cell.lock();
            // A statement that was sent after it holds it already.
            if counts.stated >= correction.number {
                continue;
            }
            let slot = &counts.slots[correction.place];
            let window = Window { unit: slot.unit, shape: slot.shape, limit: slot.limit };
            drop(counts);
            call.key(self.shared.key(&correction.cell, window.unit, window.shape));
            arguments(&mut call, &window, true, now, [correction.mark, correction.reserved, correction.actual, 0]);
            count += 1;
        }
        if count > 0 && self.shared.link.script(&call).await.is_err() {
            for correction in batch {
                self.mark_stale(&correction.cell);
            }
        }
    }

    /// States what this process has of each stale cell, as far as nobody asks about it at the moment.
    async fn state_stale(&mut self) {
        if self.stale.is_empty() || !self.shared.link.is_up() {
            return;
        }
        let now = self.now();
        let cells: Vec<(Arc<Cell>, u32)> = self.stale.values().take(BATCH).cloned().collect();
        let mut call = self.shared.script.prepare_invoke();
        call.arg("put").arg(&self.shared.node).arg(now + self.shared.link.budget().as_millis() as u64);
        let mut stated = Vec::new();
        let mut count = 0;
        for (cell, looks) in cells {
            let key = Arc::as_ptr(&cell) as usize;
            if cell.asking.load(Ordering::Acquire) > 0 && looks < PATIENCE {
                self.stale.insert(key, (cell, looks + 1));
                continue;
            }
            let asked = cell.asked.load(Ordering::Acquire);
            let mut counts = cell.lock();
            counts.stated = counts.changes;
            for (window, meter, leased) in own(&mut counts, now) {
                let amount = u64::try_from(meter.cur).unwrap_or(u64::MAX).saturating_add(leased);
                call.key(self.shared.key(&cell, window.unit, window.shape));
                arguments(&mut call, &window, true, now, [meter.start, 0, amount, 0]);
                count += 1;
            }
            drop(counts);
            stated.push((key, asked, cell));
        }
        let arrived = count == 0 || self.shared.link.script(&call).await.is_ok();
        for (key, asked, cell) in stated {
            // Whoever asked meanwhile may be missing in it: once more, then.
            let quiet = cell.asked.load(Ordering::Acquire) == asked && cell.asking.load(Ordering::Acquire) == 0;
            let patience = self.stale.get(&key).map_or(0, |(_, looks)| *looks);
            if arrived && (quiet || patience >= PATIENCE) {
                self.stale.remove(&key);
            } else if let Some((_, looks)) = self.stale.get_mut(&key) {
                *looks += 1;
            }
        }
    }

    /// Says that the process lives, hears how many do, and states what is under way.
    async fn live(&mut self) {
        let mut busy = Vec::new();
        self.limits.cells.each(|cell| {
            let counts = cell.lock();
            if counts.slots.iter().any(|slot| slot.shape == Shape::InFlight && slot.meter.cur > 0) {
                busy.push(cell.clone());
            }
        });
        busy.iter().for_each(|cell| self.mark_stale(cell));
        let (now, key) = (self.now(), format!("{{{}}}:nodes", self.shared.link.prefix));
        let mut beat = ::redis::cmd("ZADD");
        beat.arg(&key).arg(now).arg(&self.shared.node);
        let mut forget = ::redis::cmd("ZREMRANGEBYSCORE");
        forget.arg(&key).arg(0).arg(now.saturating_sub(LIVES_MS));
        let mut count = ::redis::cmd("ZCARD");
        count.arg(&key);
        let Ok(beaten) = self.shared.link.run(&beat).await else { return };
        if beaten == Value::Int(1) && std::mem::replace(&mut self.announced, true) {
            // It has forgotten this process, and with it all that was counted: somebody has emptied it.
            self.shared.behind.store(true, Ordering::Relaxed);
        }
        self.announced = true;
        if self.shared.link.run(&forget).await.is_err() {
            return;
        }
        if let Ok(Value::Int(nodes)) = self.shared.link.run(&count).await {
            self.shared.nodes.store(u64::try_from(nodes).unwrap_or(1).max(1), Ordering::Relaxed);
        }
    }
}

/// What this process has of each window of the whole, rolled, and what it has leased of it.
fn own(counts: &mut Counts, now: u64) -> Vec<(Window, Meter, u64)> {
    let whole = counts.slots.iter_mut().filter(|slot| slot.share.is_empty());
    let rolled = whole.map(|slot| {
        slot.roll(now);
        (Window { unit: slot.unit, shape: slot.shape, limit: slot.limit }, slot.meter, slot.leased())
    });
    rolled.collect()
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Shared({:?})", self.link)
    }
}
