//! Decisions, counted. The label sets are closed: nothing of a request is in them.

use std::sync::{LazyLock, OnceLock};

use metrics::Counter;

use super::denied::Plane;
use crate::live::AuthMethod;
use crate::telemetry::metrics::{self as names, Metric};

/// What became of a request at the door.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It came in.
    Allowed,
    /// It had no credential.
    Missing,
    /// Its credential was no good.
    Invalid,
    /// It is known who asks, and that is not enough.
    Forbidden,
    /// Too many wrong credentials came from there.
    Throttled,
    /// Its credential could not be judged.
    Unavailable,
}

impl Outcome {
    const ALL: [Self; 6] = [
        Self::Allowed,
        Self::Missing,
        Self::Invalid,
        Self::Forbidden,
        Self::Throttled,
        Self::Unavailable,
    ];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Missing => "missing",
            Self::Invalid => "invalid",
            Self::Forbidden => "forbidden",
            Self::Throttled => "throttled",
            Self::Unavailable => "unavailable",
        }
    }
}

const METHODS: usize = AuthMethod::ALL.len();
const OUTCOMES: usize = Outcome::ALL.len();

static COUNTERS: LazyLock<Vec<OnceLock<Counter>>> =
    LazyLock::new(|| vec![OnceLock::new(); 2 * METHODS * OUTCOMES]);

/// Counts one decision.
pub(super) fn decided(plane: Plane, method: AuthMethod, outcome: Outcome) {
    let row = plane as usize * METHODS + method as usize;
    let counter = COUNTERS.get(row * OUTCOMES + outcome as usize);
    let Some(counter) = counter else { return };
    let labels = [
        ("plane", plane.as_str()),
        ("method", method.as_str()),
        ("outcome", outcome.as_str()),
    ];
    counter
        .get_or_init(|| names::counter(Metric::AuthDecisions, &labels))
        .increment(1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_decision_has_a_counter_of_its_own() {
        let places = |words: &[usize]| words.iter().enumerate().all(|(at, word)| at == *word);
        assert!(places(&Outcome::ALL.map(|outcome| outcome as usize)));
        assert!(places(&AuthMethod::ALL.map(|method| method as usize)));
        assert!(places(
            &[Plane::Data, Plane::Control].map(|plane| plane as usize)
        ));
    }
}
