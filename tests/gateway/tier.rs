//! Answers that processes give each other again by way of a real Redis, and what happens when that is away, slow or holds
//! something else: a miss, never an error.

use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep, timeout};

use super::cache::same;
use super::dialect::{ALL, Chat, Dialect};
use super::redis::{Redis, counted};
use super::support::{Gateway, Mock, SOON, together};
#[cfg(feature = "wasm")]
use super::upstream::Upstream;
use super::wire::Reply;

fn yaml(redis: &Redis, exact: &str, shared: &str) -> String {
    let url = redis.url();
    format!("redis: {{ url: \"{url}\" }}\ncache: {{ exact: {{ {exact} shared: {{ timeout: 250ms, {shared} }} }} }}\n")
}

fn cache(reply: &Reply) -> &str {
    reply.head.header("x-portcullis-cache").unwrap_or("")
}

fn key(reply: &Reply) -> &str {
    reply.head.header("x-portcullis-cache-key").expect("a key")
}

async fn ask(gateway: &Gateway, dialect: Dialect, model: &str, stream: bool, say: &str) -> Reply {
    let reply = gateway.post(&dialect.path(model, stream), same(dialect, model, stream, say)).await;
    assert_eq!(reply.status(), 200, "{}", reply.text());
    reply
}

const KEPT: &str = "portcullis_cache_shared_writes_total{outcome=\"kept\"}";

fn reads(outcome: &str) -> String {
    format!("portcullis_cache_shared_reads_total{{outcome=\"{outcome}\"}}")
}

#[tokio::test]
async fn two_processes_give_each_others_answers_in_every_dialect_and_form() {
    let (mock, redis) = (Mock::start().await, Redis::start().await);
    let yaml = yaml(&redis, "", "");
    let (one, two) = (Gateway::start(&mock, &yaml).await, Gateway::start(&mock, &yaml).await);
    redis.linked(2, 2).await;
    let mut made = 0.0;
    for to in ALL {
        for made_as_stream in [false, true] {
            let model = format!("{}/mock-fast:chunks=7", to.account());
            for (n, dialect) in ALL.into_iter().enumerate() {
                let say = format!("{to:?} {made_as_stream} {dialect:?}");
                let first = ask(&one, to, &model, made_as_stream, &say).await;
                assert_eq!(cache(&first), "miss", "{say}");
                made += 1.0;
                counted(&one, KEPT, |kept| kept == made).await;
                let again = ask(&two, dialect, &model, n.is_multiple_of(2), &say).await;
                assert_eq!((cache(&again), again.head.attempts()), ("hit", 0), "{say}");
                let said = [to.read(&first), dialect.read(&again)];
                assert_eq!(said[0].text, said[1].text, "{say}");
                assert!(said[1].done && said[1].error.is_none() && again.whole, "{say}: {}", again.text());
                // From then on it is in memory here, too.
                let before = two.metric(&reads("hit")).await;
                assert_eq!(cache(&ask(&two, dialect, &model, true, &say).await), "hit");
                assert_eq!(two.metric(&reads("hit")).await, before);
            }
        }
    }
    assert_eq!(mock.journal().await.len(), made as usize);
    let stats = two.admin("GET", "/admin/cache").await.json();
    assert_eq!(stats["shared"]["reads"]["hit"], json!(made as u64), "{stats}");
}

/// The wire form of an adapter is known by a name that each process makes anew; what lies there must not depend on it.
#[cfg(feature = "wasm")]
#[tokio::test]
async fn answers_of_an_adapter_in_a_plugin_are_given_by_others_too() {
    let (mock, redis) = (Mock::start().await, Redis::start().await);
    let said = r#"{"id":"c1","finish_reason":"COMPLETE","message":{"role":"assistant","content":[{"type":"text","text":"Hi."}]},"usage":{"billed_units":{"input_tokens":5,"output_tokens":3}}}"#;
    let upstream = Upstream::saying("application/json", said).await;
    let plugin = format!(
        "providers: {{ it: {{ dialect: 'wasm:cohere', base_url: 'http://{}', api_key: k }} }}\n\
         plugins: {{ folder: '{}/plugins/prebuilt', compiled: FOLDER/compiled }}\n",
        upstream.address,
        env!("CARGO_MANIFEST_DIR"),
    );
    let yaml = format!("{plugin}{}", yaml(&redis, "", ""));
    let (one, two) = (Gateway::start(&mock, &yaml).await, Gateway::start(&mock, &yaml).await);
    redis.linked(2, 2).await;
    for (made, to) in ALL.into_iter().enumerate() {
        let say = format!("{to:?}");
        assert_eq!(cache(&ask(&one, to, "it/command-a", false, &say).await), "miss", "{say}");
        counted(&one, KEPT, |kept| kept == (made + 1) as f64).await;
        for (n, dialect) in ALL.into_iter().enumerate() {
            let again = ask(&two, dialect, "it/command-a", n.is_multiple_of(2), &say).await;
            assert_eq!((cache(&again), again.head.attempts()), ("hit", 0), "{say} as {dialect:?}");
            let said = dialect.read(&again);
            assert!(said.text == "Hi." && said.done && said.error.is_none(), "{say}: {}", again.text());
        }
    }
    assert_eq!(upstream.seen().len(), ALL.len(), "one ask each");
}

#[tokio::test]
async fn of_identical_asks_one_looks_there_and_the_rest_gets_what_it_finds() {
    let (mock, redis) = (Mock::start().await, Redis::start().await);
    let yaml = yaml(&redis, "", "");
    let (one, two) = (Gateway::start(&mock, &yaml).await, Gateway::start(&mock, &yaml).await);
    redis.linked(2, 2).await;
    ask(&one, Chat, "chat/mock-fast", true, "together").await;
    counted(&one, KEPT, |kept| kept == 1.0).await;
    let replies = together((0..32).map(|n| ask(&two, ALL[n % 4], "chat/mock-fast", n % 3 > 0, "together"))).await;
    for (n, reply) in replies.iter().enumerate() {
        assert!(matches!(cache(reply), "hit" | "coalesced"), "{n}: {}", cache(reply));
        assert!(ALL[n % 4].read(reply).done, "{n}");
    }
    assert_eq!(mock.journal().await.len(), 1);
}

#[tokio::test]
async fn tenants_are_apart_there_as_they_are_in_memory() {
    let (mock, redis) = (Mock::start().await, Redis::start().await);
    let keys = "keys: [{ name: a, key: sk-a }, { name: b, key: sk-b }]\n";
    let yaml = format!("{keys}{}", yaml(&redis, "", ""));
    let (one, two) = (Gateway::start(&mock, &yaml).await, Gateway::start(&mock, &yaml).await);
    redis.linked(2, 2).await;
    let call = async |gateway: &Gateway, key: &str| {
        let bearer = format!("Bearer {key}");
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        let body = same(Chat, "chat/mock-fast", false, "secret");
        let reply = gateway.call("POST", "/v1/chat/completions", &headers, body).await;
        cache(&reply).to_owned()
    };
    assert_eq!(call(&one, "sk-a").await, "miss");
    counted(&one, KEPT, |kept| kept == 1.0).await;
    assert_eq!([call(&two, "sk-b").await, call(&two, "sk-a").await], ["miss", "hit"]);
}

#[tokio::test]
async fn whatever_else_lies_there_is_a_miss_is_counted_and_is_written_over() {
    let (mock, redis) = (Mock::start().await, Redis::start().await);
    let yaml = yaml(&redis, "max_entry_bytes: 100KiB,", "");
    let one = Gateway::start(&mock, &yaml).await;
    redis.linked(1, 2).await;
    let first = ask(&one, Chat, "chat/mock-fast", true, "good").await;
    counted(&one, KEPT, |kept| kept == 1.0).await;
    let place = redis.keys(key(&first)).pop().expect("the answer's key");
    let good = redis.cli(&["STRLEN", &place]).trim().parse::<usize>().expect("a length");
    let spoil: [&dyn Fn(); 6] = [
        &|| drop(redis.cli(&["SET", &place, "garbage"])),
        &|| drop(redis.cli(&["SETRANGE", &place, &(good - 3).to_string(), "x"])),
        &|| drop(redis.cli(&["SETRANGE", &place, "3", "9"])),
        &|| drop(redis.cli(&["SETRANGE", &place, "60000000", "x"])),
        &|| drop((redis.cli(&["DEL", &place]), redis.cli(&["LPUSH", &place, "x"]))),
        &|| {
            drop(redis.cli(&[
                "EVAL",
                "redis.call('SET', KEYS[1], string.sub(redis.call('GET', KEYS[1]), 1, -2))",
                "1",
                &place,
            ]))
        },
    ];
    for (n, spoil) in spoil.into_iter().enumerate() {
        spoil();
        // A process that has it nowhere else.
        let two = Gateway::start(&mock, &yaml).await;
        redis.linked(2, 2).await;
        assert_eq!(cache(&ask(&two, Chat, "chat/mock-fast", true, "good").await), "miss", "{n}");
        // A key of another type is an error of the server.
        let (outcome, kept) = if n == 4 { ("failed", 1.0) } else { ("corrupt", 1.0) };
        counted(&two, &reads(outcome), |count| count == 1.0).await;
        counted(&two, KEPT, |count| count == kept).await;
        drop(two);
        let three = Gateway::start(&mock, &yaml).await;
        redis.linked(2, 2).await;
        assert_eq!(cache(&ask(&three, Chat, "chat/mock-fast", true, "good").await), "hit", "{n}");
    }
}

#[tokio::test]
async fn a_dead_slow_or_emptied_server_costs_a_miss_within_its_time_and_nothing_else() {
    let (mock, mut redis) = (Mock::start().await, Redis::start().await);
    let one = Gateway::start(&mock, &yaml(&redis, "", "")).await;
    redis.linked(1, 2).await;
    ask(&one, Chat, "chat/mock-fast", false, "before").await;
    counted(&one, KEPT, |kept| kept == 1.0).await;
    // Paused: the first few wait for their time, then nobody asks.
    redis.cli(&["CLIENT", "PAUSE", "3000", "ALL"]);
    let began = Instant::now();
    let slow = async |n: usize| ask(&one, Chat, "chat/mock-fast", n.is_multiple_of(2), &format!("slow {n}")).await;
    let replies = together((0..16).map(slow)).await;
    assert!(replies.iter().all(|reply| cache(reply) == "miss"), "not every ask was a miss");
    assert!(began.elapsed() < Duration::from_millis(2500), "asks waited for a paused server");
    counted(&one, &reads("slow"), |count| count >= 3.0).await;
    assert_eq!(cache(&ask(&one, Chat, "chat/mock-fast", false, "before").await), "hit", "memory is still there");
    // Back by itself, then killed.
    back(&one, "after the pause").await;
    redis.kill();
    for n in 0..4 {
        assert_eq!(cache(&ask(&one, Chat, "chat/mock-fast", n % 2 == 0, &format!("dead {n}")).await), "miss");
    }
    counted(&one, &reads("down"), |count| count >= 1.0).await;
    // Back and empty.
    redis.again().await;
    back(&one, "after the kill").await;
    redis.cli(&["FLUSHALL"]);
    back(&one, "after the flush").await;
}

/// Waits until answers are written again.
async fn back(gateway: &Gateway, what: &str) {
    let before = gateway.metric(KEPT).await.unwrap_or(0.0);
    let deadline = Instant::now() + SOON;
    for n in 0.. {
        ask(gateway, Chat, "chat/mock-fast", false, &format!("{what} {n}")).await;
        if gateway.metric(KEPT).await.unwrap_or(0.0) > before {
            return;
        }
        assert!(Instant::now() < deadline, "{what}: nothing is written: {}", gateway.process.stderr());
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn its_bytes_are_bounded_and_those_whose_time_ends_first_make_room() {
    let (mock, redis) = (Mock::start().await, Redis::start().await);
    let one = Gateway::start(&mock, &yaml(&redis, "", "max_bytes: 64KiB")).await;
    redis.linked(1, 2).await;
    let mut last = String::new();
    for n in 0..60 {
        let reply = ask(&one, Chat, "chat/mock-fast:length=2000", false, &format!("bound {n}")).await;
        key(&reply).clone_into(&mut last);
    }
    counted(&one, KEPT, |kept| kept == 60.0).await;
    let sizes = redis.keys(":cache:a:").into_iter().map(|key| redis.cli(&["STRLEN", &key]).trim().parse::<usize>());
    let sizes: Vec<usize> = sizes.map(|size| size.expect("a length")).collect();
    let stated: usize = redis.cli(&["GET", "{portcullis}:cache:bytes"]).trim().parse().expect("a number");
    assert!(stated <= 64 << 10 && sizes.iter().sum::<usize>() <= stated, "{stated}: {sizes:?}");
    assert!(sizes.len() > 10 && sizes.len() < 60, "{} are kept", sizes.len());
    assert_eq!(redis.keys(&last).len(), 1, "the newest is there");
    let about: usize = redis.cli(&["HLEN", "{portcullis}:cache:about"]).trim().parse().expect("a number");
    let ends: usize = redis.cli(&["ZCARD", "{portcullis}:cache:ends"]).trim().parse().expect("a number");
    assert_eq!((about, ends), (sizes.len(), sizes.len()));
}

#[tokio::test]
async fn a_purge_reaches_the_server_and_every_processes_memory() {
    let (mock, redis) = (Mock::start().await, Redis::start().await);
    let yaml = yaml(&redis, "", "");
    let (one, two) = (Gateway::start(&mock, &yaml).await, Gateway::start(&mock, &yaml).await);
    redis.linked(2, 2).await;
    for (n, model) in ["chat/mock-fast", "anthropic/mock-fast", "gemini/mock-fast"].into_iter().enumerate() {
        ask(&one, Chat, model, false, "x").await;
        counted(&one, KEPT, |kept| kept > n as f64).await;
        assert_eq!(cache(&ask(&two, Chat, model, false, "x").await), "hit");
    }
    let purge = async |query: &str| one.admin("POST", &format!("/admin/cache/purge?{query}")).await.json();
    assert_eq!(purge("model=chat%2Fmock-fast").await, json!({"purged": 1, "shared": 1}));
    counted(&two, "portcullis_cache_answers", |answers| answers == 2.0).await;
    assert_eq!(cache(&ask(&two, Chat, "chat/mock-fast", false, "x").await), "miss");
    assert_eq!(cache(&ask(&two, Chat, "gemini/mock-fast", false, "x").await), "hit");
    assert_eq!(purge("all=true").await["shared"], json!(3));
    counted(&two, "portcullis_cache_answers", |answers| answers == 0.0).await;
    assert_eq!(redis.keys(":cache:a:"), Vec::<String>::new());
    assert_eq!(redis.cli(&["GET", "{portcullis}:cache:bytes"]).trim(), "0");
}

#[tokio::test]
async fn a_purge_reaches_what_another_process_is_about_to_keep() {
    let (mock, redis) = (Mock::start().await, Redis::start().await);
    let yaml = yaml(&redis, "", "");
    let (one, two) = (Gateway::start(&mock, &yaml).await, Gateway::start(&mock, &yaml).await);
    redis.linked(2, 2).await;
    // Heard of before the answer comes, and not before it is written.
    for wait in [200, 900] {
        let model = format!("chat/mock-fast:head={wait}ms,key=purged{wait}");
        let asking = ask(&one, Chat, &model, false, "x");
        let purging = async {
            mock.seen(&format!("purged{wait}"), |_| true).await;
            two.admin("POST", "/admin/cache/purge?all=true").await.status()
        };
        let (asked, purged) = tokio::join!(asking, purging);
        assert_eq!((cache(&asked), purged), ("miss", 200));
        counted(&one, "portcullis_cache_answers", |answers| answers == 0.0).await;
        sleep(Duration::from_millis(700)).await;
        assert_eq!(redis.keys(":cache:a:"), Vec::<String>::new(), "{wait}");
        assert_eq!(cache(&ask(&two, Chat, &model, false, "x").await), "miss");
        counted(&two, KEPT, |kept| kept >= 1.0).await;
        two.admin("POST", "/admin/cache/purge?all=true").await;
    }
}

#[tokio::test]
async fn names_under_which_something_else_has_come_to_lie_are_made_anew() {
    let (mock, redis) = (Mock::start().await, Redis::start().await);
    let one = Gateway::start(&mock, &yaml(&redis, "", "")).await;
    redis.linked(1, 2).await;
    for (n, (name, other)) in
        [("ends", ["SET", "x"]), ("about", ["SET", "x"]), ("bytes", ["RPUSH", "x"])].into_iter().enumerate()
    {
        ask(&one, Chat, "chat/mock-fast", false, &format!("before {name}")).await;
        counted(&one, KEPT, |kept| kept == (2 * n + 1) as f64).await;
        let name = format!("{{portcullis}}:cache:{name}");
        redis.cli(&["DEL", &name]);
        redis.cli(&[other[0], &name, other[1]]);
        ask(&one, Chat, "chat/mock-fast", false, &format!("after {name}")).await;
        counted(&one, KEPT, |kept| kept == (2 * n + 2) as f64).await;
        let purged = one.admin("POST", "/admin/cache/purge?all=true").await;
        assert_eq!((purged.status(), &purged.json()["shared"]), (200, &json!(1)), "{name}");
    }
}

#[tokio::test]
async fn a_purge_says_so_when_it_cannot_reach_the_server() {
    let (mock, mut redis) = (Mock::start().await, Redis::start().await);
    let one = Gateway::start(&mock, &yaml(&redis, "", "")).await;
    redis.linked(1, 2).await;
    redis.kill();
    let reply = timeout(SOON, one.admin("POST", "/admin/cache/purge?all=true")).await.expect("answers");
    assert_eq!((reply.status(), &reply.json()["error"]["code"]), (503, &json!("cache_unavailable")));
}

#[tokio::test]
async fn a_reload_switches_the_tier_off_and_on() {
    let (mock, redis) = (Mock::start().await, Redis::start().await);
    let one = Gateway::start(&mock, &yaml(&redis, "", "")).await;
    redis.linked(1, 2).await;
    for (n, (enabled, kept)) in [(false, 0.0), (true, 1.0)].into_iter().enumerate() {
        one.configure(&yaml(&redis, "", &format!("enabled: {enabled}")));
        assert_eq!(one.admin("POST", "/admin/reload").await.status(), 200);
        let before = one.metric(KEPT).await.unwrap_or(0.0);
        ask(&one, Chat, "chat/mock-fast", false, &format!("switch {n}")).await;
        let lookups = one.metric(&reads("miss")).await.unwrap_or(0.0);
        assert_eq!(lookups, kept, "{enabled}");
        counted(&one, KEPT, |count| count == before + kept).await;
    }
}
