//! The least that a Rust gateway on hyper can do, as the yardstick: HTTP/1.1 in, a pooled client out, bodies streamed
//! both ways. Reads no body, routes nothing, logs nothing.
//!
//! `PT_LISTEN` (address), `PT_UPSTREAM` (host:port), `PT_THREADS` (1; more share one multi-threaded runtime).

use std::convert::Infallible;
use std::time::Duration;

use http_body_util::{Either, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONNECTION, HOST, TE, TRANSFER_ENCODING, UPGRADE};
use hyper::{Request, Response, StatusCode, Uri};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};

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
    let listener = tokio::net::TcpListener::bind(env("PT_LISTEN", "127.0.0.1:9200")).await?;
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let _ = stream.set_nodelay(true);
        let client = client.clone();
        tokio::spawn(async move {
            let service = hyper::service::service_fn(move |request| pass(client.clone(), upstream, request));
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn pass(
    client: Client<HttpConnector, Incoming>,
    upstream: &str,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    let uri = Uri::builder().scheme("http").authority(upstream).path_and_query(path).build();
    *request.uri_mut() = uri.expect("the parts come from a URI");
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
