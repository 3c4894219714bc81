//! The dialect against files: asks, answers, streams and errors as Google sends them, both directions.

mod answers;
mod asks;
mod numbers;
mod others;
mod streams;

use std::sync::Arc;

use serde_json::Value;

use super::Gemini;
use crate::chat::{Ask, Block, Content};
use crate::dialect::{Asked, Dialect, Encoding, Op, Quirks, RawAsk};

fn fixture(name: &str) -> Vec<u8> {
    let path = format!("{}/tests/fixtures/dialect/gemini/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(bytes)))
}

fn decoded(op: Op, body: &[u8]) -> Ask {
    let raw = RawAsk { op, body, model: Some("gemini-2.5-flash"), stream: false };
    Gemini.decode_ask(&raw).expect("decodes")
}

/// The body for a model and the fields that were left out.
fn encoded(ask: &Ask, model: &str) -> (Value, Vec<&'static str>) {
    let mut to = Encoding::new(model, &Quirks::NONE);
    let body = Gemini.encode_ask(ask, &mut to).expect("encodes");
    (json(&body), to.dropped.into_iter().map(|(field, _)| field).collect())
}

fn asked() -> Asked {
    let ask = Ask { model: "asked-model".into(), source: "gemini", ..Ask::default() };
    let model = ask.model.clone();
    Asked { op: Op::Generate, ask: Arc::new(ask), model, id: "exchange-1".into(), now: 1_762_164_930 }
}

/// One word a block, to compare shapes at a glance.
fn shape(blocks: &[Block]) -> Vec<String> {
    blocks
        .iter()
        .map(|block| match &block.content {
            Content::Text { text, .. } => format!("text {text}"),
            Content::Image { .. } => "image".to_owned(),
            Content::Audio { format, .. } => format!("audio {format}"),
            Content::File { .. } => "file".to_owned(),
            Content::ToolCall(call) => format!("call {} {}", call.name, call.arguments),
            Content::ToolResult(result) => format!("result {}", result.id),
            Content::Reasoning(reasoning) => {
                format!("reasoning {} {}", reasoning.text, reasoning.signature.as_deref().unwrap_or("-"))
            }
            Content::Refusal(text) => format!("refusal {text}"),
            Content::Other(_) => "other".to_owned(),
        })
        .collect()
}
