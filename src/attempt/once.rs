//! One try of one target, from the ask in its dialect to an answer that is good so far.
//!
//! Never tries again. Works on values of its own, so that two of them may run at once.

use std::sync::Arc;

use http::Response;
use tokio::time::{Instant, timeout_at};

use super::adapted;
use super::answer::{Good, Reading, retry_after};
use super::encode::{self, Dropped, Prepared};
use crate::admit;
use crate::body::{Inbound, Patience};
use crate::dialect::{Dialect, refusal};
use crate::exchange::Subject;
use crate::fault::Fault;
use crate::pipeline::{Call, Cx};
use crate::route::{Target, Timeouts};
use crate::stream::Deadline;
use crate::upstream::Outbound;

/// Longest error body that is read. Error texts are short; a page of HTML is cut by the dialect anyway.
pub(super) const MAX_ERROR_BYTES: usize = 1 << 20;

/// One try: of what, with which credential, until when.
#[derive(Clone)]
pub(super) struct Once {
    pub target: Arc<Target>,
    /// Index of the credential in the provider's pool.
    pub key: usize,
    pub began: Instant,
    pub deadline: Deadline,
}

impl Once {
    pub fn new(x: &Subject<'_>, target: Arc<Target>, key: usize) -> Self {
        let began = Instant::now();
        let deadline = Deadline::of(x.started, &target, began);
        Once { target, key, began, deadline }
    }

    /// Tries. The upstream's status goes to `status` as soon as it is known.
    ///
    /// # Errors
    /// Whatever kept the answer from being good; nothing was sent to the client.
    pub async fn run(&self, cx: &Cx, x: &Subject<'_>, call: &Call, status: &mut Option<u16>) -> Result<Good, Fault> {
        let hold = admit::enter(cx, x, call, &self.target).await?;
        let sent = timeout_at(self.deadline.at, self.send(cx, x, call, status)).await;
        match sent.unwrap_or_else(|_| Err(self.deadline.missed())) {
            Ok(good) => Ok(Good { hold, ..good }),
            Err(fault) => {
                admit::leave(hold);
                Err(fault)
            }
        }
    }

    async fn send(&self, cx: &Cx, x: &Subject<'_>, call: &Call, status: &mut Option<u16>) -> Result<Good, Fault> {
        let target = &self.target;
        if let Some((face, adapter)) = adapted::by_adapter(x, target) {
            return adapted::Try { cx, x, call, once: self, face, adapter }.run(status).await;
        }
        let mut dropped = Dropped::new();
        let (face, prepared) = encode::prepare(x, call, target, self.key, &mut dropped)?;
        let prepared = match prepared {
            Prepared::Send(prepared) => prepared,
            Prepared::Answered(reply) => return Ok(Good::new(*reply)),
        };
        let sent = Instant::now();
        let request =
            Outbound { method: http::Method::POST, uri: prepared.uri, headers: prepared.headers, body: prepared.body };
        let timeouts = &target.timeouts;
        // A stream's head may well come late, with its first token; other answers come whole after their head.
        let head_timeout = if call.stream { timeouts.first_token } else { timeouts.head };
        let response = cx.upstream().send(&face.dial, request, head_timeout).await?;
        *status = Some(response.status().as_u16());
        if !response.status().is_success() {
            return Err(refused(response, face.dialect, timeouts).await);
        }
        let reading =
            Reading { x, call, target, from: face.dialect, asked: prepared.asked, sent, deadline: self.deadline };
        let good = reading.read(cx, response).await?;
        Ok(Good { dropped, ..good })
    }
}

/// Reads an error answer.
pub(super) async fn refused(response: Response<Inbound>, dialect: &'static dyn Dialect, timeouts: &Timeouts) -> Fault {
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
