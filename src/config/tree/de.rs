//! A tree to types, through serde.
//!
//! Unknown keys of a table do not stop it: they are collected, all of them, and left out. Anything
//! else stops at the first mistake, which says where it is; the caller marks that node absent and
//! tries again.

use std::cell::RefCell;
use std::fmt::Display;
use std::path::PathBuf;

use serde::de::{
    self, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Unexpected,
    Visitor,
};
use serde::forward_to_deserialize_any;

use super::path::{KeyPath, Step};
use super::{Entry, Mark, Node, Value};
use crate::base::file::FilePath;
use crate::base::moment::Moment;
use crate::config::spec::ListenAddress;

/// A mistake, and the node it is about.
#[derive(Debug)]
pub(crate) struct Mistake {
    pub(crate) kind: Kind,
    pub(crate) path: KeyPath,
}

/// What is wrong.
#[derive(Debug)]
pub(crate) enum Kind {
    /// A value of another type. The value is not named: it may be a secret.
    Type { expected: String },
    /// A value of the right type that is out of range.
    Value { found: String, expected: String },
    /// A word that is not in the list.
    Word {
        word: String,
        known: &'static [&'static str],
    },
    /// A key that must be there.
    Missing { key: &'static str },
    /// A key that the table does not have. Only tables with a reader of their own report it; the
    /// path is that of the key or of the table.
    Unknown {
        key: String,
        known: &'static [&'static str],
    },
    /// Anything else, in words.
    Other(String),
}

/// A key that its table does not have.
#[derive(Debug)]
pub(crate) struct UnknownKey {
    pub(crate) path: KeyPath,
    pub(crate) known: &'static [&'static str],
}

/// Reads a tree. `folders` are the folders of the files that marks refer to, against which
/// relative paths are resolved. Unknown keys are added to `unknown`.
pub(crate) fn read<T: de::DeserializeOwned>(
    root: &Node,
    folders: &[PathBuf],
    unknown: &RefCell<Vec<UnknownKey>>,
) -> Result<T, Mistake> {
    let common = Common { folders, unknown };
    T::deserialize(Reader {
        node: root,
        at: &At::Root,
        common: &common,
    })
    .map_err(|error| Mistake {
        kind: error.kind,
        path: error.path.unwrap_or_default(),
    })
}

struct Common<'a> {
    folders: &'a [PathBuf],
    unknown: &'a RefCell<Vec<UnknownKey>>,
}

/// Where a reader is; turned into a path only when something is wrong.
enum At<'a> {
    Root,
    Key(&'a At<'a>, &'a str),
    Index(&'a At<'a>, usize),
}

impl At<'_> {
    fn path(&self) -> KeyPath {
        match self {
            Self::Root => KeyPath::default(),
            Self::Key(parent, key) => parent.join(Step::Key((*key).to_owned())),
            Self::Index(parent, index) => parent.join(Step::Index(*index)),
        }
    }

    fn join(&self, step: Step) -> KeyPath {
        let mut path = self.path();
        path.0.push(step);
        path
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{kind:?}")]
struct Error {
    kind: Kind,
    path: Option<KeyPath>,
}

impl Error {
    fn new(kind: Kind) -> Self {
        Self { kind, path: None }
    }

    fn at(mut self, at: &At<'_>) -> Self {
        self.path.get_or_insert_with(|| at.path());
        self
    }
}

impl de::Error for Error {
    fn custom<T: Display>(message: T) -> Self {
        Self::new(Kind::Other(message.to_string()))
    }

    fn invalid_type(_: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::new(Kind::Type {
            expected: in_words(&expected.to_string()),
        })
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        let found = match found {
            Unexpected::Str(text) => text.to_owned(),
            Unexpected::Signed(number) => number.to_string(),
            Unexpected::Unsigned(number) => number.to_string(),
            Unexpected::Float(number) => number.to_string(),
            other => other.to_string(),
        };
        Self::new(Kind::Value {
            found,
            expected: in_words(&expected.to_string()),
        })
    }

    fn invalid_length(_: usize, expected: &dyn de::Expected) -> Self {
        Self::new(Kind::Type {
            expected: in_words(&expected.to_string()),
        })
    }

    fn unknown_variant(word: &str, known: &'static [&'static str]) -> Self {
        Self::new(Kind::Word {
            word: word.to_owned(),
            known,
        })
    }

    fn unknown_field(key: &str, known: &'static [&'static str]) -> Self {
        Self::new(Kind::Unknown {
            key: key.to_owned(),
            known,
        })
    }

    fn missing_field(key: &'static str) -> Self {
        Self::new(Kind::Missing { key })
    }
}

/// What serde's own visitors expect, in the words of the reference.
fn in_words(expected: &str) -> String {
    let bound = match expected {
        "u8" => u64::from(u8::MAX),
        "u16" => u64::from(u16::MAX),
        "u32" => u64::from(u32::MAX),
        "i64" => return "a whole number".to_owned(),
        "u64" => return "a whole number of at least 0".to_owned(),
        "a sequence" => return "an array".to_owned(),
        "path string" => return "a path".to_owned(),
        "a map" => return "a table".to_owned(),
        "f64" => return "a number".to_owned(),
        _ if expected.starts_with("struct ") => return "a table".to_owned(),
        _ => return expected.to_owned(),
    };
    format!("a whole number from 0 to {bound}")
}

struct Reader<'a> {
    node: &'a Node,
    at: &'a At<'a>,
    common: &'a Common<'a>,
}

impl<'a> Reader<'a> {
    fn visit<'de, V: Visitor<'de>>(
        self,
        visitor: V,
        fields: Option<&'static [&'static str]>,
    ) -> Result<V::Value, Error> {
        let at = self.at;
        let result = match &self.node.value {
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Int(value) => visitor.visit_i64(*value),
            Value::Float(value) => visitor.visit_f64(*value),
            Value::Str(text) => visitor.visit_str(text),
            Value::Array(nodes) => visitor.visit_seq(Elements {
                nodes: nodes.iter(),
                next: 0,
                at,
                common: self.common,
            }),
            Value::Table(entries) => visitor.visit_map(Keys {
                entries: entries.iter(),
                fields,
                value: None,
                at,
                common: self.common,
            }),
            Value::Absent | Value::Unknown | Value::Date(_) => {
                Err(de::Error::invalid_type(Unexpected::Other("date"), &visitor))
            }
        };
        result.map_err(|error| error.at(at))
    }

    /// The text of a path, resolved against the folder of the file it was written in.
    fn resolved(&self, text: &str) -> Result<String, Error> {
        if text.is_empty() {
            return Err(Error::new(Kind::Other("a path must not be empty".to_owned())).at(self.at));
        }
        let folder = match self.node.mark {
            Mark::File { file, .. } => self.common.folders.get(file),
            Mark::Default | Mark::Env(_) | Mark::Flag(_) => None,
        };
        Ok(match folder {
            // The components leave out each `.`, so that one path has one form. A `Spec` is text,
            // so a folder whose name is not loses what cannot be written.
            Some(folder) => {
                let path: PathBuf = folder.join(text).components().collect();
                path.to_string_lossy().into_owned()
            }
            None => text.to_owned(),
        })
    }
}

impl<'de> Deserializer<'de> for Reader<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.visit(visitor, None)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        if let (Moment::NAME, Value::Date(text)) = (name, &self.node.value) {
            let inner: de::value::StrDeserializer<'_, Error> = text.as_str().into_deserializer();
            return visitor
                .visit_newtype_struct(inner)
                .map_err(|error| error.at(self.at));
        }
        let text = match (name, self.node.as_str()) {
            (FilePath::NAME, Some(path)) => self.resolved(path)?,
            (ListenAddress::NAME, Some(address)) => {
                match address.strip_prefix(ListenAddress::UNIX) {
                    Some(path) if !path.is_empty() => {
                        format!("{}{}", ListenAddress::UNIX, self.resolved(path)?)
                    }
                    _ => return visitor.visit_newtype_struct(self),
                }
            }
            _ => return visitor.visit_newtype_struct(self),
        };
        let inner: de::value::StringDeserializer<Error> = text.into_deserializer();
        visitor
            .visit_newtype_struct(inner)
            .map_err(|error| error.at(self.at))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        if let Value::Array(_) = self.node.value {
            // The visitors that serde derives would take the elements for fields.
            return Err(Error::new(Kind::Type {
                expected: "a table".to_owned(),
            })
            .at(self.at));
        }
        let unknown = self
            .node
            .entries()
            .iter()
            .filter(|entry| !entry.node.is_absent() && !fields.contains(&entry.key.as_str()))
            .map(|entry| UnknownKey {
                path: self.at.join(Step::Key(entry.key.clone())),
                known: fields,
            });
        self.common.unknown.borrow_mut().extend(unknown);
        self.visit(visitor, Some(fields))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf
        unit unit_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

struct Elements<'a> {
    nodes: std::slice::Iter<'a, Node>,
    next: usize,
    at: &'a At<'a>,
    common: &'a Common<'a>,
}

impl<'de> SeqAccess<'de> for Elements<'_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Error> {
        let Some(node) = self.nodes.by_ref().find(|node| !node.is_absent()) else {
            return Ok(None);
        };
        let at = At::Index(self.at, self.next);
        self.next += 1;
        seed.deserialize(Reader {
            node,
            at: &at,
            common: self.common,
        })
        .map(Some)
        .map_err(|error| error.at(&at))
    }
}

struct Keys<'a> {
    entries: std::slice::Iter<'a, Entry>,
    fields: Option<&'static [&'static str]>,
    value: Option<&'a Entry>,
    at: &'a At<'a>,
    common: &'a Common<'a>,
}

impl<'de> MapAccess<'de> for Keys<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Error> {
        let fields = self.fields;
        let known = |entry: &&Entry| {
            !entry.node.is_absent()
                && fields.is_none_or(|fields| fields.contains(&entry.key.as_str()))
        };
        let Some(entry) = self.entries.by_ref().find(known) else {
            return Ok(None);
        };
        self.value = Some(entry);
        let key: de::value::StrDeserializer<'_, Error> = entry.key.as_str().into_deserializer();
        seed.deserialize(key)
            .map(Some)
            .map_err(|error| error.at(&At::Key(self.at, &entry.key)))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let Some(entry) = self.value.take() else {
            return Err(de::Error::custom("a value was asked for before its key"));
        };
        let at = At::Key(self.at, &entry.key);
        seed.deserialize(Reader {
            node: &entry.node,
            at: &at,
            common: self.common,
        })
        .map_err(|error| error.at(&at))
    }
}
