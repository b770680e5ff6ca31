//! A small hash, equal on every machine and in every build: answers and vectors follow from it.

const ODD: u64 = 0x9e37_79b9_7f4a_7c15;

/// Hashes `bytes`, going on from `seed`.
pub(super) fn fold(seed: u64, bytes: &[u8]) -> u64 {
    let mut hash = seed ^ (bytes.len() as u64).wrapping_mul(ODD);
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        hash = mix(hash ^ u64::from_le_bytes(*word));
    }
    let mut last = [0; 8];
    for (to, from) in last.iter_mut().zip(rest) {
        *to = *from;
    }
    mix(hash ^ u64::from_le_bytes(last))
}

/// Spreads the bits of `value`, so that neighbours become unrelated.
pub(super) fn mix(value: u64) -> u64 {
    let mut value = value.wrapping_add(ODD);
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// The share of 1 that `hash` stands for, from 0 up to but not including 1.
pub(super) fn share(hash: u64) -> f64 {
    // 53 bits are what the mantissa of a double holds.
    (hash >> 11) as f64 / (1u64 << 53) as f64
}
