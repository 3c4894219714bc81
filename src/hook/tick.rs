//! `on_tick`: policies that refresh what they know, on a timer, on one thread of the process.
//!
//! Nobody waits for it, the turns of other policies neither; a failure is logged and counted, and the next turn comes all the
//! same.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::world::World as Gate;
use crate::generation::Generation;
use crate::guest::Subject;
use crate::host::{Phase, Visit, World};
use crate::pipeline::Cx;
use crate::state::State;
use crate::upstream::Upstream;

/// How often it is looked whether a turn is due; the shortest tick that a manifest may ask for.
const STEP: Duration = Duration::from_millis(100);

/// The same while no policy ticks, which a reload may change: an idle process should be woken rarely.
const IDLE_STEP: Duration = Duration::from_millis(500);

/// Ticks until the process ends.
pub async fn run(current: Arc<ArcSwap<Generation>>, state: Arc<State>, upstream: Arc<dyn Upstream>) {
    let mut ticks = Ticks::default();
    loop {
        let ticks_at_all = current.load().hooks.has(Phase::Tick);
        sleep(if ticks_at_all { STEP } else { IDLE_STEP }).await;
        let (generation, state, upstream) = (current.load_full(), state.clone(), upstream.clone());
        ticks.start(&Cx { generation, state, upstream, peer: None });
    }
}

/// A policy: its generation, and its place there.
type Place = (u64, usize);

/// When each policy of a generation has its next turn.
#[derive(Default)]
pub struct Ticks {
    due: HashMap<Place, Instant>,
    /// Turns that nobody waits for. None of a policy's begins before the one before has ended.
    under_way: HashMap<Place, JoinHandle<()>>,
}

impl Ticks {
    /// Gives every policy its turn that is due one, one after the other. When the next is due, where any is.
    pub async fn step(&mut self, cx: &Cx) -> Option<Instant> {
        for at in self.now_due(cx) {
            turn(cx, at).await;
        }
        self.due.values().min().copied()
    }

    /// Begins the turns that are due, one beside the other.
    fn start(&mut self, cx: &Cx) {
        self.under_way.retain(|_, turn| !turn.is_finished());
        for at in self.now_due(cx) {
            let (place, cx) = ((cx.generation.number, at), cx.clone());
            self.under_way.insert(place, tokio::spawn(async move { turn(&cx, at).await }));
        }
    }

    /// The places of the policies whose turn it is, which is noted.
    fn now_due(&mut self, cx: &Cx) -> Vec<usize> {
        let generation = &cx.generation;
        if !generation.hooks.has(Phase::Tick) {
            self.due.clear();
            return Vec::new();
        }
        self.due.retain(|(number, _), _| *number == generation.number);
        let now = Instant::now();
        let mut due = Vec::new();
        for (at, hook) in generation.hooks.all().iter().enumerate() {
            let Some(every) = hook.bundle.manifest.tick().filter(|_| hook.phases().has(Phase::Tick)) else { continue };
            let place = (generation.number, at);
            // The first turn comes at once: a table that is refreshed must be filled first.
            let next = self.due.entry(place).or_insert(now);
            if *next <= now && !self.under_way.contains_key(&place) {
                *next = now + every;
                due.push(at);
            }
        }
        due
    }
}

async fn turn(cx: &Cx, at: usize) {
    let world: Arc<dyn World> = Arc::new(Gate::new(cx.clone()));
    let visit = Arc::new(Visit::nobody(cx.generation.number));
    // A failure has been logged and counted.
    let _ = cx.generation.hooks.all()[at].call(Phase::Tick, &visit, &world, Subject::Tick).await;
}
