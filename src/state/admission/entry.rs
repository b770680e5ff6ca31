//! The requests for one model entry.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::AdmissionCell;

/// What is counted of one model entry: a declared name or glob, an advertised name, or `*`. No name
/// that a client invents is one.
#[derive(Debug)]
pub struct EntryCell {
    pub(super) name: Arc<str>,
    pub(super) admission: Arc<AdmissionCell>,
    /// Its requests that were let in and have not ended, whether a gate asked or not: one that is
    /// put up later finds them counted.
    pub(super) under_way: AtomicUsize,
    /// Its requests that wait. Changed under the lock only.
    pub(super) waiting: AtomicUsize,
    /// Whether the limits that hold have a gate for it.
    pub(super) gated: AtomicBool,
}

impl EntryCell {
    /// An entry without any request.
    pub fn new(name: &Arc<str>, admission: &Arc<AdmissionCell>) -> Self {
        Self {
            name: Arc::clone(name),
            admission: Arc::clone(admission),
            under_way: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            gated: AtomicBool::new(false),
        }
    }

    /// Its requests that were let in and have not ended.
    pub(super) fn under_way(&self) -> usize {
        self.under_way.load(Ordering::SeqCst)
    }

    /// Its requests that wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }
}
