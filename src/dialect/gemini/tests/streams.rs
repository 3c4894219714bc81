//! Streams: cut anywhere, relayed, and written for clients.

use bytes::Bytes;
use serde_json::json as value;

use super::*;
use crate::chat::event::{Collector, replay};
use crate::chat::{Answer, Delta, Event, Finish, Opened, Start, ToolCall, Usage};
use crate::dialect::Sniffer;
use crate::fault::{Fault, Kind};
use crate::sse::{Frame, Scanner};

fn read(stream: &[u8], size: usize) -> (Vec<Event>, Result<(), Fault>) {
    let (mut decoder, mut scanner, mut events) = (Gemini.decoder(), Scanner::new(), Vec::new());
    for piece in stream.chunks(size) {
        scanner.push(Bytes::copy_from_slice(piece));
        while let Some(frame) = scanner.frame().expect("bounded") {
            decoder.frame(&Frame(&frame), &mut events).expect("in the dialect");
        }
    }
    if let Some(rest) = scanner.rest() {
        decoder.frame(&Frame(&rest), &mut events).expect("in the dialect");
    }
    let end = decoder.finish(&mut events);
    (events, end)
}

fn events(name: &str) -> Vec<Event> {
    let (events, end) = read(&fixture(name), usize::MAX);
    end.expect("complete");
    events
}

fn collected(events: Vec<Event>) -> Answer {
    let mut collector = Collector::default();
    for event in events {
        collector.event(event).expect("no fault");
    }
    collector.finish()
}

const ALL: &[&str] = &[
    "stream_text.sse",
    "stream_calls.sse",
    "stream_signed_text.sse",
    "stream_candidates.sse",
    "stream_partial_calls.sse",
    "stream_grounded.sse",
    "stream_blocked.sse",
    "stream_error.sse",
    "stream_cut.sse",
];

#[test]
fn every_cut_gives_the_same_events() {
    for name in ALL {
        let stream = fixture(name);
        let whole = format!("{:?}", read(&stream, usize::MAX));
        for size in [1, 2, 3, 7, 64] {
            assert_eq!(format!("{:?}", read(&stream, size)), whole, "{name} in pieces of {size}");
        }
        for cut in 1..stream.len() {
            let (mut decoder, mut scanner, mut events) = (Gemini.decoder(), Scanner::new(), Vec::new());
            for piece in [&stream[..cut], &stream[cut..]] {
                scanner.push(Bytes::copy_from_slice(piece));
                while let Some(frame) = scanner.frame().expect("bounded") {
                    decoder.frame(&Frame(&frame), &mut events).expect("in the dialect");
                }
            }
            let end = decoder.finish(&mut events);
            assert_eq!(format!("{:?}", (events, end)), whole, "{name} cut at {cut}");
        }
    }
}

#[test]
fn the_invariants_of_events_hold() {
    for name in ALL {
        let (events, _) = read(&fixture(name), usize::MAX);
        assert!(matches!(events[0], Event::Start(_)), "{name}");
        let mut open = std::collections::HashSet::new();
        let mut next = std::collections::HashMap::new();
        for event in &events {
            match event {
                Event::Open { choice, index, .. } => {
                    let expected = next.entry(*choice).or_insert(0);
                    assert_eq!(index, expected, "{name}");
                    *expected += 1;
                    assert!(open.insert((*choice, *index)), "{name}");
                }
                Event::Delta { choice, index, .. } => assert!(open.contains(&(*choice, *index)), "{name}: {event:?}"),
                Event::Close { choice, index } => assert!(open.remove(&(*choice, *index)), "{name}"),
                Event::Finish { choice, .. } => assert!(!open.iter().any(|(of, _)| of == choice), "{name}"),
                _ => {}
            }
        }
    }
}

#[test]
fn thoughts_and_text_are_put_together() {
    let answer = collected(events("stream_text.sse"));
    assert_eq!(
        shape(&answer.choices[0].blocks),
        ["reasoning **Counting**\n\nI count to three. -", "text Eins, zwei – „drei“ 🙂"]
    );
    assert_eq!(answer.choices[0].finish, Some(Finish::Stop));
    assert_eq!(answer.id, "Hx8IaeTfLqmYvdIPw6jf2Qo");
    let usage = answer.usage.expect("usage");
    assert_eq!((usage.input, usage.output, usage.reasoning, usage.total()), (9, 41, Some(31), 50));
}

#[test]
fn the_counts_of_a_frame_come_before_its_content() {
    let events = events("stream_text.sse");
    let at = |wanted: fn(&Event) -> bool| events.iter().position(wanted).expect("told");
    let (start, usage) = (at(|event| matches!(event, Event::Start(_))), at(|event| matches!(event, Event::Usage(_))));
    assert_eq!((start, usage), (0, 1), "{events:?}");
}

#[test]
fn calls_come_whole_with_ids_and_signature() {
    let answer = collected(events("stream_calls.sse"));
    let blocks = &answer.choices[0].blocks;
    assert_eq!(
        shape(blocks),
        [
            "reasoning Need both. -",
            "text Let me look. ",
            r#"call get_weather {"city":"Paris"}"#,
            r#"call get_weather {"city":"Rom","note":"a \"quote\" \\ back"}"#,
        ]
    );
    let (Content::ToolCall(first), Content::ToolCall(second)) = (&blocks[2].content, &blocks[3].content) else {
        panic!("calls")
    };
    assert_eq!((first.id.as_str(), second.signature.as_deref()), ("c1d2", None));
    assert!(first.signature.is_some() && second.id.starts_with("call_"));
    assert_eq!(answer.choices[0].finish, Some(Finish::ToolCalls));
}

#[test]
fn a_call_in_pieces_is_one_call() {
    let answer = collected(events("stream_partial_calls.sse"));
    let blocks = &answer.choices[0].blocks;
    assert_eq!(
        shape(blocks),
        [
            "reasoning Both rooms. -",
            "call list_rooms {}",
            r#"call dim_lights {"rooms":[{"name":"Küche","level":0.5},{"name":"Bad"}]}"#,
        ]
    );
    let Content::ToolCall(first) = &blocks[1].content else { panic!("a call") };
    assert_eq!(first.signature.as_deref(), Some("Q2lRQmNzamE="));
    assert_eq!(answer.choices[0].finish, Some(Finish::ToolCalls));
    // Half a call is not made of a stream that breaks off in it.
    let stream = fixture("stream_partial_calls.sse");
    let cut = stream.windows(3).position(|bytes| bytes == b"Bad").expect("there");
    let from = stream[..cut].windows(5).rposition(|bytes| bytes == b"data:").expect("there");
    let (events, end) = read(&stream[..from], usize::MAX);
    assert_eq!(end.expect_err("cut").kind, Kind::StreamBroken);
    let calls = events.iter().filter(|event| matches!(event, Event::Open { block: Opened::ToolCall(_), .. }));
    assert_eq!(calls.count(), 1);
}

#[test]
fn what_a_stream_is_grounded_on_is_cited_once_and_told_to_its_own_callers_as_it_came() {
    let answer = collected(events("stream_grounded.sse"));
    let Content::Text { text, citations } = &answer.choices[0].blocks[0].content else { panic!("text") };
    assert_eq!(text, "Köln liegt am Rhein. Bonn auch.");
    let cited: Vec<_> = citations.iter().filter(|citation| citation.get("url").is_some()).collect();
    assert_eq!(
        cited,
        [&value!({"type": "url_citation", "url": "https://example.org/rhein", "title": "Rhein", "start_index": 0,
                  "end_index": 20, "cited_text": "Köln liegt am Rhein.", "over_answer": true})]
    );
    assert!(citations[0]["groundingMetadata"]["webSearchQueries"].is_array());
}

#[test]
fn a_stop_on_every_frame_ends_nothing_early() {
    let answer = collected(events("stream_signed_text.sse"));
    assert_eq!(shape(&answer.choices[0].blocks), ["text Hello", "reasoning  CiQBcsjafM8h2Xw/9Q+zLk0mVbA=="]);
    let Content::Text { citations, .. } = &answer.choices[0].blocks[0].content else { panic!("text") };
    assert_eq!(citations[0]["groundingMetadata"]["webSearchQueries"][0], "x");
}

#[test]
fn candidates_are_kept_apart() {
    let answer = collected(events("stream_candidates.sse"));
    let texts: Vec<_> = answer.choices.iter().map(|choice| (shape(&choice.blocks), choice.finish)).collect();
    assert_eq!(
        texts,
        [(vec!["text ab".to_owned()], Some(Finish::Stop)), (vec!["text xy".to_owned()], Some(Finish::Length))]
    );
}

#[test]
fn a_blocked_prompt_is_complete_and_a_cut_stream_is_not() {
    let answer = collected(events("stream_blocked.sse"));
    assert_eq!(answer.choices[0].finish, Some(Finish::ContentFilter));
    assert_eq!(answer.choices[0].native_finish.as_deref(), Some("SAFETY"));
    let (events, end) = read(&fixture("stream_cut.sse"), usize::MAX);
    assert_eq!(end.expect_err("cut").kind, Kind::StreamBroken);
    assert!(matches!(events.last(), Some(Event::Close { .. } | Event::Usage(_))));
    assert_eq!(read(b"", 1).1.expect_err("empty").kind, Kind::StreamBroken);
    assert_eq!(read(b": hello\n\n", 1).1.expect_err("only a comment").kind, Kind::StreamBroken);
}

#[test]
fn an_error_inside_the_stream_is_a_fault_with_its_status() {
    let (events, end) = read(&fixture("stream_error.sse"), usize::MAX);
    end.expect("nothing follows a fault");
    let Some(Event::Fault(fault)) = events.last() else { panic!("{events:?}") };
    assert_eq!((fault.kind, fault.status("gemini")), (Kind::Overloaded, 503));
    assert_eq!(fault.text(), "The model is overloaded. Please try again later.");
}

#[test]
fn garbage_in_a_stream_is_a_bad_answer() {
    for data in ["data: {\"candidates\":\n\n", "data: nonsense\n\n", "data: []\n\n", "data: {\"candidates\":[7]}\n\n"] {
        let fault = Gemini.decoder().frame(&Frame(data.as_bytes()), &mut Vec::new()).expect_err(data);
        assert_eq!(fault.kind, Kind::BadAnswer);
    }
    let mut events = Vec::new();
    Gemini.decoder().frame(&Frame(b"data: [DONE]\n\n"), &mut events).expect("an end marker of others");
    assert!(events.is_empty());
}

fn written(events: &[Event]) -> Vec<u8> {
    let (mut encoder, mut out) = (Gemini.encoder(&asked()), Vec::new());
    for event in events {
        encoder.event(event, &mut out);
    }
    encoder.finish(&mut out);
    out
}

#[test]
fn a_stream_is_the_same_after_a_round_trip() {
    for name in ["stream_text.sse", "stream_calls.sse", "stream_candidates.sse", "stream_signed_text.sse"] {
        let first = collected(events(name));
        let (again, end) = read(&written(&events(name)), 5);
        end.expect("complete");
        let again = collected(again);
        assert_eq!(again.usage, first.usage, "{name}");
        for (one, other) in first.choices.iter().zip(&again.choices) {
            assert_eq!(shape(&one.blocks), shape(&other.blocks), "{name}");
            assert_eq!((one.finish, &one.native_finish), (other.finish, &other.native_finish), "{name}");
        }
        assert_eq!((again.id, again.model), (first.id, first.model), "{name}");
    }
}

#[test]
fn whole_answers_can_be_replayed_as_streams() {
    for name in ["answer_text.json", "answer_thinking_calls.json", "answer_signed_text.json", "answer_grounded.json"] {
        let first = Gemini.decode_answer(&fixture(name)).expect("decodes");
        let (again, end) = read(&written(&replay(&first)), usize::MAX);
        end.expect("complete");
        let again = collected(again);
        let shapes = |answer: &Answer| answer.choices.iter().map(|choice| shape(&choice.blocks)).collect::<Vec<_>>();
        assert_eq!(shapes(&again), shapes(&first), "{name}");
        assert_eq!(again.choices[0].logprobs, first.choices[0].logprobs, "{name}");
        assert_eq!(again.usage.map(|usage| usage.total()), first.usage.map(|usage| usage.total()), "{name}");
    }
}

fn frames(out: &[u8]) -> Vec<Value> {
    let text = std::str::from_utf8(out).expect("UTF-8");
    let frames = text.split("\r\n\r\n").filter(|frame| !frame.is_empty());
    frames.map(|frame| json(frame.strip_prefix("data: ").expect("one data line").as_bytes())).collect()
}

#[test]
fn pieces_of_arguments_are_sent_as_one_call_and_late_usage_rides_on_the_last_frame() {
    let open = |index, block| Event::Open { choice: 0, index, block };
    let delta = |index, delta| Event::Delta { choice: 0, index, delta };
    let call = |id: &str| Opened::ToolCall(ToolCall { id: id.into(), name: "f".into(), ..ToolCall::default() });
    let events = [
        Event::Start(Start { id: "chatcmpl-1".into(), model: "gpt".into(), source: "openai_chat", ..Start::default() }),
        open(0, call("call_a")),
        delta(0, Delta::Arguments("{\"x\":".into())),
        open(1, call("call_b")),
        delta(0, Delta::Arguments("1}".into())),
        Event::Close { choice: 0, index: 0 },
        Event::Close { choice: 0, index: 1 },
        Event::Finish { choice: 0, reason: Finish::ToolCalls, native: Some("tool_calls".into()), stop_sequence: None },
        Event::Ping,
        Event::Usage(Usage { input: 5, output: 7, ..Usage::default() }),
    ];
    let frames = frames(&written(&events));
    assert_eq!(frames.len(), 3);
    let part = |at: usize| &frames[at]["candidates"][0]["content"]["parts"][0];
    assert_eq!(part(0)["functionCall"], serde_json::json!({"id": "call_a", "name": "f", "args": {"x": 1}}));
    assert_eq!(part(1)["functionCall"], serde_json::json!({"id": "call_b", "name": "f", "args": {}}));
    assert_eq!(frames[2]["candidates"][0]["finishReason"], "STOP");
    assert_eq!(part(2)["text"], "");
    assert_eq!(frames[2]["usageMetadata"]["totalTokenCount"], 12);
    assert!(frames[..2].iter().all(|frame| frame["candidates"][0].get("finishReason").is_none()));
}

#[test]
fn a_foreign_signature_follows_the_thoughts_and_joins_them_again() {
    let delta = |delta| Event::Delta { choice: 0, index: 0, delta };
    let events = [
        Event::Start(Start { source: "anthropic", ..Start::default() }),
        Event::Open { choice: 0, index: 0, block: Opened::Reasoning { id: None, encrypted: None } },
        delta(Delta::Reasoning("a".into())),
        delta(Delta::Reasoning("b".into())),
        delta(Delta::Signature("Eq".into())),
        delta(Delta::Signature("Qb/+".into())),
        Event::Close { choice: 0, index: 0 },
        Event::Finish { choice: 0, reason: Finish::Stop, native: None, stop_sequence: None },
    ];
    let parts: Vec<Value> =
        frames(&written(&events)).iter().map(|frame| frame["candidates"][0]["content"]["parts"][0].clone()).collect();
    // Google's SDK keeps every chunk as a content of its own; others put the parts together.
    let apart: Vec<Value> = parts.iter().map(|part| serde_json::json!({"role": "model", "parts": [part]})).collect();
    for contents in [apart, vec![serde_json::json!({"role": "model", "parts": parts})]] {
        let ask = decoded(Op::Generate, serde_json::json!({ "contents": contents }).to_string().as_bytes());
        let Content::Reasoning(reasoning) = &ask.messages[0].blocks[0].content else { panic!("reasoning") };
        assert_eq!((ask.messages.len(), ask.messages[0].blocks.len()), (1, 1));
        assert_eq!((reasoning.text.as_str(), reasoning.signature.as_deref()), ("ab", Some("EqQb/+")));
        assert_eq!(reasoning.origin, "anthropic");
    }
}

#[test]
fn foreign_reasoning_without_text_rides_on_what_follows_and_comes_back_from_there() {
    let reasoning = |signature: Option<&str>, encrypted: Option<&str>| {
        Block::new(Content::Reasoning(crate::chat::Reasoning {
            signature: signature.map(str::to_owned),
            encrypted: encrypted.map(str::to_owned),
            origin: "anthropic".into(),
            ..Default::default()
        }))
    };
    let call = Block::new(Content::ToolCall(ToolCall {
        id: "toolu_1".into(),
        name: "f".into(),
        arguments: "{}".into(),
        ..ToolCall::default()
    }));
    let blocks = vec![
        reasoning(Some("EqQB"), None),
        Block::text("Look."),
        reasoning(None, Some("EmwK")),
        reasoning(Some("EqQC"), None),
        call,
        reasoning(None, Some("EmwL")),
    ];
    let choice = crate::chat::Choice { blocks: blocks.clone(), finish: Some(Finish::Stop), ..Default::default() };
    let answer = Answer { choices: vec![choice], source: "anthropic", ..Answer::default() };
    let whole = json(&Gemini.encode_answer(&answer, &asked()));
    let whole = whole["candidates"][0]["content"]["parts"].as_array().expect("parts").clone();
    let streamed = frames(&written(&replay(&answer)));
    let streamed = streamed.iter().map(|frame| frame["candidates"][0]["content"]["parts"][0].clone());
    for mut parts in [whole, streamed.collect::<Vec<_>>()] {
        parts.retain(|part| part["text"] != "" || part.get("thoughtSignature").is_some());
        let said: Vec<&Value> = parts.iter().map(|part| &part["text"]).collect();
        assert_eq!(
            (said.len(), said[0], said[2]),
            (3, &serde_json::json!("Look."), &serde_json::json!("")),
            "{parts:?}"
        );
        assert!(parts[1]["functionCall"].is_object() && parts[2]["thought"] == true, "{parts:?}");
        let body = serde_json::json!({"contents": [{"role": "model", "parts": parts}]}).to_string();
        let ask = decoded(Op::Generate, body.as_bytes());
        assert_eq!(ask.messages[0].blocks, blocks);
    }
}

fn sniffed(stream: &[u8]) -> (Box<dyn Sniffer>, Vec<crate::dialect::Sighting>) {
    let (mut sniffer, mut scanner, mut sightings) = (Gemini.sniffer(Op::Generate), Scanner::new(), Vec::new());
    scanner.push(Bytes::copy_from_slice(stream));
    while let Some(frame) = scanner.frame().expect("bounded") {
        sightings.push(sniffer.frame(&Frame(&frame)));
    }
    (sniffer, sightings)
}

#[test]
fn a_relayed_stream_tells_content_usage_and_end() {
    for (name, content_at, complete) in [
        ("stream_text.sse", Some(0), true),
        ("stream_calls.sse", Some(0), true),
        ("stream_candidates.sse", Some(0), true),
        ("stream_blocked.sse", None, true),
        ("stream_cut.sse", Some(0), false),
        ("stream_error.sse", Some(0), false),
    ] {
        let (sniffer, sightings) = sniffed(&fixture(name));
        assert_eq!(sightings.iter().position(|sighting| sighting.content), content_at, "{name}");
        assert_eq!(sniffer.complete(), complete, "{name}");
        assert!(sightings[0].id.is_some() && sightings[0].model.is_some(), "{name}");
        if complete {
            let whole = collected(events(name));
            let last = sightings.iter().filter_map(|sighting| sighting.usage).next_back();
            assert_eq!(last, whole.usage, "{name}");
            let finishes: Vec<_> = sightings.iter().filter_map(|sighting| sighting.finish).collect();
            assert!(finishes.contains(&whole.choices[0].finish.expect("finished")), "{name}");
        }
    }
    let (_, sightings) = sniffed(&fixture("stream_error.sse"));
    assert_eq!(sightings[1].fault.as_ref().map(|fault| fault.kind), Some(Kind::Overloaded));
}

#[test]
fn frames_that_only_open_a_stream_are_no_content() {
    let frame = br#"data: {"candidates":[{"content":{"parts":[{"text":""}],"role":"model"}}],"usageMetadata":{"promptTokenCount":3}}

"#;
    let (sniffer, sightings) = sniffed(frame);
    assert!(!sightings[0].content && !sniffer.complete());
    assert_eq!(sightings[0].usage.map(|usage| usage.input), Some(3));
}

#[test]
fn a_refusal_ends_in_safety() {
    for (native, refusal) in [("stop", "I cannot."), ("completed", "No.")] {
        let events = [
            Event::Start(Start { source: "openai_chat", ..Start::default() }),
            Event::Open { choice: 0, index: 0, block: Opened::Refusal },
            Event::Delta { choice: 0, index: 0, delta: Delta::Refusal(refusal.into()) },
            Event::Close { choice: 0, index: 0 },
            Event::Finish { choice: 0, reason: Finish::Stop, native: Some(native.into()), stop_sequence: None },
        ];
        let frames = frames(&written(&events));
        let candidate = |at: usize| &frames[at]["candidates"][0];
        assert_eq!(candidate(0)["content"]["parts"][0]["text"], refusal);
        assert_eq!(candidate(1)["finishReason"], "SAFETY");
        let whole = json(&Gemini.encode_answer(&collected(events.to_vec()), &asked()));
        assert_eq!(whole["candidates"][0]["finishReason"], "SAFETY");
    }
}

#[test]
fn calls_of_two_answers_without_any_ids_are_told_apart() {
    let body = value!({"candidates": [{"content": {"parts": [{"functionCall": {"name": "f", "args": {}}}]}, "finishReason": "STOP"}]});
    let frame = format!("data: {body}\n\n");
    let mut ids = std::collections::HashSet::new();
    for answer in [
        Gemini.decode_answer(body.to_string().as_bytes()).expect("decodes"),
        Gemini.decode_answer(body.to_string().as_bytes()).expect("decodes"),
        collected(read(frame.as_bytes(), usize::MAX).0),
        collected(read(frame.as_bytes(), usize::MAX).0),
    ] {
        assert_eq!(answer.id, "");
        let Content::ToolCall(call) = &answer.choices[0].blocks[0].content else { panic!("a call") };
        assert!(!crate::dialect::gemini::call_id::own(&call.id) && ids.insert(call.id.clone()), "{}", call.id);
    }
}
