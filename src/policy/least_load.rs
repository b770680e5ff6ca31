//! `least_load`: the candidate that will be free first, as its engine reports; without any report
//! the one with the fewest requests in flight. Ties go to the worker picked least often, and at
//! random among those, so that an idle pool is used evenly.

use super::seat::least;
use super::{Ask, Candidate, Engine, Pick};
use crate::config::spec::LeastLoad;

/// A cache that is full counts as this full.
const FULL: f64 = 0.999;

pub(super) fn pick(ask: &Ask<'_>, options: &LeastLoad, rng: &mut fastrand::Rng) -> Pick {
    let (mut reports, mut throughput) = (0_u32, 0.0);
    for engine in ask.candidates.iter().filter_map(|worker| worker.engine) {
        reports += 1;
        throughput += speed(engine, options);
    }
    let mut pick = if reports == 0 {
        for (index, worker) in ask.candidates.iter().enumerate() {
            ask.note(index, "load", worker.weight());
        }
        Pick::of(lightest(ask, rng), "lightest")
    } else {
        let mean = throughput / f64::from(reports);
        let rank = |index: usize, worker: &Candidate<'_>| {
            let seconds = match worker.engine {
                Some(engine) => seconds(engine, options),
                None => worker.load as f64 * f64::from(options.mean_prefill_tokens) / mean,
            };
            ask.note(index, "score_seconds", seconds * worker.cost);
            (seconds * worker.cost, worker.cost, worker.processed)
        };
        Pick::of(least(ask.candidates, rng, rank), "soonest")
    };
    pick.expected.prefill_tokens = match ask.hint.tokens {
        Some(tokens) if !tokens.is_empty() => u32::try_from(tokens.len()).unwrap_or(u32::MAX),
        _ => options.mean_prefill_tokens,
    };
    pick
}

/// The candidate with the least load times cost; ties by cost, then by picks so far, then at
/// random.
pub(super) fn lightest(ask: &Ask<'_>, rng: &mut fastrand::Rng) -> usize {
    least(ask.candidates, rng, |_, worker| {
        (worker.weight(), worker.cost, worker.processed)
    })
}

/// Tokens per second. An idle engine generates none, which says nothing about its speed.
fn speed(engine: &Engine, options: &LeastLoad) -> f64 {
    engine
        .gen_throughput
        .filter(|speed| *speed > 0.0 && speed.is_finite())
        .unwrap_or(options.default_throughput)
}

/// Until the engine has read what waits, and a penalty for a cache that fills up.
fn seconds(engine: &Engine, options: &LeastLoad) -> f64 {
    let waiting = engine.waiting_uncached_tokens.unwrap_or_else(|| {
        let waiting = engine.waiting.unwrap_or(0);
        waiting.saturating_mul(u64::from(options.mean_prefill_tokens))
    });
    let tokens = waiting as f64 + engine.in_flight_tokens as f64;
    let used = engine.token_usage.unwrap_or(0.0).clamp(0.0, FULL);
    tokens / speed(engine, options) + options.kv_pressure_weight * used / (1.0 - used)
}

#[cfg(test)]
mod tests {
    use crate::config::spec::{LeastLoad, Policy};
    use crate::policy::scene::Scene;
    use crate::policy::{Engine, Notes};

    fn scene(loads: &[usize]) -> Scene {
        Scene::of(Policy::LeastLoad(LeastLoad::default()), loads)
    }

    fn report(uncached: u64, usage: f64, throughput: f64) -> Option<Engine> {
        Some(Engine {
            waiting_uncached_tokens: Some(uncached),
            token_usage: Some(usage),
            gen_throughput: Some(throughput),
            ..Engine::default()
        })
    }

    fn scores(scene: &mut Scene) -> Vec<(usize, f64)> {
        scene.notes = Some(Notes::default());
        scene.pick();
        let notes = scene.notes.take().unwrap().into_inner();
        notes
            .into_iter()
            .map(|(at, _, value)| (at, value))
            .collect()
    }

    #[test]
    fn the_least_loaded_wins_and_ties_go_to_the_least_used() {
        assert_eq!(scene(&[2, 1, 3]).pick().index, 1);
        let mut tied = scene(&[1, 1, 1]);
        for (worker, processed) in tied.workers.iter_mut().zip([5, 4, 6]) {
            worker.processed = processed;
        }
        assert_eq!(tied.pick().index, 1);
    }

    #[test]
    fn full_ties_spread_over_all() {
        let seen = scene(&[0; 3]).spread(3000);
        assert!(seen.iter().all(|n| *n > 800), "{seen:?}");
    }

    #[test]
    fn load_counts_times_cost_and_a_tie_goes_to_the_cheaper() {
        let mut scene = scene(&[2, 3]);
        scene.workers[0].cost = 2.0;
        assert_eq!(scene.pick().index, 1);
        scene.workers[1].load = 4;
        assert_eq!(scene.pick().index, 1);
        scene.workers[1].load = 5;
        assert_eq!(scene.pick().index, 0);
    }

    #[test]
    fn reports_are_turned_into_seconds() {
        let mut scene = scene(&[9, 0, 0]);
        scene.workers[0].engine = report(2000, 0.5, 1000.0);
        scene.workers[1].engine = report(0, 1.0, 0.0);
        scene.workers[2].engine = report(3000, 0.0, 500.0);
        if let Some(engine) = &mut scene.workers[1].engine {
            engine.in_flight_tokens = 4000;
        }
        let expected = [2.0 + 0.15, 2.0 + 0.15 * 999.0, 6.0];
        for ((at, score), expected) in scores(&mut scene).into_iter().zip(expected) {
            assert!((score - expected).abs() < 1e-6, "{at}: {score}");
        }
        let pick = scene.pick();
        assert_eq!((pick.index, pick.reason), (0, "soonest"));
    }

    #[test]
    fn a_worker_without_a_report_counts_its_requests_at_the_mean_speed() {
        let mut scene = scene(&[3, 0]);
        scene.workers[1].engine = report(0, 0.0, 512.0);
        let (_, score) = scores(&mut scene)[0];
        assert!((score - 6.0).abs() < 1e-9, "{score}");
        assert_eq!(scene.pick().index, 1);
        scene.workers[0].load = 0;
        let seen = scene.spread(200);
        assert!(seen.iter().all(|n| *n > 50), "{seen:?}");
    }

    #[test]
    fn waiting_requests_stand_for_tokens_that_are_not_reported() {
        let mut scene = scene(&[0, 0]);
        scene.workers[0].engine = report(0, 0.0, 1024.0);
        if let Some(engine) = &mut scene.workers[0].engine {
            (engine.waiting, engine.waiting_uncached_tokens) = (Some(2), None);
        }
        scene.workers[1].engine = report(1500, 0.0, 1024.0);
        assert_eq!(scene.pick().index, 1);
    }

    #[test]
    fn the_prompt_is_expected_to_be_computed() {
        let mut scene = scene(&[0]);
        assert_eq!(scene.pick().expected.prefill_tokens, 1024);
        scene.tokens = Some(vec![0; 77]);
        assert_eq!(scene.pick().expected.prefill_tokens, 77);
    }
}
