//! Limits and budgets: reserve before, settle after, for every rule of an exchange at once.
//!
//! All or nothing: a refusal takes nothing. The cells of an exchange are locked together, in one order, for as long as a
//! few sums take, so that a limit of N admits exactly N. Knows no requests and no clock; callers bring facts and times.

mod adhoc;
pub mod calendar;
pub mod cell;
mod hold;
mod lease;
pub mod meter;
pub mod report;
pub mod rule;
pub mod shared;
#[cfg(test)]
mod tests;

use std::sync::atomic::Ordering;
use std::sync::{Arc, LazyLock, Mutex, OnceLock, PoisonError};

use smallvec::SmallVec;

pub use adhoc::{Adhoc, Given, Reservation};
use cell::{Cell, Cells, Counts, MAX_CELLS};
use hold::Taken;
pub use hold::{Hold, Standing};
use meter::{Shape, Unit, Wait};
use rule::{Facts, Rule, Window};
use shared::Shared;

/// How long a share that asks for nothing keeps its part from being borrowed, at most; shorter windows keep it for their
/// own length.
const SHARE_IDLE_MS: u64 = 60_000;

/// The same for limits of what is under way.
const SHARE_IDLE_IN_FLIGHT_MS: u64 = 10_000;

/// What an exchange takes of each unit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Amounts {
    pub requests: u64,
    pub input: u64,
    pub output: u64,
    /// Nano-dollars; None when the price is unknown.
    pub money: Option<u64>,
}

impl Amounts {
    pub fn of(&self, unit: Unit) -> u64 {
        match unit {
            Unit::Requests => self.requests,
            Unit::InputTokens => self.input,
            Unit::OutputTokens => self.output,
            Unit::Tokens => self.input.saturating_add(self.output),
            Unit::Money => self.money.unwrap_or(0),
            Unit::Concurrency => 1,
        }
    }
}

/// One rule with the counts that an exchange belongs to.
#[derive(Debug, Clone)]
pub struct Charge<'a> {
    pub rule: &'a Arc<Rule>,
    pub cell: Arc<Cell>,
    /// Place of the caller's share in the rule.
    pub share: Option<usize>,
}

/// Why nothing was taken.
#[derive(Debug)]
pub struct Refusal {
    pub rule: Arc<Rule>,
    pub cell: Arc<Cell>,
    pub unit: Unit,
    pub limit: u64,
    /// Used of it before.
    pub used: u64,
    /// What was asked for.
    pub amount: u64,
    /// When all that refused would have room.
    pub wait: Wait,
    /// Nothing is exhausted; what is shared is away.
    pub away: bool,
    /// How every window stood.
    pub standing: Vec<Standing>,
}

/// A part of a budget was spent.
#[derive(Debug, Clone)]
pub struct Alert {
    pub rule: Arc<Rule>,
    pub partition: String,
    /// Hundredths of the limit.
    pub percent: u64,
    pub limit: u64,
    pub used: u64,
    /// Begin of the window, Unix milliseconds.
    pub window_start: u64,
}

type Tell = Box<dyn Fn(Alert) + Send + Sync>;

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

/// How far the counts of this process decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Check {
    /// Alone.
    Full,
    /// Others have decided: they only count.
    Never,
    /// Of the limit by this many processes.
    Part(u64),
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

    /// Takes the amounts from every window of every charge, or from none.
    ///
    /// # Errors
    /// The window without room that stays so for longest.
    pub fn reserve(
        self: &Arc<Self>,
        charges: &[Charge<'_>],
        amounts: &Amounts,
        now: u64,
    ) -> Result<Hold, Box<Refusal>> {
        self.reserve_as(charges, amounts, now, Check::Full)
    }

    fn reserve_as(
        self: &Arc<Self>,
        charges: &[Charge<'_>],
        amounts: &Amounts,
        now: u64,
        how: Check,
    ) -> Result<Hold, Box<Refusal>> {
        // One order for all callers, so that two never wait for each other.
        let mut order: SmallVec<[usize; 6]> = (0..charges.len()).collect();
        order.sort_unstable_by_key(|at| Arc::as_ptr(&charges[*at].cell));
        let mut locked: SmallVec<[_; 6]> = order.iter().map(|at| (*at, charges[*at].cell.lock())).collect();
        let mut refused: Option<(usize, Unit, u64, u64, Wait)> = None;
        for (at, counts) in &mut locked {
            for window in &charges[*at].rule.windows {
                let amount = amounts.of(window.unit);
                let part = match how {
                    Check::Part(nodes) => Window { limit: (window.limit / nodes).max(1), ..window.clone() },
                    _ => window.clone(),
                };
                let asked = check(counts, &charges[*at], &part, amount, now);
                if let Err((used, wait)) = asked
                    && charges[*at].rule.hard
                    && how != Check::Never
                    && refused.as_ref().is_none_or(|(.., known)| later(*known, wait))
                {
                    refused = Some((*at, part.unit, part.limit, used, wait));
                }
            }
        }
        if let Some((at, unit, limit, used, wait)) = refused {
            let mut standing = Vec::new();
            for (at, counts) in &mut locked {
                hold::stand(counts, charges[*at].rule, now, &mut standing);
            }
            let Charge { rule, cell, .. } = &charges[at];
            let (rule, cell, amount) = (Arc::clone(rule), cell.clone(), amounts.of(unit));
            return Err(Box::new(Refusal { rule, cell, unit, limit, used, amount, wait, away: false, standing }));
        }
        let mut taken = Vec::with_capacity(charges.len() * 2);
        let mut standing = Vec::with_capacity(charges.len() * 2);
        for (at, counts) in &mut locked {
            take(counts, &charges[*at], amounts, &mut taken);
            hold::stand(counts, charges[*at].rule, now, &mut standing);
        }
        drop(locked);
        Ok(Hold::new(self.clone(), taken, standing))
    }

    /// The refusal of the first charge because what is shared is away.
    fn refuse(&self, charges: &[Charge<'_>], amounts: &Amounts) -> Box<Refusal> {
        let Charge { rule, cell, .. } = &charges[0];
        let window = rule.windows.first();
        let unit = window.map_or(Unit::Requests, |window| window.unit);
        Box::new(Refusal {
            rule: Arc::clone(rule),
            cell: cell.clone(),
            unit,
            limit: window.map_or(0, |window| window.limit),
            used: 0,
            amount: amounts.of(unit),
            wait: Wait::Millis(1000),
            away: true,
            standing: Vec::new(),
        })
    }

    /// Notes that a cell with lasting windows changed.
    fn changed_in(&self, cell: &Arc<Cell>) {
        if self.lasting.get().is_some() && !cell.dirty.swap(true, Ordering::AcqRel) {
            self.dirty.lock().unwrap_or_else(PoisonError::into_inner).push(cell.clone());
        }
    }

    /// The same for counts that are shared, which know of all processes: whoever sees it first tells.
    fn watch_there(&self, taken: &Taken, used: u64, window_start: u64) {
        let (Some(budget), Some(tell)) = (&taken.rule.budget, self.tell.get()) else { return };
        let mut counts = taken.cell.lock();
        let slot = &mut counts.slots[taken.place];
        if slot.told_start != window_start {
            (slot.told, slot.told_start) = (0, window_start);
        }
        let reached = budget.thresholds.iter().copied().filter(|percent| {
            *percent > slot.told && u128::from(used) * 100 >= u128::from(slot.limit) * u128::from(*percent)
        });
        if let Some(percent) = reached.max() {
            slot.told = percent;
            let (rule, partition, limit) = (taken.rule.clone(), taken.cell.partition.to_string(), slot.limit);
            tell(Alert { rule, partition, percent, limit, used, window_start });
        }
    }

    /// Tells of the thresholds of a budget that were reached.
    fn watch_budget(&self, rule: &Arc<Rule>, cell: &Cell, counts: &mut Counts, place: usize, now: u64) {
        let (Some(budget), Some(tell), None) = (&rule.budget, self.tell.get(), self.shared()) else { return };
        let slot = &mut counts.slots[place];
        if !slot.share.is_empty() || slot.limit == 0 {
            return;
        }
        if slot.told_start != slot.meter.start && !matches!(slot.shape, Shape::Bucket(_)) {
            (slot.told, slot.told_start) = (0, slot.meter.start);
        }
        let used = slot.meter.settled(slot.shape, now);
        let reached = budget.thresholds.iter().copied().filter(|percent| {
            *percent > slot.told && u128::from(used) * 100 >= u128::from(slot.limit) * u128::from(*percent)
        });
        if let Some(percent) = reached.max() {
            slot.told = percent;
            let (rule, partition, window_start) = (Arc::clone(rule), cell.partition.to_string(), slot.meter.start);
            tell(Alert { rule, partition, percent, limit: slot.limit, used, window_start });
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

/// Whether `new` is a longer wait than `known`.
fn later(known: Wait, new: Wait) -> bool {
    let rank = |wait: Wait| match wait {
        Wait::Release => (0, 0),
        Wait::Millis(millis) => (1, millis),
        Wait::Never => (2, 0),
    };
    rank(new) > rank(known)
}

/// Looks whether a window has room, and makes its counts where they are new.
fn check(counts: &mut Counts, charge: &Charge<'_>, window: &Window, amount: u64, now: u64) -> Result<(), (u64, Wait)> {
    let Window { unit, shape, limit } = *window;
    let place = counts.place(unit, shape, &WHOLE, limit);
    let slot = &mut counts.slots[place];
    slot.roll(now);
    let (used, fits) = (slot.meter.used(shape, now), slot.meter.fits(shape, limit, amount, now));
    let whole = if fits { Ok(()) } else { Err((used, slot.meter.wait(shape, limit, amount, now))) };
    let Some(mine) = charge.share else { return whole };
    let shares = &charge.rule.shares;
    let part = |at: usize| (u128::from(limit) * u128::from(shares[at].permille) / 1000) as u64;
    let idle = shape.length().map_or(SHARE_IDLE_IN_FLIGHT_MS, |length| length.min(SHARE_IDLE_MS));
    // What the others may still ask for of their own, while they ask.
    let mut kept = 0;
    let mut own = Ok(());
    for (at, share) in shares.iter().enumerate() {
        let place = counts.place(unit, shape, &share.name, part(at));
        let slot = &mut counts.slots[place];
        slot.roll(now);
        let (used, limit) = (slot.meter.used(shape, now), part(at));
        let asked = counts.asked.iter_mut().find(|(known, _)| *known == share.name);
        if at == mine {
            match asked {
                Some((_, last)) => *last = now,
                None => counts.asked.push((share.name.clone(), now)),
            }
            let slot = &counts.slots[place];
            if !slot.meter.fits(shape, limit, amount, now) {
                own = Err((used, slot.meter.wait(shape, limit, amount, now)));
            }
        } else if asked.is_some_and(|(_, last)| now.saturating_sub(*last) < idle) {
            kept += limit.saturating_sub(used);
        }
    }
    whole?;
    let borrowed = used.saturating_add(amount) <= limit.saturating_sub(kept);
    if borrowed { Ok(()) } else { own }
}

/// Takes what was found to fit.
fn take(counts: &mut Counts, charge: &Charge<'_>, amounts: &Amounts, taken: &mut Vec<Taken>) {
    let share = charge.share.map(|at| &charge.rule.shares[at].name);
    for window in &charge.rule.windows {
        let amount = amounts.of(window.unit);
        for name in std::iter::once(&*WHOLE).chain(share) {
            let same =
                |slot: &cell::Slot| slot.unit == window.unit && slot.shape == window.shape && slot.share == *name;
            // `check` has made it.
            let Some(place) = counts.slots.iter().position(same) else { continue };
            let mark = counts.slots[place].meter.take(window.shape, amount);
            taken.push(Taken {
                rule: Arc::clone(charge.rule),
                cell: charge.cell.clone(),
                place,
                unit: window.unit,
                shape: window.shape,
                mark,
                amount,
                there: None,
                whole: name.is_empty(),
            });
        }
    }
}
