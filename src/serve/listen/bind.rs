//! Sockets of both kinds.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixStream, lookup_host};

use crate::plan::Address;
use crate::serve::gate::Peer;

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 4096;

/// A bound socket.
pub(super) enum Bound {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// The file of a unix socket; removed with it, unless another socket has taken its place or another
/// process serves it.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    inode: u64,
    ours: Arc<AtomicBool>,
}

impl SocketFile {
    /// The file of a socket that another process has bound, once `ours` says so. `None` if there is
    /// another one at `path`.
    pub(super) fn handed(path: &Path, inode: u64, ours: Arc<AtomicBool>) -> Option<Self> {
        let there = fs::symlink_metadata(path).ok()?;
        (there.ino() == inode).then(|| Self {
            path: path.to_owned(),
            inode,
            ours,
        })
    }

    /// The number of the file.
    pub(super) fn inode(&self) -> u64 {
        self.inode
    }

    /// Another process serves it from now on.
    pub(super) fn leave(&self) {
        self.ours.store(false, Ordering::Relaxed);
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let is_it = || fs::symlink_metadata(&self.path).is_ok_and(|file| file.ino() == self.inode);
        if self.ours.load(Ordering::Relaxed) && is_it() {
            let _gone = fs::remove_file(&self.path);
        }
    }
}

/// Binds `address`, also where one of our sockets of `leaving`, which will be closed soon, is in the
/// way: `0.0.0.0:80` takes over from `127.0.0.1:80`. A unix socket comes with the guard of its file.
///
/// # Errors
/// What the system says.
pub(super) async fn bind(
    address: &Address,
    leaving: &[Arc<Bound>],
) -> io::Result<(Bound, Option<SocketFile>)> {
    match address {
        Address::Unix { path, mode } => {
            let (socket, file) = unix(path, *mode)?;
            Ok((Bound::Unix(socket), Some(file)))
        }
        Address::Tcp { host, port } => {
            let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
            for address in lookup_host((&**host, *port)).await? {
                match listen(address).or_else(|error| take_over(address, leaving, error)) {
                    Ok(listener) => return Ok((Bound::Tcp(listener), None)),
                    Err(error) => last = error,
                }
            }
            Err(last)
        }
        // Nobody but the service manager makes these.
        Address::Systemd { .. } => Err(io::ErrorKind::Unsupported.into()),
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = unbound(address)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Listens beside those of our sockets that have the port and are about to go. Sharing is allowed
/// for this moment only: a port that anybody of our user may share is no port to rely on.
fn take_over(
    address: SocketAddr,
    leaving: &[Arc<Bound>],
    refused: io::Error,
) -> io::Result<TcpListener> {
    let rivals: Vec<SockRef<'_>> = leaving
        .iter()
        .filter_map(|bound| bound.on_port(address.port()))
        .collect();
    if refused.kind() != io::ErrorKind::AddrInUse || rivals.is_empty() {
        return Err(refused);
    }
    let share = |shared| {
        rivals
            .iter()
            .try_for_each(|rival| rival.set_reuse_port(shared))
    };
    let taken = share(true).and_then(|()| {
        let socket = unbound(address)?;
        socket.set_reuseport(true)?;
        socket.bind(address)?;
        let listener = socket.listen(BACKLOG)?;
        SockRef::from(&listener).set_reuse_port(false)?;
        Ok(listener)
    });
    share(false)?;
    taken
}

fn unbound(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    }?;
    socket.set_reuseaddr(true)?;
    Ok(socket)
}

/// Makes a unix socket at `path` with permission bits `mode`. It is made under another name and
/// moved into place, so that it is never there with wider permissions; a stale file is replaced,
/// one that somebody still serves is not.
pub(super) fn unix(path: &Path, mode: u32) -> io::Result<(UnixListener, SocketFile)> {
    if let Ok(there) = fs::symlink_metadata(path) {
        if !there.file_type().is_socket() {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "the path is no socket",
            ));
        }
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(io::Error::new(
                io::ErrorKind::AddrInUse,
                "somebody serves this socket",
            ));
        }
    }
    let mut hidden = path.as_os_str().to_owned();
    hidden.push(format!(".{}", std::process::id()));
    let hidden = PathBuf::from(hidden);
    let _stale = fs::remove_file(&hidden);
    let socket = UnixListener::bind(&hidden)?;
    fs::set_permissions(&hidden, fs::Permissions::from_mode(mode))?;
    let inode = fs::symlink_metadata(&hidden)?.ino();
    fs::rename(&hidden, path)?;
    Ok((
        socket,
        SocketFile {
            path: path.to_owned(),
            inode,
            ours: Arc::new(AtomicBool::new(true)),
        },
    ))
}

/// Gives the socket at `path` other permission bits.
pub(super) fn set_mode(path: &Path, mode: u32) {
    if let Err(error) = fs::set_permissions(path, fs::Permissions::from_mode(mode)) {
        tracing::warn!(path = %path.display(), %error, "cannot change the mode of a socket");
    }
}

/// An address as people write it.
pub(super) fn shown(address: &Address) -> String {
    match address {
        Address::Tcp { host, port } if host.contains(':') => format!("[{host}]:{port}"),
        Address::Tcp { host, port } => format!("{host}:{port}"),
        Address::Unix { path, .. } => format!("unix:{}", path.display()),
        Address::Systemd { name } => format!("systemd:{name}"),
    }
}

impl Bound {
    /// The socket, if it is one of TCP on this port.
    fn on_port(&self, port: u16) -> Option<SockRef<'_>> {
        match self {
            Self::Tcp(socket) if socket.local_addr().is_ok_and(|at| at.port() == port) => {
                Some(SockRef::from(socket))
            }
            Self::Tcp(_) | Self::Unix(_) => None,
        }
    }

    /// A duplicate for another process.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn fd(&self) -> io::Result<OwnedFd> {
        match self {
            Self::Tcp(socket) => socket.as_fd(),
            Self::Unix(socket) => socket.as_fd(),
        }
        .try_clone_to_owned()
    }

    /// The address that it really has; `None` for a unix socket, which has the one it was given.
    pub(super) fn local(&self) -> Option<String> {
        match self {
            Self::Tcp(socket) => socket.local_addr().ok().map(|address| address.to_string()),
            Self::Unix(_) => None,
        }
    }

    /// A connection that waits to be accepted, if there is one. The system is asked, not what the
    /// runtime last heard of it.
    pub(super) fn accept_waiting(&self) -> Option<(Stream, Peer)> {
        match self {
            Self::Tcp(socket) => {
                let (stream, _) = SockRef::from(socket).accept().ok()?;
                let stream = std::net::TcpStream::from(stream);
                stream.set_nonblocking(true).ok()?;
                stream.set_nodelay(true).ok()?;
                let peer = stream.peer_addr().ok()?;
                let stream = TcpStream::from_std(stream).ok()?;
                Some((Stream::Tcp(stream), Peer::Tcp(peer.ip())))
            }
            Self::Unix(socket) => {
                let (stream, _) = SockRef::from(socket).accept().ok()?;
                let stream = std::os::unix::net::UnixStream::from(stream);
                stream.set_nonblocking(true).ok()?;
                Some((Stream::Unix(UnixStream::from_std(stream).ok()?), Peer::Unix))
            }
        }
    }

    /// The next connection and who made it.
    ///
    /// # Errors
    /// What the system says; most errors concern one connection only.
    pub(super) async fn accept(&self) -> io::Result<(Stream, Peer)> {
        match self {
            Self::Tcp(socket) => {
                let (stream, peer) = socket.accept().await?;
                // Fails where the client has gone already, which is no trouble of the socket's.
                stream.set_nodelay(true).ok();
                Ok((Stream::Tcp(stream), Peer::Tcp(peer.ip())))
            }
            Self::Unix(socket) => {
                let (stream, _) = socket.accept().await?;
                Ok((Stream::Unix(stream), Peer::Unix))
            }
        }
    }
}

/// A client's connection of either kind.
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_served_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.sock");
        let (first, file) = unix(&path, 0o600).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let taken = unix(&path, 0o600).err().unwrap();
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
        drop(first);
        std::mem::forget(file);
        let (_second, file) = unix(&path, 0o660).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o660
        );
        drop(file);
        assert!(!path.exists());
    }

    #[test]
    fn a_file_that_is_no_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notes.txt");
        fs::write(&path, "keep").unwrap();
        assert!(unix(&path, 0o600).is_err());
        assert_eq!(fs::metadata(&path).unwrap().len(), 4);
    }
}
