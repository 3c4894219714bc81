//! Budgets that tell: which thresholds were reached, each once a window. Of a budget that was raised they are others.
//!
//! Looks at counts as they change and never changes them. Whom it tells, and how often that is tried, is `alert`'s.

use std::sync::Arc;

use super::cell::{Cell, Counts, Slot, Threshold};
use super::meter::{Shape, Unit};
use super::rule::{Budget, Rule, Window};
use super::shared::Spent;
use super::{Limits, Refusal, WHOLE};

/// What is told when a budget refuses for want of money: all of it is spent, as far as anybody can spend it.
const ALL: u64 = 100;

/// A part of a budget was spent.
#[derive(Debug, Clone)]
pub struct Alert {
    pub rule: Arc<Rule>,
    pub partition: String,
    /// Hundredths of the limit.
    pub percent: u64,
    pub limit: u64,
    pub used: u64,
    pub shape: Shape,
    /// Begin of the window, Unix milliseconds.
    pub window_start: u64,
    /// It refuses: what is left is too little for what was asked.
    pub refuses: bool,
}

pub(super) type Tell = Box<dyn Fn(Alert) + Send + Sync>;

/// The thresholds that were reached, and what is told of them.
struct Reached<'a> {
    rule: &'a Arc<Rule>,
    cell: &'a Cell,
    limit: u64,
    used: u64,
    window_start: u64,
    refuses: bool,
}

impl Reached<'_> {
    /// Notes the highest threshold that was not told of yet. None when there is none.
    fn note(&self, budget: &Budget, slot: &mut Slot) -> Option<Alert> {
        if slot.told_start != self.window_start {
            (slot.told, slot.told_start, slot.owed) = (Threshold::default(), self.window_start, None);
        }
        let limit = self.limit;
        let reached = budget.thresholds.iter().copied().filter(|percent| {
            let spent = u128::from(self.used) * 100 >= u128::from(limit) * u128::from(*percent);
            !slot.told.tells(Threshold { percent: *percent, limit }) && (spent || self.refuses && *percent == ALL)
        });
        let percent = reached.max()?;
        slot.owed = slot.owed.or(Some(slot.told));
        slot.told = Threshold { percent, limit };
        Some(Alert {
            rule: self.rule.clone(),
            partition: self.cell.partition.to_string(),
            percent,
            limit: self.limit,
            used: self.used,
            shape: slot.shape,
            window_start: self.window_start,
            refuses: self.refuses,
        })
    }
}

impl Limits {
    /// Windows of which something is owed: see [`Limits::told`].
    pub fn owed(&self) -> usize {
        let mut owed = 0;
        self.cells.each(|cell| owed += cell.lock().slots.iter().filter(|slot| slot.owed.is_some()).count());
        owed
    }

    /// Somebody was told of it, or it was given up. Until then it is owed: a process that is started again tells it.
    pub fn told(&self, alert: &Alert) {
        let Some(cell) = self.cells.find(&alert.rule.name, &alert.partition) else { return };
        let mut counts = cell.lock();
        let same = |slot: &&mut Slot| slot.unit == Unit::Money && slot.shape == alert.shape && slot.share.is_empty();
        let Some(slot) = counts.slots.iter_mut().find(same) else { return };
        if slot.told_start != alert.window_start || slot.owed.is_none() {
            return;
        }
        let told = Threshold { percent: alert.percent, limit: alert.limit };
        // A later one may still be owed.
        slot.owed = Some(told).filter(|told| *told != slot.told);
        drop(counts);
        if alert.shape.lasts() {
            self.changed_in(&cell);
        }
    }

    /// Tells of the thresholds of a budget that were reached by what was settled. Of one that is shared the background side
    /// does, which hears what all processes have settled.
    pub(super) fn watch_budget(&self, rule: &Arc<Rule>, cell: &Arc<Cell>, counts: &mut Counts, place: usize, now: u64) {
        let (Some(budget), Some(tell)) = (&rule.budget, self.tell.get()) else { return };
        let slot = &mut counts.slots[place];
        if !slot.share.is_empty() || slot.limit == 0 {
            return;
        }
        if let Some(shared) = self.shared() {
            return shared.spent(Spent { rule: rule.clone(), cell: cell.clone(), place, refused: 0 });
        }
        let (used, window_start) = (slot.meter.settled(slot.shape, now), begin(slot));
        let reached = Reached { rule, cell, limit: slot.limit, used, window_start, refuses: false };
        if let Some(alert) = reached.note(budget, slot) {
            tell(alert);
        }
    }

    /// The same for a budget that is shared: `used` was settled by all processes in the window that begins then.
    pub(super) fn watch_spent(&self, spent: &Spent, used: u64, window_start: u64) {
        let Spent { rule, cell, place, refused } = spent;
        let (Some(budget), Some(tell)) = (&rule.budget, self.tell.get()) else { return };
        let slot = &mut cell.lock().slots[*place];
        // Not the slot's own limit: that may be this process's part of it, from when the server was away.
        let same = |window: &&Window| window.unit == slot.unit && window.shape == slot.shape;
        let Some(Window { limit, .. }) = rule.windows.iter().find(same) else { return };
        let refuses = *refused > 0 && used.saturating_add(*refused) > *limit;
        let reached = Reached { rule, cell, limit: *limit, used, window_start, refuses };
        if let Some(alert) = reached.note(budget, slot) {
            tell(alert);
        }
    }

    /// Tells that a hard budget refuses for want of money. An ask that is larger than all of it says nothing of what is
    /// spent, and what is only reserved may come back.
    pub(super) fn watch_refusal(&self, refusal: &Refusal, now: u64) {
        let Refusal { rule, cell, unit: Unit::Money, amount, limit, .. } = refusal else { return };
        let (Some(budget), Some(tell), false) = (&rule.budget, self.tell.get(), refusal.away) else { return };
        if amount > limit {
            return;
        }
        let mut counts = cell.lock();
        let place = counts.place(Unit::Money, refusal.shape, &WHOLE, *limit);
        let slot = &mut counts.slots[place];
        slot.roll(now);
        if let Some(shared) = self.shared() {
            let all = Threshold { percent: ALL, limit: *limit };
            let told = slot.told.tells(all) && slot.told_start == begin(slot);
            if !told && budget.thresholds.contains(&ALL) {
                shared.spent(Spent { rule: rule.clone(), cell: cell.clone(), place, refused: *amount });
            }
            return;
        }
        let used = slot.meter.settled(slot.shape, now);
        if used.saturating_add(*amount) <= *limit {
            return;
        }
        let window_start = begin(slot);
        let reached = Reached { rule, cell, limit: *limit, used, window_start, refuses: true };
        if let Some(alert) = reached.note(budget, slot) {
            tell(alert);
        }
    }
}

/// Begin of the window that is told of; a bucket has none.
fn begin(slot: &Slot) -> u64 {
    if matches!(slot.shape, Shape::Bucket(_)) { slot.told_start } else { slot.meter.start }
}
