//! PEM files that a configuration names: certificates and private keys.
//!
//! Invariant: neither `Debug` nor `Serialize` shows the content; a key file is a secret.

use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::file::FilePath;

/// A PEM file, by its path, and what it held when it was read. Two are equal if path and content
/// are, so that a new certificate under an old name is a change.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct PemFile {
    path: PathBuf,
    content: Option<Arc<[u8]>>,
}

impl PemFile {
    /// A file that is still to be read.
    pub fn unread(path: PathBuf) -> Self {
        Self {
            path,
            content: None,
        }
    }

    /// The path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives it what was read.
    pub fn fill(&mut self, content: &[u8]) {
        self.content = Some(content.into());
    }

    /// What it held; `None` until it has been read, and where it was absent and that was only noted.
    pub fn content(&self) -> Option<&[u8]> {
        self.content.as_deref()
    }
}

impl fmt::Debug for PemFile {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.path, out)
    }
}

impl Serialize for PemFile {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.path.serialize(to)
    }
}

impl<'de> Deserialize<'de> for PemFile {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        FilePath::deserialize(from).map(|path| Self::unread(path.into()))
    }
}

impl JsonSchema for PemFile {
    fn schema_name() -> Cow<'static, str> {
        FilePath::schema_name()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        FilePath::json_schema(generator)
    }
}
