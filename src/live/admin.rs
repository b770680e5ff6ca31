//! What `serve` may ask of `control`, and `control` of `serve`. The two never name each other;
//! `daemon` hands each the other's trait object.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::SystemTime;

use serde::Serialize;

use super::change::{Change, ChangeError, Job};
use crate::config::diag::Diagnostic;
use crate::plan::{Fleet, Listener};
use crate::tls::TlsError;

/// A boxed future, for the few calls that cross a trait object.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What asked for a reload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Trigger {
    /// The watcher saw a file change.
    File,
    /// SIGHUP.
    Signal,
    /// `POST /admin/reload`, `smg reload`.
    Admin,
}

impl Trigger {
    /// The metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Signal => "signal",
            Self::Admin => "admin",
        }
    }
}

/// How a reload ended.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// The new configuration serves.
    Applied {
        /// Its number.
        generation: u64,
        /// Its hash.
        sha256: Arc<str>,
    },
    /// The files say what is already being served.
    Unchanged {
        /// Number of the live configuration.
        generation: u64,
        /// Its hash.
        sha256: Arc<str>,
    },
    /// Nothing has changed; the old configuration serves on.
    Rejected {
        /// Every mistake found.
        diagnostics: Vec<Diagnostic>,
    },
}

/// A configuration that took effect, or should have.
#[derive(Debug, Clone)]
pub struct Judged {
    /// Its number; a refused one has the number that it would have got.
    pub generation: u64,
    /// Its hash.
    pub sha256: Arc<str>,
    /// When it was judged.
    pub time: SystemTime,
    /// What asked for it.
    pub trigger: &'static str,
    /// What was found.
    pub diagnostics: Vec<Diagnostic>,
}

/// Which configuration serves, and which does not.
#[derive(Debug, Clone)]
pub struct Standing {
    /// The file, as the process was told; empty: none.
    pub file: String,
    /// The one in effect.
    pub live: Judged,
    /// What the files say, where that was refused.
    pub rejected: Option<Judged>,
}

/// What the admin routes may ask for. Implemented by `control`.
pub trait Admin: Send + Sync + 'static {
    /// Reloads and waits for the outcome. Dropping the future does not stop the reload.
    fn reload(&self, trigger: Trigger) -> BoxFuture<Outcome>;

    /// Waits until no request holds a snapshot of a generation before `generation`.
    fn drained(&self, generation: u64) -> BoxFuture<()>;

    /// The effective configuration with the origin of each value; secrets are `***`.
    fn config(&self) -> serde_json::Value;

    /// The live and the rejected candidate: generation, hash, time, trigger, diagnostics.
    fn status(&self) -> serde_json::Value;

    /// The same, for those who look closer.
    fn standing(&self) -> Standing;

    /// Has a change of workers made. It is kept, where something is kept, before this returns; the
    /// job that makes it goes on afterwards.
    ///
    /// # Errors
    /// Why it is not made.
    fn change(&self, change: Change) -> BoxFuture<Result<(), ChangeError>>;

    /// Has a pool get no new requests, or get them again, until the file says else or the process
    /// ends.
    ///
    /// # Errors
    /// Why not.
    fn drain_pool(&self, pool: &str, drain: bool) -> BoxFuture<Result<(), ChangeError>>;

    /// The jobs that wait, run, or have failed within the last hour.
    fn jobs(&self) -> Vec<Job>;

    /// What operators have changed beside the file.
    fn fleet(&self) -> Arc<Fleet>;
}

/// A listener that cannot serve as it should.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// It does not get its address.
    #[error("listener `{name}` cannot be bound to `{address}`: {source}")]
    Address {
        /// Name of the listener.
        name: String,
        /// Address as written.
        address: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// Its certificates cannot be used.
    #[error("listener `{name}` cannot use `{}`: {source}", .path.display())]
    Certificate {
        /// Name of the listener.
        name: String,
        /// The key that names the file, within `tls`.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: TlsError,
    },
}

impl BindError {
    /// Name of the listener.
    pub fn listener(&self) -> &str {
        match self {
            Self::Address { name, .. } | Self::Certificate { name, .. } => name,
        }
    }
}

/// Sockets whose listeners have been bound and do not accept yet. Dropping it closes those that
/// are new and leaves the old ones as they were.
pub trait PreparedSockets: Send {
    /// Starts accepting on new sockets and drains those that are gone. Cannot fail.
    fn commit(self: Box<Self>);
}

/// The listening sockets. Implemented by `serve`.
pub trait Sockets: Send + Sync + 'static {
    /// Binds what `listeners` add, keeps what they keep, and reads their certificates.
    ///
    /// # Errors
    /// Every listener that could not be bound or has no usable certificate; nothing has changed
    /// then.
    fn prepare(
        &self,
        listeners: &[Arc<Listener>],
    ) -> BoxFuture<Result<Box<dyn PreparedSockets>, Vec<BindError>>>;
}
