//! The end of an exchange, exactly once: usage, cost, metrics, record, log.
//!
//! A [`Settle`] travels with the exchange, first through the pipeline, then inside the answer's body. Dropping it
//! settles, so it happens however the exchange ends: complete, failed, or because the client has gone.

use std::future::poll_fn;
use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use serde_json::{Map, Value};
use tokio::time::Instant;

use crate::admit;
use crate::cache::visit::Visit;
use crate::chat::Usage;
use crate::exchange::{Attempt, Exchange, Outcome, Role, Used};
use crate::fault::{Fault, Kind, Side};
use crate::hook;
use crate::route::Target;
use crate::state::health::End;
use crate::state::store::Entry;
use crate::state::{State, log};

/// An exchange that will be settled when this is dropped.
#[derive(Debug)]
pub struct Settle {
    exchange: Box<Exchange>,
    state: Arc<State>,
}

/// What settling works out of an exchange; the log line, the record and the metrics are made of it.
#[derive(Debug)]
pub struct Settled<'a> {
    pub exchange: &'a Exchange,
    pub ended: Instant,
    /// Who answered, or failed last; of an answer that another exchange asked for and this one pays, who gave that.
    pub target: Option<&'a Arc<Target>>,
    pub usage: Option<Usage>,
    /// The usage is our estimate: see [`crate::exchange::Seen::used`].
    pub estimated: bool,
    pub cost_nano_usd: Option<u64>,
    /// Why it failed, where it did.
    pub fault: Option<&'a Fault>,
    /// HTTP status as it ended: a stream that broke is a failure although its head said 200.
    pub status: u16,
    /// What policies add to the log.
    pub policy: Option<Map<String, Value>>,
}

impl Settled<'_> {
    /// What an attempt that was given up may have cost: its input, by our estimate; it said nothing that we know of.
    pub fn cost_given_up(&self, attempt: &Attempt) -> Option<u64> {
        let used = Used::given_up(self.exchange.op, self.exchange.input_estimate)?;
        attempt.target.cost(&used.usage)
    }
}

impl Settle {
    pub fn new(exchange: Exchange, state: Arc<State>) -> Self {
        Settle::begin(|| exchange, state)
    }

    /// Makes the exchange where it is to stay: more than a kilobyte that need not be moved there.
    pub fn begin(make: impl FnOnce() -> Exchange, state: Arc<State>) -> Self {
        state.metrics.begin();
        Settle { exchange: Box::write(Box::new_uninit(), make()), state }
    }

    pub fn state(&self) -> &Arc<State> {
        &self.state
    }

    /// Ends the exchange's business with the cache.
    fn end_visit(&mut self) {
        let Exchange { cache, outcome, seen, model, op, attempts, .. } = &mut *self.exchange;
        if let Some(visit) = cache {
            let cut = attempts.iter().find_map(|attempt| attempt.part.as_deref().copied());
            if visit.stream.is_some() {
                visit.part = visit.part.or(cut);
            }
            visit.end((model, *op), matches!(outcome, Outcome::Complete), seen, &self.state);
        }
    }
}

impl Deref for Settle {
    type Target = Exchange;

    fn deref(&self) -> &Exchange {
        &self.exchange
    }
}

impl DerefMut for Settle {
    fn deref_mut(&mut self) -> &mut Exchange {
        &mut self.exchange
    }
}

impl Drop for Settle {
    fn drop(&mut self) {
        if matches!(self.exchange.outcome, Outcome::Open) {
            self.exchange.outcome = Outcome::Failed(if self.state.ending() {
                process_ended()
            } else {
                Fault::new(Kind::ClientGone, "The client closed the connection before the answer was complete.")
            });
        }
        self.end_visit();
        let ended = Instant::now();
        land(&mut self.exchange, &self.state, ended);
        hook::take_notes(&mut self.exchange);
        settle(&mut self.exchange, &self.state, ended);
    }
}

/// Goes on with work until the process can wait no longer; then None. Whoever polls it does so once more at that moment.
pub async fn until_end<T>(state: &State, mut work: Pin<&mut impl Future<Output = T>>) -> Option<T> {
    poll_fn(|cx| match work.as_mut().poll(cx) {
        Poll::Ready(done) => Poll::Ready(Some(done)),
        Poll::Pending if state.ending() => Poll::Ready(None),
        Poll::Pending => Poll::Pending,
    })
    .await
}

/// Why an exchange is cut when the process can wait no longer.
pub fn process_ended() -> Fault {
    Fault::new(Kind::Draining, "The process ended before the answer was complete.")
}

/// Ends the attempts that still hold their place: the one whose answer was relayed, and those that the client left. Of the
/// latter the provider has the ask, where it was written out, and bills it.
fn land(exchange: &mut Exchange, state: &State, ended: Instant) {
    let end = match &exchange.outcome {
        Outcome::Failed(Fault { kind: Kind::ClientGone | Kind::ClientTooSlow | Kind::Draining, .. }) => End::Cancelled,
        Outcome::Failed(fault) => End::Failed { kind: fault.kind, retry_after: fault.retry_after },
        Outcome::Open | Outcome::Complete => End::Good { output_tokens: exchange.seen.usage.map(|usage| usage.output) },
    };
    let given_up = Used::given_up(exchange.op, exchange.input_estimate);
    let now = state.at(ended);
    let left = match &exchange.outcome {
        Outcome::Failed(fault) if end == End::Cancelled => Some(Box::new(fault.clone())),
        _ => None,
    };
    for attempt in &mut exchange.attempts {
        if end == End::Cancelled {
            if attempt.flight.is_some() && attempt.took.is_zero() {
                attempt.took = ended.saturating_duration_since(exchange.started).saturating_sub(attempt.at);
                attempt.fault.clone_from(&left);
            }
            attempt.leave(now, given_up);
        } else {
            attempt.sent = None;
            attempt.end(now, end);
        }
    }
}

fn settle(exchange: &mut Exchange, state: &State, ended: Instant) {
    let bill = Bill::of(exchange);
    admit::settle(exchange, (bill.usage, bill.cost), bill.answer);
    if let (Some(heard), Outcome::Complete) = (exchange.calls.take(), &exchange.outcome) {
        state.calls.judge(state.now(), *heard);
    }
    if let Some(session) = exchange.session {
        match (&exchange.outcome, exchange.target()) {
            (Outcome::Complete, Some(target)) => state.affinity.keep(session.key, &target.name(), session.ttl),
            (Outcome::Failed(fault), _) if fault.side() == Side::Upstream => state.affinity.forget(session.key),
            _ => {}
        }
    }
    let policy = hook::done(&settled(exchange, &bill, ended));
    // What was noted there, such as that a policy failed.
    hook::take_notes(exchange);
    let settled = Settled { policy, ..settled(exchange, &bill, ended) };
    state.metrics.end(&settled);
    enter(&settled, state);
    let line = log::line(&settled);
    state.records.keep(&settled.exchange.id, line.clone());
    state.log.send(line);
}

/// The exchange as it ended, before its policies have had their say.
fn settled<'a>(exchange: &'a Exchange, bill: &Bill, ended: Instant) -> Settled<'a> {
    let fault = match &exchange.outcome {
        Outcome::Failed(fault) => Some(fault),
        Outcome::Open | Outcome::Complete => None,
    };
    let status = match fault {
        Some(fault) if exchange.status < 400 => fault.status(exchange.dialect.name()),
        _ => exchange.status,
    };
    let Bill { usage, estimated, cost, .. } = *bill;
    let paid_for = || exchange.cache.as_deref().filter(|visit| visit.bears())?.target();
    let target = exchange.target().or_else(paid_for);
    Settled { exchange, ended, target, usage, estimated, cost_nano_usd: cost, fault, status, policy: None }
}

/// The exchange's row in the ledger, where one is kept and somebody was asked.
fn enter(settled: &Settled<'_>, state: &State) {
    let x = settled.exchange;
    let asked = !x.attempts.is_empty() || settled.usage.is_some();
    let Some(store) = state.store.get().filter(|store| asked && store.keeps_ledger()) else { return };
    let principal = x.principal.as_deref();
    store.enter(Entry {
        id: x.id.clone(),
        time: x.started_ms,
        key: principal.map(|principal| principal.key.clone()).unwrap_or_default(),
        project: principal.and_then(|principal| principal.project.clone()),
        model: x.model.clone(),
        target: settled.target.map(|target| target.name()),
        input: settled.usage.map(|usage| usage.input),
        output: settled.usage.map(|usage| usage.output),
        cost: settled.cost_nano_usd,
        status: settled.status,
        code: settled.fault.map(Fault::code),
    });
}

/// What an exchange has used and owes.
#[derive(Debug, Default)]
struct Bill {
    usage: Option<Usage>,
    estimated: bool,
    /// Nano-dollars; None where a price is not known, or nothing was used.
    cost: Option<u64>,
    /// Usage and cost without what the client got nothing of, and without parts that others went on from: the limits of those
    /// targets have had theirs.
    answer: admit::Spent,
}

impl Bill {
    /// Nothing of what another exchange has paid for: an answer that was kept costs nothing, and one that several share
    /// costs the one that asked. Who went on after a cut pays for the rest. An answer that a policy refused was paid for
    /// like any other, and so was the input of one that the client did not wait for.
    fn of(exchange: &Exchange) -> Self {
        let visit = exchange.cache.as_deref();
        let bears = visit.is_none_or(Visit::bears);
        let went_on = visit.is_some_and(|visit| visit.part.is_some());
        if !bears && !went_on {
            return Bill { cost: Some(0), ..Bill::default() };
        }
        let complete = matches!(exchange.outcome, Outcome::Complete);
        let mut bill = Bill::default();
        if let Some(used) = exchange.seen.used(complete, exchange.input_estimate) {
            let target = answering(exchange, went_on);
            let cost = target.and_then(|target| target.cost(&used.usage));
            bill = Bill { usage: Some(used.usage), estimated: used.estimated, cost, ..bill };
        }
        bill.answer = (bill.usage, bill.cost);
        for cut in cuts(exchange).filter(|cut| bears || cut.went_on) {
            bill.add(cut.target, Used { usage: cut.part, estimated: true });
        }
        for attempt in &exchange.attempts {
            if let Some(used) = &attempt.unheard {
                bill.add(&attempt.target, **used);
            }
        }
        bill
    }

    fn add(&mut self, target: &Target, used: Used) {
        let cost = target.cost(&used.usage);
        self.cost = match self.usage {
            Some(_) => self.cost.zip(cost).map(|(sum, cost)| sum + cost),
            None => cost,
        };
        self.usage = Some(self.usage.map_or(used.usage, |usage| usage.plus(&used.usage)));
        self.estimated |= used.estimated;
    }
}

/// Whose prices hold for the answer, or for its last part. Who listened and has not gone on was answered by the target
/// of the exchange that asked.
fn answering(exchange: &Exchange, went_on: bool) -> Option<&Arc<Target>> {
    let visit = exchange.cache.as_deref();
    let listened = visit.is_some_and(|visit| visit.role.listens());
    exchange.target().filter(|_| !listened || went_on).or_else(|| visit?.target())
}

/// A stream's part at a target where it broke off and was gone on with.
struct Cut<'a> {
    target: &'a Target,
    part: Usage,
    /// It was this exchange that had gone on, not the one that it shared the stream with.
    went_on: bool,
}

fn cuts(exchange: &Exchange) -> impl Iterator<Item = Cut<'_>> {
    let heard = exchange.cache.as_deref().filter(|visit| visit.role.listens());
    let theirs = heard.and_then(|visit| Some(Cut { target: visit.target()?, part: visit.part?, went_on: false }));
    let own = exchange.attempts.iter().filter_map(|attempt| {
        let went_on = attempt.role == Role::Continuation;
        attempt.part.as_deref().map(|part| Cut { target: &attempt.target, part: *part, went_on })
    });
    theirs.into_iter().chain(own)
}
