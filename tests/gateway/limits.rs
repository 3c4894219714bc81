//! What a connection and a request may cost, and requests that are none.

use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep, timeout};

use super::dialect::{ALL, Chat, Turn};
use super::support::{Gateway, Mock};
use super::wire::{Conn, request};

/// Small bounds, so that they are soon reached.
const CONFIG: &str = "
listen:
  address: LISTEN
  limits:
    max_head_bytes: 8KiB
    max_headers: 20
    max_body_bytes: 10KiB
    head_timeout: 400ms
    body_timeout: 400ms
    keep_alive_timeout: 700ms
";

fn ask(say: &str) -> Vec<u8> {
    Chat.ask("chat/mock-fast", false, Turn::Text, say)
}

/// A chunked request with this body.
fn chunked(path: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes = format!("POST {path} HTTP/1.1\r\nhost: gateway\r\ntransfer-encoding: chunked\r\n\r\n").into_bytes();
    for piece in body.chunks(1000) {
        bytes.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
        bytes.extend_from_slice(piece);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"0\r\n\r\n");
    bytes
}

#[tokio::test]
async fn a_head_that_is_too_large_or_has_too_many_lines_gets_431() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, CONFIG).await;
    let long = "x".repeat(9000);
    let reply = gateway.call("POST", "/v1/chat/completions", &[("x-long", &long)], ask("Hi")).await;
    assert_eq!(reply.status(), 431);
    let names: Vec<String> = (0..30).map(|number| format!("x-{number}")).collect();
    let many: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "1")).collect();
    let reply = gateway.call("POST", "/v1/chat/completions", &many, ask("Hi")).await;
    assert_eq!(reply.status(), 431);
    assert!(mock.journal().await.is_empty());
    // What is within the bounds passes.
    let reply = gateway.call("POST", "/v1/chat/completions", &many[..15], ask("Hi")).await;
    assert_eq!(reply.status(), 200);
}

#[tokio::test]
async fn a_body_whose_chunks_are_none_is_the_clients_mistake() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, "").await;
    for from in ALL {
        let mut conn = Conn::open(gateway.address).await;
        let path = from.path("chat/mock-fast", false);
        let head = format!("POST {path} HTTP/1.1\r\nhost: g\r\ntransfer-encoding: chunked\r\n\r\n");
        conn.send(format!("{head}2\r\n{{}}\r\nzz\r\n").as_bytes()).await;
        let reply = conn.reply().await;
        assert_eq!(reply.status(), 400, "{from:?}: {}", reply.text());
        assert!(from.error(&reply.json()).contains("chunks"), "{}", reply.text());
        assert_eq!(gateway.logged(reply.head.id()).await["error"]["code"], "invalid_request", "{from:?}");
        assert!(conn.closed().await, "{from:?}");
    }
}

#[tokio::test]
async fn a_body_that_is_too_large_gets_413_in_the_callers_dialect_stated_or_chunked() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, CONFIG).await;
    let long = "x".repeat(11_000);
    for from in ALL {
        let model = "chat/mock-fast";
        let (path, body) = (from.path(model, false), from.ask(model, false, Turn::Text, &long));
        let stated = gateway.post(&path, &body).await;
        let mut conn = Conn::open(gateway.address).await;
        conn.send(&chunked(&path, &body)).await;
        let in_chunks = conn.reply().await;
        for reply in [stated, in_chunks] {
            assert_eq!(reply.status(), 413, "{from:?}: {}", reply.text());
            assert!(from.error(&reply.json()).contains("max_body_bytes"), "{from:?}: {}", reply.text());
            assert_eq!(gateway.logged(reply.head.id()).await["error"]["code"], "body_too_large", "{from:?}");
        }
        // A stated length is refused at once, not after so many bytes.
        let mut conn = Conn::open(gateway.address).await;
        conn.send(format!("POST {path} HTTP/1.1\r\nhost: g\r\ncontent-length: 99999999999\r\n\r\n").as_bytes()).await;
        assert_eq!(conn.head().await.status, 413, "{from:?}");
    }
    assert!(mock.journal().await.is_empty());
}

#[tokio::test]
async fn a_chunked_body_within_its_bound_is_served() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, CONFIG).await;
    let mut conn = Conn::open(gateway.address).await;
    for _ in 0..2 {
        conn.send(&chunked("/v1/chat/completions", &ask("in chunks, twice on one connection"))).await;
        let reply = conn.reply().await;
        assert_eq!(reply.status(), 200, "{}", reply.text());
        assert!(Chat.read(&reply).text.contains("in chunks"));
    }
}

#[tokio::test]
async fn a_slow_head_and_a_slow_body_get_408() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, CONFIG).await;
    let mut conn = Conn::open(gateway.address).await;
    let began = Instant::now();
    for byte in "POST /v1/chat/completions HTTP/1.1\r\nhost: gat".bytes() {
        if conn.try_send(&[byte]).await.is_err() {
            break;
        }
        sleep(Duration::from_millis(20)).await;
    }
    let reply = conn.reply().await;
    assert_eq!(reply.status(), 408);
    assert_eq!(reply.json()["error"]["code"], "head_timeout");
    assert!(began.elapsed() < Duration::from_millis(1500), "{:?}", began.elapsed());

    for from in ALL {
        let mut conn = Conn::open(gateway.address).await;
        let path = from.path("chat/mock-fast", false);
        let head = format!("POST {path} HTTP/1.1\r\nhost: g\r\ncontent-length: 500\r\n\r\n{{\"model\":");
        conn.send(head.as_bytes()).await;
        let began = Instant::now();
        let reply = conn.reply().await;
        assert_eq!(reply.status(), 408, "{from:?}");
        assert!(from.error(&reply.json()).contains("body_timeout"), "{from:?}: {}", reply.text());
        assert!(began.elapsed() < Duration::from_millis(1500), "{:?}", began.elapsed());
        assert_eq!(gateway.logged(reply.head.id()).await["error"]["code"], "body_timeout", "{from:?}");
    }
    assert!(mock.journal().await.is_empty());
}

#[tokio::test]
async fn idle_and_silent_connections_are_closed_and_a_busy_one_is_not() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, CONFIG).await;
    let mut silent = Conn::open(gateway.address).await;
    let mut kept = Conn::open(gateway.address).await;
    for _ in 0..3 {
        kept.send(&request("POST", "/v1/chat/completions", &[], &ask("Hi"))).await;
        assert_eq!(kept.reply().await.status(), 200);
        sleep(Duration::from_millis(400)).await;
    }
    // An answer that takes longer than idle connections are kept is no idleness.
    let body = Chat.ask("chat/mock-fast:head=1500ms", false, Turn::Text, "Hi");
    kept.send(&request("POST", "/v1/chat/completions", &[], &body)).await;
    assert_eq!(kept.reply().await.status(), 200);
    let began = Instant::now();
    assert!(kept.closed().await && silent.closed().await);
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
}

#[tokio::test]
async fn connections_beyond_the_bound_wait_until_one_is_closed() {
    let mock = Mock::start().await;
    let yaml = "listen: { address: LISTEN, workers: 1, limits: { max_connections: 3 } }\n";
    let gateway = Gateway::start(&mock, yaml).await;
    let mut open = Vec::new();
    for _ in 0..3 {
        let mut conn = Conn::open(gateway.address).await;
        conn.send(&request("GET", "/livez", &[], b"")).await;
        assert_eq!(conn.reply().await.status(), 200);
        open.push(conn);
    }
    let mut waiting = Conn::open(gateway.address).await;
    waiting.send(&request("GET", "/livez", &[], b"")).await;
    assert!(timeout(Duration::from_millis(300), waiting.head()).await.is_err(), "the fourth was served");
    open.pop();
    assert_eq!(waiting.reply().await.status(), 200);
}

#[tokio::test]
async fn what_is_no_request_is_refused_and_the_connection_closed() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, CONFIG).await;
    for wrong in [
        "NONSENSE\r\n\r\n",
        "GET /livez HTTP/9.9\r\nhost: g\r\n\r\n",
        "GET  /livez HTTP/1.1\r\nhost: g\r\n\r\n",
        "GET /li vez HTTP/1.1\r\nhost: g\r\n\r\n",
        "POST /v1/chat/completions HTTP/1.1\r\nhost: g\r\nbad header\r\n\r\n",
        "POST /v1/chat/completions HTTP/1.1\r\nhost: g\r\nna me: x\r\n\r\n",
        "POST /v1/chat/completions HTTP/1.1\r\nhost: g\r\ncontent-length : 4\r\n\r\nabcd",
        "POST /v1/chat/completions HTTP/1.1\r\nhost: g\r\nx: a\0b\r\n\r\n",
        "POST /v1/chat/completions HTTP/1.1\r\nhost: g\r\ncontent-length: 4x\r\n\r\nabcd",
        "POST /v1/chat/completions HTTP/1.1\r\nhost: g\r\ncontent-length: -4\r\n\r\nabcd",
        "POST /v1/chat/completions HTTP/1.1\r\nhost: g\r\ncontent-length: +4\r\n\r\nabcd",
        "\x16\x03\x01\x02\x00\x01\x00\x01\u{fc}\r\n\r\n",
    ] {
        let mut conn = Conn::open(gateway.address).await;
        conn.send(wrong.as_bytes()).await;
        if let Some(head) = conn.try_head().await {
            assert_eq!(head.status, 400, "{wrong:?}");
            conn.rest().await;
        }
        assert!(conn.closed().await, "{wrong:?} left the connection open");
    }
    assert!(mock.journal().await.is_empty());
    assert_eq!(gateway.get("/livez").await.status(), 200);
}

#[tokio::test]
async fn smuggled_requests_never_reach_an_upstream() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, CONFIG).await;
    let smuggled = "POST /v1/chat/completions HTTP/1.1\r\nhost: g\r\ncontent-length: 80\r\n\r\n{\"model\":\"chat/smuggled\",\"messages\":[{\"role\":\"user\",\"content\":\"I am smuggled in\"}]}";
    let lead = "POST /v1/chat/completions HTTP/1.1\r\nhost: g\r\n";
    for (what, head, body) in [
        (
            "a length and chunks",
            format!("content-length: {}\r\ntransfer-encoding: chunked\r\n", 5 + smuggled.len()),
            "0\r\n\r\n",
        ),
        (
            "chunks and a length",
            format!("transfer-encoding: chunked\r\ncontent-length: {}\r\n", 5 + smuggled.len()),
            "0\r\n\r\n",
        ),
        ("two lengths", format!("content-length: 2\r\ncontent-length: {}\r\n", 2 + smuggled.len()), "{}"),
        ("two lengths in one", format!("content-length: 2, {}\r\n", 2 + smuggled.len()), "{}"),
        ("a foreign coding", "transfer-encoding: xchunked\r\ncontent-length: 2\r\n".to_owned(), "{}"),
        ("a coding after chunks", "transfer-encoding: chunked, identity\r\n".to_owned(), "0\r\n\r\n"),
        ("a wrong chunk size", "transfer-encoding: chunked\r\n".to_owned(), "xyz\r\n{}\r\n0\r\n\r\n"),
        ("a negative chunk size", "transfer-encoding: chunked\r\n".to_owned(), "-2\r\n{}\r\n0\r\n\r\n"),
        ("a giant chunk size", "transfer-encoding: chunked\r\n".to_owned(), "fffffffffffffffff\r\n{}\r\n0\r\n\r\n"),
        ("a chunk that is longer than it says", "transfer-encoding: chunked\r\n".to_owned(), "1\r\n{}\r\n0\r\n\r\n"),
    ] {
        let mut conn = Conn::open(gateway.address).await;
        conn.send(format!("{lead}{head}\r\n{body}{smuggled}").as_bytes()).await;
        let mut answers = 0;
        while let Some(head) = conn.try_head().await {
            assert!((400..500).contains(&head.status), "{what}: {}", head.status);
            conn.rest().await;
            answers += 1;
        }
        assert!(answers <= 1, "{what}: {answers} requests were made of one");
    }
    assert!(mock.journal().await.is_empty(), "{:?}", mock.journal().await);
}

#[tokio::test]
async fn a_client_that_asks_before_it_sends_is_told_to_go_on() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, &format!("{CONFIG}keys: [{{ name: k, key: sk-good }}]\n")).await;
    let body = ask("Hi");
    let head = |key: &str| {
        format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: g\r\nauthorization: Bearer {key}\r\nexpect: 100-continue\r\ncontent-length: {}\r\n\r\n",
            body.len()
        )
    };
    let mut conn = Conn::open(gateway.address).await;
    conn.send(head("sk-good").as_bytes()).await;
    assert_eq!(conn.head().await.status, 100);
    conn.send(&body).await;
    assert_eq!(conn.reply().await.status(), 200);
    // A stranger is not told to go on.
    let mut conn = Conn::open(gateway.address).await;
    conn.send(head("sk-wrong").as_bytes()).await;
    assert_eq!(conn.head().await.status, 401);
}

#[tokio::test]
async fn older_and_hastier_clients_are_served_too() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, CONFIG).await;
    // Two requests in one write: two answers in order.
    let mut conn = Conn::open(gateway.address).await;
    let both = [
        request("POST", "/v1/chat/completions", &[], &ask("one")),
        request("POST", "/v1/chat/completions", &[], &ask("two")),
    ];
    conn.send(&both.concat()).await;
    for word in ["one", "two"] {
        assert!(Chat.read(&conn.reply().await).text.contains(word));
    }
    // HTTP/1.0 knows no chunks: its stream ends with the connection.
    let body = Chat.ask("chat/mock-fast", true, Turn::Text, "Hi");
    let mut conn = Conn::open(gateway.address).await;
    let head = format!("POST /v1/chat/completions HTTP/1.0\r\ncontent-length: {}\r\n\r\n", body.len());
    conn.send(&[head.as_bytes(), &body].concat()).await;
    let reply = conn.reply().await;
    assert_eq!((reply.status(), reply.head.header("transfer-encoding")), (200, None));
    assert!(Chat.read(&reply).done);
    assert_eq!(json!(reply.whole), true);
}

#[tokio::test]
async fn a_compressed_body_gets_415_and_a_probe_by_head_no_body() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, CONFIG).await;
    for from in ALL {
        let path = from.path("chat/mock-fast", false);
        let reply = gateway.call("POST", &path, &[("content-encoding", "gzip")], b"\x1f\x8b\x08").await;
        assert_eq!(reply.status(), 415, "{from:?}");
        assert!(from.error(&reply.json()).contains("content-encoding"), "{from:?}: {}", reply.text());
        let plain = [("content-encoding", "identity")];
        let asked = from.ask("chat/mock-fast", false, Turn::Text, "Hi");
        assert_eq!(gateway.call("POST", &path, &plain, asked).await.status(), 200, "{from:?}");
    }
    let mut conn = Conn::open(gateway.address).await;
    conn.send(b"HEAD /readyz HTTP/1.1\r\nhost: gateway\r\n\r\nGET /livez HTTP/1.1\r\nhost: gateway\r\n\r\n").await;
    assert_eq!(conn.head().await.status, 200);
    assert_eq!(conn.reply().await.json(), json!({"status": "ok"}), "the next answer follows at once");
    // Nothing of it is missing, so that it is no failure.
    conn.send(b"HEAD /v1/models HTTP/1.1\r\nhost: gateway\r\nx-request-id: probe\r\n\r\n").await;
    let head = conn.head().await;
    assert!(head.header("content-length").and_then(|length| length.parse().ok()) > Some(100), "{head:?}");
    let line = gateway.logged_where("the probe", |line| line["request_id"] == "probe").await;
    assert_eq!(line["status"], 200, "{line}");
}
