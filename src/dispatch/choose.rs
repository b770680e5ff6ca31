//! Who answers: the candidates of a leg as they stand now, and the policy's choice among them.

use std::sync::atomic::Ordering;
use std::time::Instant;

use http::HeaderMap;

use super::{branches, fewest};
use crate::api::prompt::Prompt;
use crate::live::{LegParts, Snapshot, WorkerRef};
use crate::plan::{Leg, Role, RouteIx, WorkerIx};
use crate::policy::{
    self, Ask, Candidate, Engine, Expected, Hint, Lane, Mode, Notes, Refused, Trail,
};
use crate::state::{InFlight, ModelCell};
use crate::upstream::headers::X_SMG_ROUTING_KEY;

/// A request, as far as choosing a worker needs it.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The route that the model name led to.
    pub route: RouteIx,
    /// The prompt.
    pub prompt: Prompt<'a>,
    /// The model that the worker is asked for.
    pub model: &'a str,
    /// Headers as the client sent them.
    pub headers: &'a HeaderMap,
    /// Whether the choice counts.
    pub mode: Mode,
    /// Now.
    pub now: Instant,
    /// Decides what the policy leaves to chance.
    pub seed: u64,
}

/// A worker that was chosen.
#[derive(Debug, Clone, Copy)]
pub struct Chosen<'a> {
    /// The worker.
    pub worker: WorkerRef<'a>,
    /// Name of the policy.
    pub policy: &'static str,
    /// The policy's reason.
    pub reason: &'static str,
    /// The worker's place in the memory of the leg.
    pub lane: Lane,
    /// What the policy expects.
    pub expected: Expected,
}

/// A worker that could be chosen, and its position among the candidates of the route's leg.
#[derive(Debug, Clone, Copy)]
pub struct Usable<'a> {
    /// Position in the plan's list.
    pub position: usize,
    /// The worker.
    pub worker: WorkerRef<'a>,
}

/// The workers of `leg` that a request may go to at `now`, but for those in `skip`; of those only the
/// ones with the highest priority.
pub fn usable<'a>(
    snapshot: &'a Snapshot,
    leg: &Leg,
    skip: &[WorkerIx],
    now: Instant,
) -> Vec<Usable<'a>> {
    let mut highest = 0;
    let mut found: Vec<Usable<'a>> = Vec::with_capacity(leg.candidates.len());
    for (position, ix) in leg.candidates.iter().enumerate() {
        if skip.contains(ix) {
            continue;
        }
        let Some(worker) = snapshot.worker(*ix) else {
            continue;
        };
        if worker.plan.priority < highest || !snapshot.is_open_to(worker, now) {
            continue;
        }
        if worker.plan.priority > highest {
            highest = worker.plan.priority;
            found.clear();
        }
        found.push(Usable { position, worker });
    }
    found
}

/// Chooses among `usable` for the leg of `role`, as the route's policy has it. Where the choice
/// counts, so do its metrics' figures; those that tell how requests are routed leave copies out. No
/// breaker hears of it.
///
/// # Errors
/// [`Refused`] when nobody can be chosen.
pub fn choose<'a>(
    snapshot: &'a Snapshot,
    request: &Request<'_>,
    role: Role,
    usable: &[Usable<'a>],
    notes: Option<&Notes>,
) -> Result<Chosen<'a>, Refused> {
    let decision = decide(snapshot, request, role, usable, notes)?;
    if request.mode == Mode::Take {
        decision.count(request);
    }
    Ok(decision.chosen)
}

/// Chooses in the same way and takes the worker: its breaker has let the request in. `None` where
/// others have taken its last place meanwhile. Workers in `charged` have failed the request before.
///
/// # Errors
/// [`Refused`] when nobody can be chosen.
pub(super) fn take<'a>(
    snapshot: &'a Snapshot,
    request: &Request<'_>,
    role: Role,
    usable: &[Usable<'a>],
    charged: &[WorkerIx],
) -> Result<Option<(Chosen<'a>, InFlight)>, Refused> {
    let decision = decide(snapshot, request, role, usable, None)?;
    let Chosen {
        worker, expected, ..
    } = decision.chosen;
    let guard = InFlight::enter(
        &worker.parts.cell,
        &worker.plan.breaker,
        charged.contains(&worker.ix),
        expected.prefill_tokens,
        request.now,
    );
    Ok(guard.map(|guard| {
        decision.count(request);
        (decision.chosen, guard)
    }))
}

/// A choice that has not been counted yet.
struct Decision<'a> {
    chosen: Chosen<'a>,
    position: usize,
    parts: &'a LegParts,
    /// Where the share of the prompt that was known to be in a cache is noted.
    matched: Option<(&'a ModelCell, f32)>,
    by_tokens: bool,
}

impl Decision<'_> {
    fn count(&self, request: &Request<'_>) {
        if self.by_tokens {
            let report = &self.chosen.worker.parts.cell.report;
            report.route(fewest::tokens(&request.prompt));
        }
        if let Some((model, matched)) = self.matched {
            model.matched(matched);
        }
        if let Some(count) = self.parts.attempts.get(self.position) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn decide<'a>(
    snapshot: &'a Snapshot,
    request: &Request<'_>,
    role: Role,
    usable: &[Usable<'a>],
    notes: Option<&Notes>,
) -> Result<Decision<'a>, Refused> {
    let (route, parts) = snapshot.route(request.route).ok_or(Refused::Nobody)?;
    let leg = route.legs.get(role).ok_or(Refused::Nobody)?;
    let model = &*parts.model;
    let parts = parts.leg(role).ok_or(Refused::Nobody)?;
    let told = told(snapshot, leg, usable, request.now);
    let candidates = candidates(parts, usable, &told, request.now);
    let ask = Ask {
        leg,
        memory: &parts.memory,
        candidates: &candidates,
        hint: Hint {
            prompt: request.prompt,
            model: request.model,
            headers: request.headers,
            routing_key: routing_key(request.headers),
            tokens: None,
        },
        mode: request.mode,
        now: request.now,
        notes,
    };
    let mut rng = fastrand::Rng::with_seed(request.seed);
    let picked = policy::pick(&ask, &mut rng);
    if request.mode == Mode::Take && !route.copies {
        branches::count(&leg.policy, &picked);
    }
    let pick = picked?;
    let chosen = usable.get(pick.index).ok_or(Refused::Nobody)?;
    let pool = snapshot.plan.pool(chosen.worker.plan.pool);
    let by_tokens = pool.dp_minimum_tokens && pick.reason != "target_worker_hit";
    let picked = chosen.position;
    let chosen = if by_tokens {
        let age = snapshot.plan.load_monitor.age();
        &fewest::beside(chosen, usable, request.now, age)
    } else {
        chosen
    };
    let mut expected = pick.expected;
    if chosen.position != picked {
        // What the policy knows of one rank says nothing about another.
        expected.cached_tokens = None;
        expected.trail = Trail::default();
    }
    let matched = pick.matched.filter(|_| !route.copies);
    Ok(Decision {
        position: chosen.position,
        chosen: Chosen {
            worker: chosen.worker,
            policy: leg.policy.as_str(),
            reason: pick.reason,
            lane: parts
                .lanes
                .get(chosen.position)
                .copied()
                .unwrap_or_default(),
            expected,
        },
        parts,
        matched: matched.map(|share| (model, share)),
        by_tokens,
    })
}

/// What engines said of their load, by index in `usable`, where the policy wants it.
fn told(
    snapshot: &Snapshot,
    leg: &Leg,
    usable: &[Usable<'_>],
    now: Instant,
) -> Vec<(usize, Engine)> {
    if !policy::wants_engine_load(&leg.policy) {
        return Vec::new();
    }
    let age = snapshot.plan.load_monitor.age();
    let fresh = |worker: &WorkerRef<'_>| worker.parts.cell.report.fresh(now, age);
    usable
        .iter()
        .enumerate()
        .filter_map(|(index, usable)| Some((index, fresh(&usable.worker)?)))
        .collect()
}

fn candidates<'a>(
    parts: &LegParts,
    usable: &[Usable<'a>],
    told: &'a [(usize, Engine)],
    now: Instant,
) -> Vec<Candidate<'a>> {
    let mut told = told.iter().peekable();
    usable
        .iter()
        .enumerate()
        .map(|(index, Usable { position, worker })| {
            let cell = &worker.parts.cell;
            Candidate {
                ix: worker.ix,
                key: &worker.plan.key,
                lane: parts.lanes.get(*position).copied().unwrap_or_default(),
                load: cell.load(),
                processed: cell.processed.load(Ordering::Relaxed),
                pending_prefill: cell.pace.left(now),
                prefill_rate: cell.pace.rate(),
                cost: worker.plan.cost,
                engine: told
                    .next_if(|(at, _)| *at == index)
                    .map(|(_, engine)| engine),
            }
        })
        .collect()
}

/// The routing key that the client gave: 1 to 256 visible characters.
pub fn routing_key(headers: &HeaderMap) -> Option<&str> {
    let key = headers.get(X_SMG_ROUTING_KEY)?.to_str().ok()?;
    ((1..=256).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic()))
        .then_some(key)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::api::Endpoint;
    use crate::api::load::Load;
    use crate::api::scan::scan;
    use crate::base::clock;
    use crate::config::Spec;
    use crate::live::Stamp;
    use crate::plan::{Facts, Learned, WorkerKey, compile};
    use crate::state::Cells;

    const RANKS: &str = "version = 1\n[[pools]]\nname = 'p'\nruntime = 'sglang'\n\
        dp_aware = true\ndp_minimum_tokens = true\nhealth.enabled = false\n\
        workers = ['http://w:1']\n[[models]]\nname = 'm'\npolicy = 'cache_aware'\n";

    /// What a policy believes of one rank's cache is never held against the answer of another.
    #[test]
    fn another_rank_than_the_policys_answers_without_expectations() {
        let spec: Spec = toml::from_str(RANKS).unwrap();
        let learned = Learned {
            dp_size: Some(2),
            ..Learned::default()
        };
        let facts = Facts {
            workers: [(WorkerKey::new("http://w:1"), learned)].into(),
            ..Facts::default()
        };
        let stamp = Stamp {
            id: 1,
            generation: 1,
            sha256: "".into(),
        };
        let now = clock::now();
        let plan = compile(&spec, &facts);
        let snapshot = Snapshot::bind(plan, &Cells::default(), None, stamp, now);
        let body = serde_json::json!({ "prompt": "word ".repeat(1000) }).to_string();
        let fields = scan(body.as_bytes()).unwrap().fields;
        let body = [Bytes::from(body)];
        let headers = HeaderMap::new();
        let route = RouteIx(0);
        let (plan, _) = snapshot.route(route).unwrap();
        let pick = |fewest: usize| {
            for (rank, worker) in snapshot.workers().enumerate() {
                let load = Load {
                    used_tokens: Some(if rank == fewest { 0 } else { 1_000_000 }),
                    ..Load::default()
                };
                worker.parts.cell.report.put(vec![load], now);
            }
            let leg = plan.legs.answering();
            let usable = usable(&snapshot, leg, &[], now);
            assert_eq!(usable.len(), 2);
            let request = Request {
                route,
                prompt: Prompt::new(Endpoint::Completions, &body, &fields),
                model: "m",
                headers: &headers,
                mode: Mode::Take,
                now,
                seed: 1,
            };
            let chosen = choose(&snapshot, &request, leg.role, &usable, None).unwrap();
            assert_eq!(chosen.worker.plan.key.rank(), u32::try_from(fewest).ok());
            chosen.expected
        };
        pick(0);
        // The policy goes where the prompt is; once that is the rank with the fewest tokens, once not.
        let expected = [pick(0), pick(1)];
        let (own, other): (Vec<Expected>, Vec<Expected>) = expected
            .into_iter()
            .partition(|expected| expected.cached_tokens.is_some());
        assert_eq!((own.len(), other.len()), (1, 1), "{expected:?}");
        assert_ne!(own[0].trail, Trail::default());
        assert_eq!(other[0].trail, Trail::default());
    }
}
