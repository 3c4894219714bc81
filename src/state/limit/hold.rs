//! What an exchange has reserved, until it is settled or dropped.
//!
//! Dropping gives everything back, so an exchange that dies anywhere holds nothing.

use std::sync::Arc;

use super::cell::{Cell, Counts};
use super::meter::{Shape, Unit};
use super::rule::Rule;
use super::{Amounts, Limits};

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
        let same =
            |slot: &&super::cell::Slot| slot.unit == window.unit && slot.shape == window.shape && slot.share.is_empty();
        let Some(slot) = counts.slots.iter().find(same) else { continue };
        out.push(Standing {
            rule: rule.clone(),
            unit: window.unit,
            shape: window.shape,
            limit: window.limit,
            remaining: window.limit.saturating_sub(slot.meter.used(window.shape, now)),
            reset: slot.meter.reset(window.shape, window.limit, now),
        });
    }
}

/// Everything that one exchange, or one attempt of it, has reserved.
pub struct Hold {
    limits: Arc<Limits>,
    taken: Vec<Taken>,
    /// How each window stood just after.
    pub standing: Vec<Standing>,
}

impl Hold {
    pub(super) fn new(limits: Arc<Limits>, taken: Vec<Taken>, standing: Vec<Standing>) -> Self {
        Hold { limits, taken, standing }
    }

    /// Puts the truth in the place of the estimates. An unknown cost leaves the estimate standing: it is not zero.
    pub fn settle(mut self, actual: &Amounts, now: u64) {
        for taken in std::mem::take(&mut self.taken) {
            let mut counts = taken.cell.lock();
            let slot = &mut counts.slots[taken.place];
            slot.roll(now);
            if taken.unit == Unit::Concurrency {
                slot.meter.release(taken.shape, taken.mark, taken.amount);
                drop(counts);
                taken.cell.ring();
                continue;
            }
            let amount = match (taken.unit, actual.money) {
                (Unit::Money, None) => taken.amount,
                (unit, _) => actual.of(unit),
            };
            slot.meter.settle(taken.shape, taken.mark, taken.amount, amount);
            self.limits.watch_budget(&taken.rule, &taken.cell, &mut counts, taken.place, now);
            drop(counts);
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
            taken.cell.lock().slots[taken.place].meter.release(taken.shape, taken.mark, taken.amount);
            taken.cell.ring();
        }
    }
}

impl std::fmt::Debug for Hold {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Hold({})", self.taken.len())
    }
}
