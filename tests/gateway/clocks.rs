//! How long things may take: connecting, an attempt, the whole exchange.

use std::time::Duration;

use serde_json::json;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, timeout};

use super::dialect::{ALL, Chat, Turn};
use super::support::{Gateway, Mock, together};

#[tokio::test]
async fn the_whole_exchange_has_a_limit_over_all_its_attempts() {
    let mock = Mock::start().await;
    let yaml = "
timeouts: { total: 900ms }
stream: { keep_alive: off }
models:
  slow: { fallback: [\"chat/x:head=600ms,fault=500\", \"chat/mock-fast:head=600ms\"] }
";
    let gateway = &Gateway::start(&mock, yaml).await;
    together(ALL.map(|from| async move {
        for stream in [false, true] {
            let began = Instant::now();
            let reply = gateway.post(&from.path("slow", stream), from.ask("slow", stream, Turn::Text, "Hi")).await;
            assert_eq!(reply.status(), 504, "{from:?}: {}", reply.text());
            assert!(reply.head.attempts() >= 2, "{from:?}");
            assert_eq!(reply.head.header("x-portcullis-error"), Some("total_timeout"), "{from:?}");
            assert!(began.elapsed() < Duration::from_millis(2500), "{from:?}: {:?}", began.elapsed());
        }
        let model = "anthropic/mock-fast:chunks=100,delay=50ms";
        let reply = gateway.post(&from.path(model, true), from.ask(model, true, Turn::Text, "Hi")).await;
        let said = from.read_stream(&reply.text());
        assert!(said.error.is_some() && !said.text.is_empty() && !said.done, "{from:?}: {}", reply.text());
        assert_eq!(gateway.logged(reply.head.id()).await["error"]["code"], "total_timeout", "{from:?}");
    }))
    .await;
}

#[tokio::test]
async fn a_targets_own_limit_ends_its_attempt_and_the_next_target_answers() {
    let mock = Mock::start().await;
    let yaml = "
stream: { keep_alive: off }
providers:
  chat: { dialect: openai_chat, base_url: http://MOCK/v1, auth: none }
  hasty: { dialect: openai_chat, base_url: http://MOCK/v1, auth: none, timeouts: { total: 500ms } }
models:
  of-target: { fallback: [{ target: \"chat/x:ttft=30s\", timeouts: { total: 500ms } }, chat/mock-fast] }
  of-provider: { fallback: [\"hasty/x:head=30s\", chat/mock-fast] }
";
    let gateway = &Gateway::start(&mock, yaml).await;
    together(ALL.map(|from| async move {
        for model in ["of-target", "of-provider"] {
            for stream in [false, true] {
                let reply = gateway.post(&from.path(model, stream), from.ask(model, stream, Turn::Text, "Hi")).await;
                assert_eq!((reply.status(), reply.head.attempts()), (200, 2), "{from:?} {model}: {}", reply.text());
                let line = gateway.logged(reply.head.id()).await;
                assert_eq!(line["attempts"][0]["error"], "attempt_timeout", "{from:?} {model}: {line}");
            }
        }
        // After the commit it ends the stream.
        let model = "hasty/mock-fast:chunks=100,delay=50ms";
        let reply = gateway.post(&from.path(model, true), from.ask(model, true, Turn::Text, "Hi")).await;
        assert!(from.read_stream(&reply.text()).error.is_some(), "{from:?}: {}", reply.text());
        assert_eq!(gateway.logged(reply.head.id()).await["error"]["code"], "attempt_timeout", "{from:?}");
    }))
    .await;
}

#[tokio::test]
async fn every_limit_but_that_of_connecting_can_be_off() {
    let mock = Mock::start().await;
    let yaml = "timeouts: { head: off, first_token: off, idle: off, total: off }\nstream: { keep_alive: off }\n";
    let gateway = Gateway::start(&mock, yaml).await;
    for stream in [false, true] {
        let model = "chat/mock-fast:head=200ms,ttft=200ms,chunks=3,delay=200ms";
        let reply = gateway.post("/v1/chat/completions", Chat.ask(model, stream, Turn::Text, "Hi")).await;
        assert!(Chat.read(&reply).done, "{}", reply.text());
    }
}

/// A listener whose queue is full takes no more connections: the kernel drops what asks for one.
#[tokio::test]
async fn a_connection_that_is_never_made_is_given_up() {
    let mock = Mock::start().await;
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(([127, 0, 0, 1], 0).into()).expect("a port");
    let listener = socket.listen(1).expect("listens");
    let address = listener.local_addr().expect("an address");
    let mut queued = Vec::new();
    while let Ok(connected) = timeout(Duration::from_millis(300), TcpStream::connect(address)).await {
        queued.push(connected.expect("queued"));
        assert!(queued.len() < 100, "the queue has no end");
    }
    let yaml = format!(
        "
providers:
  chat: {{ dialect: openai_chat, base_url: http://MOCK/v1, auth: none }}
  deaf: {{ dialect: openai_chat, base_url: http://{address}/v1, auth: none, timeouts: {{ connect: 400ms }} }}
models:
  any: {{ fallback: [deaf/x, chat/mock-fast] }}
"
    );
    let gateway = Gateway::start(&mock, &yaml).await;
    let began = Instant::now();
    let reply = gateway.post("/v1/chat/completions", Chat.ask("deaf/x", true, Turn::Text, "Hi")).await;
    assert_eq!((reply.status(), reply.head.header("x-portcullis-error")), (504, Some("connect_timeout")));
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    assert!(!reply.text().contains(&address.to_string()), "an upstream's address is told: {}", reply.text());
    // Who does not wait for it has used nothing: the upstream never had the ask.
    let headers = [("content-type", "application/json"), ("x-portcullis-timeout-ms", "200")];
    let ask = Chat.ask("deaf/x", false, Turn::Text, "Hi");
    let reply = gateway.call("POST", "/v1/chat/completions", &headers, ask).await;
    assert_eq!((reply.status(), reply.head.header("x-portcullis-error")), (504, Some("total_timeout")));
    assert!(gateway.logged(reply.head.id()).await["usage"].is_null());
    let reply = gateway.post("/v1/chat/completions", Chat.ask("any", true, Turn::Text, "Hi")).await;
    assert_eq!((reply.status(), reply.head.attempts()), (200, 2));
    let line = gateway.logged(reply.head.id()).await;
    assert_eq!(line["attempts"][0]["error"], json!("connect_timeout"));
}
