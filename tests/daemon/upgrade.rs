//! A new process takes over from the running one: nothing that a client sees is lost.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::{UnixDatagram, UnixStream};

use crate::scene::{self, PATIENCE, ask, ask_stream, ok, plain_engine, two_tokens};
use crate::support::client::{json_request, request};
use crate::support::{
    Connection, FakeEngine, Gate, Smg, eventually, get, post, process, smg, stream,
};

/// The variable by which a test knows the processes that it has caused.
const MARK: &str = "UPGRADE_TEST_MARK";

/// A gateway whose successors are ended with it.
struct House {
    smg: Smg,
    family: Family,
}

/// Every process that carries the mark of a test, whoever has started it.
struct Family(String);

impl Family {
    fn pids(&self) -> Vec<u32> {
        let wanted = format!("{MARK}={}", self.0);
        let processes = std::fs::read_dir("/proc").unwrap();
        let pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        pids.filter(|pid| {
            let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            let mut variables = environment.split(|byte| *byte == 0);
            variables.any(|variable| variable == wanted.as_bytes())
        })
        .collect()
    }
}

impl Drop for Family {
    fn drop(&mut self) {
        for pid in self.pids() {
            signal(pid, "KILL");
        }
    }
}

fn signal(pid: u32, name: &str) {
    let mut kill = Command::new("sh");
    kill.args(["-c", "kill -s \"$1\" \"$2\"", "sh", name, &pid.to_string()]);
    // It may have ended meanwhile.
    process::run(&mut kill, PATIENCE);
}

/// Who has started a process, or has got it from one that has ended.
fn parent_of(pid: u32) -> u32 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, rest) = stat.rsplit_once(") ").unwrap();
    rest.split(' ').nth(1).unwrap().parse().unwrap()
}

/// Whether a process has ended, though nobody may have asked how.
fn is_gone(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").map(|(_, rest)| rest);
    state.is_none_or(|state| state.starts_with('Z'))
}

impl House {
    async fn start(toml: &str, prepare: impl FnOnce(&mut Command, &Path)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("smg.toml"), toml).unwrap();
        Self::start_in(folder, prepare).await
    }

    async fn start_in(folder: TempDir, prepare: impl FnOnce(&mut Command, &Path)) -> Self {
        let place = folder.path().to_owned();
        let family = Family(place.display().to_string());
        let smg = Smg::start_in(folder, |command| {
            command.env(MARK, &family.0);
            prepare(command, &place);
        })
        .await;
        Self { smg, family }
    }

    fn main(&self) -> SocketAddr {
        self.smg.addresses("main")[0]
    }

    /// `smg upgrade` as an operator runs it.
    async fn upgrade(&self, arguments: &[&str]) -> Output {
        let mut command = smg::command();
        command.arg("upgrade").args(arguments);
        command.arg("--config").arg(self.smg.config_path());
        let run = move || process::run(&mut command, Duration::from_secs(90));
        tokio::task::spawn_blocking(run).await.unwrap()
    }

    /// The same, which must go well; who has taken over.
    async fn upgraded(&self) -> u32 {
        let output = self.upgrade(&[]).await;
        let text = String::from_utf8(output.stdout.clone()).unwrap();
        assert!(output.status.success(), "{output:?}");
        assert!(
            text.starts_with("upgraded: ") && text.ends_with(", configuration 1\n"),
            "{text}"
        );
        let (_, new) = text.split_once(" -> ").unwrap();
        let (_, pid) = new.split_once("(pid ").unwrap();
        pid.split(')').next().unwrap().parse().unwrap()
    }

    async fn serves(&self) {
        let answer = post(self.main(), "/v1/completions", &ask()).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
}

/// The configuration of these engines with a control socket.
fn config(engines: &[&FakeEngine], more: &str) -> String {
    let workers: Vec<String> = engines.iter().map(|engine| engine.url()).collect();
    scene::config(
        &workers,
        &format!("[server]\ncontrol_socket = \"control.sock\"\n{more}"),
    )
}

/// Asks again and again until it is told to stop; whatever goes wrong fails the test.
async fn customer(main: SocketAddr, kept: bool, over: Arc<AtomicBool>, count: Arc<AtomicUsize>) {
    let mut connection = None;
    while !over.load(Ordering::Relaxed) {
        let mut used = match connection.take() {
            Some(connection) => connection,
            None => Connection::h1(main).await,
        };
        let answer = used.send(json_request("/v1/completions", &ask())).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        count.fetch_add(1, Ordering::Relaxed);
        if kept && answer.header("connection") != "close" {
            connection = Some(used);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_fails_while_processes_take_over_from_each_other() {
    const UPGRADES: usize = 3;
    let gate = Gate::closed();
    let script = gate.clone();
    let engine = FakeEngine::serving("m", move |asked| match asked.json()["stream"] == true {
        true => two_tokens(&script),
        false => vec![ok()],
    })
    .await;
    let mut house = House::start(&config(&[&engine], ""), |_, _| {}).await;
    let main = house.main();
    let (over, count) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
    let customers: Vec<_> = [true, true, false, false]
        .map(|kept| customer(main, kept, Arc::clone(&over), Arc::clone(&count)))
        .map(tokio::spawn)
        .into_iter()
        .collect();
    let mut multiplexed = Vec::new();
    let mut streams = Vec::new();
    let mut pids = vec![house.smg.process().pid()];
    for _ in 0..UPGRADES {
        let mut spanning = stream(main, "/v1/chat/completions", &ask_stream()).await;
        assert!(spanning.event().await.unwrap().unwrap().contains("one"));
        let mut connection = Connection::h2(main).await;
        let answer = connection
            .send(json_request("/v1/completions", &ask()))
            .await;
        assert_eq!(answer.status, 200);
        multiplexed.push(connection);
        streams.push(spanning);
        let new = house.upgraded().await;
        // While the old one stands still, whoever comes is served by the new one.
        let old = *pids.last().unwrap();
        signal(old, "STOP");
        for _ in 0..20 {
            let body = ask();
            let asked = post(main, "/v1/completions", &body);
            let answer = tokio::time::timeout(Duration::from_secs(5), asked).await;
            assert_eq!(answer.expect("nobody waits for the old one").status, 200);
        }
        assert!(!is_gone(old), "it has a stream");
        signal(old, "CONT");
        let before = count.load(Ordering::Relaxed);
        eventually(PATIENCE, async || {
            count.load(Ordering::Relaxed) > before + 50
        })
        .await;
        pids.push(new);
    }
    gate.open();
    for mut spanning in streams {
        let rest = spanning.events().await;
        assert_eq!(rest.len(), 2, "{rest:?}");
        assert_eq!(rest[1], "data: [DONE]");
    }
    let last = pids.pop().unwrap();
    eventually(Duration::from_secs(40), async || {
        pids.iter().all(|pid| is_gone(*pid))
    })
    .await;
    assert_eq!(house.smg.process().ended(PATIENCE).await.code(), Some(0));
    over.store(true, Ordering::Relaxed);
    for customer in customers {
        customer.await.unwrap();
    }
    assert!(count.load(Ordering::Relaxed) > 50 * UPGRADES);
    house.serves().await;
    assert_eq!(house.family.pids(), [last]);
    signal(last, "TERM");
    eventually(PATIENCE, async || is_gone(last)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_manager_hears_of_the_new_one_and_nothing_of_the_old_one() {
    let gate = Gate::closed();
    let script = gate.clone();
    let engine = FakeEngine::serving("m", move |asked| match asked.json()["stream"] == true {
        true => two_tokens(&script),
        false => vec![ok()],
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("smg.toml"), config(&[&engine], "")).unwrap();
    let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
    let next = async || {
        let mut buffer = [0; 4096];
        let received = tokio::time::timeout(PATIENCE, socket.recv(&mut buffer)).await;
        let length = received.expect("a message in time").unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    };
    let mut house = House::start_in(folder, |command, folder| {
        command.env("NOTIFY_SOCKET", folder.join("notify"));
    })
    .await;
    assert!(next().await.starts_with("READY=1\n"));
    let mut spanning = stream(house.main(), "/v1/chat/completions", &ask_stream()).await;
    assert!(spanning.event().await.unwrap().unwrap().contains("one"));
    // Without an answer to wait for, as nginx does it.
    house.smg.process().signal("USR2");
    let message = next().await;
    let lines: Vec<&str> = message.lines().collect();
    let [pid, "READY=1", status] = lines[..] else {
        panic!("{message}")
    };
    assert_eq!(status, "STATUS=Serving configuration 1");
    let pid: u32 = pid.strip_prefix("MAINPID=").unwrap().parse().unwrap();
    // A service manager notices the end of its own children only.
    let old = house.smg.process().pid();
    assert!(!is_gone(old), "it has a stream");
    let mut family = house.family.pids();
    family.sort_unstable();
    let mut both = [old, pid];
    both.sort_unstable();
    assert_eq!(family, both, "nobody between them is left");
    assert!(!both.contains(&parent_of(pid)));
    gate.open();
    assert_eq!(spanning.events().await.len(), 2);
    assert_eq!(house.smg.process().ended(PATIENCE).await.code(), Some(0));
    let mut rest = [0; 4096];
    assert!(socket.try_recv(&mut rest).is_err());
    house.serves().await;
    signal(pid, "TERM");
    assert!(next().await.starts_with("STOPPING=1\n"));
    eventually(PATIENCE, async || is_gone(pid)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn signs_of_life_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let engine = plain_engine().await;
    std::fs::write(folder.path().join("smg.toml"), config(&[&engine], "")).unwrap();
    let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
    let mut house = House::start_in(folder, |command, folder| {
        command
            .env("NOTIFY_SOCKET", folder.join("notify"))
            .env("WATCHDOG_USEC", "400000");
    })
    .await;
    house.upgraded().await;
    assert_eq!(house.smg.process().ended(PATIENCE).await.code(), Some(0));
    let mut buffer = [0; 4096];
    while socket.try_recv(&mut buffer).is_ok() {}
    for _ in 0..3 {
        let received = tokio::time::timeout(PATIENCE, socket.recv(&mut buffer)).await;
        let length = received.expect("a sign of life").unwrap();
        assert_eq!(&buffer[..length], b"WATCHDOG=1\n");
    }
}

/// The program as a link, which can be pointed at something else.
fn linked(command: &mut Command, folder: &Path) {
    let link = folder.join("smg");
    std::os::unix::fs::symlink(command.get_program(), &link).unwrap();
    let mut other = Command::new(link);
    other.args(command.get_args()).env_clear();
    for (name, value) in command.get_envs() {
        other.env(name, value.unwrap_or_default());
    }
    *command = other;
}

/// Puts a script in place of the program.
fn replace(folder: &Path, script: &str) {
    let fresh = folder.join("fresh");
    std::fs::write(&fresh, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::rename(fresh, folder.join("smg")).unwrap();
}

/// Puts a program in its place that is the real one where it stands between the processes, and this
/// script where it is the new one.
fn replace_new(folder: &Path, script: &str) {
    let real = env!("CARGO_BIN_EXE_smg");
    let between = format!("exec bash -c 'exec -a \"$0\" {real} \"$@\"' \"$0\" \"$@\"");
    replace(
        folder,
        &format!("case $SMG_STAGE in new*) {script} ;; *) {between} ;; esac"),
    );
}

/// A pipe with a name, at which whoever opens it waits for the other side.
fn pipe(folder: &Path) -> PathBuf {
    let path = folder.join("pipe");
    process::run(Command::new("mkfifo").arg(&path), PATIENCE);
    path
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_process_that_does_not_start_changes_nothing() {
    let engine = plain_engine().await;
    let good = config(&[&engine], "");
    let mut house = House::start(&good, linked).await;
    let folder = house.smg.folder().to_owned();

    house.smg.rewrite(&format!("{good}\n[server.nonsense]\n"));
    let output = house.upgrade(&[]).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let text = stderr(&output);
    assert!(
        text.contains("error[unknown-key]") && text.contains("nonsense"),
        "{text}"
    );
    assert!(text.contains("exit status: 78"), "{text}");
    house.serves().await;

    // What the file says can be bound by nobody.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let busy = taken.local_addr().unwrap();
    let more = format!(
        "{good}\n[[listeners]]\nname = \"more\"\naddress = \"{busy}\"\nserve = [\"probes\"]\n"
    );
    house.smg.rewrite(&more);
    let text = stderr(&house.upgrade(&[]).await);
    assert!(text.contains("listener `more` cannot be bound"), "{text}");
    house.serves().await;
    house.smg.rewrite(&good);

    replace(&folder, "exit 3");
    let text = stderr(&house.upgrade(&[]).await);
    assert!(text.contains("exit status: 3"), "{text}");
    house.serves().await;

    for (script, status) in [("exit 3", 3), ("kill -KILL $$", 128 + 9)] {
        replace_new(&folder, script);
        let text = stderr(&house.upgrade(&[]).await);
        assert!(text.contains(&format!("exit status: {status}")), "{text}");
        house.serves().await;
    }

    std::fs::remove_file(folder.join("smg")).unwrap();
    let text = stderr(&house.upgrade(&[]).await);
    assert!(text.contains("cannot be started"), "{text}");
    house.serves().await;

    let old = house.smg.process().pid();
    assert_eq!(house.family.pids(), [old]);
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_smg"), folder.join("smg")).unwrap();
    let new = house.upgraded().await;
    assert_ne!(old, new);
    assert_eq!(house.smg.process().ended(PATIENCE).await.code(), Some(0));
    house.serves().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_upgrade_at_a_time_and_one_that_hangs_is_ended() {
    let engine = plain_engine().await;
    let mut house = House::start(&config(&[&engine], ""), linked).await;
    let main = house.main();
    replace(house.smg.folder(), "exec sleep 600");
    let hangs = tokio::spawn(async move {
        let answer = post(main, "/admin/upgrade?timeout=4", &json!({})).await;
        (answer.status, answer.json())
    });
    eventually(PATIENCE, async || house.family.pids().len() == 2).await;
    let second = post(main, "/admin/upgrade", &json!({})).await;
    assert_eq!(
        (second.status, second.header("x-smg-error-code")),
        (409, "upgrade_in_progress")
    );
    let drain = post(main, "/admin/pools/p/drain", &json!({})).await;
    assert_eq!(
        (drain.status, drain.header("x-smg-error-code")),
        (503, "upgrade_in_progress")
    );
    house.serves().await;
    let (status, body) = hangs.await.unwrap();
    assert_eq!(status, 422, "{body}");
    assert!(
        body["reason"].as_str().unwrap().contains("within 4s"),
        "{body}"
    );
    let old = house.smg.process().pid();
    eventually(PATIENCE, async || house.family.pids() == [old]).await;
    // Changes are taken again.
    let drain = post(main, "/admin/pools/p/drain", &json!({ "drain": false })).await;
    assert_eq!(drain.status, 202, "{drain:?}");
    let reload = house.smg.reload().await;
    assert_eq!(reload.status, 200, "{reload:?}");
    // Told to stop in the middle of one, it stops, and the new process with it.
    let asked = tokio::spawn(async move {
        let mut connection = Connection::h1(main).await;
        let wish = json_request("/admin/upgrade", &json!({}));
        connection.try_send(wish).await.map(|answer| answer.status)
    });
    eventually(PATIENCE, async || house.family.pids().len() == 2).await;
    assert_eq!(house.smg.term_and_wait().await.code(), Some(0));
    assert_eq!(asked.await.unwrap().ok(), Some(503));
    eventually(PATIENCE, async || house.family.pids().is_empty()).await;
}

/// Nothing is left of it, whether it is given up or the process that has started it is killed.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_process_that_hangs_ends_with_the_old_one() {
    let engine = plain_engine().await;
    let mut house = House::start(&config(&[&engine], ""), linked).await;
    let (main, folder) = (house.main(), house.smg.folder().to_owned());
    let old = house.smg.process().pid();
    let real = env!("CARGO_BIN_EXE_smg");
    let pipe = pipe(&folder);
    // A file that is never read to its end.
    let hang = format!("exec {real} --config {}", pipe.display());
    replace_new(&folder, &hang);
    let is_at_the_pipe = async || {
        let family = house.family.pids();
        let hangs = |pid: &u32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains("/pipe") && parent_of(*pid) != old
        };
        family.len() == 3 && family.iter().any(hangs)
    };
    let asked = tokio::spawn(async move {
        let answer = post(main, "/admin/upgrade?timeout=2", &json!({})).await;
        (answer.status, answer.json())
    });
    eventually(PATIENCE, is_at_the_pipe).await;
    house.serves().await;
    let (status, body) = asked.await.unwrap();
    assert_eq!(status, 422, "{body}");
    eventually(PATIENCE, async || house.family.pids() == [old]).await;
    house.serves().await;

    house.smg.process().signal("USR2");
    eventually(PATIENCE, is_at_the_pipe).await;
    house.smg.kill9();
    eventually(PATIENCE, async || house.family.pids().is_empty()).await;
}

/// It has said that it serves, and nobody says that it shall.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_process_that_was_never_told_to_take_over_ends() {
    let engine = plain_engine().await;
    let mut house = House::start(&config(&[&engine], ""), linked).await;
    let (main, folder) = (house.main(), house.smg.folder().to_owned());
    let real = env!("CARGO_BIN_EXE_smg");
    let pipe = pipe(&folder);
    let late = format!("read line <{}; exec {real} \"$@\"", pipe.display());
    replace_new(&folder, &late);
    let old = house.smg.process().pid();
    house.smg.process().signal("USR2");
    eventually(PATIENCE, async || house.family.pids().len() == 3).await;
    signal(old, "STOP");
    let goes_on = tokio::task::spawn_blocking(move || std::fs::write(pipe, "\n"));
    goes_on.await.unwrap().unwrap();
    // The old one stands still.
    let answer = post(main, "/v1/completions", &ask()).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(house.family.pids().len(), 3);
    house.smg.kill9();
    eventually(PATIENCE, async || house.family.pids().is_empty()).await;
    // It was not its file to remove.
    assert!(folder.join("control.sock").exists());
}

async fn over_unix(path: PathBuf, method: Method, target: &str) -> u16 {
    let stream = UnixStream::connect(path).await.unwrap();
    let mut connection = Connection::h1_over(stream, "localhost").await;
    let request = request(method, target, bytes::Bytes::new());
    connection.send(request).await.status
}

/// What was said over the API outlives the process that it was said to, with and without a folder.
#[tokio::test(flavor = "multi_thread")]
async fn files_ports_and_workers_stay() {
    for keeps in [true, false] {
        let (declared, added) = (plain_engine().await, plain_engine().await);
        let state = if keeps { "state_dir = \"state\"\n" } else { "" };
        let listener = "\n[[listeners]]\nname = \"file\"\naddress = \"unix:main.sock\"\n\
            mode = \"0640\"\nserve = [\"probes\"]\n";
        let toml = config(&[&declared], &format!("{state}{listener}"));
        let toml = toml.replace("[[models]]", "dynamic = true\n[[models]]");
        let mut house = House::start(&toml, |_, _| {}).await;
        let main = house.main();
        let file = house.smg.folder().join("main.sock");
        let control = house.smg.folder().join("control.sock");
        let body = json!({ "url": added.url(), "pool": "p" });
        let answer = post(main, "/workers", &body).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        let workers = async || -> usize {
            let list: Value = get(main, "/workers").await.json();
            list["workers"].as_array().unwrap().len()
        };
        eventually(PATIENCE, async || workers().await == 2).await;
        let (mut old, mut before) = (house.smg.process().pid(), 0);
        for round in 0..2 {
            let new = house.upgraded().await;
            eventually(PATIENCE, async || is_gone(old)).await;
            assert_eq!(over_unix(file.clone(), Method::GET, "/liveness").await, 200);
            let status = over_unix(control.clone(), Method::GET, "/admin/config").await;
            assert_eq!(status, 200);
            let mode = std::fs::metadata(&file).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o640);
            assert_eq!(workers().await, 2, "round {round}, keeps {keeps}");
            house.serves().await;
            (old, before) = (new, old);
        }
        assert_ne!(old, before);
        // The folder is the new one's to write.
        let drain = post(main, "/admin/pools/p/drain", &json!({ "drain": true })).await;
        assert_eq!(drain.status, 202, "{drain:?}");
        signal(old, "TERM");
        eventually(PATIENCE, async || is_gone(old)).await;
        assert!(!file.exists() && !control.exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_the_old_one_does_not_touch_the_new_one() {
    let gate = Gate::closed();
    let script = gate.clone();
    let engine = FakeEngine::serving("m", move |asked| match asked.json()["stream"] == true {
        true => two_tokens(&script),
        false => vec![ok()],
    })
    .await;
    let mut house = House::start(&config(&[&engine], ""), |_, _| {}).await;
    let main = house.main();
    let _spanning = stream(main, "/v1/chat/completions", &ask_stream()).await;
    let new = house.upgraded().await;
    house.smg.kill9();
    house.serves().await;
    assert_eq!(house.family.pids(), [new]);
    assert!(house.smg.folder().join("control.sock").exists());
}

/// The one that was asked holds it back while it hands over, and has nothing to say about it then.
#[tokio::test(flavor = "multi_thread")]
async fn a_reload_that_is_asked_for_meanwhile_is_done_by_the_new_one() {
    let engine = plain_engine().await;
    let house = House::start(&config(&[&engine], ""), linked).await;
    let folder = house.smg.folder();
    let go = folder.join("go");
    let program = env!("CARGO_BIN_EXE_smg");
    let waits = format!("until [ -e '{}' ]; do sleep 0.05; done", go.display());
    replace(folder, &format!("{waits}\nexec '{program}' \"$@\""));
    let control = folder.join("control.sock").display().to_string();
    let connected = async |count: usize| {
        eventually(PATIENCE, async || {
            let sockets = std::fs::read_to_string("/proc/net/unix").unwrap();
            // One of them listens.
            sockets.matches(&control).count() == count + 1
        })
        .await;
    };
    let upgrade = house.upgraded();
    let reload = async {
        connected(1).await;
        eventually(PATIENCE, async || house.family.pids().len() > 1).await;
        let mut command = smg::command();
        command.arg("reload").arg("--config");
        command.arg(house.smg.config_path());
        let run = move || process::run(&mut command, Duration::from_secs(90));
        let asked = tokio::task::spawn_blocking(run);
        connected(2).await;
        std::fs::write(&go, "").unwrap();
        asked.await.unwrap()
    };
    let (new, output) = tokio::join!(upgrade, reload);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.starts_with("unchanged: generation 1"), "{text}");
    house.serves().await;
    assert!(!is_gone(new));
}
