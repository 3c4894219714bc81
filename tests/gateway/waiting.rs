//! Comments that keep a waiting stream open, and the head that goes out before them.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use super::dialect::{ALL, Dialect, Gemini, Turn};
use super::support::{Gateway, Mock, together};
use super::wire::{Conn, Head, request};

const CONFIG: &str = "
stream: { keep_alive: 100ms }
timeouts: { head: 5s, first_token: 1500ms, idle: 5s }
models:
  second-try: { fallback: [\"chat/x:head=400ms,fault=500\", \"anthropic/x:ttft=300ms\"] }
";

/// Opens a stream: its head, how soon it came, and the connection.
async fn open(gateway: &Gateway, from: Dialect, model: &str) -> (Head, Duration, Conn) {
    let mut conn = Conn::open(gateway.address).await;
    let began = Instant::now();
    conn.send(&request("POST", &from.path(model, true), &[], &from.ask(model, true, Turn::Text, "Hello"))).await;
    let head = conn.head().await;
    (head, began.elapsed(), conn)
}

/// The comments of a stream; Gemini's clients know none and get empty lines.
fn keep_alives(from: Dialect, text: &str) -> usize {
    if from == Gemini {
        assert!(!text.contains(": keep-alive"), "{text}");
        text.split("data: ").next().unwrap_or_default().matches('\n').count()
    } else {
        text.matches(": keep-alive\n\n").count()
    }
}

#[tokio::test]
async fn a_stream_that_waits_for_its_first_token_gets_its_head_and_comments_then_the_answer() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, CONFIG).await;
    let gateway = &gateway;
    together(ALL.into_iter().flat_map(|from| ALL.map(|to| (from, to))).map(|(from, to)| async move {
        let model = format!("{}/mock-fast:ttft=600ms", to.account());
        let (head, after, mut conn) = open(gateway, from, &model).await;
        let pair = format!("{from:?} to {to:?}");
        assert!(after >= Duration::from_millis(100) && after < Duration::from_millis(450), "{pair}: {after:?}");
        assert_eq!(head.status, 200, "{pair}");
        assert_eq!(head.header("content-type"), Some("text/event-stream; charset=utf-8"), "{pair}");
        assert_eq!(head.header("cache-control"), Some("no-cache"), "{pair}");
        assert!(head.header("x-request-id").is_some(), "{pair}");
        assert_eq!(head.header("request-id").is_some(), from == super::dialect::Anthropic, "{pair}");
        let (bytes, whole) = conn.rest().await;
        let text = String::from_utf8(bytes).expect("UTF-8");
        let before = text.find("data: ").map_or("", |at| &text[..at]);
        assert!(keep_alives(from, before) >= 2, "{pair}: {before:?}");
        let said = from.read_stream(&text);
        assert!(whole && said.done && said.error.is_none(), "{pair}: {text}");
        assert!(said.text.starts_with("You said: \"Hello\"."), "{pair}: {text}");
        let line = gateway.logged(head.id()).await;
        assert_eq!((&line["status"], &line["finish"]), (&json!(200), &json!("stop")), "{pair}: {line}");
    }))
    .await;
    gateway.settled().await;
}

#[tokio::test]
async fn silence_inside_a_stream_is_filled_too() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, CONFIG).await;
    for from in ALL {
        let (_, _, mut conn) = open(&gateway, from, "responses/mock-fast:chunks=3,delay=350ms").await;
        let text = String::from_utf8(conn.rest().await.0).expect("UTF-8");
        let inside = text.split_once("data: ").expect("frames").1;
        let comments =
            if from == Gemini { inside.matches("\n\n\n").count() } else { inside.matches(": keep-alive\n\n").count() };
        assert!(comments >= 2, "{from:?}: {text}");
        assert!(from.read_stream(&text).done, "{from:?}: {text}");
    }
}

#[tokio::test]
async fn a_failure_behind_an_early_head_is_an_error_event() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, CONFIG).await;
    let gateway = &gateway;
    let faults = [
        ("head=400ms,fault=500", "upstream_error"),
        ("head=400ms,fault=429=70", "rate_limited"),
        ("head=400ms,fault=400", "upstream_rejected"),
        ("fault=stall-first", "first_token_timeout"),
        ("head=400ms,fault=cut-first", "stream_broken"),
    ];
    together(ALL.into_iter().flat_map(|from| faults.map(|(fault, code)| (from, fault, code))).map(
        |(from, fault, code)| async move {
            let (head, _, mut conn) = open(gateway, from, &format!("chat/x:{fault},key={from:?}")).await;
            assert_eq!(head.status, 200, "{from:?} {fault}");
            let (bytes, whole) = conn.rest().await;
            let text = String::from_utf8(bytes).expect("UTF-8");
            let said = from.read_stream(&text);
            let error = said.error.unwrap_or_else(|| panic!("{from:?} {fault}: {text}"));
            from.error_event(&error);
            assert!(whole && !said.done && said.text.is_empty(), "{from:?} {fault}: {text}");
            let line = gateway.logged(head.id()).await;
            assert_eq!(line["error"]["code"], code, "{from:?} {fault}: {line}");
            assert!(line["status"].as_u64() >= Some(400), "{from:?} {fault}: {line}");
        },
    ))
    .await;
    gateway.settled().await;
}

#[tokio::test]
async fn trying_goes_on_behind_an_early_head() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, CONFIG).await;
    for from in ALL {
        let (head, _, mut conn) = open(&gateway, from, "second-try").await;
        let text = String::from_utf8(conn.rest().await.0).expect("UTF-8");
        let said = from.read_stream(&text);
        assert!(said.done && said.error.is_none() && said.text.starts_with("You said"), "{from:?}: {text}");
        let line = gateway.logged(head.id()).await;
        assert_eq!((&line["status"], &line["provider"]), (&json!(200), &json!("anthropic")), "{from:?}: {line}");
        assert_eq!(line["attempts"][0]["error"], "upstream_error", "{from:?}: {line}");
    }
}

#[tokio::test]
async fn what_has_no_comments_waits_in_silence_and_keeps_its_true_status() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, CONFIG).await;
    let model = "chat/mock-fast:ttft=400ms,chunks=3,delay=300ms";
    let path = format!("/v1beta/models/{model}:streamGenerateContent");
    let reply = gateway.post(&path, Gemini.ask(model, true, Turn::Text, "Hello")).await;
    assert!(reply.json().as_array().is_some_and(|chunks| chunks.len() > 2));
    assert!(!reply.text().starts_with('\n') && !reply.text().contains("keep-alive"));
    // A model of its own each time: a target that asks for a pause gets it.
    let model = "chat/x:head=400ms,fault=429=70";
    let path = format!("/v1beta/models/{model}:streamGenerateContent");
    let reply = gateway.post(&path, Gemini.ask(model, true, Turn::Text, "Hello")).await;
    assert_eq!((reply.status(), reply.head.header("retry-after")), (429, Some("70")));
    for from in ALL {
        let model = &format!("{model},key={from:?}");
        let reply = gateway.post(&from.path(model, false), from.ask(model, false, Turn::Text, "Hello")).await;
        assert_eq!((reply.status(), reply.head.header("retry-after")), (429, Some("70")), "{from:?}");
    }
}

#[tokio::test]
async fn a_json_array_that_breaks_is_still_an_array_with_the_error_last() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, "timeouts: { idle: 500ms }\n").await;
    for to in ALL {
        for fault in ["cut-mid", "stall-mid", "malformed", "error-mid", "eof-mid"] {
            let model = format!("{}/mock-fast:fault={fault}", to.account());
            let path = format!("/v1beta/models/{model}:streamGenerateContent");
            let reply = gateway.post(&path, Gemini.ask(&model, true, Turn::Text, "Hello")).await;
            assert_eq!(reply.status(), 200, "{to:?} {fault}");
            let chunks = reply.json();
            let chunks = chunks.as_array().expect("an array");
            assert!(Gemini.read_answer(&chunks[0]).text.starts_with("You"), "{to:?} {fault}: {}", reply.text());
            let last = Gemini.read_answer(chunks.last().expect("chunks"));
            Gemini.error_event(&last.error.unwrap_or_else(|| panic!("{to:?} {fault}: {}", reply.text())));
            assert!(gateway.logged(reply.head.id()).await["error"]["code"].is_string(), "{to:?} {fault}");
        }
    }
}
