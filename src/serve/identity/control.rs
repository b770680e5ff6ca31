//! The control plane: who may ask and change the gateway itself.

use http::header::HOST;
use http::uri::Authority;
use http::{HeaderMap, Method};

use super::Head;
use super::count::{self, Outcome};
use super::data::{DEFAULT, Known, Shown, shown};
use super::denied::{Denied, Plane, Refused, Why};
use super::{keys, own};
use crate::dispatch::Call;
use crate::live::{AuthMethod, Caller};
use crate::plan::{Address, Auth, Identity, Listener, OperatorRole};
use crate::serve::gate::{Gate, Peer};

/// Lets `call` in, and tells it whose it is.
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
    let known = entered.map_err(|refused| Plane::Control.refuse(&call.caller, refused))?;
    let (method, role) = (known.method, known.role);
    known.tell(&mut call.caller);
    may(role, head.method).map_err(|why| Plane::Control.refuse(&call.caller, (method, why)))?;
    count::decided(Plane::Control, method, Outcome::Allowed);
    Ok(())
}

/// What a role allows.
fn may(role: Option<OperatorRole>, method: &Method) -> Result<(), Why> {
    let reads = method == Method::GET || method == Method::HEAD;
    match role {
        Some(OperatorRole::Admin) => Ok(()),
        Some(OperatorRole::User) if reads => Ok(()),
        Some(OperatorRole::User) => Err(Why::ReadOnly),
        None => Err(Why::NoRole),
    }
}

/// The first kind of credential that is configured is the only one that opens: one that is weaker must
/// not be a way around it.
async fn enter(
    gate: &Gate,
    call: &Call,
    head: Head<'_>,
    headers: &HeaderMap,
) -> Result<Known, Refused> {
    let auth = &call.snapshot.plan.auth;
    if let Peer::Control(uid) = gate.peer {
        let principal = format!("uid:{uid}").into();
        return Ok(admin(AuthMethod::Peer, principal));
    }
    if !auth.is_any {
        return match auth.open {
            true => Ok(nobody()),
            false => here(gate, head, headers).map(|()| nobody()),
        };
    }
    known(call, headers).await
}

/// Whom the credential in `headers` lets in.
///
/// # Errors
/// There is none, or it opens nothing.
pub(super) async fn known(call: &Call, headers: &HeaderMap) -> Result<Known, Refused> {
    let shown = shown(&call.snapshot, headers).await?;
    opened(&call.snapshot.plan.auth, &shown).ok_or((AuthMethod::ApiKey, Why::Key))
}

/// Whom a credential lets in.
fn opened(auth: &Auth, shown: &Shown) -> Option<Known> {
    match shown {
        Shown::Token(claims) => Some(Known {
            method: AuthMethod::Jwt,
            principal: claims.subject.clone(),
            role: claims.role,
            tenant: None,
            identity: claims.tenant.clone().map(Identity::Tenant),
        }),
        Shown::Key(key) if auth.guards_control => {
            let operator = keys::holder(&auth.operators, key)?;
            Some(Known {
                role: Some(operator.role),
                ..admin(AuthMethod::ApiKey, operator.id.clone())
            })
        }
        Shown::Key(key) => {
            let is_shared = keys::is(auth.api_key.as_ref(), key);
            is_shared.then(|| admin(AuthMethod::ApiKey, DEFAULT.clone()))
        }
    }
}

fn admin(method: AuthMethod, principal: std::sync::Arc<str>) -> Known {
    Known {
        method,
        principal,
        role: Some(OperatorRole::Admin),
        tenant: None,
        identity: None,
    }
}

/// Somebody who may do everything, whoever it is.
fn nobody() -> Known {
    admin(AuthMethod::None, Caller::default().principal)
}

/// While no credential exists, the control plane is for this machine alone. A forwarded header means
/// that the real peer is somebody else; a foreign host, that a browser on this machine has been led here
/// by a page whose name was made to mean this address.
fn here(gate: &Gate, head: Head<'_>, headers: &HeaderMap) -> Result<(), Refused> {
    if !gate.peer.is_local() || is_forwarded(headers) {
        return Err((AuthMethod::None, Why::Stranger));
    }
    if matches!(gate.peer, Peer::Tcp(_)) {
        let asked = head.uri.authority().cloned();
        let lines = headers.get_all(HOST).iter();
        let hosts = lines.map(|line| Authority::try_from(line.as_bytes()).ok());
        let mut hosts = hosts.chain(asked.map(Some));
        if !hosts.all(|host| host.is_some_and(|host| is_ours(host.host(), &gate.listener))) {
            return Err((AuthMethod::None, Why::Host));
        }
    }
    Ok(())
}

/// Whether a proxy has passed the request on.
pub(super) fn is_forwarded(headers: &HeaderMap) -> bool {
    headers.keys().any(|name| {
        let name = name.as_str();
        name.starts_with("x-forwarded-") || matches!(name, "forwarded" | "x-real-ip" | "via")
    })
}

/// Whether a client on this machine has reason to call us `host`.
fn is_ours(host: &str, listener: &Listener) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if let Ok(address) = bare.parse::<std::net::IpAddr>() {
        return address.to_canonical().is_loopback();
    }
    let name = host.strip_suffix('.').unwrap_or(host);
    let bound = match &listener.address {
        Address::Tcp { host, .. } => Some(&**host),
        Address::Unix { .. } | Address::Systemd { .. } => None,
    };
    name.eq_ignore_ascii_case("localhost")
        || bound.is_some_and(|bound| name.eq_ignore_ascii_case(bound))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::spec::Spec;
    use crate::plan::{Digest, Facts, compile};
    use crate::serve::identity::token::Claims;

    fn auth(text: &str) -> Auth {
        let spec: Spec = toml::from_str(&format!("version = 1\n{text}")).unwrap();
        compile(&spec, &Facts::default()).auth
    }

    const SHARED: &str = "[auth]\napi_key = 'shared'\n";
    const TENANT: &str = "[[auth.tenants]]\nname = 't'\nkeys = ['tenant']\n";
    const OPERATORS: &str = "[[auth.control_plane.api_keys]]\nid = 'a'\nrole = 'admin'\nkey = 'admin'\n\
         [[auth.control_plane.api_keys]]\nid = 'u'\nrole = 'user'\nkey = 'user'\n";
    const MASKED: &str = "[[auth.control_plane.api_keys]]\nid = 'a'\nrole = 'admin'\nkey = '***'\n";
    const JWT: &str = "[auth.jwt]\nissuer = 'https://i'\naudience = 'a'\n";

    #[test]
    fn only_the_strongest_kind_of_key_opens() {
        let all = ["shared", "tenant", "admin", "user", "other"];
        for (file, opening) in [
            (SHARED.to_owned(), &["shared"][..]),
            (TENANT.to_owned(), &[]),
            (format!("{SHARED}{TENANT}"), &["shared"]),
            (OPERATORS.to_owned(), &["admin", "user"]),
            (format!("{SHARED}{OPERATORS}"), &["admin", "user"]),
            (format!("{SHARED}{TENANT}{OPERATORS}"), &["admin", "user"]),
            (JWT.to_owned(), &[]),
            (format!("{SHARED}{JWT}"), &[]),
            (format!("{SHARED}{JWT}{OPERATORS}"), &["admin", "user"]),
            // A key that was masked in a dump opens nothing, and leaves the door to nobody else.
            (
                format!(
                    "{SHARED}{}",
                    OPERATORS.replace("key = 'admin'", "key = '***'")
                ),
                &["user"],
            ),
            (format!("{SHARED}{MASKED}"), &[]),
        ] {
            let auth = auth(&file);
            let opens = |key: &&str| {
                let key = Shown::Key(Digest::of(key.as_bytes()));
                opened(&auth, &key).is_some()
            };
            let got: Vec<&str> = all.into_iter().filter(opens).collect();
            assert_eq!(got, opening, "{file}");
        }
    }

    #[test]
    fn a_credential_has_the_role_that_it_says() {
        let key = |file: &str, key: &str| {
            let known = opened(&auth(file), &Shown::Key(Digest::of(key.as_bytes()))).unwrap();
            (known.principal.to_string(), known.role)
        };
        let (admin, user) = (Some(OperatorRole::Admin), Some(OperatorRole::User));
        assert_eq!(key(SHARED, "shared"), ("default".to_owned(), admin));
        assert_eq!(key(OPERATORS, "admin"), ("a".to_owned(), admin));
        assert_eq!(key(OPERATORS, "user"), ("u".to_owned(), user));
        for role in [None, user, admin] {
            let claims = Claims {
                subject: "s".into(),
                role,
                tenant: None,
            };
            let known = opened(&auth(JWT), &Shown::Token(claims.into())).unwrap();
            assert_eq!((&*known.principal, known.role), ("s", role));
        }
    }

    #[test]
    fn a_role_allows_so_much() {
        let reading = [Method::GET, Method::HEAD];
        let changing = [Method::POST, Method::PUT, Method::PATCH, Method::DELETE];
        for method in reading.iter().chain(&changing) {
            assert_eq!(may(Some(OperatorRole::Admin), method), Ok(()));
            assert_eq!(may(None, method), Err(Why::NoRole));
        }
        for method in &reading {
            assert_eq!(may(Some(OperatorRole::User), method), Ok(()));
        }
        for method in &changing {
            assert_eq!(may(Some(OperatorRole::User), method), Err(Why::ReadOnly));
        }
    }

    #[test]
    fn what_this_machine_is_called() {
        let file = "version = 1\n[[listeners]]\nname = 'main'\naddress = 'gw.internal:1'\n\
                    serve = ['admin']\n";
        let spec: Spec = toml::from_str(file).unwrap();
        let plan = compile(&spec, &Facts::default());
        let listener = &plan.listeners[0];
        for host in [
            "localhost",
            "LOCALHOST",
            "localhost.",
            "127.0.0.1",
            "127.1.2.3",
            "[::1]",
            "gw.internal",
            "GW.internal.",
            "[::ffff:127.0.0.1]",
        ] {
            assert!(is_ours(host, listener), "{host}");
        }
        for host in [
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "10.0.0.1",
            "0.0.0.0",
            "main",
            "",
            "[::]",
        ] {
            assert!(!is_ours(host, listener), "{host}");
        }
    }
}
