//! What one worker's cache seems to hold: which of the blocks that it was sent are still there.
//!
//! Time is counted in generations of prompt text. A block is there while the text that the worker
//! was sent since the block was last used, each block counted once, fits into its cache; so a block
//! needs nothing but the generation of its last use, and the use of one changes nothing at others.

/// Number of the stretch of traffic in which a block was last used at a worker; 0 means never.
pub(super) type Generation = u16;

/// Generations that are told apart. What is older counts as gone.
const RING: usize = 512;

/// A generation lasts for this share of the cache.
const SHARE: u64 = 128;

/// The shortest generation, in bytes of text.
const SHORTEST: u64 = 4096;

/// The smallest cache that is believed in, in bytes of text.
const SMALLEST: u64 = 64 * 1024;

/// How fast the size that is believed in follows the evidence.
const PACE: f64 = 0.15;

/// The generations of one worker.
#[derive(Debug)]
pub(super) struct Clock {
    /// Bytes whose last use was in a generation, by generation modulo the length.
    counts: Box<[u32; RING]>,
    now: Generation,
    /// The oldest generation whose blocks are there.
    horizon: Generation,
    /// The horizon does not go back beyond this one.
    floor: Generation,
    /// Sum of the counts from the horizon on.
    held: u64,
    capacity: u64,
}

impl Clock {
    /// Bytes that one takes beside itself.
    pub(super) const BYTES: usize = RING * size_of::<u32>();

    /// Of an empty cache of `capacity` bytes of text.
    pub(super) fn new(capacity: u64) -> Self {
        Self {
            counts: Box::new([0; RING]),
            now: 1,
            horizon: 1,
            floor: 1,
            held: 0,
            capacity: capacity.max(SMALLEST),
        }
    }

    /// The present and the oldest living generation.
    pub(super) fn span(&self) -> Span {
        Span {
            now: self.now,
            horizon: self.horizon,
        }
    }

    /// Bytes of text that the cache is believed to have room for.
    pub(super) fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Bytes of text believed to be there.
    #[cfg(test)]
    pub(super) fn held(&self) -> u64 {
        self.held
    }

    /// Blocks were used in generation `at`: `moved` lists what had been used before, with the
    /// generation and the bytes, `fresh` counts the bytes of what had not.
    pub(super) fn used(&mut self, at: Generation, moved: &[(Generation, u32)], fresh: u32) {
        let mut sum = fresh;
        for (old, bytes) in moved {
            sum = sum.saturating_add(*bytes);
            if self.is_known(*old) {
                let lives = self.span().holds(*old);
                let taken = self.count_mut(*old).map_or(0, |count| {
                    let taken = (*count).min(*bytes);
                    *count -= taken;
                    taken
                });
                if lives {
                    self.held = self.held.saturating_sub(u64::from(taken));
                }
            }
        }
        if !self.is_known(at) {
            return;
        }
        let lives = self.span().holds(at);
        let full = self.capacity / SHARE;
        if let Some(count) = self.count_mut(at) {
            *count = count.saturating_add(sum);
            if lives {
                self.held += u64::from(sum);
            }
        }
        if u64::from(self.count(self.now)) >= full.max(SHORTEST) {
            self.advance();
        }
        self.settle();
    }

    /// How much else was used since generation `since`, in bytes; `None` where that is not known.
    pub(super) fn age(&self, since: Generation) -> Option<u64> {
        if !self.is_known(since) {
            return None;
        }
        let mut at = since;
        let mut sum = u64::from(self.count(at));
        while at != self.now {
            at = next(at);
            sum += u64::from(self.count(at));
        }
        Some(sum)
    }

    /// The engine has told its size.
    pub(super) fn resize(&mut self, capacity: u64) {
        self.capacity = capacity.max(SMALLEST);
        self.settle();
    }

    /// A block of this age was there, or was not, against what the size says.
    pub(super) fn surprise(&mut self, age: u64, there: bool) {
        if (age <= self.capacity) == there {
            return;
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "both are sizes of caches, far below 2^53"
        )]
        let capacity = (self.capacity as f64 * (1.0 - PACE) + age as f64 * PACE) as u64;
        self.resize(capacity);
    }

    /// The cache is empty.
    pub(super) fn clear(&mut self) {
        self.advance();
        self.counts.fill(0);
        self.held = 0;
        self.horizon = self.now;
        self.floor = self.now;
    }

    fn advance(&mut self) {
        let now = next(self.now);
        if usize::from(now.wrapping_sub(self.floor)) >= RING - 1 {
            if self.horizon == self.floor {
                let lost = u64::from(self.count(self.floor));
                self.held = self.held.saturating_sub(lost);
                self.horizon = next(self.horizon);
            }
            self.floor = next(self.floor);
        }
        self.now = now;
        if let Some(count) = self.count_mut(now) {
            *count = 0;
        }
    }

    /// Puts the horizon where as many generations live as the cache has room for.
    fn settle(&mut self) {
        while self.held > self.capacity && self.horizon != self.now {
            self.held -= u64::from(self.count(self.horizon)).min(self.held);
            self.horizon = next(self.horizon);
        }
        while self.horizon != self.floor {
            let before = previous(self.horizon);
            let held = self.held + u64::from(self.count(before));
            if held > self.capacity {
                return;
            }
            self.held = held;
            self.horizon = before;
        }
    }

    fn is_known(&self, generation: Generation) -> bool {
        let known = Span {
            now: self.now,
            horizon: self.floor,
        };
        known.holds(generation)
    }

    fn count(&self, generation: Generation) -> u32 {
        let count = self.counts.get(usize::from(generation) % RING);
        count.copied().unwrap_or(0)
    }

    fn count_mut(&mut self, generation: Generation) -> Option<&mut u32> {
        self.counts.get_mut(usize::from(generation) % RING)
    }
}

/// The generations that are believed to be in a cache.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Span {
    /// The present one.
    pub(super) now: Generation,
    /// The oldest that lives.
    pub(super) horizon: Generation,
}

impl Span {
    /// Whether what was last used in `generation` is still there.
    pub(super) const fn holds(self, generation: Generation) -> bool {
        generation != 0 && self.now.wrapping_sub(generation) <= self.now.wrapping_sub(self.horizon)
    }

    /// As one word.
    pub(super) const fn pack(self) -> u32 {
        (self.now as u32) << 16 | self.horizon as u32
    }

    /// From [`pack`](Self::pack).
    pub(super) const fn unpack(word: u32) -> Self {
        Self {
            now: (word >> 16) as Generation,
            horizon: (word & 0xffff) as Generation,
        }
    }
}

fn next(generation: Generation) -> Generation {
    generation.wrapping_add(1).max(1)
}

fn previous(generation: Generation) -> Generation {
    match generation.wrapping_sub(1) {
        0 => Generation::MAX,
        before => before,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_horizon_leaves_as_much_as_there_is_room_for() {
        let mut clock = Clock::new(1 << 20);
        let mut first = None;
        for _ in 0..200 {
            let at = clock.span().now;
            first.get_or_insert(at);
            clock.used(at, &[], 16 * 1024);
        }
        let span = clock.span();
        assert!(!span.holds(first.unwrap()));
        assert!(span.holds(span.now.wrapping_sub(50)));
        assert!(clock.held() <= 1 << 20 && clock.held() > (1 << 20) - (64 << 10));
    }

    #[test]
    fn what_is_used_again_counts_once() {
        let mut clock = Clock::new(1 << 20);
        let mut last = clock.span().now;
        clock.used(last, &[], 30_000);
        for _ in 0..5000 {
            let at = clock.span().now;
            clock.used(at, &[(last, 30_000)], 0);
            last = at;
        }
        assert_eq!(clock.held(), 30_000);
        assert_eq!(clock.age(last), Some(30_000));
        assert!(clock.span().holds(last));
    }

    #[test]
    fn nothing_outlives_an_empty_cache() {
        let mut clock = Clock::new(1 << 20);
        let at = clock.span().now;
        clock.used(at, &[], 10_000);
        clock.clear();
        assert!(!clock.span().holds(at));
        clock.resize(1 << 30);
        assert!(!clock.span().holds(at));
        assert_eq!((clock.held(), clock.age(at)), (0, None));
    }

    #[test]
    fn the_size_follows_the_evidence() {
        let mut rng = fastrand::Rng::with_seed(3);
        let mut clock = Clock::new(16 << 20);
        let real = 1_500_000;
        for _ in 0..2000 {
            let age = rng.u64(0..4_000_000);
            clock.surprise(age, age <= real);
        }
        let error = clock.capacity().abs_diff(real);
        assert!(error < real / 4, "{}", clock.capacity());
    }

    proptest! {
        #[test]
        fn counts_stay_true_whatever_happens(
            steps in prop::collection::vec((0usize..40, 1u32..60_000), 1..900),
            capacity in 60_000u64..4_000_000,
        ) {
            // Forty things, each used over and over in a random order.
            let mut clock = Clock::new(capacity);
            let mut last = [None::<(Generation, u32)>; 40];
            for (thing, bytes) in steps {
                let at = clock.span().now;
                match last[thing] {
                    Some(before) => {
                        clock.used(at, &[before], 0);
                        last[thing] = Some((at, before.1));
                    }
                    None => {
                        clock.used(at, &[], bytes);
                        last[thing] = Some((at, bytes));
                    }
                }
                let span = clock.span();
                let living = last.iter().flatten().filter(|(at, _)| span.holds(*at));
                let held: u64 = living.map(|(_, bytes)| u64::from(*bytes)).sum();
                prop_assert_eq!(held, clock.held());
                prop_assert!(held <= clock.capacity() || span.horizon == span.now);
            }
        }
    }
}
