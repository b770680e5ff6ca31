//! Follows the jobs: looks at what has become of the workers that they are about, and asks for the
//! last step when it is due.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::board::Board;
use super::drains::Drains;
use super::ledger::Order;
use crate::base::clock;
use crate::control::desk::Desk;
use crate::live::{Live, Snapshot};
use crate::plan::{Member, Source};
use crate::state::HealthState;

/// How often jobs and loads are looked at while there is something to wait for. They go by counters,
/// which tell nobody.
const LOOK: Duration = Duration::from_millis(50);

/// How often one looks otherwise.
const IDLE: Duration = Duration::from_secs(1);

/// Follows the jobs for ever.
pub(in crate::control) async fn run(live: Arc<Live>, desk: Arc<Desk>, board: Arc<Board>) {
    let mut published = live.subscribe();
    let mut drains = Drains::default();
    loop {
        let snapshot = live.load();
        let waits = drains.follow(&snapshot);
        let concurrency = snapshot.plan.server.jobs.concurrency as usize;
        for order in board.step(&snapshot, concurrency, clock::now()) {
            desk.tell(order);
        }
        // What was said and is not heard yet is not said again, however long that takes.
        if !desk.has_orders() {
            for member in failed(&snapshot, &board) {
                desk.tell(Order::Unhealthy(member));
            }
        }
        drop(snapshot);
        let pause = if waits || board.unfinished() > 0 {
            LOOK
        } else {
            IDLE
        };
        tokio::select! {
            changed = published.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            () = board.wait() => {}
            () = sleep(pause) => {}
        }
    }
}

/// Workers that were added, have failed, and are not to stay then.
fn failed(snapshot: &Snapshot, board: &Board) -> Vec<Member> {
    let fleet = board.fleet();
    let mut failed: Vec<Member> = snapshot
        .workers()
        .filter(|worker| {
            worker.plan.source == Source::Api
                && worker.plan.health.remove_unhealthy
                && worker.parts.health.state() == HealthState::Failed
        })
        .map(|worker| Member {
            pool: Arc::clone(&snapshot.plan.pool(worker.plan.pool).name),
            worker: worker.plan.key.base(),
        })
        // Who is still joining is given up by that job.
        .filter(|member| !fleet.leaving.contains(member) && !board.is_joining(member))
        .collect();
    failed.dedup();
    failed
}
