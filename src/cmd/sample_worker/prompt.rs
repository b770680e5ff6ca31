//! A prompt as the prefix cache sees it: a count of tokens and a chain of block hashes.
//!
//! A token is four bytes of text or one token id. A block's hash covers all blocks before it, so
//! equal hashes mean equal prefixes.

use super::hash::fold;

/// Tokens of a block, the unit that the prefix cache holds.
pub(super) const BLOCK_TOKENS: u64 = 16;
const TOKEN_BYTES: usize = 4;
const BLOCK_BYTES: usize = BLOCK_TOKENS as usize * TOKEN_BYTES;

/// A prompt being read.
#[derive(Debug)]
pub(super) struct Prompt {
    chain: u64,
    tail: [u8; BLOCK_BYTES],
    filled: usize,
    bytes: u64,
    blocks: Vec<u64>,
}

impl Prompt {
    /// An empty prompt; prompts with different seeds never share a block.
    pub(super) fn new(seed: u64) -> Self {
        Self {
            chain: seed,
            tail: [0; BLOCK_BYTES],
            filled: 0,
            bytes: 0,
            blocks: Vec::new(),
        }
    }

    /// Appends text.
    pub(super) fn text(&mut self, text: &str) {
        self.push(text.as_bytes());
    }

    /// Appends token ids.
    pub(super) fn ids(&mut self, ids: &[u32]) {
        for id in ids {
            self.push(&id.to_le_bytes());
        }
    }

    /// Tokens so far, a started one included.
    pub(super) fn tokens(&self) -> u64 {
        self.bytes.div_ceil(TOKEN_BYTES as u64)
    }

    /// A hash of everything in the prompt.
    pub(super) fn seed(&self) -> u64 {
        fold(self.chain, &self.tail[..self.filled])
    }

    /// The hashes of the full blocks, in order.
    pub(super) fn into_blocks(self) -> Vec<u64> {
        self.blocks
    }

    fn push(&mut self, mut bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        if self.filled > 0 {
            let (now, later) = bytes.split_at(bytes.len().min(BLOCK_BYTES - self.filled));
            self.tail[self.filled..self.filled + now.len()].copy_from_slice(now);
            self.filled += now.len();
            bytes = later;
            if self.filled < BLOCK_BYTES {
                return;
            }
            self.chain = fold(self.chain, &self.tail);
            self.blocks.push(self.chain);
            self.filled = 0;
        }
        let (blocks, rest) = bytes.as_chunks::<BLOCK_BYTES>();
        for block in blocks {
            self.chain = fold(self.chain, block);
            self.blocks.push(self.chain);
        }
        self.tail[..rest.len()].copy_from_slice(rest);
        self.filled = rest.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompt(parts: &[&str]) -> Prompt {
        let mut prompt = Prompt::new(7);
        for part in parts {
            prompt.text(part);
        }
        prompt
    }

    #[test]
    fn the_way_a_text_is_cut_does_not_matter() {
        let text = "0123456789".repeat(30);
        let whole = prompt(&[&text]);
        for cut in [1, 63, 64, 65, 128, 299] {
            let (a, b) = text.split_at(cut);
            let parts = prompt(&[a, b]);
            assert_eq!(parts.seed(), whole.seed());
            assert_eq!(parts.tokens(), 75);
            assert_eq!(parts.into_blocks(), whole.blocks);
        }
        assert_eq!(whole.blocks.len(), 4);
    }

    #[test]
    fn a_block_hash_covers_what_came_before() {
        let tail = "x".repeat(64);
        let a = prompt(&[&"a".repeat(64), &tail]).into_blocks();
        let b = prompt(&[&"b".repeat(64), &tail]).into_blocks();
        assert_eq!(a.len(), 2);
        assert_ne!(a[1], b[1]);
    }

    #[test]
    fn a_token_id_is_one_token() {
        let mut prompt = Prompt::new(0);
        prompt.ids(&[1, 2, 3]);
        assert_eq!(prompt.tokens(), 3);
    }
}
