//! Stored responses: requests that name an earlier answer go to the target that made it.
//!
//! Never tells one caller of another's: an id that another caller made is not found. Never gives out an answer past the
//! policies that look at answers: what a provider keeps has not passed them.

use std::sync::Arc;

use bytes::Bytes;
use http::Method;
use http::request::Parts;

use super::Matched;
use crate::attempt::{self, RelayCall};
use crate::auth::Principal;
use crate::exchange::{Exchange, Subject};
use crate::fault::{Fault, Kind};
use crate::hook;
use crate::json::Envelope;
use crate::pipeline::{Call, Cx};
use crate::reply::Reply;
use crate::route::Plan;
use crate::state::affinity::Maker;

/// Relays GET, DELETE and cancel of a stored response.
///
/// # Errors
/// [`Kind::ResponseNotFound`], [`Kind::PolicyRejected`] where policies look at answers, and whatever the upstream says.
pub async fn stored(cx: &Cx, x: &mut Exchange, head: Parts, body: Bytes, matched: &Matched) -> Result<Reply, Fault> {
    let id = matched.param.as_deref().unwrap_or_default();
    let maker = cx.state.affinity.find(id).filter(|maker| is_mine(x.principal.as_ref(), maker));
    let kept = maker.as_ref().and_then(|maker| maker.kept);
    let target = maker.as_ref().and_then(|maker| cx.generation.target(&maker.provider, &maker.model));
    let target = target.ok_or_else(|| unknown(id).param("response_id"))?;
    x.model = target.name();
    let asked = maker.as_ref().map_or("", |maker| &maker.asked);
    // Whoever deletes it is told nothing of it.
    if head.method != Method::DELETE && hook::guards_answers(x, &[asked, &x.model]) {
        let text = "A policy of this gateway looks at answers of this model, and what the provider keeps has not passed it: \
                    a stored response can only be deleted here. Keep the answer as it was given.";
        return Err(Fault::new(Kind::PolicyRejected, text).param("response_id"));
    }
    let path = head.uri.path().trim_end_matches('/');
    let tail = path.find("/responses/").map_or(path, |at| &path[at..]);
    // The caller's key, which may stand there, goes no further.
    let pairs =
        head.uri.query().into_iter().flat_map(|query| query.split('&')).filter(|pair| !pair.starts_with("key="));
    let query = pairs.collect::<Vec<_>>().join("&");
    let path = if query.is_empty() { tail.to_owned() } else { format!("{tail}?{query}") };
    let call = RelayCall { method: head.method, path, headers: head.headers, body };
    let outcome = attempt::relay(cx, x, &target, &call).await;
    let answered = x.attempts.last().and_then(|attempt| attempt.status);
    let is_gone = answered == Some(404) || (call.method == Method::DELETE && outcome.is_ok());
    if let Some(kept) = kept.filter(|_| is_gone) {
        // Whoever asks the same from now on must not be given the id of a response that is not there.
        cx.state.cache.forget(kept);
    }
    outcome
}

/// Refuses what would be answered by nothing but an id, where the answer could not be had by it: see [`stored`].
///
/// # Errors
/// [`Kind::PolicyRejected`].
pub fn in_background(x: &Exchange, call: &Call) -> Result<(), Fault> {
    let asked = x.dialect.answers_are_stored() && call.envelope.get::<bool>("background") == Some(true);
    if !asked || !hook::guards_answers(x, &[&x.model]) {
        return Ok(());
    }
    let text = "A policy of this gateway looks at answers of this model, and an answer made in the background could not \
                be fetched past it. Ask without `background`.";
    Err(Fault::new(Kind::PolicyRejected, text).param("background"))
}

/// The plan for a call that goes on from a stored response: only the account that made it has it.
///
/// An id that this process never saw, after a restart perhaps, is the provider's to judge.
///
/// # Errors
/// [`Kind::ResponseNotFound`] for another caller's response, and where the model has no target at that account.
pub fn follow(cx: &Cx, x: &Subject<'_>, call: &Call, plan: Plan) -> Result<Plan, Fault> {
    let previous = call.envelope.str("previous_response_id").filter(|_| x.dialect.answers_are_stored());
    let Some((id, maker)) = previous.and_then(|id| cx.state.affinity.find(&id).map(|maker| (id, maker))) else {
        return Ok(plan);
    };
    if !is_mine(x.principal, &maker) {
        return Err(unknown(&id).param("previous_response_id"));
    }
    let mut targets = plan.targets.clone();
    targets.retain(|target| target.provider.name == maker.provider);
    // The very target first; the sort keeps the plan's order otherwise.
    targets.sort_by_key(|target| target.model != maker.model);
    if targets.is_empty() && maker.asked == x.model {
        // The name has come to stand for something else since.
        targets.extend(cx.generation.target(&maker.provider, &maker.model));
    }
    if targets.is_empty() {
        let text = format!("The response `{id}` was made by a provider that does not serve the model `{}`.", x.model);
        return Err(Fault::new(Kind::ResponseNotFound, text).param("previous_response_id"));
    }
    Ok(Plan { targets, ..plan })
}

/// Puts back what the caller names by id and only this process keeps: the items of answers that were translated.
///
/// # Errors
/// [`Kind::Internal`] when the result is no JSON, which it always is.
pub fn recall(cx: &Cx, x: &Exchange, call: &mut Call) -> Result<(), Fault> {
    let Some(principal) = &x.principal else { return Ok(()) };
    let find = |id: &str| cx.state.items.find(&principal.key, id);
    if let Some(body) = x.dialect.recall(&call.envelope, &find) {
        call.envelope = Envelope::read(body).map_err(|fault| Fault::new(Kind::Internal, fault.message))?;
    }
    Ok(())
}

fn is_mine(principal: Option<&Arc<Principal>>, maker: &Maker) -> bool {
    principal.is_some_and(|principal| principal.key == maker.key)
}

fn unknown(id: &str) -> Fault {
    Fault::new(Kind::ResponseNotFound, format!("No response `{id}` is known here."))
}
