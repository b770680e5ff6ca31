//! Sockets that somebody else has bound: the service manager, or the process that this one takes over
//! from.

use std::io;
use std::net::{IpAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use socket2::SockRef;

use super::bind::{self, Bound, SocketFile};
use super::{Fresh, SocketKey};
use crate::live::BindError;

/// What a socket is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// The service manager has passed it under this name.
    Passed(String),
    /// A listener of the process before has bound it.
    Listener {
        /// The address as written.
        address: String,
        /// Name of the listener, where the address alone does not tell it.
        name: Option<String>,
        /// Number of its file, where it has one.
        inode: Option<u64>,
    },
    /// The control socket of the process before.
    Control {
        /// Its path.
        path: PathBuf,
        /// Number of its file.
        inode: u64,
    },
}

impl Purpose {
    /// The address as people write it.
    fn address(&self) -> String {
        match self {
            Self::Passed(name) => format!("systemd:{name}"),
            Self::Listener { address, .. } => address.clone(),
            Self::Control { path, .. } => format!("unix:{}", path.display()),
        }
    }
}

/// A listening socket.
#[derive(Debug)]
pub enum Socket {
    /// Of TCP.
    Tcp(TcpListener),
    /// In the file system.
    Unix(UnixListener),
}

impl Socket {
    /// Whether connections can be accepted on it.
    pub fn listens(&self) -> bool {
        let socket = match self {
            Self::Tcp(socket) => SockRef::from(socket),
            Self::Unix(socket) => SockRef::from(socket),
        };
        socket.is_listener().unwrap_or(false)
    }

    fn fd(&self) -> io::Result<OwnedFd> {
        match self {
            Self::Tcp(socket) => socket.as_fd(),
            Self::Unix(socket) => socket.as_fd(),
        }
        .try_clone_to_owned()
    }

    /// The same socket for the runtime.
    fn bound(&self) -> io::Result<Bound> {
        match self {
            Self::Tcp(socket) => {
                let socket = socket.try_clone()?;
                socket.set_nonblocking(true)?;
                tokio::net::TcpListener::from_std(socket).map(Bound::Tcp)
            }
            Self::Unix(socket) => {
                let socket = socket.try_clone()?;
                socket.set_nonblocking(true)?;
                tokio::net::UnixListener::from_std(socket).map(Bound::Unix)
            }
        }
    }

    fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Tcp(socket) => socket.local_addr().ok().map(|address| address.ip()),
            Self::Unix(_) => None,
        }
    }
}

/// A socket of the service manager that nobody can listen on.
#[derive(Debug)]
struct Unfit {
    name: String,
    why: String,
}

/// The sockets that this process was given. Those of the service manager stay here for good, so that
/// a listener that goes and comes back finds its socket, with the connections that wait there.
#[derive(Debug, Default)]
pub struct Handed {
    passed: Vec<(String, Socket)>,
    unfit: Vec<Unfit>,
    before: Mutex<Vec<(Purpose, Socket)>>,
    /// Whether the process before has let go: its files are ours then.
    taken_over: Arc<AtomicBool>,
}

impl Handed {
    /// Adds a socket.
    pub fn add(&mut self, purpose: Purpose, socket: Socket) {
        match purpose {
            Purpose::Passed(name) if !socket.listens() => {
                self.add_unfit(name, "nobody can connect to it, it does not listen");
            }
            Purpose::Passed(name) => self.passed.push((name, socket)),
            Purpose::Listener { .. } | Purpose::Control { .. } => {
                self.before.get_mut().push((purpose, socket));
            }
        }
    }

    /// Notes that what was passed under `name` is of no use, and why.
    pub fn add_unfit(&mut self, name: String, why: impl Into<String>) {
        let why = why.into();
        self.unfit.push(Unfit { name, why });
    }

    /// The names of what the service manager has passed, each once.
    pub fn names(&self) -> Vec<&str> {
        let fit = self.passed.iter().map(|(name, _)| &**name);
        let mut names: Vec<&str> = fit.chain(self.unfit.iter().map(|u| &*u.name)).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Addresses of what was passed under `name`; `None` stands for a unix socket.
    pub(super) fn addresses(&self, name: &str) -> Vec<Option<IpAddr>> {
        let named = self.passed.iter().filter(|(known, _)| known == name);
        named.map(|(_, socket)| socket.ip()).collect()
    }

    /// The sockets that the service manager has passed under `socket`, for the listener `name`.
    ///
    /// # Errors
    /// [`BindError::Passed`].
    pub(super) fn passed(&self, name: &str, socket: &str) -> Result<Vec<Bound>, BindError> {
        let refused = |problem: String, help: String| BindError::Passed {
            name: name.to_owned(),
            socket: socket.to_owned(),
            problem,
            help,
        };
        if let Some(unfit) = self.unfit.iter().find(|unfit| unfit.name == socket) {
            let help = "the socket unit needs `ListenStream=`".to_owned();
            return Err(refused(unfit.why.clone(), help));
        }
        let named = self.passed.iter().filter(|(known, _)| known == socket);
        let bound: io::Result<Vec<Bound>> = named.map(|(_, socket)| socket.bound()).collect();
        match bound {
            Ok(bound) if bound.is_empty() => {
                Err(refused("it was not passed".to_owned(), self.help(socket)))
            }
            Ok(bound) => Ok(bound),
            Err(error) => Err(refused(error.to_string(), String::new())),
        }
    }

    fn help(&self, wanted: &str) -> String {
        let names: Vec<String> = self
            .names()
            .iter()
            .map(|name| format!("`{name}`"))
            .collect();
        match names.is_empty() {
            true => format!(
                "no socket was passed: start the gateway by its socket unit (`systemctl start \
                 smg.socket`), with `FileDescriptorName={wanted}`"
            ),
            false => format!(
                "passed were {}; `FileDescriptorName={wanted}` in the socket unit gives this name, \
                 and the gateway is started by that unit",
                names.join(", ")
            ),
        }
    }

    /// What the process before has bound for this key.
    pub(super) fn take(&self, key: &SocketKey) -> Option<Fresh> {
        let wanted = bind::shown(&key.address);
        let (purpose, socket) = self.take_where(|purpose| match purpose {
            Purpose::Listener { address, name, .. } => {
                *address == wanted && name.as_deref() == key.name.as_deref()
            }
            Purpose::Passed(_) | Purpose::Control { .. } => false,
        })?;
        let file = match (&key.address, purpose) {
            (crate::plan::Address::Unix { path, .. }, Purpose::Listener { inode, .. }) => {
                // A file that somebody else has put there is not ours to take.
                Some(self.file(path, inode?)?)
            }
            _ => None,
        };
        Some((vec![socket.bound().ok()?], file))
    }

    /// The control socket of the process before, if it is at `path`.
    pub(super) fn take_control(
        &self,
        path: &Path,
    ) -> Option<(tokio::net::UnixListener, SocketFile)> {
        let (purpose, socket) = self.take_where(
            |purpose| matches!(purpose, Purpose::Control { path: known, .. } if known == path),
        )?;
        let Purpose::Control { inode, .. } = purpose else {
            return None;
        };
        match socket.bound().ok()? {
            Bound::Unix(socket) => Some((socket, self.file(path, inode)?)),
            Bound::Tcp(_) => None,
        }
    }

    /// The process before has let go: its files are ours, and what nobody wants is closed.
    pub(super) fn settle(&self) {
        self.taken_over.store(true, Ordering::Relaxed);
        for (purpose, socket) in self.before.lock().drain(..) {
            let _file = match &purpose {
                Purpose::Listener { address, inode, .. } => address
                    .strip_prefix("unix:")
                    .zip(*inode)
                    .and_then(|(path, inode)| self.file(Path::new(path), inode)),
                Purpose::Control { path, inode } => self.file(path, *inode),
                Purpose::Passed(_) => None,
            };
            tracing::info!(
                address = purpose.address(),
                "socket of the process before closed, no listener wants it"
            );
            drop(socket);
        }
    }

    /// Duplicates of what the service manager has passed.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn passed_on(&self) -> io::Result<Vec<(Purpose, OwnedFd)>> {
        let passed = self.passed.iter();
        passed
            .map(|(name, socket)| Ok((Purpose::Passed(name.clone()), socket.fd()?)))
            .collect()
    }

    fn take_where(&self, is_wanted: impl Fn(&Purpose) -> bool) -> Option<(Purpose, Socket)> {
        let mut before = self.before.lock();
        let at = before.iter().position(|(purpose, _)| is_wanted(purpose))?;
        Some(before.swap_remove(at))
    }

    /// The file at `path`, if it is the one with this number.
    fn file(&self, path: &Path, inode: u64) -> Option<SocketFile> {
        SocketFile::handed(path, inode, Arc::clone(&self.taken_over))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Address;

    fn tcp() -> Socket {
        Socket::Tcp(TcpListener::bind("127.0.0.1:0").unwrap())
    }

    #[tokio::test]
    async fn a_name_has_all_its_sockets_again_and_again() {
        let mut handed = Handed::default();
        handed.add(Purpose::Passed("main".to_owned()), tcp());
        handed.add(Purpose::Passed("other".to_owned()), tcp());
        handed.add(Purpose::Passed("main".to_owned()), tcp());
        for _ in 0..2 {
            assert_eq!(handed.passed("l", "main").unwrap().len(), 2);
        }
        assert_eq!(handed.names(), ["main", "other"]);
        assert_eq!(handed.passed_on().unwrap().len(), 3);
        let error = handed.passed("l", "mian").err().unwrap();
        assert!(error.help().contains("`main`, `other`"), "{error:?}");
    }

    #[test]
    fn a_socket_that_does_not_listen_is_none() {
        let mut handed = Handed::default();
        let (one, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let socket = Socket::Unix(UnixListener::from(OwnedFd::from(one)));
        handed.add(Purpose::Passed("main".to_owned()), socket);
        let error = handed.passed("l", "main").err().unwrap();
        assert!(error.to_string().contains("does not listen"), "{error}");
    }

    #[tokio::test]
    async fn files_are_left_alone_until_the_process_before_has_let_go() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.sock");
        let key = SocketKey {
            address: Address::Unix {
                path: path.clone(),
                mode: 0,
            },
            name: None,
        };
        let (socket, file) = bind::unix(&path, 0o600).unwrap();
        let inode = file.inode();
        let handed = |socket: &tokio::net::UnixListener| {
            let mut handed = Handed::default();
            let purpose = Purpose::Listener {
                address: format!("unix:{}", path.display()),
                name: None,
                inode: Some(inode),
            };
            let socket = UnixListener::from(socket.as_fd().try_clone_to_owned().unwrap());
            handed.add(purpose, Socket::Unix(socket));
            handed
        };
        let failing = handed(&socket);
        assert!(failing.take(&key).is_some());
        assert!(path.exists());
        let taking = handed(&socket);
        let taken = taking.take(&key).unwrap();
        taking.settle();
        file.leave();
        drop(file);
        assert!(path.exists());
        drop(taken);
        assert!(!path.exists());
    }
}
