//! Schemas that OpenAI's strict mode takes. Only judges them, never changes one.

use serde_json::{Map, Value};

/// Keywords whose values are schemas or hold schemas.
const LISTS: &[&str] = &["anyOf", "prefixItems"];
const MAPS: &[&str] = &["properties", "$defs", "definitions"];

/// Keywords that are refused: https://platform.openai.com/docs/guides/structured-outputs, *supported schemas*.
const REFUSED: &[&str] =
    &["allOf", "oneOf", "not", "if", "then", "else", "dependentRequired", "dependentSchemas", "patternProperties"];

/// Whether every object is closed and every property required, as OpenAI's strict mode wants it, and no keyword is refused.
pub(crate) fn is_strict(schema: &Value) -> bool {
    let Value::Object(fields) = schema else { return true };
    if REFUSED.iter().any(|keyword| fields.contains_key(*keyword)) {
        return false;
    }
    if let Some(Value::Object(properties)) = fields.get("properties") {
        let required = fields.get("required").and_then(Value::as_array);
        let all = properties.keys().all(|name| required.is_some_and(|list| list.iter().any(|item| item == name)));
        if !all || fields.get("additionalProperties") != Some(&Value::Bool(false)) {
            return false;
        }
    } else if fields.get("type").is_some_and(|kind| kind == "object") {
        return false;
    }
    let lists = LISTS.iter().filter_map(|key| fields.get(*key)?.as_array()).flatten();
    let maps = MAPS.iter().filter_map(|key| fields.get(*key)?.as_object()).flat_map(Map::values);
    lists.chain(maps).chain(fields.get("items")).all(is_strict)
}

/// What is said of a tool's `strict` to a target: it is left out where strict mode would refuse the schema, with a note.
pub(crate) fn strict(asked: Option<bool>, parameters: Option<&Value>, to: &mut super::Encoding<'_>) -> Option<bool> {
    let fits = asked != Some(true) || parameters.is_some_and(is_strict);
    to.drop_if(!fits, "tools.strict", "OpenAI's strict mode refuses the schema");
    asked.filter(|_| fits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_schema_is_strict_when_every_object_is_closed_and_complete() {
        let inner = json!({"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": false});
        assert!(is_strict(&inner));
        assert!(is_strict(&json!({"type": "array", "items": inner})));
        for loose in [
            json!({"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": false}),
            json!({"type": "array", "items": {"type": "object"}}),
            json!({"anyOf": [inner, {"allOf": [inner]}]}),
            json!({"$defs": {"a": {"oneOf": [inner]}}, "$ref": "#/$defs/a"}),
        ] {
            assert!(!is_strict(&loose), "{loose}");
        }
    }
}
