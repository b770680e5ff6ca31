//! What the workers did: one record per attempt, and the stamps on their tokens by which a client
//! can tell whose they are.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

/// Shared by all workers of a run.
#[derive(Default)]
pub(crate) struct Ledger(Mutex<Book>);

#[derive(Default)]
struct Book {
    attempts: HashMap<String, Vec<Attempt>>,
    serial: u64,
    faults: BTreeMap<&'static str, u64>,
    strays: Vec<String>,
}

/// One request as it reached one worker.
#[derive(Clone, Debug)]
pub(crate) struct Attempt {
    pub(crate) worker: String,
    pub(crate) serial: u64,
    pub(crate) at: Instant,
    /// What was wrong with the worker, by the name of its mood; nothing while it was healthy.
    pub(crate) harm: Option<&'static str>,
    /// The answer was given to its end.
    pub(crate) whole: bool,
}

/// The record of an attempt under way.
pub(crate) struct Entry {
    ledger: Arc<Ledger>,
    id: String,
    serial: u64,
    worker: String,
}

impl Ledger {
    /// Notes that a request has come in.
    pub(crate) fn attempt(
        self: &Arc<Self>,
        worker: &str,
        id: &str,
        harm: Option<&'static str>,
    ) -> Entry {
        let mut book = self.0.lock();
        book.serial += 1;
        let serial = book.serial;
        let attempt = Attempt {
            worker: worker.to_owned(),
            serial,
            at: Instant::now(),
            harm,
            whole: false,
        };
        book.attempts
            .entry(id.to_owned())
            .or_default()
            .push(attempt);
        drop(book);
        if let Some(harm) = harm {
            self.fault(harm);
        }
        Entry {
            ledger: Arc::clone(self),
            id: id.to_owned(),
            serial,
            worker: worker.to_owned(),
        }
    }

    /// Counts a fault that was done to somebody.
    pub(crate) fn fault(&self, name: &'static str) {
        *self.0.lock().faults.entry(name).or_default() += 1;
    }

    /// Notes a request that no worker should ever have got.
    pub(crate) fn stray(&self, what: String) {
        self.0.lock().strays.push(what);
    }

    /// What was noted so since the last time.
    pub(crate) fn take_strays(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().strays)
    }

    /// The attempts of this request so far.
    pub(crate) fn attempts(&self, id: &str) -> Vec<Attempt> {
        self.0.lock().attempts.get(id).cloned().unwrap_or_default()
    }

    /// Forgets the attempts; the counts stay.
    pub(crate) fn turn_page(&self) {
        self.0.lock().attempts.clear();
    }

    /// Faults so far, by kind.
    pub(crate) fn faults(&self) -> BTreeMap<&'static str, u64> {
        self.0.lock().faults.clone()
    }
}

impl Entry {
    /// A token of this attempt's answer.
    pub(crate) fn stamp(&self, sequence: usize) -> String {
        format!("{}.{}/{}/{sequence} ", self.worker, self.serial, self.id)
    }

    /// The answer was given to its end.
    pub(crate) fn complete(self) {
        let mut book = self.ledger.0.lock();
        let attempts = book.attempts.get_mut(&self.id);
        if let Some(attempt) = attempts
            .into_iter()
            .flatten()
            .find(|attempt| attempt.serial == self.serial)
        {
            attempt.whole = true;
        }
    }
}

/// What is wrong with the tokens of an answer to `id`, and how many there are. All must be of one
/// attempt, for this request, counted from 0 without a gap.
pub(crate) fn read_stamps<'a>(
    id: &str,
    tokens: impl Iterator<Item = &'a str>,
) -> Result<usize, String> {
    let mut by = None;
    let mut count = 0;
    for token in tokens {
        let parts: Vec<&str> = token.split('/').collect();
        let [attempt, whose, sequence] = parts[..] else {
            return Err(format!("`{token}` is nobody's token"));
        };
        if whose != id {
            return Err(format!("`{token}` belongs to another request"));
        }
        if *by.get_or_insert(attempt) != attempt {
            return Err(format!("`{token}` follows tokens of {by:?}"));
        }
        if sequence != count.to_string() {
            return Err(format!("`{token}` stands at place {count}"));
        }
        count += 1;
    }
    Ok(count)
}

#[test]
fn stamps_tell_two_answers_apart() {
    let ledger = Arc::<Ledger>::default();
    let one = ledger.attempt("w1", "r1", None);
    let two = ledger.attempt("w1", "r1", Some("stall"));
    let read = |tokens: &[String]| {
        let text = tokens.concat();
        read_stamps("r1", text.split_whitespace())
    };
    assert_eq!(read(&[one.stamp(0), one.stamp(1)]), Ok(2));
    assert_eq!(read(&[]), Ok(0));
    for wrong in [
        vec![one.stamp(1)],
        vec![one.stamp(0), one.stamp(0)],
        vec![one.stamp(0), one.stamp(2)],
        vec![one.stamp(0), two.stamp(1)],
        vec![ledger.attempt("w1", "r2", None).stamp(0)],
        vec!["x ".to_owned()],
    ] {
        assert!(read(&wrong).is_err(), "{wrong:?}");
    }
    one.complete();
    let attempts = ledger.attempts("r1");
    assert!(attempts[0].whole && !attempts[1].whole);
    assert_eq!(ledger.faults(), BTreeMap::from([("stall", 1)]));
}
