//! Where an answer's text comes from, as the citations of URLs that other dialects know.
//!
//! Gemini says it in fields of the candidate, which its own callers get back as they came; what is made here stands
//! beside them and is for callers of other dialects. Sources without a URL are not cited.

use serde_json::{Map, Value, json};

use super::NAME;
use super::answer::ANNOTATIONS;
use super::field::{self, Object, put};
use crate::chat::OVER_ANSWER;

/// The citations in a candidate's annotations, each an object of one field. `text` is all that the answer says so far.
pub fn cited(annotations: &[Value], text: &str) -> Vec<Value> {
    let fields = annotations.iter().filter_map(Value::as_object).flatten();
    fields.flat_map(|(name, value)| citations(name, value, text)).collect()
}

fn citations(name: &str, value: &Value, text: &str) -> Vec<Value> {
    match name {
        "groundingMetadata" => grounding(value, text),
        "citationMetadata" => {
            let sources = list(value, "citations").iter().chain(list(value, "citationSources"));
            sources.filter_map(|source| citation(source, span(source, text))).collect()
        }
        _ => Vec::new(),
    }
}

fn grounding(value: &Value, text: &str) -> Vec<Value> {
    let sources: Vec<Option<&Value>> = list(value, "groundingChunks").iter().map(source).collect();
    let mut found = Vec::new();
    for support in list(value, "groundingSupports") {
        let span = support.get("segment").and_then(|segment| span(segment, text));
        let indices = list(support, "groundingChunkIndices").iter().filter_map(Value::as_u64);
        let cited = indices.filter_map(|index| *sources.get(usize::try_from(index).ok()?)?);
        found.extend(cited.filter_map(|source| citation(source, span)));
    }
    // Sources that no passage points to are those of the whole.
    if found.is_empty() {
        found.extend(sources.into_iter().flatten().filter_map(|source| citation(source, None)));
    }
    found
}

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn source(chunk: &Value) -> Option<&Value> {
    ["web", "retrievedContext", "maps"].iter().find_map(|kind| chunk.get(*kind))
}

/// The passage between two places in the text.
type Span<'a> = (usize, usize, &'a str);

/// Google counts bytes, the others characters. Where the place does not fit the words, the words count.
fn span<'a>(segment: &Value, text: &'a str) -> Option<Span<'a>> {
    let at = |name: &str| segment.get(name).and_then(Value::as_u64).and_then(|at| usize::try_from(at).ok());
    let words = segment.get("text").and_then(Value::as_str);
    let start = at("startIndex").unwrap_or(0);
    let stated = at("endIndex").and_then(|end| Some((start, text.get(start..end)?)));
    let (start, passage) = match (stated, words) {
        (Some((start, passage)), words) if words.is_none_or(|words| words == passage) => (start, passage),
        (_, Some(words)) if !words.is_empty() => {
            let start = text.find(words)?;
            (start, &text[start..start + words.len()])
        }
        _ => return None,
    };
    let from = text[..start].chars().count();
    Some((from, from + passage.chars().count(), passage))
}

/// In the words of OpenAI's flat form, which all encoders read.
fn citation(source: &Value, span: Option<Span<'_>>) -> Option<Value> {
    let text = |name: &str| source.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    let mut citation: Map<String, Value> = field::object("type", "url_citation");
    citation.insert("url".into(), text("uri")?.into());
    put(&mut citation, "title", text("title"));
    if let Some((from, to, passage)) = span {
        citation.insert("start_index".into(), from.into());
        citation.insert("end_index".into(), to.into());
        citation.insert("cited_text".into(), passage.into());
        citation.insert(OVER_ANSWER.into(), true.into());
    }
    Some(Value::Object(citation))
}

/// Adds a citation to the annotations that a Gemini client gets with the candidate. Gemini's own are as they came; of
/// others the URLs are told as sources, without the passages, which no other dialect counts in bytes.
pub fn tell(annotations: &mut Object, citation: &Value, source: &str) {
    if source == NAME {
        let fields = citation.as_object().into_iter().flatten();
        let own = fields.filter(|(name, _)| ANNOTATIONS.contains(&name.as_str()));
        return annotations.extend(own.map(|(name, value)| (name.clone(), value.clone())));
    }
    // OpenAI chat nests it under its type.
    let inner = citation.get("url_citation").unwrap_or(citation);
    let text = |name: &str| inner.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    let Some(url) = text("url") else { return };
    let mut web = field::object("uri", url);
    put(&mut web, "title", text("title"));
    let chunk = Value::Object(field::object("web", web));
    let grounding = annotations.entry("groundingMetadata").or_insert_with(|| json!({"groundingChunks": []}));
    if let Some(Value::Array(chunks)) = grounding.get_mut("groundingChunks")
        && !chunks.contains(&chunk)
    {
        chunks.push(chunk);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passages_are_counted_in_characters_and_sources_without_a_url_are_left_out() {
        let text = "Köln liegt am Rhein. Bonn auch.";
        let metadata = json!({
            "groundingChunks": [
                {"web": {"uri": "https://a.example/", "title": "a"}},
                {"retrievedContext": {"text": "…", "fileSearchStore": "s"}},
                {"maps": {"uri": "https://maps.example/b"}},
            ],
            "groundingSupports": [
                {"segment": {"endIndex": 21, "text": "Köln liegt am Rhein."}, "groundingChunkIndices": [0, 1, 9]},
                {"segment": {"startIndex": 3, "endIndex": 900, "text": "Bonn auch."}, "groundingChunkIndices": [2]},
            ],
        });
        let cited = citations("groundingMetadata", &metadata, text);
        assert_eq!(
            cited,
            [
                json!({"type": "url_citation", "url": "https://a.example/", "title": "a", "start_index": 0,
                       "end_index": 20, "cited_text": "Köln liegt am Rhein.", "over_answer": true}),
                json!({"type": "url_citation", "url": "https://maps.example/b", "start_index": 21, "end_index": 31,
                       "cited_text": "Bonn auch.", "over_answer": true}),
            ]
        );
    }

    #[test]
    fn what_others_cite_is_told_once_a_source() {
        let mut told = Object::new();
        for citation in [
            json!({"type": "url_citation", "url_citation": {"url": "https://a.example/", "title": "a", "end_index": 3}}),
            json!({"type": "web_search_result_location", "url": "https://b.example/", "title": "", "cited_text": "x"}),
            json!({"type": "url_citation", "url": "https://a.example/", "title": "a", "start_index": 9}),
            json!({"type": "file_citation", "file_id": "f"}),
        ] {
            tell(&mut told, &citation, "elsewhere");
        }
        let chunks =
            json!([{"web": {"uri": "https://a.example/", "title": "a"}}, {"web": {"uri": "https://b.example/"}}]);
        assert_eq!(Value::Object(told), json!({"groundingMetadata": {"groundingChunks": chunks}}));
        let mut own = Object::new();
        tell(&mut own, &json!({"type": "url_citation", "url": "https://a.example/"}), NAME);
        assert!(own.is_empty(), "made for others");
    }

    #[test]
    fn sources_without_passages_and_recitations_are_cited() {
        let metadata = json!({"groundingChunks": [{"web": {"uri": "https://a.example/"}}], "webSearchQueries": ["q"]});
        assert_eq!(
            citations("groundingMetadata", &metadata, "x"),
            [json!({"type": "url_citation", "url": "https://a.example/"})]
        );
        let metadata = json!({"citations": [
            {"startIndex": 2, "endIndex": 4, "uri": "https://b.example/", "title": "b"}, {"license": "mit"}]});
        assert_eq!(
            citations("citationMetadata", &metadata, "abcdef"),
            [json!({"type": "url_citation", "url": "https://b.example/", "title": "b", "start_index": 2,
                    "end_index": 4, "cited_text": "cd", "over_answer": true})]
        );
        assert!(citations("urlContextMetadata", &json!({"urlMetadata": []}), "x").is_empty());
    }
}
