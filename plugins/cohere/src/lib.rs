//! Cohere's own API, version 2: `/v2/chat` whole and streamed, `/v2/embed`, `/v2/rerank`.
//!
//! Pure: asks in, requests out; answers in, neutral records out.

mod ask;
mod stream;
mod wire;

use portcullis_plugin::adapter::{
    AnyAsk, AuthKind, Description, Framing, Guest, HttpAnswer, HttpRequest, Model, Operation, Outcome,
};
use portcullis_plugin::chat::{
    Answer, Choice, Content, EmbedAnswer, Finish, FinishReason, Ranked, Reasoning, Refusal, RerankAnswer, ToolCall,
    Usage,
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
        let body = sdk::text(&answer);
        match what {
            Operation::Chat => chat(body).map(Outcome::Chat),
            Operation::Embed => embed(body).map(Outcome::Embed),
            Operation::Rerank => rerank(body).map(Outcome::Rerank),
        }
    }

    fn decode_error(answer: HttpAnswer) -> Refusal {
        let message = match sdk::body(&answer) {
            Ok(body) => body["message"].as_str().map_or_else(|| body.to_string(), str::to_owned),
            Err(_) => sdk::text(&answer).chars().take(200).collect(),
        };
        // It has no codes, only words.
        let too_long = message.starts_with("too many tokens");
        let code = too_long.then(|| "context_length_exceeded".to_owned());
        Refusal { code, ..sdk::refusal(answer.status, message) }
    }
}

fn read<'a, T: serde::Deserialize<'a>>(body: &'a str) -> Result<T, Refusal> {
    sdk::read(body, "The body")
}

fn chat(body: &str) -> Result<Answer, Refusal> {
    let wire::Answer { id, finish_reason, message, usage } = read(body)?;
    let message = message.ok_or_else(|| nonsense("There is no `message` in the answer."))?;
    let mut blocks = Vec::new();
    let thought = |text| block(Content::Reasoning(Reasoning { text, signature: None, encrypted: None }));
    // What the model plans to do with its tools is said before they are called.
    blocks.extend(message.tool_plan.map(thought));
    for part in message.content.into_iter().flatten() {
        let wire::Piece { kind, text, thinking } = read(part.get())?;
        blocks.push(match &*kind {
            "text" => sdk::text_block(text.unwrap_or_default()),
            "thinking" => thought(thinking.unwrap_or_default()),
            _ => block(Content::Other(part.get().to_owned())),
        });
    }
    if let Some(citations) = message.citations.map(|citations| citations.get()).filter(|&text| text != "[]") {
        if let Some(last) = blocks.iter_mut().rev().find(|block| matches!(block.content, Content::Text(_))) {
            last.citations = citations.to_owned();
        }
    }
    blocks.extend(message.tool_calls.into_iter().flatten().map(|wire::Call { id, function }| {
        block(Content::ToolCall(ToolCall {
            id: id.unwrap_or_default(),
            name: function.name.unwrap_or_default(),
            arguments: function.arguments.unwrap_or_default(),
            custom: false,
            signature: None,
        }))
    }));
    let finish = finish_reason.as_deref().map(finish);
    Ok(Answer {
        id: id.unwrap_or_default(),
        model: String::new(),
        choices: vec![Choice { blocks, finish, logprobs: String::new() }],
        usage: usage.as_ref().and_then(self::usage),
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
fn usage(usage: &wire::Usage) -> Option<Usage> {
    let counts = usage.billed_units.as_ref().or(usage.tokens.as_ref())?;
    let count = |count: Option<f64>| count.map_or(0, |count| count as u64);
    Some(Usage {
        input: count(counts.input_tokens),
        output: count(counts.output_tokens),
        cache_read: usage.cached_tokens.map(|count| count as u64),
        cache_write: None,
        reasoning: None,
    })
}

fn embed(body: &str) -> Result<EmbedAnswer, Refusal> {
    let wire::Embedded { embeddings, meta } = read(body)?;
    let vectors = embeddings.and_then(|embeddings| embeddings.float);
    let vectors = vectors.ok_or_else(|| nonsense("There are no float embeddings."))?;
    let billed = meta.filter(|meta| meta.billed_units.is_some());
    Ok(EmbedAnswer { model: String::new(), vectors, usage: billed.as_ref().and_then(usage) })
}

fn rerank(body: &str) -> Result<RerankAnswer, Refusal> {
    let results = read::<wire::Ranking>(body)?.results;
    let results = results.ok_or_else(|| nonsense("There are no `results` in the answer."))?;
    let ranked = |wire::Place { index, relevance_score }| Ranked { index, score: relevance_score };
    Ok(RerankAnswer { model: String::new(), ranked: results.into_iter().map(ranked).collect(), usage: None })
}

sdk::provider!(Cohere);
