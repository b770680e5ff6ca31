//! Flags, variables, the file and defaults: which one counts, and what a dump says of it.

use smg::base::units::Millis;
use smg::config::diag::Place;
use smg::config::spec::{Policy, Serve, WorkerThreads};
use smg::config::{
    Environment, Format, Given, Input, Loaded, Origin, Overlay, Target, load, render,
    render_effective,
};

use super::{cases, environment, input, loads, show};

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
    assert_eq!(spec.routing.policy, Policy::default());
    assert_eq!(spec.routing.policy.as_str(), "cache_aware");
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

fn flag(name: &str) -> Given {
    Given::Flag(name.to_owned())
}

fn env(name: &str) -> Given {
    Given::Env(name.to_owned())
}

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
            spec.auth.api_key = None;
            spec.auth
                .tenants
                .iter_mut()
                .for_each(|tenant| tenant.keys.clear());
            spec.auth.control_plane.api_keys.clear();
            for pool in &mut spec.pools {
                pool.api_key = None;
                let legs = pool.prefill.iter_mut().chain(&mut pool.decode);
                let workers = legs.flat_map(|leg| &mut leg.workers);
                for worker in pool.workers.iter_mut().chain(workers) {
                    worker.api_key = None;
                }
            }
        }
        old.server.control_socket = None;
        old.server.state_dir = None;
        old.logging.dir = None;
        new.server.control_socket = None;
        new.server.state_dir = None;
        new.logging.dir = None;
        old.audit.path = None;
        new.audit.path = None;
        for spec in [&mut old, &mut new] {
            let certificates = serde_json::to_string(&(&spec.listeners, &spec.pools)).unwrap();
            assert_eq!(
                certificates.contains("gateway.crt"),
                text.contains("gateway.crt")
            );
            spec.listeners
                .iter_mut()
                .for_each(|listener| listener.tls = None);
            for pool in &mut spec.pools {
                pool.tls = Default::default();
                let workers = pool.workers.iter_mut();
                workers.for_each(|worker| worker.tls = Default::default());
            }
        }
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
