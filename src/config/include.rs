//! Reading: the file, the files it includes, and their merge into one tree.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::Secrets;
use super::diag::{Diagnostic, Severity};
use super::environment::Environment;
use super::expand::{ExpandError, expand};
use super::origin::Origins;
use super::source::SourceFile;
use super::tree::parse::{Syntax, parse};
use super::tree::path::KeyPath;
use super::tree::{Mark, Node, Value, merge};
use crate::base::{descriptors, file};

/// How many files may stand between the first one and an included one, itself counted.
const MAX_DEPTH: usize = 8;

/// What the parser says of a key that a table has already.
const DUPLICATE: &str = "duplicate key";

/// What reading brings to light, besides the tree.
pub(crate) struct Reading<'a> {
    pub(crate) environment: &'a Environment,
    pub(crate) secrets: Secrets,
    /// Holds the files read so far; its tree stays empty.
    pub(crate) origins: Origins,
    pub(crate) diagnostics: Vec<Diagnostic>,
    /// Every file that was read, or should have been.
    pub(crate) files: Vec<PathBuf>,
    /// The folders in which a change can change what is read.
    pub(crate) directories: BTreeSet<PathBuf>,

    pub(crate) hash: Sha256,
    /// The files from the first one to the one being read, by their true names.
    open: Vec<PathBuf>,
    seen: BTreeSet<PathBuf>,
}

impl<'a> Reading<'a> {
    pub(crate) fn new(environment: &'a Environment, secrets: Secrets) -> Self {
        Self {
            environment,
            secrets,
            origins: Origins::new(Node::table(Mark::Default), Vec::new()),
            diagnostics: Vec::new(),
            files: Vec::new(),
            directories: BTreeSet::new(),

            hash: Sha256::new(),
            open: Vec::new(),
            seen: BTreeSet::new(),
        }
    }

    /// Reads a file and what it includes. `from` is where it is named, if in a file.
    pub(crate) fn read(&mut self, path: &Path, from: Option<&Mark>) -> Option<Node> {
        self.files.push(path.to_owned());
        self.directories.insert(folder(path));
        let text = match file::read_to_string(path) {
            Ok(text) => text,
            Err(error) => {
                self.report("unreadable", error.to_string(), from);
                return None;
            }
        };
        let name = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        if self.open.contains(&name) {
            let message = format!("`{}` includes itself in the end", path.display());
            self.report("include-cycle", message, from);
            return None;
        }
        if !self.seen.insert(name.clone()) {
            let message = format!("`{}` is included twice", path.display());
            self.report("include-twice", message, from);
            return None;
        }
        if self.open.len() > MAX_DEPTH {
            let message = format!(
                "`{}` is included more than {MAX_DEPTH} deep",
                path.display()
            );
            self.report("include-depth", message, from);
            return None;
        }
        self.hash.update((text.len() as u64).to_be_bytes());
        self.hash.update(text.as_bytes());

        let index = self.origins.sources.len();
        let (mut root, syntax) = parse(&text, index);
        let mut source = SourceFile::new(path.to_owned(), text);
        source.hide_secrets(&root);
        self.origins.sources.push(source);
        self.report_syntax(index, syntax);
        self.expand(&mut root);

        let includes = root.get("include").cloned();
        if from.is_some() {
            root.take("include");
            self.check_repeated_version(&mut root);
        }
        self.open.push(name);
        for (pattern, mark) in self.patterns(includes, from.is_some()) {
            for path in self.matches(&pattern, path, &mark) {
                if let Some(included) = self.read(&path, Some(&mark)) {
                    self.merge(&mut root, included);
                }
            }
        }
        self.open.pop();
        Some(root)
    }

    /// Reports what is not TOML: of each line the first mistake, as further ones follow from it.
    fn report_syntax(&mut self, file: usize, mut syntax: Vec<Syntax>) {
        syntax.sort_by_key(|mistake| mistake.span.start);
        let mut last = None;
        for Syntax { span, message } in syntax {
            let Some(source) = self.origins.sources.get_mut(file) else {
                return;
            };
            let line = source.position(span.start).0;
            if last.replace(line) == Some(line) {
                continue;
            }
            self.origins.broken.entry(file).or_default().insert(line);
            let twice = message == DUPLICATE;
            if !twice {
                source.hide_strings();
            }
            let key = source
                .text()
                .get(span.clone())
                .unwrap_or_default()
                .to_owned();
            let mark = Mark::File { file, span };
            if twice {
                let message = format!("`{key}` is set twice in this table");
                self.report("key-twice", message, Some(&mark));
            } else {
                self.report("syntax", message, Some(&mark));
            }
        }
    }

    fn report(&mut self, slug: &'static str, message: String, mark: Option<&Mark>) {
        let place = mark.and_then(|mark| self.origins.place_of(mark));
        self.diagnostics
            .push(Diagnostic::error(slug, message).at(place));
    }

    fn merge(&mut self, root: &mut Node, included: Node) {
        let mut twice = Vec::new();
        merge(root, included, &mut KeyPath::default(), &mut twice);
        for key in twice {
            let diagnostic = Diagnostic::error("key-twice", format!("`{}` is set twice", key.path))
                .about(key.path.to_string())
                .at(self.origins.place_of(&key.second))
                .beside(self.origins.place_of(&key.first), "set here first")
                .help("a key is set in one file only; remove one of the two");
            self.diagnostics.push(diagnostic);
        }
    }

    /// An included file may repeat the version of the grammar, not change it.
    fn check_repeated_version(&mut self, root: &mut Node) {
        if let Some(version) = root.take("version")
            && version.node.value != Value::Int(1)
        {
            let message = "`version` must be 1".to_owned();
            self.report("version", message, Some(&version.node.mark));
        }
    }

    /// The patterns of an `include`. That of the first file is checked with the other keys.
    fn patterns(&mut self, include: Option<Node>, included: bool) -> Vec<(String, Mark)> {
        let Some(include) = include else {
            return Vec::new();
        };
        let strings = include
            .elements()
            .iter()
            .filter(|node| node.as_str().is_some());
        let well_formed = matches!(&include.value, Value::Array(nodes)
            if nodes.iter().all(|node| node.as_str().is_some() || node.is_absent()));
        if included && !well_formed {
            let message = "`include` must be an array of strings".to_owned();
            self.report("type", message, Some(&include.mark));
        }
        strings
            .filter_map(|node| Some((node.as_str()?.to_owned(), node.mark.clone())))
            .collect()
    }

    /// The files a pattern stands for, in order.
    fn matches(&mut self, pattern: &str, file: &Path, mark: &Mark) -> Vec<PathBuf> {
        let base = file.parent().unwrap_or_else(|| Path::new(""));
        let Some(start) = pattern.find(['*', '?', '[']) else {
            return vec![base.join(pattern)];
        };
        // The folder is named as it is: only what the operator wrote is a pattern.
        let escaped = match pattern.starts_with('/') {
            true => pattern.to_owned(),
            false => {
                let base = glob::Pattern::escape(&base.to_string_lossy());
                if base.is_empty() {
                    pattern.to_owned()
                } else {
                    format!("{base}/{pattern}")
                }
            }
        };
        let fixed = pattern.get(..start).unwrap_or_default();
        let fixed = fixed.rsplit_once('/').map_or("", |(folder, _)| folder);
        let watched = if pattern.starts_with('/') && fixed.is_empty() {
            "/"
        } else {
            fixed
        };
        self.directories
            .insert(folder(&base.join(watched).join("x")));
        let options = glob::MatchOptions {
            case_sensitive: true,
            require_literal_separator: true,
            require_literal_leading_dot: true,
        };
        match glob::glob_with(&escaped, options) {
            Ok(paths) => {
                let mut found = Vec::new();
                for path in paths {
                    match path {
                        Ok(path) if path.is_file() => found.push(path),
                        // A folder that cannot be opened just now may hold half of the configuration.
                        Err(error) if descriptors::are_short(error.error()) => {
                            let folder = error.path().display();
                            let message = format!("cannot read `{folder}`: {}", error.error());
                            self.report("unreadable", message, Some(mark));
                        }
                        Ok(_) | Err(_) => {}
                    }
                }
                found.sort();
                found
            }
            Err(error) => {
                let message = format!("`{pattern}` is not a glob: {}", error.msg);
                self.report("glob", message, Some(mark));
                Vec::new()
            }
        }
    }

    fn expand(&mut self, root: &mut Node) {
        let mut failed = Vec::new();
        root.each_string(&mut |node| {
            let Some(text) = node.as_str() else { return };
            match expand(text, self.environment) {
                Ok(None) => {}
                Ok(Some(expanded)) => {
                    node.value = Value::Str(expanded);
                    node.expanded = true;
                }
                Err(error) => {
                    failed.push((node.mark.clone(), error));
                    node.value = Value::Absent;
                }
            }
        });
        for (mark, error) in failed {
            let (slug, severity) = match (&error, self.secrets) {
                (ExpandError::Unset { .. }, Secrets::Require) => {
                    ("unset-variable", Severity::Error)
                }
                (ExpandError::Unset { .. }, Secrets::Note) => ("unset-variable", Severity::Note),
                (ExpandError::Open | ExpandError::Name(_), _) => ("interpolation", Severity::Error),
            };
            let narrow = self.variable_in(&mark, &error).unwrap_or(mark);
            self.diagnostics.push(
                Diagnostic::new(severity, slug, error.to_string())
                    .at(self.origins.place_of(&narrow)),
            );
        }
    }

    /// The part of a string that names the variable.
    fn variable_in(&self, mark: &Mark, error: &ExpandError) -> Option<Mark> {
        let (Mark::File { file, span }, ExpandError::Unset { name, .. }) = (mark, error) else {
            return None;
        };
        let raw = self.origins.sources.get(*file)?.text().get(span.clone())?;
        let start = raw
            .match_indices(&format!("${{{name}"))
            .map(|(at, _)| at)
            .find(|at| {
                let end = at + 2 + name.len();
                raw.get(end..)
                    .is_some_and(|rest| rest.starts_with(['}', ':']))
            })?;
        let end = raw
            .get(start..)?
            .find('}')
            .map_or(raw.len(), |length| start + length + 1);
        Some(Mark::File {
            file: *file,
            span: span.start + start..span.start + end,
        })
    }
}

fn folder(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}
