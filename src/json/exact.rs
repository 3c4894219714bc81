//! Objects of a caller's or a model's own, moved between bodies with their numbers as they are spelt: what a tool is
//! called with, and what it answers.
//!
//! A `Value` holds what 64 bits hold; a longer number would reach the tool as another one. Where a tree would change a
//! number, the object's text stands in it instead. Never looks at anything but numbers, so all others stay trees.

use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;

use memchr::memchr2;
use serde::ser::{Error, Serialize, Serializer};
use serde_json::value::RawValue;
use serde_json::{Map, Number, Value};

/// The key of the object that stands for a text. Nobody can put it into a body, because nobody knows it.
static KEY: LazyLock<String> = LazyLock::new(|| format!("{:016x}", RandomState::new().hash_one("text in a tree")));

/// Most digits of a whole number that surely fits.
const SAFE_DIGITS: usize = 18;

/// Whether a tree of this JSON is written with each number as it is spelt here.
pub fn holds(json: &[u8]) -> bool {
    let mut at = 0;
    while let Some(byte) = json.get(at) {
        match byte {
            b'"' => at = string_end(json, at),
            b'-' | b'0'..=b'9' => {
                let rest = &json[at..];
                let number = |byte: &u8| matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9');
                let end = rest.iter().position(|byte| !number(byte)).unwrap_or(rest.len());
                if !is_held(&rest[..end]) {
                    return false;
                }
                at += end;
            }
            _ => at += 1,
        }
    }
    true
}

fn is_held(number: &[u8]) -> bool {
    let digits = number.strip_prefix(b"-").unwrap_or(number);
    if number != b"-0" && digits.len() <= SAFE_DIGITS && digits.iter().all(u8::is_ascii_digit) {
        return true;
    }
    serde_json::from_slice::<Number>(number).is_ok_and(|held| held.to_string().as_bytes() == number)
}

/// The place behind a string that begins here.
fn string_end(json: &[u8], begin: usize) -> usize {
    let mut at = begin + 1;
    while let Some(found) = json.get(at..).and_then(|rest| memchr2(b'"', b'\\', rest)) {
        at += found + 1;
        if json[at - 1] == b'"' {
            return at;
        }
        at += 1;
    }
    json.len()
}

/// The text without white space between its parts.
fn compact(json: &str) -> String {
    let bytes = json.as_bytes();
    let (mut out, mut at) = (String::with_capacity(json.len()), 0);
    while at < bytes.len() {
        let end = match bytes[at] {
            b'"' => string_end(bytes, at),
            _ => bytes[at..].iter().position(|byte| *byte == b'"').map_or(bytes.len(), |next| at + next),
        };
        match bytes[at] {
            b'"' => out.push_str(&json[at..end]),
            _ => out.extend(json[at..end].chars().filter(|letter| !letter.is_ascii_whitespace())),
        }
        at = end;
    }
    out
}

/// A value for a tree that [`written`] writes. `text` is what it was read from.
pub fn of(value: Value, text: &str) -> Value {
    if holds(text.as_bytes()) {
        return value;
    }
    Value::Object(Map::from_iter([(KEY.clone(), compact(text).into())]))
}

/// Puts the text of an object in its place, where the tree does not hold it.
pub fn keep(object: &mut Value, raw: &RawValue) {
    if object.is_object() && !holds(raw.get().as_bytes()) {
        *object = compact(raw.get()).into();
    }
}

/// As [`super::written`], with the texts of [`of`] as the JSON that they are.
pub fn written(tree: impl Into<Value>) -> Vec<u8> {
    super::written(&Exact(&tree.into()))
}

/// A tree, as [`written`] writes it.
pub struct Exact<'a>(pub &'a Value);

impl Serialize for Exact<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Object(fields) => match text(fields) {
                Some(text) => serde_json::from_str::<&RawValue>(text).map_err(S::Error::custom)?.serialize(serializer),
                None => serializer.collect_map(fields.iter().map(|(key, value)| (key, Exact(value)))),
            },
            Value::Array(items) => serializer.collect_seq(items.iter().map(Exact)),
            other => other.serialize(serializer),
        }
    }
}

fn text(fields: &Map<String, Value>) -> Option<&str> {
    let (key, text) = fields.iter().next().filter(|_| fields.len() == 1)?;
    if *key == *KEY { text.as_str() } else { None }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_that_a_tree_would_change_are_told_from_others() {
        for held in ["0", "-7", "123456789012345678", "18446744073709551615", "0.1", "1.5", "\"1e2\"", "{\"1e2\":1}"] {
            assert!(holds(held.as_bytes()), "{held}");
        }
        let lost = [
            "123456789012345678901234567890",
            "0.1000000000000000055",
            "1e2",
            "1.50",
            "-0",
            "1E5",
            "[\"\\\"\", 1e400]",
        ];
        for lost in lost {
            assert!(!holds(lost.as_bytes()), "{lost}");
        }
    }

    #[test]
    fn what_a_tree_cannot_hold_is_written_as_it_was_spelt() {
        let text = "{ \"a\": 123456789012345678901234567890,\n \"ü \\\" \": [1e2, \"x  y\"] }";
        let value: Value = serde_json::from_str(text).expect("JSON");
        let tree = json!({"calls": [{"input": of(value, text)}, {"input": of(json!({"b": 1}), "{\"b\": 1}")}]});
        let input = "{\"a\":123456789012345678901234567890,\"ü \\\" \":[1e2,\"x  y\"]}";
        let expected = format!("{{\"calls\":[{{\"input\":{input}}},{{\"input\":{{\"b\":1}}}}]}}");
        assert_eq!(String::from_utf8(written(tree)).expect("UTF-8"), expected);
    }

    #[test]
    fn only_what_would_be_lost_is_kept_as_text() {
        let kept = |text: &str| {
            let raw = RawValue::from_string(text.to_owned()).expect("JSON");
            let mut value: Value = serde_json::from_str(text).expect("JSON");
            keep(&mut value, &raw);
            value
        };
        assert_eq!(kept("{\"a\": 1e2}"), json!("{\"a\":1e2}"));
        assert_eq!(kept("{\"a\": 1}"), json!({"a": 1}));
        assert_eq!(kept("[1e2]"), json!([100.0]));
    }
}
