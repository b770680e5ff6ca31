//! The engine behind the routes: models, the prefix cache, the queue and the pace.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
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
use super::stats::Stats;
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
    cache: Option<Mutex<Cache>>,
    slots: Option<Arc<Semaphore>>,
    /// When the prompts accepted so far will have been computed.
    prefilled: Mutex<Instant>,
    ids: AtomicU64,
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
            cache: (blocks > 0).then(|| Mutex::new(Cache::new(blocks))),
            slots: (args.max_running > 0)
                .then(|| Arc::new(Semaphore::new(args.max_running.min(Semaphore::MAX_PERMITS)))),
            prefilled: Mutex::new(clock::now()),
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

    /// Enters the queue with a request of `tokens` tokens, prompt and answer.
    pub(super) fn enter(&self, tokens: u64) -> Ticket {
        self.stats.requests.add(1);
        self.stats.waiting.add(1);
        Ticket {
            stats: Arc::clone(&self.stats),
            tokens,
            running: false,
            slot: None,
        }
    }

    /// The bound of `--max-running`, if there is one.
    pub(super) fn slots(&self) -> Option<Arc<Semaphore>> {
        self.slots.clone()
    }

    /// Takes `prompts` through the prefix cache, notes in each how much of it was cached, and
    /// says when the answer's tokens are due.
    pub(super) fn prefill(&self, prompts: &mut [Asked]) -> Pace {
        let (mut tokens, mut cached) = (0, 0);
        if let Some(cache) = &self.cache {
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
        self.pace(tokens - cached)
    }

    /// Takes in what another worker has computed.
    pub(super) fn adopt(&self, prompts: &[Asked]) {
        if let Some(cache) = &self.cache {
            let mut cache = cache.lock();
            for prompt in prompts {
                cache.serve(&prompt.blocks);
            }
        }
    }

    /// Blocks that the prefix cache holds.
    pub(super) fn cached_blocks(&self) -> u64 {
        self.cache
            .as_ref()
            .map_or(0, |cache| cache.lock().len() as u64)
    }

    /// Empties the prefix cache.
    pub(super) fn flush(&self) {
        if let Some(cache) = &self.cache {
            cache.lock().clear();
        }
    }

    fn pace(&self, uncached: u64) -> Pace {
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
            let mut prefilled = self.prefilled.lock();
            first = first.max(*prefilled) + cost;
            *prefilled = first;
        }
        Pace {
            first: Some(first + ttft),
            gap: itl,
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
        } else {
            self.stats.waiting.sub(1);
        }
    }
}

fn quote(name: &str) -> Arc<str> {
    serde_json::Value::from(name).to_string().into()
}
