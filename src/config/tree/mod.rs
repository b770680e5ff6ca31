//! The tree: all files and the overlay as one table, where every key and value knows where it was
//! written.
//!
//! A node that turned out to be wrong is marked absent rather than removed, so that what stands
//! beside it can still be read. Indices in paths count the nodes that are present, which makes
//! them equal to the indices of the `Spec` read from the tree.

pub(crate) mod de;
pub(crate) mod parse;
pub(crate) mod path;

use std::ops::Range;

use path::{KeyPath, Step};

/// Where a key or value was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    /// Nowhere: it is a default.
    Default,
    /// In a file.
    File {
        /// Index among the files read.
        file: usize,
        /// Bytes of its text.
        span: Range<usize>,
    },
    /// In an environment variable.
    Env(String),
    /// In a flag.
    Flag(String),
}

/// A value and where it was written.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Node {
    pub(crate) value: Value,
    pub(crate) mark: Mark,
    /// Whether variables were expanded in it.
    pub(crate) expanded: bool,
}

/// What a node holds.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    /// Nothing any more: it was wrong.
    Absent,
    /// Stood under a key that there is not: reported, and nobody misses it.
    Unknown,
    Bool(bool),
    Int(i64),
    Float(f64),
    Str(String),
    /// A date, a time or both, as written.
    Date(String),
    Array(Vec<Node>),
    Table(Vec<Entry>),
}

/// A key of a table, where it was written, and its value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) mark: Mark,
    pub(crate) node: Node,
}

impl Node {
    pub(crate) fn new(value: Value, mark: Mark) -> Self {
        Self {
            value,
            mark,
            expanded: false,
        }
    }

    pub(crate) fn table(mark: Mark) -> Self {
        Self::new(Value::Table(Vec::new()), mark)
    }

    pub(crate) fn is_absent(&self) -> bool {
        matches!(self.value, Value::Absent | Value::Unknown)
    }

    /// What kind of value it is, with its article.
    pub(crate) fn kind(&self) -> &'static str {
        match self.value {
            Value::Absent | Value::Unknown => "nothing",
            Value::Bool(_) => "a boolean",
            Value::Int(_) => "an integer",
            Value::Float(_) => "a float",
            Value::Str(_) => "a string",
            Value::Date(_) => "a date",
            Value::Array(_) => "an array",
            Value::Table(ref entries) if entries.is_empty() => "an empty table",
            Value::Table(_) => "a table",
        }
    }

    pub(crate) fn as_str(&self) -> Option<&str> {
        match &self.value {
            Value::Str(text) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn entries(&self) -> &[Entry] {
        match &self.value {
            Value::Table(entries) => entries,
            _ => &[],
        }
    }

    pub(crate) fn elements(&self) -> &[Self] {
        match &self.value {
            Value::Array(nodes) => nodes,
            _ => &[],
        }
    }

    /// The entry of a key, absent or not.
    pub(crate) fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries().iter().find(|entry| entry.key == key)
    }

    /// The value of a key, unless it is absent.
    pub(crate) fn get(&self, key: &str) -> Option<&Self> {
        self.entry(key)
            .map(|entry| &entry.node)
            .filter(|node| !node.is_absent())
    }

    pub(crate) fn get_mut(&mut self, key: &str) -> Option<&mut Self> {
        match &mut self.value {
            Value::Table(entries) => entries
                .iter_mut()
                .find(|entry| entry.key == key)
                .map(|entry| &mut entry.node),
            _ => None,
        }
    }

    /// Sets a key of a table; anything else stays as it is.
    pub(crate) fn set(&mut self, key: &str, node: Self) {
        let Value::Table(entries) = &mut self.value else {
            return;
        };
        let mark = node.mark.clone();
        match entries.iter_mut().find(|entry| entry.key == key) {
            Some(entry) => (entry.mark, entry.node) = (mark, node),
            None => entries.push(Entry {
                key: key.to_owned(),
                mark,
                node,
            }),
        }
    }

    /// Takes a key out of a table.
    pub(crate) fn take(&mut self, key: &str) -> Option<Entry> {
        match &mut self.value {
            Value::Table(entries) => {
                let at = entries.iter().position(|entry| entry.key == key)?;
                Some(entries.remove(at))
            }
            _ => None,
        }
    }

    /// The node at a path.
    pub(crate) fn find(&self, path: &KeyPath) -> Option<&Self> {
        path.0.iter().try_fold(self, |node, step| match step {
            Step::Key(key) => node.entry(key).map(|entry| &entry.node),
            Step::Index(index) => node
                .elements()
                .iter()
                .filter(|n| !n.is_absent())
                .nth(*index),
        })
    }

    /// The same where no array [`has_gaps`](Self::has_gaps): at once, however long an array is.
    pub(crate) fn find_straight(&self, path: &KeyPath) -> Option<&Self> {
        path.0.iter().try_fold(self, |node, step| match step {
            Step::Key(key) => node.entry(key).map(|entry| &entry.node),
            Step::Index(index) => node.elements().get(*index),
        })
    }

    /// The same, to be changed.
    pub(crate) fn find_straight_mut(&mut self, path: &KeyPath) -> Option<&mut Self> {
        path.0
            .iter()
            .try_fold(self, |node, step| match (step, &mut node.value) {
                (Step::Key(key), Value::Table(entries)) => entries
                    .iter_mut()
                    .find(|entry| entry.key == *key)
                    .map(|entry| &mut entry.node),
                (Step::Index(index), Value::Array(nodes)) => nodes.get_mut(*index),
                _ => None,
            })
    }

    /// Whether an element of an array is absent, here or below.
    pub(crate) fn has_gaps(&self) -> bool {
        match &self.value {
            Value::Array(nodes) => nodes.iter().any(|node| node.is_absent() || node.has_gaps()),
            Value::Table(entries) => entries.iter().any(|entry| entry.node.has_gaps()),
            _ => false,
        }
    }

    /// The node at a path.
    pub(crate) fn find_mut(&mut self, path: &KeyPath) -> Option<&mut Self> {
        path.0
            .iter()
            .try_fold(self, |node, step| match (step, &mut node.value) {
                (Step::Key(key), Value::Table(entries)) => entries
                    .iter_mut()
                    .find(|entry| entry.key == *key)
                    .map(|entry| &mut entry.node),
                (Step::Index(index), Value::Array(nodes)) => {
                    nodes.iter_mut().filter(|n| !n.is_absent()).nth(*index)
                }
                _ => None,
            })
    }

    /// The path with its indices as they are written, the absent ones counted.
    pub(crate) fn written(&self, path: &KeyPath) -> KeyPath {
        let mut node = Some(self);
        let steps = path.0.iter().map(|step| match (step, node) {
            (Step::Key(key), _) => {
                node = node.and_then(|n| n.entry(key)).map(|entry| &entry.node);
                step.clone()
            }
            (Step::Index(index), Some(array)) => {
                let mut present = array
                    .elements()
                    .iter()
                    .enumerate()
                    .filter(|(_, n)| !n.is_absent());
                let found = present.nth(*index);
                node = found.map(|(_, n)| n);
                Step::Index(found.map_or(*index, |(at, _)| at))
            }
            (Step::Index(_), None) => step.clone(),
        });
        KeyPath(steps.collect())
    }

    /// Where the key at the end of a path was written; for an array element, the element.
    pub(crate) fn key_mark(&self, path: &KeyPath) -> Option<&Mark> {
        let (parent, last) = path.split_last()?;
        match last {
            Step::Key(key) => self.find(&parent)?.entry(key).map(|entry| &entry.mark),
            Step::Index(_) => self.find(path).map(|node| &node.mark),
        }
    }

    /// Whether nothing at or below this node was marked absent.
    pub(crate) fn is_intact(&self) -> bool {
        match &self.value {
            Value::Absent => false,
            Value::Array(nodes) => nodes.iter().all(Self::is_intact),
            Value::Table(entries) => entries.iter().all(|entry| entry.node.is_intact()),
            Value::Unknown
            | Value::Bool(_)
            | Value::Int(_)
            | Value::Float(_)
            | Value::Str(_)
            | Value::Date(_) => true,
        }
    }

    /// Calls `visit` for every string at or below this node.
    pub(crate) fn each_string(&mut self, visit: &mut impl FnMut(&mut Self)) {
        match &mut self.value {
            Value::Str(_) => visit(self),
            Value::Array(nodes) => nodes.iter_mut().for_each(|node| node.each_string(visit)),
            Value::Table(entries) => {
                entries
                    .iter_mut()
                    .for_each(|entry| entry.node.each_string(visit));
            }
            Value::Absent
            | Value::Unknown
            | Value::Bool(_)
            | Value::Int(_)
            | Value::Float(_)
            | Value::Date(_) => {}
        }
    }
}

/// A key that was set twice.
#[derive(Debug)]
pub(crate) struct Twice {
    pub(crate) path: KeyPath,
    pub(crate) first: Mark,
    pub(crate) second: Mark,
}

/// Merges a table into another: key by key, arrays of tables one after the other. What is set
/// already stays and is reported.
pub(crate) fn merge(into: &mut Node, from: Node, path: &mut KeyPath, twice: &mut Vec<Twice>) {
    let Value::Table(entries) = from.value else {
        return;
    };
    for Entry { key, mark, node } in entries {
        let Some(first) = into.entry(&key).map(|entry| entry.mark.clone()) else {
            if let Value::Table(entries) = &mut into.value {
                entries.push(Entry { key, mark, node });
            }
            continue;
        };
        path.0.push(Step::Key(key.clone()));
        if let Some(present) = into.get_mut(&key) {
            match (&mut present.value, node.value) {
                (Value::Table(_), value @ Value::Table(_)) => {
                    merge(
                        present,
                        Node {
                            value,
                            ..Node::new(Value::Absent, node.mark)
                        },
                        path,
                        twice,
                    );
                }
                (Value::Array(left), Value::Array(right))
                    if all_tables(left) && all_tables(&right) =>
                {
                    left.extend(right);
                }
                _ => twice.push(Twice {
                    path: path.clone(),
                    first,
                    second: mark,
                }),
            }
        }
        path.0.pop();
    }
}

fn all_tables(nodes: &[Node]) -> bool {
    nodes
        .iter()
        .all(|node| matches!(node.value, Value::Table(_)))
}
