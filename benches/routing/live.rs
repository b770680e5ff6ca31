//! The same kinds of traces, small, against real sample workers through the real gateway, on
//! loopback and on the real clock.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use ahash::AHashSet;
use parking_lot::Mutex;
use serde_json::{Value, json};
use smg::base::clock;
use smg::config::spec::Policy;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::sim::contender::{Contender, DEFAULT};
use crate::sim::figures::quantile;
use crate::sim::trace::{Session, Trace};
use crate::sim::traces::{CHAT, Talk};

const WORKERS: usize = 4;
const PREFILL_RATE: u64 = 8000;
const SEED: u64 = 1;
/// Blocks of the sample worker: 16 tokens of four bytes.
const BLOCK_BYTES: usize = 64;
/// Nothing here takes longer, unless something is broken.
const PATIENCE: Duration = Duration::from_secs(60);

type Broken = Box<dyn std::error::Error + Send + Sync>;

/// A trace, and whether all policies run it or only the most interesting ones.
struct Kind {
    name: &'static str,
    talk: Talk,
    deadline: f64,
    all: bool,
}

const KINDS: [Kind; 3] = [
    Kind {
        name: "multi-turn",
        talk: Talk {
            sessions: 60,
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
        all: true,
    },
    Kind {
        name: "agent",
        talk: Talk {
            sessions: 16,
            rate: 4.0,
            systems: 3,
            system: (1000, 2000),
            turns: (10, 20),
            first: (200, 1000),
            question: (200, 1200),
            answer: (8, 24),
            think: 0.1,
        },
        deadline: 0.5,
        all: false,
    },
    Kind {
        name: "unique",
        talk: Talk {
            sessions: 80,
            rate: 9.0,
            systems: 0,
            turns: (1, 1),
            first: (800, 6400),
            answer: (16, 48),
            ..CHAT
        },
        deadline: 1.0,
        all: false,
    },
];

/// Policies that run every trace.
const SOME: [&str; 4] = [DEFAULT, "cache_aware/tree", "least_load", "round_robin"];

/// What came out, in Markdown and for machines.
pub(crate) struct Report {
    pub(crate) text: String,
    pub(crate) json: Value,
}

/// Runs what `only` names, or all, under those of `contenders` that are policies of smg.
///
/// # Errors
/// A process that does not start, or a request that fails.
pub(crate) fn run(smg: &Path, only: &[String], contenders: &[Contender]) -> Result<Report, Broken> {
    let mut text = String::new();
    let mut traces = Vec::new();
    let wanted = |kind: &&Kind| only.is_empty() || only.iter().any(|name| name == kind.name);
    for kind in KINDS.iter().filter(wanted) {
        let trace = kind.talk.write(SEED, kind.deadline);
        let oracle = Oracle::of(&trace);
        let cache = (oracle.distinct / 2 / WORKERS).max(1) * BLOCK_BYTES / 4;
        let about = format!(
            "{} requests: {}; {WORKERS} sample workers, each {PREFILL_RATE} prompt tokens/s, 5 ms \
             between tokens, 32 requests at once, caches of {cache} tokens (together half of the \
             prompts' distinct tokens)",
            trace.requests(),
            trace.about
        );
        text += &format!(
            "### {}\n\n{about}. Deadline of the first token: {} s.\n\n",
            kind.name, kind.deadline
        );
        text += "| policy               | hit % | of oracle % | TTFT p50 ms | TTFT p99 ms | max/mean | good % |\n";
        text += "|----------------------|--:|--:|--:|--:|--:|--:|\n";
        let mut rows = Vec::new();
        for contender in contenders {
            let Some(policy) = contender.policy() else {
                continue;
            };
            if !kind.all && !SOME.contains(&contender.name) {
                continue;
            }
            eprint!("\r\x1b[Klive: {} {}", kind.name, contender.name);
            let seen = measure(smg, &policy, &trace, cache)?;
            let row = seen.figures(kind.deadline, &oracle);
            text += &format!(
                "| {:<20} | {:5.1} | {:11.2} | {:11.0} | {:11.0} | {:8.3} | {:6.1} |\n",
                contender.name,
                row[0] * 100.0,
                row[1] * 100.0,
                row[2] * 1e3,
                row[3] * 1e3,
                row[4],
                row[5] * 100.0
            );
            rows.push(json!({
                "policy": contender.name, "hit": row[0], "of_oracle": row[1], "ttft_p50": row[2],
                "ttft_p99": row[3], "spread": row[4], "good": row[5],
            }));
        }
        text.push('\n');
        traces.push(json!({
            "trace": kind.name, "about": about, "deadline": kind.deadline, "policies": rows,
        }));
    }
    eprint!("\r\x1b[K");
    Ok(Report {
        text,
        json: traces.into(),
    })
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

/// What was seen of one policy.
#[derive(Default)]
struct Seen {
    waits: Vec<f64>,
    requests: Vec<f64>,
    prompt_tokens: f64,
    cached_tokens: f64,
}

impl Seen {
    /// Hit share, of the oracle, median and 99th percentile of the wait, spread, share in time.
    fn figures(mut self, deadline: f64, oracle: &Oracle) -> [f64; 6] {
        self.waits.sort_unstable_by(f64::total_cmp);
        let hit = self.cached_tokens / self.prompt_tokens.max(1.0);
        let good = self.waits.partition_point(|wait| *wait <= deadline);
        let mean = self.requests.iter().sum::<f64>() / self.requests.len().max(1) as f64;
        let of_oracle = if oracle.hit_blocks == 0 {
            1.0
        } else {
            hit / oracle.hit()
        };
        [
            hit,
            of_oracle,
            quantile(&self.waits, 0.5),
            quantile(&self.waits, 0.99),
            self.requests.iter().copied().fold(0.0, f64::max) / mean,
            good as f64 / self.waits.len().max(1) as f64,
        ]
    }
}

/// A process that is ended with its owner.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself, which is as good.
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

fn measure(smg: &Path, policy: &Policy, trace: &Trace, cache: usize) -> Result<Seen, Broken> {
    let mut processes = Vec::new();
    let mut workers = Vec::new();
    for _ in 0..WORKERS {
        let (process, address) = sample_worker(smg, cache)?;
        processes.push(process);
        workers.push(address);
    }
    let folder = tempfile::tempdir()?;
    // Free a moment ago; nothing on this machine takes ports in between but by chance.
    let gateway = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let file = folder.path().join("smg.toml");
    std::fs::write(&file, config(gateway, &workers, policy)?)?;
    let child = Command::new(smg)
        .arg("--config")
        .arg(&file)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    processes.push(Process(child));
    wait_until_ready(gateway)?;
    let seen = Mutex::new(Seen::default());
    let failed: Mutex<Option<Broken>> = Mutex::default();
    let began = clock::now();
    thread::scope(|scope| {
        for session in &trace.sessions {
            scope.spawn(|| {
                if let Err(error) = talk(gateway, session, began, &seen) {
                    *failed.lock() = Some(error);
                }
            });
        }
    });
    if let Some(error) = failed.into_inner() {
        return Err(error);
    }
    let mut seen = seen.into_inner();
    for worker in workers {
        let (_, stats) = get(worker, "/sample/stats")?;
        let stats: Value = serde_json::from_str(&stats)?;
        let count = |value: &Value| value.as_f64().unwrap_or(0.0);
        seen.requests
            .push(count(&stats["received"]["/v1/chat/completions"]));
        seen.prompt_tokens += count(&stats["prompt_tokens"]);
        seen.cached_tokens += count(&stats["cached_tokens"]);
    }
    Ok(seen)
}

fn sample_worker(smg: &Path, cache: usize) -> Result<(Process, SocketAddr), Broken> {
    let mut child = Command::new(smg)
        .args([
            "sample-worker",
            "--port",
            "0",
            "--model",
            "m",
            "--itl",
            "5ms",
        ])
        .args([
            "--max-running",
            "32",
            "--prefill-rate",
            &PREFILL_RATE.to_string(),
        ])
        .args(["--cache-tokens", &cache.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let out = child.stdout.take();
    let process = Process(child);
    let mut line = String::new();
    if let Some(out) = out {
        BufReader::new(out).read_line(&mut line)?;
    }
    let address = line
        .split_once("http://")
        .and_then(|(_, rest)| rest.split(' ').next());
    let address = address.ok_or("the sample worker does not say where it listens")?;
    Ok((process, address.trim().parse()?))
}

fn config(gateway: SocketAddr, workers: &[SocketAddr], policy: &Policy) -> Result<String, Broken> {
    #[derive(serde::Serialize)]
    struct Routing<'a> {
        policy: &'a Policy,
    }
    let policy = toml::to_string(&Routing { policy })?;
    let urls: Vec<String> = workers
        .iter()
        .map(|at| format!("\"http://{at}\""))
        .collect();
    let policy = policy.replace("[policy", "[routing.policy");
    let routing = if policy.starts_with('[') {
        policy
    } else {
        format!("[routing]\n{policy}")
    };
    Ok(format!(
        "version = 1\n\
         [[listeners]]\nname = \"main\"\naddress = \"{gateway}\"\nserve = [\"inference\", \"probes\"]\n\
         [[pools]]\nname = \"p\"\nruntime = \"sglang\"\nworkers = [{}]\n\
         [[models]]\nname = \"m\"\npool = \"p\"\n{routing}",
        urls.join(", ")
    ))
}

fn wait_until_ready(gateway: SocketAddr) -> Result<(), Broken> {
    let by = clock::now() + PATIENCE;
    loop {
        if get(gateway, "/readiness").is_ok_and(|(status, _)| status == 200) {
            return Ok(());
        }
        if clock::now() > by {
            return Err("the gateway does not become ready".into());
        }
        thread::sleep(Duration::from_millis(20));
    }
}

fn get(to: SocketAddr, path: &str) -> Result<(u16, String), Broken> {
    let mut stream = TcpStream::connect(to)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: {to}\r\nconnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("half an answer")?;
    Ok((status(head.as_bytes()), body.to_owned()))
}

fn status(head: &[u8]) -> u16 {
    let word = head.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
    std::str::from_utf8(word)
        .ok()
        .and_then(|word| word.parse().ok())
        .unwrap_or(0)
}

/// One session, from its start to its last answer.
fn talk(
    to: SocketAddr,
    session: &Session,
    began: Instant,
    seen: &Mutex<Seen>,
) -> Result<(), Broken> {
    let start = began + Duration::from_secs_f64(session.start);
    thread::sleep(start.saturating_duration_since(clock::now()));
    for (at, turn) in session.turns.iter().enumerate() {
        if at > 0 {
            thread::sleep(Duration::from_secs_f64(turn.think));
        }
        let end = format!("],\"stream\":true,\"max_tokens\":{}}}", turn.output_tokens);
        let start = session.body.get(..turn.cut).unwrap_or_default();
        let head = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: {to}\r\nconnection: close\r\n\
             content-type: application/json\r\nx-smg-routing-key: {}\r\ncontent-length: {}\r\n\r\n",
            session.key,
            start.len() + end.len()
        );
        let sent = clock::now();
        let mut stream = TcpStream::connect(to)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(&[head.as_bytes(), start, end.as_bytes()].concat())?;
        let wait = first_token(stream, sent)?;
        seen.lock().waits.push(wait);
    }
    Ok(())
}

/// Reads the whole stream; seconds until its first text.
fn first_token(mut stream: TcpStream, sent: Instant) -> Result<f64, Broken> {
    const TEXT: &[u8] = b"\"content\":\"";
    let mut first = None;
    let mut answer = Vec::new();
    let mut piece = [0; 16 * 1024];
    loop {
        let count = stream.read(&mut piece)?;
        if count == 0 {
            break;
        }
        answer.extend_from_slice(piece.get(..count).unwrap_or_default());
        if first.is_none() {
            let begun = memchr::memmem::find_iter(&answer, TEXT).any(|at| {
                answer
                    .get(at + TEXT.len())
                    .is_some_and(|byte| *byte != b'"')
            });
            first = begun.then(|| clock::now().saturating_duration_since(sent));
        }
    }
    match first {
        Some(wait) if status(&answer) == 200 => Ok(wait.as_secs_f64()),
        _ => Err(format!(
            "an answer without text: {}",
            String::from_utf8_lossy(&answer)
        )
        .into()),
    }
}
