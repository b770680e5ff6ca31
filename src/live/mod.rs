//! `Snapshot` and `Live`, the only swap of the house; the traits over which `serve` and `control`
//! meet.

mod admin;
mod ages;
mod breakers;
mod caller;
mod certificates;
mod change;
mod degraded;
mod handle;
mod quota;
pub mod scrape;
mod snapshot;
mod trees;

pub use admin::{
    Admin, BindError, BoxFuture, Judged, Outcome, PreparedSockets, Sockets, Standing, Trigger,
};
pub use caller::{AuthMethod, Caller};
pub use change::{Addition, Change, ChangeError, Job, JobKind, JobState};
pub use degraded::{Signal, signals};
pub use handle::{CallGuard, Live, Phase, Prepared};
pub use snapshot::{IssuerParts, LegParts, RouteParts, Snapshot, Stamp, WorkerParts, WorkerRef};
