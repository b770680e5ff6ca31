//! `score`: one figure of locality and load, the prefill work that a request would wait for.
//!
//! A prompt is a chain of block hashes ([`blocks`]); an index knows which workers were sent which
//! block ([`index`]); a clock per worker tells which of them its cache still holds ([`clock`]), and
//! answers correct the size that the clock goes by ([`workers`]).

mod blocks;
mod clock;
mod hits;
mod holders;
mod index;
mod share;
mod weigh;
mod workers;

use std::cell::RefCell;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use self::blocks::{Blocks, TOKEN_BYTES};
use self::hits::Hits;
use self::index::{Before, Index};
use self::weigh::{MeanRate, Scales, Weight};
pub use self::workers::Trail;
use self::workers::{Walk, Workers};
use crate::config::spec::CacheAware;
use crate::policy::{Ask, Candidate, Expected, Feedback, Lane, Pick};

/// Which blocks of prompts are where.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    index: Index,
    workers: Workers,
    /// Bytes of text per token, as answers show, in bits of `f32`; 0 while none came.
    token: AtomicU32,
    /// Picks so far.
    picks: AtomicU64,
    /// Mean speed of the latest candidates in prompt tokens per second, in bits of `f64`.
    rate: AtomicU64,
}

/// Size of an index of prompts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IndexSize {
    /// Bytes taken.
    pub bytes: usize,
    /// Blocks known.
    pub blocks: usize,
}

impl Memory {
    pub(super) fn leave(&self, lane: Lane) {
        self.workers.leave(lane);
        self.index.forget(lane.index);
    }

    /// The worker at `lane` has emptied its cache.
    pub(super) fn flush(&self, lane: Lane) {
        self.workers.flush(lane);
        self.index.forget(lane.index);
    }

    /// What it takes; `None` while nothing is known.
    pub(crate) fn size(&self) -> Option<IndexSize> {
        let (bytes, blocks) = self.index.size();
        (blocks > 0).then(|| IndexSize {
            bytes: bytes + self.workers.bytes(),
            blocks,
        })
    }

    /// Tokens that the worker at `lane` is believed to keep; `None` while nothing was sent there.
    pub(crate) fn capacity(&self, lane: Lane) -> Option<f64> {
        let bytes = self.workers.of(lane)?.capacity()?;
        Some(bytes as f64 / self.token())
    }

    /// Bytes of text per token.
    fn token(&self) -> f64 {
        match self.token.load(Ordering::Relaxed) {
            0 => TOKEN_BYTES as f64,
            bits => f64::from(f32::from_bits(bits)),
        }
    }

    fn learn_token(&self, bytes: u32, tokens: u64) {
        if bytes < 64 || tokens < 16 {
            return;
        }
        let seen = (f64::from(bytes) / tokens as f64).clamp(0.5, 16.0);
        let token = match self.token.load(Ordering::Relaxed) {
            0 => seen,
            _ => self.token() * 0.95 + seen * 0.05,
        };
        #[expect(clippy::cast_possible_truncation, reason = "a ratio near 4")]
        self.token
            .store((token as f32).to_bits(), Ordering::Relaxed);
    }
}

/// What a pick needs and the next one uses again.
#[derive(Debug, Default)]
struct Scratch {
    blocks: Blocks,
    hits: Hits,
    /// Candidates that were near the best so far, with their scores.
    near: Vec<(usize, f64)>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

pub(super) fn pick(ask: &Ask<'_>, options: &CacheAware) -> Pick {
    SCRATCH.with_borrow_mut(|scratch| {
        scratch.blocks.read(&ask.hint, options.block_size);
        choose(ask, options, scratch)
    })
}

pub(super) fn learn(memory: &crate::policy::Memory, feedback: Feedback) {
    let memory = &memory.cache_aware.score;
    let (true, Some(tokens)) = (feedback.success, feedback.prompt_tokens) else {
        return;
    };
    let bytes = feedback.expected.prompt_bytes;
    let trail = feedback.expected.trail;
    if !feedback.expected.of_tokens {
        memory.learn_token(bytes, tokens);
    }
    if let Some(cached) = feedback.cached_tokens
        && let Some(worker) = memory.workers.of(feedback.lane)
        && tokens > 0
    {
        let found = u64::from(bytes) * cached.min(tokens) / tokens;
        worker.learn(trail, found);
    }
}

/// The two halves of a pick, each on its own: for benchmarks.
#[derive(Debug, Default)]
pub struct Measure(Scratch);

impl Measure {
    /// Finds the prompt and hashes it.
    pub fn read(&mut self, ask: &Ask<'_>) {
        self.0
            .blocks
            .read(&ask.hint, CacheAware::default().block_size);
    }

    /// Chooses, and notes the choice if the mode says so.
    pub fn choose(&mut self, ask: &Ask<'_>) -> Pick {
        choose(ask, &CacheAware::default(), &mut self.0)
    }
}

fn choose(ask: &Ask<'_>, options: &CacheAware, scratch: &mut Scratch) -> Pick {
    let memory = &ask.memory.cache_aware.score;
    let token = if scratch.blocks.of_tokens() {
        TOKEN_BYTES as f64
    } else {
        memory.token()
    };
    scratch.hits.find(&scratch.blocks, memory);
    let Scratch { blocks, hits, near } = scratch;
    let scales = Scales::new(ask, memory, blocks, hits, token);
    let mut least = f64::INFINITY;
    let mut rate = MeanRate::default();
    near.clear();
    for (index, candidate) in ask.candidates.iter().enumerate() {
        rate.add(candidate);
        let score = scales.weigh(candidate).score;
        if score < least {
            least = score;
        }
        if score <= least + weigh::TIE * candidate.cost {
            near.push((index, score));
        }
    }
    if ask.takes() {
        rate.keep(memory);
    }
    if ask.notes.is_some() {
        for (index, candidate) in ask.candidates.iter().enumerate() {
            note(ask, index, candidate, &scales.weigh(candidate));
        }
    }
    // What tells prompts apart that nobody has: the first block that is new everywhere.
    let new = hits.deepest().min(blocks.hashes().len().saturating_sub(1));
    let name = blocks.hashes().get(new).copied().unwrap_or(0);
    let mut best: Option<(usize, u32, u64)> = None;
    let workers = memory.workers.walk();
    for (index, score) in near.drain(..) {
        let Some(candidate) = ask.candidates.get(index) else {
            continue;
        };
        if score > least + weigh::TIE * candidate.cost {
            continue;
        }
        // Among equals whoever has most of it, and among those the one that every gateway takes.
        let cached = hits.bytes(candidate.lane.index);
        if best.is_some_and(|(_, most, _)| cached < most) {
            continue;
        }
        let place = rendezvous(&workers, candidate, name);
        if best.is_none_or(|(_, most, taken)| cached > most || place > taken) {
            best = Some((index, cached, place));
        }
    }
    let Some((index, _, _)) = best else {
        return Pick::of(0, "cold");
    };
    let Some(weight) = ask.candidates.get(index).map(|chosen| scales.weigh(chosen)) else {
        return Pick::of(0, "cold");
    };
    let most = scales.most_cached();
    let reason = if weight.cached > 0.0 {
        "cache_hit"
    } else if most > 0.0 {
        "spill"
    } else {
        "cold"
    };
    let share = scales.tokens().map(|tokens| most / tokens);
    let trail = match ask.candidates.get(index) {
        Some(chosen) if ask.takes() => record(ask, options, memory, scratch, chosen, token),
        _ => Trail::NONE,
    };
    Pick {
        index,
        reason,
        expected: Expected {
            prefill_tokens: whole(weight.uncached),
            cached_tokens: Some(whole(weight.cached)),
            prompt_bytes: scratch.blocks.len(),
            of_tokens: scratch.blocks.of_tokens(),
            trail,
        },
        #[expect(clippy::cast_possible_truncation, reason = "a share")]
        matched: share.map(|share| share as f32),
    }
}

fn note(ask: &Ask<'_>, index: usize, candidate: &Candidate<'_>, weight: &Weight) {
    ask.note(index, "cached_tokens", weight.cached);
    ask.note(index, "uncached_tokens", weight.uncached);
    ask.note(index, "pending_prefill", candidate.pending_prefill as f64);
    ask.note(index, "batch", weight.batch);
    ask.note(index, "share", weight.share);
    ask.note(index, "speed", weight.speed);
    ask.note(index, "score", weight.score);
}

/// A number for a worker and a prefix that is the same in every gateway.
#[inline]
fn rendezvous(workers: &Walk<'_>, candidate: &Candidate<'_>, prefix: u64) -> u64 {
    // A worker that has left is still a candidate of requests that began before; its name is not that
    // of whoever has its lane now.
    let worker = workers.of(candidate.lane);
    let name = worker.map_or(0, |worker| worker.name(candidate.key));
    let mixed = (name ^ prefix).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ mixed >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93)
}

/// Notes that the prompt goes to `chosen`, where it counts; and what is expected of its cache.
fn record(
    ask: &Ask<'_>,
    options: &CacheAware,
    memory: &Memory,
    scratch: &mut Scratch,
    chosen: &Candidate<'_>,
    token: f64,
) -> Trail {
    let Some(worker) = memory.workers.of(chosen.lane) else {
        return Trail::NONE;
    };
    let Scratch { blocks, hits, .. } = scratch;
    let lane = chosen.lane.index;
    let told = chosen.engine.and_then(|engine| engine.capacity_tokens);
    worker.count(weigh::next_window(memory, ask.candidates.len()));
    let now = worker.begin(told, token);
    let memory_bytes = usize::try_from(options.memory.get()).unwrap_or(usize::MAX);
    let limit = Index::share(memory_bytes.saturating_sub(memory.workers.bytes()));

    let hashes = blocks.hashes();
    // Blocks that come first were used no earlier than those that follow, so those that were used
    // in this generation come first of all.
    let known_blocks = hits.known();
    let current = hashes
        .get(..known_blocks)
        .unwrap_or(hashes)
        .partition_point(|hash| memory.index.last_use(*hash, lane) == Some(now));
    let mut known = current;
    let mut known_at = now;
    let cached = hits.depth(lane).max(current);
    let mut cached_at = now;
    let mut fresh = 0;
    hits.moved.clear();
    for (index, hash) in hashes.iter().enumerate().skip(current) {
        let width = blocks.width(index);
        let before = if index < known_blocks {
            memory.index.touch(*hash, lane, now, limit)
        } else {
            memory.index.insert(*hash, lane, now, limit)
        };
        match before {
            Before::Nothing => fresh += width,
            Before::Used(at) => {
                known = index + 1;
                known_at = at;
                if index < cached {
                    cached_at = at;
                }
                match hits.moved.last_mut() {
                    Some((last, bytes)) if *last == at => *bytes += width,
                    _ => hits.moved.push((at, width)),
                }
            }
        }
    }
    let (cached_age, known_age) = worker.ages(cached_at, known_at);
    if current < hashes.len() {
        worker.used(now, &hits.moved, fresh);
    }
    Trail {
        cached: blocks.start(cached),
        cached_age,
        known: blocks.start(known),
        known_age,
    }
}

fn whole(tokens: f64) -> u32 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a cast saturates, and prompts are shorter"
    )]
    let tokens = tokens as u32;
    tokens
}

#[cfg(test)]
mod tests;
