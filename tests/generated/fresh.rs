//! Freshness and completeness.

use std::path::{Path, PathBuf};
use std::process::Command;

use smg::config::cli::table::FLAGS;

fn smg(args: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_smg"));
    let output = command.args(args).env_clear().output().unwrap();
    assert!(output.status.success(), "{args:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn generated_files_are_fresh() {
    let dir = tempfile::tempdir().unwrap();
    smg(&["man", "--dir", dir.path().to_str().unwrap()]);
    for (committed, now) in [
        ("schemas/smg.schema.json", smg(&["schema"])),
        ("docs/CONFIG.md", smg(&["man", "--markdown"])),
        ("man/smg.1", read(&dir.path().join("smg.1"))),
        ("man/smg.toml.5", read(&dir.path().join("smg.toml.5"))),
    ] {
        assert!(
            read(&root(committed)) == now,
            "`{committed}` is out of date: run `make gen`"
        );
    }
    assert_eq!(smg(&["man"]), read(&root("man/smg.1")));
}

#[test]
fn every_flag_is_documented_everywhere() {
    let help = smg(&["help"]);
    let man = read(&root("man/smg.1")).replace("\\-", "-");
    let keys = read(&root("man/smg.toml.5")).replace("\\-", "-");
    let markdown = read(&root("docs/CONFIG.md"));
    let shells = ["bash", "zsh", "fish", "elvish", "powershell"];
    let completions = shells.map(|shell| (shell, smg(&["completions", shell])));
    for flag in FLAGS {
        let (dashed, variable) = (flag.dashed(), flag.variable());
        assert!(help.contains(&dashed), "help: {dashed}");
        assert!(
            man.contains(&format!("\\fB{dashed}\\fR")),
            "smg.1: {dashed}"
        );
        assert!(man.contains(&variable), "smg.1: {variable}");
        for alias in flag.aliases {
            assert!(
                man.contains(&format!("\\fB--{alias}\\fR")),
                "smg.1: --{alias}"
            );
            assert!(help.contains(&format!("--{alias}")), "help: --{alias}");
        }
        if !flag.target.references().is_empty() {
            let line = format!("- Flag: `{dashed}`, variable `{variable}`");
            assert!(markdown.contains(&line), "CONFIG.md: {dashed}");
            assert!(keys.contains(&variable), "smg.toml.5: {variable}");
        }
        for (shell, script) in &completions {
            assert!(script.contains(flag.name), "{shell}: {dashed}");
        }
    }
}

#[test]
fn the_reference_has_every_key_of_the_schema() {
    let schema: serde_json::Value = serde_json::from_str(&smg(&["schema"])).unwrap();
    let tables = schema["$defs"].as_object().unwrap().values();
    let keys = std::iter::once(&schema)
        .chain(tables)
        .flat_map(|table| table["properties"].as_object().into_iter().flatten());
    // A table has a chapter in place of an entry, and other keys than these no page.
    let names = keys.filter(|(_, key)| {
        let text = key["description"].as_str().unwrap_or_default();
        text.contains("Unit: ") && !text.contains("Unit: table.")
    });
    let names: Vec<&String> = names.map(|(name, _)| name).collect();
    assert!(names.len() > 80, "{}", names.len());
    let markdown = read(&root("docs/CONFIG.md"));
    let man = read(&root("man/smg.toml.5"));
    for name in names {
        let heading = markdown.lines().any(|line| {
            let key = line
                .strip_prefix("#### `")
                .and_then(|line| line.strip_suffix('`'));
            key.is_some_and(|key| key == *name || key.ends_with(&format!(".{name}")))
        });
        assert!(
            heading
                || markdown.contains(&format!("### `[[{name}]]`"))
                || markdown.contains(&format!(".{name}]]`")),
            "CONFIG.md: {name}"
        );
        assert!(
            man.contains(&format!("\\fB{name}\\fR\n"))
                || man.contains(&format!("[[{name}]]"))
                || man.contains(&format!(".{name}]]")),
            "smg.toml.5: {name}"
        );
    }
}

#[test]
fn the_schema_accepts_every_good_file() {
    let schema: serde_json::Value = serde_json::from_str(&smg(&["schema"])).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let mut count = 0;
    for dir in ["fixtures/config/ok", "config"] {
        for entry in std::fs::read_dir(root(dir)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|extension| extension != "toml") {
                continue;
            }
            let value: toml::Value = toml::from_str(&read(&path)).unwrap();
            let value = serde_json::to_value(dates_as_text(value)).unwrap();
            let errors: Vec<String> = validator
                .iter_errors(&value)
                .map(|error| format!("{}: {error}", error.instance_path))
                .collect();
            assert!(errors.is_empty(), "{}: {errors:#?}", path.display());
            count += 1;
        }
    }
    assert!(count > 5, "{count}");
    for bad in [
        "{}",
        r#"{"version":1,"x":1}"#,
        r#"{"version":1,"server":{"request_timeout":5}}"#,
    ] {
        let value = serde_json::from_str(bad).unwrap();
        assert!(!validator.is_valid(&value), "{bad}");
    }
}

/// JSON has no dates; an editor sees their text.
fn dates_as_text(value: toml::Value) -> toml::Value {
    match value {
        toml::Value::Datetime(date) => toml::Value::String(date.to_string()),
        toml::Value::Array(items) => {
            toml::Value::Array(items.into_iter().map(dates_as_text).collect())
        }
        toml::Value::Table(table) => {
            let entries = table.into_iter();
            entries
                .map(|(key, value)| (key, dates_as_text(value)))
                .collect::<toml::Table>()
                .into()
        }
        other => other,
    }
}
