//! The config loader against files: golden diagnostics, golden plans, precedence, secrets.
//!
//! A case is a file: `fixtures/config/ok/x.toml` must load (what it warns of is `x.warn`),
//! `fixtures/config/bad/x.toml` must not (what is said is `x.err`). A case of several files is a
//! folder with `smg.toml`. `UPDATE_GOLDEN=1 cargo test --test config` writes the goldens anew.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "the bans are for the gateway; tests fail by panic and read files as they are"
)]

#[cfg(test)]
mod files;
#[cfg(test)]
mod golden;
#[cfg(test)]
mod precedence;
#[cfg(test)]
mod routing;
#[cfg(test)]
mod secrets;
#[cfg(test)]
mod unknown_keys;

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Once;

use smg::config::{Environment, Format, Input, Loaded, load, render};

/// What no output may show. Every secret of the fixtures contains it.
const CANARY: &str = "canary";

/// The files that hold a secret, and a certificate that a bad case takes for a key.
const SECRETS: &[&str] = &[
    "client.key",
    "gateway.crt",
    "gateway.key",
    "tenant.key",
    "worker.key",
];

fn environment() -> Environment {
    [
        ("WORKER_KEY", "canary-from-environment"),
        ("EMPTY_KEY", ""),
        ("NAME", "main"),
        ("HOST", "10.0.0.9"),
    ]
    .into_iter()
    .collect()
}

fn input(file: &Path) -> Input {
    close_secrets();
    Input {
        file: Some(file.to_owned()),
        environment: environment(),
        ..Input::default()
    }
}

/// Gives the secrets of the fixtures the mode that secrets should have, which is not kept in git.
fn close_secrets() {
    static CLOSED: Once = Once::new();
    CLOSED.call_once(|| {
        for name in SECRETS {
            let path = Path::new("fixtures/config/ok").join(name);
            std::fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
        }
    });
}

/// The first files of all cases of a kind, named from the root of the project.
fn cases(kind: &str) -> Vec<PathBuf> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(Path::new("fixtures/config").join(kind)).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            assert!(
                path.join("smg.toml").is_file(),
                "{} has no smg.toml",
                path.display()
            );
            out.push(path.join("smg.toml"));
        } else if path.extension().is_some_and(|e| e == "toml") {
            out.push(path);
        }
    }
    out.sort();
    assert!(!out.is_empty());
    out
}

/// Compares with a golden file, or writes it. Nothing to say means no file.
fn golden(path: &Path, text: &str) -> Result<(), String> {
    let present = std::fs::read_to_string(path).unwrap_or_default();
    if present == text {
        return Ok(());
    }
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        if text.is_empty() {
            std::fs::remove_file(path).unwrap();
        } else {
            std::fs::write(path, text).unwrap();
        }
        return Ok(());
    }
    Err(format!("{} differs; it would be:\n{text}", path.display()))
}

fn show(loaded: &Loaded) -> String {
    render(&loaded.diagnostics, Format::Human)
}

fn loads(text: &str) -> Loaded {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("smg.toml");
    std::fs::write(&file, text).unwrap();
    copy_certificates(dir.path());
    load(&input(&file))
}

/// Lays the certificates of the good files into `folder`, for copies of those files.
fn copy_certificates(folder: &Path) {
    for name in [
        "ca.crt",
        "client.crt",
        "client.key",
        "gateway.crt",
        "gateway.key",
    ] {
        let from = Path::new("fixtures/config/ok").join(name);
        std::fs::copy(from, folder.join(name)).unwrap();
    }
}
