//! The cell under real tasks that come, wait, are served and vanish at any moment.

use std::sync::atomic::AtomicUsize;

use tokio::time::timeout;

use super::*;
use crate::base::task;
use crate::state::{Entering, Late, Permit};

fn cell(limits: Limits, names: &[&str]) -> (Arc<AdmissionCell>, Vec<Arc<EntryCell>>) {
    let cell = Arc::new(AdmissionCell::default());
    let entries: Vec<_> = names
        .iter()
        .map(|name| Arc::new(EntryCell::new(&(*name).into(), &cell)))
        .collect();
    cell.hold(limits, &entries, clock::now());
    (cell, entries)
}

fn waiting(cell: &AdmissionCell) -> usize {
    cell.counts.waiting.load(Ordering::Relaxed)
}

fn far() -> Instant {
    clock::now() + Duration::from_secs(600)
}

async fn admitted(entry: &Arc<EntryCell>, class: &str, by: Instant) -> Option<Permit> {
    match entry.enter(&class.into(), &Identity::Anonymous) {
        Entering::In(permit) => Some(permit),
        Entering::Waits(waiting) => waiting.admitted(by).await.ok(),
        Entering::Shut(_) => None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whoever_vanishes_takes_no_place_along() {
    const MOST: usize = 3;
    let limits = || {
        Limits::gates(
            gate(MOST, 50),
            &[("a", gate(2, 50)), ("b", rate(2000.0, 50))],
        )
        .with("gold", 4)
    };
    let (cell, entries) = cell(limits(), &["a", "b", "c"]);
    let most_seen = Arc::new(AtomicUsize::new(0));
    let served = Arc::new(AtomicUsize::new(0));
    let tasks: Vec<_> = (0..64_usize)
        .map(|n| {
            let entry = Arc::clone(&entries[n % 3]);
            let class = if n % 2 == 0 { "gold" } else { "default" };
            let (cell, most_seen) = (Arc::clone(&cell), Arc::clone(&most_seen));
            let served = Arc::clone(&served);
            task::spawn("stress", async move {
                for _ in 0..60 {
                    let patience = Duration::from_micros(fastrand::u64(0..3000));
                    let one = async {
                        if let Some(_permit) = admitted(&entry, class, far()).await {
                            most_seen.fetch_max(cell.under_way(), Ordering::Relaxed);
                            served.fetch_add(1, Ordering::Relaxed);
                            for _ in 0..fastrand::u8(0..4) {
                                tokio::task::yield_now().await;
                            }
                        }
                    };
                    if fastrand::bool() {
                        one.await;
                    } else {
                        // Vanishes while it waits, in the moment in which it is let in, or later.
                        timeout(patience, one).await.ok();
                    }
                }
            })
        })
        .collect();
    for _ in 0..20 {
        tokio::task::yield_now().await;
        cell.hold(limits(), &entries, clock::now());
    }
    for task in tasks {
        timeout(Duration::from_secs(60), task)
            .await
            .unwrap()
            .unwrap();
    }
    assert_eq!((cell.under_way(), waiting(&cell)), (0, 0));
    for entry in &entries {
        assert_eq!((entry.under_way(), entry.waiting()), (0, 0));
    }
    assert!(most_seen.load(Ordering::Relaxed) <= MOST);
    assert!(served.load(Ordering::Relaxed) > 500);
}

#[tokio::test]
async fn time_alone_lets_in_those_who_wait_for_a_token() {
    let (cell, entries) = cell(Limits::gates(rate(100.0, 1000), &[]), &["m"]);
    let tasks: Vec<_> = (0..150)
        .map(|_| {
            let entry = Arc::clone(&entries[0]);
            task::spawn("one", async move {
                admitted(&entry, "default", far()).await.is_some()
            })
        })
        .collect();
    for task in tasks {
        assert!(task.await.unwrap());
    }
    assert_eq!((cell.under_way(), waiting(&cell)), (0, 0));
}

#[tokio::test]
async fn an_open_gate_asks_nobody_and_counts_all_the_same() {
    let (cell, entries) = cell(Limits::gates(open(0), &[]), &["m"]);
    let permit = admitted(&entries[0], "default", far()).await.unwrap();
    assert_eq!((cell.under_way(), entries[0].under_way()), (1, 1));
    // It counts before a gate that is put up later.
    cell.hold(Limits::gates(gate(1, 0), &[]), &entries, clock::now());
    assert!(admitted(&entries[0], "default", far()).await.is_none());
    drop(permit);
    assert!(admitted(&entries[0], "default", far()).await.is_some());
}

#[tokio::test]
async fn late_says_which_time_ran_out() {
    let mut short = gate(1, 9);
    short.queue.timeout = Duration::from_millis(20);
    let (cell, entries) = cell(Limits::gates(short, &[]), &["m"]);
    let _held = admitted(&entries[0], "default", far()).await.unwrap();
    let late = async |by| match entries[0].enter(&"default".into(), &Identity::Anonymous) {
        Entering::Waits(waiting) => waiting.admitted(by).await.unwrap_err(),
        other => panic!("{other:?}"),
    };
    assert_eq!(late(far()).await, Late::Queue);
    assert_eq!(
        late(clock::now() + Duration::from_millis(1)).await,
        Late::Total
    );
    assert_eq!((cell.under_way(), waiting(&cell)), (1, 0));
}
