//! HTTPS of a listener: its settings, made before a configuration is published, and its handshakes.

use std::fmt;
use std::future::Future;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, LazyLock};

use rustls::{Error, InvalidMessage, ServerConfig};
use tokio::io::AsyncWriteExt as _;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::bind::Stream;
use super::connection::{self, Speaks, deadlines};
use crate::base::clock;
use crate::base::pem::PemFile;
use crate::live::{BindError, Phase};
use crate::plan::{Listener, ServerTls};
use crate::serve::gate::{Gate, Peer};
use crate::serve::guarded::Guarded;
use crate::telemetry::log::Repeat;
use crate::tls::{self, Identity, TlsError};

static TOLD: LazyLock<Repeat<(Arc<str>, Failure)>> = LazyLock::new(Repeat::every_minute);

/// The settings of a listener; `None` for one of plain HTTP.
///
/// # Errors
/// The file that is at fault.
pub(super) fn settings(listener: &Listener) -> Result<Option<Arc<ServerConfig>>, BindError> {
    let Some(tls) = &listener.tls else {
        return Ok(None);
    };
    let made = tls::server(identity(tls), authorities(tls));
    made.map(Some).map_err(|source| {
        let (key, file) = culprit(tls, &source);
        BindError::Certificate {
            name: listener.name.to_string(),
            key,
            path: file.path().to_owned(),
            source,
        }
    })
}

/// Whether who was let in under `old` would be let in under `new` for the same reasons.
pub(super) fn asks_the_same(old: Option<&ServerTls>, new: Option<&ServerTls>) -> bool {
    match (old, new) {
        (Some(old), Some(new)) => authorities(old) == authorities(new),
        (old, new) => old.is_none() && new.is_none(),
    }
}

fn authorities(tls: &ServerTls) -> Option<&[u8]> {
    tls.client_ca.as_ref().map(content)
}

fn identity(tls: &ServerTls) -> Identity<'_> {
    Identity {
        cert: content(&tls.cert),
        key: content(&tls.key),
    }
}

/// A file that was absent has nothing in it, and is refused as such.
fn content(file: &PemFile) -> &[u8] {
    file.content().unwrap_or_default()
}

/// The key of the file that `error` is about, and the file.
fn culprit<'a>(tls: &'a ServerTls, error: &TlsError) -> (&'static str, &'a PemFile) {
    if let Some(ca) = &tls.client_ca
        && tls::server(identity(tls), None).is_ok()
    {
        return ("client_ca_path", ca);
    }
    match error {
        TlsError::NoKey | TlsError::Key(_) | TlsError::Mismatch => ("key_path", &tls.key),
        TlsError::NoCertificate
        | TlsError::Certificate(_)
        | TlsError::Authority(_)
        | TlsError::NoRoots => ("cert_path", &tls.cert),
    }
}

/// Shakes hands and serves the connection to its end.
pub(super) async fn serve(
    stream: Stream,
    settings: Arc<ServerConfig>,
    mut gate: Gate,
    closing: watch::Receiver<()>,
) {
    let Some(stream) = Box::pin(shake_hands(stream, settings, &gate)).await else {
        return;
    };
    if is_outdated(&gate, &closing) {
        return;
    }
    let (_, session) = stream.get_ref();
    // Who agreed on nothing is taken to mean what has been there longest.
    let speaks = match session.alpn_protocol() {
        Some(b"h2") => Speaks::Http2,
        Some(_) | None => Speaks::Http1,
    };
    gate.certificate = session
        .peer_certificates()
        .and_then(<[_]>::first)
        .and_then(|shown| tls::subject(shown))
        .map(Arc::from);
    connection::serve(stream, speaks, gate, closing).await;
}

/// Whether the client was vouched for by authorities that have been replaced while it shook hands. When
/// the process ends they stand as they are, and the client is served once like any other.
fn is_outdated(gate: &Gate, closing: &watch::Receiver<()>) -> bool {
    let asked = gate.listener.tls.as_deref().and_then(authorities).is_some();
    asked && closing.has_changed().is_err() && gate.live.phase() == Phase::Running
}

/// The encrypted connection; `None` if the client does not get that far in time.
async fn shake_hands(
    stream: Stream,
    settings: Arc<ServerConfig>,
    gate: &Gate,
) -> Option<TlsStream<Stream>> {
    let mut phases = gate.live.phases();
    let accepting = TlsAcceptor::from(settings).accept(stream).into_fallible();
    let limit = gate.listener.limits.tls_handshake_timeout;
    let shaken = tokio::select! {
        biased;
        shaken = timeout(limit, accepting) => shaken,
        // Nothing has been asked on it, so nothing is lost.
        _ = phases.wait_for(|phase| *phase >= Phase::Closing) => return None,
    };
    match shaken {
        Ok(Ok(stream)) => Some(stream),
        Ok(Err((error, stream))) => {
            let failure = Failure::of(&error);
            tell(gate, failure, &error);
            if failure != Failure::Gone {
                part(stream, gate).await;
            }
            None
        }
        Err(elapsed) => {
            tell(gate, Failure::Timeout, &elapsed);
            None
        }
    }
}

/// Closes a connection so that its client gets to read why: the alert would be lost if the system
/// found something unread.
fn part(stream: Stream, gate: &Gate) -> impl Future<Output = ()> {
    let standing = Arc::clone(&gate.standing);
    standing.unread.store(true, Ordering::Relaxed);
    let mut guarded = Guarded::new(stream, deadlines(&gate.listener.limits), standing);
    async move {
        // It is gone either way.
        guarded.shutdown().await.ok();
    }
}

fn tell(gate: &Gate, failure: Failure, error: &dyn fmt::Display) {
    let listener = &gate.listener.name;
    if failure == Failure::Gone {
        tracing::debug!(listener = &**listener, %error, "a client left before the TLS handshake was over");
        return;
    }
    let Some(silent) = TOLD.allow((Arc::clone(listener), failure), clock::now()) else {
        return;
    };
    let client = match gate.peer {
        Peer::Tcp(address) => Some(address.to_canonical()),
        Peer::Unix | Peer::Control(_) => None,
    };
    tracing::warn!(
        listener = &**listener,
        client = client.map(tracing::field::display),
        reason = failure.as_str(),
        %error,
        silent,
        "TLS handshake failed"
    );
}

/// Why a handshake failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Failure {
    /// The client went away, as those do who only look whether somebody listens.
    Gone,
    /// It took too long.
    Timeout,
    /// What came is no TLS.
    Plain,
    /// Version, algorithms and protocols of the two sides have nothing in common.
    Incompatible,
    /// The client shows no certificate, or one that nobody vouches for.
    Certificate,
    /// The client refused: it may not trust our certificate.
    Refused,
    /// The client does not keep to the protocol.
    Protocol,
}

impl Failure {
    fn of(error: &io::Error) -> Self {
        let Some(error) = error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<Error>())
        else {
            return Self::Gone;
        };
        match error {
            Error::InvalidMessage(InvalidMessage::InvalidContentType) => Self::Plain,
            Error::PeerIncompatible(_) | Error::NoApplicationProtocol => Self::Incompatible,
            Error::NoCertificatesPresented | Error::InvalidCertificate(_) => Self::Certificate,
            Error::AlertReceived(_) => Self::Refused,
            _ => Self::Protocol,
        }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Gone => "gone",
            Self::Timeout => "timeout",
            Self::Plain => "no_tls",
            Self::Incompatible => "incompatible",
            Self::Certificate => "client_certificate",
            Self::Refused => "refused_by_client",
            Self::Protocol => "protocol",
        }
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn file(name: &str, content: &str) -> PemFile {
        let mut file = PemFile::unread(name.into());
        file.fill(content.as_bytes());
        file
    }

    fn pair() -> (PemFile, PemFile) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["gateway.test".to_owned()]).unwrap();
        let cert = params.self_signed(&key).unwrap().pem();
        (file("cert", &cert), file("key", &key.serialize_pem()))
    }

    #[test]
    fn the_file_at_fault_is_named() {
        let ((cert, key), (ca, other)) = (pair(), pair());
        let rubbish = || file("rubbish", "rubbish");
        let tls = |cert: &PemFile, key: &PemFile, ca: Option<PemFile>| ServerTls {
            cert: cert.clone(),
            key: key.clone(),
            client_ca: ca,
        };
        for (tls, at_fault) in [
            (tls(&cert, &other, None), "key_path"),
            (tls(&cert, &other, Some(ca.clone())), "key_path"),
            (tls(&cert, &rubbish(), None), "key_path"),
            (tls(&rubbish(), &key, None), "cert_path"),
            (
                tls(&PemFile::unread("absent".into()), &key, None),
                "cert_path",
            ),
            (tls(&cert, &key, Some(rubbish())), "client_ca_path"),
        ] {
            let error = tls::server(identity(&tls), authorities(&tls))
                .err()
                .unwrap();
            assert_eq!(culprit(&tls, &error).0, at_fault, "{error}");
        }
    }

    #[test]
    fn a_certificate_may_change_and_authorities_may_not() {
        let ((cert, key), (new, new_key)) = (pair(), pair());
        let asking = |ca: &PemFile| ServerTls {
            cert: cert.clone(),
            key: key.clone(),
            client_ca: Some(ca.clone()),
        };
        let (one, other) = (asking(&cert), asking(&new));
        let rotated = ServerTls {
            cert: new.clone(),
            key: new_key,
            client_ca: Some(cert.clone()),
        };
        let open = ServerTls {
            client_ca: None,
            ..one.clone()
        };
        assert!(asks_the_same(None, None));
        assert!(asks_the_same(Some(&one), Some(&rotated)));
        assert!(!asks_the_same(Some(&one), Some(&other)));
        assert!(!asks_the_same(Some(&one), Some(&open)));
        assert!(!asks_the_same(Some(&open), Some(&one)));
        assert!(!asks_the_same(None, Some(&open)));
        assert!(!asks_the_same(Some(&open), None));
    }
}
