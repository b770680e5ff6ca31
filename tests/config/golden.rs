//! Files and what is said about them, and what they mean.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use smg::config::{Input, Secrets, Severity, load};
use smg::plan::{Facts, compile};

use super::{CANARY, cases, golden, input, show};

#[test]
fn good_files_load_and_warn_as_written() {
    let mut failures = Vec::new();
    for file in cases("ok") {
        let loaded = load(&input(&file));
        assert!(
            loaded.spec.is_some(),
            "{}:\n{}",
            file.display(),
            show(&loaded)
        );
        failures.extend(golden(&file.with_extension("warn"), &show(&loaded)).err());
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn bad_files_are_refused_as_written() {
    let mut failures = Vec::new();
    for file in cases("bad") {
        let loaded = load(&input(&file));
        assert!(
            loaded.spec.is_none() && loaded.has_errors(),
            "{} loads",
            file.display()
        );
        failures.extend(golden(&file.with_extension("err"), &show(&loaded)).err());
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// A plan says what a file means. It is compiled without facts: nothing is known of the workers.
#[test]
fn good_files_mean_what_is_written() {
    let mut failures = Vec::new();
    for file in cases("ok") {
        let spec = load(&input(&file)).spec.unwrap();
        let plan = compile(&spec, &Facts::default());
        let text = format!("{}\n", serde_json::to_string_pretty(&plan).unwrap());
        assert!(!text.contains(CANARY), "{}:\n{text}", file.display());
        failures.extend(golden(&file.with_extension("plan.json"), &text).err());
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Every file below the fixtures is a case, part of one, or a golden of one.
#[test]
fn every_fixture_is_used() {
    fn walk(folder: &Path, out: &mut BTreeSet<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, out);
            } else {
                out.insert(path);
            }
        }
    }
    let mut unused = BTreeSet::new();
    walk(Path::new("fixtures/config"), &mut unused);
    for (kind, goldens) in [("ok", ["warn", "plan.json"]), ("bad", ["err", "err"])] {
        for file in cases(kind) {
            for extension in goldens {
                unused.remove(&file.with_extension(extension));
            }
            for read in load(&input(&file)).files {
                if let Ok(read) = std::fs::canonicalize(&read) {
                    let root = std::fs::canonicalize(".").unwrap();
                    unused.remove(read.strip_prefix(root).unwrap());
                }
            }
        }
    }
    assert!(unused.is_empty(), "{unused:?}");
}

/// The schema that editors use agrees with the loader on every good file.
#[test]
fn good_files_match_the_schema() {
    let schema = smg::config::json_schema();
    let validator = jsonschema::validator_for(&schema).unwrap();
    for file in cases("ok") {
        let text = std::fs::read_to_string(&file).unwrap();
        if text.contains("${") {
            continue;
        }
        let value: toml::Value = toml::from_str(&text).unwrap();
        let value = serde_json::to_value(dates_as_text(value)).unwrap();
        let errors: Vec<String> = validator
            .iter_errors(&value)
            .map(|e| format!("{}: {e}", e.instance_path))
            .collect();
        assert!(errors.is_empty(), "{}: {errors:#?}", file.display());
    }
}

/// What is shipped as an example loads, away from the machine it is meant for.
#[test]
fn shipped_files_load() {
    let mut found = 0;
    for entry in std::fs::read_dir("config").unwrap() {
        let file = entry.unwrap().path();
        if file.extension().is_none_or(|e| e != "toml") {
            continue;
        }
        let loaded = load(&Input {
            secrets: Secrets::Note,
            ..input(&file)
        });
        assert!(
            loaded.spec.is_some(),
            "{}:\n{}",
            file.display(),
            show(&loaded)
        );
        found += 1;
    }
    assert!(found > 0);
}

/// What the shipped file shows in comments holds as well: every commented table and key, taken in.
#[test]
fn what_the_shipped_file_shows_in_comments_loads() {
    let text = std::fs::read_to_string("config/smg.toml").unwrap();
    let taken_in: Vec<&str> = text
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(rest) if is_toml(rest) => rest,
            _ => line,
        })
        .collect();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("smg.toml");
    let text = taken_in.join("\n");
    std::fs::write(&file, &text).unwrap();
    let loaded = load(&Input {
        secrets: Secrets::Note,
        ..input(&file)
    });
    let spec = loaded
        .spec
        .as_ref()
        .unwrap_or_else(|| panic!("{}\n{text}", show(&loaded)));
    assert_eq!(
        (spec.pools.len(), spec.models.len(), spec.tests.len()),
        (3, 2, 1),
        "{text}"
    );
    let warned = loaded
        .diagnostics
        .iter()
        .filter(|d| d.severity == Severity::Warning);
    assert_eq!(warned.count(), 0, "{}", show(&loaded));
}

/// Whether the text of a comment is a line of a file: a table, a key, or a line of a list.
fn is_toml(line: &str) -> bool {
    let key = line.split(" = ").next().unwrap_or_default();
    let is_key = line.contains(" = ")
        && key
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "_.".contains(c));
    let in_list = line.starts_with("  \"") || line.starts_with("  {");
    is_key || in_list || line == "]" || line.starts_with('[') && line.ends_with(']')
}

/// The example of a file of its own is read beside the shipped one.
#[test]
fn the_example_of_an_included_file_loads() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("conf.d")).unwrap();
    std::fs::copy("config/smg.toml", dir.path().join("smg.toml")).unwrap();
    let example = dir.path().join("conf.d/example.toml");
    std::fs::copy("config/conf.d/example.toml.disabled", example).unwrap();
    let loaded = load(&input(&dir.path().join("smg.toml")));
    assert!(loaded.spec.is_some(), "{}", show(&loaded));
    assert!(loaded.diagnostics.is_empty(), "{}", show(&loaded));
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
            let entries = entries.map(|(key, value)| (key, dates_as_text(value)));
            entries.collect::<toml::Table>().into()
        }
        other => other,
    }
}
