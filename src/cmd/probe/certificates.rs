//! Certificates that the gateway shows or trusts: their time, their order, their names. That pairs
//! match and files can be read is checked without the probe.

use std::collections::BTreeSet;
use std::path::Path;

use super::{Found, counted};
use crate::base::clock;
use crate::base::moment::Moment;
use crate::base::pem::PemFile;
use crate::config::Severity;
use crate::config::spec::{ClientTls, ListenAddress, Listener, Spec};
use crate::tls::{self, Described};

/// A certificate that ends sooner than this is warned of, in seconds.
const SOON: i64 = 30 * 24 * 3600;

/// The slug of what is wrong with the time of a certificate, which the check without a probe uses too.
pub(super) const EXPIRY: &str = "certificate-expires";

/// Looks at every certificate of the file, and says how many there are. `None` where there are none.
pub(super) fn probe(spec: &Spec, found: &mut Found<'_>) -> Option<String> {
    let mut seen = Seen::default();
    for (i, listener) in spec.listeners.iter().enumerate() {
        let Some(tls) = &listener.tls else { continue };
        let at = format!("listeners[{i}].tls");
        if let Some(cert) = &tls.cert_path {
            let key = format!("{at}.cert_path");
            let chain = seen.chain(cert);
            shown(&chain, &key, found);
            if let Some(leaf) = chain.first() {
                covers(leaf, listener, &key, found);
            }
        }
        if let Some(ca) = &tls.client_ca_path {
            trusted(&seen.chain(ca), &format!("{at}.client_ca_path"), found);
        }
    }
    for (i, pool) in spec.pools.iter().enumerate() {
        towards(&pool.tls, &format!("pools[{i}].tls"), &mut seen, found);
        let legs = [
            (Some(&pool.workers), ""),
            (pool.prefill.as_ref().map(|leg| &leg.workers), ".prefill"),
            (pool.decode.as_ref().map(|leg| &leg.workers), ".decode"),
        ];
        for (workers, leg) in legs {
            for (j, worker) in workers.into_iter().flatten().enumerate() {
                let at = format!("pools[{i}]{leg}.workers[{j}].tls");
                towards(&worker.tls, &at, &mut seen, found);
            }
        }
    }
    (!seen.files.is_empty()).then(|| counted(seen.files.len(), "certificate file"))
}

/// The files that were looked at.
#[derive(Default)]
struct Seen<'a> {
    files: BTreeSet<&'a Path>,
}

impl<'a> Seen<'a> {
    /// Its certificates; none where it could not be read, which is reported elsewhere.
    fn chain(&mut self, file: &'a PemFile) -> Vec<Described> {
        self.files.insert(file.path());
        let content = file.content().unwrap_or_default();
        tls::describe(content).unwrap_or_default()
    }
}

fn towards<'a>(tls: &'a ClientTls, at: &str, seen: &mut Seen<'a>, found: &mut Found<'_>) {
    if let Some(cert) = &tls.cert_path {
        shown(&seen.chain(cert), &format!("{at}.cert_path"), found);
    }
    for (i, ca) in tls.ca_paths.iter().enumerate() {
        trusted(&seen.chain(ca), &format!("{at}.ca_paths[{i}]"), found);
    }
}

/// A chain that the gateway shows: in time, and each certificate vouched for by the next one.
fn shown(chain: &[Described], key: &str, found: &mut Found<'_>) {
    let now = now();
    for (i, certificate) in chain.iter().enumerate() {
        let which = match i {
            0 => "the certificate".to_owned(),
            _ => format!("the certificate of `{}` in the chain", certificate.subject),
        };
        let (from, until) = (
            Moment::from_unix(certificate.not_before),
            Moment::from_unix(certificate.not_after),
        );
        if certificate.not_after <= now {
            let message = format!("{which} has expired ({until})");
            let help = "clients refuse it; the file is read again when it changes".to_owned();
            found.add(Severity::Error, EXPIRY, key, message, Some(help));
        } else if certificate.not_before > now {
            let message = format!("{which} is not valid before {from}");
            let help = "is the clock of this machine right?".to_owned();
            found.add(Severity::Error, EXPIRY, key, message, Some(help));
        } else if certificate.not_after < now + SOON {
            let message = format!("{which} expires on {until}");
            found.add(Severity::Warning, EXPIRY, key, message, None);
        }
    }
    let broken = chain.windows(2).find_map(|pair| match pair {
        [one, next] if one.issuer != next.subject => Some((one, next)),
        _ => None,
    });
    if let Some((one, next)) = broken {
        let known = chain.iter().any(|other| other.subject == one.issuer);
        let help = match known {
            true => "the certificates are out of order: each is followed by that of its issuer",
            false => "the one of its issuer is missing, or this one does not belong there",
        };
        found.add(
            Severity::Warning,
            "certificate-chain",
            key,
            format!(
                "`{}` was issued by `{}`, and `{}` follows it",
                one.subject, one.issuer, next.subject
            ),
            Some(help.to_owned()),
        );
    }
}

/// Authorities: one that has ended vouches for nobody.
fn trusted(all: &[Described], key: &str, found: &mut Found<'_>) {
    let now = now();
    for authority in all {
        let until = Moment::from_unix(authority.not_after);
        let message = if authority.not_after <= now {
            format!(
                "the authority `{}` has expired ({until})",
                authority.subject
            )
        } else if authority.not_before > now {
            let from = Moment::from_unix(authority.not_before);
            format!(
                "the authority `{}` is not valid before {from}",
                authority.subject
            )
        } else if authority.not_after < now + SOON {
            format!("the authority `{}` expires on {until}", authority.subject)
        } else {
            continue;
        };
        found.add(Severity::Warning, EXPIRY, key, message, None);
    }
}

/// Whether clients that use the listener's own address find its name in the certificate.
fn covers(leaf: &Described, listener: &Listener, key: &str, found: &mut Found<'_>) {
    if leaf.names.is_empty() {
        let message =
            "the certificate names no host: it has no subject alternative name".to_owned();
        let help = "clients look at nothing else and refuse it".to_owned();
        found.add(
            Severity::Warning,
            "certificate-names",
            key,
            message,
            Some(help),
        );
        return;
    }
    if let ListenAddress::Host { host, .. } = &listener.address
        && !leaf.covers(host)
    {
        let names: Vec<String> = leaf.names.iter().map(|name| format!("`{name}`")).collect();
        let message = format!(
            "the certificate is for {}, and listener `{}` has the address `{host}`",
            names.join(", "),
            listener.name
        );
        found.add(Severity::Warning, "certificate-names", key, message, None);
    }
}

fn now() -> i64 {
    i64::try_from(clock::unix().as_secs()).unwrap_or(i64::MAX)
}
