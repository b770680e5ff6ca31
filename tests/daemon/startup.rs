//! How soon a gateway with a hundred workers serves, and how little it takes then.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::scene::{LISTENERS, PATIENCE, ok, ready};
use crate::support::{FakeEngine, Smg, Step, eventually, get};

/// From the exec to the first answer. An unoptimised build on a busy machine takes its time, but
/// nothing like the deadlines of workers and look-ups.
const SOON: Duration = Duration::from_millis(if cfg!(debug_assertions) { 3000 } else { 100 });

/// With everything idle, in KiB. What an unoptimised build maps of its own file counts, too.
const MOST_RSS: u64 = 1024 * if cfg!(debug_assertions) { 60 } else { 25 };

/// Ten pools of ten workers and a model for each; those of a pool have these URLs.
fn ten_by_ten(worker: impl Fn(usize, usize) -> String) -> String {
    let mut toml = LISTENERS.to_owned();
    for pool in 0..10 {
        let workers: Vec<String> = (0..10).map(|at| worker(pool, at)).collect();
        toml.push_str(&format!(
            "[[pools]]\nname = \"p{pool}\"\nworkers = {workers:?}\n\
             [[models]]\nname = \"m{pool}\"\npool = \"p{pool}\"\n"
        ));
    }
    toml
}

/// Starts, and says how long it took until a client had an answer.
async fn started(toml: &str) -> (Smg, Duration) {
    let began = Instant::now();
    let smg = Smg::start(toml).await;
    assert_eq!(get(smg.main(), "/liveness").await.status, 200);
    (smg, began.elapsed())
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_that_hang_or_have_no_address_delay_nothing() {
    let hung = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = hung.local_addr().unwrap().port();
    let toml = ten_by_ten(|pool, at| match at % 2 {
        0 => format!("http://127.0.{}.{}:{port}", pool + 1, at + 1),
        _ => format!("https://worker-{pool}-{at}.invalid:8000"),
    });
    let (smg, took) = started(&toml).await;
    println!("an answer after {took:?}");
    assert!(took < SOON, "{took:?}");
    drop(smg);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_healthy_workers_cost_little_memory() {
    let engine = FakeEngine::start(|asked| match asked.path.ends_with("/health") {
        true => vec![ok()],
        false => vec![Step::json(404, &json!({}))],
    })
    .await;
    let port = engine.address().port();
    // One engine by a hundred names.
    let toml = ten_by_ten(|pool, at| {
        let path = pool * 10 + at;
        format!("http://127.0.0.1:{port}/w{path}")
    });
    let toml = toml.replace("[[pools]]\n", "[[pools]]\nruntime = \"vllm\"\n");
    let (mut smg, took) = started(&toml).await;
    assert!(took < SOON, "{took:?}");
    ready(&smg).await;
    // Each has been asked.
    eventually(PATIENCE, async || {
        let asked = engine.asked();
        let mut paths: Vec<&str> = asked.iter().map(|asked| &*asked.path).collect();
        paths.sort_unstable();
        paths.dedup();
        paths
            .iter()
            .filter(|path| path.ends_with("/health"))
            .count()
            == 100
    })
    .await;
    let rss = smg.process().rss_kb();
    println!("an answer after {took:?}; {rss} KiB");
    assert!(rss < MOST_RSS, "{rss} KiB");
}
