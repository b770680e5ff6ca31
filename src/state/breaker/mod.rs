//! The breaker of a worker. The cell counts; the thresholds of the plan, which come with each
//! question, judge.
//!
//! Invariant: an outcome moves the breaker only in the period in which its request entered. What was
//! sent before the breaker opened may fail long after the worker has come back.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::plan::Breaker;

/// A worker that asks to be left alone for a while counts as failing once in this time at most.
const OVERLOADED: Duration = Duration::from_secs(1);

/// Period of an entry that moves nothing.
const NEVER: u64 = u64::MAX;

/// Where a breaker stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerState {
    /// Requests go to the worker.
    Closed,
    /// None does.
    Open,
    /// A few try whether it answers again.
    HalfOpen,
}

impl BreakerState {
    /// The word in JSON, labels and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }

    const fn from_bits(bits: u64) -> Self {
        match bits {
            1 => Self::Open,
            2 => Self::HalfOpen,
            _ => Self::Closed,
        }
    }
}

/// What a request says about the worker that had it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It answered.
    Success,
    /// It did not, or it failed.
    Failure,
    /// It has too much to do and says when to come back.
    Overloaded,
    /// Nothing: the client was at fault or has gone.
    Neutral,
}

/// A breaker has changed its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn {
    /// Before.
    pub from: BreakerState,
    /// After.
    pub to: BreakerState,
}

/// The changes that there are, in the order of [`Tally::turns`].
pub const TURNS: [Turn; 4] = [
    turn(BreakerState::Closed, BreakerState::Open),
    turn(BreakerState::Open, BreakerState::HalfOpen),
    turn(BreakerState::HalfOpen, BreakerState::Open),
    turn(BreakerState::HalfOpen, BreakerState::Closed),
];

const fn turn(from: BreakerState, to: BreakerState) -> Turn {
    Turn { from, to }
}

/// What a breaker has counted so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Requests that succeeded.
    pub successes: u64,
    /// Those that failed.
    pub failures: u64,
    /// Those that say nothing.
    pub neutral: u64,
    /// Failures since the last success.
    pub failures_in_a_row: u64,
    /// Successes since the last failure.
    pub successes_in_a_row: u64,
    /// Changes of state, as [`TURNS`] lists them.
    pub turns: [u64; TURNS.len()],
}

/// The leave to send one request, which [`BreakerCell::leave`] gives back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    period: u64,
    /// Whether it holds one of the places of a half-open breaker.
    place: bool,
}

/// The breaker of one worker, shared by all snapshots and by all pools it stands in.
#[derive(Debug, Default)]
pub struct BreakerCell {
    /// Number of the period, and behind it two bits of the state. Written under the lock only.
    word: AtomicU64,
    /// Written under the lock only.
    failures_in_a_row: AtomicU32,
    successes_in_a_row: AtomicU64,
    successes: AtomicU64,
    failures: AtomicU64,
    neutral: AtomicU64,
    turns: [AtomicU64; TURNS.len()],
    rest: Mutex<Rest>,
}

/// What is not looked at while all goes well.
#[derive(Debug, Default)]
struct Rest {
    opened: Option<Instant>,
    last_failure: Option<Instant>,
    last_overload: Option<Instant>,
    /// Places taken while half-open.
    trying: u32,
}

impl Rest {
    fn is_due(&self, timeout: Duration, now: Instant) -> bool {
        self.opened
            .is_none_or(|at| now.saturating_duration_since(at) >= timeout)
    }
}

impl BreakerCell {
    /// Whether a request would be let in now. Changes nothing.
    #[inline]
    pub fn admits(&self, thresholds: &Breaker, now: Instant) -> bool {
        if self.state_now() == BreakerState::Closed || !thresholds.enabled {
            return true;
        }
        let rest = self.rest.lock();
        match self.state_now() {
            BreakerState::Closed => true,
            BreakerState::Open => rest.is_due(thresholds.timeout, now),
            BreakerState::HalfOpen => rest.trying < thresholds.success_threshold,
        }
    }

    /// Whether it is closed, or does not matter as it is switched off.
    pub fn is_closed(&self, thresholds: &Breaker) -> bool {
        !thresholds.enabled || self.state_now() == BreakerState::Closed
    }

    /// The state as a request would find it now. Changes nothing.
    pub fn state(&self, thresholds: &Breaker, now: Instant) -> BreakerState {
        if self.is_closed(thresholds) {
            return BreakerState::Closed;
        }
        let rest = self.rest.lock();
        match self.state_now() {
            BreakerState::Open if rest.is_due(thresholds.timeout, now) => BreakerState::HalfOpen,
            state => state,
        }
    }

    /// Looks at it: opens it half where that is due, and tells the state.
    pub fn look(&self, thresholds: &Breaker, now: Instant) -> BreakerState {
        if self.is_closed(thresholds) {
            return BreakerState::Closed;
        }
        let mut rest = self.rest.lock();
        self.open_half_if_due(&mut rest, thresholds, now);
        self.state_now()
    }

    /// What has been counted.
    pub fn tally(&self) -> Tally {
        let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let mut turns = [0; TURNS.len()];
        for (told, count) in turns.iter_mut().zip(&self.turns) {
            *told = get(count);
        }
        Tally {
            successes: get(&self.successes),
            failures: get(&self.failures),
            neutral: get(&self.neutral),
            failures_in_a_row: u64::from(self.failures_in_a_row.load(Ordering::Relaxed)),
            successes_in_a_row: get(&self.successes_in_a_row),
            turns,
        }
    }

    /// The worker is well again, as its probes say: an open breaker need not wait for its time.
    pub fn worker_is_back(&self) {
        if self.state_now() != BreakerState::Open {
            return;
        }
        let mut rest = self.rest.lock();
        if self.state_now() == BreakerState::Open {
            self.open_half(&mut rest);
        }
    }

    /// Asks for leave to send a request; `None` while nobody may, or enough others try already.
    #[inline]
    pub(super) fn enter(&self, thresholds: &Breaker, now: Instant) -> Option<Entry> {
        let word = self.word.load(Ordering::Relaxed);
        if state_of(word) == BreakerState::Closed {
            return Some(Entry {
                period: period_of(word),
                place: false,
            });
        }
        if !thresholds.enabled {
            return Some(Entry {
                period: NEVER,
                place: false,
            });
        }
        self.enter_slowly(thresholds, now)
    }

    fn enter_slowly(&self, thresholds: &Breaker, now: Instant) -> Option<Entry> {
        let mut rest = self.rest.lock();
        self.open_half_if_due(&mut rest, thresholds, now);
        let word = self.word.load(Ordering::Relaxed);
        let place = match state_of(word) {
            BreakerState::Closed => false,
            BreakerState::Open => return None,
            BreakerState::HalfOpen if rest.trying < thresholds.success_threshold => {
                rest.trying += 1;
                true
            }
            BreakerState::HalfOpen => return None,
        };
        Some(Entry {
            period: period_of(word),
            place,
        })
    }

    /// Gives `entry` back with what its request says. Returns the change that this makes.
    #[inline]
    pub(super) fn leave(
        &self,
        entry: Entry,
        outcome: Outcome,
        thresholds: &Breaker,
        now: Instant,
    ) -> Option<Turn> {
        match outcome {
            Outcome::Success => {
                self.successes.fetch_add(1, Ordering::Relaxed);
                let word = self.word.load(Ordering::Relaxed);
                let calm = state_of(word) == BreakerState::Closed
                    && self.failures_in_a_row.load(Ordering::Relaxed) == 0;
                if calm && period_of(word) == entry.period {
                    self.successes_in_a_row.fetch_add(1, Ordering::Relaxed);
                    return None;
                }
                self.succeed(entry, thresholds)
            }
            Outcome::Neutral => {
                self.step_back(entry);
                None
            }
            Outcome::Failure | Outcome::Overloaded => self.fail(entry, outcome, thresholds, now),
        }
    }

    /// Gives `entry` back with nothing said.
    pub(super) fn step_back(&self, entry: Entry) {
        self.neutral.fetch_add(1, Ordering::Relaxed);
        if entry.place {
            self.vacate(entry, &mut self.rest.lock());
        }
    }

    fn vacate(&self, entry: Entry, rest: &mut Rest) {
        if entry.place && self.is_current(entry) {
            rest.trying = rest.trying.saturating_sub(1);
        }
    }

    fn succeed(&self, entry: Entry, thresholds: &Breaker) -> Option<Turn> {
        let mut rest = self.rest.lock();
        self.vacate(entry, &mut rest);
        if !self.is_current(entry) {
            return None;
        }
        self.failures_in_a_row.store(0, Ordering::Relaxed);
        let run = self.successes_in_a_row.fetch_add(1, Ordering::Relaxed) + 1;
        let enough = run >= u64::from(thresholds.success_threshold);
        let half_open = self.state_now() == BreakerState::HalfOpen;
        (half_open && enough).then(|| self.turn_to(BreakerState::Closed))
    }

    fn fail(
        &self,
        entry: Entry,
        outcome: Outcome,
        thresholds: &Breaker,
        now: Instant,
    ) -> Option<Turn> {
        let mut rest = self.rest.lock();
        if outcome == Outcome::Overloaded {
            let counted = rest.last_overload.replace(now);
            if let Some(before) = counted
                && now.saturating_duration_since(before) < OVERLOADED
            {
                rest.last_overload = counted;
                self.neutral.fetch_add(1, Ordering::Relaxed);
                self.vacate(entry, &mut rest);
                return None;
            }
        }
        self.failures.fetch_add(1, Ordering::Relaxed);
        self.vacate(entry, &mut rest);
        if !self.is_current(entry) {
            return None;
        }
        let forgotten = rest
            .last_failure
            .replace(now)
            .is_none_or(|before| now.saturating_duration_since(before) > thresholds.window);
        let run = if forgotten {
            1
        } else {
            let known = self.failures_in_a_row.load(Ordering::Relaxed);
            known.saturating_add(1)
        };
        self.failures_in_a_row.store(run, Ordering::Relaxed);
        self.successes_in_a_row.store(0, Ordering::Relaxed);
        let opens = match self.state_now() {
            BreakerState::Closed => run >= thresholds.failure_threshold,
            BreakerState::HalfOpen => true,
            BreakerState::Open => false,
        };
        if !opens || !thresholds.enabled {
            return None;
        }
        rest.opened = Some(now);
        Some(self.turn_to(BreakerState::Open))
    }

    fn open_half_if_due(&self, rest: &mut Rest, thresholds: &Breaker, now: Instant) {
        if self.state_now() == BreakerState::Open && rest.is_due(thresholds.timeout, now) {
            self.open_half(rest);
        }
    }

    fn open_half(&self, rest: &mut Rest) {
        rest.trying = 0;
        self.failures_in_a_row.store(0, Ordering::Relaxed);
        self.successes_in_a_row.store(0, Ordering::Relaxed);
        self.turn_to(BreakerState::HalfOpen);
    }

    /// Begins a new period. The caller holds the lock.
    fn turn_to(&self, to: BreakerState) -> Turn {
        let word = self.word.load(Ordering::Relaxed);
        let period = period_of(word) + 1;
        self.word.store(period << 2 | to as u64, Ordering::Relaxed);
        let turn = turn(state_of(word), to);
        if let Some(at) = TURNS.iter().position(|known| *known == turn)
            && let Some(count) = self.turns.get(at)
        {
            count.fetch_add(1, Ordering::Relaxed);
        }
        turn
    }

    fn state_now(&self) -> BreakerState {
        state_of(self.word.load(Ordering::Relaxed))
    }

    fn is_current(&self, entry: Entry) -> bool {
        period_of(self.word.load(Ordering::Relaxed)) == entry.period
    }
}

const fn state_of(word: u64) -> BreakerState {
    BreakerState::from_bits(word & 3)
}

const fn period_of(word: u64) -> u64 {
    word >> 2
}

#[cfg(test)]
mod tests;
