//! Function calls that come in pieces: `partialArgs`, each a value with its place among the arguments.
//!
//! Gemini sends them to those who asked for them (`streamFunctionCallArguments`), and SDKs keep them as they came in the
//! history. The neutral form gets a call when it is whole. Never builds more than the pieces hold: a place too deep or
//! too far is passed over.

use serde_json::Value;

use super::field::{Object, take, take_bool, take_string};
use super::part::{Part, Piece};

/// Deepest place of a value; `serde_json` reads no deeper either.
const MAX_DEPTH: usize = 120;

/// How far beyond its end a list is lengthened, so that a wild index does not ask for memory.
const MAX_GAP: usize = 64;

/// One piece of a call.
#[derive(Debug)]
pub struct Fragment {
    id: Option<String>,
    /// Said in the first piece alone.
    name: Option<String>,
    values: Vec<Value>,
    goes_on: bool,
}

impl Fragment {
    /// A call's `functionCall` as a piece, if it is one: it goes on, brings partial arguments, or has no name.
    pub fn read(call: &mut Object) -> Option<Fragment> {
        let goes_on = take_bool(call, "willContinue").unwrap_or(false);
        let values = match take(call, "partialArgs") {
            Some(Value::Array(values)) => values,
            _ => Vec::new(),
        };
        let named = call.get("name").and_then(Value::as_str).is_some_and(|name| !name.is_empty());
        if named && !goes_on && values.is_empty() {
            return None;
        }
        let filled = |text: &String| !text.is_empty();
        let id = take_string(call, "id").filter(filled);
        Some(Fragment { id, name: take_string(call, "name").filter(filled), values, goes_on })
    }
}

/// Puts calls together. Everything else goes through.
#[derive(Debug, Default)]
pub struct Joiner {
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    id: Option<String>,
    name: String,
    arguments: Value,
    signature: Option<String>,
    extra: Object,
}

impl Joiner {
    /// The parts that are whole with this one, in order.
    pub fn add(&mut self, part: Part) -> impl Iterator<Item = Part> + use<> {
        let Part { piece: Piece::Fragment(fragment), signature, extra } = part else {
            return [self.end(), Some(part)].into_iter().flatten();
        };
        let Fragment { id, name, values, goes_on } = fragment;
        let same = self.open.as_ref().is_some_and(|open| id.is_some() && open.id == id);
        let mut before = None;
        if let Some(name) = name
            && !same
        {
            before = self.end();
            let arguments = Value::Object(Object::new());
            self.open = Some(Open { id, name, arguments, signature: None, extra });
        }
        // A piece of no call says nothing: Gemini ends some calls twice.
        if let Some(open) = &mut self.open {
            open.signature = signature.or(open.signature.take());
            values.into_iter().for_each(|value| open.put(value));
        }
        let whole = if goes_on { None } else { self.end() };
        [before, whole].into_iter().flatten()
    }

    /// The call that was left open.
    pub fn end(&mut self) -> Option<Part> {
        let Open { id, name, arguments, signature, extra } = self.open.take()?;
        Some(Part { piece: Piece::Call { id, name, arguments: arguments.to_string() }, signature, extra })
    }

    /// Parts that are all there.
    pub fn joined(parts: impl Iterator<Item = Part>) -> Vec<Part> {
        let mut joiner = Joiner::default();
        let mut whole: Vec<Part> = parts.flat_map(|part| joiner.add(part)).collect();
        whole.extend(joiner.end());
        whole
    }
}

impl Open {
    fn put(&mut self, piece: Value) {
        let Value::Object(mut piece) = piece else { return };
        let Some(path) = take_string(&mut piece, "jsonPath") else { return };
        let said = ["stringValue", "numberValue", "boolValue", "nullValue"];
        let Some((kind, value)) = said.into_iter().find_map(|kind| Some((kind, take_value(&mut piece, kind)?))) else {
            return;
        };
        let value = if kind == "nullValue" { Value::Null } else { value };
        let Some(place) = steps(&path).and_then(|steps| place(&mut self.arguments, &steps)) else { return };
        match (place, value) {
            // Text comes in pieces of its own, the last of them empty.
            (Value::String(text), Value::String(more)) => text.push_str(&more),
            (place, value) => *place = value,
        }
    }
}

/// Null is a value here: `nullValue` may be spelt so.
fn take_value(piece: &mut Object, kind: &str) -> Option<Value> {
    match kind {
        "nullValue" if piece.contains_key(kind) || piece.contains_key("null_value") => Some(Value::Null),
        _ => take(piece, kind),
    }
}

enum Step<'a> {
    Key(&'a str),
    Index(usize),
}

/// `$.rooms[0].name`, also with `['name']`. None when it is no such path.
fn steps(path: &str) -> Option<Vec<Step<'_>>> {
    let mut rest = path.strip_prefix('$').unwrap_or(path);
    let mut steps = Vec::new();
    while !rest.is_empty() {
        if steps.len() == MAX_DEPTH {
            return None;
        }
        if let Some(inner) = rest.strip_prefix('[') {
            let (quote, inner) = match inner.chars().next()? {
                quote @ ('\'' | '"') => (Some(quote), &inner[1..]),
                _ => (None, inner),
            };
            let (step, after) = match quote {
                Some(quote) => {
                    let (key, after) = inner.split_once(quote)?;
                    (Step::Key(key), after.strip_prefix(']')?)
                }
                None => {
                    let (index, after) = inner.split_once(']')?;
                    (Step::Index(index.parse().ok()?), after)
                }
            };
            steps.push(step);
            rest = after;
        } else {
            let name = rest.strip_prefix('.').unwrap_or(rest);
            let end = name.find(['.', '[']).unwrap_or(name.len());
            if end == 0 {
                return None;
            }
            steps.push(Step::Key(&name[..end]));
            rest = &name[end..];
        }
    }
    (!steps.is_empty()).then_some(steps)
}

/// The place in the arguments, made on the way there.
fn place<'a>(mut at: &'a mut Value, steps: &[Step<'_>]) -> Option<&'a mut Value> {
    for step in steps {
        match step {
            Step::Key(key) => {
                if !at.is_object() {
                    *at = Value::Object(Object::new());
                }
                at = at.as_object_mut()?.entry(*key).or_insert(Value::Null);
            }
            Step::Index(index) => {
                if !at.is_array() {
                    *at = Value::Array(Vec::new());
                }
                let list = at.as_array_mut()?;
                if *index >= list.len() + MAX_GAP {
                    return None;
                }
                if *index >= list.len() {
                    list.resize(index + 1, Value::Null);
                }
                at = &mut list[*index];
            }
        }
    }
    Some(at)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::dialect::gemini::part;

    /// Name and arguments of the calls that these parts make.
    fn calls(parts: Value) -> Vec<(String, Value)> {
        let Value::Array(parts) = parts else { panic!("a list") };
        let whole = Joiner::joined(parts.into_iter().filter_map(part::read));
        let calls = whole.into_iter().filter_map(|part| match part.piece {
            Piece::Call { name, arguments, .. } => Some((name, serde_json::from_str(&arguments).expect("JSON"))),
            _ => None,
        });
        calls.collect()
    }

    #[test]
    fn values_are_put_where_they_belong() {
        let piece = |path: &str, kind: &str, value: Value| json!({"functionCall": {"partialArgs": [{"jsonPath": path, kind: value}], "willContinue": true}});
        let parts = json!([
            {"functionCall": {"name": "dim", "willContinue": true}},
            piece("$.rooms[0].name", "stringValue", json!("Kü")),
            piece("$.rooms[0].name", "stringValue", json!("che")),
            piece("$.rooms[0].name", "stringValue", json!("")),
            piece("$.rooms[1].name", "stringValue", json!("")),
            piece("$['level.max']", "numberValue", json!(0.5)),
            {"functionCall": {"willContinue": true}},
            piece("$.warm", "boolValue", json!(false)),
            piece("$.until", "nullValue", json!("NULL_VALUE")),
            {"functionCall": {}},
            {"functionCall": {}},
            {"functionCall": {"name": "lock"}},
        ]);
        let arguments =
            json!({"rooms": [{"name": "Küche"}, {"name": ""}], "level.max": 0.5, "warm": false, "until": null});
        assert_eq!(calls(parts), [("dim".to_owned(), arguments), ("lock".to_owned(), json!({}))]);
    }

    #[test]
    fn a_call_without_an_end_is_ended_by_what_follows() {
        let begun = json!({"functionCall": {"name": "a", "willContinue": true,
            "partialArgs": [{"jsonPath": "$.x", "numberValue": 1}]}});
        let next = json!({"functionCall": {"name": "b", "willContinue": true}});
        let made = calls(json!([begun, next, {"text": "done"}]));
        assert_eq!(made, [("a".to_owned(), json!({"x": 1})), ("b".to_owned(), json!({}))]);
        let made = calls(json!([begun]));
        assert_eq!(made, [("a".to_owned(), json!({"x": 1}))]);
    }

    #[test]
    fn wild_places_are_passed_over() {
        let deep = format!("${}", ".a".repeat(100_000));
        for path in [deep.as_str(), "$.a[4000000000]", "$", "", "$..a", "$[", "$['a", "$.a[x]"] {
            let part = json!({"functionCall": {"name": "f", "partialArgs": [
                {"jsonPath": path, "stringValue": "x"}, {"jsonPath": "$.b", "stringValue": "y"}]}});
            let made = calls(json!([part]));
            assert_eq!(made[0].1["b"], "y", "{path:.20}");
        }
    }
}
