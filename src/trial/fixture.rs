//! Fixtures of a policy in a plugin: files with exchanges, and what must come of each: verdicts, what was sent, the answer.
//!
//! The words are those of test files in Luau, and so is the stage: the policy meets what it meets in service.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::stage::Stage;
use super::{Case, Subject};

/// What may stand in a fixture beside its exchanges.
const SCENE: &[&str] = &["config", "grants", "hook", "key", "models", "settings", "targets", "upstreams", "now"];

/// What may stand in an exchange, and in a fixture that has but one.
const EXCHANGE: &[&str] = &["chat", "send", "advance_ms", "expected"];

/// What is written of an exchange that has no expectation yet.
const TOLD: &[&str] = &["status", "code", "text", "finish", "tries", "verdicts"];

/// The sizes of pieces in which a stream is played again.
const SPLITS: std::ops::RangeInclusive<u64> = 1..=24;

/// Runs every fixture in a folder, in order. With `bless`, expectations are written instead of compared.
///
/// # Errors
/// The folder or the component cannot be used.
pub fn run(component: &Path, folder: &Path, bless: bool) -> Result<Vec<Case>, String> {
    let subject = Subject::component(component).ok_or_else(|| format!("{}: is no file", component.display()))?;
    let mut stage = Stage::new(subject.clone())?;
    let mut cases = Vec::new();
    for path in files(folder)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let outcome = one(&mut stage, &subject.name, &path, bless);
        cases.push(Case { name, outcome });
    }
    Ok(cases)
}

fn files(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let told = |error: std::io::Error| format!("{}: {error}", folder.display());
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(told)? {
        let path = entry.map_err(told)?.path();
        if path.extension().is_some_and(|ending| ending == "json") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn one(stage: &mut Stage, policy: &str, path: &Path, bless: bool) -> Result<(), String> {
    let told = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let text = fs::read_to_string(path).map_err(|error| told(&error))?;
    let mut fixture: Map<String, Value> = serde_json::from_str(&text).map_err(|error| told(&error))?;
    let listed = fixture.contains_key("exchanges");
    known(&fixture, &[SCENE, if listed { &["exchanges"] } else { EXCHANGE }].concat())?;
    let exchanges = match fixture.get("exchanges") {
        Some(Value::Array(exchanges)) => exchanges.clone(),
        Some(_) => return Err("`exchanges` is a list".to_owned()),
        None => vec![Value::Object(fixture.clone())],
    };
    let scene = scene(&fixture);
    begin(stage, &fixture)?;
    for (at, exchange) in exchanges.iter().enumerate() {
        if listed {
            known(exchange.as_object().unwrap_or(&Map::new()), EXCHANGE)?;
        }
        let got = play(stage, policy, &scene, exchange)?;
        match (bless, exchange.get("expected")) {
            (true, _) => {
                let place = if listed { &mut fixture["exchanges"][at] } else { &mut Value::Null };
                let expected = shown(&got);
                if listed {
                    place["expected"] = expected
                } else {
                    drop(fixture.insert("expected".to_owned(), expected))
                }
            }
            (false, Some(expected)) => {
                let of = if listed { format!("exchange {}, ", at + 1) } else { String::new() };
                misses(expected, &got, "").map_or(Ok(()), |why| Err(format!("{of}{why}")))?;
            }
            (false, None) => return Err("says nothing of what is `expected`; run with --bless to write it".to_owned()),
        }
        if !listed {
            splits(stage, policy, &fixture, &scene, exchange, &got)?;
        }
    }
    if bless {
        fs::write(path, format!("{:#}\n", Value::Object(fixture))).map_err(|error| told(&error))?;
    }
    Ok(())
}

fn known(found: &Map<String, Value>, names: &[&str]) -> Result<(), String> {
    match found.keys().find(|key| !names.contains(&key.as_str())) {
        Some(key) => Err(format!("has no use for `{key}`; it may hold {}", names.join(", "))),
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

/// Forgets what was before.
fn begin(stage: &mut Stage, fixture: &Map<String, Value>) -> Result<(), String> {
    stage.play("reset", &Value::Null)?;
    match fixture.get("now") {
        Some(now) => stage.play("now", &json!({ "unix_ms": now })).map(drop),
        None => Ok(()),
    }
}

/// Plays one exchange.
fn play(stage: &mut Stage, policy: &str, scene: &Value, exchange: &Value) -> Result<Value, String> {
    if let Some(ms) = exchange.get("advance_ms") {
        stage.play("advance", &json!({ "ms": ms }))?;
    }
    let mut got = match (exchange.get("chat"), exchange.get("send")) {
        (Some(ask), None) => stage.play("chat", &json!({ "scene": scene, "ask": ask }))?,
        (None, Some(request)) => stage.play("send", &json!({ "scene": scene, "request": request }))?,
        _ => {
            return Err(
                "names no exchange: write `chat` (an ask in short) or `send` (a request), one of them".to_owned()
            );
        }
    };
    got["verdicts"] = verdicts(&got["record"]["trace"], policy);
    Ok(got)
}

/// What the policy decided, in order: `{ phase: verdict }`. Phases that it passed are left out.
fn verdicts(trace: &Value, policy: &str) -> Value {
    let steps = trace.as_array().into_iter().flatten().map(|step| &step["what"]);
    let notes = steps.filter(|what| what["guest"] == policy).map(|what| &what["note"]);
    let decided = notes.filter(|note| note["phase"].is_string());
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

/// A stream must say the same however it is cut.
fn splits(
    stage: &mut Stage,
    policy: &str,
    fixture: &Map<String, Value>,
    scene: &Value,
    exchange: &Value,
    whole: &Value,
) -> Result<(), String> {
    if exchange["chat"]["stream"] != true || exchange["chat"].get("split").is_some() {
        return Ok(());
    }
    for size in SPLITS {
        begin(stage, fixture)?;
        let mut cut = exchange.clone();
        cut["chat"]["split"] = size.into();
        let got = play(stage, policy, scene, &cut)?;
        for name in ["text", "code"] {
            if got[name] != whole[name] {
                return Err(format!(
                    "in pieces of {size} bytes {name} is {}, and whole it is {}",
                    got[name], whole[name]
                ));
            }
        }
    }
    Ok(())
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
mod tests {
    use super::*;

    #[test]
    fn what_was_expected_and_did_not_come_is_named_with_its_place() {
        let got = json!({ "status": 200, "sent": [{ "body": { "model": "a", "n": 1 } }], "text": "Hi" });
        assert_eq!(misses(&json!({ "status": 200, "sent": [{ "body": { "model": "a" } }] }), &got, ""), None);
        let wrong = misses(&json!({ "sent": [{ "body": { "model": "b" } }] }), &got, "").expect("differs");
        assert!(wrong.starts_with("sent[0].body.model is \"a\""), "{wrong}");
        assert!(misses(&json!({ "sent": [] }), &got, "").expect("is longer").starts_with("sent is"));
        assert!(misses(&json!({ "code": "x" }), &got, "").expect("is not there").starts_with("code is null"));
    }
}
