//! A Prometheus of the test's own: a free port of loopback, a folder that goes with it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::Value;
use smg::telemetry::metrics::Metric;
use tempfile::TempDir;

use crate::support::process::run;
use crate::support::{Process, get};

/// How long every range of a query is here, instead of minutes.
const RANGE: &str = "8s";

/// A running Prometheus that scrapes every half second.
pub(crate) struct Prometheus {
    address: SocketAddr,
    _process: Process,
    _folder: TempDir,
}

/// What is scraped under one job name.
pub(crate) struct Job {
    pub(crate) name: &'static str,
    pub(crate) targets: Vec<SocketAddr>,
}

/// An alert that Prometheus knows of now.
#[derive(Debug)]
pub(crate) struct Alert {
    pub(crate) firing: bool,
    pub(crate) labels: Value,
}

impl Prometheus {
    /// Starts one with these alert rules, and waits until it answers.
    pub(crate) async fn start(program: &Path, jobs: &[Job], rules: Option<&str>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = "global:\n  scrape_interval: 500ms\n  scrape_timeout: 500ms\n  \
             evaluation_interval: 500ms\n"
            .to_owned();
        if let Some(rules) = rules {
            std::fs::write(folder.path().join("rules.yml"), rules).unwrap();
            config.push_str("rule_files: [rules.yml]\n");
        }
        config.push_str("scrape_configs:\n");
        for job in jobs {
            let targets: Vec<String> = job.targets.iter().map(SocketAddr::to_string).collect();
            config.push_str(&format!(
                "  - job_name: {}\n    static_configs: [{{ targets: {targets:?} }}]\n",
                job.name
            ));
        }
        let file = folder.path().join("prometheus.yml");
        std::fs::write(&file, config).unwrap();
        let mut command = Command::new(program);
        command
            .arg(format!("--config.file={}", file.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.path().join("data").display()
            ))
            .args(["--web.listen-address=127.0.0.1:0", "--log.level=info"])
            .current_dir(folder.path());
        let mut process = Process::spawn("Prometheus", &mut command);
        let patience = Duration::from_secs(30);
        let address = process
            .line(patience, |line| {
                let is_it = line.contains("\"Listening on\"");
                let (_, address) = line.split_once("address=")?;
                is_it.then(|| address.trim().parse().unwrap())
            })
            .await;
        process
            .line(patience, |line| {
                line.contains("ready to receive web requests").then_some(())
            })
            .await;
        Self {
            address,
            _process: process,
            _folder: folder,
        }
    }

    /// The values that this query has now, `NaN` left out. Panics on what is no query.
    pub(crate) async fn query(&self, query: &str) -> Vec<f64> {
        let answer = self
            .ask(&format!("/api/v1/query?query={}", encoded(query)))
            .await;
        assert_eq!(answer["status"], "success", "{query}: {answer}");
        let result = answer["data"]["result"].as_array().unwrap();
        let values = result.iter().map(|series| {
            let value = series["value"][1].as_str().unwrap();
            value.replace("Inf", "inf").parse::<f64>().unwrap()
        });
        values.filter(|value| !value.is_nan()).collect()
    }

    /// The alerts that are pending or firing.
    pub(crate) async fn alerts(&self, name: &str) -> Vec<Alert> {
        let answer = self.ask("/api/v1/alerts").await;
        let alerts = answer["data"]["alerts"].as_array().unwrap();
        let named = alerts
            .iter()
            .filter(|alert| alert["labels"]["alertname"] == name);
        named
            .map(|alert| Alert {
                firing: alert["state"] == "firing",
                labels: alert["labels"].clone(),
            })
            .collect()
    }

    /// The names of the alert rules that it has loaded.
    pub(crate) async fn rules(&self) -> Vec<String> {
        let answer = self.ask("/api/v1/rules?type=alert").await;
        let groups = answer["data"]["groups"].as_array().unwrap();
        let rules = groups
            .iter()
            .flat_map(|group| group["rules"].as_array().unwrap());
        rules
            .map(|rule| rule["name"].as_str().unwrap().to_owned())
            .collect()
    }

    async fn ask(&self, path: &str) -> Value {
        get(self.address, path).await.json()
    }
}

fn encoded(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

/// The same query or rule file with ranges and waits of seconds instead of minutes and hours. What
/// it compares with stays.
pub(crate) fn hurried(text: &str) -> String {
    let mut out = String::new();
    for line in text.lines() {
        if let Some((indent, _)) = line.split_once("for: ")
            && indent.trim().is_empty()
        {
            out.push_str(indent);
            out.push_str("for: 1s");
        } else {
            let mut rest = line;
            while let Some((before, after)) = rest.split_once('[') {
                out.push_str(before);
                let (range, after) = after.split_once(']').unwrap_or(("", after));
                let is_range = range == "$__rate_interval"
                    || range.strip_suffix(['m', 'h']).is_some_and(is_number);
                let range = if is_range { RANGE } else { range };
                out.push_str(&format!("[{range}]"));
                rest = after;
            }
            out.push_str(rest);
        }
        out.push('\n');
    }
    out.trim_end().to_owned()
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// The families that a query names.
pub(crate) fn families_of(query: &str) -> Vec<&str> {
    let word = |c: char| !c.is_ascii_alphanumeric() && c != '_';
    let words = query.split(word).filter(|word| word.starts_with("smg_"));
    words
        .map(|name| {
            let known = |name: &str| Metric::ALL.iter().any(|metric| metric.name() == name);
            let base = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|suffix| name.strip_suffix(suffix).filter(|base| known(base)));
            base.unwrap_or(name)
        })
        .collect()
}

/// `prometheus` or `promtool`. Without it the test may skip itself (the reason is printed), but not
/// in CI: there a skip is a failure.
pub(crate) fn tool(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|file| file.exists());
    if found.is_none() {
        let reason = format!("no `{name}`; `make setup` installs it");
        let is_set =
            |name| std::env::var(name).is_ok_and(|value| !matches!(&*value, "" | "0" | "false"));
        assert!(!is_set("CI") && !is_set("SMG_REQUIRE_ALL"), "{reason}");
        eprintln!("skipped: {reason}");
    }
    found
}

/// Runs promtool to its end, with this text in a file as its input where there is one.
pub(crate) fn promtool(program: &Path, args: &[&str], input: Option<&str>) -> Output {
    let mut command = Command::new("sh");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("input");
    std::fs::write(&file, input.unwrap_or_default()).unwrap();
    command
        .args(["-c", "input=$1; shift; exec \"$@\" <\"$input\"", "sh"])
        .arg(&file)
        .arg(program)
        .args(args);
    // The process gives its children no standard input, so the shell opens one.
    run(&mut command, Duration::from_secs(60))
}

#[test]
fn ranges_become_short_and_nothing_else() {
    let rules = "  - expr: sum(rate(a{b=\"[5m]x\"}[5m])) > 600\n    for: 10m\n    c: [d, e]\n";
    let hurried_rules = hurried(rules);
    assert!(hurried_rules.contains("[8s])) > 600\n    for: 1s\n    c: [d, e]"));
    assert_eq!(hurried("rate(a[$__rate_interval])"), "rate(a[8s])");
    assert_eq!(
        families_of("rate(smg_http_request_duration_seconds_bucket[1m]) + smg_other_sum"),
        ["smg_http_request_duration_seconds", "smg_other_sum"]
    );
}
