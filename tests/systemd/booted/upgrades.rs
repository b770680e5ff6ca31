//! `smg upgrade` of the service: systemd goes on with another main process.

use std::path::Path;

use super::{PATIENCE, Stage, ask_stream};
use crate::support::{eventually, get, stream};

const BINARY: &str = "/usr/bin/smg";

impl Stage {
    /// Replaces the binary as a package does, and upgrades. Returns the new main process.
    async fn upgrade(&self) -> u32 {
        let machine = &self.machine;
        let old = machine.main_pid();
        machine.copy(Path::new(env!("CARGO_BIN_EXE_smg")), BINARY);
        let said = machine.ok(&["smg", "upgrade"]);
        assert!(said.starts_with("upgraded: "), "{said}");
        eventually(PATIENCE, async || machine.main_pid() != old).await;
        assert_eq!(machine.property("ActiveState"), "active");
        assert_eq!(machine.property("NRestarts"), "0");
        let new = machine.main_pid();
        assert_eq!(machine.read(&format!("/proc/{new}/comm")).trim(), "smg");
        // It notices when the process ends.
        let status = machine.read(&format!("/proc/{new}/status"));
        assert!(status.contains("\nPPid:\t1\n"), "{status}");
        let journal = machine.journal();
        assert!(!journal.contains("not our child"), "{journal}");
        new
    }

    fn is_alive(&self, pid: u32) -> bool {
        self.machine.path(&format!("/proc/{pid}")).exists()
    }
}

pub(super) async fn change_the_main_process(stage: &Stage) {
    let machine = &stage.machine;
    machine.drop_in("smg.service", "[Service]\nWatchdogSec=2s\n");
    stage.start();
    stage.serves().await;
    let load = stage.load();
    for _ in 0..3 {
        load.goes_on(50).await;
        let old = machine.main_pid();
        stage.upgrade().await;
        eventually(PATIENCE, async || !stage.is_alive(old)).await;
    }
    load.goes_on(50).await;
    load.had_no_failure().await;
    let status = machine.property("StatusText");
    assert!(status.starts_with("Serving configuration"), "{status}");

    // It is the service in every respect: it is watched, reloaded, restarted and stopped.
    let last = machine.main_pid();
    machine.ok(&["systemctl", "reload", "smg"]);
    machine.write("/etc/smg/conf.d/bad.toml", "nonsense = 1\n");
    machine.fails(&["systemctl", "reload", "smg"]);
    machine.ok(&["rm", "/etc/smg/conf.d/bad.toml"]);
    machine.ok(&["kill", "-s", "KILL", &last.to_string()]);
    eventually(PATIENCE, async || {
        machine.property("NRestarts") == "1" && machine.property("ActiveState") == "active"
    })
    .await;
    stage.serves().await;
    machine.ok(&["systemctl", "stop", "smg"]);
    assert_eq!(machine.property("Result"), "success");
}

pub(super) async fn finish_old_streams(stage: &Stage) {
    let machine = &stage.machine;
    stage.start();
    stage.serves().await;
    let mut running = stream(stage.main, "/v1/completions", &ask_stream()).await;
    assert!(running.event().await.unwrap().unwrap().contains("one"));
    let old = machine.main_pid();
    let new = stage.upgrade().await;
    // Nobody waits for the old one.
    assert_eq!(stage.complete().await, Ok(200));
    assert!(stage.is_alive(old));
    assert_eq!(machine.property("ActiveState"), "active");
    stage.gate.open();
    let rest = running.events().await;
    assert_eq!(
        rest.last().map(String::as_str),
        Some("data: [DONE]"),
        "{rest:?}"
    );
    eventually(PATIENCE, async || !stage.is_alive(old)).await;
    assert_eq!(machine.main_pid(), new);
    assert_eq!(machine.property("ActiveState"), "active");
    stage.gate.0.send_replace(false);

    // A stop waits for both.
    let mut running = stream(stage.main, "/v1/completions", &ask_stream()).await;
    assert!(running.event().await.unwrap().unwrap().contains("one"));
    let old = machine.main_pid();
    let new = stage.upgrade().await;
    machine.ok(&["systemctl", "stop", "--no-block", "smg"]);
    eventually(PATIENCE, async || !stage.is_alive(new)).await;
    assert!(stage.is_alive(old));
    assert_eq!(machine.property("ActiveState"), "deactivating");
    stage.gate.open();
    let rest = running.events().await;
    assert_eq!(
        rest.last().map(String::as_str),
        Some("data: [DONE]"),
        "{rest:?}"
    );
    eventually(PATIENCE, async || {
        machine.property("ActiveState") == "inactive" && !stage.is_alive(old)
    })
    .await;
    stage.gate.0.send_replace(false);
}

pub(super) async fn that_fail_change_nothing(stage: &Stage) {
    let machine = &stage.machine;
    stage.start();
    let pid = machine.main_pid();
    machine.write("/etc/smg/conf.d/bad.toml", "nonsense = 1\n");
    let said = machine.fails(&["smg", "upgrade"]);
    assert!(said.contains("/etc/smg/conf.d/bad.toml:1:1"), "{said}");
    machine.ok(&["rm", "/etc/smg/conf.d/bad.toml"]);
    machine.write("/usr/bin/smg.broken", "#!/bin/sh\nexit 3\n");
    machine.ok(&["chmod", "0755", "/usr/bin/smg.broken"]);
    machine.ok(&["cp", "-a", BINARY, "/usr/bin/smg.good"]);
    machine.ok(&["mv", "/usr/bin/smg.broken", BINARY]);
    machine.fails(&["smg.good", "upgrade"]);
    machine.ok(&["mv", "/usr/bin/smg.good", BINARY]);
    assert_eq!(machine.main_pid(), pid);
    assert_eq!(machine.property("ActiveState"), "active");
    assert_eq!(stage.complete().await, Ok(200));
    machine.ok(&["systemctl", "reload", "smg"]);
}

pub(super) async fn with_the_sockets_of_systemd(stage: &Stage) {
    let machine = &stage.machine;
    stage.listen();
    stage.serves().await;
    let load = stage.load();
    load.goes_on(50).await;
    stage.upgrade().await;
    // The socket is still systemd's: the next process gets it as well, and connections wait for it.
    machine.ok(&["systemctl", "restart", "smg"]);
    load.goes_on(50).await;
    let killed = stage.upgrade().await;
    load.goes_on(50).await;
    load.had_no_failure().await;
    machine.ok(&["kill", "-s", "KILL", &killed.to_string()]);
    eventually(PATIENCE, async || {
        machine.property("NRestarts") == "1" && machine.property("ActiveState") == "active"
    })
    .await;
    assert_ne!(machine.main_pid(), killed);
    stage.serves().await;
    machine.ok(&["systemctl", "stop", "smg.service"]);
    assert_eq!(get(stage.main, "/liveness").await.status, 200);
}
