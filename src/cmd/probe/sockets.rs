//! Addresses of listeners and the control socket: whether the gateway could have them now. Each is
//! bound and let go of; nothing is listened on.

use std::fs;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::net::sockopt::socket_peercred;
use socket2::{Domain, Socket, Type};

use super::folders::Identity;
use super::owner::{self, Owner};
use super::{Found, counted, reason};
use crate::config::spec::{ListenAddress, Spec};
use crate::config::{Environment, Severity};

/// How many sockets there are, and whose.
#[derive(Default)]
struct Tally {
    free: usize,
    ours: usize,
    unchecked: usize,
    bad: usize,
}

/// Tries every address, and says how many are free.
pub(super) fn probe(
    spec: &Spec,
    environment: &Environment,
    identity: &Identity,
    found: &mut Found<'_>,
) -> String {
    let mut tally = Tally::default();
    let control = spec.server.control_socket.as_deref();
    let gateway = control.and_then(|path| peer(path).ok());
    if let Some(path) = control {
        let probe = Probe {
            key: "server.control_socket",
            what: "control socket".to_owned(),
            identity,
            gateway: gateway.as_ref(),
        };
        probe.unix(path, &mut tally, found);
    }
    for (i, listener) in spec.listeners.iter().enumerate() {
        let key = format!("listeners[{i}].address");
        let probe = Probe {
            key: &key,
            what: format!("listener `{}`", listener.name),
            identity,
            gateway: gateway.as_ref(),
        };
        match &listener.address {
            ListenAddress::Ip(address) => probe.tcp(&[*address], &mut tally, found),
            ListenAddress::Host { host, port } => match (&**host, *port).to_socket_addrs() {
                Ok(addresses) => probe.tcp(&addresses.collect::<Vec<_>>(), &mut tally, found),
                Err(error) => {
                    tally.bad += 1;
                    let message = format!("`{host}` cannot be resolved: {}", reason(&error));
                    found.add(Severity::Error, "socket-address", &key, message, None);
                }
            },
            ListenAddress::Unix(path) => probe.unix(path, &mut tally, found),
            ListenAddress::Systemd(name) => probe.passed(name, environment, &mut tally, found),
        }
    }
    tally.told()
}

impl Tally {
    fn told(&self) -> String {
        let parts = [
            (self.free, "free"),
            (self.ours, "in use by the running gateway"),
            (self.unchecked, "not looked at"),
            (self.bad, "not to be had"),
        ];
        let all = parts.iter().map(|(count, _)| count).sum();
        let parts = parts.into_iter().filter(|(count, _)| *count > 0);
        let parts: Vec<String> = parts
            .map(|(count, what)| format!("{count} {what}"))
            .collect();
        format!("{}: {}", counted(all, "socket"), parts.join(", "))
    }
}

/// One address.
struct Probe<'a> {
    key: &'a str,
    what: String,
    identity: &'a Identity,
    /// The process behind the control socket of this configuration.
    gateway: Option<&'a Owner>,
}

impl Probe<'_> {
    /// The gateway takes the first address of a name that can be had.
    fn tcp(&self, addresses: &[SocketAddr], tally: &mut Tally, found: &mut Found<'_>) {
        let mut last = None;
        for address in addresses {
            match bind(*address) {
                Ok(()) => {
                    tally.free += 1;
                    return;
                }
                Err(error) => last = Some((*address, error)),
            }
        }
        let Some((address, error)) = last else {
            return;
        };
        match error.kind() {
            io::ErrorKind::AddrInUse => {
                self.in_use(&owner::of_address(address), address, tally, found)
            }
            io::ErrorKind::PermissionDenied => {
                tally.bad += 1;
                let message = format!("{} may not be bound by this user: {address}", self.what);
                let help = format!(
                    "port {} is privileged: it needs CAP_NET_BIND_SERVICE, which the unit of the \
                     package grants",
                    address.port()
                );
                let severity = self.identity.severity();
                found.add(severity, "socket-denied", self.key, message, Some(help));
            }
            _ => {
                tally.bad += 1;
                let message = format!("{} cannot be bound: {}", self.what, reason(&error));
                let help = match error.kind() {
                    io::ErrorKind::AddrNotAvailable => Some(format!(
                        "this machine does not have the address {}",
                        address.ip()
                    )),
                    _ => None,
                };
                found.add(Severity::Error, "socket-address", self.key, message, help);
            }
        }
    }

    fn in_use(
        &self,
        owners: &[Owner],
        address: impl std::fmt::Display,
        tally: &mut Tally,
        found: &mut Found<'_>,
    ) {
        // After an upgrade two processes of the gateway may hold it for a while, and the socket goes
        // on naming the one that made it when that has ended.
        let is_gateway = |owner: &Owner| {
            self.gateway.is_some_and(|gateway| {
                let is_ours = owner::is_our_kind(gateway) || owner::is_gone(gateway);
                owner.pid == gateway.pid || (is_ours && owner::is_our_kind(owner))
            })
        };
        if owners.iter().any(is_gateway) {
            tally.ours += 1;
            return;
        }
        tally.bad += 1;
        let (by, help) = match owners.first() {
            Some(owner) if owner::is_our_kind(owner) => (
                format!("{owner}"),
                "it may be the gateway that this file is for: its control socket would tell"
                    .to_owned(),
            ),
            Some(owner) => (
                format!("{owner}"),
                "stop it, or choose another address".to_owned(),
            ),
            None => (
                "another process".to_owned(),
                "this user cannot see which; root could".to_owned(),
            ),
        };
        let message = format!("{}: {address} is in use by {by}", self.what);
        found.add(
            Severity::Error,
            "socket-in-use",
            self.key,
            message,
            Some(help),
        );
    }

    fn unix(&self, path: &Path, tally: &mut Tally, found: &mut Found<'_>) {
        if let Ok(there) = fs::symlink_metadata(path) {
            if !there.file_type().is_socket() {
                tally.bad += 1;
                let message = format!(
                    "{}: `{}` exists and is no socket",
                    self.what,
                    path.display()
                );
                found.add(Severity::Error, "socket-address", self.key, message, None);
                return;
            }
            match peer(path) {
                Ok(owner)
                    if self.gateway.is_some_and(|gateway| gateway.pid == owner.pid)
                        && (self.key != "server.control_socket" || owner::is_our_kind(&owner)) =>
                {
                    tally.ours += 1;
                    return;
                }
                Ok(owner) => {
                    self.in_use(&[owner], path.display(), tally, found);
                    return;
                }
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    tally.unchecked += 1;
                    let message = format!(
                        "{}: whether `{}` is in use cannot be seen by this user",
                        self.what,
                        path.display()
                    );
                    found.add(Severity::Note, "socket-unchecked", self.key, message, None);
                    return;
                }
                // A stale one, which is replaced.
                Err(_) => {}
            }
        }
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        if self.identity.may_write(folder) {
            tally.free += 1;
            return;
        }
        tally.bad += 1;
        let message = format!("{}: `{}` cannot be written to", self.what, folder.display());
        let severity = self.identity.severity();
        found.add(severity, "socket-denied", self.key, message, None);
    }

    fn passed(
        &self,
        name: &str,
        environment: &Environment,
        tally: &mut Tally,
        found: &mut Found<'_>,
    ) {
        let passed = environment
            .get("LISTEN_FDS")
            .and_then(|count| count.parse::<usize>().ok());
        let Some(passed) = passed.filter(|count| *count > 0) else {
            tally.unchecked += 1;
            let message = format!(
                "{}: the socket `{name}` comes from the service manager",
                self.what
            );
            let help = "only a start by its socket unit shows whether it is there".to_owned();
            found.add(
                Severity::Note,
                "socket-unchecked",
                self.key,
                message,
                Some(help),
            );
            return;
        };
        let names = environment.get("LISTEN_FDNAMES").unwrap_or_default();
        let names: Vec<&str> = names.split(':').take(passed).collect();
        if names.contains(&name) {
            tally.free += 1;
            return;
        }
        tally.bad += 1;
        let message = format!(
            "{}: the service manager has passed no socket `{name}`",
            self.what
        );
        let help = format!(
            "it has passed {}; `FileDescriptorName=` names a socket",
            names.join(", ")
        );
        found.add(
            Severity::Error,
            "socket-address",
            self.key,
            message,
            Some(help),
        );
    }
}

/// Binds as the gateway does.
fn bind(address: SocketAddr) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())
}

/// The process that listens at a unix socket.
fn peer(path: &Path) -> io::Result<Owner> {
    let stream = UnixStream::connect(path)?;
    let credentials = socket_peercred(&stream)?;
    Ok(owner::of_pid(credentials.pid.as_raw_nonzero().get()))
}
