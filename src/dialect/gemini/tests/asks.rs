//! Asks, read and written.

use serde_json::json as value;

use super::*;
use crate::chat::reasoning::seal;
use crate::chat::{
    CacheMark, Effort, Media, Message, OutputFormat, Reasoning, ReasoningAsk, Role, Tool, ToolCall, ToolChoice,
    ToolResult,
};
use crate::dialect::gemini::call_id;
use crate::fault::Kind;

const SIGNATURE: &str = "CiQBcsjafM8h2Xw/9Q+zLk0mVbA==";

#[test]
fn a_full_ask_is_read() {
    let ask = decoded(Op::Generate, &fixture("ask_full.json"));
    assert_eq!(ask.model, "gemini-2.5-flash");
    assert_eq!(shape(&ask.system), ["text Be brief."]);
    let roles: Vec<Role> = ask.messages.iter().map(|message| message.role).collect();
    assert_eq!(roles, [Role::User, Role::Assistant, Role::User, Role::Assistant, Role::User]);
    assert_eq!(shape(&ask.messages[0].blocks), ["text What is this?", "image", "file", "audio wav"]);
    let Content::Image { source: Media::Inline { data, .. }, .. } = &ask.messages[0].blocks[1].content else {
        panic!("an image")
    };
    assert_eq!(data, "/9j/4AAQ+A==", "other providers know only the standard alphabet");
    let model = shape(&ask.messages[1].blocks);
    assert_eq!(model[0], format!("reasoning I think. {SIGNATURE}"));
    assert_eq!(model[1], "text Let me check.", "what was streamed in pieces is one text");
    let calls: Vec<&ToolCall> = ask.messages[1].blocks[2..]
        .iter()
        .map(|block| match &block.content {
            Content::ToolCall(call) => call,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!((calls[0].id.as_str(), calls[0].signature.as_deref()), ("c1", Some(SIGNATURE)));
    let results: Vec<&ToolResult> = ask.messages[2]
        .blocks
        .iter()
        .map(|block| match &block.content {
            Content::ToolResult(result) => result,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!((results[0].id.as_str(), results[0].is_error), ("c1", None));
    assert_eq!((results[1].id.as_str(), results[1].is_error), (calls[1].id.as_str(), Some(true)));
    assert_eq!(shape(&results[0].content), ["text a cat"]);
    assert_eq!(shape(&ask.messages[3].blocks), [format!("reasoning  {SIGNATURE}"), "text A cat.".to_owned()]);
}

#[test]
fn parameters_of_a_full_ask_are_read() {
    let ask = decoded(Op::Generate, &fixture("ask_full.json"));
    assert_eq!(ask.tools.len(), 4);
    let Tool::Function { parameters: Some(parameters), .. } = &ask.tools[0] else { panic!("a function") };
    assert_eq!(parameters["properties"]["deep"]["type"], "boolean");
    assert_eq!(ask.tools[2], Tool::Hosted(value!({"googleSearch": {}})));
    let names = vec!["look".to_owned(), "paint".to_owned()];
    assert_eq!(ask.tool_choice, Some(ToolChoice::Allowed { names, required: true }));
    assert_eq!((ask.n, ask.max_tokens, ask.top_logprobs, ask.logprobs), (Some(2), Some(1000), Some(3), Some(true)));
    assert_eq!(ask.stop, ["END"]);
    let Some(OutputFormat::JsonSchema { name, schema, .. }) = &ask.output else { panic!("a schema") };
    assert_eq!((name.as_str(), &schema["properties"]["name"]["type"]), ("Colour", &value!(["string", "null"])));
    let reasoning = ask.reasoning.as_ref().expect("reasoning");
    assert_eq!((reasoning.budget, reasoning.include), (Some(2048), Some(true)));
    for name in ["safetySettings", "cachedContent", "labels", "generationConfig", "toolConfig"] {
        assert!(ask.extra.contains_key(name), "{name}");
    }
    assert_eq!(ask.extra["generationConfig"], value!({"mediaResolution": "MEDIA_RESOLUTION_LOW"}));
}

#[test]
fn snake_case_is_read_like_camel_case_and_the_callers_own_keys_are_left_alone() {
    let ask = decoded(Op::Generate, &fixture("ask_snake.json"));
    assert_eq!(shape(&ask.system), ["text Be brief."]);
    assert_eq!(shape(&ask.messages[0].blocks), ["image", "text ?"]);
    assert_eq!(shape(&ask.messages[1].blocks), [r#"call f {"snake_case_key":1}"#]);
    let Content::ToolResult(result) = &ask.messages[2].blocks[0].content else { panic!("a result") };
    assert_eq!(shape(&result.content), [r#"text {"some_key":[1,2]}"#]);
    let Tool::Function { parameters: Some(parameters), .. } = &ask.tools[0] else { panic!("a function") };
    assert_eq!(parameters["properties"]["snake_case_key"], value!({"type": "integer", "minLength": 1}));
    assert_eq!(ask.tool_choice, Some(ToolChoice::Named("f".into())));
    assert_eq!((ask.max_tokens, ask.stop.len(), &ask.output), (Some(64), 2, &Some(OutputFormat::JsonObject)));
    assert!(ask.reasoning.as_ref().is_some_and(|asked| asked.adaptive && asked.include == Some(false)));
    assert!(!ask.extra.contains_key("cachedContent"), "null is absent");
}

#[test]
fn wrappings_of_plain_answers_are_undone_and_objects_stay() {
    for (response, text) in [
        (value!({"result": "sunny"}), "sunny"),
        (value!({"output": "sunny"}), "sunny"),
        (value!({"name": "f", "content": "sunny"}), "sunny"),
        (value!({"name": "f", "content": {"t": 20}}), r#"{"t":20}"#),
        (value!({"name": "other", "content": "x"}), r#"{"name":"other","content":"x"}"#),
        (value!({"result": 20}), r#"{"result":20}"#),
        (value!({"result": "{}"}), r#"{"result":"{}"}"#),
    ] {
        let part = value!({"functionResponse": {"name": "f", "response": response}});
        let ask = decoded(Op::Generate, value!({"contents": [{"parts": [part]}]}).to_string().as_bytes());
        let Content::ToolResult(result) = &ask.messages[0].blocks[0].content else { panic!("a result") };
        assert_eq!(shape(&result.content), [format!("text {text}")]);
    }
}

#[test]
fn an_ask_is_the_same_after_a_round_trip() {
    for name in ["ask_full.json", "ask_snake.json"] {
        let first = decoded(Op::Generate, &fixture(name));
        let (body, dropped) = encoded(&first, "gemini-2.5-flash");
        assert_eq!(dropped, Vec::<&str>::new(), "{name}");
        let again = decoded(Op::Generate, body.to_string().as_bytes());
        // A `const` becomes an `enum` of one on the way; everything else is what it was.
        let same =
            |ask: &Ask| format!("{ask:?}").replace(r#"{"type": String("string"), "enum": Array [String("red")]}"#, "");
        let expected = format!("{first:?}").replace(r#"{"const": String("red")}"#, "");
        assert_eq!(same(&again), expected, "{name}");
    }
}

#[test]
fn what_is_no_ask_is_refused_by_field() {
    for (body, param) in [
        ("{}", "contents"),
        (r#"{"contents":[]}"#, "contents"),
        (r#"{"contents":[{"role":"user","parts":[]}]}"#, "contents"),
        (r#"{"contents":["x"]}"#, "contents[0]"),
        (r#"{"contents":[{"role":"assistant","parts":[{"text":"x"}]}]}"#, "contents[0].role"),
        (r#"{"contents":[{"parts":["x"]}]}"#, "contents[0].parts[0]"),
        (r#"{"contents":[{"parts":[{"text":"x"}]}],"tools":[1]}"#, "tools[0]"),
        (r#"{"contents":[{"parts":[{"text":"x"}]}],"generationConfig":1}"#, "generationConfig"),
    ] {
        let raw = RawAsk { op: Op::Generate, body: body.as_bytes(), model: Some("m"), stream: false };
        let fault = Gemini.decode_ask(&raw).expect_err(body);
        assert_eq!((fault.kind, fault.param.as_deref()), (Kind::InvalidRequest, Some(param)), "{body}");
    }
    for body in ["", "[]", "{", "x"] {
        let raw = RawAsk { op: Op::Generate, body: body.as_bytes(), model: Some("m"), stream: false };
        assert_eq!(Gemini.decode_ask(&raw).expect_err(body).kind, Kind::InvalidJson, "{body}");
    }
}

fn foreign(messages: Vec<Message>) -> Ask {
    Ask { model: "alias".into(), messages, source: "openai_chat", ..Ask::default() }
}

fn call(id: &str, name: &str, arguments: &str) -> Block {
    let call = ToolCall { id: id.into(), name: name.into(), arguments: arguments.into(), ..ToolCall::default() };
    Block::new(Content::ToolCall(call))
}

fn result(id: &str, text: &str) -> Block {
    let content = vec![Block::text(text)];
    Block::new(Content::ToolResult(ToolResult { id: id.into(), content, ..ToolResult::default() }))
}

#[test]
fn parallel_results_share_one_turn_and_find_their_functions_names() {
    let ask = foreign(vec![
        Message::new(Role::User, vec![Block::text("go")]),
        Message::new(Role::Assistant, vec![call("call_1", "f", "{\"a\":1}"), call("call_2", "g", "")]),
        Message::new(Role::User, vec![result("call_2", "plain")]),
        Message::new(Role::User, vec![Block::text("and?"), result("call_1", "{\"ok\":true}")]),
        Message::new(Role::System, vec![Block::text("Hurry.")]),
    ]);
    let (body, _) = encoded(&ask, "gemini-2.5-flash");
    assert_eq!(
        body["contents"],
        value!([
            {"role": "user", "parts": [{"text": "go"}]},
            {"role": "model", "parts": [
                {"functionCall": {"id": "call_1", "name": "f", "args": {"a": 1}}},
                {"functionCall": {"id": "call_2", "name": "g", "args": {}}},
            ]},
            {"role": "user", "parts": [
                {"functionResponse": {"id": "call_1", "name": "f", "response": {"ok": true}}},
                {"functionResponse": {"id": "call_2", "name": "g", "response": {"result": "plain"}}},
                {"text": "and?"},
                {"text": "Hurry."},
            ]},
        ])
    );
}

/// Clients of every other dialect, who all match results by id and are free in their order.
#[test]
fn results_go_out_in_the_order_of_their_calls_one_for_each() {
    let ids = [call_id::make(&["resp"], 0), call_id::make(&["resp"], 1)];
    let [one, two] = &ids;
    let chat = |results: &[(&String, &str)]| {
        let results = results.iter().map(|(id, text)| value!({"role": "tool", "tool_call_id": id, "content": text}));
        let call = |id: &String| value!({"id": id, "type": "function", "function": {"name": "w", "arguments": "{}"}});
        let mut messages = vec![
            value!({"role": "user", "content": "x"}),
            value!({"role": "assistant", "tool_calls": [call(one), call(two)]}),
        ];
        messages.extend(results);
        ("openai_chat", value!({"model": "m", "messages": messages}))
    };
    let responses = |results: &[(&String, &str)]| {
        let results =
            results.iter().map(|(id, text)| value!({"type": "function_call_output", "call_id": id, "output": text}));
        let call = |id: &String| value!({"type": "function_call", "call_id": id, "name": "w", "arguments": "{}"});
        let input: Vec<Value> =
            [value!({"role": "user", "content": "x"}), call(one), call(two)].into_iter().chain(results).collect();
        ("openai_responses", value!({"model": "m", "input": input}))
    };
    let claude = |results: &[(&String, &str)]| {
        let results =
            results.iter().map(|(id, text)| value!({"type": "tool_result", "tool_use_id": id, "content": text}));
        let call = |id: &String| value!({"type": "tool_use", "id": id, "name": "w", "input": {}});
        (
            "anthropic",
            value!({"model": "m", "max_tokens": 9, "messages": [
                {"role": "user", "content": "x"},
                {"role": "assistant", "content": [call(one), call(two)]},
                {"role": "user", "content": results.collect::<Vec<_>>()},
            ]}),
        )
    };
    let said = |(source, body): (&str, Value)| -> Vec<String> {
        let body = body.to_string();
        let raw = RawAsk { op: Op::Generate, body: body.as_bytes(), model: None, stream: false };
        let ask = crate::dialect::find(source).expect("built in").decode_ask(&raw).expect("decodes");
        let (body, _) = encoded(&ask, "gemini-2.5-flash");
        let parts = body["contents"][2]["parts"].as_array().expect("parts").iter();
        parts.map(|part| part["functionResponse"]["response"].to_string()).collect()
    };
    let (first, second) = (r#"{"result":"one"}"#, r#"{"result":"two"}"#);
    let none = r#"{"error":"There is no result of this call."}"#;
    for form in [&chat as &dyn Fn(&[(&String, &str)]) -> (&'static str, Value), &responses, &claude] {
        assert_eq!(said(form(&[(two, "two"), (one, "one")])), [first, second]);
        assert_eq!(said(form(&[(two, "two")])), [none, second]);
        assert_eq!(said(form(&[(one, "one")])), [first, none]);
    }
}

#[test]
fn made_up_ids_are_not_sent_and_foreign_opaque_data_neither() {
    let signed = |held: &str| {
        let mut block = call("call_gm0123456789abcdef_0", "f", "{}");
        if let Content::ToolCall(call) = &mut block.content {
            call.signature = Some(held.into());
        }
        block
    };
    let reasoning = |origin: &str| {
        let signature = Some("sig".to_owned());
        let reasoning = Reasoning { text: "t".into(), signature, origin: origin.into(), ..Reasoning::default() };
        Block::new(Content::Reasoning(reasoning))
    };
    let ask = foreign(vec![
        Message::new(
            Role::Assistant,
            vec![reasoning("anthropic"), reasoning("gemini"), signed(&seal("gemini", "own"))],
        ),
        Message::new(Role::Assistant, vec![signed("not-ours")]),
    ]);
    let (body, dropped) = encoded(&ask, "gemini-2.5-flash");
    assert_eq!(
        body["contents"][0]["parts"],
        value!([
            {"text": "t", "thought": true, "thoughtSignature": "sig"},
            {"functionCall": {"name": "f", "args": {}}, "thoughtSignature": "own"},
            {"functionCall": {"name": "f", "args": {}}},
        ])
    );
    assert_eq!(dropped, ["messages.reasoning"]);
}

#[test]
fn gemini_3_gets_the_stand_in_for_calls_that_another_model_made() {
    let ask = foreign(vec![
        Message::new(Role::Assistant, vec![call("a", "f", "{}"), call("b", "f", "{}")]),
        Message::new(Role::User, vec![result("a", "1"), result("b", "2")]),
    ]);
    for model in ["gemini-3-pro-preview", "gemini-flash-latest"] {
        let (body, _) = encoded(&ask, model);
        let parts = &body["contents"][0]["parts"];
        assert_eq!(parts[0]["thoughtSignature"], "skip_thought_signature_validator", "{model}");
        assert!(parts[1].get("thoughtSignature").is_none());
    }
    let (body, _) = encoded(&ask, "gemini-2.5-pro");
    assert!(body["contents"][0]["parts"][0].get("thoughtSignature").is_none());
}

#[test]
fn a_jpeg_has_the_name_that_is_a_type() {
    let image = Block::new(Content::Image { source: Media::from_url("data:image/jpg;base64,/9j/"), detail: None });
    let (body, _) = encoded(&foreign(vec![Message::new(Role::User, vec![image])]), "gemini-2.5-flash");
    assert_eq!(body["contents"][0]["parts"], value!([{"inlineData": {"mimeType": "image/jpeg", "data": "/9j/"}}]));
}

#[test]
fn media_of_a_tool_result_ride_inside_it_or_beside_it() {
    let image = Block::new(Content::Image {
        source: Media::Inline { mime: "image/png".into(), data: "iVBO".into() },
        detail: None,
    });
    let content = vec![Block::text("see"), image];
    let shot = ToolResult { id: "c".into(), name: Some("shot".into()), content, is_error: Some(true), custom: false };
    let ask = foreign(vec![Message::new(Role::User, vec![Block::new(Content::ToolResult(shot))])]);
    let picture = value!({"inlineData": {"mimeType": "image/png", "data": "iVBO"}});
    let (body, _) = encoded(&ask, "gemini-3-flash");
    assert_eq!(
        body["contents"][0]["parts"],
        value!([{"functionResponse": {"id": "c", "name": "shot", "response": {"error": "see"}, "parts": [picture]}}])
    );
    let (body, _) = encoded(&ask, "gemini-2.5-flash");
    assert_eq!(body["contents"][0]["parts"][1], picture);
    // Inside there is room for inline data alone.
    let link = Media::Url { url: "https://a.example/b.png".into(), mime: None };
    let content = vec![Block::text("see"), Block::new(Content::Image { source: link, detail: None })];
    let shot = ToolResult { id: "c".into(), name: Some("shot".into()), content, ..ToolResult::default() };
    let ask = foreign(vec![Message::new(Role::User, vec![Block::new(Content::ToolResult(shot))])]);
    let (body, _) = encoded(&ask, "gemini-3-flash");
    let parts = &body["contents"][0]["parts"];
    assert_eq!((parts[0]["functionResponse"].get("parts"), parts[1].get("fileData").is_some()), (None, true), "{body}");
}

#[test]
fn parameters_of_another_dialect_are_translated_or_noted() {
    let mut system = Block::text("Be brief.");
    system.cache = Some(CacheMark::default());
    let schema = value!({"type": "object", "properties": {"a": {"const": 1}}, "$schema": "x"});
    let ask = Ask {
        system: vec![system, Block::text("")],
        tools: vec![
            Tool::Function {
                name: "f".into(),
                description: Some("does".into()),
                parameters: Some(schema.clone()),
                strict: Some(true),
                cache: None,
                extra: crate::chat::Extra::new(),
            },
            Tool::Custom { name: "shell".into(), description: None, format: Some(value!({"type": "grammar"})) },
            Tool::Hosted(value!({"type": "web_search"})),
        ],
        tool_choice: Some(ToolChoice::Allowed { names: vec!["f".into()], required: false }),
        max_tokens: Some(100),
        stop: vec!["x".into()],
        n: Some(2),
        logprobs: Some(true),
        top_logprobs: Some(2),
        logit_bias: Some(value!({"1": 2})),
        parallel_tools: Some(true),
        user: Some("u".into()),
        store: Some(false),
        service_tier: Some("flex".into()),
        modalities: vec!["text".into(), "image".into()],
        output: Some(OutputFormat::JsonSchema { name: "n".into(), description: None, schema, strict: Some(true) }),
        reasoning: Some(ReasoningAsk { effort: Some(Effort::Low), ..ReasoningAsk::default() }),
        ..foreign(vec![Message::new(Role::User, vec![Block::text("hi")])])
    };
    let (body, dropped) = encoded(&ask, "models/gemini-3-flash");
    let sent = value!({"type": "object", "properties": {"a": {"type": "number", "enum": [1]}}});
    assert_eq!(body["systemInstruction"], value!({"parts": [{"text": "Be brief."}]}));
    let declarations = &body["tools"][0]["functionDeclarations"];
    assert_eq!(declarations[0], value!({"name": "f", "description": "does", "parametersJsonSchema": sent}));
    assert_eq!(declarations[1]["parametersJsonSchema"]["required"], value!(["input"]));
    assert_eq!(declarations[1]["description"], "The input must follow this grammar: {\"type\":\"grammar\"}");
    assert_eq!(
        body["toolConfig"],
        value!({"functionCallingConfig": {"mode": "VALIDATED", "allowedFunctionNames": ["f"]}})
    );
    assert_eq!(
        body["generationConfig"],
        value!({"maxOutputTokens": 100, "candidateCount": 2, "responseLogprobs": true, "logprobs": 2,
            "stopSequences": ["x"], "responseModalities": ["TEXT", "IMAGE"], "responseMimeType": "application/json",
            "responseJsonSchema": sent, "thinkingConfig": {"thinkingLevel": "LOW"}})
    );
    assert_eq!(body["serviceTier"], "flex");
    assert!(body.get("stream").is_none() && body.get("model").is_none());
    for field in ["logit_bias", "parallel_tool_calls", "user", "store", "cache_control", "tools"] {
        assert!(dropped.contains(&field), "{field} in {dropped:?}");
    }
}

#[test]
fn what_is_switched_off_by_habit_is_not_sent() {
    let ask = Ask {
        presence_penalty: Some(0.into()),
        frequency_penalty: serde_json::Number::from_f64(0.5),
        logprobs: Some(false),
        top_logprobs: Some(0),
        ..foreign(vec![Message::new(Role::User, vec![Block::text("hi")])])
    };
    let (body, _) = encoded(&ask, "gemini-2.0-flash");
    assert_eq!(body["generationConfig"], value!({"frequencyPenalty": 0.5}));
    for model in ["gemini-2.5-flash", "models/gemini-3-pro-preview"] {
        let (body, dropped) = encoded(&ask, model);
        assert_eq!((body.get("generationConfig"), dropped), (None, vec!["frequency_penalty"]), "{model}");
    }
}

#[test]
fn json_beside_tools_is_asked_for_in_words_up_to_gemini_2() {
    let tool = || Tool::Function {
        name: "f".into(),
        description: None,
        parameters: None,
        strict: None,
        cache: None,
        extra: crate::chat::Extra::new(),
    };
    let schema = value!({"type": "object", "properties": {"a": {"const": 1}}});
    let schema = OutputFormat::JsonSchema { name: "n".into(), description: None, schema, strict: None };
    let ask = |output: OutputFormat| Ask {
        tools: vec![tool()],
        output: Some(output),
        ..foreign(vec![Message::new(Role::User, vec![Block::text("hi")])])
    };
    for (output, words) in [(OutputFormat::JsonObject, "one JSON object"), (schema, r#""a":{"const":1}"#)] {
        for model in ["gemini-2.5-flash", "gemini-2.0-flash-001", "google/gemini-1.5-pro"] {
            let (body, dropped) = encoded(&ask(output.clone()), model);
            let told = body["systemInstruction"]["parts"][0]["text"].as_str().unwrap_or_default();
            assert!(told.contains(words), "{model}: {body}");
            assert_eq!((body.get("generationConfig"), dropped), (None, vec!["response_format"]), "{model}");
        }
        let (body, _) = encoded(&ask(output.clone()), "gemini-3-pro-preview");
        assert_eq!(body["generationConfig"]["responseMimeType"], "application/json");
        let (body, _) = encoded(&Ask { tools: Vec::new(), ..ask(output.clone()) }, "gemini-2.5-flash");
        assert_eq!(body["generationConfig"]["responseMimeType"], "application/json");
        let (body, _) = encoded(&Ask { source: "gemini", ..ask(output) }, "gemini-2.5-flash");
        assert_eq!(body["generationConfig"]["responseMimeType"], "application/json", "its own callers know");
    }
}

#[test]
fn models_that_read_aloud_are_asked_for_sound_alone() {
    let ask = Ask {
        modalities: vec!["text".into(), "audio".into()],
        ..foreign(vec![Message::new(Role::User, vec![Block::text("hi")])])
    };
    let kinds = |model: &str| encoded(&ask, model).0["generationConfig"]["responseModalities"].clone();
    assert_eq!(kinds("gemini-2.5-flash-preview-tts"), value!(["AUDIO"]));
    assert_eq!(kinds("gemini-2.5-flash-native-audio"), value!(["TEXT", "AUDIO"]));
    for mute in ["gemini-2.5-flash", "models/gemini-3-pro-preview"] {
        let fault = Gemini.encode_ask(&ask, &mut Encoding::new(mute, &Quirks::NONE)).expect_err("refused");
        assert_eq!((fault.kind, fault.param.as_deref()), (Kind::UnsupportedFeature, Some("modalities")), "{mute}");
    }
    let own = Ask { source: "gemini", ..ask };
    let (body, _) = encoded(&own, "gemini-2.5-flash");
    assert_eq!(body["generationConfig"]["responseModalities"], value!(["TEXT", "AUDIO"]), "its own callers know");
}

#[test]
fn empty_text_is_never_sent() {
    let ask = Ask {
        system: vec![Block::text("Only me.")],
        ..foreign(vec![Message::new(Role::User, vec![Block::text("")]), Message::new(Role::Assistant, Vec::new())])
    };
    let (body, _) = encoded(&ask, "gemini-2.5-flash");
    assert_eq!(body, value!({"contents": [{"role": "user", "parts": [{"text": "Only me."}]}]}));
}

#[test]
fn what_gemini_cannot_have_is_refused_not_ignored() {
    let file = Content::File { source: Media::Id("file-1".into()), name: None };
    let held = foreign(vec![Message::new(Role::User, vec![Block::new(file)])]);
    let previous = Ask { previous_response: Some("resp_1".into()), ..foreign(Vec::new()) };
    let stops = Ask { stop: (0..6).map(|n| n.to_string()).collect(), ..foreign(Vec::new()) };
    assert!(encoded(&Ask { stop: stops.stop[..5].to_vec(), ..stops.clone() }, "gemini-2.5-flash").1.is_empty());
    for ask in [held, previous, stops] {
        let mut to = Encoding::new("gemini-2.5-flash", &Quirks::NONE);
        assert_eq!(Gemini.encode_ask(&ask, &mut to).expect_err("refused").kind, Kind::UnsupportedFeature);
    }
}

#[test]
fn free_text_and_broken_arguments_become_an_object() {
    let custom = ToolCall { name: "sh".into(), arguments: "ls -l".into(), custom: true, ..ToolCall::default() };
    let ask = foreign(vec![Message::new(
        Role::Assistant,
        vec![
            Block::new(Content::ToolCall(custom)),
            call("x", "f", "{\"cut\":"),
            call("y", "f", "[1]"),
            call("z", "f", "null"),
        ],
    )]);
    let (body, _) = encoded(&ask, "gemini-2.5-flash");
    let args: Vec<Value> = (0..4).map(|at| body["contents"][0]["parts"][at]["functionCall"]["args"].clone()).collect();
    let expected = value!([{"input": "ls -l"}, {"input": "{\"cut\":"}, {"input": "[1]"}, {}]);
    assert_eq!(Value::Array(args), expected);
}

#[test]
fn refused_parameters_of_a_provider_are_left_out() {
    let quirks = Quirks { refuses: &["seed", "serviceTier"], ..Quirks::NONE };
    let ask = Ask {
        seed: Some(3.into()),
        service_tier: Some("flex".into()),
        n: Some(1),
        ..decoded(Op::Generate, br#"{"contents":[{"parts":[{"text":"x"}]}]}"#)
    };
    let mut to = Encoding::new("gemini-2.5-flash", &quirks);
    let body = json(&Gemini.encode_ask(&ask, &mut to).expect("encodes"));
    assert_eq!(body["generationConfig"], value!({"candidateCount": 1}));
    assert!(body.get("serviceTier").is_none());
}

#[test]
fn an_empty_text_beside_instructions_is_a_complete_ask() {
    let ask = decoded(
        Op::Generate,
        br#"{"systemInstruction":{"parts":[{"text":"Tell a joke."}]},"contents":[{"role":"user","parts":[{"text":""}]}]}"#,
    );
    assert!(ask.messages.is_empty() && ask.system.len() == 1);
    let empty =
        RawAsk { op: Op::Generate, body: br#"{"contents":[{"parts":[{"text":""}]}]}"#, model: None, stream: false };
    assert_eq!(Gemini.decode_ask(&empty).expect_err("nothing is asked").kind, Kind::InvalidRequest);
}

#[test]
fn a_call_that_a_caller_kept_in_pieces_is_one_call_again() {
    let body = value!({"contents": [
        {"role": "user", "parts": [{"text": "Dim the kitchen."}]},
        {"role": "model", "parts": [{"function_call": {"name": "dim", "will_continue": true}}]},
        {"role": "model", "parts": [{"function_call": {"will_continue": true, "partial_args": [
            {"json_path": "$.room", "string_value": "kitchen"}]}}]},
        {"role": "model", "parts": [{"function_call": {}}]},
        {"role": "user", "parts": [{"function_response": {"name": "dim", "response": {"result": "done"}}}]},
    ]});
    let ask = decoded(Op::Generate, body.to_string().as_bytes());
    assert_eq!(ask.messages.len(), 3);
    assert_eq!(shape(&ask.messages[1].blocks), [r#"call dim {"room":"kitchen"}"#]);
    let Content::ToolCall(call) = &ask.messages[1].blocks[0].content else { panic!("a call") };
    assert_eq!(shape(&ask.messages[2].blocks), [format!("result {}", call.id)]);
}
