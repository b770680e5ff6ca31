//! Reloads by request: what is published, what is refused, and what is told about it.

use futures_util::future::join_all;

use super::*;
use crate::config::Severity;
use crate::control::desk::Desk;
use crate::plan::{Learned, WorkerKey};

const DEAD: &str = "http://127.0.0.1:9";
const DEAD_TOO: &str = "http://127.0.0.1:10";

#[tokio::test]
async fn a_change_is_published_with_its_sockets_and_told() {
    let plane = Plane::start(&config(&[])).await;
    assert_eq!(*plane.sockets.serving.lock(), ["main", "metrics"]);
    assert_eq!((plane.now().id, plane.now().generation), (1, 1));

    let text = config(&[DEAD]);
    plane.replace(&format!(
        "{text}[[listeners]]\nname = \"only\"\naddress = \"127.0.0.1:0\"\nserve = [\"inference\"]\n"
    ));
    assert_eq!(applied(&plane.reload().await), 2);
    assert_eq!(plane.workers(), [DEAD]);
    assert_eq!(*plane.sockets.serving.lock(), ["only"]);
    let snapshot = plane.now();
    assert_eq!((snapshot.id, snapshot.generation), (2, 2));
    let told = status(&plane);
    assert_eq!(told["live"]["generation"], 2);
    assert_eq!(told["live"]["trigger"], "admin");
    assert_eq!(told["live"]["sha256"], *snapshot.sha256);
    assert_eq!(told["snapshot_id"], 2);
    assert_eq!(told["rejected"], Value::Null);

    assert!(matches!(
        plane.reload().await,
        Outcome::Unchanged { generation: 2, .. }
    ));
    assert_eq!(plane.now().id, 2);
}

#[tokio::test]
async fn a_mistake_changes_nothing_and_is_told_until_it_is_mended() {
    let plane = Plane::start(&config(&[DEAD])).await;
    let before = plane.now();
    plane.replace("version = 1\nnonsense = 2\nnonsense2 = 3\n");
    assert_eq!(
        rejected(&plane.reload().await),
        ["unknown-key", "unknown-key"]
    );
    assert!(Arc::ptr_eq(&before, &plane.now()));
    let told = status(&plane);
    assert_eq!(told["synchronized"], false);
    assert_eq!(told["rejected"]["generation"], 2);
    assert_eq!(told["rejected"]["diagnostics"][0]["slug"], "unknown-key");
    assert_eq!(told["live"]["generation"], 1);

    plane.replace(&config(&[DEAD]));
    assert!(matches!(
        plane.reload().await,
        Outcome::Unchanged { generation: 1, .. }
    ));
    let told = status(&plane);
    assert_eq!(
        (&told["synchronized"], &told["rejected"]),
        (&json!(true), &Value::Null)
    );
}

#[tokio::test]
async fn a_listener_that_cannot_be_bound_keeps_everything() {
    let plane = Plane::start(&config(&[])).await;
    *plane.sockets.refuse.lock() = Some("taken".to_owned());
    let text = config(&[DEAD]);
    plane.replace(&format!(
        "{text}[[listeners]]\nname = \"taken\"\naddress = \"127.0.0.1:1\"\nserve = [\"inference\"]\n"
    ));
    let outcome = plane.reload().await;
    assert_eq!(rejected(&outcome), ["bind"]);
    let Outcome::Rejected { diagnostics } = outcome else {
        unreachable!()
    };
    assert_eq!(diagnostics[0].severity, Severity::Error);
    assert_eq!(diagnostics[0].key.as_deref(), Some("listeners[0].address"));
    assert!(diagnostics[0].primary.is_some());
    assert_eq!(plane.workers(), [""; 0]);
    assert_eq!(*plane.sockets.serving.lock(), ["main", "metrics"]);

    // The address is free again: the same file is good now.
    *plane.sockets.refuse.lock() = None;
    assert_eq!(applied(&plane.reload().await), 2);
    assert_eq!(*plane.sockets.serving.lock(), ["taken"]);
}

#[tokio::test]
async fn keys_that_need_a_restart_are_refused_all_at_once() {
    let plane = Plane::start(&config(&[])).await;
    plane.replace(&format!(
        "{}[server]\nworker_threads = 7\n[metrics]\nduration_buckets = [1.0]\n",
        config(&[DEAD])
    ));
    let outcome = plane.reload().await;
    assert_eq!(rejected(&outcome), ["restart", "restart"]);
    let Outcome::Rejected { diagnostics } = outcome else {
        unreachable!()
    };
    let keys: Vec<_> = diagnostics
        .iter()
        .filter_map(|d| d.key.as_deref())
        .collect();
    assert_eq!(keys, ["server.worker_threads", "metrics.duration_buckets"]);
    assert_eq!(plane.workers(), [""; 0]);
}

#[tokio::test]
async fn those_who_ask_together_share_one_run() {
    let plane = Plane::start(&config(&[])).await;
    plane.replace(&config(&[DEAD]));
    let before = plane.sockets.prepared.load(Ordering::Relaxed);
    let asked: Vec<_> = (0..50)
        .map(|_| plane.admin.reload(Trigger::Signal))
        .collect();
    let outcomes = timeout(PATIENCE, join_all(asked)).await.unwrap();
    assert_eq!(outcomes.len(), 50);
    assert!(outcomes.iter().all(|outcome| applied(outcome) == 2));
    assert_eq!(plane.sockets.prepared.load(Ordering::Relaxed), before + 1);
}

#[tokio::test]
async fn a_dropped_asker_does_not_stop_the_reload() {
    let plane = Plane::start(&config(&[])).await;
    plane.replace(&config(&[DEAD]));
    drop(plane.admin.reload(Trigger::Signal));
    eventually(|| plane.now().generation == 2).await;
}

#[tokio::test]
async fn a_rotated_secret_is_a_change() {
    let plane = Plane::start(&config(&[])).await;
    let secret = plane.folder.path().join("key");
    std::fs::write(&secret, "one").unwrap();
    let text = format!("{}api_key = {{ file = \"key\" }}\n", "");
    plane.replace(&format!(
        "version = 1\n[[pools]]\nname = \"p\"\n{text}workers = [\"{DEAD}\"]\n"
    ));
    assert_eq!(applied(&plane.reload().await), 2);
    let key = |plane: &Plane| {
        let snapshot = plane.now();
        let worker = snapshot.workers().next().unwrap();
        worker.parts.authorization.clone().unwrap()
    };
    assert_eq!(key(&plane), "Bearer one");
    let hash = plane.now().sha256.clone();
    replace(&secret, "two");
    plane.reload().await;
    assert_eq!(key(&plane), "Bearer two");
    assert_eq!(plane.now().sha256, hash);
    assert!(!plane.admin.config().to_string().contains("two"));
}

#[tokio::test]
async fn the_effective_configuration_says_where_values_come_from() {
    let plane = Plane::start("version = 1\n[server]\nrequest_timeout = \"9s\"\n").await;
    let told = plane.admin.config();
    assert_eq!(told["config"]["server"]["request_timeout"], "9s");
    let origin = told["origins"]["server.request_timeout"].as_str().unwrap();
    assert!(origin.ends_with("smg.toml:3:19"), "{origin}");
    assert_eq!(told["origins"]["server.shutdown_grace_period"], "default");
    assert_eq!(told["config"]["listeners"][0]["name"], "main");
    assert!(told["origins"]["listeners[0].address"].is_string());
}

#[tokio::test]
async fn drained_waits_for_the_last_holder_of_an_old_snapshot() {
    let plane = Plane::start(&config(&[])).await;
    let old = plane.now();
    plane.replace(&config(&[DEAD]));
    assert_eq!(applied(&plane.reload().await), 2);
    let drained = plane.admin.drained(2);
    let waited = spawn("waiter", drained);
    eventually(|| plane.live().alive().len() == 2).await;
    assert!(!waited.is_finished());
    drop(old);
    timeout(PATIENCE, waited).await.unwrap().unwrap();
}

fn learned(model: &str) -> Learned {
    Learned {
        models: vec![model.to_owned()],
        ..Learned::default()
    }
}

#[tokio::test]
async fn facts_are_published_at_once_and_then_gathered() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("smg.toml");
    std::fs::write(&path, config(&[DEAD, DEAD_TOO, "http://127.0.0.1:11"])).unwrap();
    let input = Input {
        file: Some(path),
        ..Input::default()
    };
    let first = load(&input);
    let outside = Outside {
        input: Arc::new(input),
        logging: None,
        observer: Box::new(|_| {}),
        upgrades: tokio::sync::mpsc::channel(1).0,
        fleet: None,
    };
    let desk = Arc::new(Desk::default());
    let publisher =
        crate::control::publish::Publisher::new(first, outside, Arc::clone(&desk), &Arc::default())
            .unwrap();
    let live = Arc::clone(publisher.live());
    let sockets = Arc::new(Fake(Arc::default()));
    let _running = AbortOnDrop::spawn("publisher", publisher.run(sockets));
    let mut published = live.subscribe();
    let start = tokio::time::Instant::now();

    desk.learn(WorkerKey::new(DEAD), learned("a"));
    published.changed().await.unwrap();
    assert_eq!((live.load().id, live.load().generation), (2, 1));

    desk.learn(WorkerKey::new(DEAD_TOO), learned("b"));
    desk.learn(WorkerKey::new("http://127.0.0.1:11"), learned("c"));
    desk.learn(WorkerKey::new("http://elsewhere:1"), learned("d"));
    published.changed().await.unwrap();
    assert!(start.elapsed() >= Duration::from_millis(250));
    let snapshot = live.load();
    assert_eq!((snapshot.id, snapshot.generation), (3, 1));
    assert!(snapshot.workers().all(|worker| snapshot.is_usable(worker)));
    let names: Vec<&str> = snapshot.plan.routes.listed.iter().map(|l| &*l.id).collect();
    assert_eq!(names, ["a", "b", "c"]);

    // What is known already is no news.
    desk.learn(WorkerKey::new(DEAD), learned("a"));
    desk.learn(WorkerKey::new(DEAD), learned("a2"));
    published.changed().await.unwrap();
    assert_eq!(live.load().id, 4);
}
