//! The tables: workers, models, failures.

use super::figures::{NOTHING, age, bytes, rate, seconds, share, short};
use super::look::{Look, Sign, Tone};
use super::table::{Cell, Column, Row, Table};
use crate::api::overview::{Failure, Model, Overview, Point, Pool, Quantiles, Route, Span, Worker};

/// Usage from which the memory of an engine is about to be full.
const FULL: f64 = 0.9;

const fn word(title: &'static str, rank: u8, least: usize) -> Column {
    Column {
        title,
        figures: false,
        rank,
        least,
    }
}

const fn figure(title: &'static str, rank: u8) -> Column {
    Column {
        title,
        figures: true,
        rank,
        least: 0,
    }
}

/// Every worker of every pool.
pub(super) fn workers(overview: &Overview, look: Option<Look>) -> Table {
    let columns = vec![
        word("pool", 9, 6),
        word("worker", 10, 12),
        word("state", 9, 0),
        word("breaker", 3, 0),
        word("role", 1, 0),
        word("engine", 1, 0),
        figure("flight", 8),
        figure("run", 6),
        figure("wait", 6),
        figure("use", 5),
        figure("cache", 4),
        figure("answered", 2),
        figure("failed", 7),
    ];
    let pools = overview.pools.iter();
    let rows = pools.flat_map(|pool| pool.workers.iter().map(move |it| worker(pool, it, look)));
    Table {
        columns,
        rows: rows.collect(),
    }
}

fn worker(pool: &Pool, worker: &Worker, look: Option<Look>) -> Row {
    let engine = worker.engine.as_ref();
    let usage = engine.and_then(|engine| engine.usage);
    let count = |count: Option<u64>| Cell::figure(count.map(|n| n as f64), |n| format!("{n:.0}"));
    let failed = match worker.failed {
        0 => Tone::Plain,
        _ => Tone::Warn,
    };
    let cells = vec![
        Cell::text(&*pool.name),
        Cell::text(place(&worker.url)),
        state(pool, worker, look),
        Cell::text(worker.breaker.replace('_', "-")).toned(match worker.breaker.as_str() {
            "open" => Tone::Bad,
            "half_open" => Tone::Warn,
            _ => Tone::Dim,
        }),
        Cell::text(&*worker.role),
        known(&worker.runtime),
        Cell::count(worker.in_flight),
        count(engine.map(|engine| engine.running)),
        count(engine.map(|engine| engine.waiting)),
        Cell::figure(usage, share).toned(match usage {
            None => Tone::Dim,
            Some(usage) if usage >= FULL => Tone::Warn,
            Some(_) => Tone::Plain,
        }),
        Cell::figure(worker.cache_hit_ratio, share),
        Cell::count(worker.answered),
        Cell::count(worker.failed).toned(failed),
    ];
    let facts = [
        (!worker.ready).then(|| worker.reason.clone()),
        Some(worker.url.clone()),
        Some(worker.role.clone()),
        Some(worker.runtime.clone()),
        Some(format!("breaker {}", worker.breaker.replace('_', "-"))),
        Some(format!("answered {}", worker.answered)),
        (!worker.models.is_empty()).then(|| format!("models {}", worker.models.join(" "))),
        Some(format!("id {}", worker.id)),
    ];
    Row {
        cells,
        detail: joined(facts),
    }
}

/// Where a worker is, without what is the same for all.
fn place(url: &str) -> &str {
    let url = url.strip_prefix("http://").unwrap_or(url);
    url.strip_suffix('/').unwrap_or(url)
}

/// The state of a worker in a word, behind a sign where there is a look.
fn state(pool: &Pool, worker: &Worker, look: Option<Look>) -> Cell {
    let (sign, tone, word) = match (&*worker.health, &*worker.breaker) {
        _ if worker.ready => (Sign::Up, Tone::Good, "ready"),
        _ if pool.drain || worker.reason == "draining" => (Sign::Out, Tone::Dim, "draining"),
        (_, "open") => (Sign::Down, Tone::Bad, "tripped"),
        ("unhealthy", _) => (Sign::Down, Tone::Bad, "unhealthy"),
        (_, "half_open") => (Sign::Maybe, Tone::Warn, "on trial"),
        ("unknown", _) => (Sign::Maybe, Tone::Warn, "unknown"),
        _ => (Sign::Out, Tone::Warn, "not ready"),
    };
    signed(sign, word, look).toned(tone)
}

fn signed(sign: Sign, word: &str, look: Option<Look>) -> Cell {
    match look {
        Some(look) => Cell::text(format!("{} {word}", look.sign(sign))),
        None => Cell::text(word),
    }
}

/// Every route of every model.
pub(super) fn models(overview: &Overview, look: Option<Look>) -> Table {
    let columns = vec![
        word("model", 10, 16),
        word("state", 9, 0),
        word("pool", 8, 8),
        figure("weight", 6),
        figure("ready", 7),
        figure("of", 7),
        word("policy", 5, 8),
        word("asks as", 2, 8),
        word("fallback", 3, 8),
        word("mirror", 1, 8),
        word("aliases", 4, 8),
    ];
    let rows = overview.models.iter().flat_map(|model| {
        let alone = model.routes.is_empty().then(|| route(model, None, look));
        let routes = model
            .routes
            .iter()
            .map(move |it| route(model, Some(it), look));
        alone.into_iter().chain(routes)
    });
    Table {
        columns,
        rows: rows.collect(),
    }
}

fn route(model: &Model, route: Option<&Route>, look: Option<Look>) -> Row {
    let (sign, tone, state) = match model.ready {
        true => (Sign::Up, Tone::Good, "ready"),
        false => (Sign::Down, Tone::Bad, "not ready"),
    };
    let part = |part: fn(&Route) -> &String| known(route.map_or("", |route| part(route)));
    let count = |part: fn(&Route) -> f64| Cell::figure(route.map(part), |n| format!("{n:.0}"));
    let lacking = route.is_some_and(|route| route.ready < route.workers);
    let ready = count(|route| route.ready as f64);
    let cells = vec![
        Cell::text(&*model.name).toned(Tone::Strong),
        signed(sign, state, look).toned(tone),
        part(|route| &route.pool),
        Cell::figure(route.map(|route| route.weight), |n| n.to_string()),
        if lacking {
            ready.toned(Tone::Warn)
        } else {
            ready
        },
        count(|route| route.workers as f64),
        part(|route| &route.policy),
        part(|route| &route.model),
        known(&model.fallback.join(" ")),
        known(&model.mirror),
        known(&model.aliases.join(" ")),
    ];
    let named = |name: &str, list: &[String]| {
        (!list.is_empty()).then(|| format!("{name} {}", list.join(" ")))
    };
    let facts = [
        Some(model.name.clone()),
        named("aliases", &model.aliases),
        route.map(|route| format!("pool {}", route.pool)),
        route.map(|route| format!("policy {}", route.policy)),
        route
            .filter(|route| !route.model.is_empty())
            .map(|route| format!("asks as {}", route.model)),
        named("fallback", &model.fallback),
        (!model.mirror.is_empty()).then(|| format!("mirror {}", model.mirror)),
    ];
    Row {
        cells,
        detail: joined(facts),
    }
}

/// The requests that went wrong, newest first.
pub(super) fn failures(overview: &Overview) -> Table {
    let columns = vec![
        figure("ago", 9),
        figure("status", 10),
        word("outcome", 4, 0),
        word("code", 7, 12),
        word("model", 6, 10),
        word("pool", 3, 6),
        word("worker", 5, 12),
        figure("tries", 2),
        figure("took", 4),
        word("path", 2, 12),
        word("request", 1, 12),
    ];
    let rows = overview.failures.iter().map(|it| failure(overview, it));
    Table {
        columns,
        rows: rows.collect(),
    }
}

fn failure(overview: &Overview, failure: &Failure) -> Row {
    let tone = match &*failure.outcome {
        "server_error" => Tone::Bad,
        _ => Tone::Warn,
    };
    // The youngest first is the order of interest: a figure grows with time.
    let ago = Cell::figure(failure.time as f64, |_| age(overview.time, failure.time));
    let workers = overview.pools.iter().flat_map(|pool| &pool.workers);
    let mut workers = workers.filter(|worker| worker.id == failure.worker);
    let worker = workers.next().map(|worker| place(&worker.url));
    let worker = worker.unwrap_or(&failure.worker);
    let cells = vec![
        ago,
        Cell::count(failure.status.into()).toned(tone),
        Cell::text(failure.outcome.replace('_', " ")).toned(tone),
        known(&failure.code),
        known(&failure.model),
        known(&failure.pool),
        known(worker),
        Cell::count(failure.attempts.into()),
        Cell::figure(failure.seconds, seconds),
        Cell::text(&*failure.path),
        Cell::text(&*failure.request_id),
    ];
    let facts = [
        Some(format!("request {}", failure.request_id)),
        Some(failure.path.clone()),
        Some(failure.outcome.replace('_', " ")),
        (!failure.worker.is_empty()).then(|| format!("worker {worker}")),
        (failure.attempts > 0).then(|| format!("{} tries", failure.attempts)),
        Some(seconds(failure.seconds)),
    ];
    Row {
        cells,
        detail: joined(facts),
    }
}

/// Where the configuration stands, and what was refused: label and text, the diagnostics line by
/// line without a label.
pub(super) fn configuration(overview: &Overview) -> Vec<(&'static str, String, Tone)> {
    let config = &overview.config;
    let file = match config.file.is_empty() {
        true => "none, flags and defaults alone",
        false => &config.file,
    };
    let mut lines = vec![
        ("file", file.to_owned(), Tone::Plain),
        ("generation", config.generation.to_string(), Tone::Plain),
        ("sha256", config.sha256.clone(), Tone::Plain),
        (
            "applied",
            format!(
                "{} ago ({})",
                age(overview.time, config.applied),
                config.trigger
            ),
            Tone::Plain,
        ),
        ("snapshots", config.snapshot.to_string(), Tone::Plain),
        match (&config.rejected, config.synchronized) {
            (None, true) => ("state", "the file is what serves".to_owned(), Tone::Good),
            _ => (
                "state",
                "the file says something else than what serves".to_owned(),
                Tone::Warn,
            ),
        },
    ];
    let Some(rejected) = &config.rejected else {
        return lines;
    };
    lines.push((
        "refused",
        format!(
            "{} ago ({}), sha256 {}",
            age(overview.time, rejected.time),
            rejected.trigger,
            short(&rejected.sha256)
        ),
        Tone::Bad,
    ));
    for diagnostic in &rejected.diagnostics {
        lines.push(("", String::new(), Tone::Plain));
        for line in diagnostic.trim_end().lines() {
            let tone = match line.split('[').next() {
                Some("error") => Tone::Bad,
                Some("warning") => Tone::Warn,
                _ => Tone::Plain,
            };
            lines.push(("", line.to_owned(), tone));
        }
    }
    lines
}

/// The refusal in one line, if there is one.
pub(super) fn refusal(overview: &Overview) -> Option<String> {
    let rejected = overview.config.rejected.as_ref()?;
    let first = rejected.diagnostics.first();
    let first = first.and_then(|text| text.lines().next());
    let more = match rejected.diagnostics.len() {
        0 | 1 => String::new(),
        number => format!(" (+{})", number - 1),
    };
    Some(format!(
        "reload refused {} ago: {}{more}",
        age(overview.time, rejected.time),
        first.unwrap_or("no reason is known"),
    ))
}

/// The figures of all requests: title, and what is known under it as name and value.
pub(super) fn figures(overview: &Overview) -> Vec<Figure> {
    let now = &overview.now;
    let span = overview.spans.first();
    let past = span.map(|span| format!("over {:.0} s", span.seconds));
    let errors = span.and_then(|span| {
        let failed = span.outcomes.iter().find(|it| it.outcome == "server_error");
        let failed = failed.map_or(0, |it| it.requests);
        (span.requests > 0).then(|| failed as f64 / span.requests as f64)
    });
    let tone = match errors {
        Some(errors) if errors >= 0.01 => Tone::Bad,
        Some(errors) if errors > 0.0 => Tone::Warn,
        _ => Tone::Plain,
    };
    let plain = |name, value| (name, value, Tone::Plain);
    let per_second =
        |value: Option<f64>| format!("{}/s", value.map_or_else(|| NOTHING.to_owned(), rate));
    let waiting = match now.waiting {
        0 => Tone::Plain,
        _ => Tone::Warn,
    };
    let mut bodies = bytes(now.body_bytes);
    if now.body_budget > 0 {
        bodies.push_str(&format!("/{}", bytes(now.body_budget)));
    }
    // The latest span in which anything ended has the freshest latencies.
    let latency = |of: fn(&Span) -> Option<Quantiles>| {
        let known = overview.spans.iter().find_map(of);
        let written = |part: fn(&Quantiles) -> f64| {
            known
                .as_ref()
                .map_or_else(|| NOTHING.to_owned(), |known| seconds(part(known)))
        };
        vec![
            plain("p50", written(|it| it.p50)),
            plain("p95", written(|it| it.p95)),
            plain("p99", written(|it| it.p99)),
        ]
    };
    let curve = |of: fn(&Point) -> f64| -> Vec<f64> { overview.points.iter().map(of).collect() };
    vec![
        Figure {
            title: "requests",
            of: past.unwrap_or_default(),
            parts: vec![
                plain("", per_second(span.map(|span| span.request_rate))),
                (
                    "errors",
                    errors.map_or_else(|| NOTHING.to_owned(), share),
                    tone,
                ),
                plain("in flight", now.in_flight.to_string()),
                ("waiting", now.waiting.to_string(), waiting),
            ],
            curve: curve(|point| point.request_rate),
        },
        Figure {
            title: "took",
            of: String::new(),
            parts: latency(|span| span.duration),
            curve: Vec::new(),
        },
        Figure {
            title: "ttft",
            of: String::new(),
            parts: latency(|span| span.first_token),
            curve: Vec::new(),
        },
        Figure {
            title: "tokens",
            of: String::new(),
            parts: vec![
                plain("out", per_second(span.map(|span| span.output_token_rate))),
                plain("in", per_second(span.map(|span| span.input_token_rate))),
            ],
            curve: curve(|point| point.output_token_rate),
        },
        Figure {
            title: "connections",
            of: String::new(),
            parts: vec![
                plain("", now.connections.to_string()),
                plain("bodies", bodies),
            ],
            curve: Vec::new(),
        },
    ]
}

/// Figures that belong together.
#[derive(Clone, Debug)]
pub(super) struct Figure {
    pub(super) title: &'static str,
    /// What they are taken from, where it is not this moment.
    pub(super) of: String,
    pub(super) parts: Vec<(&'static str, String, Tone)>,
    /// How the first part has come to be.
    pub(super) curve: Vec<f64>,
}

fn known(text: &str) -> Cell {
    match text.is_empty() {
        true => Cell::text(NOTHING).toned(Tone::Dim),
        false => Cell::text(text),
    }
}

fn joined<const N: usize>(facts: [Option<String>; N]) -> String {
    let facts = facts.into_iter().flatten().filter(|fact| !fact.is_empty());
    facts.collect::<Vec<_>>().join(" · ")
}
