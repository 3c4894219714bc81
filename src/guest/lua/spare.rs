//! The next machine of scripts whose machines are replaced, built before it is needed.
//!
//! One thread builds them all, and stays: of each that ended the allocator would keep something.

use std::sync::atomic::{AtomicBool, Ordering::AcqRel, Ordering::Release};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::Domain;
use super::machine::Machine;

/// The way to the thread that builds; None where there is none.
static BUILDER: OnceLock<Option<Sender<Arc<Domain>>>> = OnceLock::new();

/// None until one of the machines was replaced: most never are.
#[derive(Default)]
pub(super) struct Spare {
    machine: Mutex<Option<Machine>>,
    /// It is being built.
    builds: AtomicBool,
}

impl Spare {
    pub fn take(&self) -> Option<Machine> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    #[cfg(test)]
    pub fn is_ready(&self) -> bool {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    fn put(&self, next: Option<Machine>) {
        *self.machine.lock().unwrap_or_else(PoisonError::into_inner) = next;
        self.builds.store(false, Release);
    }
}

/// Has the next machine of a domain built, unless it is being built already.
pub(super) fn build_next(domain: &Arc<Domain>) {
    if domain.spare.builds.swap(true, AcqRel) {
        return;
    }
    let builder = BUILDER.get_or_init(|| {
        let (sender, domains) = channel::<Arc<Domain>>();
        let build = move || domains.iter().for_each(|domain| domain.spare.put(domain.build().ok()));
        std::thread::Builder::new().name("machines".into()).spawn(build).ok().map(|_| sender)
    });
    let sent = builder.as_ref().is_some_and(|builder| builder.send(domain.clone()).is_ok());
    if !sent {
        domain.spare.builds.store(false, Release);
    }
}
