//! Limits as callers meet them: who is refused, when room comes back, and what the headers say.

use serde_json::{Value, json};

use super::support::{Gateway, Mock, together};
use super::wire::Reply;

const KEYS: &str =
    "keys: [{ name: a, key: sk-a, project: search }, { name: b, key: sk-b, metadata: { tier: gold } }]\n";

async fn chat(gateway: &Gateway, key: &str, model: &str, more: Value) -> Reply {
    let mut body = json!({"model": model, "messages": [{"role": "user", "content": "Hello"}]});
    body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    let auth = format!("Bearer {key}");
    let headers = [("content-type", "application/json"), ("authorization", auth.as_str())];
    gateway.call("POST", "/v1/chat/completions", &headers, body.to_string()).await
}

fn code(reply: &Reply) -> String {
    reply.json()["error"]["code"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn of_64_concurrent_callers_a_limit_of_n_admits_n() {
    let mock = Mock::start().await;
    let yaml = format!("{KEYS}limits: [{{ name: hourly, per: key, requests: 20 / 1h }}]\nstore: {{ path: off }}\n");
    let gateway = Gateway::start(&mock, &yaml).await;
    let replies = together((0..64).map(|_| chat(&gateway, "sk-a", "chat/mock-fast", json!({})))).await;
    let admitted = replies.iter().filter(|reply| reply.status() == 200).count();
    assert_eq!(admitted, 20);
    let refused = replies.iter().find(|reply| reply.status() == 429).expect("44 are refused");
    assert_eq!(code(refused), "limit_exceeded");
    assert!(refused.text().contains("`hourly`"), "{}", refused.text());
    let wait: u64 = refused.head.header("retry-after").expect("a time").parse().expect("seconds");
    assert!((1..=7200).contains(&wait), "{wait}");
    assert_eq!(chat(&gateway, "sk-b", "chat/mock-fast", json!({})).await.status(), 200, "keys are counted apart");
    assert_eq!(mock.journal().await.len(), 21, "a refused exchange reached the upstream");
    assert_eq!(
        gateway.metric("portcullis_limit_decisions_total{rule=\"hourly\",decision=\"refused\"}").await,
        Some(44.0)
    );
}

#[tokio::test]
async fn headers_tell_the_limits_in_each_dialect_on_success_and_refusal() {
    let mock = Mock::start().await;
    let yaml = format!("{KEYS}limits: [{{ name: r, requests: 2 / 1m, tokens: 100k / 1m, algorithm: fixed }}]\n");
    let gateway = Gateway::start(&mock, &yaml).await;
    let reply = chat(&gateway, "sk-a", "chat/mock-fast", json!({"max_tokens": 100})).await;
    assert_eq!(reply.status(), 200, "{}", reply.text());
    let header = |reply: &Reply, name: &str| reply.head.header(name).unwrap_or_default().to_owned();
    assert_eq!(header(&reply, "x-ratelimit-limit-requests"), "2");
    assert_eq!(header(&reply, "x-ratelimit-remaining-requests"), "1");
    assert!(header(&reply, "x-ratelimit-reset-requests").ends_with('s'));
    assert_eq!(header(&reply, "x-ratelimit-limit-tokens"), "100000");
    let left: u64 = header(&reply, "x-ratelimit-remaining-tokens").parse().expect("a number");
    assert!((99_800..99_900).contains(&left), "{left}");
    assert_eq!(header(&reply, "ratelimit-policy"), "\"r requests\";q=2;w=60, \"r tokens\";q=100000;w=60");
    assert!(header(&reply, "ratelimit").starts_with("\"r requests\";r=1;t="), "{}", header(&reply, "ratelimit"));
    let body =
        json!({"model": "anthropic/mock-fast", "max_tokens": 10, "messages": [{"role": "user", "content": "Hi"}]});
    let headers = [("content-type", "application/json"), ("x-api-key", "sk-a")];
    let ask = || gateway.call("POST", "/v1/messages", &headers, body.to_string());
    let reply = ask().await;
    assert_eq!(reply.status(), 200, "{}", reply.text());
    assert_eq!(header(&reply, "anthropic-ratelimit-requests-remaining"), "0");
    assert!(header(&reply, "anthropic-ratelimit-tokens-reset").ends_with('Z'));
    assert_eq!(header(&reply, "x-ratelimit-limit-requests"), "");
    let reply = ask().await;
    assert_eq!(reply.status(), 429);
    assert_eq!(reply.json()["error"]["type"], "rate_limit_error");
    assert_eq!(header(&reply, "anthropic-ratelimit-requests-remaining"), "0");
    assert_eq!(header(&reply, "x-should-retry"), "true");
    assert!(header(&reply, "retry-after").parse::<u64>().expect("seconds") <= 60);
    // An SDK must not be told of limits that nobody set.
    let bare = Gateway::start(&mock, KEYS).await;
    let reply = chat(&bare, "sk-a", "chat/mock-fast", json!({})).await;
    assert!(!reply.text().is_empty() && header(&reply, "x-ratelimit-limit-requests").is_empty());
}

#[tokio::test]
async fn tokens_are_settled_with_what_was_used_and_given_back_on_failure() {
    let mock = Mock::start().await;
    let yaml = format!("{KEYS}limits: [{{ name: t, tokens: 2000 / 1h, algorithm: fixed }}]\nstore: {{ path: off }}\n");
    let gateway = Gateway::start(&mock, &yaml).await;
    let used = async || {
        gateway.settled().await;
        let state = gateway.admin("GET", "/admin/limits").await.json();
        let window = state["rules"][0]["fullest"][0]["windows"][0].clone();
        (window["used"].as_u64().unwrap_or(0), window["reserved"].as_u64().unwrap_or(0))
    };
    let reply = chat(&gateway, "sk-a", "chat/x:fault=500", json!({"max_tokens": 1500})).await;
    assert!(reply.status() >= 500, "{}", reply.text());
    assert_eq!(used().await, (0, 0), "a failed exchange keeps tokens");
    let reply = chat(&gateway, "sk-a", "chat/mock-fast", json!({"max_tokens": 1500})).await;
    let usage = reply.json()["usage"]["total_tokens"].as_u64().expect("a usage");
    assert_eq!(used().await, (usage, 0));
    let reply = chat(&gateway, "sk-a", "chat/mock-fast", json!({"max_tokens": 5000})).await;
    assert_eq!((reply.status(), code(&reply).as_str()), (429, "limit_exceeded"));
    assert!(reply.head.header("retry-after").is_none(), "no wait makes room for more than the whole limit");
    // Who states no bound is not refused for our guess of one.
    let reply = chat(&gateway, "sk-a", "chat/mock-fast", json!({})).await;
    assert_eq!(reply.status(), 200, "{}", reply.text());
}

#[tokio::test]
async fn of_asks_without_a_bound_one_has_what_is_left_and_what_the_model_sets_is_a_bound() {
    let mock = Mock::start().await;
    let yaml = format!(
        "{KEYS}models: {{ short: {{ target: chat/mock-fast, set: {{ max_tokens: 50 }} }} }}\n\
         prices: {{ models: {{ chat/*: {{ input: 1000, output: 1000 }} }} }}\n\
         limits: [{{ name: t, output_tokens: 1000 / 1h }}, {{ name: m, money: $1 / 1h }}]\nstore: {{ path: off }}\n"
    );
    let gateway = Gateway::start(&mock, &yaml).await;
    // A dollar is a thousand tokens: neither limit has room for the 1024 that are assumed.
    let replies = together((0..16).map(|_| chat(&gateway, "sk-a", "chat/x:head=2000ms", json!({})))).await;
    let admitted = replies.iter().filter(|reply| reply.status() == 200).count();
    assert_eq!(admitted, 1, "{}", replies[0].text());
    let refused = replies.iter().find(|reply| reply.status() == 429).expect("fifteen are refused");
    assert!(refused.text().contains("at least"), "{}", refused.text());
    gateway.settled().await;
    let replies = together((0..4).map(|_| chat(&gateway, "sk-a", "short", json!({})))).await;
    assert!(replies.iter().all(|reply| reply.status() == 200), "four times 50 tokens fit");
}

#[tokio::test]
async fn who_has_a_share_does_not_wait_behind_those_who_borrow_it() {
    let mock = Mock::start().await;
    let yaml = format!(
        "{KEYS}limits: [{{ name: s, concurrency: 2, class: metadata.tier, shares: {{ gold: 50%, rest: 50% }}, \
         on_exhausted: {{ queue: {{ wait: 30s, max: 6 }} }} }}]\n"
    );
    let gateway = Gateway::start(&mock, &yaml).await;
    let order = std::sync::Mutex::new(Vec::new());
    let one = async |key: &str| {
        let reply = chat(&gateway, key, "chat/x:head=700ms", json!({})).await;
        order.lock().expect("unpoisoned").push((key.to_owned(), reply.status()));
    };
    let queued = async || {
        gateway.metric("portcullis_limit_decisions_total{rule=\"s\",decision=\"queued\"}").await.unwrap_or(0.0) as u64
    };
    // Two borrow all of it, and six more fill their queue.
    let rest = async { drop(together((0..8).map(|_| one("sk-a"))).await) };
    let gold = async {
        while queued().await < 6 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        one("sk-b").await;
    };
    tokio::join!(rest, gold);
    let order = order.into_inner().expect("unpoisoned");
    assert!(order.iter().all(|(_, status)| *status == 200), "{order:?}");
    let at = order.iter().position(|(key, _)| key == "sk-b").expect("gold was served");
    assert!(at <= 4, "gold came after {at} that borrow: {order:?}");
}

#[tokio::test]
async fn an_exhausted_limit_goes_on_with_another_model() {
    let mock = Mock::start().await;
    let yaml = "
keys: [{ name: a, key: sk-a, models: [dear] }]
models: { dear: chat/mock-fast, cheap: responses/mock-slow }
limits:
  - { name: dear, match: { model: dear }, requests: 1 / 1h, on_exhausted: { route: cheap } }
  - { name: cheap, match: { model: cheap }, requests: 1 / 1h }
store: { path: off }
";
    let gateway = Gateway::start(&mock, yaml).await;
    let providers = [("chat", 200), ("responses", 200), ("", 429)];
    for (provider, status) in providers {
        let reply = chat(&gateway, "sk-a", "dear", json!({})).await;
        assert_eq!(reply.status(), status, "{}", reply.text());
        assert_eq!(reply.head.header("x-portcullis-provider").unwrap_or_default(), provider);
    }
}

#[tokio::test]
async fn a_target_without_room_is_passed_over() {
    let mock = Mock::start().await;
    let yaml = "
models: { both: { fallback: [chat/mock-fast, responses/mock-fast] } }
limits:
  - { name: first, match: { provider: chat }, per: provider, requests: 1 / 1h }
  - { name: second, match: { target: responses/mock-fast }, requests: 2 / 1h }
store: { path: off }
";
    let gateway = Gateway::start(&mock, yaml).await;
    for (provider, status) in [("chat", 200), ("responses", 200), ("responses", 200), ("responses", 429)] {
        let reply = chat(&gateway, "sk-a", "both", json!({})).await;
        assert_eq!(reply.status(), status, "{}", reply.text());
        assert_eq!(reply.head.header("x-portcullis-provider").unwrap_or_default(), provider);
    }
}

#[tokio::test]
async fn who_goes_on_after_a_cut_and_who_is_raced_is_held_to_the_limits_of_its_target() {
    let mock = Mock::start().await;
    let yaml = "
models:
  cut: { fallback: [\"chat/mock-fast:fault=cut-mid\", responses/mock-fast], continue_on_cut: true }
  raced: { fallback: [\"gemini/mock-fast:head=5s\", anthropic/mock-fast], hedge: { after: 50ms, budget: 100% } }
limits:
  - { name: first, match: { provider: chat }, tokens: 100k / 1h }
  - { name: next, match: { provider: responses }, requests: 2 / 1h, tokens: 100k / 1h }
  - { name: slow, match: { provider: gemini }, requests: 2 / 1h, tokens: 100k / 1h }
store: { path: off }
";
    let gateway = Gateway::start(&mock, yaml).await;
    let asked = async |path: &str| {
        let at = |entry: &Value| entry["target"].as_str().is_some_and(|target| target.contains(path));
        mock.journal().await.iter().filter(|entry| at(entry)).count()
    };
    let used = async |name: &str, unit: &str| {
        gateway.settled().await;
        let state = gateway.admin("GET", "/admin/limits").await.json();
        let rules = state["rules"].as_array().expect("a list").clone();
        let rule = rules.into_iter().find(|rule| rule["name"] == name).expect("the rule");
        let windows = rule["fullest"][0]["windows"].as_array().expect("a list").clone();
        let window = windows.into_iter().find(|window| window["unit"] == unit).expect("the window");
        assert_eq!(window["reserved"], 0, "{name}: {window}");
        window["used"].as_u64().expect("a count")
    };
    let mut whole = 0;
    for _ in 0..3 {
        let reply = chat(&gateway, "sk-a", "cut", json!({"stream": true})).await;
        assert_eq!(reply.status(), 200, "{}", reply.text());
        whole += usize::from(reply.text().contains("continued_by"));
    }
    assert_eq!((whole, asked("/responses").await), (2, 2), "a continuation went past its target's limit");
    assert_eq!(used("next", "requests").await, 2);
    // Each target has what it was asked for itself.
    let (first, next) = (used("first", "tokens").await, used("next", "tokens").await);
    let lines = gateway.lines(3).await;
    let count = |line: &Value, part: &str| line["usage"][part].as_u64().expect("a count");
    let all: u64 = lines.iter().map(|line| count(line, "input") + count(line, "output")).sum();
    assert!(first > 0 && next > 0 && first + next <= all, "{first} and {next} of {all}");
    for _ in 0..3 {
        let reply = chat(&gateway, "sk-a", "raced", json!({})).await;
        assert_eq!(reply.status(), 200, "{}", reply.text());
        assert_eq!(reply.head.header("x-portcullis-provider"), Some("anthropic"));
    }
    assert_eq!(asked("/models/").await, 2, "a hedge gave its target's request back");
    assert_eq!(used("slow", "requests").await, 2);
    assert!(used("slow", "tokens").await > 0, "the provider had the ask");
}

#[tokio::test]
async fn a_queue_waits_for_room_in_order_and_not_for_ever() {
    let mock = Mock::start().await;
    let yaml = "limits: [{ name: one, concurrency: 1, on_exhausted: { queue: { wait: 20s, max: 5 } } }]\n";
    let gateway = Gateway::start(&mock, yaml).await;
    let replies = together((0..12).map(|_| chat(&gateway, "sk-a", "chat/x:head=100ms", json!({})))).await;
    let count = |status: u16| replies.iter().filter(|reply| reply.status() == status).count();
    assert_eq!((count(200), count(429)), (6, 6), "one under way and five in the queue");
    let refused = replies.iter().find(|reply| reply.status() == 429).expect("six are refused");
    assert!(refused.text().contains("queue is full"), "{}", refused.text());
    gateway.settled().await;
    let state = gateway.admin("GET", "/admin/limits").await.json();
    assert_eq!(state["rules"][0]["fullest"][0]["windows"][0]["used"], 0, "{state}");
    assert_eq!(chat(&gateway, "sk-a", "chat/mock-fast", json!({})).await.status(), 200);
}

#[tokio::test]
async fn money_is_held_to_the_price_and_unknown_prices_are_not_zero() {
    let mock = Mock::start().await;
    let yaml = "
prices: { models: { chat/mock-fast: { input: 1000, output: 1000 } } }
limits: [{ name: m, money: $1 / 1h }]
store: { path: off }
";
    let gateway = Gateway::start(&mock, yaml).await;
    // 1000 dollars a million tokens: a tenth of a cent each, so that a thousand are a dollar.
    let reply = chat(&gateway, "", "chat/mock-fast", json!({"max_tokens": 2000})).await;
    assert_eq!((reply.status(), code(&reply).as_str()), (429, "limit_exceeded"), "{}", reply.text());
    assert!(reply.text().contains("$1 "), "{}", reply.text());
    assert_eq!(chat(&gateway, "", "chat/mock-fast", json!({"max_tokens": 100})).await.status(), 200);
    let reply = chat(&gateway, "", "responses/unheard-of", json!({"max_tokens": 100})).await;
    assert_eq!((reply.status(), code(&reply).as_str()), (403, "price_unknown"), "{}", reply.text());
}

#[tokio::test]
async fn counts_outlive_a_reload_and_an_operator_may_reset_them() {
    let mock = Mock::start().await;
    let yaml = |limit: u32| format!("limits: [{{ name: r, requests: {limit} / 1h }}]\nstore: {{ path: off }}\n");
    let gateway = Gateway::start(&mock, &yaml(1)).await;
    assert_eq!(chat(&gateway, "", "chat/mock-fast", json!({})).await.status(), 200);
    assert_eq!(chat(&gateway, "", "chat/mock-fast", json!({})).await.status(), 429);
    gateway.configure(&yaml(2));
    assert_eq!(gateway.admin("POST", "/admin/reload").await.status(), 200);
    assert_eq!(chat(&gateway, "", "chat/mock-fast", json!({})).await.status(), 200);
    assert_eq!(chat(&gateway, "", "chat/mock-fast", json!({})).await.status(), 429);
    let reply = gateway.admin("POST", "/admin/limits/reset?rule=r").await;
    assert_eq!(reply.json()["partitions"], 1, "{}", reply.text());
    assert_eq!(chat(&gateway, "", "chat/mock-fast", json!({})).await.status(), 200);
    assert_eq!(gateway.admin("POST", "/admin/limits/reset?rule=x").await.status(), 404);
}

#[tokio::test]
async fn addresses_users_and_headers_are_counted_apart() {
    let mock = Mock::start().await;
    let yaml = "
listen: { address: LISTEN, trusted_proxies: [127.0.0.1] }
limits:
  - { name: ip, per: ip, match: { ip: 203.0.113.0/24 }, requests: 1 / 1h }
  - { name: user, per: user, match: { user: \"*\" }, requests: 1 / 1h }
  - { name: team, per: header.x-team, match: { header: { x-team: \"t*\" } }, requests: 1 / 1h }
store: { path: off }
";
    let gateway = Gateway::start(&mock, yaml).await;
    let call = async |headers: &[(&str, &str)], user: Option<&str>| {
        let body = json!({"model": "chat/mock-fast", "user": user, "messages": [{"role": "user", "content": "Hi"}]});
        gateway.call("POST", "/v1/chat/completions", headers, body.to_string()).await.status()
    };
    for (headers, user, status) in [
        (&[("x-forwarded-for", "203.0.113.1")][..], None, 200),
        (&[("x-forwarded-for", "203.0.113.1")], None, 429),
        (&[("x-forwarded-for", "203.0.113.2")], None, 200),
        (&[("x-forwarded-for", "198.51.100.1")], None, 200),
        (&[("x-forwarded-for", "198.51.100.1")], None, 200),
        (&[], Some("ann"), 200),
        (&[], Some("ann"), 429),
        (&[], Some("bob"), 200),
        (&[("x-team", "t1")], None, 200),
        (&[("x-team", "t1")], None, 429),
        (&[("x-team", "t2")], None, 200),
        (&[("x-team", "other")], None, 200),
        (&[("x-team", "other")], None, 200),
    ] {
        assert_eq!(call(headers, user).await, status, "{headers:?} {user:?}");
    }
}

#[tokio::test]
async fn answers_whose_usage_nobody_states_are_charged_an_estimate() {
    let mock = Mock::start().await;
    let yaml = format!("{KEYS}limits: [{{ name: t, per: key, tokens: 100k / 1h }}]\nstore: {{ path: off }}\n");
    let gateway = Gateway::start(&mock, &yaml).await;
    let left = async |key: &str| {
        let reply = chat(&gateway, key, "chat/mock-fast", json!({"max_tokens": 1})).await;
        let left = reply.head.header("x-ratelimit-remaining-tokens").unwrap_or_default().to_owned();
        left.parse::<u64>().expect("a number")
    };
    for (key, stream) in [("sk-a", false), ("sk-b", true)] {
        let before = left(key).await;
        for _ in 0..3 {
            let model = "chat/mock-fast:fault=no-usage,length=2000";
            let reply = chat(&gateway, key, model, json!({"stream": stream})).await;
            assert_eq!(reply.status(), 200, "{}", reply.text());
            let line = gateway.logged(reply.head.id()).await;
            assert_eq!(line["usage_estimated"], true, "{line}");
            assert!(
                line["usage"]["input"].as_u64() > Some(10) && line["usage"]["output"].as_u64() > Some(300),
                "{line}"
            );
        }
        let spent = before - left(key).await;
        assert!(spent > 900, "{stream}: {spent} of three answers of some 400 tokens");
    }
}

#[tokio::test]
async fn a_model_that_is_fallen_back_to_has_its_own_limits() {
    let mock = Mock::start().await;
    let yaml = "
models: { small: \"chat/mock-fast:fault=500\", big: chat/mock-fast, third: anthropic/mock-fast }
limits: [{ name: of-big, match: { model: big }, requests: 2 / 1h }, { name: each, per: model, requests: 100 / 1h }]
store: { path: off }
";
    let gateway = Gateway::start(&mock, yaml).await;
    let ask = async |models: Value| chat(&gateway, "", "small", json!({"models": models})).await;
    for _ in 0..2 {
        assert_eq!(ask(json!(["big"])).await.status(), 200);
    }
    let refused = ask(json!(["big"])).await;
    assert_eq!(refused.status(), 429, "{}", refused.text());
    assert!(refused.text().contains("`of-big`"), "{}", refused.text());
    assert_eq!(ask(json!(["big", "third"])).await.status(), 200, "the next has room");
}

#[tokio::test]
async fn limits_that_send_each_other_round_refuse_in_the_end() {
    let mock = Mock::start().await;
    let yaml = "
models: { big: chat/mock-fast, small: anthropic/mock-fast }
limits:
  - { name: of-big, match: { model: big }, requests: 1 / 1h, on_exhausted: { route: small } }
  - { name: of-small, match: { model: small }, requests: 1 / 1h, on_exhausted: { route: big } }
store: { path: off }
";
    let gateway = Gateway::start(&mock, yaml).await;
    let mut statuses = Vec::new();
    for model in ["big", "big", "big", "small"] {
        statuses.push(chat(&gateway, "", model, json!({})).await.status());
    }
    assert_eq!(statuses, [200, 200, 429, 429]);
}

#[tokio::test]
async fn what_the_caller_does_not_wait_for_is_charged_where_the_provider_has_the_ask() {
    let mock = Mock::start().await;
    let yaml = "
prices: { models: { chat/*: { input: 1000, output: 1000 } } }
limits: [{ name: m, money: $1 / 1h, algorithm: fixed }, { name: t, per: target, money: $1 / 1h, requests: 100 / 1h, algorithm: fixed }]
store: { path: FOLDER/portcullis.db, ledger: true }
";
    let gateway = Gateway::start(&mock, yaml).await;
    let headers = [("content-type", "application/json"), ("x-portcullis-timeout-ms", "300")];
    let ask = |model: &str| {
        let body = json!({"model": model, "max_tokens": 100, "messages": [{"role": "user", "content": "Hello"}]});
        gateway.call("POST", "/v1/chat/completions", &headers, body.to_string())
    };
    let mut spent = 0.0;
    for _ in 0..3 {
        let reply = ask("chat/x:head=5s").await;
        assert_eq!((reply.status(), code(&reply).as_str()), (504, "total_timeout"), "{}", reply.text());
        let line = gateway.logged(reply.head.id()).await;
        assert_eq!((&line["usage_estimated"], &line["usage"]["output"]), (&json!(true), &json!(0)), "{line}");
        assert!(line["usage"]["input"].as_u64() > Some(0), "{line}");
        spent += line["cost_usd"].as_f64().expect("a cost");
    }
    // What fails by the upstream's own fault stays free.
    let reply = ask("chat/x:fault=500").await;
    assert!(reply.status() >= 500, "{}", reply.text());
    assert_eq!(gateway.logged(reply.head.id()).await["cost_usd"], Value::Null);
    gateway.settled().await;
    let state = gateway.admin("GET", "/admin/limits").await.json();
    for rule in state["rules"].as_array().expect("a list") {
        let windows = rule["fullest"].as_array().expect("a list").iter().flat_map(|one| one["windows"].as_array());
        let money: Vec<&Value> = windows.flatten().filter(|window| window["unit"] == "money").collect();
        let used: u64 = money.iter().filter_map(|window| window["used"].as_u64()).sum();
        assert!((used as f64 / 1e9 - spent).abs() < 1e-9, "{spent} were logged: {rule}");
        assert!(money.iter().all(|window| window["reserved"] == 0), "{rule}");
    }
}

#[tokio::test]
async fn a_bound_of_0_is_no_bound() {
    let mock = Mock::start().await;
    let yaml = format!("{KEYS}limits: [{{ name: t, output_tokens: 1000 / 1h }}]\nstore: {{ path: off }}\n");
    let gateway = Gateway::start(&mock, &yaml).await;
    let asks = (0..8).map(|_| chat(&gateway, "sk-a", "chat/x:head=1s", json!({"max_tokens": 0})));
    // What the mock says to it is not much of an answer, which does not matter here.
    let refused = together(asks).await.iter().filter(|reply| reply.status() == 429).count();
    assert_eq!(refused, 7, "one has what is left, as without a bound");
}

#[tokio::test]
async fn values_with_the_sign_between_them_do_not_share_a_count() {
    let mock = Mock::start().await;
    let yaml = "limits: [{ name: r, per: [header.x-a, header.x-b], requests: 1 / 1h }]\nstore: { path: off }\n";
    let gateway = Gateway::start(&mock, yaml).await;
    let body = json!({"model": "chat/mock-fast", "messages": [{"role": "user", "content": "Hello"}]}).to_string();
    for (a, b, status) in [("x", "|y", 200), ("x|", "y", 200), ("x", "|y", 429), ("x|", "y", 429)] {
        let headers = [("content-type", "application/json"), ("x-a", a), ("x-b", b)];
        let reply = gateway.call("POST", "/v1/chat/completions", &headers, body.clone()).await;
        assert_eq!(reply.status(), status, "{a} {b}: {}", reply.text());
    }
}
