//! Which lines of scripts have run, for the tests of policies.
//!
//! Off in service: scripts get counters only where they are compiled on a thread that gathers.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use mlua::Function;

/// How often each line that can run has run, by file.
pub type Lines = BTreeMap<String, BTreeMap<usize, u64>>;

thread_local! {
    static GATHERED: RefCell<Option<Lines>> = const { RefCell::new(None) };
}

/// From now on this thread gathers what scripts run that it compiles, until [`take`].
pub fn gather() {
    GATHERED.set(Some(Lines::new()));
}

/// What was gathered; a machine adds to it when it is dropped.
pub fn take() -> Lines {
    GATHERED.take().unwrap_or_default()
}

pub(super) fn is_gathered() -> bool {
    GATHERED.with_borrow(Option::is_some)
}

/// The chunks of a machine, and the files they come from; none where nothing is gathered.
#[derive(Debug, Clone, Default)]
pub(super) struct Chunks(Arc<Mutex<Vec<(String, Function)>>>);

impl Chunks {
    pub fn note(&self, label: &str, chunk: &Function) {
        if is_gathered() {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push((label.to_owned(), chunk.clone()));
        }
    }

    /// Adds what the chunks have run to what the thread gathers.
    pub fn gather(&self) {
        let chunks = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        GATHERED.with_borrow_mut(|gathered| {
            let Some(gathered) = gathered else { return };
            for (label, chunk) in &chunks {
                let lines = gathered.entry(label.clone()).or_default();
                chunk.coverage(|function| {
                    // A line that holds nothing to run counts as -1.
                    for (line, hits) in function.hits.iter().enumerate().filter(|(_, hits)| **hits >= 0) {
                        *lines.entry(line).or_default() += u64::try_from(*hits).unwrap_or(0);
                    }
                });
            }
        });
    }
}
