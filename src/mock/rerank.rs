//! `POST /rerank`, the form that Cohere began and OpenAI-compatible servers have beside OpenAI's paths: documents by how
//! many of the query's words they hold.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::answer::{Answer, Outcome, Turn};
use super::openai::{self, required, unrecognized, wrong_type};
use super::refusal::Refusal;
use super::reply::tokens;

const FIELDS: &[&str] =
    &["model", "query", "documents", "top_n", "return_documents", "max_tokens_per_doc", "max_chunks_per_doc"];

/// Most documents in one request, as with Cohere.
const MAX_DOCUMENTS: usize = 1000;

pub fn answer(turn: &Turn<'_>) -> Outcome {
    let body = turn.body;
    unrecognized(turn, &[FIELDS])?;
    openai::ranges(body, &[("top_n", 1.0, f64::from(u32::MAX))])?;
    let query = match required(body, "query")? {
        Value::String(query) => query,
        other => return Err(wrong_type("query", "a string", other)),
    };
    let documents = documents(required(body, "documents")?)?;
    let wanted = words(query);
    let score = |text: &str| wanted.intersection(&words(text)).count() as f64 / wanted.len().max(1) as f64;
    let mut ranked: Vec<(usize, f64)> = documents.iter().map(|text| score(text)).enumerate().collect();
    // Those that are as fit as each other stay in their order.
    ranked.sort_by(|a, b| b.1.total_cmp(&a.1));
    ranked.truncate(body["top_n"].as_u64().and_then(|most| usize::try_from(most).ok()).unwrap_or(ranked.len()));
    let results = ranked.into_iter().map(|(index, score)| {
        let mut result = json!({"index": index, "relevance_score": score});
        if body["return_documents"] == true {
            result["document"] = json!({"text": documents[index]});
        }
        result
    });
    let results: Vec<Value> = results.collect();
    let used = tokens(query) + documents.iter().map(|text| tokens(text)).sum::<u64>();
    Ok(Answer::json(json!({
        "id": turn.state.id("rerank-", 22), "model": turn.model, "results": results,
        "usage": {"prompt_tokens": used, "total_tokens": used},
    })))
}

/// The texts: each as such, or in an object.
fn documents(given: &Value) -> Result<Vec<&str>, Refusal> {
    let Value::Array(list) = given else { return Err(wrong_type("documents", "an array", given)) };
    if list.is_empty() || list.len() > MAX_DOCUMENTS {
        let message = format!("'$.documents' is invalid. It must hold between 1 and {MAX_DOCUMENTS} documents.");
        return Err(Refusal::openai(message, None, None));
    }
    list.iter().enumerate().map(|(at, document)| text(document, at)).collect()
}

fn text(document: &Value, at: usize) -> Result<&str, Refusal> {
    let refused = || wrong_type(&format!("documents[{at}]"), "a string or an object with text", document);
    document.as_str().or(document["text"].as_str()).ok_or_else(refused)
}

fn words(text: &str) -> HashSet<String> {
    let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    words.map(str::to_lowercase).collect()
}
