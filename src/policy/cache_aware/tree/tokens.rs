//! Prompts as token ids, in whole pages.

use ahash::RandomState;

use super::radix::Tree;
use super::sequence::Item;

/// A page of token ids, by a hash whose key is known to nobody: two pages are the same where their
/// hashes are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Page(u64);

impl Item for Page {
    fn size(run: &[Self]) -> u64 {
        run.len() as u64
    }

    fn continues(self) -> bool {
        false
    }

    fn spread(self) -> u64 {
        self.0
    }
}

/// A tree of pages of one length.
#[derive(Debug)]
pub(super) struct Pages {
    /// Ids in a page.
    pub(super) block: u32,
    pub(super) tree: Tree<Page>,
    hasher: RandomState,
}

impl Pages {
    /// An empty tree with `block` ids in a page.
    pub(super) fn new(block: u32) -> Self {
        Self {
            block: block.max(1),
            tree: Tree::default(),
            hasher: RandomState::new(),
        }
    }

    /// The whole pages of `tokens`.
    pub(super) fn cut(&self, tokens: &[u32]) -> Vec<Page> {
        let pages = tokens.chunks_exact(self.block as usize);
        pages.map(|page| Page(self.hasher.hash_one(page))).collect()
    }
}
