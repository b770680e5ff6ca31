//! `dp_minimum_tokens`: the policy chooses an engine, and of its ranks the one with the fewest tokens
//! serves.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use super::choose::Usable;
use crate::api::prompt::Prompt;

/// Tokens per word of text, as far as anybody can tell without a tokenizer.
const TOKENS_PER_WORD: f64 = 1.3;

/// The rank that has the fewest tokens of those in `usable` that belong to the engine of `chosen`: by
/// its latest report and what was given to it since; by its requests in flight where some rank has made
/// no report.
pub(super) fn beside<'a>(
    chosen: &Usable<'a>,
    usable: &[Usable<'a>],
    now: Instant,
    age: Duration,
) -> Usable<'a> {
    let key = &chosen.worker.plan.key;
    let ranks: Vec<(&Usable<'a>, Option<u64>)> = usable
        .iter()
        .filter(|rank| key.is_rank_beside(&rank.worker.plan.key))
        .map(|rank| {
            let report = rank.worker.parts.cell.report.fresh(now, age);
            (rank, report.and_then(|engine| engine.used_tokens))
        })
        .collect();
    let known = ranks.iter().all(|(_, used)| used.is_some());
    let fewest = ranks.iter().min_by_key(|(rank, used)| {
        let cell = &rank.worker.parts.cell;
        let (load, routed) = (cell.load() as u64, cell.report.routed());
        match used {
            Some(used) if known => (used.saturating_add(routed), load),
            _ => (load, routed),
        }
    });
    fewest.map_or(*chosen, |(rank, _)| **rank)
}

/// Tokens that `prompt` is taken to have.
pub(super) fn tokens(prompt: &Prompt<'_>) -> u64 {
    let mut words = 0_u64;
    let mut inside = false;
    prompt.visit(|text| {
        for byte in text {
            let space = byte.is_ascii_whitespace();
            words += u64::from(!space && !inside);
            inside = !space;
        }
        ControlFlow::Continue(())
    });
    of_words(words)
}

fn of_words(words: u64) -> u64 {
    (words as f64 * TOKENS_PER_WORD).ceil() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_counted_generously() {
        assert_eq!([0, 1, 3, 10].map(of_words), [0, 2, 4, 13]);
    }
}
