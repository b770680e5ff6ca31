//! What happens when something is wrong, and at the end.

use super::{PATIENCE, Stage, ask_stream};
use crate::support::{eventually, stream};

pub(super) async fn an_invalid_file(stage: &Stage) {
    let machine = &stage.machine;
    machine.write("/etc/smg/conf.d/pool.toml", "[[pools]]\nname = 7\n");
    machine.fails(&["systemctl", "start", "smg"]);
    machine.logged("/etc/smg/conf.d/pool.toml:2:8").await;
    assert_eq!(machine.property("ActiveState"), "failed");
    assert_eq!(machine.property("ExecMainStatus"), "78");
    assert_eq!(machine.property("NRestarts"), "0");
    let status = machine.run(&["systemctl", "status", "--full", "smg"]);
    let status = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(status.contains("(code=exited, status=78"), "{status}");
    assert!(status.contains("2 | name = 7"), "{status}");
    machine.logged("status=78/CONFIG").await;

    stage.pool(&stage.engine.url(), "");
    stage.start();
    assert_eq!(stage.complete().await, Ok(200));
}

pub(super) async fn a_crash(stage: &Stage) {
    let machine = &stage.machine;
    stage.start();
    let pid = machine.main_pid();
    machine.ok(&["kill", "-s", "KILL", &pid.to_string()]);
    stage_restarts(stage, pid).await;
    // The socket that the crash has left behind is in nobody's way.
    machine.ok(&["smg", "reload"]);
}

pub(super) async fn a_hang(stage: &Stage) {
    let machine = &stage.machine;
    machine.drop_in("smg.service", "[Service]\nWatchdogSec=1s\n");
    stage.start();
    let pid = machine.main_pid();
    machine.ok(&["kill", "-s", "STOP", &pid.to_string()]);
    stage_restarts(stage, pid).await;
    machine.logged("Watchdog timeout").await;
}

async fn stage_restarts(stage: &Stage, pid: u32) {
    let machine = &stage.machine;
    eventually(PATIENCE, async || {
        machine.property("NRestarts") == "1" && machine.property("ActiveState") == "active"
    })
    .await;
    assert_ne!(machine.main_pid(), pid);
    stage.serves().await;
}

pub(super) async fn a_stop_waits_for_streams(stage: &Stage) {
    let machine = &stage.machine;
    stage.start();
    let mut running = stream(stage.main, "/v1/completions", &ask_stream()).await;
    assert!(running.event().await.unwrap().unwrap().contains("one"));
    machine.ok(&["systemctl", "stop", "--no-block", "smg"]);
    eventually(PATIENCE, async || {
        let status = machine.property("StatusText");
        status.starts_with("Stopping (draining)") && status.contains("1 requests")
    })
    .await;
    assert_eq!(machine.property("ActiveState"), "deactivating");
    stage.gate.open();
    let rest = running.events().await;
    assert_eq!(
        rest.last().map(String::as_str),
        Some("data: [DONE]"),
        "{rest:?}"
    );
    eventually(PATIENCE, async || {
        machine.property("ActiveState") == "inactive"
    })
    .await;
    assert_eq!(machine.property("Result"), "success");
    assert_eq!(machine.property("ExecMainStatus"), "0");
    stage.gate.0.send_replace(false);
}
