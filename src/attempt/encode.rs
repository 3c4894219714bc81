//! The request for one target: address, headers and a body in its dialect, spliced or encoded.
//!
//! Never sends. Gateway credentials and hop headers cannot get out here: only named headers of the client are taken.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::estimated_count;
use crate::body::Outgoing;
use crate::chat::Ask;
use crate::dialect::{Asked, Dialect, Encoding, Op};
use crate::embed::EmbedAsk;
use crate::exchange::Subject;
use crate::fault::{Fault, Kind};
use crate::json::{self, Envelope};
use crate::pipeline::Call;
use crate::provider::{join_url, name_model};
use crate::reply::Reply;
use crate::rerank::RerankAsk;
use crate::route::{Address, Auth, Face, Overrides, Target};
use crate::upstream::{Headers, Outbound};

const AGENT: HeaderValue = HeaderValue::from_static(concat!("portcullis/", env!("CARGO_PKG_VERSION")));

/// What of a query's name or value is written as it stands; the rest might end it.
const VALUE: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Fields that a target could not express: (field, why).
pub(super) type Dropped = Vec<(Cow<'static, str>, Cow<'static, str>)>;

/// What came of preparing.
pub(super) enum Prepared {
    Send(Request),
    /// No upstream is needed.
    Answered(Box<Reply>),
}

/// A request ready to go.
pub(super) struct Request {
    // Boxed once, as it is handed on from here to the socket.
    pub outbound: Box<Outbound>,
    pub asked: Meaning,
}

/// What the answer's encoder needs to know of the ask; nothing on the raw path.
pub(super) enum Meaning {
    Raw,
    Chat(Asked),
    Embed(Arc<EmbedAsk>),
    Rerank(Arc<RerankAsk>),
    Count,
}

/// Builds the request for a target, with the credential of this index. What the target cannot express is added to
/// `dropped`.
pub(super) fn prepare<'t>(
    x: &Subject<'_>,
    call: &Call,
    target: &'t Target,
    key: usize,
    dropped: &mut Dropped,
) -> Result<(&'t Face, Prepared), Fault> {
    let face = target.face_for(x.dialect, x.op).ok_or_else(|| unserved(x, target))?;
    let same = face.dialect == x.dialect && !call.is_rewritten;
    let relayed = match same && !face.dialect.holds_foreign(&call.envelope, &face.quirks) {
        true => address(face, target, key, x.op, x.stream)?,
        false => None,
    };
    let request = match relayed {
        Some(address) => splice(x, call, target, face, &address)?,
        None => translate(x, call, target, face, key, dropped)?,
    };
    Ok((face, request))
}

pub(super) fn unserved(x: &Subject<'_>, target: &Target) -> Fault {
    let text = format!("The provider `{}` cannot serve {}.", target.provider.name, x.endpoint);
    Fault::new(Kind::UnsupportedFeature, text)
}

/// The raw path: the client's bytes with the model, and what else must change, spliced in.
fn splice(x: &Subject<'_>, call: &Call, target: &Target, face: &Face, address: &Address) -> Result<Prepared, Fault> {
    let mut envelope = call.envelope.clone();
    face.dialect.splice(&mut envelope, &target.model, &face.quirks);
    if x.usage_cost {
        // OpenRouter's `usage: {include: true}` is for the gateway; strict providers refuse it.
        envelope.remove("usage");
    }
    if x.marks_prompt {
        face.dialect.mark_prompt(&mut envelope, &target.model);
    }
    apply(&mut envelope, &target.overrides)?;
    let mut headers = address.headers.clone();
    forward(&mut headers, face, &call.headers);
    Ok(post(address, headers, Outgoing::new(envelope.pieces()), Meaning::Raw))
}

/// The decoded path: neutral form, then the target's.
fn translate(
    x: &Subject<'_>,
    call: &Call,
    target: &Target,
    face: &Face,
    key: usize,
    dropped: &mut Dropped,
) -> Result<Prepared, Fault> {
    let mut to = Encoding::new(&target.model, &face.quirks);
    let (op, body, meaning) = match x.op {
        Op::Generate | Op::Complete => {
            let ask = call.ask(x.dialect, x.op)?;
            let most = target.card.as_ref().and_then(|card| card.max_output);
            let foreign = most.filter(|_| face.dialect != x.dialect);
            let body = face.dialect.encode_ask(&within(&ask, foreign, &mut to), &mut to)?;
            (Op::Generate, body, Meaning::Chat(x.asked(ask)))
        }
        Op::Embed | Op::EmbedBatch => {
            let mut ask = x.dialect.decode_embed(&call.raw_ask(x.op))?;
            ask.model.clone_from(&target.model);
            let op = if ask.single { Op::Embed } else { Op::EmbedBatch };
            let body = face.dialect.encode_embed(&ask, &mut to)?;
            (op, body, Meaning::Embed(Arc::new(ask)))
        }
        // No two built-in dialects have it.
        Op::Rerank => return Err(unserved(x, target)),
        Op::CountTokens => {
            let ask = call.ask(x.dialect, x.op)?;
            match face.dialect.encode_count(&ask, &mut to) {
                Some(body) => (Op::CountTokens, body?, Meaning::Count),
                None => return Ok(Prepared::Answered(Box::new(estimated_count(x)))),
            }
        }
    };
    let address = address(face, target, key, op, x.stream)?.ok_or_else(|| unserved(x, target))?;
    let mut headers = address.headers.clone();
    if !to.headers.is_empty() {
        headers.edit().extend(to.headers);
    }
    *dropped = to.dropped.into_iter().map(|(field, why)| (field.into(), why.into())).collect();
    let body = if target.overrides.is_empty() && !x.marks_prompt {
        Outgoing::from(body)
    } else {
        let mut envelope = Envelope::read(Bytes::from(body))?;
        if x.marks_prompt {
            face.dialect.mark_prompt(&mut envelope, &target.model);
        }
        apply(&mut envelope, &target.overrides)?;
        Outgoing::new(envelope.pieces())
    };
    Ok(post(&address, headers, body, meaning))
}

/// The ask with no more output asked for than the model writes at most: providers refuse it, and callers of other dialects
/// state what their own models write.
fn within<'a>(ask: &'a Ask, most: Option<u64>, to: &mut Encoding<'_>) -> Cow<'a, Ask> {
    match most.filter(|most| ask.max_tokens.is_some_and(|wanted| wanted > *most)) {
        Some(_) => {
            to.dropped.push(("max_tokens", "more than the model writes; its most was sent"));
            Cow::Owned(Ask { max_tokens: most, ..ask.clone() })
        }
        None => Cow::Borrowed(ask),
    }
}

fn post(address: &Address, headers: Headers, body: Outgoing, asked: Meaning) -> Prepared {
    let uri = address.uri.clone();
    let outbound = Box::new(Outbound { method: Method::POST, uri, headers, body, target: None });
    Prepared::Send(Request { outbound, asked })
}

/// What an answer in this dialect means to the client's, when the ask itself went out for another exchange.
pub(super) fn meaning(x: &Subject<'_>, call: &Call, from: &'static dyn Dialect) -> Result<Meaning, Fault> {
    if from == x.dialect {
        return Ok(Meaning::Raw);
    }
    Ok(match x.op {
        Op::Generate | Op::Complete => Meaning::Chat(x.asked(call.ask(x.dialect, x.op)?)),
        Op::Embed | Op::EmbedBatch => Meaning::Embed(Arc::new(x.dialect.decode_embed(&call.raw_ask(x.op))?)),
        Op::Rerank => Meaning::Rerank(Arc::new(x.dialect.decode_rerank(&call.raw_ask(x.op))?)),
        Op::CountTokens => Meaning::Count,
    })
}

/// Address and headers of one form of request, as far as they do not depend on the client; made once for a target. None
/// when the dialect has no such operation.
fn address(face: &Face, target: &Target, key: usize, op: Op, stream: bool) -> Result<Option<Arc<Address>>, Fault> {
    let form = (face.dialect.name(), op, stream, key);
    if let Some(known) = target.addresses.get(form) {
        return Ok(Some(known));
    }
    let Some(path) = face.dialect.path(op, &target.model, stream) else { return Ok(None) };
    made(face, target, key, &path).map(|address| Some(target.addresses.keep(form, address)))
}

/// Address and headers of a request that only this client makes. Of its headers those that belong to the wire form go
/// along.
pub(super) fn address_once(
    face: &Face,
    target: &Target,
    key: usize,
    path: &str,
    client: &HeaderMap,
) -> Result<Address, Fault> {
    let mut address = made(face, target, key, path)?;
    forward(&mut address.headers, face, client);
    Ok(address)
}

fn made(face: &Face, target: &Target, key: usize, path: &str) -> Result<Address, Fault> {
    let provider = &target.provider;
    let unnamed = || {
        let text = format!("No address can be made for the model `{}` of `{}`.", target.model, provider.name);
        Fault::new(Kind::ModelNotFound, text).param("model")
    };
    let mut url = join_url(&name_model(&face.base_url, &target.model).ok_or_else(unnamed)?, path);
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
    // Without it a server may choose any coding, and answers are read and relayed as they are.
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    headers.insert(USER_AGENT, AGENT);
    for (name, value) in face.dialect.headers() {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    headers.extend(provider.headers.iter().map(|(name, value)| (name.clone(), value.clone())));
    match provider.auth(face, key) {
        Auth::None => {}
        Auth::Header(name, value) => {
            headers.insert(name.clone(), value.clone());
        }
        Auth::Query(name, secret) => {
            query(&format!("{}={}", utf8_percent_encode(name, VALUE), utf8_percent_encode(&secret.0, VALUE)));
        }
    }
    let uri = url.parse().map_err(|error| unnamed().because(error))?;
    Ok(Address { uri, headers: headers.into() })
}

/// Takes over the client's headers that belong to the wire form, never over our own credential.
fn forward(headers: &mut Headers, face: &Face, client: &HeaderMap) {
    for name in face.dialect.forwarded_headers() {
        let ours = matches!(&face.auth, Auth::Header(own, _) if own == *name);
        if !ours && let Some(value) = said(client, name) {
            headers.edit().insert(name.clone(), value);
        }
    }
}

/// What a client says in a header. Betas are a list, which may stand in several lines; of anything else the first counts.
fn said(client: &HeaderMap, name: &HeaderName) -> Option<HeaderValue> {
    let first = client.get(name)?;
    let more = client.get_all(name).iter().nth(1).is_some() && name.as_str().ends_with("-beta");
    if !more {
        return Some(first.clone());
    }
    let all: Vec<_> = client.get_all(name).iter().map(HeaderValue::as_bytes).collect();
    HeaderValue::from_bytes(&all.join(&b',')).ok()
}

/// Makes the operator's changes: what is dropped, then what is missing, then what is set. Only the top-level fields that
/// they touch are rewritten.
pub(super) fn apply(envelope: &mut Envelope, overrides: &Overrides) -> Result<(), Fault> {
    if overrides.is_empty() {
        return Ok(());
    }
    // Read anew: what was spliced in before counts as well, and an envelope shows its body as it came.
    let mut body = Envelope::read(envelope.pieces().concat().into())?;
    let mut touched = Touched::default();
    for path in &overrides.drop {
        let (top, rest) = split(path);
        let tree = touched.field(&body, top)?;
        match (rest, tree.as_mut()) {
            (None, _) => *tree = None,
            (Some(rest), Some(tree)) => remove(tree, rest),
            (Some(_), None) => {}
        }
    }
    let changes = overrides.default.iter().map(|change| (change, false));
    for ((path, value), replace) in changes.chain(overrides.set.iter().map(|change| (change, true))) {
        let (top, rest) = split(path);
        let tree = touched.field(&body, top)?;
        match rest {
            None if replace || tree.is_none() => *tree = Some(value.clone()),
            None => {}
            Some(rest) => {
                insert(tree.get_or_insert_with(|| Value::Object(serde_json::Map::new())), rest, value, replace)
            }
        }
    }
    // Fields are taken out before others are put in: whether a comma is due depends on what is left.
    for (name, tree) in &touched.0 {
        if tree.is_none() {
            body.remove(name);
        }
    }
    for (name, tree) in &touched.0 {
        if let Some(tree) = tree {
            body.set(name, json::written(tree));
        }
    }
    *envelope = body;
    Ok(())
}

/// The top-level fields that changes were made in so far, None for those taken out.
#[derive(Default)]
struct Touched(Vec<(String, Option<Value>)>);

impl Touched {
    fn field(&mut self, body: &Envelope, name: &str) -> Result<&mut Option<Value>, Fault> {
        let at = match self.0.iter().position(|(known, _)| known == name) {
            Some(at) => at,
            None => {
                let tree = body.raw(name).map(serde_json::from_slice).transpose();
                let tree = tree.map_err(|error| Fault::new(Kind::InvalidJson, error.to_string()))?;
                self.0.push((name.to_owned(), tree));
                self.0.len() - 1
            }
        };
        Ok(&mut self.0[at].1)
    }
}

fn split(path: &str) -> (&str, Option<&str>) {
    path.split_once('.').map_or((path, None), |(top, rest)| (top, Some(rest)))
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
    use crate::dialect::Quirks;
    use serde_json::json;

    #[test]
    fn no_more_output_is_asked_for_than_the_model_writes() {
        let bound = |wanted: Option<u64>, most: Option<u64>| {
            let ask = Ask { max_tokens: wanted, ..Ask::default() };
            let mut to = Encoding::new("m", &Quirks::NONE);
            let bound = within(&ask, most, &mut to).max_tokens;
            (bound, to.dropped.len())
        };
        assert_eq!(bound(Some(65_536), Some(64_000)), (Some(64_000), 1));
        assert_eq!(bound(Some(64_000), Some(64_000)), (Some(64_000), 0));
        assert_eq!((bound(Some(65_536), None), bound(None, Some(64_000))), ((Some(65_536), 0), (None, 0)));
    }

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

    #[test]
    fn what_is_set_goes_into_what_was_missing() {
        let overrides = json!({"default": {"a": {"b": 1, "c": 1}}, "set": {"a.c": 2}, "drop": ["a"]});
        assert_eq!(overridden(r#"{"a":{"x":0}}"#, overrides), json!({"a": {"b": 1, "c": 2}}));
    }

    #[test]
    fn what_was_spliced_in_before_counts_as_sent() {
        let mut envelope = Envelope::read(Bytes::from_static(br#"{"model":"a"}"#)).expect("reads");
        envelope.set("stream_options", Bytes::from_static(br#"{"include_usage":true}"#));
        let set = [("stream_options.x".to_owned(), json!(1))].into();
        apply(&mut envelope, &Overrides { set, ..Overrides::default() }).expect("applies");
        let body: Value = serde_json::from_slice(&envelope.pieces().concat()).expect("stays JSON");
        assert_eq!(body, json!({"model": "a", "stream_options": {"include_usage": true, "x": 1}}));
    }
}
