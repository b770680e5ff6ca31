//! Runs the binary and looks at what it leaves.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// Runs the binary with nothing but these arguments, variables and this text to read.
pub(crate) fn smg(args: &[&str], variables: &[(&str, &str)], text: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_smg"))
        .args(args)
        .env_clear()
        .envs(variables.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // What does not read its input has gone before it is written.
    child.stdin.take().unwrap().write_all(text.as_bytes()).ok();
    child.wait_with_output().unwrap()
}

pub(crate) fn status(output: &Output) -> i32 {
    output.status.code().unwrap()
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// The fixtures in a folder with this ending, in order.
pub(crate) fn cases(folder: &str, ending: &str) -> Vec<PathBuf> {
    let folder = Path::new("fixtures/migrate").join(folder);
    let mut found: Vec<PathBuf> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == ending))
        .collect();
    found.sort();
    assert!(!found.is_empty(), "{}", folder.display());
    found
}

/// Compares with a golden file, or writes it. Nothing to say means no file.
pub(crate) fn golden(path: &Path, text: &str) -> Result<(), String> {
    let present = std::fs::read_to_string(path).unwrap_or_default();
    if present == text {
        return Ok(());
    }
    if std::env::var_os("UPDATE_GOLDEN").is_none() {
        return Err(format!("{} differs; it would be:\n{text}", path.display()));
    }
    match text.is_empty() {
        true => std::fs::remove_file(path).unwrap(),
        false => std::fs::write(path, text).unwrap(),
    }
    Ok(())
}

/// What `check-config` says of a file: valid, or the whole report.
pub(crate) fn check(text: &str) -> Result<(), String> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("smg.toml");
    std::fs::write(&file, text).unwrap();
    let output = smg(
        &["check-config", "--no-environment", file.to_str().unwrap()],
        &[],
        "",
    );
    match status(&output) {
        0 => Ok(()),
        _ => Err(format!("{}{}\n{text}", stdout(&output), stderr(&output))),
    }
}
