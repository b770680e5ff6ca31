//! CPU time of other processes, to the nanosecond.

use std::io;
use std::path::PathBuf;

/// What the scheduler has given to some processes, in nanoseconds over all their threads. A thread
/// that has ended no longer counts, so a difference is right only while the threads stay.
#[derive(Default)]
pub(crate) struct Cpu {
    /// Time on a CPU, user and kernel.
    pub(crate) used: u64,
    /// Time spent ready to run while somebody else had the CPU.
    pub(crate) waited: u64,
}

impl Cpu {
    /// What `pids` have had until now.
    pub(crate) fn of(pids: &[u32]) -> io::Result<Self> {
        let mut sum = Self::default();
        for pid in pids {
            for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
                sum.add(task?.path().join("schedstat"))?;
            }
        }
        Ok(sum)
    }

    /// What they have had since `earlier`.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        Self {
            used: self.used.saturating_sub(earlier.used),
            waited: self.waited.saturating_sub(earlier.waited),
        }
    }

    fn add(&mut self, path: PathBuf) -> io::Result<()> {
        let text = std::fs::read_to_string(path)?;
        let mut numbers = text
            .split_whitespace()
            .map(|text| text.parse().unwrap_or(0));
        self.used += numbers.next().unwrap_or(0);
        self.waited += numbers.next().unwrap_or(0);
        Ok(())
    }
}
