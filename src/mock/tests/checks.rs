//! Wrong requests are refused as the real providers refuse them.

use serde_json::{Value, json};

use super::Client;

async fn refused(path: &str, cases: Vec<(Value, &str)>) {
    let client = Client::default();
    for (body, expected) in cases {
        let reply = client.post(path, body.clone()).await;
        assert_eq!(reply.status, 400, "{body}: {}", reply.text());
        assert!(reply.error().contains(expected), "{body}\n{}\nlacks {expected}", reply.error());
    }
}

#[tokio::test]
async fn openai_chat_refuses_what_openai_refuses() {
    let chat = |messages: Value| json!({"model": "m", "messages": messages});
    let user = json!({"role": "user", "content": "hi"});
    let call = json!({"role": "assistant", "content": null, "tool_calls": [
        {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]});
    let result = json!({"role": "tool", "tool_call_id": "call_1", "content": "ok"});
    let with = |field: &str, value: Value| {
        let mut body = chat(json!([user]));
        body[field] = value;
        body
    };
    refused(
        "/v1/chat/completions",
        vec![
            (json!({"messages": [user]}), "you must provide a model parameter"),
            (json!({"model": "m"}), "Missing required parameter: 'messages'."),
            (chat(json!([])), "Invalid 'messages': empty array."),
            (chat(json!([{"role": "robot", "content": "x"}])), "Invalid value: 'robot'."),
            (chat(json!([{"role": "user", "content": null}])), "expected a string, got null"),
            (chat(json!([user, result])), "must be a response to a preceeding message with 'tool_calls'"),
            (chat(json!([user, call, user])), "did not have response messages: call_1"),
            (chat(json!([user, call])), "did not have response messages: call_1"),
            (with("tool_choice", json!("auto")), "only allowed when 'tools' are specified"),
            (with("stream_options", json!({"include_usage": true})), "only allowed when 'stream' is enabled"),
            (with("temperature", json!(3)), "Expected a value <= 2"),
            (with("response_format", json!({"type": "json_object"})), "must contain the word 'json'"),
            (with("stop", json!(["a", "b", "c", "d", "e"])), "array too long"),
            (with("tools", json!([{"type": "function", "function": {"name": "a b"}}])), "does not match pattern"),
        ],
    )
    .await;
    let client = Client::default();
    assert_eq!(client.post("/v1/chat/completions", chat(json!([user, call, result, user]))).await.status, 200);
}

#[tokio::test]
async fn a_strict_schema_must_be_closed() {
    let schema = json!({"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]});
    let ask = |schema: Value| {
        json!({"model": "m", "messages": [{"role": "user", "content": "hi"}], "response_format": {
            "type": "json_schema", "json_schema": {"name": "s", "strict": true, "schema": schema}}})
    };
    let mut open = schema.clone();
    open["additionalProperties"] = json!(false);
    open["properties"]["b"] = json!({"type": "string"});
    refused(
        "/v1/chat/completions",
        vec![(ask(schema), "'additionalProperties' is required"), (ask(open), "Missing 'b'")],
    )
    .await;
}

#[tokio::test]
async fn responses_refuse_what_openai_refuses() {
    let ask = |input: Value| json!({"model": "m", "input": input});
    let call = json!({"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}"});
    let result = json!({"type": "function_call_output", "call_id": "call_1", "output": "ok"});
    let mut wrong_id = call.clone();
    wrong_id["id"] = json!("call_1");
    refused(
        "/v1/responses",
        vec![
            (json!({"input": "x"}), "Missing required parameter: 'model'."),
            (json!({"model": "m"}), "must be provided"),
            (ask(json!([{"role": "robot", "content": "x"}])), "Invalid value: 'robot'."),
            (ask(json!([{"role": "user", "content": [{"type": "output_text", "text": "x"}]}])), "'output_text'"),
            (ask(json!([result])), "No tool call found for function call output with call_id call_1."),
            (ask(json!([call])), "No tool output found for function call call_1."),
            (ask(json!([wrong_id, result])), "Expected an ID that begins with 'fc'."),
            (json!({"model": "m", "input": "x", "max_output_tokens": 1}), "Expected a value >= 16"),
            (
                json!({"model": "m", "input": "x", "tools": [{"type": "function", "function": {"name": "f"}}]}),
                "Missing required parameter: 'tools[0].name'.",
            ),
            (
                ask(json!([{"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAA"},
                {"role": "assistant", "content": "x"}])),
                "could not be verified",
            ),
        ],
    )
    .await;
}

#[tokio::test]
async fn anthropic_refuses_what_anthropic_refuses() {
    let ask = |messages: Value| json!({"model": "m", "max_tokens": 4000, "messages": messages});
    let user = json!({"role": "user", "content": "hi"});
    let call =
        json!({"role": "assistant", "content": [{"type": "tool_use", "id": "toolu_1", "name": "f", "input": {}}]});
    let result = json!({"type": "tool_result", "tool_use_id": "toolu_1", "content": "ok"});
    let thought = |proof: &str| {
        json!({"role": "assistant", "content": [
            {"type": "thinking", "thinking": "x", "signature": proof}, {"type": "text", "text": "y"}]})
    };
    let with = |field: &str, value: Value| {
        let mut body = ask(json!([user]));
        body[field] = value;
        body
    };
    let mut thinking = ask(json!([user, call, {"role": "user", "content": [result]}]));
    thinking["thinking"] = json!({"type": "enabled", "budget_tokens": 1024});
    refused(
        "/v1/messages",
        vec![
            (json!({"model": "m", "messages": [user]}), "max_tokens: Field required"),
            (json!({"max_tokens": 1, "messages": [user]}), "model: Field required"),
            (ask(json!([])), "at least one message is required"),
            (ask(json!([{"role": "assistant", "content": "x"}])), "first message must use the \"user\" role"),
            (ask(json!([{"role": "system", "content": "x"}])), "Unexpected role \"system\""),
            (ask(json!([{"role": "user", "content": [{"type": "text", "text": ""}]}])), "must be non-empty"),
            (ask(json!([{"role": "user", "content": ""}])), "must have non-empty content"),
            (
                ask(json!([{"role": "user", "content": [{"type": "input_text", "text": "x"}]}])),
                "Input tag 'input_text'",
            ),
            (ask(json!([user, {"role": "assistant", "content": "x "}])), "trailing whitespace"),
            (ask(json!([user, call])), "without `tool_result` blocks immediately after: toolu_1"),
            (ask(json!([user, call, user])), "without `tool_result` blocks immediately after: toolu_1"),
            (
                ask(json!([user, call, {"role": "user", "content": [{"type": "text", "text": "x"}, result]}])),
                "without `tool_result` blocks immediately after: toolu_1",
            ),
            (ask(json!([{"role": "user", "content": [result]}])), "unexpected `tool_use_id`"),
            (
                ask(json!([user, thought("c2ln"), user])),
                "messages.1.content.0: Invalid `signature` in `thinking` block",
            ),
            (thinking, "Expected `thinking` or `redacted_thinking`, but found `tool_use`"),
            (with("temperature", json!(1.5)), "temperature: range: 0..1"),
            (with("tool_choice", json!({"type": "any"})), "while providing tools"),
            (with("tools", json!([{"name": "f"}])), "tools.0.custom.input_schema: Field required"),
            (with("thinking", json!({"type": "enabled", "budget_tokens": 5})), "greater than or equal to 1024"),
            (with("stop_sequences", json!([" "])), "non-whitespace"),
        ],
    )
    .await;
}

#[tokio::test]
async fn system_turns_within_a_conversation_need_their_beta() {
    let turn = |role: &str| json!({"role": role, "content": "x"});
    let body = json!({"model": "m", "max_tokens": 9, "messages": [turn("user"), turn("system")]});
    assert_eq!(Client::default().post("/v1/messages", body.clone()).await.status, 400);
    let beta = Client::with(&[("anthropic-beta", "a-1,mid-conversation-system-2026-04-07")]);
    assert_eq!(beta.post("/v1/messages", body).await.status, 200);
}

#[tokio::test]
async fn thinking_that_was_given_is_taken_back() {
    let client = Client::default();
    let user = json!({"role": "user", "content": "hi"});
    let mut body = json!({"model": "m", "max_tokens": 4000, "messages": [user],
        "thinking": {"type": "enabled", "budget_tokens": 1024}});
    let answer = client.post("/v1/messages", body.clone()).await.json();
    body["messages"] = json!([user, {"role": "assistant", "content": answer["content"]}, user]);
    assert_eq!(client.post("/v1/messages", body.clone()).await.status, 200);
    body["messages"][1]["content"][0]["thinking"] = json!("something else");
    assert_eq!(client.post("/v1/messages", body).await.status, 400);
}

#[tokio::test]
async fn gemini_refuses_what_gemini_refuses() {
    let ask = |contents: Value| json!({"contents": contents});
    let user = json!({"role": "user", "parts": [{"text": "hi"}]});
    let call = json!({"role": "model", "parts": [{"functionCall": {"name": "f", "args": {}}}]});
    let with = |field: &str, value: Value| {
        let mut body = ask(json!([user]));
        body[field] = value;
        body
    };
    let open = json!({"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": false});
    refused(
        "/v1beta/models/m:generateContent",
        vec![
            (json!({}), "contents is not specified"),
            (ask(json!([{"role": "assistant", "parts": [{"text": "x"}]}])), "valid role: user, model"),
            (ask(json!([{"role": "user", "parts": []}])), "must not be empty"),
            (ask(json!([{"role": "user", "parts": [{}]}])), "required oneof field 'data'"),
            (ask(json!([user, call, user])), "number of function response parts"),
            (
                ask(json!([{"parts": [{"inlineData": {"mimeType": "image/png", "data": "***"}}]}])),
                "Base64 decoding failed",
            ),
            (
                ask(json!([user, {"role": "model", "parts": [{"text": "x", "thoughtSignature": "c2ln"}]}, user])),
                "Corrupted thought signature.",
            ),
            (
                with("tools", json!([{"functionDeclarations": [{"name": "f", "parameters": open}]}])),
                "Unknown name \"additionalProperties\" at 'tools[0].function_declarations[0].parameters'",
            ),
            (with("generationConfig", json!({"responseSchema": {"type": "STRING"}})), "only allowed when"),
        ],
    )
    .await;
}

#[tokio::test]
async fn unknown_fields_are_refused_only_when_strict() {
    let body = json!({"model": "m", "max_tokens": 9, "odd": 1, "messages": [{"role": "user", "content": "hi"}]});
    let strict = Client::with(&[("X-Mock-Strict", "1")]);
    for (path, expected) in [
        ("/v1/chat/completions", "Unrecognized request argument supplied: odd"),
        ("/v1/messages", "odd: Extra inputs are not permitted"),
    ] {
        assert_eq!(Client::default().post(path, body.clone()).await.status, 200);
        let reply = strict.post(path, body.clone()).await;
        assert_eq!((reply.status, reply.error().as_str()), (400, expected));
        let mut by_name = body.clone();
        by_name["model"] = json!("m:strict=1");
        assert_eq!(Client::default().post(path, by_name).await.error(), expected);
    }
}

#[tokio::test]
async fn what_is_no_json_or_no_endpoint_is_refused() {
    let client = Client::default();
    assert!(client.send("POST", "/v1/chat/completions", "{").await.error().contains("could not parse the JSON body"));
    assert_eq!(client.get("/v1/nothing").await.status, 404);
    assert_eq!(client.get("/v1/chat/completions").await.status, 405);
    assert!(client.send("HEAD", "/", "").await.body.is_empty());
    let odd = json!({"model": "m:colour=red", "messages": [{"role": "user", "content": "x"}]});
    assert!(client.post("/v1/chat/completions", odd).await.error().contains("there is no such option"));
}
