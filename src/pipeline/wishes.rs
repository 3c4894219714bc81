//! What a request says about its own routing: read, taken out of what goes upstream, and every name authorised.
//!
//! Requests that say nothing are looked at, no more, and carry nothing.

use std::time::Duration;

use serde_json::json;

use super::{Call, Cx};
use crate::api;
use crate::auth::Principal;
use crate::exchange::Exchange;
use crate::fault::{Fault, Kind};
use crate::hook;
use crate::json::Envelope;
use crate::route::policy::{Locks, Policy, suffix};

/// Fields of the body that are for the gateway, and taken out of what goes upstream.
const FIELDS: &[&str] = &["models", "fallbacks", "provider", "disable_fallbacks", "session_id"];

/// What headers for the gateway begin with.
const PREFIX: &str = "x-portcullis-";

/// What a request says about its own routing; an exchange without any has none of these.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Wishes {
    pub(super) policy: Policy,
    pub session: Option<String>,
    pub(super) no_fallbacks: bool,
}

/// Header in which clients that know nothing of this gateway name their session.
pub const SESSION: &str = "x-session-id";

impl Wishes {
    /// The models that it names beside the one that it asks for.
    pub fn others(&self) -> &[String] {
        &self.policy.models
    }

    /// Whether they say where the exchange goes, so that an answer from elsewhere is not wanted.
    pub(super) fn choose(&self) -> bool {
        !self.policy.is_none() || self.no_fallbacks
    }
}

/// Reads and takes out what a request says about its routing, and authorises every model that it names.
///
/// # Errors
/// [`Kind::ModelNotAllowed`]; [`Kind::InvalidRequest`] for wishes that cannot be read or are refused.
pub(super) fn read(cx: &Cx, x: &mut Exchange, call: &mut Call) -> Result<(), Fault> {
    let routes = &cx.generation.routes;
    let locks = &routes.locks;
    let principal =
        x.principal.clone().ok_or_else(|| Fault::new(Kind::Internal, "No principal after the key check."))?;
    let suffixed = suffix(&x.model).filter(|_| !routes.models.contains_key(&x.model));
    let in_headers = call.headers.keys().any(|name| name.as_str().starts_with(PREFIX));
    let in_body = call.envelope.keys().any(|key| FIELDS.iter().any(|field| field.as_bytes() == key));
    // The usual case: it says nothing.
    if suffixed.is_none() && !in_headers && !in_body && !principal.disable_fallbacks {
        return may_use(x, &principal);
    }
    let mut wishes = Wishes { no_fallbacks: principal.disable_fallbacks, ..Wishes::default() };
    if let Some((name, sort)) = suffixed {
        if locks.sort.lets("model")? {
            wishes.policy.sort = Some(sort);
        }
        x.model = name.to_owned();
    }
    if in_headers {
        headers(x, call, locks, &mut wishes)?;
    }
    if in_body {
        body(call, locks, &mut wishes)?;
    }
    may_use(x, &principal)?;
    for other in &wishes.policy.models {
        principal.may_use(other)?;
    }
    x.wishes = (wishes != Wishes::default()).then(|| Box::new(wishes));
    Ok(())
}

/// Whether the model may be asked. What a policy asks for itself its grants allow, whatever the caller's key says.
fn may_use(x: &Exchange, principal: &Principal) -> Result<(), Fault> {
    if hook::is_of_guest(x) { Ok(()) } else { principal.may_use(&x.model) }
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
