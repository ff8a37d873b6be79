//! How a stored index lies in the file: slots, places, and the blocks into which a long one is cut.

use zerocopy::little_endian::U64;

use crate::additions::fence::{self, FENCE};
use crate::additions::seal::{IndexForm, Seal};
use crate::bytes::copied;
use crate::error::ErrorKind;

/// The bytes of a slot.
pub(crate) const SLOT: usize = 12;

/// One place stands for this many records.
pub(crate) const STRIDE: usize = 16;

/// A longer index is cut into blocks: together with the seal and a fence, it would be too long for an extra
/// field.
const MOST_UNCUT: u64 = u16::MAX as u64 - Seal::SIZE as u64 - FENCE;

/// The bytes of a block. Together with the seal, the last block fits into an extra field.
const BLOCK: usize = (1 << 16) - Seal::SIZE;

/// The head of a block, in front of its slots: a fence and zeros.
const BLOCK_HEAD: usize = 64;

/// The bytes of slots or places in a block: a multiple of the sizes of both.
const BLOCK_CONTENT: usize = BLOCK - BLOCK_HEAD;

const _: () = assert!(BLOCK_CONTENT.is_multiple_of(SLOT) && BLOCK_CONTENT.is_multiple_of(size_of::<U64>()));

/// How an index lies in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) slots: usize,
    pub(crate) is_cut: bool,
}

impl Shape {
    /// The shape of a new index with this many slots.
    pub(crate) fn new(slots: u64) -> Self {
        let slots = usize::try_from(slots).unwrap_or(usize::MAX);
        let uncut = Shape { slots, is_cut: false };
        Shape { is_cut: uncut.size() > MOST_UNCUT, ..uncut }
    }

    /// The shape of an index of this many bytes, if an index can have so many.
    pub(crate) fn of(bytes: usize, is_cut: bool) -> Option<Self> {
        let heads = if is_cut { bytes.div_ceil(BLOCK) * BLOCK_HEAD } else { 0 };
        let content = bytes.saturating_sub(heads);
        // Sixteen slots and their place have 200 bytes. Where fewer than sixteen slots are left over, the
        // division loses less than two.
        let slots = content / 25 * 2 + content % 25 * 2 / 25;
        let shape = |slots| Shape { slots, is_cut };
        [slots, slots.saturating_sub(1)].map(shape).into_iter().find(|shape| shape.size() == bytes as u64)
    }

    /// Where the places start in the content.
    pub(crate) fn places(self) -> u64 {
        let slots = self.slots as u64 * SLOT as u64;
        if self.is_cut { slots.next_multiple_of(size_of::<U64>() as u64) } else { slots }
    }

    /// How many bytes the content has: the index without the heads of blocks.
    pub(crate) fn content(self) -> u64 {
        self.places() + self.slots.div_ceil(STRIDE) as u64 * size_of::<U64>() as u64
    }

    /// How many bytes the index has.
    pub(crate) fn size(self) -> u64 {
        let content = self.content();
        if self.is_cut {
            content + content.div_ceil(BLOCK_CONTENT as u64) * BLOCK_HEAD as u64
        } else {
            content
        }
    }

    /// Where a byte of the content is in the index.
    #[inline]
    pub(crate) fn at(self, content: usize) -> usize {
        if self.is_cut {
            content / BLOCK_CONTENT * BLOCK + BLOCK_HEAD + content % BLOCK_CONTENT
        } else {
            content
        }
    }

    /// The index with this content.
    pub(crate) fn cut(self, content: Vec<u8>) -> Option<Vec<u8>> {
        if !self.is_cut {
            return Some(content);
        }
        let size = usize::try_from(self.size()).ok()?;
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(size).ok()?;
        for part in content.chunks(BLOCK_CONTENT) {
            let start = bytes.len();
            let end = size.min(start + BLOCK);
            let behind = if end == size { Seal::SIZE } else { 0 };
            // At most 65,490.
            bytes.extend_from_slice(&fence::fence((end + behind - start) as u64 - FENCE));
            bytes.resize(start + BLOCK_HEAD, 0);
            bytes.extend_from_slice(part);
        }
        Some(bytes)
    }
}

/// Whether a new index of this many bytes is cut.
pub(crate) fn is_cut(bytes: u64) -> bool {
    bytes > MOST_UNCUT
}

/// How a new index of this many bytes lies in the file.
pub(crate) fn form(bytes: u64) -> IndexForm {
    if is_cut(bytes) { IndexForm::Blocks } else { IndexForm::OnePiece }
}

/// The bytes in place of an index of this many bytes, where no index could be made.
pub(crate) fn empty(bytes: u64) -> Vec<u8> {
    let size = usize::try_from(bytes).unwrap_or_default();
    let cut = Shape::of(size, is_cut(bytes)).and_then(|shape| shape.cut(vec![0; shape.content() as usize]));
    cut.unwrap_or_else(|| vec![0; size])
}

/// The content of an index: its bytes without the heads of blocks.
pub(crate) fn content_of(bytes: &[u8], shape: Shape) -> Result<Vec<u8>, ErrorKind> {
    if !shape.is_cut {
        return copied(bytes, 0);
    }
    let mut content = copied(&[], shape.content() as usize)?;
    bytes
        .chunks(BLOCK)
        .for_each(|block| content.extend_from_slice(block.get(BLOCK_HEAD..).unwrap_or_default()));
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_tells_by_its_size_how_many_slots_it_has() {
        let mut sizes = std::collections::HashSet::new();
        for slots in 1..40_000 {
            let shape = Shape::new(slots);
            let size = shape.size() as usize;
            assert_eq!(Shape::of(size, shape.is_cut), Some(shape));
            assert_eq!(is_cut(size as u64), shape.is_cut);
            assert_eq!(empty(size as u64).len(), size);
            sizes.insert(size);
        }
        let is_new = |shape: Shape| shape == Shape::new(shape.slots as u64);
        let is_one = |size| Shape::of(size, is_cut(size as u64)).is_some_and(is_new);
        assert!((1..400_000).all(|size| sizes.contains(&size) == is_one(size)));
        let uncut = Shape { slots: 20_000, is_cut: false };
        assert_eq!(Shape::of(uncut.size() as usize, false), Some(uncut));
    }
}
