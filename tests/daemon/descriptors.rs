//! Descriptors that run out: nothing spins, nobody else is blamed, and it passes.

use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use serde_json::json;
use tokio::net::TcpStream;

use crate::scene::{
    PATIENCE, Wire, ask, ask_stream, assert_error, config, delta, ok, ready, settled,
};
use crate::support::client::{json_request, request};
use crate::support::metrics::Samples;
use crate::support::{Connection, FakeEngine, Gate, Smg, Step, eventually, stream};

/// Of the gateway.
const FILES: usize = 64;

/// Nothing is kept and probes are frequent, so that each one needs a socket of its own.
const PROBED: &str = "[pools.connections]\nmax_idle_per_host = 0\n\
                      [reliability.health]\ninterval = \"100ms\"\ntimeout = \"1s\"\n\
                      failure_threshold = 1\n";

const ALIVE: &str = "GET /liveness HTTP/1.1\r\nhost: x\r\n\r\n";

/// The same command, allowed only so many files.
fn limited(command: &mut Command) {
    let mut shell = Command::new("sh");
    shell.env_clear();
    shell.envs(
        command
            .get_envs()
            .filter_map(|(key, value)| Some((key, value?))),
    );
    let script = format!("ulimit -n {FILES}; exec \"$@\"");
    shell.args(["-c", &script, "sh"]);
    shell.arg(command.get_program()).args(command.get_args());
    *command = shell;
}

/// Clock ticks that the process has used.
fn ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let fields: Vec<&str> = fields.split(' ').collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn without_descriptors_accepting_waits_and_what_is_open_goes_on() {
    let gates = [Gate::closed(), Gate::closed()];
    let engine = {
        let gates = gates.clone();
        FakeEngine::serving("m", move |asked| {
            if asked.json()["stream"] != true {
                return vec![ok()];
            }
            vec![
                Step::sse_head(),
                Step::event(&delta("one")),
                Step::Hold(gates[0].clone()),
                Step::event(&delta("two")),
                Step::Hold(gates[1].clone()),
                Step::event("[DONE]"),
                Step::Close,
            ]
        })
        .await
    };
    let text = config(&[engine.url()], PROBED).replace("health.enabled = false\n", "");
    let mut smg = Smg::start_with(&text, limited).await;
    ready(&smg).await;
    let started = smg.process().line(PATIENCE, |line| {
        line.contains("starting").then(|| line.to_owned())
    });
    let started = started.await;
    assert!(
        started.contains(&format!("descriptors={FILES}")),
        "{started}"
    );

    let mut events = stream(smg.main(), "/v1/chat/completions", &ask_stream()).await;
    assert!(events.event().await.unwrap().unwrap().contains("one"));
    let mut kept = Connection::h1(smg.main()).await;
    let mut scraped = Connection::h1(smg.address("metrics")).await;
    let mut scrape = async || {
        let asked = request(Method::GET, "/metrics", Bytes::new());
        Samples::parse(&scraped.send(asked).await.text())
    };
    scrape().await;
    let alive = request(Method::GET, "/liveness", Bytes::new());
    assert_eq!(kept.send(alive).await.status, 200);

    let mut crowd = Vec::new();
    while crowd.len() < FILES + 10 {
        crowd.push(TcpStream::connect(smg.main()).await.unwrap());
    }
    let told = |line: &str| line.contains("out of file descriptors").then_some(());
    smg.process().line(PATIENCE, told).await;
    // Those that it was born with may have higher numbers.
    eventually(PATIENCE, async || smg.process().fd_count() >= FILES).await;

    // It waits for better times and does little meanwhile.
    let pid = smg.process().pid();
    let before = ticks(pid);
    let failed = [("result", "failure")];
    let failures = scrape()
        .await
        .sum("smg_worker_health_checks_total", &failed);
    tokio::time::sleep(Duration::from_secs(1)).await; // what is measured is the work of this time
    let spent = ticks(pid) - before;
    assert!(spent < 30, "{spent} ticks in a second");

    // A stream goes on. A worker that cannot be asked has not failed, and nobody else is asked.
    gates[0].open();
    assert!(events.event().await.unwrap().unwrap().contains("two"));
    let now = scrape().await;
    assert_eq!(now.sum("smg_worker_health", &[]), 1.0);
    assert_eq!(now.sum("smg_worker_health_checks_total", &failed), failures);
    let refused = kept.send(json_request("/v1/completions", &ask())).await;
    assert_error(&refused, 500, "call_upstream_request_error");
    assert_eq!(refused.header("retry-after"), "1");
    let now = scrape().await;
    assert_eq!(now.sum("smg_worker_retries_total", &[]), 0.0);
    assert_eq!(now.sum("smg_worker_errors_total", &[]), 0.0);

    // A configuration that cannot be read changes nothing.
    smg.rewrite(&format!("{text}\n[routing]\npolicy = \"random\"\n"));
    let reload = kept.send(json_request("/admin/reload", &json!({}))).await;
    assert_eq!(reload.json()["result"], "rejected", "{}", reload.text());
    assert!(reload.text().contains("open files"), "{}", reload.text());

    // Those that wait are let in as soon as others leave.
    let waiting = crowd.pop().unwrap();
    let mut waiting = Wire::over(waiting);
    waiting.write(ALIVE).await;
    crowd.truncate(20);
    assert_eq!(waiting.answer().await.status, 200);
    drop(crowd);
    let over = |line: &str| line.contains("accepted again").then_some(());
    smg.process().line(PATIENCE, over).await;
    let lines = smg.process().output();
    let warned = lines.iter().filter(|line| told(line).is_some());
    assert_eq!(warned.count(), 1, "{lines:#?}");

    // The file is read again by itself.
    smg.serves(2).await;
    gates[1].open();
    assert_eq!(events.events().await.last().unwrap(), "data: [DONE]");
    let served = kept.send(json_request("/v1/completions", &ask())).await;
    assert_eq!(served.status, 200, "{}", served.text());
    settled(&smg).await;
}
