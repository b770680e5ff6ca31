//! 64 bytes at a time: where quotes, backslashes and brackets stand, as bits.
//!
//! In dense text (code, many short messages, tool schemas) this costs a fixed few operations per
//! block, where a search from one quote to the next would pay for every one of them.

/// Where in 64 bytes the bytes stand that matter, one bit each, the first byte lowest.
pub(super) struct Block {
    pub(super) quotes: u64,
    pub(super) backslashes: u64,
    /// Brackets, braces, and a few bytes that have no place outside of strings.
    pub(super) brackets: u64,
}

impl Block {
    pub(super) const LEN: usize = 64;

    /// The block at `at`, filled up with spaces at the end of `bytes`; `None` behind the end.
    #[inline]
    pub(super) fn load(bytes: &[u8], at: usize) -> Option<Self> {
        let rest = bytes.get(at..)?;
        if let Some(block) = rest.first_chunk() {
            return Some(Self::of(block));
        }
        if rest.is_empty() {
            return None;
        }
        let mut padded = [b' '; Self::LEN];
        padded[..rest.len()].copy_from_slice(rest);
        Some(Self::of(&padded))
    }

    #[inline]
    fn of(block: &[u8; Self::LEN]) -> Self {
        // First in a form that becomes vector code: one class bit per kind in each byte. `|0x26`
        // makes 0x7f of all four brackets, and of `Y`, `_` and `y`.
        let classes = block.map(|byte| {
            u8::from(byte == b'"')
                | u8::from(byte == b'\\') << 1
                | u8::from(byte | 0x26 == 0x7f) << 2
        });
        let (mut quotes, mut backslashes, mut brackets) = (0, 0, 0);
        let (words, _) = classes.as_chunks();
        for (at, word) in words.iter().enumerate() {
            let word = u64::from_le_bytes(*word);
            quotes |= gather(word) << (8 * at);
            backslashes |= gather(word >> 1) << (8 * at);
            brackets |= gather(word >> 2) << (8 * at);
        }
        Self {
            quotes,
            backslashes,
            brackets,
        }
    }
}

/// Which bytes are escaped, block after block.
#[derive(Default)]
pub(super) struct Escapes {
    /// 1 if the next block begins with an escaped byte.
    carry: u64,
}

impl Escapes {
    /// The bytes that follow a backslash which is not itself escaped.
    #[inline]
    pub(super) fn escaped(&mut self, backslashes: u64) -> u64 {
        if backslashes == 0 {
            return std::mem::take(&mut self.carry);
        }
        // In a run of backslashes every second one escapes its follower. A subtraction carries the
        // start of each run through it, by odd and even places; the xor leaves escapes and escaped.
        const ODD: u64 = 0xAAAA_AAAA_AAAA_AAAA;
        let starts = backslashes & !self.carry;
        let series = ((starts << 1) | ODD).wrapping_sub(starts) ^ ODD;
        let escaped = series ^ (backslashes | self.carry);
        self.carry = (series & backslashes) >> 63;
        escaped
    }
}

/// The lowest bit of each byte of `word`, gathered into eight bits.
#[inline]
const fn gather(word: u64) -> u64 {
    (word & 0x0101_0101_0101_0101).wrapping_mul(0x0102_0408_1020_4080) >> 56
}

/// Each bit the xor of itself and all lower ones: between pairs of bits, ones.
#[inline]
pub(super) const fn prefix_xor(mut bits: u64) -> u64 {
    bits ^= bits << 1;
    bits ^= bits << 2;
    bits ^= bits << 4;
    bits ^= bits << 8;
    bits ^= bits << 16;
    bits ^ bits << 32
}

/// All bits below the lowest one of `bits`; all there are where it has none.
#[inline]
pub(super) const fn below_lowest(bits: u64) -> u64 {
    !bits & bits.wrapping_sub(1)
}
