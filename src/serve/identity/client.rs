//! Where a request comes from, as far as the proxies in front may be believed.

use std::net::{IpAddr, SocketAddr};

use http::header::{HeaderMap, HeaderName, HeaderValue};

use crate::base::network::Network;
use crate::plan::Identity;
use crate::serve::gate::{Gate, Peer};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Longest name of a tenant that a proxy may give, in bytes.
const LONGEST: usize = 256;

/// Where a request comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Client {
    /// The client's address; `None` where the peer has none.
    pub(super) address: Option<IpAddr>,
    /// Whether the peer is a proxy whose word counts.
    trusted: bool,
}

impl Client {
    /// The client behind a request with `headers` on a connection of `gate`.
    pub(super) fn of(gate: &Gate, headers: &HeaderMap) -> Self {
        match gate.peer {
            Peer::Tcp(peer) => Self::behind(peer, &gate.listener.trusted_proxies, headers),
            Peer::Unix | Peer::Control(_) => Self {
                address: None,
                trusted: false,
            },
        }
    }

    /// Whether the peer speaks for others, as the listener says.
    pub(super) fn is_behind_proxy(self) -> bool {
        self.trusted
    }

    fn behind(peer: IpAddr, proxies: &[Network], headers: &HeaderMap) -> Self {
        let peer = peer.to_canonical();
        let is_proxy = |address: IpAddr| proxies.iter().any(|proxy| proxy.contains(address));
        let trusted = is_proxy(peer);
        let address = if trusted {
            forwarded(peer, is_proxy, headers)
        } else {
            peer
        };
        Self {
            address: Some(address),
            trusted,
        }
    }

    /// Against whom limits are counted while no credential says it. `header` is where a trusted proxy
    /// names the tenant.
    pub(super) fn identity(&self, header: Option<&str>, headers: &HeaderMap) -> Identity {
        let named = header.filter(|_| self.trusted);
        let named = named.and_then(|header| sole(headers, header));
        match (named, self.address) {
            (Some(name), _) => Identity::Header(name.into()),
            (None, Some(address)) => Identity::Address(address),
            (None, None) => Identity::Anonymous,
        }
    }
}

/// The address nearest to us that is no proxy of ours. Whatever stands to the left of it, the client
/// may have written itself; what is no address ends the walk.
fn forwarded(peer: IpAddr, is_proxy: impl Fn(IpAddr) -> bool, headers: &HeaderMap) -> IpAddr {
    // The lines are one list, and the proxy that is nearest has written its end.
    let lines = headers.get_all(X_FORWARDED_FOR);
    let hops = lines.iter().rev().flat_map(|line| {
        let text = line.to_str().unwrap_or_default();
        text.rsplit(',').map(str::trim)
    });
    let mut last = peer;
    for hop in hops {
        match address(hop) {
            Some(address) if is_proxy(address) => last = address,
            Some(address) => return address,
            None => break,
        }
    }
    last
}

/// An address as proxies write it: alone, in brackets, with a port.
fn address(hop: &str) -> Option<IpAddr> {
    let bare = hop
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(hop);
    let parsed = bare.parse::<IpAddr>().ok();
    parsed
        .or_else(|| hop.parse::<SocketAddr>().ok().map(|socket| socket.ip()))
        .map(|address| address.to_canonical())
}

/// The value of a header that is there once. Of two, one may be the client's.
fn sole<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next().filter(|_| values.next().is_none());
    let value = value.and_then(|value: &HeaderValue| value.to_str().ok());
    value
        .map(str::trim)
        .filter(|value| !value.is_empty() && value.len() <= LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    fn client(peer: &str, proxies: &[&str], lines: &[&str]) -> Client {
        let proxies: Vec<Network> = proxies.iter().map(|net| net.parse().unwrap()).collect();
        let lines: Vec<_> = lines
            .iter()
            .map(|line| ("x-forwarded-for", *line))
            .collect();
        Client::behind(peer.parse().unwrap(), &proxies, &headers(&lines))
    }

    #[test]
    fn the_address_is_the_last_one_that_no_proxy_of_ours_has() {
        for (peer, proxies, lines, expected) in [
            // Nobody's word counts.
            ("10.0.0.1", &[][..], &["1.2.3.4"][..], "10.0.0.1"),
            ("10.0.0.1", &["10.9.0.0/16"], &["1.2.3.4"], "10.0.0.1"),
            // One proxy, two proxies, a client that lies.
            ("10.0.0.1", &["10.0.0.0/8"], &["1.2.3.4"], "1.2.3.4"),
            (
                "10.0.0.1",
                &["10.0.0.0/8"],
                &["1.2.3.4, 10.0.0.2"],
                "1.2.3.4",
            ),
            (
                "10.0.0.1",
                &["10.0.0.0/8"],
                &["6.6.6.6, 1.2.3.4"],
                "1.2.3.4",
            ),
            (
                "10.0.0.1",
                &["10.0.0.0/8"],
                &["6.6.6.6", "1.2.3.4,10.0.0.2"],
                "1.2.3.4",
            ),
            (
                "10.0.0.1",
                &["10.0.0.0/8"],
                &["1.2.3.4", "10.0.0.2"],
                "1.2.3.4",
            ),
            // None is named.
            ("10.0.0.1", &["10.0.0.0/8"], &[], "10.0.0.1"),
            (
                "10.0.0.1",
                &["10.0.0.0/8"],
                &["10.0.0.3, 10.0.0.2"],
                "10.0.0.3",
            ),
            // What is no address tells nothing, nor does what stands before it.
            (
                "10.0.0.1",
                &["10.0.0.0/8"],
                &["1.2.3.4, unknown"],
                "10.0.0.1",
            ),
            (
                "10.0.0.1",
                &["10.0.0.0/8"],
                &["1.2.3.4, , 10.0.0.2"],
                "10.0.0.2",
            ),
            // Other ways to write one.
            ("10.0.0.1", &["10.0.0.0/8"], &["1.2.3.4:5678"], "1.2.3.4"),
            (
                "10.0.0.1",
                &["10.0.0.0/8"],
                &["[2001:db8::1]:5678"],
                "2001:db8::1",
            ),
            (
                "10.0.0.1",
                &["10.0.0.0/8"],
                &["[2001:db8::1]"],
                "2001:db8::1",
            ),
            ("10.0.0.1", &["10.0.0.0/8"], &["2001:db8::1"], "2001:db8::1"),
            ("10.0.0.1", &["10.0.0.0/8"], &["::ffff:1.2.3.4"], "1.2.3.4"),
            ("::ffff:10.0.0.1", &["10.0.0.0/8"], &["1.2.3.4"], "1.2.3.4"),
            ("::ffff:10.0.0.1", &[], &["1.2.3.4"], "10.0.0.1"),
        ] {
            let got = client(peer, proxies, lines).address;
            assert_eq!(got, Some(expected.parse().unwrap()), "{peer} {lines:?}");
        }
    }

    #[test]
    fn a_tenant_header_counts_once_and_from_a_trusted_proxy_only() {
        let named = |client: Client, lines: &[(&'static str, &str)]| {
            client
                .identity(Some("x-tenant"), &headers(lines))
                .to_string()
        };
        let trusted = client("10.0.0.1", &["10.0.0.0/8"], &[]);
        let stranger = client("10.0.0.1", &[], &[]);
        let local = Client {
            address: None,
            trusted: false,
        };
        assert_eq!(named(trusted, &[("x-tenant", " a ")]), "header:a");
        assert_eq!(named(stranger, &[("x-tenant", "a")]), "ip:10.0.0.1");
        assert_eq!(named(local, &[("x-tenant", "a")]), "anonymous");
        for lines in [
            &[][..],
            &[("x-tenant", "a"), ("x-tenant", "b")],
            &[("x-tenant", "")],
            &[("x-tenant", &*"x".repeat(LONGEST + 1))],
        ] {
            assert_eq!(named(trusted, lines), "ip:10.0.0.1", "{lines:?}");
        }
        let none = trusted.identity(None, &headers(&[("x-tenant", "a")]));
        assert_eq!(none.to_string(), "ip:10.0.0.1");
    }
}
