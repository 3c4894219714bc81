//! Citations, of other dialects as `url_citation` annotations and of an answer as a whole as those that others read.
//!
//! Only what points to a URL can be expressed; passages of the caller's own documents are left out.

use serde_json::{Value, json};

use super::NAME;
use crate::chat::OVER_ANSWER;

/// The type of a citation that stands for a source of the whole answer. Callers of this dialect have it from there.
const SOURCE: &str = "source";

/// The annotation for a citation on a text that is the characters `from..to` of the message. Its own places are those in
/// that text, unless it says that they are those in the answer.
pub(super) fn write(citation: &Value, source: &str, from: usize, to: usize) -> Option<Value> {
    if source == NAME {
        return Some(citation.clone()).filter(|citation| citation["type"] != SOURCE);
    }
    // Responses and Anthropic say `url`; Gemini's grounding says `uri`, under `web`.
    let inner = citation.get("web").unwrap_or(citation);
    let url = ["url", "uri"].iter().find_map(|key| inner.get(*key)?.as_str())?;
    let title = inner.get("title").and_then(Value::as_str).unwrap_or_default();
    let before = if citation.get(OVER_ANSWER).is_some() { 0 } else { from as u64 };
    let stated = |key: &str| citation.get(key).and_then(Value::as_u64).map(|place| before + place);
    let place = |key: &str, otherwise: usize| stated(key).unwrap_or(otherwise as u64);
    Some(json!({ "type": "url_citation", "url_citation": {
        "url": url, "title": title, "start_index": place("start_index", from), "end_index": place("end_index", to) } }))
}

/// The sources that an answer names as a whole, each URL once: the `citations` of Perplexity and xAI, mere URLs, and
/// the `search_results` of Perplexity, which have titles.
pub(super) fn sources(citations: Option<&Value>, results: Option<&Value>) -> Vec<Value> {
    let list = |value: Option<&'_ Value>| value.and_then(Value::as_array).cloned().unwrap_or_default();
    let results = list(results);
    let title_of = |url: &str| {
        let result = results.iter().find(|result| url_of(result) == Some(url));
        result.and_then(|result| result.get("title")?.as_str())
    };
    let mut found: Vec<Value> = Vec::new();
    for named in list(citations).iter().chain(&results) {
        let Some(url) = url_of(named).filter(|url| !found.iter().any(|known| known["url"] == *url)) else { continue };
        let mut source = json!({ "type": SOURCE, "url": url });
        if let Some(title) = title_of(url).or_else(|| named.get("title")?.as_str()) {
            source["title"] = title.into();
        }
        found.push(source);
    }
    found
}

/// Those of the sources that no annotation of the text names.
pub(super) fn further<'a>(sources: &'a [Value], cited: &'a [Value]) -> impl Iterator<Item = &'a Value> {
    let named = |source: &&Value| cited.iter().any(|citation| url_of(citation) == url_of(source));
    sources.iter().filter(move |source| !named(source))
}

/// The URL of an annotation, a search result, or a citation that is nothing else.
fn url_of(value: &Value) -> Option<&str> {
    let inner = value.get("url_citation").unwrap_or(value);
    inner.as_str().or_else(|| inner.get("url")?.as_str()).filter(|url| !url.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_source_is_named_once_with_its_title() {
        let citations = json!(["https://a.example/", "https://b.example/", "https://a.example/", "", 7]);
        let results =
            json!([{ "url": "https://b.example/", "title": "B", "date": null }, { "url": "https://c.example/" }]);
        let found = sources(Some(&citations), Some(&results));
        let expected = [
            json!({"type": "source", "url": "https://a.example/"}),
            json!({"type": "source", "url": "https://b.example/", "title": "B"}),
            json!({"type": "source", "url": "https://c.example/"}),
        ];
        assert_eq!(found, expected);
        assert_eq!(sources(None, Some(&json!("odd"))), [] as [Value; 0]);
        let cited = [json!({"type": "url_citation", "url_citation": {"url": "https://b.example/"}})];
        assert!(further(&found, &cited).eq([&expected[0], &expected[2]]));
        assert_eq!(write(&found[0], NAME, 0, 3), None, "the answer itself names it");
    }
}
