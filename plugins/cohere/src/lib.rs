//! Cohere's own API, version 2: `/v2/chat` whole and streamed, `/v2/embed`, `/v2/rerank`.
//!
//! Pure: asks in, requests out; answers in, neutral records out.

mod ask;
mod stream;

use portcullis_plugin::adapter::{
    AnyAsk, AuthKind, Description, Framing, Guest, HttpAnswer, HttpRequest, Model, Operation, Outcome,
};
use portcullis_plugin::chat::{
    Answer, Choice, Content, EmbedAnswer, Finish, FinishReason, Ranked, Reasoning, Refusal, RerankAnswer, ToolCall, Usage,
};
use portcullis_plugin::serde_json::{Value, json};
use portcullis_plugin::{self as sdk, block, nonsense};
use std::sync::OnceLock;

struct Cohere;

/// What the operator may set under `config`.
struct Config {
    /// What vectors are for: `search_document`, `search_query`, `classification`, `clustering`.
    input_type: String,
}

static CONFIG: OnceLock<Config> = OnceLock::new();

impl Guest for Cohere {
    type StreamDecoder = stream::Decoder;

    fn describe() -> Description {
        let model = |id: &str, context, max_output| Model { id: id.into(), context: Some(context), max_output };
        Description {
            title: "Cohere v2".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            auth: AuthKind::Bearer,
            operations: vec![Operation::Chat, Operation::Embed, Operation::Rerank],
            framing: Framing::Events,
            suggested_base_url: Some("https://api.cohere.com".into()),
            models: vec![
                model("command-a-03-2025", 256_000, Some(8_000)),
                model("command-a-reasoning-08-2025", 256_000, Some(32_000)),
                model("command-a-vision-07-2025", 128_000, Some(8_000)),
                model("command-r7b-12-2024", 128_000, Some(4_000)),
                model("embed-v4.0", 128_000, None),
                model("rerank-v3.5", 4_096, None),
            ],
        }
    }

    fn init(config: String) -> Result<(), String> {
        let mut input_type = "search_document".to_owned();
        if !config.is_empty() {
            let value: Value = config.parse().map_err(|error| format!("it is not JSON: {error}"))?;
            for (name, value) in value.as_object().ok_or("it must be a mapping")? {
                match (name.as_str(), value.as_str()) {
                    ("input_type", Some(text)) => input_type = text.to_owned(),
                    ("input_type", None) => return Err("`input_type` must be a word".into()),
                    _ => return Err(format!("there is no key `{name}`; it knows `input_type`")),
                }
            }
        }
        let _ = CONFIG.set(Config { input_type });
        Ok(())
    }

    fn encode(what: AnyAsk) -> Result<HttpRequest, Refusal> {
        match what {
            AnyAsk::Chat(ask) => ask::encode(&ask),
            AnyAsk::Embed(ask) => {
                let input_type = CONFIG.get().map_or("search_document", |config| config.input_type.as_str());
                let mut body = json!({
                    "model": ask.model, "texts": ask.inputs, "input_type": input_type, "embedding_types": ["float"],
                });
                sdk::set(&mut body, "output_dimension", ask.dimensions);
                Ok(sdk::post("/v2/embed", &body, false))
            }
            AnyAsk::Rerank(ask) => {
                let mut body = json!({ "model": ask.model, "query": ask.query, "documents": ask.documents });
                sdk::set(&mut body, "top_n", ask.top_n);
                Ok(sdk::post("/v2/rerank", &body, false))
            }
        }
    }

    fn decode(what: Operation, answer: HttpAnswer) -> Result<Outcome, Refusal> {
        let body = sdk::body(&answer)?;
        match what {
            Operation::Chat => chat(&body).map(Outcome::Chat),
            Operation::Embed => embed(&body).map(Outcome::Embed),
            Operation::Rerank => rerank(&body).map(Outcome::Rerank),
        }
    }

    fn decode_error(answer: HttpAnswer) -> Refusal {
        let message = match sdk::body(&answer) {
            Ok(body) => text(&body["message"]).unwrap_or_else(|| body.to_string()),
            Err(_) => sdk::text(&answer).chars().take(200).collect(),
        };
        // It has no codes, only words.
        let too_long = message.starts_with("too many tokens");
        let code = too_long.then(|| "context_length_exceeded".to_owned());
        Refusal { code, ..sdk::refusal(answer.status, message) }
    }
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

fn chat(body: &Value) -> Result<Answer, Refusal> {
    let message = body.get("message").ok_or_else(|| nonsense("There is no `message` in the answer."))?;
    let mut blocks = Vec::new();
    // What the model plans to do with its tools is said before they are called.
    if let Some(plan) = text(&message["tool_plan"]) {
        blocks.push(block(Content::Reasoning(Reasoning { text: plan, signature: None, encrypted: None })));
    }
    for part in message["content"].as_array().into_iter().flatten() {
        match part["type"].as_str() {
            Some("text") => blocks.push(sdk::text_block(text(&part["text"]).unwrap_or_default())),
            Some("thinking") => {
                let text = text(&part["thinking"]).unwrap_or_default();
                blocks.push(block(Content::Reasoning(Reasoning { text, signature: None, encrypted: None })));
            }
            _ => blocks.push(block(Content::Other(part.to_string()))),
        }
    }
    if let Some(citations) = message["citations"].as_array().filter(|citations| !citations.is_empty()) {
        if let Some(last) = blocks.iter_mut().rev().find(|block| matches!(block.content, Content::Text(_))) {
            last.citations = Value::Array(citations.clone()).to_string();
        }
    }
    for call in message["tool_calls"].as_array().into_iter().flatten() {
        blocks.push(block(Content::ToolCall(ToolCall {
            id: text(&call["id"]).unwrap_or_default(),
            name: text(&call["function"]["name"]).unwrap_or_default(),
            arguments: text(&call["function"]["arguments"]).unwrap_or_default(),
            custom: false,
            signature: None,
        })));
    }
    let finish = body["finish_reason"].as_str().map(finish);
    Ok(Answer {
        id: text(&body["id"]).unwrap_or_default(),
        model: String::new(),
        choices: vec![Choice { blocks, finish, logprobs: String::new() }],
        usage: usage(&body["usage"]),
    })
}

fn finish(word: &str) -> Finish {
    let reason = match word {
        "COMPLETE" => FinishReason::Stop,
        "STOP_SEQUENCE" => FinishReason::StopSequence,
        "MAX_TOKENS" => FinishReason::Length,
        "TOOL_CALL" => FinishReason::ToolCalls,
        "ERROR_TOXIC" => FinishReason::ContentFilter,
        _ => FinishReason::Error,
    };
    Finish { reason, native: Some(word.into()), stop_sequence: None }
}

/// `tokens` is what the model saw; `billed_units` leaves out the provider's own additions and is what is paid for.
fn usage(usage: &Value) -> Option<Usage> {
    let counts = [&usage["billed_units"], &usage["tokens"]].into_iter().find(|counts| counts.is_object())?;
    let count = |name: &str| counts[name].as_f64().map_or(0, |count| count as u64);
    Some(Usage {
        input: count("input_tokens"),
        output: count("output_tokens"),
        cache_read: usage["cached_tokens"].as_f64().map(|count| count as u64),
        cache_write: None,
        reasoning: None,
    })
}

fn embed(body: &Value) -> Result<EmbedAnswer, Refusal> {
    let vectors = body["embeddings"]["float"].as_array().ok_or_else(|| nonsense("There are no float embeddings."))?;
    let vector = |vector: &Value| {
        let numbers = vector.as_array().into_iter().flatten();
        numbers.map(|number| number.as_f64().unwrap_or_default() as f32).collect()
    };
    Ok(EmbedAnswer {
        model: String::new(),
        vectors: vectors.iter().map(vector).collect(),
        usage: usage(&json!({ "billed_units": body["meta"]["billed_units"] })),
    })
}

fn rerank(body: &Value) -> Result<RerankAnswer, Refusal> {
    let results = body["results"].as_array().ok_or_else(|| nonsense("There are no `results` in the answer."))?;
    let ranked = |result: &Value| {
        Some(Ranked { index: result["index"].as_u64()?, score: result["relevance_score"].as_f64()? })
    };
    Ok(RerankAnswer { model: String::new(), ranked: results.iter().filter_map(ranked).collect(), usage: None })
}

sdk::provider!(Cohere);
