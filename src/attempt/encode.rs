//! The request for one target: address, headers and a body in its dialect, spliced or encoded.
//!
//! Never sends. Gateway credentials and hop headers cannot get out here: only named headers of the client are taken.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use serde_json::Value;

use super::{asked, estimated_count};
use crate::body::Outgoing;
use crate::dialect::{Asked, Encoding, Op};
use crate::embed::EmbedAsk;
use crate::exchange::Exchange;
use crate::fault::{Fault, Kind};
use crate::json::Envelope;
use crate::pipeline::Call;
use crate::provider::{join_url, name_model};
use crate::reply::Reply;
use crate::route::{Address, Auth, Face, Overrides, Target};

const AGENT: HeaderValue = HeaderValue::from_static(concat!("portcullis/", env!("CARGO_PKG_VERSION")));

/// What came of preparing.
pub(super) enum Prepared {
    Send(Request),
    /// No upstream is needed.
    Answered(Box<Reply>),
}

/// A request ready to go.
pub(super) struct Request {
    pub uri: Uri,
    pub headers: HeaderMap,
    pub body: Outgoing,
    /// The client's own bytes are relayed; so is the answer.
    pub raw: bool,
    pub asked: Meaning,
}

/// What the answer's encoder needs to know of the ask; nothing on the raw path.
pub(super) enum Meaning {
    Raw,
    Chat(Asked),
    Embed(Arc<EmbedAsk>),
    Count,
}

/// Builds the request for a target.
pub(super) fn prepare<'t>(x: &mut Exchange, call: &Call, target: &'t Target) -> Result<(&'t Face, Prepared), Fault> {
    let face = target.face(x.dialect).ok_or_else(|| unserved(x, target))?;
    let relayed = match face.dialect == x.dialect && !face.dialect.holds_sealed(&call.envelope) {
        true => address(face, target, x.op, x.stream)?,
        false => None,
    };
    let request = match relayed {
        Some(address) => splice(x, call, target, face, &address)?,
        None => translate(x, call, target, face)?,
    };
    Ok((face, request))
}

pub(super) fn unserved(x: &Exchange, target: &Target) -> Fault {
    let text = format!("The provider `{}` cannot serve {}.", target.provider.name, x.endpoint);
    Fault::new(Kind::UnsupportedFeature, text)
}

/// The raw path: the client's bytes with the model, and what else must change, spliced in.
fn splice(x: &Exchange, call: &Call, target: &Target, face: &Face, address: &Address) -> Result<Prepared, Fault> {
    let mut envelope = call.envelope.clone();
    face.dialect.splice(&mut envelope, &target.model, &face.quirks);
    if x.usage_cost {
        // OpenRouter's `usage: {include: true}` is for the gateway; strict providers refuse it.
        envelope.remove("usage");
    }
    apply(&mut envelope, &target.overrides)?;
    let mut headers = address.headers.clone();
    forward(&mut headers, face, &call.headers);
    let body = Outgoing::new(envelope.pieces());
    Ok(Prepared::Send(Request { uri: address.uri.clone(), headers, body, raw: true, asked: Meaning::Raw }))
}

/// The decoded path: neutral form, then the target's.
fn translate(x: &mut Exchange, call: &Call, target: &Target, face: &Face) -> Result<Prepared, Fault> {
    let mut to = Encoding::new(&target.model, &face.quirks);
    let (op, body, meaning) = match x.op {
        Op::Generate | Op::Complete => {
            let ask = call.ask(x.dialect, x.op)?;
            let body = face.dialect.encode_ask(&ask, &mut to)?;
            (Op::Generate, body, Meaning::Chat(asked(x, x.op, ask)))
        }
        Op::Embed | Op::EmbedBatch => {
            let mut ask = x.dialect.decode_embed(&call.raw_ask(x.op))?;
            ask.model.clone_from(&target.model);
            let op = if ask.single { Op::Embed } else { Op::EmbedBatch };
            let body = face.dialect.encode_embed(&ask, &mut to)?;
            (op, body, Meaning::Embed(Arc::new(ask)))
        }
        Op::CountTokens => {
            let ask = call.ask(x.dialect, x.op)?;
            match face.dialect.encode_count(&ask, &mut to) {
                Some(body) => (Op::CountTokens, body?, Meaning::Count),
                None => return Ok(Prepared::Answered(Box::new(estimated_count(x, call)))),
            }
        }
    };
    let address = address(face, target, op, x.stream)?.ok_or_else(|| unserved(x, target))?;
    let mut headers = address.headers.clone();
    headers.extend(to.headers);
    x.dropped = to.dropped;
    let body = if target.overrides.is_empty() {
        Outgoing::from(body)
    } else {
        let mut envelope = Envelope::read(Bytes::from(body))?;
        apply(&mut envelope, &target.overrides)?;
        Outgoing::new(envelope.pieces())
    };
    Ok(Prepared::Send(Request { uri: address.uri.clone(), headers, body, raw: false, asked: meaning }))
}

/// Address and headers of one form of request, as far as they do not depend on the client; made once for a target. None
/// when the dialect has no such operation.
fn address(face: &Face, target: &Target, op: Op, stream: bool) -> Result<Option<Arc<Address>>, Fault> {
    let form = (face.dialect.name(), op, stream);
    if let Some(known) = target.addresses.get(form) {
        return Ok(Some(known));
    }
    let Some(path) = face.dialect.path(op, &target.model, stream) else { return Ok(None) };
    made(face, target, &path).map(|address| Some(target.addresses.keep(form, address)))
}

/// Address and headers of a request that only this client makes. Of its headers those that belong to the wire form go
/// along.
pub(super) fn address_once(face: &Face, target: &Target, path: &str, client: &HeaderMap) -> Result<Address, Fault> {
    let mut address = made(face, target, path)?;
    forward(&mut address.headers, face, client);
    Ok(address)
}

fn made(face: &Face, target: &Target, path: &str) -> Result<Address, Fault> {
    let provider = &target.provider;
    let mut url = join_url(&name_model(&face.base_url, &target.model), path);
    let mut query = |text: &str| {
        url.push(if url.contains('?') { '&' } else { '?' });
        url.push_str(text);
    };
    if let Some(text) = &face.query {
        query(text);
    }
    let mut headers = HeaderMap::with_capacity(12);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
    headers.insert(USER_AGENT, AGENT);
    headers.extend(provider.headers.iter().map(|(name, value)| (name.clone(), value.clone())));
    match &face.auth {
        Auth::None => {}
        Auth::Header(name, value) => {
            headers.insert(name.clone(), value.clone());
        }
        Auth::Query(name, secret) => query(&format!("{name}={}", secret.0)),
    }
    let uri = url.parse().map_err(|error| {
        let text = format!("No address can be made for the model `{}` of `{}`.", target.model, provider.name);
        Fault::new(Kind::ModelNotFound, text).param("model").because(error)
    })?;
    Ok(Address { uri, headers })
}

/// Takes over the client's headers that belong to the wire form, never over our own credential.
fn forward(headers: &mut HeaderMap, face: &Face, client: &HeaderMap) {
    for name in face.dialect.forwarded_headers() {
        let ours = matches!(&face.auth, Auth::Header(own, _) if own == *name);
        if let Some(value) = client.get(*name).filter(|_| !ours) {
            headers.insert(HeaderName::from_static(name), value.clone());
        }
    }
}

/// Makes the operator's changes: top-level fields by splicing, dotted paths by rewriting their top-level field.
fn apply(envelope: &mut Envelope, overrides: &Overrides) -> Result<(), Fault> {
    if overrides.is_empty() {
        return Ok(());
    }
    for path in &overrides.drop {
        match path.split_once('.') {
            None => envelope.remove(path),
            Some((top, rest)) => edit(envelope, top, |value| remove(value, rest))?,
        }
    }
    for (path, value) in &overrides.set {
        put(envelope, path, value, true)?;
    }
    for (path, value) in &overrides.default {
        put(envelope, path, value, false)?;
    }
    Ok(())
}

fn put(envelope: &mut Envelope, path: &str, value: &Value, replace: bool) -> Result<(), Fault> {
    match path.split_once('.') {
        None if replace || envelope.raw(path).is_none() => {
            envelope.set(path, serde_json::to_vec(value).unwrap_or_default());
            Ok(())
        }
        None => Ok(()),
        Some((top, rest)) => edit(envelope, top, |tree| insert(tree, rest, value, replace)),
    }
}

/// Rewrites one top-level field as a tree.
fn edit(envelope: &mut Envelope, top: &str, change: impl FnOnce(&mut Value)) -> Result<(), Fault> {
    let mut tree = match envelope.raw(top) {
        Some(raw) => serde_json::from_slice(raw).map_err(|error| Fault::new(Kind::InvalidJson, error.to_string()))?,
        None => Value::Object(serde_json::Map::new()),
    };
    change(&mut tree);
    envelope.set(top, serde_json::to_vec(&tree).unwrap_or_default());
    Ok(())
}

fn remove(value: &mut Value, path: &str) {
    let Some(object) = value.as_object_mut() else { return };
    match path.split_once('.') {
        None => drop(object.shift_remove(path)),
        Some((first, rest)) => {
            if let Some(inner) = object.get_mut(first) {
                remove(inner, rest);
            }
        }
    }
}

fn insert(value: &mut Value, path: &str, with: &Value, replace: bool) {
    let Some(object) = value.as_object_mut() else { return };
    match path.split_once('.') {
        None if replace || !object.contains_key(path) => drop(object.insert(path.to_owned(), with.clone())),
        None => {}
        Some((first, rest)) => {
            let inner = object.entry(first).or_insert_with(|| Value::Object(serde_json::Map::new()));
            insert(inner, rest, with, replace);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn overridden(body: &str, overrides: Value) -> Value {
        let map = |name: &str| serde_json::from_value(overrides[name].clone()).unwrap_or_default();
        let drop = serde_json::from_value(overrides["drop"].clone()).unwrap_or_default();
        let overrides = Overrides { set: map("set"), default: map("default"), drop };
        let mut envelope = Envelope::read(Bytes::copy_from_slice(body.as_bytes())).expect("reads");
        apply(&mut envelope, &overrides).expect("applies");
        serde_json::from_slice(&envelope.pieces().concat()).expect("stays JSON")
    }

    #[test]
    fn set_wins_default_yields_drop_removes() {
        let body = r#"{"a":1,"b":2,"c":{"d":{"e":5},"f":6}}"#;
        let overrides = json!({
            "set": {"a": 9, "c.d.x": true}, "default": {"b": 9, "n": 9, "c.f": 9, "c.g": 9}, "drop": ["c.d.e"],
        });
        let expected = json!({"n": 9, "a": 9, "b": 2, "c": {"d": {"x": true}, "f": 6, "g": 9}});
        assert_eq!(overridden(body, overrides), expected);
    }
}
