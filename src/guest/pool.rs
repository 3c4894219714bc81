//! Guests at rest, ready for the next call: instances of plugins, machines of scripts.
//!
//! A pool a worker: nobody waits for another's lock. Never hands out one that broke or that grew fat.

use std::sync::{Mutex, PoisonError};

use super::seat;

/// Calls after which a guest is thrown away: what it leaks, or keeps of its callers, ends with it.
pub const MAX_CALLS: u32 = 1000;

/// Guests at rest for each worker.
const MAX_RESTING: usize = 32;

/// What can rest between two calls.
pub trait Rests {
    /// Counts a call; gives the number so far.
    fn count(&mut self) -> u32;

    /// Bytes that it has now.
    fn memory(&self) -> usize;
}

/// The instances or machines at rest of one guest.
pub struct Pool<T> {
    shelves: Box<[Mutex<Vec<T>>]>,
    /// Memory above which one is not kept, in bytes.
    fat: usize,
}

impl<T: Rests> Pool<T> {
    /// `memory` is the bound of one guest; one that has more than half of it is not kept.
    pub fn new(memory: usize) -> Self {
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        Pool { shelves: (0..workers).map(|_| Mutex::default()).collect(), fat: memory / 2 }
    }

    /// Workers that have a shelf of their own.
    pub fn workers(&self) -> usize {
        self.shelves.len()
    }

    /// Puts one at a worker's side before its first call.
    pub fn place(&self, worker: usize, warm: T) {
        self.shelves[worker % self.shelves.len()].lock().unwrap_or_else(PoisonError::into_inner).push(warm);
    }

    pub fn take(&self) -> Option<T> {
        self.shelf().lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    /// Throws away what is at rest.
    pub fn clear(&self) {
        for shelf in &self.shelves {
            shelf.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
    }

    /// Takes one back after a call that went well.
    pub fn put(&self, mut warm: T) {
        if warm.count() >= MAX_CALLS || warm.memory() > self.fat {
            return;
        }
        let mut shelf = self.shelf().lock().unwrap_or_else(PoisonError::into_inner);
        if shelf.len() < MAX_RESTING {
            shelf.push(warm);
        }
    }

    fn shelf(&self) -> &Mutex<Vec<T>> {
        &self.shelves[seat() % self.shelves.len()]
    }
}
