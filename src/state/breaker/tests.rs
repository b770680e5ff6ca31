use proptest::prelude::*;

use super::*;
use crate::base::clock;

const fn thresholds(failures: u32, successes: u32) -> Breaker {
    Breaker {
        enabled: true,
        failure_threshold: failures,
        success_threshold: successes,
        timeout: Duration::from_secs(60),
        window: Duration::from_secs(120),
    }
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// One request that enters and ends at once.
fn send(cell: &BreakerCell, outcome: Outcome, plan: &Breaker, now: Instant) -> Option<Turn> {
    let entry = cell.enter(plan, now).unwrap();
    cell.leave(entry, outcome, plan, now)
}

#[test]
fn failures_in_a_row_open_it_and_successes_in_a_row_close_it() {
    let (cell, plan, start) = (BreakerCell::default(), thresholds(3, 2), clock::now());
    for outcome in [
        Outcome::Failure,
        Outcome::Failure,
        Outcome::Success,
        Outcome::Failure,
        Outcome::Neutral,
        Outcome::Failure,
    ] {
        assert_eq!(send(&cell, outcome, &plan, start), None);
    }
    assert_eq!(cell.tally().failures_in_a_row, 2);
    let opened = send(&cell, Outcome::Failure, &plan, start).unwrap();
    assert_eq!(opened, TURNS[0]);
    let before = start + seconds(59);
    assert!(!cell.admits(&plan, before) && cell.enter(&plan, before).is_none());
    assert_eq!(cell.state(&plan, before), BreakerState::Open);

    let due = start + seconds(60);
    assert!(cell.admits(&plan, due));
    assert_eq!(cell.state(&plan, due), BreakerState::HalfOpen);
    assert_eq!(cell.tally().turns, [1, 0, 0, 0], "asking changes nothing");
    assert_eq!(cell.look(&plan, due), BreakerState::HalfOpen);
    assert_eq!(cell.tally().turns, [1, 1, 0, 0]);
    assert_eq!(cell.tally().failures_in_a_row, 0);
    let first = cell.enter(&plan, due).unwrap();
    let second = cell.enter(&plan, due).unwrap();
    assert!(!cell.admits(&plan, due) && cell.enter(&plan, due).is_none());
    assert_eq!(cell.leave(first, Outcome::Success, &plan, due), None);
    let closed = cell.leave(second, Outcome::Success, &plan, due).unwrap();
    assert_eq!(closed, TURNS[3]);
    assert!(cell.is_closed(&plan));
}

#[test]
fn one_failure_of_a_half_open_breaker_opens_it_for_a_new_time() {
    let (cell, plan, start) = (BreakerCell::default(), thresholds(1, 3), clock::now());
    send(&cell, Outcome::Failure, &plan, start);
    let due = start + seconds(60);
    send(&cell, Outcome::Success, &plan, due);
    let late = cell.enter(&plan, due).unwrap();
    assert_eq!(send(&cell, Outcome::Failure, &plan, due), Some(TURNS[2]));
    assert!(!cell.admits(&plan, due + seconds(59)));
    // What entered before belongs to a time that is over.
    let again = due + seconds(60);
    let entry = cell.enter(&plan, again).unwrap();
    assert_eq!(cell.leave(late, Outcome::Success, &plan, again), None);
    assert_eq!(cell.tally().successes_in_a_row, 0);
    assert_eq!(cell.leave(entry, Outcome::Success, &plan, again), None);
    assert_eq!(cell.state(&plan, again), BreakerState::HalfOpen);
}

#[test]
fn a_neutral_outcome_frees_its_place_and_nothing_else() {
    let (cell, plan, start) = (BreakerCell::default(), thresholds(1, 1), clock::now());
    send(&cell, Outcome::Failure, &plan, start);
    cell.worker_is_back();
    assert_eq!(cell.state(&plan, start), BreakerState::HalfOpen);
    for _ in 0..3 {
        let entry = cell.enter(&plan, start).unwrap();
        assert!(!cell.admits(&plan, start));
        cell.step_back(entry);
    }
    assert!(cell.admits(&plan, start));
    assert_eq!(cell.tally().neutral, 3);
    assert_eq!(send(&cell, Outcome::Success, &plan, start), Some(TURNS[3]));
    cell.worker_is_back();
    assert!(
        cell.is_closed(&plan),
        "a worker that comes back opens nothing"
    );
}

#[test]
fn a_run_with_a_gap_longer_than_the_window_begins_anew() {
    let (cell, plan, start) = (BreakerCell::default(), thresholds(2, 1), clock::now());
    send(&cell, Outcome::Failure, &plan, start);
    let later = start + seconds(121);
    assert_eq!(send(&cell, Outcome::Failure, &plan, later), None);
    assert_eq!(cell.tally().failures_in_a_row, 1);
    let within = later + seconds(120);
    assert_eq!(send(&cell, Outcome::Failure, &plan, within), Some(TURNS[0]));
}

#[test]
fn a_worker_with_too_much_to_do_fails_once_a_second() {
    let (cell, plan, start) = (BreakerCell::default(), thresholds(3, 1), clock::now());
    for _ in 0..100 {
        send(&cell, Outcome::Overloaded, &plan, start);
    }
    assert_eq!(cell.tally().failures_in_a_row, 1);
    let almost = start + Duration::from_millis(999);
    send(&cell, Outcome::Overloaded, &plan, almost);
    assert_eq!((cell.tally().failures, cell.tally().neutral), (1, 100));
    send(&cell, Outcome::Overloaded, &plan, start + seconds(1));
    assert_eq!(cell.tally().failures, 2);
    // Other failures count as ever.
    let turn = send(&cell, Outcome::Failure, &plan, start + seconds(1));
    assert_eq!(turn, Some(TURNS[0]));
}

#[test]
fn switched_off_it_counts_and_never_opens() {
    let (cell, now) = (BreakerCell::default(), clock::now());
    let on = thresholds(3, 1);
    let off = Breaker {
        enabled: false,
        ..on
    };
    for _ in 0..5 {
        assert_eq!(send(&cell, Outcome::Failure, &off, now), None);
    }
    assert_eq!(cell.tally().failures_in_a_row, 5);
    assert_eq!(send(&cell, Outcome::Failure, &on, now), Some(TURNS[0]));
    assert!(!cell.admits(&on, now));
    // Who has switched it off does not see what others have made of it, nor moves it.
    assert!(cell.admits(&off, now));
    assert_eq!(cell.state(&off, now), BreakerState::Closed);
    assert_eq!(send(&cell, Outcome::Success, &off, now), None);
    assert_eq!(cell.state(&on, now), BreakerState::Open);
}

#[test]
fn new_thresholds_apply_to_old_counts() {
    let (cell, start) = (BreakerCell::default(), clock::now());
    let before = thresholds(10, 3);
    for _ in 0..3 {
        send(&cell, Outcome::Failure, &before, start);
    }
    let mut after = thresholds(4, 1);
    after.timeout = seconds(5);
    assert_eq!(send(&cell, Outcome::Failure, &after, start), Some(TURNS[0]));
    assert!(!cell.admits(&before, start + seconds(5)));
    assert!(cell.admits(&after, start + seconds(5)));
    let entry = cell.enter(&after, start + seconds(5)).unwrap();
    assert!(cell.admits(&before, start + seconds(5)));
    let closed = cell.leave(entry, Outcome::Success, &after, start + seconds(5));
    assert_eq!(closed, Some(TURNS[3]));
}

#[test]
fn the_places_of_a_half_open_breaker_are_taken_once_each() {
    let (cell, plan, now) = (BreakerCell::default(), thresholds(1, 3), clock::now());
    send(&cell, Outcome::Failure, &plan, now);
    cell.worker_is_back();
    let entered = std::thread::scope(|scope| {
        let tasks: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| (0..50).filter_map(|_| cell.enter(&plan, now)).count()))
            .collect();
        tasks
            .into_iter()
            .map(|task| task.join().unwrap())
            .sum::<usize>()
    });
    assert_eq!(entered, 3);
}

/// The rules as they are told, one list of requests under way.
struct Model {
    state: BreakerState,
    failures: u32,
    successes: u32,
    last_failure: Option<u64>,
    opened: u64,
    /// Requests of this period that are under way.
    under_way: Vec<usize>,
}

impl Model {
    fn turn(&mut self, to: BreakerState, now: u64) {
        self.state = to;
        self.under_way.clear();
        match to {
            BreakerState::Open => self.opened = now,
            BreakerState::HalfOpen => (self.failures, self.successes) = (0, 0),
            BreakerState::Closed => {}
        }
    }

    fn enter(&mut self, id: usize, plan: &Breaker, now: u64) -> bool {
        if self.state == BreakerState::Open && now - self.opened >= plan.timeout.as_secs() {
            self.turn(BreakerState::HalfOpen, now);
        }
        let room = usize::try_from(plan.success_threshold).unwrap();
        let admitted = match self.state {
            BreakerState::Closed => true,
            BreakerState::Open => false,
            BreakerState::HalfOpen => self.under_way.len() < room,
        };
        if admitted {
            self.under_way.push(id);
        }
        admitted
    }

    fn leave(&mut self, id: usize, outcome: Outcome, plan: &Breaker, now: u64) {
        let Some(at) = self.under_way.iter().position(|known| *known == id) else {
            return;
        };
        self.under_way.remove(at);
        match outcome {
            Outcome::Neutral | Outcome::Overloaded => {}
            Outcome::Success => {
                self.failures = 0;
                self.successes += 1;
                if self.state == BreakerState::HalfOpen && self.successes >= plan.success_threshold
                {
                    self.turn(BreakerState::Closed, now);
                }
            }
            Outcome::Failure => {
                let gap = self.last_failure.replace(now).map(|last| now - last);
                let in_a_row = gap.is_some_and(|gap| gap <= plan.window.as_secs());
                self.failures = if in_a_row { self.failures + 1 } else { 1 };
                self.successes = 0;
                if self.state == BreakerState::HalfOpen || self.failures >= plan.failure_threshold {
                    self.turn(BreakerState::Open, now);
                }
            }
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Wait(u64),
    Enter,
    /// Ends the request that is at this place among those under way.
    Leave(prop::sample::Index, Outcome),
    Back,
}

fn step() -> impl Strategy<Value = Step> {
    let outcome = prop_oneof![
        Just(Outcome::Success),
        Just(Outcome::Failure),
        Just(Outcome::Failure),
        Just(Outcome::Neutral),
    ];
    prop_oneof![
        1 => (0..90_u64).prop_map(Step::Wait),
        6 => Just(Step::Enter),
        6 => (any::<prop::sample::Index>(), outcome).prop_map(|(at, end)| Step::Leave(at, end)),
        1 => Just(Step::Back),
    ]
}

proptest! {
    #[test]
    fn it_does_what_the_rules_say(
        steps in prop::collection::vec(step(), 1..200),
        failures in 1..4_u32,
        successes in 1..4_u32,
    ) {
        let plan = thresholds(failures, successes);
        let (cell, start) = (BreakerCell::default(), clock::now());
        let mut model = Model {
            state: BreakerState::Closed,
            failures: 0,
            successes: 0,
            last_failure: None,
            opened: 0,
            under_way: Vec::new(),
        };
        let (mut at, mut left) = (0, 0);
        let mut under_way: Vec<(usize, Entry)> = Vec::new();
        for (id, step) in steps.into_iter().enumerate() {
            let now = start + seconds(at);
            match step {
                Step::Wait(length) => at += length,
                Step::Enter => {
                    let admitted = cell.admits(&plan, now);
                    let entry = cell.enter(&plan, now);
                    prop_assert_eq!(entry.is_some(), admitted);
                    prop_assert_eq!(entry.is_some(), model.enter(id, &plan, at));
                    under_way.extend(entry.map(|entry| (id, entry)));
                }
                Step::Leave(index, outcome) if !under_way.is_empty() => {
                    let (id, entry) = under_way.swap_remove(index.index(under_way.len()));
                    cell.leave(entry, outcome, &plan, now);
                    model.leave(id, outcome, &plan, at);
                    left += 1;
                }
                Step::Leave(..) => {}
                Step::Back => {
                    cell.worker_is_back();
                    if model.state == BreakerState::Open {
                        model.turn(BreakerState::HalfOpen, at);
                    }
                }
            }
            let tally = cell.tally();
            prop_assert_eq!(cell.state_now(), model.state);
            prop_assert_eq!(tally.failures_in_a_row, u64::from(model.failures));
            prop_assert_eq!(tally.successes + tally.failures + tally.neutral, left);
        }
    }
}
