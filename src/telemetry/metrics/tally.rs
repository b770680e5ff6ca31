//! Counters and gauges of a few families that the gateway reads itself: the exporter gives nothing
//! back of what it holds. Counting is one atomic operation, as it is elsewhere.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ::metrics::{Counter, Gauge, Key};
use parking_lot::Mutex;

use super::exposition::{header, labels};
use super::{Kind, Metric};

/// The families that are kept here.
const READ: &[Metric] = &[
    Metric::HttpConnectionsActive,
    Metric::HttpResponses,
    Metric::RouterTokens,
];

/// All series of these families, by family and labels. Of a gauge, a cell holds the bits of a float.
#[derive(Default)]
pub(super) struct Tallies(Mutex<BTreeMap<Metric, BTreeMap<Key, Arc<AtomicU64>>>>);

/// Whether the series of `metric` are kept here.
pub(super) fn keeps(metric: Metric) -> bool {
    READ.contains(&metric)
}

impl Tallies {
    /// The counter of `metric` with the labels of `key`.
    pub(super) fn counter(&self, metric: Metric, key: Key) -> Counter {
        Counter::from_arc(self.cell(metric, key))
    }

    /// The gauge of `metric` with the labels of `key`.
    pub(super) fn gauge(&self, metric: Metric, key: Key) -> Gauge {
        Gauge::from_arc(self.cell(metric, key))
    }

    fn cell(&self, metric: Metric, key: Key) -> Arc<AtomicU64> {
        let mut series = self.0.lock();
        Arc::clone(series.entry(metric).or_default().entry(key).or_default())
    }

    /// Shows each series of `metric`: a function from the name of a label to its value, and the value
    /// of the series.
    pub(super) fn each(&self, metric: Metric, mut look: impl FnMut(&dyn Fn(&str) -> String, f64)) {
        if let Some(family) = self.0.lock().get(&metric) {
            for (key, cell) in family {
                look(&|name| label(key, name), value(metric, cell));
            }
        }
    }

    /// Appends every series of `metric` to an exposition.
    pub(super) fn render(&self, out: &mut String, metric: Metric) {
        let series = self.0.lock();
        let Some(family) = series.get(&metric) else {
            return;
        };
        header(out, metric);
        for (key, cell) in family {
            out.push_str(metric.name());
            if labels(out, key) == ',' {
                out.push('}');
            }
            // Writing to a `String` cannot fail.
            writeln!(out, " {}", value(metric, cell)).ok();
        }
    }
}

fn label(key: &Key, name: &str) -> String {
    let mut labels = key.labels();
    let found = labels.find(|label| label.key() == name);
    found.map_or_else(String::new, |label| label.value().to_owned())
}

/// Exact up to 2^53, which no counter reaches.
fn value(metric: Metric, cell: &AtomicU64) -> f64 {
    let bits = cell.load(Ordering::Relaxed);
    match metric.kind() {
        Kind::Gauge => f64::from_bits(bits),
        Kind::Counter | Kind::Histogram => bits as f64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_can_be_read_and_rendered() {
        let tallies = Tallies::default();
        let key = |value: &'static str| {
            Key::from_parts("x", vec![::metrics::Label::new("listener", value)])
        };
        let metric = Metric::HttpConnectionsActive;
        let gauge = tallies.gauge(metric, key("a\"b"));
        gauge.increment(3.0);
        gauge.decrement(1.0);
        tallies.gauge(metric, key("c")).increment(5.0);
        let mut sum = 0.0;
        tallies.each(metric, |label, value| {
            assert!(["a\"b", "c"].contains(&&*label("listener")));
            assert_eq!(label("none"), "");
            sum += value;
        });
        assert_eq!(sum, 7.0);
        let mut out = String::new();
        tallies.render(&mut out, metric);
        let samples: Vec<&str> = out.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            samples,
            [
                "smg_http_connections_active{listener=\"a\\\"b\"} 2",
                "smg_http_connections_active{listener=\"c\"} 5",
            ]
        );
    }
}
