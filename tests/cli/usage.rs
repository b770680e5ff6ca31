//! What is refused, and what the help says.

use smg::config::cli::absent::LATER;

use crate::binary::{smg, status, stderr, stdout};

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
        (&["--policy", "best"], "expected one of `cache_aware`"),
        (
            &["--decode-policy", "bucket"],
            "invalid value `bucket` for `--decode-policy`: `bucket` goes by",
        ),
        (
            &["--prefill", "http://p:1", "0"],
            "invalid value `http://p:1 0` for `--prefill`: expected a port from 1",
        ),
        (&["--prefill", "--decode", "http://d:1"], "--prefill"),
        (
            &["--assignment-mode", "best"],
            "expected one of `random`, `min_load`, `min_group`",
        ),
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
            &["reload", "--url", "https://gw", "--ca", "/nowhere.crt"],
            "cannot read `/nowhere.crt`",
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
