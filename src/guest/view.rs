//! What guests are shown: lazy views of the exchange, one table of fields each, the same for every language.
//!
//! Nothing is read or copied before a guest asks for it. A name that is not in the table is an error, an absent value
//! is nil.

pub mod conversation;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::HeaderMap;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::chat::{self, Content, Role};
use crate::fault::Fault;
use crate::host::Visit;
use crate::json::Envelope;
use crate::route::Target;

/// Bytes of a body that stand for one token when nobody counted.
const BYTES_PER_TOKEN: u64 = 4;

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
}

/// A value on its way to a guest.
#[derive(Debug, Clone, PartialEq)]
pub enum Val<'a> {
    Nil,
    Bool(bool),
    Number(f64),
    Text(std::borrow::Cow<'a, str>),
    Json(Value),
}

impl<'a> Val<'a> {
    fn text(text: &'a str) -> Self {
        Val::Text(text.into())
    }

    fn maybe(text: Option<impl Into<std::borrow::Cow<'a, str>>>) -> Self {
        text.map_or(Val::Nil, |text| Val::Text(text.into()))
    }

    fn count(number: Option<u64>) -> Self {
        number.map_or(Val::Nil, |number| Val::Number(number as f64))
    }

    fn ms(span: Duration) -> Self {
        Val::Number(span.as_secs_f64() * 1000.0)
    }
}

/// A field or method of a view: name, Luau type, meaning.
pub type Row = (&'static str, &'static str, &'static str);

/// A view: its name in the types, its fields, and how they are read.
pub trait View: Send + Sync + 'static {
    const NAME: &'static str;
    const DOC: &'static str;
    const FIELDS: &'static [Row];
    const METHODS: &'static [Row];

    /// The value of a field of [`View::FIELDS`]; None for every other name.
    fn get(&self, field: &str) -> Option<Val<'_>>;
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

impl View for Request {
    const NAME: &'static str = "Request";
    const DOC: &'static str = "An ask for a model. Reads are lazy: what is not read costs nothing, and the body goes upstream byte for byte unless a patch says otherwise.";
    const FIELDS: &'static [Row] = &[
        ("id", "string", "The gateway's id of the exchange."),
        ("request_id", "string", "The caller's own id where it sent one, else the same."),
        ("endpoint", "string", "The path's pattern, such as `/v1/chat/completions`."),
        ("dialect", "string", "The caller's wire form: `openai_chat`, `openai_responses`, `anthropic`, `gemini`."),
        ("op", "string", "`chat`, `text_completion`, `embeddings` or `count_tokens`."),
        ("model", "string", "The model that is planned for: the caller's, or what a hook before has made of it."),
        ("stream", "boolean", "Whether a stream was asked for."),
        ("max_tokens", "number?", "The caller's bound on the answer, whatever its dialect calls it."),
        ("temperature", "number?", "The caller's temperature, where it is a top-level field."),
        ("tokens", "number", "About how many tokens the body is."),
        ("bytes", "number", "Length of the body."),
        ("message_count", "number", "Turns of the conversation, as the body lists them."),
        ("tool_count", "number", "Tools offered to the model."),
        ("key", "string?", "Name of the caller's key."),
        ("project", "string?", "Project of the caller's key."),
        ("peer", "string?", "The caller's address."),
        ("attempts", "number", "Targets in the plan; 0 before there is one."),
    ];
    const METHODS: &'static [Row] = &[
        ("header", "(self: Request, name: string) -> string?", "A header of the caller, credentials apart."),
        ("param", "(self: Request, name: string) -> any", "A top-level field of the body, in the caller's dialect."),
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
            "Every text that the caller wrote, to be replaced by `texts` of a patch.",
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
            "tokens" => Val::Number((envelope().body().len() as u64 / BYTES_PER_TOKEN) as f64),
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
        let config: Value = envelope.get("generationConfig").or_else(|| envelope.get("generation_config"))?;
        config.get("maxOutputTokens").or_else(|| config.get("max_output_tokens"))?.as_u64()
    })
}

/// The number of entries of the first of these fields that is there; a text counts as one.
fn count(envelope: &Envelope, names: &[&str]) -> f64 {
    let Some(raw) = names.iter().find_map(|name| envelope.raw(name)) else { return 0.0 };
    match serde_json::from_slice::<Vec<&RawValue>>(raw) {
        Ok(entries) => entries.len() as f64,
        Err(_) => f64::from(raw.first() == Some(&b'"')),
    }
}

/// A turn as guests see it.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// Counted from 1.
    pub index: usize,
    pub role: &'static str,
    pub text: String,
    /// Kinds of its blocks: `text`, `image`, `tool_call`, …
    pub kinds: Vec<&'static str>,
}

/// A text of a conversation or an answer that a patch may replace.
#[derive(Debug, Clone, PartialEq)]
pub struct Text {
    /// Counted from 1, over the whole.
    pub index: usize,
    /// `system`, `user`, `assistant` or `tool`.
    pub role: &'static str,
    pub text: String,
}

/// The turns of a conversation.
pub fn messages(ask: &chat::Ask) -> Vec<Message> {
    ask.messages.iter().enumerate().map(|(at, message)| turn(at + 1, message)).collect()
}

fn turn(index: usize, message: &chat::Message) -> Message {
    let mut text = String::new();
    for block in &message.blocks {
        if let Content::Text { text: part, .. } = &block.content {
            if !text.is_empty() {
                text.push('\n');
            }
            text.push_str(part);
        }
    }
    Message {
        index,
        role: role(message),
        text,
        kinds: message.blocks.iter().map(|block| kind(&block.content)).collect(),
    }
}

fn role(message: &chat::Message) -> &'static str {
    match message.role {
        Role::System => "system",
        Role::Assistant => "assistant",
        Role::User if is_tool_result(message) => "tool",
        Role::User => "user",
    }
}

fn is_tool_result(message: &chat::Message) -> bool {
    !message.blocks.is_empty() && message.blocks.iter().all(|block| matches!(block.content, Content::ToolResult(_)))
}

fn kind(content: &Content) -> &'static str {
    match content {
        Content::Text { .. } => "text",
        Content::Image { .. } => "image",
        Content::Audio { .. } => "audio",
        Content::File { .. } => "file",
        Content::ToolCall(_) => "tool_call",
        Content::ToolResult(_) => "tool_result",
        Content::Reasoning(_) => "reasoning",
        Content::Refusal(_) => "refusal",
        Content::Other(_) => "other",
    }
}

/// Every text of a conversation, in order: system prompt, turns, and what tools gave back.
pub fn texts(ask: &mut chat::Ask, mut each: impl FnMut(usize, &'static str, &mut String)) {
    let mut index = 0;
    let mut visit = |role, text: &mut String| {
        index += 1;
        each(index, role, text);
    };
    for block in &mut ask.system {
        in_block(block, "system", &mut visit);
    }
    for message in &mut ask.messages {
        let role = role(message);
        for block in &mut message.blocks {
            in_block(block, role, &mut visit);
        }
    }
}

fn in_block(block: &mut chat::Block, role: &'static str, visit: &mut dyn FnMut(&'static str, &mut String)) {
    match &mut block.content {
        Content::Text { text, .. } => visit(role, text),
        Content::ToolResult(result) => {
            for block in &mut result.content {
                in_block(block, "tool", visit);
            }
        }
        _ => {}
    }
}

/// Every text of an answer, choice by choice.
pub fn answer_texts(answer: &mut chat::Answer, mut each: impl FnMut(usize, &mut String)) {
    let mut index = 0;
    for block in answer.choices.iter_mut().flat_map(|choice| &mut choice.blocks) {
        if let Content::Text { text, .. } = &mut block.content {
            index += 1;
            each(index, text);
        }
    }
}

/// One try, before it is made.
pub struct Try {
    pub visit: Arc<Visit>,
    pub request: Arc<Request>,
    pub target: Arc<Target>,
    /// Counted from 1.
    pub number: u32,
}

impl View for Try {
    const NAME: &'static str = "Try";
    const DOC: &'static str = "One try of one target, for `on_attempt`. The request stays as it is; what is returned holds for this try alone.";
    const FIELDS: &'static [Row] = &[
        ("target", "string", "`provider/model` that is about to be asked."),
        ("provider", "string", "Its provider."),
        ("model", "string", "The upstream's name of the model."),
        ("number", "number", "1 for the first try of the exchange."),
        ("elapsed_ms", "number", "Since the exchange began."),
    ];
    const METHODS: &'static [Row] = &[("request", "(self: Try) -> Request", "The ask that is tried.")];

    fn get(&self, field: &str) -> Option<Val<'_>> {
        Some(match field {
            "target" => Val::Text(self.target.name().into()),
            "provider" => Val::text(&self.target.provider.name),
            "model" => Val::text(&self.target.model),
            "number" => Val::Number(f64::from(self.number)),
            "elapsed_ms" => Val::ms(self.visit.started.elapsed()),
            _ => return None,
        })
    }
}

/// A try that failed.
pub struct Failure {
    pub visit: Arc<Visit>,
    pub request: Arc<Request>,
    pub fault: Fault,
    pub target: Arc<Target>,
    pub number: u32,
    pub took: Duration,
    /// Until the exchange's own deadline.
    pub left: Duration,
    /// Targets of the plan that have not been asked.
    pub remaining: usize,
}

impl View for Failure {
    const NAME: &'static str = "Failure";
    const DOC: &'static str = "A try that failed, for `on_fault`. Nothing has been sent to the caller yet.";
    const FIELDS: &'static [Row] = &[
        (
            "kind",
            "string",
            "The stable code: `rate_limited`, `context_length_exceeded`, `content_policy`, `stream_broken`, … See the table of errors.",
        ),
        ("status", "number?", "The upstream's status, where it gave one."),
        ("code", "string?", "The upstream's own code."),
        ("message", "string", "What happened, in the upstream's words where it has some."),
        ("retry", "string", "What the gateway would do: `same`, `next` or `never`."),
        ("retry_after_ms", "number?", "How long the upstream wants us to wait."),
        ("target", "string", "`provider/model` that failed."),
        ("provider", "string", "Its provider."),
        ("number", "number", "Which try of the exchange it was, from 1."),
        ("took_ms", "number", "How long the try took."),
        ("elapsed_ms", "number", "Since the exchange began."),
        ("left_ms", "number", "Until the exchange must be over."),
        ("remaining", "number", "Targets of the plan that were not asked yet."),
    ];
    const METHODS: &'static [Row] = &[("request", "(self: Failure) -> Request", "The ask that failed.")];

    fn get(&self, field: &str) -> Option<Val<'_>> {
        let refusal = self.fault.refusal.as_deref();
        Some(match field {
            "kind" => Val::text(self.fault.code()),
            "status" => Val::count(refusal.map(|refusal| u64::from(refusal.status))),
            "code" => Val::maybe(refusal.and_then(|refusal| refusal.code.as_deref().or(refusal.kind.as_deref()))),
            "message" => Val::text(&self.fault.message),
            "retry" => Val::text(match self.fault.retry() {
                crate::fault::Retry::Never => "never",
                crate::fault::Retry::Same => "same",
                crate::fault::Retry::Next => "next",
            }),
            "retry_after_ms" => self.fault.retry_after.map_or(Val::Nil, Val::ms),
            "target" => Val::Text(self.target.name().into()),
            "provider" => Val::text(&self.target.provider.name),
            "number" => Val::Number(f64::from(self.number)),
            "took_ms" => Val::ms(self.took),
            "elapsed_ms" => Val::ms(self.visit.started.elapsed()),
            "left_ms" => Val::ms(self.left),
            "remaining" => Val::Number(self.remaining as f64),
            _ => return None,
        })
    }
}

/// An answer that is about to be sent: its head when it is streamed, all of it when not.
pub struct Answer {
    pub visit: Arc<Visit>,
    pub request: Arc<Request>,
    pub target: Arc<Target>,
    pub status: u16,
    pub stream: bool,
    /// The body in the caller's dialect; empty for streams.
    pub body: bytes::Bytes,
    pub usage: Option<chat::Usage>,
    pub finish: Option<chat::Finish>,
    pub number: u32,
    pub decode: fn(&str, &[u8]) -> Option<chat::Answer>,
    pub decoded: OnceLock<Option<Arc<chat::Answer>>>,
}

impl Answer {
    /// The answer decoded; None for streams and for what is no conversation.
    pub fn chat(&self) -> Option<&Arc<chat::Answer>> {
        let decode = || (self.decode)(self.visit.dialect, &self.body).map(Arc::new);
        self.decoded.get_or_init(|| if self.stream { None } else { decode() }).as_ref()
    }
}

impl View for Answer {
    const NAME: &'static str = "Answer";
    const DOC: &'static str = "An answer about to be sent, for `on_answer`: whole when it is not streamed, else its head with the first content at hand.";
    const FIELDS: &'static [Row] = &[
        ("status", "number", "The HTTP status that the caller will see."),
        ("stream", "boolean", "Whether it is a stream; its text then goes by in `on_event`."),
        ("text", "string?", "The text of its first choice; nil for streams and for what is no conversation."),
        ("finish", "string?", "Why the model stopped: `stop`, `length`, `tool_calls`, `content_filter`, `refusal`, …"),
        ("input_tokens", "number?", "As the provider counted."),
        ("output_tokens", "number?", "As the provider counted."),
        ("target", "string", "`provider/model` that answered."),
        ("provider", "string", "Its provider."),
        ("number", "number", "Which try of the exchange answered, from 1."),
        ("elapsed_ms", "number", "Since the exchange began."),
    ];
    const METHODS: &'static [Row] = &[
        ("request", "(self: Answer) -> Request", "The ask that is answered."),
        ("texts", "(self: Answer) -> { Text }", "Every text of the answer, to be replaced by `texts` of a patch."),
        ("json", "(self: Answer) -> any", "The body, in the caller's dialect; nil for streams."),
    ];

    fn get(&self, field: &str) -> Option<Val<'_>> {
        Some(match field {
            "status" => Val::Number(f64::from(self.status)),
            "stream" => Val::Bool(self.stream),
            "text" => Val::maybe(self.chat().map(|answer| answer.text())),
            "finish" => Val::maybe(self.finish.map(chat::Finish::as_str)),
            "input_tokens" => Val::count(self.usage.map(|usage| usage.input)),
            "output_tokens" => Val::count(self.usage.map(|usage| usage.output)),
            "target" => Val::Text(self.target.name().into()),
            "provider" => Val::text(&self.target.provider.name),
            "number" => Val::Number(f64::from(self.number)),
            "elapsed_ms" => Val::ms(self.visit.started.elapsed()),
            _ => return None,
        })
    }
}

/// Text of a stream on its way to the caller.
#[derive(Debug)]
pub struct Event {
    pub visit: Arc<Visit>,
    /// `text`, `reasoning` or `end`.
    pub kind: &'static str,
    pub text: String,
    pub choice: u32,
    /// Block of the choice, from 0.
    pub index: u32,
    /// Deltas that the text was put together from.
    pub merged: u32,
}

impl View for Event {
    const NAME: &'static str = "Event";
    const DOC: &'static str = "Text of a stream, for `on_event`; never a part of a character. A last event of kind `end` comes before a block closes: what was held back goes out as its text.";
    const FIELDS: &'static [Row] = &[
        ("kind", "string", "`text`, `reasoning`, or `end` when the block is about to close."),
        ("text", "string", "The text; empty for `end`."),
        ("choice", "number", "Which choice of the answer, from 0."),
        ("index", "number", "Which block of the choice, from 0."),
        ("merged", "number", "How many events of the provider it was put together from."),
    ];
    const METHODS: &'static [Row] = &[];

    fn get(&self, field: &str) -> Option<Val<'_>> {
        Some(match field {
            "kind" => Val::text(self.kind),
            "text" => Val::text(&self.text),
            "choice" => Val::Number(f64::from(self.choice)),
            "index" => Val::Number(f64::from(self.index)),
            "merged" => Val::Number(f64::from(self.merged)),
            _ => return None,
        })
    }
}

/// An exchange that is over.
#[derive(Debug)]
pub struct Done {
    pub visit: Arc<Visit>,
    pub model: String,
    pub stream: bool,
    pub status: u16,
    /// The stable code of what went wrong.
    pub code: Option<&'static str>,
    pub target: Option<String>,
    pub attempts: usize,
    pub usage: Option<chat::Usage>,
    pub estimated: bool,
    pub cost_nano_usd: Option<u64>,
    pub finish: Option<chat::Finish>,
    pub took: Duration,
    pub first_content: Option<Duration>,
    pub bytes_in: u64,
    pub bytes_out: u64,
}

impl View for Done {
    const NAME: &'static str = "Done";
    const DOC: &'static str =
        "An exchange that is over, for `on_done`. Comes exactly once, also when the caller has gone.";
    const FIELDS: &'static [Row] = &[
        ("id", "string", "The gateway's id of the exchange."),
        ("endpoint", "string", "The path's pattern."),
        ("model", "string", "The model that was planned for."),
        ("stream", "boolean", "Whether a stream was asked for."),
        ("status", "number", "The status as it ended: a stream that broke is a failure although its head said 200."),
        ("ok", "boolean", "Whether it ended well."),
        ("code", "string?", "The stable code of what went wrong."),
        ("target", "string?", "`provider/model` that answered, or failed last."),
        ("attempts", "number", "Tries that were made."),
        ("input_tokens", "number?", "Tokens in."),
        ("output_tokens", "number?", "Tokens out."),
        ("estimated", "boolean", "The tokens are an estimate: the stream ended before the provider said."),
        ("cost", "number?", "US dollars; nil when the price is unknown."),
        ("finish", "string?", "Why the model stopped."),
        ("duration_ms", "number", "From the head of the request to the end of the answer."),
        ("first_token_ms", "number?", "Until the first content of a stream."),
        ("bytes_in", "number", "Length of the request's body."),
        ("bytes_out", "number", "Length of the answer's body."),
        ("key", "string?", "Name of the caller's key."),
        ("project", "string?", "Project of the caller's key."),
    ];
    const METHODS: &'static [Row] = &[];

    fn get(&self, field: &str) -> Option<Val<'_>> {
        let principal = self.visit.principal();
        Some(match field {
            "id" => Val::text(&self.visit.id),
            "endpoint" => Val::text(self.visit.endpoint),
            "model" => Val::text(&self.model),
            "stream" => Val::Bool(self.stream),
            "status" => Val::Number(f64::from(self.status)),
            "ok" => Val::Bool(self.code.is_none()),
            "code" => Val::maybe(self.code),
            "target" => Val::maybe(self.target.as_deref()),
            "attempts" => Val::Number(self.attempts as f64),
            "input_tokens" => Val::count(self.usage.map(|usage| usage.input)),
            "output_tokens" => Val::count(self.usage.map(|usage| usage.output)),
            "estimated" => Val::Bool(self.estimated),
            "cost" => self.cost_nano_usd.map_or(Val::Nil, |nanos| Val::Number(nanos as f64 / 1e9)),
            "finish" => Val::maybe(self.finish.map(chat::Finish::as_str)),
            "duration_ms" => Val::ms(self.took),
            "first_token_ms" => self.first_content.map_or(Val::Nil, Val::ms),
            "bytes_in" => Val::Number(self.bytes_in as f64),
            "bytes_out" => Val::Number(self.bytes_out as f64),
            "key" => Val::maybe(principal.map(|principal| principal.key.as_str())),
            "project" => Val::maybe(principal.and_then(|principal| principal.project.as_deref())),
            _ => return None,
        })
    }
}

/// What a guest is called with.
#[derive(Clone)]
pub enum Subject {
    Head(Arc<Head>),
    Request(Arc<Request>),
    Try(Arc<Try>),
    Failure(Arc<Failure>),
    Answer(Arc<Answer>),
    Event(Arc<Event>),
    Done(Arc<Done>),
    Tick,
}
