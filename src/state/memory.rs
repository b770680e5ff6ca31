//! Memory for what is buffered: request bodies, and answers that are gathered before they go on.
//!
//! Invariant: what is in use changes only by reservations, so it returns to exactly zero.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use crate::base::clock;
use crate::config::spec::MemoryBudget;
use crate::telemetry::log::Repeat;

/// Taken for what the process may use where the system does not say.
const UNKNOWN: u64 = 4 << 30;

/// What is in use, over all snapshots. How much may be is for the plan to say.
#[derive(Debug)]
pub struct MemoryCell {
    /// Of the process, in bytes.
    available: u64,
    used: AtomicU64,
    refusals: Repeat<()>,
}

impl Default for MemoryCell {
    fn default() -> Self {
        Self::new(None)
    }
}

impl MemoryCell {
    /// Nothing in use of a process that may use so many bytes of memory in all.
    pub fn new(available: Option<u64>) -> Self {
        Self {
            available: available.unwrap_or(UNKNOWN),
            used: AtomicU64::new(0),
            refusals: Repeat::every_minute(),
        }
    }
}

/// What one snapshot lets be used.
#[derive(Debug, Clone)]
pub struct Allowance {
    cell: Arc<MemoryCell>,
    limit: u64,
}

impl Allowance {
    /// What `budget` means for `cell`.
    pub fn new(cell: &Arc<MemoryCell>, budget: MemoryBudget) -> Self {
        let limit = match budget {
            MemoryBudget::Percent(share) => cell.available / 100 * u64::from(share),
            MemoryBudget::Size(size) => size.get(),
        };
        Self {
            cell: Arc::clone(cell),
            limit,
        }
    }

    /// Bytes in use, by all snapshots.
    pub fn used(&self) -> u64 {
        self.cell.used.load(Ordering::Relaxed)
    }

    /// Bytes that may be in use.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Reserves `bytes` until the reservation is dropped; nothing where there is no room.
    pub fn try_reserve(&self, bytes: usize) -> Option<Reservation> {
        let mut reservation = self.none();
        reservation.grow(bytes).then_some(reservation)
    }

    /// A reservation of nothing, to be grown.
    pub fn none(&self) -> Reservation {
        Reservation {
            of: self.clone(),
            bytes: 0,
        }
    }
}

/// Bytes that are in use until this is dropped.
#[derive(Debug)]
pub struct Reservation {
    of: Allowance,
    bytes: u64,
}

impl Reservation {
    /// Reserves `bytes` more. `false`, and nothing has changed, where there is no room.
    #[must_use]
    pub fn grow(&mut self, bytes: usize) -> bool {
        if bytes == 0 {
            return true;
        }
        let (more, limit) = (bytes as u64, self.of.limit);
        let room = |used: u64| used.checked_add(more).filter(|used| *used <= limit);
        let taken = self
            .of
            .cell
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, room);
        match taken {
            Ok(_) => {
                self.bytes += more;
                true
            }
            Err(used) => {
                self.of.refused(more, used);
                false
            }
        }
    }

    /// Gives back what is above `bytes`.
    pub fn shrink_to(&mut self, bytes: usize) {
        let kept = self.bytes.min(bytes as u64);
        self.give_back(self.bytes - kept);
        self.bytes = kept;
    }

    /// Bytes reserved.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// All of it, for another owner; nothing is left here.
    #[must_use]
    pub fn take(&mut self) -> Self {
        let none = self.of.none();
        std::mem::replace(self, none)
    }

    /// `content` with this reservation, which ends with the last of its copies.
    pub fn around(self, content: Vec<u8>) -> Bytes {
        if content.is_empty() {
            return Bytes::new();
        }
        Bytes::from_owner(Around {
            content,
            _reservation: self,
        })
    }

    fn give_back(&self, bytes: u64) {
        if bytes > 0 {
            self.of.cell.used.fetch_sub(bytes, Ordering::Relaxed);
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.give_back(self.bytes);
    }
}

/// Bytes that are in use for as long as they exist.
struct Around {
    content: Vec<u8>,
    _reservation: Reservation,
}

impl AsRef<[u8]> for Around {
    fn as_ref(&self) -> &[u8] {
        &self.content
    }
}

impl Allowance {
    #[cold]
    fn refused(&self, wanted: u64, used: u64) {
        if let Some(silent) = self.cell.refusals.allow((), clock::now()) {
            tracing::warn!(
                wanted,
                used,
                limit = self.limit,
                silent,
                "`server.memory_budget` is spent, requests are refused"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::units::ByteSize;

    fn of(limit: u64) -> Allowance {
        let size = MemoryBudget::Size(ByteSize::new(limit));
        Allowance::new(&Arc::default(), size)
    }

    #[test]
    fn what_is_given_back_can_be_had_again() {
        let memory = of(100);
        let mut first = memory.try_reserve(60).unwrap();
        assert!(memory.try_reserve(41).is_none());
        let second = memory.try_reserve(40).unwrap();
        assert_eq!(memory.used(), 100);
        assert!(!first.grow(1) && first.grow(0));
        assert_eq!(first.bytes(), 60, "a refusal takes nothing");
        drop(second);
        assert!(first.grow(40));
        first.shrink_to(200);
        assert_eq!(memory.used(), 100);
        first.shrink_to(30);
        assert_eq!(memory.used(), 30);
        drop(first);
        assert_eq!(memory.used(), 0);
    }

    #[test]
    fn more_than_there_is_leaves_room_for_others() {
        let memory = of(100);
        assert!(memory.try_reserve(usize::MAX).is_none());
        let _all = memory.try_reserve(100).unwrap();
        assert!(memory.try_reserve(usize::MAX).is_none());
        assert_eq!(memory.used(), 100);
    }

    #[test]
    fn snapshots_share_what_is_used_and_judge_it_each_by_its_own_limit() {
        let cell = Arc::new(MemoryCell::new(Some(1000)));
        let before = Allowance::new(&cell, MemoryBudget::Percent(25));
        let after = Allowance::new(&cell, MemoryBudget::Size(ByteSize::new(200)));
        assert_eq!((before.limit(), after.limit()), (250, 200));
        let held = before.try_reserve(210).unwrap();
        assert_eq!(after.used(), 210);
        assert!(after.try_reserve(1).is_none());
        drop(held);
        assert!(after.try_reserve(200).is_some());
    }

    #[test]
    fn bytes_hold_their_reservation_to_the_last_copy() {
        let memory = of(100);
        let bytes = memory.try_reserve(3).unwrap().around(b"abc".to_vec());
        let part = bytes.slice(1..2);
        drop(bytes);
        assert_eq!((memory.used(), &*part), (3, &b"b"[..]));
        drop(part);
        assert_eq!(memory.used(), 0);
        assert!(memory.try_reserve(3).unwrap().around(Vec::new()).is_empty());
        assert_eq!(memory.used(), 0);
    }

    #[test]
    fn many_threads_return_to_zero() {
        let memory = of(1000);
        std::thread::scope(|scope| {
            for step in 1..=8 {
                let memory = &memory;
                scope.spawn(move || {
                    for n in 0..10_000 {
                        let Some(mut held) = memory.try_reserve(n % 300) else {
                            continue;
                        };
                        assert!(memory.used() <= memory.limit());
                        if held.grow(step) {
                            held.shrink_to(step);
                        }
                    }
                });
            }
        });
        assert_eq!(memory.used(), 0);
    }
}
