//! Token figures of an answer, found while its bytes pass by.
//!
//! [`Finder`] follows a JSON text chunk by chunk and looks only at the few objects that can hold
//! figures: the top-level `usage` and `meta_info` (of `/generate`), and the `usage` of a top-level
//! `response` (events of the Responses API). Everything else is skipped in bulk; nothing is kept but
//! the place in the text. It never fails: a text that is no JSON has no figures.

use super::lex;

/// What an answer cost, in tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt (`prompt_tokens`, `input_tokens`); 0 where not told.
    pub input: u64,
    /// Tokens generated (`completion_tokens`, `output_tokens`); 0 where not told.
    pub output: u64,
    /// Tokens of the prompt that came from the worker's cache, where told.
    pub cached: Option<u64>,
}

/// The longest key that matters is `prompt_tokens_details`.
const KEY: usize = 24;

/// Looks for [`Usage`] in one JSON text that arrives in chunks.
#[derive(Clone, Debug)]
pub struct Finder {
    at: At,
    /// The interesting objects that are open, outermost first.
    path: [Node; 4],
    len: usize,
    /// Open brackets inside a value that is skipped.
    skipped: u32,
    /// The last byte was a backslash inside a string.
    escape: bool,
    key: [u8; KEY],
    key_len: usize,
    figure: Option<Figure>,
    number: u64,
    input: Option<u64>,
    output: Option<u64>,
    cached: Option<u64>,
}

/// Which part of the text comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Start,
    Member,
    Key,
    Colon,
    Value,
    /// In a number or literal that does not matter.
    Word,
    Number,
    Text,
    Skip,
    SkipText,
    Over,
}

/// An object on the way to figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Node {
    Root,
    Response,
    Figures,
    Details,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Figure {
    Input,
    Output,
    Cached,
}

impl Default for Finder {
    fn default() -> Self {
        Self::new()
    }
}

impl Finder {
    /// A finder at the start of a text.
    pub const fn new() -> Self {
        Self {
            at: At::Start,
            path: [Node::Root; 4],
            len: 0,
            skipped: 0,
            escape: false,
            key: [0; KEY],
            key_len: 0,
            figure: None,
            number: 0,
            input: None,
            output: None,
            cached: None,
        }
    }

    /// The figures of a whole text.
    pub fn find(text: &[u8]) -> Option<Usage> {
        let mut finder = Self::new();
        finder.feed(text);
        finder.usage()
    }

    /// The figures seen so far; `None` where there was none at all.
    pub fn usage(&self) -> Option<Usage> {
        if self.input.is_none() && self.output.is_none() && self.cached.is_none() {
            return None;
        }
        let (input, output) = (self.input.unwrap_or(0), self.output.unwrap_or(0));
        Some(Usage {
            input,
            output,
            cached: self.cached,
        })
    }

    /// Whether further bytes cannot change the answer.
    pub fn is_over(&self) -> bool {
        self.at == At::Over
    }

    /// Follows the next `chunk` of the text.
    pub fn feed(&mut self, chunk: &[u8]) {
        let mut at = 0;
        while at < chunk.len() && self.at != At::Over {
            at = match self.at {
                At::Start | At::Member | At::Colon | At::Value => self.token(chunk, at),
                At::Key => self.key(chunk, at),
                At::Word => self.word(chunk, at),
                At::Number => self.number(chunk, at),
                At::Text => self.text(chunk, at, At::Member),
                At::SkipText => self.text(chunk, at, At::Skip),
                At::Skip => self.skip(chunk, at),
                At::Over => chunk.len(),
            };
        }
    }

    /// One byte between tokens, or the first of a token.
    fn token(&mut self, chunk: &[u8], at: usize) -> usize {
        let at = lex::skip_space(chunk, at);
        let Some(&byte) = chunk.get(at) else {
            return at;
        };
        match (self.at, byte) {
            (At::Start, b'{') => self.open(Node::Root),
            (At::Member, b',') => {}
            (At::Member, b'"') => {
                self.key_len = 0;
                self.at = At::Key;
            }
            (At::Member, b'}') => self.close(),
            (At::Colon, b':') => self.at = At::Value,
            (At::Value, b'"') => self.at = At::Text,
            (At::Value, b'{') => match self.child() {
                Some(node) => self.open(node),
                None => self.skip_from_here(),
            },
            (At::Value, b'[') => self.skip_from_here(),
            (At::Value, b'0'..=b'9') => {
                self.figure = self.named_figure();
                self.number = 0;
                self.at = if self.figure.is_some() {
                    At::Number
                } else {
                    At::Word
                };
                return at;
            }
            (At::Value, _) => {
                self.at = At::Word;
                return at;
            }
            _ => self.at = At::Over,
        }
        at + 1
    }

    fn open(&mut self, node: Node) {
        match self.path.get_mut(self.len) {
            Some(place) => {
                *place = node;
                self.len += 1;
                self.at = At::Member;
            }
            None => self.at = At::Over,
        }
    }

    fn close(&mut self) {
        let closed = self.node();
        self.len = self.len.saturating_sub(1);
        let told = closed == Some(Node::Figures) && self.usage().is_some();
        self.at = if self.len == 0 || told {
            At::Over
        } else {
            At::Member
        };
    }

    fn skip_from_here(&mut self) {
        self.skipped = 1;
        self.at = At::Skip;
    }

    fn skip(&mut self, chunk: &[u8], at: usize) -> usize {
        let Some(found) = lex::structural(chunk, at) else {
            return chunk.len();
        };
        match chunk[found] {
            b'"' => self.at = At::SkipText,
            b'[' | b'{' => self.skipped = self.skipped.saturating_add(1),
            _ => {
                self.skipped -= 1;
                if self.skipped == 0 {
                    self.at = At::Member;
                }
            }
        }
        found + 1
    }

    /// Inside a string that is no key; `then` follows its closing quote.
    fn text(&mut self, chunk: &[u8], at: usize, then: At) -> usize {
        if std::mem::take(&mut self.escape) {
            return at + 1;
        }
        let Some(found) = lex::quote_or_escape(chunk, at) else {
            return chunk.len();
        };
        if chunk[found] == b'"' {
            self.at = then;
        } else {
            self.escape = true;
        }
        found + 1
    }

    fn key(&mut self, chunk: &[u8], at: usize) -> usize {
        if std::mem::take(&mut self.escape) {
            return at + 1;
        }
        let found = lex::quote_or_escape(chunk, at);
        let part = &chunk[at..found.unwrap_or(chunk.len())];
        match self.key.get_mut(self.key_len..self.key_len + part.len()) {
            Some(room) => {
                room.copy_from_slice(part);
                self.key_len += part.len();
            }
            None => self.key_len = KEY + 1,
        }
        let Some(found) = found else {
            return chunk.len();
        };
        if chunk[found] == b'"' {
            self.at = At::Colon;
        } else {
            // No worker spells these keys with escapes.
            self.escape = true;
            self.key_len = KEY + 1;
        }
        found + 1
    }

    fn word(&mut self, chunk: &[u8], at: usize) -> usize {
        let rest = &chunk[at..];
        let Some(end) = rest
            .iter()
            .position(|b| matches!(b, b',' | b'}' | b']' | b'"'))
        else {
            return chunk.len();
        };
        self.at = At::Member;
        at + end
    }

    fn number(&mut self, chunk: &[u8], at: usize) -> usize {
        match chunk[at] {
            digit @ b'0'..=b'9' => {
                let digit = u64::from(digit - b'0');
                self.number = self.number.saturating_mul(10).saturating_add(digit);
                return at + 1;
            }
            // A fraction or exponent is no count of tokens.
            b'.' | b'e' | b'E' => {}
            _ => match self.figure {
                Some(Figure::Input) => self.input = Some(self.number),
                Some(Figure::Output) => self.output = Some(self.number),
                Some(Figure::Cached) => self.cached = Some(self.number),
                None => {}
            },
        }
        self.at = At::Word;
        at
    }

    fn node(&self) -> Option<Node> {
        self.path.get(self.len.checked_sub(1)?).copied()
    }

    fn named(&self) -> &[u8] {
        self.key.get(..self.key_len).unwrap_or_default()
    }

    /// What the object that opens as the value of the current key is, if it matters.
    fn child(&self) -> Option<Node> {
        match (self.node()?, self.named()) {
            (Node::Root, b"usage" | b"meta_info") | (Node::Response, b"usage") => {
                Some(Node::Figures)
            }
            (Node::Root, b"response") => Some(Node::Response),
            (Node::Figures, b"prompt_tokens_details" | b"input_tokens_details") => {
                Some(Node::Details)
            }
            _ => None,
        }
    }

    fn named_figure(&self) -> Option<Figure> {
        match (self.node()?, self.named()) {
            (Node::Figures, b"prompt_tokens" | b"input_tokens") => Some(Figure::Input),
            (Node::Figures, b"completion_tokens" | b"output_tokens") => Some(Figure::Output),
            (Node::Figures | Node::Details, b"cached_tokens") => Some(Figure::Cached),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn usage(input: u64, output: u64, cached: Option<u64>) -> Usage {
        Usage {
            input,
            output,
            cached,
        }
    }

    fn cases() -> Vec<(&'static str, Option<Usage>)> {
        vec![
            (
                r#"{"id":"x","choices":[{"message":{"content":"\"usage\":{\"prompt_tokens\":9}"}}],"usage":{"prompt_tokens":12,"completion_tokens":34,"total_tokens":46,"prompt_tokens_details":{"cached_tokens":8}}}"#,
                Some(usage(12, 34, Some(8))),
            ),
            (
                r#" { "usage" : { "prompt_tokens_details" : null , "prompt_tokens" : 12 , "completion_tokens" : 3 } , "x" : 1 } "#,
                Some(usage(12, 3, None)),
            ),
            (
                r#"{"data":[{"embedding":[0.1,-2e-3]}],"usage":{"prompt_tokens":7,"total_tokens":7}}"#,
                Some(usage(7, 0, None)),
            ),
            (
                r#"{"type":"response.completed","response":{"id":"r","output":[{"usage":{"input_tokens":1}}],"usage":{"input_tokens":5,"input_tokens_details":{"cached_tokens":0},"output_tokens":6,"output_tokens_details":{"reasoning_tokens":2}}}}"#,
                Some(usage(5, 6, Some(0))),
            ),
            (
                r#"{"text":"a","meta_info":{"id":"b","finish_reason":{"type":"length","length":8},"prompt_tokens":4,"output_token_logprobs":[[-0.1,2,null]],"completion_tokens":8,"cached_tokens":3}}"#,
                Some(usage(4, 8, Some(3))),
            ),
            (r#"{"usage":null}"#, None),
            (r#"{"usage":{}}"#, None),
            (
                r#"{"usage":{"prompt_tokens":1.5,"completion_tokens":null}}"#,
                None,
            ),
            (r#"{"choices":[{"usage":{"prompt_tokens":1}}]}"#, None),
            (r#"{"x":{"usage":{"prompt_tokens":1}}}"#, None),
            (r#"[{"usage":{"prompt_tokens":1}}]"#, None),
            (r#"{"usa\u0067e":{"prompt_tokens":1}}"#, None),
            (
                r#"{"a_key_that_is_much_longer_than_those_that_matter":1,"\"":2,"usage":{"prompt_tokens":1}}"#,
                Some(usage(1, 0, None)),
            ),
            (
                r#"{"usage":{"prompt_tokens":99999999999999999999999}}"#,
                Some(usage(u64::MAX, 0, None)),
            ),
            (r#"{"usage":{"prompt_tokens":5"#, None),
            ("upstream said no", None),
            ("", None),
            ("}}", None),
            (r#"{"a":]"#, None),
        ]
    }

    #[test]
    fn figures_of_whole_texts() {
        for (text, expected) in cases() {
            assert_eq!(Finder::find(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn figures_do_not_depend_on_the_chunks() {
        for (text, expected) in cases() {
            for size in 1..=text.len() {
                let mut finder = Finder::new();
                text.as_bytes()
                    .chunks(size)
                    .for_each(|chunk| finder.feed(chunk));
                assert_eq!(finder.usage(), expected, "{text} by {size}");
            }
        }
    }

    #[test]
    fn it_stops_once_the_figures_are_complete() {
        let mut finder = Finder::new();
        finder.feed(br#"{"usage":{"prompt_tokens":5}"#);
        assert!(finder.is_over());
        finder.feed(br#","usage":{"prompt_tokens":6}}"#);
        assert_eq!(finder.usage(), Some(usage(5, 0, None)));
    }
}
