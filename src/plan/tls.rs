//! TLS as it will be spoken: which files, towards whom.

use std::sync::Arc;

use serde::Serialize;

use crate::base::pem::PemFile;
use crate::config::spec;

/// HTTPS of a listener.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct ServerTls {
    /// The certificate chain.
    pub cert: PemFile,
    /// Its key.
    pub key: PemFile,
    /// Authorities whose certificates clients must show.
    pub client_ca: Option<PemFile>,
}

/// HTTPS towards a worker. What is equal may share connections.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct ClientTls {
    /// The name that the worker's certificate must bear.
    pub server_name: Arc<str>,
    /// Authorities that may vouch for it; empty: those of the system.
    pub ca: Vec<PemFile>,
    /// The certificate chain that it is shown, and the key.
    pub identity: Option<(PemFile, PemFile)>,
}

/// `None` where the checks found half of a pair.
pub(super) fn server(declared: &spec::ServerTls) -> Option<Arc<ServerTls>> {
    Some(Arc::new(ServerTls {
        cert: declared.cert_path.clone()?,
        key: declared.key_path.clone()?,
        client_ca: declared.client_ca_path.clone(),
    }))
}

/// Towards the worker at `host`, with what `declared` says.
pub(super) fn client(declared: &spec::ClientTls, host: &str) -> ClientTls {
    ClientTls {
        server_name: declared.server_name.as_deref().unwrap_or(host).into(),
        ca: declared.ca_paths.clone(),
        identity: declared.cert_path.clone().zip(declared.key_path.clone()),
    }
}
