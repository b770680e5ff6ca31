//! The engine behind the routes: models, the prefix cache, the queue and the pace.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::args::{Args, Runtime};
use super::cache::Cache;
use super::hash::{fold, mix};
use super::job::Asked;
use super::pair::Rooms;
use super::prompt::BLOCK_TOKENS;
use super::reply::Refusal;
use super::stats::{Gauge, Stats};
use crate::base::clock;

/// One worker's engine.
#[derive(Debug)]
pub(super) struct Engine {
    /// How it was configured.
    pub(super) args: Args,
    /// The port it is reached by.
    pub(super) port: u16,
    /// Its figures.
    pub(super) stats: Arc<Stats>,
    /// Where decode workers fetch what it has computed.
    pub(super) rooms: Rooms,
    models: Vec<Model>,
    ranks: Vec<Arc<Rank>>,
    /// Requests so far that named no rank.
    unranked: AtomicUsize,
    slots: Option<Arc<Semaphore>>,
    ids: AtomicU64,
}

/// One data-parallel rank.
#[derive(Debug)]
pub(super) struct Rank {
    cache: Option<Mutex<Cache>>,
    /// When the prompts accepted so far will have been computed.
    prefilled: Mutex<Instant>,
    pub(super) running: Gauge,
    pub(super) waiting: Gauge,
    pub(super) used_tokens: Gauge,
}

#[derive(Debug)]
struct Model {
    name: String,
    quoted: Arc<str>,
}

/// When the tokens of an answer are due.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Pace {
    first: Option<Instant>,
    gap: Duration,
}

/// A place in the engine: in the queue, then at work. Dropping it gives it back.
#[derive(Debug)]
pub(super) struct Ticket {
    stats: Arc<Stats>,
    rank: Arc<Rank>,
    tokens: u64,
    running: bool,
    /// Held for the bound of `--max-running`.
    slot: Option<OwnedSemaphorePermit>,
}

impl Engine {
    /// The engine that `args` describes.
    pub(super) fn new(args: Args, port: u16) -> Self {
        let quoted = |name: &String| Model {
            name: name.clone(),
            quoted: quote(name),
        };
        let blocks = usize::try_from(args.cache_tokens / BLOCK_TOKENS).unwrap_or(usize::MAX);
        Self {
            port,
            stats: Arc::new(Stats::new(args.record)),
            rooms: Rooms::default(),
            models: args.models.iter().map(quoted).collect(),
            ranks: (0..args.dp_size.max(1))
                .map(|_| Arc::new(Rank::new(blocks)))
                .collect(),
            unranked: AtomicUsize::new(0),
            slots: (args.max_running > 0)
                .then(|| Arc::new(Semaphore::new(args.max_running.min(Semaphore::MAX_PERMITS)))),
            ids: AtomicU64::new(fold(
                u64::from(port),
                &clock::unix().as_nanos().to_le_bytes(),
            )),
            args,
        }
    }

    /// The model a request means, as a JSON string.
    ///
    /// # Errors
    /// 404 when the runtime is one that knows its models and this is none of them.
    pub(super) fn model(&self, asked: Option<&str>) -> Result<Arc<str>, Refusal> {
        let Some(asked) = asked.filter(|name| !name.is_empty()) else {
            return Ok(self
                .models
                .first()
                .map_or_else(|| Arc::from("\"\""), |m| m.quoted.clone()));
        };
        match self.models.iter().find(|model| model.name == asked) {
            Some(model) => Ok(Arc::clone(&model.quoted)),
            None if self.args.runtime == Runtime::Sglang => Ok(quote(asked)),
            None => Err(Refusal::no_model(asked)),
        }
    }

    /// A number for the id of an answer, unlike those of other workers.
    pub(super) fn id(&self) -> u64 {
        mix(self.ids.fetch_add(1, Ordering::Relaxed))
    }

    /// The rank that computes a request that asks for `asked`.
    ///
    /// # Errors
    /// 400 when there is no such rank.
    pub(super) fn rank(&self, asked: Option<u32>) -> Result<usize, Refusal> {
        let count = self.ranks.len();
        match asked {
            None => Ok(self.unranked.fetch_add(1, Ordering::Relaxed) % count),
            Some(rank) if (rank as usize) < count => Ok(rank as usize),
            Some(rank) => {
                let message = format!("there is no rank {rank} of {count}");
                Err(Refusal::bad_request(message))
            }
        }
    }

    /// The ranks, in order.
    pub(super) fn ranks(&self) -> &[Arc<Rank>] {
        &self.ranks
    }

    /// Enters the queue of `rank` with a request of `tokens` tokens, prompt and answer.
    pub(super) fn enter(&self, rank: usize, tokens: u64) -> Ticket {
        let rank = &self.ranks[rank];
        self.stats.requests.add(1);
        self.stats.waiting.add(1);
        rank.waiting.add(1);
        Ticket {
            stats: Arc::clone(&self.stats),
            rank: Arc::clone(rank),
            tokens,
            running: false,
            slot: None,
        }
    }

    /// The bound of `--max-running`, if there is one.
    pub(super) fn slots(&self) -> Option<Arc<Semaphore>> {
        self.slots.clone()
    }

    /// Takes `prompts` through the prefix cache of `rank`, notes in each how much of it was cached, and
    /// says when the answer's tokens are due.
    pub(super) fn prefill(&self, rank: usize, prompts: &mut [Asked]) -> Pace {
        let rank = &self.ranks[rank];
        let (mut tokens, mut cached) = (0, 0);
        if let Some(cache) = &rank.cache {
            let mut cache = cache.lock();
            for prompt in &mut *prompts {
                let held = cache.serve(&prompt.blocks) as u64 * BLOCK_TOKENS;
                // The last token is always computed: its output is the first of the answer.
                let most = prompt.tokens.saturating_sub(1) / BLOCK_TOKENS * BLOCK_TOKENS;
                prompt.cached = held.min(most);
            }
        }
        for prompt in prompts {
            tokens += prompt.tokens;
            cached += prompt.cached;
        }
        self.stats.prompt_tokens.add(tokens);
        self.stats.cached_tokens.add(cached);
        self.pace(rank, tokens - cached)
    }

    /// Takes into the cache of `rank` what another worker has computed.
    pub(super) fn adopt(&self, rank: usize, prompts: &[Asked]) {
        if let Some(cache) = self.ranks.get(rank).and_then(|rank| rank.cache.as_ref()) {
            let mut cache = cache.lock();
            for prompt in prompts {
                cache.serve(&prompt.blocks);
            }
        }
    }

    /// Blocks that the prefix cache holds.
    pub(super) fn cached_blocks(&self) -> u64 {
        let caches = self.ranks.iter().filter_map(|rank| rank.cache.as_ref());
        caches.map(|cache| cache.lock().len() as u64).sum()
    }

    /// Empties the prefix cache.
    pub(super) fn flush(&self) {
        for cache in self.ranks.iter().filter_map(|rank| rank.cache.as_ref()) {
            cache.lock().clear();
        }
    }

    fn pace(&self, rank: &Rank, uncached: u64) -> Pace {
        let Args {
            ttft,
            itl,
            prefill_rate,
            ..
        } = self.args;
        if prefill_rate == 0 && ttft.is_zero() && itl.is_zero() {
            return Pace::default();
        }
        let mut first = clock::now();
        if prefill_rate > 0 {
            let cost = Duration::from_secs_f64(uncached as f64 / prefill_rate as f64);
            let mut prefilled = rank.prefilled.lock();
            first = first.max(*prefilled) + cost;
            *prefilled = first;
        }
        Pace {
            first: Some(first + ttft),
            gap: itl,
        }
    }
}

impl Rank {
    /// A rank whose cache holds `blocks`.
    fn new(blocks: usize) -> Self {
        Self {
            cache: (blocks > 0).then(|| Mutex::new(Cache::new(blocks))),
            prefilled: Mutex::new(clock::now()),
            running: Gauge::default(),
            waiting: Gauge::default(),
            used_tokens: Gauge::default(),
        }
    }
}

impl Pace {
    /// When token `index` is due; `None`: at once.
    pub(super) fn due(&self, index: u32) -> Option<Instant> {
        self.first.map(|first| first + self.gap * index)
    }
}

impl Ticket {
    /// Leaves the queue, to work.
    pub(super) fn start(&mut self, slot: Option<OwnedSemaphorePermit>) {
        self.slot = slot;
        self.running = true;
        self.stats.waiting.sub(1);
        self.stats.running.add(1);
        self.stats.used_tokens.add(self.tokens);
        self.rank.waiting.sub(1);
        self.rank.running.add(1);
        self.rank.used_tokens.add(self.tokens);
    }

    /// Counts tokens of the answer.
    pub(super) fn generated(&self, tokens: u64) {
        self.stats.completion_tokens.add(tokens);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.running {
            self.stats.running.sub(1);
            self.stats.used_tokens.sub(self.tokens);
            self.rank.running.sub(1);
            self.rank.used_tokens.sub(self.tokens);
        } else {
            self.stats.waiting.sub(1);
            self.rank.waiting.sub(1);
        }
    }
}

fn quote(name: &str) -> Arc<str> {
    serde_json::Value::from(name).to_string().into()
}
