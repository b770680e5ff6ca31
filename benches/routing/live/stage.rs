//! Sample workers and a gateway in front of them, as processes on loopback.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use smg::base::clock;
use smg::config::spec::Policy;
use tempfile::TempDir;

use super::{Broken, PATIENCE};

/// How fast a sample worker is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Worker {
    /// Prompt tokens computed per second.
    pub(super) prefill_rate: u64,
    /// Milliseconds between two tokens of an answer.
    pub(super) gap: u64,
    /// Seconds after the start during which nobody can connect.
    pub(super) delay: u64,
}

/// A running gateway with its workers. All of it ends with the owner.
pub(super) struct Stage {
    /// Where the gateway listens.
    pub(super) gateway: SocketAddr,
    workers: Vec<SocketAddr>,
    _processes: Vec<Process>,
    _folder: TempDir,
}

/// What the workers counted.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) requests: Vec<f64>,
    pub(super) prompt_tokens: f64,
    pub(super) cached_tokens: f64,
}

struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself, which is as good.
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

impl Stage {
    /// Starts all of it and waits until it serves.
    pub(super) fn start(
        smg: &Path,
        workers: &[Worker],
        cache: usize,
        policy: &Policy,
    ) -> Result<Self, Broken> {
        let mut processes = Vec::new();
        let mut addresses = Vec::new();
        for worker in workers {
            let address = free()?;
            processes.push(worker.start(smg, address, cache)?);
            addresses.push(address);
        }
        for (worker, address) in workers.iter().zip(&addresses) {
            if worker.delay == 0 {
                until_200(*address, "/health")?;
            }
        }
        let gateway = free()?;
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("smg.toml");
        std::fs::write(&file, config(gateway, &addresses, policy)?)?;
        let mut command = Command::new(smg);
        processes.push(spawn(command.arg("--config").arg(&file))?);
        until_200(gateway, "/readiness")?;
        Ok(Self {
            gateway,
            workers: addresses,
            _processes: processes,
            _folder: folder,
        })
    }

    /// What the workers have counted so far.
    pub(super) fn counts(&self) -> Result<Counts, Broken> {
        let mut counts = Counts::default();
        for worker in &self.workers {
            let (_, stats) = get(*worker, "/sample/stats")?;
            let stats: Value = serde_json::from_str(&stats)?;
            let count = |value: &Value| value.as_f64().unwrap_or(0.0);
            let requests = count(&stats["received"]["/v1/chat/completions"]);
            counts.requests.push(requests);
            counts.prompt_tokens += count(&stats["prompt_tokens"]);
            counts.cached_tokens += count(&stats["cached_tokens"]);
        }
        Ok(counts)
    }
}

impl Worker {
    fn start(self, smg: &Path, at: SocketAddr, cache: usize) -> Result<Process, Broken> {
        let mut command = Command::new(smg);
        command.args(["sample-worker", "--model", "m", "--max-running", "32"]);
        for (flag, value) in [
            ("--port", at.port().to_string()),
            ("--prefill-rate", self.prefill_rate.to_string()),
            ("--itl", format!("{}ms", self.gap)),
            ("--startup-delay", format!("{}s", self.delay)),
            ("--cache-tokens", cache.to_string()),
        ] {
            command.args([flag, &value]);
        }
        spawn(&mut command)
    }
}

fn spawn(command: &mut Command) -> Result<Process, Broken> {
    let command = command.stdin(Stdio::null()).stdout(Stdio::null());
    let child = command.stderr(Stdio::null()).spawn();
    let child = child.map_err(|error| format!("{command:?}: {error}"))?;
    Ok(Process(child))
}

/// An address that was free a moment ago. Somebody else could take it before it is used; then
/// nothing becomes ready, and the run fails instead of measuring something else.
fn free() -> Result<SocketAddr, Broken> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

fn config(gateway: SocketAddr, workers: &[SocketAddr], policy: &Policy) -> Result<String, Broken> {
    #[derive(serde::Serialize)]
    struct File<'a> {
        routing: Routing<'a>,
    }
    #[derive(serde::Serialize)]
    struct Routing<'a> {
        policy: &'a Policy,
    }
    let urls: Vec<String> = workers
        .iter()
        .map(|at| format!("\"http://{at}\""))
        .collect();
    let routing = toml::to_string(&File {
        routing: Routing { policy },
    })?;
    Ok(format!(
        r#"version = 1
[[listeners]]
name = "main"
address = "{gateway}"
serve = ["inference", "probes"]
[[pools]]
name = "p"
runtime = "sglang"
workers = [{}]
[[models]]
name = "m"
pool = "p"
[reliability.health]
interval = "1s"
success_threshold = 1
{routing}"#,
        urls.join(", ")
    ))
}

fn until_200(at: SocketAddr, path: &str) -> Result<(), Broken> {
    let by = clock::now() + PATIENCE;
    loop {
        if get(at, path).is_ok_and(|(status, _)| status == 200) {
            return Ok(());
        }
        if clock::now() > by {
            return Err(format!("http://{at}{path} does not become 200").into());
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

/// The status of an answer.
pub(super) fn status(head: &[u8]) -> u16 {
    let word = head.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
    let word = std::str::from_utf8(word).ok();
    word.and_then(|word| word.parse().ok()).unwrap_or(0)
}
