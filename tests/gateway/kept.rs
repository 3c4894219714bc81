//! What policies keep on a real Redis: several processes count together, and what they do when it is away.

use std::time::Duration;

use super::dialect::{Chat, Turn};
use super::redis::{Redis, counted};
use super::support::{Folder, Gateway, Mock, together};
use super::wire::Reply;

/// Does what the header `x-do` says, and answers with what came of it.
const POLICY: &str = r#"
local done = {
  incr = function(k, v) return gw.kv.incr(k, tonumber(v), 60) end,
  set = function(k, v) return gw.kv.set(k, v) end,
  brief = function(k, v) return gw.kv.set(k, v, 0.2) end,
  add = function(k, v) return gw.kv.add(k, v, 60) end,
  get = function(k) return gw.kv.get(k) end,
  delete = function(k) return gw.kv.delete(k) end,
  swap = function(k, v) return gw.kv.swap(k, gw.kv.get(k), v) end,
  fill = function(k, v) return gw.kv.set(k, string.rep('x', tonumber(v))) end,
  other = function(k, v) return gw.kv.incr(k, tonumber(v), nil, 'together') end,
  cached = function(k) return gw.cache.incr(k) end,
}
function on_request(req)
  local what, key, value = string.match(req:header('x-do') or '', '^(%w+) (%S+) ?(.*)$')
  if not what then return end
  local ok, came = pcall(done[what], key, value)
  return gw.respond(200, (ok and 'did ' or 'not ') .. tostring(came))
end
function on_attempt()
  local ok, why = pcall(gw.kv.get, 'x')
  return { headers = { ['x-why'] = tostring(why) } }
end
"#;

async fn start(mock: &Mock, redis: &Redis, more: &str) -> Gateway {
    let folder = Folder::new();
    std::fs::create_dir_all(folder.path("scripts")).expect("a folder");
    folder.write("scripts/keeper.luau", POLICY);
    let hook = "{ lua: keeper, grants: { kv: [together] }, budget: { cpu: 1s, total: 5s } }";
    let yaml = format!("redis: {{ url: '{}', kv: true, {more} }}\nhooks: [{hook}]\n", redis.url());
    Gateway::prepared(folder, mock, &yaml).await
}

async fn ask(gateway: &Gateway, what: &str) -> Reply {
    let headers = [("content-type", "application/json"), ("x-do", what)];
    gateway.call("POST", "/v1/chat/completions", &headers, Chat.ask("chat/mock", false, Turn::Text, "Hi")).await
}

async fn said(gateway: &Gateway, what: &str) -> String {
    ask(gateway, what).await.text()
}

const ANSWERED: &str = "portcullis_kv_shared_calls_total{outcome=\"answered\"}";

#[tokio::test]
async fn two_processes_count_together_and_one_of_all_wins() {
    let (mock, redis) = (Mock::start().await, Redis::start().await);
    let (one, two) = (start(&mock, &redis, "timeout: 2s").await, start(&mock, &redis, "timeout: 2s").await);
    redis.linked(2, 2).await;
    let both = |n: usize| if n.is_multiple_of(2) { &one } else { &two };
    let sums = together((0..60).map(|n| said(both(n), "incr n 3"))).await;
    let mut sums: Vec<u64> =
        sums.iter().map(|sum| sum.trim_start_matches("did ").parse().unwrap_or_else(|_| panic!("{sum}"))).collect();
    sums.sort_unstable();
    assert_eq!(sums, (1..=60).map(|n| n * 3).collect::<Vec<_>>());
    let tries: Vec<String> = (0..20).map(|n| format!("add lock {n}")).collect();
    let won = together(tries.iter().enumerate().map(|(n, what)| said(both(n), what))).await;
    assert_eq!(won.iter().filter(|won| *won == "did true").count(), 1, "{won:?}");
    // What one keeps the other finds, changes and takes away.
    assert_eq!(said(&one, "set word one").await, "did nil");
    assert_eq!(said(&two, "get word").await, "did one");
    assert_eq!(said(&two, "swap word two").await, "did true");
    assert_eq!(said(&one, "get word").await, "did two");
    assert_eq!(said(&one, "delete word").await, "did true");
    assert_eq!(said(&two, "delete word").await, "did false");
    assert_eq!(said(&two, "get word").await, "did nil");
    // A namespace that was granted is another one, and what may be forgotten stays each process's own.
    assert_eq!(said(&one, "other n 1").await, "did 1");
    assert_eq!(said(&two, "other n 1").await, "did 2");
    assert_eq!([said(&one, "cached n").await, said(&two, "cached n").await], ["did 1", "did 1"]);
    assert!(one.metric(ANSWERED).await > Some(30.0));
    // The first attempt cannot wait, and says where one can.
    assert_eq!(ask(&one, "").await.status(), 200);
    let why = mock.last().await["headers"].to_string();
    assert!(why.contains("on_attempt cannot") && why.contains("on_request"), "{why}");
}

#[tokio::test]
async fn values_end_numbers_are_whole_and_a_namespace_is_bounded_as_in_memory() {
    let (mock, redis) = (Mock::start().await, Redis::start().await);
    let gateway = start(&mock, &redis, "timeout: 5s").await;
    redis.linked(1, 2).await;
    assert_eq!(said(&gateway, "brief soon x").await, "did nil");
    assert_eq!(said(&gateway, "get soon").await, "did x");
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(said(&gateway, "get soon").await, "did nil");
    assert_eq!(said(&gateway, "set text seven").await, "did nil");
    assert!(said(&gateway, "incr text 1").await.contains("not a whole number"));
    assert_eq!(said(&gateway, &format!("set most {}", i64::MAX)).await, "did nil");
    assert!(said(&gateway, "incr most 1").await.contains("64 bits"));
    assert_eq!(said(&gateway, "get most").await, format!("did {}", i64::MAX));
    // 64 MiB, in values of the longest kind.
    let mut kept = 0;
    let refused = loop {
        let said = said(&gateway, &format!("fill big{kept} 1048576")).await;
        if said != "did nil" {
            break said;
        }
        kept += 1;
        assert!(kept < 70, "no bound");
    };
    assert!(refused.contains("holds its 67108864 bytes already"), "{refused}");
    assert_eq!(kept, 63);
    // What replaces a value needs only the difference, and what goes makes room, whoever took it out.
    assert_eq!(said(&gateway, "fill big0 1048575").await, "did nil");
    assert_eq!(said(&gateway, "delete big1").await, "did true");
    assert_eq!(said(&gateway, "fill more 1048576").await, "did nil");
    let thrown = redis.keys(":v:big2").remove(0);
    redis.cli(&["DEL", &thrown]);
    assert_eq!(said(&gateway, "fill again 1048576").await, "did nil");
    assert!(said(&gateway, "fill toomuch 1048577").await.contains("longer than"));
}

#[tokio::test]
async fn away_every_call_fails_soon_and_says_so_and_back_it_counts_on() {
    let (mock, mut redis) = (Mock::start().await, Redis::start().await);
    let gateway = start(&mock, &redis, "timeout: 100ms").await;
    redis.linked(1, 2).await;
    assert_eq!(said(&gateway, "incr n 1").await, "did 1");
    redis.cli(&["CLIENT", "PAUSE", "2000", "ALL"]);
    let slow = said(&gateway, "incr n 1").await;
    assert!(slow.starts_with("not ") && slow.contains("away (slow)"), "{slow}");
    for _ in 0..4 {
        assert!(said(&gateway, "get n").await.contains("away ("));
    }
    // The breaker is open: nobody waits any more.
    assert!(said(&gateway, "get n").await.contains("away (down)"));
    counted(&gateway, "portcullis_kv_shared_calls_total{outcome=\"down\"}", |down| down >= 1.0).await;
    redis.kill();
    assert!(said(&gateway, "set n 5").await.contains("away ("));
    redis.again().await;
    let deadline = tokio::time::Instant::now() + super::support::SOON;
    loop {
        // It came back empty.
        let sum = said(&gateway, "incr n 1").await;
        if sum == "did 1" {
            break;
        }
        assert!(sum.contains("away (") && tokio::time::Instant::now() < deadline, "{sum}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(said(&gateway, "incr n 1").await, "did 2");
    // Without the policy's calls nothing of it is felt.
    assert_eq!(ask(&gateway, "").await.status(), 200);
}

/// The same functions as a plugin calls them.
#[cfg(feature = "wasm")]
#[tokio::test]
async fn plugins_count_together_with_policies() {
    let (mock, redis) = (Mock::start().await, Redis::start().await);
    let yaml = format!(
        "redis: {{ url: '{}', kv: true, timeout: 2s }}\n\
         plugins: {{ folder: '{}/plugins/prebuilt', compiled: FOLDER/compiled }}\n\
         hooks: [{{ wasm: probe, config: {{ behaviour: count }}, budget: {{ cpu: 1s, total: 5s }} }}]\n",
        redis.url(),
        env!("CARGO_MANIFEST_DIR"),
    );
    let (one, two) = (Gateway::start(&mock, &yaml).await, Gateway::start(&mock, &yaml).await);
    redis.linked(2, 2).await;
    let mut sums = Vec::new();
    for gateway in [&one, &two, &one, &two] {
        sums.push(said(gateway, "").await);
    }
    // What `gw.limit` counts beside it stays each process's own.
    assert_eq!(sums, ["1 true", "2 true", "3 false", "4 false"]);
    assert_eq!(one.metric(ANSWERED).await, Some(2.0));
}
