//! The gateway as a child process: the built binary, a configuration in a folder of its own, every
//! listener on port 0.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::metrics::Samples;
use super::process::{self, Process};
use super::{eventually, get, post};

/// The head of most test configurations: a listener for everything and one for the metrics.
pub(crate) const LISTENERS: &str = r#"
version = 1

[[listeners]]
name = "main"
address = "127.0.0.1:0"
serve = ["inference", "admin", "probes"]

[[listeners]]
name = "metrics"
address = "127.0.0.1:0"
serve = ["metrics"]
"#;

/// Long enough for a loaded machine; a healthy start takes milliseconds.
const START: Duration = Duration::from_secs(20);

/// A running gateway.
pub(crate) struct Smg {
    process: Process,
    folder: TempDir,
}

/// What `POST /admin/reload` answered.
#[derive(Debug)]
pub(crate) struct Reload {
    pub(crate) status: u16,
    pub(crate) body: Value,
}

impl Smg {
    /// Starts with this file as its `smg.toml` and waits until it is ready.
    pub(crate) async fn start(toml: &str) -> Self {
        Self::start_with(toml, |_| {}).await
    }

    /// The same, with flags or variables added to the command.
    pub(crate) async fn start_with(toml: &str, prepare: impl FnOnce(&mut Command)) -> Self {
        Self::start_in(folder_with(toml), prepare).await
    }

    /// The same with a folder in which `smg.toml` is there already, whatever it is.
    pub(crate) async fn start_in(folder: TempDir, prepare: impl FnOnce(&mut Command)) -> Self {
        let mut command = command();
        command.arg("--config").arg(folder.path().join("smg.toml"));
        prepare(&mut command);
        let mut smg = Self {
            process: Process::spawn("the gateway", &mut command),
            folder,
        };
        smg.process
            .line(START, |line| (message(line) == Some("ready")).then_some(()))
            .await;
        smg
    }

    /// Runs a gateway that is expected to end by itself, and returns how it did.
    pub(crate) fn expect_failure(toml: &str) -> Output {
        let folder = folder_with(toml);
        let output = process::run(
            command()
                .arg("--config")
                .arg(folder.path().join("smg.toml")),
            Duration::from_secs(10),
        );
        assert!(
            !output.status.success(),
            "it started and ended with success: {output:?}"
        );
        output
    }

    /// Where the listener of this name listens now. Panics if the log never said so; what a reload
    /// has opened may take a moment to be there.
    pub(crate) fn address(&self, listener: &str) -> SocketAddr {
        let addresses = self.addresses(listener);
        *addresses
            .last()
            .unwrap_or_else(|| panic!("no address of listener {listener} in the log"))
    }

    /// Where the listener of this name has listened so far, latest last.
    pub(crate) fn addresses(&self, listener: &str) -> Vec<SocketAddr> {
        let output = self.process.output();
        output
            .iter()
            .filter(|line| message(line) == Some("listening"))
            .filter(|line| field(line, "listener").as_deref() == Some(listener))
            .filter_map(|line| field(line, "address")?.parse().ok())
            .collect()
    }

    /// Where clients connect: the listener `main`.
    pub(crate) fn main(&self) -> SocketAddr {
        self.address("main")
    }

    pub(crate) fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// The folder that holds nothing but the configuration (and what the test puts there).
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn config_path(&self) -> PathBuf {
        self.folder().join("smg.toml")
    }

    /// Replaces the file the way editors do: a new file, renamed over the old one.
    pub(crate) fn rewrite(&self, toml: &str) {
        let fresh = self.folder().join(".smg.toml.new");
        std::fs::write(&fresh, toml).unwrap();
        std::fs::rename(fresh, self.config_path()).unwrap();
    }

    /// Asks for a reload on `main` and returns the outcome.
    pub(crate) async fn reload(&self) -> Reload {
        let answer = post(self.main(), "/admin/reload", &json!({})).await;
        Reload {
            status: answer.status,
            body: answer.json(),
        }
    }

    /// What `GET /admin/config/status` on `main` says.
    pub(crate) async fn status(&self) -> Value {
        get(self.main(), "/admin/config/status").await.json()
    }

    /// Waits until this generation is the live one.
    #[track_caller]
    pub(crate) fn serves(&self, generation: u64) -> impl Future<Output = ()> {
        let main = self.main();
        eventually(START, async move || {
            let status = get(main, "/admin/config/status").await.json();
            status["live"]["generation"] == generation
        })
    }

    /// Replaces the file, reloads, and returns the generation that serves it. Panics unless it was
    /// accepted.
    pub(crate) async fn apply(&self, toml: &str) -> u64 {
        self.rewrite(toml);
        let reload = self.reload().await;
        // The watcher may have been first.
        assert!(
            matches!(reload.result(), "applied" | "unchanged"),
            "{reload:?}"
        );
        reload.generation().unwrap()
    }

    pub(crate) fn sighup(&self) {
        self.process.signal("HUP");
    }

    pub(crate) fn kill9(&mut self) {
        self.process.kill();
    }

    /// SIGTERM, then waits for the end.
    pub(crate) async fn term_and_wait(&mut self) -> ExitStatus {
        self.process.signal("TERM");
        self.process.ended(Duration::from_secs(30)).await
    }

    /// The samples that the metrics listener shows now.
    pub(crate) async fn metrics(&self) -> Samples {
        Samples::parse(&get(self.address("metrics"), "/metrics").await.text())
    }
}

impl Reload {
    /// `applied`, `unchanged` or `rejected`.
    pub(crate) fn result(&self) -> &str {
        self.body["result"].as_str().unwrap_or_default()
    }

    /// The number of the configuration in force; absent from a rejection.
    pub(crate) fn generation(&self) -> Option<u64> {
        self.body["generation"].as_u64()
    }
}

/// The binary, with nothing of the developer's environment that could steer it.
pub(crate) fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_smg"));
    command.env_clear();
    for kept in ["PATH", "HOME", "TMPDIR", "LLVM_PROFILE_FILE"] {
        if let Some(value) = std::env::var_os(kept) {
            command.env(kept, value);
        }
    }
    command
}

fn folder_with(toml: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("smg.toml"), toml).unwrap();
    folder
}

/// The message of a log line: in text the word before the first `key=`, in JSON the field.
fn message(line: &str) -> Option<&str> {
    if line.starts_with('{') {
        let at = line.split_once("\"message\":\"")?.1;
        return at.split('"').next();
    }
    let words = line
        .split_whitespace()
        .take_while(|word| !word.contains('='));
    words.last()
}

/// A field of a log line, in text (`key=value`, `key="value"`) or JSON (`"key":"value"`).
fn field(line: &str, key: &str) -> Option<String> {
    if line.starts_with('{') {
        let at = line.split_once(&format!("\"{key}\":\""))?.1;
        return at.split('"').next().map(str::to_owned);
    }
    let start = format!("{key}=");
    let value = line
        .split_whitespace()
        .find_map(|word| word.strip_prefix(&start))?;
    Some(value.trim_matches('"').to_owned())
}

#[test]
fn reads_both_forms_of_the_log() {
    let text =
        "2026-11-21T10:00:00.000Z  INFO smg::serve: listening listener=main address=127.0.0.1:5";
    let json =
        r#"{"level":"INFO","message":"listening","listener":"main","address":"127.0.0.1:5"}"#;
    for line in [text, json] {
        assert_eq!(message(line), Some("listening"));
        assert_eq!(field(line, "listener").as_deref(), Some("main"));
        assert_eq!(field(line, "address").as_deref(), Some("127.0.0.1:5"));
        assert_eq!(field(line, "mode"), None);
    }
    assert_eq!(message("2026 INFO ready"), Some("ready"));
}
