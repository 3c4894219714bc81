//! Citations of other dialects as `url_citation` annotations.
//!
//! Only what points to a URL can be expressed; passages of the caller's own documents are left out.

use serde_json::{Value, json};

use super::NAME;

/// The annotation for a citation on the characters `from..to` of the message.
pub(super) fn write(citation: &Value, source: &str, from: usize, to: usize) -> Option<Value> {
    if source == NAME {
        return Some(citation.clone());
    }
    // Responses and Anthropic say `url`; Gemini's grounding says `uri`, under `web`.
    let inner = citation.get("web").unwrap_or(citation);
    let url = ["url", "uri"].iter().find_map(|key| inner.get(*key)?.as_str())?;
    let title = inner.get("title").and_then(Value::as_str).unwrap_or_default();
    let place = |key: &str, otherwise: usize| citation.get(key).and_then(Value::as_u64).unwrap_or(otherwise as u64);
    Some(json!({ "type": "url_citation", "url_citation": {
        "url": url, "title": title, "start_index": place("start_index", from), "end_index": place("end_index", to) } }))
}
