//! Windows that no rule names: guests count in them by a key of their own.
//!
//! Plain functions over the same cells. A namespace keeps guests from each other and from the rules.

use std::sync::Arc;

use super::cell::Cell;
use super::meter::{Shape, Unit, Wait};
use super::{Limits, WHOLE};

/// What the names of cells that no rule has begin with; no rule's name holds a colon.
pub(super) const PREFIX: &str = "guest:";

/// Windows that one key may have. A guest that makes up ever new ones fills no memory but has its calls fail.
pub const MAX_WINDOWS: usize = 16;

/// The key has [`MAX_WINDOWS`] windows in use, and this is none of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crowded;

/// A window made up on the spot.
#[derive(Debug, Clone, Copy)]
pub struct Adhoc<'a> {
    /// Whose it is; inside the engine [`PREFIX`] stands before it.
    pub namespace: &'a str,
    pub key: &'a str,
    /// Not [`Shape::InFlight`], except for reservations that are dropped and never settled.
    pub shape: Shape,
    pub limit: u64,
}

/// How a window answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Given {
    pub allowed: bool,
    pub remaining: u64,
    /// When the amount will fit, where it does not.
    pub wait: Option<Wait>,
    /// Milliseconds until the window is whole again.
    pub reset: Option<u64>,
}

/// An amount that is held until it is settled. Dropping gives it back.
#[derive(Debug)]
pub struct Reservation {
    limits: Arc<Limits>,
    cell: Arc<Cell>,
    place: usize,
    shape: Shape,
    mark: u64,
    amount: u64,
    /// How the window stood just after.
    pub given: Given,
}

impl Limits {
    /// Counts an amount if it fits.
    ///
    /// # Errors
    /// [`Crowded`].
    pub fn take(self: &Arc<Self>, of: &Adhoc<'_>, amount: u64, now: u64) -> Result<Given, Crowded> {
        Ok(match self.hold(of, amount, now)? {
            Ok(held) => {
                let given = held.given;
                held.settle(amount, now);
                given
            }
            Err(given) => given,
        })
    }

    /// Reserves an amount if it fits; how the window stands, where it does not.
    ///
    /// # Errors
    /// [`Crowded`].
    pub fn hold(
        self: &Arc<Self>,
        of: &Adhoc<'_>,
        amount: u64,
        now: u64,
    ) -> Result<Result<Reservation, Given>, Crowded> {
        let (cell, place, mut given) = self.look(of, amount, now)?;
        if !given.allowed {
            return Ok(Err(given));
        }
        let mut counts = cell.lock();
        let meter = &mut counts.slots[place].meter;
        // Somebody may have come between the look and this.
        if !meter.fits(of.shape, of.limit, amount, now) {
            let wait = meter.wait(of.shape, of.limit, amount, now);
            return Ok(Err(Given { allowed: false, wait: Some(wait), ..given }));
        }
        let mark = meter.take(of.shape, amount);
        given.remaining = of.limit.saturating_sub(meter.used(of.shape, now));
        given.reset = meter.reset(of.shape, of.limit, now);
        drop(counts);
        Ok(Ok(Reservation { limits: self.clone(), cell, place, shape: of.shape, mark, amount, given }))
    }

    /// How a window stands for an amount, without counting it.
    ///
    /// # Errors
    /// [`Crowded`].
    pub fn peek(&self, of: &Adhoc<'_>, amount: u64, now: u64) -> Result<Given, Crowded> {
        Ok(self.look(of, amount, now)?.2)
    }

    fn look(&self, of: &Adhoc<'_>, amount: u64, now: u64) -> Result<(Arc<Cell>, usize, Given), Crowded> {
        let name: Arc<str> = Arc::from(format!("{PREFIX}{}", of.namespace));
        let cell = self.cells.get(&name, of.key, now);
        let mut counts = cell.lock();
        if counts.slots.len() >= MAX_WINDOWS && counts.slots.iter().all(|slot| slot.shape != of.shape) {
            // The map and this call have it, and nobody else: no reservation knows places in it.
            if Arc::strong_count(&cell) == 2 {
                counts.forget_empty(now);
            }
            if counts.slots.len() >= MAX_WINDOWS {
                return Err(Crowded);
            }
        }
        let place = counts.place(Unit::Requests, of.shape, &WHOLE, of.limit);
        let slot = &mut counts.slots[place];
        slot.roll(now);
        let allowed = slot.meter.fits(of.shape, of.limit, amount, now);
        let given = Given {
            allowed,
            remaining: of.limit.saturating_sub(slot.meter.used(of.shape, now)),
            wait: (!allowed).then(|| slot.meter.wait(of.shape, of.limit, amount, now)),
            reset: slot.meter.reset(of.shape, of.limit, now),
        };
        drop(counts);
        Ok((cell, place, given))
    }
}

impl Reservation {
    /// Puts the truth in its place.
    pub fn settle(mut self, actual: u64, now: u64) {
        let mut counts = self.cell.lock();
        let slot = &mut counts.slots[self.place];
        slot.roll(now);
        slot.meter.settle(self.shape, self.mark, self.amount, actual);
        drop(counts);
        if self.shape.lasts() {
            self.limits.changed_in(&self.cell);
        }
        // Nothing is left for the drop to give back.
        self.amount = 0;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.amount > 0 {
            self.cell.lock().slots[self.place].meter.release(self.shape, self.mark, self.amount);
        }
    }
}
