//! Where keys may be fetched from.

use std::net::IpAddr;

use url::{Host, Url};

use crate::base::address;

/// Where keys may be fetched from, and to which addresses that may lead.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) url: Url,
    /// Judges each address of the host.
    pub(super) allow: fn(IpAddr) -> bool,
    /// Whether it is this machine.
    pub(super) is_local: bool,
}

/// Why keys may not be fetched from somewhere.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(in crate::control) enum Unfit {
    /// No URL with a host.
    #[error("where the keys should be is no URL")]
    Url,
    /// Neither https nor, on this machine, http.
    #[error("the URL at `{0}` is not https")]
    Plain(String),
    /// It carries user information, which would be sent and logged.
    #[error("the URL of the keys has user information")]
    User,
    /// A metadata service, or an address of the link, of nobody or of many.
    #[error("`{0}` is never asked for keys")]
    Forbidden(String),
    /// An address inside.
    #[error("`{0}` is private; `auth.jwt.allow_private_jwks` would allow it")]
    Private(String),
}

/// What the operator allows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reach {
    /// Private addresses.
    pub(super) private: bool,
    /// This machine.
    pub(super) local: bool,
}

impl Place {
    /// Judges `text` by what it says. What its host's name leads to is seen only when it is
    /// connected to, and judged then.
    pub(super) fn judge(text: &str, reach: Reach) -> Result<Self, Unfit> {
        let url = Url::parse(text).map_err(|_| Unfit::Url)?;
        let host = url.host().ok_or(Unfit::Url)?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Unfit::User);
        }
        let name = host.to_string();
        let is_local = match &host {
            Host::Domain(name) => is_localhost(name),
            Host::Ipv4(address) => address.is_loopback(),
            Host::Ipv6(address) => IpAddr::from(*address).to_canonical().is_loopback(),
        };
        match url.scheme() {
            "https" => {}
            "http" if is_local => {}
            _ => return Err(Unfit::Plain(name)),
        }
        if is_forbidden(&host) {
            return Err(Unfit::Forbidden(name));
        }
        let allow: fn(IpAddr) -> bool = if is_local {
            if !reach.local && !reach.private {
                return Err(Unfit::Private(name));
            }
            |address| address.to_canonical().is_loopback()
        } else if reach.private {
            |address| !address::is_forbidden(address)
        } else if is_private(&host) {
            return Err(Unfit::Private(name));
        } else {
            |address| !address::is_forbidden(address) && !address::is_private(address)
        };
        Ok(Self {
            url,
            allow,
            is_local,
        })
    }
}

fn is_forbidden(host: &Host<&str>) -> bool {
    match host {
        Host::Domain(name) => address::is_forbidden_name(name),
        Host::Ipv4(address) => address::is_forbidden((*address).into()),
        Host::Ipv6(address) => address::is_forbidden((*address).into()),
    }
}

fn is_private(host: &Host<&str>) -> bool {
    match host {
        Host::Domain(name) => ["internal", "local"].iter().any(|zone| is_in(name, zone)),
        Host::Ipv4(address) => address::is_private((*address).into()),
        Host::Ipv6(address) => address::is_private((*address).into()),
    }
}

fn is_localhost(name: &str) -> bool {
    is_in(name, "localhost")
}

/// Whether `name` is `zone` or below it. URLs have their names in lower case.
fn is_in(name: &str, zone: &str) -> bool {
    let below = name.trim_end_matches('.').strip_suffix(zone);
    below.is_some_and(|below| below.is_empty() || below.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOWHERE: Reach = Reach {
        private: false,
        local: false,
    };
    const LOCAL: Reach = Reach {
        local: true,
        ..NOWHERE
    };
    const PRIVATE: Reach = Reach {
        private: true,
        local: true,
    };

    fn judge(text: &str, reach: Reach) -> &'static str {
        match Place::judge(text, reach) {
            Ok(_) => "good",
            Err(Unfit::Url) => "url",
            Err(Unfit::Plain(_)) => "plain",
            Err(Unfit::User) => "user",
            Err(Unfit::Forbidden(_)) => "forbidden",
            Err(Unfit::Private(_)) => "private",
        }
    }

    #[test]
    fn places() {
        for (text, anyhow, local, private) in [
            ("https://issuer.example/keys", "good", "good", "good"),
            ("https://8.8.8.8/keys", "good", "good", "good"),
            ("http://issuer.example/keys", "plain", "plain", "plain"),
            ("http://10.0.0.1/keys", "plain", "plain", "plain"),
            ("file:///etc/passwd", "url", "url", "url"),
            ("ftp://issuer.example", "plain", "plain", "plain"),
            ("issuer.example", "url", "url", "url"),
            ("https://ann:secret@issuer.example", "user", "user", "user"),
            ("http://127.0.0.1:80/keys", "private", "good", "good"),
            ("http://127.1/keys", "private", "good", "good"),
            ("http://0x7f000001/keys", "private", "good", "good"),
            ("http://[::1]/keys", "private", "good", "good"),
            ("http://localhost/keys", "private", "good", "good"),
            ("https://localhost./keys", "private", "good", "good"),
            ("http://notlocalhost/keys", "plain", "plain", "plain"),
            ("https://10.1.2.3/", "private", "private", "good"),
            ("https://192.168.0.1/", "private", "private", "good"),
            ("https://172.16.0.1/", "private", "private", "good"),
            ("https://100.64.0.1/", "private", "private", "good"),
            ("https://[fd00::1]/", "private", "private", "good"),
            ("https://[::ffff:10.0.0.1]/", "private", "private", "good"),
            ("https://keys.internal/", "private", "private", "good"),
            ("https://KEYS.Local./", "private", "private", "good"),
            ("https://internal/", "private", "private", "good"),
            ("https://notinternal.example/", "good", "good", "good"),
            (
                "https://169.254.169.254/",
                "forbidden",
                "forbidden",
                "forbidden",
            ),
            (
                "https://[fd00:ec2::254]/",
                "forbidden",
                "forbidden",
                "forbidden",
            ),
            (
                "https://metadata.google.internal/",
                "forbidden",
                "forbidden",
                "forbidden",
            ),
            ("https://0.0.0.0/", "forbidden", "forbidden", "forbidden"),
        ] {
            let found = [NOWHERE, LOCAL, PRIVATE].map(|reach| judge(text, reach));
            assert_eq!(found, [anyhow, local, private], "{text}");
        }
    }

    #[test]
    fn what_a_name_may_lead_to() {
        let allows = |text, reach, address: &str| {
            let place = Place::judge(text, reach).unwrap();
            (place.allow)(address.parse().unwrap())
        };
        let (public, local) = ("https://issuer.example", "http://localhost");
        assert!(allows(public, LOCAL, "8.8.8.8"));
        for address in [
            "127.0.0.1",
            "10.0.0.1",
            "fd00::1",
            "169.254.169.254",
            "::ffff:10.0.0.1",
        ] {
            assert!(!allows(public, LOCAL, address), "{address}");
        }
        assert!(allows(public, PRIVATE, "10.0.0.1"));
        assert!(!allows(public, PRIVATE, "169.254.169.254"));
        assert!(allows(local, LOCAL, "127.0.0.1") && allows(local, LOCAL, "::1"));
        assert!(!allows(local, PRIVATE, "8.8.8.8") && !allows(local, PRIVATE, "10.0.0.1"));
    }
}
