//! Telling what an exchange waits for from what its connection waits for.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Wake, Waker};

/// Whether the exchange of HTTP/1.1 that is under way was called. Its connection's task is woken for other things too, by
/// hyper for each body that has been read to its end; without this each of these would go through all stages down to the
/// one that waits.
#[derive(Debug, Default)]
pub(super) struct Nudge {
    made: AtomicBool,
    task: Mutex<Option<Waker>>,
}

impl Nudge {
    /// The exchange is to be polled next time, whoever wakes the task.
    pub fn note(&self) {
        self.made.store(true, Ordering::Release);
    }

    /// Whether it was called since it was asked last; from now on `cx` is woken when it is.
    pub fn take(&self, cx: &Context<'_>) -> bool {
        let mut task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *task {
            Some(task) => task.clone_from(cx.waker()),
            task => *task = Some(cx.waker().clone()),
        }
        self.made.swap(false, Ordering::AcqRel)
    }
}

impl Wake for Nudge {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.note();
        if let Some(task) = &*self.task.lock().unwrap_or_else(PoisonError::into_inner) {
            task.wake_by_ref();
        }
    }
}
