//! Checks of `[[listeners]]`.

use std::path::Path;

use super::Check;
use crate::config::diag::{Diagnostic, Severity};
use crate::config::spec::{Limits, ListenAddress, Listener, Serve};

impl Check<'_> {
    pub(super) fn listeners(&mut self) {
        let listeners = &self.spec.listeners;
        let names = listeners
            .iter()
            .enumerate()
            .map(|(i, listener)| (format!("listeners[{i}].name"), listener.name.as_str()));
        self.names("listener", names);
        for (i, listener) in listeners.iter().enumerate() {
            let at = format!("listeners[{i}]");
            self.listener(&at, listener);
            self.limits(&format!("{at}.limits"), &listener.limits);
            self.origins_allowed(&format!("{at}.cors.allowed_origins"), listener);
        }
        self.addresses();
        let serves = listeners
            .iter()
            .any(|l| l.serve.contains(&Serve::Inference));
        if !serves && self.origins.is_intact("listeners") {
            let diagnostic = self.found(
                Severity::Error,
                "no-inference",
                "listeners[0].serve",
                NO_INFERENCE,
            );
            self.out
                .push(diagnostic.help("add \"inference\" to the `serve` of one of them"));
        }
    }

    fn listener(&mut self, at: &str, listener: &Listener) {
        let address = format!("{at}.address");
        if listener.serve.is_empty() && self.origins.is_intact(&format!("{at}.serve")) {
            let key = format!("{at}.serve");
            self.error(
                "serves-nothing",
                &key,
                format!("listener `{}` serves nothing", listener.name),
            );
        }
        if let ListenAddress::Unix(path) = &listener.address {
            self.socket_path(&address, path);
        } else {
            self.without_effect(
                &format!("{at}.mode"),
                "only a `unix:` address has permissions",
            );
        }
        if let Some(tls) = &listener.tls {
            self.server_tls(&format!("{at}.tls"), tls);
        }
        if listener.tls.is_none() {
            let reason = "the listener has no `tls`";
            self.without_effect(&format!("{at}.limits.tls_handshake_timeout"), reason);
        }
        if !listener.serve.contains(&Serve::Inference) {
            let reason = "the listener does not serve `inference`";
            self.without_effect(&format!("{at}.engine_metrics"), reason);
        }
        self.console(at, listener);
        let open = !self.spec.auth.guards_inference();
        if open && !listener.address.is_local() && listener.serve.contains(&Serve::Inference) {
            let message = format!(
                "listener `{}` has no authentication: anyone who can reach `{}` can use its \
                 inference routes",
                listener.name, listener.address
            );
            // Only the unit of the socket knows how far it reaches.
            let or = match listener.address {
                ListenAddress::Systemd(_) => "let its socket unit listen on `127.0.0.1`",
                _ => "bind it to `127.0.0.1`",
            };
            let diagnostic =
                self.found(Severity::Warning, "public-without-auth", &address, message);
            self.out.push(diagnostic.help(format!(
                "set `auth.api_key` or `[[auth.tenants]]`, {or}, or keep strangers out by the \
                 network",
            )));
        }
    }

    /// The console shows how the house is built. What the service manager passes is judged when
    /// somebody asks.
    fn console(&mut self, at: &str, listener: &Listener) {
        let is_here = listener.address.is_local();
        let is_passed = matches!(listener.address, ListenAddress::Systemd(_));
        if is_here || is_passed || !listener.serve.contains(&Serve::Console) {
            return;
        }
        let auth = &self.spec.auth;
        let has_key = auth.is_any() && !auth.control_plane.open;
        let lacks = match (&listener.tls, has_key) {
            (Some(_), true) => return,
            (None, true) => "TLS",
            (Some(_), false) => "a credential of the control plane",
            (None, false) => "TLS and a credential of the control plane",
        };
        let message = format!(
            "listener `{}` shows the console to the network without {lacks}",
            listener.name
        );
        let found = self.found(
            Severity::Error,
            "console-exposed",
            &format!("{at}.serve"),
            message,
        );
        self.out.push(found.help(
            "serve it on `127.0.0.1` or a `unix:` socket, or set `tls` and \
             `[[auth.control_plane.api_keys]]`",
        ));
    }

    fn limits(&mut self, at: &str, limits: &Limits) {
        let key = |name: &str| format!("{at}.{name}");
        self.at_least_one(&key("max_connections"), limits.max_connections);
        self.at_least_one(&key("h2_max_streams"), limits.h2_max_streams);
        self.positive(&key("tls_handshake_timeout"), limits.tls_handshake_timeout);
        if !(4 << 10..=1 << 20).contains(&limits.max_header_bytes.get()) {
            self.range(&key("max_header_bytes"), "from 4KiB to 1MiB");
        }
        if !(1..=1000).contains(&limits.max_headers) {
            self.range(&key("max_headers"), "from 1 to 1000");
        }
        if !(256..=64 << 10).contains(&limits.max_uri_bytes.get()) {
            self.range(&key("max_uri_bytes"), "from 256B to 64KiB");
        }
    }

    fn origins_allowed(&mut self, at: &str, listener: &Listener) {
        let origins = &listener.cors.allowed_origins;
        for (i, origin) in origins.iter().enumerate() {
            let key = format!("{at}[{i}]");
            if origin == "*" {
                if origins.len() > 1 {
                    self.error(
                        "cors-origin",
                        &key,
                        "`*` stands for every origin, so it stands alone",
                    );
                }
            } else if !is_origin(origin) {
                let message = format!(
                    "`{origin}` is no origin: expected `scheme://host` or `scheme://host:port`"
                );
                self.error("cors-origin", &key, message);
            }
        }
    }

    /// Two listeners cannot have one address.
    fn addresses(&mut self) {
        let mut addresses: Vec<(String, ListenAddress)> = self
            .spec
            .listeners
            .iter()
            .enumerate()
            .map(|(i, listener)| (format!("listeners[{i}].address"), listener.address.clone()))
            .collect();
        if let Some(path) = &self.spec.server.control_socket {
            let address = ListenAddress::Unix(Path::to_owned(path));
            addresses.push(("server.control_socket".to_owned(), address));
        }
        for (i, (key, address)) in addresses.iter().enumerate() {
            let taken = addresses
                .iter()
                .take(i)
                .find(|(_, other)| overlap(address, other));
            if let Some((first, other)) = taken {
                let message = if address == other {
                    format!("the address `{address}` is taken twice")
                } else {
                    format!("the addresses `{address}` and `{other}` overlap")
                };
                let diagnostic: Diagnostic = self
                    .found(Severity::Error, "address-twice", key, message)
                    .beside(self.origins.place(first), "the first one");
                self.out.push(diagnostic);
            }
        }
    }
}

const NO_INFERENCE: &str = "no listener serves `inference`";

/// Whether two sockets cannot be bound at once. Port 0 is any free one, so never taken.
fn overlap(left: &ListenAddress, right: &ListenAddress) -> bool {
    use ListenAddress::{Host, Ip, Systemd, Unix};
    match (left, right) {
        (Unix(left), Unix(right)) => left == right,
        _ if left.port() == Some(0) || left.port() != right.port() => false,
        (Ip(left), Ip(right)) => {
            let (left, right) = (left.ip(), right.ip());
            let wild = left.is_unspecified() || right.is_unspecified();
            left == right || (wild && left.is_ipv4() == right.is_ipv4())
        }
        (Host { host: left, .. }, Host { host: right, .. }) => left.eq_ignore_ascii_case(right),
        (Systemd(left), Systemd(right)) => left == right,
        (Ip(_) | Host { .. } | Unix(_) | Systemd(_), _) => false,
    }
}

/// `scheme://host[:port]` and nothing behind it.
fn is_origin(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once("://") else {
        return false;
    };
    !scheme.is_empty()
        && scheme
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
        && !rest.is_empty()
        && rest
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b))
}
