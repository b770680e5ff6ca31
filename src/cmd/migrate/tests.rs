//! What is printed, judged by what a gateway makes of it.

use std::ffi::OsString;

use proptest::prelude::*;
use serde_yaml::Value as Yaml;

use super::dialect::Dialect;
use super::document::Document;
use super::from_flags::{Typed, convert};
use super::litellm;
use crate::cmd::{arguments, command, given};
use crate::config::cli::flag::{Flag, Kind};
use crate::config::cli::overlay::overlay;
use crate::config::cli::table::FLAGS;
use crate::config::{Environment, Format, Input, Loaded, Secrets, load, render, render_effective};
use crate::plan::{Facts, compile};

fn input() -> Input {
    Input {
        environment: Environment::from_iter::<[(String, String); 0]>([]),
        secrets: Secrets::Note,
        ..Input::default()
    }
}

/// The text as a gateway reads it.
fn read(text: &str) -> Loaded {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("smg.toml");
    std::fs::write(&file, text).unwrap();
    let loaded = load(&Input {
        file: Some(file),
        ..input()
    });
    assert!(
        loaded.spec.is_some(),
        "{}\n{text}",
        render(&loaded.diagnostics, Format::Human)
    );
    loaded
}

fn words(words: &[&str]) -> Typed {
    Typed::Words(words.iter().map(|word| (*word).to_owned()).collect())
}

fn from_flags(text: &str) -> Document {
    convert(Typed::Text(text.to_owned()), None, false).unwrap()
}

/// What a gateway with these flags does.
fn with_flags(args: &[String]) -> Loaded {
    let args = std::iter::once("smg").chain(args.iter().map(String::as_str));
    let matches = command::command()
        .try_get_matches_from(arguments::joined(args.map(OsString::from)))
        .unwrap();
    load(&Input {
        overlay: overlay(&given::flags(&[&matches])),
        ..input()
    })
}

/// Values that a flag can have, one of them or several.
fn values(flag: &'static Flag) -> BoxedStrategy<Vec<String>> {
    let one = |words: &'static [&'static str]| {
        prop::sample::select(words)
            .prop_map(|word| vec![word.to_owned()])
            .boxed()
    };
    let many = |words: &'static [&'static str]| {
        prop::sample::subsequence(words, 1..=words.len())
            .prop_map(|words| words.iter().map(|word| (*word).to_owned()).collect())
            .boxed()
    };
    match flag.kind {
        Kind::Switch => Just(Vec::new()).boxed(),
        Kind::Path => one(&["/etc/smg/a.pem", "/x y/$z", "/${A}/\"q\""]),
        Kind::Host => one(&["127.0.0.1", "::", "gw.example.com"]),
        Kind::Port | Kind::FixedPort => (1u16..).prop_map(|n| vec![n.to_string()]).boxed(),
        Kind::Number | Kind::Long => (1u32..100_000).prop_map(|n| vec![n.to_string()]).boxed(),
        Kind::Limit => one(&["-1", "1", "400"]),
        Kind::Float => one(&["0.5", "1", "1.5", "2"]),
        Kind::Seconds | Kind::Millis => one(&["1", "90", "2m", "1500ms"]),
        Kind::Size => one(&["1024", "16MiB", "100MB"]),
        Kind::Threads => one(&["auto", "2"]),
        Kind::UrlPath => one(&["/health", "/v1/$x"]),
        Kind::Secret => one(&["canary-1", "canary$2", "${CANARY}"]),
        Kind::Policy
        | Kind::DecodePolicy
        | Kind::AssignmentMode
        | Kind::Runtime
        | Kind::LogLevel => one(flag.kind.words().unwrap()),
        Kind::Urls => many(&["http://a:1", "https://b:2/x", "http://[::1]:3"]),
        Kind::Prefill => one(&["http://p:1", "http://p:2 9001", "http://p:3 none"]),
        Kind::Origins => one(&["https://a.example", "*"]),
        Kind::Headers => many(&["x-a", "x-b"]),
        Kind::Floats => many(&["0.1", "1", "10"]),
        Kind::Aliases => many(&["a=m/x", "b=m/x", "c=\"n\""]),
        Kind::Text => one(&["localhost:4317", "a\"b\\", "x${Y}"]),
        Kind::Url => one(&["https://id.example/x"]),
        Kind::Paths => many(&["/a.pem", "/b.pem"]),
        Kind::TenantKeys => one(&["team:canary-3", "t e:canary:4"]),
        Kind::OperatorKeys => many(&["k1:Ann:admin:canary-5", "k2:Bob:user:canary-6"]),
        Kind::Roles => many(&["a=admin", "b.c=user"]),
    }
}

/// Flags of our own, any of them once.
fn command_line() -> impl Strategy<Value = Vec<String>> {
    let usable: Vec<usize> = (0..FLAGS.len())
        .filter(|i| FLAGS[*i].name != "config")
        .collect();
    prop::sample::subsequence(usable, 0..12)
        .prop_flat_map(|chosen| {
            let flags: Vec<_> = chosen
                .into_iter()
                .map(|i| (Just(&FLAGS[i]), values(&FLAGS[i])))
                .collect();
            flags
        })
        .prop_map(|flags| {
            let mut args = Vec::new();
            for (flag, values) in flags {
                args.push(flag.dashed());
                match flag.kind {
                    Kind::Prefill => {
                        args.extend(values[0].split(' ').map(str::to_owned));
                    }
                    _ => args.extend(values),
                }
            }
            args
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// The file means what the flags mean.
    #[test]
    fn our_own_flags_mean_the_same_in_the_file(args in command_line()) {
        let own = with_flags(&args);
        let line = std::iter::once("smg".to_owned()).chain(args.iter().cloned());
        let document = convert(Typed::Words(line.collect()), None, true);
        let document = match document {
            Ok(document) => document,
            Err(error) => {
                prop_assert!(own.spec.is_none(), "{error}");
                return Ok(());
            }
        };
        let text = document.render();
        prop_assert!(!text.contains("canary"), "{text}");
        let file = read(&text);
        if own.spec.is_none() {
            return Ok(());
        }
        prop_assert_eq!(
            render_effective(&own, false).unwrap(),
            render_effective(&file, false).unwrap(),
            "{}", text
        );
        if !text.contains("{ env = ") {
            let plan = |loaded: &Loaded| {
                let spec = loaded.spec.as_ref().unwrap();
                serde_json::to_string(&compile(spec, &Facts::default())).unwrap()
            };
            prop_assert_eq!(plan(&own), plan(&file));
        }
    }

    /// The same flags in another dialect are a file, too.
    #[test]
    fn every_dialect_makes_valid_files(args in command_line(), dialect in 0usize..4) {
        let dialect = Dialect::named(Dialect::WORDS[dialect]);
        let line = std::iter::once("smg".to_owned()).chain(args);
        if let Ok(document) = convert(Typed::Words(line.collect()), dialect, false) {
            read(&document.render());
        }
    }

    #[test]
    fn any_text_is_a_file_or_an_error(text in "(smg |--[a-z-]{1,9}|[ -~]{0,12}|\\PC{0,8}| |\n|'|\"|\\$\\{[A-Z]\\}){0,12}") {
        if let Ok(document) = convert(Typed::Text(text), None, false) {
            read(&document.render());
        }
    }

    /// Whatever stands in the YAML.
    #[test]
    fn any_yaml_is_a_file_or_an_error(yaml in litellm_file()) {
        let text = serde_yaml::to_string(&yaml).unwrap();
        match litellm::convert(&text) {
            Ok(document) => {
                let file = document.render();
                prop_assert!(!file.contains("canary"), "{file}");
                prop_assert!(!document.warnings().contains("canary"));
                read(&file);
            }
            Err(error) => {
                prop_assert!(!matches!(error, litellm::ImportError::Unfit(_)), "{error}\n{text}");
                prop_assert!(!error.to_string().contains("canary"));
            }
        }
    }
}

fn scalar() -> impl Strategy<Value = Yaml> {
    prop_oneof![
        Just(Yaml::Null),
        any::<bool>().prop_map(Yaml::from),
        any::<i64>().prop_map(Yaml::from),
        (-10i64..1000).prop_map(Yaml::from),
        any::<f64>().prop_map(Yaml::from),
        "\\PC{0,12}".prop_map(Yaml::from),
        prop::sample::select(
            &[
                "openai/gpt-4o",
                "hosted_vllm/m",
                "azure/x",
                "openai/*",
                "*",
                "team/*",
                "a",
                "b",
                "c",
                "a\nb",
                "x?",
                "$y",
                "${Z}",
                "os.environ/KEY",
                "os.environ/ ",
                "sk",
                "simple-shuffle",
                "least-busy",
                "http://a:1/v1",
                "http://b:2",
                "ftp://x",
                "http://u:canary@h",
                "",
            ][..]
        )
        .prop_map(Yaml::from),
    ]
}

fn anything() -> impl Strategy<Value = Yaml> {
    scalar().prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Yaml::from),
            mapping(
                &["a", "b", "c", "model", "model_name", "<<", "1"],
                inner.boxed()
            ),
        ]
    })
}

fn mapping(keys: &'static [&'static str], value: BoxedStrategy<Yaml>) -> BoxedStrategy<Yaml> {
    prop::collection::vec((prop::sample::select(keys), value), 0..6)
        .prop_map(|entries| {
            let mut map = serde_yaml::Mapping::new();
            for (key, value) in entries {
                map.insert(Yaml::from(key), value);
            }
            Yaml::Mapping(map)
        })
        .boxed()
}

fn litellm_file() -> impl Strategy<Value = Yaml> {
    const PARAMS: &[&str] = &[
        "api_base",
        "api_base",
        "api_key",
        "rpm",
        "weight",
        "timeout",
        "max_retries",
        "custom_llm_provider",
        "temperature",
    ];
    const SETTINGS: &[&str] = &[
        "routing_strategy",
        "num_retries",
        "timeout",
        "request_timeout",
        "stream_timeout",
        "allowed_fails",
        "cooldown_time",
        "fallbacks",
        "model_group_alias",
        "json_logs",
        "set_verbose",
        "global_max_parallel_requests",
        "max_request_size_mb",
        "disable_cooldowns",
        "health_check_interval",
        "cache",
        "retry_after",
        "other",
    ];
    let name = prop::sample::select(&["a", "b", "c", "*", "x/*", "a b", "ü", "a.b", "A"][..]);
    let model = prop::sample::select(&["openai/a", "hosted_vllm/b", "openai/*", "groq/x", "b"][..]);
    let deployment =
        (name, model, mapping(PARAMS, anything().boxed())).prop_map(|(name, model, mut params)| {
            let map = params.as_mapping_mut().unwrap();
            map.insert(Yaml::from("model"), Yaml::from(model));
            map.entry(Yaml::from("api_base"))
                .or_insert(Yaml::from("http://a:1/v1"));
            let mut item = serde_yaml::Mapping::new();
            item.insert(Yaml::from("model_name"), Yaml::from(name));
            item.insert(Yaml::from("litellm_params"), params);
            Yaml::Mapping(item)
        });
    let item = prop_oneof![6 => deployment, 1 => anything()];
    let list = prop_oneof![
        8 => prop::collection::vec(item, 0..6).prop_map(Yaml::from),
        1 => anything(),
    ];
    let names = prop::sample::select(&["a", "b", "c", "A", "*", "ü"][..]);
    let fallbacks = prop::collection::vec(
        (names.clone(), prop::collection::vec(names, 0..3)).prop_map(|(from, to)| {
            let mut map = serde_yaml::Mapping::new();
            map.insert(Yaml::from(from), Yaml::from(to));
            Yaml::Mapping(map)
        }),
        0..5,
    );
    let settings = prop_oneof![4 => mapping(SETTINGS, anything().boxed()), 1 => anything()];
    (list, settings.clone(), settings, fallbacks, anything()).prop_map(
        |(list, mut router, general, fallbacks, rest)| {
            if let Some(router) = router.as_mapping_mut() {
                router.insert(Yaml::from("fallbacks"), Yaml::from(fallbacks));
            }
            let mut general = general;
            if let Some(general) = general.as_mapping_mut() {
                general.insert(Yaml::from("master_key"), Yaml::from("canary"));
            }
            let mut root = serde_yaml::Mapping::new();
            for (key, value) in [
                ("model_list", list),
                ("router_settings", router),
                ("general_settings", general),
                ("environment_variables", rest),
            ] {
                root.insert(Yaml::from(key), value);
            }
            Yaml::Mapping(root)
        },
    )
}

#[test]
fn values_that_are_refused() {
    for (line, message) in [
        (
            &["smg", "--port", "x"][..],
            "invalid value `x` for `--port`",
        ),
        (&["smg", "--port"], "`--port` needs a value"),
        (&["smg", "8080"], "argument 1 belongs to no flag"),
        (
            &["smg", "--dp-aware", "yes"],
            "the flag before it is `--dp-aware`",
        ),
        (&["smg", "--help"], "prints something"),
        (
            &["smg", "--worker-urls", "http://u:canary@h:1"],
            "no user and no password",
        ),
        (
            &["smg", "--tenant-api-key", "canary"],
            "expected `TENANT:KEY`",
        ),
        (
            &["smg", "--control-plane-api-keys", "a:canary"],
            "expected `ID:NAME:ROLE:KEY`",
        ),
        (&["smg", "reload"], "not a command that starts a gateway"),
        (&["ls"], "there is no launch command"),
        (
            &["SMG_PORT=x", "smg"],
            "invalid value `x` for variable `SMG_PORT`",
        ),
    ] {
        let error = convert(words(line), None, false).unwrap_err().to_string();
        assert!(error.contains(message), "{line:?}: {error}");
        assert!(!error.contains("canary"), "{error}");
    }
    let error = convert(Typed::Text("smg --port $PORT".to_owned()), None, false).unwrap_err();
    assert!(error.to_string().contains("write it out"), "{error}");
    let strict = convert(words(&["smg", "--prot", "1"]), None, true).unwrap_err();
    assert_eq!(strict.to_string(), "--prot not known");
}

#[test]
fn secrets_become_variables() {
    let document = from_flags(
        "SMG_CONTROL_PLANE_API_KEYS=k9:Eve:admin:canary-0 smg --api-key canary-1 --worker-api-key \
         \"${WORKER_KEY}\" --tenant-api-key a:canary-2 --tenant-api-key a:canary-3 --tenant-api-key \
         b:canary-2",
    );
    let text = document.render();
    assert!(!text.contains("canary"), "{text}");
    for line in [
        "api_key = { env = \"SMG_API_KEY\" }  # --api-key",
        "api_key = { env = \"WORKER_KEY\" }  # --worker-api-key",
        "  { env = \"SMG_KEY_OF_A\" },",
        "  { env = \"SMG_KEY_OF_A_2\" },",
        "key = { env = \"SMG_ADMIN_KEY_K9\" }",
    ] {
        assert!(text.lines().any(|l| l == line), "{line}\n{text}");
    }
    read(&text);
}

#[test]
fn nothing_of_a_word_ends_a_comment() {
    let typed = words(&[
        "smg",
        "--foo\n[evil]",
        "--log-dir",
        "/a\nb",
        "--x\u{1b}[31m",
    ]);
    let text = convert(typed, None, false).unwrap().render();
    assert!(
        !text.contains("\n[evil]") && !text.contains('\u{1b}'),
        "{text}"
    );
    read(&text);
}
