//! The same kinds of traces, small, against real sample workers through the real gateway, on
//! loopback and on the real clock.

mod client;
mod stage;

use std::fmt::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use ahash::AHashSet;
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::{Value, json};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use self::stage::{Stage, Worker};
use crate::sim::contender::{Contender, DEFAULT};
use crate::sim::figures::quantile;
use crate::sim::trace::Trace;
use crate::sim::traces::{CHAT, Talk, interleaved};

const WORKERS: usize = 4;
const WORKER: Worker = Worker {
    prefill_rate: 8000,
    gap: 5,
    delay: 0,
};
const SEED: u64 = 1;
/// Blocks of the sample worker: 16 tokens of four bytes.
const BLOCK_BYTES: usize = 64;
/// Nothing here takes longer, unless something is broken.
const PATIENCE: Duration = Duration::from_secs(60);
/// Runs at once. They mostly wait, for they are as slow as the engines that they stand for.
const AT_ONCE: usize = 6;

type Broken = Box<dyn std::error::Error + Send + Sync>;

/// A trace.
struct Kind {
    name: &'static str,
    talk: Talk,
    deadline: f64,
    /// What the caches together hold of the prompts' distinct tokens.
    share: f64,
    /// Whether all policies run it, or only the most interesting ones.
    all: bool,
    /// The last worker, where it is unlike the others.
    last: Worker,
    /// Whether requests are sent one after the other.
    closed: bool,
    also: &'static str,
}

const MULTI_TURN: Kind = Kind {
    name: "multi-turn",
    talk: Talk {
        sessions: 56,
        rate: 7.0,
        systems: 12,
        system: (200, 1200),
        turns: (3, 6),
        first: (200, 1600),
        question: (200, 1600),
        answer: (16, 48),
        think: 0.4,
    },
    deadline: 0.5,
    share: 0.5,
    all: true,
    last: WORKER,
    closed: false,
    also: "",
};

const KINDS: [Kind; 7] = [
    MULTI_TURN,
    Kind {
        name: "agent",
        talk: Talk {
            sessions: 16,
            rate: 4.0,
            systems: 3,
            system: (1000, 2000),
            turns: (8, 16),
            first: (200, 1000),
            question: (200, 1200),
            answer: (8, 24),
            think: 0.3,
        },
        share: 0.8,
        all: false,
        ..MULTI_TURN
    },
    Kind {
        name: "32k-in",
        talk: Talk {
            sessions: 9,
            rate: 0.7,
            systems: 0,
            turns: (1, 3),
            first: (32_000, 32_000),
            question: (50, 200),
            answer: (1, 1),
            think: 2.0,
            ..CHAT
        },
        deadline: 6.0,
        all: false,
        ..MULTI_TURN
    },
    Kind {
        name: "unique",
        talk: Talk {
            sessions: 70,
            rate: 8.0,
            systems: 0,
            turns: (1, 1),
            first: (800, 6400),
            ..MULTI_TURN.talk
        },
        deadline: 1.0,
        all: false,
        ..MULTI_TURN
    },
    Kind {
        name: "concurrency-1",
        talk: Talk {
            sessions: 12,
            systems: 4,
            ..MULTI_TURN.talk
        },
        deadline: 0.25,
        share: 0.8,
        all: false,
        closed: true,
        also: "; one request at a time, of 8 sessions in random turns",
        ..MULTI_TURN
    },
    Kind {
        name: "slow-worker",
        talk: Talk {
            rate: 5.0,
            sessions: 45,
            ..MULTI_TURN.talk
        },
        all: false,
        last: Worker {
            prefill_rate: WORKER.prefill_rate / 3,
            gap: WORKER.gap * 3,
            delay: 0,
        },
        also: "; one of them takes three times as long for everything",
        ..MULTI_TURN
    },
    Kind {
        name: "cold-replica",
        talk: Talk {
            rate: 5.5,
            ..MULTI_TURN.talk
        },
        all: false,
        last: Worker { delay: 5, ..WORKER },
        also: "; one of them can be reached only after 5 s",
        ..MULTI_TURN
    },
];

/// Policies that run every trace.
const SOME: [&str; 4] = [DEFAULT, "cache_aware/tree", "least_load", "round_robin"];

/// What came out, in Markdown and for machines.
pub(crate) struct Report {
    pub(crate) text: String,
    pub(crate) json: Value,
}

/// A trace, ready to run.
struct Ready {
    kind: &'static Kind,
    trace: Trace,
    oracle: Oracle,
    cache: usize,
}

#[derive(Debug, Serialize)]
struct Row {
    policy: &'static str,
    hit: f64,
    of_oracle: f64,
    ttft_p50: f64,
    ttft_p99: f64,
    spread: f64,
    good: f64,
}

/// Runs what `only` names, or all, under those of `contenders` that are policies of smg.
///
/// # Errors
/// A process that does not start, or a request that fails.
pub(crate) fn run(smg: &Path, only: &[String], contenders: &[Contender]) -> Result<Report, Broken> {
    static ALL: [Kind; KINDS.len()] = KINDS;
    let wanted = |kind: &&Kind| only.is_empty() || only.iter().any(|name| name == kind.name);
    let ready: Vec<Ready> = ALL.iter().filter(wanted).map(Ready::of).collect();
    let tasks: Vec<(usize, Contender)> = ready
        .iter()
        .enumerate()
        .flat_map(|(at, ready)| contenders.iter().map(move |one| (at, ready, *one)))
        .filter(|(_, ready, one)| ready.kind.all || SOME.contains(&one.name))
        .map(|(at, _, one)| (at, one))
        .collect();
    let next = AtomicUsize::new(0);
    let rows: Mutex<Vec<(usize, Row)>> = Mutex::default();
    let failed: Mutex<Option<Broken>> = Mutex::default();
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some((at, contender)) = tasks.get(next.fetch_add(1, Ordering::Relaxed))
                    && failed.lock().is_none()
                {
                    match ready[*at].measure(smg, *contender) {
                        Ok(Some(row)) => rows.lock().push((*at * 100 + place(*contender), row)),
                        Ok(None) => {}
                        Err(error) => *failed.lock() = Some(error),
                    }
                    eprint!("\r\x1b[Klive {} {}", ready[*at].kind.name, contender.name);
                }
            });
        }
    });
    eprint!("\r\x1b[K");
    if let Some(error) = failed.into_inner() {
        return Err(error);
    }
    let mut rows = rows.into_inner();
    rows.sort_by_key(|(at, _)| *at);
    let mut text = String::new();
    let mut traces = Vec::new();
    for (at, ready) in ready.iter().enumerate() {
        let rows = rows.iter().filter(|(place, _)| place / 100 == at);
        let rows: Vec<&Row> = rows.map(|(_, row)| row).collect();
        text += &ready.table(&rows);
        traces.push(json!({
            "trace": ready.kind.name,
            "about": ready.about(),
            "deadline": ready.kind.deadline,
            "policies": rows,
        }));
    }
    Ok(Report {
        text,
        json: traces.into(),
    })
}

fn place(contender: Contender) -> usize {
    let all = crate::sim::contender::ALL;
    all.iter().position(|one| *one == contender).unwrap_or(0)
}

impl Ready {
    fn of(kind: &'static Kind) -> Self {
        let mut trace = kind.talk.write(SEED, kind.deadline);
        if kind.closed {
            trace.closed = Some(interleaved(&trace, 8, SEED));
        }
        let oracle = Oracle::of(&trace);
        Self {
            kind,
            cache: ((oracle.distinct as f64 * kind.share) as usize / WORKERS).max(1) * BLOCK_BYTES
                / 4,
            oracle,
            trace,
        }
    }

    fn about(&self) -> String {
        let Worker {
            prefill_rate, gap, ..
        } = WORKER;
        format!(
            "{} requests: {}; {WORKERS} sample workers, each {prefill_rate} prompt tokens/s, {gap} \
             ms between tokens, 32 requests at once, caches of {} tokens (together {:.0} % \
             of the prompts' distinct tokens){}",
            self.trace.requests(),
            self.trace.about,
            self.cache,
            self.kind.share * 100.0,
            self.kind.also
        )
    }

    fn measure(&self, smg: &Path, contender: Contender) -> Result<Option<Row>, Broken> {
        let Some(policy) = contender.policy() else {
            return Ok(None);
        };
        let mut workers = [WORKER; WORKERS];
        if let Some(last) = workers.last_mut() {
            *last = self.kind.last;
        }
        let stage = Stage::start(smg, &workers, self.cache, &policy)?;
        let mut waits = client::run(stage.gateway, &self.trace)?;
        let counts = stage.counts()?;
        waits.sort_unstable_by(f64::total_cmp);
        let hit = counts.cached_tokens / counts.prompt_tokens.max(1.0);
        let good = waits.partition_point(|wait| *wait <= self.kind.deadline);
        let most = counts.requests.iter().copied().fold(0.0, f64::max);
        let mean = counts.requests.iter().sum::<f64>() / counts.requests.len() as f64;
        Ok(Some(Row {
            policy: contender.name,
            hit,
            of_oracle: if self.oracle.hit_blocks == 0 {
                1.0
            } else {
                hit / self.oracle.hit()
            },
            ttft_p50: quantile(&waits, 0.5),
            ttft_p99: quantile(&waits, 0.99),
            spread: most / mean,
            good: good as f64 / waits.len().max(1) as f64,
        }))
    }

    fn table(&self, rows: &[&Row]) -> String {
        let mut out = format!(
            "### {}, live\n\n{}. Deadline of the first token: {} s.\n\n\
             | policy               | hit % | of oracle % | TTFT p50 ms | TTFT p99 ms | max/mean | \
             good % |\n|----------------------|--:|--:|--:|--:|--:|--:|\n",
            self.kind.name,
            self.about(),
            self.kind.deadline
        );
        for row in rows {
            let _infallible = writeln!(
                out,
                "| {:<20} | {:5.1} | {:11.2} | {:11.0} | {:11.0} | {:8.3} | {:6.1} |",
                row.policy,
                row.hit * 100.0,
                row.of_oracle * 100.0,
                row.ttft_p50 * 1e3,
                row.ttft_p99 * 1e3,
                row.spread,
                row.good * 100.0
            );
        }
        out.push('\n');
        out
    }
}

/// What one infinite cache would hold, counted as the sample worker counts.
struct Oracle {
    distinct: usize,
    hit_blocks: usize,
    blocks: usize,
}

impl Oracle {
    fn of(trace: &Trace) -> Self {
        let mut oracle = Self {
            distinct: 0,
            hit_blocks: 0,
            blocks: 0,
        };
        let mut seen = AHashSet::new();
        for session in &trace.sessions {
            for turn in &session.turns {
                let body = turn.body(session).concat();
                let body: Value = serde_json::from_slice(&body).unwrap_or_default();
                let mut text = String::new();
                for message in body["messages"].as_array().into_iter().flatten() {
                    for part in ["role", "content"] {
                        text += message[part].as_str().unwrap_or_default();
                        text.push('\n');
                    }
                }
                let mut chain = 0;
                for block in text.as_bytes().chunks_exact(BLOCK_BYTES) {
                    chain = xxh3_64_with_seed(block, chain);
                    oracle.blocks += 1;
                    oracle.hit_blocks += usize::from(!seen.insert(chain));
                }
            }
        }
        oracle.distinct = seen.len();
        oracle
    }

    fn hit(&self) -> f64 {
        self.hit_blocks as f64 / self.blocks.max(1) as f64
    }
}
