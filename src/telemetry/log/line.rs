//! One log line, as bytes, in each of the formats.
//!
//! Invariant: a line holds no control character but its final newline, whatever the values were,
//! so that nothing a client sends can look like a second line.

use std::cell::Cell;
use std::fmt::{self, Write};
use std::time::Duration;

use time::OffsetDateTime;
use tracing::Level;

/// How lines look in one sink.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Style {
    /// One JSON object.
    Json,
    /// Text that begins with the time, in UTC.
    Text,
    /// [`Style::Text`] with the level in colour.
    Colour,
    /// Text for the journal: it has the time itself and reads the priority from `<N>`.
    Journal,
}

/// What stands before the fields of a line.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head<'a> {
    /// Time since the Unix epoch.
    pub(crate) at: Duration,
    pub(crate) level: Level,
    pub(crate) target: &'a str,
    /// Source file and line.
    pub(crate) place: Option<(&'a str, u32)>,
}

/// A line being written.
pub(crate) struct Line<'a> {
    out: &'a mut Vec<u8>,
    json: bool,
}

impl<'a> Line<'a> {
    /// Writes the head and what `message` puts into the place of the message.
    pub(crate) fn open(
        out: &'a mut Vec<u8>,
        style: Style,
        head: Head<'_>,
        message: impl FnOnce(&mut Escaped<'_>),
    ) -> Self {
        let json = style == Style::Json;
        if json {
            out.extend_from_slice(b"{\"timestamp\":\"");
            stamp(out, head.at, b'T');
            out.push(b'.');
            micros(out, head.at.subsec_micros());
            out.extend_from_slice(b"Z\",\"level\":\"");
            out.extend_from_slice(head.level.as_str().as_bytes());
            out.extend_from_slice(b"\",\"message\":\"");
            message(&mut Escaped { out, quoted: true });
            out.extend_from_slice(b"\",\"target\":\"");
            escape(out, head.target, true);
            out.push(b'"');
            if let Some((file, line)) = head.place {
                out.extend_from_slice(b",\"filename\":\"");
                escape(out, file, true);
                out.extend_from_slice(b"\",\"line_number\":");
                decimal(out, u64::from(line));
            }
        } else {
            match style {
                Style::Journal => out.extend_from_slice(priority(head.level)),
                Style::Json | Style::Text | Style::Colour => {
                    stamp(out, head.at, b' ');
                    out.push(b' ');
                }
            }
            let (before, after) = if style == Style::Colour {
                colour(head.level)
            } else {
                ("", "")
            };
            for part in [before, head.level.as_str(), after, " "] {
                out.extend_from_slice(part.as_bytes());
            }
            escape(out, head.target, false);
            out.extend_from_slice(b": ");
            if let Some((file, line)) = head.place
                && head.level >= Level::DEBUG
            {
                escape(out, file, false);
                out.push(b':');
                decimal(out, u64::from(line));
                out.extend_from_slice(b": ");
            }
            message(&mut Escaped { out, quoted: false });
        }
        Self { out, json }
    }

    /// A line without head or end: only fields, as they stand in JSON, each after a comma.
    pub(crate) fn fragment(out: &'a mut Vec<u8>) -> Self {
        Self { out, json: true }
    }

    /// A text value.
    pub(crate) fn str(&mut self, name: &str, value: &str) {
        self.name(name);
        if !self.json && is_bare(value) {
            self.out.extend_from_slice(value.as_bytes());
        } else {
            self.out.push(b'"');
            escape(self.out, value, true);
            self.out.push(b'"');
        }
    }

    /// An unsigned number.
    pub(crate) fn u64(&mut self, name: &str, value: u64) {
        self.name(name);
        decimal(self.out, value);
    }

    /// A signed number.
    pub(crate) fn i64(&mut self, name: &str, value: i64) {
        self.name(name);
        if value < 0 {
            self.out.push(b'-');
        }
        decimal(self.out, value.unsigned_abs());
    }

    /// A number with a fraction. JSON has no word for those that are not finite: `null`.
    pub(crate) fn f64(&mut self, name: &str, value: f64) {
        self.name(name);
        if self.json && !value.is_finite() {
            self.out.extend_from_slice(b"null");
        } else {
            // Writing to memory cannot fail, here and below.
            write!(
                Escaped {
                    out: self.out,
                    quoted: true
                },
                "{value}"
            )
            .ok();
        }
    }

    /// A truth value.
    pub(crate) fn bool(&mut self, name: &str, value: bool) {
        self.name(name);
        self.out
            .extend_from_slice(if value { b"true" } else { b"false" });
    }

    /// Anything else, by its `Debug` text. In text lines one that is quoted already stays as it is.
    pub(crate) fn debug(&mut self, name: &str, value: &dyn fmt::Debug) {
        if self.json {
            self.name(name);
            self.out.push(b'"');
            write!(
                Escaped {
                    out: self.out,
                    quoted: true
                },
                "{value:?}"
            )
            .ok();
            self.out.push(b'"');
        } else {
            let text = format!("{value:?}");
            if text.len() > 1 && text.starts_with('"') && text.ends_with('"') {
                self.name(name);
                escape(self.out, &text, false);
            } else {
                self.str(name, &text);
            }
        }
    }

    /// Bytes that are JSON already.
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// Whether this line is JSON.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// Ends the line.
    pub(crate) fn close(self) {
        self.out
            .extend_from_slice(if self.json { b"}\n" } else { b"\n" });
    }

    fn name(&mut self, name: &str) {
        let name = name.strip_prefix("r#").unwrap_or(name);
        if self.json {
            self.out.extend_from_slice(b",\"");
            escape(self.out, name, true);
            // A field must not repeat a key that every line has.
            if matches!(
                name,
                "timestamp"
                    | "level"
                    | "message"
                    | "target"
                    | "filename"
                    | "line_number"
                    | "span"
                    | "spans"
            ) {
                self.out.push(b'_');
            }
            self.out.extend_from_slice(b"\":");
        } else {
            self.out.push(b' ');
            escape(self.out, name, false);
            self.out.push(b'=');
        }
    }
}

/// Takes text and writes it with control characters escaped.
pub(crate) struct Escaped<'a> {
    out: &'a mut Vec<u8>,
    quoted: bool,
}

impl Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        escape(self.out, text, self.quoted);
        Ok(())
    }
}

/// Whether a text value needs no quotes.
fn is_bare(text: &str) -> bool {
    !text.is_empty() && has_only(text.as_bytes(), b'!', b'=')
}

/// Whether every byte is visible ASCII from `first` on, and none is a quote, a backslash or `but`. Eight
/// bytes are looked at together: an access line has some hundred, and nearly all are plain.
fn has_only(bytes: &[u8], first: u8, but: u8) -> bool {
    const LOW: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    // The high bit of some byte is set if one equals `byte`, or lies below it; what a borrow adds needs
    // such a byte before it.
    let has = |word: u64, byte: u8| {
        let difference = word ^ (LOW * u64::from(byte));
        difference.wrapping_sub(LOW) & !difference
    };
    let mut words = bytes.chunks_exact(8);
    let odd = words.by_ref().fold(0, |odd, word| {
        let word = u64::from_le_bytes(word.try_into().unwrap_or_default());
        odd | (word
            | (word.wrapping_sub(LOW * u64::from(first)) & !word)
            | has(word, 0x7f)
            | has(word, b'"')
            | has(word, b'\\')
            | has(word, but))
    });
    let plain =
        |byte: &u8| (first..=b'~').contains(byte) && !matches!(byte, b'"' | b'\\') && *byte != but;
    odd & HIGH == 0 && words.remainder().iter().all(plain)
}

/// `quoted`: the text stands between double quotes.
fn escape(out: &mut Vec<u8>, text: &str, quoted: bool) {
    if has_only(text.as_bytes(), b' ', b'"') {
        out.extend_from_slice(text.as_bytes());
        return;
    }
    for c in text.chars() {
        match c {
            '"' | '\\' if quoted => out.extend_from_slice(&[b'\\', c as u8]),
            '\n' => out.extend_from_slice(b"\\n"),
            '\r' => out.extend_from_slice(b"\\r"),
            '\t' => out.extend_from_slice(b"\\t"),
            c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') => {
                out.extend_from_slice(b"\\u");
                let code = u32::from(c);
                for shift in [12, 8, 4, 0] {
                    let digit = char::from_digit((code >> shift) & 0xf, 16).unwrap_or('0');
                    out.push(digit as u8);
                }
            }
            c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

fn decimal(out: &mut Vec<u8>, mut value: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

fn micros(out: &mut Vec<u8>, mut value: u32) {
    let mut digits = [b'0'; 6];
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
    out.extend_from_slice(&digits);
}

type Stamp = [u8; 19];

/// Date and time to the second, with `between` them. The text is kept for the second it names.
fn stamp(out: &mut Vec<u8>, at: Duration, between: u8) {
    thread_local! {
        static LAST: Cell<(u64, Stamp)> = const { Cell::new((u64::MAX, [b'0'; 19])) };
    }
    let second = at.as_secs();
    // A thread that is ending has no cache any more.
    let cached = LAST.try_with(|last| {
        let (of, text) = last.get();
        if of == second {
            return text;
        }
        let text = civil(second);
        last.set((second, text));
        text
    });
    let mut text = cached.unwrap_or_else(|_| civil(second));
    text[10] = between;
    out.extend_from_slice(&text);
}

fn civil(second: u64) -> Stamp {
    let date = i64::try_from(second)
        .ok()
        .and_then(|second| OffsetDateTime::from_unix_timestamp(second).ok())
        .unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let mut text = *b"0000-00-00 00:00:00";
    let mut put = |at: usize, value: u8| {
        text[at] = b'0' + value / 10;
        text[at + 1] = b'0' + value % 10;
    };
    let year = date.year().rem_euclid(10_000);
    put(0, (year / 100) as u8);
    put(2, (year % 100) as u8);
    put(5, u8::from(date.month()));
    put(8, date.day());
    put(11, date.hour());
    put(14, date.minute());
    put(17, date.second());
    text
}

/// The day of `at`, as `YYYY-MM-DD`.
pub(crate) fn day(at: Duration) -> String {
    let text = civil(at.as_secs());
    text.iter().take(10).map(|byte| char::from(*byte)).collect()
}

fn priority(level: Level) -> &'static [u8] {
    match level {
        Level::ERROR => b"<3>",
        Level::WARN => b"<4>",
        Level::INFO => b"<6>",
        _ => b"<7>",
    }
}

fn colour(level: Level) -> (&'static str, &'static str) {
    let before = match level {
        Level::ERROR => "\u{1b}[31m",
        Level::WARN => "\u{1b}[33m",
        Level::INFO => "\u{1b}[32m",
        Level::DEBUG => "\u{1b}[34m",
        _ => "\u{1b}[35m",
    };
    (before, "\u{1b}[0m")
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Duration = Duration::new(1_800_000_000, 42_000);

    fn line(style: Style, level: Level) -> String {
        let mut out = Vec::new();
        let head = Head {
            at: AT,
            level,
            target: "smg::x",
            place: Some(("src/x.rs", 7)),
        };
        let mut line = Line::open(&mut out, style, head, |message| {
            message.write_str("it \"is\"\n<3>up").unwrap();
        });
        line.str("plain", "/v1/chat");
        line.str("odd", "a b=\"c\"\r\n\u{1b}[31m\u{85}ü");
        line.str("empty", "");
        line.u64("n", 0);
        line.u64("max", u64::MAX);
        line.i64("i", i64::MIN);
        line.f64("f", 1.5);
        line.f64("nan", f64::NAN);
        line.bool("b", true);
        line.debug("d", &"q\n");
        line.debug("e", &format_args!("two words"));
        line.debug("r#type", &Some(1));
        line.str("level", "x");
        line.close();
        String::from_utf8(out).unwrap()
    }

    const FIELDS: &str = "it \"is\"\\n<3>up plain=/v1/chat \
        odd=\"a b=\\\"c\\\"\\r\\n\\u001b[31m\\u0085ü\" empty=\"\" n=0 max=18446744073709551615 \
        i=-9223372036854775808 f=1.5 nan=NaN b=true d=\"q\\n\" e=\"two words\" type=Some(1) \
        level=x\n";

    #[test]
    fn text_lines() {
        let text = |style, level| {
            let line = line(style, level);
            line.strip_suffix(FIELDS)
                .unwrap_or_else(|| panic!("fields: {line}"))
                .to_owned()
        };
        assert_eq!(
            text(Style::Text, Level::INFO),
            "2027-01-15 08:00:00 INFO smg::x: "
        );
        assert_eq!(
            text(Style::Text, Level::DEBUG),
            "2027-01-15 08:00:00 DEBUG smg::x: src/x.rs:7: "
        );
        assert_eq!(
            text(Style::Colour, Level::WARN),
            "2027-01-15 08:00:00 \u{1b}[33mWARN\u{1b}[0m smg::x: "
        );
        assert_eq!(text(Style::Journal, Level::ERROR), "<3>ERROR smg::x: ");
        assert_eq!(text(Style::Journal, Level::WARN), "<4>WARN smg::x: ");
        assert_eq!(text(Style::Journal, Level::INFO), "<6>INFO smg::x: ");
        assert_eq!(
            text(Style::Journal, Level::TRACE),
            "<7>TRACE smg::x: src/x.rs:7: "
        );
    }

    #[test]
    fn json_lines() {
        let line = line(Style::Json, Level::INFO);
        assert_eq!(line.matches('\n').count(), 1, "{line}");
        assert_eq!(
            line,
            "{\"timestamp\":\"2027-01-15T08:00:00.000042Z\",\"level\":\"INFO\",\
             \"message\":\"it \\\"is\\\"\\n<3>up\",\"target\":\"smg::x\",\
             \"filename\":\"src/x.rs\",\"line_number\":7,\"plain\":\"/v1/chat\",\
             \"odd\":\"a b=\\\"c\\\"\\r\\n\\u001b[31m\\u0085ü\",\"empty\":\"\",\"n\":0,\
             \"max\":18446744073709551615,\"i\":-9223372036854775808,\"f\":1.5,\"nan\":null,\
             \"b\":true,\"d\":\"\\\"q\\\\n\\\"\",\"e\":\"two words\",\"type\":\"Some(1)\",\
             \"level_\":\"x\"}\n"
        );
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["odd"], "a b=\"c\"\r\n\u{1b}[31m\u{85}ü");
    }

    #[test]
    fn no_value_makes_a_second_line() {
        for code in (0..0x100).chain([0x2028, 0x2029]) {
            let c = char::from_u32(code).unwrap();
            for style in [Style::Text, Style::Journal, Style::Json] {
                let mut out = Vec::new();
                let head = Head {
                    at: AT,
                    level: Level::INFO,
                    target: "t",
                    place: None,
                };
                let mut line = Line::open(&mut out, style, head, |message| {
                    message.write_char(c).unwrap();
                });
                line.str("k", &c.to_string());
                line.debug("d", &format_args!("{c}"));
                line.close();
                let text = String::from_utf8(out).unwrap();
                let body = text.strip_suffix('\n').unwrap();
                assert!(
                    !body.contains(char::is_control),
                    "{style:?} {code:#x}: {text:?}"
                );
                assert_eq!(text.lines().count(), 1);
                if style == Style::Json {
                    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
                    assert_eq!(value["k"], c.to_string());
                }
            }
        }
    }

    #[test]
    fn days() {
        assert_eq!(day(Duration::from_secs(0)), "1970-01-01");
        assert_eq!(day(Duration::from_secs(951_782_400)), "2000-02-29");
        assert_eq!(day(Duration::MAX), "1970-01-01");
    }
}
