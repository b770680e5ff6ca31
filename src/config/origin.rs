//! Provenance: where each effective value comes from.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::diag::{Diagnostic, Place};
use super::source::SourceFile;
use super::tree::path::KeyPath;
use super::tree::{Mark, Node};

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// A file.
    File {
        /// The file, as it was named.
        file: String,
        /// Line, from 1.
        line: usize,
        /// Column, in characters from 1.
        column: usize,
    },
    /// An environment variable.
    Environment(String),
    /// A flag, with its dashes.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => out.write_str("default"),
            Self::File { file, line, column } => write!(out, "{file}:{line}:{column}"),
            Self::Environment(name) => write!(out, "environment {name}"),
            Self::Flag(name) => write!(out, "flag {name}"),
        }
    }
}

/// The origin of every key of a loaded configuration. Keys are paths such as
/// `pools[0].workers[1].url`, with the indices of the `Spec`.
#[derive(Debug)]
pub struct Origins {
    pub(crate) root: Node,
    /// Whether paths into the tree have to count what is present.
    has_gaps: bool,
    /// Whether nothing of the tree is absent, so that no part of it has to be walked to know that.
    is_whole: bool,
    pub(crate) sources: Vec<SourceFile>,
    /// Files, by index, that are not TOML, and the lines that are not. From the first of them on,
    /// what was read is in doubt.
    pub(crate) broken: BTreeMap<usize, BTreeSet<usize>>,
    /// Whether a file is broken or could not be read at all, so that something may be missing.
    pub(crate) incomplete: bool,
    /// Whether a flag or a variable stands over a `logging.level` that is written.
    pub(crate) level_is_masked: bool,
}

impl Origins {
    /// The origins of what these files say. There is no tree yet.
    pub(crate) fn new(root: Node, sources: Vec<SourceFile>) -> Self {
        Self {
            has_gaps: root.has_gaps(),
            is_whole: root.is_intact(),
            root,
            sources,
            broken: BTreeMap::new(),
            incomplete: false,
            level_is_masked: false,
        }
    }

    /// Takes the tree of which origins are asked for from now on. It changes no more.
    pub(crate) fn plant(&mut self, root: Node) {
        self.has_gaps = root.has_gaps();
        self.is_whole = root.is_intact();
        self.root = root;
    }

    /// The node at a path of the tree.
    pub(crate) fn find(&self, path: &KeyPath) -> Option<&Node> {
        match self.has_gaps {
            true => self.root.find(path),
            false => self.root.find_straight(path),
        }
    }

    /// Where the value of a key comes from.
    pub fn of(&self, key: &str) -> Origin {
        match self
            .find(&KeyPath::parse(key))
            .filter(|node| !node.is_absent())
        {
            Some(node) => self.origin(&node.mark),
            None => Origin::Default,
        }
    }

    /// Whether a file says `logging.level`, and a flag or a variable something else.
    pub fn level_is_masked(&self) -> bool {
        self.level_is_masked
    }

    /// The place of a key's value, for a diagnostic about it. Where the key is not written, that
    /// of the table around it, if this is an element of a list.
    pub fn place(&self, key: &str) -> Option<Place> {
        let path = KeyPath::parse(key);
        match self.find(&path) {
            Some(node) => self.place_of(&node.mark),
            None => path
                .split_last()
                .and_then(|(parent, _)| self.find(&parent))
                .and_then(|table| self.place_of(&table.mark)),
        }
    }

    /// Whether a key was set, wherever.
    pub(crate) fn is_set(&self, key: &str) -> bool {
        self.of(key) != Origin::Default
    }

    /// The keys that are written in a table, as paths.
    pub(crate) fn keys_of(&self, table: &str) -> Vec<String> {
        let node = self.find(&KeyPath::parse(table));
        let entries = node.into_iter().flat_map(Node::entries);
        entries
            .filter(|entry| !entry.node.is_absent())
            .map(|entry| format!("{table}.{}", entry.key))
            .collect()
    }

    /// Whether all that was written at and below a key could be read.
    pub(crate) fn is_intact(&self, key: &str) -> bool {
        !self.incomplete
            && (self.is_whole || self.find(&KeyPath::parse(key)).is_none_or(Node::is_intact))
    }

    /// Whether what stands at a mark may not be what was meant, as the file is no TOML there.
    pub(crate) fn is_doubtful(&self, mark: &Mark) -> bool {
        self.broken_lines(mark)
            .is_some_and(|(lines, line)| lines.first().is_some_and(|first| line >= *first))
    }

    /// Whether the file of a mark is no TOML somewhere.
    pub(crate) fn is_in_broken_file(&self, mark: &Mark) -> bool {
        self.broken_lines(mark).is_some()
    }

    /// Whether what stands at a mark looks like a key also to a reader who does not trust the
    /// parser: a table or a value follows, and the line is TOML.
    pub(crate) fn is_key(&self, mark: &Mark) -> bool {
        let Mark::File { file, span } = mark else {
            return true;
        };
        let text = self.sources.get(*file).map_or("", SourceFile::text);
        let after = text
            .get(span.end..)
            .unwrap_or_default()
            .trim_start_matches([' ', '\t']);
        after.starts_with(['=', '.', ']'])
            && !self
                .broken_lines(mark)
                .is_some_and(|(lines, line)| lines.contains(&line))
    }

    fn broken_lines(&self, mark: &Mark) -> Option<(&BTreeSet<usize>, usize)> {
        let Mark::File { file, span } = mark else {
            return None;
        };
        let line = self.sources.get(*file)?.position(span.end).0;
        Some((self.broken.get(file)?, line))
    }

    /// Whether a diagnostic stands on what was read without doubt.
    pub(crate) fn is_founded(&self, diagnostic: &Diagnostic) -> bool {
        match &diagnostic.primary {
            Some(Place::File(spot)) => !self.broken.iter().any(|(file, lines)| {
                self.sources
                    .get(*file)
                    .is_some_and(|s| s.path.display().to_string() == spot.file)
                    && lines.first().is_some_and(|first| spot.line >= *first)
            }),
            Some(Place::Flag(_) | Place::Environment(_)) => true,
            None => !self.incomplete,
        }
    }

    pub(crate) fn place_of(&self, mark: &Mark) -> Option<Place> {
        match mark {
            Mark::Default => None,
            Mark::File { file, span } => self
                .sources
                .get(*file)
                .map(|source| source.place(span.clone())),
            Mark::Env(name) => Some(Place::Environment(name.clone())),
            Mark::Flag(name) => Some(Place::Flag(name.clone())),
        }
    }

    fn origin(&self, mark: &Mark) -> Origin {
        match mark {
            Mark::Default => Origin::Default,
            Mark::File { file, span } => match self.sources.get(*file) {
                Some(source) => {
                    let (line, column) = source.position(span.start);
                    Origin::File {
                        file: source.path.display().to_string(),
                        line,
                        column,
                    }
                }
                None => Origin::Default,
            },
            Mark::Env(name) => Origin::Environment(name.clone()),
            Mark::Flag(name) => Origin::Flag(name.clone()),
        }
    }
}
