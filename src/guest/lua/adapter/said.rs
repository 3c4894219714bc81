//! Requests, answers, events and refusals, read from the tables that adapters return.
//!
//! Raw reads within bounds, as for verdicts. A name that a table does not have is an error: a typing mistake must not
//! become "nothing said".

use std::time::Duration;

use bytes::Bytes;
use mlua::{Error, Result, Table, Value as Lv};
use serde_json::Value;

use super::super::convert::{Left, to_json};
use super::super::read::{known, list, ms, number, sub, text, wrong};
use crate::chat::{Answer, Block, CacheMark, Choice, Content, Finish, Media, Reasoning, ToolCall, ToolResult, Usage};
use crate::dialect::adapter::Step;
use crate::embed::EmbedAnswer;
use crate::fault::Refusal;
use crate::guest::adapter::{Draft, Said};

/// What `decode` made of an answer.
pub enum Outcome {
    Chat(Answer),
    Embed(EmbedAnswer),
    FollowUp(Draft, Duration),
}

/// Reads what one call returned.
pub struct Reader {
    left: Left,
    /// The adapter's name: opaque values belong to it.
    adapter: &'static str,
}

/// Why a generation stopped, in full.
struct Ended {
    reason: Finish,
    native: Option<String>,
    stop_sequence: Option<String>,
}

const ANSWER: &[&str] = &["id", "model", "choices", "text", "blocks", "finish", "logprobs", "usage", "follow_up"];
const CHOICE: &[&str] = &["text", "blocks", "finish", "logprobs"];
const REFUSAL: &[&str] = &["status", "message", "kind", "code", "param", "retry_after_ms"];

impl Reader {
    /// For what has no more than so many bytes.
    pub fn new(bytes: usize, adapter: &'static str) -> Self {
        Reader { left: Left::new(bytes), adapter }
    }

    fn text(&mut self, table: &Table, name: &str) -> Result<Option<String>> {
        let text = text(table, name)?;
        self.left.take(text.as_ref().map_or(0, String::len))?;
        Ok(text)
    }

    fn needs(&mut self, table: &Table, what: &str, name: &str) -> Result<String> {
        self.text(table, name)?.ok_or_else(|| Error::runtime(format!("{what} needs `{name}`")))
    }

    fn json(&mut self, table: &Table, name: &str) -> Result<Option<Value>> {
        let value = to_json(&table.raw_get::<Lv>(name)?, &mut self.left)?;
        Ok(Some(value).filter(|value| !value.is_null()))
    }

    /// What `encode` returned.
    pub fn request(&mut self, value: &Lv) -> Result<Draft> {
        let Lv::Table(table) = value else { return Err(wrong("a request", "a table", value)) };
        known(table, "a request", &["method", "path", "headers", "body", "streamed", "dropped"])?;
        let body = match table.raw_get::<Lv>("body")? {
            Lv::Nil => Bytes::new(),
            Lv::String(body) => {
                self.left.take(body.as_bytes().len())?;
                Bytes::copy_from_slice(&body.as_bytes())
            }
            body => serde_json::to_vec(&to_json(&body, &mut self.left)?).map_err(Error::external)?.into(),
        };
        let usual = if body.is_empty() { "GET" } else { "POST" };
        Ok(Draft {
            method: self.text(table, "method")?.unwrap_or_else(|| usual.to_owned()),
            path: self.needs(table, "a request", "path")?,
            headers: self.pairs(table, "headers")?,
            body,
            streamed: flag(table, "streamed")?.unwrap_or(false),
            dropped: self.pairs(table, "dropped")?,
        })
    }

    /// Names and texts, in the order of the names.
    fn pairs(&mut self, table: &Table, what: &str) -> Result<Vec<(String, String)>> {
        let mut pairs = Vec::new();
        let Some(inner) = sub(table, what)? else { return Ok(pairs) };
        inner.for_each(|name: Lv, value: Lv| {
            let (Lv::String(name), Lv::String(value)) = (&name, &value) else {
                return Err(wrong(what, "names and texts", &value));
            };
            self.left.take(name.as_bytes().len() + value.as_bytes().len())?;
            pairs.push((name.to_str()?.to_owned(), value.to_str()?.to_owned()));
            Ok(())
        })?;
        pairs.sort();
        Ok(pairs)
    }

    /// What `decode` returned: an answer, vectors, or another request.
    pub fn outcome(&mut self, value: &Lv) -> Result<Outcome> {
        let Lv::Table(table) = value else { return Err(wrong("an answer", "a table", value)) };
        if let Some(next) = sub(table, "follow_up")? {
            known(&next, "follow_up", &["request", "wait_ms"])?;
            let wait = ms(&next, "wait_ms")?.unwrap_or_default();
            return Ok(Outcome::FollowUp(self.request(&next.raw_get("request")?)?, wait));
        }
        match sub(table, "vectors")? {
            Some(vectors) => self.vectors(table, &vectors).map(Outcome::Embed),
            None => self.answer(table).map(Outcome::Chat),
        }
    }

    fn answer(&mut self, table: &Table) -> Result<Answer> {
        known(table, "an answer", ANSWER)?;
        // The only choice may stand in the answer itself.
        let choices = match sub(table, "choices")? {
            Some(choices) => list(&choices, "choices", |choice| match choice {
                Lv::Table(choice) => {
                    known(choice, "a choice", CHOICE)?;
                    self.choice(choice)
                }
                other => Err(wrong("choices", "tables", other)),
            })?,
            None => vec![self.choice(table)?],
        };
        let numbered = (0..).zip(choices).map(|(index, choice)| Choice { index, ..choice });
        Ok(Answer {
            id: self.text(table, "id")?.unwrap_or_default(),
            model: self.text(table, "model")?.unwrap_or_default(),
            choices: numbered.collect(),
            usage: usage(table)?,
            source: self.adapter,
            ..Answer::default()
        })
    }

    fn choice(&mut self, table: &Table) -> Result<Choice> {
        let mut blocks = Vec::new();
        blocks.extend(self.text(table, "text")?.filter(|text| !text.is_empty()).map(Block::text));
        if let Some(more) = sub(table, "blocks")? {
            blocks.extend(list(&more, "blocks", |block| self.block(block))?);
        }
        let ended = self.finish(&table.raw_get::<Lv>("finish")?)?;
        let (native_finish, stop_sequence) = match &ended {
            Some(ended) => (ended.native.clone(), ended.stop_sequence.clone()),
            None => (None, None),
        };
        let (finish, logprobs) = (ended.map(|ended| ended.reason), self.json(table, "logprobs")?);
        Ok(Choice { blocks, finish, native_finish, stop_sequence, logprobs, ..Choice::default() })
    }

    fn vectors(&mut self, table: &Table, vectors: &Table) -> Result<EmbedAnswer> {
        known(table, "an answer with vectors", &["model", "vectors", "usage"])?;
        let vectors = list(vectors, "vectors", |vector| {
            let Lv::Table(vector) = vector else { return Err(wrong("vectors", "lists of numbers", vector)) };
            self.left.take(4 * vector.raw_len())?;
            list(vector, "vectors", |part| {
                let part = part.as_f64().or_else(|| part.as_integer().map(|whole| whole as f64));
                part.map(|part| part as f32).ok_or_else(|| Error::runtime("vectors: what is no number stands in one"))
            })
        })?;
        let model = self.text(table, "model")?.unwrap_or_default();
        Ok(EmbedAnswer { model, vectors, usage: usage(table)?, source: self.adapter, ..EmbedAnswer::default() })
    }

    /// Why it stopped: a word, or a table with it.
    fn finish(&mut self, value: &Lv) -> Result<Option<Ended>> {
        let named = |word: &str| {
            Finish::named(word).ok_or_else(|| {
                let words = Finish::ALL.map(Finish::as_str).join(", ");
                Error::runtime(format!("`{word}` is no finish; there are: {words}"))
            })
        };
        Ok(match value {
            Lv::Nil => None,
            Lv::String(word) => Some(Ended { reason: named(&word.to_str()?)?, native: None, stop_sequence: None }),
            Lv::Table(table) => {
                known(table, "a finish", &["reason", "native", "stop_sequence"])?;
                Some(Ended {
                    reason: named(&self.needs(table, "a finish", "reason")?)?,
                    native: self.text(table, "native")?,
                    stop_sequence: self.text(table, "stop_sequence")?,
                })
            }
            other => return Err(wrong("finish", "a word or a table", other)),
        })
    }

    fn block(&mut self, value: &Lv) -> Result<Block> {
        let Lv::Table(table) = value else { return Err(wrong("blocks", "tables", value)) };
        let kind = self.needs(table, "a block", "kind")?;
        let names: &[&str] = match kind.as_str() {
            "text" => &["kind", "text", "citations", "cache"],
            "image" => &["kind", "source", "detail"],
            "audio" => &["kind", "data", "format", "transcript"],
            "file" => &["kind", "source", "name"],
            "tool_call" => &["kind", "id", "name", "arguments", "custom", "signature"],
            "tool_result" => &["kind", "id", "name", "content", "is_error"],
            "reasoning" => &["kind", "text", "signature", "encrypted"],
            "refusal" => &["kind", "text"],
            "other" => &["kind", "value"],
            other => return Err(Error::runtime(format!("there is no block of kind `{other}`"))),
        };
        let what = format!("a block of kind `{kind}`");
        known(table, &what, names)?;
        let content = match kind.as_str() {
            "text" => {
                let citations = match self.json(table, "citations")? {
                    Some(Value::Array(citations)) => citations,
                    _ => Vec::new(),
                };
                let text = self.needs(table, &what, "text")?;
                let cache = self.text(table, "cache")?;
                let cache = cache.map(|ttl| CacheMark { ttl: Some(ttl).filter(|ttl| !ttl.is_empty()) });
                return Ok(Block { cache, ..Block::new(Content::Text { text, citations }) });
            }
            "image" => Content::Image { source: self.media(table)?, detail: self.text(table, "detail")? },
            "audio" => Content::Audio {
                data: self.needs(table, &what, "data")?,
                format: self.needs(table, &what, "format")?,
                transcript: self.text(table, "transcript")?,
                id: None,
            },
            "file" => Content::File { source: self.media(table)?, name: self.text(table, "name")? },
            "tool_call" => Content::ToolCall(ToolCall {
                id: self.needs(table, &what, "id")?,
                name: self.needs(table, &what, "name")?,
                arguments: self.arguments(table, "arguments")?,
                custom: flag(table, "custom")?.unwrap_or(false),
                signature: self.text(table, "signature")?,
                ..ToolCall::default()
            }),
            "tool_result" => self.tool_result(table, &what)?,
            "reasoning" => Content::Reasoning(Reasoning {
                text: self.text(table, "text")?.unwrap_or_default(),
                signature: self.text(table, "signature")?,
                encrypted: self.text(table, "encrypted")?,
                origin: self.adapter.to_owned(),
                ..Reasoning::default()
            }),
            "refusal" => Content::Refusal(self.needs(table, &what, "text")?),
            _ => Content::Other(self.json(table, "value")?.unwrap_or_default()),
        };
        Ok(Block::new(content))
    }

    fn tool_result(&mut self, table: &Table, what: &str) -> Result<Content> {
        let content = match sub(table, "content")? {
            Some(parts) => list(&parts, "content", |part| self.block(part))?,
            None => Vec::new(),
        };
        let (id, name) = (self.needs(table, what, "id")?, self.text(table, "name")?);
        Ok(Content::ToolResult(ToolResult { id, name, content, is_error: flag(table, "is_error")?, custom: false }))
    }

    /// Arguments as JSON text: as it stands, or of the table that it would be.
    fn arguments(&mut self, table: &Table, name: &str) -> Result<String> {
        Ok(match self.json(table, name)? {
            None => String::new(),
            Some(Value::String(text)) => text,
            Some(value) => value.to_string(),
        })
    }

    fn media(&mut self, table: &Table) -> Result<Media> {
        let source = sub(table, "source")?.ok_or_else(|| Error::runtime("an image or a file needs `source`"))?;
        known(&source, "a source", &["url", "mime", "data", "id", "text"])?;
        if let Some(url) = self.text(&source, "url")? {
            return Ok(Media::Url { url, mime: self.text(&source, "mime")? });
        }
        if let Some(data) = self.text(&source, "data")? {
            return Ok(Media::Inline { mime: self.needs(&source, "a source with `data`", "mime")?, data });
        }
        if let Some(id) = self.text(&source, "id")? {
            return Ok(Media::Id(id));
        }
        let text = self.text(&source, "text")?;
        text.map(Media::Text).ok_or_else(|| Error::runtime("a source has one of: url, mime and data, id, text"))
    }

    /// What a piece of a stream says: nothing, one event, or a list of them.
    pub fn events(&mut self, value: &Lv) -> Result<Vec<Said>> {
        match value {
            Lv::Nil => Ok(Vec::new()),
            Lv::Table(table) if table.raw_len() > 0 => list(table, "events", |event| match event {
                Lv::Table(event) => self.event(event),
                other => Err(wrong("events", "tables", other)),
            }),
            Lv::Table(table) if table.is_empty() => Ok(Vec::new()),
            Lv::Table(event) => Ok(vec![self.event(event)?]),
            other => Err(wrong("events", "tables", other)),
        }
    }

    /// One event: a table with one name, which says what it is.
    fn event(&mut self, table: &Table) -> Result<Said> {
        let mut only = None;
        table.for_each(|name: Lv, value: Lv| {
            let Lv::String(name) = &name else { return Err(wrong("an event", "a name", &name)) };
            if only.is_some() {
                return Err(Error::runtime("an event has one name; put several into a list, in their order"));
            }
            only = Some((name.to_str()?.to_owned(), value));
            Ok(())
        })?;
        let Some((name, value)) = only else { return Ok(Ok(Step::Ping)) };
        let inner = |names: &[&str]| match &value {
            Lv::Table(inner) => known(inner, &name, names).map(|()| inner.clone()),
            other => Err(wrong(&name, "a table", other)),
        };
        let step = match name.as_str() {
            "start" => {
                let start = inner(&["id", "model"])?;
                let id = self.text(&start, "id")?.unwrap_or_default();
                Step::Start { id, model: self.text(&start, "model")?.unwrap_or_default() }
            }
            "choice" => Step::Choice(u32::try_from(count(table, "choice")?.unwrap_or(0)).unwrap_or(u32::MAX)),
            "text" => Step::Text(self.needs(table, "an event", "text")?),
            "reasoning" => Step::Reasoning(self.needs(table, "an event", "reasoning")?),
            "signature" => Step::Signature(self.needs(table, "an event", "signature")?),
            "refusal" => Step::Refusal(self.needs(table, "an event", "refusal")?),
            "tool_call" => {
                let call = inner(&["key", "id", "name"])?;
                let (id, name) = (self.needs(&call, "tool_call", "id")?, self.needs(&call, "tool_call", "name")?);
                Step::Call { key: count(&call, "key")?.unwrap_or(0), id, name }
            }
            "arguments" => {
                let delta = inner(&["key", "text"])?;
                Step::Arguments { key: count(&delta, "key")?.unwrap_or(0), text: self.arguments(&delta, "text")? }
            }
            "citation" => Step::Citation(self.json(table, "citation")?.unwrap_or_default()),
            "finish" => match self.finish(&value)? {
                Some(Ended { reason, native, stop_sequence }) => Step::Finish { reason, native, stop_sequence },
                None => Step::Ping,
            },
            "usage" => match usage(table)? {
                Some(usage) => Step::Usage(usage),
                None => Step::Ping,
            },
            "ping" => Step::Ping,
            // Inside a stream the provider's status has long said that all is well.
            "fault" => return Ok(Err(Box::new(self.refusal(&value, 200)?))),
            other => {
                return Err(Error::runtime(format!("there is no event `{other}`; there are: {}", EVENTS.join(", "))));
            }
        };
        Ok(Ok(step))
    }

    /// What the provider said when it refused: a table, or its message alone. `status` holds where the table has none.
    pub fn refusal(&mut self, value: &Lv, status: u16) -> Result<Refusal> {
        let empty = Refusal { status, dialect: self.adapter, ..Refusal::default() };
        let table = match value {
            Lv::String(message) => return Ok(Refusal { message: message.to_string_lossy(), ..empty }),
            Lv::Table(table) => table,
            other => return Err(wrong("a refusal", "a table or a text", other)),
        };
        known(table, "a refusal", REFUSAL)?;
        let own = count(table, "status")?.map(|status| u16::try_from(status).ok().filter(|status| *status >= 100));
        let status = match own {
            None => status,
            Some(Some(own)) => own,
            Some(None) => return Err(Error::runtime("a refusal's `status` is no HTTP status")),
        };
        Ok(Refusal {
            status,
            message: self.text(table, "message")?.unwrap_or_default(),
            kind: self.text(table, "kind")?,
            code: self.text(table, "code")?,
            param: self.text(table, "param")?,
            retry_after: ms(table, "retry_after_ms")?,
            ..empty
        })
    }
}

/// What events say, in the order of the contract.
const EVENTS: &[&str] = &[
    "start",
    "choice",
    "text",
    "reasoning",
    "signature",
    "refusal",
    "tool_call",
    "arguments",
    "citation",
    "finish",
    "usage",
    "ping",
    "fault",
];

fn usage(table: &Table) -> Result<Option<Usage>> {
    let Some(usage) = sub(table, "usage")? else { return Ok(None) };
    known(&usage, "usage", &["input", "output", "cache_read", "cache_write", "reasoning"])?;
    Ok(Some(Usage {
        input: count(&usage, "input")?.unwrap_or(0),
        output: count(&usage, "output")?.unwrap_or(0),
        cache_read: count(&usage, "cache_read")?,
        cache_write: count(&usage, "cache_write")?,
        reasoning: count(&usage, "reasoning")?,
        ..Usage::default()
    }))
}

/// A whole number that is not negative.
fn count(table: &Table, name: &str) -> Result<Option<u64>> {
    match number(table, name)? {
        None => Ok(None),
        Some(number) if number >= 0.0 => Ok(Some(number as u64)),
        Some(number) => Err(Error::runtime(format!("{name}: {number} is less than nothing"))),
    }
}

fn flag(table: &Table, name: &str) -> Result<Option<bool>> {
    match table.raw_get::<Lv>(name)? {
        Lv::Nil => Ok(None),
        Lv::Boolean(flag) => Ok(Some(flag)),
        other => Err(wrong(name, "true or false", &other)),
    }
}
