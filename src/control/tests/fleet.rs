//! Workers that come, change and go while the gateway runs.

use super::*;
use crate::base::clock;
use crate::base::secret::Secret;
use crate::config::spec::{HealthOverride, Worker, WorkerUrl};
use crate::live::{Addition, Change, ChangeError, JobKind, JobState, scrape};
use crate::plan::{Added, Member, Override, Role, Source, WorkerKey};
use crate::state::{InFlight, WorkerCell};

/// Nothing listens there.
const DEAD: &str = "http://127.0.0.1:9";

fn added(url: &str) -> Added {
    Added {
        source: Source::Api,
        role: Role::Regular,
        worker: Worker::from(url.parse::<WorkerUrl>().unwrap()),
        models: Vec::new(),
        runtime: None,
        health: HealthOverride::default(),
        circuit_breaker: Default::default(),
    }
}

fn addition(url: &str, attempts: Option<u32>) -> Box<Addition> {
    Box::new(Addition {
        member: Member {
            pool: "pool".into(),
            worker: WorkerKey::new(url),
        },
        added: added(url),
        attempts,
    })
}

fn update(url: &str, with: Override) -> Change {
    Change::Update {
        worker: WorkerKey::new(url),
        pool: None,
        with: Box::new(with),
    }
}

fn config(workers: &[&str], more: &str) -> String {
    format!(
        "version = 1\n{more}\n[[pools]]\nname = \"pool\"\nworkers = {workers:?}\n\
         [pools.health]\ninterval = \"20ms\"\ntimeout = \"2s\"\nstartup_check_interval = \"20ms\"\n\
         drain_settle = \"40ms\"\nstartup_timeout = \"60s\"\n"
    )
}

impl Plane {
    async fn change(&self, change: Change) -> Result<(), ChangeError> {
        timeout(PATIENCE, self.admin.change(change)).await.unwrap()
    }

    async fn add(&self, url: &str) -> Result<(), ChangeError> {
        self.change(Change::Add(addition(url, None))).await
    }

    async fn remove(&self, url: &str) -> Result<(), ChangeError> {
        let worker = WorkerKey::new(url);
        self.change(Change::Remove { worker, pool: None }).await
    }

    async fn settled(&self) {
        eventually(|| self.admin.jobs().is_empty()).await;
    }

    fn cell(&self, url: &str) -> Arc<WorkerCell> {
        let snapshot = self.now();
        let mut workers = snapshot.workers();
        let found = workers.find(|worker| worker.plan.key.as_str() == url);
        Arc::clone(&found.unwrap().parts.cell)
    }

    fn is_draining(&self, url: &str) -> bool {
        let snapshot = self.now();
        let mut workers = snapshot.plan.workers.iter();
        workers.any(|worker| worker.key.as_str() == url && worker.draining)
    }

    /// The process ends and another one starts in the same folder.
    async fn restarted(self) -> Self {
        let Self {
            folder, running, ..
        } = self;
        drop(running);
        Self::start_in(folder).await
    }
}

#[tokio::test]
async fn a_worker_comes_survives_a_reload_and_goes_without_a_trace() {
    let (file, api) = (
        Engine::serving("m", "sglang").await,
        Engine::serving("m", "sglang").await,
    );
    let plane = Plane::start(&config(&[&file.url()], "")).await;
    eventually(|| plane.usable() == 1).await;
    plane.add(&api.url()).await.unwrap();
    assert_eq!(plane.admin.fleet().added.len(), 1);
    assert_eq!(plane.add(&api.url()).await, Err(ChangeError::Exists));
    assert_eq!(plane.add(&file.url()).await, Err(ChangeError::Exists));
    eventually(|| plane.usable() == 2).await;
    plane.settled().await;
    let generation = plane.now().generation;
    assert_eq!(generation, 1);

    plane.write(&config(&[&file.url()], "server.request_timeout = '77s'"));
    assert_eq!(applied(&plane.reload().await), 2);
    assert_eq!((plane.workers().len(), plane.usable()), (2, 2));

    plane.remove(&api.url()).await.unwrap();
    plane.remove(&api.url()).await.unwrap();
    eventually(|| plane.workers() == [file.url()]).await;
    plane.settled().await;
    eventually(|| api.connections() == 0).await;
    let port = api.address.port().to_string();
    let text = scrape::render(plane.live(), clock::now());
    assert!(!text.contains(&port), "{text}");
    assert_eq!(
        plane.remove(&api.url()).await,
        Err(ChangeError::UnknownWorker)
    );
}

#[tokio::test]
async fn a_worker_that_cannot_be_reached_is_given_up_and_may_be_tried_again() {
    let plane = Plane::start(&config(&[], "")).await;
    let attempt = || plane.change(Change::Add(addition(DEAD, Some(2))));
    for _ in 0..2 {
        attempt().await.unwrap();
        let failed = || {
            let jobs = plane.admin.jobs();
            matches!(
                jobs.first().map(|job| &job.state),
                Some(JobState::Failed(_))
            )
        };
        eventually(failed).await;
        eventually(|| plane.workers().is_empty()).await;
        let jobs = plane.admin.jobs();
        assert_eq!(jobs.len(), 1, "{jobs:?}");
        assert_eq!(jobs[0].kind, JobKind::AddWorker);
        let JobState::Failed(message) = &jobs[0].state else {
            panic!("{jobs:?}");
        };
        assert!(message.contains("connection failed"), "{message}");
        assert!(plane.admin.fleet().added.is_empty());
    }
}

#[tokio::test]
async fn the_time_that_a_worker_has_bounds_its_attempts() {
    let engine = Engine::bare().await;
    engine.says("/health", 503, "");
    let short = config(&[], "").replace("60s", "100ms");
    let plane = Plane::start(&short).await;
    plane.add(&engine.url()).await.unwrap();
    eventually(|| plane.workers().is_empty()).await;
    let jobs = plane.admin.jobs();
    assert!(
        matches!(&jobs[0].state, JobState::Failed(message) if message.contains("503")),
        "{jobs:?}"
    );
}

#[tokio::test]
async fn a_removal_overtakes_the_addition_of_a_worker_that_never_came() {
    let plane = Plane::start(&config(&[], "")).await;
    plane.add(DEAD).await.unwrap();
    plane.remove(DEAD).await.unwrap();
    eventually(|| plane.workers().is_empty()).await;
    plane.settled().await;
}

#[tokio::test]
async fn a_worker_that_leaves_keeps_its_requests_and_gets_no_more() {
    let engine = Engine::serving("m", "sglang").await;
    let plane = Plane::start(&config(&[], "")).await;
    plane.add(&engine.url()).await.unwrap();
    eventually(|| plane.usable() == 1).await;
    let cell = plane.cell(&engine.url());
    let request = InFlight::start(&cell, 0, clock::now());

    plane.remove(&engine.url()).await.unwrap();
    eventually(|| plane.is_draining(&engine.url())).await;
    assert_eq!(plane.usable(), 0);
    let probes = engine.asked("/health");
    eventually(|| engine.asked("/health") > probes + 4).await;
    let jobs = plane.admin.jobs();
    assert_eq!(jobs[0].kind, JobKind::RemoveWorker);
    assert_eq!(plane.workers().len(), 1, "it still has a request");

    // Whoever asks for it back while it leaves gets it back as it was.
    plane.add(&engine.url()).await.unwrap();
    eventually(|| plane.usable() == 1).await;
    assert!(Arc::ptr_eq(&cell, &plane.cell(&engine.url())));
    plane.settled().await;

    plane.remove(&engine.url()).await.unwrap();
    drop(request);
    eventually(|| plane.workers().is_empty()).await;
    assert_eq!(cell.load(), 0);
}

#[tokio::test]
async fn a_worker_of_the_file_stays_out_until_its_entry_changes_or_it_is_wanted_back() {
    let engine = Engine::serving("m", "sglang").await;
    let url = engine.url();
    let plane = Plane::start(&config(&[&url], "")).await;
    eventually(|| plane.usable() == 1).await;
    plane.remove(&url).await.unwrap();
    eventually(|| plane.workers().is_empty()).await;
    let shown = status(&plane);
    assert_eq!(
        shown["fleet"]["tombstones"][0]["url"],
        json!(url),
        "{shown}"
    );

    plane.write(&config(&[&url], "server.request_timeout = '77s'"));
    applied(&plane.reload().await);
    assert!(plane.workers().is_empty());
    plane.add(&url).await.unwrap();
    eventually(|| plane.usable() == 1).await;
    assert_eq!(plane.now().plan.workers[0].source, Source::File);
    assert!(plane.admin.fleet().tombstones.is_empty());

    plane.remove(&url).await.unwrap();
    eventually(|| plane.workers().is_empty()).await;
    let entry = format!("[{{ url = {url:?}, priority = 3 }}]");
    let changed = config(&[], "").replace("workers = []", &format!("workers = {entry}"));
    plane.write(&changed);
    applied(&plane.reload().await);
    eventually(|| plane.usable() == 1).await;
}

#[tokio::test]
async fn a_change_counts_at_once_and_the_next_is_laid_over_it() {
    let engine = Engine::serving("m", "sglang").await;
    let plane = Plane::start(&config(&[&engine.url()], "")).await;
    eventually(|| plane.usable() == 1).await;
    let with_key = Override {
        api_key: Some(Secret::literal("fresh")),
        ..Override::default()
    };
    plane.change(update(&engine.url(), with_key)).await.unwrap();
    eventually(|| engine.asked("/health Bearer fresh") > 0).await;
    let draining = |drain| Override {
        drain: Some(drain),
        ..Override::default()
    };
    plane
        .change(update(&engine.url(), draining(true)))
        .await
        .unwrap();
    eventually(|| plane.usable() == 0 && plane.is_draining(&engine.url())).await;
    let probes = engine.asked("/health Bearer fresh");
    eventually(|| engine.asked("/health Bearer fresh") > probes).await;
    let shown = status(&plane);
    let change = &shown["fleet"]["overrides"][0];
    assert_eq!(
        (&change["drain"], &change["api_key"]),
        (&json!(true), &json!("***"))
    );
    plane
        .change(update(&engine.url(), draining(false)))
        .await
        .unwrap();
    eventually(|| plane.usable() == 1).await;
    plane.settled().await;
    let unknown = plane.change(update(DEAD, draining(true))).await;
    assert_eq!(unknown, Err(ChangeError::UnknownWorker));
}

#[tokio::test]
async fn a_change_that_changes_nothing_is_done_like_any_other() {
    let engine = Engine::serving("m", "sglang").await;
    let plane = Plane::start(&config(&[], "")).await;
    plane.add(&engine.url()).await.unwrap();
    eventually(|| plane.usable() == 1).await;
    plane.settled().await;
    let same = addition(&engine.url(), None);
    plane.change(Change::Replace(same)).await.unwrap();
    plane.settled().await;
    for _ in 0..2 {
        let cheap = Override {
            cost: Some(3.0),
            ..Override::default()
        };
        plane.change(update(&engine.url(), cheap)).await.unwrap();
        plane.settled().await;
    }
    assert_eq!(plane.usable(), 1);
}

#[tokio::test]
async fn a_pool_drains_until_it_is_told_else_or_the_file_is() {
    let engine = Engine::serving("m", "sglang").await;
    let plane = Plane::start(&config(&[&engine.url()], "")).await;
    eventually(|| plane.usable() == 1).await;
    plane.admin.drain_pool("pool", true).await.unwrap();
    eventually(|| plane.usable() == 0).await;
    assert_eq!(status(&plane)["fleet"]["drains"][0]["pool"], "pool");
    plane.admin.drain_pool("pool", false).await.unwrap();
    eventually(|| plane.usable() == 1).await;
    plane.admin.drain_pool("pool", true).await.unwrap();
    eventually(|| plane.usable() == 0).await;
    plane.write(
        &config(&[&engine.url()], "").replace("[pools.health]", "drain = true\n[pools.health]"),
    );
    applied(&plane.reload().await);
    assert_eq!(plane.usable(), 0);
    assert!(plane.admin.fleet().drains.is_empty());
    plane.write(&config(&[&engine.url()], ""));
    applied(&plane.reload().await);
    assert_eq!(plane.usable(), 1);
    assert!(plane.admin.drain_pool("none", true).await.is_err());
}

#[tokio::test]
async fn a_worker_without_a_place_waits_and_the_file_beats_it() {
    let engine = Engine::serving("m", "sglang").await;
    let plane = Plane::start(&config(&[], "")).await;
    plane.add(&engine.url()).await.unwrap();
    eventually(|| plane.usable() == 1).await;
    plane.settled().await;
    plane.write("version = 1\n");
    applied(&plane.reload().await);
    assert!(plane.workers().is_empty());
    plane.write(&config(&[], ""));
    applied(&plane.reload().await);
    eventually(|| plane.usable() == 1).await;
    plane.write(&config(&[&engine.url()], ""));
    applied(&plane.reload().await);
    assert_eq!(plane.now().plan.workers[0].source, Source::File);
    assert!(plane.admin.fleet().added.is_empty());
    assert_eq!(plane.usable(), 1);
}

#[tokio::test]
async fn no_more_jobs_are_taken_than_there_is_room_for() {
    let plane = Plane::start(&config(&[], "server.jobs = { capacity = 1 }")).await;
    plane.add(DEAD).await.unwrap();
    let other = "http://127.0.0.1:10";
    assert_eq!(plane.add(other).await, Err(ChangeError::Full));
    assert_eq!(plane.workers(), [DEAD]);
    plane.write(&config(&[], "server.jobs = { capacity = 2 }"));
    applied(&plane.reload().await);
    plane.add(other).await.unwrap();
}

#[tokio::test]
async fn jobs_run_so_many_at_once_and_one_after_the_other_for_a_worker() {
    let plane = Plane::start(&config(&[], "server.jobs = { concurrency = 3 }")).await;
    let others = ["http://127.0.0.1:10", "http://127.0.0.1:11"];
    plane.add(DEAD).await.unwrap();
    let changed = Override {
        priority: Some(1),
        ..Override::default()
    };
    plane.change(update(DEAD, changed)).await.unwrap();
    for other in others {
        plane.add(other).await.unwrap();
    }
    let states = || {
        let jobs = plane.admin.jobs();
        let states = jobs.iter().map(|job| job.state.as_str());
        states.collect::<Vec<_>>().join(" ")
    };
    eventually(|| states() == "processing pending processing pending").await;
    // It overtakes the addition; what was changed of the worker is no use any more.
    plane.remove(DEAD).await.unwrap();
    eventually(|| states() == "processing processing").await;
    eventually(|| plane.workers() == others).await;
    assert!(plane.admin.fleet().overrides.is_empty());
}

#[tokio::test]
async fn a_failed_worker_goes_where_it_is_not_to_stay() {
    let (file, api) = (
        Engine::serving("m", "sglang").await,
        Engine::serving("m", "sglang").await,
    );
    let unhealthy = config(&[&file.url()], "").replace("40ms", "60s").replace(
        "startup_timeout",
        "remove_unhealthy = true\nstartup_timeout",
    );
    let plane = Plane::start(&unhealthy).await;
    plane.add(&api.url()).await.unwrap();
    eventually(|| plane.usable() == 2).await;
    file.says("/health", 500, "");
    api.says("/health", 500, "");
    eventually(|| plane.workers() == [file.url()]).await;
    plane.settled().await;
    file.says("/health", 200, "");
    eventually(|| plane.usable() == 1).await;
}

#[tokio::test]
async fn what_was_changed_is_there_again_after_a_restart() {
    let engines = [
        Engine::serving("m", "sglang").await,
        Engine::serving("m", "sglang").await,
        Engine::serving("m", "sglang").await,
    ];
    let [out, slow, api] = engines.each_ref().map(Engine::url);
    let text = config(&[&out, &slow], "server.state_dir = 'state'");
    let plane = Plane::start(&text).await;
    let mut with_key = addition(&api, None);
    with_key.added.worker.api_key = Some(Secret::literal("canary"));
    plane.change(Change::Add(with_key)).await.unwrap();
    plane.remove(&out).await.unwrap();
    let cheap = Override {
        cost: Some(3.0),
        ..Override::default()
    };
    plane.change(update(&slow, cheap)).await.unwrap();
    plane.admin.drain_pool("pool", true).await.unwrap();

    // Whatever was answered is kept, though the jobs go on.
    let plane = plane.restarted().await;
    let mut expected = [slow.clone(), api.clone()];
    expected.sort();
    assert_eq!(plane.workers(), expected);
    eventually(|| engines[2].asked("/health Bearer canary") > 0).await;
    let snapshot = plane.now();
    let of = |url: &str| {
        let mut workers = snapshot.plan.workers.iter();
        workers.find(|worker| worker.key.as_str() == url).unwrap()
    };
    assert_eq!((of(&slow).cost, of(&slow).draining), (3.0, true));
    assert_eq!(
        (of(&api).source, of(&slow).source),
        (Source::Api, Source::File)
    );
    plane.admin.drain_pool("pool", false).await.unwrap();
    eventually(|| plane.usable() == 2).await;

    // What the file says anew counts.
    let entries = format!("[{out:?}, {{ url = {slow:?}, priority = 1 }}, {api:?}]");
    let anew = text.replace(&format!("{:?}", [&out, &slow]), &entries);
    plane.write(&anew);
    let plane = plane.restarted().await;
    let fleet = plane.admin.fleet();
    assert_eq!(fleet.tombstones.len(), 1);
    assert!(
        fleet.added.is_empty() && fleet.overrides.is_empty(),
        "{fleet:?}"
    );
}

/// A configuration that was rolled back finds nothing of what the one in between has ended.
#[tokio::test]
async fn what_a_start_has_ended_does_not_come_back() {
    let engine = Engine::serving("m", "sglang").await;
    let url = engine.url();
    let text = config(&[&url], "server.state_dir = 'state'");
    let plane = Plane::start(&text).await;
    plane.remove(&url).await.unwrap();
    eventually(|| plane.workers().is_empty()).await;
    let entry = format!("[{{ url = {url:?}, priority = 3 }}]");
    plane.write(&text.replace(&format!("{:?}", [&url]), &entry));
    let plane = plane.restarted().await;
    assert_eq!(plane.workers(), std::slice::from_ref(&url));
    let kept = plane.folder.path().join("state/workers.json");
    let is_out = || {
        let text = crate::base::file::read_to_string(&kept).unwrap();
        text.contains(&url)
    };
    eventually(|| !is_out()).await;
    plane.write(&text);
    let plane = plane.restarted().await;
    assert_eq!(plane.workers(), [url]);
}

/// A pipe that nobody writes to stands for a file system that hangs.
#[tokio::test]
async fn a_configuration_that_cannot_be_read_to_its_end_holds_up_no_workers() {
    let engine = Engine::serving("m", "sglang").await;
    let plane = Plane::start(&config(&[], "")).await;
    let pipe = plane.folder.path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    // Open for both, so that opening it waits for nobody.
    let mut open = std::fs::OpenOptions::new();
    let held = open.read(true).write(true).open(&pipe).unwrap();
    std::fs::rename(&pipe, plane.path()).unwrap();
    let reload = plane.admin.reload(Trigger::Admin);
    plane.add(&engine.url()).await.unwrap();
    eventually(|| plane.usable() == 1).await;
    plane.remove(&engine.url()).await.unwrap();
    eventually(|| plane.workers().is_empty()).await;

    plane.replace(&config(&[&engine.url()], ""));
    drop(held);
    timeout(PATIENCE, reload).await.unwrap();
    eventually(|| plane.usable() == 1).await;
}

#[tokio::test]
async fn what_cannot_be_kept_is_not_made() {
    let plane = Plane::start(&config(&[], "server.state_dir = 'state'")).await;
    std::fs::write(plane.folder.path().join("state"), "no folder").unwrap();
    assert_eq!(plane.add(DEAD).await, Err(ChangeError::NotKept));
    let drained = plane.admin.drain_pool("pool", true).await;
    assert_eq!(drained, Err(ChangeError::NotKept));
    assert!(plane.workers().is_empty() && plane.admin.jobs().is_empty());
    assert_eq!(*plane.admin.fleet(), Default::default());
    std::fs::remove_file(plane.folder.path().join("state")).unwrap();
    plane.add(DEAD).await.unwrap();
}

/// Two hundred workers take connections and never answer.
#[tokio::test]
async fn workers_whose_probes_hang_delay_no_others() {
    let (hanging, well) = (
        TcpListener::bind("127.0.0.1:0").await.unwrap(),
        Engine::bare().await,
    );
    let address = hanging.local_addr().unwrap();
    let _accepting = AbortOnDrop::spawn("hangs", async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = hanging.accept().await {
            held.push(stream);
        }
    });
    let mut workers: Vec<String> = (0..200).map(|n| format!("http://{address}/h{n}")).collect();
    for n in 0..100 {
        well.says(&format!("/w{n}/health"), 200, "");
        workers.push(format!("{}/w{n}", well.url()));
    }
    let workers: Vec<&str> = workers.iter().map(String::as_str).collect();
    let begun = clock::now();
    let plane = Plane::start(&config(&workers, "").replace("2s", "5s")).await;
    eventually(|| plane.usable() == 100).await;
    let taken = begun.elapsed();
    println!("100 workers ready after {taken:?}");
    // One probe that hangs takes five seconds.
    assert!(taken < Duration::from_secs(4), "{taken:?}");
}
