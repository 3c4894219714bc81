//! Answers as guests see them: whole or as a stream's head, and the text of a stream as it goes by.
//!
//! A whole answer is decoded when its text is first asked for, and once.

use std::sync::{Arc, OnceLock};

use serde_json::{Value, json};

use super::{Request, Row, Val, View};
use crate::chat;
use crate::host::Visit;
use crate::route::Target;

/// An answer that is about to be sent: its head when it is streamed, all of it when not.
pub struct Answer {
    pub visit: Arc<Visit>,
    pub request: Arc<Request>,
    /// None where another guest has said it.
    pub target: Option<Arc<Target>>,
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
        ("target", "string", "`provider/model` that answered; empty where another policy has said it."),
        ("provider", "string", "Its provider."),
        ("number", "number", "Which try of the exchange answered, from 1; 0 where another policy has said it."),
        ("elapsed_ms", "number", "Since the exchange began."),
    ];
    const METHODS: &'static [Row] = &[
        ("request", "(self: Answer) -> Request", "The ask that is answered."),
        (
            "texts",
            "(self: Answer) -> { Text }",
            "Every text of a whole answer, reasoning and the arguments of tool calls with it, as `kind` tells; to be replaced by `texts` of a patch.",
        ),
        (
            "json",
            "(self: Answer) -> any",
            "The body, in the caller's dialect; nil for streams and for what is no JSON. JSON that cannot be decoded is an error.",
        ),
    ];

    fn get(&self, field: &str) -> Option<Val<'_>> {
        Some(match field {
            "status" => Val::Number(f64::from(self.status)),
            "stream" => Val::Bool(self.stream),
            "text" => Val::maybe(self.chat().map(|answer| answer.text())),
            "finish" => Val::maybe(self.finish.map(chat::Finish::as_str)),
            "input_tokens" => Val::count(self.usage.map(|usage| usage.input)),
            "output_tokens" => Val::count(self.usage.map(|usage| usage.output)),
            "target" => Val::Text(self.target.as_ref().map(|target| target.name()).unwrap_or_default().into()),
            "provider" => Val::text(self.target.as_ref().map_or("", |target| &target.provider.name)),
            "number" => Val::Number(f64::from(self.number)),
            "elapsed_ms" => Val::ms(self.visit.started.elapsed()),
            _ => return None,
        })
    }
}

/// Text of a stream on its way to the caller.
#[derive(Debug, Clone, Default)]
pub struct Event {
    /// `text`, `reasoning`, `refusal`, `arguments` or `end`.
    pub kind: &'static str,
    /// The tool that is called, of what it is called with.
    pub tool: Option<Arc<str>>,
    pub text: String,
    pub choice: u32,
    /// Block of the choice, from 0.
    pub index: u32,
    /// Deltas that the text was put together from.
    pub merged: u32,
}

impl Event {
    /// What it is, for the decision trace.
    pub fn brief(&self) -> Value {
        json!({ "kind": self.kind, "bytes": self.text.len() })
    }
}

impl View for Event {
    const NAME: &'static str = "Event";
    const DOC: &'static str = "Text of a stream, for `on_event`; never a part of a character. A last event of kind `end` comes before a block closes: what was held back goes out as its text.";
    const FIELDS: &'static [Row] = &[
        (
            "kind",
            "string",
            "`text`, `reasoning`, `refusal`, `arguments` where the manifest asks for them, or `end` when the block is about to close.",
        ),
        ("tool", "string?", "Name of the tool that is called, where this is what it is called with, or the end of it."),
        ("text", "string", "The text; empty for `end`. Of `arguments` the next piece of their JSON."),
        ("choice", "number", "Which choice of the answer, from 0."),
        ("index", "number", "Which block of the choice, from 0."),
        ("merged", "number", "How many events of the provider it was put together from."),
    ];
    const METHODS: &'static [Row] = &[];

    fn get(&self, field: &str) -> Option<Val<'_>> {
        Some(match field {
            "kind" => Val::text(self.kind),
            "tool" => Val::maybe(self.tool.as_deref()),
            "text" => Val::text(&self.text),
            "choice" => Val::Number(f64::from(self.choice)),
            "index" => Val::Number(f64::from(self.index)),
            "merged" => Val::Number(f64::from(self.merged)),
            _ => return None,
        })
    }
}
