//! Completions, in the shells that they are for.

use std::process::Command;

use crate::tools::{printed, run, text, tool};

/// The script for a shell in a file of its own.
fn script(shell: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), printed(&["completions", shell])).unwrap();
    file
}

fn says(program: &std::path::Path, args: &[&str], file: &tempfile::NamedTempFile) -> String {
    let output = run(Command::new(program).args(args).arg(file.path()));
    let complaints = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(complaints, "", "{program:?} {args:?}");
    text(&output)
}

#[test]
fn bash() {
    let Some(bash) = tool("bash") else { return };
    let script = script("bash");
    says(&bash, &["-n"], &script);
    let completed = |words: &str, at: &str| {
        let line = format!(
            "source \"$1\"; words=({words}); COMP_WORDS=(\"${{words[@]}}\"); COMP_CWORD={at}; \
             _smg smg \"${{words[{at}]}}\" \"${{words[{at}-1]}}\"; printf '%s\\n' \"${{COMPREPLY[@]}}\""
        );
        let plain = ["--noprofile", "--norc", "-c", &line, "bash"];
        says(&bash, &plain, &script)
    };
    assert_eq!(completed("smg relo", "1"), "reload\n");
    assert_eq!(completed("smg top --inter", "2"), "--interval\n");
    assert_eq!(completed("smg config d", "2"), "dump\ndiff\n");
    assert!(completed("smg --policy p", "2").contains("power_of_two\n"));
}

#[test]
fn fish() {
    let Some(fish) = tool("fish") else { return };
    let script = script("fish");
    says(&fish, &["--no-execute"], &script);
    let completed = |line: &str| {
        let home = tempfile::tempdir().unwrap();
        let code = format!("source '{}'; complete -C '{line}'", script.path().display());
        let mut command = Command::new(&fish);
        command.args(["--no-config", "-c", &code]);
        command
            .env("HOME", home.path())
            .env_remove("XDG_CONFIG_HOME");
        text(&run(&mut command))
    };
    assert!(completed("smg relo").starts_with("reload\t"));
    assert!(completed("smg top --inter").starts_with("--interval\t"));
    let inner = completed("smg config d");
    assert!(
        inner.contains("dump\t") && inner.contains("diff\t"),
        "{inner}"
    );
}

#[test]
fn zsh() {
    let Some(zsh) = tool("zsh") else { return };
    let script = script("zsh");
    says(&zsh, &["-f", "-n"], &script);
    // Completion needs a terminal; that the function is known for `smg`, and what it offers, does
    // not.
    let code = "autoload -Uz compinit && compinit -u -D && source \"$1\" && print -r -- $_comps[smg] \
                && whence -w _smg_commands";
    let found = says(&zsh, &["-f", "-c", code, "zsh"], &script);
    assert_eq!(found, "_smg\n_smg_commands: function\n");
    let text = std::fs::read_to_string(script.path()).unwrap();
    assert!(text.contains("'reload:") && text.contains("'top:"));
}
