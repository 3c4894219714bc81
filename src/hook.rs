//! The stage between the pipeline and its guests: who is called when, what a failure means, and what was decided.
//!
//! Guests are called in order, each sees what those before it decided. A verdict takes effect after the guest has
//! returned, all of it or nothing; one in shadow is noted and takes none. Whatever subscribes to no phase costs a bit.

mod apply;
mod breaker;
mod inputs;
mod open;
mod stages;
mod stream;
pub mod tick;
mod world;

use std::pin::pin;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use serde_json::{Value, json};

use crate::auth::Principal;
use crate::fault::{Fault, Kind};
use crate::guest::{Bundle, Ear, Engine, Failed, Subject, Used, Verdict, view};
use crate::host::log::in_line;
use crate::host::visit::Apart;
use crate::host::{Cx, Guest, Killed, Lease, Phase, Phases, Visit, World, pick};
use crate::route;
use crate::state::State;
use crate::state::guests::{Outcome, Record};

pub use apply::Set;
use apply::Undone;
use breaker::{Breaker, Caller, Off};
pub use open::{
    Open, converse, guards_answers, hears_of_faults, identify, is_of_guest, may_name_targets, open_for_model,
    sees_answers, steers, take_notes,
};
pub use stages::{
    After, Answered, Edit, FailedTry, answer, attempt, auth, done, edited, events, fault, looks_at_answer,
    looks_at_faults, request, route as plan,
};

/// Every guest of a generation.
#[derive(Debug, Default)]
pub struct Hooks {
    /// In the order in which they run.
    list: Vec<Hook>,
    phases: Phases,
    /// Each is attached to models by name.
    by_model: bool,
}

/// One attached guest.
#[derive(Debug)]
pub struct Hook {
    pub guest: Arc<Guest>,
    pub bundle: Arc<Bundle>,
    engine: Engine,
    matcher: Matcher,
    priority: i32,
    fail: Fail,
    pub shadow: bool,
    /// Hundredths of a percent of exchanges.
    share: u16,
    record: OnceLock<Arc<Record>>,
    breaker: Breaker,
    /// Its place among the hooks.
    place: usize,
    /// It is never switched off: see [`Hooks::stay_on`].
    stays_on: bool,
}

/// Where a hook runs; an empty list lets everything through.
#[derive(Debug, Default)]
pub struct Matcher {
    pub models: Vec<String>,
    pub keys: Vec<String>,
    pub projects: Vec<String>,
}

/// What the model of an exchange is called. A policy that puts another one in its place takes it from nobody who is attached
/// to the first.
#[derive(Debug, Clone, Copy)]
pub struct Names<'a> {
    /// As its caller names it.
    pub called: &'a str,
    /// The one that a policy has put in its place.
    pub placed: Option<&'a str>,
}

/// What the operator wants of failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fail {
    Default,
    Open,
    Closed,
}

impl Hooks {
    pub fn new(mut list: Vec<Hook>) -> Self {
        // Stable: of the same priority, the operator's order.
        list.sort_by_key(|hook| std::cmp::Reverse(hook.priority));
        list.iter_mut().enumerate().for_each(|(place, hook)| hook.place = place);
        let phases = list.iter().fold(Phases::NONE, |set, hook| set.with(hook.phases()));
        let by_model = list.iter().all(|hook| hook.matcher.names_models());
        Hooks { list, phases, by_model }
    }

    /// Whether none is called for an exchange before its model is known.
    pub fn wait_for_model(&self) -> bool {
        self.by_model
    }

    pub fn has(&self, phase: Phase) -> bool {
        self.phases.has(phase)
    }

    /// Whether any guest is called for an exchange at all.
    pub fn any(&self) -> bool {
        !self.list.is_empty()
    }

    pub fn all(&self) -> &[Hook] {
        &self.list
    }

    /// Calls nobody in this phase, where what is asked there is known already.
    pub fn leave_out(&mut self, phase: Phase) {
        self.phases = self.phases.without(phase);
    }

    /// Switches nobody off, however often they fail: a test that goes on without its policy would test nothing.
    pub fn stay_on(&mut self) {
        self.list.iter_mut().for_each(|hook| hook.stays_on = true);
    }
}

impl Matcher {
    /// Whether it lets everything through.
    pub fn is_everything(&self) -> bool {
        self.models.is_empty() && self.keys.is_empty() && self.projects.is_empty()
    }

    /// Whether it lets nothing through that has no model yet.
    fn names_models(&self) -> bool {
        !self.models.is_empty() && !route::allows(&self.models, "")
    }

    fn fits(&self, principal: Option<&Arc<Principal>>, model: Names<'_>) -> bool {
        let of =
            |list: &[String], name: Option<&str>| list.is_empty() || name.is_some_and(|name| route::allows(list, name));
        (of(&self.models, Some(model.called)) || model.placed.is_some() && of(&self.models, model.placed))
            && of(&self.keys, principal.map(|principal| principal.key.as_str()))
            && of(&self.projects, principal.and_then(|principal| principal.project.as_deref()))
    }
}

impl Hook {
    #[expect(clippy::too_many_arguments, reason = "each is one key of the configuration")]
    pub fn new(
        guest: Arc<Guest>,
        bundle: Arc<Bundle>,
        engine: Engine,
        matcher: Matcher,
        priority: i32,
        fail: Fail,
        shadow: bool,
        share: u16,
    ) -> Self {
        Hook {
            guest,
            bundle,
            engine,
            matcher,
            priority,
            fail,
            shadow,
            share,
            record: OnceLock::new(),
            breaker: Breaker::default(),
            place: 0,
            stays_on: false,
        }
    }

    /// The phases that it takes part in. Who is attached to some exchanges only is not asked who a caller is: nobody knows
    /// yet which exchange it will be.
    pub fn phases(&self) -> Phases {
        let phases = self.engine.phases();
        if self.matcher.is_everything() { phases } else { phases.without(Phase::Auth) }
    }

    /// Whether it runs for this exchange at this phase.
    fn wants(&self, phase: Phase, visit: &Visit, model: Names<'_>) -> bool {
        self.phases().has(phase) && self.matcher.fits(visit.principal(), model) && self.shares(visit)
    }

    /// Whether the exchange falls into its share.
    fn shares(&self, visit: &Visit) -> bool {
        self.share >= 10_000 || pick::point(visit.conversation().as_bytes()) * 10_000.0 < f64::from(self.share)
    }

    /// Whether a failure at this phase refuses the request.
    fn closed(&self, phase: Phase) -> bool {
        match (self.fail, phase) {
            (_, Phase::Init | Phase::Done | Phase::Tick) => false,
            (Fail::Open, _) => false,
            (Fail::Closed, _) => true,
            (Fail::Default, Phase::Auth) => true,
            (Fail::Default, _) => self.bundle.manifest.guard,
        }
    }

    /// Whether it is switched off for failing too often, if only for one caller.
    pub fn is_off(&self, state: &State) -> bool {
        self.breaker.is_off(|| state.now())
    }

    fn is_off_for(&self, visit: &Visit, state: &State) -> bool {
        self.breaker.is_off_for(|| Caller::of(visit), || state.now())
    }

    fn record(&self, state: &State) -> &Arc<Record> {
        self.record.get_or_init(|| state.guests.record(&self.guest.name))
    }

    fn cx(&self, phase: Phase, visit: &Arc<Visit>, world: &Arc<dyn World>) -> Cx {
        Cx {
            guest: self.guest.clone(),
            phase,
            visit: visit.clone(),
            apart: None,
            world: Some(world.clone()),
            lease: Lease::new(self.guest.budget.of(phase)).until(visit.deadline()),
            awaits: false,
            gives_way: false,
        }
    }

    /// Calls it. [`Verdict::Pass`] also when it decided something in shadow. Where the phase may not wait this is done at
    /// its first poll: see [`at_once`].
    ///
    /// # Errors
    /// It failed and its failure refuses the request.
    async fn call(
        &self,
        phase: Phase,
        visit: &Arc<Visit>,
        world: &Arc<dyn World>,
        subject: Subject,
    ) -> Result<Verdict, Fault> {
        if self.is_off_for(visit, world.state()) {
            return self.off(phase, visit, world.state());
        }
        self.called(visit);
        let saw = visit.traced.then(|| subject.brief());
        let cx = self.cx(phase, visit, world);
        let (outcome, used) = self.engine.begin(cx, subject).end().await;
        self.judge(phase, visit, world.state(), saw, outcome, used)
    }

    /// Calls it for an event of a stream, which it gives back.
    ///
    /// # Errors
    /// As [`Hook::call`].
    fn hear(
        &self,
        ear: &mut Ear,
        visit: &Arc<Visit>,
        apart: &Arc<Apart>,
        world: &Arc<dyn World>,
        event: view::Event,
    ) -> Result<(Verdict, view::Event), Fault> {
        let (phase, state) = (Phase::Event, world.state());
        if ear.left_alone {
            return Ok((Verdict::Pass, event));
        }
        if self.is_off_for(visit, state) {
            return Ok((self.off(phase, visit, state)?, event));
        }
        let saw = visit.traced.then(|| event.brief());
        let cx = || Cx { apart: Some(apart.clone()), ..self.cx(phase, visit, world) };
        let ((outcome, used), event) = self.engine.hear(ear, cx, event);
        let killed = outcome.as_ref().err().is_some_and(|failed| failed.killed.is_some());
        ear.left_alone = killed && (self.shadow || !self.closed(phase));
        Ok((self.judge(phase, visit, state, saw, outcome, used)?, event))
    }

    /// It is called for an exchange, or looks at its stream.
    fn called(&self, visit: &Visit) {
        if visit.first_call_of(self.place, &self.guest.name) {
            self.breaker.called();
        }
    }

    fn off(&self, phase: Phase, visit: &Visit, state: &State) -> Result<Verdict, Fault> {
        self.record(state).phase(phase as usize).add(Outcome::Off, Duration::ZERO, 0);
        self.fail_with(phase, visit, "is switched off: it failed too often")
    }

    fn judge(
        &self,
        phase: Phase,
        visit: &Visit,
        state: &State,
        saw: Option<Value>,
        outcome: Result<Verdict, Failed>,
        used: Used,
    ) -> Result<Verdict, Fault> {
        let record = self.record(state);
        record.memory.store(used.memory as u64, Relaxed);
        if used.replaced {
            record.replaced.fetch_add(1, Relaxed);
        }
        let kind = match &outcome {
            Ok(Verdict::Pass) => Outcome::Pass,
            Ok(_) if self.shadow => Outcome::Shadow,
            Ok(_) => Outcome::Acted,
            Err(Failed { killed: Some(_), .. }) => Outcome::Killed,
            Err(_) => Outcome::Error,
        };
        record.phase(phase as usize).add(kind, used.cpu, used.safepoints);
        match outcome {
            Ok(Verdict::Pass) => {
                // Of a stream only what changed it: an exchange has room for few notes.
                if phase != Phase::Event {
                    self.note(phase, visit, saw, &used, || Verdict::Pass.name().into());
                }
                Ok(Verdict::Pass)
            }
            Ok(verdict) => {
                // An exchange has room for few notes: of a stream's changes the first.
                let another = matches!(verdict, Verdict::Text(_)) && !visit.first_change_by(&self.guest.name);
                if !another {
                    self.note(phase, visit, saw, &used, || describe(&verdict));
                }
                Ok(if self.shadow { Verdict::Pass } else { verdict })
            }
            Err(failed) => {
                let text = failed.message;
                if let Some(fault) = visit.unreadable(&text) {
                    self.note(phase, visit, saw, &used, || json!({ "failed": text.clone() }));
                    return match self.shadow || !self.closed(phase) {
                        true => Ok(Verdict::Pass),
                        false => Err(fault.clone()),
                    };
                }
                if phase != Phase::Event || !visit.has_failed(&self.guest.name) {
                    self.note(phase, visit, saw, &used, || json!({ "failed": text.clone() }));
                }
                self.failed(phase, visit, state, &text);
                match failed.killed {
                    // Not the policy's time is over, but everybody's.
                    Some(Killed::Exchange) => Err(self.late(phase, visit)),
                    _ => self.fail_with(phase, visit, &text),
                }
            }
        }
    }

    /// Logs and counts a failure.
    fn failed(&self, phase: Phase, visit: &Visit, state: &State, why: &str) {
        let first = visit.first_failure_of(&self.guest.name);
        // A stream has as many events as it has: of those that fail the first is told.
        if first || phase != Phase::Event {
            tracing::warn!("{} in on_{}: {} {}", self.guest.name, phase.name(), in_line(why), visit.id);
        }
        let record = self.record(state);
        record.last_error.store(Some(Arc::new(why.to_owned())));
        if !first || self.stays_on {
            return;
        }
        if let Some(off) = self.breaker.failed(Caller::of(visit), state.now()) {
            record.switched_off.fetch_add(1, Relaxed);
            let whom = match off {
                Off::All => "",
                Off::Callers => ", for those whose exchanges these were",
            };
            tracing::error!("{} is switched off for {:?}{whom}: it failed too often", self.guest.name, breaker::OFF);
        }
    }

    /// The fault of an exchange whose time was over while it waited here.
    fn late(&self, phase: Phase, visit: &Visit) -> Fault {
        let total = visit.deadline().map_or(Duration::ZERO, |(_, total)| total);
        Fault::new(Kind::TotalTimeout, format!("The exchange took longer than {total:?}.")).because(format!(
            "{} waited in on_{}",
            self.guest.name,
            phase.name()
        ))
    }

    fn note(&self, phase: Phase, visit: &Visit, saw: Option<Value>, used: &Used, what: impl FnOnce() -> Value) {
        visit.note(&self.guest.name, || {
            let took = used.cpu.as_micros() as u64;
            let mut note = json!({ "phase": phase.name(), "saw": saw, "us": took, "decided": what() });
            if self.shadow {
                note["shadow"] = true.into();
            }
            note
        });
    }

    /// A verdict that could not be done: counts as a failure, and refuses where failures do.
    fn misjudged(&self, phase: Phase, visit: &Visit, state: &State, why: &str) -> Result<(), Fault> {
        let place = self.engine.place(phase).map(|place| format!("{place}: ")).unwrap_or_default();
        let why = &format!("{place}{why}");
        self.record(state).phase(phase as usize).add(Outcome::Error, Duration::ZERO, 0);
        self.note(phase, visit, None, &Used::default(), || json!({ "failed": why }));
        self.failed(phase, visit, state, why);
        self.fail_with(phase, visit, why).map(drop)
    }

    /// What a verdict came to; None where it could not be done and that refuses nothing.
    ///
    /// # Errors
    /// As [`Hook::call`], or what went wrong was not the policy's doing.
    fn done<T>(&self, phase: Phase, visit: &Visit, state: &State, done: Result<T, Undone>) -> Result<Option<T>, Fault> {
        match done {
            Ok(done) => Ok(Some(done)),
            Err(Undone::Wrong(why)) => self.misjudged(phase, visit, state, &why).map(|()| None),
            Err(Undone::Fault(fault)) => Err(*fault),
        }
    }

    fn fail_with(&self, phase: Phase, visit: &Visit, why: &str) -> Result<Verdict, Fault> {
        if self.shadow || !self.closed(phase) {
            return Ok(Verdict::Pass);
        }
        let text = format!("The policy `{}` failed in on_{}.", self.guest.name, phase.name());
        Err(Fault::new(Kind::PolicyFailed, text).because(format!("{why} ({})", visit.id)))
    }
}

/// The verdict of a call in a phase that may not wait.
///
/// # Errors
/// As [`Hook::call`].
fn at_once(call: impl Future<Output = Result<Verdict, Fault>>) -> Result<Verdict, Fault> {
    match pin!(call).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(verdict) => verdict,
        Poll::Pending => Err(Fault::new(Kind::Internal, "A policy waits in a phase that may not.")),
    }
}

/// A verdict for the trace: what was decided, never a prompt.
fn describe(verdict: &Verdict) -> Value {
    match verdict {
        Verdict::Plan(wish) => {
            let steps: Vec<&str> = wish.steps.iter().map(|step| step.target.as_str()).collect();
            json!({ "plan": steps })
        }
        Verdict::Patch(patch) => {
            let mut what = json!({});
            if let Some(model) = &patch.model {
                what["model"] = model.as_str().into();
            }
            if !patch.params.is_empty() {
                what["params"] = patch.params.keys().cloned().collect::<Vec<_>>().into();
            }
            if !patch.headers.is_empty() {
                what["headers"] = patch.headers.keys().cloned().collect::<Vec<_>>().into();
            }
            if patch.edits_text() {
                what["text"] = "edited".into();
            }
            json!({ "patch": what })
        }
        Verdict::Reject(reject) => json!({ "reject": reject.code }),
        Verdict::Respond(respond) => json!({ "respond": respond.status }),
        Verdict::Principal(who) => json!({ "principal": who.key }),
        Verdict::Same(after) => json!({ "same": { "after_ms": after.as_millis() as u64 } }),
        other => other.name().into(),
    }
}
