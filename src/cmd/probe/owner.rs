//! Who listens at an address of this machine, as far as `/proc` tells this user.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use crate::base::file;

/// The state of a socket that listens, as the kernel writes it.
const LISTENS: &str = "0A";

/// A process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) pid: i32,
    pub(super) name: String,
}

impl fmt::Display for Owner {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "`{}` (process {})", self.name, self.pid)
    }
}

/// The processes that hold a listening socket in the way of `address`. Empty where there is none, or
/// where they are another user's.
pub(super) fn of_address(address: SocketAddr) -> Vec<Owner> {
    let inodes: BTreeSet<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .into_iter()
        .filter_map(|table| file::read_to_string(Path::new(table)).ok())
        .flat_map(|table| {
            let rows = table.lines().skip(1).filter_map(|row| inode(row, address));
            rows.collect::<Vec<_>>()
        })
        .collect();
    if inodes.is_empty() {
        return Vec::new();
    }
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let owners = processes.filter_map(|entry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let files = fs::read_dir(entry.path().join("fd")).ok()?;
        let mut links = files
            .flatten()
            .filter_map(|fd| fs::read_link(fd.path()).ok());
        links.any(|link| holds(&link, &inodes)).then(|| of_pid(pid))
    });
    owners.collect()
}

/// The process of this number.
pub(super) fn of_pid(pid: i32) -> Owner {
    let name = file::read_to_string(Path::new(&format!("/proc/{pid}/comm")));
    Owner {
        pid,
        name: name.map_or_else(|_| "?".to_owned(), |name| name.trim_end().to_owned()),
    }
}

/// Whether it runs the program that runs here.
pub(super) fn is_our_kind(owner: &Owner) -> bool {
    let program = |pid: &str| -> Option<PathBuf> { fs::read_link(format!("/proc/{pid}/exe")).ok() };
    owner.name == "smg"
        || program(&owner.pid.to_string()).is_some_and(|theirs| Some(theirs) == program("self"))
}

/// Whether the process has ended.
pub(super) fn is_gone(owner: &Owner) -> bool {
    !Path::new(&format!("/proc/{}", owner.pid)).exists()
}

fn holds(link: &Path, inodes: &BTreeSet<String>) -> bool {
    link.to_str()
        .and_then(|link| link.strip_prefix("socket:[")?.strip_suffix(']'))
        .is_some_and(|inode| inodes.contains(inode))
}

/// The inode of the socket in this row, if it listens where nobody else could at `address`.
fn inode(row: &str, address: SocketAddr) -> Option<String> {
    let mut fields = row.split_whitespace();
    let (host, port) = fields.nth(1)?.split_once(':')?;
    let state = fields.nth(1)?;
    let inode = fields.nth(5)?;
    if state != LISTENS || u16::from_str_radix(port, 16).ok()? != address.port() {
        return None;
    }
    let theirs = ip(host)?.to_canonical();
    let ours = address.ip().to_canonical();
    let clash = theirs == ours || theirs.is_unspecified() || ours.is_unspecified();
    clash.then(|| inode.to_owned())
}

/// An address as these tables have it: words of 32 bits, each in the byte order of the machine.
fn ip(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| -> Option<[u8; 4]> {
        let word = u32::from_str_radix(hex.get(at..at + 8)?, 16).ok()?;
        Some(word.to_ne_bytes())
    };
    match hex.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let words = [word(0)?, word(8)?, word(16)?, word(24)?].concat();
            Some(Ipv6Addr::from(<[u8; 16]>::try_from(words).ok()?).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_listens_is_found() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let me = i32::try_from(std::process::id()).unwrap();
        let pids = |address| -> Vec<i32> {
            let owners = of_address(address);
            owners.iter().map(|owner| owner.pid).collect()
        };
        assert_eq!(pids(address), [me]);
        let any = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port());
        assert_eq!(pids(any), [me]);
        let other = SocketAddr::new(Ipv4Addr::new(127, 0, 0, 2).into(), address.port());
        assert!(pids(other).is_empty());
        drop(socket);
        assert!(pids(address).is_empty());
        assert!(is_our_kind(&of_pid(me)));
    }

    #[test]
    fn addresses_of_the_kernel() {
        assert_eq!(ip("0100007F").unwrap().to_string(), "127.0.0.1");
        let six = "00000000000000000000000001000000";
        assert_eq!(ip(six).unwrap().to_string(), "::1");
        assert_eq!(ip("01"), None);
    }
}
