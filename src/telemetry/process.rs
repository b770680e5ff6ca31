//! Gauges of the process itself: the build, the start, the runtime, lost log lines.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use tokio::runtime::RuntimeMetrics;

use super::audit;
use super::log::{self, Repeat};
use super::metrics::{self, Metric, label};
use crate::base::clock;

/// How often the timers of the runtime are looked at.
const PACE: Duration = Duration::from_millis(100);

/// A timer that is so late counts as a stall.
const STALL: Duration = Duration::from_millis(100);

static STARTED: OnceLock<Duration> = OnceLock::new();

/// Records which build runs and that it starts now. To be called once, after
/// [`metrics::install`].
pub fn started(version: &str, revision: &str) {
    metrics::gauge(
        Metric::BuildInfo,
        &[("version", version), ("revision", revision)],
    )
    .set(1.0);
    let now = clock::unix();
    metrics::gauge(Metric::ProcessStartTime, &[]).set(now.as_secs_f64());
    STARTED.get_or_init(|| now);
}

/// When [`started`] was told of the start, since the Unix epoch; zero before.
pub fn start() -> Duration {
    STARTED.get().copied().unwrap_or_default()
}

/// Gauges that are read from their owners every second or so.
#[derive(Debug)]
pub struct Sampler {
    runtime: RuntimeMetrics,
    alive: ::metrics::Gauge,
    workers: ::metrics::Gauge,
    queued: ::metrics::Gauge,
    dropped: Vec<(&'static str, ::metrics::Counter)>,
    threads: Vec<Thread>,
    since: Instant,
    /// Audit records that were lost by the last look.
    lost: u64,
    notices: Repeat<()>,
}

/// One thread of the runtime.
#[derive(Debug)]
struct Thread {
    busy: ::metrics::Gauge,
    parks: ::metrics::Counter,
    /// Time that it had been busy for at the last look.
    before: Duration,
}

impl Sampler {
    /// Samples the runtime behind `handle`. To be made after [`metrics::install`].
    pub fn new(handle: &tokio::runtime::Handle) -> Self {
        let runtime = handle.metrics();
        Self {
            threads: (0..runtime.num_workers()).map(Thread::new).collect(),
            since: clock::now(),
            runtime,
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
            lost: 0,
            notices: Repeat::every_minute(),
        }
    }

    /// Brings the gauges up to date, and what else is looked at every second or so.
    pub fn sample(&mut self) {
        let now = clock::now();
        let passed = now.saturating_duration_since(self.since);
        self.since = now;
        for (at, thread) in self.threads.iter_mut().enumerate() {
            let busy = self.runtime.worker_total_busy_duration(at);
            let grown = busy.saturating_sub(thread.before);
            thread.before = busy;
            if !passed.is_zero() {
                let share = grown.as_secs_f64() / passed.as_secs_f64();
                thread.busy.set(share.min(1.0));
            }
            thread.parks.absolute(self.runtime.worker_park_count(at));
        }
        self.alive.set(self.runtime.num_alive_tasks() as f64);
        self.workers.set(self.runtime.num_workers() as f64);
        self.queued.set(self.runtime.global_queue_depth() as f64);
        for (sink, counter) in &self.dropped {
            counter.absolute(log::dropped(sink));
        }
        let lost = log::dropped("audit");
        if std::mem::replace(&mut self.lost, lost) < lost && self.notices.allow((), now).is_some() {
            tracing::error!(target: "smg::audit", lost, "audit records could not be written to their file");
        }
        audit::sweep(Some(now));
    }
}

impl Thread {
    fn new(at: usize) -> Self {
        let name = at.to_string();
        let labels = [("worker", &*name)];
        Self {
            busy: metrics::gauge(Metric::TokioWorkerBusyRatio, &labels),
            parks: metrics::counter(Metric::TokioWorkerParks, &labels),
            before: Duration::ZERO,
        }
    }
}

/// Measures for ever by how much timers of this runtime are late: that long a task that could run
/// has to wait for one that does not yield, or for the processor.
pub async fn watch_delays() {
    let delay = metrics::histogram(Metric::TokioEventLoopDelay, &[]);
    let stalls = metrics::counter(Metric::TokioEventLoopStalls, &[]);
    loop {
        let due = clock::now() + PACE;
        tokio::time::sleep_until(due.into()).await;
        let late = clock::now().saturating_duration_since(due);
        delay.record(late.as_secs_f64());
        if late >= STALL {
            stalls.increment(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_process_shows_itself() {
        metrics::install(metrics::default_buckets()).unwrap();
        started("1.2.3", "abc");
        let mut sampler = Sampler::new(&tokio::runtime::Handle::current());
        sampler.sample();
        let text = metrics::render();
        assert!(
            text.contains("smg_build_info{version=\"1.2.3\",revision=\"abc\"} 1\n"),
            "{text}"
        );
        assert!(text.contains("smg_tokio_workers 1\n"), "{text}");
        for series in [
            "smg_tokio_worker_busy_ratio{worker=\"0\"} ",
            "smg_tokio_worker_parks_total{worker=\"0\"} ",
        ] {
            assert!(text.contains(series), "no {series} in {text}");
        }
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

    #[tokio::test]
    async fn a_blocked_runtime_shows() {
        metrics::install(metrics::default_buckets()).unwrap();
        let stalls = || -> f64 {
            let text = metrics::render();
            let mut lines = text.lines();
            lines
                .find_map(|line| line.strip_prefix("smg_tokio_event_loop_stalls_total "))
                .map_or(0.0, |value| value.parse().unwrap())
        };
        let before = stalls();
        let blocks = async {
            loop {
                // The one thread of this runtime does nothing else meanwhile.
                let until = clock::now() + STALL * 3;
                while clock::now() < until {
                    std::hint::spin_loop();
                }
                tokio::task::yield_now().await;
                if stalls() > before {
                    return;
                }
            }
        };
        tokio::select! {
            () = watch_delays() => {}
            () = blocks => {}
        }
        assert!(stalls() > before);
    }
}
