//! The families about the breakers of workers, written at each scrape.

use std::time::Instant;

use super::Snapshot;
use super::scrape::{Member, members};
use crate::state::{BreakerState, TURNS, Tally};
use crate::telemetry::metrics::{Families, Metric};

pub(super) fn write(snapshot: &Snapshot, now: Instant, families: &mut Families<'_>) {
    let members = members(snapshot);
    let told: Vec<(&str, &str, BreakerState, Tally)> = members
        .iter()
        .map(|(key, Member { first, .. })| {
            let cell = &first.parts.cell.breaker;
            let state = cell.look(&first.plan.breaker, now);
            (key.as_str(), first.parts.id_str(), state, cell.tally())
        })
        .collect();
    let mut family = families.family(Metric::WorkerCbState);
    for (worker, id, state, _) in &told {
        let number = match state {
            BreakerState::Closed => 0.0,
            BreakerState::Open => 1.0,
            BreakerState::HalfOpen => 2.0,
        };
        family.sample(&[("worker", worker), ("worker_id", id)], number);
    }
    let mut family = families.family(Metric::WorkerCbTransitions);
    for (worker, id, _, tally) in &told {
        for (turn, times) in TURNS.iter().zip(tally.turns) {
            let (from, to) = (turn.from.as_str(), turn.to.as_str());
            let labels = [
                ("worker", *worker),
                ("worker_id", id),
                ("from", from),
                ("to", to),
                ("from_state", from),
                ("to_state", to),
            ];
            family.sample(&labels, times as f64);
        }
    }
    let mut family = families.family(Metric::WorkerCbOutcomes);
    for (worker, id, _, tally) in &told {
        for (outcome, times) in [
            ("success", tally.successes),
            ("failure", tally.failures),
            ("neutral", tally.neutral),
        ] {
            let labels = [("worker", *worker), ("worker_id", id), ("outcome", outcome)];
            family.sample(&labels, times as f64);
        }
    }
    let mut family = families.family(Metric::WorkerCbConsecutiveFailures);
    for (worker, id, _, tally) in &told {
        let labels = [("worker", *worker), ("worker_id", *id)];
        family.sample(&labels, tally.failures_in_a_row as f64);
    }
    let mut family = families.family(Metric::WorkerCbConsecutiveSuccesses);
    for (worker, id, _, tally) in &told {
        let labels = [("worker", *worker), ("worker_id", *id)];
        family.sample(&labels, tally.successes_in_a_row as f64);
    }
}
