//! The latest load report of an engine.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::api::load::{self, Load};
use crate::policy::Engine;

/// What an engine said of its load.
#[derive(Debug, PartialEq)]
pub struct Report {
    /// When it said so.
    pub at: Instant,
    /// Everything of the worker together.
    pub engine: Engine,
    /// Each rank; one entry where the worker is a rank itself.
    pub ranks: Vec<Load>,
}

impl Report {
    /// A report of `ranks` at `at`.
    fn of(ranks: Vec<Load>, at: Instant) -> Self {
        Self {
            at,
            engine: engine(&load::whole(&ranks)),
            ranks,
        }
    }

    fn is_fresh(&self, now: Instant, age: Duration) -> bool {
        now.saturating_duration_since(self.at) <= age
    }
}

/// The latest load report of one worker. Written by the load monitor, read by picks of policies that
/// want it.
#[derive(Debug, Default)]
pub struct ReportCell {
    latest: Mutex<Option<Arc<Report>>>,
    /// Whether there is a report: spares picks the lock where there is none.
    told: AtomicBool,
    since: AtomicU64,
    routed: AtomicU64,
    asked: AtomicBool,
    source: AtomicU8,
}

impl ReportCell {
    /// Takes a report made at `now`, and returns whether there was none before.
    pub fn put(&self, ranks: Vec<Load>, now: Instant) -> bool {
        let report = Report::of(ranks, now);
        self.since.store(0, Ordering::Relaxed);
        self.routed.store(0, Ordering::Relaxed);
        self.asked.store(true, Ordering::Relaxed);
        self.told.store(true, Ordering::Relaxed);
        self.latest.lock().replace(Arc::new(report)).is_none()
    }

    /// Takes it that the engine has not worked since its latest report. `false` where it has made none.
    pub fn put_idle(&self, now: Instant) -> bool {
        let latest = self.latest.lock().clone();
        let Some(latest) = latest else {
            return false;
        };
        let idle = latest.ranks.iter().map(|rank| Load {
            running: Some(0),
            waiting: Some(0),
            ..*rank
        });
        self.put(idle.collect(), now);
        true
    }

    /// Forgets the report, as its worker has left or did not answer, and returns whether that is news:
    /// there was one, or nobody had asked before.
    pub fn clear(&self) -> bool {
        let first = !self.asked.swap(true, Ordering::Relaxed);
        self.told.store(false, Ordering::Relaxed);
        self.latest.lock().take().is_some() || first
    }

    /// Forgets everything: nobody asks any more.
    pub fn forget(&self) {
        self.clear();
        self.asked.store(false, Ordering::Relaxed);
    }

    /// Whether somebody asks, and the worker has had its time to answer.
    pub fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    /// Counts tokens of a request that the latest report does not know of, as a policy estimated them.
    pub fn sent(&self, tokens: u32) {
        self.since.fetch_add(u64::from(tokens), Ordering::Relaxed);
    }

    /// Counts tokens of a request that was given to this rank, by their words.
    pub fn route(&self, tokens: u64) {
        self.routed.fetch_add(tokens, Ordering::Relaxed);
    }

    /// Tokens of the requests that were given to this rank since the latest report.
    pub fn routed(&self) -> u64 {
        self.routed.load(Ordering::Relaxed)
    }

    /// The report, if it is not older than `age`.
    pub fn fresh(&self, now: Instant, age: Duration) -> Option<Engine> {
        if !self.told.load(Ordering::Relaxed) {
            return None;
        }
        let latest = self.latest.lock();
        let report = latest.as_ref().filter(|report| report.is_fresh(now, age))?;
        Some(Engine {
            in_flight_tokens: self.since.load(Ordering::Relaxed),
            ..report.engine
        })
    }

    /// The whole report, if it is not older than `age`.
    pub fn read(&self, now: Instant, age: Duration) -> Option<Arc<Report>> {
        let latest = self.latest.lock().clone()?;
        latest.is_fresh(now, age).then_some(latest)
    }

    /// Which of the ways of asking worked last; 0 before any has.
    pub fn source(&self) -> u8 {
        self.source.load(Ordering::Relaxed)
    }

    /// Remembers the way of asking that worked.
    pub fn set_source(&self, source: u8) {
        self.source.store(source, Ordering::Relaxed);
    }
}

fn engine(load: &Load) -> Engine {
    Engine {
        running: load.running,
        waiting: load.waiting,
        waiting_uncached_tokens: load.waiting_uncached_tokens,
        token_usage: load.token_usage,
        gen_throughput: load.gen_throughput,
        used_tokens: load.used_tokens,
        capacity_tokens: load.max_total_tokens,
        in_flight_tokens: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock;

    const AGE: Duration = Duration::from_secs(30);

    fn load(running: u64) -> Load {
        Load {
            running: Some(running),
            used_tokens: Some(10),
            ..Load::default()
        }
    }

    #[test]
    fn a_report_ends_with_its_age_and_starts_the_counts_anew() {
        let (cell, now) = (ReportCell::default(), clock::now());
        assert!(!cell.is_asked());
        cell.sent(5);
        cell.route(7);
        assert!(cell.put(vec![load(2), load(3)], now));
        assert!(cell.is_asked());
        let engine = cell.fresh(now + AGE, AGE).unwrap();
        assert_eq!((engine.running, engine.in_flight_tokens), (Some(5), 0));
        assert_eq!(cell.routed(), 0);
        cell.sent(5);
        assert_eq!(cell.fresh(now, AGE).unwrap().in_flight_tokens, 5);
        assert_eq!(cell.fresh(now + AGE * 2, AGE), None);
        assert!(!cell.put(vec![load(1)], now), "there was one");
    }

    #[test]
    fn what_is_news_is_told_once() {
        let (cell, now) = (ReportCell::default(), clock::now());
        assert!(cell.clear(), "nobody had asked before");
        assert!(!cell.clear());
        cell.put(vec![load(1)], now);
        assert!(cell.clear());
        assert_eq!(cell.fresh(now, AGE), None);
        cell.forget();
        assert!(!cell.is_asked());
    }

    #[test]
    fn an_idle_engine_keeps_what_it_holds() {
        let (cell, now) = (ReportCell::default(), clock::now());
        assert!(!cell.put_idle(now));
        cell.put(vec![load(4)], now);
        assert!(cell.put_idle(now + AGE));
        let engine = cell.fresh(now + AGE, AGE).unwrap();
        assert_eq!((engine.running, engine.used_tokens), (Some(0), Some(10)));
    }
}
