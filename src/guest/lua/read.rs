//! What a script decided, read from what it returned.
//!
//! Raw reads within bounds: a metatable of the script's never runs here. A name that a verdict does not have is an
//! error: a typing mistake must not become "no change".

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use mlua::{Either, Error, LuaString, Result, Table, Value as Lv};
use serde_json::Value;

use super::super::verdict::{Body, Header, Mode, Patch, Reject, Respond, Step, Stop, Turn, Verdict, Who, Wish};
use super::convert::{Left, kind_of, to_json};
use super::entries::{Entries, list, names, wrong};
use super::views::{self, SecretHandle};
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
        other => Err(unfit(phase, kind_of(other))),
    }
}

/// The error of a result that says nothing at a phase.
fn unfit(phase: Phase, what: &str) -> Error {
    Error::runtime(format!("on_{} returned {what}; return {}", phase.name(), results(phase)))
}

/// What a hook may return.
fn results(phase: Phase) -> &'static str {
    match phase {
        Phase::Init | Phase::Tick => "nothing",
        Phase::Auth => "nil, { key = … } or gw.reject(…)",
        Phase::Request => "nil, what is to change, such as { model = … }, gw.say(…), gw.respond(…) or gw.reject(…)",
        Phase::Route => {
            "nil, the name of a target, a list of them, { steps = … }, gw.say(…), gw.respond(…) or gw.reject(…)"
        }
        Phase::Attempt => "nil, or what is to change, such as { headers = … }",
        Phase::Fault => {
            "nil, \"same\", gw.same(…), \"next\", \"stop\", the name of a target, a list of them, { steps = … }, gw.say(…), gw.respond(…) or gw.reject(…)"
        }
        Phase::Answer => {
            "nil, what is to change, such as { text = … }, gw.fault(…), gw.say(…), gw.respond(…) or gw.reject(…)"
        }
        Phase::Event => "nil, a text, gw.drop() or gw.stop{…}",
        Phase::Done => "nil, or fields for the log, such as { name = value }",
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
            let (said, traceback) = text.split_once("\nstack traceback:").unwrap_or((text, ""));
            let said = told(said.strip_prefix("runtime error: ").unwrap_or(said));
            // What the engine's own functions throw knows no line.
            match traceback.lines().find_map(place) {
                Some(place) if !has_place(&said) => format!("{place}: {said}"),
                _ => said.into_owned(),
            }
        }
        Error::BadArgument { pos, cause, .. } => told(&format!("argument {pos}: {}", message(cause))).into_owned(),
        other => told(&other.to_string()).into_owned(),
    };
    text.char_indices().nth(MAX).map_or(&*text, |(end, _)| &text[..end]).trim_end().to_owned()
}

/// What is to be done about errors of the engine's that do not say it, and about those that say nothing.
fn told(text: &str) -> Cow<'_, str> {
    if text.contains("attempt to modify a readonly table") {
        let advice = "globals, gw and its settings are closed after loading; keep what is of one exchange in ctx, what \
                      all share in gw.kv or gw.cache, and what is of this machine alone in a local of the file";
        return format!("{text}: {advice}").into();
    }
    if text.contains("attempt to yield across metamethod/C-call boundary") {
        let advice = "inside of functions that a library calls (string.gsub, table.sort, metamethods) nothing can wait or \
                      yield; do so before or after";
        return format!("{text}: {advice}").into();
    }
    if text.contains("expected userdata of type 'Context'") {
        return "get and set are methods of ctx; write ctx:get(\"name\") and ctx:set(\"name\", value)".into();
    }
    if let Some((before, after)) = text.split_once("error converting Lua ") {
        return misplaced(before, after).unwrap_or_else(|| text.into());
    }
    let method = text.split_once("attempt to call an unknown method '").and_then(|(_, rest)| rest.split('\'').next());
    if let Some(meant) = method.and_then(views::instead_of) {
        return format!("{text}; {meant}").into();
    }
    match text.split_once(": 0x").map_or(text, |(kind, _)| kind) {
        kind @ ("table" | "function" | "userdata" | "thread") if kind != text => {
            format!("error() was given a {kind}; give it a text").into()
        }
        "nil" => "error() was given nothing; give it a text".into(),
        _ => text.into(),
    }
}

/// What the engine says of a value that is of another kind than is wanted, in words.
fn misplaced<'a>(before: &str, after: &str) -> Option<Cow<'a, str>> {
    let (found, wanted) = after.split_once(" to ")?;
    let end = wanted.find(|c: char| !c.is_ascii_alphanumeric() && c != '&').unwrap_or(wanted.len());
    let (wanted, rest) = wanted.split_at(end);
    let wanted = match wanted {
        "&str" | "String" if found == "string" => {
            return Some(format!("{before}a text that is no UTF-8 stands where one should{rest}").into());
        }
        "String" | "&str" | "LuaString" => "a text",
        "f64" | "i64" | "u64" | "u32" | "usize" => "a number",
        "table" | "Table" => "a table",
        "bool" | "boolean" => "true or false",
        _ => return None,
    };
    Some(format!("{before}{found} stands where {wanted} should").into())
}

/// The line at which an error was thrown, as `file:line`, where it knows one.
pub(super) fn place_of(error: &Error) -> Option<String> {
    match error {
        Error::CallbackError { traceback, cause } => {
            place_of(cause).or_else(|| traceback.lines().find_map(place).map(str::to_owned))
        }
        Error::BadArgument { cause, .. } | Error::WithContext { cause, .. } => place_of(cause),
        Error::RuntimeError(text) | Error::MemoryError(text) => text.lines().find_map(place).map(str::to_owned),
        _ => None,
    }
}

/// Whether a message names a line of a script.
pub(super) fn has_place(message: &str) -> bool {
    place(message).is_some()
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
            (Phase::Route | Phase::Fault, name) => {
                self.left_for(name)?;
                planned(vec![named(name.to_owned())])
            }
            (phase, word) => Err(unfit(phase, &format!("the text `{word}`"))),
        }
    }

    fn table(&mut self, phase: Phase, table: &Table) -> Result<Verdict> {
        match phase {
            // A list is a plan too.
            Phase::Route | Phase::Fault if table.raw_len() > 0 => {
                return planned(self.steps(table)?);
            }
            Phase::Done => return self.fields(table),
            _ => {}
        }
        let mut entries = Entries::of(table)?;
        for (name, made, there) in [("drop", "gw.drop()", Phase::Event), ("fault", "gw.fault(…)", Phase::Answer)] {
            if phase != there && entries.has(name) {
                let (here, there) = (phase.name(), there.name());
                let text =
                    format!("on_{here} cannot answer with {made}, which is for on_{there}; return {}", results(phase));
                return Err(Error::runtime(text));
            }
        }
        if let Some(inner) = entries.sub("respond")? {
            let verdict = self.respond(&inner)?;
            if verdict.phases().has(phase) {
                return Ok(verdict);
            }
            let is_said = matches!(&verdict, Verdict::Respond(Respond { body: Body::Say(_), .. }));
            let made = if is_said { "gw.say(…)" } else { "gw.respond(…)" };
            let why = if phase == Phase::Event { ": the answer has begun" } else { "" };
            let (phase, results) = (phase.name(), results(phase));
            return Err(Error::runtime(format!("on_{phase} cannot answer with {made}{why}; return {results}")));
        }
        if let Some(inner) = entries.sub("reject")? {
            return self.reject(&inner).map(Verdict::Reject);
        }
        if let Some(inner) = entries.sub("stop")? {
            if phase == Phase::Fault && !inner.is_empty() {
                let text = "on_fault: a stop says nothing to the caller, who hears of the failure; to say something \
                            else return gw.reject(…)";
                return Err(Error::runtime(text));
            }
            return self.stop(&inner);
        }
        if let Some(inner) = entries.sub("same")? {
            return Ok(Verdict::Same(Entries::of(&inner)?.ms("after_ms")?.unwrap_or_default()));
        }
        if phase == Phase::Answer
            && let Some(inner) = entries.sub("fault")?
        {
            let message = Entries::of(&inner)?.text("message")?.unwrap_or_default();
            self.left_for(&message)?;
            return Ok(Verdict::Fault(message));
        }
        match phase {
            Phase::Auth => self.who(entries).map(Verdict::Principal),
            Phase::Route | Phase::Fault => self.wish(entries).map(Verdict::Plan),
            Phase::Request | Phase::Attempt | Phase::Answer => {
                let patch = self.patch(phase, entries)?;
                Ok(if patch.is_empty() { Verdict::Pass } else { Verdict::Patch(Box::new(patch)) })
            }
            Phase::Event => {
                entries.known("an answer of on_event", &["drop", "text", "stop"])?;
                match (entries.text("text")?, entries.take("drop")) {
                    (_, Lv::Boolean(true)) => Ok(Verdict::Text(String::new())),
                    (Some(text), _) => {
                        self.left_for(&text)?;
                        Ok(Verdict::Text(text))
                    }
                    (None, _) => Ok(Verdict::Pass),
                }
            }
            Phase::Init | Phase::Done | Phase::Tick => Ok(Verdict::Pass),
        }
    }

    /// Fields for the log. What would answer comes too late.
    fn fields(&mut self, table: &Table) -> Result<Verdict> {
        let Value::Object(fields) = self.json(&Lv::Table(table.clone()))? else {
            return Err(Error::runtime("on_done returns names and values for the log"));
        };
        let answer = ["respond", "reject", "stop", "same"].into_iter();
        match answer.filter(|_| fields.len() == 1).find(|word| fields.get(*word).is_some_and(Value::is_object)) {
            Some(word) => {
                let is_said = fields.get(word).is_some_and(|inner| inner.get("say").is_some());
                let made = if is_said { "say" } else { word };
                Err(Error::runtime(format!("on_done cannot answer with gw.{made}(…): the exchange is over")))
            }
            None => Ok(Verdict::Fields(fields)),
        }
    }

    fn json(&mut self, value: &Lv) -> Result<Value> {
        to_json(value, &mut self.left)
    }

    fn respond(&mut self, table: &Table) -> Result<Verdict> {
        let mut entries = Entries::of(table)?;
        entries.known("respond", &["status", "body", "say", "headers"])?;
        let status = entries.number("status")?.unwrap_or(200.0);
        let body = match (entries.text("say")?, entries.take("body")) {
            (Some(say), Lv::Nil) => {
                self.left_for(&say)?;
                Body::Say(say)
            }
            (None, Lv::Nil) => Body::Raw(String::new()),
            (None, body @ Lv::String(_)) => match self.json(&body)? {
                Value::String(text) => Body::Raw(text),
                other => Body::Json(other),
            },
            (None, body) => Body::Json(self.json(&body)?),
            (Some(_), _) => return Err(Error::runtime("respond: give `say` or `body`, not both")),
        };
        let headers = match entries.sub("headers")? {
            Some(headers) => self.texts(&headers, "respond.headers")?,
            None => BTreeMap::new(),
        };
        Respond::new(status, body, headers).map(Verdict::Respond).map_err(Error::runtime)
    }

    fn reject(&mut self, table: &Table) -> Result<Reject> {
        let mut entries = Entries::of(table)?;
        entries.known("reject", &["code", "message", "status", "retry_after_ms"])?;
        let status = entries.number("status")?;
        let code = entries.text("code")?.unwrap_or_else(|| "policy_rejected".to_owned());
        let message = entries.text("message")?.unwrap_or_else(|| "A policy of this gateway refused it.".to_owned());
        self.left_for(&message)?;
        Reject::new(code, message, status, entries.ms("retry_after_ms")?).map_err(Error::runtime)
    }

    /// A name that a table has, which may be as long as any text.
    fn name(&mut self, name: &LuaString) -> Result<String> {
        self.left.take(name.as_bytes().len())?;
        Ok(name.to_str()?.to_owned())
    }

    fn left_for(&mut self, text: &str) -> Result<()> {
        self.left.take(text.len())
    }

    fn stop(&mut self, table: &Table) -> Result<Verdict> {
        let mut entries = Entries::of(table)?;
        entries.known("stop", &["message", "code", "text"])?;
        let stop = Stop { message: entries.text("message")?, code: entries.text("code")?, text: entries.text("text")? };
        for text in [&stop.message, &stop.text].into_iter().flatten() {
            self.left_for(text)?;
        }
        Ok(Verdict::Stop(stop))
    }

    fn who(&mut self, mut entries: Entries) -> Result<Who> {
        entries.known("a caller", &["key", "project", "models", "metadata"])?;
        let key = entries.text("key")?.unwrap_or_default();
        let name = |value: &Lv| match value {
            Lv::String(name) => self.name(name),
            other => Err(wrong("models", "names", other)),
        };
        let models = entries.sub("models")?.map(|models| list(&models, "models", name)).transpose()?;
        let metadata = match entries.sub("metadata")? {
            Some(metadata) => self.texts(&metadata, "metadata")?,
            None => BTreeMap::new(),
        };
        Who::new(key, entries.text("project")?, models, metadata).map_err(Error::runtime)
    }

    fn wish(&mut self, mut entries: Entries) -> Result<Wish> {
        entries.known("a plan", &["steps", "mode", "max_attempts", "deadline_ms"])?;
        let steps = entries.sub("steps")?;
        let steps = steps.ok_or_else(|| Error::runtime("a plan needs `steps`: { \"provider/model\", … }"))?;
        let steps = self.steps(&steps)?;
        let mode = match entries.text("mode")?.as_deref() {
            None | Some("ordered") => Mode::Ordered,
            Some("weighted") => Mode::Weighted,
            Some(other) => return Err(Error::runtime(format!("mode `{other}`: write \"ordered\" or \"weighted\""))),
        };
        Wish::new(steps, mode, entries.number("max_attempts")?, entries.ms("deadline_ms")?).map_err(Error::runtime)
    }

    fn steps(&mut self, table: &Table) -> Result<Vec<Step>> {
        names(table, "steps", |entry| match entry {
            Either::Left(name) => {
                self.left_for(&name)?;
                Ok(named(name))
            }
            // Only one that is no UTF-8 comes here.
            Either::Right(Lv::String(name)) => Ok(named(name.to_str()?.to_owned())),
            Either::Right(Lv::Table(step)) => self.step(&step),
            Either::Right(other) => Err(wrong("steps", "names or tables", &other)),
        })
    }

    fn step(&mut self, table: &Table) -> Result<Step> {
        let mut entries = Entries::of(table)?;
        entries.known("a step", &["target", "weight", "params", "timeout_ms", "first_token_ms"])?;
        let target =
            entries.text("target")?.ok_or_else(|| Error::runtime("a step needs `target`: \"provider/model\""))?;
        self.left_for(&target)?;
        let params = match entries.sub("params")? {
            Some(params) => self.values(&params, "params")?,
            None => BTreeMap::new(),
        };
        Ok(Step {
            target,
            weight: entries.number("weight")?,
            params,
            timeout: entries.ms("timeout_ms")?,
            first_token: entries.ms("first_token_ms")?,
        })
    }

    fn patch(&mut self, phase: Phase, mut entries: Entries) -> Result<Patch> {
        let what = match phase {
            Phase::Request => "a patch of on_request",
            Phase::Attempt => "a patch of on_attempt",
            _ => "a patch of on_answer",
        };
        entries.known(what, Patch::fields(phase))?;
        let mut patch = Patch { model: entries.text("model")?, ..Patch::default() };
        if let Some(params) = entries.sub("params")? {
            patch.params = self.values(&params, "params")?;
        }
        if let Some(headers) = entries.sub("headers")? {
            patch.headers = self.headers(&headers)?;
        }
        patch.system = entries.text("system")?;
        patch.text = entries.text("text")?;
        for text in [&patch.system, &patch.text].into_iter().flatten() {
            self.left_for(text)?;
        }
        if let Some(messages) = entries.sub("messages")? {
            let turns = list(&messages, "messages", |value| self.turn(value))?;
            patch.messages = Some(Turn::all(turns).map_err(Error::runtime)?);
        }
        if let Some(texts) = entries.sub("texts")? {
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
        patch.body = match entries.take("body") {
            Lv::Nil => None,
            body => Some(self.json(&body)?),
        };
        Ok(patch)
    }

    fn turn(&mut self, value: &Lv) -> Result<Turn> {
        match value {
            Lv::Integer(_) | Lv::Number(_) => Turn::keep(value.as_usize()).map_err(Error::runtime),
            Lv::Table(turn) => {
                let mut entries = Entries::of(turn)?;
                if let Some(index) = entries.take("index").as_usize() {
                    return self.given(index, entries.text("role")?, entries.text("text")?);
                }
                if entries.has("content") {
                    return Err(Error::runtime("messages: a turn has no `content`; write { role = …, text = … }"));
                }
                entries.known("a turn", &["role", "text", "kinds"])?;
                match (entries.text("role")?, entries.text("text")?) {
                    (Some(role), Some(text)) => {
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

    /// A turn that `messages()` gave: as it was, whatever blocks it has, or what the script has made of it.
    fn given(&mut self, index: usize, role: Option<String>, text: Option<String>) -> Result<Turn> {
        let keep = Turn::keep(Some(index)).map_err(Error::runtime)?;
        let Some(was) = views::turn(index) else { return Ok(keep) };
        let (role, text) = (role.as_deref().unwrap_or(was.role), text.as_deref().unwrap_or(&was.text));
        if role == was.role && text == was.text {
            return Ok(keep);
        }
        if was.kinds.iter().any(|kind| *kind != "text") {
            return Err(Error::runtime(format!(
                "messages: turn {index} was changed and holds more than text; change it by `texts`, or write \
                 {{ role = …, text = … }} in its place"
            )));
        }
        self.left_for(text)?;
        Turn::say(role.to_owned(), text.to_owned()).map_err(Error::runtime)
    }

    fn values(&mut self, table: &Table, what: &str) -> Result<BTreeMap<String, Option<Value>>> {
        let mut values = BTreeMap::new();
        table.for_each(|name: Lv, value: Lv| {
            let Lv::String(name) = name else { return Err(wrong(what, "names", &name)) };
            let value = Some(self.json(&value)?).filter(|value| !value.is_null());
            values.insert(self.name(&name)?, value);
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
            texts.insert(self.name(name)?, value);
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
        left.take(name.as_bytes().len())?;
        headers.insert(name.to_str()?.to_ascii_lowercase(), value);
        Ok(())
    })?;
    Ok(headers)
}

/// A window of `gw.limit`.
pub(super) fn window(table: &Table) -> Result<limit::Window> {
    let mut entries = Entries::of(table)?;
    entries.known("a window", &["limit", "per_s", "per", "kind"])?;
    let (per, kind) = (entries.text("per")?, entries.text("kind")?);
    let limit = entries.number("limit")?.ok_or_else(|| Error::runtime("a window needs `limit`: how much fits"))?;
    let written = limit::Written { limit, per_s: entries.number("per_s")?, per: per.as_deref(), kind: kind.as_deref() };
    limit::Window::new(written).map_err(|error| Error::runtime(error.0))
}

/// A plan that says nothing but whom to ask.
fn planned(steps: Vec<Step>) -> Result<Verdict> {
    Wish::new(steps, Mode::default(), None, None).map(Verdict::Plan).map_err(Error::runtime)
}

fn named(target: String) -> Step {
    Step { target, ..Step::default() }
}
