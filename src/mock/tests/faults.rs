//! What each fault does on the wire, and what the journal tells of it.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use super::{Client, Reply, asks, streamed_text, until};
use crate::mock::{Options, serve};

async fn struck(fault: &str, stream: bool) -> Vec<(&'static str, Reply)> {
    let client = Client::default();
    let mut replies = Vec::new();
    for (dialect, path, body) in asks(&format!("mock-fast:fault={fault}"), stream) {
        replies.push((dialect, client.post(&path, body).await));
    }
    replies
}

#[tokio::test]
async fn refusals_come_with_their_status_in_every_dialect() {
    for (fault, status) in [("429", 429), ("401", 401), ("403", 403), ("404", 404), ("500", 500), ("529", 529)] {
        for (dialect, reply) in struck(fault, true).await {
            assert_eq!(reply.status, status, "{dialect}");
            assert!(!reply.error().is_empty());
        }
    }
    for (dialect, reply) in struck("429=7", false).await {
        assert_eq!(reply.header("retry-after"), Some("7"), "{dialect}");
    }
    let words =
        [("chat", "maximum context length"), ("responses", "context window"), ("anthropic", "prompt is too long")];
    for ((dialect, reply), (_, words)) in struck("context", false).await.into_iter().zip(words) {
        assert!(reply.error().contains(words), "{dialect}");
    }
    let (_, blocked) = struck("policy", false).await.pop().expect("gemini");
    assert_eq!((blocked.status, &blocked.json()["promptFeedback"]["blockReason"]), (200, &json!("PROHIBITED_CONTENT")));
}

#[tokio::test]
async fn a_cut_comes_where_it_was_ordered() {
    for stream in [true, false] {
        for (dialect, reply) in struck("cut-head", stream).await {
            assert_eq!(reply.status, 0, "{dialect}");
        }
        for (dialect, reply) in struck("cut-first", stream).await {
            assert_eq!((reply.status, reply.complete), (200, false), "{dialect}");
            assert_eq!(streamed_text(dialect, &reply.events()), "", "{dialect}");
        }
        for (dialect, reply) in struck("cut-mid", stream).await {
            assert_eq!((reply.status, reply.complete), (200, false), "{dialect}");
            assert!(!reply.text().ends_with("\n\n"), "{dialect}: not in the middle of a frame");
            assert!(!stream || streamed_text(dialect, &reply.events()).contains("You said"), "{dialect}");
        }
        for (dialect, reply) in struck("eof-mid", stream).await {
            assert_eq!((reply.status, reply.complete), (200, true), "{dialect}");
            assert!(!stream || reply.text().ends_with("\n\n") || reply.text().ends_with("\r\n\r\n"), "{dialect}");
            for marker in ["[DONE]", "message_stop", "response.completed", "\"finishReason\""] {
                assert!(!stream || !reply.text().contains(marker), "{dialect}: {marker}");
            }
        }
    }
}

#[tokio::test]
async fn an_error_event_comes_before_or_after_content() {
    for (dialect, reply) in struck("error-first", true).await {
        let events = reply.events();
        assert_eq!((reply.status, reply.complete, streamed_text(dialect, &events)), (200, true, String::new()));
    }
    for (dialect, reply) in struck("error-mid", true).await {
        let events = reply.events();
        assert!(streamed_text(dialect, &events).contains("You said"), "{dialect}");
        let (name, last) = events.last().expect("events");
        match dialect {
            "responses" => {
                assert_eq!((name.as_str(), &last["response"]["status"]), ("response.failed", &json!("failed")))
            }
            "anthropic" => assert_eq!((name.as_str(), &last["error"]["type"]), ("error", &json!("overloaded_error"))),
            _ => assert!(last["error"]["message"].is_string(), "{dialect}: {last}"),
        }
    }
}

#[tokio::test]
async fn responses_number_the_events_of_a_failure_in_order() {
    let (_, reply) = struck("error-mid", true).await.remove(1);
    let numbers: Vec<u64> = reply.events().iter().filter_map(|(_, data)| data["sequence_number"].as_u64()).collect();
    assert_eq!(numbers, (0..numbers.len() as u64).collect::<Vec<_>>());
}

#[tokio::test]
async fn malformed_frames_come_before_or_after_content() {
    for (fault, before) in [("malformed", true), ("malformed-first", false)] {
        for (dialect, reply) in struck(fault, true).await {
            let events = reply.events();
            let broken =
                events.iter().position(|(_, data)| data.is_string() && data != "[DONE]").expect("a broken frame");
            assert_eq!(!streamed_text(dialect, &events[..broken]).is_empty(), before, "{dialect}");
        }
        for (dialect, reply) in struck(fault, false).await {
            assert!(reply.complete && serde_json::from_slice::<Value>(&reply.body).is_err(), "{dialect}");
        }
    }
}

#[tokio::test]
async fn markers_and_usage_can_be_left_out() {
    for stream in [true, false] {
        for (dialect, reply) in struck("no-usage", stream).await {
            assert!(!reply.text().contains("\"usage"), "{dialect}");
        }
    }
    for (dialect, reply) in struck("no-done", true).await {
        let text = reply.text();
        assert!(reply.complete && !text.contains("[DONE]") && !text.contains("message_stop"), "{dialect}");
    }
}

#[tokio::test]
async fn wrong_bodies_come_as_ordered() {
    for (dialect, reply) in struck("html", true).await {
        assert_eq!((reply.status, reply.header("content-type")), (502, Some("text/html")), "{dialect}");
    }
    assert_eq!(struck("html=200", false).await[0].1.status, 200);
    for (dialect, reply) in struck("empty", true).await {
        assert_eq!((reply.status, reply.body.len(), reply.complete), (200, 0, true), "{dialect}");
    }
    for (dialect, reply) in struck("wrong-type", true).await {
        assert!(reply.json().is_object(), "{dialect}");
    }
    for (dialect, reply) in struck("wrong-type", false).await {
        assert!(reply.text().starts_with("data: ") || reply.text().starts_with("event: ") || dialect == "gemini");
    }
    for (dialect, reply) in struck("garbage-sse", true).await {
        assert!(reply.text().contains("this is not json"), "{dialect}");
    }
}

#[tokio::test]
async fn a_huge_frame_is_valid_and_as_long_as_ordered() {
    for stream in [true, false] {
        for (dialect, reply) in struck("huge-frame=300000", stream).await {
            assert!(reply.complete && reply.body.len() > 300_000, "{dialect}");
            if stream {
                let events = reply.events();
                let longest = events.iter().filter_map(|(_, data)| data["padding"].as_str()).map(str::len).max();
                assert_eq!(longest, Some(300_000), "{dialect}");
                assert!(streamed_text(dialect, &events).ends_with("by a model."), "{dialect}");
            } else {
                assert!(reply.json()["padding"].is_string(), "{dialect}");
            }
        }
    }
}

#[tokio::test]
async fn a_drip_carries_the_same_bytes() {
    for (dialect, reply) in struck("drip=0", true).await {
        assert!(reply.complete && streamed_text(dialect, &reply.events()).ends_with("by a model."), "{dialect}");
    }
}

#[tokio::test]
async fn a_stall_ends_after_its_time() {
    for fault in ["stall-head=150ms", "stall-first=150ms", "stall-mid=150ms"] {
        let begun = Instant::now();
        let client = Client::default();
        let (_, path, body) = asks(&format!("m:fault={fault}"), true).remove(2);
        let reply = client.post(&path, body).await;
        assert!(begun.elapsed() >= Duration::from_millis(150) && !reply.complete, "{fault}");
        assert_eq!(reply.status == 0, fault.starts_with("stall-head"), "{fault}");
        let said = streamed_text("anthropic", &reply.events());
        assert_eq!(!said.is_empty(), fault.starts_with("stall-mid"), "{fault}");
    }
}

#[tokio::test]
async fn a_slow_answer_is_whole_but_late() {
    let begun = Instant::now();
    let client = Client::default();
    let (_, path, body) = asks("m:chunks=3,fault=slow=80ms", true).remove(0);
    let reply = client.post(&path, body).await;
    assert!(reply.complete && begun.elapsed() >= Duration::from_millis(280));
}

#[tokio::test]
async fn a_fault_by_header_strikes_so_many_times_for_each_key() {
    let client = Client::with(&[("x-mock-fault", "500,times=2,key=k")]);
    let mut seen = Vec::new();
    for _ in 0..4 {
        let (_, path, body) = asks("mock-fast", false).remove(0);
        seen.push(client.post(&path, body).await.status);
    }
    assert_eq!(seen, [500, 500, 200, 200]);
}

#[tokio::test]
async fn a_wrong_request_is_refused_whatever_fault_was_ordered() {
    let client = Client::with(&[("x-mock-fault", "cut-mid")]);
    let reply = client.post("/v1/messages", json!({"model": "m"})).await;
    assert_eq!((reply.status, reply.complete), (400, true));
}

#[tokio::test]
async fn timing_is_kept() {
    let client = Client::default();
    let begun = Instant::now();
    let (_, path, body) = asks("m:ttft=60ms,delay=10ms,chunks=5,length=50", true).remove(0);
    let reply = client.post(&path, body).await;
    let contents = reply.events().iter().filter(|(_, data)| data["choices"][0]["delta"]["content"] != "").count();
    assert!(begun.elapsed() >= Duration::from_millis(100) && reply.complete && contents >= 5);
}

#[tokio::test]
async fn the_journal_tells_what_arrived_and_when_the_client_left() {
    let client = Client::with(&[("X-Odd-Case", "Kept")]);
    let (_, path, body) = asks("m:fault=stall-mid", true).remove(0);
    let mut io = client.dial();
    io.write_all(client.request("POST", &path, &body.to_string()).as_bytes()).await.expect("writes");
    let mut some = [0; 64];
    io.read_exact(&mut some).await.expect("reads");
    let open = client.get("/__mock/last").await.json();
    assert_eq!(open["requests"][0]["outcome"], "open");
    drop(io);
    let gone = until(Duration::from_secs(5), async || {
        client.get("/__mock/last").await.json()["requests"][0]["client_gone"] == true
    });
    assert!(gone.await, "the mock did not notice");
    let last = client.get("/__mock/last").await.json()["requests"][0].clone();
    assert!(last["client_gone_ms"].is_u64() && last["sent_bytes"].as_u64() > Some(64));
    assert_eq!((&last["fault"], &last["path"]), (&json!("stall-mid"), &json!("/v1/chat/completions")));
    assert_eq!(last["body"], body.to_string());
    assert!(last["headers"].as_array().expect("headers").contains(&json!(["X-Odd-Case", "Kept"])));
    client.send("DELETE", "/__mock/last", "").await;
    assert_eq!(client.get("/__mock/last").await.json(), json!({"requests": []}));
}

#[tokio::test]
async fn a_listener_serves_and_resets() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("an address");
    let served = tokio::spawn(serve(listener, Options::default()));
    let client = Client::default();
    for (fault, reset) in [("reset", true), ("reset=head", true), ("no-usage", false)] {
        let mut stream = tokio::net::TcpStream::connect(address).await.expect("connects");
        let (_, path, body) = asks(&format!("m:fault={fault}"), true).remove(0);
        let request = client.request("POST", &path, &body.to_string());
        stream.write_all(request.as_bytes()).await.expect("writes");
        let mut bytes = Vec::new();
        let end = stream.read_to_end(&mut bytes).await.map_err(|error| error.kind());
        assert_eq!(end.err() == Some(std::io::ErrorKind::ConnectionReset), reset, "{fault}");
    }
    served.abort();
}
