//! Inputs of tools whose numbers no 64 bits hold, or that are spelt in a way of their own.

use super::*;
use crate::chat::event::{Collector, replay};
use crate::chat::{Answer, Block, Choice, Content, Message, Role, ToolCall};
use crate::dialect::{Encoding, Quirks};

const ODD: &str = r#"{"a":123456789012345678901234567890,"b":[0.1000000000000000055,1e2],"c":"1e2"}"#;

fn arguments(blocks: &[Block]) -> &str {
    match &blocks.last().expect("a block").content {
        Content::ToolCall(call) => &call.arguments,
        other => panic!("{other:?}"),
    }
}

fn call(arguments: &str) -> Block {
    let call = ToolCall { id: "c".into(), name: "f".into(), arguments: arguments.into(), ..ToolCall::default() };
    Block::new(Content::ToolCall(call))
}

#[test]
fn inputs_are_read_as_they_were_spelt() {
    let block = format!(r#"{{"type":"tool_use","id":"c","name":"f","input": {ODD}}}"#);
    let body = format!(r#"{{"content":[{{"type":"text","text":"1e2"}},{block}],"stop_reason":"tool_use"}}"#);
    let answer = Anthropic.decode_answer(body.as_bytes()).expect("decodes");
    assert_eq!(arguments(&answer.choices[0].blocks), ODD);
    let asked = format!(
        r#"{{"model":"m","messages":[{{"role":"user","content":"go"}},{{"role":"assistant","content":[{block}]}}]}}"#
    );
    assert_eq!(arguments(&decode(asked.as_bytes()).expect("decodes").messages[1].blocks), ODD);
    // A head that holds the whole input.
    let begun = format!(
        "data: {{\"type\":\"content_block_start\",\"index\":0,\"content_block\":{block}}}\n\n\
         data: {{\"type\":\"message_delta\",\"delta\":{{\"stop_reason\":\"tool_use\"}}}}\n\n"
    );
    let mut collector = Collector::default();
    read(&[begun.as_bytes()]).0.into_iter().try_for_each(|event| collector.event(event)).expect("no fault");
    assert_eq!(arguments(&collector.finish().choices[0].blocks), ODD);
}

#[test]
fn inputs_are_written_as_they_were_spelt() {
    let quoted = Value::from(ODD).to_string();
    for given in [ODD, quoted.as_str(), &ODD.replace(':', " : ")] {
        let turns =
            vec![Message::new(Role::User, vec![Block::text("go")]), Message::new(Role::Assistant, vec![call(given)])];
        let ask = Ask { model: "gpt".into(), messages: turns, source: "openai_chat", ..Ask::default() };
        let mut to = Encoding::new("claude-sonnet-4-5", &Quirks::NONE);
        let choice = Choice { blocks: vec![call(given)], ..Choice::default() };
        let answer = Answer { choices: vec![choice], source: "openai_chat", ..Answer::default() };
        let bodies = [
            Anthropic.encode_ask(&ask, &mut to).expect("encodes"),
            Anthropic.encode_count(&ask, &mut to).expect("counts").expect("encodes"),
            Anthropic.encode_answer(&answer, &asked()),
        ];
        for body in bodies {
            let body = String::from_utf8(body).expect("UTF-8");
            assert!(body.contains(&format!("\"input\":{ODD}")), "{body}");
        }
        let (mut encoder, mut out) = (Anthropic.encoder(&asked()), Vec::new());
        replay(&answer).iter().for_each(|event| encoder.event(event, &mut out));
        let expected = if given.starts_with('"') { ODD } else { given };
        let pieces = String::from_utf8(out).expect("UTF-8");
        assert!(pieces.contains(&Value::from(expected).to_string()), "{pieces}");
    }
}
