//! TLS: what a listener shows its clients, and what the gateway shows and asks of its workers.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::base::pem::PemFile;

/// `[listeners.tls]`: HTTPS towards clients.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ServerTls {
    /// The certificate of the listener, with those that lead to a root behind it.
    ///
    /// Unit: path of a PEM file. Default: none, plain HTTP. Range: together with `key_path`.
    /// Reload: drain.
    /// It is read again when the file changes; new connections get the new one. A pair that does not
    /// match is refused, and the last good one stays.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cert_path: Option<PemFile>,

    /// The private key of the certificate.
    ///
    /// Unit: path of a PEM file. Default: none. Range: together with `cert_path`. Reload: drain.
    /// Only the gateway's user should be able to read it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_path: Option<PemFile>,

    /// Authorities whose certificates clients must show.
    ///
    /// Unit: path of a PEM file. Default: none, clients are not asked. Range: needs `cert_path`.
    /// Reload: drain.
    /// When it changes, connections that are open close after the request in progress.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_ca_path: Option<PemFile>,
}

/// `[pools.tls]`, and `tls` of one worker: HTTPS towards workers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ClientTls {
    /// The name that the worker's certificate must bear.
    ///
    /// Unit: DNS name. Default: the host of the worker's URL. Range: a DNS name. Reload: drain.
    /// It is also the name that the worker is asked for (SNI).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,

    /// Authorities that may vouch for workers.
    ///
    /// Unit: list of paths of PEM files. Default: [], the roots of the system. Range: any.
    /// Reload: drain.
    /// They replace the roots of the system. A certificate that nobody vouches for is never
    /// accepted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ca_paths: Vec<PemFile>,

    /// The certificate that the gateway shows to workers.
    ///
    /// Unit: path of a PEM file. Default: none. Range: together with `key_path`. Reload: drain.
    /// For workers that ask for one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cert_path: Option<PemFile>,

    /// The private key of that certificate.
    ///
    /// Unit: path of a PEM file. Default: none. Range: together with `cert_path`. Reload: drain.
    /// Only the gateway's user should be able to read it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_path: Option<PemFile>,
}

impl ServerTls {
    /// Its files and their keys.
    pub(crate) fn files(&mut self) -> impl Iterator<Item = (String, &mut PemFile)> {
        [
            ("cert_path", &mut self.cert_path),
            ("key_path", &mut self.key_path),
            ("client_ca_path", &mut self.client_ca_path),
        ]
        .into_iter()
        .filter_map(|(key, file)| Some((key.to_owned(), file.as_mut()?)))
    }
}

impl ClientTls {
    /// Its files and their keys.
    pub(crate) fn files(&mut self) -> impl Iterator<Item = (String, &mut PemFile)> {
        let pair = [
            ("cert_path", &mut self.cert_path),
            ("key_path", &mut self.key_path),
        ]
        .into_iter()
        .filter_map(|(key, file)| Some((key.to_owned(), file.as_mut()?)));
        let roots = self.ca_paths.iter_mut().enumerate();
        pair.chain(roots.map(|(i, file)| (format!("ca_paths[{i}]"), file)))
    }

    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// This one, with what it does not say taken from `pool`. A certificate and its key stay
    /// together.
    pub fn over(&self, pool: &Self) -> Self {
        let own = self.cert_path.is_some() || self.key_path.is_some();
        let pair = if own { self } else { pool };
        Self {
            server_name: self
                .server_name
                .clone()
                .or_else(|| pool.server_name.clone()),
            ca_paths: if self.ca_paths.is_empty() {
                pool.ca_paths.clone()
            } else {
                self.ca_paths.clone()
            },
            cert_path: pair.cert_path.clone(),
            key_path: pair.key_path.clone(),
        }
    }
}
