//! Copies of some requests to a silent target: the same ask, the answer read to its end and dropped.
//!
//! Runs in a task of its own: it never delays the exchange, never fails it, and its cost is never the caller's. Counted in
//! the target's health and apart in the metrics. Policies see the copy as they see a try, and nothing of its answer.

use std::sync::Arc;

use super::answer::Good;
use super::once::{Known, Once};
use super::roster::{Places, Roster};
use crate::chat::Usage;
use crate::exchange::{Attempt, Owned, Role, Subject};
use crate::fault::Fault;
use crate::pipeline::{Call, Cx};
use crate::reply::{Content, Reply};
use crate::route::{Plan, Target};
use crate::state::health::End;

/// Starts a copy, where the model has a mirror and this exchange is of its share. Gives the target for the trace.
pub(super) fn start(cx: &Cx, x: &Subject<'_>, call: &Arc<Call>, plan: &Plan) -> Option<Arc<Target>> {
    // Where the model's own targets take nothing now there is nothing to make a copy of.
    let mirror = plan.rules.mirror.as_ref().filter(|_| !plan.targets.is_empty())?;
    if fastrand::f64() >= mirror.share {
        return None;
    }
    let target = mirror.target.clone();
    let Ok(place) = cx.state.mirrors.clone().try_acquire_owned() else {
        cx.state.metrics.apart("mirror", &target.provider.name, "full", None);
        return None;
    };
    let (cx, x, call, to) = (cx.clone(), x.silent(), call.clone(), target.clone());
    tokio::spawn(async move {
        run(&cx, &x, &call, &to).await;
        drop(place);
    });
    Some(target)
}

async fn run(cx: &Cx, x: &Owned, call: &Arc<Call>, target: &Arc<Target>) {
    let state = &cx.state;
    // A target that takes nothing now gets no copy.
    let Ok(Places { key, alias, flight, key_flight, since }) = Roster::spare(target).begin(0, state) else { return };
    let subject = x.subject();
    let mut attempt = Attempt {
        key: alias,
        flight: Some(flight),
        key_flight,
        ..Attempt::begin(target.clone(), Role::First, since - subject.started)
    };
    let once = Once::begin(&subject, target.clone(), key, 1, since).await;
    let outcome = match once.run(cx, &subject, call, &mut Known::default()).await {
        Ok(good) => drained(good, cx.generation.max_answer_bytes).await,
        Err(fault) => Err(fault),
    };
    let now = state.now();
    let (code, cost) = match outcome {
        Ok(usage) => {
            attempt.end(now, End::Good { output_tokens: usage.map(|usage| usage.output) });
            ("", usage.as_ref().and_then(|usage| target.cost(usage)))
        }
        Err(fault) => {
            attempt.fail(now, &fault);
            (fault.code(), None)
        }
    };
    state.metrics.apart("mirror", &target.provider.name, code, cost);
}

/// Reads an answer to its end, or to a bound, and drops it.
async fn drained(good: Box<Good>, max_bytes: usize) -> Result<Option<Usage>, Fault> {
    let Reply { content: Content::Stream(mut relay), .. } = good.reply else { return Ok(good.seen.usage) };
    let mut bytes = 0;
    while let Some(piece) = std::future::poll_fn(|cx| relay.poll_bytes(cx)).await {
        bytes += piece.len();
        if bytes > max_bytes {
            return Ok(relay.seen.usage);
        }
    }
    relay.ending().unwrap_or(Ok(()))?;
    Ok(relay.seen.usage)
}
