//! The fault drill: targets that fail in every way before the commit point, breakers, retries and pauses at work, mixed
//! traffic in all dialects, and no caller that notices while one target is good.
//!
//! Lasts ten seconds; `PORTCULLIS_DRILL_SECONDS` says otherwise.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::dialect::{ALL, Turn};
use super::support::{Gateway, Mock};
use super::wire;

/// Callers at the same time.
const CALLERS: usize = 12;

/// What the two bad targets of a model do: always one fault each, or now and then.
const PAIRS: &[(&str, &str)] = &[
    ("fault=500", "fault=429=1"),
    ("fault=503", "fault=error-first"),
    ("fault=529", "fault=cut-first"),
    ("fault=cut-head", "fault=401"),
    ("fault=stall-first", "fault=malformed-first"),
    ("fault=429=2", "fault=reset=head"),
    ("fault=html", "fault=quota"),
    ("fault=404", "fault=empty"),
    ("fault=500,times=3,key=now", "fault=garbage-sse"),
];

/// A model for each pair, the good target at another place each time.
fn config() -> String {
    let mut models = String::new();
    for (number, (first, second)) in PAIRS.iter().enumerate() {
        let clocks = "timeouts: { head: 1s, first_token: 1s, idle: 1s }";
        let mut targets = [
            format!("{{ target: \"chat/drill-{number}:{first}\", {clocks} }}"),
            format!("{{ target: \"anthropic/drill-{number}:{second}\", {clocks} }}"),
        ]
        .to_vec();
        let good = ["gemini/mock-fast", "responses/mock-fast"][number % 2];
        targets.insert(if number % 3 == 0 { 1 } else { 2 }, good.to_owned());
        models.push_str(&format!("  drill-{number}: {{ fallback: [{}] }}\n", targets.join(", ")));
    }
    format!("stream: {{ keep_alive: off }}\nmodels:\n{models}")
}

fn seconds() -> u64 {
    std::env::var("PORTCULLIS_DRILL_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(10)
}

#[tokio::test]
async fn no_caller_notices_while_one_target_is_good() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, &config()).await;
    let (address, until) = (gateway.address, Instant::now() + Duration::from_secs(seconds()));
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        callers.spawn(async move {
            let (mut count, mut bad) = (0_usize, Vec::new());
            while Instant::now() < until {
                let turn = caller * 7919 + count;
                let (from, stream) = (ALL[turn % 4], turn / 4 % 2 == 0);
                let model = format!("drill-{}", turn % PAIRS.len());
                let body = from.ask(&model, stream, Turn::Text, "Hello");
                let json = [("content-type", "application/json")];
                let reply = wire::call(address, "POST", &from.path(&model, stream), &json, &body).await;
                count += 1;
                let whole = reply.status() == 200 && {
                    let said = from.read(&reply);
                    said.done && said.error.is_none() && said.text.matches("You said: \"Hello\".").count() == 1
                };
                if !whole {
                    bad.push(format!("{from:?} {model} stream {stream}: {} {}", reply.status(), reply.text()));
                }
            }
            (count, bad)
        });
    }
    let (mut total, mut bad) = (0, Vec::new());
    for (count, failures) in callers.join_all().await {
        total += count;
        bad.extend(failures);
    }
    assert!(bad.is_empty(), "{} of {total} failed:\n{}", bad.len(), bad.join("\n"));
    assert!(total > 50, "only {total} exchanges");
    gateway.settled().await;
    let lines = gateway.lines(total).await;
    let tries: usize = lines.iter().map(|line| line["attempts"].as_array().map_or(0, Vec::len)).sum();
    assert!(tries > total, "nothing was tried again");
    pauses_were_kept(&lines);
}

/// Whoever asked for a pause got it from every exchange that began an attempt after it had been asked for.
fn pauses_were_kept(lines: &[Value]) {
    let begun = |line: &Value| {
        let time = humantime::parse_rfc3339(line["time"].as_str().expect("a time")).expect("RFC 3339");
        time.duration_since(std::time::UNIX_EPOCH).expect("later").as_secs_f64() * 1000.0
    };
    let mut by_target: HashMap<String, Vec<(f64, f64, bool)>> = HashMap::new();
    for line in lines {
        for attempt in line["attempts"].as_array().into_iter().flatten() {
            let at = begun(line) + attempt["at_ms"].as_f64().expect("a number");
            let end = at + attempt["took_ms"].as_f64().expect("a number");
            let limited = attempt["error"] == "rate_limited";
            by_target.entry(attempt["model"].to_string()).or_default().push((at, end, limited));
        }
    }
    for (target, attempts) in by_target.iter().filter(|(target, _)| target.contains("429=")) {
        let pause = if target.contains("429=2") { 2000.0 } else { 1000.0 };
        for (_, asked, _) in attempts.iter().filter(|(.., limited)| *limited) {
            // Two hundredths for the clocks: the log's times are rounded, and the fault is noted after it is read.
            let early = attempts.iter().find(|(at, ..)| *at > asked + 20.0 && *at < asked + pause - 20.0);
            assert!(early.is_none(), "{target} was asked {early:?} although it wanted a pause at {asked}");
        }
    }
}
