//! How much of a prompt each worker has.

use super::Memory;
use super::blocks::Blocks;
use super::clock::Generation;

/// Holders that are looked at for one prompt. Beyond it the rest is estimated from below, which
/// happens where thousands of workers share a prefix.
const LOOKS: usize = 6144;

/// The leading blocks of a prompt that each worker has, by lane.
#[derive(Debug, Default)]
pub(super) struct Hits {
    /// Number of blocks, and their bytes.
    depths: Vec<(u16, u32)>,
    /// Lanes whose depth is not 0.
    lanes: Vec<u16>,
    /// Room for the use that follows.
    pub(super) moved: Vec<(Generation, u32)>,
    known: usize,
    deepest: usize,
    most: u32,
    looks: usize,
}

impl Hits {
    /// Finds out for `blocks`.
    ///
    /// Whoever has a block has those before it, so between two blocks with as many holders nothing
    /// changes; the search goes only where something does.
    pub(super) fn find(&mut self, blocks: &Blocks, memory: &Memory) {
        for lane in self.lanes.drain(..) {
            if let Some(depth) = self.depths.get_mut(usize::from(lane)) {
                *depth = (0, 0);
            }
        }
        self.deepest = 0;
        self.most = 0;
        self.looks = 0;
        self.known = blocks
            .hashes()
            .partition_point(|hash| memory.index.holders(*hash).is_some());
        let Some(last) = self.known.checked_sub(1) else {
            return;
        };
        let at_last = self.look(blocks, memory, last);
        let everybody = blocks
            .hashes()
            .first()
            .and_then(|hash| memory.index.holders(*hash));
        // Who has the last has the first; there may be nobody else.
        if last > 0 && everybody.is_some_and(|everybody| everybody > at_last) {
            let at_first = self.look(blocks, memory, 0);
            self.between(blocks, memory, (0, at_first), (last, at_last));
        }
    }

    /// Blocks of the prompt that the worker at `lane` has.
    pub(super) fn depth(&self, lane: u16) -> usize {
        let depth = self.depths.get(usize::from(lane));
        depth.map_or(0, |(blocks, _)| usize::from(*blocks))
    }

    /// The same in bytes.
    #[inline]
    pub(super) fn bytes(&self, lane: u16) -> u32 {
        let depth = self.depths.get(usize::from(lane));
        depth.map_or(0, |(_, bytes)| *bytes)
    }

    /// The bytes of whoever has most.
    pub(super) fn most(&self) -> u32 {
        self.most
    }

    /// Blocks that were sent to anybody, whether they are still there or not.
    pub(super) fn known(&self) -> usize {
        self.known
    }

    /// Blocks that the one with the most has.
    pub(super) fn deepest(&self) -> usize {
        self.deepest
    }

    fn between(
        &mut self,
        blocks: &Blocks,
        memory: &Memory,
        low: (usize, usize),
        high: (usize, usize),
    ) {
        if low.1 <= high.1 || high.0 - low.0 < 2 || self.looks > LOOKS {
            return;
        }
        let middle = low.0.midpoint(high.0);
        let at_middle = (middle, self.look(blocks, memory, middle));
        self.between(blocks, memory, at_middle, high);
        self.between(blocks, memory, low, at_middle);
    }

    /// Notes who has the block at `index`; returns how many do.
    fn look(&mut self, blocks: &Blocks, memory: &Memory, index: usize) -> usize {
        let Some(hash) = blocks.hashes().get(index) else {
            return 0;
        };
        let depth = index + 1;
        let blocks_deep = u16::try_from(depth).unwrap_or(u16::MAX);
        let bytes = blocks.start(depth);
        let mut living = 0;
        let mut looks = 0;
        let workers = memory.workers.walk();
        memory.index.each_holder(*hash, |lane, at| {
            looks += 1;
            let lives = workers
                .get(lane)
                .is_some_and(|worker| worker.span().holds(at));
            if !lives {
                return;
            }
            living += 1;
            let place = usize::from(lane);
            if place >= self.depths.len() {
                self.depths.resize(place + 1, (0, 0));
            }
            if let Some(known) = self.depths.get_mut(place) {
                if known.0 == 0 {
                    self.lanes.push(lane);
                }
                if known.0 < blocks_deep {
                    *known = (blocks_deep, bytes);
                }
            }
        });
        self.looks += looks + 1;
        if living > 0 {
            self.deepest = self.deepest.max(depth);
            self.most = self.most.max(bytes);
        }
        living
    }
}
