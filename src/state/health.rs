//! Health of a worker under one way of probing it. The cell counts; the plan's thresholds judge.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};

use tokio::sync::Notify;

use crate::plan::Health;

/// State of a worker as its probes see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum HealthState {
    /// Not probed successfully yet.
    Pending = 0,
    /// Answers.
    Ready = 1,
    /// Failed `failure_threshold` probes in a row.
    NotReady = 2,
    /// Has been failing for long; still probed.
    Failed = 3,
}

impl HealthState {
    /// The word used in JSON and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Ready => "ready",
            Self::NotReady => "not_ready",
            Self::Failed => "failed",
        }
    }

    fn from_u8(value: u8) -> Self {
        match value {
            1 => Self::Ready,
            2 => Self::NotReady,
            3 => Self::Failed,
            _ => Self::Pending,
        }
    }
}

/// A change of state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transition {
    /// Before.
    pub from: HealthState,
    /// After.
    pub to: HealthState,
}

/// Health of one worker. Written by its prober only; read at every pick.
#[derive(Debug)]
pub struct HealthCell {
    state: AtomicU8,
    good_in_a_row: AtomicU32,
    bad_in_a_row: AtomicU32,
    unreachable: AtomicBool,
    lost: Notify,
}

impl HealthCell {
    /// A cell in state `state` with no probes counted.
    pub fn new(state: HealthState) -> Self {
        Self {
            state: AtomicU8::new(state as u8),
            good_in_a_row: AtomicU32::new(0),
            bad_in_a_row: AtomicU32::new(0),
            unreachable: AtomicBool::new(false),
            lost: Notify::new(),
        }
    }

    /// The state now.
    pub fn state(&self) -> HealthState {
        HealthState::from_u8(self.state.load(Ordering::Relaxed))
    }

    /// Whether requests may go to the worker.
    pub fn is_ready(&self) -> bool {
        self.state.load(Ordering::Relaxed) == HealthState::Ready as u8
    }

    /// Makes the worker ready at once, as a successful registration does.
    pub fn make_ready(&self) -> Option<Transition> {
        self.good_in_a_row.store(0, Ordering::Relaxed);
        self.bad_in_a_row.store(0, Ordering::Relaxed);
        self.enter(HealthState::Ready)
    }

    /// Gives the worker up for lost, as a registration that takes too long does. It is still probed.
    pub fn make_failed(&self) -> Option<Transition> {
        self.enter(HealthState::Failed)
    }

    /// Counts one probe and judges it by `thresholds`.
    pub fn record(&self, good: bool, thresholds: &Health) -> Option<Transition> {
        if good {
            self.bad_in_a_row.store(0, Ordering::Relaxed);
            let run = self.good_in_a_row.fetch_add(1, Ordering::Relaxed) + 1;
            return if run >= thresholds.success_threshold {
                self.enter(HealthState::Ready)
            } else {
                None
            };
        }
        self.good_in_a_row.store(0, Ordering::Relaxed);
        let run = self
            .bad_in_a_row
            .fetch_add(1, Ordering::Relaxed)
            .saturating_add(1);
        let threshold = thresholds.failure_threshold;
        match self.state() {
            HealthState::Ready if run >= threshold => self.enter(HealthState::NotReady),
            HealthState::NotReady if run >= threshold.saturating_mul(4) => {
                self.enter(HealthState::Failed)
            }
            HealthState::Pending if run >= threshold.saturating_mul(10) => {
                self.enter(HealthState::Failed)
            }
            HealthState::Ready
            | HealthState::NotReady
            | HealthState::Pending
            | HealthState::Failed => None,
        }
    }

    /// Notes that nothing connects to the worker, which is not ready; see [`lost`](Self::lost).
    pub fn lose(&self) {
        self.unreachable.store(true, Ordering::SeqCst);
        self.lost.notify_waiters();
    }

    /// Ends once nothing connects to the worker: who has sent it a request and heard nothing need
    /// not wait for a connection that may never say that it is dead.
    ///
    /// Cancel safety: nothing is lost when the future is dropped.
    pub async fn lost(&self) {
        // Counts from here on, so that nothing slips through between the look and the wait.
        let told = self.lost.notified();
        if !self.unreachable.load(Ordering::SeqCst) {
            told.await;
        }
    }

    fn enter(&self, to: HealthState) -> Option<Transition> {
        if to == HealthState::Ready {
            self.unreachable.store(false, Ordering::SeqCst);
        }
        let from = HealthState::from_u8(self.state.swap(to as u8, Ordering::Relaxed));
        (from != to).then_some(Transition { from, to })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt as _;

    use super::*;

    fn thresholds() -> Health {
        Health {
            enabled: true,
            failure_threshold: 3,
            success_threshold: 2,
            timeout: Duration::from_secs(5),
            interval: Duration::from_secs(60),
            endpoint: "/health".into(),
            startup_timeout: Duration::from_secs(1),
            startup_check_interval: Duration::from_secs(1),
            startup_delay: Duration::ZERO,
            drain_settle: Duration::ZERO,
            remove_unhealthy: false,
        }
    }

    #[tokio::test]
    async fn who_waits_hears_that_nothing_connects() {
        let cell = HealthCell::new(HealthState::Ready);
        let waiting = cell.lost();
        let telling = async { cell.lose() };
        tokio::join!(waiting, telling);
        cell.lost().await;
        cell.make_ready();
        assert_eq!(cell.lost().now_or_never(), None);
    }

    #[test]
    fn a_ready_worker_falls_after_the_threshold_and_comes_back() {
        let plan = thresholds();
        let cell = HealthCell::new(HealthState::Ready);
        assert_eq!(cell.record(false, &plan), None);
        assert_eq!(cell.record(false, &plan), None);
        let fell = cell.record(false, &plan).unwrap();
        assert_eq!(
            (fell.from, fell.to),
            (HealthState::Ready, HealthState::NotReady)
        );
        assert_eq!(cell.record(true, &plan), None);
        assert_eq!(cell.record(true, &plan).unwrap().to, HealthState::Ready);
    }

    #[test]
    fn a_good_probe_interrupts_the_run_of_failures() {
        let plan = thresholds();
        let cell = HealthCell::new(HealthState::Ready);
        for _ in 0..10 {
            cell.record(false, &plan);
            cell.record(false, &plan);
            cell.record(true, &plan);
        }
        assert!(cell.is_ready());
    }

    #[test]
    fn a_failed_worker_comes_back() {
        let plan = thresholds();
        let cell = HealthCell::new(HealthState::Ready);
        for _ in 0..12 {
            cell.record(false, &plan);
        }
        assert_eq!(cell.state(), HealthState::Failed);
        cell.record(true, &plan);
        assert_eq!(cell.record(true, &plan).unwrap().to, HealthState::Ready);
    }

    #[test]
    fn pending_needs_the_success_threshold_unless_registration_succeeds() {
        let plan = thresholds();
        let cell = HealthCell::new(HealthState::Pending);
        assert_eq!(cell.record(true, &plan), None);
        assert_eq!(cell.make_ready().unwrap().to, HealthState::Ready);
        assert_eq!(cell.make_ready(), None);
    }
}
