//! Writing of JSON strings.

const HEX: &[u8; 16] = b"0123456789abcdef";

/// Length in bytes of `text` as a JSON string, quotes included.
pub(crate) fn quoted_len(text: &str) -> usize {
    2 + text.bytes().map(escaped_len).sum::<usize>()
}

/// `text` as a JSON string, quotes included.
pub fn quoted(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(quoted_len(text));
    quote(&mut out, text);
    out
}

/// Appends `text` to `out` as a JSON string, quotes included.
pub(crate) fn quote(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let bytes = text.as_bytes();
    let mut copied = 0;
    for (at, &byte) in bytes.iter().enumerate() {
        if escaped_len(byte) == 1 {
            continue;
        }
        out.extend_from_slice(&bytes[copied..at]);
        copied = at + 1;
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            b'\n' => out.extend_from_slice(br"\n"),
            b'\r' => out.extend_from_slice(br"\r"),
            b'\t' => out.extend_from_slice(br"\t"),
            _ => {
                let digits = [HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]];
                out.extend_from_slice(br"\u00");
                out.extend_from_slice(&digits);
            }
        }
    }
    out.extend_from_slice(&bytes[copied..]);
    out.push(b'"');
}

const fn escaped_len(byte: u8) -> usize {
    match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' => 2,
        0..0x20 => 6,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_text_parses_back() {
        let all: String = (0..0x500).filter_map(char::from_u32).collect();
        for text in ["", "plain", "a\"b\\c", "\n\r\t\u{0}\u{1f}", "é😀", &all] {
            let mut out = Vec::new();
            quote(&mut out, text);
            assert_eq!(out.len(), quoted_len(text));
            assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
        }
    }
}
