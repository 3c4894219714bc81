//! Ways to an upstream: sockets, TLS, HTTP/2, proxies; and what is changed on the way.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response, Version};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio_rustls::TlsAcceptor;

use super::dialect::{Anthropic, Chat, Turn};
use super::support::{Folder, Gateway, Mock, portcullis};
use super::wire::{Io, Reply};

const ANSWER: &str = r#"{"id":"c","object":"chat.completion","model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"Ho"},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}"#;

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tls").join(name)
}

/// Version and URI of each request that a server saw.
type Seen = Arc<Mutex<Vec<(Version, String)>>>;

/// Serves one connection, in HTTP/2 or HTTP/1.1.
async fn serve(io: impl Io + 'static, h2: bool, seen: Seen) {
    let service = service_fn(move |request: Request<Incoming>| {
        let seen = seen.clone();
        async move {
            let about = (request.version(), request.uri().to_string());
            let _ = request.into_body().collect().await;
            seen.lock().expect("no panic").push(about);
            let mut response = Response::new(Full::<Bytes>::from(ANSWER));
            response.headers_mut().insert("content-type", "application/json".parse().expect("a value"));
            Ok::<_, Infallible>(response)
        }
    });
    let io = TokioIo::new(io);
    let _ = match h2 {
        true => hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await,
        false => hyper::server::conn::http1::Builder::new().serve_connection(io, service).await,
    };
}

/// A TLS server that offers these protocols.
async fn tls_server(alpn: &'static [&'static str]) -> (SocketAddr, Seen) {
    let chain = vec![CertificateDer::from_pem_file(fixture("first.crt")).expect("a certificate")];
    let key = PrivateKeyDer::from_pem_file(fixture("first.key")).expect("a key");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let mut config = builder.expect("versions").with_no_client_auth().with_single_cert(chain, key).expect("fits");
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let seen = Seen::default();
    let kept = seen.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            if let Ok(stream) = acceptor.accept(stream).await {
                let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                tokio::spawn(serve(stream, h2, kept.clone()));
            }
        }
    });
    (address, seen)
}

/// Starts the gateway with variables in its environment.
async fn start(yaml: &str, variables: &[(&str, String)]) -> Gateway {
    let mut gateway = Gateway::unstarted(Folder::new(), None);
    let path = gateway.configure(yaml);
    let mut command = portcullis();
    command.args(["serve", "--config"]).arg(path).envs(variables.iter().map(|(name, value)| (*name, value)));
    gateway.spawn(&mut command).await;
    gateway
}

async fn ask(gateway: &Gateway, model: &str) -> Reply {
    gateway.post("/v1/chat/completions", Chat.ask(model, false, Turn::Text, "Hello")).await
}

#[tokio::test]
async fn a_unix_socket_serves_as_an_upstream() {
    let folder = Folder::new();
    let listener = UnixListener::bind(folder.path("model.sock")).expect("a socket");
    let seen = Seen::default();
    let kept = seen.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, false, kept.clone()));
        }
    });
    let socket = folder.path("model.sock");
    let yaml = format!(
        "providers:\n  local: {{ dialect: openai_chat, base_url: \"unix://{}:/v7\", auth: none }}\n",
        socket.display()
    );
    let gateway = start(&yaml, &[]).await;
    let reply = ask(&gateway, "local/m").await;
    assert_eq!(reply.status(), 200, "{}", reply.text());
    assert_eq!(seen.lock().expect("no panic")[0].1, "/v7/chat/completions");
}

#[tokio::test]
async fn tls_upstreams_are_checked_and_spoken_to_in_the_best_protocol_they_offer() {
    let ca = [("SSL_CERT_FILE", fixture("ca.crt").display().to_string())];
    for (alpn, version) in
        [(&["h2", "http/1.1"][..], Version::HTTP_2), (&["http/1.1"], Version::HTTP_11), (&[], Version::HTTP_11)]
    {
        let (address, seen) = tls_server(alpn).await;
        let yaml = format!(
            "providers:\n  far: {{ dialect: openai_chat, base_url: \"https://localhost:{}/v1\", auth: none }}\n",
            address.port()
        );
        let gateway = start(&yaml, &ca).await;
        for _ in 0..2 {
            let reply = ask(&gateway, "far/m").await;
            assert_eq!(reply.status(), 200, "{alpn:?}: {}", reply.text());
        }
        assert_eq!(seen.lock().expect("no panic").iter().map(|seen| seen.0).collect::<Vec<_>>(), [version; 2]);
        // Whom nobody vouches for is not spoken to.
        let gateway = start(&yaml, &[]).await;
        let reply = ask(&gateway, "far/m").await;
        assert_eq!((reply.status(), reply.head.header("x-portcullis-error")), (502, Some("upstream_unreachable")));
        let line = gateway.logged(reply.head.id()).await;
        assert!(line["error"]["source"].as_str().is_some_and(|text| text.contains("certificate")), "{line}");
        assert_eq!(seen.lock().expect("no panic").len(), 2);
    }
}

#[tokio::test]
async fn hosts_that_offer_http2_are_heard_by_policies_too() {
    let (address, seen) = tls_server(&["h2", "http/1.1"]).await;
    let mut gateway = Gateway::unstarted(Folder::new(), None);
    let policy = format!(
        "function on_request(req)
           local answer = gw.http.fetch({{ url = 'https://localhost:{port}/keys', method = req:header('x-method') }})
           return gw.say(answer.status .. ' ' .. #answer.body)
         end",
        port = address.port()
    );
    std::fs::create_dir_all(gateway.folder.path("scripts")).expect("a folder");
    gateway.folder.write("scripts/asks.luau", &policy);
    let path = gateway.configure(&format!(
        "hooks: [{{ lua: asks, grants: {{ http: ['localhost:{}'], private_addresses: true }}, budget: {{ cpu: 1s, total: 5s }} }}]\n\
         providers: {{ far: {{ dialect: openai_chat, base_url: 'http://127.0.0.1:9/v1', auth: none }} }}\n",
        address.port()
    ));
    let mut command = portcullis();
    command.args(["serve", "--config"]).arg(path).env("SSL_CERT_FILE", fixture("ca.crt"));
    gateway.spawn(&mut command).await;
    for (method, length) in [("GET", ANSWER.len()), ("HEAD", 0)] {
        let body = Chat.ask("far/m", false, Turn::Text, "Hello");
        let reply = gateway.call("POST", "/v1/chat/completions", &[("x-method", method)], body).await;
        assert!(reply.text().contains(&format!("\"200 {length}\"")), "{method}: {}", reply.text());
    }
    let versions: Vec<Version> = seen.lock().expect("no panic").iter().map(|seen| seen.0).collect();
    assert_eq!(versions, [Version::HTTP_11; 2]);
}

#[tokio::test]
async fn a_plain_upstream_can_be_spoken_to_in_http2() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let seen = Seen::default();
    let kept = seen.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, true, kept.clone()));
        }
    });
    let yaml = format!(
        "providers:\n  h2: {{ dialect: openai_chat, base_url: \"http://{address}/v1\", auth: none, http2: true }}\n"
    );
    let gateway = start(&yaml, &[]).await;
    assert_eq!(ask(&gateway, "h2/m").await.status(), 200);
    assert_eq!(seen.lock().expect("no panic")[0].0, Version::HTTP_2);
}

/// A proxy: notes the first line and the credential of each connection; tunnels, or passes a request on.
async fn proxy() -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let seen = Arc::new(Mutex::new(Vec::new()));
    let kept = seen.clone();
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let kept = kept.clone();
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.windows(4).any(|four| four == b"\r\n\r\n") {
                    if near.read_buf(&mut head).await.ok().filter(|n| *n > 0).is_none() {
                        return;
                    }
                }
                let text = String::from_utf8_lossy(&head).into_owned();
                let first = text.lines().next().unwrap_or_default().to_owned();
                let credential = text.lines().find(|line| line.to_ascii_lowercase().starts_with("proxy-authorization"));
                kept.lock().expect("no panic").push(format!("{first} {}", credential.unwrap_or_default()));
                let mut words = first.split(' ');
                let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
                let host = target.trim_start_matches("http://").split('/').next().unwrap_or_default();
                let Ok(mut far) = TcpStream::connect(host).await else { return };
                if method == "CONNECT" {
                    let _ = near.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
                } else {
                    let _ = far.write_all(&head).await;
                }
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    (address, seen)
}

#[tokio::test]
async fn proxies_of_a_provider_and_of_the_environment_are_used_and_exceptions_kept() {
    let mock = Mock::start().await;
    let (tls, _) = tls_server(&["http/1.1"]).await;
    let (near, seen) = proxy().await;
    let (mock, port) = (mock.address, tls.port());
    let of_provider = format!(
        "
providers:
  plain: {{ dialect: openai_chat, base_url: \"http://{mock}/v1\", auth: none, proxy: \"http://user:pass@{near}\" }}
  secure: {{ dialect: openai_chat, base_url: \"https://localhost:{port}/v1\", auth: none, proxy: \"http://user:pass@{near}\" }}
"
    );
    let ca = ("SSL_CERT_FILE", fixture("ca.crt").display().to_string());
    let take = || std::mem::take(&mut *seen.lock().expect("no panic"));
    let gateway = start(&of_provider, std::slice::from_ref(&ca)).await;
    assert_eq!(ask(&gateway, "plain/mock-fast").await.status(), 200);
    let lines = take();
    assert!(lines[0].starts_with(&format!("POST http://{mock}/v1/chat/completions HTTP/1.1")), "{lines:?}");
    assert!(lines[0].contains("Basic dXNlcjpwYXNz"), "{lines:?}");
    let reply = ask(&gateway, "secure/m").await;
    assert_eq!(reply.status(), 200, "{}", reply.text());
    let lines = take();
    assert!(lines[0].starts_with(&format!("CONNECT localhost:{port} HTTP/1.1")), "{lines:?}");
    assert!(lines[0].contains("Basic dXNlcjpwYXNz"), "{lines:?}");

    let bare = of_provider.replace(&format!(", proxy: \"http://user:pass@{near}\""), "");
    let proxies = [ca.clone(), ("HTTP_PROXY", format!("http://{near}")), ("HTTPS_PROXY", format!("http://{near}"))];
    let gateway = start(&bare, &proxies).await;
    assert_eq!(ask(&gateway, "plain/mock-fast").await.status(), 200);
    assert_eq!(ask(&gateway, "secure/m").await.status(), 200);
    assert_eq!(take().len(), 2);
    // Of a kind that we do not speak to it hears nothing.
    for scheme in ["https", "socks5"] {
        let gateway = start(&bare, &[("ALL_PROXY", format!("{scheme}://user:pass@{near}"))]).await;
        let reply = ask(&gateway, "plain/mock-fast").await;
        assert_eq!((reply.status(), take()), (502, vec![]), "{scheme}: {}", reply.text());
        let line = gateway.logged(reply.head.id()).await;
        assert!(line["error"]["source"].as_str().is_some_and(|source| source.contains("none of HTTP")), "{line}");
    }
    for (list, through) in [
        ("127.0.0.1,localhost".to_owned(), 0),
        (format!("{mock}, localhost:{port}"), 0),
        (format!("127.0.0.1:{port},localhost:{}", mock.port()), 2),
    ] {
        let mut excepted = proxies.to_vec();
        excepted.push(("NO_PROXY", list.clone()));
        let gateway = start(&bare, &excepted).await;
        assert_eq!(ask(&gateway, "plain/mock-fast").await.status(), 200);
        assert_eq!(ask(&gateway, "secure/m").await.status(), 200);
        assert_eq!(take().len(), through, "{list}");
    }
}

#[tokio::test]
async fn proxies_that_want_another_credential_are_named() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let near = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let _ = near.read(&mut [0; 4096]).await;
            let answer = "HTTP/1.1 407 Who?\r\nproxy-authenticate: Basic\r\ncontent-length: 0\r\n\r\n";
            let _ = near.write_all(answer.as_bytes()).await;
        }
    });
    let yaml = format!(
        "
providers:
  plain: {{ dialect: openai_chat, base_url: \"http://127.0.0.1:9/v1\", auth: none, proxy: \"http://{near}\" }}
  secure: {{ dialect: openai_chat, base_url: \"https://localhost:9/v1\", auth: none, proxy: \"http://{near}\" }}
"
    );
    let gateway = start(&yaml, &[]).await;
    for model in ["plain/m", "secure/m"] {
        let reply = ask(&gateway, model).await;
        assert_eq!(reply.status(), 502, "{model}: {}", reply.text());
        assert!(reply.text().contains("the provider's `proxy`"), "{model}: {}", reply.text());
    }
}

#[tokio::test]
async fn parameters_headers_and_model_names_are_changed_as_the_operator_says() {
    let mock = Mock::start().await;
    let yaml = "
providers:
  chat:
    dialect: openai_chat
    base_url: http://MOCK/v1
    auth: { header: x-secret, prefix: \"Token \" }
    api_key: sk-odd
    headers: { x-team: search }
    models: { nice: mock-fast }
    set: { temperature: 0.25 }
    default: { max_tokens: 77, top_p: 0.5 }
    drop: [seed, metadata.private]
models:
  alias: { target: chat/nice, set: { top_p: 0.75 } }
";
    let gateway = Gateway::start(&mock, yaml).await;
    for from in [Chat, Anthropic] {
        let mut body: Value = serde_json::from_slice(&from.ask("alias", false, Turn::Text, "Hi")).expect("JSON");
        body["temperature"] = json!(1);
        if from == Chat {
            body["seed"] = json!(7);
            body["metadata"] = json!({"private": "x", "public": "y"});
            body["max_tokens"] = json!(99);
        }
        let reply = gateway.post(&from.path("alias", false), body.to_string()).await;
        assert_eq!(reply.status(), 200, "{}", reply.text());
        let entry = mock.last().await;
        let sent: Value = serde_json::from_str(entry["body"].as_str().expect("a body")).expect("JSON");
        assert_eq!(
            (&sent["model"], &sent["temperature"], &sent["top_p"]),
            (&json!("mock-fast"), &json!(0.25), &json!(0.75))
        );
        let bound = if from == Chat { 99 } else { 1024 };
        assert_eq!(sent["max_tokens"], bound, "{sent}");
        assert_eq!(sent.get("seed"), None);
        if from == Chat {
            assert_eq!(sent["metadata"], json!({"public": "y"}));
        }
        let headers = entry["headers"].to_string();
        assert!(
            headers.contains(r#"["x-secret","Token sk-odd"]"#) && headers.contains(r#"["x-team","search"]"#),
            "{headers}"
        );
    }
}

#[tokio::test]
async fn a_large_body_goes_through_whole() {
    let mock = Mock::start().await;
    let gateway = Gateway::start(&mock, "").await;
    let image = "A".repeat(8 << 20);
    for (from, to) in [(Chat, Chat), (Chat, Anthropic)] {
        let body = json!({"model": format!("{}/mock-fast", to.account()), "max_tokens": 100, "messages": [{"role": "user", "content": [
            {"type": "text", "text": "Look"},
            {"type": "image_url", "image_url": {"url": format!("data:image/png;base64,{image}")}},
        ]}]});
        let reply = gateway.post(&from.path("", false), body.to_string()).await;
        assert_eq!(reply.status(), 200, "{to:?}: {}", reply.text());
        assert!(from.read(&reply).text.contains("You sent 1 image."), "{to:?}: {}", reply.text());
        assert!(mock.last().await["body_bytes"].as_u64() > Some(8 << 20), "{to:?}");
        assert!(gateway.logged(reply.head.id()).await["bytes_in"].as_u64() > Some(8 << 20));
    }
}
