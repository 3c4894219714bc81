//! Limits that several processes share by way of a real Redis: exact while it is there, as configured while it is not,
//! and right again afterwards.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep};

use super::redis::{Redis, counted};
use super::support::{Gateway, Mock, SOON, together};
use super::wire::{Conn, Reply, request};

/// The configuration that shares limits by this server.
fn yaml(redis: &Redis, away: &str, limits: &str) -> String {
    yaml_at(&redis.url(), away, limits)
}

fn yaml_at(url: &str, away: &str, limits: &str) -> String {
    format!("redis: {{ url: \"{url}\", away: {away}, timeout: 250ms }}\nlimits: [{limits}]\n")
}

async fn ask(gateway: &Gateway) -> Reply {
    let body = json!({"model": "chat/mock-fast", "messages": [{"role": "user", "content": "Hello"}]});
    gateway.post("/v1/chat/completions", body.to_string()).await
}

fn admitted(replies: &[Reply]) -> usize {
    replies.iter().filter(|reply| reply.status() == 200).count()
}

#[tokio::test]
async fn seed_14_two_processes_together_admit_exactly_the_limit() {
    let (mock, redis) = (Mock::start().await, Redis::start().await);
    let limits = "{ name: r, requests: 20 / 1h }, { name: c, per: key, concurrency: 1000, tokens: 10M / day }";
    let yaml = yaml(&redis, "closed", limits);
    let (one, two) = (Gateway::start(&mock, &yaml).await, Gateway::start(&mock, &yaml).await);
    redis.linked(2, 1).await;
    let replies = together((0..48).map(|at| ask(if at % 2 == 0 { &one } else { &two }))).await;
    assert_eq!(admitted(&replies), 20);
    let refused = replies.iter().find(|reply| reply.status() == 429).expect("28 are refused");
    assert!(refused.text().contains("`r`"), "{}", refused.text());
    assert_eq!(refused.head.header("x-ratelimit-remaining-requests"), Some("0"));
    assert!(refused.head.header("retry-after").is_some());
}

#[tokio::test]
async fn asks_without_a_bound_take_what_is_left_together_too() {
    let (mock, redis) = (Mock::start().await, Redis::start().await);
    let yaml = yaml(&redis, "closed", "{ name: t, tokens: 1000 / 1h }");
    let (one, two) = (Gateway::start(&mock, &yaml).await, Gateway::start(&mock, &yaml).await);
    redis.linked(2, 1).await;
    let slow = json!({"model": "chat/x:head=2000ms", "messages": [{"role": "user", "content": "Hello"}]}).to_string();
    let asks = (0..16).map(|at| {
        let gateway = if at % 2 == 0 { &one } else { &two };
        gateway.post("/v1/chat/completions", slow.clone())
    });
    assert_eq!(admitted(&together(asks).await), 1);
}

#[tokio::test]
async fn an_emptied_server_is_told_with_the_first_ask_what_was_counted() {
    let (mock, redis) = (Mock::start().await, Redis::start().await);
    let gateway = Gateway::start(&mock, &yaml(&redis, "closed", "{ name: r, requests: 20 / 1h }")).await;
    redis.linked(1, 1).await;
    for _ in 0..3 {
        assert_eq!(admitted(&together((0..4).map(|_| ask(&gateway))).await), 4);
        gateway.settled().await;
        redis.cli(&["FLUSHALL"]);
    }
    assert_eq!(admitted(&together((0..20).map(|_| ask(&gateway))).await), 8);
}

#[tokio::test]
async fn what_is_asked_before_a_process_is_quite_up_is_shared() {
    let (mock, redis) = (Mock::start().await, Redis::start().await);
    let yaml = yaml(&redis, "closed", "{ name: r, requests: 20 / 1h }").replace("250ms", "5s");
    // Their ports take connections before anybody is served.
    let start = || Gateway::start(&mock, &yaml);
    let (one, two, three) = tokio::join!(start(), start(), start());
    let replies = together((0..48).map(|at| ask([&one, &two, &three][at % 3]))).await;
    assert_eq!(admitted(&replies), 20);
}

#[tokio::test]
async fn answers_say_how_many_share() {
    let (mock, redis) = (Mock::start().await, Redis::start().await);
    let yaml = yaml(&redis, "local", "{ name: r, requests: 20 / 1h }");
    let (one, two) = (Gateway::start(&mock, &yaml).await, Gateway::start(&mock, &yaml).await);
    redis.linked(2, 1).await;
    // Whoever asks is known from then on, and the next answer to the other tells of it.
    for gateway in [&two, &one, &two] {
        assert_eq!(ask(gateway).await.status(), 200);
    }
    redis.signal("STOP");
    let replies = together((0..40).map(|at| ask(if at % 2 == 0 { &one } else { &two }))).await;
    assert_eq!(admitted(&replies), 17, "each has half of it, and they have used three");
}

#[tokio::test]
async fn while_redis_is_dead_limits_do_as_configured_and_are_right_afterwards() {
    let (mock, mut redis) = (Mock::start().await, Redis::start().await);
    let limit = "{ name: r, requests: 10 / 1h }";
    let closed = Gateway::start(&mock, &yaml(&redis, "closed", limit)).await;
    redis.linked(1, 1).await;
    for _ in 0..4 {
        assert_eq!(ask(&closed).await.status(), 200);
    }
    closed.settled().await;
    redis.kill();
    let began = Instant::now();
    let replies = together((0..8).map(|_| ask(&closed))).await;
    assert!(began.elapsed() < Duration::from_secs(5), "exchanges waited for a dead server");
    assert_eq!(admitted(&replies), 0);
    let code = replies[0].json()["error"]["code"].clone();
    assert_eq!((replies[0].status(), code), (503, json!("limits_unavailable")));
    // Back, and empty: what this process has counted is stated anew.
    redis.again().await;
    let deadline = Instant::now() + SOON;
    while ask(&closed).await.status() == 503 {
        assert!(Instant::now() < deadline, "redis is back, and the limit is still closed");
        sleep(Duration::from_millis(20)).await;
    }
    let deadline = Instant::now() + SOON;
    while !redis.cli(&["--scan"]).lines().any(|key| key.contains(":limit:r:")) {
        assert!(Instant::now() < deadline, "nothing was stated anew");
        sleep(Duration::from_millis(20)).await;
    }
    sleep(Duration::from_millis(300)).await;
    let replies = together((0..12).map(|_| ask(&closed))).await;
    assert_eq!(admitted(&replies), 5, "four before, one on its return, five now");
}

#[tokio::test]
async fn alone_without_redis_a_process_holds_the_limit_or_lets_pass() {
    let mock = Mock::start().await;
    let limit = "{ name: r, requests: 3 / 1h }";
    // A port that no other test's server is given: one that was free a moment ago may be another Redis by now.
    let nowhere = "redis://127.0.0.1:9/0";
    let (local, open) = (yaml_at(nowhere, "local", limit), yaml_at(nowhere, "open", limit));
    let local = Gateway::start(&mock, &local).await;
    assert_eq!(admitted(&together((0..8).map(|_| ask(&local))).await), 3);
    let open = Gateway::start(&mock, &open).await;
    assert_eq!(admitted(&together((0..8).map(|_| ask(&open))).await), 8);
}

#[tokio::test]
async fn a_paused_redis_costs_no_more_than_its_time_and_counts_nothing_twice() {
    let (mock, redis) = (Mock::start().await, Redis::start().await);
    let gateway = Gateway::start(&mock, &yaml(&redis, "local", "{ name: r, requests: 30 / 1h }")).await;
    redis.linked(1, 1).await;
    for _ in 0..5 {
        assert_eq!(ask(&gateway).await.status(), 200);
    }
    redis.cli(&["CLIENT", "PAUSE", "2000", "ALL"]);
    let began = Instant::now();
    let replies = together((0..10).map(|_| ask(&gateway))).await;
    assert_eq!(admitted(&replies), 10);
    assert!(began.elapsed() < Duration::from_millis(1800), "exchanges waited for a paused server");
    // Afterwards both know of fifteen, and of no more.
    let deadline = Instant::now() + SOON;
    let counted = || {
        let keys = redis.cli(&["--scan", "--pattern", "*:limit:r:*"]);
        let fields = redis.cli(&["HGETALL", keys.trim()]);
        let lines: Vec<&str> = fields.lines().collect();
        let own = lines.chunks_exact(2).filter(|pair| pair[0].starts_with("n:"));
        own.map(|pair| pair[1].parse::<u64>().unwrap_or(0)).sum::<u64>()
    };
    while counted() != 15 {
        assert!(Instant::now() < deadline, "{} are counted, not 15", counted());
        sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(admitted(&together((0..20).map(|_| ask(&gateway))).await), 15);
}

#[tokio::test]
async fn a_reset_reaches_the_server_and_so_every_process() {
    let (mock, redis) = (Mock::start().await, Redis::start().await);
    let yaml = yaml(&redis, "closed", "{ name: r, requests: 4 / 1h }");
    let (one, two) = (Gateway::start(&mock, &yaml).await, Gateway::start(&mock, &yaml).await);
    redis.linked(2, 1).await;
    assert_eq!(admitted(&together((0..6).map(|at| ask(if at % 2 == 0 { &one } else { &two }))).await), 4);
    one.settled().await;
    two.settled().await;
    assert_eq!(one.admin("POST", "/admin/limits/reset?rule=r").await.status(), 200);
    assert_eq!(admitted(&together((0..6).map(|_| ask(&two))).await), 4);
}

#[tokio::test]
async fn a_reset_reaches_partitions_that_only_others_know_and_a_lost_link_does_not_undo_it() {
    let (mock, redis) = (Mock::start().await, Redis::start().await);
    let limits = "{ name: r, per: user, requests: 2 / 1h }, { name: kept, per: user, requests: 9 / 1h }";
    let yaml = yaml(&redis, "closed", limits);
    let (one, two) = (Gateway::start(&mock, &yaml).await, Gateway::start(&mock, &yaml).await);
    redis.linked(2, 1).await;
    let ask = async || {
        // Odd letters on purpose: it is a part of a name on the server, and of a pattern there.
        let user = "a:b*[c]";
        let body = json!({"model": "chat/mock-fast", "user": user, "messages": [{"role": "user", "content": "Hello"}]});
        two.post("/v1/chat/completions", body.to_string()).await.status()
    };
    assert_eq!([ask().await, ask().await, ask().await], [200, 200, 429]);
    two.settled().await;
    let reply = one.admin("POST", "/admin/limits/reset?rule=r").await;
    assert_eq!((reply.status(), &reply.json()["partitions"]), (200, &json!(1)));
    assert_eq!(redis.keys(":limit:r:"), Vec::<String>::new());
    // The one that has counted states anew what it has, as soon as its link is new.
    let kept = redis.keys(":limit:kept:").pop().expect("the other rule still counts");
    redis.cli(&["DEL", &kept]);
    redis.cli(&["CLIENT", "KILL", "TYPE", "normal"]);
    let deadline = Instant::now() + SOON;
    while redis.keys(":limit:kept:").is_empty() {
        assert!(Instant::now() < deadline, "nothing was stated anew");
        sleep(Duration::from_millis(20)).await;
    }
    redis.linked(2, 1).await;
    assert_eq!([ask().await, ask().await, ask().await], [200, 200, 429]);
}

#[tokio::test]
async fn what_was_reset_is_not_stated_again_by_a_process_that_has_not_heard_of_it() {
    let redis = Redis::start().await;
    let script = include_str!("../../src/state/limit/shared.lua");
    let (nodes, resets, count) = ("nodes", "resets", "count");
    let state = |mode: &str, heard: &str, amount: &str| {
        let head = ["EVAL", script, "3", nodes, resets, count, mode, "one", "0", heard];
        // A window without end: kind, length, start, limit, hard, ttl, mark, reserved, amount, quantum, least.
        redis.cli(&[&head[..], &["c", "1", "0", "10", "1", "0", "0", "0", amount, "0", "0"]].concat())
    };
    assert_eq!(state("put", "0-0", "3").trim(), "ok");
    assert_eq!(redis.cli(&["HGET", count, "n:one"]).trim(), "3");
    let id = redis.cli(&["XADD", resets, "*", "two", "r"]);
    redis.cli(&["DEL", count]);
    for mode in ["put", "meet"] {
        let said = state(mode, "0-0", "3");
        assert!(said.starts_with("reset") && said.contains(id.trim()) && said.contains("two"), "{mode}: {said}");
    }
    assert_eq!(redis.cli(&["EXISTS", count, nodes]).trim(), "0");
    // Who has heard states what it still has, which may be nothing.
    assert_eq!(state("meet", id.trim(), "0").trim(), "ok");
    assert_eq!(redis.cli(&["EXISTS", count]).trim(), "0");
    assert_eq!(state("put", id.trim(), "2").trim(), "ok");
    assert_eq!(redis.cli(&["HGET", count, "n:one"]).trim(), "2");
}

#[tokio::test]
async fn what_could_not_be_told_is_stated_anew_without_undoing_a_reset() {
    let (mock, redis) = (Mock::start().await, Redis::start().await);
    let limits = "{ name: r, per: user, tokens: 100 / 1h }, { name: kept, per: user, tokens: 1M / 1h }";
    let yaml = yaml(&redis, "closed", limits);
    let (one, two) = (Gateway::start(&mock, &yaml).await, Gateway::start(&mock, &yaml).await);
    redis.linked(2, 1).await;
    let ask = async |model: &str| {
        let messages = json!([{"role": "user", "content": "Hello"}]);
        let body = json!({"model": model, "user": "u", "max_tokens": 50, "messages": messages});
        two.post("/v1/chat/completions", body.to_string()).await.status()
    };
    let there = async |rule: &str| {
        let deadline = Instant::now() + SOON;
        loop {
            match redis.keys(rule).pop() {
                Some(key) => return key,
                None => assert!(Instant::now() < deadline, "nothing is counted"),
            }
            sleep(Duration::from_millis(10)).await;
        }
    };
    // The link stays as it is; only what an exchange has used cannot be told.
    let refuse = async {
        there(":limit:r:").await;
        redis.cli(&["ACL", "SETUSER", "default", "-evalsha", "-eval"]);
    };
    assert_eq!(tokio::join!(ask("chat/mock-fast:head=1s"), refuse).0, 200);
    two.settled().await;
    assert_eq!(one.admin("POST", "/admin/limits/reset?rule=r").await.status(), 200);
    assert!(redis.keys(":limit:r:").is_empty());
    redis.cli(&["DEL", &there(":limit:kept:").await]);
    redis.cli(&["ACL", "SETUSER", "default", "+evalsha", "+eval"]);
    // Both are stated anew, and of the one that was reset there is nothing to state.
    there(":limit:kept:").await;
    assert_eq!([ask("chat/mock-fast").await, ask("chat/mock-fast").await], [200, 429]);
}

/// The window that the admin API shows of the only rule's only partition.
async fn window(gateway: &Gateway) -> serde_json::Value {
    let state = gateway.admin("GET", "/admin/limits").await.json();
    state["rules"][0]["fullest"][0]["windows"][0].clone()
}

#[tokio::test]
async fn operators_see_what_all_processes_have_used_and_what_each_has() {
    let (mock, redis) = (Mock::start().await, Redis::start().await);
    let yaml = yaml(&redis, "closed", "{ name: r, requests: 6 / 1h, algorithm: fixed }");
    let (one, two) = (Gateway::start(&mock, &yaml).await, Gateway::start(&mock, &yaml).await);
    redis.linked(2, 1).await;
    for gateway in [&one, &one, &one, &two, &two, &one] {
        assert_eq!(ask(gateway).await.status(), 200);
    }
    let seen = window(&one).await;
    assert_eq!((&seen["used"], &seen["used_here"], &seen["remaining"]), (&json!(6), &json!(4), &json!(0)), "{seen}");
    assert!(seen["heard_ms_ago"].as_u64() < Some(60_000), "{seen}");
    // As it last heard.
    let seen = window(&two).await;
    assert_eq!((&seen["used"], &seen["used_here"]), (&json!(5), &json!(2)), "{seen}");
    assert_eq!(ask(&two).await.status(), 429);
    let seen = window(&two).await;
    assert_eq!((&seen["used"], &seen["used_here"]), (&json!(6), &json!(2)), "{seen}");
}

#[tokio::test]
async fn operators_see_partitions_that_only_other_processes_have_had() {
    let (mock, redis) = (Mock::start().await, Redis::start().await);
    let limits =
        "{ name: r, per: user, requests: 6 / 1h, tokens: 1M / day }, { name: others, per: user, concurrency: 5 }";
    let yaml = yaml(&redis, "closed", limits);
    let (one, two) = (Gateway::start(&mock, &yaml).await, Gateway::start(&mock, &yaml).await);
    redis.linked(2, 1).await;
    let ask = async |gateway: &Gateway, user: &str| {
        let body = json!({"model": "chat/mock-fast", "user": user, "messages": [{"role": "user", "content": "Hello"}]});
        assert_eq!(gateway.post("/v1/chat/completions", body.to_string()).await.status(), 200);
    };
    for (gateway, user) in [(&one, "here"), (&two, "a:b*[c]"), (&two, "a:b*[c]"), (&two, "other")] {
        ask(gateway, user).await;
    }
    two.settled().await;
    let counts = || redis.keys(":limit:r:").iter().map(|key| redis.cli(&["HGETALL", key])).collect::<BTreeSet<_>>();
    let before = counts();
    let state = one.admin("GET", "/admin/limits").await.json();
    let rule = &state["rules"][0];
    assert_eq!((&state["others"], &rule["partitions"]), (&json!("all"), &json!(3)), "{state}");
    let fullest = &rule["fullest"][0];
    assert_eq!(fullest["partition"], "a:b*[c]", "{state}");
    let seen = &fullest["windows"][0];
    assert_eq!((&seen["used"], &seen["used_here"], &seen["remaining"]), (&json!(2), &json!(0), &json!(4)), "{seen}");
    assert!(fullest["windows"][1]["used"].as_u64() > Some(0), "{fullest}");
    assert_eq!(counts(), before, "to look is to change nothing");
    redis.cli(&["SHUTDOWN", "NOSAVE"]);
    let state = one.admin("GET", "/admin/limits").await.json();
    assert_eq!((&state["others"], &state["rules"][0]["partitions"]), (&json!("away"), &json!(1)), "{state}");
}

#[tokio::test]
async fn a_shared_budget_tells_of_what_all_have_spent_and_once_that_it_refuses() {
    let (mock, redis) = (Mock::start().await, Redis::start().await);
    let yaml = format!(
        "redis: {{ url: \"{}\", away: closed, timeout: 250ms }}\n\
         prices: {{ models: {{ chat/*: {{ input: 1000, output: 1000 }} }} }}\n\
         budgets: [{{ name: bud, money: $1 / day }}]\n",
        redis.url()
    );
    let (one, two) = (Gateway::start(&mock, &yaml).await, Gateway::start(&mock, &yaml).await);
    redis.linked(2, 1).await;
    let ask = |gateway: &'static str, more: serde_json::Value| {
        let mut body = json!({"model": "chat/mock-fast", "messages": [{"role": "user", "content": "Hello"}]});
        body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        let gateway = if gateway == "one" { &one } else { &two };
        gateway.post("/v1/chat/completions", body.to_string())
    };
    let told = || format!("{}{}", one.process.stderr(), two.process.stderr());
    let count = |text: &str| told().matches(text).count();
    // Reserves all that is left, and uses little of it.
    assert_eq!(ask("one", json!({})).await.status(), 200);
    one.settled().await;
    sleep(Duration::from_millis(500)).await;
    assert_eq!(count("of the budget are spent"), 0, "{}", told());
    let mut asks = 0;
    while ask(["one", "two"][asks % 2], json!({"max_tokens": 60})).await.status() == 200 {
        asks += 1;
        assert!(asks < 200, "the budget does not end");
    }
    let refused = ask("one", json!({"max_tokens": 900})).await;
    assert_eq!(refused.status(), 429, "{}", refused.text());
    let deadline = Instant::now() + SOON;
    while count("it refuses") == 0 {
        assert!(Instant::now() < deadline, "nobody says that the budget refuses: {}", told());
        sleep(Duration::from_millis(20)).await;
    }
    sleep(Duration::from_millis(1500)).await;
    for text in ["50% of the budget", "80% of the budget", "100% of the budget", "it refuses"] {
        assert_eq!(count(text), 1, "{text}: {}", told());
    }
    // After a reset it is told anew.
    assert_eq!(two.admin("POST", "/admin/limits/reset?rule=bud").await.status(), 200);
    while count("50% of the budget") == 1 {
        assert_eq!(ask("one", json!({"max_tokens": 60})).await.status(), 200, "half of it is not told of: {}", told());
        one.settled().await;
        sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test]
async fn what_was_counted_after_a_reset_stays_when_redis_is_lost_before_it_was_heard_of() {
    let (mock, redis) = (Mock::start().await, Redis::start().await);
    let yaml = yaml(&redis, "local", "{ name: r, requests: 40 / 1h, algorithm: fixed }");
    let (one, two) = (Gateway::start(&mock, &yaml).await, Gateway::start(&mock, &yaml).await);
    redis.linked(2, 1).await;
    assert_eq!(admitted(&together((0..8).map(|at| ask(if at % 2 == 0 { &one } else { &two }))).await), 8);
    assert_eq!(one.admin("POST", "/admin/limits/reset?rule=r").await.status(), 200);
    assert_eq!(admitted(&together((0..10).map(|_| ask(&two))).await), 10);
    redis.signal("STOP");
    assert_eq!(admitted(&together((0..5).map(|_| ask(&two))).await), 5, "its part of twenty has room");
    redis.signal("CONT");
    // Up again, and stated anew.
    let counted = || {
        let key = redis.keys(":limit:r:").pop().unwrap_or_default();
        let fields = redis.cli(&["HGETALL", &key]);
        let lines: Vec<&str> = fields.lines().collect();
        let own = lines.chunks_exact(2).filter(|pair| pair[0].starts_with("n:"));
        own.map(|pair| pair[1].parse::<u64>().unwrap_or(0)).sum::<u64>()
    };
    let deadline = Instant::now() + SOON;
    while counted() != 15 {
        assert!(Instant::now() < deadline, "{} are counted, not 15", counted());
        sleep(Duration::from_millis(20)).await;
    }
    sleep(Duration::from_millis(1500)).await;
    assert_eq!(admitted(&together((0..45).map(|_| ask(&two))).await), 25);
}

#[tokio::test]
async fn who_leaves_while_the_server_is_asked_holds_nothing() {
    let (mock, redis) = (Mock::start().await, Redis::start().await);
    let limits =
        "{ name: f, requests: 4 / 1h }, { name: b, requests: 4 / 1h, algorithm: bucket }, { name: c, concurrency: 4 }";
    let gateway = Gateway::start(&mock, &yaml(&redis, "closed", limits).replace("250ms", "30s")).await;
    redis.linked(1, 1).await;
    redis.signal("STOP");
    let mut leaving = Vec::new();
    for _ in 0..4 {
        let mut conn = Conn::open(gateway.address).await;
        let body = json!({"model": "chat/mock-fast", "messages": [{"role": "user", "content": "Hello"}]});
        conn.send(&request("POST", "/v1/chat/completions", &[], body.to_string().as_bytes())).await;
        leaving.push(conn);
    }
    counted(&gateway, "portcullis_in_flight", |value| value == 4.0).await;
    drop(leaving);
    gateway.settled().await;
    redis.signal("CONT");
    // What the server gives them all the same goes back, of each at its own time: nothing is held once that is so for long.
    let held = || {
        let keys = redis.keys(":limit:");
        keys.len() < 3 || keys.iter().map(|key| redis.cli(&["HGETALL", key])).any(|hash| taken(&hash) + debt(&hash) > 0)
    };
    let (deadline, mut free) = (Instant::now() + SOON, 0);
    while free < 8 {
        assert!(Instant::now() < deadline, "they hold something still");
        sleep(Duration::from_millis(20)).await;
        free = if held() { 0 } else { free + 1 };
    }
    assert_eq!(admitted(&together((0..4).map(|_| ask(&gateway))).await), 4);
}

/// What all have of a bucket, by the fields and values of its hash.
fn debt(hash: &str) -> u64 {
    let debt = hash.strip_prefix("d\n").and_then(|rest| rest.lines().next());
    debt.map_or(0, |debt| debt.parse::<f64>().expect("a number").round() as u64)
}

/// What processes have of a window, by the fields and values of its hash.
fn taken(hash: &str) -> u64 {
    let words: Vec<&str> = hash.lines().collect();
    let of_processes = words.chunks_exact(2).filter(|pair| pair[0].starts_with("n:"));
    of_processes
        .map(|pair| pair[1].split('|').next().and_then(|count| count.parse::<u64>().ok()).expect("a count"))
        .sum()
}

#[tokio::test]
async fn what_the_end_of_a_process_cuts_is_settled_on_the_server_too() {
    let (mock, redis) = (Mock::start().await, Redis::start().await);
    let config = yaml(&redis, "closed", "{ name: t, tokens: 100k / 1h, algorithm: fixed }");
    let mut gateway = Gateway::start(&mock, &format!("drain: {{ timeout: 200ms }}\n{config}")).await;
    redis.linked(1, 1).await;
    let mut waiting = Vec::new();
    for at in 0..3 {
        let mut conn = Conn::open(gateway.address).await;
        let model = format!("chat/x:head=30s,key=ended{at}");
        let body = json!({"model": model, "max_tokens": 1000, "messages": [{"role": "user", "content": "Hello"}]});
        conn.send(&request("POST", "/v1/chat/completions", &[], body.to_string().as_bytes())).await;
        mock.seen(&format!("ended{at}"), |_| true).await;
        waiting.push(conn);
    }
    let held = || redis.keys(":limit:t:").iter().map(|key| taken(&redis.cli(&["HGETALL", key]))).sum::<u64>();
    assert!(held() > 3000, "{}", held());
    gateway.process.signal("TERM");
    assert_eq!(gateway.process.exit(SOON).await.code(), Some(0));
    let left = held();
    assert!((1..300).contains(&left), "what was sent is charged and nothing else: {left}");
}
