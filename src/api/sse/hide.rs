//! Takes the chunk with the token figures out of a stream, for a client that has not asked for it.
//!
//! Everything else passes as it came and as soon as it came; only an event of which a part is still to
//! come is held back, and a long one not even that.

use std::collections::VecDeque;
use std::sync::LazyLock;

use bytes::{Bytes, BytesMut};
use memchr::{memchr2, memmem};

use super::super::lex::{self, Span};

/// No chunk with figures alone is longer.
const LONGEST: usize = 16 * 1024;

/// Made once; every name of a figure ends so.
static TOKENS: LazyLock<memmem::Finder<'static>> =
    LazyLock::new(|| memmem::Finder::new(b"_tokens\""));

/// Hides the figures of one stream of chat or completion chunks.
#[derive(Debug)]
pub struct Hide {
    /// The beginning of an event.
    held: BytesMut,
    /// The event under way is too long to be one that is hidden.
    long: bool,
    /// Nothing of the line has come.
    empty: bool,
    /// The byte before was a carriage return; a line feed would belong to it.
    after_return: bool,
}

impl Default for Hide {
    fn default() -> Self {
        Self {
            held: BytesMut::new(),
            long: false,
            empty: true,
            after_return: false,
        }
    }
}

impl Hide {
    /// Adds to `out` what the client may see of the next `chunk`.
    pub fn pass(&mut self, chunk: &Bytes, out: &mut VecDeque<Bytes>) {
        // Up to `sent` it has been dealt with, from there to `at` it is events that may go out.
        let (mut sent, mut at) = (0, 0);
        while let Some(end) = self.end(chunk, at) {
            if !self.held.is_empty() {
                self.held.extend_from_slice(&chunk[at..end]);
                let event = self.held.split().freeze();
                if !is_figures(&event) {
                    out.push_back(event);
                }
                sent = end;
            } else if !std::mem::take(&mut self.long) && is_figures(&chunk[at..end]) {
                push(out, chunk.slice(sent..at));
                sent = end;
            }
            at = end;
        }
        let length = self.held.len() + chunk.len() - at;
        if self.long || length > LONGEST {
            self.long = true;
            push(out, self.held.split().freeze());
            push(out, chunk.slice(sent..));
        } else {
            push(out, chunk.slice(sent..at));
            self.held.extend_from_slice(&chunk[at..]);
        }
    }

    /// Adds to `out` what was held back of a stream that has ended without an empty line.
    pub fn finish(&mut self, out: &mut VecDeque<Bytes>) {
        let rest = self.held.split().freeze();
        if !is_figures(&rest) {
            push(out, rest);
        }
    }

    /// Where the event ends that the byte at `at` belongs to: behind the empty line.
    fn end(&mut self, chunk: &[u8], mut at: usize) -> Option<usize> {
        if self.after_return {
            let next = *chunk.get(at)?;
            self.after_return = false;
            at += usize::from(next == b'\n');
        }
        loop {
            let rest = chunk.get(at..)?;
            let Some(found) = memchr2(b'\n', b'\r', rest) else {
                self.empty &= rest.is_empty();
                return None;
            };
            self.empty &= found == 0;
            at += found + 1;
            if rest[found] == b'\r' {
                match rest.get(found + 1) {
                    Some(b'\n') => at += 1,
                    Some(_) => {}
                    None => self.after_return = true,
                }
            }
            if std::mem::replace(&mut self.empty, true) {
                return Some(at);
            }
        }
    }
}

fn push(out: &mut VecDeque<Bytes>, data: Bytes) {
    if !data.is_empty() {
        out.push_back(data);
    }
}

/// Whether an event is the chunk that engines send last: figures, and no choice.
fn is_figures(event: &[u8]) -> bool {
    if event.len() > LONGEST || TOKENS.find(event).is_none() {
        return false;
    }
    let mut lines = event
        .split(|byte| matches!(byte, b'\n' | b'\r'))
        .filter_map(|line| line.strip_prefix(b"data:"));
    let (Some(payload), None) = (lines.next(), lines.next()) else {
        return false;
    };
    let whole = Span::new(lex::skip_space(payload, 0), payload.len());
    let member = |name| lex::member(payload, whole, name).map(|value| value.of(payload));
    let no_choice = member("choices").is_some_and(
        |choices| matches!(choices, [b'[', between @ .., b']'] if between.trim_ascii().is_empty()),
    );
    no_choice && member("usage").is_some_and(|usage| usage.starts_with(b"{"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const USAGE: &str = r#"data: {"id":"c","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}"#;

    /// What passes of `chunks`, and how much of it before the end of the stream was known.
    fn shown<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> (String, usize) {
        let (mut hide, mut out) = (Hide::default(), VecDeque::new());
        for chunk in chunks {
            hide.pass(&Bytes::copy_from_slice(chunk), &mut out);
        }
        let early = out.iter().map(Bytes::len).sum();
        hide.finish(&mut out);
        assert!(out.iter().all(|data| !data.is_empty()));
        let all: Vec<u8> = out.iter().flatten().copied().collect();
        (String::from_utf8(all).unwrap(), early)
    }

    fn delta(text: &str) -> String {
        format!(
            r#"data: {{"choices":[{{"index":0,"delta":{{"content":"{text}"}}}}],"usage":null}}"#
        )
    }

    /// A stream and what is to be seen of it.
    fn stream(end: &str) -> (String, String) {
        let (first, second) = (delta("a"), delta("\\\"choices\\\":[]_tokens\\\""));
        let before = format!("{first}{end}{end}: keep-alive{end}{end}{second}{end}{end}");
        let long = format!("{}{end}{end}", delta(&"x".repeat(2 * LONGEST)));
        let done = format!("data: [DONE]{end}{end}");
        let all = format!("{before}{USAGE}{end}{end}{long}{USAGE}{end}{end}{done}");
        (all, format!("{before}{long}{done}"))
    }

    #[test]
    fn only_the_figures_are_taken_out_wherever_the_chunks_are_cut() {
        for end in ["\n", "\r\n", "\r"] {
            let (all, expected) = stream(end);
            assert!(shown([all.as_bytes()]).0 == expected);
            for size in [1, 2, 3, 7, 64, 1000, LONGEST] {
                let seen = shown(all.as_bytes().chunks(size)).0;
                // A line feed behind a return that ended a chunk goes with the event behind it.
                let without = |text: &str| text.replace(['\n', '\r'], "");
                assert!(without(&seen) == without(&expected), "{end:?} by {size}");
                assert!(end == "\r\n" || seen == expected, "{end:?} by {size}");
            }
        }
    }

    #[test]
    fn what_is_no_chunk_of_figures_alone_passes() {
        let with = |choices: &str, usage: &str| {
            format!("data: {{\"choices\":{choices},\"usage\":{usage}}}\n\n")
        };
        let figures = r#"{"prompt_tokens":1}"#;
        for event in [
            with("[]", "null"),
            with("[{}]", figures),
            with("null", figures),
            with("[]", "[{\"prompt_tokens\":1}]"),
            "data: {\"choices\":[],\"prompt_filter_results\":[\"_tokens\"]}\n\n".to_owned(),
            "data: _tokens\"\n\n".to_owned(),
            format!("{USAGE}\ndata: more\n\n"),
            "\n\n\n".to_owned(),
        ] {
            assert_eq!(shown([event.as_bytes()]), (event.clone(), event.len()));
        }
        for event in [
            with("[ ]", figures),
            with("[]", figures).replace("data: ", "id: 7\ndata:"),
        ] {
            assert_eq!(shown([event.as_bytes()]).0, "", "{event}");
        }
    }

    #[test]
    fn whole_events_wait_for_nothing_and_the_last_needs_no_empty_line() {
        let (one, two) = (delta("a"), delta("b"));
        let begun = format!("{one}\n\n{two}\n\ndata: {{\"choi");
        let (seen, early) = shown([begun.as_bytes()]);
        assert_eq!(
            (seen.as_str(), early),
            (begun.as_str(), one.len() + two.len() + 4)
        );
        let unfinished = format!("{one}\n\n{USAGE}\n");
        assert_eq!(shown([unfinished.as_bytes()]).0, format!("{one}\n\n"));
        assert_eq!(shown([&b"data: [DONE]"[..]]).0, "data: [DONE]");
    }

    proptest! {
        #[test]
        fn bytes_without_figures_pass_unchanged(
            chunks in prop::collection::vec("[a\r\n: ]{0,12}|data: |\\[DONE\\]", 0..40),
        ) {
            let all: String = chunks.concat();
            prop_assert_eq!(shown(chunks.iter().map(|chunk| chunk.as_bytes())).0, all);
        }
    }
}
