//! One worker as its probes see it, and the one way in which they ask it something.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::live::{Snapshot, WorkerParts, WorkerRef};
use crate::plan::{Connections, Health, Worker, WorkerIx};
use crate::upstream::{self, Failure, headers};

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
    pub(super) places: Arc<Semaphore>,
    connections: Connections,
    connect: Duration,
}

/// An answer that was read to its end.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Bytes,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unanswered {
    /// The path makes no request target.
    #[error("`{0}` is no path")]
    Path(String),
    /// It took too long.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// There was no head.
    #[error(transparent)]
    Failed(#[from] Failure),
    /// It says that it is not well.
    #[error("`{path}` answered {status}")]
    Status {
        /// What was asked.
        path: String,
        /// What came.
        status: StatusCode,
    },
    /// The body broke off or is too long.
    #[error("answer broke off: {0}")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Target {
    pub(super) fn new(snapshot: &Snapshot, worker: WorkerRef<'_>, places: &Arc<Semaphore>) -> Self {
        let pool = snapshot.plan.pool(worker.plan.pool);
        let parts = worker.parts;
        Self {
            worker: worker.plan.clone(),
            parts: WorkerParts {
                cell: Arc::clone(&parts.cell),
                health: Arc::clone(&parts.health),
                conns: Arc::clone(&parts.conns),
                host: parts.host.clone(),
                authorization: parts.authorization.clone(),
                id: parts.id.clone(),
            },
            pool: Arc::clone(&pool.name),
            health: pool.health.clone(),
            places: Arc::clone(places),
            connections: pool.connections,
            connect: pool.timeouts.connect,
        }
    }

    /// Whether `other` is asked in the same way and judged by the same cells.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.worker == other.worker
            && self.pool == other.pool
            && self.health == other.health
            && self.connections == other.connections
            && self.connect == other.connect
            && Arc::ptr_eq(&self.places, &other.places)
            && Arc::ptr_eq(&self.parts.health, &other.parts.health)
            && Arc::ptr_eq(&self.parts.cell, &other.parts.cell)
    }

    /// `GET`s `path` below the worker's URL, with its key, and reads the whole answer.
    pub(super) async fn get(&self, path: &str, within: Duration) -> Result<Answer, Unanswered> {
        let worker = WorkerRef { ix: WorkerIx(0), plan: &self.worker, parts: &self.parts };
        let uri: Uri = format!("{}{path}", self.worker.base_path)
            .parse()
            .map_err(|_| Unanswered::Path(path.to_owned()))?;
        let request = || {
            let mut request = Request::new(Full::default());
            *request.uri_mut() = uri.clone();
            *request.headers_mut() = headers::own(worker);
            request
        };
        let ask = async {
            let response =
                upstream::http::send(worker, self.connections, self.connect, request).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
            Ok(Answer { status, body: body.map_err(Unanswered::Body)?.to_bytes() })
        };
        timeout(within, ask).await.unwrap_or(Err(Unanswered::Timeout(within)))
    }
}
