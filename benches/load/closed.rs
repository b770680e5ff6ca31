//! Closed loop: what the gateway can do when there is always another request.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::cpu::Cpu;
use crate::{Window, report, wire};

#[derive(Default)]
struct Tally {
    answered: AtomicU64,
    failed: AtomicU64,
}

/// Prints `requests`, `failed`, `seconds`, `cpu_ns` and `waited_ns` of the window.
pub(crate) async fn run(
    address: SocketAddr,
    connections: usize,
    body_bytes: usize,
    window: &Window,
) -> io::Result<()> {
    let request: Arc<[u8]> = wire::post(address, &wire::chat(body_bytes)).into();
    let tally = Arc::new(Tally::default());
    for _ in 0..connections {
        let (request, tally) = (Arc::clone(&request), Arc::clone(&tally));
        tokio::spawn(async move {
            // A connection that breaks counts once and is opened again.
            while let Err(_broken) = ask(address, &request, &tally).await {
                tally.failed.fetch_add(1, Ordering::Relaxed);
                sleep(Duration::from_millis(10)).await;
            }
        });
    }
    sleep(window.warm()).await;
    let (start, cpu_start) = (Instant::now(), Cpu::of(&window.pids)?);
    let before = tally.answered.load(Ordering::Relaxed);
    sleep(window.length()).await;
    let (elapsed, cpu) = (start.elapsed(), Cpu::of(&window.pids)?.since(&cpu_start));
    report(&json!({
        "requests": tally.answered.load(Ordering::Relaxed) - before,
        "failed": tally.failed.load(Ordering::Relaxed),
        "seconds": elapsed.as_secs_f64(),
        "cpu_ns": cpu.used,
        "waited_ns": cpu.waited,
    }));
    Ok(())
}

async fn ask(address: SocketAddr, request: &[u8], tally: &Tally) -> io::Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; 16 * 1024];
    loop {
        stream.write_all(request).await?;
        let mut filled = 0;
        let ok = loop {
            let n = stream.read(&mut buffer[filled..]).await?;
            if n == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            filled += n;
            if let Some(ok) = wire::whole_answer(&buffer[..filled])? {
                break ok;
            }
        };
        let counter = if ok { &tally.answered } else { &tally.failed };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}
