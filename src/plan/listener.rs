//! Listeners as they will be bound.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::tls::{self, ServerTls};
use crate::base::network::Network;
use crate::base::units::ByteSize;
use crate::config::spec::{self, EngineMetrics, ListenAddress, Serve};

/// A socket, what it answers and within which limits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Listener {
    /// Name as declared.
    pub name: Arc<str>,
    /// Where it is bound.
    pub address: Address,
    /// Route groups it serves.
    pub serve: Groups,
    /// Proxies in front, whose word counts.
    pub trusted_proxies: Vec<Network>,
    /// HTTPS; `None`: plain HTTP.
    pub tls: Option<Arc<ServerTls>>,
    /// Whether only who may enter the control plane may read `/engine_metrics`; `None`: as soon as
    /// any credential is configured.
    pub guards_engine_metrics: Option<bool>,
    /// Whether answers name the worker that gave them, by its opaque id.
    pub expose_worker_id: bool,
    /// Whether answers say how their worker was found.
    pub expose_decision: bool,
    /// Origins that may read answers in a browser; `None`: no CORS.
    pub cors: Option<Cors>,
    /// Limits of its connections and requests.
    pub limits: Limits,
}

/// Where a listener is bound.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Address {
    /// `host:port`; the host may be a name; port 0 is any free one.
    Tcp {
        /// Host name or address, without brackets.
        host: Arc<str>,
        /// Port.
        port: u16,
    },
    /// A socket in the file system.
    Unix {
        /// Its path.
        path: std::path::PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A socket that the service manager passes.
    Systemd {
        /// Its name.
        name: Arc<str>,
    },
}

/// Which route groups a listener serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Groups {
    /// The inference endpoints and the information routes.
    pub inference: bool,
    /// The control plane.
    pub admin: bool,
    /// Liveness, readiness, health.
    pub probes: bool,
    /// `GET /metrics`.
    pub metrics: bool,
    /// `GET /console`.
    pub console: bool,
}

/// Cross-origin rules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Cors {
    /// Every origin (`*`).
    Any,
    /// These origins.
    Origins(Vec<Arc<str>>),
}

/// Limits of a listener's connections and requests. Zero durations mean off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Limits {
    /// Open connections; further ones wait in the backlog.
    pub max_connections: usize,
    /// Open connections per client address, 0: no such limit.
    pub max_connections_per_ip: usize,
    /// Bytes of all header names and values.
    pub max_header_bytes: usize,
    /// Number of headers.
    pub max_headers: usize,
    /// Bytes of the request target.
    pub max_uri_bytes: usize,
    /// From the first byte of a head to its last.
    pub header_timeout: Duration,
    /// Between two reads of a body.
    pub body_timeout: Duration,
    /// Bytes per second that a body must bring; 0: no such limit.
    pub min_body_rate: u64,
    /// Of a kept connection without a request.
    pub idle_timeout: Duration,
    /// Of a client that does not read.
    pub write_timeout: Duration,
    /// Of a TLS handshake.
    pub tls_handshake_timeout: Duration,
    /// Concurrent streams of an HTTP/2 connection.
    pub h2_max_streams: u32,
}

pub(super) fn compile(spec: &spec::Listener) -> Listener {
    let address = match &spec.address {
        ListenAddress::Ip(address) => Address::Tcp {
            host: address.ip().to_string().into(),
            port: address.port(),
        },
        ListenAddress::Host { host, port } => Address::Tcp {
            host: host.as_str().into(),
            port: *port,
        },
        ListenAddress::Unix(path) => Address::Unix {
            path: path.clone(),
            mode: spec.mode.map_or(0o600, spec::UnixMode::bits),
        },
        ListenAddress::Systemd(name) => Address::Systemd {
            name: name.as_str().into(),
        },
    };
    let mut serve = Groups::default();
    for group in &spec.serve {
        match group {
            Serve::Inference => serve.inference = true,
            Serve::Admin => serve.admin = true,
            Serve::Probes => serve.probes = true,
            Serve::Metrics => serve.metrics = true,
            Serve::Console => serve.console = true,
        }
    }
    let origins = &spec.cors.allowed_origins;
    let cors = if origins.is_empty() {
        None
    } else if origins.iter().any(|origin| origin == "*") {
        Some(Cors::Any)
    } else {
        Some(Cors::Origins(
            origins
                .iter()
                .map(|origin| origin.as_str().into())
                .collect(),
        ))
    };
    let bytes = |size: ByteSize| usize::try_from(size.get()).unwrap_or(usize::MAX);
    let limits = &spec.limits;
    Listener {
        name: spec.name.as_str().into(),
        address,
        serve,
        trusted_proxies: spec.trusted_proxies.clone(),
        tls: spec.tls.as_ref().and_then(tls::server),
        guards_engine_metrics: spec.engine_metrics.map(|who| who == EngineMetrics::Admin),
        expose_worker_id: spec.expose_worker_id,
        expose_decision: spec.expose_decision,
        cors,
        limits: Limits {
            max_connections: limits.max_connections as usize,
            max_connections_per_ip: limits.max_connections_per_ip as usize,
            max_header_bytes: bytes(limits.max_header_bytes),
            max_headers: limits.max_headers as usize,
            max_uri_bytes: bytes(limits.max_uri_bytes),
            header_timeout: limits.header_timeout.get(),
            body_timeout: limits.body_timeout.get(),
            min_body_rate: limits.min_body_rate.get(),
            idle_timeout: limits.idle_timeout.get(),
            write_timeout: limits.write_timeout.get(),
            tls_handshake_timeout: limits.tls_handshake_timeout.get(),
            h2_max_streams: limits.h2_max_streams,
        },
    }
}
