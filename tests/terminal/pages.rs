//! The manual pages, as they are made now.

use std::process::Command;

use crate::tools::{printed, run, text, tool};

fn pages() -> (tempfile::TempDir, [std::path::PathBuf; 2]) {
    let folder = tempfile::tempdir().unwrap();
    printed(&["man", "--dir", folder.path().to_str().unwrap()]);
    let pages = ["smg.1", "smg.toml.5"].map(|name| folder.path().join(name));
    (folder, pages)
}

#[test]
fn mandoc_finds_nothing_to_warn_of() {
    let Some(mandoc) = tool("mandoc") else { return };
    let (_folder, pages) = pages();
    for page in &pages {
        let output = run(Command::new(&mandoc)
            .args(["-T", "lint", "-W", "warning"])
            .arg(page));
        let found = String::from_utf8(output.stdout).unwrap();
        // Pages that are the same each time bear no date.
        let found: Vec<&str> = found
            .lines()
            .filter(|line| !line.contains("missing date"))
            .collect();
        assert!(found.is_empty(), "{found:#?}");
    }
}

#[test]
fn the_page_has_what_readers_look_for() {
    let Some(mandoc) = tool("mandoc") else { return };
    let (_folder, [page, _]) = pages();
    let shown = text(&run(Command::new(mandoc)
        .args(["-T", "ascii", "-O", "width=78"])
        .arg(page)));
    // Bold is typed twice, over itself.
    let mut plain = String::new();
    for c in shown.chars() {
        match c {
            '\u{8}' => drop(plain.pop()),
            c => plain.push(c),
        }
    }
    let mut sections = plain.lines().filter(|line| {
        line.starts_with(|c: char| c.is_ascii_uppercase()) && !line.contains("smg ")
    });
    for wanted in [
        "NAME",
        "SYNOPSIS",
        "DESCRIPTION",
        "OPTIONS",
        "COMMANDS",
        "EXIT STATUS",
        "FILES",
        "ENVIRONMENT",
        "SIGNALS",
        "EXAMPLES",
        "SEE ALSO",
    ] {
        let found = sections.find(|line| line.trim() == wanted);
        assert!(found.is_some(), "no {wanted}:\n{plain}");
    }
    for wanted in [
        "smg check-config [OPTIONS] [FILE]",
        "smg config dump",
        "smg help [COMMAND...]",
        "smg top [OPTIONS]",
        "One of human, json, github, sarif.",
        "SIGTERM, SIGINT",
        "SIGUSR2",
    ] {
        assert!(plain.contains(wanted), "no `{wanted}`:\n{plain}");
    }
    let long: Vec<&str> = plain
        .lines()
        .filter(|line| line.chars().count() > 80)
        .collect();
    assert!(long.is_empty(), "{long:#?}");
}
