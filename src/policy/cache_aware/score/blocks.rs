//! A prompt as a chain of hashes, each of which names everything before its end.

use std::ops::ControlFlow;

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::policy::Hint;

/// Distance of the first boundaries, in bytes.
const STEP: usize = 128;

/// From here on, boundaries are an eighth of their position apart: what a longer prompt shares with
/// another is found to that share of its length, and the number of blocks stays small.
const FINE: usize = 1024;

/// A token counts as so many bytes.
pub(super) const TOKEN_BYTES: usize = 4;

/// The blocks of one prompt; kept and filled again.
#[derive(Debug, Default)]
pub(crate) struct Blocks {
    hashes: Vec<u64>,
    ends: Vec<u32>,
    /// The beginning of a block whose end is in another piece.
    cut: Vec<u8>,
    of_tokens: bool,
}

impl Blocks {
    /// Takes the prompt of `hint` instead of the one before. `page` is how many tokens an engine
    /// keeps or forgets together.
    pub(super) fn read(&mut self, hint: &Hint<'_>, page: u32) {
        self.hashes.clear();
        self.ends.clear();
        self.of_tokens = hint.tokens.is_some();
        let root = xxh3_64(hint.model.as_bytes());
        match hint.tokens {
            Some(tokens) => self.read_tokens(tokens, root.wrapping_add(1), page),
            None => self.read_text(root, |sink| hint.prompt.visit(sink)),
        }
    }

    /// The hash of everything up to the end of each block.
    pub(super) fn hashes(&self) -> &[u64] {
        &self.hashes
    }

    /// Length of the prompt in bytes.
    pub(super) fn len(&self) -> u32 {
        self.ends.last().copied().unwrap_or(0)
    }

    /// Where the block at `index` begins.
    pub(super) fn start(&self, index: usize) -> u32 {
        let before = index.checked_sub(1);
        before
            .and_then(|before| self.ends.get(before))
            .map_or(0, |end| *end)
    }

    /// Length of the block at `index`.
    pub(super) fn width(&self, index: usize) -> u32 {
        let end = self.ends.get(index).copied().unwrap_or(0);
        end.saturating_sub(self.start(index))
    }

    /// Whether the blocks are of tokens and not of text.
    pub(super) fn of_tokens(&self) -> bool {
        self.of_tokens
    }

    /// Reads the text that `visit` hands out piece after piece. Where it is cut makes no difference.
    fn read_text<'a>(
        &mut self,
        root: u64,
        visit: impl FnOnce(&mut dyn FnMut(&'a [u8]) -> ControlFlow<()>),
    ) {
        let mut seed = root;
        let mut start = 0;
        let mut end = STEP;
        let mut cut = std::mem::take(&mut self.cut);
        cut.clear();
        visit(&mut |mut piece| {
            loop {
                let wanted = end - start - cut.len();
                let Some((block, rest)) = piece.split_at_checked(wanted) else {
                    cut.extend_from_slice(piece);
                    return ControlFlow::Continue(());
                };
                seed = if cut.is_empty() {
                    xxh3_64_with_seed(block, seed)
                } else {
                    cut.extend_from_slice(block);
                    let hash = xxh3_64_with_seed(&cut, seed);
                    cut.clear();
                    hash
                };
                self.push(seed, end);
                start = end;
                end = boundary(start);
                piece = rest;
            }
        });
        if !cut.is_empty() {
            self.push(xxh3_64_with_seed(&cut, seed), start + cut.len());
        }
        self.cut = cut;
    }

    fn read_tokens(&mut self, tokens: &[u32], root: u64, page: u32) {
        let page = usize::try_from(page).unwrap_or(1).max(1);
        let mut seed = root;
        let mut start = 0;
        while let Some(rest) = tokens.get(start..)
            && !rest.is_empty()
        {
            let end = boundary(start * TOKEN_BYTES) / TOKEN_BYTES;
            let width = (end - start).next_multiple_of(page).min(rest.len());
            self.cut.clear();
            for token in rest.iter().take(width) {
                self.cut.extend_from_slice(&token.to_le_bytes());
            }
            seed = xxh3_64_with_seed(&self.cut, seed);
            start += width;
            self.push(seed, start * TOKEN_BYTES);
        }
    }

    fn push(&mut self, hash: u64, end: usize) {
        // 0 stands for an empty place in the index.
        self.hashes.push(hash.max(1));
        self.ends.push(u32::try_from(end).unwrap_or(u32::MAX));
    }
}

/// The boundary after the one at `start`.
fn boundary(start: usize) -> usize {
    if start < FINE {
        start + STEP
    } else {
        start + (start / 8).next_multiple_of(STEP / 2)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(pieces: &[&[u8]]) -> (Vec<u64>, Vec<u32>) {
        let mut blocks = Blocks::default();
        blocks.read_text(7, |sink| {
            for piece in pieces {
                if sink(piece).is_break() {
                    return;
                }
            }
        });
        (blocks.hashes, blocks.ends)
    }

    fn text(len: usize) -> Vec<u8> {
        let mut rng = fastrand::Rng::with_seed(1);
        (0..len).map(|_| rng.u8(b'a'..=b'z')).collect()
    }

    #[test]
    fn a_long_prompt_has_few_blocks() {
        for (len, most) in [(16 << 10, 34), (1 << 20, 72)] {
            let text = text(len);
            let (hashes, ends) = read(&[&text]);
            assert!(hashes.len() <= most, "{}", hashes.len());
            assert_eq!(*ends.last().unwrap() as usize, len);
        }
    }

    #[test]
    fn a_hash_names_everything_before_it() {
        let mut other = text(5000);
        let (before, ends) = read(&[&other]);
        other[700] = b'A';
        let (after, _) = read(&[&other]);
        for ((end, a), b) in ends.iter().zip(&before).zip(&after) {
            assert_eq!(a == b, *end <= 700, "{end}");
        }
        let (longer, _) = read(&[&text(5000), b"more"]);
        assert_eq!(longer[..before.len() - 1], before[..before.len() - 1]);
    }

    #[test]
    fn tokens_are_cut_at_pages() {
        let mut blocks = Blocks::default();
        let tokens: Vec<u32> = (0..5000).collect();
        blocks.read_tokens(&tokens, 3, 48);
        assert_eq!(blocks.len(), 20_000);
        let whole = blocks.ends.len() - 1;
        assert!(blocks.ends[..whole].iter().all(|end| end % (48 * 4) == 0));
    }

    proptest! {
        #[test]
        fn cuts_make_no_difference(len in 0usize..9000, mut at in prop::collection::vec(0usize..9000, 0..12)) {
            let text = text(len);
            at.retain(|at| *at <= len);
            at.extend([0, len]);
            at.sort_unstable();
            let pieces: Vec<&[u8]> = at.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect();
            prop_assert_eq!(read(&pieces), read(&[&text]));
        }
    }
}
