//! What has been learned about workers. Changes of it take the same road as a changed file.

use std::collections::BTreeMap;

use super::fleet::Fleet;
use super::worker::WorkerKey;
use crate::config::spec::Runtime;

/// More ranks than any engine has.
const MAX_RANKS: u32 = 1024;

/// Everything learned so far.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Facts {
    /// Per worker whose registration has succeeded.
    pub workers: BTreeMap<WorkerKey, Learned>,
    /// What operators have changed.
    pub fleet: Fleet,
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
    /// Ranks over which the engine spreads requests.
    pub dp_size: Option<u32>,
    /// Descriptive labels (version, model path, parallelism, …).
    pub labels: BTreeMap<String, String>,
}

/// Why a worker cannot be taken apart into its ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoRanks {
    /// Its engine takes no rank.
    #[error("`dp_aware` needs SGLang, and the worker runs `{0}`")]
    Engine(Runtime),
    /// It does not say how many it has, or what it says cannot be.
    #[error("`dp_aware` needs the worker's `dp_size`, and it does not tell a usable one")]
    Size,
}

impl Learned {
    /// Number of ranks that requests may be sent to one by one, where `runtime` is the engine.
    ///
    /// # Errors
    /// [`NoRanks`].
    pub fn ranks(&self, runtime: Option<Runtime>) -> Result<u32, NoRanks> {
        match runtime {
            Some(Runtime::Sglang) | None => self
                .dp_size
                .filter(|size| (1..=MAX_RANKS).contains(size))
                .ok_or(NoRanks::Size),
            Some(other) => Err(NoRanks::Engine(other)),
        }
    }
}
