//! `POST /v1/messages` and `/v1/messages/count_tokens` as Anthropic answers them.
//!
//! Reading a request is `ask`'s work; here stand the answer and its stream.

mod ask;

use serde_json::{Value, json};

use super::answer::{Answer, Frame, Framing, Outcome, Part, Turn};
use super::prompt::Cached;
use super::reply::{self, Finish, Reply};
use super::signature;

pub use ask::SCOPE;

/// Bytes of tool arguments in one delta.
const ARGUMENT_BYTES: usize = 8;

pub fn answer(turn: &Turn<'_>) -> Outcome {
    let prompt = ask::read(turn)?;
    let replies = reply::say(&prompt, turn.knobs);
    let Some(reply) = replies.first() else { return Ok(Answer::json(Value::Null)) };
    let cached = prompt.measure.marked(turn.state, &turn.model);
    let message = Message { turn, reply, cached, input: prompt.measure.tokens(), id: turn.state.id("msg_01", 22) };
    let blocks = message.blocks();
    if turn.stream {
        return Ok(Answer::frames(Framing::Sse, message.frames(&blocks)));
    }
    let pieces = blocks.iter().map(|block| message.deltas(block).len()).sum();
    let value = message.whole(json!(blocks), Some(reply), message.usage(reply.tokens()));
    Ok(Answer::pieces(value, pieces))
}

pub fn count(turn: &Turn<'_>) -> Outcome {
    let prompt = ask::read_count(turn)?;
    Ok(Answer::json(json!({"input_tokens": prompt.measure.tokens()})))
}

struct Message<'a> {
    turn: &'a Turn<'a>,
    reply: &'a Reply,
    cached: Cached,
    input: u64,
    id: String,
}

impl Message<'_> {
    fn whole(&self, content: Value, done: Option<&Reply>, usage: Value) -> Value {
        json!({
            "model": self.turn.model, "id": self.id, "type": "message", "role": "assistant", "content": content,
            "stop_reason": done.map(stop_reason), "stop_sequence": done.and_then(stop_sequence),
            "stop_details": null, "usage": usage,
        })
    }

    fn usage(&self, output: u64) -> Value {
        let mut usage = self.counts(output);
        usage["cache_creation"] = json!({
            "ephemeral_5m_input_tokens": self.cached.write_5m, "ephemeral_1h_input_tokens": self.cached.write_1h,
        });
        usage["service_tier"] = json!("standard");
        usage["inference_geo"] = json!("not_available");
        usage
    }

    /// The counts that both ends of a stream state; fresh input apart from what the cache gave and took.
    fn counts(&self, output: u64) -> Value {
        let written = self.cached.write_5m + self.cached.write_1h;
        json!({
            "input_tokens": self.input - self.cached.read - written,
            "cache_creation_input_tokens": written,
            "cache_read_input_tokens": self.cached.read,
            "output_tokens": output,
            "output_tokens_details": {"thinking_tokens": self.reply.reasoning_tokens().min(output)},
        })
    }

    fn blocks(&self) -> Vec<Value> {
        let mut blocks = Vec::new();
        if !self.reply.reasoning.is_empty() {
            let hidden = self.turn.body["thinking"]["display"] == "omitted";
            let shown = if hidden { "" } else { self.reply.reasoning.as_str() };
            let proof = signature::make(SCOPE, &self.reply.reasoning);
            blocks.push(json!({"type": "thinking", "thinking": shown, "signature": proof}));
        }
        if !self.reply.text.is_empty() {
            blocks.push(json!({"type": "text", "text": self.reply.text}));
        }
        for call in &self.reply.calls {
            // The arguments were made from a JSON value.
            let input: Value = serde_json::from_str(&call.arguments).unwrap_or_else(|_| json!({}));
            let id = self.turn.state.id("toolu_01", 22);
            blocks.push(json!({"type": "tool_use", "id": id, "name": call.name, "input": input}));
        }
        blocks
    }

    /// The deltas that a block is streamed in.
    fn deltas(&self, block: &Value) -> Vec<Value> {
        let chunks = self.turn.knobs.chunks;
        let text = |field: &'static str| block[field].as_str().unwrap_or_default();
        match block["type"].as_str() {
            Some("thinking") => {
                let pieces = reply::pieces(text("thinking"), chunks).into_iter();
                let proof = json!({"type": "signature_delta", "signature": block["signature"]});
                pieces.map(|piece| json!({"type": "thinking_delta", "thinking": piece})).chain([proof]).collect()
            }
            Some("tool_use") => {
                let arguments = block["input"].to_string();
                let count = arguments.len().div_ceil(ARGUMENT_BYTES);
                let pieces = reply::pieces(&arguments, Some(count)).into_iter();
                // The first delta is empty in the original too.
                std::iter::once("")
                    .chain(pieces)
                    .map(|piece| json!({"type": "input_json_delta", "partial_json": piece}))
                    .collect()
            }
            _ => {
                let pieces = reply::pieces(text("text"), chunks).into_iter();
                pieces.map(|piece| json!({"type": "text_delta", "text": piece})).collect()
            }
        }
    }

    fn frames(&self, blocks: &[Value]) -> Vec<Frame> {
        let mut frames = Vec::new();
        // Nothing was thought yet; the first count is a token that every stream starts with.
        let mut usage = self.usage(1);
        usage["output_tokens_details"]["thinking_tokens"] = json!(0);
        let start = self.whole(json!([]), None, usage);
        frames.push(event(Part::Prelude, "message_start", json!({"message": start})));
        for (index, block) in blocks.iter().enumerate() {
            let opening = if index == 0 { Part::Prelude } else { Part::Finish };
            let start = json!({"index": index, "content_block": emptied(block)});
            frames.push(event(opening, "content_block_start", start));
            if index == 0 {
                frames.push(event(Part::Prelude, "ping", json!({})));
            }
            for delta in self.deltas(block) {
                frames.push(event(Part::Content, "content_block_delta", json!({"index": index, "delta": delta})));
            }
            frames.push(event(Part::Finish, "content_block_stop", json!({"index": index})));
        }
        let delta = json!({
            "stop_reason": stop_reason(self.reply), "stop_sequence": stop_sequence(self.reply), "stop_details": null,
        });
        let usage = self.counts(self.reply.tokens());
        frames.push(event(Part::Finish, "message_delta", json!({"delta": delta, "usage": usage})));
        frames.push(event(Part::Done, "message_stop", json!({})));
        frames
    }
}

/// A block as `content_block_start` shows it.
fn emptied(block: &Value) -> Value {
    let mut block = block.clone();
    for (field, value) in [("text", json!("")), ("thinking", json!("")), ("signature", json!("")), ("input", json!({}))]
    {
        if block.get(field).is_some() {
            block[field] = value;
        }
    }
    block
}

fn event(part: Part, kind: &'static str, fields: Value) -> Frame {
    let mut data = json!({"type": kind});
    if let (Some(data), Value::Object(fields)) = (data.as_object_mut(), fields) {
        data.extend(fields);
    }
    Frame::new(part, kind, data)
}

fn stop_reason(reply: &Reply) -> &'static str {
    match reply.finish {
        Finish::Stop => "end_turn",
        Finish::StopSequence(_) => "stop_sequence",
        Finish::Length => "max_tokens",
        Finish::Calls => "tool_use",
    }
}

fn stop_sequence(reply: &Reply) -> Option<&str> {
    match &reply.finish {
        Finish::StopSequence(stop) => Some(stop),
        _ => None,
    }
}
