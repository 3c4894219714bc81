//! Luau: scripts on sandboxed machines, one a worker and domain, called under a lease.
//!
//! The only room that knows mlua. Handles are weak there, so whoever holds a function holds its machine too. A call that
//! runs for long gives way to others where its phase may wait: it then goes on among them, on the machine it began on.

pub mod adapter;
mod api;
mod args;
mod build;
mod convert;
pub mod coverage;
mod entries;
mod hearing;
mod library;
mod list;
mod machine;
mod read;
mod safepoints;
mod spare;
pub mod trial;
mod turn;
mod verdicts;
mod views;

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::Poll;
use std::time::Duration;

use arc_swap::ArcSwap;
use mlua::Value as Lv;

use super::verdict::Verdict;
use super::view::Subject;
use super::{Begun, Called, Failed, Used, Wanted, fits, give_way, used_before};
use crate::host::{Cx, Killed, Phase, Phases};

use machine::{Machine, Recipe, Step, Suspended};
use spare::Spare;
use turn::{Running, Spent, Waking};

pub use hearing::Ear;
pub use machine::compiles;

/// Share of its memory that a machine may still use after it was collected, having gone past a bound.
const TRUSTED_SHARE: usize = 2;

/// Share of a machine's memory that a call may take while it gives way before others begin on a machine of their own.
const LEFT_SHARE: usize = 4;

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
    spare: Spare,
}

impl Domain {
    /// A machine for who needs one now. Only the first is built while a worker waits: `on_init` may take a hundred times as
    /// long as a call.
    fn fresh(self: &Arc<Self>) -> Result<Machine, (usize, String)> {
        let fresh = self.spare.take().map_or_else(|| self.build(), Ok)?;
        spare::build_next(self);
        Ok(fresh)
    }

    fn build(&self) -> Result<Machine, (usize, String)> {
        Machine::build(&self.recipes, self.memory)
    }
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
        let (spare, replaced) = (Spare::default(), AtomicU64::new(0));
        let domain = Arc::new(Domain { recipes, memory, slots, replaced, spare });
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

impl Script {
    pub fn phases(&self) -> Phases {
        self.phases
    }

    /// Where its function of a phase begins, as `file:line`.
    pub fn place(&self, phase: Phase) -> Option<String> {
        self.machine().1.place(self.at, phase)
    }

    /// Calls the function of the call's phase where it may give way and, if it is known to wait, wait.
    pub fn begin(&self, mut cx: Cx, subject: Subject) -> Begun<'_> {
        cx.gives_way = true;
        if self.awaits && cx.phase.awaits() {
            return Begun::Rest(Box::pin(self.wait(cx, subject)));
        }
        let (slot, machine) = self.machine();
        let mut spent = Spent::after(used_before(&cx));
        let running = Arc::new(Running::new(cx));
        let outcome = match running.turn(&mut spent, || machine.begin(self.at, &running, subject)) {
            Ok(Step::Way(call)) => return Begun::Rest(Box::pin(self.go_on(slot, machine, running, spent, call))),
            Ok(Step::Over(verdict)) => Ok(verdict),
            Err(error) => Err(error),
        };
        Begun::Over(self.finish(slot, machine, &running, spent.cpu, outcome))
    }

    /// Goes on with a call that has given way.
    async fn go_on(
        &self,
        slot: usize,
        machine: Arc<Machine>,
        running: Arc<Running>,
        mut spent: Spent,
        mut call: Suspended,
    ) -> Called {
        let began_with = machine.memory();
        let outcome = loop {
            self.leave(slot, &machine, began_with);
            give_way().await;
            match running.turn(&mut spent, || machine.go_on(&running, call)) {
                Ok(Step::Way(again)) => call = again,
                Ok(Step::Over(verdict)) => break Ok(verdict),
                Err(error) => break Err(error),
            }
        };
        self.finish(slot, machine, &running, spent.cpu, outcome)
    }

    /// Calls the function of the call's phase, waiting where it waits.
    async fn wait(&self, mut cx: Cx, subject: Subject) -> Called {
        cx.awaits = true;
        let (slot, machine) = self.machine();
        let mut spent = Spent::after(used_before(&cx));
        let running = Arc::new(Running::new(cx));
        let _showing = running.showing();
        let outcome = match running.turn(&mut spent, || machine.start(self.at, &running, subject)) {
            Some(future) => {
                let (mut future, mut waking, began_with) = (pin!(future), Waking::default(), machine.memory());
                std::future::poll_fn(|task| {
                    let polled = running.turn(&mut spent, || match waking.poll(&running, future.as_mut(), task) {
                        // Read while the lease still holds: what it returned may be large.
                        Poll::Ready(value) => Poll::Ready(value.and_then(|value| machine.read(&running.cx, value))),
                        Poll::Pending => running.ended().map_or(Poll::Pending, |ended| Poll::Ready(Err(ended))),
                    });
                    if polled.is_pending() {
                        self.leave(slot, &machine, began_with);
                    }
                    polled
                })
                .await
            }
            None => Ok(Verdict::Pass),
        };
        self.finish(slot, machine, &running, spent.cpu, outcome)
    }

    /// Calls the function of the call's phase to its end, where nothing may wait.
    pub fn call_now(&self, mut cx: Cx, subject: Subject) -> Called {
        cx.gives_way = false;
        if let Subject::Event(event) = subject {
            return self.hear(&mut Ear::new(cx), Arc::unwrap_or_clone(event)).0;
        }
        let (slot, machine) = self.machine();
        let mut spent = Spent::after(used_before(&cx));
        let running = Arc::new(Running::new(cx));
        let outcome = running.turn(&mut spent, || machine.call(self.at, &running, subject));
        self.finish(slot, machine, &running, spent.cpu, outcome)
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
    ) -> Called {
        let cx = &running.cx;
        running.unshow();
        if cx.phase != Phase::Event {
            cx.visit.spend(&cx.guest.name, cpu);
        }
        let (mut out_of_memory, mut thrown_at) = (false, None);
        let outcome = match outcome {
            // A script that caught its own end has still ended.
            Ok(_) if cx.lease.killed().is_some() => Err(None),
            Ok(mut verdict) => fits(&mut verdict, cx.phase).map(|()| verdict).map_err(Some),
            Err(error) => {
                thrown_at = read::place_of(&error);
                if read::is_memory(&error) {
                    out_of_memory = true;
                    cx.lease.kill(Killed::Memory);
                }
                if cx.lease.killed().is_some() { Err(None) } else { Err(Some(Failed::new(read::message(&error)))) }
            }
        };
        let outcome = outcome.map_err(|failed| {
            let failed = failed.unwrap_or_else(|| {
                let killed = cx.lease.killed().unwrap_or(Killed::Deadline);
                let said = format!("on_{} {}", cx.phase.name(), cx.lease.explain(killed));
                let place = running.ended_at().or(thrown_at.as_deref());
                let message = place.map_or_else(|| said.clone(), |place| format!("{place}: {said}"));
                Failed { killed: Some(killed), message }
            });
            self.placed(&machine, cx.phase, failed)
        });
        let killed = outcome.as_ref().err().is_some_and(|failed| failed.killed.is_some());
        let (replaced, memory) = match killed || out_of_memory {
            true => (self.mend(slot, &machine), machine.memory()),
            false => (false, machine.tidy(self.domain.memory)),
        };
        let used = Used { cpu, safepoints: cx.lease.safepoints(), host_calls: cx.lease.host_calls(), memory, replaced };
        (outcome, used)
    }

    /// A failure with its place: a line where it has one, else where the function begins.
    fn placed(&self, machine: &Machine, phase: Phase, failed: Failed) -> Failed {
        if read::has_place(&failed.message) {
            return failed;
        }
        let label = || self.domain.recipes[self.at].bundle.main.label.clone();
        let place = machine.place(self.at, phase).unwrap_or_else(label);
        Failed { message: format!("{place}: {}", failed.message), ..failed }
    }

    /// Collects a machine that went past a bound, and replaces it when it is still more than half full. Whether others
    /// begin on another one now.
    fn mend(&self, slot: usize, machine: &Arc<Machine>) -> bool {
        if !self.is_shared(slot, machine) {
            return true;
        }
        if machine.collect() && machine.memory() <= self.domain.memory / TRUSTED_SHARE {
            return false;
        }
        self.replace(slot)
    }

    /// Leaves a machine to a call that fills it while it gives way: what others need is not to run out by it.
    fn leave(&self, slot: usize, machine: &Arc<Machine>, began_with: usize) {
        let taken = machine.memory().saturating_sub(began_with);
        if taken > self.domain.memory / LEFT_SHARE && self.is_shared(slot, machine) {
            self.replace(slot);
        }
    }

    /// Whether others begin their calls on it.
    fn is_shared(&self, slot: usize, machine: &Arc<Machine>) -> bool {
        Arc::ptr_eq(&self.domain.slots[slot].load(), machine)
    }

    fn replace(&self, slot: usize) -> bool {
        // The recipes built machines before, so that this fails only where the system has no memory left.
        match self.domain.fresh() {
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
