//! Secrets: where one comes from, and its value once it has been read.
//!
//! Invariant: neither `Debug` nor `Serialize` shows the value; it leaves only through
//! [`Secret::expose`].

use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, MapAccess};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::file::FilePath;

/// What is printed instead of a value.
pub const MASK: &str = "***";

/// Where a secret comes from.
#[derive(Clone, PartialEq, Eq)]
pub enum Source {
    /// Written where it is used.
    Literal,
    /// An environment variable.
    Env(String),
    /// A file; one line break at its end does not count.
    File(PathBuf),
    /// A credential that systemd hands to the service.
    Credential(String),
}

/// A value that must not be shown. Two are equal if source and value are.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    source: Source,
    value: Option<Arc<str>>,
}

impl Secret {
    /// A secret whose value is at hand.
    pub fn literal(value: &str) -> Self {
        Self {
            source: Source::Literal,
            value: Some(value.into()),
        }
    }

    /// A secret that is still to be read from its source.
    pub fn unresolved(source: Source) -> Self {
        Self {
            source,
            value: None,
        }
    }

    /// Where it comes from.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// Gives it the value that was read from its source.
    pub fn resolve(&mut self, value: &str) {
        self.value = Some(value.into());
    }

    /// The value; `None` until it has been read. The caller puts it on the wire and nowhere else.
    pub fn expose(&self) -> Option<&str> {
        self.value.as_deref()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(MASK)
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Literal => out.write_str("literal"),
            Self::Env(name) => write!(out, "env {name}"),
            Self::File(path) => write!(out, "file {}", path.display()),
            Self::Credential(name) => write!(out, "credential {name}"),
        }
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(MASK)
    }
}

const FIELDS: &[&str] = &["env", "file", "credential"];

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Secret;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a secret: { env = … }, { file = … }, { credential = … } or a string")
            }

            fn visit_str<E: de::Error>(self, value: &str) -> Result<Secret, E> {
                if value.is_empty() {
                    return Err(E::custom("a secret must not be empty"));
                }
                Ok(Secret::literal(value))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Secret, A::Error> {
                let mut source = None;
                while let Some(key) = map.next_key::<String>()? {
                    let next = match key.as_str() {
                        "env" => Source::Env(map.next_value()?),
                        "file" => Source::File(map.next_value::<FilePath>()?.into()),
                        "credential" => Source::Credential(map.next_value()?),
                        other => return Err(de::Error::unknown_field(other, FIELDS)),
                    };
                    if source.replace(next).is_some() {
                        return Err(de::Error::custom(
                            "a secret has one source: `env`, `file` or `credential`",
                        ));
                    }
                }
                source.map(Secret::unresolved).ok_or_else(|| {
                    de::Error::custom("a secret needs a source: `env`, `file` or `credential`")
                })
            }
        }

        from.deserialize_struct("Secret", FIELDS, Visitor)
    }
}

impl JsonSchema for Secret {
    fn schema_name() -> Cow<'static, str> {
        "Secret".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let source = |name: &str, what: &str| {
            json_schema!({
                "type": "object",
                "properties": { name: { "type": "string", "description": what } },
                "required": [name],
                "additionalProperties": false,
            })
        };
        json_schema!({
            "description": "A secret: `{ env = \"NAME\" }`, `{ file = \"/path\" }`, \
                `{ credential = \"name\" }` (systemd `LoadCredential=`), or a plain string, which \
                is accepted with a warning. Dumps, logs and errors show `***`.",
            "anyOf": [
                { "type": "string", "minLength": 1 },
                source("env", "Name of an environment variable."),
                source("file", "Path of a file, relative to the file that names it."),
                source("credential", "Name of a systemd credential."),
            ],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize, Serialize)]
    struct Holder {
        key: Secret,
    }

    #[test]
    fn sources() {
        let read = |text: &str| toml::from_str::<Holder>(text).map(|h| h.key);
        assert_eq!(read("key = 'x'").unwrap().expose(), Some("x"));
        let env = read("key = { env = 'K' }").unwrap();
        assert_eq!(env.source(), &Source::Env("K".into()));
        assert_eq!(env.expose(), None);
        assert_eq!(
            read("key.file = '/k'").unwrap().source(),
            &Source::File("/k".into())
        );
        assert_eq!(
            read("key.credential = 'k'").unwrap().source(),
            &Source::Credential("k".into())
        );
        for bad in [
            "key = ''",
            "key = {}",
            "key = { env = 'A', file = 'b' }",
            "key.vault = 'x'",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn nothing_prints_the_value() {
        let mut secret = Secret::unresolved(Source::Env("K".into()));
        secret.resolve("canary");
        let holder = Holder { key: secret };
        assert!(!format!("{holder:?}").contains("canary"));
        assert_eq!(toml::to_string(&holder).unwrap().trim(), "key = \"***\"");
        assert_eq!(serde_json::to_string(&holder).unwrap(), r#"{"key":"***"}"#);
    }

    #[test]
    fn equality_sees_source_and_value() {
        let mut a = Secret::unresolved(Source::Env("K".into()));
        let mut b = a.clone();
        assert_eq!(a, b);
        a.resolve("1");
        b.resolve("2");
        assert_ne!(a, b);
        b.resolve("1");
        assert_eq!(a, b);
        assert_ne!(a, Secret::literal("1"));
    }
}
