//! Dialling: TCP, TLS, Unix sockets, proxies and the built-in mock, behind one connector.
//!
//! Never pools: lanes do, and hyper-util's client, keyed by what is dialled.

use std::error::Error as StdError;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Extensions, HeaderValue, Uri};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tower_service::Service;

use super::{Dial, Proxy};
use crate::mock;

/// What lies under HTTP.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Wire {
    /// Host and port come from the request's URI; so does whether it is TLS.
    Network,
    Unix(PathBuf),
    /// This very address, whatever the URI's host resolves to by now; its name still counts for TLS.
    Address(SocketAddr),
    /// The mock provider inside this process.
    Mock,
}

/// Buffer of the in-process connection to the mock, each way.
const MOCK_BUFFER: usize = 64 << 10;

/// The proxies of the environment (`HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`, `NO_PROXY`), the trust roots, and the
/// mock's memory. Made once a process.
pub struct Proxies {
    matcher: Matcher,
    /// Exceptions that are for one port alone (`host:port`), which the matcher takes for odd names.
    at_ports: Vec<(Matcher, u16)>,
    // Made at the first TLS connection: reading some hundred certificates would double the time to start.
    tls: OnceLock<Result<Tls, rustls::Error>>,
    mock: mock::Options,
}

/// The client's side of TLS.
#[derive(Clone)]
struct Tls {
    any: Arc<rustls::ClientConfig>,
    /// The same without HTTP/2.
    http1: Arc<rustls::ClientConfig>,
}

impl Tls {
    fn new() -> Result<Self, rustls::Error> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(trust_roots())
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let http1 = Arc::new(tls.clone());
        tls.alpn_protocols.insert(0, b"h2".to_vec());
        Ok(Tls { any: Arc::new(tls), http1 })
    }
}

impl Proxies {
    pub fn new(mock: mock::Options) -> Self {
        Proxies { matcher: Matcher::from_env(), at_ports: at_ports(), tls: OnceLock::new(), mock }
    }

    fn tls(&self) -> Result<Tls, rustls::Error> {
        self.tls.get_or_init(Tls::new).clone()
    }

    fn intercept(&self, dial: &Dial, uri: &Uri) -> Option<Intercept> {
        match &dial.proxy {
            Proxy::Url(proxy) => Matcher::builder().all(proxy.as_str()).build().intercept(uri),
            Proxy::Off => None,
            Proxy::Environment => self.matcher.intercept(uri).filter(|_| !self.is_excepted(uri)),
        }
    }

    /// Whether the port of an address is excepted.
    fn is_excepted(&self, uri: &Uri) -> bool {
        let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
        self.at_ports.iter().any(|(hosts, of)| *of == port && hosts.intercept(uri).is_none())
    }
}

/// What `NO_PROXY` excepts at one port alone: all but such hosts are intercepted.
fn at_ports() -> Vec<(Matcher, u16)> {
    let list = ["NO_PROXY", "no_proxy"].into_iter().find_map(|name| std::env::var(name).ok()).unwrap_or_default();
    let entries = list.split(',').filter_map(|entry| entry.trim().rsplit_once(':'));
    // Of an IPv6 address without brackets the last part is no port.
    let entries = entries.filter(|(host, _)| !host.contains(':') || host.ends_with(']'));
    let hosts = |host: &str| Matcher::builder().all("http://proxy").no(host.trim_matches(['[', ']'])).build();
    entries.filter_map(|(host, port)| Some((hosts(host), port.parse().ok()?))).collect()
}

/// The system's roots (`SSL_CERT_FILE` is honoured), or Mozilla's where there are none, as in scratch images.
pub fn trust_roots() -> rustls::RootCertStore {
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    roots
}

/// Connects for one pool.
#[derive(Clone)]
pub struct Connector {
    dial: Arc<Dial>,
    proxies: Arc<Proxies>,
    http: HttpConnector,
}

impl Connector {
    pub fn new(dial: Arc<Dial>, proxies: Arc<Proxies>) -> Self {
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_keepalive(Some(Duration::from_secs(60)));
        Connector { dial, proxies, http }
    }

    /// Connects, within the dial's time.
    pub async fn dial(self, uri: Uri) -> Result<Io, BoxError> {
        // One bound for name lookup, TCP, proxy and TLS together.
        match tokio::time::timeout(self.dial.connect_timeout, self.connect(uri)).await {
            Ok(connected) => connected,
            Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
        }
    }

    async fn connect(&self, uri: Uri) -> Result<Io, BoxError> {
        let (stream, proxy) = match &self.dial.wire {
            Wire::Unix(path) => (Stream::Unix(UnixStream::connect(path).await?), None),
            Wire::Mock => {
                let (near, far) = tokio::io::duplex(MOCK_BUFFER);
                tokio::spawn(mock::connection(far, self.proxies.mock.clone()));
                (Stream::Duplex(near), None)
            }
            Wire::Network => self.network(&uri).await?,
            Wire::Address(address) => {
                let tcp = TcpStream::connect(address).await?;
                tcp.set_nodelay(true)?;
                (self.secured(&uri, tcp).await?, None)
            }
        };
        Ok(Io { stream, proxy, trail: Trail::default() })
    }

    async fn network(&self, uri: &Uri) -> Result<(Stream, Option<Hop>), BoxError> {
        let tls = uri.scheme_str() == Some("https");
        let mut http = self.http.clone();
        let (tcp, hop) = match self.proxies.intercept(&self.dial, uri) {
            None => (http.call(uri.clone()).await?, None),
            // Another kind would be told our password in the clear, and understand none of it.
            Some(proxy) if proxy.uri().scheme_str() != Some("http") => {
                return Err(format!("the proxy {} is none of HTTP; write http://host:port", proxy.uri()).into());
            }
            Some(proxy) if tls => {
                let mut tunnel = Tunnel::new(proxy.uri().clone(), http);
                if let Some(auth) = proxy.basic_auth() {
                    tunnel = tunnel.with_auth(auth.clone());
                }
                (tunnel.call(uri.clone()).await?, None)
            }
            Some(proxy) => {
                let hop = Hop { auth: proxy.basic_auth().cloned() };
                (http.call(proxy.uri().clone()).await?, Some(hop))
            }
        };
        Ok((self.secured(uri, tcp.into_inner()).await?, hop))
    }

    /// The connection, under TLS where the URI asks for it.
    async fn secured(&self, uri: &Uri, tcp: TcpStream) -> Result<Stream, BoxError> {
        if uri.scheme_str() != Some("https") {
            return Ok(Stream::Tcp(tcp));
        }
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(host.to_owned())?;
        let tls = self.proxies.tls()?;
        let connector = TlsConnector::from(if self.dial.speaks_http1(uri) { tls.http1 } else { tls.any });
        Ok(Stream::Tls(Box::new(connector.connect(name, tcp).await?)))
    }
}

/// Whatever went wrong while connecting.
pub type BoxError = Box<dyn StdError + Send + Sync>;

impl Service<Uri> for Connector {
    type Response = TokioIo<Io>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let this = self.clone();
        Box::pin(async move { this.dial(uri).await.map(TokioIo::new) })
    }
}

/// Whether the connection could not be made in time.
pub fn timed_out(error: &(dyn StdError + 'static)) -> bool {
    let mut source = Some(error);
    while let Some(cause) = source {
        if cause.downcast_ref::<io::Error>().is_some_and(|io| io.kind() == io::ErrorKind::TimedOut) {
            return true;
        }
        source = cause.source();
    }
    false
}

/// Whether the upstream closed a kept connection at the very moment we used it: it had answered before, and since the
/// request was written no byte came back. Such a request was not served and may be sent again.
pub fn fell_into_race(error: &legacy::Error) -> bool {
    if error.is_connect() {
        return false;
    }
    let mut extras = Extensions::new();
    if let Some(info) = error.connect_info() {
        info.get_extras(&mut extras);
    }
    extras.get::<Trail>().is_some_and(Trail::raced)
}

/// What passed over a connection, shared with whoever judges its failure.
#[derive(Debug, Clone, Default)]
struct Trail(Arc<Passed>);

#[derive(Debug, Default)]
struct Passed {
    /// A byte has been read at some time.
    answered: AtomicBool,
    /// A byte has been read since the last write.
    answering: AtomicBool,
}

impl Trail {
    fn read(&self) {
        self.0.answered.store(true, Ordering::Relaxed);
        self.0.answering.store(true, Ordering::Relaxed);
    }

    fn wrote(&self) {
        self.0.answering.store(false, Ordering::Relaxed);
    }

    fn raced(&self) -> bool {
        self.0.answered.load(Ordering::Relaxed) && !self.0.answering.load(Ordering::Relaxed)
    }
}

/// A connected stream of any wire.
pub struct Io {
    stream: Stream,
    proxy: Option<Hop>,
    trail: Trail,
}

/// A proxy that passes plain requests on.
#[derive(Debug)]
pub struct Hop {
    /// What it knows us by.
    pub auth: Option<HeaderValue>,
}

impl Io {
    /// A connection within the process.
    #[cfg(test)]
    pub fn within(stream: DuplexStream) -> Self {
        Io { stream: Stream::Duplex(stream), proxy: None, trail: Trail::default() }
    }

    /// Whether a proxy reads the request's address.
    pub fn proxy(&self) -> Option<&Hop> {
        self.proxy.as_ref()
    }
}

enum Stream {
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    Unix(UnixStream),
    Duplex(DuplexStream),
}

macro_rules! each {
    ($io:expr, $stream:ident => $call:expr) => {
        match &mut $io.stream {
            Stream::Tcp($stream) => $call,
            Stream::Tls($stream) => $call,
            Stream::Unix($stream) => $call,
            Stream::Duplex($stream) => $call,
        }
    };
}

impl AsyncRead for Io {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let this = self.get_mut();
        let polled = each!(this, stream => Pin::new(stream).poll_read(cx, buf));
        if buf.filled().len() > before {
            this.trail.read();
        }
        polled
    }
}

impl AsyncWrite for Io {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.trail.wrote();
        each!(self.get_mut(), stream => Pin::new(stream).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.trail.wrote();
        each!(self.get_mut(), stream => Pin::new(stream).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Tcp(stream) => stream.is_write_vectored(),
            Stream::Tls(stream) => stream.is_write_vectored(),
            Stream::Unix(stream) => stream.is_write_vectored(),
            Stream::Duplex(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_shutdown(cx))
    }
}

impl Connection for Io {
    fn connected(&self) -> Connected {
        let connected = Connected::new().proxy(self.proxy.is_some()).extra(self.trail.clone());
        match &self.stream {
            Stream::Tls(tls) if tls.get_ref().1.alpn_protocol() == Some(b"h2") => connected.negotiated_h2(),
            _ => connected,
        }
    }
}
