//! What a run comes to.

use serde::Serialize;

use super::fleet::Run;
use super::trace::Trace;

/// The figures of one run, or the medians of several.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct Figures {
    /// Share of the prompt tokens that were found in a cache.
    pub(crate) hit: f64,
    /// The same as a share of what one infinite cache would hold.
    pub(crate) of_oracle: f64,
    /// Seconds to the first token, median.
    pub(crate) ttft_p50: f64,
    /// Seconds to the first token, 99th percentile.
    pub(crate) ttft_p99: f64,
    /// Requests of the worker with the most over its fair share; where all are there all the time,
    /// over the mean.
    pub(crate) spread: f64,
    /// Share of the requests whose first token came within the deadline.
    pub(crate) good: f64,
    /// Such requests per second.
    pub(crate) goodput: f64,
    /// Share of the workers' time that went into prompts and answers, while sessions began.
    pub(crate) busy: f64,
    /// Microseconds that one choice took, on the real clock.
    pub(crate) pick_micros: f64,
}

impl Figures {
    /// The figures of `run`.
    pub(crate) fn of(trace: &Trace, run: &Run) -> Self {
        let outcomes = &run.outcomes;
        let count = outcomes.len().max(1) as f64;
        let cached: u64 = outcomes.iter().map(|o| u64::from(o.cached)).sum();
        let mut waits: Vec<f64> = outcomes.iter().map(|o| o.first - o.sent).collect();
        waits.sort_unstable_by(f64::total_cmp);
        let good = waits.partition_point(|wait| *wait <= trace.deadline) as f64;
        let end = outcomes.iter().map(|o| o.last).fold(0.0, f64::max);
        Self {
            hit: cached as f64 / trace.prompt_tokens.max(1) as f64,
            of_oracle: if trace.oracle_tokens == 0 {
                1.0
            } else {
                cached as f64 / trace.oracle_tokens as f64
            },
            ttft_p50: quantile(&waits, 0.5),
            ttft_p99: quantile(&waits, 0.99),
            spread: spread(run),
            good: good / count,
            goodput: good / end.max(f64::MIN_POSITIVE),
            busy: run.busy,
            pick_micros: run.pick_micros,
        }
    }

    /// The median of each figure.
    pub(crate) fn median(runs: &[Self]) -> Self {
        let median = |figure: fn(&Self) -> f64| {
            let mut values: Vec<f64> = runs.iter().map(figure).collect();
            values.sort_unstable_by(f64::total_cmp);
            quantile(&values, 0.5)
        };
        Self {
            hit: median(|f| f.hit),
            of_oracle: median(|f| f.of_oracle),
            ttft_p50: median(|f| f.ttft_p50),
            ttft_p99: median(|f| f.ttft_p99),
            spread: median(|f| f.spread),
            good: median(|f| f.good),
            goodput: median(|f| f.goodput),
            busy: median(|f| f.busy),
            pick_micros: median(|f| f.pick_micros),
        }
    }
}

/// The most that a worker got, as a multiple of its fair share: of each request sent while it was
/// there, one part for each worker that was. Workers that were hardly there say too little.
fn spread(run: &Run) -> f64 {
    const LEAST: f64 = 50.0;
    let mut got = vec![0.0; run.presence.len()];
    let mut fair = vec![0.0; run.presence.len()];
    for outcome in &run.outcomes {
        got[outcome.worker] += 1.0;
        let here = |at: &usize| {
            run.presence[*at].is_some_and(|(from, until)| (from..until).contains(&outcome.sent))
        };
        let here: Vec<usize> = (0..run.presence.len()).filter(here).collect();
        for at in &here {
            fair[*at] += 1.0 / here.len() as f64;
        }
    }
    let shares = got.iter().zip(&fair).filter(|(_, fair)| **fair >= LEAST);
    shares.map(|(got, fair)| got / fair).fold(0.0, f64::max)
}

/// The value at `share` of sorted `values`: the smallest that at least so many are not above.
pub(crate) fn quantile(values: &[f64], share: f64) -> f64 {
    let rank = (share * values.len() as f64).ceil() as usize;
    values.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
}
