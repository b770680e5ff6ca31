//! What no file may contain, and how long one may be.

const LONG: usize = 800;
/// The words in which the header of a longer file gives its reason.
const REASON: &str = "one file because";
/// Folders with files of ours; what is built or fetched is elsewhere.
const FOLDERS: &[&str] = &[
    ".ci",
    "benches",
    "config",
    "docs",
    "fixtures",
    "man",
    "packaging",
    "schemas",
    "scripts",
    "src",
    "tests",
];
/// Marks of unfinished work. Spelled in halves, so that this file passes its own test.
const UNFINISHED: &[&str] = &[
    concat!("FIX", "ME"),
    concat!("XX", "X"),
    concat!("to", "do!("),
    concat!("unimple", "mented!("),
];
/// Places that exist on a developer's machine only.
const MACHINE_PATHS: &[&str] = &[concat!("/wo", "rk/"), concat!("/ro", "ot/")];

#[test]
fn a_long_file_says_why_it_is_one() {
    let long: Vec<_> = our_files()
        .into_iter()
        .filter(|file| file.ends_with(".rs"))
        .filter(|file| is_long_without_reason(&crate::text(file)))
        .collect();
    assert!(
        long.is_empty(),
        "over {LONG} lines, and the header has no `{REASON}`: {long:?}"
    );
}

#[test]
fn nothing_is_marked_unfinished() {
    let findings: Vec<_> = our_files()
        .iter()
        .flat_map(|file| mentions(file, &crate::text(file), UNFINISHED))
        .collect();
    assert!(findings.is_empty(), "\n{}\n", findings.join("\n"));
}

#[test]
fn no_file_names_a_place_on_one_machine() {
    let findings: Vec<_> = our_files()
        .iter()
        .flat_map(|file| mentions(file, &crate::text(file), MACHINE_PATHS))
        .collect();
    assert!(findings.is_empty(), "\n{}\n", findings.join("\n"));
}

fn our_files() -> Vec<String> {
    let text = |file: &str| !file.contains("/__pycache__/") && !file.ends_with(".png");
    let mut files: Vec<_> = FOLDERS
        .iter()
        .flat_map(|folder| crate::files_below(folder, text))
        .collect();
    let top = [
        "Cargo.toml",
        "CHANGELOG.md",
        "Makefile",
        "README.md",
        "clippy.toml",
    ];
    files.extend(top.iter().flat_map(|file| crate::files_below(file, text)));
    files
}

fn is_long_without_reason(source: &str) -> bool {
    let header: Vec<_> = source
        .lines()
        .take_while(|line| line.starts_with("//!"))
        .collect();
    let header = header.join(" ").replace("//!", "");
    let header: Vec<_> = header.split_whitespace().collect();
    source.lines().count() > LONG && !header.join(" ").contains(REASON)
}

fn mentions(file: &str, text: &str, words: &[&str]) -> Vec<String> {
    let lines = text.lines().enumerate();
    lines
        .flat_map(|(at, line)| {
            let found = words.iter().filter(move |word| line.contains(**word));
            found.map(move |word| format!("{file}:{}: `{word}`", at + 1))
        })
        .collect()
}

#[test]
fn the_length_rule_wants_its_reason_in_the_header() {
    let body = "fn f() {}\n".repeat(LONG);
    assert!(!is_long_without_reason(&body));
    assert!(is_long_without_reason(&format!("//! Much.\n{body}")));
    assert!(is_long_without_reason(&format!(
        "//! Much.\n\n// {REASON}\n{body}"
    )));
    assert!(!is_long_without_reason(&format!(
        "//! Much: one file\n//! because it is.\n{body}"
    )));
}

#[test]
fn a_mention_is_found_with_its_line() {
    let word = UNFINISHED[0];
    let text = format!("fine\nnot fine: {word}\n");
    assert_eq!(
        mentions("a.rs", &text, UNFINISHED),
        [format!("a.rs:2: `{word}`")]
    );
}
