//! Wiring: the runtime, the order of the start, signals, the end.
//!
//! What is started here in this order ends in the reverse one: log and metrics, the first snapshot,
//! worker registration, sockets, the watcher.

mod runtime;
mod stop;
mod systemd;

use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};

use crate::base::task::AbortOnDrop;
use crate::config::{Environment, Input, Loaded, Spec};
use crate::control::{self, Control, Logging, Outside, Over};
use crate::live::{Admin, BindError, Live, Trigger};
use crate::serve::{self, Listeners, warn_of_open_doors};
use crate::telemetry::metrics::{self, InstallError};
use crate::telemetry::process::{self, Sampler};
use crate::telemetry::{audit, log, trace};

/// Everything ended as it should.
const CLEAN: u8 = 0;
/// It could not start, or not end in time.
const FAILED: u8 = 1;
/// The configuration cannot be used; `EX_CONFIG` of sysexits.
const INVALID: u8 = 78;

/// How often metrics are looked after.
const UPKEEP: Duration = Duration::from_secs(1);

/// How long the last log lines may take.
const FLUSH: Duration = Duration::from_secs(2);

/// How long the last spans may take.
const LAST_SPANS: Duration = Duration::from_secs(5);

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Why the gateway did not start.
#[derive(Debug, thiserror::Error)]
enum StartError {
    /// Metrics cannot be recorded.
    #[error(transparent)]
    Metrics(#[from] InstallError),
    /// There are no threads, or no signals.
    #[error("cannot start the runtime: {0}")]
    Runtime(#[source] io::Error),
    /// The socket for `smg reload` cannot be made.
    #[error("control socket `{path}` cannot be made: {source}")]
    ControlSocket {
        /// Where.
        path: String,
        /// The system's reason.
        source: io::Error,
    },
    /// Some listener has no address. Each is logged for itself.
    #[error("{} of the listeners cannot be bound", .0.len())]
    Bind(Vec<BindError>),
}

/// Signals that a daemon answers. Made before anything else, since their default is to kill.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

/// Runs the gateway until it is told to stop. `filter` is a log filter that comes before
/// `logging.level`. Returns the exit code: 0 after a clean end, 78 without a valid configuration,
/// 1 otherwise.
pub fn run(input: Input, loaded: Loaded, filter: Option<String>) -> u8 {
    let Some(spec) = loaded.spec.clone() else {
        return INVALID;
    };
    let over = Over {
        filter,
        journal: is_journal(&input.environment),
    };
    let logging = match Logging::start(&spec, over) {
        Ok(logging) => logging,
        Err(error) => {
            // There is no log to say it in. If this fails too, nobody listens.
            writeln!(io::stderr(), "smg: error: {error}").ok();
            return FAILED;
        }
    };
    if !control::is_usable(&loaded) {
        log::flush(FLUSH);
        return INVALID;
    }
    let ended = start(input, loaded, &spec, logging);
    let code = ended.unwrap_or_else(|error| {
        if let StartError::Bind(errors) = &error {
            for error in errors {
                tracing::error!(target: "smg::daemon", %error, "listener not bound");
            }
        }
        tracing::error!(target: "smg::daemon", %error, "start failed");
        FAILED
    });
    if !trace::flush(LAST_SPANS) {
        tracing::warn!(target: "smg::daemon", "the collector did not take the last spans in time");
    }
    audit::sweep(None);
    log::flush(FLUSH);
    code
}

fn start(input: Input, loaded: Loaded, spec: &Spec, logging: Logging) -> Result<u8, StartError> {
    metrics::install(&spec.metrics.duration_buckets)?;
    metrics::preseed();
    let revision = option_env!("SMG_BUILD_REVISION").unwrap_or("unknown");
    process::started(VERSION, revision);
    let descriptors = runtime::raise_file_limit();
    let descriptors = descriptors.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string());
    let threads = runtime::threads(spec.server.worker_threads);
    let runtime = runtime::build(threads).map_err(StartError::Runtime)?;
    let config = input
        .file
        .as_deref()
        .map(|file| file.display().to_string())
        .unwrap_or_default();
    tracing::info!(
        target: "smg::daemon",
        version = VERSION, revision, config, sha256 = loaded.sha256, threads, descriptors, "starting"
    );
    let ended = runtime.block_on(live_through(input, loaded, spec, logging));
    // What still runs has had its time.
    runtime.shutdown_background();
    ended
}

/// From the first socket to the last byte.
async fn live_through(
    input: Input,
    loaded: Loaded,
    spec: &Spec,
    logging: Logging,
) -> Result<u8, StartError> {
    let mut signals = Signals::new().map_err(StartError::Runtime)?;
    let outside = Outside {
        input: Arc::new(input),
        logging: Some(logging),
        observer: Box::new(systemd::tell),
    };
    let Some(control) = Control::new(loaded, outside) else {
        return Ok(INVALID);
    };
    let (live, admin) = (Arc::clone(control.live()), control.admin());
    let listeners = Arc::new(Listeners::new(Arc::clone(&live), Arc::clone(&admin)));
    let _control_socket =
        match &spec.server.control_socket {
            None => None,
            Some(path) => Some(listeners.control_socket(path).map_err(|source| {
                StartError::ControlSocket {
                    path: path.display().to_string(),
                    source,
                }
            })?),
        };
    let sockets = Arc::clone(&listeners);
    let _control = control.start(sockets).await.map_err(StartError::Bind)?;
    let _upkeep = AbortOnDrop::spawn("upkeep", upkeep(Arc::clone(&live)));
    let _delays = AbortOnDrop::spawn("delays", process::watch_delays());
    let _watchdog =
        systemd::watchdog().map(|every| AbortOnDrop::spawn("watchdog", systemd::pet(every)));
    warn_of_open_doors(&live.load().plan);
    tracing::info!(target: "smg::daemon", generation = live.load().generation, "ready");
    systemd::ready(live.load().generation);

    signals.stop(&*admin).await;
    let clean = stop::stop(&live, &listeners, &mut signals).await;
    tracing::info!(target: "smg::daemon", clean, "stopped");
    Ok(if clean { CLEAN } else { FAILED })
}

async fn upkeep(live: Arc<Live>) {
    let mut sampler = Sampler::new(&tokio::runtime::Handle::current());
    let mut tick = interval(UPKEEP);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        sampler.sample();
        serve::sample(&live);
    }
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for a signal to stop; reloads at others.
    async fn stop(&mut self, admin: &dyn Admin) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                // The reload goes on without us.
                _ = self.hangup.recv() => drop(admin.reload(Trigger::Signal)),
            }
        }
    }

    /// Waits for a signal to stop.
    ///
    /// Cancel safety: no signal is lost.
    async fn end(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Whether the standard output is the journal, which adds the time by itself.
fn is_journal(environment: &Environment) -> bool {
    let Some(stream) = environment.get("JOURNAL_STREAM") else {
        return false;
    };
    std::fs::metadata("/proc/self/fd/1")
        .is_ok_and(|stdout| stream == format!("{}:{}", stdout.dev(), stdout.ino()))
}
