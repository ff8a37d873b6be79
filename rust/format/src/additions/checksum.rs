//! The checksum of marks and slots, and the hash of names: a mixer that is cheaper than a second CRC-32.

/// An odd number without a pattern (2 to the 64th, divided by the golden ratio): multiplying by it spreads
/// each bit of a word over those above.
pub(crate) const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

pub(crate) fn step(state: u64, word: u64) -> u64 {
    let state = (state ^ word).wrapping_mul(MULTIPLIER);
    state ^ (state >> 32)
}

/// Goes on with bytes in words of eight, the last one filled with zeros; a word of zeros if none is left
/// over.
#[inline]
pub(crate) fn through(state: u64, bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let state = words.iter().fold(state, |state, word| step(state, u64::from_le_bytes(*word)));
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    step(state, u64::from_le_bytes(last))
}

/// The same checksum, before it is cut, of byte strings and their lengths.
#[inline]
pub(crate) fn state_of(parts: &[&[u8]]) -> u64 {
    parts.iter().fold(0, |state, part| through(step(state, part.len() as u64), part))
}

pub(crate) fn checksum_of(parts: &[&[u8]]) -> u32 {
    (state_of(parts) >> 32) as u32
}
