//! Checkpoints: how much of a member that grows was in the file, and its checksum.
//!
//! A stream is a member whose length is not known when it is begun. Until it is finished, the last bytes of
//! its local header, which are padding afterwards, have room for four checkpoints. Two are written in turn
//! while it grows, so that a write that is torn leaves the other; two more in turn when it is flushed to the
//! disk, as a power failure can keep what the first two say from the disk.

use crate::additions::mark::{MemberRange, checksum};

/// How many bytes a checkpoint has.
pub const SIZE: usize = 16;

/// How many bytes all of them have, and what is in front of them: how many bytes a row has, and how many the
/// copy of the `.npy` header.
const FIXED: u64 = 16 + 4 * SIZE as u64;

/// Of a longer `.npy` header, there is no copy.
const LONGEST_COPY: u64 = 1 << 14;

/// How many bytes there are in front of an `.npy` file with a header of this length: a copy of the header,
/// which stays when the header gets its number of rows, and the checkpoints.
pub fn room(npy_header: u64) -> u64 {
    FIXED + if npy_header <= LONGEST_COPY { npy_header } else { 0 }
}

/// The kind of the first one under its checksum. Marks have other kinds.
const KIND: u64 = 0x10;

/// How much of a member is in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checkpoint {
    /// How many bytes there are behind the `.npy` header.
    pub bytes: u64,
    /// Their CRC-32.
    pub crc: u32,
}

/// The member that a checkpoint is of.
#[derive(Debug, Clone, Copy)]
pub struct Grown<'a> {
    /// Where its local header is.
    pub header: u64,
    /// Its name, as stored.
    pub name: &'a [u8],
    /// How many bytes a row has.
    pub row: u64,
    /// The CRC-32 of its `.npy` header for no rows.
    pub npy: u32,
}

/// A checkpoint's place among the four.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot(u64);

impl Slot {
    /// The place of the `number`-th checkpoint of those that are written while the member grows, or of those
    /// that are written when it is `flushed`.
    pub fn new(number: u64, flushed: bool) -> Self {
        Slot(number % 2 + if flushed { 2 } else { 0 })
    }

    /// Where it is in a file whose `.npy` file starts at byte `file`.
    pub fn at(self, file: u64) -> u64 {
        file - 4 * SIZE as u64 + self.0 * SIZE as u64
    }
}

/// The bytes in front of the `.npy` file of a member without a checkpoint, with this `.npy` header.
pub fn none(row: u64, npy: &[u8]) -> Vec<u8> {
    let mut out = vec![0; room(npy.len() as u64) as usize];
    let copy = out.len() - FIXED as usize;
    out[..copy].copy_from_slice(&npy[..copy]);
    out[copy..copy + 8].copy_from_slice(&row.to_le_bytes());
    out[copy + 8..copy + 16].copy_from_slice(&(copy as u64).to_le_bytes());
    out
}

impl Checkpoint {
    /// The bytes for a slot.
    pub fn bytes_for(&self, slot: Slot, member: Grown<'_>) -> [u8; SIZE] {
        let mut out = [0; SIZE];
        out[..8].copy_from_slice(&self.bytes.to_le_bytes());
        out[8..12].copy_from_slice(&self.crc.to_le_bytes());
        out[12..].copy_from_slice(&self.check(slot, member).to_le_bytes());
        out
    }

    fn check(&self, slot: Slot, Grown { header, name, row, npy }: Grown<'_>) -> u32 {
        let kind = u64::from(npy) << 32 | (KIND + slot.0);
        checksum(kind, MemberRange { header, file: row, end: self.bytes }, self.crc, name)
    }
}

/// What the extra fields of a member's local header end with.
#[derive(Debug)]
pub struct Found<'a> {
    /// The copy of its `.npy` header, empty if there is none.
    pub npy: &'a [u8],
    /// How many bytes a row has.
    pub row: u64,
    slots: &'a [u8],
}

impl<'a> Found<'a> {
    /// Looks at the end of the extra fields of a member.
    pub fn at_end_of(extra: &'a [u8]) -> Option<Self> {
        let (before, fixed) = extra.split_at_checked(extra.len().checked_sub(FIXED as usize)?)?;
        let (row, rest) = fixed.split_first_chunk::<8>()?;
        let (copy, slots) = rest.split_first_chunk::<8>()?;
        let copy = usize::try_from(u64::from_le_bytes(*copy)).ok()?;
        let npy = before.get(before.len().checked_sub(copy)?..)?;
        Some(Found { npy, row: u64::from_le_bytes(*row), slots })
    }

    /// The checkpoints of this member, those that say most first.
    pub fn checkpoints(&self, member: Grown<'_>) -> Vec<Checkpoint> {
        let slots = self.slots.chunks_exact(SIZE).zip(0..4).map(|(bytes, number)| (bytes, Slot(number)));
        let read = |(bytes, slot): (&[u8], Slot)| {
            let checkpoint = Checkpoint {
                bytes: u64::from_le_bytes(*bytes.first_chunk()?),
                crc: u32::from_le_bytes(*bytes[8..].first_chunk()?),
            };
            let check = checkpoint.check(slot, member).to_le_bytes();
            (bytes[12..] == check).then_some(checkpoint)
        };
        let mut found: Vec<_> = slots.filter_map(read).collect();
        found.sort_unstable_by_key(|checkpoint| std::cmp::Reverse(checkpoint.bytes));
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_holds_only_where_and_as_it_was_written() {
        let mut all = none(24, b"header");
        let member = Grown { header: 7, name: b"a", row: 24, npy: 5 };
        let found = Found::at_end_of(&all).unwrap();
        assert_eq!((found.npy, found.row), (&b"header"[..], 24));
        assert_eq!(found.checkpoints(member), []);
        for (bytes, number) in [(5, 0), (900, 1), (3, 2), (0, 3)] {
            let slot = Slot::new(number, number > 1);
            let at = slot.at(all.len() as u64) as usize;
            let checkpoint = Checkpoint { bytes, crc: 9 };
            all[at..at + SIZE].copy_from_slice(&checkpoint.bytes_for(slot, member));
        }
        let found = |all: &[u8], member| -> Vec<_> {
            let found = Found::at_end_of(all).unwrap();
            found.checkpoints(member).iter().map(|checkpoint| checkpoint.bytes).collect()
        };
        assert_eq!(found(&all, member), [900, 5, 3, 0]);
        assert_eq!(found(&all, Grown { header: 8, ..member }), []);
        assert_eq!(found(&all, Grown { name: b"b", ..member }), []);
        assert_eq!(found(&all, Grown { npy: 6, ..member }), []);
        assert_eq!(found(&all, Grown { row: 25, ..member }), []);
        let slots = all.len() - 4 * SIZE;
        for changed in slots..all.len() {
            let mut all = all.clone();
            all[changed] ^= 1;
            assert_eq!(found(&all, member).len(), 3, "byte {changed}");
        }
        all[slots..].rotate_left(SIZE);
        assert_eq!(found(&all, member), []);
    }

    #[test]
    fn of_a_long_header_there_is_no_copy() {
        let all = none(1, &vec![1; 20_000]);
        assert_eq!((all.len() as u64, Found::at_end_of(&all).unwrap().npy.len()), (room(20_000), 0));
        assert!(Found::at_end_of(&all[1..]).is_none());
        let mut all = none(1, b"header");
        all[14] = 100;
        assert!(Found::at_end_of(&all).is_none());
    }
}
