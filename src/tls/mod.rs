//! TLS settings from PEM text: what a listener shows, what the gateway shows and asks of workers,
//! and when certificates end.
//!
//! Invariant: an identity that is incomplete, does not match or cannot be read is an error, never a
//! weaker connection; there is no way not to verify a worker.

mod certificate;
mod client;
mod server;

pub use certificate::{names, not_after, subject};
pub use client::{client, system_roots};
pub use server::server;

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Why certificates and keys make no TLS settings. No variant carries anything of a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TlsError {
    /// Not a PEM file, or one with something else in it.
    #[error("there is no certificate in it (PEM, `BEGIN CERTIFICATE`)")]
    NoCertificate,
    /// The same for the key.
    #[error("there is no private key in it (PEM, `BEGIN PRIVATE KEY`)")]
    NoKey,
    /// A part of the file is broken.
    #[error("a certificate in it cannot be read: {0}")]
    Certificate(String),
    /// The certificate is that of another key.
    #[error("the private key is not that of the certificate")]
    Mismatch,
    /// The key is of a kind that is not supported.
    #[error("the private key cannot be used: {0}")]
    Key(String),
    /// An authority cannot be one.
    #[error("an authority in it cannot be used: {0}")]
    Authority(String),
    /// The roots of the system are wanted and there are none.
    #[error("the system has no root certificates")]
    NoRoots,
}

/// A certificate chain and its key, as PEM text.
#[derive(Clone, Copy)]
pub struct Identity<'a> {
    /// The certificate, with those that lead to a root behind it.
    pub cert: &'a [u8],
    /// The private key of the first one.
    pub key: &'a [u8],
}

impl Identity<'_> {
    /// The chain and the key, read.
    fn read(self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
        let key = PrivateKeyDer::from_pem_slice(self.key).map_err(|_| TlsError::NoKey)?;
        Ok((certificates(self.cert)?, key))
    }
}

/// The certificates of a PEM file; at least one.
fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let all: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| TlsError::Certificate(error.to_string()))?;
    if all.is_empty() {
        return Err(TlsError::NoCertificate);
    }
    Ok(all)
}

/// What is wrong with a chain and a key that were read.
fn mismatch(error: rustls::Error) -> TlsError {
    match error {
        rustls::Error::InconsistentKeys(_) => TlsError::Mismatch,
        rustls::Error::InvalidCertificate(why) => TlsError::Certificate(why.to_string()),
        other => TlsError::Key(other.to_string()),
    }
}

/// The one set of algorithms, wherever TLS is spoken.
fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: std::sync::LazyLock<Arc<CryptoProvider>> =
        std::sync::LazyLock::new(|| Arc::new(rustls::crypto::ring::default_provider()));
    Arc::clone(&PROVIDER)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, Issuer, KeyPair};
    use rustls::HandshakeKind as Kind;

    use super::*;

    struct Made {
        cert: String,
        key: String,
    }

    impl Made {
        fn identity(&self) -> Identity<'_> {
            Identity {
                cert: self.cert.as_bytes(),
                key: self.key.as_bytes(),
            }
        }
    }

    fn authority() -> (Made, Issuer<'static, KeyPair>) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let cert = params.self_signed(&key).unwrap().pem();
        let made = Made {
            cert,
            key: key.serialize_pem(),
        };
        (made, Issuer::new(params, key))
    }

    fn issued(issuer: &Issuer<'_, KeyPair>, name: &str) -> Made {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.not_after = rcgen::date_time_ymd(2031, 2, 3);
        let cert = params.signed_by(&key, issuer).unwrap();
        Made {
            cert: cert.pem(),
            key: key.serialize_pem(),
        }
    }

    #[test]
    fn a_pair_makes_a_server_and_a_client() {
        let (ca, issuer) = authority();
        let leaf = issued(&issuer, "gateway.test");
        let plain = server(leaf.identity(), None).unwrap();
        assert_eq!(plain.alpn_protocols, [b"h2".to_vec(), b"http/1.1".to_vec()]);
        server(leaf.identity(), Some(ca.cert.as_bytes())).unwrap();
        client(&[ca.cert.as_bytes()], Some(leaf.identity()), &[]).unwrap();
        client(&[ca.cert.as_bytes()], None, &[b"h2"]).unwrap();
        assert_eq!(not_after(leaf.cert.as_bytes()).unwrap(), 1_927_843_200);
        assert_eq!(
            subject(certificates(leaf.cert.as_bytes()).unwrap().first().unwrap()).unwrap(),
            "CN=gateway.test"
        );
    }

    /// How a client and a server of these settings come to an agreement.
    fn shaken(client: &Arc<rustls::ClientConfig>, server: &Arc<rustls::ServerConfig>) -> Kind {
        let name = "gateway.test".try_into().unwrap();
        let mut client = rustls::ClientConnection::new(Arc::clone(client), name).unwrap();
        let mut server = rustls::ServerConnection::new(Arc::clone(server)).unwrap();
        while client.wants_write() || server.wants_write() {
            let (mut there, mut back) = (Vec::new(), Vec::new());
            client.write_tls(&mut there).unwrap();
            server.read_tls(&mut there.as_slice()).unwrap();
            server.process_new_packets().unwrap();
            server.write_tls(&mut back).unwrap();
            client.read_tls(&mut back.as_slice()).unwrap();
            client.process_new_packets().unwrap();
        }
        server.handshake_kind().unwrap()
    }

    /// What a client showed once it may have lost since.
    #[test]
    fn who_must_show_a_certificate_must_always() {
        let (ca, issuer) = authority();
        let (gateway, user) = (
            issued(&issuer, "gateway.test"),
            issued(&issuer, "user.test"),
        );
        let ca = ca.cert.as_bytes();
        for (asked, again) in [(None, Kind::Resumed), (Some(ca), Kind::Full)] {
            let server = server(gateway.identity(), asked).unwrap();
            for versions in [&[&rustls::version::TLS12], &[&rustls::version::TLS13]] {
                let mut roots = rustls::RootCertStore::empty();
                roots.add_parsable_certificates(certificates(ca).unwrap());
                let (chain, key) = user.identity().read().unwrap();
                let client = rustls::ClientConfig::builder_with_provider(provider())
                    .with_protocol_versions(versions)
                    .unwrap()
                    .with_root_certificates(roots)
                    .with_client_auth_cert(chain, key)
                    .unwrap();
                let client = Arc::new(client);
                assert_eq!(shaken(&client, &server), Kind::Full);
                assert_eq!(shaken(&client, &server), again, "{versions:?}");
            }
        }
    }

    #[test]
    fn what_does_not_fit_together_is_refused() {
        let (ca, issuer) = authority();
        let (a, b) = (issued(&issuer, "a.test"), issued(&issuer, "b.test"));
        let mixed = Identity {
            cert: a.cert.as_bytes(),
            key: b.key.as_bytes(),
        };
        assert_eq!(server(mixed, None).err(), Some(TlsError::Mismatch));
        assert_eq!(
            client(&[ca.cert.as_bytes()], Some(mixed), &[]).err(),
            Some(TlsError::Mismatch)
        );
        let swapped = Identity {
            cert: a.key.as_bytes(),
            key: a.cert.as_bytes(),
        };
        assert_eq!(server(swapped, None).err(), Some(TlsError::NoKey));
        let empty = Identity {
            cert: b"",
            ..a.identity()
        };
        assert_eq!(server(empty, None).err(), Some(TlsError::NoCertificate));
        assert_eq!(
            server(a.identity(), Some(b"")).err(),
            Some(TlsError::NoCertificate)
        );
        assert_eq!(
            client(&[b"rubbish"], None, &[]).err(),
            Some(TlsError::NoCertificate)
        );
        assert_eq!(not_after(b"").err(), Some(TlsError::NoCertificate));
    }
}
