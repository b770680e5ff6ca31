//! A request body as it arrived: in pieces, which are copied together only where that is cheaper.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::Span;

/// A body of at most this many bytes is sent in one piece.
const ONE_PIECE: usize = 32 * 1024;

/// The pieces of a body, shared by all attempts to send it.
#[derive(Clone, Debug, Default)]
pub struct Payload {
    pieces: Arc<[Bytes]>,
    len: usize,
}

impl Payload {
    /// Of `pieces`, in order.
    pub fn new(pieces: Vec<Bytes>) -> Self {
        let len = pieces.iter().map(Bytes::len).sum();
        Self {
            pieces: pieces.into(),
            len,
        }
    }

    /// The pieces.
    pub fn pieces(&self) -> &[Bytes] {
        &self.pieces
    }

    /// Bytes in all.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no byte.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The body with `text` in place of what stands at `span`. Nothing is copied.
    pub fn replaced(&self, span: Span, text: Bytes) -> Self {
        self.edited([(span, text)])
    }

    /// The body with each text in place of what stands at its span. Spans are in order and apart.
    /// Nothing is copied, and it takes one pass however many there are.
    pub fn edited(&self, edits: impl IntoIterator<Item = (Span, Bytes)>) -> Self {
        let mut pieces = Vec::with_capacity(self.pieces.len() + 2);
        let mut rest = Rest {
            pieces: &self.pieces,
            base: 0,
            at: 0,
        };
        for (span, text) in edits {
            rest.take(span.start, &mut pieces);
            if !text.is_empty() {
                pieces.push(text);
            }
            rest.at = rest.at.max(span.end);
        }
        rest.take(self.len, &mut pieces);
        Self::new(pieces)
    }

    /// The same in one piece where it is small: each piece has a price on its way to the worker.
    #[must_use]
    pub fn joined(self) -> Self {
        if self.pieces.len() > 1 && self.len <= ONE_PIECE {
            return Bytes::from(self.pieces.concat()).into();
        }
        self
    }

    /// The JSON string at `span`, decoded; `None` where there is none.
    pub fn text(&self, span: Span) -> Option<String> {
        serde_json::from_slice(&self.raw(span)?).ok()
    }

    /// The bytes at `span`, copied together; `None` where it lies outside.
    pub fn raw(&self, span: Span) -> Option<Vec<u8>> {
        let mut raw = Vec::with_capacity(span.len());
        let mut at = 0;
        for piece in self.pieces.iter() {
            let end = at + piece.len();
            let (from, to) = (span.start.max(at), span.end.min(end));
            if from < to {
                raw.extend_from_slice(piece.get(from - at..to - at)?);
            }
            at = end;
        }
        (raw.len() == span.len()).then_some(raw)
    }

    /// A body to send.
    pub fn send(&self) -> Sending {
        Sending {
            payload: self.clone(),
            next: 0,
            left: self.len,
        }
    }
}

/// What is left of a body that is gone through from its start.
struct Rest<'a> {
    pieces: &'a [Bytes],
    /// Where the first of the pieces begins.
    base: usize,
    at: usize,
}

impl Rest<'_> {
    /// Adds what lies before `end` to `out`.
    fn take(&mut self, end: usize, out: &mut Vec<Bytes>) {
        while self.at < end
            && let Some((piece, others)) = self.pieces.split_first()
        {
            let behind = self.base + piece.len();
            if self.at >= behind {
                (self.pieces, self.base) = (others, behind);
                continue;
            }
            let to = end.min(behind);
            out.push(piece.slice(self.at - self.base..to - self.base));
            self.at = to;
        }
    }
}

impl From<Bytes> for Payload {
    fn from(piece: Bytes) -> Self {
        Self {
            len: piece.len(),
            pieces: [piece].into(),
        }
    }
}

/// A [`Payload`] on its way to a worker.
#[derive(Debug, Default)]
pub struct Sending {
    payload: Payload,
    next: usize,
    left: usize,
}

impl Sending {
    /// The next piece, which is there at once.
    #[inline]
    pub fn next_piece(&mut self) -> Option<Bytes> {
        let piece = self.payload.pieces.get(self.next).cloned()?;
        self.next += 1;
        self.left -= piece.len();
        Some(piece)
    }
}

impl Body for Sending {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.next_piece().map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pieces: &[&'static str]) -> Payload {
        Payload::new(
            pieces
                .iter()
                .map(|piece| Bytes::from_static(piece.as_bytes()))
                .collect(),
        )
    }

    #[test]
    fn a_string_is_read_over_all_pieces() {
        let payload = of(&["{\"a\":\"x", "\\", "ny", "\"}"]);
        assert_eq!(payload.text(Span::new(5, 11)).as_deref(), Some("x\ny"));
        assert_eq!(payload.text(Span::new(5, 10)), None);
    }

    #[test]
    fn a_span_is_replaced_wherever_the_pieces_are_cut() {
        let whole = b"0123456789";
        let of = |pieces: [&'static [u8]; 3]| {
            Payload::new(pieces.into_iter().map(Bytes::from_static).collect())
        };
        for first in 0..=10 {
            for second in first..=10 {
                let payload = of([&whole[..first], &whole[first..second], &whole[second..]]);
                for start in 0..10 {
                    for end in start + 1..=10 {
                        let changed =
                            payload.replaced(Span::new(start, end), Bytes::from_static(b"xyz"));
                        let expected = [&whole[..start], b"xyz", &whole[end..]].concat();
                        assert_eq!(
                            changed.pieces().concat(),
                            expected,
                            "{first} {second} {start} {end}"
                        );
                        assert_eq!(changed.len(), expected.len());
                    }
                }
            }
        }
    }
}
