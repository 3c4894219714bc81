//! The end of the process: what runs may finish, what comes new is refused, and every line is in the log.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use super::dialect::{ALL, Chat, Turn};
use super::support::{Gateway, Mock, SOON};
use super::wire::{Conn, Head, Reply, request};

/// Begins a stream and reads its first content.
async fn stream(gateway: &Gateway, from: super::dialect::Dialect, model: &str) -> (Head, Conn, Vec<u8>) {
    let mut conn = Conn::open(gateway.address).await;
    conn.send(&request("POST", &from.path(model, true), &[], &from.ask(model, true, Turn::Text, "Hello"))).await;
    let head = conn.head().await;
    let begun = conn.until("You").await;
    (head, conn, begun)
}

async fn refused(gateway: &Gateway) {
    let deadline = Instant::now() + SOON;
    while TcpStream::connect(gateway.address).await.is_ok() {
        assert!(Instant::now() < deadline, "new connections are still taken");
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_running_stream_finishes_while_new_connections_are_refused_and_readyz_says_so() {
    let mock = Mock::start().await;
    let mut gateway = Gateway::start(&mock, "").await;
    let model = "chat/mock-fast:chunks=30,delay=50ms";
    let mut running = Vec::new();
    for from in ALL {
        running.push((from, stream(&gateway, from, model).await));
    }
    // An answer in one piece is under way as well.
    let mut whole = Conn::open(gateway.address).await;
    let body = Chat.ask("chat/mock-fast:head=1s,key=whole", false, Turn::Text, "Hello");
    whole.send(&request("POST", "/v1/chat/completions", &[], &body)).await;
    mock.seen("key=whole", |_| true).await;
    assert_eq!(gateway.admin("GET", "/readyz").await.status(), 200);
    gateway.process.signal("TERM");
    refused(&gateway).await;
    assert_eq!(gateway.admin("GET", "/readyz").await.status(), 503);
    assert_eq!(gateway.admin("GET", "/livez").await.status(), 200);
    let mut ids = Vec::new();
    for (from, (head, mut conn, mut text)) in running {
        let (rest, good) = conn.rest().await;
        text.extend(rest);
        let said = from.read_stream(&String::from_utf8(text).expect("UTF-8"));
        assert!(good && said.done && said.error.is_none(), "{from:?}");
        ids.push(head.id().to_owned());
    }
    let reply = whole.reply().await;
    assert_eq!(reply.status(), 200);
    ids.push(reply.head.id().to_owned());
    assert_eq!(gateway.process.exit(SOON).await.code(), Some(0), "{}", gateway.process.stderr());
    for id in ids {
        assert_eq!(gateway.logged(&id).await["status"], 200);
    }
}

#[tokio::test]
async fn idle_and_silent_connections_do_not_delay_the_end() {
    let mock = Mock::start().await;
    let mut gateway = Gateway::start(&mock, "").await;
    let mut idle = Conn::open(gateway.address).await;
    idle.send(&request("GET", "/livez", &[], b"")).await;
    assert_eq!(idle.reply().await.status(), 200);
    let mut silent = Conn::open(gateway.address).await;
    let io = TokioIo::new(TcpStream::connect(gateway.address).await.expect("connects"));
    let (mut h2, conn) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.expect("HTTP/2");
    tokio::spawn(conn);
    let request = Request::get("http://g/livez").body(Full::<Bytes>::default()).expect("a request");
    assert_eq!(h2.send_request(request).await.expect("an answer").status(), 200);
    gateway.process.signal("TERM");
    let began = Instant::now();
    assert_eq!(gateway.process.exit(SOON).await.code(), Some(0));
    println!("ended after {:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    assert!(idle.closed().await && silent.closed().await);
}

#[tokio::test]
async fn an_http2_stream_finishes_too() {
    let mock = Mock::start().await;
    let mut gateway = Gateway::start(&mock, "").await;
    let io = TokioIo::new(TcpStream::connect(gateway.address).await.expect("connects"));
    let (mut client, conn) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.expect("HTTP/2");
    tokio::spawn(conn);
    let body = Chat.ask("chat/mock-fast:chunks=20,delay=40ms", true, Turn::Text, "Hello");
    let request = Request::post("http://g/v1/chat/completions").body(Full::<Bytes>::from(body)).expect("a request");
    let response = client.send_request(request).await.expect("an answer");
    gateway.process.signal("TERM");
    let bytes = response.into_body().collect().await.expect("a whole body").to_bytes();
    assert!(Chat.read_stream(std::str::from_utf8(&bytes).expect("UTF-8")).done);
    assert_eq!(gateway.process.exit(SOON).await.code(), Some(0));
}

/// What a client of HTTP/2 says first: its preface, and settings that set nothing.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";

#[tokio::test]
async fn clients_that_do_not_read_and_heads_that_are_not_whole_do_not_delay_the_end() {
    let mock = Mock::start().await;
    let mut gateway = Gateway::start(&mock, "").await;
    // Its answers to pings would say that nothing is on its way; it gives none.
    let mut mute = Conn::open(gateway.address).await;
    mute.send(PREFACE).await;
    let mut half = Conn::open(gateway.address).await;
    half.send(b"POST /v1/chat/completions HT").await;
    // Both have come when a third was answered.
    assert_eq!(gateway.get("/livez").await.status(), 200);
    gateway.process.signal("TERM");
    let began = Instant::now();
    assert_eq!(gateway.process.exit(SOON).await.code(), Some(0), "{}", gateway.process.stderr());
    println!("ended after {:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    assert!(!gateway.process.stderr().contains("is cut"), "{}", gateway.process.stderr());
}

#[tokio::test]
async fn streams_that_the_end_cuts_are_told_so_in_their_dialect() {
    let mock = Mock::start().await;
    let config = "drain: { timeout: 500ms }\nstream: { keep_alive: 100ms }\n";
    let mut gateway = Gateway::start(&mock, config).await;
    let model = "chat/mock-fast:chunks=400,delay=50ms,length=8000";
    let mut running = Vec::new();
    for from in ALL {
        running.push((from, stream(&gateway, from, model).await));
    }
    // Its head went out before there was anything to say.
    let mut waiting = Conn::open(gateway.address).await;
    let body = Chat.ask("chat/mock-fast:head=30s,key=waiting", true, Turn::Text, "Hello");
    waiting.send(&request("POST", "/v1/chat/completions", &[], &body)).await;
    let head = waiting.head().await;
    running.push((Chat, (head, waiting, Vec::new())));
    let io = TokioIo::new(TcpStream::connect(gateway.address).await.expect("connects"));
    let (mut client, conn) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.expect("HTTP/2");
    tokio::spawn(conn);
    let body = Chat.ask("chat/mock-fast:chunks=3,delay=20s", true, Turn::Text, "Hello");
    let ask = Request::post("http://g/v1/chat/completions").body(Full::<Bytes>::from(body)).expect("a request");
    let silent = client.send_request(ask).await.expect("an answer");
    gateway.process.signal("TERM");
    for (from, (head, mut conn, mut text)) in running {
        let (rest, good) = conn.rest().await;
        text.extend(rest);
        let text = String::from_utf8(text).expect("UTF-8");
        let said = from.read_stream(&text);
        assert!(good && said.error.is_some(), "{from:?}: {text}");
        let told = said.error.expect("an error").to_string();
        assert!(told.contains("shutting down"), "{from:?}: {told}");
        let line = gateway.logged(head.id()).await;
        assert_eq!((&line["error"]["code"], &line["status"]), (&json!("draining"), &json!(503)), "{line}");
    }
    let bytes = silent.into_body().collect().await.expect("a whole body").to_bytes();
    let text = String::from_utf8(bytes.to_vec()).expect("UTF-8");
    assert!(Chat.read_stream(&text).error.is_some(), "{text}");
    assert_eq!(gateway.process.exit(SOON).await.code(), Some(0));
}

#[tokio::test]
async fn who_has_no_answer_when_the_drain_ends_is_told_to_try_again_and_charged_what_was_sent() {
    let mock = Mock::start().await;
    for (number, cached) in ["", "cache: { exact: { ttl: 1m } }\n"].into_iter().enumerate() {
        let limits = "limits: [{ name: q, match: { model: \"chat/q*\" }, concurrency: 1, on_exhausted: { queue: { wait: 1m } } }]\n";
        let config = format!("drain: {{ timeout: 500ms }}\n{limits}{cached}");
        let mut gateway = Gateway::start(&mock, &config).await;
        let key = format!("drained{number}");
        let mut waiting = Vec::new();
        for (from, model) in ALL.into_iter().map(|from| (from, "x")).chain([(Chat, "q"), (Chat, "q")]) {
            let model = format!("chat/{model}:head=30s,key={key}{}", waiting.len());
            let mut conn = Conn::open(gateway.address).await;
            conn.send(&request("POST", &from.path(&model, false), &[], &from.ask(&model, false, Turn::Text, "Hello")))
                .await;
            // The last one waits for room.
            if waiting.len() < 5 {
                mock.seen(&format!("{key}{}", waiting.len()), |_| true).await;
            }
            waiting.push((from, conn));
        }
        let io = TokioIo::new(TcpStream::connect(gateway.address).await.expect("connects"));
        let (mut client, conn) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.expect("HTTP/2");
        tokio::spawn(conn);
        let body = Chat.ask(&format!("chat/x:head=30s,key={key}h2"), false, Turn::Text, "Hello");
        let ask = Request::post("http://g/v1/chat/completions").body(Full::<Bytes>::from(body)).expect("a request");
        let over_h2 = tokio::spawn(client.send_request(ask));
        mock.seen(&format!("{key}h2"), |_| true).await;
        gateway.process.signal("TERM");
        for (at, (from, mut conn)) in waiting.into_iter().enumerate() {
            let head = conn.try_head().await.unwrap_or_else(|| panic!("{at} {from:?} was cut"));
            let (body, whole) = conn.rest().await;
            let reply = Reply { head, body, whole };
            assert_eq!((reply.status(), reply.head.header("x-should-retry")), (503, Some("true")), "{at} {from:?}");
            assert!(reply.text().contains("try again"), "{at} {from:?}: {}", reply.text());
            let line = gateway.logged(reply.head.id()).await;
            assert_eq!((&line["error"]["code"], &line["status"]), (&json!("draining"), &json!(503)), "{line}");
            let sent = line["usage"]["input"].as_u64() > Some(0);
            assert_eq!(sent, at < 5, "{at} {from:?}: {line}");
        }
        let response = over_h2.await.expect("no panic").expect("an answer");
        assert_eq!(response.status(), 503);
        assert_eq!(gateway.process.exit(SOON).await.code(), Some(0));
    }
}

#[tokio::test]
async fn what_outlasts_the_drain_is_cut_and_logged_as_such() {
    let mock = Mock::start().await;
    let mut gateway = Gateway::start(&mock, "drain: { timeout: 500ms }\n").await;
    let (head, mut conn, mut text) = stream(&gateway, Chat, "chat/mock-fast:chunks=400,delay=50ms,length=8000").await;
    let (waiting, mut late, _) = {
        let mut conn = Conn::open(gateway.address).await;
        let body = Chat.ask("chat/mock-fast:head=30s,key=late", false, Turn::Text, "Hello");
        conn.send(&request("POST", "/v1/chat/completions", &[("x-request-id", "late")], &body)).await;
        mock.seen("key=late", |_| true).await;
        ("late", conn, ())
    };
    gateway.process.signal("TERM");
    let began = Instant::now();
    let status = gateway.process.exit(SOON).await;
    assert!(began.elapsed() >= Duration::from_millis(450) && began.elapsed() < Duration::from_secs(3));
    assert_eq!(status.code(), Some(0));
    text.extend(conn.rest().await.0);
    let said = Chat.read_stream(&String::from_utf8(text).expect("UTF-8"));
    assert!(said.error.is_some() && !said.done, "the stream ended as if it were whole");
    assert_eq!(late.try_head().await.map(|head| head.status), Some(503));
    let line = gateway.logged(head.id()).await;
    assert_eq!((&line["error"]["code"], &line["status"]), (&json!("draining"), &json!(503)), "{line}");
    assert!(line["usage"]["output"].as_u64() > Some(0), "{line}");
    let line = gateway.logged_where(waiting, |line| line["request_id"] == waiting).await;
    assert_eq!(line["error"]["code"], "draining", "{line}");
}

#[tokio::test]
async fn a_second_signal_ends_at_once_and_not_in_success() {
    let mock = Mock::start().await;
    for (first, second) in [("TERM", "TERM"), ("INT", "TERM"), ("TERM", "INT")] {
        let mut gateway = Gateway::start(&mock, "").await;
        let (head, _conn, _) = stream(&gateway, Chat, "chat/mock-fast:chunks=400,delay=50ms,length=8000").await;
        gateway.process.signal(first);
        refused(&gateway).await;
        gateway.process.signal(second);
        let began = Instant::now();
        let status = gateway.process.exit(SOON).await;
        assert!(status.code().is_some_and(|code| code != 0), "{first} {second}: {status}");
        assert!(began.elapsed() < Duration::from_secs(2), "{first} {second}: {:?}", began.elapsed());
        assert_eq!(gateway.logged(head.id()).await["error"]["code"], "draining");
    }
}

#[tokio::test]
async fn every_line_is_in_the_log_when_the_process_has_ended() {
    let mock = Mock::start().await;
    let mut gateway = Gateway::start(&mock, "").await;
    let mut ids = Vec::new();
    let mut conn = Conn::open(gateway.address).await;
    for number in 0..300 {
        let body = Chat.ask("chat/mock-fast", number % 2 == 0, Turn::Text, "Hello");
        conn.send(&request("POST", "/v1/chat/completions", &[], &body)).await;
        ids.push(conn.reply().await.head.id().to_owned());
    }
    gateway.process.signal("TERM");
    assert_eq!(gateway.process.exit(SOON).await.code(), Some(0));
    let lines = gateway.log();
    assert_eq!(lines.len(), ids.len());
    assert!(ids.iter().all(|id| lines.iter().any(|line| line["id"] == *id)));
}
