//! What a single event means.
//!
//! A payload is searched for a few words first, and walked only where one is found: in JSON a quote
//! inside of a text is always escaped, so `"error"` with its quotes is a key or a whole value.

use std::sync::LazyLock;

use memchr::memmem;

use super::super::lex::{self, Members, Span};
use super::super::usage::{Finder, Usage};
use super::{Dialect, Failure, Name};

/// Searchers made once; making one costs more than most searches.
struct Words {
    error: memmem::Finder<'static>,
    tokens: memmem::Finder<'static>,
    ended: memmem::Finder<'static>,
    sequence: memmem::Finder<'static>,
}

static WORDS: LazyLock<Words> = LazyLock::new(|| Words {
    error: memmem::Finder::new(b"\"error\""),
    // Every name of a figure ends so; unlike `"usage"` it is not in `"usage":null`.
    tokens: memmem::Finder::new(b"_tokens\""),
    ended: memmem::Finder::new(b"\"response."),
    sequence: memmem::Finder::new(b"\"sequence_number\""),
});

/// A data event.
pub(super) struct Event<'a> {
    pub(super) payload: &'a [u8],
    pub(super) name: Name,
    pub(super) dialect: Dialect,
}

impl Event<'_> {
    pub(super) fn is_done(&self) -> bool {
        self.payload == b"[DONE]"
    }

    /// Whether this event ends the stream.
    pub(super) fn is_end(&self) -> bool {
        match self.dialect {
            Dialect::Completions => self.is_done(),
            Dialect::Responses => {
                matches!(self.name, Name::Ended | Name::Failed)
                    || (self.name == Name::None
                        && matches!(
                            self.kind(),
                            Some(
                                b"\"response.completed\""
                                    | b"\"response.incomplete\""
                                    | b"\"response.failed\""
                            )
                        ))
            }
        }
    }

    pub(super) fn failure(&self) -> Option<Failure> {
        let named = matches!(self.name, Name::Error | Name::Failed);
        if named || self.tells_error() {
            Some(Failure { code: self.code() })
        } else {
            None
        }
    }

    pub(super) fn usage(&self) -> Option<Usage> {
        WORDS.tokens.find(self.payload)?;
        Finder::find(self.payload)
    }

    /// Whether this is a chat chunk whose deltas say who speaks, but nothing yet.
    pub(super) fn is_role_only(&self) -> bool {
        if self.dialect != Dialect::Completions {
            return false;
        }
        let Some(choices) = lex::member(self.payload, self.whole(), "choices") else {
            return false;
        };
        let choices = choices.of(self.payload);
        let mut at = lex::skip_space(choices, 1);
        let mut silent = false;
        while choices.get(at) == Some(&b'{') {
            let Some(end) = silent_choice(choices, at) else {
                return false;
            };
            silent = true;
            at = lex::skip_space(choices, end);
            if choices.get(at) == Some(&b',') {
                at = lex::skip_space(choices, at + 1);
            }
        }
        silent
    }

    pub(super) fn sequence(&self) -> Option<u64> {
        let found = WORDS.sequence.find(self.payload)?;
        let colon = lex::skip_space(self.payload, found + WORDS.sequence.needle().len());
        let start = lex::skip_space(self.payload, colon + 1);
        digits(self.payload.get(start..)?)
    }

    pub(super) fn response_id(&self) -> Option<Box<str>> {
        let response = lex::member(self.payload, self.whole(), "response")?;
        let id = lex::member(self.payload, response, "id")?.of(self.payload);
        serde_json::from_slice(id).ok()
    }

    /// Whether the payload says by itself that it is an error.
    fn tells_error(&self) -> bool {
        if self.dialect == Dialect::Responses
            && self.name == Name::None
            && self.kind() == Some(b"\"response.failed\"")
        {
            return true;
        }
        if WORDS.error.find(self.payload).is_none() {
            return false;
        }
        let Ok(members) = Members::new(self.payload, 0, 1) else {
            return false;
        };
        members.map_while(Result::ok).any(|member| {
            let value = member.value.of(self.payload);
            match member.key.of(self.payload) {
                b"error" => !matches!(value, b"null" | b"false"),
                b"type" | b"object" => value == b"\"error\"",
                _ => false,
            }
        })
    }

    /// The value of `type`, with its quotes, if it can be one of a response's own events.
    fn kind(&self) -> Option<&[u8]> {
        WORDS.ended.find(self.payload)?;
        Some(lex::member(self.payload, self.whole(), "type")?.of(self.payload))
    }

    /// The status in `error.code`, `code` or `response.error.code`.
    fn code(&self) -> Option<u16> {
        let whole = self.whole();
        let member = |object, key| lex::member(self.payload, object, key);
        let code = |object| status(member(object, "code")?.of(self.payload));
        member(whole, "error")
            .and_then(code)
            .or_else(|| code(whole))
            .or_else(|| code(member(member(whole, "response")?, "error")?))
    }

    fn whole(&self) -> Span {
        Span::new(0, self.payload.len())
    }
}

/// The end of the choice that begins at `open`, if its delta has a role and nothing else to say.
fn silent_choice(choices: &[u8], open: usize) -> Option<usize> {
    let mut members = Members::new(choices, open, 1).ok()?;
    let mut role = false;
    for member in members.by_ref() {
        let member = member.ok()?;
        let value = member.value.of(choices);
        match member.key.of(choices) {
            b"delta" => role = only_role(choices, member.value)?,
            b"finish_reason" if value != b"null" => return None,
            b"text" => return None,
            _ => {}
        }
    }
    role.then(|| members.at())
}

fn only_role(choices: &[u8], delta: Span) -> Option<bool> {
    let mut role = false;
    for member in Members::new(choices, delta.start, 1).ok()? {
        let member = member.ok()?;
        match (member.key.of(choices), member.value.of(choices)) {
            (b"role", _) => role = true,
            (_, b"null" | b"\"\"" | b"[]" | b"{}") => {}
            _ => return None,
        }
    }
    Some(role)
}

fn status(token: &[u8]) -> Option<u16> {
    let token = token
        .strip_prefix(b"\"")
        .and_then(|t| t.strip_suffix(b"\""))
        .unwrap_or(token);
    if !token.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let code = u16::try_from(digits(token)?).ok()?;
    (400..=599).contains(&code).then_some(code)
}

fn digits(text: &[u8]) -> Option<u64> {
    let end = text
        .iter()
        .position(|b| !b.is_ascii_digit())
        .unwrap_or(text.len());
    std::str::from_utf8(text.get(..end)?).ok()?.parse().ok()
}
