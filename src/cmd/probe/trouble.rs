//! Why a worker does not answer, in the words of whoever has to mend it.

use std::error::Error;
use std::io;
use std::time::Duration;

use rustls::{AlertDescription as Alert, CertificateError};

use super::reason;
use crate::live::WorkerRef;
use crate::upstream::{Failure, FetchError};

/// What stands between the gateway and a worker.
#[derive(Debug)]
pub(super) struct Trouble {
    /// The kind.
    pub(super) slug: &'static str,
    /// What happens, to follow the name of the worker.
    pub(super) what: String,
    /// What would help.
    pub(super) help: Option<String>,
    /// Whether it is the certificate of the worker that does not do.
    pub(super) key: Option<&'static str>,
}

impl Trouble {
    /// What `error`, for which `worker` gave no answer, comes from.
    pub(super) fn of(worker: WorkerRef<'_>, error: &FetchError) -> Self {
        let names = worker.parts.conns.names();
        let unresolved = names.literal().is_none() && names.addresses().is_empty();
        match error {
            FetchError::Failure(Failure::Connect(error)) => {
                if let Some(error) = tls_error(error) {
                    return of_tls(worker, error);
                }
                if unresolved {
                    return Self::new(
                        "worker-name",
                        format!("has a host that cannot be resolved: {}", why(error)),
                    )
                    .help(format!(
                        "is `{}` a name that this machine can look up?",
                        names.host()
                    ));
                }
                if error.kind() == io::ErrorKind::UnexpectedEof && worker.plan.tls.is_some() {
                    return Self::new(
                        "worker-tls",
                        "closes the connection in the TLS handshake".to_owned(),
                    )
                    .help("does this port speak TLS, and does it want a client certificate?");
                }
                let refused = error.kind() == io::ErrorKind::ConnectionRefused;
                let trouble = Self::new(
                    "worker-unreachable",
                    format!("cannot be reached: {}", reason(error)),
                );
                match refused {
                    true => trouble.help("nothing listens there: has the engine started?"),
                    false => trouble,
                }
            }
            FetchError::Failure(Failure::ConnectTimeout(limit)) if unresolved => Self::new(
                "worker-name",
                format!("has a host that cannot be resolved within {limit:?}"),
            ),
            FetchError::Failure(Failure::ConnectTimeout(limit)) => Self::new(
                "worker-unreachable",
                format!(
                    "cannot be reached: no connection within {limit:?}{}",
                    match worker.plan.tls {
                        Some(_) => ", TLS handshake included",
                        None => "",
                    }
                ),
            )
            .help("does a firewall drop what is sent there?"),
            FetchError::Failure(Failure::Short(error)) => Self::new(
                "worker-unreachable",
                format!(
                    "was not asked, as this process lacks sockets: {}",
                    reason(error)
                ),
            ),
            FetchError::Failure(Failure::Broken(_)) if worker.plan.tls.is_none() => Self::new(
                "worker-protocol",
                "closes the connection without an answer".to_owned(),
            )
            .help("if this port speaks TLS, its URL begins with `https://`"),
            FetchError::Failure(Failure::Broken(_)) => Self::new(
                "worker-protocol",
                "closes the connection without an answer".to_owned(),
            ),
            FetchError::Failure(Failure::Malformed(_)) => {
                let spoken = if worker.parts.conns.is_http2() {
                    "HTTP/2"
                } else {
                    "HTTP/1.1"
                };
                Self::new("worker-protocol", format!("does not speak {spoken}")).help(
                    "is there an engine behind this port, and does it speak TLS (`https://`)?",
                )
            }
            FetchError::Timeout(limit) => Self::silent(*limit),
            other @ (FetchError::BrokeOff(_) | FetchError::TooLarge(_) | FetchError::Path(_)) => {
                Self::new(
                    "worker-protocol",
                    format!("gives no usable answer: {other}"),
                )
            }
        }
    }

    /// It accepts connections and says nothing.
    pub(super) fn silent(limit: Duration) -> Self {
        Self::new("worker-silent", format!("gives no answer within {limit:?}"))
            .help("it is hung or overloaded, or `health.timeout` of its pool is too short")
    }

    /// It could not be asked.
    pub(super) fn unknown() -> Self {
        Self::new("worker-unreachable", "cannot be asked".to_owned())
    }

    fn new(slug: &'static str, what: String) -> Self {
        Self {
            slug,
            what,
            help: None,
            key: None,
        }
    }

    fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// What the name service said.
fn why(error: &io::Error) -> String {
    let text = reason(error);
    match text.strip_prefix("cannot resolve the host: ") {
        Some(why) => why.to_owned(),
        None => text,
    }
}

/// The fault of TLS that `error` is, wherever it is wrapped.
fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    let mut next: Option<&(dyn Error + 'static)> = error.get_ref().map(|error| error as _);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<rustls::Error>() {
            return Some(found);
        }
        next = match error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref)
        {
            Some(inner) => Some(inner as _),
            None => error.source(),
        };
    }
    None
}

fn of_tls(worker: WorkerRef<'_>, error: &rustls::Error) -> Trouble {
    let tls = worker.plan.tls.as_deref();
    let expected = tls.map(|tls| &*tls.server_name).unwrap_or_default();
    let trouble = |what: &str| Trouble::new("worker-tls", what.to_owned());
    match error {
        rustls::Error::InvalidCertificate(why) => match why {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                trouble("shows a certificate that has expired").help("renew it on the worker")
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                trouble("shows a certificate that is not valid yet")
                    .help("is the clock of this machine right?")
            }
            CertificateError::UnknownIssuer => {
                let trusted = match tls.is_some_and(|tls| tls.ca.is_empty()) {
                    true => "the roots of this system do not know it; `tls.ca_paths` names others",
                    false => {
                        "it is none of `tls.ca_paths`, or the worker does not send the chain \
                              that leads to one of them"
                    }
                };
                Trouble {
                    key: Some("tls.ca_paths"),
                    ..trouble("shows a certificate of an unknown issuer").help(trusted)
                }
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                Trouble {
                    key: Some("tls.server_name"),
                    ..trouble(&format!("shows a certificate that is not for `{expected}`"))
                        .help("`tls.server_name` says which name it must bear")
                }
            }
            other => trouble(&format!(
                "shows a certificate that cannot be accepted: {other}"
            )),
        },
        rustls::Error::AlertReceived(Alert::CertificateRequired) => {
            trouble("asks for a certificate of the gateway's")
                .help("`tls.cert_path` and `tls.key_path` name the one that it is shown")
        }
        rustls::Error::AlertReceived(
            alert @ (Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::UnknownCA
            | Alert::AccessDenied
            | Alert::DecryptError
            | Alert::HandshakeFailure),
        ) => {
            let shown = tls.is_some_and(|tls| tls.identity.is_some());
            let what = format!("refuses the handshake ({alert:?})");
            match shown {
                true => trouble(&what).help("is `tls.cert_path` of an issuer that it trusts?"),
                false => trouble(&what).help("it may want a certificate: see `tls.cert_path`"),
            }
        }
        rustls::Error::InvalidMessage(_) => trouble("does not speak TLS")
            .help("if it speaks plain HTTP, its URL begins with `http://`"),
        other => trouble(&format!("cannot be spoken to over TLS: {other}")),
    }
}
