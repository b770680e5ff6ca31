//! What a listener shows its clients.

use std::sync::Arc;

use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};

use super::{Identity, TlsError, certificates, mismatch, provider};

/// Settings of a listener: TLS 1.2 and 1.3, HTTP/2 and HTTP/1.1 by ALPN. With `client_ca`, clients
/// must show a certificate that one of these authorities vouches for, on every connection.
///
/// # Errors
/// What cannot be read, or does not fit together.
pub fn server(
    identity: Identity<'_>,
    client_ca: Option<&[u8]>,
) -> Result<Arc<ServerConfig>, TlsError> {
    let (chain, key) = identity.read()?;
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError::Key(error.to_string()))?;
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(pem) => {
            let mut roots = RootCertStore::empty();
            for authority in certificates(pem)? {
                roots
                    .add(authority)
                    .map_err(|error| TlsError::Authority(error.to_string()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
                .build()
                .map_err(|error| TlsError::Authority(error.to_string()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_single_cert(chain, key).map_err(mismatch)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    if client_ca.is_some() {
        // Who resumes a session is not looked at again, and each one can be resumed in its turn: a
        // certificate would let in for as long as its owner comes back, expired or not.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    } else {
        // What a client needs to resume its session is kept by the client, under keys that live no
        // longer than these settings.
        config.ticketer = rustls::crypto::ring::Ticketer::new().map_err(mismatch)?;
    }
    Ok(Arc::new(config))
}
