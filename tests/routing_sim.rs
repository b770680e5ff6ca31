//! The simulation behind `make bench-routing`, small: its caches are right, it loses no request,
//! and what it says of policies is plausible.

#![expect(clippy::unwrap_used, reason = "what is not there fails the test")]

#[path = "../benches/routing/sim/mod.rs"]
#[expect(
    dead_code,
    clippy::panic,
    reason = "shared with the benchmark, which uses all of it"
)]
mod sim;

use std::cmp::Reverse;
use std::collections::HashMap;

use sim::cache::Cache;
use sim::contender::{ALL, Contender, DEFAULT, REFERENCE};
use sim::figures::Figures;
use sim::fleet::{self, Run};
use sim::reference::Reference;
use sim::trace::{Hardware, Trace};
use sim::traces::{CHAT, Talk};

/// A cache that looks at everything each time: of the blocks that nobody holds, those go first that
/// were let go longest ago, and of one request the deepest.
struct Naive {
    capacity: usize,
    time: u32,
    /// Holders, when they let go, depth.
    blocks: HashMap<u32, (u32, u32, usize)>,
    reserved: usize,
}

impl Naive {
    fn held(&self) -> usize {
        self.reserved + self.blocks.values().filter(|(held, ..)| *held > 0).count()
    }

    fn admit(&mut self, prompt: &[u32], total: usize) -> Option<usize> {
        let known = prompt
            .iter()
            .take_while(|block| self.blocks.contains_key(block));
        let hits = known.count();
        let mut held = self.held() + total - hits;
        held += prompt[..hits]
            .iter()
            .filter(|block| self.blocks[block].0 == 0)
            .count();
        if held > self.capacity {
            return None;
        }
        for block in &prompt[..hits] {
            self.blocks.get_mut(block).unwrap().0 += 1;
        }
        self.reserved += total - hits;
        self.shrink();
        Some(hits)
    }

    fn computed(&mut self, blocks: &[u32], from: usize) {
        for (depth, block) in blocks.iter().enumerate().skip(from) {
            self.reserved -= 1;
            self.blocks.entry(*block).or_insert((0, 0, depth)).0 += 1;
        }
    }

    fn release(&mut self, blocks: &[u32]) {
        self.time += 1;
        for block in blocks {
            let (held, time, _) = self.blocks.get_mut(block).unwrap();
            *held -= 1;
            *time = self.time;
        }
        self.shrink();
    }

    fn shrink(&mut self) {
        while self.blocks.len() + self.reserved > self.capacity {
            let idle = self.blocks.iter().filter(|(_, (held, ..))| *held == 0);
            let oldest = idle.min_by_key(|(_, (_, time, depth))| (*time, Reverse(*depth)));
            let Some(oldest) = oldest.map(|(block, _)| *block) else {
                return;
            };
            self.blocks.remove(&oldest);
        }
    }
}

#[test]
fn the_cache_is_the_one_that_looks_at_everything() {
    for seed in 0..20 {
        let mut rng = fastrand::Rng::with_seed(seed);
        // Prompts are paths in a tree of three children each, numbered like a heap.
        let path = |rng: &mut fastrand::Rng| {
            let mut at = rng.u32(..2);
            let mut path = vec![at];
            for _ in 1..rng.usize(2..8) {
                at = at * 3 + 2 + rng.u32(..3);
                path.push(at);
            }
            path
        };
        let mut cache = Cache::new(40, 20_000);
        let mut naive = Naive {
            capacity: 40,
            time: 0,
            blocks: HashMap::new(),
            reserved: 0,
        };
        let mut running: Vec<(Vec<u32>, usize, usize)> = Vec::new();
        let mut hits_seen = 0;
        for _ in 0..2000 {
            if running.is_empty() || rng.bool() {
                let all = path(&mut rng);
                let prompt = rng.usize(1..all.len());
                let hits = cache.admit(&all[..prompt], all.len());
                assert_eq!(hits, naive.admit(&all[..prompt], all.len()));
                if let Some(hits) = hits {
                    hits_seen += hits;
                    running.push((all, prompt, hits));
                }
            } else {
                let (all, prompt, hits) = running.swap_remove(rng.usize(..running.len()));
                cache.computed(&all[..prompt], hits);
                naive.computed(&all[..prompt], hits);
                cache.computed(&all, prompt);
                naive.computed(&all, prompt);
                cache.release(&all);
                naive.release(&all);
            }
            assert_eq!(cache.held(), naive.held());
            let probe = path(&mut rng);
            let known = probe
                .iter()
                .take_while(|block| naive.blocks.contains_key(block));
            assert_eq!(cache.peek(&probe), known.count());
        }
        assert!(hits_seen > 500, "the prompts share too little: {hits_seen}");
    }
}

const WORKER: Hardware = Hardware {
    prefill_rate: 8000.0,
    step: 0.012,
    per_sequence: 0.0003,
    chunk: 2048,
    max_running: 64,
    cache_blocks: 0,
    present: true,
};

fn small() -> Trace {
    let talk = Talk {
        sessions: 60,
        rate: 1.7,
        systems: 6,
        ..CHAT
    };
    talk.write(3, 0.5).on(3, &WORKER, 0.6)
}

fn contender(name: &str) -> Contender {
    *ALL.iter().find(|contender| contender.name == name).unwrap()
}

fn checked(trace: &Trace, name: &str) -> (Run, Figures) {
    let run = fleet::run(trace, contender(name), 1);
    assert_eq!(
        run.outcomes.len(),
        trace.requests(),
        "{name} loses requests"
    );
    assert_eq!(run.leaked, (0, 0), "{name} leaves something counted");
    assert!(run.idle, "{name} leaves something in an engine");
    for outcome in &run.outcomes {
        assert!(outcome.sent < outcome.first && outcome.first <= outcome.last);
    }
    let figures = Figures::of(trace, &run);
    assert!(
        (0.0..=1.0).contains(&figures.of_oracle),
        "{name} beats the oracle"
    );
    (run, figures)
}

#[test]
fn a_small_run_conserves_requests_and_ranks_policies() {
    let trace = small();
    let (_, default) = checked(&trace, DEFAULT);
    let (_, turns) = checked(&trace, "round_robin");
    let (_, random) = checked(&trace, "random");
    checked(&trace, REFERENCE);
    assert!(default.hit > turns.hit, "{default:?} {turns:?}");
    assert!(default.ttft_p99 < random.ttft_p99, "{default:?} {random:?}");
    assert!(turns.spread < 1.02, "{turns:?}");
}

#[test]
fn the_same_run_twice_is_the_same() {
    let trace = small();
    let runs = [(); 2].map(|()| checked(&trace, DEFAULT).0);
    let times = |run: &Run| -> Vec<(usize, f64)> {
        run.outcomes
            .iter()
            .map(|outcome| (outcome.worker, outcome.last))
            .collect()
    };
    assert_eq!(times(&runs[0]), times(&runs[1]));
}

#[test]
fn nobody_is_sent_anything_while_it_is_not_there() {
    let mut trace = small();
    trace.workers[0].present = false;
    trace.changes = vec![(10.0, 0, true), (20.0, 1, false)];
    for name in [DEFAULT, REFERENCE, "manual", "consistent_hashing"] {
        let (run, _) = checked(&trace, name);
        for outcome in &run.outcomes {
            assert!(outcome.worker != 0 || outcome.sent >= 10.0, "{name}");
            assert!(outcome.worker != 1 || outcome.sent <= 20.0, "{name}");
        }
        assert!(
            run.outcomes.iter().any(|outcome| outcome.worker == 0),
            "{name}"
        );
    }
}

#[test]
fn the_reference_sticks_until_it_is_unbalanced() {
    let mut tree = Reference::new(3);
    let idle = [(0, 0), (1, 0), (2, 0)];
    let first = tree.pick(b"a long question about one thing", &idle, 0.0);
    let second = tree.pick(b"something else", &idle, 0.0);
    assert_ne!(first, second, "the smaller tree");
    let again = b"a long question about one thing, and more";
    assert_eq!(tree.pick(again, &idle, 0.0), first);
    let busy = idle.map(|(worker, _)| (worker, if worker == first { 65 } else { 0 }));
    assert_ne!(tree.pick(again, &busy, 0.0), first);
    let full = idle.map(|(worker, _)| (worker, 100 + worker * 40));
    assert_eq!(
        tree.pick(b"a long question", &full, 0.0),
        0,
        "unbalanced: the least loaded"
    );
    let others = [(1, 0), (2, 0)].map(|(worker, load)| ((worker + first) % 3, load));
    tree.leave(first);
    assert_ne!(tree.pick(again, &others, 0.0), first);
}
