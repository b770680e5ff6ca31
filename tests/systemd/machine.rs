//! A container in which a real systemd is the first process: the tree that `make setup` has made,
//! with everything that is written to it kept in memory, in the network of the test.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use crate::support::process::run;
use crate::support::{Process, eventually, venv};
use crate::unit;

/// Until it has booted; takes about two seconds.
const BOOT: Duration = Duration::from_secs(60);
/// Until it has gone down.
const HALT: Duration = Duration::from_secs(30);
/// For one command in it. None waits for the end of a grace period.
const COMMAND: Duration = Duration::from_secs(60);

/// A booted container. It goes down when dropped.
pub(crate) struct Machine {
    nspawn: Process,
    /// Its first process, as the test sees it.
    init: u32,
    /// Gone after the process, as fields go in order.
    _groups: Groups,
}

/// Control groups of a machine's own: one for each hierarchy in which systemd keeps its units.
struct Groups(Vec<PathBuf>);

impl Groups {
    fn new(name: &str) -> Self {
        let roots = ["", "/systemd", "/unified"].map(|root| format!("/sys/fs/cgroup{root}"));
        let roots = roots.into_iter().map(PathBuf::from);
        let groups = roots
            .filter(|root| root.join("cgroup.procs").exists())
            .map(|root| root.join(name));
        let groups: Vec<PathBuf> = groups.collect();
        for group in &groups {
            std::fs::create_dir_all(group).unwrap();
        }
        Self(groups)
    }

    fn listed(&self) -> String {
        let names = self.0.iter().map(|group| group.display().to_string());
        names.collect::<Vec<_>>().join(" ")
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        for group in &self.0 {
            // Empty groups are removed from the innermost on; what is left holds a process.
            let mut find = Command::new("find");
            find.arg(group)
                .args(["-depth", "-type", "d", "-exec", "rmdir", "{}", ";"]);
            find.output().ok();
        }
    }
}

impl Machine {
    /// Boots `build/roots/<suite>`. `None` where that cannot be; the reason is printed. Where it
    /// could be but for something that `make setup` makes, that is a failure in CI.
    pub(crate) async fn boot(suite: &str) -> Option<Self> {
        tool("systemd-nspawn")?;
        if let Some(reason) = impossible() {
            eprintln!("skipped: no container can boot here: {reason}");
            return None;
        }
        let complete = venv::built(&format!("roots/{suite}.complete"));
        if !complete.exists() {
            lacking(&format!("no `build/roots/{suite}`; `make setup` makes it"));
            return None;
        }
        let name = format!("smg-{suite}-{}", std::process::id());
        let groups = Groups::new(&name);
        // Its control groups are those of who starts it. Two machines in the same ones would end each
        // other's processes.
        let mut command = Command::new("sh");
        command
            .args([
                "-c",
                "for group in $GROUPS_OF_IT; do echo $$ >$group/cgroup.procs; done; exec \"$@\"",
            ])
            .args(["sh", "systemd-nspawn"])
            .env("GROUPS_OF_IT", groups.listed())
            .args(["--quiet", "--boot", "--volatile=overlay", "--register=no"])
            .args(["--keep-unit", "--console=pipe", "--link-journal=no"])
            .args(["--resolv-conf=off", "--timezone=off"])
            .arg(format!("--machine={name}"))
            .arg("--directory")
            .arg(venv::built(&format!("roots/{suite}")));
        let nspawn = Process::spawn(&format!("the {suite} machine"), &mut command);
        let mut init = None;
        eventually(BOOT, async || {
            init = first_process_of(nspawn.pid());
            init.is_some()
        })
        .await;
        let machine = Self {
            nspawn,
            init: init.unwrap(),
            _groups: groups,
        };
        eventually(BOOT, async || {
            let state = machine.run(&["systemctl", "is-system-running"]);
            matches!(text(&state.stdout).trim(), "running" | "degraded")
        })
        .await;
        Some(machine)
    }

    /// Puts everything where the packages put it, and has systemd see it.
    pub(crate) fn install(&self) {
        self.copy(Path::new(env!("CARGO_BIN_EXE_smg")), "/usr/bin/smg");
        for (name, place) in [
            ("smg.service", "/usr/lib/systemd/system/smg.service"),
            ("smg.socket", "/usr/lib/systemd/system/smg.socket"),
            ("smg.sysusers", "/usr/lib/sysusers.d/smg.conf"),
            ("smg.tmpfiles", "/usr/lib/tmpfiles.d/smg.conf"),
        ] {
            self.copy(&unit::path(name), place);
        }
        self.ok(&["systemd-sysusers", "smg.conf"]);
        self.ok(&["systemd-tmpfiles", "--create", "smg.conf"]);
        self.ok(&[
            "install", "-d", "-o", "root", "-g", "smg", "-m", "0750", "/etc/smg",
        ]);
        self.ok(&[
            "install",
            "-d",
            "-o",
            "root",
            "-g",
            "smg",
            "/etc/smg/conf.d",
        ]);
        self.ok(&["systemctl", "daemon-reload"]);
    }

    /// A path in it, as the test reaches it.
    pub(crate) fn path(&self, inside: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{inside}", self.init))
    }

    pub(crate) fn read(&self, inside: &str) -> String {
        std::fs::read_to_string(self.path(inside))
            .unwrap_or_else(|error| panic!("{inside}: {error}"))
    }

    /// Writes a file that everybody may read, and its folder.
    pub(crate) fn write(&self, inside: &str, text: &str) {
        let path = self.path(inside);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// Replaces a file as a package does: a new one, renamed.
    pub(crate) fn copy(&self, from: &Path, inside: &str) {
        let fresh = self.path(&format!("{inside}.new"));
        std::fs::copy(from, &fresh).unwrap();
        std::fs::rename(fresh, self.path(inside)).unwrap();
    }

    /// Adds settings to a unit of its own, for which the next `fresh` takes them away.
    pub(crate) fn drop_in(&self, unit: &str, text: &str) {
        self.write(&format!("/etc/systemd/system/{unit}.d/test.conf"), text);
        self.ok(&["systemctl", "daemon-reload"]);
    }

    /// Runs a command in it, to its end.
    pub(crate) fn run(&self, words: &[&str]) -> Output {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--target={}", self.init))
            .args([
                "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--",
            ])
            .args(words)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LC_ALL", "C")
            .env("SYSTEMD_PAGER", "cat")
            .env("SYSTEMD_COLORS", "0");
        run(&mut command, COMMAND)
    }

    /// The same; panics if it fails. Returns what it printed.
    #[track_caller]
    pub(crate) fn ok(&self, words: &[&str]) -> String {
        let output = self.run(words);
        let (said, complained) = (text(&output.stdout), text(&output.stderr));
        if !output.status.success() {
            panic!("{words:?} failed: {said}{complained}");
        }
        said
    }

    /// The same for a command that must fail. Returns everything that it printed.
    #[track_caller]
    pub(crate) fn fails(&self, words: &[&str]) -> String {
        let output = self.run(words);
        let said = text(&output.stdout) + &text(&output.stderr);
        assert!(!output.status.success(), "{words:?} did not fail: {said}");
        said
    }

    /// A property of `smg.service`.
    #[track_caller]
    pub(crate) fn property(&self, name: &str) -> String {
        self.property_of("smg.service", name)
    }

    /// A property of a unit.
    #[track_caller]
    pub(crate) fn property_of(&self, unit: &str, name: &str) -> String {
        let said = self.ok(&["systemctl", "show", "--property", name, "--value", unit]);
        said.trim().to_owned()
    }

    /// The main process of `smg.service`, as the machine numbers it.
    #[track_caller]
    pub(crate) fn main_pid(&self) -> u32 {
        self.property("MainPID").parse().unwrap()
    }

    /// What `smg.service` and its commands have said so far.
    pub(crate) fn journal(&self) -> String {
        self.ok(&[
            "journalctl",
            "--unit=smg.service",
            "--output=cat",
            "--no-pager",
        ])
    }

    fn last_of_the_journal(&self) -> String {
        text(
            &self
                .run(&["journalctl", "--unit=smg*", "--lines=400", "--output=cat"])
                .stdout,
        )
    }

    /// Waits until the journal has this.
    #[track_caller]
    pub(crate) fn logged(&self, part: &str) -> impl Future<Output = ()> {
        eventually(Duration::from_secs(10), async move || {
            self.journal().contains(part)
        })
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("---- the journal ----\n{}", self.last_of_the_journal());
        }
        // The signal that tells systemd to power off; nspawn ends with it. If it does not, its process
        // is killed, and the container with it.
        let halt = ["-s", "RTMIN+4", &self.init.to_string()].map(str::to_owned);
        Command::new("kill").args(halt).status().ok();
        let deadline = Instant::now() + HALT;
        let gone = PathBuf::from(format!("/proc/{}", self.init));
        while gone.exists() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        self.nspawn.kill();
    }
}

/// The child that has a number of its own, which is 1.
fn first_process_of(nspawn: u32) -> Option<u32> {
    let children =
        std::fs::read_to_string(format!("/proc/{nspawn}/task/{nspawn}/children")).ok()?;
    let children = children
        .split_whitespace()
        .filter_map(|pid| pid.parse().ok());
    children.into_iter().find(|pid: &u32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
        let number =
            numbers.and_then(|numbers| numbers.split_whitespace().last().map(str::to_owned));
        number.as_deref() == Some("1") && is_systemd(*pid)
    })
}

/// Whether the process is past the steps of nspawn.
fn is_systemd(pid: u32) -> bool {
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    name.trim() == "systemd"
}

/// Why no container can boot here, whatever is installed.
fn impossible() -> Option<String> {
    let user = run(Command::new("id").arg("-u"), COMMAND);
    if text(&user.stdout).trim() != "0" {
        return Some("only root may".to_owned());
    }
    let mut spaces = Command::new("unshare");
    spaces.args(["--mount", "--uts", "--ipc", "--pid", "--cgroup", "--fork"]);
    spaces.args(["mount", "-t", "tmpfs", "none", "/tmp"]);
    let spaces = run(&mut spaces, COMMAND);
    if !spaces.status.success() {
        return Some(text(&spaces.stderr).trim().to_owned());
    }
    let groups = tempfile::tempdir_in("/sys/fs/cgroup").err();
    groups.map(|error| format!("no control group can be made: {error}"))
}

/// A program. Without it the test may skip itself (the reason is printed), but not in CI.
pub(crate) fn tool(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|file| file.exists());
    if found.is_none() {
        lacking(&format!("no `{name}`; `make setup` installs it"));
    }
    found
}

fn lacking(reason: &str) {
    let is_set =
        |name| std::env::var(name).is_ok_and(|value| !matches!(&*value, "" | "0" | "false"));
    assert!(!is_set("CI") && !is_set("SMG_REQUIRE_ALL"), "{reason}");
    eprintln!("skipped: {reason}");
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
