//! `smg top` in a real terminal, with keys that are typed.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::overviews::{OVERVIEW, Overviews};
use crate::support::smg::LISTENERS;
use crate::support::{Smg, eventually};
use crate::tools::{run, text, tool};

const PATIENCE: Duration = Duration::from_secs(20);

/// A terminal of our own in which a shell runs.
struct Terminal {
    tmux: PathBuf,
    folder: tempfile::TempDir,
}

impl Terminal {
    /// A shell in which `smg top` with these arguments has been typed, behind a line of text.
    fn start(args: &str, (width, height): (u16, u16)) -> Option<Self> {
        let terminal = Self {
            tmux: tool("tmux")?,
            folder: tempfile::tempdir().unwrap(),
        };
        let script = format!(
            "printf 'before\\n'; {} top {args}; printf 'ended %s\\n' $?; stty -a; exec cat",
            env!("CARGO_BIN_EXE_smg")
        );
        let (width, height) = (width.to_string(), height.to_string());
        let size = ["-x", &width, "-y", &height];
        let session = ["new-session", "-d"];
        terminal.tmux(&[&session[..], &size, &["sh", "-c", &script]].concat());
        Some(terminal)
    }

    fn tmux(&self, args: &[&str]) -> String {
        let mut command = Command::new(&self.tmux);
        command.args(["-f", "/dev/null", "-S"]);
        command.arg(self.folder.path().join("tmux.sock")).args(args);
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap());
        command.env("LC_ALL", "C.UTF-8").env("TERM", "xterm");
        text(&run(&mut command))
    }

    fn keys(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys"], keys].concat());
    }

    fn shown(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }

    /// Waits until the screen holds every one of these texts.
    async fn shows(&self, wanted: &[&str]) {
        let mut shown = String::new();
        let deadline = std::time::Instant::now() + PATIENCE;
        eventually(PATIENCE * 2, async || {
            shown = self.shown();
            let holds = wanted.iter().all(|wanted| shown.contains(wanted));
            let late = std::time::Instant::now() > deadline;
            assert!(holds || !late, "not all of {wanted:?}:\n{shown}");
            holds
        })
        .await;
    }

    /// Waits for the end, and looks at what is left: the screen as it was before, and a terminal
    /// that takes lines.
    async fn has_ended(&self, status: &str) {
        let ended = format!("ended {status}");
        self.shows(&["before", &ended, " icanon", " echo "]).await;
        assert!(!self.shown().contains("Workers"), "{}", self.shown());
        let cursor = self.tmux(&["display-message", "-p", "#{cursor_flag} #{alternate_on}"]);
        assert_eq!(cursor, "1 0\n");
    }

    /// Signals the `smg` in the terminal.
    fn signal(&self, signal: &str) {
        let shell = self.tmux(&["display-message", "-p", "#{pane_pid}"]);
        let shell = shell.trim();
        let children = std::fs::read_to_string(format!("/proc/{shell}/task/{shell}/children"));
        let children = children.unwrap();
        let mut children = children.split_whitespace();
        let [Some(smg), None] = [children.next(), children.next()] else {
            panic!("the shell has not one child");
        };
        run(Command::new("kill").args([&format!("-{signal}"), smg]));
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.tmux(&["kill-server"]);
    }
}

#[tokio::test]
async fn keys_turn_sort_filter_and_end() {
    let gateway = Overviews::start("127.0.0.1:0", 200, OVERVIEW);
    let args = format!("--interval 100ms --url {}", gateway.url());
    let Some(terminal) = Terminal::start(&args, (80, 24)) else {
        return;
    };
    terminal
        .shows(&["smg 0.1.0  running", "● ready", "✗ tripped", "q quit"])
        .await;
    terminal
        .shows(&["reload refused", "error[pool-unknown]"])
        .await;
    terminal.keys(&["Tab"]);
    terminal.shows(&["meta-", "weight"]).await;
    terminal.keys(&["3"]);
    terminal.shows(&["server error", "limited"]).await;
    // The gateway tells an id with controls in it.
    terminal.keys(&["j"]);
    terminal.shows(&["req-?[2J??1m"]).await;
    terminal.keys(&["e"]);
    terminal.shows(&["/etc/smg/smg.toml:31:8"]).await;
    terminal.keys(&["?"]);
    terminal.shows(&["Ctrl-C"]).await;
    terminal.keys(&["Escape"]);
    terminal.keys(&["1"]);
    terminal.keys(&["s", "s", "s"]);
    terminal.shows(&["sorted by state▲"]).await;
    terminal.keys(&["/"]);
    terminal.keys(&["-l", "qwen"]);
    terminal.shows(&["/qwen_"]).await;
    terminal.keys(&["Enter"]);
    terminal.shows(&["only `qwen`"]).await;
    assert!(!terminal.shown().contains("10.0.0.11:8000"));
    terminal.keys(&["p"]);
    terminal.shows(&["PAUSED"]).await;
    for (width, height) in [(1, 1), (3, 2), (20, 6), (200, 50), (60, 15)] {
        let (width, height) = (width.to_string(), height.to_string());
        terminal.tmux(&["resize-window", "-x", &width, "-y", &height]);
    }
    terminal.shows(&["PAUSED", "sorted by state"]).await;
    terminal.tmux(&["resize-window", "-x", "80", "-y", "24"]);
    terminal.keys(&["q"]);
    terminal.has_ended("0").await;
}

#[tokio::test]
async fn the_last_figures_stay_until_the_gateway_is_back() {
    let gateway = Overviews::start("127.0.0.1:0", 200, OVERVIEW);
    let address = gateway.address();
    let args = format!("--interval 100ms --url http://{address}");
    let Some(terminal) = Terminal::start(&args, (100, 24)) else {
        return;
    };
    terminal.shows(&["● ready", "reload refused"]).await;
    drop(gateway);
    terminal
        .shows(&["no answer for", "last figures", "● ready"])
        .await;
    let _gateway = Overviews::start(&address, 200, OVERVIEW);
    terminal.shows(&["● ready", "reload refused"]).await;
    assert!(!terminal.shown().contains("no answer"));
    terminal.keys(&["C-c"]);
    terminal.has_ended("0").await;
}

#[tokio::test]
async fn a_signal_leaves_the_terminal_as_it_was() {
    let gateway = Overviews::start("127.0.0.1:0", 200, OVERVIEW);
    for signal in ["TERM", "HUP", "INT"] {
        let args = format!("--url {}", gateway.url());
        let Some(terminal) = Terminal::start(&args, (80, 24)) else {
            return;
        };
        terminal.shows(&["● ready"]).await;
        terminal.signal(signal);
        terminal.has_ended("0").await;
    }
}

#[tokio::test]
async fn the_real_gateway() {
    let pool = "[[pools]]\nname = 'a'\nworkers = ['http://127.0.0.1:9']\nhealth.enabled = false\n";
    let socket = "[server]\ncontrol_socket = 'control.sock'\n";
    let config = format!("{LISTENERS}\n{socket}\n{pool}");
    let mut smg = Smg::start(&config).await;
    let args = format!("--interval 200ms --config {}", smg.config_path().display());
    let Some(terminal) = Terminal::start(&args, (80, 24)) else {
        return;
    };
    terminal
        .shows(&["running", "not ready", "127.0.0.1:9"])
        .await;
    smg.rewrite(&format!("{config}\noops = 1\n"));
    terminal.shows(&["reload refused", "unknown-key"]).await;
    terminal.keys(&["4"]);
    terminal.shows(&["smg.toml:", "unknown key"]).await;
    smg.kill9();
    terminal.shows(&["no answer for"]).await;
    terminal.keys(&["q"]);
    terminal.has_ended("0").await;
    // It is gone from the start, now.
    let Some(terminal) = Terminal::start(&args, (80, 24)) else {
        return;
    };
    terminal
        .shows(&["error: no gateway answers", "ended 1"])
        .await;
}
