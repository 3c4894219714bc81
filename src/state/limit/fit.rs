//! What an exchange asks of the windows, how much of it fits, and the taking of that.
//!
//! Decides under the locks of all cells of the exchange, so that what was found to fit still does when it is taken.

use std::sync::{Arc, MutexGuard};

use smallvec::{SmallVec, smallvec};

use super::cell::{Counts, Slot};
use super::hold::{self, Taken};
use super::meter::{Unit, Wait};
use super::rule::Window;
use super::{Charge, Refusal, WHOLE};

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

/// What an exchange asks for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Estimate {
    /// What it is expected to use.
    pub most: Amounts,
    /// What there must be. Less than `most` where the caller states no bound: the rest is then assumed, and takes what is
    /// left of a window that has less, so that the next one finds nothing.
    pub least: Amounts,
}

impl Estimate {
    /// All of it is stated.
    pub fn exact(amounts: Amounts) -> Self {
        Estimate { most: amounts, least: amounts }
    }

    pub(super) fn of(&self, unit: Unit) -> Want {
        Want { least: self.least.of(unit), most: self.most.of(unit) }
    }
}

/// What is wanted of one window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Want {
    pub least: u64,
    pub most: u64,
}

impl Want {
    /// What it gets of so much room; None when that is too little.
    fn within(self, room: Option<u64>) -> Option<u64> {
        room.filter(|room| *room >= self.least).map(|room| room.min(self.most))
    }
}

/// How far the counts of this process decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Check<'a> {
    /// Alone.
    Full,
    /// Not at all: they only count.
    Never,
    /// Others have decided, and given so much of each window, in the order of the charges.
    Given(&'a [u64]),
    /// Of the limit by this many processes.
    Part(u64),
}

/// What is to be taken of each window, in the order of the charges.
#[derive(Debug)]
pub(super) struct Fitting(pub SmallVec<[u64; 8]>);

impl Fitting {
    /// The amounts of one charge's windows.
    pub fn of(&self, charges: &[Charge<'_>], at: usize) -> &[u64] {
        &self.0[first(charges, at)..]
    }
}

/// Place of a charge's first window among all.
fn first(charges: &[Charge<'_>], at: usize) -> usize {
    charges[..at].iter().map(|charge| charge.rule.windows.len()).sum()
}

/// The counts of all charges, by place.
pub(super) type Locked<'a> = SmallVec<[(usize, MutexGuard<'a, Counts>); 6]>;

/// Locks the cells in one order for all callers, so that two never wait for each other.
pub(super) fn lock<'a>(charges: &'a [Charge<'_>]) -> Locked<'a> {
    let mut order: SmallVec<[usize; 6]> = (0..charges.len()).collect();
    order.sort_unstable_by_key(|at| Arc::as_ptr(&charges[*at].cell));
    order.iter().map(|at| (*at, charges[*at].cell.lock())).collect()
}

/// Finds what fits of an estimate. Makes the counts of windows that are new.
///
/// # Errors
/// The window without room that stays so for longest.
pub(super) fn fit(
    locked: &mut Locked<'_>,
    charges: &[Charge<'_>],
    estimate: &Estimate,
    now: u64,
    how: Check<'_>,
) -> Result<Fitting, Box<Refusal>> {
    let mut fitting = Fitting(smallvec![0; first(charges, charges.len())]);
    let mut refused: Option<(usize, &Window, u64, u64, Wait)> = None;
    for (at, counts) in locked.iter_mut() {
        let (charge, place) = (&charges[*at], first(charges, *at));
        for (of_rule, window) in charge.rule.windows.iter().enumerate() {
            let want = estimate.of(window.unit);
            let limit = match how {
                Check::Part(nodes) => (window.limit / nodes).max(1),
                _ => window.limit,
            };
            let fits = check(counts, charge, &Window { limit, ..*window }, want, now);
            fitting.0[place + of_rule] = match (how, fits) {
                (Check::Given(given), _) => given[place + of_rule],
                (Check::Never, _) => want.most,
                _ if !charge.rule.hard => want.most,
                (_, Ok(amount)) => amount,
                (_, Err((used, wait))) => {
                    if refused.as_ref().is_none_or(|(.., known)| later(*known, wait)) {
                        refused = Some((*at, window, limit, used, wait));
                    }
                    0
                }
            };
        }
    }
    let Some((at, window, limit, used, wait)) = refused else { return Ok(fitting) };
    let mut standing = Vec::new();
    for (at, counts) in locked.iter() {
        hold::stand(counts, charges[*at].rule, now, &mut standing);
    }
    let refusal = Refusal { limit, standing, ..Refusal::new(&charges[at], window, estimate, used, wait) };
    Err(Box::new(refusal))
}

impl Refusal {
    pub(super) fn new(charge: &Charge<'_>, window: &Window, estimate: &Estimate, used: u64, wait: Wait) -> Self {
        let want = estimate.of(window.unit);
        Refusal {
            rule: Arc::clone(charge.rule),
            cell: charge.cell.clone(),
            unit: window.unit,
            shape: window.shape,
            limit: window.limit,
            used,
            amount: want.least,
            assumed: want.least < want.most,
            wait,
            away: false,
            queued: None,
            standing: Vec::new(),
        }
    }
}

/// Whether `new` is a longer wait than `known`.
pub(super) fn later(known: Wait, new: Wait) -> bool {
    let rank = |wait: Wait| match wait {
        Wait::Release => (0, 0),
        Wait::Millis(millis) => (1, millis),
        Wait::Never => (2, 0),
    };
    rank(new) > rank(known)
}

/// How much fits into a window, else what is used of it and the wait. Makes its counts where they are new.
fn check(counts: &mut Counts, charge: &Charge<'_>, window: &Window, want: Want, now: u64) -> Result<u64, (u64, Wait)> {
    let Window { unit, shape, limit } = *window;
    let look = |slot: &mut Slot, limit: u64| {
        slot.roll(now);
        let used = slot.meter.used(shape, now);
        let fits = want.within(slot.meter.room(shape, limit, now));
        (used, fits.ok_or_else(|| (used, slot.meter.wait(shape, limit, want.least, now))))
    };
    let place = counts.place(unit, shape, &WHOLE, limit);
    let (used, whole) = look(&mut counts.slots[place], limit);
    let Some(mine) = charge.share else { return whole };
    let shares = &charge.rule.shares;
    let part = |at: usize| (u128::from(limit) * u128::from(shares[at].permille) / 1000) as u64;
    let idle = shape.length().map_or(SHARE_IDLE_IN_FLIGHT_MS, |length| length.min(SHARE_IDLE_MS));
    // What the others may still ask for of their own, while they ask.
    let mut kept = 0;
    let mut own = Ok(0);
    for (at, share) in shares.iter().enumerate() {
        let place = counts.place(unit, shape, &share.name, part(at));
        let (used, fits) = look(&mut counts.slots[place], part(at));
        let asked = counts.asked.iter_mut().find(|(known, _)| *known == share.name);
        if at == mine {
            match asked {
                Some((_, last)) => *last = now,
                None => counts.asked.push((share.name.clone(), now)),
            }
            own = fits;
        } else if asked.is_some_and(|(_, last)| now.saturating_sub(*last) < idle) {
            kept += part(at).saturating_sub(used);
        }
    }
    let whole = whole?;
    let borrowed = want.within(limit.saturating_sub(kept).checked_sub(used));
    match (own, borrowed) {
        (Ok(own), borrowed) => Ok(own.max(borrowed.unwrap_or(0)).min(whole)),
        (Err(_), Some(borrowed)) => Ok(borrowed.min(whole)),
        (Err(refused), None) => Err(refused),
    }
}

/// Takes what was found to fit.
pub(super) fn take(counts: &mut Counts, charge: &Charge<'_>, amounts: &[u64], taken: &mut Vec<Taken>) {
    let share = charge.share.map(|at| &charge.rule.shares[at].name);
    for (window, amount) in charge.rule.windows.iter().zip(amounts) {
        for name in std::iter::once(&*WHOLE).chain(share) {
            let same = |slot: &Slot| slot.unit == window.unit && slot.shape == window.shape && slot.share == *name;
            // `check` has made it.
            let Some(place) = counts.slots.iter().position(same) else { continue };
            let mark = counts.slots[place].meter.take(window.shape, *amount);
            taken.push(Taken {
                rule: Arc::clone(charge.rule),
                cell: charge.cell.clone(),
                place,
                unit: window.unit,
                shape: window.shape,
                mark,
                amount: *amount,
                there: None,
                whole: name.is_empty(),
            });
        }
    }
}
