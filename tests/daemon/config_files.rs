//! Every file under `config/` is one that the gateway accepts.

use std::path::Path;
use std::process::Output;
use std::time::Duration;

use crate::support::{process, smg};

#[test]
fn every_file_of_config_passes_check_config() {
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let mut checked = 0;
    for entry in std::fs::read_dir(config).unwrap() {
        let path = entry.unwrap().path();
        if path
            .extension()
            .is_some_and(|extension| extension == "toml")
        {
            assert_accepted(&path);
            checked += 1;
        }
    }
    assert!(checked >= 3, "only {checked} files were found");
}

#[test]
fn the_examples_of_conf_d_pass_together_with_the_shipped_file() {
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let installed = tempfile::tempdir().unwrap();
    std::fs::copy(config.join("smg.toml"), installed.path().join("smg.toml")).unwrap();
    std::fs::create_dir(installed.path().join("conf.d")).unwrap();
    let mut examples = 0;
    for entry in std::fs::read_dir(config.join("conf.d")).unwrap() {
        let example = entry.unwrap();
        let name = example.file_name().into_string().unwrap();
        let enabled = installed
            .path()
            .join("conf.d")
            .join(name.trim_end_matches(".disabled"));
        std::fs::copy(example.path(), enabled).unwrap();
        examples += 1;
    }
    assert!(examples > 0);
    assert_accepted(&installed.path().join("smg.toml"));
}

/// The shipped file shows defaults in comments; a mistake there would be found by an operator.
#[test]
fn the_commented_keys_of_the_shipped_file_are_real() {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/smg.toml");
    let text = std::fs::read_to_string(shipped).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("smg.toml");
    std::fs::write(&path, uncommented(&text)).unwrap();
    let output = check(&path);
    let printed = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{printed}");
    assert!(
        text.contains("# max_connections"),
        "the shipped file has no comments to look into"
    );
}

/// Takes `# ` away where a key, a table or the rest of one follows.
fn uncommented(text: &str) -> String {
    let mut open = 0;
    let lines = text.lines().map(|line| match line.strip_prefix("# ") {
        Some(code) if open > 0 || code.starts_with('[') || is_assignment(code) => {
            let code = code.split(" # ").next().unwrap_or(code).trim_end();
            open += code.matches('[').count();
            open -= code.matches(']').count().min(open);
            code
        }
        _ => line,
    });
    lines.map(|line| format!("{line}\n")).collect()
}

fn is_assignment(code: &str) -> bool {
    let key = code.split_once(" = ").map(|(key, _)| key);
    key.is_some_and(|key| key.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
}

fn check(path: &Path) -> Output {
    let mut command = smg::command();
    command
        .arg("check-config")
        .arg(path)
        .arg("--no-environment");
    process::run(&mut command, Duration::from_secs(10))
}

#[track_caller]
fn assert_accepted(path: &Path) {
    let output = check(path);
    assert!(
        output.status.success(),
        "{}: {}\n{}{}",
        path.display(),
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
}
