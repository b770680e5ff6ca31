//! The file that is printed: tables in the order of the reference, each key with a comment that
//! says where it comes from, and at the end what has no counterpart.

use std::collections::BTreeMap;

use toml::{Table, Value};

use crate::config::is_bare;

/// A file in the making.
#[derive(Debug, Default)]
pub(super) struct Document {
    /// What stands at the top, line by line.
    pub(super) head: Vec<String>,
    /// The content, without `version`.
    pub(super) table: Table,
    /// Remarks behind keys and headers, by the path of the key.
    pub(super) comments: BTreeMap<String, String>,
    /// What works differently here.
    pub(super) notes: Vec<String>,
    /// What has no counterpart.
    pub(super) left: Vec<Left>,
}

/// Something that has no counterpart, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Left {
    /// A flag, or the path of a key.
    pub(super) what: String,
    /// The reason, and what to do instead.
    pub(super) why: String,
}

impl Document {
    /// Adds to what has no counterpart, once.
    pub(super) fn leave(&mut self, what: impl Into<String>, why: impl Into<String>) {
        let left = Left {
            what: what.into(),
            why: why.into(),
        };
        if !self.left.contains(&left) {
            self.left.push(left);
        }
    }

    /// Adds to what works differently, once.
    pub(super) fn note(&mut self, note: impl Into<String>) {
        let note = note.into();
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    /// The text of the file.
    pub(super) fn render(&self) -> String {
        let mut writer = Writer {
            out: String::new(),
            comments: &self.comments,
        };
        for line in &self.head {
            writer.remark("", line);
        }
        writer.out.push_str("version = 1\n");
        writer.table(&self.table, "", "");
        for (title, remarks) in [
            ("What works differently here:", self.notes.clone()),
            (
                "What has no counterpart:",
                self.left
                    .iter()
                    .map(|left| format!("{}: {}", left.what, left.why))
                    .collect(),
            ),
        ] {
            if !remarks.is_empty() {
                writer.out.push('\n');
                writer.remark("", title);
            }
            for remark in remarks {
                writer.remark("- ", &remark);
            }
        }
        writer.out
    }

    /// What has no counterpart, as it is told on standard error.
    pub(super) fn warnings(&self) -> String {
        self.left
            .iter()
            .map(|left| {
                format!(
                    "warning[no-counterpart]: {}: {}\n",
                    printable(&left.what),
                    printable(&left.why)
                )
            })
            .collect()
    }
}

struct Writer<'a> {
    out: String,
    comments: &'a BTreeMap<String, String>,
}

/// Tables in the order of the reference.
const ORDER: &[&str] = &[
    "server",
    "listeners",
    "pools",
    "models",
    "routing",
    "reliability",
    "reliability.health",
    "reliability.timeouts",
    "reliability.retry",
    "reliability.circuit_breaker",
    "reliability.admission",
    "auth",
    "audit",
    "metrics",
    "tracing",
    "logging",
];

/// Lists of tables whose elements have a header each.
const SECTIONS: &[&str] = &[
    "listeners",
    "pools",
    "models",
    "auth.tenants",
    "auth.control_plane.api_keys",
];

impl Writer<'_> {
    /// Writes a table whose header is `name`; its keys have their comments under `path`.
    fn table(&mut self, table: &Table, name: &str, path: &str) {
        let (plain, mut tables): (Vec<_>, Vec<_>) = table
            .iter()
            .partition(|(key, value)| !is_section(&join(name, key), value));
        for (key, value) in plain {
            let comment = self.comment(&join(path, key));
            match value {
                Value::Array(items) if items.iter().any(deserves_line) => {
                    self.line(&format!("{} = [{comment}", quoted(key)));
                    for item in items {
                        self.line(&format!("  {},", escaped(item)));
                    }
                    self.line("]");
                }
                value => self.line(&format!("{} = {}{comment}", quoted(key), escaped(value))),
            }
        }
        tables.sort_by_key(|(key, _)| {
            let name = join(name, key);
            ORDER.iter().position(|known| *known == name)
        });
        for (key, value) in tables {
            let (name, path) = (join(name, &quoted(key)), join(path, key));
            match value {
                Value::Array(items) => {
                    for (i, item) in items.iter().filter_map(Value::as_table).enumerate() {
                        let path = format!("{path}[{i}]");
                        let comment = self.comment(&path);
                        self.line(&format!("\n[[{name}]]{comment}"));
                        self.table(item, &name, &path);
                    }
                }
                Value::Table(inner) => {
                    let own =
                        |(key, value): (&String, &Value)| !is_section(&join(&name, key), value);
                    if inner.is_empty() || inner.iter().any(own) {
                        // The choice of a policy stands above the table with its options.
                        let choice = path
                            .rsplit_once('.')
                            .filter(|(parent, _)| parent.ends_with(".policy"));
                        let comment = match choice {
                            Some((parent, _)) => self.comment(parent),
                            None => self.comment(&path),
                        };
                        self.line(&format!("\n[{name}]{comment}"));
                    }
                    self.table(inner, &name, &path);
                }
                Value::String(_)
                | Value::Integer(_)
                | Value::Float(_)
                | Value::Boolean(_)
                | Value::Datetime(_) => {}
            }
        }
    }

    fn comment(&self, path: &str) -> String {
        match self.comments.get(path) {
            Some(text) => format!("  # {}", printable(text)),
            None => String::new(),
        }
    }

    /// A comment of its own lines, broken where a line gets long.
    fn remark(&mut self, bullet: &str, text: &str) {
        const WIDTH: usize = 96;
        let indent = " ".repeat(bullet.len());
        let mut line = bullet.to_owned();
        let mut empty = true;
        for word in printable(text).split(' ') {
            if !empty && line.chars().count() + 1 + word.chars().count() > WIDTH {
                self.line(format!("# {line}").trim_end());
                line.clone_from(&indent);
                empty = true;
            }
            if !empty {
                line.push(' ');
            }
            line.push_str(word);
            empty = false;
        }
        self.line(format!("# {line}").trim_end());
    }

    fn line(&mut self, text: &str) {
        self.out.push_str(text);
        self.out.push('\n');
    }
}

/// Whether a value is written below a header of its own.
fn is_section(name: &str, value: &Value) -> bool {
    match value {
        Value::Table(table) => !is_source(table),
        Value::Array(items) => !items.is_empty() && SECTIONS.contains(&name),
        Value::String(_)
        | Value::Integer(_)
        | Value::Float(_)
        | Value::Boolean(_)
        | Value::Datetime(_) => false,
    }
}

/// Whether a table only says where a secret is.
fn is_source(table: &Table) -> bool {
    table.len() == 1 && table.contains_key("env")
}

/// Whether an element of a list deserves a line.
fn deserves_line(item: &Value) -> bool {
    item.is_table() || item.as_str().is_some_and(|text| text.contains("://"))
}

/// The value as the file writes it: a `$` would be taken for a variable.
fn escaped(value: &Value) -> Value {
    match value {
        Value::String(text) => Value::String(text.replace('$', "$$")),
        Value::Array(items) => Value::Array(items.iter().map(escaped).collect()),
        Value::Table(table) => Value::Table(
            table
                .iter()
                .map(|(key, value)| (key.clone(), escaped(value)))
                .collect(),
        ),
        Value::Integer(_) | Value::Float(_) | Value::Boolean(_) | Value::Datetime(_) => {
            value.clone()
        }
    }
}

/// The text without characters that would end a comment or steer a terminal.
pub(super) fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

fn join(path: &str, key: &str) -> String {
    match path.is_empty() {
        true => key.to_owned(),
        false => format!("{path}.{key}"),
    }
}

fn quoted(key: &str) -> String {
    match is_bare(key) {
        true => key.to_owned(),
        false => Value::String(key.to_owned()).to_string(),
    }
}
