//! The effective configuration as YAML: every default visible, every secret masked.
//!
//! What it prints can be read again and means the same, secrets apart. Never prints a secret: their type does not
//! let it.

use std::fmt::Write;

use serde_json::Value;

use super::Config;
use super::check::without_user;
use super::tree::resolve;
use super::value::secret::{self, MASK};

/// The same with a mark on every secret, by which two prints of this process show that it has changed.
pub fn print_marked(config: &Config) -> String {
    secret::marked(|| print(config))
}

/// The configuration as it counts. A setting without a value stands as a comment; in providers, models, prices and
/// keys, where nothing set means "as above" or "as built in", it is left out.
pub fn print(config: &Config) -> String {
    let mut value = serde_json::to_value(config).unwrap_or_default();
    hide_resolved(&mut value);
    for entries in
        [&["providers"][..], &["models"], &["prices", "models"], &["keys"], &["limits"], &["budgets"], &["hooks"]]
    {
        let entries = entries.iter().try_fold(&mut value, |value, name| value.get_mut(name));
        match entries {
            Some(Value::Object(entries)) => entries.values_mut().for_each(drop_unset),
            Some(Value::Array(entries)) => entries.iter_mut().for_each(drop_unset),
            _ => {}
        }
    }
    let mut out = String::new();
    mapping(&value, 0, &mut out);
    out
}

/// Hides what may be a secret in fields that are not secrets by type: headers that carry credentials by their name, and
/// the user of a proxy's URL, and what such names stand for in the query of a base URL.
pub(super) fn mask_provider(provider: &mut Value) {
    const TELLING: &[&str] = &["auth", "key", "token", "secret", "cookie", "password", "credential"];
    let tells = |name: &str| {
        let name = name.to_ascii_lowercase();
        TELLING.iter().any(|word| name.contains(word))
    };
    for (name, value) in provider["headers"].as_object_mut().into_iter().flatten() {
        if tells(name) {
            *value = secret::masked(value.as_str().unwrap_or(MASK)).into();
        }
    }
    let proxy = provider["proxy"].as_str().filter(|proxy| proxy.contains('@')).map(without_user);
    if let Some(proxy) = proxy {
        provider["proxy"] = proxy.replacen("://", "://***@", 1).into();
    }
    if let Some((base, query)) = provider["base_url"].as_str().and_then(|url| url.split_once('?')) {
        let parts = query.split('&').map(|part| match part.split_once('=') {
            Some((name, value)) if tells(name) => format!("{name}={}", secret::masked(value)),
            _ => part.to_owned(),
        });
        provider["base_url"] = format!("{base}?{}", parts.collect::<Vec<_>>().join("&")).into();
    }
}

/// A secret that was read from a file or a variable is printed as that reference alone, but for its mark.
fn hide_resolved(value: &mut Value) {
    let marked = secret::are_marked();
    let providers = value.get_mut("providers").and_then(Value::as_object_mut);
    for (_, provider) in providers.into_iter().flatten() {
        mask_provider(provider);
        if marked {
            continue;
        }
        if !provider["api_key_file"].is_null() {
            provider["api_key"] = Value::Null;
        }
        for key in provider["keys"].as_array_mut().into_iter().flatten() {
            if !key["file"].is_null() || !key["env"].is_null() {
                key["key"] = Value::Null;
            }
        }
    }
    if marked {
        return;
    }
    for key in value.get_mut("keys").and_then(Value::as_array_mut).into_iter().flatten() {
        if !key["file"].is_null() || !key["env"].is_null() {
            key["key"] = Value::Null;
        }
    }
}

/// Takes out what is not set, however deep, but for free parameters, which may be null for a reason.
fn drop_unset(value: &mut Value) {
    let is_unset = |value: &Value| match value {
        Value::Null => true,
        Value::Object(entries) => entries.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    };
    match value {
        Value::Object(entries) => {
            let written = entries.iter_mut().filter(|(name, _)| !is_parameters(name));
            written.for_each(|(_, value)| drop_unset(value));
            entries.retain(|_, value| !is_unset(value));
        }
        Value::Array(items) => items.iter_mut().for_each(drop_unset),
        _ => {}
    }
}

/// The keys under which parameters of any kind stand.
fn is_parameters(name: &str) -> bool {
    matches!(name, "set" | "default" | "config")
}

/// The entries of a mapping, each on its own line or lines.
fn mapping(value: &Value, indent: usize, out: &mut String) {
    for (name, value) in value.as_object().into_iter().flatten() {
        let _ = write!(out, "{:indent$}", "");
        entry(name, value, indent, out);
    }
}

fn entry(name: &str, value: &Value, indent: usize, out: &mut String) {
    let key = text(name, true);
    let _ = match value {
        Value::Null => writeln!(out, "# {key}: not set"),
        Value::Object(entries) if !entries.is_empty() && !is_parameters(name) => {
            let _ = writeln!(out, "{key}:");
            mapping(value, indent + 2, out);
            Ok(())
        }
        Value::Array(items) if items.iter().any(Value::is_object) => {
            let _ = writeln!(out, "{key}:");
            items.iter().for_each(|item| list_item(item, indent + 2, out));
            Ok(())
        }
        _ => writeln!(out, "{key}: {}", flow(value)),
    };
}

/// `- ` and the item; the entries of a mapping follow each other under the first.
fn list_item(item: &Value, indent: usize, out: &mut String) {
    let entries = item.as_object().filter(|entries| !entries.is_empty());
    if entries.is_none() {
        let _ = writeln!(out, "{:indent$}- {}", "", flow(item));
    }
    for (place, (name, value)) in entries.into_iter().flatten().enumerate() {
        let _ = write!(out, "{:indent$}{}", "", if place == 0 { "- " } else { "  " });
        entry(name, value, indent + 2, out);
    }
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
    // 12:30:00 was a number of base 60 in YAML 1.1.
    let whole = text.split('.').next().unwrap_or_default();
    let sexagesimal = whole.contains(':') && whole.bytes().all(|byte| byte.is_ascii_digit() || byte == b':');
    if first && text.bytes().all(plain) && is_text && !sexagesimal {
        return text.to_owned();
    }
    let quoted = serde_json::to_string(text).unwrap_or_default();
    // A `${` that is meant as such; keys are not expanded.
    if is_key { quoted } else { quoted.replace("${", "$${") }
}
