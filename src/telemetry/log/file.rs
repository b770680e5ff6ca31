//! Log files in a directory: one per day, or one for ever. And one that stands by itself.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::line;

/// When a new log file is begun.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Rotate {
    /// Every day at midnight UTC: `smg.YYYY-MM-DD`.
    #[default]
    Daily,
    /// Never: `smg.log`, for those who rotate by other means and reload afterwards.
    Never,
}

/// The file being written to, which knows its successor.
pub(crate) struct DayFile {
    dir: PathBuf,
    rotate: Rotate,
    keep: usize,
    file: File,
    day: u64,
}

impl DayFile {
    /// Opens, and creates if need be, the file of the day `now` in `dir`; of daily files only the
    /// newest `keep` stay (0: all).
    ///
    /// # Errors
    /// The system's, for the directory or the file.
    pub(crate) fn open(dir: &Path, rotate: Rotate, keep: usize, now: Duration) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let file = append(&path(dir, rotate, now))?;
        let files = Self {
            dir: dir.to_owned(),
            rotate,
            keep,
            file,
            day: day(now),
        };
        // An old file that stays does not keep new lines from being written.
        files.prune().ok();
        Ok(files)
    }

    /// Goes on to the file of the day `now`, if that has changed. On error the old file stays.
    pub(crate) fn roll(&mut self, now: Duration) -> io::Result<()> {
        if self.rotate == Rotate::Never || day(now) == self.day {
            return Ok(());
        }
        self.file = append(&path(&self.dir, self.rotate, now))?;
        self.day = day(now);
        self.prune()
    }

    fn prune(&self) -> io::Result<()> {
        if self.rotate == Rotate::Never || self.keep == 0 {
            return Ok(());
        }
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            if let Ok(name) = entry.file_name().into_string()
                && is_daily(&name)
            {
                names.push(name);
            }
        }
        // The names sort as the days do.
        names.sort_unstable();
        let surplus = names.len().saturating_sub(self.keep);
        for name in names.iter().take(surplus) {
            fs::remove_file(self.dir.join(name))?;
        }
        Ok(())
    }
}

impl Write for DayFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// One file that only its owner may read. Others may move it away: then another one is begun.
pub(crate) struct OneFile {
    path: PathBuf,
    file: File,
    /// Device and number.
    id: (u64, u64),
}

impl OneFile {
    /// Opens, and creates if need be, the file at `path`.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(path)?;
        let found = file.metadata()?;
        Ok(Self {
            path: path.to_owned(),
            file,
            id: (found.dev(), found.ino()),
        })
    }

    /// Goes on with another file if the path leads elsewhere by now. On error the old one stays.
    pub(crate) fn follow(&mut self) -> io::Result<()> {
        let there = fs::metadata(&self.path);
        if there.is_ok_and(|there| (there.dev(), there.ino()) == self.id) {
            return Ok(());
        }
        *self = Self::open(&self.path)?;
        Ok(())
    }
}

impl Write for OneFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

fn path(dir: &Path, rotate: Rotate, now: Duration) -> PathBuf {
    match rotate {
        Rotate::Daily => dir.join(format!("smg.{}", line::day(now))),
        Rotate::Never => dir.join("smg.log"),
    }
}

fn day(now: Duration) -> u64 {
    now.as_secs() / 86_400
}

/// Whether a file is one of ours: nothing else in the directory may be removed.
fn is_daily(name: &str) -> bool {
    let Some(day) = name.strip_prefix("smg.") else {
        return false;
    };
    day.len() == 10
        && day.bytes().enumerate().all(|(at, byte)| match at {
            4 | 7 => byte == b'-',
            _ => byte.is_ascii_digit(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);
    const START: Duration = Duration::from_secs(1_800_000_000);

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn each_day_has_its_file_and_old_ones_go() {
        let dir = tempfile::tempdir().unwrap();
        let strangers = ["smg.2020-01-01.gz", "smg.conf", "smg.2020_01_01", "other"];
        for name in strangers.iter().chain(&["smg.2020-01-01"]) {
            File::create(dir.path().join(name)).unwrap();
        }
        let nested = dir.path();
        let mut files = DayFile::open(nested, Rotate::Daily, 2, START).unwrap();
        for n in 0..3 {
            files.roll(START + DAY * n).unwrap();
            writeln!(files, "day {n}").unwrap();
        }
        let mut expected = [&["smg.2027-01-16", "smg.2027-01-17"], &strangers[..]].concat();
        expected.sort_unstable();
        assert_eq!(names(dir.path()), expected);
        #[expect(
            clippy::disallowed_methods,
            reason = "the test looks at what was written"
        )]
        let text = fs::read_to_string(dir.path().join("smg.2027-01-16")).unwrap();
        assert_eq!(text, "day 1\n");
    }

    #[test]
    fn keep_zero_removes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut files = DayFile::open(dir.path(), Rotate::Daily, 0, START).unwrap();
        for n in 1..20 {
            files.roll(START + DAY * n).unwrap();
        }
        assert_eq!(names(dir.path()).len(), 20);
    }

    #[test]
    fn one_file_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("a/b");
        let mut files = DayFile::open(&inner, Rotate::Never, 1, START).unwrap();
        files.roll(START + DAY).unwrap();
        assert_eq!(names(&inner), ["smg.log"]);
    }

    #[test]
    fn one_file_is_the_owners_and_is_begun_anew_when_moved() {
        use std::os::unix::fs::PermissionsExt as _;

        let dir = tempfile::tempdir().unwrap();
        let (path, moved) = (dir.path().join("audit"), dir.path().join("audit.1"));
        let mut file = OneFile::open(&path).unwrap();
        writeln!(file, "one").unwrap();
        file.follow().unwrap();
        writeln!(file, "two").unwrap();
        fs::rename(&path, &moved).unwrap();
        writeln!(file, "three").unwrap();
        file.follow().unwrap();
        writeln!(file, "four").unwrap();
        let size = |path: &Path| fs::metadata(path).unwrap().len();
        assert_eq!((size(&moved), size(&path)), (14, 5));
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(file.follow().is_err());
        writeln!(file, "still there").unwrap();
    }

    #[test]
    fn a_day_that_cannot_begin_goes_on_in_the_old_file() {
        let dir = tempfile::tempdir().unwrap();
        let mut files = DayFile::open(dir.path(), Rotate::Daily, 7, START).unwrap();
        // A directory stands where the next file should be.
        fs::create_dir(dir.path().join("smg.2027-01-16")).unwrap();
        assert!(files.roll(START + DAY).is_err());
        writeln!(files, "still here").unwrap();
        fs::remove_dir(dir.path().join("smg.2027-01-16")).unwrap();
        files.roll(START + DAY).unwrap();
        assert_eq!(names(dir.path()), ["smg.2027-01-15", "smg.2027-01-16"]);
    }
}
