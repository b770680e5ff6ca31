//! Task spawning. Tasks go through here so that they carry a name and can be counted.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use tokio::task::JoinHandle;

static ALIVE: AtomicUsize = AtomicUsize::new(0);

struct Alive;

impl Drop for Alive {
    fn drop(&mut self) {
        ALIVE.fetch_sub(1, Ordering::Relaxed);
    }
}

pin_project_lite::pin_project! {
    /// A task's future with its place in the count. A plain `async` block around it would hold the
    /// future twice.
    struct Counted<F> {
        #[pin]
        future: F,
        _alive: Alive,
    }
}

impl<F: Future> Future for Counted<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        self.project().future.poll(cx)
    }
}

/// Spawns `future` on the current runtime. `name` says what the task is for; it appears in trace
/// logs when the task starts.
///
/// Dropping the handle detaches the task; [`AbortOnDrop`] ties it to an owner instead.
#[expect(
    clippy::disallowed_methods,
    reason = "this is the spawn that the ban points to"
)]
pub fn spawn<F>(name: &'static str, future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    ALIVE.fetch_add(1, Ordering::Relaxed);
    tracing::trace!(task = name, "task started");
    tokio::spawn(Counted {
        future,
        _alive: Alive,
    })
}

/// Number of tasks spawned through [`spawn`] that have not ended.
pub fn alive() -> usize {
    ALIVE.load(Ordering::Relaxed)
}

/// A task that ends when this handle is dropped.
#[derive(Debug)]
pub struct AbortOnDrop(JoinHandle<()>);

impl AbortOnDrop {
    /// Spawns a task bound to the returned handle.
    pub fn spawn<F>(name: &'static str, future: F) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self(spawn(name, future))
    }
}

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
