//! How much memory the process may use: what its control group allows, else what the machine has.

use std::path::{Path, PathBuf};

use super::file;

/// Bytes of memory that this process may use: the tightest limit of its control group and of those
/// around it, at most what the machine has. `None` where the system does not say.
pub fn available() -> Option<u64> {
    available_under(Path::new("/"))
}

/// The same where the system's files lie below `root`.
fn available_under(root: &Path) -> Option<u64> {
    let groups = text(&root.join("proc/self/cgroup")).unwrap_or_default();
    let installed = text(&root.join("proc/meminfo")).and_then(|text| installed(&text));
    let limits = groups.lines().filter_map(|line| group_limit(root, line));
    limits.chain(installed).min()
}

/// The limit that a line of `/proc/self/cgroup` leads to: `0::/path` for version 2,
/// `4:memory:/path` for version 1.
fn group_limit(root: &Path, line: &str) -> Option<u64> {
    let mut fields = line.splitn(3, ':').skip(1);
    let (controllers, path) = (fields.next()?, fields.next()?);
    let mounted = root.join("sys/fs/cgroup");
    if controllers.is_empty() {
        let unified = tightest(&mounted, path, "memory.max");
        // Where both versions are in use, the second one is mounted beside the first.
        return unified.or_else(|| tightest(&mounted.join("unified"), path, "memory.max"));
    }
    let mut controllers = controllers.split(',');
    if controllers.any(|name| name == "memory") {
        return tightest(&mounted.join("memory"), path, "memory.limit_in_bytes");
    }
    None
}

/// The smallest number in the files of this name in the group at `path` and in those around it. In a
/// container the path may be one of the host, of which only the root is to be seen.
fn tightest(mounted: &Path, path: &str, name: &str) -> Option<u64> {
    let mut group: PathBuf = path.trim_start_matches('/').into();
    let mut least = None;
    loop {
        let limit = text(&mounted.join(&group).join(name));
        let limit = limit.and_then(|text| text.trim().parse::<u64>().ok());
        least = least.into_iter().chain(limit).min();
        if !group.pop() {
            return least;
        }
    }
}

/// `MemTotal` of `/proc/meminfo`, in bytes.
fn installed(text: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

fn text(path: &Path) -> Option<String> {
    file::read_to_string(path).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMINFO: (&str, &str) = (
        "proc/meminfo",
        "MemTotal:       16384 kB\nMemFree:         1024 kB\n",
    );

    fn available(files: &[(&str, &str)]) -> Option<u64> {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        available_under(root.path())
    }

    #[test]
    fn the_tightest_group_counts() {
        let own = ("proc/self/cgroup", "0::/a.slice/smg.service\n");
        let group = |limit| ("sys/fs/cgroup/a.slice/smg.service/memory.max", limit);
        let around = |limit| ("sys/fs/cgroup/a.slice/memory.max", limit);
        let all = |own_limit, around_limit| {
            available(&[MEMINFO, own, group(own_limit), around(around_limit)])
        };
        assert_eq!(all("4194304\n", "max\n"), Some(4 << 20));
        assert_eq!(all("max\n", "3145728\n"), Some(3 << 20));
        assert_eq!(all("4194304\n", "3145728\n"), Some(3 << 20));
        assert_eq!(all("max\n", "max\n"), Some(16 << 20));
        // More than there is allows nothing.
        assert_eq!(all("99999999999\n", "max\n"), Some(16 << 20));
    }

    #[test]
    fn a_container_sees_its_limit_at_the_root() {
        for own in ["0::/\n", "0::/docker/0123\n", "0::/../other\n"] {
            let root = ("sys/fs/cgroup/memory.max", "2097152\n");
            let found = available(&[MEMINFO, ("proc/self/cgroup", own), root]);
            assert_eq!(found, Some(2 << 20), "{own}");
        }
    }

    #[test]
    fn the_first_version_is_understood() {
        let own = (
            "proc/self/cgroup",
            "5:cpu,cpuacct:/x\n4:hugetlb,memory:/docker/1\n0::/x\n",
        );
        let limit = |limit| ("sys/fs/cgroup/memory/docker/1/memory.limit_in_bytes", limit);
        let unlimited = "9223372036854771712\n";
        assert_eq!(
            available(&[MEMINFO, own, limit("1048576\n")]),
            Some(1 << 20)
        );
        assert_eq!(available(&[MEMINFO, own, limit(unlimited)]), Some(16 << 20));
        let mixed = ("sys/fs/cgroup/unified/x/memory.max", "524288\n");
        assert_eq!(available(&[MEMINFO, own, mixed]), Some(512 << 10));
    }

    #[test]
    fn without_a_group_the_machine_counts_and_without_that_nothing_is_known() {
        assert_eq!(available(&[MEMINFO]), Some(16 << 20));
        assert_eq!(available(&[]), None);
    }
}
