//! Budgets of several processes: what all of them have settled, so that thresholds go by what is spent and not by what
//! is only reserved.
//!
//! Each process states its part when it has changed and hears the sum. Beside the counts that admit, which know of no
//! such difference; no exchange waits for it.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};

use ::redis::from_redis_value;

use super::super::Limits;
use super::super::cell::Cell;
use super::super::meter::Shape;
use super::super::rule::Rule;
use super::{BATCH, Shared, span};
use crate::state::redis::Away;

/// A budget of which something was settled, or that refused.
#[derive(Debug, Clone)]
pub(in super::super) struct Spent {
    pub rule: Arc<Rule>,
    pub cell: Arc<Cell>,
    pub place: usize,
    /// The most that it had no room for; 0 where it refused nothing.
    pub refused: u64,
}

/// Such windows, by the address of their cell and their place in it.
pub(super) type Changed = HashMap<(usize, usize), Spent>;

impl Spent {
    fn join(self, changed: &mut Changed) {
        let key = (Arc::as_ptr(&self.cell) as usize, self.place);
        let refused = changed.get(&key).map_or(0, |known| known.refused);
        changed.insert(key, Spent { refused: self.refused.max(refused), ..self });
    }
}

/// What of budgets is to be stated, and what was.
#[derive(Debug, Default)]
pub(super) struct Budgets {
    due: Changed,
    /// Stated in their present windows; to be stated anew where the server may have lost them.
    stated: Changed,
}

impl Budgets {
    /// All that was stated is to be stated again.
    pub fn fall_behind(&mut self) {
        self.stated.drain().for_each(|(_, spent)| spent.join(&mut self.due));
    }

    /// Forgets windows of which nothing is left, so that their cells may be forgotten, too.
    pub fn forget_idle(&mut self, now: u64) {
        self.stated.retain(|_, spent| {
            let slot = &mut spent.cell.lock().slots[spent.place];
            slot.roll(now);
            !slot.meter.is_empty()
        });
    }

    /// States what has changed, and has it told which thresholds were reached. What does not arrive stays due.
    pub async fn state(&mut self, shared: &Shared, limits: &Limits, now: u64) {
        let changed = std::mem::take(&mut *shared.spent.lock().unwrap_or_else(PoisonError::into_inner));
        changed.into_values().for_each(|spent| spent.join(&mut self.due));
        // What somebody has reset must not be told of again.
        if self.due.is_empty() || shared.listen(limits).await.is_err() {
            return;
        }
        while !self.due.is_empty() && shared.link.is_up() {
            let batch: Vec<_> = self.due.iter().take(BATCH).map(|(key, spent)| (*key, spent.clone())).collect();
            let Ok(sums) = shared.sums(batch.iter().map(|(_, spent)| spent), now).await else { return };
            for ((key, spent), (start, sum)) in batch.into_iter().zip(sums) {
                limits.watch_spent(&spent, sum, start);
                self.due.remove(&key);
                self.stated.insert(key, Spent { refused: 0, ..spent });
            }
        }
    }
}

impl Shared {
    /// Notes that something of a budget was settled or refused. The background side looks at it soon; a refusal wakes it.
    pub(in super::super) fn spent(&self, spent: Spent) {
        let refuses = spent.refused > 0;
        spent.join(&mut self.spent.lock().unwrap_or_else(PoisonError::into_inner));
        if refuses {
            self.lost.notify_one();
        }
    }

    /// States what this process has settled of each window: their begins, and what all processes have.
    async fn sums(&self, windows: impl Iterator<Item = &Spent>, now: u64) -> Result<Vec<(u64, u64)>, Away> {
        let mut call = self.spending.prepare_invoke();
        call.arg(&*self.node);
        let mut starts = Vec::new();
        for spent in windows {
            let mut counts = spent.cell.lock();
            let slot = &mut counts.slots[spent.place];
            slot.roll(now);
            // A bucket has no window that begins for all at once.
            let start = if matches!(slot.shape, Shape::Bucket(_)) { 0 } else { slot.meter.start };
            let (_, _, _, ttl) = span(slot.shape, now);
            call.key(format!(
                "{}{}",
                self.spent_of(&spent.cell.rule),
                super::window(&spent.cell.partition, slot.unit, slot.shape)
            ));
            call.arg(start).arg(ttl).arg(slot.meter.settled(slot.shape, now));
            starts.push(start);
        }
        let sums: Option<Vec<String>> = from_redis_value(self.link.script(&call).await?).ok();
        let sums = sums.and_then(|sums| sums.iter().map(|sum| sum.parse().ok()).collect::<Option<Vec<u64>>>());
        let sums = sums.filter(|sums| sums.len() == starts.len());
        let sums = sums.ok_or_else(|| Away::Failed("the script answered something else".to_owned()))?;
        Ok(starts.into_iter().zip(sums).collect())
    }

    /// How the names of the hashes begin that hold what was settled of a rule.
    pub(super) fn spent_of(&self, rule: &str) -> String {
        format!("{{{}}}:spent:{rule}:", self.link.prefix)
    }
}
