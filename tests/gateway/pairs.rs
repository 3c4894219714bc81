//! Sixteen pairs: what is said in one dialect arrives in another, and the answer comes back in the first.

use serde_json::{Value, json};

use super::dialect::{ALL, Anthropic, Chat, Dialect, Gemini, Responses, Turn};
use super::support::{Gateway, Mock};
use super::upstream::{Act, Upstream, answer};

/// What a question comes out as; the mock quotes it.
const QUESTION: &str = "Grüße, \"Welt\" → 漢字 \u{1f600}";

async fn ask(gateway: &Gateway, from: Dialect, to: Dialect, stream: bool, turn: Turn, say: &str) -> Exchange {
    let model = format!("{}/mock-fast", to.account());
    let reply = gateway.post(&from.path(&model, stream), from.ask(&model, stream, turn, say)).await;
    let pair = format!("{from:?} to {to:?}, stream {stream}, {turn:?}");
    assert_eq!(reply.status(), 200, "{pair}: {}", reply.text());
    assert!(reply.whole, "{pair}");
    let said = from.read(&reply);
    assert!(said.error.is_none() && said.done, "{pair}: {}", reply.text());
    let log = gateway.logged(reply.head.id()).await;
    assert_eq!((&log["status"], &log["error"]), (&json!(200), &Value::Null), "{pair}: {log}");
    let logged = (log["usage"]["input"].as_u64(), log["usage"]["output"].as_u64());
    let (input, output) = said.usage.unwrap_or_else(|| panic!("{pair}: no usage in {}", reply.text()));
    assert_eq!(logged, (Some(input), Some(output)), "{pair}: the log's usage is another");
    assert!(!said.id.is_empty(), "{pair}: no id");
    Exchange { pair, said }
}

struct Exchange {
    pair: String,
    said: super::dialect::Said,
}

/// Asks every pair, streamed and not.
async fn every_pair(gateway: &Gateway, turn: Turn, say: &str, check: impl Fn(Dialect, Dialect, &Exchange)) {
    for from in ALL {
        for to in ALL {
            for stream in [false, true] {
                check(from, to, &ask(gateway, from, to, stream, turn, say).await);
            }
        }
    }
}

#[tokio::test]
async fn text_comes_back_whole_with_its_finish_and_usage_between_every_pair() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, "").await;
    every_pair(&gateway, Turn::Text, QUESTION, |from, _, Exchange { pair, said }| {
        assert!(said.text.starts_with(&format!("You said: \"{QUESTION}\".")), "{pair}: {}", said.text);
        assert!(said.text.contains("The system prompt has 19 bytes."), "{pair}: {}", said.text);
        assert!(said.text.ends_with("nothing here was thought by a model."), "{pair}: {}", said.text);
        assert_eq!(said.finish, from.finishes().0, "{pair}");
        let (input, output) = said.usage.unwrap_or_default();
        assert_eq!(output, said.text.len().div_ceil(4) as u64, "{pair}");
        // The question and the system prompt, four bytes a token.
        assert_eq!(input, (QUESTION.len() + 19).div_ceil(4) as u64, "{pair}");
    })
    .await;
    gateway.settled().await;
}

#[tokio::test]
async fn tool_calls_keep_name_arguments_and_ids_between_every_pair() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, "").await;
    every_pair(&gateway, Turn::Tool, "How is the weather?", |from, to, Exchange { pair, said }| {
        assert_eq!(said.calls.len(), 1, "{pair}");
        let call = &said.calls[0];
        assert_eq!(call.name, "get_weather", "{pair}");
        assert_eq!(call.arguments(), json!({"city": "city"}), "{pair}");
        // Gemini gives no ids; where its calls go to others, ids are made.
        assert_eq!(call.id.is_empty(), from == Gemini && to == Gemini, "{pair}: {call:?}");
        assert_eq!(said.finish, from.finishes().1, "{pair}");
    })
    .await;
}

#[tokio::test]
async fn a_tool_result_turn_is_understood_between_every_pair() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, "").await;
    every_pair(&gateway, Turn::Result, "How is the weather?", |from, _, Exchange { pair, said }| {
        assert!(said.text.contains("The tool answered: ") && said.text.contains("21 degrees"), "{pair}: {}", said.text);
        assert_eq!(said.finish, from.finishes().0, "{pair}");
    })
    .await;
}

/// The very call that one answer made, id and all, is sent back with its result.
#[tokio::test]
async fn the_ids_of_an_answer_fit_the_next_turn_between_every_pair() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, "").await;
    for from in ALL {
        for to in ALL {
            let first = ask(&gateway, from, to, true, Turn::Tool, "How is the weather?").await;
            let call = &first.said.calls[0];
            let model = format!("{}/mock-fast", to.account());
            let body = String::from_utf8(from.ask(&model, false, Turn::Result, "How is the weather?")).expect("UTF-8");
            let body = match from {
                Gemini if !call.id.is_empty() => body
                    .replace(
                        "{\"name\":\"get_weather\",\"args\"",
                        &format!("{{\"id\":\"{}\",\"name\":\"get_weather\",\"args\"", call.id),
                    )
                    .replace(
                        "{\"name\":\"get_weather\",\"response\"",
                        &format!("{{\"id\":\"{}\",\"name\":\"get_weather\",\"response\"", call.id),
                    ),
                Gemini => body,
                _ => body.replace("call_one", &call.id),
            };
            let reply = gateway.post(&from.path(&model, false), body).await;
            assert_eq!(reply.status(), 200, "{}: {}", first.pair, reply.text());
            assert!(from.read(&reply).text.contains("21 degrees"), "{}: {}", first.pair, reply.text());
        }
    }
}

#[tokio::test]
async fn gemini_without_sse_streams_one_json_array_from_every_provider() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, "").await;
    for to in ALL {
        let model = format!("{}/mock-fast", to.account());
        let path = format!("/v1beta/models/{model}:streamGenerateContent");
        let reply = gateway.post(&path, Gemini.ask(&model, true, Turn::Text, "Hello")).await;
        assert_eq!(reply.head.header("content-type"), Some("application/json"), "{to:?}");
        let chunks = reply.json();
        let chunks = chunks.as_array().expect("an array");
        assert!(chunks.len() > 2, "{to:?}: {} chunks are no stream", chunks.len());
        let text: String = chunks.iter().map(|chunk| Gemini.read_answer(chunk).text).collect();
        assert!(text.starts_with("You said: \"Hello\"."), "{to:?}: {text}");
        assert_eq!(chunks.last().map(|chunk| Gemini.read_answer(chunk).finish).as_deref(), Some("STOP"), "{to:?}");
    }
}

#[tokio::test]
async fn embeddings_go_both_ways_between_openai_and_gemini() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, "").await;
    let numbers = |value: &Value| value.as_array().expect("numbers").len();
    let mut lengths = Vec::new();
    for to in [Chat, Gemini] {
        let model = format!("{}/mock-embed", to.account());
        let body = json!({"model": model, "input": ["one", "two"], "dimensions": 16});
        let reply = gateway.post("/v1/embeddings", body.to_string()).await;
        assert_eq!(reply.status(), 200, "{to:?}: {}", reply.text());
        let answer = reply.json();
        assert_eq!(answer["object"], "list");
        let rows = answer["data"].as_array().expect("data");
        assert_eq!(rows.iter().map(|row| row["index"].as_u64()).collect::<Vec<_>>(), [Some(0), Some(1)]);
        lengths.extend(rows.iter().map(|row| numbers(&row["embedding"])));

        let one = json!({"content": {"parts": [{"text": "one"}]}, "outputDimensionality": 16});
        let reply = gateway.post(&format!("/v1beta/models/{model}:embedContent"), one.to_string()).await;
        assert_eq!(reply.status(), 200, "{to:?}: {}", reply.text());
        lengths.push(numbers(&reply.json()["embedding"]["values"]));

        let entry = |text: &str| json!({"model": format!("models/{model}"), "content": {"parts": [{"text": text}]}, "outputDimensionality": 16});
        let both = json!({"requests": [entry("one"), entry("two")]});
        let reply = gateway.post(&format!("/v1beta/models/{model}:batchEmbedContents"), both.to_string()).await;
        assert_eq!(reply.status(), 200, "{to:?}: {}", reply.text());
        let rows = reply.json()["embeddings"].as_array().expect("embeddings").clone();
        lengths.extend(rows.iter().map(|row| numbers(&row["values"])));
    }
    assert_eq!(lengths, [16; 10]);
}

#[tokio::test]
async fn tokens_are_counted_by_the_provider_or_estimated_and_said_to_be() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, "").await;
    for from in [Anthropic, Gemini, Responses] {
        for to in ALL {
            let model = format!("{}/mock-fast", to.account());
            let path = match from {
                Anthropic => "/v1/messages/count_tokens".to_owned(),
                Responses => "/v1/responses/input_tokens".to_owned(),
                _ => format!("/v1beta/models/{model}:countTokens"),
            };
            let mut body: Value = serde_json::from_slice(&from.ask(&model, false, Turn::Text, QUESTION)).expect("JSON");
            let fields = body.as_object_mut().expect("an object");
            fields.retain(|name, _| !matches!(name.as_str(), "stream" | "max_tokens"));
            if from == Gemini {
                fields.remove("systemInstruction");
            }
            let reply = gateway.post(&path, body.to_string()).await;
            let pair = format!("{from:?} to {to:?}");
            assert_eq!(reply.status(), 200, "{pair}: {}", reply.text());
            let key = if from == Gemini { "totalTokens" } else { "input_tokens" };
            let count = reply.json()[key].as_u64().unwrap_or_else(|| panic!("{pair}: {}", reply.text()));
            let estimated = reply.head.header("x-portcullis-estimated") == Some("true");
            assert_eq!(estimated, to == Chat, "{pair}");
            let system = if from == Gemini { 0 } else { 19 };
            if !estimated {
                assert_eq!(count, (QUESTION.len() + system).div_ceil(4) as u64, "{pair}");
            }
            assert!(count > 5, "{pair}: {count}");
            assert_eq!(gateway.logged(reply.head.id()).await["operation"], "count_tokens", "{pair}");
        }
    }
}

#[tokio::test]
async fn legacy_completions_are_served_by_every_provider() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, "").await;
    for to in ALL {
        let model = format!("{}/mock-fast", to.account());
        let body = json!({"model": model, "prompt": "Once upon a time", "max_tokens": 400});
        let reply = gateway.post("/v1/completions", body.to_string()).await;
        assert_eq!(reply.status(), 200, "{to:?}: {}", reply.text());
        let answer = reply.json();
        assert_eq!(answer["object"], "text_completion", "{to:?}");
        let text = answer["choices"][0]["text"].as_str().expect("text").to_owned();
        assert!(text.contains("Once upon a time"), "{to:?}: {text}");
        assert_eq!(answer["choices"][0]["finish_reason"], "stop", "{to:?}");

        let body = json!({"model": model, "prompt": "Once upon a time", "max_tokens": 400, "stream": true});
        let reply = gateway.post("/v1/completions", body.to_string()).await;
        let frames = super::dialect::frames(&reply.text());
        assert_eq!(frames.last().map(|(_, data)| data.as_str()), Some("[DONE]"), "{to:?}");
        let streamed: String = frames
            .iter()
            .filter_map(|(_, data)| serde_json::from_str::<Value>(data).ok())
            .filter_map(|chunk| chunk["choices"][0]["text"].as_str().map(str::to_owned))
            .collect();
        assert_eq!(streamed, text, "{to:?}");
    }
}

#[tokio::test]
async fn a_picture_in_an_answer_reaches_the_caller_or_the_log_says_that_it_did_not() {
    let mock = Mock::start().await;
    let upstream = Upstream::start(|seen| {
        let picture = json!({"candidates": [{"index": 0, "finishReason": "STOP", "content": {"role": "model", "parts": [
            {"text": "Here."}, {"inlineData": {"mimeType": "image/png", "data": "iVBORw0KGgo="}}]}}]});
        Act::Answer(match seen.head.contains("streamGenerateContent") {
            true => answer("text/event-stream", format!("data: {picture}\r\n\r\n").as_bytes()),
            false => answer("application/json", picture.to_string().as_bytes()),
        })
    })
    .await;
    let address = upstream.address;
    let yaml = format!("providers:\n  g: {{ preset: gemini, base_url: http://{address}/v1beta, api_key: sk-up }}\n");
    let gateway = Gateway::start(&mock, &yaml).await;
    for from in ALL {
        for stream in [false, true] {
            let body = from.ask("g/painter", stream, Turn::Text, "Hello");
            let reply = gateway.post(&from.path("g/painter", stream), body).await;
            let case = format!("{from:?} {stream}: {}", reply.text());
            assert!(reply.status() == 200 && reply.text().contains("Here."), "{case}");
            assert_eq!(reply.text().contains("iVBORw0KGgo="), from != Anthropic, "{case}");
            let line = gateway.logged(reply.head.id()).await;
            let dropped = line["dropped"].as_array().is_some_and(|all| all.iter().any(|what| what[0] == "image"));
            assert_eq!(dropped, from == Anthropic, "{case}: {line}");
        }
    }
}
