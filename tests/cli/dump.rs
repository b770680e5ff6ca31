//! What `smg config dump --origins` prints, key by key.

use std::collections::BTreeMap;

use crate::binary::{smg, status, stderr, stdout};

/// Value and origin of every key, with names in place of the indices of lists of tables.
pub(crate) type Dump = BTreeMap<String, (String, String)>;

pub(crate) fn dump(args: &[&str], variables: &[(&str, &str)]) -> Dump {
    let output = smg(
        &[&["config", "dump", "--origins"], args].concat(),
        variables,
    );
    assert_eq!(
        status(&output),
        0,
        "{args:?} {variables:?}: {}",
        stderr(&output)
    );
    read_dump(&stdout(&output))
}

pub(crate) fn read_dump(text: &str) -> Dump {
    let mut dump = Dump::new();
    let (mut section, mut element, mut open) = (String::new(), String::new(), None);
    for line in text.lines() {
        let (line, origin) = line.split_once("  # ").unwrap_or((line, ""));
        if let Some(header) = line.strip_prefix("[[").and_then(|l| l.strip_suffix("]]")) {
            section = header.to_owned();
            element = String::new();
        } else if let Some(header) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            section = header.to_owned();
        } else if line == "]" {
            open = None;
        } else if let Some((key, count)) = &mut open {
            let value = line.trim().trim_end_matches(',').to_owned();
            dump.insert(format!("{key}[{count}]"), (value, origin.to_owned()));
            *count += 1;
        } else if let Some((key, value)) = line.split_once(" = ") {
            let list = section.split('.').next().unwrap_or_default().to_owned();
            if key == "name" && list == section {
                element = value.trim_matches('"').to_owned();
            }
            let path = match ["listeners", "pools", "models"].contains(&list.as_str()) {
                true => section.replacen(&list, &format!("{list}[{element}]"), 1),
                false => section.clone(),
            };
            let path = if path.is_empty() {
                key.to_owned()
            } else {
                format!("{path}.{key}")
            };
            match value {
                "[" => open = Some((path, 0)),
                value => {
                    dump.insert(path, (value.to_owned(), origin.to_owned()));
                }
            }
        }
    }
    dump
}
