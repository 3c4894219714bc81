//! Answers to clients: status, headers and body, and the settling that rides in the body.
//!
//! The one place that renders a fault, and the one that names the gateway's own response headers.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use serde_json::json;
use tokio::time::{Instant, Sleep};

use crate::admit::{self, headers as limits};
use crate::cache::Visit;
use crate::cost;
use crate::cost::decimal::millis;
use crate::dialect::{Begun, Dialect};
use crate::exchange::{Exchange, Outcome, Used};
use crate::fault::{Fault, Kind};
use crate::pipeline::unix_ms;
use crate::settle::{self, Settle};
use crate::state::State;
use crate::stream::Relay;
use crate::stream::onward::Turn;
use crate::trace;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const EVENT_STREAM: HeaderValue = HeaderValue::from_static("text/event-stream; charset=utf-8");

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const X_SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");
const RETRY_AFTER_MS: HeaderName = HeaderName::from_static("retry-after-ms");
const X_ID: HeaderName = HeaderName::from_static("x-portcullis-id");
const X_PROVIDER: HeaderName = HeaderName::from_static("x-portcullis-provider");
const X_MODEL: HeaderName = HeaderName::from_static("x-portcullis-model");
const X_ATTEMPTS: HeaderName = HeaderName::from_static("x-portcullis-attempts");
const X_COST: HeaderName = HeaderName::from_static("x-portcullis-cost");
const X_OVERHEAD: HeaderName = HeaderName::from_static("x-portcullis-overhead-ms");
const X_CACHE: HeaderName = HeaderName::from_static("x-portcullis-cache");
const X_CACHE_KEY: HeaderName = HeaderName::from_static("x-portcullis-cache-key");
const X_CACHE_AGE: HeaderName = HeaderName::from_static("x-portcullis-cache-age");
const X_CACHE_TTL: HeaderName = HeaderName::from_static("x-portcullis-cache-ttl");
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");
const X_ERROR: HeaderName = HeaderName::from_static("x-portcullis-error");

/// Room for the headers of an answer: a map that grows hashes all that is in it anew.
const HEADERS: usize = 12;

/// The same for those of the cache, and for eight that tell of two limits.
const MORE_HEADERS: usize = 12;

/// What the pipeline answers with.
#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub content: Content,
}

/// The body of a [`Reply`].
#[derive(Debug)]
pub enum Content {
    Whole(Bytes),
    Stream(Box<Relay>),
}

impl Reply {
    /// A whole JSON body.
    pub fn json(status: StatusCode, body: impl Into<Bytes>) -> Self {
        let mut headers = HeaderMap::with_capacity(HEADERS);
        headers.insert(CONTENT_TYPE, JSON);
        Reply { status, headers, content: Content::Whole(body.into()) }
    }

    /// A stream that has reached its commit point.
    pub fn stream(relay: Relay, sse: bool) -> Self {
        let mut headers = HeaderMap::with_capacity(HEADERS);
        stream_headers(&mut headers, sse);
        Reply { status: StatusCode::OK, headers, content: Content::Stream(Box::new(relay)) }
    }

    pub fn is_stream(&self) -> bool {
        matches!(self.content, Content::Stream(_))
    }

    /// The whole body; empty for a stream.
    pub fn bytes(&self) -> Bytes {
        match &self.content {
            Content::Whole(bytes) => bytes.clone(),
            Content::Stream(_) => Bytes::new(),
        }
    }

    /// A fault as the caller's dialect writes it.
    pub fn fault(fault: &Fault, dialect: &dyn Dialect, request_id: &str) -> Self {
        let status = StatusCode::from_u16(fault.status(dialect.name())).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut reply = Reply::json(status, dialect.encode_error(fault, request_id));
        let headers = &mut reply.headers;
        headers.insert(X_ERROR, HeaderValue::from_static(fault.code()));
        headers.insert(X_SHOULD_RETRY, HeaderValue::from_static(if fault.should_retry() { "true" } else { "false" }));
        if let Some(wait) = fault.retry_after {
            headers.insert(RETRY_AFTER, number(wait.as_secs() + u64::from(wait.subsec_nanos() > 0)));
            headers.insert(RETRY_AFTER_MS, number(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)));
        }
        reply
    }
}

impl Reply {
    /// The stream in which the provider reported the fault, where the caller's dialect makes more of that than of a status:
    /// all of it that came, as it came, with status 200. Else the reply as it is.
    fn in_stream(mut self, fault: &Fault, dialect: &dyn Dialect) -> Self {
        let told = fault.refusal.as_deref().filter(|refusal| {
            refusal.status == 200 && refusal.dialect == dialect.name() && dialect.fails_in_streams(fault.kind)
        });
        if let Some(refusal) = told.filter(|refusal| !refusal.body.is_empty()) {
            self.status = StatusCode::OK;
            self.content = Content::Whole(refusal.body.clone());
            stream_headers(&mut self.headers, true);
        }
        self
    }
}

/// Puts the gateway's headers on a reply and ties the settling to its body.
pub fn finish(outcome: Result<Reply, Fault>, mut settle: Settle) -> Response<Outbound> {
    let mut reply = match outcome {
        Ok(reply) => reply,
        Err(fault) => {
            let reply = Reply::fault(&fault, settle.dialect, &settle.request_id);
            let reply = if settle.stream { reply.in_stream(&fault, settle.dialect) } else { reply };
            settle.outcome = Outcome::Failed(fault);
            reply
        }
    };
    settle.status = reply.status.as_u16();
    settle.overhead_at_head = settle.overhead(Instant::now());
    annotate(&mut reply.headers, &settle);
    let body = match reply.content {
        Content::Whole(bytes) => {
            let (none, reset, same) = (StatusCode::NO_CONTENT, StatusCode::RESET_CONTENT, StatusCode::NOT_MODIFIED);
            let has_none = [none, reset, same].contains(&reply.status);
            let bytes = Some(bytes).filter(|bytes| !has_none && !bytes.is_empty());
            settle.bytes_out = bytes.as_ref().map_or(0, |bytes| bytes.len() as u64);
            // Nobody asks for a body that is none.
            if bytes.is_none() && matches!(settle.outcome, Outcome::Open) {
                settle.outcome = Outcome::Complete;
            }
            Outbound::Whole { bytes, settle: Some(settle) }
        }
        Content::Stream(relay) => Outbound::Stream { relay, settle },
    };
    let mut response = Response::new(body);
    *response.status_mut() = reply.status;
    *response.headers_mut() = reply.headers;
    response
}

/// The headers that every answer of an exchange carries.
fn annotate(headers: &mut HeaderMap, exchange: &Exchange) {
    let has_limits = exchange.admitted.as_ref().is_some_and(|admitted| !admitted.standing.is_empty());
    if has_limits || exchange.cache.is_some() {
        headers.reserve(HEADERS + MORE_HEADERS);
    }
    identify(headers, exchange.dialect, &exchange.id, &exchange.request_id);
    if let Some(target) = exchange.target() {
        let [provider, model] = &target.labels;
        headers.insert(X_PROVIDER, provider.clone());
        headers.insert(X_MODEL, model.clone());
        headers.insert(X_ATTEMPTS, number(exchange.attempts.len() as u64));
        if !exchange.stream
            && let Some(cost) = exchange.seen.usage.as_ref().and_then(|usage| target.cost(usage))
        {
            headers.insert(X_COST, written(|out| cost::write_dollars(out, cost)));
        }
    }
    if let Some(admitted) = &exchange.admitted {
        limits::write(headers, &admitted.standing, exchange.dialect, unix_ms());
    }
    if let Some(visit) = &exchange.cache {
        visited(headers, visit, exchange.status);
    }
    headers.insert(X_OVERHEAD, written(|out| millis(out, exchange.overhead_at_head)));
    if let Some(trace) = exchange.trace.as_ref().filter(|trace| trace.answered) {
        headers.insert(trace::HEADER, text(&trace.header()));
    }
}

/// What the cache had to do with it.
fn visited(headers: &mut HeaderMap, visit: &Visit, status: u16) {
    headers.insert(X_CACHE, HeaderValue::from_static(visit.status.as_str()));
    if let Some(key) = &visit.key {
        headers.insert(X_CACHE_KEY, text(&key.to_string()));
    }
    if let Some(ttl) = visit.lasts().filter(|_| status < 400) {
        headers.insert(X_CACHE_TTL, number(ttl.as_secs()));
    }
    if let Some(age) = visit.age {
        headers.insert(X_CACHE_AGE, number(age.as_secs()));
    }
    if let Some(source) = &visit.source {
        headers.insert(X_PROVIDER, text(&source.provider));
        headers.insert(X_MODEL, text(&source.model));
        headers.insert(X_ATTEMPTS, number(0));
        headers.insert(X_COST, number(0));
    }
}

/// The ids that can be told before anything is known of the answer.
fn identify(headers: &mut HeaderMap, dialect: &dyn Dialect, id: &str, request_id: &str) {
    headers.insert(X_REQUEST_ID, text(request_id));
    if let Some(name) = dialect.request_id_header() {
        headers.insert(HeaderName::from_static(name), text(request_id));
    }
    headers.insert(X_ID, text(id));
}

fn stream_headers(headers: &mut HeaderMap, sse: bool) {
    headers.insert(CONTENT_TYPE, if sse { EVENT_STREAM } else { JSON });
    // Proxies on the way must neither buffer nor keep an event stream.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(X_ACCEL_BUFFERING, HeaderValue::from_static("no"));
}

fn number(value: u64) -> HeaderValue {
    // Nearly every answer took one attempt.
    if value == 1 { HeaderValue::from_static("1") } else { HeaderValue::from(value) }
}

/// A value that is written into a small buffer.
fn written(write: impl FnOnce(&mut Vec<u8>)) -> HeaderValue {
    let mut value = Vec::with_capacity(24);
    write(&mut value);
    HeaderValue::from_maybe_shared(Bytes::from(value)).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// A header value; what cannot stand in a header is left empty.
fn text(value: &str) -> HeaderValue {
    HeaderValue::from_str(value).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// A body on its way to a client.
#[derive(Debug)]
pub enum Outbound {
    /// Bytes at hand. `settle` is absent for answers that are no exchange (health, metrics).
    Whole {
        bytes: Option<Bytes>,
        settle: Option<Settle>,
    },
    Stream {
        relay: Box<Relay>,
        settle: Settle,
    },
    /// The head went out before the answer was there.
    Late(Box<Waiting>),
}

impl Outbound {
    /// No body.
    pub const NONE: Outbound = Outbound::Whole { bytes: None, settle: None };

    pub fn whole(bytes: impl Into<Bytes>) -> Self {
        Outbound::Whole { bytes: Some(bytes.into()), settle: None }
    }
}

impl Outbound {
    /// When the last of it is due; None for what is at hand.
    pub fn due(&self) -> Option<Instant> {
        match self {
            Outbound::Stream { relay, .. } => Some(relay.due()),
            Outbound::Whole { .. } | Outbound::Late(_) => None,
        }
    }

    /// The whole body, taken as a client would take it; None for a stream.
    pub fn into_whole(mut self) -> Option<Bytes> {
        let Outbound::Whole { bytes, settle } = &mut self else { return None };
        if let Some(settle) = settle
            && matches!(settle.outcome, Outcome::Open)
        {
            settle.outcome = Outcome::Complete;
        }
        Some(bytes.take().unwrap_or_default())
    }
}

impl Drop for Outbound {
    fn drop(&mut self) {
        if let Outbound::Stream { relay, settle } = self {
            relay.abandon();
            turns(relay, settle);
            if matches!(settle.outcome, Outcome::Open) {
                match relay.ending() {
                    Some(Err(fault)) => settle.outcome = Outcome::Failed(fault),
                    _ if relay.has_said_all() => settle.outcome = Outcome::Complete,
                    _ => {}
                }
            }
            settle.seen = std::mem::take(&mut relay.seen);
            if let (Some(calls), Some(heard)) = (&mut settle.calls, relay.overheard()) {
                calls.said = heard;
            }
        }
    }
}

impl Body for Outbound {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let next = match &mut *self {
            Outbound::Whole { bytes, settle } => {
                if let Some(settle) = settle
                    && matches!(settle.outcome, Outcome::Open)
                {
                    settle.outcome = Outcome::Complete;
                }
                bytes.take()
            }
            Outbound::Stream { relay, settle } => {
                if settle.state().ending() {
                    relay.cut(settle::process_ended());
                }
                let next = ready!(relay.poll_bytes(cx));
                turns(relay, settle);
                settle.bytes_out += next.as_ref().map_or(0, |bytes| bytes.len() as u64);
                if matches!(settle.outcome, Outcome::Open)
                    && let Some(ending) = relay.ending()
                {
                    settle.outcome = ending.map_or_else(Outcome::Failed, |()| Outcome::Complete);
                }
                next
            }
            Outbound::Late(waiting) if waiting.state.ending() => {
                let bytes = waiting.error(&settle::process_ended());
                // Lets go of the exchange, which settles it.
                self.set(Outbound::NONE);
                Some(bytes)
            }
            Outbound::Late(waiting) => match ready!(waiting.poll(cx)) {
                Said::Comment => Some(Bytes::from_static(waiting.dialect.keep_alive())),
                Said::Stream(relay, settle) => {
                    self.set(Outbound::Stream { relay, settle });
                    return self.poll_frame(cx);
                }
                Said::End(bytes, settle) => {
                    self.set(Outbound::Whole { bytes: None, settle: Some(settle) });
                    Some(bytes)
                }
            },
        };
        Poll::Ready(next.map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Outbound::Whole { bytes: None, .. })
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Outbound::Whole { bytes, .. } => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Outbound::Stream { .. } | Outbound::Late(_) => SizeHint::default(),
        }
    }
}

/// Notes what happened to the exchange's attempts inside its stream.
fn turns(relay: &mut Relay, settle: &mut Settle) {
    for turn in relay.turns() {
        let now = settle.state().now();
        match turn {
            Turn::Cut(fault, used) => {
                settle.note("cut", || json!({ "fault": fault.code(), "output_tokens": used.output }));
                let answering = settle.attempts.iter_mut().rfind(|attempt| attempt.flight.is_some());
                if let Some(attempt) = answering {
                    attempt.fail(now, &fault);
                    attempt.part = Some(Box::new(used));
                    let target = attempt.target.clone();
                    admit::cut(settle, &target, &used);
                } else if let Some(visit) = &mut settle.cache {
                    // It was another exchange's attempt; that one's part is the same.
                    visit.part = Some(used);
                }
            }
            Turn::Tried(attempt, hold) => {
                settle.note("attempt", || attempt.describe());
                settle.attempts.push(*attempt);
                admit::entered(settle, hold);
            }
            Turn::Left(mut attempt) => {
                attempt.took = settle.started.elapsed().saturating_sub(attempt.at);
                attempt.leave(now, Used::given_up(settle.op, settle.input_estimate));
                settle.note("attempt", || attempt.describe());
                settle.attempts.push(*attempt);
            }
        }
    }
}

/// An attempt that goes on behind a head already sent.
type Behind = Pin<Box<dyn Future<Output = (Result<Reply, Fault>, Settle)> + Send>>;

/// What a late body waits for.
pub struct Waiting {
    attempt: Behind,
    interval: Duration,
    timer: Pin<Box<Sleep>>,
    dialect: &'static dyn Dialect,
    request_id: String,
    state: Arc<State>,
}

impl Waiting {
    fn error(&self, fault: &Fault) -> Bytes {
        let mut bytes = Vec::new();
        let begun = Begun { request_id: &self.request_id, ..Begun::default() };
        self.dialect.encode_stream_error(fault, &begun, &mut bytes);
        bytes.into()
    }

    /// The next thing to say: a comment, or what the attempt came to.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Said> {
        if let Poll::Ready((outcome, mut settle)) = self.attempt.as_mut().poll(cx) {
            settle.status = StatusCode::OK.as_u16();
            let fault = match outcome {
                Ok(Reply { content: Content::Stream(relay), .. }) => return Poll::Ready(Said::Stream(relay, settle)),
                Ok(_) => Fault::new(Kind::Internal, "A stream ended in a whole answer."),
                Err(fault) => fault,
            };
            let bytes = self.error(&fault);
            settle.outcome = Outcome::Failed(fault);
            return Poll::Ready(Said::End(bytes, settle));
        }
        ready!(self.timer.as_mut().poll(cx));
        self.timer.as_mut().reset(Instant::now() + self.interval);
        // Registers the task with the timer's next ring.
        let _ = self.timer.as_mut().poll(cx);
        Poll::Ready(Said::Comment)
    }
}

enum Said {
    Comment,
    Stream(Box<Relay>, Settle),
    End(Bytes, Settle),
}

impl std::fmt::Debug for Waiting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Waiting")
    }
}

/// A stream whose head goes out before its commit point, because the client has waited long.
#[derive(Debug)]
pub struct Late {
    dialect: &'static dyn Dialect,
    id: String,
    request_id: String,
    limits: HeaderMap,
    state: Arc<State>,
}

impl Late {
    /// Takes down what the head will need, while the exchange is still at hand.
    pub fn head(exchange: &Settle) -> Self {
        let mut limits = HeaderMap::new();
        if let Some(admitted) = &exchange.admitted {
            limits::write(&mut limits, &admitted.standing, exchange.dialect, unix_ms());
        }
        Late {
            dialect: exchange.dialect,
            id: exchange.id.clone(),
            request_id: exchange.request_id.clone(),
            limits,
            state: exchange.state().clone(),
        }
    }

    /// Answers 200 now and goes on with `attempt`, a comment every `interval` until it is done.
    pub fn respond(self, attempt: Behind, interval: Duration) -> Response<Outbound> {
        let mut headers = HeaderMap::with_capacity(8);
        stream_headers(&mut headers, true);
        headers.extend(self.limits);
        identify(&mut headers, self.dialect, &self.id, &self.request_id);
        let waiting = Waiting {
            attempt,
            interval,
            timer: Box::pin(tokio::time::sleep(Duration::ZERO)),
            dialect: self.dialect,
            request_id: self.request_id,
            state: self.state,
        };
        let mut response = Response::new(Outbound::Late(Box::new(waiting)));
        *response.headers_mut() = headers;
        response
    }
}
