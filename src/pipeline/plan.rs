//! The plan of one request: the planner's answer to what it asks for and to what it says about its own routing.
//!
//! One way for all: for what the caller named, for where a limit sends it on, and for the models that policies name.
//! Every model that a request names is authorised before its targets are looked at.

use std::cell::OnceCell;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use serde_json::{Value, json};

use super::view::{View, Watch};
use super::{Call, Cx};
use crate::api;
use crate::exchange::{Exchange, Session, Subject};
use crate::fault::Fault;
use crate::hook;
use crate::route::facts::Facts;
use crate::route::planner::{self, Request};
use crate::route::policy::Policy;
use crate::route::tree::Affinity;
use crate::route::{Plan, Target, Tree, availability, way};
use crate::state::health::Standing;

/// The plan of a request whose every name is authorised. Its targets may be none where a policy has yet to be asked, who
/// may name others.
///
/// # Errors
/// `ModelNotFound`; `NoTarget` and `NoTargetFits` when nothing is left.
pub(super) fn plan(cx: &Cx, x: &mut Exchange, call: &Call) -> Result<Plan, Fault> {
    let tree = cx.generation.tree(&x.model)?;
    let chooses = x.wishes.as_ref().is_some_and(|wishes| wishes.choose());
    // The usual case: one target, and nobody has anything to say about it.
    if let Some(target) = tree.lone.as_ref().filter(|target| !chooses && is_plain(cx, x, target)) {
        let plan = Plan { targets: vec![target.clone()], rules: tree.rules.clone(), ..Plan::default() };
        return api::responses::follow(cx, &x.split().0, call, plan);
    }
    let traced = x.trace.is_some();
    let (plan, session) = choose(cx, &x.split().0, call, tree, Others::Named, traced)?;
    x.session = session;
    note(x, &plan);
    let policies = hook::may_name_targets(x);
    let x = x.split().0;
    let plan = api::responses::follow(cx, &x, call, plan)?;
    if plan.targets.is_empty() && !policies { Err(nobody(&x, &plan)) } else { Ok(plan) }
}

/// Why the plan of a request is without targets.
pub fn nobody(x: &Subject<'_>, plan: &Plan) -> Fault {
    unserved(x, plan, Others::Named)
}

fn unserved(x: &Subject<'_>, plan: &Plan, others: Others) -> Fault {
    let models: Vec<&str> = std::iter::once(x.model).chain(others.of(x).iter().map(String::as_str)).collect();
    availability::fault(&models, plan)
}

/// The plan of an exchange that somebody sends to another model than its caller named: its limits, or a policy. They
/// are the authority on the name; what the caller demands of a target (data policy, price, `only`) holds there as well.
///
/// # Errors
/// As for the plan of a request.
pub fn elsewhere(cx: &Cx, x: &Subject<'_>, call: &Call, model: &str) -> Result<Plan, Fault> {
    let x = Subject { model, ..*x };
    let (plan, _) = choose(cx, &x, call, cx.generation.tree(model)?, Others::None, false)?;
    let plan = api::responses::follow(cx, &x, call, plan)?;
    if plan.targets.is_empty() { Err(unserved(&x, &plan, Others::None)) } else { Ok(plan) }
}

/// Whether the further models that a request names are planned for too.
#[derive(Clone, Copy)]
enum Others {
    Named,
    None,
}

impl Others {
    fn of<'a>(self, x: &Subject<'a>) -> &'a [String] {
        match (self, x.wishes) {
            (Others::Named, Some(wishes)) => wishes.others(),
            _ => &[],
        }
    }
}

/// Whether a target without a rival goes into the plan unseen. Readers of a trace are told of it like of any other, but
/// for an open breaker that spares it: planning would take that for a reason to leave it out.
fn is_plain(cx: &Cx, x: &Exchange, target: &Target) -> bool {
    // As it was when the request came: who waits longer for its body than a breaker is open is planned for after all.
    let (record, then) = (target.record(&cx.state.health), cx.state.at(x.started));
    record.takes_alone(then) && (x.trace.is_none() || matches!(record.standing(then), Standing::Open { .. }))
}

/// What the trees of a request's models give now. Its targets may be none.
fn choose(
    cx: &Cx,
    x: &Subject<'_>,
    call: &Call,
    tree: Arc<Tree>,
    others: Others,
    trace: bool,
) -> Result<(Plan, Option<Session>), Fault> {
    let silent = Policy::default();
    let mut trees = vec![tree];
    for other in others.of(x) {
        trees.push(cx.generation.tree(other)?);
    }
    let view = view(x, call);
    let session = trees[0].affinity.as_deref().and_then(|affinity| session(&view, affinity));
    let kept = session.and_then(|session| cx.state.affinity.kept(session.key));
    let request = Request {
        facts: &view,
        health: &Watch { health: &cx.state.health, now: cx.state.now() },
        policy: x.wishes.map_or(&silent, |wishes| &wishes.policy),
        seed: fastrand::u64(..),
        kept: kept.as_deref(),
        trace,
        no_fallbacks: x.wishes.is_some_and(|wishes| wishes.no_fallbacks),
    };
    Ok((planner::plan(&trees, &request), session))
}

/// What a request's plan depends on, chance and health aside: what stands behind the model's name, and the branches that
/// the request is on.
///
/// # Errors
/// `ModelNotFound`.
pub fn way(cx: &Cx, x: &Subject<'_>, call: &Call) -> Result<(Arc<Tree>, Vec<u8>), Fault> {
    let tree = cx.generation.tree(x.model)?;
    let mut branches = Vec::new();
    if tree.behind().branches {
        way::of(&tree, &view(x, call), &mut branches);
    }
    Ok((tree, branches))
}

fn view<'a>(x: &Subject<'a>, call: &'a Call) -> View<'a> {
    View {
        call,
        op: x.op,
        dialect: x.dialect,
        model: x.model,
        stream: x.stream,
        principal: x.principal.map(|principal| &**principal),
        session: x.wishes.and_then(|wishes| wishes.session.as_deref()),
        tokens: OnceCell::new(),
    }
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
