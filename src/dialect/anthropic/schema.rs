//! The part of JSON Schema that Anthropic's constrained output takes.
//!
//! Asks of other dialects may use keywords that Anthropic answers with a 400; those become words in the description,
//! which the model still reads. Never widens a schema's types or drops a property.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use crate::dialect::foreign::describe;

/// Keywords that are kept as they are.
const KEPT: &[&str] =
    &["$ref", "$schema", "$id", "title", "description", "default", "const", "enum", "type", "required"];

/// Keywords whose values hold schemas.
const MAPS: &[&str] = &["properties", "$defs", "definitions"];

/// Formats that strings may be constrained to.
const FORMATS: &[&str] = &["date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid"];

/// Deepest nesting that is rewritten; what lies below is left as it is. JSON parsing has stopped at 128 before.
const MAX_DEPTH: usize = 128;

/// The schema in the form that Anthropic takes.
pub fn constrain(schema: &Value) -> Value {
    rewrite(schema, 0)
}

/// Whether Anthropic takes the schema as it is.
pub fn is_plain(schema: &Value) -> bool {
    constrain(schema) == *schema
}

fn rewrite(schema: &Value, depth: usize) -> Value {
    let Value::Object(fields) = schema else { return schema.clone() };
    if depth > MAX_DEPTH {
        return schema.clone();
    }
    let mut kept = Map::new();
    let mut told = Vec::new();
    let all = |items: &Vec<Value>| Value::Array(items.iter().map(|item| rewrite(item, depth + 1)).collect());
    for (key, value) in fields {
        match (key.as_str(), value) {
            // One of several and any of several are the same to a decoder that picks one.
            ("oneOf", Value::Array(items)) => drop(kept.insert("anyOf".to_owned(), all(items))),
            ("anyOf" | "allOf", Value::Array(items)) => drop(kept.insert(key.clone(), all(items))),
            (map, Value::Object(schemas)) if MAPS.contains(&map) => {
                let schemas = schemas.iter().map(|(name, schema)| (name.clone(), rewrite(schema, depth + 1)));
                kept.insert(key.clone(), Value::Object(schemas.collect()));
            }
            ("items", _) => drop(kept.insert(key.clone(), rewrite(value, depth + 1))),
            ("additionalProperties", _) => {}
            ("format", Value::String(format)) if FORMATS.contains(&format.as_str()) => {
                kept.insert(key.clone(), value.clone());
            }
            ("minItems", Value::Number(least)) if least.as_u64().is_some_and(|least| least <= 1) => {
                kept.insert(key.clone(), value.clone());
            }
            (name, _) if KEPT.contains(&name) => drop(kept.insert(key.clone(), value.clone())),
            _ => told.push(format!("{key}: {value}")),
        }
    }
    if is_object(fields) || fields.contains_key("properties") {
        kept.insert("additionalProperties".to_owned(), Value::Bool(false));
    }
    describe(&mut kept, &told);
    Value::Object(kept)
}

/// Whether objects fit a schema that says so.
fn is_object(fields: &Map<String, Value>) -> bool {
    match fields.get("type") {
        Some(Value::Array(kinds)) => kinds.iter().any(|kind| kind == "object"),
        kind => kind.is_some_and(|kind| kind == "object"),
    }
}

/// Most properties that are not required, and most choices between types, in all schemas of an ask:
/// https://platform.claude.com/docs/en/build-with-claude/structured-outputs, *schema complexity limits*.
const MAX_OPTIONAL: usize = 24;
const MAX_UNIONS: usize = 16;

/// Whether Anthropic can hold an answer to these schemas together and leave them their meaning: none of their types holds
/// itself, no object has keys that only the model knows, and there is not too much of a choice.
pub fn holds<'a>(schemas: impl IntoIterator<Item = &'a Value>) -> bool {
    let (mut optional, mut unions, mut free) = (0, 0, false);
    for schema in schemas {
        free |= holds_itself(schema);
        each(schema, &mut |fields| {
            let properties = fields.get("properties").and_then(Value::as_object).filter(|all| !all.is_empty());
            let others = fields.get("additionalProperties");
            let described = others.and_then(Value::as_object).is_some_and(|schema| !schema.is_empty());
            let closed = others == Some(&Value::Bool(false));
            free |= described || (is_object(fields) && properties.is_none() && !closed);
            let required = fields.get("required").and_then(Value::as_array).map_or(0, Vec::len);
            optional += properties.map_or(0, Map::len).saturating_sub(required);
            let union = fields.contains_key("anyOf") || fields.contains_key("oneOf");
            unions += usize::from(union || fields.get("type").is_some_and(Value::is_array));
        });
    }
    !free && optional <= MAX_OPTIONAL && unions <= MAX_UNIONS
}

/// Shows a schema and all that it holds.
fn each<'a>(schema: &'a Value, show: &mut impl FnMut(&'a Map<String, Value>)) {
    let Value::Object(fields) = schema else { return };
    show(fields);
    let maps = MAPS.iter().filter_map(|key| fields.get(*key)?.as_object()).flat_map(Map::values);
    let lists = ["anyOf", "oneOf", "allOf"].iter().filter_map(|key| fields.get(*key)?.as_array()).flatten();
    maps.chain(lists).chain(fields.get("items")).for_each(|inner| each(inner, show));
}

/// Whether a type leads back to itself by references: what is left when those are taken away that lead to no other.
fn holds_itself(schema: &Value) -> bool {
    let maps = ["$defs", "definitions"].iter().filter_map(|key| schema.get(*key)?.as_object());
    let types: HashMap<&str, HashSet<&str>> =
        maps.flatten().map(|(name, of)| (name.as_str(), references(of))).collect();
    let (mut ends, mut left, mut users) = (Vec::new(), HashMap::new(), HashMap::<&str, Vec<&str>>::new());
    for (name, leads) in &types {
        let leads = leads.iter().filter(|to| types.contains_key(*to));
        let count = leads.inspect(|to| users.entry(to).or_default().push(name)).count();
        left.insert(*name, count);
        ends.extend((count == 0).then_some(*name));
    }
    while let Some(end) = ends.pop() {
        left.remove(end);
        for user in users.remove(end).unwrap_or_default() {
            if let Some(count) = left.get_mut(user) {
                *count -= 1;
                ends.extend((*count == 0).then_some(user));
            }
        }
    }
    !left.is_empty() || references(schema).contains("#")
}

/// The names of the types that a schema refers to.
fn references(schema: &Value) -> HashSet<&str> {
    let mut found = HashSet::new();
    each(schema, &mut |fields| {
        let reference = fields.get("$ref").and_then(Value::as_str);
        found.extend(reference.map(|path| path.rsplit('/').next().unwrap_or(path)));
    });
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn keywords_that_are_refused_become_words() {
        let schema = json!({
            "type": "object",
            "properties": {
                "age": {"type": "integer", "minimum": 0, "description": "Years."},
                "when": {"type": "string", "format": "date"},
                "pick": {"oneOf": [{"type": "string", "pattern": "^a"}, {"type": "null"}]},
                "minimum": {"type": "string"}
            },
            "required": ["age"]
        });
        assert_eq!(
            constrain(&schema),
            json!({
                "type": "object",
                "properties": {
                    "age": {"type": "integer", "description": "Years. (minimum: 0)"},
                    "when": {"type": "string", "format": "date"},
                    "pick": {"anyOf": [{"type": "string", "description": "(pattern: \"^a\")"}, {"type": "null"}]},
                    "minimum": {"type": "string"}
                },
                "required": ["age"],
                "additionalProperties": false
            })
        );
        assert!(!is_plain(&schema));
        assert!(is_plain(&constrain(&schema)));
    }

    #[test]
    fn a_schema_holds_that_keeps_its_meaning_and_is_not_too_much() {
        let of = |properties: Value| json!({"type": "object", "properties": properties, "required": ["a"]});
        assert!(holds([&of(json!({"a": {"type": "object", "properties": {}, "additionalProperties": false}}))]));
        // A map would be closed to one that is always empty.
        let map = json!({"type": "object", "additionalProperties": {"type": "string"}});
        let with_more = json!({"type": "object", "properties": {"n": {}}, "additionalProperties": {"type": "string"}});
        for free in [map, with_more, json!({"type": "object"}), json!({"type": ["object", "null"]})] {
            assert!(!holds([&of(json!({ "a": free }))]), "{free}");
            assert!(!holds([&of(json!({"a": {"type": "array", "items": free}}))]), "{free}");
        }
        let many = |count: usize, one: &Value| {
            (0..count).map(|n| (format!("p{n}"), one.clone())).collect::<Map<String, Value>>()
        };
        let optional = |count: usize| json!({"type": "object", "properties": many(count, &json!({"type": "string"}))});
        assert!(holds([&optional(24)]) && !holds([&optional(25)]) && !holds([&optional(12), &optional(13)]));
        for union in [json!({"type": ["string", "null"]}), json!({"anyOf": [{"type": "string"}, {"type": "null"}]})] {
            let unions = |count: usize| {
                let properties = many(count, &union);
                let names: Vec<&String> = properties.keys().collect();
                json!({"type": "object", "required": names, "properties": properties})
            };
            assert!(holds([&unions(16)]) && !holds([&unions(17)]), "{union}");
        }
    }

    #[test]
    fn a_type_that_holds_itself_is_found_and_one_that_is_used_twice_is_none() {
        let with = |types: Value| json!({"$ref": "#/$defs/a", "$defs": types});
        let to = |names: &[&str]| {
            let lists = names.iter().map(|name| json!({"type": "array", "items": {"$ref": format!("#/$defs/{name}")}}));
            json!({"anyOf": lists.collect::<Vec<_>>()})
        };
        assert!(!holds_itself(&with(json!({"a": to(&["b", "c"]), "b": to(&["c"]), "c": {"type": "string"}}))));
        assert!(holds_itself(&with(json!({"a": to(&["b"]), "b": to(&["c", "a"]), "c": {"type": "string"}}))));
        assert!(holds_itself(&with(json!({ "a": to(&["a"]) }))));
        assert!(holds_itself(&json!({"type": "object", "properties": {"next": {"$ref": "#"}}})));
    }
}
