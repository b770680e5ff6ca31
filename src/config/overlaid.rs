//! What flags and variables say, as the file that would say the same.

use toml::{Table, Value};

use super::tree::{self, Mark, Node};
use super::{Loaded, Origin};

/// The keys that flags and variables set, as tables of the file, each with the path by which
/// [`super::Origins::of`] knows it. Elements of lists bring their name along, and what is there
/// without being written is written as soon as one of its list is.
pub fn overlaid(loaded: &Loaded) -> (Table, Vec<(String, Origin)>) {
    let mut origins = Vec::new();
    let mut table = Table::new();
    for entry in loaded.origins.root.entries() {
        if let Some(value) = said(&entry.node, &entry.key, loaded, &mut origins) {
            table.insert(entry.key.clone(), value);
        }
    }
    (table, origins)
}

fn said(
    node: &Node,
    path: &str,
    loaded: &Loaded,
    origins: &mut Vec<(String, Origin)>,
) -> Option<Value> {
    if !is_said(node) {
        return None;
    }
    if node.mark != Mark::Default {
        origins.push((path.to_owned(), loaded.origins.of(path)));
    }
    match &node.value {
        tree::Value::Table(entries) => {
            let mut table = Table::new();
            for entry in entries {
                let path = format!("{path}.{}", entry.key);
                if let Some(value) = said(&entry.node, &path, loaded, origins) {
                    table.insert(entry.key.clone(), value);
                }
            }
            Some(Value::Table(table))
        }
        tree::Value::Array(nodes) => {
            let mut items = Vec::new();
            for (i, node) in nodes.iter().filter(|node| !node.is_absent()).enumerate() {
                let path = format!("{path}[{i}]");
                let whole = said(node, &path, loaded, origins);
                let value = match (whole, plain(node)) {
                    // What the element is without being told comes first.
                    (Some(Value::Table(said)), Some(Value::Table(mut all))) => {
                        all.retain(|key, _| ["name", "address", "serve"].contains(&key));
                        all.extend(said);
                        Value::Table(all)
                    }
                    (Some(value), _) => value,
                    (None, Some(value)) => value,
                    (None, None) => continue,
                };
                items.push(value);
            }
            Some(Value::Array(items))
        }
        _ => plain(node),
    }
}

/// Whether anything at or below a node is not a default.
fn is_said(node: &Node) -> bool {
    if node.is_absent() {
        return false;
    }
    node.mark != Mark::Default
        || node.elements().iter().any(is_said)
        || node.entries().iter().any(|entry| is_said(&entry.node))
}

fn plain(node: &Node) -> Option<Value> {
    Some(match &node.value {
        tree::Value::Absent | tree::Value::Unknown => return None,
        tree::Value::Bool(value) => Value::Boolean(*value),
        tree::Value::Int(value) => Value::Integer(*value),
        tree::Value::Float(value) => Value::Float(*value),
        tree::Value::Str(text) => Value::String(text.clone()),
        tree::Value::Date(text) => Value::Datetime(text.parse().ok()?),
        tree::Value::Array(nodes) => Value::Array(nodes.iter().filter_map(plain).collect()),
        tree::Value::Table(entries) => Value::Table(
            entries
                .iter()
                .filter_map(|entry| Some((entry.key.clone(), plain(&entry.node)?)))
                .collect(),
        ),
    })
}
