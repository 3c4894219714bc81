//! Whole answers.

use serde_json::json;

use super::*;
use crate::chat::{Answer, Block, Choice, Content, Finish, ToolCall};
use crate::fault::Kind;

#[test]
fn an_answer_of_anthropics_own_survives_both_directions() {
    let body = fixture("answers/full.json");
    let answer = Anthropic.decode_answer(&body).expect("decodes");
    assert_eq!(answer.choices[0].finish, Some(Finish::ToolCalls));
    let usage = answer.usage.expect("usage");
    assert_eq!(
        (usage.input, usage.cache_read, usage.cache_write, usage.cache_write_1h),
        (22, Some(7), Some(5), Some(3))
    );
    assert_eq!(answer.service_tier.as_deref(), Some("default"));
    let again = json(&Anthropic.encode_answer(&answer, &asked_for(&answer.model)));
    assert_eq!(without_nulls(again), without_nulls(json(&body)));
}

#[test]
fn arguments_are_the_input_as_json_text() {
    let answer = Anthropic.decode_answer(&fixture("answers/full.json")).expect("decodes");
    let Some(Content::ToolCall(call)) = answer.choices[0].blocks.last().map(|block| &block.content) else {
        panic!("no call")
    };
    assert_eq!((call.id.as_str(), call.arguments.as_str()), ("toolu_1", r#"{"z":1,"a":[true,null,"x"]}"#));
}

#[test]
fn a_foreign_answer_is_a_message_that_an_sdk_can_read() {
    let call = |id: &str, arguments: &str| {
        let call = ToolCall { id: id.into(), name: "f".into(), arguments: arguments.into(), ..ToolCall::default() };
        Block::new(Content::ToolCall(call))
    };
    let citations = vec![
        json!({"type": "url_citation", "url_citation": {"url": "https://e.com", "title": "E", "start_index": 0, "end_index": 3}}),
        json!({"type": "file_citation", "file_id": "f"}),
    ];
    let text = Block::new(Content::Text { text: "see".into(), citations });
    let choice = Choice {
        blocks: vec![Block::text(""), text, call("call_1", ""), call("", "{\"a\":")],
        finish: Some(Finish::Stop),
        ..Choice::default()
    };
    let answer = Answer { id: "chatcmpl-7".into(), choices: vec![choice], source: "openai_chat", ..Answer::default() };
    assert_eq!(
        json(&Anthropic.encode_answer(&answer, &asked())),
        json!({
            "id": "msg_chatcmpl-7",
            "type": "message",
            "role": "assistant",
            "model": "asked-model",
            "content": [
                {"type": "text", "text": "see", "citations": [{
                    "type": "web_search_result_location", "cited_text": "", "url": "https://e.com", "title": "E",
                    "encrypted_index": ""
                }]},
                {"type": "tool_use", "id": "call_1", "name": "f", "input": {}},
                {"type": "tool_use", "id": "toolu_x1_3", "name": "f", "input": {"_raw": "{\"a\":"}},
            ],
            "stop_sequence": null,
            "stop_reason": "tool_use",
            "usage": {
                "input_tokens": 0, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0, "output_tokens": 0
            },
        })
    );
    let nothing = json(&Anthropic.encode_answer(&Answer::default(), &asked()));
    assert_eq!(
        (&nothing["id"], &nothing["content"], &nothing["stop_reason"]),
        (&json!("msg_x1"), &json!([]), &json!("end_turn"))
    );
}

#[test]
fn what_is_no_message_is_a_bad_answer_and_an_error_body_is_its_error() {
    for body in ["", "<html>", "[]", "{}", r#"{"content":"text"}"#, r#"{"content":[{"type":"text","text":5}]}"#] {
        let fault = Anthropic.decode_answer(body.as_bytes()).expect_err(body);
        assert_eq!(fault.kind, Kind::BadAnswer, "{body}");
    }
    let error = br#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#;
    assert_eq!(Anthropic.decode_answer(error).expect_err("an error").kind, Kind::Overloaded);
    assert_eq!(Anthropic.summary(Op::Generate, b"null").expect_err("no object").kind, Kind::BadAnswer);
}

#[test]
fn a_summary_agrees_with_the_decoded_answer() {
    let body = fixture("answers/full.json");
    let (summary, answer) =
        (Anthropic.summary(Op::Generate, &body).expect("reads"), Anthropic.decode_answer(&body).expect("decodes"));
    assert_eq!(summary.id.as_deref(), Some(answer.id.as_str()));
    assert_eq!((summary.usage, summary.finish), (answer.usage, answer.choices[0].finish));
    let count = Anthropic.summary(Op::CountTokens, br#"{"input_tokens":2095}"#).expect("reads");
    assert_eq!(count.usage.map(|usage| usage.input), Some(2095));
}

#[test]
fn counts_are_read_and_written() {
    assert_eq!(json(&Anthropic.encode_count_answer(7)), json!({"input_tokens": 7}));
    assert_eq!(Anthropic.decode_count(br#"{"input_tokens":14,"context_management":{}}"#).expect("a count"), 14);
    assert_eq!(Anthropic.decode_count(b"{}").expect_err("no count").kind, Kind::BadAnswer);
}

#[test]
fn an_answer_is_of_the_model_that_was_asked_for_and_else_as_it_came() {
    let answer = r#"{ "id":"msg_1","type":"message", "model" : "claude-x","usage":{"n":1.50},"content":[{"type":"text","text":"\u0041"}]}"#;
    let event = format!(r#"{{"type": "message_start", "message": {answer} , "n":1e2}}"#);
    for data in [answer, &event] {
        let called = Anthropic.calling(data.as_bytes(), "fan/\"s\"").expect("another name");
        let expected = data.replace("\"claude-x\"", r#""fan/\"s\"""#);
        assert_eq!(String::from_utf8_lossy(&called), expected);
        assert_eq!(Anthropic.calling(data.as_bytes(), "claude-x"), None);
    }
    for data in [r#"{"input_tokens":3}"#, r#"{"type":"message_start"}"#, "[1]", "{"] {
        assert_eq!(Anthropic.calling(data.as_bytes(), "m"), None, "{data}");
    }
}
