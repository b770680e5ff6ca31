//! The end: readiness first, then the listeners, then what is in flight, then all the rest.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use super::{Signals, systemd};
use crate::base::clock;
use crate::live::{Live, Phase};
use crate::serve::Listeners;

/// Longest time that load balancers get to notice.
const SETTLE: Duration = Duration::from_secs(5);

/// A readiness probe within this long says that a load balancer watches.
const WATCHED: Duration = Duration::from_secs(60);

/// How often calls are counted while one waits for their end.
const LOOK: Duration = Duration::from_millis(10);

/// How often it is said what is still waited for.
const REMIND: Duration = Duration::from_secs(5);

/// How long terminal frames may take to reach the clients.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Stops, at once if a signal says so again. `true` if every request came to its end.
pub(super) async fn stop(live: &Live, listeners: &Arc<Listeners>, signals: &mut Signals) -> bool {
    stop_until(live, listeners, signals.end()).await
}

/// Stops, at once as soon as there is a `hurry`. `true` if every request came to its end.
async fn stop_until(
    live: &Live,
    listeners: &Arc<Listeners>,
    hurry: impl Future<Output = ()>,
) -> bool {
    let grace = live.load().plan.server.shutdown_grace_period;
    tracing::info!(target: "smg::daemon", in_flight = live.calls(), ?grace, "stopping");
    systemd::stopping(grace, live.calls());
    let hurried = async {
        hurry.await;
        tracing::warn!(target: "smg::daemon", in_flight = live.calls(), "told twice, ending now");
    };
    tokio::select! {
        biased;
        clean = gracefully(live, listeners, grace) => clean,
        () = hurried => false,
        () = remind(live, listeners) => false,
    }
}

/// Ends after another process has taken over. Nobody is turned away: what is in flight ends, kept
/// connections end with the next request, or when nobody has used them for a while. `true` if every
/// request came to its end.
pub(super) async fn relieved(
    live: &Live,
    listeners: &Arc<Listeners>,
    signals: &mut Signals,
) -> bool {
    let grace = live.load().plan.server.shutdown_grace_period;
    tracing::info!(
        target: "smg::daemon",
        in_flight = live.calls(), connections = listeners.connections(), ?grace,
        "relieved, serving what is left"
    );
    let is_over = || live.calls() == 0 && listeners.connections() == 0;
    let served = async {
        while !is_over() {
            sleep(LOOK).await;
        }
    };
    tokio::select! {
        served = timeout_at(Instant::now() + grace, served) => match served {
            Ok(()) => true,
            Err(_) => {
                end(live, listeners).await;
                false
            }
        },
        // systemd tells all processes of a unit to stop, and those that are left once more when the main
        // one has ended. That is no hurry.
        () = signals.end() => stop_until(live, listeners, signals.interrupted()).await,
        () = remind(live, listeners) => false,
    }
}

/// Says for ever how much is left.
async fn remind(live: &Live, listeners: &Listeners) {
    loop {
        sleep(REMIND).await;
        tell(live, listeners, "waiting");
    }
}

/// Says how much is left.
fn tell(live: &Live, listeners: &Listeners, message: &str) {
    let (phase, in_flight) = (live.phase().as_str(), live.calls());
    tracing::info!(
        target: "smg::daemon",
        phase, in_flight, connections = listeners.connections(), "{message}"
    );
    systemd::waiting(phase, in_flight);
}

/// The ordered way.
async fn gracefully(live: &Live, listeners: &Listeners, grace: Duration) -> bool {
    let begun = Instant::now();
    live.enter(Phase::Settling);
    tell(live, listeners, "not ready any more, still listening");
    let watched = live.readiness_probed(clock::now(), WATCHED);
    let settled = async {
        while watched || live.calls() > 0 {
            sleep(LOOK).await;
        }
    };
    // Without a load balancer the time ends with the last request.
    timeout_at(begun + SETTLE.min(grace / 2), settled)
        .await
        .ok();

    live.enter(Phase::Draining);
    listeners.close();
    tell(live, listeners, "listeners closed");
    if timeout_at(begun + grace, last_call(live, listeners))
        .await
        .is_ok()
    {
        return true;
    }
    end(live, listeners).await;
    false
}

/// Ends what is left.
async fn end(live: &Live, listeners: &Listeners) {
    tracing::warn!(target: "smg::daemon", in_flight = live.calls(), "grace period is over");
    live.enter(Phase::Ending);
    timeout_at(Instant::now() + LAST_WORDS, last_call(live, listeners))
        .await
        .ok();
}

/// Waits until no call is left, and then no connection: an answer that has been handed over may
/// still be on its way to a client that reads slowly. Kept connections are closed in between, not
/// before, since a request may come on them.
async fn last_call(live: &Live, listeners: &Listeners) {
    while live.calls() > 0 {
        sleep(LOOK).await;
    }
    live.enter(Phase::Closing);
    tell(live, listeners, "no request is left");
    while live.calls() > 0 || listeners.connections() > 0 {
        sleep(LOOK).await;
    }
}
