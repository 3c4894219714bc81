//! What each dialect gets when nothing goes wrong.

use serde_json::{Value, json};

use super::{Client, asks, streamed_text, whole_text};

fn weather() -> Value {
    json!({
        "type": "object",
        "properties": {"city": {"type": "string"}, "unit": {"type": "string", "enum": ["C", "F"]}},
        "required": ["city", "unit"], "additionalProperties": false,
    })
}

#[tokio::test]
async fn streams_say_the_same_as_whole_answers_with_the_same_usage() {
    let client = Client::default();
    let whole: Vec<_> = asks("mock-fast", false);
    let streams = asks("mock-fast", true);
    for ((dialect, path, body), (_, stream_path, mut stream_body)) in whole.into_iter().zip(streams) {
        let value = client.post(&path, body).await.json();
        if dialect == "chat" {
            stream_body["stream_options"] = json!({"include_usage": true});
        }
        let reply = client.post(&stream_path, stream_body).await;
        assert!(
            reply.complete && reply.header("content-type").is_some_and(|kind| kind.starts_with("text/event-stream"))
        );
        let events = reply.events();
        let text = whole_text(dialect, &value);
        assert!(text.starts_with("You said: \"Hello there\"."), "{dialect}: {text}");
        assert_eq!(streamed_text(dialect, &events), text, "{dialect}");
        let (usage, streamed) = match dialect {
            "chat" => (value["usage"].clone(), events[events.len() - 2].1["usage"].clone()),
            "responses" => (value["usage"].clone(), events.last().expect("events").1["response"]["usage"].clone()),
            "anthropic" => {
                let streamed = events[events.len() - 2].1["usage"].clone();
                let mut usage = value["usage"].clone();
                for apart in ["cache_creation", "service_tier", "inference_geo"] {
                    usage.as_object_mut().expect("usage").remove(apart);
                }
                (usage, streamed)
            }
            _ => (value["usageMetadata"].clone(), events.last().expect("events").1["usageMetadata"].clone()),
        };
        assert!(usage.is_object(), "{dialect}: {value}");
        assert_eq!(streamed, usage, "{dialect}");
    }
}

#[tokio::test]
async fn a_declared_tool_is_called_in_every_dialect() {
    let client = Client::default();
    let chat = client
        .post(
            "/v1/chat/completions",
            json!({"model": "m", "messages": [{"role": "user", "content": "weather in parallel"}],
                "tools": [{"type": "function", "function": {"name": "get_weather", "parameters": weather()}}]}),
        )
        .await
        .json();
    let calls = chat["choices"][0]["message"]["tool_calls"].as_array().expect("calls");
    assert_eq!(calls.len(), 2);
    assert_eq!(calls[0]["function"]["arguments"], r#"{"city":"city","unit":"C"}"#);
    assert_eq!(chat["choices"][0]["finish_reason"], "tool_calls");

    // A word comes before a call that nothing forces.
    for (choice, at) in [("auto", 1), ("any", 0)] {
        let messages = client
            .post(
                "/v1/messages",
                json!({"model": "m", "max_tokens": 200, "messages": [{"role": "user", "content": "weather"}],
                    "tool_choice": {"type": choice}, "tools": [{"name": "get_weather", "input_schema": weather()}]}),
            )
            .await
            .json();
        assert_eq!(messages["stop_reason"], "tool_use");
        assert_eq!(messages["content"][at]["input"], json!({"city": "city", "unit": "C"}));
    }

    let responses = client
        .post(
            "/v1/responses",
            json!({"model": "m", "input": "the weather, please", "tools": [
                {"type": "function", "name": "get_weather", "parameters": weather(), "strict": true}]}),
        )
        .await
        .json();
    assert_eq!(responses["output"][0]["type"], "function_call");
    assert_eq!(responses["output"][0]["name"], "get_weather");

    let mut schema = weather();
    schema.as_object_mut().expect("a schema").remove("additionalProperties");
    let gemini = client
        .post(
            "/v1beta/models/m:generateContent",
            json!({"contents": [{"parts": [{"text": "go"}]}],
                "toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["get_weather"]}},
                "tools": [{"functionDeclarations": [{"name": "get_weather", "parameters": schema}]}]}),
        )
        .await
        .json();
    let call = &gemini["candidates"][0]["content"]["parts"][0]["functionCall"];
    assert_eq!(*call, json!({"name": "get_weather", "args": {"city": "city", "unit": "C"}}));
}

#[tokio::test]
async fn streamed_arguments_join_to_the_whole() {
    let client = Client::default();
    let reply = client
        .post(
            "/v1/chat/completions",
            json!({"model": "m", "stream": true, "messages": [{"role": "user", "content": "weather"}],
                "tools": [{"type": "function", "function": {"name": "get_weather", "parameters": weather()}}]}),
        )
        .await;
    let events = reply.events();
    let arguments: String = events
        .iter()
        .filter_map(|(_, data)| data["choices"][0]["delta"]["tool_calls"][0]["function"]["arguments"].as_str())
        .collect();
    assert_eq!(arguments, r#"{"city":"city","unit":"C"}"#);
    assert_eq!(events.last().expect("events").1, json!("[DONE]"));
}

#[tokio::test]
async fn a_schema_gets_an_instance_in_every_dialect() {
    let client = Client::default();
    let expected = r#"{"city":"city","unit":"C"}"#;
    let mut asks = asks("m", false);
    for (dialect, path, body) in &mut asks {
        match *dialect {
            "chat" => {
                body["response_format"] =
                    json!({"type": "json_schema", "json_schema": {"name": "w", "strict": true, "schema": weather()}});
            }
            "responses" => {
                body["text"] = json!({"format": {"type": "json_schema", "name": "w", "schema": weather()}});
            }
            "anthropic" => {
                body["output_config"] = json!({"format": {"type": "json_schema", "schema": weather()}});
            }
            _ => {
                body["generationConfig"] =
                    json!({"responseMimeType": "application/json", "responseJsonSchema": weather()});
            }
        }
        let value = client.post(path, body.clone()).await.json();
        assert_eq!(whole_text(dialect, &value), expected, "{dialect}: {value}");
    }
}

#[tokio::test]
async fn reasoning_is_given_with_its_proof_and_counted() {
    let client = Client::default();
    let mut asks = asks("m", false);
    for (dialect, path, body) in &mut asks {
        match *dialect {
            "chat" => body["reasoning_effort"] = json!("low"),
            "responses" => {
                body["reasoning"] = json!({"effort": "low", "summary": "auto"});
                body["include"] = json!(["reasoning.encrypted_content"]);
            }
            "anthropic" => {
                body["thinking"] = json!({"type": "enabled", "budget_tokens": 1024});
                body["max_tokens"] = json!(4000);
            }
            _ => {
                body["generationConfig"] = json!({"thinkingConfig": {"thinkingBudget": 1024, "includeThoughts": true}})
            }
        }
        let value = client.post(path, body.clone()).await.json();
        let (text, proof, counted) = match *dialect {
            "chat" => (
                &value["choices"][0]["message"]["reasoning_content"],
                &json!("none"),
                &value["usage"]["completion_tokens_details"]["reasoning_tokens"],
            ),
            "responses" => (
                &value["output"][0]["summary"][0]["text"],
                &value["output"][0]["encrypted_content"],
                &value["usage"]["output_tokens_details"]["reasoning_tokens"],
            ),
            "anthropic" => {
                (&value["content"][0]["thinking"], &value["content"][0]["signature"], &value["usage"]["output_tokens"])
            }
            _ => (
                &value["candidates"][0]["content"]["parts"][0]["text"],
                &value["candidates"][0]["content"]["parts"][1]["thoughtSignature"],
                &value["usageMetadata"]["thoughtsTokenCount"],
            ),
        };
        assert!(text.as_str().is_some_and(|text| text.contains("Hello there")), "{dialect}: {value}");
        assert!(proof.is_string() && counted.as_u64().is_some_and(|count| count > 0), "{dialect}: {value}");
    }
}

#[tokio::test]
async fn a_token_limit_ends_the_text_and_is_told_in_every_dialect() {
    let client = Client::default();
    let mut asks = asks("m", false);
    for (dialect, path, body) in &mut asks {
        match *dialect {
            "chat" => body["max_completion_tokens"] = json!(16),
            "responses" => body["max_output_tokens"] = json!(16),
            "anthropic" => body["max_tokens"] = json!(16),
            _ => body["generationConfig"] = json!({"maxOutputTokens": 16}),
        }
        let value = client.post(path, body.clone()).await.json();
        assert_eq!(whole_text(dialect, &value).len(), 64, "{dialect}");
        let told = match *dialect {
            "chat" => value["choices"][0]["finish_reason"] == "length",
            "responses" => {
                value["status"] == "incomplete" && value["incomplete_details"]["reason"] == "max_output_tokens"
            }
            "anthropic" => value["stop_reason"] == "max_tokens",
            _ => value["candidates"][0]["finishReason"] == "MAX_TOKENS",
        };
        assert!(told, "{dialect}: {value}");
    }
}

#[tokio::test]
async fn marked_prompts_are_written_to_the_cache_once_and_read_after() {
    let client = Client::default();
    let ask = json!({"model": "m", "max_tokens": 50, "messages": [{"role": "user", "content": "hi"}],
        "system": [{"type": "text", "text": "s".repeat(400), "cache_control": {"type": "ephemeral"}}]});
    let first = client.post("/v1/messages", ask.clone()).await.json();
    let second = client.post("/v1/messages", ask).await.json();
    let counts = |value: &Value| {
        let usage = &value["usage"];
        ["input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens"].map(|name| usage[name].as_u64())
    };
    assert_eq!(counts(&first), [Some(1), Some(100), Some(0)]);
    assert_eq!(counts(&second), [Some(1), Some(0), Some(100)]);
    assert_eq!(first["usage"]["cache_creation"]["ephemeral_5m_input_tokens"], 100);
}

#[tokio::test]
async fn responses_are_kept_continued_listed_and_deleted() {
    let client = Client::default();
    let first = client.post("/v1/responses", json!({"model": "m", "input": "one"})).await.json();
    let id = first["id"].as_str().expect("an id");
    let second = json!({"model": "m", "input": "two", "previous_response_id": id});
    let second = client.post("/v1/responses", second).await.json();
    assert!(whole_text("responses", &second).contains("2 user turns"));
    assert_eq!(client.get(&format!("/v1/responses/{id}")).await.json(), first);
    let items = client.get(&format!("/v1/responses/{id}/input_items")).await.json();
    assert_eq!(items["data"][0]["content"][0]["text"], "one");
    let cancel = client.post(&format!("/v1/responses/{id}/cancel"), json!({})).await;
    assert_eq!((cancel.status, cancel.error().as_str()), (400, "Cannot cancel a synchronous response."));
    let gone = client.send("DELETE", &format!("/v1/responses/{id}"), "").await.json();
    assert_eq!(gone["deleted"], true);
    assert_eq!(client.get(&format!("/v1/responses/{id}")).await.status, 404);
    let lost = json!({"model": "m", "input": "two", "previous_response_id": id});
    assert_eq!(client.post("/v1/responses", lost).await.json()["error"]["code"], "previous_response_not_found");
}

#[tokio::test]
async fn a_background_response_can_be_cancelled_while_it_runs() {
    let client = Client::default();
    let ask = json!({"model": "m:ttft=60s", "input": "one", "background": true});
    let queued = client.post("/v1/responses", ask).await.json();
    assert_eq!(queued["status"], "queued");
    let path = format!("/v1/responses/{}", queued["id"].as_str().expect("an id"));
    assert_eq!(client.get(&path).await.json()["status"], "in_progress");
    let cancelled = client.post(&format!("{path}/cancel"), json!({})).await.json();
    assert_eq!(cancelled["status"], "cancelled");
    assert_eq!(client.get(&path).await.json()["status"], "cancelled");
}

#[tokio::test]
async fn gemini_without_sse_streams_one_json_array() {
    let client = Client::default();
    let ask = json!({"contents": [{"parts": [{"text": "Hello there"}]}]});
    let reply = client.post("/v1/models/m:streamGenerateContent", ask).await;
    let Value::Array(parts) = reply.json() else { panic!("no array") };
    let text: String =
        parts.iter().filter_map(|part| part["candidates"][0]["content"]["parts"][0]["text"].as_str()).collect();
    assert!(text.starts_with("You said: \"Hello there\".") && parts.len() > 5);
}

#[tokio::test]
async fn counts_agree_with_usage() {
    let client = Client::default();
    let body = json!({"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "count me in"}]});
    let used = client.post("/v1/messages", body.clone()).await.json();
    let counted = client.post("/v1/messages/count_tokens", body).await.json();
    assert_eq!(counted["input_tokens"], used["usage"]["input_tokens"]);
    let body = json!({"contents": [{"parts": [{"text": "count me in"}]}]});
    let used = client.post("/v1/models/m:generateContent", body.clone()).await.json();
    let counted = client.post("/v1/models/m:countTokens", body).await.json();
    assert_eq!(counted["totalTokens"], used["usageMetadata"]["promptTokenCount"]);
    let body = json!({"model": "m", "input": "count me in"});
    let used = client.post("/v1/responses", body.clone()).await.json();
    let counted = client.post("/v1/responses/input_tokens", body).await.json();
    assert_eq!(counted["input_tokens"], used["usage"]["input_tokens"]);
}

#[tokio::test]
async fn embeddings_are_the_same_in_both_encodings() {
    use base64::Engine;
    let client = Client::default();
    let ask = |format: &str| json!({"model": "m", "input": ["a", "b"], "dimensions": 8, "encoding_format": format});
    let floats = client.post("/v1/embeddings", ask("float")).await.json();
    let packed = client.post("/v1/embeddings", ask("base64")).await.json();
    for i in 0..2 {
        let packed = packed["data"][i]["embedding"].as_str().expect("base64");
        let bytes = base64::engine::general_purpose::STANDARD.decode(packed).expect("decodes");
        let unpacked: Vec<f32> =
            bytes.chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().expect("four"))).collect();
        let numbers: Vec<f32> = serde_json::from_value(floats["data"][i]["embedding"].clone()).expect("numbers");
        assert_eq!((numbers.len(), &numbers), (8, &unpacked));
    }
    let gemini = client
        .post(
            "/v1beta/models/m:batchEmbedContents",
            json!({"requests": [{"content": {"parts": [{"text": "a"}]}, "outputDimensionality": 8}]}),
        )
        .await
        .json();
    assert_eq!(gemini["embeddings"][0]["values"], floats["data"][0]["embedding"]);
}

#[tokio::test]
async fn legacy_completions_echo_and_answer_each_prompt() {
    let client = Client::default();
    let body = json!({"model": "m", "prompt": ["one", "two"], "n": 2, "echo": true, "max_tokens": 5, "logprobs": 1});
    let value = client.post("/v1/completions", body.clone()).await.json();
    let choices = value["choices"].as_array().expect("choices");
    assert_eq!(choices.len(), 4);
    assert!(choices[3]["text"].as_str().is_some_and(|text| text.starts_with("twoYou said")));
    assert_eq!(choices[0]["finish_reason"], "length");
    let mut stream = body;
    stream["stream"] = json!(true);
    let events = client.post("/v1/completions", stream).await.events();
    let text: String = events
        .iter()
        .filter(|(_, data)| data["choices"][0]["index"] == 3)
        .filter_map(|(_, data)| data["choices"][0]["text"].as_str())
        .collect();
    assert_eq!(choices[3]["text"], text);
}

#[tokio::test]
async fn models_are_listed_in_the_callers_form() {
    let plain = "GET /v1/models HTTP/1.1\r\nconnection: close\r\n\r\n";
    let client = Client::default();
    let mut io = client.dial();
    tokio::io::AsyncWriteExt::write_all(&mut io, plain.as_bytes()).await.expect("writes");
    let mut bytes = Vec::new();
    tokio::io::AsyncReadExt::read_to_end(&mut io, &mut bytes).await.expect("reads");
    let openai = super::cut_up(&bytes).json();
    assert_eq!(openai["data"][0]["object"], "model");
    let anthropic = client.get("/v1/models").await.json();
    assert_eq!(anthropic["data"][0]["type"], "model");
    let names: Vec<&str> =
        openai["data"].as_array().expect("models").iter().filter_map(|model| model["id"].as_str()).collect();
    assert!(names.contains(&"mock-tools") && names.contains(&"mock-fault-cut-mid"));
}

#[tokio::test]
async fn one_connection_serves_request_after_request() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let client = Client::default();
    let mut io = client.dial();
    let body = asks("m", true)[0].2.to_string();
    let one = format!("POST /v1/chat/completions HTTP/1.1\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    // Two requests ahead of any answer, then one that ends the connection.
    let last = client.request("POST", "/v1/chat/completions", &body);
    io.write_all(format!("{one}{one}{last}").as_bytes()).await.expect("writes");
    let mut bytes = Vec::new();
    io.read_to_end(&mut bytes).await.expect("reads");
    assert_eq!(memchr::memmem::find_iter(&bytes, b"HTTP/1.1 200 OK").count(), 3);
    assert_eq!(memchr::memmem::find_iter(&bytes, b"data: [DONE]").count(), 3);
}

#[tokio::test]
async fn routers_reasoning_comes_with_a_proof_that_is_checked() {
    let client = Client::default();
    let user = json!({"role": "user", "content": "hi"});
    let mut ask = json!({"model": "m", "messages": [user], "reasoning": {"effort": "low"}});
    let message = client.post("/v1/chat/completions", ask.clone()).await.json()["choices"][0]["message"].clone();
    let proof = message["reasoning_details"][0]["signature"].clone();
    ask["stream"] = json!(true);
    let events = client.post("/v1/chat/completions", ask.clone()).await.events();
    let streamed = events
        .iter()
        .map(|(_, data)| &data["choices"][0]["delta"]["reasoning_details"][0]["signature"])
        .find(|s| s.is_string());
    assert_eq!(streamed, Some(&proof));
    ask["messages"] = json!([user, message, user]);
    assert_eq!(client.post("/v1/chat/completions", ask.clone()).await.status, 200);
    ask["messages"][1]["reasoning_details"][0]["signature"] = json!("c2ln");
    assert_eq!(client.post("/v1/chat/completions", ask).await.status, 400);
}

#[test]
fn options_are_read_from_the_command_line() {
    use clap::{Args, FromArgMatches};
    let command = super::Options::augment_args(clap::Command::new("mock"));
    let read = |words: &[&str]| {
        let matches = command.clone().try_get_matches_from(words)?;
        super::Options::from_arg_matches(&matches)
    };
    let options = read(&["mock", "--knobs", "ttft=5ms,fault=500"]).expect("reads");
    assert_eq!(options.knobs.ttft, Some(std::time::Duration::from_millis(5)));
    assert_eq!(read(&["mock"]).expect("reads").knobs, Default::default());
    assert!(read(&["mock", "--knobs", "tempo=1"]).expect_err("refused").to_string().contains("no such option"));
}
