//! Very many connections with nothing to say.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::smg::LISTENERS;
use crate::support::{Smg, eventually};

const CONNECTIONS: usize = 10_000;

/// Made or asked at the same time.
const ABREAST: usize = 250;

/// Of the gateway and of this process, for everything else.
const OTHER_FILES: u64 = 500;

/// What an idle connection may cost, KiB: the buffers of hyper and the task.
const MOST_PER_CONNECTION: f64 = 24.0;

const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_idle_connections_stay_open_and_cost_little() {
    let wanted = CONNECTIONS as u64 + OTHER_FILES;
    let limit = getrlimit(Resource::Nofile);
    if limit.maximum.is_some_and(|most| most < wanted) {
        println!(
            "skipped: of {wanted} file descriptors only {:?} are allowed",
            limit.maximum
        );
        return;
    }
    // The gateway inherits the old soft limit and raises its own.
    let config = format!("{LISTENERS}\n");
    let mut smg = Smg::start(&config.replace(
        "[[listeners]]\nname = \"metrics\"",
        "[listeners.limits]\nidle_timeout = \"10m\"\n\n[[listeners]]\nname = \"metrics\"",
    ))
    .await;
    if limit.current.is_some_and(|soft| soft < wanted) {
        let raised = Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        };
        setrlimit(Resource::Nofile, raised).unwrap();
    }
    let main = smg.main();
    let active = async |smg: &Smg| {
        let metrics = smg.metrics().await;
        metrics.sum("smg_http_connections_active", &[("listener", "main")])
    };
    let before = smg.process().rss_kb();

    let mut connections = Vec::with_capacity(CONNECTIONS);
    while connections.len() < CONNECTIONS {
        connections.extend(join_all((0..ABREAST).map(|_| connect(main))).await);
    }
    eventually(PATIENCE, async || active(&smg).await == CONNECTIONS as f64).await;
    let unused = smg.process().rss_kb();
    // Each has carried a request, as kept connections have.
    ask_all(&mut connections).await;
    let used = smg.process().rss_kb();
    let cost = |rss: u64| rss.saturating_sub(before) as f64 / CONNECTIONS as f64;
    println!(
        "KiB per idle connection: {:.1} unused, {:.1} after a request; RSS {before} -> {used} KiB",
        cost(unused),
        cost(used)
    );
    assert!(cost(used) < MOST_PER_CONNECTION, "{:.1} KiB", cost(used));

    // A reload that keeps the listener keeps them all.
    smg.rewrite(&format!(
        "{}\n[server]\nrequest_timeout = \"44s\"\n",
        std::fs::read_to_string(smg.config_path()).unwrap()
    ));
    smg.serves(2).await;
    ask_all(&mut connections).await;
    assert!(active(&smg).await >= CONNECTIONS as f64);
    assert!(smg.process().fd_count() > CONNECTIONS);

    drop(connections);
    eventually(PATIENCE, async || active(&smg).await <= 1.0).await;
    eventually(PATIENCE, async || smg.process().fd_count() < 200).await;
}

async fn connect(to: SocketAddr) -> TcpStream {
    TcpStream::connect(to).await.unwrap()
}

/// Asks once on every connection, some at a time.
async fn ask_all(connections: &mut [TcpStream]) {
    let request = Arc::new("GET /liveness HTTP/1.1\r\nhost: idle\r\n\r\n");
    for some in connections.chunks_mut(ABREAST) {
        join_all(some.iter_mut().map(|connection| async {
            connection.write_all(request.as_bytes()).await.unwrap();
            let mut answer = Vec::new();
            while !answer.ends_with(b"\r\n\r\nOK") {
                let read = connection.read_buf(&mut answer).await.unwrap();
                assert!(read > 0, "closed instead of answered: {answer:?}");
            }
            assert!(answer.starts_with(b"HTTP/1.1 200"));
        }))
        .await;
    }
}
