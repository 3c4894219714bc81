//! Taking room, and waiting for it where a rule says so: one queue for each partition and share, first come, first served.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use crate::pipeline::{Cx, unix_ms};
use crate::state::limit::cell::Gate;
use crate::state::limit::meter::Wait;
use crate::state::limit::rule::Exhausted;
use crate::state::limit::{Charge, Estimate, Hold, Queued, Refusal};
use crate::state::metrics::Decision;

/// Longest sleep of the first in a queue before it looks again: what ends elsewhere does not always ring here.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// Takes room now or not at all.
pub(super) async fn once(cx: &Cx, charges: &[Charge<'_>], estimate: &Estimate) -> Result<Hold, Box<Refusal>> {
    let limits = &cx.state.limits;
    let now = limits.time(unix_ms());
    let held = match limits.shared() {
        Some(shared) => {
            let began = Instant::now();
            let held = shared.reserve(limits, charges, estimate, now).await;
            cx.state.metrics.limits_asked(began.elapsed());
            held
        }
        None => limits.reserve(charges, estimate, now),
    };
    if let (Ok(Hold { away: true, .. }), Some(charge)) = (&held, charges.first()) {
        cx.state.metrics.limited(&charge.rule.name, Decision::Away);
    }
    held
}

/// Takes room; where a rule lets wait, also after a while. Gives the milliseconds waited.
pub(super) async fn reserve(cx: &Cx, charges: &[Charge<'_>], estimate: &Estimate) -> Result<(Hold, u64), Box<Refusal>> {
    // Who comes now stands behind those of the same share who wait.
    let ahead = charges.iter().find(|charge| queue(charge).is_some() && charge.cell.is_queued(charge.share_name()));
    let (cell, refusal) = match ahead {
        Some(charge) => (charge.cell.clone(), None),
        None => match once(cx, charges, estimate).await {
            Ok(hold) => return Ok((hold, 0)),
            Err(refusal) => (refusal.cell.clone(), Some(refusal)),
        },
    };
    let charge = charges.iter().find(|charge| std::sync::Arc::ptr_eq(&charge.cell, &cell));
    let (charge, wait, max) = match (charge.and_then(|charge| Some((charge, queue(charge)?))), refusal) {
        (Some((charge, (wait, max))), refusal) => match refusal {
            // Waiting does not make room for what is larger than all of it.
            Some(refusal) if refusal.wait == Wait::Never => return Err(refusal),
            _ => (charge, wait, max),
        },
        (None, Some(refusal)) => return Err(refusal),
        (None, None) => return once(cx, charges, estimate).await.map(|hold| (hold, 0)),
    };
    let began = Instant::now();
    let gate = cell.gate(charge.share_name());
    let refused = |refusal: Box<Refusal>, queued| Box::new(Refusal { queued: Some(queued), ..*refusal });
    let Some(_place) = Place::take(&gate, max) else {
        let held = once(cx, charges, estimate).await.map(|hold| (hold, 0));
        return held.map_err(|refusal| refused(refusal, Queued::Full));
    };
    cx.state.metrics.limited(&charge.rule.name, Decision::Queued);
    let deadline = began + wait;
    let turn = timeout_at(deadline, gate.turn.lock()).await;
    loop {
        let freed = gate.freed.notified();
        let refusal = match once(cx, charges, estimate).await {
            Ok(hold) => return Ok((hold, began.elapsed().as_millis() as u64)),
            Err(refusal) => refusal,
        };
        let here = std::sync::Arc::ptr_eq(&refusal.cell, &cell);
        if turn.is_err() || !here || Instant::now() >= deadline {
            return Err(refused(refusal, Queued::InVain(began.elapsed().as_millis() as u64)));
        }
        let hint = match refusal.wait {
            Wait::Millis(millis) => Duration::from_millis(millis).min(LOOK_AGAIN),
            Wait::Release => LOOK_AGAIN,
            Wait::Never => return Err(refusal),
        };
        tokio::select! {
            () = freed => {}
            () = sleep(hint.min(deadline.saturating_duration_since(Instant::now()))) => {}
        }
    }
}

fn queue(charge: &Charge<'_>) -> Option<(Duration, usize)> {
    match charge.rule.exhausted {
        Exhausted::Queue { wait_ms, max } => Some((Duration::from_millis(wait_ms), max)),
        _ => None,
    }
}

/// A place in a queue, given up when it is dropped.
struct Place<'a>(&'a Gate);

impl<'a> Place<'a> {
    fn take(gate: &'a Gate, max: usize) -> Option<Self> {
        let taken = gate
            .waiting
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, |waiting| (waiting < max).then_some(waiting + 1));
        taken.ok().map(|_| Place(gate))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}
