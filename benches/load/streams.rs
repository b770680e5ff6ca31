//! Event streams: many at once, counted or merely held open.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use memchr::memmem;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::cpu::Cpu;
use crate::{Window, report, wire};

/// More events than any measurement lasts.
const ENDLESS: u64 = 1_000_000;

#[derive(Default)]
struct Tally {
    open: AtomicU64,
    events: AtomicU64,
    failed: AtomicU64,
}

/// Prints `events`, `failed`, `seconds`, `cpu_ns` and `waited_ns` of the window, which starts when all streams
/// are open.
pub(crate) async fn count(
    address: SocketAddr,
    streams: usize,
    pace: u64,
    window: &Window,
) -> io::Result<()> {
    // Spread over one pace, so that events come one by one and not all together.
    let apart = Duration::from_millis(pace) / u32::try_from(streams).unwrap_or(1);
    let tally = open(address, streams, pace, apart).await?;
    sleep(window.warm()).await;
    let (start, cpu_start) = (Instant::now(), Cpu::of(&window.pids)?);
    let before = tally.events.load(Ordering::Relaxed);
    sleep(window.length()).await;
    let (elapsed, cpu) = (start.elapsed(), Cpu::of(&window.pids)?.since(&cpu_start));
    report(&json!({
        "events": tally.events.load(Ordering::Relaxed) - before,
        "failed": tally.failed.load(Ordering::Relaxed),
        "seconds": elapsed.as_secs_f64(),
        "cpu_ns": cpu.used,
        "waited_ns": cpu.waited,
    }));
    Ok(())
}

/// Prints `open` and `failed` once all streams are open, and again when standard input has ended.
pub(crate) async fn hold(address: SocketAddr, streams: usize, pace: u64) -> io::Result<()> {
    let tally = open(address, streams, pace, Duration::from_millis(1)).await?;
    let figures = || {
        report(&json!({
            "open": tally.open.load(Ordering::Relaxed),
            "failed": tally.failed.load(Ordering::Relaxed),
        }));
    };
    figures();
    let (done, mut ended) = tokio::sync::mpsc::channel::<()>(1);
    std::thread::spawn(move || {
        let read = io::copy(&mut io::stdin(), &mut io::sink());
        drop((read, done));
    });
    ended.recv().await;
    figures();
    Ok(())
}

/// Opens the streams, `apart` from each other, and waits until each has had an event or failed.
async fn open(
    address: SocketAddr,
    streams: usize,
    pace: u64,
    apart: Duration,
) -> io::Result<Arc<Tally>> {
    let request: Arc<[u8]> = wire::post(address, &wire::streaming_chat(ENDLESS, pace)).into();
    let tally = Arc::new(Tally::default());
    for _ in 0..streams {
        let (request, tally) = (Arc::clone(&request), Arc::clone(&tally));
        tokio::spawn(async move {
            if read(address, &request, &tally).await.is_err() {
                tally.failed.fetch_add(1, Ordering::Relaxed);
            }
        });
        sleep(apart).await;
    }
    let start = Instant::now();
    loop {
        let settled = tally.open.load(Ordering::Relaxed) + tally.failed.load(Ordering::Relaxed);
        if settled >= streams as u64 {
            return Ok(tally);
        }
        if start.elapsed() > Duration::from_secs(30) {
            return Err(io::Error::other(format!(
                "{settled} of {streams} streams after 30 s"
            )));
        }
        sleep(Duration::from_millis(10)).await;
    }
}

async fn read(address: SocketAddr, request: &[u8], tally: &Tally) -> io::Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    stream.write_all(request).await?;
    let mut buffer = vec![0; 4 * 1024];
    let (mut answered, mut counted) = (false, false);
    loop {
        let n = stream.read(&mut buffer).await?;
        let bytes = &buffer[..n];
        if n == 0 || (!answered && !wire::is_ok(bytes)) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        answered = true;
        let events = memmem::find_iter(bytes, b"data: ").count() as u64;
        if !counted && events > 0 {
            tally.open.fetch_add(1, Ordering::Relaxed);
            counted = true;
        }
        tally.events.fetch_add(events, Ordering::Relaxed);
    }
}
