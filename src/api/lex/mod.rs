//! Lexing of JSON bytes in place: strings and nested values are skipped in bulk, nothing is built.
//!
//! Offsets are always into the slice that the caller gave. Inside nested values only strings and
//! brackets are looked at; the members of an object that is walked ([`Members`]) obey the grammar.

mod block;
mod escape;
mod find;

use std::ops::Range;

pub(crate) use block::{Block, Escapes, below_lowest, prefix_xor};

pub(crate) use escape::{BadEscape, unescape};
use find::structural_far;
pub(crate) use find::{quote_or_escape, structural};

/// Nesting above this is refused; the outermost object is level 1.
pub(crate) const MAX_DEPTH: u32 = 128;

/// A range of bytes in a body, in offsets from its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Span {
    /// Offset of the first byte.
    pub start: usize,
    /// Offset behind the last byte.
    pub end: usize,
}

impl Span {
    /// The span `start..end`.
    #[inline]
    pub const fn new(start: usize, end: usize) -> Self {
        Self { start, end }
    }

    /// The bytes of `body` in this span; empty where the span lies outside of `body`.
    #[inline]
    pub fn of(self, body: &[u8]) -> &[u8] {
        body.get(self.range()).unwrap_or_default()
    }

    /// The span as a range, for slicing.
    #[inline]
    pub const fn range(self) -> Range<usize> {
        self.start..self.end
    }

    /// Length in bytes.
    #[inline]
    pub const fn len(self) -> usize {
        self.end.saturating_sub(self.start)
    }

    /// Whether the span holds no byte.
    #[inline]
    pub const fn is_empty(self) -> bool {
        self.len() == 0
    }
}

/// Why lexing stopped, and at which offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The byte there, or the end of input there, is no JSON.
    Syntax(usize),
    /// The bracket there opens one level too many.
    Depth(usize),
}

/// One member of an object.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Member {
    /// The key between its quotes, as written.
    pub(crate) key: Span,
    /// Whether the key contains a backslash.
    pub(crate) escaped: bool,
    /// The value token, quotes and brackets included.
    pub(crate) value: Span,
}

/// Walks the members of one object, in order, duplicates included.
///
/// Ends after the closing brace ([`Members::at`] is then the offset behind it) or at the first fault.
pub(crate) struct Members<'a> {
    bytes: &'a [u8],
    at: usize,
    depth: u32,
    place: Place,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    First,
    Later,
    Over,
}

impl<'a> Members<'a> {
    /// A walk over the object whose `{` stands at `open`, itself on nesting level `depth`.
    pub(crate) fn new(bytes: &'a [u8], open: usize, depth: u32) -> Result<Self, Fault> {
        if bytes.get(open) != Some(&b'{') {
            return Err(Fault::Syntax(open));
        }
        Ok(Self {
            bytes,
            at: open + 1,
            depth,
            place: Place::First,
        })
    }

    /// The offset reached: behind the last member yielded, or behind the closing brace at the end.
    pub(crate) fn at(&self) -> usize {
        self.at
    }

    fn step(&mut self) -> Result<Option<Member>, Fault> {
        let mut at = skip_space(self.bytes, self.at);
        match (self.bytes.get(at), self.place) {
            (Some(b'}'), _) => {
                self.at = at + 1;
                self.place = Place::Over;
                return Ok(None);
            }
            (Some(b','), Place::Later) => at = skip_space(self.bytes, at + 1),
            (_, Place::First) => {}
            (_, Place::Later | Place::Over) => return Err(Fault::Syntax(at)),
        }
        if self.bytes.get(at) != Some(&b'"') {
            return Err(Fault::Syntax(at));
        }
        let (end, escaped) = string_end(self.bytes, at + 1)?;
        let key = Span::new(at + 1, end);
        at = skip_space(self.bytes, end + 1);
        if self.bytes.get(at) != Some(&b':') {
            return Err(Fault::Syntax(at));
        }
        let start = skip_space(self.bytes, at + 1);
        let end = value_end(self.bytes, start, self.depth)?;
        self.at = end;
        self.place = Place::Later;
        Ok(Some(Member {
            key,
            escaped,
            value: Span::new(start, end),
        }))
    }
}

impl Iterator for Members<'_> {
    type Item = Result<Member, Fault>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.place == Place::Over {
            return None;
        }
        let step = self.step();
        if step.is_err() {
            self.place = Place::Over;
        }
        step.transpose()
    }
}

/// The value of the last member `key` of the object that starts at `object.start`; `None` also where
/// there is no object. Stops quietly at a fault, so that it can look into a truncated text.
pub(crate) fn member(bytes: &[u8], object: Span, key: &str) -> Option<Span> {
    let members = Members::new(bytes, object.start, 1).ok()?;
    let mut found = None;
    for member in members.map_while(Result::ok) {
        if key_is(member.key.of(bytes), member.escaped, key) {
            found = Some(member.value);
        }
    }
    found
}

/// Whether the key `raw` (between its quotes, as written) spells `name`.
pub(crate) fn key_is(raw: &[u8], escaped: bool, name: &str) -> bool {
    if !escaped {
        return raw == name.as_bytes();
    }
    let mut expected = name.chars();
    let mut same = true;
    let spelled = std::str::from_utf8(raw)
        .is_ok_and(|raw| unescape(raw, |c| same &= expected.next() == Some(c)).is_ok());
    spelled && same && expected.next().is_none()
}

/// Offset of the first byte from `at` on that is no white space.
#[inline]
pub(crate) fn skip_space(bytes: &[u8], mut at: usize) -> usize {
    while let Some(b' ' | b'\n' | b'\r' | b'\t') = bytes.get(at) {
        at += 1;
    }
    at
}

/// Offset of the closing quote of the string whose first character stands at `at`, and whether there
/// is a backslash in it.
#[inline]
pub(crate) fn string_end(bytes: &[u8], at: usize) -> Result<(usize, bool), Fault> {
    let found = quote_or_escape(bytes, at).ok_or(Fault::Syntax(bytes.len()))?;
    if bytes[found] == b'"' {
        return Ok((found, false));
    }
    Ok((escaped_string_end(bytes, found)?, true))
}

/// Blocks of a string without quote and backslash after which the rest of it is searched instead.
/// No escape hangs over from such a block.
const QUIET: u32 = 4;

/// As [`string_end`] for text full of escapes.
fn escaped_string_end(bytes: &[u8], mut at: usize) -> Result<usize, Fault> {
    let mut escapes = Escapes::default();
    let mut quiet = 0;
    while let Some(block) = Block::load(bytes, at) {
        let backslashes = block.backslashes();
        let quotes = block.quotes() & !escapes.escaped(backslashes);
        if quotes != 0 {
            return Ok(at + quotes.trailing_zeros() as usize);
        }
        at += Block::LEN;
        quiet = if backslashes == 0 { quiet + 1 } else { 0 };
        if quiet >= QUIET {
            at = quote_or_escape(bytes, at).ok_or(Fault::Syntax(bytes.len()))?;
            quiet = 0;
        }
    }
    Err(Fault::Syntax(bytes.len()))
}

/// Offset behind the value that starts at `at` inside a container on level `depth`.
#[inline]
pub(crate) fn value_end(bytes: &[u8], at: usize, depth: u32) -> Result<usize, Fault> {
    match bytes.get(at) {
        Some(b'"') => Ok(string_end(bytes, at + 1)?.0 + 1),
        Some(b'{' | b'[') => container_end(bytes, at, depth),
        Some(b't') => literal_end(bytes, at, b"true"),
        Some(b'f') => literal_end(bytes, at, b"false"),
        Some(b'n') => literal_end(bytes, at, b"null"),
        Some(b'-' | b'0'..=b'9') => number_end(bytes, at),
        _ => Err(Fault::Syntax(at)),
    }
}

/// Offset behind the container that opens at `at`, itself standing on level `outer`.
fn container_end(bytes: &[u8], mut at: usize, outer: u32) -> Result<usize, Fault> {
    // One bit per open bracket, the innermost lowest: set for a brace. MAX_DEPTH bits suffice.
    let mut kinds: u128 = 0;
    let mut depth = outer;
    let mut escapes = Escapes::default();
    // All ones while a string is open, else zero.
    let mut open_string: u64 = 0;
    let mut quiet = 0;
    while let Some(block) = Block::load(bytes, at) {
        let backslashes = block.backslashes();
        let quotes = block.quotes() & !escapes.escaped(backslashes);
        if open_string != 0 && quotes == 0 {
            at += Block::LEN;
            // Some blocks in which nothing happens are a sign of more to come.
            quiet = if backslashes == 0 { quiet + 1 } else { 0 };
            if quiet >= QUIET {
                at = quote_or_escape(bytes, at).ok_or(Fault::Syntax(bytes.len()))?;
                quiet = 0;
            }
            continue;
        }
        quiet = 0;
        // From each opening quote to the byte before its closing one.
        let strings = prefix_xor(quotes) ^ open_string;
        let stray = backslashes & !strings;
        let all_brackets = block.brackets();
        let mut brackets = all_brackets & !strings & below_lowest(stray);
        while brackets != 0 {
            let found = at + brackets.trailing_zeros() as usize;
            brackets &= brackets - 1;
            let byte = bytes[found];
            match byte {
                b'{' | b'[' => {
                    if depth >= MAX_DEPTH {
                        return Err(Fault::Depth(found));
                    }
                    depth += 1;
                    kinds = kinds << 1 | u128::from(byte == b'{');
                }
                b'}' | b']' => {
                    if (kinds & 1 == 1) != (byte == b'}') {
                        return Err(Fault::Syntax(found));
                    }
                    kinds >>= 1;
                    depth -= 1;
                    if depth == outer {
                        return Ok(found + 1);
                    }
                }
                _ => {}
            }
        }
        if stray != 0 {
            return Err(Fault::Syntax(at + stray.trailing_zeros() as usize));
        }
        open_string = if strings >> 63 == 1 { u64::MAX } else { 0 };
        at += Block::LEN;
        if open_string == 0 && quotes | backslashes | all_brackets == 0 {
            at = structural_far(bytes, at).ok_or(Fault::Syntax(bytes.len()))?;
        }
    }
    Err(Fault::Syntax(bytes.len()))
}

fn literal_end(bytes: &[u8], at: usize, literal: &[u8]) -> Result<usize, Fault> {
    let end = at + literal.len();
    match bytes.get(at..end) {
        Some(found) if found == literal => Ok(end),
        _ => Err(Fault::Syntax(at)),
    }
}

fn number_end(bytes: &[u8], at: usize) -> Result<usize, Fault> {
    let digits = |from: usize| {
        let rest = bytes.get(from..).unwrap_or_default();
        from + rest.iter().take_while(|b| b.is_ascii_digit()).count()
    };
    let first = at + usize::from(bytes.get(at) == Some(&b'-'));
    let mut end = match bytes.get(first) {
        Some(b'0') => first + 1,
        Some(b'1'..=b'9') => digits(first),
        _ => return Err(Fault::Syntax(first)),
    };
    if bytes.get(end) == Some(&b'.') {
        let fraction = end + 1;
        end = digits(fraction);
        if end == fraction {
            return Err(Fault::Syntax(end));
        }
    }
    if let Some(b'e' | b'E') = bytes.get(end) {
        let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
        let exponent = end + 1 + sign;
        end = digits(exponent);
        if end == exponent {
            return Err(Fault::Syntax(end));
        }
    }
    Ok(end)
}

#[cfg(test)]
mod tests;
