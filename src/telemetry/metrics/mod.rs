//! Metrics: the catalogue, the recorder behind it, and the text that a scrape gets.
//!
//! Handles are looked up once and kept by their users; counting is then one atomic operation.
//! Only this module registers series, so that no name or label exists outside [`Metric`].

mod catalogue;
mod exposition;
mod histogram;
mod tally;

use std::borrow::Cow;
use std::sync::{Arc, OnceLock};

use ::metrics::{
    Counter, Gauge, Histogram, Key, KeyName, Label, Level, Metadata, Recorder as _, SharedString,
};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusRecorder};

pub use catalogue::{
    Buckets, Kind, Metric, OVERHEAD_BUCKETS, RATIO_BUCKETS, Source, TOKEN_BUCKETS, default_buckets,
    label,
};
pub use exposition::{Families, Family};
use histogram::Histograms;
use tally::Tallies;

static RECORDER: OnceLock<Recorder> = OnceLock::new();
static METADATA: Metadata<'static> = Metadata::new("smg", Level::INFO, None);

/// The series of the process.
struct Recorder {
    /// Counters and gauges.
    numbers: PrometheusRecorder,
    /// Those of them that the gateway reads itself.
    tallies: Tallies,
    /// The exporter would keep every value until somebody sorts them into buckets.
    histograms: Histograms,
}

/// Why the recorder could not be installed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The list of bucket bounds is empty.
    #[error("there are no histogram buckets")]
    Buckets,
}

/// Installs the recorder of this process with `buckets` (ascending upper bounds, in seconds) for
/// the histograms of [`Buckets::Duration`]. Later calls change nothing and succeed.
///
/// Handles made before this count nothing.
///
/// # Errors
/// [`InstallError::Buckets`] for an empty list.
pub fn install(buckets: &[f64]) -> Result<(), InstallError> {
    if buckets.is_empty() {
        return Err(InstallError::Buckets);
    }
    RECORDER.get_or_init(|| {
        let numbers = PrometheusBuilder::new().build_recorder();
        describe(&numbers);
        Recorder {
            numbers,
            tallies: Tallies::default(),
            histograms: Histograms::new(buckets),
        }
    });
    Ok(())
}

/// The exposition of every family of [`Source::Recorder`] that has a series; empty before
/// [`install`]. The families of [`Source::Scrape`] are appended with [`Families`].
pub fn render() -> String {
    let Some(recorder) = RECORDER.get() else {
        return String::new();
    };
    let mut out = recorder.numbers.handle().render();
    for metric in Metric::ALL {
        recorder.tallies.render(&mut out, *metric);
        recorder.histograms.render(&mut out, *metric);
    }
    out
}

/// Shows each series of `metric`, a counter or gauge that is kept to be read: a function from the name
/// of a label to its value, and the value of the series.
pub(crate) fn each(metric: Metric, look: impl FnMut(&dyn Fn(&str) -> String, f64)) {
    debug_assert!(tally::keeps(metric), "{metric:?} cannot be read");
    if let Some(recorder) = RECORDER.get() {
        recorder.tallies.each(metric, look);
    }
}

/// The values in each bucket of a histogram, all its series together, and above the last bound; empty
/// where there is none yet.
pub(crate) fn buckets(metric: Metric) -> Vec<u64> {
    RECORDER
        .get()
        .map_or_else(Vec::new, |recorder| recorder.histograms.sum(metric))
}

/// The upper bounds of the histograms of [`Buckets::Duration`], in seconds.
pub(crate) fn duration_bounds() -> Arc<[f64]> {
    RECORDER
        .get()
        .map_or_else(|| Arc::from([]), |recorder| recorder.histograms.durations())
}

/// The counter of `metric` with `labels`, those of [`Metric::labels`] in that order.
pub fn counter(metric: Metric, labels: &[(&'static str, &str)]) -> Counter {
    let key = key(metric, Kind::Counter, labels);
    match RECORDER.get() {
        Some(recorder) if tally::keeps(metric) => recorder.tallies.counter(metric, key),
        Some(recorder) => recorder.numbers.register_counter(&key, &METADATA),
        None => Counter::noop(),
    }
}

/// The gauge of `metric` with `labels`, those of [`Metric::labels`] in that order.
pub fn gauge(metric: Metric, labels: &[(&'static str, &str)]) -> Gauge {
    let key = key(metric, Kind::Gauge, labels);
    match RECORDER.get() {
        Some(recorder) if tally::keeps(metric) => recorder.tallies.gauge(metric, key),
        Some(recorder) => recorder.numbers.register_gauge(&key, &METADATA),
        None => Gauge::noop(),
    }
}

/// The histogram of `metric` with `labels`, those of [`Metric::labels`] in that order.
pub fn histogram(metric: Metric, labels: &[(&'static str, &str)]) -> Histogram {
    let key = key(metric, Kind::Histogram, labels);
    match RECORDER.get() {
        Some(recorder) => Histogram::from_arc(recorder.histograms.get(metric, key)),
        None => Histogram::noop(),
    }
}

/// Creates the series whose labels all have closed sets, with 0, so that a rate over them has a
/// beginning. Series named by a model, a path or a worker come with their first use.
pub fn preseed() {
    for role in label::WORKER_TYPES {
        for error in label::WORKER_ERRORS {
            let labels = [
                ("worker_type", *role),
                ("connection_mode", "http"),
                ("error_type", error),
            ];
            drop(counter(Metric::WorkerErrors, &labels));
        }
        for endpoint in label::ENDPOINTS {
            for reason in label::GIVE_UP_REASONS {
                let labels = [
                    ("worker_type", *role),
                    ("endpoint", endpoint),
                    ("reason", reason),
                ];
                drop(counter(Metric::WorkerRetriesExhausted, &labels));
            }
        }
    }
    for stage in label::STAGES {
        let labels = [("router_type", "http"), ("stage", *stage)];
        drop(histogram(Metric::RouterStageDuration, &labels));
    }
    for attempt in label::attempts() {
        drop(histogram(
            Metric::WorkerRetryBackoff,
            &[("attempt", attempt)],
        ));
    }
    for source in label::SOURCES {
        drop(histogram(
            Metric::DiscoverySyncDuration,
            &[("source", source)],
        ));
        for result in ["success", "failure"] {
            let labels = [("source", *source), ("result", result)];
            drop(counter(Metric::DiscoveryRegistrations, &labels));
        }
        for reason in ["config_removed", "removed"] {
            let labels = [("source", *source), ("reason", reason)];
            drop(counter(Metric::DiscoveryDeregistrations, &labels));
        }
    }
    for source in ["probe", "manual"] {
        drop(counter(Metric::FactsUpdates, &[("source", source)]));
    }
    for (metric, branches) in [
        (Metric::ManualPolicyBranch, label::MANUAL_BRANCHES),
        (
            Metric::ConsistentHashingPolicyBranch,
            label::CONSISTENT_HASHING_BRANCHES,
        ),
        (Metric::PrefixHashPolicyBranch, label::PREFIX_HASH_BRANCHES),
        (Metric::CacheAwarePolicyBranch, label::CACHE_AWARE_BRANCHES),
    ] {
        for branch in branches {
            drop(counter(metric, &[("branch", branch)]));
        }
    }
    for result in ["allowed", "rejected"] {
        drop(counter(Metric::HttpRateLimit, &[("result", result)]));
    }
    for result in ["applied", "rejected"] {
        drop(counter(Metric::TlsReloads, &[("result", result)]));
    }
    for plane in label::PLANES {
        for (method, outcome) in label::AUTH_DECISIONS {
            let labels = [
                ("plane", *plane),
                ("method", *method),
                ("outcome", *outcome),
            ];
            drop(counter(Metric::AuthDecisions, &labels));
        }
    }
    for mode in label::KV_MODES {
        drop(counter(Metric::PdKvConnectorMode, &[("mode", mode)]));
    }
    drop(counter(Metric::PdBootstrapFailures, &[]));
    drop(counter(Metric::PdKvTransferFailures, &[]));
    for result in label::SPAN_RESULTS {
        drop(counter(Metric::TraceSpans, &[("result", result)]));
    }
    for sink in label::LOG_SINKS {
        drop(counter(Metric::LogDropped, &[("sink", sink)]));
    }
    drop(gauge(Metric::HttpRequestsInFlight, &[]));
}

fn key(metric: Metric, kind: Kind, labels: &[(&'static str, &str)]) -> Key {
    debug_assert_eq!(metric.kind(), kind, "{metric:?}");
    debug_assert_eq!(
        metric.source(),
        Source::Recorder,
        "{metric:?} is written at the scrape"
    );
    debug_assert!(
        labels.iter().map(|(name, _)| name).eq(metric.labels()),
        "{metric:?} wants {:?}",
        metric.labels()
    );
    let mut full = Vec::with_capacity(labels.len() + 1);
    for (name, value) in labels {
        let value = match kind {
            Kind::Counter | Kind::Gauge if !tally::keeps(metric) => paired(value),
            Kind::Counter | Kind::Gauge => Cow::Borrowed(*value),
            Kind::Histogram => Cow::Borrowed(*value),
        };
        full.push(Label::new(*name, value.clone().into_owned()));
        if let Some((twin, first)) = metric.twin()
            && first == *name
        {
            full.push(Label::new(twin, value.into_owned()));
        }
    }
    Key::from_parts(KeyName::from_const_str(metric.name()), full)
}

/// A label value with its backslashes in pairs: the exporter takes a single one for the beginning of
/// an escape and drops it, and leaves pairs as they are.
fn paired(value: &str) -> Cow<'_, str> {
    if value.contains('\\') {
        value.replace('\\', r"\\").into()
    } else {
        value.into()
    }
}

fn describe(numbers: &PrometheusRecorder) {
    for metric in Metric::ALL {
        let name = KeyName::from_const_str(metric.name());
        let help = SharedString::const_str(metric.help());
        match metric.kind() {
            Kind::Counter => numbers.describe_counter(name, None, help),
            Kind::Gauge => numbers.describe_gauge(name, None, help),
            Kind::Histogram => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    #[test]
    fn what_operators_call_things_stays_what_they_called_it() {
        install(default_buckets()).unwrap();
        for (name, shown) in [
            (r"bs-a\b", r"bs-a\\b"),
            (r"bs-a\\b", r"bs-a\\\\b"),
            (r"bs-a\", r"bs-a\\"),
            (r#"bs-"\n"#, r#"bs-\"\\n"#),
            ("bs-a\nb", r"bs-a\nb"),
            ("bs-a\\\nb", r"bs-a\\\nb"),
            (r#"bs-\"x"#, r#"bs-\\\"x"#),
        ] {
            gauge(Metric::HttpConnectionsActive, &[("listener", name)]).set(1.0);
            let line = format!("smg_http_connections_active{{listener=\"{shown}\"}} 1");
            let text = render();
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }

    /// A strict reading of the text format: families in one piece, each with one `HELP` before
    /// one `TYPE` before its samples, no series twice, every escape known.
    fn parse(text: &str) -> BTreeMap<String, f64> {
        let mut done = BTreeSet::new();
        let mut series = BTreeMap::new();
        let mut family = String::new();
        let mut kind = "";
        for line in text.lines().filter(|line| !line.is_empty()) {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').unwrap();
                assert!(!help.is_empty(), "{line}");
                assert!(done.insert(name.to_owned()), "family `{name}` comes twice");
                name.clone_into(&mut family);
                kind = "";
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, found) = rest.split_once(' ').unwrap();
                assert_eq!(name, family, "TYPE without its HELP: {line}");
                assert_eq!(kind, "", "two TYPE lines: {line}");
                assert!(["counter", "gauge", "histogram"].contains(&found), "{line}");
                kind = found;
            } else {
                let end = line.find(['{', ' ']).unwrap();
                let (name, rest) = line.split_at(end);
                let base = match kind {
                    "histogram" => ["_bucket", "_sum", "_count"]
                        .iter()
                        .find_map(|suffix| name.strip_suffix(suffix))
                        .unwrap_or_else(|| panic!("not a histogram sample: {line}")),
                    "" => panic!("sample without a TYPE: {line}"),
                    _ => name,
                };
                assert_eq!(base, family, "sample outside its family: {line}");
                let value = if rest.starts_with('{') {
                    labels(rest, line)
                } else {
                    rest
                };
                let value = value.strip_prefix(' ').unwrap();
                let id = line.strip_suffix(value).unwrap().trim_end().to_owned();
                let value = value.replace("+Inf", "inf").parse().unwrap();
                assert!(series.insert(id, value).is_none(), "series twice: {line}");
            }
        }
        series
    }

    /// Reads `{a="b",…}` and returns what follows.
    fn labels<'a>(text: &'a str, line: &str) -> &'a str {
        let mut rest = text.strip_prefix('{').unwrap();
        let mut seen = BTreeSet::new();
        loop {
            let (name, after) = rest.split_once("=\"").unwrap();
            let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
            assert!(
                !name.is_empty() && name.chars().all(word),
                "label name in {line}"
            );
            assert!(seen.insert(name), "label twice in {line}");
            let mut chars = after.char_indices();
            let end = loop {
                match chars.next().unwrap() {
                    (at, '"') => break at,
                    (_, '\\') => assert!(matches!(chars.next().unwrap().1, '\\' | '"' | 'n')),
                    _ => {}
                }
            };
            rest = after.split_at(end + 1).1;
            match rest.strip_prefix(',') {
                Some(more) => rest = more,
                None => return rest.strip_prefix('}').unwrap(),
            }
        }
    }

    #[test]
    fn a_scrape_is_one_valid_exposition() {
        install(default_buckets()).unwrap();
        install(&[1.0]).unwrap();
        preseed();
        let path = ("path", "/v1/responses/{id}");
        let responses = counter(
            Metric::HttpResponses,
            &[path, ("status_code", "404"), ("error_code", "x")],
        );
        responses.increment(3);
        counter(
            Metric::HttpRequests,
            &[("method", "GET"), ("path", "a\"b\nc\\d")],
        )
        .increment(1);
        histogram(Metric::HttpRequestDuration, &[("method", "GET"), path]).record(0.3);
        histogram(
            Metric::GatewayOverhead,
            &[("endpoint", "chat"), ("streaming", "true")],
        )
        .record(0.000_02);
        gauge(Metric::HttpConnectionsActive, &[("listener", "main")]).increment(2.0);

        let mut text = render();
        let mut families = Families::new(&mut text);
        for &metric in Metric::ALL
            .iter()
            .filter(|metric| metric.source() == Source::Scrape)
        {
            let labels: Vec<_> = metric
                .labels()
                .iter()
                .map(|name| (*name, "v\"\\\n"))
                .collect();
            families.family(metric).sample(&labels, 7.0);
        }
        let series = parse(&text);

        let at = |id: &str| {
            *series
                .get(id)
                .unwrap_or_else(|| panic!("no `{id}` in\n{text}"))
        };
        assert_eq!(
            at(
                "smg_http_responses_total{path=\"/v1/responses/{id}\",status_code=\"404\",\
                status=\"404\",error_code=\"x\"}"
            ),
            3.0
        );
        let duration = |le: &str| {
            at(&format!(
                "smg_http_request_duration_seconds_bucket{{method=\"GET\",\
                 path=\"/v1/responses/{{id}}\",le=\"{le}\"}}"
            ))
        };
        assert_eq!(
            [duration("0.25"), duration("0.5"), duration("7200")],
            [0.0, 1.0, 1.0]
        );
        let overhead = "smg_gateway_overhead_seconds_bucket{endpoint=\"chat\",streaming=\"true\"";
        assert_eq!(at(&format!("{overhead},le=\"0.00001\"}}")), 0.0);
        assert_eq!(at(&format!("{overhead},le=\"0.000025\"}}")), 1.0);
        assert_eq!(
            at("smg_worker_retry_backoff_seconds_count{attempt=\"10+\"}"),
            0.0
        );
        assert_eq!(
            at(
                "smg_worker_retries_exhausted_total{worker_type=\"regular\",endpoint=\"chat\",\
                reason=\"budget\"}"
            ),
            0.0
        );
        assert_eq!(at("smg_http_connections_active{listener=\"main\"}"), 2.0);
        assert_eq!(at("smg_snapshot_id"), 7.0);
    }

    #[test]
    #[should_panic(expected = "wants")]
    fn labels_outside_the_catalogue_are_refused() {
        drop(counter(Metric::HttpRequests, &[("method", "GET")]));
    }

    #[test]
    #[should_panic(expected = "written at the scrape")]
    fn worker_series_stay_out_of_the_recorder() {
        drop(gauge(
            Metric::WorkerHealth,
            &[("worker", "w"), ("worker_id", "1")],
        ));
    }
}
