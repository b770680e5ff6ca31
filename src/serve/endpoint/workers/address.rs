//! Whether a worker may be where somebody says that it is: the gateway must not be made to ask what
//! only itself can reach.

use std::net::IpAddr;
use std::time::Duration;

use tokio::net::lookup_host;
use tokio::time::timeout;
use url::{Host, Url};

use super::fields::Fault;
use crate::base::address::{is_forbidden, is_forbidden_name};
use crate::config::spec::WorkerUrl;

/// How long a name may take to be resolved here.
const LOOK_UP: Duration = Duration::from_secs(5);

/// Looks at the address in `url`, or at all that its host name has now. A name without one may get it
/// later; what it leads to then is looked at again on every connection.
///
/// # Errors
/// Where it leads to what is no worker.
pub(super) async fn check(url: &WorkerUrl) -> Result<(), Fault> {
    let parsed = Url::parse(url.as_str()).ok();
    let host = parsed.as_ref().and_then(Url::host);
    let allowed = match host {
        None => false,
        Some(Host::Ipv4(address)) => !is_forbidden(IpAddr::V4(address)),
        Some(Host::Ipv6(address)) => !is_forbidden(IpAddr::V6(address)),
        Some(Host::Domain(name)) => !is_forbidden_name(name) && leads_nowhere_else(name).await,
    };
    if allowed {
        return Ok(());
    }
    let why = "link-local, metadata, unspecified and multicast addresses are no workers";
    Err(Fault::unfit("url", why))
}

async fn leads_nowhere_else(name: &str) -> bool {
    match timeout(LOOK_UP, lookup_host((name, 0))).await {
        Ok(Ok(mut addresses)) => !addresses.any(|address| is_forbidden(address.ip())),
        Ok(Err(_)) | Err(_) => true,
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
            ("http://metadata.google.internal", false),
        ] {
            let url: WorkerUrl = url.parse().unwrap();
            assert_eq!(check(&url).await.is_ok(), allowed, "{url}");
        }
    }
}
