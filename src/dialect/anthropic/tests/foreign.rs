//! Asks of other dialects, written for Anthropic.

use serde_json::json;

use super::*;
use crate::chat::{
    Block, Content, Effort, Media, Message, OutputFormat, Reasoning, ReasoningAsk, Role, Tool, ToolCall, ToolChoice,
    ToolResult,
};
use crate::dialect::{Encoding, Quirks};
use crate::fault::Kind;

fn ask(messages: Vec<Message>) -> Ask {
    Ask { model: "gpt".into(), messages, source: "openai_chat", ..Ask::default() }
}

fn user(text: &str) -> Message {
    Message::new(Role::User, vec![Block::text(text)])
}

fn encode(model: &str, ask: &Ask) -> (Value, Vec<&'static str>) {
    let mut to = Encoding::new(model, &Quirks::NONE);
    let body = json(&Anthropic.encode_ask(ask, &mut to).expect("encodes"));
    (body, to.dropped.iter().map(|(field, _)| *field).collect())
}

fn call(id: &str, name: &str, arguments: &str) -> Block {
    let call = ToolCall { id: id.into(), name: name.into(), arguments: arguments.into(), ..ToolCall::default() };
    Block::new(Content::ToolCall(call))
}

fn result(id: &str, text: &str) -> Message {
    let result = ToolResult { id: id.into(), content: vec![Block::text(text)], ..ToolResult::default() };
    Message::new(Role::User, vec![Block::new(Content::ToolResult(result))])
}

fn tool(name: &str) -> Tool {
    Tool::Function {
        name: name.into(),
        description: None,
        parameters: Some(json!({"properties": {"a": {"type": "integer", "minimum": 1}}})),
        strict: Some(true),
        cache: None,
        extra: Default::default(),
    }
}

#[test]
fn a_conversation_with_tools_is_put_into_anthropics_order() {
    let messages = vec![
        user("weather?"),
        Message::new(
            Role::Assistant,
            vec![Block::text(""), call("call:1", "w.get", "{\"c\":\"P\"}"), call("2", "now", "")],
        ),
        Message::new(Role::System, vec![Block::text("Be kind.")]),
        result("call:1", "sunny"),
        result("2", ""),
        user("thanks"),
        Message::new(Role::Assistant, vec![Block::text("So: \n")]),
    ];
    let mut ask = ask(messages);
    ask.system = vec![Block::text("You are X."), Block::text("")];
    ask.tools = vec![tool("w.get"), tool("now")];
    let (body, _) = encode("claude-sonnet-4-5", &ask);
    assert_eq!(
        body,
        json!({
            "model": "claude-sonnet-4-5",
            "max_tokens": 16384,
            "system": "You are X.",
            "messages": [
                {"role": "user", "content": "weather?"},
                {"role": "assistant", "content": [
                    {"type": "tool_use", "id": "call_1", "name": "w_get", "input": {"c": "P"}},
                    {"type": "tool_use", "id": "2", "name": "now", "input": {}},
                ]},
                {"role": "user", "content": [
                    {"type": "tool_result", "tool_use_id": "call_1", "content": "sunny"},
                    {"type": "tool_result", "tool_use_id": "2"},
                    {"type": "text", "text": "<system>\nBe kind.\n</system>"},
                    {"type": "text", "text": "thanks"},
                ]},
                {"role": "assistant", "content": "So:"},
            ],
            "tools": [
                {"name": "w_get", "input_schema": {"properties": {"a": {"type": "integer", "minimum": 1}}, "type": "object"}},
                {"name": "now", "input_schema": {"properties": {"a": {"type": "integer", "minimum": 1}}, "type": "object"}},
            ],
        })
    );
}

#[test]
fn effort_becomes_what_each_generation_takes() {
    let with = |effort, max_tokens| {
        let reasoning = ReasoningAsk { effort: Some(effort), ..ReasoningAsk::default() };
        Ask { reasoning: Some(reasoning), max_tokens, ..ask(vec![user("x")]) }
    };
    let (body, _) = encode("claude-sonnet-4-5", &with(Effort::Medium, None));
    assert_eq!(
        (&body["thinking"], &body["max_tokens"]),
        (&json!({"type": "enabled", "budget_tokens": 8192}), &json!(24576))
    );
    let (body, _) = encode("claude-sonnet-4-5", &with(Effort::High, Some(10_000)));
    assert_eq!((&body["thinking"]["budget_tokens"], &body["max_tokens"]), (&json!(8000), &json!(10_000)));
    let (body, dropped) = encode("claude-sonnet-4-5", &with(Effort::High, Some(1000)));
    assert_eq!((body.get("thinking"), dropped), (None, vec!["reasoning"]));
    let (body, _) = encode("claude-opus-4-6", &with(Effort::Xhigh, None));
    assert_eq!((&body["thinking"], &body["output_config"]), (&json!({"type": "adaptive"}), &json!({"effort": "high"})));
    let (body, _) = encode("claude-opus-5", &with(Effort::Minimal, None));
    assert_eq!(body["thinking"], json!({"type": "adaptive", "display": "summarized"}));
    assert_eq!(body["output_config"], json!({"effort": "low"}));
    let (body, _) = encode("claude-opus-5", &with(Effort::None, None));
    assert_eq!(body["thinking"], json!({"type": "disabled"}));
    let (body, dropped) = encode("claude-opus-5-5", &with(Effort::None, None));
    assert_eq!((body.get("thinking"), dropped), (None, vec!["reasoning"]));
    let (body, dropped) = encode("claude-3-5-haiku-latest", &with(Effort::High, None));
    assert_eq!((body.get("thinking"), &body["max_tokens"], dropped), (None, &json!(8192), vec!["reasoning"]));
}

#[test]
fn what_excludes_thinking_gives_way_and_is_noted() {
    let reasoning = ReasoningAsk { budget: Some(2000), ..ReasoningAsk::default() };
    let mut ask = Ask { reasoning: Some(reasoning), max_tokens: Some(8000), ..ask(vec![user("x")]) };
    ask.temperature = Some(0.into());
    ask.top_k = Some(4.into());
    let (body, dropped) = encode("claude-sonnet-4-5", &ask);
    assert_eq!((body.get("temperature"), body.get("top_k")), (None, None));
    assert_eq!((&body["thinking"]["budget_tokens"], dropped), (&json!(2000), vec!["temperature", "top_k"]));
    ask.tools = vec![tool("f")];
    ask.tool_choice = Some(ToolChoice::Required);
    let (body, dropped) = encode("claude-sonnet-4-5", &ask);
    assert_eq!((body.get("thinking"), &body["tool_choice"]), (None, &json!({"type": "any"})));
    assert!(dropped.contains(&"reasoning") && !dropped.contains(&"temperature"), "{dropped:?}");
    let (body, dropped) = encode("claude-opus-5-5", &ask);
    assert_eq!((&body["tool_choice"], &body["thinking"]["type"]), (&json!({"type": "auto"}), &json!("adaptive")));
    assert!(dropped.contains(&"tool_choice"), "{dropped:?}");
}

#[test]
fn a_tool_turn_without_signed_reasoning_goes_on_without_thinking() {
    let foreign = Reasoning { text: "hm".into(), signature: Some("s".into()), ..Reasoning::default() };
    let foreign = Block::new(Content::Reasoning(foreign));
    let turn = Message::new(Role::Assistant, vec![foreign, call("a", "f", "{}")]);
    let reasoning = ReasoningAsk { effort: Some(Effort::Low), ..ReasoningAsk::default() };
    let mut ask = Ask { reasoning: Some(reasoning), ..ask(vec![user("x"), turn, result("a", "1")]) };
    ask.tools = vec![tool("f")];
    let (body, dropped) = encode("claude-sonnet-4-5", &ask);
    assert_eq!(body.get("thinking"), None);
    assert_eq!(dropped.iter().filter(|field| field.ends_with("reasoning")).count(), 2);
    assert_eq!(body["messages"][1]["content"][0]["type"], "tool_use");
    // Its own signature, back from a client of another dialect, is what Anthropic wants to see again.
    let own = Reasoning {
        text: "hm".into(),
        signature: Some("Eq".into()),
        origin: "anthropic".into(),
        ..Reasoning::default()
    };
    ask.messages[1].blocks[0] = Block::new(Content::Reasoning(own));
    let (body, _) = encode("claude-sonnet-4-5", &ask);
    assert_eq!(body["thinking"]["type"], "enabled");
    assert_eq!(body["messages"][1]["content"][0], json!({"type": "thinking", "thinking": "hm", "signature": "Eq"}));
}

#[test]
fn structured_output_is_native_where_there_is_one() {
    let schema = json!({"type": "object", "properties": {"n": {"type": "integer", "minimum": 1}}, "required": ["n"]});
    let output = OutputFormat::JsonSchema { name: "a".into(), description: None, schema, strict: Some(true) };
    let ask = Ask { output: Some(output), ..ask(vec![user("x")]) };
    let (body, dropped) = encode("claude-sonnet-4-5", &ask);
    let format = &body["output_config"]["format"];
    assert_eq!((&format["type"], &format["schema"]["additionalProperties"]), (&json!("json_schema"), &json!(false)));
    assert_eq!(format["schema"]["properties"]["n"], json!({"type": "integer", "description": "(minimum: 1)"}));
    assert!(dropped.is_empty() && body.get("system").is_none());
    let (body, dropped) = encode("claude-sonnet-4-20250514", &ask);
    assert_eq!((body.get("output_config"), dropped), (None, vec!["response_format"]));
    assert!(body["system"].as_str().is_some_and(|text| text.contains("\"minimum\":1")));
    let ask = Ask { output: Some(OutputFormat::JsonObject), system: vec![Block::text("S")], ..ask };
    let (body, dropped) = encode("claude-sonnet-4-5", &ask);
    assert_eq!((body["system"].as_array().map(Vec::len), dropped), (Some(2), vec!["response_format"]));
}

#[test]
fn a_schema_that_anthropic_cannot_hold_to_is_told_in_words() {
    let map = json!({"type": "object", "properties": {"tags": {"type": "object", "additionalProperties": {"type": "string"}}}});
    let output = OutputFormat::JsonSchema { name: "a".into(), description: None, schema: map, strict: None };
    let ask = Ask { output: Some(output), ..ask(vec![user("x")]) };
    let (body, dropped) = encode("claude-sonnet-4-5", &ask);
    assert_eq!((body.get("output_config"), dropped), (None, vec!["response_format"]));
    assert!(body["system"].as_str().is_some_and(|text| text.contains("additionalProperties")));
    let own = Ask { source: "anthropic", ..ask };
    assert_eq!(encode("claude-sonnet-4-5", &own).0["output_config"]["format"]["type"], "json_schema");
}

#[test]
fn tools_are_strict_only_as_far_as_anthropic_takes_them_together() {
    let strict = |n: usize, kind: &Value| Tool::Function {
        name: format!("f{n}"),
        description: None,
        parameters: Some(
            json!({"type": "object", "properties": {"a": {"type": kind}}, "required": ["a"], "additionalProperties": false}),
        ),
        strict: Some(true),
        cache: None,
        extra: Default::default(),
    };
    let told = |count: usize, kind: Value| {
        let ask = Ask { tools: (0..count).map(|n| strict(n, &kind)).collect(), ..ask(vec![user("x")]) };
        let (body, dropped) = encode("claude-sonnet-4-5", &ask);
        let tools = body["tools"].as_array().expect("tools").clone();
        (tools.iter().filter(|tool| tool["strict"] == true).count(), tools.len(), dropped)
    };
    assert_eq!(told(20, json!("string")), (20, 20, vec![]));
    assert_eq!(told(21, json!("string")), (0, 21, vec!["tools.strict"]));
    assert_eq!(told(16, json!(["string", "null"])), (16, 16, vec![]));
    assert_eq!(told(17, json!(["string", "null"])), (0, 17, vec!["tools.strict"]));
}

#[test]
fn parameters_are_carried_translated_or_noted() {
    let mut ask = ask(vec![user("x")]);
    ask.temperature = Some(serde_json::Number::from_f64(1.7).expect("finite"));
    ask.top_p = Some(serde_json::Number::from_f64(0.5).expect("finite"));
    ask.stop = vec!["\n".into(), "END".into()];
    ask.seed = Some(1.into());
    ask.service_tier = Some("flex".into());
    ask.user = Some("u".into());
    ask.parallel_tools = Some(false);
    ask.tools = vec![tool("f"), tool("g")];
    ask.tool_choice = Some(ToolChoice::Allowed { names: vec!["g".into()], required: false });
    let (body, dropped) = encode("claude-sonnet-4-5", &ask);
    assert_eq!((&body["temperature"], body.get("top_p"), &body["stop_sequences"]), (&json!(1), None, &json!(["END"])));
    assert_eq!((&body["metadata"], body.get("service_tier")), (&json!({"user_id": "u"}), None));
    assert_eq!(body["tool_choice"], json!({"type": "auto", "disable_parallel_tool_use": true}));
    assert_eq!(body["tools"].as_array().map(Vec::len), Some(1));
    for field in ["seed", "tools", "tools.strict", "temperature", "top_p", "stop", "service_tier"] {
        assert!(dropped.contains(&field), "{field} in {dropped:?}");
    }
    let quirks = Quirks { refuses: &["metadata"], ..Quirks::NONE };
    let mut to = Encoding::new("m", &quirks);
    let body = json(&Anthropic.encode_ask(&ask, &mut to).expect("encodes"));
    assert!(body.get("metadata").is_none() && to.dropped.iter().any(|(field, _)| *field == "metadata"));
    // A choice without tools would be refused.
    ask.tools.clear();
    assert_eq!(encode("claude-sonnet-4-5", &ask).0.get("tool_choice"), None);
}

#[test]
fn media_reach_anthropic_or_are_refused_by_name() {
    let one = |content: Content| ask(vec![Message::new(Role::User, vec![Block::new(content)])]);
    let image = |source| one(Content::Image { source, detail: None });
    let file = |source| one(Content::File { source, name: Some("a.txt".into()) });
    let sent = |ask: &Ask| encode("claude-sonnet-4-5", ask).0["messages"][0]["content"][0].clone();
    let url = "https://e.com/a.png";
    assert_eq!(sent(&image(Media::from_url(url)))["source"], json!({"type": "url", "url": url}));
    let inline = image(Media::from_url("data:image/jpg;base64,AA=="));
    assert_eq!(sent(&inline)["source"], json!({"type": "base64", "media_type": "image/jpeg", "data": "AA=="}));
    let text = file(Media::Inline { mime: "text/plain".into(), data: "aGk=".into() });
    assert_eq!(
        sent(&text),
        json!({"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "hi"}, "title": "a.txt"})
    );
    let pdf = file(Media::Inline { mime: "application/pdf".into(), data: "JVBE".into() });
    assert_eq!(sent(&pdf)["source"]["type"], "base64");
    let audio = Content::Audio { data: "AA==".into(), format: "wav".into(), transcript: None, id: None };
    for (ask, word) in [
        (one(audio), "audio"),
        (image(Media::Id("file-1".into())), "files"),
        (image(Media::from_url("gs://b/a.png")), "image"),
        (file(Media::Inline { mime: "application/zip".into(), data: "AA==".into() }), "PDF"),
        (Ask { n: Some(2), ..ask(vec![user("x")]) }, "choice"),
        (Ask { modalities: vec!["text".into(), "audio".into()], ..ask(vec![user("x")]) }, "audio"),
        (Ask { previous_response: Some("resp_1".into()), ..ask(vec![user("x")]) }, "another provider keeps"),
    ] {
        let fault = Anthropic.encode_ask(&ask, &mut Encoding::new("m", &Quirks::NONE)).expect_err(word);
        assert_eq!(fault.kind, Kind::UnsupportedFeature);
        assert!(fault.message.contains(word) && fault.param.is_some(), "{}", fault.message);
    }
}

#[test]
fn a_system_prompt_alone_is_something_to_answer() {
    let ask = Ask { system: vec![Block::text("Say hi.")], ..ask(Vec::new()) };
    let (body, _) = encode("claude-sonnet-4-5", &ask);
    assert_eq!(body["messages"], json!([{"role": "user", "content": "Say hi."}]));
    assert_eq!(body.get("system"), None);
}

#[test]
fn what_the_assistant_drew_is_left_out() {
    let source = Media::Inline { mime: "image/png".into(), data: "AA==".into() };
    let drawn = Block::new(Content::Image { source, detail: None });
    let turn = Message::new(Role::Assistant, vec![Block::text("Here it is."), drawn]);
    let (body, dropped) = encode("claude-sonnet-4-5", &ask(vec![user("Draw a cat."), turn, user("Thanks.")]));
    assert_eq!(body["messages"][1], json!({"role": "assistant", "content": "Here it is."}));
    assert_eq!(dropped, ["messages.assistant"]);
}
