//! What an exchange has reserved, until it is settled or dropped.
//!
//! Dropping gives everything back, so an exchange that dies anywhere holds nothing.

use std::sync::{Arc, MutexGuard};

use super::cell::{Cell, Counts, Heard, Slot};
use super::meter::{Meter, Shape, Unit};
use super::rule::{Rule, Window};
use super::shared::{Correction, There};
use super::{Amounts, Charge, Limits};

/// One reservation.
#[derive(Debug)]
pub(super) struct Taken {
    pub rule: Arc<Rule>,
    pub cell: Arc<Cell>,
    pub place: usize,
    pub unit: Unit,
    pub shape: Shape,
    pub mark: u64,
    pub amount: u64,
    /// The mark on the shared server, where that took it too.
    pub there: Option<u64>,
    /// The count is of the whole, not of a share.
    pub whole: bool,
}

impl Taken {
    /// Corrects what the server last said by what it will be told of this.
    fn correct_heard(&self, slot: &mut Slot, actual: u64) {
        if let Some(mark) = self.there {
            slot.correct_heard(mark, self.amount, actual);
        }
    }
}

/// How a window stands, for headers and messages.
#[derive(Debug, Clone)]
pub struct Standing {
    pub rule: Arc<Rule>,
    pub unit: Unit,
    pub shape: Shape,
    pub limit: u64,
    pub remaining: u64,
    /// Milliseconds until all of it is there again; None where it does not come back by itself.
    pub reset: Option<u64>,
}

/// Reads how the windows of a rule stand. They are rolled.
pub(super) fn stand(counts: &Counts, rule: &Arc<Rule>, now: u64, out: &mut Vec<Standing>) {
    for window in &rule.windows {
        let same = |slot: &&Slot| slot.unit == window.unit && slot.shape == window.shape && slot.share.is_empty();
        let Some(slot) = counts.slots.iter().find(same) else { continue };
        out.push(standing(rule, window, &slot.meter, slot.meter.used(window.shape, now), now));
    }
}

/// How a window stands whose meter is rolled.
pub(super) fn standing(rule: &Arc<Rule>, window: &Window, meter: &Meter, used: u64, now: u64) -> Standing {
    Standing {
        rule: rule.clone(),
        unit: window.unit,
        shape: window.shape,
        limit: window.limit,
        remaining: window.limit.saturating_sub(used),
        reset: meter.reset(window.shape, window.limit, now),
    }
}

/// Everything that one exchange, or one attempt of it, has reserved.
pub struct Hold {
    pub(super) limits: Arc<Limits>,
    pub(super) taken: Vec<Taken>,
    /// How each window stood just after.
    pub standing: Vec<Standing>,
    /// Taken while what is shared was away.
    pub away: bool,
}

impl Hold {
    pub(super) fn new(limits: Arc<Limits>, taken: Vec<Taken>, standing: Vec<Standing>) -> Self {
        Hold { limits, taken, standing, away: false }
    }

    /// Takes over what the shared server said of the windows, in the order of the charges.
    pub(super) fn remote(&mut self, charges: &[Charge<'_>], there: &[There], now: u64) {
        self.standing.clear();
        let windows = charges.iter().flat_map(|charge| charge.rule.windows.iter().map(move |window| (charge, window)));
        for ((charge, window), there) in windows.zip(there) {
            let same = |taken: &&mut Taken| {
                let (unit, shape) = (taken.unit, taken.shape);
                taken.whole && Arc::ptr_eq(&taken.cell, &charge.cell) && (unit, shape) == (window.unit, window.shape)
            };
            let Some(taken) = self.taken.iter_mut().find(same) else { continue };
            taken.there = Some(there.start);
            let used = there.used.saturating_add(taken.amount);
            let mut meter = there.meter(window.shape);
            self.standing.push(standing(charge.rule, window, &meter, used, now));
            meter.charge(window.shape, taken.amount.saturating_add(there.granted));
            taken.cell.lock().slots[taken.place].heard = Some(Box::new(Heard { meter, at: now }));
            if there.granted > 0 {
                let with_lease = used.saturating_add(there.granted);
                self.limits.granted(taken, there.start, there.granted, with_lease, now);
            }
        }
    }

    /// Puts the truth in the place of the estimates. An unknown cost leaves the estimate standing: it is not zero.
    pub fn settle(mut self, actual: &Amounts, now: u64) {
        let now = self.limits.time(now);
        for taken in std::mem::take(&mut self.taken) {
            let mut counts = taken.cell.lock();
            let slot = &mut counts.slots[taken.place];
            slot.roll(now);
            if taken.unit == Unit::Concurrency {
                slot.meter.release(taken.shape, taken.mark, taken.amount);
                taken.correct_heard(slot, 0);
                self.limits.correct(&taken, counts, 0);
                taken.cell.ring();
                continue;
            }
            let amount = match (taken.unit, actual.money) {
                (Unit::Money, None) => taken.amount,
                (unit, _) => actual.of(unit),
            };
            slot.meter.settle(taken.shape, taken.mark, taken.amount, amount);
            taken.correct_heard(slot, amount);
            self.limits.watch_budget(&taken.rule, &taken.cell, &mut counts, taken.place, now);
            self.limits.correct(&taken, counts, amount);
            if taken.shape.lasts() {
                self.limits.changed_in(&taken.cell);
            }
            if amount < taken.amount {
                taken.cell.ring();
            }
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        for taken in self.taken.drain(..) {
            let mut counts = taken.cell.lock();
            let slot = &mut counts.slots[taken.place];
            slot.meter.release(taken.shape, taken.mark, taken.amount);
            taken.correct_heard(slot, 0);
            self.limits.correct(&taken, counts, 0);
            taken.cell.ring();
        }
    }
}

impl std::fmt::Debug for Hold {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Hold({})", self.taken.len())
    }
}

impl Limits {
    /// Tells the shared server of a change that the lock still guards, so that changes have an order.
    fn correct(&self, taken: &Taken, mut counts: MutexGuard<'_, Counts>, actual: u64) {
        let Some(shared) = self.shared().filter(|_| taken.whole) else { return };
        counts.changes += 1;
        shared.correct(Correction {
            cell: taken.cell.clone(),
            place: taken.place,
            mark: taken.there.unwrap_or(taken.mark),
            reserved: taken.amount,
            actual,
            number: counts.changes,
        });
    }
}
