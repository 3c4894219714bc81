//! Requests, answers, events and refusals, read from the tables that adapters return.
//!
//! Raw reads within bounds, as for verdicts. A name that a table does not have is an error: a typing mistake must not
//! become "nothing said".

use std::time::Duration;

use bytes::Bytes;
use mlua::{Error, Result, Table, Value as Lv};
use serde_json::Value;

use super::super::convert::{Left, to_json};
use super::super::entries::{Entries, list, wrong};
use crate::chat::{Answer, Block, CacheMark, Choice, Content, Finish, Media, Reasoning, ToolCall, ToolResult, Usage};
use crate::dialect::adapter::Step;
use crate::dialect::refusal::told;
use crate::embed::EmbedAnswer;
use crate::fault::Refusal;
use crate::guest::adapter::{Draft, Said};
use crate::rerank::{Ranked, RerankAnswer};

/// What `decode` made of an answer.
pub enum Outcome {
    Chat(Answer),
    Embed(EmbedAnswer),
    Rerank(RerankAnswer),
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

    fn text(&mut self, from: &mut Entries, name: &str) -> Result<Option<String>> {
        let text = from.text(name)?;
        self.left.take(text.as_ref().map_or(0, String::len))?;
        Ok(text)
    }

    fn needs(&mut self, from: &mut Entries, what: &str, name: &str) -> Result<String> {
        self.text(from, name)?.ok_or_else(|| Error::runtime(format!("{what} needs `{name}`")))
    }

    fn json(&mut self, value: &Lv) -> Result<Option<Value>> {
        Ok(Some(to_json(value, &mut self.left)?).filter(|value| !value.is_null()))
    }

    /// What `encode` returned.
    pub fn request(&mut self, value: &Lv) -> Result<Draft> {
        let Lv::Table(table) = value else { return Err(wrong("a request", "a table", value)) };
        let mut from = Entries::of(table)?;
        from.known("a request", &["method", "path", "headers", "body", "streamed", "dropped"])?;
        let body = match from.take("body") {
            Lv::Nil => Bytes::new(),
            Lv::String(body) => {
                self.left.take(body.as_bytes().len())?;
                Bytes::copy_from_slice(&body.as_bytes())
            }
            body => serde_json::to_vec(&to_json(&body, &mut self.left)?).map_err(Error::external)?.into(),
        };
        let usual = if body.is_empty() { "GET" } else { "POST" };
        Ok(Draft {
            method: self.text(&mut from, "method")?.unwrap_or_else(|| usual.to_owned()),
            path: self.needs(&mut from, "a request", "path")?,
            headers: self.pairs(&mut from, "headers")?,
            body,
            streamed: flag(&mut from, "streamed")?.unwrap_or(false),
            dropped: self.pairs(&mut from, "dropped")?,
        })
    }

    /// Names and texts, in the order of the names.
    fn pairs(&mut self, from: &mut Entries, what: &str) -> Result<Vec<(String, String)>> {
        let mut pairs = Vec::new();
        let Some(inner) = from.sub(what)? else { return Ok(pairs) };
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

    /// What `decode` returned: an answer, vectors, a ranking, or another request.
    pub fn outcome(&mut self, value: &Lv) -> Result<Outcome> {
        let Lv::Table(table) = value else { return Err(wrong("an answer", "a table", value)) };
        let mut from = Entries::of(table)?;
        if let Some(next) = from.sub("follow_up")? {
            let mut next = Entries::of(&next)?;
            next.known("follow_up", &["request", "wait_ms"])?;
            let wait = next.ms("wait_ms")?.unwrap_or_default();
            return Ok(Outcome::FollowUp(self.request(&next.take("request"))?, wait));
        }
        if let Some(ranked) = from.sub("ranked")? {
            return self.ranking(from, &ranked).map(Outcome::Rerank);
        }
        match from.sub("vectors")? {
            Some(vectors) => self.vectors(from, &vectors).map(Outcome::Embed),
            None => self.answer(from).map(Outcome::Chat),
        }
    }

    fn answer(&mut self, mut from: Entries) -> Result<Answer> {
        from.known("an answer", ANSWER)?;
        // The only choice may stand in the answer itself.
        let choices = match from.sub("choices")? {
            Some(choices) => list(&choices, "choices", |choice| match choice {
                Lv::Table(choice) => {
                    let mut choice = Entries::of(choice)?;
                    choice.known("a choice", CHOICE)?;
                    self.choice(&mut choice)
                }
                other => Err(wrong("choices", "tables", other)),
            })?,
            None => vec![self.choice(&mut from)?],
        };
        let numbered = (0..).zip(choices).map(|(index, choice)| Choice { index, ..choice });
        Ok(Answer {
            id: self.text(&mut from, "id")?.unwrap_or_default(),
            model: self.text(&mut from, "model")?.unwrap_or_default(),
            choices: numbered.collect(),
            usage: usage(&from.take("usage"))?,
            source: self.adapter,
            ..Answer::default()
        })
    }

    fn choice(&mut self, from: &mut Entries) -> Result<Choice> {
        let mut blocks = Vec::new();
        blocks.extend(self.text(from, "text")?.filter(|text| !text.is_empty()).map(Block::text));
        if let Some(more) = from.sub("blocks")? {
            blocks.extend(list(&more, "blocks", |block| self.block(block))?);
        }
        let logprobs = self.json(&from.take("logprobs"))?;
        if logprobs.as_ref().is_some_and(|logprobs| !logprobs.is_object()) {
            return Err(Error::runtime("a choice's `logprobs` are a table with names"));
        }
        let (finish, native_finish, stop_sequence) = match self.finish(&from.take("finish"))? {
            Some(Ended { reason, native, stop_sequence }) => (Some(reason), native, stop_sequence),
            None => (None, None, None),
        };
        Ok(Choice { blocks, finish, native_finish, stop_sequence, logprobs, ..Choice::default() })
    }

    fn vectors(&mut self, mut from: Entries, vectors: &Table) -> Result<EmbedAnswer> {
        from.known("an answer with vectors", &["model", "vectors", "usage"])?;
        let vectors = list(vectors, "vectors", |vector| {
            let Lv::Table(vector) = vector else { return Err(wrong("vectors", "lists of numbers", vector)) };
            self.left.take(4 * vector.raw_len())?;
            list(vector, "vectors", |part| {
                let part = part.as_f64().or_else(|| part.as_integer().map(|whole| whole as f64));
                let part = part.filter(|part| part.is_finite()).map(|part| part as f32);
                part.ok_or_else(|| Error::runtime("vectors: what is no number stands in one"))
            })
        })?;
        let model = self.text(&mut from, "model")?.unwrap_or_default();
        let usage = usage(&from.take("usage"))?;
        Ok(EmbedAnswer { model, vectors, usage, source: self.adapter, ..EmbedAnswer::default() })
    }

    fn ranking(&mut self, mut from: Entries, ranked: &Table) -> Result<RerankAnswer> {
        from.known("an answer with a ranking", &["model", "ranked", "usage"])?;
        let ranked = list(ranked, "ranked", |place| {
            let Lv::Table(place) = place else { return Err(wrong("ranked", "tables", place)) };
            self.left.take(size_of::<Ranked>())?;
            let place = &mut Entries::of(place)?;
            place.known("a place in a ranking", &["index", "score"])?;
            let index = count(place, "index")?.ok_or_else(|| Error::runtime("a place in a ranking needs `index`"))?;
            Ok(Ranked { index, score: place.number("score")?.unwrap_or(0.0) })
        })?;
        let model = self.text(&mut from, "model")?.unwrap_or_default();
        Ok(RerankAnswer { model, ranked, usage: usage(&from.take("usage"))? })
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
                let mut from = Entries::of(table)?;
                from.known("a finish", &["reason", "native", "stop_sequence"])?;
                Some(Ended {
                    reason: named(&self.needs(&mut from, "a finish", "reason")?)?,
                    native: self.text(&mut from, "native")?,
                    stop_sequence: self.text(&mut from, "stop_sequence")?,
                })
            }
            other => return Err(wrong("finish", "a word or a table", other)),
        })
    }

    fn block(&mut self, value: &Lv) -> Result<Block> {
        let Lv::Table(table) = value else { return Err(wrong("blocks", "tables", value)) };
        let from = &mut Entries::of(table)?;
        let kind = self.needs(from, "a block", "kind")?;
        let names: &[&str] = match kind.as_str() {
            "text" => &["text", "citations", "cache"],
            "image" => &["source", "detail"],
            "audio" => &["data", "format", "transcript"],
            "file" => &["source", "name"],
            "tool_call" => &["id", "name", "arguments", "custom", "signature"],
            "tool_result" => &["id", "name", "content", "is_error"],
            "reasoning" => &["text", "signature", "encrypted"],
            "refusal" => &["text"],
            "other" => &["value"],
            other => return Err(Error::runtime(format!("there is no block of kind `{other}`"))),
        };
        let what = format!("a block of kind `{kind}`");
        from.known(&what, names)?;
        let content = match kind.as_str() {
            "text" => {
                let citations = match self.json(&from.take("citations"))? {
                    Some(Value::Array(citations)) => citations,
                    _ => Vec::new(),
                };
                let text = self.needs(from, &what, "text")?;
                let cache = self.text(from, "cache")?;
                let cache = cache.map(|ttl| CacheMark { ttl: Some(ttl).filter(|ttl| !ttl.is_empty()) });
                return Ok(Block { cache, ..Block::new(Content::Text { text, citations }) });
            }
            "image" => Content::Image { source: self.media(from)?, detail: self.text(from, "detail")? },
            "audio" => Content::Audio {
                data: self.needs(from, &what, "data")?,
                format: self.needs(from, &what, "format")?,
                transcript: self.text(from, "transcript")?,
                id: None,
            },
            "file" => Content::File { source: self.media(from)?, name: self.text(from, "name")? },
            "tool_call" => Content::ToolCall(ToolCall {
                id: self.needs(from, &what, "id")?,
                name: self.needs(from, &what, "name")?,
                arguments: self.arguments(&from.take("arguments"))?,
                custom: flag(from, "custom")?.unwrap_or(false),
                signature: self.text(from, "signature")?,
                ..ToolCall::default()
            }),
            "tool_result" => self.tool_result(from, &what)?,
            "reasoning" => Content::Reasoning(Reasoning {
                text: self.text(from, "text")?.unwrap_or_default(),
                signature: self.text(from, "signature")?,
                encrypted: self.text(from, "encrypted")?,
                origin: self.adapter.to_owned(),
                ..Reasoning::default()
            }),
            "refusal" => Content::Refusal(self.needs(from, &what, "text")?),
            _ => Content::Other(self.json(&from.take("value"))?.unwrap_or_default()),
        };
        Ok(Block::new(content))
    }

    fn tool_result(&mut self, from: &mut Entries, what: &str) -> Result<Content> {
        let content = match from.sub("content")? {
            Some(parts) => list(&parts, "content", |part| self.block(part))?,
            None => Vec::new(),
        };
        let (id, name) = (self.needs(from, what, "id")?, self.text(from, "name")?);
        Ok(Content::ToolResult(ToolResult { id, name, content, is_error: flag(from, "is_error")?, custom: false }))
    }

    /// Arguments as JSON text: as it stands, or of the table that it would be.
    fn arguments(&mut self, value: &Lv) -> Result<String> {
        Ok(match self.json(value)? {
            None => String::new(),
            Some(Value::String(text)) => text,
            Some(value) => value.to_string(),
        })
    }

    fn media(&mut self, from: &mut Entries) -> Result<Media> {
        let source = from.sub("source")?.ok_or_else(|| Error::runtime("an image or a file needs `source`"))?;
        let mut source = Entries::of(&source)?;
        source.known("a source", &["url", "mime", "data", "id", "text"])?;
        if let Some(url) = self.text(&mut source, "url")? {
            return Ok(Media::Url { url, mime: self.text(&mut source, "mime")? });
        }
        if let Some(data) = self.text(&mut source, "data")? {
            return Ok(Media::Inline { mime: self.needs(&mut source, "a source with `data`", "mime")?, data });
        }
        if let Some(id) = self.text(&mut source, "id")? {
            return Ok(Media::Id(id));
        }
        let text = self.text(&mut source, "text")?;
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
            Lv::Table(inner) => {
                let from = Entries::of(inner)?;
                from.known(&name, names).map(|()| from)
            }
            other => Err(wrong(&name, "a table", other)),
        };
        let step = match name.as_str() {
            "start" => {
                let mut start = inner(&["id", "model"])?;
                let id = self.text(&mut start, "id")?.unwrap_or_default();
                Step::Start { id, model: self.text(&mut start, "model")?.unwrap_or_default() }
            }
            "choice" => {
                let index = value.as_u32().ok_or_else(|| wrong("choice", "a number from 0", &value))?;
                Step::Choice(index)
            }
            "text" => Step::Text(self.words(&name, &value)?),
            "reasoning" => Step::Reasoning(self.words(&name, &value)?),
            "signature" => Step::Signature(self.words(&name, &value)?),
            "refusal" => Step::Refusal(self.words(&name, &value)?),
            "tool_call" => {
                let mut call = inner(&["key", "id", "name"])?;
                let (key, id) = (count(&mut call, "key")?.unwrap_or(0), self.needs(&mut call, "tool_call", "id")?);
                Step::Call { key, id, name: self.needs(&mut call, "tool_call", "name")? }
            }
            "arguments" => {
                let mut delta = inner(&["key", "text"])?;
                let key = count(&mut delta, "key")?.unwrap_or(0);
                Step::Arguments { key, text: self.arguments(&delta.take("text"))? }
            }
            "citation" => Step::Citation(self.json(&value)?.unwrap_or_default()),
            "finish" => match self.finish(&value)? {
                Some(Ended { reason, native, stop_sequence }) => Step::Finish { reason, native, stop_sequence },
                None => Step::Ping,
            },
            "usage" => usage(&value)?.map_or(Step::Ping, Step::Usage),
            "ping" => Step::Ping,
            // Inside a stream the provider's status has long said that all is well.
            "fault" => return Ok(Err(Box::new(self.refusal(&value, 200)?))),
            other => {
                return Err(Error::runtime(format!("there is no event `{other}`; there are: {}", EVENTS.join(", "))));
            }
        };
        Ok(Ok(step))
    }

    fn words(&mut self, what: &str, value: &Lv) -> Result<String> {
        let Lv::String(text) = value else { return Err(wrong(what, "a text", value)) };
        self.left.take(text.as_bytes().len())?;
        Ok(text.to_str()?.to_owned())
    }

    /// What the provider said when it refused: a table, or its message alone. `status` holds where the table has none.
    pub fn refusal(&mut self, value: &Lv, status: u16) -> Result<Refusal> {
        let empty = Refusal { status, dialect: self.adapter, ..Refusal::default() };
        let table = match value {
            Lv::String(message) => return Ok(Refusal { message: message.to_string_lossy(), ..empty }),
            Lv::Table(table) => table,
            other => return Err(wrong("a refusal", "a table or a text", other)),
        };
        let from = &mut Entries::of(table)?;
        from.known("a refusal", REFUSAL)?;
        let own = count(from, "status")?.map(|status| u16::try_from(status).ok().filter(|status| *status >= 100));
        let status = match own {
            None => status,
            Some(Some(own)) => own,
            Some(None) => return Err(Error::runtime("a refusal's `status` is no HTTP status")),
        };
        Ok(told(Refusal {
            status,
            message: self.text(from, "message")?.unwrap_or_default(),
            kind: self.text(from, "kind")?,
            code: self.text(from, "code")?,
            param: self.text(from, "param")?,
            retry_after: from.ms("retry_after_ms")?,
            ..empty
        }))
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

fn usage(value: &Lv) -> Result<Option<Usage>> {
    let table = match value {
        Lv::Nil => return Ok(None),
        Lv::Table(table) => table,
        other => return Err(wrong("usage", "a table", other)),
    };
    let from = &mut Entries::of(table)?;
    from.known("usage", &["input", "output", "cache_read", "cache_write", "reasoning"])?;
    let usage = Usage {
        input: count(from, "input")?.unwrap_or(0),
        output: count(from, "output")?.unwrap_or(0),
        cache_read: count(from, "cache_read")?,
        cache_write: count(from, "cache_write")?,
        reasoning: count(from, "reasoning")?,
        ..Usage::default()
    };
    Ok(Some(usage.within()))
}

/// A whole number that is not negative.
fn count(from: &mut Entries, name: &str) -> Result<Option<u64>> {
    match from.number(name)? {
        None => Ok(None),
        Some(number) if number >= 0.0 && number.fract() == 0.0 => Ok(Some(number as u64)),
        Some(number) => Err(Error::runtime(format!("{name}: {number} is no whole number from 0"))),
    }
}

fn flag(from: &mut Entries, name: &str) -> Result<Option<bool>> {
    match from.take(name) {
        Lv::Nil => Ok(None),
        Lv::Boolean(flag) => Ok(Some(flag)),
        other => Err(wrong(name, "true or false", &other)),
    }
}
