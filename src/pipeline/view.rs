//! A request and its targets' health as planning sees them: each fact worked out when a rule asks for it, never before.
//!
//! Reads the body's top level, and searches it where something deeper is asked for; decodes nothing.

use std::cell::OnceCell;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use memchr::memmem;
use serde_json::Value;
use serde_json::value::RawValue;

use super::Call;
use super::plan::deep;
use super::wishes::SESSION;
use crate::auth::Principal;
use crate::dialect::{Dialect, Encoding, Op};
use crate::exchange::{BYTES_PER_TOKEN, input_tokens};
use crate::route::Target;
use crate::route::facts::{Facts, Health, Needs, Source};
use crate::state::health::{self, Measure, Millis, Standing};

/// The fields that hold the conversation, of whatever dialect.
const CONVERSATION: [&str; 3] = ["messages", "input", "contents"];

/// The fields that bound the answer.
const BOUNDS: [&str; 3] = ["max_tokens", "max_completion_tokens", "max_output_tokens"];

/// A request.
pub(super) struct View<'a> {
    pub call: &'a Call,
    pub op: Op,
    /// The caller's.
    pub dialect: &'static dyn Dialect,
    pub model: &'a str,
    pub stream: bool,
    pub principal: Option<&'a Principal>,
    /// As the request named it in the header or the body.
    pub session: Option<&'a str>,
    pub tokens: OnceCell<u64>,
}

impl Facts for View<'_> {
    fn stream(&self) -> bool {
        self.stream
    }

    fn value(&self, source: &Source) -> Option<Value> {
        let header = |name: &str| self.call.headers.get(name)?.to_str().ok();
        let text = match source {
            Source::Header(name) => header(name)?,
            Source::Param(path) => {
                let (top, rest) = path.split_once('.').map_or((path.as_str(), None), |(top, rest)| (top, Some(rest)));
                return deep(self.call.envelope.get(top)?, rest);
            }
            Source::Metadata(name) => self.principal?.metadata.get(name)?,
            Source::Key => &self.principal?.key,
            Source::Project => self.principal?.project.as_deref()?,
            Source::Model => self.model,
            Source::Session => self.session.or_else(|| header(SESSION))?,
            Source::PromptCacheKey => return self.call.envelope.str("prompt_cache_key").map(|key| key.into()),
            Source::Messages => return self.beginning().map(Value::from),
            Source::Tokens => return Some(self.tokens().into()),
        };
        (!text.is_empty()).then(|| text.into())
    }

    fn tokens_at_most(&self) -> u64 {
        (self.call.envelope.body().len() as u64).div_ceil(BYTES_PER_TOKEN) + self.max_tokens().unwrap_or(0)
    }

    fn tokens(&self) -> u64 {
        *self.tokens.get_or_init(|| {
            let envelope = &self.call.envelope;
            input_tokens(envelope.body().len(), envelope.files()) + self.max_tokens().unwrap_or(0)
        })
    }

    fn max_tokens(&self) -> Option<u64> {
        BOUNDS.iter().find_map(|name| self.call.envelope.get(name))
    }

    fn needs(&self) -> Needs {
        if !matches!(self.op, Op::Generate) {
            return Needs::NONE;
        }
        let envelope = &self.call.envelope;
        let not_empty = |raw: &[u8]| raw.len() > 2 && raw != b"null";
        let says = |field: &str, what: &str| {
            envelope.raw(field).is_some_and(|raw| memmem::find(raw, what.as_bytes()).is_some())
        };
        let conversation = CONVERSATION.iter().find_map(|name| envelope.raw(name)).unwrap_or_default();
        let schema = says("response_format", "json_schema")
            || says("text", "json_schema")
            || says("output_config", "json_schema")
            || says("generationConfig", "Schema\"");
        [
            (envelope.raw("tools").is_some_and(not_empty), Needs::TOOLS),
            (schema, Needs::JSON_SCHEMA),
            (holds(conversation, "image"), Needs::VISION),
            (holds(conversation, "audio"), Needs::AUDIO),
            (memmem::find(conversation, b"application/pdf").is_some(), Needs::PDF),
        ]
        .into_iter()
        .filter(|(needed, _)| *needed)
        .fold(Needs::NONE, |all, (_, one)| all.with(one))
    }

    fn parameters(&self) -> Vec<String> {
        self.call.envelope.keys().map(|key| String::from_utf8_lossy(key).into_owned()).collect()
    }

    /// Found out by writing the request for the target, which is what would lose it. Only who demands
    /// `require_parameters` pays for that.
    fn loses(&self, target: &Target) -> Option<(String, String)> {
        let face = target.face_for(self.dialect, self.op).filter(|_| self.op == Op::Generate)?;
        let set = |name: &str| self.call.envelope.raw(name).is_some_and(|raw| raw != b"null");
        if face.dialect == self.dialect && !self.call.is_rewritten {
            // Relayed as it stands.
            let refused = face.quirks.refuses.iter().find(|name| set(name))?;
            return Some(((*refused).to_owned(), "the provider refuses it".to_owned()));
        }
        // What cannot be read is refused when it is tried, with the field's name.
        let ask = self.call.ask(self.dialect, self.op).ok()?;
        let mut to = Encoding::new(&target.model, &face.quirks);
        if let Err(fault) = face.dialect.encode_ask(&ask, &mut to) {
            return Some((
                fault.param.map_or_else(|| "the request".to_owned(), |name| name.to_string()),
                fault.message,
            ));
        }
        // Encoders note fields that they do not know as one; here each has its name.
        let unknown = ask.extra.keys().find(|_| face.dialect != self.dialect);
        match unknown {
            Some(name) => Some((name.clone(), format!("the dialect {} has no such field", face.dialect.name()))),
            None => to.dropped.first().map(|(name, why)| ((*name).to_owned(), (*why).to_owned())),
        }
    }
}

impl View<'_> {
    /// A number for how the conversation begins: what the system says, and the first message after it.
    fn beginning(&self) -> Option<u64> {
        let envelope = &self.call.envelope;
        let mut hasher = DefaultHasher::new();
        for field in ["system", "instructions", "systemInstruction"] {
            envelope.raw(field).hash(&mut hasher);
        }
        let raw = CONVERSATION.iter().find_map(|name| envelope.raw(name))?;
        match serde_json::from_slice::<Vec<&RawValue>>(raw) {
            Ok(messages) => {
                let of_system = |message: &str| message.contains("\"system\"") || message.contains("\"developer\"");
                let first = messages.iter().position(|message| !of_system(message.get())).unwrap_or(messages.len());
                messages.iter().take(first + 1).for_each(|message| message.get().hash(&mut hasher));
            }
            Err(_) => raw.hash(&mut hasher),
        }
        Some(hasher.finish())
    }
}

/// Whether a part of this kind is in the conversation: `"type": "image…"`, `"type": "input_image"`, or a media type
/// `image/…`. A word inside a text has escaped quotes around it and does not count.
fn holds(conversation: &[u8], kind: &str) -> bool {
    memmem::find_iter(conversation, kind.as_bytes()).any(|at| {
        let before = &conversation[..at];
        let before = before.strip_suffix(b"input_").unwrap_or(before);
        let Some(before) = before.strip_suffix(b"\"") else { return false };
        let Some(name) = before.trim_ascii_end().strip_suffix(b":") else { return false };
        let name = name.trim_ascii_end();
        [&b"\"type\""[..], b"\"mimeType\"", b"\"mime_type\"", b"\"media_type\""].iter().any(|key| name.ends_with(key))
    })
}

/// The health of targets now.
pub(super) struct Watch<'a> {
    pub health: &'a health::Health,
    pub now: Millis,
}

impl Health for Watch<'_> {
    fn now(&self) -> Millis {
        self.now
    }

    fn standing(&self, target: &Arc<Target>) -> Standing {
        target.record(self.health).standing(self.now)
    }

    fn measure(&self, target: &Arc<Target>) -> Measure {
        target.record(self.health).measure(self.now)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::HeaderMap;
    use serde_json::json;

    use super::*;
    use crate::json::Envelope;

    fn call(body: &Value) -> Call {
        Call::new(Envelope::read(Bytes::from(body.to_string())).expect("reads"), HeaderMap::new())
    }

    fn view(call: &Call) -> View<'_> {
        let tokens = OnceCell::new();
        let dialect = crate::dialect::find("openai_chat").expect("a dialect");
        View { call, op: Op::Generate, dialect, model: "m", stream: false, principal: None, session: None, tokens }
    }

    #[test]
    fn what_a_target_loses_of_a_request_is_found_by_writing_it() {
        let generation = crate::generation::Builder::new(
            None,
            Box::new(|name| name.ends_with("_API_KEY").then(|| "key".to_owned())),
        )
        .build(1);
        let generation = generation.expect("builds");
        let target = |provider| generation.target(provider, "m").expect("a provider of the table");
        let loses = |provider, body: &Value| view(&call(body)).loses(&target(provider)).map(|(name, _)| name);
        let plain =
            json!({"model": "m", "max_tokens": 5, "temperature": 0.5, "messages": [{"role": "user", "content": "Hi"}]});
        for provider in ["openai", "anthropic", "gemini", "mistral", "deepseek"] {
            assert_eq!(loses(provider, &plain), None, "{provider}");
        }
        let with = |name: &str, value: Value| {
            let mut body = plain.clone();
            body[name] = value;
            body
        };
        // Relayed as it is, but for what the provider is known to refuse.
        assert_eq!(loses("openai", &with("logit_bias", json!({"5": 1}))), None);
        assert_eq!(loses("mistral", &with("logit_bias", json!({"5": 1}))).as_deref(), Some("logit_bias"));
        assert_eq!(loses("mistral", &with("logit_bias", Value::Null)), None);
        // Written in another dialect: what has no place there, known here or not.
        assert_eq!(loses("anthropic", &with("logit_bias", json!({"5": 1}))).as_deref(), Some("logit_bias"));
        assert_eq!(loses("anthropic", &with("seed", json!(7))).as_deref(), Some("seed"));
        assert_eq!(loses("anthropic", &with("brand_new", json!(7))).as_deref(), Some("brand_new"));
        // Gemini's provider speaks the caller's dialect as well.
        for provider in ["openai", "gemini"] {
            assert_eq!(loses(provider, &with("brand_new", json!(7))), None, "{provider}");
        }
    }

    #[test]
    fn needs_are_seen_in_every_dialect_and_not_in_texts() {
        let image = |part: Value| json!({"messages": [{"role": "user", "content": [part]}]});
        for (body, needs) in [
            (json!({"messages": [{"role": "user", "content": "an \"image\" of \"type\":\"image\""}]}), Needs::NONE),
            (json!({"messages": [], "tools": [{"function": {"parameters": {"type": "image"}}}]}), Needs::TOOLS),
            (json!({"messages": [], "tools": []}), Needs::NONE),
            (image(json!({"type": "image_url", "image_url": {"url": "http://x"}})), Needs::VISION),
            (image(json!({"type": "image", "source": {}})), Needs::VISION),
            (json!({"input": [{"content": [{"type": "input_image"}]}]}), Needs::VISION),
            (json!({"contents": [{"parts": [{"inlineData": {"mimeType": "image/png"}}]}]}), Needs::VISION),
            (image(json!({"type": "input_audio", "input_audio": {}})), Needs::AUDIO),
            (image(json!({"type": "tool_use", "input": {"image": "cat.png"}})), Needs::NONE),
            (json!({"messages": [], "response_format": {"type": "json_schema"}}), Needs::JSON_SCHEMA),
            (json!({"contents": [], "generationConfig": {"responseSchema": {}}}), Needs::JSON_SCHEMA),
            (json!({"messages": [], "response_format": {"type": "text"}}), Needs::NONE),
        ] {
            assert_eq!(view(&call(&body)).needs(), needs, "{body}");
        }
    }

    #[test]
    fn files_do_not_count_as_text() {
        let picture = "A".repeat(400_000);
        let body = json!({"max_tokens": 50, "messages": [{"content": [{"image_url": format!("data:image/png;base64,{picture}")}]}]});
        let call = call(&body);
        assert!(view(&call).tokens_at_most() > 100_000);
        assert!((1050..1100).contains(&view(&call).tokens()), "{}", view(&call).tokens());
    }

    #[test]
    fn conversations_are_told_by_how_they_begin() {
        let talk = |system: &str, first: &str, more: &str| {
            let body = json!({"messages": [
                {"role": "system", "content": system}, {"role": "user", "content": first}, {"role": "assistant", "content": more},
            ]});
            view(&call(&body)).value(&Source::Messages)
        };
        assert_eq!(talk("s", "hello", "a"), talk("s", "hello", "b"));
        assert_ne!(talk("s", "hello", "a"), talk("s", "bye", "a"));
        assert_ne!(talk("s", "hello", "a"), talk("t", "hello", "a"));
    }

    #[test]
    fn fields_are_found_however_deep() {
        let body = json!({"a": {"b": [{"c": 7}]}, "max_completion_tokens": 9});
        let call = call(&body);
        let value = |path: &str| view(&call).value(&Source::Param(path.to_owned()));
        assert_eq!(value("a.b.0.c"), Some(json!(7)));
        assert_eq!(value("a.b.1.c"), None);
        assert_eq!(value("a.x"), None);
        assert_eq!(view(&call).max_tokens(), Some(9));
    }
}
