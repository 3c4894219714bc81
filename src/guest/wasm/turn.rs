//! The time of a guest's call: when it runs, when it stands, and when it is over.
//!
//! The lease's clock goes while the guest works, and while it waits by itself, as on a clock of WASI: nobody else ends
//! that. It stands while the guest waits for others, for a host function or for its next turn. No call outlives its lease.

use std::cell::Cell;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};
use wasmtime::{Error, Result, Trap};

use super::store::Held;
use crate::guest::{Failed, Used};
use crate::host::{Cx, Killed, ticker};

/// What a guest waits for that does not go on.
#[derive(Clone, Copy, PartialEq)]
enum Waits {
    /// Something of its own.
    Alone,
    /// Its next turn: it has been stopped, so that others have theirs.
    Turn,
    /// A host function.
    Others,
}

thread_local! {
    /// Why the guest that was last polled on this thread does not go on. Set just before it is left, so that calls inside
    /// of calls tell the right one.
    static WAITS: Cell<Waits> = const { Cell::new(Waits::Alone) };

    /// When the present turn of the guest on this thread began.
    static BEGAN: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Whether the guest that runs on this thread has had its turn; it is then stopped for others to have theirs.
pub fn is_over() -> bool {
    // A tick may come just after a call has begun. No time at all is a clock that a test holds still.
    let over = BEGAN.get().is_none_or(|began| {
        let took = began.elapsed();
        took.is_zero() || took >= ticker::TURN / 2
    });
    if over {
        WAITS.set(Waits::Turn);
    }
    over
}

/// Waits inside a host function: for others.
pub async fn hosted<T>(work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    std::future::poll_fn(|task| {
        let polled = work.as_mut().poll(task);
        if polled.is_pending() {
            WAITS.set(Waits::Others);
        }
        polled
    })
    .await
}

/// Runs a guest under its lease, of which `before` is used up. Gives the time it took of it.
///
/// # Errors
/// The guest's own, or that it is still waiting at the end of its lease; the lease says so then.
pub async fn metered<T>(cx: &Cx, before: Duration, work: impl Future<Output = Result<T>>) -> (Result<T>, Duration) {
    let mut work = pin!(work);
    let mut used = Duration::ZERO;
    // Ticks, because a clock that a test holds still would let a guest run for ever: time alone ends it.
    let mut ticks = 0;
    let mut alone: Option<Alone> = None;
    let outcome = std::future::poll_fn(|task| {
        if let Some(Alone { since, end }) = &mut alone {
            if end.as_mut().poll(task).is_ready() {
                used += since.elapsed();
                return Poll::Ready(Err(overslept(cx)));
            }
            used += since.elapsed();
            alone = None;
        }
        let spent = before + used.max(Duration::from_millis(ticks));
        cx.lease.resume(spent);
        WAITS.set(Waits::Alone);
        let (began, tick) = (Instant::now(), ticker::tick_now());
        let excused = cx.lease.excused();
        let outer = BEGAN.replace(Some(began));
        let polled = work.as_mut().poll(task);
        BEGAN.set(outer);
        let took = began.elapsed();
        used += took.saturating_sub(cx.lease.excused().saturating_sub(excused));
        if took.is_zero() {
            ticks += ticker::tick_now().saturating_sub(tick);
        }
        cx.lease.pause();
        if polled.is_pending() && WAITS.get() == Waits::Alone {
            let left = cx.lease.budget().cpu.saturating_sub(before + used);
            let Some(mut waiting) = Alone::begin(left) else { return Poll::Ready(Err(overslept(cx))) };
            if waiting.end.as_mut().poll(task).is_ready() {
                return Poll::Ready(Err(overslept(cx)));
            }
            alone = Some(waiting);
        }
        polled
    })
    .await;
    (outcome, used.max(Duration::from_millis(ticks)))
}

/// A wait of the guest's own.
struct Alone {
    since: Instant,
    /// When its lease is over.
    end: Pin<Box<Sleep>>,
}

impl Alone {
    /// None outside of a runtime, where nobody would ever wake it.
    fn begin(left: Duration) -> Option<Alone> {
        tokio::runtime::Handle::try_current().ok()?;
        Some(Alone { since: Instant::now(), end: Box::pin(sleep(left)) })
    }
}

fn overslept(cx: &Cx) -> Error {
    cx.lease.kill(Killed::Deadline);
    Error::msg("is still waiting at the end of its time")
}

/// Why a call gave nothing: past its lease, or in the engine's words.
pub fn broke(cx: &Cx, held: &Held, error: &Error) -> Failed {
    let trap = error.downcast_ref::<Trap>();
    // Interpreters want more memory on their way to the end of the stack, and more of it would not help them.
    if held.starved && trap != Some(&Trap::StackOverflow) {
        cx.lease.kill(Killed::Memory);
    }
    let why = match trap {
        Some(Trap::StackOverflow) => "used up its stack; recurse less deeply".to_owned(),
        Some(trap) => trap.to_string(),
        None => error.root_cause().to_string(),
    };
    // The engine's own type for it is private.
    if why.contains("fuel allocated for hostcalls") {
        cx.lease.kill(Killed::Output);
    }
    // What a language says before it gives up: the engine only sees that it did.
    let message = match held.last_words() {
        Some(words) => format!("{why}; it wrote last: {words}"),
        None => why,
    };
    Failed { killed: cx.lease.killed(), message }
}

/// What a call used.
pub fn used(cx: &Cx, held: &Held, cpu: Duration, replaced: bool) -> Used {
    let (safepoints, host_calls) = (cx.lease.safepoints(), cx.lease.host_calls());
    Used { cpu, safepoints, host_calls, memory: held.memory, replaced }
}
