//! Requests: what is refused by name, how clients' spellings are read, and what a splice leaves alone.

use super::*;
use crate::chat::{Effort, OutputFormat, Role, ToolChoice};
use crate::fault::Kind;

#[test]
fn a_bad_field_is_named() {
    let user = json!([{"role": "user", "content": "x"}]);
    for (body, param) in [
        (json!({"messages": user}), "model"),
        (json!({"model": "m"}), "messages"),
        (json!({"model": "m", "messages": []}), "messages"),
        (json!({"model": "m", "messages": "x"}), "messages"),
        (json!({"model": "m", "messages": ["x"]}), "messages[0]"),
        (json!({"model": "m", "messages": [user[0], {"role": "robot", "content": "x"}]}), "messages[1].role"),
        (json!({"model": "m", "messages": [{"content": "x"}]}), "messages[0].role"),
        (json!({"model": "m", "messages": [{"role": "user"}]}), "messages[0].content"),
        (json!({"model": "m", "messages": [{"role": "user", "content": 5}]}), "messages[0].content"),
        (
            json!({"model": "m", "messages": [{"role": "user", "content": [{"text": "x"}]}]}),
            "messages[0].content[0].type",
        ),
        (
            json!({"model": "m", "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}),
            "messages[0].content[0].image_url.url",
        ),
        (json!({"model": "m", "messages": [{"role": "tool", "content": "x"}]}), "messages[0].tool_call_id"),
        (
            json!({"model": "m", "messages": [{"role": "assistant", "tool_calls": [{"id": "c", "function": {}}]}]}),
            "messages[0].tool_calls[0].function.name",
        ),
        (json!({"model": "m", "messages": user, "tools": [{"type": "function"}]}), "tools[0].function"),
        (json!({"model": "m", "messages": user, "tool_choice": "maybe"}), "tool_choice"),
        (json!({"model": "m", "messages": user, "temperature": "hot"}), "temperature"),
        (json!({"model": "m", "messages": user, "max_tokens": 1.5}), "max_tokens"),
        (json!({"model": "m", "messages": user, "stop": [1]}), "stop"),
        (json!({"model": "m", "messages": user, "stream": "yes"}), "stream"),
        (
            json!({"model": "m", "messages": user, "response_format": {"type": "json_schema"}}),
            "response_format.json_schema",
        ),
    ] {
        let fault = ask_of(&body, Op::Generate).expect_err(&body.to_string());
        assert_eq!((fault.kind, fault.param.as_deref()), (Kind::InvalidRequest, Some(param)), "{body}");
        assert!(fault.message.contains(param), "{}", fault.message);
    }
    let fault = OpenAiChat.decode_ask(&RawAsk { op: Op::Generate, body: b"{", model: None, stream: false });
    assert_eq!(fault.expect_err("refused").kind, Kind::InvalidJson);
}

#[test]
fn null_counts_as_absent() {
    let body = json!({"model": "m", "messages": [{"role": "user", "content": "x", "name": null}], "temperature": null,
        "tools": null, "tool_choice": null, "stop": null, "stream": null, "stream_options": null, "response_format": null,
        "reasoning": null, "metadata": null, "functions": null, "n": null, "max_tokens": null});
    let ask = ask_of(&body, Op::Generate).expect("valid");
    let bare = json!({"model": "m", "messages": [{"role": "user", "content": "x"}]});
    assert_eq!(ask, ask_of(&bare, Op::Generate).expect("valid"));
}

#[test]
fn tool_messages_in_a_row_become_one_turn_of_results() {
    let body = json!({"model": "m", "messages": [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": "", "tool_calls": [
            {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}},
            {"id": "b", "type": "custom", "custom": {"name": "g", "input": "y"}}]},
        {"role": "tool", "tool_call_id": "a", "content": "1"},
        {"role": "tool", "tool_call_id": "b", "content": null},
        {"role": "user", "content": "next"}]});
    let ask = ask_of(&body, Op::Generate).expect("valid");
    let roles: Vec<Role> = ask.messages.iter().map(|message| message.role).collect();
    assert_eq!(roles, [Role::User, Role::Assistant, Role::User, Role::User]);
    assert_eq!(ask.messages[1].blocks.len(), 2, "an empty string beside calls is no block");
    let results: Vec<_> = ask.messages[2]
        .blocks
        .iter()
        .map(|block| match &block.content {
            Content::ToolResult(result) => (result.id.as_str(), result.custom, result.content.len()),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(results, [("a", false, 1), ("b", true, 0)]);
}

#[test]
fn every_spelling_of_reasoning_is_understood() {
    let read = |extra: Value| {
        let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "x"}]});
        body.as_object_mut().expect("object").extend(extra.as_object().cloned().expect("object"));
        let ask = ask_of(&body, Op::Generate).expect("valid");
        assert!(ask.extra.is_empty(), "{:?}", ask.extra);
        ask.reasoning.map(|asked| (asked.effort, asked.budget, asked.adaptive, asked.include))
    };
    let effort = |effort| Some((Some(effort), None, false, None));
    assert_eq!(read(json!({"reasoning_effort": "xhigh"})), effort(Effort::Xhigh));
    assert_eq!(
        read(json!({"reasoning": {"effort": "low", "exclude": true}})),
        Some((Some(Effort::Low), None, false, Some(false)))
    );
    assert_eq!(read(json!({"reasoning": {"max_tokens": 2000}})), Some((None, Some(2000), false, None)));
    assert_eq!(read(json!({"reasoning": {"enabled": true}})), Some((None, None, true, None)));
    assert_eq!(read(json!({"reasoning": {"enabled": false}})), effort(Effort::None));
    assert_eq!(read(json!({"thinking": {"type": "disabled"}})), effort(Effort::None));
    assert_eq!(read(json!({"thinking": {"type": "enabled"}})), Some((None, None, true, None)));
    assert_eq!(
        read(json!({"thinking": {"type": "enabled", "budget_tokens": 99}})),
        Some((None, Some(99), false, None))
    );
    assert_eq!(read(json!({"enable_thinking": true, "thinking_budget": 5})), Some((None, Some(5), true, None)));
    assert_eq!(read(json!({})), None);
}

#[test]
fn choices_of_tools_are_read_in_every_form() {
    let read = |choice: Value| {
        let body = json!({"model": "m", "messages": [{"role": "user", "content": "x"}], "tool_choice": choice});
        ask_of(&body, Op::Generate).expect("valid").tool_choice.expect("a choice")
    };
    assert_eq!(read(json!("auto")), ToolChoice::Auto);
    assert_eq!(read(json!("none")), ToolChoice::None);
    assert_eq!(read(json!("any")), ToolChoice::Required);
    assert_eq!(read(json!({"type": "auto"})), ToolChoice::Auto);
    let named = ToolChoice::Named("f".into());
    assert_eq!(read(json!({"type": "function", "function": {"name": "f"}})), named);
    assert_eq!(read(json!({"type": "function", "name": "f"})), named);
    assert_eq!(read(json!({"type": "custom", "custom": {"name": "f"}})), named);
    let allowed = json!({"type": "allowed_tools", "allowed_tools": {"mode": "required",
        "tools": [{"type": "function", "function": {"name": "f"}}]}});
    assert_eq!(read(allowed), ToolChoice::Allowed { names: vec!["f".into()], required: true });
}

#[test]
fn formats_of_local_servers_are_kept_or_understood() {
    let read = |format: Value| {
        let body = json!({"model": "m", "messages": [{"role": "user", "content": "x"}], "response_format": format});
        ask_of(&body, Op::Generate).expect("valid")
    };
    let schema = json!({"type": "object"});
    match read(json!({"type": "json_object", "schema": schema})).output {
        Some(OutputFormat::JsonSchema { schema: read, .. }) => assert_eq!(read, schema),
        other => panic!("{other:?}"),
    }
    let grammar = json!({"type": "grammar", "grammar": "root ::= x"});
    let ask = read(grammar.clone());
    assert_eq!((ask.output, ask.extra.get("response_format")), (None, Some(&grammar)));
}

#[test]
fn prompts_of_the_legacy_form_are_one_text_or_refused() {
    let read = |prompt: Value| ask_of(&json!({"model": "m", "prompt": prompt}), Op::Complete);
    for prompt in [json!("Once"), json!(["Once"])] {
        let ask = read(prompt).expect("valid");
        assert_eq!(ask.messages[0].blocks, [Block::text("Once")]);
    }
    for prompt in [json!([1, 2]), json!([[1, 2]]), json!(["a", "b"])] {
        let fault = read(prompt.clone()).expect_err("refused");
        assert_eq!((fault.kind, fault.param.as_deref()), (Kind::UnsupportedFeature, Some("prompt")), "{prompt}");
    }
    assert_eq!(ask_of(&json!({"model": "m"}), Op::Complete).expect_err("refused").kind, Kind::InvalidRequest);
}

fn spliced(body: &str, quirks: &Quirks) -> String {
    let mut envelope = Envelope::read(Bytes::copy_from_slice(body.as_bytes())).expect("an object");
    OpenAiChat.splice(&mut envelope, "up/stream", quirks);
    String::from_utf8(envelope.pieces().concat()).expect("UTF-8")
}

#[test]
fn a_splice_touches_only_the_model_and_the_usage_option() {
    let plain = r#"{ "zeta":1.50e+2, "model" : "a", "messages":[{"role":"user","content":"é\u00e9"}],"big":12345678901234567890 }"#;
    assert_eq!(spliced(plain, &Quirks::NONE), plain.replace("\"a\"", "\"up/stream\""));
    let already = r#"{"model":"a","prompt":"x","stream":true,"stream_options":{ "include_usage" : true,"x":1.0 }}"#;
    assert_eq!(spliced(already, &Quirks::NONE), already.replace("\"a\"", "\"up/stream\""));
    let embed = r#"{"model":"a","input":"x","stream":true}"#;
    assert_eq!(spliced(embed, &Quirks::NONE), embed.replace("\"a\"", "\"up/stream\""));
    let without = Quirks { stream_usage: false, ..Quirks::NONE };
    let streamed = r#"{"model":"a","messages":[],"stream":true}"#;
    assert_eq!(spliced(streamed, &without), streamed.replace("\"a\"", "\"up/stream\""));
}

#[test]
fn usage_is_asked_for_whatever_the_options_say() {
    for (options, kept) in [
        (None, 0),
        (Some("null"), 0),
        (Some("{}"), 0),
        (Some(r#"{"include_usage":false}"#), 0),
        (Some(r#"{"include_usage":null,"include_obfuscation":false}"#), 1),
        (Some(r#"{"a":1.0,"include_usage":true,"b":"}","include_usage":false}"#), 2),
    ] {
        let options = options.map(|text| format!(r#","stream_options":{text}"#)).unwrap_or_default();
        let body = format!(r#"{{"model":"a","messages":[],"stream":true{options}}}"#);
        let after: Value = serde_json::from_str(&spliced(&body, &Quirks::NONE)).expect("JSON");
        let options = after["stream_options"].as_object().expect("options");
        assert_eq!((&options["include_usage"], options.len()), (&json!(true), kept + 1), "{body}");
    }
}

#[test]
fn reasoning_in_turns_goes_only_to_providers_that_know_its_fields() {
    let row = |name: &str| crate::provider::find(name).expect("a row").quirks;
    let told = |body: &Value, quirks: &Quirks| {
        let envelope = Envelope::read(Bytes::from(body.to_string())).expect("an object");
        OpenAiChat.holds_foreign(&envelope, quirks).then(|| {
            let ask = ask_of(body, Op::Generate).expect("reads");
            let written = OpenAiChat.encode_ask(&ask, &mut Encoding::new("m", quirks)).expect("writes");
            serde_json::from_slice::<Value>(&written).expect("JSON")["messages"].clone()
        })
    };
    let call = json!({"id": "call00001", "type": "function", "function": {"name": "f", "arguments": "{}"}});
    let body = |thoughts: Value, sealed: Value| {
        let mut turn = json!({"role": "assistant", "content": "Let me see.", "tool_calls": [call]});
        turn.as_object_mut().expect("a turn").extend(thoughts.as_object().expect("fields").clone());
        turn["tool_calls"][0].as_object_mut().expect("a call").extend(sealed.as_object().expect("fields").clone());
        let result = json!({"role": "tool", "tool_call_id": "call00001", "content": "\"reasoning\": 1"});
        json!({"model": "a", "messages": [{"role": "user", "content": "reasoning"}, turn, result]})
    };
    let plain = body(json!({}), json!({}));
    let signed = json!({"extra_content": {"google": {"thought_signature": "c2ln"}}});
    for (thoughts, sealed) in [
        (json!({"reasoning_content": "Hm."}), json!({})),
        (json!({"reasoning_content": null}), json!({})),
        (json!({"reasoning_content": "Hm.", "reasoning": "Hm."}), signed.clone()),
        (json!({"reasoning_details": [{"type": "reasoning.text", "text": "Hm.", "signature": "SIGOR=="}]}), json!({})),
        (json!({"reasoning_details": [{"type": "reasoning.odd"}]}), json!({})),
        (json!({}), signed.clone()),
        (signed, json!({})),
    ] {
        let body = body(thoughts, sealed);
        for name in ["openai", "azure", "azure_v1", "groq", "cerebras", "mistral"] {
            assert_eq!(told(&body, &row(name)).as_ref(), Some(&plain["messages"]), "{name}: {body}");
        }
        for name in ["deepseek", "openrouter", "vllm", "mock"] {
            assert_eq!(told(&body, &row(name)), None, "{name}: {body}");
        }
        assert_eq!(told(&body, &Quirks::NONE), None, "{body}");
    }
    let bare = body(json!({"reasoning": "Hm."}), json!({}));
    assert!(told(&bare, &row("mistral")).is_some());
    assert_eq!(told(&bare, &row("groq")), None, "it shows reasoning under this name itself");
    let mut asks = plain.clone();
    asks["reasoning"] = json!({"effort": "low"});
    for body in [&plain, &asks] {
        assert_eq!(told(body, &row("openai")), None, "nothing in its turns is foreign: {body}");
    }
}
