//! Open loop: what a request takes when they come at a fixed rate.
//!
//! Threads with blocking sockets rather than tasks: a runtime's timers are good to a millisecond,
//! and the differences looked for are smaller.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::cpu::Cpu;
use crate::{Window, report, wire};

/// Prints `requests`, `failed`, `cpu_ns`, `waited_ns` and the latencies `p50_us`, `p90_us`, `p99_us`, `max_us`
/// of the window.
pub(crate) fn run(
    address: SocketAddr,
    rate: u32,
    connections: u32,
    body_bytes: usize,
    window: &Window,
) -> io::Result<()> {
    let request = wire::post(address, &wire::chat(body_bytes));
    let every = Duration::from_secs(1) / rate;
    let start = Instant::now() + Duration::from_millis(50);
    let measured = start + window.warm();
    let end = measured + window.length();
    thread::scope(|scope| {
        let clients: Vec<_> = (0..connections)
            .map(|turn| {
                let request = &request;
                scope.spawn(move || {
                    let first = start + every * turn;
                    ask(address, request, first, every * connections, measured, end)
                })
            })
            .collect();
        thread::sleep(measured.saturating_duration_since(Instant::now()));
        let cpu_start = Cpu::of(&window.pids)?;
        thread::sleep(end.saturating_duration_since(Instant::now()));
        let cpu = Cpu::of(&window.pids)?.since(&cpu_start);

        let (mut latencies, mut failed) = (Vec::new(), 0);
        for client in clients {
            let joined = client
                .join()
                .map_err(|_| io::Error::other("a client panicked"))?;
            let (some, lost) = joined?;
            latencies.extend(some);
            failed += lost;
        }
        latencies.sort_unstable();
        let at = |percent: usize| {
            let index = (latencies.len() * percent / 100).min(latencies.len().saturating_sub(1));
            latencies
                .get(index)
                .map_or(0.0, |latency| latency.as_secs_f64() * 1e6)
        };
        report(&json!({
            "requests": latencies.len(),
            "failed": failed,
            "cpu_ns": cpu.used,
        "waited_ns": cpu.waited,
            "p50_us": at(50),
            "p90_us": at(90),
            "p99_us": at(99),
            "max_us": at(100),
        }));
        Ok(())
    })
}

/// One connection's turns: due at `due` and every `step` after it until `end`. The latencies of
/// those due from `measured` on, and how many of all failed.
fn ask(
    address: SocketAddr,
    request: &[u8],
    mut due: Instant,
    step: Duration,
    measured: Instant,
    end: Instant,
) -> io::Result<(Vec<Duration>, u64)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let (mut latencies, mut failed) = (Vec::new(), 0);
    let mut buffer = vec![0; 16 * 1024];
    while due < end {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        stream.write_all(request)?;
        let mut filled = 0;
        let ok = loop {
            let n = stream.read(&mut buffer[filled..])?;
            if n == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            filled += n;
            if let Some(ok) = wire::whole_answer(&buffer[..filled])? {
                break ok;
            }
        };
        if !ok {
            failed += 1;
        } else if due >= measured {
            latencies.push(due.elapsed());
        }
        due += step;
    }
    Ok((latencies, failed))
}
