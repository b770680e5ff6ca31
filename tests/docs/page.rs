//! A page of Markdown, as far as its test needs it: fenced blocks, stage directions, and the rest.

use std::path::{Path, PathBuf};

pub(crate) struct Page {
    /// Relative to the repository.
    pub(crate) path: String,
    pub(crate) blocks: Vec<Block>,
    /// Every line outside blocks, with its number.
    pub(crate) prose: Vec<(usize, String)>,
}

pub(crate) struct Block {
    /// Of the fence, from 1.
    pub(crate) line: usize,
    pub(crate) language: String,
    words: Vec<(String, String)>,
    pub(crate) text: String,
}

impl Page {
    pub(crate) fn read(path: &str) -> Self {
        let text = std::fs::read_to_string(root().join(path))
            .unwrap_or_else(|error| panic!("{path}: {error}"));
        let mut page = Self {
            path: path.to_owned(),
            blocks: Vec::new(),
            prose: Vec::new(),
        };
        let mut lines = text.lines().enumerate();
        while let Some((number, line)) = lines.next() {
            let indent = line.len() - line.trim_start().len();
            let (info, end) = match line.trim_start() {
                fence if fence.starts_with("```") => (fence.trim_start_matches('`'), "```"),
                stage if stage.starts_with("<!-- stage") => ("stage", "-->"),
                _ => {
                    page.prose.push((number + 1, line.to_owned()));
                    continue;
                }
            };
            let body: Vec<_> = lines
                .by_ref()
                .map(|(_, line)| line.get(indent..).unwrap_or_default())
                .take_while(|line| line.trim() != end)
                .collect();
            let mut words = words(info).into_iter();
            page.blocks.push(Block {
                line: number + 1,
                language: words.next().unwrap_or_default().0,
                words: words.collect(),
                text: body.join("\n") + "\n",
            });
        }
        page
    }
}

impl Block {
    pub(crate) fn has(&self, word: &str) -> bool {
        self.value(word).is_some()
    }

    /// Of `word=value` or `word="several words"`; empty for the word alone.
    pub(crate) fn value(&self, word: &str) -> Option<&str> {
        self.words
            .iter()
            .find(|(name, _)| name == word)
            .map(|(_, value)| &**value)
    }
}

/// The words of an info string, of which some have values.
fn words(info: &str) -> Vec<(String, String)> {
    let mut words = Vec::new();
    let mut rest = info.trim();
    while !rest.is_empty() {
        let end = rest.find([' ', '=']).unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        let (value, after) = match after.strip_prefix('=') {
            None => ("", after),
            Some(quoted) if quoted.starts_with('"') => {
                let mut parts = quoted.splitn(3, '"').skip(1);
                (
                    parts.next().unwrap_or_default(),
                    parts.next().unwrap_or_default(),
                )
            }
            Some(plain) => plain.split_at(plain.find(' ').unwrap_or(plain.len())),
        };
        words.push((name.to_owned(), value.to_owned()));
        rest = after.trim_start();
    }
    words
}

/// Every page there is: the README, then those of `docs/` by name.
pub(crate) fn documents() -> Vec<String> {
    let mut found: Vec<_> = std::fs::read_dir(root().join("docs"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".md"))
        .map(|name| format!("docs/{name}"))
        .collect();
    found.sort();
    found.insert(0, "README.md".to_owned());
    found
}

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

#[test]
fn words_may_have_values() {
    let owned = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(
        words(r#"sh file=a/b.toml not-run="needs a root" append"#),
        [
            owned("sh", ""),
            owned("file", "a/b.toml"),
            owned("not-run", "needs a root"),
            owned("append", ""),
        ]
    );
}
