//! The contract of the unit, without systemd.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use tokio::net::TcpStream;

use crate::stand_in::{PATIENCE, StandIn, main_of, value};
use crate::support::smg::LISTENERS;
use crate::support::{eventually, get};

/// `LISTENERS` with a mistake on line 13.
fn mistaken() -> String {
    format!("{LISTENERS}request_timeuot = \"30s\"\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn ready_means_that_every_socket_accepts() {
    let manager = StandIn::new(LISTENERS);
    assert_eq!(manager.unit.value("Type"), "notify");
    let mut gateway = manager.start();
    let ready = manager.report_with("READY=1").await;
    assert_eq!(value(&ready, "STATUS"), "Serving configuration 1");
    UnixStream::connect(manager.control_socket()).unwrap();
    let main = main_of(&mut gateway).await;
    TcpStream::connect(main).await.unwrap();
    assert_eq!(get(main, "/liveness").await.status, 200);
    // The first sign of life, so that a whole WatchdogSec= is left.
    manager.report_with("WATCHDOG=1").await;
    // Nobody but its own user, and root.
    let mode = std::fs::metadata(manager.control_socket()).unwrap();
    assert_eq!(mode.permissions().mode() & 0o777, 0o600);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_ends_as_the_file_deserves() {
    let manager = StandIn::new(LISTENERS);
    let mut gateway = manager.start();
    manager.report_with("READY=1").await;
    let main = main_of(&mut gateway).await;
    let generation = async || {
        let status = get(main, "/admin/config/status").await.json();
        status["live"]["generation"].as_u64().unwrap()
    };

    manager.rewrite(&format!(
        "{LISTENERS}\n[server]\nrequest_timeout = \"44s\"\n"
    ));
    let reload = manager.reload();
    let said = String::from_utf8_lossy(&reload.stdout);
    assert_eq!(reload.status.code(), Some(0), "{reload:?}");
    assert!(said.contains("generation 2"), "{said}");
    assert_eq!(generation().await, 2);

    manager.rewrite(&mistaken());
    let reload = manager.reload();
    assert_eq!(reload.status.code(), Some(78), "{reload:?}");
    let said = String::from_utf8_lossy(&reload.stderr);
    for part in [
        "smg.toml:13:1",
        "unknown key `listeners[1].request_timeuot`",
        "help: ",
        "rejected: the gateway goes on",
    ] {
        assert!(said.contains(part), "no {part} in {said}");
    }
    let mut status = String::new();
    while !status.starts_with("Configuration refused: ") {
        status = value(&manager.report_with("READY=1").await, "STATUS").to_owned();
    }
    assert!(status.contains("smg.toml:13:1: unknown key"), "{status}");
    assert_eq!(generation().await, 2);
    assert_eq!(get(main, "/liveness").await.status, 200);

    // Even a file that is no TOML leaves the way to the gateway open.
    manager.rewrite("version = = 1\n");
    assert_eq!(manager.reload().status.code(), Some(78));
    manager.rewrite(LISTENERS);
    assert_eq!(manager.reload().status.code(), Some(0));
    assert_eq!(generation().await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_file_ends_the_start_for_good() {
    let manager = StandIn::new(&mistaken());
    let mut gateway = manager.start();
    let code = gateway.ended(PATIENCE).await.code().unwrap();
    // The status that the unit takes for final.
    assert_eq!(
        code.to_string(),
        manager.unit.value("RestartPreventExitStatus")
    );
    assert!(manager.is_silent());
    let said = gateway.output().join("\n");
    assert!(said.contains("smg.toml:13:1"), "{said}");
    assert!(said.contains("help: "), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_is_announced_and_clean() {
    let manager = StandIn::new(LISTENERS);
    let mut gateway = manager.start();
    manager.report_with("READY=1").await;
    gateway.signal("TERM");
    let stopping = manager.report_with("STOPPING=1").await;
    let micros: u64 = value(&stopping, "EXTEND_TIMEOUT_USEC").parse().unwrap();
    assert!(Duration::from_micros(micros) > Duration::from_secs(180));
    assert_eq!(gateway.ended(PATIENCE).await.code(), Some(0));
    assert!(!manager.control_socket().exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_leaves_the_socket_to_the_next_start() {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    socket.set_nonblocking(true).unwrap();
    let address = socket.local_addr().unwrap();
    let manager = StandIn::new(&LISTENERS.replacen(
        "address = \"127.0.0.1:0\"",
        "address = \"systemd:main\"",
        1,
    ));
    let mut first = manager.start_with_socket("main", &socket);
    manager.report_with("READY=1").await;
    assert_eq!(get(address, "/liveness").await.status, 200);
    first.signal("TERM");
    assert_eq!(first.ended(PATIENCE).await.code(), Some(0));

    // Nobody accepts, and nobody is refused.
    let waiting = tokio::spawn(async move { get(address, "/liveness").await.status });
    eventually(PATIENCE, async || TcpStream::connect(address).await.is_ok()).await;
    let _second = manager.start_with_socket("main", &socket);
    manager.report_with("READY=1").await;
    assert_eq!(waiting.await.unwrap(), 200);
}
