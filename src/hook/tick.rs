//! `on_tick`: policies that refresh what they know, on a timer, on one thread of the process.
//!
//! Nobody waits for it; a failure is logged and counted, and the next turn comes all the same.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
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
        ticks.step(&Cx { generation, state, upstream, peer: None }).await;
    }
}

/// When each policy of a generation has its next turn.
#[derive(Default)]
pub struct Ticks {
    due: HashMap<(u64, usize), Instant>,
}

impl Ticks {
    /// Gives every policy its turn that is due one, one after the other. When the next is due, where any is.
    pub async fn step(&mut self, cx: &Cx) -> Option<Instant> {
        let generation = &cx.generation;
        if !generation.hooks.has(Phase::Tick) {
            self.due.clear();
            return None;
        }
        self.due.retain(|(number, _), _| *number == generation.number);
        let now = Instant::now();
        for (at, hook) in generation.hooks.all().iter().enumerate() {
            let Some(every) = hook.bundle.manifest.tick().filter(|_| hook.phases().has(Phase::Tick)) else { continue };
            // The first turn comes at once: a table that is refreshed must be filled first.
            let next = self.due.entry((generation.number, at)).or_insert(now);
            if *next > now {
                continue;
            }
            *next = now + every;
            let world: Arc<dyn World> = Arc::new(Gate::new(cx.clone()));
            let visit = Arc::new(Visit::nobody(generation.number));
            // A failure has been logged and counted.
            let _ = hook.call(Phase::Tick, &visit, &world, Subject::Tick).await;
        }
        self.due.values().min().copied()
    }
}
