//! Where a stream ends: at its dialect's end mark, whatever its upstream does afterwards.

use tokio::time::timeout;

use super::dialect::{ALL, Anthropic, Chat, Dialect, Responses, Turn};
use super::support::{Gateway, Mock, SOON};
use super::upstream::{Act, Upstream};

/// What an upstream of this dialect streams, from its head to its end mark.
async fn recorded(mock: &Mock, dialect: Dialect) -> String {
    let gateway = Gateway::start(mock, "").await;
    let model = match dialect {
        Chat => "chat/mock-fast",
        Responses => "responses/mock-fast",
        _ => "anthropic/mock-fast",
    };
    let reply = gateway.post(&dialect.path(model, true), dialect.ask(model, true, Turn::Text, "Hello")).await;
    assert_eq!(reply.status(), 200, "{}", reply.text());
    reply.text()
}

#[tokio::test]
async fn an_upstream_that_stays_after_its_end_mark_keeps_nobody_waiting() {
    let mock = Mock::start().await;
    for to in [Chat, Responses, Anthropic] {
        let said = recorded(&mock, to).await;
        let upstream = Upstream::start(move |_| {
            let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
            // The chunk that ends a body never comes, and the connection stays.
            Act::Answer(format!("{head}{:x}\r\n{said}\r\n", said.len()).into_bytes())
        })
        .await;
        for from in ALL {
            // Relayed byte for byte, the client has the mark; the rest is waited for.
            let idle = if from == to { "500ms" } else { "10m" };
            let config = format!(
                "providers:\n  up: {{ dialect: {}, base_url: 'http://{}/v1', auth: none }}\nmodels: {{ m: up/m }}\n\
                 timeouts: {{ idle: {idle} }}\n",
                to.name(),
                upstream.address
            );
            let gateway = Gateway::start(&mock, &config).await;
            let path = from.path("m", true);
            let ask = gateway.post(&path, from.ask("m", true, Turn::Text, "Hello"));
            let reply = timeout(SOON, ask).await.unwrap_or_else(|_| panic!("{from:?} to {to:?} hangs"));
            let said = from.read(&reply);
            assert!(reply.whole && said.done && said.error.is_none(), "{from:?} to {to:?}: {}", reply.text());
            let line = gateway.logged(reply.head.id()).await;
            assert_eq!((&line["status"], &line["error"]), (&200.into(), &serde_json::Value::Null), "{line}");
        }
    }
}

#[tokio::test]
async fn who_goes_on_in_another_dialect_ends_in_the_callers_words() {
    let mock = Mock::start().await;
    for (from, first) in [(Chat, "chat"), (Anthropic, "anthropic")] {
        for next in ["chat", "responses", "anthropic", "gemini"] {
            let config = format!(
                "models: {{ m: {{ fallback: [\"{first}/mock-fast:fault=cut-mid\", {next}/mock-fast], continue_on_cut: true }} }}\n"
            );
            let gateway = Gateway::start(&mock, &config).await;
            let reply = gateway.post(&from.path("m", true), from.ask("m", true, Turn::Text, "Hello")).await;
            let text = reply.text();
            let end = if from == Chat { r#""finish_reason":"stop""# } else { r#""stop_reason":"end_turn""# };
            assert!(reply.whole && text.contains(end), "{first} to {next}: {text}");
        }
    }
}
