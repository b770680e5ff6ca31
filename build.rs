//! Tells the binary what it was built from, for `smg --version-verbose`. Whatever cannot be found
//! out is left away; nothing here can fail the build.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=SMG_BUILD_REVISION");
    println!("cargo::rerun-if-env-changed=SOURCE_DATE_EPOCH");
    // Only release builds name a revision: in others it would mean a rebuild after every commit.
    let release = variable("PROFILE").is_some_and(|profile| profile == "release");
    // And only where the sources are a checkout themselves, not merely somewhere inside of one.
    let checkout = release && Path::new(".git").exists();
    let git = |args: &[&str]| if checkout { output("git", args) } else { None };
    if let Some(head) = git(&["rev-parse", "--git-path", "logs/HEAD"])
        && Path::new(&head).exists()
    {
        println!("cargo::rerun-if-changed={head}");
    }
    let given = variable("SMG_BUILD_REVISION");
    tell(
        "SMG_BUILD_REVISION",
        given.or_else(|| git(&["rev-parse", "--short=12", "HEAD"])),
    );
    // The day of the sources, so that two builds of them are the same.
    let epoch = variable("SOURCE_DATE_EPOCH");
    let day = match epoch.as_deref() {
        Some(epoch) => output("date", &["-u", "-d", &format!("@{epoch}"), "+%Y-%m-%d"]),
        None => git(&["show", "-s", "--format=%cs", "HEAD"]),
    };
    tell("SMG_BUILD_DATE", day);
    let rustc = variable("RUSTC").unwrap_or_else(|| "rustc".to_owned());
    let version = output(&rustc, &["--version"]);
    let version = version.map(|text| text.trim_start_matches("rustc ").to_owned());
    tell("SMG_BUILD_RUSTC", version);
}

fn tell(name: &str, value: Option<String>) {
    if let Some(value) = value {
        println!("cargo::rustc-env={name}={value}");
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a build script has no other input"
)]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The first line that a command prints, if it succeeds.
fn output(command: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(command).args(args).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let line = text.lines().next()?.trim().to_owned();
    (output.status.success() && !line.is_empty()).then_some(line)
}
