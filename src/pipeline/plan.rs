//! The plan of one request: what it says about its own routing, who may say so, and the planner's answer.
//!
//! Every model that a request names is authorised before its targets are looked at. What is for the gateway alone does
//! not go upstream.

use std::cell::OnceCell;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::view::{View, Watch};
use super::{Call, Cx};
use crate::api;
use crate::exchange::{Exchange, Session};
use crate::fault::{Fault, Kind};
use crate::json::Envelope;
use crate::route::facts::Facts;
use crate::route::planner::{self, Request};
use crate::route::policy::{Locks, Policy, suffix};
use crate::route::tree::Affinity;
use crate::route::{Plan, Tree, availability};
use crate::state::health::Standing;

/// Fields of the body that are for the gateway, and taken out of what goes upstream.
const FIELDS: &[&str] = &["models", "fallbacks", "provider", "disable_fallbacks", "session_id"];

/// What headers for the gateway begin with.
const PREFIX: &str = "x-portcullis-";

/// The plan of a request whose every name is authorised.
///
/// # Errors
/// [`Kind::ModelNotFound`]; [`Kind::NoTarget`] and [`Kind::NoTargetFits`] when nothing is left.
pub(super) fn plan(cx: &Cx, x: &mut Exchange, call: &Call, wishes: &Wishes) -> Result<Plan, Fault> {
    let tree = cx.generation.tree(&x.model)?;
    let watch = Watch { health: &cx.state.health, now: cx.state.now() };
    // The usual case: one target, and nobody has anything to say about it.
    if let Some(target) = &tree.lone
        && wishes.is_none()
        && x.trace.is_none()
        && matches!(target.record(&cx.state.health).standing(watch.now), Standing::Closed | Standing::HalfOpen)
    {
        let rules = tree.rules.clone();
        let (targets, empty) = (vec![target.clone()], Vec::new);
        let plan =
            Plan { targets, on_context_length: empty(), on_content_policy: empty(), rules, verdicts: Vec::new() };
        return api::responses::follow(cx, x, call, plan);
    }
    let mut trees = vec![tree];
    for other in &wishes.policy.models {
        trees.push(cx.generation.tree(other)?);
    }
    let plan = choose(cx, x, call, &trees, wishes, &watch);
    note(x, &plan);
    let plan = api::responses::follow(cx, x, call, plan)?;
    if plan.targets.is_empty() {
        let models: Vec<&str> =
            std::iter::once(x.model.as_str()).chain(wishes.policy.models.iter().map(String::as_str)).collect();
        return Err(availability::fault(&models, &plan));
    }
    Ok(plan)
}

/// What a request says about its own routing.
#[derive(Default)]
pub(super) struct Wishes {
    policy: Policy,
    session: Option<String>,
    no_fallbacks: bool,
}

impl Wishes {
    pub(super) fn is_none(&self) -> bool {
        self.policy.is_none() && !self.no_fallbacks
    }
}

fn choose(cx: &Cx, x: &mut Exchange, call: &Call, trees: &[Arc<Tree>], wishes: &Wishes, watch: &Watch<'_>) -> Plan {
    let view = View {
        call,
        op: x.op,
        model: &x.model,
        stream: x.stream,
        principal: x.principal.as_deref(),
        session: wishes.session.as_deref(),
        tokens: OnceCell::new(),
    };
    let session = trees.first().and_then(|tree| tree.affinity.as_deref()).and_then(|affinity| session(&view, affinity));
    let kept = session.and_then(|session| cx.state.affinity.kept(session.key));
    let request = Request {
        facts: &view,
        health: watch,
        policy: &wishes.policy,
        seed: fastrand::u64(..),
        kept: kept.as_deref(),
        trace: x.trace.is_some(),
        no_fallbacks: wishes.no_fallbacks,
    };
    let plan = planner::plan(trees, &request);
    x.session = session;
    plan
}

/// The conversation that a request belongs to: of one caller, about one model.
fn session(view: &View<'_>, affinity: &Affinity) -> Option<Session> {
    let (at, value) = affinity.by.iter().enumerate().find_map(|(at, source)| Some((at, view.value(source)?)))?;
    let mut hasher = DefaultHasher::new();
    view.principal.map(|principal| &principal.key).hash(&mut hasher);
    (view.model, at, value.to_string()).hash(&mut hasher);
    Some(Session { key: hasher.finish(), ttl: affinity.ttl })
}

fn note(x: &mut Exchange, plan: &Plan) {
    x.note("plan", || {
        let candidates = plan
            .verdicts
            .iter()
            .map(|verdict| json!({"target": verdict.target, "removed_by": verdict.removed_by, "why": verdict.why}));
        let names = plan.targets.iter().map(|target| target.name());
        json!({"targets": names.collect::<Vec<_>>(), "candidates": candidates.collect::<Vec<_>>()})
    });
}

/// Reads and takes out what a request says about its routing, and authorises every model that it names. Requests that
/// say nothing are looked at, no more.
///
/// # Errors
/// [`Kind::ModelNotAllowed`]; [`Kind::InvalidRequest`] for wishes that cannot be read or are refused.
pub(super) fn wishes(cx: &Cx, x: &mut Exchange, call: &mut Call) -> Result<Wishes, Fault> {
    let routes = &cx.generation.routes;
    let locks = &routes.locks;
    let mut wishes = Wishes {
        no_fallbacks: x.principal.as_ref().is_some_and(|principal| principal.disable_fallbacks),
        ..Wishes::default()
    };
    if let Some((name, sort)) = suffix(&x.model)
        && !routes.models.contains_key(&x.model)
    {
        if locks.sort.lets("model")? {
            wishes.policy.sort = Some(sort);
        }
        x.model = name.to_owned();
    }
    if call.headers.keys().any(|name| name.as_str().starts_with(PREFIX)) {
        headers(x, call, locks, &mut wishes)?;
    }
    if call.envelope.keys().any(|key| FIELDS.contains(&key)) {
        body(call, locks, &mut wishes)?;
    }
    let principal =
        x.principal.as_ref().ok_or_else(|| Fault::new(Kind::Internal, "No principal after the key check."))?;
    principal.may_use(&x.model)?;
    for other in &wishes.policy.models {
        principal.may_use(other)?;
    }
    Ok(wishes)
}

/// The header forms.
fn headers(x: &mut Exchange, call: &Call, locks: &Locks, wishes: &mut Wishes) -> Result<(), Fault> {
    let header = |name: &str| call.headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let list = |text: &str| {
        let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
        names.map(str::to_owned).collect::<Vec<_>>()
    };
    if let Some(models) = header("x-portcullis-models") {
        wishes.policy.models(list(models), "x-portcullis-models", locks)?;
    }
    match header("x-portcullis-provider") {
        Some(object) if object.starts_with('{') => {
            wishes.policy.provider(object.as_bytes(), "x-portcullis-provider", locks)?;
        }
        // A plain list is an order.
        Some(order) => {
            let object = json!({"order": list(order)}).to_string();
            wishes.policy.provider(object.as_bytes(), "x-portcullis-provider", locks)?;
        }
        None => {}
    }
    if header("x-portcullis-disable-fallbacks") == Some("true") {
        wishes.no_fallbacks |= locks.fallbacks.lets("x-portcullis-disable-fallbacks")?;
    }
    if let Some(session) = header("x-portcullis-session")
        && locks.session.lets("x-portcullis-session")?
    {
        wishes.session = Some(session.to_owned());
    }
    if let Some(text) = header("x-portcullis-timeout-ms")
        && locks.timeout.lets("x-portcullis-timeout-ms")?
    {
        let millis = text.parse().ok().filter(|millis| *millis > 0).ok_or_else(|| {
            let text = format!("`x-portcullis-timeout-ms` holds `{text}`; write a whole number of milliseconds.");
            Fault::new(Kind::InvalidRequest, text).param("x-portcullis-timeout-ms")
        })?;
        x.patience = Some(Duration::from_millis(millis));
    }
    Ok(())
}

/// The fields of the body.
fn body(call: &mut Call, locks: &Locks, wishes: &mut Wishes) -> Result<(), Fault> {
    let others = api::ask::other_models(call)?;
    wishes.policy.models(others, "models", locks)?;
    if let Some(object) = call.envelope.raw("provider").filter(|object| *object != b"null") {
        wishes.policy.provider(object, "provider", locks)?;
    }
    if call.envelope.bool("disable_fallbacks") == Some(true) {
        wishes.no_fallbacks |= locks.fallbacks.lets("disable_fallbacks")?;
    }
    if let Some(session) = call.envelope.str("session_id")
        && locks.session.lets("session_id")?
    {
        wishes.session = Some(session.into_owned());
    }
    for field in FIELDS {
        call.envelope.remove(field);
    }
    // Read anew: whoever decodes it must not see what is gone.
    let body = call.envelope.pieces().concat();
    call.envelope = Envelope::read(body.into()).map_err(|fault| Fault::new(Kind::Internal, fault.message))?;
    Ok(())
}

/// A field deep inside a value, dotted.
pub(super) fn deep(mut value: Value, path: Option<&str>) -> Option<Value> {
    for part in path.into_iter().flat_map(|path| path.split('.')) {
        value = match value {
            Value::Object(mut object) => object.shift_remove(part)?,
            Value::Array(mut list) => {
                let at: usize = part.parse().ok()?;
                if at >= list.len() {
                    return None;
                }
                list.swap_remove(at)
            }
            _ => return None,
        };
    }
    Some(value)
}
