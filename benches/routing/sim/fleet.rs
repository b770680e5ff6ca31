//! The run of one trace: events in order of virtual time.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use super::contender::Contender;
use super::engine::{Engine, Progress};
use super::gateway::{Gateway, Placed, REPORT_SECONDS};
use super::trace::{Request, Trace};

/// What became of a request. Times are seconds of virtual time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outcome {
    /// Who answered.
    pub(crate) worker: usize,
    /// When it was sent.
    pub(crate) sent: f64,
    /// When its answer began.
    pub(crate) first: f64,
    /// When its answer was complete.
    pub(crate) last: f64,
    /// Prompt tokens found in the cache.
    pub(crate) cached: u32,
}

/// A run.
#[derive(Debug)]
pub(crate) struct Run {
    /// One for each request.
    pub(crate) outcomes: Vec<Outcome>,
    /// Share of the workers' time that went into prompts and answers, while sessions began.
    pub(crate) busy: f64,
    /// When each worker joined and left; infinity where it stayed, nothing where it never came.
    pub(crate) presence: Vec<Option<(f64, f64)>>,
    /// Microseconds that one choice took, on the real clock.
    pub(crate) pick_micros: f64,
    /// What is left counted when all is done; zero if nothing leaks.
    pub(crate) leaked: (usize, u64),
    /// Whether every engine let go of everything.
    pub(crate) idle: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Change(usize),
    Arrive(Request),
    Step(usize),
    Report,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct At(f64, u64, Event);

impl Eq for At {}

impl PartialOrd for At {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for At {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0).then(self.1.cmp(&other.1))
    }
}

struct Fleet<'a> {
    trace: &'a Trace,
    gateway: Gateway,
    engines: Vec<Engine>,
    events: BinaryHeap<Reverse<At>>,
    order: u64,
    under_way: ahash::AHashMap<Request, (f64, f64, Placed)>,
    outcomes: Vec<Outcome>,
    presence: Vec<Option<(f64, f64)>>,
    next_closed: usize,
    reported: Vec<u64>,
    /// While sessions begin, but for the first quarter: the load is what the trace says.
    window: (f64, f64),
    work: f64,
}

/// Runs `trace` under `contender`.
pub(crate) fn run(trace: &Trace, contender: Contender, seed: u64) -> Run {
    let workers = trace.workers.len();
    let mut fleet = Fleet {
        trace,
        gateway: Gateway::new(contender, workers, seed),
        engines: trace
            .workers
            .iter()
            .map(|hardware| Engine::new(hardware.clone(), trace.distinct))
            .collect(),
        events: BinaryHeap::new(),
        order: 0,
        under_way: ahash::AHashMap::new(),
        outcomes: Vec::with_capacity(trace.requests()),
        presence: vec![None; workers],
        next_closed: 0,
        reported: vec![0; workers],
        window: window(trace),
        work: 0.0,
    };
    for (at, hardware) in trace.workers.iter().enumerate() {
        if hardware.present {
            fleet.change(at, true, 0.0);
        }
    }
    for (index, (at, _, _)) in trace.changes.iter().enumerate() {
        fleet.at(*at, Event::Change(index));
    }
    if trace.closed.is_some() {
        fleet.next_of_closed(0.0);
    } else {
        for (index, session) in (0..).zip(&trace.sessions) {
            let first = Request {
                session: index,
                turn: 0,
            };
            fleet.at(session.start, Event::Arrive(first));
        }
    }
    if fleet.gateway.wants_reports() {
        fleet.at(0.0, Event::Report);
    }
    fleet.drive();
    fleet.finish()
}

impl Fleet<'_> {
    fn at(&mut self, time: f64, event: Event) {
        self.order += 1;
        self.events.push(Reverse(At(time, self.order, event)));
    }

    fn drive(&mut self) {
        let mut progress = Vec::new();
        while let Some(Reverse(At(now, _, event))) = self.events.pop() {
            match event {
                Event::Change(index) => {
                    if let Some((_, worker, joins)) = self.trace.changes.get(index) {
                        self.change(*worker, *joins, now);
                    }
                }
                Event::Arrive(request) => self.arrive(request, now),
                Event::Step(worker) => {
                    self.engines[worker].end(self.trace, &mut progress);
                    for made in progress.drain(..) {
                        self.progress(made, now);
                    }
                    self.start(worker, now);
                }
                Event::Report => self.report(now),
            }
        }
    }

    fn change(&mut self, worker: usize, joins: bool, now: f64) {
        self.gateway.change(worker, joins);
        let presence = &mut self.presence[worker];
        match presence {
            None => *presence = Some((now, f64::INFINITY)),
            Some((_, until)) => *until = if joins { f64::INFINITY } else { now },
        }
    }

    fn arrive(&mut self, request: Request, now: f64) {
        let (session, turn) = self.trace.at(request);
        let placed = self.gateway.place(session, turn, now);
        let worker = placed.worker;
        self.engines[worker].push(request);
        self.under_way.insert(request, (now, now, placed));
        self.start(worker, now);
    }

    fn start(&mut self, worker: usize, now: f64) {
        if let Some(step) = self.engines[worker].start(self.trace) {
            if (self.window.0..self.window.1).contains(&now) {
                self.work += step.work;
            }
            self.at(now + step.duration, Event::Step(worker));
        }
    }

    fn progress(&mut self, made: Progress, now: f64) {
        match made {
            Progress::First(request) => {
                if let Some((_, first, placed)) = self.under_way.get_mut(&request) {
                    *first = now;
                    self.gateway.begun(placed, now);
                }
            }
            Progress::Last(request, cached) => {
                let Some((sent, first, placed)) = self.under_way.remove(&request) else {
                    return;
                };
                self.outcomes.push(Outcome {
                    worker: placed.worker,
                    sent,
                    first,
                    last: now,
                    cached,
                });
                let (session, turn) = self.trace.at(request);
                self.gateway.ended(placed, turn.prompt_tokens, cached);
                if self.trace.closed.is_some() {
                    self.next_of_closed(now);
                } else if let Some(turn) = session.turns.get(request.turn as usize + 1) {
                    let next = Request {
                        turn: request.turn + 1,
                        ..request
                    };
                    self.at(now + turn.think, Event::Arrive(next));
                }
            }
        }
    }

    fn next_of_closed(&mut self, now: f64) {
        let order = self.trace.closed.as_deref().unwrap_or_default();
        if let Some(request) = order.get(self.next_closed) {
            self.next_closed += 1;
            self.at(now, Event::Arrive(*request));
        }
    }

    fn report(&mut self, now: f64) {
        for (worker, engine) in self.engines.iter().enumerate() {
            let made = engine.generated - self.reported[worker];
            self.reported[worker] = engine.generated;
            let report = engine.report(self.trace, made as f64 / REPORT_SECONDS);
            self.gateway.report(worker, report, now);
        }
        if self.outcomes.len() < self.trace.requests() {
            self.at(now + REPORT_SECONDS, Event::Report);
        }
    }

    fn finish(self) -> Run {
        let (from, until) = self.window;
        let presence = self.presence.iter().flatten();
        let time: f64 = presence
            .map(|(joined, left)| (left.min(until) - joined.max(from)).max(0.0))
            .sum();
        Run {
            busy: self.work / time.max(f64::MIN_POSITIVE),
            presence: self.presence,
            pick_micros: self.gateway.picking.as_secs_f64() * 1e6
                / self.outcomes.len().max(1) as f64,
            leaked: self.gateway.counted(),
            idle: self.engines.iter().all(Engine::is_idle),
            outcomes: self.outcomes,
        }
    }
}

fn window(trace: &Trace) -> (f64, f64) {
    let starts = trace.sessions.iter().map(|session| session.start);
    let last = starts.fold(0.0, f64::max);
    (last / 4.0, last)
}
