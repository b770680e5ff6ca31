//! Workers: whether they answer, and whether what they say fits what the configuration says.

use std::collections::{BTreeMap, HashMap};

use futures_util::StreamExt as _;
use futures_util::stream;

use super::meeting::{Meeting, Outcome};
use super::progress::Progress;
use super::{Found, counted, verdicts};
use crate::base::clock;
use crate::cmd::explain::offline;
use crate::config::spec::{self, Spec};
use crate::control::Visit;
use crate::live::{Snapshot, Stamp};
use crate::plan::{Facts, PoolIx, Role, WorkerIx, WorkerKey, compile};
use crate::state::Cells;
use crate::upstream::loads::NoLoad;

/// Workers that are asked at once.
const ABREAST: usize = 32;

/// A worker as the file declares it.
pub(super) struct Declared<'a> {
    /// Its key, such as `pools[0].workers[3]`.
    pub(super) at: String,
    pub(super) pool_at: usize,
    pub(super) pool: &'a spec::Pool,
    pub(super) worker: &'a spec::Worker,
    pub(super) key: WorkerKey,
    role: Role,
}

/// Asks every worker, and says how many there are and how many answer. `None` where there are none.
pub(super) async fn probe(spec: &Spec, found: &mut Found<'_>) -> Option<String> {
    let declared = declared(spec);
    if declared.is_empty() {
        return None;
    }
    // Every worker is usable there, so that each can be asked in its pool's way.
    let first = offline::snapshot(spec);
    let known = by_membership(&first);
    let progress = Progress::new(declared.len());
    let asked = stream::iter(declared.iter().enumerate())
        .map(|(at, worker)| {
            let ix = known.get(&membership(worker)).copied();
            let (first, progress) = (&first, &progress);
            async move {
                let meeting = match ix.and_then(|ix| first.worker(ix)) {
                    Some(seen) => Meeting::with(first, seen).await,
                    None => Meeting::failed_to_begin(),
                };
                progress.step();
                (at, meeting)
            }
        })
        .buffer_unordered(ABREAST);
    let mut meetings: Vec<(usize, Meeting)> = asked.collect().await;
    drop(progress);
    meetings.sort_by_key(|(at, _)| *at);
    let meetings: Vec<(&Declared<'_>, Outcome)> = declared
        .iter()
        .zip(meetings.into_iter().map(|(_, meeting)| meeting.outcome))
        .collect();

    let second = learned(spec, &meetings);
    hear_loads(&second, &meetings).await;
    for (worker, outcome) in &meetings {
        verdicts::of_worker(worker, outcome, spec, found);
    }
    verdicts::of_models(spec, &meetings, found);
    verdicts::of_policies(spec, &second, found);

    let answering = meetings
        .iter()
        .filter(|(_, outcome)| matches!(outcome, Outcome::Met { .. }))
        .count();
    let answer = match (answering, meetings.len()) {
        (1, 1) => "it answers".to_owned(),
        (0, _) => "none answers".to_owned(),
        (some, all) if some == all => "all answer".to_owned(),
        (1, _) => "1 answers".to_owned(),
        (some, _) => format!("{some} answer"),
    };
    Some(format!("{}: {answer}", counted(meetings.len(), "worker")))
}

fn declared(spec: &Spec) -> Vec<Declared<'_>> {
    let mut all = Vec::new();
    for (pool_at, pool) in spec.pools.iter().enumerate() {
        let leg = |leg: &'static str| format!("pools[{pool_at}].{leg}");
        let legs = [
            (
                Some(&pool.workers),
                Role::Regular,
                format!("pools[{pool_at}]"),
            ),
            (
                pool.prefill.as_ref().map(|l| &l.workers),
                Role::Prefill,
                leg("prefill"),
            ),
            (
                pool.decode.as_ref().map(|l| &l.workers),
                Role::Decode,
                leg("decode"),
            ),
        ];
        for (workers, role, table) in legs {
            for (i, worker) in workers.into_iter().flatten().enumerate() {
                all.push(Declared {
                    at: format!("{table}.workers[{i}]"),
                    pool_at,
                    pool,
                    worker,
                    key: WorkerKey::new(worker.url.as_str()),
                    role,
                });
            }
        }
    }
    all
}

fn membership(worker: &Declared<'_>) -> (usize, &'static str, WorkerKey) {
    (worker.pool_at, worker.role.as_str(), worker.key.clone())
}

/// The first index of each membership: an engine that is taken apart into ranks has several.
fn by_membership(snapshot: &Snapshot) -> HashMap<(usize, &'static str, WorkerKey), WorkerIx> {
    let mut known = HashMap::new();
    for seen in snapshot.workers() {
        let PoolIx(pool) = seen.plan.pool;
        let key = (pool as usize, seen.plan.role.as_str(), seen.plan.key.base());
        known.entry(key).or_insert(seen.ix);
    }
    known
}

/// The snapshot of a gateway in which the workers that answered have registered.
fn learned(spec: &Spec, meetings: &[(&Declared<'_>, Outcome)]) -> Snapshot {
    let workers = meetings
        .iter()
        .filter_map(|(worker, outcome)| match outcome {
            Outcome::Met { met, .. } => Some((worker.key.clone(), met.learned.clone())),
            Outcome::Failed(_) => None,
        });
    let facts = Facts {
        workers: workers.collect::<BTreeMap<_, _>>(),
        ..Facts::default()
    };
    let stamp = Stamp {
        id: 2,
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

/// Asks those workers that answered for their load whose policy wants it, and puts what they say where
/// policies look for it.
async fn hear_loads(snapshot: &Snapshot, meetings: &[(&Declared<'_>, Outcome)]) {
    let well: HashMap<&WorkerKey, bool> = meetings
        .iter()
        .filter_map(|(worker, outcome)| match outcome {
            Outcome::Met { well, .. } => Some((&worker.key, well.is_ok())),
            Outcome::Failed(_) => None,
        })
        .collect();
    let asked = snapshot.heard().filter(|seen| {
        let is_well = well.get(&seen.plan.key.base()).copied().unwrap_or_default();
        if is_well {
            seen.parts.health.make_ready();
        }
        is_well
    });
    stream::iter(asked)
        .for_each_concurrent(ABREAST, |seen| async move {
            let told = Visit::new(snapshot, seen)
                .loads(seen.plan.health.timeout)
                .await;
            let report = &seen.parts.cell.report;
            let own = told.map(|ranks| match seen.plan.key.rank() {
                None => ranks,
                Some(rank) => {
                    let mine = ranks.into_iter().filter(|load| load.dp_rank == Some(rank));
                    mine.collect()
                }
            });
            match own {
                Ok(own) if !own.is_empty() => {
                    report.put(own, clock::now());
                }
                // It has not worked since it was last asked, which says that it tells.
                Ok(_) => {}
                Err(NoLoad::Nothing | NoLoad::Silent(_)) => {
                    report.clear();
                }
            }
        })
        .await;
}
