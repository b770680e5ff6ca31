//! 64 bytes at a time: where quotes, backslashes and brackets stand, as bits.
//!
//! In dense text (code, many short messages, tool schemas) this costs a fixed few operations per
//! block, where a search from one quote to the next would pay for every one of them.

use wide::u8x16;

/// 64 bytes, ready to be asked where the bytes stand that matter: one bit each, the first byte
/// lowest. Inside a long string nobody asks for brackets, and then they cost nothing.
pub(crate) struct Block(Lanes);

impl Block {
    pub(crate) const LEN: usize = 64;

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

    /// The 64 bytes of `block`.
    #[inline]
    pub(crate) fn of(block: &[u8; Self::LEN]) -> Self {
        Self(Lanes::of(block))
    }

    /// The byte that `bit` stands for.
    #[inline]
    pub(crate) fn byte(&self, bit: u32) -> u8 {
        let bit = bit as usize % Self::LEN;
        self.0.0[bit / 16].to_array()[bit % 16]
    }

    #[inline]
    pub(crate) fn quotes(&self) -> u64 {
        self.0.equal(b'"')
    }

    #[inline]
    pub(crate) fn backslashes(&self) -> u64 {
        self.0.equal(b'\\')
    }

    /// Brackets, braces, and a few bytes that have no place outside of strings: `|0x26` makes 0x7f
    /// of all four brackets, and of `Y`, `_` and `y`.
    #[inline]
    pub(crate) fn brackets(&self) -> u64 {
        self.0.equal_with(0x26, 0x7f)
    }
}

/// The bytes as vectors.
struct Lanes([u8x16; 4]);

impl Lanes {
    #[inline]
    fn of(block: &[u8; Block::LEN]) -> Self {
        let (lanes, _) = block.as_chunks::<16>();
        Self(std::array::from_fn(|at| u8x16::new(lanes[at])))
    }

    #[inline]
    fn equal(&self, byte: u8) -> u64 {
        let wanted = u8x16::splat(byte);
        let mask = |at: usize| u64::from(self.0[at].simd_eq(wanted).to_bitmask());
        mask(0) | mask(1) << 16 | mask(2) << 32 | mask(3) << 48
    }

    #[inline]
    fn equal_with(&self, bits: u8, byte: u8) -> u64 {
        let bits = u8x16::splat(bits);
        Self(self.0.map(|lane| lane | bits)).equal(byte)
    }
}

/// Which bytes are escaped, block after block.
#[derive(Debug, Default)]
pub(crate) struct Escapes {
    /// 1 if the next block begins with an escaped byte.
    carry: u64,
}

impl Escapes {
    /// Whether the next byte is escaped; it no longer is for whoever asks next.
    #[inline]
    pub(crate) fn take_carry(&mut self) -> bool {
        std::mem::take(&mut self.carry) == 1
    }

    /// The bytes that follow a backslash which is not itself escaped.
    #[inline]
    pub(crate) fn escaped(&mut self, backslashes: u64) -> u64 {
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

/// Each bit the xor of itself and all lower ones: between pairs of bits, ones.
#[inline]
pub(crate) const fn prefix_xor(mut bits: u64) -> u64 {
    bits ^= bits << 1;
    bits ^= bits << 2;
    bits ^= bits << 4;
    bits ^= bits << 8;
    bits ^= bits << 16;
    bits ^ bits << 32
}

/// All bits below the lowest one of `bits`; all there are where it has none.
#[inline]
pub(crate) const fn below_lowest(bits: u64) -> u64 {
    !bits & bits.wrapping_sub(1)
}
