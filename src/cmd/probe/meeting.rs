//! One worker, asked once.

use tokio::time::timeout;

use super::trouble::Trouble;
use crate::control::{Met, Unwell, Visit};
use crate::live::{Snapshot, WorkerRef};

/// Questions that one worker is asked at most; each has the deadline of its pool's probes.
const QUESTIONS: u32 = 8;

/// How a worker was met.
pub(super) struct Meeting {
    pub(super) outcome: Outcome,
}

/// What came of it.
pub(super) enum Outcome {
    /// There is no answer.
    Failed(Trouble),
    /// It answers.
    Met {
        /// Whether it says that it is well.
        well: Result<(), Unwell>,
        /// What it says of itself.
        met: Box<Met>,
    },
}

impl Meeting {
    /// Asks `worker` how it is and what it serves.
    pub(super) async fn with(snapshot: &Snapshot, worker: WorkerRef<'_>) -> Self {
        let within = worker.plan.health.timeout;
        let outcome = timeout(within * QUESTIONS, ask(snapshot, worker))
            .await
            .unwrap_or_else(|_| Outcome::Failed(Trouble::silent(within * QUESTIONS)));
        Self { outcome }
    }

    /// A worker that the plan does not have.
    pub(super) fn failed_to_begin() -> Self {
        Self {
            outcome: Outcome::Failed(Trouble::unknown()),
        }
    }
}

async fn ask(snapshot: &Snapshot, worker: WorkerRef<'_>) -> Outcome {
    let visit = Visit::new(snapshot, worker);
    let well = match visit.health().await {
        // Who does not answer once is not asked again.
        Err(Unwell::Silent(error)) => return Outcome::Failed(Trouble::of(worker, &error)),
        well => well,
    };
    match visit.meet(worker.plan.health.timeout).await {
        Ok(met) => Outcome::Met {
            well,
            met: Box::new(met),
        },
        Err(error) => Outcome::Failed(Trouble::of(worker, &error)),
    }
}
