//! The part of JSON Schema that Anthropic's constrained output takes.
//!
//! Asks of other dialects may use keywords that Anthropic answers with a 400; those become words in the description,
//! which the model still reads. Never widens a schema's types or drops a property.

use serde_json::{Map, Value};

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
    let is_object = fields.get("type").is_some_and(|kind| kind == "object") || fields.contains_key("properties");
    if is_object {
        kept.insert("additionalProperties".to_owned(), Value::Bool(false));
    }
    if !told.is_empty() {
        let told = format!("({})", told.join(", "));
        let text = match kept.get("description").and_then(Value::as_str) {
            Some(text) if !text.is_empty() => format!("{text} {told}"),
            _ => told,
        };
        kept.insert("description".to_owned(), Value::String(text));
    }
    Value::Object(kept)
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
}
