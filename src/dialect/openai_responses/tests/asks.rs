//! Requests, both ways.

use serde_json::json;

use super::*;
use crate::chat::{
    Block, CacheMark, Effort, Media, Message, OutputFormat, Reasoning, ReasoningAsk, Role, Tool, ToolCall, ToolChoice,
    ToolResult,
};
use crate::dialect::foreign::tests::with_call_id;

fn encoded(ask: &Ask) -> Value {
    let mut to = Encoding::new("gpt-up", &Quirks::NONE);
    json(&OpenAiResponses.encode_ask(ask, &mut to).expect("encodes"))
}

fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(object) => {
            object.into_iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k, without_nulls(v))).collect()
        }
        Value::Array(list) => list.into_iter().map(without_nulls).collect(),
        other => other,
    }
}

#[test]
fn asks_of_this_form_survive_being_read_and_written() {
    for name in names(".json").iter().filter(|name| name.starts_with("ask_")) {
        let ask = ask_of(&fixture(&format!("{name}.json")));
        let written = encoded(&ask);
        let again = ask_of(written.to_string().as_bytes());
        assert_eq!(Ask { model: ask.model.clone(), ..again }, ask, "{name}");
    }
}

#[test]
fn an_agents_ask_is_written_word_for_word() {
    let body = json(&fixture("ask_codex.json"));
    let mut written = encoded(&ask_of(&fixture("ask_codex.json")));
    assert_eq!(written["model"], "gpt-up");
    written["model"] = body["model"].clone();
    // Output text always has its list of annotations.
    let said = written.pointer_mut("/input/4/content/0").and_then(Value::as_object_mut).expect("a message");
    assert_eq!(said.remove("annotations"), Some(json!([])));
    assert_eq!(without_nulls(written), without_nulls(body));
}

#[test]
fn an_agents_ask_is_understood() {
    let ask = ask_of(&fixture("ask_codex.json"));
    assert_eq!(ask.system.len(), 2, "instructions and the developer's message");
    let roles: Vec<_> = ask.messages.iter().map(|message| (message.role, message.blocks.len())).collect();
    assert_eq!(
        roles,
        [
            (Role::User, 1),
            (Role::User, 2),
            (Role::Assistant, 4),
            (Role::User, 2),
            (Role::Assistant, 1),
            (Role::User, 1),
            (Role::Assistant, 1),
            (Role::User, 1),
            (Role::Assistant, 1),
            (Role::User, 1)
        ]
    );
    let Content::Image { source: Media::Inline { mime, .. }, .. } = &ask.messages[1].blocks[1].content else {
        panic!("an image")
    };
    assert_eq!(mime, "image/png");
    let Content::ToolCall(call) = &ask.messages[2].blocks[3].content else { panic!("a call") };
    assert_eq!((call.id.as_str(), call.name.as_str()), ("call_2", "mcp__wiki__search"));
    let Content::ToolCall(patch) = &ask.messages[4].blocks[0].content else { panic!("a call") };
    assert!(patch.custom);
    assert_eq!(patch.arguments, "*** Begin Patch\n*** End Patch");
    let Content::ToolResult(result) = &ask.messages[3].blocks[1].content else { panic!("a result") };
    assert_eq!((result.id.as_str(), result.content.len()), ("call_2", 2));
    let names: Vec<_> = ask
        .tools
        .iter()
        .map(|tool| match tool {
            Tool::Function { name, .. } | Tool::Custom { name, .. } => name.as_str(),
            Tool::Hosted(tool) => tool["type"].as_str().expect("a type"),
        })
        .collect();
    assert_eq!(names, ["shell", "apply_patch", "local_shell", "web_search", "mcp__wiki__search", "mcp__wiki__read"]);
    assert_eq!(ask.tool_choice, Some(ToolChoice::Auto));
    assert_eq!(ask.reasoning.as_ref().and_then(|reasoning| reasoning.effort), Some(Effort::Medium));
    assert_eq!((ask.stream, ask.store, ask.parallel_tools), (true, Some(false), Some(true)));
    assert_eq!((ask.cache_key.as_deref(), ask.verbosity.as_deref()), (Some("0199-abcd"), Some("low")));
}

#[test]
fn every_field_finds_its_place() {
    let ask = ask_of(&fixture("ask_everything.json"));
    assert_eq!((ask.max_tokens, ask.top_logprobs, ask.logprobs), (Some(64), Some(3), Some(true)));
    assert_eq!(ask.previous_response.as_deref(), Some("resp_before"));
    assert_eq!(ask.tool_choice, Some(ToolChoice::Allowed { names: vec!["look".into()], required: true }));
    assert!(matches!(&ask.output, Some(OutputFormat::JsonSchema { name, strict: Some(true), .. }) if name == "cat"));
    assert_eq!((ask.user.as_deref(), ask.service_tier.as_deref()), (Some("u-1"), Some("flex")));
    assert_eq!(ask.extra["reasoning"]["effort"], "ultra", "an effort of tomorrow is kept");
    for key in ["truncation", "background", "prompt", "max_tool_calls", "stream_options", "include"] {
        assert!(ask.extra.contains_key(key), "{key}");
    }
    let roles: Vec<_> = ask.messages.iter().map(|message| message.role).collect();
    let (user, assistant) = (Role::User, Role::Assistant);
    assert_eq!(roles, [user, assistant, Role::System, assistant, user, user]);
    let written = encoded(&ask);
    let input = written["input"].as_array().expect("items");
    let kinds: Vec<_> = input
        .iter()
        .map(|item| (item["type"].as_str().unwrap_or(""), item["role"].as_str().unwrap_or(""), item["id"].as_str()))
        .collect();
    assert_eq!(
        kinds,
        [
            ("message", "system", None),
            ("message", "user", None),
            ("message", "assistant", Some("msg_own1")),
            ("message", "assistant", Some("msg_own2")),
            ("message", "developer", None),
            ("item_reference", "", Some("rs_stored")),
            ("function_call", "", Some("fc_own")),
            ("function_call_output", "", Some("fco_1")),
            ("message", "user", None)
        ]
    );
    let sent = json(&fixture("ask_everything.json"));
    assert_eq!(input[1]["content"], sent["input"][1]["content"]);
    assert_eq!(input[2]["phase"], "commentary");
    for key in
        ["text", "reasoning", "include", "tool_choice", "prompt", "temperature", "metadata", "user", "truncation"]
    {
        assert_eq!(written[key], sent[key], "{key}");
    }
    let hosted = encoded(&ask_of(&fixture("ask_hosted_choice.json")));
    assert_eq!(hosted["tool_choice"], json!({"type": "file_search"}));
    assert_eq!((&hosted["safety_identifier"], hosted.get("user")), (&json!("hash-1"), None));
}

#[test]
fn a_bad_ask_names_its_field() {
    for (body, param) in [
        (r#"{"input":"x"}"#, "model"),
        (r#"{"model":"m"}"#, "input"),
        (r#"{"model":"m","input":7}"#, "input"),
        (r#"{"model":"m","input":["x"]}"#, "input[0]"),
        (r#"{"model":"m","input":[{"content":"x"}]}"#, "input[0]"),
        (r#"{"model":"m","input":"x","temperature":"hot"}"#, "temperature"),
        (r#"{"model":"m","input":"x","max_output_tokens":-1}"#, "max_output_tokens"),
        (r#"{"model":"m","input":"x","stream":"yes"}"#, "stream"),
        (r#"{"model":"m","input":"x","tools":{}}"#, "tools"),
        (r#"{"model":"m","input":"x","tools":[{"type":"function"}]}"#, "tools[0].name"),
        (r#"{"model":"m","input":"x","tools":[{"name":"f"}]}"#, "tools[0].type"),
        (r#"{"model":"m","input":"x","tool_choice":"maybe"}"#, "tool_choice"),
        (r#"{"model":"m","input":"x","text":{"format":{"type":"json_schema","name":"n"}}}"#, "text.format.schema"),
        (r#"{"model":"m","input":"x","reasoning":"high"}"#, "reasoning"),
    ] {
        let raw = RawAsk { op: Op::Generate, body: body.as_bytes(), model: None, stream: false };
        let fault = OpenAiResponses.decode_ask(&raw).expect_err(body);
        assert_eq!((fault.kind, fault.param.as_deref()), (Kind::InvalidRequest, Some(param)), "{body}");
    }
    let raw = RawAsk { op: Op::Generate, body: b"[]", model: None, stream: false };
    assert_eq!(OpenAiResponses.decode_ask(&raw).expect_err("no object").kind, Kind::InvalidJson);
}

fn foreign() -> Ask {
    let call = ToolCall { id: "toolu_1".into(), name: "look".into(), arguments: String::new(), ..ToolCall::default() };
    let result = ToolResult {
        id: "toolu_1".into(),
        content: vec![Block::text("a"), Block::text("b")],
        is_error: Some(true),
        ..ToolResult::default()
    };
    let thought = |encrypted: &str| {
        let reasoning = Reasoning { text: "Hm.".into(), signature: Some(encrypted.into()), ..Reasoning::default() };
        Block::new(Content::Reasoning(reasoning))
    };
    let mut cached = Block::text("Be kind.");
    cached.cache = Some(CacheMark::default());
    Ask {
        source: "anthropic",
        system: vec![cached, Block::text("Be brief.")],
        messages: vec![
            Message::new(Role::User, vec![Block::text("Look.")]),
            Message::new(
                Role::Assistant,
                vec![
                    thought("portcullis.openai_responses.gAAA.x"),
                    thought("anthropics-own"),
                    Block::text("Looking."),
                    Block::new(Content::ToolCall(call)),
                ],
            ),
            Message::new(Role::User, vec![Block::new(Content::ToolResult(result)), Block::text("And?")]),
        ],
        tools: vec![
            Tool::Function {
                name: "look".into(),
                description: None,
                parameters: None,
                strict: None,
                cache: None,
                extra: Default::default(),
            },
            Tool::Hosted(json!({"type": "web_search_20250305", "name": "web_search"})),
        ],
        tool_choice: Some(ToolChoice::Named("look".into())),
        max_tokens: Some(5),
        stop: vec!["END".into()],
        top_k: Some(5.into()),
        reasoning: Some(ReasoningAsk { budget: Some(2048), include: Some(true), ..ReasoningAsk::default() }),
        stream: true,
        ..Ask::default()
    }
}

#[test]
fn a_foreign_ask_is_said_in_this_form() {
    let mut to = Encoding::new("gpt-5", &Quirks::NONE);
    let out = json(&OpenAiResponses.encode_ask(&foreign(), &mut to).expect("encodes"));
    assert_eq!(out["instructions"], "Be kind.\n\nBe brief.");
    assert_eq!(
        out["input"],
        json!([
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Look."}]},
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm."}], "encrypted_content": "gAAA.x"},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Looking.", "annotations": []}]},
            {"type": "function_call", "call_id": "toolu_1", "name": "look", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "toolu_1", "output": "The tool failed:\na\nb"},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "And?"}]},
        ])
    );
    assert_eq!(
        out["tools"],
        json!([{"type": "function", "name": "look", "parameters": {"type": "object", "properties": {}}, "strict": false}])
    );
    assert_eq!(out["tool_choice"], json!({"type": "function", "name": "look"}));
    assert_eq!(out["max_output_tokens"], 16);
    assert_eq!(out["reasoning"]["summary"], "auto");
    assert_eq!((&out["store"], &out["stream"]), (&json!(false), &json!(true)));
    assert_eq!(out["include"], json!(["reasoning.encrypted_content"]));
    let dropped: Vec<_> = to.dropped.iter().map(|(field, _)| *field).collect();
    for field in ["stop", "top_k", "tools", "messages.reasoning"] {
        assert!(dropped.contains(&field), "{field} in {dropped:?}");
    }
}

#[test]
fn models_that_do_not_reason_are_not_asked_for_reasoning() {
    let ask = Ask { reasoning: None, ..foreign() };
    for (model, wanted) in [
        ("gpt-4o", false),
        ("gpt-4.1-mini", false),
        ("gpt-5-chat-latest", false),
        ("gpt-5.1-codex", true),
        ("gpt-12", true),
        ("o4-mini", true),
        ("openai/gpt-oss-120b", true),
        ("qwen3", false),
    ] {
        let mut to = Encoding::new(model, &Quirks::NONE);
        let out = json(&OpenAiResponses.encode_ask(&ask, &mut to).expect("encodes"));
        assert_eq!(out.get("include").is_some(), wanted, "{model}");
    }
}

#[test]
fn what_must_not_be_ignored_is_refused() {
    for ask in [Ask { n: Some(2), ..foreign() }, Ask { modalities: vec!["audio".into()], ..foreign() }] {
        let fault = OpenAiResponses.encode_ask(&ask, &mut Encoding::new("m", &Quirks::NONE)).expect_err("refused");
        assert_eq!(fault.kind, Kind::UnsupportedFeature);
    }
    let voiced = Ask { audio: Some(json!({"voice": "alloy"})), modalities: vec!["text".into()], ..foreign() };
    let mut to = Encoding::new("m", &Quirks::NONE);
    assert!(OpenAiResponses.encode_ask(&voiced, &mut to).is_ok(), "a voice alone asks for no speech");
    assert!(to.dropped.iter().any(|(field, _)| *field == "audio"));
    assert!(
        OpenAiResponses.encode_ask(&Ask { n: Some(1), ..foreign() }, &mut Encoding::new("m", &Quirks::NONE)).is_ok()
    );
}

#[test]
fn a_json_object_is_asked_for_where_the_provider_looks_for_the_word() {
    let ask = Ask { output: Some(OutputFormat::JsonObject), ..foreign() };
    let out = encoded(&ask);
    assert_eq!(out.get("instructions"), None);
    assert_eq!(out["input"][0]["role"], "system");
    assert_eq!(out["text"]["format"]["type"], "json_object");
    let last = &out["input"][0]["content"][2]["text"];
    assert!(last.as_str().is_some_and(|text| text.starts_with("Answer with one JSON object")), "{out}");
    let mut said = ask;
    said.system[0] = Block::text("Reply in JSON.");
    assert_eq!(encoded(&said)["input"][0]["content"].as_array().map(Vec::len), Some(2), "it is said already");
}

#[test]
fn instructions_alone_become_the_input() {
    let out = encoded(&Ask { messages: Vec::new(), ..foreign() });
    assert_eq!(out.get("instructions"), None);
    let texts: Vec<_> =
        out["input"][0]["content"].as_array().expect("parts").iter().map(|part| &part["text"]).collect();
    assert_eq!(out["input"][0]["role"], "system");
    assert_eq!(texts, ["Be kind.", "Be brief."]);
}

#[test]
fn a_provider_is_not_sent_what_it_refuses() {
    let quirks = Quirks { refuses: &["store", "include"], ..Quirks::NONE };
    let mut to = Encoding::new("gpt-5", &quirks);
    let out = json(&OpenAiResponses.encode_ask(&foreign(), &mut to).expect("encodes"));
    assert!(out.get("store").is_none() && out.get("include").is_none());
    assert!(to.dropped.iter().any(|(field, _)| *field == "store"));
}

#[test]
fn a_relayed_body_changes_its_model_only() {
    let body = Bytes::from_static(b"{ \"input\":[1.50e1], \"model\" : \"a\",\"odd\":\"\xc3\xbc\"}");
    let mut envelope = Envelope::read(body).expect("an object");
    OpenAiResponses.splice(&mut envelope, "b/c", &Quirks::NONE);
    let out = String::from_utf8(envelope.pieces().concat()).expect("UTF-8");
    assert_eq!(out, "{ \"input\":[1.50e1], \"model\" : \"b/c\",\"odd\":\"ü\"}");
    assert_eq!(OpenAiResponses.path(Op::Generate, "m", true).as_deref(), Some("/responses"));
    assert_eq!(OpenAiResponses.path(Op::CountTokens, "m", false).as_deref(), Some("/responses/input_tokens"));
    assert_eq!(OpenAiResponses.path(Op::Embed, "m", false), None);
}

#[test]
fn tools_that_come_in_the_conversation_are_tools_for_others_and_stay_items_here() {
    let body = json!({"model": "m", "tools": [{"type": "function", "name": "load", "parameters": null}], "input": [
        {"role": "user", "content": "Refund me."},
        {"type": "additional_tools", "role": "developer", "tools": [
            {"type": "function", "name": "load", "parameters": null},
            {"type": "function", "name": "refund", "description": "Pays back.", "parameters": {"type": "object"}},
            {"type": "web_search"}]},
        {"type": "tool_search_output", "call_id": "c", "tools": [
            {"type": "namespace", "name": "shop", "description": "d", "tools": [{"type": "function", "name": "find"}]}]},
    ]});
    let mut ask = ask_of(body.to_string().as_bytes());
    let names = ask.tools.iter().map(|tool| match tool {
        Tool::Function { name, .. } => name.as_str(),
        other => panic!("{other:?}"),
    });
    assert_eq!(names.collect::<Vec<_>>(), ["load", "refund", "shop__find"]);
    let own = encoded(&ask);
    assert_eq!(own["tools"].as_array().map(Vec::len), Some(1));
    assert_eq!(own["input"][1]["tools"], body["input"][1]["tools"]);
    ask.source = "elsewhere";
    assert_eq!(encoded(&ask)["tools"].as_array().map(Vec::len), Some(3));
}

#[test]
fn a_loaded_function_that_is_its_own_namespace_is_called_by_its_name() {
    let call =
        json!({"type": "function_call", "call_id": "c", "name": "refund", "namespace": "refund", "arguments": "{}"});
    let body = json!({"model": "m", "input": [
        {"type": "additional_tools", "role": "developer", "tools": [{"type": "function", "name": "refund"}]},
        call, {"type": "function_call_output", "call_id": "c", "output": "done"}]});
    let ask = ask_of(body.to_string().as_bytes());
    let calls = ask.messages.iter().flat_map(|message| &message.blocks).find_map(|block| match &block.content {
        Content::ToolCall(call) => Some(call.name.as_str()),
        _ => None,
    });
    assert_eq!(calls, Some("refund"));
    assert_eq!(encoded(&ask)["input"][1], call);
}

#[test]
fn what_only_the_provider_keeps_is_named() {
    for (field, value) in [("conversation", json!("conv_1")), ("prompt", json!({"id": "pmpt_1"}))] {
        let ask = ask_of(json!({"model": "m", field: value, "input": "x"}).to_string().as_bytes());
        assert_eq!(ask.kept_elsewhere(), Some(field));
        assert_eq!(encoded(&ask)[field], value);
    }
    let ask = ask_of(br#"{"model":"m","conversation":null,"input":"x"}"#);
    assert_eq!(ask.kept_elsewhere(), None);
}

fn sent(ask: &Ask, model: &str) -> (Value, Vec<&'static str>) {
    let mut to = Encoding::new(model, &Quirks::NONE);
    let body = json(&OpenAiResponses.encode_ask(ask, &mut to).expect("encodes"));
    (body, to.dropped.into_iter().map(|(field, _)| field).collect())
}

#[test]
fn effort_is_told_in_the_words_of_the_model_and_not_at_all_to_one_that_cannot_reason() {
    let ask = |effort| Ask {
        reasoning: Some(ReasoningAsk { effort: Some(effort), include: Some(true), ..ReasoningAsk::default() }),
        ..foreign()
    };
    for (model, asked, told) in [
        ("gpt-5", Effort::None, "minimal"),
        ("gpt-5.1", Effort::None, "none"),
        ("o4-mini", Effort::Minimal, "low"),
        ("gpt-5.2", Effort::Max, "xhigh"),
        ("my-deployment", Effort::Max, "max"),
    ] {
        let (body, _) = sent(&ask(asked), model);
        assert_eq!(body["reasoning"]["effort"], told, "{model}");
        assert_eq!(body.get("include").is_some(), told != "none", "{model}: it reasons");
    }
    for model in ["gpt-4o", "gpt-4.1", "gpt-5-chat-latest"] {
        let (body, dropped) = sent(&ask(Effort::High), model);
        assert_eq!((body.get("reasoning"), body.get("include")), (None, None), "{model}");
        assert!(dropped.contains(&"reasoning"), "{model}: {dropped:?}");
    }
    let (body, _) = sent(&ask(Effort::High), "grok-4-fast");
    assert_eq!(body["reasoning"], json!({"summary": "auto"}));
    let (body, _) = sent(&Ask { source: NAME, ..ask(Effort::High) }, "gpt-4o");
    assert_eq!(body["reasoning"]["effort"], "high", "its own callers know what they ask for");
}

#[test]
fn reasoning_models_are_not_sent_the_sampling_that_they_refuse() {
    let ask = Ask {
        temperature: serde_json::Number::from_f64(0.2),
        logprobs: Some(true),
        top_logprobs: Some(2),
        reasoning: None,
        ..foreign()
    };
    let (body, dropped) = sent(&ask, "gpt-5");
    assert_eq!((body.get("temperature"), body.get("top_logprobs")), (None, None));
    assert_eq!(body["include"], json!(["reasoning.encrypted_content"]));
    for field in ["temperature", "logprobs", "top_logprobs"] {
        assert!(dropped.contains(&field), "{field} in {dropped:?}");
    }
    let (body, _) = sent(&ask, "gpt-4o");
    assert_eq!((&body["temperature"], &body["include"]), (&json!(0.2), &json!(["message.output_text.logprobs"])));
}

#[test]
fn a_tool_is_strict_only_with_a_schema_that_strict_mode_takes() {
    let mut ask = foreign();
    let Tool::Function { parameters, strict, .. } = &mut ask.tools[0] else { panic!("a function") };
    *strict = Some(true);
    *parameters =
        Some(json!({"type": "object", "properties": {"a": {}}, "required": [], "additionalProperties": false}));
    let (body, dropped) = sent(&ask, "gpt-5");
    assert_eq!((&body["tools"][0]["strict"], dropped.contains(&"tools.strict")), (&json!(false), true));
    let Tool::Function { parameters: Some(parameters), .. } = &mut ask.tools[0] else { panic!("a function") };
    parameters["required"] = json!(["a"]);
    assert_eq!(sent(&ask, "gpt-5").0["tools"][0]["strict"], true);
}

#[test]
fn long_ids_of_calls_are_respelt_alike_in_call_and_result() {
    let long = "toolu_".repeat(20);
    let ask = with_call_id(foreign(), &long);
    let ids = |source| {
        let (body, _) = sent(&Ask { source, ..ask.clone() }, "gpt-5");
        let ids = body["input"].as_array().into_iter().flatten().filter_map(|item| item["call_id"].as_str());
        ids.map(str::to_owned).collect::<Vec<_>>()
    };
    let respelt = ids("anthropic");
    assert_eq!((respelt.len(), respelt[0].len(), &respelt[0]), (2, 21, &respelt[1]));
    assert_eq!(ids(NAME), [long.clone(), long.clone()]);
}
