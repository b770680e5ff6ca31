//! The file in which the fleet outlives the process.
//!
//! It is replaced as a whole: written beside, made durable, renamed. What was accepted is therefore
//! either in it or was never answered. One process writes it at a time; it holds a lock of the folder.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::kept::Kept;
use super::reconcile::hex;
use crate::base::{clock, file};

/// Name of the file.
const NAME: &str = "workers.json";

/// Name under which it is written first.
const FRESH: &str = "workers.json.new";

/// What this gateway writes, and the highest that it reads.
const VERSION: u64 = 1;

/// What stands between the checksum and what it covers.
const BODY: &str = "\"kept\":";

/// More than any fleet takes.
const MOST: u64 = 256 << 20;

/// How long a disk may take. Everything else that changes waits for it.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where the fleet is kept.
#[derive(Debug)]
pub(super) struct Store {
    folder: PathBuf,
    /// Held by whoever writes; with the lock of the folder, once this process has it.
    pen: Arc<Mutex<Option<File>>>,
    /// Number of the text that is to be written. One that is no longer wanted is not put in place.
    wanted: Arc<AtomicU64>,
    patience: Duration,
}

/// Why what was kept cannot be used.
#[derive(Debug, thiserror::Error)]
enum LoadError {
    /// It cannot be read.
    #[error(transparent)]
    Read(#[from] file::FileError),
    /// It is something else, or far larger than what is kept.
    #[error("it is no file of this kind")]
    Strange,
    /// It is no JSON of the kind that is expected.
    #[error("it is malformed: {0}")]
    Malformed(#[from] serde_json::Error),
    /// It lacks what every such file has.
    #[error("it has no `{0}`")]
    Lacks(&'static str),
    /// A gateway wrote it that knows more than this one.
    #[error("its version is {0}, and this gateway reads up to {VERSION}")]
    Newer(u64),
    /// Something changed it.
    #[error("its checksum does not fit")]
    Checksum,
}

impl Store {
    pub(super) fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            pen: Arc::default(),
            wanted: Arc::default(),
            patience: PATIENCE,
        }
    }

    /// What was kept, or nothing. A file that cannot be used is set aside and complained of.
    pub(super) fn load(&self) -> Kept {
        let path = self.folder.join(NAME);
        if matches!(path.try_exists(), Ok(false)) {
            return Kept::default();
        }
        let error = match read(&path) {
            Ok(kept) => return kept,
            Err(error) => error,
        };
        let aside = self
            .folder
            .join(format!("{NAME}.corrupt-{}", clock::unix().as_secs()));
        let moved = fs::rename(&path, &aside);
        let (file, aside) = (path.display(), aside.display());
        tracing::error!(
            target: "smg::worker", %file, %error,
            "workers that were added or changed are lost: what was kept of them cannot be used"
        );
        match moved {
            Ok(()) => {
                tracing::error!(target: "smg::worker", %file, %aside, "the file was set aside")
            }
            Err(error) => tracing::error!(
                target: "smg::worker", %file, %error,
                "the file cannot be set aside and will be overwritten"
            ),
        }
        Kept::default()
    }

    /// Lets another process write, until this one does so again. Does nothing while a write hangs.
    pub(super) fn unlock(&self) {
        if let Some(mut lock) = self.pen.try_lock() {
            *lock = None;
        }
    }

    /// Keeps `kept` in place of what was kept before.
    ///
    /// # Errors
    /// What the system said. What was kept before is still there then.
    pub(super) async fn save(&self, kept: &Kept) -> io::Result<()> {
        let body = serde_json::to_string(kept)?;
        let (folder, pen, patience) = (self.folder.clone(), Arc::clone(&self.pen), self.patience);
        let number = self.wanted.fetch_add(1, Ordering::SeqCst) + 1;
        let wanted = Arc::clone(&self.wanted);
        let write = move || {
            let mut lock = pen.try_lock_for(patience).ok_or_else(too_slow)?;
            make(&folder)?;
            if lock.is_none() {
                *lock = locked(&folder)?;
            }
            write(&folder, &body, || wanted.load(Ordering::SeqCst) == number)
        };
        let Ok(written) = timeout(self.patience, spawn_blocking(write)).await else {
            self.wanted.fetch_add(1, Ordering::SeqCst);
            return Err(too_slow());
        };
        written.unwrap_or_else(|broken| Err(io::Error::other(broken)))
    }
}

fn too_slow() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "writing takes too long")
}

/// The lock of `folder`; `None` where the file system has none.
///
/// # Errors
/// Another process has it.
fn locked(folder: &Path) -> io::Result<Option<File>> {
    let file = File::open(folder)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Err(io::Error::new(
            io::ErrorKind::ResourceBusy,
            "another process keeps its workers there",
        )),
        Err(TryLockError::Error(error)) => {
            tracing::debug!(target: "smg::worker", %error, "folder cannot be locked");
            Ok(None)
        }
    }
}

fn read(path: &Path) -> Result<Kept, LoadError> {
    // A pipe would be waited for.
    if fs::metadata(path).is_ok_and(|about| !about.is_file() || about.len() > MOST) {
        return Err(LoadError::Strange);
    }
    let text = file::read_to_string(path)?;
    let whole: Value = serde_json::from_str(&text)?;
    let version = whole.get("version").and_then(Value::as_u64);
    match version {
        None => return Err(LoadError::Lacks("version")),
        Some(version) if version > VERSION => return Err(LoadError::Newer(version)),
        Some(_) => {}
    }
    let sum = whole.get("sha256").and_then(Value::as_str);
    let sum = sum.ok_or(LoadError::Lacks("sha256"))?;
    let (_, body) = text.split_once(BODY).ok_or(LoadError::Lacks("kept"))?;
    let body = body.trim_end();
    let body = body.strip_suffix('}').unwrap_or(body);
    if sum != hex(&Sha256::digest(body)) {
        return Err(LoadError::Checksum);
    }
    Ok(serde_json::from_str(body)?)
}

fn make(folder: &Path) -> io::Result<()> {
    let mut maker = DirBuilder::new();
    maker.recursive(true).mode(0o700).create(folder)
}

fn write(folder: &Path, body: &str, is_wanted: impl Fn() -> bool) -> io::Result<()> {
    let fresh = folder.join(FRESH);
    // One that a crash has left behind may have another mode.
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&fresh)?;
    let sum = hex(&Sha256::digest(body));
    file.write_all(
        format!("{{\"version\":{VERSION},\"sha256\":\"{sum}\",{BODY}{body}}}\n").as_bytes(),
    )?;
    file.sync_all()?;
    if !is_wanted() {
        return Err(too_slow());
    }
    fs::rename(&fresh, folder.join(NAME))?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::super::apply::Ground;
    use super::*;
    use crate::base::secret::Secret;
    use crate::config::spec::{Runtime, Spec, Worker, WorkerUrl};
    use crate::plan::{Added, Fleet, Member, Override, Role, Source, WorkerKey};

    fn spec(workers: &str) -> Spec {
        toml::from_str(&format!(
            "version = 1\n[[pools]]\nname = 'p'\nworkers = [{workers}]"
        ))
        .unwrap()
    }

    fn member(url: &str) -> Member {
        Member {
            pool: "p".into(),
            worker: WorkerKey::new(url),
        }
    }

    fn fleet() -> Fleet {
        let mut worker = Worker::from("http://n:1".parse::<WorkerUrl>().unwrap());
        worker.api_key = Some(Secret::literal("canary"));
        worker.cost = 2.5;
        let health = crate::config::spec::HealthOverride {
            interval: Some(crate::base::units::Millis::secs(7)),
            ..Default::default()
        };
        let added = Added {
            source: Source::Api,
            role: Role::Regular,
            worker,
            models: vec!["one".to_owned(), "two".to_owned()],
            runtime: Some(Runtime::Vllm),
            health,
            circuit_breaker: Default::default(),
        };
        let changed = Override {
            api_key: Some(Secret::literal("other")),
            labels: [("l".to_owned(), None)].into(),
            drain: Some(true),
            ..Override::default()
        };
        let mut fleet = Fleet::default();
        fleet.added.insert(member("http://n:1"), added);
        fleet.tombstones.insert(member("http://t:1"));
        fleet.leaving.insert(member("http://l:1"));
        fleet.overrides.insert(member("http://o:1"), changed);
        fleet.drains.insert("p".into(), true);
        fleet
    }

    const FILE: &str = "'http://t:1', 'http://l:1', 'http://o:1'";

    async fn keep(folder: &Path) -> Store {
        let store = Store::new(folder);
        let (spec, fleet) = (spec(FILE), fleet());
        let ground = Ground {
            spec: &spec,
            fleet: &fleet,
        };
        store.save(&Kept::of(ground)).await.unwrap();
        store
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[tokio::test]
    async fn what_was_kept_is_there_again_and_nobody_else_reads_it() {
        let around = tempfile::tempdir().unwrap();
        let folder = around.path().join("deep/state");
        let store = keep(&folder).await;
        assert_eq!(mode(&folder), 0o700);
        assert_eq!(mode(&folder.join(NAME)), 0o600);
        let (again, ended) = store.load().under(&spec(FILE));
        let mut expected = fleet();
        expected.leaving.clear();
        // Who was on its way out is out.
        expected.tombstones.insert(member("http://l:1"));
        assert_eq!(again, expected);
        assert!(ended.is_empty());

        let changed = "{ url = 'http://t:1', cost = 9 }, 'http://l:1', 'http://n:1', \
            { url = 'http://o:1', priority = 1 }";
        let (again, ended) = store.load().under(&spec(changed));
        assert_eq!(again.tombstones.len(), 1);
        assert!(again.added.is_empty() && again.overrides.is_empty());
        assert_eq!(ended.len(), 3, "{ended:?}");
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_used_is_set_aside() {
        for (from, to) in [
            ("\"version\":1", "\"version\":2"),
            ("canary", "canari"),
            ("\"kept\":{", "\"kept\":["),
            ("\"sha256\"", "\"sha512\""),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let store = keep(folder.path()).await;
            let path = folder.path().join(NAME);
            let text = String::from_utf8(file::read(&path).unwrap()).unwrap();
            assert!(text.contains(from), "{text}");
            fs::write(&path, text.replacen(from, to, 1)).unwrap();
            assert_eq!(store.load(), Kept::default(), "{to}");
            assert!(!path.exists());
            let names: Vec<String> = fs::read_dir(folder.path())
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            assert_eq!(names.len(), 1, "{names:?}");
            assert!(names[0].starts_with("workers.json.corrupt-"), "{names:?}");
        }
    }

    #[tokio::test]
    async fn two_processes_do_not_write_over_each_other() {
        let folder = tempfile::tempdir().unwrap();
        let one = keep(folder.path()).await;
        let other = Store::new(folder.path());
        let kept = other.load();
        assert_ne!(kept, Kept::default());
        let refused = other.save(&Kept::default()).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ResourceBusy);
        one.save(&kept).await.unwrap();
        drop(one);
        other.save(&Kept::default()).await.unwrap();
        assert_eq!(other.load(), Kept::default());
    }

    #[tokio::test]
    async fn a_disk_that_hangs_is_not_waited_for_and_what_came_late_does_not_count() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = keep(folder.path()).await;
        let kept = store.load();
        store.patience = Duration::from_millis(20);
        let (pen, (taken, is_taken), (give, given)) = (
            Arc::clone(&store.pen),
            std::sync::mpsc::channel(),
            std::sync::mpsc::channel::<()>(),
        );
        let hangs = std::thread::spawn(move || {
            let _held = pen.lock();
            taken.send(()).unwrap();
            given.recv().ok();
        });
        is_taken.recv().unwrap();
        let late = store.save(&Kept::default()).await.unwrap_err();
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
        drop(give);
        hangs.join().unwrap();
        let late = write(folder.path(), "{}", || false).unwrap_err();
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
        assert_eq!(store.load(), kept);
        store.patience = PATIENCE;
        store.save(&Kept::default()).await.unwrap();
        assert_eq!(store.load(), Kept::default());
    }

    #[test]
    fn what_is_no_file_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(NAME);
        std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
        assert_eq!(Store::new(folder.path()).load(), Kept::default());
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_folder_that_cannot_be_made_is_an_error_and_changes_nothing() {
        let around = tempfile::tempdir().unwrap();
        fs::write(around.path().join("file"), "").unwrap();
        let store = Store::new(&around.path().join("file/state"));
        assert!(store.save(&Kept::default()).await.is_err());
        assert_eq!(store.load(), Kept::default());
    }
}
