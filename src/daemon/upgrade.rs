//! A new process of the installed binary takes over.
//!
//! It is started with duplicates of every listening socket and says when it accepts connections.
//! Until then, and if it never does, this process serves as before; from then on it accepts nothing
//! more, tells the service manager nothing more, and ends when its requests have.

use std::io;
use std::os::fd::OwnedFd;
use std::process::ExitStatus;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::process::Child;
use tokio::time::timeout;

use super::inherit::{GO, Legacy, Said, line_of};
use super::program::Program;
use super::{VERSION, systemd};
use crate::base::task;
use crate::control::Running;
use crate::live::{Identity, Live, UpgradeError, Upgraded};
use crate::serve::{ControlSocket, Listeners};

/// How long a new process that serves may take to tell the service manager.
const TAKING_OVER: Duration = Duration::from_secs(10);

/// How long what a process said before its end may take to arrive.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Everything that is handed over.
pub(super) struct Estate<'a> {
    pub(super) program: &'a Program,
    pub(super) live: &'a Live,
    pub(super) control: &'a Running,
    pub(super) listeners: &'a Listeners,
    pub(super) control_socket: Option<&'a ControlSocket>,
}

/// Who this process is.
pub(super) fn myself() -> Identity {
    Identity {
        version: VERSION.to_owned(),
        pid: std::process::id(),
    }
}

impl Estate<'_> {
    /// Hands over, within `patience`. To be run by the first thread: the new process ends with that. When it is done, nothing has been closed yet: the new process
    /// and this one both accept.
    ///
    /// Cancel safety: dropped, it ends the new process.
    pub(super) async fn hand_over(&self, patience: Duration) -> Result<Upgraded, UpgradeError> {
        let program = self.program.path().display();
        tracing::info!(target: "smg::daemon", %program, "upgrade: starting a new process");
        let mut said = String::new();
        let handing = timeout(patience, self.hand(&mut said)).await;
        let handed = handing.unwrap_or(Err(Trouble::Late(patience)));
        match handed {
            Ok(upgraded) => {
                tracing::info!(
                    target: "smg::daemon",
                    pid = upgraded.new.pid, version = upgraded.new.version,
                    generation = upgraded.generation, "upgrade: the new process serves"
                );
                Ok(upgraded)
            }
            Err(error) => {
                let reason = error.to_string();
                tracing::error!(
                    target: "smg::daemon", error = reason, said,
                    "upgrade failed, this process serves on"
                );
                Err(UpgradeError::Failed { reason, said })
            }
        }
    }

    async fn hand(&self, said: &mut String) -> Result<Upgraded, Trouble> {
        let hold = self.control.hold().await.ok_or(Trouble::Stopping)?;
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(Trouble::Sockets)?;
        ours.set_nonblocking(true).map_err(Trouble::Sockets)?;
        let mut line = BufReader::new(UnixStream::from_std(ours).map_err(Trouble::Sockets)?);
        let mut sockets = self.listeners.duplicates().map_err(Trouble::Sockets)?;
        if let Some(socket) = self.control_socket {
            sockets.push(socket.duplicate().map_err(Trouble::Sockets)?);
        }
        let child = self.program.start(OwnedFd::from(theirs), sockets);
        let child = child.map_err(|source| Trouble::Start {
            program: self.program.path().display().to_string(),
            source,
        })?;
        let mut child = Fledgling {
            between: Some(child),
            itself: None,
        };
        let legacy = Legacy {
            fleet: hold.fleet.clone(),
            usable: self.usable(),
        };
        let (who, generation) = tokio::select! {
            biased;
            ready = ready(&mut line, &legacy, said) => match ready {
                Some(ready) => ready,
                None => return Err(child.ended().await),
            },
            trouble = child.ended() => {
                // What it said before may still be on its way.
                timeout(LAST_WORDS, ready(&mut line, &Legacy::default(), said)).await.ok();
                return Err(trouble);
            }
        };
        child.set_free(who.pid).await?;
        // Two processes that tell the service manager how they are confuse it.
        let silence = systemd::Silence::begin();
        line.get_mut().write_all(GO.as_bytes()).await.ok();
        match timeout(TAKING_OVER, next(&mut line)).await {
            Ok(Some(Said::TookOver)) => {}
            Ok(_) => return Err(Trouble::Gone),
            Err(_) => return Err(Trouble::Late(TAKING_OVER)),
        }
        silence.keep();
        child.leave();
        Ok(Upgraded {
            old: myself(),
            new: who,
            generation,
        })
    }

    /// The workers that requests may go to. The ranks of an engine are one.
    fn usable(&self) -> Vec<String> {
        let snapshot = self.live.load();
        let usable = snapshot
            .workers()
            .filter(|worker| snapshot.is_usable(*worker));
        let mut usable: Vec<String> = usable
            .map(|worker| worker.plan.key.base().as_str().to_owned())
            .collect();
        usable.sort_unstable();
        usable.dedup();
        usable
    }
}

/// Why there is no new process that serves.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    /// This one is about to end.
    #[error("the gateway is shutting down")]
    Stopping,
    /// The sockets cannot be duplicated.
    #[error("the sockets cannot be handed over: {0}")]
    Sockets(#[source] io::Error),
    /// The program cannot be started.
    #[error("`{program}` cannot be started: {source}")]
    Start {
        /// Its path.
        program: String,
        /// The system's reason.
        source: io::Error,
    },
    /// It has ended.
    #[error("the new process ended before it served: {0}")]
    Ended(ExitStatus),
    /// It has ended, and it was nobody's here to ask how.
    #[error("the new process ended before it had taken over")]
    Gone,
    /// Nobody knows what has become of it.
    #[error("the new process cannot be watched: {0}")]
    Unwatched(#[source] io::Error),
    /// It took too long, and was ended.
    #[error("the new process did not serve within {0:?} and was ended")]
    Late(Duration),
}

/// Tells the new process what it has to know, and waits until it accepts connections. `None` if it
/// says no more.
async fn ready(
    line: &mut BufReader<UnixStream>,
    legacy: &Legacy,
    text: &mut String,
) -> Option<(Identity, u64)> {
    // One that does not listen may still speak.
    line.get_mut().write_all(&line_of(legacy)).await.ok();
    loop {
        match next(line).await? {
            Said::Ready { who, generation } => return Some((who, generation)),
            Said::Failed { text: why } => *text = why,
            Said::TookOver => {}
        }
    }
}

/// The next thing that the new process says; `None` at the end, or if it makes no sense.
async fn next(line: &mut BufReader<UnixStream>) -> Option<Said> {
    let mut word = String::new();
    let read = line.read_line(&mut word).await.ok()?;
    (read > 0).then(|| serde_json::from_str(&word).ok())?
}

/// The new process, and the one between. Dropping this ends them, unless the new one has taken over.
struct Fledgling {
    between: Option<Child>,
    itself: Option<OwnedFd>,
}

impl Fledgling {
    /// Waits for its end, which comes too early.
    async fn ended(&mut self) -> Trouble {
        let Some(between) = &mut self.between else {
            return Trouble::Gone;
        };
        match between.wait().await {
            Ok(status) => Trouble::Ended(status),
            Err(error) => Trouble::Unwatched(error),
        }
    }

    /// Ends the process between, so that the new one, which is `pid`, is a child of the first
    /// process of the system.
    async fn set_free(&mut self, pid: u32) -> Result<(), Trouble> {
        let Some(between) = &mut self.between else {
            return Err(Trouble::Gone);
        };
        let number = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let number = number.ok_or(Trouble::Gone)?;
        let itself = pidfd_open(number, PidfdFlags::empty());
        let itself = itself.map_err(|error| Trouble::Unwatched(error.into()))?;
        // Only now it is sure whose number that was: see `between`.
        if let Some(status) = between.try_wait().map_err(Trouble::Unwatched)? {
            return Err(Trouble::Ended(status));
        }
        self.itself = Some(itself);
        between.kill().await.map_err(Trouble::Unwatched)?;
        self.between = None;
        Ok(())
    }

    /// It lives on, whatever becomes of this process.
    fn leave(mut self) {
        self.itself = None;
    }
}

impl Drop for Fledgling {
    fn drop(&mut self) {
        if let Some(itself) = self.itself.take() {
            // An error means that it has ended already.
            pidfd_send_signal(itself, Signal::KILL).ok();
        }
        if let Some(mut between) = self.between.take() {
            between.start_kill().ok();
            // So that nothing is left of it.
            task::spawn("successor", async move { between.wait().await.map(drop) });
        }
    }
}
