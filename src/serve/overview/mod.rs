//! What the gateway shows of itself, put together from the snapshot, its cells and the last minutes.
//! `GET /admin/overview` and the console are two views of it.

mod model;
mod worker;

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::api::Endpoint;
use crate::api::overview::{
    Config, Failure, Now, Outcome, Overview, Point, Pool, Quantiles, Rejected, Span,
};
use crate::base::clock;
use crate::config::diag;
use crate::live::{Judged, Live, Snapshot, Standing};
use crate::serve::gate::Gate;
use crate::telemetry::metrics::{self, Metric};
use crate::telemetry::outcome;
use crate::telemetry::{failures, process, pulse};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Takes the sample of the last minutes that is due every second.
pub fn sample(live: &Live) {
    let (in_flight, _) = live.load().under_way();
    pulse::sample(clock::now(), in_flight as u64, |path| {
        Endpoint::ALL.iter().any(|endpoint| endpoint.path() == path)
    });
}

/// The gateway as `snapshot` sees it now.
pub(crate) fn look(gate: &Gate, snapshot: &Snapshot) -> Overview {
    let now = clock::now();
    let reading = pulse::read();
    Overview {
        time: millis(clock::unix()),
        version: VERSION.to_owned(),
        started: millis(process::start()),
        phase: gate.live.phase().as_str().to_owned(),
        config: config(gate.admin.standing(), gate.live.load().id),
        now: under_way(snapshot),
        spans: reading.spans.iter().map(span).collect(),
        points: reading.points.iter().map(point).collect(),
        pools: pools(snapshot, now),
        models: model::all(snapshot, now),
        failures: failures::recent().into_iter().map(failure).collect(),
    }
}

fn config(standing: Standing, snapshot: u64) -> Config {
    let Standing {
        file,
        live,
        rejected,
    } = standing;
    Config {
        file,
        generation: live.generation,
        sha256: live.sha256.to_string(),
        applied: moment(live.time),
        trigger: live.trigger.to_owned(),
        snapshot,
        synchronized: rejected.is_none(),
        rejected: rejected.as_ref().map(refused),
    }
}

fn refused(rejected: &Judged) -> Rejected {
    let shown = |diagnostic| {
        let text = diag::render(std::slice::from_ref(diagnostic), diag::Format::Human);
        text.trim_end().to_owned()
    };
    Rejected {
        sha256: rejected.sha256.to_string(),
        time: moment(rejected.time),
        trigger: rejected.trigger.to_owned(),
        diagnostics: rejected.diagnostics.iter().map(shown).collect(),
    }
}

fn under_way(snapshot: &Snapshot) -> Now {
    let (in_flight, waiting) = snapshot.under_way();
    let mut connections = 0.0;
    metrics::each(Metric::HttpConnectionsActive, |_, open| connections += open);
    let limit = snapshot.memory.limit();
    Now {
        in_flight: in_flight as u64,
        waiting: waiting as u64,
        connections: whole(connections),
        body_bytes: snapshot.memory.used(),
        body_budget: if limit == u64::MAX { 0 } else { limit },
    }
}

/// In the order in which the plan has them, which is that of the file.
fn pools(snapshot: &Snapshot, now: std::time::Instant) -> Vec<Pool> {
    let mut workers: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for one in snapshot.workers() {
        let shown = worker::show(snapshot, one, now);
        workers.entry(one.plan.pool).or_default().push(shown);
    }
    let pools = (0..).zip(&snapshot.plan.pools);
    pools
        .map(|(ix, pool)| Pool {
            name: pool.name.to_string(),
            drain: pool.draining,
            workers: workers.remove(&crate::plan::PoolIx(ix)).unwrap_or_default(),
        })
        .collect()
}

fn span(of: &pulse::Span) -> Span {
    let seconds = of.covered.as_secs_f64();
    let outcomes = outcome::Outcome::ALL.iter().zip(&of.ended);
    Span {
        seconds: of.length.as_secs_f64(),
        covered: seconds,
        requests: of.ended.iter().sum(),
        outcomes: outcomes
            .map(|(outcome, requests)| Outcome {
                outcome: outcome.as_str().to_owned(),
                requests: *requests,
            })
            .collect(),
        request_rate: rate(of.ended.iter().sum(), seconds),
        input_token_rate: rate(of.input_tokens, seconds),
        output_token_rate: rate(of.output_tokens, seconds),
        duration: of.duration.map(quantiles),
        first_token: of.first_token.map(quantiles),
    }
}

fn point(of: &pulse::Point) -> Point {
    let seconds = of.length.as_secs_f64();
    let failed = of.ended.last().copied().unwrap_or_default();
    Point {
        time: millis(of.at),
        request_rate: rate(of.ended.iter().sum(), seconds),
        failure_rate: rate(failed, seconds),
        output_token_rate: rate(of.output_tokens, seconds),
        in_flight: of.in_flight,
    }
}

fn quantiles([p50, p95, p99]: [f64; 3]) -> Quantiles {
    Quantiles { p50, p95, p99 }
}

fn failure(of: failures::Failure) -> Failure {
    Failure {
        time: millis(of.at),
        request_id: of.request_id.into(),
        path: of.template.to_owned(),
        model: of.model.into(),
        pool: of.pool.into(),
        worker: of.worker.into(),
        status: of.status,
        outcome: of.outcome.as_str().to_owned(),
        code: of.code.into(),
        attempts: of.attempts,
        seconds: of.latency.as_secs_f64(),
    }
}

fn rate(count: u64, seconds: f64) -> f64 {
    if seconds > 0.0 {
        count as f64 / seconds
    } else {
        0.0
    }
}

fn moment(time: SystemTime) -> u64 {
    millis(time.duration_since(UNIX_EPOCH).unwrap_or_default())
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a number of connections, never below zero for longer than a moment"
)]
fn whole(value: f64) -> u64 {
    value.max(0.0) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::overview::OUTCOMES;

    #[test]
    fn outcomes_have_the_words_of_the_api() {
        let words = outcome::Outcome::ALL.map(outcome::Outcome::as_str);
        assert_eq!(words, OUTCOMES);
    }

    #[test]
    fn nothing_happens_in_no_time() {
        assert_eq!(rate(5, 0.0), 0.0);
        assert_eq!(rate(5, 10.0), 0.5);
    }
}
