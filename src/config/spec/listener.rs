//! `[[listeners]]`: a socket and what it answers.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::is_default;
use super::tls::ServerTls;
use super::word::words;
use crate::base::network::Network;
use crate::base::units::{ByteSize, Millis};

/// `[[listeners]]`: a socket and what it answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    /// What the listener is called in logs, metrics and flags.
    ///
    /// Unit: string. Default: none, required. Range: not empty, distinct. Reload: drain.
    /// `--host` and `--port` act on the one called `main`, `--prometheus-*` on `metrics`.
    pub name: String,

    /// Where it listens.
    ///
    /// Unit: `ip:port`, `[v6]:port`, `host:port`, `unix:PATH` or `systemd:NAME`.
    /// Default: none, required. Range: no address twice; port 0 takes any free port. Reload: drain.
    /// A stale socket file at a `unix:` path is removed. With port 0 the port found is logged and
    /// kept over reloads. `systemd:NAME` is the socket that the service manager passes under this
    /// name (`FileDescriptorName=` of a socket unit).
    pub address: ListenAddress,

    /// Permissions of the socket file.
    ///
    /// Unit: octal string ("0660"). Default: 0600. Range: "0000" to "0777". Reload: drain.
    /// Only for a `unix:` address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<UnixMode>,

    /// The groups of routes that it answers.
    ///
    /// Unit: list of words. Default: none, required.
    /// Range: inference, admin, probes, metrics, console. Reload: drain.
    /// A route of another group is an unknown path here. `console` is a page about the gateway; on an
    /// address that is not of this machine it needs TLS and a credential of the control plane.
    pub serve: Vec<Serve>,

    /// Proxies in front, whose word counts.
    ///
    /// Unit: list of networks. Default: []. Range: any. Reload: drain.
    /// The address of a client is the rightmost one in `x-forwarded-for` that is none of them, and
    /// only they may name a tenant.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub trusted_proxies: Vec<Network>,

    /// HTTPS.
    ///
    /// Unit: table. Default: none, plain HTTP. Range: any. Reload: drain.
    /// TLS 1.2 and 1.3; HTTP/2 and HTTP/1.1, whichever the client asks for (ALPN).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<ServerTls>,

    /// Who may read `/engine_metrics`.
    ///
    /// Unit: word. Default: public, and admin as soon as any credential is configured.
    /// Range: public, admin. Reload: live.
    /// The metrics of engines name models and load.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine_metrics: Option<EngineMetrics>,

    /// Whether answers say which worker made them.
    ///
    /// Unit: boolean. Default: false. Range: any. Reload: drain.
    /// The header is `x-smg-routed-worker-id`, and its value an opaque id.
    #[serde(default)]
    pub expose_worker_id: bool,

    /// Whether answers say how their worker was found.
    ///
    /// Unit: boolean. Default: false. Range: any. Reload: drain.
    /// The header is `x-smg-decision`: model, pool, policy, reason, worker id and attempts.
    #[serde(default)]
    pub expose_decision: bool,

    /// What browsers of other origins may do.
    ///
    /// Unit: table. Default: off. Range: any. Reload: live.
    /// See the keys of the table.
    #[serde(default, skip_serializing_if = "is_default")]
    pub cors: Cors,

    /// Bounds on clients.
    ///
    /// Unit: table. Default: its keys' defaults. Range: any. Reload: drain.
    /// See the keys of the table.
    #[serde(default)]
    pub limits: Limits,
}

impl Listener {
    /// The listener `main` where none is written.
    pub fn main() -> Self {
        Self::defaulted(
            "main",
            30000,
            vec![Serve::Inference, Serve::Admin, Serve::Probes],
        )
    }

    /// The listener `metrics` where none is written.
    pub fn metrics() -> Self {
        Self::defaulted("metrics", 29000, vec![Serve::Metrics])
    }

    fn defaulted(name: &str, port: u16, serve: Vec<Serve>) -> Self {
        let everywhere = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        Self {
            name: name.to_owned(),
            address: ListenAddress::Ip(SocketAddr::new(everywhere, port)),
            mode: None,
            serve,
            trusted_proxies: Vec::new(),
            tls: None,
            engine_metrics: None,
            expose_worker_id: false,
            expose_decision: false,
            cors: Cors::default(),
            limits: Limits::default(),
        }
    }
}

words! {
    /// A group of routes.
    pub enum Serve ("group of routes", compare str::to_owned) {
        /// The model APIs and the information routes.
        Inference = "inference",
        /// `/workers` and `/admin`.
        Admin = "admin",
        /// Liveness, readiness and health.
        Probes = "probes",
        /// `/metrics`.
        Metrics = "metrics",
        /// `/console`.
        Console = "console",
    }
    later []
}

words! {
    /// Who may read `/engine_metrics`.
    pub enum EngineMetrics ("word", compare str::to_owned) {
        /// Everybody.
        Public = "public",
        /// Who may enter the control plane.
        Admin = "admin",
    }
    later []
}

/// `[listeners.cors]`: what browsers of other origins may do.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Cors {
    /// Origins whose pages may call this listener.
    ///
    /// Unit: list of origins (`scheme://host[:port]`), or the single "*". Default: [].
    /// Range: "*" stands alone. Reload: live.
    /// An empty list turns CORS off: no headers, and OPTIONS is answered with 405. Pages of other
    /// origins change nothing over the control plane.
    pub allowed_origins: Vec<String>,
}

/// `[listeners.limits]`: bounds on clients.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Connections open at once.
    ///
    /// Unit: number. Default: 16384. Range: >= 1. Reload: drain.
    /// Further ones wait in the system's backlog.
    pub max_connections: u32,

    /// Connections open at once from one address.
    ///
    /// Unit: number. Default: 0. Range: >= 0, 0 sets no such limit. Reload: drain.
    /// Further ones are closed.
    pub max_connections_per_ip: u32,

    /// Size of a request's header section.
    ///
    /// Unit: size ("32KiB"). Default: 32KiB. Range: 4KiB to 1MiB. Reload: drain.
    /// A larger one is refused with 431.
    pub max_header_bytes: ByteSize,

    /// Number of a request's headers.
    ///
    /// Unit: number. Default: 100. Range: 1 to 1000. Reload: drain.
    /// More are refused with 431.
    pub max_headers: u32,

    /// Length of a request's target.
    ///
    /// Unit: size ("8KiB"). Default: 8KiB. Range: 256B to 64KiB. Reload: drain.
    /// A longer one is refused with 414.
    pub max_uri_bytes: ByteSize,

    /// Time in which a request's header section must be complete.
    ///
    /// Unit: duration ("250ms", "60s"). Default: 10s. Range: >= 0, "0s" is off. Reload: drain.
    /// When it runs out the connection is closed.
    pub header_timeout: Millis,

    /// Longest silence while a request's body is read.
    ///
    /// Unit: duration ("250ms", "60s"). Default: 30s. Range: >= 0, "0s" is off. Reload: drain.
    /// When it runs out the request is refused with 408.
    pub body_timeout: Millis,

    /// Slowest rate at which a request's body may arrive, per second.
    ///
    /// Unit: size ("1KiB"). Default: 1KiB. Range: >= 0, "0B" is off. Reload: drain.
    /// A slower body is refused with 408. The first seconds of a body do not count.
    pub min_body_rate: ByteSize,

    /// How long a kept connection may stand without a request.
    ///
    /// Unit: duration ("250ms", "60s"). Default: 75s. Range: >= 0, "0s" is off. Reload: drain.
    /// When it runs out the connection is closed.
    pub idle_timeout: Millis,

    /// How long a client may take no byte of an answer that waits for it.
    ///
    /// Unit: duration ("250ms", "60s"). Default: 60s. Range: >= 0, "0s" is off. Reload: drain.
    /// When it runs out the connection is aborted and the worker's request cancelled.
    pub write_timeout: Millis,

    /// Time in which a TLS handshake must be complete.
    ///
    /// Unit: duration ("250ms", "60s"). Default: 10s. Range: > 0. Reload: drain.
    /// When it runs out the connection is closed.
    pub tls_handshake_timeout: Millis,

    /// Concurrent streams of one HTTP/2 connection.
    ///
    /// Unit: number. Default: 100. Range: >= 1. Reload: drain.
    /// Clients hold further requests back until one ends.
    pub h2_max_streams: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 16384,
            max_connections_per_ip: 0,
            max_header_bytes: ByteSize::kib(32),
            max_headers: 100,
            max_uri_bytes: ByteSize::kib(8),
            header_timeout: Millis::secs(10),
            body_timeout: Millis::secs(30),
            min_body_rate: ByteSize::kib(1),
            idle_timeout: Millis::secs(75),
            write_timeout: Millis::secs(60),
            tls_handshake_timeout: Millis::secs(10),
            h2_max_streams: 100,
        }
    }
}

/// Where a listener listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ListenAddress {
    /// An IP address and a port.
    Ip(SocketAddr),
    /// A host name, resolved when the socket is bound, and a port.
    Host {
        /// The name.
        host: String,
        /// The port; 0 takes any free one.
        port: u16,
    },
    /// The path of a unix socket.
    Unix(PathBuf),
    /// The name of a socket that the service manager passes.
    Systemd(String),
}

/// Why a text is no [`ListenAddress`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// None of the forms.
    #[error(
        "`{0}` is no address: expected `ip:port`, `[v6]:port`, `host:port`, `unix:PATH` or \
             `systemd:NAME`"
    )]
    Malformed(String),
    /// `unix:` and nothing behind it.
    #[error("`unix:` needs a path")]
    NoPath,
    /// The port is missing, no number, or above 65535.
    #[error("`{0}` has no port from 0 to 65535")]
    Port(String),
    /// `systemd:` and nothing behind it, or what no socket can be called.
    #[error("`systemd:` needs the name of a socket: 1 to 255 visible ASCII characters but `:`")]
    SocketName,
}

impl ListenAddress {
    /// The name under which serde announces this type.
    pub const NAME: &'static str = "ListenAddress";

    /// What stands before the path of a unix socket.
    pub const UNIX: &'static str = "unix:";

    /// What stands before the name of a socket that the service manager passes.
    pub const SYSTEMD: &'static str = "systemd:";

    /// From host and port; the host may be an IP address, v6 with or without brackets.
    pub fn from_parts(host: &str, port: u16) -> Result<Self, AddressError> {
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        if let Ok(ip) = bare.unwrap_or(host).parse::<IpAddr>()
            && (bare.is_none() || ip.is_ipv6())
        {
            return Ok(Self::Ip(SocketAddr::new(ip, port)));
        }
        if !is_host_name(host) {
            return Err(AddressError::Malformed(format!("{host}:{port}")));
        }
        Ok(Self::Host {
            host: host.to_owned(),
            port,
        })
    }

    /// The port, which a unix socket does not have and that of the service manager does not tell.
    pub fn port(&self) -> Option<u16> {
        match self {
            Self::Ip(address) => Some(address.port()),
            Self::Host { port, .. } => Some(*port),
            Self::Unix(_) | Self::Systemd(_) => None,
        }
    }

    /// Whether only processes of this machine can reach it. Of a socket that the service manager
    /// passes nobody knows before it is there.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Ip(address) => address.ip().to_canonical().is_loopback(),
            Self::Host { host, .. } => {
                let host = host.to_ascii_lowercase();
                host == "localhost" || host.ends_with(".localhost")
            }
            Self::Unix(_) => true,
            Self::Systemd(_) => false,
        }
    }
}

/// Letters, digits, `-`, `_` and dots, with a letter somewhere: what is all digits and dots is a
/// mistyped IP address.
fn is_host_name(host: &str) -> bool {
    host.len() <= 253
        && host.bytes().any(|b| b.is_ascii_alphabetic())
        && host.split('.').all(|label| {
            !label.is_empty()
                && label.len() <= 63
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        })
}

impl FromStr for ListenAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if let Some(path) = text.strip_prefix(Self::UNIX) {
            return match path {
                "" => Err(AddressError::NoPath),
                path => Ok(Self::Unix(path.into())),
            };
        }
        if let Some(name) = text.strip_prefix(Self::SYSTEMD) {
            let is_name = (1..=255).contains(&name.len())
                && name.bytes().all(|b| b.is_ascii_graphic() && b != b':');
            return match is_name {
                true => Ok(Self::Systemd(name.to_owned())),
                false => Err(AddressError::SocketName),
            };
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(Self::Ip(address));
        }
        let malformed = || AddressError::Malformed(text.to_owned());
        let (host, port) = text.rsplit_once(':').ok_or_else(|| {
            if is_host_name(text) || text.parse::<IpAddr>().is_ok() {
                AddressError::Port(text.to_owned())
            } else {
                malformed()
            }
        })?;
        // `::1:80` would read as a v6 address and a port; it must be written in brackets.
        if host.contains(':') && !host.starts_with('[') {
            return Err(malformed());
        }
        if !port.bytes().all(|b| b.is_ascii_digit()) {
            return Err(AddressError::Port(text.to_owned()));
        }
        let port = port
            .parse()
            .map_err(|_| AddressError::Port(text.to_owned()))?;
        Self::from_parts(host, port).map_err(|_| malformed())
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(out),
            Self::Host { host, port } => write!(out, "{host}:{port}"),
            Self::Unix(path) => write!(out, "{}{}", Self::UNIX, path.display()),
            Self::Systemd(name) => write!(out, "{}{name}", Self::SYSTEMD),
        }
    }
}

impl Serialize for ListenAddress {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ListenAddress {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl<'de> de::Visitor<'de> for Visitor {
            type Value = ListenAddress;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("an address: `ip:port`, `[v6]:port`, `host:port` or `unix:PATH`")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<ListenAddress, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_newtype_struct<D: Deserializer<'de>>(
                self,
                from: D,
            ) -> Result<ListenAddress, D::Error> {
                from.deserialize_str(self)
            }
        }

        from.deserialize_newtype_struct(Self::NAME, Visitor)
    }
}

impl JsonSchema for ListenAddress {
    fn schema_name() -> Cow<'static, str> {
        Self::NAME.into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "`ip:port`, `[v6]:port`, `host:port` or `unix:PATH`.",
        })
    }
}

/// Permissions of a socket file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnixMode(u32);

impl UnixMode {
    /// The permission bits.
    pub const fn bits(self) -> u32 {
        self.0
    }
}

/// Only the gateway's own user.
impl Default for UnixMode {
    fn default() -> Self {
        Self(0o600)
    }
}

impl Serialize for UnixMode {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&format_args!("{:04o}", self.0))
    }
}

impl<'de> Deserialize<'de> for UnixMode {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = UnixMode;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("permissions as an octal string, such as \"0660\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<UnixMode, E> {
                let octal = (3..=4).contains(&text.len())
                    && text.bytes().all(|b| (b'0'..=b'7').contains(&b));
                u32::from_str_radix(text, 8)
                    .ok()
                    .filter(|bits| octal && *bits <= 0o777)
                    .map(UnixMode)
                    .ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }

        from.deserialize_str(Visitor)
    }
}

impl JsonSchema for UnixMode {
    fn schema_name() -> Cow<'static, str> {
        "UnixMode".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^0?[0-7]{3}$" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (text, shown, local) in [
            ("0.0.0.0:30000", "0.0.0.0:30000", false),
            ("127.0.0.1:0", "127.0.0.1:0", true),
            ("[::]:30000", "[::]:30000", false),
            ("[::1]:80", "[::1]:80", true),
            ("[::ffff:127.0.0.1]:80", "[::ffff:127.0.0.1]:80", true),
            ("localhost:80", "localhost:80", true),
            ("gw.example.com:80", "gw.example.com:80", false),
            ("unix:/run/smg/main.sock", "unix:/run/smg/main.sock", true),
        ] {
            let address: ListenAddress = text.parse().unwrap();
            assert_eq!(address.to_string(), shown);
            assert_eq!(address.is_local(), local, "{text}");
        }
        for text in [
            "",
            "::1:80",
            "a b:80",
            "http://x:80",
            "[127.0.0.1]:80",
            "1.2.3:80",
            ":80",
        ] {
            let error = text.parse::<ListenAddress>().unwrap_err();
            assert!(
                matches!(error, AddressError::Malformed(_)),
                "{text}: {error}"
            );
        }
        for text in [
            "localhost",
            "1.2.3.4",
            "h:",
            "h:x",
            "h:65536",
            "127.0.0.1:65536",
            "h:+1",
        ] {
            let error = text.parse::<ListenAddress>().unwrap_err();
            assert!(matches!(error, AddressError::Port(_)), "{text}: {error}");
        }
        assert_eq!("unix:".parse::<ListenAddress>(), Err(AddressError::NoPath));
        for text in ["systemd:", "systemd:a:b", "systemd:a b"] {
            let error = text.parse::<ListenAddress>().unwrap_err();
            assert_eq!(error, AddressError::SocketName, "{text}");
        }
        assert_eq!(
            ListenAddress::from_parts("::1", 5).unwrap(),
            ListenAddress::Ip("[::1]:5".parse().unwrap())
        );
    }
}
