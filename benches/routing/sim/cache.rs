//! The prefix cache of one engine: blocks in order of use, bounded, with those of running requests
//! held.
//!
//! Invariant: a prompt's blocks are given back from its end to its start, so whatever is evicted is
//! the end of a prefix that nobody has used for longest, never a block that another hangs on.

const NONE: u32 = u32::MAX;

/// A bounded cache of blocks that are known by small numbers.
#[derive(Debug)]
pub(crate) struct Cache {
    capacity: usize,
    slots: Vec<Slot>,
    /// Blocks that are there and that nobody holds.
    idle: usize,
    /// Blocks that running requests hold, and places they have reserved.
    held: usize,
    newest: u32,
    oldest: u32,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    newer: u32,
    older: u32,
    holders: u16,
    present: bool,
}

impl Cache {
    /// A cache of `capacity` blocks out of `distinct` ones.
    pub(crate) fn new(capacity: usize, distinct: usize) -> Self {
        let slot = Slot {
            newer: NONE,
            older: NONE,
            holders: 0,
            present: false,
        };
        Self {
            capacity,
            slots: vec![slot; distinct],
            idle: 0,
            held: 0,
            newest: NONE,
            oldest: NONE,
        }
    }

    /// Takes a request with the leading `prompt` blocks, which will need `total` blocks in the end:
    /// holds what is there and reserves the rest. Gives the number of leading blocks that are
    /// there, or nothing while too much is held by others.
    pub(crate) fn admit(&mut self, prompt: &[u32], total: usize) -> Option<usize> {
        let hits = self.peek(prompt);
        let (found, _) = prompt.split_at(hits);
        let fresh = found
            .iter()
            .filter(|block| self.slots[**block as usize].holders == 0)
            .count();
        let reserved = total.saturating_sub(hits);
        if self.held + fresh + reserved > self.capacity {
            return None;
        }
        for block in found {
            self.hold(*block);
        }
        self.held += reserved;
        self.shrink();
        Some(hits)
    }

    /// The blocks from `from` on have been computed; they take the places that were reserved.
    pub(crate) fn computed(&mut self, blocks: &[u32], from: usize) {
        for block in blocks.iter().skip(from) {
            // A block that somebody else computed meanwhile needs only one place.
            self.held -= 1;
            let slot = &mut self.slots[*block as usize];
            if !slot.present {
                slot.present = true;
                slot.holders = 1;
                self.held += 1;
            } else {
                self.hold(*block);
            }
        }
    }

    /// A request lets go of its blocks, all computed.
    pub(crate) fn release(&mut self, blocks: &[u32]) {
        for block in blocks.iter().rev() {
            let slot = &mut self.slots[*block as usize];
            slot.holders -= 1;
            if slot.holders == 0 {
                self.held -= 1;
                self.link(*block);
            }
        }
        self.shrink();
    }

    /// Number of leading blocks that are there.
    pub(crate) fn peek(&self, prompt: &[u32]) -> usize {
        prompt
            .iter()
            .take_while(|block| self.slots[**block as usize].present)
            .count()
    }

    /// Share of the places that running requests hold.
    pub(crate) fn usage(&self) -> f64 {
        self.held as f64 / self.capacity.max(1) as f64
    }

    /// Blocks and places that are held.
    pub(crate) fn held(&self) -> usize {
        self.held
    }

    fn hold(&mut self, block: u32) {
        let slot = &mut self.slots[block as usize];
        slot.holders += 1;
        if slot.holders == 1 {
            self.held += 1;
            self.unlink(block);
        }
    }

    /// Evicts until what is there and what is reserved fits.
    fn shrink(&mut self) {
        while self.oldest != NONE && self.idle + self.held > self.capacity {
            let block = self.oldest;
            self.unlink(block);
            self.slots[block as usize].present = false;
        }
    }

    fn link(&mut self, block: u32) {
        self.idle += 1;
        let older = self.newest;
        let slot = &mut self.slots[block as usize];
        slot.newer = NONE;
        slot.older = older;
        match older {
            NONE => self.oldest = block,
            older => self.slots[older as usize].newer = block,
        }
        self.newest = block;
    }

    fn unlink(&mut self, block: u32) {
        self.idle -= 1;
        let Slot { newer, older, .. } = self.slots[block as usize];
        match newer {
            NONE => self.newest = older,
            newer => self.slots[newer as usize].older = older,
        }
        match older {
            NONE => self.oldest = newer,
            older => self.slots[older as usize].newer = newer,
        }
    }
}
