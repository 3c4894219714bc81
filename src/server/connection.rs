//! One client connection: TLS, protocol, and the clocks that slow or silent clients run against.
//!
//! Knows bytes and moments only; requests are `pipeline`'s.

use std::convert::Infallible;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_rustls::TlsAcceptor;

use super::activity::{Activity, Streams, Verdict};
use super::answer::{Answer, UnderWay};
use super::head::misdirected;
use super::wire::Wire;
use super::{Shared, Stage};
use crate::body::Inbound;
use crate::boxed::boxed;
use crate::pipeline::{self, Cx};
use crate::reply::Outbound;
use crate::upstream::Upstream;

/// Bytes that the kernel holds for a client beyond what is on its way. Without a bound it takes megabytes from a fast
/// upstream for a client that has stopped reading; throughput does not depend on it.
#[cfg(target_os = "linux")]
const MAX_UNSENT_BYTES: u32 = 128 << 10;

/// How soon the first bytes of a connection are looked at again that may become HTTP/2's preface, for the first time.
const PEEK_AGAIN: Duration = Duration::from_millis(5);

/// How long a connection on which nothing is asked may take to end itself when the process drains. Over HTTP/2 a request may
/// be on its way while the client hears that none should come, and its answer to a ping tells; idle clients do not read it.
const PARTING: Duration = Duration::from_millis(500);

/// Most bytes read at once, and kept for a client that is slow to take them. A prompt that fits is never copied: hyper
/// grows to this only on connections that send such.
const READ_BYTES: usize = 128 << 10;

/// Bounds of a connection, as the generation in force has them when it begins.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub max_connections: usize,
    pub max_head_bytes: usize,
    pub max_headers: usize,
    pub head_timeout: Duration,
    pub keep_alive_timeout: Duration,
    pub max_streams: u32,
}

/// Serves a connection to its end.
pub async fn serve(shared: Shared, upstream: Arc<dyn Upstream>, stream: TcpStream, peer: SocketAddr) {
    let _ = stream.set_nodelay(true);
    #[cfg(target_os = "linux")]
    let _ = socket2::SockRef::from(&stream).set_tcp_notsent_lowat(MAX_UNSENT_BYTES);
    let generation = shared.generation.load_full();
    let (limits, tls) = (generation.server, generation.tls.clone());
    drop(generation);
    let mut stage = shared.stage.clone();
    // Who has said nothing yet when the process drains is not waited for.
    let mut drain = pin!(stage.wait_for(|stage| *stage >= Stage::Draining));
    let Some(tls) = tls else {
        let h2 = tokio::select! {
            biased;
            h2 = speaks_h2(&stream, limits.head_timeout) => h2,
            _ = drain.as_mut() => None,
        };
        if let Some(h2) = h2 {
            run(shared, upstream, stream, peer, limits, h2).await;
        }
        return;
    };
    let handshake = tokio::select! {
        biased;
        handshake = timeout(limits.head_timeout, TlsAcceptor::from(tls).accept(stream)) => handshake,
        _ = drain.as_mut() => return,
    };
    match handshake {
        Ok(Ok(stream)) => {
            let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            // Boxed: its state is larger than all else here, and connections without TLS should not carry it.
            Box::pin(run(shared, upstream, stream, peer, limits, h2)).await;
        }
        Ok(Err(error)) => tracing::debug!("TLS with {peer} failed: {error}"),
        Err(_) => tracing::debug!("TLS with {peer} took longer than {:?}", limits.head_timeout),
    }
}

/// Whether the first bytes are HTTP/2's preface. None when nothing came in time.
async fn speaks_h2(stream: &TcpStream, within: Duration) -> Option<bool> {
    // No method of HTTP/1.1 begins like this.
    const PREFACE: &[u8] = b"PRI ";
    let told = async {
        let (mut first, mut pause) = ([0; PREFACE.len()], PEEK_AGAIN);
        loop {
            let length = stream.peek(&mut first).await.ok().filter(|length| *length > 0)?;
            if length == PREFACE.len() || !PREFACE.starts_with(&first[..length]) {
                return Some(first == PREFACE);
            }
            // What was looked at is still there, and would be ready again at once. Who sends no more is looked at ever less.
            sleep(pause).await;
            pause *= 2;
        }
    };
    timeout(within, told).await.ok().flatten()
}

async fn run<S>(shared: Shared, upstream: Arc<dyn Upstream>, stream: S, peer: SocketAddr, limits: Limits, h2: bool)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let activity = Arc::new(Activity::new(h2));
    let io = TokioIo::new(Wire::new(stream, activity.clone()));
    let max_headers = limits.max_headers;
    let service = Requests { shared: shared.clone(), upstream, peer, max_headers, activity: activity.clone() };
    if h2 {
        let conn = http2::Builder::new(Streams(activity.clone()))
            .timer(TokioTimer::new())
            .max_concurrent_streams(limits.max_streams)
            .max_header_list_size(u32::try_from(limits.max_head_bytes).unwrap_or(u32::MAX))
            // Rapid resets are the known attack on HTTP/2 servers; hyper's own bound stays in force.
            .keep_alive_interval(limits.keep_alive_timeout)
            .serve_connection(io, service);
        drive(shared, activity, limits, pin!(conn), |conn| conn.graceful_shutdown()).await;
        return;
    }
    let mut conn = http1::Builder::new()
        .timer(TokioTimer::new())
        // The clocks below tell a slow head from an idle connection; hyper's does not.
        .header_read_timeout(None)
        .max_headers(limits.max_headers)
        .max_header_size(limits.max_head_bytes)
        .max_buf_size(limits.max_head_bytes.max(READ_BYTES))
        .serve_connection(io, service);
    let late = drive(shared, activity, limits, Pin::new(&mut conn), |conn| conn.graceful_shutdown()).await;
    if late {
        let mut stream = conn.into_parts().io.into_inner();
        // The head never came, so there is no dialect; the connection is closed whatever becomes of this.
        let _ = timeout(Duration::from_secs(1), stream.write_all(request_timeout().as_bytes())).await;
        let _ = timeout(Duration::from_secs(1), stream.shutdown()).await;
    }
}

/// What is told of a head that names no dialect; OpenAI's error shape is the most read.
fn told(code: &str, why: &str) -> String {
    format!(r#"{{"error":{{"message":"{why}","type":"invalid_request_error","code":"{code}"}}}}"#)
}

/// The answer to a head that did not arrive in time.
fn request_timeout() -> String {
    let why = "The head of the request arrived too slowly; the operator sets `listen.limits.head_timeout`.";
    let body = told("head_timeout", why);
    let head =
        "HTTP/1.1 408 Request Timeout\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: ";
    format!("{head}{}\r\n\r\n{body}", body.len())
}

/// Drives a connection against its clocks. True when it was given up in the middle of a head.
async fn drive<C, E>(
    shared: Shared,
    activity: Arc<Activity>,
    limits: Limits,
    mut conn: Pin<&mut C>,
    shut: impl Fn(Pin<&mut C>),
) -> bool
where
    C: Future<Output = Result<(), E>>,
    E: std::fmt::Display,
{
    let mut changes = shared.stage.clone();
    let mut stage = Stage::Serving;
    let mut next_stage = pin!(reached(shared.stage.clone(), Stage::Draining));
    let mut clock = pin!(sleep_until(activity.next_check(limits)));
    // Whom clock and stage wake. They need to be polled only once they have something to say: of the polls of a connection,
    // several a request, nearly all are of its own bytes. From the drain on they are polled each time: whoever waits for the
    // end while the drain is still being told is woken by that, and would not be woken again.
    let mut told: Option<Waker> = None;
    let mut due = 0;
    poll_fn(|cx| {
        loop {
            if let Poll::Ready(ended) = conn.as_mut().poll(cx) {
                if let Err(error) = ended {
                    tracing::debug!("a connection ended: {error}");
                }
                return Poll::Ready(false);
            }
            if activity.due.load(Ordering::Relaxed) != due {
                due = activity.due.load(Ordering::Relaxed);
                if activity.due_at().is_some_and(|at| at < clock.deadline()) {
                    clock.as_mut().reset(activity.next_check(limits));
                    told = None;
                }
            }
            let is_told = told.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()));
            let is_called = clock.is_elapsed() || (stage < Stage::Ending && changes.has_changed().unwrap_or(true));
            if is_told && !is_called && stage == Stage::Serving {
                return Poll::Pending;
            }
            if clock.as_mut().poll(cx).is_ready() {
                if stage >= Stage::Draining && activity.rests(PARTING) {
                    return Poll::Ready(false);
                }
                activity.end_untaken();
                match activity.judge(limits) {
                    Verdict::Fine if stage >= Stage::Draining => clock.as_mut().reset(Instant::now() + PARTING),
                    Verdict::Fine => clock.as_mut().reset(activity.next_check(limits)),
                    Verdict::Idle => {
                        shut(conn.as_mut());
                        // hyper ends an idle connection at once; the clock runs on in case it does not.
                        clock.as_mut().reset(Instant::now() + limits.head_timeout);
                    }
                    Verdict::SlowHead => return Poll::Ready(true),
                    Verdict::Stalled => return Poll::Ready(false),
                }
                continue;
            }
            if stage < Stage::Ending && next_stage.as_mut().poll(cx).is_ready() {
                changes.mark_unchanged();
                if stage == Stage::Serving {
                    stage = Stage::Draining;
                    shut(conn.as_mut());
                    clock.as_mut().reset(Instant::now() + PARTING);
                    next_stage.set(reached(shared.stage.clone(), Stage::Ending));
                    told = None;
                } else {
                    stage = Stage::Ending;
                    activity.ending.notify_waiters();
                    activity.nudge.note();
                }
                continue;
            }
            told = Some(cx.waker().clone());
            return Poll::Pending;
        }
    })
    .await
}

/// Waits until the process has come so far.
async fn reached(mut stage: watch::Receiver<Stage>, wanted: Stage) {
    // Without a sender it has come to its end.
    let _ = stage.wait_for(|stage| *stage >= wanted).await;
}

/// Hands each request to the pipeline, under the generation in force at that moment.
struct Requests {
    shared: Shared,
    upstream: Arc<dyn Upstream>,
    peer: SocketAddr,
    /// HTTP/2 bounds the bytes of a head only; HTTP/1.1 has counted before.
    max_headers: usize,
    activity: Arc<Activity>,
}

impl Service<Request<Incoming>> for Requests {
    type Response = Response<Answer>;
    type Error = Infallible;
    // Boxed so that the connection can be taken apart again for a late head's answer.
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let cx = Cx {
            generation: self.shared.generation.load_full(),
            state: self.shared.state.clone(),
            upstream: self.upstream.clone(),
            peer: Some(self.peer),
        };
        let under_way = UnderWay::new(self.activity.clone());
        let of_head = request.method() == Method::HEAD;
        if request.headers().len() > self.max_headers {
            let mut response = Response::new(Answer::new(Outbound::whole(""), under_way));
            *response.status_mut() = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
            return Box::pin(std::future::ready(Ok(response)));
        }
        if let Some((status, why)) = misdirected(&request) {
            let body = Outbound::whole(told("invalid_request", why));
            let mut response = Response::new(Answer::new(body, under_way));
            *response.status_mut() = status;
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            return Box::pin(std::future::ready(Ok(response)));
        }
        boxed(|| async move {
            let (head, body) = request.into_parts();
            let mut run = pin!(pipeline::run(cx, head, Inbound::Socket(body)));
            let activity = &under_way.0;
            let response = if activity.h2 {
                let mut ending = None;
                poll_fn(|cx| match run.as_mut().poll(cx) {
                    // It knows by itself what there is to say when the process ends.
                    Poll::Pending if activity.ends(&mut ending, cx) => run.as_mut().poll(cx),
                    polled => polled,
                })
                .await
            } else {
                activity.nudge.note();
                let waker = Waker::from(activity.nudge.clone());
                poll_fn(|cx| match activity.nudge.take(cx) {
                    true => run.as_mut().poll(&mut Context::from_waker(&waker)),
                    false => Poll::Pending,
                })
                .await
            };
            let response = if of_head { head_alone(response) } else { response };
            Ok(response.map(|body| Answer::new(body, under_way)))
        })
    }
}

/// The answer to a HEAD. Over HTTP/2 hyper would send the body as well; over HTTP/1.1 it takes none of it, as a client does
/// that has gone.
fn head_alone(mut response: Response<Outbound>) -> Response<Outbound> {
    if let Some(bytes) = std::mem::replace(response.body_mut(), Outbound::NONE).into_whole() {
        response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(bytes.len()));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_preface_of_http2_may_come_in_pieces() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        for (first, rest, expected) in [("PR", "I * HTTP/2.0", true), ("P", "OST / HTTP/1.1", false)] {
            let mut client = TcpStream::connect(address).await.expect("connects");
            let (stream, _) = listener.accept().await.expect("comes");
            client.write_all(first.as_bytes()).await.expect("taken");
            stream.readable().await.expect("comes");
            // It has looked once before the rest is written.
            let (h2, written) =
                tokio::join!(speaks_h2(&stream, Duration::from_secs(10)), client.write_all(rest.as_bytes()));
            written.expect("taken");
            assert_eq!(h2, Some(expected), "{first}{rest}");
        }
    }
}
