//! The run: storm, calm, storm, calm, until the time is over.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use fastrand::Rng;

use crate::calm::{Footprint, at_rest, settle};
use crate::storm::{Report, STORMS, Storm};
use crate::support::metrics::Samples;
use crate::town::Town;

/// Without `SMG_SOAK`: every storm once, then some again while there is time, three at least.
const STORM: Duration = Duration::from_secs(2);
const SHORT: Duration = Duration::from_secs(90);
const AGAIN: usize = 3;

/// With it.
const LONG_STORM: Duration = Duration::from_secs(10);

struct Plan {
    seed: u64,
    length: Duration,
    /// Ends with the storm in which this is over.
    until: Duration,
    storms: Vec<Storm>,
}

impl Plan {
    fn read() -> Self {
        let given = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let until = given("SMG_SOAK").map(|text| duration(&text));
        let only = given("SMG_CHAOS_ONLY");
        let wanted = |storm: &&Storm| {
            let mut names = only.as_deref().into_iter().flat_map(|only| only.split(','));
            only.is_none() || names.any(|name| storm.name.contains(name.trim()))
        };
        Self {
            seed: given("SMG_CHAOS_SEED")
                .map_or_else(|| fastrand::u64(..), |seed| seed.parse().unwrap()),
            length: if until.is_some() { LONG_STORM } else { STORM },
            until: until.unwrap_or(SHORT),
            storms: STORMS.iter().filter(wanted).copied().collect(),
        }
    }
}

/// `90s`, `30m`, `8h`.
fn duration(text: &str) -> Duration {
    let units = [("s", 1), ("m", 60), ("h", 3600)];
    let given = units
        .iter()
        .find_map(|(unit, seconds)| Some((text.strip_suffix(unit)?, seconds)));
    let (number, seconds) =
        given.unwrap_or_else(|| panic!("SMG_SOAK={text}: the units are s, m and h"));
    Duration::from_secs(number.parse::<u64>().unwrap() * seconds)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_happens_every_request_ends_and_nothing_is_left() {
    let plan = Plan::read();
    println!("SMG_CHAOS_SEED={}", plan.seed);
    let mut rng = Rng::with_seed(plan.seed);
    let started = Instant::now();
    let mut town = Town::start().await;
    let mut first: Option<Footprint> = None;
    let mut total = Totals {
        started,
        storms: BTreeMap::new(),
        order: Vec::new(),
        faults_before: BTreeMap::new(),
    };
    let mut cycle = 0;
    let mut broken = Vec::new();
    let mut enough = false;
    while !enough {
        cycle += 1;
        let mut storms = plan.storms.clone();
        if cycle > 1 {
            rng.shuffle(&mut storms);
        }
        for (n, storm) in storms.into_iter().enumerate() {
            enough = cycle > 1 && n >= AGAIN && started.elapsed() > plan.until;
            if enough {
                break;
            }
            let before = town.smg.metrics().await;
            let report = storm.rage(&mut town, plan.length, &mut rng).await;
            let wrong = report.wrong.len();
            let example = report.wrong.iter().take(3).cloned().collect::<Vec<_>>();
            let asked = report.requests;
            // The way back is a way for requests as well.
            let quiet = Instant::now();
            town.smg.apply(&town.toml(0)).await;
            let settled = settle(&mut town).await;
            let after = town.smg.metrics().await;
            total.add(storm, &report, &before, &after, quiet.elapsed(), &town);
            town.ledger.turn_page();
            if wrong > 0 {
                let name = storm.name;
                broken.push(format!(
                    "{name}: {wrong} of {asked} requests broke a rule\n{}",
                    example.join("\n")
                ));
            }
            if let Err(left) = settled {
                broken.push(format!("after {}: {left}", storm.name));
            }
        }
        // A cycle is gone through to its end: several faults are told together.
        assert!(
            broken.is_empty(),
            "SMG_CHAOS_SEED={}\n{}",
            plan.seed,
            broken.join("\n")
        );
        if cycle == 1 {
            first = Some(at_rest(&mut town).await);
        }
        enough = enough || (cycle > 1 && started.elapsed() > plan.until);
    }
    let (first, last) = (first.unwrap(), at_rest(&mut town).await);
    println!("{}", total.table(&town));
    println!(
        "{:.0?}, {cycle} cycles; from the end of the first to the end of the last: \
         descriptors {} to {}, memory {} to {} KiB, tasks {} to {}, series {} to {}",
        started.elapsed(),
        first.descriptors,
        last.descriptors,
        first.rss_kb,
        last.rss_kb,
        first.tasks,
        last.tasks,
        first.series.values().sum::<usize>(),
        last.series.values().sum::<usize>(),
    );
    assert_eq!(first.growth(&last), [""; 0], "seed {}", plan.seed);
    let status = town.smg.term_and_wait().await;
    assert!(status.success(), "it ended with {status}");
}

/// What all storms come to, by name.
struct Totals {
    started: Instant,
    storms: BTreeMap<&'static str, Line>,
    order: Vec<&'static str>,
    faults_before: BTreeMap<&'static str, u64>,
}

#[derive(Default)]
struct Line {
    requests: usize,
    whole: usize,
    refused: usize,
    cut_short: usize,
    faults: u64,
    retries: f64,
    slowest: Duration,
    slowest_calm: Duration,
}

impl Totals {
    fn add(
        &mut self,
        storm: Storm,
        report: &Report,
        before: &Samples,
        after: &Samples,
        quiet: Duration,
        town: &Town,
    ) {
        let retries = after.growth(before, "smg_worker_retries_total").abs();
        let faults_now = town.ledger.faults();
        let faults = faults_now.values().sum::<u64>() - self.faults_before.values().sum::<u64>();
        self.faults_before = faults_now;
        println!(
            "{:>4.0?} {:>15}: {:5} requests, {:5} whole, {:4} refused, {:4} cut short; {faults:5} faults, \
             {retries:4} retries; slowest {:.2?}, of the healthy pool {:.0?}; quiet after {quiet:.1?}",
            self.started.elapsed(),
            storm.name,
            report.requests,
            report.whole,
            report.refused,
            report.cut_short,
            report.slowest,
            report.slowest_calm,
        );
        if !self.order.contains(&storm.name) {
            self.order.push(storm.name);
        }
        let line = self.storms.entry(storm.name).or_default();
        line.requests += report.requests;
        line.whole += report.whole;
        line.refused += report.refused;
        line.cut_short += report.cut_short;
        line.faults += faults;
        line.retries += retries;
        line.slowest = line.slowest.max(report.slowest);
        line.slowest_calm = line.slowest_calm.max(report.slowest_calm);
    }

    /// A table for people.
    fn table(&self, town: &Town) -> String {
        let mut lines = vec![
            "| storm | requests | whole | refused | cut short, with its frame | faults | retries | \
             slowest | slowest of the healthy pool |"
                .to_owned(),
            "|---|--:|--:|--:|--:|--:|--:|--:|--:|".to_owned(),
        ];
        for name in &self.order {
            let line = &self.storms[name];
            lines.push(format!(
                "| {name} | {} | {} | {} | {} | {} | {} | {:.1?} | {:.0?} |",
                line.requests,
                line.whole,
                line.refused,
                line.cut_short,
                line.faults,
                line.retries,
                line.slowest,
                line.slowest_calm,
            ));
        }
        let faults: Vec<_> = town
            .ledger
            .faults()
            .into_iter()
            .map(|(name, count)| format!("{name} {count}"))
            .collect();
        lines.push(format!("\nfaults survived: {}", faults.join("; ")));
        lines.join("\n")
    }
}
