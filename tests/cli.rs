//! The command line, through the real binary: every flag, its variable and its aliases to the key
//! they set; precedence; what is refused; the exit status of every command.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output};
use std::thread::JoinHandle;

use smg::config::cli::absent::LATER;
use smg::config::cli::table::{FLAGS, find};

/// Runs the binary with nothing but these arguments and variables.
fn smg(args: &[&str], variables: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_smg"))
        .args(args)
        .env_clear()
        .envs(variables.iter().copied())
        .output()
        .unwrap()
}

fn status(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Value and origin of every key, with names in place of the indices of lists of tables.
type Dump = BTreeMap<String, (String, String)>;

fn dump(args: &[&str], variables: &[(&str, &str)]) -> Dump {
    let output = smg(
        &[&["config", "dump", "--origins"], args].concat(),
        variables,
    );
    assert_eq!(
        status(&output),
        0,
        "{args:?} {variables:?}: {}",
        stderr(&output)
    );
    read_dump(&stdout(&output))
}

fn read_dump(text: &str) -> Dump {
    let mut dump = Dump::new();
    let (mut section, mut element, mut open) = (String::new(), String::new(), None);
    for line in text.lines() {
        let (line, origin) = line.split_once("  # ").unwrap_or((line, ""));
        if let Some(header) = line.strip_prefix("[[").and_then(|l| l.strip_suffix("]]")) {
            section = header.to_owned();
            element = String::new();
        } else if let Some(header) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            section = header.to_owned();
        } else if line == "]" {
            open = None;
        } else if let Some((key, count)) = &mut open {
            let value = line.trim().trim_end_matches(',').to_owned();
            dump.insert(format!("{key}[{count}]"), (value, origin.to_owned()));
            *count += 1;
        } else if let Some((key, value)) = line.split_once(" = ") {
            let list = section.split('.').next().unwrap_or_default().to_owned();
            if key == "name" && list == section {
                element = value.trim_matches('"').to_owned();
            }
            let path = match ["listeners", "pools", "models"].contains(&list.as_str()) {
                true => section.replacen(&list, &format!("{list}[{element}]"), 1),
                false => section.clone(),
            };
            let path = if path.is_empty() {
                key.to_owned()
            } else {
                format!("{path}.{key}")
            };
            match value {
                "[" => open = Some((path, 0)),
                value => {
                    dump.insert(path, (value.to_owned(), origin.to_owned()));
                }
            }
        }
    }
    dump
}

/// A flag, what is typed after it, what its variable holds, the key and the value that it gets.
const FLAG_TO_KEY: &[(&str, &str, &str, &str, &str)] = &[
    (
        "host",
        "127.0.0.1",
        "::1",
        "listeners[main].address",
        "\"127.0.0.1:30000\"",
    ),
    (
        "port",
        "1234",
        "1234",
        "listeners[main].address",
        "\"0.0.0.0:1234\"",
    ),
    (
        "health-check-port",
        "9090",
        "9090",
        "listeners[probes].address",
        "\"0.0.0.0:9090\"",
    ),
    (
        "request-timeout-secs",
        "90",
        "90s",
        "server.request_timeout",
        "\"90s\"",
    ),
    (
        "shutdown-grace-period-secs",
        "0",
        "0",
        "server.shutdown_grace_period",
        "\"0s\"",
    ),
    (
        "max-payload-size",
        "1024",
        "1KiB",
        "server.max_payload_size",
        "\"1KiB\"",
    ),
    (
        "cors-allowed-origins",
        "https://a.example",
        "https://a.example",
        "listeners[main].cors.allowed_origins[0]",
        "\"https://a.example\"",
    ),
    (
        "request-id-headers",
        "x-id",
        "x-id",
        "server.request_id_headers",
        "[\"x-id\"]",
    ),
    (
        "header-read-timeout-secs",
        "5",
        "5",
        "listeners[main].limits.header_timeout",
        "\"5s\"",
    ),
    (
        "idle-connection-timeout-secs",
        "2m",
        "120",
        "listeners[main].limits.idle_timeout",
        "\"2m\"",
    ),
    (
        "sse-keepalive-secs",
        "500ms",
        "500ms",
        "server.sse_keepalive",
        "\"500ms\"",
    ),
    (
        "runtime-worker-threads",
        "2",
        "2",
        "server.worker_threads",
        "2",
    ),
    (
        "worker-urls",
        "http://a:1",
        "http://a:1",
        "pools[default].workers[0]",
        "\"http://a:1\"",
    ),
    (
        "backend",
        "vllm",
        "vllm",
        "pools[default].runtime",
        "\"vllm\"",
    ),
    (
        "worker-api-key",
        "k",
        "k",
        "pools[default].api_key",
        "\"***\"",
    ),
    ("model-alias", "a=m", "a=m", "models[m].aliases", "[\"a\"]"),
    (
        "worker-startup-timeout-secs",
        "60",
        "1m",
        "reliability.health.startup_timeout",
        "\"1m\"",
    ),
    (
        "worker-startup-check-interval",
        "3",
        "3s",
        "reliability.health.startup_check_interval",
        "\"3s\"",
    ),
    (
        "worker-startup-delay",
        "4",
        "4",
        "reliability.health.startup_delay",
        "\"4s\"",
    ),
    (
        "policy",
        "round-robin",
        "roundrobin",
        "routing.policy",
        "\"round_robin\"",
    ),
    (
        "retry-max-retries",
        "2",
        "2",
        "reliability.retry.max_retries",
        "2",
    ),
    (
        "retry-initial-backoff-ms",
        "20",
        "20ms",
        "reliability.retry.initial_backoff",
        "\"20ms\"",
    ),
    (
        "retry-max-backoff-ms",
        "5000",
        "5s",
        "reliability.retry.max_backoff",
        "\"5s\"",
    ),
    (
        "retry-backoff-multiplier",
        "2.5",
        "2.5",
        "reliability.retry.backoff_multiplier",
        "2.5",
    ),
    (
        "retry-jitter-factor",
        "0.5",
        "0.5",
        "reliability.retry.jitter_factor",
        "0.5",
    ),
    (
        "disable-retries",
        "",
        "yes",
        "reliability.retry.enabled",
        "false",
    ),
    (
        "health-failure-threshold",
        "4",
        "4",
        "reliability.health.failure_threshold",
        "4",
    ),
    (
        "health-success-threshold",
        "5",
        "5",
        "reliability.health.success_threshold",
        "5",
    ),
    (
        "health-check-timeout-secs",
        "7",
        "7s",
        "reliability.health.timeout",
        "\"7s\"",
    ),
    (
        "health-check-interval-secs",
        "10s",
        "10",
        "reliability.health.interval",
        "\"10s\"",
    ),
    (
        "health-check-endpoint",
        "/up",
        "/up",
        "reliability.health.endpoint",
        "\"/up\"",
    ),
    (
        "disable-health-check",
        "",
        "ON",
        "reliability.health.enabled",
        "false",
    ),
    (
        "prometheus-host",
        "localhost",
        "::1",
        "listeners[metrics].address",
        "\"localhost:29000\"",
    ),
    (
        "prometheus-port",
        "0",
        "0",
        "listeners[metrics].address",
        "\"0.0.0.0:0\"",
    ),
    (
        "prometheus-duration-buckets",
        "0.5",
        "0.5",
        "metrics.duration_buckets",
        "[0.5]",
    ),
    ("log-level", "debug", "DEBUG", "logging.level", "\"debug\""),
    ("log-json", "", "1", "logging.format", "\"json\""),
    ("log-dir", "/tmp", "/tmp", "logging.dir", "\"/tmp\""),
];

#[test]
fn every_flag_sets_its_key_by_each_of_its_names() {
    let known: Vec<&str> = FLAG_TO_KEY.iter().map(|row| row.0).collect();
    for flag in FLAGS.iter().filter(|flag| flag.name != "config") {
        assert!(
            known.contains(&flag.name),
            "`{}` is not in the table",
            flag.name
        );
    }
    for (name, typed, _, key, value) in FLAG_TO_KEY {
        let flag = find(name).unwrap();
        for spelling in std::iter::once(name).chain(flag.aliases) {
            let dashed = format!("--{spelling}");
            let args = if typed.is_empty() {
                vec![&*dashed]
            } else {
                vec![&*dashed, typed]
            };
            let dump = dump(&args, &[]);
            let origin = format!("flag --{name}");
            assert_eq!(
                dump.get(*key),
                Some(&((*value).to_owned(), origin)),
                "{args:?}"
            );
        }
    }
}

#[test]
fn every_variable_sets_its_key() {
    for (name, typed, held, key, value) in FLAG_TO_KEY {
        let variable = find(name).unwrap().variable();
        let dump = dump(&[], &[(&*variable, held)]);
        let (found, origin) = dump
            .get(*key)
            .unwrap_or_else(|| panic!("{variable}: no {key}"));
        assert_eq!(*origin, format!("environment {variable}"));
        // Where typed and held mean the same, so do their values.
        if *held != "::1" {
            assert_eq!(found, value, "{variable}={held} {typed}");
        }
    }
    let dump = dump(&[], &[("SMG_HOST", "::1")]);
    assert_eq!(dump["listeners[main].address"].0, "\"[::1]:30000\"");
}

#[test]
fn lists_add_up_on_the_command_line_and_stand_between_commas_in_a_variable() {
    let many = [
        "--worker-urls",
        "http://a:1",
        "http://b:1",
        "--worker-urls=http://c:1",
    ];
    for (args, variables) in [
        (&many[..], &[][..]),
        (
            &[],
            &[("SMG_WORKER_URLS", "http://a:1,http://b:1, http://c:1")],
        ),
    ] {
        let dump = dump(args, variables);
        let urls = dump
            .iter()
            .filter(|(key, _)| key.starts_with("pools[default].workers["));
        let urls: Vec<&str> = urls.map(|(_, (value, _))| value.as_str()).collect();
        assert_eq!(urls, ["\"http://a:1\"", "\"http://b:1\"", "\"http://c:1\""]);
    }
    let dump = dump(
        &["--model-alias", "a=m", "b=n", "--model-alias", "c=m"],
        &[],
    );
    assert_eq!(dump["models[m].aliases"].0, "[\"a\", \"c\"]");
    assert_eq!(dump["models[n].aliases"].0, "[\"b\"]");
}

#[test]
fn a_flag_comes_before_a_variable_before_the_file_before_the_default() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("smg.toml");
    let text = "version = 1\nserver.request_timeout = '1m'\n[[pools]]\nname = 'default'\n\
                workers = ['http://file:1', 'http://file:2']\n";
    std::fs::write(&file, text).unwrap();
    let file = file.to_str().unwrap();
    let key = "server.request_timeout";
    let variable = ("SMG_REQUEST_TIMEOUT_SECS", "2m");
    assert_eq!(dump(&[], &[])[key].1, "default");
    let found = dump(&["-c", file], &[]);
    assert_eq!(found[key], ("\"1m\"".into(), format!("{file}:2:26")));
    assert!(found.contains_key("pools[default].workers[1]"));
    let found = dump(&[], &[variable, ("SMG_CONFIG", file)]);
    let origin = "environment SMG_REQUEST_TIMEOUT_SECS";
    assert_eq!(found[key], ("\"2m\"".into(), origin.into()));
    // The last of two counts, and a list replaces that of the file.
    let timeout = "--request-timeout-secs";
    let args = [
        timeout,
        "7",
        timeout,
        "3m",
        "--worker-urls",
        "http://flag:1",
    ];
    let found = dump(&args, &[variable, ("SMG_CONFIG", file)]);
    assert_eq!(
        found[key],
        ("\"3m\"".into(), "flag --request-timeout-secs".into())
    );
    assert_eq!(found["pools[default].workers[0]"].0, "\"http://flag:1\"");
    assert!(!found.contains_key("pools[default].workers[1]"));
    // `--config` comes before `SMG_CONFIG`, also in front of the command.
    let output = smg(
        &["--config", file, "config", "dump"],
        &[("SMG_CONFIG", "/nowhere/smg.toml")],
    );
    assert_eq!(status(&output), 0, "{}", stderr(&output));
    assert!(stdout(&output).contains("http://file:2"));
}

#[test]
fn a_switch_can_turn_back_what_the_file_says() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("smg.toml");
    let text = "version = 1\n[logging]\nformat = 'json'\n[reliability.retry]\nenabled = false\n";
    std::fs::write(&file, text).unwrap();
    let file = file.to_str().unwrap();
    let found = dump(
        &["-c", file, "--log-json=false", "--disable-retries=no"],
        &[],
    );
    assert_eq!(found["logging.format"].0, "\"text\"");
    assert_eq!(found["reliability.retry.enabled"].0, "true");
}

#[test]
fn variables_that_are_no_settings() {
    let empty = dump(&[], &[("SMG_PORT", ""), ("SMG_UNHEARD_OF", "x")]);
    assert_eq!(empty["listeners[main].address"].1, "default");
    for (variable, value, slug) in [
        ("SMG_PORT", "tcp://10.0.0.1:30000", "variable-service-link"),
        (
            "SMG_PROMETHEUS_PORT",
            "tcp://10.0.0.1:29000",
            "variable-service-link",
        ),
        ("SMG_API_KEY", "x", "variable-unavailable"),
        ("POSTGRES_DB_URL", "x", "variable-unavailable"),
    ] {
        let output = smg(&["config", "dump"], &[(variable, value)]);
        assert_eq!(status(&output), 0);
        let said = stderr(&output);
        assert!(
            said.contains(&format!("warning[{slug}]: variable `{variable}`")),
            "{said}"
        );
    }
    let output = smg(&["config", "dump"], &[("SMG_PORT", "many")]);
    assert_eq!(status(&output), 2);
    assert_eq!(
        stderr(&output),
        "error: invalid value `many` for variable `SMG_PORT`: expected a port from 0 to 65535\n"
    );
}

#[test]
fn flags_of_later_versions_are_refused_by_each_of_their_names() {
    for name in LATER.iter().flat_map(|later| later.names) {
        let flag = format!("--{name}");
        let output = smg(&[&flag, "secret-value"], &[]);
        assert_eq!(status(&output), 2, "{flag}");
        assert_eq!(
            stderr(&output),
            format!("error: `{flag}` is not available in this version\n")
        );
    }
    let long = stdout(&smg(&["help"], &[]));
    for name in LATER.iter().flat_map(|later| later.names) {
        let shown = long
            .split_whitespace()
            .any(|word| word == format!("--{name}"));
        assert!(!shown, "`--{name}` is in the help");
    }
}

#[test]
fn usage_errors_say_what_is_wrong_in_exit_2() {
    for (args, said) in [
        (&["--prot", "1"][..], "'--port'"),
        (&["--port", "65536"], "invalid value `65536` for `--port`"),
        (
            &["--policy", "cache_aware"],
            "is not available in this version",
        ),
        (&["--policy", "best"], "expected one of `random`"),
        (
            &["--worker-urls", "grpc://a:1"],
            "is not available in this version",
        ),
        (
            &["--worker-api-key", ""],
            "invalid value for `--worker-api-key`",
        ),
        (&["--priority-scheduler-weights", "1"], "is not taken: "),
        (&["--tenant-rate-limit-file=x"], "is not taken: "),
        (&["server", "--model", "x", "--tp", "2"], "run `smg launch"),
        (&["serve"], "run `smg launch"),
        (
            &["--port", "1", "schema"],
            "`--port` means nothing to `smg schema`",
        ),
        (&["frobnicate"], "frobnicate"),
        (&["check-config", "a", "b"], "'b'"),
        (&["check-config", "--format", "xml"], "xml"),
        (&["config", "diff", "a"], "<B>"),
        (
            &["reload", "--url", "https://gw"],
            "is not available in this version",
        ),
        (&["reload", "--url", "gw"], "is no address of a gateway"),
        (&["completions", "tcsh"], "tcsh"),
        (&["help", "frobnicate"], "no command"),
    ] {
        let output = smg(args, &[]);
        assert_eq!(status(&output), 2, "{args:?}: {}", stderr(&output));
        assert!(
            stderr(&output).contains(said),
            "{args:?}: {}",
            stderr(&output)
        );
        assert_eq!(stdout(&output), "", "{args:?}");
    }
}

#[test]
fn help_and_version() {
    for args in [
        &["--help"][..],
        &["-h"],
        &["help"],
        &["launch", "--help"],
        &["help", "start"],
    ] {
        let output = smg(args, &[]);
        assert_eq!(status(&output), 0, "{args:?}");
        assert!(stdout(&output).contains("--worker-urls <URL>"), "{args:?}");
    }
    assert!(!stdout(&smg(&["--help"], &[])).contains("--retry-jitter-factor"));
    assert!(stdout(&smg(&["help"], &[])).contains("--retry-jitter-factor"));
    let version = format!("smg {}\n", env!("CARGO_PKG_VERSION"));
    for flag in ["--version", "-V"] {
        assert_eq!(stdout(&smg(&[flag], &[])), version);
    }
    let verbose = stdout(&smg(&["--version-verbose"], &[]));
    let firsts: Vec<&str> = verbose
        .lines()
        .filter_map(|line| line.split(' ').next())
        .collect();
    assert_eq!(firsts, ["smg", "revision", "build", "features", "rustc"]);
}

const GOOD: &str = "version = 1\n[[listeners]]\nname = 'main'\naddress = '127.0.0.1:0'\n\
                    serve = ['inference', 'admin', 'probes']\n[[pools]]\nname = 'a'\n\
                    workers = ['http://127.0.0.1:9']\n";

fn write(dir: &Path, name: &str, text: &str) -> String {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn check_config_judges_by_its_exit_status() {
    let dir = tempfile::tempdir().unwrap();
    let good = write(dir.path(), "good.toml", GOOD);
    let bad = write(dir.path(), "bad.toml", &format!("x = 1\n{GOOD}polcy = 1\n"));
    let warned = write(
        dir.path(),
        "warned.toml",
        &format!("{GOOD}api_key = 'inline'\n"),
    );
    let secret = write(
        dir.path(),
        "secret.toml",
        &format!("{GOOD}api_key.env = 'NO_KEY'\n"),
    );
    for (args, expected, last) in [
        (
            vec![&*good],
            0,
            "good.toml: valid (1 pool, 1 worker, 0 models, 1 listener)",
        ),
        (vec![&*bad], 78, "bad.toml: 2 errors"),
        (vec!["/nowhere/smg.toml"], 78, "/nowhere/smg.toml: 1 error"),
        (vec![], 78, "/etc/smg/smg.toml: 1 error"),
        (vec![&*warned], 0, "1 listener); 1 warning"),
        (
            vec![&*warned, "--deny-warnings"],
            3,
            "1 listener); 1 warning",
        ),
        (vec![&*bad, "--deny-warnings"], 78, "bad.toml: 2 errors"),
        (vec![&*secret], 78, "secret.toml: 1 error"),
        (
            vec![&*secret, "--no-environment", "--deny-warnings"],
            0,
            "1 listener); 1 note",
        ),
        (
            vec!["--config", &*good],
            0,
            "good.toml: valid (1 pool, 1 worker, 0 models, 1 listener)",
        ),
        (
            vec![&*good, "--port", "0", "--host", "localhost"],
            0,
            "1 listener)",
        ),
    ] {
        if args.is_empty() && Path::new("/etc/smg/smg.toml").exists() {
            continue;
        }
        let output = smg(&[&["check-config"], &*args].concat(), &[]);
        let (out, err) = (stdout(&output), stderr(&output));
        assert_eq!(status(&output), expected, "{args:?}: {out}{err}");
        let line = out.lines().last().unwrap_or_default();
        assert!(line.ends_with(last), "{args:?}: {line}");
    }
    // The file is named by the variable, and the environment of the checker does not count.
    let output = smg(
        &["check-config"],
        &[("SMG_CONFIG", &good), ("SMG_PORT", "x")],
    );
    assert_eq!(status(&output), 2);
    let output = smg(
        &["check-config", &good, "--no-environment"],
        &[("SMG_PORT", "x")],
    );
    assert_eq!(status(&output), 0);
}

#[test]
fn check_config_writes_for_programs() {
    let dir = tempfile::tempdir().unwrap();
    let bad = write(
        dir.path(),
        "bad.toml",
        "version = 1\nserver.requst_timeout = '1s'\n",
    );
    for format in ["json", "sarif"] {
        let output = smg(&["check-config", &bad, "--format", format], &[]);
        assert_eq!(status(&output), 78);
        let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(value.to_string().contains("unknown-key"), "{value}");
    }
    let output = smg(&["check-config", &bad, "--format", "github"], &[]);
    assert!(
        stdout(&output).starts_with("::error file="),
        "{}",
        stdout(&output)
    );
    let human = stdout(&smg(&["check-config", &bad], &[("NO_COLOR", "1")]));
    assert!(!human.contains('\x1b'));
    assert!(human.contains("bad.toml:2:8"), "{human}");
}

#[test]
fn an_invalid_configuration_does_not_run() {
    let dir = tempfile::tempdir().unwrap();
    let bad = write(dir.path(), "bad.toml", "version = 1\nx = 1\n");
    for args in [
        &["--config", &*bad][..],
        &["launch", "--config", &bad],
        &["start", "-c", &bad],
        &["-c", "/nowhere/smg.toml"],
        // Each alone is fine, together they are not.
        &[
            "--retry-initial-backoff-ms",
            "10s",
            "--retry-max-backoff-ms",
            "1s",
        ],
        &["--health-check-timeout-secs", "0"],
        &["config", "dump", "-c", &bad],
    ] {
        let output = smg(args, &[]);
        assert_eq!(status(&output), 78, "{args:?}: {}", stderr(&output));
        assert!(stderr(&output).contains("error["), "{args:?}");
    }
}

#[test]
fn diff_of_two_files() {
    let dir = tempfile::tempdir().unwrap();
    let a = write(dir.path(), "a.toml", GOOD);
    let same = write(dir.path(), "same.toml", &format!("# a comment\n{GOOD}"));
    let b = write(dir.path(), "b.toml", &GOOD.replace(":9", ":10"));
    let bad = write(dir.path(), "bad.toml", "version = 2\n");
    let output = smg(&["config", "diff", &a, &same], &[]);
    assert_eq!((status(&output), &*stdout(&output)), (0, "no difference\n"));
    let output = smg(&["config", "diff", &a, &b], &[]);
    assert_eq!(status(&output), 1);
    assert_eq!(
        stdout(&output),
        "workers\n  - pools[a].workers[http://127.0.0.1:9]  (live)\n  \
         + pools[a].workers[http://127.0.0.1:10]  (live)\n"
    );
    assert_eq!(status(&smg(&["config", "diff", &a, &bad], &[])), 78);
    assert_eq!(status(&smg(&["config", "diff", &bad, &a], &[])), 78);
}

/// Answers one request with `status` and `body`, and returns its first line.
fn answer(mut stream: impl Read + Write, status: &str, body: &str) -> String {
    let mut first = String::new();
    let mut reader = BufReader::new(&mut stream);
    reader.read_line(&mut first).unwrap();
    let mut line = String::new();
    while reader.read_line(&mut line).unwrap() > 2 {
        line.clear();
    }
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    )
    .unwrap();
    first.trim().to_owned()
}

fn admin(status: &'static str, body: &'static str) -> (String, JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let answering = std::thread::spawn(move || answer(listener.accept().unwrap().0, status, body));
    (url, answering)
}

#[test]
fn reload_prints_the_outcome() {
    for (answer, body, args, expected, said) in [
        (
            "200 OK",
            r#"{"result":"applied","generation":3,"sha256":"abc"}"#,
            &["--wait"][..],
            0,
            "applied: generation 3 (sha256 abc)\n",
        ),
        (
            "200 OK",
            r#"{"result":"unchanged","generation":3,"sha256":"abc"}"#,
            &[],
            0,
            "unchanged: generation 3 (sha256 abc)\n",
        ),
        (
            "422 Unprocessable Content",
            r#"{"result":"rejected","diagnostics":[{"slug":"unknown-key","severity":"error",
                "message":"no key `x`","primary":{"file":{"file":"/f","line":1,"column":2}}}]}"#,
            &[],
            78,
            "error[unknown-key]: no key `x`\n  --> /f:1:2\n",
        ),
        (
            "403 Forbidden",
            r#"{"error":{"message":"only local peers"}}"#,
            &[],
            1,
            "error: the gateway answered 403: only local peers\n",
        ),
        (
            "200 OK",
            "what?",
            &[],
            1,
            "error: the gateway answered 200\n",
        ),
    ] {
        let (url, answering) = admin(answer, body);
        let output = smg(&[&["reload", "--url", &url], args].concat(), &[]);
        let text = stdout(&output) + &stderr(&output);
        assert_eq!(status(&output), expected, "{text}");
        assert!(text.contains(said), "{text}");
        let query = if args.is_empty() { "" } else { "?wait=true" };
        assert_eq!(
            answering.join().unwrap(),
            format!("POST /admin/reload{query} HTTP/1.1")
        );
    }
}

#[test]
fn reload_finds_the_gateway_by_its_file_even_by_a_broken_one() {
    const DONE: &str = r#"{"result":"applied","generation":2,"sha256":"abc"}"#;
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("control.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let answering = std::thread::spawn(move || {
        for _ in 0..2 {
            answer(listener.accept().unwrap().0, "200 OK", DONE);
        }
    });
    let text = "version = 1\nserver.control_socket = 'control.sock'\nx = 1\n";
    let file = write(dir.path(), "smg.toml", text);
    let output = smg(&["reload", "-c", &file], &[]);
    assert_eq!(status(&output), 0, "{}", stderr(&output));
    let runtime = dir.path().to_str().unwrap();
    let output = smg(&["reload"], &[("RUNTIME_DIRECTORY", runtime)]);
    assert_eq!(status(&output), 0, "{}", stderr(&output));
    answering.join().unwrap();

    let (url, answering) = admin("200 OK", DONE);
    let address = url.trim_start_matches("http://");
    let text = format!(
        "version = 1\n[[listeners]]\nname = 'metrics'\naddress = '127.0.0.1:1'\n\
         serve = ['metrics']\n[[listeners]]\nname = 'main'\naddress = '{address}'\n\
         serve = ['inference', 'admin']\n"
    );
    let file = write(dir.path(), "tcp.toml", &text);
    let output = smg(&["reload", "-c", &file], &[]);
    assert_eq!(status(&output), 0, "{}", stderr(&output));
    answering.join().unwrap();
}

#[test]
fn reload_without_a_gateway() {
    let dir = tempfile::tempdir().unwrap();
    let text = format!("{}server.control_socket = 'none.sock'\n", "version = 1\n");
    let text = text + "[[listeners]]\nname = 'm'\naddress = '127.0.0.1:0'\nserve = ['inference']\n";
    let file = write(dir.path(), "smg.toml", &text);
    let output = smg(&["reload", "-c", &file], &[]);
    assert_eq!(status(&output), 1);
    let said = stderr(&output);
    assert!(
        said.starts_with("error: no gateway answers: unix:"),
        "{said}"
    );
    assert!(said.contains("no such file"), "{said}");
    let text = text.replace("server.control_socket = 'none.sock'\n", "");
    let file = write(dir.path(), "smg.toml", &text);
    let output = smg(&["reload", "-c", &file], &[]);
    assert_eq!(status(&output), 1);
    assert!(
        stderr(&output).contains("no control socket"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn diff_with_the_running_gateway() {
    let dir = tempfile::tempdir().unwrap();
    let file = write(dir.path(), "smg.toml", GOOD);
    let effective: serde_json::Value = {
        let spec: smg::config::Spec = toml::from_str(&GOOD.replace(":9", ":10")).unwrap();
        serde_json::json!({ "effective": spec })
    };
    let body: &'static str = effective.to_string().leak();
    let (url, answering) = admin("200 OK", body);
    let output = smg(&["config", "diff", &file, "--live", &url], &[]);
    assert_eq!(status(&output), 1, "{}", stderr(&output));
    assert!(stdout(&output).contains("+ pools[a].workers[http://127.0.0.1:9]  (live)"));
    assert_eq!(answering.join().unwrap(), "GET /admin/config HTTP/1.1");
}
