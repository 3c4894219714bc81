//! Asks for a model: the envelope of the four dialects' POST bodies.
//!
//! Reads the top level only; what lies deeper is the dialect's, and read only when it must be.

use bytes::Bytes;
use http::header::CONTENT_ENCODING;
use http::request::Parts;
use http::{HeaderMap, HeaderName};
use serde::Deserialize;
use serde_json::Value;

use super::{Matched, Serve};
use crate::exchange::{Exchange, input_tokens};
use crate::fault::{Fault, Kind};
use crate::json::{Envelope, without_mark};
use crate::pipeline::Call;
use crate::route::policy::MAX_MODEL_BYTES;
use crate::stream::Framing;

/// Asks for the cost in the usage of the answer, for clients that cannot put `usage: {include: true}` in the body.
const USAGE_COST: HeaderName = HeaderName::from_static("x-portcullis-usage-cost");

#[derive(Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: bool,
}

#[derive(Deserialize)]
struct UsageOptions {
    #[serde(default)]
    include: bool,
}

/// Reads the ask and notes in the exchange what it is for.
///
/// # Errors
/// [`Kind::UnsupportedEncoding`], [`Kind::InvalidJson`], [`Kind::AmbiguousRequest`], [`Kind::InvalidRequest`] when the model is missing.
pub fn read(x: &mut Exchange, body: Bytes, head: Parts, matched: &Matched) -> Result<Call, Fault> {
    plain(&head.headers)?;
    let mut call = Call::new(Envelope::read(without_mark(body))?, head.headers);
    let envelope = &call.envelope;
    x.input_estimate = input_tokens(envelope.body().len(), envelope.files());
    x.usage_cost = envelope.get::<UsageOptions>("usage").is_some_and(|usage| usage.include)
        || call.headers.get(USAGE_COST).is_some_and(|value| value == "true");
    // Only OpenAI chat has the option; the other dialects' usage is part of their streams and never hidden.
    // Who wants to read what it costs wants the chunk that says it.
    call.include_usage =
        x.usage_cost || envelope.get::<StreamOptions>("stream_options").is_some_and(|options| options.include_usage);
    if let Serve::Verb = matched.endpoint.serve {
        x.model = matched.param.clone().unwrap_or_default();
        x.stream = matched.streams;
        let sse = matched.query.as_deref().is_some_and(|query| query.split('&').any(|pair| pair == "alt=sse"));
        call.framing = if x.stream && !sse { Framing::JsonArray } else { Framing::Sse };
        call.model_in_path = Some(x.model.clone());
    } else {
        x.model = model(envelope)?;
        x.stream = match envelope.raw("stream") {
            None | Some(b"null" | b"false") => false,
            Some(b"true") => true,
            Some(_) => return Err(wrong("stream", "must be true or false")),
        };
    }
    if x.model.len() > MAX_MODEL_BYTES {
        return Err(wrong("model", &format!("is longer than {MAX_MODEL_BYTES} bytes; name a model")));
    }
    call.stream = x.stream;
    Ok(call)
}

/// Compressed bodies are not read: what is small on the wire must not be large in memory.
fn plain(headers: &HeaderMap) -> Result<(), Fault> {
    match headers.get(CONTENT_ENCODING).map(|value| String::from_utf8_lossy(value.as_bytes())) {
        Some(coding) if !coding.is_empty() && !coding.eq_ignore_ascii_case("identity") => Err(Fault::new(
            Kind::UnsupportedEncoding,
            format!("The body is compressed (`content-encoding: {coding}`)."),
        )),
        _ => Ok(()),
    }
}

fn model(envelope: &Envelope) -> Result<String, Fault> {
    match envelope.str("model") {
        Some(model) if !model.is_empty() => Ok(model.into_owned()),
        Some(_) => Err(wrong("model", "is empty; name a model")),
        None if envelope.raw("model").is_some() => Err(wrong("model", "must be a string")),
        None => Err(wrong("model", "is missing; name a model")),
    }
}

fn wrong(field: &str, what: &str) -> Fault {
    Fault::new(Kind::InvalidRequest, format!("The field `{field}` {what}.")).param(field)
}

/// Other models that the body names beside `model`, as aggregators read them: `models` is a list of names, `fallbacks`
/// one of names or of objects with `model`.
///
/// # Errors
/// [`Kind::InvalidRequest`] when they are something else.
pub fn other_models(call: &Call) -> Result<Vec<String>, Fault> {
    let mut others = Vec::new();
    for key in ["models", "fallbacks"] {
        let list = call.envelope.raw(key).filter(|raw| *raw != b"null");
        let Some(list) = list else { continue };
        let what = "must be a list of model names";
        let entries: Vec<Value> = serde_json::from_slice(list).map_err(|_| wrong(key, what))?;
        for entry in entries {
            let name = entry.as_str().or_else(|| entry["model"].as_str()).ok_or_else(|| wrong(key, what))?;
            others.push(name.to_owned());
        }
    }
    // The first of `models` is often the model itself.
    others.retain(|other| Some(other.as_str()) != call.envelope.str("model").as_deref());
    Ok(others)
}
