//! Texts that name addresses: URLs of workers, networks, points in time. What is taken is written in
//! its normal form, which is taken again and means the same.

use std::net::IpAddr;

use smg::base::address::{is_allowed, is_forbidden, is_forbidden_name, is_private};
use smg::base::moment::Moment;
use smg::base::network::Network;
use smg::config::spec::WorkerUrl;

pub(crate) fn run(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    if let Ok(url) = text.parse::<WorkerUrl>() {
        let shown = url.to_string();
        assert_eq!(shown.parse::<WorkerUrl>(), Ok(url), "{text:?}");
        assert!(
            shown.starts_with("http://") || shown.starts_with("https://"),
            "{shown}"
        );
        let authority = shown.split("//").nth(1).unwrap_or_default();
        let authority = authority.split('/').next().unwrap_or_default();
        assert!(!authority.contains('@') && !authority.is_empty(), "{shown}");
        assert!(
            !shown.contains(|c: char| c.is_control() || c == ' ' || c == '\\'),
            "{shown:?}"
        );
    }
    if let Ok(network) = text.parse::<Network>() {
        let shown = network.to_string();
        assert_eq!(shown.parse::<Network>(), Ok(network), "{text:?}");
        let first: IpAddr = shown
            .split('/')
            .next()
            .and_then(|address| address.parse().ok())
            .unwrap_or_else(|| panic!("{shown}"));
        assert!(network.contains(first));
        assert_eq!(is_allowed(first, &[network]), !is_forbidden(first));
    }
    if let Ok(moment) = text.parse::<Moment>() {
        assert_eq!(moment.to_string().parse::<Moment>(), Ok(moment), "{text:?}");
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        // An IPv4 address is the same in the clothes of IPv6.
        if let IpAddr::V4(four) = address {
            let six = IpAddr::V6(four.to_ipv6_mapped());
            assert_eq!(is_forbidden(address), is_forbidden(six), "{four}");
            assert_eq!(is_private(address), is_private(six), "{four}");
        }
    }
    // Neither minds what it is given.
    is_forbidden_name(text);
}
