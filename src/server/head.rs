//! What the head of a request must be before anybody reads it for what it asks.
//!
//! Judges how it is framed and for whom it is, never what for; pure.

use http::header::{HOST, TRANSFER_ENCODING};
use http::{Request, StatusCode, Version};

/// The status, and the reason, of a request that RFC 9112 has a server refuse, because two servers may read it differently:
/// one that names no host, several, or what is none, and one whose body is in more than chunks.
pub(super) fn misdirected<B>(request: &Request<B>) -> Option<(StatusCode, &'static str)> {
    if request.version() > Version::HTTP_11 {
        return None;
    }
    let headers = request.headers();
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next()
        && (codings.next().is_some() || !coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked"))
    {
        return Some((
            StatusCode::NOT_IMPLEMENTED,
            "A request's `transfer-encoding` may be `chunked` and nothing else.",
        ));
    }
    let mut hosts = headers.get_all(HOST).iter();
    let sound = match (hosts.next(), hosts.next()) {
        (Some(host), None) => is_host(host.as_bytes()),
        (None, None) => request.version() < Version::HTTP_11,
        _ => false,
    };
    (!sound)
        .then_some((StatusCode::BAD_REQUEST, "A request must have one `host` header, with a host and at most a port."))
}

/// Whether it is `host` or `host:port`; an empty one is the server's own.
fn is_host(host: &[u8]) -> bool {
    let (name, port) = match host.strip_prefix(b"[") {
        Some(rest) => {
            let Some(end) = rest.iter().position(|byte| *byte == b']') else { return false };
            if !rest[..end].iter().all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.')) {
                return false;
            }
            (&[][..], &rest[end + 1..])
        }
        None => host.split_at(host.iter().position(|byte| *byte == b':').unwrap_or(host.len())),
    };
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=".contains(byte);
    name.iter().all(plain)
        && port.strip_prefix(b":").unwrap_or(port).iter().all(u8::is_ascii_digit)
        && (port.is_empty() || port[0] == b':')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_names_one_host_and_is_framed_by_chunks_alone() {
        let status = |version: Version, headers: &[(&str, &str)]| {
            let mut request = Request::new(());
            *request.version_mut() = version;
            for (name, value) in headers {
                let name = http::HeaderName::from_bytes(name.as_bytes()).expect("a name");
                request.headers_mut().append(name, value.parse().expect("a value"));
            }
            misdirected(&request).map(|(status, _)| status.as_u16())
        };
        let hosts = |hosts: &[&str]| {
            let headers: Vec<_> = hosts.iter().map(|host| ("host", *host)).collect();
            status(Version::HTTP_11, &headers)
        };
        for good in ["localhost", "127.0.0.1:4100", "[::1]", "[::1]:4100", "a_b.example.com", ""] {
            assert_eq!(hosts(&[good]), None, "{good}");
        }
        for bad in ["127.0.0.1:5538@evil.com", "[::1].evil.com", "[::1", "a b", "a/b", "a:b", "a:1:2", "a,b:c", "a@b"] {
            assert_eq!(hosts(&[bad]), Some(400), "{bad}");
        }
        assert_eq!((hosts(&[]), hosts(&["a", "a"])), (Some(400), Some(400)));
        assert_eq!((status(Version::HTTP_10, &[]), status(Version::HTTP_2, &[])), (None, None));
        let coded = |codings: &[&str]| {
            let host = [("host", "a")].into_iter();
            let headers: Vec<_> = host.chain(codings.iter().map(|coding| ("transfer-encoding", *coding))).collect();
            status(Version::HTTP_11, &headers)
        };
        assert_eq!((coded(&["chunked"]), coded(&["Chunked "])), (None, None));
        for bad in [&["gzip, chunked"][..], &["gzip", "chunked"], &["chunked, chunked"], &["identity"]] {
            assert_eq!(coded(bad), Some(501), "{bad:?}");
        }
    }
}
