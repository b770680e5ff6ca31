//! Whose requests wait. While others wait, nobody has more than half of a queue.

use std::collections::BTreeSet;
use std::sync::Arc;

use ahash::AHashMap;

use super::queue::Ticket;
use crate::plan::Identity;

/// A queue that has a size: that of a class, or that of a model entry.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Row {
    Class(Arc<str>),
    Entry(Arc<str>),
}

/// The tickets of each row, by whose they are.
#[derive(Debug, Default)]
pub(super) struct Shares(AHashMap<Row, Owners>);

#[derive(Debug, Default)]
struct Owners {
    tickets: AHashMap<Identity, BTreeSet<Ticket>>,
    length: usize,
}

impl Shares {
    pub(super) fn add(&mut self, row: Row, who: &Identity, ticket: Ticket) {
        let owners = self.0.entry(row).or_default();
        let tickets = owners.tickets.entry(who.clone()).or_default();
        owners.length += usize::from(tickets.insert(ticket));
    }

    pub(super) fn remove(&mut self, row: &Row, who: &Identity, ticket: Ticket) {
        let Some(owners) = self.0.get_mut(row) else {
            return;
        };
        if let Some(tickets) = owners.tickets.get_mut(who) {
            owners.length -= usize::from(tickets.remove(&ticket));
            if tickets.is_empty() {
                owners.tickets.remove(who);
            }
        }
        if owners.length == 0 {
            self.0.remove(row);
        }
    }

    /// How many wait in a row.
    pub(super) fn len(&self, row: &Row) -> usize {
        self.0.get(row).map_or(0, |owners| owners.length)
    }

    /// Whether one more of `who` would be more than half of a row of this size, while others wait.
    pub(super) fn is_crowding(&self, row: &Row, who: &Identity, size: usize) -> bool {
        let Some(owners) = self.0.get(row) else {
            return false;
        };
        let own = owners.tickets.get(who).map_or(0, BTreeSet::len);
        owners.length > own && own >= half(size)
    }

    /// The request that came last of somebody else who has more than half of a row of this size.
    pub(super) fn last_of_most(&self, row: &Row, who: &Identity, size: usize) -> Option<Ticket> {
        let owners = self.0.get(row)?;
        let most = half(size);
        // Each of the others has one at least.
        if owners.length < most + owners.tickets.len() {
            return None;
        }
        let mut crowding = owners
            .tickets
            .iter()
            .filter(|(owner, tickets)| *owner != who && tickets.len() > most);
        crowding.next()?.1.last().copied()
    }
}

fn half(size: usize) -> usize {
    (size / 2).max(1)
}

#[cfg(test)]
impl Shares {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
