//! Identical asks at the same time: one upstream call, whoever leaves and whatever fails.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use super::cache::same;
use super::dialect::{ALL, Anthropic, Chat, Dialect, Gemini, Responses};
use super::support::{Gateway, Mock, SOON, together};
use super::wire::{Conn, Reply, request};

const ON: &str = "cache: { exact: { ttl: 10m, max_bytes: 16MiB } }\n";

fn cache(reply: &Reply) -> String {
    reply.head.header("x-portcullis-cache").unwrap_or("").to_owned()
}

async fn ask(gateway: &Gateway, dialect: Dialect, model: &str, stream: bool) -> Reply {
    gateway.post(&dialect.path(model, stream), same(dialect, model, stream, "Hello")).await
}

/// Sends an ask and leaves its answer to be read.
async fn begin(gateway: &Gateway, dialect: Dialect, model: &str, stream: bool) -> Conn {
    let mut conn = Conn::open(gateway.address).await;
    let body = same(dialect, model, stream, "Hello");
    conn.send(&request("POST", &dialect.path(model, stream), &[], &body)).await;
    conn
}

/// Waits until so many exchanges listen to another.
async fn listening(gateway: &Gateway, count: u32) {
    let deadline = Instant::now() + SOON;
    loop {
        let now = gateway.metric("portcullis_cache_listening").await;
        if now == Some(f64::from(count)) {
            return;
        }
        assert!(Instant::now() < deadline, "not {count} exchanges listen, but {now:?}: {:?}", gateway.log().last());
        sleep(Duration::from_millis(5)).await;
    }
}

/// The requests that reached the mock for a model.
async fn asked(mock: &Mock, mark: &str) -> Vec<Value> {
    let seen = |entry: &Value| {
        ["body", "target"].iter().any(|key| entry[*key].as_str().is_some_and(|text| text.contains(mark)))
    };
    mock.journal().await.into_iter().filter(seen).collect()
}

/// What one log line says was used and paid, of all that name this model.
async fn payers(gateway: &Gateway, model: &str, lines: usize) -> Vec<Value> {
    gateway.settled().await;
    let deadline = Instant::now() + SOON;
    loop {
        let mut log = gateway.log();
        log.retain(|line| line["model"] == model);
        if log.len() == lines {
            log.retain(|line| !line["usage"].is_null());
            return log;
        }
        assert!(Instant::now() < deadline, "{} lines for {model}", log.len());
        sleep(Duration::from_millis(10)).await;
    }
}

/// Output tokens that the metrics have for the models whose name holds this.
async fn metered(gateway: &Gateway, mark: &str) -> f64 {
    let page = gateway.admin("GET", "/metrics").await.text();
    let of = |line: &&str| {
        line.starts_with("gen_ai_client_token_usage_sum{") && line.contains(mark) && line.contains("\"output\"")
    };
    page.lines().filter(of).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

#[tokio::test]
async fn sixty_four_identical_asks_of_every_dialect_and_form_make_one_upstream_call() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, ON).await;
    for (to, leader) in [(Chat, true), (Anthropic, true), (Responses, false), (Gemini, true)] {
        let model = format!("{}/mock-fast:chunks=20,delay=10ms,head=100ms,key=all{to:?}", to.account());
        let asks = (0..64).map(|n| {
            let (dialect, stream) = if n == 0 { (to, leader) } else { (ALL[n % 4], n % 3 > 0) };
            let (gateway, model) = (&gateway, &model);
            async move { (dialect, ask(gateway, dialect, model, stream).await) }
        });
        let replies = together(asks).await;
        let text = replies[0].0.read(&replies[0].1).text;
        assert!(text.starts_with("You said"), "{text}");
        let mut led = 0;
        for (dialect, reply) in &replies {
            assert_eq!(reply.status(), 200, "{to:?}: {}", reply.text());
            let said = dialect.read(reply);
            assert!(reply.whole && said.done && said.error.is_none(), "{to:?} {dialect:?}: {}", reply.text());
            assert_eq!(said.text, text, "{to:?} {dialect:?}");
            assert_eq!(said.finish, dialect.finishes().0, "{to:?} {dialect:?}");
            led += usize::from(cache(reply) == "miss");
        }
        assert_eq!((led, asked(&mock, &format!("all{to:?}")).await.len()), (1, 1), "{to:?}");
        assert_eq!(payers(&gateway, &model, 64).await.len(), 1, "{to:?}: paid more than once");
    }
}

/// What stands in each piece of a stream's text.
fn piece(dialect: Dialect) -> &'static str {
    match dialect {
        Chat => "\"content\":\"",
        Responses => "\"response.output_text.delta\"",
        Anthropic => "\"text_delta\"",
        Gemini => "\"text\":",
    }
}

#[tokio::test]
async fn a_leader_that_leaves_at_any_point_takes_nobody_along_and_the_answer_is_paid_once() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, ON).await;
    let pieces = 8;
    // Who leads, in the upstream's own dialect; who follows, and whether as a stream.
    let pairs = [
        (Chat, Chat, true),
        (Chat, Anthropic, true),
        (Chat, Gemini, false),
        (Chat, Responses, true),
        (Responses, Responses, true),
        (Responses, Chat, true),
        (Anthropic, Anthropic, true),
        (Gemini, Gemini, true),
    ];
    // Before the head, before the first content, and after each piece.
    for point in 0..pieces + 2 {
        let wait = match point {
            0 => "head=400ms",
            1 => "ttft=400ms",
            _ => "delay=80ms",
        };
        let mut parties = Vec::new();
        for (to, dialect, stream) in pairs {
            let key = format!("point{point}{to:?}{dialect:?}");
            let model = format!("{}/mock-fast:chunks={pieces},length=200,{wait},key={key}", to.account());
            let leader = begin(&gateway, to, &model, true).await;
            parties.push((to, dialect, stream, key, model, leader));
        }
        let mut followers = Vec::new();
        for (_, dialect, stream, key, model, _) in &parties {
            mock.seen(key, |_| true).await;
            followers.push(begin(&gateway, *dialect, model, *stream).await);
        }
        listening(&gateway, pairs.len() as u32).await;
        let parties = parties.into_iter().zip(followers).map(|(party, mut follower)| async move {
            let (to, dialect, stream, key, model, mut leader) = party;
            if point > 1 {
                assert_eq!(leader.head().await.status, 200);
                for _ in 0..point - 1 {
                    leader.until(piece(to)).await;
                }
            }
            drop(leader);
            let reply = timeout(SOON, follower.reply()).await.unwrap_or_else(|_| panic!("{key}: the follower hangs"));
            (dialect, stream, key, model, reply)
        });
        for (dialect, stream, key, model, reply) in together(parties).await {
            assert_eq!((reply.status(), cache(&reply).as_str()), (200, "coalesced"), "{key}: {}", reply.text());
            let said = dialect.read(&reply);
            assert!(reply.whole && said.done && said.error.is_none(), "{key} {stream}: {}", reply.text());
            assert!(said.text.len() >= 200, "{key}: {}", said.text);
            let calls = asked(&mock, &key).await;
            assert_eq!(calls.len(), 1, "{key}: {calls:?}");
            assert_eq!(calls[0]["outcome"], "complete", "{key}: {calls:?}");
            let paid = payers(&gateway, &model, 2).await;
            assert_eq!(paid.len(), 1, "{key}: {paid:?}");
            assert!(paid[0]["usage_estimated"].is_null(), "{key}: {paid:?}");
            // Also where who pays has asked nobody itself.
            let metered = metered(&gateway, &format!("key={key}\"")).await;
            assert_eq!(Some(metered), paid[0]["usage"]["output"].as_f64(), "{key}: {paid:?}");
            // What the follower heard to its end is kept.
            assert_eq!(cache(&ask(&gateway, Anthropic, &model, false).await), "hit", "{key}");
        }
    }
}

#[tokio::test]
async fn the_upstream_is_cut_off_when_the_last_listener_leaves_and_not_before() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, ON).await;
    let cases = [("head=20s", ""), ("ttft=20s", ""), ("chunks=400,delay=20ms,length=8000", "You said")];
    for (number, (wait, mark)) in cases.into_iter().enumerate() {
        let key = format!("key=last{number}");
        let model = format!("chat/mock-fast:{wait},{key}");
        let mut conns = Vec::new();
        for dialect in [Chat, Responses, Anthropic] {
            conns.push(begin(&gateway, dialect, &model, true).await);
            mock.seen(&key, |_| true).await;
        }
        listening(&gateway, 2).await;
        for conn in conns.iter_mut().filter(|_| !mark.is_empty()) {
            assert_eq!(conn.head().await.status, 200);
            conn.until(mark).await;
        }
        conns.remove(0);
        conns.remove(0);
        listening(&gateway, 1).await;
        assert_eq!(asked(&mock, &key).await[0]["outcome"], "open", "{wait}");
        drop(conns);
        mock.seen(&key, |entry| entry["outcome"] == "client_gone").await;
        assert_eq!(asked(&mock, &key).await.len(), 1, "{wait}");
        let paid = payers(&gateway, &model, 3).await;
        assert_eq!(paid.len(), 1, "{wait}: {paid:?}");
    }
}

#[tokio::test]
async fn a_leader_that_fails_hands_over_and_what_fails_for_all_is_told_to_all() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, ON).await;
    for (fault, status, calls) in [("400", 400, 1), ("500", 0, 3)] {
        let model = format!("chat/mock-fast:head=1s,fault={fault},key=f{fault}");
        let mut conns = Vec::new();
        for n in 0..12 {
            conns.push(begin(&gateway, ALL[n % 4], &model, n % 2 == 0).await);
        }
        // An ask that came after the fault would be one of its own.
        listening(&gateway, 11).await;
        let replies = together(conns.into_iter().map(|mut conn| async move { conn.reply().await })).await;
        for reply in &replies {
            assert!(reply.status() >= 400, "{fault}: {}", reply.text());
            assert!(status == 0 || reply.status() == status, "{fault}: {}", reply.text());
        }
        assert_eq!(asked(&mock, &format!("f{fault}")).await.len(), calls, "{fault}: calls for 12 asks");
    }
    // The first call fails, whoever made it; everybody else is served by the second.
    let model = "chat/mock-fast:head=100ms,fault=500,times=1,key=once";
    let replies = together((0..12).map(|n| ask(&gateway, ALL[n % 4], model, n % 2 == 0))).await;
    let failed = replies.iter().filter(|reply| reply.status() >= 400).count();
    assert!(failed <= 1, "{failed} failed with the leader");
    assert!(asked(&mock, "key=once").await.len() <= 3);
}

#[tokio::test]
async fn what_breaks_off_breaks_off_for_all_who_heard_it_and_is_not_kept() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, ON).await;
    let model = "chat/mock-fast:chunks=20,delay=10ms,head=100ms,fault=cut-mid,key=cut";
    let replies = together((0..6).map(|n| ask(&gateway, ALL[n % 3], model, true))).await;
    for (n, reply) in replies.iter().enumerate() {
        let said = ALL[n % 3].read(reply);
        assert!(said.error.is_some(), "{n}: {}", reply.text());
    }
    gateway.settled().await;
    assert_eq!(gateway.metric("portcullis_cache_answers").await, Some(0.0));
}

#[tokio::test]
async fn what_breaks_off_or_is_left_by_all_is_paid_once_also_where_whole_answers_listen() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, ON).await;
    // The upstream breaks.
    let model = "chat/mock-fast:chunks=20,delay=20ms,head=300ms,fault=cut-mid,key=broken";
    let mut leader = begin(&gateway, Chat, model, true).await;
    mock.seen("key=broken", |_| true).await;
    let mut listener = begin(&gateway, Chat, model, false).await;
    listening(&gateway, 1).await;
    let replies = (leader.reply().await, listener.reply().await);
    assert!(Chat.read(&replies.0).error.is_some() && replies.1.status() >= 500, "{}", replies.1.text());
    let paid = payers(&gateway, model, 2).await;
    assert_eq!(paid.len(), 1, "{paid:?}");
    assert!(paid[0]["usage"]["output"].as_u64() > Some(1) && paid[0]["usage_estimated"] == true, "{paid:?}");
    // Both leave, the one that counts nothing last.
    let model = "chat/mock-fast:chunks=400,delay=20ms,length=8000,key=deserted";
    let mut leader = begin(&gateway, Chat, model, true).await;
    mock.seen("key=deserted", |_| true).await;
    let listener = begin(&gateway, Chat, model, false).await;
    listening(&gateway, 1).await;
    leader.head().await;
    leader.until("You said").await;
    drop(leader);
    gateway.logged_where("the leader", |line| line["model"] == model).await;
    drop(listener);
    let paid = payers(&gateway, model, 2).await;
    assert_eq!(paid.len(), 1, "{paid:?}");
    assert!(paid[0]["usage"]["output"].as_u64() > Some(0), "{paid:?}");
}

#[tokio::test]
async fn everybody_keeps_to_a_time_of_its_own() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, ON).await;
    let short = [("x-portcullis-timeout-ms", "400"), ("content-type", "application/json")];
    for (stream, wait) in [(false, "head"), (true, "ttft")] {
        for (case, hurried_first) in [("leads", true), ("listens", false)] {
            let model = format!("chat/mock-fast:{wait}=1200ms,key={case}{wait}");
            let path = Chat.path(&model, stream);
            let begin = async |headers: &[(&str, &str)]| {
                let mut conn = Conn::open(gateway.address).await;
                conn.send(&request("POST", &path, headers, &same(Chat, &model, stream, "Hello"))).await;
                conn
            };
            let mut first = begin(if hurried_first { &short } else { &short[1..] }).await;
            mock.seen(&format!("key={case}{wait}"), |_| true).await;
            let mut second = begin(if hurried_first { &short[1..] } else { &short }).await;
            let (first, second) = (first.reply().await, second.reply().await);
            let (hurried, patient) = if hurried_first { (first, second) } else { (second, first) };
            assert_eq!(hurried.status(), 504, "{case} {wait}: {}", hurried.text());
            assert_eq!(patient.status(), 200, "{case} {wait}: {}", patient.text());
            assert!(Chat.read(&patient).done, "{case} {wait}: {}", patient.text());
        }
    }
}

#[tokio::test]
async fn what_breaks_off_is_gone_on_with_for_all_who_heard_it_and_its_first_part_is_paid_once() {
    let mock = Mock::start().await;
    let cut = "chat/mock-fast:chunks=20,delay=20ms,head=100ms,fault=cut-mid,key=first";
    let models =
        format!("models:\n  story: {{ fallback: [\"{cut}\", \"chat/mock-fast:key=rest\"], continue_on_cut: true }}\n");
    let prices = "prices: { models: { \"chat/*\": { input: 1, output: 1000 } } }\n";
    let gateway = Gateway::start(&mock, &format!("{ON}{models}{prices}")).await;
    let replies = together((0..6).map(|n| ask(&gateway, ALL[n % 4], "story", true))).await;
    let shared = replies.iter().filter(|reply| cache(reply) == "coalesced").count();
    assert_eq!((shared, asked(&mock, "key=first").await.len()), (5, 1));
    for (n, reply) in replies.iter().enumerate() {
        let said = ALL[n % 4].read(reply);
        assert!(reply.whole && said.done && said.error.is_none(), "{n}: {}", reply.text());
        assert!(said.text.starts_with("You said"), "{n}: {}", said.text);
    }
    assert_eq!(asked(&mock, "key=rest").await.len(), 6, "each goes on for itself");
    let lines = payers(&gateway, "story", 6).await;
    assert_eq!(lines.len(), 6, "{lines:?}");
    let continued = |line: &&Value| {
        let attempts = line["attempts"].as_array().into_iter().flatten();
        attempts.filter(|attempt| attempt["role"] == "continuation").count() == 1
    };
    assert_eq!(lines.iter().filter(continued).count(), 6, "{lines:?}");
    let mut used: Vec<u64> = lines.iter().map(|line| line["usage"]["output"].as_u64().expect("a number")).collect();
    used.sort_unstable();
    // The rest is as long for everybody, and one has the first part beside it.
    assert!(used[0] == used[4] && used[5] > used[4], "{used:?}");
    assert_eq!(gateway.metric("portcullis_cache_answers").await, Some(0.0));
}

#[tokio::test]
async fn nobody_hangs_wherever_the_leaders_upstream_breaks() {
    let mock = Mock::start().await;
    let timeouts = "timeouts: { head: 400ms, first_token: 400ms, idle: 400ms }\n";
    let gateway = Gateway::start(&mock, &format!("{ON}{timeouts}")).await;
    let faults = [
        "429",
        "500",
        "400",
        "cut-head",
        "cut-first",
        "cut-mid",
        "eof-mid",
        "stall-head",
        "stall-first",
        "stall-mid",
        "error-first",
        "error-mid",
        "malformed",
        "malformed-first",
        "garbage-sse",
        "empty",
        "html",
        "reset",
    ];
    for to in [Chat, Anthropic] {
        for fault in faults {
            let model =
                format!("{}/mock-fast:chunks=8,delay=20ms,head=60ms,fault={fault},key={fault}{to:?}", to.account());
            let asks = (0..6).map(|n| ask(&gateway, ALL[n % 4], &model, n % 3 > 0));
            let replies =
                timeout(SOON, together(asks)).await.unwrap_or_else(|_| panic!("{fault} {to:?}: somebody hangs"));
            for (n, reply) in replies.iter().enumerate() {
                let failed = reply.status() >= 400 || ALL[n % 4].read(reply).error.is_some();
                assert!(failed, "{fault} {to:?} {n}: {}", reply.text());
            }
        }
    }
    gateway.settled().await;
    let stats = gateway.admin("GET", "/admin/cache").await.json();
    assert_eq!(
        (&stats["under_way"], &stats["listening"], &stats["answers"]),
        (&json!(0), &json!(0), &json!(0)),
        "{stats}"
    );
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_nobody_back() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, ON).await;
    let model = "chat/mock-fast:chunks=300,length=800000,head=100ms,key=slow";
    let mut slow = begin(&gateway, Chat, model, true).await;
    mock.seen("key=slow", |_| true).await;
    let fast = together((0..4).map(|n| ask(&gateway, ALL[n], model, true))).await;
    for (n, reply) in fast.iter().enumerate() {
        let said = ALL[n].read(reply);
        assert!(said.done && said.text.len() >= 800_000, "{n}: {}", said.text.len());
    }
    // It gets everything all the same, when it reads at last.
    let reply = slow.reply().await;
    assert!(Chat.read(&reply).text.len() >= 800_000);
    assert_eq!(asked(&mock, "key=slow").await.len(), 1);
}

#[tokio::test]
async fn who_leaves_last_pays_what_those_who_heard_the_end_were_told() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, ON).await;
    let model = format!("{}/mock-fast:chunks=300,length=800000,head=100ms,key=behind", Anthropic.account());
    let slow = begin(&gateway, Anthropic, &model, true).await;
    mock.seen("key=behind", |_| true).await;
    let reply = ask(&gateway, Anthropic, &model, true).await;
    let told = Anthropic.read(&reply).usage.expect("usage").1;
    gateway.logged_where("who heard the end", |line| line["model"] == model.as_str()).await;
    // It has read nothing, and the first event states a token or so.
    drop(slow);
    let paid = payers(&gateway, &model, 2).await;
    assert_eq!(paid.len(), 1, "{paid:?}");
    assert!(paid[0]["usage"]["output"] == told && paid[0]["usage_estimated"].is_null(), "{paid:?} for {told}");
}

#[tokio::test]
async fn asks_that_want_nothing_shared_are_on_their_own() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, ON).await;
    for (n, word) in ["no-store", "refresh", "no-cache, no-store"].into_iter().enumerate() {
        let model = format!("chat/mock-fast:head=100ms,key=own{n}");
        let headers = [("x-portcullis-cache", word), ("content-type", "application/json")];
        let body = same(Chat, &model, false, "Hello");
        let replies = together((0..3).map(|_| gateway.call("POST", "/v1/chat/completions", &headers, &body))).await;
        assert!(replies.iter().all(|reply| reply.status() == 200 && cache(reply) != "coalesced"), "{word}");
        assert_eq!(asked(&mock, &format!("own{n}")).await.len(), 3, "{word}");
    }
    let apart = Gateway::start(&mock, "cache: { exact: { single_flight: false } }\n").await;
    let model = "chat/mock-fast:head=100ms,key=apart";
    together((0..3).map(|_| ask(&apart, Chat, model, false))).await;
    assert_eq!(asked(&mock, "key=apart").await.len(), 3);
    assert_eq!(json!(cache(&ask(&apart, Chat, model, true).await)), "hit");
}
