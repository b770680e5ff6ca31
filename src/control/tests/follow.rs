//! Workers: registered, probed, lost, found again, removed.

use super::*;
use crate::config::spec::Runtime;
use crate::state::HealthState;

#[tokio::test]
async fn a_healthy_worker_serves_as_soon_as_it_has_answered() {
    let engine = Engine::serving("tiny", "sglang").await;
    engine.says(
        "/get_server_info",
        200,
        r#"{"tp_size":2,"api_key":"canary","version":"0.5"}"#,
    );
    let plane = Plane::start(&config(&[&engine.url()])).await;
    eventually(|| plane.usable() == 1).await;
    assert!(plane.now().plan.routes.resolve(Some("tiny")).is_ok());
    eventually(|| plane.now().plan.workers[0].labels.len() > 3).await;
    let snapshot = plane.now();
    assert_eq!(snapshot.generation, 1);
    let worker = &snapshot.plan.workers[0];
    assert_eq!(worker.runtime, Some(Runtime::Sglang));
    assert_eq!(&*worker.models[0], "tiny");
    assert_eq!(worker.max_model_len, Some(4096));
    let label = |name: &str| worker.labels.get(name).map(String::as_str);
    assert_eq!(label("tp_size"), Some("2"));
    assert_eq!(label("served_model_name"), Some("tiny"));
    assert!(!worker.labels.values().any(|value| value == "canary"));
    assert_eq!(engine.asked("/server_info"), 1);
    assert_eq!(engine.asked("/version"), 0);
}

#[tokio::test]
async fn the_engine_is_told_by_its_version_and_a_nameless_worker_by_its_labels() {
    let engine = Engine::bare().await;
    engine.says("/health", 200, "");
    engine.says("/version", 200, r#"{"version":"0.11.0"}"#);
    engine.says("/model_info", 200, r#"{"model_path":"/srv/weights"}"#);
    let plane = Plane::start(&config(&[&engine.url()])).await;
    eventually(|| plane.usable() == 1).await;
    let worker = plane.now().plan.workers[0].clone();
    assert_eq!(worker.runtime, Some(Runtime::Vllm));
    assert_eq!(&*worker.models[0], "/srv/weights");
    assert_eq!(worker.labels["version"], "0.11.0");
}

#[tokio::test]
async fn a_worker_that_comes_up_later_is_tried_again() {
    let engine = Engine::serving("late", "vllm").await;
    engine.says("/health", 503, "");
    let plane = Plane::start(&config(&[&engine.url()])).await;
    eventually(|| engine.asked("/health") >= 3).await;
    assert_eq!(plane.usable(), 0);
    assert_eq!(engine.asked("/v1/models"), 0);
    engine.says("/health", 200, "");
    eventually(|| plane.usable() == 1).await;
}

#[tokio::test]
async fn a_worker_that_falls_ill_is_set_aside_and_asked_anew_when_it_is_back() {
    let engine = Engine::serving("before", "sglang").await;
    let plane = Plane::start(&config(&[&engine.url()])).await;
    eventually(|| plane.usable() == 1).await;
    let id = plane.now().id;

    engine.says("/health", 500, "");
    eventually(|| plane.usable() == 0).await;
    let health = |plane: &Plane| plane.now().workers().next().unwrap().parts.health.state();
    assert!(matches!(
        health(&plane),
        HealthState::NotReady | HealthState::Failed
    ));
    assert_eq!(plane.now().id, id, "health needs no new snapshot");
    eventually(|| health(&plane) == HealthState::Failed).await;

    engine.advertises("after", "sglang");
    engine.says("/health", 200, "");
    eventually(|| plane.usable() == 1).await;
    eventually(|| plane.now().plan.routes.resolve(Some("after")).is_ok()).await;
    assert!(plane.now().plan.routes.resolve(Some("before")).is_err());
    let snapshot = plane.now();
    let cell = &snapshot.workers().next().unwrap().parts.cell;
    assert!(cell.probes_ok.load(Ordering::Relaxed) >= 2);
    assert!(cell.probes_failed.load(Ordering::Relaxed) >= 3);
}

#[tokio::test]
async fn what_is_known_of_a_worker_survives_a_reload_and_ends_with_it() {
    let (kept, gone) = (
        Engine::serving("kept", "sglang").await,
        Engine::serving("gone", "sglang").await,
    );
    let plane = Plane::start(&config(&[&kept.url(), &gone.url()])).await;
    eventually(|| plane.usable() == 2).await;
    let cell = |plane: &Plane, url: &str| {
        let snapshot = plane.now();
        let worker = snapshot
            .workers()
            .find(|worker| worker.plan.key.as_str() == url)
            .unwrap();
        Arc::clone(&worker.parts.cell)
    };
    let before = cell(&plane, &kept.url());
    let asked = kept.asked("/v1/models");

    plane.replace(&config(&[&kept.url()]));
    applied(&plane.reload().await);
    assert_eq!(plane.usable(), 1, "known at once, without being asked");
    assert_eq!(kept.asked("/v1/models"), asked);
    assert!(Arc::ptr_eq(&before, &cell(&plane, &kept.url())));
    eventually(|| gone.connections() == 0).await;
    let probes = gone.asked("/health");
    let seen = kept.asked("/health");
    eventually(|| kept.asked("/health") >= seen + 3).await;
    assert_eq!(
        gone.asked("/health"),
        probes,
        "a removed worker is not probed"
    );

    plane.replace(&config(&[&kept.url(), &gone.url()]));
    applied(&plane.reload().await);
    assert_eq!(plane.usable(), 1, "a worker that comes back is new");
    eventually(|| plane.usable() == 2).await;
}

#[tokio::test]
async fn a_worker_with_a_declared_engine_and_model_is_used_before_it_has_answered() {
    let engine = Engine::bare().await;
    let text = format!(
        "version = 1\n[[pools]]\nname = \"p\"\nruntime = \"vllm\"\nworkers = [{:?}]\n\
         [pools.health]\ninterval = \"20ms\"\nstartup_check_interval = \"20ms\"\n\
         [[models]]\nname = \"m\"\npool = \"p\"\n",
        engine.url()
    );
    let plane = Plane::start(&text).await;
    assert_eq!(plane.usable(), 1);
    eventually(|| plane.usable() == 0).await;
    engine.says("/health", 200, "");
    eventually(|| plane.usable() == 1).await;
}

#[tokio::test]
async fn unprobed_workers_are_ready_without_a_health_endpoint() {
    let engine = Engine::bare().await;
    engine.advertises("m", "");
    let text = format!(
        "version = 1\n[[pools]]\nname = \"p\"\nworkers = [{:?}]\nhealth = {{ enabled = false }}\n",
        engine.url()
    );
    let plane = Plane::start(&text).await;
    eventually(|| plane.usable() == 1).await;
    assert_eq!(engine.asked("/health"), 0);
}

#[tokio::test]
async fn probes_carry_the_key_of_the_worker_and_take_its_path() {
    let engine = Engine::bare().await;
    engine.says("/below/alive", 204, "");
    let text = format!(
        "version = 1\n[[pools]]\nname = \"p\"\nworkers = [{{ url = \"{}/below\", api_key = \"k\" }}]\n\
         health = {{ endpoint = \"/alive\" }}\n",
        engine.url()
    );
    let plane = Plane::start(&text).await;
    eventually(|| plane.usable() == 1).await;
    assert!(engine.asked("/below/alive Bearer k") >= 1);
    assert_eq!(engine.asked("/below/v1/models Bearer k"), 1);
}

#[tokio::test]
async fn a_changed_way_of_probing_is_followed_at_once() {
    let engine = Engine::serving("m", "sglang").await;
    let text = config(&[&engine.url()]);
    let plane = Plane::start(&text.replace("20ms", "1h")).await;
    eventually(|| plane.usable() == 1 && engine.asked("/health") >= 2).await;
    plane.replace(&text.replace("interval = \"20ms\"", "interval = \"10ms\""));
    applied(&plane.reload().await);
    let seen = engine.asked("/health");
    eventually(|| engine.asked("/health") >= seen + 3).await;
    plane.replace(&text.replace("timeout = ", "endpoint = \"/new\"\ntimeout = "));
    applied(&plane.reload().await);
    assert_eq!(
        plane.usable(),
        1,
        "the old answer holds until the first new probe"
    );
    eventually(|| engine.asked("/new") >= 3 && plane.usable() == 0).await;
}
