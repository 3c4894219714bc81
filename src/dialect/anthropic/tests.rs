//! Fixtures of `tests/fixtures/dialect/anthropic` through both directions of the dialect.
//!
//! The `streams/*.json` are what Anthropic's Python SDK makes of the streams beside them (null fields and the counts of
//! server tools, which no event carries, left out).

mod answer;
mod ask;
mod foreign;
mod numbers;
mod odd;
mod stream;

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::Value;

use super::Anthropic;
use crate::chat::{Ask, Event};
use crate::dialect::{Asked, Dialect, Op, RawAsk};
use crate::fault::Fault;
use crate::sse::{Frame, Scanner};

fn fixture(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/dialect/anthropic").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(bytes)))
}

fn decode(body: &[u8]) -> Result<Ask, Fault> {
    Anthropic.decode_ask(&RawAsk { op: Op::Generate, body, model: None, stream: false })
}

/// An ask whose caller calls the model so.
fn asked_for(model: &str) -> Asked {
    Asked { model: model.to_owned(), ..asked() }
}

fn asked() -> Asked {
    let ask = Ask { model: "asked-model".to_owned(), ..Ask::default() };
    let model = ask.model.clone();
    Asked { op: Op::Generate, ask: Arc::new(ask), model, id: "x1".to_owned(), now: 0 }
}

/// Every event of a stream that arrives in these pieces.
fn read(pieces: &[&[u8]]) -> (Vec<Event>, Result<(), Fault>) {
    let (mut scanner, mut decoder, mut out) = (Scanner::new(), Anthropic.decoder(), Vec::new());
    for piece in pieces {
        scanner.push(bytes::Bytes::copy_from_slice(piece));
        while let Some(frame) = scanner.frame().expect("bounded") {
            if let Err(fault) = decoder.frame(&Frame(&frame), &mut out) {
                return (out, Err(fault));
            }
        }
    }
    if let Some(rest) = scanner.rest()
        && let Err(fault) = decoder.frame(&Frame(&rest), &mut out)
    {
        return (out, Err(fault));
    }
    let end = decoder.finish(&mut out);
    (out, end)
}

/// The same without nulls, which SDKs do not tell from absent fields.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let fields = fields.into_iter().filter(|(_, value)| !value.is_null());
            Value::Object(fields.map(|(key, value)| (key, without_nulls(value))).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(without_nulls).collect()),
        other => other,
    }
}
