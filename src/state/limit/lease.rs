//! Parts of busy limits that this process has taken from the shared server in advance, to give out without asking.
//!
//! The server counts what is leased as used, so that all processes together still admit no more than the limit; what they
//! may do is refuse too early, by what others have leased and not given out. A lease goes back when it has been idle for
//! [`IDLE_MS`], when its window is over, and when the process ends; one that is lost with its process counts as used
//! until the window ends. Buckets and what is under way are never leased: there, what is held back is not evenly worth.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use smallvec::SmallVec;

use super::cell::{Cell, Counts, Slot};
use super::fit;
use super::hold::{self, Taken};
use super::meter::{Meter, Shape};
use super::rule::{Rule, Window};
use super::shared::{Correction, Shared};
use super::{Charge, Estimate, Hold, Limits};

/// A count is busy when it is asked for again within this time; only then is a part of it leased.
pub const BUSY_MS: u64 = 100;

/// How long a lease is kept from which nothing is taken.
pub const IDLE_MS: u64 = 1000;

/// What is leased of one window.
#[derive(Debug, Clone, Copy)]
pub struct Lease {
    /// Begin of the window, by the server's clock.
    pub start: u64,
    pub left: u64,
    /// Used of the whole as the server last said, with all that is leased here.
    pub used: u64,
    /// When something was last taken from it or put to it, by the server's clock.
    pub touched: u64,
}

impl Rule {
    /// Whether parts of it may be leased at all.
    fn leases(&self) -> bool {
        self.lease > 0 && self.hard && self.shares.is_empty()
    }

    /// The part of a window that a process has leased at most.
    fn quantum(&self, window: &Window) -> u64 {
        if self.leases() && leasable(window.shape) {
            (u128::from(window.limit) * u128::from(self.lease) / 1000) as u64
        } else {
            0
        }
    }
}

impl Charge<'_> {
    /// What to lease of a window besides what is leased already.
    pub(super) fn wanted(&self, window: &Window) -> u64 {
        let left = whole(&mut self.cell.lock(), window).map_or(0, |slot| slot.leased());
        self.rule.quantum(window).saturating_sub(left)
    }
}

fn leasable(shape: Shape) -> bool {
    !matches!(shape, Shape::Bucket(_) | Shape::InFlight)
}

impl Slot {
    /// What is leased of the window that the slot is in.
    pub(super) fn leased(&self) -> u64 {
        self.lease.map_or(0, |lease| if lease.start == self.meter.start { lease.left } else { 0 })
    }
}

impl Limits {
    /// Takes the amounts from what is leased; None where that is not enough for all of them. `now` is the server's time.
    pub(super) fn reserve_leased(
        self: &Arc<Self>,
        charges: &[Charge<'_>],
        estimate: &Estimate,
        now: u64,
    ) -> Option<Hold> {
        if !charges.iter().all(|charge| charge.rule.leases()) {
            return None;
        }
        let mut locked = fit::lock(charges);
        let suffices = locked.iter_mut().all(|(at, counts)| {
            let mut windows = charges[*at].rule.windows.iter();
            windows.all(|window| {
                whole(counts, window).is_some_and(|slot| {
                    slot.roll(now);
                    leasable(window.shape) && slot.leased() >= estimate.most.of(window.unit)
                })
            })
        });
        if !suffices {
            return None;
        }
        let mut taken = Vec::with_capacity(charges.len() * 2);
        let mut standing = Vec::with_capacity(charges.len() * 2);
        for (at, counts) in &mut locked {
            let charge = &charges[*at];
            let amounts: SmallVec<[u64; 4]> =
                charge.rule.windows.iter().map(|window| estimate.most.of(window.unit)).collect();
            fit::take(counts, charge, &amounts, &mut taken);
            for window in &charge.rule.windows {
                let Some(slot) = whole(counts, window) else { continue };
                let Some(lease) = &mut slot.lease else { continue };
                lease.left -= estimate.most.of(window.unit);
                lease.touched = now;
                let used = lease.used.saturating_sub(lease.left);
                let meter = Meter { start: lease.start, cur: u128::from(used), ..Meter::default() };
                standing.push(hold::standing(charge.rule, window, &meter, used, now));
            }
        }
        drop(locked);
        for taken in &mut taken {
            // The marks are the server's: a lease is of the window that it was taken in.
            taken.there = Some(taken.mark);
        }
        Some(Hold::new(self.clone(), taken, standing))
    }

    /// Puts what the server has granted in advance to the lease of a window. `used` is what it counts with that.
    pub(super) fn granted(&self, taken: &Taken, start: u64, granted: u64, used: u64, now: u64) {
        let Some(shared) = self.shared() else { return };
        let mut counts = taken.cell.lock();
        let old = counts.slots[taken.place].lease.filter(|lease| lease.start != start);
        if let Some(old) = old {
            give_back(shared, &taken.cell, &mut counts, taken.place, old);
        }
        let slot = &mut counts.slots[taken.place];
        match &mut slot.lease {
            Some(lease) => {
                lease.left += granted;
                lease.used = lease.used.max(used);
                lease.touched = now;
            }
            None => slot.lease = Some(Lease { start, left: granted, used, touched: now }),
        }
        drop(counts);
        if !taken.cell.leased.swap(true, Ordering::AcqRel) {
            shared.leased.lock().unwrap_or_else(PoisonError::into_inner).push(taken.cell.clone());
        }
    }
}

impl Shared {
    /// Whether a count was asked for a moment ago, too. Notes that it is now.
    pub(super) fn is_busy(cell: &Cell, now: u64) -> bool {
        now.saturating_sub(cell.asked_at.swap(now, Ordering::Relaxed)) < BUSY_MS
    }

    /// Whether anything is leased.
    pub(super) fn leases(&self) -> bool {
        !self.leased.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Gives back what is idle or over; everything when `all`. `now` is the server's time.
    pub(super) fn give_back_leases(&self, now: u64, all: bool) {
        let cells = std::mem::take(&mut *self.leased.lock().unwrap_or_else(PoisonError::into_inner));
        let mut kept = Vec::new();
        for cell in cells {
            // Before looking: what is granted from here on lists it again.
            cell.leased.store(false, Ordering::Release);
            let mut counts = cell.lock();
            let mut holds = false;
            for place in 0..counts.slots.len() {
                let slot = &mut counts.slots[place];
                let Some(lease) = slot.lease else { continue };
                slot.roll(now);
                if all || slot.meter.start != lease.start || now.saturating_sub(lease.touched) >= IDLE_MS {
                    give_back(self, &cell, &mut counts, place, lease);
                } else {
                    holds = true;
                }
            }
            drop(counts);
            if holds && !cell.leased.swap(true, Ordering::AcqRel) {
                kept.push(cell);
            }
        }
        self.leased.lock().unwrap_or_else(PoisonError::into_inner).extend(kept);
    }
}

/// The lease ends: what is left of it is no longer this process's.
fn give_back(shared: &Shared, cell: &Arc<Cell>, counts: &mut Counts, place: usize, lease: Lease) {
    let slot = &mut counts.slots[place];
    slot.lease = None;
    if lease.left == 0 {
        return;
    }
    slot.correct_heard(lease.start, lease.left, 0);
    counts.changes += 1;
    let number = counts.changes;
    let (cell, mark, reserved) = (cell.clone(), lease.start, lease.left);
    shared.correct(Correction { cell, place, mark, reserved, actual: 0, number });
}

/// The slot of a window's whole.
fn whole<'a>(counts: &'a mut Counts, window: &Window) -> Option<&'a mut Slot> {
    let same = |slot: &&mut Slot| slot.unit == window.unit && slot.shape == window.shape && slot.share.is_empty();
    counts.slots.iter_mut().find(same)
}
