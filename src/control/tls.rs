//! Whether workers can be spoken to as securely as a configuration says, found out before it takes
//! effect.

use rustls::pki_types::ServerName;

use crate::base::pem::PemFile;
use crate::config::spec::{ClientTls, Pool, Worker};
use crate::config::{Diagnostic, Loaded};
use crate::tls::{self, Identity, TlsError};

/// Every certificate, key and name in `loaded` that makes no TLS with workers, whether or not one
/// needs it yet: workers come at any time.
pub(super) fn faults(loaded: &Loaded) -> Vec<Diagnostic> {
    let Some(spec) = &loaded.spec else {
        return Vec::new();
    };
    let mut faults = Vec::new();
    let mut tell = |key: String, why: String| {
        let diagnostic = Diagnostic::error("tls", format!("`{key}`: {why}"));
        faults.push(diagnostic.at(loaded.origins.place(&key)).about(key));
    };
    let mut without_roots = None;
    for (p, pool) in spec.pools.iter().enumerate() {
        look_at(&pool.tls, &format!("pools[{p}].tls"), &mut tell);
        for (list, workers) in lists(pool) {
            for (w, worker) in workers.iter().enumerate() {
                let at = format!("pools[{p}].{list}[{w}]");
                look_at(&worker.tls, &format!("{at}.tls"), &mut tell);
                let trusts_system = pool.tls.ca_paths.is_empty() && worker.tls.ca_paths.is_empty();
                if worker.url.is_tls() && trusts_system && without_roots.is_none() {
                    without_roots = Some(at);
                }
            }
        }
    }
    if let Some(at) = without_roots
        && let Err(error) = tls::system_roots()
    {
        tell(at, format!("{error}, and `ca_paths` names none"));
    }
    faults
}

fn lists(pool: &Pool) -> impl Iterator<Item = (&'static str, &[Worker])> {
    let leg = |name, leg: Option<_>| leg.map(|workers| (name, workers));
    let prefill = pool.prefill.as_ref().map(|leg| &leg.workers[..]);
    let decode = pool.decode.as_ref().map(|leg| &leg.workers[..]);
    [
        Some(("workers", &pool.workers[..])),
        leg("prefill.workers", prefill),
        leg("decode.workers", decode),
    ]
    .into_iter()
    .flatten()
}

fn look_at(declared: &ClientTls, at: &str, tell: &mut impl FnMut(String, String)) {
    for (i, file) in declared.ca_paths.iter().enumerate() {
        if let Some(content) = file.content()
            && let Err(error) = tls::client(&[content], None, &[])
        {
            tell(format!("{at}.ca_paths[{i}]"), error.to_string());
        }
    }
    if let Some(name) = &declared.server_name
        && ServerName::try_from(&**name).is_err()
    {
        let why = format!("`{name}` is neither a DNS name nor an address");
        tell(format!("{at}.server_name"), why);
    }
    match (&declared.cert_path, &declared.key_path) {
        (None, None) => {}
        (Some(cert), Some(key)) => {
            if let Some(error) = unfit(cert, key) {
                let of_key = matches!(error, TlsError::NoKey | TlsError::Key(_));
                let key = if of_key { "key_path" } else { "cert_path" };
                tell(format!("{at}.{key}"), error.to_string());
            }
        }
        (Some(_), None) => tell(format!("{at}.cert_path"), "it needs a `key_path`".into()),
        (None, Some(_)) => tell(format!("{at}.key_path"), "it needs a `cert_path`".into()),
    }
}

/// What is wrong with a pair; nothing is said of one that was not read, which was told already.
fn unfit(cert: &PemFile, key: &PemFile) -> Option<TlsError> {
    let identity = Identity {
        cert: cert.content()?,
        key: key.content()?,
    };
    identity.check().err()
}
