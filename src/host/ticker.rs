//! The one clock of all guests: a thread that counts milliseconds while anything runs, and rests when nothing does.
//!
//! Reading it costs a load, so that it can be read at every safepoint. Engines that are stopped from outside have their own
//! word called at each tick. A thread that wakes a thousand times a second costs more than a few thousand events of streams
//! do, so ticks are long while no guest has run for long, as hardly any ever does, and there is one thread for all. Once one
//! has, every call may be the next: all ticks are as short as a turn then.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread::Thread;
use std::time::Duration;

use thread_priority::{
    RealtimeThreadSchedulePolicy::Fifo, ThreadPriority, ThreadSchedulePolicy::Realtime, set_thread_priority_and_policy,
    thread_native_id,
};

/// One tick while none has run for long: the first that does has so long a turn, and may outlive its budget by as much.
const CALM_TICK: Duration = Duration::from_millis(8);

/// How long it is minded that a guest has run for long.
const ALERT_MS: u64 = 10_000;

/// One tick once a guest has run for long, and so what it may run before others have their turn. Somebody else's request
/// passes a worker in several steps, and each may have to wait for one of these.
pub const TURN: Duration = Duration::from_micros(250);

/// What sleeping for a turn may take longer than it should: Linux gathers timers within 50 µs of each other, but for threads with
/// real-time priority.
const LATE: Duration = Duration::from_micros(50);

/// Time without a burst after which the ticker stops: an idle process is not woken at all.
const IDLE_MS: u64 = 1000;

/// Milliseconds since the clock was first read, as of the last tick.
static NOW: AtomicU64 = AtomicU64::new(0);
/// Until when ticks are short.
static ALERT_UNTIL: AtomicU64 = AtomicU64::new(0);
/// Set by every burst and cleared by every tick, which tells idleness by it. Written only where it is not set already:
/// workers must not pass its cache line round at every call.
static BUSY: AtomicBool = AtomicBool::new(false);
static ASLEEP: AtomicBool = AtomicBool::new(true);
/// A guest runs for long: the next tick is a short one.
static HURRIED: AtomicBool = AtomicBool::new(false);
/// The last tick was such a short one.
static SHORT: AtomicBool = AtomicBool::new(false);
static TICKER: OnceLock<Thread> = OnceLock::new();

/// Called at each tick; false when it is not to be called again.
type Beat = Box<dyn FnMut() -> bool + Send>;

static BEATS: Mutex<Vec<Beat>> = Mutex::new(Vec::new());

/// Milliseconds by the clock itself, of which the ticks are behind by one at most; wakes the ticker when it sleeps.
pub fn now() -> u64 {
    stay_awake();
    elapsed()
}

#[expect(clippy::disallowed_types, reason = "the clock of a test may stand still; this one ends what does not")]
fn elapsed() -> u64 {
    static START: OnceLock<std::time::Instant> = OnceLock::new();
    START.get_or_init(std::time::Instant::now).elapsed().as_millis() as u64
}

/// The present tick, for whoever knows that the ticker is awake.
pub fn tick_now() -> u64 {
    NOW.load(Relaxed)
}

/// Has something done at each tick from now on, until it gives false. It must be short.
pub fn at_each_tick(beat: impl FnMut() -> bool + Send + 'static) {
    BEATS.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(beat));
}

/// Keeps the ticker going. A burst sets its flag before it looks whether the ticker sleeps, and the ticker looks at the
/// flag after it has said that it will: in one order for both, one of them sees the other.
pub fn stay_awake() {
    if !BUSY.load(SeqCst) {
        BUSY.store(true, SeqCst);
    }
    if ASLEEP.load(SeqCst) {
        let ticker = TICKER.get_or_init(|| {
            let started = std::thread::Builder::new().name("ticker".into()).spawn(tick);
            // Without a thread there is no clock; counts still end every guest.
            started.map_or_else(|_| std::thread::current(), |handle| handle.thread().clone())
        });
        ASLEEP.store(false, SeqCst);
        NOW.fetch_max(elapsed(), Relaxed);
        ticker.unpark();
    }
}

/// A guest has run for long: from now on ticks are short.
pub fn alert() {
    ALERT_UNTIL.store(tick_now() + ALERT_MS, Relaxed);
}

/// A guest has had a turn and has not ended: the next tick is to be short. That a tick comes upon one is nothing unusual, as
/// a first call may take a while; that the next one finds it still there is.
pub fn hurry() {
    if SHORT.load(Relaxed) {
        alert();
    }
    if !HURRIED.swap(true, SeqCst)
        && let Some(ticker) = TICKER.get()
    {
        ticker.unpark();
    }
}

/// Has this thread run before all others, where the process may. Else the kernel lets whoever has a core keep it for up to
/// three milliseconds, and that may be the guest that is to be stopped.
fn come_first() {
    if let Err(error) = set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, Realtime(Fifo)) {
        tracing::debug!("ticks may come late where every core is busy: {error:?}");
    }
}

fn tick() {
    come_first();
    let mut busy = elapsed();
    loop {
        pause();
        let now = elapsed();
        NOW.fetch_max(now, Relaxed);
        BEATS.lock().unwrap_or_else(PoisonError::into_inner).retain_mut(|beat| beat());
        if BUSY.swap(false, SeqCst) {
            busy = now;
        } else if now - busy >= IDLE_MS {
            ASLEEP.store(true, SeqCst);
            if !BUSY.load(SeqCst) {
                std::thread::park();
            }
            ASLEEP.store(false, SeqCst);
            busy = elapsed();
        }
    }
}

/// Until the next tick. Whoever hurries it cuts a long pause short, and then has a turn.
#[expect(clippy::disallowed_methods, reason = "a thread of its own that does nothing else")]
fn pause() {
    if !HURRIED.load(SeqCst) {
        std::thread::park_timeout(if tick_now() < ALERT_UNTIL.load(Relaxed) { TURN - LATE } else { CALM_TICK });
    }
    let short = HURRIED.swap(false, SeqCst);
    if short {
        std::thread::sleep(TURN - LATE);
    }
    SHORT.store(short, Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_keep_up_with_the_clock() {
        let (began, tick) = (now(), tick_now());
        assert!(tick <= began);
        let due = began + 50;
        while now() < due {
            std::thread::yield_now();
        }
        assert!(tick_now() > tick, "it has ticked");
        assert!(tick_now() <= now());
    }

    #[test]
    fn whoever_asks_is_called_until_it_has_enough() {
        let (sender, called) = std::sync::mpsc::channel();
        let mut left = 3;
        at_each_tick(move || {
            left -= 1;
            sender.send(left).is_ok() && left > 0
        });
        let wait = Duration::from_secs(10);
        let next = || {
            stay_awake();
            called.recv_timeout(wait).ok()
        };
        assert_eq!([next(), next(), next(), next()], [Some(2), Some(1), Some(0), None]);
    }
}
