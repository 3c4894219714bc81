//! The ask as guests see it: its head before anybody is known, and the whole afterwards.
//!
//! Reads the envelope; the conversation is decoded only where its texts are asked for.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use http::HeaderMap;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::{Row, Text, Val, View};
use crate::chat;
use crate::exchange::input_tokens;
use crate::fault::{self, Fault};
use crate::host::Visit;
use crate::json::Envelope;
use crate::json::scan::has_each_key_once;
use crate::route::Target;

/// The ask as the pipeline holds it.
pub trait Asked: Send + Sync {
    fn envelope(&self) -> &Envelope;

    fn headers(&self) -> &HeaderMap;

    /// The model that is planned for.
    fn model(&self) -> &str;

    fn stream(&self) -> bool;

    /// The conversation, decoded when it is first needed.
    ///
    /// # Errors
    /// It is not one, or not in its dialect.
    fn chat(&self) -> Result<Arc<chat::Ask>, Fault>;

    /// Every text that a patch may replace, of a conversation or of what is to be embedded or ranked.
    ///
    /// # Errors
    /// What stands in the place of texts is none, or is not in its dialect.
    fn texts(&self) -> Result<Vec<Text>, Fault>;
}

/// The head of a request, before anybody is known.
#[derive(Debug)]
pub struct Head {
    pub visit: Arc<Visit>,
    pub method: String,
    pub path: String,
    pub query: Option<String>,
    pub headers: HeaderMap,
}

impl View for Head {
    const NAME: &'static str = "Head";
    const DOC: &'static str = "The head of a request, for `on_auth`.";
    const FIELDS: &'static [Row] = &[
        ("id", "string", "The gateway's id of the exchange."),
        ("method", "string", "`POST`, `GET`, …"),
        ("path", "string", "The path, without the query."),
        ("query", "string?", "What follows the `?`."),
        ("endpoint", "string", "The path's pattern, such as `/v1/chat/completions`."),
        ("peer", "string?", "The caller's address."),
    ];
    const METHODS: &'static [Row] = &[("header", "(self: Head, name: string) -> string?", "A header of the caller.")];

    fn get(&self, field: &str) -> Option<Val<'_>> {
        Some(match field {
            "id" => Val::text(&self.visit.id),
            "method" => Val::text(&self.method),
            "path" => Val::text(&self.path),
            "query" => Val::maybe(self.query.as_deref()),
            "endpoint" => Val::text(self.visit.endpoint),
            "peer" => Val::maybe(self.visit.peer.map(|peer| peer.ip().to_string())),
            _ => return None,
        })
    }
}

/// An ask for a model.
pub struct Request {
    pub visit: Arc<Visit>,
    pub call: Arc<dyn Asked>,
    /// The targets of the plan, once there is one.
    pub plan: Vec<Arc<Target>>,
}

/// The field in which callers name their conversation. It is the gateway's own and gone from the body by now.
const SESSION_ID: &str = "session_id";

impl Request {
    /// A top-level field of the body, as JSON. For [`SESSION_ID`] the name of the conversation, however it was given.
    ///
    /// # Errors
    /// [`fault::Kind::AmbiguousRequest`]: an object in it has a key twice, so that the guest could see another value than
    /// the upstream.
    pub fn param(&self, name: &str) -> Result<Option<Cow<'_, [u8]>>, Fault> {
        let Some(raw) = self.call.envelope().raw(name) else {
            let named = self.visit.named_conversation().filter(|_| name == SESSION_ID);
            return Ok(named.and_then(|named| serde_json::to_vec(named).ok()).map(Cow::Owned));
        };
        let reads_one_way = match raw.first() {
            Some(b'{') => has_each_key_once(raw),
            Some(b'[') => has_each_key_once(&[br#"{"":"#, raw, b"}"].concat()),
            _ => true,
        };
        if reads_one_way {
            return Ok(Some(Cow::Borrowed(raw)));
        }
        let text = format!("An object in the field `{name}` has a field that stands more than once.");
        Err(Fault::new(fault::Kind::AmbiguousRequest, text))
    }

    /// Notes that the ask cannot be read, and gives what the guest is told of it.
    pub fn cannot_be_read(&self, fault: &Fault) -> String {
        self.visit.cannot_be_read(fault);
        format!("this request cannot be read: {}", fault.message)
    }
}

impl View for Request {
    const NAME: &'static str = "Request";
    const DOC: &'static str = "An ask for a model. Reads are lazy: what is not read costs nothing, and the body goes upstream byte for byte unless a patch says otherwise.";
    const FIELDS: &'static [Row] = &[
        ("id", "string", "The gateway's id of the exchange."),
        ("request_id", "string", "The caller's own id where it sent one, else the same."),
        ("endpoint", "string", "The path's pattern, such as `/v1/chat/completions`."),
        ("dialect", "string", "The caller's wire form: `openai_chat`, `openai_responses`, `anthropic`, `gemini`."),
        ("op", "string", "`chat`, `text_completion`, `embeddings`, `rerank` or `count_tokens`."),
        ("model", "string", "The model that is planned for: the caller's, or what a hook before has made of it."),
        ("stream", "boolean", "Whether a stream was asked for."),
        ("max_tokens", "number?", "The caller's bound on the answer, whatever its dialect calls it."),
        ("temperature", "number?", "The caller's temperature, where it is a top-level field."),
        (
            "tokens",
            "number",
            "About how many tokens the body is: four bytes each, and 1,000 for an image or another file in it.",
        ),
        ("bytes", "number", "Length of the body."),
        ("message_count", "number", "Turns of the conversation, as the body lists them."),
        ("tool_count", "number", "Tools offered to the model."),
        ("key", "string?", "Name of the caller's key; `anyone` where the gateway has no keys."),
        ("project", "string?", "Project of the caller's key."),
        ("peer", "string?", "The caller's address."),
        ("attempts", "number", "Targets in the plan; 0 before there is one."),
    ];
    const METHODS: &'static [Row] = &[
        ("header", "(self: Request, name: string) -> string?", "A header of the caller, credentials apart."),
        (
            "param",
            "(self: Request, name: string) -> any",
            "A top-level field of the body, in the caller's dialect; one that cannot be decoded is an error. `session_id` is the name of the conversation, also where a header gives it.",
        ),
        ("metadata", "(self: Request, name: string) -> string?", "A label of the caller's key."),
        ("system", "(self: Request) -> string?", "The system prompt."),
        (
            "message",
            "(self: Request, index: number) -> Message?",
            "A turn, counted from 1; from the end when negative.",
        ),
        ("messages", "(self: Request) -> { Message }", "Every turn."),
        ("last_user", "(self: Request) -> string?", "The text of the last turn of the user."),
        (
            "texts",
            "(self: Request) -> { Text }",
            "Every text of the conversation, arguments and results of tools with it, or of what is to be embedded or ranked; to be replaced by `texts` of a patch.",
        ),
        ("plan", "(self: Request) -> { Target }", "The native plan; empty before `on_route`."),
    ];

    fn get(&self, field: &str) -> Option<Val<'_>> {
        let (visit, call) = (&self.visit, &self.call);
        let envelope = || call.envelope();
        Some(match field {
            "id" => Val::text(&visit.id),
            "request_id" => Val::text(&visit.request_id),
            "endpoint" => Val::text(visit.endpoint),
            "dialect" => Val::text(visit.dialect),
            "op" => Val::text(visit.op),
            "model" => Val::text(call.model()),
            "stream" => Val::Bool(call.stream()),
            "max_tokens" => Val::count(max_tokens(envelope())),
            "temperature" => envelope().get::<f64>("temperature").map_or(Val::Nil, Val::Number),
            "tokens" => Val::Number(input_tokens(envelope().body().len(), envelope().files()) as f64),
            "bytes" => Val::Number(envelope().body().len() as f64),
            "message_count" => Val::Number(count(envelope(), &["messages", "input", "contents"])),
            "tool_count" => Val::Number(count(envelope(), &["tools"])),
            "key" => Val::maybe(visit.principal().map(|principal| principal.key.as_str())),
            "project" => Val::maybe(visit.principal().and_then(|principal| principal.project.as_deref())),
            "peer" => Val::maybe(visit.peer.map(|peer| peer.ip().to_string())),
            "attempts" => Val::Number(self.plan.len() as f64),
            _ => return None,
        })
    }
}

fn max_tokens(envelope: &Envelope) -> Option<u64> {
    let named = ["max_completion_tokens", "max_tokens", "max_output_tokens"];
    named.iter().find_map(|name| envelope.get(name)).or_else(|| {
        let config = envelope.raw("generationConfig").or_else(|| envelope.raw("generation_config"))?;
        let MaxOutput(tokens) = serde_json::from_slice(config).ok()?;
        tokens
    })
}

/// The number of entries of the first of these fields that is there; a text counts as one.
fn count(envelope: &Envelope, names: &[&str]) -> f64 {
    let Some(raw) = names.iter().find_map(|name| envelope.raw(name)) else { return 0.0 };
    match serde_json::from_slice::<Count>(raw) {
        Ok(Count(entries)) => entries as f64,
        Err(_) => f64::from(raw.first() == Some(&b'"')),
    }
}

/// The number of entries of a list, none of which is kept: callers choose how many there are.
struct Count(u64);

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_seq(Counting)
    }
}

struct Counting;

impl<'de> Visitor<'de> for Counting {
    type Value = Count;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Count, A::Error> {
        let mut count = 0;
        while items.next_element::<IgnoredAny>()?.is_some() {
            count += 1;
        }
        Ok(Count(count))
    }
}

/// Gemini's bound on an answer, in whichever spelling; of the rest of its settings nothing is kept. The last one counts.
struct MaxOutput(Option<u64>);

impl<'de> Deserialize<'de> for MaxOutput {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(Bounding)
    }
}

struct Bounding;

impl<'de> Visitor<'de> for Bounding {
    type Value = MaxOutput;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("settings")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<MaxOutput, A::Error> {
        let (mut camel, mut snake) = (None, None);
        while let Some(name) = entries.next_key::<String>()? {
            let found = match name.as_str() {
                "maxOutputTokens" => &mut camel,
                "max_output_tokens" => &mut snake,
                _ => {
                    entries.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            *found = Some(serde_json::from_str::<u64>(entries.next_value::<&RawValue>()?.get()).ok());
        }
        Ok(MaxOutput(camel.or(snake).flatten()))
    }
}
