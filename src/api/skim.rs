//! A look at a body that arrives in pieces: each is read once, while it is fresh, and what lies deep
//! inside is left out of what has to be looked at in one piece afterwards.
//!
//! [`Skimmer::feed`] follows strings and brackets only. Long strings and containers on the top level
//! (a prompt, the messages) are *cut*: what remains, the skeleton, is as small as a request without
//! its prompt. [`scan`](super::scan::scan) reads the skeleton, and places are moved back.

use bytes::Bytes;

use super::Span;
use super::lex::{Block, Escapes, Fault, MAX_DEPTH, below_lowest, prefix_xor, quote_or_escape};
use super::scan::{Fields, ScanError};

/// What is shorter than this is not worth cutting.
const SHORT: usize = 256;

/// Blocks of a string without quote and backslash after which the rest is searched instead.
const QUIET: u32 = 4;

/// Follows one body, piece after piece.
#[derive(Debug, Default)]
pub struct Skimmer {
    /// Bytes seen before the piece at hand.
    base: usize,
    /// One bit per open bracket, the innermost lowest: set for a brace.
    kinds: u128,
    depth: u32,
    in_string: bool,
    escapes: Escapes,
    /// Where the string or container on the top level begins that is open now.
    opened: usize,
    /// What is left out, in order.
    cuts: Vec<Span>,
    fault: Option<Fault>,
}

/// What is left out of a skeleton, to find places again.
#[derive(Debug, Default)]
pub struct Cuts(Vec<Cut>);

#[derive(Debug)]
struct Cut {
    /// Where it is in the skeleton.
    at: usize,
    /// Bytes that are left out up to its end.
    left_out: usize,
}

impl Skimmer {
    /// Reads the next piece.
    pub fn feed(&mut self, piece: &[u8]) {
        let mut at = 0;
        let mut quiet = 0;
        while self.fault.is_none() && at < piece.len() {
            let (block, len) = self.block(piece, at);
            let backslashes = block.backslashes();
            let quotes = block.quotes() & !self.escapes.escaped(backslashes);
            if self.in_string && quotes == 0 {
                at += len;
                quiet = if backslashes == 0 { quiet + 1 } else { 0 };
                if quiet >= QUIET {
                    quiet = 0;
                    // Where nothing is found, the string goes on in the next piece.
                    at = quote_or_escape(piece, at).unwrap_or(piece.len());
                }
                continue;
            }
            quiet = 0;
            let start = (self.base + at + len).wrapping_sub(Block::LEN);
            self.structure(&block, backslashes, quotes, start);
            at += len;
        }
        self.base += piece.len();
    }

    /// The next block of `piece` and how many of its bytes stand in it. What is shorter than a block
    /// stands at the block's end, so that what carries over to the next one is right.
    #[inline]
    fn block(&mut self, piece: &[u8], at: usize) -> (Block, usize) {
        let rest = piece.get(at..).unwrap_or_default();
        if let Some(block) = rest.first_chunk() {
            return (Block::of(block), Block::LEN);
        }
        let mut padded = [b' '; Block::LEN];
        let start = Block::LEN - rest.len();
        if let Some(end) = padded.get_mut(start..) {
            end.copy_from_slice(rest);
            if self.escapes.take_carry()
                && let Some(escaped) = end.first_mut()
            {
                // An escaped byte says nothing about structure.
                *escaped = b' ';
            }
        }
        (Block::of(&padded), rest.len())
    }

    /// Follows quotes and brackets of a block whose first byte stands at `start` (which lies before
    /// the piece where the block was filled up in front).
    fn structure(&mut self, block: &Block, backslashes: u64, quotes: u64, start: usize) {
        let open = if self.in_string { u64::MAX } else { 0 };
        let strings = prefix_xor(quotes) ^ open;
        let stray = backslashes & !strings;
        let brackets = block.brackets() & !strings & below_lowest(stray);
        // Quotes matter on the top level only.
        let mut events = if self.depth > 1 {
            brackets
        } else {
            brackets | quotes
        };
        while events != 0 {
            let bit = events.trailing_zeros();
            events &= events - 1;
            let at = start.wrapping_add(bit as usize);
            if quotes >> bit & 1 == 1 {
                if self.depth == 1 {
                    // Of a string that begins here the bit is among its own.
                    if strings >> bit & 1 == 1 {
                        self.opened = at
                    } else {
                        self.close(at)
                    }
                }
                continue;
            }
            match block.byte(bit) {
                byte @ (b'{' | b'[') => self.enter(byte, at),
                byte @ (b'}' | b']') => {
                    let was = self.depth;
                    self.leave(byte, at);
                    if was == 2 && self.depth == 1 {
                        // Back on the top level: its strings come next.
                        events |= quotes & !(below_or_at(bit));
                    }
                }
                _ => {}
            }
            if self.depth > 1 {
                events &= !quotes;
            }
            if self.fault.is_some() {
                return;
            }
        }
        if stray != 0 {
            let at = start.wrapping_add(stray.trailing_zeros() as usize);
            self.fault = Some(Fault::Syntax(at));
        }
        self.in_string = strings >> 63 == 1;
    }

    fn enter(&mut self, byte: u8, at: usize) {
        if self.depth >= MAX_DEPTH {
            self.fault = Some(Fault::Depth(at));
            return;
        }
        if self.depth == 1 {
            self.opened = at;
        }
        self.depth += 1;
        self.kinds = self.kinds << 1 | u128::from(byte == b'{');
    }

    fn leave(&mut self, byte: u8, at: usize) {
        if self.depth == 0 || (self.kinds & 1 == 1) != (byte == b'}') {
            self.fault = Some(Fault::Syntax(at));
            return;
        }
        self.kinds >>= 1;
        self.depth -= 1;
        if self.depth == 1 {
            self.close(at);
        }
    }

    /// Cuts what lies between the bytes that open and close a value of the top level.
    fn close(&mut self, at: usize) {
        if at - self.opened > SHORT {
            self.cuts.push(Span::new(self.opened + 1, at));
        }
    }

    /// The skeleton of `pieces`, all of which have been fed, and what was left out of it.
    ///
    /// # Errors
    /// When brackets do not pair, a string or bracket is open at the end, or the nesting is too deep.
    pub fn skeleton(self, pieces: &[Bytes]) -> Result<(Vec<u8>, Cuts), ScanError> {
        if let Some(fault) = self.fault {
            return Err(fault.into());
        }
        if self.depth > 0 || self.in_string {
            return Err(Fault::Syntax(self.base).into());
        }
        let cut: usize = self.cuts.iter().map(|cut| cut.len()).sum();
        let mut skeleton = Vec::with_capacity(self.base.saturating_sub(cut));
        let mut cuts = self.cuts.iter().copied();
        let mut cut = cuts.next();
        let mut base = 0;
        for piece in pieces {
            let end = base + piece.len();
            let mut at = base;
            while at < end {
                let (keep, next) = match cut {
                    Some(cut) if cut.start < end => (cut.start.max(at), cut.end.min(end)),
                    _ => (end, end),
                };
                skeleton.extend_from_slice(piece.get(at - base..keep - base).unwrap_or_default());
                at = next;
                while cut.is_some_and(|cut| cut.end <= at) {
                    cut = cuts.next();
                }
            }
            base = end;
        }
        let mut left_out = 0;
        let cuts = self.cuts.iter().map(|cut| {
            let at = cut.start - left_out;
            left_out += cut.len();
            Cut { at, left_out }
        });
        Ok((skeleton, Cuts(cuts.collect())))
    }
}

#[inline]
const fn below_or_at(bit: u32) -> u64 {
    u64::MAX >> (63 - bit)
}

impl Cuts {
    /// The place in the body of a place in the skeleton.
    fn place(&self, at: usize) -> usize {
        let behind = self.0.partition_point(|cut| cut.at <= at);
        let last = behind.checked_sub(1).and_then(|last| self.0.get(last));
        at + last.map_or(0, |cut| cut.left_out)
    }

    /// Where a value stands in the body. Its first and last byte are never cut.
    pub fn span(&self, span: Span) -> Span {
        if span.is_empty() {
            return span;
        }
        Span::new(self.place(span.start), self.place(span.end - 1) + 1)
    }

    /// An error of a scan of the skeleton, with its place in the body.
    pub fn error(&self, error: ScanError) -> ScanError {
        match error {
            ScanError::InvalidJson { offset } => ScanError::InvalidJson {
                offset: self.place(offset),
            },
            ScanError::TooDeep { offset } => ScanError::TooDeep {
                offset: self.place(offset),
            },
            other @ (ScanError::DuplicateModel | ScanError::WrongType { .. }) => other,
        }
    }

    /// The fields of a scan of the skeleton, with their places in the body.
    pub fn fields(&self, fields: &Fields) -> Fields {
        fields.moved(|at| self.place(at), |span| self.span(span))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::scan::scan;

    fn skim(body: &[u8], cut_at: &[usize]) -> Result<(Vec<u8>, Cuts), ScanError> {
        let mut skimmer = Skimmer::default();
        let mut pieces = Vec::new();
        let mut from = 0;
        for to in cut_at.iter().copied().chain([body.len()]) {
            let piece = Bytes::copy_from_slice(&body[from..to]);
            skimmer.feed(&piece);
            pieces.push(piece);
            from = to;
        }
        skimmer.skeleton(&pieces)
    }

    fn long(text: &str) -> String {
        let prompt = r#"say \"hi\" [to] {all} \\"#.repeat(40);
        text.replace("LONG", &prompt)
    }

    #[test]
    fn long_values_are_cut_and_places_are_found_again() {
        let body = long(
            r#"{"messages":[{"role":"user","content":"LONG"}],"model":"m","prompt":"LONG","stream":true}"#,
        );
        let whole = scan(body.as_bytes()).unwrap();
        let (skeleton, cuts) = skim(body.as_bytes(), &[]).unwrap();
        let text = String::from_utf8(skeleton.clone()).unwrap();
        assert_eq!(
            text,
            r#"{"messages":[],"model":"m","prompt":"","stream":true}"#
        );
        let found = scan(&skeleton).unwrap();
        assert_eq!(cuts.fields(&found.fields), whole.fields);
    }

    #[test]
    fn it_does_not_matter_where_the_pieces_are_cut() {
        let body = long(
            r#" {"a\\":"\"LONG\\","messages":[{"content":"LONG"},[[]],{}],"model":"m\"n","n":2,"x":{"y":"LONG"}} "#,
        );
        let expected = skim(body.as_bytes(), &[]).unwrap().0;
        let whole = scan(body.as_bytes()).unwrap();
        let bytes = body.as_bytes();
        for first in (0..bytes.len()).step_by(3) {
            for gap in [1, 2, 5, 63, 64, 65, 130] {
                let second = (first + gap).min(bytes.len());
                let (skeleton, cuts) = skim(bytes, &[first, second]).unwrap();
                assert_eq!(skeleton, expected, "{first} {second}");
                let found = scan(&skeleton).unwrap();
                assert_eq!(found.model, whole.model);
                assert_eq!(cuts.fields(&found.fields), whole.fields, "{first} {second}");
            }
        }
    }

    #[test]
    fn what_does_not_pair_is_refused() {
        let ends = |text: &str| skim(long(text).as_bytes(), &[7]).is_err();
        assert!(ends(r#"{"messages":["LONG"}"#));
        assert!(ends(r#"{"messages":["LONG"]"#));
        assert!(ends(r#"{"prompt":"LONG"#));
        assert!(ends(r#"{"prompt":"LONG"}}"#));
        assert!(ends(r#"{"prompt":\"LONG"}"#));
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(200), "]".repeat(200));
        assert!(matches!(
            skim(deep.as_bytes(), &[50]),
            Err(ScanError::TooDeep { .. })
        ));
    }
}
