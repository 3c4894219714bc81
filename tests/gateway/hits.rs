//! Which asks an answer that is kept is given to: those that the operator's own rules would have answered alike, and nobody
//! who could take it from its maker.

use serde_json::{Value, json};

use super::cache::same;
use super::dialect::{Anthropic, Chat, Dialect, Responses};
use super::support::{Gateway, Mock};
use super::wire::Reply;

fn cache(reply: &Reply) -> &str {
    reply.head.header("x-portcullis-cache").unwrap_or("")
}

async fn send(gateway: &Gateway, path: &str, headers: &[(&str, &str)], body: &Value) -> Reply {
    let headers = [headers, &[("content-type", "application/json")]].concat();
    gateway.call("POST", path, &headers, body.to_string()).await
}

fn body(dialect: Dialect, model: &str, say: &str) -> Value {
    serde_json::from_slice(&same(dialect, model, false, say)).expect("JSON")
}

#[tokio::test]
async fn a_stored_response_is_its_makers_alone_and_one_that_was_deleted_is_given_to_nobody() {
    let mock = Mock::start().await;
    let keys = "keys: [{ name: one, key: sk-one, project: p }, { name: two, key: sk-two, project: p }]\n";
    let gateway = Gateway::start(&mock, &format!("{keys}cache: {{ exact: {{ partition: project }} }}\n")).await;
    let (one, two) = ([("authorization", "Bearer sk-one")], [("authorization", "Bearer sk-two")]);
    let ask = body(Responses, "responses/mock-fast", "Hello");
    let post = async |key: &[(&str, &str)], ask: &Value| {
        let reply = send(&gateway, "/v1/responses", key, ask).await;
        assert_eq!(reply.status(), 200, "{}", reply.text());
        (cache(&reply).to_owned(), Responses.read(&reply).id)
    };
    let stored = async |method: &str, key: &[(&str, &str)], id: &str| {
        gateway.call(method, &format!("/v1/responses/{id}"), key, b"").await.status()
    };
    let (status, id) = post(&one, &ask).await;
    assert_eq!(status, "miss");
    let (status, other) = post(&two, &ask).await;
    assert_eq!((status.as_str(), other == id), ("miss", false), "another key was given a response that is not its own");
    assert_eq!(post(&one, &ask).await, ("hit".to_owned(), id.clone()));
    assert_eq!((stored("GET", &one, &id).await, stored("GET", &two, &id).await), (200, 404));
    assert_eq!((stored("DELETE", &two, &id).await, stored("DELETE", &one, &id).await), (404, 200));
    let (status, fresh) = post(&one, &ask).await;
    assert_eq!((status.as_str(), fresh == id), ("miss", false), "a response that is gone was given");
    assert_eq!((stored("GET", &one, &fresh).await, post(&two, &ask).await), (200, ("hit".to_owned(), other)));
    // What nobody keeps belongs to nobody.
    let mut ask = body(Responses, "responses/mock-fast", "Not kept");
    ask["store"] = json!(false);
    assert_eq!((post(&one, &ask).await.0, post(&two, &ask).await.0), ("miss".to_owned(), "hit".to_owned()));
    // Other dialects have no name for it.
    let ask = body(Chat, "responses/mock-fast", "In other words");
    let chat = async |key: &[(&str, &str)]| cache(&send(&gateway, "/v1/chat/completions", key, &ask).await).to_owned();
    assert_eq!((chat(&one).await, chat(&two).await), ("miss".to_owned(), "hit".to_owned()));
}

#[tokio::test]
async fn who_is_on_another_branch_is_answered_by_its_own_target_and_a_reload_by_the_new_one() {
    let mock = Mock::start().await;
    let yaml = |free: &str| {
        format!(
            "cache: {{ exact: {{ ttl: 10m }} }}
models:
  tiered:
    conditional:
      - {{ when: {{ header.x-tier: gold }}, then: chat/mock-gold }}
      - {{ else: {free} }}
"
        )
    };
    let gateway = Gateway::start(&mock, &yaml("chat/mock-free")).await;
    let ask = async |tier: &str| {
        let body = body(Chat, "tiered", "Hello");
        let reply = send(&gateway, "/v1/chat/completions", &[("x-tier", tier)], &body).await;
        assert_eq!(reply.status(), 200, "{}", reply.text());
        (cache(&reply).to_owned(), reply.head.header("x-portcullis-model").unwrap_or("").to_owned())
    };
    let is = |status: &str, model: &str| (status.to_owned(), model.to_owned());
    assert_eq!(ask("gold").await, is("miss", "mock-gold"));
    assert_eq!(ask("tin").await, is("miss", "mock-free"));
    assert_eq!(ask("gold").await, is("hit", "mock-gold"));
    assert_eq!(ask("lead").await, is("hit", "mock-free"), "what decides is the branch, not the word");
    let reload = async |free: &str| {
        gateway.configure(&yaml(free));
        assert_eq!(gateway.admin("POST", "/admin/reload").await.status(), 200);
    };
    reload("chat/mock-other").await;
    assert_eq!(ask("tin").await, is("miss", "mock-other"));
    reload("{ target: chat/mock-other, set: { temperature: 1 } }").await;
    assert_eq!(ask("tin").await, is("miss", "mock-other"));
    reload("chat/mock-other").await;
    assert_eq!(ask("tin").await, is("hit", "mock-other"), "what leads to the same is the same");
}

#[tokio::test]
async fn asks_that_look_at_the_world_or_say_where_to_go_are_not_cached_and_say_so() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, "cache: { exact: { ttl: 10m } }\n").await;
    for (dialect, field, value) in [
        (Anthropic, "mcp_servers", json!([{"type": "url", "url": "https://tools.test", "name": "t"}])),
        (Chat, "search_parameters", json!({"mode": "auto"})),
        (Chat, "plugins", json!([{"id": "web"}])),
        (Chat, "models", json!(["chat/mock-other"])),
    ] {
        let model = format!("{}/mock-fast", dialect.account());
        let mut ask = body(dialect, &model, field);
        ask[field] = value;
        for _ in 0..2 {
            let reply = send(&gateway, &dialect.path(&model, false), &[], &ask).await;
            assert_eq!(cache(&reply), "bypass", "{field}: {}", reply.text());
        }
    }
    let mut ask = body(Chat, "chat/mock-fast", "none of it");
    ask["plugins"] = json!([]);
    for expected in ["miss", "hit"] {
        assert_eq!(cache(&send(&gateway, "/v1/chat/completions", &[], &ask).await), expected);
    }
}

#[tokio::test]
async fn a_hit_calls_the_model_as_the_answer_that_was_kept_did() {
    let mock = Mock::start().await;
    let models = format!("models: {{ mine: {{ target: {}/mock-fast }} }}\n", Anthropic.account());
    let gateway = Gateway::start(&mock, &format!("cache: {{ exact: {{ ttl: 10m }} }}\n{models}")).await;
    for (thinking, called) in [(json!({"type": "enabled", "budget_tokens": 1024}), "mine"), (Value::Null, "mock-fast")]
    {
        let mut ask = body(Anthropic, "mine", "Hello");
        if !thinking.is_null() {
            ask["thinking"] = thinking;
        }
        for expected in ["miss", "hit"] {
            let reply = send(&gateway, &Anthropic.path("mine", false), &[], &ask).await;
            assert_eq!((reply.status(), cache(&reply)), (200, expected), "{}", reply.text());
            assert_eq!(reply.json()["model"], called, "{expected}");
        }
    }
}

#[tokio::test]
async fn the_caches_field_goes_upstream_nowhere() {
    let mock = Mock::start().await;
    let off = "models: { fresh: { target: chat/mock-fast, cache: { enabled: false } } }\n";
    for (yaml, model) in [("", "chat/mock-fast"), (&format!("cache: {{ exact: {{}} }}\n{off}"), "fresh")] {
        let gateway = Gateway::start(&mock, yaml).await;
        let mut ask = body(Chat, model, "Hello");
        ask["cache"] = json!({"no-store": true});
        let reply = send(&gateway, "/v1/chat/completions", &[], &ask).await;
        assert_eq!((reply.status(), cache(&reply)), (200, ""), "{}", reply.text());
        let sent: Value = serde_json::from_str(mock.last().await["body"].as_str().expect("text")).expect("JSON");
        assert!(sent.get("cache").is_none() && sent["messages"] == ask["messages"], "{sent}");
    }
}

#[tokio::test]
async fn a_hit_is_found_by_its_own_id_and_only_what_is_kept_has_a_time() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, "cache: { exact: { ttl: 10m, max_entry_bytes: 4KiB } }\n").await;
    let ask = body(Chat, "chat/mock-fast", "Hello");
    let mut ids = Vec::new();
    for expected in ["miss", "hit"] {
        let reply = send(&gateway, "/v1/chat/completions", &[], &ask).await;
        assert_eq!((cache(&reply), reply.head.header("x-portcullis-cache-ttl").is_some()), (expected, true));
        let id = reply.json()["id"].as_str().expect("an id").to_owned();
        gateway.logged(reply.head.id()).await;
        let record = gateway.get(&format!("/v1/generation?id={id}")).await;
        assert_eq!(record.status(), 200, "{expected}: {}", record.text());
        let told = json!({"id": id, "score": 1});
        assert_eq!(send(&gateway, "/v1/feedback", &[], &told).await.status(), 200, "{expected}");
        ids.push(id);
    }
    assert_ne!(ids[0], ids[1]);
    for (model, header) in [
        ("chat/mock-fast", ("x-portcullis-cache", "no-store")),
        ("chat/mock-fast:fault=500", ("x-other", "1")),
        ("chat/mock-fast:length=9000", ("x-other", "1")),
    ] {
        let ask = body(Chat, model, "for no time");
        let reply = send(&gateway, "/v1/chat/completions", &[header], &ask).await;
        assert_eq!((cache(&reply), reply.head.header("x-portcullis-cache-ttl")), ("miss", None), "{model} {header:?}");
    }
}
