//! Limits that several processes share by way of a real Redis: exact while it is there, as configured while it is not,
//! and right again afterwards.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep};

use super::support::{Folder, Gateway, Mock, SOON, free_address, together};
use super::wire::Reply;

/// A server without persistence: killed, it comes back empty.
struct Redis {
    address: SocketAddr,
    child: Child,
    folder: Folder,
}

impl Redis {
    async fn start() -> Self {
        let (address, folder) = (free_address(), Folder::new());
        let child = Redis::spawn(address, &folder);
        let redis = Redis { address, child, folder };
        redis.ready().await;
        redis
    }

    fn spawn(address: SocketAddr, folder: &Folder) -> Child {
        let mut command = Command::new("redis-server");
        command.args(["--port", &address.port().to_string(), "--bind", "127.0.0.1", "--save", "", "--dir"]);
        command.arg(folder.path("")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().expect("redis-server is installed (`tests/run install` does it)")
    }

    async fn ready(&self) {
        let deadline = Instant::now() + SOON;
        while self.cli(&["PING"]).trim() != "PONG" {
            assert!(Instant::now() < deadline, "redis-server does not answer");
            sleep(Duration::from_millis(10)).await;
        }
    }

    fn cli(&self, words: &[&str]) -> String {
        let mut command = Command::new("redis-cli");
        command.args(["-p", &self.address.port().to_string()]).args(words).stderr(Stdio::null());
        String::from_utf8_lossy(&command.output().expect("redis-cli is installed").stdout).into_owned()
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    async fn again(&mut self) {
        self.child = Redis::spawn(self.address, &self.folder);
        self.ready().await;
    }

    /// The configuration that shares by this server.
    fn yaml(&self, away: &str, limits: &str) -> String {
        let url = format!("redis://{}/0", self.address);
        format!("redis: {{ url: \"{url}\", away: {away}, timeout: 250ms }}\nlimits: [{limits}]\n")
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn ask(gateway: &Gateway) -> Reply {
    let body = json!({"model": "chat/mock-fast", "messages": [{"role": "user", "content": "Hello"}]});
    gateway.post("/v1/chat/completions", body.to_string()).await
}

/// Waits until the gateway has found the server: its own word for that is in its log.
async fn linked(redis: &Redis, gateways: &[&Gateway]) {
    let deadline = Instant::now() + SOON;
    loop {
        let clients = redis.cli(&["CLIENT", "LIST"]).lines().filter(|line| line.contains("cmd=time")).count();
        if clients >= gateways.len() {
            return;
        }
        assert!(Instant::now() < deadline, "not every gateway has found redis");
        sleep(Duration::from_millis(20)).await;
    }
}

fn admitted(replies: &[Reply]) -> usize {
    replies.iter().filter(|reply| reply.status() == 200).count()
}

#[tokio::test]
async fn two_processes_together_admit_exactly_the_limit() {
    let (mock, redis) = (Mock::start().await, Redis::start().await);
    let limits = "{ name: r, requests: 20 / 1h }, { name: c, per: key, concurrency: 1000, tokens: 10M / day }";
    let yaml = redis.yaml("closed", limits);
    let (one, two) = (Gateway::start(&mock, &yaml).await, Gateway::start(&mock, &yaml).await);
    linked(&redis, &[&one, &two]).await;
    let replies = together((0..48).map(|at| ask(if at % 2 == 0 { &one } else { &two }))).await;
    assert_eq!(admitted(&replies), 20);
    let refused = replies.iter().find(|reply| reply.status() == 429).expect("28 are refused");
    assert!(refused.text().contains("`r`"), "{}", refused.text());
    assert_eq!(refused.head.header("x-ratelimit-remaining-requests"), Some("0"));
    assert!(refused.head.header("retry-after").is_some());
}

#[tokio::test]
async fn while_redis_is_dead_limits_do_as_configured_and_are_right_afterwards() {
    let (mock, mut redis) = (Mock::start().await, Redis::start().await);
    let limit = "{ name: r, requests: 10 / 1h }";
    let closed = Gateway::start(&mock, &redis.yaml("closed", limit)).await;
    linked(&redis, &[&closed]).await;
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
    let (mock, redis) = (Mock::start().await, Redis::start().await);
    let limit = "{ name: r, requests: 3 / 1h }";
    let (local, open) = (redis.yaml("local", limit), redis.yaml("open", limit));
    drop(redis);
    let local = Gateway::start(&mock, &local).await;
    assert_eq!(admitted(&together((0..8).map(|_| ask(&local))).await), 3);
    let open = Gateway::start(&mock, &open).await;
    assert_eq!(admitted(&together((0..8).map(|_| ask(&open))).await), 8);
}

#[tokio::test]
async fn a_paused_redis_costs_no_more_than_its_time_and_counts_nothing_twice() {
    let (mock, redis) = (Mock::start().await, Redis::start().await);
    let gateway = Gateway::start(&mock, &redis.yaml("local", "{ name: r, requests: 30 / 1h }")).await;
    linked(&redis, &[&gateway]).await;
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
