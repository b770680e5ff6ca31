//! The page in a real browser, driven by `tests/node/console.mjs`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::scene::{NOBODY, chat, config, console, served};
use crate::support::{Smg, Worker, process, venv};

/// The browser; without it the test may skip itself, but not in CI.
fn chromium() -> Option<PathBuf> {
    let path =
        std::env::var_os("CHROMIUM").map_or_else(|| "/usr/bin/chromium".into(), PathBuf::from);
    if path.exists() {
        return Some(path);
    }
    let is_set = |name| std::env::var_os(name).is_some_and(|value| value != "0");
    let reason = format!("no `{}`; `make setup` installs it", path.display());
    assert!(!is_set("CI") && !is_set("SMG_REQUIRE_ALL"), "{reason}");
    eprintln!("skipped: {reason}");
    None
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_works_in_a_browser() {
    let (Some(chromium), Some(modules)) = (chromium(), venv::node_modules("console")) else {
        return;
    };
    let workers = [Worker::start(&[]).await, Worker::start(&[]).await];
    // Longer than any small screen is wide.
    let nobody = format!("{NOBODY}/{}", "behind-a-long-path".repeat(5));
    let urls = [workers[0].url(), workers[1].url(), &*nobody];
    let smg = Smg::start(&config(&urls, "")).await;
    served(&smg).await;
    for _ in 0..3 {
        assert_eq!(chat(&smg, "sample").await, 200);
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/node/console.mjs");
    let mut command = Command::new("node");
    command
        .arg(script)
        .args([&modules, &chromium])
        .arg(format!("http://{}", console(&smg)))
        .arg(format!("http://{}", smg.main()));
    let done =
        tokio::task::spawn_blocking(move || process::run(&mut command, Duration::from_secs(120)));
    let output = done.await.unwrap();
    let printed = [output.stdout, output.stderr].concat();
    let printed = String::from_utf8_lossy(&printed);
    assert!(output.status.success(), "{printed}");
}
