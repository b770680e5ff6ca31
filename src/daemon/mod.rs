//! Wiring: the runtime, the order of the start, signals, the end.
//!
//! What is started here in this order ends in the reverse one: log and metrics, the first snapshot,
//! worker registration, sockets, the watcher.

mod between;
mod inherit;
mod program;
mod runtime;
mod stop;
mod systemd;
mod upgrade;

use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

pub use self::between::stage;
use self::inherit::{Inherited, Legacy, Predecessor};
use self::program::Program;
use self::upgrade::Estate;
use crate::base::task::AbortOnDrop;
use crate::config::{Environment, Input, Loaded, Spec};
use crate::control::{self, Control, Logging, Outside, Over};
use crate::live::{
    Admin, BindError, BoxFuture, Live, Trigger, UpgradeAnswer, UpgradeError, UpgradeRequest,
    Upgraded,
};
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

/// How long a process that was asked for by signal may take until it serves.
const SUCCESSION: Duration = Duration::from_secs(60);

/// How long workers that the process before can use may take until this one can, too.
const ACQUAINTANCE: Duration = Duration::from_secs(10);

/// How often they are looked at.
const LOOK: Duration = Duration::from_millis(10);

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
    upgrade: Signal,
}

/// How the gateway has come to its end.
enum End {
    /// It was told to stop.
    Told,
    /// Another process has taken over.
    Relieved,
}

/// Says to the process that this one was to take over from, if there is one, that it cannot: `text`
/// is wrong with the configuration.
pub fn decline(environment: &Environment, text: &str) {
    if let Some(predecessor) = inherit::take(environment).predecessor {
        predecessor.decline(text);
    }
}

/// Runs the gateway until it is told to stop. `filter` is a log filter that comes before
/// `logging.level`. Returns the exit code: 0 after a clean end, 78 without a valid configuration,
/// 1 otherwise.
pub fn run(input: Input, loaded: Loaded, filter: Option<String>) -> u8 {
    let inherited = inherit::take(&input.environment);
    let predecessor = inherited.predecessor.as_ref();
    let predecessor = predecessor.and_then(|predecessor| predecessor.again().ok());
    let (code, trouble) = run_with(input, loaded, filter, inherited);
    if let (Some(predecessor), Some(trouble)) = (predecessor, trouble) {
        predecessor.decline(&trouble);
    }
    code
}

/// The exit code, and what is wrong where it could not start.
fn run_with(
    input: Input,
    loaded: Loaded,
    filter: Option<String>,
    inherited: Inherited,
) -> (u8, Option<String>) {
    let Some(spec) = loaded.spec.clone() else {
        return (INVALID, None);
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
            return (FAILED, Some(error.to_string()));
        }
    };
    if !control::is_usable(&loaded) {
        log::flush(FLUSH);
        let trouble = "the configuration cannot be used, its log says why".to_owned();
        return (INVALID, Some(trouble));
    }
    let ended = start(input, loaded, &spec, logging, inherited);
    let (code, trouble) = match ended {
        Ok(code) => (code, None),
        Err(error) => (FAILED, Some(report(&error))),
    };
    if !trace::flush(LAST_SPANS) {
        tracing::warn!(target: "smg::daemon", "the collector did not take the last spans in time");
    }
    audit::sweep(None);
    log::flush(FLUSH);
    (code, trouble)
}

/// Logs why it did not start, and returns it as text.
fn report(error: &StartError) -> String {
    let mut text = String::new();
    if let StartError::Bind(errors) = &error {
        for error in errors {
            let help = error.help();
            tracing::error!(target: "smg::daemon", %error, help, "listener not bound");
            text.push_str(&format!("{error}\n  = help: {help}\n"));
        }
    }
    tracing::error!(target: "smg::daemon", %error, "start failed");
    text.push_str(&error.to_string());
    text
}

fn start(
    input: Input,
    loaded: Loaded,
    spec: &Spec,
    logging: Logging,
    inherited: Inherited,
) -> Result<u8, StartError> {
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
    let ended = runtime.block_on(live_through(input, loaded, spec, logging, inherited));
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
    inherited: Inherited,
) -> Result<u8, StartError> {
    let mut signals = Signals::new().map_err(StartError::Runtime)?;
    let program = Program::of_this_process(&input.environment);
    let Inherited {
        handed,
        predecessor,
    } = inherited;
    let legacy = predecessor.as_ref().map(Predecessor::legacy);
    let (upgrades, mut wishes) = mpsc::channel(1);
    let outside = Outside {
        input: Arc::new(input),
        logging: Some(logging),
        observer: Box::new(systemd::tell),
        upgrades,
        fleet: legacy.as_ref().map(|legacy| legacy.fleet.clone()),
    };
    let Some(control) = Control::new(loaded, outside) else {
        return Ok(INVALID);
    };
    let (live, admin) = (Arc::clone(control.live()), control.admin());
    let listeners = Listeners::new(Arc::clone(&live), Arc::clone(&admin), handed);
    let listeners = Arc::new(listeners);
    let control_socket =
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
    let acquainted = legacy.map(|legacy| acquainted(Arc::clone(&live), legacy));
    let started = control.start(sockets, acquainted).await;
    let mut control = started.map_err(StartError::Bind)?;
    let _upkeep = AbortOnDrop::spawn("upkeep", upkeep(Arc::clone(&live)));
    let _delays = AbortOnDrop::spawn("delays", process::watch_delays());
    warn_of_open_doors(&live.load().plan, &listeners);
    for socket in listeners.unused() {
        tracing::warn!(
            target: "smg::daemon", socket,
            "no listener uses this socket of the service manager: connections to it wait"
        );
    }
    let generation = live.load().generation;
    match predecessor {
        None => systemd::ready(generation),
        Some(predecessor) => {
            let relieved = predecessor.relieve(upgrade::myself(), generation);
            let Some(relieved) = relieved.await.map_err(StartError::Runtime)? else {
                tracing::warn!(
                    target: "smg::daemon",
                    "the process before is gone or serves on, this one ends"
                );
                systemd::Silence::begin().keep();
                // Whoever has come here already is not turned away.
                stop::stop(&live, &listeners, &mut signals).await;
                return Ok(FAILED);
            };
            listeners.take_over();
            control.release();
            systemd::took_over(generation);
            relieved.took_over().await;
        }
    }
    let _watchdog =
        systemd::watchdog().map(|every| AbortOnDrop::spawn("watchdog", systemd::pet(every)));
    tracing::info!(target: "smg::daemon", generation, "ready");

    let estate = Estate {
        program: &program,
        live: &live,
        control: &control,
        listeners: &listeners,
        control_socket: control_socket.as_ref(),
    };
    let (end, answers) = signals.serve(&*admin, &estate, &mut wishes).await;
    let clean = match end {
        End::Told => stop::stop(&live, &listeners, &mut signals).await,
        End::Relieved => {
            listeners.leave();
            if let Some(socket) = control_socket {
                socket.leave();
            }
            control.retire();
            drop(wishes);
            answers.tell();
            stop::relieved(&live, &listeners, &mut signals).await
        }
    };
    tracing::info!(target: "smg::daemon", clean, "stopped");
    Ok(if clean { CLEAN } else { FAILED })
}

/// Waits until the workers that the process before can use can be used here, too, but not for ever.
fn acquainted(live: Arc<Live>, legacy: Legacy) -> BoxFuture<()> {
    let are_usable = move || {
        let snapshot = live.load();
        let known = |key: &str| legacy.usable.iter().any(|usable| usable == key);
        snapshot
            .workers()
            .filter(|worker| known(worker.plan.key.base().as_str()))
            .all(|worker| snapshot.is_usable(worker))
    };
    Box::pin(async move {
        let wait = async {
            while !are_usable() {
                sleep(LOOK).await;
            }
        };
        if timeout(ACQUAINTANCE, wait).await.is_err() {
            tracing::warn!(
                target: "smg::daemon",
                "workers that the process before can use cannot be used here yet"
            );
        }
    })
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

/// Who is told how an upgrade has ended, once everything is as it should be.
struct Answers {
    outcome: Result<Upgraded, UpgradeError>,
    asker: Option<UpgradeAnswer>,
}

impl Answers {
    fn tell(self) {
        if let Some(asker) = self.asker {
            // Who has gone away does not need to know.
            asker.send(self.outcome).ok();
        }
    }
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            upgrade: signal(SignalKind::user_defined2())?,
        })
    }

    /// Serves until a signal says to stop, or another process has taken over; reloads and upgrades at
    /// others. An upgrade that is under way ends with it.
    async fn serve(
        &mut self,
        admin: &dyn Admin,
        estate: &Estate<'_>,
        wishes: &mut mpsc::Receiver<UpgradeRequest>,
    ) -> (End, Answers) {
        let nobody = || Answers {
            outcome: Err(UpgradeError::Stopping),
            asker: None,
        };
        let mut upgrading: Option<Upgrading<'_>> = None;
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return (End::Told, nobody()),
                _ = self.interrupt.recv() => return (End::Told, nobody()),
                // The reload goes on without us.
                _ = self.hangup.recv() => drop(admin.reload(Trigger::Signal)),
                _ = self.upgrade.recv() => match upgrading {
                    Some(_) => tracing::warn!(
                        target: "smg::daemon", "an upgrade is under way already"
                    ),
                    None => upgrading = Some(Upgrading::begin(estate, SUCCESSION, None)),
                },
                Some(UpgradeRequest { patience, answer }) = wishes.recv() => match upgrading {
                    // Who has gone away does not need to know.
                    Some(_) => drop(answer.send(Err(UpgradeError::Busy))),
                    None => upgrading = Some(Upgrading::begin(estate, patience, Some(answer))),
                },
                answers = Upgrading::ended(&mut upgrading) => {
                    upgrading = None;
                    if answers.outcome.is_ok() {
                        return (End::Relieved, answers);
                    }
                    answers.tell();
                }
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

    /// Waits for the signal to stop that nobody but an operator sends.
    ///
    /// Cancel safety: no signal is lost.
    async fn interrupted(&mut self) {
        self.interrupt.recv().await;
    }
}

/// An upgrade that is under way.
struct Upgrading<'a> {
    going: Pin<Box<dyn Future<Output = Result<Upgraded, UpgradeError>> + Send + 'a>>,
    asker: Option<UpgradeAnswer>,
}

impl<'a> Upgrading<'a> {
    fn begin(estate: &'a Estate<'a>, patience: Duration, asker: Option<UpgradeAnswer>) -> Self {
        let trigger = if asker.is_some() { "admin" } else { "signal" };
        let going = async move {
            let outcome = estate.hand_over(patience).await;
            audit::upgraded(
                trigger,
                outcome.as_ref().ok().map(|upgraded| upgraded.new.pid),
            );
            outcome
        };
        Self {
            going: Box::pin(going),
            asker,
        }
    }

    /// How it has ended; pending while there is none.
    ///
    /// Cancel safety: it goes on the next time.
    async fn ended(upgrading: &mut Option<Self>) -> Answers {
        let Some(upgrading) = upgrading else {
            return std::future::pending().await;
        };
        Answers {
            outcome: upgrading.going.as_mut().await,
            asker: upgrading.asker.take(),
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
