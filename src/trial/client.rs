//! The client of a trial: asks as a test describes them, written in a dialect, and answers read back as tables.

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Request, Response};
use http_body_util::BodyExt;
use serde_json::{Map, Value, json};

use crate::chat::event::{Collector, Event};
use crate::chat::{Answer, Ask, Block, Content, Message, Role};
use crate::dialect::openai_chat::OpenAiChat;
use crate::dialect::{self, Dialect, Encoding, Op, Quirks, RawAsk};
use crate::reply::Outbound;
use crate::sse::{Frame, Scanner};

use super::words;

/// The credential that a scene's caller has.
pub(super) const KEY: &str = "trial";

/// A request as it is to be made.
pub(super) struct Wanted {
    pub head: Parts,
    pub body: Bytes,
    pub dialect: &'static dyn Dialect,
}

/// The request for an ask in a test's own words.
///
/// # Errors
/// What is wrong with the words.
pub(super) fn chat(ask: &Value) -> Result<Wanted, String> {
    let name = ask["dialect"].as_str().unwrap_or("openai_chat");
    let dialect = dialect::find(name).ok_or_else(|| format!("no dialect is called `{name}`"))?;
    let model = ask["model"].as_str().ok_or("the ask names no `model`")?;
    let stream = ask["stream"] == true;
    let mut neutral = match ask["messages"].as_array() {
        Some(messages) => conversation(messages)?,
        None => Ask::default(),
    };
    (neutral.model, neutral.stream, neutral.include_usage) = (model.to_owned(), stream, stream);
    neutral.max_tokens = ask["max_tokens"].as_u64();
    if let Some(system) = ask["system"].as_str() {
        neutral.system.insert(0, Block::text(system));
    }
    if let Some(text) = ask["text"].as_str() {
        neutral.messages.push(Message::new(Role::User, vec![Block::text(text)]));
    }
    let mut to = Encoding::new(model, &Quirks::NONE);
    let body = dialect.encode_ask(&neutral, &mut to).map_err(|fault| fault.message)?;
    let mut body: Value = serde_json::from_slice(&body).map_err(|error| error.to_string())?;
    for (name, value) in ask["params"].as_object().into_iter().flatten() {
        body[name] = value.clone();
    }
    let path = dialect.path(Op::Generate, model, stream).ok_or("the dialect has no chat")?;
    let version = match name {
        _ if path.starts_with("/v1") => "",
        "gemini" => "/v1beta",
        _ => "/v1",
    };
    request(&json!({"path": format!("{version}{path}"), "headers": ask["headers"], "body": body}), dialect)
}

/// The conversation of messages as the OpenAI chat form has them, with two things in short: `text` for a `content` of one
/// text, and tool calls as answers of a trial show them.
fn conversation(messages: &[Value]) -> Result<Ask, String> {
    let mut written = Vec::with_capacity(messages.len());
    for message in messages {
        words::message(message)?;
        let mut message = message.clone();
        if let Some(text) = message.as_object_mut().and_then(|message| message.remove("text")) {
            if !message["content"].is_null() {
                return Err("a message has both `text` and `content`; write one".to_owned());
            }
            message["content"] = text;
        }
        for call in message.get_mut("tool_calls").and_then(Value::as_array_mut).into_iter().flatten() {
            if call["name"].is_string() {
                let arguments = match &call["arguments"] {
                    Value::String(text) => text.clone(),
                    Value::Null => "{}".to_owned(),
                    value => value.to_string(),
                };
                let function = json!({ "name": call["name"], "arguments": arguments });
                *call = json!({ "id": call["id"], "type": "function", "function": function });
            }
        }
        written.push(message);
    }
    let body = json!({ "model": "m", "messages": written }).to_string();
    let raw = RawAsk { op: Op::Generate, body: body.as_bytes(), model: None, stream: false };
    OpenAiChat.decode_ask(&raw).map_err(|fault| format!("`messages`: {}", fault.message))
}

/// A request as it stands.
///
/// # Errors
/// What is wrong with it.
pub(super) fn raw(said: &Value) -> Result<Wanted, String> {
    let name = said["dialect"].as_str().unwrap_or("openai_chat");
    let dialect = dialect::find(name).ok_or_else(|| format!("no dialect is called `{name}`"))?;
    request(said, dialect)
}

fn request(said: &Value, dialect: &'static dyn Dialect) -> Result<Wanted, String> {
    let path = said["path"].as_str().ok_or("the request names no `path`")?;
    let mut request = Request::builder()
        .method(said["method"].as_str().unwrap_or("POST"))
        .uri(path)
        .header("content-type", "application/json");
    if said["headers"].get("authorization").is_none() {
        request = request.header("authorization", format!("Bearer {KEY}"));
    }
    for (name, value) in said["headers"].as_object().into_iter().flatten() {
        request = request.header(name, value.as_str().map_or_else(|| value.to_string(), str::to_owned));
    }
    let (head, ()) = request.body(()).map_err(|error| error.to_string())?.into_parts();
    let body = match &said["body"] {
        Value::Null => Bytes::new(),
        Value::String(text) => Bytes::copy_from_slice(text.as_bytes()),
        value => value.to_string().into(),
    };
    Ok(Wanted { head, body, dialect })
}

/// Reads an answer to its end.
pub(super) async fn read(response: Response<Outbound>, dialect: &'static dyn Dialect) -> Map<String, Value> {
    let (head, mut body) = response.into_parts();
    let mut bytes = Vec::new();
    while let Some(Ok(frame)) = body.frame().await {
        if let Ok(data) = frame.into_data() {
            bytes.extend_from_slice(&data);
        }
    }
    drop(body);
    let mut told = Map::new();
    told.insert("status".to_owned(), json!(head.status.as_u16()));
    told.insert("headers".to_owned(), headers(&head.headers));
    if let Some(code) = head.headers.get("x-portcullis-error").and_then(|code| code.to_str().ok()) {
        told.insert("code".to_owned(), json!(code));
    }
    let streamed = head.headers.get("content-type").is_some_and(|kind| kind.as_bytes().starts_with(b"text/event"));
    if streamed {
        stream(bytes.into(), dialect, &mut told);
    } else {
        whole(bytes.into(), head.status.is_success(), dialect, &mut told);
    }
    told
}

fn headers(headers: &HeaderMap) -> Value {
    let pairs =
        headers.iter().filter_map(|(name, value)| Some((name.as_str().to_owned(), json!(value.to_str().ok()?))));
    Value::Object(pairs.collect())
}

fn whole(bytes: Bytes, good: bool, dialect: &'static dyn Dialect, told: &mut Map<String, Value>) {
    let body = serde_json::from_slice(&bytes).unwrap_or_else(|_| json!(String::from_utf8_lossy(&bytes)));
    told.insert("body".to_owned(), body);
    if !good {
        let refusal = dialect.decode_error(told["status"].as_u64().unwrap_or(500) as u16, &bytes);
        told.insert("message".to_owned(), json!(refusal.message));
        if let Some(own) = refusal.code.as_deref().map(|code| spelt(code, dialect)) {
            told.entry("code").or_insert_with(|| json!(own.clone()));
            told.insert("own_code".to_owned(), json!(own));
        }
    } else if let Ok(answer) = dialect.decode_answer(&bytes) {
        tell(&answer, told);
    }
}

fn stream(bytes: Bytes, dialect: &'static dyn Dialect, told: &mut Map<String, Value>) {
    let mut scanner = Scanner::bounded(usize::MAX);
    scanner.push(bytes);
    let (mut decoder, mut collector) = (dialect.decoder(), Collector::default());
    let (mut frames, mut events) = (Vec::new(), Vec::new());
    // It came to the end that its dialect has, and told of no error.
    let mut whole = true;
    while let Ok(true) = scanner.scan() {
        let frame = Frame(scanner.last());
        let data = frame.data();
        if let Ok(value) = serde_json::from_slice::<Value>(&data) {
            frames.push(value);
        }
        if decoder.frame(&frame, &mut events).is_err() {
            whole = false;
            break;
        }
    }
    whole &= decoder.finish(&mut events).is_ok();
    for event in events {
        if let Event::Fault(fault) = &event {
            told.insert("message".to_owned(), json!(fault.message));
            whole = false;
            let own =
                fault.refusal.as_ref().and_then(|refusal| refusal.code.as_deref()).map(|code| spelt(code, dialect));
            if let Some(own) = &own {
                told.insert("own_code".to_owned(), json!(own));
            }
            told.insert("code".to_owned(), json!(own.unwrap_or_else(|| fault.code().to_owned())));
            continue;
        }
        let _ = collector.event(event);
    }
    told.insert("complete".to_owned(), json!(whole));
    told.insert("events".to_owned(), Value::Array(frames));
    tell(&collector.finish(), told);
}

/// A code as the gateway and its policies spell it: Gemini has codes in capitals.
fn spelt(code: &str, dialect: &dyn Dialect) -> String {
    if dialect.name() == "gemini" { code.to_ascii_lowercase() } else { code.to_owned() }
}

fn tell(answer: &Answer, told: &mut Map<String, Value>) {
    told.insert("text".to_owned(), json!(answer.text()));
    let choice = answer.choices.first();
    if let Some(finish) = choice.and_then(|choice| choice.finish) {
        told.insert("finish".to_owned(), json!(finish.as_str()));
    }
    let calls = choice.into_iter().flat_map(|choice| &choice.blocks).filter_map(|block| match &block.content {
        Content::ToolCall(call) => Some(json!({"id": call.id, "name": call.name, "arguments": call.arguments})),
        _ => None,
    });
    told.insert("tool_calls".to_owned(), Value::Array(calls.collect()));
}
