//! The raw path: where both sides speak one dialect, what was written is what arrives.

use serde_json::json;

use super::dialect::{ALL, Anthropic, Chat, Dialect, Gemini, Responses, Turn};
use super::support::{Gateway, Mock};
use super::upstream::{Act, Upstream};

/// Numbers that a parser would respell, keys in no order, escapes, non-ASCII and white space that mean nothing.
const ODD: &str = " \"zeta\" : 1.50e+2 ,\r\n\t\"alpha\":{ \"b\" : -0.0,\"a\":[12345678901234567890123 , 0.10, 1E5],\"x_nested\":{\"y\":null,\"b\":{},\"a\":[ ]}},\"gr\u{fc}n\u{df}\":\"Gr\\u00fc\\u00dfe \\/ \u{6f22}\u{5b57} \\ud83d\\ude00 \u{1f600}\" ";

/// An ask of each dialect with the odd fields inside; `MODEL` stands where the model does.
fn ask(dialect: Dialect, stream: bool) -> String {
    let core = match dialect {
        Chat => r#""messages" : [ {"content":"Hi","role":"user","x_extra":1.0} ]"#,
        Responses => r#""input":[{"role":"user","content":"Hi" ,"x_extra":1.0}]"#,
        Anthropic => {
            r#""max_tokens":64, "messages":[{"role":"user","content":[{"type":"text","text":"Hi","x_extra":1.0}]}]"#
        }
        Gemini => r#""contents":[{"parts":[{"text":"Hi"}],"role":"user","x_extra":1.0}]"#,
    };
    match dialect {
        Gemini => format!("{{{ODD},{core} }}\n"),
        _ if stream => format!("{{{ODD},\"model\" :\tMODEL , {core} , \"stream\" : true}}"),
        _ => format!("{{{ODD},\"model\" :\tMODEL , {core} }}"),
    }
}

/// An answer of each dialect with odd spellings.
fn answer(dialect: Dialect) -> String {
    let core = match dialect {
        Chat => {
            r#""object":"chat.completion","id":"c1","model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"Ho"},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2,"x_cost":1.50e-2}"#
        }
        Responses => {
            r#""object":"response","id":"resp_1","model":"m","status":"completed","output":[{"type":"message","id":"msg_1","role":"assistant","status":"completed","content":[{"type":"output_text","text":"Ho","annotations":[]}]}],"usage":{"input_tokens":1,"output_tokens":1,"total_tokens":2}"#
        }
        Anthropic => {
            r#""type":"message","id":"msg_1","role":"assistant","model":"m","content":[{"type":"text","text":"Ho"}],"stop_reason":"end_turn","stop_sequence":null,"usage":{"input_tokens":1,"output_tokens":1}"#
        }
        Gemini => {
            r#""candidates":[{"content":{"parts":[{"text":"Ho"}],"role":"model"},"finishReason":"STOP","index":0}],"usageMetadata":{"promptTokenCount":1,"candidatesTokenCount":1,"totalTokenCount":2},"modelVersion":"m","responseId":"r1""#
        }
    };
    format!("{{{ODD},\n  {core}}}\n")
}

/// A stream of each dialect, with comments, odd line ends and unknown events; `USAGE` marks the chunk that is only
/// there because the gateway asked for it.
fn stream(dialect: Dialect) -> String {
    match dialect {
        Chat => format!(
            ": hello\r\n\r\ndata: {{{ODD_LINE},\"id\":\"c1\",\"model\":\"m\",\"choices\":[{{\"index\":0,\"delta\":{{\"role\":\"assistant\",\"content\":\"\"}}}}]}}\n\n\
             data:{{\"id\":\"c1\",\"choices\":[{{\"delta\":{{\"content\":\"H\\u006f\"}},\"index\":0}}]}}\r\n\r\nid: 7\ndata: {{\"id\":\"c1\",\"choices\":[{{\"index\":0,\"delta\":{{}},\"finish_reason\":\"stop\"}}]}}\n\n\
             data: {{\"id\":\"c1\",\"choices\":[],\"usage\":{{\"prompt_tokens\":1,\"completion_tokens\":1,\"total_tokens\":2}}}}\n\ndata: [DONE]\n\n"
        ),
        Responses => format!(
            "event: response.created\ndata: {{\"type\":\"response.created\",{ODD_LINE},\"response\":{{\"id\":\"resp_1\",\"model\":\"m\",\"status\":\"in_progress\",\"output\":[]}}}}\r\n\r\n: ping\n\n\
             event: response.x_unknown\ndata: {{\"type\":\"response.x_unknown\",\"n\":1.0}}\n\n\
             event: response.output_text.delta\ndata: {{\"type\":\"response.output_text.delta\",\"delta\":\"H\\u006f\"}}\n\n\
             event: response.completed\ndata: {{\"type\":\"response.completed\",\"response\":{{\"id\":\"resp_1\",\"status\":\"completed\",\"output\":[],\"usage\":{{\"input_tokens\":1,\"output_tokens\":1,\"total_tokens\":2}}}}}}\n\n"
        ),
        Anthropic => format!(
            "event: message_start\ndata: {{\"type\":\"message_start\",{ODD_LINE},\"message\":{{\"id\":\"msg_1\",\"type\":\"message\",\"role\":\"assistant\",\"model\":\"m\",\"content\":[],\"usage\":{{\"input_tokens\":1,\"output_tokens\":1}}}}}}\n\n\
             event: ping\ndata: {{\"type\": \"ping\"}}\r\n\r\nevent: content_block_start\ndata: {{\"type\":\"content_block_start\",\"index\":0,\"content_block\":{{\"type\":\"text\",\"text\":\"\"}}}}\n\n\
             event: content_block_delta\ndata: {{\"type\":\"content_block_delta\",\"index\":0,\"delta\":{{\"type\":\"text_delta\",\"text\":\"H\\u006f\"}}}}\n\n\
             event: content_block_stop\ndata: {{\"type\":\"content_block_stop\",\"index\":0}}\n\n\
             event: message_delta\ndata: {{\"type\":\"message_delta\",\"delta\":{{\"stop_reason\":\"end_turn\",\"stop_sequence\":null}},\"usage\":{{\"output_tokens\":1}}}}\n\n\
             event: message_stop\ndata: {{\"type\":\"message_stop\"}}\n\n"
        ),
        Gemini => format!(
            "data: {{{ODD_LINE},\"candidates\":[{{\"content\":{{\"parts\":[{{\"text\":\"H\\u006f\"}}],\"role\":\"model\"}},\"index\":0}}],\"modelVersion\":\"m\"}}\r\n\r\n\
             data: {{\"candidates\":[{{\"content\":{{\"parts\":[{{\"text\":\"\"}}],\"role\":\"model\"}},\"finishReason\":\"STOP\",\"index\":0}}],\"usageMetadata\":{{\"promptTokenCount\":1,\"candidatesTokenCount\":1,\"totalTokenCount\":2}}}}\r\n\r\n"
        ),
    }
}

/// The odd fields without line ends, which an event cannot hold.
const ODD_LINE: &str = "\"zeta\" : 1.50e+2 ,\"alpha\":{ \"b\" : -0.0,\"a\":[12345678901234567890123 , 0.10, 1E5]},\"gr\u{fc}n\":\"Gr\\u00fc\\u00dfe \u{6f22}\u{5b57} \\ud83d\\ude00\"";

/// A gateway whose one account of this dialect is the recording upstream.
async fn gateway(mock: &Mock, dialect: Dialect, upstream: &Upstream) -> Gateway {
    let version = if dialect == Gemini { "v1beta" } else { "v1" };
    let yaml = format!(
        "providers:\n  raw: {{ dialect: {}, base_url: http://{}/{version}, auth: none }}\n",
        dialect.name(),
        upstream.address
    );
    Gateway::start(mock, &yaml).await
}

#[tokio::test]
async fn the_upstream_gets_the_clients_very_bytes_but_for_the_model_and_the_client_the_upstreams() {
    let mock = Mock::start().await;
    for dialect in ALL {
        let upstream = Upstream::saying("application/json", answer(dialect)).await;
        let gateway = gateway(&mock, dialect, &upstream).await;
        let reply = gateway
            .post(&dialect.path("raw/m%C3%B6del", false), ask(dialect, false).replace("MODEL", "\"raw/m\\u00f6del\""))
            .await;
        assert_eq!(reply.status(), 200, "{dialect:?}: {}", reply.text());
        let sent = ask(dialect, false).replace("MODEL", "\"m\u{f6}del\"");
        assert_eq!(String::from_utf8_lossy(&upstream.last().body), sent, "{dialect:?}");
        assert_eq!(reply.text(), answer(dialect), "{dialect:?}");
        let line = gateway.logged(reply.head.id()).await;
        assert_eq!(line["usage"], json!({"input": 1, "output": 1}), "{dialect:?}");
    }
}

/// Long bodies come in pieces, which are joined only where somebody must see all of them in a row.
#[tokio::test]
async fn a_long_body_is_relayed_and_translated_whole_whatever_it_is_made_of() {
    let mock = Mock::start().await;
    let file = |bytes: usize| format!("data:image/png;base64,{}", "iVBO".repeat(bytes / 4));
    let part = |bytes| json!({"type": "image_url", "image_url": {"url": file(bytes)}});
    let prose =
        |times| json!({"type": "text", "text": "Gr\u{fc}\u{df}e, \"\u{6f22}\u{5b57}\"\n\u{1f600} ".repeat(times)});
    let small: Vec<_> = (0..40_000).map(|number| json!({"type": "text", "text": format!("part {number}")})).collect();
    for content in
        [json!([part(5_000_000), prose(3)]), json!([prose(100_000), part(70_000), part(900_000)]), json!(small)]
    {
        let upstream = Upstream::saying("application/json", answer(Chat)).await;
        let gateway = gateway(&mock, Chat, &upstream).await;
        let body =
            |model: &str| json!({"messages": [{"role": "user", "content": content}], "model": model}).to_string();
        assert!(body("").len() > 1 << 20);
        let reply = gateway.post("/v1/chat/completions", body("raw/m\u{f6}del")).await;
        assert_eq!(reply.status(), 200, "{}", reply.text());
        assert!(upstream.last().body == body("m\u{f6}del").into_bytes(), "something has changed");
        let line = gateway.logged(reply.head.id()).await;
        assert_eq!(line["bytes_in"], body("raw/m\u{f6}del").len());
        // Another dialect: decoded, where it is needed in a row.
        let ask = json!({"model": "raw/m", "max_tokens": 9, "messages": [{"role": "user", "content": prose(100_000)["text"]}]});
        let reply = gateway.post("/v1/messages", ask.to_string()).await;
        assert_eq!(reply.status(), 200, "{}", reply.text());
        let sent: serde_json::Value = serde_json::from_slice(&upstream.last().body).expect("JSON");
        assert!(sent["messages"][0]["content"] == ask["messages"][0]["content"], "something has changed");
        // What is broken is said as of a short one.
        let reply = gateway.post("/v1/chat/completions", body("raw/m").replace("\"role\"", "role")).await;
        assert_eq!(
            (reply.status(), reply.json()["error"]["code"].as_str()),
            (400, Some("invalid_json")),
            "{}",
            reply.text()
        );
    }
}

#[tokio::test]
async fn a_relayed_stream_has_the_upstreams_very_bytes() {
    let mock = Mock::start().await;
    for dialect in ALL {
        let upstream = Upstream::saying("text/event-stream", stream(dialect)).await;
        let gateway = gateway(&mock, dialect, &upstream).await;
        let body = ask(dialect, true).replace("MODEL", "\"raw/model\"");
        // The extra chunk is shown to whoever asks for it.
        let (body, sent) = match dialect {
            Chat => {
                let body = body.replacen('{', "{\"stream_options\" : { \"include_usage\" : true, \"x\":1.0 },", 1);
                (body.clone(), body.replace("\"raw/model\"", "\"model\""))
            }
            _ => (body.clone(), body.replace("\"raw/model\"", "\"model\"")),
        };
        let reply = gateway.post(&dialect.path("raw/model", true), body).await;
        assert_eq!(reply.status(), 200, "{dialect:?}: {}", reply.text());
        assert_eq!(String::from_utf8_lossy(&upstream.last().body), sent, "{dialect:?}");
        assert_eq!(reply.text(), stream(dialect), "{dialect:?}");
        let line = gateway.logged(reply.head.id()).await;
        assert_eq!(line["usage"], json!({"input": 1, "output": 1}), "{dialect:?}");
        assert_eq!((&line["finish"], &line["status"]), (&json!("stop"), &json!(200)), "{dialect:?}");
    }
}

#[tokio::test]
async fn the_usage_chunk_that_only_the_gateway_asked_for_is_hidden_and_still_counted() {
    let mock = Mock::start().await;
    let upstream = Upstream::saying("text/event-stream", stream(Chat)).await;
    let gateway = gateway(&mock, Chat, &upstream).await;
    let usage =
        stream(Chat).split_inclusive("\n\n").find(|frame| frame.contains("\"usage\"")).expect("usage").to_owned();
    let hidden = stream(Chat).replace(&usage, "");
    for (given, sent) in [
        (None, r#"{"stream_options":{"include_usage":true},"#),
        (Some(r#""stream_options":{"include_usage":false},"#), r#"{"stream_options":{"include_usage":true},"#),
        (Some(r#""stream_options":null,"#), r#"{"stream_options":{"include_usage":true},"#),
    ] {
        let body = ask(Chat, true).replace("MODEL", "\"raw/model\"");
        let body = given.map_or(body.clone(), |given| body.replacen('{', &format!("{{{given}"), 1));
        let reply = gateway.post("/v1/chat/completions", body).await;
        let expected = ask(Chat, true).replace("MODEL", "\"model\"").replacen('{', sent, 1);
        assert_eq!(String::from_utf8_lossy(&upstream.last().body), expected, "{given:?}");
        assert_eq!(reply.text(), hidden, "{given:?}");
        let line = gateway.logged(reply.head.id()).await;
        assert_eq!(line["usage"], json!({"input": 1, "output": 1}), "{given:?}");
    }
}

#[tokio::test]
async fn a_stream_is_relayed_unchanged_however_the_upstream_cuts_it() {
    let mock = Mock::start().await;
    for dialect in ALL {
        // Byte by byte, as the mock drips; compared with the same answer in one piece.
        let gateway = Gateway::start(&mock, "").await;
        let model = format!("{}/mock-fast:fault=drip", dialect.account());
        let ask = |model: &str| dialect.ask(model, true, super::dialect::Turn::Tool, "How is the weather?");
        let dripped = gateway.post(&dialect.path(&model, true), ask(&model)).await;
        let model = format!("{}/mock-fast", dialect.account());
        let whole = gateway.post(&dialect.path(&model, true), ask(&model)).await;
        let said = [&dripped, &whole].map(|reply| {
            let mut said = dialect.read(reply);
            said.id.clear();
            said.calls.iter_mut().for_each(|call| call.id.clear());
            said
        });
        assert_eq!(said[0], said[1], "{dialect:?}");
    }
}

#[tokio::test]
async fn answers_are_asked_for_uncompressed_and_compressed_ones_are_named_as_the_fault() {
    let mock = Mock::start().await;
    let squeezed = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-encoding: gzip\r\ncontent-length: 3\r\n\r\n\x1f\x8b\x08";
    let upstream = Upstream::start(move |_| Act::Answer(squeezed.to_vec())).await;
    let gateway = gateway(&mock, Chat, &upstream).await;
    for from in ALL {
        let reply = gateway.post(&from.path("raw/m", false), from.ask("raw/m", false, Turn::Text, "Hi")).await;
        assert_eq!((reply.status(), reply.head.header("x-portcullis-error")), (502, Some("bad_upstream_answer")));
        assert!(from.error(&reply.json()).contains("gzip"), "{from:?}: {}", reply.text());
        assert!(upstream.last().head.to_ascii_lowercase().contains("accept-encoding: identity"), "{from:?}");
    }
}

/// A Messages stream of a model with this name, whose thinking is signed.
fn signed(model: &str) -> String {
    let events = [
        json!({"type": "message_start", "message": {"id": "msg_1", "type": "message", "role": "assistant", "model": model, "content": [], "usage": {"input_tokens": 1, "output_tokens": 1}}}),
        json!({"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": "", "signature": ""}}),
        json!({"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "Hm"}}),
        json!({"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": "EqQB"}}),
        json!({"type": "content_block_stop", "index": 0}),
        json!({"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": null}, "usage": {"output_tokens": 1}}),
        json!({"type": "message_stop"}),
    ];
    events
        .iter()
        .map(|event| format!("event: {}\ndata: {event}\n\n", event["type"].as_str().unwrap_or_default()))
        .collect()
}

#[tokio::test]
async fn messages_callers_who_ask_for_thinking_find_their_own_name_of_the_model_in_every_answer() {
    let mock = Mock::start().await;
    let upstream = Upstream::saying("text/event-stream", signed("claude-x")).await;
    let yaml = format!(
        "providers:
  raw: {{ dialect: anthropic, base_url: http://{}, auth: none }}
  chat: {{ dialect: openai_chat, base_url: http://MOCK/v1, api_key: k }}
models: {{ smart: raw/claude-x, other: chat/mock-fast, going: {{ target: raw/claude-x, continue_on_cut: true }} }}
cache: {{ exact: {{ ttl: 1m }} }}\n",
        upstream.address
    );
    let gateway = Gateway::start(&mock, &yaml).await;
    // Twice each: the second is the cache's.
    for (model, answered) in [("smart", "claude-x"), ("going", "claude-x"), ("other", "mock-fast")] {
        for stream in [true, true, false, false] {
            let ask = Anthropic.ask(model, stream, Turn::Text, "Hi");
            let mut ask: serde_json::Value = serde_json::from_slice(&ask).expect("JSON");
            ask["thinking"] = json!({"type": "enabled", "budget_tokens": 1024});
            ask["max_tokens"] = json!(4096);
            let reply = gateway.post("/v1/messages", ask.to_string()).await;
            assert_eq!((reply.status(), reply.head.header("x-portcullis-model")), (200, Some(answered)), "{model}");
            let text = reply.text();
            assert!(text.contains(&format!(r#""model":"{model}""#)) && !text.contains(answered), "{model}: {text}");
            if (model, stream) == ("smart", true) {
                assert_eq!(text, signed("smart"), "nothing else is touched");
            }
        }
    }
    // Who asks for none, and callers of other dialects, are told who it was.
    let plain = gateway.post("/v1/messages", Anthropic.ask("smart", true, Turn::Text, "Hi")).await;
    assert_eq!(plain.text(), signed("claude-x"));
    let chat = gateway.post("/v1/chat/completions", Chat.ask("other", false, Turn::Text, "Hi")).await;
    assert_eq!(chat.json()["model"], "mock-fast");
}

#[tokio::test]
async fn a_turn_that_gemini_did_not_get_done_is_the_next_targets() {
    let mock = Mock::start().await;
    let undone = json!({"candidates": [{"content": {"role": "model", "parts": []}, "finishReason": "MALFORMED_FUNCTION_CALL", "index": 0}], "modelVersion": "g"});
    let upstream = Upstream::start(move |seen| {
        let stream = seen.head.contains("streamGenerateContent");
        let body = if stream { format!("data: {undone}\r\n\r\n") } else { undone.to_string() };
        Act::Answer(super::upstream::answer(
            if stream { "text/event-stream" } else { "application/json" },
            body.as_bytes(),
        ))
    });
    let upstream = upstream.await;
    let yaml = format!(
        "providers:
  raw: {{ dialect: gemini, base_url: http://{}/v1beta, auth: none }}
  chat: {{ dialect: openai_chat, base_url: http://MOCK/v1, api_key: k }}
models: {{ safe: {{ fallback: [raw/g, chat/mock-fast] }}, alone: raw/g }}\n",
        upstream.address
    );
    let gateway = Gateway::start(&mock, &yaml).await;
    for from in ALL {
        for stream in [false, true] {
            let reply = gateway.post(&from.path("safe", stream), from.ask("safe", stream, Turn::Text, "Hello")).await;
            assert_eq!((reply.status(), reply.head.header("x-portcullis-provider")), (200, Some("chat")), "{from:?}");
            assert!(from.read(&reply).text.contains("You said"), "{from:?}");
            let reply = gateway.post(&from.path("alone", stream), from.ask("alone", stream, Turn::Text, "Hello")).await;
            assert_eq!(
                (reply.status(), reply.head.header("x-portcullis-error")),
                (502, Some("upstream_error")),
                "{from:?}"
            );
            assert!(from.error(&reply.json()).contains("MALFORMED_FUNCTION_CALL"), "{from:?}");
        }
    }
}

#[tokio::test]
async fn a_rate_limit_inside_a_responses_stream_reaches_its_own_callers_as_that_stream() {
    let mock = Mock::start().await;
    let frame = |kind: &str, response: serde_json::Value| {
        format!("event: {kind}\ndata: {}\n\n", json!({"type": kind, "response": response}))
    };
    let error = json!({"code": "rate_limit_exceeded", "message": "Rate limit reached. Please try again in 1.5s."});
    let stream =
        frame("response.created", json!({"id": "resp_1", "model": "m", "status": "in_progress", "output": []}))
            + &frame("response.failed", json!({"id": "resp_1", "status": "failed", "error": error, "output": []}));
    let upstream = Upstream::saying("text/event-stream", stream.clone()).await;
    let yaml = format!(
        "providers:
  raw: {{ dialect: openai_responses, base_url: http://{}/v1, auth: none }}
  chat: {{ dialect: openai_chat, base_url: http://MOCK/v1, api_key: k }}
models: {{ alone: raw/m, safe: {{ fallback: [raw/m, chat/mock-fast] }} }}\n",
        upstream.address
    );
    let gateway = Gateway::start(&mock, &yaml).await;
    let reply = gateway.post("/v1/responses", Responses.ask("alone", true, Turn::Text, "Hi")).await;
    assert_eq!((reply.status(), reply.text()), (200, stream));
    assert!(reply.head.header("content-type").is_some_and(|kind| kind.starts_with("text/event-stream")));
    assert_eq!(
        (reply.head.header("x-portcullis-error"), reply.head.header("retry-after-ms")),
        (Some("rate_limited"), Some("1500"))
    );
    let line = gateway.logged(reply.head.id()).await;
    assert_eq!(line["error"]["code"], "rate_limited", "{line}");
    // Others get the status, and another target its chance first.
    for from in [Chat, Anthropic, Gemini] {
        let reply = gateway.post(&from.path("alone", true), from.ask("alone", true, Turn::Text, "Hi")).await;
        assert_eq!((reply.status(), reply.head.header("retry-after")), (429, Some("2")), "{from:?}: {}", reply.text());
    }
    let reply = gateway.post("/v1/responses", Responses.ask("safe", true, Turn::Text, "Hi")).await;
    assert_eq!((reply.status(), reply.head.header("x-portcullis-provider")), (200, Some("chat")));
}
