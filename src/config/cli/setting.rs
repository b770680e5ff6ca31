//! What was given on the command line and in the environment, flag by flag.

use std::fmt;

use toml::Value;

use super::absent::LATER;
use super::flag::Flag;
use super::table::{FLAGS, RUST_LOG};
use super::value::{ValueError, parse, parse_variable};
use crate::config::Given;

/// A flag with the values it was given; a list flag has all of them, another one the last.
#[derive(Clone, Debug)]
pub struct Setting {
    /// The flag.
    pub flag: &'static Flag,
    /// Where it was given.
    pub given: Given,
    /// Its values, in the form of the file.
    pub values: Vec<Value>,
}

/// What the variables said.
#[derive(Clone, Debug, Default)]
pub struct Variables {
    /// Flags that a variable sets.
    pub settings: Vec<Setting>,
    /// The filter expression of `RUST_LOG`, where no variable that comes before it sets the level.
    pub filter: Option<String>,
    /// What the operator should know.
    pub notices: Vec<Notice>,
}

/// A remark about a variable that was not used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Kubernetes made it for a Service; it is no setting.
    ServiceLink(String),
    /// Its feature is not part of this version.
    Unavailable(String),
}

impl Notice {
    /// The stable word for this kind of remark.
    pub fn code(&self) -> &'static str {
        match self {
            Self::ServiceLink(_) => "variable-service-link",
            Self::Unavailable(_) => "variable-unavailable",
        }
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ServiceLink(name) => write!(
                out,
                "variable `{name}` is ignored: its value is an address that Kubernetes made for a \
                 Service, not a port"
            ),
            Self::Unavailable(name) => write!(
                out,
                "variable `{name}` is ignored: its setting is not available in this version"
            ),
        }
    }
}

/// A variable with a value that its setting cannot have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid value {} for variable `{name}`: {source}", shown(value.as_deref()))]
pub struct VariableError {
    /// The variable.
    pub name: String,
    /// Its value, unless it is a secret.
    pub value: Option<String>,
    /// What is wrong with it.
    pub source: ValueError,
}

fn shown(value: Option<&str>) -> String {
    value.map_or_else(|| "(hidden)".to_owned(), |value| format!("`{value}`"))
}

/// Reads the variables. One that is empty counts as unset.
///
/// # Errors
/// [`VariableError`] for the first one that has no proper value.
pub fn variables(lookup: &dyn Fn(&str) -> Option<String>) -> Result<Variables, VariableError> {
    let get = |name: &str| lookup(name).filter(|value| !value.trim().is_empty());
    let mut found = Variables::default();
    for flag in FLAGS {
        let name = flag.variable();
        if let Some(value) = get(&name) {
            if name.ends_with("_PORT") && value.starts_with("tcp://") {
                found.notices.push(Notice::ServiceLink(name));
            } else {
                found.settings.push(from_variable(flag, name, &value)?);
            }
        } else if flag.legacy == Some(RUST_LOG) {
            // A bare level is the level; anything else is an expression for the log itself.
            match get(RUST_LOG) {
                Some(word) if parse(flag.kind, word.trim()).is_ok() => {
                    let setting = from_variable(flag, RUST_LOG.to_owned(), &word)?;
                    found.settings.push(setting);
                }
                filter => found.filter = filter,
            }
        } else if let Some(legacy) = flag.legacy
            && let Some(value) = get(legacy)
        {
            found
                .settings
                .push(from_variable(flag, legacy.to_owned(), &value)?);
        }
    }
    let later = LATER.iter().flat_map(|later| later.variables());
    for name in later {
        match get(&name) {
            Some(value) if name.ends_with("_PORT") && value.starts_with("tcp://") => {
                found.notices.push(Notice::ServiceLink(name));
            }
            Some(_) => found.notices.push(Notice::Unavailable(name)),
            None => {}
        }
    }
    Ok(found)
}

fn from_variable(flag: &'static Flag, name: String, value: &str) -> Result<Setting, VariableError> {
    match parse_variable(flag.kind, value) {
        Ok(values) => Ok(Setting {
            flag,
            given: Given::Env(name),
            values,
        }),
        Err(source) => Err(VariableError {
            name,
            value: (!flag.kind.is_secret()).then(|| value.to_owned()),
            source,
        }),
    }
}
