//! The checksum of marks and slots, and the hash of names: a mixer, which is cheaper than a second CRC-32.

/// An odd number without a pattern (2**64 divided by the golden ratio). Multiplication by it spreads each bit
/// of a word over all higher bits.
pub(crate) const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

pub(crate) fn step(state: u64, word: u64) -> u64 {
    let state = (state ^ word).wrapping_mul(MULTIPLIER);
    state ^ (state >> 32)
}

/// Mixes bytes into the state, as words of eight. The last word is filled with zeros; if no byte is left
/// over, it is a word of zeros.
#[inline]
pub(crate) fn through(state: u64, bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let state = words.iter().fold(state, |state, word| step(state, u64::from_le_bytes(*word)));
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    step(state, u64::from_le_bytes(last))
}

/// The state after byte strings and their lengths, from which a checksum is cut.
#[inline]
pub(crate) fn state_of(parts: &[&[u8]]) -> u64 {
    parts.iter().fold(0, |state, part| through(step(state, part.len() as u64), part))
}

pub(crate) fn checksum_of(parts: &[&[u8]]) -> u32 {
    (state_of(parts) >> 32) as u32
}
