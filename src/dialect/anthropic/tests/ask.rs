//! Asks of Anthropic clients, and the same asks written again.

use serde_json::json;

use super::*;
use crate::chat::{CacheMark, Content, Effort, Media, OutputFormat, Reasoning, Role, Tool, ToolChoice};
use crate::dialect::{Encoding, Quirks};
use crate::fault::Kind;

fn again(ask: &Ask) -> Value {
    let mut to = Encoding::new(&ask.model, &Quirks::NONE);
    let body = json(&Anthropic.encode_ask(ask, &mut to).expect("encodes"));
    assert_eq!(to.dropped, [], "nothing of its own is left out");
    body
}

#[test]
fn what_claude_code_sends_is_read() {
    let ask = decode(&fixture("asks/claude_code.json")).expect("decodes");
    assert_eq!((ask.model.as_str(), ask.stream, ask.max_tokens), ("claude-sonnet-4-5-20250929", true, Some(32000)));
    assert_eq!(ask.system.len(), 3);
    assert_eq!(ask.system[2].cache, Some(CacheMark { ttl: Some("1h".into()) }));
    assert_eq!(ask.messages.len(), 3);
    let Content::Reasoning(reasoning) = &ask.messages[1].blocks[0].content else { panic!("no reasoning") };
    assert_eq!((reasoning.text.as_str(), reasoning.signature.is_some()), ("The user wants a listing.", true));
    let Content::ToolCall(call) = &ask.messages[1].blocks[2].content else { panic!("no call") };
    assert_eq!((call.id.as_str(), call.arguments.as_str()), ("toolu_01A", r#"{"command":"ls","timeout":5000}"#));
    let Content::ToolResult(result) = &ask.messages[2].blocks[1].content else { panic!("no result") };
    assert_eq!((result.id.as_str(), result.is_error, result.content.len()), ("toolu_01B", Some(true), 2));
    assert!(matches!(&result.content[0].content, Content::Image { source: Media::Inline { .. }, .. }));
    assert!(matches!(&ask.tools[0], Tool::Function { name, .. } if name == "Bash"));
    assert!(matches!(&ask.tools[2], Tool::Hosted(_)));
    assert_eq!((&ask.tool_choice, ask.parallel_tools), (&Some(ToolChoice::Auto), Some(false)));
    let reasoning = ask.reasoning.as_ref().expect("reasoning");
    assert_eq!((reasoning.budget, reasoning.effort), (Some(31999), Some(Effort::High)));
    assert_eq!(ask.user.as_deref(), Some("user_1f_account__session_2e"));
    assert_eq!(ask.extra.keys().collect::<Vec<_>>(), ["context_management"]);
}

#[test]
fn an_ask_is_written_as_it_was_read() {
    for name in ["claude_code", "everything"] {
        let body = fixture(&format!("asks/{name}.json"));
        let mut expected = json(&body);
        let ask = decode(&body).expect("decodes");
        let mut body = json(&encode_lossy(&ask));
        // Defaults that the neutral form does not repeat, and parameters that newer models refuse.
        if name == "everything" {
            for key in ["top_p", "top_k"] {
                expected.as_object_mut().expect("object").remove(key);
            }
            expected["tools"][0].as_object_mut().expect("object").remove("type");
            // A forced tool and thinking exclude each other: the tool stays.
            expected.as_object_mut().expect("object").remove("thinking");
        } else {
            // Sampling and thinking exclude each other but for the default.
            expected.as_object_mut().expect("object").remove("temperature");
        }
        body.as_object_mut().expect("object").sort_keys();
        expected.as_object_mut().expect("object").sort_keys();
        assert_eq!(without_nulls(body), without_nulls(expected), "{name}");
        assert_eq!(decode(&encode_lossy(&ask)).expect("decodes").messages, ask.messages, "{name}");
    }
}

fn encode_lossy(ask: &Ask) -> Vec<u8> {
    Anthropic.encode_ask(ask, &mut Encoding::new(&ask.model, &Quirks::NONE)).expect("encodes")
}

#[test]
fn every_kind_of_media_has_its_neutral_form() {
    let ask = decode(&fixture("asks/everything.json")).expect("decodes");
    let blocks = &ask.messages[0].blocks;
    assert!(matches!(&blocks[0].content, Content::Image { source: Media::Url { .. }, .. }));
    assert!(matches!(&blocks[1].content, Content::Image { source: Media::Id(id), .. } if id == "file_01"));
    let Content::File { source: Media::Inline { mime, .. }, name } = &blocks[2].content else { panic!("no file") };
    assert_eq!((mime.as_str(), name.as_deref()), ("application/pdf", Some("Report")));
    assert_eq!(blocks[2].extra.keys().collect::<Vec<_>>(), ["context", "citations"]);
    assert!(matches!(&blocks[3].content, Content::File { source: Media::Text(text), .. } if text == "plain words"));
    assert!(matches!(&blocks[4].content, Content::File { source: Media::Text(text), .. } if text == "one\ntwo"));
    assert!(matches!(&blocks[5].content, Content::File { source: Media::Url { .. }, .. }));
    let Content::File { source: Media::Text(text), .. } = &blocks[6].content else { panic!("no text of a search") };
    assert!(!text.is_empty() && blocks[6].extra.contains_key(crate::chat::KEPT_SOURCE));
    assert_eq!(ask.messages[3].role, Role::System);
    assert_eq!(ask.service_tier.as_deref(), Some("default"));
    let Some(OutputFormat::JsonSchema { name, strict, .. }) = &ask.output else { panic!("no format") };
    assert_eq!((name.as_str(), *strict), ("Fruit", Some(true)));
    let reasoning = ask.reasoning.as_ref().expect("reasoning");
    assert_eq!((reasoning.adaptive, reasoning.effort, reasoning.include), (true, Some(Effort::Xhigh), Some(true)));
}

#[test]
fn thinking_can_be_off_on_or_left_to_the_model() {
    let with = |field: &str| {
        let body = format!(
            r#"{{"model":"claude-opus-4-6","max_tokens":9000,"messages":[{{"role":"user","content":"x"}}],{field}}}"#
        );
        decode(body.as_bytes()).expect(field)
    };
    let off = with(r#""thinking":{"type":"disabled"},"output_config":{"effort":"low"}"#);
    assert_eq!(off.reasoning.as_ref().and_then(|reasoning| reasoning.effort), Some(Effort::None));
    let body = again(&off);
    assert_eq!((&body["thinking"], &body["output_config"]), (&json!({"type": "disabled"}), &json!({"effort": "low"})));
    let body = again(&with(r#""output_config":{"effort":"medium"}"#));
    assert_eq!((body.get("thinking"), &body["output_config"]), (None, &json!({"effort": "medium"})));
    let body = again(&with(r#""thinking":{"type":"enabled","budget_tokens":2000}"#));
    assert_eq!(
        (&body["thinking"], body.get("output_config")),
        (&json!({"type": "enabled", "budget_tokens": 2000}), None)
    );
    for kind in ["between_tools", "something_new"] {
        let body = again(&with(&format!(r#""thinking":{{"type":"{kind}","level":3}}"#)));
        assert_eq!(body["thinking"], json!({"type": kind, "level": 3}));
    }
}

#[test]
fn counting_asks_need_no_bound_and_keep_what_counts() {
    let body = fixture("asks/count.json");
    let raw = RawAsk { op: Op::CountTokens, body: &body, model: None, stream: false };
    let ask = Anthropic.decode_ask(&raw).expect("decodes");
    let mut to = Encoding::new("claude-haiku-4-5", &Quirks::NONE);
    let counted = Anthropic.encode_count(&ask, &mut to).expect("can count").expect("encodes");
    assert_eq!(json(&counted), json(&body));
}

#[test]
fn errors_name_the_field() {
    let cases = [
        (r#"{"model":"m"}"#, "messages"),
        (r#"{"messages":[]}"#, "model"),
        (r#"{"model":"m","messages":{}}"#, "messages"),
        (r#"{"model":"m","messages":[{"role":"user"}]}"#, "messages.0.content"),
        (r#"{"model":"m","messages":[{"role":"bot","content":""}]}"#, "messages.0.role"),
        (r#"{"model":"m","messages":[{"role":"user","content":5}]}"#, "messages.0.content"),
        (
            r#"{"model":"m","messages":[{"role":"user","content":[{"type":"text","text":1}]}]}"#,
            "messages.0.content.0.text",
        ),
        (
            r#"{"model":"m","messages":[{"role":"user","content":[{"type":"tool_result"}]}]}"#,
            "messages.0.content.0.tool_use_id",
        ),
        (r#"{"model":"m","messages":[],"tools":[{}]}"#, "tools.0.name"),
        (r#"{"model":"m","messages":[],"max_tokens":"1"}"#, "max_tokens"),
        (r#"{"model":"m","messages":[],"tool_choice":{"type":"tool"}}"#, "tool_choice.name"),
    ];
    for (body, param) in cases {
        let fault = decode(body.as_bytes()).expect_err(body);
        assert_eq!((fault.kind, fault.param.as_deref()), (Kind::InvalidRequest, Some(param)), "{body}");
    }
    assert_eq!(decode(b"{").expect_err("no JSON").kind, Kind::InvalidJson);
}

#[test]
fn nulls_count_as_absent() {
    let ask = decode(
        br#"{"model":"m","max_tokens":null,"system":null,"tools":null,"thinking":null,"metadata":{"user_id":null},
            "messages":[{"role":"user","content":[{"type":"text","text":"x","cache_control":null,"citations":null}]}]}"#,
    )
    .expect("decodes");
    let expected = decode(br#"{"model":"m","messages":[{"role":"user","content":"x"}]}"#).expect("decodes");
    assert_eq!(ask, expected);
}

#[test]
fn foreign_reasoning_comes_back_from_an_anthropic_client_as_it_was() {
    use crate::chat::{Answer, Block, Choice, ToolCall};
    let reasoning = |reasoning| Block::new(Content::Reasoning(reasoning));
    let gemini = vec![
        reasoning(Reasoning { text: "hm".into(), signature: Some("g.s".into()), ..Reasoning::default() }),
        Block::new(Content::ToolCall(ToolCall {
            id: "c1".into(),
            name: "f".into(),
            arguments: "{}".into(),
            signature: Some("call.sig".into()),
            ..ToolCall::default()
        })),
        Block::new(Content::ToolCall(ToolCall {
            id: "c2".into(),
            name: "g".into(),
            arguments: "{}".into(),
            ..ToolCall::default()
        })),
    ];
    let responses = vec![
        reasoning(Reasoning {
            summary: vec!["so".into()],
            encrypted: Some("gA.AA".into()),
            id: Some("rs_1".into()),
            ..Reasoning::default()
        }),
        reasoning(Reasoning { encrypted: Some("x".into()), id: Some("rs_2".into()), ..Reasoning::default() }),
    ];
    for (source, blocks) in [("gemini", gemini), ("openai_responses", responses)] {
        let choice = Choice { blocks: blocks.clone(), ..Choice::default() };
        let answer = Answer { choices: vec![choice], source, ..Answer::default() };
        let content = json(&Anthropic.encode_answer(&answer, &asked()))["content"].clone();
        let body = json!({"model": "m", "messages": [{"role": "assistant", "content": content}]});
        let back = decode(body.to_string().as_bytes()).expect("decodes").messages.remove(0).blocks;
        assert_eq!(back.len(), blocks.len());
        for (back, block) in back.iter().zip(&blocks) {
            match (&back.content, &block.content) {
                (Content::Reasoning(back), Content::Reasoning(made)) => {
                    assert_eq!(*back, Reasoning { origin: source.into(), ..made.clone() });
                }
                (Content::ToolCall(back), Content::ToolCall(made)) => {
                    let sealed = made.signature.as_ref().map(|made| crate::chat::reasoning::seal(source, made));
                    assert_eq!(back.signature, sealed);
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn redacted_data_never_goes_out_as_the_signature_of_a_text() {
    // As Vercel's SDK gives back a thought without text: on the one before, in place of its signature.
    let encrypted = Some("EmwK".to_owned());
    let reasoning =
        Reasoning { text: "Let me think".into(), encrypted, origin: "anthropic".into(), ..Reasoning::default() };
    let blocks = vec![crate::chat::Block::new(Content::Reasoning(reasoning)), crate::chat::Block::text("x")];
    let messages = vec![crate::chat::Message::new(Role::Assistant, blocks)];
    let ask = Ask { model: "m".into(), messages, source: "gemini", ..Ask::default() };
    let mut to = Encoding::new("claude-sonnet-4-5", &Quirks::NONE);
    let body = json(&Anthropic.encode_ask(&ask, &mut to).expect("encodes"));
    assert_eq!(body["messages"][0]["content"][0], json!({"type": "redacted_thinking", "data": "EmwK"}));
    assert!(!body.to_string().contains("Let me think"), "{body}");
    assert_eq!(to.dropped[0].0, "messages.reasoning");
}
