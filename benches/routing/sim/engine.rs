//! One engine: a queue, continuous batching with chunked prefill, a prefix cache.

use std::collections::VecDeque;

use smg::api::load::Load;

use super::cache::Cache;
use super::text::BLOCK_TOKENS;
use super::trace::{Hardware, Request, Trace};

/// An engine, stepped from outside.
#[derive(Debug)]
pub(crate) struct Engine {
    hardware: Hardware,
    cache: Cache,
    waiting: VecDeque<Request>,
    running: Vec<Running>,
    stepping: bool,
    /// Tokens generated.
    pub(crate) generated: u64,
}

#[derive(Debug)]
struct Running {
    request: Request,
    hits: usize,
    cached: u32,
    /// Prompt tokens not computed yet.
    left: u32,
    /// Prompt tokens computed in this step.
    taken: u32,
    produced: u32,
}

/// A step that has begun.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Step {
    /// Seconds until it ends.
    pub(crate) duration: f64,
    /// Those of them that prompts and answers in it cost.
    pub(crate) work: f64,
}

/// What a step brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// The first token of an answer.
    First(Request),
    /// The last token, and how many prompt tokens had been in the cache.
    Last(Request, u32),
}

impl Engine {
    /// An idle engine.
    pub(crate) fn new(hardware: Hardware, distinct: usize) -> Self {
        Self {
            cache: Cache::new(hardware.cache_blocks, distinct),
            hardware,
            waiting: VecDeque::new(),
            running: Vec::new(),
            stepping: false,
            generated: 0,
        }
    }

    /// Takes a request into the queue.
    pub(crate) fn push(&mut self, request: Request) {
        self.waiting.push_back(request);
    }

    /// Starts a step, unless one is under way or there is nothing to do.
    pub(crate) fn start(&mut self, trace: &Trace) -> Option<Step> {
        if self.stepping {
            return None;
        }
        let mut budget = self.hardware.chunk;
        let mut decoding = 0;
        for running in &mut self.running {
            running.taken = running.left.min(budget);
            budget -= running.taken;
            decoding += u32::from(running.left == 0);
        }
        while budget > 0
            && self.running.len() < self.hardware.max_running
            && let Some(request) = self.waiting.front()
        {
            let (session, turn) = trace.at(*request);
            let prompt = session.blocks.get(..turn.prompt_blocks).unwrap_or_default();
            let Some(hits) = self.cache.admit(prompt, turn.end_blocks) else {
                break;
            };
            let cached = turn.cached(hits);
            let left = turn.prompt_tokens - cached;
            let taken = left.min(budget);
            budget -= taken;
            self.running.push(Running {
                request: *request,
                hits,
                cached,
                left,
                taken,
                produced: 0,
            });
            self.waiting.pop_front();
        }
        if self.running.is_empty() {
            assert!(
                self.waiting.is_empty(),
                "a request is larger than the whole cache"
            );
            return None;
        }
        self.stepping = true;
        let prefill = f64::from(self.hardware.chunk - budget) / self.hardware.prefill_rate;
        let work = prefill + self.hardware.per_sequence * f64::from(decoding);
        Some(Step {
            duration: self.hardware.step + work,
            work,
        })
    }

    /// Ends the step.
    pub(crate) fn end(&mut self, trace: &Trace, progress: &mut Vec<Progress>) {
        self.stepping = false;
        let mut at = 0;
        while let Some(running) = self.running.get_mut(at) {
            let (session, turn) = trace.at(running.request);
            let prefilling = running.left > 0;
            if prefilling {
                running.left -= running.taken;
                if running.left > 0 {
                    at += 1;
                    continue;
                }
                let prompt = session.blocks.get(..turn.prompt_blocks).unwrap_or_default();
                self.cache.computed(prompt, running.hits);
                progress.push(Progress::First(running.request));
            }
            running.produced += 1;
            self.generated += 1;
            if running.produced < turn.output_tokens {
                at += 1;
                continue;
            }
            let all = session.blocks.get(..turn.end_blocks).unwrap_or_default();
            self.cache.computed(all, turn.prompt_blocks);
            self.cache.release(all);
            progress.push(Progress::Last(running.request, running.cached));
            // Order of arrival is kept, since chunks are given out in that order.
            self.running.remove(at);
        }
    }

    /// Whether nothing is under way and nothing is held.
    pub(crate) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty() && self.cache.held() == 0
    }

    /// What it says of its load.
    pub(crate) fn report(&self, trace: &Trace, throughput: f64) -> Load {
        let uncached: u64 = self
            .waiting
            .iter()
            .map(|request| {
                let (session, turn) = trace.at(*request);
                let prompt = session.blocks.get(..turn.prompt_blocks).unwrap_or_default();
                u64::from(turn.prompt_tokens) - u64::from(turn.cached(self.cache.peek(prompt)))
            })
            .sum();
        // How much the cache can hold is not told by every engine, so policies have to find out.
        Load {
            running: Some(self.running.len() as u64),
            waiting: Some(self.waiting.len() as u64),
            waiting_uncached_tokens: Some(uncached),
            used_tokens: Some(self.cache.held() as u64 * u64::from(BLOCK_TOKENS)),
            token_usage: Some(self.cache.usage()),
            gen_throughput: Some(throughput),
            ..Load::default()
        }
    }
}
