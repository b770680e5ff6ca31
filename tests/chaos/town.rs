//! The gateway, its workers and its configurations.
//!
//! | model | who serves it |
//! |---|---|
//! | `calm` | two workers that are always well: nothing may happen to its requests |
//! | `rough` | four workers, probed; two of them tell their probes the truth |
//! | `blind` | three workers without probes, chosen by cache |
//! | `lonely` | one worker, known by a name, with `rough` to stand in |
//! | `gated` | the workers of `rough`, behind a gate that lets few in at a time |
//! | `mixed` | `rough` and `blind`, by weight |
//! | `pair` | two workers for prefill, two for decode |
//! | `mortal` | two processes that are killed and started again |

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;

use crate::ledger::Ledger;
use crate::mortal::Mortal;
use crate::support::Smg;
use crate::worker::{Mood, Scripted};

/// The total deadline of sick pools, in the file below.
const TOTAL: Duration = Duration::from_secs(3);

/// When the gateway must have given up a client that takes nothing, with room for a busy machine.
pub(crate) const UNTIL_CUT: Duration = Duration::from_secs(2);

/// Past this an answer of a sick pool is too late: the total deadline and a busy machine.
pub(crate) const PATIENCE: Duration = TOTAL.saturating_add(Duration::from_secs(3));

/// Past this an answer of the healthy pool is too late, whatever goes on beside it.
pub(crate) const CALM_PATIENCE: Duration = Duration::from_secs(2);

/// Models of sick pools.
pub(crate) const SICK: [&str; 6] = ["rough", "blind", "lonely", "mixed", "gated", "pair"];

/// Everybody but the clients.
pub(crate) struct Town {
    pub(crate) smg: Smg,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) calm: Vec<Scripted>,
    pub(crate) sick: Vec<Scripted>,
    pub(crate) mortal: Vec<Mortal>,
}

impl Town {
    pub(crate) async fn start() -> Self {
        let ledger = Arc::<Ledger>::default();
        let start = |names: &[&str], frank: &dyn Fn(usize) -> bool| -> Vec<Scripted> {
            let each = names.iter().enumerate();
            each.map(|(n, name)| Scripted::start(name, &ledger, frank(n)))
                .collect()
        };
        let calm = start(&["calm0", "calm1"], &|_| true);
        let sick = start(
            &[
                "rough0", "rough1", "rough2", "rough3", "blind0", "blind1", "blind2", "lonely0",
                "prefill0", "prefill1", "decode0", "decode1",
            ],
            &|n| n % 2 == 0,
        );
        let mortal = vec![Mortal::start().await, Mortal::start().await];
        let folder = tempfile::tempdir().unwrap();
        let urls: Vec<_> = mortal.iter().map(Mortal::url).collect();
        let toml = toml(&calm, &sick, &urls, 0);
        Self {
            smg: start_gateway(folder, &toml).await,
            ledger,
            calm,
            sick,
            mortal,
        }
    }

    /// The configuration of this number; all of them are valid and serve the same models, the
    /// first is the one to come back to.
    pub(crate) fn toml(&self, variant: u64) -> String {
        let mortal: Vec<_> = self.mortal.iter().map(Mortal::url).collect();
        toml(&self.calm, &self.sick, &mortal, variant)
    }

    /// Everybody is well from now on.
    pub(crate) async fn heal(&mut self) {
        for worker in &self.sick {
            worker.turn(Mood::Healthy);
        }
        for mortal in &mut self.mortal {
            mortal.revive().await;
        }
    }

    pub(crate) fn models() -> impl Iterator<Item = &'static str> {
        SICK.into_iter().chain(["calm", "mortal"])
    }
}

async fn start_gateway(folder: TempDir, toml: &str) -> Smg {
    std::fs::write(folder.path().join("smg.toml"), toml).unwrap();
    // The access lines of so many requests would only be kept in memory here.
    Smg::start_in(folder, |command| {
        command.env("RUST_LOG", "info,smg::response=warn");
    })
    .await
}

/// What all configurations have in common.
const HEAD: &str = r#"
version = 1

[server]
request_timeout = "5s"
sse_keepalive = "400ms"
memory_budget = "64MiB"
shutdown_grace_period = "5s"

[[listeners]]
name = "metrics"
address = "127.0.0.1:0"
serve = ["metrics"]

[[listeners]]
name = "main"
address = "127.0.0.1:0"
serve = ["inference", "admin", "probes"]

[listeners.limits]
write_timeout = "1s"
body_timeout = "2s"
header_timeout = "2s"

[reliability.timeouts]
connect = "300ms"
headers = "1s"
first_token = "1s"
idle = "1s"

[reliability.retry]
max_retries = 3
initial_backoff = "20ms"
max_backoff = "200ms"

[reliability.circuit_breaker]
failure_threshold = 5
success_threshold = 2
timeout = "500ms"

[reliability.admission]
max_concurrent_requests = 500

[reliability.admission.classes.patient]
weight = 2
queue_timeout = "1s"
"#;

/// The configuration of this number, see [`Town::toml`].
pub(crate) fn toml(
    calm: &[Scripted],
    sick: &[Scripted],
    mortal: &[String],
    variant: u64,
) -> String {
    let urls = |prefix: &str| -> Vec<String> {
        let named = sick
            .iter()
            .filter(|worker| worker.name().starts_with(prefix));
        let mut urls: Vec<_> = named.map(Scripted::url).collect();
        let turns = usize::try_from(variant).unwrap() % urls.len();
        urls.rotate_left(turns);
        urls
    };
    let mut calm: Vec<_> = calm.iter().map(Scripted::url).collect();
    let mut rough = urls("rough");
    // Workers come and go, the healthy ones as well.
    match variant % 4 {
        1 => drop(calm.pop()),
        2 => drop(rough.pop()),
        3 => calm.reverse(),
        _ => {}
    }
    let policy = ["round_robin", "random", "power_of_two", "cache_aware"]
        [usize::try_from(variant / 2).unwrap() % 4];
    let probes = "health.interval = \"300ms\"\nhealth.timeout = \"300ms\"\n\
                  health.failure_threshold = 2\nhealth.success_threshold = 1";
    let total = format!("reliability.timeouts.total = \"{}s\"", TOTAL.as_secs());
    let prefill: Vec<_> = urls("prefill")
        .iter()
        .map(|url| format!("{{ url = \"{url}\", bootstrap_port = 8998 }}"))
        .collect();
    let lonely: Vec<_> = urls("lonely")
        .iter()
        .map(|url| url.replace("127.0.0.1", "localhost"))
        .collect();
    let mut toml = HEAD.to_owned();
    let pools: [(&str, &[String], String); 5] = [
        ("calm", &calm, probes.to_owned()),
        ("rough", &rough, format!("{probes}\n{total}")),
        (
            "blind",
            &urls("blind"),
            format!("health.enabled = false\n{total}"),
        ),
        ("lonely", &lonely, format!("{probes}\n{total}")),
        ("mortal", mortal, format!("{probes}\n{total}")),
    ];
    for (name, workers, more) in pools {
        write!(
            toml,
            "\n[[pools]]\nname = \"{name}\"\nruntime = \"vllm\"\nworkers = {workers:?}\n\
             connections.idle_timeout = \"1s\"\n{more}\n"
        )
        .unwrap();
    }
    write!(
        toml,
        r#"
[[pools]]
name = "pair"
runtime = "sglang"
health.enabled = false
connections.idle_timeout = "1s"
{total}
[pools.prefill]
workers = [{prefill}]
policy = "round_robin"
[pools.decode]
workers = {decode:?}
policy = "random"

[[models]]
name = "calm"
pool = "calm"
aliases = ["calm-{variant}"]

[[models]]
name = "rough"
pool = "rough"
policy = "{policy}"

[[models]]
name = "blind"
pool = "blind"
policy = "cache_aware"

[[models]]
name = "lonely"
pool = "lonely"
fallback = ["rough"]

[[models]]
name = "gated"
pool = "rough"
class = "patient"
admission = {{ max_concurrent_requests = {gate}, queue_size = 4, queue_timeout = "300ms" }}

[[models]]
name = "mixed"
split = [
  {{ pool = "rough", weight = 2, model = "rough" }},
  {{ pool = "blind", weight = 1, model = "blind" }},
]

[[models]]
name = "pair"
pool = "pair"

[[models]]
name = "mortal"
pool = "mortal"
"#,
        prefill = prefill.join(", "),
        decode = urls("decode"),
        gate = 1 + variant % 3,
    )
    .unwrap();
    toml
}
