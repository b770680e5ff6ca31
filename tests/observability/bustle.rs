//! One gateway that does everything at once: every policy, pairs of workers, failures, retries,
//! queues, reloads, workers that come and go. Whatever has a metric happens again and again.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method};
use serde_json::{Value, json};
use tokio::task::{AbortHandle, JoinSet};

use crate::support::client::{json_request, request};
use crate::support::engine::Asked;
use crate::support::{Connection, FakeEngine, Smg, Step, eventually, get};

/// Long enough for a loaded machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The listeners, `main` last.
pub(crate) const LISTENERS: &str = r#"
version = 1

[[listeners]]
name = "metrics"
address = "127.0.0.1:0"
serve = ["metrics"]

[[listeners]]
name = "main"
address = "127.0.0.1:0"
serve = ["inference", "admin", "probes"]
"#;

/// Names that an operator may give to models although they are no fun for others.
pub(crate) const ODD_NAMES: [&str; 4] = ["a\"b", r"c\d", r"e\\f\", r#"\"{g="h"}"#];

/// The busy gateway.
pub(crate) struct Bustle {
    pub(crate) smg: Smg,
    _engines: Vec<FakeEngine>,
    _stuck: Stuck,
    _load: Load,
}

/// The load, which ends with this.
struct Load(AbortHandle);

impl Drop for Load {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A port that refuses connections for as long as this lives.
struct Stuck {
    address: SocketAddr,
    _socket: socket2::Socket,
}

impl Stuck {
    fn new() -> Self {
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let kind = (socket2::Domain::IPV4, socket2::Type::STREAM);
        let socket = socket2::Socket::new(kind.0, kind.1, None).unwrap();
        socket.bind(&any.into()).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        Self {
            address,
            _socket: socket,
        }
    }
}

/// Waits until the gateway can serve something.
pub(crate) async fn ready(smg: &Smg) {
    eventually(PATIENCE, async || {
        get(smg.main(), "/readiness").await.status == 200
    })
    .await;
}

/// An engine that lives, serves whatever it is asked for, and says what its load is; `script`
/// answers what is posted.
pub(crate) async fn engine(
    script: impl Fn(&Asked) -> Vec<Step> + Send + Sync + 'static,
) -> FakeEngine {
    FakeEngine::start(
        move |asked| match (asked.method.as_str(), asked.path.as_str()) {
            ("GET", "/health") => vec![Step::answer(200, "text/plain", "OK")],
            ("GET", path) if path.starts_with("/v1/loads") => vec![Step::json(200, &loads())],
            ("GET", _) => vec![Step::json(404, &json!({}))],
            _ => script(asked),
        },
    )
    .await
}

fn loads() -> Value {
    let rank = json!({
        "dp_rank": 0, "num_running_reqs": 3, "num_waiting_reqs": 1, "num_used_tokens": 100,
        "max_total_num_tokens": 1000, "token_usage": 0.1, "gen_throughput": 25.5,
        "cache_hit_rate": 0.5, "utilization": 0.75, "max_running_requests": 64,
    });
    json!({ "timestamp": "t", "version": "v", "dp_rank_count": 1, "loads": [rank] })
}

fn usage() -> Value {
    json!({
        "prompt_tokens": 300, "completion_tokens": 3, "total_tokens": 303,
        "prompt_tokens_details": { "cached_tokens": 120 },
    })
}

/// What a worker that is well says: a stream of three tokens, or a whole answer.
pub(crate) fn well(asked: &Asked) -> Vec<Step> {
    if asked.json()["stream"] != true {
        let choices = json!([{ "index": 0, "text": "hi" }]);
        return vec![Step::json(
            200,
            &json!({ "choices": choices, "usage": usage() }),
        )];
    }
    let mut steps = vec![Step::sse_head()];
    for text in ["one", "two", "three"] {
        let delta = json!({ "choices": [{ "index": 0, "delta": { "content": text } }] });
        steps.push(Step::event(&delta.to_string()));
        steps.push(Step::Pause(Duration::from_millis(3)));
    }
    let last = json!({ "choices": [], "usage": usage() });
    steps.push(Step::event(&last.to_string()));
    steps.push(Step::event("[DONE]"));
    steps.push(Step::Close);
    steps
}

fn prefill(_: &Asked) -> Vec<Step> {
    let answer = json!({
        "choices": [], "usage": usage(),
        "kv_transfer_params": {
            "do_remote_prefill": true, "do_remote_decode": false, "remote_engine_id": "e",
            "remote_block_ids": [1], "remote_host": "10.0.0.1", "remote_port": 5600,
        },
    });
    vec![Step::json(200, &answer)]
}

impl Bustle {
    /// Starts it, and the load.
    pub(crate) async fn start() -> Self {
        let stuck = Stuck::new();
        let broken = |_: &Asked| vec![Step::json(500, &json!({ "error": "broken" }))];
        let slow = |asked: &Asked| {
            let mut steps = vec![Step::Pause(Duration::from_millis(60))];
            steps.extend(well(asked));
            steps
        };
        let engines = vec![
            engine(well).await,
            engine(well).await,
            engine(broken).await,
            engine(slow).await,
            engine(prefill).await,
            engine(well).await,
        ];
        let urls: Vec<String> = engines.iter().map(FakeEngine::url).collect();
        let spare = engine(well).await;
        let smg = Smg::start(&config(&urls, stuck.address)).await;
        ready(&smg).await;
        let load = Load(tokio::spawn(load(At::of(&smg), spare.url())).abort_handle());
        let mut engines = engines;
        engines.push(spare);
        Self {
            smg,
            _engines: engines,
            _stuck: stuck,
            _load: load,
        }
    }
}

fn config(urls: &[String], nowhere: SocketAddr) -> String {
    let [one, two, broken, slow, first, second] = urls else {
        panic!("six engines")
    };
    let mut config = format!(
        r#"{LISTENERS}
[routing]
load_monitor_interval = "200ms"

[reliability.health]
interval = "200ms"
startup_check_interval = "200ms"
drain_settle = "10ms"
[reliability.retry]
max_retries = 3
initial_backoff = "2ms"
max_backoff = "5ms"
[reliability.circuit_breaker]
failure_threshold = 3
success_threshold = 1
timeout = "500ms"

[[pools]]
name = "good"
runtime = "sglang"
workers = ["{one}", "{two}"]

[[pools]]
name = "half"
workers = ["{one}", "{broken}"]

[[pools]]
name = "broken"
workers = ["{broken}"]

[[pools]]
name = "nowhere"
workers = ["http://{nowhere}"]

[[pools]]
name = "narrow"
workers = ["{slow}"]

[[pools]]
name = "open"
dynamic = true

[[pools]]
name = "pair"
runtime = "vllm"
prefill.workers = ["{first}"]
decode.workers = ["{second}"]

[[models]]
name = "m"
pool = "good"
mirror = {{ pool = "narrow", fraction = 0.2 }}

[[models]]
name = "narrow"
pool = "narrow"
class = "batch"
admission = {{ max_concurrent_requests = 1, queue_size = 1, queue_timeout = "2s" }}

[reliability.admission.classes.batch]
weight = 1
"#
    );
    for (name, pool, policy) in [
        ("tree", "good", "policy.cache_aware.algorithm = \"tree\""),
        ("manual", "good", "policy = \"manual\""),
        ("hashed", "good", "policy = \"consistent_hashing\""),
        ("prefix", "good", "policy = \"prefix_hash\""),
        ("least", "good", "policy = \"least_load\""),
        ("half", "half", "policy = \"round_robin\""),
        ("broken", "broken", ""),
        ("nowhere", "nowhere", ""),
        ("pair", "pair", ""),
    ] {
        config.push_str(&format!(
            "[[models]]\nname = \"{name}\"\npool = \"{pool}\"\n{policy}\n"
        ));
    }
    for name in ODD_NAMES {
        let name = toml::Value::from(name);
        config.push_str(&format!("[[models]]\nname = {name}\npool = \"good\"\n"));
    }
    config
}

/// What the load needs to know of the gateway.
#[derive(Clone)]
struct At {
    main: SocketAddr,
    file: PathBuf,
}

impl At {
    fn of(smg: &Smg) -> Self {
        Self {
            main: smg.main(),
            file: smg.config_path(),
        }
    }
}

/// Rounds of everything, for ever.
async fn load(at: At, spare: String) {
    let good = std::fs::read_to_string(&at.file).unwrap();
    for round in 0_u32.. {
        let mut asking = JoinSet::new();
        let models = [
            "m", "m", "tree", "manual", "hashed", "prefix", "least", "half", "half", "broken",
            "nowhere", "pair", "narrow", "narrow", "narrow", "narrow", "invented",
        ];
        for (n, model) in (0_u32..).zip(models.into_iter().chain(ODD_NAMES)) {
            asking.spawn(ask(at.main, model, round, n));
        }
        let text = match round % 3 {
            0 => good.replace("version = 1", "version = 2"),
            _ => format!("{good}\n# round {round}\n"),
        };
        std::fs::write(&at.file, text).unwrap();
        let to = at.main;
        asking.spawn(async move {
            send(to, Method::POST, "/admin/reload", json!({})).await;
        });
        asking.spawn(come_and_go(at.main, spare.clone()));
        while asking.join_next().await.is_some() {}
    }
}

/// One request for each of some endpoints.
async fn ask(to: SocketAddr, model: &str, round: u32, n: u32) {
    // Long enough to be remembered, and half of it the same in every round.
    let prompt = format!("{} {}", "the same ".repeat(80), round % 7).repeat(2);
    let text = format!("{prompt} {n}");
    let mut connection = Connection::h1(to).await;
    for streams in [true, false] {
        let body = json!({
            "model": model, "stream": streams, "max_tokens": 3,
            "messages": [{ "role": "user", "content": text }],
        });
        let mut asked = json_request("/v1/chat/completions", &body);
        let key = HeaderValue::from_str(&format!("key-{}", n % 5)).unwrap();
        asked.headers_mut().insert("x-smg-routing-key", key);
        // Some are refused, and some break off: that is the point.
        connection.try_send(asked).await.ok();
    }
}

/// A worker is added, and taken out again.
async fn come_and_go(to: SocketAddr, url: String) {
    let body = json!({ "url": url, "pool": "open" });
    let answer = send(to, Method::POST, "/workers", body).await;
    let Some(path) = answer else { return };
    tokio::time::sleep(Duration::from_millis(300)).await;
    send(to, Method::DELETE, &path, Value::Null).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
}

/// Sends, and returns the `location` of the answer.
async fn send(to: SocketAddr, method: Method, path: &str, body: Value) -> Option<String> {
    let text = if body.is_null() {
        Bytes::new()
    } else {
        body.to_string().into()
    };
    let mut asked = request(method, path, text);
    let json = HeaderValue::from_static("application/json");
    asked.headers_mut().insert("content-type", json);
    let mut connection = Connection::h1(to).await;
    let answer = connection.try_send(asked).await.ok()?;
    let location = answer.headers.get("location")?;
    Some(location.to_str().ok()?.to_owned())
}
