//! TLS with a worker: the handshake, and what is told when there is none.
//!
//! Invariant: a worker that has not proved to bear the expected name, or with which the protocol of
//! its pool cannot be agreed on, is not spoken to.

use std::error::Error;
use std::io;
use std::net::{IpAddr, SocketAddr};

use rustls::AlertDescription as Alert;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::base::clock;
use crate::state::{ConnPool, Secured, Stream};

/// Agrees with the worker on keys and on the protocol, and sees that it is who it should be.
///
/// # Errors
/// Why there is no connection; of kind `InvalidData` where the worker is to blame.
pub(super) async fn shake_hands(
    pool: &ConnPool,
    secured: &Secured,
    stream: TcpStream,
) -> io::Result<Stream> {
    let (name, config) = secured.settings().map_err(io::Error::other)?;
    let (stream, agreed) = match TlsConnector::from(config).connect(name, stream).await {
        Ok(stream) => {
            let agreed = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            (Ok(stream), agreed == pool.is_http2())
        }
        Err(error) => {
            let alert = alert(&error);
            (Err(error), alert != Some(Alert::NoApplicationProtocol))
        }
    };
    if !agreed {
        let why = if pool.is_http2() {
            "the worker does not speak HTTP/2 over TLS (`h2` by ALPN)"
        } else {
            "the worker does not speak HTTP/1.1 over TLS (`http/1.1` by ALPN)"
        };
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    stream.map(|stream| Stream::Tls(Box::new(stream)))
}

/// Logs why a worker at `address` cannot be spoken to over TLS, unless that has just been said.
pub(super) fn tell(pool: &ConnPool, secured: &Secured, address: SocketAddr, error: &io::Error) {
    let reason = match error.kind() {
        io::ErrorKind::TimedOut => "no handshake in time".to_owned(),
        io::ErrorKind::UnexpectedEof => "the connection was closed in the handshake".to_owned(),
        _ => error.to_string(),
    };
    if secured.is_news(&reason, clock::now()) {
        let host = pool.names().host();
        tracing::warn!(
            target: "smg::worker", host, %address, reason, "no TLS with a worker"
        );
    }
}

/// The refusal that `error` is, where the worker at `address` does not take what it was shown: over
/// TLS 1.3 it can say so only after the handshake, in place of its first answer. It is logged.
pub(super) fn refusal(
    pool: &ConnPool,
    address: IpAddr,
    error: &(dyn Error + 'static),
) -> Option<io::Error> {
    let secured = pool.secured()?;
    let alert = alert(error)?;
    let of_certificate = matches!(
        alert,
        Alert::CertificateRequired
            | Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::UnknownCA
            | Alert::AccessDenied
            | Alert::DecryptError
    );
    of_certificate.then(|| {
        let refusal = rustls::Error::AlertReceived(alert);
        let refusal = io::Error::new(io::ErrorKind::InvalidData, refusal);
        tell(
            pool,
            secured,
            SocketAddr::new(address, pool.port()),
            &refusal,
        );
        refusal
    })
}

/// The alert that has led to `error`.
fn alert(error: &(dyn Error + 'static)) -> Option<Alert> {
    let mut next = Some(error);
    while let Some(error) = next {
        // What an I/O error carries is not among its sources.
        let carried = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref)
            .and_then(|carried| carried.downcast_ref::<rustls::Error>());
        if let Some(rustls::Error::AlertReceived(alert)) = carried {
            return Some(*alert);
        }
        next = error.source();
    }
    None
}
