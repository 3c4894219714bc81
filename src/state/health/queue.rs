//! Attempts that wait for a place: bounded, the most urgent first, each until its own deadline.
//!
//! Touched only when every place is taken. Never grants a place that is not there: [`Record`] takes it on the waiter's
//! behalf.

use std::cmp::Reverse;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

use super::{Flight, Millis, Record};

/// Those who wait, in any order; few enough to look through.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// Length of `waiting`, to be read without its lock.
    len: AtomicU32,
    // Held for a look through the list, never over an await; only taken when somebody waits.
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    list: Vec<Waiter>,
}

#[derive(Debug)]
struct Waiter {
    record: Arc<Record>,
    /// Its request has no other target.
    alone: bool,
    /// Higher goes first; among equals who came first.
    rank: (u8, Reverse<u64>),
    grant: oneshot::Sender<Flight>,
}

impl Queue {
    pub fn len(&self) -> u32 {
        self.len.load(Ordering::Relaxed)
    }

    /// Stands in line, unless the line is `size` long already.
    pub fn join(&self, record: Arc<Record>, alone: bool, priority: u8, size: u32) -> Option<oneshot::Receiver<Flight>> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        // Those who gave up make room.
        waiting.list.retain(|waiter| !waiter.grant.is_closed());
        if waiting.list.len() >= size as usize {
            self.len.store(waiting.list.len() as u32, Ordering::Relaxed);
            return None;
        }
        let (grant, granted) = oneshot::channel();
        let rank = (priority, Reverse(waiting.next));
        waiting.next += 1;
        waiting.list.push(Waiter { record, alone, rank, grant });
        self.len.store(waiting.list.len() as u32, Ordering::Relaxed);
        Some(granted)
    }

    /// Gives free places to those who wait, the most urgent first. A place whose waiter has just left goes on to the next.
    pub fn serve(&self, now: Millis) {
        while self.len() > 0
            && let Some((grant, flight)) = self.next(now)
        {
            // Outside the lock: a flight that nobody takes lands, and landing serves the queue.
            drop(grant.send(flight));
        }
    }

    fn next(&self, now: Millis) -> Option<(oneshot::Sender<Flight>, Flight)> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.list.retain(|waiter| !waiter.grant.is_closed());
        let mut order: Vec<usize> = (0..waiting.list.len()).collect();
        order.sort_by_key(|at| Reverse(waiting.list[*at].rank));
        // Places differ by target: who is first in line may wait for another one than is free.
        let take = |waiter: &Waiter| waiter.record.take(now, waiter.alone).ok();
        let found = order.into_iter().find_map(|at| Some((at, take(&waiting.list[at])?)));
        let served = found.map(|(at, flight)| (waiting.list.swap_remove(at).grant, flight));
        self.len.store(waiting.list.len() as u32, Ordering::Relaxed);
        served
    }
}
