//! Schemas: Gemini's own (a subset of OpenAPI 3.0) to JSON Schema, and JSON Schema as Gemini takes it.
//!
//! Toward Gemini the gateway always uses `parametersJsonSchema` and `responseJsonSchema`. Both AI Studio and Vertex take
//! them for every model still served, and ignore keywords they do not know; the older `parameters` and `responseSchema`
//! refuse the whole ask over one unknown keyword (`$schema`, `const`, `exclusiveMinimum`, …) and over an object without
//! properties, so translating into them loses more than it saves. Never validates a schema.

use serde_json::Value;

use super::field::{self, Object};

/// Deepest nesting that is rewritten; beyond it a schema goes as it is.
const MAX_DEPTH: usize = 64;

/// Gemini's schema as JSON Schema.
pub fn to_json_schema(schema: Value) -> Value {
    from_gemini(schema, 0)
}

fn from_gemini(schema: Value, depth: usize) -> Value {
    let Value::Object(mut from) = schema else { return schema };
    if depth > MAX_DEPTH {
        return Value::Object(from);
    }
    let nullable = field::take_bool(&mut from, "nullable").unwrap_or(false);
    let mut to = Object::new();
    for (key, value) in from {
        let name = renamed(&key);
        let value = match name {
            _ if value.is_null() && name != "default" => continue,
            "type" => lower(value),
            // `enum` marks a string as an enumeration; JSON Schema needs no such format.
            "format" if value == "enum" => continue,
            "items" | "additionalProperties" => from_gemini(value, depth + 1),
            "anyOf" | "prefixItems" => each(value, depth),
            "properties" | "$defs" => each_field(value, depth),
            "minItems" | "maxItems" | "minLength" | "maxLength" | "minProperties" | "maxProperties" => {
                field::uint(&value).map_or(value, Value::from)
            }
            "$ref" => reference(value),
            _ => value,
        };
        to.insert(name.to_owned(), value);
    }
    if nullable {
        allow_null(&mut to);
    }
    Value::Object(to)
}

/// The JSON Schema name of a field, from either casing.
fn renamed(key: &str) -> &str {
    match key {
        "any_of" => "anyOf",
        "prefix_items" => "prefixItems",
        "additional_properties" => "additionalProperties",
        "min_items" => "minItems",
        "max_items" => "maxItems",
        "min_length" => "minLength",
        "max_length" => "maxLength",
        "min_properties" => "minProperties",
        "max_properties" => "maxProperties",
        "property_ordering" => "propertyOrdering",
        "ref" => "$ref",
        "defs" => "$defs",
        other => other,
    }
}

fn lower(value: Value) -> Value {
    match value {
        Value::String(name) => name.to_ascii_lowercase().into(),
        Value::Array(names) => names.into_iter().map(lower).collect(),
        other => other,
    }
}

fn each(value: Value, depth: usize) -> Value {
    match value {
        Value::Array(schemas) => schemas.into_iter().map(|schema| from_gemini(schema, depth + 1)).collect(),
        other => other,
    }
}

fn each_field(value: Value, depth: usize) -> Value {
    match value {
        Value::Object(fields) => {
            fields.into_iter().map(|(name, schema)| (name, from_gemini(schema, depth + 1))).collect()
        }
        other => other,
    }
}

fn reference(value: Value) -> Value {
    match value {
        Value::String(path) => path.replacen("#/defs/", "#/$defs/", 1).into(),
        other => other,
    }
}

fn allow_null(schema: &mut Object) {
    match schema.get_mut("type") {
        Some(Value::String(name)) if name != "null" => {
            let both = vec![Value::from(name.as_str()), Value::from("null")];
            schema.insert("type".into(), both.into());
        }
        Some(Value::Array(names)) if !names.iter().any(|name| name == "null") => names.push("null".into()),
        None => {
            if let Some(Value::Array(options)) = schema.get_mut("anyOf") {
                options.push(Value::Object(field::object("type", "null")));
            }
        }
        _ => {}
    }
    if let Some(Value::Array(values)) = schema.get_mut("enum")
        && !values.contains(&Value::Null)
    {
        values.push(Value::Null);
    }
}

/// JSON Schema in the shape that Gemini takes: `$ref` stands alone, and `const` is an `enum` of one.
pub fn for_gemini(schema: &Value) -> Value {
    to_gemini(schema, 0)
}

fn to_gemini(schema: &Value, depth: usize) -> Value {
    let Value::Object(from) = schema else { return schema.clone() };
    if depth > MAX_DEPTH {
        return schema.clone();
    }
    let refers = from.contains_key("$ref");
    let mut to = Object::new();
    for (key, value) in from {
        let value = match key.as_str() {
            "$schema" => continue,
            // Gemini refuses a reference with anything beside it but `$` fields.
            name if refers && !name.starts_with('$') => continue,
            "const" if !from.contains_key("enum") => {
                constant(value, from, &mut to);
                continue;
            }
            "properties" | "$defs" | "definitions" | "patternProperties" => match value {
                Value::Object(fields) => {
                    fields.iter().map(|(name, schema)| (name.clone(), to_gemini(schema, depth + 1))).collect()
                }
                other => other.clone(),
            },
            "anyOf" | "oneOf" | "allOf" | "prefixItems" => match value {
                Value::Array(schemas) => schemas.iter().map(|schema| to_gemini(schema, depth + 1)).collect(),
                other => other.clone(),
            },
            "items" | "additionalProperties" | "not" => to_gemini(value, depth + 1),
            _ => value.clone(),
        };
        to.insert(key.clone(), value);
    }
    Value::Object(to)
}

/// A fixed value in the words that Gemini has: an `enum` of one for strings and numbers, else the type alone.
fn constant(value: &Value, from: &Object, to: &mut Object) {
    let (name, listed) = match value {
        Value::String(_) => ("string", true),
        Value::Number(_) => ("number", true),
        Value::Bool(_) => ("boolean", false),
        Value::Null => ("null", false),
        _ => return,
    };
    if !from.contains_key("type") {
        to.insert("type".into(), name.into());
    }
    if listed {
        to.insert("enum".into(), vec![value.clone()].into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_gemini_schema_becomes_json_schema() {
        let gemini = json!({
            "type": "OBJECT",
            "properties": {
                "type": {"type": "STRING", "format": "enum", "enum": ["a", "b"], "nullable": true},
                "tags": {"type": "ARRAY", "items": {"type": "INTEGER", "format": "int32"}, "min_items": "1"},
                "either": {"anyOf": [{"type": "NUMBER"}, {"type": "BOOLEAN"}], "nullable": true},
            },
            "required": ["type"],
            "propertyOrdering": ["type", "tags", "either"],
        });
        assert_eq!(
            to_json_schema(gemini),
            json!({
                "type": "object",
                "properties": {
                    "type": {"type": ["string", "null"], "enum": ["a", "b", null]},
                    "tags": {"type": "array", "items": {"type": "integer", "format": "int32"}, "minItems": 1},
                    "either": {"anyOf": [{"type": "number"}, {"type": "boolean"}, {"type": "null"}]},
                },
                "required": ["type"],
                "propertyOrdering": ["type", "tags", "either"],
            })
        );
    }

    #[test]
    fn json_schema_loses_only_what_gemini_refuses() {
        let schema = json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "properties": {
                "const": {"type": "string"},
                "kind": {"const": "x"},
                "on": {"type": "boolean", "const": true},
                "pet": {"$ref": "#/$defs/Pet", "description": "the pet"},
            },
            "additionalProperties": false,
            "$defs": {"Pet": {"type": "object", "properties": {}}},
        });
        assert_eq!(
            for_gemini(&schema),
            json!({
                "type": "object",
                "properties": {
                    "const": {"type": "string"},
                    "kind": {"type": "string", "enum": ["x"]},
                    "on": {"type": "boolean"},
                    "pet": {"$ref": "#/$defs/Pet"},
                },
                "additionalProperties": false,
                "$defs": {"Pet": {"type": "object", "properties": {}}},
            })
        );
    }
}
