//! What an exchange costs, where it is told, and the meters.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::dialect::{ALL, Anthropic, Chat, Dialect, Gemini, Responses, Turn, frames};
use super::support::{Gateway, Mock};
use super::upstream::{Act, Upstream, answer};
use super::wire::{Conn, Reply, request};

/// Prices in dollars for a million tokens: 3 nano-dollars in, 7.5 out for each token, times a thousand.
const CONFIG: &str = "
prices:
  models:
    chat/mock-fast: { input: 3, output: 7.50 }
    responses/mock-fast: { input: 3, output: 7.50 }
    anthropic/mock-fast: { input: 3, output: 7.50 }
    gemini/mock-fast: { input: 3, output: 7.50 }
models:
  priced: chat/mock-fast
";

/// What the usage comes to, in nano-dollars.
fn nano(usage: (u64, u64)) -> u64 {
    usage.0 * 3000 + usage.1 * 7500
}

/// Nano-dollars as a decimal without zeros at its end.
fn decimal(nano: u64) -> String {
    let text = format!("{}.{:09}", nano / 1_000_000_000, nano % 1_000_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// The last usage that an answer shows.
fn usage(from: Dialect, reply: &Reply, stream: bool) -> Value {
    let values: Vec<Value> = match stream {
        false => vec![reply.json()],
        true => frames(&reply.text()).iter().filter_map(|(_, data)| serde_json::from_str(data).ok()).collect(),
    };
    let pointer = match from {
        Responses if stream => "/response/usage",
        Gemini => "/usageMetadata",
        _ => "/usage",
    };
    let mut usages = values.iter().filter_map(|value| value.pointer(pointer)).filter(|usage| usage.is_object());
    usages.next_back().cloned().unwrap_or_else(|| panic!("no usage: {}", reply.text()))
}

async fn ask(gateway: &Gateway, from: Dialect, model: &str, stream: bool, headers: &[(&str, &str)]) -> Reply {
    let reply =
        gateway.call("POST", &from.path(model, stream), headers, from.ask(model, stream, Turn::Text, "Hello")).await;
    assert_eq!(reply.status(), 200, "{}", reply.text());
    reply
}

#[tokio::test]
async fn the_cost_is_told_exactly_in_the_header_the_log_and_where_it_is_asked_for_the_usage() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, CONFIG).await;
    for from in ALL {
        for to in ALL {
            for stream in [false, true] {
                let model = format!("{}/mock-fast", to.account());
                let what = format!("{from:?} to {to:?}, stream {stream}");
                let reply = ask(&gateway, from, &model, stream, &[("x-portcullis-usage-cost", "true")]).await;
                let said = from.read(&reply);
                let cost = nano(said.usage.expect("usage"));
                assert!(cost > 0);
                let header = reply.head.header("x-portcullis-cost");
                assert_eq!(header, (!stream).then(|| decimal(cost)).as_deref(), "{what}");
                let line = gateway.logged(reply.head.id()).await;
                let logged = line["cost_usd"].as_f64().expect("a cost");
                assert!((logged - cost as f64 / 1e9).abs() < 1e-12, "{what}: {logged}");
                let told = usage(from, &reply, stream)["cost"].as_f64();
                let told = told.unwrap_or_else(|| panic!("{what}: no usage.cost in {}", reply.text()));
                assert!((told - cost as f64 / 1e9).abs() < 1e-12, "{what}: {told} is not {cost} nano");
                let reply = ask(&gateway, from, &model, stream, &[]).await;
                assert_eq!(usage(from, &reply, stream).get("cost"), None, "{what}");
            }
        }
    }
}

#[tokio::test]
async fn openrouters_way_to_ask_for_the_cost_works_and_stays_here() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, CONFIG).await;
    for to in [Chat, Anthropic] {
        for stream in [false, true] {
            let model = format!("{}/mock-fast:strict=1", to.account());
            let alias = if to == Chat { "priced" } else { "anthropic/mock-fast" };
            let body = json!({
                "model": if to == Chat { alias } else { &model }, "stream": stream, "usage": {"include": true},
                "messages": [{"role": "user", "content": "Hello"}], "stream_options": {"include_usage": true},
            });
            let mut body = body;
            if !stream {
                body.as_object_mut().expect("an object").remove("stream_options");
            }
            body["model"] = json!(alias);
            let reply = gateway.post("/v1/chat/completions", body.to_string()).await;
            assert_eq!(reply.status(), 200, "{}", reply.text());
            assert!(usage(Chat, &reply, stream)["cost"].is_number(), "{to:?} {stream}: {}", reply.text());
            let sent: Value = serde_json::from_str(mock.last().await["body"].as_str().expect("a body")).expect("JSON");
            assert_eq!(sent.get("usage"), None, "{to:?} {stream}");
        }
    }
}

#[tokio::test]
async fn an_unknown_price_is_unknown_and_not_nothing() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, CONFIG).await;
    for stream in [false, true] {
        let reply = ask(&gateway, Chat, "chat/mock-unpriced", stream, &[("x-portcullis-usage-cost", "true")]).await;
        assert_eq!(reply.head.header("x-portcullis-cost"), None);
        assert_eq!(usage(Chat, &reply, stream).get("cost"), None);
        assert_eq!(gateway.logged(reply.head.id()).await["cost_usd"], Value::Null);
    }
}

#[tokio::test]
async fn a_failed_exchange_costs_what_was_delivered_and_a_refused_one_nothing() {
    let mock = Mock::start().await;
    let yaml = "
prices:
  models:
    \"chat/mock-fast:fault=cut-mid\": { input: 3, output: 7.50 }
    \"chat/mock-fast:fault=500\": { input: 3, output: 7.50 }
";
    let gateway = Gateway::start(&mock, yaml).await;
    let model = "chat/mock-fast:fault=cut-mid";
    let reply = gateway.post("/v1/chat/completions", Chat.ask(model, true, Turn::Text, "Hello")).await;
    let line = gateway.logged(reply.head.id()).await;
    assert!(line["cost_usd"].as_f64() > Some(0.0) && line["usage_estimated"] == true, "{line}");
    let model = "chat/mock-fast:fault=500";
    let reply = gateway.post("/v1/chat/completions", Chat.ask(model, true, Turn::Text, "Hello")).await;
    let line = gateway.logged(reply.head.id()).await;
    assert_eq!((&line["cost_usd"], &line["usage"]), (&Value::Null, &Value::Null), "{line}");
}

/// The samples of a page, each name with its labels; everything else must be a comment that is known.
fn samples(page: &str) -> BTreeMap<String, f64> {
    let lines: Vec<&str> = page.lines().collect();
    assert_eq!(lines.last(), Some(&"# EOF"), "OpenMetrics ends with a mark");
    let mut samples = BTreeMap::new();
    for line in &lines[..lines.len() - 1] {
        if let Some(comment) = line.strip_prefix("# ") {
            assert!(["HELP ", "TYPE ", "UNIT "].iter().any(|kind| comment.starts_with(kind)), "{line}");
            continue;
        }
        let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no sample: {line}"));
        let bare = name.split('{').next().unwrap_or_default();
        assert!(bare.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'), "{line}");
        assert!(name == bare || name.ends_with('}'), "{line}");
        let value = value.parse().unwrap_or_else(|_| panic!("no number: {line}"));
        assert!(samples.insert(name.to_owned(), value).is_none(), "twice: {line}");
    }
    samples
}

#[tokio::test]
async fn the_meters_can_be_read_and_count_what_happened() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, CONFIG).await;
    let (mut input, mut output, mut cost) = (0, 0, 0);
    for stream in [false, true, true] {
        let said = Chat.read(&ask(&gateway, Chat, "chat/mock-fast", stream, &[]).await);
        let usage = said.usage.expect("usage");
        (input, output, cost) = (input + usage.0, output + usage.1, cost + nano(usage));
    }
    gateway.post("/v1/messages", Anthropic.ask("chat/x:fault=429=70", false, Turn::Text, "Hello")).await;
    gateway.post("/v1/chat/completions", "{").await;
    gateway.settled().await;
    let reply = gateway.admin("GET", "/metrics").await;
    let kind = reply.head.header("content-type").expect("a content type");
    assert!(kind.starts_with("application/openmetrics-text"), "{kind}");
    let samples = samples(&reply.text());
    let sum = |name: &str, labels: &[&str]| -> f64 {
        let fits =
            |sample: &str| sample.split('{').next() == Some(name) && labels.iter().all(|label| sample.contains(label));
        samples.iter().filter(|(sample, _)| fits(sample)).map(|(_, value)| value).sum()
    };
    let model = "gen_ai_request_model=\"mock-fast\"";
    assert_eq!(sum("gen_ai_client_operation_duration_seconds_count", &[model, "gen_ai_operation_name=\"chat\""]), 3.0);
    assert_eq!(sum("gen_ai_server_time_to_first_token_seconds_count", &[model]), 2.0);
    assert_eq!(sum("gen_ai_server_time_per_output_token_seconds_count", &[model]), 2.0);
    assert_eq!(sum("gen_ai_client_token_usage_sum", &[model, "gen_ai_token_type=\"input\""]), input as f64);
    assert_eq!(sum("gen_ai_client_token_usage_sum", &[model, "gen_ai_token_type=\"output\""]), output as f64);
    assert!((sum("portcullis_cost_usd_total", &[model]) - cost as f64 / 1e9).abs() < 1e-12);
    assert_eq!(sum("portcullis_requests_total", &["status=\"200\""]), 3.0);
    assert_eq!(sum("portcullis_requests_total", &["status=\"429\"", "code=\"rate_limited\""]), 1.0);
    assert_eq!(sum("portcullis_requests_total", &["status=\"400\"", "code=\"invalid_json\""]), 1.0);
    assert_eq!(sum("portcullis_attempts_total", &["provider=\"chat\"", "code=\"rate_limited\""]), 1.0);
    assert_eq!(sum("portcullis_overhead_seconds_count", &[]), 5.0);
    assert_eq!(sum("portcullis_generation", &[]), 1.0);
    assert_eq!(sum("portcullis_in_flight", &[]), 0.0);
    assert_eq!(sum("portcullis_log_dropped_lines_total", &[]), 0.0);
}

#[tokio::test]
async fn the_admin_api_asks_for_its_token_and_takes_no_callers_key() {
    let mock = Mock::start().await;
    let yaml = "admin: { address: ADMIN, token: sk-admin }\nkeys: [{ name: k, key: sk-caller }]\n";
    let gateway = Gateway::start(&mock, yaml).await;
    for (method, path) in [("GET", "/metrics"), ("GET", "/admin/generation"), ("POST", "/admin/reload")] {
        for key in ["", "Bearer sk-caller", "Bearer sk-admi", "sk-admin", "Bearer sk-admin2"] {
            let reply = super::wire::call(gateway.admin, method, path, &[("authorization", key)], b"").await;
            assert_eq!(reply.status(), 401, "{path} {key:?}");
        }
        for key in ["Bearer sk-admin", "bearer sk-admin"] {
            let reply = super::wire::call(gateway.admin, method, path, &[("authorization", key)], b"").await;
            assert_eq!(reply.status(), 200, "{path}: {}", reply.text());
        }
    }
    assert_eq!(gateway.admin("GET", "/readyz").await.status(), 200);
    let admin = [("authorization", "Bearer sk-admin")];
    assert_eq!(gateway.call("GET", "/v1/models", &admin, b"").await.status(), 401);
}

#[tokio::test]
async fn a_model_without_a_price_has_no_series_of_its_cost() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, CONFIG).await;
    ask(&gateway, Chat, "chat/mock-fast", false, &[]).await;
    ask(&gateway, Chat, "chat/unheard-of", false, &[]).await;
    gateway.settled().await;
    let page = gateway.admin("GET", "/metrics").await.text();
    let costs: Vec<&str> = page.lines().filter(|line| line.starts_with("portcullis_cost_usd_total")).collect();
    assert!(costs.len() == 1 && costs[0].contains("mock-fast"), "{costs:?}");
    assert!(page.contains("unheard-of"), "{page}");
}

/// Providers at an upstream that answers as the test says; a token costs a thousandth of a dollar.
fn at(upstream: &Upstream) -> String {
    let up = |dialect: Dialect| {
        format!("{{ dialect: {}, base_url: 'http://{}/v1', auth: none }}", dialect.name(), upstream.address)
    };
    format!(
        "providers: {{ up: {}, an: {} }}\nprices: {{ models: {{ 'up/*': {{ input: 1000, output: 1000 }}, 'an/*': {{ input: 1000, output: 1000, cache_read: 100 }} }} }}\n",
        up(Chat),
        up(Anthropic)
    )
}

#[tokio::test]
async fn what_the_provider_states_is_charged_whatever_the_caller_wants_to_hear_of_it() {
    let mock = Mock::start().await;
    let upstream = Upstream::start(|seen| {
        let asked: Value = serde_json::from_slice(&seen.body).unwrap_or_default();
        let usage = match asked["model"].as_str() {
            Some("total") => json!({"total_tokens": 5000}),
            _ => json!({"prompt_tokens": 3000, "completion_tokens": 2000, "total_tokens": 5000}),
        };
        let message = json!({"role": "assistant", "content": "Hello there"});
        let said = json!({
            "id": "c", "object": "chat.completion", "created": 1, "model": "m", "usage": usage,
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "data": [{"object": "embedding", "index": 0, "embedding": [0.5]}],
            "results": [{"index": 0, "relevance_score": 0.5}],
        });
        // Some servers begin with the mark of UTF-8.
        Act::Answer(answer("application/json", format!("\u{feff}{said}").as_bytes()))
    })
    .await;
    let gateway = Gateway::start(&mock, &at(&upstream)).await;
    let charged = async |path: &str, body: Value, headers: &[(&str, &str)]| {
        let headers = [headers, &[("content-type", "application/json")]].concat();
        let reply = gateway.call("POST", path, &headers, format!("\u{feff}{body}")).await;
        assert_eq!(reply.status(), 200, "{}", reply.text());
        let line = gateway.logged(reply.head.id()).await;
        let usage = (line["usage"]["input"].as_u64(), line["usage"]["output"].as_u64());
        (reply.text(), usage, line["usage_estimated"] == true, line["cost_usd"].as_f64().expect("a cost"))
    };
    let chat =
        |model: &str| json!({"model": model, "messages": [{"role": "user", "content": "Hello"}], "stream": true});
    // A stream of an answer that came whole, with and without the chunk that says it.
    let (text, usage, estimated, cost) = charged("/v1/chat/completions", chat("up/m"), &[]).await;
    assert_eq!((usage, estimated, cost), ((Some(3000), Some(2000)), false, 5.0));
    assert!(!text.contains("prompt_tokens"), "{text}");
    let wants = [("x-portcullis-usage-cost", "true")];
    let (text, usage, _, cost) = charged("/v1/chat/completions", chat("up/m"), &wants).await;
    assert_eq!((usage, cost), ((Some(3000), Some(2000)), 5.0));
    assert!(text.contains("\"prompt_tokens\":3000") && text.contains("\"cost\":5"), "{text}");
    // A total alone.
    let ask = json!({"model": "up/total", "input": "Hello"});
    let (_, usage, estimated, cost) = charged("/v1/embeddings", ask, &[]).await;
    assert_eq!((usage, estimated, cost), ((Some(5000), Some(0)), false, 5.0));
    let ask = json!({"model": "up/total", "query": "q", "documents": ["a"]});
    let (_, usage, estimated, cost) = charged("/v1/rerank", ask, &[]).await;
    assert_eq!((usage, estimated, cost), ((Some(5000), Some(0)), false, 5.0));
    for stream in [true, false] {
        let mut ask = chat("up/total");
        ask["stream"] = stream.into();
        let (_, usage, estimated, cost) = charged("/v1/chat/completions", ask, &[]).await;
        assert!(estimated && usage.0 > Some(0) && usage.1 > Some(0) && cost > 0.0, "{usage:?} for {cost}");
    }
}

#[tokio::test]
async fn who_leaves_before_the_first_content_pays_what_the_provider_has_stated() {
    let mock = Mock::start().await;
    let upstream = Upstream::start(|_| {
        let usage = json!({"input_tokens": 5000, "cache_read_input_tokens": 2000, "output_tokens": 1});
        let message = json!({
            "id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": [],
            "stop_reason": null, "stop_sequence": null, "usage": usage,
        });
        let start = json!({"type": "message_start", "message": message});
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 100000\r\n\r\n";
        Act::Answer(format!("{head}event: message_start\ndata: {start}\n\n").into_bytes())
    })
    .await;
    let limits = "limits: [{ name: t, per: target, tokens: 1M / 1h }]\nstore: { path: off }\n";
    let gateway = Gateway::start(&mock, &format!("{}{limits}", at(&upstream))).await;
    for (number, from) in ALL.into_iter().enumerate() {
        let id = format!("left-{number}");
        let mut conn = Conn::open(gateway.address).await;
        let ask = from.ask("an/m", true, Turn::Text, "Hello");
        conn.send(&request("POST", &from.path("an/m", true), &[("x-request-id", &id)], &ask)).await;
        while upstream.seen().len() <= number {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        // What came is read by then.
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        drop(conn);
        let line = gateway.logged_where(&id, |line| line["request_id"] == id.as_str()).await;
        assert_eq!((&line["usage"]["input"], &line["error"]["code"]), (&json!(7000), &json!("client_gone")), "{line}");
        let cost = line["cost_usd"].as_f64().expect("a cost");
        assert!((cost - 5.201).abs() < 1e-9, "{line}");
    }
    gateway.settled().await;
    let state = gateway.admin("GET", "/admin/limits").await.json();
    assert_eq!(state["rules"][0]["fullest"][0]["windows"][0]["used"], 4 * 7001, "{state}");
}

#[tokio::test]
async fn a_head_that_is_too_long_is_said_to_be() {
    let mock = Mock::start().await;
    let upstream = Upstream::start(|_| {
        let cookie = format!("set-cookie: {}\r\n", "x".repeat(10_000));
        Act::Answer(format!("HTTP/1.1 200 OK\r\n{}", cookie.repeat(20)).into_bytes())
    })
    .await;
    let gateway = Gateway::start(&mock, &at(&upstream)).await;
    let reply = gateway.post(&Chat.path("up/m", false), Chat.ask("up/m", false, Turn::Text, "Hello")).await;
    assert_eq!(reply.status(), 502, "{}", reply.text());
    assert!(reply.text().contains("the head is too long"), "{}", reply.text());
}
