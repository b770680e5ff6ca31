//! Accounts under a clock of the test's own, against a model, and under threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::api::Usage;
use crate::base::clock;
use crate::plan::{ModelLimits, TenantLimits};

fn limits(rpm: Option<u64>, tpm: Option<u64>, concurrent: Option<u64>) -> Arc<TenantLimits> {
    Arc::new(TenantLimits {
        requests_per_minute: rpm,
        tokens_per_minute: tpm,
        max_concurrent: concurrent,
        models: Vec::new(),
    })
}

fn with_model(
    limits: &TenantLimits,
    pattern: &str,
    rpm: Option<u64>,
    tpm: Option<u64>,
) -> Arc<TenantLimits> {
    let mut limits = limits.clone();
    limits.models.push(ModelLimits {
        pattern: pattern.into(),
        requests_per_minute: rpm,
        tokens_per_minute: tpm,
    });
    Arc::new(limits)
}

/// A request that is expected to cost this.
fn costing(tokens: u64) -> Wanted<'static> {
    Wanted {
        model: "m",
        bytes: 0,
        generates: true,
        answers: 1,
        most: Some(tokens),
    }
}

fn told(input: u64, output: u64) -> Spent {
    Spent::Told(Usage {
        input,
        output,
        cached: None,
    })
}

fn account() -> Arc<AccountCell> {
    Arc::default()
}

fn enter(
    account: &Arc<AccountCell>,
    limits: &Arc<TenantLimits>,
    wanted: &Wanted<'_>,
    now: Instant,
) -> Result<Stay, u64> {
    let over = |over: Over| over.retry_after().as_secs();
    let mut stay = account.arrive(limits, now).map_err(over)?;
    stay.reserve(wanted, now).map_err(over)?;
    Ok(stay)
}

fn counts(account: &AccountCell) -> [u64; 4] {
    let sums = account.sums();
    [&sums.allowed, &sums.rejected, &sums.input, &sums.output]
        .map(|counter| counter.load(Ordering::Relaxed))
}

#[test]
fn requests_come_back_over_the_minute() {
    let (account, limits, now) = (account(), limits(Some(3), None, None), clock::now());
    for _ in 0..3 {
        drop(enter(&account, &limits, &costing(9), now).unwrap());
    }
    assert_eq!(enter(&account, &limits, &costing(9), now).unwrap_err(), 20);
    let later = now + Duration::from_millis(19_001);
    assert_eq!(enter(&account, &limits, &costing(9), later).unwrap_err(), 1);
    drop(
        enter(
            &account,
            &limits,
            &costing(9),
            now + Duration::from_secs(20),
        )
        .unwrap(),
    );
    assert_eq!(counts(&account), [4, 2, 0, 0]);
    assert_eq!(account.open(), (0, 0));
}

#[test]
fn places_are_held_to_the_end() {
    let (account, limits, now) = (account(), limits(None, None, Some(2)), clock::now());
    let first = enter(&account, &limits, &costing(0), now).unwrap();
    let _second = enter(&account, &limits, &costing(0), now).unwrap();
    assert_eq!(enter(&account, &limits, &costing(0), now).unwrap_err(), 1);
    first.settle(Spent::Unknown, now);
    drop(enter(&account, &limits, &costing(0), now).unwrap());
    // Those of before count under a limit that comes later.
    let fewer = self::limits(None, None, Some(1));
    assert_eq!(enter(&account, &fewer, &costing(0), now).unwrap_err(), 1);
}

#[test]
fn tokens_are_reserved_and_settled() {
    let (account, limits, now) = (account(), limits(None, Some(600), None), clock::now());
    let stay = enter(&account, &limits, &costing(500), now).unwrap();
    assert!(stay.needs_usage());
    assert_eq!(account.open(), (1, 500));
    assert_eq!(
        enter(&account, &limits, &costing(200), now).unwrap_err(),
        10
    );
    stay.settle(told(20, 30), now);
    assert_eq!(account.tokens(&limits, now), 50);
    // Nobody said what it cost.
    enter(&account, &limits, &costing(100), now)
        .unwrap()
        .settle(Spent::Unknown, now);
    assert_eq!(account.tokens(&limits, now), 150);
    // Nobody has worked on it; the second one was not even settled.
    enter(&account, &limits, &costing(100), now)
        .unwrap()
        .settle(Spent::Nothing, now);
    drop(enter(&account, &limits, &costing(100), now).unwrap());
    assert_eq!(account.tokens(&limits, now), 150);
    // More than was expected is a debt that is carried.
    enter(&account, &limits, &costing(450), now)
        .unwrap()
        .settle(told(1000, 50), now);
    assert_eq!(account.tokens(&limits, now), 1200);
    assert_eq!(
        enter(&account, &limits, &costing(100), now).unwrap_err(),
        70
    );
    assert_eq!(
        (account.open(), counts(&account)),
        ((0, 0), [5, 2, 1020, 80])
    );
}

#[test]
fn without_a_most_the_mean_of_what_came_before_is_expected() {
    let (account, limits, now) = (account(), limits(None, Some(100_000), None), clock::now());
    let open = Wanted {
        bytes: 400,
        most: None,
        ..costing(0)
    };
    let expected = |wanted: &Wanted<'_>| {
        let stay = enter(&account, &limits, wanted, now).unwrap();
        (account.open().1, stay)
    };
    let (first, stay) = expected(&open);
    assert_eq!(first, 100 + 256);
    stay.settle(told(90, 40), now);
    expected(&open).1.settle(told(90, 20), now);
    assert_eq!(expected(&open).0, 100 + 30);
    let embedding = Wanted {
        generates: false,
        answers: 1,
        ..open
    };
    assert_eq!(expected(&embedding).0, 100);
    let boundless = Wanted {
        most: Some(u64::MAX),
        ..open
    };
    let (estimate, _stay) = expected(&Wanted { bytes: 0, ..open });
    assert_eq!(estimate, 30);
    assert_eq!(enter(&account, &limits, &boundless, now).unwrap_err(), 1);
}

#[test]
fn a_refusal_gives_back_what_the_head_took() {
    let (account, limits, now) = (account(), limits(Some(2), Some(100), Some(1)), clock::now());
    let all = enter(&account, &limits, &costing(100), now).unwrap();
    all.settle(Spent::Unknown, now);
    for _ in 0..5 {
        assert_eq!(enter(&account, &limits, &costing(50), now).unwrap_err(), 30);
    }
    assert_eq!((account.open(), counts(&account)), ((0, 0), [1, 5, 0, 0]));
    drop(account.arrive(&limits, now).unwrap());
}

#[test]
fn models_have_allowances_besides() {
    let (account, now) = (account(), clock::now());
    let limits = with_model(&limits(None, Some(1000), None), "big-*", Some(2), Some(300));
    let limits = with_model(&limits, "big-slow", None, Some(60));
    let of = |model, tokens| Wanted {
        model,
        ..costing(tokens)
    };
    let mut stays = vec![enter(&account, &limits, &of("big-a", 200), now).unwrap()];
    // The models under one glob share.
    assert_eq!(
        enter(&account, &limits, &of("big-b", 200), now).unwrap_err(),
        20
    );
    stays.push(enter(&account, &limits, &of("big-b", 100), now).unwrap());
    assert_eq!(
        enter(&account, &limits, &of("big-b", 0), now).unwrap_err(),
        30
    );
    // The longer name has one of its own, others only that of all.
    stays.push(enter(&account, &limits, &of("big-slow", 60), now).unwrap());
    assert_eq!(
        enter(&account, &limits, &of("big-slow", 30), now).unwrap_err(),
        30
    );
    assert_eq!(
        enter(&account, &limits, &of("small", 700), now).unwrap_err(),
        4
    );
    stays.push(enter(&account, &limits, &of("small", 640), now).unwrap());
    drop(stays);
    assert_eq!(account.open(), (0, 0));
    stays = vec![enter(&account, &limits, &of("small", 1000), now).unwrap()];
    drop(stays);
    assert_eq!(
        enter(&account, &limits, &of("big-a", 300), now).unwrap_err(),
        30,
        "requests"
    );
    drop(enter(&account, &limits, &of("big-slow", 60), now).unwrap());
}

#[test]
fn new_limits_judge_old_counts() {
    let (account, now) = (account(), clock::now());
    let narrow = limits(Some(2), Some(100), None);
    for _ in 0..2 {
        enter(&account, &narrow, &costing(50), now)
            .unwrap()
            .settle(Spent::Unknown, now);
    }
    assert_eq!(enter(&account, &narrow, &costing(1), now).unwrap_err(), 30);
    let wide = limits(Some(4), Some(150), None);
    enter(&account, &wide, &costing(50), now)
        .unwrap()
        .settle(Spent::Unknown, now);
    assert_eq!(enter(&account, &wide, &costing(15), now).unwrap_err(), 6);
    assert_eq!(enter(&account, &narrow, &costing(1), now).unwrap_err(), 60);
}

#[derive(Debug, Clone)]
enum Step {
    Come { tokens: u64 },
    End { which: usize, spent: Option<u64> },
    Vanish { which: usize },
    Time { micros: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => prop_oneof![0_u64..50, 0_u64..400].prop_map(|tokens| Step::Come { tokens }),
        3 => (0_usize..64, prop::option::of(0_u64..500))
            .prop_map(|(which, spent)| Step::End { which, spent }),
        1 => (0_usize..64).prop_map(|which| Step::Vanish { which }),
        2 => (0_u64..40_000_000).prop_map(|micros| Step::Time { micros }),
    ]
}

/// A level that rises to a brim, in sixty-millionths, so that a microsecond is a whole number.
struct Vessel {
    level: i128,
    brim: i128,
    limit: i128,
}

const UNIT: i128 = 60_000_000;

impl Vessel {
    fn new(limit: u64) -> Self {
        let limit = i128::from(limit);
        let brim = limit * UNIT;
        Self {
            level: brim,
            brim,
            limit,
        }
    }

    fn add(&mut self, amount: i128) {
        self.level = (self.level + amount).min(self.brim);
    }

    /// Seconds until it covers `amount`; at least one where it does not.
    fn lacks(&self, amount: u64) -> Option<u64> {
        let wanted = (i128::from(amount) * UNIT).min(self.brim);
        let missing = wanted - self.level;
        (missing > 0).then(|| {
            let micros = missing.div_euclid(self.limit) + i128::from(missing % self.limit > 0);
            u64::try_from(micros).unwrap().div_ceil(1_000_000)
        })
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn every_step_is_what_two_vessels_say(
        rpm in 1_u64..30,
        tpm in 1_u64..300,
        steps in prop::collection::vec(step(), 1..150),
    ) {
        let account = account();
        let limits = limits(Some(rpm), Some(tpm), None);
        let (mut requests, mut tokens) = (Vessel::new(rpm), Vessel::new(tpm));
        let mut now = clock::now();
        let mut open: Vec<(Stay, u64)> = Vec::new();
        for step in steps {
            match step {
                Step::Come { tokens: wanted } => {
                    let expected = requests.lacks(1).or_else(|| tokens.lacks(wanted));
                    let full = tokens.level == tokens.brim;
                    match enter(&account, &limits, &costing(wanted), now) {
                        Ok(stay) => {
                            prop_assert_eq!(expected, None);
                            requests.level -= UNIT;
                            tokens.level -= i128::from(wanted) * UNIT;
                            prop_assert!(tokens.level >= 0 || full, "overshot");
                            open.push((stay, wanted));
                        }
                        Err(seconds) => prop_assert_eq!(Some(seconds), expected),
                    }
                }
                Step::End { which, spent } if !open.is_empty() => {
                    let (stay, reserved) = open.swap_remove(which % open.len());
                    match spent {
                        Some(spent) => {
                            stay.settle(told(spent, 0), now);
                            tokens.add((i128::from(reserved) - i128::from(spent)) * UNIT);
                        }
                        None => stay.settle(Spent::Unknown, now),
                    }
                }
                Step::Vanish { which } if !open.is_empty() => {
                    let (stay, reserved) = open.swap_remove(which % open.len());
                    stay.settle(Spent::Nothing, now);
                    tokens.add(i128::from(reserved) * UNIT);
                }
                Step::Time { micros } => {
                    now += Duration::from_micros(micros);
                    requests.add(i128::from(micros) * requests.limit);
                    tokens.add(i128::from(micros) * tokens.limit);
                }
                Step::End { .. } | Step::Vanish { .. } => {}
            }
            let reserved = open.iter().map(|(_, tokens)| tokens).sum();
            prop_assert_eq!(account.open(), (open.len() as u64, reserved));
        }
        drop(open);
        prop_assert_eq!(account.open(), (0, 0));
    }
}

#[test]
fn a_burst_of_many_threads_goes_over_by_no_more_than_one_request() {
    for cost in [20, 300, 1500] {
        let (account, limits) = (account(), limits(None, Some(1000), None));
        let start = std::sync::Barrier::new(64);
        let now = clock::now();
        let admitted = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..64 {
                scope.spawn(|| {
                    start.wait();
                    if let Ok(stay) = enter(&account, &limits, &costing(cost), now) {
                        admitted.fetch_add(cost, Ordering::Relaxed);
                        stay.settle(Spent::Unknown, now);
                    }
                });
            }
        });
        let admitted = admitted.into_inner();
        assert!(
            admitted <= 1000.max(cost) && admitted + cost > 1000,
            "{admitted} of {cost}"
        );
        assert_eq!(account.open(), (0, 0));
        assert_eq!(account.tokens(&limits, now), u128::from(admitted));
    }
}

#[test]
fn threads_that_come_and_vanish_leave_nothing_behind() {
    let account = account();
    let narrow = with_model(
        &limits(Some(100_000), Some(50_000), Some(5)),
        "m",
        None,
        Some(40_000),
    );
    let wide = with_model(
        &limits(None, Some(90_000), Some(7)),
        "*",
        Some(9_000_000),
        None,
    );
    let most = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for n in 0..8_u64 {
            let (account, most) = (&account, &most);
            let limits = if n % 2 == 0 { &narrow } else { &wide };
            scope.spawn(move || {
                for step in 0..3_000_u64 {
                    let now = clock::now();
                    let Ok(stay) = enter(account, limits, &costing(step % 900), now) else {
                        continue;
                    };
                    most.fetch_max(account.open().0, Ordering::Relaxed);
                    match step % 4 {
                        0 => drop(stay),
                        1 => stay.settle(Spent::Nothing, now),
                        2 => stay.settle(told(step % 50, step % 70), now),
                        _ => stay.settle(Spent::Unknown, now),
                    }
                }
            });
        }
    });
    assert_eq!(account.open(), (0, 0));
    assert!((1..=7).contains(&most.into_inner()));
    let [allowed, rejected, ..] = counts(&account);
    assert_eq!(allowed + rejected, 24_000);
}

#[test]
fn a_figure_gone_wild_is_no_debt_for_ever() {
    let (account, limits, now) = (account(), limits(None, Some(1 << 24), None), clock::now());
    let stay = enter(&account, &limits, &costing(1), now).unwrap();
    stay.settle(told(u64::MAX, u64::MAX), now);
    let wait = enter(&account, &limits, &costing(1), now).unwrap_err();
    assert!((60..=61).contains(&wait), "{wait}");
    let [_, _, input, output] = counts(&account);
    assert_eq!(input, output, "no sum has run over");
}

#[test]
fn every_answer_of_a_batch_is_expected() {
    let (account, limits, now) = (account(), limits(None, Some(1000), None), clock::now());
    let many = |answers| Wanted {
        answers,
        ..costing(100)
    };
    let first = enter(&account, &limits, &many(4), now).unwrap();
    assert_eq!(account.open(), (1, 400));
    first.settle(Spent::Unknown, now);
    assert_eq!(account.tokens(&limits, now), 400);
    assert!(enter(&account, &limits, &many(u64::MAX), now).is_err());
}
