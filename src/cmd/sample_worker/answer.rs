//! The text of an answer: words that follow from a seed.
//!
//! Invariant: every piece is ASCII without quotes, backslashes or control characters, so it may
//! stand in JSON as it is.

use super::hash::mix;

const SENTENCES: [[&str; 8]; 8] = [
    [
        " A", " sample", " worker", " wrote", " this", " answer", " just", " now.",
    ],
    [
        " The", " same", " prompt", " always", " gets", " the", " same", " words.",
    ],
    [
        " Every", " token", " leaves", " on", " time", " and", " in", " order.",
    ],
    [
        " Cached",
        " prefixes",
        " cost",
        " less",
        " than",
        " those",
        " never",
        " seen.",
    ],
    [
        " Two", " workers", " share", " a", " load", " better", " than", " one.",
    ],
    [
        " No", " model", " was", " asked", " and", " none", " was", " needed.",
    ],
    [
        " Short",
        " questions",
        " and",
        " long",
        " ones",
        " are",
        " both",
        " welcome.",
    ],
    [
        " Streams", " end", " with", " a", " mark", " that", " says", " done.",
    ],
];

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Finish {
    /// It was complete, or came upon a stop text.
    Stop,
    /// The request's limit.
    Length,
}

impl Finish {
    /// The word that the OpenAI API has for it.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
        }
    }
}

/// An answer, not yet written out.
#[derive(Debug)]
pub(super) struct Answer {
    seed: u64,
    tokens: u32,
    last_bytes: usize,
    /// Why it ends.
    pub(super) finish: Finish,
}

impl Answer {
    /// An answer of `tokens` tokens, or fewer if one of `stops` occurs in it.
    pub(super) fn new<'a>(
        seed: u64,
        tokens: u32,
        finish: Finish,
        stops: impl Iterator<Item = &'a str>,
    ) -> Self {
        let mut answer = Self {
            seed,
            tokens,
            last_bytes: usize::MAX,
            finish,
        };
        let mut stops = stops.filter(|stop| !stop.is_empty()).peekable();
        if stops.peek().is_some() {
            let mut text = Vec::new();
            answer.write(&mut text);
            let ends = stops
                .filter_map(|stop| memchr::memmem::find(&text, stop.as_bytes()))
                .min();
            if let Some(end) = ends {
                answer.cut(end);
            }
        }
        answer
    }

    /// Tokens of the answer.
    pub(super) fn tokens(&self) -> u32 {
        self.tokens
    }

    /// The text of token `index`.
    pub(super) fn piece(&self, index: u32) -> &'static str {
        let sentence = mix(self.seed ^ u64::from(index / 8)) as usize % SENTENCES.len();
        let word = SENTENCES[sentence][index as usize % 8];
        let word = if index == 0 { word.trim_start() } else { word };
        if index + 1 == self.tokens {
            word.get(..self.last_bytes).unwrap_or(word)
        } else {
            word
        }
    }

    /// Appends the first `tokens` tokens of the text to `out`.
    pub(super) fn write_first(&self, tokens: u32, out: &mut Vec<u8>) {
        for index in 0..tokens.min(self.tokens) {
            out.extend_from_slice(self.piece(index).as_bytes());
        }
    }

    /// Appends the whole text to `out`.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        self.write_first(self.tokens, out);
    }

    fn cut(&mut self, end: usize) {
        let mut start = 0;
        let mut index = 0;
        while start < end {
            let bytes = self.piece(index).len();
            self.last_bytes = bytes.min(end - start);
            start += bytes;
            index += 1;
        }
        self.tokens = index;
        self.finish = Finish::Stop;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(answer: &Answer) -> String {
        let mut out = Vec::new();
        answer.write(&mut out);
        String::from_utf8(out).unwrap()
    }

    fn plain(seed: u64, tokens: u32) -> Answer {
        Answer::new(seed, tokens, Finish::Length, std::iter::empty())
    }

    #[test]
    fn same_seed_same_words() {
        assert_eq!(text(&plain(3, 40)), text(&plain(3, 40)));
        assert_eq!(text(&plain(3, 40)).split(' ').count(), 40);
        assert!((0..20).any(|seed| text(&plain(seed, 16)) != text(&plain(3, 16))));
    }

    #[test]
    fn a_stop_cuts_before_it() {
        let whole = text(&plain(5, 24));
        let stop: String = whole.chars().skip(30).take(7).collect();
        let at = whole.find(&stop).unwrap();
        let cut = Answer::new(
            5,
            24,
            Finish::Length,
            [stop.as_str(), "absent", ""].into_iter(),
        );
        assert_eq!(text(&cut), whole.split_at(at).0);
        assert_eq!(cut.finish, Finish::Stop);
        let first = Answer::new(5, 24, Finish::Length, std::iter::once(whole.split_at(3).0));
        assert_eq!((first.tokens(), text(&first)), (0, String::new()));
    }

    #[test]
    fn pieces_need_no_escape() {
        for word in SENTENCES.iter().flatten() {
            assert!(
                word.bytes()
                    .all(|byte| byte.is_ascii_graphic() || byte == b' ')
            );
            assert!(!word.contains(['"', '\\']));
        }
    }
}
