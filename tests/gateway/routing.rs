//! Routing as callers and operators meet it: trees, requests' own words, the availability object, the operator's hand.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::support::{Folder, Gateway, Mock, SOON};
use super::upstream::{Act, Upstream, answer};
use super::wire::Reply;

const CONFIG: &str = "
keys:
  - { name: gold, key: sk-gold, metadata: { tier: gold } }
  - { name: few, key: sk-few, models: [fast, tree] }
  - { name: careful, key: sk-careful, disable_fallbacks: true }
providers:
  one: { dialect: openai_chat, base_url: http://MOCK/v1, auth: none, tags: { region: eu }, breaker: { consecutive: 2, cool_down: 1m } }
  two: { dialect: openai_chat, base_url: http://MOCK/v1, auth: none, tags: { region: us, zdr: true } }
models:
  fast: { fallback: [one/a, two/b] }
  tree:
    conditional:
      - { when: { metadata.tier: gold, param.max_tokens: { lte: 100 } }, then: one/gold }
      - { else: two/rest }
  safe: { fallback: [one/mock-fault-503, two/b] }
  eu: { fallback: [one/a, two/b], require: { region: [eu] } }
  kept: { balance: { targets: [one/a, one/b, two/c, two/d] }, affinity: { by: [session] } }
  alone: one/mock-fault-500
";

fn ask(model: &str, more: Value) -> String {
    let mut body = json!({"model": model, "messages": [{"role": "user", "content": "Hello"}]});
    for (name, value) in more.as_object().expect("an object") {
        body[name] = value.clone();
    }
    body.to_string()
}

async fn call(gateway: &Gateway, key: &str, headers: &[(&str, &str)], body: String) -> Reply {
    let bearer = format!("Bearer {key}");
    let mut all = vec![("content-type", "application/json"), ("authorization", bearer.as_str())];
    all.extend_from_slice(headers);
    gateway.call("POST", "/v1/chat/completions", &all, body).await
}

/// The upstream model that served.
async fn served(gateway: &Gateway, key: &str, headers: &[(&str, &str)], body: String) -> String {
    let reply = call(gateway, key, headers, body).await;
    assert_eq!(reply.status(), 200, "{}", reply.text());
    reply.head.header("x-portcullis-model").expect("a model").to_owned()
}

#[tokio::test]
async fn a_tree_goes_by_who_asks_and_for_what() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, CONFIG).await;
    assert_eq!(served(&gateway, "sk-gold", &[], ask("tree", json!({"max_tokens": 50}))).await, "gold");
    assert_eq!(served(&gateway, "sk-gold", &[], ask("tree", json!({"max_tokens": 500}))).await, "rest");
    assert_eq!(served(&gateway, "sk-few", &[], ask("tree", json!({"max_tokens": 50}))).await, "rest");
}

#[tokio::test]
async fn a_request_chooses_in_its_body_or_its_headers_and_the_upstream_sees_none_of_it() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, CONFIG).await;
    for (headers, more, model) in [
        (vec![], json!({}), "a"),
        (vec![], json!({"provider": {"order": ["two"]}}), "b"),
        (vec![], json!({"provider": {"ignore": ["one"]}}), "b"),
        (vec![], json!({"provider": {"zdr": true}}), "b"),
        (vec![("x-portcullis-provider", "two")], json!({}), "b"),
        (vec![("x-portcullis-provider", r#"{"only":["two"]}"#)], json!({}), "b"),
        (vec![("x-portcullis-provider", "two")], json!({"provider": {"order": ["one"]}}), "a"),
        (vec![], json!({"session_id": "s", "disable_fallbacks": false}), "a"),
    ] {
        assert_eq!(served(&gateway, "sk-gold", &headers, ask("fast", more.clone())).await, model, "{headers:?} {more}");
        let sent = mock.last().await["body"].as_str().expect("a body").to_owned();
        for field in ["provider", "models", "session_id", "disable_fallbacks"] {
            assert!(!sent.contains(field), "{sent}");
        }
    }
    // Both were measured by now, and either may have been the faster one.
    assert!(["a", "b"].contains(&served(&gateway, "sk-gold", &[], ask("fast:nitro", json!({}))).await.as_str()));
    // Further models are tried when the first has failed.
    let fails = ask("one/mock-fault-503", json!({"models": ["one/mock-fault-503", "fast"]}));
    assert_eq!(served(&gateway, "sk-gold", &[], fails).await, "a");
    let header = [("x-portcullis-models", "fast, tree")];
    assert_eq!(served(&gateway, "sk-gold", &header, ask("one/mock-fault-503", json!({}))).await, "a");
}

#[tokio::test]
async fn no_word_of_a_request_reaches_what_its_key_or_the_operator_does_not_allow() {
    let mock = Mock::start().await;
    let locked = format!("{CONFIG}routing: {{ request_policy: {{ order: refuse, only: ignore, models: ignore }} }}\n");
    let gateway = Gateway::start(&mock, &locked).await;
    for (headers, more, status) in [
        (vec![], json!({"provider": {"order": ["two"]}}), 400),
        (vec![("x-portcullis-provider", "two")], json!({}), 400),
        (vec![], json!({"provider": "two"}), 400),
        (vec![("x-portcullis-timeout-ms", "soon")], json!({}), 400),
    ] {
        let reply = call(&gateway, "sk-gold", &headers, ask("fast", more.clone())).await;
        assert_eq!(reply.status(), status, "{headers:?} {more}: {}", reply.text());
    }
    assert_eq!(served(&gateway, "sk-gold", &[], ask("fast", json!({"provider": {"only": ["two"]}}))).await, "a");
    let gateway = Gateway::start(&mock, CONFIG).await;
    for (headers, more) in [
        (vec![], json!({"models": ["safe"]})),
        (vec![], json!({"fallbacks": [{"model": "two/b"}]})),
        (vec![("x-portcullis-models", "safe")], json!({})),
    ] {
        let reply = call(&gateway, "sk-few", &headers, ask("fast", more.clone())).await;
        assert_eq!(reply.status(), 403, "{headers:?} {more}: {}", reply.text());
    }
    assert_eq!(call(&gateway, "sk-few", &[], ask("safe:floor", json!({}))).await.status(), 403);
}

#[tokio::test]
async fn fallbacks_can_be_forbidden_by_key_and_by_request() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, CONFIG).await;
    assert_eq!(served(&gateway, "sk-gold", &[], ask("safe", json!({}))).await, "b");
    for (key, headers, more) in [
        ("sk-careful", vec![], json!({})),
        ("sk-gold", vec![], json!({"disable_fallbacks": true})),
        ("sk-gold", vec![], json!({"provider": {"allow_fallbacks": false}})),
        ("sk-gold", vec![("x-portcullis-disable-fallbacks", "true")], json!({})),
    ] {
        // Its breaker is a matter of its own.
        gateway.admin("POST", "/admin/targets/one%2Fmock-fault-503/close").await;
        let reply = call(&gateway, key, &headers, ask("safe", more.clone())).await;
        assert_eq!(reply.status(), 503, "{headers:?} {more}: {}", reply.text());
    }
}

#[tokio::test]
async fn when_nothing_is_left_every_dialect_says_what_removed_each_target() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, CONFIG).await;
    let reply = call(&gateway, "sk-gold", &[], ask("eu", json!({"provider": {"ignore": ["one"]}}))).await;
    let error = &reply.json()["error"];
    assert_eq!((reply.status(), &error["code"]), (404, &json!("no_target_fits")));
    assert_eq!(error["availability"]["excluded_by"], json!(["ignore", "region"]));
    gateway.admin("POST", "/admin/targets/one%2Fa/open").await;
    let key = [("x-api-key", "sk-gold"), ("content-type", "application/json"), ("anthropic-version", "2023-06-01")];
    let body = json!({"model": "eu", "max_tokens": 5, "messages": [{"role": "user", "content": "Hello"}]}).to_string();
    let reply = gateway.call("POST", "/v1/messages", &key, body).await;
    assert_eq!(reply.status(), 503, "{}", reply.text());
    assert_eq!(reply.json()["error"]["availability"]["excluded_by"], json!(["open", "region"]));
    assert_eq!(reply.head.header("x-should-retry"), Some("true"));
    let body = json!({"contents": [{"role": "user", "parts": [{"text": "Hello"}]}]}).to_string();
    let reply = gateway.call("POST", "/v1beta/models/eu:generateContent", &key, body).await;
    let details = reply.json()["error"]["details"].clone();
    assert!(
        details
            .as_array()
            .is_some_and(|list| list.iter().any(|one| one["availability"]["code"] == "no_target_available")),
        "{details}"
    );
}

async fn standing(gateway: &Gateway, name: &str) -> Value {
    let list = gateway.admin("GET", "/admin/targets").await.json();
    let rows = list["targets"].as_array().expect("a list");
    rows.iter().find(|row| row["name"] == name).unwrap_or_else(|| panic!("{name} is not in {list}")).clone()
}

#[tokio::test]
async fn the_operator_drains_opens_and_closes_and_a_reload_keeps_it() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, CONFIG).await;
    assert_eq!(standing(&gateway, "one/a").await["standing"], "closed");
    for word in ["drain", "open"] {
        let reply = gateway.admin("POST", &format!("/admin/targets/one%2Fa/{word}")).await;
        assert_eq!(reply.status(), 200, "{}", reply.text());
        assert_eq!(served(&gateway, "sk-gold", &[], ask("fast", json!({}))).await, "b");
    }
    assert_eq!(gateway.admin("POST", "/admin/reload").await.status(), 200);
    assert_eq!(standing(&gateway, "one/a").await["standing"], "open");
    assert_eq!(served(&gateway, "sk-gold", &[], ask("fast", json!({}))).await, "b");
    assert_eq!(gateway.metric("portcullis_target_standing{target=\"one/a\"}").await, Some(2.0));
    gateway.admin("POST", "/admin/targets/one/a/close").await;
    assert_eq!(served(&gateway, "sk-gold", &[], ask("fast", json!({}))).await, "a");
    // A whole provider.
    gateway.admin("POST", "/admin/targets/one/drain").await;
    assert_eq!(served(&gateway, "sk-gold", &[], ask("fast", json!({}))).await, "b");
    assert_eq!(gateway.admin("POST", "/admin/targets/nobody%2Fa/drain").await.status(), 404);
    let endpoints = gateway.call("GET", "/v1/models/fast/endpoints", &[("authorization", "Bearer sk-gold")], b"").await;
    assert_eq!(endpoints.json()["data"]["endpoints"][0]["standing"], "drained");
}

#[tokio::test]
async fn a_breaker_opens_by_failures_and_a_reload_keeps_it_open() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, CONFIG).await;
    let deadline = Instant::now() + SOON;
    let refused = loop {
        let reply = call(&gateway, "sk-gold", &[], ask("alone", json!({}))).await;
        if reply.json()["error"]["code"] == "no_target_available" {
            break reply;
        }
        assert_eq!(reply.status(), 500, "{}", reply.text());
        assert!(Instant::now() < deadline, "never opens");
        sleep(Duration::from_millis(5)).await;
    };
    let wait: u64 = refused.head.header("retry-after").and_then(|text| text.parse().ok()).expect("a wait");
    assert!((1..=60).contains(&wait), "{wait}");
    assert_eq!(gateway.admin("POST", "/admin/reload").await.status(), 200);
    mock.clear().await;
    assert_eq!(call(&gateway, "sk-gold", &[], ask("alone", json!({}))).await.status(), 503);
    assert!(mock.journal().await.is_empty(), "it was asked although its breaker is open");
    let row = standing(&gateway, "one/mock-fault-500").await;
    assert_eq!((&row["standing"], row["failed"]["upstream_error"].as_u64().is_some()), (&json!("open"), true));
}

#[tokio::test]
async fn seed_13_a_conversation_stays_at_its_target_until_that_is_out() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, CONFIG).await;
    let session = [("x-portcullis-session", "talk-1")];
    let first = served(&gateway, "sk-gold", &session, ask("kept", json!({}))).await;
    gateway.settled().await;
    for _ in 0..8 {
        assert_eq!(served(&gateway, "sk-gold", &session, ask("kept", json!({}))).await, first);
        gateway.settled().await;
    }
    let provider = if ["a", "b"].contains(&first.as_str()) { "one" } else { "two" };
    gateway.admin("POST", &format!("/admin/targets/{provider}%2F{first}/drain")).await;
    let second = served(&gateway, "sk-gold", &session, ask("kept", json!({}))).await;
    assert_ne!(second, first);
    gateway.settled().await;
    gateway.admin("POST", &format!("/admin/targets/{provider}%2F{first}/close")).await;
    assert_eq!(served(&gateway, "sk-gold", &session, ask("kept", json!({}))).await, second);
}

#[tokio::test]
async fn a_caller_may_be_less_patient_than_the_operator() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, CONFIG).await;
    let started = Instant::now();
    let header = [("x-portcullis-timeout-ms", "300")];
    let reply = call(&gateway, "sk-gold", &header, ask("two/mock-fault-stall-head", json!({}))).await;
    assert_eq!((reply.status(), &reply.json()["error"]["code"]), (504, &json!("total_timeout")));
    assert!(started.elapsed() < SOON, "{:?}", started.elapsed());
}

/// Where a limit or a policy sends a request to another model, that model's tree, the operator's hand and what the
/// request demands count as if its caller had named it.
#[tokio::test]
async fn a_model_that_a_limit_or_a_policy_names_is_planned_for_like_any_other() {
    let mock = Mock::start().await;
    let folder = Folder::new();
    std::fs::create_dir_all(folder.path("scripts")).expect("a folder");
    folder.write("scripts/send.luau", "function on_route(req) return { 'tree' } end");
    let more = "
  dear: two/dear
  sent: two/sent
hooks: [{ lua: send, on: { models: [sent] } }]
limits: [{ name: dear, match: { model: dear }, requests: 1 / 1h, on_exhausted: { route: tree } }]
";
    let gateway = Gateway::prepared(folder, &mock, &format!("{CONFIG}{more}")).await;
    assert_eq!(served(&gateway, "sk-gold", &[], ask("dear", json!({}))).await, "dear");
    for model in ["dear", "sent"] {
        // The branch that fits, not the first that is written.
        assert_eq!(served(&gateway, "sk-gold", &[], ask(model, json!({"max_tokens": 50}))).await, "gold", "{model}");
        assert_eq!(served(&gateway, "sk-gold", &[], ask(model, json!({"max_tokens": 500}))).await, "rest", "{model}");
        // What the caller demands of a target holds there as well.
        let picky = ask(model, json!({"max_tokens": 50, "provider": {"zdr": true}}));
        let refused = call(&gateway, "sk-gold", &[], picky).await;
        assert_eq!(refused.json()["error"]["code"], "no_target_fits", "{model}: {}", refused.text());
        assert_eq!(refused.json()["error"]["availability"]["targets"][0]["target"], "one/gold", "{model}");
    }
    // And so does what the operator wants: nobody is asked in vain.
    gateway.admin("POST", "/admin/targets/one%2Fgold/drain").await;
    mock.clear().await;
    for model in ["dear", "sent"] {
        let refused = call(&gateway, "sk-gold", &[], ask(model, json!({"max_tokens": 50}))).await;
        assert_eq!(refused.json()["error"]["code"], "no_target_available", "{model}: {}", refused.text());
    }
    assert!(mock.journal().await.is_empty());
}

/// What is learnt of a target while it answers, where operators, callers and metrics see it.
#[tokio::test]
async fn tool_calls_and_the_providers_own_limits_are_measured_for_each_target() {
    const STATED: &str = "x-ratelimit-limit-requests: 200\r\nx-ratelimit-remaining-requests: 50\r\n";
    let mock = Mock::start().await;
    let calls = |arguments: &str| {
        let call = json!({"id": "c1", "type": "function", "function": {"name": "weather", "arguments": arguments}});
        let message = json!({"role": "assistant", "content": null, "tool_calls": [call]});
        let choice = json!({"index": 0, "message": message, "finish_reason": "tool_calls"});
        json!({"id": "a", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}).to_string()
    };
    let (good, bad) = (calls(r#"{"city":"Bonn"}"#), calls(r#"{"town":"Bonn"}"#));
    let upstream = Upstream::start(move |seen| {
        let wanted = if String::from_utf8_lossy(&seen.body).contains("badly") { &bad } else { &good };
        let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n";
        Act::Answer(format!("{head}{STATED}content-length: {}\r\n\r\n{wanted}", wanted.len()).into_bytes())
    })
    .await;
    let config = format!(
        "providers:\n  up: {{ dialect: openai_chat, base_url: 'http://{}/v1', auth: none }}\nmodels: {{ m: up/m }}\n",
        upstream.address
    );
    let gateway = Gateway::start(&mock, &config).await;
    let schema = json!({"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]});
    let tools = json!([{"type": "function", "function": {"name": "weather", "parameters": schema}}]);
    let ask = |how: &str| {
        let messages = json!([{"role": "user", "content": format!("Call it {how}")}]);
        json!({"model": "m", "messages": messages, "tools": tools}).to_string()
    };
    let measured = async |wanted: f64, how: &str| {
        let deadline = Instant::now() + SOON;
        while standing(&gateway, "up/m").await["tool_validity"] != json!(wanted) {
            assert!(Instant::now() < deadline, "{}", standing(&gateway, "up/m").await);
            // Not every answer is judged; the next one comes soon.
            assert_eq!(gateway.post("/v1/chat/completions", ask(how)).await.status(), 200);
            gateway.settled().await;
        }
    };
    measured(1.0, "well").await;
    let row = standing(&gateway, "up/m").await;
    assert_eq!(row["usage_left"], json!(0.25), "{row}");
    let endpoints = gateway.call("GET", "/v1/models/m/endpoints", &[], b"").await.json();
    let endpoint = &endpoints["data"]["endpoints"][0];
    assert_eq!((&endpoint["tool_validity"], &endpoint["usage_left"]), (&json!(1.0), &json!(0.25)), "{endpoint}");
    assert_eq!(gateway.metric("portcullis_target_tool_validity{target=\"up/m\"}").await, Some(1.0));
    assert_eq!(gateway.metric("portcullis_target_usage_left{target=\"up/m\"}").await, Some(0.25));
    let deadline = Instant::now() + SOON;
    let share = loop {
        gateway.post("/v1/chat/completions", ask("badly")).await;
        match standing(&gateway, "up/m").await["tool_validity"].as_f64() {
            Some(share) if share < 1.0 => break share,
            _ => assert!(Instant::now() < deadline, "what does not fit its schema counts as good"),
        }
    };
    assert!(share > 0.0, "the good ones are forgotten");
}

/// Probes keep requests from a provider that is not there, until it is; none of them costs anything.
#[tokio::test]
async fn a_provider_that_probes_miss_gets_no_requests_until_they_find_it() {
    let mock = Mock::start().await;
    let ill = Arc::new(AtomicBool::new(false));
    let told = ill.clone();
    let upstream = Upstream::start(move |seen| match seen.head.starts_with("GET /health ") {
        true if told.load(Ordering::Relaxed) => Act::Answer(b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n".to_vec()),
        true => Act::Answer(answer("text/plain", b"fine")),
        false => {
            let choice =
                json!({"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"});
            let body = json!({"id": "a", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]});
            Act::Answer(answer("application/json", body.to_string().as_bytes()))
        }
    })
    .await;
    let config = format!(
        "
providers:
  up: {{ dialect: openai_chat, base_url: 'http://{}/v1', api_key: sk-up, probe: {{ path: /health, every: 50ms, failures: 2 }} }}
  two: {{ dialect: openai_chat, base_url: http://MOCK/v1, auth: none }}
models: {{ both: {{ fallback: [up/m, two/b] }}, alone: up/m }}
",
        upstream.address
    );
    let gateway = Gateway::start(&mock, &config).await;
    let until = async |served_by: &str| {
        let deadline = Instant::now() + SOON;
        while gateway.post("/v1/chat/completions", ask("both", json!({}))).await.head.header("x-portcullis-model")
            != Some(served_by)
        {
            assert!(Instant::now() < deadline, "{served_by} never serves: {}", standing(&gateway, "up").await);
            sleep(Duration::from_millis(10)).await;
        }
    };
    until("m").await;
    ill.store(true, Ordering::Relaxed);
    until("b").await;
    assert_eq!(standing(&gateway, "up").await["standing"], "open");
    // Who has nowhere else to go is let through.
    assert_eq!(gateway.post("/v1/chat/completions", ask("alone", json!({}))).await.status(), 200);
    ill.store(false, Ordering::Relaxed);
    until("m").await;
    assert_eq!(standing(&gateway, "up").await["standing"], "closed");
    let seen = upstream.seen();
    let probes: Vec<_> = seen.iter().filter(|seen| seen.head.contains("/health")).collect();
    assert!(probes.iter().all(|probe| probe.body.is_empty() && probe.head.to_lowercase().contains("bearer sk-up")));
    assert!(probes.len() >= 3, "{}", probes.len());
}

/// A probe of a model is a paid call, made only where the operator says so, and speaks of that model alone.
#[tokio::test]
async fn a_paid_probe_asks_one_token_of_its_model() {
    let mock = Mock::start().await;
    let config = "
providers:
  paid: { dialect: anthropic, base_url: http://MOCK, api_key: sk-up, probe: { model: mock-fault-500, paid: true, every: 50ms, failures: 1 } }
models: { m: { fallback: [paid/mock-fault-500, paid/other] } }
";
    let gateway = Gateway::start(&mock, config).await;
    let deadline = Instant::now() + SOON;
    while standing(&gateway, "paid/mock-fault-500").await["standing"] != "open" {
        assert!(Instant::now() < deadline, "is never missed");
        sleep(Duration::from_millis(10)).await;
    }
    let asked = mock.journal().await;
    assert!(asked.iter().all(|entry| entry["body"].as_str().is_some_and(|body| body.contains("\"max_tokens\":1"))));
    let reply = gateway.post("/v1/chat/completions", ask("m", json!({}))).await;
    assert_eq!((reply.head.header("x-portcullis-model"), reply.head.attempts()), (Some("other"), 1));
}

/// With one place and a queue, who is more urgent goes first, whoever came first.
#[tokio::test]
async fn requests_of_urgent_keys_go_first_where_they_wait_for_a_place() {
    let mock = Mock::start().await;
    let config = "
keys: [{ name: idle, key: sk-idle }, { name: urgent, key: sk-urgent, priority: 9 }]
providers:
  one: { dialect: openai_chat, base_url: http://MOCK/v1, auth: none, max_inflight: 1, queue: { size: 8, wait: 10s } }
models: { slow: \"one/mock-fast:head=300ms\" }
";
    let gateway = Gateway::start(&mock, config).await;
    let slow = || ask("slow", json!({}));
    let waiting = async |wanted: u64| {
        let deadline = Instant::now() + SOON;
        while standing(&gateway, "one").await["waiting"] != json!(wanted) {
            assert!(Instant::now() < deadline, "{wanted} never wait");
            sleep(Duration::from_millis(2)).await;
        }
    };
    let first = call(&gateway, "sk-idle", &[], slow());
    let second = async {
        let deadline = Instant::now() + SOON;
        while standing(&gateway, "one").await["in_flight"] != json!(1) {
            assert!(Instant::now() < deadline, "never begins");
            sleep(Duration::from_millis(2)).await;
        }
        call(&gateway, "sk-idle", &[], slow()).await.head.id().to_owned()
    };
    let third = async {
        waiting(1).await;
        call(&gateway, "sk-urgent", &[], slow()).await.head.id().to_owned()
    };
    let (_, second, third) = tokio::join!(first, second, third);
    let ended = async |id: &str| {
        let line = gateway.logged(id).await;
        let began = humantime::parse_rfc3339(line["time"].as_str().expect("a time")).expect("a time");
        began + Duration::from_secs_f64(line["attempts"][0]["at_ms"].as_f64().expect("a moment") / 1000.0)
    };
    assert!(ended(&third).await < ended(&second).await, "who came first went first");
}

#[tokio::test]
async fn who_forbids_fallbacks_is_told_to_wait_while_the_first_target_rests() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, CONFIG).await;
    for drained in [false, true] {
        if drained {
            gateway.admin("POST", "/admin/targets/one%2Fmock-fault-503/close").await;
            gateway.admin("POST", "/admin/targets/one%2Fmock-fault-503/drain").await;
        }
        for (key, headers, more) in [
            ("sk-careful", vec![], json!({})),
            ("sk-careful", vec![], json!({})),
            ("sk-careful", vec![], json!({})),
            ("sk-gold", vec![], json!({"disable_fallbacks": true})),
            ("sk-gold", vec![], json!({"provider": {"allow_fallbacks": false}})),
            ("sk-gold", vec![("x-portcullis-disable-fallbacks", "true")], json!({})),
        ] {
            let reply = call(&gateway, key, &headers, ask("safe", more.clone())).await;
            assert_eq!(reply.status(), 503, "{headers:?} {more}: {}", reply.text());
        }
        let reply = call(&gateway, "sk-careful", &[], ask("safe", json!({}))).await;
        assert_eq!(reply.json()["error"]["code"], "no_target_available", "{}", reply.text());
        assert_eq!(reply.head.header("retry-after").is_some(), !drained, "{}", reply.text());
    }
    assert_eq!(served(&gateway, "sk-gold", &[], ask("safe", json!({}))).await, "b");
}
