//! What the last minutes were like: rates and latencies of inference requests, worked out of the
//! metrics, which only ever grow. Somebody takes a sample every second; a request costs nothing more.
//!
//! Bounded: samples of the last [`FINE`] seconds, and one for every [`STEP`] of the last five minutes.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::metrics::{self, Metric};
use super::outcome::Outcome;
use crate::base::clock;

/// Samples that are kept at one a second.
const FINE: usize = 12;

/// Time between samples that are kept for longer, and of one point of a curve.
const STEP: Duration = Duration::from_secs(5);

/// Samples that are kept for longer.
const COARSE: usize = 61;

/// By how much a sample may come too early and still count as the one that was due.
const SLACK: Duration = Duration::from_millis(500);

/// The spans that are told, shortest first.
const SPANS: [Duration; 3] = [
    Duration::from_secs(10),
    Duration::from_secs(60),
    Duration::from_secs(300),
];

static PULSE: Mutex<Pulse> = Mutex::new(Pulse {
    fine: VecDeque::new(),
    coarse: VecDeque::new(),
});

/// What the requests of a span were like.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    /// Its length.
    pub length: Duration,
    /// How much of it there are figures of: the process may be younger.
    pub covered: Duration,
    /// Requests that ended in it, by [`Outcome::ALL`].
    pub ended: [u64; Outcome::ALL.len()],
    /// Tokens that workers read.
    pub input_tokens: u64,
    /// Tokens that workers wrote.
    pub output_tokens: u64,
    /// How long requests took in seconds: half, 95 and 99 of 100 were faster.
    pub duration: Option<[f64; 3]>,
    /// How long streams took to their first token, in the same way.
    pub first_token: Option<[f64; 3]>,
}

/// A piece of the last minutes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// When it ended, since the Unix epoch.
    pub at: Duration,
    /// Its length.
    pub length: Duration,
    /// Requests that ended in it, by [`Outcome::ALL`].
    pub ended: [u64; Outcome::ALL.len()],
    /// Tokens that workers wrote.
    pub output_tokens: u64,
    /// Requests under way at its end.
    pub in_flight: u64,
}

/// The last minutes.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// Shortest first.
    pub spans: Vec<Span>,
    /// Oldest first, none overlapping another.
    pub points: Vec<Point>,
}

/// Takes a sample at `now`, while `in_flight` inference requests are under way. Of the answers that
/// were sent those count whose route template `is_inference`.
pub fn sample(now: Instant, in_flight: u64, is_inference: impl Fn(&str) -> bool) {
    let sample = Sample::take(now, in_flight, is_inference);
    PULSE.lock().push(sample);
}

/// What the samples so far say.
pub fn read() -> Reading {
    PULSE.lock().read(&metrics::duration_bounds())
}

#[derive(Debug, Default)]
struct Pulse {
    fine: VecDeque<Sample>,
    coarse: VecDeque<Sample>,
}

/// All that has been counted until a moment.
#[derive(Debug, Clone)]
struct Sample {
    now: Instant,
    at: Duration,
    ended: [u64; Outcome::ALL.len()],
    input_tokens: u64,
    output_tokens: u64,
    in_flight: u64,
    duration: Box<[u64]>,
    first_token: Box<[u64]>,
}

impl Sample {
    fn take(now: Instant, in_flight: u64, is_inference: impl Fn(&str) -> bool) -> Self {
        let mut ended = [0; Outcome::ALL.len()];
        metrics::each(Metric::HttpResponses, |label, value| {
            if is_inference(&label("path")) {
                let status = label("status_code").parse().unwrap_or_default();
                let outcome = Outcome::of(status, &label("error_code"));
                if let Some(count) = ended.get_mut(outcome as usize) {
                    *count += whole(value);
                }
            }
        });
        let (mut input_tokens, mut output_tokens) = (0, 0);
        metrics::each(Metric::RouterTokens, |label, value| {
            match &*label("token_type") {
                "input" => input_tokens += whole(value),
                _ => output_tokens += whole(value),
            }
        });
        Self {
            now,
            at: clock::unix(),
            ended,
            input_tokens,
            output_tokens,
            in_flight,
            duration: metrics::buckets(Metric::RouterRequestDuration).into(),
            first_token: metrics::buckets(Metric::RouterTtft).into(),
        }
    }
}

impl Pulse {
    fn push(&mut self, sample: Sample) {
        let since = |last: &Sample| sample.now.saturating_duration_since(last.now);
        if self
            .coarse
            .back()
            .is_none_or(|last| since(last) + SLACK >= STEP)
        {
            keep(&mut self.coarse, sample.clone(), COARSE);
        }
        keep(&mut self.fine, sample, FINE);
    }

    fn read(&self, bounds: &[f64]) -> Reading {
        let spans = SPANS.map(|length| self.span(length, bounds)).into();
        let pairs = self.coarse.iter().zip(self.coarse.iter().skip(1));
        let points = pairs.map(|(from, to)| Point {
            at: to.at,
            length: to.now.saturating_duration_since(from.now),
            ended: grown(&from.ended, &to.ended),
            output_tokens: to.output_tokens.saturating_sub(from.output_tokens),
            in_flight: to.in_flight,
        });
        Reading {
            spans,
            points: points.collect(),
        }
    }

    /// From the latest sample that is old enough, else the oldest one, to now.
    fn span(&self, length: Duration, bounds: &[f64]) -> Span {
        let mut span = Span {
            length,
            covered: Duration::ZERO,
            ended: [0; Outcome::ALL.len()],
            input_tokens: 0,
            output_tokens: 0,
            duration: None,
            first_token: None,
        };
        let Some(to) = self.fine.back() else {
            return span;
        };
        let age = |sample: &&Sample| to.now.saturating_duration_since(sample.now);
        let all = || self.coarse.iter().chain(&self.fine);
        let due = all().filter(|sample| age(sample) + SLACK >= length);
        let Some(from) = due.min_by_key(age).or_else(|| all().max_by_key(age)) else {
            return span;
        };
        span.covered = age(&from);
        span.ended = grown(&from.ended, &to.ended);
        span.input_tokens = to.input_tokens.saturating_sub(from.input_tokens);
        span.output_tokens = to.output_tokens.saturating_sub(from.output_tokens);
        span.duration = quantiles(bounds, &from.duration, &to.duration);
        span.first_token = quantiles(bounds, &from.first_token, &to.first_token);
        span
    }
}

fn keep(samples: &mut VecDeque<Sample>, sample: Sample, most: usize) {
    if samples.len() >= most {
        samples.pop_front();
    }
    samples.push_back(sample);
}

fn grown<const N: usize>(from: &[u64; N], to: &[u64; N]) -> [u64; N] {
    let mut grown = *to;
    for (grown, from) in grown.iter_mut().zip(from) {
        *grown = grown.saturating_sub(*from);
    }
    grown
}

/// The values below which half, 95 and 99 of 100 of those lie that came between two samples of a
/// histogram, as Prometheus estimates them.
fn quantiles(bounds: &[f64], from: &[u64], to: &[u64]) -> Option<[f64; 3]> {
    // A histogram that was not there yet has nothing in it.
    let before = from.iter().copied().chain(std::iter::repeat(0));
    let grown: Vec<u64> = to
        .iter()
        .zip(before)
        .map(|(to, from)| to.saturating_sub(from))
        .collect();
    let all: u64 = grown.iter().sum();
    (all > 0).then(|| [0.5, 0.95, 0.99].map(|part| quantile(bounds, &grown, part * all as f64)))
}

/// The value with `rank` others below it, taking those of a bucket to be spread evenly in it.
fn quantile(bounds: &[f64], counts: &[u64], rank: f64) -> f64 {
    let (mut below, mut lower) = (0.0, 0.0);
    for (bound, count) in bounds.iter().zip(counts) {
        let count = *count as f64;
        if count > 0.0 && below + count >= rank {
            return lower + (bound - lower) * ((rank - below) / count).clamp(0.0, 1.0);
        }
        below += count;
        lower = *bound;
    }
    lower
}

/// A counter's value.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a counter is a whole number and not below zero"
)]
fn whole(value: f64) -> u64 {
    value as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: [f64; 3] = [0.1, 1.0, 10.0];

    fn sample(start: Instant, second: u64, ok: u64) -> Sample {
        Sample {
            now: start + Duration::from_secs(second),
            at: Duration::from_secs(1000 + second),
            ended: [ok, 0, 0, 0, second / 10],
            input_tokens: 10 * ok,
            output_tokens: 2 * ok,
            in_flight: second,
            duration: [0, ok, 0, 0].into(),
            first_token: [].into(),
        }
    }

    #[test]
    fn spans_are_differences_and_as_long_as_there_is_something_to_tell() {
        let (mut pulse, start) = (Pulse::default(), clock::now());
        let spans = |pulse: &Pulse| pulse.read(&BOUNDS).spans;
        let seconds = |span: &Span| span.covered.as_secs();
        assert!(spans(&pulse).iter().all(|span| span.covered.is_zero()));
        pulse.push(sample(start, 0, 0));
        assert!(spans(&pulse).iter().all(|span| span.covered.is_zero()));
        for second in 1..=30 {
            pulse.push(sample(start, second, 3 * second));
        }
        let got = spans(&pulse);
        assert_eq!(got.iter().map(seconds).collect::<Vec<_>>(), [10, 30, 30]);
        assert_eq!(got[0].ended, [30, 0, 0, 0, 1]);
        assert_eq!((got[1].input_tokens, got[1].output_tokens), (900, 180));
        assert_eq!(got[0].first_token, None);
        let [p50, p95, _] = got[0].duration.unwrap();
        assert!((p50 - 0.55).abs() < 1e-9 && (p95 - 0.955).abs() < 1e-9);
        for second in 31..=1000 {
            pulse.push(sample(start, second, 3 * second));
        }
        let got = spans(&pulse);
        assert_eq!(got.iter().map(seconds).collect::<Vec<_>>(), [10, 60, 300]);
        assert_eq!(got[2].ended[0], 900);
    }

    #[test]
    fn points_follow_each_other_and_what_is_kept_has_an_end() {
        let (mut pulse, start) = (Pulse::default(), clock::now());
        for second in 0..10_000 {
            pulse.push(sample(start, second, 2 * second));
        }
        let points = pulse.read(&BOUNDS).points;
        assert_eq!(points.len(), COARSE - 1);
        assert!(
            points
                .iter()
                .all(|point| point.length == STEP && point.ended[0] == 10)
        );
        assert!(
            points
                .windows(2)
                .all(|two| two[0].at + two[1].length == two[1].at)
        );
        // With all default bounds a sample has two times thirty buckets.
        let each = size_of::<Sample>() + 2 * 30 * size_of::<u64>();
        assert!((pulse.fine.len() + pulse.coarse.len()) * each < 64 << 10);
    }

    #[test]
    fn a_pause_of_the_sampler_is_no_rate() {
        let (mut pulse, start) = (Pulse::default(), clock::now());
        for second in [0, 1, 2, 100, 101] {
            pulse.push(sample(start, second, second));
        }
        let reading = pulse.read(&BOUNDS);
        let [short, ..] = &*reading.spans else {
            panic!("spans")
        };
        assert_eq!((short.covered.as_secs(), short.ended[0]), (99, 99));
        assert_eq!(reading.points[0].length, Duration::from_secs(100));
    }

    #[test]
    fn quantiles_stay_between_the_bounds() {
        for (counts, expected) in [
            ([0, 0, 0, 0], None),
            ([10, 0, 0, 0], Some([0.05, 0.095, 0.099])),
            ([0, 0, 0, 7], Some([10.0; 3])),
            ([50, 50, 0, 0], Some([0.1, 0.91, 0.982])),
        ] {
            let got = quantiles(&BOUNDS, &[], &counts);
            let near = |(a, b): (&f64, &f64)| (a - b).abs() < 1e-9;
            match (got, expected) {
                (Some(got), Some(expected)) => {
                    assert!(got.iter().zip(&expected).all(near), "{got:?}")
                }
                (got, expected) => assert_eq!(got, expected),
            }
        }
    }
}
