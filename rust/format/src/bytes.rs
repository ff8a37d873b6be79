//! Ranges of bytes.

use std::ops::Range;

use crate::error::ErrorKind;

/// The bytes of a range, if they are all there.
#[inline]
pub(crate) fn slice<'a>(bytes: &'a [u8], range: &Range<u64>) -> Option<&'a [u8]> {
    bytes.get(usize::try_from(range.start).ok()?..usize::try_from(range.end).ok()?)
}

/// A copy of bytes, with room for `room` more. An archive can claim more bytes than there is memory for.
pub(crate) fn copied(bytes: &[u8], room: usize) -> Result<Vec<u8>, ErrorKind> {
    let mut copy = Vec::new();
    let size = bytes.len().saturating_add(room);
    copy.try_reserve_exact(size).map_err(|_| ErrorKind::NoMemory { size })?;
    copy.extend_from_slice(bytes);
    Ok(copy)
}

/// Reads bytes and discards them, so that the processor fetches their cache lines side by side. A caller that
/// then uses one line after the other does not wait for each.
#[inline]
pub(crate) fn touch(bytes: impl Iterator<Item = u8>) {
    std::hint::black_box(bytes.fold(0, |all, byte| all ^ byte));
}
