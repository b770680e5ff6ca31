//! What the publisher does with the changes that are left on its desk.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::apply::{Applied, Ground, Work};
use super::board::Board;
use super::kept::Kept;
use super::reconcile::Ended;
use super::store::Store;
use crate::config::spec::Spec;
use crate::live::{Change, ChangeError, JobKind};
use crate::plan::{Fleet, Member};

/// Who asked is told the outcome.
type Answer = oneshot::Sender<Result<(), ChangeError>>;

/// A change that somebody wants, and whom to tell.
#[derive(Debug)]
pub(in crate::control) struct Asked {
    pub(in crate::control) order: Order,
    pub(in crate::control) answer: Option<Answer>,
}

/// A change of the fleet.
#[derive(Debug)]
pub(in crate::control) enum Order {
    /// Of workers, which an operator wants.
    Change(Change),
    /// Of a pool, which an operator wants.
    DrainPool {
        /// Its name.
        pool: String,
        /// Whether it gets no new requests.
        drain: bool,
    },
    /// A worker that was added has failed and is to be removed.
    Unhealthy(Member),
    /// A worker that was added could not be reached.
    GiveUp {
        /// The job that says so.
        job: u64,
        /// Why.
        message: String,
    },
    /// Workers on their way out have nothing left to do.
    Leave {
        /// The job that says so.
        job: u64,
    },
}

/// What has become of a pile of changes.
#[derive(Debug, Default)]
pub(in crate::control) struct Taken {
    /// Those who asked, with the outcome.
    pub(in crate::control) answers: Vec<(Answer, Result<(), ChangeError>)>,
    /// The fleet from now on, where it has changed.
    pub(in crate::control) fleet: Option<Fleet>,
}

/// Judges changes, keeps them, and has jobs follow them.
#[derive(Debug)]
pub(in crate::control) struct Ledger {
    board: Arc<Board>,
    store: Option<Store>,
    /// What is on disk; `None` where that is not known since it could not be written.
    written: Option<Kept>,
    /// Whether it has been said that it cannot be.
    troubled: bool,
    version: u64,
}

impl Ledger {
    /// A ledger, and the fleet that was kept in `server.state_dir` as far as it holds under `spec`;
    /// what another process has `told` comes before that.
    pub(in crate::control) fn open(
        spec: &Spec,
        board: &Arc<Board>,
        told: Option<&str>,
    ) -> (Self, Fleet) {
        let store = spec.server.state_dir.as_deref().map(Store::new);
        let told = told.and_then(|text| serde_json::from_str::<Kept>(text).ok());
        let on_disk = store.as_ref().map(Store::load).unwrap_or_default();
        let kept = told.unwrap_or_else(|| on_disk.clone());
        let (fleet, ended) = kept.clone().under(spec);
        ended.iter().for_each(Ended::log);
        if fleet != Fleet::default() {
            tracing::info!(
                target: "smg::worker",
                added = fleet.added.len(), out = fleet.tombstones.len(),
                changed = fleet.overrides.len(), pools = fleet.drains.len(),
                "workers that were added or changed before are back"
            );
        }
        board.set_fleet(&fleet);
        let ledger = Self {
            board: Arc::clone(board),
            store,
            written: Some(on_disk),
            troubled: false,
            version: 0,
        };
        (ledger, fleet)
    }

    /// Counts the changes of the fleet.
    pub(in crate::control) const fn version(&self) -> u64 {
        self.version
    }

    pub(in crate::control) fn board(&self) -> &Board {
        &self.board
    }

    /// Keeps what is left of what was kept, for what has ended must not come back with an earlier
    /// configuration. Not before this process has its sockets: it might not be the one that serves.
    pub(in crate::control) async fn begin(&mut self, spec: &Spec, fleet: &Fleet) {
        let kept = self.keep(spec, fleet).await;
        let before = std::mem::replace(&mut self.troubled, kept.is_err());
        match kept {
            Err(error) if !before => unkept(&error),
            Ok(()) if before => {
                tracing::info!(target: "smg::worker", "changes of workers are kept again");
            }
            _ => {}
        }
    }

    /// The fleet in the form that [`Ledger::open`] is told; another process may keep it now.
    pub(in crate::control) fn let_go(&self, spec: &Spec, fleet: &Fleet) -> String {
        if let Some(store) = &self.store {
            store.unlock();
        }
        serde_json::to_string(&Kept::of(Ground { spec, fleet })).unwrap_or_default()
    }

    /// Whether what is on disk is older than what holds: the disk was full, or another process has not
    /// let go of the folder yet.
    pub(in crate::control) fn is_behind(&self) -> bool {
        self.store.is_some() && self.written.is_none()
    }

    /// Takes these changes of `fleet`. Those that somebody asked for are kept before they count;
    /// where that fails they do not. The others follow from changes that were kept.
    pub(in crate::control) async fn take(
        &mut self,
        asked: Vec<Asked>,
        spec: &Spec,
        fleet: &Fleet,
    ) -> Taken {
        let mut taken = Taken::default();
        let mut now = fleet.clone();
        let mut works = Vec::new();
        let (own, foreign): (Vec<_>, Vec<_>) =
            asked.into_iter().partition(|asked| asked.answer.is_none());
        for Asked { order, .. } in own {
            match self.judge(order, spec, &now, works.len()) {
                Ok(applied) => {
                    now = applied.fleet;
                    works.extend(applied.work);
                }
                Err(error) => {
                    tracing::debug!(target: "smg::worker", %error, "change of a worker is void");
                }
            }
        }
        if now != *fleet
            && let Err(error) = self.keep(spec, &now).await
        {
            unkept(&error);
        }
        let settled = (now.clone(), works.len());
        for Asked { order, answer } in foreign {
            let outcome = self.judge(order, spec, &now, works.len()).map(|applied| {
                now = applied.fleet;
                works.extend(applied.work);
            });
            taken.answers.extend(answer.map(|answer| (answer, outcome)));
        }
        if now != settled.0
            && let Err(error) = self.keep(spec, &now).await
        {
            unkept(&error);
            for (_, outcome) in &mut taken.answers {
                if outcome.is_ok() {
                    *outcome = Err(ChangeError::NotKept);
                }
            }
            (now, _) = settled.clone();
            works.truncate(settled.1);
        }
        // A job goes by what is published, also where it finds everything as it should be.
        if now != *fleet || !works.is_empty() {
            self.version += 1;
            self.board.set_fleet(&now);
            taken.fleet = Some(now);
        }
        for work in works {
            told(&work);
            self.board.open(work, self.version);
        }
        taken
    }

    /// A new configuration is in force, under which `fleet` is left of `before`.
    pub(in crate::control) async fn reloaded(
        &mut self,
        spec: &Spec,
        before: &Fleet,
        fleet: &Fleet,
        ended: &[Ended],
    ) {
        ended.iter().for_each(Ended::log);
        let back: Vec<Member> = before.leaving.difference(&fleet.leaving).cloned().collect();
        self.board.overtake(&back);
        self.board.set_fleet(fleet);
        // The entries of the file that changes were made against may be others now, though what
        // holds is the same.
        if let Err(error) = self.keep(spec, fleet).await {
            unkept(&error);
        }
    }

    fn judge(
        &self,
        order: Order,
        spec: &Spec,
        fleet: &Fleet,
        new: usize,
    ) -> Result<Applied, ChangeError> {
        let ground = Ground { spec, fleet };
        let only = |fleet: Fleet| Applied { fleet, work: None };
        match order {
            Order::Change(change) => {
                let applied = ground.apply(&change)?;
                let capacity = spec.server.jobs.capacity as usize;
                if applied.work.is_some() && self.board.unfinished() + new >= capacity {
                    return Err(ChangeError::Full);
                }
                Ok(applied)
            }
            Order::DrainPool { pool, drain } => {
                let changed = ground.drain_pool(&pool, drain)?;
                tracing::info!(target: "smg::worker", pool, drain, "pool is told to drain or not to");
                Ok(only(changed))
            }
            Order::Unhealthy(member) => {
                let Member { pool, worker } = member;
                let mut applied = ground.apply(&Change::Remove {
                    worker: worker.clone(),
                    pool: Some(Arc::clone(&pool)),
                })?;
                if let Some(work) = &mut applied.work {
                    work.hasty = true;
                    tracing::warn!(
                        target: "smg::worker", worker = worker.as_str(), pool = &*pool,
                        "worker has failed and is removed"
                    );
                }
                Ok(applied)
            }
            Order::GiveUp { job, message } => {
                // None are left if a newer change has overtaken the job.
                let members = self.board.members(job);
                self.board.fail(job, &message);
                Ok(only(ground.without(&members)))
            }
            Order::Leave { job } => {
                let members = self.board.members(job);
                self.board.finish(job);
                Ok(only(ground.without(&members)))
            }
        }
    }

    /// Keeps `fleet`, unless that is what is on disk.
    async fn keep(&mut self, spec: &Spec, fleet: &Fleet) -> std::io::Result<()> {
        let Some(store) = &self.store else {
            return Ok(());
        };
        let kept = Kept::of(Ground { spec, fleet });
        if self.written.as_ref() == Some(&kept) {
            return Ok(());
        }
        let saved = store.save(&kept).await;
        self.written = saved.is_ok().then_some(kept);
        saved
    }
}

fn unkept(error: &std::io::Error) {
    tracing::error!(
        target: "smg::worker", %error,
        "changes of workers cannot be kept in `server.state_dir`"
    );
}

fn told(work: &Work) {
    let message = match work.kind {
        JobKind::AddWorker => "worker is added",
        JobKind::UpdateWorker => "worker is changed",
        JobKind::RemoveWorker => "worker is removed once it has nothing left to do",
    };
    tracing::info!(
        target: "smg::worker",
        worker = work.worker.as_str(), pool = work.pool.as_deref(), "{message}"
    );
}
