//! Secrets of what is converted: they are named by a variable, and their values go nowhere.

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest as _, Sha256};
use toml::Value;

use super::flags::in_variable;
use super::line;
use crate::config::cli::flag::{Flag, Kind};
use crate::config::cli::value::{self, ValueError};

/// The variables that stand for secrets.
#[derive(Debug, Default)]
pub(super) struct Hidden {
    /// Names in use.
    names: BTreeSet<String>,
    /// Hash of a secret to the variable that stands for it.
    known: BTreeMap<[u8; 32], String>,
    /// Variables that the operator has to set, as their values stood where they are no longer.
    pub(super) needed: Vec<String>,
    /// Keys of tenants: the tenant, and the variable of the key.
    pub(super) tenants: Vec<(String, String)>,
}

impl Hidden {
    /// The value of a secret flag without the secret.
    ///
    /// # Errors
    /// [`ValueError`] where the text has not the form of one.
    pub(super) fn value(&mut self, flag: &Flag, text: &str) -> Result<Value, ValueError> {
        match flag.kind {
            Kind::TenantKeys => {
                value::parse(flag.kind, text)?;
                let (tenant, key) = text.split_once(':').ok_or(ValueError::TenantKey)?;
                let name = self.variable(key, &format!("SMG_KEY_OF_{}", upper(tenant)));
                self.tenants.push((tenant.to_owned(), name.clone()));
                Ok(Value::from(format!("{tenant}:{name}")))
            }
            Kind::OperatorKeys => {
                let mut value = value::parse(flag.kind, text)?;
                if let Some(table) = value.as_table_mut() {
                    let of = |key: &str| {
                        let text = table.get(key).and_then(Value::as_str);
                        text.unwrap_or_default().to_owned()
                    };
                    let (id, key) = (of("id"), of("key"));
                    let name = self.variable(&key, &format!("SMG_ADMIN_KEY_{}", upper(&id)));
                    table.insert("key".to_owned(), in_variable(&name));
                }
                Ok(value)
            }
            _ => {
                value::parse(flag.kind, text)?;
                Ok(in_variable(&self.variable(text, &flag.variable())))
            }
        }
    }

    /// The variable for a secret: that which the text names as `${NAME}`, else one that is called
    /// like `wanted`.
    pub(super) fn variable(&mut self, text: &str, wanted: &str) -> String {
        if let Some(name) = line::variable(text) {
            return name.to_owned();
        }
        let hash: [u8; 32] = Sha256::digest(text.as_bytes()).into();
        if let Some(name) = self.known.get(&hash) {
            return name.clone();
        }
        let mut name = wanted.to_owned();
        let mut number = 2;
        while !self.names.insert(name.clone()) {
            name = format!("{wanted}_{number}");
            number += 1;
        }
        self.known.insert(hash, name.clone());
        self.needed.push(name.clone());
        name
    }
}

/// A text as part of the name of a variable.
pub(super) fn upper(text: &str) -> String {
    let fold = |c: char| match c.is_ascii_alphanumeric() {
        true => c.to_ascii_uppercase(),
        false => '_',
    };
    text.chars().take(40).map(fold).collect()
}
