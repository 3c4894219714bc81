//! Whole answers: the `message` object, both ways.
//!
//! Writes only what Anthropic's SDKs can read: no empty text, inputs that are objects, block and citation types of the
//! dialect; blocks that only another dialect knows are left out.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::blocks::{block, leftover, spell};
use super::wire::{ARRAY, Object, STRING, read, str_of};
use super::{NAME, calls, carry, cite, error, stop, usage};
use crate::chat::{Answer, Block, Choice, Content, ToolCall};
use crate::dialect::{Asked, Op, Summary};
use crate::fault::{Fault, Kind};
use crate::json::{Envelope, exact, take};

pub fn decode(body: &[u8]) -> Result<Answer, Fault> {
    let mut fields = object(body)?;
    if !exact::holds(body) {
        keep_inputs(&mut fields, body);
    }
    let bad = |mut fault: Fault| {
        fault.kind = Kind::BadAnswer;
        fault
    };
    let mut blocks = Vec::new();
    let content = read(&mut fields, "", "content", &ARRAY).map_err(bad)?;
    let Some(content) = content else {
        return Err(Fault::new(Kind::BadAnswer, "The provider's answer has no `content`."));
    };
    for (i, value) in content.into_iter().enumerate() {
        blocks.push(block(value, &format!("content.{i}")).map_err(bad)?);
    }
    let native = read(&mut fields, "", "stop_reason", &STRING).map_err(bad)?;
    let stop_sequence = read(&mut fields, "", "stop_sequence", &STRING).map_err(bad)?;
    let choice = Choice {
        index: 0,
        finish: native.as_deref().map(stop::decode),
        native_finish: native,
        stop_sequence,
        blocks,
        ..Choice::default()
    };
    let mut answer = Answer { choices: vec![choice], source: NAME, ..Answer::default() };
    answer.id = read(&mut fields, "", "id", &STRING).map_err(bad)?.unwrap_or_default();
    answer.model = read(&mut fields, "", "model", &STRING).map_err(bad)?.unwrap_or_default();
    if let Some(counts) = take(&mut fields, "usage") {
        answer.usage = usage::decode(&counts);
        answer.service_tier = str_of(&counts, "service_tier").map(usage::tier);
        let kept = unread_usage(counts);
        if !kept.is_empty() {
            fields.insert("usage".to_owned(), Value::Object(kept));
        }
    }
    fields.shift_remove("type");
    fields.shift_remove("role");
    answer.extra = leftover(fields);
    Ok(answer)
}

/// Inputs keep their numbers, also those that a tree would change.
fn keep_inputs(fields: &mut Object, body: &[u8]) {
    #[derive(Deserialize)]
    struct Message<'a> {
        #[serde(borrow)]
        content: &'a RawValue,
    }
    if let (Some(content), Ok(raw)) = (fields.get_mut("content"), serde_json::from_slice::<Message<'_>>(body)) {
        spell(content, raw.content);
    }
}

/// The body as an object; an error body under status 200 is the refusal it says it is.
fn object(body: &[u8]) -> Result<Object, Fault> {
    let value: Value = serde_json::from_slice(body)
        .map_err(|error| Fault::new(Kind::BadAnswer, "The provider's answer is not JSON.").because(error))?;
    match value {
        Value::Object(fields) if fields.get("type").is_some_and(|kind| kind == "error") => {
            Err(error::reported(&Value::Object(fields)))
        }
        Value::Object(fields) => Ok(fields),
        _ => Err(Fault::new(Kind::BadAnswer, "The provider's answer is not a JSON object.")),
    }
}

/// What the neutral counts do not hold: server tools, region, details of later versions. Where they hold more than the
/// message's own counts, these too.
pub fn unread_usage(usage: Value) -> Object {
    const READ: &[&str] = &[
        "input_tokens",
        "cache_creation_input_tokens",
        "cache_read_input_tokens",
        "cache_creation",
        "output_tokens",
        "output_tokens_details",
        "service_tier",
    ];
    let more = usage::compaction(&usage).is_some();
    let Value::Object(mut fields) = usage else { return Object::new() };
    fields.retain(|key, value| !value.is_null() && (more || !READ.contains(&key.as_str())));
    fields
}

pub fn encode(answer: &Answer, asked: &Asked) -> Vec<u8> {
    let own = answer.source == NAME;
    let empty = Choice::default();
    let choice = answer.choices.iter().find(|choice| choice.index == 0).or(answer.choices.first()).unwrap_or(&empty);
    let content = content(&choice.blocks, answer.source, asked);
    let seen = stop::Seen {
        calls: choice.blocks.iter().any(|block| matches!(block.content, Content::ToolCall(_))),
        refusal: choice.blocks.iter().any(|block| matches!(block.content, Content::Refusal(_))),
    };
    let stop_reason = stop::encode(choice.finish, choice.native_finish.as_deref(), &seen, own);
    let mut usage = usage::encode(answer.usage.as_ref(), answer.service_tier.as_deref());
    let mut message = json!({
        "id": id(&answer.id, asked),
        "type": "message",
        "role": "assistant",
        "model": asked.model,
        "content": content,
        "stop_sequence": choice.stop_sequence.as_deref().filter(|_| stop_reason == "stop_sequence"),
        "stop_reason": stop_reason,
    });
    let mut more = if own { answer.extra.clone() } else { Object::new() };
    if let Some(Value::Object(kept)) = more.shift_remove("usage") {
        usage.extend(kept);
    }
    message["usage"] = Value::Object(usage);
    if let Some(fields) = message.as_object_mut() {
        fields.extend(more);
    }
    exact::written(message)
}

/// See [`crate::dialect::Dialect::calling`].
pub fn calling(data: &[u8], model: &str) -> Option<Vec<u8>> {
    let mut envelope = Envelope::read(Bytes::copy_from_slice(data)).ok()?;
    if envelope.str("type").is_some_and(|kind| kind == "message_start") {
        let message = calling(envelope.raw("message")?, model)?;
        envelope.set("message", message);
    } else {
        envelope.str("model").filter(|named| named != model)?;
        envelope.set_str("model", model);
    }
    Some(envelope.pieces().concat())
}

/// The id as Anthropic's begin.
pub fn id(id: &str, asked: &Asked) -> String {
    match id {
        "" => format!("msg_{}", asked.id),
        id if id.starts_with("msg_") => id.to_owned(),
        id => format!("msg_{id}"),
    }
}

fn after_text(out: &[Value]) -> bool {
    out.last().is_some_and(|block| block["type"] == "text")
}

fn content(blocks: &[Block], source: &str, asked: &Asked) -> Vec<Value> {
    let mut out = Vec::new();
    let mut held = Vec::new();
    for (index, block) in blocks.iter().enumerate() {
        let written = encode_block(block, index, source, asked);
        match &block.content {
            Content::Reasoning(reasoning) if carry::trails(reasoning, source, after_text(&out)) => held.extend(written),
            _ if written.is_empty() => {}
            _ => {
                out.append(&mut held);
                out.extend(written);
            }
        }
    }
    out
}

fn encode_block(block: &Block, index: usize, source: &str, asked: &Asked) -> Vec<Value> {
    let mut before = None;
    let value = match &block.content {
        Content::Text { text, citations } => {
            let citations: Vec<Value> = citations.iter().filter_map(cite::for_client).collect();
            text_block(text, citations)
        }
        Content::Refusal(text) | Content::Audio { transcript: Some(text), .. } => text_block(text, Vec::new()),
        Content::Reasoning(reasoning) => return carry::blocks(reasoning, source),
        Content::ToolCall(call) => {
            before = call.signature.as_deref().map(|signature| carry::call_block(signature, source));
            let id = call_id(call, index, asked);
            Some(json!({"type": "tool_use", "id": id, "name": call.name, "input": calls::input(call)}))
        }
        Content::Other(value) if source == NAME => Some(value.clone()),
        _ => None,
    };
    let Some(mut value) = value else { return Vec::new() };
    if source == NAME
        && let Some(fields) = value.as_object_mut()
    {
        fields.extend(block.extra.clone());
    }
    before.into_iter().chain([value]).collect()
}

fn text_block(text: &str, citations: Vec<Value>) -> Option<Value> {
    if text.is_empty() {
        return None;
    }
    let mut value = json!({"type": "text", "text": text});
    if !citations.is_empty() {
        value["citations"] = Value::Array(citations);
    }
    Some(value)
}

/// The call's id; a made-up one where the provider gave none, because the result must name it.
pub fn call_id(call: &ToolCall, index: usize, asked: &Asked) -> String {
    if call.id.is_empty() { format!("toolu_{}_{index}", asked.id) } else { call.id.clone() }
}

/// Reads what settling needs of an answer that is relayed.
pub fn summary(op: Op, body: &[u8]) -> Result<Summary, Fault> {
    let fields = object(body)?;
    let text = |key: &str| fields.get(key).and_then(Value::as_str).map(str::to_owned);
    let counts = match op {
        // A counting answer is itself the count.
        Op::CountTokens => usage::decode(&json!({"input_tokens": fields.get("input_tokens")})),
        _ => fields.get("usage").and_then(usage::decode),
    };
    let finish = fields.get("stop_reason").and_then(Value::as_str).map(stop::decode);
    Ok(Summary { id: text("id"), model: text("model"), usage: counts, finish })
}

pub fn decode_count(body: &[u8]) -> Result<u64, Fault> {
    let fields = object(body)?;
    let tokens = fields.get("input_tokens").and_then(super::wire::count);
    tokens.ok_or_else(|| Fault::new(Kind::BadAnswer, "The provider's count has no `input_tokens`."))
}
