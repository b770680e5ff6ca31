//! The one writer: reads the configuration again when it is asked to or the files change, compiles,
//! publishes; registers and probes workers.
//!
//! Invariant: only [`publish`] replaces the snapshot. Everything else posts to its desk and waits
//! for its turn, so that two changes never race.

mod admin;
mod certificates;
mod compiled;
mod desk;
mod effective;
mod fleet;
mod health;
mod issuer;
mod loads;
mod logging;
mod places;
mod publish;
mod register;
mod report;
mod status;
mod target;
mod tls;
mod watch;
mod workers;

#[cfg(test)]
mod tests;

use std::sync::Arc;

pub use logging::{Logging, Over};
pub use publish::{Observer, Step};

use self::admin::Office;
use self::desk::Desk;
use self::fleet::Board;
use self::publish::Publisher;
use self::workers::Workers;
use crate::base::task::AbortOnDrop;
use crate::config::{Input, Loaded};
use crate::live::{Admin, BindError, Live, Sockets};

/// What a control plane needs of the world around it.
pub struct Outside {
    /// What the configuration is loaded from, each time.
    pub input: Arc<Input>,
    /// The running log, where it follows the configuration.
    pub logging: Option<Logging>,
    /// Is told how reloads go.
    pub observer: Observer,
}

/// A control plane whose first snapshot is bound and that does nothing yet.
pub struct Control {
    publisher: Publisher,
    desk: Arc<Desk>,
    board: Arc<Board>,
    live: Arc<Live>,
}

/// The running control plane; it stops when this is dropped.
#[derive(Debug)]
pub struct Running {
    live: Arc<Live>,
    _tasks: Vec<AbortOnDrop>,
}

/// Whether `first` can be started with, as a reload would judge it too. What is wrong with it is
/// logged.
pub fn is_usable(first: &Loaded) -> bool {
    let fault = tls::fault(first);
    report::log_all(fault.as_slice());
    fault.is_none()
}

impl Control {
    /// Compiles `first`, which must have a spec, and what is kept of earlier changes of workers into
    /// the first snapshot. `None` if it has none.
    pub fn new(first: Loaded, outside: Outside) -> Option<Self> {
        let desk = Arc::new(Desk::default());
        let board = Arc::new(Board::default());
        let publisher = Publisher::new(first, outside, Arc::clone(&desk), &board)?;
        let live = Arc::clone(publisher.live());
        Some(Self {
            publisher,
            desk,
            board,
            live,
        })
    }

    /// The handle that requests load their snapshot from.
    pub fn live(&self) -> &Arc<Live> {
        &self.live
    }

    /// What the admin routes may ask for.
    pub fn admin(&self) -> Arc<dyn Admin> {
        Arc::new(Office::new(
            Arc::clone(&self.desk),
            self.publisher.status(),
            Arc::clone(&self.live),
            Arc::clone(&self.board),
            self.publisher.file(),
        ))
    }

    /// Binds the listeners of the first snapshot, starts accepting on them, and begins to follow
    /// workers and reload requests. Workers are asked at once, before the first socket is bound.
    ///
    /// # Errors
    /// Every listener that could not be bound.
    pub async fn start(self, sockets: Arc<dyn Sockets>) -> Result<Running, Vec<BindError>> {
        let workers = Workers::new(Arc::clone(&self.live), Arc::clone(&self.desk));
        let mut tasks = vec![AbortOnDrop::spawn("workers", workers.run())];
        let listeners = self.live.load().plan.listeners.clone();
        sockets.prepare(&listeners).await?.commit();
        let files = self.publisher.watched();
        let (live, desk) = (Arc::clone(&self.live), Arc::clone(&self.desk));
        let jobs = fleet::run(live, desk, self.board);
        tasks.push(AbortOnDrop::spawn("jobs", jobs));
        let issuer = issuer::run(Arc::clone(&self.live));
        tasks.push(AbortOnDrop::spawn("issuer keys", issuer));
        tasks.push(AbortOnDrop::spawn("publisher", self.publisher.run(sockets)));
        tasks.push(AbortOnDrop::spawn("watcher", watch::run(files, self.desk)));
        Ok(Running {
            live: self.live,
            _tasks: tasks,
        })
    }
}

impl Running {
    /// The handle that requests load their snapshot from.
    pub fn live(&self) -> &Arc<Live> {
        &self.live
    }
}
