//! The words in what only one dialect knows: blocks of a provider's own tools, searches, citations, fields to come.
//!
//! Every string in it is a text, whatever it is called: what is not known to be no words must be seen. Left out are names
//! of kinds, ids, sealed values, and bytes in base64.

use serde_json::{Map, Value};

/// Names of strings that are never words: what a model is not shown, or cannot read.
const NO_WORDS: &[&str] = &[
    "type",
    "id",
    "role",
    "status",
    "phase",
    "part",
    "level",
    "detail",
    "format",
    "mimeType",
    "mime_type",
    "media_type",
    "signature",
    "thoughtSignature",
    "thought_signature",
];

/// Names of objects that a tool is called with, or a stored prompt. Their keys are the caller's, so they are one text, in
/// JSON.
const CALLED_WITH: &[&str] = &["input", "args", "arguments", "variables"];

/// Names of strings that may be bytes.
const DATA: &[&str] = &["data", "file_data", "b64_json"];

/// Where a string stands.
#[derive(Debug, Clone, Copy, Default)]
struct Place<'a> {
    name: &'a str,
    /// The object around it says that it holds text.
    in_text: bool,
    /// The object around it is a picture that a tool has made.
    in_picture: bool,
}

/// Visits every text in a value that stands under this name, and says whether it is what a tool was called with.
pub fn words(name: &str, value: &mut Value, each: &mut dyn FnMut(bool, &mut String)) {
    walk(Place { name, ..Place::default() }, value, each);
}

fn walk(place: Place<'_>, value: &mut Value, each: &mut dyn FnMut(bool, &mut String)) {
    match value {
        Value::String(text) if is_word(place, text) => {
            let called = CALLED_WITH.contains(&place.name) && super::turns::is_object(text);
            each(called, text);
        }
        Value::Array(items) => items.iter_mut().for_each(|item| walk(place, item, each)),
        Value::Object(fields) if CALLED_WITH.contains(&place.name) => {
            let mut text = Value::Object(std::mem::take(fields)).to_string();
            let before = text.clone();
            each(true, &mut text);
            // What is no object any more is refused by who replaces it.
            *fields = serde_json::from_str(&text).or_else(|_| serde_json::from_str(&before)).unwrap_or_default();
        }
        Value::Object(fields) => {
            let (in_text, in_picture) = (is_text(fields), kind(fields) == "image_generation_call");
            for (name, value) in fields.iter_mut() {
                walk(Place { name, in_text, in_picture }, value, each);
            }
        }
        _ => {}
    }
}

fn is_word(place: Place<'_>, text: &str) -> bool {
    let Place { name, in_text, in_picture } = place;
    let named =
        NO_WORDS.contains(&name) || name.ends_with("_id") || name.ends_with("Id") || name.starts_with("encrypted_");
    if text.is_empty() || named {
        return false;
    }
    if DATA.contains(&name) || (in_picture && name == "result") {
        return in_text || !is_base64(bytes_of(text));
    }
    let is_address = name.ends_with("url") || name.ends_with("uri") || name.ends_with("Uri");
    !(is_address && text.starts_with("data:") && is_base64(bytes_of(text)))
}

/// What follows the head of a `data:` URL.
fn bytes_of(text: &str) -> &str {
    text.strip_prefix("data:").and_then(|rest| rest.split_once(";base64,")).map_or(text, |(_, data)| data)
}

fn is_base64(data: &str) -> bool {
    data.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+/-_=".contains(&byte))
}

fn kind(fields: &Map<String, Value>) -> &str {
    fields.get("type").and_then(Value::as_str).unwrap_or_default()
}

fn is_text(fields: &Map<String, Value>) -> bool {
    let mime = ["media_type", "mimeType", "mime_type"].iter().find_map(|name| fields.get(*name)?.as_str());
    kind(fields) == "text" || mime.is_some_and(|mime| mime.starts_with("text/"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_string_is_a_text_but_ids_kinds_and_bytes() {
        let mut value = json!({
            "type": "code_execution_tool_result", "tool_use_id": "srvtoolu_1", "encrypted_content": "aGk=",
            "content": [
                { "type": "text", "media_type": "text/plain", "data": "plain" },
                { "type": "base64", "media_type": "image/png", "data": "iVBORw0KG==" },
                { "stdout": "one", "stderr": "", "return_code": 0 },
                { "image_url": "data:image/png;base64,aGk=", "url": "https://a.b/c" },
                { "type": "mystery", "data": "ann@corp.com", "said": ["two", { "more": "three" }] },
                { "type": "image_generation_call", "result": "iVBORw0KG" },
            ],
            "input": { "to": "ann" }, "arguments": "{\"to\":\"bob\"}",
        });
        let mut found = Vec::new();
        words("", &mut value, &mut |called, text| found.push((called, text.clone())));
        let expected = [
            (false, "plain"),
            (false, "one"),
            (false, "https://a.b/c"),
            (false, "ann@corp.com"),
            (false, "two"),
            (false, "three"),
            (true, r#"{"to":"ann"}"#),
            (true, r#"{"to":"bob"}"#),
        ];
        assert_eq!(found, expected.map(|(called, text)| (called, text.to_owned())));
        words("", &mut value, &mut |_, text| *text = text.replace("ann", "eve"));
        assert_eq!(value["input"], json!({ "to": "eve" }));
        assert_eq!(value["content"][4]["data"], "eve@corp.com");
    }
}
