//! A reader that watches an event stream pass by, for a relay that hands the chunks on untouched.
//!
//! [`Reader::read`] is given each chunk as it arrives, split anywhere, and tells what the events that
//! *ended* in it were: data at all, only a role, an error, a terminator, token figures. What it finds
//! in a stream does not depend on where the chunks were cut.
//!
//! An event that lies whole in a chunk is looked at in place. Of one that spans chunks the payload is
//! carried, up to [`CAP`] bytes; of a larger one only the first [`CAP`] bytes are judged, and the
//! token figures are followed through the rest.

mod classify;
mod hide;

use memchr::memchr2;

use super::usage::{Finder, Usage};
use classify::Event;
pub use hide::Hide;

/// The most bytes of one event's payload that are carried and judged.
pub const CAP: usize = 64 * 1024;

/// A kept buffer above this is given back, so that idle streams stay small.
const KEEP: usize = 4 * 1024;

/// How the API of a stream marks its end and its errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Chat, completions and `/generate`: unnamed events, `data: [DONE]` at the end.
    Completions,
    /// The Responses API: named events, `response.completed`, `.incomplete` or `.failed` at the end.
    Responses,
}

/// What the events that ended in one chunk were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The chunk ends between two events: here a comment or another event may be put in.
    pub boundary: bool,
    /// Data events, those below included. Comments, pings and events without data don't count.
    pub events: u32,
    /// There was a data event that is neither an error nor a leading role: the answer has begun.
    pub content: bool,
    /// There was a chat delta before all content that carries a role and nothing else.
    pub role_only: bool,
    /// There was `data: [DONE]`.
    pub done: bool,
    /// There was a terminator of the stream's dialect; see [`Reader::ended`].
    pub ended: bool,
    /// There was an error frame.
    pub error: Option<Failure>,
    /// The token figures of the last event that had any.
    pub usage: Option<Usage>,
}

/// An error frame of a worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Failure {
    /// Its code where that is an HTTP status of trouble, 400 to 599, as number or digits.
    pub code: Option<u16>,
}

/// Watches one event stream.
#[derive(Debug)]
pub struct Reader {
    dialect: Dialect,
    line: Line,
    /// The start of a line that is not told apart yet, then the event's name.
    word: Word,
    /// A carriage return ended the last chunk; a line feed would belong to it.
    skip_lf: bool,
    /// The line before ended an event, or none has begun.
    boundary: bool,
    name: Name,
    has_data: bool,
    data: Vec<u8>,
    /// Follows the figures of a payload above [`CAP`].
    large: Option<Box<Finder>>,
    begun: bool,
    ended: bool,
    events: u64,
    sequence: Option<u64>,
    response_id: Option<Box<str>>,
}

/// How far a line is read that spans chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    Start,
    /// Before its colon.
    Field,
    /// Behind the colon, before the space that may follow.
    Space(Field),
    Value(Field),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Data,
    Event,
    Other,
}

/// What the `event:` line says, as far as it matters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Name {
    #[default]
    None,
    Other,
    Ping,
    Error,
    Failed,
    Ended,
}

impl Name {
    fn of(word: &[u8]) -> Self {
        match word {
            b"" => Self::None,
            b"ping" | b"keepalive" => Self::Ping,
            b"error" => Self::Error,
            b"response.failed" => Self::Failed,
            b"response.completed" | b"response.incomplete" => Self::Ended,
            _ => Self::Other,
        }
    }
}

/// A short word collected from pieces; longer ones are nobody's.
#[derive(Clone, Copy, Debug, Default)]
struct Word {
    bytes: [u8; 24],
    len: usize,
}

impl Word {
    fn push(&mut self, part: &[u8]) {
        let room = self
            .len
            .checked_add(part.len())
            .and_then(|end| self.bytes.get_mut(self.len..end));
        match room {
            Some(room) => {
                room.copy_from_slice(part);
                self.len += part.len();
            }
            None => self.len = usize::MAX,
        }
    }

    fn get(&self) -> Option<&[u8]> {
        self.bytes.get(..self.len)
    }
}

impl Reader {
    /// A reader at the start of a stream.
    pub fn new(dialect: Dialect) -> Self {
        Self {
            dialect,
            line: Line::Start,
            word: Word::default(),
            skip_lf: false,
            boundary: true,
            name: Name::None,
            has_data: false,
            data: Vec::new(),
            large: None,
            begun: false,
            ended: false,
            events: 0,
            sequence: None,
            response_id: None,
        }
    }

    /// Watches the next `chunk` and tells which events ended in it.
    pub fn read(&mut self, chunk: &[u8]) -> Seen {
        let mut seen = Seen::default();
        let mut at = 0;
        if self.skip_lf && !chunk.is_empty() {
            self.skip_lf = false;
            at = usize::from(chunk[0] == b'\n');
        }
        while let Some(rest) = chunk.get(at..)
            && !rest.is_empty()
        {
            let Some(end) = memchr2(b'\n', b'\r', rest) else {
                self.part(rest);
                break;
            };
            at += end + 1;
            if rest[end] == b'\r' {
                match rest.get(end + 1) {
                    Some(b'\n') => at += 1,
                    Some(_) => {}
                    None => self.skip_lf = true,
                }
            }
            let last = matches!(chunk.get(at), Some(b'\n' | b'\r'));
            self.line(&rest[..end], last, &mut seen);
        }
        seen.boundary = self.boundary;
        seen
    }

    /// The stream is over: what was left without its empty line counts as an event all the same, since
    /// some workers close right behind their last line.
    pub fn finish(&mut self) -> Seen {
        let mut seen = Seen::default();
        if self.line != Line::Start {
            self.end_of_part();
        }
        self.end_of_event(&mut seen);
        seen.boundary = true;
        seen
    }

    /// Whether the worker has ended the stream as its API demands: `[DONE]`, or for the Responses API
    /// `response.completed`, `.incomplete` or `.failed`.
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// Whether the next byte begins an event, so that something may be put in before it.
    pub fn at_boundary(&self) -> bool {
        self.boundary
    }

    /// Data events so far.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// The `sequence_number` that an event appended to a Responses stream should carry.
    pub fn next_sequence(&self) -> u64 {
        self.sequence.map_or(0, |last| last.saturating_add(1))
    }

    /// The id of the response that a Responses stream is about, once an event named it.
    pub fn response_id(&self) -> Option<&str> {
        self.response_id.as_deref()
    }

    /// A whole line, or the rest of one. `last` says that an empty line follows in the same chunk.
    #[inline]
    fn line(&mut self, line: &[u8], last: bool, seen: &mut Seen) {
        if self.line != Line::Start {
            self.part(line);
            self.end_of_part();
        } else if line.is_empty() {
            self.end_of_event(seen);
        } else {
            self.boundary = false;
            match field(line) {
                (Field::Data, value) if last && !self.has_data => self.event(value, None, seen),
                (Field::Data, value) => {
                    self.begin_data();
                    self.push_data(value);
                }
                (Field::Event, value) => self.name = Name::of(value),
                (Field::Other, _) => {}
            }
        }
    }

    /// Bytes of a line whose end is not there yet.
    fn part(&mut self, mut part: &[u8]) {
        if part.is_empty() {
            return;
        }
        self.boundary = false;
        if self.line == Line::Start {
            self.word = Word::default();
            self.line = Line::Field;
        }
        if self.line == Line::Field {
            let colon = memchr::memchr(b':', part);
            self.word.push(&part[..colon.unwrap_or(part.len())]);
            let Some(colon) = colon else { return };
            part = &part[colon + 1..];
            self.begin_value();
        }
        if let Line::Space(field) = self.line {
            let Some(first) = part.first() else { return };
            part = &part[usize::from(*first == b' ')..];
            self.line = Line::Value(field);
        }
        match self.line {
            Line::Value(Field::Data) => self.push_data(part),
            Line::Value(Field::Event) => self.word.push(part),
            _ => {}
        }
    }

    fn begin_value(&mut self) {
        let field = match self.word.get() {
            Some(b"data") => Field::Data,
            Some(b"event") => Field::Event,
            _ => Field::Other,
        };
        self.word = Word::default();
        self.line = Line::Space(field);
        if field == Field::Data {
            self.begin_data();
        }
    }

    fn end_of_part(&mut self) {
        if self.line == Line::Field {
            self.begin_value();
        }
        if let Line::Space(Field::Event) | Line::Value(Field::Event) = self.line {
            self.name = self.word.get().map_or(Name::Other, Name::of);
        }
        self.line = Line::Start;
    }

    fn begin_data(&mut self) {
        if self.has_data {
            self.push_data(b"\n");
        }
        self.has_data = true;
    }

    fn push_data(&mut self, part: &[u8]) {
        if let Some(finder) = &mut self.large {
            finder.feed(part);
            return;
        }
        let room = CAP - self.data.len();
        match part.split_at_checked(room) {
            Some((head, rest)) if !rest.is_empty() => {
                self.data.extend_from_slice(head);
                let mut finder = Box::new(Finder::new());
                finder.feed(&self.data);
                finder.feed(rest);
                self.large = Some(finder);
            }
            _ => self.data.extend_from_slice(part),
        }
    }

    /// An empty line.
    fn end_of_event(&mut self, seen: &mut Seen) {
        if self.has_data {
            self.has_data = false;
            let mut data = std::mem::take(&mut self.data);
            let large = self.large.take();
            self.event(&data, large.as_deref(), seen);
            if data.capacity() <= KEEP {
                data.clear();
                self.data = data;
            }
        }
        self.name = Name::None;
        self.boundary = true;
    }

    /// An event with its whole payload, or the first [`CAP`] bytes of one that `large` followed.
    #[inline]
    fn event(&mut self, payload: &[u8], large: Option<&Finder>, seen: &mut Seen) {
        if large.is_none()
            && let Some(head) = payload.get(..CAP)
            && payload.len() > CAP
        {
            let mut finder = Finder::new();
            finder.feed(payload);
            return self.event(head, Some(&finder), seen);
        }
        let payload = payload.trim_ascii();
        if self.name == Name::Ping || (payload.is_empty() && self.name != Name::Error) {
            return;
        }
        self.events += 1;
        seen.events += 1;
        let event = Event {
            payload,
            name: self.name,
            dialect: self.dialect,
        };
        if event.is_done() {
            seen.done = true;
            seen.content = true;
            self.begun = true;
        } else {
            let failure = event.failure();
            seen.usage = large
                .map_or_else(|| event.usage(), Finder::usage)
                .or(seen.usage);
            if failure.is_some() {
                seen.error = failure;
            } else if !self.begun && event.is_role_only() {
                seen.role_only = true;
            } else {
                seen.content = true;
                self.begun = true;
            }
        }
        if event.is_end() {
            seen.ended = true;
            self.ended = true;
        }
        if self.dialect == Dialect::Responses {
            self.sequence = event.sequence().or(self.sequence);
            // The first events carry the response; deltas have only the ids of items.
            if self.response_id.is_none() && self.events <= 4 {
                self.response_id = event.response_id();
            }
        }
    }
}

/// Splits a whole line into its field and value.
#[inline]
fn field(line: &[u8]) -> (Field, &[u8]) {
    let (field, value) = if let Some(value) = line.strip_prefix(b"data:") {
        (Field::Data, value)
    } else if let Some(value) = line.strip_prefix(b"event:") {
        (Field::Event, value)
    } else {
        match line {
            b"data" => (Field::Data, &line[4..]),
            b"event" => (Field::Event, &line[5..]),
            _ => (Field::Other, line),
        }
    };
    (field, value.strip_prefix(b" ").unwrap_or(value))
}

#[cfg(test)]
mod tests;
