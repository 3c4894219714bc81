//! What comes from other dialects: asks fitted to a target's quirks, answers and streams in OpenAI's words.

use super::*;
use crate::chat::{
    CacheMark, Choice, Delta, Effort, Media, Message, OutputFormat, Reasoning, ReasoningAsk, Role, Start, Tool,
    ToolCall, ToolChoice, ToolResult,
};
use crate::dialect::foreign::tests::with_call_id;
use crate::fault::Kind;

const OPENAI: Quirks = Quirks {
    max_completion_tokens: true,
    verbosity: true,
    prompt_cache_key: true,
    service_tier: true,
    store: true,
    speech: true,
    custom_tools: true,
    developer_role: true,
    ..Quirks::NONE
};

fn foreign() -> Ask {
    let call = ToolCall { id: "toolu_1".into(), name: "f".into(), ..ToolCall::default() };
    let thought = Reasoning { text: "Hm.".into(), signature: Some("EqQB".into()), ..Reasoning::default() };
    let result = ToolResult {
        id: "toolu_1".into(),
        content: vec![Block::new(Content::Image {
            source: Media::Inline { mime: "image/png".into(), data: "iVBO".into() },
            detail: None,
        })],
        is_error: Some(true),
        ..ToolResult::default()
    };
    let marked = Block { cache: Some(CacheMark::default()), ..Block::text("Two.") };
    Ask {
        model: "claude".into(),
        system: vec![Block::text("One."), marked],
        messages: vec![
            Message::new(Role::User, vec![Block::text("go")]),
            Message::new(
                Role::Assistant,
                vec![
                    Block::new(Content::Reasoning(thought)),
                    Block::text("Look"),
                    Block::text("ing."),
                    Block::new(Content::ToolCall(call)),
                ],
            ),
            Message::new(Role::User, vec![Block::text("and?"), Block::new(Content::ToolResult(result))]),
        ],
        max_tokens: Some(100),
        source: "anthropic",
        ..Ask::default()
    }
}

fn written(ask: &Ask, quirks: &Quirks) -> (Value, Vec<&'static str>) {
    written_for("up", ask, quirks)
}

fn written_for(model: &str, ask: &Ask, quirks: &Quirks) -> (Value, Vec<&'static str>) {
    let mut to = Encoding::new(model, quirks);
    let body = OpenAiChat.encode_ask(ask, &mut to).expect("encodes");
    (value(&body), to.dropped.iter().map(|(field, _)| *field).collect())
}

#[test]
fn turns_of_another_dialect_become_messages() {
    let (body, dropped) = written(&foreign(), &OPENAI);
    assert_eq!(
        body,
        json!({"model": "up", "messages": [
            {"role": "developer", "content": "One.\n\nTwo."},
            {"role": "user", "content": "go"},
            {"role": "assistant", "content": "Looking.", "tool_calls": [
                {"id": "toolu_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
            {"role": "tool", "tool_call_id": "toolu_1", "content": "The tool failed:\n\nThe images of this result follow in the next message."},
            {"role": "user", "content": [
                {"type": "text", "text": "The images of the result of call toolu_1 of `f`:"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBO"}},
                {"type": "text", "text": "and?"}]}],
            "max_completion_tokens": 100})
    );
    assert_eq!(dropped, ["cache_control", "messages.reasoning"]);
}

#[test]
fn pieces_of_a_turn_are_one_message_and_what_holds_nothing_is_none() {
    let call =
        |id: &str| Block::new(Content::ToolCall(ToolCall { id: id.into(), name: "f".into(), ..Default::default() }));
    let result = |id: &str| Block::new(Content::ToolResult(ToolResult { id: id.into(), ..ToolResult::default() }));
    let foreign_only = || vec![Block::new(Content::Other(json!({"type": "server_tool_use"})))];
    let ask = Ask {
        messages: vec![
            Message::new(Role::User, vec![Block::text("go")]),
            Message::new(Role::Assistant, vec![call("a")]),
            Message::new(Role::Assistant, vec![call("b")]),
            Message::new(Role::User, vec![result("a"), result("b")]),
            Message::new(Role::Assistant, foreign_only()),
            Message::new(Role::User, foreign_only()),
            Message::new(Role::User, vec![Block::text("on")]),
        ],
        source: "anthropic",
        ..Ask::default()
    };
    let (body, dropped) = written(&ask, &OPENAI);
    let roles: Vec<&str> =
        body["messages"].as_array().into_iter().flatten().filter_map(|m| m["role"].as_str()).collect();
    assert_eq!(roles, ["user", "assistant", "tool", "tool", "user"]);
    assert_eq!(body["messages"][1]["tool_calls"].as_array().map(Vec::len), Some(2));
    assert!(dropped.contains(&"messages.content"));
}

#[test]
fn marks_and_reasoning_go_where_they_are_understood() {
    let quirks = Quirks { cache_control: true, reasoning: ReasoningStyle::Object, ..Quirks::NONE };
    let (body, dropped) = written(&foreign(), &quirks);
    assert_eq!(body["messages"][0]["content"][1]["cache_control"], json!({"type": "ephemeral"}));
    assert_eq!(body["messages"][2]["reasoning"], "Hm.");
    assert_eq!(body["messages"][2].get("reasoning_details"), None, "the signature is Anthropic's");
    assert!(dropped.contains(&"messages.reasoning.signature"));
    let mut ask = foreign();
    if let Content::Reasoning(reasoning) = &mut ask.messages[1].blocks[0].content {
        reasoning.signature = Some("portcullis.openai_chat.anthropic-claude-v1;EqQB".into());
    }
    let (body, _) = written(&ask, &quirks);
    assert_eq!(
        body["messages"][2]["reasoning_details"],
        json!([{"type": "reasoning.text", "text": "Hm.", "signature": "EqQB", "format": "anthropic-claude-v1", "index": 0}])
    );
    let thinking = Quirks { reasoning: ReasoningStyle::Thinking, ..Quirks::NONE };
    assert_eq!(written(&ask, &thinking).0["messages"][2]["reasoning_content"], "Hm.");
}

#[test]
fn turns_without_reasoning_have_a_blank_one_where_they_are_refused_without() {
    let mut ask = foreign();
    let thought = |ask: &Ask, style: ReasoningStyle| {
        let quirks = Quirks { reasoning: style, ..Quirks::NONE };
        written(ask, &quirks).0["messages"][2].get("reasoning_content").cloned()
    };
    assert_eq!(thought(&ask, ReasoningStyle::Thinking), Some(json!("Hm.")));
    ask.messages[1].blocks.remove(0);
    assert_eq!(thought(&ask, ReasoningStyle::Thinking), Some(json!(" ")));
    assert_eq!((thought(&ask, ReasoningStyle::Template), thought(&ask, ReasoningStyle::Effort)), (None, None));
    ask.source = NAME;
    assert_eq!(thought(&ask, ReasoningStyle::Thinking), None);
}

#[test]
fn reasoning_is_asked_for_in_the_targets_way() {
    let ask = |effort: Option<Effort>, budget: Option<u64>| Ask {
        reasoning: Some(ReasoningAsk { effort, budget, adaptive: true, ..ReasoningAsk::default() }),
        ..foreign()
    };
    let style = |style: ReasoningStyle| Quirks { reasoning: style, ..Quirks::NONE };
    let field = |ask: &Ask, quirks: &Quirks, key: &str| written(ask, quirks).0.get(key).cloned();
    let (high, off, auto) = (ask(Some(Effort::Max), None), ask(Some(Effort::None), None), ask(None, None));
    let budget = ask(None, Some(50));
    assert_eq!(field(&high, &style(ReasoningStyle::Effort), "reasoning_effort"), Some(json!("high")));
    assert_eq!(field(&budget, &style(ReasoningStyle::Effort), "reasoning_effort"), Some(json!("medium")));
    assert_eq!(field(&off, &style(ReasoningStyle::Effort), "reasoning_effort"), None);
    assert_eq!(field(&auto, &style(ReasoningStyle::Effort), "reasoning_effort"), None);
    assert_eq!(field(&high, &style(ReasoningStyle::Object), "reasoning"), Some(json!({"effort": "max"})));
    assert_eq!(field(&budget, &style(ReasoningStyle::Object), "reasoning"), Some(json!({"max_tokens": 50})));
    assert_eq!(field(&off, &style(ReasoningStyle::Object), "reasoning"), Some(json!({"enabled": false})));
    assert_eq!(field(&auto, &style(ReasoningStyle::Object), "reasoning"), Some(json!({"enabled": true})));
    assert_eq!(field(&off, &style(ReasoningStyle::Thinking), "thinking"), Some(json!({"type": "disabled"})));
    assert_eq!(
        field(&auto, &style(ReasoningStyle::Template), "chat_template_kwargs"),
        Some(json!({"enable_thinking": true}))
    );
    assert_eq!(field(&budget, &style(ReasoningStyle::Enable), "thinking_budget"), Some(json!(50)));
    let (body, dropped) = written(&high, &style(ReasoningStyle::None));
    assert!(dropped.contains(&"reasoning") && body.as_object().is_some_and(|body| body.len() == 3), "{body}");
}

#[test]
fn what_only_openai_takes_stays_away_from_others() {
    let ask = Ask {
        top_k: Some(5.into()),
        user: Some("u".repeat(150)),
        store: Some(false),
        verbosity: Some("low".into()),
        cache_key: Some("k".into()),
        service_tier: Some("flex".into()),
        metadata: Some(Default::default()),
        parallel_tools: Some(true),
        tool_choice: Some(ToolChoice::Auto),
        stop: vec!["a".into()],
        stream: true,
        ..foreign()
    };
    let keys = |quirks: &Quirks| {
        let body = written(&ask, quirks).0;
        body.as_object().expect("object").keys().cloned().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(keys(&Quirks::NONE), "model messages max_tokens stop top_k stream stream_options user");
    assert_eq!(
        keys(&OPENAI),
        "model messages max_completion_tokens stop stream stream_options verbosity prompt_cache_key service_tier user"
    );
    // As Groq, Cerebras and xAI: the bound is spelt as at OpenAI, and what else OpenAI has is unknown.
    let newer = Quirks { max_completion_tokens: true, ..Quirks::NONE };
    assert_eq!(keys(&newer), "model messages max_completion_tokens stop stream stream_options user");
    let dropped = written(&ask, &newer).1;
    assert!(["verbosity", "prompt_cache_key", "service_tier"].iter().all(|name| dropped.contains(name)), "{dropped:?}");
    let tiered = Quirks { service_tier: true, ..newer };
    assert_eq!(keys(&tiered), "model messages max_completion_tokens stop stream stream_options service_tier user");
    let strict = Quirks { refuses: &["user", "top_k"], stream_usage: false, ..Quirks::NONE };
    assert_eq!(keys(&strict), "model messages max_tokens stop stream");
    assert_eq!(written(&ask, &OPENAI).0["user"].as_str().map(str::len), Some(64));
}

#[test]
fn allowed_tools_become_a_shorter_list_where_the_choice_is_unknown() {
    let tool = |name: &str| Tool::Function {
        name: name.into(),
        description: None,
        parameters: None,
        strict: None,
        cache: None,
        extra: Default::default(),
    };
    let custom = Tool::Custom {
        name: "patch".into(),
        description: None,
        format: Some(json!({"type": "grammar", "syntax": "lark", "definition": "x"})),
    };
    let ask = Ask {
        tools: vec![tool("a"), tool("b"), custom, Tool::Hosted(json!({"type": "web_search"}))],
        tool_choice: Some(ToolChoice::Allowed { names: vec!["b".into(), "patch".into()], required: true }),
        parallel_tools: Some(false),
        ..foreign()
    };
    let (body, _) = written(&ask, &Quirks::NONE);
    let names: Vec<_> = body["tools"].as_array().expect("tools").iter().map(|tool| &tool["function"]["name"]).collect();
    assert_eq!(names, [&json!("b"), &json!("patch")]);
    let disguised = &body["tools"][1]["function"];
    assert_eq!(disguised["parameters"]["required"], json!(["input"]), "disguised as a function");
    assert!(disguised["description"].as_str().is_some_and(|text| text.contains(r#""definition":"x""#)), "{disguised}");
    assert_eq!((&body["tool_choice"], &body["parallel_tool_calls"]), (&json!("required"), &json!(false)));
    let (body, dropped) = written(&ask, &OPENAI);
    assert_eq!(body["tools"][2]["custom"]["format"]["grammar"], json!({"syntax": "lark", "definition": "x"}));
    assert_eq!(
        body["tool_choice"]["allowed_tools"]["tools"][1],
        json!({"type": "custom", "custom": {"name": "patch"}})
    );
    assert!(dropped.contains(&"tools"));
}

#[test]
fn tools_of_free_text_go_to_those_who_know_them_and_to_others_as_functions_with_their_grammar() {
    let format = json!({"type": "grammar", "syntax": "lark", "definition": "start: x"});
    let call = ToolCall { id: "call_1".into(), name: "patch".into(), custom: true, ..ToolCall::default() };
    let ask = Ask {
        tools: vec![Tool::Custom { name: "patch".into(), description: Some("D".into()), format: Some(format) }],
        tool_choice: Some(ToolChoice::Named("patch".into())),
        messages: vec![Message::new(Role::Assistant, vec![Block::new(Content::ToolCall(call))])],
        source: "openai_responses",
        ..Ask::default()
    };
    // As Groq, Cerebras and xAI: the bound is spelt as at OpenAI, and tools are functions.
    let newer = Quirks { max_completion_tokens: true, ..Quirks::NONE };
    for (quirks, knows) in [(OPENAI, true), (newer, false), (Quirks::NONE, false)] {
        let (body, _) = written(&ask, &quirks);
        let kind = if knows { "custom" } else { "function" };
        let call = &body["messages"][0]["tool_calls"][0];
        assert_eq!((&body["tools"][0]["type"], &body["tool_choice"]["type"]), (&json!(kind), &json!(kind)));
        assert_eq!(call["type"], kind);
        let said = body["tools"][0][kind]["description"].as_str().unwrap_or_default();
        assert_eq!((said.starts_with('D'), said.contains("start: x")), (true, !knows), "{said}");
    }
}

#[test]
fn ids_of_calls_are_respelt_for_mistral_alike_in_call_and_result_whether_translated_or_relayed() {
    let quirks = Quirks { short_call_ids: true, ..Quirks::NONE };
    let (body, _) = written(&foreign(), &quirks);
    let messages = body["messages"].as_array().expect("messages");
    let called = messages.iter().find_map(|message| message.get("tool_calls")).expect("a call")[0]["id"].clone();
    let answered = messages.iter().find_map(|message| message.get("tool_call_id")).expect("a result");
    assert_eq!((&called, called.as_str().map(str::len)), (answered, Some(9)));

    let relayed = |body: &str, quirks: &Quirks| {
        let mut envelope = Envelope::read(bytes::Bytes::copy_from_slice(body.as_bytes())).expect("an object");
        OpenAiChat.splice(&mut envelope, "m", quirks);
        String::from_utf8(envelope.pieces().concat()).expect("UTF-8")
    };
    let body = |id: &str, own: &str| {
        format!(
            r#"{{"model":"m","messages":[{{"role":"user","content":"a tool_call", "n": 1.50}},{{ "role":"assistant", "tool_calls":[{{"id":{id},"x": 1e3}},{{"id":"{own}"}}]}},{{"tool_call_id": {id}}},{{"tool_call_id": "{own}"}}], "y": 2.0}}"#
        )
    };
    let (ours, fits) = (body(r#""toolu_1""#, "x7Jk29QpZ"), body(r#""x7Jk29QpA""#, "x7Jk29QpZ"));
    assert_eq!(relayed(&ours, &quirks), body(&called.to_string(), "x7Jk29QpZ"));
    assert_eq!(relayed(&fits, &quirks), fits);
    assert_eq!(relayed(&ours, &Quirks::NONE), ours);
}

#[test]
fn the_assistant_speaks_between_results_and_the_user_where_the_target_wants_it() {
    let roles = |ask: &Ask, quirks: &Quirks| -> Vec<String> {
        let (body, _) = written(ask, quirks);
        let messages = body["messages"].as_array().expect("messages");
        messages.iter().map(|message| message["role"].as_str().expect("a role").to_owned()).collect()
    };
    let quirks = Quirks { assistant_after_tools: true, ..Quirks::NONE };
    assert_eq!(roles(&foreign(), &Quirks::NONE), ["system", "user", "assistant", "tool", "user"]);
    assert_eq!(roles(&foreign(), &quirks), ["system", "user", "assistant", "tool", "assistant", "user"]);
    let mut ask = foreign();
    let last = ask.messages.last_mut().expect("results");
    last.blocks = vec![Block::new(Content::ToolResult(ToolResult { id: "toolu_1".into(), ..ToolResult::default() }))];
    assert_eq!(roles(&ask, &quirks), ["system", "user", "assistant", "tool"]);
    ask.messages.push(Message::new(Role::Assistant, vec![Block::text("Done.")]));
    ask.messages.push(Message::new(Role::User, vec![Block::text("Thanks.")]));
    assert_eq!(roles(&ask, &quirks), roles(&ask, &Quirks::NONE));

    let relayed = |turns: &[&str], quirks: &Quirks| {
        let body = format!(r#"{{"model":"m","messages":[{}],"y":2.0}}"#, turns.join(","));
        let mut envelope = Envelope::read(body.into()).expect("an object");
        OpenAiChat.splice(&mut envelope, "m", quirks);
        String::from_utf8(envelope.pieces().concat()).expect("UTF-8")
    };
    let result = r#"{"role":"tool","tool_call_id":"x7Jk29QpZ", "n": 1.50}"#;
    let (user, seen) =
        (r#"{"role":"user","content":"On."}"#, r#"{"role":"assistant","content":"I have seen the results."}"#);
    assert_eq!(
        relayed(&[result, result, user], &quirks),
        relayed(&[result, result, seen, user], &Quirks::NONE),
        "in relayed bodies too"
    );
    for fine in [vec![result], vec![result, seen, user], vec![user, user]] {
        assert_eq!(relayed(&fine, &quirks), relayed(&fine, &Quirks::NONE));
    }
    let odd = Quirks { short_call_ids: true, ..quirks };
    let both = relayed(&[&result.replace("x7Jk29QpZ", "call_1"), user], &odd);
    assert!(both.contains("I have seen") && !both.contains("call_1"), "{both}");
}

#[test]
fn a_schema_goes_into_words_where_only_json_objects_are_known() {
    let schema = json!({"type": "object"});
    let output = Some(OutputFormat::JsonSchema { name: "a b".into(), description: None, schema, strict: Some(true) });
    let ask = Ask { output, ..foreign() };
    assert_eq!(written(&ask, &Quirks::NONE).0["response_format"]["json_schema"]["name"], "a_b");
    let (body, _) = written(&ask, &Quirks { json_schema: false, ..Quirks::NONE });
    assert_eq!(body["response_format"], json!({"type": "json_object"}));
    assert!(
        body["messages"][0]["content"]
            .as_str()
            .is_some_and(|text| text.contains("JSON Schema") && text.contains(r#"{"type":"object"}"#))
    );
    let (body, _) = written(&Ask { system: Vec::new(), ..ask }, &Quirks { json_schema: false, ..Quirks::NONE });
    assert_eq!(body["messages"][0]["role"], "system");
}

#[test]
fn documents_are_written_or_refused_but_never_lost() {
    let with = |source: Media| Ask {
        messages: vec![Message::new(Role::User, vec![Block::new(Content::File { source, name: None })])],
        system: Vec::new(),
        ..foreign()
    };
    let inline = |mime: &str, data: &str| Media::Inline { mime: mime.into(), data: data.into() };
    let part = |source: Media| written(&with(source), &OPENAI).0["messages"][0]["content"].clone();
    assert_eq!(
        part(inline("application/pdf", "JVBE")),
        json!([{"type": "file", "file": {"filename": "file.pdf", "file_data": "data:application/pdf;base64,JVBE"}}])
    );
    assert_eq!(part(inline("text/plain", "aGk=")), "hi");
    assert_eq!(part(Media::Text("plain".into())), "plain");
    let held = with(Media::Id("file-1".into()));
    let related = Ask { source: "openai_responses", ..held.clone() };
    let expected = json!([{"type": "file", "file": {"file_id": "file-1"}}]);
    assert_eq!(written(&related, &OPENAI).0["messages"][0]["content"], expected);
    for refused in [held, with(Media::Url { url: "https://example.com/a.pdf".into(), mime: None })] {
        let fault = OpenAiChat.encode_ask(&refused, &mut Encoding::new("up", &OPENAI)).expect_err("refused");
        assert_eq!(fault.kind, Kind::UnsupportedFeature);
    }
}

#[test]
fn flat_content_is_one_string() {
    let mut ask = foreign();
    ask.messages[0].blocks.push(Block::text("now"));
    let quirks = Quirks { flat_content: true, cache_control: true, ..Quirks::NONE };
    let (body, _) = written(&ask, &quirks);
    assert_eq!(body["messages"][0]["content"], "One.\n\nTwo.");
    assert_eq!(body["messages"][1]["content"], "go\n\nnow");
}

fn start(source: &'static str) -> Event {
    Event::Start(Start { id: "msg_1".into(), model: "claude".into(), source, ..Start::default() })
}

fn chunks(events: &[Event], asked: &Asked) -> Vec<Value> {
    let text = String::from_utf8(encode(events, asked)).expect("UTF-8");
    let frames: Vec<&str> = text.split("\n\n").filter(|frame| !frame.is_empty()).collect();
    assert_eq!(frames.last(), Some(&"data: [DONE]"));
    let data = frames[..frames.len() - 1].iter().map(|frame| frame.strip_prefix("data: ").expect("data only"));
    data.map(|data| value(data.as_bytes())).collect()
}

#[test]
fn a_foreign_stream_has_a_role_numbered_calls_and_a_finish() {
    let delta = |index, delta| Event::Delta { choice: 0, index, delta };
    let open = |index, block| Event::Open { choice: 0, index, block };
    let close = |index| Event::Close { choice: 0, index };
    let call = |id: &str| Opened::ToolCall(ToolCall { id: id.into(), name: "f".into(), ..ToolCall::default() });
    let usage = crate::chat::Usage { input: 5, output: 7, ..Default::default() };
    let events = [
        start("anthropic"),
        Event::Usage(usage),
        open(0, Opened::Reasoning { id: None, encrypted: None }),
        delta(0, Delta::Reasoning("Hm.".into())),
        delta(0, Delta::Signature("EqQB".into())),
        close(0),
        open(1, Opened::Text),
        delta(1, Delta::Text("See".into())),
        delta(1, Delta::Citation(json!({"type": "web_search_result_location", "url": "https://e.org", "title": "E"}))),
        close(1),
        open(2, call("a")),
        delta(2, Delta::Arguments("{\"x\":".into())),
        delta(2, Delta::Arguments("1}".into())),
        close(2),
        open(3, call("b")),
        close(3),
        Event::Ping,
        Event::Finish { choice: 0, reason: Finish::ToolCalls, native: Some("tool_use".into()), stop_sequence: None },
    ];
    let asked = asked(Op::Generate, Ask { source: NAME, ..Ask::default() });
    let all = chunks(&events, &asked);
    let deltas: Vec<&Value> = all.iter().map(|chunk| &chunk["choices"][0]["delta"]).collect();
    let function =
        |index: u32, arguments: &str| json!({"tool_calls": [{"index": index, "function": {"arguments": arguments}}]});
    let opening = |index: u32, id: &str| json!({"tool_calls": [{"index": index, "id": id, "type": "function", "function": {"name": "f", "arguments": ""}}]});
    let expected = [
        json!({"role": "assistant", "content": null, "refusal": null, "reasoning_content": "Hm."}),
        json!({"reasoning_details": [{"type": "reasoning.text", "text": "Hm.",
            "signature": "portcullis.anthropic.EqQB", "format": "anthropic-claude-v1", "index": 0}]}),
        json!({"content": "See"}),
        json!({"annotations": [{"type": "url_citation", "index": 0,
            "url_citation": {"url": "https://e.org", "title": "E", "start_index": 0, "end_index": 3}}]}),
        opening(0, "a"),
        function(0, "{\"x\":"),
        function(0, "1}"),
        opening(1, "b"),
        function(1, "{}"),
        json!({}),
    ];
    assert_eq!(deltas, expected.iter().collect::<Vec<_>>());
    assert_eq!(all.last().expect("a finish")["choices"][0]["finish_reason"], "tool_calls");
    assert!(all.iter().all(|chunk| chunk["id"] == "msg_1" && chunk["object"] == "chat.completion.chunk"));
    assert!(all.iter().all(|chunk| chunk.get("usage").is_none()), "usage was not asked for");
    assert_eq!(all[0]["created"], 1_700_000_000);
    let with_usage = chunks(&events, &curious(Op::Generate));
    let last = with_usage.last().expect("usage");
    assert_eq!((&last["choices"], &last["usage"]["total_tokens"]), (&json!([]), &json!(12)));
    assert!(with_usage[0]["usage"].is_null() && with_usage[0].get("usage").is_some());
}

#[test]
fn an_answer_to_a_client_of_functions_is_a_function_call() {
    let body = json!({"model": "m", "messages": [{"role": "user", "content": "x"}], "functions": [{"name": "f"}]});
    let asked = asked(Op::Generate, ask_of(&body, Op::Generate).expect("valid"));
    let file = fixtures("stream", "sse").into_iter().find(|file| name(file) == "openai_tools_parallel").expect("there");
    let events = decode(&fs::read(file).expect("readable"), &[]).expect("valid");
    let whole = value(&OpenAiChat.encode_answer(&collect(events.clone()), &asked));
    let choice = &whole["choices"][0];
    assert_eq!(choice["message"]["function_call"], json!({"name": "get_weather", "arguments": "{\"city\":\"Oslo\"}"}));
    assert_eq!((choice["message"].get("tool_calls"), &choice["finish_reason"]), (None, &json!("function_call")));
    let all = chunks(&events, &asked);
    let arguments: String =
        all.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["function_call"]["arguments"].as_str()).collect();
    assert_eq!(arguments, "{\"city\":\"Oslo\"}");
    assert!(all.iter().all(|chunk| chunk["choices"][0]["delta"].get("tool_calls").is_none()));
}

#[test]
fn a_chat_answer_becomes_a_text_completion_for_those_who_asked_so() {
    let asked = curious(Op::Complete);
    let answer = OpenAiChat
        .decode_answer(br#"{"id":"c","model":"m","created":5,"choices":[{"index":0,"message":{"content":"Hi"},"logprobs":{"content":[]},"finish_reason":"stop"}]}"#)
        .expect("valid");
    assert_eq!(
        value(&OpenAiChat.encode_answer(&answer, &asked)),
        json!({"id": "c", "object": "text_completion", "created": 5, "model": "m",
               "choices": [{"text": "Hi", "index": 0, "logprobs": null, "finish_reason": "stop"}]})
    );
    let all = chunks(&replay(&answer), &asked);
    assert_eq!(all[0]["choices"], json!([{"text": "Hi", "index": 0, "logprobs": null, "finish_reason": null}]));
    assert_eq!(all[1]["choices"][0]["finish_reason"], "stop");
    assert!(all.iter().all(|chunk| chunk["object"] == "text_completion"));
}

#[test]
fn a_free_text_tool_that_went_out_as_a_function_comes_back_as_itself() {
    let tool = Tool::Custom { name: "sh".into(), description: None, format: None };
    let ask = Ask { model: "m".into(), source: NAME, tools: vec![tool], ..Ask::default() };
    let call = ToolCall {
        id: "toolu_1".into(),
        name: "sh".into(),
        arguments: r#"{"input":"ls -l"}"#.into(),
        ..ToolCall::default()
    };
    let choice = Choice {
        blocks: vec![Block::new(Content::ToolCall(call))],
        finish: Some(Finish::ToolCalls),
        ..Choice::default()
    };
    let answer = Answer { choices: vec![choice], source: "anthropic", ..Answer::default() };
    let asked = asked(Op::Generate, ask);
    let expected = json!({"id": "toolu_1", "type": "custom", "custom": {"name": "sh", "input": "ls -l"}});
    let whole = value(&OpenAiChat.encode_answer(&answer, &asked));
    assert_eq!(whole["choices"][0]["message"]["tool_calls"][0], expected);

    let events = [
        Event::Start(Start { source: "anthropic", ..Start::default() }),
        Event::Open {
            choice: 0,
            index: 0,
            block: Opened::ToolCall(ToolCall { id: "toolu_1".into(), name: "sh".into(), ..ToolCall::default() }),
        },
        Event::Delta { choice: 0, index: 0, delta: Delta::Arguments(r#"{"inp"#.into()) },
        Event::Delta { choice: 0, index: 0, delta: Delta::Arguments(r#"ut":"ls -l"}"#.into()) },
        Event::Close { choice: 0, index: 0 },
        Event::Finish { choice: 0, reason: Finish::ToolCalls, native: None, stop_sequence: None },
    ];
    let streamed = collect(decode(&encode(&events, &asked), &[]).expect("our own stream"));
    let streamed = value(&OpenAiChat.encode_answer(&streamed, &asked));
    assert_eq!(streamed["choices"][0]["message"]["tool_calls"][0], expected);
}

#[test]
fn a_last_turn_of_the_assistant_is_marked_as_the_target_wants_it() {
    let marked = |prefill, turns: &[(Role, &str)]| {
        let quirks = Quirks { prefill, ..Quirks::NONE };
        let messages = turns.iter().map(|(role, text)| Message::new(*role, vec![Block::text(*text)])).collect();
        let ask = Ask { model: "m".into(), messages, source: "anthropic", ..Ask::default() };
        let body = OpenAiChat.encode_ask(&ask, &mut Encoding::new("up", &quirks)).expect("encodes");
        serde_json::from_slice::<Value>(&body).expect("JSON")
    };
    let begun = [(Role::User, "Count"), (Role::Assistant, "One,")];
    let last = |body: &Value| body["messages"][1].clone();
    for prefill in [Prefill::None, Prefill::Plain] {
        assert_eq!(last(&marked(prefill, &begun)), json!({"role": "assistant", "content": "One,"}));
    }
    assert_eq!(last(&marked(Prefill::Prefix, &begun))["prefix"], true);
    assert_eq!(last(&marked(Prefill::Partial, &begun))["partial"], true);
    let body = marked(Prefill::Continue, &begun);
    assert_eq!((&body["continue_final_message"], &body["add_generation_prompt"]), (&json!(true), &json!(false)));
    // A turn of the user asks for one of the model's own.
    for prefill in [Prefill::Prefix, Prefill::Partial, Prefill::Continue] {
        let body = marked(prefill, &begun[..1]).to_string();
        assert!(!["prefix", "partial", "continue_final"].iter().any(|word| body.contains(word)), "{body}");
    }
}

#[test]
fn a_text_document_of_a_tool_is_said_in_its_answer() {
    let mut ask = foreign();
    let Content::ToolResult(result) = &mut ask.messages[2].blocks[1].content else { panic!("a result") };
    let data = "YSxiCjEsMgo=".to_owned();
    result.content = vec![
        Block::new(Content::File { source: Media::Text("Day 1: rain.".into()), name: None }),
        Block::new(Content::File {
            source: Media::Inline { mime: "text/csv".into(), data },
            name: Some("t.csv".into()),
        }),
    ];
    let (body, _) = written(&ask, &OPENAI);
    assert_eq!(body["messages"][3]["content"], "The tool failed:\n\nDay 1: rain.\n\nt.csv:\n\na,b\n1,2\n");
    assert_eq!(body["messages"][4], json!({"role": "user", "content": "and?"}));
}

#[test]
fn parts_of_other_servers_are_files_and_go_back_as_they_came() {
    let parts = json!([
        {"type": "text", "text": "See"},
        {"type": "document_url", "document_url": "data:application/pdf;base64,JVBERi0=", "document_name": "a.pdf"},
        {"type": "video_url", "video_url": {"url": "https://example.org/v.mp4"}},
    ]);
    let body = json!({"model": "m", "messages": [{"role": "user", "content": parts}]});
    let ask = ask_of(&body, Op::Generate).expect("valid");
    let files: Vec<_> = ask.messages[0].blocks[1..].iter().map(|block| &block.content).collect();
    let pdf = Media::Inline { mime: "application/pdf".into(), data: "JVBERi0=".into() };
    let video = Media::Url { url: "https://example.org/v.mp4".into(), mime: None };
    assert_eq!(
        files,
        [&Content::File { source: pdf, name: Some("a.pdf".into()) }, &Content::File { source: video, name: None },]
    );
    assert_eq!(written(&ask, &Quirks::NONE).0["messages"][0]["content"], parts);
}

#[test]
fn a_tool_is_strict_only_with_a_schema_that_strict_mode_takes() {
    let tool = |parameters: Value| Tool::Function {
        name: "f".into(),
        description: None,
        parameters: Some(parameters),
        strict: Some(true),
        cache: None,
        extra: Default::default(),
    };
    let closed = json!({"type": "object", "properties": {"a": {}}, "required": ["a"], "additionalProperties": false});
    let open = json!({"type": "object", "properties": {"a": {}}, "additionalProperties": false});
    let ask = Ask { tools: vec![tool(closed), tool(open)], ..foreign() };
    let (body, dropped) = written(&ask, &OPENAI);
    let strict = |body: &Value, at: usize| body["tools"][at]["function"].get("strict").cloned();
    assert_eq!((strict(&body, 0), strict(&body, 1)), (Some(json!(true)), None));
    assert!(dropped.contains(&"tools.strict"));
    let (body, _) = written(&Ask { source: NAME, ..ask }, &OPENAI);
    assert_eq!(strict(&body, 1), Some(json!(true)));
}

#[test]
fn effort_is_told_in_the_words_of_the_model() {
    let ask =
        |effort| Ask { reasoning: Some(ReasoningAsk { effort: Some(effort), ..ReasoningAsk::default() }), ..foreign() };
    let told = |model: &str, effort| written_for(model, &ask(effort), &OPENAI).0.get("reasoning_effort").cloned();
    assert_eq!(told("gpt-5.2", Effort::Max), Some(json!("xhigh")));
    assert_eq!(told("gpt-5.1", Effort::None), Some(json!("none")));
    assert_eq!(told("gpt-5", Effort::None), Some(json!("minimal")));
    assert_eq!(told("o3", Effort::None), Some(json!("low")));
    assert_eq!(told("my-deployment", Effort::Max), Some(json!("high")));
    for model in ["gpt-4o", "gpt-4.1-mini", "gpt-5-chat-latest"] {
        assert_eq!(told(model, Effort::None), None);
        let (body, dropped) = written_for(model, &ask(Effort::High), &OPENAI);
        assert_eq!((body.get("reasoning_effort"), dropped.contains(&"reasoning")), (None, true), "{model}");
        assert!(!written_for(model, &ask(Effort::None), &OPENAI).1.contains(&"reasoning"), "{model}");
    }
    // Its own callers know what they ask for.
    let own = Ask { source: NAME, ..ask(Effort::Max) };
    assert_eq!(written_for("gpt-4o", &own, &OPENAI).0["reasoning_effort"], "max");
}

#[test]
fn models_that_reason_without_tools_alone_do_not_reason_beside_them() {
    let tool = Tool::Custom { name: "f".into(), description: None, format: None };
    let reasoning = ReasoningAsk { effort: Some(Effort::High), ..ReasoningAsk::default() };
    let ask = Ask { tools: vec![tool], reasoning: Some(reasoning), ..foreign() };
    let effort =
        |ask: &Ask, model: &str, quirks: &Quirks| written_for(model, ask, quirks).0["reasoning_effort"].clone();
    assert_eq!(effort(&ask, "gpt-5.6-terra", &OPENAI), "none");
    assert!(written_for("gpt-5.6-terra", &ask, &OPENAI).1.contains(&"reasoning"));
    assert_eq!(effort(&Ask { reasoning: None, ..ask.clone() }, "gpt-5.6-terra", &OPENAI), "none", "it is its default");
    assert_eq!(effort(&Ask { tools: Vec::new(), ..ask.clone() }, "gpt-5.6-terra", &OPENAI), "high");
    assert_eq!(effort(&ask, "gpt-5.1", &OPENAI), "high");
    assert_eq!(effort(&ask, "openai/gpt-5.6-terra", &Quirks::NONE), "high", "routers ask in the other form");
    assert_eq!(effort(&Ask { source: NAME, ..ask }, "gpt-5.6-terra", &OPENAI), "high");
}

#[test]
fn reasoning_models_are_not_sent_the_sampling_that_they_refuse() {
    let number = serde_json::Number::from_f64;
    let ask = Ask {
        temperature: number(0.2),
        top_p: number(1.0),
        presence_penalty: Some(0.into()),
        frequency_penalty: number(0.5),
        logprobs: Some(true),
        stop: (1..=5).map(|n| n.to_string()).collect(),
        ..foreign()
    };
    let kept = |model: &str, ask: &Ask| {
        let (body, dropped) = written_for(model, ask, &OPENAI);
        let names = ["temperature", "top_p", "presence_penalty", "frequency_penalty", "logprobs", "stop"];
        let kept: Vec<&str> = names.into_iter().filter(|name| body.get(name).is_some()).collect();
        (kept.join(" "), dropped.into_iter().filter(|field| names.contains(field)).collect::<Vec<_>>().join(" "))
    };
    let all = "temperature stop frequency_penalty logprobs".to_owned();
    assert_eq!(kept("o3", &ask), (String::new(), all.clone()));
    assert_eq!(kept("gpt-5-mini", &ask), (String::new(), all.clone()));
    assert_eq!(kept("gpt-5.1", &ask).0, "temperature top_p logprobs");
    let effort = Some(ReasoningAsk { effort: Some(Effort::Low), ..ReasoningAsk::default() });
    assert_eq!(kept("gpt-5.1", &Ask { reasoning: effort, ..ask.clone() }), (String::new(), all));
    let few = Ask { stop: vec!["1".into()], ..ask.clone() };
    assert_eq!(
        kept("gpt-4o", &few).0,
        "temperature top_p presence_penalty frequency_penalty logprobs stop",
        "they take everything"
    );
    assert_eq!(kept("o3", &Ask { source: NAME, ..few }).1, "", "its own callers know what they ask for");
}

#[test]
fn more_stop_sequences_than_openai_takes_are_refused_and_go_to_others() {
    let ask = |count: usize| Ask { stop: (0..count).map(|n| n.to_string()).collect(), ..foreign() };
    assert_eq!(written(&ask(4), &OPENAI).0["stop"].as_array().map(Vec::len), Some(4));
    assert_eq!(written(&ask(9), &Quirks::NONE).0["stop"].as_array().map(Vec::len), Some(9));
    let fault = OpenAiChat.encode_ask(&ask(5), &mut Encoding::new("gpt-4o", &OPENAI)).expect_err("refused");
    assert_eq!((fault.kind, fault.param.as_deref()), (Kind::UnsupportedFeature, Some("stop")));
    assert!(fault.message.contains("take 4 stop sequences"), "{fault}");
}

#[test]
fn json_mode_is_asked_for_in_words_too_unless_the_ask_says_so() {
    let ask = Ask { output: Some(OutputFormat::JsonObject), ..foreign() };
    let system = |ask: &Ask| written(ask, &OPENAI).0["messages"][0]["content"].clone();
    assert!(system(&ask).as_str().is_some_and(|text| text.starts_with("One.\n\nTwo.\n\nAnswer with one JSON object")));
    let mut said = ask.clone();
    said.messages[0].blocks[0] = Block::text("as Json, please");
    assert_eq!(system(&said), "One.\n\nTwo.");
    let without = Ask { system: Vec::new(), ..ask };
    assert_eq!(written(&without, &Quirks::NONE).0["messages"][0]["role"], "system");
}

#[test]
fn long_ids_of_calls_are_respelt_alike_in_call_and_result() {
    let long = "call_".repeat(20);
    let ask = with_call_id(foreign(), &long);
    let ids = |ask: &Ask| {
        let body = written(ask, &OPENAI).0;
        (body["messages"][2]["tool_calls"][0]["id"].clone(), body["messages"][3]["tool_call_id"].clone())
    };
    let (call, result) = ids(&ask);
    assert_eq!((&call, call.as_str().map(str::len)), (&result, Some(21)));
    assert_eq!(ids(&Ask { source: NAME, ..ask }).0, long);
}

#[test]
fn a_spoken_answer_has_a_voice_and_a_format_or_is_refused() {
    let gemini = |voice: &str, stream: bool| {
        let body = json!({"contents": [{"parts": [{"text": "Hi"}]}], "generationConfig": {"responseModalities": ["AUDIO"],
            "speech_config": {"voice_config": {"prebuilt_voice_config": {"voice_name": voice}}}}});
        let body = body.to_string();
        let raw = RawAsk { op: Op::Generate, body: body.as_bytes(), model: Some("g"), stream };
        crate::dialect::find("gemini").expect("built in").decode_ask(&raw).expect("valid")
    };
    let (body, dropped) = written_for("gpt-audio", &gemini("Kore", false), &OPENAI);
    assert_eq!(body["modalities"], json!(["text", "audio"]));
    assert_eq!(body["audio"], json!({"voice": "alloy", "format": "wav"}));
    assert!(dropped.contains(&"audio.voice"));
    let (body, _) = written_for("gpt-audio", &gemini("Coral", true), &OPENAI);
    assert_eq!(body["audio"], json!({"voice": "coral", "format": "pcm16"}));
    let refusing = Quirks { refuses: &["audio"], ..OPENAI };
    let own = ask_of(
        &json!({"model": "m", "messages": [{"role": "user", "content": "Hi"}], "modalities": ["text", "audio"],
        "audio": {"voice": "nova", "format": "mp3"}}),
        Op::Generate,
    );
    let own = own.expect("valid");
    let theirs = gemini("Kore", false);
    for (ask, model, quirks) in
        [(&theirs, "m", Quirks::NONE), (&theirs, "m", refusing), (&theirs, "gpt-5", OPENAI), (&own, "m", refusing)]
    {
        let fault = OpenAiChat.encode_ask(ask, &mut Encoding::new(model, &quirks)).expect_err("refused");
        assert_eq!((fault.kind, fault.param.as_deref()), (Kind::UnsupportedFeature, Some("modalities")));
    }
    // Of servers that nothing is known of who speaks this form knows more.
    assert_eq!(written(&own, &Quirks::NONE).0["audio"], json!({"voice": "nova", "format": "mp3"}));
}

#[test]
fn pictures_and_files_of_results_stand_under_the_call_that_they_answer() {
    let call =
        |id: &str| Block::new(Content::ToolCall(ToolCall { id: id.into(), name: "shot".into(), ..Default::default() }));
    let image = || {
        Block::new(Content::Image {
            source: Media::Url { url: "https://e.org/a.png".into(), mime: None },
            detail: None,
        })
    };
    let pdf = || {
        let source = Media::Inline { mime: "application/pdf".into(), data: "JVBE".into() };
        Block::new(Content::File { source, name: Some("a.pdf".into()) })
    };
    let result = |id: &str, content| {
        Block::new(Content::ToolResult(ToolResult { id: id.into(), content, ..Default::default() }))
    };
    let ask = Ask {
        messages: vec![
            Message::new(Role::User, vec![Block::text("go")]),
            Message::new(Role::Assistant, vec![call("a"), call("b"), call("c")]),
            Message::new(
                Role::User,
                vec![
                    result("a", vec![Block::text("Left."), image()]),
                    result("b", vec![pdf()]),
                    result("c", vec![image(), pdf()]),
                ],
            ),
        ],
        source: "anthropic",
        ..Ask::default()
    };
    let (body, _) = written(&ask, &OPENAI);
    let said: Vec<&Value> = (2..5).map(|at| &body["messages"][at]["content"]).collect();
    assert_eq!(
        said,
        [
            "Left.\n\nThe images of this result follow in the next message.",
            "The files of this result follow in the next message.",
            "The images and files of this result follow in the next message.",
        ]
    );
    let parts = body["messages"][5]["content"].as_array().expect("parts");
    let shown: Vec<&str> = parts.iter().filter_map(|part| part["text"].as_str().or(part["type"].as_str())).collect();
    assert_eq!(
        shown,
        [
            "The images of the result of call a of `shot`:",
            "image_url",
            "The files of the result of call b of `shot`:",
            "file",
            "The images and files of the result of call c of `shot`:",
            "image_url",
            "file",
        ]
    );
}
