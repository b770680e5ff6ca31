//! When the certificates end that the gateway shows to clients and to workers.

use std::collections::BTreeMap;

use super::Snapshot;
use crate::base::pem::PemFile;
use crate::telemetry::metrics::{Families, Metric};
use crate::tls;

pub(super) fn write(snapshot: &Snapshot, families: &mut Families<'_>) {
    let (listeners, workers) = (&snapshot.plan.listeners, &snapshot.plan.workers);
    let listeners = listeners.iter().filter_map(|l| l.tls.as_deref());
    let workers = workers.iter().filter_map(|w| w.tls.as_deref());
    let shown = listeners.map(|tls| &tls.cert).chain(
        workers
            .filter_map(|tls| tls.identity.as_ref())
            .map(|(cert, _)| cert),
    );
    // Many workers are shown the same one.
    let shown: BTreeMap<_, &PemFile> = shown.map(|cert| (cert.path(), cert)).collect();
    let mut family = families.family(Metric::TlsCertificateNotAfter);
    for (path, cert) in shown {
        let end = cert.content().map(tls::not_after);
        if let Some(Ok(seconds)) = end {
            family.sample(&[("path", &path.to_string_lossy())], seconds as f64);
        }
    }
}
