//! The control plane in one process: real files, scripted engines, sockets that bind nothing.

mod fleet;
mod follow;
mod reload;
mod watching;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};

use super::{Control, Outside, Running};
use crate::base::task::{AbortOnDrop, spawn};
use crate::config::{Input, load};
use crate::live::{
    Admin, BindError, BoxFuture, Live, Outcome, PreparedSockets, Snapshot, Sockets, Trigger,
};
use crate::plan::Listener;

const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until `condition` holds.
async fn eventually(condition: impl Fn() -> bool) {
    let held = async {
        while !condition() {
            sleep(Duration::from_millis(2)).await;
        }
    };
    assert!(
        timeout(PATIENCE, held).await.is_ok(),
        "not so within {PATIENCE:?}"
    );
}

/// Sockets that only remember what they were told.
#[derive(Default)]
struct Told {
    refuse: Mutex<Option<String>>,
    prepared: AtomicUsize,
    serving: Mutex<Vec<String>>,
}

struct ToldOnce {
    told: Arc<Told>,
    names: Vec<String>,
}

struct Fake(Arc<Told>);

impl Sockets for Fake {
    fn prepare(
        &self,
        listeners: &[Arc<Listener>],
    ) -> BoxFuture<Result<Box<dyn PreparedSockets>, Vec<BindError>>> {
        let told = Arc::clone(&self.0);
        let names: Vec<String> = listeners.iter().map(|l| l.name.to_string()).collect();
        Box::pin(async move {
            told.prepared.fetch_add(1, Ordering::Relaxed);
            if let Some(name) = told
                .refuse
                .lock()
                .clone()
                .filter(|name| names.contains(name))
            {
                return Err(vec![BindError::Address {
                    name,
                    address: "here".to_owned(),
                    source: std::io::ErrorKind::AddrInUse.into(),
                }]);
            }
            let prepared: Box<dyn PreparedSockets> = Box::new(ToldOnce { told, names });
            Ok(prepared)
        })
    }
}

impl PreparedSockets for ToldOnce {
    fn commit(self: Box<Self>) {
        *self.told.serving.lock() = self.names;
    }
}

/// A control plane that follows `smg.toml` in a folder of its own.
struct Plane {
    folder: TempDir,
    admin: Arc<dyn Admin>,
    sockets: Arc<Told>,
    running: Running,
}

impl Plane {
    async fn start(text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("smg.toml"), text).unwrap();
        Self::start_in(folder).await
    }

    async fn start_in(folder: TempDir) -> Self {
        crate::telemetry::metrics::install(crate::telemetry::metrics::default_buckets()).unwrap();
        let input = Input {
            file: Some(folder.path().join("smg.toml")),
            ..Input::default()
        };
        let first = load(&input);
        assert!(first.spec.is_some(), "{:?}", first.diagnostics);
        let outside = Outside {
            input: Arc::new(input),
            logging: None,
            observer: Box::new(|_| {}),
            upgrades: tokio::sync::mpsc::channel(1).0,
            fleet: None,
        };
        let control = Control::new(first, outside).unwrap();
        let admin = control.admin();
        let sockets = Arc::new(Told::default());
        let running = control
            .start(Arc::new(Fake(Arc::clone(&sockets))), None)
            .await
            .unwrap();
        Self {
            folder,
            admin,
            sockets,
            running,
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("smg.toml")
    }

    /// Writes the file in place.
    fn write(&self, text: &str) {
        std::fs::write(self.path(), text).unwrap();
    }

    /// Replaces the file as editors do.
    fn replace(&self, text: &str) {
        replace(&self.path(), text);
    }

    async fn reload(&self) -> Outcome {
        timeout(PATIENCE, self.admin.reload(Trigger::Admin))
            .await
            .unwrap()
    }

    fn live(&self) -> &Arc<Live> {
        self.running.live()
    }

    fn now(&self) -> Arc<Snapshot> {
        self.live().load()
    }

    /// URLs of the workers in effect.
    fn workers(&self) -> Vec<String> {
        let snapshot = self.now();
        snapshot
            .plan
            .workers
            .iter()
            .map(|worker| worker.key.to_string())
            .collect()
    }

    fn usable(&self) -> usize {
        let snapshot = self.now();
        snapshot
            .workers()
            .filter(|worker| snapshot.is_usable(*worker))
            .count()
    }
}

fn replace(path: &Path, text: &str) {
    let fresh = path.with_extension("fresh");
    std::fs::write(&fresh, text).unwrap();
    std::fs::rename(fresh, path).unwrap();
}

/// A file with one pool of these workers, probed quickly.
fn config(workers: &[&str]) -> String {
    format!(
        "version = 1\n\
         [[pools]]\nname = \"pool\"\nworkers = {workers:?}\n\
         [pools.health]\ninterval = \"20ms\"\ntimeout = \"2s\"\nstartup_check_interval = \"20ms\"\n"
    )
}

/// An engine that answers each path as it is told, and 404 otherwise.
struct Engine {
    address: SocketAddr,
    script: Arc<Mutex<BTreeMap<String, (u16, String)>>>,
    asked: Arc<Mutex<Vec<String>>>,
    connections: Arc<AtomicUsize>,
    _accepting: AbortOnDrop,
}

impl Engine {
    /// Healthy, with this one model.
    async fn serving(model: &str, owner: &str) -> Self {
        let engine = Self::bare().await;
        engine.says("/health", 200, "");
        engine.advertises(model, owner);
        engine
    }

    async fn bare() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let script: Arc<Mutex<BTreeMap<String, (u16, String)>>> = Arc::default();
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let connections: Arc<AtomicUsize> = Arc::default();
        let state = (
            Arc::clone(&script),
            Arc::clone(&asked),
            Arc::clone(&connections),
        );
        let accepting = AbortOnDrop::spawn("engine", async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (script, asked, connections) = state.clone();
                connections.fetch_add(1, Ordering::Relaxed);
                spawn("engine connection", async move {
                    let service = hyper::service::service_fn(|request: Request<Incoming>| {
                        let path = request.uri().path().to_owned();
                        let key = request.headers().get("authorization").cloned();
                        asked.lock().push(match key {
                            Some(key) => format!("{path} {}", key.to_str().unwrap()),
                            None => path.clone(),
                        });
                        let said = script.lock().get(&path).cloned();
                        let (status, body) = said.unwrap_or((404, String::new()));
                        let response = Response::builder()
                            .status(status)
                            .body(Full::new(Bytes::from(body)))
                            .unwrap();
                        async move { Ok::<_, Infallible>(response) }
                    });
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await
                        .ok();
                    connections.fetch_sub(1, Ordering::Relaxed);
                });
            }
        });
        Self {
            address,
            script,
            asked,
            connections,
            _accepting: accepting,
        }
    }

    fn says(&self, path: &str, status: u16, body: &str) {
        self.script
            .lock()
            .insert(path.to_owned(), (status, body.to_owned()));
    }

    fn advertises(&self, model: &str, owner: &str) {
        let body = json!({ "data": [{ "id": model, "owned_by": owner, "max_model_len": 4096 }] });
        self.says("/v1/models", 200, &body.to_string());
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn asked(&self, path: &str) -> usize {
        self.asked
            .lock()
            .iter()
            .filter(|asked| *asked == path)
            .count()
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

/// The errors of a rejection.
fn rejected(outcome: &Outcome) -> Vec<&'static str> {
    match outcome {
        Outcome::Rejected { diagnostics } => diagnostics
            .iter()
            .filter(|d| d.is_error())
            .map(|d| d.slug)
            .collect(),
        Outcome::Applied { .. } | Outcome::Unchanged { .. } => panic!("{outcome:?}"),
    }
}

/// The generation of what the file says. The watcher may have been there first.
fn applied(outcome: &Outcome) -> u64 {
    match outcome {
        Outcome::Applied { generation, .. } | Outcome::Unchanged { generation, .. } => *generation,
        Outcome::Rejected { .. } => panic!("{outcome:?}"),
    }
}

fn status(plane: &Plane) -> Value {
    plane.admin.status()
}
