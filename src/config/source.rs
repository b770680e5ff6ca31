//! The files that were read: offsets to lines and columns, and lines that can be shown.
//!
//! Invariant: a line leaves this module only with its secrets masked: strings under keys that name
//! a secret, and what stands before the `@` of a URL.

use std::ops::Range;
use std::path::{Path, PathBuf};

use super::diag::{Place, Spot};
use super::tree::{Mark, Node, Value};
use crate::base::secret::MASK;

/// A file that was read.
#[derive(Debug)]
pub(crate) struct SourceFile {
    /// The file, as it was named.
    pub(crate) path: PathBuf,
    text: String,
    /// Offset of the first byte of each line.
    lines: Vec<usize>,
    /// Stretches that hold a secret, as far as the tree tells: apart from each other and in order.
    secrets: Vec<Range<usize>>,
    /// Whether the text is no TOML, so that nothing tells for sure what is a secret.
    unclear: bool,
}

impl SourceFile {
    /// A file and its text.
    pub(crate) fn new(path: PathBuf, text: String) -> Self {
        let starts = text
            .bytes()
            .enumerate()
            .filter(|(_, b)| *b == b'\n')
            .map(|(i, _)| i + 1);
        let lines = std::iter::once(0).chain(starts).collect();
        Self {
            path,
            text,
            lines,
            secrets: Vec::new(),
            unclear: false,
        }
    }

    /// The text.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// The folder that relative paths in it start from.
    pub(crate) fn folder(&self) -> &Path {
        self.path.parent().unwrap_or_else(|| Path::new(""))
    }

    /// Learns from the tree of this file which stretches hold secrets.
    pub(crate) fn hide_secrets(&mut self, root: &Node) {
        collect(root, Around::Open, &mut self.secrets);
        self.secrets.sort_by_key(|secret| secret.start);
    }

    /// From now on nothing quoted is shown: a quote too many or too few may have turned secrets
    /// into anything.
    pub(crate) fn hide_strings(&mut self) {
        self.unclear = true;
    }

    /// A stretch as a place to show.
    pub(crate) fn place(&self, span: Range<usize>) -> Place {
        let start = self.floor(span.start);
        let end = self.floor(span.end).max(start);
        let (line, column) = self.position(start);
        let (end_line, end_column) = self.position(end);
        let whole = self.line_range(line);
        let shown = self.masked(whole.clone());
        let first_end = end.min(whole.end);
        let skip = shown.iter().filter(|(at, _)| *at < start).count();
        let len = shown
            .iter()
            .filter(|(at, _)| *at >= start && *at < first_end)
            .count();
        // A stretch inside a masked one has no character of its own: the mask stands for it.
        let covered = shown
            .iter()
            .rev()
            .find(|(at, _)| *at <= start)
            .map(|(at, _)| *at);
        let (skip, len) = match covered.filter(|_| len == 0 && start < first_end) {
            Some(mask) => (
                shown.iter().filter(|(at, _)| *at < mask).count(),
                shown.iter().filter(|(at, _)| *at == mask).count(),
            ),
            None => (skip, len),
        };
        Place::File(Spot {
            file: self.path.display().to_string(),
            line,
            column,
            end_line,
            end_column,
            text: shown.into_iter().map(|(_, c)| c).collect(),
            skip,
            len,
        })
    }

    /// Line and column of an offset, both from 1.
    pub(crate) fn position(&self, offset: usize) -> (usize, usize) {
        let line = self.lines.partition_point(|start| *start <= offset);
        let start = self.lines.get(line.saturating_sub(1)).copied().unwrap_or(0);
        let column = self
            .text
            .get(start..offset)
            .map_or(0, |text| text.chars().count());
        (line, column + 1)
    }

    fn floor(&self, offset: usize) -> usize {
        let mut offset = offset.min(self.text.len());
        while !self.text.is_char_boundary(offset) {
            offset -= 1;
        }
        offset
    }

    fn line_range(&self, line: usize) -> Range<usize> {
        let start = self.lines.get(line.saturating_sub(1)).copied().unwrap_or(0);
        let end = self
            .lines
            .get(line)
            .map_or(self.text.len(), |next| next - 1);
        start..end.max(start)
    }

    /// What of a line lies in stretches that hold a secret.
    fn secrets_in(&self, line: &Range<usize>) -> impl Iterator<Item = Range<usize>> {
        let Range { start, end } = *line;
        let first = self.secrets.partition_point(|secret| secret.end <= start);
        let near = self.secrets.iter().skip(first);
        near.take_while(move |secret| secret.start < end)
            .map(move |secret| secret.start.max(start)..secret.end.min(end))
    }

    /// The characters of a line, each with the offset it stands for.
    fn masked(&self, range: Range<usize>) -> Vec<(usize, char)> {
        let line = self.text.get(range.clone()).unwrap_or_default();
        let mut hidden: Vec<Range<usize>> = guess(line)
            .into_iter()
            .map(|r| r.start + range.start..r.end + range.start)
            .chain(self.secrets_in(&range))
            .collect();
        if self.unclear && !line.is_empty() {
            hidden.push(range.start + strings_from(line)..range.end);
        }
        hidden.sort_by_key(|range| range.start);
        let mut out = Vec::new();
        let mut until = 0;
        let mut hidden = hidden.into_iter().peekable();
        for (i, c) in line.char_indices() {
            let at = range.start + i;
            while let Some(next) = hidden.next_if(|next| next.start <= at) {
                if next.end > until {
                    if at >= until {
                        out.extend(MASK.chars().map(|c| (at, c)));
                    }
                    until = next.end;
                }
            }
            if at >= until && c != '\r' {
                out.push((at, c));
            }
        }
        out
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Around {
    Open,
    /// Below a key that names a secret.
    Secret,
}

fn collect(node: &Node, around: Around, out: &mut Vec<Range<usize>>) {
    match &node.value {
        Value::Str(text) if around == Around::Secret && !is_plain_reference(text) => {
            if let Mark::File { span, .. } = &node.mark {
                out.push(span.clone());
            }
        }
        Value::Array(nodes) => nodes.iter().for_each(|node| collect(node, around, out)),
        Value::Table(entries) => {
            for entry in entries {
                let below = match around {
                    Around::Secret if !is_source(&entry.key) => Around::Secret,
                    Around::Secret => Around::Open,
                    Around::Open if names_secret(&entry.key) => Around::Secret,
                    Around::Open => Around::Open,
                };
                collect(&entry.node, below, out);
            }
        }
        Value::Absent
        | Value::Unknown
        | Value::Bool(_)
        | Value::Int(_)
        | Value::Float(_)
        | Value::Str(_)
        | Value::Date(_) => {}
    }
}

/// Keys that are named as if they held a secret.
const NO_SECRETS: &[&str] = &[
    "first_token",
    "mean_prefill_token",
    "dp_minimum_token",
    "max_token",
    "max_completion_token",
    "max_key",
];

/// Whether a key, known or mistyped, is one whose value should not be shown.
fn names_secret(key: &str) -> bool {
    let key = key.trim().to_ascii_lowercase();
    let key = key.trim_end_matches('s');
    !NO_SECRETS.contains(&key)
        && ["key", "secret", "token", "password", "passwd"]
            .iter()
            .any(|end| key.ends_with(end))
}

/// The keys beside a secret that say where it is, whose it is and how long it is good; their values
/// are no secrets.
fn is_source(key: &str) -> bool {
    matches!(
        key,
        "env" | "file" | "credential" | "id" | "name" | "role" | "not_before" | "expires_at"
    )
}

/// `${NAME}` and nothing else.
fn is_plain_reference(text: &str) -> bool {
    text.strip_prefix("${")
        .and_then(|rest| rest.strip_suffix('}'))
        .is_some_and(|name| name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'))
}

/// What of a line holds a secret, judged by its text alone: for text that is not TOML, where the
/// tree knows nothing.
fn guess(line: &str) -> Vec<Range<usize>> {
    let mut out = Vec::new();
    let bytes = line.as_bytes();
    let mut key_start = None;
    let mut key_end = 0;
    let mut secret_depth = None;
    let mut depth = 0usize;
    let mut i = 0;
    while let Some(&byte) = bytes.get(i) {
        match byte {
            b'#' => {
                // A line that was commented out.
                let comment = line.get(i..).unwrap_or_default();
                out.extend(secret_from(comment).map(|from| i + from..line.len()));
                break;
            }
            b'{' => depth += 1,
            b'}' => {
                depth = depth.saturating_sub(1);
                if secret_depth.is_some_and(|d| depth < d) {
                    secret_depth = None;
                }
            }
            b'=' => {
                let key = key_start
                    .and_then(|start| line.get(start..key_end))
                    .unwrap_or_default();
                let key = key.trim_matches(['"', '\'']);
                let below = secret_depth.is_some();
                let value = i
                    + 1
                    + bytes
                        .iter()
                        .skip(i + 1)
                        .take_while(|b| **b == b' ' || **b == b'\t')
                        .count();
                let hide = if below {
                    !is_source(key)
                } else {
                    names_secret(key)
                };
                if hide && !key.is_empty() {
                    if bytes.get(value) == Some(&b'{') {
                        secret_depth = Some(depth + 1);
                    } else {
                        let end = value_end(line, value);
                        let inner = line.get(value..end).unwrap_or_default();
                        if end > value && !is_plain_reference(inner.trim_matches(['"', '\''])) {
                            out.push(value..end);
                        }
                        i = end;
                        key_start = None;
                        continue;
                    }
                }
                key_start = None;
            }
            b'"' | b'\'' => {
                let end = string_end(line, i);
                if key_start.is_none() {
                    key_start = Some(i);
                }
                key_end = end;
                i = end;
                continue;
            }
            b' ' | b'\t' => {}
            b',' | b'[' | b']' | b'.' => key_start = None,
            _ => {
                if key_start.is_none() {
                    key_start = Some(i);
                }
                key_end = i + 1;
            }
        }
        if byte == b'{' {
            key_start = None;
        }
        i += 1;
    }
    out.extend(parts_of_urls(line));
    out
}

/// Where a line of a text that is no TOML stops being safe to show: at its first quote, behind the
/// name of a secret, and at its start if it looks like the inside of a value.
fn strings_from(line: &str) -> usize {
    let header = line.trim_start().starts_with('[') && !line.contains(['"', '\'', ',']);
    if !line.contains('=') && !header {
        return 0;
    }
    let quote = line.find(['"', '\'']).unwrap_or(line.len());
    quote.min(secret_from(line).unwrap_or(quote))
}

/// What follows the first word of a text that names a secret.
fn secret_from(text: &str) -> Option<usize> {
    let mut start = 0;
    for word in text.split(|c: char| !c.is_alphanumeric() && c != '_' && c != '-') {
        let rest = text.get(start + word.len()..).unwrap_or_default();
        if names_secret(word) {
            return Some(text.len() - rest.trim_start_matches([' ', '\t', '=']).len());
        }
        // What parted the words is one character.
        start += word.len() + rest.chars().next().map_or(0, char::len_utf8);
    }
    None
}

/// Where the string that begins at `start` ends, at the latest at the end of the line.
fn string_end(line: &str, start: usize) -> usize {
    let bytes = line.as_bytes();
    let Some(&quote) = bytes.get(start) else {
        return start;
    };
    let mut i = start + 1;
    while let Some(&byte) = bytes.get(i) {
        if byte == b'\\' && quote == b'"' {
            i += 2;
            continue;
        }
        if byte == quote {
            return i + 1;
        }
        i += 1;
    }
    line.len()
}

/// Where the value that begins at `start` ends: a string at its quote, unless it is of several
/// lines; a list, or what is no value, at the end of the line.
fn value_end(line: &str, start: usize) -> usize {
    let rest = line.get(start..).unwrap_or_default();
    let quoted = rest.starts_with(['"', '\'']);
    let long = rest.starts_with("\"\"\"") || rest.starts_with("'''");
    if quoted && !long {
        string_end(line, start)
    } else {
        line.len()
    }
}

/// What stands between `//` and the `@` of a URL, and behind its `?`; and before the `@` of one that has
/// lost its scheme.
fn parts_of_urls(line: &str) -> Vec<Range<usize>> {
    let mut out = Vec::new();
    for (end, _) in line.match_indices('@') {
        let before = line.get(..end).unwrap_or_default();
        let breaks = ['"', '\'', ',', '{', '[', '=', ' ', '\t'];
        let start = before.rfind(breaks).map_or(0, |at| at + 1);
        let login = before.get(start..).unwrap_or_default();
        if login.contains(':') && !login.contains("://") {
            out.push(start..end);
        }
    }
    for (at, _) in line.match_indices("://") {
        let start = at + 3;
        let rest = line.get(start..).unwrap_or_default();
        let authority = rest
            .split(['/', '"', '\'', ',', '}', ' '])
            .next()
            .unwrap_or_default();
        if let Some(end) = authority.rfind('@').filter(|end| *end > 0) {
            out.push(start..start + end);
        }
        let url = rest
            .split(['"', '\'', ',', '}', ' ', '#'])
            .next()
            .unwrap_or_default();
        // `:?` belongs to a variable.
        let query = url
            .match_indices('?')
            .map(|(query, _)| query)
            .find(|query| {
                query + 1 < url.len()
                    && !url
                        .get(..*query)
                        .is_some_and(|before| before.ends_with(':'))
            });
        if let Some(query) = query {
            out.push(start + query + 1..start + url.len());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::tree::parse::parse;
    use super::*;

    fn shown(text: &str, part: &str) -> (String, String) {
        let (root, _) = parse(text, 0);
        let mut file = SourceFile::new("f.toml".into(), text.to_owned());
        file.hide_secrets(&root);
        let start = text.find(part).unwrap();
        let Place::File(spot) = file.place(start..start + part.len()) else {
            panic!()
        };
        let marked = spot.text.chars().skip(spot.skip).take(spot.len).collect();
        (spot.text, marked)
    }

    #[test]
    fn positions_count_characters() {
        let file = SourceFile::new("f".into(), "a\nüb = 1\n".into());
        assert_eq!(file.position(0), (1, 1));
        assert_eq!(file.position(2), (2, 1));
        assert_eq!(file.position(4), (2, 2));
        let Place::File(spot) = file.place(4..5) else {
            panic!()
        };
        assert_eq!((spot.text.as_str(), spot.skip, spot.len), ("üb = 1", 1, 1));
        let Place::File(spot) = file.place(10..40) else {
            panic!()
        };
        assert_eq!((spot.line, spot.column), (3, 1));
    }

    #[test]
    fn secrets_are_masked() {
        for (text, part, line, marked) in [
            ("api_key = \"canary\"", "\"canary\"", "api_key = ***", "***"),
            (
                "api_key = \"canary\"",
                "api_key",
                "api_key = ***",
                "api_key",
            ),
            (
                "apikey = 'canary' # x",
                "apikey",
                "apikey = *** # x",
                "apikey",
            ),
            (
                "a = { api_key = \"canary\", b = 1 }",
                "b",
                "a = { api_key = ***, b = 1 }",
                "b",
            ),
            (
                "api_key = { value = 'canary' }",
                "value",
                "api_key = { value = *** }",
                "value",
            ),
            (
                "api_key = { env = 'NAME' }",
                "env",
                "api_key = { env = 'NAME' }",
                "env",
            ),
            ("api_key = \"canary", "api_key", "api_key = ***", "api_key"),
            ("keys = ['canary', 'c2']", "keys", "keys = ***", "keys"),
            (
                "api_key = \"${NAME}\"",
                "${NAME}",
                "api_key = \"${NAME}\"",
                "${NAME}",
            ),
            ("api_key = \"${N:-canary}\"", "${N", "api_key = ***", "***"),
            (
                "w = ['http://u:canary@h']",
                "w",
                "w = ['http://***@h']",
                "w",
            ),
            (
                "w = 'http://h/?k=canary' # x",
                "w",
                "w = 'http://h/?***' # x",
                "w",
            ),
            (
                "first_token = \"1x\"",
                "\"1x\"",
                "first_token = \"1x\"",
                "\"1x\"",
            ),
            (
                "'api key' = 'canary'",
                "'api key'",
                "'api key' = ***",
                "'api key'",
            ),
        ] {
            assert_eq!(
                shown(text, part),
                (line.to_owned(), marked.to_owned()),
                "{text}"
            );
        }
        let text = "api_key = \"\"\"\ncanary\n\"\"\"\nx = 1";
        assert_eq!(shown(text, "canary").0, "***");
        let text = "[pools.api_key]\nvalue = 'canary'\n";
        assert_eq!(shown(text, "value").0, "value = ***");
    }
}
