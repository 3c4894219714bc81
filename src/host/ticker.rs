//! The one clock of all guests: a thread that counts milliseconds while anything runs, and rests when nothing does.
//!
//! Reading it costs a load, so that it can be read at every safepoint. Engines that are stopped from outside have their own
//! word called at each tick; a second thread would cost as much again, which is most of what a clock costs.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread::Thread;
use std::time::Duration;

/// One tick.
pub const TICK: Duration = Duration::from_millis(1);

/// One tick while a guest runs for long, and so what it may run before others have their turn. Somebody else's request
/// passes a worker in several steps, and each may have to wait for one of these.
pub const TURN: Duration = Duration::from_micros(250);

/// Ticks without a burst after which the ticker stops: an idle process is not woken a thousand times a second.
const IDLE_TICKS: u32 = 1000;

/// Milliseconds since the ticker was started.
static NOW: AtomicU64 = AtomicU64::new(0);
/// Set by every burst and cleared by every tick, which tells idleness by it. Written only where it is not set already:
/// workers must not pass its cache line round at every call.
static BUSY: AtomicBool = AtomicBool::new(false);
static ASLEEP: AtomicBool = AtomicBool::new(true);
/// A guest runs for long: the next tick is a short one.
static HURRIED: AtomicBool = AtomicBool::new(false);
static TICKER: OnceLock<Thread> = OnceLock::new();

/// Called at each tick; false when it is not to be called again.
type Beat = Box<dyn FnMut() -> bool + Send>;

static BEATS: Mutex<Vec<Beat>> = Mutex::new(Vec::new());

/// The present tick; wakes the ticker when it sleeps.
pub fn now() -> u64 {
    stay_awake();
    tick_now()
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
        ticker.unpark();
    }
}

/// A guest has had a turn and has not ended: the next ticks are to be short.
pub fn hurry() {
    if !HURRIED.swap(true, SeqCst)
        && let Some(ticker) = TICKER.get()
    {
        ticker.unpark();
    }
}

#[expect(clippy::disallowed_types, reason = "the clock of a test may stand still; this one ends what does not")]
fn tick() {
    let mut idle = 0;
    let mut last = std::time::Instant::now();
    loop {
        pause();
        // A pause takes longer than it should on a busy machine; the tick keeps up with real time.
        let passed = last.elapsed().as_millis() as u64;
        if passed > 0 {
            last += Duration::from_millis(passed);
            NOW.fetch_add(passed, Relaxed);
        }
        BEATS.lock().unwrap_or_else(PoisonError::into_inner).retain_mut(|beat| beat());
        idle = if BUSY.swap(false, SeqCst) { 0 } else { idle + 1 };
        if idle >= IDLE_TICKS {
            ASLEEP.store(true, SeqCst);
            if !BUSY.load(SeqCst) {
                std::thread::park();
            }
            ASLEEP.store(false, SeqCst);
            last = std::time::Instant::now();
            idle = 0;
        }
    }
}

/// Until the next tick. Whoever hurries it cuts a long pause short, and then has a turn.
#[expect(clippy::disallowed_methods, reason = "a thread of its own that does nothing else")]
fn pause() {
    if !HURRIED.load(SeqCst) {
        std::thread::park_timeout(TICK);
    }
    if HURRIED.swap(false, SeqCst) {
        std::thread::sleep(TURN);
    }
}
