//! Checks of certificates: that pairs are whole, can be read and fit together.

use super::Check;
use crate::base::clock;
use crate::base::pem::PemFile;
use crate::config::diag::Severity;
use crate::config::spec::{ClientTls, ServerTls};
use crate::tls::{self, Identity, TlsError};

/// How long before its end a certificate is warned of, in seconds.
const SOON: i64 = 14 * 24 * 3600;

impl Check<'_> {
    pub(super) fn server_tls(&mut self, at: &str, tls: &ServerTls) {
        let Some(identity) = self.pair(at, tls.cert_path.as_ref(), tls.key_path.as_ref()) else {
            if tls.cert_path.is_none() && tls.key_path.is_none() && self.origins.is_intact(at) {
                let message = format!("`{at}` needs `cert_path` and `key_path`");
                self.error("tls-half", at, message);
            }
            return;
        };
        let ca = tls.client_ca_path.as_ref();
        if ca.is_some_and(|ca| ca.content().is_none()) {
            return;
        }
        let outcome = tls::server(identity, None);
        if self.fits(
            at,
            tls.cert_path.as_ref(),
            tls.key_path.as_ref(),
            outcome.err(),
        ) && let Some(content) = ca.and_then(PemFile::content)
            && let Err(error) = tls::server(identity, Some(content))
        {
            let message = format!("`{at}.client_ca_path`: {error}");
            self.error("tls-file", &format!("{at}.client_ca_path"), message);
        }
        self.expiry(at, tls.cert_path.as_ref());
    }

    pub(super) fn client_tls(&mut self, at: &str, tls: &ClientTls) {
        for (i, ca) in tls.ca_paths.iter().enumerate() {
            if let Some(content) = ca.content()
                && let Err(error) = tls::client(&[content], None, &[])
            {
                let key = format!("{at}.ca_paths[{i}]");
                self.error("tls-file", &key, format!("`{key}`: {error}"));
            }
        }
        if let Some(name) = &tls.server_name
            && rustls::pki_types::ServerName::try_from(name.as_str()).is_err()
        {
            let message = format!("`{name}` is no DNS name");
            self.error("server-name", &format!("{at}.server_name"), message);
        }
        let (cert, key) = (tls.cert_path.as_ref(), tls.key_path.as_ref());
        if let Some(identity) = self.pair(at, cert, key) {
            // Like a server's: what is looked at is whether both are one.
            let outcome = tls::server(identity, None);
            self.fits(at, cert, key, outcome.err());
            self.expiry(at, cert);
        }
    }

    /// A certificate and its key, where both are given and were read; half a pair is reported.
    fn pair<'f>(
        &mut self,
        at: &str,
        cert: Option<&'f PemFile>,
        key: Option<&'f PemFile>,
    ) -> Option<Identity<'f>> {
        let (has, lacks) = match (cert, key) {
            (Some(cert), Some(key)) => {
                let (cert, key) = (cert.content()?, key.content()?);
                return Some(Identity { cert, key });
            }
            (None, None) => return None,
            (Some(_), None) => ("cert_path", "key_path"),
            (None, Some(_)) => ("key_path", "cert_path"),
        };
        if self.origins.is_intact(at) {
            let message = format!("`{at}.{has}` needs `{at}.{lacks}`");
            self.error("tls-half", &format!("{at}.{has}"), message);
        }
        None
    }

    /// Whether the pair is good; if not, it is reported at the file that is to blame.
    fn fits(
        &mut self,
        at: &str,
        cert: Option<&PemFile>,
        key: Option<&PemFile>,
        error: Option<TlsError>,
    ) -> bool {
        let Some(error) = error else {
            return true;
        };
        let (name, file) = match error {
            TlsError::NoKey | TlsError::Key(_) | TlsError::Mismatch => ("key_path", key),
            _ => ("cert_path", cert),
        };
        let path = file.map(|file| file.path().display().to_string());
        let message = format!("`{}`: {error}", path.unwrap_or_default());
        self.error("tls-file", &format!("{at}.{name}"), message);
        false
    }

    fn expiry(&mut self, at: &str, cert: Option<&PemFile>) {
        let Some(end) = cert
            .and_then(PemFile::content)
            .and_then(|content| tls::not_after(content).ok())
        else {
            return;
        };
        let left = end - i64::try_from(clock::unix().as_secs()).unwrap_or(i64::MAX);
        let end = crate::base::moment::Moment::from_unix(end);
        let message = if left <= 0 {
            format!("the certificate has expired ({end})")
        } else if left < SOON {
            format!("the certificate expires on {end}")
        } else {
            return;
        };
        let key = format!("{at}.cert_path");
        let found = self.found(Severity::Warning, "certificate-expires", &key, message);
        self.out.push(found);
    }
}
