//! What limits cost an exchange: five rules with two windows each, reserved and settled, in memory and on a real
//! redis-server.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use http::HeaderMap;
use portcullis::state::limit::meter::{Shape, Unit};
use portcullis::state::limit::rule::{Exhausted, Facts, Part, Rule, Rules, Window};
use portcullis::state::limit::shared::{Policy, Shared};
use portcullis::state::limit::{Amounts, Estimate, Limits};
use portcullis::state::redis::Link;
use portcullis::state::unix_ms;

const NOW: u64 = 1_700_000_000_000;

/// Rules as an operator would stack them: by key, project, model, address, and for all together.
fn rules(count: usize, lease: u64) -> Rules {
    let per = [vec![Part::Key], vec![Part::Project], vec![Part::Key, Part::Model], vec![Part::Ip], vec![]];
    let rule = |at: usize| Rule {
        name: format!("rule-{at}").into(),
        conditions: vec![],
        per: per[at % per.len()].clone(),
        windows: vec![
            Window { unit: Unit::Requests, shape: Shape::Sliding(60_000), limit: 1 << 40 },
            Window { unit: Unit::Tokens, shape: Shape::Sliding(60_000), limit: 1 << 40 },
        ],
        exhausted: Exhausted::Reject,
        class: Part::Key,
        shares: vec![],
        hard: true,
        unpriced: false,
        lease,
        budget: None,
    };
    Rules::new((0..count).map(rule).collect())
}

const ESTIMATE: Amounts = Amounts { requests: 1, input: 500, output: 1024, money: Some(12_000) };
const ACTUAL: Amounts = Amounts { requests: 1, input: 480, output: 210, money: Some(4000) };

fn facts<'a>(headers: &'a HeaderMap, metadata: &'a BTreeMap<String, String>) -> Facts<'a> {
    Facts {
        key: "search-prod",
        project: Some("search"),
        user: None,
        model: "fast",
        endpoint: "/v1/chat/completions",
        ip: "203.0.113.9".parse().ok(),
        headers,
        metadata,
        provider: None,
        target: None,
    }
}

fn exchange(c: &mut Criterion) {
    let (headers, metadata) = (HeaderMap::new(), BTreeMap::new());
    let facts = facts(&headers, &metadata);
    let mut group = c.benchmark_group("limit");
    for count in [1, 5] {
        let (limits, rules) = (Arc::new(Limits::new()), rules(count, 0));
        group.bench_function(format!("{count} rules, reserve and settle"), |b| {
            b.iter(|| {
                let charges = limits.charges(&rules.of_exchange, black_box(&facts), NOW);
                if let Ok(hold) = limits.reserve(&charges, &Estimate::exact(ESTIMATE), NOW) {
                    hold.settle(&ACTUAL, NOW);
                }
            });
        });
        group.bench_function(format!("{count} rules, reserve"), |b| {
            b.iter(|| {
                let charges = limits.charges(&rules.of_exchange, black_box(&facts), NOW);
                black_box(limits.reserve(&charges, &Estimate::exact(ESTIMATE), NOW).is_ok())
            });
        });
    }
    group.finish();
}

/// The same on a real redis-server on loopback: one script and one round trip for all rules, and what is leased without one.
fn shared(c: &mut Criterion) {
    let Some(redis) = Redis::start() else {
        eprintln!("no redis-server: its figures are left out");
        return;
    };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let (headers, metadata) = (HeaderMap::new(), BTreeMap::new());
    let facts = facts(&headers, &metadata);
    let mut group = c.benchmark_group("limit on redis");
    for (name, count, lease) in [("1 rule", 1, 0), ("5 rules", 5, 0), ("5 leased rules", 5, 1)] {
        let limits = Arc::new(Limits::new());
        let rules = rules(count, lease);
        let link = Link::start("a bench", &redis.url, Duration::from_secs(1), &format!("bench-{count}-{lease}"))
            .expect("a link");
        runtime.block_on(async {
            assert!(link.ready(Duration::from_secs(5)).await, "redis does not answer");
            Shared::start(&limits, link.clone(), Policy::Closed);
        });
        group.bench_function(format!("{name}, reserve and settle"), |b| {
            b.iter(|| {
                let now = limits.time(unix_ms());
                let charges = limits.charges(&rules.of_exchange, black_box(&facts), now);
                let shared = limits.shared().expect("it is shared");
                let hold = runtime.block_on(shared.reserve(&limits, &charges, &Estimate::exact(ESTIMATE), now));
                hold.expect("there is room").settle(&ACTUAL, now);
            });
        });
    }
    // What a round trip costs here at all.
    let link = Link::start("a bench", &redis.url, Duration::from_secs(1), "bench").expect("a link");
    assert!(runtime.block_on(link.ready(Duration::from_secs(5))), "redis does not answer");
    let ping = redis::cmd("PING");
    group.bench_function("a ping", |b| b.iter(|| runtime.block_on(link.run(&ping)).expect("answers")));
    group.finish();
}

/// A server of the bench's own.
struct Redis {
    url: String,
    child: std::process::Child,
}

impl Redis {
    fn start() -> Option<Self> {
        let port = std::net::TcpListener::bind("127.0.0.1:0").ok()?.local_addr().ok()?.port();
        let mut command = std::process::Command::new("redis-server");
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""]);
        let child = command.stdout(std::process::Stdio::null()).spawn().ok()?;
        Some(Redis { url: format!("redis://127.0.0.1:{port}/0"), child })
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

criterion_group!(benches, exchange, shared);
criterion_main!(benches);
