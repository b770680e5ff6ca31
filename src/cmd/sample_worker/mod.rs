//! `smg sample-worker`: a small OpenAI-compatible engine to try the gateway against.
//!
//! It is the worker of the tests and benchmarks too, so it must cost little: requests are scanned,
//! not built into trees; answers are written straight into their bytes; a stream is a body that
//! makes its own events. Nothing of the gateway is used here, so that neither hides a mistake of
//! the other. Faults are part of it: see [`Args`].

mod about;
mod answer;
mod answering;
mod args;
mod armed;
mod ask;
mod body;
mod cache;
mod engine;
mod fault;
mod hash;
mod job;
mod listen;
mod pair;
mod prompt;
mod reply;
mod scoring;
mod shape;
mod stats;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use tokio::net::TcpSocket;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{oneshot, watch};

use self::answering::Worker;
pub use self::args::{Args, Disaggregation, Runtime};
use self::armed::{Armed, Order};
use self::engine::Engine;
use crate::base::task;

/// Why the sample worker could not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address is taken or not one of this machine.
    #[error("cannot listen on `{address}`")]
    Listen {
        /// Host and port as configured.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// The signals that end the worker cannot be watched.
    #[error("cannot wait for signals")]
    Signal(#[source] io::Error),
    /// The line that says that the worker is ready cannot be written.
    #[error("cannot write to standard output")]
    Stdout(#[source] io::Error),
    /// The fault is none of those that `--help` lists.
    #[error("{0}")]
    Fault(String),
}

/// A worker that runs in this process. It ends, with all its connections, when this is dropped.
#[derive(Debug)]
pub struct Running {
    /// The address that it is reached by, with the port it really has.
    pub addr: SocketAddr,
    worker: Arc<Worker>,
    stop: watch::Sender<bool>,
    ready: Option<oneshot::Receiver<io::Result<()>>>,
}

/// Runs a worker until SIGTERM or SIGINT, which end it at once. One line on stdout says when it
/// is ready and where.
///
/// # Errors
/// The address cannot be listened on, stdout is closed, or signals cannot be watched.
pub async fn run(args: Args) -> Result<(), Error> {
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::Signal)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::Signal)?;
    let models = args.models.join(", ");
    let mut running = start(args).await?;
    let announce = async {
        running.ready().await?;
        let line = format!(
            "sample worker listening on http://{} (model {models})\n",
            running.addr
        );
        let mut out = io::stdout().lock();
        out.write_all(line.as_bytes())
            .and_then(|()| out.flush())
            .map_err(Error::Stdout)
    };
    tokio::select! {
        announced = announce => announced?,
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    }
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// Starts a worker in this process, within a Tokio runtime. Port 0 takes a free port.
///
/// With a startup delay it returns at once, and connections are refused until the delay is over.
///
/// # Errors
/// [`Error::Listen`] when the address cannot be listened on.
pub async fn start(args: Args) -> Result<Running, Error> {
    let address = format!("{}:{}", args.host, args.port);
    let failed = |source| Error::Listen {
        address: address.clone(),
        source,
    };
    let (socket, addr) = listen::bind(&args.host, args.port).await.map_err(failed)?;
    let delay = args.startup_delay;
    let name = HeaderValue::try_from(addr.to_string()).unwrap_or(HeaderValue::from_static("-"));
    let engine = Arc::new(Engine::new(args, addr.port()));
    let worker = Arc::new(Worker {
        engine,
        armed: Armed::default(),
        name,
    });
    let (stop, stopped) = watch::channel(false);
    let mut running = Running {
        addr,
        worker: Arc::clone(&worker),
        stop,
        ready: None,
    };
    if delay.is_zero() {
        let listener = listen::listen(socket).map_err(failed)?;
        task::spawn("sample worker", listen::accept(listener, worker, stopped));
    } else {
        running.ready = Some(listen_later(delay, socket, worker, stopped));
    }
    Ok(running)
}

fn listen_later(
    delay: Duration,
    socket: TcpSocket,
    worker: Arc<Worker>,
    mut stopped: watch::Receiver<bool>,
) -> oneshot::Receiver<io::Result<()>> {
    let (is_ready, ready) = oneshot::channel();
    task::spawn("sample worker", async move {
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            _ = stopped.changed() => return,
        }
        let (outcome, listener) = match listen::listen(socket) {
            Ok(listener) => (Ok(()), Some(listener)),
            Err(error) => (Err(error), None),
        };
        if is_ready.send(outcome).is_err() {
            tracing::debug!("nobody waits for the worker to be ready");
        }
        if let Some(listener) = listener {
            listen::accept(listener, worker, stopped).await;
        }
    });
    ready
}

impl Running {
    /// The base URL of the worker.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Waits until connections are accepted.
    ///
    /// # Errors
    /// [`Error::Listen`] when the address was taken during the startup delay.
    pub async fn ready(&mut self) -> Result<(), Error> {
        match self.ready.take() {
            None => Ok(()),
            Some(ready) => match ready.await {
                Ok(Err(source)) => Err(Error::Listen {
                    address: self.addr.to_string(),
                    source,
                }),
                Ok(Ok(())) | Err(_) => Ok(()),
            },
        }
    }

    /// What `GET /sample/stats` answers.
    pub fn stats(&self) -> serde_json::Value {
        about::stats(&self.worker.engine)
    }

    /// Does what `POST /sample/fault` does: the next `times` inference requests, or all from now
    /// on, meet `fault`; `None` takes all faults back.
    ///
    /// # Errors
    /// [`Error::Fault`] when there is no such fault.
    pub fn fault(&self, fault: Option<&str>, times: Option<u32>) -> Result<(), Error> {
        let order = Order {
            fault: fault.map(str::to_owned),
            times,
            path: None,
        };
        self.worker
            .armed
            .order(order)
            .map_err(|bad| Error::Fault(bad.to_string()))
    }

    /// Ends the worker at once, as a crash would; returns when its port and connections are gone.
    pub async fn shutdown(self) {
        self.stop.send_replace(true);
        self.stop.closed().await;
    }
}
