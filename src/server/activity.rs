//! What a connection is doing, and since when: the clocks that slow or silent clients run against.
//!
//! Knows moments only. Decides what is over; `connection` ends it.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Context;
use std::time::Duration;

use hyper::rt::Executor;
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::connection::Limits;
use super::nudge::Nudge;

/// How long a client may leave an answer unread before its connection is given up. Reading slowly is fine; this is for
/// clients that have stopped.
pub(super) const CLIENT_STALL: Duration = Duration::from_secs(300);

/// How soon an answer that was due is looked at again.
const LATE: Duration = Duration::from_millis(100);

/// Wakes who waits when the process cuts what runs; made when there is first something to wait for, and over HTTP/2 only: the
/// one task of another connection is woken anyway.
pub(super) type Ending = Pin<Box<OwnedNotified>>;

/// What a connection is doing, in milliseconds since it began. Zero means "not".
#[derive(Debug)]
pub(super) struct Activity {
    began: Instant,
    /// HTTP/2, where bytes between requests are settings, windows and pings rather than the start of a head.
    pub h2: bool,
    requests: AtomicUsize,
    /// Since when a head is coming in.
    head: AtomicU64,
    /// Since when nothing is asked.
    idle: AtomicU64,
    /// Since when the client does not take what we write.
    blocked: AtomicU64,
    /// When the last of HTTP/1.1's answer is due.
    pub due: AtomicU64,
    /// The answer of HTTP/1.1 has nothing to say at present, and wakes the connection when it has.
    waits: AtomicBool,
    /// A stream begins: what is written next does not wait for others.
    pub hurries: AtomicBool,
    /// The streams of HTTP/2, whose clients may take none of an answer while the socket is free: its window is closed.
    streams: Mutex<Vec<Arc<Stream>>>,
    /// Calls the answers of HTTP/2, which are no part of the connection's own task, when the process cuts what runs.
    pub ending: Arc<Notify>,
    pub nudge: Arc<Nudge>,
}

/// What becomes of a stream of HTTP/2.
#[derive(Debug, Default)]
pub(super) struct Stream {
    /// Since when its client takes none of the answer.
    pub untaken: AtomicU64,
    /// When the last of it is due.
    pub due: AtomicU64,
    /// Ends it: hyper asks nothing of a stream whose window is closed.
    pub task: OnceLock<AbortHandle>,
}

pub(super) enum Verdict {
    Fine,
    /// Nothing was asked for as long as a connection is kept.
    Idle,
    /// A head has been coming in for too long.
    SlowHead,
    /// The client has not read for too long.
    Stalled,
}

impl Activity {
    pub fn new(h2: bool) -> Self {
        Activity {
            began: Instant::now(),
            h2,
            requests: AtomicUsize::new(0),
            head: AtomicU64::new(0),
            idle: AtomicU64::new(1),
            blocked: AtomicU64::new(0),
            due: AtomicU64::new(0),
            waits: AtomicBool::new(false),
            hurries: AtomicBool::new(false),
            streams: Mutex::default(),
            ending: Arc::default(),
            nudge: Arc::default(),
        }
    }

    pub fn streams(&self) -> MutexGuard<'_, Vec<Arc<Stream>>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn now(&self) -> u64 {
        self.began.elapsed().as_millis() as u64 + 1
    }

    /// What it will be at a moment to come.
    pub fn at(&self, moment: Instant) -> u64 {
        let millis = moment.saturating_duration_since(self.began).as_millis();
        u64::try_from(millis).unwrap_or(u64::MAX).saturating_add(1)
    }

    /// Notes what was read. Line ends alone begin no head: some clients send one behind a request's body.
    pub fn read(&self, bytes: &[u8]) {
        let rests = self.requests.load(Ordering::Relaxed) == 0 && self.head.load(Ordering::Relaxed) == 0;
        if !self.h2 && rests && bytes.iter().any(|byte| !matches!(byte, b'\r' | b'\n')) {
            self.head.store(self.now(), Ordering::Relaxed);
        }
    }

    pub fn begin(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.head.store(0, Ordering::Relaxed);
        self.idle.store(0, Ordering::Relaxed);
    }

    pub fn end(&self) {
        self.set_waits(false);
        self.due.store(0, Ordering::Relaxed);
        if self.requests.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.idle.store(self.now(), Ordering::Relaxed);
        }
    }

    pub fn wrote(&self, blocked: bool) {
        if !blocked {
            self.blocked.store(0, Ordering::Relaxed);
        } else if self.blocked.load(Ordering::Relaxed) == 0 {
            self.blocked.store(self.now(), Ordering::Relaxed);
        }
    }

    pub fn due_at(&self) -> Option<Instant> {
        let due = self.due.load(Ordering::Relaxed);
        self.began.checked_add(Duration::from_millis(due)).filter(|_| due > 0)
    }

    /// Whether the answer of HTTP/1.1 is late and its client does not take it; while it takes some, the answer itself knows
    /// what to say.
    fn is_outlasted(&self) -> bool {
        self.blocked.load(Ordering::Relaxed) > 0 && self.is_past(&self.due)
    }

    /// Ends the streams of HTTP/2 of whose answers nothing is taken: those that are late, and those left for too long. Who
    /// takes something just now hears what the answer itself has to say.
    pub fn end_untaken(&self) {
        let is_late = |one: &Stream| self.is_over(&one.untaken, LATE) && self.is_past(&one.due);
        let is_left = |one: &Stream| self.is_over(&one.untaken, CLIENT_STALL);
        let streams = self.streams();
        let over = streams.iter().filter(|one| is_late(one) || is_left(one));
        over.filter_map(|one| one.task.get()).for_each(AbortHandle::abort);
    }

    pub fn set_waits(&self, waits: bool) {
        self.waits.store(waits, Ordering::Relaxed);
    }

    /// Whether the next write is a stream's first; says so once.
    pub fn take_hurry(&self) -> bool {
        self.hurries.load(Ordering::Relaxed) && self.hurries.swap(false, Ordering::Relaxed)
    }

    /// Whether the answer under way will wake the connection when there is more of it.
    pub fn awaits_more(&self) -> bool {
        self.waits.load(Ordering::Relaxed)
    }

    /// Whether the process has just begun to cut what runs; else `cx` is woken when it does.
    pub fn ends(&self, ending: &mut Option<Ending>, cx: &mut Context<'_>) -> bool {
        let called = || Box::pin(self.ending.clone().notified_owned());
        let ends = self.h2 && ending.get_or_insert_with(called).as_mut().poll(cx).is_ready();
        if ends {
            *ending = None;
        }
        ends
    }

    /// Whether it has gone on for so long.
    fn is_over(&self, since: &AtomicU64, limit: Duration) -> bool {
        let since = since.load(Ordering::Relaxed);
        since > 0 && self.now().saturating_sub(since) >= limit.as_millis() as u64
    }

    /// Whether the moment has come.
    fn is_past(&self, moment: &AtomicU64) -> bool {
        (1..=self.now()).contains(&moment.load(Ordering::Relaxed))
    }

    /// Whether nothing has been asked for so long; a head that is not whole is no request.
    pub fn rests(&self, limit: Duration) -> bool {
        self.is_over(&self.idle, limit)
    }

    pub fn judge(&self, limits: Limits) -> Verdict {
        let over = |since: &AtomicU64, limit| self.is_over(since, limit);
        if over(&self.blocked, CLIENT_STALL) || self.is_outlasted() {
            Verdict::Stalled
        } else if over(&self.head, limits.head_timeout) {
            Verdict::SlowHead
        } else if over(&self.idle, limits.keep_alive_timeout) {
            Verdict::Idle
        } else {
            Verdict::Fine
        }
    }

    /// When to look again: often enough for the shortest limit, rarely enough not to matter, and when the answer is due.
    pub fn next_check(&self, limits: Limits) -> Instant {
        let now = Instant::now();
        let next = now + (limits.head_timeout.min(limits.keep_alive_timeout) / 2).max(Duration::from_millis(10));
        // One that was due, and whose client took something of it just now, may end by itself.
        self.due_at().map_or(next, |due| next.min(due.max(now + LATE)))
    }
}

/// Spawns the streams of HTTP/2, each known to its request: hyper asks for both in one go.
#[derive(Clone)]
pub(super) struct Streams(pub Arc<Activity>);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Streams {
    fn execute(&self, stream: F) {
        let task = tokio::spawn(stream).abort_handle();
        if let Some(begun) = self.0.streams().last() {
            let _ = begun.task.set(task);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_line_end_behind_a_request_begins_no_head() {
        let limits = Limits { head_timeout: LATE, keep_alive_timeout: LATE * 5, ..LIMITS };
        let activity = Activity::new(false);
        activity.read(b"\r\n");
        tokio::time::advance(LATE * 2).await;
        assert!(matches!(activity.judge(limits), Verdict::Fine));
        activity.read(b"\r\nG");
        tokio::time::advance(LATE * 2).await;
        assert!(matches!(activity.judge(limits), Verdict::SlowHead));
    }

    const LIMITS: Limits = Limits {
        max_connections: 1,
        max_head_bytes: 1,
        max_headers: 1,
        head_timeout: Duration::from_secs(900),
        keep_alive_timeout: Duration::from_secs(900),
        max_streams: 1,
    };
}
