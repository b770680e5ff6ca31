//! The config loader against files: golden diagnostics, golden plans, precedence, secrets.
//!
//! A case is a file: `fixtures/config/ok/x.toml` must load (what it warns of is `x.warn`),
//! `fixtures/config/bad/x.toml` must not (what is said is `x.err`). A case of several files is a
//! folder with `smg.toml`. `UPDATE_GOLDEN=1 cargo test --test config` writes the goldens anew.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Instant;

use smg::base::units::Millis;
use smg::config::diag::Place;
use smg::config::spec::{Policy, Serve, WorkerThreads};
use smg::config::{
    Diagnostic, Environment, Format, Given, Input, Loaded, Origin, Overlay, Secrets, Severity,
    Target, load, render, render_effective,
};

/// What no output may show. Every secret of the fixtures contains it.
const CANARY: &str = "canary";

fn environment() -> Environment {
    [
        ("WORKER_KEY", "canary-from-environment"),
        ("EMPTY_KEY", ""),
        ("NAME", "main"),
        ("HOST", "10.0.0.9"),
    ]
    .into_iter()
    .collect()
}

fn input(file: &Path) -> Input {
    Input {
        file: Some(file.to_owned()),
        environment: environment(),
        ..Input::default()
    }
}

/// The first files of all cases of a kind, named from the root of the project.
fn cases(kind: &str) -> Vec<PathBuf> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(Path::new("fixtures/config").join(kind)).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            assert!(
                path.join("smg.toml").is_file(),
                "{} has no smg.toml",
                path.display()
            );
            out.push(path.join("smg.toml"));
        } else if path.extension().is_some_and(|e| e == "toml") {
            out.push(path);
        }
    }
    out.sort();
    assert!(!out.is_empty());
    out
}

/// Compares with a golden file, or writes it. Nothing to say means no file.
fn golden(path: &Path, text: &str) -> Result<(), String> {
    let present = std::fs::read_to_string(path).unwrap_or_default();
    if present == text {
        return Ok(());
    }
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        if text.is_empty() {
            std::fs::remove_file(path).unwrap();
        } else {
            std::fs::write(path, text).unwrap();
        }
        return Ok(());
    }
    Err(format!("{} differs; it would be:\n{text}", path.display()))
}

fn show(loaded: &Loaded) -> String {
    render(&loaded.diagnostics, Format::Human)
}

fn loads(text: &str) -> Loaded {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("smg.toml");
    std::fs::write(&file, text).unwrap();
    load(&input(&file))
}

#[test]
fn good_files_load_and_warn_as_written() {
    let mut failures = Vec::new();
    for file in cases("ok") {
        let loaded = load(&input(&file));
        assert!(
            loaded.spec.is_some(),
            "{}:\n{}",
            file.display(),
            show(&loaded)
        );
        failures.extend(golden(&file.with_extension("warn"), &show(&loaded)).err());
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn bad_files_are_refused_as_written() {
    let mut failures = Vec::new();
    for file in cases("bad") {
        let loaded = load(&input(&file));
        assert!(
            loaded.spec.is_none() && loaded.has_errors(),
            "{} loads",
            file.display()
        );
        failures.extend(golden(&file.with_extension("err"), &show(&loaded)).err());
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Every file below the fixtures is a case, part of one, or a golden of one.
#[test]
fn every_fixture_is_used() {
    fn walk(folder: &Path, out: &mut BTreeSet<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, out)
            } else {
                drop(out.insert(path))
            }
        }
    }
    let mut unused = BTreeSet::new();
    walk(Path::new("fixtures/config"), &mut unused);
    for (kind, goldens) in [("ok", ["warn", "plan.json"]), ("bad", ["err", "err"])] {
        for file in cases(kind) {
            for extension in goldens {
                unused.remove(&file.with_extension(extension));
            }
            for read in load(&input(&file)).files {
                if let Ok(read) = std::fs::canonicalize(&read) {
                    let root = std::fs::canonicalize(".").unwrap();
                    unused.remove(read.strip_prefix(root).unwrap());
                }
            }
        }
    }
    assert!(unused.is_empty(), "{unused:?}");
}

/// Closed tables of a TOML text: the offsets where a key can be added, how to add it, and whether
/// the table is open.
mod plant {
    use std::ops::Range;

    use toml::Spanned;
    use toml::de::{DeTable, DeValue};

    /// The key that no table knows.
    pub(crate) const WEED: &str = "zzz_weed";

    /// A way to add the weed: the text to insert and where.
    pub(crate) struct Spot {
        pub(crate) path: String,
        offset: usize,
        before: &'static str,
        after: &'static str,
    }

    impl Spot {
        /// The text with the weed, and the line and column of it.
        pub(crate) fn plant(&self, text: &str) -> (String, usize, usize) {
            let (head, tail) = text.split_at(self.offset);
            let before = format!("{head}{}", self.before);
            let line = before.matches('\n').count() + 1;
            let column = before.rsplit('\n').next().unwrap().chars().count() + 1;
            (
                format!("{before}{WEED} = 1{}{tail}", self.after),
                line,
                column,
            )
        }
    }

    pub(crate) fn spots(text: &str) -> Vec<Spot> {
        let mut out = vec![Spot {
            path: String::new(),
            offset: 0,
            before: "",
            after: "\n",
        }];
        table(text, DeTable::parse(text).unwrap().get_ref(), "", &mut out);
        out
    }

    fn table(text: &str, table: &DeTable<'_>, path: &str, out: &mut Vec<Spot>) {
        for (key, value) in table {
            let key = key.get_ref();
            // Any key may stand in these.
            if key == "labels" {
                continue;
            }
            let path = if path.is_empty() {
                key.to_string()
            } else {
                format!("{path}.{key}")
            };
            node(text, value, &path, out);
        }
    }

    fn node(text: &str, value: &Spanned<DeValue<'_>>, path: &str, out: &mut Vec<Spot>) {
        match value.get_ref() {
            DeValue::Table(inner) => {
                out.extend(spot(text, value.span(), path));
                table(text, inner, path, out);
            }
            DeValue::Array(items) => {
                for (i, item) in items.iter().enumerate() {
                    node(text, item, &format!("{path}[{i}]"), out);
                }
            }
            _ => {}
        }
    }

    fn spot(text: &str, span: Range<usize>, path: &str) -> Option<Spot> {
        let written = text.get(span.clone())?;
        let path = path.to_owned();
        if written.starts_with('{') {
            let after = if written.trim_matches(['{', '}', ' ']).is_empty() {
                ""
            } else {
                ", "
            };
            return Some(Spot {
                path,
                offset: span.start + 1,
                before: " ",
                after,
            });
        }
        // Only a table with a header of its own has a place for more keys.
        written.starts_with('[').then(|| Spot {
            path,
            offset: span.end,
            before: "\n",
            after: "",
        })
    }
}

#[test]
fn an_unknown_key_is_found_in_every_closed_table() {
    let mut planted = 0;
    let mut paths = BTreeSet::new();
    for file in cases("ok") {
        let text = std::fs::read_to_string(&file).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let copy = dir.path().join("smg.toml");
        for spot in plant::spots(&text) {
            let (weedy, line, column) = spot.plant(&text);
            std::fs::write(&copy, &weedy).unwrap();
            let loaded = load(&input(&copy));
            let found = loaded.diagnostics.iter().any(|d| {
                d.slug == "unknown-key"
                    && matches!(&d.primary, Some(Place::File(spot))
                        if (spot.line, spot.column) == (line, column))
            });
            assert!(
                found,
                "{} at {line}:{column} in `{}` of {}:\n{}",
                plant::WEED,
                spot.path,
                file.display(),
                show(&loaded)
            );
            planted += 1;
            paths.insert(spot.path);
        }
    }
    assert!(planted > 40, "{planted}");
    for path in [
        "",
        "listeners[0].limits",
        "pools[0].workers[1]",
        "models[1].policy.round_robin",
    ] {
        assert!(paths.contains(path), "{path} is not among {paths:?}");
    }
}

#[test]
fn nothing_shows_a_secret() {
    for file in cases("ok").into_iter().chain(cases("bad")) {
        for secrets in [Secrets::Require, Secrets::Note] {
            let loaded = load(&Input {
                secrets,
                ..input(&file)
            });
            let mut outputs: Vec<String> =
                [Format::Human, Format::Json, Format::Github, Format::Sarif]
                    .map(|format| render(&loaded.diagnostics, format))
                    .into();
            outputs.push(format!("{:?}", loaded.spec));
            outputs.push(format!("{:?}", loaded.diagnostics));
            outputs.push(serde_json::to_string(&loaded.spec).unwrap());
            outputs.extend(render_effective(&loaded, true).ok());
            for output in outputs {
                assert!(!output.contains(CANARY), "{}:\n{output}", file.display());
            }
        }
    }
}

#[test]
fn secrets_are_read_from_where_they_are() {
    let spec = load(&input(Path::new("fixtures/config/ok/every_key.toml")))
        .spec
        .unwrap();
    let pool = &spec.pools[0];
    assert_eq!(
        pool.api_key.as_ref().unwrap().expose(),
        Some("canary-worker-key")
    );
    let own = pool.workers[1].api_key.as_ref().unwrap();
    assert_eq!(own.expose(), Some("canary-from-environment"));

    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("worker"), "canary-credential\r\n").unwrap();
    let file = dir.path().join("smg.toml");
    std::fs::write(
        &file,
        "version = 1\n[[pools]]\nname = 'p'\napi_key.credential = 'worker'\n",
    )
    .unwrap();
    let folder = dir.path().display().to_string();
    let loaded = load(&Input {
        environment: [("CREDENTIALS_DIRECTORY", folder)].into_iter().collect(),
        ..input(&file)
    });
    let spec = loaded.spec.unwrap();
    assert_eq!(
        spec.pools[0].api_key.as_ref().unwrap().expose(),
        Some("canary-credential")
    );
    assert_eq!(loaded.files, [file, dir.path().join("worker")]);
}

#[test]
fn absent_secrets_and_variables_are_notes_away_from_home() {
    let text = "version = 1\n[[pools]]\nname = 'p'\nworkers = ['http://${NO_HOST}:1', 'http://h']\n\
        api_key.env = 'NO_KEY'\n";
    assert_eq!(
        loads(text)
            .diagnostics
            .iter()
            .filter(|d| d.is_error())
            .count(),
        2
    );
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("smg.toml");
    std::fs::write(&file, text).unwrap();
    let loaded = load(&Input {
        secrets: Secrets::Note,
        ..input(&file)
    });
    assert!(!loaded.has_errors(), "{}", show(&loaded));
    assert_eq!(
        loaded
            .diagnostics
            .iter()
            .filter(|d| d.severity == Severity::Note)
            .count(),
        2,
        "{}",
        show(&loaded)
    );
}

#[test]
fn variables_expand_in_strings_only() {
    let loaded = load(&input(Path::new("fixtures/config/ok/interpolation.toml")));
    let spec = loaded.spec.unwrap();
    assert_eq!(spec.listeners[0].name, "main");
    assert_eq!(spec.listeners[0].address.to_string(), "127.0.0.1:30001");
    assert_eq!(
        spec.pools[0].workers[0].url.as_str(),
        "http://10.0.0.9:8000"
    );
    let key = spec.pools[0].api_key.as_ref().unwrap();
    assert_eq!(key.expose(), Some("canary-from-environment"));
    assert_eq!(spec.models[0].name, "price-$5-$x");
    // What a variable holds is a value, never more TOML.
    let env = [("EVIL", "x\"\n[server]\nrequest_timeout = \"1s")]
        .into_iter()
        .collect();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("smg.toml");
    std::fs::write(&file, "version = 1\n[[models]]\nname = \"${EVIL}\"\n").unwrap();
    let loaded = load(&Input {
        environment: env,
        ..input(&file)
    });
    assert!(
        loaded.diagnostics.iter().any(|d| d.slug == "name"),
        "{}",
        show(&loaded)
    );
}

#[test]
fn included_files_merge_in_order_and_resolve_their_own_paths() {
    let loaded = load(&input(Path::new("fixtures/config/ok/include/smg.toml")));
    let spec = loaded.spec.as_ref().unwrap();
    let names: Vec<_> = spec.pools.iter().map(|pool| pool.name.as_str()).collect();
    assert_eq!(names, ["first", "second"]);
    assert_eq!(
        spec.pools[1].api_key.as_ref().unwrap().expose(),
        Some("canary-worker-key")
    );
    assert_eq!(
        spec.models
            .iter()
            .map(|m| m.name.as_str())
            .collect::<Vec<_>>(),
        ["m", "n"]
    );
    assert_eq!(spec.server.request_timeout, Millis::secs(600));
    assert_eq!(spec.server.sse_keepalive, Millis::ZERO);
    assert_eq!(spec.routing.policy, Policy::Random);
    assert_eq!(
        loaded.origins.of("routing.policy").to_string(),
        "fixtures/config/ok/include/conf.d/deep/more.toml:2:10"
    );
    assert!(loaded.files.len() >= 6, "{:?}", loaded.files);
    let folders: Vec<_> = loaded
        .directories
        .iter()
        .map(|d| d.display().to_string())
        .collect();
    for folder in ["", "/conf.d", "/conf.d/deep", "/nothing"] {
        let folder = format!("fixtures/config/ok/include{folder}");
        assert!(
            folders.contains(&folder),
            "{folder} is not among {folders:?}"
        );
    }
}

#[test]
fn without_a_file_there_are_defaults() {
    let mut overlay = Overlay::default();
    overlay.set(
        Target::Pool("default".into(), "workers".into()),
        vec!["http://localhost:8000"],
        Given::Flag("--worker-urls".into()),
    );
    let loaded = load(&Input {
        overlay,
        environment: environment(),
        ..Input::default()
    });
    let spec = loaded.spec.as_ref().unwrap();
    assert_eq!(spec.listeners.len(), 2);
    assert_eq!(spec.listeners[0].address.to_string(), "0.0.0.0:30000");
    assert_eq!(
        spec.listeners[0].serve,
        [Serve::Inference, Serve::Admin, Serve::Probes]
    );
    assert_eq!(spec.listeners[1].name, "metrics");
    assert_eq!(
        spec.pools[0].workers[0].url.as_str(),
        "http://localhost:8000"
    );
    assert_eq!(spec.routing.policy, Policy::LeastLoad);
    assert_eq!(spec.server.worker_threads, WorkerThreads::Auto);
    assert_eq!(loaded.diagnostics.len(), 1, "{}", show(&loaded));
    assert_eq!(loaded.diagnostics[0].slug, "public-without-auth");

    let bare = load(&Input {
        environment: environment(),
        ..Input::default()
    });
    assert_eq!(bare.spec.unwrap(), smg::config::Spec::default());
    assert_eq!(
        bare.diagnostics
            .iter()
            .filter(|d| d.slug == "no-workers")
            .count(),
        1
    );
    assert_ne!(bare.sha256, loaded.sha256);
}

const TWO: &str = "version = 1\n[server]\nrequest_timeout = '1m'\nsse_keepalive = '2s'\n\
    [[listeners]]\nname = 'web'\naddress = '127.0.0.1:1'\nserve = ['inference']\n\
    [[listeners]]\nname = 'main'\naddress = '127.0.0.1:2'\nserve = ['probes']\n\
    [[pools]]\nname = 'default'\nworkers = ['http://a', 'http://b']\n";

fn with_overlay(text: &str, set: impl Fn(&mut Overlay)) -> Loaded {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("smg.toml");
    std::fs::write(&file, text).unwrap();
    let mut overlay = Overlay::default();
    set(&mut overlay);
    load(&Input {
        overlay,
        ..input(&file)
    })
}

fn flag(name: &str) -> Given {
    Given::Flag(name.to_owned())
}

fn env(name: &str) -> Given {
    Given::Env(name.to_owned())
}

#[test]
fn flag_before_variable_before_file_before_default() {
    let key = |key: &str| Target::Key(key.to_owned());
    let loaded = with_overlay(TWO, |overlay| {
        overlay.set(
            key("server.request_timeout"),
            "3m",
            flag("--request-timeout-secs"),
        );
        overlay.set(
            key("server.request_timeout"),
            "2m",
            env("SMG_REQUEST_TIMEOUT_SECS"),
        );
        overlay.set(key("routing.policy"), "random", env("SMG_POLICY"));
        let workers = Target::Pool("default".into(), "workers".into());
        overlay.set(workers, vec!["http://c"], flag("--worker-urls"));
    });
    let spec = loaded.spec.as_ref().unwrap();
    let origin = |key: &str| loaded.origins.of(key);
    assert_eq!(spec.server.request_timeout, Millis::secs(180));
    assert_eq!(
        origin("server.request_timeout"),
        Origin::Flag("--request-timeout-secs".into())
    );
    assert_eq!(spec.routing.policy, Policy::Random);
    assert_eq!(
        origin("routing.policy"),
        Origin::Environment("SMG_POLICY".into())
    );
    assert_eq!(spec.server.sse_keepalive, Millis::secs(2));
    assert!(matches!(
        origin("server.sse_keepalive"),
        Origin::File {
            line: 4,
            column: 17,
            ..
        }
    ));
    assert_eq!(origin("server.max_payload_size"), Origin::Default);
    assert_eq!(
        spec.pools[0].workers.len(),
        1,
        "a list is replaced, not extended"
    );
}

#[test]
fn host_and_port_are_two_parts_of_one_address() {
    let port = || Target::ListenerPort("main".into());
    let host = || Target::ListenerHost("main".into());
    let addresses = |loaded: &Loaded| -> Vec<String> {
        loaded
            .spec
            .as_ref()
            .unwrap()
            .listeners
            .iter()
            .map(|l| l.address.to_string())
            .collect()
    };
    let loaded = with_overlay(TWO, |o| o.set(port(), 8080, flag("--port")));
    assert_eq!(addresses(&loaded), ["127.0.0.1:1", "127.0.0.1:8080"]);
    let loaded = with_overlay(TWO, |o| o.set(host(), "::1", env("SMG_HOST")));
    assert_eq!(addresses(&loaded), ["127.0.0.1:1", "[::1]:2"]);
    let loaded = with_overlay(TWO, |o| {
        o.set(port(), 9, flag("--port"));
        o.set(host(), "localhost", flag("--host"));
        o.set(
            Target::ListenerPort("metrics".into()),
            7,
            flag("--prometheus-port"),
        );
        o.set(
            Target::ListenerPort("probes".into()),
            8,
            flag("--health-check-port"),
        );
    });
    assert_eq!(
        addresses(&loaded),
        ["127.0.0.1:1", "localhost:9", "0.0.0.0:7", "localhost:8"]
    );
    let serve = &loaded.spec.as_ref().unwrap().listeners[3].serve;
    assert_eq!(serve, &[Serve::Probes]);

    let unix =
        "version = 1\n[[listeners]]\nname = 'main'\naddress = 'unix:s'\nserve = ['inference']\n";
    let loaded = with_overlay(unix, |o| o.set(port(), 9, flag("--port")));
    let found = loaded
        .diagnostics
        .iter()
        .find(|d| d.slug == "address-part")
        .unwrap();
    assert_eq!(found.primary, Some(Place::Flag("--port".into())));
    assert!(matches!(&found.secondary[0].place, Place::File(spot) if spot.line == 4));
}

#[test]
fn a_table_that_the_file_does_not_define_is_created() {
    let loaded = with_overlay("version = 1\n", |o| {
        o.set(Target::ListenerPort("main".into()), 8080, flag("--port"));
        o.set(
            Target::Pool("default".into(), "workers".into()),
            vec!["http://w"],
            flag("-w"),
        );
        o.set(
            Target::Model("m".into(), "aliases".into()),
            vec!["x"],
            flag("--model-alias"),
        );
        let limit = Target::Listener("main".into(), "limits.header_timeout".into());
        o.set(limit, "3s", flag("--header-read-timeout-secs"));
    });
    let spec = loaded.spec.as_ref().unwrap();
    assert_eq!(spec.listeners[0].address.to_string(), "0.0.0.0:8080");
    assert_eq!(spec.listeners[0].limits.header_timeout, Millis::secs(3));
    assert_eq!(spec.listeners[1].address.to_string(), "0.0.0.0:29000");
    assert_eq!(spec.models[0].aliases, ["x"]);
    assert_eq!(loaded.origins.of("listeners[0].name"), Origin::Default);
}

#[test]
fn mistakes_of_flags_and_variables_name_them() {
    let loaded = with_overlay("version = 1\n", |o| {
        o.set(
            Target::Key("routing.policy".into()),
            "rondom",
            flag("--policy"),
        );
        o.set(
            Target::Key("reliability.retry.jitter_factor".into()),
            2.0,
            env("SMG_JITTER"),
        );
    });
    let text = show(&loaded);
    assert!(
        text.contains(
            "error[unknown-word]: `routing.policy` cannot be `rondom`\n --> flag --policy\n  \
         = help: did you mean `random`?\n"
        ),
        "{text}"
    );
    assert!(text.contains(" --> environment SMG_JITTER\n"), "{text}");
}

#[test]
fn the_control_socket_is_where_systemd_wants_it() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().display().to_string();
    let environment: Environment = [("RUNTIME_DIRECTORY", format!("{folder}:/other"))]
        .into_iter()
        .collect();
    let loaded = load(&Input {
        environment,
        ..Input::default()
    });
    let socket = loaded
        .spec
        .as_ref()
        .unwrap()
        .server
        .control_socket
        .clone()
        .unwrap();
    assert_eq!(&*socket, dir.path().join("control.sock"));
    assert_eq!(
        loaded.origins.of("server.control_socket"),
        Origin::Environment("RUNTIME_DIRECTORY".into())
    );
}

#[test]
fn a_dump_is_a_file_that_means_the_same() {
    for file in cases("ok") {
        let loaded = load(&input(&file));
        // Paths were resolved against the folder of the first file.
        let folder = format!("{}/", file.parent().unwrap().display());
        let text = render_effective(&loaded, false)
            .unwrap()
            .replace(&folder, "");
        let again = loads(&text);
        let mut old = loaded.spec.unwrap();
        let mut new = again
            .spec
            .unwrap_or_else(|| panic!("{text}\n{}", render(&again.diagnostics, Format::Human)));
        for spec in [&mut old, &mut new] {
            spec.include.clear();
            // A dump does not hold secrets.
            for pool in &mut spec.pools {
                pool.api_key = None;
                pool.workers
                    .iter_mut()
                    .for_each(|worker| worker.api_key = None);
            }
        }
        old.server.control_socket = None;
        old.logging.dir = None;
        new.server.control_socket = None;
        new.logging.dir = None;
        let address = |spec: &mut smg::config::Spec| {
            spec.listeners.retain(|l| l.address.port().is_some());
        };
        address(&mut old);
        address(&mut new);
        assert_eq!(old, new, "{text}");
    }
}

#[test]
fn a_dump_says_where_each_value_comes_from() {
    let loaded = with_overlay(TWO, |o| {
        o.set(Target::ListenerPort("main".into()), 8080, flag("--port"));
    });
    let text = render_effective(&loaded, true).unwrap();
    let line = |start: &str| {
        text.lines()
            .find(|l| l.starts_with(start))
            .unwrap()
            .to_owned()
    };
    assert!(line("request_timeout").ends_with("smg.toml:3:19"), "{text}");
    assert!(
        line("max_payload_size").ends_with("\"512MiB\"  # default"),
        "{text}"
    );
    assert!(
        text.contains("address = \"127.0.0.1:8080\"  # flag --port\n"),
        "{text}"
    );
    assert!(text.contains("  \"http://a\",  # "), "{text}");
}

#[test]
fn the_hash_sees_content_and_overlay() {
    let one = loads("version = 1\n");
    assert_eq!(one.sha256.len(), 64);
    assert_eq!(one.sha256, loads("version = 1\n").sha256);
    assert_ne!(one.sha256, loads("version = 1\n#\n").sha256);
    let other = with_overlay("version = 1\n", |o| {
        o.set(
            Target::Key("routing.policy".into()),
            "random",
            flag("--policy"),
        );
    });
    assert_ne!(one.sha256, other.sha256);
}

#[test]
fn a_file_that_is_not_there_is_a_diagnostic() {
    let loaded = load(&input(Path::new("/nonexistent/smg.toml")));
    assert!(loaded.spec.is_none());
    assert_eq!(
        show(&loaded),
        "error[unreadable]: cannot read `/nonexistent/smg.toml`: no such file or directory\n"
    );
    assert_eq!(loaded.files, [Path::new("/nonexistent/smg.toml")]);
}

#[test]
fn all_mistakes_of_all_files_come_in_one_run() {
    let loaded = load(&input(Path::new("fixtures/config/bad/all_files/smg.toml")));
    let slugs: Vec<_> = loaded
        .diagnostics
        .iter()
        .map(|d: &Diagnostic| d.slug)
        .collect();
    for slug in ["syntax", "unknown-key"] {
        assert!(slugs.contains(&slug), "{slug} is not among {slugs:?}");
    }
    let many: String = (0..200)
        .map(|i| format!("[[models]]\nname = {i}\nbogus = 1\n"))
        .collect();
    let loaded = loads(&format!("version = 1\n{many}"));
    assert_eq!(
        loaded.diagnostics.iter().filter(|d| d.is_error()).count(),
        400
    );
}

/// The schema that editors use agrees with the loader on every good file.
#[test]
fn good_files_match_the_schema() {
    let schema = smg::config::json_schema();
    let validator = jsonschema::validator_for(&schema).unwrap();
    for file in cases("ok") {
        let text = std::fs::read_to_string(&file).unwrap();
        if text.contains("${") {
            continue;
        }
        let value: toml::Value = toml::from_str(&text).unwrap();
        let value = serde_json::to_value(value).unwrap();
        let errors: Vec<String> = validator
            .iter_errors(&value)
            .map(|e| format!("{}: {e}", e.instance_path))
            .collect();
        assert!(errors.is_empty(), "{}: {errors:#?}", file.display());
    }
}

#[test]
fn ten_thousand_lines_load_quickly() {
    let pools: String = (0..1000)
        .map(|i| {
            format!(
                "[[pools]]\nname = \"pool-{i}\"\nruntime = \"vllm\"\nworkers = [\n  \
                 \"http://10.0.{}.{}:8000\",\n  \"http://10.1.{}.{}:8000\",\n]\n\
                 [[models]]\nname = \"model-{i}\"\npool = \"pool-{i}\"\n",
                i / 250,
                i % 250,
                i / 250,
                i % 250
            )
        })
        .collect();
    let text = format!("version = 1\n{pools}");
    assert!(text.lines().count() >= 10_000);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("smg.toml");
    std::fs::write(&file, &text).unwrap();
    // An unoptimised build is some ten times slower than a release, where 100 ms is the aim. The
    // best of three, as tests run beside each other.
    let best = (0..3)
        .map(|_| {
            let start = Instant::now();
            let loaded = load(&input(&file));
            assert_eq!(loaded.spec.unwrap().pools.len(), 1000);
            start.elapsed()
        })
        .min()
        .unwrap();
    assert!(best.as_millis() < 1000, "{best:?}");
}
