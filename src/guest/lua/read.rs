//! What a script decided, read from what it returned.
//!
//! Raw reads within bounds: a metatable of the script's never runs here. A name that a verdict does not have is an
//! error: a typing mistake must not become "no change".

use std::collections::BTreeMap;
use std::time::Duration;

use mlua::{Error, LuaString, Result, Table, Value as Lv};
use serde_json::Value;

use super::super::verdict::{Body, Header, Mode, Patch, Reject, Respond, Step, Stop, Turn, Verdict, Who, Wish, span};
use super::convert::{Left, to_json};
use super::views::SecretHandle;
use crate::host::{Phase, limit};

/// The verdict in a value that `on_<phase>` returned.
pub(super) fn verdict(phase: Phase, bytes: usize, value: &Lv) -> Result<Verdict> {
    let mut reader = Reader { left: Left::new(bytes) };
    match value {
        Lv::Nil => Ok(Verdict::Pass),
        // What loading and timers return says nothing.
        _ if matches!(phase, Phase::Init | Phase::Tick) => Ok(Verdict::Pass),
        Lv::String(text) => reader.word(phase, text),
        Lv::Table(table) => reader.table(phase, table),
        Lv::Boolean(true) if phase == Phase::Request => Ok(Verdict::Pass),
        other => {
            Err(Error::runtime(format!("on_{} returned a {}; return nil or a table", phase.name(), other.type_name())))
        }
    }
}

/// Whether it was memory that ran out, however deep inside.
pub(super) fn is_memory(error: &Error) -> bool {
    match error {
        Error::MemoryError(_) => true,
        Error::CallbackError { cause, .. } | Error::BadArgument { cause, .. } | Error::WithContext { cause, .. } => {
            is_memory(cause)
        }
        // A script's own error value may carry the engine's words when it was caught and thrown again.
        Error::RuntimeError(text) => text.contains("not enough memory"),
        _ => false,
    }
}

/// An error's own words: the first line that a person wants to see, with file and line.
pub(super) fn message(error: &Error) -> String {
    const MAX: usize = 500;
    let text = match error {
        Error::CallbackError { traceback, cause } => {
            let place = traceback.lines().find_map(place);
            let cause = message(cause);
            match place {
                Some(place) if !cause.contains(place) => format!("{place}: {cause}"),
                _ => cause,
            }
        }
        Error::RuntimeError(text) | Error::MemoryError(text) | Error::SyntaxError { message: text, .. } => {
            text.split("\nstack traceback:").next().unwrap_or(text).to_owned()
        }
        Error::BadArgument { pos, cause, .. } => format!("argument {pos}: {}", message(cause)),
        other => other.to_string(),
    };
    let text = text.strip_prefix("runtime error: ").unwrap_or(&text);
    text.char_indices().nth(MAX).map_or(text, |(end, _)| &text[..end]).trim_end().to_owned()
}

/// `file:line` at the head of a line of a traceback, where it is a script's.
fn place(line: &str) -> Option<&str> {
    let line = line.trim();
    let at = line.find(".luau:")? + ".luau:".len();
    let digits = line[at..].bytes().take_while(u8::is_ascii_digit).count();
    (digits > 0).then(|| &line[..at + digits])
}

struct Reader {
    left: Left,
}

impl Reader {
    fn word(&mut self, phase: Phase, text: &LuaString) -> Result<Verdict> {
        let text = text.to_str()?;
        match (phase, &*text) {
            (Phase::Event, _) => {
                self.left_for(&text)?;
                Ok(Verdict::Text(text.to_owned()))
            }
            (Phase::Fault, "same") => Ok(Verdict::Same(Duration::ZERO)),
            (Phase::Fault, "next") => Ok(Verdict::Next),
            (Phase::Fault, "stop") => Ok(Verdict::Stop(Stop::default())),
            (Phase::Route, name) => Ok(Verdict::Plan(Wish { steps: vec![named(name)], ..Wish::default() })),
            (Phase::Fault, word) => Err(Error::runtime(format!(
                "on_fault returned `{word}`; it knows \"same\", \"next\" and \"stop\", or a table"
            ))),
            (phase, word) => {
                Err(Error::runtime(format!("on_{} returned the text `{word}`; return a table", phase.name())))
            }
        }
    }

    fn table(&mut self, phase: Phase, table: &Table) -> Result<Verdict> {
        if let Some(inner) = sub(table, "respond")? {
            return self.respond(&inner);
        }
        if let Some(inner) = sub(table, "reject")? {
            return self.reject(&inner).map(Verdict::Reject);
        }
        if let Some(inner) = sub(table, "stop")? {
            return self.stop(&inner);
        }
        if let Some(inner) = sub(table, "same")? {
            return Ok(Verdict::Same(ms(&inner, "after_ms")?.unwrap_or_default()));
        }
        if phase == Phase::Answer
            && let Some(inner) = sub(table, "fault")?
        {
            return Ok(Verdict::Fault(text(&inner, "message")?.unwrap_or_default()));
        }
        match phase {
            Phase::Auth => self.who(table).map(Verdict::Principal),
            Phase::Route | Phase::Fault => self.wish(table).map(Verdict::Plan),
            Phase::Request | Phase::Attempt | Phase::Answer => {
                let patch = self.patch(phase, table)?;
                Ok(if patch.is_empty() { Verdict::Pass } else { Verdict::Patch(Box::new(patch)) })
            }
            Phase::Done => match self.json(&Lv::Table(table.clone()))? {
                Value::Object(fields) => Ok(Verdict::Fields(fields)),
                _ => Err(Error::runtime("on_done returns names and values for the log")),
            },
            Phase::Event => {
                known(table, "an answer of on_event", &["drop", "text"])?;
                match (text(table, "text")?, table.raw_get::<Lv>("drop")?) {
                    (_, Lv::Boolean(true)) => Ok(Verdict::Text(String::new())),
                    (Some(text), _) => Ok(Verdict::Text(text)),
                    (None, _) => Ok(Verdict::Pass),
                }
            }
            Phase::Init | Phase::Tick => Ok(Verdict::Pass),
        }
    }

    fn json(&mut self, value: &Lv) -> Result<Value> {
        to_json(value, &mut self.left)
    }

    fn respond(&mut self, table: &Table) -> Result<Verdict> {
        known(table, "respond", &["status", "body", "say", "headers"])?;
        let status = number(table, "status")?.unwrap_or(200.0);
        let body = match (text(table, "say")?, table.raw_get::<Lv>("body")?) {
            (Some(say), Lv::Nil) => Body::Say(say),
            (None, Lv::Nil) => Body::Raw(String::new()),
            (None, body @ Lv::String(_)) => match self.json(&body)? {
                Value::String(text) => Body::Raw(text),
                other => Body::Json(other),
            },
            (None, body) => Body::Json(self.json(&body)?),
            (Some(_), _) => return Err(Error::runtime("respond: give `say` or `body`, not both")),
        };
        let headers = match sub(table, "headers")? {
            Some(headers) => self.texts(&headers, "respond.headers")?,
            None => BTreeMap::new(),
        };
        Respond::new(status, body, headers).map(Verdict::Respond).map_err(Error::runtime)
    }

    fn reject(&mut self, table: &Table) -> Result<Reject> {
        known(table, "reject", &["code", "message", "status", "retry_after_ms"])?;
        let status = number(table, "status")?;
        let code = text(table, "code")?.unwrap_or_else(|| "policy_rejected".to_owned());
        let message = text(table, "message")?.unwrap_or_else(|| "A policy of this gateway refused it.".to_owned());
        self.left_for(&message)?;
        Reject::new(code, message, status, ms(table, "retry_after_ms")?).map_err(Error::runtime)
    }

    fn left_for(&mut self, text: &str) -> Result<()> {
        self.left.take(text.len())
    }

    fn stop(&mut self, table: &Table) -> Result<Verdict> {
        known(table, "stop", &["message", "code", "text"])?;
        let stop = Stop { message: text(table, "message")?, code: text(table, "code")?, text: text(table, "text")? };
        for text in [&stop.message, &stop.text].into_iter().flatten() {
            self.left_for(text)?;
        }
        Ok(Verdict::Stop(stop))
    }

    fn who(&mut self, table: &Table) -> Result<Who> {
        known(table, "a caller", &["key", "project", "models", "metadata"])?;
        let key = text(table, "key")?.unwrap_or_default();
        let models = match sub(table, "models")? {
            Some(models) => list(&models, "models", |value| match value {
                Lv::String(name) => Ok(name.to_str()?.to_owned()),
                other => Err(wrong("models", "names", other)),
            })?,
            None => Vec::new(),
        };
        let metadata = match sub(table, "metadata")? {
            Some(metadata) => self.texts(&metadata, "metadata")?,
            None => BTreeMap::new(),
        };
        Who::new(key, text(table, "project")?, models, metadata).map_err(Error::runtime)
    }

    fn wish(&mut self, table: &Table) -> Result<Wish> {
        // A bare list of names is a plan too.
        let steps = if table.raw_len() > 0 { Some(table.clone()) } else { sub(table, "steps")? };
        if table.raw_len() == 0 {
            known(table, "a plan", &["steps", "mode", "max_attempts", "deadline_ms"])?;
        }
        let steps = steps.ok_or_else(|| Error::runtime("a plan needs `steps`: { \"provider/model\", … }"))?;
        let steps = list(&steps, "steps", |value| match value {
            Lv::String(name) => Ok(named(&name.to_str()?)),
            Lv::Table(step) => self.step(step),
            other => Err(wrong("steps", "names or tables", other)),
        })?;
        let mode = match text(table, "mode")?.as_deref() {
            None | Some("ordered") => Mode::Ordered,
            Some("weighted") => Mode::Weighted,
            Some(other) => return Err(Error::runtime(format!("mode `{other}`: write \"ordered\" or \"weighted\""))),
        };
        Wish::new(steps, mode, number(table, "max_attempts")?, ms(table, "deadline_ms")?).map_err(Error::runtime)
    }

    fn step(&mut self, table: &Table) -> Result<Step> {
        known(table, "a step", &["target", "weight", "params", "timeout_ms", "first_token_ms"])?;
        let target =
            text(table, "target")?.ok_or_else(|| Error::runtime("a step needs `target`: \"provider/model\""))?;
        let params = match sub(table, "params")? {
            Some(params) => self.values(&params, "params")?,
            None => BTreeMap::new(),
        };
        Ok(Step {
            target,
            weight: number(table, "weight")?,
            params,
            timeout: ms(table, "timeout_ms")?,
            first_token: ms(table, "first_token_ms")?,
        })
    }

    fn patch(&mut self, phase: Phase, table: &Table) -> Result<Patch> {
        let what = match phase {
            Phase::Request => "a patch of on_request",
            Phase::Attempt => "a patch of on_attempt",
            _ => "a patch of on_answer",
        };
        known(table, what, Patch::fields(phase))?;
        let mut patch = Patch { model: text(table, "model")?, ..Patch::default() };
        if let Some(params) = sub(table, "params")? {
            patch.params = self.values(&params, "params")?;
        }
        if let Some(headers) = sub(table, "headers")? {
            patch.headers = self.headers(&headers)?;
        }
        patch.system = text(table, "system")?;
        patch.text = text(table, "text")?;
        for text in [&patch.system, &patch.text].into_iter().flatten() {
            self.left_for(text)?;
        }
        if let Some(messages) = sub(table, "messages")? {
            patch.messages = Some(list(&messages, "messages", |value| self.turn(value))?);
        }
        if let Some(texts) = sub(table, "texts")? {
            texts.for_each(|index: Lv, value: Lv| {
                let (Some(index), Lv::String(value)) = (index.as_usize(), &value) else {
                    return Err(Error::runtime("texts: write [number] = \"new text\""));
                };
                let value = value.to_str()?.to_owned();
                self.left_for(&value)?;
                patch.texts.insert(index, value);
                Ok(())
            })?;
        }
        patch.body = match table.raw_get::<Lv>("body")? {
            Lv::Nil => None,
            body => Some(self.json(&body)?),
        };
        Ok(patch)
    }

    fn turn(&mut self, value: &Lv) -> Result<Turn> {
        match value {
            Lv::Integer(_) | Lv::Number(_) => Turn::keep(value.as_usize()).map_err(Error::runtime),
            Lv::Table(turn) => {
                let content = match text(turn, "text")? {
                    Some(text) => Some(text),
                    None => text(turn, "content")?,
                };
                // What `messages()` gave may come back as it was, whatever blocks it has.
                let index = turn.raw_get::<Lv>("index")?.as_usize();
                match (index, text(turn, "role")?, content) {
                    (Some(index), _, _) => Ok(Turn::Keep(index)),
                    (None, Some(role), Some(text)) => {
                        self.left_for(&text)?;
                        Turn::say(role, text).map_err(Error::runtime)
                    }
                    _ => Err(Error::runtime(
                        "messages: write { role = \"user\" | \"assistant\" | \"system\", text = … }, or a turn's number to keep it",
                    )),
                }
            }
            other => Err(wrong("messages", "turns or numbers", other)),
        }
    }

    fn values(&mut self, table: &Table, what: &str) -> Result<BTreeMap<String, Option<Value>>> {
        let mut values = BTreeMap::new();
        table.for_each(|name: Lv, value: Lv| {
            let Lv::String(name) = name else { return Err(wrong(what, "names", &name)) };
            let value = Some(self.json(&value)?).filter(|value| !value.is_null());
            values.insert(name.to_str()?.to_owned(), value);
            Ok(())
        })?;
        Ok(values)
    }

    fn texts(&mut self, table: &Table, what: &str) -> Result<BTreeMap<String, String>> {
        let mut texts = BTreeMap::new();
        table.for_each(|name: Lv, value: Lv| {
            let (Lv::String(name), Lv::String(value)) = (&name, &value) else {
                return Err(wrong(what, "names and texts", &value));
            };
            let value = value.to_str()?.to_owned();
            self.left_for(&value)?;
            texts.insert(name.to_str()?.to_owned(), value);
            Ok(())
        })?;
        Ok(texts)
    }

    fn headers(&mut self, table: &Table) -> Result<BTreeMap<String, Option<Header>>> {
        headers(table, &mut self.left)
    }
}

/// Headers of a table: texts, secrets, and `gw.null` for what is to go.
pub(super) fn headers(table: &Table, left: &mut Left) -> Result<BTreeMap<String, Option<Header>>> {
    let mut headers = BTreeMap::new();
    table.for_each(|name: Lv, value: Lv| {
        let Lv::String(name) = &name else { return Err(wrong("headers", "names", &name)) };
        let value = match &value {
            Lv::UserData(data) => Some(Header::Secret(data.borrow::<SecretHandle>()?.0.name().to_owned())),
            Lv::LightUserData(data) if data.0.is_null() => None,
            other => match to_json(other, left)? {
                Value::String(text) => Some(Header::Text(text)),
                number @ Value::Number(_) => Some(Header::Text(number.to_string())),
                _ => return Err(wrong("headers", "texts", other)),
            },
        };
        headers.insert(name.to_str()?.to_ascii_lowercase(), value);
        Ok(())
    })?;
    Ok(headers)
}

/// A window of `gw.limit`.
pub(super) fn window(table: &Table) -> Result<limit::Window> {
    known(table, "a window", &["limit", "per_s", "per", "kind"])?;
    let (per, kind) = (text(table, "per")?, text(table, "kind")?);
    let limit = number(table, "limit")?.ok_or_else(|| Error::runtime("a window needs `limit`: how much fits"))?;
    let written = limit::Written { limit, per_s: number(table, "per_s")?, per: per.as_deref(), kind: kind.as_deref() };
    limit::Window::new(written).map_err(|error| Error::runtime(error.0))
}

/// Every name in the table must be one of these.
fn known(table: &Table, what: &str, names: &[&str]) -> Result<()> {
    table.for_each(|key: Lv, _: Lv| {
        let Lv::String(key) = &key else {
            return Err(Error::runtime(format!("{what} has names only: {}", names.join(", "))));
        };
        let key = key.to_string_lossy();
        if names.contains(&key.as_str()) {
            return Ok(());
        }
        let near = names.iter().map(|name| (strsim::jaro_winkler(name, &key), name)).max_by(|a, b| a.0.total_cmp(&b.0));
        Err(Error::runtime(match near.filter(|(likeness, _)| *likeness > 0.8) {
            Some((_, name)) => format!("{what} has no `{key}`; did you mean `{name}`?"),
            None => format!("{what} has no `{key}`; it has: {}", names.join(", ")),
        }))
    })
}

fn named(name: &str) -> Step {
    Step { target: name.to_owned(), ..Step::default() }
}

fn sub(table: &Table, name: &str) -> Result<Option<Table>> {
    match table.raw_get::<Lv>(name)? {
        Lv::Nil => Ok(None),
        Lv::Table(inner) => Ok(Some(inner)),
        other => Err(wrong(name, "a table", &other)),
    }
}

fn text(table: &Table, name: &str) -> Result<Option<String>> {
    match table.raw_get::<Lv>(name)? {
        Lv::Nil => Ok(None),
        Lv::String(text) => Ok(Some(text.to_str()?.to_owned())),
        other => Err(wrong(name, "a text", &other)),
    }
}

fn number(table: &Table, name: &str) -> Result<Option<f64>> {
    match table.raw_get::<Lv>(name)? {
        Lv::Nil => Ok(None),
        value => match value.as_f64().or_else(|| value.as_integer().map(|whole| whole as f64)) {
            Some(number) if number.is_finite() => Ok(Some(number)),
            _ => Err(wrong(name, "a number", &value)),
        },
    }
}

fn ms(table: &Table, name: &str) -> Result<Option<Duration>> {
    number(table, name)?.map(|ms| span(name, ms)).transpose().map_err(Error::runtime)
}

/// Most entries of a list in a verdict.
const MAX_ENTRIES: usize = 10_000;

fn list<T>(table: &Table, what: &str, mut each: impl FnMut(&Lv) -> Result<T>) -> Result<Vec<T>> {
    let length = table.raw_len();
    if length > MAX_ENTRIES {
        return Err(Error::runtime(format!("{what} has more than {MAX_ENTRIES} entries")));
    }
    (1..=length).map(|at| each(&table.raw_get::<Lv>(at)?)).collect()
}

fn wrong(what: &str, wanted: &str, found: &Lv) -> Error {
    Error::runtime(format!("{what}: a {} stands where {wanted} should", found.type_name()))
}
