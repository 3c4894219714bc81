//! Connections to what is measured: plain or TLS, HTTP/1.1 by hand or HTTP/2. Knows bytes, no answers.

use std::cell::Cell;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::client::SendRequest;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::task::spawn_local;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::args::Args;

/// Room for what a server may send of all streams of a connection, and of one, before it waits: enough for the largest
/// answers, so that no case measures the generator's windows.
const WINDOW_BYTES: u32 = 8 << 20;

/// Where connections go, and how.
pub struct Way {
    address: String,
    tls: Option<TlsConnector>,
    /// The HTTP/2 connections that all requests share; none means HTTP/1.1.
    shared: Vec<Mutex<Option<SendRequest<Bytes>>>>,
    next: Cell<usize>,
}

impl Way {
    pub fn new(address: String, args: &Args) -> Self {
        let tls = args.ca.as_deref().map(|path| TlsConnector::from(Arc::new(trusting(path, args.h2 > 0))));
        let shared = (0..args.h2).map(|_| Mutex::default()).collect();
        Way { address, tls, shared, next: Cell::new(0) }
    }

    pub async fn open(&self) -> io::Result<Conn> {
        if self.shared.is_empty() {
            let io = self.connect().await?;
            return Ok(Conn::One(One { io, buf: Vec::with_capacity(16 << 10) }));
        }
        let slot = &self.shared[self.next.get() % self.shared.len()];
        self.next.set(self.next.get() + 1);
        let mut slot = slot.lock().await;
        if let Some(send) = slot.clone()
            && let Ok(send) = send.ready().await
        {
            return Ok(Conn::Many(send));
        }
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(WINDOW_BYTES).initial_connection_window_size(WINDOW_BYTES);
        let (send, connection) = builder.handshake(self.connect().await?).await.map_err(io::Error::other)?;
        spawn_local(async move {
            // Its end is seen by the requests on it.
            let _ = connection.await;
        });
        *slot = Some(send.clone());
        Ok(Conn::Many(send))
    }

    async fn connect(&self) -> io::Result<Io> {
        let stream = TcpStream::connect(&self.address).await?;
        stream.set_nodelay(true)?;
        match &self.tls {
            None => Ok(Io::Plain(stream)),
            Some(tls) => {
                let name = ServerName::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST).into());
                Ok(Io::Tls(Box::new(tls.connect(name, stream).await?)))
            }
        }
    }
}

/// Trusts the one certificate that the run has made.
fn trusting(path: &str, h2: bool) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    let certificate = CertificateDer::from_pem_file(path).expect("--ca is a PEM file");
    roots.add(certificate).expect("--ca is a certificate");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let mut config =
        builder.expect("the provider has the versions").with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![if h2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
    config
}

/// What a request is made on.
pub enum Conn {
    One(One),
    Many(SendRequest<Bytes>),
}

/// A kept HTTP/1.1 connection, and what has been read of it and not used.
pub struct One {
    io: Io,
    pub buf: Vec<u8>,
}

impl One {
    pub async fn send(&mut self, request: &[u8]) -> io::Result<()> {
        self.io.write_all(request).await?;
        // TLS may have kept the end of it.
        self.io.flush().await
    }

    /// Bytes read; 0 at the end of the connection.
    pub async fn read(&mut self) -> io::Result<usize> {
        self.io.read_buf(&mut self.buf).await
    }
}

pub enum Io {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Hands a call on to whichever it is.
macro_rules! either {
    ($self:ident, $io:ident => $call:expr) => {
        match $self.get_mut() {
            Io::Plain($io) => {
                let $io = Pin::new($io);
                $call
            }
            Io::Tls($io) => {
                let $io = Pin::new($io.as_mut());
                $call
            }
        }
    };
}

impl AsyncRead for Io {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut tokio::io::ReadBuf<'_>) -> Poll<io::Result<()>> {
        either!(self, io => io.poll_read(cx, buf))
    }
}

impl AsyncWrite for Io {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        either!(self, io => io.poll_write(cx, data))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, io => io.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, io => io.poll_shutdown(cx))
    }
}
