//! From the client's request to the settled exchange: every stage by name, in order.
//!
//! All the branching of the data path is on this page; stages are plain functions in their own rooms. Never retries:
//! `attempt` does.

mod plan;
mod view;
mod wishes;

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::request::Parts;
use http::{HeaderMap, HeaderName, Response};
use tokio::time::{Instant, timeout, timeout_at};

use crate::admit;
use crate::api::{self, Endpoint, Matched, Serve};
use crate::auth::Principal;
use crate::body::{Inbound, ReadError};
use crate::boxed::boxed;
use crate::cache;
use crate::chat::Ask;
use crate::dialect::{Dialect, Op, RawAsk};
use crate::exchange::{Exchange, Outcome, Seen};
use crate::fault::{Fault, Kind};
use crate::generation::Generation;
use crate::hook;
use crate::json::{Envelope, scan};
use crate::reply::{self, Late, Outbound, Reply};
use crate::route::Plan;
use crate::settle::{self, Settle};
use crate::state::State;
pub use crate::state::unix_ms;
use crate::stream::Framing;
use crate::trace;
use crate::upstream::Upstream;
pub use plan::{elsewhere, nobody, way};
pub use wishes::{SESSION, Wishes};

/// What a request is served with: the generation it began under, the state that outlives it, its worker's connections.
#[derive(Clone)]
pub struct Cx {
    pub generation: Arc<Generation>,
    pub state: Arc<State>,
    pub upstream: Arc<dyn Upstream>,
    pub peer: Option<SocketAddr>,
}

impl Cx {
    pub fn upstream(&self) -> &dyn Upstream {
        self.upstream.as_ref()
    }
}

/// What the client asked for, read no further than needed.
#[derive(Debug, Clone)]
pub struct Call {
    pub envelope: Envelope,
    pub headers: HeaderMap,
    /// The model, where the path names it.
    pub model_in_path: Option<String>,
    pub stream: bool,
    pub framing: Framing,
    /// The client wants the usage event of its stream.
    pub include_usage: bool,
    decoded: OnceLock<Arc<Ask>>,
    /// No object of the body has a key twice.
    unambiguous: OnceLock<bool>,
    /// The decoded ask is not what the body says: the body must not be relayed.
    pub is_rewritten: bool,
}

impl Call {
    pub fn new(envelope: Envelope, headers: HeaderMap) -> Self {
        Call {
            envelope,
            headers,
            model_in_path: None,
            stream: false,
            framing: Framing::Sse,
            include_usage: true,
            decoded: OnceLock::new(),
            unambiguous: OnceLock::new(),
            is_rewritten: false,
        }
    }

    /// The same call with another ask in its place.
    pub fn with_ask(&self, ask: Ask) -> Call {
        Call { decoded: OnceLock::from(Arc::new(ask)), is_rewritten: true, ..self.clone() }
    }

    /// The same call with another body.
    #[must_use]
    pub fn with(&self, envelope: Envelope) -> Self {
        Call {
            headers: self.headers.clone(),
            model_in_path: self.model_in_path.clone(),
            stream: self.stream,
            framing: self.framing,
            include_usage: self.include_usage,
            ..Call::new(envelope, HeaderMap::new())
        }
    }

    /// Puts another body in place of the client's.
    pub fn rewrite(&mut self, envelope: Envelope) {
        self.envelope = envelope;
        self.decoded = OnceLock::new();
        self.unambiguous = OnceLock::new();
    }

    /// Whether every parser reads the body alike, as it must be where somebody looks at it for another.
    ///
    /// # Errors
    /// [`Kind::AmbiguousRequest`]: an object in it has a key twice, of which one parser takes the first and one the last.
    pub fn reads_one_way(&self) -> Result<(), Fault> {
        match *self.unambiguous.get_or_init(|| scan::has_each_key_once(self.envelope.body())) {
            true => Ok(()),
            false => {
                Err(Fault::new(Kind::AmbiguousRequest, "An object in the body has a field that stands more than once."))
            }
        }
    }

    pub fn raw_ask(&self, op: Op) -> RawAsk<'_> {
        RawAsk { op, body: self.envelope.body(), model: self.model_in_path.as_deref(), stream: self.stream }
    }

    /// The decoded ask; decoded once, however many targets need it.
    pub fn ask(&self, dialect: &dyn Dialect, op: Op) -> Result<Arc<Ask>, Fault> {
        if let Some(ask) = self.decoded.get() {
            return Ok(ask.clone());
        }
        let ask = Arc::new(dialect.decode_ask(&self.raw_ask(op))?);
        Ok(self.decoded.get_or_init(|| ask).clone())
    }
}

/// Serves one request.
pub fn run(cx: Cx, head: Parts, body: Inbound) -> impl Future<Output = Response<Outbound>> + Send {
    run_as(cx, head, body, None)
}

/// Serves one request as the exchange of this id, which is played once more; None for a new one.
pub async fn run_as(cx: Cx, head: Parts, body: Inbound, id: Option<String>) -> Response<Outbound> {
    let matched = match api::find(&head) {
        Ok(matched) => matched,
        Err(refused) => return api::refuse(refused, &head),
    };
    if let Serve::Open(answer) = matched.endpoint.serve {
        return answer(&cx, &head);
    }
    let mut settle = Settle::begin(|| begin(&cx, &head, &matched, id), cx.state.clone());
    let staged = settle::until_end(&cx.state, pin!(stages(&cx, &mut settle, head, body, &matched))).await;
    match staged.unwrap_or_else(|| Err(settle::process_ended())) {
        Ok(Next::Attempt { call, plan }) => attempt(cx, settle, call, plan).await,
        Ok(Next::Reply(reply)) => finish(Ok(reply), settle),
        Err(fault) => finish(Err(fault), settle),
    }
}

/// The answer to an exchange, with what guests have noted so far in its trace.
fn finish(outcome: Result<Reply, Fault>, mut settle: Settle) -> Response<Outbound> {
    hook::take_notes(&mut settle);
    reply::finish(outcome, settle)
}

/// Where the stages before the first upstream lead.
enum Next {
    Reply(Reply),
    Attempt { call: Arc<Call>, plan: Plan },
}

/// Everything before an upstream is asked.
async fn stages(cx: &Cx, x: &mut Exchange, head: Parts, mut body: Inbound, matched: &Matched) -> Result<Next, Fault> {
    let generation = &cx.generation;
    // Guests note what they decide from their first call on; whether the caller may read it is known only after that.
    let asked = trace::is_asked_for(&head.headers);
    x.trace = cx.generation.log_trace.then(Box::default);
    let names_model = matches!(matched.endpoint.serve, Serve::Ask { .. } | Serve::Verb);
    if !(names_model && generation.hooks.wait_for_model()) {
        x.guests = hook::Open::begin(cx, x, 0, asked);
    }
    // A stranger never makes us read a body.
    x.principal = Some(match hook::auth(x, &head).await? {
        Some(principal) => principal,
        None => generation.keys.check(&head.headers, &head.uri, x.started_ms / 1000)?,
    });
    hook::identify(x);
    if asked && x.principal.as_ref().is_some_and(|principal| principal.trace || generation.keys.is_open()) {
        x.trace.get_or_insert_default().answered = true;
    }
    let ask = match matched.endpoint.serve {
        Serve::Ask { .. } | Serve::Verb => read(x, &mut body, generation.limits).await?,
        Serve::Posted(answer) => {
            let bytes = read(x, &mut body, generation.limits).await?;
            x.bytes_in = bytes.len() as u64;
            return answer(cx, x, &bytes, matched).map(Next::Reply);
        }
        Serve::Keyed(answer) => return answer(cx, x, matched).map(Next::Reply),
        Serve::Stored => {
            let bytes = read(x, &mut body, generation.limits).await?;
            Box::pin(admit::admit_plain(cx, x, &head.headers)).await?;
            return Box::pin(api::responses::stored(cx, x, head, bytes, matched)).await.map(Next::Reply);
        }
        Serve::Open(_) => return Err(Fault::new(Kind::Internal, "An open endpoint reached the pipeline.")),
    };
    x.bytes_in = ask.len() as u64;
    let read = api::ask::read(x, ask, head, matched);
    hook::open_for_model(cx, x);
    let mut call = Arc::new(read?);
    api::responses::recall(cx, x, Arc::make_mut(&mut call))?;
    ask_on(cx, x, call).await
}

/// From an ask that was read to its plan: who may, what policies make of it, where it goes.
async fn ask_on(cx: &Cx, x: &mut Exchange, mut call: Arc<Call>) -> Result<Next, Fault> {
    // Nobody else holds it yet.
    wishes::read(cx, x, Arc::make_mut(&mut call))?;
    // What stood behind the model's name is gone from it by now, whether or not it was granted.
    hook::open_for_model(cx, x);
    hook::converse(x, &call.headers);
    // An answer from the cache is counted too, so admission comes first; without limits there is nothing to plan for it.
    let mut admitted = match cx.generation.rules.is_empty() {
        true => None,
        false => Some(self::admitted(cx, x, &call).await?),
    };
    let model = admitted.as_ref().and(x.guests.as_ref()).map(|_| x.model.clone());
    if let Some(reply) = hook::request(cx, x, &mut call).await? {
        return Ok(Next::Reply(reply));
    }
    api::responses::in_background(x, &call)?;
    // A policy has chosen another model: that one's limits hold, and those of the first have nothing to do with it.
    if model.is_some_and(|model| model != x.model) {
        (x.admitted, x.asking) = (None, None);
        admitted = Some(self::admitted(cx, x, &call).await?);
    }
    // What another model answers is not kept under this one's name, and who says where to go wants no answer from elsewhere.
    let elsewhere = x.admitted.as_ref().is_some_and(|admitted| admitted.routed)
        || x.wishes.as_ref().is_some_and(|wishes| wishes.choose());
    // Its word in the body goes no further, whether or not there is a cache.
    if cx.generation.cache.is_some() || cache::is_named(&call) {
        // Nobody else holds it by now, unless a policy's machine is late in letting go; then what policies made of the
        // ask must come along.
        let own = Arc::make_mut(&mut call);
        let said = cache::take(own)?;
        // A policy that looks at answers must see every one: what was kept has not passed it.
        let apart = elsewhere || hook::sees_answers(x);
        if let Some(reply) = cache::look(cx, x, own, said.as_deref(), apart).await? {
            return Ok(Next::Reply(reply));
        }
    }
    let mut plan = match admitted {
        Some(plan) => plan,
        None => plan::plan(cx, x, &call)?,
    };
    if let Some(reply) = hook::plan(cx, x, &call, &mut plan).await? {
        return Ok(Next::Reply(reply));
    }
    if plan.targets.is_empty() && !hook::hears_of_faults(x) {
        return Err(nobody(&x.split().0, &plan));
    }
    Ok(Next::Attempt { call, plan })
}

/// What limits leave of the plan.
async fn admitted(cx: &Cx, x: &mut Exchange, call: &Call) -> Result<Plan, Fault> {
    let planned = plan::plan(cx, x, call)?;
    admit::admit(cx, x, call, planned).await
}

/// Asks the upstreams. A stream that is still without content after the keep-alive interval gets its head early, so
/// that nothing on the way to the client gives up waiting; trying goes on behind it.
async fn attempt(cx: Cx, settle: Settle, call: Arc<Call>, plan: Plan) -> Response<Outbound> {
    let early = cx.generation.keep_alive.filter(|_| call.stream && call.framing == Framing::Sse);
    let Some(after) = early else {
        let (outcome, settle) = cache::serve::run(cx, settle, call, plan).await;
        return finish(outcome, settle);
    };
    let late = Late::head(&settle);
    let mut attempt = boxed(|| cache::serve::run(cx, settle, call, plan));
    match timeout(after, &mut attempt).await {
        Ok((outcome, settle)) => finish(outcome, settle),
        Err(_) => late.respond(attempt, after),
    }
}

/// For whom an ask is made inside of an exchange: its caller, who calls from where the trusted proxies have told.
#[derive(Debug, Clone)]
pub struct Asker {
    pub principal: Arc<Principal>,
    pub peer: Option<SocketAddr>,
}

/// An ask that a policy makes, as the caller of its exchange: through the same stages, with the same accounts. Gives
/// status and body.
///
/// # Errors
/// It was answered by a stream.
pub async fn inner(
    cx: Cx,
    asker: Asker,
    path: &'static str,
    body: bytes::Bytes,
    depth: u8,
) -> Result<(u16, bytes::Bytes), &'static str> {
    let head = http::Request::post(path).body(()).map_err(|_| "the path is none")?.into_parts().0;
    let matched = api::find(&head).map_err(|_| "nothing is served at the path")?;
    let begin = || Exchange { peer: asker.peer, ..begin(&cx, &head, &matched, None) };
    let mut settle = Settle::begin(begin, cx.state.clone());
    settle.guests = hook::Open::begin(&cx, &settle, depth, false);
    settle.principal = Some(asker.principal);
    hook::identify(&settle);
    settle.bytes_in = body.len() as u64;
    let outcome = match api::ask::read(&mut settle, body, head, &matched) {
        Ok(call) => ask_on(&cx, &mut settle, Arc::new(call)).await,
        Err(fault) => Err(fault),
    };
    let (outcome, settle) = match outcome {
        Ok(Next::Attempt { call, plan }) => cache::serve::run(cx, settle, call, plan).await,
        Ok(Next::Reply(reply)) => (Ok(reply), settle),
        Err(fault) => (Err(fault), settle),
    };
    let response = reply::finish(outcome, settle);
    let status = response.status().as_u16();
    // Taking the body settles the exchange.
    response.into_body().into_whole().map(|body| (status, body)).ok_or("it was answered by a stream")
}

/// Reads a body within its bounds.
async fn read(x: &Exchange, body: &mut Inbound, limits: Limits) -> Result<bytes::Bytes, Fault> {
    match timeout_at(x.started + limits.body_timeout, body.read(limits.max_body_bytes, None)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(ReadError::TooLarge)) => {
            let text = format!("The body is longer than {} bytes.", limits.max_body_bytes);
            Err(Fault::new(Kind::BodyTooLarge, text))
        }
        Ok(Err(ReadError::Malformed(source))) => {
            let text = "The body is not framed as HTTP wants it; check what the client puts around its chunks.";
            Err(Fault::new(Kind::InvalidRequest, text).because(source))
        }
        Ok(Err(ReadError::Broken(source))) => Err(Fault::new(Kind::ClientGone, "The body broke off.").because(source)),
        Ok(Err(ReadError::Silent)) | Err(_) => {
            let text = format!("The body did not arrive within {:?}.", limits.body_timeout);
            Err(Fault::new(Kind::BodyTimeout, text))
        }
    }
}

/// Bounds of a request's body.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub max_body_bytes: usize,
    pub body_timeout: Duration,
}

/// A fresh exchange, of a fresh id where none is given.
pub(crate) fn begin(cx: &Cx, head: &Parts, matched: &Matched, id: Option<String>) -> Exchange {
    let id = id.unwrap_or_else(|| cx.state.records.id());
    let endpoint: &Endpoint = matched.endpoint;
    Exchange {
        request_id: caller_id(&head.headers).unwrap_or_else(|| id.clone()),
        id,
        started: Instant::now(),
        started_ms: unix_ms(),
        endpoint: endpoint.path,
        dialect: matched.dialect,
        op: matched.op,
        stream: false,
        model: String::new(),
        asked_model: None,
        principal: None,
        peer: cx.generation.trusted.caller(cx.peer, &head.headers),
        generation: cx.generation.number,
        bytes_in: 0,
        input_estimate: 0,
        bytes_out: 0,
        attempts: Default::default(),
        overhead_at_head: Duration::ZERO,
        dropped: Vec::new(),
        usage_cost: false,
        seen: Seen::default(),
        marks_prompt: false,
        admitted: None,
        asking: None,
        guests: None,
        cache: None,
        calls: None,
        feedback: None,
        trace: None,
        wishes: None,
        session: None,
        patience: None,
        status: 0,
        outcome: Outcome::Open,
    }
}

/// Headers in which callers send an id of their own.
const CALLER_IDS: [HeaderName; 2] =
    [HeaderName::from_static("x-request-id"), HeaderName::from_static("x-client-request-id")];

/// Longest request id that is taken over from a caller.
const MAX_REQUEST_ID_BYTES: usize = 128;

/// The caller's own id, where it is fit for logs and headers.
fn caller_id(headers: &HeaderMap) -> Option<String> {
    let fit = |text: &&str| {
        !text.is_empty() && text.len() <= MAX_REQUEST_ID_BYTES && text.bytes().all(|byte| byte.is_ascii_graphic())
    };
    let said = |name: &HeaderName| headers.get(name)?.to_str().ok().filter(fit);
    CALLER_IDS.iter().find_map(said).map(str::to_owned)
}
