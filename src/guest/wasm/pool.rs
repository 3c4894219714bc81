//! Instances of plugins that can rest between two calls.

use wasmtime::Store;

use super::store::Held;
use crate::guest::pool::{self, Rests};

/// The instances at rest of one plugin.
pub type Pool<B> = pool::Pool<Warm<B>>;

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

impl<B> Rests for Warm<B> {
    fn count(&mut self) -> u32 {
        self.calls += 1;
        self.calls
    }

    fn memory(&self) -> usize {
        self.store.data().memory
    }
}
