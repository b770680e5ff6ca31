//! Text to `Spec`: files, includes, overlays, positions, diagnostics, schema.

pub mod spec;
