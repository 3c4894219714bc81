//! The words of scenes: what acts, targets, asks and requests may hold, and what there is to read of an answer.
//!
//! Whatever is none of them is refused, with the word that was probably meant and all that there are: a test with a typo
//! would pass otherwise, and prove nothing.

use serde_json::{Map, Value};

use crate::chat::Finish;
use crate::fault::{FAULTS, Side};

/// What stands behind a word.
#[derive(Clone, Copy)]
enum Holds {
    /// Whatever it is, somebody else judges it.
    Any,
    Text,
    Texts,
    /// Also milliseconds; not below nothing.
    Number,
    Count,
    Flag,
    Names,
    Status,
    /// One of these.
    One(fn() -> Vec<&'static str>),
    /// Tool calls in short.
    Calls,
}

type Word = (&'static str, Holds);

use Holds::{Any, Calls, Count, Flag, Names, Number, One, Status, Text, Texts};

const CODE: Holds = One(|| FAULTS.iter().filter(|row| row.side == Side::Upstream).map(|row| row.code).collect());
const FINISH: Holds = One(|| Finish::ALL.iter().map(|finish| finish.as_str()).collect());
const STANDING: Holds = One(|| vec!["drained", "open"]);
const ROLE: Holds = One(|| vec!["system", "developer", "user", "assistant", "tool"]);

/// What every act that answers may say beside its text.
const SAID: &[Word] = &[
    ("reasoning", Text),
    ("tool_calls", Calls),
    ("finish", FINISH),
    ("input_tokens", Count),
    ("output_tokens", Count),
];
const HEAD: &[Word] = &[("status", Status), ("headers", Names), ("after_ms", Number)];
const PACE: &[Word] = &[("first_ms", Number), ("gap_ms", Number)];

/// The acts by their names, each with the mark by which it is known where nobody named it, and its words.
const ACTS: &[(&str, &str, &[&[Word]])] = &[
    (
        "fails",
        "fails",
        &[&[
            ("status", Status),
            ("code", CODE),
            ("message", Text),
            ("body", Any),
            ("headers", Names),
            ("retry_after_ms", Number),
            ("after_ms", Number),
        ]],
    ),
    ("unreachable", "unreachable", &[&[("after_ms", Number)]]),
    ("sends", "raw", &[&[("raw", Text)], HEAD, PACE]),
    ("cuts", "cut", &[&[("pieces", Texts)], SAID, HEAD, PACE]),
    ("stalls", "stall", &[&[("pieces", Texts)], SAID, HEAD, PACE]),
    ("streams", "pieces", &[&[("pieces", Texts)], SAID, HEAD, PACE]),
    ("answers", "", &[&[("text", Text), ("body", Any)], SAID, HEAD, PACE]),
];

const CALL: &[Word] = &[("id", Text), ("name", Text), ("arguments", Any)];

const TARGET: &[Word] = &[
    ("price_in", Number),
    ("price_out", Number),
    ("context", Count),
    ("max_output", Count),
    ("tools", Flag),
    ("vision", Flag),
    ("reasoning", Flag),
    ("json_schema", Flag),
    ("dialect", Text),
    ("standing", STANDING),
    ("successes", Count),
    ("failures", Count),
    ("latency_ms", Count),
];

const CHAT: &[Word] = &[
    ("model", Text),
    ("text", Text),
    ("messages", Any),
    ("system", Text),
    ("stream", Flag),
    ("dialect", Text),
    ("max_tokens", Count),
    ("headers", Names),
    ("params", Names),
    ("split", Count),
];

const SEND: &[Word] = &[("path", Text), ("method", Text), ("headers", Names), ("body", Any), ("dialect", Text)];

const MESSAGE: &[Word] =
    &[("role", ROLE), ("text", Text), ("content", Any), ("name", Text), ("tool_calls", Any), ("tool_call_id", Text)];

/// What there is to read of an answer, of what a target was sent, and of the line of the access log.
const READ: &[(&str, &[&str])] = &[
    (
        "an answer",
        &[
            "status",
            "code",
            "own_code",
            "message",
            "text",
            "finish",
            "tool_calls",
            "target",
            "tries",
            "sent",
            "headers",
            "body",
            "events",
            "complete",
            "cost",
            "duration_ms",
            "safepoints",
            "failed",
            "warnings",
            "record",
        ],
    ),
    ("a request that was sent", &["target", "url", "headers", "body"]),
    (
        "a record",
        &[
            "time",
            "id",
            "request_id",
            "key",
            "project",
            "metadata",
            "peer",
            "endpoint",
            "dialect",
            "operation",
            "stream",
            "model",
            "asked_model",
            "provider",
            "target_model",
            "upstream_model",
            "upstream_id",
            "status",
            "error",
            "finish",
            "ttft_ms",
            "duration_ms",
            "overhead_ms",
            "usage",
            "usage_estimated",
            "cost_usd",
            "cache",
            "saved_usd",
            "bytes_in",
            "bytes_out",
            "attempts",
            "dropped",
            "feedback",
            "policy",
            "generation",
            "trace",
        ],
    ),
];

/// Whether something may be read of what a test was given; `said` is `{ of, word }`, and `names` where they are the test's.
///
/// # Errors
/// There is no such thing.
pub(super) fn read(said: &Value) -> Result<(), String> {
    let (of, word) = (said["of"].as_str().unwrap_or_default(), said["word"].as_str().unwrap_or_default());
    let own = || said["names"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let names = READ.iter().find(|(name, _)| *name == of).map_or_else(own, |(_, names)| names.to_vec());
    if names.contains(&word) { Ok(()) } else { Err(unknown(&format!("{of} has no `{word}`"), word, &names)) }
}

/// An act of an upstream; `form` is the method that a test called, or None where the act's own words tell which it is.
///
/// # Errors
/// What of it means nothing.
pub(super) fn act(form: Option<&str>, act: &Value) -> Result<(), String> {
    let Some(said) = act.as_object() else { return Err(format!("an act is a table, not {act}")) };
    let fits = |(name, mark, _): &&(&str, &str, _)| match form {
        Some(form) => *name == form,
        None => mark.is_empty() || said.contains_key(*mark),
    };
    let Some((name, mark, words)) = ACTS.iter().find(fits) else { return Ok(()) };
    let words: Vec<Word> = words.iter().copied().flatten().copied().collect();
    let mut said = said.clone();
    if !words.iter().any(|(word, _)| word == mark) {
        said.remove(*mark);
    }
    table(&format!(":{name}"), &said, &words)
}

/// What a test says of a target.
///
/// # Errors
/// What of it means nothing.
pub(super) fn target(name: &str, facts: &Value) -> Result<(), String> {
    let title = format!("t.target(\"{name}\", …)");
    if !name.split_once('/').is_some_and(|(provider, model)| !provider.is_empty() && !model.is_empty()) {
        return Err(format!("{title} names no target; write provider/model, such as \"a/m\""));
    }
    let empty = Map::new();
    let said = match facts {
        Value::Object(said) => said,
        Value::Null => &empty,
        other => return Err(format!("{title} takes a table, not {other}")),
    };
    table(&title, said, TARGET)?;
    for (part, whole) in [("price_in", "price_out"), ("price_out", "price_in"), ("max_output", "context")] {
        if said.contains_key(part) && !said.contains_key(whole) {
            return Err(format!("{title} has `{part}` without `{whole}`; it takes both"));
        }
    }
    Ok(())
}

/// An ask in short.
///
/// # Errors
/// What of it means nothing.
pub(super) fn chat(ask: &Value) -> Result<(), String> {
    let said = ask.as_object().ok_or("t.chat takes a table, such as { model = \"a/m\", text = \"Hello\" }")?;
    table("t.chat", said, CHAT)
}

/// A request as it stands.
///
/// # Errors
/// What of it means nothing.
pub(super) fn send(request: &Value) -> Result<(), String> {
    let said =
        request.as_object().ok_or("t.send takes a table, such as { path = \"/v1/models\", method = \"GET\" }")?;
    table("t.send", said, SEND)
}

/// A message of an ask in short.
///
/// # Errors
/// What of it means nothing.
pub(super) fn message(message: &Value) -> Result<(), String> {
    let said = message.as_object().ok_or_else(|| format!("a message is a table, not {message}"))?;
    if !said.contains_key("role") {
        return Err("a message has no `role`; write role = \"user\"".to_owned());
    }
    table("a message", said, MESSAGE)
}

/// Every name of a table must be one of the words, and hold what it may.
fn table(title: &str, said: &Map<String, Value>, words: &[Word]) -> Result<(), String> {
    for (name, value) in said.iter().filter(|(_, value)| !value.is_null()) {
        let Some((_, holds)) = words.iter().find(|(word, _)| word == name) else {
            let names: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            return Err(unknown(&format!("{title} has no `{name}`"), name, &names));
        };
        held(title, name, value, *holds)?;
    }
    Ok(())
}

/// The largest number of a scene: thirty years of milliseconds, beyond which clocks have an end.
pub(super) const MAX_NUMBER: f64 = 1e12;

fn held(title: &str, name: &str, value: &Value, holds: Holds) -> Result<(), String> {
    // An empty table of Luau's may be either.
    let empty = value.as_object().is_some_and(Map::is_empty);
    let list = |fits: fn(&Value) -> bool| value.as_array().is_some_and(|items| items.iter().all(fits)) || empty;
    let number = value.as_f64().filter(|number| (0.0..=MAX_NUMBER).contains(number));
    let (fits, what) = match holds {
        Any => (true, ""),
        Text => (value.is_string(), "a text"),
        Texts => (list(Value::is_string), "a list of texts, such as { \"He\", \"llo\" }"),
        Number => (number.is_some(), "a number from 0 to 1e12"),
        Count => (value.as_u64().is_some(), "a whole number from 0 up"),
        Flag => (value.is_boolean(), "true or false"),
        Names => (value.is_object(), "a table with names"),
        Status => (value.as_u64().is_some_and(|status| (100..600).contains(&status)), "an HTTP status"),
        One(all) => {
            let all = all();
            return match value.as_str() {
                Some(word) if all.contains(&word) => Ok(()),
                Some(word) => Err(unknown(&format!("`{name}` of {title} is never `{word}`"), word, &all)),
                None => Err(format!("`{name}` of {title} is {value}; it is one of: {}", all.join(", "))),
            };
        }
        Calls => {
            for call in value.as_array().into_iter().flatten() {
                let said = call.as_object().ok_or_else(|| format!("a tool call is a table, not {call}"))?;
                table("a tool call", said, CALL)?;
            }
            (list(Value::is_object), "a list of { name =, arguments =, id = }")
        }
    };
    if fits { Ok(()) } else { Err(format!("`{name}` of {title} is {value}; it takes {what}")) }
}

/// `what`, with the word that was probably meant and all that there are.
fn unknown(what: &str, word: &str, known: &[&str]) -> String {
    let all = known.join(", ");
    // As views do, so that tests and policies guess alike.
    let near = known.iter().map(|name| (strsim::jaro_winkler(name, word), name)).max_by(|a, b| a.0.total_cmp(&b.0));
    match near.filter(|(likeness, _)| *likeness > 0.8) {
        Some((_, meant)) => format!("{what}; did you mean `{meant}`? There are: {all}"),
        None => format!("{what}; there are: {all}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_no_word_is_told_with_the_nearest_and_all_others() {
        let told = act(Some("fails"), &json!({ "fails": true, "stat": 503 })).expect_err("no word");
        assert!(told.starts_with(":fails has no `stat`; did you mean `status`? There are: status, code,"), "{told}");
        let told = act(Some("fails"), &json!({ "fails": true, "code": "content_polcy" })).expect_err("no code");
        assert!(told.contains("is never `content_polcy`; did you mean `content_policy`?"), "{told}");
        let told = act(Some("answers"), &json!({ "text": "x", "finsh": "stop" })).expect_err("no word");
        assert!(told.contains("did you mean `finish`?"), "{told}");
        let told = act(Some("streams"), &json!({ "pieces": "hello" })).expect_err("no list");
        assert_eq!(told, "`pieces` of :streams is \"hello\"; it takes a list of texts, such as { \"He\", \"llo\" }");
        let told = act(Some("sends"), &json!({ "raw": "x", "heders": {} })).expect_err("no word");
        assert!(told.contains("did you mean `headers`?"), "{told}");
        let told = act(None, &json!({ "pieces": ["x"], "gapms": 3 })).expect_err("no word");
        assert!(told.starts_with(":streams has no `gapms`; did you mean `gap_ms`?"), "{told}");
        let told = target("a/m", &json!({ "price": 1 })).expect_err("no word");
        assert!(told.contains("did you mean `price_in`?"), "{told}");
        let told = target("a/m", &json!({ "standing": "openn" })).expect_err("no standing");
        assert!(told.contains("did you mean `open`? There are: drained, open"), "{told}");
        assert!(target("a/m", &json!({ "price_in": 1 })).expect_err("half").contains("`price_out`"));
        assert!(target("a", &json!({})).expect_err("no target").contains("provider/model"));
        assert!(chat(&json!({ "model": "m", "txt": "x" })).expect_err("no word").contains("did you mean `text`?"));
        assert!(send(&json!({ "pth": "/" })).expect_err("no word").contains("did you mean `path`?"));
        assert!(read(&json!({ "of": "an answer", "word": "tires" })).expect_err("no field").contains("`tries`?"));
    }

    #[test]
    fn every_field_that_the_guide_shows_of_the_access_log_can_be_read() {
        let readme = include_str!("../../README.md");
        let table = readme.split("**Access log.**").nth(1).and_then(|rest| rest.split("\n\n").nth(1)).expect("a table");
        let cells = table.lines().filter_map(|row| row.strip_prefix("| `")?.split(" |").next());
        let mut count = 0;
        for name in cells.flat_map(|cell| cell.split(", ")).map(|name| name.trim_matches('`')) {
            assert_eq!(read(&json!({ "of": "a record", "word": name })), Ok(()));
            count += 1;
        }
        let known = READ.iter().find(|(of, _)| *of == "a record").map(|(_, names)| names.len());
        assert_eq!(Some(count), known);
    }
}
