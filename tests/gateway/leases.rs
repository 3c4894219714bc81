//! Parts of a busy limit that a process takes from Redis in advance: fewer round trips, never more than the limit, and what
//! is not given out goes back.

use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep};

use super::redis::Redis;
use super::support::{Gateway, Mock, SOON, together};
use super::wire::Reply;

const LIMIT: usize = 300;
/// Five hundredths of it.
const LEASE: usize = 15;

fn yaml(redis: &Redis) -> String {
    let limit = format!("{{ name: hot, requests: {LIMIT} / 1h, tokens: 10M / day, lease: 5% }}");
    format!("redis: {{ url: \"{}\", away: closed, timeout: 10s }}\nlimits: [{limit}]\n", redis.url())
}

async fn ask(gateway: &Gateway) -> Reply {
    let body = json!({"model": "chat/mock-fast", "messages": [{"role": "user", "content": "Hello"}]});
    let reply = gateway.post("/v1/chat/completions", body.to_string()).await;
    assert!(matches!(reply.status(), 200 | 429), "{}\n{}", reply.text(), gateway.process.stderr());
    reply
}

/// Asks in turns at the gateways, sixteen at a time; gives how many were admitted.
async fn admitted(gateways: &[&Gateway], asks: usize) -> usize {
    let mut admitted = 0;
    for first in (0..asks).step_by(16) {
        let some = first..asks.min(first + 16);
        let replies = together(some.map(|n| ask(gateways[n % gateways.len()]))).await;
        admitted += replies.iter().filter(|reply| reply.status() == 200).count();
    }
    admitted
}

/// What all processes have of the limit's requests on the server.
fn used(redis: &Redis) -> usize {
    let Some(key) = redis.keys(":limit:hot::requests").pop() else { return 0 };
    let fields = redis.cli(&["HGETALL", &key]);
    let lines: Vec<&str> = fields.lines().collect();
    let own = lines.chunks_exact(2).filter(|pair| pair[0].starts_with("n:"));
    own.map(|pair| pair[1].parse::<usize>().expect("a number")).sum()
}

/// Waits until the server counts this and nothing else.
async fn counts(redis: &Redis, expected: usize) {
    let deadline = Instant::now() + SOON;
    while used(redis) != expected {
        assert!(Instant::now() < deadline, "the server counts {}, not {expected}", used(redis));
        sleep(Duration::from_millis(50)).await;
    }
}

/// Scripts that the server has run.
fn scripts(redis: &Redis) -> usize {
    let stats = redis.cli(&["INFO", "commandstats"]);
    let calls = stats.lines().filter(|line| line.starts_with("cmdstat_evalsha:"));
    calls.filter_map(|line| line.split("calls=").nth(1)?.split(',').next()?.parse::<usize>().ok()).sum()
}

#[tokio::test]
async fn two_processes_admit_no_more_than_the_limit_and_no_less_once_leases_are_back() {
    let (mock, redis) = (Mock::start().await, Redis::start().await);
    let (one, two) = (Gateway::start(&mock, &yaml(&redis)).await, Gateway::start(&mock, &yaml(&redis)).await);
    redis.linked(2, 1).await;
    // While there is plenty: most asks are served from what was leased, and the server counts it as used.
    let early = admitted(&[&one, &two], 160).await;
    assert_eq!(early, 160);
    let asked = scripts(&redis);
    assert!(used(&redis) >= 160 && used(&redis) <= 160 + 2 * LEASE, "{}", used(&redis));
    // Reserving takes one script in fifteen; what the others are is settling, which gathers.
    assert!(asked < 160, "{asked} scripts for 160 asks");
    // Idle leases go back.
    counts(&redis, 160).await;
    // To the end: never more than the limit, and too few by no more than what the other one has leased.
    let all = early + admitted(&[&one, &two], 200).await;
    assert!(all <= LIMIT && all + 2 * LEASE >= LIMIT, "{all} of {LIMIT}");
    counts(&redis, all).await;
    let all = all + admitted(&[&one], 40).await + admitted(&[&two], 40).await;
    counts(&redis, all).await;
    // Near the end nothing fits in advance, and the rest is given out one by one.
    assert_eq!(all + admitted(&[&one, &two], 40).await, LIMIT);
}

#[tokio::test]
async fn a_process_that_ends_gives_its_lease_back_and_one_that_is_killed_does_not() {
    let (mock, redis) = (Mock::start().await, Redis::start().await);
    for signal in ["TERM", "KILL"] {
        let mut one = Gateway::start(&mock, &yaml(&redis)).await;
        redis.linked(1, 1).await;
        redis.cli(&["FLUSHALL"]);
        assert_eq!(admitted(&[&one], 50).await, 50);
        one.settled().await;
        one.process.signal(signal);
        one.process.exit(SOON).await;
        if signal == "TERM" {
            assert_eq!(used(&redis), 50, "everything is told before the process ends");
        } else {
            let used = used(&redis);
            assert!((50..=50 + LEASE).contains(&used), "{used} are counted");
        }
    }
}

#[tokio::test]
async fn leases_outlive_a_server_that_comes_back_empty_without_a_count_too_many() {
    let (mock, mut redis) = (Mock::start().await, Redis::start().await);
    let (one, two) = (Gateway::start(&mock, &yaml(&redis)).await, Gateway::start(&mock, &yaml(&redis)).await);
    redis.linked(2, 1).await;
    let before = admitted(&[&one, &two], 100).await;
    assert_eq!(before, 100);
    redis.kill();
    redis.again().await;
    redis.linked(2, 1).await;
    counts(&redis, 100).await;
    let mut all = before + admitted(&[&one, &two], 300).await;
    counts(&redis, all).await;
    all += admitted(&[&one, &two], 60).await;
    counts(&redis, all).await;
    assert_eq!(all + admitted(&[&one, &two], 60).await, LIMIT);
}
