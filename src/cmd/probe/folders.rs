//! Folders and files that the gateway writes to, and as whom that was tried.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::fs::{Access, access};

use super::{Found, counted};
use crate::base::file;
use crate::config::Severity;
use crate::config::spec::Spec;

/// The user that the package makes for the gateway.
const USER: &str = "smg";

/// Who probes.
pub(super) struct Identity {
    uid: Option<u32>,
    /// Whether a user is there for the gateway who is another one.
    foreign: bool,
}

impl Identity {
    pub(super) fn here() -> Self {
        let uid = std::fs::metadata("/proc/self").ok().map(|own| own.uid());
        let users = file::read_to_string(Path::new("/etc/passwd")).unwrap_or_default();
        let theirs = users.lines().find_map(|line| {
            let mut fields = line.split(':');
            (fields.next()? == USER).then(|| fields.nth(1)?.parse::<u32>().ok())?
        });
        Self {
            uid,
            foreign: theirs.is_some() && theirs != uid,
        }
    }

    /// How bad it is that this user may not do something: the gateway's own may.
    pub(super) const fn severity(&self) -> Severity {
        match self.foreign {
            true => Severity::Warning,
            false => Severity::Error,
        }
    }

    /// Whether files can be made in `folder`.
    #[expect(clippy::unused_self, reason = "it is this user who may")]
    pub(super) fn may_write(&self, folder: &Path) -> bool {
        access(folder, Access::WRITE_OK | Access::EXEC_OK).is_ok()
    }
}

/// Looks at every folder and file that is written to, and says how many there are. `None` where there
/// are none.
pub(super) fn probe(spec: &Spec, identity: &Identity, found: &mut Found<'_>) -> Option<String> {
    let state = spec.server.state_dir.as_deref();
    let log = spec.logging.dir.as_deref();
    let audit = spec.audit.path.as_deref().filter(|_| spec.audit.enabled);
    let folders = [
        (state, "server.state_dir", "state"),
        (log, "logging.dir", "log"),
        (audit, "audit.path", "audit log"),
    ];
    let mut count = 0;
    for (path, key, what) in folders {
        let Some(path) = path else { continue };
        count += 1;
        if may_be_written(path, identity) {
            continue;
        }
        let message = format!("the {what} cannot be written: `{}`", path.display());
        let severity = match what {
            // It starts without, and refuses what it would have to keep.
            "state" => Severity::Warning,
            _ => identity.severity(),
        };
        let uid = identity.uid.unwrap_or_default();
        let help = format!("it was tried as user {uid}; the gateway's user needs to write there");
        found.add(severity, "not-writable", key, message, Some(help));
    }
    if count > 0 && identity.foreign {
        let uid = identity.uid.unwrap_or_default();
        let message = format!(
            "files, folders and sockets were tried as user {uid}, not as `{USER}`, as whom the \
             gateway runs"
        );
        let help = format!("`sudo -u {USER} smg check-config --probe` would try them as that user");
        let note = crate::config::Diagnostic::note("probed-as", message).help(help);
        found.list.push(note);
    }
    (count > 0).then(|| format!("{} to write to", counted(count, "path")))
}

/// Whether what is there can be written, or else be made.
fn may_be_written(path: &Path, identity: &Identity) -> bool {
    if path.is_dir() {
        return identity.may_write(path);
    }
    if path.exists() {
        return access(path, Access::WRITE_OK).is_ok();
    }
    let above = path.ancestors().skip(1).find(|folder| folder.exists());
    let above = above.unwrap_or_else(|| Path::new("."));
    above.is_dir() && identity.may_write(above)
}
