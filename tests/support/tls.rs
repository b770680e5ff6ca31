//! A certificate authority of the test's own, and clients that speak TLS.

use std::fs::Permissions;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::client::Connection;

/// No handshake takes longer.
const PATIENCE: Duration = Duration::from_secs(30);

/// An authority with a folder of its own for what it issues.
pub(crate) struct Authority {
    folder: TempDir,
    issuer: Issuer<'static, KeyPair>,
    path: PathBuf,
}

/// A certificate and its key, as PEM files that live as long as the authority.
#[derive(Debug, Clone)]
pub(crate) struct Pair {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(
            DnType::CommonName,
            format!("authority {:08x}", fastrand::u32(..)),
        );
        let path = folder.path().join("ca.pem");
        std::fs::write(&path, params.self_signed(&key).unwrap().pem()).unwrap();
        Self {
            folder,
            issuer: Issuer::new(params, key),
            path,
        }
    }

    /// The PEM file of its own certificate.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A new certificate for this host name or IP address, which is also its common name.
    pub(crate) fn issue(&self, name: &str) -> Pair {
        self.issue_until(name, 2040)
    }

    /// The same with an end at the beginning of this year.
    pub(crate) fn issue_until(&self, name: &str, year: i32) -> Pair {
        self.issue_ending(name, rcgen::date_time_ymd(year, 1, 2))
    }

    /// The same with this end.
    pub(crate) fn issue_ending(&self, name: &str, not_after: time::OffsetDateTime) -> Pair {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.not_after = not_after;
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        let file = |kind: &str, text: String| {
            let name = format!("{name}-{}.{kind}.pem", fastrand::u32(..));
            let path = self.folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
            path
        };
        Pair {
            cert: file("cert", cert.pem()),
            key: file("key", key.serialize_pem()),
        }
    }

    /// What trusts this authority and nobody else.
    pub(crate) fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(certificates(&self.path));
        roots
    }
}

impl Pair {
    pub(crate) fn chain(&self) -> Vec<CertificateDer<'static>> {
        certificates(&self.cert)
    }

    pub(crate) fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_file(&self.key).unwrap()
    }
}

fn certificates(path: &Path) -> Vec<CertificateDer<'static>> {
    let all = CertificateDer::pem_file_iter(path).unwrap();
    all.map(Result::unwrap).collect()
}

/// How a client speaks TLS.
#[derive(Clone)]
pub(crate) struct TlsClient(Arc<ClientConfig>);

impl TlsClient {
    /// It trusts this authority and offers these protocols.
    pub(crate) fn new(authority: &Authority, alpn: &[&str]) -> Self {
        Self::with(authority, None, alpn, rustls::ALL_VERSIONS)
    }

    /// The same, and it shows this certificate if it is asked for one.
    pub(crate) fn showing(authority: &Authority, pair: &Pair, alpn: &[&str]) -> Self {
        Self::with(authority, Some(pair), alpn, rustls::ALL_VERSIONS)
    }

    /// With everything said.
    pub(crate) fn with(
        authority: &Authority,
        pair: Option<&Pair>,
        alpn: &[&str],
        versions: &[&'static SupportedProtocolVersion],
    ) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(authority.roots());
        let mut config = match pair {
            None => builder.with_no_client_auth(),
            Some(pair) => builder
                .with_client_auth_cert(pair.chain(), pair.private_key())
                .unwrap(),
        };
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Self(Arc::new(config))
    }

    /// The same client, offering other protocols.
    pub(crate) fn offering(&self, alpn: &[&str]) -> Self {
        let mut config = ClientConfig::clone(&self.0);
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Self(Arc::new(config))
    }

    /// Connects and shakes hands with whoever is there, who must be `name`.
    pub(crate) async fn connect(
        &self,
        to: SocketAddr,
        name: &str,
    ) -> io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(to).await?;
        stream.set_nodelay(true)?;
        self.shake(stream, name).await
    }

    /// Shakes hands over a connection that is there.
    pub(crate) async fn shake(
        &self,
        stream: TcpStream,
        name: &str,
    ) -> io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let shaking = TlsConnector::from(Arc::clone(&self.0)).connect(name, stream);
        let shaken = tokio::time::timeout(PATIENCE, shaking).await;
        shaken.expect("a handshake in time")
    }

    /// A kept connection of the protocol that was agreed on.
    pub(crate) async fn open(&self, to: SocketAddr, name: &str) -> io::Result<Connection> {
        let stream = self.connect(to, name).await?;
        let multiplexed = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        Ok(if multiplexed {
            Connection::h2_over(stream, name).await
        } else {
            Connection::h1_over(stream, name).await
        })
    }
}
