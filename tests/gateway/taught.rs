//! What an adapter is held to, and what it is told: the same policies, operations, bounds and credentials as a built-in
//! dialect.

use serde_json::{Value, json};

use super::support::{Folder, Gateway, Mock};
use super::upstream::{Act, Seen, Upstream, answer};

/// Writes what it is told, as its model's name says.
const SCRIPT: &str = r#"--[[manifest
version = "1.0"

[adapter]
auth = { query = "key" }
operations = ["chat", "embed"]
framing = "lines"
models = ["known"]
]]
function encode(ask)
	if ask.operation ~= "chat" then return { path = "/embed", body = { inputs = #ask.inputs } } end
	if ask.model == "long" then return { path = "/" .. string.rep("x", 70000) } end
	if ask.model == "trace" then return { method = "TRACE", path = "/chat" } end
	if ask.model == "forges" then
		local headers = { authorization = "Bearer FORGED", ["x-api-key"] = "FORGED", ["x-own"] = "1" }
		return { path = "/chat?key=FORGED&%6bey=FORGED&page=2", headers = headers, body = {} }
	end
	local said = {}
	for _, message in ask.messages do
		for _, block in message.blocks do table.insert(said, block.text) end
	end
	return { path = "/chat", body = { system = ask.system, said = said }, streamed = ask.streamed }
end

function decode(answer, operation)
	local said = gw.json.decode(answer.body)
	if operation == "embed" then return { vectors = said.vectors } end
	return { text = said.text, finish = "stop" }
end

function decoder()
	return function(line)
		local said, steps = gw.json.decode(line), {}
		for choice = 1, said.choices do table.insert(steps, { choice = choice }) end
		table.insert(steps, { text = "Hi" })
		table.insert(steps, { finish = "stop" })
		return steps
	end
end
"#;

const POLICY: &str = r#"
function on_attempt(try, ctx)
	if try:request().model ~= "edited" then return nil end
	return { texts = { [1] = "[removed]" }, headers = { ["x-try"] = "1" } }
end
"#;

async fn gateway(mock: &Mock, upstream: &Upstream) -> Gateway {
    let folder = Folder::new();
    std::fs::create_dir_all(folder.path("scripts")).expect("a folder");
    folder.write("scripts/acme.luau", SCRIPT);
    folder.write("scripts/chats.luau", &SCRIPT.replace(r#"["chat", "embed"]"#, r#"["chat"]"#));
    folder.write("scripts/removes.luau", POLICY);
    let address = upstream.address;
    let yaml = format!(
        "providers:\n  it: {{ dialect: 'lua:acme', base_url: 'http://{address}/base', api_key: 'a+b/c=&d=1#x' }}\n\
         \x20 chats: {{ dialect: 'lua:chats', base_url: 'http://{address}/base', api_key: k }}\n\
         \x20 chat: {{ dialect: openai_chat, base_url: http://MOCK/v1, auth: none }}\n\
         models:\n  edited: {{ target: it/known }}\n\
         \x20 falls: {{ fallback: [{{ target: it/long }}, {{ target: chat/mock }}] }}\n\
         hooks: [{{ lua: removes }}]\n",
    );
    Gateway::prepared(folder, mock, &yaml).await
}

fn ask(model: &str, stream: bool) -> Vec<u8> {
    let messages = json!([{ "role": "user", "content": "My number is 12" }]);
    json!({ "model": model, "stream": stream, "messages": messages }).to_string().into()
}

/// Answers by path.
async fn upstream() -> Upstream {
    Upstream::start(|seen: &Seen| {
        let body = match () {
            () if seen.head.contains("/embed") => r#"{"vectors":[[0.5,1]]}"#,
            () if String::from_utf8_lossy(&seen.body).contains("many") => "{\"choices\":200}\n",
            () => r#"{"text":"Hi","choices":0}"#,
        };
        Act::Answer(answer("application/json", body.as_bytes()))
    })
    .await
}

#[tokio::test]
async fn what_a_policy_removes_from_a_try_does_not_reach_a_provider_with_an_adapter() {
    let (mock, upstream) = (Mock::start().await, upstream().await);
    let gateway = gateway(&mock, &upstream).await;
    for stream in [false, true] {
        let reply = gateway.post("/v1/chat/completions", ask("edited", stream)).await;
        assert_eq!(reply.status(), 200, "{}", reply.text());
        let seen = upstream.last();
        let sent: Value = serde_json::from_slice(&seen.body).expect("JSON");
        assert_eq!(sent["said"], json!(["[removed]"]), "{sent}");
        assert!(seen.head.to_ascii_lowercase().contains("x-try: 1"), "{}", seen.head);
    }
    let reply = gateway.post("/v1/chat/completions", ask("it/known", false)).await;
    assert_eq!(reply.status(), 200, "{}", reply.text());
    assert!(String::from_utf8_lossy(&upstream.last().body).contains("My number is 12"), "only where it edits");
    let embed = json!({ "model": "edited", "input": "My number is 12" });
    assert_eq!(gateway.post("/v1/embeddings", embed.to_string()).await.status(), 200);
}

#[tokio::test]
async fn a_key_in_the_query_arrives_as_it_was_written() {
    let (mock, upstream) = (Mock::start().await, upstream().await);
    let gateway = gateway(&mock, &upstream).await;
    assert_eq!(gateway.post("/v1/chat/completions", ask("it/known", false)).await.status(), 200);
    let head = upstream.last().head;
    assert!(head.starts_with("POST /base/chat?key=a%2Bb%2Fc%3D%26d%3D1%23x HTTP"), "{head}");
}

#[tokio::test]
async fn the_gateways_own_credential_is_the_only_one_that_a_provider_gets() {
    let (mock, upstream) = (Mock::start().await, upstream().await);
    let gateway = gateway(&mock, &upstream).await;
    assert_eq!(gateway.post("/v1/chat/completions", ask("it/forges", false)).await.status(), 200);
    let head = upstream.last().head;
    assert!(head.starts_with("POST /base/chat?page=2&key=a%2Bb%2Fc%3D%26d%3D1%23x HTTP"), "{head}");
    assert!(head.contains("x-own: 1") && !head.contains("FORGED"), "{head}");
}

#[tokio::test]
async fn what_an_adapter_does_not_name_is_not_asked_of_it() {
    let (mock, upstream) = (Mock::start().await, upstream().await);
    let gateway = gateway(&mock, &upstream).await;
    let embed = json!({ "model": "chats/known", "input": "Hello" });
    let reply = gateway.post("/v1/embeddings", embed.to_string()).await;
    assert_eq!(
        (reply.status(), &reply.json()["error"]["code"]),
        (400, &json!("unsupported_feature")),
        "{}",
        reply.text()
    );
    assert!(upstream.seen().is_empty(), "nothing was sent");
}

#[tokio::test]
async fn what_an_adapter_may_not_say_is_its_failure_which_the_next_target_mends() {
    let (mock, upstream) = (Mock::start().await, upstream().await);
    let gateway = gateway(&mock, &upstream).await;
    let failed = |reply: &super::wire::Reply| {
        assert_eq!((reply.status(), &reply.json()["error"]["code"]), (502, &json!("guest_failed")), "{}", reply.text());
        reply.json()["error"]["message"].as_str().unwrap_or_default().to_owned()
    };
    let why = failed(&gateway.post("/v1/chat/completions", ask("it/long", false)).await);
    assert!(why.contains("longer than 32768 bytes"), "{why}");
    let why = failed(&gateway.post("/v1/chat/completions", ask("it/trace", false)).await);
    assert!(why.contains("the method `TRACE`; write one of GET"), "{why}");
    assert!(upstream.seen().is_empty(), "nothing of it was sent");
    let reply = gateway.post("/v1/chat/completions", ask("falls", false)).await;
    assert_eq!(reply.head.header("x-portcullis-provider"), Some("chat"), "{}", reply.text());
    // The log has the reason of what was mended.
    let line = gateway.logged(reply.head.header("x-portcullis-id").unwrap_or_default()).await;
    assert_eq!(line["attempts"][0]["error"], "guest_failed", "{line}");
    let two = json!({ "model": "it/known", "input": ["one", "two"] });
    let why = failed(&gateway.post("/v1/embeddings", two.to_string()).await);
    assert!(why.contains("1 vectors for 2 inputs"), "{why}");
    let mut many: Value = serde_json::from_slice(&ask("it/known", true)).expect("JSON");
    many["messages"][0]["content"] = "many".into();
    let why = failed(&gateway.post("/v1/chat/completions", many.to_string()).await);
    assert!(why.contains("more than 128 choices"), "{why}");
}

#[tokio::test]
async fn the_log_has_the_reason_of_a_failure_that_was_mended_and_no_line_of_its_own_making() {
    let (mock, upstream) = (Mock::start().await, upstream().await);
    let folder = Folder::new();
    std::fs::create_dir_all(folder.path("scripts")).expect("a folder");
    let script = SCRIPT.replace(
        "if ask.model == \"long\"",
        "if ask.model == \"throw\" then error(\"one\\nforged line\") end\n\tif ask.model == \"long\"",
    );
    folder.write("scripts/acme.luau", &script);
    let yaml = format!(
        "providers:\n  it: {{ dialect: 'lua:acme', base_url: 'http://{}/base', api_key: k }}\n\
         \x20 chat: {{ dialect: openai_chat, base_url: http://MOCK/v1, auth: none }}\n\
         models: {{ falls: {{ fallback: [{{ target: it/throw }}, {{ target: chat/mock }}] }} }}\n",
        upstream.address,
    );
    let gateway = Gateway::prepared(folder, &mock, &yaml).await;
    let reply = gateway.post("/v1/chat/completions", ask("falls", false)).await;
    assert_eq!(reply.status(), 200, "{}", reply.text());
    let line = gateway.logged(reply.head.header("x-portcullis-id").unwrap_or_default()).await;
    let source = line["attempts"][0]["source"].as_str().unwrap_or_default();
    assert!(source.contains("one\nforged line"), "{line}");
    let said = std::fs::read_to_string(gateway.folder.path("stderr")).expect("its log");
    let told = said.lines().find(|line| line.contains("lua:acme in encode")).expect("a warning");
    assert!(told.contains("WARN") && told.contains(r"one\nforged line"), "{said}");
    assert!(!said.lines().any(|line| line.starts_with("forged")), "{said}");
}
