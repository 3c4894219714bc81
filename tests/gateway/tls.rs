//! HTTP/2, TLS, client certificates, and certificates that change.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::json;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::dialect::{ALL, Chat, Turn};
use super::support::{Folder, Gateway, Mock, SOON, together};
use super::wire::{Conn, Io, request};

/// A file of `tests/fixtures/tls`; `make.sh` there makes them.
fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tls").join(name)
}

fn certificate(name: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(fixture(name)).expect("a certificate")
}

/// Connects with TLS, offering these protocols and perhaps a client certificate.
async fn tls(gateway: &Gateway, alpn: &[&str], client: bool) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate("ca.crt")).expect("an authority");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("versions");
    let builder = builder.with_root_certificates(roots);
    let mut config = if client {
        let key = PrivateKeyDer::from_pem_file(fixture("client.key")).expect("a key");
        builder.with_client_auth_cert(vec![certificate("client.crt")], key).expect("a client certificate")
    } else {
        builder.with_no_client_auth()
    };
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let stream = TcpStream::connect(gateway.address).await?;
    TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("localhost").expect("a name"), stream).await
}

type Client = SendRequest<Full<Bytes>>;

async fn h2(io: impl Io + 'static) -> Client {
    let (client, conn) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(io)).await.expect("HTTP/2");
    tokio::spawn(conn);
    client
}

/// Starts a request; its answer is still to be read.
async fn begin(client: &Client, path: &str, body: Vec<u8>) -> http::Response<hyper::body::Incoming> {
    let request = Request::post(format!("http://gateway{path}")).body(Full::from(body)).expect("a request");
    client.clone().send_request(request).await.expect("an answer")
}

async fn text(response: http::Response<hyper::body::Incoming>) -> String {
    let bytes = response.into_body().collect().await.expect("a whole body").to_bytes();
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

#[tokio::test]
async fn http2_without_tls_carries_many_streams_at_once() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, "").await;
    let client = h2(TcpStream::connect(gateway.address).await.expect("connects")).await;
    let model = "chat/mock-fast:ttft=100ms,chunks=20,delay=10ms";
    let began = Instant::now();
    together((0..20).map(|number| {
        let from = ALL[number % 4];
        let client = &client;
        async move {
            let say = format!("number {number}");
            let response = begin(client, &from.path(model, true), from.ask(model, true, Turn::Text, &say)).await;
            assert_eq!(response.status(), 200);
            let said = from.read_stream(&text(response).await);
            assert!(said.done && said.text.contains(&say), "{said:?}");
        }
    }))
    .await;
    assert!(began.elapsed() < Duration::from_secs(5), "they came one after the other: {:?}", began.elapsed());
    gateway.settled().await;
    gateway.lines(20).await;
}

#[tokio::test]
async fn an_http2_client_that_drops_one_stream_ends_its_upstream_and_no_other() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, "").await;
    let client = h2(TcpStream::connect(gateway.address).await.expect("connects")).await;
    let stays = "chat/mock-fast:chunks=40,delay=20ms,key=stays";
    let leaves = "chat/mock-fast:chunks=400,delay=20ms,length=8000,key=leaves";
    let staying = begin(&client, "/v1/chat/completions", Chat.ask(stays, true, Turn::Text, "Hello")).await;
    let mut leaving = begin(&client, "/v1/chat/completions", Chat.ask(leaves, true, Turn::Text, "Hello")).await;
    leaving.body_mut().frame().await.expect("a frame").expect("data");
    let left = Instant::now();
    drop(leaving);
    let entry = mock.seen("key=leaves", |entry| entry["outcome"] != "open").await;
    println!("HTTP/2: the upstream was closed after {:?}", left.elapsed());
    assert_eq!(entry["outcome"], "client_gone");
    assert!(left.elapsed() < Duration::from_millis(100), "{:?}", left.elapsed());
    assert!(Chat.read_stream(&text(staying).await).done);
    let line = gateway.logged_where(leaves, |line| line["model"] == leaves).await;
    assert_eq!(line["error"]["code"], "client_gone");
}

/// Its window is closed, while the connection's socket is free.
#[tokio::test]
async fn an_http2_client_that_reads_nothing_has_the_exchanges_time_and_no_more() {
    let mock = Mock::start().await;
    let yaml = "listen: { address: LISTEN, limits: { head_timeout: 500ms } }\ntimeouts: { total: 1s }\n\
                models: { long: { target: \"chat/mock-fast:chunks=80,delay=50ms\", timeouts: { total: 60s } } }\n";
    let gateway = Gateway::start(&mock, yaml).await;
    let stream = TokioIo::new(TcpStream::connect(gateway.address).await.expect("connects"));
    let mut builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
    builder.initial_stream_window_size(1024);
    let (client, conn) = builder.handshake(stream).await.expect("HTTP/2");
    tokio::spawn(conn);
    let model = "chat/mock-fast:chunks=400,length=80000,key=unread";
    let other = begin(&client, "/v1/chat/completions", Chat.ask("long", true, Turn::Text, "Hello")).await;
    let unread = begin(&client, "/v1/chat/completions", Chat.ask(model, true, Turn::Text, "Hello")).await;
    let line = gateway.logged_where(model, |line| line["model"] == model).await;
    assert_eq!((&line["status"], &line["error"]["code"]), (&json!(504), &json!("total_timeout")), "{line}");
    assert!(line["duration_ms"].as_f64().is_some_and(|took| (1000.0..3000.0).contains(&took)), "{line}");
    assert!(Chat.read_stream(&text(other).await).done, "others on the connection go on");
    assert!(unread.into_body().collect().await.is_err(), "and its client hears of it");
}

/// What an idle HTTP/2 client sends (settings, windows, pings) is no head that comes in slowly.
#[tokio::test]
async fn an_idle_http2_connection_is_kept_as_long_as_any_other() {
    let mock = Mock::start().await;
    let yaml = "listen: { address: LISTEN, limits: { head_timeout: 300ms, keep_alive_timeout: 3s } }\n";
    let gateway = Gateway::start(&mock, yaml).await;
    let stream = TokioIo::new(TcpStream::connect(gateway.address).await.expect("connects"));
    let mut builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
    builder.timer(TokioTimer::new()).keep_alive_interval(Duration::from_millis(100)).keep_alive_while_idle(true);
    let (client, conn) = builder.handshake(stream).await.expect("HTTP/2");
    tokio::spawn(conn);
    let body = Chat.ask("chat/mock-fast", true, Turn::Text, "Hello");
    for _ in 0..3 {
        assert!(!client.is_closed(), "the connection was closed");
        let response = begin(&client, "/v1/chat/completions", body.clone()).await;
        assert!(Chat.read_stream(&text(response).await).done);
        sleep(Duration::from_millis(900)).await;
    }
    let deadline = Instant::now() + SOON;
    while !client.is_closed() {
        assert!(Instant::now() < deadline, "an idle connection is kept for ever");
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn http2_heads_have_the_same_bounds() {
    let mock = Mock::start().await;
    let yaml =
        "listen: { address: LISTEN, limits: { max_head_bytes: 8KiB, max_headers: 20, max_body_bytes: 10KiB } }\n";
    let gateway = Gateway::start(&mock, yaml).await;
    let client = h2(TcpStream::connect(gateway.address).await.expect("connects")).await;
    let body = Full::<Bytes>::from(Chat.ask("chat/mock-fast", false, Turn::Text, "Hello"));
    let plain = || Request::post("http://gateway/v1/chat/completions");
    let many = (0..30).fold(plain(), |request, number| request.header(format!("x-{number}"), "1"));
    let long = plain().header("x-long", "x".repeat(9000));
    for request in [many, long] {
        let request = request.body(body.clone()).expect("a request");
        assert_eq!(client.clone().send_request(request).await.expect("an answer").status(), 431);
    }
    let large = Chat.ask("chat/mock-fast", false, Turn::Text, &"x".repeat(11_000));
    assert_eq!(begin(&client, "/v1/chat/completions", large).await.status(), 413);
    assert!(mock.journal().await.is_empty());
    // The connection is still good.
    let small = plain().body(body).expect("a request");
    assert_eq!(client.clone().send_request(small).await.expect("an answer").status(), 200);
}

#[tokio::test]
async fn answers_without_a_body_are_whole_over_http2() {
    let mock = Mock::start().await;
    for status in [204, 205] {
        let policy = format!("function on_request(req) return gw.respond({status}, 'nothing of this') end");
        let gateway = super::policies::with(&mock, &[("mute", &policy)], "hooks: [{ lua: mute }]\n").await;
        let client = h2(TcpStream::connect(gateway.address).await.expect("connects")).await;
        for path in ["/readyz", "/v1/models", "/v1/chat/completions"] {
            let request =
                Request::head(format!("http://gateway{path}")).body(Full::<Bytes>::default()).expect("a request");
            let response = client.clone().send_request(request).await.expect("an answer");
            assert_eq!(response.status(), if path.ends_with("completions") { 405 } else { 200 }, "{path}");
            assert_eq!(text(response).await, "", "{path}");
        }
        let ask = || Chat.ask("chat/mock-fast", false, Turn::Text, "Hello");
        let response = begin(&client, "/v1/chat/completions", ask()).await;
        assert_eq!((response.status().as_u16(), text(response).await.as_str()), (status, ""));
        let reply = gateway.call("POST", "/v1/chat/completions", &[("connection", "close")], ask()).await;
        assert_eq!((reply.status(), reply.text().as_str()), (status, ""));
        for line in gateway.lines(3).await {
            assert!(line["error"].is_null(), "{line}");
        }
    }
}

#[tokio::test]
async fn tls_negotiates_http2_and_serves_http11_to_those_who_want_it() {
    let mock = Mock::start().await;
    let yaml = format!(
        "listen: {{ address: LISTEN, tls: {{ cert: {}, key: {} }} }}\n",
        fixture("first.crt").display(),
        fixture("first.key").display()
    );
    let gateway = Gateway::start(&mock, &yaml).await;
    let stream = tls(&gateway, &["h2", "http/1.1"], false).await.expect("a handshake");
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let client = h2(stream).await;
    let body = Chat.ask("chat/mock-fast", true, Turn::Text, "Hello");
    let said = Chat.read_stream(&text(begin(&client, "/v1/chat/completions", body.clone()).await).await);
    assert!(said.done && said.text.starts_with("You said"));
    for alpn in [&["http/1.1"][..], &[]] {
        let mut conn = Conn::over(tls(&gateway, alpn, false).await.expect("a handshake"));
        conn.send(&request("POST", "/v1/chat/completions", &[], &body)).await;
        assert!(Chat.read(&conn.reply().await).done);
    }
    // Plain text on a TLS port gets nothing.
    let mut plain = Conn::open(gateway.address).await;
    plain.send(&request("GET", "/livez", &[], b"")).await;
    assert!(plain.try_head().await.is_none());
    assert!(mock.journal().await.len() == 3);
}

#[tokio::test]
async fn with_client_certificates_those_who_have_none_are_refused() {
    let mock = Mock::start().await;
    let yaml = format!(
        "listen: {{ address: LISTEN, tls: {{ cert: {}, key: {}, client_ca: {} }} }}\n",
        fixture("first.crt").display(),
        fixture("first.key").display(),
        fixture("ca.crt").display()
    );
    let gateway = Gateway::start(&mock, &yaml).await;
    let mut conn = Conn::over(tls(&gateway, &["http/1.1"], true).await.expect("a handshake"));
    conn.send(&request("GET", "/livez", &[], b"")).await;
    assert_eq!(conn.reply().await.status(), 200);
    // With TLS 1.3 the refusal may come after the client's side of the handshake is done.
    if let Ok(stream) = tls(&gateway, &["http/1.1"], false).await {
        let mut conn = Conn::over(stream);
        let _ = conn.try_send(&request("GET", "/livez", &[], b"")).await;
        assert!(conn.try_head().await.is_none(), "a client without a certificate was served");
    }
}

#[tokio::test]
async fn new_certificates_are_used_as_soon_as_they_are_there() {
    let mock = Mock::start().await;
    let folder = Folder::new();
    let put = |name: &str| {
        for kind in ["crt", "key"] {
            let file = folder.path(&format!("server.{kind}"));
            fs::copy(fixture(&format!("{name}.{kind}")), file).expect("copies");
        }
    };
    put("first");
    let (cert, key) = (folder.path("server.crt"), folder.path("server.key"));
    let yaml = "listen: { address: LISTEN, tls: { cert: FOLDER/server.crt, key: FOLDER/server.key } }\n";
    let gateway = Gateway::prepared(folder, &mock, yaml).await;
    let old = tls(&gateway, &["http/1.1"], false).await.expect("a handshake");
    let shown = |stream: &TlsStream<TcpStream>| stream.get_ref().1.peer_certificates().map(|chain| chain[0].clone());
    assert_eq!(shown(&old), Some(certificate("first.crt")));
    for (file, name) in [(&cert, "second.crt"), (&key, "second.key")] {
        fs::copy(fixture(name), file).expect("copies");
    }
    let deadline = Instant::now() + SOON;
    while shown(&tls(&gateway, &["http/1.1"], false).await.expect("a handshake")) != Some(certificate("second.crt")) {
        assert!(Instant::now() < deadline, "the old certificate is still used: {}", gateway.process.stderr());
        sleep(Duration::from_millis(50)).await;
    }
    // A connection made before goes on.
    let mut conn = Conn::over(old);
    conn.send(&request("GET", "/livez", &[], b"")).await;
    assert_eq!(conn.reply().await.status(), 200);
}
