//! What the admin routes may ask for.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::sleep;

use super::desk::Desk;
use super::effective;
use super::status::Status;
use crate::config::Diagnostic;
use crate::live::{Admin, BoxFuture, Change, ChangeError, Job, Live, Outcome, Trigger};
use crate::plan::Fleet;

/// How often snapshots are counted while somebody waits for old ones to go. They go by reference
/// count, which tells nobody.
const LOOK: Duration = Duration::from_millis(20);

/// Answers the admin routes.
pub(super) struct Office {
    desk: Arc<Desk>,
    status: Arc<Mutex<Status>>,
    live: Arc<Live>,
}

impl Office {
    pub(super) fn new(desk: Arc<Desk>, status: Arc<Mutex<Status>>, live: Arc<Live>) -> Self {
        Self { desk, status, live }
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
        self.status.lock().to_json(self.live.load().id)
    }

    fn change(&self, _change: Change) -> BoxFuture<Result<(), ChangeError>> {
        Box::pin(async { Err(ChangeError::Full) })
    }

    fn drain_pool(&self, _pool: &str, _drain: bool) -> BoxFuture<Result<(), ChangeError>> {
        Box::pin(async { Err(ChangeError::Full) })
    }

    fn jobs(&self) -> Vec<Job> {
        Vec::new()
    }

    fn fleet(&self) -> Arc<Fleet> {
        Arc::default()
    }
}
