//! Any sequence of steps against a model that is too simple to be wrong.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const CLASSES: [(&str, u32); 3] = [("default", 1), ("gold", 4), ("lead", 2)];
const MODELS: [&str; 3] = ["a", "b", "c"];

#[derive(Debug, Clone)]
enum Step {
    Arrive {
        class: usize,
        model: usize,
    },
    End {
        which: usize,
    },
    Leave {
        which: usize,
    },
    Notice,
    Time {
        millis: u64,
    },
    Hold {
        all: Option<usize>,
        a: Option<usize>,
        b: Option<usize>,
        rate: f64,
        size: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let most = || prop::option::of(1_usize..4);
    prop_oneof![
        6 => (0..CLASSES.len(), 0..MODELS.len()).prop_map(|(class, model)| Step::Arrive { class, model }),
        4 => (0_usize..100).prop_map(|which| Step::End { which }),
        2 => (0_usize..100).prop_map(|which| Step::Leave { which }),
        2 => Just(Step::Notice),
        2 => (0_u64..2000).prop_map(|millis| Step::Time { millis }),
        1 => (most(), most(), most(), prop::sample::select(vec![0.0, 0.0, 0.5, 3.0]), 0_usize..6)
            .prop_map(|(all, a, b, rate, size)| Step::Hold { all, a, b, rate, size }),
    ]
}

fn limits(
    all: Option<usize>,
    a: Option<usize>,
    b: Option<usize>,
    rate: f64,
    size: usize,
) -> (Limits, [Option<usize>; 4]) {
    let of = |most, rate| Gate {
        most,
        rate,
        ..open(size)
    };
    let models = [("a", of(a, 0.0)), ("b", of(b, 0.0))];
    let mut limits = Limits::gates(of(all, rate), &models);
    for (class, weight) in CLASSES {
        limits = limits.with(class, weight);
    }
    (limits, [all, a, b, None])
}

/// One that waits, as the model sees it.
#[derive(Debug, Clone, Copy)]
struct Waits {
    ticket: Ticket,
    class: usize,
    model: usize,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// What holds after every step: nobody beyond the gates, first come first served within a class
    /// and a model, and nobody kept waiting whom the gates would let in.
    #[test]
    fn every_step_keeps_the_order_and_the_gates(steps in prop::collection::vec(step(), 1..120)) {
        let (first, mut most) = limits(Some(2), Some(1), None, 0.0, 5);
        let mut scene = Scene::new(first);
        let entries = MODELS.map(|name| scene.entry(name));
        let mut waiting: Vec<Waits> = Vec::new();
        let mut under_way: Vec<usize> = Vec::new();
        let mut rated = false;
        // Over the gates is only who came in before they were narrowed.
        let mut allowed = [usize::MAX; 4];
        for step in steps {
            let counts = |under_way: &[usize]| {
                let of = |model| under_way.iter().filter(|m| **m == model).count();
                [under_way.len(), of(0), of(1), of(2)]
            };
            let before = waiting.clone();
            match step {
                Step::Arrive { class, model } => {
                    match scene.arrive(CLASSES[class].0, &entries[model]) {
                        Arrived::In => {
                            prop_assert!(!before.iter().any(|w| w.class == class && w.model == model
                                && !is_let_in(&mut scene, w.ticket)), "overtaken");
                            under_way.push(model);
                        }
                        Arrived::Waits(ticket) => waiting.push(Waits { ticket, class, model }),
                        Arrived::Shut(Shut::Full(wait) | Shut::NoQueue(wait)) => {
                            prop_assert!((1..=60).contains(&wait.as_secs()));
                        }
                    }
                }
                Step::End { which } if !under_way.is_empty() => {
                    let model = under_way.swap_remove(which % under_way.len());
                    scene.end(&entries[model]);
                }
                Step::Leave { which } if !waiting.is_empty() => {
                    let gone = waiting.remove(which % waiting.len());
                    let now = scene.now;
                    scene.lobby.leave(gone.ticket, now);
                }
                Step::Time { millis } => {
                    scene.after(millis as f64 / 1000.0);
                    let now = scene.now;
                    scene.lobby.pass(now);
                }
                Step::Hold { all, a, b, rate, size } => {
                    let (next, gates) = limits(all, a, b, rate, size);
                    most = gates;
                    rated = rate > 0.0;
                    // Those too that were let in and have not noticed.
                    let under_way = |n: usize| entries[n].under_way();
                    allowed = [scene.under_way(), under_way(0), under_way(1), under_way(2)];
                    scene.hold(next);
                }
                Step::Notice | Step::End { .. } | Step::Leave { .. } => {}
            }
            // Those let in without their knowing are the heads of their lanes.
            let mut lanes: BTreeMap<(usize, usize), bool> = BTreeMap::new();
            let mut let_in = Vec::new();
            for one in &waiting {
                let kept = lanes.entry((one.class, one.model)).or_default();
                if is_let_in(&mut scene, one.ticket) {
                    prop_assert!(!*kept, "out of order: {one:?}");
                    let_in.push(*one);
                } else {
                    *kept = true;
                }
            }
            let mut all: Vec<usize> = under_way.clone();
            all.extend(let_in.iter().map(|one| one.model));
            let now = counts(&all);
            for (n, most) in most.iter().enumerate() {
                allowed[n] = allowed[n].min(now[n]).max(most.unwrap_or(usize::MAX));
                prop_assert!(now[n] <= allowed[n], "{now:?} of {most:?}");
            }
            // Nobody waits whom the gates would let in.
            if !rated && most[0].is_none_or(|most| now[0] < most) {
                for ((_, model), kept) in lanes {
                    prop_assert!(!kept || most[model + 1].is_some_and(|most| now[model + 1] >= most));
                }
            }
            prop_assert_eq!(scene.under_way(), all.len());
            prop_assert_eq!(scene.waiting(), waiting.len() - let_in.len());
            if matches!(step, Step::Notice) {
                waiting.retain(|one| {
                    let noticed = scene.is_in(one.ticket);
                    if noticed {
                        under_way.push(one.model);
                    }
                    !noticed
                });
            }
        }
        for one in waiting {
            let now = scene.now;
            scene.lobby.leave(one.ticket, now);
        }
        for model in under_way {
            scene.end(&entries[model]);
        }
        prop_assert_eq!((scene.under_way(), scene.waiting()), (0, 0));
        for entry in &entries {
            prop_assert_eq!((entry.under_way(), entry.waiting()), (0, 0));
        }
    }

    /// While all classes wait, each gets its share to within a round, wherever one looks.
    #[test]
    fn shares_are_kept_to_within_a_round(
        weights in prop::collection::vec(1_u32..8, 2..5),
        models in 1_usize..4,
        taken in 1_usize..200,
    ) {
        let names: Vec<String> = (0..weights.len()).map(|n| format!("c{n}")).collect();
        let mut limits = Limits::gates(gate(1, 10_000), &[]);
        for (name, weight) in names.iter().zip(&weights) {
            limits = limits.with(name, *weight);
        }
        let mut scene = Scene::new(limits);
        let entries: Vec<_> = (0..models).map(|n| scene.entry(&format!("m{n}"))).collect();
        prop_assert_eq!(scene.arrive("default", &entries[0]), Arrived::In);
        let mut tickets = BTreeMap::new();
        for n in 0..taken {
            for (class, name) in names.iter().enumerate() {
                tickets.insert(scene.waits(name, &entries[n % models]), class);
            }
        }
        let round: u32 = weights.iter().sum();
        let mut served = vec![0_u32; weights.len()];
        for n in 1..=u32::try_from(taken).unwrap() {
            scene.end(&entries[0]);
            // Which model it is does not matter: the counts are put right.
            let ticket = *tickets.keys().find(|ticket| is_let_in(&mut scene, **ticket)).unwrap();
            let class = tickets.remove(&ticket).unwrap();
            prop_assert!(scene.is_in(ticket));
            served[class] += 1;
            for (served, weight) in served.iter().zip(&weights) {
                let due = f64::from(n) * f64::from(*weight) / f64::from(round);
                prop_assert!((f64::from(*served) - due).abs() <= f64::from(*weight) + 1e-9);
            }
        }
    }
}

/// Whether one that waits has been let in, without its noticing.
fn is_let_in(scene: &mut Scene, ticket: Ticket) -> bool {
    scene.lobby.is_let_in(ticket)
}
