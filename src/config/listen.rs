//! Where the gateway and its admin API listen, and what a connection may cost.

use std::net::SocketAddr;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use super::value::{ByteSize, Duration, Secret};

/// The listener for clients.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Listen {
    /// IP address and port: `127.0.0.1:4100`, `0.0.0.0:4100`, `[::]:4100`. Port 0 takes a free one. An address that other machines can reach needs `keys`, or `auth.open`.
    #[serde(deserialize_with = "listen_address")]
    pub address: String,
    /// Certificate and key for HTTPS; without it the listener speaks plain HTTP.
    pub tls: Option<Tls>,
    /// What one connection and one request may cost.
    pub limits: Limits,
    /// Threads that serve requests, a connection each by the one that has fewest; when not set, one for each core the process may use.
    pub workers: Option<usize>,
    /// Addresses or networks (`10.0.0.0/8`) of proxies whose `x-forwarded-for` is believed: the log then shows the caller's address, not theirs.
    pub trusted_proxies: Vec<String>,
}

impl Default for Listen {
    fn default() -> Self {
        Listen {
            address: "127.0.0.1:4100".to_owned(),
            tls: None,
            limits: Limits::default(),
            workers: None,
            trusted_proxies: Vec::new(),
        }
    }
}

impl Listen {
    /// The address, read. `check` has made sure that it can be.
    pub fn socket(&self) -> Option<SocketAddr> {
        self.address.parse().ok()
    }
}

/// Files for TLS. They are read again when they change.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// PEM file with the certificate and its chain, leaf first.
    pub cert: PathBuf,
    /// PEM file with the private key.
    pub key: PathBuf,
    /// PEM file with the authorities whose client certificates are accepted; when set, clients without one are refused (mTLS).
    #[serde(default)]
    pub client_ca: Option<PathBuf>,
}

/// Bounds on what a connection and a request may cost. Each refusal has its own status.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Bytes of a request's head; larger ones get 431.
    pub max_head_bytes: ByteSize,
    /// Header lines of a request; more get 431.
    pub max_headers: usize,
    /// Time for the TLS handshake and, again, for the whole head; slower clients get 408.
    pub head_timeout: Duration,
    /// Bytes of a request's body, also when it comes in chunks; larger ones get 413.
    pub max_body_bytes: ByteSize,
    /// Time for the whole body of a request; slower clients get 408.
    pub body_timeout: Duration,
    /// Bytes of an upstream answer that is not streamed; larger ones count as a fault of the upstream.
    pub max_answer_bytes: ByteSize,
    /// Client connections at the same time, rounded up to as many for each worker; further ones wait in the queue of the operating system.
    pub max_connections: usize,
    /// How long an idle client connection is kept open.
    pub keep_alive_timeout: Duration,
    /// Requests at the same time on one HTTP/2 connection.
    pub max_streams: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            max_head_bytes: ByteSize::kib(64),
            max_headers: 100,
            head_timeout: Duration::from_secs(10),
            max_body_bytes: ByteSize::mib(64),
            body_timeout: Duration::from_secs(60),
            max_answer_bytes: ByteSize::mib(64),
            max_connections: 16_384,
            // Longer than the 60 s of the usual load balancers, so that it is they who close first.
            keep_alive_timeout: Duration::from_secs(75),
            max_streams: 256,
        }
    }
}

/// An address out of a variable that is empty is the default one, like one that is not written.
fn listen_address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_else(|| Listen::default().address))
}

fn admin_address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_else(|| Admin::default().address))
}

/// The listener for operators: metrics, health, reload.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Admin {
    /// IP address and port, or `off`. An address that other machines can reach needs a token.
    #[serde(deserialize_with = "admin_address")]
    pub address: String,
    /// Bearer token that every admin request must carry; when not set, none is asked for, and web pages of other sites are refused.
    pub token: Option<Secret>,
}

impl Default for Admin {
    fn default() -> Self {
        Admin { address: "127.0.0.1:4101".to_owned(), token: None }
    }
}

impl Admin {
    /// Whether there is an admin listener. Tools that still speak YAML 1.1 write `off` back as `false`.
    pub fn is_off(&self) -> bool {
        matches!(self.address.as_str(), "off" | "false")
    }

    /// The address, read. None when the listener is off.
    pub fn socket(&self) -> Option<SocketAddr> {
        self.address.parse().ok()
    }
}

/// How the process ends.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Drain {
    /// After SIGTERM, how long running requests may take to finish. Set Kubernetes' `terminationGracePeriodSeconds` above it.
    pub timeout: Duration,
}

impl Default for Drain {
    fn default() -> Self {
        Drain { timeout: Duration::from_secs(30) }
    }
}
