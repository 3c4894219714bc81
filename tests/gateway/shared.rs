//! Limits that several processes share by way of a real Redis: exact while it is there, as configured while it is not,
//! and right again afterwards.

use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep};

use super::redis::Redis;
use super::support::{Gateway, Mock, SOON, together};
use super::wire::Reply;

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
async fn answers_say_how_many_share() {
    let (mock, redis) = (Mock::start().await, Redis::start().await);
    let yaml = yaml(&redis, "local", "{ name: r, requests: 20 / 1h }");
    let (one, two) = (Gateway::start(&mock, &yaml).await, Gateway::start(&mock, &yaml).await);
    redis.linked(2, 1).await;
    // Whoever asks is known from then on, and the next answer to the other tells of it.
    for gateway in [&two, &one, &two] {
        assert_eq!(ask(gateway).await.status(), 200);
    }
    assert!(
        std::process::Command::new("kill").args(["-STOP", &redis.pid().to_string()]).status().expect("kill").success()
    );
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
    assert_eq!([ask().await, ask().await, ask().await], [200, 200, 429]);
}

#[tokio::test]
async fn what_could_not_be_told_is_stated_anew_without_undoing_a_reset() {
    let (mock, redis) = (Mock::start().await, Redis::start().await);
    let yaml = yaml(&redis, "closed", "{ name: r, per: user, tokens: 100 / 1h }");
    let (one, two) = (Gateway::start(&mock, &yaml).await, Gateway::start(&mock, &yaml).await);
    redis.linked(2, 1).await;
    let ask = async |model: &str| {
        let messages = json!([{"role": "user", "content": "Hello"}]);
        let body = json!({"model": model, "user": "u", "max_tokens": 50, "messages": messages});
        two.post("/v1/chat/completions", body.to_string()).await.status()
    };
    let counted = || !redis.keys(":limit:r:").is_empty();
    let there = async || {
        let deadline = Instant::now() + SOON;
        while !counted() {
            assert!(Instant::now() < deadline, "nothing is counted");
            sleep(Duration::from_millis(10)).await;
        }
    };
    // The link stays as it is; only what an exchange has used cannot be told.
    let refuse = async {
        there().await;
        redis.cli(&["ACL", "SETUSER", "default", "-evalsha", "-eval"]);
    };
    assert_eq!(tokio::join!(ask("chat/mock-fast:head=1s"), refuse).0, 200);
    two.settled().await;
    assert_eq!(one.admin("POST", "/admin/limits/reset?rule=r").await.status(), 200);
    assert!(!counted());
    redis.cli(&["ACL", "SETUSER", "default", "+evalsha", "+eval"]);
    there().await;
    assert_eq!([ask("chat/mock-fast").await, ask("chat/mock-fast").await], [200, 429]);
}
