//! What arrived and what became of it: counts, load, and the latest requests.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::request::Parts;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::base::clock;

/// Paths counted by name; a scan for paths must not grow the worker without bound.
const PATHS: usize = 256;

/// A number that rises and falls.
#[derive(Debug, Default)]
pub(super) struct Gauge(AtomicU64);

impl Gauge {
    pub(super) fn add(&self, count: u64) -> u64 {
        self.0.fetch_add(count, Relaxed) + count
    }

    pub(super) fn sub(&self, count: u64) {
        self.0.fetch_sub(count, Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }

    fn set(&self, count: u64) {
        self.0.store(count, Relaxed);
    }
}

/// The figures of one worker.
#[derive(Debug)]
pub(super) struct Stats {
    keep: usize,
    received: Mutex<BTreeMap<Box<str>, u64>>,
    latest: Mutex<VecDeque<Recorded>>,
    speed: Mutex<Speed>,
    /// Requests between their head and the end of their answer, /sample/* aside.
    pub(super) in_flight: Gauge,
    /// The most there were of those.
    peak: AtomicU64,
    /// Answers that the client did not wait for.
    pub(super) cancelled: Gauge,
    pub(super) faults: Gauge,
    pub(super) connections: Gauge,
    pub(super) accepted: Gauge,
    pub(super) bytes_in: Gauge,
    pub(super) bytes_out: Gauge,
    /// Generation requests being computed, and waiting for that.
    pub(super) running: Gauge,
    pub(super) waiting: Gauge,
    /// Tokens of the prompts and answers being computed.
    pub(super) used_tokens: Gauge,
    pub(super) requests: Gauge,
    pub(super) prompt_tokens: Gauge,
    pub(super) cached_tokens: Gauge,
    pub(super) completion_tokens: Gauge,
}

#[derive(Debug)]
struct Recorded {
    method: String,
    path: String,
    query: Option<String>,
    version: String,
    headers: http::HeaderMap,
    body: Bytes,
}

#[derive(Debug)]
struct Speed {
    since: Instant,
    tokens: u64,
    rate: f64,
}

/// A request being answered; ends when dropped.
#[derive(Debug)]
pub(super) struct Presence {
    stats: Arc<Stats>,
    complete: bool,
}

impl Stats {
    /// Figures at zero; the latest `keep` requests will be kept.
    pub(super) fn new(keep: usize) -> Self {
        Self {
            keep,
            received: Mutex::default(),
            latest: Mutex::default(),
            speed: Mutex::new(Speed {
                since: clock::now(),
                tokens: 0,
                rate: 0.0,
            }),
            in_flight: Gauge::default(),
            peak: AtomicU64::new(0),
            cancelled: Gauge::default(),
            faults: Gauge::default(),
            connections: Gauge::default(),
            accepted: Gauge::default(),
            bytes_in: Gauge::default(),
            bytes_out: Gauge::default(),
            running: Gauge::default(),
            waiting: Gauge::default(),
            used_tokens: Gauge::default(),
            requests: Gauge::default(),
            prompt_tokens: Gauge::default(),
            cached_tokens: Gauge::default(),
            completion_tokens: Gauge::default(),
        }
    }

    /// Counts a request to `path`.
    pub(super) fn arrive(self: &Arc<Self>, path: &str) -> Presence {
        let mut received = self.received.lock();
        if let Some(count) = received.get_mut(path) {
            *count += 1;
        } else {
            let path = if received.len() < PATHS {
                path
            } else {
                "other"
            };
            *received.entry(path.into()).or_default() += 1;
        }
        drop(received);
        self.peak.fetch_max(self.in_flight.add(1), Relaxed);
        Presence {
            stats: Arc::clone(self),
            complete: false,
        }
    }

    /// Keeps a request among the latest, if any are kept.
    pub(super) fn record(&self, head: &Parts, body: &Bytes) {
        if self.keep == 0 {
            return;
        }
        let recorded = Recorded {
            method: head.method.to_string(),
            path: head.uri.path().to_owned(),
            query: head.uri.query().map(str::to_owned),
            version: format!("{:?}", head.version),
            headers: head.headers.clone(),
            body: body.clone(),
        };
        let mut latest = self.latest.lock();
        if latest.len() == self.keep {
            latest.pop_front();
        }
        latest.push_back(recorded);
    }

    /// Tokens generated per second, measured between calls at least a second apart.
    pub(super) fn throughput(&self) -> f64 {
        let now = clock::now();
        let mut speed = self.speed.lock();
        let elapsed = now.saturating_duration_since(speed.since);
        if elapsed >= Duration::from_secs(1) {
            let tokens = self.completion_tokens.get();
            speed.rate = tokens.saturating_sub(speed.tokens) as f64 / elapsed.as_secs_f64();
            speed.since = now;
            speed.tokens = tokens;
        }
        speed.rate
    }

    /// Share of the prompt tokens so far that the cache held.
    pub(super) fn hit_rate(&self) -> f64 {
        self.cached_tokens.get() as f64 / self.prompt_tokens.get().max(1) as f64
    }

    /// Everything, as `/sample/stats` shows it.
    pub(super) fn report(&self) -> Value {
        json!({
            "received": *self.received.lock(),
            "in_flight": self.in_flight.get(),
            "peak_in_flight": self.peak.load(Relaxed),
            "running": self.running.get(),
            "waiting": self.waiting.get(),
            "used_tokens": self.used_tokens.get(),
            "cancelled": self.cancelled.get(),
            "faults": self.faults.get(),
            "connections": { "open": self.connections.get(), "accepted": self.accepted.get() },
            "bytes_in": self.bytes_in.get(),
            "bytes_out": self.bytes_out.get(),
            "prompt_tokens": self.prompt_tokens.get(),
            "cached_tokens": self.cached_tokens.get(),
            "completion_tokens": self.completion_tokens.get(),
            "requests": self.latest.lock().iter().map(Recorded::report).collect::<Vec<_>>(),
        })
    }

    /// Sets counts to zero and forgets the latest requests; what is under way stays counted.
    pub(super) fn reset(&self) {
        self.received.lock().clear();
        self.latest.lock().clear();
        self.peak.store(self.in_flight.get(), Relaxed);
        self.accepted.set(self.connections.get());
        *self.speed.lock() = Speed {
            since: clock::now(),
            tokens: 0,
            rate: 0.0,
        };
        for gauge in [
            &self.cancelled,
            &self.faults,
            &self.bytes_in,
            &self.bytes_out,
            &self.requests,
            &self.prompt_tokens,
            &self.cached_tokens,
            &self.completion_tokens,
        ] {
            gauge.set(0);
        }
    }
}

impl Recorded {
    fn report(&self) -> Value {
        let mut headers = serde_json::Map::new();
        for name in self.headers.keys() {
            let values = self.headers.get_all(name).iter();
            let values = values.map(|value| String::from_utf8_lossy(value.as_bytes()));
            headers.insert(name.to_string(), values.collect());
        }
        json!({
            "method": self.method,
            "path": self.path,
            "query": self.query,
            "version": self.version,
            "headers": headers,
            "body": String::from_utf8_lossy(&self.body),
        })
    }
}

impl Presence {
    /// Says that the answer was handed over whole.
    pub(super) fn complete(&mut self) {
        self.complete = true;
    }

    /// Counts bytes of the answer.
    pub(super) fn sent(&self, bytes: usize) {
        self.stats.bytes_out.add(bytes as u64);
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.stats.in_flight.sub(1);
        if !self.complete {
            self.stats.cancelled.add(1);
        }
    }
}
