//! Providers that a script speaks for: the same retries, commit point, usage and errors as built-in ones, live a moment
//! after they are saved, and a script that misbehaves hurts nobody else.

use std::path::Path;

use serde_json::{Value, json};

use super::support::{Folder, Gateway, Mock, SOON, portcullis, together};
use super::upstream::{Act, Seen, Upstream, answer};
use super::wire;

#[tokio::test]
async fn an_adapter_is_seen_like_a_policy() {
    let mock = Mock::start().await;
    let upstream = Upstream::saying("application/x-ndjson", STREAM).await;
    let gateway = gateway(&mock, &upstream, "").await;
    assert!(chat(&gateway, "it/known", true).await.text().contains("[DONE]"));
    for how in ["throw", "loop"] {
        assert_eq!(chat(&gateway, &format!("it/{how}"), false).await.status(), 502);
    }
    let row = gateway.admin("GET", "/admin/guests").await.json()["adapters"][0].clone();
    assert_eq!((&row["name"], &row["title"], &row["version"]), (&json!("lua:acme"), &json!("A test"), &json!("1.0")));
    let encode = &row["functions"]["encode"];
    assert_eq!([&encode["good"], &encode["error"], &encode["killed"]], [1, 1, 1], "{row}");
    assert!(row["functions"]["stream"]["good"].as_u64().is_some_and(|calls| calls >= 4), "{row}");
    assert!(row["memory_bytes"].as_u64().is_some_and(|bytes| bytes > 10_000), "{row}");
    assert!(row["last_error"].as_str().is_some_and(|error| error.starts_with("encode: ")), "{row}");
    assert_eq!(row["budget"]["cpu_us"], 50_000, "{row}");
    let metrics = gateway.admin("GET", "/metrics").await.text();
    for line in [
        "portcullis_guest_calls_total{guest=\"lua:acme\",phase=\"encode\",outcome=\"killed\"} 1",
        "portcullis_guest_seconds_count{guest=\"lua:acme\",phase=\"encode\"} 3",
        "portcullis_guest_replaced_total{guest=\"lua:acme\"} 2",
    ] {
        assert!(metrics.lines().any(|written| written == line), "{line}\n{metrics}");
    }
}

/// Speaks NDJSON, and obeys the name of its model.
const SCRIPT: &str = r#"--[[manifest
version = "1.0"

[adapter]
title = "A test"
auth = { header = "x-key" }
operations = ["chat", "embed", "rerank"]
framing = "lines"
models = ["known", { id = "large", context = 1000 }]

[config]
type = "object"
additionalProperties = false

[config.properties.suffix]
type = "string"
default = "!"
]]
function encode(ask)
	if ask.model == "loop" then while true do end end
	if ask.model == "throw" then error("as told") end
	if ask.model == "grow" then local t = {} while true do t[#t + 1] = table.create(1000, #t) end end
	if ask.model == "huge" then return { path = "/chat", body = string.rep("x", 40000000) } end
	if ask.model == "escape" then return { path = "//evil.example/" } end
	if ask.model == "refuse" then return nil, { message = "It cannot be asked so.", param = "messages" } end
	if ask.operation == "embed" then return { path = "/embed", body = { texts = ask.inputs } } end
	if ask.operation == "rerank" then
		return { path = "/rank", body = { ask = ask.query, among = ask.documents, best = ask.top_n } }
	end
	local dropped = if ask.seed then { seed = "it knows none" } else nil
	local headers = { ["x-mine"] = "1", ["x-key"] = "forged", host = "forged" }
	local text = ask.messages[1].blocks[1].text
	return { path = "/chat", headers = headers, body = { model = ask.model, text = text }, streamed = ask.streamed, dropped = dropped }
end

local function read(text)
	local said = gw.json.decode(text)
	if said.loop then while true do end end
	if said.error then return nil, { message = said.error } end
	return said
end

function decode(answer, operation)
	local said, refusal = read(answer.body)
	if refusal then return nil, refusal end
	if operation == "embed" then return { vectors = said.vectors, usage = { input = 2 } } end
	if operation == "rerank" then return { ranked = said.ranked, usage = { input = 4 } } end
	return { text = said.text .. gw.config.suffix, finish = "stop", usage = { input = 5, output = 3 } }
end

function decode_error(answer)
	return { message = `said {answer.status}: {answer.body}` }
end

function decoder()
	return function(line)
		local said, refusal = read(line)
		if refusal then return nil, refusal end
		if said.call then
			return {
				{ tool_call = { key = 1, id = "c1", name = said.call } },
				{ arguments = { key = 1, text = { city = "Rome" } } },
				{ finish = "tool_calls" },
			}
		end
		if said.done then
			return { { text = gw.config.suffix }, { usage = { input = 5, output = 3 } }, { finish = "stop" } }
		end
		return { text = said.text }
	end
end
"#;

const STREAM: &str = "{\"text\":\"Grü\"}\n{\"text\":\"ße\"}\n{\"done\":true}\n";

/// A gateway whose provider `it` is spoken to through the script.
async fn gateway(mock: &Mock, upstream: &Upstream, more: &str) -> Gateway {
    let folder = Folder::new();
    std::fs::create_dir_all(folder.path("scripts")).expect("a folder");
    folder.write("scripts/acme.luau", SCRIPT);
    let yaml = format!(
        "providers:\n  it: {{ dialect: 'lua:acme', base_url: 'http://{}/base', api_key: sk-it }}\n\
         \x20 chat: {{ dialect: openai_chat, base_url: http://MOCK/v1, auth: none }}\n\
         adapters: {{ acme: {{ cpu: 50ms, memory: 8MiB, {more} }} }}\n\
         models:\n  falls: {{ fallback: [{{ target: it/loop }}, {{ target: chat/mock }}] }}\n\
         \x20 cut: {{ fallback: [{{ target: it/well }}, {{ target: chat/mock }}] }}\n",
        upstream.address,
    );
    Gateway::prepared(folder, mock, &yaml).await
}

fn ask(model: &str, stream: bool) -> Vec<u8> {
    json!({ "model": model, "stream": stream, "messages": [{ "role": "user", "content": "Hello" }] }).to_string().into()
}

async fn chat(gateway: &Gateway, model: &str, stream: bool) -> wire::Reply {
    gateway.post("/v1/chat/completions", ask(model, stream)).await
}

#[tokio::test]
async fn a_scripted_provider_answers_callers_of_other_dialects() {
    let mock = Mock::start().await;
    let upstream = Upstream::start(|seen: &Seen| {
        let body = if seen.head.contains("/embed") { r#"{"vectors":[[0.5,1]]}"# } else { r#"{"text":"Hi"}"# };
        Act::Answer(answer("application/json", body.as_bytes()))
    })
    .await;
    let gateway = gateway(&mock, &upstream, "config: { suffix: '?' }").await;
    let reply = chat(&gateway, "it/known", false).await;
    assert_eq!(reply.status(), 200, "{}", reply.text());
    let body = reply.json();
    assert_eq!(body["choices"][0]["message"]["content"], "Hi?");
    assert_eq!(body["usage"]["total_tokens"], 8);
    let seen = upstream.last();
    let head = seen.head.to_ascii_lowercase();
    assert!(head.starts_with("post /base/chat "), "{head}");
    assert!(head.contains("x-key: sk-it") && head.contains("x-mine: 1") && !head.contains("forged"), "{head}");
    assert_eq!(
        serde_json::from_slice::<Value>(&seen.body).expect("JSON"),
        json!({ "model": "known", "text": "Hello" })
    );
    let anthropic =
        json!({ "model": "it/known", "max_tokens": 9, "messages": [{ "role": "user", "content": "Hello" }] });
    let reply = gateway.post("/v1/messages", anthropic.to_string()).await;
    assert_eq!(reply.json()["content"][0]["text"], "Hi?", "{}", reply.text());
    let embed = json!({ "model": "it/known", "input": "Hello" });
    let reply = gateway.post("/v1/embeddings", embed.to_string()).await;
    assert_eq!(reply.json()["data"][0]["embedding"], json!([0.5, 1.0]), "{}", reply.text());
    let models = gateway.get("/v1/models").await.json();
    let large = models["data"].as_array().expect("a list").iter().find(|model| model["id"] == "it/large");
    assert_eq!(large.expect("is listed")["context_length"], 1000, "{models}");
    let seeded = json!({ "model": "it/known", "seed": 7, "messages": [{ "role": "user", "content": "Hello" }] });
    let reply = gateway.post("/v1/chat/completions", seeded.to_string()).await;
    let line = gateway.logged(reply.head.header("x-portcullis-id").unwrap_or_default()).await;
    assert_eq!(line["dropped"], json!([["seed", "it knows none"]]), "{line}");
    // A stream of a whole answer is the gateway's to make.
    let refused = chat(&gateway, "it/refuse", false).await;
    assert_eq!((refused.status(), refused.json()["error"]["code"].clone()), (400, json!("unsupported_feature")));
}

#[tokio::test]
async fn what_a_scripted_provider_calls_tools_with_passes_policies() {
    let mock = Mock::start().await;
    let upstream =
        Upstream::start(|_: &Seen| Act::Answer(answer("application/x-ndjson", b"{\"call\":\"look\"}\n"))).await;
    let gateway = gateway(&mock, &upstream, "").await;
    let policy = "--[[manifest\nguard = true\nstream = \"event\"\narguments = true\n]]\n\
        function on_event(e) if e.tool == 'look' then return (string.gsub(e.text, 'Rome', 'Oslo')) end end\n";
    gateway.folder.write("scripts/p.luau", policy);
    let text = std::fs::read_to_string(gateway.folder.path("portcullis.yaml")).expect("the configuration");
    gateway.folder.write("portcullis.yaml", &format!("{text}\nhooks: [{{ lua: p }}]\n"));
    assert_eq!(gateway.admin("POST", "/admin/reload").await.status(), 200);
    let text = chat(&gateway, "it/tools", true).await.text();
    assert!(text.contains("Oslo") && !text.contains("Rome"), "{text}");
    assert!(text.contains("\"finish_reason\":\"tool_calls\""), "{text}");
}

/// Asks again once, and writes 150 lines each time that it reads an answer.
const CHATTY: &str = r#"--[[manifest
[adapter]
operations = ["chat"]
]]
function encode(ask) return { path = "/first", body = { model = ask.model } } end
function decode(answer)
	for number = 1, 150 do gw.log.error(`word {number}`) end
	local again = gw.json.decode(answer.body).again
	if again then return { follow_up = { request = { path = "/second", body = {} }, wait_ms = 50 } } end
	return { text = "Done.", finish = "stop" }
end
"#;

#[tokio::test]
async fn an_adapter_writes_so_many_lines_in_one_try_however_often_it_is_called_there() {
    let mock = Mock::start().await;
    let upstream = Upstream::start(|seen: &Seen| {
        let body = if seen.head.contains("/first ") { r#"{"again":true}"# } else { r#"{"again":false}"# };
        Act::Answer(answer("application/json", body.as_bytes()))
    })
    .await;
    let folder = Folder::new();
    std::fs::create_dir_all(folder.path("scripts")).expect("a folder");
    folder.write("scripts/chatty.luau", CHATTY);
    let yaml = format!(
        "providers:\n  it: {{ dialect: 'lua:chatty', base_url: 'http://{}/base', auth: none }}\n",
        upstream.address
    );
    let mut gateway = Gateway::prepared(folder, &mock, &yaml).await;
    let mut ids = Vec::new();
    for _ in 0..2 {
        let reply = chat(&gateway, "it/m", false).await;
        assert_eq!(reply.status(), 200, "{}", reply.text());
        ids.push(reply.head.id().to_owned());
    }
    gateway.process.signal("TERM");
    gateway.process.exit(SOON).await;
    let said = gateway.process.stderr();
    for id in ids {
        let lines: Vec<&str> = said.lines().filter(|line| line.contains(&id)).collect();
        assert_eq!(lines.iter().filter(|line| line.contains("word ")).count(), 200, "{said}");
        assert_eq!(lines.iter().filter(|line| line.contains("the rest is left out")).count(), 1, "{said}");
    }
}

#[tokio::test]
async fn documents_are_ranked_by_a_script_and_by_whom_is_relayed_to() {
    let mock = Mock::start().await;
    let upstream = Upstream::start(|seen: &Seen| {
        let wild = String::from_utf8_lossy(&seen.body).contains("wild");
        let body = match (seen.head.contains("/base/rank "), wild) {
            (true, false) => r#"{"ranked":[{"index":1,"score":0.75},{"index":0,"score":0.25}]}"#,
            (true, true) => r#"{"ranked":[{"index":7,"score":1}]}"#,
            _ => r#"{"id":"r1","results":[{"index":0,"relevance_score":0.5}],"usage":{"total_tokens":3}}"#,
        };
        Act::Answer(answer("application/json", body.as_bytes()))
    })
    .await;
    let gateway = gateway(&mock, &upstream, "").await;
    let text = std::fs::read_to_string(gateway.folder.path("portcullis.yaml")).expect("the configuration");
    let relay =
        format!("  its: {{ dialect: openai_chat, base_url: 'http://{}/v1', auth: none }}\nadapters:", upstream.address);
    gateway.folder.write("portcullis.yaml", &text.replacen("adapters:", &relay, 1));
    assert_eq!(gateway.admin("POST", "/admin/reload").await.status(), 200);
    let rank = async |model: &str, query: &str| {
        let ask = json!({ "model": model, "query": query, "documents": ["a", { "text": "b" }], "top_n": 2,
            "return_documents": true });
        gateway.post("/v1/rerank", ask.to_string()).await
    };
    let reply = rank("it/known", "q").await;
    let body = reply.json();
    assert_eq!(
        body["results"][0],
        json!({ "index": 1, "relevance_score": 0.75, "document": { "text": "b" } }),
        "{body}"
    );
    assert_eq!((&body["model"], &body["usage"]["total_tokens"]), (&json!("it/known"), &json!(4)), "{body}");
    let sent: Value = serde_json::from_slice(&upstream.last().body).expect("JSON");
    assert_eq!(sent, json!({ "ask": "q", "among": ["a", "b"], "best": 2 }));
    let line = gateway.logged(reply.head.header("x-portcullis-id").unwrap_or_default()).await;
    assert_eq!((&line["operation"], &line["usage"]["input"]), (&json!("rerank"), &json!(4)), "{line}");
    let reply = rank("it/known", "wild").await;
    assert_eq!(reply.json()["error"]["code"], "guest_failed", "a place that is none: {}", reply.text());
    let reply = rank("its/m", "q").await;
    assert_eq!(reply.json()["results"][0]["relevance_score"], 0.5, "{}", reply.text());
    assert!(upstream.last().head.starts_with("POST /v1/rerank "), "{}", upstream.last().head);
    let refused = gateway.post("/v1/rerank", r#"{"model":"it/known","query":"q"}"#).await;
    assert_eq!((refused.status(), &refused.json()["error"]["param"]), (400, &json!("documents")), "{}", refused.text());
}

#[tokio::test]
async fn a_scripted_stream_comes_whole_with_its_tools_and_usage() {
    let mock = Mock::start().await;
    let upstream = Upstream::start(|seen: &Seen| {
        let call = "{\"call\":\"weather\"}\n";
        let body = if String::from_utf8_lossy(&seen.body).contains("tools") { call } else { STREAM };
        Act::Answer(answer("application/x-ndjson", body.as_bytes()))
    })
    .await;
    let gateway = gateway(&mock, &upstream, "").await;
    let reply = chat(&gateway, "it/known", true).await;
    let text = reply.text();
    assert_eq!(reply.status(), 200, "{text}");
    assert!(text.contains("Grü") && text.contains("ße") && text.contains("\"!\""), "{text}");
    assert!(text.trim_end().ends_with("data: [DONE]"), "{text}");
    let line = gateway.lines(1).await.pop().expect("a line");
    assert_eq!((&line["usage"]["input"], &line["usage"]["output"]), (&json!(5), &json!(3)), "{line}");
    let text = chat(&gateway, "it/tools", true).await.text();
    assert!(text.contains("weather") && text.contains(r#"{\"city\":\"Rome\"}"#), "{text}");
    assert!(text.contains("\"finish_reason\":\"tool_calls\""), "{text}");
}

#[tokio::test]
async fn errors_have_a_true_status_and_a_broken_stream_is_mended_before_its_first_word() {
    let mock = Mock::start().await;
    let upstream = Upstream::start(|seen: &Seen| {
        let body = String::from_utf8_lossy(&seen.body).into_owned();
        Act::Answer(match () {
            () if body.contains("limited") => {
                b"HTTP/1.1 429 Too Many\r\nretry-after: 7\r\ncontent-length: 4\r\n\r\nslow".to_vec()
            }
            () if body.contains("late") => answer("application/x-ndjson", b"{\"text\":\"Hi\"}\n{\"error\":\"gone\"}\n"),
            () => answer("application/x-ndjson", b"{\"error\":\"gone\"}\n"),
        })
    })
    .await;
    let gateway = gateway(&mock, &upstream, "").await;
    let reply = chat(&gateway, "it/limited", false).await;
    assert_eq!((reply.status(), reply.head.header("retry-after")), (429, Some("7")), "{}", reply.text());
    assert!(reply.text().contains("said 429: slow"), "{}", reply.text());
    let reply = chat(&gateway, "cut", true).await;
    assert_eq!(reply.status(), 200);
    assert_eq!(reply.head.header("x-portcullis-provider"), Some("chat"), "{}", reply.text());
    let text = chat(&gateway, "it/late", true).await.text();
    assert!(text.contains("Hi") && text.contains("\"error\"") && text.contains("gone"), "{text}");
}

#[tokio::test]
async fn a_hostile_script_is_a_fault_that_the_next_target_mends() {
    let mock = Mock::start().await;
    let upstream = Upstream::start(|seen: &Seen| {
        let loops = String::from_utf8_lossy(&seen.body).contains("badly");
        let body = if loops { "{\"loop\":true}\n" } else { "{\"text\":\"Hi\"}\n{\"done\":true}\n" };
        Act::Answer(answer("application/x-ndjson", body.as_bytes()))
    })
    .await;
    let gateway = gateway(&mock, &upstream, "").await;
    let reply = chat(&gateway, "falls", false).await;
    assert_eq!(reply.status(), 200, "{}", reply.text());
    for how in ["loop", "throw", "grow", "huge", "escape"] {
        let reply = chat(&gateway, &format!("it/{how}"), false).await;
        assert_eq!(reply.status(), 502, "{how}: {}", reply.text());
        assert_eq!(reply.json()["error"]["code"], "guest_failed", "{how}");
        assert!(!reply.text().contains("acme.luau"), "{how}: {}", reply.text());
    }
    assert!(upstream.seen().is_empty(), "nothing of it was sent");
    // Loops over answers and streams end alone, while others are served.
    let bad = together((0..4).map(|at| chat(&gateway, "it/badly", at % 2 == 0)));
    let good = together((0..8).map(|_| chat(&gateway, "it/known", true)));
    let (bad, good) = tokio::join!(bad, good);
    assert!(bad.iter().all(|reply| reply.json()["error"]["code"] == "guest_failed"), "{}", bad[0].text());
    assert!(good.iter().all(|reply| reply.text().contains("[DONE]")), "{}", good[0].text());
}

#[tokio::test]
async fn a_saved_script_is_live_under_load_and_a_broken_one_never() {
    let mock = Mock::start().await;
    let upstream = Upstream::saying("application/x-ndjson", STREAM).await;
    let gateway = gateway(&mock, &upstream, "").await;
    let rounds = if std::env::var_os("PORTCULLIS_SOAK").is_some() { 1000 } else { 20 };
    let mut before = 0;
    for round in 0..rounds {
        gateway
            .folder
            .write("scripts/acme.luau", &SCRIPT.replace("default = \"!\"", &format!("default = \" {round}.\"")));
        let reload = gateway.admin("POST", "/admin/reload");
        let asks = together((0..8).map(|_| chat(&gateway, "it/known", true)));
        let (reload, asks) = tokio::join!(reload, asks);
        assert_eq!(reload.status(), 200, "{}", reload.text());
        for reply in asks {
            assert!(reply.text().trim_end().ends_with("[DONE]"), "round {round}: {}", reply.text());
        }
        let text = chat(&gateway, "it/known", true).await.text();
        assert!(text.contains(&format!("\" {round}.\"")), "{text}");
        if round == rounds / 5 {
            before = gateway.process.memory();
        }
    }
    // Generations that are kept for going back weigh something; machines that were left behind would be 100 MiB and more.
    let grown = gateway.process.memory().saturating_sub(before);
    println!("{rounds} reloads: {grown} more after the first fifth, of {before}");
    assert!(grown < 32 << 20, "{grown} bytes more after {rounds} reloads");
    let counts = gateway.admin("GET", "/admin/guests").await.json();
    let calls = counts["adapters"][0]["functions"]["encode"]["good"].as_u64().expect("a number");
    assert_eq!(calls, rounds * 9, "counted on across all of them: {counts}");
    gateway.folder.write("scripts/acme.luau", &format!("{SCRIPT}\nfunction"));
    let refused = gateway.admin("POST", "/admin/reload").await;
    assert_ne!(refused.status(), 200);
    assert!(refused.text().contains("acme.luau:"), "{}", refused.text());
    assert!(chat(&gateway, "it/known", true).await.text().contains("[DONE]"), "the old one stays");
}

#[tokio::test]
async fn check_says_what_is_wrong_with_file_and_line() {
    let folder = Folder::new();
    std::fs::create_dir_all(folder.path("scripts")).expect("a folder");
    let check = |script: &str, more: &str| {
        folder.write("scripts/acme.luau", script);
        let yaml = format!(
            "providers:\n  it: {{ dialect: 'lua:acme', base_url: 'http://127.0.0.1:9', api_key: k }}\n{more}\n"
        );
        let path = folder.write("p.yaml", &yaml);
        let output = portcullis().arg("check").arg(path).output().expect("runs");
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (good, said) = check(SCRIPT, "adapters: { acme: { config: { suffix: x } } }");
    assert!(good, "{said}");
    let wrong = |script: &str, more: &str, why: &[&str]| {
        let (good, said) = check(script, more);
        assert!(!good && why.iter().all(|why| said.contains(why)), "{why:?}: {said}");
    };
    wrong(&format!("{SCRIPT}\nlocal = 1"), "", &["p.yaml:2:", "providers.it.dialect", "acme.luau:"]);
    wrong(&SCRIPT.replace("framing", "farming"), "", &["p.yaml:2:", "acme.luau:8: unknown field `farming`"]);
    wrong("function on_request() end", "", &["p.yaml:2:", "its manifest has no `[adapter]`"]);
    wrong(&SCRIPT.replace("function decode(", "function read_it("), "", &["acme.luau: has no function `decode`"]);
    wrong(&format!("{SCRIPT}\nerror('as told')"), "", &["acme.luau:", "as told"]);
    wrong(SCRIPT, "adapters: { acme: { config: { sufix: x } } }", &["p.yaml:3:", "adapters.acme.config", "sufix"]);
    wrong(SCRIPT, "adapters: { acme: { memory: 1MiB } }", &["p.yaml:3:", "write 4MiB or more"]);
    wrong(SCRIPT, "hooks: [{ lua: acme }]", &["p.yaml:3:", "is an adapter, not a policy"]);
    std::fs::write(folder.path("scripts/acme_test.luau"), "t.test('it fails', function() t.ok(false) end)")
        .expect("writes");
    wrong(SCRIPT, "", &["adapters.acme: its test \"it fails\" fails", "acme_test.luau:1:"]);
    std::fs::remove_file(folder.path("scripts/acme_test.luau")).expect("is there");
    std::fs::remove_file(folder.path("scripts/acme.luau")).expect("is there");
    let output = portcullis().arg("check").arg(folder.path("p.yaml")).output().expect("runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("p.yaml:2:") && said.contains("there is no `"), "{said}");
    assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/ollama/main.luau").is_file(), "the shipped one");
}

#[test]
fn a_bench_measures_what_there_is_to_measure_and_says_what_broke() {
    let folder = Folder::new();
    let script =
        SCRIPT.replace("function decode(", "function decode(answer) error('as told') end\nlocal function unused(");
    assert_ne!(script, SCRIPT);
    let path = folder.write("acme.luau", &script);
    let output = portcullis().args(["script", "bench"]).arg(path).output().expect("runs");
    let (said, broke) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}{broke}");
    assert!(broke.contains("decode, an empty object: ") && broke.contains("as told"), "{broke}");
    for figure in ["encode, 1 KiB in 4 turns", "begin and end a stream", "encode, one text to embed", "decode an error"]
    {
        assert!(said.contains(figure), "{figure}: {said}");
    }
    let output = portcullis().args(["script", "bench", "nobodys"]).output().expect("runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("give the path of the script, such as scripts/"), "{said}");
}
