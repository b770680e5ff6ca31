//! A small service manager: it starts and reloads the gateway by the lines of the unit and with the
//! variables that systemd sets for them, and hears what the gateway reports.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use command_fds::{CommandFdExt as _, FdMapping};
use tempfile::TempDir;
use tokio::net::UnixDatagram;

use crate::support::Process;
use crate::support::process::run;
use crate::unit::Unit;

/// Long enough for a loaded machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The manager, with the folders and the socket that it has for the service.
pub(crate) struct StandIn {
    pub(crate) unit: Unit,
    folder: TempDir,
    socket: UnixDatagram,
}

impl StandIn {
    /// One for the packaged unit, with this file as `smg.toml`.
    pub(crate) fn new(toml: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["etc", "run", "state"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        let manager = Self {
            unit: Unit::read("smg.service"),
            folder,
            socket,
        };
        manager.rewrite(toml);
        manager
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.folder.path().join("etc/smg.toml")
    }

    pub(crate) fn control_socket(&self) -> PathBuf {
        self.folder.path().join("run/control.sock")
    }

    pub(crate) fn rewrite(&self, toml: &str) {
        let fresh = self.folder.path().join("etc/.smg.toml.new");
        std::fs::write(&fresh, toml).unwrap();
        std::fs::rename(fresh, self.config()).unwrap();
    }

    /// `ExecStart=`.
    pub(crate) fn start(&self) -> Process {
        let mut command = self.command("ExecStart");
        let watchdog = self.unit.value("WatchdogSec").strip_suffix('s').unwrap();
        command.env("WATCHDOG_USEC", format!("{watchdog}000000"));
        Process::spawn("the gateway", &mut command)
    }

    /// `ExecStart=`, with a socket that the manager holds.
    pub(crate) fn start_with_socket(&self, name: &str, listener: &TcpListener) -> Process {
        let start = self.command("ExecStart");
        // The process that it becomes is the one that the socket is for.
        let mut command = Command::new("sh");
        command
            .args(["-c", "LISTEN_PID=$$ exec \"$@\"", "sh"])
            .arg(start.get_program())
            .args(start.get_args())
            .env_clear();
        for (name, value) in start.get_envs() {
            if let Some(value) = value {
                command.env(name, value);
            }
        }
        command.env("LISTEN_FDS", "1").env("LISTEN_FDNAMES", name);
        let passed = FdMapping {
            parent_fd: OwnedFd::from(listener.try_clone().unwrap()),
            child_fd: 3,
        };
        command.fd_mappings(vec![passed]).unwrap();
        Process::spawn("the gateway", &mut command)
    }

    /// `ExecReload=`, to its end.
    pub(crate) fn reload(&self) -> Output {
        run(&mut self.command("ExecReload"), PATIENCE)
    }

    /// The next report, as its lines.
    pub(crate) async fn report(&self) -> Vec<String> {
        let mut buffer = [0; 4096];
        let received = tokio::time::timeout(PATIENCE, self.socket.recv(&mut buffer)).await;
        let length = received.expect("a report in time").unwrap();
        let text = String::from_utf8(buffer[..length].to_vec()).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    /// The next report that has this line.
    pub(crate) async fn report_with(&self, line: &str) -> Vec<String> {
        loop {
            let report = self.report().await;
            if report.iter().any(|said| said == line) {
                return report;
            }
        }
    }

    /// Whether something has been reported that was not looked at.
    pub(crate) fn is_silent(&self) -> bool {
        self.socket.try_recv(&mut [0; 16]).is_err()
    }

    fn command(&self, key: &str) -> Command {
        let mut command = self.unit.command(key, &self.config());
        command
            .env("NOTIFY_SOCKET", self.folder.path().join("notify"))
            .env("RUNTIME_DIRECTORY", self.folder.path().join("run"))
            .env("STATE_DIRECTORY", self.folder.path().join("state"));
        command
    }
}

/// The value of a line of a report.
#[track_caller]
pub(crate) fn value<'a>(report: &'a [String], name: &str) -> &'a str {
    let found = report
        .iter()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    found.unwrap_or_else(|| panic!("no {name} in {report:?}"))
}

/// Where the listener `main` listens, by the log.
pub(crate) async fn main_of(gateway: &mut Process) -> SocketAddr {
    let address = |line: &str| {
        let (_, rest) = line.split_once("listening listener=main address=")?;
        rest.split_whitespace().next()?.parse().ok()
    };
    gateway.line(PATIENCE, address).await
}
