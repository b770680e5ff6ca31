//! The environment as the loader sees it: that of the process, or a given one.

use std::collections::BTreeMap;
use std::fmt;

/// Where variables are looked up.
#[derive(Clone, Default)]
pub enum Environment {
    /// The variables of the process.
    #[default]
    Process,
    /// These and no others.
    Given(BTreeMap<String, String>),
}

impl Environment {
    /// The value of a variable; `None` if it is unset or not UTF-8.
    #[expect(
        clippy::disallowed_methods,
        reason = "this is where config reads the environment"
    )]
    pub fn get(&self, name: &str) -> Option<String> {
        match self {
            Self::Process => std::env::var(name).ok(),
            Self::Given(map) => map.get(name).cloned(),
        }
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(iter: I) -> Self {
        Self::Given(
            iter.into_iter()
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
        )
    }
}

/// Names only: a value may be a secret.
impl fmt::Debug for Environment {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process => out.write_str("Process"),
            Self::Given(map) => out.debug_set().entries(map.keys()).finish(),
        }
    }
}
