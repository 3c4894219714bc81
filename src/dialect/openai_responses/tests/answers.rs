//! Whole answers, errors, counting, and what the next turn makes of an answer.

use serde_json::json;

use super::*;
use crate::chat::{Block, Finish, Media, Reasoning, Role, ToolCall, Usage};

fn answer_of(name: &str) -> Answer {
    OpenAiResponses.decode_answer(&fixture(name)).expect("a good answer")
}

fn encoded(answer: &Answer, asked: &Asked) -> Value {
    json(&OpenAiResponses.encode_answer(answer, asked))
}

#[test]
fn an_answer_of_this_form_comes_out_as_it_came_in() {
    for name in names(".json").iter().filter(|name| !name.starts_with("ask_")) {
        let body = json(&fixture(&format!("{name}.json")));
        let mut out = encoded(&answer_of(&format!("{name}.json")), &plain_asked());
        // Parts that every client expects are added where a server left them out.
        out["created_at"] = body["created_at"].clone();
        let (details, sent) = (&mut out["usage"]["input_tokens_details"], &body["usage"]["input_tokens_details"]);
        assert_eq!(details["cache_write_tokens"], 0);
        *details = sent.clone();
        let sent = body["output"].as_array().expect("items");
        for (item, sent) in out["output"].as_array_mut().expect("items").iter_mut().zip(sent) {
            let parts = item.get_mut("content").and_then(Value::as_array_mut).into_iter().flatten();
            for (part, sent) in parts.zip(sent["content"].as_array().into_iter().flatten()) {
                if let (None, Some(part)) = (sent.get("logprobs"), part.as_object_mut()) {
                    part.remove("logprobs");
                }
            }
        }
        assert_eq!(out, body, "{name}");
    }
}

#[test]
fn the_parts_of_an_answer_are_found() {
    let answer = answer_of("reasoning_tools.json");
    assert_eq!(answer.id, "resp_2tools");
    assert_eq!(answer.created, Some(1_762_345_678));
    assert_eq!(
        answer.usage,
        Some(Usage {
            input: 120,
            cache_read: Some(0),
            output: 96,
            reasoning: Some(64),
            stated_total: Some(216),
            ..Usage::default()
        })
    );
    let choice = &answer.choices[0];
    assert_eq!((choice.finish, choice.native_finish.as_deref()), (Some(Finish::ToolCalls), Some("completed")));
    let [reasoning, first, second] = choice.blocks.as_slice() else { panic!("{:?}", choice.blocks) };
    let Content::Reasoning(reasoning) = &reasoning.content else { panic!("{reasoning:?}") };
    assert_eq!(reasoning.summary, ["**Planning calls**\n\nTwo cities.", "**Checking** arguments"]);
    assert_eq!(reasoning.encrypted.as_deref(), Some("gAAAAABo-enc-final=="));
    for (block, id, arguments) in
        [(first, "call_Oslo01", "{\"city\":\"Oslo\"}"), (second, "call_Rio02", "{\"city\":\"Rio\"}")]
    {
        let Content::ToolCall(call) = &block.content else { panic!("{block:?}") };
        assert_eq!((call.id.as_str(), call.name.as_str(), call.arguments.as_str()), (id, "get_weather", arguments));
    }
    assert_eq!(answer_of("text.json").text(), "Grüße aus \"Köln\",\nお元気ですか? 🚲");
    assert_eq!(answer_of("incomplete.json").choices[0].finish, Some(Finish::Length));
    assert_eq!(answer_of("filtered.json").choices[0].finish, Some(Finish::ContentFilter));
    let logprobs = answer_of("logprobs.json").choices[0].logprobs.clone().expect("logprobs");
    assert_eq!(logprobs["content"].as_array().map(Vec::len), Some(2));
    assert_eq!(logprobs["content"][1]["token"], ".");
}

#[test]
fn a_picture_that_the_provider_made_is_a_picture_for_everybody() {
    let answer = answer_of("picture.json");
    let [picture, text] = answer.choices[0].blocks.as_slice() else { panic!("{:?}", answer.choices[0].blocks) };
    let Content::Image { source: Media::Inline { mime, data }, .. } = &picture.content else { panic!("{picture:?}") };
    assert!(mime == "image/png" && data.starts_with("iVBORw0KG"));
    assert!(matches!(text.content, Content::Text { .. }));
    // Unfinished ones have nothing to show, and an agent's own history stays as it is.
    let failed = br#"{"output":[{"type":"image_generation_call","id":"ig_1","status":"failed","result":null}]}"#;
    let failed = OpenAiResponses.decode_answer(failed).expect("decodes");
    assert!(matches!(failed.choices[0].blocks[0].content, Content::Other(_)));
    let body =
        json!({"model": "m", "input": [json(&fixture("picture.json"))["output"][0], {"role": "user", "content": "x"}]});
    let ask = ask_of(body.to_string().as_bytes());
    assert!(matches!(ask.messages[0].blocks[0].content, Content::Other(_)));
}

#[test]
fn what_a_provider_searches_itself_is_no_call_of_the_callers() {
    let answer = answer_of("x_search.json");
    let [search, text] = answer.choices[0].blocks.as_slice() else { panic!("{:?}", answer.choices[0].blocks) };
    assert!(matches!(search.content, Content::Other(_)) && matches!(text.content, Content::Text { .. }));
    assert_eq!(answer.choices[0].finish, Some(Finish::Stop));
    assert_eq!(encoded(&answer, &plain_asked())["output"][0], json(&fixture("x_search.json"))["output"][0]);
    let summary = OpenAiResponses.summary(Op::Generate, &fixture("x_search.json")).expect("a response");
    assert_eq!(summary.finish, Some(Finish::Stop));
}

#[test]
fn servers_that_leave_things_out_are_understood() {
    let sparse = br#"{"output":[{"role":"assistant","content":"Hi","type":"message"},{"type":"function_call","id":"c1","name":"f","arguments":""},{"type":"function_call","id":"c2","name":"f","arguments":"null"}],"usage":{"input_tokens":3}}"#;
    let answer = OpenAiResponses.decode_answer(sparse).expect("sparse");
    assert_eq!(answer.text(), "Hi");
    assert_eq!(answer.choices[0].finish, Some(Finish::ToolCalls));
    assert_eq!(answer.usage.map(|usage| (usage.input, usage.cache_read)), Some((3, None)));
    let out = encoded(&answer, &plain_asked());
    assert_eq!(out["id"], "resp_x1");
    assert_eq!(out["created_at"], 1_700_000_000);
    assert_eq!(out["output"][1]["call_id"], "c1");
    assert_eq!((&out["output"][1]["arguments"], &out["output"][2]["arguments"]), (&json!("{}"), &json!("{}")));
    for (body, wanted) in [("[]", Kind::BadAnswer), ("{}", Kind::BadAnswer), ("<html>", Kind::BadAnswer)] {
        assert_eq!(OpenAiResponses.decode_answer(body.as_bytes()).expect_err(body).kind, wanted);
    }
}

#[test]
fn a_failed_response_is_a_fault_with_a_good_status_or_not() {
    let failed = br#"{"id":"resp_1","status":"failed","error":{"code":"rate_limit_exceeded","message":"Slow down."},"output":[]}"#;
    assert_eq!(OpenAiResponses.decode_answer(failed).expect_err("failed").kind, Kind::RateLimited);
    assert_eq!(OpenAiResponses.summary(Op::Generate, failed).expect_err("failed").kind, Kind::RateLimited);
    let wrapped = br#"{"error":{"message":"No such model","code":404}}"#;
    assert_eq!(OpenAiResponses.decode_answer(wrapped).expect_err("error").kind, Kind::UpstreamNotFound);
}

#[test]
fn a_summary_tells_what_decoding_would() {
    for name in names(".json").iter().filter(|name| !name.starts_with("ask_")) {
        let body = fixture(&format!("{name}.json"));
        let summary = OpenAiResponses.summary(Op::Generate, &body).expect("a summary");
        let answer = OpenAiResponses.decode_answer(&body).expect("an answer");
        assert_eq!(summary.id, Some(answer.id), "{name}");
        assert_eq!(summary.model, Some(answer.model), "{name}");
        assert_eq!(summary.usage, answer.usage, "{name}");
        assert_eq!(summary.finish, answer.choices[0].finish, "{name}");
    }
}

#[test]
fn a_foreign_answer_echoes_what_was_asked() {
    let asked = asked(ask_of(&fixture("ask_everything.json")));
    let answer = Answer {
        id: "chatcmpl-1".into(),
        model: "m".into(),
        source: "openai_chat",
        choices: vec![Choice {
            blocks: vec![Block::text("Hi")],
            finish: Some(Finish::Length),
            logprobs: Some(json!({"content": [{"token": "Hi", "logprob": -0.1, "top_logprobs": []}], "refusal": null})),
            ..Choice::default()
        }],
        ..Answer::default()
    };
    let out = encoded(&answer, &asked);
    assert_eq!(out["id"], "resp_chatcmpl-1");
    assert_eq!(out["status"], "incomplete");
    assert_eq!(out["incomplete_details"], json!({"reason": "max_output_tokens"}));
    assert_eq!(out["instructions"], "Be terse.");
    assert_eq!(out["tool_choice"]["type"], "allowed_tools");
    assert_eq!(
        out["tools"][0],
        json!({"type": "function", "name": "look", "parameters": {"type": "object", "properties": {}}})
    );
    assert_eq!(out["text"]["format"]["name"], "cat");
    assert_eq!(out["max_output_tokens"], 64);
    assert_eq!(out["previous_response_id"], "resp_before");
    assert_eq!(out["metadata"], json!({"k": "v"}));
    assert_eq!(out["usage"]["total_tokens"], 0);
    assert_eq!(out["output"][0]["content"][0]["logprobs"][0]["token"], "Hi");
    for field in ["error", "parallel_tool_calls", "temperature", "top_p", "truncation", "user", "reasoning", "store"] {
        assert!(out.get(field).is_some(), "{field} is missing");
    }
}

/// The next ask of a client that sends back what it got.
fn next_turn(output: &Value) -> Ask {
    let body = json!({"model": "m", "input": output});
    ask_of(body.to_string().as_bytes())
}

#[test]
fn what_a_provider_must_get_back_survives_the_client() {
    let thinking = Reasoning { text: "Hm.\n\nSo.".into(), signature: Some("sig/a.b+c".into()), ..Reasoning::default() };
    let redacted = Reasoning { encrypted: Some("blob==".into()), ..Reasoning::default() };
    let bare_text = Reasoning { text: "unsigned".into(), ..Reasoning::default() };
    let call = |n: u32, signature: Option<&str>| ToolCall {
        id: format!("call{n}"),
        name: "f".into(),
        arguments: "{}".into(),
        signature: signature.map(str::to_owned),
        ..ToolCall::default()
    };
    let blocks = vec![
        Block::new(Content::Reasoning(thinking.clone())),
        Block::new(Content::Reasoning(redacted.clone())),
        Block::new(Content::Reasoning(bare_text.clone())),
        Block::text("Hi"),
        Block::new(Content::ToolCall(call(1, Some("tho.ught==")))),
        Block::new(Content::ToolCall(call(2, None))),
    ];
    let answer = Answer {
        source: "gemini",
        choices: vec![Choice { blocks, finish: Some(Finish::ToolCalls), ..Choice::default() }],
        ..Answer::default()
    };
    let whole = encoded(&answer, &plain_asked());
    let stream = data_of(&encode_stream(&crate::chat::event::replay(&answer), &plain_asked()));
    for output in [&whole["output"], &stream[stream.len() - 1]["response"]["output"]] {
        let ask = next_turn(output);
        assert_eq!(ask.messages.len(), 1, "one turn of the assistant");
        assert_eq!(ask.messages[0].role, Role::Assistant);
        let found: Vec<_> = ask.messages[0]
            .blocks
            .iter()
            .map(|block| match &block.content {
                Content::Reasoning(reasoning) => Content::Reasoning(Reasoning { id: None, ..reasoning.clone() }),
                Content::ToolCall(call) => Content::ToolCall(ToolCall { item_id: None, ..call.clone() }),
                other => other.clone(),
            })
            .collect();
        let from =
            |reasoning: &Reasoning| Content::Reasoning(Reasoning { origin: "gemini".into(), ..reasoning.clone() });
        let expected = [
            from(&thinking),
            from(&redacted),
            from(&bare_text),
            Block::text("Hi").content,
            Content::ToolCall(call(1, Some("portcullis.gemini.tho.ught=="))),
            Content::ToolCall(call(2, None)),
        ];
        assert_eq!(found, expected);
        // None of it goes to a provider of this form, nor do the ids that were made here.
        let sent = OpenAiResponses.encode_ask(&ask, &mut Encoding::new("m", &Quirks::NONE)).expect("encodes");
        let sent = String::from_utf8(sent).expect("UTF-8");
        for word in ["portcullis", "_pc_", "reasoning"] {
            assert!(!sent.contains(word), "{word} in {sent}");
        }
    }
}

#[test]
fn tokens_are_counted() {
    let mut to = Encoding::new("gpt-up", &Quirks::NONE);
    let ask = ask_of(&fixture("ask_everything.json"));
    let body = OpenAiResponses.encode_count(&ask, &mut to).expect("counts").expect("encodes");
    let body = json(&body);
    assert_eq!(body["model"], "gpt-up");
    for field in ["max_output_tokens", "stream", "store", "include", "temperature", "metadata", "user"] {
        assert!(body.get(field).is_none(), "{field} is not counted");
    }
    assert!(body.get("input").is_some() && body.get("tools").is_some());
    let answer = OpenAiResponses.encode_count_answer(17);
    assert_eq!(json(&answer), json!({"object": "response.input_tokens", "input_tokens": 17}));
    assert_eq!(OpenAiResponses.decode_count(&answer).expect("a count"), 17);
    assert_eq!(OpenAiResponses.decode_count(b"{}").expect_err("no count").kind, Kind::BadAnswer);
}

#[test]
fn a_namespaced_call_has_the_callers_own_name_in_every_dialect() {
    let body = json!({"id": "resp_1", "object": "response", "status": "completed", "model": "gpt-5", "output": [
        {"type": "function_call", "id": "fc_1", "call_id": "call_1", "namespace": "weather", "name": "get_weather",
         "arguments": "{}", "status": "completed"}]});
    let answer = OpenAiResponses.decode_answer(body.to_string().as_bytes()).expect("valid");
    let Content::ToolCall(call) = &answer.choices[0].blocks[0].content else { panic!("a call") };
    assert_eq!((call.name.as_str(), call.namespace.as_deref()), ("get_weather", Some("weather")));
    let again = encoded(&answer, &plain_asked());
    assert_eq!(
        (&again["output"][0]["name"], &again["output"][0]["namespace"]),
        (&json!("get_weather"), &json!("weather"))
    );
}

#[test]
fn a_model_that_declined_without_words_for_it_is_filtered() {
    let choice = Choice { blocks: vec![Block::text("I")], finish: Some(Finish::Refusal), ..Choice::default() };
    let answer = Answer { choices: vec![choice], source: "anthropic", ..Answer::default() };
    let got = encoded(&answer, &plain_asked());
    assert_eq!(
        (&got["status"], &got["incomplete_details"]["reason"]),
        (&json!("incomplete"), &json!("content_filter"))
    );
}

#[test]
fn a_tier_that_the_form_does_not_know_is_the_default() {
    let answer = Answer { service_tier: Some("on_demand".into()), source: "openai_chat", ..Answer::default() };
    assert_eq!(encoded(&answer, &plain_asked())["service_tier"], "default");
}

#[test]
fn an_answer_that_is_over_has_counts_also_where_nobody_stated_any() {
    for (finish, counts) in
        [(Finish::Stop, true), (Finish::Length, true), (Finish::ContentFilter, true), (Finish::Error, false)]
    {
        let choice = Choice { blocks: vec![Block::text("Hi")], finish: Some(finish), ..Choice::default() };
        let answer = Answer { choices: vec![choice], source: "openai_chat", ..Answer::default() };
        let body = encoded(&answer, &plain_asked());
        assert_eq!(body["usage"]["input_tokens"].is_number(), counts, "{finish:?}: {body}");
    }
}
