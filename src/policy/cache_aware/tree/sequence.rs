//! What a tree is made of: sequences of items, in pieces, read where they stand.

use std::fmt::Debug;
use std::slice;

/// One step of a tree: a byte of text, or a page of tokens.
pub(super) trait Item: Copy + Ord + Debug + Default + Send + Sync + 'static {
    /// How much `run` adds to the size of a tree.
    fn size(run: &[Self]) -> u64;

    /// Whether the item is a part of what began before it, so that a cut in front of it leaves
    /// something unfinished that does not count as equal.
    fn continues(self) -> bool;

    /// A number that tells most items apart.
    fn spread(self) -> u64;
}

/// A sequence in pieces. Where it is cut says nothing.
#[derive(Debug)]
pub(super) struct Sequence<'a, T> {
    pieces: Vec<&'a [T]>,
    len: usize,
    size: u64,
}

impl<'a, T: Item> Sequence<'a, T> {
    /// Of these pieces.
    pub(super) fn new(pieces: Vec<&'a [T]>) -> Self {
        Self {
            len: pieces.iter().map(|piece| piece.len()).sum(),
            size: pieces.iter().map(|piece| T::size(piece)).sum(),
            pieces,
        }
    }

    /// Number of items.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Its size, as items count.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// The first item.
    pub(super) fn first(&self) -> Option<T> {
        self.reader().peek()
    }

    /// Reads it from the start.
    pub(super) fn reader(&self) -> Reader<'_, 'a, T> {
        Reader {
            rest: &[],
            more: self.pieces.iter(),
            left: self.len,
        }
    }
}

/// A place in a [`Sequence`].
#[derive(Debug)]
pub(super) struct Reader<'s, 'a, T> {
    rest: &'a [T],
    more: slice::Iter<'s, &'a [T]>,
    left: usize,
}

impl<T: Item> Reader<'_, '_, T> {
    /// The next item.
    pub(super) fn peek(&mut self) -> Option<T> {
        while self.rest.is_empty() {
            self.rest = self.more.next()?;
        }
        self.rest.first().copied()
    }

    /// Goes on for as long as what follows is `edge`, and returns how far that was.
    pub(super) fn follow(&mut self, edge: &[T]) -> usize {
        let mut ahead = edge;
        while !ahead.is_empty() && self.peek().is_some() {
            let reach = ahead.len().min(self.rest.len());
            let same = common(self.rest, ahead);
            self.rest = self.rest.get(same..).unwrap_or_default();
            ahead = ahead.get(same..).unwrap_or_default();
            if same < reach {
                break;
            }
        }
        let done = edge.len() - ahead.len();
        self.left -= done;
        done
    }

    /// A copy of all that follows.
    pub(super) fn copy_rest(&self) -> Box<[T]> {
        let mut copy = Vec::with_capacity(self.left);
        copy.extend_from_slice(self.rest);
        for piece in self.more.as_slice() {
            copy.extend_from_slice(piece);
        }
        copy.into_boxed_slice()
    }
}

/// How far `a` and `b` are the same. Large blocks are compared at once, which is what makes a long
/// match cheap.
fn common<T: Eq>(a: &[T], b: &[T]) -> usize {
    let mut same = 0;
    for block in [256, 16, 1] {
        let (Some(a), Some(b)) = (a.get(same..), b.get(same..)) else {
            break;
        };
        let blocks = a.chunks_exact(block).zip(b.chunks_exact(block));
        same += blocks.take_while(|(a, b)| a == b).count() * block;
    }
    same
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_common_part_ends_at_the_first_difference() {
        let a: Vec<u8> = (0..2000_u32).map(|at| (at % 251) as u8).collect();
        for at in [0, 1, 15, 16, 17, 255, 256, 257, 600, 1999] {
            let mut b = a.clone();
            b[at] ^= 1;
            assert_eq!(common(&a, &b), at);
            assert_eq!(common(&a, &a[..at]), at);
        }
        assert_eq!(common(&a, &a), a.len());
    }

    #[test]
    fn pieces_read_as_one() {
        let sequence = Sequence::new(vec![b"".as_slice(), b"ab", b"", b"cde", b"f"]);
        assert_eq!((sequence.len(), sequence.first()), (6, Some(b'a')));
        let mut reader = sequence.reader();
        assert_eq!(reader.follow(b"abcx"), 3);
        assert_eq!(reader.peek(), Some(b'd'));
        assert_eq!(&*reader.copy_rest(), b"def");
        assert_eq!(reader.follow(b"defgh"), 3);
        assert_eq!(reader.peek(), None);
    }
}
