//! What this process was started with: the sockets of the service manager, or everything of the
//! process that it takes over from.
//!
//! Both come as descriptors from 3 on that `LISTEN_FDS` counts. Those of the service manager have
//! names in `LISTEN_FDNAMES`; a process that hands over describes its own in [`VARIABLE`], and the
//! first one is the line between the two processes.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use listenfd::ListenFd;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::between;
use crate::config::Environment;
use crate::live::Identity;
use crate::serve::{Handed, Purpose, Socket};

/// The variable that describes what a process hands over.
pub(super) const VARIABLE: &str = "SMG_INHERIT";

/// The name of sockets that have none.
const UNNAMED: &str = "unknown";

/// How long the process before may take for a word.
const PATIENCE: Duration = Duration::from_secs(10);

/// Longest word of the process before, which knows of every worker that was added.
const LONGEST: u64 = 64 << 20;

/// What is handed over, in the order of the descriptors behind the line.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Manifest {
    /// What each socket is for.
    pub(super) sockets: Vec<Purpose>,
}

/// What the process before tells first.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Legacy {
    /// What operators have changed beside the file.
    pub(super) fleet: String,
    /// The workers that requests may go to.
    pub(super) usable: Vec<String>,
}

/// What the new process says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Said {
    /// It accepts connections.
    Ready {
        /// Who it is.
        who: Identity,
        /// Number of its configuration.
        generation: u64,
    },
    /// It has told the service manager, and takes changes.
    TookOver,
    /// It cannot start.
    Failed {
        /// Why.
        text: String,
    },
}

/// The word upon which the new process is the one.
pub(super) const GO: &str = "go\n";

/// Everything that was inherited.
#[derive(Debug, Default)]
pub(super) struct Inherited {
    /// The sockets.
    pub(super) handed: Handed,
    /// The process that this one takes over from.
    pub(super) predecessor: Option<Predecessor>,
}

/// The line to the process that this one takes over from.
#[derive(Debug)]
pub(super) struct Predecessor {
    line: UnixStream,
}

/// Takes what was inherited. Once, and before there are threads: the variables that tell of it are
/// taken from the environment.
pub(super) fn take(environment: &Environment) -> Inherited {
    let mut fds = ListenFd::from_env();
    let described = environment.get(VARIABLE).filter(|_| fds.len() > 0);
    let manifest = described.and_then(|text| serde_json::from_str::<Manifest>(&text).ok());
    match manifest {
        Some(manifest) if manifest.sockets.len() + 1 == fds.len() => {
            of_predecessor(&mut fds, manifest)
        }
        // One that does not fit is left from another time.
        Some(_) | None => of_service_manager(&mut fds, environment),
    }
}

fn of_predecessor(fds: &mut ListenFd, manifest: Manifest) -> Inherited {
    let mut inherited = Inherited::default();
    if let Ok(Some(line)) = fds.take_unix_listener(0) {
        let line = UnixStream::from(OwnedFd::from(line));
        inherited.predecessor = Some(Predecessor { line });
    }
    for (index, purpose) in (1..).zip(manifest.sockets) {
        match (socket(fds, index), purpose) {
            (Ok(socket), purpose) => inherited.handed.add(purpose, socket),
            (Err(why), Purpose::Passed(name)) => inherited.handed.add_unfit(name, why),
            // It is bound anew, or that fails.
            (Err(_), Purpose::Listener { .. } | Purpose::Control { .. }) => {}
        }
    }
    inherited
}

fn of_service_manager(fds: &mut ListenFd, environment: &Environment) -> Inherited {
    let names = environment.get("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':').filter(|name| !name.is_empty());
    let mut inherited = Inherited::default();
    for index in 0..fds.len() {
        let name = names.next().unwrap_or(UNNAMED).to_owned();
        match socket(fds, index) {
            Ok(socket) => inherited.handed.add(Purpose::Passed(name), socket),
            Err(why) => inherited.handed.add_unfit(name, why),
        }
    }
    inherited
}

/// The socket at `index`, or why it is none that connections can be accepted on. Such a one is closed
/// where that can be.
fn socket(fds: &mut ListenFd, index: usize) -> Result<Socket, &'static str> {
    if let Ok(Some(socket)) = fds.take_tcp_listener(index) {
        return Ok(Socket::Tcp(socket));
    }
    if let Ok(Some(socket)) = fds.take_unix_listener(index) {
        return Ok(Socket::Unix(socket));
    }
    let udp = fds.take_udp_socket(index).map(drop);
    if udp.is_ok() || fds.take_unix_datagram(index).is_ok() {
        return Err("it is a datagram socket, and connections need a stream socket");
    }
    Err("it is no stream socket")
}

impl Predecessor {
    /// Another handle to the line.
    pub(super) fn again(&self) -> io::Result<Self> {
        Ok(Self {
            line: self.line.try_clone()?,
        })
    }

    /// What the process before tells; nothing of it if it does not.
    pub(super) fn legacy(&self) -> Legacy {
        self.line.set_read_timeout(Some(PATIENCE)).ok();
        let mut text = String::new();
        let line = BufReader::with_capacity(1 << 16, &self.line);
        match line.take(LONGEST).read_line(&mut text) {
            Ok(_) => serde_json::from_str(&text).unwrap_or_default(),
            Err(_) => Legacy::default(),
        }
    }

    /// Says that this process cannot start.
    pub(super) fn decline(self, text: &str) {
        let said = Said::Failed {
            text: text.to_owned(),
        };
        // Who has gone away does not need to know.
        self.line.set_nonblocking(false).ok();
        (&self.line).write_all(&line_of(&said)).ok();
        self.line.shutdown(Shutdown::Write).ok();
    }

    /// Says that this process accepts connections, and waits until it is the one. `None` if the
    /// process before has ended, or did not let go: then there must be no other one.
    ///
    /// To be run by the first thread: see [`between::stand_alone`].
    pub(super) async fn relieve(
        self,
        who: Identity,
        generation: u64,
    ) -> io::Result<Option<Relieved>> {
        self.line.set_nonblocking(true)?;
        between::stand_alone()?;
        let mut line = tokio::net::UnixStream::from_std(self.line)?;
        let ready = Said::Ready { who, generation };
        line.write_all(&line_of(&ready)).await.ok();
        let mut word = String::new();
        let mut reader = tokio::io::BufReader::new(&mut line);
        // At the end of the line there is no word.
        timeout(PATIENCE, reader.read_line(&mut word)).await.ok();
        Ok((word == GO).then_some(Relieved { line }))
    }
}

/// The line once the process before has let go.
pub(super) struct Relieved {
    line: tokio::net::UnixStream,
}

impl Relieved {
    /// Says that everything is taken over.
    pub(super) async fn took_over(mut self) {
        self.line.write_all(&line_of(&Said::TookOver)).await.ok();
    }
}

/// `word` as it goes over the line.
pub(super) fn line_of(word: &impl Serialize) -> Vec<u8> {
    let mut text = serde_json::to_vec(word).unwrap_or_default();
    text.push(b'\n');
    text
}
