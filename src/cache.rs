//! The stage that answers asks from what is kept, and lets identical asks at the same time share one upstream call.
//!
//! What is kept is what the upstream said, before any hook and in its own wire form; giving it again is reading it again,
//! so a hit is translated, framed and guarded as the first answer was. Comes after authorisation, never before.

pub mod canon;
pub mod controls;
pub mod embedder;
pub mod fields;
pub mod guard;
pub mod policy;
pub mod record;
pub mod semantic;
pub mod serve;
pub mod visit;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;

use crate::attempt::{self, Heard};
use crate::body;
use crate::dialect::Op;
use crate::exchange::Exchange;
use crate::fault::{Fault, Kind};
use crate::hook;
use crate::json::Envelope;
use crate::pipeline::{self, Call, Cx, unix_ms};
use crate::reply::Reply;
use crate::route::{Tree, way};
use crate::state::cache::{Entry, Form, Key, Landing};

use controls::Controls;
use policy::Policy;
pub use policy::Rules;
use visit::{Role, Source};
pub use visit::{Status, Visit};

/// Looks the ask up. Gives the answer when it is kept; else notes in the exchange what is to become of its own.
///
/// # Errors
/// [`Kind::InvalidRequest`] when what the request says of the cache cannot be understood.
///
/// `said` is the body's own word, `apart` an ask that nothing else may answer.
pub async fn look(
    cx: &Cx,
    x: &mut Exchange,
    call: &mut Call,
    said: Option<&[u8]>,
    apart: bool,
) -> Result<Option<Reply>, Fault> {
    let Some(rules) = &cx.generation.cache else { return Ok(None) };
    let Some(principal) = x.principal.clone() else { return Ok(None) };
    let overrides = rules.overrides(&x.model, &principal.key);
    x.marks_prompt = x.op == Op::Generate && rules.marks_prompt(overrides);
    let Some(policy) = rules.policy(overrides).filter(|_| is_cacheable(x.op)) else { return Ok(None) };
    let controls = controls::read(&call.headers, said, &policy)?;
    let partition = if is_personal(x, call) { policy::Partition::Key } else { policy.partition }.name(&principal);
    let (tree, branches) = pipeline::way(cx, &x.split().0, call)?;
    if apart || depends_on_more(x, call, &tree) || !(controls.read || controls.write) {
        x.cache = Some(Box::new(Visit::bypass(partition, policy, controls.ttl)));
        noted(x);
        return Ok(None);
    }
    let scope = Scope::of(x, call, &partition, &controls.namespace, &policy, (&tree, &branches));
    let key = key(cx, x, call, &scope, &policy, &controls);
    let frame = policy.semantic.as_ref().map(|semantic| scope.frame(semantic.same_model));
    let mut visit = Visit::new(key, partition, policy, &controls);
    visit.since = cx.state.cache.purges();
    visit.frame = frame;
    let now = unix_ms();
    let kept = if controls.read { cx.state.cache.find(key, now) } else { None };
    if let Some((entry, given)) = fit(cx, x, call, (visit.max_age, kept), now) {
        visit.hit(Status::Hit, &entry, now);
        x.seen.finish = entry.finish;
        x.cache = Some(Box::new(visit));
        noted(x);
        return Box::pin(give(cx, x, call, &entry, given)).await.map(Some);
    }
    x.cache = Some(Box::new(visit));
    serve::board(cx, x, &controls);
    if let Some((entry, given)) = elsewhere(cx, x, call, key).await {
        noted(x);
        return give(cx, x, call, &entry, given).await.map(Some);
    }
    noted(x);
    Ok(None)
}

/// What was found, if this ask may be answered with it.
fn fit(
    cx: &Cx,
    x: &Exchange,
    call: &Call,
    (max_age, kept): (Option<Duration>, Option<Arc<Entry>>),
    now: u64,
) -> Option<(Arc<Entry>, Given)> {
    let entry = kept.filter(|entry| max_age.is_none_or(|oldest| entry.age(now) <= oldest))?;
    let given = Given::of(cx, x, call, &entry)?;
    Some((entry, given))
}

/// The answer on the tier that processes share. Of identical asks only the one that leads looks there, and the others get
/// what it finds.
async fn elsewhere(cx: &Cx, x: &mut Exchange, call: &Call, key: Key) -> Option<(Arc<Entry>, Given)> {
    let visit = x.cache.as_ref().filter(|visit| visit.status == Status::Miss && !visit.role.listens())?;
    let since = visit.since;
    let general = &visit.policy.general;
    cx.state.cache.shared().filter(|_| general.shared)?;
    let now = unix_ms();
    let kept = cx.state.cache.find_shared(key, general.max_entry_bytes, now, since).await;
    let (entry, given) = fit(cx, x, call, (visit.max_age, kept), now)?;
    let visit = x.cache.as_mut()?;
    visit.hit(Status::Hit, &entry, now);
    if let Role::Lead(lead) = std::mem::take(&mut visit.role) {
        lead.land(Landing::Done(entry.clone()));
    }
    x.seen.finish = entry.finish;
    Some((entry, given))
}

/// What the cache decided, for the decision trace.
fn noted(x: &mut Exchange) {
    if x.trace.is_none() {
        return;
    }
    let Some(visit) = &x.cache else { return };
    let what = serde_json::json!({
        "status": visit.status.as_str(),
        "key": visit.key.map(|key| key.to_string()),
        "age_s": visit.age.map(|age| age.as_secs()),
        "listens": visit.role.listens(),
    });
    x.note("cache", || what);
}

/// Operations whose answers mean the same tomorrow.
fn is_cacheable(op: Op) -> bool {
    match op {
        Op::Generate | Op::Complete | Op::Embed | Op::EmbedBatch | Op::Rerank => true,
        // It costs nothing and is asked in order to plan.
        Op::CountTokens => false,
    }
}

/// Whether the body has a word for the cache.
pub fn is_named(call: &Call) -> bool {
    call.envelope.raw(controls::FIELD).is_some()
}

/// Takes the cache's own field out of the body, and gives what it held: no upstream knows it.
///
/// # Errors
/// What is left cannot be read, which it always can.
pub fn take(call: &mut Call) -> Result<Option<Bytes>, Fault> {
    let Some(said) = call.envelope.raw(controls::FIELD).map(Bytes::copy_from_slice) else { return Ok(None) };
    let mut envelope = call.envelope.clone();
    envelope.remove(controls::FIELD);
    call.rewrite(Envelope::read(envelope.pieces().concat().into())?);
    Ok(Some(said))
}

/// Whether nobody but the caller may be given the answer, whatever the partition: what a policy makes of an ask may depend
/// on whose it is, and an answer that its provider keeps can be asked for, gone on from and deleted by whoever it is
/// given to.
fn is_personal(x: &Exchange, call: &Call) -> bool {
    hook::steers(x) || (x.dialect.answers_are_stored() && call.envelope.bool("store") != Some(false))
}

/// Whether the answer depends on what only the provider has: an earlier response, a conversation it keeps, or the world
/// that its own tools look at.
fn depends_on_more(x: &Exchange, call: &Call, tree: &Tree) -> bool {
    let says =
        |name: &str| call.envelope.raw(name).is_some_and(|raw| !matches!(raw, b"null" | b"false" | b"[]" | b"{}"));
    if tree.behind().looks_elsewhere || way::is_online(&x.model) || way::LOOKS_ELSEWHERE.iter().any(|name| says(name)) {
        return true;
    }
    // Elsewhere it is the text of a completion.
    if x.op == Op::Generate && says("prompt") {
        return true;
    }
    // Tools that providers run are rare, and only a decoded ask tells them from functions.
    says("tools")
        && x.op == Op::Generate
        && call
            .ask(x.dialect, x.op)
            .is_ok_and(|ask| ask.tools.iter().any(|tool| matches!(tool, crate::chat::Tool::Hosted(_))))
}

/// What an answer depends on beside the words of its ask: who shares it, by which rules, and what the model's name and the
/// ask's own headers lead to.
struct Scope<'a> {
    shared: [&'a [u8]; 3],
    fingerprint: String,
    /// The model's name, what stands behind it, and the branches that the ask is on there.
    way: [&'a [u8]; 3],
    headers: Vec<&'a [u8]>,
}

impl<'a> Scope<'a> {
    fn of(
        x: &'a Exchange,
        call: &'a Call,
        partition: &'a str,
        namespace: &'a str,
        policy: &Policy,
        (tree, branches): (&'a Tree, &'a [u8]),
    ) -> Self {
        let headers = x
            .dialect
            .forwarded_headers()
            .iter()
            // One is sent with every request, the other belongs to a single one.
            .filter(|name| !matches!(name.as_str(), "anthropic-version" | "idempotency-key"))
            .flat_map(|name| {
                call.headers.get_all(name).iter().map(|value| [name.as_str().as_bytes(), value.as_bytes()])
            });
        Scope {
            shared: [partition.as_bytes(), namespace.as_bytes(), x.op.as_str().as_bytes()],
            fingerprint: policy.general.fingerprint(),
            way: [x.model.as_bytes(), &tree.behind().print.0, branches],
            headers: headers.flatten().collect(),
        }
    }

    fn parts(&self) -> impl Iterator<Item = &[u8]> {
        self.shared.into_iter().chain([self.fingerprint.as_bytes()]).chain(self.way).chain(self.headers.iter().copied())
    }

    /// What asks in other words must have in common, the model's part only where the operator wants that.
    fn frame(&self, same_model: bool) -> Key {
        let way = self.way.into_iter().filter(|_| same_model);
        let rest = [self.fingerprint.as_bytes()].into_iter().chain(self.headers.iter().copied());
        Key::of(self.shared.into_iter().chain(rest).chain(way))
    }
}

/// The key of an ask. A body that was seen before leads to it without being decoded.
fn key(cx: &Cx, x: &Exchange, call: &Call, scope: &Scope<'_>, policy: &Policy, controls: &Controls) -> Key {
    let general = &policy.general;
    let pieces = call.envelope.pieces();
    let form = [b"raw".as_slice(), x.dialect.name().as_bytes(), if x.op == Op::EmbedBatch { b"batch" } else { b"" }];
    let body = || form.into_iter().chain(scope.parts()).chain(pieces.iter().map(AsRef::as_ref));
    let raw = cx.state.cache.key_of_body(body());
    if let Some(key) = cx.state.cache.alias(raw) {
        return key;
    }
    let rules = canon::Rules {
        order: general.order_insensitive,
        ignore: &general.ignore,
        echoed: x.dialect.answers_are_stored(),
    };
    let spelling = match x.op {
        Op::Embed | Op::EmbedBatch => {
            x.dialect.decode_embed(&call.raw_ask(x.op)).map(|ask| canon::embed(&ask, rules)).ok()
        }
        _ => call.ask(x.dialect, x.op).map(|ask| canon::ask(&ask, rules)).ok(),
    };
    // What this dialect cannot read may still be good for the upstream; it is then only like itself.
    let Some(spelling) = spelling else { return Key::of(body()) };
    let key = Key::of([b"ask".as_slice()].into_iter().chain(scope.parts()).chain([spelling.as_slice()]));
    cx.state.cache.keep_alias(raw, key, controls.ttl);
    key
}

/// How a kept answer is given.
enum Given {
    /// As it is: same wire form, same form, and nobody wants to look into it.
    AsIs,
    /// Read again, as if this target said it now.
    Read(Arc<crate::route::Target>),
}

impl Given {
    /// None when it cannot be given any more: the provider that made it is no longer there to read it by.
    fn of(cx: &Cx, x: &Exchange, call: &Call, entry: &Entry) -> Option<Given> {
        let same = entry.form == Form::Whole && !x.stream && entry.dialect == x.dialect;
        // What is kept names the model as its provider does.
        let renamed = x.op == Op::Generate && x.dialect.names_model_as_asked(&call.envelope);
        if same && !x.usage_cost && !renamed && !x.dialect.answers_are_stored() {
            return Some(Given::AsIs);
        }
        cx.generation.target(&entry.provider, &entry.model).map(Given::Read)
    }
}

async fn give(cx: &Cx, x: &mut Exchange, call: &Call, entry: &Entry, given: Given) -> Result<Reply, Fault> {
    match given {
        Given::AsIs => {
            let (body, id) = entry.fresh_body();
            // Callers find the record by the id that they were given.
            x.seen.id = id.or_else(|| x.seen.id.take());
            Ok(Reply::json(StatusCode::OK, body))
        }
        Given::Read(target) => {
            // Later asks name stored answers by their id, which must stay what it is.
            let named = entry.dialect.answers_are_stored() && x.dialect.answers_are_stored();
            let body = if named { entry.body.clone() } else { entry.fresh_body().0 };
            let (stream, dialect) = (entry.form == Form::Stream, entry.dialect);
            let replay = x.cache.as_ref().map(|visit| visit.policy.general.replay).unwrap_or_default();
            // What is made into another form first is paced when that is done.
            let as_it_is = stream && x.stream && !replay.joined;
            let body = body::at_pace(body, replay.pace.filter(|_| as_it_is));
            let heard = Heard { target, dialect, stream, body, replay, after: None };
            attempt::hear(cx, x, call, heard).await
        }
    }
}

/// Gives an answer that another exchange has just got.
///
/// # Errors
/// As [`attempt::hear`].
pub(crate) async fn share(cx: &Cx, x: &mut Exchange, call: &Call, entry: &Entry) -> Result<Reply, Fault> {
    let given = Given::of(cx, x, call, entry).ok_or_else(|| {
        Fault::new(Kind::ModelNotFound, format!("The provider `{}` is no longer configured.", entry.provider))
    })?;
    give(cx, x, call, entry, given).await
}

impl From<&Entry> for Source {
    fn from(entry: &Entry) -> Source {
        Source { provider: entry.provider.clone(), model: entry.model.clone() }
    }
}

impl Role {
    /// Whether somebody else's answer is waited for.
    pub fn listens(&self) -> bool {
        matches!(self, Role::Listen(_))
    }
}
