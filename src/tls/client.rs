//! What the gateway shows and asks of those whom it calls.

use std::sync::{Arc, LazyLock};

use rustls::{ClientConfig, RootCertStore};

use super::{Identity, TlsError, certificates, mismatch, provider};

/// The authorities that the system trusts, read once.
///
/// # Errors
/// [`TlsError::NoRoots`] if it has none that can be used.
pub fn system_roots() -> Result<Arc<RootCertStore>, TlsError> {
    static ROOTS: LazyLock<Arc<RootCertStore>> = LazyLock::new(|| {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        Arc::new(roots)
    });
    if ROOTS.is_empty() {
        return Err(TlsError::NoRoots);
    }
    Ok(Arc::clone(&ROOTS))
}

/// Settings of a client that trusts the authorities in `ca` (PEM files), or those of the system where
/// there is none, shows `identity` where it is asked, and offers the protocols `alpn`.
///
/// # Errors
/// What cannot be read, or does not fit together.
pub fn client(
    ca: &[&[u8]],
    identity: Option<Identity<'_>>,
    alpn: &[&[u8]],
) -> Result<Arc<ClientConfig>, TlsError> {
    let roots = if ca.is_empty() {
        system_roots()?
    } else {
        let mut roots = RootCertStore::empty();
        for pem in ca {
            for authority in certificates(pem)? {
                roots
                    .add(authority)
                    .map_err(|error| TlsError::Authority(error.to_string()))?;
            }
        }
        Arc::new(roots)
    };
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError::Key(error.to_string()))?
        .with_root_certificates(roots);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            let (chain, key) = identity.read()?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(mismatch)?
        }
    };
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    Ok(Arc::new(config))
}
