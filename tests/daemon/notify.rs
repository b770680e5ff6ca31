//! What the service manager is told.

use std::path::PathBuf;
use std::time::Duration;

use tempfile::TempDir;
use tokio::net::UnixDatagram;

use crate::support::Smg;
use crate::support::smg::LISTENERS;

const PATIENCE: Duration = Duration::from_secs(20);

/// The socket of a service manager.
struct Manager {
    folder: TempDir,
    socket: UnixDatagram,
}

impl Manager {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        Self { folder, socket }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("notify")
    }

    /// The next message, as its lines.
    async fn next(&self) -> Vec<String> {
        let mut buffer = [0; 4096];
        let received = tokio::time::timeout(PATIENCE, self.socket.recv(&mut buffer)).await;
        let length = received.expect("a message in time").unwrap();
        let text = String::from_utf8(buffer[..length].to_vec()).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    /// Follows reloads until one has ended with this in its status. Returns when the last began.
    async fn reloaded(&self, status: &str) -> u64 {
        loop {
            let began = self.next().await;
            assert_eq!(began[0], "RELOADING=1", "{began:?}");
            let time = value(&began, "MONOTONIC_USEC").parse().unwrap();
            let ended = self.next().await;
            assert_eq!(ended[0], "READY=1", "{ended:?}");
            if value(&ended, "STATUS").contains(status) {
                return time;
            }
        }
    }
}

fn value<'a>(message: &'a [String], name: &str) -> &'a str {
    let found = message
        .iter()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    found.unwrap_or_else(|| panic!("no {name} in {message:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_manager_is_told_of_start_reloads_and_end() {
    let manager = Manager::new();
    let mut smg = Smg::start_with(LISTENERS, |command| {
        command.env("NOTIFY_SOCKET", manager.path());
    })
    .await;
    let ready = manager.next().await;
    assert_eq!(ready[0], "READY=1");
    assert!(value(&ready, "STATUS").contains('1'), "{ready:?}");

    smg.rewrite(&format!(
        "{LISTENERS}\n[server]\nrequest_timeout = \"44s\"\n"
    ));
    smg.sighup();
    let first = manager.reloaded("2").await;
    smg.serves(2).await;

    // There is no message for a failed reload: it is ready, with the old configuration.
    smg.rewrite("version = 1\nnonsense = 2\n");
    smg.sighup();
    let second = manager
        .reloaded("smg.toml:2:1: unknown key `nonsense`")
        .await;
    assert!(second > first, "{first} {second}");

    // Whatever reloads the watcher asks for in between, the end is told once and last.
    smg.process().signal("TERM");
    let ended = loop {
        let message = manager.next().await;
        if message[0] == "STOPPING=1" {
            break message;
        }
    };
    assert!(value(&ended, "EXTEND_TIMEOUT_USEC").parse::<u64>().unwrap() > 180_000_000);
    assert_eq!(smg.process().ended(PATIENCE).await.code(), Some(0));
    let mut rest = [0; 4096];
    while let Ok(length) = manager.socket.try_recv(&mut rest) {
        let text = String::from_utf8_lossy(&rest[..length]);
        assert!(text.starts_with("STATUS=Stopping ("), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn signs_of_life_are_given_where_they_are_wanted() {
    let manager = Manager::new();
    let mut smg = Smg::start_with(LISTENERS, |command| {
        command
            .env("NOTIFY_SOCKET", manager.path())
            .env("WATCHDOG_USEC", "200000");
    })
    .await;
    for _ in 0..3 {
        while manager.next().await != ["WATCHDOG=1"] {}
    }
    assert_eq!(smg.term_and_wait().await.code(), Some(0));
}
