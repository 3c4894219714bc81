//! Web pages that a browser carries here, where nobody needs a credential: any page that somebody on this machine looks
//! at may otherwise ask, because its requests come from this machine as well.
//!
//! What a browser says of a page, the page cannot change. Requests of no browser say nothing of the kind and are left alone.

use std::net::IpAddr;

use http::header::{HOST, ORIGIN};
use http::uri::Authority;
use http::{HeaderMap, Uri};

/// The browser's word on where a request comes from.
const FETCH_SITE: &str = "sec-fetch-site";

/// By which names the gateway may be called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Names {
    /// Addresses, and names that no stranger can give to this machine: a page whose own name leads here by DNS
    /// (rebinding) would be one of ours for its browser.
    Local,
    Any,
}

/// Why a request is a web page's that has no business here; None where it is not.
pub fn stranger(headers: &HeaderMap, uri: &Uri, names: Names) -> Option<String> {
    let host = called(headers, uri);
    if let Some(host) = host.filter(|host| names == Names::Local && !is_local(name(host))) {
        return Some(format!("The request is for `{host}`, which is no name of this machine."));
    }
    let site = headers.get(FETCH_SITE).and_then(|site| site.to_str().ok());
    if let Some("same-origin" | "none") = site {
        return None;
    }
    match headers.get(ORIGIN).map(|origin| origin.to_str().unwrap_or("null")) {
        None if site == Some("cross-site") => Some("A web page of another site sent the request.".to_owned()),
        Some(origin) if !is_ours(origin, host) => Some(format!("A web page of `{origin}` sent the request.")),
        _ => None,
    }
}

/// The name and port that a request is for.
fn called<'a>(headers: &'a HeaderMap, uri: &'a Uri) -> Option<&'a str> {
    let stated = || headers.get(HOST).and_then(|host| host.to_str().ok());
    uri.authority().map(Authority::as_str).or_else(stated).filter(|host| !host.is_empty())
}

/// Whether a page of this origin may ask: one of this machine, of the gateway's own address, or of an installed program.
fn is_ours(origin: &str, host: Option<&str>) -> bool {
    match origin.split_once("://") {
        Some(("http" | "https", place)) => {
            host.is_some_and(|host| host.eq_ignore_ascii_case(place)) || is_here(name(place))
        }
        // Extensions and desktop programs; the web has no such pages.
        Some(_) => true,
        // `null`: a page that hides where it is from.
        None => false,
    }
}

/// A host without its port, the brackets of an IPv6 address and the dot that a full name may end with.
fn name(host: &str) -> &str {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next(),
        None => host.split(':').next(),
    };
    name.map_or("", |name| name.strip_suffix('.').unwrap_or(name))
}

/// Whether a name ends so, in whatever casing.
fn is_under(name: &str, domain: &str) -> bool {
    let start = name.len().checked_sub(domain.len());
    start.and_then(|start| name.get(start..)).is_some_and(|end| end.eq_ignore_ascii_case(domain))
}

fn is_localhost(name: &str) -> bool {
    name.eq_ignore_ascii_case("localhost") || is_under(name, ".localhost")
}

/// Whether it is this machine.
fn is_here(name: &str) -> bool {
    is_localhost(name) || name.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

/// Whether it is an address, or a name that public DNS does not have: `gateway` of containers, `host.docker.internal`.
fn is_local(name: &str) -> bool {
    !name.contains('.') || is_localhost(name) || is_under(name, ".internal") || name.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asks(names: Names, headers: &[(&str, &str)]) -> bool {
        let pairs =
            headers.iter().map(|(name, value)| (name.parse().expect("a name"), value.parse().expect("a value")));
        stranger(&pairs.collect::<HeaderMap>(), &Uri::from_static("/v1/chat/completions"), names).is_none()
    }

    #[test]
    fn whoever_is_no_page_is_let_in_by_every_name_of_this_machine() {
        for host in [
            "127.0.0.1:4100",
            "[::1]:4100",
            "192.168.1.7",
            "localhost:4100",
            "LOCALHOST.",
            "[2001:db8::1]:4100",
            "ai.localhost",
            "gateway:4100",
            "host.docker.internal:4100",
        ] {
            assert!(asks(Names::Local, &[("host", host)]), "{host}");
        }
        assert!(asks(Names::Local, &[]), "HTTP/1.0 has no host");
        for host in
            ["evil.example:4100", "127.0.0.1.evil.example", "[evil.example]", "localhost.evil.example", "evil.local"]
        {
            assert!(!asks(Names::Local, &[("host", host)]), "{host}");
        }
        assert!(asks(Names::Any, &[("host", "gateway.example")]));
    }

    #[test]
    fn pages_of_this_machine_and_of_installed_programs_are_let_in_and_no_others() {
        let host = ("host", "localhost:4100");
        for origin in ["http://localhost:3000", "http://127.0.0.1", "http://[::1]:3000", "vscode-webview://abc"] {
            assert!(asks(Names::Local, &[host, ("origin", origin)]), "{origin}");
            assert!(asks(Names::Local, &[host, ("origin", origin), ("sec-fetch-site", "cross-site")]), "{origin}");
        }
        for origin in ["https://evil.example", "http://localhost.evil.example", "http://192.168.1.7:3000", "null", ""] {
            assert!(!asks(Names::Local, &[host, ("origin", origin)]), "{origin}");
            assert!(!asks(Names::Any, &[host, ("origin", origin)]), "{origin}");
        }
        assert!(!asks(Names::Any, &[host, ("sec-fetch-site", "cross-site")]));
        for site in ["same-origin", "same-site", "none"] {
            assert!(asks(Names::Local, &[host, ("sec-fetch-site", site)]), "{site}");
        }
    }

    #[test]
    fn a_page_of_the_gateways_own_address_is_let_in_also_behind_a_proxy_that_renames_it() {
        let own = ("origin", "https://ai.example");
        assert!(asks(Names::Any, &[("host", "AI.example"), own]));
        assert!(asks(Names::Any, &[("host", "gateway:4100"), own, ("sec-fetch-site", "same-origin")]));
        assert!(!asks(Names::Any, &[("host", "gateway:4100"), own]));
        // A name that was turned to this machine is nobody's own.
        assert!(!asks(Names::Local, &[("host", "ai.example"), own, ("sec-fetch-site", "same-origin")]));
    }

    #[test]
    fn http2_states_the_host_in_its_uri() {
        let uri = Uri::from_static("https://evil.example/v1/models");
        assert!(stranger(&HeaderMap::new(), &uri, Names::Local).is_some());
    }
}
