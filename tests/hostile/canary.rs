//! Secrets are planted wherever there is room for one, the gateway is used in every way, and whatever
//! comes out of it is searched for them.
//!
//! A new secret is a line of [`SECRETS`] and its place in [`file`]; a new output is a line of
//! [`collect`].

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use serde_json::json;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::AbortHandle;

use crate::scene::{PATIENCE, ok, silent_engine, with};
use crate::support::client::{json_request, request};
use crate::support::engine::Asked;
use crate::support::{Connection, FakeEngine, Smg, eventually, process, smg};

/// Every secret, and the only places where it may be seen.
const SECRETS: &[(&str, &[&str])] = &[
    // The gateway's own.
    ("canary-api-key-5e0a", &[]),
    ("canary-tenant-plain-41c7", &[]),
    ("canary-tenant-value-93d2", &[]),
    ("canary-tenant-env-77ab", &[]),
    ("canary-tenant-file-0c6e", &[]),
    ("canary-tenant-credential-e1f9", &[]),
    ("canary-tenant-hashed-2b84", &[]),
    ("canary-tenant-expired-6d15", &[]),
    ("canary-control-admin-8f30", &[]),
    ("canary-control-user-ba62", &[]),
    // Those of workers, each for its own.
    ("canary-pool-key-d4c1", &["asked first"]),
    ("canary-worker-key-1797", &["asked second"]),
    ("canary-added-key-c0de", &["asked third", "state"]),
    // What clients bring.
    ("canary-client-bearer-3a5f", &[]),
    ("canary-client-basic-f00b", &[]),
    ("canary-client-x-api-key-9e21", &[]),
    ("canary-client-cookie-54dd", &[]),
    ("canary-client-query-7c08", &[]),
    ("canary-client-custom-ab19", &[]),
    (
        "canary-token-head.canary-token-body-20fe.canary-token-sign",
        &[],
    ),
    ("canary-token-body-20fe", &[]),
    ("canary-wrong-admin-key-6666", &[]),
    // What they say and hear.
    (
        "canary-prompt-e7d3",
        &["asked first", "asked second", "asked third"],
    ),
    ("canary-answer-18b6", &["answer"]),
];

/// SHA-256 of `canary-tenant-hashed-2b84`.
fn hashed() -> String {
    use sha2::{Digest, Sha256};
    let digest = Sha256::digest("canary-tenant-hashed-2b84");
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A configuration with a secret under every key that takes one.
fn file(first: &FakeEngine, second: &FakeEngine, collector: &Collector, log: &str) -> String {
    format!(
        r#"
version = 1

[[listeners]]
name = "metrics"
address = "127.0.0.1:0"
serve = ["metrics"]

[[listeners]]
name = "secure"
address = "127.0.0.1:0"
serve = ["inference"]
tls = {{ cert_path = "tls.crt", key_path = "tls.key" }}

[[listeners]]
name = "main"
address = "127.0.0.1:0"
serve = ["inference", "admin", "probes"]
expose_worker_id = true
expose_decision = true

[server]
state_dir = "state"

[logging]
level = "trace"
{log}

[audit]
path = "audit.log"

[tracing]
enabled = true
otlp_endpoint = "http://{collector}"

[auth]
api_key = {{ env = "CANARY_API_KEY" }}

# Nobody is there, so that no token is good.
[auth.jwt]
issuer = "http://127.0.0.1:9/issuer"
audience = "smg"

[[auth.tenants]]
name = "acme"
keys = [
    "canary-tenant-plain-41c7",
    {{ value = "canary-tenant-value-93d2" }},
    {{ env = "CANARY_TENANT" }},
    {{ file = "tenant.key" }},
    {{ credential = "tenant" }},
    {{ sha256 = "{hashed}", expires_at = 2099-01-01T00:00:00Z }},
    {{ value = "canary-tenant-expired-6d15", expires_at = 2020-01-01T00:00:00Z }},
]

[[auth.control_plane.api_keys]]
id = "ops"
role = "admin"
key = {{ file = "control.key" }}

[[auth.control_plane.api_keys]]
id = "reader"
role = "user"
key = "canary-control-user-ba62"

[reliability.health]
interval = "100ms"
startup_check_interval = "100ms"

[[pools]]
name = "p"
api_key = "canary-pool-key-d4c1"
workers = ["{first}", {{ url = "{second}", api_key = {{ file = "worker.key" }} }}]

[[models]]
name = "m"
aliases = ["also-m"]
pool = "p"
policy = "round_robin"
"#,
        hashed = hashed(),
        collector = collector.address,
        first = first.url(),
        second = second.url(),
    )
}

/// A folder with the configuration and the files that it names.
fn folder(toml: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write("smg.toml", toml);
    write("tenant.key", "canary-tenant-file-0c6e\n");
    write("control.key", "canary-control-admin-8f30\n");
    write("worker.key", "canary-worker-key-1797\n");
    write("credentials/tenant", "canary-tenant-credential-e1f9\n");
    let key = rcgen::KeyPair::generate().unwrap();
    let cert = rcgen::CertificateParams::new(vec!["localhost".to_owned()])
        .unwrap()
        .self_signed(&key)
        .unwrap();
    write("tls.crt", &cert.pem());
    write("tls.key", &key.serialize_pem());
    folder
}

fn environment(command: &mut Command, folder: &Path) {
    command
        .env("CANARY_API_KEY", "canary-api-key-5e0a")
        .env("CANARY_TENANT", "canary-tenant-env-77ab")
        .env("CREDENTIALS_DIRECTORY", folder.join("credentials"))
        .env("RUST_LOG", "trace");
}

/// An engine that answers what nobody but its client may read.
async fn engine() -> FakeEngine {
    silent_engine(|asked| {
        if asked.path.ends_with("completions") {
            vec![crate::support::Step::json(
                200,
                &json!({ "choices": [{ "index": 0, "text": "canary-answer-18b6" }],
                         "usage": { "prompt_tokens": 3, "completion_tokens": 2 } }),
            )]
        } else {
            vec![ok()]
        }
    })
    .await
}

/// Takes spans and keeps what was sent.
struct Collector {
    address: SocketAddr,
    received: Arc<Mutex<Vec<u8>>>,
    accepting: AbortHandle,
}

impl Collector {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let received = Arc::<Mutex<Vec<u8>>>::default();
        let kept = Arc::clone(&received);
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let kept = Arc::clone(&kept);
                let service = service_fn(move |request: http::Request<Incoming>| {
                    let kept = Arc::clone(&kept);
                    async move {
                        let head = format!("{:?}", request.headers());
                        let body = request.into_body().collect().await?.to_bytes();
                        kept.lock().extend_from_slice(head.as_bytes());
                        kept.lock().extend_from_slice(&body);
                        let answer = http::Response::builder()
                            .header("content-type", "application/grpc")
                            .header("grpc-status", "0")
                            .body(Full::<Bytes>::default());
                        Ok::<_, hyper::Error>(answer.unwrap())
                    }
                });
                let serving = http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service);
                tokio::spawn(serving);
            }
        });
        Self {
            address,
            received,
            accepting: accepting.abort_handle(),
        }
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// What came out, and where.
#[derive(Default)]
struct Outputs(Vec<(String, Vec<u8>)>);

impl Outputs {
    fn add(&mut self, place: impl Into<String>, bytes: impl Into<Vec<u8>>) {
        self.0.push((place.into(), bytes.into()));
    }

    fn asked(&mut self, place: &str, engine: &FakeEngine) {
        for Asked {
            method,
            path,
            headers,
            body,
        } in engine.asked()
        {
            let text = format!(
                "{method} {path} {headers:?} {}",
                String::from_utf8_lossy(&body)
            );
            self.add(place, text);
        }
    }

    /// Panics where a secret is that it may not be.
    #[track_caller]
    fn search(&self) {
        let mut found = Vec::new();
        for (place, bytes) in &self.0 {
            for (secret, allowed) in SECRETS {
                let seen = forms(secret)
                    .iter()
                    .any(|form| memchr::memmem::find(bytes, form.as_bytes()).is_some());
                if seen && !allowed.iter().any(|allowed| place.starts_with(allowed)) {
                    let line = bytes
                        .split(|byte| *byte == b'\n')
                        .map(|line| String::from_utf8_lossy(line).into_owned())
                        .find(|line| forms(secret).iter().any(|form| line.contains(form)));
                    found.push(format!("{secret} in {place}: {}", line.unwrap_or_default()));
                }
            }
        }
        assert!(found.is_empty(), "{}", found.join("\n"));
    }
}

/// A secret as it is, and as it would look in a header of HTTP's basic scheme.
fn forms(secret: &str) -> [String; 2] {
    [secret.to_owned(), base64(secret)]
}

fn base64(text: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    // Only whole groups: what a neighbour could change is left out.
    text.as_bytes()
        .chunks_exact(3)
        .flat_map(|three| {
            let bits = u32::from_be_bytes([0, three[0], three[1], three[2]]);
            [18, 12, 6, 0].map(|shift| char::from(DIGITS[(bits >> shift) as usize & 63]))
        })
        .collect()
}

/// Credentials of clients: good ones, bad ones, and more than one at once.
fn credentials() -> Vec<Vec<(&'static str, String)>> {
    let bearer = |key: &str| ("authorization", format!("Bearer {key}"));
    let mut all: Vec<Vec<_>> = SECRETS
        .iter()
        .map(|(secret, _)| *secret)
        .filter(|secret| {
            secret.contains("-key-")
                || secret.contains("tenant")
                || secret.contains("control")
                || secret.contains("token")
                || secret.contains("bearer")
        })
        .flat_map(|secret| {
            [
                vec![bearer(secret)],
                vec![("x-api-key", secret.to_owned())],
                vec![("x-smg-api-key", secret.to_owned())],
            ]
        })
        .collect();
    all.push(vec![
        bearer("canary-api-key-5e0a"),
        ("x-smg-api-key", "canary-tenant-plain-41c7".to_owned()),
    ]);
    all.push(vec![
        bearer("canary-client-bearer-3a5f"),
        ("x-api-key", "canary-client-x-api-key-9e21".to_owned()),
    ]);
    all.push(vec![(
        "authorization",
        format!("Basic {}", base64("canary-client-basic-f00b")),
    )]);
    all.push(vec![(
        "authorization",
        "canary-client-bearer-3a5f".to_owned(),
    )]);
    all.push(Vec::new());
    all
}

fn dressed(
    mut request: http::Request<Full<Bytes>>,
    dress: &[(&'static str, String)],
) -> http::Request<Full<Bytes>> {
    for (name, value) in dress {
        request = with(request, name, value);
    }
    for (name, value) in [
        ("cookie", "session=canary-client-cookie-54dd"),
        ("x-custom-secret", "canary-client-custom-ab19"),
        ("proxy-authorization", "Basic canary-client-basic-f00b"),
    ] {
        request = with(request, name, value);
    }
    request
}

/// Uses every route with every credential, and keeps the answers.
async fn use_it(smg: &Smg, third: &FakeEngine, out: &mut Outputs) {
    let prompt = json!({ "model": "m", "prompt": "canary-prompt-e7d3" });
    let chat = json!({ "model": "also-m", "stream": true,
        "messages": [{ "role": "user", "content": "canary-prompt-e7d3" }] });
    let broken = "{\"model\": \"m\", \"prompt\": \"canary-prompt-e7d3";
    for dress in credentials() {
        for (path, body) in [
            ("/v1/completions", prompt.to_string()),
            (
                "/v1/chat/completions?key=canary-client-query-7c08",
                chat.to_string(),
            ),
            ("/generate", prompt.to_string()),
            ("/v1/completions", broken.to_owned()),
            ("/nowhere?key=canary-client-query-7c08", prompt.to_string()),
        ] {
            let json = dressed(json_request(path, &json!({})), &dress);
            let (head, _) = json.into_parts();
            let asked = http::Request::from_parts(head, Full::new(Bytes::from(body)));
            keep(smg, asked, "answer", out).await;
        }
        for path in [
            "/v1/models",
            "/workers",
            "/admin/config",
            "/admin/config/status",
            "/admin/snapshots",
            "/get_loads",
            "/get_server_info",
            "/health?key=canary-client-query-7c08",
        ] {
            let asked = dressed(request(Method::GET, path, Bytes::new()), &dress);
            keep(smg, asked, path, out).await;
        }
        let explained = json!({ "endpoint": "/v1/completions", "body": prompt,
            "headers": { "authorization": "Bearer canary-client-bearer-3a5f" } });
        let asked = dressed(json_request("/admin/explain", &explained), &dress);
        keep(smg, asked, "explain", out).await;
        let asked = dressed(json_request("/admin/reload", &json!({})), &dress);
        keep(smg, asked, "reload", out).await;
        for body in [
            json!({ "url": third.url(), "pool": "p", "api_key": "canary-added-key-c0de" }),
            json!({ "url": "http://user:canary-client-basic-f00b@127.0.0.1", "pool": "p" }),
            json!({ "url": third.url(), "api_key": ["canary-added-key-c0de"] }),
            json!({ "url": 1, "api_key": { "canary-added-key-c0de": 1 } }),
        ] {
            let asked = dressed(json_request("/workers", &body), &dress);
            keep(smg, asked, "workers", out).await;
        }
    }
}

async fn keep(smg: &Smg, asked: http::Request<Full<Bytes>>, place: &str, out: &mut Outputs) {
    let place = format!("{place} ({} {})", asked.method(), asked.uri().path());
    let answer = Connection::h1(smg.main()).await.send(asked).await;
    out.add(format!("{place}: head"), format!("{:?}", answer.headers));
    out.add(place, answer.body.to_vec());
}

/// What the commands say of the file.
fn commands(folder: &Path, out: &mut Outputs) {
    let file = folder.join("smg.toml").display().to_string();
    let other = folder.join("other.toml").display().to_string();
    let changed = std::fs::read_to_string(&file)
        .unwrap()
        .replace("canary-", "canary-new-");
    std::fs::write(&other, changed).unwrap();
    let request = folder.join("request.json").display().to_string();
    let body = json!({ "model": "m", "prompt": "canary-prompt-e7d3" });
    std::fs::write(&request, body.to_string()).unwrap();
    for args in [
        &["check-config", &file][..],
        &["check-config", "--format", "json", &file],
        &["check-config", "--format", "github", &file],
        &["check-config", "--format", "sarif", &file],
        &["check-config", "--no-environment", &file],
        &["config", "dump", "--config", &file],
        &["config", "dump", "--origins", "--config", &file],
        &["config", "diff", &file, &other],
        &["config", "diff", &other, &file],
        &["explain", "--config", &file, "--request", &request],
        &[
            "explain",
            "--config",
            &file,
            "--request",
            &request,
            "--format",
            "json",
        ],
    ] {
        let mut command = smg::command();
        command.args(args);
        environment(&mut command, folder);
        let output = tokio::task::block_in_place(|| process::run(&mut command, PATIENCE));
        // Otherwise an unknown argument would pass for discretion.
        assert_ne!(output.status.code(), Some(2), "{args:?}: {output:?}");
        assert_ne!(output.status.code(), Some(64), "{args:?}: {output:?}");
        out.add(
            format!("smg {}", args.join(" ")),
            [output.stdout, output.stderr].concat(),
        );
    }
    for planted in [other, request] {
        std::fs::remove_file(planted).unwrap();
    }
}

/// Every file below `folder` that the gateway has written.
fn files(folder: &Path, planted: &[&str], out: &mut Outputs) {
    let mut folders = vec![folder.to_owned()];
    while let Some(at) = folders.pop() {
        for entry in std::fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(folder).unwrap().display().to_string();
            if planted.iter().any(|planted| name.starts_with(planted)) {
                continue;
            }
            let about = std::fs::symlink_metadata(&path).unwrap();
            if about.is_dir() {
                folders.push(path);
            } else if about.is_file() {
                if name.starts_with("state") {
                    let mode = about.permissions().mode() & 0o777;
                    assert_eq!(mode & 0o077, 0, "{name} has mode {mode:o}");
                }
                out.add(name, std::fs::read(path).unwrap());
            }
        }
    }
}

/// Everything that came out of a gateway that was used with this form of log.
async fn collect(log: &str) {
    let (first, second, third) = (engine().await, engine().await, engine().await);
    let collector = Collector::start().await;
    let folder = folder(&file(&first, &second, &collector, log));
    let path = folder.path().to_owned();
    let mut gateway = Smg::start_in(folder, |command| environment(command, &path)).await;
    let mut out = Outputs::default();
    use_it(&gateway, &third, &mut out).await;
    commands(&path, &mut out);
    let metrics = crate::support::get(gateway.address("metrics"), "/metrics").await;
    out.add("metrics", metrics.body.to_vec());
    // A certificate and a key that fit nobody, and a file that is torn: both are spoken of.
    for (name, text) in [
        (
            "tls.key",
            "-----BEGIN PRIVATE KEY-----\ncanary-tls\n-----END PRIVATE KEY-----\n",
        ),
        ("smg.toml", "[auth]\napi_key = \"canary-api-key-5e0a"),
    ] {
        let at = path.join(name);
        let good = std::fs::read(&at).unwrap();
        std::fs::write(&at, text).unwrap();
        for dress in [
            Vec::new(),
            vec![(
                "authorization",
                "Bearer canary-control-admin-8f30".to_owned(),
            )],
        ] {
            let asked = dressed(json_request("/admin/reload", &json!({})), &dress);
            keep(&gateway, asked, "refused reload", &mut out).await;
            let asked = dressed(
                request(Method::GET, "/admin/config/status", Bytes::new()),
                &dress,
            );
            keep(&gateway, asked, "status", &mut out).await;
        }
        std::fs::write(&at, good).unwrap();
    }
    let ended = tokio::time::timeout(Duration::from_secs(40), gateway.term_and_wait()).await;
    assert!(ended.is_ok_and(|status| status.success()));
    eventually(PATIENCE, async || {
        let lines = gateway.process().output();
        lines.iter().any(|line| line.contains("smg")) || path.join("logs").is_dir()
    })
    .await;
    let traces = collector.received.lock().clone();
    assert!(
        memchr::memmem::find(&traces, b"/v1/completions").is_some(),
        "no span has come"
    );
    out.add("traces", traces);
    out.add("console", gateway.process().output().join("\n"));
    files(
        &path,
        &[
            "smg.toml",
            "tenant.key",
            "control.key",
            "worker.key",
            "credentials",
            "tls.",
        ],
        &mut out,
    );
    for (place, engine) in [
        ("asked first", &first),
        ("asked second", &second),
        ("asked third", &third),
    ] {
        out.asked(place, engine);
        assert!(!engine.asked().is_empty(), "{place}: nobody asked");
    }
    let served = |place: &str| {
        out.0.iter().any(|(at, bytes)| {
            at.starts_with(place) && memchr::memmem::find(bytes, b"canary-answer-18b6").is_some()
        })
    };
    assert!(served("answer"), "nobody was served, so nothing was tried");
    out.search();
    // What the TLS key says is a secret too, though not one that is made up here.
    let key = std::fs::read_to_string(path.join("tls.key")).unwrap();
    let line = key.lines().nth(1).unwrap();
    for (place, bytes) in &out.0 {
        for told in [line, "canary-tls"] {
            assert!(
                memchr::memmem::find(bytes, told.as_bytes()).is_none(),
                "the private key in {place}"
            );
        }
    }
    assert!(
        out.0.iter().any(|(place, _)| place.starts_with("state")),
        "no state was kept"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_gets_out_beside_a_log_in_text() {
    collect("").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_gets_out_beside_a_log_in_json() {
    collect("format = \"json\"").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_gets_out_beside_log_files() {
    collect("dir = \"logs\"").await;
}
