//! The text of a prompt, where it stands in a request body.
//!
//! The text is that of all messages (`content`, its `text` parts, `reasoning_content`), or of
//! `prompt`, `text`, `input`, `query`, joined by one space; numbers of token lists are text as well.
//! It is given out as it is written in JSON: an escape counts with the characters that it is written
//! with. Two requests with the same conversation have the same text, whatever stands between the
//! messages.

use std::ops::ControlFlow;

use bytes::Bytes;

use super::lex::{Block, Escapes, Span, quote_or_escape};
use super::scan::Fields;
use super::{Endpoint, lex};

/// At most this many bytes of a prompt are looked at.
pub const MAX_LEN: usize = 1024 * 1024;

/// The prompt of one request.
#[derive(Debug, Clone, Copy)]
pub struct Prompt<'a> {
    body: &'a [Bytes],
    /// What engines put in front of the text: instructions and descriptions of tools.
    before: [Option<Span>; 2],
    place: Option<Span>,
}

impl<'a> Prompt<'a> {
    /// Of `body`, in the pieces in which it came, whose `fields` a scan has found as if it were
    /// one.
    pub const fn new(endpoint: Endpoint, body: &'a [Bytes], fields: &Fields) -> Self {
        let place = match endpoint {
            Endpoint::Chat => fields.messages,
            Endpoint::Completions => fields.prompt,
            Endpoint::Generate => match fields.text {
                Some(text) => Some(text),
                None => fields.input_ids,
            },
            Endpoint::Embeddings | Endpoint::Classify | Endpoint::Responses => fields.input,
            Endpoint::Rerank => fields.query,
        };
        Self {
            body,
            before: [fields.instructions, fields.tools],
            place,
        }
    }

    /// As [`visit`](Self::visit), with the instructions and the tools in front, as they are written:
    /// what two prompts have in common for an engine begins there.
    pub fn visit_whole(&self, mut sink: impl FnMut(&'a [u8]) -> ControlFlow<()>) {
        let mut left = MAX_LEN;
        // `null`, `""` and `[]` are nothing.
        for place in self.before.iter().flatten().filter(|place| place.len() > 4) {
            for part in self.parts(*place) {
                let part = part.get(..left).unwrap_or(part);
                left -= part.len();
                if !part.is_empty() && sink(part).is_break() {
                    return;
                }
            }
        }
        self.visit(sink);
    }

    /// Calls `sink` with the text, piece after piece, until it breaks or [`MAX_LEN`] is reached.
    /// Where the text is cut into pieces depends on how the body came and says nothing.
    pub fn visit(&self, sink: impl FnMut(&'a [u8]) -> ControlFlow<()>) {
        let Some(place) = self.place else { return };
        let mut walk = Walk::new(sink);
        for part in self.parts(place) {
            if walk.feed(part).is_break() {
                return;
            }
        }
    }

    /// What stands at `place`, piece by piece.
    fn parts(&self, place: Span) -> impl Iterator<Item = &'a [u8]> {
        let pieces = self.body.iter().scan(0, |at, piece| {
            let start = *at;
            *at += piece.len();
            Some((start, piece))
        });
        pieces.filter_map(move |(start, piece)| {
            let from = place.start.max(start);
            let to = place.end.min(start + piece.len());
            (from < to).then(|| piece.get(from - start..to - start))?
        })
    }

    /// Length of the text in bytes, at most [`MAX_LEN`].
    pub fn len(&self) -> usize {
        let mut len = 0;
        self.visit(|text| {
            len += text.len();
            ControlFlow::Continue(())
        });
        len
    }

    /// Whether there is no text.
    pub fn is_empty(&self) -> bool {
        let mut empty = true;
        self.visit(|_| {
            empty = false;
            ControlFlow::Break(())
        });
        empty
    }
}

/// The keys whose values are text, at every level.
const TEXT_KEYS: [&[u8]; 3] = [b"content", b"text", b"reasoning_content"];

/// Bytes of the longest of them.
const KEY: usize = 17;

/// Containers of text within each other; what lies deeper is no text of any API.
const DEPTH: u32 = 16;

/// What comes next.
#[derive(Clone, Copy)]
enum At {
    /// A value that is text.
    Wanted,
    /// A value that is none.
    Unwanted,
    /// A key, or the end of the object.
    Key,
    /// The rest of a key.
    KeyText,
    /// A colon.
    Colon,
    /// A comma or the end of the container.
    After,
    /// The rest of a text.
    Text,
    /// The rest of a number that is text.
    Number,
    /// The rest of a string that is no text.
    SkipString,
    /// The rest of a container that is no text.
    Skip,
    /// The rest of a string in such a container.
    SkipInner,
    /// Nothing.
    Over,
}

/// Follows the value that holds the text, piece after piece.
struct Walk<F> {
    sink: F,
    at: At,
    /// One bit per open container of text, the innermost lowest: set for an object.
    kinds: u32,
    depth: u32,
    /// Open brackets of a container that is no text.
    skipped: u32,
    escapes: Escapes,
    key: [u8; KEY],
    key_len: usize,
    /// Bytes that may still be given out.
    left: usize,
    /// A space is due before the next text.
    said: bool,
}

impl<'a, F: FnMut(&'a [u8]) -> ControlFlow<()>> Walk<F> {
    fn new(sink: F) -> Self {
        Self {
            sink,
            at: At::Wanted,
            kinds: 0,
            depth: 0,
            skipped: 0,
            escapes: Escapes::default(),
            key: [0; KEY],
            key_len: 0,
            left: MAX_LEN,
            said: false,
        }
    }

    fn feed(&mut self, piece: &'a [u8]) -> ControlFlow<()> {
        let mut at = 0;
        while let Some(&byte) = piece.get(at) {
            match self.at {
                At::Text => {
                    let (end, closed) = self.string(piece, at);
                    self.emit(piece.get(at..end).unwrap_or_default())?;
                    at = end;
                    if closed {
                        at += 1;
                        self.at = At::After;
                    }
                }
                At::SkipString | At::SkipInner | At::KeyText => {
                    let (end, closed) = self.string(piece, at);
                    if matches!(self.at, At::KeyText) {
                        self.keep_key(piece.get(at..end).unwrap_or_default());
                    }
                    at = end;
                    if closed {
                        at += 1;
                        self.at = match self.at {
                            At::KeyText => At::Colon,
                            At::SkipInner => At::Skip,
                            _ => At::After,
                        };
                    }
                }
                At::Number => {
                    let digits =
                        |b: &u8| matches!(b, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E');
                    let rest = piece.get(at..).unwrap_or_default();
                    let len = rest.iter().position(|b| !digits(b)).unwrap_or(rest.len());
                    self.emit(rest.get(..len).unwrap_or_default())?;
                    at += len;
                    if len < rest.len() {
                        self.at = At::After;
                    }
                }
                At::Skip => {
                    let Some(found) = lex::structural(piece, at) else {
                        return ControlFlow::Continue(());
                    };
                    at = found + 1;
                    match piece.get(found) {
                        Some(b'"') => self.at = At::SkipInner,
                        Some(b'[' | b'{') => self.skipped += 1,
                        _ => {
                            self.skipped -= 1;
                            if self.skipped == 0 {
                                self.at = At::After;
                            }
                        }
                    }
                }
                At::Wanted | At::Unwanted | At::Key | At::Colon | At::After => {
                    at += self.step(byte)?;
                }
                At::Over => return ControlFlow::Break(()),
            }
        }
        ControlFlow::Continue(())
    }

    /// One byte between values; how many bytes it takes: none where the byte is a value's first.
    fn step(&mut self, byte: u8) -> ControlFlow<(), usize> {
        match (self.at, byte) {
            (_, b' ' | b'\t' | b'\n' | b'\r') => {}
            (At::Key, b'"') => {
                self.key_len = 0;
                self.at = At::KeyText;
            }
            (At::Colon, b':') => {
                let key = self.key.get(..self.key_len).unwrap_or_default();
                self.at = if TEXT_KEYS.contains(&key) {
                    At::Wanted
                } else {
                    At::Unwanted
                };
            }
            (At::After, b',') => {
                self.at = if self.kinds & 1 == 1 {
                    At::Key
                } else {
                    At::Wanted
                }
            }
            (At::Wanted | At::Key | At::After, b']' | b'}') => self.close(),
            (At::Wanted, b'"') => {
                self.begin()?;
                self.at = At::Text;
            }
            (At::Wanted, b'0'..=b'9' | b'-') => {
                self.begin()?;
                self.at = At::Number;
                return ControlFlow::Continue(0);
            }
            (At::Wanted, b'[' | b'{') if self.depth < DEPTH => {
                let object = byte == b'{';
                self.depth += 1;
                self.kinds = self.kinds << 1 | u32::from(object);
                self.at = if object { At::Key } else { At::Wanted };
            }
            (At::Wanted | At::Unwanted, b'[' | b'{') => {
                self.skipped = 1;
                self.at = At::Skip;
            }
            (At::Unwanted, b'"') => self.at = At::SkipString,
            // A literal, or a number that is no text: its bytes pass until a comma or a bracket.
            (At::Wanted | At::Unwanted, _) => self.at = At::After,
            _ => {}
        }
        if self.depth == 0 && matches!(self.at, At::After) {
            self.at = At::Over;
        }
        ControlFlow::Continue(1)
    }

    fn close(&mut self) {
        self.kinds >>= 1;
        self.depth = self.depth.saturating_sub(1);
        self.at = At::After;
    }

    /// Where the string that goes on at `at` ends in this piece, and whether it ends there.
    fn string(&mut self, piece: &[u8], mut at: usize) -> (usize, bool) {
        if self.escapes.take_carry() {
            at += 1;
        }
        // Most strings are short or have no escape at all.
        match quote_or_escape(piece, at) {
            None => return (piece.len(), false),
            Some(found) if piece.get(found) == Some(&b'"') => return (found, true),
            Some(found) => at = found,
        }
        while let Some(block) = piece.get(at..).and_then(|rest| rest.first_chunk()) {
            let block = Block::of(block);
            let quotes = block.quotes() & !self.escapes.escaped(block.backslashes());
            if quotes != 0 {
                self.escapes = Escapes::default();
                return (at + quotes.trailing_zeros() as usize, true);
            }
            at += Block::LEN;
        }
        let mut escaped = self.escapes.take_carry();
        for (offset, byte) in piece.get(at..).unwrap_or_default().iter().enumerate() {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => return (at + offset, true),
                _ => {}
            }
        }
        if escaped {
            // Only the carry is left behind, for the piece that follows.
            self.escapes.escaped(1 << 63);
        }
        (piece.len(), false)
    }

    fn keep_key(&mut self, part: &[u8]) {
        let end = self.key_len + part.len();
        match self.key.get_mut(self.key_len..end) {
            Some(room) => {
                room.copy_from_slice(part);
                self.key_len = end;
            }
            // Longer than any key that matters.
            None => {
                self.key = [0; KEY];
                self.key_len = KEY;
            }
        }
    }

    /// A text begins.
    fn begin(&mut self) -> ControlFlow<()> {
        if self.said {
            self.emit(b" ")?;
        }
        self.said = true;
        ControlFlow::Continue(())
    }

    fn emit(&mut self, text: &'a [u8]) -> ControlFlow<()> {
        let text = text.get(..self.left).unwrap_or(text);
        if text.is_empty() {
            return ControlFlow::Continue(());
        }
        self.left -= text.len();
        (self.sink)(text)?;
        if self.left == 0 {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::scan::scan;

    fn text(endpoint: Endpoint, pieces: &[&[u8]]) -> String {
        let whole = pieces.concat();
        let fields = scan(&whole).unwrap().fields;
        let pieces: Vec<Bytes> = pieces.iter().map(|p| Bytes::copy_from_slice(p)).collect();
        let mut found = Vec::new();
        Prompt::new(endpoint, &pieces, &fields).visit(|part| {
            found.extend_from_slice(part);
            ControlFlow::Continue(())
        });
        String::from_utf8(found).unwrap()
    }

    #[test]
    fn the_texts_of_all_endpoints() {
        for (endpoint, body, expected) in [
            (
                Endpoint::Chat,
                r#"{"tools":[{"content":"no"}],"messages":[{"role":"system","content":"be good"},{"role":"user","content":[{"type":"text","text":"a \"b\""},{"type":"image_url","image_url":{"url":"data:x","content":"no"}},{"type":"text","text":"c"}]},{"content":null,"role":"assistant","tool_calls":[{"function":{"arguments":"[\"x\"]"}}],"reasoning_content":"hm"} , { "content" : "end\\" } ]}"#,
                r#"be good a \"b\" c hm end\\"#,
            ),
            (Endpoint::Completions, r#"{"prompt":"once"}"#, "once"),
            (Endpoint::Completions, r#"{"prompt":["a","b"]}"#, "a b"),
            (Endpoint::Generate, r#"{"input_ids":[1, 23,4]}"#, "1 23 4"),
            (
                Endpoint::Generate,
                r#"{"input_ids":[[1,2],[3]],"text":"t"}"#,
                "t",
            ),
            (Endpoint::Generate, r#"{"input_ids":[[1,2],[3]]}"#, "1 2 3"),
            (
                Endpoint::Responses,
                r#"{"input":[{"role":"user","content":[{"type":"input_text","text":"x"}]},{"type":"reasoning","id":"r"},{"content":"y"}]}"#,
                "x y",
            ),
            (Endpoint::Embeddings, r#"{"input":["a","","b"]}"#, "a  b"),
            (Endpoint::Rerank, r#"{"query":"q","documents":["d"]}"#, "q"),
            (Endpoint::Chat, r#"{"messages":[]}"#, ""),
            (Endpoint::Chat, r#"{"model":"x"}"#, ""),
        ] {
            assert_eq!(text(endpoint, &[body.as_bytes()]), expected, "{body}");
            // However the body is cut.
            for cut in 1..body.len() {
                let (a, b) = body.as_bytes().split_at(cut);
                assert_eq!(text(endpoint, &[a, b]), expected, "{body} at {cut}");
            }
        }
    }

    #[test]
    fn instructions_and_tools_stand_in_front() {
        let body = br#"{"input":"hi","tools":[{"name":"f"}],"instructions":"be brief"}"#;
        let fields = scan(body).unwrap().fields;
        for cut in 1..body.len() {
            let (a, b) = body.split_at(cut);
            let pieces = [Bytes::from_static(a), Bytes::from_static(b)];
            let mut found = Vec::new();
            Prompt::new(Endpoint::Responses, &pieces, &fields).visit_whole(|part| {
                found.extend_from_slice(part);
                ControlFlow::Continue(())
            });
            assert_eq!(found, br#""be brief"[{"name":"f"}]hi"#, "{cut}");
        }
    }

    #[test]
    fn long_texts_with_escapes_in_small_pieces() {
        let said = "line one\\n\\\\ line \\\"two\\\" ".repeat(40);
        let body =
            format!(r#"{{"messages":[{{"content":"{said}"}},{{"x":"{said}","content":"z"}}]}}"#);
        for size in [1, 3, 63, 64, 65, 200, body.len()] {
            let pieces: Vec<&[u8]> = body.as_bytes().chunks(size).collect();
            assert_eq!(text(Endpoint::Chat, &pieces), format!("{said} z"), "{size}");
        }
    }

    #[test]
    fn what_is_too_long_is_cut() {
        let body = format!(r#"{{"prompt":["{}","b"]}}"#, "a".repeat(MAX_LEN + 5));
        assert_eq!(
            text(Endpoint::Completions, &[body.as_bytes()]).len(),
            MAX_LEN
        );
    }
}
