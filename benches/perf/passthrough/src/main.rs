//! The least that a Rust gateway on hyper can do, as the yardstick: HTTP/1.1 in, a pooled client out, bodies streamed
//! both ways. Reads no body, routes nothing, logs nothing. With a certificate also TLS in, and HTTP/2 where the client asks
//! for it.
//!
//! `PT_LISTEN` (address), `PT_UPSTREAM` (host:port), `PT_THREADS` (1; more share one multi-threaded runtime), `PT_CERT` and
//! `PT_KEY` (PEM files).

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{Either, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONNECTION, HOST, TE, TRANSFER_ENCODING, UPGRADE};
use hyper::{Request, Response, StatusCode, Uri, Version};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Body = Either<Incoming, Full<Bytes>>;

fn env(name: &str, default: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| default.into())
}

fn main() -> std::io::Result<()> {
    let threads: usize = env("PT_THREADS", "1").parse().expect("PT_THREADS is a number");
    let runtime = if threads == 1 {
        tokio::runtime::Builder::new_current_thread().enable_all().build()?
    } else {
        tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?
    };
    runtime.block_on(serve())
}

async fn serve() -> std::io::Result<()> {
    let upstream: &'static str = Box::leak(env("PT_UPSTREAM", "127.0.0.1:9100").into_boxed_str());
    let mut http = HttpConnector::new();
    http.set_nodelay(true);
    let client: Client<HttpConnector, Incoming> = Client::builder(TokioExecutor::new())
        .pool_idle_timeout(Duration::from_secs(60))
        .pool_timer(TokioTimer::new())
        .build(http);
    let tls = std::env::var("PT_CERT").ok().map(|cert| acceptor(&cert, &env("PT_KEY", "")));
    let listener = tokio::net::TcpListener::bind(env("PT_LISTEN", "127.0.0.1:9200")).await?;
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let _ = stream.set_nodelay(true);
        let (client, tls) = (client.clone(), tls.clone());
        tokio::spawn(async move {
            let Some(tls) = tls else { return connection(stream, false, client, upstream).await };
            if let Ok(stream) = tls.accept(stream).await {
                let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                connection(stream, h2, client, upstream).await;
            }
        });
    }
}

async fn connection<S>(stream: S, h2: bool, client: Client<HttpConnector, Incoming>, upstream: &'static str)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = hyper::service::service_fn(move |request| pass(client.clone(), upstream, request));
    let io = TokioIo::new(stream);
    // A client that breaks off is its own affair.
    if h2 {
        let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await;
    } else {
        let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
    }
}

/// The gateway's own TLS, with what rustls does when nothing is said.
fn acceptor(cert: &str, key: &str) -> TlsAcceptor {
    let chain = CertificateDer::pem_file_iter(cert).and_then(Iterator::collect).expect("PT_CERT is a PEM file");
    let key = PrivateKeyDer::from_pem_file(key).expect("PT_KEY is a PEM file");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.expect("the provider has the versions").with_no_client_auth();
    let mut config = builder.with_single_cert(chain, key).expect("they fit");
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

async fn pass(
    client: Client<HttpConnector, Incoming>,
    upstream: &str,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    let uri = Uri::builder().scheme("http").authority(upstream).path_and_query(path).build();
    *request.uri_mut() = uri.expect("the parts come from a URI");
    *request.version_mut() = Version::HTTP_11;
    for hop in [HOST, CONNECTION, TE, TRANSFER_ENCODING, UPGRADE] {
        request.headers_mut().remove(hop);
    }
    Ok(match client.request(request).await {
        Ok(mut response) => {
            response.headers_mut().remove(CONNECTION);
            response.headers_mut().remove(TRANSFER_ENCODING);
            response.map(Either::Left)
        }
        Err(error) => {
            let text = format!("{{\"error\":{{\"message\":\"upstream: {error}\"}}}}");
            let mut response = Response::new(Either::Right(Full::new(Bytes::from(text))));
            *response.status_mut() = StatusCode::BAD_GATEWAY;
            response
        }
    })
}
