//! Whether a value fits a JSON Schema: the keywords that structured output knows. Pure.
//!
//! A keyword that is not known here is let pass: the guard refuses what is surely wrong.

use portcullis_policy::serde_json::{Map, Value};

/// Deepest nesting; what is deeper is let pass.
const MAX_DEPTH: usize = 64;

/// What does not fit, with its place; None when all does.
pub fn misfit(schema: &Value, value: &Value) -> Option<String> {
    let check = Check { root: schema };
    check.value(schema, value, "", 0)
}

struct Check<'a> {
    root: &'a Value,
}

impl Check<'_> {
    fn value(&self, schema: &Value, value: &Value, at: &str, depth: usize) -> Option<String> {
        let Value::Object(schema) = schema else {
            return (*schema == Value::Bool(false)).then(|| format!("{} must not be there", place(at)));
        };
        if depth > MAX_DEPTH {
            return None;
        }
        if let Some(target) = schema.get("$ref").and_then(Value::as_str) {
            let target = target.strip_prefix('#').and_then(|pointer| self.root.pointer(pointer));
            return target.and_then(|target| self.value(target, value, at, depth + 1));
        }
        if let Some(kinds) = schema.get("type") {
            let fits = match kinds {
                Value::String(kind) => is(kind, value),
                Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).any(|kind| is(kind, value)),
                _ => true,
            };
            if !fits {
                return Some(format!("{} is not of the type {kinds}", place(at)));
            }
        }
        if let Some(Value::Array(values)) = schema.get("enum")
            && !values.iter().any(|allowed| same(allowed, value))
        {
            return Some(format!("{} is none of the allowed values", place(at)));
        }
        if schema.get("const").is_some_and(|only| !same(only, value)) {
            return Some(format!("{} is not the one value allowed", place(at)));
        }
        self.combined(schema, value, at, depth).or_else(|| match value {
            Value::Object(entries) => self.object(schema, entries, at, depth),
            Value::Array(items) => self.array(schema, items, at, depth),
            Value::String(text) => bounds(schema, "Length", text.chars().count() as f64, at),
            Value::Number(number) => number_bounds(schema, number.as_f64()?, at),
            _ => None,
        })
    }

    fn combined(&self, schema: &Map<String, Value>, value: &Value, at: &str, depth: usize) -> Option<String> {
        let list = |name: &str| schema.get(name).and_then(Value::as_array);
        let fits = |schema: &&Value| self.value(schema, value, at, depth + 1).is_none();
        for schema in list("allOf").into_iter().flatten() {
            if let Some(wrong) = self.value(schema, value, at, depth + 1) {
                return Some(wrong);
            }
        }
        if list("anyOf").is_some_and(|schemas| !schemas.iter().any(|schema| fits(&schema))) {
            return Some(format!("{} fits none of the alternatives", place(at)));
        }
        if list("oneOf").is_some_and(|schemas| schemas.iter().filter(fits).count() != 1) {
            return Some(format!("{} does not fit exactly one of the alternatives", place(at)));
        }
        schema.get("not").filter(fits).map(|_| format!("{} is what it must not be", place(at)))
    }

    fn object(&self, schema: &Map<String, Value>, entries: &Map<String, Value>, at: &str, depth: usize) -> Option<String> {
        let required = schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
        for name in required {
            if !entries.contains_key(name) {
                return Some(format!("{}/{name} is missing", at));
            }
        }
        let none = Map::new();
        let known = schema.get("properties").and_then(Value::as_object).unwrap_or(&none);
        for (name, value) in entries {
            let inner = known.get(name).or_else(|| schema.get("additionalProperties"));
            if let Some(wrong) = inner.and_then(|inner| self.value(inner, value, &format!("{at}/{name}"), depth + 1)) {
                return Some(wrong);
            }
        }
        bounds(schema, "Properties", entries.len() as f64, at)
    }

    fn array(&self, schema: &Map<String, Value>, items: &[Value], at: &str, depth: usize) -> Option<String> {
        let first = schema.get("prefixItems").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        for (index, item) in items.iter().enumerate() {
            let inner = first.get(index).or_else(|| schema.get("items"));
            if let Some(wrong) = inner.and_then(|inner| self.value(inner, item, &format!("{at}/{index}"), depth + 1)) {
                return Some(wrong);
            }
        }
        let twice = schema.get("uniqueItems") == Some(&Value::Bool(true))
            && items.iter().enumerate().any(|(index, item)| items[..index].iter().any(|other| same(other, item)));
        if twice {
            return Some(format!("{} has an item twice", place(at)));
        }
        bounds(schema, "Items", items.len() as f64, at)
    }
}

fn place(at: &str) -> &str {
    if at.is_empty() { "the whole" } else { at }
}

fn is(kind: &str, value: &Value) -> bool {
    match kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        "number" => value.is_number(),
        "integer" => value.as_f64().is_some_and(|number| number % 1.0 == 0.0),
        _ => true,
    }
}

/// Equal as JSON: 1 and 1.0 are.
fn same(a: &Value, b: &Value) -> bool {
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => a == b,
        _ => a == b,
    }
}

/// `minLength` and `maxLength`, and their like.
fn bounds(schema: &Map<String, Value>, of: &str, size: f64, at: &str) -> Option<String> {
    let bound = |side: &str| schema.get(&format!("{side}{of}")).and_then(Value::as_f64);
    if bound("min").is_some_and(|least| size < least) {
        return Some(format!("{} is too short", place(at)));
    }
    bound("max").filter(|most| size > *most).map(|_| format!("{} is too long", place(at)))
}

fn number_bounds(schema: &Map<String, Value>, number: f64, at: &str) -> Option<String> {
    let bound = |name: &str| schema.get(name).and_then(Value::as_f64);
    let low = bound("minimum").is_some_and(|least| number < least)
        || bound("exclusiveMinimum").is_some_and(|least| number <= least);
    let high =
        bound("maximum").is_some_and(|most| number > most) || bound("exclusiveMaximum").is_some_and(|most| number >= most);
    if low || high {
        return Some(format!("{} is too {}", place(at), if low { "small" } else { "large" }));
    }
    let step = bound("multipleOf").filter(|step| *step > 0.0);
    step.filter(|step| (number / step) % 1.0 != 0.0).map(|step| format!("{} is no multiple of {step}", place(at)))
}

#[cfg(test)]
mod tests {
    use portcullis_policy::serde_json::json;

    use super::*;

    #[test]
    fn what_does_not_fit_is_named() {
        let schema = json!({
            "type": "object",
            "required": ["name", "age"],
            "additionalProperties": false,
            "properties": {
                "name": { "type": "string", "minLength": 1 },
                "age": { "type": "integer", "minimum": 0 },
                "tags": { "type": "array", "items": { "$ref": "#/$defs/tag" }, "maxItems": 2 },
                "kind": { "anyOf": [{ "const": "a" }, { "type": "null" }] }
            },
            "$defs": { "tag": { "enum": ["x", "y"] } }
        });
        let wrong = |value: Value| misfit(&schema, &value).unwrap_or_default();
        assert_eq!(wrong(json!({ "name": "Ada", "age": 36, "tags": ["x"], "kind": null })), "");
        assert_eq!(wrong(json!({ "name": "Ada" })), "/age is missing");
        assert!(wrong(json!({ "name": "Ada", "age": 3.5 })).starts_with("/age is not of the type"));
        assert_eq!(wrong(json!({ "name": "Ada", "age": 1, "tags": ["z"] })), "/tags/0 is none of the allowed values");
        assert_eq!(wrong(json!({ "name": "Ada", "age": 1, "kind": "b" })), "/kind fits none of the alternatives");
        assert_eq!(wrong(json!({ "name": "", "age": 1 })), "/name is too short");
        assert_eq!(wrong(json!({ "name": "Ada", "age": 1, "more": 1 })), "/more must not be there");
        assert!(wrong(json!([])).starts_with("the whole is not"));
    }
}
