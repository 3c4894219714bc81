//! Whole answers, both directions, and the summary of one that is only relayed.
//!
//! Reading is lenient (servers omit, null and misplace fields); writing gives what OpenAI's own answers look like.

use std::hash::{DefaultHasher, Hash, Hasher};

use serde_json::{Map, Value, json};

use super::fields::{self, Fields};
use super::reasoning::{self, To};
use super::{NAME, citations, complete, finish, tools, turns, usage};
use crate::chat::reasoning::for_client;
use crate::chat::{Answer, Ask, Block, Choice, Content, Extra, Media, ToolCall, free_text};
use crate::dialect::{Asked, Op, Summary, openai_error, refusal};
use crate::fault::{Fault, Kind};
use crate::json;
use crate::json::scan::{self, Malformed, Scan};

pub(super) fn decode(body: &[u8]) -> Result<Answer, Fault> {
    let value: Value = serde_json::from_slice(body).map_err(|error| bad("is no JSON").because(error))?;
    if let Some(fault) = reported_error(&value) {
        return Err(fault);
    }
    read(value).map_err(|fault| match fault.kind {
        // The helpers speak of requests; here it is the upstream that got it wrong.
        Kind::InvalidRequest => Fault { kind: Kind::BadAnswer, ..fault },
        _ => fault,
    })
}

/// Some servers say 200 and put the error in the body.
pub(super) fn reported_error(body: &Value) -> Option<Fault> {
    let object = body.as_object()?;
    let reported = object.get("error").is_some_and(|error| !error.is_null() && *error != json!({}))
        || object.get("object").is_some_and(|kind| kind == "error");
    let bare = || {
        let message = ["message", "detail"].iter().any(|key| object.contains_key(*key));
        message && ["choices", "data", "usage", "id"].iter().all(|key| !object.contains_key(*key))
    };
    (reported || bare()).then(|| refusal::fault(openai_error::of_value(NAME, 200, body), None))
}

fn bad(what: &str) -> Fault {
    Fault::new(Kind::BadAnswer, format!("The answer {what}."))
}

fn read(body: Value) -> Result<Answer, Fault> {
    let mut fields = Fields::of(body, "answer")?;
    let choices = fields.array("choices")?.ok_or_else(|| bad("has no `choices`"))?;
    let mut answer = Answer {
        id: fields.string("id")?.unwrap_or_default(),
        model: fields.string("model")?.unwrap_or_default(),
        created: fields.take("created").as_ref().and_then(seconds),
        usage: fields.take("usage").as_ref().and_then(usage::read),
        service_tier: fields.string("service_tier")?.filter(|text| !text.is_empty()),
        system_fingerprint: fields.string("system_fingerprint")?.filter(|text| !text.is_empty()),
        source: NAME,
        ..Answer::default()
    };
    for (position, choice) in choices.into_iter().enumerate() {
        answer.choices.push(read_choice(choice, position, &answer.id)?);
    }
    fields.take("object");
    answer.extra = fields.rest();
    Ok(answer)
}

/// `created`, which some servers give with a fraction.
pub(super) fn seconds(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_f64().filter(|float| *float >= 0.0).map(|float| float as u64))
}

fn read_choice(value: Value, position: usize, id: &str) -> Result<Choice, Fault> {
    let mut fields = Fields::of(value, &format!("choices[{position}]"))?;
    let index = fields.uint("index")?.unwrap_or(position as u64) as u32;
    let mut choice = Choice { index, logprobs: fields.take("logprobs"), ..Choice::default() };
    if let Some(message) = fields.object("message")? {
        choice.blocks = read_message(message, id, index)?;
    } else if let Some(text) = fields.string("text")? {
        choice.blocks.push(Block::text(text));
    }
    let called = choice.blocks.iter().any(|block| matches!(block.content, Content::ToolCall(_)));
    choice.native_finish = fields.string("finish_reason")?.filter(|word| !word.is_empty());
    // A whole answer is over, whether its server says so or not.
    choice.finish = Some(finish::read(choice.native_finish.as_deref().unwrap_or_default(), called));
    // vLLM says which stop string it was.
    choice.stop_sequence = match fields.take("stop_reason") {
        Some(Value::String(text)) => Some(text),
        _ => None,
    };
    Ok(choice)
}

fn read_message(mut message: Fields, id: &str, choice: u32) -> Result<Vec<Block>, Fault> {
    let content = message.take("content");
    let refusal = message.string("refusal")?;
    let calls = message.array("tool_calls")?.unwrap_or_default();
    let legacy = message.object("function_call")?;
    let annotations = message.array("annotations")?.unwrap_or_default();
    let images = message.array("images")?.unwrap_or_default();
    let audio = message.take("audio");
    let at = message.path("tool_calls");
    let content_at = message.path("content");
    let mut blocks = reasoning::read_message(&mut message.rest());
    match content {
        Some(Value::String(text)) => blocks.push(Block::text(text)),
        // Mistral answers in parts when it reasons.
        Some(Value::Array(parts)) => {
            for part in parts {
                blocks.push(turns::read_part(part, &content_at)?);
            }
        }
        _ => {}
    }
    cite(&mut blocks, annotations);
    for image in images {
        blocks.extend(turns::read_part(image, "images").ok());
    }
    blocks.extend(refusal.filter(|text| !text.is_empty()).map(|text| Block::new(Content::Refusal(text))));
    blocks.extend(audio.and_then(read_audio));
    for (position, call) in calls.into_iter().enumerate() {
        let mut call = turns::read_call(Fields::of(call, &format!("{at}[{position}]"))?)?;
        if call.id.is_empty() {
            call.id = made_up_id(id, choice, position);
        }
        blocks.push(Block::new(Content::ToolCall(call)));
    }
    if let Some(mut call) = legacy
        // Servers that write every field of the schema (Snowflake) have an empty one here, which calls nothing.
        && call.peek("name").is_none_or(|name| name != "")
    {
        let (name, arguments) = (call.needed_string("name")?, call.string("arguments")?.unwrap_or_default());
        let id = made_up_id(id, choice, 0);
        blocks.push(Block::new(Content::ToolCall(ToolCall { id, name, arguments, ..ToolCall::default() })));
    }
    // An empty string beside something else says nothing.
    if blocks.len() > 1 {
        blocks.retain(|block| {
            !matches!(&block.content, Content::Text { text, citations } if text.is_empty() && citations.is_empty())
        });
    }
    Ok(blocks)
}

fn cite(blocks: &mut [Block], annotations: Vec<Value>) {
    let last_text = blocks.iter_mut().rev().find_map(|block| match &mut block.content {
        Content::Text { citations, .. } => Some(citations),
        _ => None,
    });
    if let Some(citations) = last_text {
        citations.extend(annotations);
    }
}

/// Whether there is anything in an `audio` object; servers that write every field of the schema have empty ones.
pub(super) fn says_sound(audio: &Map<String, Value>) -> bool {
    ["id", "data", "transcript"]
        .iter()
        .any(|key| audio.get(*key).and_then(Value::as_str).is_some_and(|text| !text.is_empty()))
}

/// A spoken answer: `{id, data, transcript, expires_at}`.
pub(super) fn read_audio(value: Value) -> Option<Block> {
    let Value::Object(mut audio) = value else { return None };
    if !says_sound(&audio) {
        return None;
    }
    let mut text = |key: &str| match audio.shift_remove(key) {
        Some(Value::String(text)) => Some(text),
        _ => None,
    };
    let (id, data, transcript) = (text("id"), text("data").unwrap_or_default(), text("transcript"));
    let format = text("format").unwrap_or_default();
    Some(Block { content: Content::Audio { data, format, transcript, id }, cache: None, extra: audio })
}

/// An id for a call whose server gave none: without one the client cannot answer it. Made from the answer's id, so that
/// it differs from turn to turn, and short: OpenAI takes 40 characters.
pub(super) fn made_up_id(answer: &str, choice: u32, position: usize) -> String {
    let mut hasher = DefaultHasher::new();
    (answer, choice, position).hash(&mut hasher);
    format!("call_{:016x}", hasher.finish())
}

pub(super) fn encode(answer: &Answer, asked: &Asked) -> Vec<u8> {
    let mut body = match asked.op {
        Op::Complete => complete::encode_answer(answer, asked),
        _ => encode_chat(answer, asked),
    };
    body.extend(answer.usage.as_ref().map(|of| ("usage".to_owned(), usage::write(of))));
    if let Some(tier) = &answer.service_tier {
        body.insert("service_tier".into(), tier.as_str().into());
    }
    if let Some(fingerprint) = &answer.system_fingerprint {
        body.insert("system_fingerprint".into(), fingerprint.as_str().into());
    }
    if answer.source == NAME {
        body.extend(answer.extra.clone().into_iter().filter(|(key, _)| key != "usage" && key != "choices"));
    }
    json::written(&body)
}

/// The fields every answer object begins with.
pub(super) fn head(answer: &Answer, asked: &Asked, object: &str) -> Map<String, Value> {
    let id = if answer.id.is_empty() { super::answer_id(asked) } else { answer.id.clone() };
    let model = if answer.model.is_empty() { &asked.ask.model } else { &answer.model };
    let mut head = Map::new();
    head.insert("id".into(), id.into());
    head.insert("object".into(), object.into());
    head.insert("created".into(), answer.created.unwrap_or(asked.now).into());
    head.insert("model".into(), model.as_str().into());
    head
}

fn encode_chat(answer: &Answer, asked: &Asked) -> Map<String, Value> {
    let legacy = super::wants_function_call(&asked.ask);
    let mut choices: Vec<&Choice> = answer.choices.iter().collect();
    // A stream may have begun with any of them.
    choices.sort_by_key(|choice| choice.index);
    let choices: Vec<Value> = choices
        .into_iter()
        .map(|choice| {
            let logprobs = choice.logprobs.as_ref().filter(|logprobs| logprobs.get("tokens").is_none());
            json!({ "index": choice.index, "message": message(choice, &asked.ask, answer.source, legacy), "logprobs": logprobs,
                    "finish_reason": finish::word(choice, answer.source, legacy) })
        })
        .collect();
    let mut body = head(answer, asked, "chat.completion");
    body.insert("choices".into(), choices.into());
    body
}

/// What a message is gathered from before it is written.
#[derive(Default)]
struct Gathered {
    text: Option<String>,
    refusal: Option<String>,
    thoughts: Vec<String>,
    details: Vec<Value>,
    annotations: Vec<Value>,
    calls: Vec<Value>,
    images: Vec<Value>,
    audio: Option<Value>,
}

fn message(choice: &Choice, ask: &Ask, source: &str, legacy: bool) -> Value {
    let mut of = Gathered::default();
    for block in &choice.blocks {
        gather(&mut of, block, ask, source);
    }
    let mut message = Map::new();
    message.insert("role".into(), "assistant".into());
    message.insert("content".into(), of.text.into());
    message.insert("refusal".into(), of.refusal.into());
    let mut set = |key: &str, value: Value, present: bool| {
        if present {
            message.insert(key.to_owned(), value);
        }
    };
    of.thoughts.retain(|text| !text.is_empty());
    set("reasoning_content", of.thoughts.join("\n\n").into(), !of.thoughts.is_empty());
    set("reasoning_details", of.details.as_slice().into(), !of.details.is_empty());
    set("annotations", of.annotations.as_slice().into(), !of.annotations.is_empty());
    set("images", of.images.as_slice().into(), !of.images.is_empty());
    let has_audio = of.audio.is_some();
    set("audio", of.audio.unwrap_or_default(), has_audio);
    match (of.calls.is_empty(), legacy) {
        (true, _) => {}
        (false, true) => set("function_call", of.calls[0]["function"].clone(), true),
        (false, false) => set("tool_calls", of.calls.into(), true),
    }
    Value::Object(message)
}

fn gather(of: &mut Gathered, block: &Block, ask: &Ask, source: &str) {
    match &block.content {
        Content::Text { text, citations: cited } => {
            let whole = of.text.get_or_insert_default();
            let from = whole.chars().count();
            whole.push_str(text);
            let to = whole.chars().count();
            of.annotations.extend(cited.iter().filter_map(|citation| citations::write(citation, source, from, to)));
        }
        Content::Refusal(text) => of.refusal.get_or_insert_default().push_str(text),
        Content::Reasoning(reasoning) => {
            of.thoughts.push(reasoning::plain(reasoning));
            let items = reasoning::details(reasoning, source, To::Client, of.details.len());
            of.details.extend(items);
        }
        Content::ToolCall(call) if tools::was_disguised(ask, call) => {
            let known = ToolCall { custom: true, arguments: free_text(&call.arguments), ..call.clone() };
            of.calls.push(write_call(&known, source));
        }
        Content::ToolCall(call) => of.calls.push(write_call(call, source)),
        Content::Image { source: media, .. } => of.images.extend(image(media)),
        Content::Audio { .. } => of.audio = Some(audio(block)),
        Content::Other(value) if source == NAME => of.details.extend(Some(value.clone()).filter(is_detail)),
        Content::Other(_) | Content::File { .. } | Content::ToolResult(_) => {}
    }
}

fn is_detail(value: &Value) -> bool {
    value.get("type").and_then(Value::as_str).is_some_and(|kind| kind.starts_with("reasoning."))
}

/// One whole entry of `tool_calls` for a client.
pub(super) fn write_call(call: &ToolCall, source: &str) -> Value {
    let mut value = if call.custom {
        json!({ "id": call.id, "type": "custom", "custom": { "name": call.name, "input": call.arguments } })
    } else {
        let arguments = if call.arguments.trim().is_empty() { "{}" } else { &call.arguments };
        json!({ "id": call.id, "type": "function", "function": { "name": call.name, "arguments": arguments } })
    };
    if let (Some(signature), Value::Object(value)) = (&call.signature, &mut value) {
        value.insert("extra_content".into(), google(signature, source));
    }
    value
}

/// Where a signature on a call rides.
pub(super) fn google(signature: &str, source: &str) -> Value {
    json!({ "google": { "thought_signature": for_client(signature, source, NAME) } })
}

/// A generated image, as OpenRouter shows them.
pub(super) fn image(media: &Media) -> Option<Value> {
    let url = media.to_url()?;
    Some(json!({ "type": "image_url", "image_url": { "url": url } }))
}

pub(super) fn audio(block: &Block) -> Value {
    let Content::Audio { data, transcript, id, .. } = &block.content else { return Value::Null };
    let mut audio: Extra = Map::new();
    audio.insert("id".into(), id.as_deref().unwrap_or_default().into());
    audio.insert("data".into(), data.as_str().into());
    audio.insert("transcript".into(), transcript.as_deref().unwrap_or_default().into());
    audio.extend(block.extra.clone());
    Value::Object(audio)
}

/// What a relayed answer says of itself. Nothing is built but what is kept: this is on the way of every answer.
pub(super) fn summary(body: &[u8]) -> Result<Summary, Fault> {
    let mut summary = Summary::default();
    let (mut failed, mut word) = (false, None);
    let read = scan::object(body, |scan, key| {
        match &body[key] {
            b"id" => summary.id = scan.text()?,
            b"model" => summary.model = scan.text()?,
            b"usage" => summary.usage = usage::scan(scan, body)?,
            b"choices" => finish_word(scan, body, &mut word)?,
            b"error" => failed |= &body[scan.skip()?] != b"null",
            b"object" => failed |= &body[scan.skip()?] == br#""error""#,
            _ => {
                scan.skip()?;
            }
        }
        Ok(())
    });
    if read.is_err() {
        fields::body(body).map_err(|fault| Fault { kind: Kind::BadAnswer, ..fault })?;
        // JSON that is deeper than we read is no reason to refuse an answer that is only relayed.
        return Ok(Summary::default());
    }
    if failed && let Some(fault) = serde_json::from_slice(body).ok().as_ref().and_then(reported_error) {
        return Err(fault);
    }
    summary.finish = word.map(|word| finish::read(&word, false));
    Ok(summary)
}

/// The first finish reason among the choices.
fn finish_word(scan: &mut Scan<'_>, body: &[u8], word: &mut Option<String>) -> Result<(), Malformed> {
    scan.array(|scan| {
        scan.object(|scan, key| {
            if word.is_none() && &body[key] == b"finish_reason" {
                *word = scan.text()?;
                return Ok(());
            }
            scan.skip().map(drop)
        })
    })
}
