//! `GET /v1/models` and `/v1/models/{id}` in the three forms that SDKs read. Any other name works too; these are the
//! ones with a meaning of their own.

use serde_json::{Value, json};

use super::answer::{Answer, Dialect, Outcome, Turn};
use super::refusal::Refusal;
use super::trouble::TROUBLES;
use super::wire::Request;

/// The models that are no faults, with what they do.
const MODELS: &[(&str, &str)] = &[
    ("mock-fast", "answers at once"),
    ("mock-realistic", "first token after 300 ms, then about 50 tokens a second"),
    ("mock-reasoning", "reasons without being asked"),
    ("mock-tools", "calls a tool whenever there is one"),
];

/// When the models were made: any date does.
const CREATED: u64 = 1_767_225_600;

fn all() -> Vec<(String, String)> {
    let models = MODELS.iter().map(|(name, what)| ((*name).to_owned(), (*what).to_owned()));
    let faults = TROUBLES.iter().map(|(name, _, what)| (format!("mock-fault-{name}"), format!("fault: {what}")));
    models.chain(faults).collect()
}

/// The form that the caller reads: its headers and the path tell.
pub fn dialect(request: &Request) -> Dialect {
    if request.header("anthropic-version").is_some() {
        Dialect::Anthropic
    } else if request.path.starts_with("/v1beta") || request.header("x-goog-api-key").is_some() {
        Dialect::Gemini
    } else {
        Dialect::OpenAi
    }
}

pub fn list(turn: &Turn<'_>) -> Outcome {
    let dialect = dialect(turn.request);
    let entries: Vec<Value> = all().iter().map(|(name, what)| entry(dialect, name, what)).collect();
    Ok(Answer::json(match dialect {
        Dialect::OpenAi | Dialect::Responses => json!({"object": "list", "data": entries}),
        Dialect::Anthropic => {
            let (first, last) = (entries.first().cloned(), entries.last().cloned());
            let id = |entry: Option<Value>| entry.map(|entry| entry["id"].clone());
            json!({"data": entries, "has_more": false, "first_id": id(first), "last_id": id(last)})
        }
        Dialect::Gemini => json!({"models": entries}),
    }))
}

pub fn one(turn: &Turn<'_>, name: &str) -> Outcome {
    let dialect = dialect(turn.request);
    if name.is_empty() {
        return Err(Refusal::misuse(dialect, "The model has no name."));
    }
    let what = all().into_iter().find(|(known, _)| known == name).map_or("any name works".to_owned(), |(_, what)| what);
    Ok(Answer::json(entry(dialect, name, &what)))
}

fn entry(dialect: Dialect, name: &str, what: &str) -> Value {
    match dialect {
        Dialect::OpenAi | Dialect::Responses => {
            json!({"id": name, "object": "model", "created": CREATED, "owned_by": "mock"})
        }
        Dialect::Anthropic => json!({
            "type": "model", "id": name, "display_name": name, "created_at": "2026-01-01T00:00:00Z",
            "max_input_tokens": 200_000, "max_tokens": 64_000,
        }),
        Dialect::Gemini => json!({
            "name": format!("models/{name}"), "version": "001", "displayName": name, "description": what,
            "inputTokenLimit": 1_048_576, "outputTokenLimit": 65_536,
            "supportedGenerationMethods": [
                "generateContent", "streamGenerateContent", "countTokens", "embedContent", "batchEmbedContents",
            ],
            "temperature": 1, "topP": 0.95, "topK": 64, "maxTemperature": 2, "thinking": true,
        }),
    }
}
