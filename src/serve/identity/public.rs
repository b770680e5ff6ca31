//! Doors that stand open to strangers, told of at the start.

use std::net::IpAddr;

use crate::plan::{Address, Listener, Plan};

/// Says in the log what anybody may do who can reach the gateway.
pub fn warn_of_open_doors(plan: &Plan) {
    let auth = &plan.auth;
    let public = || plan.listeners.iter().filter(|listener| is_public(listener));
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

/// Whether somebody on another machine may reach it. A name may stand for any address.
fn is_public(listener: &Listener) -> bool {
    match &listener.address {
        Address::Unix { .. } => false,
        Address::Systemd { .. } => true,
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
        ] {
            let file = format!(
                "version = 1\n[[listeners]]\nname = 'l'\naddress = '{address}'\nserve = []\n"
            );
            let spec: Spec = toml::from_str(&file).unwrap();
            let plan = compile(&spec, &Facts::default());
            assert_eq!(is_public(&plan.listeners[0]), public, "{address}");
        }
    }
}
