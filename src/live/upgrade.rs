//! What is asked and answered when a new process takes over.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

/// A process of the gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Version of its binary.
    pub version: String,
    /// Its process id.
    pub pid: u32,
}

/// A new process has taken over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Upgraded {
    /// Who served before, and ends once its requests have.
    pub old: Identity,
    /// Who serves now.
    pub new: Identity,
    /// Number of its configuration.
    pub generation: u64,
}

/// Why no new process has taken over. The old one serves on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UpgradeError {
    /// One at a time.
    #[error("an upgrade is under way already")]
    Busy,
    /// This process is about to end.
    #[error("the gateway is shutting down")]
    Stopping,
    /// The new process could not be started, or does not serve.
    #[error("{reason}")]
    Failed {
        /// In one line.
        reason: String,
        /// What the new process said of it; may be empty, and have many lines.
        said: String,
    },
}

/// What waits for the outcome.
pub type UpgradeAnswer = oneshot::Sender<Result<Upgraded, UpgradeError>>;

/// Somebody wants an upgrade.
#[derive(Debug)]
pub struct UpgradeRequest {
    /// How long the new process may take until it serves.
    pub patience: Duration,
    /// Is told the outcome.
    pub answer: UpgradeAnswer,
}
