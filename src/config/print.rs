//! The effective configuration as YAML: every default visible, every secret masked.
//!
//! What it prints can be read again and means the same, secrets apart. Never prints a secret: their type does not let
//! it.

use std::fmt::Write;

use serde_json::Value;

use super::Config;
use super::tree::resolve;

/// The configuration as it counts. What is not set and has no default of its own stands as a comment.
pub fn print(config: &Config) -> String {
    let mut value = serde_json::to_value(config).unwrap_or_default();
    hide_resolved(&mut value);
    let mut out = String::new();
    mapping(&value, 0, &mut out);
    out
}

/// A secret that was read from a file or a variable is printed as that reference alone.
fn hide_resolved(value: &mut Value) {
    let providers = value.get_mut("providers").and_then(Value::as_object_mut);
    for (_, provider) in providers.into_iter().flatten() {
        if !provider["api_key_file"].is_null() {
            provider["api_key"] = Value::Null;
        }
    }
    for key in value.get_mut("keys").and_then(Value::as_array_mut).into_iter().flatten() {
        if !key["file"].is_null() || !key["env"].is_null() {
            key["key"] = Value::Null;
        }
    }
}

/// The entries of a mapping, each on its own line or lines.
fn mapping(value: &Value, indent: usize, out: &mut String) {
    for (name, value) in value.as_object().into_iter().flatten() {
        let _ = write!(out, "{:indent$}", "");
        entry(name, value, indent, out);
    }
}

fn entry(name: &str, value: &Value, indent: usize, out: &mut String) {
    let name = text(name, true);
    match value {
        // Free parameters may be null for a reason; they stand inside `set` and `default`, which are printed flat.
        Value::Null => out.push_str(&format!("# {name}: not set\n")),
        Value::Object(entries) if entries.is_empty() => out.push_str(&format!("{name}: {{}}\n")),
        Value::Object(_) if matches!(name.as_str(), "set" | "default") => {
            out.push_str(&format!("{name}: {}\n", flow(value)));
        }
        Value::Object(_) => {
            out.push_str(&format!("{name}:\n"));
            mapping(value, indent + 2, out);
        }
        Value::Array(items) if items.iter().any(Value::is_object) => {
            out.push_str(&format!("{name}:\n"));
            for item in items {
                list_item(item, indent + 2, out);
            }
        }
        _ => out.push_str(&format!("{name}: {}\n", flow(value))),
    }
}

/// `- ` and the item; the entries of a mapping follow each other under the first.
fn list_item(item: &Value, indent: usize, out: &mut String) {
    let set: serde_json::Map<String, Value> = match item {
        Value::Object(entries) => entries.iter().filter(|(_, value)| !value.is_null()).map(own).collect(),
        _ => serde_json::Map::new(),
    };
    if set.is_empty() {
        let _ = writeln!(out, "{:indent$}- {}", "", flow(item));
    }
    for (place, (name, value)) in set.iter().enumerate() {
        let _ = write!(out, "{:indent$}{}", "", if place == 0 { "- " } else { "  " });
        entry(name, value, indent + 2, out);
    }
}

fn own((name, value): (&String, &Value)) -> (String, Value) {
    (name.clone(), value.clone())
}

/// A value on one line.
fn flow(value: &Value) -> String {
    match value {
        Value::String(string) => text(string, false),
        Value::Array(items) => format!("[{}]", items.iter().map(flow).collect::<Vec<_>>().join(", ")),
        Value::Object(entries) => {
            let entries = entries.iter().map(|(name, value)| format!("{}: {}", text(name, true), flow(value)));
            format!("{{{}}}", entries.collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}

/// A text without quotes where every reader takes it for text; else in JSON's quotes, which are YAML's too.
fn text(text: &str, is_key: bool) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b'/' | b':' | b'+');
    let first = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'/');
    // `off` is a word of this configuration, and read as itself also when it was written back as a boolean.
    let habit = matches!(text.to_ascii_lowercase().as_str(), "y" | "n" | "yes" | "no" | "on");
    let is_text = resolve(text).is_none() && !habit && !text.ends_with(':') && !text.contains(": ");
    // A number such as 12:30:00 was a base-60 number in YAML 1.1.
    let sexagesimal = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b':' || byte == b'.');
    if first && text.bytes().all(plain) && is_text && !sexagesimal {
        return text.to_owned();
    }
    let quoted = serde_json::to_string(text).unwrap_or_default();
    // A `${` that is meant as such; keys are not expanded.
    if is_key { quoted } else { quoted.replace("${", "$${") }
}
