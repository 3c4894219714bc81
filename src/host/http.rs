//! Asking hosts outside: granted ones only, over pooled connections, bounded in time and size.
//!
//! The name is resolved here, every address is looked at, and the very address that was looked at is dialled: an answer
//! of the name server that changes in between changes nothing. Follows no redirect.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{HOST, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use tokio::time::{Instant, timeout};

use super::{Cx, HostError, secret};
use crate::body::{Outgoing, Patience, ReadError};
use crate::upstream::{Dial, Outbound, Proxy, Wire};

/// Time of one request when the guest says nothing, and the most it may say.
const TIMEOUT: Duration = Duration::from_secs(2);
const MAX_TIMEOUT: Duration = Duration::from_secs(30);
/// The largest answer that is read.
const MAX_ANSWER_BYTES: usize = 1 << 20;
const AGENT: HeaderValue = HeaderValue::from_static(concat!("portcullis-policy/", env!("CARGO_PKG_VERSION")));
/// Headers that belong to the connection and not to a guest.
const OURS: &[&str] = &["host", "connection", "content-length", "transfer-encoding", "upgrade", "te", "trailer"];

/// A request as a guest writes it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Request {
    pub url: String,
    /// `GET`, or `POST` where there is a body, when not given.
    pub method: Option<String>,
    /// None takes one out that would be there.
    pub headers: BTreeMap<String, Option<Header>>,
    pub body: Vec<u8>,
    pub timeout_ms: Option<f64>,
}

/// The value of a header: text, or a secret by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Header {
    Text(String),
    Secret(String),
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// Sends a request and reads the whole answer.
///
/// # Errors
/// The host is not granted, its address is private, or the answer is late or too large.
pub async fn fetch(cx: &Cx, request: Request) -> Result<Answer, HostError> {
    let span = match request.timeout_ms {
        None => TIMEOUT,
        Some(ms) => Duration::try_from_secs_f64(ms / 1000.0)
            .ok()
            .filter(|span| *span <= MAX_TIMEOUT)
            .ok_or_else(|| HostError(format!("timeout_ms is from 0 to {}", MAX_TIMEOUT.as_millis())))?,
    };
    let host = request.url.clone();
    match cx.lease.wait(timeout(span, send(cx, request, span))).await? {
        Ok(answer) => answer,
        Err(_) => Err(HostError(format!("`{}` did not answer within {span:?}", shown(&host)))),
    }
}

/// A URL without its query, which may hold what nobody should read in a log.
fn shown(url: &str) -> &str {
    url.split('?').next().unwrap_or(url)
}

async fn send(cx: &Cx, request: Request, span: Duration) -> Result<Answer, HostError> {
    let uri: Uri = request.url.parse().map_err(|_| HostError(format!("`{}` is no URL", shown(&request.url))))?;
    let (host, port) = place(&uri)?;
    granted(cx, &host, port, uri.scheme_str() == Some("https"))?;
    let upstream = cx.world()?.upstream();
    let wire = match upstream.connects() {
        true => Wire::Address(resolve(cx, &host, port).await?),
        false => Wire::Network,
    };
    let headers = headers(cx, &request, &uri)?;
    let method = match request.method.as_deref() {
        None if request.body.is_empty() => Method::GET,
        None => Method::POST,
        Some(method) => Method::from_bytes(method.to_ascii_uppercase().as_bytes())
            .map_err(|_| HostError(format!("`{method}` is no method")))?,
    };
    let dial = Arc::new(Dial {
        wire,
        connect_timeout: span,
        http2_only: false,
        http1_only: false,
        // A proxy would resolve the name by itself.
        proxy: Proxy::Off,
    });
    let outbound = Outbound { method, uri, headers: headers.into(), body: Outgoing::from(request.body), target: None };
    let response = upstream
        .send(&dial, Box::new(outbound), span)
        .await
        .map_err(|fault| HostError(format!("`{host}`: {}", fault.source.as_deref().unwrap_or(&fault.message))))?;
    let (head, mut body) = response.into_parts();
    let patience = Patience { first: Instant::now() + span, idle: span };
    let body = body.read(MAX_ANSWER_BYTES, Some(patience)).await.map_err(|error| match error {
        ReadError::TooLarge => HostError(format!("`{host}` answered more than {MAX_ANSWER_BYTES} bytes")),
        ReadError::Silent | ReadError::Broken(_) | ReadError::Malformed(_) => {
            HostError(format!("the answer of `{host}` broke off"))
        }
    })?;
    Ok(Answer { status: head.status.as_u16(), headers: head.headers, body })
}

fn place(uri: &Uri) -> Result<(String, u16), HostError> {
    let port = match uri.scheme_str() {
        Some("https") => 443,
        Some("http") => 80,
        _ => return Err(HostError::new("the URL begins with neither https:// nor http://")),
    };
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err(HostError::new("the URL holds credentials; send them in a header"));
    }
    let host = uri.host().ok_or_else(|| HostError::new("the URL names no host"))?;
    let host = host.trim_start_matches('[').trim_end_matches(']').trim_end_matches('.').to_ascii_lowercase();
    Ok((host, uri.port_u16().unwrap_or(port)))
}

/// Whether the operator lets this guest ask the host. A grant without a port is for the scheme's own.
fn granted(cx: &Cx, host: &str, port: u16, tls: bool) -> Result<(), HostError> {
    let usual = if tls { 443 } else { 80 };
    let fits = |grant: &String| {
        let (name, wanted) = match grant.rsplit_once(':') {
            // An IPv6 address has colons of its own.
            Some((name, number)) if !name.contains(':') || name.ends_with(']') => (name, number.parse().ok()),
            _ => (grant.as_str(), None),
        };
        let name = name.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        let same = match name.strip_prefix("*.") {
            Some(end) => host.strip_suffix(end).is_some_and(|rest| rest.ends_with('.') && rest.len() > 1),
            None => host == name,
        };
        same && wanted.unwrap_or(usual) == port
    };
    if cx.guest.grants.http.iter().any(fits) {
        return Ok(());
    }
    let text = format!(
        "the host `{host}:{port}` is not granted; the operator writes it under `grants.http` of the hook `{}`",
        cx.guest.name
    );
    Err(HostError(text))
}

async fn resolve(cx: &Cx, host: &str, port: u16) -> Result<SocketAddr, HostError> {
    let found = tokio::net::lookup_host((host, port)).await;
    let found: Vec<SocketAddr> = found.map_err(|error| HostError(format!("`{host}`: {error}")))?.collect();
    let public = |address: &&SocketAddr| cx.guest.grants.private_addresses || is_public(address.ip());
    match found.iter().find(public) {
        Some(address) => Ok(*address),
        None if found.is_empty() => Err(HostError(format!("`{host}` has no address"))),
        None => Err(HostError(format!(
            "`{host}` has a private address; the operator allows it by `grants.private_addresses: true`"
        ))),
    }
}

/// Whether an address is on the public internet: nothing that leads back into this machine or network.
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => {
            let [first, second, ..] = v6.segments();
            // Addresses that carry an IPv4 one: mapped, compatible, NAT64, 6to4.
            let inner = v6.to_ipv4().or_else(|| match v6.segments() {
                [0x64, 0xff9b, 0, 0, 0, 0, a, b] => Some(Ipv4Addr::from((u32::from(a) << 16) | u32::from(b))),
                [0x2002, a, b, ..] => Some(Ipv4Addr::from((u32::from(a) << 16) | u32::from(b))),
                _ => None,
            });
            inner.is_none_or(is_public_v4)
                && !v6.is_loopback()
                && !v6.is_unspecified()
                && !v6.is_multicast()
                // Unique local, link-local, site-local, documentation, discard.
                && first & 0xfe00 != 0xfc00
                && first & 0xffc0 != 0xfe80
                && first & 0xffc0 != 0xfec0
                && !(first == 0x2001 && second == 0xdb8)
                && first != 0x100
        }
    }
}

fn is_public_v4(v4: Ipv4Addr) -> bool {
    let [a, b, c, _] = v4.octets();
    !(v4.is_private()
        || v4.is_loopback()
        || v4.is_link_local()
        || v4.is_broadcast()
        || v4.is_documentation()
        || v4.is_multicast()
        || a == 0
        || a >= 240
        // Shared address space of carriers (RFC 6598), IETF protocol assignments, benchmarking.
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || (a == 198 && (b == 18 || b == 19)))
}

fn headers(cx: &Cx, request: &Request, uri: &Uri) -> Result<HeaderMap, HostError> {
    let mut headers = HeaderMap::with_capacity(request.headers.len() + 2);
    headers.insert(USER_AGENT, AGENT);
    for (name, value) in &request.headers {
        let known = HeaderName::from_bytes(name.as_bytes()).map_err(|_| HostError(format!("`{name}` is no header")))?;
        if OURS.contains(&known.as_str()) {
            return Err(HostError(format!("the header `{known}` is the gateway's to send")));
        }
        let text = match value {
            None => {
                headers.remove(&known);
                continue;
            }
            Some(Header::Text(text)) => text.as_str(),
            Some(Header::Secret(name)) => secret::exposed(cx, name)?,
        };
        let value = HeaderValue::from_str(text).map_err(|_| HostError(format!("no header `{name}` can hold that")))?;
        headers.insert(known, value);
    }
    let authority = uri.authority().map(|authority| authority.as_str()).unwrap_or_default();
    headers.insert(HOST, HeaderValue::from_str(authority).map_err(|_| HostError::new("the URL's host is no header"))?);
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_lead_inside_are_told_apart() {
        for inside in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "198.18.0.1",
            "255.255.255.255",
            "224.0.0.1",
            "::1",
            "::",
            "fe80::1",
            "fc00::1",
            "fd12::1",
            "fec0::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "2001:db8::1",
            "ff02::1",
            "::7f00:1",
        ] {
            assert!(!is_public(inside.parse().expect(inside)), "{inside}");
        }
        for outside in ["1.1.1.1", "93.184.216.34", "172.32.0.1", "2606:4700::1111", "64:ff9b::101:101"] {
            assert!(is_public(outside.parse().expect(outside)), "{outside}");
        }
    }
}
