//! Very many event streams over few HTTP/2 connections, held open for a while.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::SendRequest;
use http::Request;
use memchr::memmem;
use serde_json::json;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::{report, wire};

/// Streams per connection; a listener of smg takes so many unless told otherwise.
const PER_CONNECTION: usize = 100;
/// How long all streams together may take for their first token.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Default)]
struct Tally {
    begun: AtomicU64,
    events: AtomicU64,
    failed: AtomicU64,
}

/// What one run holds, and how.
#[derive(clap::Args)]
pub(crate) struct Plan {
    /// Streams at once.
    #[arg(long)]
    streams: usize,
    /// Model to ask for.
    #[arg(long)]
    model: String,
    /// Streams opened per second.
    #[arg(long)]
    rate: u32,
    /// Seconds for which all are held.
    #[arg(long)]
    seconds: f64,
}

/// Prints a line when every stream has had its first token and another one, with what came in
/// between, when they have been held long enough. Then leaves in mid-stream.
pub(crate) async fn run(address: SocketAddr, plan: &Plan) -> io::Result<()> {
    let tally = Arc::new(Tally::default());
    let body: Bytes = format!(
        r#"{{"model":"{}","stream":true,"max_tokens":100000,"messages":[{{"role":"user","content":"count slowly"}}]}}"#,
        plan.model
    )
    .into();
    let (firsts, mut first) = mpsc::channel(1024);
    let apart = Duration::from_secs(1) / plan.rate;
    let opened = Instant::now();
    let mut connections = Vec::new();
    for at in 0..plan.streams {
        if at % PER_CONNECTION == 0 {
            connections.push(connect(address).await?);
        }
        let Some(connection) = connections.last() else {
            continue;
        };
        let (sender, tally) = (connection.clone(), Arc::clone(&tally));
        let (body, firsts) = (body.clone(), firsts.clone());
        let due = apart * u32::try_from(at).unwrap_or(u32::MAX);
        sleep(due.saturating_sub(opened.elapsed())).await;
        tokio::spawn(async move {
            if let Err(error) = read(sender, address, body, &firsts, &tally).await
                && tally.failed.fetch_add(1, Ordering::Relaxed) == 0
            {
                complain(&error);
            }
        });
    }
    drop(firsts);
    let mut latencies = Vec::with_capacity(plan.streams);
    let all = async {
        while latencies.len() + count(&tally.failed) < plan.streams
            && let Some(latency) = first.recv().await
        {
            latencies.push(latency);
        }
    };
    // Those that have not begun by then show in the number of those that have.
    tokio::time::timeout(PATIENCE, all).await.ok();
    latencies.sort_unstable();
    let quantile = |of: f64| {
        let at = (latencies.len() as f64 * of) as usize;
        let at = at.min(latencies.len().saturating_sub(1));
        latencies
            .get(at)
            .map(|latency: &Duration| latency.as_secs_f64() * 1e3)
    };
    report(&json!({
        "open": count(&tally.begun) - count(&tally.failed),
        "failed": count(&tally.failed),
        "connections": connections.len(),
        "first_p50_ms": quantile(0.5),
        "first_p99_ms": quantile(0.99),
        "first_max_ms": quantile(1.0),
    }));
    let (start, before) = (Instant::now(), count(&tally.events));
    sleep(Duration::from_secs_f64(plan.seconds)).await;
    report(&json!({
        "seconds": start.elapsed().as_secs_f64(),
        "events": count(&tally.events) - before,
        "failed": count(&tally.failed),
    }));
    Ok(())
}

fn count(counter: &AtomicU64) -> usize {
    usize::try_from(counter.load(Ordering::Relaxed)).unwrap_or(usize::MAX)
}

#[expect(clippy::print_stderr, reason = "for whoever watches the measurement")]
fn complain(error: &io::Error) {
    eprintln!("the first stream that failed: {error}");
}

async fn connect(address: SocketAddr) -> io::Result<SendRequest<Bytes>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = h2::client::Builder::new()
        .initial_connection_window_size(1 << 24)
        .handshake(stream)
        .await
        .map_err(io::Error::other)?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            complain(&io::Error::other(error));
        }
    });
    Ok(sender)
}

/// Reads one stream for ever; an end of it is an error.
async fn read(
    sender: SendRequest<Bytes>,
    address: SocketAddr,
    body: Bytes,
    firsts: &mpsc::Sender<Duration>,
    tally: &Tally,
) -> io::Result<()> {
    let request = Request::post(format!("http://{address}{}", wire::CHAT))
        .header("content-type", "application/json")
        .body(())
        .map_err(io::Error::other)?;
    let asked = Instant::now();
    let mut sender = sender.ready().await.map_err(io::Error::other)?;
    let (response, mut stream) = sender
        .send_request(request, false)
        .map_err(io::Error::other)?;
    drop(sender);
    stream.send_data(body, true).map_err(io::Error::other)?;
    let response = response.await.map_err(io::Error::other)?;
    if response.status() != 200 {
        return Err(io::Error::other(format!("status {}", response.status())));
    }
    let mut answer = response.into_body();
    let mut begun = false;
    while let Some(data) = answer.data().await {
        let data = data.map_err(io::Error::other)?;
        let freed = answer.flow_control().release_capacity(data.len());
        freed.map_err(io::Error::other)?;
        if memmem::find(&data, b"\"error\"").is_some() {
            return Err(io::Error::other("an error frame"));
        }
        let events = memmem::find_iter(&data, b"data: ").count();
        tally.events.fetch_add(events as u64, Ordering::Relaxed);
        if events > 0 && !begun {
            begun = true;
            tally.begun.fetch_add(1, Ordering::Relaxed);
            // Nobody listens any more once the figures are told.
            firsts.send(asked.elapsed()).await.ok();
        }
    }
    Err(io::ErrorKind::UnexpectedEof.into())
}
