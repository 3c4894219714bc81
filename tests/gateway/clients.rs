//! Clients that leave, and clients that stop reading.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket};
use tokio::time::{Instant, sleep, timeout};

use super::dialect::{ALL, Anthropic, Chat, Dialect, Turn};
use super::support::{Gateway, Mock, SOON};
use super::wire::{Conn, request};

/// How soon the upstream must be closed after the client has left. What is measured has the test's own polling in it.
const CLOSED_WITHIN: Duration = Duration::from_millis(100);

/// Sends an ask, reads until `mark` (nothing at all when it is empty), leaves, and waits for the upstream to notice.
async fn leave(gateway: &Gateway, mock: &Mock, from: Dialect, model: &str, stream: bool, mark: &str) -> Duration {
    let mut conn = Conn::open(gateway.address).await;
    let key = model.rsplit_once("key=").expect("a key").1;
    conn.send(&request("POST", &from.path(model, stream), &[], &from.ask(model, stream, Turn::Text, "Hello"))).await;
    if mark.is_empty() {
        mock.seen(key, |_| true).await;
    } else {
        assert_eq!(conn.head().await.status, 200);
        conn.until(mark).await;
    }
    let left = Instant::now();
    drop(conn);
    let entry = mock.seen(key, |entry| entry["outcome"] != "open").await;
    let took = left.elapsed();
    assert_eq!(entry["outcome"], "client_gone", "{model} in {from:?}");
    took
}

async fn gone(gateway: &Gateway, model: &str) -> Value {
    let line = gateway.logged_where(model, |line| line["model"] == model).await;
    assert_eq!((&line["status"], &line["error"]["code"]), (&json!(499), &json!("client_gone")), "{line}");
    let attempt = &line["attempts"][0];
    let told = attempt["status"] == 200 || attempt["error"] == "client_gone";
    assert!(told && attempt["took_ms"].as_f64() > Some(0.0), "{line}");
    line
}

#[tokio::test]
async fn a_client_that_leaves_mid_stream_ends_the_upstream_within_100_ms_and_pays_for_what_it_got() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, "").await;
    let mut longest = Duration::ZERO;
    for from in ALL {
        for to in ALL {
            let model = format!("{}/mock-fast:chunks=400,delay=20ms,length=8000,key={from:?}{to:?}", to.account());
            let took = leave(&gateway, &mock, from, &model, true, "You said").await;
            longest = longest.max(took);
            let line = gone(&gateway, &model).await;
            assert!(line["usage"]["output"].as_u64() >= Some(1), "{from:?} to {to:?}: {line}");
            assert!(line["usage"]["output"].as_u64() < Some(1000), "{from:?} to {to:?}: {line}");
            assert!(line["ttft_ms"].is_number() && line["bytes_out"].as_u64() > Some(0), "{from:?} to {to:?}: {line}");
        }
    }
    println!("mid-stream: the upstream was closed at the latest after {longest:?}");
    assert!(longest < CLOSED_WITHIN, "{longest:?}");
    gateway.settled().await;
    assert_eq!(gateway.log().len(), 16);
}

#[tokio::test]
async fn a_client_that_leaves_before_the_head_ends_the_upstream_too() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, "").await;
    let mut longest = Duration::ZERO;
    for from in ALL {
        for stream in [false, true] {
            for wait in ["head", "ttft"] {
                let model = format!("chat/mock-fast:{wait}=30s,key={from:?}{stream}{wait}");
                longest = longest.max(leave(&gateway, &mock, from, &model, stream, "").await);
                let line = gone(&gateway, &model).await;
                assert_eq!((&line["usage_estimated"], &line["stream"]), (&json!(true), &json!(stream)), "{line}");
                assert!(line["usage"]["input"].as_u64() > Some(0), "the provider has the ask: {line}");
                assert_eq!(line["usage"]["output"], 0, "{line}");
            }
        }
    }
    println!("before the head: the upstream was closed at the latest after {longest:?}");
    assert!(longest < CLOSED_WITHIN, "{longest:?}");
    gateway.settled().await;
    assert_eq!(gateway.log().len(), 16);
}

#[tokio::test]
async fn a_client_that_leaves_while_it_is_kept_waiting_ends_the_upstream_too() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, "stream: { keep_alive: 50ms }\n").await;
    let mut longest = Duration::ZERO;
    for from in ALL {
        let model = format!("anthropic/mock-fast:ttft=30s,key={from:?}");
        longest = longest.max(leave(&gateway, &mock, from, &model, true, "\n").await);
        gone(&gateway, &model).await;
    }
    println!("during keep-alive: the upstream was closed at the latest after {longest:?}");
    assert!(longest < CLOSED_WITHIN, "{longest:?}");
    gateway.settled().await;
    assert_eq!(gateway.log().len(), 4);
}

/// Text in each event of [`endless`].
const PIECE: usize = 1000;

/// An upstream that streams `events` chat events as fast as they are taken; counts the bytes that were.
async fn endless(events: u64) -> (std::net::SocketAddr, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let taken = Arc::new(AtomicU64::new(0));
    let count = taken.clone();
    tokio::spawn(async move {
        'clients: while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 65536]).await;
            let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
            let _ = stream.write_all(head.as_bytes()).await;
            let text = "x".repeat(PIECE);
            let mut say = async |data: &str| {
                let frame = format!("data: {data}\n\n");
                let chunk = format!("{:x}\r\n{frame}\r\n", frame.len());
                stream.write_all(chunk.as_bytes()).await.is_ok()
                    && count.fetch_add(chunk.len() as u64, Ordering::Relaxed) < u64::MAX
            };
            for number in 0..events {
                let event = json!({"id": "c", "model": "m", "choices": [{"index": 0, "delta": {"content": text}}], "n": number});
                if !say(&event.to_string()).await {
                    continue 'clients;
                }
            }
            say(r#"{"id":"c","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#).await;
            say(r#"{"id":"c","choices":[],"usage":{"prompt_tokens":7,"completion_tokens":9,"total_tokens":16}}"#).await;
            say("[DONE]").await;
            let _ = stream.write_all(b"0\r\n\r\n").await;
        }
    });
    (address, taken)
}

/// A client that does not read: the upstream stops being read, memory stays, and everything arrives once it reads on.
/// Gives the bytes that had been taken by then, at most so many, and the memory held. What the kernel holds between upstream
/// and gateway is among them: several MB where the stream began fast.
async fn stop_reading(from: Dialect, events: u64, most: u64) -> (u64, u64) {
    let mock = Mock::start().await;
    let (address, taken) = endless(events).await;
    // The shorter the time of a head, the more often it is looked whether the client reads.
    let yaml = format!(
        "providers:\n  endless: {{ dialect: openai_chat, base_url: http://{address}/v1, auth: none }}\n\
         listen: {{ address: LISTEN, limits: {{ head_timeout: 200ms }} }}\n"
    );
    let gateway = Gateway::start(&mock, &yaml).await;
    gateway.get("/livez").await;
    let before = gateway.process.memory();
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(64 << 10).expect("a socket");
    let mut conn = Conn::over(socket.connect(gateway.address).await.expect("connects"));
    let body = from.ask("endless/m", true, Turn::Text, "Hello");
    conn.send(&request("POST", &from.path("endless/m", true), &[("connection", "close")], &body)).await;
    // The flow has stopped when nothing was taken for a while.
    let (mut last, mut since, deadline) = (0, Instant::now(), Instant::now() + SOON);
    while since.elapsed() < Duration::from_millis(400) || last == 0 {
        assert!(Instant::now() < deadline, "{last} bytes taken, and still flowing");
        sleep(Duration::from_millis(20)).await;
        let now = taken.load(Ordering::Relaxed);
        if now != last {
            (last, since) = (now, Instant::now());
        }
    }
    let grown = gateway.process.memory().saturating_sub(before);
    assert!(last < most, "{last} bytes were taken for a client that reads nothing");
    assert!(grown < 12 << 20, "memory grew by {grown} bytes");
    let head = conn.head().await;
    let (bytes, whole) = conn.rest().await;
    assert!(whole, "the stream broke off");
    let said = from.read_stream(&String::from_utf8(bytes).expect("UTF-8"));
    assert!(said.done && said.error.is_none());
    assert_eq!(said.text.len() as u64, events * PIECE as u64);
    assert_eq!(said.usage, Some((7, 9)));
    let after = gateway.process.memory().saturating_sub(before);
    assert!(after < 16 << 20, "memory grew by {after} bytes");
    assert_eq!(gateway.logged(head.id()).await["status"], 200);
    (last, grown)
}

#[tokio::test]
async fn a_client_that_stops_reading_stops_the_upstream_of_a_relayed_stream() {
    let (bytes, memory) = stop_reading(Chat, 30_000, 16 << 20).await;
    println!("relayed: the flow stopped after {bytes} bytes, memory had grown by {memory}");
}

#[tokio::test]
async fn a_client_that_stops_reading_stops_the_upstream_of_a_translated_stream() {
    let (bytes, memory) = stop_reading(Anthropic, 12_000, 8 << 20).await;
    println!("translated: the flow stopped after {bytes} bytes, memory had grown by {memory}");
}

/// The stream's time is over while its client takes none of it, and while it takes a little now and then.
#[tokio::test]
async fn a_client_that_reads_too_slowly_for_the_exchanges_time_ends_it_in_time() {
    let mock = Mock::start().await;
    // It takes the next client when it is rid of the one before.
    let (address, _) = endless(1_000_000).await;
    let yaml = format!(
        "providers:\n  endless: {{ dialect: openai_chat, base_url: http://{address}/v1, auth: none }}\n\
         timeouts: {{ total: 1s }}\n"
    );
    let gateway = Gateway::start(&mock, &yaml).await;
    for (from, trickles) in [(Chat, false), (Anthropic, false), (Chat, true), (Anthropic, true)] {
        let id = format!("{from:?}-{trickles}");
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(16 << 10).expect("a socket");
        let mut stream = socket.connect(gateway.address).await.expect("connects");
        let body = from.ask("endless/m", true, Turn::Text, "Hello");
        let headers = [("x-request-id", id.as_str()), ("connection", "close")];
        let ask = request("POST", &from.path("endless/m", true), &headers, &body);
        stream.write_all(&ask).await.expect("is taken");
        let line = if trickles {
            let mut some = [0; 4096];
            let mut logged = pin!(gateway.logged_where(&id, |line| line["request_id"] == id.as_str()));
            loop {
                let _ = stream.read(&mut some).await;
                if let Ok(line) = timeout(Duration::from_millis(50), &mut logged).await {
                    break line;
                }
            }
        } else {
            gateway.logged_where(&id, |line| line["request_id"] == id.as_str()).await
        };
        assert_eq!((&line["status"], &line["error"]["code"]), (&json!(504), &json!("total_timeout")), "{line}");
        let took = line["duration_ms"].as_f64().expect("a number");
        assert!(took >= 1000.0, "{id} took {took} ms");
        assert!(line["usage"]["output"].as_u64() > Some(0), "{line}");
        assert_eq!(gateway.metric("portcullis_in_flight").await, Some(0.0), "{id}");
        // It ends, cut off or with the word of it.
        let mut rest = Vec::new();
        let _ = timeout(SOON, stream.read_to_end(&mut rest)).await.expect("the connection is left open");
        let text = String::from_utf8_lossy(&rest);
        assert!(!text.contains("[DONE]") && !text.contains("message_stop"), "{id}");
    }
}
