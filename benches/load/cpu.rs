//! CPU time of other processes, to the nanosecond.

use std::io;
use std::path::PathBuf;

/// Nanoseconds that all threads of `pids` have spent on a CPU, user and kernel. A thread that has
/// ended no longer counts, so a difference is right only while the threads stay.
pub(crate) fn nanoseconds(pids: &[u32]) -> io::Result<u64> {
    let mut sum = 0;
    for pid in pids {
        for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
            sum += on_cpu(task?.path().join("schedstat"))?;
        }
    }
    Ok(sum)
}

#[expect(
    clippy::disallowed_methods,
    reason = "a file of /proc, whose name the driver knows"
)]
fn on_cpu(path: PathBuf) -> io::Result<u64> {
    let text = std::fs::read_to_string(path)?;
    let first = text.split_whitespace().next().unwrap_or_default();
    first.parse().map_err(io::Error::other)
}
