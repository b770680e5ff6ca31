//! Every command line and every file of the fixtures, and what is printed for it.

use std::path::Path;
use std::process::Output;

use super::run::{cases, check, golden, smg, status, stderr, stdout};

/// What no output may have in it; secrets of the fixtures are called so.
const CANARY: &str = "canary";

#[test]
fn launch_commands_of_the_documentation() {
    launch_commands("seeds");
}

#[test]
fn launch_commands_of_other_programs() {
    launch_commands("peers");
}

fn launch_commands(folder: &str) {
    let mut failures = Vec::new();
    for case in cases(folder, "sh") {
        let text = std::fs::read_to_string(&case).unwrap();
        let output = smg(&["config", "from-flags", "-"], &[], &text);
        failures.extend(judge(&case, &output));
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn files_of_litellm() {
    let mut failures = Vec::new();
    for case in cases("litellm", "yaml") {
        let output = smg(&["config", "import", case.to_str().unwrap()], &[], "");
        failures.extend(judge(&case, &output));
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// A result is whole, valid, without secrets, and as written beside the case.
fn judge(case: &Path, output: &Output) -> Vec<String> {
    let (printed, told) = (stdout(output), stderr(output));
    let mut failures = Vec::new();
    if printed.contains(CANARY) || told.contains(CANARY) {
        failures.push(format!("{}: a secret is shown", case.display()));
    }
    match status(output) {
        0 => {
            failures.extend(check(&printed).err());
            for warning in told.lines() {
                let what = warning.strip_prefix("warning[no-counterpart]: ");
                let what = what.and_then(|rest| rest.split(": ").next());
                // The file says the same, broken into lines.
                let flat = printed.replace("\n#   ", " ");
                if !what.is_some_and(|what| flat.contains(&format!("# - {what}: "))) {
                    failures.push(format!("{}: {warning}", case.display()));
                }
            }
            failures.extend(golden(&case.with_extension("toml"), &printed).err());
        }
        2 => {
            if !printed.is_empty() {
                failures.push(format!("{}: half a file is printed", case.display()));
            }
            failures.extend(golden(&case.with_extension("err"), &told).err());
        }
        other => failures.push(format!("{}: exit status {other}", case.display())),
    }
    failures
}
