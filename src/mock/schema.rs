//! One example value for a JSON Schema: always the same for the same schema. Does not check values against schemas.

use std::cell::Cell;

use serde_json::{Map, Value, json};

/// How deep references and nesting are followed before `null` stands in.
const MAX_DEPTH: usize = 24;

/// Most values made for one schema: one that holds itself twice doubles with each level.
const MAX_VALUES: usize = 2000;

/// Most elements that `minItems`, and most characters that `minLength`, can ask for.
const MAX_REPEAT: u64 = 256;

/// An instance of `schema` in any of the spellings seen on the wire: JSON Schema, or Gemini's with upper-case types.
/// `variant` 0 is the plain example; others differ where the schema leaves room. `name` is what plain strings say.
pub fn example(schema: &Value, name: &str, variant: usize) -> Value {
    Maker { root: schema, variant, left: Cell::new(MAX_VALUES) }.make(schema, name, 0)
}

struct Maker<'a> {
    root: &'a Value,
    variant: usize,
    /// How many more values may be made.
    left: Cell<usize>,
}

impl Maker<'_> {
    fn make(&self, schema: &Value, name: &str, depth: usize) -> Value {
        let Some(left) = self.left.get().checked_sub(1).filter(|_| depth <= MAX_DEPTH) else { return Value::Null };
        self.left.set(left);
        if let Some(path) = schema["$ref"].as_str().or_else(|| schema["ref"].as_str()) {
            return self.make(self.resolve(path), name, depth + 1);
        }
        if let Some(value) = schema.get("const") {
            return value.clone();
        }
        if let Some(values) = schema["enum"].as_array().filter(|values| !values.is_empty()) {
            return values[self.variant % values.len()].clone();
        }
        for some in ["anyOf", "oneOf", "any_of"] {
            if let Some(first) = schema[some].as_array().and_then(|options| options.first()) {
                return self.make(first, name, depth + 1);
            }
        }
        if let Some(parts) = schema["allOf"].as_array() {
            return self.all_of(schema, parts, name, depth);
        }
        match kind(schema).as_str() {
            "object" => self.object(schema, depth),
            "array" => self.array(schema, name, depth),
            "integer" => json!(self.whole(schema)),
            "number" => match schema["minimum"].as_f64() {
                Some(least) => json!(least + self.variant as f64),
                None => json!(1.5 + self.variant as f64),
            },
            "boolean" => json!(self.variant.is_multiple_of(2)),
            "null" => Value::Null,
            _ => json!(self.text(schema, name)),
        }
    }

    fn all_of(&self, schema: &Value, parts: &[Value], name: &str, depth: usize) -> Value {
        let mut merged = Map::new();
        let own = schema.get("properties").map(|_| self.object(schema, depth));
        for part in own.into_iter().chain(parts.iter().map(|part| self.make(part, name, depth + 1))) {
            match part {
                Value::Object(fields) => merged.extend(fields),
                other if parts.len() == 1 => return other,
                _ => {}
            }
        }
        Value::Object(merged)
    }

    fn object(&self, schema: &Value, depth: usize) -> Value {
        let mut out = Map::new();
        if let Some(properties) = schema["properties"].as_object() {
            for (name, property) in properties {
                out.insert(name.clone(), self.make(property, name, depth + 1));
            }
        }
        // A property may be required without being described.
        for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if !out.contains_key(name) {
                out.insert(name.to_owned(), json!(name));
            }
        }
        Value::Object(out)
    }

    fn array(&self, schema: &Value, name: &str, depth: usize) -> Value {
        if let Some(each) = schema["prefixItems"].as_array() {
            return each.iter().map(|item| self.make(item, name, depth + 1)).collect();
        }
        let least = limit(schema, "minItems", "min_items").unwrap_or(1).min(MAX_REPEAT);
        let most = limit(schema, "maxItems", "max_items").unwrap_or(u64::MAX);
        (0..least.max(1).min(most)).map(|_| self.make(&schema["items"], name, depth + 1)).collect()
    }

    fn whole(&self, schema: &Value) -> i64 {
        let least = schema["minimum"].as_i64().or_else(|| schema["exclusiveMinimum"].as_i64().map(|least| least + 1));
        let value = least.unwrap_or(1).saturating_add(self.variant as i64);
        schema["maximum"].as_i64().map_or(value, |most| value.min(most))
    }

    fn text(&self, schema: &Value, name: &str) -> String {
        let mut text = match schema["format"].as_str() {
            Some("date-time") => "2026-01-02T03:04:05Z".to_owned(),
            Some("date") => "2026-01-02".to_owned(),
            Some("time") => "03:04:05Z".to_owned(),
            Some("email") => "someone@example.com".to_owned(),
            Some("uri" | "url") => "https://example.com/".to_owned(),
            Some("uuid") => "00000000-0000-4000-8000-000000000001".to_owned(),
            Some("ipv4") => "192.0.2.1".to_owned(),
            _ if self.variant > 0 => format!("{name} {}", self.variant + 1),
            _ => name.to_owned(),
        };
        let least = limit(schema, "minLength", "min_length").unwrap_or(0).min(MAX_REPEAT) as usize;
        while text.chars().count() < least {
            text.push('x');
        }
        match limit(schema, "maxLength", "max_length") {
            Some(most) => text.chars().take(most as usize).collect(),
            None => text,
        }
    }

    fn resolve(&self, path: &str) -> &Value {
        match path.strip_prefix('#') {
            Some(pointer) => self.root.pointer(pointer).unwrap_or(&Value::Null),
            None => &Value::Null,
        }
    }
}

/// The type in lower case; the first that is not `null` where several are allowed, guessed where none is stated.
fn kind(schema: &Value) -> String {
    let stated = match &schema["type"] {
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).find(|kind| *kind != "null").unwrap_or("null"),
        stated => stated.as_str().unwrap_or_default(),
    };
    match stated {
        "" if schema.get("properties").is_some() => "object".to_owned(),
        "" if schema.get("items").is_some() => "array".to_owned(),
        stated => stated.to_ascii_lowercase(),
    }
}

/// A limit as a number, or as the string that protobuf's JSON makes of 64-bit numbers.
fn limit(schema: &Value, camel: &str, snake: &str) -> Option<u64> {
    let value = schema.get(camel).or_else(|| schema.get(snake))?;
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_keyword_gives_a_value_that_fits() {
        let schema = json!({
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "unit": {"enum": ["C", "F"]},
                "days": {"type": "integer", "minimum": 3},
                "at": {"type": ["null", "string"], "format": "date"},
                "tags": {"type": "array", "items": {"$ref": "#/$defs/tag"}, "minItems": "2"},
                "either": {"anyOf": [{"type": "boolean"}, {"type": "null"}]},
                "both": {"allOf": [{"$ref": "#/$defs/tag"}]},
                "fixed": {"const": 7},
            },
            "required": ["city", "unstated"],
            "$defs": {"tag": {"type": "string", "maxLength": 2}},
        });
        let expected = json!({
            "city": "city", "unit": "C", "days": 3, "at": "2026-01-02", "tags": ["ta", "ta"],
            "either": true, "both": "bo", "fixed": 7, "unstated": "unstated",
        });
        assert_eq!(example(&schema, "x", 0), expected);
        let other = example(&schema, "x", 1);
        assert_eq!((&other["unit"], &other["city"], &other["days"]), (&json!("F"), &json!("city 2"), &json!(4)));
    }

    #[test]
    fn geminis_upper_case_types_are_read() {
        let schema = json!({"type": "OBJECT", "properties": {"n": {"type": "INTEGER"}, "s": {"type": "STRING"}}});
        assert_eq!(example(&schema, "x", 0), json!({"n": 1, "s": "s"}));
    }

    #[test]
    fn a_schema_that_holds_itself_ends() {
        let schema = json!({"type": "object", "properties": {"next": {"$ref": "#"}}});
        assert!(example(&schema, "x", 0)["next"]["next"].is_object());
        let tree = json!({"properties": {"left": {"$ref": "#"}, "right": {"$ref": "#"}}});
        assert!(example(&tree, "x", 0).to_string().len() < 100_000);
    }
}
