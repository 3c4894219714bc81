//! Connections to upstreams: dialling, pooling, one request and the head of its answer.
//!
//! Never retries for a reason that an answer gives: `attempt` does. The one thing repeated here is a request that fell
//! into the keep-alive race, because no attempt was made as far as the upstream knows.

mod connect;
mod headers;
mod http1;
mod lane;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::uri::Scheme;
use http::{Method, Request, Response, StatusCode, Uri};
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::time::{Instant, timeout};

use crate::body::{Inbound, Outgoing, error_chain};
use crate::fault::{Fault, Kind};

pub use connect::{Connector, Proxies, Wire, trust_roots};
pub use headers::Headers;
pub use http1::Body;
use http1::{Conn, Lost};
use lane::Lane;

/// How long an idle connection is kept at most. Below the idle limits of the big providers' front ends (60 s and more); peers
/// with shorter ones (Node closes after 5 s) are covered by the replay of [`Pools::send`].
const POOL_IDLE: Duration = Duration::from_secs(30);

/// How soon after a request a kept connection must have ended for the two to have crossed each other. A server that had begun
/// to serve it may end later; what it did is not to be done twice.
const RACE: Duration = Duration::from_secs(1);

/// Idle connections kept for one address. Enough for the bursts of one worker; more would only age.
const POOL_MAX_IDLE: usize = 1024;

/// Where and how to connect: everything that tells one pool of connections from another.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Dial {
    pub wire: Wire,
    pub connect_timeout: Duration,
    /// HTTP/2 without negotiation (`http2: true` on a plain-text base URL).
    pub http2_only: bool,
    /// HTTP/2 is not offered (`http2: false`).
    pub http1_only: bool,
    pub proxy: Proxy,
}

impl Dial {
    /// Whether an upstream is spoken to in HTTP/1.1 whatever it offers: it is then offered nothing else.
    fn speaks_http1(&self, uri: &Uri) -> bool {
        let negotiated = self.wire == Wire::Network && uri.scheme() == Some(&Scheme::HTTPS) && !self.http1_only;
        !self.http2_only && !negotiated
    }
}

/// The proxy that an upstream is reached through.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Proxy {
    /// What the environment says.
    Environment,
    /// None, whatever the environment says.
    Off,
    Url(String),
}

/// One request as it goes out. The body can be sent twice: its slices are shared.
#[derive(Debug, Clone)]
pub struct Outbound {
    pub method: Method,
    pub uri: Uri,
    pub headers: Headers,
    pub body: Outgoing,
    /// `provider/model`, where only an adapter knows how the request says so; for those who play upstreams.
    pub target: Option<String>,
}

/// Something that sends requests to upstreams.
pub trait Upstream: Send + Sync {
    /// Sends and waits for the head of the answer, at most `head_timeout`.
    ///
    /// # Errors
    /// [`Kind::UpstreamUnreachable`], [`Kind::ConnectTimeout`], [`Kind::HeadTimeout`].
    fn send<'a>(&'a self, dial: &'a Arc<Dial>, request: Box<Outbound>, head_timeout: Duration) -> Sending<'a>;

    /// Whether it opens connections. Who plays answers needs no addresses, so that none is looked up for it.
    fn connects(&self) -> bool {
        true
    }
}

/// The pending head of an answer.
pub type Sending<'a> = std::pin::Pin<Box<dyn Future<Output = Result<Response<Inbound>, Fault>> + Send + 'a>>;

type Client = legacy::Client<Connector, Outgoing>;

/// The connection pools of one worker thread. They outlive reloads: a target whose dialling did not change keeps its
/// warm connections.
///
/// Where HTTP/1.1 is certain the connections are our own ([`http1`]); where TLS may choose HTTP/2, or the operator has,
/// they are hyper-util's, which know how to share one connection.
pub struct Pools {
    // Each worker has its own, so the locks are never contended; they are there because futures must be `Send`.
    lanes: Mutex<Vec<Way>>,
    clients: Mutex<HashMap<Arc<Dial>, Client>>,
    proxies: Arc<Proxies>,
}

/// The lane to one address.
struct Way {
    dial: Arc<Dial>,
    scheme: Option<Scheme>,
    authority: Option<http::uri::Authority>,
    lane: Arc<Lane>,
}

impl Pools {
    pub fn new(proxies: Arc<Proxies>) -> Self {
        Pools { lanes: Mutex::default(), clients: Mutex::default(), proxies }
    }

    /// The lane to an address. Found by the identity of its dial, which is cheaper to compare than what is in it; after
    /// a reload by its content, once.
    fn lane(&self, dial: &Arc<Dial>, uri: &Uri) -> Arc<Lane> {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let leads = |way: &Way| way.authority.as_ref() == uri.authority() && way.scheme.as_ref() == uri.scheme();
        if let Some(way) = lanes.iter().find(|way| Arc::ptr_eq(&way.dial, dial) && leads(way)) {
            return way.lane.clone();
        }
        if let Some(way) = lanes.iter_mut().find(|way| way.dial == *dial && leads(way)) {
            way.dial = dial.clone();
            return way.lane.clone();
        }
        // Those of earlier generations that nobody uses any more: one reference is here.
        lanes.retain(|way| Arc::strong_count(&way.lane) > 1 || Arc::strong_count(&way.dial) > 1);
        let (scheme, authority) = (uri.scheme().cloned(), uri.authority().cloned());
        let lane = Arc::new(Lane::default());
        lanes.push(Way { dial: dial.clone(), scheme, authority, lane: lane.clone() });
        lane
    }

    fn client(&self, dial: &Arc<Dial>) -> Client {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(dial) {
            return client.clone();
        }
        let client = legacy::Client::builder(TokioExecutor::new())
            .pool_idle_timeout(POOL_IDLE)
            .pool_max_idle_per_host(POOL_MAX_IDLE)
            .pool_timer(TokioTimer::new())
            .timer(TokioTimer::new())
            .http2_only(dial.http2_only)
            // Finds dead peers that a firewall forgot: without it a stream would hang until its idle timeout.
            .http2_keep_alive_interval(Duration::from_secs(20))
            .http2_adaptive_window(true)
            .build(Connector::new(dial.clone(), self.proxies.clone()));
        clients.insert(dial.clone(), client.clone());
        client
    }

    async fn send_http1(&self, dial: &Arc<Dial>, request: &Outbound) -> Result<Response<Inbound>, Fault> {
        let lane = self.lane(dial, &request.uri);
        if let Some(conn) = lane.take() {
            let began = Instant::now();
            match conn.send(request, lane.clone()).await {
                Err(Lost { raced: true, .. }) if began.elapsed() < RACE => {}
                answered => return answered.map(direct).map_err(unanswered),
            }
        }
        // Boxed: dialling is rare, and its future is larger than all others of a request together.
        let connector = Connector::new(dial.clone(), self.proxies.clone());
        let io = Box::pin(connector.dial(request.uri.clone())).await;
        let io = io.map_err(|error| unreachable(&*error, dial.connect_timeout))?;
        Conn::new(io).send(request, lane).await.map(direct).map_err(unanswered)
    }

    async fn send_negotiated(&self, dial: &Arc<Dial>, request: &Outbound) -> Result<Response<Inbound>, Fault> {
        let client = self.client(dial);
        let once = async || {
            let mut outgoing = Request::new(request.body.clone());
            *outgoing.method_mut() = request.method.clone();
            *outgoing.uri_mut() = request.uri.clone();
            outgoing.headers_mut().clone_from(&request.headers);
            client.request(outgoing).await.map(|response| response.map(Inbound::Socket))
        };
        let began = Instant::now();
        let answered = match once().await {
            Err(error) if began.elapsed() < RACE && connect::fell_into_race(&error) => once().await,
            other => other,
        };
        answered.map_err(|error| match error.is_connect() {
            true => unreachable(&error, dial.connect_timeout),
            false => closed(error_chain(&error)),
        })
    }
}

impl Upstream for Pools {
    fn send<'a>(&'a self, dial: &'a Arc<Dial>, request: Box<Outbound>, head_timeout: Duration) -> Sending<'a> {
        Box::pin(async move {
            let answered = if dial.speaks_http1(&request.uri) {
                timeout(head_timeout, self.send_http1(dial, &request)).await
            } else {
                timeout(head_timeout, Box::pin(self.send_negotiated(dial, &request))).await
            };
            match answered {
                // No provider's word: who asks the way, not who serves, wants to know us.
                Ok(Ok(answer)) if answer.status() == StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
                    Err(unknown_to_proxy())
                }
                Ok(answered) => answered,
                Err(_) => {
                    let text = format!("The provider sent no answer within {head_timeout:?}.");
                    Err(Fault::new(Kind::HeadTimeout, text))
                }
            }
        })
    }
}

fn direct(response: Response<Body>) -> Response<Inbound> {
    response.map(|body| Inbound::Direct(Box::new(body)))
}

fn unreachable(error: &(dyn std::error::Error + 'static), connect_timeout: Duration) -> Fault {
    if connect::timed_out(error) {
        let text = format!("No connection to the provider within {connect_timeout:?}.");
        return Fault::new(Kind::ConnectTimeout, text).because(error_chain(error));
    }
    let why = error_chain(error);
    // hyper-util's error of a tunnel has no public type; `proxies_that_want_another_credential_are_named` holds its words.
    if why.contains("proxy authorization required") {
        return unknown_to_proxy();
    }
    Fault::new(Kind::UpstreamUnreachable, "No connection to the provider.").because(why)
}

fn unknown_to_proxy() -> Fault {
    let text = "The proxy on the way to the provider refused the gateway's credential, or was given none; the operator \
                checks user and password in the provider's `proxy`, or in HTTPS_PROXY and HTTP_PROXY.";
    Fault::new(Kind::UpstreamUnreachable, text).because("407 from the proxy")
}

fn unanswered(lost: Lost) -> Fault {
    if lost.unread {
        let text = format!("The provider's answer cannot be read: {}. Check what answers at its `base_url`.", lost.why);
        return Fault::new(Kind::BadAnswer, text).because(lost.why);
    }
    closed(lost.why)
}

fn closed(why: String) -> Fault {
    Fault::new(Kind::UpstreamUnreachable, "The provider closed the connection before it answered.").because(why)
}
