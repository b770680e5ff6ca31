//! What the page says, in words and figures. The templates only put it in place.

mod work;

use std::collections::BTreeMap;

use serde::Serialize;
use time::OffsetDateTime;
use time::macros::format_description;

use self::work::{model, place, pool};
use super::chart::{self, Curve, Part};
use super::number;
use crate::api::overview::{self, Overview};

/// A pool with more workers than this is folded up.
const MANY: usize = 24;

/// Workers in trouble that are named at the top.
const NAMED: usize = 6;

/// Points of a whole curve.
const POINTS: usize = 60;

/// The page.
#[derive(Debug, Serialize)]
pub(super) struct View {
    /// The title of the page.
    pub(super) title: String,
    version: String,
    phase: String,
    running: bool,
    uptime: String,
    clock: Moment,
    headline: String,
    /// `good`, `warn` or `bad`.
    mood: &'static str,
    troubles: Vec<Trouble>,
    more_troubles: usize,
    rejected: Option<Rejected>,
    config: Config,
    vitals: Vec<Vital>,
    spans: Vec<Span>,
    under_way: Vec<(&'static str, String)>,
    pools: Vec<Pool>,
    models: Vec<Model>,
    failures: Vec<Failure>,
}

/// A moment, for machines and for people.
#[derive(Debug, Serialize)]
struct Moment {
    iso: String,
    text: String,
    ago: String,
}

/// A worker that gets no requests.
#[derive(Debug, Serialize)]
struct Trouble {
    pool: String,
    worker: String,
    reason: String,
}

#[derive(Debug, Serialize)]
struct Rejected {
    sha256: String,
    short: String,
    when: Moment,
    trigger: String,
    diagnostics: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Config {
    file: String,
    generation: u64,
    sha256: String,
    short: String,
    applied: Moment,
    trigger: String,
    snapshot: u64,
    synchronized: bool,
}

/// A figure with its curve.
#[derive(Debug, Serialize)]
struct Vital {
    name: &'static str,
    value: String,
    unit: &'static str,
    notes: Vec<String>,
    curve: Curve,
    label: String,
    bad: bool,
}

/// A row of the table of spans.
#[derive(Debug, Serialize)]
struct Span {
    name: String,
    requests: String,
    rate: String,
    bar: Vec<Part>,
    said: String,
    outcomes: Vec<Outcome>,
    input: String,
    output: String,
    duration: Option<[String; 3]>,
    first_token: Option<[String; 3]>,
}

#[derive(Debug, Serialize)]
struct Outcome {
    class: &'static str,
    word: &'static str,
    requests: String,
    some: bool,
}

#[derive(Debug, Serialize)]
struct Pool {
    name: String,
    state: &'static str,
    /// The engine of all its workers, where it is one.
    kind: String,
    summary: String,
    in_flight: String,
    folded: bool,
    draining: bool,
    /// Whether a column would have anything in it.
    has_engine: bool,
    has_cache: bool,
    workers: Vec<Worker>,
}

#[derive(Debug, Serialize)]
struct Worker {
    id: String,
    url: String,
    place: String,
    /// What its mark looks like: `up`, `idle`, `trying` or `down`.
    mark: &'static str,
    word: String,
    reason: String,
    kind: String,
    breaker: String,
    breaker_bad: bool,
    in_flight: String,
    running: String,
    waiting: String,
    usage: Option<(String, String)>,
    cache: String,
    answered: String,
    failed: String,
    failed_any: bool,
    models: String,
}

#[derive(Debug, Serialize)]
struct Model {
    name: String,
    aliases: String,
    mark: &'static str,
    word: &'static str,
    routes: Vec<Route>,
    fallback: String,
    mirror: String,
    degraded: String,
}

#[derive(Debug, Serialize)]
struct Route {
    pool: String,
    share: String,
    model: String,
    policy: String,
    ready: String,
    short: bool,
}

#[derive(Debug, Serialize)]
struct Failure {
    when: Moment,
    class: &'static str,
    word: &'static str,
    status: String,
    code: String,
    path: String,
    model: String,
    place: String,
    attempts: u32,
    took: String,
    request_id: String,
}

/// The page that shows `overview`.
pub(super) fn of(overview: &Overview) -> View {
    let now = overview.time;
    let workers = || overview.pools.iter().flat_map(|pool| &pool.workers);
    let total = workers().count();
    let draining = workers().filter(|worker| is_draining(worker)).count();
    let down = workers().filter(|worker| is_down(worker)).count();
    let running = matches!(&*overview.phase, "running" | "");
    let rejected = overview.config.rejected.as_ref();
    let headline = headline(total, down, draining);
    let unserved = overview.models.iter().any(|model| !model.ready);
    let mood = match () {
        () if total > 0 && down == total => "bad",
        () if total == 0 || down > 0 || rejected.is_some() || unserved || !running => "warn",
        () => "good",
    };
    let mut troubles = troubles(overview);
    let more_troubles = troubles.len().saturating_sub(NAMED);
    troubles.truncate(NAMED);
    let mut title = vec!["smg".to_owned()];
    title.extend(rejected.map(|_| "reload rejected".to_owned()));
    title.extend((!running).then(|| overview.phase.clone()));
    title.push(lower_first(&headline));
    View {
        title: title.join(" · "),
        version: overview.version.clone(),
        phase: overview.phase.clone(),
        running,
        uptime: number::age(now.saturating_sub(overview.started)),
        clock: moment(now, now),
        headline,
        mood,
        troubles,
        more_troubles,
        rejected: rejected.map(|rejected| refused(rejected, now)),
        config: config(&overview.config, now),
        vitals: vitals(overview),
        spans: overview.spans.iter().map(span).collect(),
        under_way: under_way(&overview.now),
        pools: overview.pools.iter().map(pool).collect(),
        models: overview.models.iter().map(model).collect(),
        failures: failures(overview),
    }
}

fn is_draining(worker: &overview::Worker) -> bool {
    !worker.ready && worker.reason == "draining"
}

fn is_down(worker: &overview::Worker) -> bool {
    !worker.ready && !is_draining(worker)
}

/// Whether something went wrong before its first probe.
fn has_failed(worker: &overview::Worker) -> bool {
    worker.reason.starts_with("cannot ")
}

fn headline(total: usize, down: usize, draining: usize) -> String {
    let workers = |n: usize| if n == 1 { "worker" } else { "workers" };
    let drains = match draining {
        0 => String::new(),
        n => format!(", {n} draining"),
    };
    match (total, down) {
        (0, _) => "No workers".to_owned(),
        (n, 0) if draining == 0 && n > 1 => format!("All {n} workers ready"),
        (n, 0) => format!("{} {} ready{drains}", n - draining, workers(n - draining)),
        (n, down) => format!("{down} of {n} {} down{drains}", workers(n)),
    }
}

fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().map(|first| first.to_ascii_lowercase());
    first.into_iter().chain(chars).collect()
}

fn troubles(overview: &Overview) -> Vec<Trouble> {
    let pools = overview.pools.iter();
    pools
        .flat_map(|pool| {
            let down = pool.workers.iter().filter(|worker| is_down(worker));
            down.map(|worker| Trouble {
                pool: pool.name.clone(),
                worker: place(&worker.url).to_owned(),
                reason: worker.reason.clone(),
            })
        })
        .collect()
}

fn refused(rejected: &overview::Rejected, now: u64) -> Rejected {
    Rejected {
        short: short(&rejected.sha256),
        sha256: rejected.sha256.clone(),
        when: moment(rejected.time, now),
        trigger: trigger(&rejected.trigger).to_owned(),
        diagnostics: rejected.diagnostics.clone(),
    }
}

fn config(config: &overview::Config, now: u64) -> Config {
    Config {
        file: config.file.clone(),
        generation: config.generation,
        short: short(&config.sha256),
        sha256: config.sha256.clone(),
        applied: moment(config.applied, now),
        trigger: trigger(&config.trigger).to_owned(),
        snapshot: config.snapshot,
        synchronized: config.synchronized,
    }
}

fn trigger(word: &str) -> &str {
    match word {
        "start" => "at the start",
        "file" => "as the file changed",
        "signal" => "on SIGHUP",
        "admin" => "on request",
        other => other,
    }
}

/// The figures at the top: as of the shortest span, with the curve of the last minutes.
fn vitals(overview: &Overview) -> Vec<Vital> {
    let none = overview::Span::default();
    let [now, minute] = [0, 1].map(|at| overview.spans.get(at).unwrap_or(&none));
    let points = &overview.points;
    let curve = |of: fn(&overview::Point) -> f64| {
        let values: Vec<f64> = points.iter().map(of).collect();
        chart::curve(&values, POINTS)
    };
    let most = |of: fn(&overview::Point) -> f64| points.iter().map(of).fold(0.0, f64::max);
    let peak = |of: fn(&overview::Point) -> f64| format!("peak {}", number::short(most(of)));
    let failed = |span: &overview::Span| requests(span, "server_error");
    let failed_rate = match now.covered {
        covered if covered > 0.0 => failed(now) as f64 / covered,
        _ => 0.0,
    };
    let latency = |of: Option<overview::Quantiles>| match of {
        None => ("–".to_owned(), vec!["none in the last minute".to_owned()]),
        Some(of) => (
            number::latency(of.p50),
            vec![
                format!("p95 {}", number::latency(of.p95)),
                format!("p99 {}", number::latency(of.p99)),
            ],
        ),
    };
    let (duration, duration_note) = latency(minute.duration);
    let (first, first_note) = latency(minute.first_token);
    let vital = |name, value, unit, notes, curve: Curve, label: &str| Vital {
        name,
        value,
        unit,
        notes,
        curve,
        label: format!("{label} in the last five minutes"),
        bad: false,
    };
    vec![
        vital(
            "Requests",
            number::short(now.request_rate),
            "/s",
            vec![peak(|point| point.request_rate)],
            curve(|point| point.request_rate),
            "Requests per second",
        ),
        Vital {
            bad: failed(now) > 0,
            ..vital(
                "Failures",
                number::short(failed_rate),
                "/s",
                vec![format!(
                    "{} in the last minute",
                    number::count(failed(minute))
                )],
                curve(|point| point.failure_rate),
                "Failures per second",
            )
        },
        vital(
            "Output tokens",
            number::short(now.output_token_rate),
            "/s",
            vec![format!("input {} /s", number::short(now.input_token_rate))],
            curve(|point| point.output_token_rate),
            "Output tokens per second",
        ),
        vital(
            "In flight",
            number::count(overview.now.in_flight),
            "",
            vec![match overview.now.waiting {
                0 => "none waiting".to_owned(),
                n => format!("{} waiting to be let in", number::count(n)),
            }],
            curve(|point| point.in_flight as f64),
            "Requests in flight",
        ),
        vital("First token", first, "", first_note, Curve::default(), ""),
        vital(
            "Duration",
            duration,
            "",
            duration_note,
            Curve::default(),
            "",
        ),
    ]
}

fn requests(span: &overview::Span, outcome: &str) -> u64 {
    let mut all = span.outcomes.iter();
    let found = all.find(|one| one.outcome == outcome);
    found.map_or(0, |found| found.requests)
}

/// The class and the word of an outcome.
fn outcome(word: &str) -> (&'static str, &'static str) {
    match word {
        "ok" => ("ok", "answered"),
        "client_error" => ("client", "client error"),
        "limited" => ("limited", "limited"),
        "cancelled" => ("cancelled", "cancelled"),
        _ => ("failed", "failed"),
    }
}

fn span(span: &overview::Span) -> Span {
    let counts: Vec<(&'static str, u64)> = span
        .outcomes
        .iter()
        .map(|one| (outcome(&one.outcome).0, one.requests))
        .collect();
    let outcomes: Vec<Outcome> = span
        .outcomes
        .iter()
        .map(|one| {
            let (class, word) = outcome(&one.outcome);
            Outcome {
                class,
                word,
                requests: number::count(one.requests),
                some: one.requests > 0,
            }
        })
        .collect();
    let said: Vec<String> = outcomes
        .iter()
        .filter(|outcome| outcome.some)
        .map(|outcome| format!("{} {}", outcome.requests, outcome.word))
        .collect();
    let quantiles = |of: Option<overview::Quantiles>| {
        of.map(|of| [of.p50, of.p95, of.p99].map(number::latency))
    };
    Span {
        name: match span.seconds {
            s if s >= 60.0 => format!("{:.0} min", s / 60.0),
            s => format!("{s:.0} s"),
        },
        requests: number::count(span.requests),
        rate: number::short(span.request_rate),
        bar: chart::bar(&counts),
        said: match said.is_empty() {
            true => "no requests".to_owned(),
            false => said.join(", "),
        },
        outcomes,
        input: number::short(span.input_token_rate),
        output: number::short(span.output_token_rate),
        duration: quantiles(span.duration),
        first_token: quantiles(span.first_token),
    }
}

fn under_way(now: &overview::Now) -> Vec<(&'static str, String)> {
    let held = number::bytes(now.body_bytes);
    let bodies = match now.body_budget {
        0 => held,
        budget => format!("{held} of {}", number::bytes(budget)),
    };
    vec![
        ("Connections", number::count(now.connections)),
        ("Waiting", number::count(now.waiting)),
        ("Bodies in memory", bodies),
    ]
}

fn failures(overview: &Overview) -> Vec<Failure> {
    let workers = overview.pools.iter().flat_map(|pool| &pool.workers);
    let places: BTreeMap<&str, &str> = workers
        .map(|worker| (&*worker.id, place(&worker.url)))
        .collect();
    let shown = |failure: &overview::Failure| {
        let (class, word) = outcome(&failure.outcome);
        Failure {
            when: moment(failure.time, overview.time),
            class,
            word,
            status: failure.status.to_string(),
            code: failure.code.clone(),
            path: failure.path.clone(),
            model: failure.model.clone(),
            // A worker that is gone is known by its id.
            place: places
                .get(&*failure.worker)
                .map_or_else(|| failure.worker.clone(), |place| (*place).to_owned()),
            attempts: failure.attempts,
            took: number::latency(failure.seconds),
            request_id: failure.request_id.clone(),
        }
    };
    overview.failures.iter().map(shown).collect()
}

/// The first twelve figures of a hash.
fn short(sha256: &str) -> String {
    sha256.chars().take(12).collect()
}

fn moment(millis: u64, now: u64) -> Moment {
    const DAY: u64 = 24 * 60 * 60 * 1000;
    let nanos = i128::from(millis) * 1_000_000;
    let at = OffsetDateTime::from_unix_timestamp_nanos(nanos).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let iso = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");
    let today = format_description!("[hour]:[minute]:[second]");
    let earlier = format_description!("[year]-[month]-[day] [hour]:[minute]");
    let passed = now.saturating_sub(millis);
    let text = if passed < DAY {
        at.format(today)
    } else {
        at.format(earlier)
    };
    Moment {
        iso: at.format(iso).unwrap_or_default(),
        text: text.unwrap_or_default(),
        ago: format!("{} ago", number::age(passed)),
    }
}

#[cfg(test)]
mod tests;
