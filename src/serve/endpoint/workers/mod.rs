//! `/workers` and what else changes them: shown, added, replaced, changed, removed, drained.

mod address;
mod aim;
mod body;
mod change;
mod declared;
mod drain;
mod fields;
mod limits;
mod list;
mod patch;
mod place;
mod refused;
mod show;

pub(crate) use change::{add_worker, patch_worker, remove_worker, replace_worker};
pub(crate) use drain::drain_pool;
pub(crate) use list::{worker, workers};
