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
mod workers;

use std::cell::RefCell;
use std::sync::atomic::{AtomicU32, Ordering};

use self::blocks::{Blocks, TOKEN_BYTES};
use self::hits::Hits;
use self::index::{Before, Index};
pub use self::workers::Trail;
use self::workers::Workers;
use crate::config::spec::CacheAware;
use crate::policy::{Ask, Candidate, Expected, Feedback, Lane, Pick};

/// Which blocks of prompts are where.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    index: Index,
    workers: Workers,
    /// Bytes of text per token, as answers show, in bits of `f32`; 0 while none came.
    token: AtomicU32,
}

impl Memory {
    pub(super) fn leave(&self, lane: Lane) {
        self.workers.leave(lane);
        self.index.forget(lane.index);
    }

    /// Bytes taken, and blocks known.
    pub(crate) fn size(&self) -> (usize, usize) {
        let (bytes, blocks) = self.index.size();
        (bytes + self.workers.bytes(), blocks)
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

/// The sums of a candidate.
#[derive(Debug, Clone, Copy)]
struct Sum {
    cached: f64,
    uncached: f64,
    batch: f64,
    score: f64,
}

/// Scores that differ by no more than this are the same: what the gateway knows of a worker is no
/// more exact.
const TIE: f64 = 1.02;

/// Requests that every worker is taken to have. A batch of ten is not ten times as slow as one of
/// one, but somewhat slower.
const BATCH: f64 = 8.0;

fn choose(ask: &Ask<'_>, options: &CacheAware, scratch: &mut Scratch) -> Pick {
    let memory = &ask.memory.cache_aware.score;
    let Scratch { blocks, hits } = scratch;
    let token = if blocks.of_tokens() {
        TOKEN_BYTES as f64
    } else {
        memory.token()
    };
    let per_byte = 1.0 / token;
    let tokens = f64::from(blocks.len()) * per_byte;
    hits.find(blocks, memory);

    let sum = |candidate: &Candidate<'_>| {
        let cached = f64::from(hits.bytes(candidate.lane.index)) * per_byte;
        let uncached = tokens - cached;
        let batch = batch(candidate);
        // What is not cached counts twice: for this request, and for all that come after it and find
        // the worker busy with what another one has done already.
        let work = uncached + candidate.pending_prefill as f64;
        Sum {
            cached,
            uncached,
            batch,
            score: (work + uncached + 1.0) * (batch + BATCH) * candidate.cost,
        }
    };
    let mut least = f64::INFINITY;
    let mut most_cached = 0.0_f64;
    for candidate in ask.candidates {
        let sum = sum(candidate);
        least = least.min(sum.score);
        most_cached = most_cached.max(sum.cached);
    }
    // What tells prompts apart that nobody has: the first block that is new everywhere.
    let new = hits.deepest().min(blocks.hashes().len().saturating_sub(1));
    let name = blocks.hashes().get(new).copied().unwrap_or(0);
    let mut best = 0;
    let mut best_place = (f64::INFINITY, u64::MAX);
    for (index, candidate) in ask.candidates.iter().enumerate() {
        let sum = sum(candidate);
        if ask.notes.is_some() {
            note(ask, index, &sum);
        }
        if sum.score > least * TIE {
            continue;
        }
        // Among equals those with most in their cache.
        let place = (-sum.cached, rendezvous(memory, candidate, name));
        if place.0 < best_place.0 || place.0 == best_place.0 && place.1 < best_place.1 {
            best = index;
            best_place = place;
        }
    }
    let Some(chosen) = ask.candidates.get(best) else {
        return Pick::of(0, "cold");
    };
    let sum = sum(chosen);
    let reason = if sum.cached > 0.0 {
        "cache_hit"
    } else if most_cached > 0.0 {
        "spill"
    } else {
        "cold"
    };
    let trail = record(ask, options, memory, scratch, chosen, token);
    Pick {
        index: best,
        reason,
        expected: Expected {
            prefill_tokens: whole(sum.uncached),
            cached_tokens: Some(whole(sum.cached)),
            prompt_bytes: scratch.blocks.len(),
            of_tokens: scratch.blocks.of_tokens(),
            trail,
        },
        matched: Some(matched(most_cached, tokens)),
    }
}

/// The share of a prompt of `tokens` that is in some worker's cache.
#[expect(clippy::cast_possible_truncation, reason = "a ratio")]
fn matched(cached: f64, tokens: f64) -> f32 {
    (cached / tokens.max(1.0)).clamp(0.0, 1.0) as f32
}

/// Requests at a worker: ours, or all where its engine knows of more.
fn batch(candidate: &Candidate<'_>) -> f64 {
    let engine = candidate.engine.map_or(0, |engine| {
        let waiting = engine.waiting.unwrap_or(0);
        engine.running.unwrap_or(0).saturating_add(waiting)
    });
    (candidate.load as u64).max(engine) as f64
}

fn note(ask: &Ask<'_>, index: usize, sum: &Sum) {
    ask.note(index, "cached_tokens", sum.cached);
    ask.note(index, "uncached_tokens", sum.uncached);
    if let Some(candidate) = ask.candidates.get(index) {
        ask.note(index, "pending_prefill", candidate.pending_prefill as f64);
    }
    ask.note(index, "batch", sum.batch);
    ask.note(index, "score", sum.score);
}

/// A number for a worker and a prefix that is the same in every gateway.
fn rendezvous(memory: &Memory, candidate: &Candidate<'_>, prefix: u64) -> u64 {
    let name = memory
        .workers
        .get(candidate.lane.index)
        .map_or(0, |worker| worker.name(candidate.key));
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
        return Trail::default();
    };
    let Scratch { blocks, hits } = scratch;
    let lane = chosen.lane.index;
    let told = chosen.engine.and_then(|engine| engine.capacity_tokens);
    if !ask.takes() {
        return Trail::default();
    }
    let now = worker.begin(told, token);
    let memory_bytes = usize::try_from(options.memory.get()).unwrap_or(usize::MAX);
    let limit = Index::share(memory_bytes.saturating_sub(memory.workers.bytes()));

    let hashes = blocks.hashes();
    // Blocks that come first were used no earlier than those that follow, so those that were used
    // in this generation come first of all.
    let current = hashes.partition_point(|hash| memory.index.last_use(*hash, lane) == Some(now));
    let mut known = current;
    let mut known_at = now;
    let cached = hits.depth(lane).max(current);
    let mut cached_at = now;
    let mut fresh = 0;
    hits.moved.clear();
    for (index, hash) in hashes.iter().enumerate().skip(current) {
        let width = blocks.width(index);
        match memory.index.touch(*hash, lane, now, limit) {
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
