//! Ids and inputs of tool calls in the forms that Anthropic takes.
//!
//! Anthropic wants ids of `[a-zA-Z0-9_-]` only, every id once, and inputs that are objects. One [`Spelling`] serves one
//! ask, so that a call and its result stay together.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use crate::chat::ToolCall;
use crate::dialect::names::{Rule, Taken};
use crate::json::exact;

/// Ids have no stated bound; this one only keeps a wild id from growing with every turn.
const IDS: Rule = Rule { longest: 256, further: "", begins_with_letter: false, empty: "toolu" };

/// Spellings of ids given out so far.
#[derive(Debug, Default)]
pub struct Spelling {
    known: HashMap<String, String>,
    taken: Taken,
    /// Calls without an id that have no result yet: (tool name, id given).
    unnamed: Vec<(String, String)>,
}

impl Spelling {
    /// The id for a new call. An id that an earlier call had gets a number: some providers count anew in each turn.
    pub fn call(&mut self, call: &ToolCall) -> String {
        let id = self.fresh(&call.id);
        if call.id.is_empty() {
            self.unnamed.push((call.name.clone(), id.clone()));
        }
        id
    }

    /// The id of the call that a result answers. Results without an id answer the oldest open call of their name.
    pub fn result(&mut self, id: &str, name: Option<&str>) -> String {
        if !id.is_empty() {
            return self.known.get(id).cloned().unwrap_or_else(|| self.fresh(id));
        }
        let named = name.and_then(|name| self.unnamed.iter().position(|(of, _)| of == name));
        match named.or((!self.unnamed.is_empty()).then_some(0)) {
            Some(at) => self.unnamed.remove(at).1,
            None => self.fresh(""),
        }
    }

    fn fresh(&mut self, original: &str) -> String {
        let spelling = self.taken.spell(original, &IDS);
        self.known.insert(original.to_owned(), spelling.clone());
        spelling
    }
}

/// A call's arguments as the object that `input` must be.
///
/// Free text of a custom tool becomes `{"input": text}`. Models also write a JSON string that holds the object, or text
/// that is no JSON at all (cut short, or plainly wrong): the first is unpacked, the other kept whole under `_raw`, so
/// that the next turn can see what was written instead of losing it or failing. For a tree that [`exact`] writes.
pub fn input(call: &ToolCall) -> Value {
    if call.custom {
        return json!({"input": call.arguments});
    }
    object(&call.arguments)
}

pub fn object(arguments: &str) -> Value {
    if arguments.trim().is_empty() {
        return Value::Object(Map::new());
    }
    match serde_json::from_str(arguments) {
        Ok(object @ Value::Object(_)) => exact::of(object, arguments),
        Ok(Value::Null) => Value::Object(Map::new()),
        Ok(Value::String(inner)) => match serde_json::from_str(&inner) {
            Ok(object @ Value::Object(_)) => exact::of(object, &inner),
            _ => json!({"_raw": inner}),
        },
        _ => json!({"_raw": arguments}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(id: &str, name: &str) -> ToolCall {
        ToolCall { id: id.to_owned(), name: name.to_owned(), ..ToolCall::default() }
    }

    #[test]
    fn a_call_and_its_result_keep_one_id_and_no_two_calls_share_one() {
        let mut ids = Spelling::default();
        assert_eq!(ids.call(&call("functions.get:0", "get")), "functions_get_0");
        assert_eq!(ids.result("functions.get:0", None), "functions_get_0");
        assert_eq!(ids.call(&call("functions.get:0", "get")), "functions_get_0_2");
        assert_eq!(ids.result("functions.get:0", None), "functions_get_0_2");
        assert_eq!(ids.call(&call("", "b")), "toolu");
        assert_eq!(ids.call(&call("", "a")), "toolu_2");
        assert_eq!(ids.result("", Some("a")), "toolu_2");
        assert_eq!(ids.result("", None), "toolu");
    }

    #[test]
    fn arguments_become_an_object_whatever_they_were() {
        assert_eq!(object(""), json!({}));
        assert_eq!(object("null"), json!({}));
        assert_eq!(object(r#"{"a":1}"#), json!({"a": 1}));
        assert_eq!(object(r#""{\"a\":1}""#), json!({"a": 1}));
        assert_eq!(object(r#"{"a":"#), json!({"_raw": "{\"a\":"}));
        assert_eq!(object("[1]"), json!({"_raw": "[1]"}));
        assert_eq!(
            input(&ToolCall { custom: true, arguments: "ls -l".to_owned(), ..call("", "") }),
            json!({"input": "ls -l"})
        );
    }
}
