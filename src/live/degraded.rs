//! Policies that run without what they want to look at.

use std::collections::BTreeMap;
use std::time::Instant;

use super::Snapshot;
use crate::plan::{Leg, Route};
use crate::policy;

/// Whether a policy that looks at the load of engines hears of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signal<'a> {
    /// Label of the model.
    pub model: &'a str,
    /// Name of the policy.
    pub policy: &'static str,
    /// Usable workers that have been asked.
    pub asked: usize,
    /// Those of them that do not tell what the policy looks at.
    pub mute: usize,
}

impl Signal<'_> {
    /// Whether the policy decides on less than it wants.
    pub fn is_degraded(&self) -> bool {
        self.mute > 0
    }

    /// What is missing, in words.
    pub fn reason(&self) -> String {
        if self.mute == self.asked {
            "no worker reports its load".to_owned()
        } else {
            format!(
                "{} of {} workers do not report their load",
                self.mute, self.asked
            )
        }
    }
}

/// The state of every policy that wants to know the load of engines, by model and policy; legs of a pair
/// with the same policy together. A worker that has not been asked yet counts nowhere.
pub fn signals(snapshot: &Snapshot, now: Instant) -> Vec<Signal<'_>> {
    let mut signals: BTreeMap<(&str, &'static str), (usize, usize)> = BTreeMap::new();
    for route in &snapshot.plan.routes.all {
        for leg in route.legs.iter().filter(|leg| wants(snapshot, route, leg)) {
            let (asked, mute) = heard(snapshot, leg, now);
            let signal = signals
                .entry((&*route.label, leg.policy.as_str()))
                .or_default();
            signal.0 += asked;
            signal.1 += mute;
        }
    }
    signals
        .into_iter()
        .map(|((model, policy), (asked, mute))| Signal {
            model,
            policy,
            asked,
            mute,
        })
        .collect()
}

/// Whether anything about `leg` depends on the load of engines.
pub(super) fn wants(snapshot: &Snapshot, route: &Route, leg: &Leg) -> bool {
    policy::wants_engine_load(&leg.policy) || snapshot.plan.pool(route.pool).dp_minimum_tokens
}

/// Usable candidates that have been asked, and those that told too little.
fn heard(snapshot: &Snapshot, leg: &Leg, now: Instant) -> (usize, usize) {
    let age = snapshot.plan.load_monitor.age();
    let mut asked = 0;
    let mut mute = 0;
    for worker in leg.candidates.iter().filter_map(|ix| snapshot.worker(*ix)) {
        let report = &worker.parts.cell.report;
        if !snapshot.is_usable(worker) || !report.is_asked() {
            continue;
        }
        asked += 1;
        let least_tokens = snapshot.plan.pool(worker.plan.pool).dp_minimum_tokens;
        let told = report.fresh(now, age).is_some_and(|engine| {
            policy::is_enough(&leg.policy, &engine)
                && (!least_tokens || engine.used_tokens.is_some())
        });
        if !told {
            mute += 1;
        }
    }
    (asked, mute)
}
