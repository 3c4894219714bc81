//! A whole `GenerateContentResponse`, both directions. Never waits for a stream: `stream` has its own way.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::field::{self, Object, put, take, take_list, take_object, take_string, take_uint};
use super::part::{self, Gather, Parts, Piece};
use super::partial::Joiner;
use super::{NAME, call_id, error, finish, grounding, logprobs, media, signature, usage};
use crate::chat::{Answer, Block, Choice, Content, Finish, Media, Reasoning, ToolCall};
use crate::dialect::{self, Asked};
use crate::fault::{Fault, Kind};
use crate::json::exact;

/// Fields of a candidate that say where its text comes from. Each rides as one citation on the last text block.
pub const ANNOTATIONS: &[&str] = &["citationMetadata", "groundingMetadata", "urlContextMetadata"];

pub fn decode(body: &[u8]) -> Result<Answer, Fault> {
    let raw = body;
    let mut body: Object = serde_json::from_slice(raw).map_err(|error| bad().because(error))?;
    keep_arguments(&mut body, raw);
    // Proxies in front of the provider report errors with status 200.
    if let Some(error) = body.get("error").filter(|error| error.is_object()) {
        return Err(error::in_stream(error));
    }
    let known = ["candidates", "promptFeedback", "usageMetadata", "responseId", "modelVersion"];
    if !known.iter().any(|name| body.contains_key(*name)) {
        return Err(bad());
    }
    let mut answer = Answer {
        id: take_string(&mut body, "responseId").unwrap_or_default(),
        model: take_string(&mut body, "modelVersion").unwrap_or_default(),
        created: take_string(&mut body, "createTime").as_deref().and_then(field::unix_seconds),
        source: NAME,
        ..Answer::default()
    };
    if let Some(metadata) = take(&mut body, "usageMetadata") {
        answer.usage = usage::read(&metadata);
        let rest = usage::rest(&metadata);
        if !rest.is_empty() {
            answer.extra.insert("usageMetadata".into(), rest.into());
        }
    }
    // Calls without an id get one that no other answer has.
    let seed = if answer.id.is_empty() { dialect::fresh_seed() } else { answer.id.clone() };
    let mut rests = Vec::new();
    for (position, value) in take_list(&mut body, "candidates").into_iter().enumerate() {
        let Value::Object(value) = value else { return Err(bad()) };
        let (choice, rest) = candidate(value, position, &seed);
        answer.choices.push(choice);
        rests.push(rest);
    }
    if answer.choices.is_empty() {
        answer.choices.push(blocked(body.get("promptFeedback")));
    }
    // One good choice of several is an answer.
    let faults: Option<Vec<Fault>> = answer.choices.iter().map(undone).collect();
    if let Some(fault) = faults.and_then(|faults| faults.into_iter().next()) {
        return Err(fault);
    }
    if rests.iter().any(|rest| !rest.is_empty()) {
        answer.extra.insert("candidates".into(), rests.into_iter().map(Value::Object).collect());
    }
    answer.extra.extend(body);
    Ok(answer)
}

/// Arguments keep their numbers, also those that a tree would change. `raw` is what the response was read from.
pub fn keep_arguments(response: &mut Object, raw: &[u8]) {
    #[derive(Deserialize)]
    struct Response<'a> {
        #[serde(borrow)]
        candidates: Vec<Candidate<'a>>,
    }
    #[derive(Deserialize)]
    struct Candidate<'a> {
        #[serde(borrow, default)]
        content: Option<part::Written<'a>>,
    }
    if exact::holds(raw) {
        return;
    }
    let (Some(Value::Array(candidates)), Ok(raw)) =
        (response.get_mut("candidates"), serde_json::from_slice::<Response<'_>>(raw))
    else {
        return;
    };
    for (candidate, raw) in candidates.iter_mut().zip(raw.candidates) {
        if let (Some(content), Some(raw)) = (candidate.get_mut("content"), raw.content) {
            part::spell(content, &raw);
        }
    }
}

fn bad() -> Fault {
    Fault::new(Kind::BadAnswer, "The provider's answer is not a GenerateContentResponse.")
}

/// The choice that stands for an answer without candidates.
fn blocked(feedback: Option<&Value>) -> Choice {
    let reason = feedback.and_then(|feedback| feedback.get("blockReason")).and_then(Value::as_str);
    let finish = if reason.is_some() { Finish::ContentFilter } else { Finish::Error };
    Choice { finish: Some(finish), native_finish: reason.map(str::to_owned), ..Choice::default() }
}

fn undone(choice: &Choice) -> Option<Fault> {
    let native = choice.native_finish.as_deref().unwrap_or("no reason was given");
    finish::fault(choice.finish?, native, !choice.blocks.is_empty())
}

fn candidate(mut candidate: Object, position: usize, seed: &str) -> (Choice, Object) {
    let index = take_uint(&mut candidate, "index").and_then(|index| u32::try_from(index).ok());
    let index = index.unwrap_or(position as u32);
    let mut content = take_object(&mut candidate, "content").unwrap_or_default();
    let mut gather = Gather::for_answer();
    let mut calls = 0;
    for part in Joiner::joined(take_list(&mut content, "parts").into_iter().filter_map(part::read)) {
        match part.piece {
            Piece::Call { id, name, arguments } => {
                let call = tool_call(id, name, arguments, part.signature, (seed, index, calls));
                calls += 1;
                gather.block(Block { content: Content::ToolCall(call), cache: None, extra: part.extra });
            }
            piece => gather.part(piece, part.signature, part.extra),
        }
    }
    let mut blocks = gather.blocks;
    annotate(&mut blocks, &mut candidate);
    let native = take_string(&mut candidate, "finishReason").filter(|reason| reason != finish::UNSPECIFIED);
    let entries = take(&mut candidate, "logprobsResult").map(|result| logprobs::read(&result));
    let choice = Choice {
        index,
        blocks,
        finish: native.as_deref().map(|reason| finish::read(reason, calls > 0)),
        native_finish: native,
        stop_sequence: None,
        logprobs: entries.filter(|entries| !entries.is_empty()).map(|entries| serde_json::json!({"content": entries})),
    };
    (choice, candidate)
}

/// A call of an answer. `place`: what tells the answer from others, the choice, and how many calls came before in it.
pub fn tool_call(
    id: Option<String>,
    name: String,
    arguments: String,
    signature: Option<String>,
    place: (&str, u32, usize),
) -> ToolCall {
    let (seed, choice, calls) = place;
    let id = id.unwrap_or_else(|| call_id::make(&[seed, &choice.to_string()], calls));
    ToolCall { id, name, arguments, signature, ..ToolCall::default() }
}

fn annotate(blocks: &mut [Block], candidate: &mut Object) {
    let annotations = annotations(candidate);
    if annotations.is_empty() {
        return;
    }
    let said: String = blocks
        .iter()
        .filter_map(|block| match &block.content {
            Content::Text { text, .. } => Some(text.as_str()),
            _ => None,
        })
        .collect();
    let texts = blocks.iter_mut().rev().find_map(|block| match &mut block.content {
        Content::Text { citations, .. } => Some(citations),
        _ => None,
    });
    if let Some(citations) = texts {
        let cited = grounding::cited(&annotations, &said);
        citations.extend(annotations.into_iter().chain(cited));
    }
}

/// Takes the annotations of a candidate, each as an object with one field.
pub fn annotations(candidate: &mut Object) -> Vec<Value> {
    let found = ANNOTATIONS.iter().filter_map(|name| Some((*name, take(candidate, name)?)));
    found.map(|(name, value)| Value::Object(field::object(name, value))).collect()
}

pub fn encode(answer: &Answer, asked: &Asked) -> Vec<u8> {
    let own = answer.source == NAME;
    let extra = |name: &str| answer.extra.get(name).filter(|_| own);
    let mut body = Object::new();
    let is_blocked = extra("promptFeedback").is_some_and(|feedback| feedback.get("blockReason").is_some());
    if !is_blocked {
        let rests = extra("candidates").and_then(Value::as_array);
        let candidates = answer.choices.iter().enumerate().map(|(at, choice)| {
            let rest = rests.and_then(|rests| rests.get(at)).and_then(Value::as_object);
            Value::Object(write_candidate(choice, answer.source, rest))
        });
        body.insert("candidates".into(), candidates.collect());
    }
    if own {
        let rest = answer.extra.iter().filter(|(name, _)| !matches!(name.as_str(), "candidates" | "usageMetadata"));
        body.extend(rest.map(|(name, value)| (name.clone(), value.clone())));
    }
    put(&mut body, "usageMetadata", answer.usage.as_ref().map(|counts| usage::write(counts, extra("usageMetadata"))));
    envelope(&mut body, &answer.model, &answer.id, answer.created, asked);
    exact::written(body)
}

/// What every response of an answer says of itself.
pub fn envelope(body: &mut Object, model: &str, id: &str, created: Option<u64>, asked: &Asked) {
    let model = if model.is_empty() { &asked.ask.model } else { model };
    let id = if id.is_empty() { &asked.id } else { id };
    body.insert("modelVersion".into(), model.into());
    put(body, "createTime", created.map(field::rfc3339));
    body.insert("responseId".into(), id.into());
}

fn write_candidate(choice: &Choice, source: &str, rest: Option<&Map<String, Value>>) -> Object {
    let mut parts = Parts::default();
    let mut annotations = Object::new();
    for block in &choice.blocks {
        write_block(block, source, &mut parts);
        if let Content::Text { citations, .. } = &block.content {
            citations.iter().for_each(|citation| grounding::tell(&mut annotations, citation, source));
        }
    }
    let mut content = Object::new();
    let parts = parts.done();
    put(&mut content, "parts", (!parts.is_empty()).then_some(parts));
    content.insert("role".into(), "model".into());
    let mut candidate = field::object("content", content);
    let native = choice.native_finish.as_deref().filter(|_| source == NAME);
    let refused = choice.blocks.iter().any(|block| matches!(block.content, Content::Refusal(_)));
    put(&mut candidate, "finishReason", choice.finish.map(|reason| finish::write(finish::of(reason, refused), native)));
    candidate.insert("index".into(), choice.index.into());
    candidate.extend(annotations);
    let entries = choice.logprobs.as_ref().and_then(|value| value.get("content")).and_then(Value::as_array);
    put(&mut candidate, "logprobsResult", entries.and_then(|entries| logprobs::write(entries)));
    if let Some(rest) = rest {
        candidate.extend(rest.clone());
    }
    candidate
}

/// Adds what one block is to a Gemini client. Shared with the stream for blocks that come whole.
pub fn write_block(block: &Block, source: &str, parts: &mut Parts) {
    let own = source == NAME;
    match &block.content {
        Content::Text { text, .. } | Content::Refusal(text) => {
            if !text.is_empty() {
                parts.push(with_extra(field::object("text", text.clone()), block, own));
            }
        }
        Content::Reasoning(reasoning) => write_reasoning(reasoning, source, parts),
        Content::ToolCall(call) => parts.push(with_extra(write_call(call, source), block, own)),
        Content::Image { source: Media::Text(_), .. } => {}
        // Google's SDKs give up a whole answer for data that is no base64.
        Content::Image { source: Media::Inline { data, .. }, .. } if !own && !media::is_base64(data) => {}
        Content::Image { source: from, .. } | Content::File { source: from, .. } => {
            if let Some(part) = media::part(from, None, None) {
                parts.push(with_extra(part, block, own));
            }
        }
        Content::Audio { data, transcript: Some(spoken), .. } if data.is_empty() => {
            parts.push(field::object("text", spoken.clone()));
        }
        Content::Audio { data, format, .. } => {
            let odd = block.extra.get("mimeType").and_then(Value::as_str).filter(|_| own);
            let mut part = media::inline(odd.unwrap_or(&media::audio_mime(format, data)), data);
            part.extend(
                block.extra.iter().filter(|(name, _)| own && *name != "mimeType").map(|(n, v)| (n.clone(), v.clone())),
            );
            parts.push(part);
        }
        Content::Other(Value::Object(part)) if own => parts.push(part.clone()),
        Content::Other(_) | Content::ToolResult(_) => {}
    }
}

fn with_extra(mut part: Object, block: &Block, own: bool) -> Object {
    if own {
        part.extend(block.extra.clone());
    }
    part
}

fn write_reasoning(reasoning: &Reasoning, source: &str, parts: &mut Parts) {
    let held = signature::for_reader(reasoning, source);
    let text = if reasoning.text.is_empty() { reasoning.summary.join("\n\n") } else { reasoning.text.clone() };
    if text.is_empty() && signature::for_provider(reasoning, source).is_none() {
        if let Some(held) = held {
            parts.sealed(held);
        }
        return;
    }
    parts.reasoning(text, held);
}

/// A call as a Gemini client gets it: ids that we made for other dialects stay with us.
pub fn write_call(call: &ToolCall, source: &str) -> Object {
    let mut part = part::call(call, Some(call.id.as_str()).filter(|id| call_id::own(id)));
    put(&mut part, "thoughtSignature", call.signature.as_deref().map(|held| signature::call_for_reader(held, source)));
    part
}
