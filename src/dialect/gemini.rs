//! The wire form of Google's `generateContent`, as AI Studio and Vertex speak it: asks, answers, streams, errors, token
//! counts and embeddings, both directions.
//!
//! The path names model and streaming, so a body that is relayed stays as it is but for model names inside it. Never
//! picks between AI Studio and Vertex: both take what is written here; base URL and credentials are the provider's.

mod answer;
mod ask;
mod call_id;
mod embed;
mod error;
mod field;
mod finish;
mod grounding;
mod logprobs;
mod media;
mod part;
mod partial;
mod schema;
mod signature;
mod stream;
#[cfg(test)]
mod tests;
mod usage;

use memchr::memmem;
use std::fmt::Write as _;

use bytes::Bytes;
use serde_json::value::RawValue;

use self::field::Object;
use self::stream::{ResponseDecoder, ResponseEncoder, ResponseSniffer};
use super::{Asked, Begun, Decoder, Dialect, Encoder, Encoding, Op, Quirks, RawAsk, Sniffer, Summary, foreign, names};
use crate::chat::{Answer, Ask, Finish};
use crate::embed::{EmbedAnswer, EmbedAsk};
use crate::fault::{Fault, Kind, Refusal};
use crate::json::Envelope;

const NAME: &str = "gemini";

/// https://ai.google.dev/api/caching, `FunctionDeclaration.name`.
const TOOL_NAMES: names::Rule = names::Rule { longest: 64, further: ".:", begins_with_letter: true, empty: "tool" };

pub struct Gemini;

impl Dialect for Gemini {
    fn name(&self) -> &'static str {
        NAME
    }

    fn keep_alive(&self) -> &'static [u8] {
        // google-genai for Python takes every line that is not `data:` for JSON; empty lines it skips.
        b"\n\n"
    }

    fn holds_foreign(&self, envelope: &Envelope, _quirks: &Quirks) -> bool {
        let body = envelope.body();
        // Signatures are base64 here: the beginnings of the two sealed forms, see `signature`.
        ["\"cG9ydGN1bGxpcy", "\"ZW5jcnlwdGVkC"].iter().any(|mark| memmem::find(body, mark.as_bytes()).is_some())
    }

    fn path(&self, op: Op, model: &str, stream: bool) -> Option<String> {
        let verb = match op {
            Op::Generate if stream => "streamGenerateContent?alt=sse",
            Op::Generate => "generateContent",
            Op::CountTokens => "countTokens",
            Op::Embed => "embedContent",
            Op::EmbedBatch => "batchEmbedContents",
            Op::Complete | Op::Rerank => return None,
        };
        let mut path = String::from("/models/");
        for byte in bare_model(model).bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b':' | b'@' => {
                    path.push(char::from(byte));
                }
                // Writing to a string cannot fail.
                _ => drop(write!(path, "%{byte:02X}")),
            }
        }
        path.push(':');
        path.push_str(verb);
        Some(path)
    }

    fn splice(&self, envelope: &mut Envelope, model: &str, _quirks: &Quirks) {
        let resource = model_resource(model);
        if envelope.raw("model").is_some() {
            envelope.set_str("model", &resource);
        }
        for name in ["generateContentRequest", "generate_content_request"] {
            splice_field(envelope, name, |raw| spliced(raw, &resource));
        }
        splice_field(envelope, "requests", |raw| {
            if raw.first() == Some(&b'{') {
                return spliced(raw, &resource);
            }
            let requests: Vec<&RawValue> = serde_json::from_slice(raw).ok()?;
            let mut all = vec![b'['];
            for (index, request) in requests.iter().enumerate() {
                if index > 0 {
                    all.push(b',');
                }
                all.extend(spliced(request.get().as_bytes(), &resource)?);
            }
            all.push(b']');
            Some(all)
        });
    }

    fn decode_ask(&self, raw: &RawAsk<'_>) -> Result<Ask, Fault> {
        ask::decode(raw)
    }

    fn encode_ask(&self, ask: &Ask, to: &mut Encoding<'_>) -> Result<Vec<u8>, Fault> {
        let ask = foreign::told(self, ask, to)?;
        ask::encode(&ask, to)
    }

    fn tool_names(&self) -> Option<&'static names::Rule> {
        Some(&TOOL_NAMES)
    }

    fn plainly(&self, ask: &Ask, to: &mut Encoding<'_>) -> Result<Option<Ask>, Fault> {
        ask::plainly(ask, to)
    }

    fn decode_answer(&self, body: &[u8]) -> Result<Answer, Fault> {
        answer::decode(body)
    }

    fn encode_answer(&self, answer: &Answer, asked: &Asked) -> Vec<u8> {
        answer::encode(answer, asked)
    }

    fn decoder(&self) -> Box<dyn Decoder> {
        Box::new(ResponseDecoder::default())
    }

    fn encoder(&self, asked: &Asked) -> Box<dyn Encoder> {
        Box::new(ResponseEncoder::new(asked))
    }

    fn summary(&self, _op: Op, body: &[u8]) -> Result<Summary, Fault> {
        let bad = || Fault::new(Kind::BadAnswer, "The provider's answer is no JSON object.");
        // The reader of structs would take an array for one.
        if body.trim_ascii_start().first() != Some(&b'{') {
            return Err(bad());
        }
        let response: stream::Response<'_> = serde_json::from_slice(body).map_err(|error| bad().because(error))?;
        if let Some(fault) = response.fault().or_else(|| response.undone()) {
            return Err(fault);
        }
        let first = response.candidates.as_deref().and_then(<[_]>::first);
        let finish = first.and_then(stream::SeenCandidate::finish_alone);
        Ok(Summary {
            id: response.id(),
            model: response.model(),
            finish: finish.or(response.is_blocked().then_some(Finish::ContentFilter)),
            usage: response.usage_metadata.and_then(|counts| counts.usage()),
        })
    }

    fn sniffer(&self, _op: Op) -> Box<dyn Sniffer> {
        Box::new(ResponseSniffer::default())
    }

    fn decode_error(&self, status: u16, body: &Bytes) -> Refusal {
        error::decode(status, body)
    }

    fn encode_error(&self, fault: &Fault, _request_id: &str) -> Vec<u8> {
        error::encode(fault)
    }

    fn encode_stream_error(&self, fault: &Fault, _: &Begun<'_>, out: &mut Vec<u8>) {
        error::encode_frame(fault, out);
    }

    fn encode_count(&self, ask: &Ask, to: &mut Encoding<'_>) -> Option<Result<Vec<u8>, Fault>> {
        Some(foreign::told(self, ask, to).and_then(|ask| ask::encode_count(&ask, to)))
    }

    fn decode_count(&self, body: &[u8]) -> Result<u64, Fault> {
        let bad = || Fault::new(Kind::BadAnswer, "The provider's answer holds no `totalTokens`.");
        let mut body: Object = serde_json::from_slice(body).map_err(|error| bad().because(error))?;
        field::take_uint(&mut body, "totalTokens").ok_or_else(bad)
    }

    fn encode_count_answer(&self, tokens: u64) -> Vec<u8> {
        format!(r#"{{"totalTokens":{tokens}}}"#).into_bytes()
    }

    fn decode_embed(&self, raw: &RawAsk<'_>) -> Result<EmbedAsk, Fault> {
        embed::decode(raw)
    }

    fn encode_embed(&self, ask: &EmbedAsk, to: &mut Encoding<'_>) -> Result<Vec<u8>, Fault> {
        embed::encode(ask, to)
    }

    fn decode_embed_answer(&self, body: &[u8]) -> Result<EmbedAnswer, Fault> {
        embed::decode_answer(body)
    }

    fn encode_embed_answer(&self, answer: &EmbedAnswer, _ask: &EmbedAsk, op: Op) -> Vec<u8> {
        embed::encode_answer(answer, op)
    }
}

/// The model's own name, without the collection that bodies put before it.
fn bare_model(model: &str) -> &str {
    model.strip_prefix("models/").unwrap_or(model)
}

/// The model as bodies name it.
fn model_resource(model: &str) -> String {
    format!("models/{}", bare_model(model))
}

/// A body as an object. Refuses what is none, in the words that all dialects share.
fn json_object(body: &[u8]) -> Result<Object, Fault> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Err(Fault::new(Kind::InvalidJson, "The body is empty."));
    }
    serde_json::from_slice(body)
        .map_err(|error| Fault::new(Kind::InvalidJson, format!("The body is not a JSON object: {error}.")))
}

/// Rewrites one top-level field, if it is there. Of a field that stands more than once only the last stays: parsers
/// differ in which one they take.
fn splice_field(envelope: &mut Envelope, name: &str, rewrite: impl Fn(&[u8]) -> Option<Vec<u8>>) {
    while envelope.keys().filter(|key| *key == name.as_bytes()).count() > 1 {
        envelope.remove(name);
    }
    if let Some(with) = envelope.raw(name).and_then(rewrite) {
        envelope.set(name, with);
    }
}

/// A nested ask with its model replaced, if it names one; the rest byte for byte. None when there is no object to
/// rewrite: such a body is the provider's to refuse.
fn spliced(raw: &[u8], resource: &str) -> Option<Vec<u8>> {
    if let Ok(mut inner) = Envelope::read(Bytes::copy_from_slice(raw)) {
        if inner.raw("model").is_some() {
            inner.set_str("model", resource);
        }
        return Some(inner.pieces().concat());
    }
    // Two models in one request: only a rewritten one goes out.
    let mut inner: Object = serde_json::from_slice(raw).ok()?;
    inner.retain(|key, _| !key.eq_ignore_ascii_case("model"));
    inner.insert("model".into(), resource.into());
    serde_json::to_vec(&inner).ok()
}
