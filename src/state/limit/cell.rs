//! The counts of one rule for one partition, and the map that holds all of them.
//!
//! Bounded: idle counts are forgotten, and new partitions of a rule that has its part of [`MAX_CELLS`] share one. Never
//! forgets a count that somebody holds a part of, and no rule's partitions take the room of another's.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use hashbrown::{HashMap, HashTable};
use smallvec::SmallVec;
use tokio::sync::Notify;

use super::lease::Lease;
use super::meter::{Meter, Shape, Unit};

/// Partitions that are counted apart, all rules together; about 400 bytes each.
pub const MAX_CELLS: usize = 1 << 19;

/// A rule has at most so many times what the others leave free: three quarters of the map where it is alone, and whatever rules
/// were there before, something is left for the next one.
const SHARE_OF_FREE: usize = 3;

/// Shards of the map. Callers of different partitions rarely meet in one of 64.
const SHARDS: usize = 64;

/// Least time between two looks for idle cells in one shard: a flood of new partitions must not look each time.
const SWEEP_PAUSE_MS: u64 = 1000;

/// The partition that those share who came when their rule had no room.
pub const OTHERS: &str = "(others)";

/// One window's count within a cell.
#[derive(Debug, Clone)]
pub struct Slot {
    pub unit: Unit,
    pub shape: Shape,
    /// The share it counts; empty for the whole.
    pub share: Arc<str>,
    /// The limit it was last held against.
    pub limit: u64,
    pub meter: Meter,
    /// The highest threshold that was noted in the present window.
    pub told: Threshold,
    /// The window that `told` is of.
    pub told_start: u64,
    /// The one noted before, where nobody has been told of `told` yet: what a process that is started again goes on from.
    pub owed: Option<Threshold>,
    /// What this process has of it in advance.
    pub lease: Option<Lease>,
    /// What all processes have of it together, where it is shared.
    pub heard: Option<Box<Heard>>,
    /// What of it was counted while the server was away.
    pub away: Option<Box<Apart>>,
}

/// A part of a budget that is told of when it is spent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Threshold {
    /// Hundredths of the limit.
    pub percent: u64,
    /// The limit that they are of.
    pub limit: u64,
}

impl Threshold {
    /// Whether who was told of this knows as much as of the other: a budget that was raised since has more to tell.
    pub fn tells(self, other: Threshold) -> bool {
        let amount = |threshold: Threshold| u128::from(threshold.limit) * u128::from(threshold.percent);
        self.percent >= other.percent && amount(self) >= amount(other)
    }
}

/// What the server may not know of: all that was counted since.
#[derive(Debug, Clone)]
pub struct Apart {
    /// How often the process had listened for resets; meaningless once it has again.
    pub listened: u64,
    /// The count then.
    pub before: Meter,
}

/// A shared count as the server last said, corrected by what it was told since.
#[derive(Debug, Clone)]
pub struct Heard {
    pub meter: Meter,
    /// When it said so, by its clock.
    pub at: u64,
}

impl Slot {
    pub fn roll(&mut self, now: u64) {
        self.meter.roll(self.shape, self.limit, now);
        if let Some(heard) = &mut self.heard {
            heard.meter.roll(self.shape, self.limit, now);
        }
    }

    /// What was counted since this process last listened and the server went away: of the present window, and of the one
    /// before it. The slot is rolled.
    pub fn since_away(&self, listened: u64, now: u64) -> (u128, u128) {
        let Some(away) = self.away.as_ref().filter(|away| away.listened == listened) else { return (0, 0) };
        let mut before = away.before;
        before.roll(self.shape, self.limit, now.max(self.meter.start));
        (self.meter.cur.saturating_sub(before.cur), self.meter.prev.saturating_sub(before.prev))
    }

    /// Puts what was used in the place of what was reserved in what the server last said.
    pub fn correct_heard(&mut self, mark: u64, reserved: u64, actual: u64) {
        if let Some(heard) = &mut self.heard {
            heard.meter.settle(self.shape, mark, reserved, actual);
        }
    }
}

/// What a cell's lock guards.
#[derive(Debug, Default)]
pub struct Counts {
    /// Only ever grows while the cell is held, so that places in it stay true.
    pub slots: SmallVec<[Slot; 2]>,
    /// When each share last asked, by its name.
    pub asked: SmallVec<[(Arc<str>, u64); 2]>,
    /// Changes of what was settled, counted.
    pub changes: u64,
    /// Those of them that the shared server was last told of as a whole.
    pub stated: u64,
}

impl Counts {
    /// The place of a window's count, made when it is new.
    pub fn place(&mut self, unit: Unit, shape: Shape, share: &Arc<str>, limit: u64) -> usize {
        let same = |slot: &Slot| slot.unit == unit && slot.shape == shape && slot.share == *share;
        if let Some(place) = self.slots.iter().position(same) {
            self.slots[place].limit = limit;
            return place;
        }
        let (share, meter) = (share.clone(), Meter::default());
        self.slots.push(Slot {
            unit,
            shape,
            share,
            limit,
            meter,
            told: Threshold::default(),
            told_start: 0,
            owed: None,
            lease: None,
            heard: None,
            away: None,
        });
        self.slots.len() - 1
    }

    /// Forgets windows in which nothing is counted. Nobody may know a place.
    pub fn forget_empty(&mut self, now: u64) {
        self.slots.retain(|slot| {
            slot.roll(now);
            !slot.meter.is_empty()
        });
    }
}

/// Those of one share who wait for room, one behind the other. Who has a share does not stand behind those who only borrow
/// it: what is freed goes to whom it is kept for.
#[derive(Debug, Default)]
pub struct Gate {
    /// Held by the first of the queue; fair.
    pub turn: tokio::sync::Mutex<()>,
    pub waiting: AtomicUsize,
    /// Rung when something under way ends.
    pub freed: Notify,
}

impl Gate {
    fn is_queued(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }
}

/// The counts of one partition.
#[derive(Debug)]
pub struct Cell {
    pub rule: Arc<str>,
    pub partition: Box<str>,
    counts: Mutex<Counts>,
    /// Changed since it was last written down.
    pub dirty: AtomicBool,
    /// Exchanges that ask the shared server about it now, and all that ever did.
    pub asking: AtomicU32,
    pub asked: AtomicU64,
    /// When one last did, by the server's clock.
    pub asked_at: AtomicU64,
    /// Somebody is asking for a lease of it.
    pub leasing: AtomicBool,
    /// Listed among those of which something is leased.
    pub leased: AtomicBool,
    gates: OnceLock<Mutex<Gates>>,
}

/// The queues of a cell, by share; a rule without shares has one, under the empty name.
type Gates = SmallVec<[(Arc<str>, Arc<Gate>); 1]>;

impl Cell {
    fn new(rule: Arc<str>, partition: &str) -> Self {
        Cell {
            rule,
            partition: partition.into(),
            counts: Mutex::default(),
            dirty: AtomicBool::new(false),
            asking: AtomicU32::new(0),
            asked: AtomicU64::new(0),
            asked_at: AtomicU64::new(0),
            leasing: AtomicBool::new(false),
            leased: AtomicBool::new(false),
            gates: OnceLock::new(),
        }
    }

    pub fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The queue of a share, made when it is new.
    pub fn gate(&self, share: &Arc<str>) -> Arc<Gate> {
        let mut gates = self.gates.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, gate)) = gates.iter().find(|(known, _)| known == share) {
            return gate.clone();
        }
        let gate = Arc::<Gate>::default();
        gates.push((share.clone(), gate.clone()));
        gate
    }

    /// Lets the first of each queue look again.
    pub fn ring(&self) {
        self.each_gate(|_, gate| gate.freed.notify_one());
    }

    /// Whether anybody waits for room in the queue of a share.
    pub fn is_queued(&self, share: &str) -> bool {
        let mut queued = false;
        self.each_gate(|known, gate| queued |= known == share && gate.is_queued());
        queued
    }

    fn each_gate(&self, mut look: impl FnMut(&str, &Gate)) {
        let Some(gates) = self.gates.get() else { return };
        for (share, gate) in gates.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            look(share, gate);
        }
    }

    /// Whether forgetting it changes nothing.
    fn is_idle(&self, now: u64) -> bool {
        let mut queued = false;
        self.each_gate(|_, gate| queued |= gate.is_queued());
        if self.dirty.load(Ordering::Relaxed) || queued {
            return false;
        }
        self.lock().slots.iter_mut().all(|slot| {
            slot.roll(now);
            slot.meter.is_empty()
        })
    }
}

#[derive(Debug, Default)]
struct Shard {
    cells: HashTable<Arc<Cell>>,
    /// How many of them each rule has.
    of_rule: HashMap<Arc<str>, usize>,
    /// Size at which idle cells are looked for; twice what was left the last time.
    sweep_at: usize,
    /// When that was done last.
    swept: u64,
}

/// Every cell by rule and partition.
#[derive(Debug)]
pub struct Cells {
    shards: Box<[Mutex<Shard>]>,
    hasher: RandomState,
    per_shard: usize,
}

impl Cells {
    pub fn new(most: usize) -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Cells { shards, hasher: RandomState::new(), per_shard: (most / SHARDS).max(1) }
    }

    /// The cell of a partition, made when it is new.
    pub fn get(&self, rule: &Arc<str>, partition: &str, now: u64) -> Arc<Cell> {
        let hash = self.hash(rule, partition);
        let mut shard = self.shard(hash);
        if let Some(cell) = shard.find(hash, rule, partition) {
            return cell.clone();
        }
        let due = shard.cells.len() >= shard.sweep_at.max(64) || !shard.has_room(rule, self.per_shard);
        if due && now.abs_diff(shard.swept) >= SWEEP_PAUSE_MS {
            shard.sweep(now);
        }
        if !shard.has_room(rule, self.per_shard) && partition != OTHERS {
            drop(shard);
            return self.get(rule, OTHERS, now);
        }
        let cell = Arc::new(Cell::new(rule.clone(), partition));
        shard.cells.insert_unique(hash, cell.clone(), |cell| self.hash(&cell.rule, &cell.partition));
        *shard.of_rule.entry(rule.clone()).or_default() += 1;
        cell
    }

    /// The cell of a partition, if it is there.
    pub fn find(&self, rule: &str, partition: &str) -> Option<Arc<Cell>> {
        let hash = self.hash(rule, partition);
        self.shard(hash).find(hash, rule, partition).cloned()
    }

    /// Every cell, a shard at a time.
    pub fn each(&self, mut look: impl FnMut(&Arc<Cell>)) {
        for shard in &self.shards {
            let cells: Vec<Arc<Cell>> =
                shard.lock().unwrap_or_else(PoisonError::into_inner).cells.iter().cloned().collect();
            cells.iter().for_each(&mut look);
        }
    }

    pub fn count(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner).cells.len()).sum()
    }

    /// One hash for shard and table. The standard hasher, because partitions are made of what callers send.
    fn hash(&self, rule: &str, partition: &str) -> u64 {
        self.hasher.hash_one((rule, partition))
    }

    fn shard(&self, hash: u64) -> MutexGuard<'_, Shard> {
        // The table goes by the low bits.
        let at = (hash >> 48) as usize % self.shards.len();
        self.shards[at].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shard {
    fn find(&self, hash: u64, rule: &str, partition: &str) -> Option<&Arc<Cell>> {
        self.cells.find(hash, |cell| *cell.partition == *partition && *cell.rule == *rule)
    }

    /// Whether a rule may have one more of so many cells.
    fn has_room(&self, rule: &str, most: usize) -> bool {
        let free = most.saturating_sub(self.cells.len());
        self.of_rule.get(rule).is_none_or(|count| *count < free * SHARE_OF_FREE) && free > 0
    }

    /// Forgets idle cells.
    fn sweep(&mut self, now: u64) {
        self.swept = now;
        // A count of one is the map's own: under the shard's lock nobody else can come by it.
        self.cells.retain(|cell| Arc::strong_count(cell) > 1 || !cell.is_idle(now));
        self.sweep_at = self.cells.len() * 2;
        self.of_rule.clear();
        for cell in &self.cells {
            *self.of_rule.entry(cell.rule.clone()).or_default() += 1;
        }
    }
}
