//! The control socket: the admin routes for root and for our own user, whatever else is configured.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::net::UnixListener;
use tokio::sync::watch;

use super::House;
use super::bind::{self, SocketFile};
use super::connection::{self, Speaks};
use super::handed::Purpose;
use crate::base::task::{self, AbortOnDrop};
use crate::live::Phase;
use crate::plan::{Address, Groups, Limits, Listener};
use crate::serve::gate::{Gate, Peer};

/// The open socket. Dropping it removes its file and ends the accepting.
pub struct ControlSocket {
    socket: Arc<UnixListener>,
    path: PathBuf,
    file: SocketFile,
    _accepting: AbortOnDrop,
}

/// The place of one connection in the count of all. Those who asked are answered before the process
/// ends.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(all: &Arc<AtomicUsize>) -> Self {
        all.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(all))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl ControlSocket {
    /// Opens it, or takes it from the process before.
    ///
    /// # Errors
    /// What the system says when the socket cannot be made.
    pub(super) fn open(path: &Path, house: House) -> io::Result<Self> {
        let (socket, file) = match house.handed.take_control(path) {
            Some(taken) => taken,
            None => bind::unix(path, 0o600)?,
        };
        let socket = Arc::new(socket);
        let accepted = Arc::clone(&socket);
        let own = std::fs::metadata("/proc/self")?.uid();
        let listener = Arc::new(listener(path));
        let address = bind::shown(&listener.address);
        tracing::info!(listener = %listener.name, %address, "listening");
        let accepting = AbortOnDrop::spawn("control socket", async move {
            let (_open, closing) = watch::channel(());
            let mut phases = house.live.phases();
            loop {
                let next = tokio::select! {
                    next = accepted.accept() => next,
                    // Kept connections end then; an error means that the process is past caring.
                    _ = phases.wait_for(|phase| *phase >= Phase::Closing) => break,
                };
                let Ok((stream, _)) = next else {
                    tokio::time::sleep(super::BREATHER).await;
                    continue;
                };
                let uid = stream.peer_cred().map(|peer| peer.uid());
                let Some(uid) = uid.ok().filter(|uid| *uid == 0 || *uid == own) else {
                    tracing::warn!("a stranger's connection to the control socket was closed");
                    continue;
                };
                let gate = Gate {
                    live: Arc::clone(&house.live),
                    admin: Arc::clone(&house.admin),
                    listener: Arc::clone(&listener),
                    peer: Peer::Control(uid),
                    certificate: None,
                    standing: Arc::default(),
                };
                let counted = Counted::new(&house.connections);
                let serving = connection::serve(stream, Speaks::Either, gate, closing.clone());
                task::spawn("control connection", async move {
                    serving.await;
                    drop(counted);
                });
            }
        });
        Ok(Self {
            socket,
            path: path.to_owned(),
            file,
            _accepting: accepting,
        })
    }

    /// A duplicate for the process that takes over.
    ///
    /// # Errors
    /// What the system says.
    pub fn duplicate(&self) -> io::Result<(Purpose, OwnedFd)> {
        let purpose = Purpose::Control {
            path: self.path.clone(),
            inode: self.file.inode(),
        };
        Ok((purpose, self.socket.as_fd().try_clone_to_owned()?))
    }

    /// Closes it; the file stays, for another process serves it.
    pub fn leave(self) {
        self.file.leave();
    }
}

fn listener(path: &Path) -> Listener {
    Listener {
        name: "control".into(),
        address: Address::Unix {
            path: path.to_owned(),
            mode: 0o600,
        },
        serve: Groups {
            admin: true,
            ..Groups::default()
        },
        trusted_proxies: Vec::new(),
        tls: None,
        guards_engine_metrics: None,
        expose_worker_id: false,
        expose_decision: false,
        cors: None,
        limits: Limits {
            max_connections: 64,
            max_connections_per_ip: 0,
            max_header_bytes: 32 * 1024,
            max_headers: 100,
            max_uri_bytes: 8 * 1024,
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            min_body_rate: 0,
            idle_timeout: Duration::from_secs(75),
            write_timeout: Duration::from_secs(60),
            tls_handshake_timeout: Duration::from_secs(10),
            h2_max_streams: 16,
        },
    }
}
