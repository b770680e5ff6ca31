//! The program that runs, so that it can be started again after its file was replaced.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use command_fds::{CommandFdExt, FdMapping};
use tokio::process::Child;

use super::between;
use super::inherit::{Manifest, VARIABLE};
use crate::config::Environment;
use crate::serve::Purpose;

/// The first descriptor that is handed over.
const FIRST: i32 = 3;

/// What the system appends to the path of a file that is gone.
const DELETED: &str = " (deleted)";

/// Variables that are about this process alone.
const OWN: [&str; 5] = [
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    "LISTEN_FDS_FIRST_FD",
    "LISTEN_PIDFDID",
    "WATCHDOG_PID",
];

/// The program of this process.
#[derive(Debug, Clone)]
pub(super) struct Program {
    path: PathBuf,
    arguments: Vec<OsString>,
}

impl Program {
    /// Found at the start, when the file that runs is still the one at its path.
    pub(super) fn of_this_process(environment: &Environment) -> Self {
        let mut arguments = std::env::args_os();
        let name = PathBuf::from(arguments.next().unwrap_or_default());
        let search = environment.get("PATH").unwrap_or_default();
        let path = match std::env::current_exe() {
            // A link that leads to it is kept: another file may be behind it next time.
            Ok(runs) => named(&name, &search, &runs).unwrap_or_else(|| present(runs)),
            // Where the system does not say what runs.
            Err(_) => name,
        };
        Self {
            path,
            arguments: arguments.collect(),
        }
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Starts it with `line` to this process and with these sockets. What is returned is the process
    /// between this one and the new one; both end with the thread that calls this.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn start(
        &self,
        line: OwnedFd,
        sockets: Vec<(Purpose, OwnedFd)>,
    ) -> io::Result<Child> {
        let (purposes, fds): (Vec<_>, Vec<_>) = sockets.into_iter().unzip();
        let manifest = serde_json::to_string(&Manifest { sockets: purposes })?;
        let fds = std::iter::once(line).chain(fds);
        let mappings: Vec<FdMapping> = (FIRST..)
            .zip(fds)
            .map(|(child_fd, parent_fd)| FdMapping {
                parent_fd,
                child_fd,
            })
            .collect();
        let mut command = Command::new(&self.path);
        command.args(&self.arguments).stdin(Stdio::null());
        for name in OWN {
            command.env_remove(name);
        }
        command
            .env("LISTEN_FDS", mappings.len().to_string())
            .env(VARIABLE, manifest)
            .env(between::VARIABLE, between::first());
        command.fd_mappings(mappings).map_err(io::Error::other)?;
        tokio::process::Command::from(command).spawn()
    }
}

/// The path by which `runs` was started, if `name` leads there.
fn named(name: &Path, search: &str, runs: &Path) -> Option<PathBuf> {
    let is_it = |path: &PathBuf| path.canonicalize().is_ok_and(|file| file == runs);
    if name.components().count() > 1 {
        return std::path::absolute(name).ok().filter(is_it);
    }
    std::env::split_paths(search)
        .map(|folder| folder.join(name))
        .find(is_it)
}

fn present(path: PathBuf) -> PathBuf {
    match path.to_str().and_then(|path| path.strip_suffix(DELETED)) {
        Some(path) => path.into(),
        None => path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_to_the_program_is_followed_anew_each_time() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().canonicalize().unwrap();
        let (file, link) = (folder.join("smg-1"), folder.join("smg"));
        std::fs::write(&file, "").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert_eq!(named(&link, "", &file), Some(link.clone()));
        let search = format!("/nowhere:{}", folder.display());
        assert_eq!(named(Path::new("smg"), &search, &file), Some(link));
        assert_eq!(named(Path::new("other"), &search, &file), None);
    }

    #[test]
    fn a_file_that_was_replaced_is_where_it_was() {
        assert_eq!(present("/x/smg (deleted)".into()), Path::new("/x/smg"));
        assert_eq!(present("/x/smg".into()), Path::new("/x/smg"));
    }
}
