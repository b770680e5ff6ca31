//! `check-config --probe` in front of real workers, certificates and sockets.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::scene::{LISTENERS, ok, silent_engine};
use crate::support::smg::command;
use crate::support::tls_front::{TlsFront, showing};
use crate::support::{Authority, FakeEngine, Smg, Step, Worker, process};

const HTTP1: &[&str] = &["http/1.1"];

/// No probe here takes longer.
const PATIENCE: Duration = Duration::from_secs(60);

const LISTENER: &str = "version = 1\n[[listeners]]\nname = \"main\"\naddress = \"127.0.0.1:0\"\n\
                        serve = [\"inference\", \"probes\"]\n";

/// What a probe said.
struct Probe {
    status: i32,
    /// As people read it.
    text: String,
    /// As programs read it.
    found: Vec<Value>,
}

impl Probe {
    /// Of this configuration, as people and programs see it.
    fn of(toml: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("smg.toml");
        std::fs::write(&file, toml).unwrap();
        Self::of_file(&file, &[])
    }

    fn of_file(file: &Path, more: &[&str]) -> Self {
        let run = |format: &str| {
            let mut command = command();
            command
                .args(["check-config", "--probe", "--format", format])
                .args(more)
                .arg(file);
            process::run(&mut command, PATIENCE)
        };
        let text = String::from_utf8(run("human").stdout).unwrap();
        let output = run("json");
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        Self {
            status: output.status.code().unwrap(),
            text,
            found: report["diagnostics"].as_array().unwrap().clone(),
        }
    }

    /// The slugs, in order.
    fn slugs(&self) -> Vec<&str> {
        let slugs = self.found.iter().map(|found| found["slug"].as_str());
        slugs.map(Option::unwrap).collect()
    }

    /// The only finding of this kind.
    fn only(&self, slug: &str) -> &Value {
        let mut of_kind = self.found.iter().filter(|found| found["slug"] == slug);
        let first = of_kind.next();
        let first = first.unwrap_or_else(|| panic!("no {slug} in {}", self.text));
        assert!(of_kind.next().is_none(), "several {slug} in {}", self.text);
        first
    }

    fn summary(&self) -> &str {
        let line = self.text.lines().find(|line| line.starts_with("probed "));
        line.unwrap_or_else(|| panic!("no summary in {}", self.text))
    }
}

fn message(found: &Value) -> &str {
    found["message"].as_str().unwrap()
}

fn line(found: &Value) -> u64 {
    found["primary"]["file"]["line"].as_u64().unwrap()
}

/// A port on which nobody listens.
fn free_port() -> u16 {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    socket.local_addr().unwrap().port()
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_that_fit_the_file_are_only_counted() {
    let sglang = Worker::start(&["--model", "m"]).await;
    let vllm = Worker::start(&["--model", "m", "--runtime", "vllm", "--api-key", "sesame"]).await;
    let toml = format!(
        "{LISTENER}[[pools]]\nname = \"p\"\n[[pools.workers]]\nurl = {:?}\n[[pools.workers]]\n\
         url = {:?}\napi_key = {{ file = \"key\" }}\n[[models]]\nname = \"m\"\n\
         policy = \"power_of_two\"\n",
        sglang.url(),
        vllm.url()
    );
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("smg.toml");
    std::fs::write(&file, &toml).unwrap();
    std::fs::write(folder.path().join("key"), "sesame\n").unwrap();
    std::fs::set_permissions(
        folder.path().join("key"),
        std::fs::Permissions::from_mode(0o600),
    )
    .unwrap();
    let probe = Probe::of_file(&file, &["--deny-warnings"]);
    assert_eq!((probe.status, probe.slugs()), (0, vec![]), "{}", probe.text);
    assert_eq!(
        probe.summary(),
        "probed 2 workers: all answer; 1 socket: 1 free"
    );
    // Without it nobody is asked.
    let plain = command()
        .args(["check-config"])
        .arg(&file)
        .output()
        .unwrap();
    assert!(!String::from_utf8(plain.stdout).unwrap().contains("probed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_worker_is_told_of_at_its_own_line() {
    let other = FakeEngine::serving("other", |_| vec![ok()]).await;
    let locked = Worker::start(&["--model", "m", "--api-key", "sesame"]).await;
    let unwell = FakeEngine::start(|asked| match asked.path.as_str() {
        "/health" => vec![Step::answer(503, "text/plain", "no")],
        "/v1/models" => vec![Step::json(200, &json!({ "data": [{ "id": "m" }] }))],
        _ => vec![Step::json(404, &json!({}))],
    })
    .await;
    let moved = FakeEngine::start(|_| {
        vec![Step::write(
            "HTTP/1.1 307 Moved\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n",
        )]
    })
    .await;
    let page = FakeEngine::start(|_| vec![Step::answer(200, "text/html", "<p>no engine")]).await;
    let nobody = format!("http://127.0.0.1:{}", free_port());
    let not_tls = locked.url().replace("http://", "https://");
    let workers = [
        other.url(),
        locked.url().to_owned(),
        unwell.url(),
        moved.url(),
        page.url(),
        nobody,
        not_tls,
    ];
    let toml = format!(
        "{LISTENER}[[pools]]\nname = \"p\"\nruntime = \"vllm\"\nworkers = [\n{}]\n[[models]]\nname = \"m\"\n\
         [routing]\npolicy = \"round_robin\"\n",
        workers.map(|url| format!("  {url:?},\n")).concat()
    );
    let probe = Probe::of(&toml);
    assert_eq!(probe.status, 0, "{}", probe.text);
    let told: Vec<(&str, u64)> = probe
        .found
        .iter()
        .map(|found| (found["slug"].as_str().unwrap(), line(found)))
        .collect();
    let first = 10;
    assert_eq!(
        told,
        [
            ("worker-model", first),
            ("worker-key", first + 1),
            ("worker-unwell", first + 2),
            ("worker-unwell", first + 3),
            ("worker-models", first + 3),
            ("worker-models", first + 4),
            ("worker-unreachable", first + 5),
            ("worker-tls", first + 6),
        ],
        "{}",
        probe.text
    );
    assert!(
        probe
            .found
            .iter()
            .all(|found| found["severity"] == "warning")
    );
    assert!(
        probe
            .text
            .contains(&format!("{} |   \"{}\",\n", first, other.url())),
        "{}",
        probe.text
    );
    assert!(message(probe.only("worker-key")).ends_with("wants a key: `/v1/models` answers 401"));
    assert!(message(probe.only("worker-tls")).ends_with("does not speak TLS"));
    assert_eq!(
        probe.summary(),
        "probed 7 workers: 5 answer; 1 socket: 1 free"
    );
    assert!(!probe.text.contains("sesame"));
    // Redirects are not followed, and nothing is sent but questions.
    assert!(moved.calls().is_empty() && other.calls().is_empty());

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("smg.toml");
    std::fs::write(&file, &toml).unwrap();
    assert_eq!(Probe::of_file(&file, &["--deny-warnings"]).status, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_workers_serve_is_compared_with_what_is_asked_of_them() {
    let engine = Worker::start(&["--model", "qwen", "--runtime", "vllm"]).await;
    let mute = silent_engine(|_| vec![ok()]).await;
    let toml = format!(
        "{LISTENER}[[pools]]\nname = \"a\"\nruntime = \"sglang\"\n[[pools.workers]]\nurl = {:?}\n\
         [[pools.workers]]\nurl = {:?}\nmodel = \"llama\"\n\
         [[pools]]\nname = \"b\"\nruntime = \"vllm\"\nworkers = [{:?}]\n\
         [[models]]\nname = \"llama\"\npool = \"a\"\npolicy = \"power_of_two\"\n\
         [[models]]\nname = \"gpt\"\npool = \"b\"\n",
        engine.url(),
        mute.url(),
        engine.url(),
    );
    let probe = Probe::of(&toml);
    assert_eq!(probe.status, 0, "{}", probe.text);
    let unserved = probe.only("model-unserved");
    assert_eq!(
        message(unserved),
        "no worker of pool `b` that answers serves `gpt`"
    );
    assert_eq!(unserved["help"], "they serve `qwen`");
    assert!(
        message(probe.only("worker-engine")).ends_with("runs `vllm`, and its pool says `sglang`")
    );
    assert_eq!(
        message(probe.only("policy-degraded")),
        "policy `power_of_two` of model `llama` would run without the load of engines: no worker \
         reports its load"
    );
    assert_eq!(probe.only("policy-degraded")["key"], "models[0].policy");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_hangs_costs_its_deadline_and_many_hang_at_once() {
    let sockets: Vec<TcpListener> = (0..40)
        .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
        .collect();
    let urls: Vec<String> = sockets
        .iter()
        .map(|socket| format!("http://{}", socket.local_addr().unwrap()))
        .collect();
    let toml =
        format!("{LISTENER}[[pools]]\nname = \"p\"\nhealth.timeout = \"1s\"\nworkers = {urls:?}\n");
    let began = Instant::now();
    let probe = Probe::of(&toml);
    // Two runs of two seconds each, as 32 are asked at once.
    assert!(
        began.elapsed() < Duration::from_secs(20),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(probe.slugs(), vec!["worker-silent"; 40]);
    let columns: Vec<&Value> = probe
        .found
        .iter()
        .map(|found| &found["primary"]["file"]["column"])
        .collect();
    assert!(columns.is_sorted_by_key(|column| column.as_u64()));
    assert_eq!(
        probe.summary(),
        "probed 40 workers: none answers; 1 socket: 1 free"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_does_not_do_is_told_apart() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let engine = FakeEngine::serving("m", |_| vec![ok()]).await;
    let front = async |config| TlsFront::start(engine.address(), config).await;
    let good = front(showing(&ours.issue("127.0.0.1"), None, HTTP1)).await;
    let old = front(showing(&ours.issue_until("127.0.0.1", 2020), None, HTTP1)).await;
    let foreign = front(showing(&theirs.issue("127.0.0.1"), None, HTTP1)).await;
    let named = front(showing(&ours.issue("gpu.test"), None, HTTP1)).await;
    let wary = front(showing(&ours.issue("127.0.0.1"), Some(&ours), HTTP1)).await;
    let urls = [&good, &old, &foreign, &named, &wary].map(|front| front.url());
    let toml = format!(
        "{LISTENER}[[pools]]\nname = \"p\"\nruntime = \"vllm\"\ntls.ca_paths = [{:?}]\nworkers = {urls:?}\n\
         [routing]\npolicy = \"round_robin\"\n",
        ours.path()
    );
    let probe = Probe::of(&toml);
    let told: Vec<&str> = probe.found.iter().map(message).collect();
    let of = |at: usize, what: &str| format!("worker `{}` {what}", urls[at]);
    assert_eq!(
        told,
        [
            of(1, "shows a certificate that has expired"),
            of(2, "shows a certificate of an unknown issuer"),
            of(3, "shows a certificate that is not for `127.0.0.1`"),
            of(4, "asks for a certificate of the gateway's"),
        ],
        "{}",
        probe.text
    );
    assert!(probe.slugs().iter().all(|slug| *slug == "worker-tls"));
    assert_eq!(probe.status, 0);
    assert_eq!(
        probe.summary(),
        "probed 5 workers: 1 answers; 1 certificate file; 1 socket: 1 free"
    );
}

/// A listener with this certificate, and the findings about it.
fn shown(address: &str, cert: &Path, key: &Path) -> Probe {
    Probe::of(&format!(
        "version = 1\n[[listeners]]\nname = \"main\"\naddress = {address:?}\nserve = [\"inference\", \"probes\"]\n\
         tls = {{ cert_path = {cert:?}, key_path = {key:?} }}\n[[pools]]\nname = \"p\"\nworkers = []\n\
         [routing]\nmulti_model = true\n"
    ))
}

#[test]
fn a_listener_with_a_certificate_that_clients_refuse_is_an_error() {
    let authority = Authority::new();
    let good = authority.issue("127.0.0.1");
    let probe = shown("127.0.0.1:0", &good.cert, &good.key);
    assert_eq!((probe.status, probe.slugs()), (0, vec![]), "{}", probe.text);
    assert_eq!(
        probe.summary(),
        "probed 1 certificate file; 1 socket: 1 free"
    );

    let old = authority.issue_until("127.0.0.1", 2020);
    let probe = shown("127.0.0.1:0", &old.cert, &old.key);
    let found = probe.only("certificate-expires");
    assert_eq!((probe.status, &found["severity"]), (78, &json!("error")));
    assert_eq!(found["key"], "listeners[0].tls.cert_path");

    // Soon enough for the probe, not for the check without it.
    let soon = time::OffsetDateTime::now_utc() + time::Duration::days(20);
    let soon = authority.issue_ending("127.0.0.1", soon);
    let probe = shown("127.0.0.1:0", &soon.cert, &soon.key);
    let found = probe.only("certificate-expires");
    assert_eq!((probe.status, &found["severity"]), (0, &json!("warning")));

    let other = authority.issue("elsewhere.test");
    let probe = shown("localhost:0", &other.cert, &other.key);
    assert!(
        message(probe.only("certificate-names")).contains("`elsewhere.test`"),
        "{}",
        probe.text
    );

    // The authority first, the listener's own behind it.
    let chain = std::fs::read_to_string(&good.cert).unwrap();
    let ca = std::fs::read_to_string(authority.path()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("chain.pem");
    std::fs::write(&path, format!("{chain}{chain}{ca}")).unwrap();
    let probe = shown("127.0.0.1:0", &path, &good.key);
    assert_eq!(probe.slugs(), ["certificate-chain"], "{}", probe.text);
    std::fs::write(&path, format!("{chain}{ca}")).unwrap();
    assert_eq!(shown("127.0.0.1:0", &path, &good.key).slugs(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_in_use_is_an_error_unless_the_running_gateway_has_it() {
    let folder = tempfile::tempdir().unwrap();
    let (port, taken) = (free_port(), TcpListener::bind("127.0.0.1:0").unwrap());
    let toml = format!(
        "version = 1\n[server]\ncontrol_socket = \"control.sock\"\n\
         [[listeners]]\nname = \"main\"\naddress = \"127.0.0.1:{port}\"\nserve = [\"inference\"]\n\
         [[listeners]]\nname = \"local\"\naddress = \"unix:{}/local.sock\"\nserve = [\"probes\"]\n\
         [[pools]]\nname = \"p\"\nworkers = []\n[routing]\nmulti_model = true\n",
        folder.path().display()
    );
    let busy = format!(
        "{toml}[[listeners]]\nname = \"busy\"\naddress = {:?}\nserve = [\"probes\"]\n",
        taken.local_addr().unwrap().to_string()
    );
    let file = folder.path().join("smg.toml");
    std::fs::write(&file, &busy).unwrap();
    let probe = Probe::of_file(&file, &[]);
    let found = probe.only("socket-in-use");
    assert_eq!((probe.status, &found["severity"]), (78, &json!("error")));
    let me = format!("(process {})", std::process::id());
    assert!(message(found).ends_with(&me), "{}", probe.text);
    assert_eq!(found["key"], "listeners[2].address");
    assert_eq!(probe.summary(), "probed 4 sockets: 3 free, 1 not to be had");
    assert!(
        std::fs::read_dir(folder.path()).unwrap().count() == 1,
        "nothing is left behind"
    );

    std::fs::write(&file, &toml).unwrap();
    let mut smg = Smg::start_in(folder, |_| {}).await;
    let file = smg.config_path();
    let probe = Probe::of_file(&file, &["--deny-warnings"]);
    assert_eq!((probe.status, probe.slugs()), (0, vec![]), "{}", probe.text);
    assert_eq!(
        probe.summary(),
        "probed 3 sockets: 3 in use by the running gateway"
    );
    // For another file it is somebody else's.
    let stranger = TempDir::new().unwrap();
    let other = stranger.path().join("smg.toml");
    std::fs::write(&other, &toml).unwrap();
    let probe = Probe::of_file(&other, &[]);
    let by = format!("in use by `smg` (process {})", smg.process().pid());
    let told: Vec<&str> = probe.found.iter().map(message).collect();
    assert_eq!((probe.status, told.len()), (78, 2), "{}", probe.text);
    assert!(told.iter().all(|told| told.ends_with(&by)), "{told:?}");
}

#[test]
fn addresses_that_this_machine_does_not_have_and_those_of_the_service_manager() {
    let toml = format!(
        "{LISTENER}[[listeners]]\nname = \"far\"\naddress = \"192.0.2.7:8000\"\nserve = [\"probes\"]\n\
         [[listeners]]\nname = \"given\"\naddress = \"systemd:given\"\nserve = [\"probes\"]\n\
         [[pools]]\nname = \"p\"\nworkers = []\n[routing]\nmulti_model = true\n\
         [tracing]\nenabled = true\notlp_endpoint = \"127.0.0.1:{}\"\n",
        free_port()
    );
    let probe = Probe::of(&toml);
    assert_eq!(
        probe.slugs(),
        [
            "socket-address",
            "collector-unreachable",
            "socket-unchecked"
        ],
        "{}",
        probe.text
    );
    assert_eq!(probe.status, 78);
    assert_eq!(
        probe.summary(),
        "probed 3 sockets: 1 free, 1 not looked at, 1 not to be had"
    );
}

#[test]
fn what_is_not_valid_is_not_probed() {
    let probe = Probe::of(&format!("{LISTENERS}\nnonsense = 1\n"));
    assert_eq!(probe.status, 78);
    assert!(!probe.text.contains("probed "), "{}", probe.text);
    let output = command()
        .args(["check-config", "--probe", "--no-environment", "x.toml"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
}
