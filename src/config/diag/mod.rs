//! Diagnostics: what is wrong with a configuration, where, and what would help.
//!
//! A diagnostic is complete in itself: it carries the line it is about, so that it can be printed
//! after the files have changed. Invariant: no diagnostic holds the value of a secret; the lines
//! come from [`super::source`], which masks them.

mod human;
mod machine;
pub(crate) mod nearest;

use serde::Serialize;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The configuration cannot be used.
    Error,
    /// It can be used, but probably does not mean what was meant.
    Warning,
    /// Something could not be checked.
    Note,
}

impl Severity {
    /// The word that is printed.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Note => "note",
        }
    }
}

/// Where something was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// In a file.
    File(Spot),
    /// In a flag, named with its dashes.
    Flag(String),
    /// In an environment variable.
    Environment(String),
}

/// A stretch of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Spot {
    /// The file, as it was named.
    pub file: String,
    /// First line, from 1.
    pub line: usize,
    /// First column, in characters from 1.
    pub column: usize,
    /// Last line, from 1.
    pub end_line: usize,
    /// The column after the last one, in characters from 1.
    pub end_column: usize,
    /// The first line, secrets masked.
    #[serde(skip)]
    pub(crate) text: String,
    /// Characters of `text` before the stretch.
    #[serde(skip)]
    pub(crate) skip: usize,
    /// Characters of `text` in the stretch.
    #[serde(skip)]
    pub(crate) len: usize,
}

/// A second place that explains the first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Related {
    /// Where.
    pub place: Place,
    /// What is there.
    pub label: String,
}

/// One thing that is wrong, or may be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// A stable word for this kind of mistake.
    pub slug: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong, in one line.
    pub message: String,
    /// The key it is about, as a path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Where it was written; `None` for a default, or what is written nowhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub primary: Option<Place>,
    /// Other places that have to do with it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub secondary: Vec<Related>,
    /// What would help, in one line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
}

impl Diagnostic {
    /// A diagnostic without a place.
    pub fn new(severity: Severity, slug: &'static str, message: impl Into<String>) -> Self {
        Self {
            slug,
            severity,
            message: message.into(),
            key: None,
            primary: None,
            secondary: Vec::new(),
            help: None,
        }
    }

    /// An error without a place.
    pub fn error(slug: &'static str, message: impl Into<String>) -> Self {
        Self::new(Severity::Error, slug, message)
    }

    /// A warning without a place.
    pub fn warning(slug: &'static str, message: impl Into<String>) -> Self {
        Self::new(Severity::Warning, slug, message)
    }

    /// A note without a place.
    pub fn note(slug: &'static str, message: impl Into<String>) -> Self {
        Self::new(Severity::Note, slug, message)
    }

    /// The same, at this place.
    #[must_use]
    pub fn at(mut self, place: Option<Place>) -> Self {
        self.primary = place;
        self
    }

    /// The same, about this key.
    #[must_use]
    pub fn about(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// The same, with a second place. A place that is not known changes nothing.
    #[must_use]
    pub fn beside(mut self, place: Option<Place>, label: impl Into<String>) -> Self {
        self.secondary.extend(place.map(|place| Related {
            place,
            label: label.into(),
        }));
        self
    }

    /// The same, with what would help.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Whether it is an error.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

/// How diagnostics are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For reading, with the line and a caret.
    Human,
    /// One JSON object.
    Json,
    /// Workflow commands of GitHub Actions.
    Github,
    /// SARIF 2.1.0.
    Sarif,
}

/// Writes diagnostics; the text ends with a line break unless it is empty.
pub fn render(diagnostics: &[Diagnostic], format: Format) -> String {
    match format {
        Format::Human => human::render(diagnostics),
        Format::Json => machine::json(diagnostics),
        Format::Github => machine::github(diagnostics),
        Format::Sarif => machine::sarif(diagnostics),
    }
}
