//! A gateway that has just started, in memory: no socket, no worker asked.

use std::collections::BTreeMap;

use crate::base::clock;
use crate::config::spec::Spec;
use crate::live::{Snapshot, Stamp};
use crate::plan::{Facts, Learned, WorkerKey, compile};
use crate::state::Cells;

/// The first snapshot of a gateway with this configuration, whose workers have all registered. A
/// worker is taken to advertise no model, so one without a `model` serves all that are declared for
/// its pool; where ranks count, it has as many as its label `dp_size` says, else one.
pub(crate) fn snapshot(spec: &Spec) -> Snapshot {
    let pools = spec.pools.iter();
    let workers = pools.flat_map(|pool| {
        let runtime = pool.runtime;
        pool.members().map(move |worker| {
            let dp_size = worker.labels.get("dp_size");
            let learned = Learned {
                runtime,
                dp_size: dp_size.and_then(|size| size.parse().ok()).or(Some(1)),
                models: worker.model.clone().into_iter().collect(),
                ..Learned::default()
            };
            (WorkerKey::new(worker.url.as_str()), learned)
        })
    });
    let facts = Facts {
        workers: workers.collect::<BTreeMap<_, _>>(),
        ..Facts::default()
    };
    let stamp = Stamp {
        id: 1,
        generation: 1,
        sha256: "".into(),
    };
    Snapshot::bind(
        compile(spec, &facts),
        &Cells::default(),
        None,
        stamp,
        clock::now(),
    )
}
