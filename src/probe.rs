//! Probes: providers are asked now and then whether they are there, where the operator wants it.
//!
//! Off by default, and never a paid call unless it says so. One that is missed gets no requests until it is found again;
//! a request that has no other target is let through all the same, as with a breaker that nobody wrote.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, sleep};

use crate::attempt;
use crate::fault::Fault;
use crate::generation::Generation;
use crate::route::{Probe, Probed, Provider};
use crate::state::State;
use crate::state::health::Record;
use crate::upstream::Upstream;

/// How often it is looked whether a probe is due.
const STEP: Duration = Duration::from_millis(50);

/// The same while there are no probes, which a reload may change: an idle process should be woken rarely.
const IDLE_STEP: Duration = Duration::from_millis(500);

/// The name that a target of a whole provider goes by here; it is never sent.
const WHOLE: &str = "-";

/// What came of a probe: of which provider, asked for what.
type Came = (String, Probe, Result<(), Fault>);

/// Probes until the process ends.
pub async fn run(current: Arc<ArcSwap<Generation>>, state: Arc<State>, upstream: Arc<dyn Upstream>) {
    let (sender, receiver) = unbounded_channel();
    let mut rounds = Rounds { state, upstream, due: HashMap::new(), missed: HashMap::new(), sender, receiver };
    loop {
        let has_probes = current.load().routes.providers.iter().any(|provider| provider.probe.is_some());
        sleep(if has_probes { STEP } else { IDLE_STEP }).await;
        rounds.turn(&current.load());
    }
}

struct Rounds {
    state: Arc<State>,
    upstream: Arc<dyn Upstream>,
    /// When each provider is asked next; None while an answer is waited for.
    due: HashMap<String, Option<Instant>>,
    /// Bad answers in a row.
    missed: HashMap<String, u32>,
    sender: UnboundedSender<Came>,
    receiver: UnboundedReceiver<Came>,
}

impl Rounds {
    /// Takes in what has come, and asks whoever is due.
    fn turn(&mut self, generation: &Generation) {
        while let Ok(came) = self.receiver.try_recv() {
            self.came(came);
        }
        let now = Instant::now();
        for provider in &generation.routes.providers {
            let Some(probe) = &provider.probe else { continue };
            let due = self.due.entry(provider.name.clone()).or_insert(Some(now));
            if due.is_some_and(|due| due <= now) {
                *due = None;
                self.ask(generation, provider, probe.clone());
            }
        }
    }

    fn ask(&self, generation: &Generation, provider: &Provider, probe: Probe) {
        let model = if let Probed::Model(model) = &probe.what { model } else { WHOLE };
        let Some(target) = generation.target(&provider.name, model) else { return };
        let (upstream, sender) = (self.upstream.clone(), self.sender.clone());
        tokio::spawn(async move {
            let outcome = attempt::probe::ask(&*upstream, &target, &probe.what, probe.timeout).await;
            let _ = sender.send((target.provider.name.clone(), probe, outcome));
        });
    }

    fn came(&mut self, (name, probe, outcome): Came) {
        // Many processes that began together must not ask together for ever.
        let wait = probe.every.mul_f64(0.9 + 0.2 * fastrand::f64());
        self.due.insert(name.clone(), Some(Instant::now() + wait));
        let record = match &probe.what {
            Probed::Path(_) => self.state.health.record(&name),
            Probed::Model(model) => self.state.health.record(&format!("{name}/{model}")),
        };
        let in_a_row = self.missed.entry(name).or_default();
        let fault = match outcome {
            Ok(()) => {
                *in_a_row = 0;
                if record.found(self.state.now()) {
                    tracing::info!(target = %record.name, "a probe found it again");
                }
                return;
            }
            Err(fault) => fault,
        };
        *in_a_row += 1;
        let in_a_row = *in_a_row;
        if in_a_row >= probe.failures {
            self.missed_by(&record, &probe, &fault, in_a_row == probe.failures);
        }
    }

    fn missed_by(&self, record: &Record, probe: &Probe, fault: &Fault, first: bool) {
        // Until the next probe has had its time, with some to spare.
        record.missed(self.state.now(), probe.every.mul_f64(1.1) + probe.timeout + STEP * 4);
        if first {
            tracing::warn!(target = %record.name, why = %fault.message, "probes miss it: it gets no requests");
        }
    }
}
