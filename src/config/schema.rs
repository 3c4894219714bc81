//! The JSON Schema of the configuration, and the tables of its reference, both made from the types.
//!
//! `config/portcullis.schema.json` and the tables in `config/README.md` are copies of what these functions give; a test
//! compares them. Never describes a key by hand: the types' own comments are the text.

use std::collections::BTreeSet;
use std::fmt::Write;

use schemars::generate::SchemaSettings;
use schemars::transform::{RecursiveTransform, Transform, transform_subschemas};
use schemars::{Schema, SchemaGenerator};
use serde_json::{Map, Value, json};

use super::Config;

/// What fits where a variable stands instead of a value.
const VARIABLE: &str = "\\$\\{[A-Za-z_][A-Za-z0-9_]*(:-.*)?\\}";

/// The JSON Schema (draft 2020-12) of the configuration file, for editors and for checks outside.
pub fn schema() -> Value {
    let settings = SchemaSettings::draft2020_12().with_transform(Variables).with_transform(RecursiveTransform(tidy));
    let mut schema = SchemaGenerator::new(settings).into_root_schema_for::<Config>();
    schema.insert("title".to_owned(), json!("Portcullis configuration"));
    schema.insert("patternProperties".to_owned(), json!({ "^x-": true }));
    sections_may_be_empty(&mut schema);
    schema.to_value()
}

/// Lets `${VARIABLE}` stand for every number, boolean, word and text with a form.
#[derive(Debug, Clone)]
struct Variables;

impl Transform for Variables {
    fn transform(&mut self, schema: &mut Schema) {
        transform_subschemas(self, schema);
        let Some(object) = schema.as_object_mut() else { return };
        if let Some(words) = object.get("enum").or_else(|| object.get("const")).cloned() {
            let words = if words.is_array() { words } else { json!([words]) };
            let description = object.remove("description");
            object.clear();
            object.extend(description.map(|text| ("description".to_owned(), text)));
            object.insert("anyOf".to_owned(), json!([{ "enum": words }, { "type": "string", "pattern": VARIABLE }]));
            return;
        }
        let Some(kind) = object.get("type") else { return };
        let mut kinds: Vec<Value> = kind.as_array().cloned().unwrap_or_else(|| vec![kind.clone()]);
        let typed = kinds.iter().any(|kind| matches!(kind.as_str(), Some("integer" | "number" | "boolean")));
        let pattern = object.get("pattern").and_then(Value::as_str).map(|form| format!("{form}|{VARIABLE}"));
        match pattern {
            Some(pattern) => {
                object.insert("pattern".to_owned(), pattern.into());
            }
            None if typed => {
                kinds.push("string".into());
                object.insert("type".to_owned(), kinds.into());
                object.insert("pattern".to_owned(), VARIABLE.into());
            }
            None => {}
        }
    }
}

/// Takes out what says nothing to a reader of YAML: Rust's widths of numbers.
fn tidy(schema: &mut Schema) {
    if schema.get("format").and_then(Value::as_str).is_some_and(|format| format.starts_with("uint")) {
        schema.remove("format");
    }
}

/// A section with everything in it commented out is an empty one.
fn sections_may_be_empty(schema: &mut Schema) {
    let sections = schema.get_mut("properties").and_then(Value::as_object_mut);
    for (_, section) in sections.into_iter().flatten() {
        let Some(object) = section.as_object_mut() else { continue };
        match object.remove("$ref") {
            Some(reference) => {
                object.insert("anyOf".to_owned(), json!([{ "$ref": reference }, { "type": "null" }]));
            }
            None => {
                if let Some(kind) = object.get_mut("type") {
                    *kind = json!([kind.take(), "null"]);
                }
            }
        }
    }
}

/// The tables of the reference, as Markdown: one for each section, with key, type, default and meaning.
pub fn reference() -> String {
    let schema = schema();
    let mut out = String::new();
    let mut waiting = vec![("the top level".to_owned(), schema.clone())];
    let mut seen = BTreeSet::new();
    while !waiting.is_empty() {
        let (path, section) = waiting.remove(0);
        let _ = write!(out, "### {}\n\n{}\n\n", title(&path), section["description"].as_str().unwrap_or_default());
        out.push_str("| key | type | default | meaning |\n|---|---|---|---|\n");
        let required = section["required"].as_array().cloned().unwrap_or_default();
        for (key, property) in section["properties"].as_object().into_iter().flatten() {
            let is_required = required.iter().any(|name| name == key);
            let default = default(property, is_required);
            let meaning = property["description"].as_str().unwrap_or_default().replace('|', "\\|");
            let _ = writeln!(out, "| `{key}` | {} | {default} | {meaning} |", kind(property));
            let inner = if path == "the top level" { key.clone() } else { format!("{path}.{key}") };
            if let Some((suffix, name)) = section_of(property)
                && seen.insert(name.clone())
            {
                waiting.push((inner + suffix, schema["$defs"][&name].clone()));
            }
        }
        out.push('\n');
    }
    out
}

fn title(path: &str) -> String {
    if path == "the top level" { "The top level".to_owned() } else { format!("`{path}`") }
}

/// The struct that a property holds, alone, in a list or by name; with what its path ends with.
fn section_of(property: &Value) -> Option<(&'static str, String)> {
    let struct_name = |value: &Value| {
        let name = target(value)?;
        (!WORDS.iter().any(|(value, _)| *value == name)).then_some(name)
    };
    if let Some(name) = struct_name(property) {
        return Some(("", name));
    }
    if let Some(name) = struct_name(&property["items"]) {
        return Some(("[]", name));
    }
    struct_name(&property["additionalProperties"]).map(|name| (".NAME", name))
}

/// Types that are one value, and the word for them in the tables.
const WORDS: &[(&str, &str)] = &[
    ("Duration", "duration"),
    ("DurationOrOff", "duration or `off`"),
    ("ByteSize", "size"),
    ("Usd", "price"),
    ("Expiry", "date"),
    ("Secret", "secret"),
    ("AuthScheme", "word or mapping"),
    ("Reasoning", "word"),
    ("Prefill", "word"),
    ("Stdout", "word"),
    ("Level", "word"),
    ("Quotas", "quota or list"),
    ("Spends", "money or list"),
    ("Texts", "text or list"),
    ("Portion", "percentage"),
    ("Zone", "`UTC` or distance"),
    ("Algorithm", "word"),
    ("Unpriced", "word"),
    ("Fail", "word"),
    ("Partition", "word"),
    ("PromptMarks", "word"),
    ("CacheFinish", "word"),
    ("Pieces", "word"),
    ("OnExhausted", "word or mapping"),
    ("Away", "word"),
    ("Share", "percentage"),
    ("After", "duration or quantile"),
    ("Source", "text"),
    ("When", "condition"),
    ("By", "word"),
    ("Lock", "word"),
    ("Ability", "word"),
    ("DataCollection", "word"),
    ("Demand", "word"),
    ("Fail", "word"),
];

/// The definition that a schema refers to, also when null or a word may stand instead.
fn target(schema: &Value) -> Option<String> {
    match schema["$ref"].as_str() {
        Some(reference) => reference.rsplit('/').next().map(str::to_owned),
        None => schema["anyOf"].as_array()?.iter().find_map(target),
    }
}

fn kind(property: &Value) -> String {
    if let Some(name) = target(property) {
        let word = WORDS.iter().find(|(of, _)| *of == name).map_or("mapping", |(_, word)| word);
        return word.to_owned();
    }
    let kinds = property["type"].as_array().cloned().unwrap_or_else(|| vec![property["type"].clone()]);
    let has = |kind: &str| kinds.iter().any(|it| it == kind);
    if has("array") {
        let items = &property["items"];
        return if target(items).is_some() { "list of mappings".to_owned() } else { "list of texts".to_owned() };
    }
    if has("object") {
        return match &property["additionalProperties"] {
            Value::Object(values) if values.get("type") == Some(&json!("string")) => "texts by name".to_owned(),
            values if target(values).is_some() => "mappings by name".to_owned(),
            _ => "values by name".to_owned(),
        };
    }
    let word = match () {
        () if has("integer") => "whole number",
        () if has("number") => "number",
        () if has("boolean") => "`true` or `false`",
        () => "text",
    };
    word.to_owned()
}

fn default(property: &Value, is_required: bool) -> String {
    if is_required {
        return "required".to_owned();
    }
    match property.get("default") {
        None | Some(Value::Null) => "not set".to_owned(),
        Some(Value::String(text)) => format!("`{text}`"),
        Some(Value::Array(items)) if items.is_empty() => "none".to_owned(),
        Some(Value::Array(items)) => {
            let texts = items.iter().filter_map(Value::as_str).map(|text| format!("`{text}`"));
            texts.collect::<Vec<_>>().join(", ")
        }
        Some(Value::Object(entries)) => {
            // A section's defaults stand in its own table.
            let below = target(property).is_some();
            if below && !is_unset(entries) { "see below".to_owned() } else { "none".to_owned() }
        }
        Some(other) => format!("`{other}`"),
    }
}

fn is_unset(entries: &Map<String, Value>) -> bool {
    entries.values().all(|value| match value {
        Value::Null => true,
        Value::Object(inner) => inner.is_empty(),
        Value::Array(inner) => inner.is_empty(),
        _ => false,
    })
}
