//! Text that follows from a seed, and how engines count it.

/// Tokens of a block, the unit of engines' caches.
pub(crate) const BLOCK_TOKENS: u32 = 16;
/// Bytes of text that make a block of tokens: 4.3 to a token. Deliberately no multiple of 64, so
/// that nothing in the gateway is aligned with what engines cache.
pub(crate) const BLOCK_BYTES: usize = 69;

const LETTERS: &[u8; 16] = b" etaoinshrdlucmf";

/// A stream of pseudo-random numbers that is the same everywhere.
pub(crate) const fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Appends text of about `tokens` tokens: letters and spaces, nothing that JSON escapes.
pub(crate) fn write(seed: u64, tokens: u32, out: &mut Vec<u8>) {
    let bytes = tokens as usize * BLOCK_BYTES / BLOCK_TOKENS as usize;
    let end = out.len() + bytes;
    let mut state = mix(seed);
    while out.len() < end {
        state = mix(state);
        let letters = std::array::from_fn::<u8, 16, _>(|at| {
            LETTERS[usize::try_from(state >> (4 * at) & 15).unwrap_or(0)]
        });
        out.extend_from_slice(&letters);
    }
    out.truncate(end);
}

/// Tokens of a text of `bytes` bytes.
pub(crate) fn tokens(bytes: usize) -> u32 {
    u32::try_from((bytes * BLOCK_TOKENS as usize).div_ceil(BLOCK_BYTES)).unwrap_or(u32::MAX)
}
