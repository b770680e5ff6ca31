//! What systemd's own tools say about the units.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use tempfile::TempDir;

use crate::machine::tool;
use crate::support::process::run;
use crate::unit::{self, Unit};

/// The exposure that `systemd-analyze security` finds, of 10. What is left of it: the network, users
/// and /proc/meminfo of the machine, low ports, and an upgrade that reports itself.
const EXPOSURE: f64 = 1.6;

/// What `server.shutdown_grace_period` is by default, and what the gateway adds to it.
const GRACE: Duration = Duration::from_secs(190);

fn analyze(program: &PathBuf, args: &[&str], file: &[PathBuf]) -> Output {
    let mut command = Command::new(program);
    command.args(args).args(file).env("LC_ALL", "C");
    run(&mut command, Duration::from_secs(60))
}

/// Copies of the units that name the built binary, since `verify` asks whether it is there.
fn copies() -> (TempDir, Vec<PathBuf>) {
    let folder = tempfile::tempdir().unwrap();
    let files = ["smg.service", "smg.socket"].map(|name| {
        let text = unit::text(name).replace("/usr/bin/smg", env!("CARGO_BIN_EXE_smg"));
        let file = folder.path().join(name);
        std::fs::write(&file, text).unwrap();
        file
    });
    (folder, files.to_vec())
}

#[test]
fn systemd_finds_no_fault_with_them() {
    let Some(program) = tool("systemd-analyze") else {
        return;
    };
    let (folder, files) = copies();
    // The manual pages are installed by the package, not here.
    let options = ["verify", "--man=no", "--recursive-errors=no"];
    let verified = analyze(&program, &options, &files);
    let said = String::from_utf8_lossy(&verified.stderr);
    assert!(verified.status.success(), "{said}");
    // An unknown setting is only a warning.
    assert!(!said.contains("smg."), "{said}");

    let broken = folder.path().join("broken.service");
    let text = std::fs::read_to_string(&files[0]).unwrap();
    std::fs::write(&broken, text.replace("ProtectHome=", "ProtectHomes=")).unwrap();
    let verified = analyze(&program, &options, &[broken]);
    let said = String::from_utf8_lossy(&verified.stderr);
    assert!(said.contains("ProtectHomes"), "{said}");
}

#[test]
fn the_service_is_not_exposed() {
    let Some(program) = tool("systemd-analyze") else {
        return;
    };
    let threshold = format!("--threshold={}", (EXPOSURE * 10.0).round());
    let options = ["security", "--offline=true", "--no-pager", &threshold];
    let (_folder, files) = copies();
    let checked = analyze(&program, &options, &files[..1]);
    let table = String::from_utf8_lossy(&checked.stdout);
    assert!(checked.status.success(), "{table}");
    let figure = table.lines().find_map(|line| {
        let (_, said) = line.split_once("Overall exposure level for smg.service: ")?;
        said.split_whitespace().next()?.parse::<f64>().ok()
    });
    let figure = figure.unwrap_or_else(|| panic!("no figure in {table}"));
    println!("exposure {figure}");
    assert!(figure <= EXPOSURE, "{table}");
}

#[test]
fn a_stop_leaves_time_to_drain() {
    let Some(program) = tool("systemd-analyze") else {
        return;
    };
    let service = Unit::read("smg.service");
    let span = |key: &str| {
        let said = analyze(&program, &["timespan", service.value(key)], &[]);
        let said = String::from_utf8(said.stdout).unwrap();
        let micros = said.lines().find_map(|line| {
            let line = line.trim();
            line.strip_prefix("μs: ")
                .or_else(|| line.strip_prefix("us: "))
        });
        let micros = micros.and_then(|micros| micros.parse().ok());
        Duration::from_micros(micros.unwrap_or_else(|| panic!("{said}")))
    };
    assert!(span("TimeoutStopSec") > GRACE);
    assert!(span("WatchdogSec") > Duration::ZERO);
    // So many tries fit into the interval, or there would be no end to them.
    let burst: u32 = service.value("StartLimitBurst").parse().unwrap();
    assert!(span("RestartSec") * burst < span("StartLimitIntervalSec"));
}

#[test]
fn the_socket_is_the_one_that_the_file_names() {
    let socket = Unit::read("smg.socket");
    let name = socket.value("FileDescriptorName");
    assert_eq!(name, "main");
    let told = format!("address = \"systemd:{name}\"");
    assert!(unit::text("smg.socket").contains(&told));
    // It stands for the listener of the example, and is as open as that one.
    let example = std::fs::read_to_string("config/smg.toml").unwrap();
    let address = format!("address = {:?}", socket.value("ListenStream"));
    assert!(example.contains(&address), "{address}");
}
