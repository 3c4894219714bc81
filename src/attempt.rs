//! The attempt loop: one target after the other until one answers. The only code that tries again.
//!
//! An attempt ends at its commit point: a whole good body, or a stream with its first content at hand. What comes after
//! cannot be undone and belongs to `stream`.

mod adapted;
mod again;
mod answer;
mod decide;
mod encode;
mod hedge;
mod mirror;
mod once;
mod onward;
pub mod probe;
mod roster;
mod trying;

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Response, StatusCode};
use tokio::time::{Instant, timeout_at};

use crate::admit;
use crate::body::{Inbound, Outgoing};
use crate::cache::record;
use crate::dialect::Dialect;
use crate::exchange::{Attempt, Exchange, Role, Subject};
use crate::fault::Fault;
use crate::pipeline::{Call, Cx};
use crate::reply::Reply;
use crate::route::{Address, Plan, Target, availability};
use crate::stream::Deadline;
use crate::trace;
use crate::upstream::Outbound;

pub use answer::retry_after;
use answer::{Good, Reading};
use once::Known;
pub use once::Successors;
use roster::{Places, Roster};
use trying::Trying;

/// Tries the plan's targets until one answers.
///
/// # Errors
/// The last target's fault, when none answered; `TotalTimeout` when time ran out; `NoTarget` when no
/// target takes requests now.
pub async fn run(cx: &Cx, x: &mut Exchange, call: &Arc<Call>, plan: &Plan) -> Result<Reply, Fault> {
    x.note("plan", || trace::plan(plan));
    let (subject, mut tried) = x.split();
    if let Some(target) = mirror::start(cx, &subject, call, plan) {
        tried.note("mirror", || target.name().into());
    }
    let good = Trying::new(cx, subject, tried, call, plan).run().await?;
    Ok(take(cx, x, good))
}

/// An answer that was recorded, or that another exchange is getting.
pub struct Heard {
    /// Who gave it.
    pub target: Arc<Target>,
    /// The wire form it came in.
    pub dialect: &'static dyn Dialect,
    /// It came as a stream.
    pub stream: bool,
    pub body: Inbound,
    /// How a stream of it is given.
    pub replay: Replay,
    /// Who may go on where the stream breaks off.
    pub after: Option<Arc<Successors>>,
}

/// How an answer that is all there is given as a stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Replay {
    /// Pause after each event.
    pub pace: Option<Duration>,
    /// The pieces that the upstream sent a text in become one.
    pub joined: bool,
}

/// Reads an answer as if its target gave it to this exchange. No attempt is made, but to go on where it breaks off.
///
/// # Errors
/// What can go wrong with an answer; nothing has been sent to the client then.
pub async fn hear(cx: &Cx, x: &mut Exchange, call: &Call, heard: Heard) -> Result<Reply, Fault> {
    let Heard { target, dialect, stream, body, replay, after } = heard;
    let now = Instant::now();
    let (subject, _) = x.split();
    let asked = encode::meaning(&subject, call, dialect)?;
    let deadline = Deadline::of(subject.started, subject.patience, &target, now);
    let mut response = Response::new(body);
    let form = if stream { "text/event-stream" } else { "application/json" };
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(form));
    let reading =
        Reading { x: &subject, call, target: &target, from: dialect, asked, sent: now, deadline, after, replay };
    let mut known = Known::default();
    let read = timeout_at(deadline.at, reading.read(cx, response, &mut known)).await;
    let mut good = read.unwrap_or_else(|_| Err(deadline.missed()))?;
    // Who gave the answer was judged where it was asked for.
    good.calls = None;
    Ok(take(cx, x, good))
}

/// The answer is the exchange's.
fn take(cx: &Cx, x: &mut Exchange, good: Box<Good>) -> Reply {
    let good = *good;
    x.seen = good.seen;
    x.dropped = good.dropped;
    x.calls = good.calls;
    admit::entered(x, good.hold);
    if let Some(said) = good.said {
        record::answered(x, &cx.state, said);
    }
    good.reply
}

/// A plain request relayed to a target that is known already: GET, DELETE and cancel of stored responses.
///
/// # Errors
/// As [`run`].
pub async fn relay(cx: &Cx, x: &mut Exchange, target: &Arc<Target>, call: &RelayCall) -> Result<Reply, Fault> {
    let Places { key, alias, flight, key_flight, since: began } =
        Roster::new([target]).begin(0, &cx.state).map_err(|refused| {
            let text =
                format!("The provider `{}`, which has the response, takes no requests now.", target.provider.name);
            let plan = Plan { verdicts: vec![availability::refused(target, refused)], ..Plan::default() };
            Fault { message: text, ..availability::fault(&[x.model.as_str()], &plan) }
        })?;
    let mut attempt = Attempt::begin(target.clone(), Role::First, began - x.started);
    (attempt.key, attempt.flight, attempt.key_flight) = (alias, Some(flight), key_flight);
    x.attempts.push(attempt);
    let mut status = None;
    let deadline = Deadline::of(x.started, x.patience, target, began);
    let (subject, _) = x.split();
    let once = relay_once(cx, &subject, (target, key), call, deadline, &mut status);
    let outcome = timeout_at(deadline.at, once).await.unwrap_or_else(|_| Err(deadline.missed()));
    x.stream = outcome.as_ref().is_ok_and(Reply::is_stream);
    if let Some(attempt) = x.attempts.last_mut() {
        attempt.took = began.elapsed();
        attempt.status = status;
        if let Err(fault) = &outcome {
            attempt.fail(cx.state.now(), fault);
        }
    }
    outcome
}

/// A request without a body of its own dialect.
#[derive(Debug)]
pub struct RelayCall {
    pub method: http::Method,
    /// Path under the provider's base URL, query included.
    pub path: String,
    pub headers: HeaderMap,
    pub body: bytes::Bytes,
}

async fn relay_once(
    cx: &Cx,
    x: &Subject<'_>,
    (target, key): (&Arc<Target>, usize),
    call: &RelayCall,
    deadline: Deadline,
    status: &mut Option<u16>,
) -> Result<Reply, Fault> {
    let face = target.face(x.dialect).ok_or_else(|| encode::unserved(x, target))?;
    let Address { uri, mut headers } = encode::address_once(face, target, key, &call.path, &call.headers)?;
    let body = if call.body.is_empty() {
        headers.edit().remove(http::header::CONTENT_TYPE);
        Outgoing::default()
    } else {
        Outgoing::new(smallvec::smallvec![call.body.clone()])
    };
    let request = Outbound { method: call.method.clone(), uri, headers, body, target: None };
    let sent = Instant::now();
    let response = cx.upstream().send(&face.dial, Box::new(request), target.timeouts.head).await?;
    *status = Some(response.status().as_u16());
    if !response.status().is_success() {
        return Err(once::refused(response, face.dialect, &target.timeouts).await);
    }
    answer::plain(response.headers())?;
    if answer::content_type(&response).starts_with("text/event-stream") {
        return Ok(again::stream(cx, x, target, deadline, response.into_body()));
    }
    let good = response.status();
    let bytes = answer::whole(response.into_body(), cx.generation.max_answer_bytes, sent, &target.timeouts).await?;
    Ok(Reply::json(good, bytes))
}

/// The reply to a token count that no upstream can give: an estimate, marked as one.
fn estimated_count(x: &Subject<'_>) -> Reply {
    let body = x.dialect.encode_count_answer(x.input_estimate);
    let mut reply = Reply::json(StatusCode::OK, body);
    reply.headers.insert("x-portcullis-estimated", http::HeaderValue::from_static("true"));
    reply
}

#[cfg(test)]
mod tests;
