//! Which worker an id means.

use std::sync::Arc;

use uuid::Uuid;

use super::refused::Refused;
use crate::live::{Admin, Snapshot};
use crate::plan::{Member, Role, Source, WorkerKey};

/// The worker that an id means, with all its ranks.
#[derive(Debug)]
pub(super) struct Aim {
    /// The worker.
    pub(super) worker: WorkerKey,
    /// Where it stands.
    pub(super) stands: Vec<Stand>,
}

/// A worker in one pool.
#[derive(Debug)]
pub(super) struct Stand {
    /// Name of the pool.
    pub(super) pool: Arc<str>,
    /// Who brought it there.
    pub(super) source: Source,
    /// What it does there.
    pub(super) role: Role,
}

/// The id in a path, in any case.
///
/// # Errors
/// Where it is none.
pub(super) fn id(text: &str) -> Result<Uuid, Refused> {
    Uuid::parse_str(text).map_err(|_| Refused::bad("a worker id is a UUID"))
}

/// The worker that `id` means. What was accepted a moment ago counts, published or not.
///
/// # Errors
/// Where there is none, or the id is that of one rank of a worker.
pub(super) fn take(snapshot: &Snapshot, admin: &dyn Admin, id: &str) -> Result<Aim, Refused> {
    let id = self::id(id)?;
    let mut stands: Vec<Stand> = Vec::new();
    let mut found: Option<WorkerKey> = None;
    let mut meant: Option<WorkerKey> = None;
    for worker in &snapshot.plan.workers {
        let key = &worker.key;
        let base = key.base();
        if key.rank().is_some() && worker.id == id {
            return Err(Refused::bad(format!(
                "this is one rank of a worker: changes are for the whole one, `{}`",
                base.id()
            )));
        }
        if meant.as_ref() != Some(&base) {
            meant = (base.id() == id).then_some(base);
        }
        if let Some(base) = &meant {
            let pool = &snapshot.plan.pool(worker.pool).name;
            // Of the ranks in one pool the first stands for all.
            if stands.last().is_none_or(|last| last.pool != *pool) {
                stands.push(Stand {
                    pool: Arc::clone(pool),
                    source: worker.source,
                    role: worker.role,
                });
            }
            found = Some(base.clone());
        }
    }
    let fleet = admin.fleet();
    for (Member { pool, worker }, added) in &fleet.added {
        if worker.id() == id && !stands.iter().any(|stand| stand.pool == *pool) {
            stands.push(Stand {
                pool: Arc::clone(pool),
                source: added.source,
                role: added.role,
            });
            found = Some(worker.clone());
        }
    }
    let worker = found.ok_or_else(Refused::unknown)?;
    Ok(Aim { worker, stands })
}
