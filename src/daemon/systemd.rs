//! What the service manager is told, where there is one: without `NOTIFY_SOCKET` all of this does
//! nothing.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::interval;

use crate::control::Step;

/// Added to the time that is asked for to stop.
const MARGIN: Duration = Duration::from_secs(10);

/// Whether the service manager knows that the process ends.
static STOPPING: AtomicBool = AtomicBool::new(false);

/// Whether another process speaks to the service manager.
static SILENT: AtomicBool = AtomicBool::new(false);

/// Nothing is told while it lives: another process does so.
pub(super) struct Silence(());

impl Silence {
    pub(super) fn begin() -> Self {
        SILENT.store(true, Ordering::Relaxed);
        Self(())
    }

    /// Nothing is told any more.
    pub(super) fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        SILENT.store(false, Ordering::Relaxed);
    }
}

/// The gateway serves in this process, which another one has started.
pub(super) fn took_over(generation: u64) {
    let status = format!("Serving configuration {generation}");
    send(&[
        NotifyState::MainPid(std::process::id()),
        NotifyState::Ready,
        NotifyState::Status(&status),
    ]);
}

/// The gateway serves.
pub(super) fn ready(generation: u64) {
    tell(Step::Serving(generation));
}

/// How a reload goes.
pub(super) fn tell(step: Step<'_>) {
    if STOPPING.load(Ordering::Relaxed) {
        return;
    }
    match step {
        Step::Reloading => {
            let mut states = vec![NotifyState::Reloading];
            // Without the time a unit of `Type=notify-reload` would wait for it.
            states.extend(NotifyState::monotonic_usec_now().ok());
            send(&states);
        }
        Step::Serving(generation) => {
            let status = format!("Serving configuration {generation}");
            send(&[NotifyState::Ready, NotifyState::Status(&status)]);
        }
        Step::Refused(reason) => {
            let status = format!("Configuration refused: {}", reason.replace('\n', " "));
            send(&[NotifyState::Ready, NotifyState::Status(&status)]);
        }
    }
}

/// The gateway stops and wants `grace` for it, with so many calls in flight. How reloads go is told
/// no more.
pub(super) fn stopping(grace: Duration, in_flight: usize) {
    STOPPING.store(true, Ordering::Relaxed);
    let micros = u32::try_from((grace + MARGIN).as_micros()).unwrap_or(u32::MAX);
    send(&[
        NotifyState::Stopping,
        NotifyState::ExtendTimeoutUsec(micros),
        NotifyState::Status(&format!("Stopping, {in_flight} requests in flight")),
    ]);
}

/// The gateway stops, and has come so far.
pub(super) fn waiting(phase: &str, in_flight: usize) {
    let status = format!("Stopping ({phase}), {in_flight} requests in flight");
    send(&[NotifyState::Status(&status)]);
}

/// How often the service manager wants a sign of life, if it does.
pub(super) fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled().filter(|timeout| !timeout.is_zero())
}

/// Gives signs of life, twice as often as is wanted.
pub(super) async fn pet(timeout: Duration) {
    let mut tick = interval(timeout / 2);
    loop {
        tick.tick().await;
        send(&[NotifyState::Watchdog]);
    }
}

fn send(states: &[NotifyState<'_>]) {
    if SILENT.load(Ordering::Relaxed) {
        return;
    }
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(target: "smg::daemon", %error, "service manager not reached");
    }
}
