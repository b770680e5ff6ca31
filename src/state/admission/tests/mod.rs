//! The lobby under a clock of the test's own, and the cell under tasks that come and go.

mod model;
mod stress;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Waker;
use std::time::{Duration, Instant};

use super::lobby::{Arrived, Counts, Lobby, Standing, release};
use super::queue::Ticket;
use super::{AdmissionCell, EntryCell, Limits, Shut};
use crate::base::clock;
use crate::plan::{Gate, Identity, Queue};

/// A gate for this many at once with room for this many to wait.
fn gate(most: usize, size: usize) -> Gate {
    Gate {
        most: Some(most),
        rate: 0.0,
        queue: Queue {
            size,
            timeout: Duration::from_secs(60),
        },
    }
}

/// A gate that is open, before which this many may wait.
fn open(size: usize) -> Gate {
    Gate {
        most: None,
        ..gate(1, size)
    }
}

/// A gate for this many per second.
fn rate(rate: f64, size: usize) -> Gate {
    Gate { rate, ..open(size) }
}

/// A lobby, its clock, and what its requests are called.
struct Scene {
    lobby: Lobby,
    counts: Arc<Counts>,
    cell: Arc<AdmissionCell>,
    now: Instant,
}

impl Scene {
    fn new(limits: Limits) -> Self {
        let counts = Arc::new(Counts::default());
        let mut lobby = Lobby::new(Arc::clone(&counts));
        let now = clock::now();
        lobby.hold(limits, now);
        Self {
            lobby,
            counts,
            cell: Arc::new(AdmissionCell::default()),
            now,
        }
    }

    fn entry(&self, name: &str) -> Arc<EntryCell> {
        Arc::new(EntryCell::new(&name.into(), &self.cell))
    }

    fn after(&mut self, seconds: f64) {
        self.now += Duration::from_secs_f64(seconds);
    }

    fn arrive(&mut self, class: &str, entry: &Arc<EntryCell>) -> Arrived {
        self.arrive_of(&Identity::Anonymous, class, entry)
    }

    fn arrive_of(&mut self, who: &Identity, class: &str, entry: &Arc<EntryCell>) -> Arrived {
        self.lobby.arrive(&class.into(), entry, who, self.now)
    }

    /// The tickets of so many of the tenant of this name who come, as far as they may wait.
    fn line_of(&mut self, who: &str, entry: &Arc<EntryCell>, number: usize) -> Vec<Ticket> {
        let who = Identity::Tenant(who.into());
        let arrived = (0..number).map(|_| self.arrive_of(&who, "default", entry));
        let tickets = arrived.filter_map(|arrived| match arrived {
            Arrived::Waits(ticket) => Some(ticket),
            _ => None,
        });
        tickets.collect()
    }

    fn is_displaced(&mut self, ticket: Ticket) -> bool {
        matches!(
            self.lobby.look(ticket, Waker::noop()),
            Some(Standing::Displaced(_))
        )
    }

    /// The ticket of one that has to wait.
    fn waits(&mut self, class: &str, entry: &Arc<EntryCell>) -> Ticket {
        match self.arrive(class, entry) {
            Arrived::Waits(ticket) => ticket,
            other => panic!("{other:?}"),
        }
    }

    fn end(&mut self, entry: &EntryCell) {
        release(&self.counts, entry);
        self.lobby.pass(self.now);
    }

    fn is_in(&mut self, ticket: Ticket) -> bool {
        self.lobby.look(ticket, Waker::noop()) == Some(Standing::In)
    }

    fn hold(&mut self, limits: Limits) {
        self.lobby.hold(limits, self.now);
    }

    fn under_way(&self) -> usize {
        self.counts.under_way.load(Ordering::Relaxed)
    }

    fn waiting(&self) -> usize {
        self.counts.waiting.load(Ordering::Relaxed)
    }
}

fn seconds(shut: &Arrived) -> u64 {
    match shut {
        Arrived::Shut(Shut::Full(wait) | Shut::NoQueue(wait)) => wait.as_secs(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn first_come_first_served() {
    let mut scene = Scene::new(Limits::gates(gate(1, 9), &[]));
    let m = scene.entry("m");
    assert_eq!(scene.arrive("default", &m), Arrived::In);
    let first = scene.waits("default", &m);
    let second = scene.waits("default", &m);
    scene.end(&m);
    assert!(scene.is_in(first) && !scene.is_in(second));
    // The place is free when the next one comes, and is not its own.
    release(&scene.counts, &m);
    let third = scene.waits("default", &m);
    assert!(scene.is_in(second) && !scene.is_in(third));
    scene.end(&m);
    assert!(scene.is_in(third));
    scene.end(&m);
    assert_eq!(
        (scene.under_way(), m.under_way(), scene.waiting()),
        (0, 0, 0)
    );
}

#[test]
fn full_and_without_a_queue() {
    let mut scene = Scene::new(Limits::gates(gate(1, 1), &[]));
    let m = scene.entry("m");
    assert_eq!(scene.arrive("default", &m), Arrived::In);
    scene.waits("default", &m);
    scene.after(2.0);
    let refused = scene.arrive("default", &m);
    // Nobody was let in for two seconds, and there is one before.
    assert_eq!(refused, Arrived::Shut(Shut::Full(Duration::from_secs(4))));
    scene.after(500.0);
    assert_eq!(seconds(&scene.arrive("default", &m)), 60);

    let mut scene = Scene::new(Limits::gates(gate(1, 0), &[]));
    assert_eq!(scene.arrive("default", &m), Arrived::In);
    let refused = scene.arrive("default", &m);
    assert_eq!(
        refused,
        Arrived::Shut(Shut::NoQueue(Duration::from_secs(1)))
    );
    scene.end(&m);
    assert_eq!(scene.arrive("default", &m), Arrived::In);
}

#[test]
fn the_wait_that_is_told_is_the_one_to_expect() {
    let mut scene = Scene::new(
        Limits::gates(gate(1, 20), &[])
            .with("gold", 3)
            .with("default", 1),
    );
    let m = scene.entry("m");
    assert_eq!(scene.arrive("gold", &m), Arrived::In);
    let mut waiting: Vec<_> = (0..20).map(|_| scene.waits("gold", &m)).collect();
    // One every half second.
    for _ in 0..10 {
        scene.after(0.5);
        scene.end(&m);
        waiting.retain(|ticket| !scene.is_in(*ticket));
        waiting.push(scene.waits("gold", &m));
    }
    assert_eq!(seconds(&scene.arrive("gold", &m)), 11);
    // Now a quarter of them is somebody else's.
    scene.waits("default", &m);
    assert_eq!(seconds(&scene.arrive("gold", &m)), 14);
}

#[test]
fn a_model_whose_gate_is_shut_holds_up_nobody_else() {
    let limits = Limits::gates(gate(3, 9), &[("slow", gate(1, 2))]);
    let mut scene = Scene::new(limits);
    let (slow, fast) = (scene.entry("slow"), scene.entry("fast"));
    assert_eq!(scene.arrive("default", &slow), Arrived::In);
    let next = scene.waits("default", &slow);
    scene.waits("default", &slow);
    // Its own queue is full, that of the class is not.
    assert_eq!(seconds(&scene.arrive("default", &slow)), 1);
    assert_eq!(scene.arrive("default", &fast), Arrived::In);
    assert_eq!(scene.arrive("default", &fast), Arrived::In);
    let other = scene.waits("default", &fast);
    scene.end(&fast);
    assert!(scene.is_in(other) && !scene.is_in(next));
    scene.end(&slow);
    assert!(scene.is_in(next));
    assert_eq!((slow.under_way(), slow.waiting()), (1, 1));
}

#[test]
fn leaving_gives_the_place_on() {
    let mut scene = Scene::new(Limits::gates(gate(1, 2), &[]));
    let m = scene.entry("m");
    assert_eq!(scene.arrive("default", &m), Arrived::In);
    let first = scene.waits("default", &m);
    let second = scene.waits("default", &m);
    scene.lobby.leave(first, scene.now);
    let third = scene.waits("default", &m);
    scene.end(&m);
    // Let in, and gone before it knew.
    scene.lobby.leave(second, scene.now);
    assert!(scene.is_in(third));
    scene.lobby.leave(third, scene.now);
    scene.end(&m);
    assert_eq!((scene.under_way(), scene.waiting()), (0, 0));
    assert_eq!(scene.arrive("default", &m), Arrived::In);
}

#[test]
fn time_lets_in() {
    let mut scene = Scene::new(Limits::gates(rate(2.0, 9), &[]));
    let m = scene.entry("m");
    for _ in 0..2 {
        assert_eq!(scene.arrive("default", &m), Arrived::In);
        scene.end(&m);
    }
    let first = scene.waits("default", &m);
    let second = scene.waits("default", &m);
    let due = scene.lobby.due(scene.now).unwrap();
    assert!((due - scene.now).abs_diff(Duration::from_millis(500)) < Duration::from_millis(1));
    scene.now = due;
    scene.lobby.pass(due);
    assert!(scene.is_in(first) && !scene.is_in(second));
    // Who comes later does not get the token that came meanwhile.
    scene.after(0.6);
    let third = scene.waits("default", &m);
    assert!(scene.is_in(second) && !scene.is_in(third));
    scene.hold(Limits::gates(rate(0.0, 9), &[]));
    assert!(scene.is_in(third));
    assert_eq!(scene.lobby.due(scene.now), None);
}

#[test]
fn no_timer_runs_for_a_place_that_only_an_end_gives() {
    let slow = Gate {
        rate: 1.0,
        ..gate(1, 9)
    };
    let mut scene = Scene::new(Limits::gates(open(9), &[("m", slow)]));
    let m = scene.entry("m");
    assert_eq!(scene.arrive("default", &m), Arrived::In);
    scene.waits("default", &m);
    assert_eq!(scene.lobby.due(scene.now), None);
    scene.end(&m);
    assert!(scene.lobby.due(scene.now).unwrap() > scene.now);
}

#[test]
fn changed_limits_apply_to_those_who_wait() {
    let mut scene = Scene::new(Limits::gates(gate(1, 9), &[("m", gate(1, 9))]));
    let (m, n) = (scene.entry("m"), scene.entry("n"));
    assert_eq!(scene.arrive("default", &m), Arrived::In);
    let waiting: Vec<_> = (0..4).map(|_| scene.waits("default", &m)).collect();
    let of_n = scene.waits("default", &n);
    // A smaller queue keeps those in it.
    scene.hold(Limits::gates(gate(1, 1), &[("m", gate(1, 1))]));
    assert_eq!(scene.waiting(), 5);
    assert!(matches!(
        scene.arrive("default", &n),
        Arrived::Shut(Shut::Full(_))
    ));
    // The gate over all is wider, that of the model is not.
    scene.hold(Limits::gates(gate(3, 9), &[("m", gate(1, 9))]));
    assert!(scene.is_in(of_n) && !scene.is_in(waiting[0]));
    scene.hold(Limits::gates(gate(3, 9), &[("m", gate(2, 9))]));
    assert!(scene.is_in(waiting[0]) && !scene.is_in(waiting[1]));
    // The model has no gate any more, as if it were not there: only the gate over all counts.
    scene.hold(Limits::gates(gate(4, 9), &[]));
    assert!(scene.is_in(waiting[1]) && !scene.is_in(waiting[2]));
    scene.hold(Limits::gates(open(0), &[]));
    assert!(scene.is_in(waiting[2]) && scene.is_in(waiting[3]));
    // What was let in without a gate counts when there is one again.
    assert_eq!(scene.under_way(), 6);
    scene.hold(Limits::gates(gate(6, 0), &[]));
    assert!(matches!(
        scene.arrive("default", &n),
        Arrived::Shut(Shut::NoQueue(_))
    ));
}

#[test]
fn the_shorter_time_holds_and_a_new_one_at_once() {
    let mut short = gate(1, 9);
    short.queue.timeout = Duration::from_secs(3);
    let mut scene = Scene::new(Limits::gates(gate(1, 9), &[("short", short)]));
    let (long, short) = (scene.entry("long"), scene.entry("short"));
    assert_eq!(scene.arrive("default", &long), Arrived::In);
    let tickets = [
        scene.waits("default", &long),
        scene.waits("default", &short),
    ];
    let until = |scene: &mut Scene, ticket| match scene.lobby.look(ticket, Waker::noop()) {
        Some(Standing::Until(until)) => (until - scene.now).as_secs(),
        other => panic!("{other:?}"),
    };
    assert_eq!(tickets.map(|ticket| until(&mut scene, ticket)), [60, 3]);
    let mut all = gate(1, 9);
    all.queue.timeout = Duration::MAX;
    scene.hold(Limits::gates(all, &[]));
    assert_eq!(scene.lobby.woken().len(), 2);
    assert!(tickets.map(|ticket| until(&mut scene, ticket)) > [1 << 29; 2]);
}

#[test]
fn a_class_that_is_gone_waits_on_and_takes_nobody_new() {
    let mut scene = Scene::new(Limits::gates(gate(1, 9), &[]).with("gold", 5));
    let m = scene.entry("m");
    assert_eq!(scene.arrive("gold", &m), Arrived::In);
    let first = scene.waits("gold", &m);
    scene.hold(Limits::gates(gate(1, 9), &[]));
    let second = scene.waits("gold", &m);
    let lengths = |scene: &Scene| -> Vec<(String, usize)> {
        let waiting = scene.lobby.waiting();
        waiting.map(|(class, n)| (class.to_string(), n)).collect()
    };
    let (default, gold) = (("default".to_owned(), 1), ("gold".to_owned(), 1));
    assert_eq!(lengths(&scene), [default, gold]);
    for _ in 0..2 {
        scene.end(&m);
    }
    assert!(scene.is_in(first) && scene.is_in(second));
}

#[test]
fn nobody_has_more_than_half_of_a_queue_in_which_others_wait() {
    let mut scene = Scene::new(Limits::gates(gate(1, 6), &[]));
    let m = scene.entry("m");
    assert_eq!(scene.arrive("default", &m), Arrived::In);
    let first = scene.line_of("a", &m, 1);
    let second = scene.line_of("b", &m, 9);
    assert_eq!((first.len(), second.len(), scene.waiting()), (1, 3, 4));
    assert_eq!(scene.line_of("a", &m, 9).len(), 2);
    assert_eq!(
        scene.line_of("c", &m, 1).len(),
        0,
        "it is full, and nobody has too much"
    );
    // As places become free, it may have them up to its half.
    for _ in 0..2 {
        scene.end(&m);
    }
    assert!(scene.is_in(first[0]) && scene.is_in(second[0]));
    assert_eq!(scene.line_of("c", &m, 9).len(), 2);
}

#[test]
fn whoever_fills_the_queue_alone_makes_room_for_others_up_to_half() {
    let mut scene = Scene::new(Limits::gates(gate(1, 6), &[("m", gate(1, 4))]));
    let (m, n) = (scene.entry("m"), scene.entry("n"));
    assert_eq!(scene.arrive("default", &m), Arrived::In);
    let of_m = scene.line_of("a", &m, 9);
    let of_n = scene.line_of("a", &n, 9);
    assert_eq!((of_m.len(), of_n.len(), m.waiting()), (4, 2, 4));
    // The class is full, and so is the queue of the model: each gives up what came last.
    let other = scene.line_of("b", &n, 2);
    assert_eq!((other.len(), scene.waiting()), (2, 6));
    assert!(scene.is_displaced(of_n[0]) && scene.is_displaced(of_n[1]));
    let other_of_m = scene.line_of("b", &m, 2);
    assert_eq!((other_of_m.len(), scene.waiting(), m.waiting()), (1, 6, 4));
    assert!(scene.is_displaced(of_m[3]) && !scene.is_displaced(of_m[2]));
    for ticket in [&of_m[..3], &other, &other_of_m].concat() {
        scene.lobby.leave(ticket, scene.now);
    }
    assert_eq!((scene.waiting(), m.waiting(), n.waiting()), (0, 0, 0));
    assert!(scene.lobby.knows_nobody());
}

#[test]
fn one_who_is_displaced_leaves_nothing_behind() {
    let mut scene = Scene::new(Limits::gates(gate(1, 2), &[]));
    let m = scene.entry("m");
    assert_eq!(scene.arrive("default", &m), Arrived::In);
    let first = scene.line_of("a", &m, 2);
    let other = scene.line_of("b", &m, 1);
    // Gone before it knew.
    scene.lobby.leave(first[1], scene.now);
    assert_eq!((scene.waiting(), m.waiting()), (2, 2));
    for ticket in [first[0], other[0]] {
        scene.end(&m);
        assert!(scene.is_in(ticket));
    }
    scene.end(&m);
    assert_eq!((scene.under_way(), scene.waiting()), (0, 0));
    assert!(scene.lobby.knows_nobody());
}
