//! Counters and gauges: one atomic number per series, found by family and labels.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ::metrics::Key;
use parking_lot::Mutex;

use super::exposition::{header, labels, number};
use super::{Kind, Metric};

/// All counters and gauges of the process. A gauge keeps the bits of its `f64`.
#[derive(Default)]
pub(super) struct Numbers {
    series: Mutex<BTreeMap<Metric, BTreeMap<Key, Arc<AtomicU64>>>>,
}

impl Numbers {
    /// The number of `metric` with the labels of `key`, 0 at first.
    pub(super) fn get(&self, metric: Metric, key: Key) -> Arc<AtomicU64> {
        let mut series = self.series.lock();
        Arc::clone(series.entry(metric).or_default().entry(key).or_default())
    }

    /// Appends every series of `metric` to an exposition.
    pub(super) fn render(&self, out: &mut String, metric: Metric) {
        let series = self.series.lock();
        let Some(family) = series.get(&metric) else {
            return;
        };
        header(out, metric);
        for (key, value) in family {
            out.push_str(metric.name());
            if labels(out, key) == ',' {
                out.push('}');
            }
            out.push(' ');
            let value = value.load(Ordering::Relaxed);
            match metric.kind() {
                Kind::Counter => out.push_str(&value.to_string()),
                Kind::Gauge | Kind::Histogram => number(out, f64::from_bits(value)),
            }
            out.push('\n');
        }
    }
}

#[cfg(test)]
mod tests {
    use ::metrics::{CounterFn, GaugeFn, Label};

    use super::*;

    #[test]
    fn what_operators_call_things_stays_what_they_called_it() {
        let numbers = Numbers::default();
        for name in [r"a\b", r"a\\b", r"a\", r#""\n"#, "a\nb", r#"\""#, "a\\\nb"] {
            let key = Key::from_parts("x", vec![Label::new("model", name.to_owned())]);
            CounterFn::increment(&*numbers.get(Metric::RouterRequests, key), 1);
        }
        let mut out = String::new();
        numbers.render(&mut out, Metric::RouterRequests);
        let found: Vec<&str> = out.lines().filter(|line| !line.starts_with('#')).collect();
        let mut wanted = [
            r#"smg_router_requests_total{model="a\\b"} 1"#,
            r#"smg_router_requests_total{model="a\\\\b"} 1"#,
            r#"smg_router_requests_total{model="a\\"} 1"#,
            r#"smg_router_requests_total{model="\"\\n"} 1"#,
            r#"smg_router_requests_total{model="a\nb"} 1"#,
            r#"smg_router_requests_total{model="\\\""} 1"#,
            r#"smg_router_requests_total{model="a\\\nb"} 1"#,
        ];
        wanted.sort_unstable();
        let mut sorted = found;
        sorted.sort_unstable();
        assert_eq!(sorted, wanted);
    }

    #[test]
    fn gauges_hold_fractions_and_counters_whole_numbers() {
        let numbers = Numbers::default();
        let key = || Key::from_parts("x", Vec::new());
        let gauge = numbers.get(Metric::HttpRequestsInFlight, key());
        GaugeFn::increment(&*gauge, 2.5);
        GaugeFn::decrement(&*gauge, 1.0);
        let counter = numbers.get(Metric::PdBootstrapFailures, key());
        CounterFn::increment(&*counter, (1 << 53) + 1);
        let mut out = String::new();
        numbers.render(&mut out, Metric::HttpRequestsInFlight);
        numbers.render(&mut out, Metric::PdBootstrapFailures);
        numbers.render(&mut out, Metric::PdKvTransferFailures);
        assert!(out.contains("\nsmg_http_requests_in_flight 1.5\n"), "{out}");
        assert!(
            out.ends_with("\nsmg_pd_bootstrap_failures_total 9007199254740993\n"),
            "{out}"
        );
    }
}
