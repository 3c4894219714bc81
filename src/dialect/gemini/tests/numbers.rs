//! Objects of tools whose numbers no 64 bits hold, or that are spelt in a way of their own.

use super::*;
use crate::chat::event::replay;
use crate::chat::{Answer, Choice, Message, Role, ToolCall, ToolResult};

const ODD: &str = r#"{"a":123456789012345678901234567890,"b":[0.1000000000000000055,1e2],"c":"1e2"}"#;

fn call() -> Block {
    let call = ToolCall { id: "c".into(), name: "f".into(), arguments: ODD.into(), ..ToolCall::default() };
    Block::new(Content::ToolCall(call))
}

fn result(text: &str, is_error: Option<bool>) -> Block {
    let content = vec![Block::text(text)];
    Block::new(Content::ToolResult(ToolResult { id: "c".into(), content, is_error, ..ToolResult::default() }))
}

#[test]
fn arguments_and_results_are_read_as_they_were_spelt() {
    let called = format!(r#"{{"functionCall":{{"name":"f","args": {ODD}}}}}"#);
    let body = format!(
        r#"{{"candidates":[{{"content":{{"parts":[{{"text":"1e2"}},{called}]}},"finishReason":"STOP"}}],"responseId":"r"}}"#
    );
    let answer = Gemini.decode_answer(body.as_bytes()).expect("decodes");
    let expected = ["text 1e2".to_owned(), format!("call f {ODD}")];
    assert_eq!(shape(&answer.choices[0].blocks), expected);
    let stream = bytes::Bytes::from(format!("data: {body}\r\n\r\n"));
    let answer = crate::dialect::collect(&Gemini, stream).expect("a stream");
    assert_eq!(shape(&answer.choices[0].blocks), expected);

    let answered = format!(r#"{{"function_response":{{"name":"f","response": {ODD}}}}}"#);
    let failed = r#"{"functionResponse":{"name":"f","response":{"error":{"n":1e2}}}}"#;
    let asked = format!(
        r#"{{"contents":[{{"role":"model","parts":[{called},{called}]}},{{"role":"user","parts":[{answered},{failed}]}}]}}"#
    );
    let ask = decoded(Op::Generate, asked.as_bytes());
    assert_eq!(shape(&ask.messages[0].blocks)[0], expected[1]);
    let results: Vec<_> = ask.messages[1]
        .blocks
        .iter()
        .map(|block| match &block.content {
            Content::ToolResult(result) => (shape(&result.content), result.is_error),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(results[0], (vec![format!("text {ODD}")], None));
    assert_eq!(results[1].1, Some(true), "a wrapping is still known for one");
}

#[test]
fn arguments_and_results_are_written_as_they_were_spelt() {
    for (is_error, expected) in [(None, ODD.to_owned()), (Some(true), format!("{{\"error\":{ODD}}}"))] {
        let messages = vec![
            Message::new(Role::User, vec![Block::text("go")]),
            Message::new(Role::Assistant, vec![call()]),
            Message::new(Role::User, vec![result(ODD, is_error)]),
        ];
        let ask = Ask { model: "gpt".into(), messages, source: "openai_chat", ..Ask::default() };
        let mut to = Encoding::new("gemini-2.5-flash", &Quirks::NONE);
        for body in [Gemini.encode_ask(&ask, &mut to), Gemini.encode_count(&ask, &mut to).expect("counts")] {
            let body = String::from_utf8(body.expect("encodes")).expect("UTF-8");
            assert!(body.contains(&format!("\"args\":{ODD}")), "{body}");
            assert!(body.contains(&format!("\"response\":{expected}")), "{body}");
        }
    }
    let choice = Choice { blocks: vec![call()], ..Choice::default() };
    let answer = Answer { choices: vec![choice], source: "openai_chat", ..Answer::default() };
    let (mut encoder, mut out) = (Gemini.encoder(&asked()), Vec::new());
    replay(&answer).iter().for_each(|event| encoder.event(event, &mut out));
    for body in [Gemini.encode_answer(&answer, &asked()), out] {
        let body = String::from_utf8(body).expect("UTF-8");
        assert!(body.contains(&format!("\"args\":{ODD}")), "{body}");
    }
}
