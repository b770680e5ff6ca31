//! Configuration files: whatever is in one, it is judged; what is taken has a plan, what is not has a
//! reason, and nothing that is said of it shows a secret.

use std::cell::RefCell;
use std::path::PathBuf;

use smg::config::{Format, Input, Secrets, load, render, render_effective};
use smg::plan::{Facts, compile};

thread_local! {
    /// The file that is written anew for each input.
    static FILE: RefCell<Option<(tempfile::TempDir, PathBuf)>> = const { RefCell::new(None) };
}

/// A value that a corpus plants where a secret belongs.
const CANARY: &str = "canary-in-the-file";

pub(crate) fn run(input: &[u8]) {
    // What a file may include is on this machine's disk; it is kept to what the input holds.
    if input.len() > 64 * 1024 || memmem(input, b"include") {
        return;
    }
    let file = FILE.with_borrow_mut(|file| {
        let (_, path) = file.get_or_insert_with(|| {
            let folder = tempfile::tempdir().expect("a folder");
            let path = folder.path().join("smg.toml");
            (folder, path)
        });
        path.clone()
    });
    std::fs::write(&file, input).expect("a file");
    let loaded = load(&Input {
        file: Some(file),
        secrets: Secrets::Note,
        ..Input::default()
    });
    assert_eq!(loaded.spec.is_some(), !loaded.has_errors());
    let mut said: Vec<String> = [Format::Human, Format::Json, Format::Github, Format::Sarif]
        .map(|format| render(&loaded.diagnostics, format))
        .into();
    if let Some(spec) = &loaded.spec {
        let plan = compile(spec, &Facts::default());
        said.push(format!("{spec:?}{plan:?}"));
        said.extend(render_effective(&loaded, true).ok());
    }
    // In a place where nobody expects one it is a word like any other.
    if planted(input) {
        for text in said {
            assert!(!text.contains(CANARY), "{text}");
        }
    }
}

/// Whether the canary stands only where the corpus has put it.
fn planted(input: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(input) else {
        return false;
    };
    let lines = text.lines().filter(|line| line.contains(CANARY));
    lines.clone().count() > 0
        && lines
            .into_iter()
            .all(|line| line.trim() == format!("api_key = \"{CANARY}\""))
        && toml_is_whole(text)
}

/// A quote that is open elsewhere makes of a key a text.
fn toml_is_whole(text: &str) -> bool {
    !text.contains("'''") && !text.contains("\"\"\"")
}

fn memmem(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}
