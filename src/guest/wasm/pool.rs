//! Instances at rest, ready for the next call.
//!
//! A pool a worker: nobody waits for another's lock. Never hands out an instance that broke or that grew fat.

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use wasmtime::Store;

use super::store::Held;

/// Calls after which an instance is thrown away: what a guest leaks, or keeps of its callers, ends with it.
const MAX_CALLS: u32 = 1000;

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

    pub fn take(&self) -> Option<Warm<B>> {
        self.shelf().lock().unwrap_or_else(PoisonError::into_inner).pop()
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
        &self.shelves[turn() % self.shelves.len()]
    }
}

/// This thread's number.
fn turn() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static MINE: Cell<Option<usize>> = const { Cell::new(None) });
    MINE.with(|mine| match mine.get() {
        Some(turn) => turn,
        None => {
            let turn = NEXT.fetch_add(1, Ordering::Relaxed);
            mine.set(Some(turn));
            turn
        }
    })
}
