//! Programs of the system that a test needs.

use std::path::PathBuf;
use std::process::{Command, Output};

use crate::support::{process, smg};

/// Where a program is. Without it the test may skip itself (the reason is printed), but not in CI:
/// there a skip is a failure.
pub(crate) fn tool(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join(name));
    let found = found.into_iter().find(|program| program.is_file());
    if found.is_none() {
        let reason = format!("no `{name}`; `make setup` installs it");
        let is_set =
            |name| std::env::var(name).is_ok_and(|value| !matches!(&*value, "" | "0" | "false"));
        assert!(!is_set("CI") && !is_set("SMG_REQUIRE_ALL"), "{reason}");
        eprintln!("skipped: {reason}");
    }
    found
}

/// Runs the binary with these arguments.
pub(crate) fn smg(args: &[&str]) -> Output {
    run(smg::command().args(args))
}

/// What the binary prints with these arguments, which it must understand.
pub(crate) fn printed(args: &[&str]) -> String {
    text(&smg(args))
}

/// What a program printed, which must have ended well.
pub(crate) fn text(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Runs a program to its end.
pub(crate) fn run(command: &mut Command) -> Output {
    process::run(command, std::time::Duration::from_secs(60))
}
