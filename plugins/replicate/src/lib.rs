//! Replicate: a prediction is made, and asked for again until it is there.
//!
//! The shape of providers that answer later. Everything that must be remembered between two requests is in their path.

use std::sync::OnceLock;

use portcullis_plugin::adapter::{
    AnyAsk, AuthKind, Description, Dropped, FollowUp, Framing, Guest, GuestStreamDecoder, Header, HttpAnswer, HttpRequest,
    Operation, Outcome, Payload, Piece,
};
use portcullis_plugin::chat::{
    Answer, Ask, Choice, Content, Event, Finish, FinishReason, Refusal, Role, Tool, Usage,
};
use portcullis_plugin::serde_json::{Map, Value, json};
use portcullis_plugin::{self as sdk, nonsense, unsupported};

struct Replicate;

/// How long to wait before a prediction is asked for again, unless the operator says otherwise.
const POLL_MS: u32 = 500;

static POLL: OnceLock<u32> = OnceLock::new();

impl Guest for Replicate {
    type StreamDecoder = Decoder;

    fn describe() -> Description {
        Description {
            title: "Replicate predictions".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            auth: AuthKind::Bearer,
            operations: vec![Operation::Chat],
            // Streams lie on another host, which an adapter cannot reach: whole answers are made into streams.
            framing: Framing::Events,
            suggested_base_url: Some("https://api.replicate.com".into()),
            models: Vec::new(),
        }
    }

    fn init(config: String) -> Result<(), String> {
        let mut poll = POLL_MS;
        if !config.is_empty() {
            let value: Value = config.parse().map_err(|error| format!("it is not JSON: {error}"))?;
            for (name, value) in value.as_object().ok_or("it must be a mapping")? {
                match (name.as_str(), value.as_u64()) {
                    ("poll_ms", Some(ms)) => poll = u32::try_from(ms).unwrap_or(u32::MAX).max(10),
                    ("poll_ms", None) => return Err("`poll_ms` must be a whole number".into()),
                    _ => return Err(format!("there is no key `{name}`; it knows `poll_ms`")),
                }
            }
        }
        let _ = POLL.set(poll);
        Ok(())
    }

    fn encode(what: AnyAsk) -> Result<HttpRequest, Refusal> {
        let AnyAsk::Chat(ask) = what else { return Err(unsupported("Replicate is asked for text.", "input")) };
        encode(&ask)
    }

    fn decode(_: Operation, answer: HttpAnswer) -> Result<Outcome, Refusal> {
        let body = sdk::body(&answer)?;
        match body["status"].as_str().unwrap_or_default() {
            "succeeded" => Ok(Outcome::Chat(succeeded(&body))),
            "starting" | "processing" => {
                let id = body["id"].as_str().ok_or_else(|| nonsense("The prediction has no id."))?;
                Ok(Outcome::FollowUp(FollowUp { request: get(id)?, wait_ms: *POLL.get_or_init(|| POLL_MS) }))
            }
            "failed" | "canceled" | "aborted" => {
                let why = body["error"].as_str().unwrap_or("The prediction failed without a reason.");
                Err(sdk::refusal(200, why))
            }
            other => Err(nonsense(format!("A prediction cannot be `{other}`."))),
        }
    }

    fn decode_error(answer: HttpAnswer) -> Refusal {
        let Ok(body) = sdk::body(&answer) else {
            return sdk::refusal(answer.status, sdk::text(&answer).chars().take(200).collect::<String>());
        };
        let message = body["detail"].as_str().or(body["title"].as_str()).unwrap_or("There is no reason given.");
        let wait = body["retry_after"].as_f64().map(|seconds| (seconds * 1000.0) as u64);
        Refusal { retry_after_ms: wait, ..sdk::refusal(answer.status, message) }
    }
}

fn get(id: &str) -> Result<HttpRequest, Refusal> {
    if id.is_empty() || !id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')) {
        return Err(nonsense("The prediction's id is not one that can stand in a path."));
    }
    Ok(HttpRequest {
        method: "GET".into(),
        path: format!("/v1/predictions/{id}"),
        headers: Vec::new(),
        body: Payload::Text(String::new()),
        streamed: false,
        dropped: Vec::new(),
    })
}

/// `owner/name` names a model, `owner/name:version` one of its versions.
fn encode(ask: &Ask) -> Result<HttpRequest, Refusal> {
    let functions = ask.tools.iter().any(|tool| matches!(tool, Tool::Function(_)));
    if functions {
        return Err(unsupported("Models at Replicate call no tools.", "tools"));
    }
    let mut input = Map::new();
    input.insert("prompt".into(), prompt(ask)?.into());
    let system = sdk::plain(&ask.system);
    if !system.is_empty() {
        input.insert("system_prompt".into(), system.into());
    }
    let numbers = [("temperature", ask.temperature), ("top_p", ask.top_p), ("top_k", ask.top_k)];
    for (name, value) in numbers.into_iter().filter_map(|(name, value)| Some((name, value?))) {
        input.insert(name.into(), value.into());
    }
    if let Some(max) = ask.max_tokens {
        input.insert("max_tokens".into(), max.into());
    }
    if !ask.stop.is_empty() {
        input.insert("stop_sequences".into(), ask.stop.join(",").into());
    }
    let (path, body) = match ask.model.split_once(':') {
        Some((_, version)) => ("/v1/predictions".to_owned(), json!({ "version": version, "input": input })),
        None => (format!("/v1/models/{}/predictions", ask.model), json!({ "input": input })),
    };
    let mut request = sdk::post(path, &body, false);
    // It waits a little by itself, which spares most follow-ups.
    request.headers.push(Header { name: "prefer".into(), value: "wait=5".into() });
    if ask.output.is_some() {
        request.dropped.push(Dropped { field: "response_format".into(), why: "there is no such parameter".into() });
    }
    Ok(request)
}

/// The conversation as one text: a single turn as it stands, several with their speakers' names.
fn prompt(ask: &Ask) -> Result<String, Refusal> {
    let image = ask.messages.iter().flat_map(|turn| &turn.blocks);
    if image.clone().any(|block| !matches!(block.content, Content::Text(_) | Content::Reasoning(_) | Content::Refusal(_))) {
        return Err(unsupported("Models at Replicate are given text.", "messages"));
    }
    if let [turn] = ask.messages.as_slice() {
        return Ok(sdk::plain(&turn.blocks).into_owned());
    }
    let turns = ask.messages.iter().map(|turn| {
        let who = match turn.role {
            Role::System => "System",
            Role::User => "User",
            Role::Assistant => "Assistant",
        };
        format!("{who}: {}", sdk::plain(&turn.blocks))
    });
    Ok(format!("{}\n\nAssistant:", turns.collect::<Vec<_>>().join("\n\n")))
}

fn succeeded(body: &Value) -> Answer {
    let text = match &body["output"] {
        Value::Array(pieces) => pieces.iter().filter_map(Value::as_str).collect(),
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    };
    let metrics = &body["metrics"];
    let usage = metrics["input_token_count"].as_u64().zip(metrics["output_token_count"].as_u64());
    let finish = Finish { reason: FinishReason::Stop, native: Some("succeeded".into()), stop_sequence: None };
    Answer {
        id: body["id"].as_str().unwrap_or_default().into(),
        model: body["model"].as_str().unwrap_or_default().into(),
        choices: vec![Choice { blocks: vec![sdk::text_block(text)], finish: Some(finish), logprobs: String::new() }],
        usage: usage.map(|(input, output)| Usage { input, output, cache_read: None, cache_write: None, reasoning: None }),
    }
}

struct Decoder;

impl GuestStreamDecoder for Decoder {
    fn new() -> Self {
        Decoder
    }

    fn push(&self, _: Piece) -> Result<Vec<Event>, Refusal> {
        Err(nonsense("No request of this adapter is answered by a stream."))
    }

    fn finish(&self) -> Result<Vec<Event>, Refusal> {
        Ok(Vec::new())
    }
}

sdk::provider!(Replicate);
