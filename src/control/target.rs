//! One worker as its probes see it, and the one way in which they ask it something.

use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode};

use super::places::{Pace, Places};
use crate::api::load::Load;
use crate::config::spec::Runtime;
use crate::live::{Snapshot, WorkerParts, WorkerRef};
use crate::plan::{Connections, Health, NoRanks, Worker, WorkerIx};
use crate::upstream::loads::{self, NoLoad};
use crate::upstream::{Failure, FetchError, Fetched, fetch};

/// Longest answer that is read.
const MAX_ANSWER: usize = 4 * 1024 * 1024;

/// What is needed to ask a worker. It owns its parts: a probe that takes its time must not keep a
/// whole snapshot alive.
#[derive(Debug)]
pub(super) struct Target {
    /// What the plan says about it.
    pub(super) worker: Worker,
    /// Its cells.
    pub(super) parts: WorkerParts,
    /// Name of its pool.
    pub(super) pool: Arc<str>,
    /// How it is probed.
    pub(super) health: Health,
    /// Probes under way at once, over all workers.
    pub(super) places: Arc<Places>,
    /// The engine that the configuration says it runs.
    pub(super) declared: Option<Runtime>,
    /// Whether its ranks are to be told apart.
    pub(super) dp_aware: bool,
    connections: Connections,
}

/// Why a worker is taken to be unwell.
#[derive(Debug, thiserror::Error)]
pub enum Unwell {
    /// It gave no answer.
    #[error(transparent)]
    Silent(#[from] FetchError),
    /// It says so.
    #[error("`{path}` answered {}", status.as_u16())]
    Status {
        /// What was asked.
        path: String,
        /// What came.
        status: StatusCode,
    },
    /// It cannot be taken apart into ranks, as its pool wants it.
    #[error(transparent)]
    Whole(#[from] NoRanks),
}

impl Unwell {
    /// Whether nothing connects to it: a worker that is only slow or unwell may still be at work.
    pub(super) fn is_unreachable(&self) -> bool {
        let Self::Silent(FetchError::Failure(failure)) = self else {
            return false;
        };
        matches!(failure, Failure::Connect(_) | Failure::ConnectTimeout(_))
    }

    /// Whether it could not even be asked, for want of a socket: that says nothing of it.
    pub(super) fn is_unasked(&self) -> bool {
        matches!(self, Self::Silent(FetchError::Failure(Failure::Short(_))))
    }
}

impl Target {
    pub(super) fn new(snapshot: &Snapshot, worker: WorkerRef<'_>, places: &Arc<Places>) -> Self {
        let pool = snapshot.plan.pool(worker.plan.pool);
        Self {
            worker: worker.plan.clone(),
            parts: worker.parts.clone(),
            pool: Arc::clone(&pool.name),
            health: worker.plan.health.clone(),
            places: Arc::clone(places),
            declared: pool.runtime,
            dp_aware: pool.dp_aware,
            connections: pool.connections,
        }
    }

    /// Whether `other` is asked in the same way and judged by the same cells.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.worker == other.worker
            && self.pool == other.pool
            && self.health == other.health
            && self.dp_aware == other.dp_aware
            && self.connections == other.connections
            && Arc::ptr_eq(&self.places, &other.places)
            && Arc::ptr_eq(&self.parts.health, &other.parts.health)
            && Arc::ptr_eq(&self.parts.cell, &other.parts.cell)
            // Where connections may lead is theirs to know.
            && Arc::ptr_eq(&self.parts.conns, &other.parts.conns)
    }

    fn worker(&self) -> WorkerRef<'_> {
        WorkerRef {
            ix: WorkerIx(0),
            plan: &self.worker,
            parts: &self.parts,
        }
    }

    /// Asks for its load.
    pub(super) async fn loads(&self, within: Duration) -> Result<Vec<Load>, NoLoad> {
        loads::ask(self.worker(), self.connections, within).await
    }

    /// `GET`s `path` below the worker's URL, with its key, and reads the whole answer.
    pub(super) async fn get(&self, path: &str, within: Duration) -> Result<Fetched, FetchError> {
        fetch(
            self.worker(),
            self.connections,
            Method::GET,
            path,
            within,
            MAX_ANSWER,
        )
        .await
    }

    /// Asks whether it is well, when there is a place; any 2xx is good.
    pub(super) async fn probe(&self, pace: &mut Pace) -> Result<(), Unwell> {
        let probed = self.places.hold(pace, || self.look()).await;
        // The places are never closed.
        probed.unwrap_or(Ok(()))
    }

    /// The same without waiting for a place.
    pub(super) async fn look(&self) -> Result<(), Unwell> {
        let path = &*self.health.endpoint;
        let status = self.get(path, self.health.timeout).await?.status;
        if status.is_success() {
            return Ok(());
        }
        Err(Unwell::Status {
            path: path.to_owned(),
            status,
        })
    }
}
