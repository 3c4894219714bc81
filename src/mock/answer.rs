//! An answer before it is played: head, body or frames, and which of them are content. Holds values, never waits.

use serde_json::Value;

use super::knobs::Knobs;
use super::refusal::Refusal;
use super::state::State;
use super::wire::Request;

/// Whose manners an answer has: error bodies, headers, frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// Chat, legacy completions and embeddings.
    OpenAi,
    Responses,
    Anthropic,
    Gemini,
}

impl Dialect {
    /// Whether the provider indents its bodies.
    pub fn indents(self) -> bool {
        self != Dialect::Anthropic
    }

    /// The headers that the provider sends with every answer.
    pub fn headers(self, request_id: &str) -> Vec<(&'static str, String)> {
        let rows: &[(&'static str, &str)] = match self {
            Dialect::OpenAi | Dialect::Responses => &[
                ("x-request-id", request_id),
                ("openai-organization", "org-mock"),
                ("openai-processing-ms", "1"),
                ("openai-version", "2020-10-01"),
                ("x-ratelimit-limit-requests", "10000"),
                ("x-ratelimit-limit-tokens", "2000000"),
                ("x-ratelimit-remaining-requests", "9999"),
                ("x-ratelimit-remaining-tokens", "1999990"),
                ("x-ratelimit-reset-requests", "6ms"),
                ("x-ratelimit-reset-tokens", "0s"),
            ],
            Dialect::Anthropic => &[
                ("request-id", request_id),
                ("anthropic-organization-id", "00000000-0000-4000-8000-000000000000"),
                ("anthropic-ratelimit-requests-limit", "4000"),
                ("anthropic-ratelimit-requests-remaining", "3999"),
                ("anthropic-ratelimit-requests-reset", "2026-01-01T00:00:00Z"),
                ("anthropic-ratelimit-tokens-limit", "480000"),
                ("anthropic-ratelimit-tokens-remaining", "480000"),
                ("anthropic-ratelimit-tokens-reset", "2026-01-01T00:00:00Z"),
            ],
            Dialect::Gemini => {
                &[("vary", "Origin"), ("vary", "X-Origin"), ("vary", "Referer"), ("server-timing", "gfet4t7; dur=1")]
            }
        };
        rows.iter().map(|(name, value)| (*name, (*value).to_owned())).collect()
    }
}

/// One request on its way to an answer.
#[derive(Debug)]
pub struct Turn<'a> {
    pub request: &'a Request,
    /// The parsed body; null where the endpoint takes none.
    pub body: &'a Value,
    /// The model as asked for, options and all.
    pub model: String,
    pub stream: bool,
    pub knobs: &'a Knobs,
    pub state: &'a State,
    /// Unix seconds.
    pub now: u64,
}

impl Turn<'_> {
    pub fn strict(&self) -> bool {
        self.knobs.strict == Some(true)
    }

    /// The first field of the body that is not among `known`, when strict.
    pub fn unknown_field(&self, known: &[&[&str]]) -> Option<&str> {
        let fields = self.body.as_object().filter(|_| self.strict())?;
        fields.keys().map(String::as_str).find(|field| !known.iter().any(|known| known.contains(field)))
    }
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// Besides the framing and the dialect's usual ones.
    pub headers: Vec<(&'static str, String)>,
    pub body: Body,
}

#[derive(Debug)]
pub enum Body {
    /// One JSON value, made of so many pieces.
    Json {
        value: Value,
        pieces: usize,
    },
    /// Anything else, with its content type.
    Raw {
        kind: &'static str,
        bytes: Vec<u8>,
    },
    Frames {
        framing: Framing,
        frames: Vec<Frame>,
    },
}

impl Answer {
    pub fn json(value: Value) -> Answer {
        Answer::pieces(value, 0)
    }

    pub fn pieces(value: Value, pieces: usize) -> Answer {
        Answer { status: 200, headers: Vec::new(), body: Body::Json { value, pieces } }
    }

    pub fn frames(framing: Framing, frames: Vec<Frame>) -> Answer {
        Answer { status: 200, headers: Vec::new(), body: Body::Frames { framing, frames } }
    }
}

/// What every endpoint gives.
pub type Outcome = Result<Answer, Refusal>;

/// How frames stand in the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// Server-sent events, lines ended by LF.
    Sse,
    /// Server-sent events, lines ended by CRLF, as Gemini sends them.
    SseCrlf,
    /// One JSON array, an element at a time: Gemini without `alt=sse`.
    Array,
}

/// What part of the stream a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Before any content: roles, ids, empty blocks.
    Prelude,
    /// A piece of text, reasoning or arguments.
    Content,
    /// Closing events, finish reason, usage.
    Finish,
    /// The end marker.
    Done,
}

#[derive(Debug, Clone)]
pub struct Frame {
    pub part: Part,
    /// The `event:` line; none when empty.
    pub event: &'static str,
    /// A string stands as it is (`[DONE]`), anything else as JSON.
    pub data: Value,
}

impl Frame {
    pub fn new(part: Part, event: &'static str, data: Value) -> Frame {
        Frame { part, event, data }
    }

    /// A frame without an `event:` line.
    pub fn data(part: Part, data: Value) -> Frame {
        Frame::new(part, "", data)
    }

    /// `data: [DONE]`.
    pub fn done() -> Frame {
        Frame::data(Part::Done, Value::String("[DONE]".to_owned()))
    }
}

impl Framing {
    pub fn content_type(self) -> &'static str {
        match self {
            Framing::Sse => "text/event-stream; charset=utf-8",
            Framing::SseCrlf => "text/event-stream",
            Framing::Array => "application/json; charset=UTF-8",
        }
    }

    /// The bytes around a frame's JSON.
    pub fn around(self, event: &str, first: bool) -> (String, &'static str) {
        let (line, end) = match self {
            Framing::Sse => ("\n", "\n\n"),
            Framing::SseCrlf => ("\r\n", "\r\n\r\n"),
            Framing::Array => return ((if first { "[" } else { ",\r\n" }).to_owned(), ""),
        };
        if event.is_empty() { ("data: ".to_owned(), end) } else { (format!("event: {event}{line}data: "), end) }
    }

    pub fn render(self, frame: &Frame, first: bool) -> Vec<u8> {
        let (before, after) = self.around(frame.event, first);
        let mut out = before.into_bytes();
        match &frame.data {
            Value::String(bare) => out.extend_from_slice(bare.as_bytes()),
            value => out.extend(json_bytes(value, self == Framing::Array)),
        }
        out.extend_from_slice(after.as_bytes());
        out
    }

    /// What closes the body when every frame was sent; `empty` when there was none.
    pub fn close(self, empty: bool) -> &'static [u8] {
        match self {
            Framing::Array if empty => b"[]",
            Framing::Array => b"\n]",
            Framing::Sse | Framing::SseCrlf => b"",
        }
    }
}

/// JSON as the providers write it: some indent their bodies.
pub fn json_bytes(value: &Value, indent: bool) -> Vec<u8> {
    // A `Value` always serialises: its keys are strings.
    if indent { serde_json::to_vec_pretty(value) } else { serde_json::to_vec(value) }.unwrap_or_default()
}
