//! YAML, behind one door: text to values, with the place of what is no YAML.

use serde_yaml::Value;

pub(super) type Yaml = Value;

/// Text that is no YAML, or not that of a config file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{line}:{column}: {message}")]
pub(in crate::cmd::migrate) struct YamlError {
    /// Line, from 1.
    line: usize,
    /// Column, from 1.
    column: usize,
    /// What is wrong; no value of the text is in it.
    message: String,
}

impl YamlError {
    /// A mistake that is about a key at the top of the text.
    pub(super) fn at_key(text: &str, key: &str, message: &str) -> Self {
        let starts = |line: &str| line.trim_start_matches(['"', '\'']).starts_with(key);
        Self {
            line: text.lines().position(starts).map_or(1, |at| at + 1),
            column: 1,
            message: message.to_owned(),
        }
    }

    /// A mistake that is about the whole text.
    pub(super) fn whole(message: &str) -> Self {
        Self {
            line: 1,
            column: 1,
            message: message.to_owned(),
        }
    }
}

/// Reads a document. Aliases are followed as far as they do not blow it up.
///
/// # Errors
/// [`YamlError`] with the place of the mistake.
pub(super) fn parse(text: &str) -> Result<Yaml, YamlError> {
    let mut value: Value = serde_yaml::from_str(text).map_err(|error| wrong(&error))?;
    value.apply_merge().map_err(|error| wrong(&error))?;
    Ok(value)
}

fn wrong(error: &serde_yaml::Error) -> YamlError {
    let (line, column) = error
        .location()
        .map_or((1, 1), |place| (place.line().max(1), place.column().max(1)));
    let text = error.to_string();
    let message = text.split(" at line ").next().unwrap_or(&text);
    YamlError {
        line,
        column,
        message: super::super::document::printable(message),
    }
}

/// The entries of a mapping whose keys are texts; `None` if it is no mapping.
pub(super) fn entries(value: &Yaml) -> Option<Vec<(&str, &Yaml)>> {
    let map = value.as_mapping()?;
    Some(
        map.iter()
            .filter_map(|(key, value)| Some((key.as_str()?, value)))
            .collect(),
    )
}

/// The value of a key of a mapping.
pub(super) fn get<'a>(value: &'a Yaml, key: &str) -> Option<&'a Yaml> {
    value
        .as_mapping()?
        .iter()
        .find(|(name, _)| name.as_str() == Some(key))
        .map(|(_, value)| value)
}

/// A number, also where it is quoted.
pub(super) fn number(value: &Yaml) -> Option<f64> {
    let number = match value {
        Value::Number(number) => number.as_f64()?,
        Value::String(text) => text.trim().parse().ok()?,
        _ => return None,
    };
    number.is_finite().then_some(number)
}
