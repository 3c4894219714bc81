//! Hedging: when the first target is slower than it usually is, the next one is started beside it.
//!
//! The first good first token, or whole good answer, wins; the other attempt is dropped, which closes its connection. One
//! hedge an exchange, and no more of them than the model's share of traffic allows.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout_at;

use super::answer::Good;
use super::once::{Known, Once};
use super::trying::{Failed, Started, Trying};
use crate::exchange::{Role, Subject};
use crate::fault::Fault;
use crate::pipeline::{Call, Cx};
use crate::route::HedgeAfter;
use crate::state::health::End;

/// What came of a try, with what is known of it.
type Came = (Known, Result<Box<Good>, Fault>);

async fn tried(once: Once, cx: &Cx, x: &Subject<'_>, call: &Arc<Call>) -> Came {
    let mut known = Known::default();
    let outcome = once.run(cx, x, call, &mut known).await;
    (known, outcome)
}

impl Trying<'_> {
    /// After which time this try is to get company; None when it never is.
    pub(super) fn hedge_after(&self, started: &Started) -> Option<Duration> {
        let hedge = self.plan.rules.hedge?;
        let first = self.tried.attempts.len() == 1;
        if first {
            self.cx.state.hedges.bucket(self.x.model).earn(hedge.budget);
        }
        if !first || self.roster.untried().is_none() || self.retry.max_attempts < 2 {
            return None;
        }
        let share = match hedge.after {
            HedgeAfter::Fixed(after) => return Some(after),
            HedgeAfter::Quantile(share) => share,
        };
        let state = &self.cx.state;
        let measure = started.once.target.record(&state.health).measure(state.now());
        let usual = if self.x.stream { measure.ttft } else { measure.duration };
        // Nothing is known of the target yet: no hedge without a reason.
        usual.at(share).map(|millis| Duration::from_secs_f64(millis.max(1.0) / 1000.0))
    }

    /// One try that gets company when it is slow.
    pub(super) async fn raced(&mut self, first: Started, after: Duration) -> Result<Box<Good>, Box<Failed>> {
        let (cx, x, call) = (self.cx, self.x, self.call.clone());
        let mut one = Box::pin(tried(first.once.clone(), cx, &x, &call));
        let second = match timeout_at(first.once.began + after, &mut one).await {
            Ok((known, outcome)) => return self.close(first, known, outcome),
            Err(_) => self.company().await,
        };
        let Some(second) = second else {
            let (known, outcome) = one.await;
            return self.close(first, known, outcome);
        };
        let mut two = Box::pin(tried(second.once.clone(), cx, &x, &call));
        let (first_came, came) = tokio::select! {
            biased;
            came = &mut one => (true, came),
            came = &mut two => (false, came),
        };
        let (ended, other) = if first_came { (first, second) } else { (second, first) };
        let (known, outcome) = came;
        if outcome.is_ok() {
            // Dropped here, before anything else is waited for. The limits of its target are told that it was asked.
            drop((one, two));
            self.cancel(&other);
            return self.close(ended, known, outcome);
        }
        let failed = self.close(ended, known, outcome);
        let (known, outcome) = if first_came { two.await } else { one.await };
        if let (Err(failed), Err(_)) = (&failed, &outcome) {
            self.mark(&failed.started, &failed.fault);
        }
        self.close(other, known, outcome)
    }

    /// Starts the next target beside the one that is slow, if the model's share allows it and one takes it.
    async fn company(&mut self) -> Option<Started> {
        if !self.cx.state.hedges.bucket(self.x.model).spend() {
            self.tried.note("hedge", || "the share of traffic is used up".into());
            return None;
        }
        while let Some(at) = self.roster.untried() {
            match self.roster.begin(at, &self.cx.state) {
                Ok(places) => return Some(self.start(at, Role::Hedge, Duration::ZERO, places).await),
                Err(refused) => self.note_refused(at, refused),
            }
        }
        None
    }

    /// Notes that another target was faster.
    fn cancel(&mut self, loser: &Started) {
        let attempt = &mut self.tried.attempts[loser.attempt];
        attempt.took = loser.once.began.elapsed();
        attempt.cancelled = true;
        // What it cost is not the caller's.
        attempt.sent = None;
        attempt.end(self.cx.state.now(), End::Cancelled);
        self.note_attempt(loser.attempt);
    }
}
