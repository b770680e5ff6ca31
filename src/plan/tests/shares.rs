//! Shares, fallbacks, mirrors; which policy a route has.

use std::sync::Arc;

use super::{candidates, facts, route, spec, workers};
use crate::config::spec::Policy;
use crate::plan::{Facts, Plan, Registration, Role, Route, Unroutable, compile, diff};

/// Pool and model name of the target of each draw, while the pools in `down` cannot serve. A name
/// without a change is empty.
fn targets(plan: &Plan, model: Option<&str>, draws: u64, down: &[&str]) -> Vec<(String, String)> {
    let found = plan.routes.resolve(model).unwrap();
    let pool = |route: &Route| plan.pool(route.pool).name.to_string();
    let one = |draw| {
        let up = |route: &Route| !down.contains(&&*pool(route));
        let target = plan.routes.target(&found, || draw, up).unwrap();
        let route = &plan.routes.all[target.route.0 as usize];
        let rename = target.rename.map(|name| name.to_string());
        (pool(route), rename.unwrap_or_default())
    };
    (0..draws).map(one).collect()
}

fn pair(pool: &str, name: &str) -> (String, String) {
    (pool.to_owned(), name.to_owned())
}

const SPLIT: &str = r#"
version = 1
[[pools]]
name = "a"
workers = ["http://a:1"]
[[pools]]
name = "b"
workers = ["http://b:1", { url = "http://b:2", model = "m-small" }]
[[pools]]
name = "c"
workers = ["http://c:1"]
[[models]]
name = "m"
aliases = ["also-m"]
split = [
  { pool = "a", weight = 3 },
  { pool = "b", weight = 1, model = "m-small" },
  { pool = "c", weight = 0 },
]
[[models]]
name = "other"
pool = "c"
"#;

#[test]
fn a_split_divides_by_weight_and_renames_where_it_says_so() {
    let plan = compile(&spec(SPLIT), &Facts::default());
    for (name, kept) in [("m", ""), ("also-m", "m")] {
        let all = targets(&plan, Some(name), 4000, &[]);
        let a = all.iter().filter(|t| **t == pair("a", kept)).count();
        let b = all.iter().filter(|t| **t == pair("b", "m-small")).count();
        assert_eq!(a + b, 4000, "{name}: {:?}", &all[..8]);
        assert!((2850..3150).contains(&a), "{name}: {a}");
    }
    // The name that the share asks for is also what metrics say.
    let routes = plan.routes.of(&plan.routes.destinations[0]);
    let names: Vec<(&str, &str)> = routes.map(|r| (&*r.label, &*r.entry)).collect();
    assert_eq!(names, [("m", "m"), ("m-small", "m")]);
}

#[test]
fn a_share_that_cannot_serve_gives_its_draws_to_the_others() {
    let plan = compile(&spec(SPLIT), &Facts::default());
    let all = targets(&plan, Some("m"), 200, &["a"]);
    assert!(all.iter().all(|target| *target == pair("b", "m-small")));
    // Nobody can: the refusal is about a share of the model itself.
    let none = targets(&plan, Some("m"), 200, &["a", "b"]);
    assert_eq!(none, targets(&plan, Some("m"), 200, &[]));
}

#[test]
fn a_split_is_served_by_the_workers_of_its_shares_and_no_others() {
    let facts = facts(&[("http://b:1", &["m"]), ("http://c:1", &["m", "other"])]);
    let plan = compile(&spec(SPLIT), &facts);
    let of = |pool: &str| {
        let mut routes = plan.routes.all.iter();
        let named = |route: &&Route| &*plan.pool(route.pool).name == pool && &*route.entry == "m";
        routes.find(named).map(|route| workers(&plan, route))
    };
    assert_eq!(of("a").unwrap(), ["http://a:1"]);
    // The other worker of `b` says that it serves `m`, which is not what is asked for there.
    assert_eq!(of("b").unwrap(), ["http://b:2"]);
    assert_eq!(of("c"), None);
}

const FALLBACKS: &str = r#"
version = 1
[[pools]]
name = "a"
workers = ["http://a:1"]
[[pools]]
name = "b"
workers = ["http://b:1"]
[[pools]]
name = "c"
workers = ["http://c:1"]
[[pools]]
name = "d"
workers = ["http://d:1"]
[[models]]
name = "first"
aliases = ["f"]
pool = "a"
fallback = ["also-second", "fourth"]
[[models]]
name = "second"
aliases = ["also-second"]
pool = "b"
fallback = ["third", "first"]
[[models]]
name = "third"
pool = "c"
fallback = ["second"]
[[models]]
name = "fourth"
split = [{ pool = "d", weight = 1, model = "fourth-small" }]
"#;

#[test]
fn fallbacks_are_tried_in_order_each_with_its_own() {
    let plan = compile(&spec(FALLBACKS), &Facts::default());
    for (down, expected) in [
        (&[][..], pair("a", "")),
        (&["a"], pair("b", "second")),
        (&["a", "b"], pair("c", "third")),
        (&["a", "b", "c"], pair("d", "fourth-small")),
        (&["a", "c", "d"], pair("b", "second")),
        (&["a", "b", "c", "d"], pair("a", "")),
    ] {
        let found = targets(&plan, Some("first"), 1, down);
        assert_eq!(found, [expected], "without {down:?}");
    }
    let alias = targets(&plan, Some("f"), 1, &["a"]);
    assert_eq!(alias, [pair("b", "second")]);
    // What looks like a circle ends.
    assert_eq!(
        targets(&plan, Some("second"), 1, &["b", "c"]),
        [pair("a", "first")]
    );
    assert_eq!(
        targets(&plan, Some("second"), 1, &["a", "b", "c"]),
        [pair("d", "fourth-small")]
    );
    assert_eq!(
        targets(&plan, Some("third"), 1, &["b", "c"]),
        [pair("a", "first")]
    );
}

#[test]
fn a_glob_may_be_split_fall_back_and_be_mirrored() {
    let text = r#"
version = 1
[[pools]]
name = "a"
workers = ["http://a:1", "http://a:2"]
[[pools]]
name = "b"
workers = ["http://b:1"]
[[models]]
name = "m-*"
split = [{ pool = "a", weight = 1 }, { pool = "b", weight = 1, model = "small" }]
fallback = ["last"]
mirror = { pool = "b", fraction = 0.5 }
[[models]]
name = "last"
pool = "b"
"#;
    let facts = facts(&[("http://a:1", &["m-1"]), ("http://a:2", &[])]);
    let plan = compile(&spec(text), &facts);
    for (name, served) in [
        ("m-1", &["http://a:1", "http://a:2"][..]),
        ("m-2", &["http://a:2"]),
    ] {
        let all = targets(&plan, Some(name), 100, &[]);
        assert!(all.contains(&pair("a", "")) && all.contains(&pair("b", "small")));
        assert_eq!(targets(&plan, Some(name), 1, &["b"]), [pair("a", "")]);
        let found = plan.routes.resolve(Some(name)).unwrap();
        let destination = plan.routes.destination(found.destination).unwrap();
        let first = &plan.routes.all[destination.shares[0].route.0 as usize];
        assert_eq!(workers(&plan, first), served, "{name}");
        assert_eq!(&*first.entry, "m-*");
        let mirror = destination.mirror.as_ref().unwrap();
        assert!(plan.routes.all[mirror.route.0 as usize].copies);
        assert_eq!(&*destination.fallback[0].model, "last");
    }
    assert!(
        plan.routes
            .all
            .iter()
            .all(|route| ["unknown", "small", "m-1", "last"].contains(&&*route.label))
    );
}

#[test]
fn a_longer_glob_comes_before_a_shorter_one_and_before_what_is_advertised() {
    let text = r#"
version = 1
[[pools]]
name = "a"
workers = ["http://a:1", "http://a:2"]
[[pools]]
name = "b"
workers = ["http://b:1"]
[[models]]
name = "m-*"
pool = "a"
[[models]]
name = "m-long-*"
pool = "b"
"#;
    let facts = facts(&[
        ("http://a:1", &["m-long-1", "m-1"]),
        ("http://b:1", &["m-2"]),
    ]);
    let plan = compile(&spec(text), &facts);
    let pool = |name| &*plan.pool(route(&plan, Some(name)).unwrap().pool).name;
    assert_eq!(
        (pool("m-long-1"), pool("m-1"), pool("m-2")),
        ("b", "a", "a")
    );
}

#[test]
fn the_only_model_may_be_split() {
    let text = SPLIT.replace("[[models]]\nname = \"other\"\npool = \"c\"\n", "");
    let plan = compile(&spec(&text), &Facts::default());
    // `m-small` is advertised too, unless nothing undeclared is served.
    let text = format!("{text}[routing]\nundeclared_models = \"reject\"\n");
    assert_eq!(plan.routes.resolve(None), Err(Unroutable::Missing));
    let plan = compile(&spec(&text), &Facts::default());
    let all = targets(&plan, None, 100, &[]);
    assert!(all.contains(&pair("a", "")) && all.contains(&pair("b", "m-small")));
}

#[test]
fn a_mirror_makes_nobody_a_worker_of_the_model_and_is_used_at_once() {
    let text = r#"
version = 1
[[pools]]
name = "a"
workers = ["http://a:1"]
[[pools]]
name = "shadow"
runtime = "vllm"
workers = ["http://s:1"]
[[models]]
name = "m"
pool = "a"
policy = "round_robin"
mirror = { pool = "shadow", fraction = 0.25 }
"#;
    let plan = compile(&spec(text), &facts(&[("http://s:1", &[])]));
    assert_eq!(candidates(&plan, Some("m")).unwrap(), ["http://a:1"]);
    let mirror = plan.routes.destinations[0].mirror.clone().unwrap();
    let copies = &plan.routes.all[mirror.route.0 as usize];
    assert_eq!(workers(&plan, copies), ["http://s:1"]);
    assert_eq!(mirror.fraction, 0.25);
    assert_eq!(copies.legs.answering().policy, Policy::RoundRobin);
    // A pool of copies takes no other requests.
    assert_eq!(candidates(&plan, Some("x")), Err(Unroutable::Unknown));
    let plan = compile(&spec(text), &Facts::default());
    assert_eq!(plan.workers[1].registration, Registration::AtOnce);
}

#[test]
fn an_undeclared_model_of_regular_workers_and_of_legs_is_divided_by_their_number() {
    let text = r#"
version = 1
[[pools]]
name = "legs"
prefill.workers = ["http://p:1"]
decode.workers = ["http://d:1", "http://d:2"]
[[pools]]
name = "regular"
workers = ["http://r:1"]
"#;
    let pd = [
        ("http://p:1", &["m"][..]),
        ("http://d:1", &["m"]),
        ("http://d:2", &["m"]),
    ];
    let all = [&pd[..], &[("http://r:1", &["m"])]].concat();
    let plan = compile(&spec(text), &facts(&all));
    let drawn = targets(&plan, Some("m"), 4000, &[]);
    let legs = drawn
        .iter()
        .filter(|target| **target == pair("legs", ""))
        .count();
    assert!((2850..3150).contains(&legs), "{legs}");
    // A leg without a worker of the model is no pair.
    let plan = compile(&spec(text), &facts(&all[1..]));
    let drawn = targets(&plan, Some("m"), 50, &[]);
    assert!(drawn.iter().all(|target| *target == pair("regular", "")));
    // Without any other it is told that nobody is there.
    let plan = compile(&spec(text), &facts(&pd[1..]));
    let only = route(&plan, Some("m")).unwrap();
    assert!(only.legs.is_pair());
    assert!(only.legs.get(Role::Prefill).unwrap().candidates.is_empty());
}

#[test]
fn a_policy_is_the_models_or_the_legs_or_the_first_workers_or_the_general_one() {
    let text = |pool: &str, model: &str| {
        format!(
            r#"
version = 1
[routing.policy.manual]
max_keys = 7
[[pools]]
name = "p"
{pool}
[[models]]
name = "m"
{model}
"#
        )
    };
    let policies = |text: &str| -> Vec<Policy> {
        let plan = compile(&spec(text), &Facts::default());
        let legs = route(&plan, Some("m")).unwrap().legs.iter();
        legs.map(|leg| leg.policy.clone()).collect()
    };
    let labelled = |first: &str| {
        format!(
            "workers = [{{ url = 'http://w:1', labels = {{ policy = '{first}' }} }}, \
             {{ url = 'http://w:2', labels = {{ policy = 'random' }} }}]"
        )
    };
    let general = policies(&text("workers = ['http://w:1']", ""));
    let round_robin = "policy = 'round_robin'";
    for (pool, model, expected) in [
        (labelled("power-of-two"), "", vec![Policy::PowerOfTwo]),
        // The same kind as the general one: with its options.
        (labelled("manual"), "", general.clone()),
        (labelled("fastest"), "", general.clone()),
        (labelled("random"), round_robin, vec![Policy::RoundRobin]),
        (
            "prefill = { policy = 'random', workers = ['http://p:1'] }\n\
             decode.workers = [{ url = 'http://d:1', labels = { policy = 'round_robin' } }]"
                .to_owned(),
            "",
            vec![Policy::Random, Policy::RoundRobin],
        ),
        (
            "prefill.workers = ['http://p:1']\n\
             decode.workers = [{ url = 'http://d:1', labels = { policy = 'bucket' } }]"
                .to_owned(),
            "",
            [general.clone(), general.clone()].concat(),
        ),
    ] {
        assert_eq!(policies(&text(&pool, model)), expected, "{pool} {model}");
    }
    let plan = compile(&spec(&text(&labelled("fastest"), "")), &Facts::default());
    let unknown: Vec<_> = plan.workers.iter().map(|w| w.unknown_policy()).collect();
    assert_eq!(unknown, [Some("fastest"), None]);
}

#[test]
fn models_of_one_pool_look_at_one_ring() {
    let plan = compile(&spec(&many(100, 100)), &Facts::default());
    assert_eq!(plan.routes.all.len(), 100);
    let rings: Vec<_> = plan
        .routes
        .all
        .iter()
        .map(|route| route.legs.answering().ring.clone().unwrap())
        .collect();
    assert!(rings.iter().all(|ring| Arc::ptr_eq(ring, &rings[0])));
}

/// This many models, each served by all of this many workers of one pool.
fn many(models: usize, workers: usize) -> String {
    let urls: Vec<String> = (0..workers).map(|n| format!("http://w{n}:1")).collect();
    let models = (0..models).map(|n| format!("[[models]]\nname = 'm{n}'\npool = 'p'\n"));
    format!(
        "version = 1\nrouting.policy = 'consistent_hashing'\n\
         [[pools]]\nname = 'p'\nworkers = {urls:?}\n{}",
        models.collect::<String>()
    )
}

#[test]
fn the_diff_names_what_becomes_of_shares_fallbacks_and_mirrors() {
    let base = format!("{SPLIT}fallback = [\"m\"]\nmirror = {{ pool = \"a\", fraction = 0.1 }}\n");
    let old = compile(&spec(&base), &Facts::default());
    assert!(diff(&old, &old).is_empty());
    let changes = |from: &str, to: &str| -> Vec<String> {
        let text = base.replace(from, to);
        assert_ne!(text, base);
        let new = compile(&spec(&text), &Facts::default());
        diff(&old, &new).iter().map(ToString::to_string).collect()
    };
    assert_eq!(changes("weight = 3", "weight = 4"), ["split m changed"]);
    assert_eq!(
        changes("weight = 0", "weight = 1"),
        ["route also-m changed", "route m changed", "split m changed"]
    );
    assert_eq!(
        changes("fallback = [\"m\"]\n", ""),
        ["fallback other removed"]
    );
    assert_eq!(changes("0.1", "0.2"), ["mirror other changed"]);
    assert_eq!(
        changes("fraction = 0.1", "fraction = 0"),
        ["mirror other removed"]
    );
}
