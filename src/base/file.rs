//! Reading files, with errors that name the path. Every read in the crate goes through here.

use std::borrow::Cow;
use std::io;
use std::ops::Deref;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// A path in a config file. It is a type of its own so that the reader of the file knows a path
/// when it meets one and resolves it against the file it stands in.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FilePath(PathBuf);

impl FilePath {
    /// The name under which serde announces this type.
    pub const NAME: &'static str = "FilePath";
}

impl From<PathBuf> for FilePath {
    fn from(path: PathBuf) -> Self {
        Self(path)
    }
}

impl From<FilePath> for PathBuf {
    fn from(path: FilePath) -> Self {
        path.0
    }
}

impl Deref for FilePath {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl JsonSchema for FilePath {
    fn schema_name() -> Cow<'static, str> {
        Self::NAME.into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "minLength": 1,
            "description": "A path. A relative one starts at the file it stands in.",
        })
    }
}

/// Why a file could not be read.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The operating system refused.
    #[error("cannot read `{}`: {}", path.display(), reason(source))]
    Read {
        /// The file as it was named.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The content is not UTF-8.
    #[error("`{}` is not UTF-8 (byte {offset})", path.display())]
    Encoding {
        /// The file as it was named.
        path: PathBuf,
        /// Offset of the first byte that is no valid UTF-8, from 0.
        offset: usize,
    },
}

/// Reads a whole file.
///
/// # Errors
/// [`FileError::Read`] if it cannot be opened or read.
#[expect(
    clippy::disallowed_methods,
    reason = "this is the reader that the ban points to"
)]
pub fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    std::fs::read(path).map_err(|source| FileError::Read {
        path: path.to_owned(),
        source,
    })
}

/// The permission bits of a file with a secret that lets in others than its owner: who is not of its
/// group may open it, or the group may change it. `None` where all is well, or there is no such file.
pub fn exposure(path: &Path) -> Option<u32> {
    let found = std::fs::metadata(path).ok()?;
    let bits = found.permissions().mode() & 0o777;
    (found.is_file() && bits & 0o027 != 0).then_some(bits)
}

/// Reads a whole text file. A byte order mark at its start is removed.
///
/// # Errors
/// [`FileError::Read`] if it cannot be opened or read, [`FileError::Encoding`] if it is not UTF-8.
pub fn read_to_string(path: &Path) -> Result<String, FileError> {
    let bytes = read(path)?;
    let text = String::from_utf8(bytes).map_err(|error| FileError::Encoding {
        path: path.to_owned(),
        offset: error.utf8_error().valid_up_to(),
    })?;
    match text.strip_prefix('\u{feff}') {
        Some(rest) => Ok(rest.to_owned()),
        None => Ok(text),
    }
}

/// The system's sentence without the number it appends, in lower case like our own messages.
fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => first.to_lowercase().chain(chars).collect(),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_the_path() {
        let error = read(Path::new("/nonexistent/x.toml")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot read `/nonexistent/x.toml`: no such file or directory"
        );
    }

    #[test]
    fn a_secret_is_its_owners_and_may_be_read_by_the_group() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        assert_eq!(exposure(&path), None);
        std::fs::write(&path, "x").unwrap();
        for (bits, exposed) in [
            (0o400, false),
            (0o600, false),
            (0o640, false),
            (0o644, true),
            (0o604, true),
            (0o660, true),
            (0o602, true),
        ] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(bits)).unwrap();
            assert_eq!(exposure(&path), exposed.then_some(bits), "{bits:o}");
        }
        assert_eq!(exposure(dir.path()), None);
    }

    #[test]
    fn text_must_be_utf8_and_loses_its_mark() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, b"ab\xff").unwrap();
        assert!(matches!(
            read_to_string(&path),
            Err(FileError::Encoding { offset: 2, .. })
        ));
        std::fs::write(&path, "\u{feff}x = 1").unwrap();
        assert_eq!(read_to_string(&path).unwrap(), "x = 1");
    }
}
