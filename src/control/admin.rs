//! What the admin routes may ask for.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::sleep;

use super::desk::Desk;
use super::effective;
use super::fleet::{Board, Order};
use super::status::Status;
use crate::config::Diagnostic;
use crate::live::{
    Admin, BoxFuture, Change, ChangeError, Job, Judged, Live, Outcome, Standing, Trigger,
};
use crate::plan::Fleet;

/// How often snapshots are counted while somebody waits for old ones to go. They go by reference
/// count, which tells nobody.
const LOOK: Duration = Duration::from_millis(20);

/// Answers the admin routes.
pub(super) struct Office {
    desk: Arc<Desk>,
    status: Arc<Mutex<Status>>,
    live: Arc<Live>,
    board: Arc<Board>,
    file: String,
}

impl Office {
    pub(super) fn new(
        desk: Arc<Desk>,
        status: Arc<Mutex<Status>>,
        live: Arc<Live>,
        board: Arc<Board>,
        file: String,
    ) -> Self {
        Self {
            desk,
            status,
            live,
            board,
            file,
        }
    }

    fn order(&self, order: Order) -> BoxFuture<Result<(), ChangeError>> {
        let outcome = self.desk.order(order);
        Box::pin(async move { outcome.await.unwrap_or(Err(ChangeError::Full)) })
    }
}

impl Admin for Office {
    fn reload(&self, trigger: Trigger) -> BoxFuture<Outcome> {
        let outcome = self.desk.ask(trigger);
        Box::pin(async move {
            outcome.await.unwrap_or_else(|_| Outcome::Rejected {
                diagnostics: vec![Diagnostic::error(
                    "stopping",
                    "the gateway is shutting down",
                )],
            })
        })
    }

    fn drained(&self, generation: u64) -> BoxFuture<()> {
        let live = Arc::clone(&self.live);
        Box::pin(async move {
            while live
                .alive()
                .iter()
                .any(|snapshot| snapshot.generation < generation)
            {
                sleep(LOOK).await;
            }
        })
    }

    fn config(&self) -> serde_json::Value {
        let loaded = Arc::clone(&self.status.lock().loaded);
        effective::to_json(&loaded)
    }

    fn status(&self) -> serde_json::Value {
        let fleet = self.board.fleet();
        self.status.lock().to_json(&self.live, &fleet)
    }

    fn standing(&self) -> Standing {
        let status = self.status.lock();
        Standing {
            file: self.file.clone(),
            live: Judged::from(&status.live),
            rejected: status.rejected.as_ref().map(Judged::from),
        }
    }

    fn change(&self, change: Change) -> BoxFuture<Result<(), ChangeError>> {
        self.order(Order::Change(change))
    }

    fn drain_pool(&self, pool: &str, drain: bool) -> BoxFuture<Result<(), ChangeError>> {
        let pool = pool.to_owned();
        self.order(Order::DrainPool { pool, drain })
    }

    fn jobs(&self) -> Vec<Job> {
        self.board.jobs()
    }

    fn fleet(&self) -> Arc<Fleet> {
        self.board.fleet()
    }
}
