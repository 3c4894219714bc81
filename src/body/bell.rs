//! Waking many tasks of another worker at once.
//!
//! Each wake across threads costs a system call. A worker with a bell gets one, and wakes its tasks itself. A thread
//! without a bell has its tasks woken one by one.

use std::cell::RefCell;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;

use tokio::sync::Notify;

thread_local! {
    static HERE: RefCell<Option<Arc<Bell>>> = const { RefCell::new(None) };
}

/// A worker's bell.
#[derive(Debug, Default)]
pub struct Bell {
    due: Mutex<Vec<Waker>>,
    rung: Notify,
}

/// Hangs up this worker's bell. Its thread drives one runtime, in which this must be called, and no other.
pub fn hang() {
    let bell = Arc::<Bell>::default();
    HERE.set(Some(bell.clone()));
    // Ends with the runtime, and all who could be woken with it.
    tokio::spawn(async move {
        loop {
            bell.rung.notified().await;
            wake(std::mem::take(&mut *bell.due.lock().unwrap_or_else(PoisonError::into_inner)));
        }
    });
}

/// Tasks that wait on one worker.
#[derive(Debug, Default)]
pub struct Group {
    /// None where their thread has none.
    bell: Option<Arc<Bell>>,
    wakers: Vec<Waker>,
}

impl Group {
    /// Whether the tasks are this thread's.
    pub fn is_here(&self) -> bool {
        HERE.with_borrow(|here| self.bell.as_ref().map(Arc::as_ptr) == here.as_ref().map(Arc::as_ptr))
    }

    /// An empty group of this thread.
    pub fn here() -> Group {
        Group { bell: HERE.with_borrow(Option::clone), wakers: Vec::new() }
    }

    pub fn add(&mut self, waker: &Waker) {
        self.wakers.push(waker.clone());
    }

    /// Those who wait; the group is empty afterwards.
    pub fn take(&mut self) -> Group {
        // The next round will be as large.
        let room = Vec::with_capacity(self.wakers.len());
        Group { bell: self.bell.clone(), wakers: std::mem::replace(&mut self.wakers, room) }
    }

    /// Wakes all of them.
    pub fn wake(mut self) {
        let bell = self.bell.take().filter(|bell| {
            let elsewhere = HERE.with_borrow(|here| here.as_ref().is_none_or(|here| !Arc::ptr_eq(here, bell)));
            elsewhere && self.wakers.len() > 1
        });
        let Some(bell) = bell else { return wake(self.wakers) };
        bell.due.lock().unwrap_or_else(PoisonError::into_inner).append(&mut self.wakers);
        bell.rung.notify_one();
    }
}

fn wake(wakers: Vec<Waker>) {
    wakers.into_iter().for_each(Waker::wake);
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;
    use std::task::Wake;
    use std::thread::ThreadId;
    use std::time::Duration;

    use super::*;

    struct Woken(mpsc::Sender<ThreadId>, AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.1.fetch_add(1, Ordering::SeqCst);
            let _ = self.0.send(std::thread::current().id());
        }
    }

    #[test]
    fn a_worker_wakes_its_own_tasks_and_one_call_is_enough() {
        let (told, woken) = mpsc::channel();
        let tasks: Vec<_> = (0..5).map(|_| Arc::new(Woken(told.clone(), AtomicUsize::new(0)))).collect();
        let (hung, group) = mpsc::channel();
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        let wakers: Vec<Waker> = tasks.iter().map(|task| Waker::from(task.clone())).collect();
        let worker = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            runtime.block_on(async {
                hang();
                let mut group = Group::here();
                wakers.iter().for_each(|waker| group.add(waker));
                assert!(group.is_here());
                hung.send(group).expect("heard");
                let _ = ended.await;
            });
        });
        let mut group = group.recv().expect("a group");
        assert!(!group.is_here());
        group.take().wake();
        for _ in 0..tasks.len() {
            let by = woken.recv_timeout(Duration::from_secs(10)).expect("woken");
            assert_eq!(by, worker.thread().id());
        }
        assert!(tasks.iter().all(|task| task.1.load(Ordering::SeqCst) == 1));
        end.send(()).expect("the worker runs");
        worker.join().expect("ends");
        // Nothing is left to wake, and a thread without a bell wakes at once.
        group.take().wake();
        let mut here = Group::here();
        here.add(&Waker::from(tasks[0].clone()));
        here.wake();
        assert_eq!(woken.try_recv(), Ok(std::thread::current().id()));
    }
}
