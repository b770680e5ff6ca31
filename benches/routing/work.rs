//! All runs, on all cores.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use parking_lot::Mutex;

use crate::sim::contender::Contender;
use crate::sim::figures::{Figures, quantile};
use crate::sim::fleet;
use crate::sim::trace::Trace;
use crate::sim::traces::Kind;

/// One trace under all contenders.
pub(crate) struct Outcome {
    pub(crate) name: &'static str,
    pub(crate) about: String,
    pub(crate) deadline: f64,
    pub(crate) requests: usize,
    /// Share of the prompt tokens that one infinite cache would hold.
    pub(crate) oracle: f64,
    pub(crate) rows: Vec<Row>,
}

/// One contender.
pub(crate) struct Row {
    pub(crate) contender: Contender,
    pub(crate) median: Figures,
    pub(crate) each: Vec<Figures>,
}

/// What is said of a trace.
struct About {
    text: String,
    deadline: f64,
    requests: usize,
    oracle: f64,
}

impl About {
    fn of(trace: &Trace) -> Self {
        Self {
            text: trace.about.clone(),
            deadline: trace.deadline,
            requests: trace.requests(),
            oracle: trace.oracle_tokens as f64 / trace.prompt_tokens as f64,
        }
    }
}

/// A trace that is made when it is first needed, and dropped when all have run it.
struct Shared {
    kind: Kind,
    seed: u64,
    trace: Mutex<Option<Arc<Trace>>>,
    to_run: AtomicUsize,
}

impl Shared {
    fn get(&self) -> Arc<Trace> {
        let mut trace = self.trace.lock();
        Arc::clone(trace.get_or_insert_with(|| Arc::new(self.kind.make(self.seed))))
    }

    fn done(&self) {
        if self.to_run.fetch_sub(1, Ordering::Relaxed) == 1 {
            *self.trace.lock() = None;
        }
    }
}

/// Runs every trace of `kinds` under every one of `contenders`, for each of `seeds`.
pub(crate) fn simulate(
    kinds: &[Kind],
    contenders: &[Contender],
    seeds: &RangeInclusive<u64>,
) -> Vec<Outcome> {
    let shared: Vec<Shared> = kinds
        .iter()
        .flat_map(|kind| {
            seeds.clone().map(|seed| Shared {
                kind: *kind,
                seed,
                trace: Mutex::default(),
                to_run: AtomicUsize::new(contenders.len()),
            })
        })
        .collect();
    let tasks: Vec<(usize, Contender)> = (0..shared.len())
        .flat_map(|at| contenders.iter().map(move |contender| (at, *contender)))
        .collect();
    let next = AtomicUsize::new(0);
    let done: Mutex<Vec<(usize, Contender, Figures)>> = Mutex::default();
    let abouts: Mutex<BTreeMap<usize, About>> = Mutex::default();
    let threads = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some((at, contender)) = tasks.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let from = &shared[*at];
                    let trace = from.get();
                    let run = fleet::run(&trace, *contender, from.seed);
                    assert_eq!(run.outcomes.len(), trace.requests(), "requests are lost");
                    assert!(run.leaked == (0, 0) && run.idle, "something leaks");
                    let figures = Figures::of(&trace, &run);
                    eprint!(
                        "\r\x1b[K{} {} {} {}/{}",
                        from.kind.name,
                        from.seed,
                        contender.name,
                        done.lock().len() + 1,
                        tasks.len()
                    );
                    done.lock().push((*at, *contender, figures));
                    let about = || About::of(&trace);
                    abouts.lock().entry(*at).or_insert_with(about);
                    drop(trace);
                    from.done();
                }
            });
        }
    });
    eprint!("\r\x1b[K");
    let mut done = done.into_inner();
    done.sort_by_key(|(at, _, _)| *at);
    let abouts = abouts.into_inner();
    let each = seeds.clone().count();
    let of = |kind: usize| kind * each..(kind + 1) * each;
    kinds
        .iter()
        .enumerate()
        .map(|(kind, named)| {
            let mine: Vec<&About> = abouts.range(of(kind)).map(|(_, about)| about).collect();
            let mut oracles: Vec<f64> = mine.iter().map(|about| about.oracle).collect();
            oracles.sort_unstable_by(f64::total_cmp);
            let rows = contenders
                .iter()
                .map(|contender| {
                    let runs = done.iter();
                    let runs =
                        runs.filter(|(at, who, _)| of(kind).contains(at) && who == contender);
                    let each: Vec<Figures> = runs.map(|(_, _, figures)| *figures).collect();
                    Row {
                        contender: *contender,
                        median: Figures::median(&each),
                        each,
                    }
                })
                .collect();
            let first = mine.first();
            Outcome {
                name: named.name,
                about: first.map_or_else(String::new, |about| about.text.clone()),
                deadline: first.map_or(0.0, |about| about.deadline),
                requests: first.map_or(0, |about| about.requests),
                oracle: quantile(&oracles, 0.5),
                rows,
            }
        })
        .collect()
}
