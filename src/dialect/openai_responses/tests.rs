//! The corpus under `tests/fixtures/dialect/openai_responses`, and what it is held against. Every `NAME.sse` with a
//! `NAME.json` beside it is one response, streamed and whole.

mod answers;
mod asks;
mod streams;

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::Value;

use super::*;
use crate::chat::event::Collector;
use crate::chat::{Choice, Content, Event};
use crate::sse::Scanner;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/dialect/openai_responses")
}

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(folder().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Names of the fixtures with this extension, without it.
fn names(extension: &str) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder())
        .expect("the corpus is there")
        .filter_map(|entry| entry.expect("readable").file_name().into_string().ok())
        .filter_map(|name| name.strip_suffix(extension).map(str::to_owned))
        .collect();
    names.sort();
    assert!(names.len() > 2, "no fixtures {extension}");
    names
}

fn ask_of(body: &[u8]) -> Ask {
    let raw = RawAsk { op: Op::Generate, body, model: None, stream: false };
    OpenAiResponses.decode_ask(&raw).expect("a good ask")
}

fn asked(ask: Ask) -> Asked {
    let model = ask.model.clone();
    Asked { op: Op::Generate, ask: Arc::new(ask), model, id: "x1".to_owned(), now: 1_700_000_000 }
}

fn plain_asked() -> Asked {
    asked(ask_of(&fixture("ask_plain.json")))
}

/// Events of a stream that comes in pieces of these lengths, then the end's verdict.
fn decode_cut(stream: &[u8], cuts: impl IntoIterator<Item = usize>) -> (Vec<Event>, Result<(), Fault>) {
    let mut scanner = Scanner::new();
    let mut decoder = OpenAiResponses.decoder();
    let mut out = Vec::new();
    let mut from = 0;
    for to in cuts.into_iter().chain([stream.len()]) {
        let to = to.min(stream.len());
        scanner.push(Bytes::copy_from_slice(&stream[from..to]));
        from = to;
        while let Some(frame) = scanner.frame().expect("bounded") {
            decoder.frame(&Frame(&frame), &mut out).expect("in the dialect");
        }
    }
    if let Some(frame) = scanner.rest() {
        decoder.frame(&Frame(&frame), &mut out).expect("in the dialect");
    }
    let end = decoder.finish(&mut out);
    (out, end)
}

fn decode_stream(stream: &[u8]) -> Vec<Event> {
    let (events, end) = decode_cut(stream, []);
    end.expect("a whole stream");
    events
}

fn encode_stream(events: &[Event], asked: &Asked) -> Vec<u8> {
    let mut encoder = OpenAiResponses.encoder(asked);
    let mut out = Vec::new();
    events.iter().for_each(|event| encoder.event(event, &mut out));
    encoder.finish(&mut out);
    out
}

fn collect(events: Vec<Event>) -> Answer {
    let mut collector = Collector::default();
    events.into_iter().for_each(|event| collector.event(event).expect("no fault"));
    collector.finish()
}

/// The data of every frame, with its event name checked against its type.
fn data_of(stream: &[u8]) -> Vec<Value> {
    let mut scanner = Scanner::new();
    scanner.push(Bytes::copy_from_slice(stream));
    let mut out: Vec<Value> = Vec::new();
    while let Some(frame) = scanner.frame().expect("bounded") {
        let frame = Frame(&frame);
        let data: Value = serde_json::from_slice(&frame.data()).expect("JSON");
        assert_eq!(data["type"], frame.event());
        out.push(data);
    }
    assert!(scanner.rest().is_none(), "the last frame is whole");
    out
}

/// An answer without what only one of stream and whole can know: echoed fields and the fields of messages.
fn bare(mut answer: Answer) -> Answer {
    answer.extra.clear();
    answer.service_tier = None;
    // Typed clients want the count, so an unknown one is written as none.
    if let Some(usage) = &mut answer.usage {
        usage.cache_write = usage.cache_write.filter(|tokens| *tokens > 0);
    }
    for block in answer.choices.iter_mut().flat_map(|choice: &mut Choice| &mut choice.blocks) {
        block.extra.clear();
        if let Content::ToolCall(call) = &mut block.content {
            call.item_id = None;
        }
        if let Content::Reasoning(reasoning) = &mut block.content {
            reasoning.id = None;
        }
    }
    answer
}

fn json(body: &[u8]) -> Value {
    serde_json::from_slice(body).expect("JSON")
}

fn fault_in(events: &[Event]) -> &Fault {
    match events.last() {
        Some(Event::Fault(fault)) => fault,
        other => panic!("no fault at the end: {other:?}"),
    }
}
