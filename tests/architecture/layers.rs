//! The layering test: a module names only modules on a lower line of `LAYERS`, and pure modules
//! touch neither files, sockets, the environment nor the clock.

use crate::scan::{self, Path};

/// Lowest first. Modules on one line are peers and do not name each other. A new top-level module
/// gets its place here, deliberately.
const LAYERS: &[&[&str]] = &[
    &["base"],
    &["api", "telemetry", "tls"],
    &["config"],
    &["plan"],
    &["policy"],
    &["state"],
    &["live"],
    &["upstream"],
    &["dispatch"],
    &["serve", "control"],
    &["daemon"],
    &["cmd"],
    &["main"],
];

/// Modules that compute and do nothing else: time comes in as a parameter or from `base::clock`.
const PURE: &[&str] = &["api", "plan", "policy", "live"];

/// What a pure module may not name; `*` at the end stands for any rest of the word.
const FORBIDDEN_TO_PURE: &[&[&str]] = &[
    &["std", "env"],
    &["std", "fs"],
    &["std", "net", "Tcp*"],
    &["std", "net", "Udp*"],
    &["std", "os", "unix", "net"],
    &["std", "process"],
    &["std", "thread"],
    &["tokio", "fs"],
    &["tokio", "net"],
    &["Instant", "now"],
    &["SystemTime", "now"],
];

/// What the plan may not contain: it is decided by text, and nothing in it moves.
const FORBIDDEN_TO_PLAN: &[&[&str]] = &[
    &["ArcSwap*"],
    &["Atomic*"],
    &["JoinHandle"],
    &["Mutex"],
    &["RwLock"],
    &["mpsc"],
    &["oneshot"],
];

#[test]
fn modules_name_only_what_is_below_them() {
    assert_none(
        source_files()
            .iter()
            .flat_map(|file| layering(file, &crate::text(file))),
    );
}

#[test]
fn every_module_has_its_place() {
    let mut modules: Vec<_> = source_files().iter().map(|file| module_of(file)).collect();
    modules.retain(|module| module != "lib");
    modules.sort();
    modules.dedup();
    let mut placed: Vec<_> = LAYERS
        .concat()
        .iter()
        .map(|module| (*module).to_owned())
        .collect();
    placed.sort();
    assert_eq!(modules, placed, "src/ on the left, LAYERS on the right");
}

#[test]
fn pure_modules_do_no_io() {
    assert_none(
        source_files()
            .iter()
            .filter(|file| PURE.contains(&&*module_of(file)))
            .flat_map(|file| {
                forbidden(file, &crate::text(file), FORBIDDEN_TO_PURE, "a pure module")
            }),
    );
}

#[test]
fn the_plan_holds_nothing_that_moves() {
    assert_none(
        source_files()
            .iter()
            .filter(|file| module_of(file) == "plan")
            .flat_map(|file| forbidden(file, &crate::text(file), FORBIDDEN_TO_PLAN, "the plan")),
    );
}

/// All of `src/` but the files that hold only tests.
fn source_files() -> Vec<String> {
    crate::files_below("src", |file| {
        file.ends_with(".rs") && !file.ends_with("/tests.rs")
    })
}

/// The top-level module that a file belongs to: `src/plan/route.rs` → `plan`.
fn module_of(file: &str) -> String {
    let below = file.strip_prefix("src/").unwrap_or(file);
    let first = below.split('/').next().unwrap_or(below);
    first.strip_suffix(".rs").unwrap_or(first).to_owned()
}

/// How many modules lie between the crate's root and what the file's text is in: 1 for
/// `src/plan/mod.rs` and `src/daemon.rs`, 2 for `src/plan/route.rs`.
fn depth_of(file: &str) -> usize {
    let parts = file.split('/').skip(1);
    parts
        .filter(|part| !matches!(*part, "mod.rs" | "lib.rs" | "main.rs"))
        .count()
}

fn layer_of(module: &str) -> Option<usize> {
    LAYERS.iter().position(|peers| peers.contains(&module))
}

fn layering(file: &str, source: &str) -> Vec<String> {
    let own = module_of(file);
    // The crate's root names every module; it only declares them.
    if own == "lib" {
        return Vec::new();
    }
    let paths = scan::paths(source);
    let named = paths
        .iter()
        .filter_map(|path| Some((path, top_level_name(file, path)?)));
    named
        .filter(|(_, named)| *named != own && layer_of(named) >= layer_of(&own))
        .map(|(path, named)| {
            let line = path.line;
            format!("{file}:{line}: `{own}` names `{named}`, which is not below it")
        })
        .chain(named_but_unknown(file, &paths))
        .collect()
}

/// A name directly below the root that is no module of `LAYERS` (an item re-exported there) would
/// be a way around the layers.
fn named_but_unknown(file: &str, paths: &[Path]) -> Vec<String> {
    let named = paths
        .iter()
        .filter_map(|path| Some((path.line, top_level_name(file, path)?)));
    named
        .filter(|(_, named)| layer_of(named).is_none())
        .map(|(line, named)| format!("{file}:{line}: `{named}` has no place in LAYERS"))
        .collect()
}

/// The top-level module that the path reaches through the crate's root, if it goes there.
fn top_level_name<'a>(file: &str, path: &'a Path) -> Option<&'a str> {
    let supers = path
        .segments
        .iter()
        .take_while(|segment| *segment == "super")
        .count();
    let below_root = match path.segments.first()?.as_str() {
        "crate" => 1,
        "smg" if module_of(file) == "main" => 1,
        "super" if supers == depth_of(file) + path.inline_modules => supers,
        _ => return None,
    };
    path.segments.get(below_root).map(String::as_str)
}

fn forbidden(file: &str, source: &str, patterns: &[&[&str]], who: &str) -> Vec<String> {
    let mut found = Vec::new();
    for path in scan::paths(source) {
        for pattern in patterns {
            if path
                .segments
                .windows(pattern.len())
                .any(|part| matches_pattern(part, pattern))
            {
                let (line, name) = (path.line, path.segments.join("::"));
                found.push(format!("{file}:{line}: {who} names `{name}`"));
            }
        }
    }
    found
}

fn matches_pattern(part: &[String], pattern: &[&str]) -> bool {
    part.iter()
        .zip(pattern)
        .all(|(word, wanted)| match wanted.strip_suffix('*') {
            Some(start) => word.starts_with(start),
            None => word == wanted,
        })
}

#[track_caller]
fn assert_none(findings: impl Iterator<Item = String>) {
    let findings: Vec<_> = findings.collect();
    assert!(findings.is_empty(), "\n{}\n", findings.join("\n"));
}

#[test]
fn a_look_upwards_is_found() {
    let upwards = "src/plan/route.rs:1: `plan` names `live`, which is not below it";
    for source in [
        "use crate::live::Snapshot;",
        "use crate::{base, live};",
        "use super::super::live;",
        "fn f() -> crate::live::T { loop {} }",
        "mod inner { use super::super::super::live; }",
        "macro_rules! m { () => { $crate::live::f() } }",
    ] {
        assert_eq!(
            layering("src/plan/route.rs", source),
            [upwards],
            "in {source}"
        );
    }
    assert_eq!(
        layering("src/main.rs", "fn main() { smg::cmd::run() }"),
        [""; 0]
    );
}

#[test]
fn a_peer_is_not_below() {
    let source = "\nuse crate::control::Publisher;";
    let finding = "src/serve/mod.rs:2: `serve` names `control`, which is not below it";
    assert_eq!(layering("src/serve/mod.rs", source), [finding]);
}

#[test]
fn what_is_below_or_ones_own_is_not_reported() {
    let source = "use crate::{base::clock, config, plan::pool}; use super::worker; mod m { use super::super::worker; }";
    assert_eq!(layering("src/plan/route.rs", source), [""; 0]);
}

#[test]
fn a_module_without_a_place_is_found() {
    let finding = "src/plan/mod.rs:1: `helpers` has no place in LAYERS";
    assert_eq!(
        layering("src/plan/mod.rs", "use crate::helpers::x;"),
        [finding]
    );
}

#[test]
fn io_in_a_pure_module_is_found() {
    for source in [
        "use std::fs;",
        "use std::{collections::HashMap, fs::File};",
        "fn f() { std::env::var(\"X\"); }",
        "use std::net::{IpAddr, TcpStream};",
        "use tokio::net::TcpListener;",
        "let now = Instant::now();",
        "let now = std::time::SystemTime::now();",
    ] {
        let findings = forbidden(
            "src/plan/mod.rs",
            source,
            FORBIDDEN_TO_PURE,
            "a pure module",
        );
        assert_eq!(findings.len(), 1, "in {source}: {findings:?}");
    }
    let harmless = "use std::{net::{IpAddr, SocketAddr}, time::Instant}; fn f(now: Instant) {}";
    assert_eq!(
        forbidden("src/plan/mod.rs", harmless, FORBIDDEN_TO_PURE, "x"),
        [""; 0]
    );
}

#[test]
fn a_lock_in_the_plan_is_found() {
    for source in [
        "use parking_lot::Mutex;",
        "a: AtomicU64,",
        "use tokio::sync::mpsc::Sender;",
    ] {
        let findings = forbidden("src/plan/mod.rs", source, FORBIDDEN_TO_PLAN, "the plan");
        assert_eq!(findings.len(), 1, "in {source}: {findings:?}");
    }
}
