//! Whether a worker may be where somebody says that it is: the gateway must not be made to ask what
//! only itself can reach.

use std::net::IpAddr;
use std::time::Duration;

use tokio::net::lookup_host;
use tokio::time::timeout;
use url::{Host, Url};

use super::fields::Fault;
use crate::base::address::{is_allowed, is_forbidden, is_forbidden_name};
use crate::base::network::Network;
use crate::config::spec::WorkerUrl;

/// How long a name may take to be resolved here.
const LOOK_UP: Duration = Duration::from_secs(5);

/// Looks at the address in `url`, or at all that its host name has now. A name without one may get it
/// later; what it leads to then is looked at again on every connection.
///
/// # Errors
/// Where it leads to what is no worker, or out of `networks`.
pub(super) async fn check(url: &WorkerUrl, networks: &[Network]) -> Result<(), Fault> {
    let parsed = Url::parse(url.as_str()).ok();
    let found = match parsed.as_ref().and_then(Url::host) {
        None => return Err(no_worker()),
        Some(Host::Ipv4(address)) => vec![IpAddr::V4(address)],
        Some(Host::Ipv6(address)) => vec![IpAddr::V6(address)],
        Some(Host::Domain(name)) if is_forbidden_name(name) => return Err(no_worker()),
        Some(Host::Domain(name)) => addresses(name).await,
    };
    if found.iter().any(|address| is_forbidden(*address)) {
        Err(no_worker())
    } else if found.iter().all(|address| is_allowed(*address, networks)) {
        Ok(())
    } else {
        let why = "it lies outside the networks of `auth.control_plane.worker_cidrs`";
        Err(Fault::unfit("url", why))
    }
}

fn no_worker() -> Fault {
    let why = "link-local, metadata, unspecified and multicast addresses are no workers";
    Fault::unfit("url", why)
}

async fn addresses(name: &str) -> Vec<IpAddr> {
    match timeout(LOOK_UP, lookup_host((name, 0))).await {
        Ok(Ok(addresses)) => addresses.map(|address| address.ip()).collect(),
        Ok(Err(_)) | Err(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn addresses_in_any_spelling() {
        for (url, allowed) in [
            ("http://127.0.0.1:8000", true),
            ("http://10.1.2.3", true),
            ("http://[::1]:8000", true),
            ("http://localhost:8000", true),
            ("http://no-such-host.invalid:8000", true),
            ("http://169.254.169.254", false),
            ("http://2852039166", false),
            ("http://0xa9fea9fe/latest", false),
            ("http://0251.0376.0251.0376", false),
            ("http://[::ffff:a9fe:a9fe]", false),
            ("http://[fe80::1]", false),
            ("http://[fd00:ec2::254]", false),
            ("http://0.0.0.0:1", false),
            ("http://[::]:1", false),
            ("http://169.254.169.254./", false),
            ("http://0xa9.254.0251.0xfe:80", false),
            ("http://169.16689662", false),
            ("http://[64:ff9b::169.254.169.254]", false),
            ("http://[64:ff9b:1::a9fe:a9fe]", false),
            ("http://[::a9fe:a9fe]", false),
            ("http://metadata.google.internal", false),
            ("http://METADATA.google.internal.", false),
        ] {
            let url: WorkerUrl = url.parse().unwrap();
            assert_eq!(check(&url, &[]).await.is_ok(), allowed, "{url}");
        }
    }

    #[tokio::test]
    async fn only_where_the_configuration_lets_workers_be() {
        let networks = ["10.0.0.0/8".parse().unwrap(), "::1".parse().unwrap()];
        for (url, allowed) in [
            ("http://10.1.2.3:8000", true),
            ("http://[::ffff:10.1.2.3]", true),
            ("http://[::1]:8000", true),
            ("http://no-such-host.invalid:8000", true),
            ("http://127.0.0.1:8000", false),
            ("http://2130706433", false),
            ("http://8.8.8.8", false),
            ("http://169.254.169.254", false),
        ] {
            let url: WorkerUrl = url.parse().unwrap();
            assert_eq!(check(&url, &networks).await.is_ok(), allowed, "{url}");
        }
        // A name is judged by all that it has.
        let url: WorkerUrl = "http://localhost:8000".parse().unwrap();
        let v4 = ["127.0.0.0/8".parse().unwrap(), "::1".parse().unwrap()];
        assert!(check(&url, &v4).await.is_ok());
        assert!(check(&url, &networks[..1]).await.is_err());
    }
}
