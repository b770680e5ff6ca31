//! The environments of other languages that `make setup` makes under `build/`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::process;

/// The interpreter of `build/venv-<name>`. Without it the test may skip itself (the reason is
/// printed), but not in CI: there a skip is a failure.
pub(crate) fn python(name: &str) -> Option<PathBuf> {
    let venv = built(&format!("venv-{name}"));
    let python = venv.join("bin/python");
    if venv.join("complete").exists() && python.exists() {
        return Some(python);
    }
    skip(&venv);
    None
}

/// The modules of `build/<name>`, by the same rule.
pub(crate) fn node_modules(name: &str) -> Option<PathBuf> {
    let folder = built(name);
    if folder.join("complete").exists() {
        return Some(folder.join("node_modules"));
    }
    skip(&folder);
    None
}

fn skip(missing: &Path) {
    let reason = format!("no `{}`; `make setup` makes it", missing.display());
    let is_set =
        |name| std::env::var(name).is_ok_and(|value| !matches!(&*value, "" | "0" | "false"));
    assert!(!is_set("CI") && !is_set("SMG_REQUIRE_ALL"), "{reason}");
    eprintln!("skipped: {reason}");
}

/// Something that `make setup` put under `build/`.
pub(crate) fn built(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("build")
        .join(name)
}

/// Runs `tests/python/<script>` and panics with what it printed if it fails.
pub(crate) fn run_script(python: &Path, script: &str, args: &[&str]) {
    run_script_with(python, script, args, |_| {});
}

/// The same, with variables added to the command.
pub(crate) fn run_script_with(
    python: &Path,
    script: &str,
    args: &[&str],
    prepare: impl FnOnce(&mut Command),
) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/python")
        .join(script);
    let mut command = Command::new(python);
    command.arg("-B").arg(path).args(args);
    // Nothing of the developer's own account may steer the client, or reach anything but loopback.
    for name in [
        "OPENAI_API_KEY",
        "OPENAI_BASE_URL",
        "OPENAI_ORG_ID",
        "OPENAI_PROJECT_ID",
    ] {
        command.env_remove(name);
    }
    command.env("NO_PROXY", "127.0.0.1");
    prepare(&mut command);
    let output = process::run(&mut command, Duration::from_secs(120));
    let printed = [output.stdout, output.stderr].concat();
    assert!(
        output.status.success(),
        "{script} ended with {}:\n{}",
        output.status,
        String::from_utf8_lossy(&printed),
    );
}
