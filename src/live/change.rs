//! Changes of workers that operators ask for, and how far they have come.

use std::sync::Arc;
use std::time::SystemTime;

use crate::plan::{Added, Member, Override, WorkerKey};

/// A change of workers. It is accepted or refused at once and carried out by a job.
#[derive(Debug, Clone)]
pub enum Change {
    /// A worker joins a pool.
    Add(Box<Addition>),
    /// A worker that was added is declared anew; its counters, breaker and id stay.
    Replace(Box<Addition>),
    /// Something of a worker changes; what the file says of one of its own is overridden.
    Update {
        /// The worker.
        worker: WorkerKey,
        /// The pool; `None`: every one that it stands in.
        pool: Option<Arc<str>>,
        /// What differs from now on. It is laid over what was changed before.
        with: Box<Override>,
    },
    /// A worker leaves once it has nothing left to do.
    Remove {
        /// The worker.
        worker: WorkerKey,
        /// The pool; `None`: every one that it stands in.
        pool: Option<Arc<str>>,
    },
}

/// A worker that joins a pool.
#[derive(Debug, Clone)]
pub struct Addition {
    /// Who, and where to.
    pub member: Member,
    /// What is said of it.
    pub added: Added,
    /// So many attempts to reach it before it is given up; `None`: as many as the time allows.
    pub attempts: Option<u32>,
}

/// Why a change is not made. Nothing has changed then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// The worker stands in that pool already.
    #[error("the worker is in this pool already")]
    Exists,
    /// There is no such worker.
    #[error("there is no worker with this id")]
    UnknownWorker,
    /// There is no such pool.
    #[error("there is no pool `{0}`")]
    UnknownPool(String),
    /// The pool takes no workers but those of the file.
    #[error("pool `{0}` takes no workers but those of the file")]
    NotDynamic(String),
    /// The worker does not fit the legs of the pool, or it has no such part that could be changed.
    #[error("{0}")]
    Unfit(String),
    /// Too many jobs wait already.
    #[error("too many changes of workers are waiting")]
    Full,
    /// A new process is taking over, which would not know of the change.
    #[error("a new process is taking over; ask again in a moment")]
    Upgrading,
    /// The change could not be kept for the next start.
    #[error("the change cannot be kept in `server.state_dir`")]
    NotKept,
}

/// What a job does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobKind {
    /// Adds a worker, or replaces what was said of one.
    AddWorker,
    /// Changes something of a worker.
    UpdateWorker,
    /// Removes a worker.
    RemoveWorker,
}

impl JobKind {
    /// The word in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AddWorker => "AddWorker",
            Self::UpdateWorker => "UpdateWorker",
            Self::RemoveWorker => "RemoveWorker",
        }
    }
}

/// How far a job has come. One that has succeeded is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobState {
    /// It waits for its turn.
    Pending,
    /// It runs.
    Processing,
    /// It could not be done.
    Failed(String),
}

impl JobState {
    /// The word in JSON.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Processing => "processing",
            Self::Failed(_) => "failed",
        }
    }
}

/// A job that waits, runs or has failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// What it does.
    pub kind: JobKind,
    /// The worker.
    pub worker: WorkerKey,
    /// The pool, where it is about one.
    pub pool: Option<Arc<str>>,
    /// How far it has come.
    pub state: JobState,
    /// Since when.
    pub at: SystemTime,
}
