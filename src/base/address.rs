//! Addresses that no worker has, and that somebody who may name workers must not reach through the
//! gateway: those of the link, of nobody and of many, and the services of clouds that hand out
//! credentials to whoever asks from inside.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::network::Network;

/// Metadata services that lie outside the link-local networks.
const METADATA_V4: &[Ipv4Addr] = &[
    Ipv4Addr::new(100, 100, 100, 200),
    Ipv4Addr::new(168, 63, 129, 16),
    Ipv4Addr::new(192, 0, 0, 192),
];

/// The same in IPv6.
const METADATA_V6: &[Ipv6Addr] = &[
    Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0254),
    Ipv6Addr::new(0xfd20, 0x00ce, 0, 0, 0, 0, 0, 0x0254),
];

/// Their names, which some resolvers answer in ways of their own.
const METADATA_NAMES: &[&str] = &[
    "instance-data",
    "instance-data.ec2.internal",
    "metadata",
    "metadata.goog",
    "metadata.google.internal",
    "metadata.azure.internal",
];

/// Whether `address` is link-local, unspecified, multicast, or that of a metadata service; also where
/// it is such an IPv4 address in the clothes of IPv6.
pub fn is_forbidden(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_forbidden_v4(address),
        IpAddr::V6(address) => {
            address.is_unspecified()
                || address.is_multicast()
                || address.is_unicast_link_local()
                || METADATA_V6.contains(&address)
                || embedded(address).is_some_and(is_forbidden_v4)
        }
    }
}

/// Whether somebody who may name workers may name `address`: it is not forbidden, and it lies in one
/// of `networks`, if there are any.
pub fn is_allowed(address: IpAddr, networks: &[Network]) -> bool {
    !is_forbidden(address)
        && (networks.is_empty() || networks.iter().any(|network| network.contains(address)))
}

/// Whether `address` is one of this machine, of a private network, or otherwise not of the internet
/// at large; also where it is such an IPv4 address in the clothes of IPv6.
pub fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_private_v4(address),
        IpAddr::V6(address) => {
            address.is_loopback()
                || address.is_unique_local()
                || is_local_v6(address)
                || embedded(address).is_some_and(is_private_v4)
        }
    }
}

/// Whether `host` is the name of a metadata service.
pub fn is_forbidden_name(host: &str) -> bool {
    let host = host.trim_end_matches('.');
    METADATA_NAMES
        .iter()
        .any(|name| host.eq_ignore_ascii_case(name))
}

fn is_forbidden_v4(address: Ipv4Addr) -> bool {
    // All of 0.0.0.0/8 means this machine, as 0.0.0.0 does.
    address.octets()[0] == 0
        || address.is_broadcast()
        || address.is_multicast()
        || address.is_link_local()
        || METADATA_V4.contains(&address)
}

fn is_private_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    address.is_loopback()
        || address.is_private()
        // Carriers' networks, protocol assignments, benchmarks, and what was never given out.
        || (a == 100 && b & 0xc0 == 64)
        || (a, b, c) == (192, 0, 0)
        || (a == 198 && b & 0xfe == 18)
        || a >= 240
}

/// Site-local addresses, and the prefix by which a site translates to IPv4.
fn is_local_v6(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    segments[0] & 0xffc0 == 0xfec0 || segments[..3] == [0x64, 0xff9b, 1]
}

/// The IPv4 address that `address` leads to where the network translates: mapped, compatible,
/// translated (RFC 2765), NAT64 (RFC 6052) or 6to4 (RFC 3056).
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let behind = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        Ipv4Addr::new(a, b, c, d)
    };
    match address.segments() {
        // What begins with zeros and ends so small is a loopback address.
        [0, 0, 0, 0, 0, 0, 0, _] => None,
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(behind(high, low)),
        // NAT64 within a network of one's own (RFC 8215).
        [0x64, 0xff9b, 1, .., high, low] => Some(behind(high, low)),
        [0x2002, high, low, ..] => Some(behind(high, low)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_worker() {
        for text in [
            "169.254.169.254",
            "169.254.0.1",
            "0.0.0.0",
            "0.1.2.3",
            "224.0.0.1",
            "255.255.255.255",
            "100.100.100.200",
            "::",
            "fe80::1",
            "febf::1",
            "ff02::1",
            "fd00:ec2::254",
            "fd20:ce::254",
            "::ffff:169.254.169.254",
            "::169.254.169.254",
            "::ffff:0:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::a9fe:a9fe",
            "2002:a9fe:a9fe::1",
        ] {
            assert!(is_forbidden(text.parse().unwrap()), "{text}");
        }
        for text in [
            "127.0.0.1",
            "10.0.0.1",
            "100.100.100.201",
            "192.168.1.1",
            "8.8.8.8",
            "::1",
            "fd00::1",
            "2001:db8::1",
            "::ffff:10.0.0.1",
            "64:ff9b::a00:1",
        ] {
            assert!(!is_forbidden(text.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn only_what_lies_in_the_networks_that_are_named() {
        let networks: Vec<Network> = ["10.0.0.0/8", "fd00::/8", "169.254.0.0/16"]
            .map(|text| text.parse().unwrap())
            .into();
        let allowed = |text: &str| is_allowed(text.parse().unwrap(), &networks);
        assert!(allowed("10.1.2.3") && allowed("::ffff:10.1.2.3") && allowed("fd00::1"));
        for text in [
            "11.0.0.1",
            "127.0.0.1",
            "::1",
            "169.254.169.254",
            "fd00:ec2::254",
        ] {
            assert!(!allowed(text), "{text}");
        }
        assert!(is_allowed("8.8.8.8".parse().unwrap(), &[]));
    }

    #[test]
    fn what_is_private() {
        for text in [
            "127.0.0.1",
            "10.0.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "100.64.0.1",
            "100.127.255.255",
            "192.0.0.8",
            "198.19.0.1",
            "240.0.0.1",
            "::1",
            "fc00::1",
            "fdff::1",
            "fec0::1",
            "::ffff:10.0.0.1",
            "64:ff9b::a00:1",
            "64:ff9b:1::1",
            "2002:a00:1::1",
        ] {
            assert!(is_private(text.parse().unwrap()), "{text}");
        }
        for text in [
            "8.8.8.8",
            "172.32.0.1",
            "100.63.255.255",
            "100.128.0.1",
            "192.0.1.1",
            "198.20.0.1",
            "2600::1",
            "64:ff9b::808:808",
        ] {
            assert!(!is_private(text.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn names_of_metadata_services() {
        assert!(is_forbidden_name("metadata.google.internal"));
        assert!(is_forbidden_name("Metadata.Google.Internal."));
        assert!(!is_forbidden_name("metadata.example"));
    }
}
