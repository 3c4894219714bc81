//! Trying a plan: takes places, tries, decides what comes next, waits where it must.
//!
//! The attempts of the exchange are noted as they begin, so that they are there also when the client leaves. Nothing
//! here has been sent to the client.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep};

use super::answer::Good;
use super::decide::{self, Decision, Tally};
use super::once::{Known, Once, Successors, refused_by_answer};
use super::roster::{Places, Roster};
use crate::admit;
use crate::chat::Usage;
use crate::exchange::{Attempt, Role, Subject, Tried};
use crate::fault::{Fault, Kind};
use crate::hook::{self, After};
use crate::pipeline::{self, Call, Cx};
use crate::reply::Reply;
use crate::route::{Plan, Retry, Target, Verdict, availability};
use crate::state::health::{Refused, Standing};

/// One exchange being tried.
pub(super) struct Trying<'a> {
    pub(super) cx: &'a Cx,
    pub(super) x: Subject<'a>,
    pub(super) call: &'a Arc<Call>,
    pub(super) plan: &'a Plan,
    pub(super) tried: Tried<'a>,
    pub(super) roster: Roster,
    /// The plan's, or what a guest's later plan makes of them.
    pub(super) retry: Retry,
    /// All waits so far.
    waited: Duration,
    /// A chain of its own has taken over.
    chained: bool,
    /// Guests have been told that no target takes the exchange.
    told: bool,
    /// What kept targets from taking the exchange.
    refused: Vec<Verdict>,
}

/// A try that failed. Boxed, because it is the rarer and larger half of a result.
pub(super) struct Failed {
    pub started: Started,
    pub fault: Fault,
    /// The answer by which the provider refuses, as long as it may still be what the caller gets.
    pub refusal: Option<Refusal>,
}

/// An answer by which a provider refuses, until somebody decides whether it is what the caller gets. It is paid for all the
/// same, also if nobody ever does: the limits of its target are told when it is dropped.
pub(super) struct Refusal {
    good: Option<Box<Good>>,
    target: Arc<Target>,
    usage: Option<Usage>,
}

impl Refusal {
    /// It is what the caller gets.
    fn answer(mut self) -> Option<Box<Good>> {
        self.good.take()
    }
}

impl Drop for Refusal {
    fn drop(&mut self) {
        if let Some(good) = &mut self.good {
            admit::leave(good.hold.take(), &self.target, self.usage.as_ref());
        }
    }
}

/// What a guest wants after a failed try.
enum Wanted {
    /// A place in the roster, as what, after which wait.
    On(Option<usize>, Role, Duration),
    Reply(Box<Reply>),
}

/// A try under way.
pub(super) struct Started {
    /// Its place in the roster, and among the exchange's attempts.
    pub at: usize,
    pub attempt: usize,
    pub once: Once,
}

impl<'a> Trying<'a> {
    pub fn new(cx: &'a Cx, x: Subject<'a>, tried: Tried<'a>, call: &'a Arc<Call>, plan: &'a Plan) -> Self {
        let targets = if plan.rules.fallbacks { plan.targets.len() } else { 1 };
        let roster = Roster::new(plan.targets.iter().take(targets));
        let (retry, waited) = (plan.rules.retry, Duration::ZERO);
        Trying { cx, x, call, plan, tried, roster, retry, waited, chained: false, told: false, refused: Vec::new() }
    }

    /// Tries until an answer is good or nothing is left to try.
    ///
    /// # Errors
    /// The last fault; [`Kind::NoTarget`] when no target took the exchange.
    pub async fn run(&mut self) -> Result<Box<Good>, Fault> {
        let mut last = None;
        let (mut role, mut waited) = (Role::First, Duration::ZERO);
        let mut next = self.roster.untried();
        loop {
            let Some(at) = next else {
                // The last fault is the guests' already.
                let fault = match last {
                    Some(fault) => return Err(fault),
                    None => self.nobody(),
                };
                match self.guests_know(&fault).await? {
                    Some(Wanted::Reply(reply)) => return Ok(Box::new(Good::new(*reply))),
                    Some(Wanted::On(at, ..)) => next = at,
                    None => return Err(fault),
                }
                continue;
            };
            let Some(started) = self.begin(at, role, waited).await else {
                next = self.roster.untried();
                role = if last.is_some() { Role::Next } else { Role::First };
                continue;
            };
            let outcome = match self.hedge_after(&started) {
                Some(after) => Box::pin(self.raced(started, after)).await,
                None => {
                    let mut known = Known::default();
                    let outcome = started.once.run(self.cx, &self.x, self.call, &mut known).await;
                    self.close(started, known, outcome)
                }
            };
            let Failed { started: failed, fault, refusal } = match outcome {
                Ok(good) => return Ok(good),
                Err(failed) => *failed,
            };
            let wanted = self.guests_want(&failed, &fault).await;
            if let Some(refusal) = refusal {
                // Nobody knows better: it is an answer like any other.
                if matches!(wanted, Ok(None | Some(Wanted::On(None, ..))))
                    && let Some(good) = refusal.answer()
                {
                    self.tried.attempts[failed.attempt].unheard = None;
                    self.take(failed.attempt, Instant::now());
                    return Ok(good);
                }
                self.tried.attempts[failed.attempt].fail(self.cx.state.now(), &fault);
                self.note_attempt(failed.attempt);
            }
            (next, role, waited) = match wanted? {
                Some(Wanted::Reply(reply)) => return Ok(Box::new(Good::new(*reply))),
                Some(Wanted::On(next, role, waited)) => (next, role, waited),
                None => self.after(&failed, &fault),
            };
            if waited > Duration::ZERO {
                self.waited += waited;
                sleep(waited).await;
            }
            // Another credential is due because one was refused; whoever is asked again may have had a rest.
            if let Some(at) = next.filter(|_| role != Role::Key) {
                self.roster.rested(at, self.cx.state.now());
            }
            last = Some(fault);
        }
    }

    /// Takes a place at a target, waiting for one only where no other target is left. None when it takes nothing now.
    async fn begin(&mut self, at: usize, role: Role, waited: Duration) -> Option<Started> {
        let mut at = at;
        let mut taken = self.roster.begin(at, &self.cx.state);
        if let Err(refused) = taken
            && self.roster.untried().is_none()
            && let Some(full) = self.roster.full()
        {
            self.note_refused(at, refused);
            let patience = self.patience(self.roster.target(full));
            let left = (self.x.started + patience).saturating_duration_since(Instant::now());
            at = full;
            let priority = self.x.principal.map_or(0, |principal| principal.priority);
            taken = self.roster.enter(full, &self.cx.state, priority, left).await;
        }
        match taken {
            Ok(places) => Some(self.start(at, role, waited, places).await),
            Err(refused) => {
                self.note_refused(at, refused);
                None
            }
        }
    }

    /// Notes an attempt that begins.
    pub(super) async fn start(&mut self, at: usize, role: Role, waited: Duration, places: Places) -> Started {
        let Places { key, alias, flight, key_flight, since } = places;
        let number = self.tried.attempts.len() as u32 + 1;
        let mut once = Once::begin(&self.x, self.roster.target(at).clone(), key, number, since).await;
        if self.plan.rules.continue_on_cut && self.x.stream {
            let (call, targets) = (self.call.clone(), self.roster.after(at));
            once.after = Some(Arc::new(Successors { call, targets, tries: number }));
        }
        once.may_be_refused = !self.chain(Kind::ContentPolicy).is_empty();
        let attempt = Attempt {
            key: alias,
            waited,
            sent: Some(once.sent.clone()),
            flight: Some(flight),
            key_flight,
            ..Attempt::begin(once.target.clone(), role, once.began - self.x.started)
        };
        self.tried.attempts.push(attempt);
        Started { at, attempt: self.tried.attempts.len() - 1, once }
    }

    /// Notes how a try ended.
    pub(super) fn close(
        &mut self,
        started: Started,
        known: Known,
        outcome: Result<Box<Good>, Fault>,
    ) -> Result<Box<Good>, Box<Failed>> {
        let ended = Instant::now();
        let now = self.cx.state.at(ended);
        let attempt = &mut self.tried.attempts[started.attempt];
        attempt.took = ended - started.once.began;
        (attempt.status, attempt.unheard) = (known.status, known.unheard.map(Box::new));
        attempt.sent = None;
        match outcome {
            Ok(good) if hook::looks_at_faults(&self.x) && good.refuses() => {
                // Known from now on: whoever decides may take a while, and the client may leave meanwhile.
                let used = good.so_far(self.x.input_estimate);
                let (target, usage) = (started.once.target.clone(), used.as_ref().map(|used| used.usage));
                attempt.unheard = used.map(Box::new);
                let refusal = Some(Refusal { good: Some(good), target, usage });
                Err(Box::new(Failed { started, fault: refused_by_answer(), refusal }))
            }
            Ok(good) => {
                self.take(started.attempt, ended);
                Ok(good)
            }
            Err(fault) => {
                attempt.fail(now, &fault);
                self.note_attempt(started.attempt);
                Err(Box::new(Failed { started, fault, refusal: None }))
            }
        }
    }

    /// Notes that a try has given the answer.
    fn take(&mut self, attempt: usize, now: Instant) {
        if self.x.stream
            && let Some(flight) = &mut self.tried.attempts[attempt].flight
        {
            flight.first_content(self.cx.state.at(now));
        }
        self.note_attempt(attempt);
    }

    /// What a guest wants after a failed try, within the bounds of the exchange; None leaves it to the rules.
    ///
    /// # Errors
    /// It refused.
    async fn guests_want(&mut self, failed: &Started, fault: &Fault) -> Result<Option<Wanted>, Fault> {
        if self.x.guests.is_none() {
            return Ok(None);
        }
        let attempts = self.tried.attempts.len() as u32;
        let target = &failed.once.target;
        let left = (self.x.started + self.patience(target)).saturating_duration_since(Instant::now());
        let described = hook::FailedTry {
            fault,
            target,
            number: attempts,
            took: failed.once.began.elapsed(),
            left,
            remaining: self.roster.untried_count(),
        };
        let Some(after) = hook::fault(self.cx, &self.x, self.call, self.plan, described).await? else {
            return Ok(None);
        };
        if let After::Plan(plan) = &after {
            self.retry = plan.rules.retry;
        }
        let goes_on = matches!(after, After::Same(_) | After::Next | After::Plan(_));
        // No try is begun for which no more are allowed or no time is left, nor a wait that does not fit.
        let spent = attempts >= self.retry.max_attempts || left.is_zero();
        if goes_on && spent
            || matches!(after, After::Same(wait) if self.waited + wait > self.retry.max_wait || wait >= left)
        {
            return Ok(None);
        }
        self.mark(failed, fault);
        Ok(Some(match after {
            After::Same(wait) => Wanted::On(Some(failed.at), Role::Again, wait),
            After::Next => Wanted::On(self.roster.untried(), Role::Next, Duration::ZERO),
            After::Plan(plan) => {
                self.roster = Roster::new(&plan.targets);
                self.chained = true;
                Wanted::On(self.roster.untried(), Role::Next, Duration::ZERO)
            }
            After::Stop => Wanted::On(None, Role::Next, Duration::ZERO),
            After::Reply(reply) => Wanted::Reply(Box::new(reply)),
        }))
    }

    /// What a guest knows where no target takes the exchange: another plan, or an answer. None leaves it at that.
    ///
    /// # Errors
    /// It refused.
    async fn guests_know(&mut self, fault: &Fault) -> Result<Option<Wanted>, Fault> {
        // What they named may take nothing either, and then they have no other word.
        if self.x.guests.is_none() || std::mem::replace(&mut self.told, true) {
            return Ok(None);
        }
        let first = || self.cx.generation.targets(self.x.model).ok()?.into_iter().next();
        let Some(target) = self.plan.targets.first().cloned().or_else(first) else { return Ok(None) };
        let left = (self.x.started + self.patience(&target)).saturating_duration_since(Instant::now());
        let (number, took, remaining) = (0, Duration::ZERO, 0);
        let described = hook::FailedTry { fault, target: &target, number, took, left, remaining };
        Ok(match hook::fault(self.cx, &self.x, self.call, self.plan, described).await? {
            Some(After::Plan(plan)) => {
                self.retry = plan.rules.retry;
                self.roster = Roster::new(&plan.targets);
                self.chained = true;
                Some(Wanted::On(self.roster.untried(), Role::First, Duration::ZERO))
            }
            Some(After::Reply(reply)) => Some(Wanted::Reply(Box::new(reply))),
            // There is nobody to ask again, and nobody next.
            Some(After::Same(_) | After::Next | After::Stop) | None => None,
        })
    }

    /// What the whole exchange may take.
    fn patience(&self, target: &Target) -> Duration {
        let total = target.timeouts.total;
        self.x.patience.map_or(total, |patience| patience.min(total))
    }

    /// Where to go after a failed try: a place in the roster, as what, after which wait.
    fn after(&mut self, failed: &Started, fault: &Fault) -> (Option<usize>, Role, Duration) {
        let now = Instant::now();
        let rules = self.retry;
        let at = failed.at;
        let dice = fastrand::f64();
        let of_target = self.roster.tries(at);
        let stated = self.mark(failed, fault);
        let alone = self.roster.is_alone();
        let elsewhere = self.roster.elsewhere(at, rules.tries(alone), now);
        let tally = Tally {
            attempts: self.tried.attempts.len() as u32,
            of_target,
            alone,
            stated,
            waited: self.waited,
            left: (self.x.started + self.patience(&failed.once.target)).saturating_duration_since(now),
            keys: self.roster.keys_ready(at, self.cx.state.at(now)),
            untried: self.roster.untried().is_some(),
            chain: !self.chain(fault.kind).is_empty(),
            elsewhere: elsewhere.map(|(_, wait)| wait),
            dice,
        };
        let decision = decide::next(fault, &tally, &rules);
        self.tried.note("retry", || decision.describe());
        match decision {
            Decision::Stop => (None, Role::Next, Duration::ZERO),
            Decision::Key => (Some(at), Role::Key, Duration::ZERO),
            Decision::Again(wait) => (Some(at), Role::Again, wait),
            Decision::Next => (self.roster.untried(), Role::Next, Duration::ZERO),
            Decision::Back(wait) => (elsewhere.map(|(at, _)| at), Role::Next, wait),
            Decision::Chain => {
                self.roster = Roster::new(self.chain(fault.kind));
                self.chained = true;
                (self.roster.untried(), Role::Next, Duration::ZERO)
            }
        }
    }

    /// Notes in the roster that a try failed, and gives the wait that the provider or the breaker wants.
    pub(super) fn mark(&mut self, failed: &Started, fault: &Fault) -> Option<Duration> {
        let at = failed.at;
        let stated = fault.retry_after.or_else(|| self.cooling(at));
        let backoff = || decide::backoff(self.roster.tries(at), 1.0, &self.retry);
        let ready = Instant::now() + stated.unwrap_or_else(backoff);
        self.roster.failed(at, failed.once.key, fault, ready);
        stated
    }

    /// How long the target's breaker keeps it from being asked again.
    fn cooling(&self, at: usize) -> Option<Duration> {
        let now = self.cx.state.now();
        match self.roster.target(at).record(&self.cx.state.health).standing(now) {
            Standing::Open { until: Some(until) } => Some(Duration::from_millis(until.saturating_sub(now))),
            _ => None,
        }
    }

    /// The chain for a kind of fault, unless it or another one has taken over already.
    fn chain(&self, kind: Kind) -> &'a [Arc<Target>] {
        match kind {
            _ if self.chained || !self.plan.rules.fallbacks => &[],
            Kind::ContextLength => &self.plan.on_context_length,
            Kind::ContentPolicy => &self.plan.on_content_policy,
            _ => &[],
        }
    }

    /// Why there was nobody to try.
    fn nobody(&self) -> Fault {
        if self.plan.targets.is_empty() {
            return pipeline::nobody(&self.x, self.plan);
        }
        let verdicts = self.plan.verdicts.iter().chain(&self.refused).cloned().collect();
        pipeline::nobody(&self.x, &Plan { verdicts, ..Plan::default() })
    }

    pub(super) fn note_refused(&mut self, at: usize, refused: Refused) {
        let Trying { roster, tried, .. } = self;
        let verdict = availability::refused(roster.target(at), refused);
        // Of one that was waited for in vain, the last word counts.
        self.refused.retain(|known| known.target != verdict.target);
        self.refused.push(verdict);
        tried.note("skip", || {
            json!({
                "target": roster.target(at).name(),
                "why": refused.why.as_str(),
                "retry_after_ms": refused.retry_after.map(|wait| wait.as_millis() as u64),
            })
        });
    }

    /// Notes an attempt that is over.
    pub(super) fn note_attempt(&mut self, at: usize) {
        let Tried { attempts, .. } = &self.tried;
        if self.tried.trace.is_none() {
            return;
        }
        let what = attempts[at].describe();
        self.tried.note("attempt", || what);
    }
}
