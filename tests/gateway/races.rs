//! Connections to upstreams that close at the wrong moment. What the pool repeats is no attempt; what the attempt loop
//! repeats is one.

use serde_json::Value;

use super::dialect::{Chat, Turn};
use super::support::{Gateway, Mock};
use super::upstream::{Act, Upstream, answer};
use super::wire::Reply;

const ANSWER: &str = r#"{"id":"c","object":"chat.completion","model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"Ho"},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}"#;

/// A gateway whose one worker keeps its connections to this upstream.
async fn gateway(mock: &Mock, upstream: &Upstream) -> Gateway {
    let yaml = format!(
        "listen: {{ address: LISTEN, workers: 1 }}
routing: {{ retry: {{ per_target: 2 }} }}
providers:
  kept: {{ dialect: openai_chat, base_url: http://{}/v1, auth: none }}
",
        upstream.address
    );
    Gateway::start(mock, &yaml).await
}

async fn ask(gateway: &Gateway, say: &str) -> Reply {
    gateway.post("/v1/chat/completions", Chat.ask("kept/m", false, Turn::Text, say)).await
}

/// What a first connection does with its second request; a later one answers.
async fn second_request(act: fn() -> Act) -> (Gateway, Upstream, Mock) {
    let mock = Mock::start().await;
    let upstream = Upstream::start(move |seen| match (seen.connection, seen.number) {
        (0, 1) => act(),
        _ => Act::Answer(answer("application/json", ANSWER.as_bytes())),
    })
    .await;
    let gateway = gateway(&mock, &upstream).await;
    assert_eq!(ask(&gateway, "first").await.status(), 200);
    (gateway, upstream, mock)
}

#[tokio::test]
async fn a_request_that_meets_a_closing_connection_is_sent_again_once_and_answered() {
    for act in [|| Act::Close, || Act::Reset] {
        let (gateway, upstream, _mock) = second_request(act).await;
        let reply = ask(&gateway, "second").await;
        assert_eq!((reply.status(), reply.head.attempts()), (200, 1), "{}", reply.text());
        let seen = upstream.seen();
        let places: Vec<_> = seen.iter().map(|seen| (seen.connection, seen.number)).collect();
        assert_eq!(places, [(0, 0), (0, 1), (1, 0)], "not once and on a fresh connection");
        assert!(String::from_utf8_lossy(&seen[2].body).contains("second"), "the body was lost");
        assert_eq!(gateway.logged(reply.head.id()).await["error"], Value::Null);
    }
}

#[tokio::test]
async fn a_request_that_was_being_answered_is_sent_again_by_a_second_attempt_alone() {
    let (gateway, upstream, _mock) =
        second_request(|| Act::AnswerAndClose(b"HTTP/1.1 200 OK\r\ncontent-le".to_vec())).await;
    let reply = ask(&gateway, "second").await;
    assert_eq!((reply.status(), reply.head.attempts()), (200, 2), "{}", reply.text());
    assert_eq!(upstream.seen().len(), 3, "the request was sent again by the pool");
    let line = gateway.logged(reply.head.id()).await;
    assert_eq!(line["attempts"][0]["error"], "upstream_unreachable");
    assert_eq!(line["attempts"][1]["role"], "again");
}

#[tokio::test]
async fn a_fresh_connection_that_closes_unanswered_costs_an_attempt_each_time() {
    for act in [|| Act::Close, || Act::Reset] {
        let mock = Mock::start().await;
        let upstream = Upstream::start(move |_| act()).await;
        let gateway = gateway(&mock, &upstream).await;
        let reply = ask(&gateway, "only").await;
        assert_eq!(reply.status(), 502, "{}", reply.text());
        assert_eq!(reply.head.header("x-portcullis-error"), Some("upstream_unreachable"));
        Chat.error(&reply.json());
        assert_eq!(reply.head.attempts(), 2);
        assert_eq!(upstream.seen().len(), 2, "the request was sent again by the pool");
    }
}

#[tokio::test]
async fn connections_are_kept_between_requests_and_dropped_when_told() {
    let mock = Mock::start().await;
    let upstream = Upstream::start(|seen| {
        let close = seen.connection == 0 && seen.number == 2;
        let more = if close { "connection: close\r\n" } else { "" };
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n{more}content-length: {}\r\n\r\n",
            ANSWER.len()
        );
        let bytes = format!("{head}{ANSWER}").into_bytes();
        if close { Act::AnswerAndClose(bytes) } else { Act::Answer(bytes) }
    })
    .await;
    let gateway = gateway(&mock, &upstream).await;
    for _ in 0..5 {
        assert_eq!(ask(&gateway, "again").await.status(), 200);
    }
    let places: Vec<_> = upstream.seen().iter().map(|seen| (seen.connection, seen.number)).collect();
    assert_eq!(places, [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]);
}
