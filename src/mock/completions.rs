//! `POST /v1/completions`, OpenAI's legacy text completion.

use serde_json::{Value, json};

use super::answer::{Answer, Frame, Framing, Outcome, Part, Turn};
use super::openai::{self, Usage, fingerprint, required, token_texts, unrecognized, wrong_type};
use super::prompt::Prompt;
use super::refusal::Refusal;
use super::reply::{self, Finish, Reply};

const FIELDS: &[&str] = &[
    "model",
    "prompt",
    "best_of",
    "echo",
    "frequency_penalty",
    "logit_bias",
    "logprobs",
    "max_tokens",
    "n",
    "presence_penalty",
    "seed",
    "stop",
    "stream",
    "stream_options",
    "suffix",
    "temperature",
    "top_p",
    "user",
];

/// Tokens generated when the request states no bound, as in the original.
const DEFAULT_MAX_TOKENS: u64 = 16;

pub fn answer(turn: &Turn<'_>) -> Outcome {
    let body = turn.body;
    unrecognized(turn, &[FIELDS])?;
    openai::ranges(
        body,
        &[("temperature", 0.0, 2.0), ("top_p", 0.0, 1.0), ("n", 1.0, 128.0), ("max_tokens", 0.0, f64::MAX)],
    )?;
    let prompts = prompts(body)?;
    let mut total = Prompt::default();
    let mut choices: Vec<(Reply, String)> = Vec::new();
    for text in &prompts {
        total.measure.text(text);
        let prompt = Prompt {
            turns: 1,
            last: text.clone(),
            choices: usize::try_from(body["n"].as_u64().unwrap_or(1)).unwrap_or(1),
            max_tokens: Some(body["max_tokens"].as_u64().unwrap_or(DEFAULT_MAX_TOKENS)),
            stop: stops(&body["stop"]),
            ..Prompt::default()
        };
        for mut reply in reply::say(&prompt, turn.knobs) {
            reply.reasoning.clear();
            let echo = if body["echo"] == true { text.clone() } else { String::new() };
            choices.push((reply, echo));
        }
    }
    let replies: Vec<Reply> = choices.iter().map(|(reply, _)| reply.clone()).collect();
    let usage = Usage::of(&total.measure, &replies, turn);
    let id = turn.state.id("cmpl-", 29);
    if turn.stream {
        return Ok(Answer::frames(Framing::Sse, frames(turn, &id, &choices, &usage)));
    }
    let mut pieces = 0;
    let listed = choices.iter().enumerate().map(|(index, (reply, echo))| {
        pieces += reply::pieces(&reply.text, turn.knobs.chunks).len();
        choice(turn, index, &format!("{echo}{}", reply.text), echo.len(), Some(finish(reply)))
    });
    let listed: Vec<Value> = listed.collect();
    let mut value = envelope(turn, &id, listed);
    value["usage"] = usage.chat();
    Ok(Answer::pieces(value, pieces))
}

/// The prompt is a text, a list of texts, a list of token ids or a list of such lists.
fn prompts(body: &Value) -> Result<Vec<String>, Refusal> {
    let given = required(body, "prompt")?;
    let tokens = |list: &[Value]| list.iter().map(Value::to_string).collect::<Vec<_>>().join(" ");
    let one = |value: &Value| match value {
        Value::String(text) => Ok(text.clone()),
        Value::Array(list) if list.iter().all(Value::is_u64) => Ok(tokens(list)),
        other => Err(wrong_type("prompt", "one of a string or array of tokens", other)),
    };
    match given {
        Value::Array(list) if list.is_empty() => Err(Refusal::openai(
            "Invalid 'prompt': empty array. Expected an array with minimum length 1, but got an empty array instead.",
            "prompt".to_owned(),
            Some("empty_array"),
        )),
        Value::Array(list) if !list.iter().all(Value::is_u64) => list.iter().map(one).collect(),
        value => Ok(vec![one(value)?]),
    }
}

fn stops(stop: &Value) -> Vec<String> {
    match stop {
        Value::String(stop) => vec![stop.clone()],
        Value::Array(stops) => stops.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        _ => Vec::new(),
    }
}

fn envelope(turn: &Turn<'_>, id: &str, choices: Vec<Value>) -> Value {
    json!({
        "id": id, "object": "text_completion", "created": turn.now, "model": turn.model, "choices": choices,
        "system_fingerprint": fingerprint(turn.body),
    })
}

fn choice(turn: &Turn<'_>, index: usize, text: &str, offset: usize, finish: Option<&str>) -> Value {
    let logprobs = turn.body["logprobs"].as_u64().map(|top| logprobs(text, offset, top));
    json!({"text": text, "index": index, "logprobs": logprobs, "finish_reason": finish})
}

/// The legacy form of log probabilities: parallel lists.
fn logprobs(text: &str, offset: usize, top: u64) -> Value {
    let tokens = token_texts(text);
    let mut at = offset;
    let offsets: Vec<usize> = tokens
        .iter()
        .map(|token| {
            at += token.len();
            at - token.len()
        })
        .collect();
    let best: Vec<Value> = tokens.iter().map(|token| json!({*token: -0.25})).collect();
    json!({
        "tokens": tokens, "token_logprobs": vec![-0.25; tokens.len()],
        "top_logprobs": if top > 0 { json!(best) } else { Value::Null }, "text_offset": offsets,
    })
}

fn frames(turn: &Turn<'_>, id: &str, choices: &[(Reply, String)], usage: &Usage) -> Vec<Frame> {
    let include_usage = turn.body["stream_options"]["include_usage"] == true;
    let chunk = |part, choice: Value| {
        let mut value = envelope(turn, id, vec![choice]);
        if include_usage {
            value["usage"] = Value::Null;
        }
        Frame::data(part, value)
    };
    let mut frames = Vec::new();
    for (index, (reply, echo)) in choices.iter().enumerate() {
        let mut offset = 0;
        let echo = Some(echo.as_str()).filter(|echo| !echo.is_empty());
        for piece in echo.into_iter().chain(reply::pieces(&reply.text, turn.knobs.chunks)) {
            frames.push(chunk(Part::Content, choice(turn, index, piece, offset, None)));
            offset += piece.len();
        }
        let last = json!({"text": "", "index": index, "logprobs": null, "finish_reason": finish(reply)});
        frames.push(chunk(Part::Finish, last));
    }
    if include_usage {
        let mut value = envelope(turn, id, Vec::new());
        value["usage"] = usage.chat();
        frames.push(Frame::data(Part::Finish, value));
    }
    frames.push(Frame::done());
    frames
}

fn finish(reply: &Reply) -> &'static str {
    if reply.finish == Finish::Length { "length" } else { "stop" }
}
