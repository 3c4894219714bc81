//! Whole answers.

use serde_json::json as value;

use super::*;
use crate::chat::{Answer, Choice, Finish, Reasoning, ToolCall, Usage};
use crate::fault::Kind;

const SIGNATURE: &str = "CiQBcsjafM8h2Xw/9Q+zLk0mVbA==";

fn answer(name: &str) -> Answer {
    Gemini.decode_answer(&fixture(name)).expect("decodes")
}

#[test]
fn text_usage_finish_and_time_are_read() {
    let answer = answer("answer_text.json");
    assert_eq!(answer.text(), "Die Antwort ist 42 – „ja“.");
    assert_eq!(answer.choices[0].finish, Some(Finish::Stop));
    assert_eq!(answer.id, "4oMIacKzE5-ivdIP9bK1wAQ");
    assert_eq!(answer.created, Some(1_762_164_930));
    let usage = answer.usage.expect("usage");
    assert_eq!((usage.input, usage.output, usage.reasoning, usage.cache_read), (12, 9, None, None));
}

#[test]
fn calls_get_ids_where_gemini_gave_none_and_keep_those_it_gave() {
    let answer = answer("answer_thinking_calls.json");
    let choice = &answer.choices[0];
    assert_eq!(choice.finish, Some(Finish::ToolCalls));
    let calls: Vec<&ToolCall> = choice
        .blocks
        .iter()
        .filter_map(|block| match &block.content {
            Content::ToolCall(call) => Some(call),
            _ => None,
        })
        .collect();
    assert_eq!(calls.len(), 3);
    assert_eq!(calls[0].id, "8f2b1a3c");
    assert_eq!(calls[0].signature.as_deref(), Some(SIGNATURE));
    assert_eq!(calls[0].arguments, r#"{"city":"Paris","days":2,"unit":"C"}"#);
    assert_eq!(calls[2].arguments, "{}");
    assert!(calls[1].id.starts_with("call_") && calls[1].id != calls[2].id);
    assert_eq!(shape(&choice.blocks)[0], "reasoning **Looking up the weather**\n\nTwo cities, so two calls. -");
    let usage = answer.usage.expect("usage");
    assert_eq!((usage.input, usage.cache_read, usage.output, usage.reasoning), (150, Some(100), 115, Some(75)));
    assert_eq!(usage.total(), 265);
}

#[test]
fn a_signature_on_text_or_media_stands_before_its_block() {
    let answer = answer("answer_signed_text.json");
    assert_eq!(
        shape(&answer.choices[0].blocks),
        [
            "reasoning Plan. -",
            "reasoning  CiQBcsjafM8h2Xw/9Q+zLk0mVbA==",
            "text Hello there.",
            "reasoning  SecondSig==",
            "image",
            "other",
            "other",
            "text  Done.",
        ]
    );
    assert_eq!(answer.usage.expect("usage").input, 8);
}

#[test]
fn a_blocked_prompt_is_a_choice_that_was_filtered() {
    let answer = answer("answer_blocked.json");
    let choice = &answer.choices[0];
    assert_eq!(
        (choice.finish, choice.native_finish.as_deref()),
        (Some(Finish::ContentFilter), Some("PROHIBITED_CONTENT"))
    );
    assert!(choice.blocks.is_empty());
}

#[test]
fn citations_logprobs_and_several_candidates_are_read() {
    let answer = answer("answer_grounded.json");
    assert_eq!(answer.choices.len(), 2);
    assert_eq!((answer.choices[1].index, answer.choices[1].finish), (1, Some(Finish::Length)));
    let Content::Text { citations, .. } = &answer.choices[0].blocks[0].content else { panic!("text") };
    // Gemini's own two, and what each of them cites.
    let urls: Vec<_> = citations.iter().filter_map(|citation| citation.get("url")?.as_str()).collect();
    assert_eq!((citations.len(), urls.as_slice()), (4, ["https://example.org/a", "https://example.org/b"].as_slice()));
    let logprobs = answer.choices[0].logprobs.as_ref().expect("logprobs");
    assert_eq!(logprobs["content"][0]["token"], "Spain");
    assert_eq!(logprobs["content"][0]["top_logprobs"][1]["bytes"], value!("España".as_bytes()));
    assert_eq!(logprobs["content"][1]["logprob"], 0);
    assert_eq!(answer.usage.expect("usage").input_audio, Some(4));
}

/// What is sent again must be what came, but for fields that hold nothing.
#[test]
fn answers_of_gemini_go_to_gemini_clients_as_they_came() {
    for name in ["answer_thinking_calls.json", "answer_signed_text.json", "answer_blocked.json", "answer_grounded.json"]
    {
        let bytes = fixture(name);
        let back = json(&Gemini.encode_answer(&Gemini.decode_answer(&bytes).expect("decodes"), &asked()));
        let mut came = json(&bytes);
        let mut went = back.clone();
        // What proto JSON leaves out, we write; what it writes needlessly, we leave out.
        strip(&mut came);
        strip(&mut went);
        assert_eq!(went, came, "{name}");
    }
}

fn strip(value: &mut Value) {
    if let Some(candidates) = value["candidates"].as_array_mut() {
        for candidate in candidates {
            candidate.as_object_mut().expect("an object").entry("index").or_insert(0.into());
            for part in candidate["content"]["parts"].as_array_mut().into_iter().flatten() {
                if let Some(call) = part.get_mut("functionCall").and_then(Value::as_object_mut) {
                    call.entry("args").or_insert(value!({}));
                }
            }
            // Ids of tokens have no neutral form, and a zero need not be said.
            if let Some(logprobs) = candidate.get_mut("logprobsResult") {
                let text = logprobs.to_string().replace(r#""tokenId":101,"#, "").replace(r#""tokenId":7,"#, "");
                *logprobs = serde_json::from_str(&text.replace(r#","logProbability":0}"#, "}")).expect("JSON");
            }
        }
    }
    if let Some(usage) = value["usageMetadata"].as_object_mut() {
        usage.entry("candidatesTokenCount").or_insert(0.into());
    }
}

#[test]
fn answers_are_the_same_after_a_round_trip() {
    for name in ["answer_text.json", "answer_thinking_calls.json", "answer_signed_text.json", "answer_grounded.json"] {
        let first = answer(name);
        let again = Gemini.decode_answer(&Gemini.encode_answer(&first, &asked())).expect("decodes");
        assert_eq!(again, first, "{name}");
    }
}

fn foreign() -> Answer {
    let reasoning = Reasoning {
        text: "Hm.".into(),
        signature: Some("EqQB+/x==".into()),
        origin: "anthropic".into(),
        ..Reasoning::default()
    };
    let redacted = Reasoning { encrypted: Some("EmwKAhgB".into()), origin: "anthropic".into(), ..Reasoning::default() };
    let call =
        ToolCall { id: "toolu_1".into(), name: "f".into(), arguments: r#"{"a":[1]}"#.into(), ..ToolCall::default() };
    let blocks = vec![
        Block::new(Content::Reasoning(reasoning)),
        Block::new(Content::Reasoning(redacted)),
        Block::text("Hi"),
        Block::new(Content::ToolCall(call)),
    ];
    let usage = Usage { input: 9, output: 20, reasoning: Some(5), cache_read: Some(4), ..Usage::default() };
    Answer {
        id: "msg_1".into(),
        model: "claude".into(),
        choices: vec![Choice { blocks, finish: Some(Finish::ToolCalls), ..Choice::default() }],
        usage: Some(usage),
        source: "anthropic",
        ..Answer::default()
    }
}

#[test]
fn a_foreign_answer_is_a_valid_response_and_its_signatures_come_home() {
    let body = json(&Gemini.encode_answer(&foreign(), &asked()));
    let parts = body["candidates"][0]["content"]["parts"].as_array().expect("parts");
    assert_eq!(parts[0]["thought"], true);
    // Vercel's SDK keeps no part without text.
    assert_eq!((parts.len(), &parts[1]["text"]), (3, &value!("Hi")));
    assert_eq!(parts[2], value!({"functionCall": {"id": "toolu_1", "name": "f", "args": {"a": [1]}}}));
    assert_eq!(body["candidates"][0]["finishReason"], "STOP");
    assert_eq!(
        body["usageMetadata"],
        value!({"promptTokenCount": 9, "candidatesTokenCount": 15, "totalTokenCount": 29,
            "cachedContentTokenCount": 4, "thoughtsTokenCount": 5})
    );
    // The client brings the turn back.
    let history = value!({"contents": [
        {"role": "user", "parts": [{"text": "q"}]},
        body["candidates"][0]["content"],
        {"role": "user", "parts": [{"functionResponse": {"id": "toolu_1", "name": "f", "response": {"result": "ok"}}}]},
    ]});
    let ask = decoded(Op::Generate, history.to_string().as_bytes());
    let blocks = &ask.messages[1].blocks;
    assert_eq!(blocks.len(), 4, "{:?}", shape(blocks));
    let expected = foreign();
    assert_eq!(blocks[0].content, expected.choices[0].blocks[0].content);
    assert_eq!(blocks[1].content, expected.choices[0].blocks[1].content);
    assert_eq!(shape(&ask.messages[2].blocks), ["result toolu_1"]);
}

#[test]
fn an_answer_without_its_own_id_gets_that_of_the_exchange() {
    let body = json(&Gemini.encode_answer(&Answer::default(), &asked()));
    assert_eq!((&body["responseId"], &body["modelVersion"]), (&value!("exchange-1"), &value!("asked-model")));
}

#[test]
fn an_error_in_the_answers_place_is_what_it_says() {
    let body = br#"{"error":{"code":500}}"#;
    assert_eq!(Gemini.decode_answer(body).expect_err("an error").kind, Kind::UpstreamError);
    assert_eq!(Gemini.summary(Op::Generate, body).expect_err("an error").kind, Kind::UpstreamError);
}

#[test]
fn odd_bodies_are_bad_answers_and_sparse_ones_are_not() {
    for body in ["", "[]", "{}", "null", r#"{"candidates":["x"]}"#, "<html>"] {
        assert_eq!(Gemini.decode_answer(body.as_bytes()).expect_err(body).kind, Kind::BadAnswer, "{body}");
        let summary = Gemini.summary(Op::Generate, body.as_bytes());
        assert_eq!(summary.is_err(), !body.starts_with('{') || body.contains("\"x\""), "{body}");
    }
    for body in [
        r#"{"candidates":[{"finishReason":"STOP"}]}"#,
        r#"{"candidates":[{"content":null,"finishReason":"STOP","index":null}],"usageMetadata":null}"#,
        r#"{"candidates":[{"content":{"role":"model"},"finishReason":"STOP"}],"usageMetadata":{}}"#,
        r#"{"candidates":[{"content":{"parts":[{},{"text":null},{"thought":true}]},"finishReason":"STOP"}]}"#,
    ] {
        let answer = Gemini.decode_answer(body.as_bytes()).expect(body);
        assert_eq!(answer.choices[0].finish, Some(Finish::Stop), "{body}");
        assert!(answer.choices[0].blocks.is_empty(), "{body}");
    }
}

#[test]
fn the_summary_agrees_with_the_whole_answer() {
    for name in ["answer_text.json", "answer_thinking_calls.json", "answer_blocked.json", "answer_grounded.json"] {
        let whole = answer(name);
        let summary = Gemini.summary(Op::Generate, &fixture(name)).expect("a summary");
        assert_eq!(summary.usage, whole.usage, "{name}");
        assert_eq!(summary.finish, whole.choices[0].finish, "{name}");
        assert_eq!((summary.id, summary.model), (Some(whole.id), Some(whole.model)), "{name}");
    }
}

#[test]
fn a_turn_that_the_model_did_not_get_done_is_a_fault_and_never_an_empty_answer() {
    let frame = |parts: Value, reason: &str| value!({"candidates": [{"content": {"role": "model", "parts": parts}, "finishReason": reason, "index": 0}], "responseId": "r"});
    let whole = |body: &Value| Gemini.decode_answer(body.to_string().as_bytes()).map(|answer| answer.choices[0].finish);
    let stream = |body: &Value| {
        let frame = bytes::Bytes::from(format!("data: {body}\n\n"));
        crate::dialect::collect(&Gemini, frame).map(|answer| answer.choices[0].finish)
    };
    let sniffed = |body: &Value| {
        let frame = format!("data: {body}\n\n");
        Gemini.sniffer(Op::Generate).frame(&crate::sse::Frame(frame.as_bytes())).fault
    };
    for reason in ["MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "TOO_MANY_TOOL_CALLS", "OTHER", "NEW_REASON"] {
        let empty = frame(value!([]), reason);
        for fault in
            [whole(&empty).expect_err(reason), stream(&empty).expect_err(reason), sniffed(&empty).expect(reason)]
        {
            assert_eq!(fault.kind, Kind::UpstreamError);
            assert!(fault.message.contains(reason), "{fault}");
        }
        assert!(Gemini.summary(Op::Generate, empty.to_string().as_bytes()).is_err(), "{reason}");
    }
    // Behind some text it is an error too, but for its own callers, who are told the reason.
    let begun = frame(value!([{"text": "Let me see."}]), "MALFORMED_FUNCTION_CALL");
    assert!(whole(&begun).is_err() && stream(&begun).is_err() && sniffed(&begun).is_none());
    assert!(Gemini.summary(Op::Generate, begun.to_string().as_bytes()).is_ok());
    let other = frame(value!([{"text": "Let me see."}]), "OTHER");
    assert_eq!(
        (whole(&other).expect("an answer"), stream(&other).expect("an answer")),
        (Some(Finish::Error), Some(Finish::Error))
    );
    let called = frame(value!([{"functionCall": {"name": "f", "args": {}}}]), "UNEXPECTED_TOOL_CALL");
    assert_eq!(whole(&called).expect("an answer"), Some(Finish::ToolCalls));
    assert!(whole(&frame(value!([]), "STOP")).is_ok() && sniffed(&frame(value!([]), "SAFETY")).is_none());
}

#[test]
fn sound_of_an_unsaid_format_is_known_by_its_first_bytes() {
    let audio = Content::Audio { data: "UklGRiQ".into(), format: String::new(), transcript: None, id: None };
    let choice = Choice { blocks: vec![Block::new(audio)], ..Choice::default() };
    let answer = Answer { choices: vec![choice], source: "openai_chat", ..Answer::default() };
    let body: Value = serde_json::from_slice(&Gemini.encode_answer(&answer, &asked())).expect("JSON");
    assert_eq!(body["candidates"][0]["content"]["parts"][0]["inlineData"]["mimeType"], "audio/wav");
}
