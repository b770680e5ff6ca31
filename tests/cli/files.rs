//! Commands that look at files.

use std::path::Path;

use crate::binary::{GOOD, smg, status, stderr, stdout, write};

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
