//! A child process: its output is read as it comes, it is killed by its own pid when the owner goes
//! away, and what it printed is shown when the test failed.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::eventually;

/// A running child with its output.
pub(crate) struct Process {
    name: String,
    child: Child,
    output: Arc<Mutex<Vec<String>>>,
    /// The number of lines so far; its senders are gone when the child has closed its output.
    lines: watch::Receiver<usize>,
}

impl Process {
    /// Starts the command without a standard input and with both outputs captured. `name` is what
    /// a failed test calls it.
    pub(crate) fn spawn(name: &str, command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{name} does not start: {error}: {command:?}"));
        let output = Arc::default();
        let (count, lines) = watch::channel(0);
        read_lines(child.stdout.take().unwrap(), &output, count.clone());
        read_lines(child.stderr.take().unwrap(), &output, count);
        Self {
            name: name.to_owned(),
            child,
            output,
            lines,
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// All lines printed so far, both outputs in the order of arrival.
    pub(crate) fn output(&self) -> Vec<String> {
        self.output.lock().clone()
    }

    /// The first printed line that `wanted` maps to something, also of those printed already.
    /// Panics when the child closes its output before, or when `within` is over.
    pub(crate) async fn line<T>(
        &mut self,
        within: Duration,
        wanted: impl Fn(&str) -> Option<T>,
    ) -> T {
        let deadline = tokio::time::Instant::now() + within;
        let mut seen = 0;
        loop {
            let count = *self.lines.borrow_and_update();
            let fresh = self
                .output
                .lock()
                .get(seen..count)
                .unwrap_or_default()
                .to_vec();
            if let Some(found) = fresh.iter().find_map(|line| wanted(line)) {
                return found;
            }
            seen = count;
            match tokio::time::timeout_at(deadline, self.lines.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) if *self.lines.borrow() > seen => {}
                Ok(Err(_)) => panic!("{} ended without the line that was waited for", self.name),
                Err(_) => panic!("{} printed no such line within {within:?}", self.name),
            }
        }
    }

    /// Sends a signal by name (`TERM`, `HUP`, `INT`).
    pub(crate) fn signal(&self, signal: &str) {
        let status = Command::new("sh")
            .args([
                "-c",
                "kill -s \"$1\" \"$2\"",
                "sh",
                signal,
                &self.pid().to_string(),
            ])
            .status()
            .unwrap();
        assert!(status.success(), "no {signal} to {}", self.name);
    }

    /// Ends the child without a chance to clean up.
    pub(crate) fn kill(&mut self) {
        // An error means that it has ended already.
        self.child.kill().ok();
        self.child.wait().unwrap();
    }

    /// Waits for the child to end by itself.
    pub(crate) async fn ended(&mut self, within: Duration) -> ExitStatus {
        let mut status = None;
        eventually(within, async || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        })
        .await;
        status.unwrap()
    }

    /// Resident memory, KiB.
    pub(crate) fn rss_kb(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Open file descriptors.
    pub(crate) fn fd_count(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid()))
            .unwrap()
            .count()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("---- what {} printed ----", self.name);
            for line in self.output.lock().iter() {
                eprintln!("{line}");
            }
        }
    }
}

fn read_lines(
    from: impl Read + Send + 'static,
    output: &Arc<Mutex<Vec<String>>>,
    count: watch::Sender<usize>,
) {
    let output = Arc::clone(output);
    std::thread::spawn(move || {
        for line in BufReader::new(from).split(b'\n') {
            let Ok(line) = line else { return };
            let line = String::from_utf8_lossy(&line).into_owned();
            let lines = {
                let mut output = output.lock();
                output.push(line);
                output.len()
            };
            count.send_replace(lines);
        }
    });
}

/// Runs a command to its end and returns what it printed; one that takes longer than `within` is
/// killed and fails the test.
pub(crate) fn run(command: &mut Command, within: Duration) -> std::process::Output {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
    let stdout = read_all(child.stdout.take().unwrap());
    let stderr = read_all(child.stderr.take().unwrap());
    let deadline = Instant::now() + within;
    let status = loop {
        match child.try_wait().unwrap() {
            Some(status) => break Some(status),
            None if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(5)),
            None => break None,
        }
    };
    if status.is_none() {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let (stdout, stderr) = (stdout.join().unwrap(), stderr.join().unwrap());
    match status {
        Some(status) => std::process::Output {
            status,
            stdout,
            stderr,
        },
        None => panic!(
            "{command:?} still runs after {within:?}; it printed:\n{}{}",
            String::from_utf8_lossy(&stdout),
            String::from_utf8_lossy(&stderr),
        ),
    }
}

fn read_all(mut from: impl Read + Send + 'static) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut all = Vec::new();
        from.read_to_end(&mut all).unwrap();
        all
    })
}
