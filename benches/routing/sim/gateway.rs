//! The gateway: candidates, loads and expectations, kept as the daemon keeps them.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use smg::api::Endpoint;
use smg::api::load::Load;
use smg::api::prompt::Prompt;
use smg::base::clock;
use smg::plan::{Leg, Ring, Role, WorkerIx, WorkerKey};
use smg::policy::{self, Ask, Candidate, Expected, Feedback, Hint, Lane, Memory, Mode};
use smg::state::{InFlight, WorkerCell};

use super::contender::Contender;
use super::reference::Reference;
use super::trace::{Session, Turn};

/// Time between two questions to the engines.
pub(crate) const REPORT_SECONDS: f64 = 10.0;

/// A gateway in front of workers.
pub(crate) struct Gateway {
    mind: Mind,
    cells: Vec<Arc<WorkerCell>>,
    present: Vec<bool>,
    began: Instant,
    rng: fastrand::Rng,
    text: Vec<u8>,
    /// Time that choosing took, on the real clock.
    pub(crate) picking: Duration,
}

enum Mind {
    Ours { leg: Box<Leg>, memory: Box<Memory> },
    Reference(Reference),
}

/// A request that has its place.
pub(crate) struct Placed {
    /// Index of the worker.
    pub(crate) worker: usize,
    lane: Lane,
    expected: Expected,
    guard: InFlight,
}

impl Gateway {
    /// A gateway that knows nothing yet; workers have to join.
    pub(crate) fn new(contender: Contender, workers: usize, seed: u64) -> Self {
        let cells: Vec<_> = (0..workers)
            .map(|at| WorkerKey::new(&format!("http://10.0.0.{:03}:8000", at + 10)))
            .map(|key| Arc::new(WorkerCell::new(key)))
            .collect();
        let mind = match contender.policy() {
            None => Mind::Reference(Reference::new(workers)),
            Some(policy) => Mind::Ours {
                leg: Box::new(Leg {
                    role: Role::Regular,
                    candidates: Vec::new(),
                    policy,
                    ring: None,
                    sticky: false,
                }),
                memory: Box::default(),
            },
        };
        Self {
            mind,
            present: vec![false; workers],
            cells,
            began: clock::now(),
            rng: fastrand::Rng::with_seed(seed),
            text: Vec::new(),
            picking: Duration::ZERO,
        }
    }

    /// `worker` joins or leaves.
    pub(crate) fn change(&mut self, worker: usize, joins: bool) {
        self.present[worker] = joins;
        match &mut self.mind {
            Mind::Ours { leg, memory } => {
                let here = || {
                    let here = (0_u32..).map(WorkerIx).zip(&self.cells).zip(&self.present);
                    here.filter(|(_, present)| **present)
                        .map(|((ix, cell), _)| (ix, cell.key()))
                };
                leg.candidates = here().map(|(ix, _)| ix).collect();
                leg.ring = Some(Arc::new(Ring::new(here())));
                memory.retain(|key| here().any(|(_, there)| there == key));
            }
            Mind::Reference(tree) => {
                if !joins {
                    tree.leave(worker);
                }
            }
        }
    }

    /// Chooses a worker for `turn` of `session`, and counts it there.
    pub(crate) fn place(&mut self, session: &Session, turn: &Turn, now: f64) -> Placed {
        let body = turn.body(session);
        let from = clock::now();
        let (worker, lane, expected) = match &mut self.mind {
            Mind::Ours { leg, memory } => {
                let at = self.began + Duration::from_secs_f64(now);
                let wanted = policy::wants_engine_load(&leg.policy);
                let age = Duration::from_secs_f64(3.0 * REPORT_SECONDS);
                let told: Vec<_> = leg
                    .candidates
                    .iter()
                    .map(|ix| {
                        let report = &self.cells[ix.0 as usize].report;
                        wanted.then(|| report.fresh(at, age)).flatten()
                    })
                    .collect();
                let candidates: Vec<Candidate<'_>> = leg
                    .candidates
                    .iter()
                    .zip(&told)
                    .map(|(ix, told)| {
                        let cell = &self.cells[ix.0 as usize];
                        Candidate {
                            ix: *ix,
                            key: cell.key(),
                            lane: memory.enrol(cell.key()),
                            load: cell.load(),
                            processed: cell.processed.load(Ordering::Relaxed),
                            pending_prefill: cell.pace.left(at),
                            prefill_rate: cell.pace.rate(),
                            cost: 1.0,
                            engine: told.as_ref(),
                        }
                    })
                    .collect();
                let ask = Ask {
                    leg,
                    memory,
                    candidates: &candidates,
                    hint: Hint {
                        prompt: Prompt::new(Endpoint::Chat, &body, &turn.fields),
                        model: "m",
                        headers: &session.headers,
                        routing_key: Some(&session.key),
                        tokens: None,
                    },
                    mode: Mode::Take,
                    now: at,
                    notes: None,
                };
                let pick = policy::pick(&ask, &mut self.rng)
                    .unwrap_or_else(|refused| panic!("nobody is chosen: {refused:?}"));
                let chosen = &candidates[pick.index];
                (chosen.ix.0 as usize, chosen.lane, pick.expected)
            }
            Mind::Reference(tree) => {
                read(&body, turn, &mut self.text);
                let here = self.present.iter().zip(&self.cells).enumerate();
                let loads: Vec<_> = here
                    .filter(|(_, (present, _))| **present)
                    .map(|(at, (_, cell))| (at, cell.load()))
                    .collect();
                let worker = tree.pick(&self.text, &loads, now);
                (worker, Lane::default(), Expected::default())
            }
        };
        self.picking += clock::now().saturating_duration_since(from);
        Placed {
            worker,
            lane,
            expected,
            guard: InFlight::start(
                &self.cells[worker],
                expected.prefill_tokens,
                self.began + Duration::from_secs_f64(now),
            ),
        }
    }

    /// The answer to `placed` has begun.
    pub(crate) fn begun(&self, placed: &mut Placed, now: f64) {
        let at = self.began + Duration::from_secs_f64(now);
        placed.guard.prefilled(at);
    }

    /// The answer to `placed` is complete, and says how much of the prompt was cached.
    pub(crate) fn ended(&self, placed: Placed, prompt: u32, cached: u32) {
        let Placed {
            lane,
            expected,
            guard,
            ..
        } = placed;
        if let Mind::Ours { leg, memory } = &self.mind {
            let feedback = Feedback {
                lane,
                expected,
                success: true,
                prompt_tokens: Some(u64::from(prompt)),
                cached_tokens: Some(u64::from(cached)),
            };
            policy::learn(&leg.policy, memory, feedback);
        }
        drop(guard);
    }

    /// Whether somebody looks at what engines say.
    pub(crate) fn wants_reports(&self) -> bool {
        match &self.mind {
            Mind::Ours { leg, .. } => policy::wants_engine_load(&leg.policy),
            Mind::Reference(_) => false,
        }
    }

    /// `worker` has said this of itself.
    pub(crate) fn report(&self, worker: usize, report: Load, now: f64) {
        let at = self.began + Duration::from_secs_f64(now);
        self.cells[worker].report.put(vec![report], at);
    }

    /// Requests and prompt tokens that are still counted at any worker.
    pub(crate) fn counted(&self) -> (usize, u64) {
        let load = self.cells.iter().map(|cell| cell.load()).sum();
        let pending = self.cells.iter().map(|cell| cell.pending_prefill()).sum();
        (load, pending)
    }
}

fn read(body: &[Bytes], turn: &Turn, text: &mut Vec<u8>) {
    text.clear();
    Prompt::new(Endpoint::Chat, body, &turn.fields).visit(|piece| {
        text.extend_from_slice(piece);
        std::ops::ControlFlow::Continue(())
    });
}
