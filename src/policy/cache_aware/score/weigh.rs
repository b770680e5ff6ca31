//! What a request would cost at each worker, in prompt tokens that it would wait for.
//!
//! The prompt tokens that the worker has still to compute, and those that it would have to compute
//! for nothing, since another worker has them in its cache, make up the wait. Requests in flight
//! slow it down, and the share that the worker had of the latest requests is set off, so that
//! conversations, which stay where they begin, do not pile up. The figures were found with
//! `make bench-routing`.

use std::sync::atomic::Ordering;

use super::Memory;
use super::blocks::Blocks;
use super::hits::Hits;
use super::share::Window;
use super::workers::Walk;
use crate::policy::{Ask, Candidate};

/// Scores that differ by no more than so many tokens are the same: what a gateway knows of a worker
/// is no more exact, and it is what another gateway may see differently.
pub(super) const TIE: f64 = 100.0;

/// How often a token counts that is in somebody else's cache: the request waits for it, and so do
/// those that come after it.
const EXCESS: f64 = 2.0;

/// What every request costs, in tokens.
const BASE: f64 = 1000.0;

/// With so many requests in flight a worker takes twice as long.
const BATCH: f64 = 16.0;

/// What it costs, in tokens, to have had the mean share of the latest requests once more than
/// [`FAIR`].
const SHARE: f64 = 4000.0;

/// Up to so many times the mean share of the latest requests is chance and costs nothing: a gateway
/// next to this one had other requests, and should choose the same worker for the next one.
const FAIR: f64 = 1.2;

/// The latest requests: so many for each candidate.
const LATEST: u64 = 128;

/// Requests that every worker is taken to have had besides, so that the first few decide nothing.
const EARLIER: f64 = 8.0;

/// A worker this much slower or faster than the mean is as fast as the others: the figure depends
/// on what a worker was asked as well.
const AS_FAST: std::ops::RangeInclusive<f64> = 0.7..=1.43;

/// The figures of one candidate.
#[derive(Debug, Clone, Copy)]
pub(super) struct Weight {
    /// Tokens of the prompt in its cache.
    pub(super) cached: f64,
    /// Tokens of the prompt that are not.
    pub(super) uncached: f64,
    /// Requests in flight: ours, or all where the engine knows of more.
    pub(super) batch: f64,
    /// Its share of the latest requests over the mean share.
    pub(super) share: f64,
    /// Its speed over the mean speed.
    pub(super) speed: f64,
    /// What the request would cost there.
    pub(super) score: f64,
}

/// What all candidates are weighed with.
pub(super) struct Scales<'a> {
    workers: Walk<'a>,
    hits: &'a Hits,
    per_byte: f64,
    tokens: f64,
    most_cached: f64,
    window: Window,
    /// One over the mean number of the latest requests.
    per_recent: f64,
    /// One over the mean speed, as the pick before found it; 0 while unknown.
    per_rate: f64,
}

impl<'a> Scales<'a> {
    /// For the request of `ask`, of which `hits` tells who has what; `token` is how many bytes make
    /// a token.
    pub(super) fn new(
        ask: &Ask<'_>,
        memory: &'a Memory,
        blocks: &Blocks,
        hits: &'a Hits,
        token: f64,
    ) -> Self {
        let candidates = ask.candidates.len();
        let picks = memory.picks.load(Ordering::Relaxed);
        // Every request went to one of them.
        let recent = (picks as f64 / candidates.max(1) as f64).min(LATEST as f64);
        let rate = f64::from_bits(memory.rate.load(Ordering::Relaxed));
        Self {
            workers: memory.workers.walk(),
            hits,
            per_byte: 1.0 / token,
            tokens: f64::from(blocks.len()) / token,
            most_cached: f64::from(hits.most()) / token,
            window: window(picks, candidates),
            per_recent: 1.0 / (recent + EARLIER),
            per_rate: if rate > 0.0 { 1.0 / rate } else { 0.0 },
        }
    }

    /// What `candidate` comes to.
    #[expect(
        clippy::inline_always,
        reason = "the loop over thousands of candidates wants one of the figures, not all"
    )]
    #[inline(always)]
    pub(super) fn weigh(&self, candidate: &Candidate<'_>) -> Weight {
        let cached = f64::from(self.hits.bytes(candidate.lane.index)) * self.per_byte;
        let batch = batch(candidate);
        let share = (self.recent(candidate) + EARLIER) * self.per_recent;
        let speed = self.speed(candidate);
        let excess = self.most_cached - cached;
        let wait = BASE + candidate.pending_prefill as f64 + EXCESS * excess;
        Weight {
            cached,
            uncached: self.tokens - cached,
            batch,
            share,
            speed,
            score: (wait / speed * (1.0 + batch * (1.0 / BATCH)) + SHARE * (share - FAIR).max(0.0))
                * candidate.cost,
        }
    }

    /// The most that any candidate has of the prompt, in tokens.
    pub(super) fn most_cached(&self) -> f64 {
        self.most_cached
    }

    /// Length of the prompt in tokens; `None` for an empty one.
    pub(super) fn tokens(&self) -> Option<f64> {
        (self.tokens > 0.0).then_some(self.tokens)
    }

    #[inline]
    fn recent(&self, candidate: &Candidate<'_>) -> f64 {
        let worker = self.workers.get(candidate.lane.index);
        worker.map_or(0.0, |worker| worker.recent(self.window))
    }

    #[inline]
    fn speed(&self, candidate: &Candidate<'_>) -> f64 {
        let Some(rate) = candidate.prefill_rate else {
            return 1.0;
        };
        let speed = rate * self.per_rate;
        if self.per_rate == 0.0 {
            return 1.0;
        }
        if AS_FAST.contains(&speed) {
            1.0
        } else {
            speed.clamp(0.2, 5.0)
        }
    }
}

/// The mean speed of candidates, taken up one by one.
#[derive(Debug, Default)]
pub(super) struct MeanRate {
    sum: f64,
    count: f64,
}

impl MeanRate {
    /// Takes up `candidate`.
    #[inline]
    pub(super) fn add(&mut self, candidate: &Candidate<'_>) {
        if let Some(rate) = candidate.prefill_rate {
            self.sum += rate;
            self.count += 1.0;
        }
    }

    /// Keeps the mean for the next pick.
    pub(super) fn keep(&self, memory: &Memory) {
        if self.sum > 0.0 {
            let mean = self.sum / self.count;
            memory.rate.store(mean.to_bits(), Ordering::Relaxed);
        }
    }
}

/// Counts a pick among `candidates`; returns its place among all.
pub(super) fn next_window(memory: &Memory, candidates: usize) -> Window {
    let picks = memory.picks.fetch_add(1, Ordering::Relaxed);
    window(picks, candidates)
}

fn window(picks: u64, candidates: usize) -> Window {
    Window::at(picks, LATEST * candidates as u64)
}

#[inline]
fn batch(candidate: &Candidate<'_>) -> f64 {
    let engine = candidate.engine.map_or(0, |engine| {
        engine
            .running
            .unwrap_or(0)
            .saturating_add(engine.waiting.unwrap_or(0))
    });
    (candidate.load as u64).max(engine) as f64
}
