//! Promises that are about time: what a reload costs the requests beside it, and what a worker that
//! stops answering costs a client.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::client::{Ask, Client, Told, Version};
use crate::dialect::Api;
use crate::judge::{Rule, Verdict, judge, tell};
use crate::ledger::Ledger;
use crate::support::Smg;
use crate::support::smg::LISTENERS;
use crate::worker::{Mood, Scripted};

const PATIENCE: Duration = Duration::from_secs(20);

/// What a busy machine may add to a deadline.
const SLACK: Duration = Duration::from_millis(800);

fn config(workers: &[Scripted], more: &str) -> String {
    let urls: Vec<_> = workers.iter().map(Scripted::url).collect();
    format!(
        "{LISTENERS}\n[[pools]]\nname = \"p\"\nruntime = \"vllm\"\nworkers = {urls:?}\n\
         health.enabled = false\n\n[[models]]\nname = \"m\"\n{more}\n"
    )
}

fn ask(id: &str, stream: bool) -> Ask {
    Ask {
        id: id.to_owned(),
        api: Api::Chat,
        model: "m".to_owned(),
        tokens: 4,
        stream,
    }
}

/// How long requests take, one after the other, until the flag is set.
async fn measure(
    mut client: Client,
    ledger: Arc<Ledger>,
    name: &'static str,
    enough: Arc<AtomicBool>,
) -> Vec<Duration> {
    let mut took = Vec::new();
    while !enough.load(Ordering::Relaxed) {
        let ask = ask(&format!("{name}-{}", took.len()), took.len() % 2 == 0);
        let told = client.ask(ask, Rule::Well).await;
        let attempts = ledger.attempts(&told.ask.id);
        if let Err(wrong) = judge(&told, &attempts) {
            panic!("{}", tell(&told, &attempts, &wrong));
        }
        took.push(told.took);
    }
    took.sort();
    took
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_never_fails_or_delays_a_request() {
    let ledger = Arc::<Ledger>::default();
    let workers: Vec<_> = ["w0", "w1", "w2"]
        .iter()
        .map(|name| Scripted::start(name, &ledger, true))
        .collect();
    let variant = |n: usize| {
        let policy = ["round_robin", "random", "power_of_two"][n % 3];
        let some = if n % 2 == 1 { &workers[..2] } else { &workers };
        config(
            some,
            &format!("policy = \"{policy}\"\naliases = [\"m-{n}\"]"),
        )
    };
    let smg = Smg::start(&variant(0)).await;
    let run = |name| {
        let enough = Arc::new(AtomicBool::new(false));
        let client = Client::new(smg.main(), Version::Http1, PATIENCE);
        let measured = measure(client, Arc::clone(&ledger), name, Arc::clone(&enough));
        (enough, tokio::spawn(measured))
    };
    // The same number of writes beside it, so that both runs share the machine with as much.
    let (enough, still) = run("still");
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(3) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    enough.store(true, Ordering::Relaxed);
    let still = still.await.unwrap();

    let (enough, moving) = run("moving");
    for n in 1..=50 {
        smg.apply(&variant(n)).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    enough.store(true, Ordering::Relaxed);
    let moving = moving.await.unwrap();
    let middle = |took: &[Duration]| took[took.len() / 2];
    println!(
        "without reloads: {} requests, median {:.1?}, slowest {:.1?}; during 50: {}, {:.1?}, {:.1?}",
        still.len(),
        middle(&still),
        still[still.len() - 1],
        moving.len(),
        middle(&moving),
        moving[moving.len() - 1],
    );
    assert!(moving.len() > 50);
    // Unoptimised, compiling a configuration takes the processor for as long as a request does.
    assert!(middle(&moving) < middle(&still) * 4 + Duration::from_millis(20));
    assert!(moving[moving.len() - 1] < Duration::from_secs(1));
}

/// What is asked of two workers, one of which is in this mood.
async fn beside(mood: Mood, rounds: usize) -> Vec<(Told, Verdict)> {
    let ledger = Arc::<Ledger>::default();
    let workers = [
        Scripted::start("w0", &ledger, false),
        Scripted::start("w1", &ledger, false),
    ];
    let more = "policy = \"round_robin\"\n[reliability.timeouts]\nconnect = \"500ms\"\n\
                headers = \"1s\"\nfirst_token = \"1s\"\nidle = \"1s\"";
    let smg = Smg::start(&config(&workers, more)).await;
    workers[0].turn(mood);
    let mut client = Client::new(smg.main(), Version::Http1, PATIENCE);
    let mut all = Vec::new();
    for n in 0..rounds {
        let told = client.ask(ask(&format!("r{n}"), true), Rule::Sick).await;
        let attempts = ledger.attempts(&told.ask.id);
        let verdict = judge(&told, &attempts)
            .unwrap_or_else(|wrong| panic!("{}", tell(&told, &attempts, &wrong)));
        all.push((told, verdict));
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_stops_answering_costs_a_client_one_deadline() {
    for (mood, deadline) in [
        (Mood::Blackhole, Duration::from_millis(500)),
        (Mood::StallHead, Duration::from_secs(1)),
        (Mood::StallFirstToken, Duration::from_secs(1)),
        (Mood::CommentsOnly, Duration::from_secs(1)),
        (Mood::StallMidway, Duration::from_secs(1)),
    ] {
        let all = beside(mood, 4).await;
        let slowest = all.iter().map(|(told, _)| told.took).max().unwrap();
        println!("{}: slowest of four {slowest:.2?}", mood.name());
        assert!(
            (deadline..deadline + SLACK).contains(&slowest),
            "{mood:?}: {slowest:?}"
        );
        // Who had got no token was answered by the other worker.
        let cut = all
            .iter()
            .filter(|(_, verdict)| *verdict != Verdict::Whole)
            .count();
        if mood == Mood::StallMidway {
            assert_eq!(cut, 2, "{mood:?}");
        } else {
            assert_eq!(cut, 0, "{mood:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lone_worker_that_stops_answering_costs_the_total() {
    let ledger = Arc::<Ledger>::default();
    let workers = [Scripted::start("w0", &ledger, false)];
    let more = "[server]\nrequest_timeout = \"2s\"\n[reliability.timeouts]\nheaders = \"500ms\"\n\
                [reliability.retry]\nmax_retries = 3\ninitial_backoff = \"10ms\"";
    let smg = Smg::start(&config(&workers, more)).await;
    workers[0].turn(Mood::StallHead);
    let total = Duration::from_secs(2);
    for stream in [true, false] {
        let mut client = Client::new(smg.main(), Version::Http2, PATIENCE);
        let told = client
            .ask(ask(&format!("r{stream}"), stream), Rule::Sick)
            .await;
        let attempts = ledger.attempts(&told.ask.id);
        assert_eq!(judge(&told, &attempts), Ok(Verdict::Refused), "{told:?}");
        assert_eq!(told.status, 504, "{told:?}");
        assert!(told.took < total + SLACK, "{:?}", told.took);
    }
}
