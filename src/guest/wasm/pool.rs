//! Instances of plugins that can rest between two calls.

use std::sync::OnceLock;
use std::sync::mpsc::{SyncSender, sync_channel};

use wasmtime::Store;

use super::store::Held;
use crate::guest::pool::{self, Rests};

/// Memory that a worker does not clear itself, in bytes: clearing 16 MiB takes the kernel two milliseconds.
const LARGE: usize = 1 << 20;

/// Large instances that wait to be cleared, at most; what comes more is cleared where it ends, so that nobody can end them
/// faster than their memory comes back.
const WAITING: usize = 4;

/// How much that thread stands behind others: they come first, and it has a tenth of a core that is busy.
#[cfg(target_os = "linux")]
const BEHIND: i32 = 10;

/// The way to the thread that clears them; None where there is none.
static CLEARED: OnceLock<Option<SyncSender<Store<Held>>>> = OnceLock::new();

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

impl<B> Drop for Warm<B> {
    fn drop(&mut self) {
        if self.store.data().memory < LARGE {
            return;
        }
        // What its last call held on to ends here and now.
        self.store.data_mut().call = None;
        let empty = Held::store(self.store.engine(), 0);
        let ended = std::mem::replace(&mut self.store, empty);
        let thread = CLEARED.get_or_init(|| {
            let (sender, ended) = sync_channel(WAITING);
            let named = std::thread::Builder::new().name("instances".into());
            let clear = move || {
                // Of this thread alone, which Linux takes it for; where it is refused, nothing is lost but that.
                #[cfg(target_os = "linux")]
                let _ = rustix::process::nice(BEHIND);
                ended.iter().for_each(drop);
            };
            named.spawn(clear).ok().map(|_| sender)
        });
        if let Some(thread) = thread {
            let _ = thread.try_send(ended);
        }
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
