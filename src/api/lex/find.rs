//! Searches for the next byte that matters, for text where such bytes are rare.

const LOW: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = 0x8080_8080_8080_8080;
const FOLD: u64 = 0x2020_2020_2020_2020;

/// Offset of the first `"` or `\` from `at` on.
#[inline]
pub(crate) fn quote_or_escape(bytes: &[u8], at: usize) -> Option<usize> {
    let mut at = at;
    // Most strings of a chat are short, and a call into the vector search costs more than a few words.
    for _ in 0..4 {
        let Some(word) = word(bytes, at) else { break };
        let hit = equals(word, b'"') | equals(word, b'\\');
        if hit != 0 {
            return Some(at + first_byte(hit));
        }
        at += 8;
    }
    memchr::memchr2(b'"', b'\\', bytes.get(at..)?).map(|found| at + found)
}

/// Offset of the first quote, bracket or brace from `at` on.
#[inline]
pub(crate) fn structural(bytes: &[u8], mut at: usize) -> Option<usize> {
    for _ in 0..2 {
        let Some(word) = word(bytes, at) else {
            return structural_in_tail(bytes, at);
        };
        let hit = structurals(word);
        if hit != 0 {
            return Some(at + first_byte(hit));
        }
        at += 8;
    }
    structural_far(bytes, at)
}

/// Long runs of numbers: whole blocks at once, in a form that the compiler turns into vector code.
pub(super) fn structural_far(bytes: &[u8], mut at: usize) -> Option<usize> {
    while let Some(block) = bytes.get(at..at + 32) {
        let hit = block.iter().fold(false, |hit, &b| {
            let folded = b | 0x20;
            hit | (folded == b'{') | (folded == b'}') | (b == b'"')
        });
        if hit {
            break;
        }
        at += 32;
    }
    while let Some(word) = word(bytes, at) {
        let hit = structurals(word);
        if hit != 0 {
            return Some(at + first_byte(hit));
        }
        at += 8;
    }
    structural_in_tail(bytes, at)
}

fn structural_in_tail(bytes: &[u8], at: usize) -> Option<usize> {
    let tail = bytes.get(at..)?;
    let found = tail
        .iter()
        .position(|b| matches!(b, b'"' | b'[' | b']' | b'{' | b'}'))?;
    Some(at + found)
}

#[inline]
fn word(bytes: &[u8], at: usize) -> Option<u64> {
    bytes
        .get(at..)?
        .first_chunk()
        .map(|word| u64::from_le_bytes(*word))
}

/// The high bit of each byte of `word` that equals `byte`. Above the first such byte there may be
/// false ones; only the lowest bit counts.
#[inline]
const fn equals(word: u64, byte: u8) -> u64 {
    let zeroed = word ^ (LOW * byte as u64);
    zeroed.wrapping_sub(LOW) & !zeroed & HIGH
}

/// As [`equals`] for quotes, brackets and braces; `|0x20` makes a brace of a bracket.
#[inline]
const fn structurals(word: u64) -> u64 {
    let folded = word | FOLD;
    equals(folded, b'{') | equals(folded, b'}') | equals(word, b'"')
}

#[inline]
const fn first_byte(hits: u64) -> usize {
    (hits.trailing_zeros() / 8) as usize
}
