//! A command line and the file that is made from it are the same gateway.

use super::run::{cases, smg, status, stderr, stdout};

/// The effective configuration of a gateway that is started so.
fn dump(args: &[&str], variables: &[(&str, &str)]) -> String {
    let output = smg(&[&["config", "dump"], args].concat(), variables, "");
    assert_eq!(status(&output), 0, "{args:?}: {}", stderr(&output));
    stdout(&output)
}

/// Command lines of our own, of which nothing was left out.
#[test]
fn the_file_dumps_like_the_flags() {
    let folder = tempfile::tempdir().unwrap();
    let mut compared = 0;
    for case in cases("seeds", "sh") {
        let text = std::fs::read_to_string(&case).unwrap();
        let output = smg(&["config", "from-flags", "-"], &[], &text);
        let words = words(&text);
        if words.first().map(String::as_str) != Some("smg")
            || text.contains("--backend openai")
            // Certificates that are not there are for nobody to serve with.
            || text.contains("-cert-path")
            || status(&output) != 0
            || !stderr(&output).is_empty()
        {
            continue;
        }
        let file = folder.path().join("smg.toml");
        std::fs::write(&file, output.stdout).unwrap();
        let flags: Vec<&str> = words.iter().skip(1).map(String::as_str).collect();
        let secrets = [("SMG_API_KEY", "x"), ("API_KEY", "x")];
        // The variable of the flag would be a key, too.
        let secrets: &[_] = match text.contains("--api-key") {
            true => &secrets,
            false => &[],
        };
        let by_flags = dump(&flags, &[]);
        let by_file = dump(&["--config", file.to_str().unwrap()], secrets);
        assert_eq!(by_flags, by_file, "{}", case.display());
        compared += 1;
    }
    assert!(compared >= 20, "only {compared} were compared");
}

/// The words of a command line without anything that only a shell knows.
fn words(text: &str) -> Vec<String> {
    text.replace("\\\n", " ")
        .replace(['"', '\''], "")
        .split_whitespace()
        .map(str::to_owned)
        .collect()
}

/// Words one by one, one text and standard input are the same.
#[test]
fn however_the_command_line_is_given() {
    let line =
        "smg --worker-urls http://w1:8000 http://w2:8000 --port 8080 --prefill-policy random";
    let text = smg(&["config", "from-flags", line], &[], "");
    assert_eq!(status(&text), 0, "{}", stderr(&text));
    let from_stdin = smg(&["config", "from-flags", "--", "-"], &[], line);
    assert_eq!(stdout(&from_stdin), stdout(&text));
    for start in [
        &["config", "from-flags", "--"][..],
        &["config", "from-flags"],
    ] {
        let words: Vec<&str> = line.split(' ').collect();
        let by_word = smg(&[start, &words].concat(), &[], "");
        assert_eq!(stdout(&by_word), stdout(&text), "{start:?}");
    }
    let bare: Vec<&str> = line.split(' ').skip(1).collect();
    let bare = smg(
        &[&["config", "from-flags", "--"], &bare[..]].concat(),
        &[],
        "",
    );
    assert_eq!(stdout(&bare), stdout(&text));
}

/// Whose flags they are can be said where the command does not.
#[test]
fn a_dialect_that_is_named() {
    let run = |dialect: &str| {
        let args = [
            "config",
            "from-flags",
            "--dialect",
            dialect,
            "--",
            "--port",
            "1",
        ];
        stdout(&smg(&args, &[], ""))
    };
    assert!(!run("smg").contains("the default of"));
    for (dialect, line) in [
        (
            "sglang-router",
            "eviction_interval = \"60s\"  # the default of SGLang router 0.3",
        ),
        (
            "smg-1",
            "header_timeout = \"30s\"  # the default of SMG 1.13",
        ),
        (
            "vllm-router",
            "max_concurrent_requests = 32768  # the default of vLLM router 0.1",
        ),
    ] {
        assert!(run(dialect).lines().any(|l| l == line), "{}", run(dialect));
    }
}
