//! Escapes inside of strings.

use std::str::CharIndices;

/// What is wrong with an escape, and at which offset of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadEscape {
    /// No escape that JSON knows.
    Unknown(usize),
    /// Half of a surrogate pair, which no string of Unicode can hold.
    Surrogate(usize),
}

/// Gives the characters that `raw`, the text between two quotes, stands for.
pub(crate) fn unescape(raw: &str, mut push: impl FnMut(char)) -> Result<(), BadEscape> {
    let mut chars = raw.char_indices();
    while let Some((at, c)) = chars.next() {
        if c != '\\' {
            push(c);
            continue;
        }
        let unknown = BadEscape::Unknown(at);
        match chars.next().ok_or(unknown)?.1 {
            c @ ('"' | '\\' | '/') => push(c),
            'b' => push('\u{8}'),
            'f' => push('\u{c}'),
            'n' => push('\n'),
            'r' => push('\r'),
            't' => push('\t'),
            'u' => {
                let high = unit(&mut chars).ok_or(unknown)?;
                if !(0xD800..0xDC00).contains(&high) {
                    push(char::from_u32(high).ok_or(BadEscape::Surrogate(at))?);
                    continue;
                }
                let lone = BadEscape::Surrogate(at);
                if !(chars.next().is_some_and(|c| c.1 == '\\')
                    && chars.next().is_some_and(|c| c.1 == 'u'))
                {
                    return Err(lone);
                }
                let low = unit(&mut chars).ok_or(unknown)?;
                if !(0xDC00..0xE000).contains(&low) {
                    return Err(lone);
                }
                let c = 0x1_0000 + ((high - 0xD800) << 10) + (low - 0xDC00);
                push(char::from_u32(c).ok_or(lone)?);
            }
            _ => return Err(unknown),
        }
    }
    Ok(())
}

/// The UTF-16 unit of the four hex digits that come next.
fn unit(chars: &mut CharIndices<'_>) -> Option<u32> {
    (0..4).try_fold(0, |unit, _| {
        let digit = chars.next()?.1.to_digit(16)?;
        Some(unit << 4 | digit)
    })
}
