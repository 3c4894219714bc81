//! Policies in plugins: the phases of the contract behind the gateway's hooks.
//!
//! A component is compiled and described once ([`Described`]), and started for the settings of a hook ([`Policy`]). Each
//! call takes an instance under the call's own lease, and gives it back only when nothing broke. Never decides what a
//! failure means: the hook does.

mod judge;
mod manifest;
mod views;

use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use wasmtime::Store;
use wasmtime::component::{ComponentExportIndex, Instance, InstancePre, Resource};

use super::bindings::{
    manifest as wit, on_answer, on_arguments, on_attempt, on_auth, on_done, on_event, on_fault, on_request, on_route,
    on_tick,
};
use super::engine::Machine;
use super::plugin::{Bytes, Loading, World, wait};
use super::pool::{Pool, Warm};
use super::store::Held;
use super::turn::{broke, metered, used};
use crate::guest::{Failed, Manifest, Subject, Used, Verdict, fits, used_before};
use crate::host::{Cx, Guest, Lease, Phase, Phases, Visit};

/// The package of the contract, as exports name it.
const PACKAGE: &str = "portcullis:gateway/";

/// Instances that stand ready when a policy is loaded, on as many workers as there are, at most.
const MAX_READY: usize = 8;

/// The handlers of a component, one for each interface of a phase that it exports.
macro_rules! handlers {
    ($($module:ident $export:literal $phase:ident),*) => {
        #[derive(Default)]
        struct Exports { $($module: Option<$module::GuestIndices>),* }

        /// Those of one instance, found when they are first called.
        #[derive(Default)]
        struct Handlers { $($module: Option<$module::Guest>),* }

        impl Exports {
            /// # Errors
            /// An export is not what the contract says.
            fn find(pre: &InstancePre<Held>, names: &[String]) -> Result<(Self, Phases), String> {
                let mut exports = Exports::default();
                let mut phases = Phases::of(&[Phase::Init]);
                $({
                    let name = format!(concat!("{}on-", $export, "@"), PACKAGE);
                    if names.iter().any(|export| export.starts_with(&name)) {
                        let found = $module::GuestIndices::new(pre).map_err(|error| format!("{error:#}"))?;
                        exports.$module = Some(found);
                        phases = phases.with(Phases::of(&[Phase::$phase]));
                    }
                })*
                Ok((exports, phases))
            }
        }
    };
}

handlers!(
    on_auth "auth" Auth, on_request "request" Request, on_route "route" Route, on_attempt "attempt" Attempt,
    on_fault "fault" Fault, on_answer "answer" Answer, on_event "event" Event, on_arguments "arguments" Event,
    on_done "done" Done, on_tick "tick" Tick
);

/// An instance: what it is called through.
pub struct Running {
    instance: Instance,
    handlers: Handlers,
}

/// A component that has said what it is.
pub struct Described {
    machine: Arc<Machine>,
    name: Arc<str>,
    pub sha256: String,
    pub manifest: Manifest,
    pub phases: Phases,
    pre: InstancePre<Held>,
    exports: Exports,
    /// Its `init` alone: whatever is found by type is looked at anew in each instance.
    init: ComponentExportIndex,
}

/// A component started for the settings of one hook.
pub struct Policy {
    described: Arc<Described>,
    config: String,
    memory: usize,
    pool: Pool<Running>,
}

impl Described {
    /// Compiles and links a component, and asks it what it is.
    ///
    /// # Errors
    /// Why it is no policy, with its file.
    pub fn load(loading: &Loading<'_>, bytes: &Bytes, guest: &Arc<Guest>) -> Result<Arc<Self>, String> {
        let told = |what: String| format!("{}: {what}", bytes.path.display());
        let linked = loading.link(bytes, World::Policy)?;
        let start = wit::GuestIndices::new(&linked.pre).map_err(|error| {
            told(format!("is no policy: {error:#}; it must export portcullis:gateway/manifest, see plugins/wit"))
        })?;
        let init = init(&linked.pre, &linked.exports).ok_or_else(|| told("has no `init`".to_owned()))?;
        let (exports, phases) = Exports::find(&linked.pre, &linked.exports).map_err(told)?;
        let mut described = Described {
            machine: loading.machine.clone(),
            name: loading.name.into(),
            sha256: bytes.sha256.clone(),
            manifest: Manifest::default(),
            phases,
            pre: linked.pre,
            exports,
            init,
        };
        let manifest = wait(async {
            let cx = starting(guest, true);
            let (mut store, instance, spent) = described.instance(&cx).await.map_err(|failed| failed.message)?;
            let start = start.load(&mut store, &instance).map_err(|error| format!("{error:#}"))?;
            let (said, _) = metered(&cx, spent, start.call_describe(&mut store)).await;
            manifest::read(said.map_err(|error| {
                let why = failed(&cx, store.data(), &error).message;
                format!("broke as it described itself: {why}")
            })?)
        });
        let manifest = manifest.and_then(|manifest| manifest).map_err(told)?;
        described.manifest = Manifest { arguments: described.exports.on_arguments.is_some(), ..manifest };
        Ok(Arc::new(described))
    }

    /// A new instance in this call, which is of the phase `init`, and how long it took to be made.
    async fn instance(&self, cx: &Arc<Cx>) -> Result<(Store<Held>, Instance, Duration), Failed> {
        let mut store = Held::store(&self.machine.engine, cx.guest.budget.memory);
        Held::enter(&mut store, cx.clone(), Subject::Tick);
        let (made, took) = metered(cx, Duration::ZERO, self.pre.instantiate_async(&mut store)).await;
        let instance = made.map_err(|error| failed(cx, store.data(), &error))?;
        Ok((store, instance, took))
    }
}

/// The `init` of a component that exports a manifest.
fn init(pre: &InstancePre<Held>, exports: &[String]) -> Option<ComponentExportIndex> {
    let name = exports.iter().find(|name| name.starts_with(&format!("{PACKAGE}manifest@")))?;
    let component = pre.component();
    let manifest = component.get_export_index(None, name)?;
    component.get_export_index(Some(&manifest), "init")
}

/// What a starting instance is called with: there is no exchange and no gateway around it yet.
fn starting(guest: &Arc<Guest>, gives_way: bool) -> Arc<Cx> {
    Arc::new(Cx {
        guest: guest.clone(),
        phase: Phase::Init,
        visit: Arc::new(Visit::nobody(0)),
        apart: None,
        world: None,
        lease: Lease::new(guest.budget.of(Phase::Init)),
        awaits: false,
        gives_way,
    })
}

/// Why a call gave no verdict, in its own words.
fn failed(cx: &Cx, held: &Held, error: &wasmtime::Error) -> Failed {
    let Failed { killed, message } = broke(cx, held, error);
    let phase = cx.phase.name();
    match killed {
        Some(over) => Failed { killed, message: format!("on_{phase} {}", cx.lease.explain(over)) },
        None => Failed::new(format!("on_{phase} broke: {message}")),
    }
}

impl Policy {
    /// Starts a component for these settings, once for each worker.
    ///
    /// # Errors
    /// It refuses its settings, or does not start.
    pub fn start(described: &Arc<Described>, guest: &Arc<Guest>, config: String) -> Result<Arc<Self>, String> {
        let memory = guest.budget.memory;
        let policy = Policy { described: described.clone(), config, memory, pool: Pool::new(memory) };
        for worker in 0..policy.pool.workers().min(MAX_READY) {
            let warm = wait(policy.fresh(guest, true)).and_then(|warm| warm.map_err(|failed| failed.message))?;
            policy.pool.place(worker, warm);
        }
        Ok(Arc::new(policy))
    }

    pub fn phases(&self) -> Phases {
        self.described.phases
    }

    /// Whether an instance under this budget is like those at rest.
    pub fn suits(&self, guest: &Guest) -> bool {
        self.memory == guest.budget.memory
    }

    /// Throws away the instances at rest: the next calls start anew.
    pub fn cool(&self) {
        self.pool.clear();
    }

    /// A new instance that has taken its settings.
    async fn fresh(&self, guest: &Arc<Guest>, gives_way: bool) -> Result<Warm<Running>, Failed> {
        let cx = starting(guest, gives_way);
        let (mut store, instance, spent) = self.described.instance(&cx).await?;
        let init = instance.get_typed_func::<(&str,), (Result<(), String>,)>(&mut store, self.described.init);
        let init = init.map_err(|error| failed(&cx, store.data(), &error))?;
        let (took, _) = metered(&cx, spent, init.call_async(&mut store, (&self.config,))).await;
        let (took,) = took.map_err(|error| failed(&cx, store.data(), &error))?;
        took.map_err(|why| Failed::new(format!("refuses its settings: {why}")))?;
        store.data_mut().call = None;
        Ok(Warm::new(store, Running { instance, handlers: Handlers::default() }))
    }

    /// Calls the handler of the call's phase, waiting where it waits.
    pub async fn call(&self, mut cx: Cx, subject: Subject) -> (Result<Verdict, Failed>, Used) {
        (cx.awaits, cx.gives_way) = (cx.phase.awaits(), cx.phase.gives_way());
        self.called(cx, subject).await
    }

    /// Calls the handler of the call's phase where nothing may wait.
    pub fn call_now(&self, mut cx: Cx, subject: Subject) -> (Result<Verdict, Failed>, Used) {
        // It goes on to its end, and functions that wait refuse: one poll is all it takes.
        (cx.awaits, cx.gives_way) = (false, false);
        match pin!(self.called(cx, subject)).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(outcome) => outcome,
            Poll::Pending => (Err(Failed::new("waited where nothing may wait")), Used::default()),
        }
    }

    async fn called(&self, cx: Cx, subject: Subject) -> (Result<Verdict, Failed>, Used) {
        let warm = match self.pool.take() {
            Some(warm) => warm,
            None => match self.fresh(&cx.guest, cx.gives_way).await {
                Ok(warm) => warm,
                Err(failed) => return (Err(failed), Used { replaced: true, ..Used::default() }),
            },
        };
        self.run(Arc::new(cx), subject, warm).await
    }

    async fn run(&self, cx: Arc<Cx>, subject: Subject, mut warm: Warm<Running>) -> (Result<Verdict, Failed>, Used) {
        Held::enter(&mut warm.store, cx.clone(), subject.clone());
        let before = used_before(&cx);
        let exports = &self.described.exports;
        let (outcome, cpu) = metered(&cx, before, handle(exports, &mut warm, cx.phase, subject)).await;
        if cx.phase != Phase::Event {
            cx.visit.spend(&cx.guest.name, cpu);
        }
        let held = warm.store.data_mut();
        held.call = None;
        let used = used(&cx, held, cpu, outcome.is_err());
        let outcome = match outcome {
            // What was told of its end and went on has still ended.
            Ok(_) if cx.lease.killed().is_some() => Err(failed(&cx, held, &wasmtime::Error::msg("has ended"))),
            Ok(said) => {
                self.pool.put(warm);
                said.map_err(Failed::new).and_then(|mut verdict| fits(&mut verdict, cx.phase).map(|()| verdict))
            }
            Err(error) => Err(failed(&cx, held, &error)),
        };
        (outcome, used)
    }
}

/// Calls the handler of a phase. The outer error is a trap; the inner one is the guest's own word.
async fn handle(
    exports: &Exports,
    warm: &mut Warm<Running>,
    phase: Phase,
    subject: Subject,
) -> wasmtime::Result<Result<Verdict, String>> {
    let Warm { store, bindings: Running { instance, handlers }, .. } = warm;
    macro_rules! call {
        ($module:ident, $judge:path $(, $argument:expr)*) => {{
            let guest = match &handlers.$module {
                Some(guest) => guest,
                None => {
                    let Some(found) = &exports.$module else { return Ok(Ok(Verdict::Pass)) };
                    handlers.$module.insert(found.load(&mut *store, instance)?)
                }
            };
            let said = guest.call_handle(&mut *store $(, $argument)*).await?;
            Ok(said.and_then($judge))
        }};
    }
    // The guest's own to drop: engines that collect their garbage give nothing back at the end of a call. All handles of a
    // call carry its number, so that one which is kept is good for no other.
    let number = store.data().number();
    let (head, ask, given) = (Resource::new_own(number), Resource::new_own(number), Resource::new_own(number));
    match (phase, &subject) {
        (Phase::Auth, Subject::Head(_)) => call!(on_auth, judge::auth, head),
        (Phase::Request, Subject::Request(_)) => call!(on_request, judge::request, ask),
        (Phase::Route, Subject::Request(_)) => call!(on_route, judge::route, ask),
        (Phase::Attempt, Subject::Try(next)) => call!(on_attempt, judge::attempt, ask, &views::attempt(next)),
        (Phase::Fault, Subject::Failure(failed)) => call!(on_fault, judge::fault, ask, &views::failure(failed)),
        (Phase::Answer, Subject::Answer(_)) => call!(on_answer, judge::answer, ask, given),
        (Phase::Event, Subject::Event(next)) => match &next.tool {
            Some(tool) => call!(on_arguments, judge::event, tool, &views::event(next)),
            None => call!(on_event, judge::event, &views::event(next)),
        },
        (Phase::Done, Subject::Done(over)) => call!(on_done, judge::done, &views::done(over)),
        (Phase::Tick, Subject::Tick) => call!(on_tick, judge::tick),
        _ => Ok(Ok(Verdict::Pass)),
    }
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Policy({})", self.described.name)
    }
}

#[cfg(test)]
pub(super) mod tests;
