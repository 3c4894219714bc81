//! Policies in WebAssembly as they meet requests: every phase against the real gateway, and what happens when they
//! misbehave at each of them.

use std::path::Path;

use serde_json::{Value, json};

use super::dialect::{ALL, Chat, Turn};
use super::support::{Folder, Gateway, Mock, portcullis, together};
use super::upstream::Upstream;
use super::wire::Reply;

/// A gateway with a prebuilt policy attached, `more` being further keys of the hook. Compiled code is kept between tests.
async fn with(mock: &Mock, policy: &str, config: Value, more: &str, yaml: &str) -> Gateway {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = format!(
        "plugins: {{ folder: '{}', compiled: '{}/compiled-plugins' }}\n\
         hooks: [{{ wasm: {policy}, config: {config}, budget: {{ cpu: 200ms, total: 2s, memory: 32MiB }}, {more} }}]\n{yaml}",
        root.join("plugins/prebuilt").display(),
        env!("CARGO_TARGET_TMPDIR"),
    );
    Gateway::start(mock, &text).await
}

async fn ask(gateway: &Gateway, model: &str, stream: bool) -> Reply {
    gateway.post("/v1/chat/completions", Chat.ask(model, stream, Turn::Text, "Hello")).await
}

fn went_to(reply: &Reply) -> String {
    let header = |name| reply.head.header(name).unwrap_or_default();
    format!("{}/{}", header("x-portcullis-provider"), header("x-portcullis-model"))
}

const TWO: &str = "models: { two: { fallback: [chat/first, anthropic/second] } }\n";

#[tokio::test]
async fn every_phase_of_a_plugin_does_what_it_decides() {
    let mock = Mock::start().await;
    let config = json!({
        "request": "shout", "route": "reverse", "attempt": "patch", "answer": "patch", "event": "shout", "done": "fields"
    });
    let gateway = with(&mock, "probe", config, "", TWO).await;
    for dialect in ALL {
        let reply = gateway.post(&dialect.path("two", false), dialect.ask("two", false, Turn::Text, "Hello")).await;
        assert_eq!((reply.status(), went_to(&reply)), (200, "anthropic/second".to_owned()), "{}", reply.text());
        assert!(reply.text().contains(" (two)"), "{dialect:?}: {}", reply.text());
        assert_eq!(reply.head.header("x-seen"), Some("anthropic/second"));
        let seen = mock.last().await;
        assert!(seen["body"].to_string().contains("HELLO"), "{seen}");
        assert!(seen["headers"].to_string().contains("1 of anthropic/second"), "{seen}");
        let line = gateway.logged(reply.head.header("x-portcullis-id").unwrap_or_default()).await;
        assert!(line.to_string().contains("\"probe\":\"two\""), "{line}");
        let stream = gateway.post(&dialect.path("two", true), dialect.ask("two", true, Turn::Text, "hello")).await;
        assert_eq!(stream.status(), 200, "{}", stream.text());
    }
}

#[tokio::test]
async fn a_fault_and_an_answer_can_be_turned() {
    let mock = Mock::start().await;
    let gateway = with(&mock, "probe", json!({ "fault": "respond" }), "", "").await;
    let reply = ask(&gateway, "chat/mock-fast:fault=429", false).await;
    assert_eq!(reply.status(), 200, "{}", reply.text());
    assert!(reply.text().contains("rate_limited of chat/mock-fast"), "{}", reply.text());
    let gateway = with(&mock, "probe", json!({ "answer": "fault" }), "", TWO).await;
    let reply = ask(&gateway, "two", false).await;
    assert_eq!(reply.head.attempts(), 2, "{}", reply.text());
}

/// With `fail: open` an exchange survives a policy that misbehaves wherever it is called.
#[tokio::test]
async fn what_breaks_in_every_phase_costs_nobody_anything() {
    let mock = Mock::start().await;
    for how in ["loop", "recurse", "trap", "grow", "storm", "chatter", "huge", "error"] {
        let config = json!({
            "auth": how, "request": how, "route": how, "attempt": how, "fault": how, "answer": how, "event": how,
            "done": how
        });
        let models = "models: { two: { fallback: ['chat/mock-fast:fault=500', anthropic/second] } }\n";
        let gateway = with(&mock, "probe", config, "fail: open", models).await;
        let reply = ask(&gateway, "two", false).await;
        assert_eq!((reply.status(), went_to(&reply)), (200, "anthropic/second".to_owned()), "{how}: {}", reply.text());
        gateway.settled().await;
    }
}

#[tokio::test]
async fn what_breaks_where_it_must_not_refuses_and_says_so() {
    let mock = Mock::start().await;
    for how in ["loop", "trap", "error", "nonsense"] {
        let gateway = with(&mock, "probe", json!({ "request": how }), "fail: closed", "").await;
        let reply = ask(&gateway, "chat/m", false).await;
        assert_eq!(reply.json()["error"]["code"], "policy_failed", "{how}: {}", reply.text());
    }
    assert!(mock.journal().await.is_empty(), "nothing was sent on");
}

#[tokio::test]
async fn a_plugin_in_shadow_decides_and_changes_nothing() {
    let mock = Mock::start().await;
    let gateway = with(&mock, "probe", json!({ "request": "reject" }), "shadow: true", "").await;
    assert_eq!(ask(&gateway, "chat/m", false).await.status(), 200);
}

#[tokio::test]
async fn what_a_plugin_decides_stands_in_the_trace() {
    let mock = Mock::start().await;
    let gateway = with(&mock, "probe", json!({ "auth": "principal", "route": "reverse" }), "", TWO).await;
    let asked = [("x-portcullis-trace", "1")];
    let body = Chat.ask("two", false, Turn::Text, "Hello");
    let reply = gateway.call("POST", "/v1/chat/completions", &asked, body).await;
    let trace: Value =
        serde_json::from_str(reply.head.header("x-portcullis-trace").expect("is open to all")).expect("JSON");
    let steps = trace["steps"].as_array().expect("steps");
    let notes: Vec<&Value> =
        steps.iter().filter(|step| step["stage"] == "hook").map(|step| &step["what"]["note"]).collect();
    assert_eq!(notes[0]["decided"], json!({ "principal": "nobody" }), "{trace}");
    assert_eq!(notes[1]["decided"], "pass", "{trace}");
    assert_eq!(notes[2]["decided"], json!({ "plan": ["anthropic/second", "chat/first"] }), "{trace}");
    assert_eq!(ask(&gateway, "two", false).await.head.header("x-portcullis-trace"), None);
}

#[tokio::test]
async fn others_are_served_while_a_plugin_runs_away() {
    let mock = Mock::start().await;
    let gateway =
        with(&mock, "probe", json!({ "request": "loop" }), "on: { models: ['chat/bad'] }, fail: closed", "").await;
    let bad = together((0..4).map(|_| ask(&gateway, "chat/bad", false)));
    let good = together((0..32).map(|_| ask(&gateway, "chat/good", false)));
    let (bad, good) = tokio::join!(bad, good);
    assert!(bad.iter().all(|reply| reply.status() >= 400));
    assert!(good.iter().all(|reply| reply.status() == 200));
}

#[tokio::test]
async fn personal_data_is_taken_out_of_asks_and_answers_however_a_stream_is_cut() {
    let mock = Mock::start().await;
    let gateway = with(&mock, "pii-guard", json!({}), "", "").await;
    let secret = "Mail ada@example.com or pay 4111 1111 1111 1111.";
    for dialect in ALL {
        for stream in [false, true] {
            let body = dialect.ask("chat/echo", stream, Turn::Text, secret);
            let reply = gateway.post(&dialect.path("chat/echo", stream), body).await;
            assert_eq!(reply.status(), 200, "{dialect:?}: {}", reply.text());
            let sent = mock.last().await["body"].to_string();
            assert!(sent.contains("Mail [email] or pay [card]."), "{dialect:?}: {sent}");
            assert!(!reply.text().contains("4111 1111"), "{dialect:?} {stream}: {}", reply.text());
        }
    }
    // Of blocks that only the caller's dialect knows too.
    let found = json!({ "type": "search_result", "source": "s", "title": "t",
        "content": [{ "type": "text", "text": "ada@example.com" }] });
    for model in ["anthropic/m", "chat/m"] {
        let body = json!({ "model": model, "max_tokens": 9, "messages": [{ "role": "user", "content": [found] }] });
        let reply = gateway.post("/v1/messages", body.to_string()).await;
        assert_eq!(reply.status(), 200, "{model}: {}", reply.text());
        let sent = mock.last().await["body"].to_string();
        assert!(sent.contains("[email]") && !sent.contains("ada@"), "{model}: {sent}");
    }
    let gateway = with(&mock, "pii-guard", json!({ "action": "reject" }), "", "").await;
    let reply = gateway.post("/v1/chat/completions", Chat.ask("chat/m", false, Turn::Text, secret)).await;
    assert_eq!(
        (reply.status(), reply.json()["error"]["code"].clone()),
        (400, json!("personal_data")),
        "{}",
        reply.text()
    );
}

#[tokio::test]
async fn an_answer_that_misses_its_schema_is_asked_for_elsewhere() {
    let mock = Mock::start().await;
    let gateway = with(&mock, "json-schema-guard", json!({}), "", TWO).await;
    let body = json!({
        "model": "two",
        "messages": [{ "role": "user", "content": "Hi" }],
        "response_format": { "type": "json_schema", "json_schema": { "name": "n", "schema": {
            "type": "object", "required": ["a"], "minProperties": 9
        } } }
    });
    let reply = gateway.post("/v1/chat/completions", body.to_string()).await;
    assert_eq!(reply.head.attempts(), 2, "{}", reply.text());
    assert!(reply.status() >= 500, "neither fits: {}", reply.text());
    assert_eq!(ask(&gateway, "two", false).await.status(), 200, "without a schema nothing is held to it");
}

#[tokio::test]
async fn a_policy_that_cannot_be_loaded_is_refused_with_its_place() {
    let mock = Mock::start().await;
    let gateway = with(&mock, "probe", json!({}), "", "").await;
    let check = |hook: &str| {
        let text = gateway.text(&format!(
            "plugins: {{ folder: '{}/plugins/prebuilt', compiled: '{}/compiled-plugins' }}\nhooks: [{hook}]\n",
            env!("CARGO_MANIFEST_DIR"),
            env!("CARGO_TARGET_TMPDIR"),
        ));
        let path = gateway.folder.write("other.yaml", &text);
        let output = portcullis().arg("check").arg(path).output().expect("runs");
        assert!(!output.status.success(), "{hook} is taken");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert!(check("{ wasm: nobody }").contains("nobody.wasm cannot be read"));
    assert!(check("{ wasm: probe, lua: x }").contains("names a second policy"));
    assert!(check("{ wasm: probe, domain: x }").contains("a plugin has machines of its own"));
    let hook = "{ wasm: pii-guard, config: { kinds: [shoes] } }";
    let said = check(hook);
    assert!(said.contains("does not fit the policy's schema") && said.contains("hooks[0].config.kinds"), "{said}");
    let column = "hooks: [".len() + hook.find("kinds").expect("is there") + 1;
    assert!(said.contains(&format!("other.yaml:2:{column}: ")), "{said}");
    let said = check("{ wasm: probe, config: { init: refuse } }");
    assert!(said.contains("refuses its settings: refuse") && said.contains("hooks[0].config"), "{said}");
    assert!(check("{ wasm: probe, config: { init: trap } }").contains("on_init broke"));
    assert!(check("{ wasm: cohere }").contains("is an adapter, not a policy; name it in a provider"));
}

/// 1,000 swaps with `PORTCULLIS_SOAK=1`, 10 without.
#[tokio::test]
async fn a_policy_is_swapped_under_load_without_a_failed_request() {
    let mock = Mock::start().await;
    let gateway = with(&mock, "probe", json!({ "request": "shout" }), "", "").await;
    let path = gateway.folder.path("portcullis.yaml");
    let text = std::fs::read_to_string(&path).expect("the configuration");
    let rounds = if std::env::var_os("PORTCULLIS_SOAK").is_some() { 1000 } else { 10 };
    let mut before = 0;
    for round in 0..rounds {
        let changed = text.replace("\"shout\"", &format!("\"shout\",\"round\":\"{round}\""));
        assert_ne!(changed, text);
        std::fs::write(&path, changed).expect("is writable");
        let reload = gateway.admin("POST", "/admin/reload");
        let asks = together((0..8).map(|_| ask(&gateway, "chat/m", false)));
        let (reload, asks) = tokio::join!(reload, asks);
        assert_eq!(reload.status(), 200, "{}", reload.text());
        for reply in asks {
            assert_eq!(reply.status(), 200, "round {round}: {}", reply.text());
        }
        if round == rounds / 5 {
            before = gateway.process.memory();
        }
    }
    let grown = gateway.process.memory().saturating_sub(before);
    println!("{rounds} swaps: {grown} more after the first fifth, of {before}");
}

/// A gateway with a policy that `plugins/build all` has made. Compiling an interpreter takes longer than a gateway may take to
/// start here, so it is checked first; afterwards its code is on disk.
async fn with_built(mock: &Mock, policy: &str, config: &str, more: &str) -> Gateway {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("the target folder");
    let yaml = format!(
        "plugins: {{ folder: '{}/guests/components', compiled: '{}/compiled-plugins' }}\n\
         hooks: [{{ wasm: {policy}, config: {config}, budget: {{ cpu: 2s, total: 9s, memory: 256MiB }} }}]\n",
        target.display(),
        env!("CARGO_TARGET_TMPDIR"),
    );
    let folder = Folder::new();
    let providers = "providers: { chat: { dialect: openai_chat, base_url: 'http://127.0.0.1:9/v1', auth: none } }\n";
    let path = folder.write("first.yaml", &format!("{providers}{yaml}"));
    let output = portcullis().arg("check").arg(path).output().expect("runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Gateway::start(mock, &format!("{yaml}{more}")).await
}

#[tokio::test]
#[ignore = "wants plugins/build all, which takes minutes; tests/run plugins builds them and runs this"]
async fn a_policy_in_python_keeps_topics_away() {
    let mock = Mock::start().await;
    let topics = "topics: { mergers: ['Ubernahme angebot'] }";
    let gateway = with_built(&mock, "topic-gate", &format!("{{ {topics}, say: 'Not that.' }}"), "").await;
    for dialect in ALL {
        let asked = |text| dialect.ask("chat/m", false, Turn::Text, text);
        let reply = gateway.post(&dialect.path("chat/m", false), asked("Gibt es ein ÜBERNAHME-Angebot?")).await;
        assert!(reply.status() == 200 && reply.text().contains("Not that."), "{dialect:?}: {}", reply.text());
        assert!(mock.journal().await.is_empty(), "nothing was sent on");
        let reply = gateway.post(&dialect.path("chat/m", false), asked("Guten Tag.")).await;
        assert_eq!(reply.status(), 200, "{}", reply.text());
        mock.clear().await;
    }
    let gateway = with_built(&mock, "topic-gate", &format!("{{ {topics}, look_at: all }}"), "").await;
    let reply = gateway.post("/v1/chat/completions", Chat.ask("chat/m", false, Turn::Text, "ubernahme  Angebot")).await;
    assert_eq!((reply.status(), &reply.json()["error"]["code"]), (403, &json!("topic_refused")), "{}", reply.text());
}

#[tokio::test]
#[ignore = "wants plugins/build all, which takes minutes; tests/run plugins builds them and runs this"]
async fn a_policy_in_javascript_lets_models_have_what_is_allowed() {
    let mock = Mock::start().await;
    let allows = with_built(&mock, "tool-guard", "{ allow: ['get_*'] }", "").await;
    let forbids = with_built(&mock, "tool-guard", "{ allow: [other] }", "").await;
    // More calls than one instance serves at rest: handles are dropped when its engine collects them.
    for round in 0..40 {
        let dialect = ALL[round % ALL.len()];
        let (path, ask) =
            (dialect.path("chat/mock-tools", false), dialect.ask("chat/mock-tools", false, Turn::Tool, "Hi"));
        let reply = allows.post(&path, ask.clone()).await;
        assert_eq!(reply.status(), 200, "{}", reply.text());
        assert_eq!(dialect.read(&reply).calls.len(), 1, "{dialect:?}: {}", reply.text());
        let reply = forbids.post(&path, ask).await;
        assert_eq!(reply.status(), 200, "{}", reply.text());
        assert!(dialect.read(&reply).calls.is_empty(), "{dialect:?}: {}", reply.text());
        assert!(mock.last().await["body"].get("tools").is_none(), "{dialect:?}");
    }
    // What a model calls without being offered it is a failed try.
    let call = r#"{"id":"c","object":"chat.completion","model":"m","choices":[{"index":0,"finish_reason":"tool_calls","message":{"role":"assistant","content":null,"tool_calls":[{"id":"1","type":"function","function":{"name":"rm_rf","arguments":"{}"}}]}}]}"#;
    let upstream = Upstream::saying("application/json", call).await;
    let more = format!(
        "providers: {{ wild: {{ dialect: openai_chat, base_url: 'http://{}/v1', auth: none }},\n\
         \x20 chat: {{ dialect: openai_chat, base_url: 'http://MOCK/v1', auth: none }} }}\n\
         models: {{ two: {{ fallback: [wild/m, chat/mock-fast] }} }}\n",
        upstream.address
    );
    let forbids = with_built(&mock, "tool-guard", "{ allow: [other] }", &more).await;
    let reply = ask(&forbids, "two", false).await;
    assert_eq!((reply.status(), went_to(&reply)), (200, "chat/mock-fast".to_owned()), "{}", reply.text());
    let reply = allows.post("/v1/chat/completions", Chat.ask("chat/mock-fast", true, Turn::Tool, "Hi")).await;
    assert_eq!(reply.status(), 200, "{}", reply.text());
}
