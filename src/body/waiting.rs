//! Those who wait for one sender: it knows a single waker, whoever asked it last, and rings for all.
//!
//! As long as it has not rung nobody needs to ask again. Whoever is told to wait will be woken.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Wake, Waker};

use smallvec::SmallVec;
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep_until};

use super::bell::Group;

/// Everybody who waits.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    inner: Mutex<Inner>,
    /// How often it rang.
    round: AtomicU64,
}

#[derive(Debug, Default)]
struct Inner {
    /// The sender was asked and will ring.
    asked: bool,
    /// Nobody is woken by the sender before then.
    rests_until: Option<Instant>,
    /// The sender has rung, and those who wait will hear of it when the rest is over.
    is_late: bool,
    groups: SmallVec<[Group; 2]>,
}

/// One who may wait.
#[derive(Debug, Default)]
pub(super) struct Place {
    /// The round in which it began to, and as whom.
    since: Option<(u64, Waker)>,
}

/// Those to be woken, which happens when this is dropped: after all locks have been given back.
#[derive(Debug, Default)]
pub(super) struct Rung(SmallVec<[Group; 2]>);

impl Drop for Rung {
    fn drop(&mut self) {
        self.0.drain(..).for_each(Group::wake);
    }
}

impl Waiting {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it waits already and nothing has rung since.
    pub fn knows(&self, place: &Place, waker: &Waker) -> bool {
        let round = self.round.load(Ordering::Acquire);
        place.since.as_ref().is_some_and(|(since, known)| *since == round && known.will_wake(waker))
    }

    /// The waker to ask the sender with; None when it was asked already.
    pub fn ask(self: &Arc<Self>) -> Option<Waker> {
        let before = std::mem::replace(&mut self.lock().asked, true);
        (!before).then(|| Waker::from(self.clone()))
    }

    /// The waker to ask it with, also where it was asked before.
    pub fn ask_anew(self: &Arc<Self>) -> Waker {
        self.lock().asked = true;
        Waker::from(self.clone())
    }

    /// Begins to wait. False when the sender has rung since it was asked.
    pub fn wait(&self, place: &mut Place, waker: &Waker) -> bool {
        let mut inner = self.lock();
        if !inner.asked {
            return false;
        }
        match inner.groups.iter_mut().find(|group| group.is_here()) {
            Some(group) => group.add(waker),
            None => {
                let mut group = Group::here();
                group.add(waker);
                inner.groups.push(group);
            }
        }
        // Read under the lock: rings change it there.
        let round = self.round.load(Ordering::Acquire);
        match &mut place.since {
            Some((since, known)) if known.will_wake(waker) => *since = round,
            since => *since = Some((round, waker.clone())),
        }
        true
    }

    /// What the sender has for them until then is told then.
    pub fn rest_until(&self, end: Instant) {
        self.lock().rests_until = Some(end);
    }

    /// There is news: all who wait are to be woken, and the sender has to be asked again.
    pub fn ring(&self) -> Rung {
        let mut inner = self.lock();
        (inner.asked, inner.is_late) = (false, false);
        self.round.fetch_add(1, Ordering::Release);
        Rung(inner.groups.iter_mut().map(Group::take).collect())
    }
}

impl Wake for Waiting {
    fn wake(self: Arc<Self>) {
        let mut inner = self.lock();
        if inner.is_late {
            return;
        }
        let end = inner.rests_until.take().filter(|end| *end > Instant::now());
        let rest = end.zip(Handle::try_current().ok());
        inner.is_late = rest.is_some();
        drop(inner);
        let later = Later(self);
        if let Some((end, runtime)) = rest {
            runtime.spawn(async move {
                sleep_until(end).await;
                drop(later);
            });
        }
    }
}

/// Rings when it is dropped: also where the runtime ends that should have waited with it.
struct Later(Arc<Waiting>);

impl Drop for Later {
    fn drop(&mut self) {
        drop(self.0.ring());
    }
}
