//! What an acceptor does while the system has no descriptor for another connection: it waits until
//! one has been given back, and says so once.

use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use tokio::time::{Instant as TokioInstant, sleep_until};

use crate::base::clock;
use crate::telemetry::log::Repeat;

/// Descriptors are taken to be there again when none has been missing for this long: as long as there
/// is a rush each one that comes back is gone at once.
const CALM: Duration = Duration::from_secs(1);

static TOLD: LazyLock<Repeat<Arc<str>>> = LazyLock::new(Repeat::every_minute);

/// The scarcity as one listener meets it.
pub(super) struct Scarcity {
    listener: Arc<str>,
    missed: Option<Missed>,
}

struct Missed {
    last: Instant,
    times: u64,
    told: bool,
}

impl Scarcity {
    /// None yet.
    pub(super) fn none(listener: Arc<str>) -> Self {
        Self {
            listener,
            missed: None,
        }
    }

    /// A connection could not be accepted because of `error`.
    pub(super) fn met(&mut self, error: &std::io::Error) {
        let now = clock::now();
        if let Some(missed) = &mut self.missed {
            missed.last = now;
            missed.times += 1;
            return;
        }
        let silent = TOLD.allow(Arc::clone(&self.listener), now);
        if let Some(silent) = silent {
            tracing::warn!(
                listener = &*self.listener, %error, silent,
                "out of file descriptors, connections wait to be accepted"
            );
        }
        self.missed = Some(Missed {
            last: now,
            times: 1,
            told: silent.is_some(),
        });
    }

    /// Ends when the scarcity is over; never while there is none.
    ///
    /// Cancel safety: nothing is lost when the future is dropped.
    pub(super) async fn over(&mut self) {
        let Some(missed) = &self.missed else {
            return std::future::pending().await;
        };
        sleep_until(TokioInstant::from_std(missed.last + CALM)).await;
        if let Some(missed) = self.missed.take().filter(|missed| missed.told) {
            tracing::info!(
                listener = &*self.listener,
                times = missed.times,
                "connections are accepted again"
            );
        }
    }
}
