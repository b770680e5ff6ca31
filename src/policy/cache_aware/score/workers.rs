//! What is believed of each worker: its cache, by lane.

use std::cell::Cell;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;
use xxhash_rust::xxh3::xxh3_64;

use super::clock::{Clock, Generation, Span};
use super::share::{Recent, Window};
use crate::plan::WorkerKey;
use crate::policy::Lane;

/// Workers that are made together.
const CHUNK: usize = 64;

/// Chunks that there can be.
const CHUNKS: usize = (u16::MAX as usize + 1) / CHUNK;

/// Room for text that a cache is believed to have until something is known of it.
pub(super) const ASSUMED: u64 = 4 << 20;

/// Answers in a row that found nothing of what had only just been sent, after which a worker is
/// believed to have lost its cache.
const STRIKES: u8 = 3;

/// A prefix that was sent while the worker was sent no more than this may still be on its way into
/// the cache.
const FRESH: u64 = 32 * 1024;

/// How much of the greatest age at which something was found is still believed at the next answer.
const FADING: f64 = 0.99;

/// A found prefix may be so much shorter than expected: engines keep whole pages, and bytes per
/// token vary.
const SLACK: u64 = 512;

/// Workers of neighbouring lanes, made when the first of them is needed.
type Chunk = OnceLock<Box<[Worker]>>;

/// Workers by lane.
#[derive(Debug, Default)]
pub(crate) struct Workers {
    chunks: OnceLock<Box<[Chunk]>>,
    /// Chunks that are made.
    made: AtomicUsize,
}

impl Workers {
    /// The worker at `lane`, whoever it is.
    pub(super) fn get(&self, lane: u16) -> Option<&Worker> {
        let lane = usize::from(lane);
        self.chunk(lane / CHUNK)?.get(lane % CHUNK)
    }

    /// For reading many.
    pub(super) fn walk(&self) -> Walk<'_> {
        Walk {
            workers: self,
            chunk: Cell::new((usize::MAX, &[])),
        }
    }

    fn chunk(&self, number: usize) -> Option<&[Worker]> {
        let chunks = self
            .chunks
            .get_or_init(|| (0..CHUNKS).map(|_| Chunk::new()).collect());
        let chunk = chunks.get(number)?.get_or_init(|| {
            self.made.fetch_add(1, Ordering::Relaxed);
            (0..CHUNK).map(|_| Worker::default()).collect()
        });
        Some(chunk)
    }

    /// The worker at `lane`, unless another one has taken its place.
    pub(super) fn of(&self, lane: Lane) -> Option<&Worker> {
        let worker = self.get(lane.index)?;
        let turn = u32::from(lane.turn) + 1;
        if worker.turn.load(Ordering::Relaxed) == turn {
            return Some(worker);
        }
        worker.takes_over(lane.turn).then_some(worker)
    }

    /// The worker at `lane` has left.
    pub(super) fn leave(&self, lane: Lane) {
        if self.chunks.get().is_none() {
            return;
        }
        if let Some(worker) = self.get(lane.index) {
            let mut belief = worker.belief.lock();
            worker.begin_again(&mut belief, lane.turn.wrapping_add(1));
        }
    }

    /// The worker at `lane` has emptied its cache.
    pub(super) fn flush(&self, lane: Lane) {
        if self.chunks.get().is_some()
            && let Some(worker) = self.of(lane)
            && let Some(belief) = worker.belief.lock().as_mut()
        {
            belief.clock.clear();
            worker.publish(&belief.clock);
        }
    }

    /// Bytes taken.
    pub(super) fn bytes(&self) -> usize {
        let Some(chunks) = self.chunks.get() else {
            return 0;
        };
        let made = self.made.load(Ordering::Relaxed);
        size_of_val::<[_]>(chunks) + made * CHUNK * (size_of::<Worker>() + Clock::BYTES)
    }
}

/// Workers one after another, mostly in the order of their lanes.
#[derive(Debug)]
pub(super) struct Walk<'a> {
    workers: &'a Workers,
    /// Where the worker before was, with its number.
    chunk: Cell<(usize, &'a [Worker])>,
}

impl<'a> Walk<'a> {
    /// See [`Workers::get`].
    #[inline]
    pub(super) fn get(&self, lane: u16) -> Option<&'a Worker> {
        let lane = usize::from(lane);
        let number = lane / CHUNK;
        let (known, mut chunk) = self.chunk.get();
        if known != number {
            chunk = self.workers.chunk(number)?;
            self.chunk.set((number, chunk));
        }
        chunk.get(lane % CHUNK)
    }

    /// See [`Workers::of`].
    #[inline]
    pub(super) fn of(&self, lane: Lane) -> Option<&'a Worker> {
        let worker = self.get(lane.index)?;
        if worker.turn.load(Ordering::Relaxed) == u32::from(lane.turn) + 1 {
            return Some(worker);
        }
        worker.takes_over(lane.turn).then_some(worker)
    }
}

/// One worker.
#[derive(Debug, Default)]
pub(super) struct Worker {
    /// [`Span`] of the clock, for readers; 0 while nothing was sent there.
    span: AtomicU32,
    /// The turn of the lane plus one; 0 while nobody has asked.
    turn: AtomicU32,
    /// Hash of the worker's key; 0 while nobody has asked.
    name: AtomicU64,
    /// The latest requests, as [`Recent`].
    recent: AtomicU64,
    belief: Mutex<Option<Box<Belief>>>,
}

/// What is believed of a worker's cache.
#[derive(Debug)]
struct Belief {
    clock: Clock,
    /// What the engine said of its size last, in tokens.
    told: Option<u64>,
    /// Whether the worker has ever found something: one that never does may just not tell.
    tells: bool,
    /// The greatest age of what was found lately.
    proven: f64,
    strikes: u8,
}

impl Belief {
    fn new() -> Self {
        Self {
            clock: Clock::new(ASSUMED),
            told: None,
            tells: false,
            proven: 0.0,
            strikes: 0,
        }
    }
}

/// What a pick expected of the chosen worker's cache, to be held against the answer.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Trail {
    /// Bytes of the prompt that are believed to be cached.
    pub cached: u32,
    /// Bytes that the worker was sent since it used the last of them, in 256 B.
    pub cached_age: u32,
    /// Bytes of the prompt that were sent there at some time.
    pub known: u32,
    /// The same for the last of these; 0 where it is too long ago.
    pub known_age: u32,
}

impl Trail {
    /// Nothing is expected.
    pub(crate) const NONE: Self = Self {
        cached: 0,
        cached_age: 0,
        known: 0,
        known_age: 0,
    };
}

/// What the ages in a [`Trail`] count.
const AGE_UNIT: u64 = 256;

impl Worker {
    /// Whether whoever has the lane in `turn` comes after the one that is known, or is the first.
    /// While nothing was sent anywhere nobody is told of workers that leave, and the first to ask may
    /// be a request that still sees one of those.
    fn takes_over(&self, turn: u16) -> bool {
        const HALF: u16 = 1 << 15;
        let mut belief = self.belief.lock();
        let known = self.turn.load(Ordering::Relaxed).checked_sub(1);
        let ahead = known.map(|known| u32::from(turn).wrapping_sub(known) as u16);
        match ahead {
            Some(0) => true,
            Some(HALF..) => false,
            Some(_) | None => {
                self.begin_again(&mut belief, turn);
                true
            }
        }
    }

    fn begin_again(&self, belief: &mut Option<Box<Belief>>, turn: u16) {
        *belief = None;
        self.recent.store(0, Ordering::Relaxed);
        self.span.store(0, Ordering::Relaxed);
        self.name.store(0, Ordering::Relaxed);
        self.turn.store(u32::from(turn) + 1, Ordering::Relaxed);
    }

    /// The generations believed to be in the cache.
    #[inline]
    pub(super) fn span(&self) -> Span {
        Span::unpack(self.span.load(Ordering::Relaxed))
    }

    /// A number that is the worker's in every gateway.
    #[inline]
    pub(super) fn name(&self, key: &WorkerKey) -> u64 {
        match self.name.load(Ordering::Relaxed) {
            0 => {
                let name = xxh3_64(key.as_str().as_bytes()).max(1);
                self.name.store(name, Ordering::Relaxed);
                name
            }
            name => name,
        }
    }

    /// The generation that starts or goes on with a request now. `told` is the size of the cache as
    /// the engine says, in tokens of `token` bytes.
    pub(super) fn begin(&self, told: Option<u64>, token: f64) -> Generation {
        let span = self.span();
        if told.is_none() && span.now != 0 {
            return span.now;
        }
        let mut belief = self.belief.lock();
        let belief = belief.get_or_insert_with(|| Box::new(Belief::new()));
        if told.is_some() && belief.told != told {
            belief.told = told;
            let bytes = told.unwrap_or(0) as f64 * token;
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "the size of a cache, far below 2^53"
            )]
            belief.clock.resize(bytes as u64);
        }
        self.publish(&belief.clock);
        belief.clock.span().now
    }

    /// How long ago `cached` and `known` were, in the units of a [`Trail`].
    pub(super) fn ages(&self, cached: Generation, known: Generation) -> (u32, u32) {
        let belief = self.belief.lock();
        let Some(belief) = belief.as_ref() else {
            return (0, 0);
        };
        let age = |since| {
            let age = belief.clock.age(since).unwrap_or(0) / AGE_UNIT;
            u32::try_from(age).unwrap_or(u32::MAX)
        };
        let of_cached = age(cached);
        let of_known = if known == cached {
            of_cached
        } else {
            age(known)
        };
        (of_cached, of_known)
    }

    /// See [`Clock::used`].
    pub(super) fn used(&self, at: Generation, moved: &[(Generation, u32)], fresh: u32) {
        let mut belief = self.belief.lock();
        if let Some(belief) = belief.as_mut() {
            belief.clock.used(at, moved, fresh);
            self.publish(&belief.clock);
        }
    }

    /// The worker has found `found` bytes of a prompt in its cache.
    pub(super) fn learn(&self, trail: Trail, found: u64) {
        let mut belief = self.belief.lock();
        let Some(belief) = belief.as_mut() else {
            return;
        };
        belief.tells |= found > 0;
        if !belief.tells {
            return;
        }
        let clock = &mut belief.clock;
        let (cached, known) = (u64::from(trail.cached), u64::from(trail.known));
        let cached_age = u64::from(trail.cached_age) * AGE_UNIT;
        let known_age = u64::from(trail.known_age) * AGE_UNIT;
        let near = |expected: u64| found + SLACK >= expected - expected / 8;
        if near(cached) {
            belief.strikes = 0;
            if cached > 0 {
                belief.proven = (belief.proven * FADING).max(cached_age as f64);
            }
            if known > cached + SLACK && known_age > 0 && near(known) {
                clock.surprise(known_age, true);
            }
        } else if found + SLACK < cached / 2 && cached_age > FRESH {
            if found == 0 && (cached_age as f64) < belief.proven * 0.75 {
                // Older things were there: this is not for want of room.
                belief.strikes += 1;
                if belief.strikes >= STRIKES {
                    belief.strikes = 0;
                    clock.clear();
                }
            } else {
                belief.strikes = 0;
                clock.surprise(cached_age, false);
            }
        }
        self.publish(&belief.clock);
    }

    /// Bytes of text that the cache is believed to have room for; `None` while nothing was sent.
    pub(super) fn capacity(&self) -> Option<u64> {
        self.belief
            .lock()
            .as_ref()
            .map(|belief| belief.clock.capacity())
    }

    /// Requests that went there, of as many as a window holds.
    #[inline]
    pub(super) fn recent(&self, window: Window) -> f64 {
        Recent::unpack(self.recent.load(Ordering::Relaxed)).at(window)
    }

    /// One more went there.
    pub(super) fn count(&self, window: Window) {
        // A count that is lost between two threads is one of hundreds.
        let recent = Recent::unpack(self.recent.load(Ordering::Relaxed));
        self.recent
            .store(recent.and_one(window).pack(), Ordering::Relaxed);
    }

    fn publish(&self, clock: &Clock) {
        self.span.store(clock.span().pack(), Ordering::Relaxed);
    }
}
