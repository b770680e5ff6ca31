//! The gates and those who wait at them. Time comes in as a parameter, and nothing here sleeps.
//!
//! Invariant: after each step no head waits that could go. So whoever comes and finds the gates open
//! and nobody of its class and model waiting overtakes nobody.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Waker;
use std::time::{Duration, Instant};

use ahash::AHashMap;

use super::bucket::Bucket;
use super::drain::Drain;
use super::entry::EntryCell;
use super::limits::Limits;
use super::queue::{Queue, Ticket};
use super::share::{Row, Shares};
use crate::plan::{Gate, Identity};

/// What a refused client is told to wait, at least and at most.
const RETRY_AFTER: (f64, f64) = (1.0, 60.0);

/// A time that never comes.
const NEVER: Duration = Duration::from_secs(30 * 365 * 24 * 3600);

/// What is looked at without the lock, too.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// Requests that were let in and have not ended.
    pub(super) under_way: AtomicUsize,
    /// Requests that wait. Changed under the lock only.
    pub(super) waiting: AtomicUsize,
}

/// What a gate has counted.
#[derive(Debug, Default)]
struct Flow {
    bucket: Bucket,
    drain: Drain,
}

/// A request that waits, or that was let in and has not noticed yet.
#[derive(Debug)]
struct Seat {
    class: Arc<str>,
    entry: Arc<EntryCell>,
    /// Whose it is.
    who: Identity,
    since: Instant,
    waker: Option<Waker>,
    let_in: bool,
    /// It has lost its place to somebody with less of them, who has a place here in so long.
    displaced: Option<Duration>,
}

/// What becomes of a request that has just come.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Arrived {
    /// It is let in.
    In,
    /// It waits.
    Waits(Ticket),
    /// It cannot.
    Shut(Shut),
}

/// Why a request may not wait, and when there should be a place for it: 1 to 60 whole seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shut {
    /// As many wait as may.
    Full(Duration),
    /// None may wait.
    NoQueue(Duration),
}

/// How a request that waits stands.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It is let in.
    In,
    /// It may wait until then.
    Until(Instant),
    /// It may wait no more; somebody with fewer requests does. When to come back.
    Displaced(Duration),
}

#[derive(Debug, Default)]
pub(super) struct Lobby {
    limits: Arc<Limits>,
    counts: Arc<Counts>,
    all: Flow,
    /// By model entry; those that have a gate.
    models: AHashMap<Arc<str>, Flow>,
    queue: Queue,
    shares: Shares,
    seats: AHashMap<Ticket, Seat>,
    next: Ticket,
    woken: Vec<Waker>,
}

impl Lobby {
    pub(super) fn new(counts: Arc<Counts>) -> Self {
        Self {
            counts,
            ..Self::default()
        }
    }

    /// A request of `class` for `entry` comes from `who`.
    pub(super) fn arrive(
        &mut self,
        class: &Arc<str>,
        entry: &Arc<EntryCell>,
        who: &Identity,
        now: Instant,
    ) -> Arrived {
        let limits = Arc::clone(&self.limits);
        let class = limits.class_of(class).unwrap_or(class);
        // Time may have let in some who came before.
        self.pass(now);
        if !self.queue.has(class, entry) && self.is_open(now) && self.is_model_open(entry, now) {
            self.admit(entry, now);
            return Arrived::In;
        }
        self.all.drain.shut(now);
        if limits.model(&entry.name).is_some() {
            self.flow(entry).drain.shut(now);
        }
        let own = limits.size(class);
        let model = limits.model(&entry.name).map(|gate| gate.queue.size);
        if own.min(model.unwrap_or(own)) == 0 {
            return Arrived::Shut(Shut::NoQueue(self.expected(class, entry, now)));
        }
        let rows = [
            (Row::Class(Arc::clone(class)), Some(own)),
            (Row::Entry(Arc::clone(&entry.name)), model),
        ];
        let sized = || rows.iter().filter_map(|(row, size)| Some((row, (*size)?)));
        if !sized().all(|(row, size)| self.may_wait(row, size, who)) {
            return Arrived::Shut(Shut::Full(self.expected(class, entry, now)));
        }
        for (row, size) in sized() {
            self.make_room(row, size, who, now);
        }
        let ticket = self.next;
        self.next += 1;
        self.queue.push(class, entry, ticket);
        let seat = Seat {
            class: Arc::clone(class),
            entry: Arc::clone(entry),
            who: who.clone(),
            since: now,
            waker: None,
            let_in: false,
            displaced: None,
        };
        self.seats.insert(ticket, seat);
        for (row, _) in rows {
            self.shares.add(row, who, ticket);
        }
        self.count();
        // One that has ended meanwhile has looked for waiting ones either before this or after: in
        // the first case its place is seen here.
        self.pass(now);
        match self.seats.get(&ticket) {
            Some(seat) if !seat.let_in => Arrived::Waits(ticket),
            _ => {
                self.seats.remove(&ticket);
                Arrived::In
            }
        }
    }

    /// How the request stands that waits with `ticket`; `waker` is called when that changes. Told
    /// that it is in, or displaced, it has given up its ticket.
    pub(super) fn look(&mut self, ticket: Ticket, waker: &Waker) -> Option<Standing> {
        let seat = self.seats.get_mut(&ticket)?;
        if seat.let_in {
            self.seats.remove(&ticket);
            return Some(Standing::In);
        }
        if let Some(wait) = seat.displaced {
            self.seats.remove(&ticket);
            return Some(Standing::Displaced(wait));
        }
        match &mut seat.waker {
            Some(known) => known.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
        let timeout = self.limits.timeout(&seat.class, &seat.entry.name);
        let until = seat.since.checked_add(timeout);
        Some(Standing::Until(until.unwrap_or(seat.since + NEVER)))
    }

    /// The request with `ticket` does not wait any more. If it was let in without knowing, its
    /// place goes to the next.
    pub(super) fn leave(&mut self, ticket: Ticket, now: Instant) {
        let Some(seat) = self.seats.remove(&ticket) else {
            return;
        };
        if seat.let_in {
            release(&self.counts, &seat.entry);
            self.pass(now);
        } else if seat.displaced.is_none() {
            self.queue.remove(&seat.class, &seat.entry, ticket);
            forget(&mut self.shares, &seat, ticket);
            self.count();
        }
    }

    /// From `now` on these are the limits.
    pub(super) fn hold(&mut self, limits: Limits, now: Instant) {
        let old = std::mem::replace(&mut self.limits, Arc::new(limits));
        let new = &self.limits;
        self.all.bucket.change(old.all.rate, new.all.rate, now);
        self.models.retain(|name, flow| {
            let Some(gate) = new.model(name) else {
                return false;
            };
            let before = old.model(name).map_or(0.0, |gate| gate.rate);
            flow.bucket.change(before, gate.rate, now);
            true
        });
        self.queue.retain(|class| new.has_class(class));
        // They may wait longer now, or not so long.
        let wakers = self.seats.values_mut().filter_map(|seat| seat.waker.take());
        self.woken.extend(wakers);
        self.pass(now);
    }

    /// Lets in whoever can go, in turn.
    pub(super) fn pass(&mut self, now: Instant) {
        while !self.queue.is_empty() && self.is_open(now) {
            let Self {
                limits,
                models,
                queue,
                ..
            } = self;
            let next = queue.next(
                |class| limits.weight(class),
                |entry| is_entry_open(limits, models, entry, now),
            );
            let Some(ticket) = next else {
                break;
            };
            let Some(seat) = self.seats.get_mut(&ticket) else {
                break;
            };
            forget(&mut self.shares, seat, ticket);
            seat.let_in = true;
            self.woken.extend(seat.waker.take());
            let entry = Arc::clone(&seat.entry);
            self.admit(&entry, now);
        }
        self.count();
    }

    /// Whether one more of `who` may wait in a row of this size: where it is full, because somebody else
    /// has more than half of it.
    fn may_wait(&self, row: &Row, size: usize, who: &Identity) -> bool {
        let length = self.shares.len(row);
        // A queue that a reload has made smaller may hold more than its size.
        !self.shares.is_crowding(row, who, size)
            && (length < size
                || length == size && self.shares.last_of_most(row, who, size).is_some())
    }

    /// Has whoever has more than half of a row of this size give up the place that came last, where the
    /// row is full.
    fn make_room(&mut self, row: &Row, size: usize, who: &Identity, now: Instant) {
        if self.shares.len(row) < size {
            return;
        }
        let last = self.shares.last_of_most(row, who, size);
        let Some((ticket, seat)) = last.and_then(|ticket| Some((ticket, self.seats.get(&ticket)?)))
        else {
            return;
        };
        let (class, entry) = (Arc::clone(&seat.class), Arc::clone(&seat.entry));
        let wait = self.expected(&class, &entry, now);
        self.queue.remove(&class, &entry, ticket);
        if let Some(seat) = self.seats.get_mut(&ticket) {
            forget(&mut self.shares, seat, ticket);
            seat.displaced = Some(wait);
            self.woken.extend(seat.waker.take());
        }
    }

    /// When time alone lets in the next one, if it will.
    pub(super) fn due(&mut self, now: Instant) -> Option<Instant> {
        if !self.limits.timed || self.queue.is_empty() {
            return None;
        }
        let Self {
            limits,
            counts,
            all,
            models,
            queue,
            ..
        } = self;
        let full = |gate: &Gate, under_way: usize| gate.most.is_some_and(|most| under_way >= most);
        if full(&limits.all, counts.under_way.load(Ordering::SeqCst)) {
            return None;
        }
        let least = all.bucket.wait(limits.all.rate, now);
        let own = queue.entries().filter_map(|entry| {
            let Some(gate) = limits.model(&entry.name) else {
                return Some(Duration::ZERO);
            };
            let wait = |flow: &mut Flow| flow.bucket.wait(gate.rate, now);
            (!full(gate, entry.under_way()))
                .then(|| models.get_mut(&entry.name).map_or(Duration::ZERO, wait))
        });
        let wait = own.min()?.max(least);
        Some(now.checked_add(wait).unwrap_or(now + NEVER))
    }

    /// Those who are to look how they stand, for the caller to wake once the lock is released.
    pub(super) fn woken(&mut self) -> Vec<Waker> {
        std::mem::take(&mut self.woken)
    }

    /// Whether nobody waits.
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Whether some gate looks at the time.
    pub(super) fn is_timed(&self) -> bool {
        self.limits.timed
    }

    /// Whether the limits that hold have a gate over all models.
    pub(super) fn is_gated(&self) -> bool {
        !self.limits.all.is_open()
    }

    /// Whether they have one for `entry`.
    pub(super) fn is_entry_gated(&self, entry: &EntryCell) -> bool {
        self.limits.model(&entry.name).is_some()
    }

    /// The classes and how many of each wait.
    pub(super) fn waiting(&self) -> impl Iterator<Item = (&Arc<str>, usize)> {
        self.queue.lengths()
    }

    fn is_open(&mut self, now: Instant) -> bool {
        let under_way = self.counts.under_way.load(Ordering::SeqCst);
        lets_in(&self.limits.all, under_way, &mut self.all.bucket, now)
    }

    fn is_model_open(&mut self, entry: &EntryCell, now: Instant) -> bool {
        is_entry_open(&self.limits, &mut self.models, entry, now)
    }

    fn flow(&mut self, entry: &EntryCell) -> &mut Flow {
        self.models.entry(Arc::clone(&entry.name)).or_default()
    }

    fn admit(&mut self, entry: &Arc<EntryCell>, now: Instant) {
        self.counts.under_way.fetch_add(1, Ordering::SeqCst);
        entry.under_way.fetch_add(1, Ordering::SeqCst);
        let limits = Arc::clone(&self.limits);
        self.all.bucket.take(limits.all.rate, now);
        self.all.drain.passed(!self.queue.is_empty(), now);
        if let Some(gate) = limits.model(&entry.name) {
            let more = entry.waiting() > 0;
            let flow = self.flow(entry);
            flow.bucket.take(gate.rate, now);
            flow.drain.passed(more, now);
        }
    }

    fn count(&self) {
        self.counts
            .waiting
            .store(self.queue.len(), Ordering::SeqCst);
    }

    /// When there should be a place for one more of `class` for `entry`, in whole seconds: behind
    /// those of its class at the class's share of what passes the gate over all models, and behind
    /// those for its model at the model's.
    fn expected(&mut self, class: &str, entry: &EntryCell, now: Instant) -> Duration {
        let limits = Arc::clone(&self.limits);
        let mut seconds = 0.0_f64;
        if !limits.all.is_open() {
            let weight = |name: &str| f64::from(limits.weight(name));
            let others = self
                .queue
                .lengths()
                .filter(|(name, n)| *n > 0 && ***name != *class);
            let together: f64 = others.map(|(name, _)| weight(name)).sum();
            let share = weight(class) / (weight(class) + together);
            let places = self.queue.len_of(class) + 1;
            let token = self.all.bucket.wait(limits.all.rate, now).as_secs_f64();
            seconds = (self.all.drain.expected(places, now) / share).max(token);
        }
        if let Some(gate) = limits.model(&entry.name) {
            let places = entry.waiting() + 1;
            let flow = self.flow(entry);
            let token = flow.bucket.wait(gate.rate, now).as_secs_f64();
            seconds = seconds.max(flow.drain.expected(places, now)).max(token);
        }
        let (least, most) = RETRY_AFTER;
        Duration::from_secs_f64(seconds.ceil().clamp(least, most))
    }
}

#[cfg(test)]
impl Lobby {
    /// Whether it is known of nobody that they wait.
    pub(super) fn knows_nobody(&self) -> bool {
        self.shares.is_empty()
    }

    /// Whether one that waited has been let in and has not noticed.
    pub(super) fn is_let_in(&self, ticket: Ticket) -> bool {
        self.seats.get(&ticket).is_some_and(|seat| seat.let_in)
    }
}

/// The request with `ticket` does not wait any more.
fn forget(shares: &mut Shares, seat: &Seat, ticket: Ticket) {
    shares.remove(&Row::Class(Arc::clone(&seat.class)), &seat.who, ticket);
    shares.remove(&Row::Entry(Arc::clone(&seat.entry.name)), &seat.who, ticket);
}

/// Gives back the place of a request for `entry`.
pub(super) fn release(counts: &Counts, entry: &EntryCell) {
    entry.under_way.fetch_sub(1, Ordering::SeqCst);
    counts.under_way.fetch_sub(1, Ordering::SeqCst);
}

fn lets_in(gate: &Gate, under_way: usize, bucket: &mut Bucket, now: Instant) -> bool {
    gate.most.is_none_or(|most| under_way < most) && bucket.has(gate.rate, now)
}

fn is_entry_open(
    limits: &Limits,
    models: &mut AHashMap<Arc<str>, Flow>,
    entry: &EntryCell,
    now: Instant,
) -> bool {
    limits.model(&entry.name).is_none_or(|gate| {
        let flow = models.entry(Arc::clone(&entry.name)).or_default();
        lets_in(gate, entry.under_way(), &mut flow.bucket, now)
    })
}
