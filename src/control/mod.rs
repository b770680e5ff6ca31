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
mod visit;
mod watch;
mod workers;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use tokio::sync::mpsc;

pub use logging::{Logging, Over};
pub use publish::{Observer, Step};
pub use target::Unwell;
pub use visit::{Met, Visit, issuer_keys};

use self::admin::Office;
use self::desk::Desk;
use self::fleet::Board;
use self::publish::Publisher;
use self::workers::Workers;
use crate::base::task::AbortOnDrop;
use crate::config::{Input, Loaded};
use crate::live::{Admin, BindError, BoxFuture, Live, Sockets, UpgradeRequest};

/// What a control plane needs of the world around it.
pub struct Outside {
    /// What the configuration is loaded from, each time.
    pub input: Arc<Input>,
    /// The running log, where it follows the configuration.
    pub logging: Option<Logging>,
    /// Is told how reloads go.
    pub observer: Observer,
    /// Takes the wish for a new process.
    pub upgrades: mpsc::Sender<UpgradeRequest>,
    /// What the process before knew of the fleet, as [`Hold::fleet`] has it.
    pub fleet: Option<String>,
}

/// A control plane whose first snapshot is bound and that does nothing yet.
pub struct Control {
    publisher: Publisher,
    desk: Arc<Desk>,
    board: Arc<Board>,
    live: Arc<Live>,
    upgrades: mpsc::Sender<UpgradeRequest>,
}

/// The running control plane; it stops when this is dropped.
#[derive(Debug)]
pub struct Running {
    live: Arc<Live>,
    desk: Arc<Desk>,
    /// Those that look after workers.
    _lasting: Vec<AbortOnDrop>,
    /// Those that change something.
    changing: Vec<AbortOnDrop>,
}

/// Keeps the configuration and the fleet as they are until it is dropped.
#[derive(Debug)]
pub struct Hold {
    desk: Arc<Desk>,
    /// What operators have changed beside the file, for [`Outside::fleet`]. There are secrets in it.
    pub fleet: String,
    is_kept: bool,
}

impl Hold {
    /// Another process has taken over: it stays like this until [`Running::retire`], which tells those
    /// who wait to ask that one.
    pub fn keep(mut self) {
        self.is_kept = true;
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if !self.is_kept {
            self.desk.release();
        }
    }
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
        let upgrades = outside.upgrades.clone();
        let publisher = Publisher::new(first, outside, Arc::clone(&desk), &board)?;
        let live = Arc::clone(publisher.live());
        Some(Self {
            publisher,
            desk,
            board,
            live,
            upgrades,
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
            self.upgrades.clone(),
            self.publisher.file(),
        ))
    }

    /// Binds the listeners of the first snapshot, starts accepting on them, and begins to follow
    /// workers and reload requests. Workers are asked at once, before the first socket is bound.
    ///
    /// Where another process serves meanwhile, `until` is waited for before anything is accepted, and
    /// no change of anything is taken before [`Running::release`].
    ///
    /// # Errors
    /// Every listener that could not be bound.
    pub async fn start(
        self,
        sockets: Arc<dyn Sockets>,
        until: Option<BoxFuture<()>>,
    ) -> Result<Running, Vec<BindError>> {
        let workers = Workers::new(Arc::clone(&self.live), Arc::clone(&self.desk));
        let mut lasting = vec![AbortOnDrop::spawn("workers", workers.run())];
        let listeners = self.live.load().plan.listeners.clone();
        let mut prepared = Some(sockets.prepare(&listeners).await?);
        if until.is_some() {
            drop(self.desk.hold());
        } else if let Some(prepared) = prepared.take() {
            prepared.commit();
        }
        let files = self.publisher.watched();
        let (live, desk) = (Arc::clone(&self.live), Arc::clone(&self.desk));
        let jobs = fleet::run(live, Arc::clone(&desk), self.board);
        let issuer = issuer::run(Arc::clone(&self.live));
        lasting.push(AbortOnDrop::spawn("issuer keys", issuer));
        let changing = vec![
            AbortOnDrop::spawn("jobs", jobs),
            AbortOnDrop::spawn("publisher", self.publisher.run(sockets)),
            AbortOnDrop::spawn("watcher", watch::run(files, self.desk)),
        ];
        if let (Some(until), Some(prepared)) = (until, prepared) {
            until.await;
            prepared.commit();
        }
        Ok(Running {
            live: self.live,
            desk,
            _lasting: lasting,
            changing,
        })
    }
}

impl Running {
    /// Waits until no change is being made, and has none made while what is returned lives: reloads
    /// wait, changes of workers are refused. What is kept of the fleet may be written by another
    /// process meanwhile. `None` if that cannot be, because this process ends.
    pub async fn hold(&self) -> Option<Hold> {
        let held = self.desk.hold();
        let mut hold = Hold {
            desk: Arc::clone(&self.desk),
            fleet: String::new(),
            is_kept: false,
        };
        hold.fleet = held.await.ok()?;
        Some(hold)
    }

    /// Takes changes from now on, where [`Control::start`] has waited.
    pub fn release(&self) {
        self.desk.release();
    }

    /// Another process has taken over: no change is made any more, and workers are looked after for
    /// as long as requests need them.
    pub fn retire(&mut self) {
        self.desk.close();
        self.changing.clear();
    }

    /// The handle that requests load their snapshot from.
    pub fn live(&self) -> &Arc<Live> {
        &self.live
    }
}
