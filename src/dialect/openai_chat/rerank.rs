//! `/rerank`, the caller's side: the form that Cohere began and that vLLM, Jina and others serve beside OpenAI's own paths.
//!
//! Read and written for adapters only; a provider that serves it itself is relayed.

use serde_json::{Value, json};

use super::fields::{self, Fields, invalid};
use super::usage;
use crate::dialect::RawAsk;
use crate::fault::{Fault, Kind};
use crate::rerank::{RerankAnswer, RerankAsk};

pub(super) fn decode(raw: &RawAsk<'_>) -> Result<RerankAsk, Fault> {
    let mut fields = fields::body(raw.body)?;
    let documents = fields.array("documents")?.ok_or_else(|| invalid("documents", "is missing"))?;
    if documents.is_empty() {
        return Err(invalid("documents", "must not be empty"));
    }
    Ok(RerankAsk {
        model: fields.needed_string("model")?,
        query: fields.needed_string("query")?,
        documents: documents.into_iter().map(text).collect::<Result<_, _>>()?,
        top_n: fields.uint("top_n")?,
        with_documents: fields.bool("return_documents")?.unwrap_or(false),
    })
}

/// A document: its text, or an object that holds it.
fn text(document: Value) -> Result<String, Fault> {
    match document {
        Value::String(text) => Ok(text),
        Value::Object(_) => Fields::of(document, "documents")?.needed_string("text"),
        _ => {
            Err(Fault::new(Kind::InvalidRequest, "A document is a text, or an object with `text`.").param("documents"))
        }
    }
}

pub(super) fn encode(answer: &RerankAnswer, ask: &RerankAsk, id: &str) -> Vec<u8> {
    let results = answer.ranked.iter().map(|ranked| {
        let mut result = json!({ "index": ranked.index, "relevance_score": ranked.score });
        let document = usize::try_from(ranked.index).ok().and_then(|index| ask.documents.get(index));
        if let Some(text) = document.filter(|_| ask.with_documents) {
            result["document"] = json!({ "text": text });
        }
        result
    });
    let model = if answer.model.is_empty() { &ask.model } else { &answer.model };
    let mut body = json!({ "id": id, "model": model, "results": results.collect::<Value>() });
    if let Some(used) = &answer.usage {
        body["usage"] = usage::write(used);
    }
    body.to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::Usage;
    use crate::dialect::Op;
    use crate::rerank::Ranked;

    fn ask(body: &Value) -> Result<RerankAsk, Fault> {
        decode(&RawAsk { op: Op::Rerank, body: body.to_string().as_bytes(), model: None, stream: false })
    }

    #[test]
    fn documents_are_texts_or_hold_them_and_come_back_where_they_are_wanted() {
        let body = json!({ "model": "m", "query": "q", "documents": ["a", { "text": "b" }], "return_documents": true });
        let asked = ask(&body).expect("reads");
        assert_eq!(asked.documents, ["a", "b"]);
        let ranked = vec![Ranked { index: 1, score: 0.5 }, Ranked { index: 0, score: 0.25 }];
        let usage = Some(Usage { input: 4, ..Usage::default() });
        let answer = RerankAnswer { model: String::new(), ranked, usage };
        let written: Value = serde_json::from_slice(&encode(&answer, &asked, "gen-1")).expect("JSON");
        let first = json!({ "index": 1, "relevance_score": 0.5, "document": { "text": "b" } });
        assert_eq!((&written["model"], &written["results"][0]), (&json!("m"), &first));
        assert_eq!(written["usage"]["total_tokens"], 4);
        for (wrong, at) in [
            (json!({ "model": "m", "query": "q" }), "documents"),
            (json!({ "model": "m", "query": "q", "documents": [] }), "documents"),
            (json!({ "model": "m", "query": "q", "documents": [1] }), "documents"),
            (json!({ "model": "m", "documents": ["a"] }), "query"),
        ] {
            assert_eq!(ask(&wrong).expect_err("refused").param.as_deref(), Some(at), "{wrong}");
        }
    }
}
