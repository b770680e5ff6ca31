//! Cells: pieces of state that outlive snapshots, each keyed by identity.
