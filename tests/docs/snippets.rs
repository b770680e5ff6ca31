//! Pieces of configuration and of documents that a page shows: they must be what they look like.

use std::path::Path;
use std::process::Command;

use serde::Deserialize;

use crate::page::{Block, Page};

/// Mistakes that a part of a file makes only because the rest of it is not shown.
const OF_A_PART: &[&str] = &["pool-unknown", "model-unknown", "fallback-unknown"];

/// What is wrong with the blocks of a page that are no commands.
pub(crate) fn mistakes(page: &Page) -> Vec<String> {
    let of = |block: &Block| -> Option<String> {
        match &*block.language {
            "toml" => toml(block),
            "json" => match serde_json::from_str::<serde_json::Value>(&block.text) {
                Ok(_) => None,
                Err(error) => Some(format!("no JSON: {error}")),
            },
            "yaml" => serde_yaml::Deserializer::from_str(&block.text)
                .find_map(|document| serde_yaml::Value::deserialize(document).err())
                .map(|error| format!("no YAML: {error}")),
            "" | "text" | "ini" | "console" | "sh" | "stage" => None,
            other => Some(format!("nobody looks at blocks of `{other}`")),
        }
    };
    page.blocks
        .iter()
        .filter_map(|block| {
            of(block).map(|mistake| format!("{}:{}: {mistake}", page.path, block.line))
        })
        .collect()
}

fn toml(block: &Block) -> Option<String> {
    if block.has("file") && !block.has("invalid") {
        // The commands of the page say whether it is good, but it is TOML in any case.
        return toml::from_str::<toml::Table>(&block.text)
            .err()
            .map(|error| format!("no TOML: {error}"));
    }
    let is_whole = block
        .text
        .lines()
        .any(|line| line.starts_with("version = 1"));
    let dir = tempfile::tempdir().unwrap();
    let head = if is_whole { "" } else { "version = 1\n" };
    std::fs::write(dir.path().join("smg.toml"), format!("{head}{}", block.text)).unwrap();
    let (is_valid, found) = check(&dir.path().join("smg.toml"));
    let ids: Vec<_> = found.iter().map(|(_, id, _)| &**id).collect();
    if block.has("invalid") {
        let expected = block.value("invalid").unwrap_or_default();
        let as_said = !is_valid && (expected.is_empty() || ids.contains(&expected));
        return (!as_said).then(|| format!("meant to be invalid ({expected}), but: {ids:?}"));
    }
    let wrong: Vec<_> = found
        .iter()
        .filter(|(severity, id, _)| {
            severity == "error" && (is_whole || !OF_A_PART.contains(&&**id))
        })
        .map(|(_, id, message)| format!("{id}: {message}"))
        .collect();
    (!wrong.is_empty()).then(|| format!("check-config finds:\n{}", wrong.join("\n")))
}

/// Whether the file is valid, and what is found: severity, id, message.
fn check(path: &Path) -> (bool, Vec<(String, String, String)>) {
    let output = Command::new(env!("CARGO_BIN_EXE_smg"))
        .args(["check-config", "--no-environment", "--format", "json"])
        .arg(path)
        .env_clear()
        .output()
        .unwrap();
    let said: serde_json::Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stdout)));
    let found = said["diagnostics"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|one| {
            let text = |key: &str| one[key].as_str().unwrap_or_default().to_owned();
            (text("severity"), text("slug"), text("message"))
        })
        .collect();
    (output.status.success(), found)
}
