//! Text to `Spec`: files, includes, overlays, positions, diagnostics, schema.

pub mod diag;
pub mod spec;
