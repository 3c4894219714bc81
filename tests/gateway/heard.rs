//! One upstream's bytes heard by several clients: each gets what it would have got alone, whatever the others wanted.

use serde_json::{Value, json};
use tokio::time::timeout;

use super::cache::same;
use super::dialect::{ALL, Chat, Gemini};
use super::support::{Gateway, Mock, SOON, together};
use super::wire::{Conn, Reply, request};

const ON: &str = "cache: { exact: { ttl: 10m, max_bytes: 16MiB } }\n";
const PRICES: &str = "prices: { models: { \"chat/*\": { input: 1, output: 1000 } } }\n";

async fn send(gateway: &Gateway, path: &str, body: &[u8]) -> Conn {
    let mut conn = Conn::open(gateway.address).await;
    conn.send(&request("POST", path, &[], body)).await;
    conn
}

async fn end(mut conn: Conn) -> Reply {
    timeout(SOON, conn.reply()).await.expect("somebody hangs")
}

/// Begins one stream, waits for its first content, and has the others join in the middle of it.
async fn hear(gateway: &Gateway, mock: &Mock, asks: &[(String, Vec<u8>)], key: &str) -> Vec<Reply> {
    let (path, body) = &asks[0];
    let mut leader = send(gateway, path, body).await;
    mock.seen(key, |_| true).await;
    assert_eq!(leader.head().await.status, 200, "{key}");
    let first = leader.until("You").await;
    let mut late = Vec::new();
    for (path, body) in &asks[1..] {
        late.push(send(gateway, path, body).await);
    }
    let late: Vec<_> = late.into_iter().map(|mut conn| tokio::spawn(async move { conn.reply().await })).collect();
    // However long the upstream takes over it on a busy machine: who joined ends when who leads does.
    let (rest, whole) = leader.rest().await;
    let late = together(late.into_iter().map(async |reply| {
        let reply = timeout(SOON, reply).await.expect("somebody hangs");
        reply.expect("the reply is read")
    }));
    let late = late.await;
    for reply in &late {
        assert_eq!((reply.status(), reply.head.header("x-portcullis-cache")), (200, Some("coalesced")), "{key}");
    }
    let head = late[0].head.clone();
    let body = [first, rest].concat();
    std::iter::once(Reply { head, body, whole }).chain(late).collect()
}

/// The ask of a chat client with these fields beside.
fn chat(model: &str, fields: Value) -> Vec<u8> {
    let mut body: Value = serde_json::from_slice(&same(Chat, model, true, "Hello")).expect("JSON");
    let given = body.as_object_mut().expect("an object");
    given.remove("stream_options");
    fields.as_object().expect("an object").iter().for_each(|(key, value)| _ = given.insert(key.clone(), value.clone()));
    serde_json::to_vec(&body).expect("JSON")
}

/// The frames of a stream.
fn frames(reply: &Reply) -> Vec<String> {
    reply.text().split_inclusive("\n\n").map(str::to_owned).collect()
}

/// What a stream says, without what only keeps it alive: that depends on when each client came, and on how busy the machine is.
fn events(reply: &Reply) -> Vec<String> {
    let text = reply.text().replace("\r\n", "\n");
    let frames = text.split("\n\n").map(|frame| frame.trim_matches('\n'));
    frames.filter(|frame| !frame.is_empty() && !frame.starts_with(':')).map(str::to_owned).collect()
}

#[tokio::test]
async fn who_joins_in_the_middle_hears_the_same_bytes_in_every_dialect() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, ON).await;
    for dialect in ALL {
        // Whole frames, and frames that come torn to pieces of one byte.
        for pieces in ["chunks=20,delay=30ms", "chunks=2,fault=drip=1ms"] {
            let key = format!("same{dialect:?}{}", pieces.len());
            let model = format!("{}/mock-fast:length=100,{pieces},key={key}", dialect.account());
            let path = dialect.path(&model, true);
            let asks: Vec<_> = (0..5).map(|_| (path.clone(), same(dialect, &model, true, "Hello"))).collect();
            let replies = hear(&gateway, &mock, &asks, &key).await;
            for reply in &replies {
                assert!(reply.whole && dialect.read(reply).done, "{key}: {}", reply.text());
                assert_eq!(events(reply), events(&replies[0]), "{key}");
            }
            assert!(dialect.read(&replies[1]).text.len() >= 100, "{key}");
        }
    }
    assert_eq!(mock.journal().await.len(), 2 * ALL.len(), "one call each");
}

#[tokio::test]
async fn what_one_hides_or_has_written_into_its_usage_reaches_nobody_else() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, &format!("{ON}{PRICES}")).await;
    let usage = json!({"stream_options": {"include_usage": true}});
    let cost = json!({"stream_options": {"include_usage": true}, "usage": {"include": true}});
    let wishes = [usage.clone(), json!({}), cost.clone(), usage.clone(), json!({}), cost.clone()];
    // Whoever leads, whatever it wants.
    for leader in 0..3 {
        let key = format!("wish{leader}");
        let model = format!("chat/mock-fast:chunks=20,delay=30ms,key={key}");
        let mut wishes = wishes.clone();
        wishes.swap(0, leader);
        let asks: Vec<_> = wishes.iter().map(|wish| (Chat.path(&model, true), chat(&model, wish.clone()))).collect();
        let replies = hear(&gateway, &mock, &asks, &key).await;
        let plain = replies.iter().zip(&wishes).position(|(_, wish)| *wish == usage).expect("one");
        let plain = frames(&replies[plain]);
        let is_usage = |frame: &&String| frame.contains("\"usage\":{");
        assert_eq!(plain.iter().filter(is_usage).count(), 1, "{key}: {plain:?}");
        for (number, (reply, wish)) in replies.iter().zip(&wishes).enumerate() {
            let given = frames(reply);
            if *wish == usage {
                assert_eq!(given, plain, "{key} {number}");
            } else if *wish == json!({}) {
                let others: Vec<_> = plain.iter().filter(|frame| !is_usage(frame)).cloned().collect();
                assert_eq!(given, others, "{key} {number}");
            } else {
                assert_eq!(given.len(), plain.len(), "{key} {number}");
                for (given, plain) in given.iter().zip(&plain) {
                    let is_told = is_usage(&plain);
                    assert_eq!(given != plain, is_told, "{key} {number}: {given}");
                    // Who did not ask the upstream pays nothing.
                    let told: Value =
                        serde_json::from_str(given.trim().trim_start_matches("data: ")).unwrap_or_default();
                    let free = told["usage"]["cost"].as_f64().map(|cost| cost == 0.0);
                    assert!(!is_told || free == Some(number > 0), "{key} {number}: {given}");
                }
            }
        }
        let lines = gateway.lines(6 * (leader + 1)).await;
        let counted = |line: &&Value| line["model"] == model.as_str() && !line["usage"].is_null();
        assert_eq!(lines.iter().filter(counted).count(), 1, "{key}");
    }
}

#[tokio::test]
async fn an_error_in_the_middle_is_told_to_all_after_the_same_bytes() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, ON).await;
    for dialect in ALL {
        for fault in ["error-mid", "malformed", "cut-mid", "eof-mid"] {
            let key = format!("{fault}{dialect:?}");
            let model =
                format!("{}/mock-fast:chunks=20,length=400,delay=30ms,fault={fault},key={key}", dialect.account());
            let path = dialect.path(&model, true);
            let asks: Vec<_> = (0..4).map(|_| (path.clone(), same(dialect, &model, true, "Hello"))).collect();
            let replies = hear(&gateway, &mock, &asks, &key).await;
            // Up to the error, which may name the request.
            let said = |reply: &Reply| reply.text().split("error").next().unwrap_or_default().to_owned();
            for reply in &replies {
                assert!(dialect.read(reply).error.is_some(), "{key}: {}", reply.text());
                assert_eq!(said(reply), said(&replies[0]), "{key}");
            }
        }
    }
    gateway.settled().await;
    assert_eq!(gateway.metric("portcullis_cache_answers").await, Some(0.0));
}

#[tokio::test]
async fn a_client_that_closes_at_the_final_marker_leaves_nobody_waiting_for_the_end() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, ON).await;
    let model = "chat/mock-fast:chunks=20,delay=30ms,key=marker";
    let path = Chat.path(model, true);
    let mut leader = send(&gateway, &path, &same(Chat, model, true, "Hello")).await;
    mock.seen("key=marker", |_| true).await;
    leader.head().await;
    leader.until("You").await;
    let body = same(Chat, model, true, "Hello");
    let others = together((0..8).map(|_| send(&gateway, &path, &body))).await;
    leader.until("[DONE]").await;
    drop(leader);
    for reply in together(others.into_iter().map(end)).await {
        assert!(reply.whole && Chat.read(&reply).done, "{}", reply.text());
    }
}

#[tokio::test]
async fn an_array_and_events_are_made_of_one_stream() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, ON).await;
    let model = "gemini/mock-fast:chunks=20,delay=30ms,key=arrayed";
    let body = same(Gemini, model, true, "Hello");
    let events = Gemini.path(model, true);
    let array = events.replace("?alt=sse", "");
    let asks = [events.clone(), array.clone(), events, array].map(|path| (path, body.clone()));
    let replies = hear(&gateway, &mock, &asks, "arrayed").await;
    let list: Vec<Value> = serde_json::from_str(&replies[1].text()).expect("an array");
    let events = replies[2].text();
    let data = |line: &str| serde_json::from_str::<Value>(line.strip_prefix("data: ")?).ok();
    assert_eq!(events.lines().filter_map(data).collect::<Vec<_>>(), list, "{events}");
    assert_eq!((replies[3].text(), replies[2].text()), (replies[1].text(), replies[0].text()));
}
