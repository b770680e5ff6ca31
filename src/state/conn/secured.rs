//! How the connections of a pool are secured: settings that many pools share, and what each pool has
//! for itself.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;

use crate::base::pem::PemFile;
use crate::plan::ClientTls;
use crate::state::Keyed;
use crate::tls::{self, Identity, TlsError};

/// How often the same trouble with one worker is told.
const APART: Duration = Duration::from_secs(60);

/// What must be equal for workers to be spoken to with the same settings.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TlsKey {
    ca: Vec<PemFile>,
    identity: Option<(PemFile, PemFile)>,
    http2: bool,
}

/// Settings made of a [`TlsKey`], once for all workers that have them.
#[derive(Debug)]
pub struct TlsCell(Result<Arc<ClientConfig>, TlsError>);

impl TlsCell {
    /// The settings of `key`, or why there are none.
    fn new(key: &TlsKey) -> Self {
        let ca: Vec<&[u8]> = key.ca.iter().map(content).collect();
        let identity = key.identity.as_ref().map(|(cert, key)| Identity {
            cert: content(cert),
            key: content(key),
        });
        // One of the two: a pool of connections is built for one protocol.
        let alpn: &[u8] = if key.http2 { b"h2" } else { b"http/1.1" };
        Self(tls::client(&ca, identity, &[alpn]))
    }
}

/// What was not read is as good as empty, which is refused.
fn content(file: &PemFile) -> &[u8] {
    file.content().unwrap_or_default()
}

/// Why there can be no connection that is as secure as wanted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// The certificates or the key do not do.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The name cannot stand in a certificate.
    #[error("`{0}` is neither a DNS name nor an address")]
    Name(Arc<str>),
}

/// What the connections of one pool are made with.
#[derive(Debug)]
pub struct Secured {
    made: Result<Made, Unfit>,
    /// The trouble told last, and when.
    told: Mutex<Option<(String, Instant)>>,
    // Those who share settings share this.
    _cell: Arc<TlsCell>,
}

#[derive(Debug)]
struct Made {
    name: ServerName<'static>,
    config: Arc<ClientConfig>,
}

impl Secured {
    /// What `towards` asks for. Never fails: who cannot have it gets no connection.
    pub(super) fn new(towards: &ClientTls, http2: bool, cells: &Keyed<TlsKey, TlsCell>) -> Self {
        let key = TlsKey {
            ca: towards.ca.clone(),
            identity: towards.identity.clone(),
            http2,
        };
        let cell = cells.get_or_insert(&key, || TlsCell::new(&key));
        Self {
            made: Made::new(towards, &cell),
            told: Mutex::default(),
            _cell: cell,
        }
    }

    /// The name that the worker must prove to bear, and the settings to ask for it with.
    ///
    /// # Errors
    /// Why there are none.
    pub fn settings(&self) -> Result<(ServerName<'static>, Arc<ClientConfig>), Unfit> {
        match &self.made {
            Ok(made) => Ok((made.name.clone(), Arc::clone(&made.config))),
            Err(unfit) => Err(unfit.clone()),
        }
    }

    /// Whether `reason`, for which there was no connection at `now`, is to be told: the same one is not
    /// told again for a while.
    pub fn is_news(&self, reason: &str, now: Instant) -> bool {
        let mut told = self.told.lock();
        let same = told.as_ref().is_some_and(|(known, when)| {
            known == reason && now.saturating_duration_since(*when) < APART
        });
        if !same {
            *told = Some((reason.to_owned(), now));
        }
        !same
    }
}

impl Made {
    fn new(towards: &ClientTls, cell: &TlsCell) -> Result<Self, Unfit> {
        let shared = cell.0.as_ref().map_err(Clone::clone)?;
        let name = ServerName::try_from(&*towards.server_name)
            .map_err(|_| Unfit::Name(Arc::clone(&towards.server_name)))?
            .to_owned();
        let mut config = ClientConfig::clone(shared);
        // Tickets of its own: those of another worker with the same name are of no use to it.
        config.resumption = Resumption::in_memory_sessions(8);
        Ok(Self {
            name,
            config: Arc::new(config),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock;

    fn pem(path: &str, content: &str) -> PemFile {
        let mut file = PemFile::unread(path.into());
        file.fill(content.as_bytes());
        file
    }

    fn towards(name: &str, ca: &str) -> ClientTls {
        ClientTls {
            server_name: name.into(),
            ca: vec![pem("ca.pem", ca)],
            identity: None,
        }
    }

    fn authority() -> String {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.self_signed(&key).unwrap().pem()
    }

    #[test]
    fn settings_are_made_once_for_all_names_and_protocols_apart() {
        let cells = Keyed::default();
        let ca = authority();
        let one = Secured::new(&towards("one.test", &ca), false, &cells);
        let two = Secured::new(&towards("two.test", &ca), false, &cells);
        let address = Secured::new(&towards("::1", &ca), false, &cells);
        assert_eq!(cells.len(), 1);
        let http2 = Secured::new(&towards("one.test", &ca), true, &cells);
        let rotated = Secured::new(&towards("one.test", &authority()), false, &cells);
        assert_eq!(cells.len(), 3);
        assert_eq!(one.settings().unwrap().0.to_str(), "one.test");
        assert_eq!(two.settings().unwrap().0.to_str(), "two.test");
        assert_eq!(address.settings().unwrap().0.to_str(), "::1");
        let alpn = |secured: &Secured| secured.settings().unwrap().1.alpn_protocols.clone();
        assert_eq!(alpn(&rotated), [b"http/1.1"]);
        assert_eq!(alpn(&http2), [b"h2"]);
    }

    #[test]
    fn what_cannot_be_secured_is_no_connection() {
        let cells = Keyed::default();
        let of = |towards: &ClientTls| Secured::new(towards, false, &cells).settings().err();
        let unread = ClientTls {
            ca: vec![PemFile::unread("ca.pem".into())],
            ..towards("w.test", "")
        };
        let nothing = Some(Unfit::Tls(TlsError::NoCertificate));
        assert_eq!(of(&towards("w.test", "rubbish")), nothing);
        assert_eq!(of(&unread), nothing);
        let half = ClientTls {
            identity: Some((pem("c.pem", ""), pem("k.pem", ""))),
            ..towards("w.test", &authority())
        };
        assert_eq!(of(&half), Some(Unfit::Tls(TlsError::NoKey)));
        let odd = towards("not a name", &authority());
        assert_eq!(of(&odd), Some(Unfit::Name("not a name".into())));
    }

    #[test]
    fn the_same_trouble_is_told_once_in_a_while() {
        let secured = Secured::new(&towards("w.test", ""), false, &Keyed::default());
        let now = clock::now();
        assert!(secured.is_news("expired", now));
        assert!(!secured.is_news("expired", now + APART / 2));
        assert!(secured.is_news("another name", now + APART / 2));
        assert!(secured.is_news("another name", now + APART * 2));
    }
}
