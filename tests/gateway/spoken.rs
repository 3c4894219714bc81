//! Streams that adapters decode, for more than the one who asked: kept, shared, and gone on with, like any other's.

use std::time::Duration;

use serde_json::{Value, json};

use super::cache::same;
use super::dialect::{ALL, Chat, Dialect, Gemini, Responses};
use super::support::{Folder, Gateway, Mock, together};
use super::upstream::{Act, Seen, Upstream, answer};
use super::wire::Reply;

/// Speaks lines; gives no id of its own.
const SCRIPT: &str = r#"--[[manifest
[adapter]
operations = ["chat", "rerank"]
framing = "lines"
]]
function encode(ask)
	if ask.operation == "rerank" then return { path = "/rank", body = { model = ask.model } } end
	local said = {}
	for _, message in ask.messages do
		for _, block in message.blocks do table.insert(said, block.text) end
	end
	return { path = "/chat", body = { model = ask.model, said = said }, streamed = ask.model ~= "whole" }
end

function decode(answer, operation)
	local said = gw.json.decode(answer.body)
	if operation == "rerank" then return { ranked = { { index = 0, score = 1 } }, usage = { input = 4 } } end
	return { text = said.text, finish = "stop", usage = { input = 50, output = 3 } }
end

function decoder()
	return function(line)
		local said = gw.json.decode(line)
		if said.limited then return { fault = { status = 429, message = "Too many." } } end
		if said.done then return { { usage = { input = 50, output = 3 } }, { finish = "stop" } } end
		return { text = said.text }
	end
end
"#;

const STREAM: &str = "{\"text\":\"Grü\"}\n{\"text\":\"ße\"}\n{\"done\":true}\n";

/// A whole answer of a provider that never streams.
const PLAIN: &str = r#"{"id":"chatcmpl-plain-1","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,
    "message":{"role":"assistant","content":"Plainly."},"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":2}}"#;

/// Answers as the model's name says.
async fn upstream() -> Upstream {
    Upstream::start(|seen: &Seen| {
        let body = String::from_utf8_lossy(&seen.body).into_owned();
        let said = match () {
            () if seen.head.contains("/rank") => "{}",
            () if seen.head.contains("/plain/") => PLAIN,
            () if body.contains("whole") => "{\"text\":\"Grüße\"}",
            () if body.contains("\"cut\"") => "{\"text\":\"Once upon\"}\n",
            () if body.contains("fails") => "{\"text\":\"Once upon\"}\n{\"limited\":true}\n",
            () if body.contains("limited") => "{\"limited\":true}\n",
            () => STREAM,
        };
        let answer = answer("application/x-ndjson", said.as_bytes());
        if body.contains("slow") { Act::AnswerAfter(Duration::from_millis(200), answer) } else { Act::Answer(answer) }
    })
    .await
}

async fn gateway(mock: &Mock, upstream: &Upstream, more: &str) -> Gateway {
    let folder = Folder::new();
    std::fs::create_dir_all(folder.path("scripts")).expect("a folder");
    folder.write("scripts/acme.luau", SCRIPT);
    let yaml = format!(
        "providers:\n  it: {{ dialect: 'lua:acme', base_url: 'http://{address}/base', api_key: k }}\n\
         \x20 plain: {{ dialect: openai_chat, base_url: 'http://{address}/plain', auth: none }}\n\
         \x20 chat: {{ dialect: openai_chat, base_url: http://MOCK/v1, auth: none }}\n\
         prices: {{ models: {{ it/m: {{ input: 1, output: 1 }} }} }}\n{more}",
        address = upstream.address,
    );
    Gateway::prepared(folder, mock, &yaml).await
}

const CACHE: &str = "cache: { exact: { ttl: 10m } }\n";

async fn ask(gateway: &Gateway, dialect: Dialect, model: &str, stream: bool) -> Reply {
    let reply = gateway.post(&dialect.path(model, stream), same(dialect, model, stream, "Hello")).await;
    assert_eq!(reply.status(), 200, "{}", reply.text());
    reply
}

fn cache(reply: &Reply) -> &str {
    reply.head.header("x-portcullis-cache").unwrap_or("")
}

#[tokio::test]
async fn a_stream_of_an_adapter_is_kept_for_every_dialect_and_form() {
    let (mock, upstream) = (Mock::start().await, upstream().await);
    let gateway = gateway(&mock, &upstream, CACHE).await;
    for (model, asked) in [("it/m", 1), ("it/whole", 2)] {
        let mut ids = Vec::new();
        for (at, stream) in [true, true, false].into_iter().enumerate() {
            let reply = ask(&gateway, Chat, model, stream).await;
            assert_eq!(cache(&reply), if at == 0 { "miss" } else { "hit" }, "{model} {at}");
            let said = Chat.read(&reply);
            assert!(said.done && said.text == "Grüße", "{model} {at}: {}", reply.text());
            assert_eq!(said.usage, Some((50, 3)), "{model} {at}: {}", reply.text());
            ids.push(said.id);
        }
        for dialect in ALL {
            let reply = ask(&gateway, dialect, model, true).await;
            let said = dialect.read(&reply);
            assert!(said.done && said.text == "Grüße", "{dialect:?}: {}", reply.text());
            ids.push(said.id);
        }
        ids.retain(|id| !id.is_empty());
        let count = ids.len();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), count, "{model}: an id was given twice");
        assert_eq!(upstream.seen().len(), asked, "{model}: asked for anew");
    }
    // Who did not ask for the usage is not told of it, although it is kept.
    for status in ["miss", "hit"] {
        let ask = json!({ "model": "it/m", "stream": true, "messages": [{ "role": "user", "content": "Quietly" }] });
        let reply = gateway.post("/v1/chat/completions", ask.to_string()).await;
        assert_eq!(cache(&reply), status);
        let text = reply.text();
        assert!(text.trim_end().ends_with("[DONE]") && !text.contains("prompt_tokens"), "{text}");
        let line = gateway.logged(reply.head.header("x-portcullis-id").unwrap_or_default()).await;
        let known = if status == "miss" { &line["cost_usd"] } else { &line["saved_usd"] };
        assert_eq!(known, 0.000053, "{line}");
    }
}

#[tokio::test]
async fn identical_streams_at_the_same_time_ask_an_adapters_provider_once() {
    let (mock, upstream) = (Mock::start().await, upstream().await);
    let gateway = gateway(&mock, &upstream, CACHE).await;
    let replies = together((0..12).map(|at| {
        let gateway = &gateway;
        let dialect = if at % 3 == 2 { Gemini } else { Chat };
        async move { (dialect, ask(gateway, dialect, "it/slow", at % 4 > 0 || at == 0).await) }
    }))
    .await;
    for (dialect, reply) in &replies {
        let said = dialect.read(reply);
        assert!(said.done && said.text == "Grüße", "{dialect:?}: {}", reply.text());
    }
    let led = replies.iter().filter(|(_, reply)| cache(reply) == "miss").count();
    assert_eq!((led, upstream.seen().len()), (1, 1));
}

#[tokio::test]
async fn what_an_adapter_reports_in_a_stream_that_others_hear_stays_what_it_is() {
    let (mock, upstream) = (Mock::start().await, upstream().await);
    let more = format!("models: {{ falls: {{ fallback: [it/limited-too, it/m] }} }}\n{CACHE}");
    let gateway = gateway(&mock, &upstream, &more).await;
    let reply = gateway.post("/v1/chat/completions", same(Chat, "it/limited", true, "Hello")).await;
    assert_eq!(reply.status(), 429, "{}", reply.text());
    let reply = ask(&gateway, Chat, "falls", true).await;
    assert_eq!(Chat.read(&reply).text, "Grüße", "{}", reply.text());
    let line = gateway.logged(reply.head.header("x-portcullis-id").unwrap_or_default()).await;
    assert_eq!(line["attempts"][0]["error"], "rate_limited", "{line}");
    // After its first word it is an event, and nothing of it is kept.
    for _ in 0..2 {
        let reply = ask(&gateway, Chat, "it/fails", true).await;
        let text = reply.text();
        assert!(text.contains("Once upon") && text.contains("Too many.") && !text.contains("[DONE]"), "{text}");
        assert_eq!(cache(&reply), "miss");
        let line = gateway.logged(reply.head.header("x-portcullis-id").unwrap_or_default()).await;
        assert_eq!(line["error"]["code"], "rate_limited", "{line}");
    }
}

#[tokio::test]
async fn an_id_that_the_gateway_made_is_new_on_every_hit() {
    let (mock, upstream) = (Mock::start().await, upstream().await);
    let gateway = gateway(&mock, &upstream, CACHE).await;
    let ranking = json!({ "model": "it/m", "query": "q", "documents": ["a"] }).to_string();
    let mut ids = Vec::new();
    for _ in 0..3 {
        let reply = gateway.post("/v1/rerank", &ranking).await;
        assert_eq!(reply.status(), 200, "{}", reply.text());
        ids.push(reply.json()["id"].as_str().expect("an id").to_owned());
        let reply = ask(&gateway, Chat, "it/m", false).await;
        let id = reply.json()["id"].as_str().expect("an id").to_owned();
        assert!(id.starts_with("chatcmpl-"), "{id}");
        ids.push(id);
    }
    assert_eq!(upstream.seen().len(), 2, "one each");
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 6, "{ids:?}");
}

#[tokio::test]
async fn a_cut_stream_goes_on_from_and_with_an_adapter() {
    let (mock, upstream) = (Mock::start().await, upstream().await);
    let models = "models:\n  from: { fallback: [it/cut, chat/mock-fast], continue_on_cut: true }\n\
        \x20 failing: { fallback: [it/fails, chat/mock-fast], continue_on_cut: true }\n\
        \x20 with: { fallback: ['chat/mock-fast:chunks=20,fault=cut-mid', it/m], continue_on_cut: true }\n\
        \x20 whole: { fallback: ['chat/mock-fast:chunks=20,fault=cut-mid', it/whole], continue_on_cut: true }\n\
        \x20 plain: { fallback: ['chat/mock-fast:chunks=20,fault=cut-mid', plain/m], continue_on_cut: true }\n";
    for cached in ["", CACHE] {
        let gateway = gateway(&mock, &upstream, &format!("{models}{cached}")).await;
        for model in ["from", "failing"] {
            let reply = ask(&gateway, Chat, model, true).await;
            let said = Chat.read(&reply);
            assert!(said.done && said.text.starts_with("Once upon"), "{model}: {}", reply.text());
            assert!(said.text.len() > "Once upon".len(), "{model}: {}", reply.text());
            let line = gateway.logged(reply.head.header("x-portcullis-id").unwrap_or_default()).await;
            assert_eq!(line["attempts"][1]["provider"], "chat", "{model}: {line}");
        }
        for model in ["with", "whole"] {
            let reply = ask(&gateway, Chat, model, true).await;
            let said = Chat.read(&reply);
            assert!(said.done && said.text.ends_with("Grüße"), "{model}: {}", reply.text());
            assert!(said.text.len() > "Grüße".len(), "{model}: {}", reply.text());
            let sent: Value = serde_json::from_slice(&upstream.last().body).expect("JSON");
            assert_eq!(sent["said"][0], "Hello", "{sent}");
            assert_eq!(sent["said"].as_array().map(Vec::len), Some(3), "the text so far and an instruction: {sent}");
            let line = gateway.logged(reply.head.header("x-portcullis-id").unwrap_or_default()).await;
            assert_eq!(line["attempts"][1]["provider"], "it", "{model}: {line}");
        }
        let reply = ask(&gateway, Chat, "plain", true).await;
        let said = Chat.read(&reply);
        assert!(said.done && said.text.ends_with("Plainly."), "{}", reply.text());
        // Another dialect's caller is told the same.
        let reply = ask(&gateway, Responses, "from", true).await;
        assert!(Responses.read(&reply).done, "{}", reply.text());
    }
}
