//! Limits of a guest's own, by keys that it makes up: taken at once, or reserved and settled when the truth is known.
//!
//! A reservation never outlives its exchange: what nobody has settled is settled when that ends, once. Counts stay in
//! this process, and with a store they outlive it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Cx, HostError, MAX_WHOLE, keep};
use crate::state::limit::calendar::{Calendar, Period};
use crate::state::limit::meter::{Shape, Wait};
use crate::state::limit::{Adhoc, Crowded, Given, MAX_WINDOWS, Reservation};

/// Longest key, in bytes: what is counted by a whole prompt is a mistake.
const MAX_KEY_BYTES: usize = 256;
/// Longest window, in seconds: a year. Longer ones are for `ever`.
const MAX_WINDOW_S: f64 = 366.0 * 24.0 * 3600.0;
/// Reservations that all guests together may hold in one exchange.
const MAX_HELD: usize = 64;

/// How much fits into which time, as a guest writes it.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Written<'a> {
    pub limit: f64,
    /// The window's length, for windows that are no calendar's.
    pub per_s: Option<f64>,
    /// `minute`, `hour`, `day`, `week`, `month`, `year` (UTC), `ever`, or `at_once` for what is under way.
    pub per: Option<&'a str>,
    /// How a window of `per_s` moves: `sliding`, `fixed`, `bucket`.
    pub kind: Option<&'a str>,
}

/// A window as it is counted.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    limit: u64,
    shape: Shape,
}

impl Window {
    /// # Errors
    /// What is wrong with it and what to write.
    pub fn new(written: Written<'_>) -> Result<Self, HostError> {
        let limit = amount("limit", written.limit)?;
        let shape = match (written.per_s, written.per, written.kind) {
            (Some(seconds), None, kind) => {
                if !(0.001..=MAX_WINDOW_S).contains(&seconds) {
                    return Err(HostError(format!("per_s is from 0.001 to {MAX_WINDOW_S}, not {seconds}")));
                }
                let length = (seconds * 1000.0).round() as u64;
                match kind {
                    None | Some("sliding") => Shape::Sliding(length),
                    Some("fixed") => Shape::Fixed(length),
                    Some("bucket") => Shape::Bucket(length),
                    Some(other) => {
                        return Err(HostError(format!("kind `{other}`: write \"sliding\", \"fixed\" or \"bucket\"")));
                    }
                }
            }
            (None, Some("ever"), None) => Shape::Total,
            (None, Some("at_once"), None) => Shape::InFlight,
            (None, Some(word), None) => {
                let period = Period::ALL.into_iter().find(|period| period.as_str() == word).ok_or_else(|| {
                    let names: Vec<&str> = Period::ALL.iter().map(|period| period.as_str()).collect();
                    HostError(format!("per `{word}`: write one of {}, ever, at_once", names.join(", ")))
                })?;
                Shape::Calendar(Calendar { period, offset: 0 })
            }
            (None, Some(_), Some(_)) => return Err(HostError::new("kind is for windows of `per_s`")),
            (None, None, _) => return Err(HostError::new("the window needs `per_s` (seconds) or `per` (a word)")),
            (Some(_), Some(_), _) => return Err(HostError::new("the window has both `per_s` and `per`; write one")),
        };
        Ok(Window { limit, shape })
    }

    fn of<'a>(&self, namespace: &'a str, key: &'a str) -> Adhoc<'a> {
        Adhoc { namespace, key, shape: self.shape, limit: self.limit }
    }
}

/// An amount that a guest gives under this name. Nothing is rounded: of many small ones that would be a large sum.
///
/// # Errors
/// It is no whole number, or none that can be counted.
pub fn amount(name: &str, number: f64) -> Result<u64, HostError> {
    if !(0.0..=MAX_WHOLE).contains(&number) || number.fract() != 0.0 {
        let text = format!(
            "`{name}` is {number}, which is no whole number from 0 to 2^53; count in smaller units, such as millionths of a dollar"
        );
        return Err(HostError(text));
    }
    Ok(number as u64)
}

/// What is counted: a key in a namespace, the guest's own when it names none.
#[derive(Debug, Clone, Copy)]
pub struct Count<'a> {
    pub key: &'a str,
    pub window: Window,
    pub amount: u64,
    pub space: Option<&'a str>,
}

impl Count<'_> {
    fn space<'a>(&'a self, cx: &'a Cx) -> Result<&'a str, HostError> {
        if self.key.is_empty() || self.key.len() > MAX_KEY_BYTES {
            return Err(HostError(format!("the key has {} bytes; it takes 1 to {MAX_KEY_BYTES}", self.key.len())));
        }
        keep::granted(cx, self.space)
    }

    fn refused(&self, Crowded: Crowded) -> HostError {
        HostError(format!(
            "`{}` is counted in {MAX_WINDOWS} windows already; count others by keys of their own",
            self.key
        ))
    }
}

/// Counts an amount if it fits.
///
/// # Errors
/// The namespace is not granted, the window counts what is under way, or its key has too many.
pub fn take(cx: &Cx, count: &Count<'_>) -> Result<Given, HostError> {
    if count.window.shape == Shape::InFlight {
        return Err(HostError::new("a window `at_once` counts what is under way; use gw.limit.reserve"));
    }
    let (space, world) = (count.space(cx)?, cx.world()?);
    let taken = world.state().limits.take(&count.window.of(space, count.key), count.amount, world.unix_ms());
    taken.map_err(|crowded| count.refused(crowded))
}

/// How a window stands for an amount, without counting it.
///
/// # Errors
/// The namespace is not granted, or the key has too many windows.
pub fn peek(cx: &Cx, count: &Count<'_>) -> Result<Given, HostError> {
    let (space, world) = (count.space(cx)?, cx.world()?);
    let seen = world.state().limits.peek(&count.window.of(space, count.key), count.amount, world.unix_ms());
    seen.map_err(|crowded| count.refused(crowded))
}

/// Reserves an amount if it fits. Gives the number to settle it by, or none.
///
/// # Errors
/// The namespace is not granted, the exchange holds too many, or the key has too many windows.
pub fn reserve(cx: &Cx, count: &Count<'_>) -> Result<(Option<u32>, Given), HostError> {
    let (space, world) = (count.space(cx)?, cx.world()?);
    let held = world.state().limits.hold(&count.window.of(space, count.key), count.amount, world.unix_ms());
    match held.map_err(|crowded| count.refused(crowded))? {
        Ok(reservation) => {
            let given = reservation.given;
            let under_way = count.window.shape == Shape::InFlight;
            let held = One { number: 0, guest: cx.guest.name.clone(), amount: count.amount, under_way, reservation };
            Ok((Some(cx.visit.held.add(held)?), given))
        }
        Err(given) => Ok((None, given)),
    }
}

/// Puts the truth in the place of a reservation; what was under way has ended. False when nothing is held by that number.
///
/// # Errors
/// There is no gateway around the call.
pub fn settle(cx: &Cx, number: u32, actual: u64) -> Result<bool, HostError> {
    let now = cx.world()?.unix_ms();
    let held = cx.visit.held.remove(&cx.guest.name, number);
    Ok(held.map(|held| held.end(actual, now)).is_some())
}

/// What the guests of one exchange have reserved and not settled yet. Dropping it gives everything back.
#[derive(Debug, Default)]
pub struct Held(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    last: u32,
    list: Vec<One>,
}

#[derive(Debug)]
struct One {
    number: u32,
    guest: Arc<str>,
    amount: u64,
    /// It ends with the exchange, whatever became of that.
    under_way: bool,
    reservation: Reservation,
}

impl One {
    fn end(self, actual: u64, now: u64) {
        // Dropped, it is given back: what has ended is no longer under way.
        if !self.under_way {
            self.reservation.settle(actual, now);
        }
    }
}

impl Held {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, mut one: One) -> Result<u32, HostError> {
        let mut inner = self.lock();
        if inner.list.len() >= MAX_HELD {
            return Err(HostError(format!("this exchange holds {MAX_HELD} reservations; settle some")));
        }
        inner.last += 1;
        one.number = inner.last;
        inner.list.push(one);
        Ok(inner.last)
    }

    /// Another guest's reservation is not found.
    fn remove(&self, guest: &str, number: u32) -> Option<One> {
        let mut inner = self.lock();
        let at = inner.list.iter().position(|one| one.number == number && &*one.guest == guest)?;
        Some(inner.list.swap_remove(at))
    }

    /// The exchange has ended: what is left is charged as it was reserved where anything was used, and given back where
    /// nothing was.
    pub fn end(&self, used: bool, now: impl FnOnce() -> u64) {
        let left = std::mem::take(&mut self.lock().list);
        if left.is_empty() {
            return;
        }
        let now = now();
        for one in left {
            let amount = if used { one.amount } else { 0 };
            one.end(amount, now);
        }
    }
}

/// Milliseconds until the amount fits, where waiting helps.
pub fn retry_after_ms(given: &Given) -> Option<u64> {
    match given.wait {
        Some(Wait::Millis(millis)) => Some(millis),
        Some(Wait::Release | Wait::Never) | None => None,
    }
}
