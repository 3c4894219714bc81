//! Gemini's `generateContent`, `streamGenerateContent`, `countTokens`, `embedContent` and `batchEmbedContents`.
//!
//! Reading a request is `ask`'s work; here stand the answers and the stream.

mod ask;

use serde_json::{Value, json};

use super::answer::{Answer, Frame, Framing, Outcome, Part, Turn};
use super::embeddings::{numbers, vector};
use super::openai::token_texts;
use super::prompt::{Cached, Prompt};
use super::refusal::Refusal;
use super::reply::{self, Finish, Reply, tokens};
use super::signature;
use super::trouble::Kind;

pub use ask::{SCOPE, field};

/// Length of a vector when none is asked for.
const DEFAULT_DIMENSIONS: u64 = 3072;

pub fn generate(turn: &Turn<'_>) -> Outcome {
    let prompt = ask::read(turn)?;
    if turn.knobs.trouble.as_ref().is_some_and(|trouble| trouble.kind == Kind::Policy) {
        return Ok(blocked(turn, &prompt));
    }
    let replies = reply::say(&prompt, turn.knobs);
    let generation = Generation {
        turn,
        replies: &replies,
        cached: prompt.measure.implicit(turn.state, &turn.model),
        prompt: &prompt,
        id: turn.state.id("", 22),
        logprobs: field(field(turn.body, "generationConfig"), "responseLogprobs") == true,
        thoughts: field(field(field(turn.body, "generationConfig"), "thinkingConfig"), "includeThoughts") == true
            || turn.knobs.reasoning == Some(true),
    };
    if turn.stream {
        let framing = if turn.request.query("alt") == Some("sse") { Framing::SseCrlf } else { Framing::Array };
        return Ok(Answer::frames(framing, generation.frames()));
    }
    let candidates: Vec<Value> = replies.iter().enumerate().map(|(i, reply)| generation.candidate(i, reply)).collect();
    let pieces = replies.iter().map(|reply| generation.pieces(reply).len()).sum();
    Ok(Answer::pieces(generation.response(candidates, generation.usage(None)), pieces))
}

pub fn count(turn: &Turn<'_>) -> Outcome {
    let inner = field(turn.body, "generateContentRequest");
    let body = if inner.is_object() { inner } else { turn.body };
    let prompt = ask::read(&Turn { body, model: turn.model.clone(), ..*turn })?;
    let total = prompt.measure.tokens();
    Ok(Answer::json(json!({"totalTokens": total, "promptTokensDetails": details(&prompt, total)})))
}

pub fn embed(turn: &Turn<'_>) -> Outcome {
    let (values, _) = embedding(turn.body, "EmbedContentRequest")?;
    Ok(Answer::json(json!({"embedding": {"values": values}})))
}

pub fn embed_batch(turn: &Turn<'_>) -> Outcome {
    let requests = turn.body["requests"].as_array();
    let Some(requests) = requests.filter(|requests| !requests.is_empty()) else {
        return Err(Refusal::gemini("* BatchEmbedContentsRequest.requests: requests is not specified\n"));
    };
    let mut embeddings = Vec::new();
    for (i, request) in requests.iter().enumerate() {
        let (values, _) = embedding(request, &format!("BatchEmbedContentsRequest.requests[{i}]"))?;
        embeddings.push(json!({"values": values}));
    }
    Ok(Answer::json(json!({"embeddings": embeddings})))
}

fn embedding(request: &Value, at: &str) -> Result<(Value, u64), Refusal> {
    let parts = request["content"]["parts"].as_array();
    let Some(parts) = parts.filter(|parts| !parts.is_empty()) else {
        return Err(Refusal::gemini(format!("* {at}.content: content is not specified\n")));
    };
    let text: Vec<&str> = parts.iter().filter_map(|part| part["text"].as_str()).collect();
    let text = text.join("\n");
    let config = field(request, "embedContentConfig");
    let wanted = [field(request, "outputDimensionality"), field(config, "outputDimensionality")];
    let dimensions = wanted.iter().find_map(|value| value.as_u64()).unwrap_or(DEFAULT_DIMENSIONS);
    Ok((numbers(&vector(&text, dimensions)), tokens(&text)))
}

/// A prompt that Gemini refuses: status 200, no candidates, a reason.
fn blocked(turn: &Turn<'_>, prompt: &Prompt) -> Answer {
    let input = prompt.measure.tokens();
    let value = json!({
        "promptFeedback": {"blockReason": "PROHIBITED_CONTENT"},
        "usageMetadata": {
            "promptTokenCount": input, "totalTokenCount": input, "promptTokensDetails": details(prompt, input),
        },
        "modelVersion": model(turn),
        "responseId": turn.state.id("", 22),
    });
    if turn.stream {
        let framing = if turn.request.query("alt") == Some("sse") { Framing::SseCrlf } else { Framing::Array };
        return Answer::frames(framing, vec![Frame::data(Part::Finish, value)]);
    }
    Answer::json(value)
}

fn model<'a>(turn: &'a Turn<'_>) -> &'a str {
    turn.model.trim_start_matches("models/")
}

fn details(prompt: &Prompt, total: u64) -> Value {
    let audio = prompt.measure.audio_tokens;
    let mut details = vec![json!({"modality": "TEXT", "tokenCount": total - audio})];
    if audio > 0 {
        details.push(json!({"modality": "AUDIO", "tokenCount": audio}));
    }
    Value::Array(details)
}

struct Generation<'a> {
    turn: &'a Turn<'a>,
    replies: &'a [Reply],
    prompt: &'a Prompt,
    cached: Cached,
    id: String,
    logprobs: bool,
    /// Whether thoughts are shown; they are counted either way.
    thoughts: bool,
}

impl Generation<'_> {
    fn response(&self, candidates: Vec<Value>, usage: Value) -> Value {
        json!({
            "candidates": candidates, "usageMetadata": usage, "modelVersion": model(self.turn), "responseId": self.id,
        })
    }

    /// The usage; within a stream, `so_far` tokens of output have gone out.
    fn usage(&self, so_far: Option<u64>) -> Value {
        let input = self.prompt.measure.tokens();
        let thoughts: u64 = self.replies.iter().map(Reply::reasoning_tokens).sum();
        let output = self.replies.iter().map(Reply::tokens).sum::<u64>() - thoughts;
        let output = so_far.map_or(output, |so_far| so_far.min(output));
        let mut usage = json!({
            "promptTokenCount": input,
            "candidatesTokenCount": output,
            "totalTokenCount": input + output + thoughts,
            "promptTokensDetails": details(self.prompt, input),
        });
        if so_far.is_none() {
            usage["candidatesTokensDetails"] = json!([{"modality": "TEXT", "tokenCount": output}]);
        }
        if thoughts > 0 {
            usage["thoughtsTokenCount"] = json!(thoughts);
        }
        if self.cached.read > 0 {
            usage["cachedContentTokenCount"] = json!(self.cached.read);
            usage["cacheTokensDetails"] = json!([{"modality": "TEXT", "tokenCount": self.cached.read}]);
        }
        usage
    }

    fn candidate(&self, index: usize, reply: &Reply) -> Value {
        let mut parts = Vec::new();
        if self.thoughts && !reply.reasoning.is_empty() {
            parts.push(json!({"text": reply.reasoning, "thought": true}));
        }
        if !reply.text.is_empty() {
            let mut part = json!({"text": reply.text});
            if reply.calls.is_empty() {
                self.sign(&mut part, reply);
            }
            parts.push(part);
        }
        parts.extend(self.calls(reply));
        let mut content = json!({"role": "model"});
        if !parts.is_empty() {
            content["parts"] = Value::Array(parts);
        }
        let mut candidate = json!({"content": content, "finishReason": finish(reply), "index": index});
        if reply.finish != Finish::Length {
            candidate["avgLogprobs"] = json!(-0.25);
        }
        if self.logprobs {
            candidate["logprobsResult"] = self.logprobs_of(&reply.text);
        }
        candidate
    }

    /// The first call, or the text when there is none, carries the proof of the thoughts.
    fn sign(&self, part: &mut Value, reply: &Reply) {
        if !reply.reasoning.is_empty() {
            part["thoughtSignature"] = json!(signature::make(SCOPE, &reply.reasoning));
        }
    }

    fn calls(&self, reply: &Reply) -> Vec<Value> {
        let calls = reply.calls.iter().enumerate().map(|(i, call)| {
            let arguments: Value = serde_json::from_str(&call.arguments).unwrap_or_else(|_| json!({}));
            let mut part = json!({"functionCall": {"name": call.name, "args": arguments}});
            if self.turn.knobs.ids == Some(true) {
                part["functionCall"]["id"] = json!(self.turn.state.id("", 8));
            }
            if i == 0 {
                self.sign(&mut part, reply);
            }
            part
        });
        calls.collect()
    }

    /// The parts that a candidate is streamed in, each with its tokens.
    fn pieces(&self, reply: &Reply) -> Vec<(Value, u64)> {
        let chunks = self.turn.knobs.chunks;
        let mut pieces = Vec::new();
        if self.thoughts {
            let thoughts = reply::pieces(&reply.reasoning, chunks).into_iter();
            pieces.extend(thoughts.map(|piece| (json!({"text": piece, "thought": true}), 0)));
        }
        pieces.extend(reply::pieces(&reply.text, chunks).into_iter().map(|text| (json!({"text": text}), tokens(text))));
        let calls = self.calls(reply).into_iter().zip(&reply.calls);
        pieces.extend(calls.map(|(part, call)| (part, tokens(&call.name) + tokens(&call.arguments))));
        pieces
    }

    fn frames(&self) -> Vec<Frame> {
        let mut frames = Vec::new();
        for (index, reply) in self.replies.iter().enumerate() {
            let mut so_far = 0;
            for (part, tokens) in self.pieces(reply) {
                so_far += tokens;
                let mut candidate = json!({"content": {"parts": [part], "role": "model"}, "index": index});
                if self.logprobs && candidate["content"]["parts"][0]["text"].is_string() {
                    let text = candidate["content"]["parts"][0]["text"].as_str().unwrap_or_default();
                    let logprobs = self.logprobs_of(text);
                    candidate["logprobsResult"] = logprobs;
                }
                let usage = self.usage(Some(so_far));
                frames.push(Frame::data(Part::Content, self.response(vec![candidate], usage)));
            }
            let mut part = json!({"text": ""});
            if reply.calls.is_empty() {
                self.sign(&mut part, reply);
            }
            let last = json!({
                "content": {"parts": [part], "role": "model"}, "finishReason": finish(reply), "index": index,
            });
            frames.push(Frame::data(Part::Finish, self.response(vec![last], self.usage(None))));
        }
        frames
    }

    fn logprobs_of(&self, text: &str) -> Value {
        let entry = |token: &str, rank: u32| json!({"token": token, "tokenId": rank, "logProbability": -0.25 * f64::from(rank + 1)});
        let tokens = token_texts(text);
        let wanted = field(field(self.turn.body, "generationConfig"), "logprobs").as_u64().unwrap_or(0).min(20);
        let wanted = u32::try_from(wanted).unwrap_or(0);
        let chosen: Vec<Value> = tokens.iter().map(|token| entry(token, 0)).collect();
        let top = tokens.iter().map(|token| {
            let others: Vec<Value> = (0..wanted)
                .map(|rank| if rank == 0 { entry(token, 0) } else { entry(&format!("alt{rank}"), rank) })
                .collect();
            json!({"candidates": others})
        });
        json!({"chosenCandidates": chosen, "topCandidates": top.collect::<Vec<Value>>()})
    }
}

fn finish(reply: &Reply) -> &'static str {
    if reply.finish == Finish::Length { "MAX_TOKENS" } else { "STOP" }
}
