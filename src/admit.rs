//! Admission: what the limits and budgets say to an exchange before it begins, to each target it is about to try, and
//! what they are told when it ends.
//!
//! One way for every endpoint. Decides nothing about counts (`state::limit` does) and costs nothing without rules.

mod estimate;
pub mod headers;
mod refuse;
mod wait;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::auth::Principal;
use crate::boxed::boxed;
use crate::chat::Usage;
use crate::exchange::{Exchange, Outcome, Subject};
use crate::fault::{Fault, Kind};
use crate::pipeline::{self, Call, Cx, unix_ms};
use crate::route::{Plan, Target};
use crate::state::limit::rule::{Exhausted, Facts, Rule};
use crate::state::limit::{Amounts, Charge, Estimate, Hold, Refusal, Standing};
use crate::state::metrics::Decision;
use estimate::Known;

/// How often one exchange may be sent on to another model by its limits: rules that send each other round end here.
const MAX_ROUTES: usize = 4;

/// What an exchange holds.
#[derive(Debug, Default)]
pub struct Admitted {
    hold: Option<Hold>,
    /// Of the target that is being tried, or that answered.
    target: Option<Hold>,
    /// How the windows stood, for headers.
    pub standing: Vec<Standing>,
    /// An exhausted limit sent it to another model.
    pub routed: bool,
}

/// What the limits of a target must know of an exchange that asks it.
#[derive(Debug, Clone)]
pub struct Asking {
    /// None where no limit of the exchange's own wanted it yet.
    known: Option<Known>,
    /// The end user, where a rule asks.
    user: Option<String>,
}

/// Checks the limits of an exchange and takes its estimate from all of them, or from none. Gives the plan to go on with:
/// the one it got, or that of the model which an exhausted rule names.
///
/// # Errors
/// [`Kind::LimitExceeded`], [`Kind::BudgetExceeded`], [`Kind::PriceUnknown`].
pub async fn admit(cx: &Cx, x: &mut Exchange, call: &Call, plan: Plan) -> Result<Plan, Fault> {
    let rules = &cx.generation.rules;
    if rules.is_empty() {
        return Ok(plan);
    }
    let user = rules.wants_user.then(|| estimate::user(call)).flatten();
    let facts = told(x, call, &x.model, user.as_deref());
    if rules.of_exchange.iter().any(|rule| rule.applies(&facts)) {
        // Boxed, as it is in use for some and waits for few of these.
        return boxed(|| hold(cx, x, call, plan, user)).await;
    }
    // None is for this exchange. Those of targets may be, and those of other models that the caller names.
    let names_others = x.wishes.as_ref().is_some_and(|wishes| !wishes.others().is_empty());
    if names_others || !rules.of_target.is_empty() {
        x.asking = Some(Asking { known: None, user });
    }
    Ok(plan)
}

/// What an exchange's limits look at, with the model that they are those of.
fn told<'a>(x: &'a Exchange, call: &'a Call, model: &'a str, user: Option<&'a str>) -> Facts<'a> {
    Facts { user, ..facts(x.principal.as_ref(), x.endpoint, x.peer, &call.headers, model) }
}

/// As [`admit`], where there are limits.
async fn hold(cx: &Cx, x: &mut Exchange, call: &Call, plan: Plan, user: Option<String>) -> Result<Plan, Fault> {
    let mut admission = Admission { plan, models: vec![x.model.clone()], past: SmallVec::new() };
    let expected = Known::read(x.op, call, cx.generation.rules.wants_tokens);
    loop {
        // Where none of the model's targets takes requests, a policy may name another; until then they have the price.
        let first = admission.plan.targets.first().cloned();
        let first = first.or_else(|| cx.generation.targets(admission.model()).ok()?.into_iter().next());
        let estimate = expected.at(first.as_deref());
        let charges = admission.charges(cx, &told(x, call, admission.model(), user.as_deref()), unix_ms());
        priced(&charges, &estimate, admission.model())?;
        match wait::reserve(cx, &charges, &estimate).await {
            Ok((hold, waited)) => {
                if waited > 0 {
                    x.note("limit", || serde_json::json!({"queued_ms": waited}));
                }
                let standing = hold.standing.clone();
                let routed = !admission.past.is_empty();
                x.admitted = Some(Box::new(Admitted { hold: Some(hold), target: None, standing, routed }));
                x.asking = Some(Asking { known: Some(expected), user });
                return Ok(admission.plan);
            }
            Err(refusal) => admission.go_on(cx, x, call, *refusal)?,
        }
    }
}

/// Where an admission has got to.
struct Admission {
    plan: Plan,
    /// As asked for, and where exhausted rules have sent it since; the limits of the last one count.
    models: Vec<String>,
    /// Rules that have sent the exchange on; they are out of it.
    past: SmallVec<[Arc<str>; 1]>,
}

impl Admission {
    fn model(&self) -> &str {
        self.models.last().map_or("", String::as_str)
    }

    fn charges<'a>(&self, cx: &'a Cx, facts: &Facts<'_>, now: u64) -> SmallVec<[Charge<'a>; 6]> {
        let mut charges = cx.state.limits.charges(&cx.generation.rules.of_exchange, facts, now);
        charges.retain(|charge| !self.past.contains(&charge.rule.name));
        charges
    }

    /// What a refusal leads to: another model, where the rule names one.
    fn go_on(&mut self, cx: &Cx, x: &mut Exchange, call: &Call, refusal: Refusal) -> Result<(), Fault> {
        let rule = refusal.rule.clone();
        // Back where it has been, a rule that is exhausted would be out of it.
        if let Exhausted::Route(model) = &rule.exhausted
            && self.past.len() < MAX_ROUTES
            && !self.models.contains(model)
        {
            // The operator's rule is the authority: the caller did not name this model and need not be allowed to.
            self.plan = pipeline::elsewhere(cx, &x.split().0, call, model)?;
            x.note("limit", || serde_json::json!({"rule": &*rule.name, "route": model}));
            cx.state.metrics.limited(&rule.name, Decision::Routed);
            self.models.push(model.clone());
            self.past.push(rule.name.clone());
            return Ok(());
        }
        x.note("limit", || serde_json::json!({"rule": &*rule.name, "refused": refusal.unit.as_str()}));
        cx.state.metrics.limited(&rule.name, Decision::Refused);
        let fault = refuse::fault(&refusal);
        x.admitted = Some(Box::new(Admitted { standing: refusal.standing, ..Admitted::default() }));
        Err(fault)
    }
}

/// Checks the limits of an exchange that asks no model: a request is counted, tokens and money are not.
///
/// # Errors
/// As [`admit`].
pub async fn admit_plain(cx: &Cx, x: &mut Exchange, headers: &http::HeaderMap) -> Result<(), Fault> {
    if cx.generation.rules.of_exchange.is_empty() {
        return Ok(());
    }
    let known = Known::default();
    let estimate = known.at(None);
    let facts = facts(x.principal.as_ref(), x.endpoint, x.peer, headers, &x.model);
    let charges = cx.state.limits.charges(&cx.generation.rules.of_exchange, &facts, unix_ms());
    let held = wait::reserve(cx, &charges, &estimate).await;
    let (hold, standing, refused) = match held {
        Ok((hold, _)) => {
            let standing = hold.standing.clone();
            (Some(hold), standing, None)
        }
        Err(refusal) => {
            cx.state.metrics.limited(&refusal.rule.name, Decision::Refused);
            let fault = refuse::fault(&refusal);
            (None, refusal.standing, Some(fault))
        }
    };
    x.admitted = Some(Box::new(Admitted { hold, standing, ..Admitted::default() }));
    refused.map_or(Ok(()), Err)
}

/// What the limits of a target that is about to be tried are to be asked for. Where another model that the caller named leads
/// to it, the limits of that model are among them. None where no limit is for it.
///
/// # Errors
/// [`Kind::TargetLimited`]: the next target may have room.
pub fn due<'a>(cx: &'a Cx, x: &Subject<'_>, call: &Call, target: &Target) -> Result<Option<Due<'a>>, Fault> {
    let Some(asking) = x.asking else { return Ok(None) };
    let rules = &cx.generation.rules;
    let led_by = led_by(cx, x, target);
    if rules.of_target.is_empty() && led_by.is_none() {
        return Ok(None);
    }
    let name = rules.wants_target.then(|| target.name());
    let facts = Facts {
        user: asking.user.as_deref(),
        provider: Some(&target.provider.name),
        target: name.as_deref(),
        ..facts(x.principal, x.endpoint, x.peer, &call.headers, x.model)
    };
    if led_by.is_none() && !rules.of_target.iter().any(|rule| rule.applies(&facts)) {
        return Ok(None);
    }
    let now = unix_ms();
    let mut charges = cx.state.limits.charges(&rules.of_target, &facts, now);
    if let Some(model) = led_by {
        let of = |model| cx.state.limits.charges(&rules.of_exchange, &Facts { model, ..facts }, now);
        let asked = of(x.model);
        let held = |charge: &Charge<'_>| asked.iter().any(|known| Arc::ptr_eq(&known.cell, &charge.cell));
        charges.extend(of(model).into_iter().filter(|charge| !held(charge)));
    }
    if charges.is_empty() {
        return Ok(None);
    }
    let known = asking.known.unwrap_or_else(|| Known::read(x.op, call, rules.wants_tokens));
    let estimate = known.at(Some(target));
    // Another target may have a price.
    priced(&charges, &estimate, &target.name()).map_err(|fault| Fault { kind: Kind::TargetLimited, ..fault })?;
    Ok(Some(Due { charges, estimate }))
}

/// What limits are asked for.
pub struct Due<'a> {
    charges: SmallVec<[Charge<'a>; 6]>,
    estimate: Estimate,
}

/// Takes what is due from the limits of a target.
///
/// # Errors
/// [`Kind::TargetLimited`]: the next target may have room.
pub async fn enter(cx: &Cx, due: Due<'_>) -> Result<Hold, Fault> {
    wait::once(cx, &due.charges, &due.estimate).await.map_err(|refusal| {
        cx.state.metrics.limited(&refusal.rule.name, Decision::Refused);
        refuse::target(&refusal)
    })
}

/// The model that leads to a target, where it is not the one that was asked for: callers may name others to fall back to.
fn led_by<'a>(cx: &Cx, x: &Subject<'a>, target: &Target) -> Option<&'a str> {
    let others = x.wishes?.others();
    let leads = |model: &str| {
        let same = |known: &Arc<Target>| known.provider.name == target.provider.name && known.model == target.model;
        cx.generation.tree(model).is_ok_and(|tree| tree.targets().iter().any(same))
    };
    if others.is_empty() || leads(x.model) {
        return None;
    }
    others.iter().map(String::as_str).find(|model| leads(model))
}

/// Keeps what the limits of the target that answered hold, until the exchange is settled.
pub fn entered(x: &mut Exchange, hold: Option<Hold>) {
    if let Some(hold) = hold {
        x.admitted.get_or_insert_default().target = Some(hold);
    }
}

/// The target that answered was cut, having used that, and another goes on: its limits are told, and those of the other
/// hold from now on.
pub fn cut(x: &mut Exchange, target: &Target, usage: &Usage) {
    if let Some(admitted) = &mut x.admitted {
        leave(admitted.target.take(), target, Some(usage));
    }
}

/// Ends what the limits of a target held for an attempt that failed: charged is what it used all the same, `usage`. Its
/// request stays counted: it was made.
pub fn leave(hold: Option<Hold>, target: &Target, usage: Option<&Usage>) {
    if let Some(hold) = hold {
        hold.settle(&amounts(usage, usage.and_then(|usage| target.cost(usage))), unix_ms());
    }
}

/// One request, with what it used. `usage` is None where nothing was used, `cost` where the price is unknown.
fn amounts(usage: Option<&Usage>, cost: Option<u64>) -> Amounts {
    Amounts {
        requests: 1,
        input: usage.map_or(0, |usage| usage.input),
        output: usage.map_or(0, |usage| usage.output),
        money: if usage.is_some() { cost } else { Some(0) },
    }
}

/// What was used, and its cost in nano-dollars where the price is known.
pub type Spent = (Option<Usage>, Option<u64>);

/// Puts what an exchange really used in the place of its estimate: `all` of it for the limits of the exchange, and for
/// those of the target that answered, or that went on at last, what its own `answer` used.
pub fn settle(x: &mut Exchange, all: Spent, answer: Spent) {
    let Some(admitted) = x.admitted.take() else { return };
    // Refused before anybody was asked: as if it had never come.
    if x.attempts.is_empty() && all.0.is_none() && !matches!(x.outcome, Outcome::Complete) {
        return;
    }
    for (hold, (usage, cost)) in [(admitted.hold, all), (admitted.target, answer)] {
        if let Some(hold) = hold {
            hold.settle(&amounts(usage.as_ref(), cost), unix_ms());
        }
    }
}

fn facts<'a>(
    principal: Option<&'a Arc<Principal>>,
    endpoint: &'a str,
    peer: Option<SocketAddr>,
    headers: &'a http::HeaderMap,
    model: &'a str,
) -> Facts<'a> {
    static NO_LABELS: BTreeMap<String, String> = BTreeMap::new();
    Facts {
        key: principal.map_or("", |principal| &principal.key),
        project: principal.and_then(|principal| principal.project.as_deref()),
        user: None,
        model,
        endpoint,
        ip: peer.map(|peer| peer.ip().to_canonical()),
        headers,
        metadata: principal.map_or(&NO_LABELS, |principal| &principal.metadata),
        provider: None,
        target: None,
    }
}

/// An unknown price is not zero: a hard limit in money lets it pass only where its rule says so.
fn priced(charges: &[Charge<'_>], estimate: &Estimate, model: &str) -> Result<(), Fault> {
    let wants = |rule: &Rule| rule.hard && !rule.unpriced && rule.counts_money();
    match charges.iter().find(|charge| estimate.most.money.is_none() && wants(charge.rule)) {
        None => Ok(()),
        Some(charge) => {
            let text = format!(
                "The limit `{}` is in money, and the price of the model `{model}` is not known.",
                charge.rule.name
            );
            Err(Fault::new(Kind::PriceUnknown, text).param("model"))
        }
    }
}
