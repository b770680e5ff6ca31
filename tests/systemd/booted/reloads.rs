//! The way in which an operator works: install, check, start, change, reload.

use super::{CONFIG, PATIENCE, Stage};
use crate::support::{eventually, get};
use crate::unit;

pub(super) async fn as_installed(stage: &Stage) {
    let machine = &stage.machine;
    // Installing starts nothing, and the file can be checked by who installed it.
    assert_eq!(machine.property("ActiveState"), "inactive");
    machine.ok(&["smg", "check-config"]);
    machine.ok(&[
        "setpriv",
        "--reuid=smg",
        "--regid=smg",
        "--clear-groups",
        "smg",
        "check-config",
    ]);

    stage.start();
    assert_eq!(machine.property("StatusText"), "Serving configuration 1");
    assert_eq!(stage.complete().await, Ok(200));
    let owner = format!("/proc/{}", machine.main_pid());
    assert_eq!(
        machine.ok(&["stat", "-c", "%U:%G", &owner]).trim(),
        "smg:smg"
    );
    // No key and no variable is needed to find it; the socket shows who asks.
    assert!(
        machine
            .ok(&["smg", "reload"])
            .starts_with("unchanged: generation 1")
    );
    let folders = [
        "/run/smg",
        "/run/smg/control.sock",
        "/var/lib/smg",
        "/var/log/smg",
    ];
    let shown = machine.ok(&[&["stat", "-c", "%a %U:%G"], &folders[..]].concat());
    let expected = ["750", "600", "700", "750"].map(|mode| format!("{mode} smg:smg"));
    assert_eq!(shown.lines().collect::<Vec<_>>(), expected);

    machine.ok(&["systemctl", "enable", "smg"]);
    machine.ok(&["systemctl", "disable", "smg"]);
    machine.ok(&["systemctl", "stop", "smg"]);
    assert_eq!(machine.property("Result"), "success");
    // It stays for those who check a file while the service is stopped.
    assert!(machine.path("/run/smg").exists());
}

pub(super) async fn good_and_bad(stage: &Stage) {
    let machine = &stage.machine;
    stage.start();
    stage.configure(
        &stage
            .example()
            .replace("# request_timeout = \"30m\"", "request_timeout = \"20m\""),
    );
    machine.ok(&["systemctl", "reload", "smg"]);
    assert_eq!(stage.generation().await, 2);
    assert_eq!(machine.property("StatusText"), "Serving configuration 2");

    machine.write(
        "/etc/smg/conf.d/pool.toml",
        "[[pools]]\nname = \"p\"\nworkerz = []\n",
    );
    let pid = machine.main_pid();
    let refused = machine.fails(&["systemctl", "reload", "smg"]);
    assert!(refused.contains("smg.service"), "{refused}");
    let place = "/etc/smg/conf.d/pool.toml:3:1";
    machine.logged(place).await;
    machine
        .logged("Control process exited, code=exited, status=78/CONFIG")
        .await;
    let journal = machine.journal();
    let status = machine.run(&["systemctl", "status", "--lines=60", "--full", "smg"]);
    let status = String::from_utf8_lossy(&status.stdout).into_owned();
    for said in [&journal, &status] {
        for part in [
            place,
            "unknown key `pools[0].workerz`",
            "3 | workerz = []",
            "help: did you mean `workers`?",
            "rejected: the gateway goes on with the configuration it had",
        ] {
            assert!(said.contains(part), "no `{part}` in {said}");
        }
    }
    let refused = format!("Configuration refused: {place}: unknown key `pools[0].workerz`");
    assert!(status.contains(&format!("Status: \"{refused}")), "{status}");
    assert_eq!(machine.property("ActiveState"), "active");
    assert_eq!(machine.main_pid(), pid);
    assert_eq!(stage.generation().await, 2);
    assert_eq!(stage.complete().await, Ok(200));
}

/// The drop-in for `Type=notify-reload`, with which a reload is a signal.
pub(super) async fn by_signal(stage: &Stage) {
    let machine = &stage.machine;
    let version = machine.ok(&["systemctl", "--version"]);
    let version: u32 = version.split_whitespace().nth(1).unwrap().parse().unwrap();
    if version < 253 {
        println!("          systemd {version} knows no Type=notify-reload");
        return;
    }
    machine.drop_in("smg.service", &unit::text("notify-reload.conf"));
    stage.start();
    stage.configure(
        &stage
            .example()
            .replace("# request_timeout = \"30m\"", "request_timeout = \"20m\""),
    );
    machine.ok(&["systemctl", "reload", "smg"]);
    eventually(PATIENCE, async || stage.generation().await == 2).await;
    machine.write("/etc/smg/conf.d/pool.toml", "nonsense = 1\n");
    // A signal has no outcome, so that only the status tells.
    machine.ok(&["systemctl", "reload", "smg"]);
    eventually(PATIENCE, async || {
        machine
            .property("StatusText")
            .starts_with("Configuration refused: ")
    })
    .await;
    assert_eq!(get(stage.main, "/liveness").await.status, 200);
    assert!(machine.path(CONFIG).exists());
}
