//! The packaged service under a real systemd: of Debian 13, and of Debian 12, which is the oldest
//! that the units are for.
//!
//! A boot takes two seconds and a scenario about one, so each system is booted once and plays all.

mod activation;
mod failures;
mod reloads;
mod sandbox;
mod secrets;
mod upgrades;

use std::net::{SocketAddr, TcpListener, TcpStream as StdStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::machine::Machine;
use crate::support::client::{json_request, request};
use crate::support::{Connection, FakeEngine, Gate, Step, eventually, get};

/// Long enough for a loaded machine.
const PATIENCE: Duration = Duration::from_secs(30);

const CONFIG: &str = "/etc/smg/smg.toml";

#[tokio::test(flavor = "multi_thread")]
async fn debian_13() {
    play("trixie").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn debian_12() {
    play("bookworm").await;
}

async fn play(suite: &str) {
    let Some(machine) = Machine::boot(suite).await else {
        return;
    };
    machine.install();
    let stage = Stage::new(machine).await;
    println!(
        "{}",
        stage
            .machine
            .ok(&["systemctl", "--version"])
            .lines()
            .next()
            .unwrap()
    );
    macro_rules! scenes {
        ($($scene:path),* $(,)?) => {$(
            if is_wanted(stringify!($scene)) {
            let begun = Instant::now();
            stage.fresh();
            $scene(&stage).await;
            println!("{:>6.1} s  {}", begun.elapsed().as_secs_f64(), stringify!($scene));
            }
        )*};
    }
    scenes![
        reloads::as_installed,
        reloads::good_and_bad,
        reloads::by_signal,
        failures::an_invalid_file,
        failures::a_crash,
        failures::a_hang,
        failures::a_stop_waits_for_streams,
        sandbox::is_shut,
        sandbox::lets_through_what_is_needed,
        sandbox::keeps_state_and_logs,
        sandbox::takes_a_low_port,
        secrets::are_credentials,
        activation::by_the_first_connection,
        activation::a_restart_refuses_nobody,
        activation::through_a_unix_socket,
        upgrades::change_the_main_process,
        upgrades::finish_old_streams,
        upgrades::that_fail_change_nothing,
        upgrades::with_the_sockets_of_systemd,
    ];
}

/// Whether the scene is played: `SMG_SCENE=restart` keeps to those with that in their names.
fn is_wanted(scene: &str) -> bool {
    std::env::var("SMG_SCENE").map_or(true, |only| scene.contains(&only))
}

/// What all scenes have: the machine, ports of their own, and a worker.
pub(super) struct Stage {
    pub(super) machine: Machine,
    pub(super) main: SocketAddr,
    metrics: SocketAddr,
    probes: SocketAddr,
    pub(super) engine: FakeEngine,
    /// Streams of the engine wait for it after their first token.
    pub(super) gate: Gate,
}

impl Stage {
    async fn new(machine: Machine) -> Self {
        let gate = Gate::closed();
        let held = gate.clone();
        let engine = FakeEngine::serving("m", move |asked| match asked.json()["stream"] == true {
            true => two_tokens(&held),
            false => vec![Step::json(
                200,
                &json!({ "object": "text_completion", "choices": [] }),
            )],
        });
        Self {
            machine,
            main: free(),
            metrics: free(),
            probes: free(),
            engine: engine.await,
            gate,
        }
    }

    /// Nothing runs, nothing is left of earlier scenes, and the installed file is the example.
    fn fresh(&self) {
        let machine = &self.machine;
        machine.ok(&["systemctl", "stop", "smg.socket", "smg.service"]);
        machine.ok(&[
            "sh",
            "-c",
            "rm -rf /etc/systemd/system/smg.* /etc/smg/* /var/lib/smg/* /var/log/smg/*",
        ]);
        machine.ok(&["systemctl", "daemon-reload"]);
        machine.run(&["systemctl", "reset-failed"]);
        self.configure(&self.example());
        self.pool(&format!("http://{}", self.engine.address()), "");
    }

    /// `config/smg.toml`, with ports that are free.
    pub(super) fn example(&self) -> String {
        let mut text = std::fs::read_to_string("config/smg.toml").unwrap();
        for (packaged, free) in [
            ("127.0.0.1:30000", self.main),
            ("127.0.0.1:30001", self.probes),
            ("127.0.0.1:29000", self.metrics),
        ] {
            // Comments name addresses, too.
            let packaged = format!("\naddress = {packaged:?}\n");
            assert_eq!(text.matches(&packaged).count(), 1, "{packaged}");
            text = text.replace(&packaged, &format!("\naddress = \"{free}\"\n"));
        }
        text
    }

    /// The example with its first listener on the socket that systemd passes.
    pub(super) fn activated(&self) -> String {
        let address = format!("\"{}\"", self.main);
        self.example().replacen(&address, "\"systemd:main\"", 1)
    }

    /// Writes `smg.toml` as the package does.
    pub(super) fn configure(&self, text: &str) {
        self.machine.write("/etc/smg/.new", text);
        self.machine.ok(&["chown", "root:smg", "/etc/smg/.new"]);
        self.machine.ok(&["chmod", "0640", "/etc/smg/.new"]);
        self.machine.ok(&["mv", "/etc/smg/.new", CONFIG]);
    }

    /// Writes the pool, which has this worker and further keys.
    pub(super) fn pool(&self, worker: &str, more: &str) {
        let text = format!(
            "[[pools]]\nname = \"p\"\nruntime = \"vllm\"\nworkers = [{worker:?}]\n\
             health.enabled = false\n{more}\n\n[[models]]\nname = \"m\"\npool = \"p\"\n"
        );
        self.machine.write("/etc/smg/conf.d/pool.toml", &text);
    }

    pub(super) fn start(&self) {
        self.machine.ok(&["systemctl", "start", "smg"]);
        assert_eq!(self.machine.property("ActiveState"), "active");
    }

    /// The answer to a completion.
    pub(super) async fn complete(&self) -> Result<u16, String> {
        complete(self.main).await
    }

    /// Waits until completions are answered.
    #[track_caller]
    pub(super) fn serves(&self) -> impl Future<Output = ()> {
        eventually(PATIENCE, async || self.complete().await == Ok(200))
    }

    pub(super) async fn generation(&self) -> u64 {
        let status = get(self.main, "/admin/config/status").await.json();
        status["live"]["generation"].as_u64().unwrap()
    }

    /// The value of a metric.
    pub(super) async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let text = get(self.metrics, "/metrics").await.text();
        crate::support::metrics::Samples::parse(&text).sum(name, labels)
    }

    /// Clients that each ask over a connection of their own, until they are told to stop.
    pub(super) fn load(&self) -> Load {
        let (count, stop) = (
            Arc::new(AtomicUsize::new(0)),
            Arc::new(AtomicBool::new(false)),
        );
        let main = self.main;
        let client = || {
            let (count, stop) = (Arc::clone(&count), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut failures = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    match complete(main).await {
                        Ok(200) => drop(count.fetch_add(1, Ordering::Relaxed)),
                        Ok(status) => failures.push(format!("status {status}")),
                        Err(error) => failures.push(error),
                    }
                }
                failures
            })
        };
        let clients = (0..4).map(|_| client()).collect();
        Load {
            clients,
            count,
            stop,
        }
    }
}

/// Clients at work.
pub(super) struct Load {
    clients: Vec<JoinHandle<Vec<String>>>,
    count: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
}

impl Load {
    /// Waits for so many further answers.
    pub(super) async fn goes_on(&self, answers: usize) {
        let wanted = self.count.load(Ordering::Relaxed) + answers;
        eventually(PATIENCE, async || {
            self.count.load(Ordering::Relaxed) >= wanted
        })
        .await;
    }

    /// Stops them; panics if any request failed.
    pub(super) async fn had_no_failure(self) {
        self.stop.store(true, Ordering::Relaxed);
        let mut failures = Vec::new();
        for client in self.clients {
            failures.extend(client.await.unwrap());
        }
        let answers = self.count.load(Ordering::Relaxed);
        assert!(failures.is_empty(), "{answers} answers, and {failures:?}");
    }
}

/// Asks for a completion over a new connection.
async fn complete(main: SocketAddr) -> Result<u16, String> {
    let stream = TcpStream::connect(main).await;
    let stream = stream.map_err(|error| format!("connect: {error}"))?;
    let mut connection = Connection::h1_over(stream, &main.to_string()).await;
    let asked = json_request("/v1/completions", &json!({ "model": "m", "prompt": "hi" }));
    let answer = connection.try_send(asked).await;
    answer
        .map(|answer| answer.status)
        .map_err(|error| format!("{error:?}"))
}

/// `GET` over a new connection; the status, if there is an answer.
pub(super) async fn probe(to: SocketAddr, path: &str) -> Option<u16> {
    let stream = TcpStream::connect(to).await.ok()?;
    let mut connection = Connection::h1_over(stream, &to.to_string()).await;
    let asked = request(Method::GET, path, Bytes::new());
    Some(connection.try_send(asked).await.ok()?.status)
}

/// A request for a stream.
pub(super) fn ask_stream() -> Value {
    json!({ "model": "m", "prompt": "hi", "stream": true })
}

/// A stream of two tokens; the gate lies between them.
fn two_tokens(gate: &Gate) -> Vec<Step> {
    let token =
        |text: &str| Step::event(&json!({ "choices": [{ "index": 0, "text": text }] }).to_string());
    vec![
        Step::sse_head(),
        token("one"),
        Step::Hold(gate.clone()),
        token("two"),
        Step::event("[DONE]"),
        Step::Close,
    ]
}

/// A port of loopback that nobody listens on.
fn free() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

/// A port of loopback that only root may take, and that nobody listens on.
pub(super) fn low() -> SocketAddr {
    let mut ports = (700..1024)
        .rev()
        .map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
    ports
        .find(|address| StdStream::connect(address).is_err() && TcpListener::bind(address).is_ok())
        .expect("a port below 1024 is free")
}
