//! One pass over a JSON request body that finds what routing needs and where it stands.
//!
//! Nothing is built and nothing is allocated, except for a model name that is written with escapes.
//! What the pass sees it checks: one object and white space around it, strings that end, brackets
//! that pair, at most 128 levels, the grammar of the top-level members, UTF-8 and control characters
//! of keys and of the model name. What lies deeper is skipped, so some texts pass that are no JSON
//! (`[1 2]` inside a member, a raw control character in a prompt); the worker judges those.
//!
//! A member written twice counts with its last value, as Python's `json` and serde have it, for its
//! type too. `model` may stand only once.

use std::borrow::Cow;

use super::error::ErrorCode;
use super::lex::{self, BadEscape, Fault, Members, Span};

/// What a scan found in a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scan<'a> {
    /// The decoded value of `model`; `None` where it is absent or null. May be empty.
    pub model: Option<Cow<'a, str>>,
    /// Everything that does not borrow from the body.
    pub fields: Fields,
}

/// The values and places of top-level members, detached from the bytes that they describe.
///
/// A place is the span of the value token, with quotes or brackets; `None` where the member is absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fields {
    /// The object itself.
    pub object: Object,
    /// The value of `model`, null included.
    pub model: Option<Span>,
    /// The value of `stream`; `None` where it is absent or null.
    pub stream: Option<bool>,
    /// The value of `n`, held to the range of `i64`; `None` where it is absent or null.
    pub n: Option<i64>,
    /// `stream_options.include_usage`; `None` where it is absent or anything but a boolean.
    pub include_usage: Option<bool>,
    /// Place of `stream_options`.
    pub stream_options: Option<Span>,
    /// Place of `messages` (chat).
    pub messages: Option<Span>,
    /// Place of `prompt` (completions).
    pub prompt: Option<Span>,
    /// Place of `text` (generate).
    pub text: Option<Span>,
    /// Place of `input` (embeddings, responses, classify).
    pub input: Option<Span>,
    /// Place of `input_ids` (generate).
    pub input_ids: Option<Span>,
    /// Place of `query` (rerank).
    pub query: Option<Span>,
    /// Place of `documents` (rerank).
    pub documents: Option<Span>,
    /// Place of `max_tokens`.
    pub max_tokens: Option<Span>,
    /// Place of `max_completion_tokens` (chat).
    pub max_completion_tokens: Option<Span>,
    /// Place of `max_output_tokens` (responses).
    pub max_output_tokens: Option<Span>,
    /// Place of `sampling_params` (generate).
    pub sampling_params: Option<Span>,
    /// Place of `tools` (chat, responses).
    pub tools: Option<Span>,
    /// Place of `instructions` (responses).
    pub instructions: Option<Span>,
}

impl Fields {
    /// The same values with their places moved: of the object by `place`, of values by `span`.
    pub(crate) fn moved(
        &self,
        place: impl Fn(usize) -> usize,
        span: impl Fn(Span) -> Span,
    ) -> Self {
        Self {
            object: Object {
                open: place(self.object.open),
                close: place(self.object.close),
                empty: self.object.empty,
            },
            model: self.model.map(&span),
            stream: self.stream,
            n: self.n,
            include_usage: self.include_usage,
            stream_options: self.stream_options.map(&span),
            messages: self.messages.map(&span),
            prompt: self.prompt.map(&span),
            text: self.text.map(&span),
            input: self.input.map(&span),
            input_ids: self.input_ids.map(&span),
            query: self.query.map(&span),
            documents: self.documents.map(&span),
            max_tokens: self.max_tokens.map(&span),
            max_completion_tokens: self.max_completion_tokens.map(&span),
            max_output_tokens: self.max_output_tokens.map(&span),
            sampling_params: self.sampling_params.map(&span),
            tools: self.tools.map(&span),
            instructions: self.instructions.map(&span),
        }
    }

    /// Whether the client asked for a stream.
    #[inline]
    pub fn streaming(&self) -> bool {
        self.stream == Some(true)
    }
}

/// Where an object begins and ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Object {
    /// Offset behind the opening brace.
    pub open: usize,
    /// Offset of the closing brace.
    pub close: usize,
    /// Whether it has no member.
    pub empty: bool,
}

/// Why a body is refused. All of these are answered with 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScanError {
    /// The bytes are no JSON object, as far as the scan looks.
    #[error("the request body is not a valid JSON object (at byte {offset})")]
    InvalidJson {
        /// The first byte that does not fit, or the length of the body where it ends too early.
        offset: usize,
    },
    /// More nesting than any request needs.
    #[error(
        "the request body is nested deeper than {} levels (at byte {offset})",
        lex::MAX_DEPTH
    )]
    TooDeep {
        /// The bracket that opens one level too many.
        offset: usize,
    },
    /// `model` stands twice at the top, perhaps in two spellings.
    #[error("`model` is given more than once")]
    DuplicateModel,
    /// A member that routing reads has a value of another type.
    #[error("`{field}` must be {expected}")]
    WrongType {
        /// Name of the member.
        field: &'static str,
        /// What it may be, in words.
        expected: &'static str,
    },
}

impl ScanError {
    /// The code that the client gets.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::InvalidJson { .. } | Self::TooDeep { .. } => ErrorCode::InvalidJson,
            Self::DuplicateModel => ErrorCode::DuplicateModel,
            Self::WrongType { .. } => ErrorCode::InvalidType,
        }
    }

    /// The field that is at fault.
    pub fn param(&self) -> Option<&'static str> {
        match self {
            Self::InvalidJson { .. } | Self::TooDeep { .. } => None,
            Self::DuplicateModel => Some("model"),
            Self::WrongType { field, .. } => Some(field),
        }
    }
}

impl From<Fault> for ScanError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Syntax(offset) => Self::InvalidJson { offset },
            Fault::Depth(offset) => Self::TooDeep { offset },
        }
    }
}

/// Scans a whole request body.
///
/// # Errors
/// See [`ScanError`]. A fault of the text comes before a member of the wrong type, wherever they
/// stand.
pub fn scan(body: &[u8]) -> Result<Scan<'_>, ScanError> {
    let open = lex::skip_space(body, 0);
    let mut members = Members::new(body, open, 1)?;
    let mut fields = Fields::default();
    let mut last = Last::default();
    let mut empty = true;
    for member in members.by_ref() {
        let member = member?;
        empty = false;
        let value = Some(member.value);
        let mut spelled = Spelled::default();
        let key = if member.escaped {
            spelled.decode(checked(body, member.key)?, member.key.start)?
        } else {
            member.key.of(body)
        };
        match key {
            b"model" if fields.model.is_some() => return Err(ScanError::DuplicateModel),
            b"model" => fields.model = value,
            b"stream" => last.stream = value,
            b"n" => last.n = value,
            b"stream_options" => fields.stream_options = value,
            b"messages" => fields.messages = value,
            b"prompt" => fields.prompt = value,
            b"text" => fields.text = value,
            b"input" => fields.input = value,
            b"input_ids" => fields.input_ids = value,
            b"query" => fields.query = value,
            b"documents" => fields.documents = value,
            b"max_tokens" => fields.max_tokens = value,
            b"max_completion_tokens" => fields.max_completion_tokens = value,
            b"max_output_tokens" => fields.max_output_tokens = value,
            b"sampling_params" => fields.sampling_params = value,
            b"tools" => fields.tools = value,
            b"instructions" => fields.instructions = value,
            _ => drop(checked(body, member.key)?),
        }
    }
    let end = members.at();
    let behind = lex::skip_space(body, end);
    if behind != body.len() {
        return Err(ScanError::InvalidJson { offset: behind });
    }
    fields.object = Object {
        open: open + 1,
        close: end - 1,
        empty,
    };
    let model = fields
        .model
        .map(|span| model(body, span))
        .transpose()?
        .flatten();
    fields.stream = last
        .stream
        .map(|span| stream(body, span))
        .transpose()?
        .flatten();
    fields.n = last
        .n
        .map(|span| integer(body, span))
        .transpose()?
        .flatten();
    fields.include_usage = fields
        .stream_options
        .and_then(|span| include_usage(body, span));
    Ok(Scan { model, fields })
}

/// Places of members whose type is judged when the last of them is known.
#[derive(Default)]
struct Last {
    stream: Option<Span>,
    n: Option<Span>,
}

fn model(body: &[u8], span: Span) -> Result<Option<Cow<'_, str>>, ScanError> {
    match span.of(body) {
        b"null" => Ok(None),
        [b'"', ..] => {
            let inner = Span::new(span.start + 1, span.end - 1);
            let raw = checked(body, inner)?;
            if !raw.contains('\\') {
                return Ok(Some(Cow::Borrowed(raw)));
            }
            let mut name = String::with_capacity(raw.len());
            match lex::unescape(raw, |c| name.push(c)) {
                Ok(()) => Ok(Some(Cow::Owned(name))),
                Err(BadEscape::Unknown(at) | BadEscape::Surrogate(at)) => {
                    Err(ScanError::InvalidJson {
                        offset: inner.start + at,
                    })
                }
            }
        }
        _ => Err(ScanError::WrongType {
            field: "model",
            expected: "a string",
        }),
    }
}

fn stream(body: &[u8], span: Span) -> Result<Option<bool>, ScanError> {
    match span.of(body) {
        b"true" => Ok(Some(true)),
        b"false" => Ok(Some(false)),
        b"null" => Ok(None),
        _ => Err(ScanError::WrongType {
            field: "stream",
            expected: "a boolean",
        }),
    }
}

fn integer(body: &[u8], span: Span) -> Result<Option<i64>, ScanError> {
    let token = span.of(body);
    if token == b"null" {
        return Ok(None);
    }
    let (negative, digits) = match token {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    if !digits.iter().all(u8::is_ascii_digit) {
        return Err(ScanError::WrongType {
            field: "n",
            expected: "an integer",
        });
    }
    let size = digits.iter().fold(0i64, |size, digit| {
        size.saturating_mul(10)
            .saturating_add(i64::from(digit - b'0'))
    });
    Ok(Some(if negative { -size } else { size }))
}

fn include_usage(body: &[u8], options: Span) -> Option<bool> {
    match lex::member(body, options, "include_usage")?.of(body) {
        b"true" => Some(true),
        b"false" => Some(false),
        _ => None,
    }
}

/// The text of a span that is read: UTF-8 without control characters.
fn checked(body: &[u8], span: Span) -> Result<&str, ScanError> {
    let raw = span.of(body);
    let text = std::str::from_utf8(raw).map_err(|err| ScanError::InvalidJson {
        offset: span.start + err.valid_up_to(),
    })?;
    match raw.iter().position(|&b| b < 0x20) {
        Some(at) => Err(ScanError::InvalidJson {
            offset: span.start + at,
        }),
        None => Ok(text),
    }
}

/// A key that was written with escapes, decoded without a heap. Holds any key that is looked for.
#[derive(Default)]
struct Spelled {
    bytes: [u8; 24],
    len: usize,
}

impl Spelled {
    /// The key that `raw` stands for; empty, as no key that is looked for, where it does not fit or is
    /// no text at all.
    fn decode(&mut self, raw: &str, start: usize) -> Result<&[u8], ScanError> {
        let mut fits = true;
        let decoded = lex::unescape(raw, |c| {
            let mut utf8 = [0; 4];
            let utf8 = c.encode_utf8(&mut utf8).as_bytes();
            match self.bytes.get_mut(self.len..self.len + utf8.len()) {
                Some(room) if fits => {
                    room.copy_from_slice(utf8);
                    self.len += utf8.len();
                }
                _ => fits = false,
            }
        });
        match decoded {
            Ok(()) if fits => Ok(self.bytes.get(..self.len).unwrap_or_default()),
            Ok(()) | Err(BadEscape::Surrogate(_)) => Ok(b""),
            Err(BadEscape::Unknown(at)) => Err(ScanError::InvalidJson { offset: start + at }),
        }
    }
}

#[cfg(test)]
mod tests;
