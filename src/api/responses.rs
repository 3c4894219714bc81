//! Stored responses: requests that name an earlier answer go to the target that made it.
//!
//! Never guesses: an id that this process does not know, or that another caller made, is not found.

use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;

use super::Matched;
use crate::attempt::{self, RelayCall};
use crate::exchange::Exchange;
use crate::fault::{Fault, Kind};
use crate::pipeline::{Call, Cx};
use crate::reply::Reply;
use crate::route::Target;

/// Relays GET, DELETE and cancel of a stored response.
///
/// # Errors
/// [`Kind::ResponseNotFound`], and whatever the upstream says.
pub async fn stored(cx: &Cx, x: &mut Exchange, head: Parts, body: Bytes, matched: &Matched) -> Result<Reply, Fault> {
    let id = matched.param.as_deref().unwrap_or_default();
    let target = find(cx, x, id).ok_or_else(|| {
        Fault::new(Kind::ResponseNotFound, format!("No response `{id}` is known here.")).param("response_id")
    })?;
    x.model = target.name();
    let path = head.uri.path();
    let tail = path.find("/responses/").map_or(path, |at| &path[at..]);
    let query = head.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let call = RelayCall { method: head.method, path: format!("{tail}{query}"), headers: head.headers, body };
    attempt::relay(cx, x, &target, &call).await
}

/// The target that made the response which this call goes on from.
pub fn affinity(cx: &Cx, x: &Exchange, call: &Call) -> Option<Arc<Target>> {
    if !x.dialect.answers_are_stored() {
        return None;
    }
    let previous = call.envelope.str("previous_response_id")?;
    find(cx, x, &previous)
}

fn find(cx: &Cx, x: &Exchange, id: &str) -> Option<Arc<Target>> {
    let maker = cx.state.affinity.find(id)?;
    let same_caller = x.principal.as_ref().is_some_and(|principal| principal.key == maker.key);
    if !same_caller {
        return None;
    }
    cx.generation.target(&maker.provider, &maker.model)
}
