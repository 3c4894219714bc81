//! Streams and answers that go wrong: what is a fault, of which kind, and how a client is told.

use super::*;
use crate::fault::Kind;

fn stream(frames: &[&str]) -> Vec<u8> {
    frames.iter().flat_map(|frame| format!("{frame}\n\n").into_bytes()).collect()
}

const HELLO: &str =
    r#"data: {"id":"c","model":"m","choices":[{"index":0,"delta":{"role":"assistant","content":"Hi"}}]}"#;

#[test]
fn a_stream_that_ends_early_is_broken() {
    for frames in [
        &[][..],
        &[": keep-alive"],
        &["data: [DONE]"],
        &[HELLO],
        &[r#"data: {"id":"c","choices":[]}"#],
        // One of two choices never finished.
        &[
            HELLO,
            r#"data: {"choices":[{"index":1,"delta":{"content":"x"}}]}"#,
            r#"data: {"choices":[{"index":1,"delta":{},"finish_reason":"stop"}]}"#,
        ],
    ] {
        let fault = decode(&stream(frames), &[]).expect_err("broken");
        assert_eq!(fault.kind, Kind::StreamBroken, "{frames:?}");
    }
    let (mut decoder, mut events) = (OpenAiChat.decoder(), Vec::new());
    decoder.frame(&Frame(HELLO.as_bytes()), &mut events).expect("valid");
    decoder.finish(&mut events).expect_err("broken");
    assert!(matches!(events.last(), Some(Event::Close { .. })), "what was open is closed all the same");
}

#[test]
fn done_without_a_finish_reason_is_complete() {
    let answer = collect(decode(&stream(&[HELLO, "data: [DONE]"]), &[]).expect("complete"));
    assert_eq!(answer.choices[0].finish, Some(Finish::Stop));
    let call = r#"data: {"choices":[{"index":0,"delta":{"tool_calls":[{"function":{"name":"f","arguments":"{}"}}]}}]}"#;
    let answer = collect(decode(&stream(&[call, "data: [DONE]"]), &[]).expect("complete"));
    assert_eq!(answer.choices[0].finish, Some(Finish::ToolCalls));
    match &answer.choices[0].blocks[0].content {
        Content::ToolCall(call) => assert!(call.id.starts_with("call_") && call.id.len() <= 40, "{}", call.id),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_whole_answer_without_a_finish_reason_is_over() {
    let body = br#"{"choices":[{"message":{"content":null,"tool_calls":[{"function":{"name":"f","arguments":{"a":1}}}]},"finish_reason":null}]}"#;
    let answer = OpenAiChat.decode_answer(body).expect("valid");
    assert_eq!(answer.choices[0].finish, Some(Finish::ToolCalls));
    match &answer.choices[0].blocks[0].content {
        Content::ToolCall(call) => assert_eq!((call.arguments.as_str(), call.id.is_empty()), ("{\"a\":1}", false)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn garbage_in_a_stream_is_a_bad_answer() {
    for frame in ["data: <html>", "data: {\"choices\":", "data: 7"] {
        assert_eq!(decode(&stream(&[HELLO, frame]), &[]).expect_err(frame).kind, Kind::BadAnswer);
    }
}

#[test]
fn an_error_inside_a_stream_is_a_fault_and_the_end() {
    for (frame, kind, message) in [
        (r#"data: {"error":{"message":"Overloaded","type":"overloaded_error"}}"#, Kind::Overloaded, "Overloaded"),
        (r#"data: {"error":"it broke"}"#, Kind::UpstreamError, "it broke"),
        (
            r#"data: {"error":{"code":429,"message":"Slow down"},"choices":[{"index":0,"delta":{"content":""},"finish_reason":"error"}]}"#,
            Kind::RateLimited,
            "Slow down",
        ),
        (
            r#"data: {"object":"error","message":"This model's maximum context length is 8 tokens.","type":"BadRequestError","code":400}"#,
            Kind::ContextLength,
            "This model's maximum context length is 8 tokens.",
        ),
        ("event: error\ndata: {\"message\":\"gone\"}", Kind::UpstreamError, "gone"),
        (r#"error: {"code":500,"message":"slot lost","type":"server_error"}"#, Kind::UpstreamError, "slot lost"),
    ] {
        let events = decode(&stream(&[HELLO, frame, HELLO, "data: [DONE]"]), &[]).expect("told as an event");
        match events.last() {
            Some(Event::Fault(fault)) => assert_eq!((fault.kind, fault.message.as_str()), (kind, message), "{frame}"),
            other => panic!("{frame}: {other:?}"),
        }
    }
    let harmless = r#"data: {"error":null,"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#;
    decode(&stream(&[HELLO, harmless]), &[]).expect("null is no error");
}

#[test]
fn an_error_in_a_good_status_is_a_fault() {
    let read = |body: &str| OpenAiChat.decode_answer(body.as_bytes()).expect_err(body);
    let fault = read(r#"{"error":{"message":"Provider returned error","code":502},"user_id":"u"}"#);
    assert_eq!((fault.kind, fault.status("openai_chat")), (Kind::UpstreamError, 502));
    assert_eq!(read(r#"{"detail":"Model is loading"}"#).message, "Model is loading");
    for body in [
        "",
        "<html>",
        "[]",
        "{}",
        r#"{"choices":5}"#,
        r#"{"choices":[7]}"#,
        r#"{"choices":[{"message":{"tool_calls":[{}]}}]}"#,
    ] {
        assert_eq!(read(body).kind, Kind::BadAnswer, "{body}");
    }
    let summary = |body: &str| OpenAiChat.summary(Op::Generate, body.as_bytes());
    assert_eq!(summary("[]").expect_err("no object").kind, Kind::BadAnswer);
    assert_eq!(summary(r#"{"error":{"message":"x","code":503}}"#).expect_err("an error").kind, Kind::Overloaded);
    let seen = summary(r#"{"id":"c","model":"m","error":null,"choices":[{"finish_reason":"length"}],"usage":{"prompt_tokens":1,"completion_tokens":2}}"#).expect("fine");
    assert_eq!((seen.id.as_deref(), seen.model.as_deref(), seen.finish), (Some("c"), Some("m"), Some(Finish::Length)));
    assert_eq!(seen.usage.map(|usage| usage.total()), Some(3));
    assert!(summary(r#"{"id":7,"choices":{"odd":true}}"#).is_ok(), "oddities do not stop a relay");
}

#[test]
fn an_answer_of_which_every_choice_failed_is_a_fault() {
    let error = r#""error":{"code":429,"message":"Slow down"}"#;
    let choice = |index: u32, content: &str, word: &str, more: &str| {
        let message = format!(r#"{{"role":"assistant","content":"{content}"}}"#);
        format!(r#"{{"index":{index},"message":{message},"finish_reason":"{word}"{more}}}"#)
    };
    let with = format!(",{error}");
    for (choices, kind) in [
        (choice(0, "", "error", &with), Some(Kind::RateLimited)),
        (choice(0, "Half of", "error", &with), Some(Kind::RateLimited)),
        (choice(0, "", "error", ""), Some(Kind::UpstreamError)),
        (choice(0, "Half of", "error", ""), Some(Kind::UpstreamError)),
        (choice(0, "", "abort", r#","error":null"#), Some(Kind::UpstreamError)),
        (choice(0, "Half of", "abort", ""), None),
        (choice(0, "", "stop", ""), None),
        (format!("{},{}", choice(0, "", "error", &with), choice(1, "Hi", "stop", "")), None),
        (format!("{},{}", choice(0, "", "error", ""), choice(1, "", "error", "")), Some(Kind::UpstreamError)),
    ] {
        let body = format!(r#"{{"id":"c","model":"m","choices":[{choices}],"usage":null}}"#);
        let read = OpenAiChat.decode_answer(body.as_bytes()).map(drop).map_err(|fault| fault.kind);
        assert_eq!(read.err(), kind, "{body}");
        let relayed = OpenAiChat.summary(Op::Generate, body.as_bytes()).map(drop).map_err(|fault| fault.kind);
        assert_eq!(relayed.err(), kind, "{body}");
        // The same as a stream of one chunk, read and relayed.
        let frame = format!("data: {}", body.replace("\"message\":{\"role", "\"delta\":{\"role"));
        let events = decode(&stream(&[&frame, "data: [DONE]"]), &[]).expect("told as an event");
        let told =
            events.iter().find_map(|event| if let Event::Fault(fault) = event { Some(fault.kind) } else { None });
        assert_eq!(told, kind, "{frame}");
        let seen = OpenAiChat.sniffer(Op::Generate).frame(&Frame(format!("{frame}\n\n").as_bytes()));
        assert_eq!(seen.fault.map(|fault| fault.kind), kind, "{frame}");
        assert!(kind.is_none() || !seen.content, "it would be given to the client: {frame}");
    }
}

#[test]
fn a_stream_that_ends_in_an_error_is_a_fault_before_and_after_its_first_content() {
    let role = r#"data: {"id":"c","choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}"#;
    let end = r#"data: {"choices":[{"index":0,"delta":{"content":""},"finish_reason":"error"}]}"#;
    for first in [role, HELLO] {
        let events = decode(&stream(&[first, end, "data: [DONE]"]), &[]).expect("told as an event");
        assert!(matches!(events.last(), Some(Event::Fault(fault)) if fault.kind == Kind::UpstreamError), "{events:?}");
        let mut sniffer = OpenAiChat.sniffer(Op::Generate);
        assert!(sniffer.frame(&Frame(first.as_bytes())).fault.is_none());
        assert!(sniffer.frame(&Frame(end.as_bytes())).fault.is_some());
    }
    // The other choice is an answer, whichever ends first.
    for words in [["error", "stop"], ["stop", "error"]] {
        let begin =
            r#"data: {"id":"c","choices":[{"index":0,"delta":{"content":"a"}},{"index":1,"delta":{"content":"b"}}]}"#;
        let end = |index: usize| {
            let word = words[index];
            format!(r#"data: {{"choices":[{{"index":{index},"delta":{{}},"finish_reason":"{word}"}}]}}"#)
        };
        let events = decode(&stream(&[begin, &end(0), &end(1)]), &[]).expect("an answer");
        assert!(!events.iter().any(|event| matches!(event, Event::Fault(_))), "{events:?}");
        let mut sniffer = OpenAiChat.sniffer(Op::Generate);
        for frame in [begin.to_owned(), end(0), end(1)] {
            assert!(sniffer.frame(&Frame(frame.as_bytes())).fault.is_none(), "{frame}");
        }
    }
}

#[test]
fn a_client_is_told_in_the_form_its_sdk_raises_on() {
    let mut out = Vec::new();
    OpenAiChat.encode_stream_error(&Fault::new(Kind::IdleTimeout, "Silence."), &Begun::default(), &mut out);
    let text = String::from_utf8(out).expect("UTF-8");
    let data = text.strip_prefix("data: ").and_then(|text| text.strip_suffix("\n\n")).expect("one frame");
    let error = &value(data.as_bytes())["error"];
    assert_eq!((error["type"].as_str(), error["code"].as_str()), (Some("server_error"), Some("idle_timeout")));
    assert!(error["message"].as_str().is_some_and(|text| text.starts_with("Silence.")) && error["param"].is_null());
    let body = Bytes::from_static(
        br#"{"error":{"message":"Bad","type":"invalid_request_error","param":"n","code":null}, "x":1.0}"#,
    );
    let fault = refusal::fault(OpenAiChat.decode_error(400, &body), None);
    assert_eq!(OpenAiChat.encode_error(&fault, "req"), body);
}
