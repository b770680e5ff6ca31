//! Reloads that are about certificates, counted.

use std::collections::BTreeSet;
use std::path::Path;

use crate::base::pem::PemFile;
use crate::config::spec::{ClientTls, ServerTls};
use crate::config::{Diagnostic, Loaded, Spec};
use crate::telemetry::metrics::{self, Metric};

/// How such a reload ended.
#[derive(Debug, Clone, Copy)]
pub(super) enum Ending {
    Applied,
    Rejected,
}

/// Counts the reload from `old` to `new` if certificates, keys or authorities differ.
pub(super) fn count(old: &Loaded, new: &Loaded, ending: Ending) {
    let differs = match (&old.spec, &new.spec) {
        (Some(old), Some(new)) => files(old) != files(new),
        // Refused by the checks, so that all there is to see is what they found.
        _ => new.diagnostics.iter().any(is_about_tls),
    };
    if differs {
        let result = match ending {
            Ending::Applied => "applied",
            Ending::Rejected => "rejected",
        };
        metrics::counter(Metric::TlsReloads, &[("result", result)]).increment(1);
    }
}

fn is_about_tls(diagnostic: &Diagnostic) -> bool {
    let mut steps = diagnostic.key.iter().flat_map(|key| key.split('.'));
    diagnostic.is_error() && steps.any(|step| step == "tls")
}

/// Every PEM file with what it holds.
fn files(spec: &Spec) -> BTreeSet<(&Path, Option<&[u8]>)> {
    let listeners = spec.listeners.iter().filter_map(|l| l.tls.as_ref());
    let pools = spec.pools.iter().flat_map(|pool| {
        let legs = [&pool.prefill, &pool.decode].into_iter().flatten();
        let workers = pool.workers.iter();
        workers
            .chain(legs.flat_map(|leg| &leg.workers))
            .map(|worker| &worker.tls)
            .chain([&pool.tls])
    });
    let all = listeners.flat_map(shown).chain(pools.flat_map(asked));
    all.map(|file| (file.path(), file.content())).collect()
}

fn shown(tls: &ServerTls) -> impl Iterator<Item = &PemFile> {
    let files = [&tls.cert_path, &tls.key_path, &tls.client_ca_path];
    files.into_iter().flatten()
}

fn asked(tls: &ClientTls) -> impl Iterator<Item = &PemFile> {
    let pair = [&tls.cert_path, &tls.key_path].into_iter().flatten();
    pair.chain(&tls.ca_paths)
}
