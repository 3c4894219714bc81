//! The attempt loop: one target after the other until one answers. The only code that tries again.
//!
//! An attempt ends at its commit point: a whole good body, or a stream with its first content at hand. What comes after
//! cannot be undone and belongs to `stream`.

mod adapted;
mod answer;
mod encode;

use std::sync::Arc;

use http::{HeaderMap, Response, StatusCode};
use tokio::time::{Instant, timeout_at};

use crate::body::{Inbound, Outgoing, Patience};
use crate::dialect::{Asked, Dialect, Op, refusal};
use crate::exchange::{Attempt, Exchange};
use crate::fault::{Fault, Kind, Retry};
use crate::pipeline::{Call, Cx};
use crate::reply::Reply;
use crate::route::{Address, Plan, Target, Timeouts};
use crate::stream::Deadline;
use crate::upstream::Outbound;

use answer::Reading;
pub use answer::retry_after;
use encode::Prepared;

/// Longest error body that is read. Error texts are short; a page of HTML is cut by the dialect anyway.
const MAX_ERROR_BYTES: usize = 1 << 20;

/// Tries the plan's targets in order.
///
/// # Errors
/// The last target's fault, when none answered; [`Kind::TotalTimeout`] when time ran out.
pub async fn run(cx: &Cx, x: &mut Exchange, call: &Call, plan: &Plan) -> Result<Reply, Fault> {
    let mut last = None;
    for (tried, target) in plan.targets.iter().enumerate() {
        let began = Instant::now();
        let deadline = Deadline::of(x, target, began);
        x.attempts.push(Attempt {
            target: target.clone(),
            at: began - x.started,
            took: Default::default(),
            status: None,
            fault: None,
        });
        let outcome = match timeout_at(deadline.at, once(cx, x, call, target, deadline)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(deadline.missed()),
        };
        let attempt = &mut x.attempts[tried];
        attempt.took = began.elapsed();
        match outcome {
            Ok(reply) => return Ok(reply),
            Err(fault) => {
                attempt.fault = Some(fault.clone());
                let another = fault.retry() != Retry::Never;
                last = Some(fault);
                if !another {
                    break;
                }
            }
        }
    }
    Err(last.unwrap_or_else(|| Fault::new(Kind::ModelNotFound, "The model has no targets.")))
}

/// One try of one target.
async fn once(
    cx: &Cx,
    x: &mut Exchange,
    call: &Call,
    target: &Arc<Target>,
    deadline: Deadline,
) -> Result<Reply, Fault> {
    if let Some((face, adapter)) = adapted::by_adapter(x, target) {
        return adapted::once(cx, x, call, target, (face, adapter), deadline).await;
    }
    let (face, prepared) = encode::prepare(x, call, target)?;
    let prepared = match prepared {
        Prepared::Send(prepared) => prepared,
        Prepared::Answered(reply) => return Ok(*reply),
    };
    let sent = Instant::now();
    let request =
        Outbound { method: http::Method::POST, uri: prepared.uri, headers: prepared.headers, body: prepared.body };
    let timeouts = &target.timeouts;
    // A stream's head may well come late, with its first token; other answers come whole after their head.
    let head_timeout = if call.stream { timeouts.first_token } else { timeouts.head };
    let response = cx.upstream().send(&face.dial, request, head_timeout).await?;
    if let Some(attempt) = x.attempts.last_mut() {
        attempt.status = Some(response.status().as_u16());
    }
    if !response.status().is_success() {
        return Err(refused(response, face.dialect, timeouts).await);
    }
    let reading = Reading { x, call, target, from: face.dialect, asked: prepared.asked, sent, deadline };
    reading.read(cx, response).await
}

/// Reads an error answer.
async fn refused(response: Response<Inbound>, dialect: &'static dyn Dialect, timeouts: &Timeouts) -> Fault {
    let (head, mut body) = response.into_parts();
    let wait = retry_after(&head.headers, std::time::SystemTime::now());
    // A body that cannot be read leaves the status, which says enough.
    let patience = Patience { first: Instant::now() + timeouts.idle, idle: timeouts.idle };
    let bytes = body.read(MAX_ERROR_BYTES, Some(patience)).await.unwrap_or_default();
    let mut refusal = dialect.decode_error(head.status.as_u16(), &bytes);
    refusal.request_id = ["x-request-id", "request-id"]
        .iter()
        .find_map(|name| head.headers.get(*name))
        .and_then(|value| value.to_str().ok())
        .map(str::to_owned);
    let wait = wait.or(refusal.retry_after);
    refusal::fault(refusal, wait)
}

/// A plain request relayed to a target that is known already: GET, DELETE and cancel of stored responses.
///
/// # Errors
/// As [`run`].
pub async fn relay(cx: &Cx, x: &mut Exchange, target: &Arc<Target>, call: &RelayCall) -> Result<Reply, Fault> {
    let began = Instant::now();
    x.attempts.push(Attempt {
        target: target.clone(),
        at: began - x.started,
        took: Default::default(),
        status: None,
        fault: None,
    });
    let outcome = relay_once(cx, x, target, call).await;
    if let Some(attempt) = x.attempts.last_mut() {
        attempt.took = began.elapsed();
        attempt.fault = outcome.as_ref().err().cloned();
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

async fn relay_once(cx: &Cx, x: &mut Exchange, target: &Arc<Target>, call: &RelayCall) -> Result<Reply, Fault> {
    let face = target.face(x.dialect).ok_or_else(|| encode::unserved(x, target))?;
    let Address { uri, mut headers } = encode::address_once(face, target, &call.path, &call.headers)?;
    let body = if call.body.is_empty() {
        headers.remove(http::header::CONTENT_TYPE);
        Outgoing::default()
    } else {
        Outgoing::new(smallvec::smallvec![call.body.clone()])
    };
    let request = Outbound { method: call.method.clone(), uri, headers, body };
    let sent = Instant::now();
    let response = cx.upstream().send(&face.dial, request, target.timeouts.head).await?;
    if let Some(attempt) = x.attempts.last_mut() {
        attempt.status = Some(response.status().as_u16());
    }
    if !response.status().is_success() {
        return Err(refused(response, face.dialect, &target.timeouts).await);
    }
    let status = response.status();
    let bytes = answer::whole(response.into_body(), cx.generation.max_answer_bytes, sent, &target.timeouts).await?;
    Ok(Reply::json(status, bytes))
}

/// The reply to a token count that no upstream can give: an estimate, marked as one.
fn estimated_count(x: &Exchange, call: &Call) -> Reply {
    let body = x.dialect.encode_count_answer(call.envelope.body().len() as u64 / 4);
    let mut reply = Reply::json(StatusCode::OK, body);
    reply.headers.insert("x-portcullis-estimated", http::HeaderValue::from_static("true"));
    reply
}

fn asked(x: &Exchange, op: Op, ask: Arc<crate::chat::Ask>) -> Asked {
    Asked { op, ask, id: x.id.clone(), now: x.started_ms / 1000 }
}
