//! Luau: scripts on sandboxed machines, one a worker and domain, called under a lease.
//!
//! The only room that knows mlua. Handles are weak there, so whoever holds a function holds its machine too; what runs
//! on a thread is told by [`RUNNING`], which is set around every poll and never across one.

pub mod adapter;
mod api;
mod convert;
pub mod coverage;
mod entries;
mod hearing;
mod library;
mod machine;
mod read;
pub mod trial;
mod verdicts;
mod views;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use arc_swap::ArcSwap;
use mlua::{Error, Value as Lv};
use tokio::time::Instant;

use super::verdict::Verdict;
use super::view::Subject;
use super::{Failed, Used, Wanted, fits, used_before};
use crate::host::{Cx, Killed, Phase, Phases, lease};

use machine::{Machine, Recipe};

pub use hearing::Ear;
pub use machine::compiles;

/// Share of its memory that a machine may still use after it was collected, having gone past a bound.
const TRUSTED_SHARE: usize = 2;

/// One script, on a machine for every worker.
#[derive(Debug)]
pub struct Script {
    domain: Arc<Domain>,
    /// Its place in the domain.
    at: usize,
    phases: Phases,
    awaits: bool,
}

/// Scripts that share machines.
struct Domain {
    recipes: Vec<Recipe>,
    memory: usize,
    slots: Vec<ArcSwap<Machine>>,
    /// How often each machine was replaced; told apart by who replaces it.
    replaced: AtomicU64,
}

impl std::fmt::Debug for Domain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Domain").field("scripts", &self.recipes.len()).field("slots", &self.slots.len()).finish()
    }
}

/// Loads scripts, in the order wanted.
///
/// # Errors
/// What does not compile, or refuses its settings: its place in the list, and why.
pub fn load(wanted: Vec<Wanted>, slots: usize) -> Result<Vec<Script>, Vec<(usize, String)>> {
    let mut wrong = Vec::new();
    let mut groups: BTreeMap<String, Vec<(usize, Recipe)>> = BTreeMap::new();
    let count = wanted.len();
    for (place, wanted) in wanted.into_iter().enumerate() {
        // A name that no domain can have, for scripts that share with nobody.
        let domain = wanted.domain.clone().unwrap_or_else(|| format!("\0{place}"));
        match Recipe::new(wanted) {
            Ok(recipe) => groups.entry(domain).or_default().push((place, recipe)),
            Err(error) => wrong.push((place, error)),
        }
    }
    if !wrong.is_empty() {
        return Err(wrong);
    }
    let mut scripts: Vec<Option<Script>> = (0..count).map(|_| None).collect();
    for group in groups.into_values() {
        let (places, recipes): (Vec<_>, Vec<_>) = group.into_iter().unzip();
        let memory = recipes.iter().map(|recipe| recipe.guest.budget.memory).sum();
        let built: Result<Vec<_>, _> = (0..slots.max(1)).map(|_| Machine::build(&recipes, memory)).collect();
        let machines = match built {
            Ok(machines) => machines,
            Err((at, error)) => {
                wrong.push((places.get(at).copied().unwrap_or(0), error));
                continue;
            }
        };
        let phases: Vec<Phases> = (0..recipes.len()).map(|at| machines[0].phases(at)).collect();
        let waits: Vec<bool> = recipes.iter().map(Recipe::waits).collect();
        let slots = machines.into_iter().map(ArcSwap::from_pointee).collect();
        let domain = Arc::new(Domain { recipes, memory, slots, replaced: AtomicU64::new(0) });
        for (at, place) in places.into_iter().enumerate() {
            scripts[place] = Some(Script { domain: domain.clone(), at, phases: phases[at], awaits: waits[at] });
        }
    }
    if wrong.is_empty() { Ok(scripts.into_iter().flatten().collect()) } else { Err(wrong) }
}

/// Every name of `gw` as a script finds it, in order; for the test that holds the tables together.
///
/// # Errors
/// A machine cannot be built.
pub fn names() -> Result<Vec<String>, String> {
    let lua = mlua::Lua::new();
    let modules = api::modules(&lua, false).map_err(|error| error.to_string())?;
    let mut names = vec!["config".to_owned()];
    let each = modules.for_each(|name: String, value: Lv| {
        match value {
            Lv::Table(module) => module.for_each(|inner: String, _: Lv| {
                names.push(format!("{name}.{inner}"));
                Ok(())
            })?,
            _ => names.push(name),
        }
        Ok(())
    });
    each.map_err(|error| error.to_string())?;
    names.sort();
    Ok(names)
}

thread_local! {
    /// The call that runs on this thread now.
    static RUNNING: RefCell<Option<Arc<Running>>> = const { RefCell::new(None) };
}

/// A call under way.
struct Running {
    cx: Cx,
    /// What the script was shown beside what it was called with.
    shown: Mutex<Vec<views::Seen>>,
    /// The tick at which its present turn began, for calls that give way to others.
    turn: Option<AtomicU64>,
}

impl Running {
    fn new(cx: Cx) -> Self {
        Running { cx, shown: Mutex::default(), turn: None }
    }

    /// Whether its present turn has been long enough.
    fn is_long(&self) -> bool {
        self.turn.as_ref().is_some_and(|began| lease::now() > began.load(Relaxed))
    }

    fn show(&self, view: views::Seen) {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).push(view);
    }

    /// Takes back what it was shown.
    fn unshow(&self) {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// Looks at the call that runs on this thread, for what scripts call.
fn with_running<T>(look: impl FnOnce(&Arc<Running>) -> mlua::Result<T>) -> mlua::Result<T> {
    RUNNING.with_borrow(|running| match running {
        Some(running) => look(running),
        None => Err(Error::runtime("nothing of the gateway's is running")),
    })
}

/// The call that runs on this thread, for what outlives a look at it.
fn running() -> mlua::Result<Arc<Running>> {
    with_running(|running| Ok(running.clone()))
}

/// Does work of the gateway's own inside a call: it costs the script nothing.
fn excused<T>(work: impl FnOnce() -> T) -> T {
    let began = Instant::now();
    let done = work();
    RUNNING.with_borrow(|running| {
        if let Some(running) = running {
            running.cx.lease.excuse(began.elapsed());
        }
    });
    done
}

/// Marks a call as the one that runs, for as long as this lives, and meters it.
struct Turn {
    before: Option<Arc<Running>>,
    began: Instant,
    excused: Duration,
}

impl Turn {
    fn take(running: &Arc<Running>, spent: Duration) -> Turn {
        let before = RUNNING.replace(Some(running.clone()));
        running.cx.lease.resume(spent);
        if let Some(began) = &running.turn {
            began.store(lease::now(), Relaxed);
        }
        Turn { before, began: Instant::now(), excused: running.cx.lease.excused() }
    }

    /// How long it was, without what was the gateway's own.
    fn end(self, running: &Running) -> Duration {
        self.began.elapsed().saturating_sub(running.cx.lease.excused() - self.excused)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let ended = RUNNING.replace(self.before.take());
        if let Some(ended) = ended {
            ended.cx.lease.pause();
        }
    }
}

impl Script {
    pub fn phases(&self) -> Phases {
        self.phases
    }

    pub fn awaits(&self) -> bool {
        self.awaits
    }

    /// Calls the function of the call's phase, waiting where it waits.
    pub async fn call(&self, mut cx: Cx, subject: Subject) -> (Result<Verdict, Failed>, Used) {
        cx.awaits = true;
        let (slot, machine) = self.machine();
        let before = used_before(&cx);
        let running = Arc::new(Running::new(cx));
        let mut cpu = Duration::ZERO;
        let turn = Turn::take(&running, before);
        let started = machine.start(self.at, running.cx.phase, &subject);
        cpu += turn.end(&running);
        let outcome = match started {
            Ok(Some((_seen, future))) => {
                let mut future = pin!(future);
                std::future::poll_fn(|task| {
                    let turn = Turn::take(&running, before + cpu);
                    let polled = match future.as_mut().poll(task) {
                        // Read while the lease still holds: what it returned may be large.
                        Poll::Ready(value) => Poll::Ready(value.and_then(|value| machine.read(&running.cx, value))),
                        Poll::Pending => Poll::Pending,
                    };
                    cpu += turn.end(&running);
                    polled
                })
                .await
            }
            Ok(None) => Ok(Verdict::Pass),
            Err(error) => Err(error),
        };
        self.finish(slot, machine, &running, cpu, outcome)
    }

    /// Calls the function of the call's phase where nothing may wait.
    pub fn call_now(&self, cx: Cx, subject: Subject) -> (Result<Verdict, Failed>, Used) {
        if let Subject::Event(event) = subject {
            return self.hear(&mut Ear::new(cx), Arc::unwrap_or_clone(event)).0;
        }
        let (slot, machine) = self.machine();
        let before = used_before(&cx);
        let running = Arc::new(Running::new(cx));
        let turn = Turn::take(&running, before);
        let outcome = machine.call(self.at, &running, &subject);
        let cpu = turn.end(&running);
        self.finish(slot, machine, &running, cpu, outcome)
    }

    fn machine(&self) -> (usize, Arc<Machine>) {
        let slot = super::seat() % self.domain.slots.len();
        (slot, self.domain.slots[slot].load_full())
    }

    fn finish(
        &self,
        slot: usize,
        machine: Arc<Machine>,
        running: &Running,
        cpu: Duration,
        outcome: mlua::Result<Verdict>,
    ) -> (Result<Verdict, Failed>, Used) {
        let cx = &running.cx;
        running.unshow();
        if cx.phase != Phase::Event {
            cx.visit.spend(cpu);
        }
        let mut out_of_memory = false;
        let outcome = match outcome {
            // A script that caught its own end has still ended.
            Ok(_) if cx.lease.killed().is_some() => Err(None),
            Ok(verdict) => fits(verdict, cx.phase).map_err(Some),
            Err(error) => {
                if read::is_memory(&error) {
                    out_of_memory = true;
                    cx.lease.kill(Killed::Memory);
                }
                if cx.lease.killed().is_some() { Err(None) } else { Err(Some(Failed::new(read::message(&error)))) }
            }
        };
        let outcome = outcome.map_err(|failed| {
            failed.unwrap_or_else(|| {
                let killed = cx.lease.killed().unwrap_or(Killed::Deadline);
                Failed { killed: Some(killed), message: format!("on_{} {}", cx.phase.name(), cx.lease.explain(killed)) }
            })
        });
        let killed = outcome.as_ref().err().is_some_and(|failed| failed.killed.is_some());
        let replaced = (killed || out_of_memory) && self.mend(slot, &machine);
        let used = Used {
            cpu,
            safepoints: cx.lease.safepoints(),
            host_calls: cx.lease.host_calls(),
            memory: machine.memory(),
            replaced,
        };
        (outcome, used)
    }

    /// Collects a machine that went past a bound, and replaces it when it is still more than half full.
    fn mend(&self, slot: usize, machine: &Arc<Machine>) -> bool {
        if machine.collect() && machine.memory() <= self.domain.memory / TRUSTED_SHARE {
            return false;
        }
        // The recipes built machines before, so that this fails only where the system has no memory left.
        match Machine::build(&self.domain.recipes, self.domain.memory) {
            Ok(fresh) => {
                self.domain.slots[slot].store(Arc::new(fresh));
                self.domain.replaced.fetch_add(1, Relaxed);
                true
            }
            Err((_, error)) => {
                tracing::error!("a machine cannot be replaced: {error}");
                false
            }
        }
    }
}

/// The function's name for a phase.
fn function_name(phase: Phase) -> String {
    format!("on_{}", phase.name())
}

/// A value that a script returned.
type Returned = mlua::Result<Lv>;

#[cfg(test)]
pub(super) mod tests;
