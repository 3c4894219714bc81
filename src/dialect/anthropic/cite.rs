//! Citations between dialects.
//!
//! Anthropic's SDKs know a closed set of citation types, so a foreign citation is put into the nearest of them or left
//! out; it is never passed on in a shape that would break a client.

use serde_json::{Value, json};

use super::wire::str_of;

/// Whether a citation has one of Anthropic's own shapes.
fn is_own(citation: &Value) -> bool {
    str_of(citation, "type").is_some_and(|kind| kind.ends_with("_location"))
}

/// Whether Anthropic made it: [`for_client`] leaves a mark on those it makes up.
pub fn is_genuine(citation: &Value) -> bool {
    is_own(citation) && str_of(citation, "encrypted_index") != Some("")
}

/// A citation as an Anthropic client can read it. URLs become results of a web search; others have no equal.
pub fn for_client(citation: &Value) -> Option<Value> {
    if is_own(citation) {
        return Some(citation.clone());
    }
    // OpenAI chat nests it under its type, Responses does not.
    let citation = citation.get("url_citation").unwrap_or(citation);
    let url = str_of(citation, "url").or_else(|| str_of(citation, "uri"))?;
    Some(json!({
        "type": "web_search_result_location",
        "cited_text": str_of(citation, "cited_text").unwrap_or_default(),
        "url": url,
        "title": str_of(citation, "title").unwrap_or_default(),
        "encrypted_index": "",
    }))
}
