//! Identity of what a policy remembers.

use std::sync::Arc;

use crate::plan::Role;

/// Identity of a leg's policy memory: the pool, the leg, and the declared (or advertised) model
/// entry. All names under a glob share the glob's entry; no string that a client invents is ever
/// part of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RouteKey {
    /// Name of the pool.
    pub pool: Arc<str>,
    /// The leg.
    pub role: Role,
    /// The model entry.
    pub entry: Arc<str>,
}
