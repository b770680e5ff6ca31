//! The load and the worker of `make bench`. Both speak HTTP/1.1 by hand, with no more work per
//! request than the measurement needs, so that the gateway between them is what saturates first.
//!
//! Every measurement prints one JSON object on one line; `benches/run` reads it.

#![expect(
    clippy::disallowed_methods,
    reason = "a program of its own: it uses nothing of smg, its clock and spawn included"
)]

mod closed;
mod cpu;
mod many;
mod paced;
mod streams;
mod wire;
mod worker;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use clap::{Parser, Subcommand};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Answers chat requests at once, streaming ones at the pace they ask for, until it is killed.
    Worker { listen: SocketAddr },
    /// Keeps `connections` requests in flight, each sent when the one before it is answered.
    Closed {
        address: SocketAddr,
        #[arg(long)]
        connections: usize,
        /// Size of the whole request body.
        #[arg(long)]
        body_bytes: usize,
        #[command(flatten)]
        window: Window,
    },
    /// Sends at a fixed rate, whatever the answers do; latency counts from the time a request was
    /// due, not from the time it left.
    Paced {
        address: SocketAddr,
        /// Requests per second.
        #[arg(long)]
        rate: u32,
        /// Connections that take turns, each with a thread of its own.
        #[arg(long)]
        connections: u32,
        #[arg(long)]
        body_bytes: usize,
        #[command(flatten)]
        window: Window,
    },
    /// Reads `streams` event streams at once and counts their events.
    Sse {
        address: SocketAddr,
        #[arg(long)]
        streams: usize,
        /// Milliseconds between two events of one stream.
        #[arg(long)]
        pace: u64,
        #[command(flatten)]
        window: Window,
    },
    /// Holds very many event streams over few HTTP/2 connections.
    Many {
        address: SocketAddr,
        #[command(flatten)]
        plan: many::Plan,
    },
    /// Opens `streams` event streams, prints a line when every one has had its first event, and
    /// holds them until standard input ends.
    Hold {
        address: SocketAddr,
        #[arg(long)]
        streams: usize,
        #[arg(long)]
        pace: u64,
    },
}

/// What is measured, and for how long.
#[derive(clap::Args)]
struct Window {
    /// Seconds before the measurement starts.
    #[arg(long, default_value_t = 0.5)]
    warm: f64,
    /// Seconds of the measurement.
    #[arg(long)]
    seconds: f64,
    /// Processes whose CPU time is read at both ends of the measurement.
    #[arg(long, value_delimiter = ',')]
    pids: Vec<u32>,
}

impl Window {
    fn warm(&self) -> Duration {
        Duration::from_secs_f64(self.warm)
    }

    fn length(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }
}

fn main() -> io::Result<()> {
    let command = Cli::parse().command;
    if let Command::Paced {
        address,
        rate,
        connections,
        body_bytes,
        window,
    } = command
    {
        return paced::run(address, rate, connections, body_bytes, &window);
    }
    // One thread: load and workers share a core, and a second thread would only take turns on it.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async move {
        match command {
            Command::Worker { listen } => worker::run(listen).await,
            Command::Closed {
                address,
                connections,
                body_bytes,
                window,
            } => closed::run(address, connections, body_bytes, &window).await,
            Command::Sse {
                address,
                streams,
                pace,
                window,
            } => streams::count(address, streams, pace, &window).await,
            Command::Hold {
                address,
                streams,
                pace,
            } => streams::hold(address, streams, pace).await,
            Command::Many { address, plan } => many::run(address, &plan).await,
            Command::Paced { .. } => Ok(()),
        }
    })
}

/// Prints the one line of a measurement.
#[expect(
    clippy::print_stdout,
    reason = "standard output is how the driver gets the figures"
)]
fn report(figures: &serde_json::Value) {
    println!("{figures}");
}
