//! Properties of policies: whatever the loads, the requests and the workers that come and go, a
//! candidate is chosen, in the proportions that the policy promises, and who has a home keeps it.

#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "the bans are for the gateway; a test may ask the time and fails where it stands"
)]

use std::fmt::Display;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use smg::api::Endpoint;
use smg::api::prompt::Prompt;
use smg::api::scan::scan;
use smg::base::units::Millis;
use smg::config::spec::{
    AssignmentMode, Bucket, CacheAware, LeastLoad, Manual, Policy, PrefixHash,
};
use smg::plan::{Leg, Ring, Role, WorkerIx, WorkerKey};
use smg::policy::{Ask, Candidate, Engine, Hint, Memory, Mode, Pick, Refused, pick};
use smg::telemetry::metrics::label;

/// Runs as many cases and writes no file of failures into the tree.
fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

/// A worker as a pick sees it.
#[derive(Debug, Clone)]
struct Worker {
    key: WorkerKey,
    ready: bool,
    load: usize,
    processed: u64,
    cost: f64,
    engine: Option<Engine>,
}

fn worker(name: usize) -> Worker {
    Worker {
        key: WorkerKey::new(&format!("http://w{name:03}:1")),
        ready: true,
        load: 0,
        processed: 0,
        cost: 1.0,
        engine: None,
    }
}

/// A request as a pick sees it.
#[derive(Debug, Clone, Default)]
struct Request {
    text: String,
    routing_key: Option<String>,
    headers: Vec<(&'static str, String)>,
    tokens: Option<Vec<u32>>,
}

fn keyed(key: impl Display) -> Request {
    Request {
        routing_key: Some(key.to_string()),
        ..Request::default()
    }
}

fn said(text: impl Display) -> Request {
    Request {
        text: text.to_string(),
        ..Request::default()
    }
}

/// One leg with its memory; workers may change, as a reload changes them.
struct Stage {
    leg: Leg,
    memory: Memory,
    workers: Vec<Worker>,
    now: Instant,
    rng: fastrand::Rng,
}

impl Stage {
    fn new(policy: Policy, workers: Vec<Worker>) -> Self {
        let mut stage = Self {
            leg: Leg {
                role: Role::Regular,
                candidates: Vec::new(),
                policy,
                ring: None,
                sticky: false,
            },
            memory: Memory::default(),
            workers: Vec::new(),
            now: Instant::now(),
            rng: fastrand::Rng::with_seed(11),
        };
        stage.reload(workers);
        stage
    }

    fn of(policy: Policy, count: usize) -> Self {
        Self::new(policy, (0..count).map(worker).collect())
    }

    /// A new plan: other indexes, another ring, and the memory forgets who has left.
    fn reload(&mut self, mut workers: Vec<Worker>) {
        workers.sort_by(|a, b| a.key.cmp(&b.key));
        workers.dedup_by(|a, b| a.key == b.key);
        let indexes = (0..).map(WorkerIx);
        self.leg.candidates = indexes.clone().take(workers.len()).collect();
        let ring = Ring::new(indexes.zip(workers.iter().map(|worker| &worker.key)));
        self.leg.ring = Some(ring.into());
        for worker in &workers {
            self.memory.enrol(&worker.key);
        }
        self.workers = workers;
        let workers = &self.workers;
        self.memory
            .retain(|key| workers.iter().any(|worker| worker.key == *key));
    }

    /// Picks as `mode` says and names the worker.
    fn try_pick(&mut self, request: &Request, mode: Mode) -> Result<(WorkerKey, Pick), Refused> {
        let candidates: Vec<Candidate<'_>> = self
            .workers
            .iter()
            .zip(0..)
            .filter(|(worker, _)| worker.ready)
            .map(|(worker, ix)| Candidate {
                ix: WorkerIx(ix),
                key: &worker.key,
                lane: self.memory.enrol(&worker.key),
                load: worker.load,
                processed: worker.processed,
                pending_prefill: 0,
                prefill_rate: None,
                cost: worker.cost,
                engine: worker.engine.as_ref(),
            })
            .collect();
        let body = serde_json::json!({ "prompt": request.text }).to_string();
        let fields = scan(body.as_bytes()).unwrap().fields;
        let body = [Bytes::from(body)];
        let headers: HeaderMap = request
            .headers
            .iter()
            .map(|(name, value)| {
                let name = HeaderName::from_static(name);
                (name, HeaderValue::from_str(value).unwrap())
            })
            .collect();
        let ask = Ask {
            leg: &self.leg,
            memory: &self.memory,
            candidates: &candidates,
            hint: Hint {
                prompt: Prompt::new(Endpoint::Completions, &body, &fields),
                model: "m",
                headers: &headers,
                routing_key: request.routing_key.as_deref(),
                tokens: request.tokens.as_deref(),
            },
            mode,
            now: self.now,
            notes: None,
        };
        let pick = pick(&ask, &mut self.rng)?;
        Ok((candidates[pick.index].key.clone(), pick))
    }

    fn pick(&mut self, request: &Request) -> WorkerKey {
        self.try_pick(request, Mode::Take).unwrap().0
    }

    /// How often each worker is picked for these requests.
    fn spread(&mut self, requests: impl IntoIterator<Item = Request>) -> Vec<usize> {
        let mut counts = vec![0; self.workers.len()];
        for request in requests {
            let key = self.pick(&request);
            let at = self.workers.iter().position(|worker| worker.key == key);
            counts[at.unwrap()] += 1;
        }
        counts
    }
}

fn manual(mode: AssignmentMode) -> Policy {
    Policy::Manual(Manual {
        assignment_mode: mode,
        max_keys: 20,
        max_idle: Millis::secs(20),
        eviction_interval: Millis::secs(5),
    })
}

fn policies() -> Vec<Policy> {
    vec![
        Policy::Random,
        Policy::RoundRobin,
        Policy::Passthrough,
        Policy::PowerOfTwo,
        Policy::LeastLoad(LeastLoad::default()),
        Policy::ConsistentHashing,
        Policy::PrefixHash(PrefixHash::default()),
        manual(AssignmentMode::Random),
        manual(AssignmentMode::MinLoad),
        manual(AssignmentMode::MinGroup),
        Policy::Bucket(Bucket::default()),
        Policy::CacheAware(CacheAware::default()),
        Policy::CacheAware(CacheAware {
            cache_threshold: Some(0.5),
            ..CacheAware::default()
        }),
    ]
}

// --- any history --------------------------------------------------------------------------------

/// What happens next.
#[derive(Debug, Clone)]
enum Step {
    Ask(Request),
    /// Loads, readiness and reports are now these.
    Change(Vec<Worker>),
    /// These are the workers now.
    Reload(Vec<Worker>),
    Wait(u64),
    Policy(Policy),
    Sticky(bool),
}

fn any_engine() -> impl Strategy<Value = Option<Engine>> {
    let number = || prop_oneof![Just(0), 0..100_000_u64, Just(u64::MAX)];
    let share = prop_oneof![0.0..1.0, select(vec![0.0, 1.0, 7.0, f64::NAN])];
    let speed = prop_oneof![0.0..1e5, select(vec![0.0, -1.0, f64::NAN, f64::INFINITY])];
    let engine = (
        option::of(number()),
        option::of(number()),
        option::of(share),
        option::of(speed),
        number(),
    );
    option::of(
        engine.prop_map(|(waiting, uncached, usage, speed, sent)| Engine {
            running: waiting,
            waiting,
            waiting_uncached_tokens: uncached,
            token_usage: usage,
            gen_throughput: speed,
            in_flight_tokens: sent,
            ..Engine::default()
        }),
    )
}

fn any_worker() -> impl Strategy<Value = Worker> {
    (
        0..20_usize,
        prop::bool::weighted(0.7),
        prop_oneof![0..4_usize, 0..100_000_usize],
        0..10_u64,
        prop_oneof![Just(1.0), 0.001..1000.0],
        any_engine(),
    )
        .prop_map(|(name, ready, load, processed, cost, engine)| Worker {
            ready,
            load,
            processed,
            cost,
            engine,
            ..worker(name)
        })
}

fn any_request() -> impl Strategy<Value = Request> {
    let header = prop_oneof![
        (Just("authorization"), "[a-c]{0,3}"),
        (Just("cookie"), "[a-c]{0,3}"),
        (Just("x-forwarded-for"), "[0-9.]{0,3}"),
        (
            Just("x-smg-target-worker"),
            "[0-9]{1,2}|http://w0[01][0-9]:1|[a-z0-9-]{0,36}"
        ),
    ];
    let tokens = option::weighted(0.3, vec(0..5_u32, 0..600));
    let text = prop_oneof![
        "[a-zäö€]{0,8}",
        (0..9000_usize).prop_map(|length| "x".repeat(length))
    ];
    (
        text,
        option::of((0..40_u8).prop_map(|key| key.to_string())),
        vec(header, 0..2),
        tokens,
    )
        .prop_map(|(text, routing_key, headers, tokens)| Request {
            text,
            routing_key,
            headers,
            tokens,
        })
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => any_request().prop_map(Step::Ask),
        2 => vec(any_worker(), 1..12).prop_map(Step::Change),
        1 => vec(any_worker(), 0..12).prop_map(Step::Reload),
        2 => prop_oneof![0..3_000_u64, 0..100_000_u64].prop_map(Step::Wait),
        1 => select(policies()).prop_map(Step::Policy),
        1 => any::<bool>().prop_map(Step::Sticky),
    ]
}

/// What a policy may say of its picks; `None` where no metric counts it.
fn branches(policy: &Policy) -> Option<&'static [&'static str]> {
    match policy {
        Policy::Manual(_) => Some(label::MANUAL_BRANCHES),
        Policy::ConsistentHashing => Some(label::CONSISTENT_HASHING_BRANCHES),
        Policy::PrefixHash(_) => Some(label::PREFIX_HASH_BRANCHES),
        _ => None,
    }
}

proptest! {
    #![proptest_config(cases(400))]

    /// Every policy ends with a candidate that is ready; only a request for a certain worker is
    /// refused while there is one. Looking tells what taking does, and changes nothing of it.
    #[test]
    fn a_ready_candidate_is_picked_whatever_has_happened(
        policy in select(policies()),
        workers in vec(any_worker(), 1..12),
        steps in vec(any_step(), 1..60),
    ) {
        let mut stage = Stage::new(policy, workers);
        for step in steps {
            match step {
                Step::Ask(request) => {
                    let rng = stage.rng.clone();
                    let seen = stage.try_pick(&request, Mode::Peek);
                    stage.rng = rng;
                    let taken = stage.try_pick(&request, Mode::Take);
                    // What is noted for the answer tells when a memory was read, and may differ.
                    let told = |pick: &Result<(WorkerKey, Pick), Refused>| {
                        let pick = pick.clone()?;
                        Ok::<_, Refused>((pick.0, pick.1.reason, pick.1.expected.cached_tokens))
                    };
                    prop_assert_eq!(told(&seen), told(&taken));
                    let targeted = stage.leg.policy == Policy::ConsistentHashing
                        && request.headers.iter().any(|(name, _)| name.ends_with("target-worker"));
                    match taken {
                        Ok((key, pick)) => {
                            prop_assert!(stage.workers.iter().any(|w| w.ready && w.key == key));
                            if let Some(branches) = branches(&stage.leg.policy) {
                                let sticky = stage.leg.sticky && pick.reason == "sticky";
                                prop_assert!(sticky || branches.contains(&pick.reason), "{}", pick.reason);
                            }
                        }
                        Err(Refused::Nobody) => {
                            prop_assert!(stage.workers.iter().all(|worker| !worker.ready));
                        }
                        Err(Refused::Target) => prop_assert!(targeted),
                    }
                }
                Step::Change(news) => {
                    for (worker, new) in stage.workers.iter_mut().zip(news) {
                        *worker = Worker { key: worker.key.clone(), ..new };
                    }
                }
                Step::Reload(workers) => stage.reload(workers),
                Step::Wait(millis) => stage.now += Duration::from_millis(millis),
                Step::Policy(policy) => stage.leg.policy = policy,
                Step::Sticky(sticky) => stage.leg.sticky = sticky,
            }
            prop_assert!(stage.memory.routing_keys() < 100);
        }
    }
}

// --- proportions --------------------------------------------------------------------------------

/// Bounds that a fair draw leaves less than once in ten million.
fn assert_fair(counts: &[usize], total: usize) {
    let mean = total as f64 / counts.len() as f64;
    let slack = 6.0 * mean.sqrt() + 1.0;
    for count in counts {
        assert!((*count as f64 - mean).abs() < slack, "{counts:?}");
    }
}

proptest! {
    #![proptest_config(cases(24))]

    #[test]
    fn round_robin_is_exact(count in 1..20_usize, rounds in 1..10_usize) {
        let seen = Stage::of(Policy::RoundRobin, count).spread(vec![Request::default(); count * rounds]);
        prop_assert_eq!(seen, vec![rounds; count]);
    }

    /// Among workers that are alike nobody is preferred, not even the first.
    #[test]
    fn ties_spread_over_all(
        count in 2..10_usize,
        load in 0..3_usize,
        policy in select(vec![
            Policy::Random,
            Policy::PowerOfTwo,
            Policy::LeastLoad(LeastLoad::default()),
            Policy::ConsistentHashing,
            manual(AssignmentMode::Random),
            manual(AssignmentMode::MinLoad),
            manual(AssignmentMode::MinGroup),
        ]),
        reports in any::<bool>(),
    ) {
        let mut stage = Stage::of(policy, count);
        for worker in &mut stage.workers {
            worker.load = load;
            worker.engine = reports.then(|| Engine { token_usage: Some(0.5), ..Engine::default() });
        }
        assert_fair(&stage.spread(vec![Request::default(); 2000]), 2000);
    }

    #[test]
    fn keys_and_prefixes_spread(count in 2..10_usize) {
        for policy in [Policy::ConsistentHashing, manual(AssignmentMode::Random)] {
            let seen = Stage::of(policy, count).spread((0..2000).map(keyed));
            prop_assert!(seen.iter().all(|n| *n > 2000 / count / 2), "{seen:?}");
        }
        let policy = Policy::PrefixHash(PrefixHash::default());
        let seen = Stage::of(policy, count).spread((0..2000).map(said));
        prop_assert!(seen.iter().all(|n| *n > 2000 / count / 2), "{seen:?}");
    }

    #[test]
    fn keys_that_are_placed_by_count_are_even(count in 2..10_usize, keys in 1..20_usize) {
        let seen = Stage::of(manual(AssignmentMode::MinGroup), count).spread((0..keys).map(keyed));
        let (least, most) = (seen.iter().min().unwrap(), seen.iter().max().unwrap());
        prop_assert!(most - least <= 1, "{seen:?}");
    }

    /// Requests that stay: two choices keep the loads close, and one choice of all keeps them even.
    #[test]
    fn loads_stay_close(count in 2..16_usize) {
        for (policy, spread) in [
            (Policy::PowerOfTwo, 6),
            (Policy::LeastLoad(LeastLoad::default()), 1),
        ] {
            let mut stage = Stage::of(policy, count);
            for _ in 0..count * 50 {
                let key = stage.pick(&Request::default());
                let worker = stage.workers.iter_mut().find(|worker| worker.key == key);
                worker.unwrap().load += 1;
            }
            let loads = || stage.workers.iter().map(|worker| worker.load);
            prop_assert!(loads().max().unwrap() - loads().min().unwrap() <= spread);
        }
    }

    /// A worker of twice the cost carries half the load.
    #[test]
    fn cost_divides_the_load(cost in select(vec![0.25, 0.5, 2.0, 4.0])) {
        let mut stage = Stage::of(Policy::LeastLoad(LeastLoad::default()), 2);
        stage.workers[1].cost = cost;
        for _ in 0..500 {
            let key = stage.pick(&Request::default());
            let worker = stage.workers.iter_mut().find(|worker| worker.key == key);
            worker.unwrap().load += 1;
        }
        let loads: Vec<f64> = stage.workers.iter().map(|w| w.load as f64 * w.cost).collect();
        prop_assert!((loads[0] - loads[1]).abs() <= cost.max(1.0), "{loads:?}");
    }

    /// However hot a prefix is, nobody has more than the factor allows.
    #[test]
    fn a_hot_prefix_is_bounded(count in 2..12_usize, factor in 1.0..3.0_f64) {
        let options = PrefixHash { load_factor: factor, ..PrefixHash::default() };
        let mut stage = Stage::of(Policy::PrefixHash(options), count);
        for taken in 0..200 {
            let key = stage.pick(&said("hot"));
            let worker = stage.workers.iter_mut().find(|worker| worker.key == key).unwrap();
            let limit = factor * (taken + 1) as f64 / count as f64;
            prop_assert!(taken == 0 || worker.load as f64 <= limit);
            worker.load += 1;
        }
    }
}

// --- homes --------------------------------------------------------------------------------------

proptest! {
    #![proptest_config(cases(24))]

    /// Only keys of workers that leave move, and keys move only to workers that join.
    #[test]
    fn a_ring_moves_no_key_without_need(
        before in vec(0..30_usize, 1..15),
        after in vec(0..30_usize, 1..15),
    ) {
        let mut stage = Stage::new(Policy::ConsistentHashing, before.iter().copied().map(worker).collect());
        let homes: Vec<WorkerKey> = (0..200).map(|key| stage.pick(&keyed(key))).collect();
        stage.reload(after.iter().copied().map(worker).collect());
        for (key, home) in homes.iter().enumerate() {
            let now = stage.pick(&keyed(key));
            let home_stays = after.iter().any(|name| worker(*name).key == *home);
            let joined = !before.iter().any(|name| worker(*name).key == now);
            prop_assert!(now == *home || !home_stays || joined, "{key}: {home} to {now}");
        }
    }

    /// What a worker that joins takes is about its share.
    #[test]
    fn a_worker_that_joins_takes_its_share(count in 1..12_usize) {
        let mut stage = Stage::of(Policy::ConsistentHashing, count);
        let homes: Vec<WorkerKey> = (0..1000).map(|key| stage.pick(&keyed(key))).collect();
        stage.reload((0..=count).map(worker).collect());
        let moved = homes
            .iter()
            .enumerate()
            .filter(|(key, home)| stage.pick(&keyed(key)) != **home)
            .count();
        let share = 1000 / (count + 1);
        prop_assert!((share / 2..share * 2).contains(&moved), "{moved} of {share}");
    }

    /// Two gateways with the same workers, ready or not, agree on every key.
    #[test]
    fn gateways_agree(count in 1..12_usize, away in any::<Index>()) {
        let mut stages = [(); 2].map(|()| Stage::of(Policy::ConsistentHashing, count));
        stages[1].rng.seed(99);
        if count > 1 {
            for stage in &mut stages {
                stage.workers[away.index(count)].ready = false;
            }
        }
        for key in 0..100 {
            let [a, b] = stages.each_mut().map(|stage| stage.pick(&keyed(key)));
            prop_assert_eq!(a, b);
        }
    }

    /// A key goes to the first of the two workers it was assigned to last that is ready, through every
    /// reload that keeps them; the same in front of another policy.
    #[test]
    fn an_assigned_key_stays(
        sticky in any::<bool>(),
        reloads in vec(vec((0..12_usize, prop::bool::weighted(0.8)), 1..12), 1..6),
    ) {
        let policy = if sticky { Policy::Random } else { manual(AssignmentMode::Random) };
        let mut stage = Stage::of(policy, 6);
        stage.leg.sticky = sticky;
        let mut homes: Vec<Vec<WorkerKey>> =
            (0..15).map(|key| vec![stage.pick(&keyed(key))]).collect();
        for workers in reloads {
            let mut workers: Vec<Worker> = workers
                .into_iter()
                .map(|(name, ready)| Worker { ready, ..worker(name) })
                .collect();
            workers[0].ready = true;
            stage.reload(workers);
            for (key, known) in homes.iter_mut().enumerate() {
                known.retain(|home| stage.workers.iter().any(|w| w.key == *home));
                let is_ready = |home: &&WorkerKey| {
                    stage.workers.iter().any(|w| w.ready && w.key == **home)
                };
                let home = known.iter().find(is_ready).cloned();
                let now = stage.pick(&keyed(key));
                if let Some(home) = home {
                    prop_assert_eq!(&now, &home, "{}", key);
                } else {
                    known.insert(0, now);
                    known.truncate(2);
                }
            }
        }
    }
}
