//! The probe of one worker: asks again and again, counts, and reports changes of state.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use super::places::Pace;
use super::target::{Target, Unwell};
use crate::plan::Health;
use crate::state::Transition;

/// After a first failure, or a probe for which there was no socket, the next probe comes after this long at the latest.
const SECOND_LOOK: Duration = Duration::from_secs(5);

/// A worker's health has changed.
#[derive(Debug)]
pub(super) struct Changed {
    pub(super) target: Arc<Target>,
    pub(super) transition: Transition,
    /// What the last probe saw, if it failed.
    pub(super) reason: String,
}

/// Probes for ever: the first time at once, the second time somewhere within the interval, so that
/// the probes of many workers spread out.
pub(super) async fn run(mut target: watch::Receiver<Arc<Target>>, changes: mpsc::Sender<Changed>) {
    let mut due = Instant::now();
    let mut failures = 0_u32;
    let mut spread = true;
    let mut pace = Pace::default();
    loop {
        if !wait_until(due, &mut target).await {
            return;
        }
        let asked = Arc::clone(&target.borrow());
        let outcome = asked.probe(&mut pace).await;
        if outcome.as_ref().is_err_and(Unwell::is_unasked) {
            let pause = asked.health.interval.min(SECOND_LOOK);
            due = Instant::now() + pause;
            continue;
        }
        let good = outcome.is_ok();
        let cell = &asked.parts.cell;
        let counter = if good {
            &cell.probes_ok
        } else {
            &cell.probes_failed
        };
        counter.fetch_add(1, Ordering::Relaxed);
        failures = if good { 0 } else { failures.saturating_add(1) };

        // Judged by what is in force now, not by what was when the probe went out.
        let judged = Arc::clone(&target.borrow());
        let transition = judged.parts.health.record(good, &judged.health);
        if outcome.as_ref().is_err_and(Unwell::is_unreachable) && !judged.parts.health.is_ready() {
            judged.parts.health.lose();
        }
        if let Some(transition) = transition {
            let reason = outcome
                .err()
                .map(|error| error.to_string())
                .unwrap_or_default();
            let changed = Changed {
                target: Arc::clone(&judged),
                transition,
                reason,
            };
            if changes.send(changed).await.is_err() {
                return;
            }
        }
        due = Instant::now() + until_next(&judged.health, failures, std::mem::take(&mut spread));
    }
}

/// Waits until `due`. A shorter interval counts from now on. `false` once there is nobody to tell.
async fn wait_until(mut due: Instant, target: &mut watch::Receiver<Arc<Target>>) -> bool {
    loop {
        tokio::select! {
            () = sleep_until(due) => return true,
            changed = target.changed() => {
                if changed.is_err() {
                    return false;
                }
                let interval = target.borrow_and_update().health.interval;
                due = due.min(Instant::now() + interval);
            }
        }
    }
}

fn until_next(health: &Health, failures: u32, spread: bool) -> Duration {
    let interval = if spread {
        health.interval.mul_f64(fastrand::f64())
    } else {
        health.interval
    };
    if failures == 1 {
        interval.min(SECOND_LOOK)
    } else {
        interval
    }
}
