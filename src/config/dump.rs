//! The effective configuration as TOML, each value with its origin where that is asked for.

use std::fmt::Write as _;

use toml::{Table, Value};

use super::Loaded;
use super::tree::path::is_bare;

/// Why there is no effective configuration to write.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// The configuration has errors.
    #[error("the configuration has errors")]
    Invalid,
    /// A value has no form in TOML.
    #[error("the configuration has no form in TOML")]
    Form(#[from] toml::ser::Error),
}

/// Writes the effective configuration, defaults and overlay included and secrets as `***`. With
/// `origins` each value is followed by a comment that says where it comes from. Included files are
/// part of it, so `include` is not.
///
/// # Errors
/// [`DumpError::Invalid`] if there is no `Spec`.
pub fn render_effective(loaded: &Loaded, origins: bool) -> Result<String, DumpError> {
    let spec = loaded.spec.as_ref().ok_or(DumpError::Invalid)?;
    let mut table = Table::try_from(spec)?;
    table.remove("include");
    let mut writer = Writer {
        out: String::new(),
        origins: origins.then_some(&loaded.origins),
    };
    writer.table(&table, "", "");
    Ok(writer.out)
}

struct Writer<'a> {
    out: String,
    origins: Option<&'a super::Origins>,
}

impl Writer<'_> {
    /// Writes a table whose header is `name`; its keys are found under `path`.
    fn table(&mut self, table: &Table, name: &str, path: &str) {
        let (plain, tables): (Vec<_>, Vec<_>) =
            table.iter().partition(|(_, value)| !is_section(value));
        for (key, value) in plain {
            let path = join(path, key);
            match value {
                Value::Array(items) if items.iter().any(|item| long(item)) => {
                    self.line(&format!("{} = [", quoted(key)));
                    for (i, item) in items.iter().enumerate() {
                        let comment = self.comment(&format!("{path}[{i}]"));
                        self.line(&format!("  {item},{comment}"));
                    }
                    self.line("]");
                }
                value => {
                    let comment = self.comment(&path);
                    self.line(&format!("{} = {value}{comment}", quoted(key)));
                }
            }
        }
        for (key, value) in tables {
            let (name, path) = (join(name, &quoted(key)), join(path, key));
            match value {
                Value::Array(items) => {
                    for (i, item) in items.iter().filter_map(Value::as_table).enumerate() {
                        self.line(&format!("\n[[{name}]]"));
                        self.table(item, &name, &format!("{path}[{i}]"));
                    }
                }
                Value::Table(inner) => {
                    if inner.is_empty() || inner.values().any(|value| !is_section(value)) {
                        self.line(&format!("\n[{name}]"));
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
        match self.origins {
            Some(origins) => format!("  # {}", origins.of(path)),
            None => String::new(),
        }
    }

    fn line(&mut self, text: &str) {
        // Writing into a string cannot fail.
        let _ = writeln!(self.out, "{text}");
    }
}

/// Whether a value is written below a header of its own.
fn is_section(value: &Value) -> bool {
    match value {
        Value::Table(_) => true,
        Value::Array(items) => !items.is_empty() && items.iter().all(Value::is_table),
        Value::String(_)
        | Value::Integer(_)
        | Value::Float(_)
        | Value::Boolean(_)
        | Value::Datetime(_) => false,
    }
}

/// Whether an element of a list deserves a line.
fn long(item: &Value) -> bool {
    item.is_table() || item.as_str().is_some_and(|text| text.contains("://"))
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

fn quoted(key: &str) -> String {
    if is_bare(key) {
        key.to_owned()
    } else {
        Value::String(key.to_owned()).to_string()
    }
}
