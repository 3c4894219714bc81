//! Limits and budgets: reserve before, settle after, for every rule of an exchange at once.
//!
//! All or nothing: a refusal takes nothing. The cells of an exchange are locked together, in one order, for as long as a
//! few sums take, so that a limit of N admits exactly N. Knows no requests and no clock; callers bring facts and times.

mod adhoc;
pub mod calendar;
pub mod cell;
mod fit;
mod hold;
mod lease;
pub mod meter;
pub mod report;
pub mod rule;
pub mod shared;
#[cfg(test)]
mod tests;
mod watch;

use std::sync::atomic::Ordering;
use std::sync::{Arc, LazyLock, Mutex, OnceLock, PoisonError};

use smallvec::SmallVec;

pub use adhoc::{Adhoc, Crowded, Given, MAX_WINDOWS, Reservation};
use cell::{Cell, Cells, MAX_CELLS};
use fit::Check;
pub use fit::{Amounts, Estimate};
pub use hold::{Hold, Standing};
use meter::{Shape, Unit, Wait};
use rule::{Facts, Rule};
use shared::Shared;
pub use watch::Alert;
use watch::Tell;

/// One rule with the counts that an exchange belongs to.
#[derive(Debug, Clone)]
pub struct Charge<'a> {
    pub rule: &'a Arc<Rule>,
    pub cell: Arc<Cell>,
    /// Place of the caller's share in the rule.
    pub share: Option<usize>,
}

impl Charge<'_> {
    /// The caller's share; empty for the whole.
    pub fn share_name(&self) -> &Arc<str> {
        self.share.map_or(&*WHOLE, |at| &self.rule.shares[at].name)
    }
}

/// What came of waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Queued {
    /// There was no place in the queue.
    Full,
    /// So many milliseconds were not enough.
    InVain(u64),
}

/// Why nothing was taken.
#[derive(Debug)]
pub struct Refusal {
    pub rule: Arc<Rule>,
    pub cell: Arc<Cell>,
    pub unit: Unit,
    pub shape: Shape,
    pub limit: u64,
    /// Used of it before.
    pub used: u64,
    /// What there had to be.
    pub amount: u64,
    /// The rest of the estimate was assumed, and would have taken what is left.
    pub assumed: bool,
    /// When all that refused would have room.
    pub wait: Wait,
    /// Nothing is exhausted; what is shared is away.
    pub away: bool,
    /// What came of waiting for room, where the rule lets wait.
    pub queued: Option<Queued>,
    /// How every window stood.
    pub standing: Vec<Standing>,
}

/// The engine.
pub struct Limits {
    cells: Cells,
    /// Cells whose lasting windows changed since they were last written down.
    dirty: Mutex<Vec<Arc<Cell>>>,
    /// Whether anybody writes them down.
    lasting: OnceLock<()>,
    tell: OnceLock<Tell>,
    shared: OnceLock<Arc<Shared>>,
}

/// No share: the whole.
static WHOLE: LazyLock<Arc<str>> = LazyLock::new(|| Arc::from(""));

impl Limits {
    pub fn new() -> Self {
        Limits::bounded(MAX_CELLS)
    }

    /// With room for so many partitions.
    pub fn bounded(most: usize) -> Self {
        Limits {
            cells: Cells::new(most),
            dirty: Mutex::default(),
            lasting: OnceLock::new(),
            tell: OnceLock::new(),
            shared: OnceLock::new(),
        }
    }

    /// Shares the counts from now on. False when they are shared already.
    fn share(&self, shared: Arc<Shared>) -> bool {
        self.shared.set(shared).is_ok()
    }

    /// What shares the counts, where something does.
    pub fn shared(&self) -> Option<&Arc<Shared>> {
        self.shared.get()
    }

    /// The time that windows go by: the shared server's, where there is one.
    pub fn time(&self, now: u64) -> u64 {
        self.shared().map_or(now, |shared| shared.time(now))
    }

    /// Sends alerts to `tell` from now on. Only the first call counts.
    pub fn tell(&self, tell: Tell) {
        let _ = self.tell.set(tell);
    }

    /// From now on somebody takes what [`Limits::changed`] gives.
    pub fn watch(&self) {
        let _ = self.lasting.set(());
    }

    /// The rules that apply, with the counts that the facts belong to.
    pub fn charges<'a>(&self, rules: &'a [Arc<Rule>], facts: &Facts<'_>, now: u64) -> SmallVec<[Charge<'a>; 6]> {
        let mut charges = SmallVec::new();
        let mut partition = String::new();
        for rule in rules.iter().filter(|rule| rule.applies(facts)) {
            partition.clear();
            rule.partition(facts, &mut partition);
            let cell = self.cells.get(&rule.name, &partition, now);
            charges.push(Charge { rule, cell, share: rule.share(facts) });
        }
        charges
    }

    /// Takes the estimate from every window of every charge, or from none.
    ///
    /// # Errors
    /// The window without room that stays so for longest.
    pub fn reserve(
        self: &Arc<Self>,
        charges: &[Charge<'_>],
        estimate: &Estimate,
        now: u64,
    ) -> Result<Hold, Box<Refusal>> {
        self.reserve_as(charges, estimate, now, Check::Full)
    }

    fn reserve_as(
        self: &Arc<Self>,
        charges: &[Charge<'_>],
        estimate: &Estimate,
        now: u64,
        how: Check<'_>,
    ) -> Result<Hold, Box<Refusal>> {
        let mut locked = fit::lock(charges);
        let fitting = match fit::fit(&mut locked, charges, estimate, now, how) {
            Ok(fitting) => fitting,
            Err(refusal) => {
                drop(locked);
                self.watch_refusal(&refusal, now);
                return Err(refusal);
            }
        };
        let mut taken = Vec::with_capacity(charges.len() * 2);
        let mut standing = Vec::with_capacity(charges.len() * 2);
        for (at, counts) in &mut locked {
            fit::take(counts, &charges[*at], fitting.of(charges, *at), &mut taken);
            hold::stand(counts, charges[*at].rule, now, &mut standing);
        }
        drop(locked);
        Ok(Hold::new(self.clone(), taken, standing))
    }

    /// The refusal of the first charge because what is shared is away.
    fn refuse(&self, charges: &[Charge<'_>], estimate: &Estimate) -> Box<Refusal> {
        let Charge { rule, cell, .. } = &charges[0];
        let window = rule.windows.first();
        let unit = window.map_or(Unit::Requests, |window| window.unit);
        Box::new(Refusal {
            rule: Arc::clone(rule),
            cell: cell.clone(),
            unit,
            shape: window.map_or(Shape::Total, |window| window.shape),
            limit: window.map_or(0, |window| window.limit),
            used: 0,
            amount: estimate.least.of(unit),
            assumed: false,
            wait: Wait::Millis(1000),
            away: true,
            queued: None,
            standing: Vec::new(),
        })
    }

    /// Notes that a cell with lasting windows changed.
    fn changed_in(&self, cell: &Arc<Cell>) {
        if self.lasting.get().is_some() && !cell.dirty.swap(true, Ordering::AcqRel) {
            self.dirty.lock().unwrap_or_else(PoisonError::into_inner).push(cell.clone());
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Limits::new()
    }
}

impl std::fmt::Debug for Limits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Limits({})", self.cells.count())
    }
}
