//! What cannot be understood: an error, exit status 2, and nothing printed.

use super::run::{smg, status, stderr, stdout};

fn refused(args: &[&str], text: &str, message: &str) {
    let output = smg(args, &[], text);
    let told = stderr(&output);
    assert_eq!(status(&output), 2, "{args:?} {text}: {told}");
    assert_eq!(stdout(&output), "", "{args:?}");
    assert!(told.contains(message), "{args:?} {text}: {told}");
    assert!(!told.contains("canary"), "{told}");
}

#[test]
fn command_lines() {
    for (line, message) in [
        ("smg --port abc", "error: invalid value `abc` for `--port`"),
        ("smg --help", "`--help` prints something"),
        (
            "python -m sglang.launch_server --port 1",
            "starts an engine",
        ),
        ("smg --port 1; smg --port 2", "there are 2 launch commands"),
        (
            "smg --port $(free-port)",
            "line 1: `$(…)` would have to be run",
        ),
        ("smg --api-key 'canary", "line 1: a quote is not closed"),
        ("curl http://localhost", "there is no launch command"),
    ] {
        refused(&["config", "from-flags", line], "", message);
        refused(&["config", "from-flags", "-"], line, message);
    }
    refused(&["config", "from-flags"], "", "COMMAND");
    refused(
        &["config", "from-flags", "--dialect", "x", "--", "smg"],
        "",
        "invalid value",
    );
}

#[test]
fn a_flag_that_is_not_known() {
    let line = ["--", "smg", "--polcy", "random", "--port", "1"];
    let output = smg(&[&["config", "from-flags"], &line[..]].concat(), &[], "");
    assert_eq!(status(&output), 0);
    assert_eq!(
        stderr(&output),
        "warning[no-counterpart]: `--polcy`: is not known; did you mean `--policy`?\n"
    );
    let strict = [&["config", "from-flags", "--strict"], &line[..]].concat();
    refused(&strict, "", "error: --polcy not known");
}

#[test]
fn yaml() {
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for i in 1..12 {
        let before = format!("*a{}", i - 1);
        bomb.push_str(&format!("a{i}: &a{i} [{}]\n", vec![before; 10].join(", ")));
    }
    let deep = format!("a: {}{}", "[".repeat(5000), "]".repeat(5000));
    for (text, message) in [
        ("", "stdin:1:1: the file is not a mapping"),
        ("- a\n", "stdin:1:1: the file is not a mapping"),
        ("a: [1\nb: 2\n", "stdin:2:2: "),
        ("a: 1\n'b\n", "stdin:"),
        ("a: canary\na: canary\n", "duplicate"),
        ("a: &a [*a]\n", "stdin:1:4: recursion limit"),
        ("a: *b\n", "stdin:1:4: unknown anchor"),
        (
            "x: 1\nmodel_list: canary\n",
            "stdin:2:1: `model_list` is not a list",
        ),
        (
            "router_settings: []\n",
            "stdin:1:1: `router_settings` is not a mapping",
        ),
        ("a: \"\\x\"\n", "stdin:1:7: "),
        (&bomb, "stdin:1:1: repetition limit"),
        (&deep, "recursion limit"),
    ] {
        refused(&["config", "import", "-"], text, message);
    }
    refused(
        &["config", "import", "/nonexistent/x.yaml"],
        "",
        "/nonexistent/x.yaml",
    );
    refused(
        &["config", "import", "--from", "nginx", "x"],
        "",
        "invalid value",
    );
}
