//! The requests that went wrong most recently, for who looks at the gateway now. The log has them all.

use std::collections::VecDeque;
use std::time::Duration;

use parking_lot::Mutex;

use super::access::Access;
use super::outcome::Outcome;
use crate::base::clock;

/// How many are kept.
pub const KEPT: usize = 50;

/// Longest text of a field, in bytes; ids are the client's words.
const LONGEST: usize = 128;

static RECENT: Mutex<VecDeque<Failure>> = Mutex::new(VecDeque::new());

/// A request that did not end well.
#[derive(Debug, Clone, PartialEq)]
pub struct Failure {
    /// When it ended, since the Unix epoch.
    pub at: Duration,
    /// The id that the client got.
    pub request_id: Box<str>,
    /// Route template of its path.
    pub template: &'static str,
    /// A model that is known here, else empty.
    pub model: Box<str>,
    /// The pool that served it, else empty.
    pub pool: Box<str>,
    /// The worker that was asked last, by id, else empty.
    pub worker: Box<str>,
    /// Status of the answer.
    pub status: u16,
    /// How it ended.
    pub outcome: Outcome,
    /// The code of the error, else empty.
    pub code: Box<str>,
    /// Attempts made.
    pub attempts: u32,
    /// How long it took.
    pub latency: Duration,
}

/// Keeps what the access log says of a request on the route `template`, if it did not end well.
pub fn note(template: &'static str, access: &Access<'_>) {
    let outcome = Outcome::of(access.status, access.error_code);
    if outcome == Outcome::Ok {
        return;
    }
    let failure = Failure {
        at: clock::unix(),
        request_id: short(access.request_id),
        template,
        model: short(access.model),
        pool: short(access.pool),
        worker: short(access.worker_id),
        status: access.status,
        outcome,
        code: short(access.error_code),
        attempts: access.attempts,
        latency: access.latency,
    };
    let mut recent = RECENT.lock();
    let oldest = (recent.len() >= KEPT).then(|| recent.pop_back()).flatten();
    recent.push_front(failure);
    drop(recent);
    drop(oldest);
}

/// What is kept, newest first.
pub fn recent() -> Vec<Failure> {
    RECENT.lock().iter().cloned().collect()
}

fn short(text: &str) -> Box<str> {
    let end = text.floor_char_boundary(LONGEST);
    text.get(..end).unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_latest_are_kept_and_no_field_is_long() {
        let long = "é".repeat(LONGEST);
        for status in [200, 500] {
            for _ in 0..2 * KEPT {
                let access = Access {
                    status,
                    request_id: &long,
                    ..Access::default()
                };
                note("/generate", &access);
            }
        }
        let recent = recent();
        assert_eq!(recent.len(), KEPT);
        assert!(recent.iter().all(|failure| failure.status == 500));
        assert!(
            recent
                .iter()
                .all(|failure| failure.request_id.len() <= LONGEST)
        );
    }
}
