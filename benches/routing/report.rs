//! What is printed and written: tables, the verdict, JSON.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::sim::contender::{DEFAULT, REFERENCE};
use crate::sim::figures::{Figures, quantile};
use crate::work::{Outcome, Row};

/// Traces on which the default policy has to be better than the reference; on the others it must
/// not be worse by more than [`TOLERANCE`].
const BETTER: [&str; 5] = [
    "multi-turn",
    "agent",
    "32k-in",
    "slow-worker",
    "cold-replica",
];
const TOLERANCE: f64 = 0.02;
/// Of the oracle's hits, and requests at the busiest worker over the mean, on `multi-turn`.
const HITS: f64 = 0.99;
const SPREAD: f64 = 1.05;

/// The table of a trace, in Markdown; with the figures of each seed if `each` is set.
pub(crate) fn table(outcome: &Outcome, each: bool) -> String {
    let mut out = format!(
        "### {}\n\n{} requests: {}. Deadline of the first token: {} s.\n\n",
        outcome.name, outcome.requests, outcome.about, outcome.deadline
    );
    out += "| policy               | hit % | of oracle % | TTFT p50 ms | TTFT p99 ms | max/mean | \
            good % | good/s | busy % | pick µs |\n";
    out += "|----------------------|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n";
    for row in &outcome.rows {
        line(row.contender.name, &row.median, &mut out);
        if each {
            for figures in &row.each {
                line("", figures, &mut out);
            }
        }
    }
    let oracle = outcome.oracle * 100.0;
    let _infallible = writeln!(
        out,
        "| {:<20} | {oracle:5.1} | {:11.2} | | | | | | | |",
        "oracle", 100.0
    );
    out
}

fn line(name: &str, figures: &Figures, out: &mut String) {
    let _infallible = writeln!(
        out,
        "| {name:<20} | {:5.1} | {:11.2} | {:11.0} | {:11.0} | {:8.3} | {:6.1} | {:6.1} | {:6.1} | {:7.1} |",
        figures.hit * 100.0,
        figures.of_oracle * 100.0,
        figures.ttft_p50 * 1e3,
        figures.ttft_p99 * 1e3,
        figures.spread,
        figures.good * 100.0,
        figures.goodput,
        figures.busy * 100.0,
        figures.pick_micros,
    );
}

/// A target, and whether it is met.
pub(crate) struct Target {
    text: String,
    met: bool,
}

/// What is asked of the default policy, as far as it and the reference have run.
pub(crate) fn verdict(outcomes: &[Outcome]) -> Vec<Target> {
    outcomes.iter().flat_map(judge).collect()
}

fn judge(outcome: &Outcome) -> Vec<Target> {
    let mut targets = Vec::new();
    let find = |name: &str| outcome.rows.iter().find(|row| row.contender.name == name);
    let Some(ours) = find(DEFAULT) else {
        return targets;
    };
    if outcome.name == "multi-turn" {
        let Figures {
            of_oracle, spread, ..
        } = ours.median;
        targets.push(Target {
            text: format!(
                "multi-turn: {:.2} % of the oracle's hits (at least 99), at max/mean {spread:.3} \
                 (at most {SPREAD})",
                of_oracle * 100.0
            ),
            met: of_oracle >= HITS && spread <= SPREAD,
        });
    }
    let Some(theirs) = find(REFERENCE) else {
        return targets;
    };
    let slower = paired(ours, theirs, |f| f.ttft_p99);
    let good = paired(ours, theirs, |f| f.good);
    let better = BETTER.contains(&outcome.name);
    let all_good = ours.median.good >= 1.0;
    targets.push(Target {
        text: format!(
            "{}: p99 {:.0} ms against {:.0} ({:+.1} %), good {:.1} % against {:.1} ({:+.1} %); {}",
            outcome.name,
            ours.median.ttft_p99 * 1e3,
            theirs.median.ttft_p99 * 1e3,
            (slower - 1.0) * 100.0,
            ours.median.good * 100.0,
            theirs.median.good * 100.0,
            (good - 1.0) * 100.0,
            if better {
                "both better"
            } else {
                "neither worse by more than 2 %"
            }
        ),
        met: if better {
            slower < 1.0 && (good > 1.0 || all_good)
        } else {
            slower <= 1.0 + TOLERANCE && good >= 1.0 - TOLERANCE
        },
    });
    targets
}

/// The median over seeds of our figure over theirs.
fn paired(ours: &Row, theirs: &Row, figure: fn(&Figures) -> f64) -> f64 {
    let pairs = ours.each.iter().zip(&theirs.each);
    let mut ratios: Vec<f64> = pairs
        .map(|(ours, theirs)| figure(ours) / figure(theirs).max(f64::MIN_POSITIVE))
        .collect();
    ratios.sort_unstable_by(f64::total_cmp);
    quantile(&ratios, 0.5)
}

impl Target {
    /// As a line of a list.
    pub(crate) fn line(&self) -> String {
        format!(
            "- **{}** {}\n",
            if self.met { "met" } else { "missed" },
            self.text
        )
    }

    fn json(&self) -> Value {
        json!({ "target": self.text, "met": self.met })
    }
}

/// Everything, for machines. Times are seconds, shares are of 1.
pub(crate) fn json(outcomes: &[Outcome], verdict: &[Target], live: &Value) -> Value {
    let traces: Vec<Value> = outcomes
        .iter()
        .map(|outcome| {
            let rows: Vec<Value> = outcome
                .rows
                .iter()
                .map(|row| json!({ "policy": row.contender.name, "median": row.median, "seeds": row.each }))
                .collect();
            json!({
                "trace": outcome.name,
                "about": outcome.about,
                "deadline": outcome.deadline,
                "requests": outcome.requests,
                "oracle_hit": outcome.oracle,
                "policies": rows,
            })
        })
        .collect();
    let verdict: Vec<Value> = verdict.iter().map(Target::json).collect();
    json!({ "simulated": traces, "verdict": verdict, "live": live })
}
