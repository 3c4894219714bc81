//! The corpus: streams as providers send them, cut at every byte, against the whole answer they amount to; and round
//! trips of requests, answers and streams.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Value, json};

use super::*;
use crate::chat::Opened;
use crate::chat::event::{Collector, replay};
use crate::sse::Scanner;

fn fixtures(kind: &str, ending: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/dialect/openai_chat").join(kind);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<_> = entries.map(|entry| entry.expect("entry").path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == ending));
    files.sort();
    assert!(!files.is_empty());
    files
}

fn name(file: &Path) -> String {
    file.file_stem().expect("a name").to_string_lossy().into_owned()
}

fn asked(op: Op, ask: Ask) -> Asked {
    let model = ask.model.clone();
    Asked { op, ask: Arc::new(ask), model, id: "x1".into(), now: 1_700_000_000 }
}

fn ask_of(body: &Value, op: Op) -> Result<Ask, Fault> {
    OpenAiChat.decode_ask(&RawAsk { op, body: body.to_string().as_bytes(), model: None, stream: false })
}

/// A client that sees everything there is to see.
fn curious(op: Op) -> Asked {
    asked(op, Ask { model: "m".into(), source: NAME, include_usage: true, ..Ask::default() })
}

fn decode(stream: &[u8], cuts: &[usize]) -> Result<Vec<Event>, Fault> {
    let (mut scanner, mut decoder, mut events) = (Scanner::new(), OpenAiChat.decoder(), Vec::new());
    let mut from = 0;
    for to in cuts.iter().copied().chain([stream.len()]) {
        scanner.push(Bytes::copy_from_slice(&stream[from..to]));
        from = to;
        while let Some(frame) = scanner.frame()? {
            decoder.frame(&Frame(&frame), &mut events)?;
        }
    }
    if let Some(rest) = scanner.rest() {
        decoder.frame(&Frame(&rest), &mut events)?;
    }
    decoder.finish(&mut events)?;
    Ok(events)
}

fn collect(events: Vec<Event>) -> Answer {
    let mut collector = Collector::default();
    for event in events {
        collector.event(event).expect("no fault in the stream");
    }
    collector.finish()
}

fn encode(events: &[Event], asked: &Asked) -> Vec<u8> {
    let (mut encoder, mut out) = (OpenAiChat.encoder(asked), Vec::new());
    for event in events {
        encoder.event(event, &mut out);
    }
    encoder.finish(&mut out);
    out
}

fn value(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(bytes)))
}

/// Pings depend on where comments are cut, so they are no part of what must be equal.
fn without_pings(mut events: Vec<Event>) -> String {
    events.retain(|event| !matches!(event, Event::Ping));
    format!("{events:#?}")
}

fn op_of(file: &Path) -> Op {
    if name(file) == "legacy_text_completion" { Op::Complete } else { Op::Generate }
}

#[test]
fn recorded_streams_amount_to_the_answers_beside_them() {
    for file in fixtures("stream", "sse") {
        let stream = fs::read(&file).expect("readable");
        let events = decode(&stream, &[]).unwrap_or_else(|fault| panic!("{}: {fault}", name(&file)));
        let answer = collect(events);
        let got = value(&OpenAiChat.encode_answer(&answer, &curious(op_of(&file))));
        let beside = file.with_extension("json");
        if std::env::var_os("BLESS").is_some() {
            fs::write(&beside, format!("{got:#}\n")).expect("writable");
        }
        let expected = value(&fs::read(&beside).unwrap_or_else(|error| panic!("{}: {error}", beside.display())));
        assert_eq!(format!("{got:#}"), format!("{expected:#}"), "{}", name(&file));
    }
}

#[test]
fn a_cut_at_any_byte_changes_nothing() {
    for file in fixtures("stream", "sse") {
        let stream = fs::read(&file).expect("readable");
        let whole = without_pings(decode(&stream, &[]).expect("valid"));
        let each: Vec<usize> = (1..stream.len()).collect();
        assert_eq!(without_pings(decode(&stream, &each).expect("valid")), whole, "{} in single bytes", name(&file));
        for cut in 1..stream.len() {
            let got = without_pings(decode(&stream, &[cut]).expect("valid"));
            assert_eq!(got, whole, "{} cut at {cut}", name(&file));
        }
    }
}

#[test]
fn events_keep_their_invariants() {
    for file in fixtures("stream", "sse") {
        let events = decode(&fs::read(&file).expect("readable"), &[]).expect("valid");
        let (mut started, mut open, mut next, mut finished) = (false, Vec::new(), Vec::<(u32, u32)>::new(), Vec::new());
        for event in &events {
            let at = name(&file);
            assert!(started || matches!(event, Event::Start(_) | Event::Ping), "{at}: {event:?} before the start");
            match event {
                Event::Start(_) => assert!(!std::mem::replace(&mut started, true), "{at}: two starts"),
                Event::Open { choice, index, block } => {
                    assert!(!finished.contains(choice), "{at}: opened after the finish");
                    let call = matches!(block, Opened::ToolCall(_));
                    let others: Vec<_> = open.iter().filter(|(of, _, _)| of == choice).collect();
                    assert!(others.iter().all(|(_, _, other)| call && *other), "{at}: two blocks are open");
                    let expected = match next.iter_mut().find(|(of, _)| of == choice) {
                        Some((_, next)) => std::mem::replace(next, *next + 1),
                        None => {
                            next.push((*choice, 1));
                            0
                        }
                    };
                    assert_eq!(*index, expected, "{at}: indices do not count up");
                    open.push((*choice, *index, call));
                }
                Event::Delta { choice, index, .. } => {
                    assert!(open.iter().any(|(c, i, _)| c == choice && i == index), "{at}: {event:?} outside a block");
                }
                Event::Close { choice, index } => {
                    let position = open.iter().position(|(c, i, _)| c == choice && i == index);
                    open.remove(position.unwrap_or_else(|| panic!("{at}: closed twice")));
                }
                Event::Finish { choice, .. } => {
                    assert!(open.iter().all(|(c, _, _)| c != choice), "{at}: finished with an open block");
                    assert!(!finished.contains(choice), "{at}: finished twice");
                    finished.push(*choice);
                }
                Event::Usage(_)
                | Event::Tier(_)
                | Event::Message(_)
                | Event::Extra(_)
                | Event::Ping
                | Event::Fault(_) => {}
            }
        }
        assert!(open.is_empty() && !finished.is_empty(), "{}", name(&file));
    }
}

#[test]
fn what_the_encoder_writes_is_read_back_as_the_same_answer() {
    for file in fixtures("stream", "sse") {
        let events = decode(&fs::read(&file).expect("readable"), &[]).expect("valid");
        let answer = collect(events.clone());
        for stream in [encode(&events, &curious(op_of(&file))), encode(&replay(&answer), &curious(op_of(&file)))] {
            let again = collect(decode(&stream, &[]).expect("our own stream is valid"));
            let (mut again, mut before) = (again, answer.clone());
            for choice in again.choices.iter_mut().chain(&mut before.choices) {
                loosen(choice);
            }
            assert_eq!(again, before, "{}\n{}", name(&file), String::from_utf8_lossy(&stream));
        }
    }
}

/// Levels what a stream of this form cannot carry: the order of blocks, the SDKs' index on annotations, and reasoning
/// summaries as anything but text.
fn loosen(choice: &mut crate::chat::Choice) {
    let rank = |block: &Block| match &block.content {
        Content::Reasoning(_) => 0,
        Content::Text { .. } => 1,
        _ => 2,
    };
    choice.blocks.sort_by_key(rank);
    let mut joined: Vec<Block> = Vec::new();
    for mut block in choice.blocks.drain(..) {
        match &mut block.content {
            Content::Reasoning(reasoning) => {
                let summary = std::mem::take(&mut reasoning.summary).concat();
                reasoning.text.push_str(&summary);
            }
            Content::Text { text, citations } => {
                for citation in citations.iter_mut().filter_map(Value::as_object_mut) {
                    citation.remove("index");
                }
                if let Some(Content::Text { text: before, citations: cited }) =
                    joined.last_mut().map(|block| &mut block.content)
                {
                    before.push_str(text);
                    cited.append(citations);
                    continue;
                }
            }
            Content::Image { .. } => block.extra.clear(),
            _ => {}
        }
        joined.push(block);
    }
    choice.blocks = joined;
}

#[test]
fn whole_answers_are_written_as_they_were_read() {
    for file in fixtures("answer", "json") {
        let body = fs::read(&file).expect("readable");
        let answer = OpenAiChat.decode_answer(&body).unwrap_or_else(|fault| panic!("{}: {fault}", name(&file)));
        let once = OpenAiChat.encode_answer(&answer, &curious(Op::Generate));
        let again = OpenAiChat.decode_answer(&once).expect("our own answer is valid");
        let kept = |given: &str, ours: &str| if given.is_empty() { ours.to_owned() } else { given.to_owned() };
        // What every answer must have is made up where the server left it out.
        let (id, model) = (kept(&answer.id, &again.id), kept(&answer.model, &again.model));
        let completed = Answer { id, model, created: answer.created.or(again.created), ..answer };
        assert_eq!(again, completed, "{}", name(&file));
        let expected = file.with_extension("expected");
        if std::env::var_os("BLESS").is_some() && expected.exists() {
            fs::write(&expected, format!("{:#}\n", value(&once))).expect("writable");
        }
        // Beside it where our spelling differs from the server's.
        let expected = if expected.exists() { fs::read(&expected).expect("readable") } else { body };
        assert_eq!(value(&once), value(&expected), "{}", name(&file));
    }
}

#[test]
fn requests_of_this_dialect_are_written_as_they_were_read() {
    let quirks = Quirks { max_completion_tokens: true, developer_role: false, cache_control: true, ..Quirks::NONE };
    for file in fixtures("ask", "json") {
        let body = fs::read(&file).expect("readable");
        let op = if name(&file).starts_with("legacy_completion") { Op::Complete } else { Op::Generate };
        let mut ask = ask_of(&value(&body), op).unwrap_or_else(|fault| panic!("{}: {fault}", name(&file)));
        let mut to = Encoding::new(&ask.model, &quirks);
        let once = OpenAiChat.encode_ask(&ask, &mut to).expect("encodes");
        let again = ask_of(&value(&once), op).expect("our own request is valid");
        // The legacy declarations went out as tools.
        ask.extra.remove("functions");
        assert_eq!(again, Ask { include_usage: again.include_usage, ..ask }, "{}", name(&file));
        let expected = file.with_extension("expected");
        let expected = if expected.exists() { fs::read(&expected).expect("readable") } else { body };
        assert_eq!(value(&once), value(&expected), "{}", name(&file));
    }
}

mod answers;
mod asks;
mod faults;
mod foreign;
