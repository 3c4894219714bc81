//! Identical asks at the same time: one leads and asks the upstreams, the others listen.
//!
//! The rules. The leader's attempt runs in a task of its own, which is ended only when the leader's client *and* every
//! listener have gone. A stream is pulled by whoever reads it fastest, from its first content on. A leader that fails
//! before anything was heard: its fault is told to all when another try is of no use, else one listener leads anew, three
//! leaders in all; those who set themselves a time that was too short do not count. What was heard in part and breaks off, breaks off for all who heard it; where the model lets another
//! target go on, each goes on for itself from there, and pays for that part alone. Nobody listens who does not
//! want to be answered from the cache, or to have its own answer kept.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::timeout_at;

use super::controls::Controls;
use super::semantic;
use super::visit::{Role, Source, Visit};
use crate::attempt::{self, Heard, Replay, Successors};
use crate::body::Inbound;
use crate::exchange::Exchange;
use crate::fault::{Fault, Kind};
use crate::pipeline::{Call, Cx};
use crate::reply::Reply;
use crate::route::Plan;
use crate::settle::{Settle, process_ended, until_end};
use crate::state::State;
use crate::state::cache::flight::Listener;
use crate::state::cache::{Flight, Join, Key, Landing};

/// What an attempt comes to, with the exchange that made it.
type Ended = (Result<Reply, Fault>, Settle);

/// Finds the ask its part among identical ones.
pub(super) fn board(cx: &Cx, x: &mut Exchange, controls: &Controls) {
    if let Some(visit) = &mut x.cache
        && controls.read
        && controls.write
        && visit.policy.general.single_flight
        && let Some(key) = visit.key
    {
        visit.role = join(cx, visit, key, &x.model);
    }
}

/// Its part in the flight of its key that it may hear, or in a new one.
fn join(cx: &Cx, visit: &Visit, key: Key, model: &str) -> Role {
    match cx.state.cache.join(key, visit.since, &visit.partition, model) {
        Join::Lead(lead) => Role::Lead(lead),
        Join::Listen(listener) => Role::Listen(listener),
    }
}

/// Gets the answer: from the upstreams, or from the exchange that asks them.
pub async fn run(cx: Cx, mut settle: Settle, call: Arc<Call>, plan: Plan) -> Ended {
    loop {
        let role = settle.cache.as_mut().map(|visit| std::mem::take(&mut visit.role)).unwrap_or_default();
        match role {
            Role::Alone => {
                let asked = until_end(&cx.state, pin!(ask(&cx, &mut settle, &call, &plan))).await;
                return (asked.unwrap_or_else(|| Err(process_ended())), settle);
            }
            Role::Lead(lead) => {
                let flight = lead.flight().clone();
                if let Some(visit) = &mut settle.cache {
                    visit.role = Role::Lead(lead);
                }
                let (state, ending) = (cx.state.clone(), Arc::<Notify>::default());
                return Led::start(flight, state, ending.clone(), lead_on(cx, settle, call, plan, ending)).await;
            }
            // Boxed, as below: who asks alone should not carry the room for listening.
            Role::Listen(listener) => {
                // What is known of leaders that have failed is forgotten with the last who holds their flight.
                let _flight = listener.flight().clone();
                let mut listening = Box::pin(listen(&cx, &mut settle, &call, &plan, listener));
                let heard = until_end(&cx.state, listening.as_mut()).await;
                drop(listening);
                match heard.unwrap_or_else(|| Some(Err(process_ended()))) {
                    Some(outcome) => return (outcome, settle),
                    None => again(&cx, &mut settle),
                }
            }
        }
    }
}

async fn lead_on(cx: Cx, mut settle: Settle, call: Arc<Call>, plan: Plan, ending: Arc<Notify>) -> Ended {
    let outcome = tokio::select! {
        biased;
        outcome = ask(&cx, &mut settle, &call, &plan) => outcome,
        () = ending.notified() => Err(process_ended()),
    };
    if let (Err(fault), Some(visit)) = (&outcome, &settle.cache)
        && let Role::Lead(lead) = &visit.role
    {
        lead.fail(fault, settle.patience.is_some());
    }
    (outcome, settle)
}

/// An answer to an ask that means about the same, where there is one; else the upstreams'.
async fn ask(cx: &Cx, x: &mut Exchange, call: &Arc<Call>, plan: &Plan) -> Result<Reply, Fault> {
    if x.cache.as_ref().is_some_and(|visit| visit.frame.is_some())
        && let Some((entry, given)) = Box::pin(semantic::look(cx, x, call)).await
    {
        if let Some(visit) = &x.cache
            && let Role::Lead(lead) = &visit.role
        {
            lead.land(Landing::Done(entry.clone()));
        }
        return Box::pin(super::give(cx, x, call, &entry, given)).await;
    }
    attempt::run(cx, x, call, plan).await
}

/// The flight was given up: somebody leads the next one.
fn again(cx: &Cx, x: &mut Exchange) {
    if let Some(visit) = &mut x.cache
        && let Some(key) = visit.key
    {
        // It asks, if it does, after every purge there was until now.
        visit.since = cx.state.cache.purges();
        visit.role = join(cx, visit, key, &x.model);
    }
}

/// Waits for the leader. None when it was given up.
async fn listen(
    cx: &Cx,
    x: &mut Exchange,
    call: &Arc<Call>,
    plan: &Plan,
    listener: Listener,
) -> Option<Result<Reply, Fault>> {
    // Each keeps to its own time: the leader may have begun long before, or may take longer than this one can wait.
    let total = plan.targets.first().map(|target| target.timeouts.total).into_iter().chain(x.patience).min();
    let landed = match total {
        Some(total) => timeout_at(x.started + total, listener.flight().landed()).await.map_err(|_| total),
        None => Ok(listener.flight().landed().await),
    };
    match landed {
        Err(total) => {
            let text = format!("The exchange took longer than {total:?}.");
            Some(Err(Fault::new(Kind::TotalTimeout, text)))
        }
        Ok(Landing::Failed(fault)) => Some(Err(fault)),
        Ok(Landing::Done(entry)) => {
            let visit = x.cache.as_mut()?;
            visit.shared(&entry);
            Some(super::share(cx, x, call, &entry).await)
        }
        Ok(Landing::Streaming(stream)) => {
            let Some(reader) = stream.listen() else {
                // It is too long to be heard from its beginning: this one asks for itself.
                return Some(attempt::run(cx, x, call, plan).await);
            };
            let visit = x.cache.as_mut()?;
            let target = stream.target.clone();
            visit.coalesced(Source { provider: target.provider.name.clone(), model: target.model.clone() });
            let dialect = stream.dialect;
            visit.stream = Some(stream);
            // Kept to the end: as long as somebody listens, later ones may.
            visit.role = Role::Listen(listener);
            let (body, replay) = (Inbound::Shared(reader), Replay::default());
            let after = Successors::of(call, plan, &target).filter(|_| x.stream);
            let heard = Heard { target, dialect, stream: true, body, replay, after };
            Some(attempt::hear(cx, x, call, heard).await)
        }
        Ok(Landing::Trying | Landing::GivenUp) => None,
    }
}

/// A leader's attempt in a task of its own, so that it outlives the leader's client where others listen.
struct Led {
    flight: Arc<Flight>,
    task: JoinHandle<Ended>,
    state: Arc<State>,
    /// Tells the task that the process ends: nobody polls it then but who is told.
    ending: Arc<Notify>,
}

impl Led {
    fn start(
        flight: Arc<Flight>,
        state: Arc<State>,
        ending: Arc<Notify>,
        attempt: impl Future<Output = Ended> + Send + 'static,
    ) -> Self {
        Led { flight, task: tokio::spawn(attempt), state, ending }
    }
}

impl Future for Led {
    type Output = Ended;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Ended> {
        let Poll::Ready(ended) = Pin::new(&mut self.task).poll(cx) else {
            if self.state.ending() {
                self.ending.notify_one();
            }
            return Poll::Pending;
        };
        match ended {
            Ok(ended) => Poll::Ready(ended),
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // Only the end of the runtime cancels it while somebody waits, and then nobody is asked again.
                Err(_) => Poll::Pending,
            },
        }
    }
}

impl Drop for Led {
    fn drop(&mut self) {
        self.flight.leave(self.task.abort_handle());
    }
}
