//! `POST /v1/chat/completions` as OpenAI answers it, with the reasoning fields that compatible providers add.
//!
//! Reading a request is `ask`'s work; here stand the answer and its stream.

mod ask;

use serde_json::{Map, Value, json};

use super::answer::{Answer, Frame, Framing, Outcome, Part, Turn};
use super::openai::{Usage, fingerprint, logprobs, obfuscation, tier};
use super::reply::{self, Call, Finish, Reply};
use super::signature;

/// Bytes of tool arguments in one chunk.
const ARGUMENT_BYTES: usize = 8;

/// Reads, decides and answers.
pub fn answer(turn: &Turn<'_>) -> Outcome {
    let prompt = ask::read(turn)?;
    let replies = reply::say(&prompt, turn.knobs);
    let usage = Usage::of(&prompt.measure, &replies, turn);
    let style = Style::of(turn, &replies);
    if turn.stream {
        return Ok(Answer::frames(Framing::Sse, style.frames(&replies, &usage)));
    }
    let choices: Vec<Value> = replies.iter().enumerate().map(|(index, reply)| style.choice(index, reply)).collect();
    let pieces = replies.iter().map(|reply| style.deltas(reply).len()).sum();
    let mut value = style.envelope("chat.completion");
    value["choices"] = Value::Array(choices);
    value["usage"] = usage.chat();
    Ok(Answer::pieces(value, pieces))
}

/// How reasoning is spelled: OpenAI itself shows none, so the forms of the compatible providers serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spelling {
    /// `reasoning_content` (DeepSeek, vLLM, Zhipu, …).
    Content,
    /// `reasoning` and `reasoning_details` (OpenRouter), for those who ask with `reasoning: {…}`.
    Details,
}

/// What all parts of one answer share.
struct Style<'a> {
    turn: &'a Turn<'a>,
    id: String,
    spelling: Spelling,
    /// Ids of the calls of each choice.
    call_ids: Vec<Vec<String>>,
    logprobs: Option<u64>,
    include_usage: bool,
}

impl<'a> Style<'a> {
    fn of(turn: &'a Turn<'a>, replies: &[Reply]) -> Self {
        let body = turn.body;
        let ids = |reply: &Reply| reply.calls.iter().map(|_| turn.state.id("call_", 24)).collect();
        Style {
            turn,
            id: turn.state.id("chatcmpl-", 29),
            spelling: if body["reasoning"].is_object() { Spelling::Details } else { Spelling::Content },
            call_ids: replies.iter().map(ids).collect(),
            logprobs: (body["logprobs"] == true).then(|| body["top_logprobs"].as_u64().unwrap_or(0)),
            include_usage: body["stream_options"]["include_usage"] == true,
        }
    }

    fn envelope(&self, object: &str) -> Value {
        json!({
            "id": self.id, "object": object, "created": self.turn.now, "model": self.turn.model,
            "choices": [], "service_tier": tier(self.turn.body), "system_fingerprint": fingerprint(self.turn.body),
        })
    }

    fn choice(&self, index: usize, reply: &Reply) -> Value {
        let mut message = json!({
            "role": "assistant",
            "content": if reply.text.is_empty() && !reply.calls.is_empty() { Value::Null } else { json!(reply.text) },
            "refusal": null,
            "annotations": [],
        });
        if !reply.reasoning.is_empty() {
            self.reasoning(&mut message, &reply.reasoning);
            if let Some(proof) = self.proof(reply) {
                message["reasoning_details"][0]["signature"] = proof["reasoning_details"][0]["signature"].clone();
            }
        }
        if !reply.calls.is_empty() {
            let calls = reply.calls.iter().zip(&self.call_ids[index]);
            message["tool_calls"] = calls.map(|(call, id)| whole_call(call, id)).collect();
        }
        json!({
            "index": index,
            "message": message,
            "logprobs": self.logprobs.map(|top| logprobs(&reply.text, top)),
            "finish_reason": finish(reply),
        })
    }

    fn reasoning(&self, message: &mut Value, text: &str) {
        match self.spelling {
            Spelling::Content => message["reasoning_content"] = json!(text),
            Spelling::Details => {
                message["reasoning"] = json!(text);
                message["reasoning_details"] = json!([{
                    "type": "reasoning.text", "text": text, "format": "anthropic-claude-v1", "index": 0,
                }]);
            }
        }
    }

    /// The delta that ends a stretch of reasoning with its proof, where the spelling has one.
    fn proof(&self, reply: &Reply) -> Option<Value> {
        let wanted = self.spelling == Spelling::Details && !reply.reasoning.is_empty();
        wanted.then(|| {
            let proof = signature::make(ask::SCOPE, &reply.reasoning);
            json!({"reasoning_details": [{
                "type": "reasoning.text", "signature": proof, "format": "anthropic-claude-v1", "index": 0,
            }]})
        })
    }

    /// The stream: role, pieces of every choice in turn, finish reasons, usage where asked for, the end marker.
    fn frames(&self, replies: &[Reply], usage: &Usage) -> Vec<Frame> {
        let mut frames = Vec::new();
        let mut deltas: Vec<std::vec::IntoIter<Value>> = Vec::new();
        for (index, reply) in replies.iter().enumerate() {
            let mut role = json!({"role": "assistant", "content": "", "refusal": null});
            if reply.text.is_empty() && !reply.calls.is_empty() {
                role["content"] = Value::Null;
            }
            frames.push(self.chunk(Part::Prelude, index, role, None, None));
            deltas.push(self.deltas_with_ids(index, reply).into_iter());
        }
        loop {
            let before = frames.len();
            for (index, deltas) in deltas.iter_mut().enumerate() {
                if let Some(delta) = deltas.next() {
                    let text = delta["content"].as_str();
                    let logprobs = self.logprobs.zip(text).map(|(top, text)| logprobs(text, top));
                    frames.push(self.chunk(Part::Content, index, delta, logprobs, None));
                }
            }
            if frames.len() == before {
                break;
            }
        }
        for (index, reply) in replies.iter().enumerate() {
            frames.push(self.chunk(Part::Finish, index, json!({}), None, Some(finish(reply))));
        }
        if self.include_usage {
            let mut chunk = self.envelope("chat.completion.chunk");
            chunk["usage"] = usage.chat();
            obfuscation(self.turn.body, &mut chunk, frames.len());
            frames.push(Frame::data(Part::Finish, chunk));
        }
        frames.push(Frame::done());
        frames
    }

    fn chunk(
        &self,
        part: Part,
        index: usize,
        delta: Value,
        logprobs: Option<Value>,
        finish: Option<&'static str>,
    ) -> Frame {
        let mut chunk = self.envelope("chat.completion.chunk");
        let length = delta["content"].as_str().map_or(0, str::len);
        chunk["choices"] = json!([{"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}]);
        if self.include_usage {
            chunk["usage"] = Value::Null;
        }
        obfuscation(self.turn.body, &mut chunk, length);
        Frame::data(part, chunk)
    }

    fn deltas(&self, reply: &Reply) -> Vec<Value> {
        let ids = vec![String::new(); reply.calls.len()];
        self.deltas_of(reply, &ids)
    }

    fn deltas_with_ids(&self, index: usize, reply: &Reply) -> Vec<Value> {
        self.deltas_of(reply, &self.call_ids[index])
    }

    fn deltas_of(&self, reply: &Reply, ids: &[String]) -> Vec<Value> {
        let chunks = self.turn.knobs.chunks;
        let mut deltas = Vec::new();
        for piece in reply::pieces(&reply.reasoning, chunks) {
            let mut delta = json!({});
            self.reasoning(&mut delta, piece);
            deltas.push(delta);
        }
        deltas.extend(self.proof(reply));
        deltas.extend(reply::pieces(&reply.text, chunks).into_iter().map(|piece| json!({"content": piece})));
        for (index, (call, id)) in reply.calls.iter().zip(ids).enumerate() {
            let mut opening = whole_call(call, id);
            opening[kind(call)][input(call)] = json!("");
            opening["index"] = json!(index);
            deltas.push(json!({"tool_calls": [opening]}));
            let count = call.arguments.len().div_ceil(ARGUMENT_BYTES);
            for piece in reply::pieces(&call.arguments, Some(count)) {
                let mut part = Map::new();
                part.insert("index".to_owned(), json!(index));
                part.insert(kind(call).to_owned(), json!({input(call): piece}));
                deltas.push(json!({"tool_calls": [part]}));
            }
        }
        deltas
    }
}

fn kind(call: &Call) -> &'static str {
    if call.custom { "custom" } else { "function" }
}

fn input(call: &Call) -> &'static str {
    if call.custom { "input" } else { "arguments" }
}

fn whole_call(call: &Call, id: &str) -> Value {
    let (kind, input) = (kind(call), input(call));
    json!({"id": id, "type": kind, kind: {"name": call.name, input: call.arguments}})
}

fn finish(reply: &Reply) -> &'static str {
    match reply.finish {
        Finish::Stop | Finish::StopSequence(_) => "stop",
        Finish::Length => "length",
        Finish::Calls => "tool_calls",
    }
}
