//! The log of a whole process: places that take nothing, levels that change, filters of modules.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::scene::{PATIENCE, ask, config, plain_engine};
use crate::support::client::json_request;
use crate::support::{Connection, Smg, eventually, get, post, smg};

/// A child that ends with the test.
struct Mute(Child);

impl Drop for Mute {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipe_that_nobody_reads_costs_lines_and_no_time() {
    let engine = plain_engine().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("smg.toml");
    // Nobody will read where they are.
    let ports = [(); 2].map(|()| {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        socket.local_addr().unwrap()
    });
    let mut file = config(&[engine.url()], "[logging]\nlevel = \"trace\"\n");
    for address in ports {
        file = file.replacen("127.0.0.1:0", &address.to_string(), 1);
    }
    std::fs::write(&path, file).unwrap();
    let [metrics, main] = ports;
    let child = smg::command()
        .arg("--config")
        .arg(&path)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut child = Mute(child);
    eventually(PATIENCE, async || {
        tokio::net::TcpStream::connect(main).await.is_ok()
    })
    .await;
    let mut connection = Connection::h1(main).await;
    let mut slowest = Duration::ZERO;
    let dropped = async || {
        let text = get(metrics, "/metrics").await.text();
        crate::support::metrics::Samples::parse(&text)
            .sum("smg_log_dropped_total", &[("sink", "stdout")])
    };
    let until = Instant::now() + Duration::from_secs(60);
    while dropped().await == 0.0 {
        assert!(Instant::now() < until, "nothing is dropped");
        // Paths are logged, so that four megabytes are soon there.
        let long = format!("/{}", "x".repeat(4000));
        for _ in 0..200 {
            let began = Instant::now();
            let request = json_request(&long, &ask());
            assert_eq!(connection.send(request).await.status, 404);
            slowest = slowest.max(began.elapsed());
        }
    }
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    assert_eq!(post(main, "/v1/completions", &ask()).await.status, 200);
    // Once somebody reads, whole lines come again.
    let mut stdout = child.0.stdout.take().unwrap();
    let reading = std::thread::spawn(move || {
        let mut text = String::new();
        stdout.read_to_string(&mut text).unwrap();
        text
    });
    let pid = child.0.id().to_string();
    let term = Command::new("kill").args(["-s", "TERM", &pid]).status();
    assert!(term.unwrap().success());
    let text = reading.join().unwrap();
    assert!(child.0.wait().unwrap().success());
    assert!(
        text.ends_with('\n') && text.contains(": stopped "),
        "the last words"
    );
    assert!(
        text.lines().all(|line| line.starts_with("20")),
        "whole lines"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_costs_lines_and_no_time() {
    let engine = plain_engine().await;
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/dev/full", folder.path().join("smg.log")).unwrap();
    let more = format!("[logging]\ndir = {:?}\nrotate = \"never\"\n", folder.path());
    let mut smg = Smg::start(&config(&[engine.url()], &more)).await;
    let began = Instant::now();
    assert_eq!(
        post(smg.main(), "/v1/completions", &ask()).await.status,
        200
    );
    assert!(began.elapsed() < Duration::from_secs(2));
    eventually(PATIENCE, async || {
        let metrics = smg.metrics().await;
        metrics.sum("smg_log_dropped_total", &[("sink", "file")]) > 0.0
    })
    .await;
    // Both streams of the gateway are read by threads of their own: what it has written may not be
    // here yet.
    eventually(PATIENCE, async || {
        let output = smg.process().output();
        let has = |words: &str| output.iter().any(|line| line.contains(words));
        has("log sink `file`") && has("finished processing request")
    })
    .await;
    let output = smg.process().output();
    let told = output
        .iter()
        .filter(|line| line.contains("log sink `file`"));
    assert_eq!(told.count(), 1, "once a minute");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_loses_audit_records_but_not_silently() {
    let more = "[audit]\npath = \"/dev/full\"\n";
    let mut smg = Smg::start(&config(&["http://127.0.0.1:9".to_owned()], more)).await;
    assert_eq!(get(smg.main(), "/workers").await.status, 200);
    eventually(PATIENCE, async || {
        let metrics = smg.metrics().await;
        metrics.sum("smg_log_dropped_total", &[("sink", "audit")]) >= 1.0
    })
    .await;
    smg.process()
        .line(PATIENCE, |line| {
            line.contains("audit records could not be written")
                .then_some(())
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn levels_are_those_of_modules_and_reloads_change_them() {
    let engine = plain_engine().await;
    let workers = [engine.url()];
    let filter = |command: &mut Command| {
        command.env(
            "RUST_LOG",
            "warn,smg::config=info,smg::daemon=info,smg::serve=info,smg::request=debug",
        );
    };
    let mut modules = Smg::start_with(&config(&workers, ""), filter).await;
    assert_eq!(
        post(modules.main(), "/v1/completions", &ask()).await.status,
        200
    );
    let begun = |line: &str| line.contains("started processing request").then_some(());
    modules.process().line(PATIENCE, begun).await;
    // A level that cannot take effect says so.
    modules
        .apply(&config(&workers, "[logging]\nlevel = \"debug\"\n"))
        .await;
    let masked =
        |line: &str| (line.contains("WARN") && line.contains("logging.level")).then_some(());
    modules.process().line(PATIENCE, masked).await;
    let output = modules.process().output();
    assert!(
        !output
            .iter()
            .any(|line| line.contains("finished processing request"))
    );

    let mut smg = Smg::start(&config(&workers, "")).await;
    post(smg.main(), "/v1/completions", &ask()).await;
    smg.apply(&config(
        &workers,
        "[logging]\nlevel = \"debug\"\nformat = \"json\"\n",
    ))
    .await;
    post(smg.main(), "/v1/completions", &ask()).await;
    let line = smg
        .process()
        .line(PATIENCE, |line| {
            let line: Value = serde_json::from_str(line).ok()?;
            (line["message"] == "started processing request").then_some(line)
        })
        .await;
    assert_eq!(line["span"]["name"], "http_request");
    assert_eq!(line["spans"][0]["request_id"], line["request_id"]);
    let done = smg
        .process()
        .line(PATIENCE, |line| {
            let line: Value = serde_json::from_str(line).ok()?;
            let done = line["message"] == "finished processing request";
            (done && line["path"] == "/v1/completions").then_some(line)
        })
        .await;
    let sent = ask().to_string().len();
    assert_eq!(done["bytes_in"], sent);
    assert!(done["bytes_out"].as_u64() > Some(10));
}
