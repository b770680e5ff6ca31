//! A stage for the tests of policies: workers with loads, and a request.

use std::time::Instant;

use bytes::Bytes;
use http::HeaderMap;

use super::{Ask, Candidate, Hint, Lane, Memory, Mode, Notes, Pick, Refused, pick};
use crate::api::Endpoint;
use crate::api::prompt::Prompt;
use crate::api::scan::{Fields, scan};
use crate::base::clock;
use crate::config::spec::Policy;
use crate::plan::{Leg, Ring, Role, WorkerIx, WorkerKey};

/// Workers and the request of the next pick; every field can be changed between picks.
pub(crate) struct Scene {
    pub(crate) leg: Leg,
    pub(crate) memory: Memory,
    pub(crate) workers: Vec<Actor>,
    pub(crate) body: Vec<Bytes>,
    pub(crate) fields: Fields,
    pub(crate) headers: HeaderMap,
    pub(crate) routing_key: Option<String>,
    pub(crate) tokens: Option<Vec<u32>>,
    pub(crate) mode: Mode,
    pub(crate) now: Instant,
    pub(crate) rng: fastrand::Rng,
    pub(crate) notes: Option<Notes>,
}

/// A worker of the stage.
#[derive(Clone)]
pub(crate) struct Actor {
    pub(crate) key: WorkerKey,
    pub(crate) load: usize,
    pub(crate) processed: u64,
    pub(crate) pending_prefill: u64,
    pub(crate) prefill_rate: Option<f64>,
    pub(crate) cost: f64,
    pub(crate) engine: Option<super::Engine>,
    /// Off the stage it is no candidate.
    pub(crate) here: bool,
}

impl Scene {
    /// Workers `http://w00:1`, `http://w01:1` … with these loads, and a short prompt.
    pub(crate) fn of(policy: Policy, loads: &[usize]) -> Self {
        let workers: Vec<Actor> = loads
            .iter()
            .enumerate()
            .map(|(at, load)| Actor {
                key: WorkerKey::new(&format!("http://w{at:02}:1")),
                load: *load,
                processed: 0,
                pending_prefill: 0,
                prefill_rate: None,
                cost: 1.0,
                engine: None,
                here: true,
            })
            .collect();
        let ring = Ring::new((0..).map(WorkerIx).zip(workers.iter().map(|w| &w.key)));
        let mut scene = Self {
            leg: Leg {
                role: Role::Regular,
                candidates: Vec::new(),
                policy,
                ring: Some(ring.into()),
                sticky: false,
            },
            memory: Memory::default(),
            workers,
            body: Vec::new(),
            fields: Fields::default(),
            headers: HeaderMap::new(),
            routing_key: None,
            tokens: None,
            mode: Mode::Take,
            now: clock::now(),
            rng: fastrand::Rng::with_seed(7),
            notes: None,
        };
        scene.say("hello");
        scene
    }

    /// The request is a chat with one message.
    pub(crate) fn say(&mut self, text: &str) {
        let body = serde_json::json!({ "messages": [{ "role": "user", "content": text }] });
        let body = body.to_string();
        self.fields = scan(body.as_bytes()).unwrap().fields;
        self.body = vec![Bytes::from(body)];
    }

    /// The lane of the worker at `at`.
    pub(crate) fn lane(&self, at: usize) -> Lane {
        self.memory.enrol(&self.workers[at].key)
    }

    /// Picks; the index is that of `workers`.
    pub(crate) fn try_pick(&mut self) -> Result<Pick, Refused> {
        let here: Vec<(usize, Candidate<'_>)> = self
            .workers
            .iter()
            .enumerate()
            .filter(|(_, actor)| actor.here)
            .map(|(at, actor)| {
                let candidate = Candidate {
                    ix: WorkerIx(u32::try_from(at).unwrap()),
                    key: &actor.key,
                    lane: self.memory.enrol(&actor.key),
                    load: actor.load,
                    processed: actor.processed,
                    pending_prefill: actor.pending_prefill,
                    prefill_rate: actor.prefill_rate,
                    cost: actor.cost,
                    engine: actor.engine.as_ref(),
                };
                (at, candidate)
            })
            .collect();
        let candidates: Vec<Candidate<'_>> = here.iter().map(|(_, candidate)| *candidate).collect();
        let ask = Ask {
            leg: &self.leg,
            memory: &self.memory,
            candidates: &candidates,
            hint: Hint {
                prompt: Prompt::new(Endpoint::Chat, &self.body, &self.fields),
                model: "m",
                headers: &self.headers,
                routing_key: self.routing_key.as_deref(),
                tokens: self.tokens.as_deref(),
            },
            mode: self.mode,
            now: self.now,
            notes: self.notes.as_ref(),
        };
        let chosen = pick(&ask, &mut self.rng)?;
        Ok(Pick {
            index: here[chosen.index].0,
            ..chosen
        })
    }

    /// Picks.
    pub(crate) fn pick(&mut self) -> Pick {
        self.try_pick().expect("somebody is there")
    }

    /// How often each worker is picked in `n` picks.
    pub(crate) fn spread(&mut self, n: usize) -> Vec<usize> {
        let mut counts = vec![0; self.workers.len()];
        for _ in 0..n {
            counts[self.pick().index] += 1;
        }
        counts
    }
}
