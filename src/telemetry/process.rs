//! Gauges of the process itself: the build, the start, the runtime, lost log lines.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::runtime::RuntimeMetrics;

use super::audit;
use super::log::{self, Repeat};
use super::metrics::{self, Metric, label};
use crate::base::clock;

/// Records which build runs and that it starts now. To be called once, after
/// [`metrics::install`].
pub fn started(version: &str, revision: &str) {
    metrics::gauge(
        Metric::BuildInfo,
        &[("version", version), ("revision", revision)],
    )
    .set(1.0);
    metrics::gauge(Metric::ProcessStartTime, &[]).set(clock::unix().as_secs_f64());
}

/// Gauges that are read from their owners every second or so.
#[derive(Debug)]
pub struct Sampler {
    runtime: RuntimeMetrics,
    alive: ::metrics::Gauge,
    workers: ::metrics::Gauge,
    queued: ::metrics::Gauge,
    dropped: Vec<(&'static str, ::metrics::Counter)>,
    /// Audit records that were lost by the last look.
    lost: AtomicU64,
    notices: Repeat<()>,
}

impl Sampler {
    /// Samples the runtime behind `handle`. To be made after [`metrics::install`].
    pub fn new(handle: &tokio::runtime::Handle) -> Self {
        Self {
            runtime: handle.metrics(),
            alive: metrics::gauge(Metric::TokioAliveTasks, &[]),
            workers: metrics::gauge(Metric::TokioWorkers, &[]),
            queued: metrics::gauge(Metric::TokioGlobalQueueDepth, &[]),
            dropped: label::LOG_SINKS
                .iter()
                .map(|sink| {
                    (
                        *sink,
                        metrics::counter(Metric::LogDropped, &[("sink", sink)]),
                    )
                })
                .collect(),
            lost: AtomicU64::new(0),
            notices: Repeat::every_minute(),
        }
    }

    /// Brings the gauges up to date, and what else is looked at every second or so.
    pub fn sample(&self) {
        self.alive.set(self.runtime.num_alive_tasks() as f64);
        self.workers.set(self.runtime.num_workers() as f64);
        self.queued.set(self.runtime.global_queue_depth() as f64);
        for (sink, counter) in &self.dropped {
            counter.absolute(log::dropped(sink));
        }
        let (lost, now) = (log::dropped("audit"), clock::now());
        if self.lost.swap(lost, Ordering::Relaxed) < lost && self.notices.allow((), now).is_some() {
            tracing::error!(target: "smg::audit", lost, "audit records could not be written to their file");
        }
        audit::sweep(Some(now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_process_shows_itself() {
        metrics::install(metrics::default_buckets()).unwrap();
        started("1.2.3", "abc");
        let sampler = Sampler::new(&tokio::runtime::Handle::current());
        sampler.sample();
        let text = metrics::render();
        assert!(
            text.contains("smg_build_info{version=\"1.2.3\",revision=\"abc\"} 1\n"),
            "{text}"
        );
        assert!(text.contains("smg_tokio_workers 1\n"), "{text}");
        assert!(
            text.contains("smg_log_dropped_total{sink=\"file\"} 0\n"),
            "{text}"
        );
        let start: f64 = text
            .lines()
            .find_map(|line| line.strip_prefix("smg_process_start_time_seconds "))
            .unwrap()
            .parse()
            .unwrap();
        assert!((start - clock::unix().as_secs_f64()).abs() < 60.0);
    }
}
