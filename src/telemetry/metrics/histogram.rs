//! Histograms with fixed bounds: recording is two additions, and nothing is kept per value.
//!
//! Invariant: a request that records into handles it has allocates nothing, and what a histogram
//! takes up does not grow with what it has seen.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use ::metrics::{HistogramFn, Key};
use parking_lot::Mutex;

use super::exposition::{header, labels, pair};
use super::{Buckets, Metric, OVERHEAD_BUCKETS, RATIO_BUCKETS, TOKEN_BUCKETS};

/// All histograms of the process, by family and labels.
pub(super) struct Histograms {
    durations: Arc<[f64]>,
    overhead: Arc<[f64]>,
    ratio: Arc<[f64]>,
    tokens: Arc<[f64]>,
    series: Mutex<BTreeMap<Metric, BTreeMap<Key, Arc<Histogram>>>>,
}

/// One histogram.
pub(super) struct Histogram {
    /// Upper bounds, ascending, in seconds, as shares or in tokens.
    bounds: Arc<[f64]>,
    /// Values up to each bound and above the one before it; the last: above all of them.
    counts: Box<[AtomicU64]>,
    /// Sum of all values, in units of which there are `scale` to one: whole numbers can be added
    /// without a loop.
    sum: AtomicI64,
    scale: u32,
}

impl Histograms {
    /// None yet; `durations` are the bounds of [`Buckets::Duration`].
    pub(super) fn new(durations: &[f64]) -> Self {
        Self {
            durations: durations.into(),
            overhead: OVERHEAD_BUCKETS.as_slice().into(),
            ratio: RATIO_BUCKETS.as_slice().into(),
            tokens: TOKEN_BUCKETS.as_slice().into(),
            series: Mutex::default(),
        }
    }

    /// The histogram of `metric` with the labels of `key`.
    pub(super) fn get(&self, metric: Metric, key: Key) -> Arc<Histogram> {
        let bounds = match metric.buckets() {
            Some(Buckets::Overhead) => &self.overhead,
            Some(Buckets::Ratio) => &self.ratio,
            Some(Buckets::Tokens) => &self.tokens,
            Some(Buckets::Duration) | None => &self.durations,
        };
        let scale = match metric.buckets() {
            Some(Buckets::Tokens) => 1,
            Some(Buckets::Overhead | Buckets::Ratio) => 1_000_000_000,
            // A hundred thousand streams at once take a hundred days to fill it.
            Some(Buckets::Duration) | None => 10_000_000,
        };
        let mut series = self.series.lock();
        let family = series.entry(metric).or_default();
        Arc::clone(
            family
                .entry(key)
                .or_insert_with(|| Arc::new(Histogram::new(bounds, scale))),
        )
    }

    /// The values in each bucket of `metric`, all series together.
    pub(super) fn sum(&self, metric: Metric) -> Vec<u64> {
        let series = self.series.lock();
        let Some(family) = series.get(&metric) else {
            return Vec::new();
        };
        let mut sum = Vec::new();
        for histogram in family.values() {
            sum.resize(histogram.counts.len(), 0);
            for (sum, count) in sum.iter_mut().zip(&histogram.counts) {
                *sum += count.load(Ordering::Relaxed);
            }
        }
        sum
    }

    /// The bounds of [`Buckets::Duration`].
    pub(super) fn durations(&self) -> Arc<[f64]> {
        Arc::clone(&self.durations)
    }

    /// Appends every series of `metric` to an exposition.
    pub(super) fn render(&self, out: &mut String, metric: Metric) {
        if let Some(family) = self.series.lock().get(&metric) {
            header(out, metric);
            for (key, histogram) in family {
                histogram.render(out, metric.name(), key);
            }
        }
    }
}

impl Histogram {
    fn new(bounds: &Arc<[f64]>, scale: u32) -> Self {
        Self {
            bounds: Arc::clone(bounds),
            counts: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(),
            sum: AtomicI64::new(0),
            scale,
        }
    }

    fn render(&self, out: &mut String, name: &str, key: &Key) {
        let mut total = 0;
        let bounds = self
            .bounds
            .iter()
            .map(|bound| bound.to_string())
            .chain(["+Inf".to_owned()]);
        for (bound, count) in bounds.zip(&self.counts) {
            total += count.load(Ordering::Relaxed);
            out.push_str(name);
            out.push_str("_bucket");
            let open = labels(out, key);
            pair(out, open, "le", &bound);
            // Writing to a `String` cannot fail.
            writeln!(out, "}} {total}").ok();
        }
        let sum = self.sum.load(Ordering::Relaxed);
        let scale = i64::from(self.scale);
        let sum = match self.scale {
            1 => sum.to_string(),
            10_000_000 => format!("{}.{:07}", sum / scale, sum % scale),
            _ => format!("{}.{:09}", sum / scale, sum % scale),
        };
        for (suffix, value) in [("_sum", sum), ("_count", total.to_string())] {
            out.push_str(name);
            out.push_str(suffix);
            if labels(out, key) == ',' {
                out.push('}');
            }
            out.push(' ');
            out.push_str(&value);
            out.push('\n');
        }
    }
}

impl HistogramFn for Histogram {
    fn record(&self, value: f64) {
        let at = self.bounds.partition_point(|bound| *bound < value);
        if let Some(count) = self.counts.get(at) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        #[expect(
            clippy::cast_possible_truncation,
            reason = "whole parts of a second, or whole tokens, are enough"
        )]
        self.sum.fetch_add(
            (value * f64::from(self.scale)).round() as i64,
            Ordering::Relaxed,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_may_be_missing() {
        let histograms = Histograms::new(&[1.0]);
        let key = Key::from_parts("x", vec![::metrics::Label::new("model", "m")]);
        let histogram = histograms.get(Metric::RoutePredictionError, key);
        for value in [-500.0, 3.0] {
            histogram.record(value);
        }
        let mut out = String::new();
        histograms.render(&mut out, Metric::RoutePredictionError);
        for line in [
            "_bucket{model=\"m\",le=\"-1024\"} 0",
            "_bucket{model=\"m\",le=\"-256\"} 1",
            "_bucket{model=\"m\",le=\"16\"} 2",
            "_sum{model=\"m\"} -497",
            "_count{model=\"m\"} 2",
        ] {
            assert!(out.contains(line), "no `{line}` in\n{out}");
        }
    }

    #[test]
    fn values_fall_into_their_buckets() {
        let histograms = Histograms::new(&[0.1, 1.0]);
        let key = Key::from_parts("x", vec![::metrics::Label::new("attempt", "1")]);
        let histogram = histograms.get(Metric::WorkerRetryBackoff, key.clone());
        for value in [0.05, 0.1, 0.5, 1.0, 7.25] {
            histogram.record(value);
        }
        histograms.get(Metric::WorkerRetryBackoff, key).record(0.1);
        let mut out = String::new();
        histograms.render(&mut out, Metric::WorkerRetryBackoff);
        let samples: Vec<&str> = out.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            samples,
            [
                "smg_worker_retry_backoff_seconds_bucket{attempt=\"1\",le=\"0.1\"} 3",
                "smg_worker_retry_backoff_seconds_bucket{attempt=\"1\",le=\"1\"} 5",
                "smg_worker_retry_backoff_seconds_bucket{attempt=\"1\",le=\"+Inf\"} 6",
                "smg_worker_retry_backoff_seconds_sum{attempt=\"1\"} 9.0000000",
                "smg_worker_retry_backoff_seconds_count{attempt=\"1\"} 6",
            ]
        );
    }
}
