//! Threads and descriptors.

use std::io;
use std::num::NonZeroUsize;
use std::thread::available_parallelism;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime::{Builder, Runtime};

use crate::config::spec::WorkerThreads;

/// How many threads run requests.
pub(super) fn threads(wanted: WorkerThreads) -> usize {
    match wanted {
        WorkerThreads::Auto => available_parallelism().map_or(1, NonZeroUsize::get),
        WorkerThreads::Count(count) => count.get(),
    }
}

/// The runtime. A single thread needs no queues between threads.
pub(super) fn build(threads: usize) -> io::Result<Runtime> {
    let mut builder = if threads == 1 {
        Builder::new_current_thread()
    } else {
        Builder::new_multi_thread()
    };
    if threads > 1 {
        builder.worker_threads(threads);
    }
    builder.enable_all().thread_name("smg").build()
}

/// Lets the process have as many descriptors as it may: each connection is one. Returns how many that
/// are; `None` where there is no limit.
pub(super) fn raise_file_limit() -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return current;
    }
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => maximum,
        Err(error) => {
            tracing::warn!(target: "smg::daemon", %error, limit = current, "few file descriptors");
            current
        }
    }
}
