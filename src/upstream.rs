//! Connections to upstreams: dialling, pooling, one request and the head of its answer.
//!
//! Never retries for a reason that an answer gives: `attempt` does. The one thing repeated here is a request that fell
//! into the keep-alive race, because no attempt was made as far as the upstream knows.

mod connect;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::{HeaderMap, Method, Request, Response, Uri};
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::time::timeout;

use crate::body::{Inbound, Outgoing, error_chain};
use crate::fault::{Fault, Kind};

pub use connect::{Connector, Proxies, Wire, trust_roots};

/// How long an idle connection is kept. Below the idle limits of the big providers' front ends (60 s and more); peers
/// with shorter ones (Node closes after 5 s) are covered by the replay of [`Pools::send`].
const POOL_IDLE: Duration = Duration::from_secs(30);

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
    pub headers: HeaderMap,
    pub body: Outgoing,
}

/// Something that sends requests to upstreams.
pub trait Upstream: Send + Sync {
    /// Sends and waits for the head of the answer, at most `head_timeout`.
    ///
    /// # Errors
    /// [`Kind::UpstreamUnreachable`], [`Kind::ConnectTimeout`], [`Kind::HeadTimeout`].
    fn send(&self, dial: &Arc<Dial>, request: Outbound, head_timeout: Duration) -> Sending<'_>;
}

/// The pending head of an answer.
pub type Sending<'a> = std::pin::Pin<Box<dyn Future<Output = Result<Response<Inbound>, Fault>> + Send + 'a>>;

type Client = legacy::Client<Connector, Outgoing>;

/// The connection pools of one worker thread. They outlive reloads: a target whose dialling did not change keeps its
/// warm connections.
pub struct Pools {
    // Each worker has its own, so the lock is never contended; it is there because futures must be `Send`.
    clients: Mutex<HashMap<Arc<Dial>, Client>>,
    proxies: Arc<Proxies>,
}

impl Pools {
    pub fn new(proxies: Arc<Proxies>) -> Self {
        Pools { clients: Mutex::new(HashMap::new()), proxies }
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

    async fn send_once(&self, client: &Client, request: &Outbound) -> Result<Response<Inbound>, legacy::Error> {
        let mut outgoing = Request::new(request.body.clone());
        *outgoing.method_mut() = request.method.clone();
        *outgoing.uri_mut() = request.uri.clone();
        *outgoing.headers_mut() = request.headers.clone();
        client.request(outgoing).await.map(|response| response.map(Inbound::Socket))
    }
}

impl Upstream for Pools {
    fn send(&self, dial: &Arc<Dial>, request: Outbound, head_timeout: Duration) -> Sending<'_> {
        let client = self.client(dial);
        let connect_timeout = dial.connect_timeout;
        Box::pin(async move {
            let exchange = async {
                match self.send_once(&client, &request).await {
                    Err(error) if connect::fell_into_race(&error) => self.send_once(&client, &request).await,
                    other => other,
                }
            };
            match timeout(head_timeout, exchange).await {
                Ok(Ok(response)) => Ok(response),
                Ok(Err(error)) => Err(fault(&error, connect_timeout)),
                Err(_) => {
                    let text = format!("The provider sent no answer within {head_timeout:?}.");
                    Err(Fault::new(Kind::HeadTimeout, text))
                }
            }
        })
    }
}

fn fault(error: &legacy::Error, connect_timeout: Duration) -> Fault {
    let chain = error_chain(error);
    if error.is_connect() {
        if connect::timed_out(error) {
            let text = format!("No connection to the provider within {connect_timeout:?}.");
            return Fault::new(Kind::ConnectTimeout, text).because(chain);
        }
        return Fault::new(Kind::UpstreamUnreachable, "No connection to the provider.").because(chain);
    }
    Fault::new(Kind::UpstreamUnreachable, "The provider closed the connection before it answered.").because(chain)
}
