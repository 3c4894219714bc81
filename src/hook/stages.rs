//! One function a phase: what a guest is shown there, and what its verdict does.
//!
//! The order of guests is that of [`Hooks`]; the first that answers or refuses ends the phase. Each phase is a look at who
//! is subscribed, and a boxed future behind it: an exchange that no guest sees does not carry the room they need.

use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use serde_json::{Map, Value};

use super::apply::{self, Unplanned};
use super::at_once;
use super::open::{Open, allow, open, take_notes};
use super::stream::Sieve;
use super::world::Held;
use crate::auth::Principal;
use crate::boxed::boxed;
use crate::exchange::{Exchange, Subject};
use crate::fault::{Fault, Kind};
use crate::guest::StreamMode;
use crate::guest::verdict::{Patch, Verdict};
use crate::guest::view;
use crate::host::{Phase, Phases};
use crate::pipeline::{Call, Cx};
use crate::reply::Reply;
use crate::route::{Plan, Target};
use crate::settle::Settled;
use crate::stream::Filter;

/// `on_auth`: the caller, where a guest names one.
///
/// # Errors
/// A guest refused, or failed where that refuses.
pub async fn auth(x: &mut Exchange, head: &Parts) -> Result<Option<Arc<Principal>>, Fault> {
    if open(x, Phase::Auth).is_none() {
        return Ok(None);
    }
    boxed(|| named(x, head)).await
}

async fn named(x: &mut Exchange, head: &Parts) -> Result<Option<Arc<Principal>>, Fault> {
    let Some(open) = open(x, Phase::Auth) else { return Ok(None) };
    let view = Arc::new(view::Head {
        visit: open.visit.clone(),
        method: head.method.as_str().to_owned(),
        path: head.uri.path().to_owned(),
        query: head.uri.query().map(str::to_owned),
        headers: head.headers.clone(),
    });
    let mut found = None;
    for hook in open.hooks.all().iter().filter(|hook| hook.phases().has(Phase::Auth) && hook.shares(&open.visit)) {
        match hook.call(Phase::Auth, &open.visit, &open.world, view::Subject::Head(view.clone())).await? {
            Verdict::Principal(who) => {
                found = Some(Arc::new(Principal {
                    key: who.key,
                    project: who.project,
                    models: who.models,
                    metadata: who.metadata,
                    expires: None,
                    ..Principal::default()
                }));
                break;
            }
            Verdict::Reject(reject) => {
                let of_caller = matches!(reject.status, None | Some(401 | 403));
                let kind = if of_caller { Kind::InvalidCredential } else { Kind::PolicyRejected };
                return Err(apply::rejected(reject, kind, hook));
            }
            _ => {}
        }
    }
    Ok(found)
}

/// `on_request`: the ask as guests want it, or an answer of theirs.
///
/// # Errors
/// A guest refused, or failed where that refuses.
pub async fn request(cx: &Cx, x: &mut Exchange, call: &mut Arc<Call>) -> Result<Option<Reply>, Fault> {
    if open(x, Phase::Request).is_none() {
        return Ok(None);
    }
    allow(x, cx.generation.total);
    boxed(|| requested(cx, x, call)).await
}

async fn requested(cx: &Cx, x: &mut Exchange, call: &mut Arc<Call>) -> Result<Option<Reply>, Fault> {
    let count = cx.generation.hooks.all().len();
    for at in 0..count {
        let Some(open) = open(x, Phase::Request) else { return Ok(None) };
        let hook = &cx.generation.hooks.all()[at];
        if !hook.wants(Phase::Request, &open.visit, x.names()) {
            continue;
        }
        let view = shown(open, x, call, &[]);
        let visit = open.visit.clone();
        let verdict = hook.call(Phase::Request, &visit, &open.world, view::Subject::Request(view.clone())).await;
        take_notes(x);
        match verdict? {
            Verdict::Patch(patch) => {
                let patched = apply::to_call(cx, x, call, *patch);
                if let Some(patched) = hook.done(Phase::Request, &visit, &cx.state, patched)? {
                    *call = Arc::new(patched);
                }
            }
            Verdict::Respond(respond) => {
                let asker = &x.split().0;
                let reply = apply::respond(cx, asker, call, respond, at).await;
                if let Some(reply) = hook.done(Phase::Request, &visit, &cx.state, reply)? {
                    return passed(cx, asker, call, view, reply, at).await.map(Some);
                }
            }
            Verdict::Reject(reject) => return Err(apply::rejected(reject, Kind::PolicyRejected, hook)),
            _ => {}
        }
    }
    Ok(None)
}

/// The ask as guests are shown it.
fn shown(open: &Open, x: &Exchange, call: &Arc<Call>, plan: &[Arc<Target>]) -> Arc<view::Request> {
    let visit = open.visit.clone();
    let held = Held { visit, call: call.clone(), model: x.model.clone(), dialect: x.dialect, op: x.op };
    Arc::new(view::Request { visit: open.visit.clone(), call: Arc::new(held), plan: plan.to_vec() })
}

/// `on_route`: the plan as guests want it, or an answer of theirs.
///
/// # Errors
/// A guest refused, or failed where that refuses, or named a target that is not there.
pub async fn route(cx: &Cx, x: &mut Exchange, call: &Arc<Call>, plan: &mut Plan) -> Result<Option<Reply>, Fault> {
    if x.guests.is_some() {
        allow(x, plan.targets.iter().map(|target| target.timeouts.total).max());
    }
    if let Some(open) = &mut x.guests
        && open.phases.has_any(LATER)
    {
        let (visit, plan) = (open.visit.clone(), plan.targets.clone());
        let (call, model) = (call.clone(), x.model.clone());
        let held = Held { visit: visit.clone(), call, model, dialect: x.dialect, op: x.op };
        open.request = Some(Arc::new(view::Request { visit, call: Arc::new(held), plan }));
    }
    if open(x, Phase::Route).is_none() {
        return Ok(None);
    }
    boxed(|| routed(cx, x, call, plan)).await
}

async fn routed(cx: &Cx, x: &mut Exchange, call: &Arc<Call>, plan: &mut Plan) -> Result<Option<Reply>, Fault> {
    for at in 0..cx.generation.hooks.all().len() {
        let Some(open) = open(x, Phase::Route) else { return Ok(None) };
        let hook = &cx.generation.hooks.all()[at];
        if !hook.wants(Phase::Route, &open.visit, x.names()) {
            continue;
        }
        let view = shown(open, x, call, &plan.targets);
        let visit = open.visit.clone();
        let verdict = hook.call(Phase::Route, &visit, &open.world, view::Subject::Request(view.clone())).await;
        take_notes(x);
        match verdict? {
            Verdict::Plan(wish) => match apply::plan(cx, &x.split().0, call, plan, &wish) {
                Ok(()) => {}
                // A name that is not there is the guest's failure, and the native plan stands.
                Err(Unplanned::Unknown(error)) => hook.misjudged(Phase::Route, &visit, &cx.state, &error)?,
                Err(Unplanned::Nobody(fault)) => return Err(*fault),
            },
            Verdict::Respond(respond) => {
                let asker = &x.split().0;
                let reply = apply::respond(cx, asker, call, respond, at).await;
                if let Some(reply) = hook.done(Phase::Route, &visit, &cx.state, reply)? {
                    return passed(cx, asker, call, view, reply, at).await.map(Some);
                }
            }
            Verdict::Reject(reject) => return Err(apply::rejected(reject, Kind::PolicyRejected, hook)),
            _ => {}
        }
    }
    Ok(None)
}

/// Phases after planning that are shown the ask again.
const LATER: Phases = Phases::of(&[Phase::Attempt, Phase::Fault, Phase::Answer]);

/// One try as guests want it.
#[derive(Debug)]
pub struct Tuned {
    pub target: Arc<Target>,
    pub headers: Vec<apply::Set>,
    pub edits: Vec<Edit>,
}

/// A change of the conversation for one try, made when the try is.
#[derive(Debug, Clone)]
pub struct Edit {
    /// The guest's place among the hooks.
    at: usize,
    patch: Box<Patch>,
}

/// The ask with the edits of this try in it; None when there are none.
///
/// # Errors
/// An edit cannot be made, and its guest refuses where it fails.
pub fn edited(x: &Subject<'_>, call: &Call, edits: &[Edit]) -> Result<Option<Box<Call>>, Fault> {
    let mut changed: Option<Box<Call>> = None;
    let Some(open) = x.guests else { return Ok(changed) };
    for edit in edits {
        let hook = &open.hooks.all()[edit.at];
        let edited = apply::to_try(x, changed.as_deref().unwrap_or(call), &edit.patch);
        if let Some(call) = hook.done(Phase::Attempt, &open.visit, open.world.state(), edited)? {
            changed = Some(Box::new(call));
        }
    }
    Ok(changed)
}

/// `on_attempt`: the try as guests want it.
///
/// # Errors
/// A guest failed where that refuses.
pub async fn attempt(x: &Subject<'_>, target: &Arc<Target>, number: u32) -> Result<Option<Tuned>, Fault> {
    match shown_again(x, Phase::Attempt) {
        Some(_) => boxed(|| tuned(x, target, number)).await,
        None => Ok(None),
    }
}

async fn tuned(x: &Subject<'_>, target: &Arc<Target>, number: u32) -> Result<Option<Tuned>, Fault> {
    let Some((open, request)) = shown_again(x, Phase::Attempt) else { return Ok(None) };
    let mut target = target.clone();
    let (mut headers, mut edits) = (Vec::new(), Vec::new());
    for (at, hook) in open.hooks.all().iter().enumerate() {
        if !hook.wants(Phase::Attempt, &open.visit, x.names()) {
            continue;
        }
        let view = view::Try { visit: open.visit.clone(), request: request.clone(), target: target.clone(), number };
        let subject = view::Subject::Try(Arc::new(view));
        if let Verdict::Patch(patch) = hook.call(Phase::Attempt, &open.visit, &open.world, subject).await? {
            let set = apply::headers(&patch, hook);
            let Some(set) = hook.done(Phase::Attempt, &open.visit, open.world.state(), set)? else { continue };
            headers.extend(set);
            target = apply::to_target(&target, &patch);
            if patch.edits_text() {
                edits.push(Edit { at, patch });
            }
        }
    }
    Ok(Some(Tuned { target, headers, edits }))
}

/// The guests that listen at a phase after planning, with the ask as they are shown it.
fn shown_again<'a>(x: &Subject<'a>, phase: Phase) -> Option<(&'a Open, &'a Arc<view::Request>)> {
    let open = x.guests.filter(|open| open.phases.has(phase))?;
    Some((open, open.request.as_ref()?))
}

/// What a guest wants after a failed try.
pub enum After {
    /// The same target again, after a while.
    Same(Duration),
    /// The plan's next target.
    Next,
    /// These targets.
    Plan(Plan),
    Reply(Reply),
    /// Nothing more.
    Stop,
}

/// What is known of a failed try, or of an exchange that no target took.
pub struct FailedTry<'a> {
    pub fault: &'a Fault,
    /// Who failed, or would have been asked first.
    pub target: &'a Arc<Target>,
    /// Counted from 1; 0 where nobody was asked.
    pub number: u32,
    pub took: Duration,
    /// Until the exchange must be over.
    pub left: Duration,
    /// Targets of the plan that were not asked yet.
    pub remaining: usize,
}

/// Whether a guest listens to failed tries.
pub fn looks_at_faults(x: &Subject<'_>) -> bool {
    shown_again(x, Phase::Fault).is_some_and(|(open, _)| open.wanting(Phase::Fault, x.names()).next().is_some())
}

/// `on_fault`: what a guest wants now; None leaves it to the plan.
///
/// # Errors
/// A guest refused, or failed where that refuses.
pub async fn fault(
    cx: &Cx,
    x: &Subject<'_>,
    call: &Arc<Call>,
    plan: &Plan,
    failed: FailedTry<'_>,
) -> Result<Option<After>, Fault> {
    match shown_again(x, Phase::Fault) {
        Some(_) => boxed(|| failing(cx, x, call, plan, failed)).await,
        None => Ok(None),
    }
}

async fn failing(
    cx: &Cx,
    x: &Subject<'_>,
    call: &Arc<Call>,
    plan: &Plan,
    failed: FailedTry<'_>,
) -> Result<Option<After>, Fault> {
    let Some((open, request)) = shown_again(x, Phase::Fault) else { return Ok(None) };
    for (at, hook) in open.wanting_at(Phase::Fault, x.names()) {
        let view = view::Failure {
            visit: open.visit.clone(),
            request: request.clone(),
            fault: failed.fault.clone(),
            target: failed.target.clone(),
            number: failed.number,
            took: failed.took,
            left: failed.left,
            remaining: failed.remaining,
        };
        let subject = view::Subject::Failure(Arc::new(view));
        let after = match hook.call(Phase::Fault, &open.visit, &open.world, subject).await? {
            Verdict::Same(after) => After::Same(after),
            Verdict::Next => After::Next,
            Verdict::Plan(wish) => {
                let mut wanted = plan.clone();
                match apply::plan(cx, x, call, &mut wanted, &wish) {
                    Ok(()) => After::Plan(wanted),
                    Err(Unplanned::Unknown(error)) => {
                        let error = format!("{error} on_fault returns a plan, \"same\", \"next\" or \"stop\".");
                        hook.misjudged(Phase::Fault, &open.visit, &cx.state, &error)?;
                        continue;
                    }
                    // Nowhere to go on: the caller hears of the try that failed.
                    Err(Unplanned::Nobody(_)) => After::Stop,
                }
            }
            Verdict::Respond(respond) => {
                let reply = apply::respond(cx, x, call, respond, at).await;
                match hook.done(Phase::Fault, &open.visit, &cx.state, reply)? {
                    Some(reply) => After::Reply(passed(cx, x, call, request.clone(), reply, at).await?),
                    None => continue,
                }
            }
            Verdict::Reject(reject) => return Err(apply::rejected(reject, Kind::PolicyRejected, hook)),
            Verdict::Stop(_) => After::Stop,
            _ => continue,
        };
        return Ok(Some(after));
    }
    Ok(None)
}

/// An answer that is good as far as its form goes.
#[derive(Default)]
pub struct Answered<'a> {
    /// None where a guest has said it.
    pub target: Option<&'a Arc<Target>>,
    /// Counted from 1; 0 where a guest has said it.
    pub number: u32,
    pub usage: Option<crate::chat::Usage>,
    pub finish: Option<crate::chat::Finish>,
}

/// Whether a guest listens to answers as they come.
pub fn looks_at_answer(x: &Subject<'_>) -> bool {
    shown_again(x, Phase::Answer).is_some()
}

/// `on_answer`: the answer as guests want it. True when one of them says something else in its place.
///
/// # Errors
/// A guest would not have it, and the plan goes on; or refused, or failed where that refuses.
pub async fn answer(
    cx: &Cx,
    x: &Subject<'_>,
    call: &Arc<Call>,
    answered: Answered<'_>,
    reply: &mut Reply,
) -> Result<bool, Fault> {
    let Some((_, request)) = shown_again(x, Phase::Answer) else { return Ok(false) };
    boxed(|| judged(cx, x, call, request.clone(), answered, reply, Vec::new())).await
}

/// What a guest says in place of an answer, as the others want it: it passes `on_answer` of all but the one that said it.
///
/// # Errors
/// As [`answer`].
async fn passed(
    cx: &Cx,
    x: &Subject<'_>,
    call: &Arc<Call>,
    request: Arc<view::Request>,
    mut reply: Reply,
    by: usize,
) -> Result<Reply, Fault> {
    Box::pin(judged(cx, x, call, request, Answered::default(), &mut reply, vec![by])).await?;
    Ok(reply)
}

/// Shows an answer to the guests. Where one says something else it is shown to the others anew: `said` are those that
/// have spoken, who are not asked of themselves or of each other again.
async fn judged(
    cx: &Cx,
    x: &Subject<'_>,
    call: &Arc<Call>,
    request: Arc<view::Request>,
    mut answered: Answered<'_>,
    reply: &mut Reply,
    mut said: Vec<usize>,
) -> Result<bool, Fault> {
    let Some(open) = x.guests else { return Ok(false) };
    let spoken = said.len();
    let mut next = 0;
    while let Some(hook) = open.hooks.all().get(next) {
        let at = next;
        next += 1;
        if said.contains(&at) || !hook.wants(Phase::Answer, &open.visit, x.names()) {
            continue;
        }
        let view = view::Answer {
            visit: open.visit.clone(),
            request: request.clone(),
            target: answered.target.cloned(),
            status: reply.status.as_u16(),
            stream: reply.is_stream(),
            body: reply.bytes(),
            usage: answered.usage,
            finish: answered.finish,
            number: answered.number,
            decode: apply::decode_answer,
            decoded: Default::default(),
        };
        let subject = view::Subject::Answer(Arc::new(view));
        match hook.call(Phase::Answer, &open.visit, &open.world, subject).await? {
            Verdict::Patch(patch) => {
                let patched = apply::to_reply(x, call, reply, *patch);
                hook.done(Phase::Answer, &open.visit, &cx.state, patched)?;
            }
            Verdict::Fault(message) => {
                let text = if message.is_empty() { "A policy would not have this answer.".to_owned() } else { message };
                return Err(Fault::new(Kind::PolicyFault, text));
            }
            Verdict::Respond(respond) => {
                let another = apply::respond(cx, x, call, respond, at).await;
                if let Some(another) = hook.done(Phase::Answer, &open.visit, &cx.state, another)? {
                    *reply = another;
                    answered = Answered::default();
                    said.push(at);
                    next = 0;
                }
            }
            Verdict::Reject(reject) => return Err(apply::rejected(reject, Kind::PolicyRejected, hook)),
            _ => {}
        }
    }
    Ok(said.len() > spoken)
}

/// `on_event`: what looks at this exchange's stream; None when nobody does.
pub fn events(x: &Subject<'_>) -> Option<Box<dyn Filter>> {
    events_of(x, None)
}

/// The same for a stream that the guest at this place has said itself.
pub(super) fn events_of(x: &Subject<'_>, by: Option<usize>) -> Option<Box<dyn Filter>> {
    let open = x.guests.filter(|open| open.phases.has(Phase::Event))?;
    let places: Vec<usize> = open
        .wanting_at(Phase::Event, x.names())
        .filter(|(at, hook)| by != Some(*at) && hook.bundle.manifest.stream != StreamMode::None)
        .map(|(at, _)| at)
        .collect();
    if places.is_empty() {
        return None;
    }
    Some(Box::new(Sieve::new(open.hooks.clone(), places, open.visit.clone(), open.world.clone())))
}

/// `on_done`, and fields for the log. Runs wherever the exchange ends, also when the client has gone. What guests have
/// reserved and not settled by then ends here.
pub fn done(settled: &Settled<'_>) -> Option<Map<String, Value>> {
    let open = settled.exchange.guests.as_deref()?;
    let fields = if open.phases.has(Phase::Done) { told(open, settled) } else { Map::new() };
    open.visit.held.end(settled.fault.is_none() || settled.usage.is_some(), || open.world.unix_ms());
    (!fields.is_empty()).then_some(fields)
}

fn told(open: &Open, settled: &Settled<'_>) -> Map<String, Value> {
    let x = settled.exchange;
    let view = Arc::new(view::Done {
        visit: open.visit.clone(),
        model: x.model.clone(),
        stream: x.stream,
        status: settled.status,
        code: settled.fault.map(|fault| fault.told_code().to_owned()),
        target: x.target().map(|target| target.name()),
        attempts: x.attempts.len(),
        usage: settled.usage,
        estimated: settled.estimated,
        cost_nano_usd: settled.cost_nano_usd,
        finish: x.seen.finish,
        took: settled.ended.duration_since(x.started),
        first_content: x.seen.first_content.map(|first| first.duration_since(x.started)),
        bytes_in: x.bytes_in,
        bytes_out: x.bytes_out,
    });
    let mut fields = Map::new();
    for hook in open.wanting(Phase::Done, x.names()) {
        let call = hook.call(Phase::Done, &open.visit, &open.world, view::Subject::Done(view.clone()));
        if let Ok(Verdict::Fields(more)) = at_once(call) {
            for (mut name, value) in more {
                // Of two policies that take the same name, the later one's field is told by its own.
                while fields.contains_key(&name) {
                    name = format!("{}.{name}", hook.guest.name);
                }
                fields.insert(name, value);
            }
        }
    }
    fields
}

/// Response headers that a guest may not set: they are the connection's or the gateway's own word.
pub fn may_answer_with(name: &str) -> bool {
    !["connection", "content-length", "transfer-encoding", "upgrade", "te", "trailer", "keep-alive"].contains(&name)
        && !name.starts_with("x-portcullis-")
}
