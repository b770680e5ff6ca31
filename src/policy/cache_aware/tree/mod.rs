//! `tree`: a radix tree of prompts, and thresholds that switch between locality and load.
//!
//! While the loads are balanced, a prompt goes to whoever has most of it in its cache, provided
//! that this is enough of it; in every other case to the worker with least to do. The tree learns
//! where it went.

mod books;
mod evict;
mod node;
mod radix;
mod sequence;
mod shard;
mod text;
mod tokens;
mod trail;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::RwLock;
use xxhash_rust::xxh3::xxh3_64;

use self::evict::Bounds;
use self::radix::Tree;
use self::sequence::{Item, Sequence};
use self::tokens::Pages;
use crate::base::units::Millis;
use crate::config::spec::CacheAware;
use crate::policy::{Ask, Candidate, Expected, Lane, Pick};

/// Characters that a token is taken to have.
const CHARS_PER_TOKEN: u64 = 4;

/// A look-up that adds nothing touches what it found this often …
const TOUCH_ONE_OF: u8 = 8;
/// … or when others have used the tree this often since.
const TOUCH_BEHIND: u64 = 1024;

/// The trees: one of text, one of tokens.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    text: OnceLock<Box<Tree<u8>>>,
    /// Another length of the pages begins with an empty one.
    pages: RwLock<Option<Arc<Pages>>>,
}

/// How much the trees of a leg remember.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TreeSize {
    /// Characters of text.
    pub chars: u64,
    /// Tokens.
    pub tokens: u64,
    /// Workers of which anything is remembered.
    pub workers: usize,
}

impl Memory {
    pub(super) fn leave(&self, lane: Lane) {
        if let Some(text) = self.text.get() {
            text.purge(lane);
        }
        let pages = self.pages.read().clone();
        if let Some(pages) = pages {
            pages.tree.purge(lane);
        }
    }

    /// How much there is; `None` before the first pick.
    pub(in crate::policy) fn size(&self) -> Option<TreeSize> {
        let pages = self.pages.read().clone();
        if self.text.get().is_none() && pages.is_none() {
            return None;
        }
        let mut size = TreeSize::default();
        if let Some(text) = self.text.get() {
            size.chars = text.books.size();
            size.workers = text.books.holders();
        }
        if let Some(pages) = pages {
            size.tokens = pages.tree.books.size() * u64::from(pages.block);
            size.workers = size.workers.max(pages.tree.books.holders());
        }
        Some(size)
    }

    fn text(&self) -> &Tree<u8> {
        self.text.get_or_init(Box::default)
    }

    /// The pages of `block` ids. To look at them only (`takes` is false) replaces nothing.
    fn pages(&self, block: u32, takes: bool) -> Arc<Pages> {
        if let Some(pages) = &*self.pages.read()
            && pages.block == block
        {
            return Arc::clone(pages);
        }
        let fresh = Arc::new(Pages::new(block));
        if takes {
            let mut known = self.pages.write();
            if let Some(pages) = &*known
                && pages.block == block
            {
                return Arc::clone(pages);
            }
            *known = Some(Arc::clone(&fresh));
        }
        fresh
    }
}

pub(super) fn wants_engine_load(options: &CacheAware) -> bool {
    let limits = Limits::of(options);
    limits.overload_token_usage.is_some() || limits.balance_token_usage.is_some()
}

/// Chooses. Prompts are remembered as tokens where these are known, else as text; the two trees
/// share the memory, and the one that is in use takes it from the other.
pub(super) fn pick(ask: &Ask<'_>, options: &CacheAware, rng: &mut fastrand::Rng) -> Pick {
    let memory = &ask.memory.cache_aware.tree;
    let limits = Limits::of(options);
    let bounds = |size, bytes| Bounds {
        size,
        bytes,
        interval: limits.eviction_interval,
    };
    match ask.hint.tokens {
        None => {
            let text = text::of(&ask.hint.prompt);
            let scale = Scale {
                unit: 1,
                total: text.size(),
                per_token: CHARS_PER_TOKEN,
                matched: "matched_chars",
                prompt_bytes: u32::try_from(text.len()).unwrap_or(u32::MAX),
            };
            let tree = memory.text();
            let within = bounds(limits.max_tree_size, limits.memory);
            let (pick, added) = place(ask, &limits, rng, tree, &text, &scale, &within);
            if ask.takes()
                && let Some(pages) = &*memory.pages.read()
            {
                let left = limits.memory.saturating_sub(tree.books.bytes());
                pages.tree.tend(ask.now, &bounds(u64::MAX, left), added);
            }
            pick
        }
        Some(ids) => {
            let pages = memory.pages(options.block_size.max(1), ask.takes());
            let cut = pages.cut(ids);
            let scale = Scale {
                unit: pages.block.into(),
                total: ids.len() as u64,
                per_token: 1,
                matched: "matched_tokens",
                prompt_bytes: 0,
            };
            let tree = &pages.tree;
            let sequence = Sequence::new(vec![&cut]);
            let within = bounds(limits.max_tree_size / scale.unit, limits.memory);
            let (pick, added) = place(ask, &limits, rng, tree, &sequence, &scale, &within);
            if ask.takes()
                && let Some(text) = memory.text.get()
            {
                let left = limits.memory.saturating_sub(tree.books.bytes());
                text.tend(ask.now, &bounds(u64::MAX, left), added);
            }
            pick
        }
    }
}

/// The options, with defaults.
struct Limits {
    cache_threshold: f64,
    balance_abs: f64,
    balance_rel: f64,
    /// `None` where it is off.
    balance_token_usage: Option<f64>,
    /// `None` where it is off.
    overload_token_usage: Option<f64>,
    eviction_interval: Duration,
    max_tree_size: u64,
    memory: u64,
}

impl Limits {
    fn of(options: &CacheAware) -> Self {
        let below_one = |share: Option<f64>| share.filter(|share| *share < 1.0);
        Self {
            cache_threshold: options.cache_threshold.unwrap_or(0.3),
            balance_abs: options.balance_abs_threshold.unwrap_or(64) as f64,
            balance_rel: options.balance_rel_threshold.unwrap_or(1.5),
            balance_token_usage: below_one(options.balance_token_usage_threshold),
            overload_token_usage: below_one(options.overload_token_usage_threshold),
            eviction_interval: options
                .eviction_interval
                .map_or(Duration::from_secs(120), Millis::get),
            max_tree_size: options.max_tree_size.unwrap_or(67_108_864),
            memory: options.memory.get(),
        }
    }

    /// Why locality does not count now, if so.
    fn imbalance(&self, candidates: &[Candidate<'_>]) -> Option<&'static str> {
        let loads = candidates.iter().map(Candidate::weight);
        let (min, max) = ends(loads)?;
        if max - min > self.balance_abs && max > self.balance_rel * min {
            return Some("imbalance_min_load");
        }
        let usage = candidates
            .iter()
            .filter_map(|candidate| candidate.engine?.token_usage);
        let (min, max) = ends(usage)?;
        let over = |value, limit: Option<f64>| limit.is_some_and(|limit| value > limit);
        (over(max, self.overload_token_usage) || over(max - min, self.balance_token_usage))
            .then_some("token_usage_min_load")
    }
}

/// The least and the greatest.
fn ends(mut values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    let first = values.next()?;
    Some(values.fold((first, first), |(min, max), value| {
        (min.min(value), max.max(value))
    }))
}

/// How the sizes of a tree are read.
struct Scale {
    /// Characters or tokens of a size of 1.
    unit: u64,
    /// Characters or tokens of the prompt.
    total: u64,
    /// Characters or tokens in a token.
    per_token: u64,
    /// What a match is called in the notes.
    matched: &'static str,
    prompt_bytes: u32,
}

impl Scale {
    /// Share of the prompt that `size` is.
    fn rate(&self, size: u64) -> f64 {
        if self.total == 0 {
            return 0.0;
        }
        (size * self.unit) as f64 / self.total as f64
    }

    /// What follows from `held` being in the cache.
    fn expect(&self, expected: &mut Expected, held: u64) {
        let held = held * self.unit;
        let tokens = |amount: u64| u32::try_from(amount / self.per_token).unwrap_or(u32::MAX);
        expected.prefill_tokens = tokens(self.total.saturating_sub(held));
        expected.cached_tokens = Some(tokens(held));
        expected.prompt_bytes = self.prompt_bytes;
    }
}

/// Chooses by `tree`, which then learns that the choice has `sequence`. Returns the bytes that came
/// with it as well.
fn place<T: Item>(
    ask: &Ask<'_>,
    limits: &Limits,
    rng: &mut fastrand::Rng,
    tree: &Tree<T>,
    sequence: &Sequence<'_, T>,
    scale: &Scale,
    bounds: &Bounds,
) -> (Pick, u64) {
    let candidates = ask.candidates;
    let model = xxh3_64(ask.hint.model.as_bytes());
    let imbalance = limits.imbalance(candidates);
    let share = |lane| tree.books.share(lane);
    let (pick, lane, known) = tree.look(model, sequence, |trail| {
        let enough = |size| size > 0 && scale.rate(size) >= limits.cache_threshold;
        let chosen = match imbalance {
            Some(reason) => Err(reason),
            None if !enough(trail.matched()) => Err("tree_miss_min_load"),
            None => {
                let roll = Roll::new(candidates);
                let newest = trail.newest(enough, |lane| roll.find(lane));
                newest.map(|(index, _)| index).ok_or("dead_match_min_load")
            }
        };
        let (index, reason) = match chosen {
            Ok(index) => (index, "tree_match"),
            Err(reason) => (lightest(candidates, share, rng), reason),
        };
        if ask.notes.is_some() {
            for (at, candidate) in candidates.iter().enumerate() {
                let held = trail.held_by(candidate.lane);
                ask.note(at, scale.matched, (held * scale.unit) as f64);
                ask.note(at, "match_rate", scale.rate(held));
                let share = share(candidate.lane) * scale.unit;
                ask.note(at, "tree_share", share as f64);
                ask.note(at, "load", candidate.weight());
            }
        }
        let lane = candidates.get(index).map(|candidate| candidate.lane);
        let lane = lane.unwrap_or_default();
        let known = trail.is_held_by(lane);
        if ask.takes()
            && known
            && let Some(used) = trail.used_by(lane)
            && (rng.u8(..TOUCH_ONE_OF) == 0 || tree.now().saturating_sub(used) >= TOUCH_BEHIND)
        {
            trail.touch(lane, tree.tick());
        }
        let mut pick = Pick::of(index, reason);
        pick.matched = Some(scale.rate(trail.matched()) as f32);
        scale.expect(&mut pick.expected, trail.held_by(lane));
        (pick, lane, known)
    });
    let mut added = 0;
    if ask.takes() {
        if !known {
            added = tree.insert(model, sequence, lane);
        }
        tree.tend(ask.now, bounds, added);
    }
    (pick, added)
}

/// The candidate with the least to do; of several the cheapest, then the one with the most free
/// cache, then the one picked least often, then any.
fn lightest(
    candidates: &[Candidate<'_>],
    share: impl Fn(Lane) -> u64,
    rng: &mut fastrand::Rng,
) -> usize {
    let mut best = (f64::INFINITY, f64::INFINITY, u64::MAX, u64::MAX);
    let (mut chosen, mut ties) = (0, 0);
    for (index, candidate) in candidates.iter().enumerate() {
        let load = candidate.weight();
        if load > best.0 {
            continue;
        }
        let rank = (
            load,
            candidate.cost,
            share(candidate.lane),
            candidate.processed,
        );
        if rank < best {
            (best, chosen, ties) = (rank, index, 1);
        } else if rank == best {
            ties += 1;
            if rng.usize(..ties) == 0 {
                chosen = index;
            }
        }
    }
    chosen
}

/// The candidates by lane.
struct Roll<'a> {
    candidates: &'a [Candidate<'a>],
    /// By index of the lane; out of bounds where there is no candidate.
    places: Vec<u32>,
}

impl<'a> Roll<'a> {
    fn new(candidates: &'a [Candidate<'a>]) -> Self {
        let last = candidates
            .iter()
            .map(|candidate| candidate.lane.index)
            .max();
        let mut places = vec![u32::MAX; last.map_or(0, |last| usize::from(last) + 1)];
        for (at, candidate) in (0..).zip(candidates) {
            if let Some(place) = places.get_mut(usize::from(candidate.lane.index)) {
                *place = at;
            }
        }
        Self { candidates, places }
    }

    fn find(&self, lane: Lane) -> Option<usize> {
        let at = *self.places.get(usize::from(lane.index))? as usize;
        (self.candidates.get(at)?.lane == lane).then_some(at)
    }
}

#[cfg(test)]
mod tests;
