//! What a policy remembers for one model entry of one pool.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Identity of a route's policy state: the pool and the declared (or advertised) model entry. All
/// names under a glob share the glob's entry; no string that a client invents is ever part of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RouteKey {
    /// Name of the pool.
    pub pool: Arc<str>,
    /// The model entry.
    pub entry: Arc<str>,
}

/// Policy state of one route.
#[derive(Debug, Default)]
pub struct RouteCell {
    cursor: AtomicUsize,
}

impl RouteCell {
    /// Moves the round-robin cursor on and returns where it stood.
    pub fn advance(&self) -> usize {
        self.cursor.fetch_add(1, Ordering::Relaxed)
    }
}
