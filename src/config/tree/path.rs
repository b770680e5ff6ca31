//! Key paths: `pools[2].workers[0].url`.

use std::fmt;

/// One step of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Into a table.
    Key(String),
    /// Into an array, from 0.
    Index(usize),
}

/// Way from the root of a tree to a node. The root's own path is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct KeyPath(pub(crate) Vec<Step>);

impl KeyPath {
    /// Reads a path of bare keys and indices. What cannot be read is taken as a key.
    pub(crate) fn parse(text: &str) -> Self {
        let mut steps = Vec::new();
        for part in text.split('.').filter(|part| !part.is_empty()) {
            let mut pieces = part.split('[');
            steps.extend(
                pieces
                    .next()
                    .filter(|key| !key.is_empty())
                    .map(|key| Step::Key(key.into())),
            );
            steps.extend(
                pieces.map(|piece| match piece.trim_end_matches(']').parse() {
                    Ok(index) => Step::Index(index),
                    Err(_) => Step::Key(piece.into()),
                }),
            );
        }
        Self(steps)
    }

    /// The path without its last step, and that step.
    pub(crate) fn split_last(&self) -> Option<(Self, &Step)> {
        let (last, rest) = self.0.split_last()?;
        Some((Self(rest.to_vec()), last))
    }

    pub(crate) fn is_root(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for KeyPath {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, step) in self.0.iter().enumerate() {
            match step {
                Step::Index(index) => write!(out, "[{index}]")?,
                Step::Key(key) => {
                    if i > 0 {
                        out.write_str(".")?;
                    }
                    if is_bare(key) {
                        out.write_str(key)?;
                    } else {
                        write!(out, "{key:?}")?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// Whether a key needs no quotes in TOML.
pub(crate) fn is_bare(key: &str) -> bool {
    !key.is_empty()
        && key
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        for text in [
            "",
            "version",
            "server.request_timeout",
            "pools[2].workers[0].url",
            "a[0][1]",
        ] {
            assert_eq!(KeyPath::parse(text).to_string(), text);
        }
        let odd = KeyPath(vec![Step::Key("labels".into()), Step::Key("a.b".into())]);
        assert_eq!(odd.to_string(), "labels.\"a.b\"");
    }
}
