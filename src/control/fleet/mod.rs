//! Workers that operators add, change and take out while the gateway runs.
//!
//! A change is judged against the configuration and the fleet, kept on disk where something is kept,
//! and then in force: all of that by the publisher, the one writer. The job that belongs to it only
//! looks on until the worker is registered, or has nothing left to do, and then asks for the last
//! step on the same way. A job that a newer one has overtaken for a worker has no say in it any more.

mod apply;
mod board;
mod drains;
mod foreman;
mod kept;
mod ledger;
mod reconcile;
mod store;

pub(super) use board::Board;
pub(super) use foreman::run;
pub(super) use ledger::{Asked, Ledger, Order};
pub(super) use reconcile::{Ended, after_reload};
