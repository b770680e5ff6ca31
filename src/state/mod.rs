//! Cells: pieces of state that outlive snapshots, each keyed by identity. A cell counts; the plan
//! judges, so that new thresholds apply at once to old counts.

mod admission;
mod breaker;
mod budget;
mod conn;
mod health;
mod issuer;
mod keyed;
mod memory;
mod mirror;
mod model;
mod name;
mod pace;
mod quota;
mod report;
mod route;
mod worker;

pub use admission::{AdmissionCell, Entering, EntryCell, Late, Limits, Permit, Shut, Waiting};
pub use breaker::{BreakerCell, BreakerState, Outcome, TURNS, Tally, Turn};
pub use budget::BudgetCell;
pub use conn::{
    Awaiting, Conn, ConnKey, ConnPool, Granted, Landed, Lease, NoConnection, Open, Opening, Pulse,
    Secured, Step, Stream, TlsCell, TlsKey, Unfit,
};
pub use health::{HealthCell, HealthState, Transition};
pub use issuer::{Claims, Found, Held, IssuerCell, IssuerKey, Keys, KeysError, VouchedCell, Wish};
pub use keyed::Keyed;
pub use memory::{Allowance, MemoryCell, Reservation};
pub use mirror::{Copying, MirrorCell};
pub use model::{ModelCell, ModelKey, PairSeries, Series, Stages};
pub use name::{Asking, NameCell, News};
pub use pace::Pace;
pub use quota::{AccountCell, Over, Spent, Stay, Strangers, Sums, Wanted};
pub use report::{Report, ReportCell};
pub use route::RouteKey;
pub use worker::{InFlight, Trouble, WorkerCell};

use std::sync::Arc;

use crate::plan::{Jwt, WorkerKey};
use crate::policy::Memory;

/// Identity of a health cell: the worker and the fingerprint of the probe. Two pools that probe
/// one worker in different ways judge it separately.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HealthKey {
    /// The worker.
    pub worker: WorkerKey,
    /// Path of the probe.
    pub endpoint: Arc<str>,
    /// Whether probing is on.
    pub enabled: bool,
}

/// All cells of the process.
#[derive(Debug, Default)]
pub struct Cells {
    /// Load and counters.
    pub workers: Keyed<WorkerKey, WorkerCell>,
    /// Health.
    pub health: Keyed<HealthKey, HealthCell>,
    /// Connections.
    pub conns: Keyed<ConnKey, ConnPool>,
    /// Settings for TLS with workers.
    pub tls: Keyed<TlsKey, TlsCell>,
    /// Retries and the requests that they are held against, by pool.
    pub budgets: Keyed<Arc<str>, BudgetCell>,
    /// Addresses, by host.
    pub names: Keyed<Arc<str>, NameCell>,
    /// Issuers of tokens.
    pub issuers: Keyed<IssuerKey, IssuerCell>,
    /// Tokens that have been verified, by how they were read.
    pub vouched: Keyed<Arc<Jwt>, VouchedCell>,
    /// Policy state.
    pub routes: Keyed<RouteKey, Memory>,
    /// Copies under way, by label of the model.
    pub mirrors: Keyed<Arc<str>, MirrorCell>,
    /// The gates, and those who wait at them.
    pub admission: Arc<AdmissionCell>,
    /// Requests of each model entry.
    pub entries: Keyed<Arc<str>, EntryCell>,
    /// Metric series per model.
    pub models: Keyed<ModelKey, ModelCell>,
    /// Memory in use for what is buffered.
    pub memory: Arc<MemoryCell>,
    /// What tenants use, by name.
    pub tenants: Keyed<Arc<str>, AccountCell>,
    /// What everybody else uses.
    pub strangers: Arc<Strangers>,
}

impl Cells {
    /// Forgets the names of cells that nobody uses any more.
    pub fn sweep(&self) {
        self.workers.sweep();
        self.health.sweep();
        self.conns.sweep();
        self.tls.sweep();
        self.budgets.sweep();
        self.names.sweep();
        self.issuers.sweep();
        self.vouched.sweep();
        self.routes.sweep();
        self.mirrors.sweep();
        self.entries.sweep();
        self.models.sweep();
        self.tenants.sweep();
    }
}
