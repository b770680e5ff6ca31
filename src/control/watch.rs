//! Notices that the configuration may have changed: by file system events, and by a slow look at
//! the files for file systems that have none.
//!
//! Folders are watched, not files: a file that is replaced by renaming, a symlink that is swapped
//! and a file that is written piece by piece all show up there. Whether anything has changed is
//! judged by the publisher, by content; a look too many costs one reading.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::{Notify, watch};
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::desk::Desk;
use crate::config::Loaded;
use crate::live::Trigger;

/// Events that come within this long are one.
const DEBOUNCE: Duration = Duration::from_millis(250);

/// How often files are looked at in case no event tells of them.
const LOOK: Duration = Duration::from_secs(3);

/// Symlinks followed in one path, as the system has it.
const MAX_LINKS: usize = 40;

/// What to watch for changes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Watched {
    /// Files that are read.
    pub(super) files: BTreeSet<PathBuf>,
    /// Folders in which a new file can change what is read.
    pub(super) directories: BTreeSet<PathBuf>,
}

impl Watched {
    /// What `loaded` was read from.
    pub(super) fn of(loaded: &Loaded) -> Self {
        Self {
            files: loaded.files.iter().cloned().collect(),
            directories: loaded.directories.iter().cloned().collect(),
        }
    }
}

/// Watches until the publisher is gone.
pub(super) async fn run(mut watched: watch::Receiver<Watched>, desk: Arc<Desk>) {
    let bell = Arc::new(Notify::new());
    let mut eye = Eye::new(Arc::clone(&bell));
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let files = watched.borrow_and_update().clone();
        let Ok((back, changed)) = spawn_blocking(move || eye.look(&files)).await else {
            return;
        };
        eye = back;
        if changed {
            desk.post(Trigger::File);
        }
        tokio::select! {
            () = bell.notified() => {
                sleep(DEBOUNCE).await;
                // What has rung meanwhile is covered by the reading that comes now.
                desk.post(Trigger::File);
            }
            changed = watched.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            _ = look.tick() => {}
        }
    }
}

/// What is being watched, and how it looked last.
struct Eye {
    /// `None` where the system gives no events; the slow look remains.
    watcher: Option<RecommendedWatcher>,
    folders: BTreeSet<PathBuf>,
    stamps: BTreeMap<PathBuf, Option<Stamp>>,
}

/// What tells one state of a file from another without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Eye {
    fn new(bell: Arc<Notify>) -> Self {
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            if event.map_or(true, |event| is_change(event.kind)) {
                bell.notify_one();
            }
        });
        let watcher = match watcher {
            Ok(watcher) => Some(watcher),
            Err(error) => {
                tracing::warn!(
                    target: "smg::config", %error,
                    "no file system events; files are looked at every few seconds"
                );
                None
            }
        };
        Self {
            watcher,
            folders: BTreeSet::new(),
            stamps: BTreeMap::new(),
        }
    }

    /// Watches the folders that matter for `watched` now. `true` if a file looks different, or a
    /// folder is new, in which something may have changed between the reading and the watch.
    fn look(mut self, watched: &Watched) -> (Self, bool) {
        let folders: BTreeSet<PathBuf> = watched
            .files
            .iter()
            .flat_map(|file| folders_of(file))
            .chain(watched.directories.iter().flat_map(|folder| {
                let mut folders = folders_of(folder);
                folders.insert(folder.clone());
                folders
            }))
            .collect();
        let looked_at = watched
            .files
            .iter()
            .chain(&watched.directories)
            .chain(&folders);
        let stamps: BTreeMap<PathBuf, Option<Stamp>> = looked_at
            .map(|path| (path.clone(), Stamp::of(path)))
            .collect();
        let differs = stamps
            .iter()
            .any(|(path, stamp)| self.stamps.get(path).is_some_and(|before| before != stamp));
        let replaced: BTreeSet<PathBuf> = self
            .folders
            .iter()
            .filter(|folder| inode(self.stamps.get(*folder)) != inode(stamps.get(*folder)))
            .cloned()
            .collect();
        let added = self.rearm(&folders, &replaced);
        self.stamps = stamps;
        (self, differs || added)
    }

    /// `true` if something is watched that was not.
    fn rearm(&mut self, folders: &BTreeSet<PathBuf>, replaced: &BTreeSet<PathBuf>) -> bool {
        let Some(watcher) = &mut self.watcher else {
            return false;
        };
        for folder in self
            .folders
            .iter()
            .filter(|f| !folders.contains(*f) || replaced.contains(*f))
        {
            // It may be gone, and its watch with it.
            watcher.unwatch(folder).ok();
        }
        self.folders
            .retain(|folder| folders.contains(folder) && !replaced.contains(folder));
        let mut added = false;
        for folder in folders {
            // A folder that is not there yet is tried again at the next look.
            if !self.folders.contains(folder)
                && watcher.watch(folder, RecursiveMode::NonRecursive).is_ok()
            {
                self.folders.insert(folder.clone());
                added = true;
            }
        }
        added
    }
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let metadata = std::fs::metadata(path).ok()?;
        Some(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

fn inode(stamp: Option<&Option<Stamp>>) -> Option<(u64, u64)> {
    stamp
        .and_then(Option::as_ref)
        .map(|stamp| (stamp.device, stamp.inode))
}

/// Reading a file opens and closes it, which is an event too.
fn is_change(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(access) => access == AccessKind::Close(AccessMode::Write),
        EventKind::Any
        | EventKind::Create(_)
        | EventKind::Modify(_)
        | EventKind::Remove(_)
        | EventKind::Other => true,
    }
}

/// The folders in which something must change before `path` leads to another file: its own, and
/// that of each symlink on the way.
fn folders_of(path: &Path) -> BTreeSet<PathBuf> {
    let mut folders = BTreeSet::new();
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut ahead: VecDeque<PathBuf> = parts(&path).collect();
    let mut at = PathBuf::new();
    let mut links = 0;
    while let Some(part) = ahead.pop_front() {
        let parent = at.clone();
        if part.as_os_str() == ".." {
            at.pop();
            continue;
        }
        at.push(part);
        let Ok(target) = std::fs::read_link(&at) else {
            continue;
        };
        links += 1;
        if links > MAX_LINKS {
            break;
        }
        folders.insert(parent.clone());
        for part in parts(&target).collect::<Vec<_>>().into_iter().rev() {
            ahead.push_front(part);
        }
        at = parent;
    }
    folders.extend(at.parent().map(Path::to_owned));
    folders
}

fn parts(path: &Path) -> impl Iterator<Item = PathBuf> + '_ {
    path.components()
        .filter(|part| !matches!(part, Component::CurDir))
        .map(|part| PathBuf::from(part.as_os_str()))
}
