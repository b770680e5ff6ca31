//! The console: who may look. Read-only, so who sits on this machine may; everybody else shows a
//! credential of the control plane, and only where nobody can listen.
//!
//! A browser asks on behalf of whatever page it shows. So a name that a stranger has made to mean this
//! address is refused, and so is a page of another origin.

use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, HOST, HeaderMap, HeaderName, HeaderValue, ORIGIN};
use http::uri::Authority;

use super::client::Client;
use super::control;
use super::count::{self, Outcome};
use super::denied::{Denied, Plane, Refused, Why};
use super::{Head, own};
use crate::dispatch::Call;
use crate::live::AuthMethod;
use crate::plan::{Address, Listener, OperatorRole};
use crate::serve::gate::{Gate, Peer};
use crate::tls;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
const SEC_FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");

/// Lets `call` look at the console.
///
/// # Errors
/// Why not.
pub(super) async fn judge(
    gate: &Gate,
    call: &mut Call,
    head: Head<'_>,
    headers: &mut HeaderMap,
) -> Result<(), Denied> {
    let entered = enter(gate, call, head, headers).await;
    own::withdraw(headers, &call.snapshot.plan.auth.api_key_header);
    match entered {
        Ok(method) => {
            count::decided(Plane::Control, method, Outcome::Allowed);
            Ok(())
        }
        Err(refused) => Err(Denied {
            plane: Plane::Console,
            ..Plane::Control.refuse(&call.caller, refused)
        }),
    }
}

async fn enter(
    gate: &Gate,
    call: &mut Call,
    head: Head<'_>,
    headers: &HeaderMap,
) -> Result<AuthMethod, Refused> {
    if matches!(gate.peer, Peer::Tcp(_)) {
        check_page(gate, head, headers).map_err(|why| (AuthMethod::None, why))?;
    }
    let is_forwarded =
        control::is_forwarded(headers) || Client::of(gate, headers).is_behind_proxy();
    if gate.peer.is_local() && !is_forwarded {
        // A credential that it shows all the same opens nothing more here.
        call.caller.role = Some(OperatorRole::User);
        return Ok(AuthMethod::None);
    }
    if gate.listener.tls.is_none() {
        return Err((AuthMethod::None, Why::Exposed));
    }
    if !call.snapshot.plan.auth.is_any {
        return Err((AuthMethod::None, Why::Stranger));
    }
    let known = match basic(headers) {
        None => control::known(call, headers).await?,
        Some(Some(bearer)) => control::known(call, &bearer).await?,
        Some(None) => return Err((AuthMethod::ApiKey, Why::Key)),
    };
    let method = known.method;
    if known.role.is_none() {
        return Err((method, Why::NoRole));
    }
    known.tell(&mut call.caller);
    Ok(method)
}

/// Who asks is no page of somebody else's, and means us.
fn check_page(gate: &Gate, head: Head<'_>, headers: &HeaderMap) -> Result<(), Why> {
    let lines = headers.get_all(HOST).iter();
    let lines = lines.map(|line| Authority::try_from(line.as_bytes()).ok());
    let asked = head.uri.authority().cloned().map(Some);
    let mut hosts = lines.chain(asked).peekable();
    let host = hosts.peek().cloned().flatten().ok_or(Why::ForeignHost)?;
    let means_us = |host: Option<Authority>| {
        host.is_some_and(|host| is_ours(host.host(), gate.listener.as_ref()))
    };
    if !hosts.all(means_us) {
        return Err(Why::ForeignHost);
    }
    is_own_page(&gate.listener, &host, headers)
        .then_some(())
        .ok_or(Why::ForeignPage)
}

/// Whether a client has reason to call us `host`. An address is never a trap: a browser that shows it
/// has gone there.
fn is_ours(host: &str, listener: &Listener) -> bool {
    let bound = match &listener.address {
        Address::Tcp { host, .. } => Some(&**host),
        Address::Unix { .. } | Address::Systemd { .. } => None,
    };
    let certified = || {
        let cert = listener.tls.as_ref().and_then(|tls| tls.cert.content());
        cert.map(tls::names).unwrap_or_default()
    };
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if let Ok(address) = bare.parse::<IpAddr>() {
        let address = address.to_canonical();
        let bound = bound.map(str::parse::<IpAddr>);
        return match bound {
            Some(Ok(bound)) if !bound.is_unspecified() && !address.is_loopback() => {
                bound.to_canonical() == address || certified().iter().any(|name| *name == bare)
            }
            _ => true,
        };
    }
    let name = host.strip_suffix('.').unwrap_or(host);
    name.eq_ignore_ascii_case("localhost")
        || bound.is_some_and(|bound| name.eq_ignore_ascii_case(bound))
        || certified().iter().any(|pattern| covers(pattern, name))
}

/// Whether a name of a certificate covers `name`; a `*` stands for the first label.
fn covers(pattern: &str, name: &str) -> bool {
    match pattern.strip_prefix("*.") {
        None => pattern.eq_ignore_ascii_case(name),
        Some(domain) => {
            let rest = name.split_once('.').filter(|(first, _)| !first.is_empty());
            rest.is_some_and(|(_, rest)| rest.eq_ignore_ascii_case(domain))
        }
    }
}

/// Whether a request comes from no page, or from one of ours. Links from elsewhere lead here: who
/// follows one sees the page, and nobody else does.
fn is_own_page(listener: &Listener, host: &Authority, headers: &HeaderMap) -> bool {
    let is = |name: HeaderName, word: &str| {
        let mut lines = headers.get_all(name).iter();
        lines.next().is_some_and(|line| line == word) && lines.next().is_none()
    };
    if headers.contains_key(SEC_FETCH_SITE) {
        let own = is(SEC_FETCH_SITE, "same-origin") || is(SEC_FETCH_SITE, "none");
        let linked = is(SEC_FETCH_MODE, "navigate") && is(SEC_FETCH_DEST, "document");
        if !own && !linked {
            return false;
        }
    }
    if !headers.contains_key(ORIGIN) {
        return true;
    }
    let scheme = if listener.tls.is_some() {
        "https"
    } else {
        "http"
    };
    is(ORIGIN, &format!("{scheme}://{host}"))
}

/// The headers with what stands in HTTP Basic as the password, whoever the user, in the place of a
/// bearer token; the inner `None` where there is none in it. `None`: no Basic.
fn basic(headers: &HeaderMap) -> Option<Option<HeaderMap>> {
    let mut lines = headers.get_all(AUTHORIZATION).iter();
    let line = lines.next()?.as_bytes().trim_ascii();
    let (scheme, rest) = line.split_at_checked("basic ".len())?;
    if !scheme.eq_ignore_ascii_case(b"basic ") {
        return None;
    }
    if lines.next().is_some() {
        return Some(None);
    }
    Some(password(rest).map(|mut bearer| {
        bearer.set_sensitive(true);
        let mut headers = headers.clone();
        headers.insert(AUTHORIZATION, bearer);
        headers
    }))
}

fn password(coded: &[u8]) -> Option<HeaderValue> {
    let pair = STANDARD.decode(coded.trim_ascii()).ok()?;
    let colon = pair.iter().position(|byte| *byte == b':')?;
    let password = pair
        .get(colon + 1..)
        .filter(|password| !password.is_empty())?;
    HeaderValue::from_bytes(&[b"Bearer ", password].concat()).ok()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::config::spec::Spec;
    use crate::plan::{Facts, compile};

    fn listener(address: &str) -> Arc<Listener> {
        let file = format!(
            "version = 1\n[[listeners]]\nname = 'main'\naddress = '{address}'\nserve = ['console']\n"
        );
        let spec: Spec = toml::from_str(&file).unwrap();
        Arc::clone(&compile(&spec, &Facts::default()).listeners[0])
    }

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let lines = lines.iter().map(|(name, value)| {
            let name = HeaderName::from_static(name);
            (name, value.parse::<HeaderValue>().unwrap())
        });
        lines.collect()
    }

    #[test]
    fn a_name_that_is_not_ours_is_refused() {
        for (address, host, ours) in [
            ("127.0.0.1:1", "localhost", true),
            ("127.0.0.1:1", "LOCALHOST.", true),
            ("127.0.0.1:1", "127.0.0.1", true),
            ("127.0.0.1:1", "[::1]", true),
            ("127.0.0.1:1", "10.0.0.1", false),
            ("127.0.0.1:1", "evil.example", false),
            ("127.0.0.1:1", "localhost.evil.example", false),
            ("127.0.0.1:1", "127.0.0.1.evil.example", false),
            ("10.0.0.1:1", "10.0.0.1", true),
            ("10.0.0.1:1", "10.0.0.2", false),
            ("10.0.0.1:1", "127.0.0.1", true),
            ("0.0.0.0:1", "10.0.0.2", true),
            ("0.0.0.0:1", "gw.internal", false),
            ("gw.internal:1", "GW.internal", true),
            ("gw.internal:1", "other.internal", false),
            ("systemd:main", "localhost", true),
            ("systemd:main", "evil.example", false),
        ] {
            assert_eq!(is_ours(host, &listener(address)), ours, "{address} {host}");
        }
    }

    #[test]
    fn a_certificate_covers_one_label() {
        for (pattern, name, covered) in [
            ("gw.internal", "GW.internal", true),
            ("*.internal", "gw.internal", true),
            ("*.internal", "a.gw.internal", false),
            ("*.internal", "internal", false),
            ("*.internal", ".internal", false),
        ] {
            assert_eq!(covers(pattern, name), covered, "{pattern} {name}");
        }
    }

    #[test]
    fn a_page_of_another_origin_is_refused() {
        let listener = listener("127.0.0.1:1");
        let host = Authority::from_static("localhost:1");
        for (lines, own) in [
            (&[][..], true),
            (&[("sec-fetch-site", "same-origin")], true),
            (&[("sec-fetch-site", "none")], true),
            (&[("sec-fetch-site", "cross-site")], false),
            (&[("sec-fetch-site", "same-site")], false),
            (
                &[
                    ("sec-fetch-site", "cross-site"),
                    ("sec-fetch-mode", "navigate"),
                    ("sec-fetch-dest", "document"),
                ],
                true,
            ),
            (
                &[
                    ("sec-fetch-site", "cross-site"),
                    ("sec-fetch-mode", "navigate"),
                    ("sec-fetch-dest", "iframe"),
                ],
                false,
            ),
            (&[("origin", "http://localhost:1")], true),
            (&[("origin", "http://localhost:2")], false),
            (&[("origin", "https://localhost:1")], false),
            (&[("origin", "null")], false),
            (
                &[
                    ("sec-fetch-site", "same-origin"),
                    ("origin", "http://evil.example"),
                ],
                false,
            ),
        ] {
            assert_eq!(
                is_own_page(&listener, &host, &headers(lines)),
                own,
                "{lines:?}"
            );
        }
    }

    #[test]
    fn the_password_is_the_credential() {
        let bearer = |value: &str| {
            basic(&headers(&[("authorization", value)])).map(|found| {
                found.map(|headers| headers[AUTHORIZATION].to_str().unwrap().to_owned())
            })
        };
        let coded = |pair: &str| format!("Basic {}", STANDARD.encode(pair));
        let good = |key: &str| Some(Some(format!("Bearer {key}")));
        assert_eq!(bearer(&coded("anybody:secret")), good("secret"));
        assert_eq!(bearer(&coded(":se:cret")), good("se:cret"));
        assert_eq!(bearer(&coded("secret")), Some(None));
        assert_eq!(bearer(&coded("a:")), Some(None));
        assert_eq!(bearer(&coded("a:b\nc")), Some(None));
        assert_eq!(bearer("basic !!"), Some(None));
        assert_eq!(bearer("Bearer x"), None);
        assert_eq!(bearer("Basic"), None);
        let two = headers(&[
            ("authorization", &coded("a:b")),
            ("authorization", &coded("a:c")),
        ]);
        assert!(basic(&two).unwrap().is_none());
    }
}
