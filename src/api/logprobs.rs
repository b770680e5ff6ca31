//! `meta_info.input_token_logprobs` of `/generate`: where one worker reads the prompt and another
//! generates, the first has those of the prompt and the second its own, and the client is to see
//! both.

use bytes::Bytes;

use super::lex::{self, Span, member, skip_space};

/// A line of a stream above this passes as it is.
const LINE: usize = 16 * 1024 * 1024;

/// What is made of a stream at a time.
const PART: usize = 256 * 1024;

/// What the worker that read the prompts has said, by position in the batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Logprobs(Vec<Option<Bytes>>);

impl Logprobs {
    /// Those of a whole answer: one object, or an array of them.
    pub fn of(answer: &[u8]) -> Self {
        Self(
            objects(answer)
                .into_iter()
                .map(|object| inside(answer, object))
                .collect(),
        )
    }

    /// Takes in an event of a stream; the first of each prompt counts.
    pub fn learn(&mut self, event: &[u8]) {
        let whole = Span::new(skip_space(event, 0), event.len());
        let index = index(event, whole);
        if self.0.len() <= index {
            // An index is the position in the client's own batch; what is far beyond is no index.
            if index > 4096 {
                return;
            }
            self.0.resize(index + 1, None);
        }
        if let Some(slot) = self.0.get_mut(index)
            && slot.is_none()
        {
            *slot = inside(event, whole);
        }
    }

    /// Whether there is nothing to put in front of anything.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(Option::is_none)
    }

    /// `answer` with these in front of its own.
    pub fn merged(&self, answer: &[u8]) -> Vec<u8> {
        let objects = objects(answer);
        let inserts = objects
            .iter()
            .zip(&self.0)
            .filter_map(|(object, own)| insert(answer, *object, own.as_deref()?));
        spliced(answer, inserts)
    }

    /// An event of a stream with these in front of its own.
    fn merged_event(&self, event: &[u8]) -> Vec<u8> {
        let whole = Span::new(skip_space(event, 0), event.len());
        let own = self.0.get(index(event, whole)).and_then(Option::as_deref);
        spliced(event, own.and_then(|own| insert(event, whole, own)))
    }
}

/// Rewrites a stream line by line.
#[derive(Debug, Default)]
pub struct Lines {
    unread: Vec<u8>,
    /// Bytes at the front that end no line.
    searched: usize,
}

impl Lines {
    /// Takes in what has come.
    pub fn push(&mut self, chunk: &[u8]) {
        self.unread.extend_from_slice(chunk);
    }

    /// Bytes that have come and not gone on.
    pub fn len(&self) -> usize {
        self.unread.len()
    }

    /// Whether nothing waits to go on.
    pub fn is_empty(&self) -> bool {
        self.unread.is_empty()
    }

    /// Whether more has to come before something can go on.
    pub fn is_dry(&mut self) -> bool {
        self.unread.len() <= LINE && self.line_end(0).is_none()
    }

    /// What can go on, as far as it is no more than a part and a line; nothing where no line is whole.
    /// What is put in front may be large, and is put into every event.
    pub fn read(&mut self, own: &Logprobs) -> Vec<u8> {
        let mut out = Vec::new();
        let mut taken = 0;
        while out.len() < PART
            && let Some(end) = self.line_end(taken)
        {
            let line = self.unread.get(taken..end).unwrap_or_default();
            match line.strip_prefix(b"data:") {
                Some(payload) => {
                    out.extend_from_slice(b"data:");
                    out.extend_from_slice(&own.merged_event(payload));
                }
                None => out.extend_from_slice(line),
            }
            (taken, self.searched) = (end, end);
        }
        self.unread.drain(..taken);
        self.searched -= taken;
        if taken == 0 && self.unread.len() > LINE {
            return self.finish();
        }
        out
    }

    /// What is left when the stream ends.
    pub fn finish(&mut self) -> Vec<u8> {
        self.searched = 0;
        std::mem::take(&mut self.unread)
    }

    /// Where the line ends that begins at `start`. No byte is searched twice.
    fn line_end(&mut self, start: usize) -> Option<usize> {
        let from = self.searched.max(start);
        let rest = self.unread.get(from..).unwrap_or_default();
        let end = memchr::memchr(b'\n', rest);
        self.searched = end.map_or(self.unread.len(), |end| from + end);
        end.map(|end| from + end + 1)
    }
}

/// The objects of an answer: itself, or the elements of the array that it is.
fn objects(answer: &[u8]) -> Vec<Span> {
    let start = skip_space(answer, 0);
    if answer.get(start) != Some(&b'[') {
        return vec![Span::new(start, answer.len())];
    }
    let mut found = Vec::new();
    let mut at = skip_space(answer, start + 1);
    while let Ok(end) = lex::value_end(answer, at, 1) {
        found.push(Span::new(at, end));
        at = skip_space(answer, end);
        if answer.get(at) != Some(&b',') {
            break;
        }
        at = skip_space(answer, at + 1);
    }
    found
}

fn index(event: &[u8], object: Span) -> usize {
    member(event, object, "index")
        .and_then(|span| std::str::from_utf8(span.of(event)).ok()?.parse().ok())
        .unwrap_or(0)
}

fn list(text: &[u8], object: Span) -> Option<Span> {
    let meta = member(text, object, "meta_info")?;
    member(text, meta, "input_token_logprobs")
}

/// What stands between the brackets; `None` where there is nothing.
fn inside(text: &[u8], object: Span) -> Option<Bytes> {
    let inner = list(text, object)?
        .of(text)
        .strip_prefix(b"[")?
        .strip_suffix(b"]")?
        .trim_ascii();
    (!inner.is_empty()).then(|| Bytes::copy_from_slice(inner))
}

/// What to write where, to have `own` in front. An answer without `meta_info` is of another shape and
/// stays as it is.
fn insert(text: &[u8], object: Span, own: &[u8]) -> Option<(Span, Vec<u8>)> {
    let Some(list) = list(text, object) else {
        let meta = member(text, object, "meta_info")?;
        let inner = meta.of(text).strip_prefix(b"{")?.strip_suffix(b"}")?;
        let comma: &[u8] = if inner.trim_ascii().is_empty() {
            b""
        } else {
            b","
        };
        let at = Span::new(meta.end - 1, meta.end - 1);
        return Some((
            at,
            [comma, b"\"input_token_logprobs\":[", own, b"]"].concat(),
        ));
    };
    match list.of(text).strip_prefix(b"[") {
        Some(rest) => {
            let comma: &[u8] = if rest.trim_ascii_start().starts_with(b"]") {
                b""
            } else {
                b","
            };
            let at = Span::new(list.start + 1, list.start + 1);
            Some((at, [own, comma].concat()))
        }
        None => Some((list, [b"[", own, b"]"].concat())),
    }
}

fn spliced(text: &[u8], inserts: impl IntoIterator<Item = (Span, Vec<u8>)>) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut copied = 0;
    for (at, insert) in inserts {
        out.extend_from_slice(text.get(copied..at.start).unwrap_or_default());
        out.extend_from_slice(&insert);
        copied = at.end;
    }
    out.extend_from_slice(text.get(copied..).unwrap_or_default());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merge(first: &str, second: &str) -> String {
        String::from_utf8(Logprobs::of(first.as_bytes()).merged(second.as_bytes())).unwrap()
    }

    fn meta(list: &str) -> String {
        format!(r#"{{"text":"x","meta_info":{{"id":"1","input_token_logprobs":{list},"n":1}}}}"#)
    }

    #[test]
    fn those_of_the_prompt_come_first() {
        for (first, second, merged) in [
            (
                "[[-1,5,null]]",
                "[[-2,6,\"]\"]]",
                "[[-1,5,null],[-2,6,\"]\"]]",
            ),
            ("[1, 2]", "[]", "[1, 2]"),
            ("[1]", "null", "[1]"),
            ("[]", "[2]", "[2]"),
            ("null", "[2]", "[2]"),
        ] {
            assert_eq!(merge(&meta(first), &meta(second)), meta(merged));
        }
    }

    #[test]
    fn they_are_added_where_decode_has_none_of_its_own() {
        assert_eq!(
            merge(&meta("[1]"), r#"{"meta_info":{"id":1}}"#),
            r#"{"meta_info":{"id":1,"input_token_logprobs":[1]}}"#
        );
        assert_eq!(
            merge(&meta("[1]"), r#"{"meta_info":{}}"#),
            r#"{"meta_info":{"input_token_logprobs":[1]}}"#
        );
    }

    #[test]
    fn batches_are_merged_one_by_one() {
        let first = format!("[{}, {}]", meta("[1]"), meta("[2]"));
        let second = format!(" [{}, {}]", meta("[3]"), meta("[4]"));
        let merged = format!(" [{}, {}]", meta("[1,3]"), meta("[2,4]"));
        assert_eq!(merge(&first, &second), merged);
    }

    #[test]
    fn other_shapes_stay_as_they_are() {
        let chat = r#"{"choices":[{"logprobs":{"content":[]}}]}"#;
        assert_eq!(merge(&meta("[1]"), chat), chat);
        assert_eq!(merge(chat, &meta("[1]")), meta("[1]"));
        assert_eq!(merge("nonsense", "[oops"), "[oops");
    }

    #[test]
    fn every_event_of_a_stream_is_merged_wherever_it_is_cut() {
        let mut own = Logprobs::default();
        own.learn(meta("[1]").as_bytes());
        own.learn(meta("[9]").as_bytes());
        own.learn(br#" {"index":1,"meta_info":{"input_token_logprobs":[2]}}"#);
        let event = |list: &str| format!("data: {}\n\n", meta(list));
        let second = |list: &str| {
            format!("data: {{\"index\":1,\"meta_info\":{{\"input_token_logprobs\":{list}}}}}\n\n")
        };
        let stream = [
            &event("[5]"),
            ": c\n\n",
            &second("[6]"),
            &event("[7]"),
            "data: [DONE]\n\n",
        ];
        let wanted = [
            &event("[1,5]"),
            ": c\n\n",
            &second("[2,6]"),
            &event("[1,7]"),
            "data: [DONE]\n\n",
        ];
        let (stream, wanted) = (stream.concat(), wanted.concat());
        for cut in 0..stream.len() {
            let mut lines = Lines::default();
            let mut out = Vec::new();
            let (one, two) = stream.as_bytes().split_at(cut);
            for part in [one, two] {
                lines.push(part);
                out.extend(lines.read(&own));
                assert!(lines.is_dry());
            }
            out.extend(lines.finish());
            assert_eq!(String::from_utf8(out).unwrap(), wanted, "{cut}");
        }
    }

    #[test]
    fn many_events_with_much_in_front_come_in_parts() {
        let own = "[0.25,17,null],".repeat(4096) + "1";
        let own = Logprobs::of(meta(&format!("[{own}]")).as_bytes());
        let mut lines = Lines::default();
        let (event, count) = (format!("data: {}\n\n", meta("[]")), 200);
        lines.push(event.repeat(count).as_bytes());
        let (mut parts, mut whole) = (0, 0);
        while !lines.is_dry() {
            let part = lines.read(&own);
            assert!(part.len() < PART * 2, "{}", part.len());
            parts += 1;
            whole += part.iter().filter(|byte| **byte == b'\n').count();
        }
        assert!(parts > 20 && lines.is_empty());
        assert_eq!(whole, count * 2);
    }

    #[test]
    fn a_line_without_end_passes_as_it_is() {
        let mut lines = Lines::default();
        let chunk = [b'x'; 64 * 1024];
        let mut out = 0;
        for _ in 0..=LINE / chunk.len() {
            assert!(lines.is_dry());
            lines.push(&chunk);
            out += lines.read(&Logprobs::default()).len();
        }
        assert_eq!((out, lines.len()), (LINE + chunk.len(), 0));
    }
}
