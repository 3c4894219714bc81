//! Guests: policies that are not part of this program. Loading, leases and conversion only, one engine a file.
//!
//! A runaway, an error or an out-of-memory costs the call it happened in, never the process or another guest. What a
//! verdict does to the exchange is the `hook` stage's; what a guest may call is `host`'s.

pub mod adapter;
pub mod bundle;
pub mod lua;
pub mod pool;
pub mod settings;
pub mod stand;
#[cfg(test)]
mod tests;
pub mod verdict;
pub mod view;
#[cfg(feature = "wasm")]
pub mod wasm;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::host::{Cx, Guest, Killed, Phase, Phases};

pub use bundle::{Bundle, Manifest, StreamMode};
pub use verdict::Verdict;
pub use view::Subject;

/// Why a call of a guest gave no verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    /// It went past its lease.
    pub killed: Option<Killed>,
    /// What happened, with file and line where the engine knows them.
    pub message: String,
}

/// A loaded guest, whatever its language.
#[derive(Debug)]
pub enum Engine {
    Lua(lua::Script),
    #[cfg(feature = "wasm")]
    Wasm(Arc<wasm::Policy>),
}

/// What a call used.
#[derive(Debug, Clone, Copy, Default)]
pub struct Used {
    /// Time it ran; waiting is not counted.
    pub cpu: Duration,
    pub safepoints: u64,
    pub host_calls: u32,
    /// Bytes of its machine afterwards.
    pub memory: usize,
    /// The machine could not be trusted any more and was replaced.
    pub replaced: bool,
}

/// What is loaded together: the wanted guests, in order.
pub struct Wanted {
    pub guest: Arc<Guest>,
    pub bundle: Arc<Bundle>,
    /// Its settings, checked.
    pub config: Value,
    /// Guests of one domain share a machine.
    pub domain: Option<String>,
}

/// Loads every wanted guest, `slots` machines each, and lets each validate its settings.
///
/// # Errors
/// What does not compile or refuses its settings, a line each, with file and line.
pub fn load(wanted: Vec<Wanted>, slots: usize) -> Result<Vec<Engine>, Vec<(usize, String)>> {
    Ok(lua::load(wanted, slots)?.into_iter().map(Engine::Lua).collect())
}

impl Engine {
    /// The phases that it has functions for.
    pub fn phases(&self) -> Phases {
        match self {
            Engine::Lua(script) => script.phases(),
            #[cfg(feature = "wasm")]
            Engine::Wasm(policy) => policy.phases(),
        }
    }

    /// Where its function of a phase begins, as `file:line`, if its engine knows that.
    pub fn place(&self, phase: Phase) -> Option<String> {
        match self {
            Engine::Lua(script) => script.place(phase),
            #[cfg(feature = "wasm")]
            Engine::Wasm(_) => None,
        }
    }

    /// Begins a call. Where its phase lets it, it gives way to others when it runs for long, and may wait for them.
    pub fn begin(&self, cx: Cx, subject: Subject) -> Begun<'_> {
        if !cx.phase.gives_way() {
            return Begun::Over(self.call_now(cx, subject));
        }
        match self {
            Engine::Lua(script) => script.begin(cx, subject),
            #[cfg(feature = "wasm")]
            Engine::Wasm(policy) => Begun::Rest(Box::pin(policy.call(cx, subject))),
        }
    }

    /// Calls it.
    ///
    /// # Errors
    /// It failed; nothing it did takes effect.
    pub async fn call(&self, cx: Cx, subject: Subject) -> Called {
        self.begin(cx, subject).end().await
    }

    /// Calls it to its end, in any phase, without waiting.
    ///
    /// # Errors
    /// As [`Engine::call`].
    pub fn call_now(&self, cx: Cx, subject: Subject) -> Called {
        match self {
            Engine::Lua(script) => script.call_now(cx, subject),
            #[cfg(feature = "wasm")]
            Engine::Wasm(policy) => policy.call_now(cx, subject),
        }
    }

    /// Calls it for an event of a stream, which it gives back. `cx` tells what such calls are; how much is made anew for
    /// each is the engine's.
    ///
    /// # Errors
    /// As [`Engine::call`].
    pub fn hear(&self, ear: &mut Ear, cx: impl FnOnce() -> Cx, event: view::Event) -> (Called, view::Event) {
        match self {
            Engine::Lua(script) => script.hear(ear.lua.get_or_insert_with(|| lua::Ear::new(cx())), event),
            #[cfg(feature = "wasm")]
            Engine::Wasm(policy) => {
                let event = Arc::new(event);
                let called = policy.call_now(cx(), Subject::Event(event.clone()));
                (called, Arc::unwrap_or_clone(event))
            }
        }
    }
}

/// What came of a call, and what it used.
pub type Called = (Result<Verdict, Failed>, Used);

/// A call that has begun. Nearly all are over by then, and carry no room for more.
pub enum Begun<'a> {
    Over(Called),
    /// It has given way, or waits.
    Rest(Pin<Box<dyn Future<Output = Called> + Send + 'a>>),
}

impl Begun<'_> {
    pub async fn end(self) -> Called {
        match self {
            Begun::Over(called) => called,
            Begun::Rest(rest) => rest.await,
        }
    }
}

/// What one stream keeps for the calls of a guest.
#[derive(Default)]
pub struct Ear {
    lua: Option<lua::Ear>,
    /// It went past its budget and the stream goes on without it: each further event would cost as much again.
    pub left_alone: bool,
}

/// What of a call's own time counts as used before it began: as much as the exchange's bound is nearer than its own.
fn used_before(cx: &Cx) -> Duration {
    // A stream has as many events as it has; each is bounded by itself.
    if cx.phase == Phase::Event {
        return Duration::ZERO;
    }
    let budget = cx.lease.budget();
    budget.cpu.saturating_sub(budget.total.saturating_sub(cx.visit.spent(&cx.guest.name)))
}

impl Failed {
    pub fn new(message: impl Into<String>) -> Self {
        Failed { killed: None, message: message.into() }
    }
}

/// Checks that a verdict means something where it was given.
///
/// # Errors
/// It does not; the text says where it would.
pub fn fits(verdict: &mut Verdict, phase: Phase) -> Result<(), Failed> {
    if verdict.phases().has(phase) {
        verdict.sound().map_err(Failed::new)?;
        let misplaced = if let Verdict::Patch(patch) = verdict { patch.misplaced(phase) } else { None };
        return match misplaced {
            None => Ok(()),
            Some(field) => {
                let fields = verdict::Patch::fields(phase).join(", ");
                Err(Failed::new(format!("a patch of on_{} has no `{field}`; it has: {fields}", phase.name())))
            }
        };
    }
    let (name, there) = (verdict.name(), verdict.phases());
    Err(Failed::new(format!("on_{} cannot answer with `{name}`; that is for {there}", phase.name())))
}

/// Likeness above which a name may have been meant.
const LIKE: f64 = 0.8;

/// The name that was meant by another one, if any.
pub(in crate::guest) fn near<'a>(key: &str, names: &[&'a str]) -> Option<&'a str> {
    let like = |name: &str| match strsim::jaro_winkler(name, key) {
        // Two letters the other way round are one slip, which this measure does not see in short names.
        likeness if likeness <= LIKE && strsim::osa_distance(name, key) == 1 => LIKE + 0.01,
        likeness => likeness,
    };
    let near = names.iter().map(|name| (like(name), *name)).max_by(|a, b| a.0.total_cmp(&b.0));
    near.filter(|(likeness, _)| *likeness > LIKE).map(|(_, name)| name)
}

/// Rounds of its worker that a guest leaves to others at a time: in the first they hear what their sockets have brought, in the
/// second goes out what they left to be written ([`crate::defer`]). Else a request would wait for two turns at each step.
const ROUNDS_OF_OTHERS: u8 = 2;

/// Lets others have their turn. Whoever only woke itself would be polled again many times before its worker looks at a socket.
pub async fn give_way() {
    for _ in 0..ROUNDS_OF_OTHERS {
        tokio::task::yield_now().await;
    }
}

thread_local! {
    static SEAT: std::cell::Cell<usize> = const { std::cell::Cell::new(usize::MAX) };
}
static NEXT_SEAT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);

/// Gives this thread the machines of a worker. Threads that were given none share them in turn.
pub fn sit(worker: usize) {
    SEAT.set(worker);
}

/// The place of this thread among the machines of a guest.
pub fn seat() -> usize {
    SEAT.with(|seat| {
        if seat.get() == usize::MAX {
            seat.set(NEXT_SEAT.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
        }
        seat.get()
    })
}
