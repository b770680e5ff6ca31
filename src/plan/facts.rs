//! What has been learned about workers. Changes of it take the same road as a changed file.

use std::collections::BTreeMap;

use super::worker::WorkerKey;
use crate::config::spec::Runtime;

/// Everything learned so far.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Facts {
    /// Per worker whose registration has succeeded.
    pub workers: BTreeMap<WorkerKey, Learned>,
}

/// What registration found out about one worker.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Learned {
    /// The engine it runs.
    pub runtime: Option<Runtime>,
    /// Names it advertises; empty where it names none.
    pub models: Vec<String>,
    /// Context length in tokens.
    pub max_model_len: Option<u64>,
    /// Descriptive labels (version, model path, parallelism, …).
    pub labels: BTreeMap<String, String>,
}
