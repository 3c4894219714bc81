//! Fixtures of a policy in a plugin: files with exchanges, and what must come of each: verdicts, what was sent, the answer.
//!
//! The words are those of test files in Luau, and so is the stage: the policy meets what it meets in service.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::stage::Stage;
use super::watch::Watch;
use super::{Case, Subject, words};
use crate::guest::verdict::Verdict;
use crate::host::{Phase, log};

/// What may stand in a fixture beside its exchanges.
const SCENE: &[&str] = &["config", "grants", "hook", "key", "models", "settings", "targets", "upstreams", "now"];

/// What may stand in an exchange, and in a fixture that has but one.
const EXCHANGE: &[&str] = &["chat", "send", "advance_ms", "expected"];

/// What may stand in a fixture whose settings are to be refused.
const REFUSED: &str = "refused";

/// What stands before the words in which a policy refuses its settings.
const REFUSES: &str = "refuses its settings: ";

/// What is written of an exchange that has no expectation yet.
const TOLD: &[&str] = &["status", "code", "text", "finish", "tries", "verdicts"];

/// The sizes of pieces in which a stream is played again.
const SPLITS: std::ops::RangeInclusive<u64> = 1..=24;

/// Real time of one fixture, whose stream is played as often as it can be cut.
const TIME: Duration = Duration::from_secs(120);

/// Runs every fixture in a folder, in order. With `bless`, expectations are written instead of compared.
///
/// # Errors
/// The folder or the component cannot be used.
pub fn run(component: &Path, folder: &Path, bless: bool) -> Result<Vec<Case>, String> {
    let subject = Subject::component(component).ok_or_else(|| format!("{}: is no file", component.display()))?;
    let watch = Arc::new(Watch::new(TIME)?);
    let mut stage = Stage::new(subject.clone(), watch.clone())?;
    let mut cases = Vec::new();
    for path in files(folder)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        watch.renew();
        log::listen();
        let outcome = one(&mut stage, &subject, &path, bless);
        cases.push(Case { name, outcome, notes: log::heard() });
    }
    Ok(cases)
}

fn files(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let told = |error: std::io::Error| format!("{}: {error}", folder.display());
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(told)? {
        let path = entry.map_err(told)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() && !name.starts_with('.') {
            let why = "those of a policy are files, and folders in it are for adapters";
            return Err(format!("{}: has no use for the folder `{name}`; {why}", folder.display()));
        }
        if path.extension().is_some_and(|ending| ending == "json") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn one(stage: &mut Stage, subject: &Subject, path: &Path, bless: bool) -> Result<(), String> {
    let told = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let text = fs::read_to_string(path).map_err(|error| told(&error))?;
    let mut fixture: Map<String, Value> = serde_json::from_str(&text).map_err(|error| told(&error))?;
    if fixture.contains_key(REFUSED) {
        return refused(stage, path, fixture, bless);
    }
    let listed = fixture.contains_key("exchanges");
    known(&fixture, &[SCENE, if listed { &["exchanges"] } else { EXCHANGE }].concat())?;
    let exchanges = match fixture.get("exchanges") {
        Some(Value::Array(exchanges)) => exchanges.clone(),
        Some(_) => return Err("`exchanges` is a list".to_owned()),
        None => vec![Value::Object(fixture.clone())],
    };
    let policy = fixture.get("hook").and_then(|hook| hook["name"].as_str()).unwrap_or(&subject.name).to_owned();
    for (name, facts) in fixture.get("targets").and_then(Value::as_object).into_iter().flatten() {
        words::target(name, facts)?;
    }
    let upstreams = fixture.get("upstreams").and_then(Value::as_object).into_iter().flatten();
    for act in upstreams.flat_map(|(_, acts)| acts.as_array().into_iter().flatten()) {
        words::act(None, act)?;
    }
    let mut playing = Playing { stage, policy, scene: scene(&fixture), now: fixture.get("now").cloned() };
    playing.begin()?;
    for (at, exchange) in exchanges.iter().enumerate() {
        if listed {
            known(exchange.as_object().ok_or("an exchange is an object")?, EXCHANGE)?;
        }
        let got = playing.play(exchange)?;
        match exchange.get("expected") {
            _ if bless && listed => fixture["exchanges"][at]["expected"] = shown(&got),
            _ if bless => drop(fixture.insert("expected".to_owned(), shown(&got))),
            Some(expected) => {
                let of = if listed { format!("exchange {}, ", at + 1) } else { String::new() };
                misses(expected, &got, "").map_or(Ok(()), |why| Err(format!("{of}{why}")))?;
            }
            None => return Err("says nothing of what is `expected`; run with --bless to write it".to_owned()),
        }
        if !listed {
            playing.cut(exchange, &got)?;
        }
    }
    if bless {
        fs::write(path, format!("{:#}\n", Value::Object(fixture))).map_err(|error| told(&error))?;
    }
    Ok(())
}

/// `{ "config": …, "refused": … }`: settings, and words in which the policy, or the schema in its manifest, refuses them.
fn refused(stage: &mut Stage, path: &Path, mut fixture: Map<String, Value>, bless: bool) -> Result<(), String> {
    known(&fixture, &[SCENE, &[REFUSED]].concat())?;
    let ask = json!({ "model": "any", "text": "Is anybody there?" });
    stage.play("reset", &Value::Null)?;
    let Err(why) = stage.play("chat", &json!({ "scene": scene(&fixture), "ask": ask })) else {
        return Err("its settings are taken, and were to be refused".to_owned());
    };
    if bless {
        let words = why.split_once(REFUSES).map_or(why.as_str(), |(_, words)| words);
        fixture.insert(REFUSED.to_owned(), words.trim_end().into());
        return fs::write(path, format!("{:#}\n", Value::Object(fixture)))
            .map_err(|error| format!("{}: {error}", path.display()));
    }
    match fixture[REFUSED].as_str() {
        Some(words) if why.contains(words) => Ok(()),
        Some(words) => Err(format!("its settings were to be refused with `{words}`, and what came is: {why}")),
        None => Err("`refused` is a text: words of the refusal".to_owned()),
    }
}

fn known(found: &Map<String, Value>, names: &[&str]) -> Result<(), String> {
    match found.keys().find(|key| !names.contains(&key.as_str())) {
        Some(key) => Err(format!("has no use for `{key}`; there may be {}", names.join(", "))),
        None => Ok(()),
    }
}

/// The scene as the stage takes it. The decision trace is on: verdicts are read from it.
fn scene(fixture: &Map<String, Value>) -> Value {
    let mut scene = Value::Object(fixture.clone());
    if let Some(upstreams) = scene.get_mut("upstreams").and_then(Value::as_object_mut) {
        for acts in upstreams.values_mut() {
            *acts = json!({ "begun": 0, "acts": acts.take() });
        }
    }
    let log = &mut scene["settings"]["log"];
    if log.is_null() {
        *log = json!({ "stdout": "off" });
    }
    log["trace"] = true.into();
    scene
}

/// A fixture on the stage.
struct Playing<'a> {
    stage: &'a mut Stage,
    /// The policy as its hook is called.
    policy: String,
    scene: Value,
    now: Option<Value>,
}

impl Playing<'_> {
    /// Forgets what was before.
    fn begin(&mut self) -> Result<(), String> {
        self.stage.play("reset", &Value::Null)?;
        match &self.now {
            Some(now) => self.stage.play("now", &json!({ "unix_ms": now })).map(drop),
            None => Ok(()),
        }
    }

    /// Plays one exchange.
    fn play(&mut self, exchange: &Value) -> Result<Value, String> {
        if let Some(ms) = exchange.get("advance_ms") {
            // With its settings: without them a policy that must have some would not load.
            let passed = self.stage.play("advance", &json!({ "scene": self.scene, "ms": ms }))?;
            if let Some(error) = passed.get("failed") {
                return Err(format!("failed in the time before an exchange: {}", error.as_str().unwrap_or_default()));
            }
        }
        let (word, name, said) = match (exchange.get("chat"), exchange.get("send")) {
            (Some(ask), None) => ("chat", "ask", ask),
            (None, Some(request)) => ("send", "request", request),
            _ => return Err("names no exchange: write `chat` (an ask in short) or `send` (a request)".to_owned()),
        };
        let mut got = self.stage.play(word, &json!({ "scene": self.scene, name: said }))?;
        got["verdicts"] = verdicts(&got["record"]["trace"], &self.policy);
        Ok(got)
    }

    /// A stream must say the same however it is cut.
    fn cut(&mut self, exchange: &Value, whole: &Value) -> Result<(), String> {
        if exchange["chat"]["stream"] != true || exchange["chat"].get("split").is_some() {
            return Ok(());
        }
        // However often it is cut, what it says of it is shown once.
        log::pause();
        for size in SPLITS {
            self.begin()?;
            let mut cut = exchange.clone();
            cut["chat"]["split"] = size.into();
            let got = self.play(&cut)?;
            if let Some(name) = ["text", "code"].into_iter().find(|name| got[*name] != whole[*name]) {
                let (cut, whole) = (&got[name], &whole[name]);
                return Err(format!("in pieces of {size} bytes {name} is {cut}, and whole it is {whole}"));
            }
        }
        Ok(())
    }
}

/// What the policy decided, in order: `{ phase: verdict }`. Phases that it passed are left out, and so are the fields that
/// `on-done` gives: they stand in the record.
fn verdicts(trace: &Value, policy: &str) -> Value {
    let steps = trace.as_array().into_iter().flatten().map(|step| &step["what"]);
    let notes = steps.filter(|what| what["guest"] == policy).map(|what| &what["note"]);
    let told = |note: &&Value| match note["phase"].as_str() {
        Some(phase) if phase == Phase::Done.name() => note["decided"]["failed"].is_string(),
        Some(_) => note["decided"] != Verdict::Pass.name(),
        None => false,
    };
    let decided = notes.filter(told);
    decided.map(|note| json!({ note["phase"].as_str().unwrap_or_default(): note["decided"] })).collect()
}

/// What is kept of an exchange as expected.
fn shown(got: &Value) -> Value {
    let told = TOLD.iter().filter(|name| !got[**name].is_null());
    let mut shown: Map<String, Value> = told.map(|name| ((*name).to_owned(), got[*name].clone())).collect();
    let sent = got["sent"].as_array().into_iter().flatten();
    let sent = sent.map(|sent| json!({ "target": sent["target"], "body": sent["body"] }));
    shown.insert("sent".to_owned(), sent.collect());
    Value::Object(shown)
}

/// Where what came misses what was expected. What is not expected may be whatever it is; lists are as long as expected.
fn misses(wanted: &Value, got: &Value, place: &str) -> Option<String> {
    let told = || Some(format!("{place} is {got:#}, and not {wanted:#}"));
    match (wanted, got) {
        (Value::Object(wanted), Value::Object(_)) => {
            let inside = |name: &str| if place.is_empty() { name.to_owned() } else { format!("{place}.{name}") };
            wanted.iter().find_map(|(name, wanted)| misses(wanted, &got[name], &inside(name)))
        }
        (Value::Array(wanted), Value::Array(found)) if wanted.len() == found.len() => {
            let pairs = wanted.iter().zip(found).enumerate();
            pairs.into_iter().find_map(|(at, (wanted, got))| misses(wanted, got, &format!("{place}[{at}]")))
        }
        _ if wanted == got => None,
        _ => told(),
    }
}

#[cfg(test)]
mod tests;
