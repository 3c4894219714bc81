//! Instances at rest, ready for the next call.
//!
//! A pool a worker: nobody waits for another's lock. Never hands out an instance that broke or that grew fat.

use std::sync::{Mutex, PoisonError};

use wasmtime::Store;

use super::store::Held;
use crate::guest::seat;

/// Calls after which an instance is thrown away: what a guest leaks, or keeps of its callers, ends with it.
pub const MAX_CALLS: u32 = 1000;

/// Instances at rest for each worker.
const MAX_RESTING: usize = 32;

/// An instance and what it is called through.
pub struct Warm<B> {
    pub store: Store<Held>,
    pub bindings: B,
    calls: u32,
}

impl<B> Warm<B> {
    pub fn new(store: Store<Held>, bindings: B) -> Self {
        Warm { store, bindings, calls: 0 }
    }
}

/// The instances at rest of one plugin.
pub struct Pool<B> {
    shelves: Box<[Mutex<Vec<Warm<B>>>]>,
    /// Memory above which an instance is not kept, in bytes.
    fat: usize,
}

impl<B> Pool<B> {
    /// `memory` is the bound of one instance.
    pub fn new(memory: usize) -> Self {
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        Pool { shelves: (0..workers).map(|_| Mutex::default()).collect(), fat: memory / 2 }
    }

    /// Workers that have instances of their own.
    pub fn workers(&self) -> usize {
        self.shelves.len()
    }

    /// Puts an instance at a worker's side before its first call.
    pub fn place(&self, worker: usize, warm: Warm<B>) {
        self.shelves[worker % self.shelves.len()].lock().unwrap_or_else(PoisonError::into_inner).push(warm);
    }

    pub fn take(&self) -> Option<Warm<B>> {
        self.shelf().lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    /// Throws away what is at rest.
    pub fn clear(&self) {
        for shelf in &self.shelves {
            shelf.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
    }

    /// Takes an instance back after a call that went well.
    pub fn put(&self, mut warm: Warm<B>) {
        warm.calls += 1;
        if warm.calls >= MAX_CALLS || warm.store.data().memory > self.fat {
            return;
        }
        let mut shelf = self.shelf().lock().unwrap_or_else(PoisonError::into_inner);
        if shelf.len() < MAX_RESTING {
            shelf.push(warm);
        }
    }

    fn shelf(&self) -> &Mutex<Vec<Warm<B>>> {
        &self.shelves[seat() % self.shelves.len()]
    }
}
