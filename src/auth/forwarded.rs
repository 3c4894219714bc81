//! The caller's address where proxies stand between: `x-forwarded-for`, believed only of those that are trusted.
//!
//! Never decides who a caller is; the address is for the log, for limits by `ip` and for policies.

use std::net::{IpAddr, SocketAddr};

use http::HeaderMap;

use crate::state::limit::rule::Network;

const HEADER: &str = "x-forwarded-for";

/// Proxies whose word is taken.
#[derive(Debug, Clone, Default)]
pub struct Trusted(Vec<Network>);

impl Trusted {
    /// Reads addresses and networks (`10.0.0.1`, `10.0.0.0/8`). None when one of them is neither.
    pub fn read<'a>(list: impl IntoIterator<Item = &'a str>) -> Option<Trusted> {
        list.into_iter().map(Network::read).collect::<Option<_>>().map(Trusted)
    }

    /// The address that a request comes from: the peer's, or the last that trusted proxies tell of and that is not
    /// theirs. Everything a client writes into the header itself stands before that.
    pub fn caller(&self, peer: Option<SocketAddr>, headers: &HeaderMap) -> Option<SocketAddr> {
        let mut caller = peer?;
        if self.0.is_empty() {
            return peer;
        }
        let values = headers.get_all(HEADER).iter().filter_map(|value| value.to_str().ok());
        let told: Vec<&str> = values.flat_map(|value| value.split(',')).collect();
        for hop in told.into_iter().rev() {
            if !self.0.iter().any(|network| network.holds(caller.ip())) {
                break;
            }
            match address(hop.trim()) {
                Some(before) => caller = before,
                None => break,
            }
        }
        Some(caller)
    }
}

/// An entry of the header: an address, with a port or without. No port is port 0.
fn address(text: &str) -> Option<SocketAddr> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    text.parse().ok().or_else(|| bare.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, 0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(trusted: &[&str], peer: &str, told: &[&str]) -> String {
        let trusted = Trusted::read(trusted.iter().copied()).expect("networks");
        let mut headers = HeaderMap::new();
        for value in told {
            headers.append(HEADER, value.parse().expect("a header"));
        }
        trusted.caller(peer.parse().ok(), &headers).map(|address| address.to_string()).unwrap_or_default()
    }

    #[test]
    fn only_trusted_proxies_are_believed() {
        assert_eq!(caller(&[], "10.0.0.1:5", &["203.0.113.9"]), "10.0.0.1:5");
        assert_eq!(caller(&["10.0.0.0/8"], "192.0.2.1:5", &["203.0.113.9"]), "192.0.2.1:5");
        assert_eq!(caller(&["10.0.0.0/8"], "10.0.0.1:5", &["203.0.113.9"]), "203.0.113.9:0");
        assert_eq!(caller(&["10.0.0.0/8"], "10.0.0.1:5", &[]), "10.0.0.1:5");
    }

    #[test]
    fn what_a_client_makes_up_is_not_reached() {
        let told = &["1.1.1.1, 203.0.113.9:4711", "10.0.0.2"];
        assert_eq!(caller(&["10.0.0.0/8"], "10.0.0.1:5", told), "203.0.113.9:4711");
        assert_eq!(caller(&["10.0.0.0/8"], "10.0.0.1:5", &["1.1.1.1, unknown"]), "10.0.0.1:5");
    }

    #[test]
    fn both_families_are_matched_by_their_bits() {
        assert_eq!(caller(&["10.0.0.0/8"], "[::ffff:10.1.2.3]:5", &["2001:db8::1"]), "[2001:db8::1]:0");
        assert_eq!(caller(&["fd00::/8"], "[fd12::1]:5", &["[2001:db8::1]:80"]), "[2001:db8::1]:80");
        assert_eq!(caller(&["::ffff:10.0.0.0/104"], "10.0.0.1:5", &["203.0.113.9"]), "203.0.113.9:0");
        assert_eq!(caller(&["0.0.0.0/0"], "198.51.100.1:5", &["203.0.113.9"]), "203.0.113.9:0");
        assert!(Trusted::read(["10.0.0.0/33"]).is_none() && Trusted::read(["proxy"]).is_none());
    }
}
