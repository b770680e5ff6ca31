//! Compiling small configurations.

mod shares;

use std::sync::Arc;

use super::{
    Change, Facts, Learned, NoRanks, Plan, Registration, Route, Unroutable, WorkerKey, compile,
    diff,
};
use crate::base::pem::PemFile;
use crate::config::spec::{Runtime, Spec};

const TWO_POOLS: &str = r#"
version = 1
[[pools]]
name = "a"
workers = ["http://a1:8000", "http://A2:8000/"]
[[pools]]
name = "b"
runtime = "sglang"
workers = ["http://b1:8000", { url = "http://b2:8000", model = "pinned" }]
[[models]]
name = "llama"
aliases = ["l"]
pool = "a"
[[models]]
name = "qwen-*"
pool = "b"
policy = "round_robin"
"#;

fn spec(text: &str) -> Spec {
    toml::from_str(text).unwrap()
}

fn facts(known: &[(&str, &[&str])]) -> Facts {
    let workers = known.iter().map(|(url, models)| {
        let models = models.iter().map(|model| (*model).to_owned()).collect();
        (
            WorkerKey::new(url),
            Learned {
                models,
                ..Learned::default()
            },
        )
    });
    Facts {
        workers: workers.collect(),
        ..Facts::default()
    }
}

fn candidates(plan: &Plan, model: Option<&str>) -> Result<Vec<String>, Unroutable> {
    Ok(workers(plan, route(plan, model)?))
}

/// Where a request goes that does not care about shares.
fn route<'a>(plan: &'a Plan, model: Option<&str>) -> Result<&'a Route, Unroutable> {
    let found = plan.routes.resolve(model)?;
    let target = plan.routes.target(&found, || 0, |_| true)?;
    Ok(&plan.routes.all[target.route.0 as usize])
}

fn workers(plan: &Plan, route: &Route) -> Vec<String> {
    let candidates = route.legs.candidates();
    let keys = candidates.map(|ix| plan.workers[ix.0 as usize].key.to_string());
    keys.collect()
}

#[test]
fn keys_are_normalised() {
    for (url, key) in [
        ("http://Host:80/", "http://host:80"),
        ("http://host", "http://host:80"),
        ("http://host:8000/v2/", "http://host:8000/v2"),
        ("http://[::1]:9", "http://[::1]:9"),
    ] {
        assert_eq!(WorkerKey::new(url).as_str(), key);
    }
    assert_eq!(
        WorkerKey::new("http://host").id(),
        WorkerKey::new("http://HOST:80/").id()
    );
}

#[test]
fn a_name_an_alias_and_a_glob_lead_to_their_pool() {
    let facts = facts(&[
        ("http://a1:8000", &["llama"]),
        ("http://a2:8000", &["other"]),
        ("http://b1:8000", &["qwen-7b"]),
    ]);
    let plan = compile(&spec(TWO_POOLS), &facts);
    assert_eq!(
        candidates(&plan, Some("llama")).unwrap(),
        ["http://a1:8000"]
    );
    assert_eq!(candidates(&plan, Some("l")).unwrap(), ["http://a1:8000"]);
    assert_eq!(
        candidates(&plan, Some("qwen-7b")).unwrap(),
        ["http://b1:8000"]
    );
    // Nobody advertises it and everybody in the pool names models.
    assert!(candidates(&plan, Some("qwen-72b")).unwrap().is_empty());
    // Advertised, declared by nobody.
    assert_eq!(
        candidates(&plan, Some("other")).unwrap(),
        ["http://a2:8000"]
    );
    assert_eq!(
        candidates(&plan, Some("pinned")).unwrap(),
        ["http://b2:8000"]
    );
    assert_eq!(candidates(&plan, Some("gpt")), Err(Unroutable::Unknown));
    assert_eq!(candidates(&plan, None), Err(Unroutable::Missing));
}

#[test]
fn only_an_alias_renames() {
    let plan = compile(&spec(TWO_POOLS), &Facts::default());
    let rename = |name| {
        plan.routes
            .resolve(Some(name))
            .unwrap()
            .rename()
            .map(|n| n.to_string())
    };
    assert_eq!(rename("l").as_deref(), Some("llama"));
    assert_eq!(rename("llama"), None);
    assert_eq!(rename("qwen-1"), None);
}

#[test]
fn names_under_a_glob_share_its_entry_and_its_policy() {
    let facts = facts(&[("http://b1:8000", &["qwen-7b", "qwen-14b"])]);
    let plan = compile(&spec(TWO_POOLS), &facts);
    for name in ["qwen-7b", "qwen-14b", "qwen-whatever"] {
        let route = route(&plan, Some(name)).unwrap();
        assert_eq!(&*route.entry, "qwen-*", "{name}");
        assert_eq!(route.legs.answering().policy.as_str(), "round_robin");
    }
}

#[test]
fn a_declared_runtime_with_a_declared_model_is_used_at_once() {
    let plan = compile(&spec(TWO_POOLS), &Facts::default());
    let registration = |url: &str| {
        let key = WorkerKey::new(url);
        plan.workers
            .iter()
            .find(|worker| worker.key == key)
            .unwrap()
            .registration
    };
    assert_eq!(registration("http://a1:8000"), Registration::Pending);
    assert_eq!(registration("http://b1:8000"), Registration::AtOnce);
    let plan = compile(&spec(TWO_POOLS), &facts(&[("http://a1:8000", &[])]));
    let first = plan
        .workers
        .iter()
        .find(|worker| worker.key.as_str() == "http://a1:8000");
    assert_eq!(first.unwrap().registration, Registration::Registered);
}

#[test]
fn the_only_model_needs_no_name() {
    let text = "version = 1\n[[pools]]\nname = \"p\"\nworkers = [\"http://w:1\"]\n";
    let one = compile(&spec(text), &facts(&[("http://w:1", &["m"])]));
    for name in [None, Some(""), Some("unknown"), Some("m")] {
        assert_eq!(candidates(&one, name).unwrap(), ["http://w:1"], "{name:?}");
    }
    // A worker that knows its model by name alone would not know what is written in its place.
    let renamed = |plan: &Plan, name: Option<&'static str>| {
        let found = plan.routes.resolve(name).unwrap();
        let target = plan.routes.target(&found, || 0, |_| true).unwrap();
        target.rename.map(|name| name.to_string())
    };
    for (name, expected) in [
        (None, None),
        (Some(""), Some("m")),
        (Some("unknown"), Some("m")),
        (Some("m"), None),
    ] {
        assert_eq!(renamed(&one, name).as_deref(), expected, "{name:?}");
    }
    let two = compile(&spec(text), &facts(&[("http://w:1", &["m", "n"])]));
    assert_eq!(candidates(&two, None), Err(Unroutable::Missing));
    // One that names no model takes any.
    let any = compile(&spec(text), &facts(&[("http://w:1", &[])]));
    assert_eq!(candidates(&any, Some("whatever")).unwrap(), ["http://w:1"]);
    assert_eq!(candidates(&any, None).unwrap(), ["http://w:1"]);
    assert_eq!(renamed(&any, Some("unknown")), None);
    // Nothing is known yet.
    let none = compile(&spec(text), &Facts::default());
    assert_eq!(candidates(&none, Some("m")), Err(Unroutable::Unknown));
}

#[test]
fn undeclared_models_can_be_rejected() {
    let text = format!("{TWO_POOLS}\n[routing]\nundeclared_models = \"reject\"\n");
    let facts = facts(&[
        ("http://a1:8000", &["llama", "other"]),
        ("http://a2:8000", &["more"]),
    ]);
    let plan = compile(&spec(&text), &facts);
    assert_eq!(candidates(&plan, Some("other")), Err(Unroutable::Unknown));
    assert_eq!(
        candidates(&plan, Some("llama")).unwrap(),
        ["http://a1:8000"]
    );
}

#[test]
fn settings_are_inherited_key_by_key() {
    let text = r#"
version = 1
[reliability.retry]
max_retries = 4
max_backoff = "7s"
[[pools]]
name = "p"
workers = ["http://w:1"]
[pools.reliability.retry]
max_backoff = "3s"
[pools.reliability.timeouts]
total = "9s"
[[models]]
name = "m"
[models.reliability.retry]
max_retries = 0
[models.reliability.timeouts]
idle = "2s"
"#;
    let plan = compile(&spec(text), &Facts::default());
    let route = route(&plan, Some("m")).unwrap();
    assert_eq!(route.retry.attempts, 1);
    assert_eq!(route.retry.max_backoff.as_secs(), 3);
    assert_eq!(route.timeouts.total.as_secs(), 9);
    assert_eq!(route.timeouts.idle.as_secs(), 2);
    assert_eq!(plan.pools[0].retry.attempts, 4);
}

#[test]
fn a_url_in_two_pools_is_one_worker_with_two_memberships() {
    let text = r#"
version = 1
[[pools]]
name = "p"
workers = ["http://w:1"]
[[pools]]
name = "q"
workers = ["http://w:1/"]
"#;
    let plan = compile(&spec(text), &facts(&[("http://w:1", &["m"])]));
    assert_eq!(plan.workers.len(), 2);
    assert_eq!(plan.workers[0].key, plan.workers[1].key);
    assert_eq!(candidates(&plan, Some("m")).unwrap(), ["http://w:1"]);

    for (drained, left) in [("p", "q"), ("q", "p")] {
        let mut known = facts(&[("http://w:1", &["m"])]);
        known.fleet.drains.insert(drained.into(), true);
        let plan = compile(&spec(text), &known);
        let route = route(&plan, Some("m")).unwrap();
        let found: Vec<_> = route.legs.candidates().collect();
        assert_eq!(found.len(), 1);
        let worker = &plan.workers[found[0].0 as usize];
        assert!(!worker.draining, "{drained}");
        assert_eq!(&*plan.pool(worker.pool).name, left);
    }
}

#[test]
fn the_diff_names_what_changed_and_nothing_else() {
    let old = compile(&spec(TWO_POOLS), &Facts::default());
    assert!(diff(&old, &old).is_empty());
    let text = TWO_POOLS
        .replace("\"http://a1:8000\", ", "")
        .replace("\"l\"", "\"l2\"");
    let new = compile(&spec(&text), &Facts::default());
    let shown: Vec<String> = diff(&old, &new).iter().map(ToString::to_string).collect();
    assert_eq!(
        shown,
        [
            "route l removed",
            "route l2 added",
            "route llama changed",
            "worker a/http://a1:8000 removed",
        ]
    );
}

#[test]
fn the_diff_names_what_guards_requests() {
    let of = |text: &str| {
        let old = compile(&spec(TWO_POOLS), &Facts::default());
        let new = compile(&spec(text), &Facts::default());
        let changes = diff(&old, &new);
        let changes: Vec<String> = changes.iter().map(ToString::to_string).collect();
        changes.join(", ")
    };
    let with = |more: &str| of(&format!("{TWO_POOLS}\n{more}"));
    let admission = "[reliability.admission]\nmax_concurrent_requests = 7\n";
    assert_eq!(with(admission), "admission settings changed");
    let class = "[reliability.admission.classes.batch]\nweight = 2\n";
    assert_eq!(with(class), "admission settings changed");
    let gate = TWO_POOLS.replacen(
        "[[models]]\n",
        "[[models]]\nadmission = { max_concurrent_requests = 3 }\n",
        1,
    );
    assert!(of(&gate).starts_with("admission "), "{}", of(&gate));
    assert!(of(&gate).ends_with(" added"), "{}", of(&gate));
    assert_eq!(
        with("[routing]\nload_monitor_interval = '77s'\n"),
        "server settings changed"
    );
    let drain = TWO_POOLS.replacen("[[pools]]\n", "[[pools]]\ndrain = true\n", 1);
    assert!(of(&drain).contains("pool "), "{}", of(&drain));
}

#[test]
fn a_rotated_key_is_a_change_that_does_not_show_it() {
    let with = |key: &str| {
        format!(
            "version = 1\n[[pools]]\nname = \"p\"\nworkers = [\"http://w:1\"]\napi_key = \"{key}\"\n"
        )
    };
    let old = compile(&spec(&with("first-secret")), &Facts::default());
    let new = compile(&spec(&with("second-secret")), &Facts::default());
    let changes = diff(&old, &new);
    assert_eq!(changes.len(), 1);
    assert_eq!(changes[0].to_string(), "worker p/http://w:1 changed");
    let json = serde_json::to_string(&new).unwrap();
    assert!(!json.contains("second-secret"), "{json}");
}

#[test]
fn a_worker_over_tls_is_at_its_own_port_and_a_new_certificate_is_a_change() {
    let pem = |path: &str, content: &str| {
        let mut file = PemFile::unread(path.into());
        file.fill(content.as_bytes());
        Some(file)
    };
    let with = |content: &str| {
        let mut spec = spec(
            "version = 1\n[[pools]]\nname = \"p\"\ntls.server_name = \"w.test\"\n\
             workers = [\"https://W\", \"https://[::1]:9/v2\", \"http://w:1\"]\n",
        );
        let tls = &mut spec.pools[0].tls;
        tls.cert_path = pem("c.pem", content);
        tls.key_path = pem("k.pem", "private");
        compile(&spec, &Facts::default())
    };
    let (old, new) = (with("first"), with("second"));
    let seen: Vec<_> = old
        .workers
        .iter()
        .map(|w| (w.key.as_str(), &*w.authority, &*w.host, w.tls.is_some()))
        .collect();
    assert_eq!(
        seen,
        [
            ("http://w:1", "w:1", "w", false),
            ("https://[::1]:9/v2", "[::1]:9", "::1", true),
            ("https://w:443", "w:443", "w", true),
        ]
    );
    let changes: Vec<String> = diff(&old, &new).iter().map(Change::to_string).collect();
    assert_eq!(
        changes,
        [
            "worker p/https://[::1]:9/v2 changed",
            "worker p/https://w:443 changed"
        ]
    );
    assert!(diff(&old, &with("first")).is_empty());
    let json = serde_json::to_string(&new).unwrap();
    assert!(!json.contains("private"), "{json}");
}

const RANKED: &str = r#"
version = 1
[[pools]]
name = "p"
dp_aware = true
workers = ["http://w:1", "http://v:1"]
"#;

fn ranked(url: &str, runtime: Runtime, dp_size: Option<u32>) -> (WorkerKey, Learned) {
    let learned = Learned {
        runtime: Some(runtime),
        models: vec!["m".into()],
        dp_size,
        ..Learned::default()
    };
    (WorkerKey::new(url), learned)
}

#[test]
fn each_rank_of_an_engine_is_a_worker() {
    let workers = [
        ranked("http://w:1", Runtime::Sglang, Some(11)),
        ranked("http://v:1", Runtime::Sglang, Some(1)),
    ];
    let facts = Facts {
        workers: workers.into(),
        ..Facts::default()
    };
    let plan = compile(&spec(RANKED), &facts);
    let all = candidates(&plan, Some("m")).unwrap();
    assert_eq!(all.len(), 12);
    assert_eq!(all[..3], ["http://v:1@0", "http://w:1@0", "http://w:1@1"]);
    assert_eq!(all[11], "http://w:1@10", "by number, not by letter");
    let rank = &plan.workers[2];
    assert_eq!((rank.key.rank(), rank.dp_size), (Some(1), Some(11)));
    assert_eq!(rank.key.base(), WorkerKey::new("http://w:1"));
    assert_eq!(rank.id, rank.key.id());
    assert_ne!(rank.id, rank.key.base().id());
    assert_eq!((&*rank.host, rank.port), ("w", 1));
    assert_eq!(&*rank.authority, "w:1");
    assert!(plan.workers.iter().all(|worker| worker.is_admitted()));
}

#[test]
fn a_rank_is_named_behind_the_url() {
    let base = WorkerKey::new("http://w:1");
    assert_eq!(WorkerKey::named("http://W:1/"), base);
    assert_eq!(WorkerKey::named("http://w:1@3"), base.ranked(3));
    assert_eq!(base.ranked(3).as_str(), "http://w:1@3");
    assert!(base < base.ranked(0) && base.ranked(2) < base.ranked(10));
}

#[test]
fn a_worker_without_ranks_takes_nothing_where_ranks_are_wanted() {
    for (runtime, dp_size, why) in [
        (Runtime::Vllm, Some(2), NoRanks::Engine(Runtime::Vllm)),
        (Runtime::Sglang, None, NoRanks::Size),
        (Runtime::Sglang, Some(0), NoRanks::Size),
        (Runtime::Sglang, Some(1_000_000), NoRanks::Size),
    ] {
        let (key, learned) = ranked("http://w:1", runtime, dp_size);
        assert_eq!(learned.ranks(Some(runtime)), Err(why));
        let facts = Facts {
            workers: [(key, learned)].into(),
            ..Facts::default()
        };
        let plan = compile(&spec(RANKED), &facts);
        assert_eq!(plan.workers.len(), 2);
        assert!(plan.workers.iter().all(|worker| !worker.is_admitted()));
    }
    // Nor does one that could be used at once, were its ranks known.
    let text = format!("{RANKED}runtime = \"sglang\"\n[[models]]\nname = \"m\"\n");
    let plan = compile(&spec(&text), &Facts::default());
    assert!(plan.workers.iter().all(|worker| !worker.is_admitted()));
}

/// All workers of a pool are on its ring, also those that do not serve the model; routes with the
/// same workers have the same one.
#[test]
fn routes_share_the_ring_of_their_workers() {
    let text = r#"
        version = 1
        [[pools]]
        name = "p"
        workers = [{ url = "http://w1:1", model = "a" }, { url = "http://w2:1", model = "b" }]
        [[models]]
        name = "a"
        [[models]]
        name = "b"
        [routing]
        policy = "consistent_hashing"
    "#;
    let plan = compile(&spec(text), &Facts::default());
    let rings: Vec<_> = plan
        .routes
        .all
        .iter()
        .flat_map(|route| route.legs.iter())
        .map(|leg| leg.ring.clone().unwrap())
        .collect();
    assert!(Arc::ptr_eq(&rings[0], &rings[1]));
    assert_eq!(rings[0].walk(b"k").count(), 300);
}

#[test]
fn a_model_that_two_pools_advertise_has_a_ring_of_both() {
    let text = r#"
        version = 1
        [[pools]]
        name = "p"
        workers = ["http://w1:1", "http://w3:1"]
        [[pools]]
        name = "q"
        workers = ["http://w2:1"]
        [routing]
        policy = "prefix_hash"
    "#;
    let known = ["http://w1:1", "http://w2:1", "http://w3:1"].map(|url| (url, &["m"][..]));
    let plan = compile(&spec(text), &facts(&known));
    let leg = plan.routes.all[0].legs.answering();
    let ring = leg.ring.as_ref().unwrap();
    // By URL, which is not the order of the plan here.
    assert!(!leg.candidates.is_sorted());
    for ix in &leg.candidates {
        assert!(ring.walk(b"k").any(|other| other == *ix));
    }
}
