//! Streams: read, written, watched.

use serde_json::json;

use super::*;
use crate::chat::event::replay;
use crate::chat::{Delta, Finish, Opened, Start, ToolCall, Usage};

#[test]
fn a_stream_cut_at_any_byte_gives_the_same_events() {
    for name in names(".sse") {
        let stream = fixture(&format!("{name}.sse"));
        // Decoders see frames only, so it is enough that the frames are the same at every cut.
        let whole = frames_cut(&stream, stream.len());
        for at in 1..stream.len() {
            assert_eq!(frames_cut(&stream, at), whole, "{name} cut at {at}");
        }
        let (events, end) = decode_cut(&stream, []);
        let (pieces, same) = decode_cut(&stream, 1..stream.len());
        assert_eq!(format!("{pieces:?} {same:?}"), format!("{events:?} {end:?}"), "{name} byte by byte");
    }
}

fn frames_cut(stream: &[u8], at: usize) -> Vec<Bytes> {
    let mut scanner = Scanner::new();
    let mut out = Vec::new();
    for piece in [&stream[..at], &stream[at..]] {
        scanner.push(Bytes::copy_from_slice(piece));
        while let Some(frame) = scanner.frame().expect("bounded") {
            out.push(frame);
        }
    }
    out.extend(scanner.rest());
    out
}

#[test]
fn a_response_streamed_is_the_response_whole() {
    for name in names(".json").iter().filter(|name| !name.starts_with("ask_")) {
        let whole = OpenAiResponses.decode_answer(&fixture(&format!("{name}.json"))).expect("a good answer");
        let streamed = collect(decode_stream(&fixture(&format!("{name}.sse"))));
        assert_eq!(bare(streamed), bare(whole), "{name}");
    }
}

#[test]
fn blocks_are_opened_closed_and_counted_as_the_neutral_form_demands() {
    for name in names(".sse") {
        let (events, _) = decode_cut(&fixture(&format!("{name}.sse")), []);
        assert!(matches!(events.first(), Some(Event::Start(_))), "{name}");
        let mut open: Vec<(u32, bool)> = Vec::new();
        let mut next = 0;
        for event in &events[1..] {
            match event {
                Event::Start(_) => panic!("{name} starts twice"),
                Event::Open { index, block, .. } => {
                    let call = matches!(block, Opened::ToolCall(_));
                    assert!(open.iter().all(|(_, other)| call && *other), "{name}: {index} opens beside another");
                    assert_eq!(*index, next, "{name}");
                    next += 1;
                    open.push((*index, call));
                }
                Event::Delta { index, .. } => assert!(open.iter().any(|(o, _)| o == index), "{name}: {event:?}"),
                Event::Close { index, .. } => {
                    assert!(open.iter().any(|(o, _)| o == index), "{name}");
                    open.retain(|(o, _)| o != index);
                }
                Event::Finish { .. } | Event::Fault(_) => assert!(open.is_empty(), "{name}"),
                _ => {}
            }
        }
    }
}

#[test]
fn what_is_written_reads_back_as_what_it_was() {
    for name in names(".json").iter().filter(|name| !name.starts_with("ask_")) {
        let events = decode_stream(&fixture(&format!("{name}.sse")));
        let answer = collect(events.clone());
        let stream = encode_stream(&events, &plain_asked());
        assert_eq!(bare(collect(decode_stream(&stream))), bare(answer.clone()), "{name} from events");
        let stream = encode_stream(&replay(&answer), &plain_asked());
        assert_eq!(bare(collect(decode_stream(&stream))), bare(answer), "{name} replayed");
    }
}

#[test]
fn every_event_is_announced_numbered_and_summed_up() {
    for name in names(".json").iter().filter(|name| !name.starts_with("ask_")) {
        let events = decode_stream(&fixture(&format!("{name}.sse")));
        check_sequence(name, &data_of(&encode_stream(&events, &plain_asked())));
    }
    check_sequence("foreign", &data_of(&encode_stream(&foreign_events(), &plain_asked())));
    check_sequence("custom", &data_of(&encode_stream(&wrapped_call(), &patch_asked())));
}

/// What typed clients rely on.
fn check_sequence(name: &str, events: &[Value]) {
    let id = &events[0]["response"]["id"];
    assert_eq!(events[0]["type"], "response.created", "{name}");
    assert_eq!(events[1]["type"], "response.in_progress", "{name}");
    let mut added: Vec<Value> = Vec::new();
    let mut done: Vec<Value> = Vec::new();
    let mut sums: std::collections::HashMap<String, String> = std::collections::HashMap::new();
    for (number, event) in events.iter().enumerate() {
        assert_eq!(event["sequence_number"], number, "{name}: {event}");
        let kind = event["type"].as_str().expect("a type");
        if let Some(response) = event.get("response") {
            assert_eq!(response["id"], *id, "{name}");
        }
        let at = event["output_index"].as_u64().map(|at| at as usize);
        match kind {
            "response.output_item.added" => {
                assert_eq!(at, Some(added.len()), "{name}");
                added.push(event["item"].clone());
                done.push(Value::Null);
            }
            "response.output_item.done" => {
                let at = at.expect("an index");
                for key in ["id", "type", "call_id"] {
                    assert_eq!(added[at].get(key), event["item"].get(key), "{name}: {key}");
                }
                assert!(done[at].is_null(), "{name}: {at} is done twice");
                done[at] = event["item"].clone();
            }
            _ if event.get("item_id").is_some() => {
                let at = at.expect("an index");
                assert_eq!(added[at]["id"], event["item_id"], "{name}: {event}");
                assert!(done[at].is_null(), "{name}: {event} after its item was done");
                let (stem, end) = kind.rsplit_once('.').expect("a stem");
                let key = format!("{stem} {at} {} {}", event["content_index"], event["summary_index"]);
                match end {
                    "delta" => sums.entry(key).or_default().push_str(event["delta"].as_str().expect("text")),
                    "done" => {
                        let fields = ["text", "arguments", "input", "refusal"];
                        if let Some(whole) = fields.iter().find_map(|field| event.get(*field)) {
                            let sum = sums.remove(&key).unwrap_or_default();
                            assert_eq!(whole, &sum, "{name}: {event}");
                        }
                    }
                    _ => {}
                }
            }
            _ => {}
        }
    }
    assert!(sums.is_empty(), "{name}: {sums:?} never done");
    let last = &events[events.len() - 1];
    assert_eq!(last["response"]["output"], Value::Array(done), "{name}");
    assert_ne!(last["response"]["status"], "in_progress", "{name}");
}

fn block(index: u32, block: Opened, deltas: Vec<Delta>) -> Vec<Event> {
    let mut events = vec![Event::Open { choice: 0, index, block }];
    events.extend(deltas.into_iter().map(|delta| Event::Delta { choice: 0, index, delta }));
    events.push(Event::Close { choice: 0, index });
    events
}

fn start(source: &'static str) -> Event {
    Event::Start(Start { id: "msg_01abc".into(), model: "claude".into(), source, ..Start::default() })
}

fn finish(reason: Finish) -> Event {
    Event::Finish { choice: 0, reason, native: None, stop_sequence: None }
}

/// A stream of another provider: thinking, text with a citation, a call without arguments, an image.
fn foreign_events() -> Vec<Event> {
    let thinking = Opened::Reasoning { id: None, encrypted: None };
    let said =
        vec![Delta::Reasoning("Let me ".into()), Delta::Reasoning("see.".into()), Delta::Signature("s1g".into())];
    let cited = json!({"type": "web_search_result_location", "url": "https://example.org", "title": "T"});
    let image = Content::Image {
        source: crate::chat::Media::Inline { mime: "image/png".into(), data: "aaaa".into() },
        detail: None,
    };
    let call = ToolCall { id: "toolu_1".into(), name: "now".into(), ..ToolCall::default() };
    let mut events = vec![start("anthropic")];
    events.extend(block(0, thinking, said));
    events.extend(block(1, Opened::Text, vec![Delta::Text("Hi ".into()), Delta::Citation(cited)]));
    events.extend(block(2, Opened::Text, vec![Delta::Text("you".into()), Delta::Citation(json!({"odd": 1}))]));
    events.extend(block(3, Opened::Whole(Box::new(crate::chat::Block::new(image))), Vec::new()));
    events.extend(block(4, Opened::ToolCall(call), Vec::new()));
    events.push(finish(Finish::ToolCalls));
    events.push(Event::Usage(Usage { input: 10, output: 5, cache_read: Some(4), ..Usage::default() }));
    events
}

#[test]
fn a_response_of_this_form_keeps_what_only_this_form_says_of_it() {
    let message = |id: &str, phase: &str, text: &str| {
        json!({"id": id, "type": "message", "status": "completed", "role": "assistant", "phase": phase,
               "content": [{"type": "output_text", "annotations": [], "logprobs": [], "text": text}]})
    };
    let mut whole = json(&fixture("text.json"));
    whole["output"] =
        json!([message("msg_1", "commentary", "I look."), message("msg_2", "final_answer", "There it is.")]);
    let answer = OpenAiResponses.decode_answer(whole.to_string().as_bytes()).expect("a good answer");
    let replayed = encode_stream(&replay(&answer), &plain_asked());
    let again = encode_stream(&decode_stream(&replayed), &plain_asked());
    for (name, stream) in [("replayed", replayed), ("again", again)] {
        let events = data_of(&stream);
        check_sequence(name, &events);
        let added = events.iter().filter(|event| event["type"] == "response.output_item.added");
        let added: Vec<_> = added.map(|event| (&event["item"]["id"], &event["item"]["phase"])).collect();
        assert_eq!(added, [(&json!("msg_1"), &json!("commentary")), (&json!("msg_2"), &json!("final_answer"))]);
        let last = &events[events.len() - 1]["response"];
        for (key, value) in whole.as_object().expect("an object").iter().filter(|(key, _)| *key != "usage") {
            assert_eq!(last[key], *value, "{name}: {key}");
        }
    }
}

#[test]
fn a_foreign_stream_shows_its_reasoning_as_summary_and_its_texts_as_one_message() {
    let events = data_of(&encode_stream(&foreign_events(), &plain_asked()));
    let response = &events[events.len() - 1]["response"];
    assert_eq!(response["id"], "resp_msg_01abc");
    assert_eq!(response["status"], "completed");
    assert_eq!(response["usage"]["input_tokens_details"]["cached_tokens"], 4);
    let output = &response["output"];
    assert_eq!(output[0]["summary"], json!([{"type": "summary_text", "text": "Let me see."}]));
    assert_eq!(output[0]["encrypted_content"], "portcullis.anthropic.s1g");
    assert_eq!(output[1]["content"][0]["text"], "Hi ");
    assert_eq!(
        output[1]["content"][0]["annotations"],
        json!([{"type": "url_citation", "start_index": 0, "end_index": 3, "url": "https://example.org", "title": "T"}])
    );
    assert_eq!(output[1]["content"][1]["annotations"], json!([]), "an unknown citation is left out");
    assert_eq!(output[2]["type"], "image_generation_call");
    assert_eq!(output[3]["call_id"], "toolu_1");
    assert_eq!(output[3]["arguments"], "{}");
    assert_eq!(output.as_array().map(Vec::len), Some(4));
}

fn patch_asked() -> Asked {
    asked(ask_of(&fixture("ask_codex.json")))
}

/// A free-text tool as a provider without such tools calls it.
fn wrapped_call() -> Vec<Event> {
    let call = |name: &str| ToolCall { id: format!("toolu_{name}"), name: name.into(), ..ToolCall::default() };
    let pieces = ["{\"inp", "ut\":\"*** Begin\\nPatch \\u00e9\"}"].map(|text| Delta::Arguments(text.into()));
    let mut events = vec![start("anthropic")];
    events.extend(block(0, Opened::ToolCall(call("apply_patch")), pieces.to_vec()));
    events.extend(block(1, Opened::ToolCall(call("mcp__wiki__search")), vec![Delta::Arguments("{\"q\":1}".into())]));
    events.push(finish(Finish::ToolCalls));
    events
}

#[test]
fn a_callers_own_kinds_of_tools_are_called_in_their_own_form() {
    let events = data_of(&encode_stream(&wrapped_call(), &patch_asked()));
    let deltas: Vec<_> =
        events.iter().filter(|event| event["type"] == "response.custom_tool_call_input.delta").collect();
    assert_eq!(deltas.len(), 1);
    assert_eq!(deltas[0]["delta"], "*** Begin\nPatch é");
    let output = &events[events.len() - 1]["response"]["output"];
    assert_eq!(output[0]["type"], "custom_tool_call");
    assert_eq!(output[0]["input"], "*** Begin\nPatch é");
    assert_eq!(output[1]["type"], "function_call");
    assert_eq!((&output[1]["namespace"], &output[1]["name"]), (&json!("mcp__wiki__"), &json!("search")));
}

#[test]
fn interleaved_calls_stay_apart() {
    let call = |id: &str| Opened::ToolCall(ToolCall { id: id.into(), name: "f".into(), ..ToolCall::default() });
    let open = |index, id| Event::Open { choice: 0, index, block: call(id) };
    let delta = |index, text: &str| Event::Delta { choice: 0, index, delta: Delta::Arguments(text.into()) };
    let close = |index| Event::Close { choice: 0, index };
    let events = [
        start("openai_chat"),
        open(0, "a"),
        delta(0, "{\"x\""),
        open(1, "b"),
        delta(1, "{\"y\""),
        delta(0, ":1}"),
        delta(1, ":2}"),
        close(1),
        close(0),
        finish(Finish::ToolCalls),
    ];
    let written = data_of(&encode_stream(&events, &plain_asked()));
    check_sequence("interleaved", &written);
    let output = &written[written.len() - 1]["response"]["output"];
    assert_eq!((&output[0]["arguments"], &output[1]["arguments"]), (&json!("{\"x\":1}"), &json!("{\"y\":2}")));
}

#[test]
fn the_end_tells_why() {
    for (reason, kind, details) in [
        (Finish::Length, "response.incomplete", json!({"reason": "max_output_tokens"})),
        (Finish::ContentFilter, "response.incomplete", json!({"reason": "content_filter"})),
        (Finish::StopSequence, "response.completed", Value::Null),
        (Finish::Error, "response.failed", Value::Null),
    ] {
        let mut events = vec![start("anthropic")];
        events.extend(block(0, Opened::Text, vec![Delta::Text("x".into())]));
        events.push(finish(reason));
        let written = data_of(&encode_stream(&events, &plain_asked()));
        let last = &written[written.len() - 1];
        assert_eq!((&last["type"], &last["response"]["incomplete_details"]), (&json!(kind), &details));
        let item = &last["response"]["output"][0]["status"];
        assert_eq!(item == "incomplete", kind == "response.incomplete");
    }
}

#[test]
fn an_upstream_that_fails_mid_stream_is_a_fault_with_its_words() {
    let (events, _) = decode_cut(&fixture("failed.sse"), []);
    let fault = fault_in(&events);
    assert_eq!(fault.kind, Kind::RateLimited);
    assert!(fault.message.contains("1.2s"), "{}", fault.message);
    let (events, _) = decode_cut(&fixture("error_nested.sse"), []);
    assert_eq!(fault_in(&events).kind, Kind::QuotaExceeded);
    let (events, _) = decode_cut(&fixture("error_flat.sse"), []);
    assert_eq!(fault_in(&events).kind, Kind::UpstreamError);
    let (events, _) = decode_cut(b"data: {\"error\":{\"message\":\"boom\",\"code\":503}}\n\n", []);
    assert_eq!(fault_in(&events).kind, Kind::Overloaded);
}

#[test]
fn a_stream_that_just_ends_is_broken() {
    let stream = fixture("text.sse");
    let end = stream.windows(26).position(|at| at == b"event: response.completed\n").expect("an end");
    let (events, verdict) = decode_cut(&stream[..end], []);
    assert_eq!(verdict.expect_err("broken").kind, Kind::StreamBroken);
    assert!(matches!(events.last(), Some(Event::Close { .. })));
    let (_, verdict) = decode_cut(b"", []);
    assert_eq!(verdict.expect_err("broken").kind, Kind::StreamBroken);
    let mut out = Vec::new();
    let junk = OpenAiResponses.decoder().frame(&Frame(b"event: response.created\ndata: {\"type\n\n"), &mut out);
    assert_eq!(junk.expect_err("no JSON").kind, Kind::BadAnswer);
}

#[test]
fn an_error_mid_stream_is_what_sdks_raise_and_agents_wait_for() {
    let fault = Fault::new(Kind::QuotaExceeded, "Empty.");
    let mut events = vec![start("anthropic")];
    events.extend(block(0, Opened::Text, vec![Delta::Text("x".into())]));
    events.push(Event::Fault(fault.clone()));
    let written = data_of(&encode_stream(&events, &plain_asked()));
    let [error, failed] = &written[written.len() - 2..] else { panic!("two events") };
    assert_eq!((&error["type"], &error["code"]), (&json!("error"), &json!("quota_exceeded")));
    assert_eq!(error["error"]["message"], error["message"]);
    assert_eq!(failed["response"]["error"]["code"], "insufficient_quota");
    assert_eq!(failed["response"]["id"], written[0]["response"]["id"]);
    assert_eq!(failed["sequence_number"], written.len() - 1);
    let output = &failed["response"]["output"];
    assert_eq!((&output[0]["content"][0]["text"], &output[0]["status"]), (&json!("x"), &json!("incomplete")));
    assert!(
        !written
            .iter()
            .any(|event| event["type"] == "response.output_item.done" && event["item"]["status"] == "incomplete")
    );

    // A call whose arguments may be half there is nothing to act upon.
    let call = ToolCall { name: "f".into(), ..ToolCall::default() };
    let events = [
        start("anthropic"),
        Event::Open { choice: 0, index: 0, block: Opened::ToolCall(call) },
        Event::Fault(fault.clone()),
    ];
    let written = data_of(&encode_stream(&events, &plain_asked()));
    assert_eq!(written[written.len() - 1]["response"]["output"], json!([]));

    let mut out = Vec::new();
    OpenAiResponses.encode_stream_error(&fault, &Begun { request_id: "req-1", ..Begun::default() }, &mut out);
    let alone = data_of(&out);
    assert_eq!((&alone[0]["type"], &alone[1]["type"]), (&json!("error"), &json!("response.failed")));
    assert!(alone[0]["sequence_number"].is_number());
    let (read, _) = decode_cut(&out, []);
    assert_eq!(fault_in(&read).message, fault.text());
}

#[test]
fn a_relayed_stream_tells_the_same_as_a_decoded_one() {
    for name in names(".json").iter().filter(|name| !name.starts_with("ask_")) {
        let stream = fixture(&format!("{name}.sse"));
        let answer = collect(decode_stream(&stream));
        let mut sniffer = OpenAiResponses.sniffer(Op::Generate);
        let mut scanner = Scanner::new();
        scanner.push(Bytes::from(stream));
        let mut seen = Sighting::default();
        let mut contents = 0;
        while let Some(frame) = scanner.frame().expect("bounded") {
            assert!(!sniffer.complete(), "{name} is complete too early");
            let sighting = sniffer.frame(&Frame(&frame));
            contents += u32::from(sighting.content);
            seen.id = seen.id.or(sighting.id);
            seen.model = seen.model.or(sighting.model);
            seen.usage = sighting.usage.or(seen.usage);
            seen.finish = sighting.finish.or(seen.finish);
            assert!(sighting.fault.is_none() && !sighting.only_usage, "{name}");
        }
        assert!(sniffer.complete(), "{name}");
        // A stream that is nothing but its end commits there.
        assert_eq!(contents, u32::from(name != "only_final"), "{name}");
        assert_eq!(seen.id.as_deref(), Some(answer.id.as_str()), "{name}");
        assert_eq!(seen.model.as_deref(), Some(answer.model.as_str()), "{name}");
        assert_eq!(seen.usage, answer.usage, "{name}");
        assert_eq!(seen.finish, answer.choices[0].finish, "{name}");
    }
}

#[test]
fn a_relayed_error_is_seen() {
    for name in ["failed", "error_nested", "error_flat"] {
        let mut sniffer = OpenAiResponses.sniffer(Op::Generate);
        let mut scanner = Scanner::new();
        scanner.push(Bytes::from(fixture(&format!("{name}.sse"))));
        let mut fault = None;
        while let Some(frame) = scanner.frame().expect("bounded") {
            fault = fault.or(sniffer.frame(&Frame(&frame)).fault);
        }
        let (events, _) = decode_cut(&fixture(&format!("{name}.sse")), []);
        assert_eq!(fault.expect("a fault").kind, fault_in(&events).kind, "{name}");
        assert!(sniffer.complete());
    }
}

#[test]
fn the_tier_is_the_one_that_served_and_is_told_when_it_is_known() {
    let stream = |tiers: [&str; 2]| {
        let response = |status: &str, tier: &str| json!({"id": "resp_1", "model": "m", "status": status, "service_tier": tier, "output": []});
        let created = json!({"type": "response.created", "response": response("in_progress", tiers[0])});
        let text = json!({"type": "response.output_text.delta", "item_id": "msg_1", "output_index": 0,
            "content_index": 0, "delta": "Hi"});
        let completed = json!({"type": "response.completed", "response": response("completed", tiers[1])});
        [created, text, completed].map(|event| format!("data: {event}\n\n")).concat().into_bytes()
    };
    let events = decode_stream(&stream(["auto", "default"]));
    assert_eq!(collect(events.clone()).service_tier.as_deref(), Some("default"));
    let chat = crate::dialect::find("openai_chat").expect("built in");
    let (mut encoder, mut out) = (chat.encoder(&plain_asked()), Vec::new());
    events.iter().for_each(|event| encoder.event(event, &mut out));
    let chunks = String::from_utf8(out).expect("UTF-8");
    let tiers: Vec<Value> = chunks
        .split_terminator("\n\n")
        .map(|frame| json(frame.trim_start_matches("data: ").as_bytes())["service_tier"].clone())
        .collect();
    assert_eq!(tiers, [Value::Null, Value::Null, json!("default")]);
    let written = data_of(&encode_stream(&events, &plain_asked()));
    assert_eq!(written[written.len() - 1]["response"]["service_tier"], "default");
    // One that is known from the beginning is told once.
    let events = decode_stream(&stream(["flex", "flex"]));
    assert!(!events.iter().any(|event| matches!(event, Event::Tier(_))));
    assert_eq!(collect(events).service_tier.as_deref(), Some("flex"));
}
