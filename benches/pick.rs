//! What a pick of `cache_aware` costs, by number of workers and length of the prompt, and what
//! finding and hashing a prompt costs. Prints tables; `cargo bench --bench pick`.
#![expect(clippy::print_stdout, reason = "the tables are what a bench is for")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderMap;
use smg::api::Endpoint;
use smg::api::prompt::Prompt;
use smg::api::scan::{Fields, scan};
use smg::base::clock;
use smg::config::spec::{CacheAware, Policy};
use smg::plan::{Leg, Role, WorkerIx, WorkerKey};
use smg::policy::{Ask, Candidate, Hint, Measure, Memory, Mode, pick};

const WORKERS: [usize; 4] = [1, 16, 256, 2048];
const SIZES: [usize; 3] = [300, 16 << 10, 1 << 20];
const RUNS: usize = 9;

/// Nanoseconds that choosing and noting may take, by workers and bytes.
const PICK: [((usize, usize), f64); 2] = [((16, 16 << 10), 2000.0), ((2048, 16 << 10), 25_000.0)];

/// Nanoseconds per byte that finding and hashing may take.
const READ: f64 = 0.5;

fn main() {
    println!("a pick, ns, median of {RUNS} runs\n");
    println!("| prompt | workers | bytes | hashing | choosing | choosing and noting | at most |");
    println!("|---|--:|--:|--:|--:|--:|--:|");
    for (name, kind) in [
        ("new", Kind::New),
        ("known to one worker", Kind::One),
        ("known to all", Kind::All),
        ("its first half known to all", Kind::Half),
    ] {
        for workers in WORKERS {
            for size in SIZES {
                row(name, kind, workers, size);
            }
        }
    }
    println!("\nfinding and hashing the prompt, median of {RUNS} runs\n");
    println!("| body | bytes | ns | ns/byte | at most |");
    println!("|---|--:|--:|--:|--:|");
    for (name, make) in [
        ("one message", one_message as fn(usize) -> String),
        ("turns of 400 B", turns),
        ("source code", code),
    ] {
        for size in SIZES {
            let body = make(size);
            let stage = Stage::new(1, &body);
            let mut measure = Measure::default();
            let ns = median(body.len(), || {
                measure.read(&stage.ask(&stage.candidates(), Mode::Peek));
            });
            println!(
                "| {name} | {} | {ns:.0} | {:.3} | {READ} |",
                body.len(),
                ns / body.len() as f64
            );
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    New,
    One,
    All,
    Half,
}

fn row(name: &str, kind: Kind, workers: usize, size: usize) {
    let body = one_message(size);
    let stage = Stage::new(workers, &body);
    match kind {
        Kind::New => {}
        Kind::One => stage.warm(1),
        Kind::All => stage.warm(workers),
        Kind::Half => {
            let half = one_message(size / 2);
            let all = Stage::new(workers, &half);
            let stage = Stage {
                memory: Memory::default(),
                ..all
            };
            stage.warm(workers);
            return measured(name, kind, &stage.with(&body), size);
        }
    }
    measured(name, kind, &stage, size);
}

fn measured(name: &str, kind: Kind, stage: &Stage, size: usize) {
    let candidates = stage.candidates();
    let mut measure = Measure::default();
    let ask = stage.ask(&candidates, Mode::Peek);
    let hashing = median(size, || measure.read(&ask));
    let choosing = median(16_384, || {
        black_box(measure.choose(&ask));
    });
    let ask = stage.ask(&candidates, Mode::Take);
    // A new prompt is new once; each round names another model instead.
    let models: Vec<String> = (0..200_000).map(|n| format!("m{n}")).collect();
    let mut next = models.iter().cycle();
    let noting = if kind == Kind::New {
        let mut rounds: Vec<Duration> = (0..2000)
            .filter_map(|_| {
                let mut ask = ask;
                ask.hint.model = next.next()?;
                measure.read(&ask);
                let start = clock::now();
                black_box(measure.choose(&ask));
                Some(start.elapsed())
            })
            .collect();
        rounds.sort();
        rounds
            .get(rounds.len() / 2)
            .map_or(0.0, |round| round.as_secs_f64() * 1e9)
    } else {
        measure.read(&ask);
        median(16_384, || {
            black_box(measure.choose(&ask));
        })
    };
    let workers = stage.workers.len();
    let most = PICK
        .iter()
        .find(|(of, _)| *of == (workers, size))
        .map(|(_, most)| format!("{most:.0}"))
        .unwrap_or_default();
    println!(
        "| {name} | {workers} | {size} | {hashing:.0} | {choosing:.0} | {noting:.0} | {most} |"
    );
}

struct Stage {
    leg: Leg,
    memory: Memory,
    workers: Vec<WorkerKey>,
    body: Vec<Bytes>,
    fields: Fields,
    headers: HeaderMap,
    now: Instant,
}

impl Stage {
    fn new(workers: usize, body: &str) -> Self {
        Self {
            leg: Leg {
                role: Role::Regular,
                candidates: Vec::new(),
                policy: Policy::CacheAware(CacheAware::default()),
                ring: None,
                sticky: false,
            },
            memory: Memory::default(),
            workers: (0..workers)
                .map(|at| WorkerKey::new(&format!("http://worker-{at:04}:8000")))
                .collect(),
            body: vec![Bytes::from(body.to_owned())],
            fields: scan(body.as_bytes())
                .map(|scanned| scanned.fields)
                .unwrap_or_default(),
            headers: HeaderMap::new(),
            now: clock::now(),
        }
    }

    fn with(self, body: &str) -> Self {
        let Self { body, fields, .. } = Self {
            body: vec![Bytes::from(body.to_owned())],
            fields: scan(body.as_bytes())
                .map(|scanned| scanned.fields)
                .unwrap_or_default(),
            ..Self::new(0, body)
        };
        Self {
            body,
            fields,
            ..self
        }
    }

    fn candidates(&self) -> Vec<Candidate<'_>> {
        (0u32..)
            .zip(&self.workers)
            .map(|(at, key)| Candidate {
                ix: WorkerIx(at),
                key,
                lane: self.memory.enrol(key),
                load: 3,
                processed: 0,
                pending_prefill: 1000,
                prefill_rate: Some(8000.0),
                cost: 1.0,
                engine: None,
            })
            .collect()
    }

    fn ask<'a>(&'a self, candidates: &'a [Candidate<'a>], mode: Mode) -> Ask<'a> {
        Ask {
            leg: &self.leg,
            memory: &self.memory,
            candidates,
            hint: Hint {
                prompt: Prompt::new(Endpoint::Chat, &self.body, &self.fields),
                model: "m",
                headers: &self.headers,
                routing_key: None,
                tokens: None,
            },
            mode,
            now: self.now,
            notes: None,
        }
    }

    /// Has the first `workers` know the prompt.
    fn warm(&self, workers: usize) {
        let mut rng = fastrand::Rng::with_seed(1);
        let candidates = self.candidates();
        for only in candidates.iter().take(workers) {
            let only = [*only];
            pick(&self.ask(&only, Mode::Take), &mut rng).ok();
        }
    }
}

/// Nanoseconds per call: the median of several runs of some milliseconds each.
fn median(bytes: usize, mut call: impl FnMut()) -> f64 {
    let rounds = (8_000_000 / bytes.max(100)).clamp(3, 20_000);
    let mut runs: Vec<Duration> = (0..RUNS)
        .map(|_| {
            let start = clock::now();
            for _ in 0..rounds {
                call();
            }
            start.elapsed()
        })
        .collect();
    runs.sort();
    runs.get(RUNS / 2)
        .map_or(0.0, |run| run.as_secs_f64() * 1e9 / rounds as f64)
}

fn words(size: usize) -> String {
    let mut rng = fastrand::Rng::with_seed(5);
    let mut text = String::with_capacity(size + 8);
    while text.len() < size {
        for _ in 0..rng.usize(2..8) {
            text.push(rng.lowercase());
        }
        text.push(' ');
    }
    text.truncate(size);
    text
}

fn one_message(size: usize) -> String {
    format!(
        "{{\"model\":\"m\",\"messages\":[{{\"role\":\"user\",\"content\":\"{}\"}}]}}",
        words(size)
    )
}

fn turns(size: usize) -> String {
    let text = words(size.max(400));
    let messages: Vec<String> = text
        .as_bytes()
        .chunks(400)
        .map(|chunk| {
            let chunk = String::from_utf8_lossy(chunk);
            format!("{{\"role\":\"user\",\"content\":\"{chunk}\"}}")
        })
        .collect();
    format!("{{\"model\":\"m\",\"messages\":[{}]}}", messages.join(","))
}

fn code(size: usize) -> String {
    let line = "    let name = \\\"value\\\";\\n\\tprintln!(\\\"{name}\\\");\\n";
    format!(
        "{{\"model\":\"m\",\"messages\":[{{\"role\":\"user\",\"content\":\"{}\"}}]}}",
        line.repeat(size / line.len() + 1)
    )
}
