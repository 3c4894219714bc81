//! The texts of asks that hold no conversation: what is to be embedded, and what is to be ranked for which query.
//!
//! Walks the fields as the body has them, so that whatever is no text stays byte for byte. What stands where a text
//! should and is none is an error: a guest that looks for something must not find nothing in what it cannot read.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::fault::{Fault, Kind};
use crate::guest::view::{Replacing, Spot, Text};
use crate::json::{self, Envelope};

/// Fields that hold texts: OpenAI's `input`, Gemini's `content`, `requests` and `title`, and those of a ranking.
const FIELDS: &[&str] = &["input", "content", "requests", "title", "embedContentConfig", "query", "documents"];

/// Names of texts within them, where not all are: Gemini's parts have others for the kind of a file or a task.
const NAMES: &[&str] = &["text", "title"];

/// Every text, numbered.
///
/// # Errors
/// Token numbers stand in their place, or a field is no JSON.
pub(super) fn texts(envelope: &Envelope) -> Result<Vec<Text>, Fault> {
    let mut found = Vec::new();
    walk(envelope, |spot, text| found.push(Text { spot, text: std::mem::take(text) }))?;
    Ok(found)
}

/// Puts texts in place of those with their numbers.
///
/// # Errors
/// There is no such number, or there are no texts.
pub(super) fn replace(envelope: &mut Envelope, texts: &BTreeMap<usize, String>) -> Result<(), String> {
    let mut replacing = Replacing::with(texts);
    let fields = walk(envelope, |spot, text| replacing.at(spot, text)).map_err(|fault| fault.message)?;
    replacing.end("the request")?;
    for (name, value) in fields {
        envelope.set(name, json::written(&value));
    }
    Ok(())
}

/// Visits every text in order and gives the fields back as they are then.
fn walk(envelope: &Envelope, mut each: impl FnMut(Spot, &mut String)) -> Result<Vec<(&'static str, Value)>, Fault> {
    let mut index = 0;
    let mut visit = |text: &mut String| {
        index += 1;
        each(Spot { index, role: "user", kind: "text" }, text);
    };
    let mut fields = Vec::new();
    for name in FIELDS {
        let Some(raw) = envelope.raw(name) else { continue };
        let unread = |what: &str| Fault::new(Kind::InvalidRequest, format!("`{name}` {what}.")).param(*name);
        let mut value: Value = serde_json::from_slice(raw).map_err(|error| unread("is no JSON").because(error))?;
        if *name == "input" && has_numbers(&value) {
            return Err(unread("holds numbers of tokens in place of texts, which no policy can read; send the texts"));
        }
        within(&mut value, true, *name == "documents", &mut visit);
        fields.push((*name, value));
    }
    Ok(fields)
}

fn has_numbers(input: &Value) -> bool {
    match input {
        Value::Array(items) => items.iter().any(has_numbers),
        other => other.is_number(),
    }
}

/// `is_text`: a string at this place is a text. `all`: so is every one within.
fn within(value: &mut Value, is_text: bool, all: bool, visit: &mut dyn FnMut(&mut String)) {
    match value {
        Value::String(text) if is_text => visit(text),
        Value::Array(items) => items.iter_mut().for_each(|item| within(item, is_text, all, visit)),
        Value::Object(entries) => {
            for (name, value) in entries {
                let is_content = name == "content" && value.is_string();
                within(value, all || is_content || NAMES.contains(&name.as_str()), all, visit);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn envelope(body: &Value) -> Envelope {
        Envelope::read(body.to_string().into()).expect("an object")
    }

    fn found(body: &Value) -> Vec<String> {
        texts(&envelope(body)).expect("texts").into_iter().map(|text| text.text).collect()
    }

    #[test]
    fn whatever_is_embedded_or_ranked_is_found_and_nothing_else() {
        for (body, expected) in [
            (json!({"model": "m", "input": "one", "user": "u"}), vec!["one"]),
            (json!({"model": "m", "input": ["one", "two"]}), vec!["one", "two"]),
            (json!({"model": "m", "input": [{"type": "text", "text": "one"}, {"image": "x"}]}), vec!["one"]),
            (
                json!({"content": {"role": "user", "parts": [{"text": "a"}, {"inlineData": {"mimeType": "b"}}]},
                    "taskType": "T", "title": "t"}),
                vec!["a", "t"],
            ),
            (
                json!({"requests": [{"model": "m", "title": "t", "content": {"parts": [{"text": "a"}]}},
                                 {"content": "b"}]}),
                vec!["t", "a", "b"],
            ),
            (json!({"query": "q", "documents": ["a", {"text": "b", "by": "c"}], "top_n": 1}), vec!["q", "a", "b", "c"]),
        ] {
            let mut expected: Vec<&str> = expected;
            let mut texts = found(&body);
            // The order of names within an object is the body's.
            texts.sort();
            expected.sort_unstable();
            assert_eq!(texts, expected, "{body}");
        }
    }

    #[test]
    fn a_patch_meets_its_number_and_the_rest_stays() {
        let mut body = envelope(&json!({"model": "m", "query": "q", "documents": ["a", {"text": "b"}], "top_n": 2}));
        replace(&mut body, &BTreeMap::from([(1, "Q".to_owned()), (3, "B".to_owned())])).expect("fits");
        let written: Value = serde_json::from_slice(&body.pieces().concat()).expect("JSON");
        assert_eq!(written, json!({"model": "m", "query": "Q", "documents": ["a", {"text": "B"}], "top_n": 2}));
        let error = replace(&mut body, &BTreeMap::from([(4, String::new())])).expect_err("no fourth");
        assert_eq!(error, "texts[4]: the request has 3 texts");
    }

    #[test]
    fn token_numbers_are_no_texts_and_that_is_said() {
        for input in [json!([1, 2]), json!([[1], [2]]), json!(["a", [1]])] {
            let fault = texts(&envelope(&json!({"model": "m", "input": input}))).expect_err("numbers");
            assert!(fault.message.contains("numbers of tokens"), "{}", fault.message);
        }
    }
}
