//! The tree to a `Spec`, with a diagnostic for everything that does not fit.

use std::cell::RefCell;

use std::path::PathBuf;

use super::diag::Diagnostic;
use super::diag::nearest::{list, nearest};
use super::origin::Origins;
use super::spec::Spec;
use super::spec::word::NOT_AVAILABLE;
use super::tree::de::{self, Kind, Mistake, UnknownKey};
use super::tree::path::{KeyPath, Step, is_bare};
use super::tree::{Entry, Mark, Node, Value};

/// After so many mistakes the rest is not looked for: each costs one reading of the tree.
const MAX_MISTAKES: usize = 500;

/// Reads the tree. What does not fit is reported and marked absent in the tree, so that the `Spec`
/// holds everything else; `None` if the root itself cannot be read.
///
/// Behind a place where a file is not TOML only unknown keys are reported: what else looks wrong
/// there may be an effect of that.
pub(crate) fn read(root: &mut Node, origins: &Origins, out: &mut Vec<Diagnostic>) -> Option<Spec> {
    check_version(root, origins, out);
    let folders: Vec<PathBuf> = origins
        .sources
        .iter()
        .map(|source| source.folder().to_owned())
        .collect();
    for _ in 0..MAX_MISTAKES {
        let unknown = RefCell::new(Vec::new());
        let result = de::read(root, &folders, &unknown);
        // A key that goes leaves no gap in an array, so that looking once does for all of them.
        let has_gaps = root.has_gaps();
        for mut key in unknown.into_inner() {
            if has_gaps {
                key.path = root.written(&key.path);
            }
            // A table that was looked at twice reports its keys twice.
            let node = root.find_straight(&key.path);
            if node.is_some_and(|node| !node.is_absent()) {
                out.extend(unknown_key(root, origins, &key));
                if let Some(node) = root.find_straight_mut(&key.path) {
                    node.value = Value::Unknown;
                }
            }
        }
        let mistake = match result {
            Ok(spec) => return Some(spec),
            Err(mistake) => mistake,
        };
        let node = root.find(&mistake.path)?;
        if is_news(&mistake, node, origins) {
            let path = root.written(&mistake.path).to_string();
            // A key that is wrong is shown itself, not what it stands for.
            let mark = match &mistake.kind {
                Kind::Unknown { key, .. } if is_last(&mistake.path, key) => {
                    root.key_mark(&mistake.path).unwrap_or(&node.mark)
                }
                _ => &node.mark,
            };
            out.push(explain(&mistake.kind, &path, node).at(origins.place_of(mark)));
        }
        if mistake.path.is_root() {
            return None;
        }
        if let Some(node) = root.find_mut(&mistake.path) {
            node.value = Value::Absent;
        }
    }
    out.push(Diagnostic::error(
        "too-many",
        "there are more mistakes, which are not shown",
    ));
    None
}

/// Whether a mistake is one of its own, and no effect of another that has been reported.
fn is_news(mistake: &Mistake, node: &Node, origins: &Origins) -> bool {
    let cut = origins.is_in_broken_file(&node.mark);
    let gaps = node.entries().iter().any(|entry| entry.node.is_absent());
    match &mistake.kind {
        Kind::Missing { key } => !cut && node.entry(key).is_none(),
        Kind::Type { .. }
        | Kind::Value { .. }
        | Kind::Word { .. }
        | Kind::Unknown { .. }
        | Kind::Other(_) => !gaps && !origins.is_doubtful(&node.mark),
    }
}

/// Moves `[pools.health]` to where it is short for.
pub(crate) fn unite_health(root: &mut Node, origins: &Origins, out: &mut Vec<Diagnostic>) {
    let Some(Value::Array(pools)) = root.get_mut("pools").map(|node| &mut node.value) else {
        return;
    };
    for (index, pool) in pools.iter_mut().enumerate() {
        let Some(short) = pool
            .entry("health")
            .filter(|e| !e.node.is_absent())
            .cloned()
        else {
            continue;
        };
        let long = pool
            .get("reliability")
            .and_then(|table| table.entry("health"));
        if let Some(long) = long {
            out.push(
                Diagnostic::error(
                    "health-twice",
                    "`health` is short for `reliability.health`, and both are here",
                )
                .about(format!("pools[{index}].health"))
                .at(origins.place_of(&short.mark))
                .beside(origins.place_of(&long.mark), "the long form")
                .help("put the keys of both into one of them"),
            );
            pool.take("health");
            continue;
        }
        if pool.entry("reliability").is_none() {
            pool.set("reliability", Node::table(short.mark.clone()));
        }
        if let Some(Value::Table(entries)) = pool.get_mut("reliability").map(|node| &mut node.value)
        {
            let Entry { key, mark, node } = short;
            entries.push(Entry { key, mark, node });
            pool.take("health");
        }
    }
}

/// The version decides what everything else means, so it is looked at first.
fn check_version(root: &mut Node, origins: &Origins, out: &mut Vec<Diagnostic>) {
    let diagnostic = match root.entry("version").map(|entry| &entry.node) {
        Some(Node {
            value: Value::Int(1),
            ..
        }) => return,
        Some(node) if node.is_absent() => None,
        Some(node) => Some(
            Diagnostic::error("version", "`version` must be 1")
                .at(origins.place_of(&node.mark))
                .help("this program reads version 1 of the grammar"),
        ),
        None if !origins.broken.is_empty() => None,
        None => Some(
            Diagnostic::error("missing-key", "the file does not say its `version`")
                .at(origins.place_of(&root.mark))
                .help("write `version = 1` at its top"),
        ),
    };
    out.extend(diagnostic.map(|diagnostic| diagnostic.about("version")));
    root.set("version", Node::new(Value::Int(1), Mark::Default));
}

/// Reports an unknown key, unless it is a piece of text that is no TOML. Its path is as it is written.
fn unknown_key(root: &Node, origins: &Origins, key: &UnknownKey) -> Option<Diagnostic> {
    let (parent, Step::Key(word)) = key.path.split_last()? else {
        return None;
    };
    let mark = &root.find_straight(&parent)?.entry(word)?.mark;
    if origins.is_in_broken_file(mark) && !(is_bare(word) && origins.is_key(mark)) {
        return None;
    }
    let path = key.path.to_string();
    Some(
        Diagnostic::error("unknown-key", format!("unknown key `{path}`"))
            .about(path)
            .at(origins.place_of(mark))
            .help(suggestion(word, key.known, "known here")),
    )
}

fn suggestion(word: &str, known: &'static [&'static str], otherwise: &str) -> String {
    match nearest(word, known.iter().copied()) {
        Some(found) => format!("did you mean `{found}`?"),
        None if known.is_empty() => "there are no keys here".to_owned(),
        None => format!("{otherwise}: {}", list(known.iter().copied())),
    }
}

fn is_last(path: &KeyPath, key: &str) -> bool {
    matches!(path.0.last(), Some(Step::Key(last)) if last == key)
}

fn explain(kind: &Kind, path: &str, node: &Node) -> Diagnostic {
    let diagnostic = match kind {
        Kind::Type { expected } => Diagnostic::error(
            "type",
            format!("`{path}` must be {expected}, not {}", node.kind()),
        ),
        Kind::Value { found, expected } => Diagnostic::error(
            "range",
            format!("`{path}` must be {expected}, not `{found}`"),
        ),
        Kind::Word { word, known } => {
            Diagnostic::error("unknown-word", format!("`{path}` cannot be `{word}`"))
                .help(suggestion(word, known, "it is one of"))
        }
        Kind::Missing { key } => {
            Diagnostic::error("missing-key", format!("`{path}` lacks the key `{key}`"))
        }
        Kind::Unknown { key, known } => {
            let message = match path.rsplit('.').next() == Some(key) {
                true => format!("unknown key `{path}`"),
                false => format!("unknown key `{key}` in `{path}`"),
            };
            Diagnostic::error("unknown-key", message).help(suggestion(key, known, "known here"))
        }
        Kind::Other(message) => {
            let slug = match message.contains(NOT_AVAILABLE) {
                true => "not-available",
                false => "invalid-value",
            };
            Diagnostic::error(slug, format!("`{path}`: {message}"))
        }
    };
    diagnostic.about(path)
}
