//! Whether workers can be trusted at all, found out before a configuration takes effect. What the
//! files say for themselves has been checked with the rest of it; what the system trusts is not said
//! there.

use crate::config::spec::{Pool, Worker};
use crate::config::{Diagnostic, Loaded};
use crate::tls;

/// What is missing for the workers of `loaded` that are to be trusted by the roots of the system.
pub(super) fn fault(loaded: &Loaded) -> Option<Diagnostic> {
    let spec = loaded.spec.as_ref()?;
    let mut pools = spec.pools.iter().enumerate();
    let key = pools.find_map(|(p, pool)| {
        let mut lists = lists(pool);
        let (list, w) = lists.find_map(|(list, workers)| {
            let by_system = |worker: &Worker| {
                worker.url.is_tls() && worker.tls.over(&pool.tls).ca_paths.is_empty()
            };
            Some((list, workers.iter().position(by_system)?))
        })?;
        Some(format!("pools[{p}].{list}[{w}]"))
    })?;
    let error = tls::system_roots().err()?;
    let diagnostic = Diagnostic::error("tls-roots", format!("`{key}` cannot be trusted: {error}"))
        .at(loaded.origins.place(&key))
        .help("install them (Debian: `ca-certificates`), or say in `tls.ca_paths` whom to trust")
        .about(key);
    Some(diagnostic)
}

fn lists(pool: &Pool) -> impl Iterator<Item = (&'static str, &[Worker])> {
    let leg = |name, workers| Some((name, workers));
    [
        leg("workers", &pool.workers[..]),
        pool.prefill
            .as_ref()
            .and_then(|prefill| leg("prefill.workers", &prefill.workers)),
        pool.decode
            .as_ref()
            .and_then(|decode| leg("decode.workers", &decode.workers)),
    ]
    .into_iter()
    .flatten()
}
