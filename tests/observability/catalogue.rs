//! The catalogue, the reference and a scrape of the running binary say the same.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;
use smg::telemetry::metrics::{Kind, Metric};

use crate::bustle::{Bustle, LISTENERS, ODD_NAMES, PATIENCE, engine, ready, well};
use crate::exposition::{Family, families};
use crate::prometheus::{promtool, tool};
use crate::support::{Smg, eventually, get, post};

/// Families that one gateway in front of well-behaved engines cannot show, and who sees to them.
const ELSEWHERE: &[&str] = &[];

/// What promtool says of a scrape that is as it is meant to be: the ages of requests are told as a
/// gauge by two bounds, of which one is called `le`.
const ACCEPTED: &[&str] =
    &["smg_http_inflight_request_age non-histogram metrics should not have \"le\" label"];

async fn scrape(smg: &Smg) -> String {
    get(smg.address("metrics"), "/metrics").await.text()
}

/// The labels of each series of `metric`, sorted.
fn labels(metric: Metric) -> Vec<String> {
    let mut labels: Vec<String> = metric.labels().iter().map(|&l| l.to_owned()).collect();
    labels.extend(metric.twin().map(|(twin, _)| twin.to_owned()));
    labels.sort_unstable();
    labels
}

fn check(name: &str, family: &Family, metric: Metric) {
    assert_eq!(family.help, metric.help(), "{name}");
    assert_eq!(family.kind, metric.kind().as_str(), "{name}");
    for found in &family.labels {
        let mut sorted = found.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, labels(metric), "{name}");
    }
    assert_eq!(
        !family.bounds.is_empty(),
        metric.kind() == Kind::Histogram,
        "{name}"
    );
}

/// The rows of docs/METRICS.md: family → type, labels, help.
fn reference() -> BTreeMap<String, (String, Vec<String>, String)> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/METRICS.md");
    let text = std::fs::read_to_string(path).unwrap();
    let rows = text.lines().filter(|line| line.starts_with("| `smg_"));
    rows.map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let [name, kind, labels, help] = cells[..] else {
            panic!("not a row: {row}")
        };
        let quoted = |cell: &str| -> Vec<String> {
            let names = cell.split('`').skip(1).step_by(2);
            names.map(str::to_owned).collect()
        };
        // A twin names the label whose value it has, too.
        let mut labels: Vec<String> = labels
            .split(", ")
            .filter_map(|cell| quoted(cell).into_iter().next())
            .collect();
        labels.sort_unstable();
        let name = quoted(name).remove(0);
        (name, (kind.to_owned(), labels, help.to_owned()))
    })
    .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_catalogue_the_reference_and_the_scrape_agree() {
    let bustle = Bustle::start().await;
    let wanted: BTreeSet<&str> = Metric::ALL
        .iter()
        .map(|metric| metric.name())
        .filter(|name| !ELSEWHERE.contains(name))
        .collect();
    let mut text = String::new();
    let mut missing = wanted.clone();
    let complete = tokio::time::timeout(PATIENCE, async {
        while !missing.is_empty() {
            text = scrape(&bustle.smg).await;
            let found = families(&text);
            missing.retain(|name| !found.contains_key(*name));
        }
    })
    .await;
    assert!(complete.is_ok(), "never seen in a scrape: {missing:?}");

    let text = scrape(&bustle.smg).await;
    let reference = reference();
    assert_eq!(
        reference.keys().map(String::as_str).collect::<Vec<_>>(),
        Metric::ALL
            .iter()
            .map(|metric| metric.name())
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect::<Vec<_>>(),
        "docs/METRICS.md is stale"
    );
    for (name, family) in families(&text) {
        let metric = Metric::ALL.iter().find(|metric| metric.name() == name);
        let metric = metric.unwrap_or_else(|| panic!("`{name}` is in no catalogue"));
        check(&name, &family, *metric);
        let (kind, documented, help) = &reference[&name];
        assert_eq!(
            (&family.kind, &labels(*metric), &family.help),
            (kind, documented, help),
            "{name}"
        );
    }
    // A name means the same to whoever reads the scrape as to the operator who chose it.
    let samples = bustle.smg.metrics().await;
    for name in ODD_NAMES {
        let labels = [("model", name), ("endpoint", "chat")];
        assert!(
            samples.sum("smg_router_requests_total", &labels) > 0.0,
            "{name:?} in\n{text}"
        );
    }
    lint(&text);
}

fn lint(text: &str) {
    let Some(program) = tool("promtool") else {
        return;
    };
    let output = promtool(&program, &["check", "metrics"], Some(text));
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    let findings: Vec<&str> = said
        .lines()
        .filter(|line| !ACCEPTED.contains(line))
        .collect();
    assert!(findings.is_empty(), "{findings:#?}");
    // 3 says that there were findings, 1 that the text could not be read.
    assert_eq!(output.status.code(), Some(3), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn buckets_are_those_that_were_asked_for() {
    let worker = engine(well).await;
    let toml = format!(
        "{LISTENERS}[[pools]]\nname = \"p\"\nworkers = [\"{}\"]\n[[models]]\nname = \"m\"\n",
        worker.url()
    );
    let smg = Smg::start_with(&toml, |command| {
        command.args(["--prometheus-duration-buckets", "0.25", "1.5", "60"]);
    })
    .await;
    ready(&smg).await;
    let body = json!({ "model": "m", "prompt": "hi" });
    assert_eq!(post(smg.main(), "/v1/completions", &body).await.status, 200);
    eventually(PATIENCE, async || {
        families(&scrape(&smg).await).contains_key("smg_router_request_duration_seconds")
    })
    .await;
    let families = families(&scrape(&smg).await);
    let durations = BTreeSet::from(["0.25", "1.5", "60", "+Inf"].map(str::to_owned));
    for (name, family) in &families {
        let metric = Metric::ALL.iter().find(|metric| metric.name() == name);
        if metric.and_then(|metric| metric.buckets())
            == Some(smg::telemetry::metrics::Buckets::Duration)
        {
            assert_eq!(family.bounds, durations, "{name}");
        }
    }
    let overhead = &families["smg_gateway_overhead_seconds"].bounds;
    assert!(
        overhead.contains("0.00001") && overhead.contains("0.25"),
        "{overhead:?}"
    );
}
