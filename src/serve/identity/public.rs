//! Doors that stand open to strangers, told of at the start.

use std::net::IpAddr;

use crate::plan::{Address, Listener, Plan};
use crate::serve::listen::Listeners;

/// Says in the log what anybody may do who can reach the gateway.
pub fn warn_of_open_doors(plan: &Plan, sockets: &Listeners) {
    let auth = &plan.auth;
    let passed = |name: &str| sockets.passed_addresses(name);
    let public = || {
        let listeners = plan.listeners.iter();
        listeners.filter(|listener| is_public(listener, passed))
    };
    if !auth.guards_inference {
        for listener in public().filter(|listener| listener.serve.inference) {
            tracing::warn!(
                target: "smg::auth",
                listener = %listener.name,
                "the listener is public and its inference routes ask for no credential"
            );
        }
    }
    if auth.open && !auth.is_any {
        for listener in plan
            .listeners
            .iter()
            .filter(|listener| listener.serve.admin)
        {
            tracing::warn!(
                target: "smg::auth",
                listener = %listener.name,
                "the control plane is open to everybody who can reach the listener"
            );
        }
    }
}

/// Whether somebody on another machine may reach it. A name may stand for any address; `passed` says
/// which ones the service manager has bound under a name, `None` for a unix socket.
fn is_public(listener: &Listener, passed: impl Fn(&str) -> Vec<Option<IpAddr>>) -> bool {
    match &listener.address {
        Address::Unix { .. } => false,
        Address::Systemd { name } => {
            let mut addresses = passed(name).into_iter().flatten();
            addresses.any(|address| !address.to_canonical().is_loopback())
        }
        Address::Tcp { host, .. } => match host.parse::<IpAddr>() {
            Ok(address) => !address.to_canonical().is_loopback(),
            Err(_) => !host.eq_ignore_ascii_case("localhost"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::spec::Spec;
    use crate::plan::{Facts, compile};

    #[test]
    fn what_others_may_reach() {
        for (address, public) in [
            ("127.0.0.1:1", false),
            ("[::1]:1", false),
            ("localhost:1", false),
            ("unix:/run/x.sock", false),
            ("0.0.0.0:1", true),
            ("[::]:1", true),
            ("10.0.0.1:1", true),
            ("gw.internal:1", true),
            ("systemd:here", false),
            ("systemd:there", true),
            ("systemd:file", false),
        ] {
            let file = format!(
                "version = 1\n[[listeners]]\nname = 'l'\naddress = '{address}'\nserve = []\n"
            );
            let spec: Spec = toml::from_str(&file).unwrap();
            let plan = compile(&spec, &Facts::default());
            let passed = |name: &str| match name {
                "here" => vec![Some("127.0.0.1".parse().unwrap())],
                "there" => vec![Some("::1".parse().unwrap()), Some("::".parse().unwrap())],
                _ => vec![None],
            };
            assert_eq!(is_public(&plan.listeners[0], passed), public, "{address}");
        }
    }
}
