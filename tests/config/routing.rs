//! Policies, legs and routes: files, and flags and variables laid over them.

use smg::base::units::{ByteSize, Millis};
use smg::config::cli::overlay::overlay;
use smg::config::cli::setting::{Setting, variables};
use smg::config::cli::table::find;
use smg::config::cli::value::parse;
use smg::config::diag::Place;
use smg::config::spec::{
    Algorithm, AssignmentMode, Bucket, CacheAware, Manual, Policy, PrefixHash, Spec,
};
use smg::config::{Given, Input, Loaded, Origin, load, render_effective};

use super::{environment, input, show};

/// A file with flags laid over it, each with its values, and variables.
fn with(text: &str, flags: &[(&str, &[&str])], environ: &[(&str, &str)]) -> Loaded {
    let lookup = |name: &str| {
        let found = environ.iter().find(|(variable, _)| *variable == name);
        found.map(|(_, value)| (*value).to_owned())
    };
    let mut settings = variables(&lookup).unwrap().settings;
    for (name, values) in flags {
        let flag = find(name).unwrap();
        let values = values.iter().map(|text| parse(flag.kind, text).unwrap());
        settings.push(Setting {
            flag,
            given: Given::Flag(flag.dashed()),
            values: values.collect(),
        });
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("smg.toml");
    std::fs::write(&file, text).unwrap();
    load(&Input {
        overlay: overlay(&settings),
        environment: environment(),
        ..input(&file)
    })
}

fn spec(loaded: &Loaded) -> &Spec {
    loaded
        .spec
        .as_ref()
        .unwrap_or_else(|| panic!("{}", show(loaded)))
}

fn slugs(loaded: &Loaded) -> Vec<&str> {
    let slugs = loaded.diagnostics.iter().map(|d| d.slug);
    slugs
        .filter(|slug| *slug != "public-without-auth")
        .collect()
}

const LEGS: &str = "version = 1\n[[pools]]\nname = 'default'\n\
    prefill.workers = ['http://p:1']\ndecode.workers = ['http://d:1', 'http://e:1']\n";
const FLAT: &str = "version = 1\n[[pools]]\nname = 'default'\nworkers = ['http://a', 'http://b']\n";

#[test]
fn an_option_fits_a_policy_however_it_is_written() {
    let threshold: &[(&str, &[&str])] = &[("cache-threshold", &["0.7"])];
    let tree = |text: &str| {
        let loaded = with(&format!("{FLAT}{text}"), threshold, &[]);
        assert!(slugs(&loaded).is_empty(), "{}", show(&loaded));
        let origin = loaded
            .origins
            .of("routing.policy.cache_aware.cache_threshold");
        assert_eq!(origin, Origin::Flag("--cache-threshold".into()));
        match &spec(&loaded).routing.policy {
            Policy::CacheAware(options) => options.clone(),
            other => panic!("{other:?}"),
        }
    };
    let plain = CacheAware {
        cache_threshold: Some(0.7),
        ..CacheAware::default()
    };
    assert_eq!(plain.runs(), Algorithm::Tree);
    for text in ["", "[routing]\n", "[routing]\npolicy = 'cache-aware'\n"] {
        assert_eq!(tree(text), plain, "{text}");
    }
    let text = "[routing]\npolicy.cache-aware = { cache_threshold = 0.1, memory = '1MiB' }\n";
    let memory = ByteSize::mib(1);
    assert_eq!(tree(text), CacheAware { memory, ..plain });
}

#[test]
fn an_option_of_a_policy_that_is_not_in_force_is_a_warning() {
    let loaded = with(
        FLAT,
        &[("policy", &["random"]), ("cache-threshold", &["0.7"])],
        &[("SMG_MAX_IDLE_SECS", "60")],
    );
    assert_eq!(spec(&loaded).routing.policy, Policy::Random);
    assert_eq!(
        slugs(&loaded),
        ["no-effect", "no-effect"],
        "{}",
        show(&loaded)
    );
    let places: Vec<_> = loaded
        .diagnostics
        .iter()
        .filter_map(|d| d.primary.clone())
        .collect();
    assert!(
        places.contains(&Place::Flag("--cache-threshold".into())),
        "{places:?}"
    );
    assert!(
        places.contains(&Place::Environment("SMG_MAX_IDLE_SECS".into())),
        "{places:?}"
    );
    assert!(show(&loaded).contains("no policy in force is `cache_aware`"));
    // What only `tree` reads does not turn it on.
    let loaded = with(FLAT, &[("max-tree-size", &["5"])], &[]);
    assert_eq!(slugs(&loaded), ["no-effect"], "{}", show(&loaded));
    let loaded = with(
        FLAT,
        &[("max-tree-size", &["5"]), ("cache-threshold", &["1"])],
        &[],
    );
    assert!(slugs(&loaded).is_empty(), "{}", show(&loaded));
}

#[test]
fn an_option_reaches_every_policy_of_its_kind() {
    let text = format!("{LEGS}prefill.policy = 'bucket'\ndecode.policy = 'cache_aware'\n");
    let loaded = with(
        &text,
        &[
            ("balance-abs-threshold", &["7"]),
            ("eviction-interval", &["5"]),
            ("policy", &["manual"]),
        ],
        &[
            ("SMG_BALANCE_ABS_THRESHOLD", "9"),
            ("SMG_ASSIGNMENT_MODE", "min-load"),
        ],
    );
    let spec = spec(&loaded);
    let pool = &spec.pools[0];
    assert_eq!(
        spec.routing.policy,
        Policy::Manual(Manual {
            eviction_interval: Millis::secs(5),
            assignment_mode: AssignmentMode::MinLoad,
            ..Manual::default()
        })
    );
    assert_eq!(
        pool.prefill.as_ref().unwrap().policy,
        Some(Policy::Bucket(Bucket {
            balance_abs_threshold: 7,
            ..Bucket::default()
        }))
    );
    assert_eq!(
        pool.decode.as_ref().unwrap().policy,
        Some(Policy::CacheAware(CacheAware {
            balance_abs_threshold: Some(7),
            eviction_interval: Some(Millis::secs(5)),
            ..CacheAware::default()
        }))
    );
    assert!(slugs(&loaded).is_empty(), "{}", show(&loaded));
    // The policy of a model is its own.
    let text = format!("{FLAT}[[models]]\nname = 'm'\npolicy = 'bucket'\n");
    let loaded = with(&text, &[("bucket-adjust-interval-secs", &["9"])], &[]);
    assert_eq!(slugs(&loaded), ["no-effect"]);
}

#[test]
fn a_policy_over_a_table_of_its_own_keeps_the_options() {
    let text = format!("{FLAT}[routing]\npolicy.prefix-hash = {{ load_factor = 2 }}\n");
    let kept = Policy::PrefixHash(PrefixHash {
        load_factor: 2.0,
        ..PrefixHash::default()
    });
    let loaded = with(&text, &[("policy", &["prefixhash"])], &[]);
    assert_eq!(spec(&loaded).routing.policy, kept);
    let origin = |key: &str| loaded.origins.of(key);
    assert_eq!(origin("routing.policy"), Origin::Flag("--policy".into()));
    let of_option = origin("routing.policy.prefix_hash.load_factor");
    assert!(
        matches!(of_option, Origin::File { line: 6, .. }),
        "{of_option}"
    );
    let dump = render_effective(&loaded, true).unwrap();
    assert!(dump.contains("[routing.policy.prefix_hash]\n"), "{dump}");
    assert!(
        dump.contains("prefix_token_count = 256  # default\n"),
        "{dump}"
    );
    assert!(dump.contains("load_factor = 2.0  # /"), "{dump}");

    let loaded = with(
        &text,
        &[("policy", &["random"])],
        &[("SMG_POLICY", "manual")],
    );
    assert_eq!(spec(&loaded).routing.policy, Policy::Random);
    let legs = format!("{LEGS}prefill.policy.prefix_hash = {{ load_factor = 2 }}\n");
    let loaded = with(&legs, &[("prefill-policy", &["prefix_hash"])], &[]);
    let prefill = spec(&loaded).pools[0].prefill.as_ref().unwrap();
    assert_eq!(prefill.policy, Some(kept));
}

#[test]
fn legs_from_flags() {
    let flags: &[(&str, &[&str])] = &[
        ("prefill", &["http://p:1 9001", "http://q:1"]),
        ("decode", &["http://d:1", "http://e:1"]),
        ("decode-policy", &["power-of-two"]),
        ("policy", &["prefix_hash"]),
    ];
    let loaded = with("version = 1\n", flags, &[]);
    let pool = &spec(&loaded).pools[0];
    let (prefill, decode) = (
        pool.prefill.as_ref().unwrap(),
        pool.decode.as_ref().unwrap(),
    );
    assert_eq!(pool.name, "default");
    assert_eq!(prefill.workers[0].bootstrap_port, Some(9001));
    assert_eq!(prefill.workers[1].bootstrap_port, None);
    assert_eq!(prefill.policy, None, "it inherits");
    assert_eq!(decode.workers[1].url.as_str(), "http://e:1");
    assert_eq!(decode.policy, Some(Policy::PowerOfTwo));
    assert!(slugs(&loaded).is_empty(), "{}", show(&loaded));
    let port = loaded
        .origins
        .of("pools[0].prefill.workers[0].bootstrap_port");
    assert_eq!(port, Origin::Flag("--prefill".into()));

    let environ = [
        ("SMG_PREFILL", "http://p:1 9001, http://q:1 none"),
        ("SMG_DECODE", "http://d:1,http://e:1"),
        ("SMG_DECODE_POLICY", "poweroftwo"),
        ("SMG_POLICY", "prefixhash"),
    ];
    let same = with("version = 1\n", &[], &environ);
    assert_eq!(spec(&same), spec(&loaded));
    // A flag replaces the list of the file.
    let over = with(LEGS, &[("decode", &["http://x:1"])], &[]);
    let pool = &spec(&over).pools[0];
    assert_eq!(pool.decode.as_ref().unwrap().workers.len(), 1);
    assert_eq!(pool.prefill.as_ref().unwrap().workers.len(), 1);
}

#[test]
fn legs_that_cannot_be() {
    for (text, flags, found) in [
        (
            "version = 1\n",
            &[("prefill", &["http://p"][..])][..],
            "lone-leg",
        ),
        (
            "version = 1\n",
            &[("decode", &["http://d"][..])],
            "lone-leg",
        ),
        (
            FLAT,
            &[("pd-disaggregation", &["true"][..])],
            "workers-beside-legs",
        ),
        (
            LEGS,
            &[("worker-urls", &["http://w"][..])],
            "workers-beside-legs",
        ),
        (LEGS, &[("policy", &["bucket"][..])], "decode-by-length"),
        (LEGS, &[("backend", &["trtllm"][..])], "legs-of-runtime"),
    ] {
        let loaded = with(text, flags, &[]);
        let errors: Vec<&str> = loaded
            .diagnostics
            .iter()
            .filter(|d| d.is_error())
            .map(|d| d.slug)
            .collect();
        assert_eq!(errors, [found], "{flags:?}: {}", show(&loaded));
    }
}

#[test]
fn legs_without_workers_are_there_and_empty() {
    let loaded = with("version = 1\n", &[("pd-disaggregation", &["true"])], &[]);
    let pool = &spec(&loaded).pools[0];
    assert!(pool.prefill.is_some() && pool.decode.is_some());
    assert_eq!(
        slugs(&loaded),
        ["no-workers", "no-workers"],
        "{}",
        show(&loaded)
    );
    assert!(show(&loaded).contains("the `decode` leg of pool `default` has no workers"));
    let flags: &[(&str, &[&str])] = &[("pd-disaggregation", &["true"]), ("enable-igw", &["true"])];
    assert!(slugs(&with("version = 1\n", flags, &[])).is_empty());
    // Turned off it changes nothing, and a policy needs a leg.
    let loaded = with(LEGS, &[("pd-disaggregation", &["false"])], &[]);
    assert!(spec(&loaded).pools[0].prefill.is_some());
    let loaded = with(FLAT, &[("prefill-policy", &["random"])], &[]);
    assert_eq!(slugs(&loaded), ["no-effect"], "{}", show(&loaded));
    assert!(spec(&loaded).pools[0].prefill.is_none());
}

#[test]
fn two_choices_need_two_workers_in_each_leg() {
    let one_choice = |text: &str, flags: &[(&str, &[&str])]| {
        let loaded = with(text, flags, &[]);
        spec(&loaded);
        slugs(&loaded)
            .iter()
            .filter(|slug| **slug == "one-choice")
            .count()
    };
    let two: &[(&str, &[&str])] = &[("policy", &["power_of_two"])];
    assert_eq!(one_choice(LEGS, two), 1);
    assert_eq!(one_choice(FLAT, two), 0);
    assert_eq!(one_choice(LEGS, &[("decode-policy", &["power_of_two"])]), 0);
    assert_eq!(
        one_choice(LEGS, &[("prefill-policy", &["power_of_two"])]),
        1
    );
    assert_eq!(
        one_choice(LEGS, &[two[0], ("prefill-policy", &["random"])]),
        0
    );
    assert_eq!(one_choice(LEGS, &[two[0], ("enable-igw", &["true"])]), 0);
    let model = format!("{LEGS}[[models]]\nname = 'm'\npolicy = 'power_of_two'\n");
    assert_eq!(one_choice(&model, &[]), 1);
}

#[test]
fn a_gateway_of_many_models_may_start_without_workers() {
    let text = "version = 1\n[[models]]\nname = 'm'\npool = 'default'\n";
    let loaded = with(text, &[], &[]);
    assert_eq!(
        slugs(&loaded),
        ["model-without-workers", "no-workers"],
        "{}",
        show(&loaded)
    );
    let loaded = with(text, &[("enable-igw", &["true"])], &[]);
    assert!(slugs(&loaded).is_empty(), "{}", show(&loaded));
}

/// Every spelling and form of a policy that the loader takes, the schema takes, and no other.
#[test]
fn the_schema_knows_every_form_of_a_policy() {
    let schema = smg::config::json_schema();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let judged = |policy: &str| {
        let text = format!("version = 1\n[[models]]\nname = 'm'\npolicy = {policy}\n");
        let value: toml::Value = toml::from_str(&text).unwrap();
        let by_schema = validator.is_valid(&serde_json::to_value(value).unwrap());
        let by_loader = with(&text, &[], &[]).spec.is_some();
        (by_schema, by_loader)
    };
    let words = smg::config::spec::PolicyName::WORDS;
    for word in words {
        for spelling in [*word, &word.replace('_', "-"), &word.replace('_', "")] {
            assert_eq!(judged(&format!("'{spelling}'")), (true, true), "{spelling}");
            let table = format!("{{ {spelling} = {{}} }}");
            assert_eq!(judged(&table), (true, true), "{table}");
            let table = format!("{{ {spelling} = {{ zzz = 1 }} }}");
            assert_eq!(judged(&table), (false, false), "{table}");
        }
    }
    for good in [
        "{ cache-aware = { cache_threshold = 0.5, memory = '1MiB' } }",
        "{ leastload = { default_throughput = 5 } }",
        "{ manual = { assignment_mode = 'min_load', max_idle = '1h' } }",
    ] {
        assert_eq!(judged(good), (true, true), "{good}");
    }
    for bad in [
        "'best'",
        "'Random'",
        "5",
        "{}",
        "{ best = {} }",
        "{ random = {}, manual = {} }",
        "{ cache_aware = { cache_threshold = '0.5' } }",
        "{ cacheaware = { max_idle = '1h' } }",
        "{ bucket = 'x' }",
    ] {
        assert_eq!(judged(bad), (false, false), "{bad}");
    }
}
