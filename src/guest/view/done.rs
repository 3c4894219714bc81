//! An exchange that is over, as guests see it.
//!
//! Facts only: nothing can be changed any more.

use std::sync::Arc;
use std::time::Duration;

use super::{Row, Val, View};
use crate::chat;
use crate::host::Visit;

/// An exchange that is over.
#[derive(Debug)]
pub struct Done {
    pub visit: Arc<Visit>,
    pub model: String,
    pub stream: bool,
    pub status: u16,
    /// What went wrong, as the caller is told it: a policy's own code, or the stable one.
    pub code: Option<String>,
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
        (
            "code",
            "string?",
            "What went wrong, as the caller is told it: the code with which a policy refused, else the stable one.",
        ),
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
        ("key", "string?", "Name of the caller's key; `anyone` where the gateway has no keys."),
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
            "code" => Val::maybe(self.code.as_deref()),
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
