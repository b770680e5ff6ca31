//! What must be so when it is quiet again: every counter is back where it was, and nothing is left.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::client::{Ask, Client, Version};
use crate::dialect::Api;
use crate::judge::{Rule, Verdict, judge, tell};
use crate::support::metrics::Samples;
use crate::support::{eventually, get};
use crate::town::{PATIENCE, Town};

/// The longest that it may take until nothing is in flight: every deadline is shorter.
const QUIET: Duration = Duration::from_secs(20);

/// The longest that it may take until the gateway has noticed that everybody is well.
const RECOVERY: Duration = Duration::from_secs(15);

type Labels = &'static [(&'static str, &'static str)];

/// Families that are 0 when nothing is under way, with what a scrape itself adds.
const ZERO: &[(&str, Labels, f64)] = &[
    ("smg_worker_requests_active", &[], 0.0),
    ("smg_http_requests_in_flight", &[], 1.0),
    ("smg_http_connections_active", &[("listener", "main")], 0.0),
    (
        "smg_http_connections_active",
        &[("listener", "metrics")],
        1.0,
    ),
    ("smg_admission_queue_depth", &[], 0.0),
    ("smg_memory_budget_bytes", &[("state", "used")], 0.0),
];

/// Lines of level ERROR that belong to the trouble.
const EXPECTED_ERRORS: &[&str] = &[
    "configuration rejected",
    "configuration error",
    "no worker of the pool is ready",
    "worker failed",
    "ERROR smg::response: finished processing request",
];

/// What the gateway holds.
#[derive(Clone, Debug)]
pub(crate) struct Footprint {
    pub(crate) descriptors: usize,
    pub(crate) rss_kb: u64,
    pub(crate) tasks: f64,
    pub(crate) series: BTreeMap<String, usize>,
}

impl Footprint {
    /// What has grown from `self` to `later` beyond what a run may vary.
    pub(crate) fn growth(&self, later: &Self) -> Vec<String> {
        let mut grown = Vec::new();
        if later.descriptors > self.descriptors + 8 {
            grown.push(format!(
                "descriptors: {} to {}",
                self.descriptors, later.descriptors
            ));
        }
        if later.rss_kb > self.rss_kb + self.rss_kb / 2 + 32 * 1024 {
            grown.push(format!("memory: {} KiB to {}", self.rss_kb, later.rss_kb));
        }
        if later.tasks > self.tasks + 8.0 {
            grown.push(format!("tasks: {} to {}", self.tasks, later.tasks));
        }
        // Which statuses and codes come up is a matter of luck; how many there can be is not.
        for (family, count) in &later.series {
            let before = self.series.get(family).copied().unwrap_or_default();
            if *count > 2 * before + 60 {
                grown.push(format!("series of {family}: {before} to {count}"));
            }
        }
        grown
    }
}

/// Waits until nothing is in flight and everybody is served again. An error is what is wrong then.
pub(crate) async fn settle(town: &mut Town) -> Result<(), String> {
    let began = Instant::now();
    let deadline = began + QUIET;
    let mut told = false;
    loop {
        let rest = leftovers(town).await;
        if rest.is_empty() {
            break;
        }
        if began.elapsed() > Duration::from_secs(1) && !told {
            told = true;
            println!("                 a second later: {}", rest.join(", "));
        }
        if Instant::now() > deadline {
            return Err(format!("left behind: {}", rest.join(", ")));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    recover(town).await?;
    surprises(town)?;
    bounded(&town.smg.metrics().await)
}

/// Waits until the connections that are kept for later have been given up as well, and returns what
/// is held then.
pub(crate) async fn at_rest(town: &mut Town) -> Footprint {
    // One for the probes of each worker.
    let workers = (town.calm.len() + town.sick.len() + town.mortal.len()) as f64;
    let smg = &town.smg;
    eventually(QUIET, async || {
        let metrics = smg.metrics().await;
        metrics.sum("smg_worker_connections_active", &[]) <= workers
    })
    .await;
    let metrics = town.smg.metrics().await;
    let families = metrics.families();
    Footprint {
        descriptors: town.smg.process().fd_count(),
        rss_kb: town.smg.process().rss_kb(),
        tasks: metrics.sum("smg_tokio_alive_tasks", &[]),
        series: families
            .into_iter()
            .map(|(family, count)| (family.to_owned(), count))
            .collect(),
    }
}

/// What is not back to where it belongs.
async fn leftovers(town: &Town) -> Vec<String> {
    let metrics = town.smg.metrics().await;
    let mut rest: Vec<_> = ZERO
        .iter()
        .map(|(family, labels, most)| (family, labels, metrics.sum(family, labels), most))
        .filter(|(_, _, sum, most)| sum > most || *sum < 0.0)
        .map(|(family, labels, sum, _)| format!("{family}{labels:?} = {sum}"))
        .collect();
    let alive = metrics.sum("smg_config_snapshots_alive", &[]);
    if alive != 1.0 {
        rest.push(format!("{alive} snapshots"));
    }
    // No connection of the asker's counts: it is over when the next scrape comes.
    let workers = get(town.smg.main(), "/workers").await.json();
    for worker in workers["workers"].as_array().into_iter().flatten() {
        if worker["load"] != 0 {
            rest.push(format!("load {} of {}", worker["load"], worker["url"]));
        }
    }
    rest
}

/// Every model is served again, to the last token.
async fn recover(town: &Town) -> Result<(), String> {
    let deadline = Instant::now() + RECOVERY;
    for model in Town::models() {
        let mut tries = 0;
        loop {
            tries += 1;
            let ask = Ask {
                id: format!("recovery-{model}-{tries}"),
                api: Api::Completions,
                model: model.to_owned(),
                tokens: 3,
                stream: true,
            };
            let rule = if model == "mortal" {
                Rule::Mortal
            } else {
                Rule::Sick
            };
            let mut client = Client::new(town.smg.main(), Version::Http1, PATIENCE);
            let told = client.ask(ask, rule).await;
            let attempts = town.ledger.attempts(&told.ask.id);
            match judge(&told, &attempts) {
                Ok(Verdict::Whole) => break,
                Ok(_) if Instant::now() < deadline => {
                    if tries == 10 {
                        println!("                 {model}: {} {}", told.status, told.body);
                    }
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Ok(_) => return Err(tell(&told, &attempts, "not served although all are well")),
                Err(wrong) => return Err(tell(&told, &attempts, &wrong)),
            }
        }
    }
    Ok(())
}

/// What the log should not say.
fn surprises(town: &mut Town) -> Result<(), String> {
    let output = town.smg.process().output();
    let bad = output.iter().find(|line| {
        let expected = EXPECTED_ERRORS.iter().any(|known| line.contains(known));
        line.contains("panicked") || (line.contains(" ERROR ") && !expected)
    });
    bad.map_or(Ok(()), |line| Err(format!("in the log: {line}")))
}

/// More series than any family can have by its closed label sets, in this town.
fn bounded(metrics: &Samples) -> Result<(), String> {
    for (family, count) in metrics.families() {
        if count > 2000 {
            return Err(format!("{family} has {count} series"));
        }
    }
    Ok(())
}
