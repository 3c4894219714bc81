//! The background side of shared limits: sends corrections, states counts anew where something was lost, says that the
//! process lives, and hears of resets.
//!
//! No exchange waits for it. What it states is what this process has, never a sum of others'.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ::redis::Value;
use tokio::sync::mpsc;
use tokio::time::{Instant, interval, timeout};

use super::super::Limits;
use super::super::cell::Cell;
use super::super::meter::Shape;
use super::super::rule::Window;
use super::spent::Budgets;
use super::{BATCH, Correction, Said, Shared, arguments};

/// How often the counts of what is under way are stated, and the process says that it lives: a server that was emptied
/// hears by then what this process has, also when nobody asks. The script forgets after thirty seconds.
const BEAT: Duration = Duration::from_secs(1);

/// How long a process counts as living after its last word.
const LIVES_MS: u64 = 15_000;

/// How often what could not be stated is tried again.
const AGAIN: Duration = Duration::from_millis(50);

/// How often leases are looked at for idle ones.
const LEASES: Duration = Duration::from_millis(250);

/// How long a moment is waited for in which nobody asks about a count, before it is stated all the same: what is just being
/// taken may then be missing in it.
const PATIENCE: Duration = Duration::from_secs(1);

/// The background side's own state.
pub(super) struct Keeper {
    shared: Arc<Shared>,
    limits: Arc<Limits>,
    /// The connection that the counts were last stated on.
    epoch: u64,
    /// The server has heard of this process.
    announced: bool,
    /// Every count was stated since the last beat: that the server does not know this process is then no news.
    restated: bool,
    /// Cells to be stated, by address, and since when.
    stale: HashMap<usize, (Arc<Cell>, Instant)>,
    /// What this process has settled of budgets.
    budgets: Budgets,
}

impl Keeper {
    pub fn new(shared: Arc<Shared>, limits: Arc<Limits>) -> Self {
        Keeper {
            shared,
            limits,
            epoch: 0,
            announced: false,
            restated: false,
            stale: HashMap::new(),
            budgets: Budgets::default(),
        }
    }

    pub async fn run(mut self, mut waiting: mpsc::Receiver<Correction>) {
        let mut beat = interval(BEAT);
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let pause = match self.stale.is_empty() && self.in_step() {
                true if self.shared.leases() => LEASES,
                true => BEAT,
                false => AGAIN,
            };
            tokio::select! {
                got = timeout(pause, waiting.recv_many(&mut batch, BATCH)) => if got == Ok(0) {
                    return;
                },
                () = self.shared.lost.notified() => {}
                () = self.shared.link.opened() => {}
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
                self.budgets.fall_behind();
                self.restated = true;
            }
            self.state_stale().await;
            if self.shared.budgets_behind.swap(false, Ordering::Relaxed) {
                self.budgets.fall_behind();
            }
            let now = self.now();
            self.budgets.state(&self.shared, &self.limits, now).await;
            if timeout(Duration::ZERO, beat.tick()).await.is_ok() {
                self.live().await;
            }
        }
    }

    fn in_step(&self) -> bool {
        self.epoch == self.shared.link.epoch() && !self.shared.behind.load(Ordering::Relaxed)
    }

    fn mark_stale(&mut self, cell: &Arc<Cell>) {
        self.stale.entry(Arc::as_ptr(cell) as usize).or_insert_with(|| (cell.clone(), Instant::now()));
    }

    fn now(&self) -> u64 {
        self.shared.time(crate::state::unix_ms())
    }

    /// Sends corrections in one script. What may not have arrived is stated anew.
    async fn send(&mut self, batch: Vec<Correction>) {
        let now = self.now();
        let mut call = self.shared.call("settle", now);
        let mut count = 0;
        for correction in &batch {
            let counts = correction.cell.lock();
            let slot = &counts.slots[correction.place];
            // A statement that was sent after it holds it already; of a bucket nothing is stated, as it is one for all.
            if counts.stated >= correction.number && !matches!(slot.shape, Shape::Bucket(_)) {
                continue;
            }
            let window = Window { unit: slot.unit, shape: slot.shape, limit: slot.limit };
            drop(counts);
            call.key(self.shared.key(&correction.cell, window.unit, window.shape));
            arguments(&mut call, &window, true, now, [correction.mark, correction.reserved, correction.actual, 0, 0]);
            count += 1;
        }
        if count == 0 {
            return;
        }
        match self.shared.say(&call, 0).await {
            // It was emptied: what this process has is stated, all of it.
            Ok(Said::Unknown) => self.shared.fall_behind(),
            Ok(_) => {}
            Err(_) => batch.iter().for_each(|correction| self.mark_stale(&correction.cell)),
        }
    }

    /// States what this process has of each stale cell, as far as nobody asks about it at the moment.
    async fn state_stale(&mut self) {
        // What somebody has reset must not be stated again.
        if self.stale.is_empty() || !self.shared.link.is_up() || self.shared.listen(&self.limits).await.is_err() {
            return;
        }
        let now = self.now();
        let ready = |(cell, since): &&(Arc<Cell>, Instant)| {
            cell.asking.load(Ordering::Acquire) == 0 || since.elapsed() >= PATIENCE
        };
        let cells: Vec<Arc<Cell>> =
            self.stale.values().filter(ready).take(BATCH).map(|(cell, _)| cell.clone()).collect();
        let mut call = self.shared.call("put", now);
        let mut stated = Vec::new();
        let mut count = 0;
        for cell in cells {
            let key = Arc::as_ptr(&cell) as usize;
            let asked = cell.asked.load(Ordering::Acquire);
            let mut counts = cell.lock();
            counts.stated = counts.changes;
            count += self.shared.state(&mut call, &cell, &mut counts, now);
            drop(counts);
            stated.push((key, asked, cell));
        }
        let arrived = count == 0 || self.shared.stated(&self.limits, &call).await == Ok(true);
        for (key, asked, cell) in stated {
            // Whoever asked meanwhile may be missing in it: once more, then.
            let quiet = cell.asked.load(Ordering::Acquire) == asked && cell.asking.load(Ordering::Acquire) == 0;
            let late = self.stale.get(&key).is_none_or(|(_, since)| since.elapsed() >= PATIENCE);
            if arrived && (quiet || late) {
                self.stale.remove(&key);
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
        let (now, key) = (self.now(), self.shared.nodes_key());
        let mut beat = ::redis::cmd("ZADD");
        beat.arg(&key).arg(now).arg(&self.shared.node);
        let mut forget = ::redis::cmd("ZREMRANGEBYSCORE");
        forget.arg(&key).arg(0).arg(now.saturating_sub(LIVES_MS));
        let mut count = ::redis::cmd("ZCARD");
        count.arg(&key);
        let Ok(beaten) = self.shared.link.run(&beat).await else { return };
        let news = !std::mem::take(&mut self.restated);
        if beaten == Value::Int(1) && std::mem::replace(&mut self.announced, true) && news {
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
        self.budgets.forget_idle(now);
        // Away is tried again at the next beat.
        let _ = self.shared.listen(&self.limits).await;
    }
}
