//! Workers that are known by name.

use std::path::Path;
use std::process::Command;

use serde_json::json;
use tokio::net::TcpListener;

use crate::scene::{PATIENCE, ask, assert_error, config, forward, ok, plain_engine, settled};
use crate::support::client::json_request;
use crate::support::{Act, Connection, FakeEngine, Http2Engine, Smg, eventually, post};

const COMPLETIONS: &str = "/v1/completions";
const ONCE: &str = "[reliability.retry]\nenabled = false\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_name_of_which_only_one_address_listens() {
    // `localhost` has an IPv6 address on most machines, and there nobody listens.
    let engine = plain_engine().await;
    let url = format!("http://localhost:{}", engine.address().port());
    let smg = Smg::start(&config(&[url], ONCE)).await;
    for _ in 0..5 {
        assert_eq!(post(smg.main(), COMPLETIONS, &ask()).await.status, 200);
    }
    settled(&smg).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_nobody_knows_is_502() {
    let smg = Smg::start(&config(&["http://worker.invalid:1".to_owned()], ONCE)).await;
    let answer = post(smg.main(), COMPLETIONS, &ask()).await;
    assert_error(&answer, 502, "call_upstream_connection_failed");
    settled(&smg).await;
}

/// Has the command see this file as its `/etc/hosts`, in a mount namespace of its own.
fn with_hosts(command: &mut Command, hosts: &Path) {
    const MOUNT: &str = "mount --bind \"$0\" /etc/hosts && exec \"$@\"";
    let mut wrapped = Command::new("unshare");
    wrapped.env_clear();
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            wrapped.env(name, value);
        }
    }
    wrapped.args(["--mount", "--propagation", "private", "sh", "-c", MOUNT]);
    wrapped.arg(hosts).arg(command.get_program());
    wrapped.args(command.get_args());
    *command = wrapped;
}

/// Whether this machine lets us mount; a container without the right to does not.
fn can_mount() -> bool {
    let tried = Command::new("unshare")
        .args(["--mount", "--propagation", "private"])
        .args(["mount", "--bind", "/etc/hosts", "/etc/hosts"])
        .output();
    tried.is_ok_and(|output| output.status.success())
}

/// A gateway whose only worker is `worker.test`, and what answers at its first and at its second
/// address. The name has the first one.
struct Moving {
    smg: Smg,
    hosts: tempfile::NamedTempFile,
}

impl Moving {
    async fn start(port: u16, more: &str) -> Self {
        let hosts = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(hosts.path(), "127.0.0.1 worker.test\n").unwrap();
        let config = config(&[format!("http://worker.test:{port}")], "").replace(
            "health.enabled = false",
            &format!("health.enabled = false\n{more}"),
        );
        let smg = Smg::start_with(&config, |command| with_hosts(command, hosts.path())).await;
        Self { smg, hosts }
    }

    /// The name has the second address from now on.
    fn moves(&self) {
        // In place: the mount shows the file, not the name.
        std::fs::write(self.hosts.path(), "127.0.0.2 worker.test\n").unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_changes_its_address_is_followed_when_the_old_one_is_gone() {
    if !can_mount() {
        println!("skipped: this machine allows no mounts; the unit tests of upstream::dial remain");
        return;
    }
    let (first, second) = (plain_engine().await, plain_engine().await);
    let here = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = here.local_addr().unwrap().port();
    let there = TcpListener::bind(("127.0.0.2", port)).await.unwrap();
    let here = tokio::spawn(forward(here, first.address())).abort_handle();
    let there = tokio::spawn(forward(there, second.address())).abort_handle();
    let moving = Moving::start(port, "").await;
    let mut client = Connection::h1(moving.smg.main()).await;
    let mut ask = async || client.send(json_request(COMPLETIONS, &ask())).await.status;
    for _ in 0..3 {
        assert_eq!(ask().await, 200);
    }
    assert_eq!((first.calls().len(), second.calls().len()), (3, 0));
    moving.moves();
    // Nobody listens there any more, and its connections are closed.
    here.abort();
    drop(first);
    eventually(PATIENCE, async || ask().await == 200).await;
    for _ in 0..3 {
        assert_eq!(ask().await, 200);
    }
    assert!(second.calls().len() >= 4);
    settled(&moving.smg).await;
    there.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_changes_its_address_is_followed_in_time_while_the_old_one_lives() {
    if !can_mount() {
        println!("skipped: this machine allows no mounts; the unit tests of upstream::dial remain");
        return;
    }
    let answer = |_: &_| vec![Act::json(&json!({ "choices": [] }))];
    let (first, second) = (
        Http2Engine::start(100, answer).await,
        Http2Engine::start(100, answer).await,
    );
    let here = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = here.local_addr().unwrap().port();
    let there = TcpListener::bind(("127.0.0.2", port)).await.unwrap();
    let here = tokio::spawn(forward(here, first.address())).abort_handle();
    let there = tokio::spawn(forward(there, second.address())).abort_handle();
    let moving = Moving::start(port, "connections.http2 = true").await;
    assert_eq!(
        post(moving.smg.main(), COMPLETIONS, &ask()).await.status,
        200
    );
    moving.moves();
    // Kept connections would do for ever; the name is looked up all the same.
    eventually(PATIENCE * 3, async || {
        assert_eq!(
            post(moving.smg.main(), COMPLETIONS, &ask()).await.status,
            200
        );
        !second.calls().is_empty()
    })
    .await;
    let before = first.calls().len();
    for _ in 0..5 {
        assert_eq!(
            post(moving.smg.main(), COMPLETIONS, &ask()).await.status,
            200
        );
    }
    assert_eq!(first.calls().len(), before);
    settled(&moving.smg).await;
    here.abort();
    there.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_name_is_unknown_leaves_the_others_alone() {
    let engine = FakeEngine::serving("m", |_| vec![ok()]).await;
    let workers = ["http://worker.invalid:1".to_owned(), engine.url()];
    let smg = Smg::start(&config(&workers, "policy = \"round_robin\"\n")).await;
    for _ in 0..6 {
        assert_eq!(post(smg.main(), COMPLETIONS, &ask()).await.status, 200);
    }
    assert_eq!(engine.calls().len(), 6);
}
