//! Streams: read at any cut, written in Anthropic's order, watched without parsing.

use serde_json::json;

use super::*;
use crate::chat::event::{Collector, replay};
use crate::chat::{Answer, Block, Choice, Content, Delta, Finish, Opened, Reasoning, Start, ToolCall, Usage};
use crate::fault::Kind;

const WHOLE: &[&str] = &["cache", "empty_turn", "head_input", "refusal", "text", "thinking", "tools", "web_search"];

fn collect(events: Vec<Event>) -> Answer {
    let mut collector = Collector::default();
    for event in events {
        collector.event(event).expect("no fault in the stream");
    }
    collector.finish()
}

fn write(events: &[Event]) -> String {
    let (mut encoder, mut out) = (Anthropic.encoder(&asked()), Vec::new());
    for event in events {
        encoder.event(event, &mut out);
    }
    encoder.finish(&mut out);
    String::from_utf8(out).expect("UTF-8")
}

/// The frames of a stream as (event, data).
fn frames(text: &str) -> Vec<(String, Value)> {
    let frames = text.split_terminator("\n\n").map(|frame| {
        let frame = Frame(frame.as_bytes());
        (frame.event().to_owned(), json(&frame.data()))
    });
    frames.collect()
}

#[test]
fn a_stream_adds_up_to_the_message_that_the_sdk_makes_of_it() {
    for name in WHOLE {
        let (events, end) = read(&[&fixture(&format!("streams/{name}.sse"))]);
        assert!(end.is_ok(), "{name}");
        let answer = collect(events);
        let message = json(&Anthropic.encode_answer(&answer, &asked_for(&answer.model)));
        let expected = json(&fixture(&format!("streams/{name}.json")));
        assert_eq!(without_nulls(message), without_nulls(expected), "{name}");
    }
}

#[test]
fn a_stream_cut_at_any_byte_gives_the_same_events() {
    for name in WHOLE.iter().chain(&["odd"]) {
        let bytes = fixture(&format!("streams/{name}.sse"));
        let whole = format!("{:?}", read(&[&bytes]));
        for at in 1..bytes.len() {
            let (left, right) = bytes.split_at(at);
            assert_eq!(format!("{:?}", read(&[left, right])), whole, "{name} at {at}");
        }
    }
}

#[test]
fn a_stream_written_again_says_the_same() {
    for name in WHOLE {
        let (events, _) = read(&[&fixture(&format!("streams/{name}.sse"))]);
        let text = write(&events);
        let (again, end) = read(&[text.as_bytes()]);
        assert!(end.is_ok(), "{name}");
        // But for the name of the model, which is the caller's.
        let before = Answer { model: asked().model, ..collect(events) };
        assert_eq!(collect(again), before, "{name}");
    }
}

#[test]
fn events_keep_the_order_that_encoders_rely_on() {
    for name in WHOLE.iter().chain(&["odd"]) {
        let (events, _) = read(&[&fixture(&format!("streams/{name}.sse"))]);
        assert!(matches!(events.first(), Some(Event::Start(_))), "{name}");
        let (mut next, mut open, mut finished) = (0, Vec::new(), 0);
        for event in &events {
            match event {
                Event::Open { index, .. } => {
                    assert_eq!((*index, open.len()), (next, 0), "{name}");
                    next += 1;
                    open.push(*index);
                }
                Event::Delta { index, .. } => assert!(open.contains(index), "{name}"),
                Event::Close { index, .. } => assert_eq!(open.pop(), Some(*index), "{name}"),
                Event::Finish { .. } => {
                    assert!(open.is_empty(), "{name}");
                    finished += 1;
                }
                _ => {}
            }
        }
        assert_eq!(finished, 1, "{name}");
    }
}

#[test]
fn what_proxies_make_of_a_stream_is_understood() {
    let (events, end) = read(&[&fixture("streams/odd.sse")]);
    assert!(end.is_ok());
    let answer = collect(events);
    assert_eq!(answer.text(), "Begin");
    assert_eq!((answer.id.as_str(), answer.choices[0].finish), ("msg_odd", Some(Finish::Length)));
    assert_eq!(answer.usage.map(|usage| (usage.input, usage.output)), Some((12, 3)));
}

#[test]
fn deltas_without_a_head_and_blocks_without_an_end_are_understood() {
    let text = concat!(
        "data: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"a\"}}\n\n",
        "data: {\"type\":\"content_block_start\",\"index\":1,\"content_block\":{\"type\":\"tool_use\",\"id\":\"t1\",\"name\":\"f\",\"input\":{}}}\n\n",
        "data: {\"type\":\"content_block_start\",\"index\":2,\"content_block\":{\"type\":\"tool_use\",\"id\":\"t2\",\"name\":\"g\",\"input\":{}}}\n\n",
        "data: {\"type\":\"content_block_delta\",\"index\":1,\"delta\":{\"type\":\"input_json_delta\",\"partial_json\":\"{}\"}}\n\n",
        "data: {\"type\":\"content_block_delta\",\"index\":2,\"delta\":{\"type\":\"input_json_delta\",\"partial_json\":\"{\\\"a\\\":1}\"}}\n\n",
        "data: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"tool_use\"}}\n\n",
        "data: [DONE]\n\n",
    );
    let (events, end) = read(&[text.as_bytes()]);
    assert!(end.is_ok());
    let answer = collect(events);
    let calls: Vec<_> = answer.choices[0]
        .blocks
        .iter()
        .filter_map(|block| match &block.content {
            Content::ToolCall(call) => Some((call.name.as_str(), call.arguments.as_str())),
            _ => None,
        })
        .collect();
    assert_eq!((answer.text().as_str(), calls), ("a", vec![("f", "{}"), ("g", "{\"a\":1}")]));
}

#[test]
fn a_stream_without_an_end_is_broken_and_one_with_a_stop_reason_is_not() {
    let (events, end) = read(&[&fixture("streams/cut.sse")]);
    assert_eq!(end.expect_err("cut").kind, Kind::StreamBroken);
    assert!(matches!(events.last(), Some(Event::Close { .. })));
    assert_eq!(read(&[b""]).1.expect_err("nothing came").kind, Kind::StreamBroken);
    let (events, end) = read(&[&fixture("streams/cut_after_reason.sse")]);
    assert!(end.is_ok());
    assert!(matches!(events.last(), Some(Event::Finish { reason: Finish::Stop, .. })));
}

#[test]
fn an_error_event_ends_the_stream_with_its_fault() {
    let (events, end) = read(&[&fixture("streams/overloaded.sse")]);
    assert!(end.is_ok());
    let Some(Event::Fault(fault)) = events.last() else { panic!("no fault") };
    assert_eq!((fault.kind, fault.message.as_str()), (Kind::Overloaded, "Overloaded"));
    let id = fault.refusal.as_ref().and_then(|refusal| refusal.request_id.as_deref());
    assert_eq!(id, Some("req_011CSHoEeqs5C35K2UUqR7Fy"));
    let (_, end) = read(&[&fixture("streams/garbage.sse")]);
    assert_eq!(end.expect_err("no JSON").kind, Kind::BadAnswer);
}

#[test]
fn overlapping_calls_are_written_one_after_the_other() {
    let call = |id: &str| Opened::ToolCall(ToolCall { id: id.into(), name: "f".into(), ..ToolCall::default() });
    let open = |index, block| Event::Open { choice: 0, index, block };
    let args = |index, text: &str| Event::Delta { choice: 0, index, delta: Delta::Arguments(text.into()) };
    let close = |index| Event::Close { choice: 0, index };
    let events = [
        Event::Start(Start { id: "chatcmpl-1".into(), model: "m".into(), source: "openai_chat", ..Start::default() }),
        open(0, call("a")),
        args(0, "{\"x\""),
        open(1, call("b")),
        args(1, "{\"y\""),
        args(0, ":1}"),
        args(1, ":2}"),
        open(2, call("c")),
        close(0),
        close(1),
        close(2),
        Event::Finish { choice: 0, reason: Finish::ToolCalls, native: Some("tool_calls".into()), stop_sequence: None },
        Event::Usage(Usage { input: 30, cache_read: Some(10), output: 7, ..Usage::default() }),
    ];
    let text = write(&events);
    let names: Vec<_> = frames(&text).into_iter().map(|(name, data)| (name, data["index"].as_u64())).collect();
    let names: Vec<_> = names.iter().map(|(name, index)| (name.as_str(), *index)).collect();
    assert_eq!(
        names,
        [
            ("message_start", None),
            ("content_block_start", Some(0)),
            ("content_block_delta", Some(0)),
            ("content_block_delta", Some(0)),
            ("content_block_stop", Some(0)),
            ("content_block_start", Some(1)),
            ("content_block_delta", Some(1)),
            ("content_block_stop", Some(1)),
            ("content_block_start", Some(2)),
            ("content_block_stop", Some(2)),
            ("message_delta", None),
            ("message_stop", None),
        ]
    );
    let (last, _) = (frames(&text).remove(10), ());
    assert_eq!(last.1["delta"], json!({"stop_reason": "tool_use", "stop_sequence": null}));
    assert_eq!(last.1["usage"]["input_tokens"], 20);
    assert_eq!(last.1["usage"]["output_tokens"], 7);
    let answer = collect(read(&[text.as_bytes()]).0);
    assert_eq!(answer.id, "msg_chatcmpl-1");
    assert_eq!(answer.choices[0].blocks.len(), 3);
}

#[test]
fn two_messages_in_one_stream_are_one_as_in_the_sdk() {
    let message = |id: &str, text: &str, reason: &str, input: u64, output: u64| {
        [
            json!({"type": "message_start", "message": {"id": id, "model": "m", "content": [],
                   "usage": {"input_tokens": input, "output_tokens": 1}}}),
            json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}),
            json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}}),
            json!({"type": "content_block_stop", "index": 0}),
            json!({"type": "message_delta", "delta": {"stop_reason": reason, "stop_sequence": null},
                   "usage": {"input_tokens": input, "output_tokens": output}}),
            json!({"type": "message_stop"}),
            json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "late"}}),
        ]
    };
    let both = message("msg_1", "First.", "tool_use", 10, 5).into_iter();
    let both = both.chain(message("msg_2", "Second.", "end_turn", 30, 7));
    let stream: String = both.map(|data| format!("data: {data}\n\n")).collect();
    let (events, end) = read(&[stream.as_bytes()]);
    assert!(end.is_ok());
    assert_eq!(events.iter().filter(|event| matches!(event, Event::Finish { .. })).count(), 1);
    let answer = collect(events);
    let choice = &answer.choices[0];
    assert_eq!((answer.id.as_str(), answer.text().as_str()), ("msg_1", "First.Second."));
    assert_eq!((choice.finish, choice.native_finish.as_deref()), (Some(Finish::Stop), Some("end_turn")));
    assert_eq!(answer.usage.map(|usage| (usage.input, usage.output)), Some((30, 7)));
}

#[test]
fn empty_text_is_never_a_block_and_other_choices_are_never_said() {
    let events = [
        Event::Start(Start { source: "openai_chat", ..Start::default() }),
        Event::Open { choice: 0, index: 0, block: Opened::Text },
        Event::Delta { choice: 0, index: 0, delta: Delta::Text(String::new()) },
        Event::Open { choice: 1, index: 0, block: Opened::Text },
        Event::Delta { choice: 1, index: 0, delta: Delta::Text("other".into()) },
        Event::Close { choice: 0, index: 0 },
        Event::Finish { choice: 1, reason: Finish::Length, native: None, stop_sequence: None },
    ];
    let text = write(&events);
    let frames = frames(&text);
    let names: Vec<_> = frames.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["message_start", "message_delta", "message_stop"]);
    assert_eq!(frames[0].1["message"]["id"], "msg_x1");
    assert_eq!(frames[0].1["message"]["model"], "asked-model");
    assert_eq!(frames[1].1["delta"]["stop_reason"], "end_turn");
}

#[test]
fn arguments_that_are_no_object_become_one() {
    let cases = [
        ("null", false, json!({})),
        ("\"{\\\"a\\\":1}\"", false, json!({"a": 1})),
        (" {\"a\": 2}", false, json!({"a": 2})),
        ("", false, json!({})),
        ("say \"hi\"\n", true, json!({"input": "say \"hi\"\n"})),
    ];
    for (arguments, custom, input) in cases {
        for step in [1, 100] {
            let call = ToolCall { id: "c".into(), name: "f".into(), custom, ..ToolCall::default() };
            let mut events = vec![
                Event::Start(Start { source: "openai_chat", ..Start::default() }),
                Event::Open { choice: 0, index: 0, block: Opened::ToolCall(call) },
            ];
            let chars: Vec<char> = arguments.chars().collect();
            let pieces = chars.chunks(step).map(|piece| Delta::Arguments(piece.iter().collect()));
            events.extend(pieces.map(|delta| Event::Delta { choice: 0, index: 0, delta }));
            events.push(Event::Close { choice: 0, index: 0 });
            let message = json(&Anthropic.encode_answer(&collect(read(&[write(&events).as_bytes()]).0), &asked()));
            assert_eq!(message["content"][0]["input"], input, "{arguments:?} in pieces of {step}");
        }
    }
}

#[test]
fn a_foreign_answer_means_the_same_streamed_and_whole() {
    let reasoning = |reasoning| Block::new(Content::Reasoning(reasoning));
    let summary = vec!["one".to_owned(), "two".to_owned()];
    let call = ToolCall {
        id: "call_1".into(),
        name: "get".into(),
        arguments: "{\"a\":1}".into(),
        signature: Some("gemsig".into()),
        ..ToolCall::default()
    };
    let blocks = vec![
        reasoning(Reasoning { text: "thought".into(), signature: Some("sig".into()), ..Reasoning::default() }),
        reasoning(Reasoning {
            summary,
            encrypted: Some("gAAAA".into()),
            id: Some("rs_1".into()),
            ..Reasoning::default()
        }),
        reasoning(Reasoning { encrypted: Some("only".into()), ..Reasoning::default() }),
        reasoning(Reasoning { text: "bare".into(), ..Reasoning::default() }),
        reasoning(Reasoning::default()),
        Block::text(""),
        Block::text("said"),
        Block::new(Content::Refusal("no".into())),
        Block::new(Content::Other(json!({"type": "web_search_call"}))),
        Block::new(Content::ToolCall(call)),
    ];
    let choice = Choice { blocks, finish: Some(Finish::Stop), ..Choice::default() };
    let usage = Usage { input: 9, cache_write: Some(2), output: 4, reasoning: Some(1), ..Usage::default() };
    let answer = Answer {
        id: "resp_1".into(),
        model: "m".into(),
        choices: vec![choice],
        usage: Some(usage),
        service_tier: Some("default".into()),
        source: "openai_responses",
        ..Answer::default()
    };
    let whole = json(&Anthropic.encode_answer(&answer, &asked()));
    let streamed = collect(read(&[write(&replay(&answer)).as_bytes()]).0);
    assert_eq!(json(&Anthropic.encode_answer(&streamed, &asked())), whole);
    let kinds: Vec<_> = whole["content"].as_array().expect("list").iter().map(|block| block["type"].clone()).collect();
    assert_eq!(
        kinds,
        ["thinking", "thinking", "redacted_thinking", "thinking", "text", "text", "redacted_thinking", "tool_use"]
    );
    assert_eq!(whole["content"][1]["thinking"], "one\n\ntwo");
    assert_eq!(whole["stop_reason"], "tool_use");
}

#[test]
fn encrypted_reasoning_right_after_a_text_is_shown_once_something_follows() {
    let sealed =
        |data: &str| Block::new(Content::Reasoning(Reasoning { encrypted: Some(data.into()), ..Reasoning::default() }));
    let call = Block::new(Content::ToolCall(ToolCall { id: "c".into(), name: "f".into(), ..ToolCall::default() }));
    let kinds = |blocks: Vec<Block>| {
        let choice = Choice { blocks, finish: Some(Finish::Stop), ..Choice::default() };
        let answer = Answer { choices: vec![choice], source: "openai_responses", ..Answer::default() };
        let whole = json(&Anthropic.encode_answer(&answer, &asked()));
        let streamed = collect(read(&[write(&replay(&answer)).as_bytes()]).0);
        assert_eq!(json(&Anthropic.encode_answer(&streamed, &asked()))["content"], whole["content"]);
        let kinds = whole["content"].as_array().expect("list").iter().map(|block| block["type"].to_string());
        kinds.collect::<Vec<_>>().join(" ").replace('"', "")
    };
    let (text, more) = (Block::text("Look."), Block::text("Well."));
    let (one, two) = (sealed("gAAAA1"), sealed("gAAAA2"));
    let last = kinds(vec![text.clone(), one.clone(), two.clone(), call.clone()]);
    assert_eq!(last, "text redacted_thinking redacted_thinking tool_use");
    assert_eq!(kinds(vec![text.clone(), one.clone(), more, two.clone()]), "text redacted_thinking text");
    assert_eq!(kinds(vec![text, one, Block::text("")]), "text");
    assert_eq!(kinds(vec![call, two]), "tool_use redacted_thinking");
}

#[test]
fn the_input_count_stands_at_the_start_when_it_is_known_by_then() {
    let (events, _) = read(&[&fixture("streams/cache.sse")]);
    let text = write(&events);
    let start = &frames(&text)[0].1["message"]["usage"];
    assert_eq!((&start["input_tokens"], &start["cache_read_input_tokens"]), (&json!(3), &json!(20011)));
    assert_eq!(start["service_tier"], "priority");
}

#[test]
fn the_sniffer_sees_content_counts_and_the_end() {
    for name in WHOLE {
        let (mut nose, mut content, mut usage, mut finish) =
            (Anthropic.sniffer(Op::Generate), 0, Usage::default(), None);
        let bytes = fixture(&format!("streams/{name}.sse"));
        let text = String::from_utf8(bytes.clone()).expect("UTF-8");
        for frame in text.split_inclusive("\n\n") {
            let seen = nose.frame(&Frame(frame.as_bytes()));
            content += usize::from(seen.content);
            if let Some(seen) = seen.usage {
                usage.update(&seen);
            }
            finish = seen.finish.or(finish);
            assert!(seen.fault.is_none(), "{name}");
        }
        let answer = collect(read(&[&bytes]).0);
        assert_eq!(content, usize::from(*name != "empty_turn"), "{name}");
        assert!(nose.complete(), "{name}");
        assert_eq!((Some(usage), finish), (answer.usage, answer.choices[0].finish), "{name}");
    }
}

#[test]
fn the_sniffer_tells_an_error_and_a_cut() {
    let mut nose = Anthropic.sniffer(Op::Generate);
    let text = String::from_utf8(fixture("streams/overloaded.sse")).expect("UTF-8");
    let seen: Vec<_> = text.split_inclusive("\n\n").map(|frame| nose.frame(&Frame(frame.as_bytes()))).collect();
    assert_eq!(seen[0].id.as_deref(), Some("msg_01XFDUDYJgAACzvnptvVoYEL"));
    assert_eq!(seen.last().and_then(|seen| seen.fault.as_ref()).map(|fault| fault.kind), Some(Kind::Overloaded));
    assert!(!nose.complete());
    // Only the first content counts; a ping or an empty head is none.
    assert_eq!(seen.iter().position(|seen| seen.content), Some(3));
    assert_eq!(seen.iter().filter(|seen| seen.content).count(), 1);
}
