//! Ids, names and inputs of tool calls in the forms that Anthropic takes.
//!
//! Anthropic wants ids and names of `[a-zA-Z0-9_-]` only, every id once, and inputs that are objects. One [`Spelling`]
//! serves one ask, so that a call and its result stay together.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value, json};

use crate::chat::ToolCall;

/// Longest tool name that Anthropic takes.
pub const MAX_NAME: usize = 128;
/// Ids have no stated bound; this one only keeps a wild id from growing with every turn.
pub const MAX_ID: usize = 256;

/// Spellings given out so far.
#[derive(Debug)]
pub struct Spelling {
    longest: usize,
    known: HashMap<String, String>,
    taken: HashSet<String>,
    /// Calls without an id that have no result yet: (tool name, id given).
    unnamed: Vec<(String, String)>,
}

impl Spelling {
    pub fn new(longest: usize) -> Self {
        Spelling { longest, known: HashMap::new(), taken: HashSet::new(), unnamed: Vec::new() }
    }

    /// Spellings of tool names. Names that are fine keep theirs, whatever the others turn into.
    pub fn of_names<'a>(names: impl Iterator<Item = &'a str> + Clone) -> Self {
        let mut spelling = Spelling::new(MAX_NAME);
        for name in names.clone().filter(|name| plain(name, MAX_NAME) == *name) {
            spelling.of(name);
        }
        names.for_each(|name| drop(spelling.of(name)));
        spelling
    }

    /// The spelling of `original`, the same each time.
    pub fn of(&mut self, original: &str) -> String {
        match self.known.get(original) {
            Some(known) => known.clone(),
            None => self.fresh(original),
        }
    }

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
            return self.of(id);
        }
        let named = name.and_then(|name| self.unnamed.iter().position(|(of, _)| of == name));
        match named.or((!self.unnamed.is_empty()).then_some(0)) {
            Some(at) => self.unnamed.remove(at).1,
            None => self.fresh(""),
        }
    }

    fn fresh(&mut self, original: &str) -> String {
        let stem = plain(original, self.longest);
        let mut spelling = stem.clone();
        let mut number = 2;
        while !self.taken.insert(spelling.clone()) {
            let end = format!("_{number}");
            let stem = &stem[..stem.len().min(self.longest - end.len())];
            spelling = format!("{stem}{end}");
            number += 1;
        }
        self.known.insert(original.to_owned(), spelling.clone());
        spelling
    }
}

/// Other characters become underscores. The result is ASCII, so that it may be cut anywhere.
fn plain(text: &str, longest: usize) -> String {
    let fits = |c: char| if c.is_ascii_alphanumeric() || c == '_' || c == '-' { c } else { '_' };
    let plain: String = text.chars().map(fits).take(longest).collect();
    if plain.is_empty() { "toolu".to_owned() } else { plain }
}

/// A call's arguments as the object that `input` must be.
///
/// Free text of a custom tool becomes `{"input": text}`. Models also write a JSON string that holds the object, or text
/// that is no JSON at all (cut short, or plainly wrong): the first is unpacked, the other kept whole under `_raw`, so
/// that the next turn can see what was written instead of losing it or failing.
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
        Ok(Value::Object(object)) => Value::Object(object),
        Ok(Value::Null) => Value::Object(Map::new()),
        Ok(Value::String(inner)) => match serde_json::from_str(&inner) {
            Ok(Value::Object(object)) => Value::Object(object),
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
        let mut ids = Spelling::new(MAX_ID);
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
    fn a_fine_name_is_never_changed_by_another() {
        let mut names = Spelling::of_names(["a.b", "a_b"].into_iter());
        assert_eq!((names.of("a_b").as_str(), names.of("a.b").as_str()), ("a_b", "a_b_2"));
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
