//! Whole answers, both directions, and the summary of one that is only relayed.
//!
//! Reading is lenient (servers omit, null and misplace fields); writing gives what OpenAI's own answers look like.

mod write;

use std::hash::{DefaultHasher, Hash, Hasher};

use serde_json::{Map, Value, json};

use super::fields::{self, Fields};
use super::reasoning;
use super::{NAME, citations, finish, turns, usage};
use crate::chat::reasoning::for_client;
use crate::chat::{Answer, Block, Choice, Content, Extra, Finish, Media, ToolCall};
use crate::dialect::{self, Summary, openai_error, refusal};
use crate::fault::{Fault, Kind};
use crate::json::scan::{self, Malformed, Scan};

pub(super) use write::encode;

pub(super) fn decode(body: &[u8]) -> Result<Answer, Fault> {
    let value: Value = serde_json::from_slice(body).map_err(|error| bad("is no JSON").because(error))?;
    if let Some(fault) = reported_error(&value).or_else(|| undone(&value)) {
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

/// The error that each of these choices reports; OpenRouter puts it there.
pub(super) fn choices_error(choices: &[Value]) -> Option<Fault> {
    let reports =
        |choice: &Value| choice.get("error").filter(|error| !error.is_null() && **error != json!({})).cloned();
    let errors: Vec<Value> = choices.iter().map(reports).collect::<Option<_>>()?;
    let first = errors.into_iter().next()?;
    Some(refusal::fault(openai_error::of_value(NAME, 200, &json!({ "error": first })), None))
}

/// The fault of an answer of which no choice is one. One good choice of several is an answer.
fn undone(body: &Value) -> Option<Fault> {
    let fault = |choice: &Value| {
        let ended = |choice: &Value| finish::fault(choice.get("finish_reason")?.as_str()?, shows(choice.as_object()?));
        choices_error(std::slice::from_ref(choice)).or_else(|| ended(choice))
    };
    let faults: Vec<Fault> = body.get("choices")?.as_array()?.iter().map(fault).collect::<Option<_>>()?;
    faults.into_iter().next()
}

/// Whether a choice holds something that a client can show.
pub(super) fn shows(choice: &Map<String, Value>) -> bool {
    const SHOWING: &[&str] =
        &["content", "reasoning_content", "reasoning", "refusal", "audio", "images", "reasoning_details"];
    says(choice, "text")
        || calls(choice)
        || spoken(choice).is_some_and(|said| SHOWING.iter().any(|key| says(said, key)))
}

/// Whether a choice calls tools.
pub(super) fn calls(choice: &Map<String, Value>) -> bool {
    spoken(choice).is_some_and(|said| says(said, "tool_calls") || says(said, "function_call"))
}

/// What a choice says, in a stream or whole.
fn spoken(choice: &Map<String, Value>) -> Option<&Map<String, Value>> {
    choice.get("delta").or_else(|| choice.get("message"))?.as_object()
}

fn says(of: &Map<String, Value>, key: &str) -> bool {
    match of.get(key) {
        Some(Value::String(text)) => !text.is_empty(),
        Some(Value::Array(list)) => !list.is_empty(),
        Some(Value::Object(object)) => !object.is_empty(),
        _ => false,
    }
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
    // Calls without an id get one that no other answer has.
    let seed = if answer.id.is_empty() { dialect::fresh_seed() } else { answer.id.clone() };
    for (position, choice) in choices.into_iter().enumerate() {
        answer.choices.push(read_choice(choice, position, &seed)?);
    }
    let sources = citations::sources(fields.peek("citations"), fields.peek("search_results"));
    for choice in answer.choices.iter_mut().filter(|_| !sources.is_empty()) {
        if let Some(cited) = last_cited(&mut choice.blocks) {
            cited.extend(citations::further(&sources, &cited.clone()).cloned());
        }
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
    let finish = finish::read(choice.native_finish.as_deref().unwrap_or_default(), called);
    choice.stop_sequence = fields.peek("stop_reason").or(fields.peek("matched_stop")).and_then(stop_sequence);
    choice.finish = Some(finish::at_sequence(finish, choice.stop_sequence.as_deref()));
    Ok(choice)
}

/// vLLM (`stop_reason`) and SGLang (`matched_stop`) say which stop sequence it was; a number is a token.
pub(super) fn stop_sequence(said: &Value) -> Option<String> {
    said.as_str().filter(|text| !text.is_empty()).map(str::to_owned)
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
    if let Some(citations) = last_cited(blocks) {
        citations.extend(annotations);
    }
}

/// The citations of the last text.
fn last_cited(blocks: &mut [Block]) -> Option<&mut Vec<Value>> {
    blocks.iter_mut().rev().find_map(|block| match &mut block.content {
        Content::Text { citations, .. } => Some(citations),
        _ => None,
    })
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

fn is_detail(value: &Value) -> bool {
    value.get("type").and_then(Value::as_str).is_some_and(|kind| kind.starts_with("reasoning."))
}

/// One whole entry of `tool_calls` for a client.
pub(super) fn write_call(call: &ToolCall, source: &str) -> Value {
    let mut value = if call.custom {
        json!({ "id": call.id, "type": "custom", "custom": { "name": call.name, "input": call.arguments } })
    } else {
        let arguments = if matches!(call.arguments.trim(), "" | "null") { "{}" } else { &call.arguments };
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

/// A spoken answer of this dialect's own.
pub(super) fn audio(block: &Block) -> Value {
    let Content::Audio { data, transcript, id, .. } = &block.content else { return Value::Null };
    let mut audio: Extra = Map::new();
    audio.insert("id".into(), id.as_deref().unwrap_or_default().into());
    audio.insert("data".into(), data.as_str().into());
    audio.insert("transcript".into(), transcript.as_deref().unwrap_or_default().into());
    audio.extend(block.extra.clone());
    Value::Object(audio)
}

/// The id of a spoken answer that another dialect gave; there it has none.
pub(super) fn audio_id(exchange: &str, choice: u32) -> String {
    format!("audio_{exchange}_{choice}")
}

/// Two pieces of base64 as one.
pub(super) fn joined_base64(first: &str, second: &str) -> String {
    use base64::Engine;
    use base64::prelude::BASE64_STANDARD;
    // Whole groups may stand side by side, and what is no base64 cannot be made any.
    let bytes =
        first.ends_with('=').then(|| BASE64_STANDARD.decode(first).ok().zip(BASE64_STANDARD.decode(second).ok()));
    match bytes.flatten() {
        Some((first, second)) => BASE64_STANDARD.encode([first, second].concat()),
        None => [first, second].concat(),
    }
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
            b"choices" => finish_word(scan, body, &mut word, &mut failed)?,
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
    summary.finish = word.map(|word| finish::read(&word, false));
    let in_doubt = failed || summary.finish == Some(Finish::Error);
    let fault = |body: &Value| reported_error(body).or_else(|| undone(body));
    match in_doubt.then(|| serde_json::from_slice(body).ok().as_ref().and_then(fault)).flatten() {
        Some(fault) => Err(fault),
        None => Ok(summary),
    }
}

/// The first finish reason among the choices, and whether one of them reports an error.
fn finish_word(
    scan: &mut Scan<'_>,
    body: &[u8],
    word: &mut Option<String>,
    failed: &mut bool,
) -> Result<(), Malformed> {
    scan.array(|scan| {
        scan.object(|scan, key| {
            match &body[key] {
                b"finish_reason" if word.is_none() => *word = scan.text()?,
                b"error" => *failed |= &body[scan.skip()?] != b"null",
                _ => _ = scan.skip()?,
            }
            Ok(())
        })
    })
}
