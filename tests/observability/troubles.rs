//! Gateways in trouble of one kind each, which the test ends when it has been seen.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::bustle::{LISTENERS, engine, ready, well};
use crate::support::client::json_request;
use crate::support::{Connection, FakeEngine, Gate, Smg, Step};

/// Something that is on or off.
#[derive(Clone, Default)]
pub(crate) struct Switch(Arc<AtomicBool>);

impl Switch {
    pub(crate) fn on() -> Self {
        Self(Arc::new(AtomicBool::new(true)))
    }

    pub(crate) fn turn_off(&self) {
        self.0.store(false, Ordering::SeqCst);
    }

    fn is_on(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// A gateway, and what is wrong with it for as long as the switch is on.
pub(crate) struct Site {
    pub(crate) smg: Smg,
    pub(crate) wrong: Switch,
    _engines: Vec<FakeEngine>,
}

impl Site {
    async fn start(toml: &str, wrong: Switch, engines: Vec<FakeEngine>) -> Self {
        Self {
            smg: Smg::start(toml).await,
            wrong,
            _engines: engines,
        }
    }

    /// Its name in Prometheus.
    pub(crate) fn instance(&self) -> String {
        self.smg.address("metrics").to_string()
    }

    /// Clients who ask for these models again and again until what is returned is dropped.
    pub(crate) fn clients(&self, models: &[&str], stream: bool) -> JoinSet<()> {
        let mut clients = JoinSet::new();
        for model in models {
            clients.spawn(ask_on(self.smg.main(), body(model, stream)));
        }
        clients
    }
}

fn body(model: &str, stream: bool) -> Value {
    json!({ "model": model, "stream": stream, "messages": [{ "role": "user", "content": "hi" }] })
}

async fn ask_on(to: SocketAddr, body: Value) {
    loop {
        let mut connection = Connection::h1(to).await;
        let asked = json_request("/v1/chat/completions", &body);
        // What becomes of it is seen in the metrics.
        connection.try_send(asked).await.ok();
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}

/// The pool `p` of these workers, quick in everything, which serves `m`.
fn one_pool(urls: &[String], more: &str) -> String {
    format!(
        "{LISTENERS}[reliability.health]\ninterval = \"100ms\"\nfailure_threshold = 1\n\
         success_threshold = 1\nstartup_check_interval = \"100ms\"\n\
         [[pools]]\nname = \"p\"\nruntime = \"sglang\"\nworkers = {urls:?}\n\
         [[models]]\nname = \"m\"\npool = \"p\"\n{more}"
    )
}

/// The worker answers with 500. `m` has a breaker, `b` none, and hardly any budget for retries.
pub(crate) async fn failing() -> Site {
    let wrong = Switch::on();
    let switch = wrong.clone();
    let worker = engine(move |asked| {
        if switch.is_on() {
            vec![Step::json(500, &json!({}))]
        } else {
            well(asked)
        }
    })
    .await;
    let url = worker.url();
    let more = format!(
        "[[pools]]\nname = \"q\"\nworkers = [\"{url}\"]\n\
         [pools.reliability.circuit_breaker]\nenabled = false\n\
         [pools.reliability.retry]\nbudget = {{ ratio = 0.01, min_per_second = 0.1 }}\n\
         [[models]]\nname = \"b\"\npool = \"q\"\n\
         [reliability.retry]\ninitial_backoff = \"1ms\"\n\
         [reliability.circuit_breaker]\nfailure_threshold = 3\nsuccess_threshold = 1\n\
         timeout = \"3s\"\n"
    );
    let site = Site::start(&one_pool(&[url], &more), wrong, vec![worker]).await;
    ready(&site.smg).await;
    site
}

/// The first token of a stream comes after eleven seconds.
pub(crate) async fn slow() -> Site {
    let wrong = Switch::on();
    let switch = wrong.clone();
    let worker = engine(move |asked| {
        let mut steps = Vec::new();
        if switch.is_on() {
            steps.push(Step::Pause(Duration::from_secs(11)));
        }
        steps.extend(well(asked));
        steps
    })
    .await;
    let site = Site::start(&one_pool(&[worker.url()], ""), wrong, vec![worker]).await;
    ready(&site.smg).await;
    site
}

/// One request at a time, and each takes almost three seconds.
pub(crate) async fn crowded() -> Site {
    let wrong = Switch::on();
    let switch = wrong.clone();
    let worker = engine(move |asked| {
        let mut steps = Vec::new();
        if switch.is_on() {
            steps.push(Step::Pause(Duration::from_millis(2800)));
        }
        steps.extend(well(asked));
        steps
    })
    .await;
    let more =
        "admission = { max_concurrent_requests = 1, queue_size = 1, queue_timeout = \"20s\" }\n";
    let site = Site::start(&one_pool(&[worker.url()], more), wrong, vec![worker]).await;
    ready(&site.smg).await;
    site
}

/// A budget of one MiB, and a worker that answers when the gate is opened.
pub(crate) async fn full(gate: &Gate) -> Site {
    let gate = gate.clone();
    let worker = engine(move |asked| {
        let mut steps = vec![Step::Hold(gate.clone())];
        steps.extend(well(asked));
        steps
    })
    .await;
    let more = "[server]\nmemory_budget = \"1MiB\"\n";
    let toml = one_pool(&[worker.url()], more);
    let site = Site::start(&toml, Switch::on(), vec![worker]).await;
    ready(&site.smg).await;
    site
}

/// A request whose body takes up nearly all of a MiB.
pub(crate) fn large() -> Value {
    json!({ "model": "m", "prompt": "x".repeat(1_000_000) })
}

/// The probes of the only worker fail.
pub(crate) async fn unhealthy() -> Site {
    let wrong = Switch::default();
    let switch = wrong.clone();
    let worker = FakeEngine::start(move |asked| match asked.path.as_str() {
        "/health" if switch.is_on() => vec![Step::json(503, &json!({}))],
        "/health" => vec![Step::answer(200, "text/plain", "OK")],
        _ => vec![Step::json(404, &json!({}))],
    })
    .await;
    let site = Site::start(&one_pool(&[worker.url()], ""), wrong, vec![worker]).await;
    ready(&site.smg).await;
    site.wrong.0.store(true, Ordering::SeqCst);
    site
}

/// The worker does not say how busy it is, and the policy wants to know.
pub(crate) async fn silent() -> Site {
    let wrong = Switch::on();
    let switch = wrong.clone();
    let rank = json!({
        "dp_rank": 0, "num_running_reqs": 3, "num_waiting_reqs": 1, "num_used_tokens": 100,
        "max_total_num_tokens": 1000, "token_usage": 0.1, "gen_throughput": 25.5,
    });
    let loads = json!({ "timestamp": "t", "version": "v", "dp_rank_count": 1, "loads": [rank] });
    let worker = FakeEngine::start(move |asked| match asked.path.as_str() {
        "/health" => vec![Step::answer(200, "text/plain", "OK")],
        path if path.starts_with("/v1/loads") && !switch.is_on() => {
            vec![Step::json(200, &loads)]
        }
        _ => vec![Step::json(404, &json!({}))],
    })
    .await;
    let more = "policy = \"least_load\"\n[routing]\nload_monitor_interval = \"200ms\"\n";
    let site = Site::start(&one_pool(&[worker.url()], more), wrong, vec![worker]).await;
    ready(&site.smg).await;
    site
}

/// A configuration with a worker at a port where nobody listens.
pub(crate) fn with_a_stranger() -> String {
    // Of a pool without a runtime it has to be learned what its workers are.
    let toml = one_pool(&[format!("http://{}", free_address())], "");
    toml.replace("runtime = \"sglang\"\n", "")
}

/// One without workers.
pub(crate) fn without_workers() -> String {
    one_pool(&[], "")
}

/// A gateway with this configuration and nothing behind it.
pub(crate) async fn alone(toml: &str) -> Site {
    Site::start(toml, Switch::on(), Vec::new()).await
}

/// A configuration whose metrics are always at this address.
pub(crate) fn at(address: SocketAddr) -> String {
    LISTENERS.replacen("127.0.0.1:0", &address.to_string(), 1)
}

/// A configuration that logs to this folder, too.
pub(crate) fn logging_to(folder: &Path) -> String {
    format!("{LISTENERS}[logging]\nrotate = \"never\"\ndir = {folder:?}\n")
}

/// A port that was free a moment ago.
pub(crate) fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}
