//! The sample worker as a child process.

use std::time::Duration;

use super::process::Process;
use super::smg;

/// A running `smg sample-worker`.
pub(crate) struct Worker {
    process: Process,
    url: String,
}

impl Worker {
    /// Starts one on a free port of loopback, with these arguments added, and waits until it
    /// listens.
    pub(crate) async fn start(args: &[&str]) -> Self {
        let mut command = smg::command();
        command.args(["sample-worker", "--port", "0"]).args(args);
        let mut process = Process::spawn("the sample worker", &mut command);
        let url = process.line(Duration::from_secs(20), listening_on).await;
        Self { process, url }
    }

    /// `http://127.0.0.1:PORT`
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn kill9(&mut self) {
        self.process.kill();
    }
}

fn listening_on(line: &str) -> Option<String> {
    let url = line.split_once("sample worker listening on ")?.1;
    Some(url.split_whitespace().next()?.to_owned())
}

#[test]
fn reads_the_line_that_says_where() {
    let line = "sample worker listening on http://127.0.0.1:41234 (model sample)";
    assert_eq!(
        listening_on(line).as_deref(),
        Some("http://127.0.0.1:41234")
    );
    assert_eq!(listening_on("sample worker ended"), None);
}
