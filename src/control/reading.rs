//! What one reading of the configuration brings.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use crate::config::diag::Diagnostic;
use crate::config::spec::Spec;

/// A configuration as it was read.
#[derive(Debug, Clone)]
pub struct Reading {
    /// What it says; `None` where an error stands against it.
    pub spec: Option<Arc<Spec>>,
    /// Hash of everything that was read, in hex.
    pub sha256: Arc<str>,
    /// Mistakes, warnings and notes.
    pub diagnostics: Vec<Diagnostic>,
    /// Every file that was read, or should have been; secrets included.
    pub files: Vec<PathBuf>,
    /// Folders in which a new file can change what is read.
    pub directories: BTreeSet<PathBuf>,
    /// The effective configuration with the origin of each value, secrets masked.
    pub effective: serde_json::Value,
}

/// Reads the configuration. It touches files, so it is called where blocking is allowed.
pub type Reader = Arc<dyn Fn() -> Reading + Send + Sync>;
